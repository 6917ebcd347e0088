//! PostgreSQL: dbkeep beside what people do without it, on copies of one prepared database in a private cluster with fsync on.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};

use crate::{
    Options,
    report::{Series, line, ratio},
    server::Server,
};

pub(crate) const ORPHAN: &str = "c.user_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM users p WHERE p.id = c.user_id)";
/// The naive way is quadratic: it is stopped after this time.
const NAIVE_LIMIT: Duration = Duration::from_secs(60);

/// A cluster with a database `prepared`, and the copy of it that is in use.
pub(crate) struct Bench {
    cluster: PrivatePostgres,
    copies: u32,
}

impl Bench {
    pub(crate) fn of(cluster: PrivatePostgres) -> Self {
        Self { cluster, copies: 0 }
    }

    /// A fresh copy of the prepared database, with nothing left to write from making it.
    pub(crate) async fn copy(&mut self) -> Result<(String, Db)> {
        self.copies += 1;
        let name = format!("copy_{}", self.copies);
        if self.copies > 1 {
            let old = Db::open(&self.cluster.url("postgres")).await?;
            old.execute(&format!("DROP DATABASE copy_{} WITH (FORCE)", self.copies - 1))
                .await?;
            old.close().await;
        }
        self.cluster.create_database_from_template(&name, "prepared").await?;
        let url = self.cluster.url(&name);
        let db = Db::open(&url).await?;
        db.execute("CHECKPOINT").await?;
        // Warm, as a production table is: every contender reads it from memory.
        db.fetch_text("SELECT count(*) FROM user_progress").await?;
        db.fetch_text("SELECT count(*) FROM users").await?;
        Ok((url, db))
    }
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<f64> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed().as_secs_f64())
}

