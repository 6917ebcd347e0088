//! Requests to pause, to go on and to change limits, at every point of a run's life.

use std::sync::Arc;

use uuid::Uuid;

use super::{LONG, SHORT, accept, changes, claim_in_time, enter, held, is_free, log, queued, request, run, running};
use crate::{
    model::{EventBody, LimitsPatch, Run, RunId, RunLimits, RunState, fence},
    port::{Created, Steer, SteerRequest, Steered, Store, StoreError},
};

fn ask(run: RunId, steer: Steer) -> SteerRequest {
    SteerRequest {
        run,
        steer,
        request_id: Uuid::now_v7().to_string(),
        request_digest: "digest".to_owned(),
    }
}

async fn done(store: &dyn Store, run: RunId, steer: Steer) -> Run {
    match store.steer(&ask(run, steer)).await.unwrap() {
        Steered::Done(run) => {
            assert_eq!(
                store.run(run.id).await.unwrap().as_ref(),
                Some(&run),
                "the answer is what is kept"
            );
            run
        }
        other => panic!("expected Done, got {other:?}"),
    }
}

async fn pause(store: &dyn Store, run: RunId) -> Run {
    done(store, run, Steer::Pause("lunch".to_owned())).await
}

async fn resume(store: &dyn Store, run: RunId) -> Run {
    done(store, run, Steer::Resume).await
}

pub(super) async fn a_running_run_pauses_at_its_boundary(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let grant = running(store).await;
    let id = grant.run.id;
    assert_eq!(store.renew(id, grant.fence, LONG).await.unwrap().pause_reason, None);
    let asked = pause(store, id).await;
    assert_eq!((asked.state, asked.state_reason.as_str()), (RunState::Pausing, "lunch"));
    assert_eq!(
        store.renew(id, grant.fence, LONG).await.unwrap().pause_reason.as_deref(),
        Some("lunch")
    );
    assert_eq!(pause(store, id).await, asked, "asking twice is asking once");
    assert!(
        store.claim("another", LONG, &[]).await.unwrap().is_none(),
        "its lease is still good"
    );
    store
        .update(id, grant.fence, &enter(RunState::Paused, "lunch"))
        .await
        .unwrap();
    assert!(
        matches!(store.renew(id, grant.fence, LONG).await, Err(StoreError::Fenced)),
        "a paused run has no holder"
    );
    let paused = pause(store, id).await;
    assert_eq!(
        (paused.state, paused.last_sequence),
        (RunState::Paused, asked.last_sequence + 1)
    );
    assert!(
        store.claim("another", LONG, &[]).await.unwrap().is_none(),
        "nobody works on it"
    );
    store.release_all().await.unwrap();
    assert!(
        store.claim("another", LONG, &[]).await.unwrap().is_none(),
        "also after a restart"
    );
    let resumed = resume(store, id).await;
    assert_eq!((resumed.state, resumed.pause_reason), (RunState::Queued, None));
    let grant = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(
        (grant.run.id, fence::attempt(grant.fence), grant.run.state),
        (id, 2, RunState::Running)
    );
    let expected = [
        (Some(RunState::Running), RunState::Pausing, "lunch"),
        (Some(RunState::Pausing), RunState::Paused, "lunch"),
        (Some(RunState::Paused), RunState::Queued, "resumed"),
        (Some(RunState::Queued), RunState::Running, "attempt 2"),
    ];
    assert_eq!(changes(&log(store, id).await)[2..], expected);
}

pub(super) async fn a_paused_run_keeps_its_tables_and_its_place(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let first = accept(store, &request(run("shop"), &["a"])).await;
    assert_eq!(pause(store, first.id).await.state, RunState::Paused, "nothing is in flight");
    let mut second = run("shop");
    second.options.queue = true;
    let second = accept(store, &request(second, &["a", "b"])).await;
    assert_eq!(
        pause(store, second.id).await.waiting.map(|waiting| waiting.run),
        Some(first.id)
    );
    let third = store.create_run(&request(run("shop"), &["b"])).await.unwrap();
    assert!(
        matches!(&third, Created::Held { run, state: RunState::Paused, .. } if *run == second.id),
        "{third:?}"
    );
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none());
    // Who waits and goes on still waits.
    assert_eq!(
        resume(store, second.id).await.waiting.map(|waiting| waiting.run),
        Some(first.id)
    );
    assert!(store.claim("holder", LONG, &[]).await.unwrap().is_none());
    resume(store, first.id).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(grant.run.id, first.id);
    store
        .update(first.id, grant.fence, &enter(RunState::Succeeded, "done"))
        .await
        .unwrap();
    assert_eq!(store.claim("holder", LONG, &[]).await.unwrap().unwrap().run.id, second.id);
}

