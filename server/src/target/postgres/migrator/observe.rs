//! What a statement did to tables beside its result: locks that its transaction holds since, and tables that have a new file. For
//! rehearsals, which ask after each statement.
//!
//! A statement that no transaction holds has let go of its locks by then. It is watched from another session while it works: what is
//! seen was there, and what was there for a moment only may not be seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Mutex,
    time::Duration,
};

use dbkeep_engine::{
    model::{LockMode, StatementReport, TableLock},
    port::TargetError,
};

use super::super::line::Line;
use super::{
    super::{PostgresTarget, error::statement},
    session::{simple, text},
};

const TABLES: &str = "SELECT c.oid::text, n.nspname || '.' || c.relname, coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep') AND n.nspname !~ '^pg_(toast|temp)'";

const LOCKS: &str = "SELECT l.relation::text, l.mode FROM pg_catalog.pg_locks AS l \
     WHERE l.locktype = 'relation' AND l.granted AND l.pid = pg_catalog.pg_backend_pid() \
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())";

const LOCKS_OF: &str = "SELECT l.relation::bigint::text, l.mode FROM pg_catalog.pg_locks AS l WHERE l.locktype = 'relation' AND l.granted AND l.pid = $1 \
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())";

/// First and longest pause between two looks from outside: most locks of a short statement are seen, and a long one is not disturbed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// Tables that were there when the group began: others see no lock on one that came later.
pub(super) struct Observer {
    tables: BTreeMap<String, (String, String)>,
    held: BTreeSet<(String, LockMode)>,
}

impl Observer {
    pub(super) async fn begin(connection: &mut Line) -> Result<Self, TargetError> {
        let mut tables = BTreeMap::new();
        for row in simple(connection, TABLES.to_owned())
            .await
            .map_err(statement)?
            .iter()
            .flatten()
        {
            let name = text(row, 1)?.unwrap_or_default();
            tables.insert(text(row, 0)?.unwrap_or_default(), (name, text(row, 2)?.unwrap_or_default()));
        }
        Ok(Self {
            tables,
            held: BTreeSet::new(),
        })
    }

    /// Adds to a report what is new since the last look.
    pub(super) async fn look(
        &mut self,
        connection: &mut Line,
        report: &mut StatementReport,
        empties: bool,
    ) -> Result<(), TargetError> {
        let results = simple(connection, format!("{LOCKS}; {TABLES}")).await.map_err(statement)?;
        let mut results = results.iter();
        let mut exclusive = BTreeSet::new();
        for row in results.next().into_iter().flatten() {
            let (Some(relation), Some(mode)) = (text(row, 0)?, text(row, 1)?) else {
                continue;
            };
            let Some(mode) = mode_named(&mode) else { continue };
            let Some((table, _)) = self.tables.get(&relation) else {
                continue;
            };
            if mode >= LockMode::ShareUpdateExclusive {
                exclusive.insert(relation.clone());
            }
            if self.held.insert((relation, mode)) {
                report.locks.push(TableLock {
                    table: table.clone(),
                    mode,
                });
            }
        }
        report.locks.sort();
        for row in results.next().into_iter().flatten() {
            let (relation, file) = (text(row, 0)?.unwrap_or_default(), text(row, 2)?.unwrap_or_default());
            if let Some((table, known)) = self.tables.get_mut(&relation)
                && *known != file
            {
                // A new file after TRUNCATE holds nothing that was written.
                if !empties && exclusive.contains(&relation) {
                    report.rewritten.push(table.clone());
                }
                *known = file;
            }
        }
        report.rewritten.sort();
        Ok(())
    }
}

impl Observer {
    /// Adds what was seen from outside to the report of a statement that has ended, and what it wrote anew.
    pub(super) async fn look_back(
        &mut self,
        connection: &mut Line,
        report: &mut StatementReport,
        seen: Mutex<BTreeSet<(String, LockMode)>>,
    ) -> Result<(), TargetError> {
        let seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.locks_at_least = true;
        for (relation, mode) in seen {
            if let Some((table, _)) = self.tables.get(&relation) {
                report.locks.push(TableLock {
                    table: table.clone(),
                    mode,
                });
            }
        }
        report.locks.sort();
        for row in simple(connection, TABLES.to_owned())
            .await
            .map_err(statement)?
            .iter()
            .flatten()
        {
            let (relation, file) = (text(row, 0)?.unwrap_or_default(), text(row, 2)?.unwrap_or_default());
            if let Some((table, known)) = self.tables.get_mut(&relation)
                && *known != file
            {
                report.rewritten.push(table.clone());
                *known = file;
            }
        }
        report.rewritten.sort();
        Ok(())
    }
}

impl PostgresTarget {
    /// Notes the locks that a process holds, until it is dropped.
    pub(super) async fn note_locks(&self, process: i32, seen: &Mutex<BTreeSet<(String, LockMode)>>) -> Infallible {
        let mut pause = PAUSES.0;
        let mut kept: Option<Line> = None;
        loop {
            // Whoever cannot be asked tells nothing: the report says "at least".
            if let Some(mut connection) = match kept.take() {
                Some(connection) => Some(connection),
                None => self.connection().await.ok(),
            } && let Ok(found) = sqlx::query_as::<_, (String, String)>(LOCKS_OF)
                .bind(process)
                .fetch_all(&mut connection)
                .await
            {
                if let Ok(mut seen) = seen.lock() {
                    seen.extend(
                        found
                            .into_iter()
                            .filter_map(|(relation, mode)| Some((relation, mode_named(&mode)?))),
                    );
                }
                kept = Some(connection);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(PAUSES.1);
        }
    }
}

fn mode_named(name: &str) -> Option<LockMode> {
    Some(match name {
        "AccessShareLock" => LockMode::AccessShare,
        "RowShareLock" => LockMode::RowShare,
        "RowExclusiveLock" => LockMode::RowExclusive,
        "ShareUpdateExclusiveLock" => LockMode::ShareUpdateExclusive,
        "ShareLock" => LockMode::Share,
        "ShareRowExclusiveLock" => LockMode::ShareRowExclusive,
        "ExclusiveLock" => LockMode::Exclusive,
        "AccessExclusiveLock" => LockMode::AccessExclusive,
        _ => return None,
    })
}
