//! Replicas that are behind or stopped hold a run; a real primary with a real standby in clusters of their own.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dbkeep_client::{LimitsUpdate, RunRequest, RunStream, proto};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};
use futures::StreamExt as _;
use proto::{RunState, run_event::Event};
use support::{CATALOG, CHILDREN, ORPHANS, World};

/// A streaming standby of a cluster, in its folder. Dropped, it is stopped; should the process be killed, it ends by itself when its
/// folder goes with the cluster's.
struct Standby<'a> {
    primary: &'a PrivatePostgres,
    port: u16,
}

impl<'a> Standby<'a> {
    /// Copies the primary and streams from it by way of a slot of this name.
    async fn of(primary: &'a PrivatePostgres, slot: &str) -> Result<Self> {
        // Free now; should somebody else take it meanwhile, the start fails and says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let standby = Self { primary, port };
        let copy = [
            "--pgdata=standby",
            "--write-recovery-conf",
            "--create-slot",
            "--wal-method=stream",
            "--checkpoint=fast",
        ];
        standby
            .tool("pg_basebackup", copy.into_iter().chain(["--slot", slot]))
            .await?;
        standby.start().await?;
        Ok(standby)
    }

    async fn tool(&self, name: &str, arguments: impl IntoIterator<Item = &str>) -> Result<()> {
        let mut command: tokio::process::Command = self.primary.command(name).into();
        // The server that pg_ctl leaves behind must not keep a pipe of the test's open.
        let status = command
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .status()
            .await
            .with_context(|| name.to_owned())?;
        ensure!(status.success(), "{name}: {status}");
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        let options = format!("-c port={}", self.port);
        self.tool(
            "pg_ctl",
            [
                "--pgdata=standby",
                "--log=standby.log",
                "--wait",
                "--options",
                &options,
                "start",
            ],
        )
        .await
    }

    async fn stop(&self) -> Result<()> {
        self.tool("pg_ctl", ["--pgdata=standby", "--mode=immediate", "--wait", "stop"])
            .await
    }
}

impl Drop for Standby<'_> {
    fn drop(&mut self) {
        // It may be stopped already; there is nobody to tell of a failure here.
        let _ = self
            .primary
            .command("pg_ctl")
            .args(["--pgdata=standby", "--mode=immediate", "stop"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
    }
}

async fn primary() -> (PrivatePostgres, World) {
    let cluster = PrivatePostgres::start(Durability::Fast).await.expect("a cluster");
    cluster.create_database("app").await.expect("a database");
    let world = World::on(cluster.url("app"), tempfile::tempdir().expect("a folder"), CATALOG).await;
    (cluster, world)
}

/// Waits until a replica holds the run, or no longer does.
async fn until_held(stream: &mut RunStream, held: bool) -> proto::Throttled {
    loop {
        let event = stream.next().await.expect("no end yet").expect("an event");
        match event.event {
            Some(Event::Throttled(slowdown)) if slowdown.reason == "REPLICA_LAG" && slowdown.cleared != held => return slowdown,
            Some(Event::StateChanged(change)) => assert!(!dbkeep_client::is_final(change.to()), "{}", change.reason),
            _ => {}
        }
    }
}

async fn remaining(db: &Db) -> u64 {
    db.count("child").await.expect("a count") + ORPHANS - CHILDREN
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_standby_holds_the_run_until_it_streams_again() {
    let (cluster, world) = primary().await;
    let standby = Standby::of(&cluster, "eu2").await.expect("a standby");
    let plan = world.plan("orphans").await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(10).max_rows_per_second(10);
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    // With its standby streaming, it works.
    loop {
        let event = stream.next().await.expect("no end yet").expect("an event");
        match event.event {
            Some(Event::Progress(progress)) if progress.rows_affected > 0 => break,
            Some(Event::Throttled(slowdown)) => assert_ne!(slowdown.reason, "REPLICA_LAG", "{slowdown:?}"),
            _ => {}
        }
    }
    standby.stop().await.expect("stopped");
    let slowdown = until_held(&mut stream, true).await;
    assert!(
        slowdown.value.contains("stopped") && slowdown.value.contains("eu2"),
        "{slowdown:?}"
    );
    assert_eq!(slowdown.threshold, "10 s");
    let held = remaining(&world.db).await;
    assert!(held > 0 && held < ORPHANS, "{held} rows are left");
    // What steers a run steers a held one: it is paused and goes on, and is held again before it deletes a row.
    let run = stream.run_id().expect("it has told its id").to_owned();
    world.client.runs().pause(run.as_str(), "").await.expect("a run");
    world.client.runs().resume(run.as_str()).await.expect("a run");
    let update = LimitsUpdate::new(run.as_str()).batch_size(1_000).max_rows_per_second(0);
    world.client.runs().update_limits(update).await.expect("limits");
    until_held(&mut stream, true).await;
    assert_eq!(remaining(&world.db).await, held, "nothing was deleted meanwhile");

    standby.start().await.expect("started");
    until_held(&mut stream, false).await;
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    assert_eq!(remaining(&world.db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_nobody_uses_holds_the_run_but_not_at_full_speed() {
    let (_cluster, world) = primary().await;
    world
        .db
        .execute("SELECT pg_create_physical_replication_slot('gone', true)")
        .await
        .expect("a slot");
    let plan = world.plan("orphans").await;
    let request = RunRequest::of_plan(&plan).execute();
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    let slowdown = until_held(&mut stream, true).await;
    assert!(slowdown.value.contains("gone"), "{slowdown:?}");
    assert_eq!(remaining(&world.db).await, ORPHANS, "not a single batch");
    let run = stream.run_id().expect("it has told its id").to_owned();
    let update = LimitsUpdate::new(run.as_str()).duty_cycle_percent(100);
    world.client.runs().update_limits(update).await.expect("limits");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    // Where a limit was set, full speed keeps to it.
    let plan = world.plan("both").await;
    let request = RunRequest::of_plan(&plan)
        .execute()
        .full_speed()
        .max_replica_lag(Duration::from_secs(30));
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    let slowdown = until_held(&mut stream, true).await;
    assert_eq!(slowdown.threshold, "30 s");
    world
        .db
        .execute("SELECT pg_drop_replication_slot('gone')")
        .await
        .expect("dropped");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
}
