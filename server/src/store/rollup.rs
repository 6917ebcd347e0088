//! Coarser history from finer, and the removal of what is too old or too much. Times are the database's.
//!
//! ```text
//! samples_raw --5 minutes--> samples_5m --hour--> samples_1h      each step: metric_steps.until_ms = made so far
//! ```
//!
//! An interval is made as a whole, from points that cannot change any more, in one transaction with the mark that it is made: killed
//! anywhere it is made again, to the same end. Points go only when the coarser step has them, or when there is no room: then the oldest
//! of the steps go that have more than their part, and the time is noted. What the coarser step has yet to get goes last.
//!
//! What is too old is told by a time that follows the clock only as fast as servers see it go by ([`aged_ms`]): a clock that is ahead for a
//! while does not make old what was collected yesterday.

use std::time::Duration;

use dbkeep_engine::port::{HistoryUsage, Step, StoreError};
use sqlx::AssertSqlSafe;

use super::{
    ControlStore,
    draft::term_ms,
    failure::{Failure, corrupt},
    metrics::{begin_ms, instant, now_ms, number, table_of},
    rows,
    transaction::{Act, Tx},
};

/// Age at which an interval is complete: longer than any transaction that writes samples takes from its look at the clock to its end.
const SETTLED: Duration = Duration::from_secs(60);
/// Age at which a series may be forgotten where there is no room for others.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long alerts are kept that ended.
const ALERTS_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Longest time between two roll-ups that counts as gone by: of more nobody knows whether no server worked or the clock leapt.
const GONE_BY: Duration = Duration::from_secs(60 * 60);
/// How much faster than the clock the time goes by which points are too old, where it is behind: it catches up after a time without servers.
const CATCHES_UP: i64 = 4;

/// One bounded piece of that work.
pub(super) struct RollUp {
    rows: u32,
    max_points: u64,
    max_series: u64,
}

impl RollUp {
    pub(super) fn new(rows: u32, max_points: u64, max_series: u64) -> Self {
        Self {
            rows: rows.max(1),
            max_points,
            max_series,
        }
    }

