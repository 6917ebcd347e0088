//! A collector that is killed in the middle of its work, and the next one.

use std::time::Duration;

use dbkeep_testkit::Db;
use tokio::time::{sleep, timeout};

use crate::{
    support::Daemon,
    world::{PATIENCE, World},
};

/// Waits until a query of one number answers with what is wanted, which no stream tells: the servers are other processes.
async fn until(db: &Db, sql: &str, wanted: impl Fn(i64) -> bool) -> i64 {
    let looked = async {
        loop {
            let rows = db.fetch_text(sql).await.unwrap();
            let number = rows
                .first()
                .and_then(|row| row[0].as_ref())
                .and_then(|text| text.parse().ok());
            if let Some(number) = number.filter(|number| wanted(*number)) {
                return number;
            }
            sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(PATIENCE, looked).await.expect("it comes to that")
}

async fn killed_at(point: &str) {
    let world = World::new("sqlite").await;
    let data = world.folder.path().join("data");
    let catalog = world.folder.path().join("catalog.toml");
    std::fs::write(&catalog, "").unwrap();
    let mut daemon = Daemon::start(&data, &world.target, &catalog, &format!("{point}=panic"));
    assert!(!daemon.wait().success(), "{point}: killed");
    let db = Db::open(&world.store).await.unwrap();
    let fences = "SELECT MAX(fence) FROM collections WHERE fence > 0";
    let before = until(&db, fences, |_| true).await;
    let daemon = Daemon::start(&data, &world.target, &catalog, "");
    until(&db, fences, |fence| fence > before).await;
    let collected = "SELECT MAX(collected_ms) FROM collections WHERE target = 'app' AND up = 1";
    until(&db, collected, |_| true).await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_a_claim_the_next_server_collects() {
    killed_at("collection-claimed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_it_judged_the_next_server_collects() {
    killed_at("collected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_takes_over() {
    let world = World::new("postgres").await;
    let start = |number: usize| {
        let config = world.folder.path().join(format!("server{number}.toml"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data{number}\"\n[store]\nurl = \"{}\"\n[engine]\nlease_term = \"2s\"\n\
             [monitoring]\ninterval = \"5s\"\nsnapshot_limit = \"1s\"\n[[target]]\nname = \"app\"\nurl = \"{}\"\n",
            world.store, world.target
        );
        std::fs::write(&config, text).unwrap();
        Daemon::start_configured(&config)
    };
    let mut first = start(1);
    let db = Db::open(&world.store).await.unwrap();
    let newest = "SELECT collected_ms FROM dbkeep_control.collections WHERE target = 'app' AND collected_ms IS NOT NULL";
    let before = until(&db, newest, |_| true).await;
    let second = start(2);
    first.kill();
    until(&db, newest, |at| at > before).await;
    drop(second);
}
