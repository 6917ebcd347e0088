//! What an attempt writes: all of an update or nothing, only while it holds the run, only along permitted edges.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{LONG, enter, held, is_free, log, queued, report, request, run, running, warning};
use crate::{
    model::{EventBody, Report, ReportStatus, Run, RunId, RunKind, RunState, Verification, fence},
    port::{Grant, PruneBegun, SourceMark, Store, StoreError, Update},
    run::state::permits,
};

pub(super) async fn events_are_numbered_in_order(store: Arc<dyn Store>) {
    let grant = running(store.as_ref()).await;
    let id = grant.run.id;
    let first = store
        .update(
            id,
            grant.fence,
            &Update {
                events: vec![warning(1), warning(2)],
                ..Update::default()
            },
        )
        .await
        .unwrap();
    let none = store
        .update(
            id,
            grant.fence,
            &Update {
                report: Some(report(7)),
                ..Update::default()
            },
        )
        .await
        .unwrap();
    let last = store
        .update(
            id,
            grant.fence,
            &Update {
                events: vec![warning(3)],
                ..enter(RunState::Interrupted, "later")
            },
        )
        .await
        .unwrap();
    assert_eq!(first.iter().map(|event| event.sequence).collect::<Vec<_>>(), [4, 5]);
    assert!(none.is_empty());
    assert_eq!(last[0].body, warning(3));
    let change = EventBody::StateChanged {
        from: Some(RunState::Running),
        to: RunState::Interrupted,
        reason: "later".to_owned(),
        report: None,
    };
    assert_eq!(last[1].body, change);
    let log = log(store.as_ref(), id).await;
    assert_eq!(log[3..], [first, last].concat(), "what was returned is what was written");
    assert!(log.is_sorted_by_key(|event| event.at));
    let run = store.run(id).await.unwrap().unwrap();
    assert_eq!(
        (run.last_sequence, run.report, run.state),
        (7, report(7), RunState::Interrupted)
    );
}

pub(super) async fn a_final_state_ends_everything(store: Arc<dyn Store>) {
    for (state, verdict) in [
        (RunState::Succeeded, ReportStatus::Success),
        (RunState::PartiallySucceeded, ReportStatus::PartialSuccess),
        (RunState::Failed, ReportStatus::Failed),
        (RunState::Cancelled, ReportStatus::PartialSuccess),
    ] {
        let grant = running(store.as_ref()).await;
        let (id, fence, table) = (grant.run.id, grant.fence, grant.run.id.to_string());
        if state == RunState::Cancelled {
            store.request_cancel(id, "enough").await.unwrap();
        }
        assert!(!is_free(store.as_ref(), &table).await);
        // The report may come before the state.
        let report = Report {
            status: Some(verdict),
            ..report(9)
        };
        store
            .update(
                id,
                fence,
                &Update {
                    report: Some(report.clone()),
                    ..Update::default()
                },
            )
            .await
            .unwrap();
        let events = store.update(id, fence, &enter(state, "the end")).await.unwrap();
        assert!(events[0].is_last());
        assert!(
            matches!(&events[0].body, EventBody::StateChanged { report: Some(last), .. } if *last == report),
            "{events:?}"
        );
        let run = store.run(id).await.unwrap().unwrap();
        assert_eq!(
            (run.state, run.state_reason.as_str(), &run.report),
            (state, "the end", &report)
        );
        assert!(run.ended_at.expect("it has ended") >= run.started_at.unwrap());
        assert!(is_free(store.as_ref(), &table).await);
        assert!(store.claim("another", LONG, &[]).await.unwrap().is_none());
        assert!(matches!(
            store.update(id, fence, &Update::default()).await,
            Err(StoreError::Fenced)
        ));
    }
}

