//! Names and texts in SQL, by a real PostgreSQL: a table, a column and a value that are called anything. The database itself quotes what
//! makes the table (`format`), and dbkeep has to find exactly that table, and exactly the row that holds that value; then to change it, to move it
//! into an archive that is called as the column is, to delete it, and to bring it back as it was.
//!
//! An input is the table's name, the column's and the value, one a line; a tab and `n` behind a backslash is a line break in them.

use std::sync::Arc;

use anyhow::Context as _;
use dbkeep_engine::{
    model::{Condition, Literal, Row, RowKey, RunId, Selection, TableName, TableSchema, Value},
    port::{Claim, RowSink, SinkError, Target as _, TargetError},
    run::batch::layout,
};
use dbkeep_server::target::{PostgresTarget, Tools};
use dbkeep_testkit::{Durability, PrivatePostgres};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::runtime::Runtime;

use super::{Check, Target, broken, no_seeds};

pub(super) const TARGET: Target = Target {
    name: "identifiers",
    about: "quoted names and texts, by a real PostgreSQL",
    words: &[
        "\"",
        "\"\"",
        "'",
        "''",
        "\\",
        "\\\\",
        "E'",
        "U&\"\\0061\"",
        "$$",
        "--",
        "/*",
        "*/",
        ";",
        "DROP TABLE canary;",
        ".",
        "public.",
        "\u{1f600}",
        "\u{301}",
        "\t",
        " ",
        "$1",
        "%",
        "?",
        "pg_catalog",
        "NULL",
        "\u{202e}",
    ],
    seeds: no_seeds,
    open,
};

/// Column of archives for the time.
const STAMP: &str = "dbkeep_stamp";
/// Longest name, bytes; PostgreSQL cuts what is longer.
const LONGEST_NAME: usize = 63;

struct World {
    database: PgConnection,
    target: PostgresTarget,
    /// By which rows are changed.
    claim: Claim,
    /// Lives as long as its database is used.
    _cluster: PrivatePostgres,
    /// Goes last: connections end in it.
    runtime: Runtime,
}

fn open() -> anyhow::Result<Check> {
    let runtime = Runtime::new()?;
    let (cluster, database, target, claim) = runtime.block_on(async {
        let cluster = PrivatePostgres::start(Durability::Fast).await?;
        let url = cluster.url("postgres");
        let mut database = PgConnection::connect(&url).await?;
        database
            .execute("CREATE TABLE canary (id integer); INSERT INTO canary VALUES (1)")
            .await?;
        let target = PostgresTarget::open(&url, &Tools::default()).context("the target")?;
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        target
            .claim(claim)
            .await
            .map_err(|error| anyhow::anyhow!("a claim: {error}"))?;
        anyhow::Ok((cluster, database, target, claim))
    })?;
    let mut world = World {
        database,
        target,
        claim,
        _cluster: cluster,
        runtime,
    };
    Ok(Box::new(move |input| world.check(input)))
}

/// What the text can be called: not empty, no NUL, and not cut by the database.
fn name(text: &str) -> Option<String> {
    let name = text.replace('\0', "");
    (!name.is_empty() && name.len() <= LONGEST_NAME).then_some(name)
}

impl World {
    fn check(&mut self, input: &[u8]) -> Result<String, String> {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.split('\n').map(|line| line.replace("\\t", "\n"));
        let table = lines.next().as_deref().and_then(name);
        let column = lines.next().as_deref().and_then(name);
        let value = lines.next().unwrap_or_default().replace('\0', "");
        let (Some(table), Some(column)) = (table, column) else {
            return Ok("no name".to_owned());
        };
        if ["canary", "dbkeep_pk"].contains(&table.as_str()) || column == "dbkeep_pk" {
            return Ok("taken".to_owned());
        }
        let Self {
            runtime,
            database,
            target,
            claim,
            ..
        } = self;
        runtime.block_on(async {
            let made = make(database, &table, &column, &value).await;
            let outcome = match made {
                // Names of system columns, and the like.
                Err(sqlx::Error::Database(error)) => Ok(format!("no table: {}", error.code().unwrap_or_default())),
                Err(error) => broken(format!("the database is gone: {error}")),
                Ok(()) => match found(target, &table, &column, &value).await {
                    Ok(selection) => changed(target, *claim, database, &selection, &column, &value).await,
                    Err(problem) => Err(problem),
                },
            };
            drop_table(database, &table).await?;
            let canary: i64 = sqlx::query_scalar("SELECT count(*) FROM canary")
                .fetch_one(&mut *database)
                .await
                .map_err(|error| format!("the canary is gone: {error}"))?;
            if canary != 1 {
                return broken("the canary was touched");
            }
            outcome
        })
    }
}

