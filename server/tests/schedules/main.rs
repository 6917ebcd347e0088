//! Schedules from the call that creates them to the rows that their runs delete, on both control stores, and over the death of servers.

mod bounds;
mod cancels;
mod defaults;
mod errors;
#[cfg(feature = "failpoints")]
mod failover;
mod jumps;
#[cfg(feature = "failpoints")]
mod kill;
mod notified;
mod passed;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../notifications/receiver.rs"]
mod receiver;
#[path = "../support/serving.rs"]
mod serving;
mod silent;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "failpoints")]
mod takeover;
mod told;
mod upkeep;
mod world;

use bounds::{
    a_call_that_met_an_outage_can_be_made_again, a_call_whose_claim_was_lost_fires_while_schedules_are_stopped,
    a_call_with_a_name_fires_once, a_server_that_stops_gives_its_claims_back,
    a_target_that_does_not_answer_leaves_places_to_the_others, claims_are_given_back_side_by_side,
    other_rules_need_another_consent, the_consent_holds_while_the_run_works, the_share_holds_while_the_run_works,
    what_waits_in_line_is_looked_at_again_before_it_begins,
};
use cancels::a_slot_cancels_the_run_before_it_while_it_deletes;
use dbkeep_proto::v1::{self, SlotOutcome};
use defaults::the_three_schedules_of_the_platform_are_created;
use jiff::{SignedDuration, Timestamp};
use jumps::{a_leap_back_fires_nothing_twice, a_leap_forward_is_a_misfire};
use notified::the_weekly_clean_of_the_platform_fires_cleans_and_tells;
use passed::{a_change_while_schedules_are_stopped_loses_no_slot, a_slot_of_a_target_that_no_server_has_is_missed};
use told::{
    a_catalog_may_name_recipients_for_a_channel_that_has_some, a_channel_that_is_gone_leaves_a_dead_letter,
    a_consent_that_has_ended_deletes_nothing_and_is_told, a_dry_run_of_a_schedule_is_told,
    a_schedule_that_is_deleted_hears_of_its_last_run, slots_that_pass_without_a_run_are_told,
    what_had_no_run_is_told_with_its_place, what_its_deadline_stopped_is_a_failure_and_told_as_one,
};
use world::{EXPIRED, LATE, World, as_principal, eventually, five_minutes_ago, once_a_year, yearly};

/// The same tests on both control stores.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite { $( #[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("sqlite").await; } )+ }
        mod postgres { $( #[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("postgres").await; } )+ }
    };
}