    /// Removes at most so many points of a step, the oldest first, before a time where one is given.
    async fn remove(&self, tx: &mut Tx<'_>, step: Step, before_ms: i64, most: u64) -> Result<u64, Failure> {
        let table = table_of(step);
        let sql = format!(
            "DELETE FROM {table} WHERE (series, at_ms) IN (SELECT series, at_ms FROM {table} WHERE at_ms < $1 ORDER BY at_ms, series LIMIT $2)"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(before_ms).bind(rows::signed(most));
        let removed = query.execute(&mut *tx.connection).await?.rows_affected();
        count(tx, step, -rows::signed(removed)).await?;
        Ok(removed)
    }

    /// Removes what is older than it is kept and made coarser. Returns how many points that were.
    async fn expire(&self, tx: &mut Tx<'_>, aged: i64) -> Result<u64, Failure> {
        let mut removed = 0;
        for step in Step::ALL.into_iter().rev() {
            let kept_until = aged.saturating_sub(term_ms(step.kept()));
            let made = match step {
                Step::Raw => made_until(tx, Step::FiveMinutes).await?,
                Step::FiveMinutes => made_until(tx, Step::Hour).await?,
                Step::Hour => kept_until,
            };
            let room = u64::from(self.rows).saturating_sub(removed);
            removed += self.remove(tx, step, kept_until.min(made), room).await?;
        }
        Ok(removed)
    }

    /// Removes the oldest points of steps that have more than their part, where there are too many in all.
    async fn trim(&self, tx: &mut Tx<'_>, now: i64, most: u64) -> Result<u64, Failure> {
        let mut over = points(tx).await?.saturating_sub(self.max_points).min(most);
        let mut removed = 0;
        // A second time without regard to what is not made coarser yet: it is far more than a share then.
        for (step, made) in Step::ALL
            .map(|step| (step, true))
            .into_iter()
            .chain(Step::ALL.map(|step| (step, false)))
        {
            if over == 0 {
                break;
            }
            let room = points_of(tx, step).await?.saturating_sub(self.max_points * part(step) / 8);
            let before = match step {
                _ if !made => i64::MAX,
                Step::Raw => made_until(tx, Step::FiveMinutes).await?,
                Step::FiveMinutes => made_until(tx, Step::Hour).await?,
                Step::Hour => i64::MAX,
            };
            let gone = self.remove(tx, step, before, over.min(room)).await?;
            if gone > 0 {
                sqlx::query("UPDATE metric_steps SET trimmed_ms = $2 WHERE step = $1")
                    .bind(step.name())
                    .bind(now)
                    .execute(&mut *tx.connection)
                    .await?;
            }
            over -= gone.min(over);
            removed += gone;
        }
        Ok(removed)
    }

    /// A series that had no sample for longer than anything is kept, or, where there is no room for new ones, for a day. It stays locked,
    /// so that whoever has a sample for it after all waits, and makes it anew.
    async fn forgettable(&self, tx: &mut Tx<'_>, aged: i64) -> Result<Option<i64>, Failure> {
        let row = sqlx::query("SELECT COUNT(*) AS series FROM metric_series")
            .fetch_one(&mut *tx.connection)
            .await?;
        let kept = if number(&row, "series")? >= self.max_series {
            STALE
        } else {
            Step::Hour.kept()
        };
        let sql = format!(
            "SELECT id FROM metric_series WHERE newest_ms < $1 ORDER BY newest_ms, id LIMIT 1 {}",
            tx.dialect.lock_free_rows()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(aged.saturating_sub(term_ms(kept)));
        let found = query.fetch_all(&mut *tx.connection).await?;
        Ok(found.first().map(|row| rows::column_of(row, "id")).transpose()?)
    }

    /// Removes a series that is locked, with its points, as far as that is allowed.
    async fn forget(&self, tx: &mut Tx<'_>, series: i64, most: u64) -> Result<u64, Failure> {
        let mut removed = 0;
        for step in Step::ALL.into_iter().rev() {
            let table = table_of(step);
            let sql = format!(
                "DELETE FROM {table} WHERE series = $1 AND at_ms IN (SELECT at_ms FROM {table} WHERE series = $1 ORDER BY at_ms LIMIT $2)"
            );
            let room = most.saturating_sub(removed);
            let query = sqlx::query(AssertSqlSafe(sql)).bind(series).bind(rows::signed(room));
            let gone = query.execute(&mut *tx.connection).await?.rows_affected();
            count(tx, step, -rows::signed(gone)).await?;
            removed += gone;
        }
        if removed < most {
            sqlx::query("DELETE FROM metric_series WHERE id = $1")
                .bind(series)
                .execute(&mut *tx.connection)
                .await?;
            removed += 1;
        }
        Ok(removed)
    }
}

impl Act for RollUp {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        // In the order in which everybody locks: collections, series, steps from coarse to fine. What `aged_ms` locks is locked here only.
        let now = now_ms(tx).await?;
        let aged = aged_ms(tx, now).await?;
        // A server that is gone collects nothing any more.
        let query = sqlx::query("DELETE FROM collections WHERE target = '' AND collected_ms < $1");
        query
            .bind(aged.saturating_sub(term_ms(STALE)))
            .execute(&mut *tx.connection)
            .await?;
        let forgettable = self.forgettable(tx, aged).await?;
        for step in ["1h", "5m"] {
            let sql = format!("SELECT until_ms FROM metric_steps WHERE step = $1 {}", tx.dialect.lock_rows());
            sqlx::query(AssertSqlSafe(sql))
                .bind(step)
                .fetch_all(&mut *tx.connection)
                .await?;
        }
        let settled = now.saturating_sub(term_ms(SETTLED));
        let mut more = make(tx, Step::Raw, Step::FiveMinutes, settled).await?;
        let settled = made_until(tx, Step::FiveMinutes).await?;
        more |= make(tx, Step::FiveMinutes, Step::Hour, settled).await?;
        let most = u64::from(self.rows);
        let mut removed = self.expire(tx, aged).await?;
        removed += self.trim(tx, now, most.saturating_sub(removed)).await?;
        let room = most.saturating_sub(removed);
        let forgotten = match forgettable {
            Some(series) if room > 0 => self.forget(tx, series, room).await?,
            _ => 0,
        };
        removed += forgotten;
        let sql = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE state = 'resolved' AND resolved_ms < $1 ORDER BY id LIMIT $2)";
        let query = sqlx::query(sql)
            .bind(aged.saturating_sub(term_ms(ALERTS_KEPT)))
            .bind(rows::signed(most.saturating_sub(removed)));
        removed += query.execute(&mut *tx.connection).await?.rows_affected();
        Ok(more || forgotten > 0 || removed >= most)
    }
}