pub(super) async fn an_interruption_gives_the_lease_back(store: Arc<dyn Store>) {
    let grant = running(store.as_ref()).await;
    store
        .update(grant.run.id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    let run = store.run(grant.run.id).await.unwrap().unwrap();
    assert_eq!((run.state, run.ended_at), (RunState::Interrupted, None));
    assert!(
        !is_free(store.as_ref(), &run.id.to_string()).await,
        "it goes on with its tables"
    );
    assert!(matches!(
        store.update(run.id, grant.fence, &Update::default()).await,
        Err(StoreError::Fenced)
    ));
    let again = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(fence::attempt(again.fence), 2);
}

pub(super) async fn only_the_holder_writes(store: Arc<dyn Store>) {
    let update = Update {
        events: vec![warning(1)],
        report: Some(report(1)),
        ..enter(RunState::Succeeded, "done")
    };
    let waiting = queued(store.as_ref()).await;
    for fence in [0, 1] {
        assert!(
            matches!(store.update(waiting.id, fence, &update).await, Err(StoreError::Fenced)),
            "queued, fence {fence}"
        );
    }
    assert!(
        matches!(store.update(RunId::new(), 1, &update).await, Err(StoreError::Fenced)),
        "unknown"
    );
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    for fence in [0, 2, u64::MAX] {
        assert!(
            matches!(store.update(grant.run.id, fence, &update).await, Err(StoreError::Fenced)),
            "fence {fence}"
        );
    }
    assert_eq!(store.run(grant.run.id).await.unwrap(), Some(grant.run));
}

pub(super) async fn only_permitted_states_are_entered(store: Arc<dyn Store>) {
    for from in [RunState::Running, RunState::Cancelling] {
        for to in RunState::ALL {
            let grant = running(store.as_ref()).await;
            let (id, fence) = (grant.run.id, grant.fence);
            if from == RunState::Cancelling {
                store.request_cancel(id, "enough").await.unwrap();
            }
            let before = store.run(id).await.unwrap();
            let update = Update {
                events: vec![warning(1)],
                report: Some(report(1)),
                ..enter(to, "because")
            };
            let result = store.update(id, fence, &update).await;
            let after = store.run(id).await.unwrap();
            if permits(from, to) {
                let change = (Some(from), to, "because");
                assert_eq!(super::changes(&result.unwrap()), [change]);
                assert_eq!(after.unwrap().state, to);
            } else {
                assert!(matches!(result, Err(StoreError::Fenced)), "{from:?} to {to:?}: {result:?}");
                assert_eq!(after, before, "a refused update leaves nothing");
            }
            // Out of the way of the next one.
            store.request_cancel(id, "next").await.unwrap();
            let state = store.run(id).await.unwrap().unwrap().state;
            let fence = match state {
                RunState::Interrupted => store.claim("holder", LONG, &[]).await.unwrap().unwrap().fence,
                _ => fence,
            };
            if !state.is_final() {
                store.update(id, fence, &enter(RunState::Cancelled, "next")).await.unwrap();
            }
        }
    }
}

pub(super) async fn sources_are_marked(store: Arc<dyn Store>) {
    let Grant { run: source, fence } = running(store.as_ref()).await;
    store
        .update(source.id, fence, &enter(RunState::Succeeded, "done"))
        .await
        .unwrap();
    let read = async || store.run(source.id).await.unwrap().unwrap();
    let finish = async |kind, mark| {
        let about = Run {
            kind,
            source: Some(source.id),
            ..run("shop")
        };
        let about = super::accept(store.as_ref(), &request(about, &[])).await;
        let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
        assert_eq!(
            grant.run,
            Run {
                state: grant.run.state,
                ..grant.run.clone()
            }
        );
        store
            .update(
                about.id,
                grant.fence,
                &Update {
                    source_mark: Some(mark),
                    ..enter(RunState::Succeeded, "done")
                },
            )
            .await
            .unwrap();
        about.id
    };
    let before = read().await;
    assert_eq!((before.verification, before.undone_by), (Verification::Unverified, None));
    finish(RunKind::Verify, SourceMark::Verified).await;
    let Verification::Verified(first) = read().await.verification else {
        panic!("expected Verified")
    };
    finish(RunKind::Verify, SourceMark::Damaged).await;
    let Verification::Damaged(second) = read().await.verification else {
        panic!("expected Damaged")
    };
    assert!(first >= before.ended_at.unwrap() && second >= first);
    let undo = finish(RunKind::Undo, SourceMark::Undone).await;
    assert_eq!(
        read().await,
        Run {
            verification: Verification::Damaged(second),
            undone_by: Some(undo),
            ..before
        },
        "nothing else changes"
    );

    // A mark belongs to its update.
    let about = Run {
        kind: RunKind::Undo,
        source: Some(source.id),
        ..run("shop")
    };
    let about = super::accept(store.as_ref(), &request(about, &[])).await;
    let refused = Update {
        source_mark: Some(SourceMark::Verified),
        ..enter(RunState::Succeeded, "done")
    };
    assert!(matches!(
        store.update(about.id, fence::of(1, 1), &refused).await,
        Err(StoreError::Fenced)
    ));
    assert_eq!(read().await.verification, Verification::Damaged(second));
}

pub(super) async fn backups_are_marked_by_whoever_proves_them(store: Arc<dyn Store>) {
    let finished = async || {
        let (made, fence) = held(store.as_ref()).await;
        store.update(made, fence, &enter(RunState::Succeeded, "done")).await.unwrap();
        made
    };
    let (whole, torn, pruned) = (finished().await, finished().await, finished().await);
    assert_eq!(store.begin_prune(pruned, None).await.unwrap(), PruneBegun::Begun);
    let keeper = Run {
        kind: RunKind::Maintain,
        ..run("shop")
    };
    let keeper = super::accept(store.as_ref(), &request(keeper, &[])).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((grant.run.id, grant.run.kind), (keeper.id, RunKind::Maintain));
    let found = Update {
        proofs: vec![
            (whole, SourceMark::Verified),
            (torn, SourceMark::Damaged),
            (pruned, SourceMark::Damaged),
        ],
        ..Update::default()
    };
    assert!(matches!(
        store.update(keeper.id, grant.fence + 1, &found).await,
        Err(StoreError::Fenced)
    ));
    let verification = async |id| store.run(id).await.unwrap().unwrap().verification;
    assert_eq!(
        verification(whole).await,
        Verification::Unverified,
        "an attempt that was shut out marks nothing"
    );
    store.update(keeper.id, grant.fence, &found).await.unwrap();
    assert!(matches!(verification(whole).await, Verification::Verified(_)));
    assert!(matches!(verification(torn).await, Verification::Damaged(_)));
    assert_eq!(
        verification(pruned).await,
        Verification::Unverified,
        "of what is going nothing is said"
    );
    let undone = Update {
        proofs: vec![(whole, SourceMark::Undone)],
        ..Update::default()
    };
    assert!(
        store.update(keeper.id, grant.fence, &undone).await.is_err(),
        "a proof undoes nothing"
    );
    assert!(matches!(verification(whole).await, Verification::Verified(_)));
}

pub(super) async fn many_writers_leave_no_gap(store: Arc<dyn Store>) {
    let grant = running(store.as_ref()).await;
    let id = grant.run.id;
    let writers = (0..50).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let update = Update {
                events: vec![warning(number), warning(number)],
                ..Update::default()
            };
            store.update(id, grant.fence, &update).await.unwrap()
        })
    });
    let mut written: Vec<_> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    written.sort_by_key(|event| event.sequence);
    let log = log(store.as_ref(), id).await;
    assert_eq!(log[3..], written, "every writer was told its numbers");
    assert_eq!(log.len(), 103);
    assert!(
        log[3..].chunks(2).all(|pair| pair[0].body == pair[1].body),
        "an update is not mixed with another"
    );
}

