//! Monitoring: who collects, the newest snapshot, and the finest history. Times are the database's. `rollup` makes the coarser history,
//! `alerts` keeps alerts.
//!
//! Locks are taken in one order, so that collectors and the roll-up wait for each other and do not lock up: a row of `collections`, series in
//! order, `metric_steps` from coarse to fine, at last the counter of revisions. Its lock makes revisions visible in their order.

use std::{collections::BTreeSet, time::Duration};

use dbkeep_engine::{
    model::monitor::{Metric, Sample, Snapshot},
    port::{CollectClaim, Collected, Collection, HistoryQuery, Point, Step, StoreError},
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    ControlStore, Dialect,
    draft::term_ms,
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

/// Most rows of one INSERT: both databases take as many values, and more bring nothing.
const ROWS_AT_ONCE: usize = 500;

/// The clock of the database.
pub(super) async fn now_ms(tx: &mut Tx<'_>) -> Result<i64, Failure> {
    let sql = format!("SELECT {} AS now_ms", tx.dialect.now_ms());
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *tx.connection).await?;
    Ok(rows::column_of(&row, "now_ms")?)
}

/// Adds one to a counter, whose row stays locked until the end of the transaction.
pub(super) async fn next(tx: &mut Tx<'_>, counter: &'static str) -> Result<i64, Failure> {
    let query = sqlx::query("UPDATE monitor_counters SET value = value + 1 WHERE name = $1 RETURNING value").bind(counter);
    let found = query.fetch_all(&mut *tx.connection).await?;
    let row = found
        .first()
        .ok_or_else(|| corrupt(format!("counter {counter} is missing")))?;
    Ok(rows::column_of(row, "value")?)
}

/// Whether the claim is still the newest; its row stays locked until the end of the transaction.
pub(super) async fn holds(tx: &mut Tx<'_>, claim: &CollectClaim) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT fence FROM collections WHERE target = $1 AND fence = $2 {}",
        tx.dialect.lock_rows()
    );
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(rows::text(&claim.target))
        .bind(rows::signed(claim.fence));
    Ok(query.fetch_optional(&mut *tx.connection).await?.is_some())
}

/// Where the points of a step are.
pub(super) fn table_of(step: Step) -> &'static str {
    match step {
        Step::Raw => "samples_raw",
        Step::FiveMinutes => "samples_5m",
        Step::Hour => "samples_1h",
    }
}

