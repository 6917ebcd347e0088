//! What users did: the rows that are most numerous, and those that are left over when a user, lesson or course goes.

use super::courses::SUBJECTS;
use std::collections::HashSet;

use super::people::Standing;
use super::{Along, Platform, Reference, References, Space, flag, rule};
use crate::generate::random::{GONE, Quota};
use crate::generate::rows::{Closed, RowWriter, Rows};
use crate::truth::RuleTruth;

pub(in crate::generate) const PROGRESS_STATES: [&str; 4] = ["NOT_STARTED", "IN_PROGRESS", "COMPLETED", "COMPLETED"];
const BOARDS: [&str; 4] = ["weekly", "monthly", "all_time", "course"];

impl Platform {
    /// Also tells how many rows of users that exist were earned for an achievement that goes, and how many go along with their users.
    pub(super) fn user_achievements<W: RowWriter>(
        &self,
        rows: &mut Rows<W>,
        orphaned: &[bool],
    ) -> Result<(RuleTruth, u64, Along), Closed> {
        rows.table("user_achievements")?;
        let mut random = self.random(Space::UserAchievements);
        let size = self.sizes.user_achievements;
        let mut users = References::new(size, 150, 10);
        let mut achievements = Quota::per_mille(10, size);
        let (mut without_user, mut taken_along, mut along) = (0, 0, Along::default());
        for index in 0..size {
            let user = users.draw(&mut random);
            let achievement = random.below(self.sizes.achievements);
            let named = !achievements.draw(&mut random);
            let of_orphaned = named && flag(orphaned, achievement);
            if user == Reference::Gone {
                without_user += 1;
            } else if of_orphaned {
                taken_along += 1;
            }
            let user = self.named(user, self.sizes.users, &mut random);
            if Self::leaves(user) {
                along.add(!(self.declared_keys && of_orphaned));
            }
            let row = rows.row();
            row.key(self.key(Space::UserAchievements, index));
            row.key_or_null(user.map(|user| self.key(Space::Users, user)));
            row.key_or_null(named.then(|| self.key(Space::Achievements, achievement)));
            row.text(&format!("Master of {}", random.pick(&SUBJECTS)));
            let earned = (!random.chance(20)).then(|| self.ago(&mut random, 1, 700));
            row.time_or_null(earned);
            rows.end_row()?;
        }
        Ok((
            rule("user_achievements_without_user", "user_achievements", without_user),
            taken_along,
            along,
        ))
    }

    /// A fifth of the rows goes. The three references come out independently of each other, and some rows have lost two or
    /// three of them on purpose: each such row belongs to the first rule that finds it.
    pub(super) fn user_progress<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<([RuleTruth; 3], Along), Closed> {
        rows.table("user_progress")?;
        let mut random = self.random(Space::Progress);
        let size = self.sizes.user_progress;
        let mut users = References::new(size, 70, 10);
        let mut lessons = References::new(size, 70, 15);
        let mut courses = References::new(size, 50, 20);
        let mut without_user_and_lesson = Quota::per_mille(10, size);
        let mut without_lesson_and_course = Quota::per_mille(10, size);
        let mut without_any = Quota::per_mille(5, size);
        let (mut found, mut along) = ([0; 3], Along::default());
        for index in 0..size {
            let mut references = [users.draw(&mut random), lessons.draw(&mut random), courses.draw(&mut random)];
            if without_user_and_lesson.draw(&mut random) {
                references[..2].fill(Reference::Gone);
            }
            if without_lesson_and_course.draw(&mut random) {
                references[1..].fill(Reference::Gone);
            }
            if without_any.draw(&mut random) {
                references.fill(Reference::Gone);
            }
            if let Some(first) = references.iter().position(|reference| *reference == Reference::Gone) {
                found[first] += 1;
            }
            let [user, lesson, course] = references;
            let lesson_index = random.below(self.sizes.lessons);
            let user = self.named(user, self.sizes.users, &mut random);
            if Self::leaves(user) {
                along.add(!references.contains(&Reference::Gone));
            }
            let row = rows.row();
            row.key(self.key(Space::Progress, index));
            row.key_or_null(user.map(|user| self.key(Space::Users, user)));
            match lesson {
                Reference::Kept => row.key(self.key(Space::Lessons, lesson_index)),
                _ => row.key_or_null(self.reference(Space::Lessons, lesson, self.sizes.lessons, &mut random)),
            }
            match course {
                Reference::Kept => row.key(self.key(Space::Courses, self.course_of(lesson_index))),
                _ => row.key_or_null(self.reference(Space::Courses, course, self.sizes.courses, &mut random)),
            }
            row.text(random.pick(&PROGRESS_STATES));
            if random.chance(250) {
                row.null();
            } else {
                row.integer(random.between(0, 101));
            }
            let updated = (!random.chance(10)).then(|| self.ago(&mut random, 1, 700));
            row.time_or_null(updated);
            rows.end_row()?;
        }
        let [user, lesson, course] = found;
        let rules = [
            rule("progress_without_user", "user_progress", user),
            rule("progress_without_lesson", "user_progress", lesson),
            rule("progress_without_course", "user_progress", course),
        ];
        Ok((rules, along))
    }

    /// With users that are gone or hold no place, and with several entries of one user in one category: by chance, and a tenth on
    /// purpose, of which some have the same time as the entry before, or none. Of each user that holds a place and each category one
    /// entry stays.
    pub(super) fn leaderboard_entries<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<([RuleTruth; 2], Along), Closed> {
        rows.table("leaderboard_entries")?;
        let mut random = self.random(Space::Leaderboard);
        let size = self.sizes.leaderboard;
        let mut users = References::new(size, 50, 10);
        let mut repeats = Quota::per_mille(100, size);
        let (mut placeless, mut ranked, mut along) = (0, 0, Along::default());
        let mut places = HashSet::new();
        let (mut user, mut board, mut updated) = (Some(0), BOARDS[0], None);
        for index in 0..size {
            let drawn = users.draw(&mut random);
            let repeated = repeats.draw(&mut random);
            if !repeated {
                user = self.named(drawn, self.sizes.users, &mut random);
                board = random.pick(&BOARDS);
            }
            if !(repeated && random.chance(300)) {
                updated = (!random.chance(30)).then(|| self.ago(&mut random, 1, 300));
            }
            if let Some(user) = user {
                if user >= GONE || !Standing::of(user).ranks() {
                    placeless += 1;
                } else {
                    ranked += 1;
                    places.insert((user, board));
                }
            }
            if Self::leaves(user) {
                along.add(false);
            }
            let row = rows.row();
            row.key(self.key(Space::Leaderboard, index));
            row.key_or_null(user.map(|user| self.key(Space::Users, user)));
            row.text(board);
            // Tenths do not have an exact binary form: a lossy copy of the row would show.
            let tenths = u32::try_from(random.below(100_000)).expect("below 100,000");
            row.real(f64::from(tenths) / 10.0);
            row.time_or_null(updated);
            rows.end_row()?;
        }
        let kept = u64::try_from(places.len()).expect("a length fits into 64 bits");
        let rules = [
            rule("entries_without_user", "leaderboard_entries", placeless),
            rule("duplicate_entries", "leaderboard_entries", ranked - kept),
        ];
        Ok((rules, along))
    }
}
