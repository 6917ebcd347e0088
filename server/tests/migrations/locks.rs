//! Locks that a rehearsal sees: of a statement that no transaction holds from outside, and on SQLite that of the whole database. How long
//! one is waited for, whatever a script says.

use dbkeep_engine::model::{EngineKind, Layout};
use dbkeep_proto::v1::{self, RunState};
use tokio::time::timeout;

use super::world::{Holder, PATIENCE, World, all, file, named};

async fn statements(world: &mut World, id: &str) -> Vec<v1::MigrationStatementReport> {
    let run = world.test(named(&[id])).await.expect("accepted");
    assert!(
        matches!(run.state(), RunState::Succeeded | RunState::PartiallySucceeded),
        "{}",
        run.state_reason
    );
    run.report.expect("a report").migrations.remove(0).statements
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outside_of_a_transaction_is_watched_from_outside() {
    let files = [
        file(
            "1_base.up.sql",
            "CREATE TABLE users (id integer PRIMARY KEY, n integer);\nINSERT INTO users SELECT n, n % 97 FROM generate_series(1, 200000) AS n;",
        ),
        file(
            "2_index.up.sql",
            "-- no-transaction\nCREATE INDEX CONCURRENTLY users_n ON users (n);\nVACUUM FULL users;",
        ),
        file("3_inside.up.sql", "ALTER TABLE users ADD COLUMN m integer;"),
    ];
    let mut world = World::new(EngineKind::Postgres, &files, None).await;
    let run = world.apply(named(&["1"])).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    let done = statements(&mut world, "2").await;
    let holds = |done: &v1::MigrationStatementReport, mode: &str| {
        let lock = |lock: &v1::MigrationLock| lock.table == "public.users" && lock.mode == mode;
        done.locks.iter().any(lock)
    };
    assert!(done.iter().all(|done| done.locks_at_least), "{done:?}");
    assert!(
        holds(&done[0], "SHARE UPDATE EXCLUSIVE") && !holds(&done[0], "ACCESS EXCLUSIVE") && done[0].rewritten.is_empty(),
        "{:?}",
        done[0]
    );
    assert!(
        holds(&done[1], "ACCESS EXCLUSIVE") && done[1].rewritten == ["public.users"],
        "{:?}",
        done[1]
    );
    let inside = statements(&mut world, "3").await;
    assert!(
        holds(&inside[0], "ACCESS EXCLUSIVE") && !inside[0].locks_at_least,
        "{inside:?}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_cannot_make_the_wait_for_a_lock_longer() {
    let alter = "ALTER TABLE busy ADD COLUMN more integer;";
    let index = "CREATE INDEX CONCURRENTLY busy_id ON busy (id);";
    for script in [
        format!("SET lock_timeout = 0;\n{alter}"),
        format!("SELECT pg_catalog.set_config('lock_timeout', '0', false);\n{alter}"),
        format!("SET lock_timeout = '2h';\nRESET lock_timeout;\n{alter}"),
        // Every statement has a session of its own, which is set as those before it have set theirs.
        format!("-- no-transaction\nSET lock_timeout = 0;\n{alter}"),
        format!("-- no-transaction\nSET lock_timeout = 0;\n{index}"),
    ] {
        let mut world = World::new(EngineKind::Postgres, &[file("1_a.up.sql", &script)], Some(Layout::Sqlx)).await;
        world.db.execute("CREATE TABLE busy (id integer)").await.expect("a table");
        let mut holder = Holder::open(&world.url).await;
        holder.run("BEGIN").await;
        holder.run("LOCK TABLE busy IN SHARE ROW EXCLUSIVE MODE").await;
        let plan_token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
        let request = v1::ApplyMigrationsRequest {
            dry_run: Some(false),
            plan_token,
            options: Some(v1::MigrationOptions {
                lock_timeout: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 200_000_000,
                }),
                lock_tries: 1,
                ..v1::MigrationOptions::default()
            }),
            ..v1::ApplyMigrationsRequest::default()
        };
        // The holder never lets go: without the limit it would not end.
        let run = timeout(PATIENCE, world.apply_as(request))
            .await
            .expect("in time")
            .expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{script}: {}", run.state_reason);
        assert!(run.state_reason.contains("lock timeout"), "{script}: {}", run.state_reason);
        holder.run("COMMIT").await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_cannot_make_the_time_of_a_statement_longer() {
    // Longer than any test waits: without the limit it would not end.
    let endless = "SELECT pg_sleep(3600);";
    for script in [
        format!("SET statement_timeout = 0;\n{endless}"),
        format!("SELECT pg_catalog.set_config('statement_timeout', '0', false);\n{endless}"),
        format!("SET statement_timeout = '2h';\nRESET statement_timeout;\n{endless}"),
        format!("-- no-transaction\nSET statement_timeout = 0;\n{endless}"),
    ] {
        let mut world = World::new(EngineKind::Postgres, &[file("1_a.up.sql", &script)], Some(Layout::Sqlx)).await;
        let plan_token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
        let request = v1::ApplyMigrationsRequest {
            dry_run: Some(false),
            plan_token,
            options: Some(v1::MigrationOptions {
                statement_timeout: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 500_000_000,
                }),
                ..v1::MigrationOptions::default()
            }),
            ..v1::ApplyMigrationsRequest::default()
        };
        let run = timeout(PATIENCE, world.apply_as(request))
            .await
            .expect("in time")
            .expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{script}: {}", run.state_reason);
        assert!(
            run.state_reason.contains("statement timeout"),
            "{script}: {}",
            run.state_reason
        );
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_may_make_the_wait_for_a_lock_shorter_and_its_author_says_how_long() {
    for (says, expected) in [
        ("SET lock_timeout = 50;", "50ms"),
        ("-- dbkeep: lock-timeout = 1s", "1s"),
        ("-- dbkeep: lock-timeout = 7s", "7s"),
    ] {
        let script = format!("{says}\nCREATE TABLE told AS SELECT current_setting('lock_timeout') AS wait;");
        let mut world = World::new(EngineKind::Postgres, &[file("1_a.up.sql", &script)], Some(Layout::Sqlx)).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{says}: {}", run.state_reason);
        let wait = world.db.fetch_text("SELECT wait FROM told").await.expect("a row");
        assert_eq!(wait[0][0].as_deref(), Some(expected), "{says}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_has_one_lock_and_says_so() {
    let files = [file(
        "1_a.up.sql",
        "CREATE TABLE a (id integer);\nCREATE TABLE b (id integer);",
    )];
    let mut world = World::new(EngineKind::Sqlite, &files, None).await;
    let done = statements(&mut world, "1").await;
    assert_eq!(done[0].locks.len(), 1, "{done:?}");
    assert_eq!(
        (done[0].locks[0].table.as_str(), done[0].locks[0].mode.as_str()),
        ("*", "ACCESS EXCLUSIVE")
    );
    assert!(done[1].locks.is_empty(), "held already: {done:?}");
    world.end().await;
}
