//! Users, what lets them in, what is kept about them, and what is left of some.

use super::uploads::Upload;
use super::{Along, Platform, Space, count, email, rule};
use crate::generate::random::{GONE, Random};
use crate::generate::rows::{Closed, RowWriter, Rows};
use crate::generate::times::{DAY, Expiries, MARGIN};
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

/// What the platform thinks of a user.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Active,
    Inactive,
    /// For longer than such users are kept.
    SuspendedLongAgo,
    SuspendedLately,
    /// Without its date: nobody may delete such a user.
    SuspendedUndated,
    Deleted,
}

impl Standing {
    /// Of a user by number. Each is among any forty users in a row, so that the smallest platform has all of them.
    pub(super) fn of(user: u64) -> Self {
        match user % 40 {
            3 | 13 => Self::SuspendedLongAgo,
            23 => Self::SuspendedLately,
            33 => Self::SuspendedUndated,
            7 | 27 => Self::Deleted,
            9 | 19 | 29 => Self::Inactive,
            _ => Self::Active,
        }
    }

    fn status(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::SuspendedLongAgo | Self::SuspendedLately | Self::SuspendedUndated => "SUSPENDED",
            Self::Deleted => "DELETED",
        }
    }

    /// Whether the user holds a place on the leaderboards.
    pub(super) fn ranks(self) -> bool {
        matches!(self, Self::Active | Self::Inactive)
    }
}

impl Platform {
    pub(super) fn users<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<[RuleTruth; 2], Closed> {
        rows.table("users")?;
        let mut random = self.random(Space::Users);
        let (mut suspended, mut absent) = (0, 0);
        for index in 0..self.sizes.users {
            let standing = Standing::of(index);
            suspended += u64::from(standing == Standing::SuspendedLongAgo);
            let row = rows.row();
            row.key(self.key(Space::Users, index));
            row.text(&email(index));
            let away = self.person(row, index, standing, &mut random);
            absent += u64::from(away && standing == Standing::Active);
            rows.end_row()?;
        }
        Ok([
            rule("suspended_users", "users", suspended),
            rule("absent_users", "users", absent),
        ])
    }

    /// refresh_tokens and user_sessions, which have the same columns. Also tells, for each row, whether it goes and
    /// whether it is of a user that does.
    pub(super) fn tokens<W: RowWriter>(
        &self,
        rows: &mut Rows<W>,
        table: &'static str,
        space: Space,
        size: u64,
    ) -> Result<Tokens, Closed> {
        rows.table(table)?;
        let mut random = self.random(space);
        let mut expiries = Expiries::new(size, self.now_micros);
        let (mut ended, mut theirs, mut along) = (Vec::new(), Vec::new(), Along::default());
        for index in 0..size {
            let row = rows.row();
            row.key(self.key(space, index));
            let user = (!random.chance(10)).then(|| random.below(self.sizes.users));
            row.key_or_null(user.map(|user| self.key(Space::Users, user)));
            let (expires, is_past) = expiries.next(&mut random);
            row.time_or_null(expires);
            let of_leaving = Platform::leaves(user);
            if of_leaving {
                along.add(!is_past);
            }
            ended.push(is_past);
            theirs.push(of_leaving);
            rows.end_row()?;
        }
        Ok(Tokens {
            truth: rule(table, table, count(&ended)),
            ended,
            theirs,
            along,
        })
    }

    /// These name their user by the address. Also tells which go along with a user.
    pub(super) fn password_reset_tokens<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(RuleTruth, Along), Closed> {
        rows.table("password_reset_tokens")?;
        let mut random = self.random(Space::ResetTokens);
        let mut expiries = Expiries::new(self.sizes.reset_tokens, self.now_micros);
        let (mut expired, mut along) = (0, Along::default());
        for index in 0..self.sizes.reset_tokens {
            let row = rows.row();
            row.key(self.key(Space::ResetTokens, index));
            let user = random.below(self.sizes.users);
            row.text(&email(user));
            let (expires, is_past) = expiries.next(&mut random);
            row.time_or_null(expires);
            expired += u64::from(is_past);
            if Platform::leaves(Some(user)) {
                along.add(!is_past);
            }
            rows.end_row()?;
        }
        Ok((rule("password_reset_tokens", "password_reset_tokens", expired), along))
    }

