//! Replies that get lost on their way back, on PostgreSQL: the statement took effect, and whoever sent it does not know. The run finds out
//! from the ledger, and nothing takes effect twice.

use dbkeep_engine::port::SourceFile;
use dbkeep_proto::v1::{self, MigrationState, RunState};
use dbkeep_testkit::Proxy;

use super::world::{World, all, file, newest};

/// Loses the reply to the COMMIT of the transaction that writes this state of migration 2 to the ledger.
fn lose_commit(proxy: &Proxy, state: &'static str) {
    proxy.lose(move |sql, before| {
        let writes = |sql: &String| {
            sql.contains("INSERT INTO dbkeep.migration AS m") && sql.contains("SELECT '2',") && sql.contains(state)
        };
        sql == "COMMIT" && before.iter().any(writes)
    });
}

/// Tells a proxy which reply to lose.
type Lose = fn(&Proxy);

/// What a test expects once the run has come to its end.
async fn check(world: &mut World, run: &v1::Run, what: &str, sql: &str, expected: &str) {
    assert_eq!(run.state(), RunState::Succeeded, "{what}: {}", run.state_reason);
    let found = world.db.fetch_text(sql).await.expect("a row");
    assert_eq!(found[0][0].as_deref(), Some(expected), "{what}");
    let steps = run.report.clone().expect("a report").steps;
    assert!(
        steps.iter().all(|step| step.state() == v1::StepState::Succeeded),
        "{what}: {steps:?}"
    );
    let status = world.status().await;
    assert!(status.problems.is_empty(), "{what}: {:?}", status.problems);
}

fn counting(second: &str) -> Vec<SourceFile> {
    vec![
        file(
            "1_a.up.sql",
            "CREATE TABLE a (id integer PRIMARY KEY, n integer NOT NULL);\nINSERT INTO a VALUES (1, 0);",
        ),
        file("2_b.up.sql", second),
        file("2_b.down.sql", "UPDATE a SET n = n - 1;"),
        file("3_c.up.sql", "UPDATE a SET n = n * 10;"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_commit_was_not_answered_is_not_done_again() {
    let (mut world, proxy) = World::through(&counting("UPDATE a SET n = n + 1;")).await;
    lose_commit(&proxy, "'applied'");
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(proxy.lost(), 1);
    assert!(run.attempts > 1, "it went on from the ledger");
    check(&mut world, &run, "up", "SELECT n::text FROM a", "10").await;
    // The same backwards, of a single migration.
    world.db.execute("UPDATE a SET n = 5").await.expect("a row");
    let files = counting("UPDATE a SET n = n + 1;");
    world.rewrite(&[files, vec![file("3_c.down.sql", "SELECT 1;")]].concat());
    lose_commit(&proxy, "'rolled_back'");
    let run = world.rollback(newest(2), true).await.expect("accepted");
    assert_eq!(proxy.lost(), 2);
    check(&mut world, &run, "down", "SELECT n::text FROM a", "4").await;
    assert_eq!(world.one("2").await.state(), MigrationState::Pending);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outside_of_a_transaction_is_looked_for_wherever_the_reply_was_lost() {
    const INDEX: &str = "CREATE INDEX CONCURRENTLY a_n ON a (n)";
    let script = format!("-- no-transaction\n{INDEX};\nUPDATE a SET n = n + 1;");
    let valid =
        "SELECT (SELECT count(*) FROM pg_index WHERE indexrelid = 'a_n'::regclass AND indisvalid)::text || ' ' || n FROM a";
    // The note that it begins, the statement itself, the note of each statement that it is done.
    let places: [(&str, Lose); 4] = [
        ("the note before", |proxy| lose_commit(proxy, ", true, ")),
        ("the statement", |proxy| proxy.lose(|sql, _| sql == INDEX)),
        ("the note after", |proxy| {
            proxy.lose(|sql, before| {
                let done =
                    |sql: &String| sql.contains("INSERT INTO dbkeep.migration AS m") && sql.contains("'applying', 1, 2, false");
                sql == "COMMIT" && before.iter().any(done)
            });
        }),
        ("the last note", |proxy| lose_commit(proxy, "'applied'")),
    ];
    for (what, lose) in places {
        let (mut world, proxy) = World::through(&counting(&script)).await;
        lose(&proxy);
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(proxy.lost(), 1, "{what}");
        check(&mut world, &run, what, valid, "1 10").await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_commit_was_not_answered_is_settled() {
    let (mut world, proxy) = World::through(&counting(
        "-- dbkeep: requires-backup = true\nALTER TABLE a ADD COLUMN more integer;",
    ))
    .await;
    let run = world.apply(super::world::named(&["1"])).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    let before = world.contents().await;
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    lose_commit(&proxy, "'rolled_back'");
    let plan = super::rewinds::plan_back(&mut world, newest(2), "").await.expect("a plan");
    let run = super::rewinds::go_back(&mut world, super::rewinds::request(&plan))
        .await
        .expect("accepted");
    assert_eq!(proxy.lost(), 1);
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.contents().await, before);
    world.end().await;
}