/// Lease keepers are aborted and callers go away: what they began is done as a whole or not at all, and the store stays well.
pub(super) async fn a_dropped_call_is_done_or_not_done(store: Arc<dyn Store>) {
    let grant = running(store.as_ref()).await;
    let id = grant.run.id;
    for number in 0..60 {
        let update = Update {
            events: vec![warning(number), warning(number)],
            ..Update::default()
        };
        // From before the first await to about the duration of the whole call.
        let patience = Duration::from_micros(number * 50);
        drop(tokio::time::timeout(patience, store.update(id, grant.fence, &update)).await);
        drop(tokio::time::timeout(patience, store.renew(id, grant.fence, LONG)).await);
        drop(tokio::time::timeout(patience, store.create_run(&request(run("shop"), &["t"]))).await);
        drop(tokio::time::timeout(patience, store.events(id, 0, 10)).await);
    }
    let last = warning(1_000_000);
    store
        .update(
            id,
            grant.fence,
            &Update {
                events: vec![last.clone()],
                ..Update::default()
            },
        )
        .await
        .unwrap();
    // Calls that were dropped may still be on their way.
    let mut log = log(store.as_ref(), id).await;
    log.retain(|event| event.sequence > 3 && event.body != last);
    assert!(
        log.chunks(2).all(|pair| pair.len() == 2 && pair[0].body == pair[1].body),
        "half an update"
    );
    let numbers: HashSet<_> = log.iter().map(|event| serde_json::to_string(&event.body).unwrap()).collect();
    assert_eq!(numbers.len() * 2, log.len(), "an update was done twice");
    // No connection is stuck in somebody's transaction.
    join_all((0..40).map(|_| store.renew(id, grant.fence, LONG)))
        .await
        .into_iter()
        .for_each(|renewal| drop(renewal.unwrap()));
    join_all((0..40).map(|_| store.run(id)))
        .await
        .into_iter()
        .for_each(|run| assert!(run.unwrap().is_some()));
}
