//! A run of severity CRITICAL between its phrase and its end: who may approve it, when, and what is looked at again.

use std::time::Duration;

use dbkeep_proto::v1::{self, DecisionAct, RunState};
use tonic::Code;

use crate::world::{CHILDREN, Database, ORPHANS, Refusal, World, bare, by, confirmed};

const BOTH: [Database; 2] = [Database::Sqlite, Database::Postgres];

/// What must hold of a run after an approval of it was refused: it waits on.
async fn still_waits(world: &World, id: &str) {
    let run = world.run_of(id).await;
    assert_eq!((run.state(), run.approvals.len(), run.attempts), (RunState::Queued, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_run_deletes_and_tells_who_approved_it() {
    for database in BOTH {
        let world = World::new(database).await;
        let id = world.waiting().await;
        let approved = world.approve("bob", &id).await.expect("approved");
        assert_eq!(approved.approvals[0].principal, "bob");
        let run = world.end_of(&id).await;
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let report = run.report.as_ref().expect("a report");
        assert_eq!((report.rows_affected, report.rows_captured), (ORPHANS, ORPHANS));
        assert_eq!(world.count().await, CHILDREN - ORPHANS);
        assert_eq!((run.started_by.as_str(), run.approvals.len()), ("ann", 1));
        assert!(run.approvals[0].time.is_some());
        let log = world.approvals_in_log(&id).await;
        assert_eq!((log.len(), log[0].approvals, log[0].approvals_required), (1, 1, 1));
        let again = world.approve("bob", &id).await.expect("approving twice is approving once");
        assert_eq!(again.approvals, run.approvals);
        let decisions = world
            .decisions(v1::DecisionFilter {
                run_id: id.clone(),
                ..Default::default()
            })
            .await;
        let told: Vec<_> = decisions
            .iter()
            .map(|decision| (decision.act(), decision.outcome(), decision.principal.as_str()))
            .collect();
        let allowed = v1::DecisionOutcome::Allowed;
        assert_eq!(
            told,
            [(DecisionAct::Approve, allowed, "bob"), (DecisionAct::Run, allowed, "ann")]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_approval_nobody_takes_it_up_and_nobody_waits_for_it() {
    for database in BOTH {
        let world = World::new(database).await;
        let before = world.children().await;
        let id = world.waiting().await;
        // A younger run has been at work and is over: whoever claimed it would have claimed the older one first.
        let younger = world.finish("carl", bare("other")).await;
        assert_eq!(younger.state(), RunState::Succeeded);
        still_waits(&world, &id).await;
        assert_eq!(world.children().await, before);
        // It holds no table: the same one is cleaned meanwhile.
        let same = world.plan("MEDIUM").await;
        let cleaned = world.finish("carl", confirmed(&same)).await;
        assert_eq!(cleaned.report.expect("a report").rows_affected, ORPHANS);
        still_waits(&world, &id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_who_started_it_nor_nobody_may_approve() {
    for database in BOTH {
        let world = World::new(database).await;
        let before = world.children().await;
        let id = world.waiting().await;
        for (principal, problem) in [
            ("ann", "same_principal"),
            ("", "anonymous"),
            ("anonymous@loopback", "anonymous"),
        ] {
            let answer = world.approve(principal, &id).await;
            let recorded = if principal.is_empty() {
                "anonymous@loopback"
            } else {
                principal
            };
            let refusal = world
                .refused(
                    principal,
                    answer,
                    (Code::PermissionDenied, "APPROVAL_REFUSED"),
                    recorded,
                    DecisionAct::Approve,
                    &before,
                )
                .await;
            assert_eq!(
                (refusal.metadata["problem"].as_str(), &refusal.metadata["run"]),
                (problem, &id)
            );
            still_waits(&world, &id).await;
        }
        // Names differ by case: Ann is somebody else, as far as anybody can tell.
        world.approve("Ann", &id).await.expect("another principal");
        assert_eq!(world.end_of(&id).await.state(), RunState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nameless_starter_still_needs_somebody_with_a_name() {
    let world = World::new(Database::Sqlite).await;
    let plan = world.plan("CRITICAL").await;
    let id = world.run("", confirmed(&plan)).await.expect("accepted");
    assert_eq!(world.run_of(&id).await.started_by, "anonymous@loopback");
    assert_eq!(world.approve("", &id).await.expect_err("refused").reason, "APPROVAL_REFUSED");
    world.approve("bob", &id).await.expect("approved");
    assert_eq!(world.end_of(&id).await.state(), RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_the_plan_stops_an_approval() {
    enum Change {
        Drift,
        Schema,
        EmptyParent,
        Fraction,
    }
    for database in BOTH {
        for (change, reason) in [
            (Change::Drift, "COUNT_DRIFTED"),
            (Change::Schema, "SCHEMA_CHANGED"),
            (Change::EmptyParent, "COUNT_DRIFTED"),
            (Change::Fraction, "PLAN_BLOCKED"),
        ] {
            let world = World::new(database).await;
            let id = world.waiting().await;
            match change {
                Change::Drift => world.add_orphans(10_000, 131).await,
                Change::Schema => drop(
                    world
                        .db
                        .execute("ALTER TABLE parent ADD COLUMN extra integer")
                        .await
                        .expect("altered"),
                ),
                Change::EmptyParent => drop(world.db.execute("DELETE FROM parent").await.expect("deleted")),
                Change::Fraction => drop(world.db.execute("DELETE FROM child WHERE id > 500").await.expect("deleted")),
            }
            let before = world.children().await;
            let answer = world.approve("bob", &id).await;
            let expected = (Code::FailedPrecondition, reason);
            world
                .refused(reason, answer, expected, "bob", DecisionAct::Approve, &before)
                .await;
            still_waits(&world, &id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_request_holds_at_the_approval() {
    for database in BOTH {
        let world = World::new(database).await;
        let plan = world.plan("CRITICAL").await;
        let request = crate::world::with(confirmed(&plan), |options| options.max_rows = Some(310));
        let id = world.run("ann", request).await.expect("accepted");
        // Within what may drift, and over the limit.
        world.add_orphans(10_000, 11).await;
        let before = world.children().await;
        let answer = world.approve("bob", &id).await;
        let expected = (Code::FailedPrecondition, "PLAN_BLOCKED");
        let refusal = world
            .refused("max_rows", answer, expected, "bob", DecisionAct::Approve, &before)
            .await;
        assert_eq!(refusal.metadata["finding"], "OVER_MAX_ROWS");
        // One row less, and the same approval is taken.
        world.db.execute("DELETE FROM child WHERE id = 10001").await.expect("deleted");
        world.approve("bob", &id).await.expect("approved");
        assert_eq!(world.end_of(&id).await.report.expect("a report").rows_affected, 310);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_held_stops_an_approval_and_names_the_holder() {
    // Nobody works on runs, so that the holder stays.
    for database in BOTH {
        let world = World::with(database, |config| config.engine.concurrent_runs = 0).await;
        let before = world.children().await;
        let id = world.waiting().await;
        let plan = world.plan("MEDIUM").await;
        let holder = world.run("carl", confirmed(&plan)).await.expect("accepted");
        let answer = world.approve("bob", &id).await;
        let expected = (Code::Aborted, "RUN_ALREADY_ACTIVE");
        let refusal = world
            .refused("held", answer, expected, "bob", DecisionAct::Approve, &before)
            .await;
        assert_eq!(refusal.metadata["run"], holder);
        still_waits(&world, &id).await;
        let cancel = v1::CancelRunRequest {
            id: holder,
            ..Default::default()
        };
        world.runs().cancel_run(by("carl", cancel)).await.expect("cancelled");
        let approved = world.approve("bob", &id).await.expect("the table is free");
        assert_eq!(approved.state(), RunState::Queued);
        // From now on it holds the table itself.
        let plan = world.plan("MEDIUM").await;
        let refusal = world.run("carl", confirmed(&plan)).await.expect_err("held");
        assert_eq!(
            (refusal.reason.as_str(), &refusal.metadata["run"]),
            ("RUN_ALREADY_ACTIVE", &id)
        );
    }
}

/// Nobody may read in a report that a part was done where nothing was.
fn assert_did_nothing(run: &v1::Run) {
    let report = run.report.as_ref().expect("a report");
    assert_eq!((report.status(), report.rows_affected), (v1::ReportStatus::Failed, 0));
    let states: Vec<_> = report.steps.iter().map(v1::StepReport::state).collect();
    assert!(
        !states.is_empty() && states.iter().all(|state| *state == v1::StepState::Skipped),
        "{states:?}"
    );
    assert!(
        report.steps[0].message.starts_with("not begun: "),
        "{}",
        report.steps[0].message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_or_cancelled_run_ends_and_stays_ended() {
    for database in BOTH {
        let world = World::new(database).await;
        let before = world.children().await;
        let denied = world.waiting().await;
        let run = world.deny("bob", &denied).await.expect("denied");
        assert_eq!(
            (run.state(), run.state_reason.as_str()),
            (RunState::Cancelled, "denied by bob: because")
        );
        assert_did_nothing(&run);
        assert_eq!(world.last_decision().await.act(), DecisionAct::Deny);
        world.deny("carl", &denied).await.expect("denying twice is denying once");
        let cancelled = world.waiting().await;
        let cancel = v1::CancelRunRequest {
            id: cancelled.clone(),
            ..Default::default()
        };
        let answer = world.runs().cancel_run(by("ann", cancel)).await.expect("cancelled");
        let run = answer.into_inner().run.expect("a run");
        assert_eq!(run.state(), RunState::Cancelled);
        assert_did_nothing(&run);
        for id in [denied, cancelled] {
            let answer = world.approve("bob", &id).await;
            let expected = (Code::FailedPrecondition, "RUN_STATE");
            world
                .refused("too late", answer, expected, "bob", DecisionAct::Approve, &before)
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_is_approved_and_denied_like_one_that_waits() {
    for database in BOTH {
        let world = World::new(database).await;
        let before = world.children().await;
        // Denied, it ends.
        let id = world.waiting().await;
        world.pause(&id).await;
        let run = world.deny("bob", &id).await.expect("denied");
        assert_eq!(
            (run.state(), run.state_reason.as_str()),
            (RunState::Cancelled, "denied by bob: because")
        );
        // Who may not approve may not here either.
        let id = world.waiting().await;
        world.pause(&id).await;
        let answer = world.approve("ann", &id).await;
        let expected = (Code::PermissionDenied, "APPROVAL_REFUSED");
        world
            .refused("ann", answer, expected, "ann", DecisionAct::Approve, &before)
            .await;
        // Approved, it holds its table and stays paused, also over a restart, and says so.
        let run = world.approve("bob", &id).await.expect("approved");
        assert_eq!(
            (run.state(), run.approvals.len(), run.state_reason.as_str()),
            (RunState::Paused, 1, "not now")
        );
        let same = world.plan("MEDIUM").await;
        let refusal = world.run("carl", confirmed(&same)).await.expect_err("held");
        assert_eq!(
            (refusal.reason.as_str(), &refusal.metadata["run"]),
            ("RUN_ALREADY_ACTIVE", &id)
        );
        let younger = world.finish("carl", bare("other")).await;
        assert_eq!(younger.state(), RunState::Succeeded, "the server is at work");
        assert_eq!(
            (world.run_of(&id).await.attempts, world.children().await),
            (0, before.clone())
        );
        world.resume(&id).await;
        let run = world.end_of(&id).await;
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.count().await, CHILDREN - ORPHANS);
        assert_eq!(world.approvals_in_log(&id).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_resumed_first_waits_on() {
    for database in BOTH {
        let world = World::new(database).await;
        let id = world.waiting().await;
        world.pause(&id).await;
        world.resume(&id).await;
        let younger = world.finish("carl", bare("other")).await;
        assert_eq!(younger.state(), RunState::Succeeded, "the server is at work");
        still_waits(&world, &id).await;
        world.approve("bob", &id).await.expect("approved");
        assert_eq!(world.end_of(&id).await.state(), RunState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_is_not_approved_after_its_plan() {
    let world = World::with(Database::Sqlite, |config| {
        config.engine.plan_lifetime = Duration::from_secs(2)
    })
    .await;
    let before = world.children().await;
    // A slow machine may let the plan expire before the run is accepted, or paused; then it is planned again.
    let (id, plan) = loop {
        let plan = world.plan("CRITICAL").await;
        if let Ok(id) = world.run("ann", confirmed(&plan)).await {
            world.pause(&id).await;
            if world.run_of(&id).await.state() == RunState::Paused {
                break (id, plan);
            }
        }
    };
    let expires = plan.expire_time.expect("a time");
    let expires = jiff::Timestamp::new(expires.seconds, expires.nanos).expect("a time");
    while jiff::Timestamp::now() <= expires {
        tokio::task::yield_now().await;
    }
    let answer = world.approve("bob", &id).await;
    let expected = (Code::FailedPrecondition, "PLAN_EXPIRED");
    world
        .refused("too late", answer, expected, "bob", DecisionAct::Approve, &before)
        .await;
    assert_eq!(world.run_of(&id).await.state(), RunState::Paused);
    world.resume(&id).await;
    assert_eq!(world.end_of(&id).await.state(), RunState::Failed);
    assert_eq!(world.children().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_wait_cannot_be_approved() {
    let world = World::new(Database::Sqlite).await;
    let ended = world.finish("ann", bare("other")).await;
    let before = world.children().await;
    for deny in [false, true] {
        let act = if deny { DecisionAct::Deny } else { DecisionAct::Approve };
        for (id, expected) in [
            (ended.id.as_str(), (Code::FailedPrecondition, "RUN_STATE")),
            ("0190a000-0000-7000-8000-000000000000", (Code::NotFound, "UNKNOWN_RUN")),
            ("nonsense", (Code::NotFound, "UNKNOWN_RUN")),
        ] {
            let answer: Result<_, Refusal> = if deny {
                world.deny("bob", id).await
            } else {
                world.approve("bob", id).await
            };
            world.refused(id, answer, expected, "bob", act, &before).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_comes_too_late_finds_the_run_failed() {
    for database in BOTH {
        let mut world = World::with(database, |config| config.engine.plan_lifetime = Duration::from_secs(2)).await;
        let before = world.children().await;
        // A slow machine may let the plan expire before the run is accepted; then it is planned again.
        let id = loop {
            let plan = world.plan("CRITICAL").await;
            match world.run("ann", confirmed(&plan)).await {
                Ok(id) => break id,
                Err(refusal) => assert_eq!(refusal.reason, "PLAN_EXPIRED"),
            }
        };
        let run = world.end_of(&id).await;
        assert_eq!(run.state(), RunState::Failed);
        assert!(run.state_reason.contains("not approved"), "{}", run.state_reason);
        let answer = world.approve("bob", &id).await;
        let expected = (Code::FailedPrecondition, "PLAN_EXPIRED");
        world
            .refused("too late", answer, expected, "bob", DecisionAct::Approve, &before)
            .await;
        world.restart(|_| {}).await;
        assert_eq!(world.run_of(&id).await.state(), RunState::Failed);
        assert_eq!(world.children().await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_phrase_and_approval_changes_nothing() {
    for database in BOTH {
        let mut world = World::new(database).await;
        let before = world.children().await;
        let id = world.waiting().await;
        world.restart(|_| {}).await;
        still_waits(&world, &id).await;
        assert_eq!(world.children().await, before);
        assert_eq!(
            world.approve("ann", &id).await.expect_err("refused").reason,
            "APPROVAL_REFUSED"
        );
        world.approve("bob", &id).await.expect("approved");
        assert_eq!(world.end_of(&id).await.state(), RunState::Succeeded);
        assert_eq!(world.count().await, CHILDREN - ORPHANS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_approvals_are_two_people() {
    for database in BOTH {
        let mut world = World::with(database, |config| config.engine.approvals = 2).await;
        let before = world.children().await;
        let plan = world.plan("CRITICAL").await;
        assert_eq!(plan.approvals_required, 2);
        let id = world.run("ann", confirmed(&plan)).await.expect("accepted");
        for _ in 0..2 {
            let run = world.approve("bob", &id).await.expect("approved");
            assert_eq!((run.state(), run.approvals.len()), (RunState::Queued, 1));
        }
        world.approve("ann", &id).await.expect_err("not the one who started it");
        // A server that asks for fewer by now does not lower what the plan stated.
        world.restart(|_| {}).await;
        let run = world.run_of(&id).await;
        assert_eq!(
            (run.state(), run.approvals_required, run.approvals.len()),
            (RunState::Queued, 2, 1)
        );
        assert_eq!(world.children().await, before);
        world.approve("carl", &id).await.expect("approved");
        let run = world.end_of(&id).await;
        let names: Vec<_> = run.approvals.iter().map(|approval| approval.principal.as_str()).collect();
        assert_eq!((run.state(), names), (RunState::Succeeded, vec!["bob", "carl"]));
        let counts: Vec<_> = world
            .approvals_in_log(&id)
            .await
            .iter()
            .map(|approved| approved.approvals)
            .collect();
        assert_eq!(counts, [1, 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_told_loudly_asks_for_no_approval_but_for_the_phrase() {
    let world = World::with(Database::Sqlite, |config| config.engine.approvals = 0).await;
    let before = world.children().await;
    let plan = world.plan("CRITICAL").await;
    let request = v1::RunCleanupRequest {
        confirmation_phrase: String::new(),
        ..confirmed(&plan)
    };
    let answer = world.run("ann", request).await;
    let expected = (Code::FailedPrecondition, "CONFIRMATION_PHRASE");
    world
        .refused("no phrase", answer, expected, "ann", DecisionAct::Run, &before)
        .await;
    let run = world.finish("ann", confirmed(&plan)).await;
    assert_eq!((run.state(), run.approvals_required), (RunState::Succeeded, 0));
}
