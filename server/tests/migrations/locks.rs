//! Locks that a rehearsal sees: of a statement that no transaction holds from outside, and on SQLite that of the whole database.

use dbkeep_engine::model::EngineKind;
use dbkeep_proto::v1::{self, RunState};

use super::world::{World, file, named};

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