/// The time by which points are too old: the clock's, but behind a clock that leapt ahead. Where it went back, so does this.
async fn aged_ms(tx: &mut Tx<'_>, now: i64) -> Result<i64, Failure> {
    sqlx::query(
        "INSERT INTO monitor_counters (name, value) VALUES ('aged_ms', $1), ('rolled_ms', $1) ON CONFLICT (name) DO NOTHING",
    )
    .bind(now)
    .execute(&mut *tx.connection)
    .await?;
    let sql = format!(
        "SELECT name, value FROM monitor_counters WHERE name IN ('aged_ms', 'rolled_ms') ORDER BY name {}",
        tx.dialect.lock_rows()
    );
    let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *tx.connection).await?;
    let [before, rolled] = found.as_slice() else {
        return Err(corrupt("counters aged_ms and rolled_ms are missing").into());
    };
    let (before, rolled): (i64, i64) = (rows::column_of(before, "value")?, rows::column_of(rolled, "value")?);
    let gone_by = now.saturating_sub(rolled).clamp(0, term_ms(GONE_BY));
    let aged = before.saturating_add(gone_by * CATCHES_UP).min(now);
    sqlx::query(
        "UPDATE monitor_counters SET value = CASE name WHEN 'aged_ms' THEN $1 ELSE $2 END WHERE name IN ('aged_ms', 'rolled_ms')",
    )
    .bind(aged)
    .bind(now)
    .execute(&mut *tx.connection)
    .await?;
    Ok(aged)
}

async fn made_until(tx: &mut Tx<'_>, step: Step) -> Result<i64, Failure> {
    let row = sqlx::query("SELECT until_ms FROM metric_steps WHERE step = $1")
        .bind(step.name())
        .fetch_one(&mut *tx.connection)
        .await?;
    Ok(rows::column_of(&row, "until_ms")?)
}

async fn points(tx: &mut Tx<'_>) -> Result<u64, Failure> {
    let row = sqlx::query("SELECT CAST(SUM(points) AS BIGINT) AS points FROM metric_steps")
        .fetch_one(&mut *tx.connection)
        .await?;
    Ok(number(&row, "points")?)
}

async fn points_of(tx: &mut Tx<'_>, step: Step) -> Result<u64, Failure> {
    let row = sqlx::query("SELECT points FROM metric_steps WHERE step = $1")
        .bind(step.name())
        .fetch_one(&mut *tx.connection)
        .await?;
    Ok(number(&row, "points")?)
}

/// A step's part of all points where there are too many, in eighths: a month in five minutes is worth more than a day in detail.
fn part(step: Step) -> u64 {
    match step {
        Step::Raw | Step::FiveMinutes => 3,
        Step::Hour => 2,
    }
}

async fn count(tx: &mut Tx<'_>, step: Step, added: i64) -> Result<(), Failure> {
    if added != 0 {
        sqlx::query("UPDATE metric_steps SET points = points + $2 WHERE step = $1")
            .bind(step.name())
            .bind(added)
            .execute(&mut *tx.connection)
            .await?;
    }
    Ok(())
}

