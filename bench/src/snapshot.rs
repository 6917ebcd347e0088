//! What a quick look at the health of a large database costs: its time, and the longest of its statements that opens a table or an index,
//! which is the longest time that it holds a lock of one. PostgreSQL itself measures the statements.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dbkeep_engine::model::monitor::Depth;
use dbkeep_testkit::{Db, Durability, PrivatePostgres};

use crate::report::{Series, line, ratio};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Tables, each with three indexes and a declared key.
    #[arg(long, default_value_t = 5_000)]
    tables: u32,
}

pub(crate) async fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    println!("bench-db snapshot --tables {} --rounds {rounds}", arguments.tables);
    let settings = [
        ("shared_preload_libraries", "pg_stat_statements"),
        ("max_locks_per_transaction", "256"),
    ];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings).await?;
    let url = cluster.url("postgres");
    let db = Db::open(&url).await?;
    db.execute(
        "CREATE EXTENSION pg_stat_statements; CREATE TABLE parent (id integer PRIMARY KEY); INSERT INTO parent VALUES (1)",
    )
    .await?;
    for number in 0..arguments.tables {
        let table = format!(
            "CREATE TABLE t{number} (id integer PRIMARY KEY, parent_id integer REFERENCES parent, name text, at timestamptz DEFAULT now()); \
             INSERT INTO t{number} (id, parent_id, name) SELECT n, 1, 'name ' || n FROM generate_series(1, 20) AS n; \
             CREATE INDEX ON t{number} (parent_id); CREATE INDEX ON t{number} (lower(name)) WHERE name IS NOT NULL"
        );
        db.execute(&table).await?;
    }
    db.execute("ANALYZE").await?;
    db.execute("SELECT pg_stat_statements_reset()").await?;
    let target = dbkeep_server::target::open(&url)?;
    let mut time = Series::default();
    for _ in 0..rounds {
        let began = Instant::now();
        let snapshot = target.observer().observe(Depth::Quick, Duration::from_secs(30)).await?;
        time.push(began.elapsed().as_secs_f64());
        ensure!(snapshot.gaps.is_empty(), "a whole snapshot: {:?}", snapshot.gaps);
        ensure!(snapshot.tables.len() > arguments.tables as usize, "every table is in it");
    }
    ratio("a quick snapshot, seconds", &time, 1.0);
    let statements = db
        .fetch_text("SELECT max_exec_time, query FROM pg_stat_statements WHERE query NOT ILIKE '%pg_stat_statements_reset%' ORDER BY 1 DESC LIMIT 5")
        .await?;
    let mut longest = Series::default();
    for row in &statements {
        let ms: f64 = row.first().and_then(Option::as_deref).context("a time")?.parse()?;
        let text: String = row
            .get(1)
            .and_then(Option::as_deref)
            .unwrap_or_default()
            .chars()
            .take(50)
            .collect();
        let mut one = Series::default();
        one.push(ms);
        line(&text, &one, "ms");
        // The size of the whole database is read from the folder of its files.
        if longest.is_empty() && !text.contains("pg_database_size") {
            longest.push(ms);
        }
    }
    ratio("its longest statement that opens a relation, ms", &longest, 50.0);
    Ok(())
}
