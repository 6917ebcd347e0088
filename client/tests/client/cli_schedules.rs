//! `dbkeep schedules` and `dbkeep status` against the fake server: what is sent, what is shown, and exit codes.

use dbkeep_client::proto::{self, RunState, timing::When};
use tonic::Code;

use crate::{
    cli::{dbkeep, json_lines, one_run, serve, text},
    fake::{Call, Fake, Scheduling, invalid, refusal},
};

fn timestamp(text: &str) -> Option<prost_types::Timestamp> {
    let instant: jiff::Timestamp = text.parse().unwrap();
    Some(prost_types::Timestamp {
        seconds: instant.as_second(),
        nanos: 0,
    })
}

fn nightly() -> proto::Schedule {
    proto::Schedule {
        id: "s1".into(),
        etag: "7".into(),
        spec: Some(proto::ScheduleSpec {
            name: "nightly".into(),
            target: "main".into(),
            operations: vec!["old_logs".into()],
            timing: Some(proto::Timing {
                when: Some(When::Cron(proto::CronFields {
                    minute: "30".into(),
                    hour: "2".into(),
                    day_of_month: "*".into(),
                    month: "*".into(),
                    day_of_week: "*".into(),
                })),
                timezone: "Europe/Berlin".into(),
                exclusions: vec!["12-24..12-26".into()],
                ..Default::default()
            }),
            enabled: Some(true),
            options: Some(proto::ScheduleOptions {
                batch_size: Some(500),
                max_rows: Some(5),
                ..Default::default()
            }),
            notify: Some(proto::NotifyRules {
                on_failure: true,
                channels: vec!["mail".into()],
                recipients: vec!["ops@example.org".into()],
                ..Default::default()
            }),
            ..Default::default()
        }),
        next_run_time: timestamp("2027-01-02T01:30:00Z"),
        last_run_id: "run-9".into(),
        needs_approval: true,
        ..Default::default()
    }
}