on_both!(
    a_due_slot_fires_once_and_is_settled,
    a_slot_that_is_late_is_missed_and_said_so,
    overlapping_slots_are_skipped_or_wait,
    a_slot_cancels_the_run_before_it_while_it_deletes,
    a_slot_over_its_limits_deletes_nothing_and_failures_pause,
    a_critical_schedule_needs_the_consent_of_another,
    the_switch_holds_slots_back,
    schedules_of_the_catalog_are_created_once,
    a_schedule_is_changed_by_fields_and_etags,
    servers_are_listed,
    a_target_that_does_not_answer_leaves_places_to_the_others,
    a_server_that_stops_gives_its_claims_back,
    a_call_with_a_name_fires_once,
    a_call_whose_claim_was_lost_fires_while_schedules_are_stopped,
    other_rules_need_another_consent,
    the_share_holds_while_the_run_works,
    the_consent_holds_while_the_run_works,
    what_waits_in_line_is_looked_at_again_before_it_begins,
    what_its_deadline_stopped_is_a_failure_and_told_as_one,
    a_channel_that_is_gone_leaves_a_dead_letter,
    a_schedule_that_is_deleted_hears_of_its_last_run,
    a_dry_run_of_a_schedule_is_told,
    what_had_no_run_is_told_with_its_place,
    slots_that_pass_without_a_run_are_told,
    a_consent_that_has_ended_deletes_nothing_and_is_told,
    a_catalog_may_name_recipients_for_a_channel_that_has_some,
    a_slot_of_a_target_that_no_server_has_is_missed,
    a_change_while_schedules_are_stopped_loses_no_slot,
    the_three_schedules_of_the_platform_are_created,
    the_weekly_clean_of_the_platform_fires_cleans_and_tells,
    a_leap_forward_is_a_misfire,
    a_leap_back_fires_nothing_twice,
);

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_given_back_side_by_side_on_postgres() {
    claims_are_given_back_side_by_side().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_met_an_outage_can_be_made_again_on_postgres() {
    a_call_that_met_an_outage_can_be_made_again().await;
}

const ENDED: [SlotOutcome; 5] = [
    SlotOutcome::Succeeded,
    SlotOutcome::Warned,
    SlotOutcome::Failed,
    SlotOutcome::Refused,
    SlotOutcome::Missed,
];

async fn a_due_slot_fires_once_and_is_settled(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let slot = five_minutes_ago();
    let schedule = server.create(yearly("tokens", slot)).await;
    assert_eq!(
        schedule.spec.as_ref().expect("a spec").target,
        "app",
        "the only target is filled in"
    );
    world.make_due(&control, &schedule.id, LATE).await;
    let ended = server.newest(&schedule.id, &ENDED).await;
    assert_eq!(ended.outcome(), SlotOutcome::Succeeded, "{}", ended.reason);
    assert_eq!(ended.slot_time.expect("a slot").seconds, slot.as_second());
    assert_eq!(world.expired().await, 0);
    let run = v1::GetRunRequest {
        id: ended.run_id.clone(),
    };
    let run = server
        .runs()
        .get_run(run)
        .await
        .expect("a run")
        .into_inner()
        .run
        .expect("a run");
    assert_eq!(run.report.expect("a report").rows_affected, EXPIRED);
    assert_eq!(run.started_by, "schedule tokens");
    let now = server.get(&schedule.id).await;
    assert_eq!(now.last_run_id, ended.run_id);
    let (next, last) = (
        now.next_slot_time.expect("a next slot"),
        now.last_slot_time.expect("a last slot"),
    );
    assert_eq!(last.seconds, slot.as_second());
    assert!(next.seconds > last.seconds && next.seconds % 60 == 0);
    // Once: one row, one run, and the row stays one when the slot is due once more, as after a clock that went back.
    world.make_due(&control, &schedule.id, LATE).await;
    eventually(|| async { (server.get(&schedule.id).await.last_slot_time.is_some()).then_some(()) }).await;
    assert_eq!(world.runs(&control, &schedule.id).await, 1);
    assert_eq!(world.slots(&control, &schedule.id).await.len(), 1);
    server.stop().await;
}

async fn a_slot_that_is_late_is_missed_and_said_so(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        misfire: v1::MisfirePolicy::Skip.into(),
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Expression("0 0 1 1 *".to_owned())),
            ..v1::Timing::default()
        }),
        ..once_a_year("yearly")
    };
    let schedule = server.create(spec).await;
    // The newest slot that was due is the last New Year.
    world
        .make_due(&control, &schedule.id, SignedDuration::from_hours(24 * 366))
        .await;
    let missed = server.newest(&schedule.id, &ENDED).await;
    assert_eq!(missed.outcome(), SlotOutcome::Missed, "{}", missed.reason);
    assert!(missed.run_id.is_empty() && !missed.reason.is_empty());
    assert_eq!(world.expired().await, EXPIRED, "nothing ran");
    server.stop().await;
}

