//! `cargo bench-db -- files`: a root with many files, and a column with as many references to nine in ten of them. Measured are the plan, the
//! run and the undo, and the server's memory, which must not grow with either number. What `find` takes to list the same files is the
//! limit of any plan.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};

use crate::{Database, server::Server};

/// Largest resident memory of the server, MB (10^6 bytes).
const RSS_TARGET_MB: f64 = 300.0;
/// Files of one folder.
const FOLDER_FILES: u64 = 1_000;

const CATALOG: &str = r#"
[[operation]]
name = "unused"
category = "TEMPORARY_FILES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "files"
kind = "orphan_files"
root = "files"
references = [{ table = "uploads", column = "path", prefix = "/files/" }]
"#;

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Files in the root.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// References in the database; one in ten files has none.
    #[arg(long, default_value_t = 1_000_000)]
    references: u64,
    /// Files of a batch.
    #[arg(long, default_value_t = 10_000)]
    batch: u32,
}

fn name(number: u64) -> String {
    format!("{:04}/upload-{number:09}.bin", number / FOLDER_FILES)
}

/// Makes the files, each older than the grace.
fn fill(root: &Path, files: u64) -> Result<()> {
    let old = SystemTime::now() - Duration::from_secs(48 * 3_600);
    for number in 0..files {
        let path = root.join(name(number));
        if number % FOLDER_FILES == 0
            && let Some(folder) = path.parent()
        {
            fs::create_dir_all(folder)?;
        }
        File::create(&path)?.set_modified(old)?;
    }
    Ok(())
}

/// Makes the references: to nine in ten files, and beyond them to files that there are not.
async fn refer(url: &str, arguments: &Arguments) -> Result<()> {
    let db = Db::open(url).await?;
    db.execute("CREATE TABLE uploads (id bigint PRIMARY KEY, path text)").await?;
    let mut rows = Vec::new();
    for number in 0..arguments.references {
        let file = number + number / 9;
        rows.push(format!("({number}, '/files/{}')", name(file)));
        if rows.len() == 10_000 || number + 1 == arguments.references {
            db.execute(&format!("INSERT INTO uploads VALUES {}", rows.join(", "))).await?;
            rows.clear();
        }
    }
    db.execute("CREATE INDEX uploads_path ON uploads (path)").await?;
    db.execute("ANALYZE").await?;
    Ok(())
}

async fn measure(database: &str, url: &str, place: &Path, root: &Path, arguments: &Arguments) -> Result<()> {
    refer(url, arguments).await?;
    let began = Instant::now();
    let found = Command::new("find")
        .arg(root)
        .args(["-type", "f"])
        .stdout(Stdio::null())
        .status()?;
    ensure!(found.success(), "find failed");
    println!(
        "{database}: find -type f                {:>8.2} s",
        began.elapsed().as_secs_f64()
    );
    let server = Server::start_with(&place.join("data"), url, CATALOG, Some(root)).await?;
    println!("{database}: server at rest              {:>8.1} MB", server.peak_rss_mb()?);
    println!(
        "{database}: plan                        {:>8.2} s",
        server.plan("unused").await?
    );
    println!("{database}: peak after the plan         {:>8.1} MB", server.peak_rss_mb()?);
    let measured = server.cleanup("unused", true, arguments.batch).await?;
    let moved = measured.run.report.as_ref().map_or(0, |report| report.rows_affected);
    println!("{database}: plan and run, {moved} files {:>8.2} s", measured.seconds);
    let undo = server.undo(&measured.run.id).await?;
    println!("{database}: undo                        {undo:>8.2} s");
    let peak = server.peak_rss_mb()?;
    let verdict = if peak <= RSS_TARGET_MB { "met" } else { "MISSED" };
    println!("{database}: peak in the end             {peak:>8.1} MB, target <= {RSS_TARGET_MB}: {verdict}");
    Ok(())
}

/// Runs it on one database, or on both.
pub(crate) async fn run(arguments: &Arguments, only: Option<Database>) -> Result<()> {
    println!(
        "bench-db files --files {} --references {} --batch {}",
        arguments.files, arguments.references, arguments.batch
    );
    let place = tempfile::tempdir()?;
    let root = place.path().join("root");
    fs::create_dir(&root)?;
    let began = Instant::now();
    fill(&root, arguments.files)?;
    println!("made {} files in {:.1} s", arguments.files, began.elapsed().as_secs_f64());
    if only != Some(Database::Sqlite) {
        let cluster = PrivatePostgres::start(Durability::Durable).await?;
        cluster.create_database("files").await?;
        let url = cluster.url("files");
        measure("postgres", &url, &place.path().join("postgres"), &root, arguments).await?;
    }
    if only != Some(Database::Postgres) {
        let file = place.path().join("app.db");
        fs::write(&file, [])?;
        let url = format!("sqlite://{}", file.display());
        measure("sqlite", &url, &place.path().join("sqlite"), &root, arguments).await?;
    }
    Ok(())
}
