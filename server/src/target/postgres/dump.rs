//! Whole tables out of PostgreSQL: `pg_dump` and the row counts work in one exported snapshot, so that they agree exactly.

use std::{path::Path, time::Duration};

use dbkeep_engine::{
    model::{TableCount, TableKind, TableName},
    port::{DumpOrder, DumpScope, Dumped, MaintenanceError, Watch},
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use tokio_util::sync::CancellationToken;

use super::{
    PostgresTarget,
    error::statement,
    holders, introspect,
    line::Line,
    render,
    tool::{Running, path_argument},
};
use crate::target::measure::growing;

/// Schemas of dbkeep itself: a restore must neither turn back the journal nor the control store.
pub(super) const OWN_SCHEMAS: [&str; 2] = ["dbkeep", "dbkeep_control"];

/// What its session notes that it does.
const WORK: &str = "dump";
/// Between two signs of life, well within the time after which the server ends an idle transaction.
const ALIVE: Duration = Duration::from_secs(10);

/// What a load needs to know of a dump beside the dump itself.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Notes {
    /// Whether it is of the whole database.
    pub(super) whole: bool,
    /// Extensions with their versions, which no dump holds; `None` in a dump of tables, and in one of a version that did not note them.
    #[serde(default)]
    pub(super) extensions: Option<Vec<(String, String)>>,
    pub(super) tables: Vec<TableNotes>,
}

/// The objects that belong to one table. The dump's table of contents names an index without its table, but with its oids.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TableNotes {
    pub(super) table: TableName,
    /// Whether it is a partition, which only its parent can make again.
    pub(super) partition: bool,
    /// (oid of the catalog, oid of the object).
    pub(super) objects: Vec<(i64, i64)>,
    /// Sequences that its columns own, as the table of contents writes them: "schema name".
    pub(super) sequences: Vec<String>,
}

/// Ordinary tables that are not the system's, dbkeep's or an extension's; `$1` are oids to look under, or NULL for all.
const TABLES: &str = "WITH RECURSIVE asked (oid) AS (SELECT unnest($1::bigint[])::oid \
       UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN asked AS a ON a.oid = i.inhparent) \
     SELECT n.nspname::text, c.relname::text, c.oid::bigint, c.relispartition, pg_catalog.pg_table_size(c.oid) \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> ALL ($2) AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
       AND ($1 IS NULL OR c.oid IN (SELECT a.oid FROM asked AS a)) \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
     ORDER BY 1, 2";

const OBJECTS: &str = "SELECT o.catalog::oid::bigint, o.object::bigint FROM ( \
       SELECT 'pg_catalog.pg_class'::regclass AS catalog, i.indexrelid AS object FROM pg_catalog.pg_index AS i WHERE i.indrelid = $1 \
       UNION SELECT 'pg_catalog.pg_constraint'::regclass, c.oid FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = $1 \
       UNION SELECT 'pg_catalog.pg_attrdef'::regclass, a.oid FROM pg_catalog.pg_attrdef AS a WHERE a.adrelid = $1 \
       UNION SELECT 'pg_catalog.pg_trigger'::regclass, t.oid FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = $1 AND NOT t.tgisinternal \
       UNION SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy AS p WHERE p.polrelid = $1 \
       UNION SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = $1 \
       UNION SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid FROM pg_catalog.pg_statistic_ext AS s WHERE s.stxrelid = $1) AS o";

/// Sequences that a column of the table owns (serial, identity).
const SEQUENCES: &str = "SELECT s.oid::bigint, n.nspname || ' ' || s.relname FROM pg_catalog.pg_depend AS d \
     JOIN pg_catalog.pg_class AS s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace \
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1 AND d.deptype IN ('a', 'i')";

pub(super) struct Found {
    pub(super) table: TableName,
    pub(super) oid: i64,
    partition: bool,
    bytes: u64,
}

