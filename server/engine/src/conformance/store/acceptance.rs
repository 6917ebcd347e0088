//! Acceptance: idempotent by request, exclusive by table, all or nothing.

use std::{collections::HashSet, sync::Arc};

use futures::future::join_all;

use super::{accept, changes, enter, is_free, log, queued, report, request, run, running};
use crate::{
    model::{EventBody, ReportStatus, Run, RunId, RunKind, RunOptions, RunState},
    port::{Created, Store, StoreError},
};

pub(super) async fn an_accepted_run_comes_back_as_it_was(store: Arc<dyn Store>) {
    let options = RunOptions {
        dry_run: false,
        batch_rows: 17,
        max_execution_seconds: 61,
        full_speed: true,
        capture: true,
        stop_on_failure: true,
        max_rows: Some(9_000),
        max_share_millionths: Some(7),
        force: true,
        max_rows_per_second: 12,
        duty_cycle_percent: 34,
        queue: false,
        max_replica_lag_seconds: Some(56),
        vacuum: true,
    };
    let operations = vec!["b".to_owned(), "a".to_owned()];
    let asked = Run {
        kind: RunKind::Undo,
        source: Some(RunId::new()),
        options,
        limits: options.limits(),
        operations,
        report: report(3),
        ..run("shop")
    };
    let request = request(asked.clone(), &["public.a", "public.b", "public.a"]);
    let run = accept(store.as_ref(), &request).await;
    assert_eq!(
        run,
        Run {
            last_sequence: 2,
            ..asked
        }
    );
    assert_eq!(store.run(run.id).await.unwrap(), Some(run.clone()));
    assert_eq!(
        store.run_of_request(&request.request_id).await.unwrap(),
        Some((run.id, "digest".to_owned()))
    );
    let log = log(store.as_ref(), run.id).await;
    assert!(
        matches!(
            &log[0].body,
            EventBody::StateChanged {
                from: None,
                to: RunState::Queued,
                report: None,
                ..
            }
        ),
        "{log:?}"
    );
    assert_eq!(log[1].body, request.events[0]);
    assert_eq!(log.len(), 2);
    assert!(log[0].at >= run.created_at);

    assert_eq!(store.run(RunId::new()).await.unwrap(), None);
    assert_eq!(store.run_of_request("never").await.unwrap(), None);
}

pub(super) async fn a_request_is_accepted_once(store: Arc<dyn Store>) {
    let first = request(run("shop"), &["t"]);
    let accepted = accept(store.as_ref(), &first).await;
    // A caller that repeats a request does not know the run that it made.
    let mut again = request(run("shop"), &["t"]);
    again.request_id.clone_from(&first.request_id);
    match store.create_run(&again).await.unwrap() {
        Created::Repeated(run) => assert_eq!(run, accepted),
        other => panic!("expected Repeated, got {other:?}"),
    }
    again.request_digest = "something else".to_owned();
    assert!(matches!(store.create_run(&again).await.unwrap(), Created::RequestIdReused(run) if run == accepted.id));
    assert_eq!(store.run(again.run.id).await.unwrap(), None);
    // Also when the run has ended, and with its newest state.
    store.request_cancel(accepted.id, "enough").await.unwrap();
    again.request_digest = first.request_digest;
    assert!(matches!(store.create_run(&again).await.unwrap(), Created::Repeated(run) if run.state == RunState::Cancelled));
}

