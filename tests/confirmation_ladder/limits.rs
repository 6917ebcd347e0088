//! Limits on counts, over the plan and while rows go; and the history that a count is compared with.

use dbkeep_proto::v1::{self, DecisionAct, FindingLevel, RunState};
use dbkeep_server::Config;
use tonic::Code;

use crate::world::{CHILDREN, Database, ORPHANS, World, bare, by, confirmed, with};

const BOTH: [Database; 2] = [Database::Sqlite, Database::Postgres];

/// The findings of a plan with this code, by level.
fn levels(plan: &v1::Plan, code: &str) -> Vec<FindingLevel> {
    let findings = plan.steps.iter().flat_map(|step| &step.findings);
    findings
        .filter(|finding| finding.code == code)
        .map(|finding| finding.level())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_catalog_block_the_plan() {
    for database in BOTH {
        let world = World::new(database).await;
        let before = world.children().await;
        for (operation, what) in [
            ("capped_rule", "rule orphans allows 299"),
            ("capped_together", "operation capped_together allows 320"),
        ] {
            let plan = world.plan(operation).await;
            assert!(plan.blocked);
            let request = with(confirmed(&plan), |options| {
                // The caller's own limit lifts none of the catalog's.
                options.max_rows = Some(1_000_000);
                options.force = true;
            });
            let answer = world.run("ann", request).await;
            let expected = (Code::FailedPrecondition, "PLAN_BLOCKED");
            let refusal = world
                .refused(operation, answer, expected, "ann", DecisionAct::Run, &before)
                .await;
            assert_eq!(refusal.metadata["finding"], "OVER_MAX_ROWS");
            assert!(refusal.metadata["detail"].contains(what), "{:?}", refusal.metadata);
        }
        // One row less is within the rule's limit.
        world.db.execute("DELETE FROM child WHERE id = 1").await.expect("deleted");
        let plan = world.plan("capped_rule").await;
        let run = world.finish("ann", confirmed(&plan)).await;
        assert_eq!(run.report.expect("a report").rows_affected, ORPHANS - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_take_as_many_as_it_says() {
    let world = World::new(Database::Sqlite).await;
    let dry = world
        .finish(
            "ann",
            with(bare("LOW"), |options| {
                options.dry_run = Some(true);
                options.max_rows = Some(299);
            }),
        )
        .await;
    assert!(dry.state_reason.contains("OVER_MAX_ROWS"), "{}", dry.state_reason);
    let refusal = world
        .run("ann", with(bare("LOW"), |options| options.max_rows = Some(299)))
        .await
        .expect_err("refused");
    assert_eq!(
        (refusal.reason.as_str(), refusal.metadata["finding"].as_str()),
        ("PLAN_BLOCKED", "OVER_MAX_ROWS")
    );
    assert_eq!(world.count().await, CHILDREN);
    let run = world
        .finish("ann", with(bare("LOW"), |options| options.max_rows = Some(300)))
        .await;
    assert_eq!(run.options.expect("options").max_rows, Some(300));
    assert_eq!(run.report.expect("a report").rows_affected, ORPHANS);
}

/// Rows that begin to match between the acceptance and the work must not carry a run over a limit, although the drift would
/// allow them.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_while_rows_go() {
    for database in BOTH {
        // At first nobody works on runs.
        let mut world = World::with(database, |config| config.engine.concurrent_runs = 0).await;
        let plan = world.plan("HIGH").await;
        let limited = with(confirmed(&plan), |options| options.max_rows = Some(ORPHANS));
        let id = world.run("ann", limited).await.expect("accepted");
        world.add_orphans(10_000, 50).await;
        world.restart(|_| {}).await;
        let run = world.end_of(&id).await;
        let gone = CHILDREN + 50 - world.count().await;
        let report = run.report.as_ref().expect("a report");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
        assert!(gone <= ORPHANS && gone == report.rows_affected, "{gone} rows are gone");
        assert!(
            report.warnings.iter().any(|warning| warning.code == "COUNT_DRIFTED"),
            "{report:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_an_operation_holds_over_its_rules_while_rows_go() {
    let mut world = World::with(Database::Sqlite, |config| config.engine.concurrent_runs = 0).await;
    // 295 + 25 = 320 rows: exactly what the operation allows.
    world.db.execute("DELETE FROM child WHERE id <= 5").await.expect("deleted");
    let plan = world.plan("capped_together").await;
    assert_eq!((plan.row_count, plan.blocked), (320, false));
    let id = world.run("ann", confirmed(&plan)).await.expect("accepted");
    world
        .db
        .execute("UPDATE child SET other_id = 2000000 WHERE id > 1970")
        .await
        .expect("updated");
    world.restart(|_| {}).await;
    let run = world.end_of(&id).await;
    let report = run.report.expect("a report");
    assert!(report.rows_affected <= 320, "{} rows", report.rows_affected);
    assert_eq!(report.steps[0].rows_affected, 295);
}

fn short_history(config: &mut Config) {
    config.engine.history.least_rows = 10;
}

/// A world whose operations have each deleted 20 rows, three times, and nothing since.
async fn with_history(database: Database, operations: &[&str]) -> World {
    let world = World::with(database, short_history).await;
    world.db.execute("UPDATE child SET parent_id = 1").await.expect("updated");
    for operation in operations {
        for round in 0..3 {
            world.add_orphans(10_000, 20).await;
            let plan = world.plan(operation).await;
            assert_eq!(
                levels(&plan, "FAR_ABOVE_HISTORY"),
                [],
                "round {round}: too few runs to say anything"
            );
            let id = world.run("ann", confirmed(&plan)).await.expect("accepted");
            if plan.approvals_required > 0 {
                world.approve("bob", &id).await.expect("approved");
            }
            let run = world.end_of(&id).await;
            assert_eq!(run.report.expect("a report").rows_affected, 20);
        }
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_far_above_history_blocks_until_it_is_stated() {
    for database in BOTH {
        let severities: &[&str] = match database {
            Database::Sqlite => &["LOW", "MEDIUM", "HIGH", "CRITICAL"],
            Database::Postgres => &["HIGH"],
        };
        let world = with_history(database, severities).await;
        world.add_orphans(10_000, 201).await;
        let before = world.children().await;
        for severity in severities {
            let plan = world.plan(severity).await;
            assert_eq!(levels(&plan, "FAR_ABOVE_HISTORY"), [FindingLevel::Block], "{severity}");
            for (max_rows, force, finding) in [
                (None, false, "FAR_ABOVE_HISTORY"),
                (None, true, "FAR_ABOVE_HISTORY"),
                (Some(200), true, "FAR_ABOVE_HISTORY"),
            ] {
                let request = with(confirmed(&plan), |options| {
                    options.max_rows = max_rows;
                    options.force = force;
                });
                let answer = world.run("ann", request).await;
                let expected = (Code::FailedPrecondition, "PLAN_BLOCKED");
                let refusal = world
                    .refused(severity, answer, expected, "ann", DecisionAct::Run, &before)
                    .await;
                assert_eq!(refusal.metadata["finding"], finding);
                assert!(refusal.metadata["remediation"].contains("max_rows"), "{:?}", refusal.metadata);
            }
        }
        let plan = world.plan(severities[0]).await;
        let run = world
            .finish("ann", with(confirmed(&plan), |options| options.max_rows = Some(201)))
            .await;
        assert_eq!(run.report.expect("a report").rows_affected, 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_above_history_is_confirmed_by_a_reviewed_plan_or_by_force() {
    for database in BOTH {
        let world = with_history(database, &["LOW"]).await;
        world.add_orphans(10_000, 60).await;
        let plan = world.plan("LOW").await;
        assert_eq!(levels(&plan, "FAR_ABOVE_HISTORY"), [FindingLevel::Warn]);
        let before = world.children().await;
        let answer = world.run("ann", bare("LOW")).await;
        let expected = (Code::FailedPrecondition, "FINDINGS_UNCONFIRMED");
        let refusal = world
            .refused("bare", answer, expected, "ann", DecisionAct::Run, &before)
            .await;
        assert_eq!(refusal.metadata["finding"], "FAR_ABOVE_HISTORY");
        let run = world.finish("ann", with(bare("LOW"), |options| options.force = true)).await;
        assert!(run.options.expect("options").force, "kept with the run");
        let decision = world.last_decision().await;
        assert!(decision.detail.contains("force"), "{decision:?}");
        // That run took 60 rows, which is history now: three times as many warn again, and a reviewed plan confirms them.
        world.add_orphans(10_000, 180).await;
        let plan = world.plan("LOW").await;
        assert_eq!(levels(&plan, "FAR_ABOVE_HISTORY"), [FindingLevel::Warn]);
        let run = world.finish("ann", confirmed(&plan)).await;
        assert_eq!(run.report.expect("a report").rows_affected, 180);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reviewed_plan_did_not_show_needs_force() {
    let world = with_history(Database::Sqlite, &["HIGH"]).await;
    world.add_orphans(10_000, 55).await;
    let plan = world.plan("HIGH").await;
    assert_eq!(levels(&plan, "FAR_ABOVE_HISTORY"), [], "less than three times as many");
    // Within the drift, and three times the history.
    world.add_orphans(20_000, 10).await;
    let before = world.children().await;
    let answer = world.run("ann", confirmed(&plan)).await;
    let expected = (Code::FailedPrecondition, "FINDINGS_UNCONFIRMED");
    world
        .refused("unseen", answer, expected, "ann", DecisionAct::Run, &before)
        .await;
    let run = world
        .finish("ann", with(confirmed(&plan), |options| options.force = true))
        .await;
    assert_eq!(run.report.expect("a report").rows_affected, 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_or_never_done_is_no_history() {
    let world = with_history(Database::Sqlite, &["HIGH"]).await;
    world.add_orphans(10_000, 201).await;
    let plan = world.plan("HIGH").await;
    let stated = with(confirmed(&plan), |options| options.max_rows = Some(201));
    for _ in 0..3 {
        let dry = with(confirmed(&plan), |options| options.dry_run = Some(true));
        let dry = world.finish("ann", dry).await;
        assert!(dry.state_reason.contains("FAR_ABOVE_HISTORY"), "{}", dry.state_reason);
    }
    let mistake = world.finish("ann", stated).await;
    let undo = v1::UndoRunRequest {
        id: mistake.id.clone(),
        ..Default::default()
    };
    let mut events = world.runs().undo_run(by("bob", undo)).await.expect("an undo").into_inner();
    while events.message().await.expect("an event").is_some() {}
    assert!(!world.run_of(&mistake.id).await.undone_by_run_id.is_empty());
    let plan = world.plan("HIGH").await;
    assert_eq!(
        (plan.row_count, levels(&plan, "FAR_ABOVE_HISTORY")),
        (201, vec![FindingLevel::Block])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_has_no_limit_and_nothing_to_force() {
    let world = World::new(Database::Sqlite).await;
    let plan = world.plan("HIGH").await;
    let run = world.finish("ann", confirmed(&plan)).await;
    let undo = |change: fn(&mut v1::RunOptions)| {
        let mut options = v1::RunOptions::default();
        change(&mut options);
        v1::UndoRunRequest {
            id: run.id.clone(),
            options: Some(options),
            ..Default::default()
        }
    };
    for request in [
        undo(|options| options.max_rows = Some(1)),
        undo(|options| options.force = true),
    ] {
        let status = world.runs().undo_run(by("ann", request)).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert_eq!(world.count().await, CHILDREN - ORPHANS);
}