pub(super) async fn tables(connection: &mut Line, asked: Option<Vec<i64>>) -> Result<Vec<Found>, MaintenanceError> {
    let rows = sqlx::query(TABLES)
        .bind(asked)
        .bind(OWN_SCHEMAS.map(str::to_owned).to_vec())
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let bytes: i64 = row.try_get(4).map_err(statement)?;
        found.push(Found {
            table: TableName {
                schema: Some(row.try_get(0).map_err(statement)?),
                name: row.try_get(1).map_err(statement)?,
            },
            oid: row.try_get(2).map_err(statement)?,
            partition: row.try_get(3).map_err(statement)?,
            bytes: u64::try_from(bytes).unwrap_or(0),
        });
    }
    Ok(found)
}

/// The table as the database resolves it, or why it cannot be dumped.
async fn resolve(connection: &mut Line, asked: &TableName) -> Result<TableName, MaintenanceError> {
    let problem = |problem: &str| MaintenanceError::Table {
        table: asked.clone(),
        problem: problem.to_owned(),
    };
    let schema = introspect::table(connection, asked).await?;
    let schema = schema.ok_or_else(|| problem("is not there; expected the name of a table"))?;
    match schema.kind {
        TableKind::View => Err(problem("is a view; expected a table")),
        TableKind::Foreign => Err(problem(
            "is a foreign table, whose rows are elsewhere; expected a table of this database",
        )),
        _ if OWN_SCHEMAS.contains(&schema.name.schema.as_deref().unwrap_or_default()) => {
            Err(problem("belongs to dbkeep itself; expected another table"))
        }
        TableKind::Table | TableKind::Partitioned | TableKind::Inherited => Ok(schema.name),
    }
}

async fn oid(connection: &mut Line, table: &TableName) -> Result<i64, MaintenanceError> {
    let oid: Option<i64> = sqlx::query_scalar("SELECT to_regclass($1)::oid::bigint")
        .bind(render::table(table))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    oid.ok_or_else(|| MaintenanceError::Table {
        table: table.clone(),
        problem: "is not there any more".to_owned(),
    })
}

impl PostgresTarget {
    pub(super) async fn server_major(&self, connection: &mut Line) -> Result<u32, MaintenanceError> {
        let number: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer")
            .fetch_one(connection)
            .await
            .map_err(statement)?;
        Ok(u32::try_from(number / 10_000).unwrap_or(0))
    }

    pub(super) async fn dump_scope(&self, asked: &[TableName]) -> Result<DumpScope, MaintenanceError> {
        let mut connection = self.connection().await?;
        let major = self.server_major(&mut connection).await?;
        let version = self.programs.check("pg_dump", major).await?;
        let mut resolved = Vec::with_capacity(asked.len());
        for table in asked {
            let table = resolve(&mut connection, table).await?;
            if !resolved.contains(&table) {
                resolved.push(table);
            }
        }
        self.idle.put(connection);
        Ok(DumpScope {
            tables: resolved,
            tool: format!("pg_dump {version}"),
            file: if asked.is_empty() { "database.dump" } else { "tables.dump" },
        })
    }

