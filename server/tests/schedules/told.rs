//! Who hears of what a schedule did: nothing that its rules ask for is lost, whatever becomes of channels, deadlines and the schedule itself.
//! What is looked at is the outbox, as the control store holds it; nobody listens on the other side.

use dbkeep_proto::v1::{self, SlotOutcome};
use dbkeep_server::{
    Config,
    config::channels::{ChannelConfig, ChannelSetting, EmailConfig, MailSecurity},
};
use dbkeep_testkit::Db;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    bounds::consent,
    serving::catalog,
    world::{CATALOG, EXPIRED, LATE, World, as_principal, eventually, once_a_year, only_by_hand},
};

/// A mail server that nobody runs: deliveries stay in the outbox.
pub(crate) fn mail(to: &[&str]) -> ChannelConfig {
    let email = EmailConfig {
        host: "127.0.0.1".to_owned(),
        port: 1,
        security: MailSecurity::Plain,
        allow_plaintext: false,
        login: None,
        from: "dbkeep@example.com".to_owned(),
        to: to.iter().map(|address| (*address).to_owned()).collect(),
    };
    ChannelConfig::new("mail", ChannelSetting::Email(email))
}

fn with_mail(mut config: Config) -> Config {
    config.channels.push(mail(&[]));
    config
}

/// Rules that tell of this alone, by mail to one.
fn rules(on_success: bool, on_failure: bool, on_warnings: bool) -> Option<v1::NotifyRules> {
    Some(v1::NotifyRules {
        on_success,
        on_failure,
        on_warnings,
        recipients: vec!["ops@example.com".to_owned()],
        channels: vec!["mail".to_owned()],
    })
}

/// A delivery in the outbox: channel, recipients, state, and the notice.
struct Told {
    channel: String,
    recipients: String,
    state: String,
    notice: Value,
}

impl Told {
    fn kind(&self) -> &str {
        self.notice["kind"].as_str().expect("a kind")
    }

    fn line(&self, label: &str) -> Option<&str> {
        let lines = self.notice["lines"].as_array().expect("lines");
        let line = lines.iter().find(|line| line["label"] == label)?;
        line["value"].as_str()
    }
}

async fn told(world: &World, control: &Db) -> Vec<Told> {
    let sql = format!(
        "SELECT channel, recipients, state, notice FROM {} ORDER BY id",
        world.table("deliveries")
    );
    let rows = control.fetch_text(&sql).await.expect("deliveries");
    let read = |row: Vec<Option<String>>| {
        let [channel, recipients, state, notice] = <[_; 4]>::try_from(row)
            .expect("four columns")
            .map(|column| column.expect("a text"));
        Told {
            channel,
            recipients,
            state,
            notice: serde_json::from_str(&notice).expect("JSON"),
        }
    };
    rows.into_iter().map(read).collect()
}

/// Waits for so many deliveries.
async fn told_of(world: &World, control: &Db, number: usize) -> Vec<Told> {
    eventually(|| async {
        let told = told(world, control).await;
        (told.len() >= number).then_some(told)
    })
    .await
}

