//! What there is to learn, and what there is to earn by it.

use super::uploads::Upload;
use super::{Platform, Reference, References, Space, count, rule};
use crate::generate::random::hashed_below;
use crate::generate::rows::{Closed, RowWriter, Rows};
use crate::truth::RuleTruth;

pub(super) const SUBJECTS: [&str; 10] = [
    "Storage layout",
    "Reentrancy",
    "Gas & fees",
    "Proxies and upgrades",
    "Events",
    "It's a mapping",
    "Modifiers; guards",
    "Signatures \\ EIP-712",
    "Fuzzing 100% of paths",
    "多签钱包",
];

impl Platform {
    pub(super) fn courses<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("courses")?;
        let mut random = self.random(Space::Courses);
        for index in 0..self.sizes.courses {
            let row = rows.row();
            row.key(self.key(Space::Courses, index));
            row.text(&format!("{}, part {index}", random.pick(&SUBJECTS)));
            let thumbnail = self.upload(Upload::Thumbnail, index);
            row.text_or_null(thumbnail.as_deref());
            row.time(self.ago(&mut random, 300, 1_500));
            rows.end_row()?;
        }
        Ok(())
    }

    pub(super) fn lessons<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("lessons")?;
        let mut random = self.random(Space::Lessons);
        for index in 0..self.sizes.lessons {
            let subject = random.pick(&SUBJECTS);
            let row = rows.row();
            row.key(self.key(Space::Lessons, index));
            row.key(self.key(Space::Courses, self.course_of(index)));
            row.text(&format!("{subject} ({index})"));
            row.text(&format!(
                "# {subject}\n\n```solidity\ncontract Lesson{index} {{\n\tuint256 public value = {};\n}}\n```\n",
                random.below(1_000_000)
            ));
            let attachment = self.upload(Upload::Attachment, index);
            row.text_or_null(attachment.as_deref());
            row.time(self.ago(&mut random, 100, 1_400));
            rows.end_row()?;
        }
        Ok(())
    }

    /// Also tells, for each achievement, whether it goes.
    pub(super) fn achievements<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(RuleTruth, Vec<bool>), Closed> {
        rows.table("achievements")?;
        let mut random = self.random(Space::Achievements);
        let size = self.sizes.achievements;
        // Half of the achievements are not of a course.
        let mut courses = References::new(size, 120, 500);
        let mut orphaned = Vec::new();
        for index in 0..size {
            let course = courses.draw(&mut random);
            orphaned.push(course == Reference::Gone);
            let row = rows.row();
            row.key(self.key(Space::Achievements, index));
            row.text(&format!("Master of {}", random.pick(&SUBJECTS)));
            row.key_or_null(self.reference(Space::Courses, course, self.sizes.courses, &mut random));
            rows.end_row()?;
        }
        Ok((
            rule("achievements_without_course", "achievements", count(&orphaned)),
            orphaned,
        ))
    }

    pub(super) fn course_of(&self, lesson: u64) -> u64 {
        hashed_below(!self.seed, lesson, self.sizes.courses)
    }
}
