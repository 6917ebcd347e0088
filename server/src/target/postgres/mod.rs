//! PostgreSQL targets. Rows are listed by one read-only cursor and deleted by ctid, key and the full predicate again, on
//! another connection; `docs/adr/0002-postgres-batches.md` tells why.

mod aside;
mod batch;
mod bloat;
mod children;
mod contents;
mod discover;
mod dump;
mod error;
mod holders;
mod identity;
mod introspect;
mod journal;
mod line;
mod liveness;
mod load;
mod maintain;
mod measure;
mod migrator;
mod observe;
mod pressure;
mod privileges;
mod progress;
mod reindex;
mod render;
mod restore;
mod rewind;
mod sample;
mod scan;
mod sets;
mod survey;
mod tool;
mod vacuum;
mod values;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{
        Capability, ChildLink, ColumnSource, EngineKind, Identity, JournalEntry, RunId, Selection, StepTotals, TableKind,
        TableName, TableSchema, TargetStatus, Value,
    },
    port::{
        BatchTransaction, ChildCount, Claim, Maintenance, Migrator, Namesakes, Observer, Pressure, Privileges, Rewinder, Scan,
        Scratch, Survey, Target, TargetError, TargetErrorClass, ValueStream,
    },
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Row as _};

use self::error::{lost, refused};
use self::line::Line;
use self::render::Pace;
use super::{Tools, UrlError};
use crate::hosts::Hosts;

/// How every session of dbkeep, and of a program that it starts, calls itself.
const APPLICATION: &str = "dbkeep";
/// What every session begins with. Text forms are those that `pg_dump` relies on, so that captured values read back as they
/// were; with `row_security = off` a policy that would hide rows becomes an error instead of a wrong answer. Whoever waits for
/// a table that is being altered says so in the end: the altering session may be waiting for a batch of ours.
const SESSION: &str = "SET row_security = off; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; \
     SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmloption = 'content'; \
     SET standard_conforming_strings = on; SET statement_timeout = 0; SET lock_timeout = '5s'; \
     SET idle_in_transaction_session_timeout = '10min'";

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is not trusted to be alive.
const IDLE_LIFETIME: Duration = Duration::from_secs(2);
/// Longest wait for a connection to tell what it has counted.
const TELLING: Duration = Duration::from_secs(1);
/// Rows of one statement where a run shares the database: a millisecond of work with some indexes, after which whoever waits for the processor comes
/// first. A batch is several of them, so that its commit and its backup file are paid for once.
const SLICE_ROWS: u32 = 32;
/// Connections kept between batches: one that deletes and one that validates, for a few runs.
const IDLE_CONNECTIONS: usize = 8;

/// A PostgreSQL database.
pub struct PostgresTarget {
    hosts: Hosts,
    programs: tool::Programs,
    idle: Arc<Idle>,
    /// Sessions of migrations between two groups.
    sessions: Arc<migrator::Sessions>,
    /// How long a connection may be silent before that is looked into; zero for ever.
    silence: Duration,
    /// How long one statement may take; `None` for as long as it takes.
    limit: Option<Duration>,
    /// Whether a statement may have parallel workers, as far as the database's own settings allow.
    parallel: bool,
}

/// Connections between two uses. Only those come back whose last transaction ended in order.
#[derive(Default)]
struct Idle(Mutex<Vec<(Line, Instant)>>);

impl Idle {
    fn take(&self) -> Option<Line> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE_LIFETIME);
        idle.pop().map(|(connection, _)| connection)
    }

    /// All of them, also those that were idle for long.
    fn drain(&self) -> Vec<Line> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *idle)
            .into_iter()
            .map(|(connection, _)| connection)
            .collect()
    }

    fn put(&self, connection: Line) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((connection, Instant::now()));
        }
    }
}

impl PostgresTarget {
    /// Prepares a target; nothing is connected yet.
    ///
    /// # Errors
    /// Where the URL is malformed.
    pub fn open(url: &str, tools: &Tools) -> Result<Self, UrlError> {
        let hosts = Hosts::parse(url).map_err(|problem| UrlError(problem.to_string()))?;
        Ok(Self {
            programs: tool::Programs::new(&hosts, tools.pg_bin.clone()),
            // Statements over large tables are slow by nature, and their text is long.
            hosts: hosts.map(|options| options.disable_statement_logging().application_name(APPLICATION)),
            idle: Arc::default(),
            sessions: Arc::default(),
            silence: tools.target_silence,
            limit: None,
            parallel: true,
        })
    }

