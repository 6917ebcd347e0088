//! Bad input: everything that is wrong, in one answer, by the names of the .proto files, and with what may have been meant.

use dbkeep_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::world::{World, once_a_year};

fn fields(status: &tonic::Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let bad = details.bad_request().expect("violations");
    bad.field_violations
        .iter()
        .map(|violation| (violation.field.clone(), violation.description.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_in_one_answer() {
    let world = World::new("sqlite").await;
    let server = world.serve(|config| config).await;
    let spec = v1::ScheduleSpec {
        name: "x".repeat(101),
        description: "y".repeat(501),
        target: "app".to_owned(),
        operations: vec!["expired_token".to_owned()],
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Cron(v1::CronFields {
                minute: "60".to_owned(),
                hour: "*/0".to_owned(),
                day_of_month: "*".to_owned(),
                month: "JANUARY".to_owned(),
                day_of_week: "8".to_owned(),
            })),
            timezone: "Europe/Berln".to_owned(),
            exclusions: vec!["christmas".to_owned()],
            ..v1::Timing::default()
        }),
        options: Some(v1::ScheduleOptions {
            batch_size: Some(0),
            max_fraction: Some(1.5),
            max_execution_time: Some(prost_types::Duration { seconds: 59, nanos: 0 }),
            ..v1::ScheduleOptions::default()
        }),
        deadline: Some(prost_types::Duration { seconds: 1, nanos: 5 }),
        notify: Some(v1::NotifyRules {
            on_failure: true,
            recipients: vec!["no address".to_owned()],
            channels: vec!["carrier_pigeon".to_owned()],
            ..v1::NotifyRules::default()
        }),
        ..v1::ScheduleSpec::default()
    };
    let request = v1::CreateScheduleRequest {
        spec: Some(spec),
        request_id: String::new(),
    };
    let status = server.schedules().create_schedule(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let found = fields(&status);
    for (field, meant) in [
        ("spec.name", "1 to 100"),
        ("spec.description", "500"),
        ("spec.operations[0]", "did you mean expired_tokens?"),
        ("spec.timing.cron.minute", "0 to 59"),
        ("spec.timing.cron.hour", ""),
        ("spec.timing.cron.month", ""),
        ("spec.timing.cron.day_of_week", "0 to 7"),
        ("spec.timing.timezone", "did you mean Europe/Berlin?"),
        ("spec.timing.exclusions[0]", ""),
        ("spec.options.batch_size", "1 to 10000"),
        ("spec.options.max_fraction", ""),
        ("spec.options.max_execution_time", "60"),
        ("spec.deadline", "whole seconds"),
        ("spec.notify.recipients[0]", ""),
        ("spec.notify.channels[0]", ""),
    ] {
        let known = found.iter().any(|(name, problem)| name == field && problem.contains(meant));
        assert!(known, "{field} with {meant:?} among {found:#?}");
    }
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
