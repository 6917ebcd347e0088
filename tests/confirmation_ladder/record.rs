//! The record of decisions: complete, in order, and there before the act.

use dbkeep_proto::v1::{self, DecisionAct, DecisionOutcome, RunState};
use dbkeep_testkit::Db;
use tonic::Code;

use crate::world::{CHILDREN, Database, Refusal, World, bare, by, confirmed};

async fn undo(world: &World, principal: &str, id: &str) -> Result<(), Refusal> {
    let request = v1::UndoRunRequest {
        id: id.into(),
        ..Default::default()
    };
    let mut events = world.runs().undo_run(by(principal, request)).await?.into_inner();
    while events.message().await?.is_some() {}
    Ok(())
}

async fn cancel(world: &World, principal: &str, id: &str) -> Result<v1::Run, Refusal> {
    let request = v1::CancelRunRequest {
        id: id.into(),
        reason: "because".into(),
        ..Default::default()
    };
    let answer = world.runs().cancel_run(by(principal, request)).await?;
    Ok(answer.into_inner().run.expect("the run"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_leaves_an_entry() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::new(database).await;
        let plan = world.plan("HIGH").await;
        let run = world.finish("ann", confirmed(&plan)).await;
        undo(&world, "bob", &run.id).await.expect("an undo");
        let before = world.children().await;
        let again = undo(&world, "bob", &run.id).await;
        let unmet = (Code::FailedPrecondition, "RUN_STATE");
        world
            .refused("a second undo", again, unmet, "bob", DecisionAct::Undo, &before)
            .await;
        let late = cancel(&world, "carl", &run.id).await;
        world
            .refused("a late cancel", late, unmet, "carl", DecisionAct::Cancel, &before)
            .await;
        let unknown = cancel(&world, "carl", "nonsense").await;
        let missing = (Code::NotFound, "UNKNOWN_RUN");
        world
            .refused("no such run", unknown, missing, "carl", DecisionAct::Cancel, &before)
            .await;
        let waiting = world.waiting().await;
        cancel(&world, "", &waiting).await.expect("cancelled");

        let list = |filter: v1::DecisionFilter| world.decisions(filter);
        let of = |decisions: Vec<v1::Decision>| -> Vec<(DecisionAct, DecisionOutcome, String)> {
            let entry = |decision: v1::Decision| (decision.act(), decision.outcome(), decision.principal);
            decisions.into_iter().map(entry).collect()
        };
        use DecisionAct::{Cancel, Run, Undo};
        use DecisionOutcome::{Allowed, Refused};
        let entry = |act, outcome, name: &str| (act, outcome, name.to_owned());
        assert_eq!(
            of(list(v1::DecisionFilter::default()).await),
            [
                entry(Cancel, Allowed, "anonymous@loopback"),
                entry(Run, Allowed, "ann"),
                entry(Cancel, Refused, "carl"),
                entry(Cancel, Refused, "carl"),
                entry(Undo, Refused, "bob"),
                entry(Undo, Allowed, "bob"),
                entry(Run, Allowed, "ann"),
            ]
        );
        let by_run = v1::DecisionFilter {
            run_id: run.id.clone(),
            ..Default::default()
        };
        assert_eq!(list(by_run.clone()).await.len(), 4);
        let refused = v1::DecisionFilter {
            outcome: Refused.into(),
            ..by_run
        };
        assert_eq!(
            of(list(refused).await),
            [entry(Cancel, Refused, "carl"), entry(Undo, Refused, "bob")]
        );
        let by_plan = v1::DecisionFilter {
            plan_id: plan.id.clone(),
            outcome: Allowed.into(),
            ..Default::default()
        };
        let first = list(by_plan).await.pop().expect("the oldest");
        assert_eq!((first.act(), first.target.as_str(), &first.run_id), (Run, "app", &run.id));
        assert!(
            first.detail.contains("300 rows planned") && first.detail.contains("HIGH"),
            "{first:?}"
        );
        assert_eq!(world.run_of(&run.id).await.started_by, "ann");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_one_decision() {
    let world = World::new(Database::Sqlite).await;
    let plan = world.plan("HIGH").await;
    let request = v1::RunCleanupRequest {
        request_id: "nightly-42".into(),
        ..confirmed(&plan)
    };
    let first = world.run("ann", request.clone()).await.expect("accepted");
    let second = world.run("ann", request).await.expect("the same");
    assert_eq!(first, second);
    world.end_of(&first).await;
    assert_eq!(world.decisions(v1::DecisionFilter::default()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_cut_to_pages() {
    let world = World::new(Database::Sqlite).await;
    for _ in 0..5 {
        world.run("ann", bare("HIGH")).await.expect_err("refused");
    }
    let all = world.decisions(v1::DecisionFilter::default()).await;
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListDecisionsRequest {
            page_size: 2,
            page_token,
            filter: None,
        };
        let page = world.runs().list_decisions(request).await.expect("a page").into_inner();
        assert!(page.decisions.len() <= 2);
        paged.extend(page.decisions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((all.len(), &paged), (5, &all));
    for filter in [
        v1::DecisionFilter {
            run_id: "nonsense".into(),
            ..Default::default()
        },
        v1::DecisionFilter {
            outcome: 99,
            ..Default::default()
        },
    ] {
        let request = v1::ListDecisionsRequest {
            filter: Some(filter),
            ..Default::default()
        };
        let status = world.runs().list_decisions(request).await.expect_err("refused");
        assert_eq!(Refusal::from(status).reason, "INVALID_FIELD");
    }
}

/// No record, no act: where the record takes nothing, nothing is let through, and no refusal goes unrecorded under its own name.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_does_not_happen() {
    let world = World::with(Database::Sqlite, |config| config.engine.concurrent_runs = 0).await;
    let waiting = world.waiting().await;
    let plan = world.plan("HIGH").await;
    let queued = world.run("ann", bare("other")).await.expect("accepted");
    let runs = async || {
        let answer = world.runs().list_runs(v1::ListRunsRequest::default()).await.expect("runs");
        answer.into_inner().runs
    };
    let (before, known) = (world.children().await, runs().await);
    let control = Db::open(&format!("sqlite://{}", world.control().display()))
        .await
        .expect("the control store");
    control
        .execute("CREATE TRIGGER full BEFORE INSERT ON decisions BEGIN SELECT RAISE(ABORT, 'full'); END")
        .await
        .expect("a trigger");
    let unavailable = |case: &str, refusal: Refusal| {
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::Unavailable, "STORE_UNAVAILABLE"),
            "{case}"
        );
    };
    unavailable("run", world.run("ann", confirmed(&plan)).await.expect_err("refused"));
    unavailable("refusal", world.run("ann", bare("HIGH")).await.expect_err("refused"));
    unavailable("approve", world.approve("bob", &waiting).await.expect_err("refused"));
    unavailable("deny", world.deny("bob", &waiting).await.expect_err("refused"));
    unavailable("cancel", cancel(&world, "bob", &queued).await.expect_err("refused"));
    assert_eq!(
        (world.children().await, runs().await),
        (before, known),
        "nothing has happened"
    );
    control.execute("DROP TRIGGER full").await.expect("dropped");
    control.close().await;
    world.run("ann", confirmed(&plan)).await.expect("the token is unused");
    assert_eq!(
        cancel(&world, "bob", &queued).await.expect("cancelled").state(),
        RunState::Cancelled
    );
    assert_eq!(world.count().await, CHILDREN);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_changed_the_limits() {
    let world = World::new(Database::Sqlite).await;
    let id = world.waiting().await;
    for (principal, batch_size) in [("ann", 7), ("", 8)] {
        let request = v1::UpdateRunLimitsRequest {
            id: id.clone(),
            batch_size: Some(batch_size),
            ..Default::default()
        };
        world
            .runs()
            .update_run_limits(by(principal, request))
            .await
            .expect("new limits");
    }
    world.deny("bob", &id).await.expect("denied");
    let request = v1::WatchRunRequest { id, after_sequence: 0 };
    let mut events = world.runs().watch_run(request).await.expect("a stream").into_inner();
    let mut who = Vec::new();
    while let Some(response) = events.message().await.expect("an event") {
        if let Some(v1::run_event::Event::LimitsChanged(changed)) = response.event.and_then(|event| event.event) {
            who.push((changed.principal, changed.after.map(|limits| limits.batch_size)));
        }
    }
    let expected = [("ann", 7), ("anonymous@loopback", 8)];
    assert_eq!(who, expected.map(|(principal, size)| (principal.to_owned(), Some(size))));
}
