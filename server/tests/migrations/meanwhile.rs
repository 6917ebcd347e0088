//! Others at the same database: readers that must not queue, tools with ledgers of their own, servers with other control stores.

use std::time::Duration;

use dbkeep_engine::{
    model::{EngineKind, Layout},
    testing::migrations::generate,
};
use dbkeep_proto::v1::{self, MigrationState, RunState};
use dbkeep_testkit::Db;
use tokio::time::{Instant, timeout};

use super::world::{Holder, PATIENCE, World, all, file, reason, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_alter_never_queues_readers_for_longer_than_the_lock_timeout() {
    let files = [file("1_a.up.sql", "ALTER TABLE busy ADD COLUMN more integer;")];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    world
        .db
        .execute("CREATE TABLE busy (id integer PRIMARY KEY); INSERT INTO busy VALUES (1)")
        .await
        .expect("a table");
    let mut reader = Holder::open(&world.url).await;
    reader.run("BEGIN").await;
    reader.run("SELECT id FROM busy").await;
    let lock_timeout = Duration::from_millis(300);
    let token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token: token,
        options: Some(v1::MigrationOptions {
            lock_timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: 300_000_000,
            }),
            lock_tries: 50,
            ..v1::MigrationOptions::default()
        }),
        ..v1::ApplyMigrationsRequest::default()
    };
    let mut stream = world
        .migrations
        .apply_migrations(request)
        .await
        .expect("accepted")
        .into_inner();
    let others = Db::open(&world.url).await.expect("a connection");
    let mut longest = Duration::ZERO;
    let mut tries = 0;
    let mut blocked_by = String::new();
    // Readers come all the time; three tries are enough to see how long they wait behind one.
    while tries < 3 {
        let began = Instant::now();
        others.fetch_text("SELECT id::text FROM busy").await.expect("a read");
        longest = longest.max(began.elapsed());
        while let Ok(message) = timeout(Duration::ZERO, stream.message()).await {
            let event = message
                .expect("a message")
                .expect("no end yet")
                .event
                .and_then(|event| event.event);
            if let Some(v1::run_event::Event::Warning(warning)) = event {
                assert_eq!(warning.code, "LOCK_TIMEOUT");
                blocked_by = warning.message;
                tries += 1;
            }
        }
    }
    // As long as the option says, and neither as long as it says by default nor not at all.
    assert!(
        longest < lock_timeout + Duration::from_millis(900),
        "a reader waited {longest:?}"
    );
    assert!(
        longest > lock_timeout / 4,
        "no reader queued, the longest wait was {longest:?}"
    );
    assert!(blocked_by.contains("idle in transaction"), "{blocked_by}");
    reader.run("COMMIT").await;
    let end = async {
        while let Some(message) = stream.message().await.expect("a message") {
            let event = message.event.and_then(|event| event.event);
            if let Some(v1::run_event::Event::StateChanged(change)) = event
                && change.to() == RunState::Succeeded
            {
                return true;
            }
        }
        false
    };
    assert!(
        timeout(PATIENCE, end).await.expect("in time"),
        "it goes on when the reader is gone"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sqlx_itself_applied_is_adopted_and_never_altered() {
    let files = generate(Layout::Sqlx, EngineKind::Postgres, 12, 3);
    let mut world = World::new(EngineKind::Postgres, &files, None).await;
    let migrator = sqlx::migrate::Migrator::new(world.place.path().join("migrations"))
        .await
        .expect("a migrator");
    let pool = sqlx::PgPool::connect(&world.url).await.expect("a pool");
    migrator.run(&pool).await.expect("sqlx applies them");
    pool.close().await;
    let whole = world.contents().await;
    let migrations = world.list().await;
    assert!(
        migrations
            .iter()
            .all(|migration| migration.state() == MigrationState::Adopted && migration.adopted_from == "sqlx"),
        "{migrations:?}"
    );
    let status = world.status().await;
    assert!(
        status.problems.is_empty(),
        "the checksums are those of sqlx: {:?}",
        status.problems
    );
    assert_eq!(
        reason(&world.apply(all()).await.expect_err("nothing to do")),
        "NOTHING_TO_MIGRATE"
    );
    assert_eq!(world.contents().await, whole, "its ledger is as it was");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_another_tool_applies_meanwhile_is_named() {
    let files = [
        file(
            "1_a.up.sql",
            "SELECT pg_advisory_lock(77); CREATE TABLE a (id integer); SELECT pg_advisory_unlock(77);",
        ),
        file("2_b.up.sql", "CREATE TABLE b (id integer);"),
    ];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    let other = Db::open(&world.url).await.expect("a connection");
    let mut holder = Holder::open(&world.url).await;
    holder.run("SELECT pg_advisory_lock(77)").await;
    let token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token: token,
        options: Some(v1::MigrationOptions {
            lock_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..v1::MigrationOptions::default()
        }),
        ..v1::ApplyMigrationsRequest::default()
    };
    let mut client = world.migrations.clone();
    let applying = tokio::spawn(async move {
        let mut stream = client.apply_migrations(request).await.expect("accepted").into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await.expect("a message") {
            if let Some(event) = message.event {
                last = Some(event);
            }
        }
        last.expect("events").run_id
    });
    until(
        &other,
        "SELECT (count(*) > 0)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted",
        "true",
    )
    .await;
    other
        .execute(
            "CREATE TABLE b (id integer); CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, \
             installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL); \
             INSERT INTO _sqlx_migrations VALUES (2, 'b', now(), true, '\\x00', 1)",
        )
        .await
        .expect("another tool");
    holder.run("SELECT pg_advisory_unlock(77)").await;
    let id = timeout(PATIENCE, applying).await.expect("in time").expect("no panic");
    let answer = world.runs.get_run(v1::GetRunRequest { id }).await.expect("a run");
    let run = answer.into_inner().run.expect("a run");
    assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
    assert!(run.state_reason.contains("applied by sqlx meanwhile"), "{}", run.state_reason);
    assert_eq!(world.one("2").await.state(), MigrationState::Adopted);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_costs_a_migration_nothing() {
    let files = [file(
        "1_a.up.sql",
        "CREATE TABLE a (id integer); SELECT pg_advisory_lock(78); INSERT INTO a VALUES (1); SELECT pg_advisory_unlock(78);",
    )];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    let other = Db::open(&world.url).await.expect("a connection");
    let mut holder = Holder::open(&world.url).await;
    holder.run("SELECT pg_advisory_lock(78)").await;
    let mut client = world.migrations.clone();
    let token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token: token,
        options: Some(v1::MigrationOptions {
            lock_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..v1::MigrationOptions::default()
        }),
        ..v1::ApplyMigrationsRequest::default()
    };
    let applying = tokio::spawn(async move {
        let mut stream = client.apply_migrations(request).await.expect("accepted").into_inner();
        let mut states = Vec::new();
        while let Some(message) = stream.message().await.expect("a message") {
            if let Some(v1::run_event::Event::StateChanged(change)) = message.event.and_then(|event| event.event) {
                states.push(change.to());
            }
        }
        states
    });
    let waiting = "SELECT (count(*) > 0)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 78 AND NOT granted";
    until(&other, waiting, "true").await;
    let kill = "SELECT pg_terminate_backend(pid)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 78 AND NOT granted";
    other.fetch_text(kill).await.expect("killed");
    // The next attempt comes to the same place.
    until(&other, waiting, "true").await;
    holder.run("SELECT pg_advisory_unlock(78)").await;
    let states = timeout(PATIENCE, applying).await.expect("in time").expect("no panic");
    assert!(states.contains(&RunState::Interrupted), "{states:?}");
    assert_eq!(states.last(), Some(&RunState::Succeeded), "{states:?}");
    assert_eq!(world.db.count("a").await.expect("a count"), 1, "once");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_index_is_built_outside_a_transaction_and_one_that_fails_is_named_and_repaired() {
    let files = [
        file(
            "1_a.up.sql",
            "CREATE TABLE a (id integer, code integer);\nINSERT INTO a VALUES (1, 1), (2, 1);",
        ),
        file(
            "2_b.up.sql",
            "-- no-transaction\nCREATE INDEX CONCURRENTLY a_id ON a (id);\nCREATE UNIQUE INDEX CONCURRENTLY a_code ON a (code);",
        ),
    ];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
    assert!(
        run.state_reason.contains("1 of 2 statements took effect"),
        "{}",
        run.state_reason
    );
    let stopped = world.one("2").await;
    assert_eq!(stopped.state(), MigrationState::StoppedUp);
    assert_eq!(
        (stopped.statements_done, stopped.statement_count, stopped.in_doubt),
        (1, 2, false)
    );
    assert!(stopped.problem.contains("a_code"), "{}", stopped.problem);
    let explained = world
        .repair("2", v1::RepairAction::Unspecified)
        .await
        .expect("an explanation");
    assert!(
        explained.explanation.iter().any(|line| line.contains("invalid")),
        "{explained:?}"
    );
    assert!(
        explained
            .proposals
            .iter()
            .any(|proposal| proposal.action() == v1::RepairAction::DropInvalidIndex)
    );
    world
        .db
        .execute("DELETE FROM a WHERE id = 2")
        .await
        .expect("the cause is mended");
    world.repair("2", v1::RepairAction::DropInvalidIndex).await.expect("dropped");
    let answer = world.runs.list_decisions(v1::ListDecisionsRequest::default()).await;
    let decisions = answer.expect("a list").into_inner().decisions;
    let repair = decisions
        .iter()
        .find(|one| one.act() == v1::DecisionAct::Repair)
        .expect("on record");
    assert!(repair.detail.contains("public.a_code"), "{repair:?}");
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    let valid = "SELECT count(*)::text FROM pg_index WHERE indexrelid IN ('a_id'::regclass, 'a_code'::regclass) AND indisvalid";
    assert_eq!(world.db.fetch_text(valid).await.expect("a count")[0][0].as_deref(), Some("2"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_an_invalid_index_is_noted_before_it_begins_and_told_when_it_is_over() {
    let files = [file(
        "1_a.up.sql",
        "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY a_code ON a (code);",
    )];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    let tables = "CREATE TABLE a (id integer, code integer); INSERT INTO a VALUES (1, 1), (2, 1)";
    world.db.execute(tables).await.expect("a table");
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
    world
        .db
        .execute("DELETE FROM a WHERE id = 2")
        .await
        .expect("the cause is mended");
    // The removal waits for whoever reads the table, so that it can be looked at.
    let mut reader = Holder::open(&world.url).await;
    reader.run("BEGIN").await;
    reader.run("SELECT id FROM a").await;
    let plan_token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token,
        ..v1::ApplyMigrationsRequest::default()
    };
    let mut client = world.migrations.clone();
    let applying = tokio::spawn(async move { client.apply_migrations(request).await.expect("accepted").into_inner() });
    let noted = "SELECT coalesce(bool_or(problem LIKE '%index public.a_code was left invalid, and is dropped before the next try'), false)::text \
                 FROM dbkeep.migration";
    until(&world.db, noted, "true").await;
    let session = "SELECT (count(*) > 0)::text FROM dbkeep.session WHERE work = 'removal of an invalid index'";
    until(&world.db, session, "true").await;
    reader.run("COMMIT").await;
    let mut stream = timeout(PATIENCE, applying).await.expect("in time").expect("no panic");
    let mut id = String::new();
    while let Some(message) = timeout(PATIENCE, stream.message())
        .await
        .expect("in time")
        .expect("a message")
    {
        if let Some(event) = message.event {
            id = event.run_id;
        }
    }
    let answer = world.runs.get_run(v1::GetRunRequest { id }).await.expect("a run");
    let run = answer.into_inner().run.expect("a run");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    let warnings = run.report.expect("a report").warnings;
    let dropped = warnings.iter().find(|warning| warning.code == "INVALID_INDEX_DROPPED");
    assert!(dropped.expect("it is told").message.contains("public.a_code"), "{warnings:?}");
    assert_eq!(world.one("1").await.problem, "", "what is over is no problem any more");
    assert_eq!(
        world
            .db
            .fetch_text("SELECT count(*)::text FROM dbkeep.session")
            .await
            .expect("a count")[0][0]
            .as_deref(),
        Some("0")
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outside_of_a_transaction_is_tried_again_when_it_waited_in_vain() {
    for (setup, script, left) in [
        ("SELECT 1", "CREATE INDEX CONCURRENTLY busy_id ON busy (id)", "1"),
        ("CREATE INDEX busy_id ON busy (id)", "DROP INDEX CONCURRENTLY busy_id", "0"),
    ] {
        let files = [file("1_a.up.sql", script)];
        let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
        world.db.execute("CREATE TABLE busy (id integer)").await.expect("a table");
        world.db.execute(setup).await.expect("set up");
        // Both wait for transactions that began before them.
        let mut reader = Holder::open(&world.url).await;
        reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        reader.run("SELECT id FROM busy").await;
        let token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
        let request = v1::ApplyMigrationsRequest {
            dry_run: Some(false),
            plan_token: token,
            options: Some(v1::MigrationOptions {
                lock_timeout: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 100_000_000,
                }),
                lock_tries: 50,
                ..v1::MigrationOptions::default()
            }),
            ..v1::ApplyMigrationsRequest::default()
        };
        let mut stream = world
            .migrations
            .apply_migrations(request)
            .await
            .expect("accepted")
            .into_inner();
        let (mut tries, mut last, mut why) = (0, RunState::Unspecified, String::new());
        while let Some(message) = timeout(PATIENCE, stream.message())
            .await
            .expect("in time")
            .expect("a message")
        {
            match message.event.and_then(|event| event.event) {
                Some(v1::run_event::Event::Warning(warning)) if warning.code == "LOCK_TIMEOUT" => {
                    tries += 1;
                    if tries == 2 {
                        reader.run("COMMIT").await;
                    }
                }
                Some(v1::run_event::Event::StateChanged(change)) => (last, why) = (change.to(), change.reason),
                _ => {}
            }
        }
        assert!(tries >= 2, "{script}: {tries}: {why}");
        assert_eq!(last, RunState::Succeeded, "{script}: {why}");
        let valid = "SELECT count(*)::text FROM pg_index WHERE indrelid = 'busy'::regclass AND indisvalid";
        assert_eq!(
            world.db.fetch_text(valid).await.expect("a count")[0][0].as_deref(),
            Some(left),
            "{script}"
        );
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_other_control_stores_take_turns() {
    let files = [file(
        "1_a.up.sql",
        "CREATE TABLE a (id integer); SELECT pg_advisory_lock(79); SELECT pg_advisory_unlock(79);",
    )];
    let mut one = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    let mut other = one.beside(&files).await;
    let watcher = Db::open(&one.url).await.expect("a connection");
    let mut holder = Holder::open(&one.url).await;
    holder.run("SELECT pg_advisory_lock(79)").await;
    let token = one.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token: token.clone(),
        options: Some(v1::MigrationOptions {
            lock_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..v1::MigrationOptions::default()
        }),
        ..v1::ApplyMigrationsRequest::default()
    };
    let mut client = one.migrations.clone();
    let first = tokio::spawn(async move {
        let mut stream = client.apply_migrations(request).await.expect("accepted").into_inner();
        while stream.message().await.expect("a message").is_some() {}
    });
    until(
        &watcher,
        "SELECT (count(*) > 0)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 79 AND NOT granted",
        "true",
    )
    .await;
    let run = other
        .apply_planned(all(), token)
        .await
        .expect("accepted by a store that knows nothing of the other");
    assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
    assert!(run.state_reason.contains("migrates this target"), "{}", run.state_reason);
    holder.run("SELECT pg_advisory_unlock(79)").await;
    timeout(PATIENCE, first).await.expect("in time").expect("no panic");
    assert_eq!(one.one("1").await.state(), MigrationState::Applied);
    assert_eq!(other.one("1").await.state(), MigrationState::Applied);
    one.end().await;
    other.end().await;
}
