//! Users, what lets them in, what is kept about them, and what is left of some.

use super::{Platform, Space, count, email, rule};
use crate::generate::random::{GONE, Random, hashed_below};
use crate::generate::rows::{Closed, RowWriter, Rows};
use crate::generate::times::{DAY, Expiries};
use crate::truth::RuleTruth;

const NAMES: [&str; 12] = [
    "Ada Lovelace",
    "Alan Turing",
    "Barbara Liskov",
    "Edsger Dijkstra",
    "Grace Hopper",
    "Miriam O'Reilly",
    "José Muñoz",
    "Søren Åkesson",
    "Wei Zhang 张伟",
    "Ольга Иванова",
    "\"Quote\" Backslash\\Smith",
    "Tab\tand\nNewline",
];
const ROLES: [&str; 10] = [
    "STUDENT",
    "STUDENT",
    "STUDENT",
    "STUDENT",
    "STUDENT",
    "STUDENT",
    "STUDENT",
    "INSTRUCTOR",
    "INSTRUCTOR",
    "ADMIN",
];

impl Platform {
    pub(super) fn users<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("users")?;
        let mut random = self.random(Space::Users);
        for index in 0..self.sizes.users {
            let status = self.status(index);
            let row = rows.row();
            row.key(self.key(Space::Users, index));
            row.text(&email(index));
            self.person(row, status, &mut random);
            rows.end_row()?;
        }
        Ok(())
    }

    /// refresh_tokens and user_sessions, which have the same columns. Also tells, for each row, whether it goes.
    pub(super) fn tokens<W: RowWriter>(
        &self,
        rows: &mut Rows<W>,
        table: &'static str,
        space: Space,
        size: u64,
    ) -> Result<(RuleTruth, Vec<bool>), Closed> {
        rows.table(table)?;
        let mut random = self.random(space);
        let mut expiries = Expiries::new(size, self.now_micros);
        let mut ended = Vec::new();
        for index in 0..size {
            let row = rows.row();
            row.key(self.key(space, index));
            let user = (!random.chance(10)).then(|| self.key(Space::Users, random.below(self.sizes.users)));
            row.key_or_null(user);
            let (expires, is_past) = expiries.next(&mut random);
            row.time_or_null(expires);
            ended.push(is_past);
            rows.end_row()?;
        }
        Ok((rule(table, table, count(&ended)), ended))
    }

    pub(super) fn password_reset_tokens<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<RuleTruth, Closed> {
        rows.table("password_reset_tokens")?;
        let mut random = self.random(Space::ResetTokens);
        let mut expiries = Expiries::new(self.sizes.reset_tokens, self.now_micros);
        let mut expired = 0;
        for index in 0..self.sizes.reset_tokens {
            let row = rows.row();
            row.key(self.key(Space::ResetTokens, index));
            row.text(&email(random.below(self.sizes.users)));
            let (expires, is_past) = expiries.next(&mut random);
            row.time_or_null(expires);
            expired += u64::from(is_past);
            rows.end_row()?;
        }
        Ok(rule("password_reset_tokens", "password_reset_tokens", expired))
    }

    /// Half of the keys name a user, and one in ten of those a user that is gone.
    pub(super) fn cache_entries<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("cache_entries")?;
        let mut random = self.random(Space::Cache);
        let mut expiries = Expiries::new(self.sizes.cache, self.now_micros);
        for index in 0..self.sizes.cache {
            let row = rows.row();
            match index % 20 {
                0 => row.text(&format!("user:{}", self.key(Space::Users, GONE + index))),
                even if even % 2 == 0 => row.text(&format!("user:{}", self.key(Space::Users, index % self.sizes.users))),
                _ => row.text(&format!("page:/courses?offset={index}")),
            }
            row.text(&format!(
                r#"{{"version":{},"hits":{}}}"#,
                random.below(9),
                random.below(10_000)
            ));
            let (expires, _) = expiries.next(&mut random);
            row.time_or_null(expires);
            rows.end_row()?;
        }
        Ok(())
    }

    /// Users that are gone, but not without trace.
    pub(super) fn archived_users<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("archived_users")?;
        let mut random = self.random(Space::Archived);
        for index in 0..self.sizes.archived {
            let row = rows.row();
            row.key(self.key(Space::Users, GONE + index));
            row.text(&email(GONE + index));
            self.person(row, "SUSPENDED", &mut random);
            row.time(self.ago(&mut random, 1, 100));
            rows.end_row()?;
        }
        Ok(())
    }

    /// The columns of a user after id and email.
    fn person<W: RowWriter>(&self, row: &mut W, status: &str, random: &mut Random) {
        let created = self.ago(random, 200, 1_500);
        row.text(random.pick(&NAMES));
        row.text(random.pick(&ROLES));
        row.text(status);
        if random.chance(300) {
            row.text(&format!("uploads/avatars/{:06}.png", random.below(1_000_000)));
        } else {
            row.null();
        }
        row.time(created);
        row.time(random.between(created, self.now_micros - DAY));
        // One in ten never came back after registering; of the others some have been away for long.
        let last_login = if random.chance(100) {
            None
        } else if random.chance(150) {
            Some(self.ago(random, 400, 900))
        } else {
            Some(self.ago(random, 1, 300))
        };
        row.time_or_null(last_login);
        // A suspension without its date exists, too: nobody may delete such a user.
        let suspended = (status == "SUSPENDED" && !random.chance(50)).then(|| self.ago(random, 10, 700));
        row.time_or_null(suspended);
    }

    fn status(&self, user: u64) -> &'static str {
        match hashed_below(self.seed, user, 100) {
            0..80 => "ACTIVE",
            80..88 => "INACTIVE",
            88..96 => "SUSPENDED",
            _ => "DELETED",
        }
    }
}
