//! SQLite: dbkeep beside a raw DELETE on copies of one prepared file, and what a competing writer feels meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, SqliteConnection};

use crate::{
    Options,
    report::{Series, line, percentile, ratio},
    server::Server,
};

const ORPHAN: &str = "c.user_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM users p WHERE p.id = c.user_id)";

fn url(file: &Path) -> String {
    format!("sqlite://{}", file.display())
}

async fn copy(prepared: &Path, folder: &Path) -> Result<PathBuf> {
    let file = folder.join("copy.db");
    for suffix in ["", "-wal", "-shm"] {
        let old = folder.join(format!("copy.db{suffix}"));
        if old.exists() {
            std::fs::remove_file(old)?;
        }
    }
    std::fs::copy(prepared, &file)?;
    // The copy is on disk before the clock starts, so that nobody pays for it with his first fsync.
    std::fs::File::open(&file)?.sync_all()?;
    Ok(file)
}

async fn open(file: &Path) -> Result<SqliteConnection> {
    Ok(SqliteConnection::connect(&url(file)).await?)
}

async fn raw(file: &Path, capture: bool) -> Result<f64> {
    let mut connection = open(file).await?;
    let delete = format!("DELETE FROM user_progress AS c WHERE {ORPHAN}");
    let sql = if capture {
        format!("BEGIN IMMEDIATE; CREATE TABLE removed AS SELECT * FROM user_progress AS c WHERE {ORPHAN}; {delete}; COMMIT")
    } else {
        delete
    };
    let began = Instant::now();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
    let seconds = began.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(seconds)
}

/// A writer that commits one row at a time until told to stop; returns its latencies in milliseconds.
async fn writer(file: PathBuf, stop: Arc<AtomicBool>) -> Result<Vec<f64>> {
    let mut connection = open(&file).await?;
    sqlx::raw_sql("PRAGMA busy_timeout = 60000; CREATE TABLE IF NOT EXISTS foreground (id INTEGER PRIMARY KEY, at REAL)")
        .execute(&mut connection)
        .await?;
    let mut latencies = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let began = Instant::now();
        sqlx::raw_sql("BEGIN IMMEDIATE; INSERT INTO foreground (at) VALUES (julianday()); COMMIT")
            .execute(&mut connection)
            .await?;
        latencies.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(latencies)
}

async fn beside_writer(file: &Path, work: impl Future<Output = Result<()>>) -> Result<Vec<f64>> {
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(writer(file.to_owned(), Arc::clone(&stop)));
    let result = work.await;
    stop.store(true, Ordering::Relaxed);
    let latencies = writing.await??;
    result?;
    Ok(latencies)
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    println!(
        "\nSQLite, {} rows, 20 % orphans, WAL, synchronous FULL, median of {} rounds",
        options.rows, options.rounds
    );
    let folder = tempfile::tempdir()?;
    let prepared = folder.path().join("prepared.db");
    let truth = dbkeep_demo::single_table(&url(&prepared), options.rows, 0.2, options.seed).await?;
    println!(
        "seed {}, {} orphans of {} rows",
        truth.seed, truth.orphans, truth.user_progress
    );
    let mut connection = open(&prepared).await?;
    sqlx::raw_sql("DROP TABLE api_logs; VACUUM; PRAGMA journal_mode = WAL; PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut connection)
        .await?;
    connection.close().await?;

    let [
        mut raw_delete,
        mut raw_capture,
        mut plain,
        mut captured,
        mut undo,
        mut rss,
        mut idle,
        mut felt,
        mut raw_felt,
    ] = std::array::from_fn(|_| Series::default());
    for round in 0..options.rounds {
        raw_delete.push(raw(&copy(&prepared, folder.path()).await?, false).await?);
        raw_capture.push(raw(&copy(&prepared, folder.path()).await?, true).await?);

        let file = copy(&prepared, folder.path()).await?;
        let server = Server::start(&folder.path().join(format!("plain{round}")), &url(&file)).await?;
        plain.push(server.cleanup("delete_only", true, options.batch).await?.seconds);
        drop(server);

        let file = copy(&prepared, folder.path()).await?;
        let server = Server::start(&folder.path().join(format!("captured{round}")), &url(&file)).await?;
        let measured = server.cleanup("with_capture", true, options.batch).await?;
        ensure!(
            measured.run.report.unwrap_or_default().rows_captured == truth.orphans,
            "the engine captured other rows than the orphans"
        );
        captured.push(measured.seconds);
        rss.push(server.peak_rss_mb()?);
        undo.push(server.undo(&measured.run.id).await?);
        drop(server);
    }
    for round in 0..options.rounds.min(3) {
        let file = copy(&prepared, folder.path()).await?;
        let pause = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        };
        idle.push(percentile(&mut beside_writer(&file, pause).await?, 0.99));

        let file = copy(&prepared, folder.path()).await?;
        let server = Server::start(&folder.path().join(format!("beside{round}")), &url(&file)).await?;
        let work = async { server.cleanup("with_capture", false, 1_000).await.map(|_| ()) };
        felt.push(percentile(&mut beside_writer(&file, work).await?, 0.99));
        drop(server);

        let file = copy(&prepared, folder.path()).await?;
        let mut latencies = beside_writer(&file, async { raw(&file, false).await.map(|_| ()) }).await?;
        raw_felt.push(percentile(&mut latencies, 1.0));
    }
    line("raw DELETE", &raw_delete, "s");
    line("raw CREATE TABLE AS + DELETE", &raw_capture, "s");
    line("engine, full speed, no capture", &plain, "s");
    line("engine, full speed, with capture", &captured, "s");
    line("undo, full speed", &undo, "s");
    line("competing writer, p99, nothing else at work", &idle, "ms");
    line("competing writer, p99, engine with default throttle", &felt, "ms");
    line("competing writer, longest, raw DELETE", &raw_felt, "ms");
    line("server, peak resident memory", &rss, "MB");
    ratio("engine without capture / raw DELETE", &plain.ratios(&raw_delete), 2.0);
    ratio("engine with capture / raw with capture", &captured.ratios(&raw_capture), 2.0);
    ratio("competing writer's p99, ms", &felt, 30.0);
    ratio("server, peak resident memory, MB", &rss, 64.0);
    Ok(())
}
