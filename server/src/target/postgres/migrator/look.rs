//! Questions about a database that change nothing: whether a check holds, how large tables are, which constraints are violated, in
//! which state an index is.

use dbkeep_engine::{
    model::{Script, TableMeasure, TableName},
    port::{IndexState, MigratorError, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{
    super::{
        PostgresTarget,
        error::{refused, statement},
        line::Line,
        render,
    },
    problem,
};
use crate::target::ledger::{does_not_verify, judged};

/// Tables up to this size are counted, bytes.
const SMALL: i64 = 1 << 20;
/// Most rows that are counted where there is no estimate.
const COUNTED: i64 = 1_000_000;

/// A check as the query of its first column as text; an error where it is no single query.
fn first_column(query: &str) -> String {
    let query = query.trim().trim_end_matches(';');
    format!("SELECT dbkeep_check.dbkeep_first::text FROM (\n{query}\n) AS dbkeep_check(dbkeep_first)")
}

/// What a check found, where it does not hold. By the extended protocol, which takes one statement and no more.
async fn judge(connection: &mut Line, query: &str) -> Result<Option<String>, TargetError> {
    let rows = sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(first_column(query)))
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    Ok(judged(&rows))
}

/// Whether all checks hold, in the transaction that is open, which they cannot change.
pub(super) async fn hold_all(connection: &mut Line, checks: &[String]) -> Result<(), MigratorError> {
    connection
        .execute("SAVEPOINT dbkeep_checks; SET LOCAL transaction_read_only = on")
        .await
        .map_err(statement)?;
    for check in checks {
        let found = match judge(connection, check).await {
            Ok(None) => continue,
            Ok(Some(found)) => found,
            Err(error) if error.class == dbkeep_engine::port::TargetErrorClass::Lost => return Err(error.into()),
            Err(error) => error.message,
        };
        return Err(MigratorError::Check {
            check: check.clone(),
            found,
        });
    }
    // Reading and writing again, as before.
    connection
        .execute("ROLLBACK TO SAVEPOINT dbkeep_checks")
        .await
        .map_err(statement)?;
    Ok(())
}

/// Whether the script that fails where the migration is not in effect goes through, in the transaction that is open. What it does is
/// taken back.
pub(super) async fn verify(connection: &mut Line, script: Option<&Script>) -> Result<(), MigratorError> {
    let Some(script) = script else { return Ok(()) };
    connection.execute("SAVEPOINT dbkeep_verify").await.map_err(statement)?;
    for one in script.statements() {
        let ran = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut *connection).await;
        ran.map_err(|error| does_not_verify(problem::of_statement(error, 0, Vec::new()), script, one))?;
    }
    connection
        .execute("ROLLBACK TO SAVEPOINT dbkeep_verify")
        .await
        .map_err(statement)?;
    Ok(())
}

impl PostgresTarget {
    pub(super) async fn look_whether(&self, query: &str) -> Result<Option<String>, TargetError> {
        // With the settings of a script, and not to be used again: a query may change those of its session.
        let mut session = self.session().await?;
        session
            .connection
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = '30s'")
            .await
            .map_err(statement)?;
        let found = judge(&mut session.connection, query).await;
        session.give_up().await;
        found
    }
}