pub(crate) async fn what_its_deadline_stopped_is_a_failure_and_told_as_one(database: &str) {
    let world = World::new(database).await;
    // Batches of a few rows, each with its captured rows on disk: more work than a few seconds are for.
    let rows = 20_000;
    world.fill_with(rows).await;
    let server = world.serve(with_mail).await;
    let control = world.control().await;
    let hour = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let spec = v1::ScheduleSpec {
        deadline: hour(3_600),
        options: Some(v1::ScheduleOptions {
            batch_size: Some(5),
            max_execution_time: hour(7_200),
            max_fraction: Some(1.0),
            ..v1::ScheduleOptions::default()
        }),
        notify: rules(false, true, false),
        ..once_a_year("late")
    };
    let schedule = server.create(spec).await;
    world.make_due(&control, &schedule.id, LATE).await;
    let fired = server.newest(&schedule.id, &[SlotOutcome::Fired]).await;
    let run = || async {
        let request = v1::GetRunRequest {
            id: fired.run_id.clone(),
        };
        let answer = server.runs().get_run(request).await.expect("a run").into_inner();
        answer.run.expect("a run")
    };
    let begun = eventually(|| async {
        let run = run().await;
        (run.report.as_ref()?.rows_affected > 0).then_some(run)
    })
    .await;
    // Its time is what is left up to the deadline: less than an hour after a slot of minutes ago.
    let most = begun.options.expect("options").max_execution_time.expect("a limit").seconds;
    assert!((3_000..3_600 - 4 * 60).contains(&most), "{most} s");
    // The deadline is another now, and over.
    let update = v1::UpdateScheduleRequest {
        id: schedule.id.clone(),
        etag: String::new(),
        spec: Some(v1::ScheduleSpec {
            deadline: hour(60),
            ..v1::ScheduleSpec::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["deadline".to_owned()],
        }),
    };
    server
        .schedules()
        .update_schedule(as_principal("ann", update))
        .await
        .expect("changed");
    let ended = server
        .newest(
            &schedule.id,
            &[SlotOutcome::Failed, SlotOutcome::Warned, SlotOutcome::Succeeded],
        )
        .await;
    assert_eq!(ended.outcome(), SlotOutcome::Failed, "{}", ended.reason);
    assert!(ended.reason.contains("over its deadline"), "{}", ended.reason);
    assert_eq!(server.get(&schedule.id).await.consecutive_failures, 1);
    let run = run().await;
    assert_eq!(run.state(), v1::RunState::Cancelled, "{}", run.state_reason);
    let gone = run.report.expect("a report").rows_affected;
    assert!(gone > 0 && gone < rows, "{gone} of {rows}");
    assert_eq!(world.expired().await, rows - gone, "what is done is done, and nothing more");
    let told = told_of(&world, &control, 1).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].kind(), "run_failed", "{}", told[0].notice);
    let title = told[0].notice["title"].as_str().expect("a title");
    assert!(title.starts_with("late on app was stopped at its deadline"), "{title}");
    assert!(told[0].line("Deadline").is_some(), "{}", told[0].notice);
    server.stop().await;
}

pub(crate) async fn a_channel_that_is_gone_leaves_a_dead_letter(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(with_mail).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        notify: rules(true, true, true),
        ..only_by_hand("tokens")
    };
    let schedule = server.create(spec).await;
    server.stop().await;
    // The channel is no part of the settings any more.
    let server = world.serve(|config| config).await;
    server.fire(&schedule.id).await.expect("a run");
    server.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
    let kept = told_of(&world, &control, 1).await;
    let [kept] = &kept[..] else {
        panic!("{} deliveries", kept.len())
    };
    assert_eq!(
        (kept.kind(), kept.channel.as_str(), kept.state.as_str()),
        ("run_succeeded", "mail", "due")
    );
    assert_eq!(kept.recipients, r#"["ops@example.com"]"#, "for whoever sends it again");
    server.stop().await;
    let server = world
        .serve(|mut config| {
            config.engine.notify.give_up_after = std::time::Duration::ZERO;
            config
        })
        .await;
    eventually(|| async { (told(&world, &control).await[0].state == "dead").then_some(()) }).await;
    server.stop().await;
}

