//! Whole tables back into their own place, in one transaction of ours: `pg_restore` reads the dump and writes SQL and COPY data to a
//! pipe, and this connection carries them out, so that the fence, the rows, their counts and the journal row commit together.

use std::{collections::BTreeMap, path::Path};

use dbkeep_engine::{
    failpoint,
    model::{JournalEntry, TableCount, TableKind, TableName},
    port::{LoadOrder, Loaded, MaintenanceError, TargetError, TargetErrorClass, Watch},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{
    PostgresTarget,
    contents::{contents, own_sql},
    dump::{Notes, TableNotes},
    error::{self, statement},
    holders, introspect, journal,
    line::Line,
    render,
    tool::{Programs, Running, path_argument},
};

/// What its session notes that it does.
const WORK: &str = "restore";
/// Bytes of rows sent at a time.
const SEND: usize = 256 << 10;
/// A table that is in use is not waited for without end: every reader queues behind the lock.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0; \
     SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL synchronous_commit = on; SET LOCAL row_security = off";

/// Where loaded tables are, in words.
const IN_PLACE: &str = "their own place";

/// SQLSTATEs of things that are there already.
const THERE_ALREADY: [&str; 6] = ["42P04", "42P06", "42P07", "42710", "42723", "42712"];

/// What is in the place of a table.
enum Place {
    Absent,
    Table { filled: bool },
}

fn unsuitable(table: &TableName, problem: impl Into<String>) -> MaintenanceError {
    MaintenanceError::Table {
        table: table.clone(),
        problem: problem.into(),
    }
}

async fn look(connection: &mut Line, table: &TableName) -> Result<Place, MaintenanceError> {
    let Some(schema) = introspect::table(&mut *connection, table).await? else {
        return Ok(Place::Absent);
    };
    if !matches!(schema.kind, TableKind::Table | TableKind::Inherited) {
        return Err(unsuitable(table, "is no ordinary table now; expected one, or none"));
    }
    let sql = format!("SELECT EXISTS (SELECT 1 FROM ONLY {})", render::table(table));
    let filled = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(Place::Table { filled })
}

impl PostgresTarget {
    pub(super) async fn check_load(&self, tables: &[TableName], replace: bool) -> Result<(), MaintenanceError> {
        let mut connection = self.connection().await?;
        let major = self.server_major(&mut connection).await?;
        self.programs.check("pg_restore", major).await?;
        let mut filled = Vec::new();
        for table in tables {
            if let Place::Table { filled: true } = look(&mut connection, table).await? {
                filled.push(table.to_string());
            }
        }
        self.idle.put(connection);
        if filled.is_empty() || replace {
            return Ok(());
        }
        Err(MaintenanceError::NotEmpty { tables: filled })
    }

    pub(super) async fn load_tables(&self, order: &LoadOrder, replace: bool, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        let notes: Notes = serde_json::from_value(order.notes.clone()).map_err(|error| MaintenanceError::Damaged {
            problem: format!("its manifest: {error}"),
        })?;
        let mut connection = self.connect().await?;
        let process = backend(&mut connection).await?;
        holders::note(&mut connection, order.claim, WORK).await?;
        let load = Load {
            programs: &self.programs,
            order,
            notes: &notes,
            replace,
            watch,
        };
        tokio::select! {
            biased;
            () = watch.stop.cancelled() => {}
            loaded = load.carry_out(&mut connection) => return loaded,
        }
        // Closing the connection alone would leave a long statement at work, and the locks with it.
        drop(connection);
        self.cancel(process).await;
        // The COMMIT may have been on its way. A claim waits until that transaction is over; then the journal tells.
        let mut connection = self.connect().await?;
        journal::claim(&mut connection, order.claim).await?;
        if journal::totals(&mut connection, order.claim.run).await?.is_empty() {
            return Err(MaintenanceError::Stopped);
        }
        Ok(Loaded {
            place: IN_PLACE.to_owned(),
            tables: order.tables.clone(),
            warnings: Vec::new(),
        })
    }

    /// Ends the statement of another connection. Failing to is no error: the server ends it when it next talks to its client.
    pub(super) async fn cancel(&self, process: i32) {
        let cancelling = async {
            let mut connection = self.connect().await?;
            sqlx::query(CANCEL)
                .bind(process)
                .execute(&mut connection)
                .await
                .map_err(statement)?;
            Ok::<_, TargetError>(())
        };
        if let Err(error) = cancelling.await {
            tracing::warn!(process, %error, "a statement could not be cancelled");
        }
    }
}

pub(super) async fn backend(connection: &mut Line) -> Result<i32, TargetError> {
    sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await
        .map_err(statement)
}

/// Ends what a session of ours does. After a failover the number may be that of another session, on another server: whoever else is there
/// is not ended by it, and what another session of ours does is tried again.
pub(super) const CANCEL: &str = "SELECT pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = $1 \
     AND usename = session_user AND datname = current_database()";

struct Load<'a> {
    programs: &'a Programs,
    order: &'a LoadOrder,
    notes: &'a Notes,
    replace: bool,
    watch: &'a Watch,
}

