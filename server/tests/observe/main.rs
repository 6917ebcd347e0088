//! Snapshots of real databases in which everything was prepared: each number beside one that was computed by hand or asked of the
//! database itself, each planted problem found, and nothing else.

mod activity;
mod planted;
mod postgres;
mod replication;
mod roles;
mod sqlite;

use std::time::Duration;

use dbkeep_engine::{
    model::monitor::{Depth, IndexVitals, Snapshot, TableVitals},
    port::Target,
};
use dbkeep_server::target;
use dbkeep_testkit::Db;

/// Long enough for everything here.
const LIMIT: Duration = Duration::from_secs(30);

async fn quick(url: &str) -> Snapshot {
    look(url, Depth::Quick).await
}

async fn look(url: &str, depth: Depth) -> Snapshot {
    let target = target::open(url).expect("a target");
    target.observer().observe(depth, LIMIT).await.expect("a snapshot")
}

/// The snapshot that fits, of those that are made until then.
async fn until(target: &dyn Target, fits: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let looking = async {
        loop {
            let snapshot = target.observer().observe(Depth::Quick, LIMIT).await.expect("a snapshot");
            if fits(&snapshot) {
                return snapshot;
            }
        }
    };
    tokio::time::timeout(LIMIT, looking).await.expect("in time")
}

fn table<'a>(snapshot: &'a Snapshot, name: &str) -> &'a TableVitals {
    let mut tables = snapshot.tables.iter();
    tables
        .find(|table| table.table.to_string() == name)
        .unwrap_or_else(|| panic!("{name} is not in {:?}", snapshot.tables))
}

fn index<'a>(snapshot: &'a Snapshot, name: &str) -> &'a IndexVitals {
    let mut indexes = snapshot.indexes.iter();
    indexes
        .find(|index| index.name == name)
        .unwrap_or_else(|| panic!("{name} is not in {:?}", snapshot.indexes))
}

/// Executes a statement of PostgreSQL, and has its counters arrive before the next one begins, in whichever session. (VACUUM cannot be
/// in the same message as another statement; what it counts arrives at once.)
async fn execute(db: &Db, sql: &str) {
    let counted = if sql.starts_with("VACUUM") {
        sql.to_owned()
    } else {
        format!("{sql}; SELECT pg_stat_force_next_flush()")
    };
    db.execute(&counted).await.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
}

/// A number of the database itself.
async fn number(db: &Db, sql: &str) -> u64 {
    answer(db, sql).await
}

/// The same of one that is not whole.
async fn decimal(db: &Db, sql: &str) -> f64 {
    answer(db, sql).await
}

async fn answer<T: std::str::FromStr>(db: &Db, sql: &str) -> T {
    let rows = db.fetch_text(sql).await.expect("an answer");
    rows[0][0].as_deref().and_then(|text| text.parse().ok()).expect("a number")
}

/// What is missing, but for extensions that are not installed.
fn gaps(snapshot: &Snapshot) -> Vec<&str> {
    let gaps = snapshot.gaps.iter();
    gaps.filter(|gap| !gap.why.contains("is not installed"))
        .map(|gap| gap.what.as_str())
        .collect()
}
