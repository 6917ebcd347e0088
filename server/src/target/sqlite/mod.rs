//! SQLite targets. Keys are listed in windows of the table's own order by short reads; each batch is one `BEGIN IMMEDIATE`
//! transaction, short enough that a waiting writer does not feel it. Nobody else can write during a batch, so that an orphan
//! cannot be adopted between its recheck and the commit.

mod aside;
mod batch;
mod children;
mod discover;
mod dump;
mod error;
mod introspect;
mod journal;
mod load;
mod maintain;
mod measure;
mod migrator;
mod observe;
mod pressure;
mod render;
mod restore;
mod rewind;
mod sample;
mod scan;
mod sets;
mod vacuum;
mod values;

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{
        Capability, ChildLink, ColumnSource, EngineKind, Identity, JournalEntry, RunId, Selection, StepTotals, TableName,
        TableSchema, TargetStatus, Value,
    },
    port::{
        BatchTransaction, ChildCount, Claim, Maintenance, Migrator, Namesakes, Observer, Pressure, Rewinder, Scan, Scratch,
        Survey, Target, TargetError, TargetErrorClass, ValueStream,
    },
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _, sqlite::SqliteConnectOptions,
};

use self::error::{refused, statement};
use super::UrlError;

/// How long a statement waits for another writer before it says so.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is closed: the file may have been replaced meanwhile.
const IDLE_LIFETIME: Duration = Duration::from_secs(2);
/// Connections kept between uses.
const IDLE_CONNECTIONS: usize = 4;

/// A SQLite database file.
pub struct SqliteTarget {
    options: SqliteConnectOptions,
    idle: Arc<Idle>,
    /// How long one use of a connection may take; `None` for as long as it takes.
    limit: Option<Duration>,
}

/// Connections between two uses. Only those come back whose last transaction ended in order.
#[derive(Default)]
struct Idle(Mutex<Vec<(SqliteConnection, Instant)>>);

impl Idle {
    fn take(&self) -> Option<SqliteConnection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE_LIFETIME);
        idle.pop().map(|(connection, _)| connection)
    }

    fn put(&self, connection: SqliteConnection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((connection, Instant::now()));
        }
    }
}

impl SqliteTarget {
    /// Prepares a target; nothing is opened yet.
    ///
    /// # Errors
    /// Where the URL is malformed, or names a database in memory, which nobody else could see.
    pub fn open(url: &str) -> Result<Self, UrlError> {
        let options =
            SqliteConnectOptions::from_str(url).map_err(|_| UrlError("expected sqlite:///path/to/file.db".to_owned()))?;
        if options.get_filename().as_os_str().is_empty() || url.contains(":memory:") || url.contains("mode=memory") {
            return Err(UrlError("expected a file: sqlite:///path/to/file.db".to_owned()));
        }
        // The journal mode belongs to the application: it is neither asked for nor changed.
        let options = options.create_if_missing(false).busy_timeout(BUSY_TIMEOUT).foreign_keys(true);
        Ok(Self {
            options: options.disable_statement_logging(),
            idle: Arc::default(),
            limit: None,
        })
    }

    async fn connection(&self) -> Result<SqliteConnection, TargetError> {
        let mut connection = match self.idle.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(error::opening)?,
        };
        if let Some(limit) = self.limit {
            discover::arm(&mut connection, limit).await?;
        }
        Ok(connection)
    }
}

/// A value exactly as SQLite stores it.
fn value(row: &sqlx::sqlite::SqliteRow, column: usize) -> Result<Value, TargetError> {
    let raw = row.try_get_raw(column).map_err(statement)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let class = raw.type_info().name().to_owned();
    let decoded = match class.as_str() {
        "INTEGER" => row.try_get_unchecked(column).map(Value::Integer),
        "REAL" => row.try_get_unchecked(column).map(Value::Real),
        "TEXT" => row.try_get_unchecked(column).map(Value::Text),
        "BLOB" => row.try_get_unchecked(column).map(Value::Blob),
        other => return Err(refused(format!("a value has the unknown storage class {other}"))),
    };
    decoded.map_err(statement)
}