/// The rows of one table out of a dump.
pub(super) struct Copying<'a> {
    pub(super) programs: &'a Programs,
    pub(super) path: &'a Path,
    pub(super) watch: &'a Watch,
}

impl Load<'_> {
    async fn carry_out(&self, connection: &mut Line) -> Result<Loaded, MaintenanceError> {
        connection.execute(BEGIN).await.map_err(statement)?;
        let claim = self.order.claim;
        // The row lock makes a newer attempt's claim wait for this transaction; see journal::claim.
        let fence: Option<i64> = sqlx::query_scalar("SELECT r.fence FROM dbkeep.run AS r WHERE r.run_id = $1 FOR SHARE")
            .bind(claim.run.to_string())
            .fetch_optional(&mut *connection)
            .await
            .map_err(statement)?;
        if fence.and_then(|fence| u64::try_from(fence).ok()) != Some(claim.fence) {
            return Err(journal::fenced().into());
        }
        let mut warnings = Vec::new();
        let (present, absent) = self.make_room(connection).await?;
        let listing = self.programs.script(&self.order.path, &["--list"], None).await?;
        let made = self
            .make_absent(connection, &absent, present.is_empty(), &listing, &mut warnings)
            .await?;
        let triggers = silence(connection, &present).await?;
        let tables = parents_first(connection, &self.order.tables, &present).await?;
        let total: u64 = tables.iter().map(|table| table.rows).sum();
        let mut done = 0;
        for table in &tables {
            let copying = Copying {
                programs: self.programs,
                path: &self.order.path,
                watch: self.watch,
            };
            copying.copy(connection, table, done, total).await?;
            done += table.rows;
        }
        failpoint!("load-copied");
        let mut loaded = Vec::with_capacity(tables.len());
        for table in &self.order.tables {
            self.watch.say("counting", &table.table.to_string(), 0, 0, "rows");
            let sql = format!("SELECT count(*) FROM ONLY {}", render::table(&table.table));
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut *connection)
                .await
                .map_err(statement)?;
            let rows = u64::try_from(rows).unwrap_or(0);
            if rows != table.rows {
                return Err(MaintenanceError::Damaged {
                    problem: format!("{} has {rows} rows after the load, {} were saved", table.table, table.rows),
                });
            }
            loaded.push(TableCount { rows, ..table.clone() });
        }
        for sql in triggers {
            connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
        }
        move_sequences(connection, &present).await?;
        for script in made {
            self.watch.say("indexing", "", 0, 0, "rows");
            connection.execute(AssertSqlSafe(script)).await.map_err(statement)?;
        }
        let entry = JournalEntry {
            run: claim.run,
            step: 0,
            batch: 1,
            pass: 1,
            fence: claim.fence,
            cursor: String::new(),
            examined: 0,
            matched: total,
            affected: total,
            along: Vec::new(),
            conflicting: 0,
            chunk: None,
        };
        journal::record(connection, &entry).await?;
        holders::unnote(connection, claim, WORK).await?;
        failpoint!("load-recorded");
        connection.execute("COMMIT").await.map_err(error::commit)?;
        Ok(Loaded {
            place: IN_PLACE.to_owned(),
            tables: loaded,
            warnings,
        })
    }

    /// Locks the tables that are there and empties them where that was asked for.
    async fn make_room(&self, connection: &mut Line) -> Result<(Vec<TableName>, Vec<&TableNotes>), MaintenanceError> {
        let (mut present, mut absent, mut filled) = (Vec::new(), Vec::new(), Vec::new());
        for table in &self.order.tables {
            let name = render::table(&table.table);
            if let Place::Absent = look(&mut *connection, &table.table).await? {
                let notes = self.notes.tables.iter().find(|notes| notes.table == table.table);
                let notes = notes.ok_or_else(|| unsuitable(&table.table, "is not in the manifest of the backup"))?;
                if notes.partition {
                    return Err(unsuitable(
                        &table.table,
                        "is a partition that is not there any more; expected it to be attached first, or a scratch place",
                    ));
                }
                absent.push(notes);
                continue;
            }
            let lock = format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE");
            connection.execute(AssertSqlSafe(lock)).await.map_err(statement)?;
            // Under the lock: rows may have come in between.
            if let Place::Table { filled: true } = look(&mut *connection, &table.table).await? {
                filled.push(table.table.clone());
            }
            present.push(table.table.clone());
        }
        if !filled.is_empty() {
            if !self.replace {
                return Err(MaintenanceError::NotEmpty {
                    tables: filled.iter().map(ToString::to_string).collect(),
                });
            }
            // Not CASCADE, and not DELETE: neither may reach a table that nobody named. A key from outside makes it fail.
            let names = present.iter().map(render::table).collect::<Vec<_>>().join(", ");
            let truncate = format!("TRUNCATE ONLY {}", names.replace(", ", ", ONLY "));
            connection.execute(AssertSqlSafe(truncate)).await.map_err(statement)?;
        }
        Ok((present, absent))
    }

    /// Makes the tables that are not there, without what comes after the rows; that is returned as scripts.
    async fn make_absent(
        &self,
        connection: &mut Line,
        absent: &[&TableNotes],
        none_present: bool,
        listing: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<String>, MaintenanceError> {
        if absent.is_empty() {
            return Ok(Vec::new());
        }
        let path = &self.order.path;
        let before = ["--section=pre-data", "--no-owner", "--file=-"];
        let after = ["--section=post-data", "--no-owner", "--file=-"];
        let mut whole = self.order.whole && none_present;
        if whole {
            // Into an empty database: functions, types and views come too.
            let script = own_sql(&self.programs.script(path, &before, None).await?);
            connection.execute("SAVEPOINT everything").await.map_err(statement)?;
            match connection.execute(AssertSqlSafe(script)).await.map_err(statement) {
                Ok(_) => {}
                Err(error) if error.code.as_deref().is_some_and(|code| THERE_ALREADY.contains(&code)) => {
                    connection
                        .execute("ROLLBACK TO SAVEPOINT everything")
                        .await
                        .map_err(statement)?;
                    warnings.push(format!(
                        "only tables and what belongs to them were made again: {}",
                        error.message
                    ));
                    whole = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let own = contents(listing, absent, |_| true);
        if !whole {
            let script = own_sql(&self.programs.script(path, &before, Some(&own)).await?);
            connection.execute(AssertSqlSafe(script)).await.map_err(statement)?;
        }
        let mut made = Vec::new();
        let sequences = contents(listing, absent, |entry| entry.starts_with("SEQUENCE SET "));
        if !sequences.is_empty() {
            made.push(own_sql(
                &self
                    .programs
                    .script(path, &["--section=data", "--file=-"], Some(&sequences))
                    .await?,
            ));
        }
        let contents = (!whole).then_some(own.as_str());
        made.push(own_sql(&self.programs.script(path, &after, contents).await?));
        Ok(made)
    }
}

impl Copying<'_> {
    /// Copies them. `before` of `total` rows are done.
    pub(super) async fn copy(
        &self,
        connection: &mut Line,
        table: &TableCount,
        before: u64,
        total: u64,
    ) -> Result<(), MaintenanceError> {
        let damaged = |problem: String| MaintenanceError::Damaged { problem };
        let shown = table.table.to_string();
        let arguments = vec![
            "--data-only".to_owned(),
            format!("--schema={}", table.table.schema.as_deref().unwrap_or("public")),
            format!("--table={}", table.table.name),
            "--file=-".to_owned(),
            path_argument("", self.path)?,
        ];
        let mut command = self.programs.command("pg_restore", None, &arguments)?;
        let mut running = Running::start("pg_restore", &mut command)?;
        let mut lines = BufReader::with_capacity(SEND, &mut running.stdout);
        let mut line = Vec::new();
        let io = |source| MaintenanceError::Io {
            path: "pg_restore".to_owned(),
            source,
        };
        let begin = loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).await.map_err(io)? == 0 {
                let said = running.end().await?.err().unwrap_or_default();
                return Err(damaged(format!("it holds no rows of {shown}. {said}")));
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(begin) = text
                .strip_prefix("COPY ")
                .and_then(|rest| rest.trim_end().strip_suffix(" FROM stdin;"))
            {
                break format!("COPY {begin} FROM stdin");
            }
        };
        let (connection, answers) = connection.parts();
        let mut sink = answers.wait(connection.copy_in_raw(&begin)).await.map_err(statement)?;
        let mut rows = 0_u64;
        let mut buffer = Vec::with_capacity(SEND * 2);
        loop {
            let start = buffer.len();
            if lines.read_until(b'\n', &mut buffer).await.map_err(io)? == 0 {
                return Err(damaged(format!("the rows of {shown} end early")));
            }
            let ended = &buffer[start..] == b"\\.\n";
            if ended {
                buffer.truncate(start);
            } else {
                rows += 1;
            }
            if ended || buffer.len() >= SEND {
                answers.wait(sink.send(&buffer[..])).await.map_err(statement)?;
                buffer.clear();
                self.watch.say("restoring", &shown, before + rows, total, "rows");
            }
            if ended {
                break;
            }
        }
        let taken = answers.wait(sink.finish()).await.map_err(statement)?;
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).await.map_err(io)? == 0 {
                break;
            }
        }
        running.end().await?.map_err(damaged)?;
        if taken == table.rows && rows == table.rows {
            return Ok(());
        }
        Err(damaged(format!(
            "{shown}: {rows} rows in the file, {taken} taken, {} were saved",
            table.rows
        )))
    }
}

