//! Leases: one holder at a time, oldest runs first, and fences that only grow.

use std::{collections::HashMap, sync::Arc};

use futures::future::join_all;

use super::{LONG, SHORT, accept, changes, claim_in_time, enter, log, queued, report, request, run, running};
use crate::{
    model::{Run, RunId, RunState, fence},
    port::{Renewal, Store, StoreError, Update},
};

pub(super) async fn the_oldest_free_run_is_granted(store: Arc<dyn Store>) {
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none());
    let (first, second) = (queued(store.as_ref()).await, queued(store.as_ref()).await);
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((grant.run.id, fence::attempt(grant.fence)), (first.id, 1));
    let started_at = grant.run.started_at.expect("work begins with the first claim");
    assert!(started_at >= first.created_at);
    let expected = Run {
        state: RunState::Running,
        state_reason: "attempt 1".to_owned(),
        attempts: 1,
        last_sequence: 3,
        started_at: Some(started_at),
        ..first.clone()
    };
    assert_eq!(grant.run, expected);
    assert_eq!(store.run(first.id).await.unwrap(), Some(expected));
    let log = log(store.as_ref(), first.id).await;
    assert_eq!(changes(&log)[1..], [(Some(RunState::Queued), RunState::Running, "attempt 1")]);
    assert_eq!(store.claim("holder", LONG, &[]).await.unwrap().unwrap().run.id, second.id);
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none());
}

pub(super) async fn targets_are_passed_over(store: Arc<dyn Store>) {
    for target in ["a", "b", "c"] {
        accept(store.as_ref(), &request(run(target), &["t"])).await;
    }
    let skip = ["a".to_owned(), "b".to_owned(), "never' OR 1=1 --".to_owned()];
    assert_eq!(store.claim("holder", LONG, &skip).await.unwrap().unwrap().run.target, "c");
    assert!(store.claim("holder", LONG, &skip).await.unwrap().is_none());
    assert_eq!(
        store
            .claim("holder", LONG, &["a".to_owned()])
            .await
            .unwrap()
            .unwrap()
            .run
            .target,
        "b"
    );
    assert_eq!(store.claim("holder", LONG, &[]).await.unwrap().unwrap().run.target, "a");
}

pub(super) async fn an_interrupted_run_goes_on(store: Arc<dyn Store>) {
    let first = running(store.as_ref()).await;
    let done = Update {
        report: Some(report(4)),
        ..enter(RunState::Interrupted, "the server is shutting down")
    };
    store.update(first.run.id, first.fence, &done).await.unwrap();
    let second = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(
        (second.run.id, fence::attempt(second.fence), second.run.attempts),
        (first.run.id, 2, 2)
    );
    assert!(second.fence > first.fence);
    assert_eq!(
        second.run.started_at, first.run.started_at,
        "work began with the first attempt"
    );
    assert_eq!(second.run.report, report(4));
    let log = log(store.as_ref(), first.run.id).await;
    let expected = [
        (Some(RunState::Running), RunState::Interrupted, "the server is shutting down"),
        (Some(RunState::Interrupted), RunState::Running, "attempt 2"),
    ];
    assert_eq!(changes(&log)[2..], expected);
}

pub(super) async fn each_run_has_one_claimer(store: Arc<dyn Store>) {
    let mut runs = HashMap::<RunId, u32>::new();
    for _ in 0..6 {
        runs.insert(queued(store.as_ref()).await.id, 0);
    }
    let claimers = (0..12).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut granted = Vec::new();
            // A store may pass over runs that another claimer is just looking at, so that one empty answer says little.
            for _ in 0..20 {
                granted.extend(store.claim(&format!("holder {number}"), LONG, &[]).await.unwrap());
            }
            granted
        })
    });
    for grant in join_all(claimers).await.into_iter().flat_map(Result::unwrap) {
        assert_eq!(fence::attempt(grant.fence), 1);
        *runs.get_mut(&grant.run.id).expect("a run of this case") += 1;
    }
    assert!(runs.values().all(|count| *count == 1), "{runs:?}");
}

