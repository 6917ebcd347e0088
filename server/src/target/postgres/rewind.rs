//! A whole database back to what a dump holds, in one transaction of ours: the tables are locked against writers, and later against
//! everybody; whatever the application made is dropped; `pg_restore` writes what the dump holds to a pipe, and this connection carries
//! it out, so that fence, schema, rows, ledger and journal row commit together. What is dropped and what cannot be is in `drop`.

mod drop;
mod hold;

use std::path::PathBuf;

use async_trait::async_trait;
use dbkeep_engine::{
    failpoint,
    model::{JournalEntry, LedgerEntry, TableCount},
    port::{
        Claim, FreezeOrder, Frozen, MaintenanceError, MigratorError, RewindOrder, Rewinder, Rewound, TargetError,
        TargetErrorClass, Watch,
    },
};
use sqlx::{AssertSqlSafe, Executor as _};

pub(super) use self::drop::extensions;
use self::hold::{Kept, Locks};
use super::{
    PostgresTarget,
    contents::own_sql,
    dump::{Notes, tables},
    error::{self, refused, statement},
    holders, journal,
    line::Line,
    load::{Copying, backend},
    migrator::ledger,
    render,
};

/// What its session notes that it does.
const WORK: &str = "rollback from a backup";
/// Between two signs of life of ours; a process that is stopped leaves locks behind for no longer than that.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0; \
     SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL synchronous_commit = on; SET LOCAL row_security = off; \
     SET LOCAL client_min_messages = warning";

/// Sections of a script set a session's limits to none.
const AGAIN: &str = "SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL client_min_messages = warning";

/// A transaction that no writer gets past.
struct FrozenDatabase {
    target: PostgresTarget,
    kept: Kept,
    process: i32,
    claim: Claim,
    path: PathBuf,
    locks: Locks,
}

async fn counted(connection: &mut Line) -> Result<Vec<TableCount>, MaintenanceError> {
    let mut counts = Vec::new();
    for found in tables(connection, None).await? {
        let sql = format!("SELECT count(*) FROM ONLY {}", render::table(&found.table));
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        counts.push(TableCount {
            table: found.table,
            rows: u64::try_from(rows).unwrap_or(0),
        });
    }
    Ok(counts)
}

#[async_trait]
impl Rewinder for PostgresTarget {
    async fn survey(&self) -> Result<Vec<TableCount>, MaintenanceError> {
        let mut connection = self.connect().await?;
        let major = self.server_major(&mut connection).await?;
        self.programs.check("pg_restore", major).await?;
        super::begin_reading(&mut connection).await?;
        connection
            .execute("SET LOCAL statement_timeout = 0")
            .await
            .map_err(statement)?;
        drop::check(&mut connection).await?;
        let counts = counted(&mut connection).await?;
        connection.execute("COMMIT").await.map_err(statement)?;
        Ok(counts)
    }

    async fn freeze(&self, order: &FreezeOrder, watch: &Watch) -> Result<Box<dyn Frozen>, MaintenanceError> {
        let mut connection = self.connect().await?;
        let process = backend(&mut connection).await?;
        holders::note(&mut connection, order.claim, WORK).await?;
        connection.execute(BEGIN).await.map_err(statement)?;
        // The row lock makes a newer attempt's claim wait for this transaction, so that a fenced off one has committed or never will.
        let fence: Option<i64> = sqlx::query_scalar("SELECT r.fence FROM dbkeep.run AS r WHERE r.run_id = $1 FOR SHARE")
            .bind(order.claim.run.to_string())
            .fetch_optional(&mut connection)
            .await
            .map_err(statement)?;
        if fence.and_then(|fence| u64::try_from(fence).ok()) != Some(order.claim.fence) {
            return Err(journal::fenced().into());
        }
        drop::check(&mut connection).await?;
        let locks = Locks {
            timeout: order.lock_timeout,
            tries: order.lock_tries.max(1),
        };
        watch.say("waiting for writers", "", 0, 0, "");
        // Readers go on, and pg_dump is one of them.
        watch.or_stop(locks.take(self, &mut connection, process, "EXCLUSIVE")).await?;
        Ok(Box::new(FrozenDatabase {
            target: self.handle(),
            kept: Kept::keep(connection),
            process,
            claim: order.claim,
            path: order.path.clone(),
            locks,
        }))
    }
}