/// `($1, $2), ($3, $4)` for so many rows and columns.
fn tuples(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let numbered: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", numbered.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// Takes a target to be collected.
pub(super) struct Claim {
    target: String,
    server: String,
    term_ms: i64,
    due_ms: i64,
}

impl Claim {
    pub(super) fn new(target: &str, server: &str, term: Duration, due: Duration) -> Self {
        Self {
            target: rows::text(target),
            server: rows::text(server),
            term_ms: term_ms(term),
            due_ms: term_ms(due),
        }
    }
}

impl Act for Claim {
    type Output = Option<CollectClaim>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<CollectClaim>, Failure> {
        // A server's own numbers have a row for each server.
        let whose = if self.target.is_empty() { self.server.as_str() } else { "" };
        sqlx::query("INSERT INTO collections (target, server, fence) VALUES ($1, $2, 0) ON CONFLICT (target, server) DO NOTHING")
            .bind(&self.target)
            .bind(whose)
            .execute(&mut *tx.connection)
            .await?;
        let sql = format!(
            "SELECT holder, lease_until_ms, collected_ms FROM collections WHERE target = $1 AND server = $2 {}",
            tx.dialect.lock_rows()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.target).bind(whose);
        let Some(row) = query.fetch_optional(&mut *tx.connection).await? else {
            return Ok(None);
        };
        let now = now_ms(tx).await?;
        let holder: Option<String> = rows::column_of(&row, "holder")?;
        let until: Option<i64> = rows::column_of(&row, "lease_until_ms")?;
        let collected: Option<i64> = rows::column_of(&row, "collected_ms")?;
        // A lease that ends later than a term from now, and a collection that is still to come, are from before the clock was set back.
        let held = until.is_some_and(|until| until > now && until - now <= self.term_ms);
        if held && holder.as_ref() != Some(&self.server) {
            return Ok(None);
        }
        if collected.is_some_and(|at| at <= now && now - at < self.due_ms) {
            return Ok(None);
        }
        let fence = next(tx, "fence").await?;
        sqlx::query("UPDATE collections SET holder = $3, lease_until_ms = $4, fence = $5 WHERE target = $1 AND server = $2")
            .bind(&self.target)
            .bind(whose)
            .bind(&self.server)
            .bind(now.saturating_add(self.term_ms))
            .bind(fence)
            .execute(&mut *tx.connection)
            .await?;
        Ok(Some(CollectClaim {
            target: self.target.clone(),
            fence: u64::try_from(fence).map_err(|_| corrupt(format!("fence {fence} of a collection")))?,
        }))
    }
}

/// Writes what was collected.
pub(super) struct Put {
    claim: CollectClaim,
    snapshot: Option<(i64, String)>,
    up: bool,
    samples: Vec<Sample>,
    max_series: u64,
}

impl Put {
    pub(super) fn new(claim: &CollectClaim, collected: &Collected, max_series: u64) -> Result<Self, StoreError> {
        // In one order and once each, so that writers wait for each other and do not lock up.
        let mut samples = collected.samples.clone();
        for sample in &mut samples {
            sample.object = rows::text(&sample.object);
        }
        samples.retain(|sample| sample.value.is_finite());
        samples.sort_by(|one, other| (one.metric.name(), &one.object).cmp(&(other.metric.name(), &other.object)));
        samples.dedup_by(|one, other| one.metric == other.metric && one.object == other.object);
        let snapshot = collected.snapshot.as_ref();
        Ok(Self {
            claim: claim.clone(),
            snapshot: snapshot
                .map(|snapshot| Ok::<_, StoreError>((snapshot.at.as_millisecond(), rows::text(&rows::to_json(snapshot)?))))
                .transpose()?,
            up: snapshot.is_some(),
            samples,
            max_series,
        })
    }

    /// The samples that have a series, or get one: there is a most to series.
    async fn taken(&self, tx: &mut Tx<'_>) -> Result<Vec<&Sample>, Failure> {
        let found = sqlx::query("SELECT metric, object FROM metric_series WHERE target = $1")
            .bind(rows::text(&self.claim.target))
            .fetch_all(&mut *tx.connection)
            .await?;
        let mut known = BTreeSet::new();
        for row in &found {
            known.insert((
                rows::column_of::<String>(row, "metric")?,
                rows::column_of::<String>(row, "object")?,
            ));
        }
        let is_known = |sample: &Sample| known.contains(&(sample.metric.name().to_owned(), sample.object.clone()));
        if self.samples.iter().all(is_known) {
            return Ok(self.samples.iter().collect());
        }
        let row = sqlx::query("SELECT COUNT(*) AS series FROM metric_series")
            .fetch_one(&mut *tx.connection)
            .await?;
        let series: i64 = rows::column_of(&row, "series")?;
        let mut room = self.max_series.saturating_sub(u64::try_from(series).unwrap_or_default());
        let fits = |sample: &&Sample| {
            if is_known(sample) {
                return true;
            }
            let fits = room > 0;
            room = room.saturating_sub(1);
            fits
        };
        Ok(self.samples.iter().filter(fits).collect())
    }
}

impl Act for Put {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        if !holds(tx, &self.claim).await? {
            return Ok(false);
        }
        let now = now_ms(tx).await?;
        let target = rows::text(&self.claim.target);
        if let Some((_, json)) = &self.snapshot {
            sqlx::query(
                "INSERT INTO snapshots (target, at_ms, snapshot) VALUES ($1, $2, $3) \
                 ON CONFLICT (target) DO UPDATE SET at_ms = excluded.at_ms, snapshot = excluded.snapshot",
            )
            .bind(&target)
            .bind(now)
            .bind(json)
            .execute(&mut *tx.connection)
            .await?;
        }
        let taken = self.taken(tx).await?;
        let mut points = 0;
        for samples in taken.chunks(ROWS_AT_ONCE) {
            points += put_samples(tx, &target, now, samples).await?;
        }
        if points > 0 {
            // Where the clock was set back, intervals that were made already get more points: they are made again.
            for step in [Step::Hour, Step::FiveMinutes] {
                let begin = begin_ms(step, now);
                sqlx::query("UPDATE metric_steps SET until_ms = $2 WHERE step = $1 AND until_ms > $2")
                    .bind(step.name())
                    .bind(begin)
                    .execute(&mut *tx.connection)
                    .await?;
            }
            sqlx::query("UPDATE metric_steps SET points = points + $1 WHERE step = 'raw'")
                .bind(rows::signed(points))
                .execute(&mut *tx.connection)
                .await?;
        }
        let revision = next(tx, "revision").await?;
        sqlx::query("UPDATE collections SET collected_ms = $3, up = $4, revision = $5 WHERE target = $1 AND fence = $2")
            .bind(&target)
            .bind(rows::signed(self.claim.fence))
            .bind(now)
            .bind(i64::from(self.up))
            .bind(revision)
            .execute(&mut *tx.connection)
            .await?;
        Ok(true)
    }
}

