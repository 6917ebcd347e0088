//! The rows of the benchmark tables: one exact share of orphans, one of expired rows, both cheap to make.

use anyhow::{Result, ensure};
use jiff::Timestamp;

use super::platform::{PROGRESS_STATES, api_log};
use super::random::{GONE, Quota, Random, key};
use super::rows::{Closed, Micros, RowWriter, Rows};
use super::times::{DAY, LogTimes, MARGIN, years_before};
use crate::truth::SingleTableTruth;

/// Rows of `api_logs`, per thousand, that are older than a year.
const EXPIRED_PER_MILLE: u64 = 300;

/// Key spaces and random streams.
const USERS: u64 = 1;
const PROGRESS: u64 = 2;
const LOGS: u64 = 3;
const LESSONS: u64 = 4;

/// Everything that decides what the rows are.
pub(super) struct Single {
    rows: u64,
    users: u64,
    orphans: u64,
    seed: u64,
    now: Timestamp,
    year_ago: Micros,
}

impl Single {
    pub(super) fn new(rows: u64, orphan_fraction: f64, seed: u64, now: Timestamp) -> Result<Self> {
        ensure!(
            (10..GONE).contains(&rows),
            "the benchmark tables need 10 rows or more, not {rows}"
        );
        ensure!(
            (0.0..=1.0).contains(&orphan_fraction),
            "the fraction of orphans is from 0 to 1, not {orphan_fraction}"
        );
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the product is between 0 and rows, which is below 2^48 and so exact as a float"
        )]
        let orphans = (rows as f64 * orphan_fraction).round() as u64;
        Ok(Self {
            rows,
            users: rows / 10,
            orphans,
            seed,
            now,
            year_ago: years_before(now, 1)?,
        })
    }

    pub(super) fn write<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<SingleTableTruth, Closed> {
        rows.table("users")?;
        for index in 0..self.users {
            let row = rows.row();
            row.key(key(self.seed, USERS, index));
            row.text(&format!("learner{index}@example.org"));
            rows.end_row()?;
        }
        self.progress(rows)?;
        let expired = self.logs(rows)?;
        Ok(SingleTableTruth {
            seed: self.seed,
            now: self.now,
            users: self.users,
            user_progress: self.rows,
            orphans: self.orphans,
            api_logs: self.rows,
            expired,
        })
    }

    fn progress<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<(), Closed> {
        rows.table("user_progress")?;
        let mut random = Random::new(self.seed, PROGRESS);
        let mut orphans = Quota::exactly(self.orphans, self.rows);
        let now = self.now.as_microsecond();
        for index in 0..self.rows {
            let user = if orphans.draw(&mut random) {
                GONE + random.below(self.users / 10 + 1)
            } else {
                random.below(self.users)
            };
            let row = rows.row();
            row.key(key(self.seed, PROGRESS, index));
            row.key(key(self.seed, USERS, user));
            row.key(key(self.seed, LESSONS, random.below(1_000)));
            row.text(random.pick(&PROGRESS_STATES));
            row.time(now - random.between(MARGIN, 700 * DAY));
            rows.end_row()?;
        }
        Ok(())
    }

    fn logs<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<u64, Closed> {
        rows.table("api_logs")?;
        let mut random = Random::new(self.seed, LOGS);
        let mut times = LogTimes::in_order(self.rows, EXPIRED_PER_MILLE, self.year_ago, self.now.as_microsecond());
        for index in 0..self.rows {
            let created = times.next(&mut random);
            api_log(rows, index, created, &mut random)?;
        }
        Ok(times.expired)
    }
}
