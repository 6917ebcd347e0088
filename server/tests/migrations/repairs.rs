//! Repairs of the ledger: what is skipped is a whole transaction, no check is passed over, and a ledger that moved is told as such.

use dbkeep_engine::model::{EngineKind, Layout};
use dbkeep_proto::v1::{self, MigrationState, RepairAction, RunState};
use dbkeep_testkit::Db;
use tokio::time::timeout;

use super::world::{BOTH, Holder, PATIENCE, World, all, file, reason, until};

fn effect_of(answer: &v1::RepairLedgerResponse, action: RepairAction) -> Option<&str> {
    let found = answer.proposals.iter().find(|proposal| proposal.action() == action);
    found.map(|proposal| proposal.effect.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_is_the_rest_of_its_transaction_and_the_next_apply_goes_on() {
    for engine in BOTH {
        let script = "-- dbkeep: transaction = false\nCREATE TABLE a (id integer);\nBEGIN;\nINSERT INTO a VALUES (1);\n\
                      INSERT INTO nowhere VALUES (2);\nINSERT INTO a VALUES (3);\nCOMMIT;\nINSERT INTO a VALUES (9);";
        let mut world = World::new(engine, &[file("1_a.up.sql", script)], Some(Layout::Sqlx)).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{engine:?}: {}", run.state_reason);
        assert_eq!(world.one("1").await.statements_done, 1);
        let explained = world.repair("1", RepairAction::Unspecified).await.expect("an explanation");
        let effect = effect_of(&explained, RepairAction::Skip).expect("it is offered");
        for named in [
            "2 (1_a.up.sql:4: INSERT INTO a VALUES (1))",
            "3 (1_a.up.sql:5: ",
            "4 (1_a.up.sql:6: ",
        ] {
            assert!(effect.contains(named), "{named}: {effect}");
        }
        assert!(!effect.contains("VALUES (9)"), "{effect}");
        let done = world.repair("1", RepairAction::Skip).await.expect("skipped");
        assert_eq!(done.done(), RepairAction::Skip);
        assert_eq!(
            (world.one("1").await.state(), world.one("1").await.statements_done),
            (MigrationState::StoppedUp, 4)
        );
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        let rows = world.db.fetch_text("SELECT CAST(id AS text) FROM a").await.expect("rows");
        assert_eq!(
            rows,
            [[Some("9".to_owned())]],
            "{engine:?}: what was skipped was not executed"
        );
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_repair_passes_over_a_check() {
    for engine in BOTH {
        // A statement that no transaction holds: what it did stays, whatever the check says.
        let script = |more: &str| {
            let text = format!(
                "-- dbkeep: transaction = false\n-- dbkeep: check-after = SELECT count(*) > 0 FROM a\nCREATE TABLE a (id integer);\n{more}VACUUM;"
            );
            [file("1_a.up.sql", &text)]
        };
        let mut world = World::new(engine, &script(""), Some(Layout::Sqlx)).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{engine:?}: {}", run.state_reason);
        assert_eq!(world.one("1").await.statements_done, 2, "all of it took effect");
        let explained = world.repair("1", RepairAction::Unspecified).await.expect("an explanation");
        assert_eq!(effect_of(&explained, RepairAction::Skip), None, "{explained:?}");
        let refused = world
            .repair("1", RepairAction::Skip)
            .await
            .expect_err("there is no third statement");
        assert_eq!(reason(&refused), "REPAIR_REFUSED", "{refused:?}");
        let run = world.apply(all()).await.expect("accepted");
        assert!(
            run.state() == RunState::Failed && run.state_reason.contains("check"),
            "{}",
            run.state_reason
        );
        world
            .db
            .execute("INSERT INTO a VALUES (1)")
            .await
            .expect("the cause is mended");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        world.end().await;

        // The last statement is skipped: the check is still asked.
        let last = format!(
            "{}\nINSERT INTO nowhere VALUES (1);",
            String::from_utf8_lossy(&script("")[0].bytes)
        );
        let mut world = World::new(engine, &[file("1_a.up.sql", &last)], Some(Layout::Sqlx)).await;
        world.apply(all()).await.expect("accepted");
        assert_eq!(world.one("1").await.statements_done, 2);
        let explained = world.repair("1", RepairAction::Unspecified).await.expect("an explanation");
        let effect = effect_of(&explained, RepairAction::Skip).expect("it is offered");
        assert!(effect.contains("asks its checks"), "{effect}");
        world.repair("1", RepairAction::Skip).await.expect("skipped");
        assert_eq!(
            world.one("1").await.state(),
            MigrationState::StoppedUp,
            "{engine:?}: nobody has asked yet"
        );
        let run = world.apply(all()).await.expect("accepted");
        assert!(
            run.state() == RunState::Failed && run.state_reason.contains("check"),
            "{}",
            run.state_reason
        );
        world
            .db
            .execute("INSERT INTO a VALUES (1)")
            .await
            .expect("the cause is mended");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_script_of_sqitch_takes_the_migration_back_that_does_not_hold() {
    for engine in BOTH {
        for alone in [false, true] {
            let plan = "%syntax-version=1.0.0\n%project=app\n\nfirst 2026-01-01T00:00:00Z ann <a@x> # one\n";
            let deploy = if alone {
                "CREATE TABLE a (id integer);\nVACUUM;"
            } else {
                "BEGIN;\nCREATE TABLE a (id integer);\nCOMMIT;"
            };
            // One that writes, too: it is taken back.
            let verify = "BEGIN;\nINSERT INTO a VALUES (1);\nSELECT id FROM needed;\nROLLBACK;\n";
            let files = [
                file("sqitch.plan", plan),
                file("deploy/first.sql", deploy),
                file("revert/first.sql", "DROP TABLE a;"),
                file("verify/first.sql", verify),
            ];
            let mut world = World::new(engine, &files, None).await;
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Failed, "{engine:?} {alone}: {}", run.state_reason);
            for word in ["verify/first.sql:3", "needed"] {
                assert!(run.state_reason.contains(word), "{word}: {}", run.state_reason);
            }
            let state = world.one("first").await.state();
            let expected = if alone {
                MigrationState::StoppedUp
            } else {
                MigrationState::Pending
            };
            assert_eq!(state, expected, "{engine:?} {alone}");
            let there = world.db.count("a").await.is_ok();
            assert_eq!(there, alone, "{engine:?}: what a transaction holds is taken back");
            let run = world.apply(all()).await.expect("accepted");
            assert!(
                run.state() == RunState::Failed && run.state_reason.contains("verify/first.sql"),
                "{}",
                run.state_reason
            );
            world
                .db
                .execute("CREATE TABLE needed (id integer)")
                .await
                .expect("the cause is mended");
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{engine:?} {alone}: {}", run.state_reason);
            assert_eq!(world.db.count("a").await.expect("a count"), 0, "what it wrote is taken back");
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_moves_while_it_is_repaired_is_told_as_such() {
    let files = [file("1_a.up.sql", "CREATE TABLE a (id integer);")];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::Sqlx)).await;
    let baseline = v1::BaselineMigrationsRequest {
        selection: Some(all()),
        ..v1::BaselineMigrationsRequest::default()
    };
    world.migrations.baseline_migrations(baseline).await.expect("counted");
    let mut holder = Holder::open(&world.url).await;
    holder.run("BEGIN").await;
    holder.run("UPDATE dbkeep.migration SET state = 'rolled_back'").await;
    let mut client = world.migrations.clone();
    let request = v1::RepairLedgerRequest {
        id: "1".to_owned(),
        action: RepairAction::MarkPending.into(),
        ..v1::RepairLedgerRequest::default()
    };
    let repairing = tokio::spawn(async move { client.repair_ledger(request).await });
    // It has read the row, and waits for it.
    let watcher = Db::open(&world.url).await.expect("a connection");
    until(
        &watcher,
        "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
         AND query LIKE '%FROM dbkeep.migration WHERE%'",
        "true",
    )
    .await;
    holder.run("COMMIT").await;
    let answer = timeout(PATIENCE, repairing).await.expect("in time").expect("no panic");
    let refused = answer.expect_err("it is not what it was");
    assert_eq!(reason(&refused), "MIGRATION_LEDGER_MOVED", "{refused:?}");
    assert_eq!(refused.code(), tonic::Code::Aborted);
    assert!(refused.message().contains("rolled_back"), "{refused:?}");
    world.end().await;
}