async fn overlapping_slots_are_skipped_or_wait(database: &str) {
    let world = World::new(database).await;
    // Runs are accepted and stay queued: that is what a slot overlaps with.
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let control = world.control().await;
    let skipping = idle.create(once_a_year("skips")).await;
    let waiting = idle
        .create(v1::ScheduleSpec {
            overlap: v1::OverlapPolicy::QueueOne.into(),
            ..once_a_year("waits")
        })
        .await;
    for schedule in [&skipping, &waiting] {
        idle.fire(&schedule.id).await.expect("a run, which stays queued");
        idle.newest(&schedule.id, &[SlotOutcome::Fired]).await;
    }
    for schedule in [&skipping, &waiting] {
        world.make_due(&control, &schedule.id, LATE).await;
    }
    let skipped = idle.newest(&skipping.id, &[SlotOutcome::Skipped]).await;
    assert!(!skipped.reason.is_empty());
    idle.newest(&waiting.id, &[SlotOutcome::Waiting]).await;
    idle.stop().await;
    // A server that works: the first run ends, and the slot that waited begins.
    let server = world.serve(|config| config).await;
    let outcomes = eventually(|| async {
        let slots = server.list(&waiting.id).await;
        let ended = slots.iter().all(|slot| ENDED.contains(&slot.outcome()));
        ended.then(|| slots.iter().map(|slot| slot.outcome()).collect::<Vec<_>>())
    })
    .await;
    assert_eq!(outcomes, [SlotOutcome::Succeeded; 2], "{outcomes:?}");
    assert_eq!(world.runs(&control, &waiting.id).await, 2);
    assert_eq!(world.runs(&control, &skipping.id).await, 1);
    server.stop().await;
}

async fn a_slot_over_its_limits_deletes_nothing_and_failures_pause(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            max_rows: Some(EXPIRED - 1),
            ..v1::ScheduleOptions::default()
        }),
        pause_after_failures: 1,
        ..once_a_year("limited")
    };
    let schedule = server.create(spec).await;
    let refused = server.fire(&schedule.id).await.expect_err("over its limit");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    // Whoever fired it has the answer: that is no failure of the schedule's.
    assert_eq!(server.get(&schedule.id).await.consecutive_failures, 0);
    world.make_due(&control, &schedule.id, LATE).await;
    let refused = eventually(|| async {
        let mut slots = server.list(&schedule.id).await.into_iter();
        slots.find(|slot| !slot.manual && slot.outcome() == SlotOutcome::Refused)
    })
    .await;
    assert!(refused.reason.contains("OVER_MAX_ROWS"), "{}", refused.reason);
    assert_eq!(server.get(&schedule.id).await.consecutive_failures, 1);
    assert_eq!(world.expired().await, EXPIRED, "nothing was deleted");
    let paused = server.get(&schedule.id).await;
    let pause = paused.pause.expect("paused after a failure");
    assert!(pause.automatic && paused.next_run_time.is_none());
    // Somebody mends it, and lets it go on.
    let update = v1::UpdateScheduleRequest {
        id: "limited".to_owned(),
        etag: paused.etag,
        spec: Some(v1::ScheduleSpec::default()),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["options".to_owned()],
        }),
    };
    server
        .schedules()
        .update_schedule(as_principal("ann", update))
        .await
        .expect("changed");
    let resume = |note: String| v1::ResumeScheduleRequest {
        id: "limited".to_owned(),
        note,
    };
    let long = server
        .schedules()
        .resume_schedule(as_principal("ann", resume("x".repeat(501))))
        .await;
    assert_eq!(long.expect_err("too long a note").code(), tonic::Code::InvalidArgument);
    let resume = resume("its limit is mended".to_owned());
    let resumed = server.schedules().resume_schedule(as_principal("ann", resume)).await;
    let resumed = resumed.expect("resumed").into_inner().schedule.expect("a schedule");
    assert!(resumed.pause.is_none() && resumed.next_run_time.is_some() && resumed.consecutive_failures == 0);
    let why = format!(
        "SELECT count(*) FROM {} WHERE detail LIKE '%resume schedule limited: its limit is mended%'",
        world.table("decisions")
    );
    let told = control.fetch_text(&why).await.expect("decisions");
    assert_eq!(told[0][0].as_deref(), Some("1"), "why it goes on is on record");
    server.stop().await;
}

