//! A whole database back to what a backup holds, in one immediate transaction on a connection of its own. From its begin to its end nobody
//! else writes; readers see all of it or nothing, and a process that dies leaves the file as it was.
//!
//! Objects are made again as `VACUUM` makes them: tables and indexes by their statements, with their rows between; views, triggers and
//! virtual tables as rows of the schema, since their modules must not work while they are put back.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use dbkeep_engine::{
    failpoint,
    model::{JournalEntry, LedgerEntry, TableCount},
    port::{Claim, FreezeOrder, Frozen, MaintenanceError, MigratorError, RewindOrder, Rewinder, Rewound, TargetError, Watch},
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, SqliteConnection};

use super::{
    SqliteTarget,
    dump::{count, or_stopped, stoppable, stored_columns, tables, unstoppable},
    error::{self, refused, statement},
    journal,
    load::BACKUP,
    migrator::ledger,
    render,
};

/// How long SQLite itself waits for others before it is asked whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// What is not the application's: SQLite's own tables, dbkeep's, and what belongs to those.
pub(super) const OWN: &str = "name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\' AND tbl_name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\'";

/// A connection that holds the write lock.
struct FrozenFile {
    connection: SqliteConnection,
    claim: Claim,
    /// How long the commit waits for readers.
    patience: Duration,
}