/// Makes the table with one row of the value and one of another; the database quotes.
async fn make(database: &mut PgConnection, table: &str, column: &str, value: &str) -> Result<(), sqlx::Error> {
    let sql: String = sqlx::query_scalar(
        "SELECT format('CREATE TABLE %I (dbkeep_pk integer PRIMARY KEY, %I text); INSERT INTO %I VALUES (1, %L), (2, %L)', $1, $2, $1, $3, $3 || 'x')",
    )
    .bind(table)
    .bind(column)
    .bind(value)
    .fetch_one(&mut *database)
    .await?;
    database.execute(sqlx::AssertSqlSafe(sql)).await?;
    Ok(())
}

/// Whether dbkeep finds that table, that column and that value, and nothing else. The selection of the row that holds it.
async fn found(target: &PostgresTarget, table: &str, column: &str, value: &str) -> Result<Selection, String> {
    let name = TableName {
        schema: Some("public".to_owned()),
        name: table.to_owned(),
    };
    let schema = target
        .introspect(&name)
        .await
        .map_err(|error| format!("introspect: {error}"))?;
    let Some(schema) = schema else {
        return broken(format!("table {table:?} is not found"));
    };
    if schema.name.name != table || schema.column(column).is_none() {
        return broken(format!(
            "table {table:?} is found as {:?}, columns {:?}",
            schema.name, schema.columns
        ));
    }
    let rows = target
        .count_rows(&schema, None)
        .await
        .map_err(|error| format!("count: {error}"))?;
    if rows != 2 {
        return broken(format!("{rows} rows of {table:?} are counted"));
    }
    let selection = Selection {
        table: Arc::new(schema),
        matches: Condition::OneOf {
            column: column.to_owned(),
            values: vec![Literal::Text(value.to_owned())],
        },
        except: Vec::new(),
    };
    let survey = target
        .survey(&selection, 2)
        .await
        .map_err(|error| format!("survey: {error}"))?;
    if survey.row_count != 1 {
        return broken(format!("{} rows hold {value:?}", survey.row_count));
    }
    Ok(selection)
}

/// The rows that a batch deletes.
#[derive(Default)]
struct Taken(Vec<Row>);

impl RowSink for Taken {
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        self.0.push(values.to_vec());
        Ok(())
    }
}

/// What a step failed with.
fn failed(step: &'static str) -> impl Fn(TargetError) -> String {
    move |error| format!("{step}: {error}")
}