pub(crate) async fn a_schedule_that_is_deleted_hears_of_its_last_run(database: &str) {
    let world = World::new(database).await;
    // The run is accepted, and waits.
    let idle = world
        .serve(|config| {
            let mut config = with_mail(config);
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        notify: rules(true, false, false),
        ..only_by_hand("tokens")
    };
    let schedule = idle.create(spec).await;
    idle.fire(&schedule.id).await.expect("a run");
    let delete = v1::DeleteScheduleRequest {
        id: schedule.id.clone(),
        etag: String::new(),
    };
    idle.schedules()
        .delete_schedule(as_principal("ann", delete))
        .await
        .expect("deleted");
    idle.stop().await;
    let server = world.serve(with_mail).await;
    let told = told_of(&world, &control, 1).await;
    assert_eq!(told[0].kind(), "run_succeeded");
    assert_eq!(told[0].line("Schedule"), Some("tokens"));
    assert_eq!(world.expired().await, 0);
    server.stop().await;
}

pub(crate) async fn a_dry_run_of_a_schedule_is_told(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(with_mail).await;
    let control = world.control().await;
    let dry = |name: &str, max_rows| v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            dry_run: true,
            max_rows,
            ..v1::ScheduleOptions::default()
        }),
        notify: rules(true, true, true),
        ..only_by_hand(name)
    };
    let fits = server.create(dry("fits", None)).await;
    server.fire(&fits.id).await.expect("a dry run");
    let told = told_of(&world, &control, 1).await;
    assert_eq!(told[0].kind(), "run_succeeded");
    let title = told[0].notice["title"].as_str().expect("a title");
    assert_eq!(title, format!("fits on app, dry run: {EXPIRED} rows would be deleted"));
    // One whose run would be refused warns of that.
    let over = server.create(dry("over", Some(EXPIRED - 1))).await;
    server.fire(&over.id).await.expect("a dry run");
    let ended = server.newest(&over.id, &[SlotOutcome::Warned, SlotOutcome::Succeeded]).await;
    assert_eq!(ended.outcome(), SlotOutcome::Warned, "{}", ended.reason);
    let told = told_of(&world, &control, 2).await;
    assert_eq!(told[1].kind(), "run_warned");
    let title = told[1].notice["title"].as_str().expect("a title");
    assert!(title.contains("a run would be refused: OVER_MAX_ROWS"), "{title}");
    assert_eq!(world.expired().await, EXPIRED);
    server.stop().await;
}

pub(crate) async fn what_had_no_run_is_told_with_its_place(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(with_mail).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            max_rows: Some(EXPIRED - 1),
            ..v1::ScheduleOptions::default()
        }),
        pause_after_failures: 1,
        notify: rules(true, true, true),
        ..once_a_year("limited")
    };
    let schedule = server.create(spec).await;
    world.make_due(&control, &schedule.id, LATE).await;
    let told = told_of(&world, &control, 2).await;
    let kinds: Vec<&str> = told.iter().map(Told::kind).collect();
    assert!(
        kinds.contains(&"run_refused") && kinds.contains(&"schedule_paused"),
        "{kinds:?}"
    );
    for told in &told {
        assert_eq!(told.line("Target"), Some("app"), "{}", told.notice);
        let title = told.notice["title"].as_str().expect("a title");
        assert!(title.starts_with("limited on app: "), "{title}");
    }
    server.stop().await;
}

pub(crate) async fn a_consent_that_has_ended_deletes_nothing_and_is_told(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(with_mail).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        operations: vec!["grave".to_owned()],
        notify: rules(false, true, false),
        ..once_a_year("grave")
    };
    let schedule = server.create(spec).await;
    consent(&server, &schedule, 1_000).await;
    assert!(server.get(&schedule.id).await.approval.is_some());
    let hour = Timestamp::now() - SignedDuration::from_hours(1);
    let ended = Timestamp::from_second(hour.as_second()).expect("an instant");
    world.end_consent(&control, &schedule.id, ended).await;
    world.make_due(&control, &schedule.id, LATE).await;
    let refused = server
        .newest(
            &schedule.id,
            &[
                SlotOutcome::Refused,
                SlotOutcome::Succeeded,
                SlotOutcome::Warned,
                SlotOutcome::Failed,
            ],
        )
        .await;
    let why = format!("grave of schedule grave need a standing approval, and the one by bob ended at {ended}");
    assert_eq!(
        (refused.outcome(), refused.run_id.as_str(), refused.reason),
        (SlotOutcome::Refused, "", format!("STANDING_APPROVAL: {why}"))
    );
    assert_eq!(world.runs(&control, &schedule.id).await, 0);
    assert_eq!(world.expired().await, EXPIRED, "nothing was deleted");
    let now = server.get(&schedule.id).await;
    assert_eq!(now.consecutive_failures, 1);
    assert!(
        now.needs_approval && now.approval.is_none(),
        "it covers nothing any more: {now:?}"
    );
    // The record of a slot and what is told of it are one transaction.
    let heard = told(&world, &control).await;
    let [heard] = &heard[..] else {
        panic!("{} deliveries", heard.len())
    };
    assert_eq!((heard.kind(), heard.line("Schedule")), ("run_refused", Some("grave")));
    assert!(
        heard.line("Reason").is_some_and(|reason| reason.contains(&why)),
        "{}",
        heard.notice
    );
    // Nor does it for a person, until somebody consents anew.
    let refused = server.fire(&schedule.id).await.expect_err("it has ended");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains(&why), "{refused}");
    assert_eq!(world.expired().await, EXPIRED);
    consent(&server, &now, 1_000).await;
    server.fire(&schedule.id).await.expect("a run");
    server
        .newest(&schedule.id, &[SlotOutcome::Succeeded, SlotOutcome::Warned])
        .await;
    assert_eq!(world.expired().await, 0);
    server.stop().await;
}

