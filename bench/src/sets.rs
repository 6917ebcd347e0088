//! Sets: duplicates and cycles, beside the best single statement where there is one. For cycles there is none: what SQL can say by
//! recursion grows with the number of paths, so that only dbkeep's own time and memory are told.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};

use crate::{
    Database, Options,
    report::{Series, line, ratio},
    server::Server,
};

/// Severity LOW and a share of up to all rows, since what is measured is speed.
const CATALOG: &str = r#"
[[operation]]
name = "duplicates"
category = "DUPLICATES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "entries"
kind = "duplicate"
table = "entry"
columns = ["user_id", "category"]
keep = "newest"
by = ["updated_at"]
max_fraction = 1.0

[[operation]]
name = "cycles"
category = "CYCLES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "edges"
kind = "cycle"
table = "edge"
from = ["a"]
to = ["b"]
max_fraction = 1.0

[[operation]]
name = "chain"
category = "CYCLES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "links"
kind = "cycle"
table = "link"
from = ["a"]
to = ["b"]
max_fraction = 1.0

[[operation]]
name = "knot"
category = "CYCLES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "ties"
kind = "cycle"
table = "tie"
from = ["a"]
to = ["b"]
max_fraction = 1.0
"#;

/// Duplicates by one statement.
const RAW: &str = "DELETE FROM entry WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER \
     (PARTITION BY user_id, category ORDER BY updated_at DESC, id) AS place FROM entry) AS d WHERE place > 1)";

/// A fifth of the entries are duplicates; edges run forward over a range of nodes, and one of a hundred runs back a little, so that there
/// are many small knots of cycles; the chain has no cycle and nothing that a few rounds could take away; ties are one knot between three
/// tenths as many nodes, each of which leads wherever a remainder of cubes says, which is as good as anywhere.
fn tables(rows: u64) -> String {
    let cube = |i: &str, prime: u64| format!("(((({i}) * ({i})) % {prime}) * ({i}) % {prime}) % ({rows} * 3 / 10)");
    let (start, end) = (cube("i", 2_147_483_647), cube("i + 12345", 1_999_999_973));
    let series = format!("WITH RECURSIVE n(i) AS (SELECT CAST(1 AS bigint) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    format!(
        "CREATE TABLE entry (id bigint PRIMARY KEY, user_id bigint NOT NULL, category text NOT NULL, score bigint, updated_at bigint); \
         INSERT INTO entry {series} SELECT i, (i * 7919) % ({rows} * 4 / 5), 'gas', i % 1000, (i * 104729) % 1000003 FROM n; \
         CREATE TABLE edge (a bigint NOT NULL, b bigint NOT NULL, PRIMARY KEY (a, b)); \
         INSERT INTO edge {series} SELECT CASE WHEN i % 100 = 0 THEN i + (i * 31) % 20 ELSE i END, CASE WHEN i % 100 = 0 THEN i - 1 - (i * 17) % 20 ELSE i + 1 + (i * 13) % 9 END FROM n; \
         CREATE TABLE link (a bigint PRIMARY KEY, b bigint NOT NULL); INSERT INTO link {series} SELECT i, i + 1 FROM n; \
         CREATE TABLE tie (id bigint PRIMARY KEY, a bigint NOT NULL, b bigint NOT NULL); INSERT INTO tie {series} SELECT i, {start}, {end} FROM n"
    )
}

const COUNT: &str = "SELECT count(*) FROM entry";

async fn count(db: &Db, sql: &str) -> Result<u64> {
    Ok(db.fetch_text(sql).await?[0][0].as_deref().unwrap_or_default().parse()?)
}

/// What a copy of the prepared database took.
struct Round {
    raw: f64,
    duplicates: f64,
    duplicates_rss: f64,
    cycles: f64,
    cycles_rss: f64,
    chain: f64,
    chain_rss: f64,
    knot: f64,
    knot_rss: f64,
}