    async fn connect(&self) -> Result<Line, TargetError> {
        let connecting = async {
            let opening = Line::open(&self.hosts, CONNECT_TIMEOUT, self.silence, SESSION);
            let mut connection = opening.await.map_err(error::connecting)?;
            if !self.parallel {
                let serial = "SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0";
                connection.execute(serial).await.map_err(error::statement)?;
            }
            if let Some(limit) = self.limit {
                discover::arm(&mut connection, limit).await?;
            }
            Ok(connection)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| lost(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))?
    }

    /// Has what connections between two uses have counted arrive in the statistics, such as the rows that a run has just deleted. They would
    /// tell of it some seconds later, and a VACUUM of the same rows before that would seem to have left them. Servers before 15 cannot be asked.
    async fn have_counters_told(&self, connection: &mut Line) -> Result<(), TargetError> {
        let can_be_asked: bool = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer >= 150000")
            .fetch_one(connection)
            .await
            .map_err(error::statement)?;
        let idle = if can_be_asked { self.idle.drain() } else { Vec::new() };
        for mut idle in idle {
            let telling = idle.execute("SELECT pg_catalog.pg_stat_force_next_flush()");
            // One that does not answer any more is of no use to others either.
            if matches!(tokio::time::timeout(TELLING, telling).await, Ok(Ok(_))) {
                self.idle.put(idle);
            }
        }
        Ok(())
    }

    /// Most rows of one statement.
    fn slice(&self) -> u32 {
        if self.parallel { u32::MAX } else { SLICE_ROWS }
    }

    /// How statements over many rows take their time.
    fn pace(&self) -> Pace {
        if self.parallel { Pace::AtOnce } else { Pace::Resting }
    }

    /// A connection for one use; give it back with [`Idle::put`] when its transaction has ended in order.
    async fn connection(&self) -> Result<Line, TargetError> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }
}

/// Begins a transaction that only reads, with settings for one large join.
async fn begin_reading(connection: &mut Line) -> Result<(), TargetError> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'; \
                 SET LOCAL synchronize_seqscans = off";
    connection.execute(begin).await.map_err(error::statement)?;
    Ok(())
}

/// Values of a row whose columns are all of type text.
fn text_row(row: &sqlx::postgres::PgRow) -> Result<Vec<Value>, TargetError> {
    (0..row.len())
        .map(|column| {
            let value = row.try_get_raw(column).map_err(error::statement)?;
            if sqlx::ValueRef::is_null(&value) {
                return Ok(Value::Null);
            }
            Ok(Value::Text(
                value.as_bytes().map_err(|error| refused(error.to_string()))?.to_vec(),
            ))
        })
        .collect()
}

/// Text of a value that is known to be text in UTF-8, for binding.
fn text(value: &Value) -> Result<Option<&str>, TargetError> {
    match value {
        Value::Null => Ok(None),
        Value::Text(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| {
            TargetError::new(
                TargetErrorClass::Unsupported,
                "a value is not in UTF-8; databases in other encodings are not supported",
            )
        }),
        _ => Err(refused("a value of another database cannot be used here".to_owned())),
    }
}

/// The columns of rows, each as an array to bind.
fn columns_of<'a>(
    rows: impl IntoIterator<Item = &'a Vec<Value>>,
    width: usize,
) -> Result<Vec<Vec<Option<&'a str>>>, TargetError> {
    let mut columns = vec![Vec::new(); width];
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(text(value)?);
        }
    }
    Ok(columns)
}

/// What a plan needs to know, from the exact count and some rows.
fn surveyed(row_count: u64, samples: Vec<Vec<Value>>, sql: String) -> Survey {
    let size = |value: &Value| match value {
        Value::Text(text) => text.len() as u64 + 5,
        _ => 1,
    };
    let bytes = samples.iter().flatten().map(size).sum::<u64>();
    Survey {
        row_count,
        row_bytes: bytes / (samples.len() as u64).max(1),
        samples,
        sql,
        table_rows: None,
    }
}

#[async_trait]
impl Target for PostgresTarget {
    fn engine(&self) -> EngineKind {
        EngineKind::Postgres
    }