/// Makes the next interval of a step from the finer one, where it ended before `settled`. True where the one after it may be ready too.
async fn make(tx: &mut Tx<'_>, from: Step, to: Step, settled: i64) -> Result<bool, Failure> {
    let length = term_ms(to.interval());
    let until = made_until(tx, to).await?;
    let sql = format!("SELECT MIN(at_ms) AS at_ms FROM {} WHERE at_ms >= $1", table_of(from));
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(until)
        .fetch_one(&mut *tx.connection)
        .await?;
    let oldest: Option<i64> = rows::column_of(&row, "at_ms")?;
    // Everything up to there is made; intervals without a point are passed over.
    let last = begin_ms(to, settled);
    let begin = oldest.map_or(last, |oldest| begin_ms(to, oldest).min(last));
    let complete = oldest.is_some() && begin + length <= settled;
    let made = if complete { begin + length } else { begin };
    if complete {
        let (source, table) = (table_of(from), table_of(to));
        let (samples, min, max, sum, last) = match from {
            Step::Raw => ("COUNT(*)", "MIN(value)", "MAX(value)", "SUM(value)", "value"),
            Step::FiveMinutes | Step::Hour => ("CAST(SUM(samples) AS BIGINT)", "MIN(min)", "MAX(max)", "SUM(sum)", "last"),
        };
        let sql = format!(
            "INSERT INTO {table} (series, at_ms, samples, min, max, sum, last) \
             SELECT g.series, {begin}, g.samples, g.smallest, g.largest, g.total, l.{last} FROM \
             (SELECT series, {samples} AS samples, {min} AS smallest, {max} AS largest, {sum} AS total, MAX(at_ms) AS newest_ms \
             FROM {source} WHERE at_ms >= {begin} AND at_ms < {begin} + {length} GROUP BY series) g \
             JOIN {source} l ON l.series = g.series AND l.at_ms = g.newest_ms WHERE g.samples > 0 ORDER BY g.series \
             ON CONFLICT (series, at_ms) DO NOTHING"
        );
        // What is there from before the clock was set back is made again, unless the finer points of then are gone in part.
        let stale = format!(
            "DELETE FROM {table} WHERE at_ms = {begin} AND samples <= (SELECT {samples} FROM {source} p \
             WHERE p.series = {table}.series AND p.at_ms >= {begin} AND p.at_ms < {begin} + {length})"
        );
        let gone = sqlx::query(AssertSqlSafe(stale))
            .execute(&mut *tx.connection)
            .await?
            .rows_affected();
        let added = sqlx::query(AssertSqlSafe(sql))
            .execute(&mut *tx.connection)
            .await?
            .rows_affected();
        count(tx, to, rows::signed(added) - rows::signed(gone)).await?;
    }
    if made > until {
        sqlx::query("UPDATE metric_steps SET until_ms = $2 WHERE step = $1")
            .bind(to.name())
            .bind(made)
            .execute(&mut *tx.connection)
            .await?;
    }
    Ok(complete && made + length <= settled)
}

impl ControlStore {
    pub(super) async fn read_history_usage(&self) -> Result<HistoryUsage, StoreError> {
        let query = sqlx::query(
            "SELECT CAST(SUM(points) AS BIGINT) AS points, MAX(trimmed_ms) AS trimmed_ms, (SELECT COUNT(*) FROM metric_series) AS series \
             FROM metric_steps",
        );
        let row = self.read(query.fetch_one(&self.pool)).await?;
        let trimmed: Option<i64> = rows::column_of(&row, "trimmed_ms")?;
        Ok(HistoryUsage {
            series: number(&row, "series")?,
            max_series: self.kept_series,
            points: number(&row, "points")?,
            max_points: self.kept_points,
            trimmed_at: trimmed.map(|_| instant(&row, "trimmed_ms")).transpose()?,
        })
    }
}
