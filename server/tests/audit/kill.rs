//! kill -9 of a process that records: whatever it was told is written is there afterwards, and the chain is whole.
//!
//! The process is this test binary itself, told by its environment to be a writer: it records from many tasks at once and says each number that it
//! was given, in one write.

#![cfg(feature = "failpoints")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use dbkeep_engine::{audit::Journal, port::AuditLog};
use dbkeep_server::store::ControlStore;

use crate::world::{DATABASES, Random, World, subject, verify};

const STORE: &str = "DBKEEP_TEST_AUDIT_STORE";
const SEED: u64 = 7;

/// Not a test of its own: what the killed process does.
#[test]
#[ignore = "started by the tests of kill -9"]
fn writer() {
    let Ok(url) = std::env::var(STORE) else { return };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|message| message.starts_with("failpoint")) {
            // Nothing is flushed, closed or unwound.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        usual(panic);
    }));
    let _scenario = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = ControlStore::open(&url).await.unwrap();
        let journal = Journal::new(Arc::new(store) as Arc<dyn AuditLog>);
        let writers: Vec<_> = (0..16_u64)
            .map(|writer| {
                let journal = journal.clone();
                tokio::spawn(async move {
                    for number in 0.. {
                        let record = journal.record(subject(writer * 1_000_000 + number)).await.unwrap();
                        let told = format!("acknowledged {} {}\n", record.number, record.hash);
                        std::io::stdout().write_all(told.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn start(url: &str, failpoints: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "kill::writer", "--nocapture", "--test-threads=1"])
        .env(STORE, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if !failpoints.is_empty() {
        command.env("FAILPOINTS", failpoints);
    }
    command.spawn().unwrap()
}

/// What the process was told before it ended; `enough` says when it is killed.
fn acknowledged(mut child: Child, enough: usize) -> Vec<(u64, String)> {
    let mut told = Vec::new();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    for line in stdout.lines() {
        let line = line.unwrap();
        // The test harness writes to the same stream.
        let Some(rest) = line.split("acknowledged ").nth(1) else {
            continue;
        };
        let Some((number, hash)) = rest.split_once(' ') else {
            continue;
        };
        if hash.len() == 64 {
            told.push((number.parse().unwrap(), hash.to_owned()));
        }
        if told.len() == enough {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    told
}

/// `most` acknowledgements at most before the process is killed from outside; 0 for none, where it ends itself.
async fn nothing_is_lost(database: &str, failpoints: &str, most: u64, rounds: u64) {
    println!("{database}: seed {SEED}");
    let mut random = Random(SEED);
    let world = World::new(database).await;
    let mut all: Vec<(u64, String)> = Vec::new();
    for round in 0..rounds {
        let (url, failpoints) = (world.url.clone(), failpoints.to_owned());
        let enough = if most == 0 {
            usize::MAX
        } else {
            1 + usize::try_from(random.below(most)).unwrap()
        };
        let told = tokio::task::spawn_blocking(move || acknowledged(start(&url, &failpoints), enough))
            .await
            .unwrap();
        assert!(
            !told.is_empty(),
            "{database}: round {round}: nothing was written before the end"
        );
        all.extend(told);
        let engine = world.engine(|_| {});
        let verified = verify(&engine, Vec::new())
            .await
            .unwrap_or_else(|problem| panic!("{database}: {problem:?}"));
        let records = world.records().await;
        assert_eq!(verified.records, u64::try_from(records.len()).unwrap());
        for (number, hash) in &all {
            let kept = &records[usize::try_from(*number).unwrap() - 1];
            assert_eq!(kept.hash.to_string(), *hash, "{database}: record {number} was acknowledged");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_time_no_acknowledged_record_is_lost() {
    for database in DATABASES {
        nothing_is_lost(database, "", 400, 6).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_commit_no_acknowledged_record_is_lost() {
    // The process ends itself in its twentieth transaction, between the rows and the COMMIT.
    for database in DATABASES {
        nothing_is_lost(database, "audit-append=19*off->panic", 0, 2).await;
    }
}