/// Switches the triggers of the tables off, since what they do at an insert was done when the rows first came. Returns what switches
/// them on again.
async fn silence(connection: &mut Line, tables: &[TableName]) -> Result<Vec<String>, MaintenanceError> {
    let mut again = Vec::new();
    for table in tables {
        let name = render::table(table);
        let sql = "SELECT tgname::text, tgenabled = 'A' FROM pg_catalog.pg_trigger \
                   WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgenabled IN ('O', 'A')";
        let triggers: Vec<(String, bool)> = sqlx::query_as(sql)
            .bind(&name)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        for (trigger, always) in triggers {
            let trigger = render::identifier(&trigger);
            let off = format!("ALTER TABLE ONLY {name} DISABLE TRIGGER {trigger}");
            connection.execute(AssertSqlSafe(off)).await.map_err(statement)?;
            let always = if always { "ALWAYS " } else { "" };
            again.push(format!("ALTER TABLE ONLY {name} ENABLE {always}TRIGGER {trigger}"));
        }
    }
    Ok(again)
}

/// Tables in an order in which keys find their rows. Tables that were made now have no keys yet.
async fn parents_first(
    connection: &mut Line,
    tables: &[TableCount],
    present: &[TableName],
) -> Result<Vec<TableCount>, MaintenanceError> {
    connection.execute("SET CONSTRAINTS ALL DEFERRED").await.map_err(statement)?;
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_constraint AS f \
               JOIN pg_catalog.pg_class AS c ON c.oid = f.confrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE f.contype = 'f' AND f.conrelid = to_regclass($1) AND f.confrelid <> f.conrelid";
    let mut parents: BTreeMap<TableName, Vec<TableName>> = BTreeMap::new();
    for table in present {
        let rows = sqlx::query(sql)
            .bind(render::table(table))
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        for row in rows {
            let parent = TableName {
                schema: Some(row.try_get(0).map_err(statement)?),
                name: row.try_get(1).map_err(statement)?,
            };
            if present.contains(&parent) {
                parents.entry(table.clone()).or_default().push(parent);
            }
        }
    }
    let mut left: Vec<&TableCount> = tables.iter().collect();
    let mut ordered: Vec<TableCount> = Vec::with_capacity(tables.len());
    while !left.is_empty() {
        let ready = |table: &TableCount| {
            let mut named = parents.get(&table.table).into_iter().flatten();
            named.all(|parent| ordered.iter().any(|done| done.table == *parent))
        };
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|table| ready(table));
        if now.is_empty() {
            let circle = later
                .iter()
                .map(|table| table.table.to_string())
                .collect::<Vec<_>>()
                .join(", ");
            let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint AS f WHERE f.contype = 'f' AND NOT f.condeferrable \
                       AND f.conrelid = to_regclass($1))";
            for table in &later {
                let immediate: bool = sqlx::query_scalar(sql)
                    .bind(render::table(&table.table))
                    .fetch_one(&mut *connection)
                    .await
                    .map_err(statement)?;
                if immediate {
                    let message = format!("{circle} name each other by keys that cannot be deferred; expected a scratch place");
                    return Err(TargetError::new(TargetErrorClass::Unsupported, message).into());
                }
            }
            ordered.extend(later.into_iter().cloned());
            break;
        }
        ordered.extend(now.into_iter().cloned());
        left = later;
    }
    Ok(ordered)
}