fn values(row: &sqlx::sqlite::SqliteRow, columns: std::ops::Range<usize>) -> Result<Vec<Value>, TargetError> {
    columns.map(|column| value(row, column)).collect()
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Binds a value as its storage class. Text that is no UTF-8 must be bound with [`render::placeholder`]'s cast.
fn bind<'q>(query: Query<'q>, value: &Value) -> Query<'q> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Integer(number) => query.bind(*number),
        Value::Real(number) => query.bind(*number),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => query.bind(text.to_owned()),
            Err(_) => query.bind(bytes.clone()),
        },
        Value::Blob(bytes) => query.bind(bytes.clone()),
    }
}

/// What a plan needs to know, from the exact count and some rows.
fn surveyed(row_count: u64, samples: Vec<Vec<Value>>, sql: String) -> Survey {
    let size = |value: &Value| match value {
        Value::Null => 1,
        Value::Integer(_) | Value::Real(_) => 9,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len() as u64 + 5,
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
impl Target for SqliteTarget {
    fn engine(&self) -> EngineKind {
        EngineKind::Sqlite
    }

    fn address(&self) -> String {
        self.options.get_filename().display().to_string()
    }

    async fn identity(&self) -> Result<Identity, TargetError> {
        let mut connection = self.connection().await?;
        let identity = journal::identity(&mut connection).await?;
        self.idle.put(connection);
        Ok(identity)
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Capture, Capability::Undo]
    }

    async fn status(&self) -> Result<TargetStatus, TargetError> {
        let mut connection = self.connection().await?;
        let sql = "SELECT sqlite_version(), p.page_count * s.page_size, CAST(unixepoch('subsec') * 1000 AS INTEGER) \
                   FROM pragma_page_count AS p, pragma_page_size AS s";
        let row = sqlx::query(sql).fetch_one(&mut connection).await.map_err(statement)?;
        let millis: i64 = row.try_get_unchecked(2).map_err(statement)?;
        let size: i64 = row.try_get_unchecked(1).map_err(statement)?;
        self.idle.put(connection);
        Ok(TargetStatus {
            version: row.try_get(0).map_err(statement)?,
            size_bytes: u64::try_from(size).unwrap_or(0),
            clock: jiff::Timestamp::from_millisecond(millis).map_err(|error| refused(error.to_string()))?,
        })
    }

    async fn introspect(&self, table: &TableName) -> Result<Option<TableSchema>, TargetError> {
        let mut connection = self.connection().await?;
        let schema = introspect::table(&mut connection, table).await?;
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
            return sets::survey(self.options.connect().await.map_err(error::opening)?, selection, samples).await;
        }
        let mut connection = self.connection().await?;
        let from = format!(
            "FROM {} AS t WHERE {}",
            render::table(&selection.table.name),
            render::predicate(selection)?
        );
        // One snapshot; a connection that is not given back in order is closed, and the transaction with it.
        sqlx::raw_sql("BEGIN").execute(&mut connection).await.map_err(statement)?;
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {from}")))
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let row_count = u64::try_from(count).unwrap_or(0);
        let mut table_rows = None;
        if row_count >= whole_from {
            let sql = format!("SELECT count(*) FROM {}", render::table(&selection.table.name));
            let whole: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut connection)
                .await
                .map_err(statement)?;
            table_rows = Some(u64::try_from(whole).unwrap_or(0));
        }
        let columns: Vec<&str> = selection
            .table
            .captured_columns()
            .map(|column| column.name.as_str())
            .collect();
        let sql = format!("SELECT {} {from}", render::columns(columns.iter().copied()));
        let mut rows = Vec::new();
        if samples > 0 && count > 0 {
            let sampling = format!("{sql} LIMIT {samples}");
            for row in sqlx::query(AssertSqlSafe(sampling))
                .persistent(false)
                .fetch_all(&mut connection)
                .await
                .map_err(statement)?
            {
                rows.push(values(&row, 0..columns.len())?);
            }
        }
        sqlx::raw_sql("COMMIT").execute(&mut connection).await.map_err(statement)?;
        self.idle.put(connection);
        Ok(Survey {
            table_rows,
            ..surveyed(row_count, rows, sql)
        })
    }

    async fn explain(&self, selection: &Selection) -> Result<(), TargetError> {
        let mut connection = self.connection().await?;
        let sql = format!("EXPLAIN {}", sets::explain(selection)?);
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        Ok(())
    }

    async fn count_children(&self, selection: &Selection, links: &[ChildLink]) -> Result<Vec<ChildCount>, TargetError> {
        let mut connection = self.connection().await?;
        let row = sqlx::query(AssertSqlSafe(children::counts(selection, links)?))
            .persistent(false)
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        children::counted(&row, links.len())
    }

    async fn unlike(&self, link: &ChildLink) -> Result<Option<String>, TargetError> {
        let mut connection = self.connection().await?;
        let why = children::unlike(&mut connection, link).await?;
        self.idle.put(connection);
        Ok(why)
    }

    async fn create_archive(&self, table: &TableSchema, into: &TableName, stamp_column: &str) -> Result<(), TargetError> {
        is_main(into)?;
        let mut connection = self.connection().await?;
        // Without defaults and constraints: a row is kept there as it was. The primary key keeps a row from being archived twice.
        let columns = table.captured_columns().map(|column| {
            format!(
                "{}{}, ",
                render::identifier(&column.name),
                restore::declared(&column.type_name)
            )
        });
        let key: Vec<String> = table.primary_key.iter().map(|name| render::identifier(name)).collect();
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} ({}{} TEXT NOT NULL, PRIMARY KEY ({}))",
            render::table(into),
            columns.collect::<String>(),
            render::identifier(stamp_column),
            key.join(", ")
        );
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        Ok(())
    }

    async fn estimate_rows(&self, _table: &TableSchema) -> Result<Option<u64>, TargetError> {
        Ok(None)
    }

    async fn count_rows(&self, table: &TableSchema, limit: Option<u64>) -> Result<u64, TargetError> {
        let mut connection = self.connection().await?;
        let name = render::table(&table.name);
        let sql = match limit {
            Some(limit) => format!("SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {limit})"),
            None => format!("SELECT count(*) FROM {name}"),
        };
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn scan(&self, selection: &Selection, cursor: Option<&str>, limit: u32) -> Result<Box<dyn Scan>, TargetError> {
        if selection.matches.is_about_sets() || sets::judges_itself(selection) {
            let connection = self.options.connect().await.map_err(error::opening)?;
            return sets::scan(connection, selection, limit).await;
        }
        let connection = self.connection().await?;
        Ok(Box::new(scan::WindowScan::open(
            connection,
            Arc::clone(&self.idle),
            selection,
            cursor,
            limit,
        )?))
    }

    async fn column_values(&self, source: &ColumnSource) -> Result<Box<dyn ValueStream>, TargetError> {
        let connection = self.connection().await?;
        Ok(Box::new(
            values::PagedValues::open(connection, Arc::clone(&self.idle), source, None).await?,
        ))
    }

    async fn indirect_values(&self, source: &ColumnSource, prefix: &str) -> Result<Box<dyn ValueStream>, TargetError> {
        let connection = self.connection().await?;
        Ok(Box::new(
            values::PagedValues::open(connection, Arc::clone(&self.idle), source, Some(prefix)).await?,
        ))
    }

    async fn holds(&self, source: &ColumnSource, values: &[Vec<u8>]) -> Result<Vec<usize>, TargetError> {
        let mut connection = self.connection().await?;
        let found = values::present(&mut connection, source, values).await?;
        self.idle.put(connection);
        Ok(found)
    }

    async fn claim(&self, claim: Claim) -> Result<(), TargetError> {
        let mut connection = self.connection().await?;
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
        // Nobody else writes anything during a batch.
        _still: &[&TableSchema],
    ) -> Result<Box<dyn BatchTransaction>, TargetError> {
        let connection = self.connection().await?;
        Ok(Box::new(
            batch::SqliteBatch::begin(connection, Arc::clone(&self.idle), claim, tables).await?,
        ))
    }

    async fn pressure(&self) -> Result<Pressure, TargetError> {
        pressure::measure(&self.options).await
    }

    async fn scratch(&self) -> Result<Box<dyn Scratch>, TargetError> {
        let memory = SqliteConnectOptions::new()
            .in_memory(true)
            .disable_statement_logging()
            .connect()
            .await;
        Ok(Box::new(restore::SqliteScratch::new(memory.map_err(error::opening)?)))
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
}

/// Whether a table name can be meant here: SQLite knows `main`; attached databases belong to other connections.
fn is_main(table: &TableName) -> Result<(), TargetError> {
    match table.schema.as_deref() {
        None | Some("main") => Ok(()),
        Some(other) => Err(TargetError::new(
            TargetErrorClass::Unsupported,
            format!("schema {other} cannot be reached; SQLite targets have only main"),
        )),
    }
}