pub(super) async fn a_lapsed_lease_is_granted_again(store: Arc<dyn Store>) {
    queued(store.as_ref()).await;
    assert_eq!(store.next_lapse().await.unwrap(), None, "nobody holds it");
    let first = store.claim("holder", SHORT, &[]).await.unwrap().unwrap();
    // On a slow machine it may have lapsed by now.
    let left = store.next_lapse().await.unwrap();
    assert!(left.is_none_or(|left| left <= SHORT), "{left:?}");
    let id = first.run.id;
    let second = claim_in_time(store.as_ref()).await;
    let left = store.next_lapse().await.unwrap().expect("it is held again");
    assert!(left > SHORT && left <= LONG, "{left:?}");
    assert_eq!(
        (second.run.id, fence::attempt(second.fence), second.run.state),
        (id, 2, RunState::Running)
    );
    let written = log(store.as_ref(), id).await;
    let expected = [
        (Some(RunState::Queued), RunState::Running, "attempt 1"),
        (
            Some(RunState::Running),
            RunState::Interrupted,
            "the lease of its server lapsed",
        ),
        (Some(RunState::Interrupted), RunState::Running, "attempt 2"),
    ];
    assert_eq!(changes(&written)[1..], expected);
    assert_eq!(second.run.last_sequence, 5);
    // The first attempt wakes up and finds itself shut out.
    assert!(matches!(store.renew(id, first.fence, LONG).await, Err(StoreError::Fenced)));
    let late = Update {
        events: vec![super::warning(1)],
        ..Update::default()
    };
    assert!(matches!(store.update(id, first.fence, &late).await, Err(StoreError::Fenced)));
    assert_eq!(log(store.as_ref(), id).await.len(), written.len());
    store.renew(id, second.fence, LONG).await.unwrap();
    store.update(id, second.fence, &late).await.unwrap();
}

pub(super) async fn one_claimer_gets_a_lapsed_lease(store: Arc<dyn Store>) {
    queued(store.as_ref()).await;
    store.claim("holder", SHORT, &[]).await.unwrap().unwrap();
    let claimers = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let started = std::time::Instant::now();
            let mut granted = Vec::new();
            // Long enough for the lease to have lapsed, also on a slow machine, then a few more.
            while granted.is_empty() && started.elapsed() < SHORT * 100 {
                granted.extend(store.claim("another", LONG, &[]).await.unwrap());
            }
            granted
        })
    });
    let granted: Vec<_> = join_all(claimers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(
        granted.iter().map(|grant| fence::attempt(grant.fence)).collect::<Vec<_>>(),
        [2]
    );
}

pub(super) async fn a_lapsed_lease_that_nobody_claimed_is_prolonged(store: Arc<dyn Store>) {
    queued(store.as_ref()).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    store.release_all().await.unwrap();
    let id = grant.run.id;
    store
        .update(
            id,
            grant.fence,
            &Update {
                events: vec![super::warning(1)],
                ..Update::default()
            },
        )
        .await
        .expect("it is still its run");
    assert_eq!(
        store.renew(id, grant.fence, LONG).await.unwrap(),
        Renewal {
            cancel_reason: None,
            pause_reason: None,
            limits: grant.run.limits,
        }
    );
    assert!(
        store.claim("another", LONG, &[]).await.unwrap().is_none(),
        "it has a lease again"
    );
}

