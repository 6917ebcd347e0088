//! Slots that come to nothing: each has a record that says why, also where no server would ever have come for it.

use dbkeep_proto::v1::{self, SlotOutcome};

use crate::{
    serving::catalog,
    world::{CATALOG, EXPIRED, LATE, Server, World, as_principal, five_minutes_ago, once_a_year, yearly},
};

pub(crate) async fn a_slot_of_a_target_that_no_server_has_is_missed(database: &str) {
    let world = World::new(database).await;
    let server = world
        .serve(|config| {
            let target = config.targets[0].url.clone();
            config.with_target("other", target, catalog(CATALOG))
        })
        .await;
    let spec = v1::ScheduleSpec {
        target: "other".to_owned(),
        pause_after_failures: 1,
        ..once_a_year("elsewhere")
    };
    let schedule = server.create(spec).await;
    server.stop().await;
    // No server has that target any more.
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    world.make_due(&control, &schedule.id, LATE).await;
    server.newest(&schedule.id, &[SlotOutcome::Pending]).await;
    // As if that had been hours ago.
    let sql = format!(
        "UPDATE {} SET decided_ms = decided_ms - 7200000 WHERE schedule_id = '{}' AND outcome = 'pending'",
        world.table("schedule_slots"),
        schedule.id
    );
    assert_eq!(control.execute(&sql).await.expect("changed"), 1);
    let missed = server.newest(&schedule.id, &[SlotOutcome::Missed]).await;
    assert!(
        missed.reason.contains("no server began it within 3600 s") && missed.reason.contains("no target other"),
        "{}",
        missed.reason
    );
    assert!(missed.run_id.is_empty());
    assert_eq!(world.expired().await, EXPIRED);
    server.stop().await;
}

async fn update(server: &Server, id: &str, field: &str, spec: v1::ScheduleSpec) {
    let update = v1::UpdateScheduleRequest {
        id: id.to_owned(),
        etag: String::new(),
        spec: Some(spec),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![field.to_owned()],
        }),
    };
    let changed = server.schedules().update_schedule(as_principal("ann", update)).await;
    changed.expect("changed");
}

pub(crate) async fn a_change_while_schedules_are_stopped_loses_no_slot(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    server
        .schedules()
        .stop_scheduler(as_principal("ann", v1::StopSchedulerRequest::default()))
        .await
        .expect("stopped");
    let slot = five_minutes_ago();
    for (name, outcome, what) in [
        ("paused", SlotOutcome::Skipped, "paused before"),
        ("disabled", SlotOutcome::Skipped, "disabled before"),
        ("moved", SlotOutcome::Missed, "given other times before"),
    ] {
        let schedule = server.create(yearly(name, slot)).await;
        world.make_due(&control, &schedule.id, LATE).await;
        match name {
            "paused" => {
                let pause = v1::PauseScheduleRequest {
                    id: schedule.id.clone(),
                    note: "the disk is being changed".to_owned(),
                };
                let paused = server.schedules().pause_schedule(as_principal("ann", pause)).await;
                paused.expect("paused");
            }
            "disabled" => {
                let spec = v1::ScheduleSpec {
                    enabled: Some(false),
                    ..v1::ScheduleSpec::default()
                };
                update(&server, &schedule.id, "enabled", spec).await;
            }
            _ => {
                let spec = v1::ScheduleSpec {
                    timing: Some(v1::Timing {
                        when: Some(v1::timing::When::Expression("0 0 1 1 *".to_owned())),
                        ..v1::Timing::default()
                    }),
                    ..v1::ScheduleSpec::default()
                };
                update(&server, &schedule.id, "timing", spec).await;
            }
        }
        // With the change itself, and not a look later.
        let slots = server.list(&schedule.id).await;
        let [record] = &slots[..] else { panic!("{name}: {slots:?}") };
        assert_eq!(record.outcome(), outcome, "{name}: {}", record.reason);
        assert!(
            record.reason.starts_with("schedules were stopped when it was due") && record.reason.contains(what),
            "{}",
            record.reason
        );
        assert_eq!(record.slot_time.expect("a slot").seconds, slot.as_second());
        let last = server.get(&schedule.id).await.last_slot_time.expect("it is decided");
        assert_eq!(last.seconds, slot.as_second());
    }
    // Once they go on, none of these fires.
    server
        .schedules()
        .start_scheduler(v1::StartSchedulerRequest {})
        .await
        .expect("started");
    let after = server.create(once_a_year("after")).await;
    world.make_due(&control, &after.id, LATE).await;
    server.newest(&after.id, &[SlotOutcome::Succeeded]).await;
    for name in ["paused", "disabled", "moved"] {
        assert_eq!(server.list(&server.get(name).await.id).await.len(), 1, "{name}");
    }
    server.stop().await;
}