    /// Half of the keys name a user, and two in ten of those a user that is gone. Some only look as if they did.
    pub(super) fn cache_entries<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<[RuleTruth; 2], Closed> {
        rows.table("cache_entries")?;
        let mut random = self.random(Space::Cache);
        let mut expiries = Expiries::new(self.sizes.cache, self.now_micros);
        let (mut expired, mut dangling) = (0, 0);
        for index in 0..self.sizes.cache {
            let row = rows.row();
            let of_gone_user = matches!(index % 20, 0 | 10);
            match index % 20 {
                // Another prefix: neither names a user.
                5 => row.text(&format!("User:{}", self.key(Space::Users, GONE + index))),
                15 => row.text(&format!("last_user:{}", self.key(Space::Users, GONE + index))),
                _ if of_gone_user => row.text(&format!("user:{}", self.key(Space::Users, GONE + index))),
                even if even % 2 == 0 => row.text(&format!("user:{}", self.key(Space::Users, index % self.sizes.users))),
                _ => row.text(&format!("page:/courses?offset={index}")),
            }
            row.text(&format!(
                r#"{{"version":{},"hits":{}}}"#,
                random.below(9),
                random.below(10_000)
            ));
            let (expires, is_past) = expiries.next(&mut random);
            row.time_or_null(expires);
            expired += u64::from(is_past);
            dangling += u64::from(of_gone_user && !is_past);
            rows.end_row()?;
        }
        Ok([
            rule("expired_entries", "cache_entries", expired),
            rule("entries_of_no_user", "cache_entries", dangling),
        ])
    }

    /// Users that are gone, but not without trace.
    pub(super) fn archived_users<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("archived_users")?;
        let mut random = self.random(Space::Archived);
        for index in 0..self.sizes.archived {
            let row = rows.row();
            row.key(self.key(Space::Users, GONE + index));
            row.text(&email(GONE + index));
            self.person(row, GONE + index, Standing::SuspendedLongAgo, &mut random);
            row.time(self.ago(&mut random, 1, 100));
            rows.end_row()?;
        }
        Ok(())
    }

    /// The columns of a user after id and email. Tells whether the last login, or the registration where there was none, is over a
    /// year ago.
    fn person<W: RowWriter>(&self, row: &mut W, user: u64, standing: Standing, random: &mut Random) -> bool {
        let mut created = self.ago(random, 200, 1_500);
        if (created - self.year_ago).abs() < MARGIN {
            created -= 2 * MARGIN;
        }
        row.text(random.pick(&NAMES));
        row.text(random.pick(&ROLES));
        row.text(standing.status());
        row.text_or_null(self.upload(Upload::Avatar, user).as_deref());
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
        row.time_or_null(match standing {
            Standing::SuspendedLongAgo => Some(self.half_year_ago - random.between(MARGIN, 500 * DAY)),
            Standing::SuspendedLately => Some(self.ago(random, 10, 170)),
            Standing::Active | Standing::Inactive | Standing::SuspendedUndated | Standing::Deleted => None,
        });
        last_login.unwrap_or(created) < self.year_ago
    }
}

/// What is known of a table of tokens.
pub(super) struct Tokens {
    pub(super) truth: RuleTruth,
    /// For each row, whether it goes by its end.
    pub(super) ended: Vec<bool>,
    /// For each row, whether it is of a user that leaves.
    pub(super) theirs: Vec<bool>,
    /// Rows that go along with those users.
    pub(super) along: Along,
}