pub(super) async fn a_pause_is_taken_back_before_the_boundary(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let (id, fence) = held(store).await;
    let untouched = store.run(id).await.unwrap().unwrap();
    assert_eq!(resume(store, id).await, untouched, "it is not paused");
    pause(store, id).await;
    assert_eq!(resume(store, id).await.state, RunState::Running);
    assert_eq!(store.renew(id, fence, LONG).await.unwrap().pause_reason, None);
    // The attempt had seen the request, and hands the run back instead.
    let refused = store.update(id, fence, &enter(RunState::Paused, "lunch")).await;
    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    store
        .update(id, fence, &enter(RunState::Interrupted, "resumed"))
        .await
        .unwrap();
    assert_eq!(store.claim("another", LONG, &[]).await.unwrap().unwrap().run.id, id);
}

/// The last COMMIT of an attempt that died may have taken effect: only an attempt that has read the journal can pause the run.
pub(super) async fn a_pause_outlives_the_attempt(store: Arc<dyn Store>) {
    let store = store.as_ref();
    // It dies after the request.
    let (id, fence) = held(store).await;
    pause(store, id).await;
    store.renew(id, fence, SHORT).await.unwrap();
    let grant = claim_in_time(store).await;
    assert_eq!(
        (grant.run.id, fence::attempt(grant.fence), grant.run.state),
        (id, 2, RunState::Pausing)
    );
    assert_eq!(
        store.renew(id, grant.fence, LONG).await.unwrap().pause_reason.as_deref(),
        Some("lunch")
    );
    store
        .update(id, grant.fence, &enter(RunState::Paused, "lunch"))
        .await
        .unwrap();
    // It is interrupted before the request.
    let (id, fence) = held(store).await;
    store.update(id, fence, &enter(RunState::Interrupted, "later")).await.unwrap();
    let asked = pause(store, id).await;
    assert_eq!(
        (asked.state, asked.pause_reason.as_deref()),
        (RunState::Interrupted, Some("lunch"))
    );
    let grant = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((grant.run.id, grant.run.state), (id, RunState::Pausing));
    store
        .update(id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    assert_eq!(resume(store, id).await.state, RunState::Interrupted);
    let grant = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    assert_eq!((grant.run.id, grant.run.state), (id, RunState::Running));
    // Cancelling goes before pausing.
    pause(store, id).await;
    let asked = store.request_cancel(id, "enough").await.unwrap().unwrap();
    assert_eq!((asked.state, asked.pause_reason), (RunState::Cancelling, None));
    store.renew(id, grant.fence, SHORT).await.unwrap();
    assert_eq!(claim_in_time(store).await.run.state, RunState::Cancelling);
}

pub(super) async fn a_paused_run_is_cancelled_at_once(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let (id, fence) = held(store).await;
    pause(store, id).await;
    store.update(id, fence, &enter(RunState::Paused, "lunch")).await.unwrap();
    assert!(!is_free(store, &id.to_string()).await);
    let run = store.request_cancel(id, "enough").await.unwrap().unwrap();
    assert_eq!((run.state, run.state_reason.as_str()), (RunState::Cancelled, "enough"));
    assert!(run.ended_at.is_some() && run.report.status.is_some());
    assert!(is_free(store, &id.to_string()).await);
    assert!(log(store, id).await.last().unwrap().is_last());
}

pub(super) async fn limits_change_for_good(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let grant = running(store).await;
    let (id, before) = (grant.run.id, grant.run.limits);
    assert_eq!(before, grant.run.options.limits());
    assert_eq!(store.renew(id, grant.fence, LONG).await.unwrap().limits, before);
    let patch = LimitsPatch {
        batch_rows: Some(17),
        duty_cycle_percent: Some(80),
        ..LimitsPatch::default()
    };
    let run = done(store, id, Steer::Limits(patch, "anna".to_owned())).await;
    let after = RunLimits {
        batch_rows: 17,
        duty_cycle_percent: 80,
        ..before
    };
    assert_eq!((run.limits, run.state), (after, RunState::Running));
    assert_eq!(run.options, grant.run.options, "what was asked for at first is kept");
    assert_eq!(store.renew(id, grant.fence, LONG).await.unwrap().limits, after);
    let changed = EventBody::LimitsChanged {
        principal: "anna".to_owned(),
        before,
        after,
    };
    let last = log(store, id).await.pop().unwrap();
    assert_eq!((last.sequence, last.body), (run.last_sequence, changed));
    let same = done(store, id, Steer::Limits(patch, "bert".to_owned())).await;
    assert_eq!(same, run, "what changes nothing is no event");
    // In every later attempt, and while nobody works on it.
    store
        .update(id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    let rate = LimitsPatch {
        max_rows_per_second: Some(9),
        ..LimitsPatch::default()
    };
    done(store, id, Steer::Limits(rate, String::new())).await;
    let grant = store.claim("another", LONG, &[]).await.unwrap().unwrap();
    let both = RunLimits {
        max_rows_per_second: 9,
        ..after
    };
    assert_eq!((grant.run.id, grant.run.limits), (id, both));
    // A run that is being cancelled still works on its last batch.
    store.request_cancel(id, "enough").await.unwrap();
    assert_eq!(done(store, id, Steer::Limits(patch, String::new())).await.limits, both);
}

pub(super) async fn a_request_steers_once(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let id = running(store).await.run.id;
    let first = ask(id, Steer::Pause("lunch".to_owned()));
    assert!(matches!(store.steer(&first).await.unwrap(), Steered::Done(run) if run.state == RunState::Pausing));
    resume(store, id).await;
    // Its answer was lost, and it comes again when the world has moved on.
    assert!(matches!(store.steer(&first).await.unwrap(), Steered::Done(run) if run.state == RunState::Running));
    let other = SteerRequest {
        request_digest: "something else".to_owned(),
        ..first.clone()
    };
    assert!(matches!(store.steer(&other).await.unwrap(), Steered::RequestIdReused(run) if run == id));
    let another = queued(store).await.id;
    let other = SteerRequest {
        run: another,
        ..first.clone()
    };
    assert!(matches!(store.steer(&other).await.unwrap(), Steered::RequestIdReused(run) if run == id));
    assert_eq!(store.run(another).await.unwrap().unwrap().state, RunState::Queued);
    // Without an id every request is a new one.
    let nameless = SteerRequest {
        request_id: String::new(),
        ..first
    };
    for _ in 0..2 {
        assert!(matches!(store.steer(&nameless).await.unwrap(), Steered::Done(run) if run.state == RunState::Pausing));
        resume(store, id).await;
    }
}

pub(super) async fn ended_runs_are_not_steered(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let limits = Steer::Limits(
        LimitsPatch {
            batch_rows: Some(5),
            ..LimitsPatch::default()
        },
        String::new(),
    );
    let pause = Steer::Pause("lunch".to_owned());
    for steer in [pause.clone(), Steer::Resume, limits.clone()] {
        assert!(matches!(
            store.steer(&ask(RunId::new(), steer)).await.unwrap(),
            Steered::Unknown
        ));
    }
    let (id, fence) = held(store).await;
    store.request_cancel(id, "enough").await.unwrap();
    let cancelling = store.run(id).await.unwrap().unwrap();
    for steer in [pause.clone(), Steer::Resume] {
        let request = ask(id, steer);
        assert!(matches!(store.steer(&request).await.unwrap(), Steered::Refused(run) if run == cancelling));
        // A refusal takes no request id.
        assert!(matches!(store.steer(&request).await.unwrap(), Steered::Refused(run) if run == cancelling));
    }
    store.update(id, fence, &enter(RunState::Cancelled, "enough")).await.unwrap();
    let ended = store.run(id).await.unwrap().unwrap();
    for steer in [pause, Steer::Resume, limits] {
        assert!(matches!(store.steer(&ask(id, steer)).await.unwrap(), Steered::Refused(run) if run == ended));
    }
    assert_eq!(store.run(id).await.unwrap().unwrap(), ended);
}
