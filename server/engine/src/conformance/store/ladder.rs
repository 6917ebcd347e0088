//! The confirmation ladder: a plan starts one run, a run that waits is nobody's, and every verdict leaves its record.

use std::sync::Arc;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{LONG, accept, changes, is_free, log, now, queued, request, run, running};
use crate::{
    model::{
        Act, Approval, Caller, Decision, DecisionId, EventBody, Outcome, PlanId, ReportStatus, Run, RunId, RunKind, RunState,
    },
    port::{Created, DecisionFilter, Resolved, RunFilter, Steer, SteerRequest, Steered, Store, Verdict},
};

fn ann() -> Caller {
    Caller {
        principal: "ann".to_owned(),
        peer: "127.0.0.1:4711".to_owned(),
    }
}

/// A run that waits for so many approvals, for an hour.
fn waiting(required: u32) -> Run {
    Run {
        approvals_required: required,
        approve_until: Some(now() + SignedDuration::from_hours(1)),
        ..run("shop")
    }
}

fn approve(principal: &str, tables: &[&str]) -> Verdict {
    Verdict::Approve {
        approval: Approval {
            principal: principal.to_owned(),
            at: now(),
        },
        tables: tables.iter().map(|table| (*table).to_owned()).collect(),
    }
}

async fn resolve(store: &dyn Store, run: RunId, verdict: &Verdict) -> Resolved {
    let act = match verdict {
        Verdict::Approve { .. } => Act::Approve,
        Verdict::Deny { .. } => Act::Deny,
    };
    let decision = Decision::allow(&ann(), act, "").about("shop", Some(run), None);
    store.resolve(run, verdict, &decision).await.unwrap()
}

async fn taken(store: &dyn Store, run: RunId, verdict: &Verdict) -> Run {
    match resolve(store, run, verdict).await {
        Resolved::Taken(run) => run,
        other => panic!("expected Taken, got {other:?}"),
    }
}

async fn recorded(store: &dyn Store, run: RunId) -> Vec<Act> {
    let filter = DecisionFilter {
        run: Some(run),
        ..DecisionFilter::default()
    };
    let decisions = store.decisions(&filter, None, 100).await.unwrap();
    decisions.into_iter().map(|decision| decision.act).collect()
}

pub(super) async fn a_plan_starts_one_run(store: Arc<dyn Store>) {
    let plan = PlanId(Uuid::now_v7());
    assert_eq!(store.plan_use(plan).await.unwrap(), None);
    let of_plan = |kind| Run {
        plan,
        kind,
        ..run("shop")
    };
    // Dry runs, undos and verifications leave it as it is.
    let dry = Run {
        state: RunState::Succeeded,
        ..of_plan(RunKind::Cleanup)
    };
    accept(store.as_ref(), &request(dry, &[])).await;
    accept(store.as_ref(), &request(of_plan(RunKind::Undo), &[])).await;
    assert_eq!(store.plan_use(plan).await.unwrap(), None);
    // Many at once, each with a request id and a table of its own.
    let calls = (0..8).map(|table| {
        let request = request(of_plan(RunKind::Cleanup), &[&table.to_string()]);
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.create_run(&request).await.unwrap() })
    });
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for created in join_all(calls).await {
        match created.unwrap() {
            Created::Accepted(run) => accepted.push(run.id),
            Created::PlanUsed(run) => refused.push(run),
            other => panic!("expected Accepted or PlanUsed, got {other:?}"),
        }
    }
    assert_eq!((accepted.len(), refused.len()), (1, 7));
    assert!(refused.iter().all(|run| *run == accepted[0]), "everybody is told the run");
    assert_eq!(store.plan_use(plan).await.unwrap(), Some(accepted[0]));
    // It stays used when that run has ended.
    store.request_cancel(accepted[0], "enough").await.unwrap();
    let again = store.create_run(&request(of_plan(RunKind::Cleanup), &[])).await.unwrap();
    assert!(matches!(again, Created::PlanUsed(run) if run == accepted[0]), "{again:?}");
    accept(store.as_ref(), &request(of_plan(RunKind::Verify), &[])).await;
}

