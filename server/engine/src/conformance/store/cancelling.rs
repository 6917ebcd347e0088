//! Requests to cancel, at every point of a run's life.

use std::sync::Arc;

use futures::future::join_all;

use super::{LONG, changes, enter, held, is_free, log, queued, report, running};
use crate::{
    model::{EventBody, ReportStatus, Run, RunId, RunState},
    port::{Store, Update},
};

pub(super) async fn a_run_that_nobody_works_on_ends_at_once(store: Arc<dyn Store>) {
    assert_eq!(store.request_cancel(RunId::new(), "who?").await.unwrap(), None);
    let before = queued(store.as_ref()).await;
    {
        let run = store.request_cancel(before.id, "enough").await.unwrap().unwrap();
        assert_eq!((run.state, run.state_reason.as_str()), (RunState::Cancelled, "enough"));
        assert_eq!(run.cancel_reason.as_deref(), Some("enough"));
        assert_eq!(run.report.status, Some(ReportStatus::Failed), "nothing of it is done");
        assert!(run.ended_at.is_some());
        assert_eq!(store.run(run.id).await.unwrap().as_ref(), Some(&run));
        let log = log(store.as_ref(), run.id).await;
        let last = log.last().unwrap();
        assert_eq!(last.sequence, run.last_sequence);
        assert_eq!(
            last.body,
            EventBody::StateChanged {
                from: Some(before.state),
                to: RunState::Cancelled,
                reason: "enough".to_owned(),
                report: Some(run.report.clone())
            }
        );
        assert!(is_free(store.as_ref(), &run.id.to_string()).await);
    }
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none());
}

/// Its last COMMIT may have taken effect unheard: only an attempt that has read the journal can end it.
pub(super) async fn an_interrupted_run_ends_in_its_next_attempt(store: Arc<dyn Store>) {
    let grant = running(store.as_ref()).await;
    let id = grant.run.id;
    store
        .update(id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    let run = store.request_cancel(id, "enough").await.unwrap().unwrap();
    assert_eq!(
        (run.state, run.cancel_reason.as_deref()),
        (RunState::Interrupted, Some("enough"))
    );
    assert!(!is_free(store.as_ref(), &id.to_string()).await);
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((grant.run.id, grant.run.state), (id, RunState::Cancelling));
    assert_eq!(
        store.renew(id, grant.fence, LONG).await.unwrap().cancel_reason.as_deref(),
        Some("enough")
    );
    store
        .update(id, grant.fence, &enter(RunState::Cancelled, "enough"))
        .await
        .unwrap();
    assert!(is_free(store.as_ref(), &id.to_string()).await);
}

pub(super) async fn a_running_run_is_asked(store: Arc<dyn Store>) {
    let grant = running(store.as_ref()).await;
    let id = grant.run.id;
    assert_eq!(store.renew(id, grant.fence, LONG).await.unwrap().cancel_reason, None);
    let run = store.request_cancel(id, "enough").await.unwrap().unwrap();
    assert_eq!(
        (run.state, run.cancel_reason.as_deref(), run.ended_at),
        (RunState::Cancelling, Some("enough"), None)
    );
    assert_eq!(run.report, grant.run.report);
    assert_eq!(
        store.renew(id, grant.fence, LONG).await.unwrap().cancel_reason.as_deref(),
        Some("enough")
    );
    let again = store.request_cancel(id, "for another reason").await.unwrap().unwrap();
    assert_eq!(again, run, "asking twice is asking once");
    assert!(!is_free(store.as_ref(), &id.to_string()).await, "a batch may be open");
    assert!(
        store.claim("another", LONG, &[]).await.unwrap().is_none(),
        "its lease is still good"
    );
    store
        .update(id, grant.fence, &enter(RunState::Cancelled, "enough"))
        .await
        .unwrap();
    let expected = [
        (Some(RunState::Running), RunState::Cancelling, "enough"),
        (Some(RunState::Cancelling), RunState::Cancelled, "enough"),
    ];
    assert_eq!(changes(&log(store.as_ref(), id).await)[2..], expected);
}

pub(super) async fn an_ended_run_stays_as_it_is(store: Arc<dyn Store>) {
    for state in [RunState::Succeeded, RunState::PartiallySucceeded, RunState::Failed] {
        let (id, fence) = held(store.as_ref()).await;
        store.update(id, fence, &enter(state, "done")).await.unwrap();
        let before = store.run(id).await.unwrap();
        assert_eq!(store.request_cancel(id, "too late").await.unwrap(), before);
        assert_eq!(store.run(id).await.unwrap(), before);
    }
}

/// Whoever comes first, the run ends once, and its log says how.
pub(super) async fn a_request_races_with_the_end(store: Arc<dyn Store>) {
    for _ in 0..10 {
        let grant = running(store.as_ref()).await;
        let id = grant.run.id;
        let update = enter(RunState::Succeeded, "done");
        let (asked, ended) = tokio::join!(store.request_cancel(id, "enough"), store.update(id, grant.fence, &update));
        let asked = asked.unwrap().unwrap();
        ended.expect("a cancelling run may still succeed");
        assert!(matches!(asked.state, RunState::Cancelling | RunState::Succeeded));
        let Run {
            state, last_sequence, ..
        } = store.run(id).await.unwrap().unwrap();
        assert_eq!(state, RunState::Succeeded);
        let log = log(store.as_ref(), id).await;
        assert_eq!(log.len(), usize::try_from(last_sequence).unwrap());
        assert_eq!(log.iter().filter(|event| event.is_last()).count(), 1);
        assert!(log.last().unwrap().is_last());
    }
}

/// Reports that are written meanwhile, with no event of their own, do not take the request back.
pub(super) async fn a_request_is_not_overwritten(store: Arc<dyn Store>) {
    for round in 0..10 {
        let (id, fence) = held(store.as_ref()).await;
        let writers = (0..8).map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                if number == round % 8 {
                    return drop(store.request_cancel(id, "enough").await.unwrap());
                }
                let update = Update {
                    report: Some(report(number)),
                    ..Update::default()
                };
                drop(store.update(id, fence, &update).await.unwrap());
            })
        });
        join_all(writers).await.into_iter().for_each(|ended| ended.unwrap());
        let run = store.run(id).await.unwrap().unwrap();
        assert_eq!(
            (run.state, run.cancel_reason.as_deref(), run.last_sequence),
            (RunState::Cancelling, Some("enough"), 4)
        );
        assert_eq!(
            changes(&log(store.as_ref(), id).await).last().unwrap().1,
            RunState::Cancelling
        );
    }
}