    fn address(&self) -> String {
        let options = self.hosts.first();
        format!(
            "{}/{}",
            self.hosts.names(),
            options.get_database().unwrap_or(options.get_username())
        )
    }

    fn gentle(&self) -> Option<Arc<dyn Target>> {
        Some(Arc::new(Self {
            hosts: self.hosts.clone(),
            idle: Arc::default(),
            sessions: Arc::default(),
            silence: self.silence,
            limit: self.limit,
            programs: self.programs.clone(),
            parallel: false,
        }))
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::Capture,
            Capability::Undo,
            Capability::ConcurrentWriters,
            Capability::TableLocks,
            Capability::Roles,
        ]
    }

    async fn status(&self) -> Result<TargetStatus, TargetError> {
        let mut connection = self.connection().await?;
        let sql = "SELECT current_setting('server_version'), pg_database_size(current_database()), \
                   (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = sqlx::query(sql).fetch_one(&mut connection).await.map_err(error::statement)?;
        let version: String = row.try_get(0).map_err(error::statement)?;
        let size: i64 = row.try_get(1).map_err(error::statement)?;
        let micros: i64 = row.try_get(2).map_err(error::statement)?;
        self.idle.put(connection);
        Ok(TargetStatus {
            version: version.split(' ').next().unwrap_or_default().to_owned(),
            size_bytes: u64::try_from(size).unwrap_or(0),
            clock: jiff::Timestamp::from_microsecond(micros).map_err(|error| refused(error.to_string()))?,
        })
    }

    async fn introspect(&self, table: &TableName) -> Result<Option<TableSchema>, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let schema = introspect::table(&mut connection, table).await?;
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        Ok(schema)
    }

    async fn namesakes(&self, table: &TableName) -> Result<Namesakes, TargetError> {
        let mut connection = self.connection().await?;
        let namesakes = introspect::namesakes(&mut connection, table).await?;
        self.idle.put(connection);
        Ok(namesakes)
    }

    async fn survey(&self, selection: &Selection, samples: u32) -> Result<Survey, TargetError> {
        self.survey_share(selection, samples, u64::MAX).await
    }

    async fn survey_share(&self, selection: &Selection, samples: u32, whole_from: u64) -> Result<Survey, TargetError> {
        if selection.matches.is_about_sets() {
            // Not to be used again: temporary tables and settings stay with it.
            return sets::survey(&mut self.connect().await?, selection, samples).await;
        }
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let mut survey = if self.parallel {
            survey::at_once(&mut connection, selection, samples).await?
        } else {
            survey::resting(&mut connection, selection, samples).await?
        };
        if survey.row_count >= whole_from {
            survey.table_rows = Some(survey::whole(&mut connection, &selection.table, self.pace()).await?);
        }
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        Ok(survey)
    }

    async fn explain(&self, selection: &Selection) -> Result<(), TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        introspect::check_functions(&mut connection, selection).await?;
        let sql = format!("EXPLAIN {}", sets::explain(selection)?);
        connection.execute(AssertSqlSafe(sql)).await.map_err(error::statement)?;
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        Ok(())
    }

    async fn count_children(&self, selection: &Selection, links: &[ChildLink]) -> Result<Vec<ChildCount>, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let row = sqlx::query(AssertSqlSafe(children::counts(selection, links, self.pace())?))
            .persistent(false)
            .fetch_one(&mut connection)
            .await
            .map_err(error::statement)?;
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        children::counted(&row, links.len())
    }

    async fn unlike(&self, link: &ChildLink) -> Result<Option<String>, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let why = children::unlike(&mut connection, link).await?;
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        Ok(why)
    }

    async fn create_archive(&self, table: &TableSchema, into: &TableName, stamp_column: &str) -> Result<(), TargetError> {
        let mut connection = self.connection().await?;
        // Where it is there the database is not asked to make it: it would refuse that to a role that may make no tables.
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(render::table(into))
            .fetch_one(&mut connection)
            .await
            .map_err(error::statement)?;
        if !there {
            let sql = render::archive(table, into, stamp_column);
            connection.execute(AssertSqlSafe(sql)).await.map_err(error::statement)?;
        }
        self.idle.put(connection);
        Ok(())
    }

    async fn count_rows(&self, table: &TableSchema, limit: Option<u64>) -> Result<u64, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let name = render::table(&table.name);
        let sql = match limit {
            Some(limit) => format!("SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {limit}) AS counted"),
            None => format!("SELECT count(*) FROM {name}"),
        };
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .map_err(error::statement)?;
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn estimate_rows(&self, table: &TableSchema) -> Result<Option<u64>, TargetError> {
        if table.kind != TableKind::Table {
            return Ok(None);
        }
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let estimate = survey::estimate(&mut connection, table).await?;
        connection.execute("COMMIT").await.map_err(error::statement)?;
        self.idle.put(connection);
        Ok(Some(estimate))
    }

    async fn scan(&self, selection: &Selection, cursor: Option<&str>, limit: u32) -> Result<Box<dyn Scan>, TargetError> {
        if selection.matches.is_about_sets() {
            return sets::scan(self.connect().await?, selection, limit).await;
        }
        Ok(Box::new(
            scan::CursorScan::open(self.connect().await?, selection, cursor, (limit, self.slice()), self.pace()).await?,
        ))
    }

    async fn column_values(&self, source: &ColumnSource) -> Result<Box<dyn ValueStream>, TargetError> {
        Ok(Box::new(
            values::CursorValues::open(self.connect().await?, source, None).await?,
        ))
    }

    async fn indirect_values(&self, source: &ColumnSource, prefix: &str) -> Result<Box<dyn ValueStream>, TargetError> {
        Ok(Box::new(
            values::CursorValues::open(self.connect().await?, source, Some(prefix)).await?,
        ))
    }

    async fn holds(&self, source: &ColumnSource, values: &[Vec<u8>]) -> Result<Vec<usize>, TargetError> {
        let mut connection = self.connection().await?;
        let found = values::present(&mut connection, source, values).await?;
        self.idle.put(connection);
        Ok(found)
    }

    async fn identity(&self) -> Result<Identity, TargetError> {
        self.known_identity().await
    }

    async fn oust(&self, claim: Claim) -> Result<Vec<String>, TargetError> {
        self.end_older(claim).await
    }

    async fn claim(&self, claim: Claim) -> Result<(), TargetError> {
        let mut connection = self.connect().await?;
        journal::claim(&mut connection, claim).await?;
        self.idle.put(connection);
        Ok(())
    }

    async fn totals(&self, run: RunId) -> Result<Vec<StepTotals>, TargetError> {
        let mut connection = self.connection().await?;
        let totals = journal::totals(&mut connection, run).await?;
        self.idle.put(connection);
        Ok(totals)
    }

    async fn journal(&self, run: RunId, after: (u32, u64), limit: u32) -> Result<Vec<JournalEntry>, TargetError> {
        let mut connection = self.connection().await?;
        let entries = journal::entries(&mut connection, run, after, limit).await?;
        self.idle.put(connection);
        Ok(entries)
    }

    async fn journal_back(&self, run: RunId, step: u32, below: u64, limit: u32) -> Result<Vec<JournalEntry>, TargetError> {
        let mut connection = self.connection().await?;
        let entries = journal::entries_back(&mut connection, run, step, below, limit).await?;
        self.idle.put(connection);
        Ok(entries)
    }

    async fn begin_strict(
        &self,
        claim: Claim,
        tables: &[&TableSchema],
        still: &[&TableSchema],
    ) -> Result<Box<dyn BatchTransaction>, TargetError> {
        let sessions = batch::Sessions {
            connection: self.connection().await?,
            validator: self.connection().await?,
            idle: Arc::clone(&self.idle),
            slice: self.slice(),
        };
        Ok(Box::new(batch::PostgresBatch::begin(sessions, claim, tables, still).await?))
    }

    async fn pressure(&self) -> Result<Pressure, TargetError> {
        let mut connection = self.connection().await?;
        let pressure = pressure::measure(&mut connection).await?;
        self.idle.put(connection);
        Ok(pressure)
    }

    async fn scratch(&self) -> Result<Box<dyn Scratch>, TargetError> {
        Ok(Box::new(restore::PostgresScratch::new(self.connect().await?)))
    }

    fn maintenance(&self) -> &dyn Maintenance {
        self
    }

    fn migrator(&self) -> &dyn Migrator {
        self
    }

    fn rewinder(&self) -> &dyn Rewinder {
        self
    }

    fn observer(&self) -> &dyn Observer {
        self
    }

    fn privileges(&self) -> Option<&dyn Privileges> {
        Some(self)
    }
}