/// Whether dbkeep changes, archives and deletes exactly the selected row, and brings it back.
async fn changed(
    target: &PostgresTarget,
    claim: Claim,
    database: &mut PgConnection,
    selection: &Selection,
    column: &str,
    value: &str,
) -> Result<String, String> {
    let table: &TableSchema = &selection.table;
    let mut scan = target.scan(selection, None, 10).await.map_err(failed("scan"))?;
    let mut keys: Vec<RowKey> = Vec::new();
    while let Some(window) = scan.next().await.map_err(failed("scan"))? {
        keys.extend(window.keys);
    }
    drop(scan);
    if keys.len() != 1 {
        return broken(format!("{} rows are listed", keys.len()));
    }
    let by_key = vec![vec![Value::Text(b"1".to_vec())]];
    let begin = || target.begin(claim, std::slice::from_ref(&table));

    let other = format!("{value}'\\\";");
    let mut batch = begin().await.map_err(failed("begin"))?;
    let held = batch.hold(selection, &keys).await.map_err(failed("hold"))?;
    if held.len() != 1 {
        return broken(format!("{} rows are held", held.len()));
    }
    let assignment = (column.to_owned(), Some(Literal::Text(other.clone())));
    let assigned = batch.assign(table, &by_key, &[assignment]).await.map_err(failed("assign"))?;
    if assigned != [vec![Value::Text(other.into_bytes())]] {
        return broken(format!("the column holds {assigned:?}"));
    }
    batch.rollback().await;

    // The names of the table itself, of its index and of ours are taken.
    let archive = ![table.name.name.as_str(), "canary"].contains(&column) && !column.ends_with("_pkey") && column != STAMP;
    if archive {
        drop_table(database, column).await?;
        let into = TableName {
            schema: Some("public".to_owned()),
            name: column.to_owned(),
        };
        target.create_archive(table, &into, STAMP).await.map_err(failed("archive"))?;
        let mut batch = begin().await.map_err(failed("begin"))?;
        batch.hold(selection, &keys).await.map_err(failed("hold"))?;
        let copied = batch
            .copy_to_archive(table, &by_key, &into, STAMP)
            .await
            .map_err(failed("copy"))?;
        let removed = batch.remove(table, &by_key).await.map_err(failed("remove"))?;
        if (copied.0, removed) != (1, 1) {
            return broken(format!("{} rows are copied, and {removed} removed", copied.0));
        }
        batch.commit().await.map_err(failed("commit"))?;
        if (
            holding(database, &table.name.name, column, value).await?,
            holding(database, column, column, value).await?,
        ) != (0, 1)
        {
            return broken("the row is not where the archive is");
        }
        let sql: String =
            sqlx::query_scalar("SELECT format('INSERT INTO public.%I SELECT dbkeep_pk, %I FROM public.%I', $1, $2, $2)")
                .bind(&table.name.name)
                .bind(column)
                .fetch_one(&mut *database)
                .await
                .map_err(|error| error.to_string())?;
        database
            .execute(sqlx::AssertSqlSafe(sql))
            .await
            .map_err(|error| error.to_string())?;
        drop_table(database, column).await?;
        // The row stands in another place by now.
        let mut scan = target.scan(selection, None, 10).await.map_err(failed("scan"))?;
        keys.clear();
        while let Some(window) = scan.next().await.map_err(failed("scan"))? {
            keys.extend(window.keys);
        }
    }

    let mut batch = begin().await.map_err(failed("begin"))?;
    let mut taken = Taken::default();
    let deleted = batch
        .delete(selection, &keys, Some(&mut taken))
        .await
        .map_err(failed("delete"))?;
    if (deleted, taken.0.len()) != (1, 1) {
        return broken(format!("{deleted} rows are deleted, and {} captured", taken.0.len()));
    }
    batch.commit().await.map_err(failed("commit"))?;
    if holding(database, &table.name.name, column, value).await? != 0 {
        return broken("a deleted row is there");
    }
    let mut batch = target.begin(claim, &[]).await.map_err(failed("begin"))?;
    let restored = batch.restore(&layout(table), taken.0).await.map_err(failed("restore"))?;
    batch.commit().await.map_err(failed("commit"))?;
    if (restored.rows, restored.conflicting) != (1, 0) || holding(database, &table.name.name, column, value).await? != 1 {
        return broken(format!("a deleted row does not come back: {restored:?}"));
    }
    Ok(if archive {
        "found, archived, deleted, back"
    } else {
        "found, deleted, back"
    }
    .to_owned())
}

/// How many rows of a table hold that value in that column; the database quotes.
async fn holding(database: &mut PgConnection, table: &str, column: &str, value: &str) -> Result<i64, String> {
    let sql: Result<String, _> =
        sqlx::query_scalar("SELECT format('SELECT count(*) FROM public.%I WHERE %I = %L AND dbkeep_pk = 1', $1, $2, $3)")
            .bind(table)
            .bind(column)
            .bind(value)
            .fetch_one(&mut *database)
            .await;
    let sql = sql.map_err(|error| error.to_string())?;
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut *database)
        .await
        .map_err(|error| error.to_string())
}

async fn drop_table(database: &mut PgConnection, table: &str) -> Result<(), String> {
    let sql: Result<String, _> = sqlx::query_scalar("SELECT format('DROP TABLE IF EXISTS public.%I', $1)")
        .bind(table)
        .fetch_one(&mut *database)
        .await;
    let sql = sql.map_err(|error| error.to_string())?;
    let dropped = database.execute(sqlx::AssertSqlSafe(sql)).await;
    dropped.map(drop).map_err(|error| error.to_string())
}
