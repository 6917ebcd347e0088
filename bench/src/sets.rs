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

/// What is measured: each part with a server of its own, so that its memory is its own too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// A fifth of the rows are duplicates.
    Duplicates,
    /// Many small knots of cycles.
    Cycles,
    /// No cycle, and nothing that a few rounds could take away.
    Chain,
    /// One random knot, from which many edges have to go one after the other.
    Knot,
}

impl Part {
    const ALL: [Self; 4] = [Self::Duplicates, Self::Cycles, Self::Chain, Self::Knot];

    fn operation(self) -> &'static str {
        match self {
            Self::Duplicates => "duplicates",
            Self::Cycles => "cycles",
            Self::Chain => "chain",
            Self::Knot => "knot",
        }
    }
}

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Choice {
    /// Only these parts; the others take their time, and a large knot takes the most.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
}

/// What the rounds took so far, by part.
#[derive(Default)]
struct Measured {
    raw: Series,
    seconds: [Series; 4],
    memory: [Series; 4],
}

impl Measured {
    /// Says what a part took right when it ends: whoever stops a long benchmark keeps what was measured.
    fn note(&mut self, part: Part, seconds: f64, memory_mb: f64) {
        self.seconds[part as usize].push(seconds);
        self.memory[part as usize].push(memory_mb);
        println!(
            "  {:<12} {seconds:>9.2} s, server's peak memory {memory_mb:.1} MB",
            part.operation()
        );
    }

    fn report(&self, target: f64) {
        line("duplicates, one raw statement", &self.raw, "s");
        for part in Part::ALL {
            let name = part.operation();
            line(
                &format!("{name}, engine at full speed, planning included"),
                &self.seconds[part as usize],
                "s",
            );
            line(&format!("{name}, server's peak memory"), &self.memory[part as usize], "MB");
        }
        let duplicates = &self.seconds[Part::Duplicates as usize];
        ratio("duplicates, engine / raw statement", &duplicates.ratios(&self.raw), target);
    }
}

/// `fresh` makes a copy and returns its URL.
async fn round<F: Future<Output = Result<String>>>(
    options: &Options,
    parts: &[Part],
    folder: &Path,
    measured: &mut Measured,
    fresh: impl Fn(u32) -> F,
) -> Result<()> {
    let mut left = 0;
    if parts.contains(&Part::Duplicates) {
        let db = Db::open(&fresh(0).await?).await?;
        let began = Instant::now();
        db.execute(RAW).await?;
        measured.raw.push(began.elapsed().as_secs_f64());
        left = count(&db, COUNT).await?;
        db.close().await;
    }
    for (number, part) in (1..).zip(parts) {
        let operation = part.operation();
        let url = fresh(number).await?;
        let server = Server::start_with(&folder.join(operation), &url, CATALOG, None).await?;
        let run = server.cleanup(operation, true, options.batch).await?;
        let affected = run.run.report.unwrap_or_default().rows_affected;
        measured.note(*part, run.seconds, server.peak_rss_mb()?);
        drop(server);
        let db = Db::open(&url).await?;
        match part {
            Part::Duplicates => ensure!(
                count(&db, COUNT).await? == left,
                "the engine left other rows than the statement"
            ),
            Part::Cycles | Part::Knot => ensure!(affected > 0, "there were cycles"),
            Part::Chain => ensure!(affected == 0, "a chain has no cycle"),
        }
        db.close().await;
    }
    Ok(())
}

pub(crate) async fn run(options: &Options, choice: &Choice) -> Result<()> {
    let parts = if choice.parts.is_empty() {
        &Part::ALL[..]
    } else {
        &choice.parts
    };
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
        let mut measured = Measured::default();
        for number in 0..options.rounds {
            let cluster = &cluster;
            let fresh = |copy: u32| async move {
                let name = format!("copy_{number}_{copy}");
                if copy > 0 {
                    let db = Db::open(&cluster.url("postgres")).await?;
                    db.execute(&format!("DROP DATABASE IF EXISTS copy_{number}_{} WITH (FORCE)", copy - 1))
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
            let folder = folder.path().join(format!("postgres{number}"));
            round(options, parts, &folder, &mut measured, fresh).await?;
        }
        measured.report(2.0);
    }
    if options.only != Some(Database::Postgres) {
        println!("\nSets on SQLite, {} rows, median of {} rounds", options.rows, options.rounds);
        let prepared = folder.path().join("prepared.db");
        std::fs::write(&prepared, [])?;
        let db = Db::open(&format!("sqlite://{}", prepared.display())).await?;
        db.execute(&tables(options.rows)).await?;
        db.close().await;
        let mut measured = Measured::default();
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
            let folder = folder.path().join(format!("sqlite{number}"));
            round(options, parts, &folder, &mut measured, fresh).await?;
        }
        measured.report(3.0);
    }
    Ok(())
}
