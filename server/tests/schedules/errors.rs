//! Bad input: everything that is wrong, in one answer, by the names of the .proto files, and with what may have been meant.

use dbkeep_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    told::mail,
    world::{Server, World, once_a_year},
};

fn fields(status: &tonic::Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let bad = details.bad_request().expect("violations");
    bad.field_violations
        .iter()
        .map(|violation| (violation.field.clone(), violation.description.clone()))
        .collect()
}

/// A spec with a mistake in nearly every field. Some are found where the message is read, and some where its meaning is.
fn nonsense() -> v1::ScheduleSpec {
    v1::ScheduleSpec {
        name: format!("{}\u{7}", "x".repeat(100)),
        description: "y".repeat(501),
        target: "app".to_owned(),
        operations: vec!["expired_token".to_owned()],
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Cron(v1::CronFields {
                minute: "60,99".to_owned(),
                hour: "*/0".to_owned(),
                day_of_month: "*".to_owned(),
                month: "JANUARY".to_owned(),
                day_of_week: "8".to_owned(),
            })),
            timezone: "Europe/Berln".to_owned(),
            exclusions: vec!["christmas".to_owned()],
            jitter: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            ..v1::Timing::default()
        }),
        options: Some(v1::ScheduleOptions {
            batch_size: Some(0),
            max_fraction: Some(1.5),
            max_execution_time: Some(prost_types::Duration { seconds: 59, nanos: 0 }),
            ..v1::ScheduleOptions::default()
        }),
        catch_up: Some(prost_types::Duration {
            seconds: 604_801,
            nanos: 0,
        }),
        deadline: Some(prost_types::Duration { seconds: 1, nanos: 5 }),
        notify: Some(v1::NotifyRules {
            on_failure: true,
            recipients: vec!["no address".to_owned(), "ops@example..org".to_owned()],
            channels: vec![
                "carrier_pigeon".to_owned(),
                "http://10.0.0.1/hook".to_owned(),
                "mial".to_owned(),
            ],
            ..v1::NotifyRules::default()
        }),
        ..v1::ScheduleSpec::default()
    }
}

/// What is said of it, by field; as often as a field stands there it has to be told.
static WRONG: [(&str, &str); 22] = [
    ("spec.name", "1 to 100"),
    ("spec.name", "control characters"),
    ("spec.description", "500"),
    ("spec.operations[0]", "did you mean expired_tokens?"),
    ("spec.timing.cron.minute", "\"60\" is out of range; expected 0 to 59"),
    ("spec.timing.cron.minute", "\"99\" is out of range; expected 0 to 59"),
    ("spec.timing.cron.hour", "expected"),
    ("spec.timing.cron.month", "did you mean JAN?"),
    ("spec.timing.cron.day_of_week", "0 to 7"),
    ("spec.timing.timezone", "did you mean Europe/Berlin?"),
    ("spec.timing.exclusions[0]", "expected"),
    ("spec.timing.jitter", "whole seconds"),
    ("spec.options.batch_size", "1 to 10000"),
    ("spec.options.max_fraction", "over 0 up to 1"),
    ("spec.options.max_execution_time", "60 to 7200"),
    ("spec.catch_up", "0 to 604800"),
    ("spec.deadline", "whole seconds"),
    ("spec.notify.channels[0]", "expected one of"),
    ("spec.notify.channels[1]", "by https to a public address"),
    ("spec.notify.channels[2]", "did you mean mail?"),
    ("spec.notify.recipients[0]", "expected local@domain"),
    ("spec.notify.recipients[1]", "is no domain"),
];

fn tells(status: &tonic::Status, wrong: &[(&str, &str)]) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let found = fields(status);
    for (field, meant) in wrong {
        let known = found.iter().any(|(name, problem)| name == field && problem.contains(meant));
        assert!(known, "{field} with {meant:?} among {found:#?}");
    }
    assert_eq!(
        found.len(),
        wrong.len(),
        "each once, and nothing that follows from another: {found:#?}"
    );
}