/// The naive way: look for a page of orphans, delete it, again. Seconds and rows until it was done or its time was over.
async fn naive(db: &Db) -> Result<(f64, u64)> {
    let began = Instant::now();
    let mut deleted = 0;
    loop {
        let rows = db
            .execute(&format!(
                "DELETE FROM user_progress WHERE id IN (SELECT c.id FROM user_progress c WHERE {ORPHAN} LIMIT 1000)"
            ))
            .await?;
        deleted += rows;
        if rows == 0 || began.elapsed() > NAIVE_LIMIT {
            return Ok((began.elapsed().as_secs_f64(), deleted));
        }
    }
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    println!(
        "\nPostgreSQL, {} rows, 20 % orphans, fsync on, median of {} rounds",
        options.rows, options.rounds
    );
    let settings = [
        ("shared_buffers", "1GB"),
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
    ];
    let cluster = PrivatePostgres::start_with(Durability::Durable, &settings).await?;
    cluster.create_database("prepared").await?;
    let truth = dbkeep_demo::single_table(&cluster.url("prepared"), options.rows, 0.2, options.seed).await?;
    println!(
        "seed {}, {} orphans of {} rows",
        truth.seed, truth.orphans, truth.user_progress
    );
    let db = Db::open(&cluster.url("prepared")).await?;
    db.execute("DROP TABLE api_logs").await?;
    db.execute("VACUUM ANALYZE").await?;
    db.close().await;

    let [
        mut raw,
        mut plain,
        mut captured,
        mut dump,
        mut copy_table,
        mut count,
        mut plan,
        mut plan_again,
        mut undo,
        mut copy_back,
    ] = std::array::from_fn(|_| Series::default());
    let [mut rss, mut throttled] = std::array::from_fn(|_| Series::default());
    let mut bench = Bench::of(cluster);
    let folder = tempfile::tempdir()?;
    for round in 0..options.rounds {
        let (_, db) = bench.copy().await?;
        raw.push(timed(db.execute(&format!("DELETE FROM user_progress c WHERE {ORPHAN}"))).await?);
        db.close().await;

        let (url, db) = bench.copy().await?;
        db.close().await;
        // With a connection of its own, as the first plan has one: what a new connection has to read first is part of both.
        count.push(
            timed(async {
                let db = Db::open(&url).await?;
                db.fetch_text(&format!("SELECT count(*) FROM user_progress c WHERE {ORPHAN}"))
                    .await?;
                db.close().await;
                Ok(())
            })
            .await?,
        );
        let server = Server::start(&folder.path().join(format!("plain{round}")), &url).await?;
        plan.push(server.plan("delete_only").await?);
        plan_again.push(server.plan("delete_only").await?);
        let measured = server.cleanup("delete_only", true, options.batch).await?;
        ensure!(
            measured.run.report.unwrap_or_default().rows_affected == truth.orphans,
            "the engine deleted other rows than the orphans"
        );
        plain.push(measured.seconds);
        drop(server);

        let (url, db) = bench.copy().await?;
        db.close().await;
        let server = Server::start(&folder.path().join(format!("captured{round}")), &url).await?;
        let measured = server.cleanup("with_capture", true, options.batch).await?;
        ensure!(
            measured.run.report.unwrap_or_default().rows_captured == truth.orphans,
            "the engine captured other rows than the orphans"
        );
        captured.push(measured.seconds);
        rss.push(server.peak_rss_mb()?);
        undo.push(server.undo(&measured.run.id).await?);
        drop(server);

        copy_back.push(raw_copy(&mut bench).await?);
        dump.push(dump_and_delete(&mut bench, folder.path()).await?);

        let (_, db) = bench.copy().await?;
        let sql = format!(
            "BEGIN; CREATE TABLE removed AS SELECT * FROM user_progress c WHERE {ORPHAN}; DELETE FROM user_progress c WHERE {ORPHAN}; COMMIT"
        );
        copy_table.push(timed(db.execute(&sql)).await?);
        db.close().await;

        if round == 0 {
            let (url, db) = bench.copy().await?;
            db.close().await;
            let server = Server::start(&folder.path().join("throttled"), &url).await?;
            throttled.push(server.cleanup("with_capture", false, 1_000).await?.seconds);
        }
    }
    let (_, db) = bench.copy().await?;
    let (naive_seconds, naive_rows) = naive(&db).await?;
    db.close().await;

    line("raw DELETE", &raw, "s");
    line("engine, full speed, no capture", &plain, "s");
    line("engine, full speed, with capture", &captured, "s");
    line("engine, default throttle, batches of 1000, with capture", &throttled, "s");
    line("CREATE TABLE AS + DELETE", &copy_table, "s");
    line("pg_dump -Fc of the table + raw DELETE", &dump, "s");
    line("SELECT count(*) of the orphans", &count, "s");
    line("plan, the server's first", &plan, "s");
    line("plan, the next one", &plan_again, "s");
    line("undo, full speed", &undo, "s");
    line("COPY of the same rows into the same table", &copy_back, "s");
    println!(
        "{:<58} {naive_seconds:>9.2} s   for {naive_rows} of {} rows",
        "naive batches (find 1000, delete them, again)", truth.orphans
    );
    line("server, peak resident memory", &rss, "MB");
    ratio("engine without capture / raw DELETE", &plain.ratios(&raw), 1.3);
    ratio("engine with capture / (pg_dump -Fc + raw)", &captured.ratios(&dump), 0.20);
    ratio(
        "engine with capture / (CREATE TABLE AS + DELETE)",
        &captured.ratios(&copy_table),
        1.0,
    );
    ratio("first plan / SELECT count(*)", &plan.ratios(&count), 1.2);
    ratio("next plan / SELECT count(*)", &plan_again.ratios(&count), 1.2);
    ratio("undo / COPY", &undo.ratios(&copy_back), 2.0);
    ratio("server, peak resident memory, MB", &rss, 64.0);
    Ok(())
}

/// COPY of the deleted rows into their table, from a file: the limit for an undo.
async fn raw_copy(bench: &mut Bench) -> Result<f64> {
    let (_, db) = bench.copy().await?;
    let file = bench.cluster.folder().join("removed.copy").display().to_string();
    db.execute(&format!(
        "COPY (SELECT * FROM user_progress c WHERE {ORPHAN}) TO '{file}'; DELETE FROM user_progress c WHERE {ORPHAN}"
    ))
    .await?;
    db.execute("CHECKPOINT").await?;
    let seconds = timed(db.execute(&format!("COPY user_progress FROM '{file}'"))).await?;
    db.close().await;
    std::fs::remove_file(&file)?;
    Ok(seconds)
}

async fn dump_and_delete(bench: &mut Bench, folder: &Path) -> Result<f64> {
    let (_, db) = bench.copy().await?;
    let began = Instant::now();
    let out = std::fs::File::create(folder.join("table.dump"))?;
    let mut dump = bench.cluster.command("pg_dump");
    dump.args(["-Fc", "-t", "user_progress", &format!("copy_{}", bench.copies)])
        .stdout(Stdio::from(out));
    let status = tokio::task::spawn_blocking(move || dump.status()).await??;
    ensure!(status.success(), "pg_dump failed");
    db.execute(&format!("DELETE FROM user_progress c WHERE {ORPHAN}")).await?;
    let seconds = began.elapsed().as_secs_f64();
    db.close().await;
    Ok(seconds)
}