async fn a_critical_schedule_needs_the_consent_of_another(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        operations: vec!["grave".to_owned()],
        ..once_a_year("grave")
    };
    let schedule = server.create(spec).await;
    assert!(schedule.needs_approval && schedule.approval.is_none());
    let refused = server.fire(&schedule.id).await.expect_err("without a consent");
    assert!(refused.message().contains("standing approval"), "{refused}");
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
    let approve = |etag: &str, max_rows| v1::ApproveScheduleRequest {
        id: schedule.id.clone(),
        etag: etag.to_owned(),
        max_rows,
        expire_time: Some(prost_types::Timestamp {
            seconds: tomorrow.as_second(),
            nanos: 0,
        }),
    };
    for (who, request) in [
        (Some("ann"), approve(&schedule.etag, 1_000)),
        (None, approve(&schedule.etag, 1_000)),
        (Some("bob"), approve(&schedule.etag, 0)),
        (Some("bob"), approve("99", 1_000)),
        (Some("bob"), approve("", 1_000)),
    ] {
        let request = who.map_or_else(
            || tonic::Request::new(request.clone()),
            |who| as_principal(who, request.clone()),
        );
        server.schedules().approve_schedule(request).await.expect_err("refused");
    }
    // Consent to fewer rows than would go.
    server
        .schedules()
        .approve_schedule(as_principal("bob", approve(&schedule.etag, 1)))
        .await
        .expect("approved");
    let refused = server.fire(&schedule.id).await.expect_err("more than the consent");
    assert!(refused.message().contains("at most 1 rows"), "{refused}");
    assert_eq!(world.expired().await, EXPIRED);
    server
        .schedules()
        .approve_schedule(as_principal("bob", approve(&schedule.etag, 1_000)))
        .await
        .expect("approved");
    // Whoever consented to it does not fire it as well, also where the call is made again.
    for problem in ["who has fired it", "fired it"] {
        let request = v1::RunScheduleRequest {
            id: schedule.id.clone(),
            request_id: "by bob".to_owned(),
        };
        let refused = server.schedules().run_schedule(as_principal("bob", request)).await;
        let refused = refused.expect_err("one person alone");
        assert!(refused.message().contains(problem), "{refused}");
    }
    assert_eq!(world.expired().await, EXPIRED);
    let fired = server.list(&schedule.id).await;
    let fired: Vec<_> = fired
        .iter()
        .map(|slot| (slot.fired_by.as_str(), slot.manual, slot.outcome()))
        .collect();
    let refused = |name| (name, true, SlotOutcome::Refused);
    assert_eq!(fired, [refused("bob"), refused("ann"), refused("ann")]);
    world.make_due(&control, &schedule.id, LATE).await;
    let done = server
        .newest(&schedule.id, &[SlotOutcome::Succeeded, SlotOutcome::Failed])
        .await;
    assert_eq!(
        (done.outcome(), done.fired_by.as_str()),
        (SlotOutcome::Succeeded, ""),
        "{}",
        done.reason
    );
    assert_eq!(world.expired().await, 0);
    // Somebody else fires it by hand.
    world.fill().await;
    let run = server.fire(&schedule.id).await.expect("ann has not consented to it");
    let done = eventually(|| async {
        let slots = server.list(&schedule.id).await;
        slots
            .into_iter()
            .find(|slot| slot.run_id == run && slot.outcome() != SlotOutcome::Fired)
    })
    .await;
    assert_eq!(done.fired_by, "ann");
    assert!(
        matches!(done.outcome(), SlotOutcome::Succeeded | SlotOutcome::Warned),
        "{}",
        done.reason
    );
    // A change of what it does ends the consent; a change of when does not.
    for (field, kept) in [("description", true), ("options", false)] {
        let update = v1::UpdateScheduleRequest {
            id: schedule.id.clone(),
            etag: String::new(),
            spec: Some(v1::ScheduleSpec {
                description: "another".to_owned(),
                options: Some(v1::ScheduleOptions {
                    batch_size: Some(7),
                    ..v1::ScheduleOptions::default()
                }),
                ..v1::ScheduleSpec::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![field.to_owned()],
            }),
        };
        let changed = server.schedules().update_schedule(as_principal("ann", update)).await;
        let changed = changed.expect("changed").into_inner().schedule.expect("a schedule");
        assert_eq!(changed.approval.is_some(), kept, "{field}");
    }
    server.stop().await;
}