async fn with_mail() -> (World, Server) {
    let world = World::new("sqlite").await;
    let server = world.serve(|config| config.with_channel(mail(&[]))).await;
    (world, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_in_one_answer() {
    let (_world, server) = with_mail().await;
    let create = |spec: v1::ScheduleSpec, request_id: &str| v1::CreateScheduleRequest {
        spec: Some(spec),
        request_id: request_id.to_owned(),
    };
    let refused = server.schedules().create_schedule(create(nonsense(), &"r".repeat(65))).await;
    let with_id = [&WRONG[..], &[("request_id", "64")]].concat();
    tells(&refused.expect_err("nonsense"), &with_id);
    // A channel that sends e-mail, and nobody to send it to; and no name.
    let nobody = v1::ScheduleSpec {
        name: String::new(),
        notify: Some(v1::NotifyRules {
            on_success: true,
            channels: vec!["email".to_owned(), "mail".to_owned()],
            ..v1::NotifyRules::default()
        }),
        ..once_a_year("")
    };
    let refused = server.schedules().create_schedule(create(nobody, "")).await;
    let wrong = [
        ("spec.name", "is empty; expected 1 to 100 characters"),
        ("spec.notify.recipients", "needs an address"),
    ];
    tells(&refused.expect_err("nobody is told"), &wrong);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_a_change_is_in_one_answer() {
    let (_world, server) = with_mail().await;
    let schedule = server.create(once_a_year("tokens")).await;
    let update = |etag: &str, paths: &[&str]| v1::UpdateScheduleRequest {
        id: schedule.id.clone(),
        etag: etag.to_owned(),
        spec: Some(nonsense()),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
    };
    let refused = server.schedules().update_schedule(update("", &[])).await;
    tells(&refused.expect_err("nonsense"), &WRONG);
    // What the mask does not name is not looked at, and what is wrong with the mask is in the answer as well.
    let refused = server
        .schedules()
        .update_schedule(update("x", &["description", "deadline", "nam"]))
        .await;
    let wrong = [
        ("etag", "as it was read"),
        ("update_mask.paths[2]", "expected one of name,"),
        ("spec.deadline", "whole seconds"),
        ("spec.description", "500"),
    ];
    tells(&refused.expect_err("nonsense"), &wrong);
    assert_eq!(server.get(&schedule.id).await.etag, schedule.etag, "nothing was changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_a_preview_is_in_one_answer() {
    let (_world, server) = with_mail().await;
    let request = v1::PreviewScheduleRequest {
        of: nonsense().timing.map(v1::preview_schedule_request::Of::Timing),
        count: 1_001,
        after: None,
    };
    let refused = server.schedules().preview_schedule(request).await;
    let of_timing = WRONG.iter().filter_map(|(field, meant)| {
        field
            .strip_prefix("spec.")
            .filter(|field| field.starts_with("timing"))
            .map(|field| (field, *meant))
    });
    let wrong: Vec<(&str, &str)> = of_timing.chain([("count", "1 to 1000")]).collect();
    tells(&refused.expect_err("nonsense"), &wrong);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_fires_and_what_is_unknown_is_refused() {
    let world = World::new("sqlite").await;
    let server = world.serve(|config| config).await;
    for (expression, field) in [
        ("0 0 30 2 *", "spec.timing.cron.day_of_month"),
        ("0 0 * * * *", "spec.timing.expression"),
        ("@reboot", "spec.timing.expression"),
    ] {
        let spec = v1::ScheduleSpec {
            timing: Some(v1::Timing {
                when: Some(v1::timing::When::Expression(expression.to_owned())),
                ..v1::Timing::default()
            }),
            ..once_a_year("never")
        };
        let request = v1::CreateScheduleRequest {
            spec: Some(spec),
            request_id: String::new(),
        };
        let status = server.schedules().create_schedule(request).await.expect_err(expression);
        let found = fields(&status);
        assert!(found.iter().any(|(name, _)| name == field), "{expression}: {found:?}");
    }
    let unknown = server
        .schedules()
        .get_schedule(v1::GetScheduleRequest { id: "nobody".to_owned() })
        .await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    let update = v1::UpdateScheduleRequest {
        id: "declared".to_owned(),
        etag: String::new(),
        spec: Some(v1::ScheduleSpec::default()),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["nam".to_owned()],
        }),
    };
    let status = server
        .schedules()
        .update_schedule(update)
        .await
        .expect_err("an unknown field");
    assert_eq!(fields(&status)[0].0, "update_mask.paths[0]");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_tells_of_clocks_and_windows() {
    let world = World::new("sqlite").await;
    let server = world.serve(|config| config).await;
    let request = v1::PreviewScheduleRequest {
        of: Some(v1::preview_schedule_request::Of::Timing(v1::Timing {
            when: Some(v1::timing::When::Expression("30 2 * * *".to_owned())),
            timezone: "Europe/Berlin".to_owned(),
            exclusions: vec!["2027-03-29..2027-03-29".to_owned()],
            ..v1::Timing::default()
        })),
        count: 3,
        // The day before the clock goes forward in 2027.
        after: Some(prost_types::Timestamp {
            seconds: "2027-03-27T12:00:00Z"
                .parse::<jiff::Timestamp>()
                .expect("an instant")
                .as_second(),
            nanos: 0,
        }),
    };
    let times = server
        .schedules()
        .preview_schedule(request)
        .await
        .expect("a preview")
        .into_inner()
        .times;
    assert_eq!(times.len(), 3);
    assert!(times[0].local.starts_with("2027-03-28T03:00:00+02:00"), "{}", times[0].local);
    assert!(times[0].shift.contains("does not exist"), "{}", times[0].shift);
    assert!(!times[1].excluded_by.is_empty() && times[2].excluded_by.is_empty());
    server.stop().await;
}