pub(super) async fn a_table_has_one_run(store: Arc<dyn Store>) {
    let first = request(run("shop"), &["a", "b"]);
    let holder = accept(store.as_ref(), &first).await;
    let refused = request(run("shop"), &["c", "b"]);
    match store.create_run(&refused).await.unwrap() {
        Created::Held {
            run,
            table,
            state,
            operations,
            since,
        } => assert_eq!(
            (run, table.as_str(), state, operations, since),
            (holder.id, "b", RunState::Queued, holder.operations.clone(), holder.created_at)
        ),
        other => panic!("expected Held, got {other:?}"),
    }
    assert_eq!(store.run(refused.run.id).await.unwrap(), None, "a refused run leaves nothing");
    assert_eq!(store.run_of_request(&refused.request_id).await.unwrap(), None);
    assert!(is_free(store.as_ref(), "c").await, "a refused run holds nothing");
    accept(store.as_ref(), &request(run("other"), &["a", "b"])).await;
    // Names are names: neither their case nor their prefixes are folded.
    assert!(is_free(store.as_ref(), "A").await);
    assert!(is_free(store.as_ref(), "").await);
    // Interrupted runs keep their tables.
    let grant = store.claim("holder", super::LONG, &[]).await.unwrap().unwrap();
    assert_eq!(grant.run.id, holder.id);
    store
        .update(holder.id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    assert!(!is_free(store.as_ref(), "a").await);
    store.request_cancel(holder.id, "enough").await.unwrap();
    assert!(
        !is_free(store.as_ref(), "a").await,
        "not before an attempt has read what it did"
    );
    let grant = store.claim("holder", super::LONG, &[]).await.unwrap().unwrap();
    let ended = enter(RunState::Cancelled, "enough");
    store.update(holder.id, grant.fence, &ended).await.unwrap();
    // The same request may be made again after a refusal.
    accept(store.as_ref(), &refused).await;
    assert!(!is_free(store.as_ref(), "b").await);
    assert!(is_free(store.as_ref(), "a").await);
}

pub(super) async fn a_dry_run_ends_at_once(store: Arc<dyn Store>) {
    let mut dry = run("shop");
    dry.state = RunState::Succeeded;
    dry.state_reason = "dry run: 10 rows would be deleted".to_owned();
    dry.ended_at = Some(dry.created_at);
    dry.report.status = Some(ReportStatus::Success);
    let accepted = accept(store.as_ref(), &request(dry.clone(), &["t"])).await;
    assert_eq!(
        accepted,
        Run {
            last_sequence: 3,
            ..dry.clone()
        }
    );
    assert_eq!(store.run(dry.id).await.unwrap(), Some(accepted));
    let log = log(store.as_ref(), dry.id).await;
    assert!(
        matches!(
            &log[0].body,
            EventBody::StateChanged {
                from: None,
                to: RunState::Queued,
                ..
            }
        ),
        "{log:?}"
    );
    assert!(matches!(&log[1].body, EventBody::PlanReady { .. }), "{log:?}");
    assert_eq!(
        log[2].body,
        EventBody::StateChanged {
            from: Some(RunState::Queued),
            to: RunState::Succeeded,
            reason: dry.state_reason.clone(),
            report: Some(dry.report.clone())
        }
    );
    assert!(log[2].is_last());
    assert!(is_free(store.as_ref(), "t").await);
    assert!(store.claim("holder", super::LONG, &[]).await.unwrap().is_none());
}

pub(super) async fn a_run_does_not_begin_in_any_other_state(store: Arc<dyn Store>) {
    for state in [
        RunState::Running,
        RunState::Pausing,
        RunState::Paused,
        RunState::Cancelling,
        RunState::Interrupted,
        RunState::Failed,
        RunState::PartiallySucceeded,
    ] {
        let mut run = run("shop");
        run.state = state;
        let refused = store.create_run(&request(run.clone(), &["t"])).await;
        assert!(matches!(refused, Err(StoreError::Fenced)), "{state:?}: {refused:?}");
        assert_eq!(store.run(run.id).await.unwrap(), None);
    }
    assert!(is_free(store.as_ref(), "t").await);
}

pub(super) async fn one_of_many_callers_with_one_request_id_is_accepted(store: Arc<dyn Store>) {
    for round in 0..5 {
        let calls = (0..12).map(|_| {
            let mut request = request(run("shop"), &["t"]);
            request.request_id = format!("round {round}");
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.create_run(&request).await.unwrap() })
        });
        let mut accepted = Vec::new();
        let mut named = HashSet::new();
        for created in join_all(calls).await {
            match created.unwrap() {
                Created::Accepted(run) => accepted.extend(named.replace(run.id).or(Some(run.id))),
                Created::Repeated(run) => drop(named.insert(run.id)),
                other => panic!("expected Accepted or Repeated, got {other:?}"),
            }
        }
        assert_eq!(accepted.len(), 1);
        assert_eq!(named.len(), 1, "everybody is told the same run");
        store.request_cancel(accepted[0], "next round").await.unwrap();
    }
    assert_eq!(
        store.runs(&crate::port::RunFilter::default(), None, 100).await.unwrap().len(),
        5
    );
}

pub(super) async fn one_of_many_callers_for_one_table_is_accepted(store: Arc<dyn Store>) {
    for _ in 0..5 {
        let calls = (0..12).map(|number| {
            // In different orders, which must not end in a deadlock.
            let tables: &[&str] = if number % 2 == 0 { &["a", "b"] } else { &["b", "a"] };
            let request = request(run("shop"), tables);
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.create_run(&request).await.unwrap() })
        });
        let created: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let accepted: Vec<_> = created
            .iter()
            .filter_map(|created| {
                if let Created::Accepted(run) = created {
                    Some(run.id)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(accepted.len(), 1, "{created:?}");
        let told = created
            .iter()
            .filter(|created| matches!(created, Created::Held { run, .. } if *run == accepted[0]))
            .count();
        assert_eq!(told, 11, "{created:?}");
        store.request_cancel(accepted[0], "next round").await.unwrap();
    }
    // Nothing but what was accepted was written.
    let grant = running(store.as_ref()).await;
    assert_eq!(changes(&log(store.as_ref(), grant.run.id).await).len(), 2);
    queued(store.as_ref()).await;
}