pub(super) async fn a_waiting_run_is_nobodys_until_its_last_approval(store: Arc<dyn Store>) {
    let asked = waiting(2);
    let id = asked.id;
    let kept = accept(store.as_ref(), &request(asked.clone(), &["t"])).await;
    assert_eq!(
        (kept.approve_until, kept.approvals_required, kept.started_by.as_str()),
        (asked.approve_until, 2, "ann")
    );
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none(), "nobody claims it");
    assert!(is_free(store.as_ref(), "t").await, "it holds no table");
    let once = taken(store.as_ref(), id, &approve("bob", &["t"])).await;
    assert_eq!((once.approvals.len(), once.approve_until), (1, asked.approve_until));
    let again = taken(store.as_ref(), id, &approve("bob", &["t"])).await;
    assert_eq!(again, once, "approving twice is approving once");
    assert!(
        store.claim("holder", LONG, &[]).await.unwrap().is_none(),
        "one of two is not enough"
    );
    // The tables are asked for with the last approval.
    let holder = accept(store.as_ref(), &request(run("shop"), &["t"])).await;
    let held = resolve(store.as_ref(), id, &approve("carl", &["a", "t"])).await;
    assert!(
        matches!(&held, Resolved::Held(held) if matches!(held.as_ref(), Created::Held { run, table, .. } if *run == holder.id && table == "t")),
        "{held:?}"
    );
    assert_eq!(store.run(id).await.unwrap().unwrap(), once, "it waits on");
    assert!(is_free(store.as_ref(), "a").await);
    store.request_cancel(holder.id, "out of the way").await.unwrap();
    let approved = taken(store.as_ref(), id, &approve("carl", &["a", "t"])).await;
    let names: Vec<_> = approved
        .approvals
        .iter()
        .map(|approval| approval.principal.as_str())
        .collect();
    assert_eq!((names, approved.approve_until), (vec!["bob", "carl"], None));
    assert_eq!(store.run(id).await.unwrap().unwrap(), approved, "and so it is kept");
    assert!(!is_free(store.as_ref(), "a").await && !is_free(store.as_ref(), "t").await);
    let grant = store.claim("holder", LONG, &[]).await.unwrap().expect("it is free now");
    assert_eq!(grant.run.id, id);
    assert_eq!(grant.run.approvals, approved.approvals);
    let late = resolve(store.as_ref(), id, &approve("dora", &["t"])).await;
    assert!(matches!(late, Resolved::NotWaiting(_)), "{late:?}");
    assert_eq!(
        recorded(store.as_ref(), id).await,
        [Act::Approve, Act::Approve],
        "what changed nothing left no record here"
    );
    let events = log(store.as_ref(), id).await;
    let approvals: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::Approved {
                approval,
                approvals,
                required,
            } => Some((approval.principal.as_str(), *approvals, *required)),
            _ => None,
        })
        .collect();
    assert_eq!(approvals, [("bob", 1, 2), ("carl", 2, 2)]);
}

pub(super) async fn a_paused_run_takes_verdicts(store: Arc<dyn Store>) {
    let steer = async |id, steer| {
        let asked = SteerRequest {
            run: id,
            steer,
            request_id: String::new(),
            request_digest: String::new(),
        };
        match store.steer(&asked).await.unwrap() {
            Steered::Done(run) => run,
            other => panic!("expected Done, got {other:?}"),
        }
    };
    let asked = waiting(1);
    let id = asked.id;
    accept(store.as_ref(), &request(asked, &["t"])).await;
    steer(id, Steer::Pause("later".to_owned())).await;
    let approved = taken(store.as_ref(), id, &approve("bob", &["t"])).await;
    assert_eq!(
        (approved.state, approved.state_reason.as_str(), approved.approve_until),
        (RunState::Paused, "later", None)
    );
    assert_eq!(store.run(id).await.unwrap().unwrap(), approved);
    assert!(!is_free(store.as_ref(), "t").await, "it holds its table");
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none(), "nobody claims it");
    steer(id, Steer::Resume).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().expect("it is free now");
    assert_eq!(grant.run.id, id);
    let late = Run {
        approve_until: Some(Timestamp::from_millisecond(1_000).unwrap()),
        ..waiting(1)
    };
    let denied = waiting(1);
    for asked in [&late, &denied] {
        accept(store.as_ref(), &request(asked.clone(), &["u"])).await;
        steer(asked.id, Steer::Pause("later".to_owned())).await;
    }
    let reason = "no".to_owned();
    let denied = taken(store.as_ref(), denied.id, &Verdict::Deny { reason }).await;
    assert_eq!(denied.state, RunState::Cancelled);
    // Nobody ends what is paused; resumed it is over.
    assert!(store.expire_approvals("too late", 10).await.unwrap().is_empty());
    steer(late.id, Steer::Resume).await;
    let ended = store.expire_approvals("too late", 10).await.unwrap();
    assert_eq!(ended.iter().map(|run| run.id).collect::<Vec<_>>(), [late.id]);
}