async fn the_switch_holds_slots_back(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let schedule = server.create(once_a_year("tokens")).await;
    let stop = v1::StopSchedulerRequest {
        note: "the disk is being changed".to_owned(),
    };
    let status = server
        .schedules()
        .stop_scheduler(as_principal("ann", stop))
        .await
        .expect("stopped");
    let status = status.into_inner().status.expect("a status");
    assert!(!status.running && status.changed_by == "ann" && status.note.contains("disk"));
    world.make_due(&control, &schedule.id, LATE).await;
    // A person may fire all the same. The look that settles that slot would decide what is due as well; the sign of life after it comes when that
    // look is over.
    server.fire(&schedule.id).await.expect("a run");
    server.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
    let seen = || async {
        let sql = format!("SELECT seen_ms FROM {}", world.table("servers"));
        let rows = control.fetch_text(&sql).await.expect("servers");
        let at = rows[0][0].as_ref().expect("an instant");
        at.parse::<i64>().expect("milliseconds")
    };
    let settled = seen().await;
    eventually(|| async { (seen().await > settled).then_some(()) }).await;
    let slots = server.list(&schedule.id).await;
    assert!(slots.len() == 1 && slots[0].manual, "no slot was decided: {slots:?}");
    // Whoever edits the schedule meanwhile, other than its times, does not lose the slot that is due.
    let update = v1::UpdateScheduleRequest {
        id: schedule.id.clone(),
        etag: String::new(),
        spec: Some(v1::ScheduleSpec {
            description: "edited while a slot was due".to_owned(),
            ..v1::ScheduleSpec::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["description".to_owned()],
        }),
    };
    let edited = server.schedules().update_schedule(as_principal("ann", update)).await;
    let edited = edited.expect("changed").into_inner().schedule.expect("a schedule");
    let due = edited.next_slot_time.expect("a slot").seconds;
    assert!(due <= Timestamp::now().as_second(), "still due");
    server
        .schedules()
        .start_scheduler(v1::StartSchedulerRequest {})
        .await
        .expect("started");
    eventually(|| async { (server.list(&schedule.id).await.iter().filter(|slot| !slot.manual).count() == 1).then_some(()) })
        .await;
    server.stop().await;
}

async fn schedules_of_the_catalog_are_created_once(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let declared = server.get("declared").await;
    assert_eq!(declared.created_by, "catalog");
    let request = v1::DeleteScheduleRequest {
        id: "declared".to_owned(),
        etag: declared.etag,
    };
    server.schedules().delete_schedule(request).await.expect("deleted");
    server.stop().await;
    let server = world.serve(|config| config).await;
    let gone = server
        .schedules()
        .get_schedule(v1::GetScheduleRequest {
            id: "declared".to_owned(),
        })
        .await;
    assert_eq!(gone.expect_err("it does not come back").code(), tonic::Code::NotFound);
    server.stop().await;
}