/// Begin of the interval that a time falls into.
pub(super) fn begin_ms(step: Step, at_ms: i64) -> i64 {
    let length = i64::try_from(step.interval().as_millis()).unwrap_or(i64::MAX).max(1);
    at_ms - at_ms.rem_euclid(length)
}

/// Writes samples that have their place in the order of series; returns how many were not there before.
async fn put_samples(tx: &mut Tx<'_>, target: &str, now: i64, samples: &[&Sample]) -> Result<u64, Failure> {
    let sql = format!(
        "INSERT INTO metric_series (target, metric, object, newest_ms, newest_value) VALUES {} \
         ON CONFLICT (target, metric, object) DO UPDATE SET newest_ms = excluded.newest_ms, newest_value = excluded.newest_value \
         RETURNING id, newest_value",
        tuples(samples.len(), 5)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for sample in samples {
        query = query
            .bind(target)
            .bind(sample.metric.name())
            .bind(&sample.object)
            .bind(now)
            .bind(sample.value);
    }
    let found = query.fetch_all(&mut *tx.connection).await?;
    let sql = format!(
        "INSERT INTO samples_raw (series, at_ms, value) VALUES {} ON CONFLICT (series, at_ms) DO NOTHING",
        tuples(found.len(), 3)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for row in &found {
        query = query
            .bind(rows::column_of::<i64>(row, "id")?)
            .bind(now)
            .bind(rows::column_of::<f64>(row, "newest_value")?);
    }
    Ok(query.execute(&mut *tx.connection).await?.rows_affected())
}

impl ControlStore {
    pub(super) async fn read_newest_snapshot(&self, target: &str) -> Result<Option<(Timestamp, Snapshot)>, StoreError> {
        let query = sqlx::query("SELECT at_ms, snapshot FROM snapshots WHERE target = $1").bind(rows::text(target));
        let Some(row) = self.read(query.fetch_optional(&self.pool)).await? else {
            return Ok(None);
        };
        let json: String = rows::column_of(&row, "snapshot")?;
        let snapshot = rows::from_json(&json, || format!("snapshot of target {target}"))?;
        Ok(Some((instant(&row, "at_ms")?, snapshot)))
    }

    pub(super) async fn read_newest_samples(&self, target: &str, age: Duration) -> Result<Vec<(Timestamp, Sample)>, StoreError> {
        let sql = format!(
            "SELECT metric, object, newest_ms, newest_value FROM metric_series WHERE target = $1 AND newest_ms >= {} - $2 ORDER BY metric, object",
            self.dialect.now_ms()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(rows::text(target)).bind(term_ms(age));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let mut samples = Vec::with_capacity(found.len());
        for row in &found {
            // A metric that another version knows is left out.
            let Some(metric) = Metric::named(&rows::column_of::<String>(row, "metric")?) else {
                continue;
            };
            let sample = Sample {
                metric,
                object: rows::column_of(row, "object")?,
                value: rows::column_of(row, "newest_value")?,
            };
            samples.push((instant(row, "newest_ms")?, sample));
        }
        Ok(samples)
    }

    pub(super) async fn read_history(&self, query: &HistoryQuery) -> Result<Vec<Point>, StoreError> {
        let values = match query.step {
            Step::Raw => "1 AS samples, p.value AS min, p.value AS max, p.value AS sum, p.value AS last",
            Step::FiveMinutes | Step::Hour => "p.samples AS samples, p.min AS min, p.max AS max, p.sum AS sum, p.last AS last",
        };
        // PostgreSQL takes a bare 1 for a number of four bytes.
        let values = match self.dialect {
            Dialect::Postgres => values.replace("1 AS samples", "1::bigint AS samples"),
            Dialect::Sqlite => values.to_owned(),
        };
        let of_object = if query.object.is_some() { "AND s.object = $6" } else { "" };
        let sql = format!(
            "SELECT s.object AS object, p.at_ms AS at_ms, {values} FROM metric_series s JOIN {} p ON p.series = s.id \
             WHERE s.target = $1 AND s.metric = $2 AND p.at_ms >= $3 AND p.at_ms < $4 {of_object} ORDER BY s.object, p.at_ms LIMIT $5",
            table_of(query.step)
        );
        let mut asked = sqlx::query(AssertSqlSafe(sql))
            .bind(rows::text(&query.target))
            .bind(query.metric.name())
            .bind(query.from.as_millisecond())
            .bind(query.to.as_millisecond())
            .bind(i64::from(query.limit));
        if let Some(object) = &query.object {
            asked = asked.bind(rows::text(object));
        }
        let found = self.read(asked.fetch_all(&self.pool)).await?;
        found.iter().map(point).collect()
    }

    pub(super) async fn read_revision(&self) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT value FROM monitor_counters WHERE name = 'revision'");
        let row = self.read(query.fetch_one(&self.pool)).await?;
        number(&row, "value")
    }

    pub(super) async fn read_collections(&self, after: u64) -> Result<Vec<Collection>, StoreError> {
        let query = sqlx::query(
            "SELECT target, collected_ms, up, revision FROM collections WHERE target <> '' AND collected_ms IS NOT NULL AND revision > $1 \
             ORDER BY revision",
        )
        .bind(rows::signed(after));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let mut collections = Vec::with_capacity(found.len());
        for row in &found {
            collections.push(Collection {
                target: rows::column_of(row, "target")?,
                at: instant(row, "collected_ms")?,
                up: rows::column_of::<i64>(row, "up")? != 0,
                revision: number(row, "revision")?,
            });
        }
        Ok(collections)
    }
}

fn point(row: &AnyRow) -> Result<Point, StoreError> {
    let samples = number(row, "samples")?;
    let sum: f64 = rows::column_of(row, "sum")?;
    #[expect(clippy::cast_precision_loss, reason = "a number of samples of an interval")]
    let mean = sum / samples.max(1) as f64;
    Ok(Point {
        object: rows::column_of(row, "object")?,
        at: instant(row, "at_ms")?,
        samples,
        min: rows::column_of(row, "min")?,
        max: rows::column_of(row, "max")?,
        mean,
        last: rows::column_of(row, "last")?,
    })
}

pub(super) fn instant(row: &AnyRow, column: &str) -> Result<Timestamp, StoreError> {
    let ms: i64 = rows::column_of(row, column)?;
    Timestamp::from_millisecond(ms).map_err(|_| corrupt(format!("{column} {ms} of monitoring")))
}

pub(super) fn number(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    let stored: i64 = rows::column_of(row, column)?;
    u64::try_from(stored).map_err(|_| corrupt(format!("{column} {stored} of monitoring")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_numbered_through() {
        assert_eq!(tuples(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }

    #[test]
    fn intervals_begin_at_multiples() {
        assert_eq!(begin_ms(Step::FiveMinutes, 601_000), 600_000);
        assert_eq!(begin_ms(Step::Hour, -1), -3_600_000);
    }
}