pub(super) async fn a_denied_run_ends(store: Arc<dyn Store>) {
    let asked = waiting(1);
    let id = asked.id;
    accept(store.as_ref(), &request(asked, &["t"])).await;
    let reason = "wrong\0table".to_owned();
    let denied = taken(store.as_ref(), id, &Verdict::Deny { reason: reason.clone() }).await;
    assert_eq!(
        (denied.state, denied.report.status),
        (RunState::Cancelled, Some(ReportStatus::Failed))
    );
    assert_eq!(store.run(id).await.unwrap().unwrap(), denied);
    assert!(denied.ended_at.is_some() && !denied.state_reason.contains('\0'));
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none());
    for verdict in [approve("bob", &["t"]), Verdict::Deny { reason }] {
        let late = resolve(store.as_ref(), id, &verdict).await;
        assert!(matches!(late, Resolved::NotWaiting(_)), "{late:?}");
    }
    assert_eq!(recorded(store.as_ref(), id).await, [Act::Deny]);
    // Nor does a run wait that never had to, or one that nobody knows.
    let other = queued(store.as_ref()).await.id;
    assert!(matches!(
        resolve(store.as_ref(), other, &approve("bob", &[])).await,
        Resolved::NotWaiting(_)
    ));
    assert!(matches!(
        resolve(store.as_ref(), RunId::new(), &approve("bob", &[])).await,
        Resolved::Unknown
    ));
    // One that waits can be cancelled like any other that is queued.
    let asked = waiting(1);
    accept(store.as_ref(), &request(asked.clone(), &["t"])).await;
    let cancelled = store.request_cancel(asked.id, "enough").await.unwrap().unwrap();
    assert_eq!(cancelled.state, RunState::Cancelled);
}

pub(super) async fn a_run_that_nobody_approves_in_time_fails(store: Arc<dyn Store>) {
    let late = Run {
        approve_until: Some(Timestamp::from_millisecond(1_000).unwrap()),
        ..waiting(1)
    };
    let in_time = waiting(1);
    for asked in [&late, &in_time] {
        accept(store.as_ref(), &request(asked.clone(), &["t"])).await;
    }
    let other = running(store.as_ref()).await.run.id;
    let ended = store.expire_approvals("too late", 10).await.unwrap();
    assert_eq!(ended.iter().map(|run| run.id).collect::<Vec<_>>(), [late.id]);
    assert_eq!(
        (ended[0].state, ended[0].state_reason.as_str(), ended[0].report.status),
        (RunState::Failed, "too late", Some(ReportStatus::Failed))
    );
    assert_eq!(store.run(late.id).await.unwrap().unwrap(), ended[0]);
    assert_eq!(
        changes(&log(store.as_ref(), late.id).await).last().map(|change| change.1),
        Some(RunState::Failed)
    );
    assert!(
        store.expire_approvals("too late", 10).await.unwrap().is_empty(),
        "once is enough"
    );
    let state = async |id| store.run(id).await.unwrap().unwrap().state;
    assert_eq!(
        (state(in_time.id).await, state(other).await),
        (RunState::Queued, RunState::Running)
    );
    let approved = resolve(store.as_ref(), late.id, &approve("bob", &["t"])).await;
    assert!(matches!(approved, Resolved::NotWaiting(_)), "{approved:?}");
}

pub(super) async fn an_approval_races_with_a_denial(store: Arc<dyn Store>) {
    for round in 0..10 {
        let asked = waiting(1);
        let (id, table) = (asked.id, format!("t{round}"));
        accept(store.as_ref(), &request(asked, &[&table])).await;
        let yes = approve("bob", &[&table]);
        let no = Verdict::Deny { reason: "no".to_owned() };
        let (yes, no) = tokio::join!(resolve(store.as_ref(), id, &yes), resolve(store.as_ref(), id, &no));
        let outcomes = [&yes, &no].map(|resolved| matches!(resolved, Resolved::Taken(_)));
        assert!(outcomes[0] != outcomes[1], "one of them is first: {yes:?} {no:?}");
        let run = store.run(id).await.unwrap().unwrap();
        assert_eq!(run.state, if outcomes[0] { RunState::Queued } else { RunState::Cancelled });
        assert_eq!(is_free(store.as_ref(), &table).await, outcomes[1]);
        assert_eq!(recorded(store.as_ref(), id).await.len(), 1);
        store.request_cancel(id, "next round").await.unwrap();
    }
}