pub(crate) async fn slots_that_pass_without_a_run_are_told(database: &str) {
    let world = World::new(database).await;
    // Runs are accepted and stay queued: that is what a slot overlaps with.
    let server = world
        .serve(|config| {
            let mut config = with_mail(config);
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let control = world.control().await;
    for (rules, heard) in [
        (rules(false, false, true), &["slot_missed", "slot_skipped"][..]),
        (rules(false, true, false), &["slot_missed"][..]),
        (rules(true, false, false), &[][..]),
    ] {
        let before = told(&world, &control).await.len();
        let spec = |name: &str| v1::ScheduleSpec {
            notify: rules.clone(),
            ..once_a_year(&format!("{name} {before} {}", heard.len()))
        };
        let busy = server.create(spec("busy")).await;
        server.fire(&busy.id).await.expect("a run, which stays queued");
        server.newest(&busy.id, &[SlotOutcome::Fired]).await;
        world.make_due(&control, &busy.id, LATE).await;
        let skipped = server.newest(&busy.id, &[SlotOutcome::Skipped]).await;
        // The newest slot that was due is the last New Year.
        let new_year = v1::Timing {
            when: Some(v1::timing::When::Expression("0 0 1 1 *".to_owned())),
            ..v1::Timing::default()
        };
        let yearly = v1::ScheduleSpec {
            misfire: v1::MisfirePolicy::Skip.into(),
            timing: Some(new_year),
            ..spec("late")
        };
        let late = server.create(yearly).await;
        world.make_due(&control, &late.id, SignedDuration::from_hours(24 * 366)).await;
        let missed = server.newest(&late.id, &[SlotOutcome::Missed]).await;
        // The record of a slot and what is told of it are one transaction: nothing is still to come.
        let mut new = told(&world, &control).await.split_off(before);
        new.sort_by_key(|told| told.kind().to_owned());
        assert_eq!(new.iter().map(Told::kind).collect::<Vec<_>>(), heard);
        for told in &new {
            let (slot, what) = match told.kind() {
                "slot_missed" => (&missed, "missed"),
                _ => (&skipped, "skipped"),
            };
            assert_eq!(told.line("Reason"), Some(slot.reason.as_str()), "{}", told.notice);
            assert!(!slot.reason.is_empty());
            let title = told.notice["title"].as_str().expect("a title");
            assert!(title.ends_with(&format!("on app: a run was {what}")), "{title}");
        }
    }
    server.stop().await;
}

pub(crate) async fn a_catalog_may_name_recipients_for_a_channel_that_has_some(database: &str) {
    let world = World::new(database).await;
    let declared = format!(
        "{CATALOG}notify = {{ on_failure = true, channels = [\"mail\", \"slack\"], recipients = [\"dba@example.com\"] }}\n"
    );
    let server = world
        .serve(|mut config| {
            config.channels.push(mail(&["ops@example.com"]));
            config.targets[0].catalogs = vec![catalog(&declared)];
            config
        })
        .await;
    let made = server.get("declared").await.spec.expect("a spec").notify.expect("rules");
    assert_eq!(made.channels, ["mail"], "the one that there is");
    assert_eq!(made.recipients, ["dba@example.com"]);
    // Whoever creates one may name recipients, and need not.
    for (name, recipients) in [("with", vec!["dba@example.com".to_owned()]), ("without", Vec::new())] {
        server
            .create(v1::ScheduleSpec {
                notify: Some(v1::NotifyRules {
                    on_failure: true,
                    recipients,
                    channels: vec!["mail".to_owned()],
                    ..v1::NotifyRules::default()
                }),
                ..only_by_hand(name)
            })
            .await;
    }
    server.stop().await;
}
