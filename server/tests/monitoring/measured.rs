//! Alerts by what real databases and runs measure, on their whole way, and the recommendations that rest on runs: each comes when there is
//! cause, and goes once it is followed. Where an hour or two thousand million transactions would have to pass, the threshold is lower; what is
//! measured is not.

use std::time::Duration;

use dbkeep_client::{PlanRequest, RunQuery, RunRequest, ScheduleDraft, ScheduleManner, ScheduleTiming, proto};
use dbkeep_engine::monitor::alerts::RuleName;
use dbkeep_server::{CatalogSource, Config};
use dbkeep_testkit::{Db, Durability, PrivatePostgres, ReplicatedPostgres};

use crate::{
    receiver::Receiver,
    routed::{Running, keep_all, prepared, raised, resolved, rows},
    world::{DATABASES, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn many_failures_are_told_together_once_there_are_enough_operations() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let (keep, release) = keep_all(world.is_shared(), "tokens");
        db.execute(&keep).await.unwrap();
        for _ in 0..2 {
            assert_eq!(server.run("expired_tokens").await.state(), proto::RunState::Failed);
        }
        raised(&mut receiver, "operation_failed").await;
        db.execute(&release).await.unwrap();
        server.run("expired_tokens").await;
        resolved(&mut receiver, "operation_failed").await;
        // Two of 19 say nothing yet.
        for _ in 3..19 {
            server.run("expired_tokens").await;
        }
        server.looks(2).await;
        assert!(!receiver.has_more(), "{database}");
        server.run("expired_tokens").await;
        let data = raised(&mut receiver, "error_rate").await;
        assert!(data["title"].as_str().unwrap().contains("2 of 20"), "{database}: {data}");
        server.looks(2).await;
        assert!(!receiver.has_more(), "{database}: told once");
        // Under 3 % from the 67th on.
        for _ in 20..67 {
            server.run("expired_tokens").await;
        }
        resolved(&mut receiver, "error_rate").await;
        server.stop().await;
    }
}