/// How large tables are.
pub(super) async fn measure(connection: &mut Line, tables: &[String]) -> Result<Vec<TableMeasure>, TargetError> {
    // Partitions and children count with their parent.
    let sql = "WITH RECURSIVE tree AS (SELECT to_regclass($1)::oid AS relid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN tree ON i.inhparent = tree.relid) \
               SELECT n.nspname::text, r.relname::text, sum(CASE WHEN c.relkind = 'p' THEN 0 ELSE c.reltuples END)::float8, \
               sum(pg_catalog.pg_total_relation_size(c.oid))::bigint, bool_or(c.reltuples < 0 AND c.relkind <> 'p'), sum(pg_catalog.pg_relation_size(c.oid))::bigint \
               FROM tree JOIN pg_catalog.pg_class AS c ON c.oid = tree.relid \
               JOIN pg_catalog.pg_class AS r ON r.oid = to_regclass($1) JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace \
               WHERE r.relkind IN ('r', 'p', 'm') GROUP BY n.nspname, r.relname";
    let mut measures = Vec::with_capacity(tables.len());
    for table in tables {
        let unknown = TableMeasure {
            table: table.clone(),
            rows: None,
            bytes: 0,
        };
        // A name that is none is an error of the function.
        let found = sqlx::query(sql).bind(table).fetch_optional(&mut *connection).await;
        let row = match found {
            Ok(Some(row)) => row,
            Ok(None) => {
                measures.push(unknown);
                continue;
            }
            Err(error) => {
                let error = statement(error);
                if error.class == dbkeep_engine::port::TargetErrorClass::Lost {
                    return Err(error);
                }
                measures.push(unknown);
                continue;
            }
        };
        let name = TableName {
            schema: Some(row.try_get(0).map_err(statement)?),
            name: row.try_get(1).map_err(statement)?,
        };
        let estimate: f64 = row.try_get(2).map_err(statement)?;
        let bytes: i64 = row.try_get(3).map_err(statement)?;
        let unknown_rows: bool = row.try_get(4).map_err(statement)?;
        let own_bytes: i64 = row.try_get(5).map_err(statement)?;
        let rows = if unknown_rows || own_bytes <= SMALL {
            let count = format!(
                "SELECT count(*) FROM (SELECT 1 FROM {} LIMIT {COUNTED}) AS counted",
                render::table(&name)
            );
            let count: i64 = sqlx::query_scalar(AssertSqlSafe(count))
                .fetch_one(&mut *connection)
                .await
                .map_err(statement)?;
            count
        } else {
            // Rounded by the database's own estimate of rows; the text is the one lossless way to a whole number.
            format!("{estimate:.0}").parse().unwrap_or(i64::MAX)
        };
        measures.push(TableMeasure {
            table: table.clone(),
            rows: u64::try_from(rows).ok(),
            bytes: u64::try_from(bytes).unwrap_or(0),
        });
    }
    Ok(measures)
}

/// State of an index that is there.
fn state(valid: bool) -> IndexState {
    if valid { IndexState::Valid } else { IndexState::Invalid }
}

/// The index of a name as it is written: its full name and state.
pub(super) async fn index(connection: &mut Line, name: &str) -> Result<Option<(String, IndexState)>, TargetError> {
    let sql = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), i.indisvalid AND i.indisready FROM pg_catalog.pg_index AS i \
               JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE c.oid = pg_catalog.to_regclass($1)";
    let found: Option<(String, bool)> = sqlx::query_as(sql)
        .persistent(false)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    Ok(found.map(|(full, valid)| (full, state(valid))))
}

/// The index of that name, without a schema, of a table as it is written: its full name and state. An index lies in the schema of
/// its table.
pub(super) async fn index_of_table(connection: &mut Line, table: &str, name: &str) -> Result<(String, IndexState), TargetError> {
    // Too long a name is cut off by the server's own cast, as it was when the index was made.
    let sql = "SELECT pg_catalog.format('%I.%I', n.nspname, $2::text::name), x.valid FROM pg_catalog.pg_class AS t \
               JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace \
               LEFT JOIN (SELECT i.indrelid, c.relname, i.indisvalid AND i.indisready AS valid FROM pg_catalog.pg_index AS i \
                 JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid) AS x ON x.indrelid = t.oid AND x.relname = $2::text::name \
               WHERE t.oid = pg_catalog.to_regclass($1)";
    let found: Option<(String, Option<bool>)> = sqlx::query_as(sql)
        .persistent(false)
        .bind(table)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    Ok(match found {
        Some((full, valid)) => (full, valid.map_or(IndexState::Absent, state)),
        None => (render::identifier(name), IndexState::Absent),
    })
}