#[async_trait]
impl Frozen for FrozenDatabase {
    async fn rewind(self: Box<Self>, order: &RewindOrder, watch: &Watch) -> Result<Rewound, MaintenanceError> {
        let Self {
            target,
            kept,
            process,
            claim,
            path,
            locks,
        } = *self;
        let mut connection = kept.end().await?;
        let work = Work {
            target: &target,
            process,
            claim,
            path: &path,
            locks: &locks,
            order,
            watch,
        };
        tokio::select! {
            biased;
            () = watch.stop.cancelled() => {}
            done = work.carry_out(&mut connection) => return done,
        }
        // Closing the connection alone would leave a long statement at work, and the locks with it.
        std::mem::drop(connection);
        target.cancel(process).await;
        // The COMMIT may have been on its way. A claim waits until that transaction is over; then the journal tells.
        let mut connection = target.connect().await?;
        journal::claim(&mut connection, claim).await?;
        let totals = journal::totals(&mut connection, claim.run).await?;
        if totals.iter().any(|step| step.step == order.step) {
            return Ok(Rewound {
                tables: order.tables.clone(),
                warnings: Vec::new(),
            });
        }
        Err(MaintenanceError::Stopped)
    }
}

impl PostgresTarget {
    /// The same target for a task of its own.
    fn handle(&self) -> Self {
        Self {
            hosts: self.hosts.clone(),
            programs: self.programs.clone(),
            idle: std::sync::Arc::clone(&self.idle),
            sessions: std::sync::Arc::clone(&self.sessions),
            silence: self.silence,
            limit: self.limit,
            parallel: self.parallel,
        }
    }
}

struct Work<'a> {
    target: &'a PostgresTarget,
    process: i32,
    claim: Claim,
    path: &'a std::path::Path,
    locks: &'a Locks,
    order: &'a RewindOrder,
    watch: &'a Watch,
}

impl Work<'_> {
    async fn carry_out(&self, connection: &mut Line) -> Result<Rewound, MaintenanceError> {
        let notes: Notes = serde_json::from_value(self.order.notes.clone()).map_err(|error| MaintenanceError::Damaged {
            problem: format!("its manifest: {error}"),
        })?;
        let programs = &self.target.programs;
        let listing = programs.script(self.path, &["--list"], None).await?;
        if let Some(large) = listing.lines().find(|line| line.contains(" BLOB")) {
            return Err(MaintenanceError::Unsupported {
                problem: format!(
                    "the backup holds large objects ({large}), which cannot be brought back this way; expected a restore by hand"
                ),
            });
        }
        self.watch.say("waiting for readers", "", 0, 0, "");
        self.locks
            .take(self.target, connection, self.process, "ACCESS EXCLUSIVE")
            .await?;
        // What came while the present state was saved is locked only now, and may hold rows that nobody saved.
        self.look_for_new(connection).await?;
        self.watch.say("dropping", "", 0, 0, "tables");
        let mut warnings = Vec::new();
        let present = extensions(connection).await?;
        let kept = drop::everything(connection, &notes)
            .await
            .map_err(|error| self.locks.in_words(error, &[]))?;
        failpoint!("rewind-dropped");
        let list = chosen(&listing, &kept);
        self.run_section(connection, "--section=pre-data", &list).await?;
        drop::same_extensions(connection, &notes).await?;
        for table in others(&listing, &self.order.tables) {
            // An extension's own table; the dump does not say of which.
            if notes
                .extensions
                .iter()
                .flatten()
                .any(|extension| !present.contains(extension))
            {
                return Err(MaintenanceError::Unsupported {
                    problem: format!(
                        "the backup holds rows of {table}, which belongs to an extension, and an extension of the backup is not there any more; expected it to be created before"
                    ),
                });
            }
            warnings.push(format!(
                "rows of {table}, which belongs to an extension, stay as they are now"
            ));
        }
        let total: u64 = self.order.tables.iter().map(|table| table.rows).sum();
        let mut done = 0;
        let copying = Copying {
            programs,
            path: self.path,
            watch: self.watch,
        };
        for table in &self.order.tables {
            copying.copy(connection, table, done, total).await?;
            done += table.rows;
        }
        failpoint!("rewind-filled");
        self.watch.say("indexing", "", 0, 0, "");
        // Positions of sequences; the rows are there.
        let others: String = list
            .lines()
            .filter(|line| entry_of(line).is_some_and(|entry| entry.starts_with("SEQUENCE SET ")))
            .map(|line| format!("{line}\n"))
            .collect();
        if !others.is_empty() {
            self.run_section(connection, "--section=data", &others).await?;
        }
        self.run_section(connection, "--section=post-data", &list).await?;
        let counts = counted(connection).await?;
        if let Some(other) = counts
            .iter()
            .find(|found| !self.order.tables.iter().any(|table| table.table == found.table))
        {
            let message = format!("{} was made while the database was replaced", other.table);
            return Err(TargetError::new(TargetErrorClass::Conflict, message).into());
        }
        for table in &self.order.tables {
            let rows = counts.iter().find(|found| found.table == table.table).map(|found| found.rows);
            if rows != Some(table.rows) {
                let rows = rows.map_or_else(|| "none".to_owned(), |rows| rows.to_string());
                return Err(MaintenanceError::Damaged {
                    problem: format!("{} has {rows} rows after the restore, {} were saved", table.table, table.rows),
                });
            }
        }
        self.settle(connection, total).await?;
        failpoint!("rewind-recorded");
        connection.execute("COMMIT").await.map_err(error::commit)?;
        Ok(Rewound {
            tables: self.order.tables.clone(),
            warnings,
        })
    }

    /// The ledger as the schema is now, the journal row, and the lease right before the commit.
    async fn settle(&self, connection: &mut Line, total: u64) -> Result<(), MaintenanceError> {
        let now = ledger::all(connection).await?;
        for entry in LedgerEntry::rewound(&now, &self.order.ledger, self.claim.run, &self.order.by) {
            ledger::write(connection, &entry).await?;
        }
        let entry = JournalEntry {
            run: self.claim.run,
            step: self.order.step,
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
        holders::unnote(connection, self.claim, WORK).await?;
        match ledger::hold_lease(connection, self.claim).await {
            Ok(()) => Ok(()),
            Err(MigratorError::Target(error)) => Err(error.into()),
            Err(other) => Err(refused(other.to_string()).into()),
        }
    }

    async fn look_for_new(&self, connection: &mut Line) -> Result<(), MaintenanceError> {
        let locked = "SELECT count(*) FROM pg_catalog.pg_locks AS l WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' \
                      AND l.mode = 'ExclusiveLock' AND l.granted AND l.relation = $1";
        for found in tables(connection, None).await? {
            let held: i64 = sqlx::query_scalar(locked)
                .bind(sqlx::postgres::types::Oid(u32::try_from(found.oid).unwrap_or(0)))
                .fetch_one(&mut *connection)
                .await
                .map_err(statement)?;
            if held == 0 {
                let message = format!("{} was made while the present state was saved", found.table);
                return Err(TargetError::new(TargetErrorClass::Conflict, message).into());
            }
        }
        Ok(())
    }

    async fn run_section(&self, connection: &mut Line, section: &str, list: &str) -> Result<(), MaintenanceError> {
        let arguments = [section, "--file=-"];
        let script = own_sql(&self.target.programs.script(self.path, &arguments, Some(list)).await?);
        connection.execute(AssertSqlSafe(script)).await.map_err(statement)?;
        connection.execute(AGAIN).await.map_err(statement)?;
        Ok(())
    }
}

