//! The audit log: how many records a second are durable while many callers wait for each of theirs, and how long one waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dbkeep_engine::{
    Engine,
    audit::{Digest, Journal, Phase, Subject},
    engine::{Settings, audit::Checked},
    port::AuditLog,
    testing::MemoryArchive,
};
use dbkeep_server::store::ControlStore;
use dbkeep_testkit::{Durability, PrivatePostgres};

use crate::{
    Database,
    report::{Series, line, ratio},
};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Callers that wait for a record each, all the time.
    #[arg(long, default_value_t = 64)]
    callers: u64,
    /// For how long, seconds, in each round.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

pub(crate) async fn run(arguments: &Arguments, rounds: u32, only: Option<Database>) -> Result<()> {
    println!(
        "bench-db audit --callers {} --seconds {} --rounds {rounds}",
        arguments.callers, arguments.seconds
    );
    if only != Some(Database::Postgres) {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite://{}", folder.path().join("control.db").display());
        measure("SQLite", &url, arguments, rounds).await?;
    }
    if only != Some(Database::Sqlite) {
        let cluster = PrivatePostgres::start(Durability::Durable).await?;
        measure("PostgreSQL", &cluster.url("postgres"), arguments, rounds).await?;
    }
    Ok(())
}

async fn measure(name: &str, url: &str, arguments: &Arguments, rounds: u32) -> Result<()> {
    println!("\n{name}");
    let store = ControlStore::open(url).await?;
    let (mut rates, mut waits, mut alone) = (Series::default(), Series::default(), Series::default());
    for _ in 0..rounds {
        let journal = Journal::new(Arc::new(store.clone()) as Arc<dyn AuditLog>);
        let began = Instant::now();
        let until = began + Duration::from_secs(arguments.seconds);
        let callers: Vec<_> = (0..arguments.callers)
            .map(|caller| tokio::spawn(call(journal.clone(), caller, until)))
            .collect();
        let mut taken: Vec<Duration> = Vec::new();
        for caller in callers {
            taken.extend(caller.await??);
        }
        let elapsed = began.elapsed().as_secs_f64();
        taken.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "a number of records")]
        rates.push(taken.len() as f64 / elapsed);
        let p99 = taken.get(taken.len() * 99 / 100).copied().unwrap_or_default();
        waits.push(p99.as_secs_f64() * 1e3);
        // Nobody else is there: one record, one transaction.
        for number in 0..50 {
            let one = Instant::now();
            journal.record(subject(number)).await?;
            alone.push(one.elapsed().as_secs_f64() * 1e3);
        }
    }
    line("records a second", &rates, "/s");
    if name == "SQLite" {
        let mut missing = Series::default();
        missing.push(5_000.0 / rates.median());
        ratio("target of 5,000 / records a second", &missing, 1.0);
    }
    line("a caller waits, p99", &waits, "ms");
    line("a caller alone waits", &alone, "ms");
    verify(&store).await?;
    store.close().await;
    Ok(())
}

async fn call(journal: Journal, caller: u64, until: Instant) -> Result<Vec<Duration>> {
    let mut taken = Vec::new();
    let mut number = caller * 1_000_000;
    while Instant::now() < until {
        let one = Instant::now();
        journal.record(subject(number)).await?;
        taken.push(one.elapsed());
        number += 1;
    }
    Ok(taken)
}

fn subject(number: u64) -> Subject {
    Subject {
        phase: Phase::Begun,
        principal: format!("operator-{}", number % 7),
        peer: "127.0.0.1:50000".to_owned(),
        method: "CleanupService/RunCleanup".to_owned(),
        target: "app".to_owned(),
        request: Digest([7; 32]),
        detail: format!("operations old_sessions, request {number}"),
        counts: vec![("operations".to_owned(), 1)],
        ..Subject::of(uuid::Uuid::now_v7())
    }
}

/// Reads all of it again, as `VerifyAuditLog` does.
async fn verify(store: &ControlStore) -> Result<()> {
    let engine = Engine::new(
        std::collections::BTreeMap::new(),
        Arc::new(store.clone()),
        Arc::new(MemoryArchive::default()),
        Settings::default(),
    );
    let began = Instant::now();
    let mut check = engine.check_audit(Vec::new()).await?;
    let verified = loop {
        if let Checked::Done(verdict) = check.next().await? {
            break verdict;
        }
    };
    let verified = verified.map_err(|problem| anyhow::anyhow!("the log does not fit: {problem:?}"))?;
    ensure!(verified.records > 0, "there are records");
    let mut rate = Series::default();
    #[expect(clippy::cast_precision_loss, reason = "a number of records")]
    rate.push(verified.records as f64 / began.elapsed().as_secs_f64());
    println!("{} records are verified, without a gap", verified.records);
    line("records verified a second", &rate, "/s");
    Ok(())
}