/// Which indexes are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// Those of a table.
    Table(&'a str),
    /// Those that REINDEX leaves, of a table or of the table of an index; `None` for any.
    Reindex(Option<&'a str>),
}

/// Indexes that are not valid: full name, and name without a schema.
pub(super) async fn invalid_indexes(connection: &mut Line, of: Of<'_>) -> Result<Vec<(String, String)>, TargetError> {
    let of_which = match of {
        Of::Table(table) => format!("i.indrelid = pg_catalog.to_regclass({})", render::literal(table)),
        Of::Reindex(named) => {
            let named = named.map(|name| {
                let name = format!("pg_catalog.to_regclass({})", render::literal(name));
                format!(
                    " AND i.indrelid IN (SELECT {name}::oid UNION ALL SELECT o.indrelid FROM pg_catalog.pg_index AS o WHERE o.indexrelid = {name})"
                )
            });
            format!("c.relname ~ '_cc(new|old)[0-9]*$'{}", named.unwrap_or_default())
        }
    };
    let sql = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relname::text FROM pg_catalog.pg_index AS i \
         JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE NOT (i.indisvalid AND i.indisready) AND c.relkind = 'i' AND {of_which} ORDER BY 1"
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

/// A constraint that was not checked when it was made.
struct Unchecked {
    table: TableName,
    constraint: String,
    definition: String,
    violated: String,
}

/// Constraints that were never validated, with the condition under which a row `t` violates them.
const UNCHECKED: &str = "SELECT n.nspname::text, c.relname::text, f.conname::text, pg_catalog.pg_get_constraintdef(f.oid), f.contype::text, \
       CASE WHEN f.contype = 'c' THEN pg_catalog.pg_get_expr(f.conbin, f.conrelid) END, pn.nspname::text, p.relname::text, \
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.place), \
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.place) \
     FROM pg_catalog.pg_constraint AS f JOIN pg_catalog.pg_class AS c ON c.oid = f.conrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_class AS p ON p.oid = f.confrelid LEFT JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace \
     WHERE NOT f.convalidated AND f.contype IN ('f', 'c', 'n') AND f.conparentid = 0 \
     ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\", f.conname::text COLLATE \"C\"";

async fn unchecked(connection: &mut Line) -> Result<Vec<Unchecked>, TargetError> {
    let rows = sqlx::query(UNCHECKED).fetch_all(connection).await.map_err(statement)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let name = |schema: usize, table: usize| {
            Ok::<_, TargetError>(TableName {
                schema: row.try_get(schema).map_err(statement)?,
                name: row
                    .try_get::<Option<String>, _>(table)
                    .map_err(statement)?
                    .unwrap_or_default(),
            })
        };
        let kind: String = row.try_get(4).map_err(statement)?;
        let columns: Vec<String> = row.try_get(8).map_err(statement)?;
        let violated = match kind.as_str() {
            "f" => {
                let parent_columns: Vec<String> = row.try_get(9).map_err(statement)?;
                let filled = columns
                    .iter()
                    .map(|column| format!("t.{} IS NOT NULL", render::identifier(column)));
                format!(
                    "{} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
                    filled.collect::<Vec<_>>().join(" AND "),
                    render::table(&name(6, 7)?),
                    render::same("t", &columns, "p", &parent_columns),
                )
            }
            "n" => {
                let column = columns
                    .first()
                    .ok_or_else(|| refused("a constraint has no column".to_owned()))?;
                format!("t.{} IS NULL", render::identifier(column))
            }
            _ => {
                let expression: Option<String> = row.try_get(5).map_err(statement)?;
                format!("NOT ({})", expression.unwrap_or_else(|| "true".to_owned()))
            }
        };
        found.push(Unchecked {
            table: name(0, 1)?,
            constraint: row.try_get(2).map_err(statement)?,
            definition: row.try_get(3).map_err(statement)?,
            violated,
        });
    }
    Ok(found)
}

/// Constraints that rows violate now. Its connection is not to be used again.
pub(super) async fn violations(connection: &mut Line) -> Result<Vec<String>, TargetError> {
    connection
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog")
        .await
        .map_err(statement)?;
    let mut violations = Vec::new();
    for constraint in unchecked(&mut *connection).await? {
        let sql = format!(
            "SELECT count(*) FROM {} AS t WHERE {}",
            render::table(&constraint.table),
            constraint.violated
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        if rows > 0 {
            let noun = if rows == 1 { "row violates" } else { "rows violate" };
            violations.push(format!(
                "{}: {rows} {noun} {} ({})",
                constraint.table, constraint.constraint, constraint.definition
            ));
        }
    }
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(violations)
}