/// What a line of a table of contents is about: "TABLE public child postgres".
fn entry_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("; ")?;
    let mut words = rest.splitn(3, ' ');
    let (catalog, object, entry) = (words.next()?, words.next()?, words.next()?);
    (catalog.parse::<i64>().is_ok() && object.parse::<i64>().is_ok()).then_some(entry)
}

/// Tables whose rows a dump holds beside these.
fn others(listing: &str, tables: &[TableCount]) -> Vec<String> {
    let known = |entry: &str| {
        tables.iter().any(|table| {
            let schema = table.table.schema.as_deref().unwrap_or_default();
            entry.starts_with(&format!("{schema} {} ", table.table.name))
        })
    };
    listing
        .lines()
        .filter_map(|line| entry_of(line)?.strip_prefix("TABLE DATA "))
        .filter(|entry| !known(entry))
        .map(|entry| entry.rsplit_once(' ').map_or(entry, |(name, _)| name).replacen(' ', ".", 1))
        .collect()
}

/// The table of contents without schemas that were kept, and without what only an extension's owner may say.
fn chosen(listing: &str, kept: &[String]) -> String {
    let mut list = String::new();
    for line in listing.lines() {
        let Some(entry) = entry_of(line) else { continue };
        let made_already = kept.iter().any(|schema| entry.starts_with(&format!("SCHEMA - {schema} ")));
        if !made_already && !entry.starts_with("COMMENT - EXTENSION ") {
            list.push_str(line);
            list.push('\n');
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_not_made_again() {
        let listing = "; Archive created at ..\n;\n6; 2615 2200 SCHEMA - public pg_database_owner\n7; 2615 16400 SCHEMA - app me\n\
                       2; 3079 16385 EXTENSION - pg_trgm \n3; 0 0 COMMENT - EXTENSION pg_trgm \n215; 1259 16385 TABLE public child me\n";
        let list = chosen(listing, &["public".to_owned()]);
        let numbers: Vec<_> = list
            .lines()
            .filter_map(|line| line.split_once(';'))
            .map(|(number, _)| number)
            .collect();
        assert_eq!(numbers, ["7", "2", "215"]);
    }
}
