//! Names and texts in SQL, by a real PostgreSQL: a table, a column and a value that are called anything. The database itself quotes what
//! makes the table (`format`), and dbkeep has to find exactly that table, and exactly the row that holds that value.
//!
//! An input is the table's name, the column's and the value, one a line; a tab and `n` behind a backslash is a line break in them.

use std::sync::Arc;

use anyhow::Context as _;
use dbkeep_engine::{
    model::{Condition, Literal, Selection, TableName},
    port::Target as _,
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

/// Longest name, bytes; PostgreSQL cuts what is longer.
const LONGEST_NAME: usize = 63;

struct World {
    database: PgConnection,
    target: PostgresTarget,
    /// Lives as long as its database is used.
    _cluster: PrivatePostgres,
    /// Goes last: connections end in it.
    runtime: Runtime,
}

fn open() -> anyhow::Result<Check> {
    let runtime = Runtime::new()?;
    let (cluster, database, target) = runtime.block_on(async {
        let cluster = PrivatePostgres::start(Durability::Fast).await?;
        let url = cluster.url("postgres");
        let mut database = PgConnection::connect(&url).await?;
        database
            .execute("CREATE TABLE canary (id integer); INSERT INTO canary VALUES (1)")
            .await?;
        let target = PostgresTarget::open(&url, &Tools::default()).context("the target")?;
        anyhow::Ok((cluster, database, target))
    })?;
    let mut world = World {
        database,
        target,
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
            ..
        } = self;
        runtime.block_on(async {
            let made = make(database, &table, &column, &value).await;
            let outcome = match made {
                // Names of system columns, and the like.
                Err(sqlx::Error::Database(error)) => Ok(format!("no table: {}", error.code().unwrap_or_default())),
                Err(error) => broken(format!("the database is gone: {error}")),
                Ok(()) => found(target, &table, &column, &value).await,
            };
            let dropped = sqlx::query("SELECT format('DROP TABLE IF EXISTS %I', $1)").bind(&table);
            let sql: String = sqlx::Row::get(
                &dropped.fetch_one(&mut *database).await.map_err(|error| error.to_string())?,
                0,
            );
            database
                .execute(sqlx::AssertSqlSafe(sql))
                .await
                .map_err(|error| error.to_string())?;
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

/// Whether dbkeep finds that table, that column and that value, and nothing else.
async fn found(target: &PostgresTarget, table: &str, column: &str, value: &str) -> Result<String, String> {
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
    Ok("found".to_owned())
}