/// Executes what waits for others, for as long as there is patience.
async fn patiently(
    connection: &mut SqliteConnection,
    sql: &'static str,
    patience: Duration,
    watch: &Watch,
) -> Result<(), sqlx::Error> {
    let began = Instant::now();
    loop {
        let Err(error) = connection.execute(sql).await else {
            return Ok(());
        };
        if !is_busy(&error) || watch.stop.is_cancelled() || began.elapsed() >= patience {
            return Err(error);
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

fn blocked(what: &str, patience: Duration) -> MaintenanceError {
    MaintenanceError::Blocked {
        problem: format!(
            "{what} for {} ms in vain: another connection has the file open in a transaction (SQLite does not tell which); nothing was changed",
            patience.as_millis()
        ),
    }
}

#[async_trait]
impl Rewinder for SqliteTarget {
    async fn survey(&self) -> Result<Vec<TableCount>, MaintenanceError> {
        let mut connection = self.connection().await?;
        connection.execute("BEGIN").await.map_err(statement)?;
        let mut counts = Vec::new();
        for table in tables(&mut connection, "main").await? {
            let rows = count(&mut connection, "main", &table).await?;
            counts.push(TableCount { table, rows });
        }
        connection.execute("COMMIT").await.map_err(statement)?;
        self.idle.put(connection);
        Ok(counts)
    }

    async fn freeze(&self, order: &FreezeOrder, watch: &Watch) -> Result<Box<dyn Frozen>, MaintenanceError> {
        let path = order
            .path
            .to_str()
            .ok_or_else(|| refused("the backup folder's path is no UTF-8".to_owned()))?;
        // Without foreign keys: dropping a table must not reach its children, and rows come in any order.
        let options = self.options.clone().foreign_keys(false).busy_timeout(PATIENCE);
        let mut connection = options.connect().await.map_err(error::opening)?;
        sqlx::query("ATTACH DATABASE ? AS dbkeep_backup")
            .bind(path)
            .execute(&mut connection)
            .await
            .map_err(statement)?;
        let patience = order.lock_timeout.saturating_mul(order.lock_tries.max(1));
        watch.say("waiting for writers", "", 0, 0, "");
        match patiently(&mut connection, "BEGIN IMMEDIATE", patience, watch).await {
            Ok(()) => {}
            Err(error) if is_busy(&error) => return Err(blocked("the right to write was waited for", patience)),
            Err(error) => return Err(statement(error).into()),
        }
        // Under the write lock neither can change any more.
        journal::check_fence(&mut connection, order.claim).await?;
        held(&mut connection, order.claim).await?;
        Ok(Box::new(FrozenFile {
            connection,
            claim: order.claim,
            patience,
        }))
    }
}

/// Whether the lease for migrations is this attempt's.
async fn held(connection: &mut SqliteConnection, claim: Claim) -> Result<(), TargetError> {
    match ledger::check_lease(connection, claim).await {
        Ok(()) => Ok(()),
        Err(MigratorError::Target(error)) => Err(error),
        Err(other) => Err(refused(other.to_string())),
    }
}

#[async_trait]
impl Frozen for FrozenFile {
    async fn rewind(mut self: Box<Self>, order: &RewindOrder, watch: &Watch) -> Result<Rewound, MaintenanceError> {
        let done = self.replaced(order, watch).await;
        if done.is_err() {
            // An interrupted statement has often taken the transaction back itself.
            let _ = self.connection.execute("ROLLBACK").await;
        }
        let _ = self.connection.close().await;
        or_stopped(done, watch)
    }
}

impl FrozenFile {
    async fn replaced(&mut self, order: &RewindOrder, watch: &Watch) -> Result<Rewound, MaintenanceError> {
        let connection = &mut self.connection;
        let stop = stoppable(connection, watch).await?;
        watch.say("dropping", "", 0, 0, "tables");
        drop_all(connection).await?;
        failpoint!("rewind-dropped");
        let (kept, total) = fill(connection, order, watch).await?;
        failpoint!("rewind-filled");
        let warnings = settle_schema(connection, &kept).await?;
        let now = ledger::all(connection).await?;
        for entry in LedgerEntry::rewound(&now, &order.ledger, self.claim.run, &order.by) {
            ledger::write(connection, &entry).await?;
        }
        let entry = JournalEntry {
            run: self.claim.run,
            step: order.step,
            batch: 1,
            pass: 1,
            fence: self.claim.fence,
            cursor: String::new(),
            examined: 0,
            matched: total,
            affected: total,
            along: Vec::new(),
            conflicting: 0,
            chunk: None,
        };
        journal::record(connection, &entry).await?;
        ledger::prolong(connection, self.claim).await?;
        failpoint!("rewind-recorded");
        // From here on a stop would come too late to be told from a commit.
        unstoppable(connection).await?;
        drop(stop);
        match patiently(connection, "COMMIT", self.patience, watch).await {
            Ok(()) => {}
            Err(error) if is_busy(&error) => return Err(blocked("the end of readers was waited for", self.patience)),
            Err(error) => return Err(error::commit(error).into()),
        }
        Ok(Rewound { tables: kept, warnings })
    }
}

pub(super) async fn names(connection: &mut SqliteConnection, sql: String) -> Result<Vec<String>, TargetError> {
    sqlx::query_scalar(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

/// Drops whatever is the application's. What makes rows work goes first.
async fn drop_all(connection: &mut SqliteConnection) -> Result<(), MaintenanceError> {
    for kind in ["trigger", "view"] {
        let found = names(
            connection,
            format!("SELECT name FROM main.sqlite_schema WHERE type = '{kind}' AND {OWN}"),
        )
        .await?;
        for name in found {
            let sql = format!("DROP {kind} IF EXISTS main.{}", render::identifier(&name));
            connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
        }
    }
    // A virtual table takes the tables behind it along, so that it goes before them.
    let found = names(
        connection,
        format!("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND {OWN} ORDER BY coalesce(rootpage, 0) > 0"),
    )
    .await?;
    for name in found {
        let sql = format!("DROP TABLE IF EXISTS main.{}", render::identifier(&name));
        connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    }
    Ok(())
}

/// Makes the tables of the backup with their rows. Returns those that it names, counted, and the number of all rows.
async fn fill(
    connection: &mut SqliteConnection,
    order: &RewindOrder,
    watch: &Watch,
) -> Result<(Vec<TableCount>, u64), MaintenanceError> {
    let made: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT name, sql FROM {BACKUP}.sqlite_schema WHERE type = 'table' AND coalesce(rootpage, 0) > 0 AND {OWN} ORDER BY rowid"
    )))
    .persistent(false)
    .fetch_all(&mut *connection)
    .await
    .map_err(statement)?;
    for (_, sql) in &made {
        // Without a schema in the statement the table is made in main.
        connection.execute(AssertSqlSafe(sql.clone())).await.map_err(statement)?;
    }
    let total: u64 = order.tables.iter().map(|table| table.rows).sum();
    let mut done = 0;
    for (name, _) in &made {
        watch.say("restoring", name, done, total, "rows");
        copy(connection, name).await?;
        if let Some(table) = order.tables.iter().find(|table| table.table.name == *name) {
            let rows = count(connection, "main", &table.table).await?;
            if rows != table.rows {
                return Err(MaintenanceError::Damaged {
                    problem: format!("{name} has {rows} rows after the restore, {} were saved", table.rows),
                });
            }
            done += rows;
        }
    }
    for table in &order.tables {
        if !made.iter().any(|(name, _)| *name == table.table.name) {
            return Err(MaintenanceError::Damaged {
                problem: format!("it does not hold {}", table.table),
            });
        }
    }
    let indexes = names(
        connection,
        format!("SELECT sql FROM {BACKUP}.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND {OWN} ORDER BY rowid"),
    )
    .await?;
    watch.say("indexing", "", 0, indexes.len() as u64, "indexes");
    for sql in indexes {
        connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    }
    Ok((order.tables.clone(), total))
}

/// What is copied of a table's rows.
pub(super) struct Copied {
    /// Columns as they are written in SQL, with the id where it is none of them.
    columns: Vec<String>,
    /// Name by which a row's id is asked for; `None` where rows have none.
    pub(super) id: Option<&'static str>,
}

impl Copied {
    /// The columns as a list.
    pub(super) fn list(&self) -> String {
        self.columns.join(", ")
    }

    /// The same of a table with an alias.
    pub(super) fn of(&self, alias: &str) -> String {
        let columns = self.columns.iter().map(|column| format!("{alias}.{column}"));
        columns.collect::<Vec<_>>().join(", ")
    }
}

/// What is copied of the rows of a table, with the ids that rows have beside their columns.
pub(super) async fn copied_columns(connection: &mut SqliteConnection, name: &str) -> Result<Copied, MaintenanceError> {
    let table = dbkeep_engine::model::TableName {
        schema: None,
        name: name.to_owned(),
    };
    let columns = stored_columns(connection, BACKUP, &table).await?;
    let without: bool = sqlx::query_scalar("SELECT wr FROM pragma_table_list WHERE schema = ? AND name = ?")
        .bind(BACKUP)
        .bind(name)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    // An INTEGER PRIMARY KEY is the id itself, unless it has an index of its own: one that is DESC has.
    let keyed: bool = sqlx::query_scalar(
        "SELECT count(*) = 1 AND max(upper(type)) = 'INTEGER' AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1, ?2) WHERE origin = 'pk') \
         FROM pragma_table_xinfo(?1, ?2) WHERE pk > 0",
    )
    .bind(name)
    .bind(BACKUP)
    .fetch_one(&mut *connection)
    .await
    .map_err(statement)?;
    // A column may have the name by which the id is asked for.
    let free = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|alias| !columns.iter().any(|column| column.eq_ignore_ascii_case(alias)));
    let id = free.filter(|_| !without);
    let mut columns: Vec<String> = columns.iter().map(|column| render::identifier(column)).collect();
    if let (Some(alias), false) = (id, keyed) {
        columns.push(alias.to_owned());
    }
    Ok(Copied { columns, id })
}

/// Copies the rows of one table.
pub(super) async fn copy(connection: &mut SqliteConnection, name: &str) -> Result<(), MaintenanceError> {
    let columns = copied_columns(connection, name).await?.list();
    let name = render::identifier(name);
    let sql = format!("INSERT INTO main.{name} ({columns}) SELECT {columns} FROM {BACKUP}.{name}");
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(())
}

/// Everything of the schema but tables and indexes, and what the file says of itself. Returns what a person should know.
pub(super) async fn settle_schema(
    connection: &mut SqliteConnection,
    kept: &[TableCount],
) -> Result<Vec<String>, MaintenanceError> {
    let both = names(
        connection,
        format!(
            "SELECT m.name FROM main.sqlite_schema AS m JOIN {BACKUP}.sqlite_schema AS b ON b.name = m.name AND b.type = m.type \
             WHERE m.name IN ('sqlite_sequence', 'sqlite_stat1', 'sqlite_stat4')"
        ),
    )
    .await?;
    for name in ["sqlite_sequence", "sqlite_stat1", "sqlite_stat4"] {
        let here = names(
            connection,
            format!("SELECT name FROM main.sqlite_schema WHERE name = '{name}'"),
        )
        .await?;
        if !here.is_empty() {
            connection
                .execute(AssertSqlSafe(format!("DELETE FROM main.{name}")))
                .await
                .map_err(statement)?;
        }
        if both.iter().any(|known| known == name) {
            connection
                .execute(AssertSqlSafe(format!(
                    "INSERT INTO main.{name} SELECT * FROM {BACKUP}.{name}"
                )))
                .await
                .map_err(statement)?;
        }
    }
    for pragma in ["user_version", "application_id"] {
        let number: i64 = sqlx::query_scalar(AssertSqlSafe(format!("PRAGMA {BACKUP}.{pragma}")))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        connection
            .execute(AssertSqlSafe(format!("PRAGMA main.{pragma} = {number}")))
            .await
            .map_err(statement)?;
    }
    let version: i64 = sqlx::query_scalar("PRAGMA main.schema_version")
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    connection.execute("PRAGMA writable_schema = ON").await.map_err(statement)?;
    let sql = format!(
        "INSERT INTO main.sqlite_schema (type, name, tbl_name, rootpage, sql) SELECT type, name, tbl_name, 0, sql FROM {BACKUP}.sqlite_schema \
         WHERE (type IN ('view', 'trigger') OR (type = 'table' AND coalesce(rootpage, 0) = 0)) AND {OWN} ORDER BY rowid"
    );
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    // Every connection reads the schema anew, this one at its next statement, which shows whether it can be read.
    let sql = format!("PRAGMA main.schema_version = {}; PRAGMA writable_schema = OFF", version + 1);
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    let mut warnings = Vec::new();
    for table in kept {
        let missing: i64 = sqlx::query_scalar("SELECT count(*) FROM pragma_foreign_key_check(?)")
            .bind(&table.table.name)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        if missing > 0 {
            // They were there when the backup was made: rows and keys are those of the backup.
            warnings.push(format!("{missing} keys of {} name rows that are not there", table.table));
        }
    }
    Ok(warnings)
}