    pub(super) async fn dump_tables(&self, order: &DumpOrder, watch: &Watch) -> Result<Dumped, MaintenanceError> {
        let mut connection = self.connect().await?;
        if let Some(claim) = order.claim {
            holders::note(&mut connection, claim, WORK).await?;
        }
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
                     SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL synchronize_seqscans = off";
        connection.execute(begin).await.map_err(statement)?;
        if order.claim.is_some() {
            connection.execute(holders::HELD).await.map_err(statement)?;
        }
        let snapshot: String = sqlx::query_scalar("SELECT pg_export_snapshot()")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let asked = if order.tables.is_empty() {
            None
        } else {
            let mut oids = Vec::new();
            for table in &order.tables {
                oids.push(oid(&mut connection, table).await?);
            }
            Some(oids)
        };
        let found = tables(&mut connection, asked).await?;
        let total = found.iter().map(|table| table.bytes).sum();
        let mut arguments = arguments(&snapshot, &order.path)?;
        if order.schema_only {
            arguments.push("--schema-only".to_owned());
        }
        if order.tables.is_empty() {
            arguments.extend(OWN_SCHEMAS.map(|schema| format!("--exclude-schema={schema}")));
        } else {
            // Partitions and heirs hold the rows of a parent; in quotes a name is no pattern.
            let parents = order.tables.iter().map(render::table);
            let all = parents.chain(found.iter().map(|found| render::table(&found.table)));
            let mut all = all.map(|table| format!("--table={table}")).collect::<Vec<_>>();
            all.sort_unstable();
            all.dedup();
            arguments.extend(all);
        }
        let programs = order.claim.map(|claim| self.programs.named(holders::name(claim)));
        let mut command = programs
            .as_ref()
            .unwrap_or(&self.programs)
            .command("pg_dump", None, &arguments)?;
        let running = Running::start("pg_dump", &mut command)?;
        let dumped = CancellationToken::new();
        let dumping = async {
            let ended = growing(&order.path, total, "dumping", watch, running.end()).await?;
            dumped.cancel();
            ended.map_err(|said| MaintenanceError::Tool {
                tool: "pg_dump".to_owned(),
                problem: said,
            })
        };
        let counting = async {
            let mut counts = Vec::with_capacity(found.len());
            let mut notes = Vec::with_capacity(found.len());
            for found in &found {
                let sql = format!("SELECT count(*) FROM ONLY {}", render::table(&found.table));
                let rows: i64 = if order.schema_only {
                    0
                } else {
                    sqlx::query_scalar(AssertSqlSafe(sql))
                        .fetch_one(&mut connection)
                        .await
                        .map_err(statement)?
                };
                counts.push(TableCount {
                    table: found.table.clone(),
                    rows: u64::try_from(rows).unwrap_or(0),
                });
                notes.push(belongings(&mut connection, found).await?);
            }
            // The snapshot is held for as long as the dump takes, and no longer where this process is stopped: it shows that it lives.
            loop {
                tokio::select! {
                    () = dumped.cancelled() => break,
                    () = tokio::time::sleep(ALIVE) => {}
                }
                connection.execute("SELECT 1").await.map_err(statement)?;
            }
            Ok::<_, MaintenanceError>((counts, notes))
        };
        // Whichever fails first drops the other: pg_dump is killed, or the counting ends with its connection.
        let (tables, notes) = watch.or_stop(async { tokio::try_join!(dumping, counting) }).await?.1;
        let whole = order.tables.is_empty();
        let (extensions, ledger) = if whole {
            let found = super::rewind::extensions(&mut connection).await?;
            (Some(found), super::migrator::ledger::all(&mut connection).await?)
        } else {
            (None, Vec::new())
        };
        connection.execute("COMMIT").await.map_err(statement)?;
        if let Some(claim) = order.claim {
            holders::over(&mut connection, claim, WORK).await;
        }
        let notes = Notes {
            whole,
            extensions,
            tables: notes,
        };
        Ok(Dumped {
            tables,
            notes: serde_json::to_value(notes).map_err(|error| super::error::refused(error.to_string()))?,
            ledger,
        })
    }
}

/// What `pg_dump` is called with, whatever it dumps.
pub(super) fn arguments(snapshot: &str, path: &Path) -> Result<Vec<String>, MaintenanceError> {
    Ok(vec![
        "--format=custom".to_owned(),
        "--compress=1".to_owned(),
        "--no-password".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--quote-all-identifiers".to_owned(),
        "--lock-wait-timeout=10000".to_owned(),
        // The file is made durable when it is sealed.
        "--no-sync".to_owned(),
        format!("--snapshot={snapshot}"),
        path_argument("--file=", path)?,
    ])
}

async fn belongings(connection: &mut Line, found: &Found) -> Result<TableNotes, MaintenanceError> {
    const CLASS: i64 = 1_259;
    let mut objects = vec![(CLASS, found.oid), (0, found.oid)];
    let pairs: Vec<(i64, i64)> = sqlx::query_as(OBJECTS)
        .bind(sqlx::postgres::types::Oid(u32::try_from(found.oid).unwrap_or(0)))
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    objects.extend(pairs);
    let owned: Vec<(i64, String)> = sqlx::query_as(SEQUENCES)
        .bind(sqlx::postgres::types::Oid(u32::try_from(found.oid).unwrap_or(0)))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    objects.extend(owned.iter().map(|(oid, _)| (CLASS, *oid)));
    Ok(TableNotes {
        table: found.table.clone(),
        partition: found.partition,
        objects,
        sequences: owned.into_iter().map(|(_, name)| name).collect(),
    })
}