fn fake() -> Fake {
    let fake = one_run(RunState::Succeeded);
    {
        let mut state = fake.state();
        state.schedule = nightly();
        state.scheduler = proto::SchedulerStatus {
            running: true,
            open_slot_count: 2,
            next_run_time: timestamp("2027-01-02T01:30:00Z"),
            servers: vec![
                proto::Server {
                    id: "a1".into(),
                    host: "alpha".into(),
                    alive: true,
                    ..Default::default()
                },
                proto::Server {
                    id: "b1".into(),
                    host: "beta".into(),
                    seen_time: timestamp("2027-01-01T00:00:00Z"),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
    }
    fake
}

fn asked(fake: &Fake) -> Vec<Scheduling> {
    fake.calls()
        .into_iter()
        .filter_map(|call| if let Call::Schedules(call) = call { Some(call) } else { None })
        .collect()
}

#[tokio::test]
async fn a_schedule_is_created_as_the_options_say() {
    let fake = fake();
    let arguments = [
        "schedules",
        "create",
        "nightly",
        "--operation",
        "a",
        "--operation",
        "b",
        "--target",
        "main",
        "--minute",
        "30",
        "--hour",
        "2",
        "--timezone",
        "Europe/Berlin",
        "--max-time",
        "30m",
        "--max-fraction",
        "0.5",
        "--overlap",
        "queue-one",
        "--misfire",
        "skip",
        "--catch-up",
        "2h",
        "--jitter",
        "5m",
        "--exclude",
        "12-24..12-26",
        "--on-failure",
        "--channel",
        "mail",
    ];
    let output = dbkeep(serve(&fake).await, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert!(
        told.contains("Schedule nightly is created; its next run is at 2027-01-02 01:30:00Z."),
        "{told}"
    );
    let noted = text(&output.stderr);
    assert!(
        noted.contains("dbkeep schedules approve nightly --max-rows N --until DATE"),
        "{noted}"
    );
    let [Scheduling::Create { spec, .. }] = &asked(&fake)[..] else {
        panic!("{:?}", fake.calls())
    };
    assert_eq!(spec.operations, ["a", "b"]);
    let timing = spec.timing.as_ref().unwrap();
    let Some(When::Cron(fields)) = &timing.when else {
        panic!("{timing:?}")
    };
    assert_eq!(
        [
            &fields.minute,
            &fields.hour,
            &fields.day_of_month,
            &fields.month,
            &fields.day_of_week
        ],
        ["30", "2", "*", "*", "*"]
    );
    assert_eq!((timing.jitter.unwrap().seconds, timing.exclusions.len()), (300, 1));
    let options = spec.options.as_ref().unwrap();
    assert_eq!(
        (
            options.max_execution_time.unwrap().seconds,
            options.max_fraction,
            options.dry_run
        ),
        (1800, Some(0.5), false)
    );
    assert_eq!(
        (spec.overlap(), spec.misfire(), spec.catch_up.unwrap().seconds),
        (proto::OverlapPolicy::QueueOne, proto::MisfirePolicy::Skip, 7200)
    );
    let notify = spec.notify.as_ref().unwrap();
    assert!(notify.on_failure && !notify.on_success && notify.channels == ["mail"]);
}

#[tokio::test]
async fn every_mistake_of_a_create_is_printed() {
    let fake = fake();
    let address = serve(&fake).await;
    let mistakes = || {
        invalid(&[
            ("spec.timing.cron.minute", "is \"61\"; expected 0 to 59"),
            ("spec.timing.timezone", "is \"Nowhere\"; expected an IANA name"),
            ("spec.operations[0]", "is \"x\"; expected an operation of main"),
        ])
    };
    fake.fail_unary([mistakes(), mistakes()]);
    let arguments = [
        "schedules",
        "create",
        "n",
        "--operation",
        "x",
        "--cron",
        "61 0 * * *",
        "--timezone",
        "Nowhere",
    ];
    let output = dbkeep(address, &arguments).await;
    assert_eq!(output.status.code(), Some(2));
    let noted = text(&output.stderr);
    for words in [
        "(INVALID_FIELD)",
        "spec.timing.cron.minute: is \"61\"; expected 0 to 59",
        "spec.timing.timezone: is \"Nowhere\"; expected an IANA name",
        "spec.operations[0]: is \"x\"; expected an operation of main",
    ] {
        assert!(noted.contains(words), "{words}: {noted}");
    }
    let output = dbkeep(address, &[&arguments[..], &["-o", "json"]].concat()).await;
    let error: serde_json::Value = serde_json::from_str(&text(&output.stderr)).unwrap();
    assert_eq!(error["error"]["violations"].as_array().unwrap().len(), 3);
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn an_update_sends_what_was_given_and_keeps_the_rest() {
    let fake = fake();
    let address = serve(&fake).await;
    let arguments = [
        "schedules",
        "update",
        "nightly",
        "--hour",
        "3",
        "--max-rows",
        "none",
        "--description",
        "later",
    ];
    let output = dbkeep(address, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let calls = asked(&fake);
    let [Scheduling::Get { .. }, Scheduling::Update { id, etag, paths, spec }] = &calls[..] else {
        panic!("{calls:?}")
    };
    assert_eq!(
        (id.as_str(), etag.as_str()),
        ("s1", "7"),
        "somebody's change in between would be lost"
    );
    assert_eq!(paths, &["description", "timing", "options"]);
    let timing = spec.timing.as_ref().unwrap();
    assert_eq!((timing.timezone.as_str(), timing.exclusions.len()), ("Europe/Berlin", 1));
    let Some(When::Cron(fields)) = &timing.when else {
        panic!("{timing:?}")
    };
    assert_eq!((fields.minute.as_str(), fields.hour.as_str()), ("30", "3"));
    let options = spec.options.as_ref().unwrap();
    assert_eq!((options.batch_size, options.max_rows), (Some(500), None));
    let output = dbkeep(address, &["schedules", "update", "nightly", "--etag", "5"]).await;
    assert_eq!(output.status.code(), Some(2), "nothing to change");
    let output = dbkeep(address, &["schedules", "update", "nightly", "--etag", "5", "--disabled"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(matches!(
        asked(&fake).last(),
        Some(Scheduling::Update { etag, paths, spec, .. }) if etag == "5" && paths == &["enabled"] && spec.enabled == Some(false)
    ));
}

#[tokio::test]
async fn lists_and_details_are_tables_or_one_json_object() {
    let fake = fake();
    let address = serve(&fake).await;
    for (arguments, key) in [
        (&["schedules", "list"][..], "schedules"),
        (&["schedules", "show", "nightly"], "schedule"),
        (&["schedules", "pause", "nightly", "--reason", "release"], "schedule"),
        (&["schedules", "resume", "nightly"], "schedule"),
        (
            &["schedules", "resume", "nightly", "--reason", "it is whole again"],
            "schedule",
        ),
        (&["schedules", "runs"], "schedule_runs"),
        (&["schedules", "runs", "nightly", "--outcome", "skipped"], "schedule_runs"),
        (&["schedules", "preview", "nightly"], "times"),
        (&["schedules", "preview", "--cron", "@daily"], "times"),
        (&["schedules", "scheduler"], "scheduler"),
        (&["schedules", "scheduler", "stop", "--reason", "release"], "scheduler"),
        (&["schedules", "scheduler", "start"], "scheduler"),
        (&["status"], "scheduler"),
    ] {
        let output = dbkeep(address, arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty());
        let lines = json_lines(&dbkeep(address, &[arguments, &["-o", "json"]].concat()).await);
        assert_eq!(lines.len(), 1, "{arguments:?}");
        assert!(!lines[0][key].is_null(), "{arguments:?}: {}", lines[0]);
    }
    let noted = |call: &Scheduling| matches!(call, Scheduling::Resume { note } if note == "it is whole again");
    assert!(asked(&fake).iter().any(noted), "why it goes on is told");
    let lines = json_lines(&dbkeep(address, &["schedules", "list", "--limit", "2", "-o", "json"]).await);
    assert_eq!(
        (lines[0]["schedules"].as_array().unwrap().len(), &lines[0]["more"]),
        (2, &true.into())
    );
    assert_eq!(lines[0]["schedules"][0]["timing"]["cron"], "30 2 * * *");
}

#[tokio::test]
async fn a_schedule_shows_what_it_needs_and_who_hears_of_it() {
    let fake = fake();
    let address = serve(&fake).await;
    let told = text(&dbkeep(address, &["schedules", "show", "nightly"]).await.stdout);
    let flat: String = told.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "30 2 * * * Europe/Berlin",
        "2027-01-02 01:30:00Z",
        "run-9",
        "of failure over mail (ops@example.org)",
        "dbkeep schedules approve nightly --max-rows N --until DATE",
        "dbkeep schedules runs nightly",
    ] {
        assert!(flat.contains(words), "{words}: {told}");
    }
    let mut schedule = nightly();
    schedule.approval = Some(proto::StandingApproval {
        by: "bob".into(),
        max_rows: 1000,
        expire_time: timestamp("2027-06-01T00:00:00Z"),
        ..Default::default()
    });
    schedule.pause = Some(proto::SchedulePause {
        by: "ann".into(),
        note: "release".into(),
        ..Default::default()
    });
    fake.state().schedule = schedule;
    let told = text(&dbkeep(address, &["schedules", "show", "nightly"]).await.stdout);
    assert!(told.contains("1,000 rows until 2027-06-01 00:00:00Z, by bob"), "{told}");
    assert!(told.contains("paused by ann at -: release"), "{told}");
}

#[tokio::test]
async fn slots_tell_their_outcome_reason_and_run() {
    let fake = fake();
    let address = serve(&fake).await;
    let told = text(&dbkeep(address, &["schedules", "runs", "nightly"]).await.stdout);
    for words in ["1970-01-01 00:00:00Z", "skipped", "the run before it had not ended", "run-2"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // Of all schedules, each slot has the name of its own.
    let told = text(&dbkeep(address, &["schedules", "runs"]).await.stdout);
    assert!(told.contains("nightly"), "{told}");
}

#[tokio::test]
async fn the_status_tells_who_is_alive() {
    let fake = fake();
    let address = serve(&fake).await;
    let told = text(&dbkeep(address, &["status"]).await.stdout);
    for words in [
        "running",
        "2027-01-02 01:30:00Z",
        "alpha",
        "alive",
        "beta",
        "gone",
        "2027-01-01 00:00:00Z",
        "sqlite",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let lines = json_lines(&dbkeep(address, &["status", "-o", "json"]).await);
    assert_eq!(lines[0]["scheduler"]["open_slot_count"], 2);
    assert_eq!(lines[0]["scheduler"]["servers"][1]["alive"], false);
    assert_eq!(lines[0]["targets"][0]["name"], "main");
    fake.state().scheduler.running = false;
    let told = text(&dbkeep(address, &["status"]).await.stdout);
    assert!(told.contains("dbkeep schedules scheduler start"), "{told}");
}

#[tokio::test]
async fn a_schedule_that_is_fired_streams_its_run() {
    let fake = fake();
    let output = dbkeep(serve(&fake).await, &["schedules", "run", "nightly", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let types: Vec<_> = json_lines(&output).iter().map(|line| line["type"].clone()).collect();
    assert_eq!(types, ["state_changed", "progress", "state_changed", "run"]);
    assert!(matches!(asked(&fake).last(), Some(Scheduling::Run { id, .. }) if id == "s1"));
}

#[tokio::test]
async fn what_goes_or_is_approved_is_asked_about() {
    let fake = fake();
    let address = serve(&fake).await;
    let approve = ["schedules", "approve", "nightly", "--max-rows", "10", "--until", "2027-06-30"];
    for arguments in [&["schedules", "delete", "nightly"][..], &approve] {
        let output = dbkeep(address, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: nobody can be asked");
    }
    assert!(asked(&fake).iter().all(|call| matches!(call, Scheduling::Get { .. })));
    let output = dbkeep(address, &["schedules", "delete", "nightly", "--yes", "-o", "json"]).await;
    assert_eq!(text(&output.stdout), "{\"deleted\":{\"id\":\"s1\",\"name\":\"nightly\"}}\n");
    let delete = Scheduling::Delete {
        id: "s1".into(),
        etag: "7".into(),
    };
    assert_eq!(asked(&fake).last(), Some(&delete));
    let until = jiff::Timestamp::from_second(1_814_400_000).unwrap();
    assert_eq!(until.to_string(), "2027-07-01T00:00:00Z");
    for (consent, etag) in [(&["--yes"][..], "7"), (&["--etag", "6"], "6")] {
        let output = dbkeep(address, &[&approve[..], consent].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let approved = Scheduling::Approve {
            etag: etag.into(),
            max_rows: 10,
            until: until.as_second(),
        };
        assert_eq!(asked(&fake).last(), Some(&approved));
    }
}

#[tokio::test]
async fn refusals_have_exit_codes_and_the_next_command() {
    let fake = fake();
    let address = serve(&fake).await;
    for (reason, metadata, code, words) in [
        ("UNKNOWN_SCHEDULE", &[("schedule", "x")][..], 1, "dbkeep schedules list"),
        (
            "SCHEDULE_CHANGED",
            &[("schedule", "x"), ("etag", "8")],
            4,
            "dbkeep schedules show x",
        ),
        (
            "SCHEDULE_EXISTS",
            &[("name", "x"), ("schedule", "s2")],
            4,
            "dbkeep schedules update x",
        ),
        ("SCHEDULE_BUSY", &[("schedule", "x")], 4, "dbkeep schedules runs x"),
        (
            "STANDING_APPROVAL",
            &[("schedule", "x")],
            4,
            "schedules approve x --max-rows N --until DATE",
        ),
        (
            "SLOT_REFUSED",
            &[("schedule", "x"), ("problem", "p")],
            4,
            "dbkeep schedules runs x",
        ),
        (
            "APPROVAL_REFUSED",
            &[("schedule", "x"), ("problem", "same_principal")],
            4,
            "schedules approve x",
        ),
    ] {
        fake.fail_unary([refusal(Code::FailedPrecondition, reason, metadata)]);
        let output = dbkeep(address, &["schedules", "show", "x"]).await;
        assert_eq!(output.status.code(), Some(code), "{reason}");
        let noted = text(&output.stderr);
        assert!(noted.contains(reason) && noted.contains(words), "{reason}: {noted}");
    }
}