/// `fresh` makes a copy and returns its URL.
async fn round<F: Future<Output = Result<String>>>(options: &Options, folder: &Path, fresh: impl Fn(u32) -> F) -> Result<Round> {
    let db = Db::open(&fresh(0).await?).await?;
    let began = Instant::now();
    db.execute(RAW).await?;
    let raw = began.elapsed().as_secs_f64();
    let left = count(&db, COUNT).await?;
    db.close().await;
    let mut measured = Vec::new();
    for (number, operation) in (1..).zip(["duplicates", "cycles", "chain", "knot"]) {
        let url = fresh(number).await?;
        // A server of its own for each, so that its memory is its own too.
        let server = Server::start_with(&folder.join(operation), &url, CATALOG, None).await?;
        let run = server.cleanup(operation, true, options.batch).await?;
        let affected = run.run.report.unwrap_or_default().rows_affected;
        measured.push((run.seconds, server.peak_rss_mb()?));
        drop(server);
        let db = Db::open(&url).await?;
        match operation {
            "duplicates" => ensure!(
                count(&db, COUNT).await? == left,
                "the engine left other rows than the statement"
            ),
            "cycles" | "knot" => ensure!(affected > 0, "there were cycles"),
            _ => ensure!(affected == 0, "a chain has no cycle"),
        }
        db.close().await;
    }
    Ok(Round {
        raw,
        duplicates: measured[0].0,
        duplicates_rss: measured[0].1,
        cycles: measured[1].0,
        cycles_rss: measured[1].1,
        chain: measured[2].0,
        chain_rss: measured[2].1,
        knot: measured[3].0,
        knot_rss: measured[3].1,
    })
}

fn report(rounds: &[Round], target: f64) {
    let series = |of: &dyn Fn(&Round) -> f64| {
        let mut series = Series::default();
        rounds.iter().for_each(|round| series.push(of(round)));
        series
    };
    let (raw, duplicates) = (series(&|round| round.raw), series(&|round| round.duplicates));
    line("duplicates, one raw statement", &raw, "s");
    line("duplicates, engine at full speed, planning included", &duplicates, "s");
    line(
        "cycles in small knots, engine, planning included",
        &series(&|round| round.cycles),
        "s",
    );
    line("a chain as long as the table, engine", &series(&|round| round.chain), "s");
    line(
        "cycles in one random knot, engine, planning included",
        &series(&|round| round.knot),
        "s",
    );
    line(
        "server, peak memory, duplicates",
        &series(&|round| round.duplicates_rss),
        "MB",
    );
    line("server, peak memory, cycles", &series(&|round| round.cycles_rss), "MB");
    line("server, peak memory, chain", &series(&|round| round.chain_rss), "MB");
    line("server, peak memory, knot", &series(&|round| round.knot_rss), "MB");
    ratio("duplicates, engine / raw statement", &duplicates.ratios(&raw), target);
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    if options.only != Some(Database::Sqlite) {
        println!(
            "\nSets on PostgreSQL, {} rows, median of {} rounds",
            options.rows, options.rounds
        );
        let settings = [("shared_buffers", "1GB"), ("max_wal_size", "16GB"), ("autovacuum", "off")];
        let cluster = PrivatePostgres::start_with(Durability::Durable, &settings).await?;
        cluster.create_database("prepared").await?;
        let db = Db::open(&cluster.url("prepared")).await?;
        db.execute(&tables(options.rows)).await?;
        db.execute("VACUUM ANALYZE").await?;
        db.close().await;
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            let cluster = &cluster;
            let fresh = |copy: u32| async move {
                let name = format!("copy_{number}_{copy}");
                if copy > 0 {
                    let db = Db::open(&cluster.url("postgres")).await?;
                    db.execute(&format!("DROP DATABASE copy_{number}_{} WITH (FORCE)", copy - 1))
                        .await?;
                    db.close().await;
                }
                cluster.create_database_from_template(&name, "prepared").await?;
                let db = Db::open(&cluster.url(&name)).await?;
                db.execute("CHECKPOINT").await?;
                // Warm, as a production table is.
                db.fetch_text(COUNT).await?;
                db.close().await;
                Ok(cluster.url(&name))
            };
            rounds.push(round(options, &folder.path().join(format!("postgres{number}")), fresh).await?);
        }
        report(&rounds, 2.0);
    }
    if options.only != Some(Database::Postgres) {
        println!("\nSets on SQLite, {} rows, median of {} rounds", options.rows, options.rounds);
        let prepared = folder.path().join("prepared.db");
        std::fs::write(&prepared, [])?;
        let db = Db::open(&format!("sqlite://{}", prepared.display())).await?;
        db.execute(&tables(options.rows)).await?;
        db.close().await;
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            let (prepared, copy) = (&prepared, folder.path().join("copy.db"));
            let fresh = |_| {
                let copy = copy.clone();
                async move {
                    for suffix in ["-wal", "-shm", "-journal"] {
                        let old = copy.with_file_name(format!("copy.db{suffix}"));
                        if old.exists() {
                            std::fs::remove_file(old)?;
                        }
                    }
                    std::fs::copy(prepared, &copy)?;
                    std::fs::File::open(&copy)?.sync_all()?;
                    Ok(format!("sqlite://{}", copy.display()))
                }
            };
            rounds.push(round(options, &folder.path().join(format!("sqlite{number}")), fresh).await?);
        }
        report(&rounds, 3.0);
    }
    Ok(())
}