pub(super) async fn renewals_need_the_run(store: Arc<dyn Store>) {
    let waiting = queued(store.as_ref()).await;
    assert!(
        matches!(store.renew(waiting.id, 0, LONG).await, Err(StoreError::Fenced)),
        "queued"
    );
    assert!(
        matches!(store.renew(RunId::new(), 1, LONG).await, Err(StoreError::Fenced)),
        "unknown"
    );
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    for fence in [0, 2, u64::MAX] {
        assert!(
            matches!(store.renew(grant.run.id, fence, LONG).await, Err(StoreError::Fenced)),
            "fence {fence}"
        );
    }
    store
        .renew(grant.run.id, grant.fence, std::time::Duration::MAX)
        .await
        .expect("any term will do");
    store
        .update(grant.run.id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    assert!(
        matches!(store.renew(grant.run.id, grant.fence, LONG).await, Err(StoreError::Fenced)),
        "interrupted"
    );
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    store
        .update(grant.run.id, grant.fence, &enter(RunState::Succeeded, "done"))
        .await
        .unwrap();
    assert!(
        matches!(store.renew(grant.run.id, grant.fence, LONG).await, Err(StoreError::Fenced)),
        "ended"
    );
}

pub(super) async fn all_leases_are_released(store: Arc<dyn Store>) {
    let (first, second) = (running(store.as_ref()).await, running(store.as_ref()).await);
    store.request_cancel(second.run.id, "enough").await.unwrap();
    assert!(store.claim("another", LONG, &[]).await.unwrap().is_none());
    store.release_all().await.unwrap();
    let again = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((again.run.id, fence::attempt(again.fence)), (first.run.id, 2));
    let again = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((again.run.id, fence::attempt(again.fence)), (second.run.id, 2));
    assert!(store.claim("another", LONG, &[]).await.unwrap().is_none());
}

pub(super) async fn a_cancel_request_outlives_the_attempt(store: Arc<dyn Store>) {
    queued(store.as_ref()).await;
    let id = store.claim("holder", SHORT, &[]).await.unwrap().unwrap().run.id;
    store.request_cancel(id, "wrong table").await.unwrap();
    let second = claim_in_time(store.as_ref()).await;
    ends_cancelled(store.as_ref(), second.run, second.fence).await;
    let log = log(store.as_ref(), id).await;
    let expected = [
        (Some(RunState::Running), RunState::Cancelling, "wrong table"),
        (
            Some(RunState::Cancelling),
            RunState::Interrupted,
            "the lease of its server lapsed",
        ),
        (Some(RunState::Interrupted), RunState::Running, "attempt 2"),
        (Some(RunState::Running), RunState::Cancelling, "wrong table"),
        (Some(RunState::Cancelling), RunState::Cancelled, "wrong table"),
    ];
    assert_eq!(changes(&log)[2..], expected);
}

pub(super) async fn a_cancel_request_outlives_an_interruption(store: Arc<dyn Store>) {
    let first = running(store.as_ref()).await;
    store.request_cancel(first.run.id, "wrong table").await.unwrap();
    store
        .update(
            first.run.id,
            first.fence,
            &enter(RunState::Interrupted, "the target is out of reach"),
        )
        .await
        .unwrap();
    let second = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    ends_cancelled(store.as_ref(), second.run, second.fence).await;
}

/// An attempt that finds a cancel request can read it and end the run by it.
async fn ends_cancelled(store: &dyn Store, run: Run, fence: u64) {
    assert_eq!(
        (run.state, run.cancel_reason.as_deref()),
        (RunState::Cancelling, Some("wrong table"))
    );
    let renewal = store.renew(run.id, fence, LONG).await.unwrap();
    assert_eq!(renewal.cancel_reason.as_deref(), Some("wrong table"));
    store
        .update(run.id, fence, &enter(RunState::Cancelled, "wrong table"))
        .await
        .unwrap();
    assert_eq!(store.run(run.id).await.unwrap().unwrap().state, RunState::Cancelled);
}

/// A failover that loses the newest claim of a run leaves two servers that hold attempts of one number. `forget` takes that claim back
/// in the store, as if it had never been there. Returns the fences of both.
pub(super) async fn of_one_number(store: Arc<dyn Store>, forget: impl AsyncFnOnce(RunId)) -> (RunId, u64, u64) {
    let lost = running(store.as_ref()).await;
    let id = lost.run.id;
    forget(id).await;
    let kept = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((kept.run.id, kept.run.attempts), (id, lost.run.attempts));
    assert_ne!(kept.fence, lost.fence, "two holders are told from one another");
    // Whoever was forgotten is shut out of every write.
    assert!(matches!(store.renew(id, lost.fence, LONG).await, Err(StoreError::Fenced)));
    for update in [
        Update {
            events: vec![super::warning(1)],
            ..Update::default()
        },
        enter(RunState::Succeeded, "done"),
    ] {
        let refused = store.update(id, lost.fence, &update).await;
        assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    }
    store.renew(id, kept.fence, LONG).await.unwrap();
    store
        .update(id, kept.fence, &enter(RunState::Succeeded, "done"))
        .await
        .unwrap();
    (id, lost.fence, kept.fence)
}
