//! What a statement did to tables beside its result: locks that its transaction holds since, and tables that have a new file. For
//! rehearsals, which ask after each statement.

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_engine::{
    model::{LockMode, StatementReport, TableLock},
    port::TargetError,
};
use sqlx::PgConnection;

use super::{
    super::error::statement,
    session::{simple, text},
};

const TABLES: &str = "SELECT c.oid::text, n.nspname || '.' || c.relname, coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep') AND n.nspname !~ '^pg_(toast|temp)'";

const LOCKS: &str = "SELECT l.relation::text, l.mode FROM pg_catalog.pg_locks AS l \
     WHERE l.locktype = 'relation' AND l.granted AND l.pid = pg_catalog.pg_backend_pid() \
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())";

/// Tables that were there when the group began: others see no lock on one that came later.
pub(super) struct Observer {
    tables: BTreeMap<String, (String, String)>,
    held: BTreeSet<(String, LockMode)>,
}

impl Observer {
    pub(super) async fn begin(connection: &mut PgConnection) -> Result<Self, TargetError> {
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
        connection: &mut PgConnection,
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
