//! Sizes of the database and of tables, from what the server knows without looking at a row. A table that somebody has locked for
//! himself is not waited for: its size is then unknown.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{RowsBy, SizeSnapshot, TableName, TableSize},
    port::{MaintenanceError, TargetError, TargetErrorClass},
};
use sqlx::{Executor as _, Row as _};

use super::{
    PostgresTarget,
    error::statement,
    line::Line,
    observe::{self, Space},
    render,
};

/// Nobody waits long for numbers.
const SESSION: &str = "SET lock_timeout = '1s'; SET statement_timeout = '5s'";
/// Tables that are looked at where none are named.
const LARGEST: i64 = 20;

const LARGEST_TABLES: &str = "SELECT n.nspname::text, c.relname::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'dbkeep') \
     ORDER BY c.relpages DESC, n.nspname, c.relname LIMIT $1";

/// A table, or all leaves of a partitioned one. Without a page there is no row; without statistics nothing is known of rows: they are
/// -1 then, and on servers before 14 the same as of an empty table.
const TABLE: &str = "SELECT sum(pg_catalog.pg_total_relation_size(c.oid))::bigint, \
       coalesce(bool_and(pg_catalog.pg_relation_size(c.oid) = 0), false), \
       CASE WHEN bool_and(c.reltuples > 0 OR c.reltuples = 0 AND c.relpages > 0 OR pg_catalog.pg_relation_size(c.oid) = 0) \
         THEN sum(greatest(c.reltuples, 0))::bigint END, \
       array_agg(c.oid::bigint) \
     FROM pg_catalog.pg_class AS c \
     WHERE c.relkind IN ('r', 'm') AND (c.oid = pg_catalog.to_regclass($1) \
       OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) AS p))";

fn number(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok())
}

/// The size of a table, and the oids of what its rows are in; `None` where there is no such table any more.
async fn table(connection: &mut Line, name: &TableName) -> Result<Option<(TableSize, Vec<i64>)>, TargetError> {
    let row = sqlx::query(TABLE)
        .bind(render::table(name))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    let bytes: Option<i64> = row.try_get(0).map_err(statement)?;
    if bytes.is_none() {
        return Ok(None);
    }
    let is_empty: bool = row.try_get(1).map_err(statement)?;
    let rows = number(row.try_get(2).map_err(statement)?);
    let size = TableSize {
        table: name.to_string(),
        rows,
        rows_by: match rows {
            _ if is_empty => RowsBy::Count,
            Some(_) => RowsBy::Estimate,
            None => RowsBy::Unknown,
        },
        bytes: number(bytes),
        ..TableSize::default()
    };
    Ok(Some((size, row.try_get(3).map_err(statement)?)))
}

/// Dead rows, and bytes that are free, of all parts of a table; `None` where that is not known of one of them.
fn together(space: &BTreeMap<i64, Space>, parts: &[i64]) -> (Option<u64>, Option<u64>) {
    if parts.is_empty() {
        return (None, None);
    }
    let sum = |what: fn(&Space) -> Option<u64>| parts.iter().map(|part| space.get(part).and_then(what)).sum::<Option<u64>>();
    (sum(|space| Some(space.dead_rows)), sum(|space| space.free_bytes))
}

/// The largest tables.
async fn largest(connection: &mut Line) -> Result<Vec<TableName>, TargetError> {
    let rows = sqlx::query(LARGEST_TABLES)
        .bind(LARGEST)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter()
        .map(|row| {
            Ok(TableName {
                schema: Some(row.try_get(0).map_err(statement)?),
                name: row.try_get(1).map_err(statement)?,
            })
        })
        .collect()
}

/// Whether the failure of one look says nothing about the others.
fn is_passing(error: &TargetError) -> bool {
    matches!(
        error.class,
        TargetErrorClass::LockTimeout | TargetErrorClass::Timeout | TargetErrorClass::Permission
    )
}

impl PostgresTarget {
    pub(super) async fn measure(&self, tables: Option<&[TableName]>) -> Result<SizeSnapshot, MaintenanceError> {
        // A connection with such short limits is of no use to others: it is closed at the end.
        let mut connection = self.connect().await?;
        connection.execute(SESSION).await.map_err(statement)?;
        self.have_counters_told(&mut connection).await?;
        let whole = sqlx::query_scalar("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")
            .fetch_one(&mut connection)
            .await
            .map_err(statement);
        let database_bytes = match whole {
            Ok(bytes) => number(bytes),
            Err(error) if is_passing(&error) => None,
            Err(error) => return Err(error.into()),
        };
        let named = match tables {
            Some(tables) => tables.to_vec(),
            None => largest(&mut connection).await?,
        };
        let mut sizes = Vec::with_capacity(named.len());
        for name in &named {
            match table(&mut connection, name).await {
                Ok(size) => sizes.extend(size),
                Err(error) if is_passing(&error) => {
                    let unknown = TableSize {
                        table: name.to_string(),
                        ..TableSize::default()
                    };
                    sizes.push((unknown, Vec::new()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let parts: Vec<i64> = sizes.iter().flat_map(|(_, parts)| parts.iter().copied()).collect();
        let space = match observe::space(&mut connection, &parts).await {
            Ok(space) => space,
            Err(error) if is_passing(&error) => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        for (size, parts) in &mut sizes {
            (size.dead_rows, size.free_bytes) = together(&space, parts);
        }
        Ok(SizeSnapshot {
            at: jiff::Timestamp::now(),
            database_bytes,
            reusable_bytes: None,
            tables: sizes.into_iter().map(|(size, _)| size).collect(),
        })
    }
}
