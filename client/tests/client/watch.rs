//! Streams: no gap, no repeat, whatever breaks.

use std::time::Duration;

use dbkeep_client::{
    Client, Connection, CreateRequest, Error, ReconnectPolicy, RestoreRequest, RunRequest, RunStream,
    proto::{RunEvent, RunState, run_event::Event},
};
use futures::StreamExt as _;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::fake::{
    Answer::{Refuse, Stream},
    Call, Fake, RUN,
    Step::{Cut, Fail, Hang, Silence},
    coalesced, history_lost, progress, refusal, shutting_down, state,
};

/// Reads a stream to its end: the sequences of its events, and the error that ended it.
async fn read(stream: &mut RunStream) -> (Vec<u64>, Option<Error>) {
    let mut sequences = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => sequences.push(event.sequence),
            Err(error) => {
                assert!(stream.next().await.is_none(), "a stream ends with its error");
                return (sequences, Some(error));
            }
        }
    }
    assert!(stream.next().await.is_none(), "a stream that ended stays so");
    (sequences, None)
}

async fn run(fake: &Fake) -> RunStream {
    fake.client()
        .cleanup()
        .run(RunRequest::new(["a"]).execute().request_id("id"))
        .await
        .unwrap()
}

fn run_call() -> Call {
    Call::Run {
        request_id: "id".into(),
        phrase: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_is_followed_to_its_end_and_read() {
    let fake = Fake::new([Stream(vec![
        state(1, RunState::Running),
        progress(2),
        state(3, RunState::Succeeded),
        Hang,
    ])]);
    let mut stream = run(&fake).await;
    assert_eq!((stream.run_id(), stream.last_sequence()), (None, 0));
    // The end is the state, not the server's closing of the stream: `Hang` never closes it.
    let (sequences, error) = read(&mut stream).await;
    assert_eq!((sequences, error.is_none()), (vec![1, 2, 3], true));
    assert_eq!((stream.run_id(), stream.last_sequence()), (Some(RUN), 3));
    assert_eq!(stream.finish().await.unwrap().id, RUN);
    assert_eq!(fake.calls(), [run_call(), Call::GetRun]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_is_resumed_after_the_last_event() {
    let fake = Fake::new([
        Stream(vec![state(1, RunState::Running), progress(2), Cut]),
        Stream(vec![progress(3), Cut]),
        Stream(vec![progress(4), state(5, RunState::Succeeded)]),
    ]);
    let mut stream = run(&fake).await;
    assert_eq!(read(&mut stream).await.0, [1, 2, 3, 4, 5]);
    assert_eq!(fake.calls(), [run_call(), Call::Watch { after: 2 }, Call::Watch { after: 3 }]);
    assert_eq!(fake.connections(), 3);
}

#[tokio::test(start_paused = true)]
async fn undo_and_verify_are_resumed_in_the_same_way() {
    let script = || [Stream(vec![progress(1), Cut]), Stream(vec![state(2, RunState::Succeeded)])];
    let fake = Fake::new(script());
    assert_eq!(read(&mut fake.client().runs().undo(RUN).await.unwrap()).await.0, [1, 2]);
    assert!(matches!(&fake.calls()[..], [Call::Undo { .. }, Call::Watch { after: 1 }]));
    let fake = Fake::new(script());
    assert_eq!(read(&mut fake.client().backups().verify(RUN).await.unwrap()).await.0, [1, 2]);
    assert!(matches!(&fake.calls()[..], [Call::Verify { .. }, Call::Watch { after: 1 }]));
    let fake = Fake::new(script());
    let create = CreateRequest::new().target("main").table("a");
    assert_eq!(
        read(&mut fake.client().backups().create(create).await.unwrap()).await.0,
        [1, 2]
    );
    assert!(matches!(&fake.calls()[..], [Call::Backup { .. }, Call::Watch { after: 1 }]));
    let fake = Fake::new(script());
    let restore = RestoreRequest::in_place(RUN, "main/run-1").replace().table("a");
    assert_eq!(
        read(&mut fake.client().backups().restore(restore).await.unwrap()).await.0,
        [1, 2]
    );
    assert!(matches!(&fake.calls()[..], [Call::Restore { .. }, Call::Watch { after: 1 }]));
}

#[tokio::test(start_paused = true)]
async fn before_the_first_event_the_same_call_is_sent_with_the_same_request_id() {
    let fake = Fake::new([
        Refuse(Status::unavailable("not yet")),
        Stream(vec![Cut]),
        Stream(vec![Fail(shutting_down(Duration::from_secs(1)))]),
        Stream(vec![state(1, RunState::Succeeded)]),
    ]);
    assert_eq!(read(&mut run(&fake).await).await.0, [1]);
    assert_eq!(fake.calls(), vec![run_call(); 4]);
}

#[tokio::test(start_paused = true)]
async fn a_request_id_is_made_up_once() {
    let fake = Fake::new([Stream(vec![Cut]), Stream(vec![state(1, RunState::Succeeded)])]);
    let stream = fake.client().cleanup().run(RunRequest::new(["a"])).await.unwrap();
    stream.finish().await.unwrap();
    let calls = fake.calls();
    assert_eq!(calls[0], calls[1]);
    assert!(matches!(&calls[0], Call::Run { request_id, .. } if !request_id.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn shutting_down_is_waited_for_as_long_as_the_server_asks() {
    let fake = Fake::new([
        Stream(vec![progress(1), Fail(shutting_down(Duration::from_secs(30)))]),
        Refuse(refusal(Code::ResourceExhausted, "TOO_MANY_STREAMS", &[("limit", "1")])),
        Stream(vec![state(2, RunState::Succeeded)]),
    ]);
    let mut stream = run(&fake).await;
    let connection = stream.connection();
    let start = Instant::now();
    assert_eq!(read(&mut stream).await.0, [1, 2]);
    assert!(
        start.elapsed() >= Duration::from_secs(30) && start.elapsed() < Duration::from_secs(40),
        "{:?}",
        start.elapsed()
    );
    assert!(connection.has_changed().is_err() || *connection.borrow() == Connection::Open);
}

#[tokio::test(start_paused = true)]
async fn the_connection_is_told_while_it_is_away() {
    let fake = Fake::new([Stream(vec![progress(1), Fail(shutting_down(Duration::from_secs(30)))])]);
    let mut stream = run(&fake).await;
    let mut connection = stream.connection();
    stream.next().await.unwrap().unwrap();
    tokio::select! {
        event = stream.next() => panic!("{event:?}"),
        changed = connection.changed() => changed.unwrap(),
    }
    let Connection::Lost { problem, retry_in } = connection.borrow().clone() else {
        panic!("still open")
    };
    assert!(
        problem.contains("shutting down") && retry_in >= Duration::from_secs(30),
        "{problem}, {retry_in:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_came_before_is_dropped() {
    let fake = Fake::new([
        Stream(vec![progress(1), progress(2), progress(2), progress(1), progress(3), Cut]),
        Stream(vec![progress(2), progress(3), progress(4), state(5, RunState::Failed)]),
    ]);
    assert_eq!(read(&mut run(&fake).await).await.0, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn coalesced_events_are_no_gap() {
    let fake = Fake::new([
        Stream(vec![progress(1), coalesced(5, 3), Cut]),
        Stream(vec![coalesced(9, 3), state(10, RunState::Succeeded)]),
    ]);
    let mut stream = run(&fake).await;
    assert_eq!(read(&mut stream).await.0, [1, 5, 9, 10]);
    assert_eq!(fake.calls()[1], Call::Watch { after: 5 });
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_an_error_and_names_what_is_missing() {
    let fake = Fake::new([Stream(vec![progress(1), coalesced(5, 2), progress(6)])]);
    let (sequences, error) = read(&mut run(&fake).await).await;
    assert_eq!(sequences, [1]);
    assert!(matches!(error, Some(Error::SequenceGap { run, expected: 2, found: 5, coalesced: 2 }) if run == RUN));
}

#[tokio::test(start_paused = true)]
async fn lost_history_is_told_and_the_stream_goes_on_from_there() {
    let fake = Fake::new([
        Stream(vec![progress(1), Cut]),
        Stream(vec![history_lost(50), progress(50), Cut]),
        // What is lost no longer concerns this reader: it is at 50.
        Stream(vec![history_lost(51), state(51, RunState::Succeeded)]),
    ]);
    let events: Vec<RunEvent> = run(&fake).await.map(|event| event.unwrap()).collect().await;
    assert_eq!(events.len(), 4);
    assert!(matches!(&events[1].event, Some(Event::HistoryLost(lost)) if lost.first_available_sequence == 50));
    assert_eq!([events[0].sequence, events[2].sequence, events[3].sequence], [1, 50, 51]);
    assert_eq!(fake.calls()[2], Call::Watch { after: 50 });
}

#[tokio::test(start_paused = true)]
async fn interrupted_is_not_the_end() {
    let fake = Fake::new([
        // The server closes the stream, as one that shuts down does.
        Stream(vec![state(1, RunState::Running), state(2, RunState::Interrupted)]),
        Stream(vec![state(3, RunState::Running), state(4, RunState::PartiallySucceeded)]),
    ]);
    fake.set_run(|run| run.set_state(RunState::Interrupted));
    assert_eq!(read(&mut run(&fake).await).await.0, [1, 2, 3, 4]);
    assert_eq!(fake.calls(), [run_call(), Call::GetRun, Call::Watch { after: 2 }]);
}

#[tokio::test(start_paused = true)]
async fn watching_an_ended_run_after_its_last_event_ends_at_once() {
    let fake = Fake::new([Stream(vec![])]);
    fake.set_run(|run| run.last_sequence = 9);
    let mut stream = fake.client().runs().watch_after(RUN, 9).await.unwrap();
    assert_eq!(stream.run_id(), Some(RUN));
    let (sequences, error) = read(&mut stream).await;
    assert!(sequences.is_empty() && error.is_none());
    assert_eq!(fake.calls(), [Call::Watch { after: 9 }, Call::GetRun]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_closed_before_its_last_event_is_resumed_though_the_run_has_ended() {
    let fake = Fake::new([
        Stream(vec![progress(1)]),
        Stream(vec![progress(2), state(3, RunState::Succeeded)]),
    ]);
    fake.set_run(|run| run.last_sequence = 3);
    assert_eq!(read(&mut run(&fake).await).await.0, [1, 2, 3]);
    assert_eq!(fake.calls(), [run_call(), Call::GetRun, Call::Watch { after: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn without_contact_the_stream_gives_up_after_five_minutes() {
    let fake = Fake::new([Stream(vec![progress(1), Cut])]);
    let mut stream = run(&fake).await;
    let start = Instant::now();
    let (sequences, error) = read(&mut stream).await;
    assert_eq!(sequences, [1]);
    let Some(Error::LostContact {
        run,
        last_sequence,
        last_error,
        ..
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((run.as_deref(), last_sequence), (Some(RUN), 1));
    assert!(last_error.is_unavailable());
    let minutes_5 = Duration::from_secs(300);
    assert!(
        start.elapsed() > minutes_5 - Duration::from_secs(15) && start.elapsed() <= minutes_5,
        "{:?}",
        start.elapsed()
    );
    // Backoff: some dozens of attempts, not thousands.
    assert!((20..80).contains(&fake.calls().len()), "{}", fake.calls().len());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_calls_and_breaks_them_is_no_contact() {
    let fake = Fake::new(
        std::iter::once(Stream(vec![progress(1), Cut])).chain((0..1000).map(|_| Stream(vec![Fail(Status::unavailable("no"))]))),
    );
    let (_, error) = read(&mut run(&fake).await).await;
    assert!(matches!(error, Some(Error::LostContact { .. })), "{error:?}");
    assert!(fake.calls().len() < 80, "{}", fake.calls().len());
}

#[tokio::test(start_paused = true)]
async fn giving_up_can_be_had_sooner() {
    let fake = Fake::new([Stream(vec![progress(1), Cut])]);
    let client = fake.client_with(Client::builder().reconnect(ReconnectPolicy::never()));
    let mut stream = client.runs().watch(RUN).await.unwrap();
    assert!(matches!(read(&mut stream).await.1, Some(Error::LostContact { .. })));
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_run_over_a_healthy_connection_is_never_given_up() {
    let hour = Duration::from_secs(3600);
    let fake = Fake::new([
        Stream(vec![progress(1), Silence(hour), Cut]),
        Stream(vec![Silence(hour), Cut]),
        Stream(vec![Silence(hour), state(2, RunState::Cancelled)]),
    ]);
    assert_eq!(read(&mut run(&fake).await).await.0, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_is_told_at_once() {
    let required = || {
        refusal(
            Code::FailedPrecondition,
            "PLAN_REQUIRED",
            &[("operation", "a"), ("severity", "HIGH")],
        )
    };
    let fake = Fake::new([Refuse(required())]);
    let error = fake
        .client()
        .cleanup()
        .run(RunRequest::new(["a"]).execute())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::PlanRequired { severity, .. } if severity == "HIGH"));
    assert_eq!(fake.calls().len(), 1);
    // Also where the refusal comes inside the stream, and where it meets a resumed one.
    let fake = Fake::new([Stream(vec![Fail(required())])]);
    assert!(matches!(
        read(&mut run(&fake).await).await.1,
        Some(Error::PlanRequired { .. })
    ));
    let gone = refusal(Code::NotFound, "UNKNOWN_RUN", &[("run", RUN)]);
    let fake = Fake::new([Stream(vec![progress(1), Cut]), Refuse(gone)]);
    assert!(matches!(read(&mut run(&fake).await).await.1, Some(Error::UnknownRun { .. })));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_event_may_be_given_up_and_taken_up_again() {
    let fake = Fake::new([Stream(vec![
        progress(1),
        Silence(Duration::from_secs(60)),
        state(2, RunState::Succeeded),
    ])]);
    let mut stream = run(&fake).await;
    stream.next().await.unwrap().unwrap();
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_secs(10), stream.next()).await.is_err());
    }
    assert_eq!(read(&mut stream).await.0, [2]);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_limits_streams_in_time_is_no_end() {
    let fake = Fake::new([
        Stream(vec![
            progress(1),
            Fail(Status::deadline_exceeded("stream limit of the proxy")),
        ]),
        Stream(vec![state(2, RunState::Succeeded)]),
    ]);
    let mut stream = run(&fake).await;
    // Also read in a task of its own, as a caller with more to do would.
    let read = tokio::spawn(async move { read(&mut stream).await.0 });
    assert_eq!(read.await.unwrap(), [1, 2]);
}