/// Sequences of tables that were there move forward to the largest value, never back.
async fn move_sequences(connection: &mut Line, tables: &[TableName]) -> Result<(), MaintenanceError> {
    for table in tables {
        let name = render::table(table);
        let sql = "SELECT a.attname::text, pg_catalog.pg_get_serial_sequence($1, a.attname) FROM pg_catalog.pg_attribute AS a \
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
                   AND pg_catalog.pg_get_serial_sequence($1, a.attname) IS NOT NULL";
        let owned: Vec<(String, String)> = sqlx::query_as(sql)
            .bind(&name)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        for (column, sequence) in owned {
            let column = render::identifier(&column);
            // Of a sequence that counts down the smallest value is the newest; such a one is left alone.
            let forward = format!(
                "SELECT pg_catalog.setval($1::regclass, m.largest) FROM (SELECT max({column})::bigint AS largest FROM ONLY {name}) AS m, {sequence} AS s, \
                 pg_catalog.pg_sequence AS q WHERE q.seqrelid = $1::regclass AND q.seqincrement > 0 AND m.largest > s.last_value \
                 AND m.largest <= q.seqmax"
            );
            sqlx::query(AssertSqlSafe(forward))
                .bind(sequence)
                .execute(&mut *connection)
                .await
                .map_err(statement)?;
        }
    }
    Ok(())
}
