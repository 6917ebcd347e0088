//! kill -9 of the real server between the phrase and the approval, and at the approval, on both databases: a run that waits is there
//! after the restart and waits on; one that was approved begins.

#![cfg(feature = "failpoints")]

mod support;

use dbkeep_client::{Client, PlanRequest, RunRequest, proto};
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use support::Daemon;

const CATALOG: &str = r#"
[[operation]]
name = "orphans"
category = "ORPHANED_DATA"
severity = "CRITICAL"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]
"#;

/// Orphans among the 100 children.
const ORPHANS: u64 = 40;

struct World {
    url: String,
    db: Db,
    folder: tempfile::TempDir,
}

impl World {
    async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("ladder_kill").await.expect("a database")
        } else {
            let file = folder.path().join("app.db");
            std::fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        std::fs::write(folder.path().join("catalog.toml"), CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        for sql in [
            "CREATE TABLE parent (id integer PRIMARY KEY)".to_owned(),
            "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer)".to_owned(),
            "INSERT INTO parent VALUES (1)".to_owned(),
            format!(
                "INSERT INTO child WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
                 SELECT i, CASE WHEN i <= {ORPHANS} THEN 1000 ELSE 1 END FROM n"
            ),
        ] {
            db.execute(&sql).await.expect("sql");
        }
        Self { url, db, folder }
    }

    fn start(&self, failpoints: &str) -> Daemon {
        let catalog = self.folder.path().join("catalog.toml");
        Daemon::start(&self.folder.path().join("data"), &self.url, &catalog, failpoints)
    }

    async fn count(&self) -> u64 {
        self.db.count("child").await.expect("a count")
    }
}

/// A client with a name.
async fn named(daemon: &Daemon, name: &str) -> Client {
    Client::builder()
        .address(&daemon.address)
        .principal(name)
        .connect()
        .await
        .expect("a connection")
}

/// Starts a run as Ann, up to its acceptance.
async fn waiting(daemon: &Daemon) -> String {
    let client = named(daemon, "ann").await;
    let plan = client.cleanup().plan(PlanRequest::new(["orphans"])).await.expect("a plan");
    let request = RunRequest::of_plan(&plan)
        .confirmation_phrase(plan.confirmation_phrase.as_str())
        .execute()
        .batch_size(10)
        .full_speed();
    let mut events = client.cleanup().run(request).await.expect("accepted");
    events.next().await.expect("an event").expect("an event").run_id
}

async fn killed_while_it_waits(database: &str) {
    let world = World::new(database).await;
    let mut daemon = world.start("");
    let id = waiting(&daemon).await;
    daemon.kill();
    let mut daemon = world.start("");
    let run = daemon.client().await.runs().get(&id).await.expect("the run");
    assert_eq!(
        (run.state(), run.approvals.len(), run.attempts, run.started_by.as_str()),
        (proto::RunState::Queued, 0, 0, "ann")
    );
    assert_eq!(world.count().await, 100, "nothing is gone");
    let refused = named(&daemon, "ann")
        .await
        .runs()
        .approve(&id, "")
        .await
        .expect_err("refused");
    assert_eq!(refused.reason_name(), Some("APPROVAL_REFUSED"));
    // And once more, right behind the answer to the approval.
    named(&daemon, "bob").await.runs().approve(&id, "").await.expect("approved");
    daemon.kill();
    let daemon = world.start("");
    let client = named(&daemon, "carl").await;
    let run = client
        .runs()
        .watch(&id)
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(run.approvals.len(), 1, "an approval that was answered is kept");
    assert_eq!(world.count().await, 100 - ORPHANS);
    let undo = client
        .runs()
        .undo(id.as_str())
        .await
        .expect("an undo")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(world.count().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_killed_while_it_waits() {
    killed_while_it_waits("sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_while_it_waits() {
    killed_while_it_waits("postgres").await;
}

/// Killed while the approval counts once more: it was not answered, and it did not happen.
async fn killed_during_the_approval(database: &str) {
    let world = World::new(database).await;
    let mut daemon = world.start("");
    let id = waiting(&daemon).await;
    daemon.kill();
    let mut daemon = world.start("plan-selected=panic");
    drop(
        named(&daemon, "bob")
            .await
            .runs()
            .approve(&id, "")
            .await
            .expect_err("no answer"),
    );
    assert!(!daemon.wait().success(), "the server was killed");
    let daemon = world.start("");
    let client = named(&daemon, "bob").await;
    let run = client.runs().get(&id).await.expect("the run");
    assert_eq!(
        (run.state(), run.approvals.len(), run.attempts),
        (proto::RunState::Queued, 0, 0)
    );
    assert_eq!(world.count().await, 100);
    client.runs().approve(&id, "").await.expect("approved");
    let run = client
        .runs()
        .watch(&id)
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.count().await, 100 - ORPHANS);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_killed_during_the_approval() {
    killed_during_the_approval("sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_during_the_approval() {
    killed_during_the_approval("postgres").await;
}
