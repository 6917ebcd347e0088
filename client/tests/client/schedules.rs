//! Schedules: what is repeated with the same request id, what is sent once, pages, and streams of runs that were fired.

use dbkeep_client::{
    Error, PreviewRequest, ScheduleDraft, ScheduleQuery, ScheduleRunQuery, ScheduleTiming, ScheduleUpdate,
    proto::{RunState, SlotOutcome, preview_schedule_request::Of, timing::When},
};
use tonic::{Code, Status};

use crate::fake::{
    Answer::{Refuse, Stream},
    Call, Fake, RUN, Scheduling,
    Step::Cut,
    progress, refusal, state,
};

fn away() -> Status {
    Status::unavailable("away")
}

#[tokio::test(start_paused = true)]
async fn a_create_repeats_its_request_id() {
    let fake = Fake::new([]);
    fake.state().schedule.id = "s1".into();
    fake.fail_unary([away()]);
    let draft = ScheduleDraft::new("nightly")
        .operation("a")
        .timing(ScheduleTiming::cron("@daily"));
    assert_eq!(fake.client().schedules().create(draft).await.unwrap().id, "s1");
    let calls = fake.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1]);
    let Call::Schedules(Scheduling::Create { request_id, spec }) = &calls[0] else {
        panic!("{calls:?}")
    };
    assert!(!request_id.is_empty());
    assert_eq!(
        (spec.name.as_str(), spec.operations.as_slice()),
        ("nightly", ["a".to_owned()].as_slice())
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_the_same_twice_is_repeated() {
    let fake = Fake::new([]);
    let schedules = fake.client().schedules();
    let mut sent = 0;
    let mut was_repeated = |what: &str| {
        let now = fake.calls().len();
        assert_eq!(now - std::mem::replace(&mut sent, now), 2, "{what}");
        fake.fail_unary([away()]);
    };
    fake.fail_unary([away()]);
    schedules.get("nightly").await.unwrap();
    was_repeated("get");
    schedules
        .update(ScheduleUpdate::new("nightly").etag("7").description("d"))
        .await
        .unwrap();
    was_repeated("update");
    schedules.pause("nightly", "lunch").await.unwrap();
    was_repeated("pause");
    schedules.resume("nightly", "").await.unwrap();
    was_repeated("resume");
    schedules
        .approve("nightly", "7", 10, jiff::Timestamp::UNIX_EPOCH)
        .await
        .unwrap();
    was_repeated("approve");
    schedules.preview(PreviewRequest::of_schedule("nightly")).await.unwrap();
    was_repeated("preview");
    schedules.scheduler_status().await.unwrap();
    was_repeated("status");
    assert!(schedules.start_scheduler().await.unwrap().running);
    was_repeated("start");
    assert!(!schedules.stop_scheduler("release").await.unwrap().running);
    was_repeated("stop");
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_sent_once() {
    let fake = Fake::new([]);
    fake.fail_unary([away()]);
    let schedules = fake.client().schedules();
    assert!(schedules.delete("nightly", "7").await.unwrap_err().is_unavailable());
    assert_eq!(fake.calls().len(), 1);
    schedules.delete("nightly", "7").await.unwrap();
    let delete = Call::Schedules(Scheduling::Delete {
        id: "nightly".into(),
        etag: "7".into(),
    });
    assert_eq!(fake.calls(), [delete.clone(), delete]);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_fired_once_whatever_becomes_of_the_call() {
    // The server is away at first, and then the stream breaks before the run told its id: the same call again, by the same name.
    let fake = Fake::new([Refuse(away()), Stream(vec![Cut]), Stream(vec![state(1, RunState::Succeeded)])]);
    let schedules = fake.client().schedules();
    let run = schedules.run("nightly").await.unwrap().finish().await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded);
    let named: Vec<String> = fake
        .calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::Schedules(Scheduling::Run { id, request_id }) => Some(format!("{id} {request_id}")),
            _ => None,
        })
        .collect();
    assert_eq!(named.len(), 3, "{named:?}");
    assert!(
        named[0].len() > "nightly ".len() && named.iter().all(|name| *name == named[0]),
        "{named:?}"
    );
    // Another call has another name.
    let fake = Fake::new([Stream(vec![state(1, RunState::Succeeded)])]);
    fake.client()
        .schedules()
        .run("nightly")
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    let other = fake.calls().swap_remove(0);
    assert!(
        matches!(&other, Call::Schedules(Scheduling::Run { id, request_id }) if format!("{id} {request_id}") != named[0]),
        "{other:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_fired_is_followed_like_any_other() {
    let fake = Fake::new([Stream(vec![progress(1), Cut]), Stream(vec![state(2, RunState::Succeeded)])]);
    let run = fake
        .client()
        .schedules()
        .run("nightly")
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    assert_eq!(run.id, RUN);
    assert!(matches!(
        &fake.calls()[..],
        [
            Call::Schedules(Scheduling::Run { .. }),
            Call::Watch { after: 1 },
            Call::GetRun
        ]
    ));
}

#[tokio::test(start_paused = true)]
async fn refusals_have_their_variants() {
    let fake = Fake::new([Refuse(refusal(
        Code::FailedPrecondition,
        "STANDING_APPROVAL",
        &[("schedule", "nightly"), ("operations", "a,b"), ("problem", "it has none")],
    ))]);
    let schedules = fake.client().schedules();
    let error = schedules.run("nightly").await.unwrap_err();
    assert!(
        matches!(&error, Error::StandingApproval { operations, .. } if operations == &["a", "b"]),
        "{error:?}"
    );
    fake.fail_unary([refusal(
        Code::Aborted,
        "SCHEDULE_CHANGED",
        &[("schedule", "nightly"), ("etag", "8")],
    )]);
    let update = ScheduleUpdate::new("nightly").etag("7").enabled(false);
    let error = schedules.update(update).await.unwrap_err();
    assert!(
        matches!(&error, Error::ScheduleChanged { etag, .. } if etag == "8"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn pages_are_fetched_to_the_last() {
    let fake = Fake::new([]);
    let schedules = fake.client().schedules();
    let all = schedules.list_all(ScheduleQuery::default().page_size(2)).await.unwrap();
    let ids: Vec<&str> = all.iter().map(|schedule| schedule.id.as_str()).collect();
    assert_eq!(ids, ["s0", "s1", "s2"]);
    let query = ScheduleRunQuery::of("nightly").outcome(SlotOutcome::Skipped).page_size(2);
    let slots = schedules.runs_all(query).await.unwrap();
    let runs: Vec<&str> = slots.iter().map(|slot| slot.run_id.as_str()).collect();
    assert_eq!(runs, ["run-0", "run-1", "run-2"]);
    let asked = Call::Schedules(Scheduling::Runs {
        id: "nightly".into(),
        outcomes: vec![SlotOutcome::Skipped.into()],
    });
    assert_eq!(fake.calls(), [asked.clone(), asked]);
}

#[tokio::test(start_paused = true)]
async fn a_preview_is_of_a_schedule_or_of_a_timing() {
    let fake = Fake::new([]);
    let schedules = fake.client().schedules();
    let timing = ScheduleTiming::cron("0 2 * * *").timezone("Europe/Berlin");
    let times = schedules.preview(PreviewRequest::of_timing(timing).count(3)).await.unwrap();
    assert_eq!(times[0].shift, "moved");
    let calls = fake.calls();
    let Call::Schedules(Scheduling::Preview {
        of: Some(Of::Timing(timing)),
        count: 3,
    }) = &calls[0]
    else {
        panic!("{calls:?}")
    };
    assert_eq!(timing.when, Some(When::Expression("0 2 * * *".into())));
}