/// Has a run stop at its limit of rows: they come between its acceptance and the work.
async fn exceed(world: &World, db: &Db, receiver: &Receiver, from: u32) {
    let idle = Running::start_with(world, receiver, |config| config.engine.concurrent_runs = 0).await;
    let cleanup = idle.client.cleanup();
    let plan = cleanup.plan(PlanRequest::new(["expired_tokens"])).await.unwrap();
    let request = RunRequest::of_plan(&plan).execute().full_speed().max_rows(plan.row_count);
    drop(cleanup.run(request).await.unwrap());
    let mut runs = idle.client.runs().list_all(RunQuery::default()).await.unwrap();
    let run = runs.remove(0).id;
    idle.stop().await;
    rows(db, "tokens", from).await;
    let server = Running::start(world, receiver).await;
    let run = server.client.runs().watch(run).await.unwrap().finish().await.unwrap();
    let warned = run.report.as_ref().unwrap().warnings.iter();
    assert!(
        warned
            .map(|warning| warning.code.as_str())
            .any(|code| code == "COUNT_DRIFTED"),
        "{run:?}"
    );
    server.looks(2).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_stops_at_a_limit_is_told_and_again_and_again_is_advice() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let first = Running::start(&world, &receiver).await;
        first.run("expired_tokens").await;
        first.stop().await;
        rows(&db, "tokens", 1_000).await;
        exceed(&world, &db, &receiver, 2_000).await;
        raised(&mut receiver, "limit_hit").await;
        exceed(&world, &db, &receiver, 3_000).await;
        assert!(!receiver.has_more(), "{database}: told once");
        let server = Running::start(&world, &receiver).await;
        assert_eq!(server.advice().await, ["schedule_more_often:expired_tokens"], "{database}");
        // A new plan, as both say.
        let run = server.run("expired_tokens").await;
        assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
        resolved(&mut receiver, "limit_hit").await;
        assert_eq!(db.count("tokens").await.unwrap(), 0);
        server.run("expired_tokens").await;
        assert_eq!(server.advice().await, [""; 0], "{database}: one of three is no pattern");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_refused_is_told_until_one_is_not() {
    for database in DATABASES {
        let (world, _db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let draft = ScheduleDraft::new("nightly")
            .target("app")
            .operation("expired_tokens")
            .manner(ScheduleManner::default().max_rows(1))
            .timing(ScheduleTiming::cron("@yearly"));
        let schedules = server.client.schedules();
        let schedule = schedules.create(draft).await.unwrap();
        assert!(
            schedules.run(schedule.id.as_str()).await.is_err(),
            "40 rows are more than one"
        );
        let data = raised(&mut receiver, "schedule_missed").await;
        assert!(data["title"].as_str().unwrap().contains("nightly"), "{database}: {data}");
        server.looks(2).await;
        assert!(!receiver.has_more(), "{database}: told once");
        server.run("expired_tokens").await;
        let run = schedules.run(schedule.id.as_str()).await.unwrap().finish().await.unwrap();
        assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
        resolved(&mut receiver, "schedule_missed").await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_never_removes_anything_is_advice_until_it_does() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        db.execute("DELETE FROM tokens").await.unwrap();
        let receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let control = Db::open(&world.store).await.unwrap();
        for week in (0..5_i64).rev() {
            let run = server.run("expired_tokens").await;
            let ago = week * 7 * 86_400_000;
            let older = format!(
                "UPDATE {} SET created_ms = created_ms - {ago}, started_ms = started_ms - {ago}, ended_ms = ended_ms - {ago} WHERE id = '{}'",
                world.table("runs"),
                run.id
            );
            control.execute(&older).await.unwrap();
        }
        assert_eq!(server.advice().await, ["removes_nothing:expired_tokens"], "{database}");
        // What it says: look at the plan. This time there is something to remove.
        rows(&db, "tokens", 1).await;
        server.run("expired_tokens").await;
        assert_eq!(server.advice().await, [""; 0], "{database}");
        server.stop().await;
    }
}

const EVENTS: &str = r#"
[[operation]]
name = "old_events"
category = "LOGS"
severity = "LOW"
backup = false
[[operation.rule]]
name = "events"
kind = "expired"
table = "events"
column = "created_at"
retention = "P1Y"
encoding = "unix_seconds"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_grows_is_advice_until_an_operation_looks_at_it() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        db.execute("CREATE TABLE events (id integer PRIMARY KEY, created_at bigint)")
            .await
            .unwrap();
        db.execute(
            "INSERT INTO events WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120000) SELECT i, 4000000000 FROM n",
        )
        .await
        .unwrap();
        db.execute("ANALYZE").await.unwrap();
        let receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        server.looks(1).await;
        assert_eq!(server.advice().await, [""; 0], "nobody knows how it grows");
        // As if it had been looked at for three days.
        let control = Db::open(&world.store).await.unwrap();
        let now = jiff::Timestamp::now().as_millisecond();
        for (hours, rows) in [(72, 100_000), (1, 120_000)] {
            let at = now - hours * 3_600_000;
            let point = format!(
                "INSERT INTO {} (series, at_ms, samples, min, max, sum, last) SELECT id, {at}, 1, {rows}.0, {rows}.0, {rows}.0, {rows}.0 \
                 FROM {} WHERE metric = 'table_rows' AND object LIKE '%events'",
                world.table("samples_1h"),
                world.table("metric_series")
            );
            control.execute(&point).await.unwrap();
        }
        let advice = server.advice().await;
        assert_eq!(advice.len(), 1, "{database}: {advice:?}");
        assert!(
            advice[0].starts_with("add_cleanup_rule:") && advice[0].ends_with("events"),
            "{database}: {advice:?}"
        );
        // The report of what a schedule starts says so too, with a rule to paste.
        let draft = ScheduleDraft::new("nightly")
            .target("app")
            .operation("expired_tokens")
            .timing(ScheduleTiming::cron("@yearly"));
        let schedules = server.client.schedules();
        let schedule = schedules.create(draft).await.unwrap();
        let run = schedules.run(schedule.id.as_str()).await.unwrap().finish().await.unwrap();
        let reported = run.report.unwrap().recommendations;
        let kept: Vec<&str> = reported.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(kept, advice, "{database}");
        let [one] = &reported[..] else { panic!("{reported:?}") };
        assert!(!one.name.is_empty() && !one.evidence.is_empty(), "{database}: {one:?}");
        assert!(one.remediation.contains("[[operation]]"), "{database}: {one:?}");
        server.stop().await;
        let server = Running::start_with(&world, &receiver, |config| {
            config.targets[0].catalogs.push(CatalogSource::Text {
                name: "events.toml".to_owned(),
                text: EVENTS.to_owned(),
            });
        })
        .await;
        assert_eq!(server.advice().await, [""; 0], "{database}: an operation looks at it");
        server.stop().await;
    }
}