async fn a_schedule_is_changed_by_fields_and_etags(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let made = server.create(once_a_year("first")).await;
    server.create(once_a_year("second")).await;
    let request = v1::CreateScheduleRequest {
        spec: Some(once_a_year("third")),
        request_id: "once".to_owned(),
    };
    let third = server
        .schedules()
        .create_schedule(request.clone())
        .await
        .expect("made")
        .into_inner();
    let again = server
        .schedules()
        .create_schedule(request)
        .await
        .expect("the same")
        .into_inner();
    assert_eq!(
        third.schedule.as_ref().map(|schedule| &schedule.id),
        again.schedule.as_ref().map(|schedule| &schedule.id)
    );
    let other = v1::CreateScheduleRequest {
        spec: Some(once_a_year("fourth")),
        request_id: "once".to_owned(),
    };
    assert_eq!(
        server.schedules().create_schedule(other).await.expect_err("reused").code(),
        tonic::Code::AlreadyExists
    );
    let update = |etag: &str, path: &str, spec: v1::ScheduleSpec| v1::UpdateScheduleRequest {
        id: made.id.clone(),
        etag: etag.to_owned(),
        spec: Some(spec),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
    };
    let renamed = v1::ScheduleSpec {
        name: "renamed".to_owned(),
        description: "not in the mask".to_owned(),
        ..v1::ScheduleSpec::default()
    };
    let changed = server
        .schedules()
        .update_schedule(update(&made.etag, "name", renamed))
        .await
        .expect("changed")
        .into_inner();
    let changed = changed.schedule.expect("a schedule");
    let spec = changed.spec.expect("a spec");
    assert_eq!((spec.name.as_str(), spec.description.as_str()), ("renamed", ""));
    assert_eq!(spec.operations, ["expired_tokens"]);
    let late = server
        .schedules()
        .update_schedule(update(&made.etag, "name", v1::ScheduleSpec::default()))
        .await;
    assert_eq!(late.expect_err("an old etag").code(), tonic::Code::Aborted);
    let taken = v1::ScheduleSpec {
        name: "second".to_owned(),
        ..v1::ScheduleSpec::default()
    };
    let taken = server.schedules().update_schedule(update("", "name", taken)).await;
    assert_eq!(taken.expect_err("a name of another").code(), tonic::Code::AlreadyExists);
    let disabled = v1::ScheduleSpec {
        enabled: Some(false),
        ..v1::ScheduleSpec::default()
    };
    let disabled = server
        .schedules()
        .update_schedule(update("", "enabled", disabled))
        .await
        .expect("changed")
        .into_inner();
    assert!(disabled.schedule.expect("a schedule").next_run_time.is_none());
    // Pages by name.
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListSchedulesRequest {
            page_size: 1,
            page_token: page_token.clone(),
            ..v1::ListSchedulesRequest::default()
        };
        let page = server.schedules().list_schedules(request).await.expect("a page").into_inner();
        names.extend(
            page.schedules
                .into_iter()
                .filter_map(|schedule| schedule.spec)
                .map(|spec| spec.name),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["declared", "renamed", "second", "third"]);
    server.stop().await;
}

async fn servers_are_listed(database: &str) {
    let world = World::new(database).await;
    let first = world.serve(|config| config).await;
    let status = eventually(|| async {
        let status = first
            .schedules()
            .get_scheduler_status(v1::GetSchedulerStatusRequest {})
            .await
            .ok()?;
        status.into_inner().status.filter(|status| !status.servers.is_empty())
    })
    .await;
    assert_eq!(status.servers.len(), 1);
    assert!(status.servers[0].alive && !status.servers[0].address.is_empty());
    if world.is_shared() {
        let second = world.serve(|config| config).await;
        eventually(|| async {
            let status = first
                .schedules()
                .get_scheduler_status(v1::GetSchedulerStatusRequest {})
                .await
                .ok()?;
            (status.into_inner().status?.servers.len() == 2).then_some(())
        })
        .await;
        second.stop().await;
        let status = first
            .schedules()
            .get_scheduler_status(v1::GetSchedulerStatusRequest {})
            .await
            .expect("a status");
        assert_eq!(
            status.into_inner().status.expect("a status").servers.len(),
            1,
            "it took its leave"
        );
    }
    first.stop().await;
}