pub(super) async fn decisions_are_kept_and_listed(store: Arc<dyn Store>) {
    let (id, plan) = (RunId::new(), PlanId(Uuid::now_v7()));
    let mut expected = Vec::new();
    for (number, act) in Act::ALL.into_iter().enumerate() {
        let decision = if number % 2 == 0 {
            Decision::allow(&ann(), act, "detail: 'ü' \"\u{1}\"").about("shop", Some(id), Some(plan))
        } else {
            Decision::refuse(&ann(), act, "PLAN_USED", "no").about("", None, Some(plan))
        };
        // Their ids order them, also within one instant.
        let decision = Decision {
            id: DecisionId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number as u128)),
            ..decision
        };
        store.record(&decision).await.unwrap();
        store.record(&decision).await.expect("recording it again changes nothing");
        expected.insert(0, decision);
    }
    let list = async |filter: DecisionFilter, before| store.decisions(&filter, before, 100).await.unwrap();
    assert_eq!(list(DecisionFilter::default(), None).await, expected);
    assert_eq!(list(DecisionFilter::default(), Some(expected[1].id)).await, expected[2..]);
    assert_eq!(
        store.decisions(&DecisionFilter::default(), None, 2).await.unwrap(),
        expected[..2]
    );
    let allowed: Vec<_> = expected
        .iter()
        .filter(|decision| decision.outcome == Outcome::Allowed)
        .cloned()
        .collect();
    let filter = |run, plan, outcome| DecisionFilter { run, plan, outcome };
    assert_eq!(list(filter(Some(id), None, None), None).await, allowed);
    assert_eq!(list(filter(None, Some(plan), None), None).await, expected);
    assert_eq!(
        list(filter(Some(id), Some(plan), Some(Outcome::Allowed)), None).await,
        allowed
    );
    assert_eq!(list(filter(Some(id), None, Some(Outcome::Refused)), None).await, []);
    let refused = expected.len() - allowed.len();
    assert_eq!(list(filter(None, None, Some(Outcome::Refused)), None).await.len(), refused);
    assert_eq!(list(filter(Some(RunId::new()), None, None), None).await, []);
}

pub(super) async fn an_acceptance_and_its_decision_are_one(store: Arc<dyn Store>) {
    let with_decision = |table: &str| {
        let run = run("shop");
        let decision = Decision::allow(&ann(), Act::Run, "").about("shop", Some(run.id), Some(run.plan));
        let mut request = request(run, &[table]);
        request.decision = Some(decision);
        request
    };
    let first = with_decision("t");
    accept(store.as_ref(), &first).await;
    assert_eq!(recorded(store.as_ref(), first.run.id).await, [Act::Run]);
    // Repeated, it is no second decision; refused, it is none.
    let repeated = store.create_run(&first).await.unwrap();
    assert!(matches!(repeated, Created::Repeated(_)), "{repeated:?}");
    assert_eq!(recorded(store.as_ref(), first.run.id).await, [Act::Run]);
    let second = with_decision("t");
    let held = store.create_run(&second).await.unwrap();
    assert!(matches!(held, Created::Held { .. }), "{held:?}");
    assert!(recorded(store.as_ref(), second.run.id).await.is_empty());
}

pub(super) async fn runs_that_were_worked_on_are_found(store: Arc<dyn Store>) {
    let dry = Run {
        state: RunState::Succeeded,
        ..run("shop")
    };
    accept(store.as_ref(), &request(dry, &[])).await;
    let worked_on = running(store.as_ref()).await.run.id;
    queued(store.as_ref()).await;
    let filter = RunFilter {
        attempted: true,
        ..RunFilter::default()
    };
    let found = store.runs(&filter, None, 10).await.unwrap();
    assert_eq!(found.iter().map(|run| run.id).collect::<Vec<_>>(), [worked_on]);
}