/// A target in a cluster of its own, beside an embedded store.
async fn in_cluster(url: String) -> (World, Db) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["data", "migrations"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let db = Db::open(&url).await.unwrap();
    for table in ["tokens", "sessions"] {
        db.execute(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY, expires_at bigint)"))
            .await
            .unwrap();
    }
    let store = format!("sqlite://{}", folder.path().join("data/control.db").display());
    let world = World {
        folder,
        target: url,
        store,
    };
    (world, db)
}

/// Has a rule begin and end at these values, at once.
fn at(config: &mut Config, name: RuleName, raise_at: f64, clear_at: f64) {
    config.engine.monitor.rules.entry(name).and_modify(|rule| {
        rule.raise_at = raise_at;
        rule.clear_at = clear_at;
        rule.lasting = Duration::ZERO;
    });
}

/// Does something again and again, since each look judges what was counted since the one before, until somebody was told.
async fn while_doing<T>(db: &Db, statement: &str, told: impl Future<Output = T>) -> T {
    let doing = async {
        loop {
            db.execute(statement).await.unwrap();
        }
    };
    tokio::select! {
        () = doing => unreachable!("it goes on"),
        answer = told => answer,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_are_not_in_memory_are_told() {
    let settings = [("shared_buffers", "128kB"), ("autovacuum", "off")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings).await.unwrap();
    let (world, db) = in_cluster(cluster.url("postgres")).await;
    db.execute("CREATE TABLE wide AS SELECT n AS id FROM generate_series(1, 200000) AS n; CREATE INDEX wide_id ON wide (id); ANALYZE wide")
        .await
        .unwrap();
    let look_up = |key: &str| {
        format!(
            "DO $$ BEGIN SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; FOR i IN 1..20000 LOOP \
             PERFORM 1 FROM wide WHERE id = {key}; END LOOP; END $$; SELECT pg_stat_force_next_flush()"
        )
    };
    let mut receiver = Receiver::start().await;
    let server = Running::start_with(&world, &receiver, |config| {
        at(config, RuleName::LowIndexEfficiency, 0.9, 0.92)
    })
    .await;
    let everywhere = look_up("1 + (i::bigint * 7919 % 200000)::integer");
    while_doing(&db, &everywhere, raised(&mut receiver, "low_index_efficiency")).await;
    while_doing(&db, &look_up("7"), resolved(&mut receiver, "low_index_efficiency")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_nearly_all_taken_are_told() {
    let settings = [("max_connections", "40"), ("superuser_reserved_connections", "3")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings).await.unwrap();
    let (world, db) = in_cluster(cluster.url("postgres")).await;
    let mut receiver = Receiver::start().await;
    let server = Running::start_with(&world, &receiver, |config| {
        at(config, RuleName::ConnectionsNearLimit, 0.7, 0.6);
    })
    .await;
    server.looks(1).await;
    assert!(!receiver.has_more());
    let mut taken = Vec::new();
    for _ in 0..30 {
        taken.push(Db::open(&world.target).await.unwrap());
    }
    raised(&mut receiver, "connections_near_limit").await;
    for one in taken {
        one.close().await;
    }
    resolved(&mut receiver, "connections_near_limit").await;
    db.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_are_used_up_are_told_until_vacuum_has_frozen() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("autovacuum", "off")])
        .await
        .unwrap();
    let (world, db) = in_cluster(cluster.url("postgres")).await;
    let mut receiver = Receiver::start().await;
    // 4,000 transactions of two thousand million, and 2,000.
    let server = Running::start_with(&world, &receiver, |config| at(config, RuleName::Wraparound, 2e-6, 1e-6)).await;
    let use_up = "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    db.execute(use_up).await.unwrap();
    raised(&mut receiver, "wraparound").await;
    db.execute("VACUUM (FREEZE)").await.unwrap();
    resolved(&mut receiver, "wraparound").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_behind_is_told() {
    let pair = ReplicatedPostgres::start().await.unwrap();
    let (world, db) = in_cluster(pair.primary().url("postgres")).await;
    let mut receiver = Receiver::start().await;
    let server = Running::start_with(&world, &receiver, |config| at(config, RuleName::ReplicaLag, 1.0, 0.5)).await;
    let standby = Db::open(&pair.standby().url("postgres")).await.unwrap();
    standby.execute("SELECT pg_wal_replay_pause()").await.unwrap();
    db.execute("CREATE TABLE behind AS SELECT generate_series(1, 20000) AS n")
        .await
        .unwrap();
    raised(&mut receiver, "replica_lag").await;
    standby.execute("SELECT pg_wal_replay_resume()").await.unwrap();
    resolved(&mut receiver, "replica_lag").await;
    server.stop().await;
}
