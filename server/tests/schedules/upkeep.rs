//! Built-in maintenance by schedules: its tasks are carried out, told of, listed, and done once over kill -9; and the sizes and the
//! advice in the report of whatever a schedule starts.

use dbkeep_proto::v1::{self, RowCountBasis, RunState, SlotOutcome, StepState};
use dbkeep_testkit::{Db, MailServer};
use jiff::SignedDuration;

use crate::{
    support::Daemon,
    world::{EXPIRED, Server, World, as_principal, eventually, once_an_hour},
};

/// So far back a slot is made due: the one of five minutes ago is then the newest, and the next is far away.
const DUE: SignedDuration = SignedDuration::from_mins(30);

/// Each case on each database.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite { $( #[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("sqlite").await; } )+ }
        mod postgres { $( #[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("postgres").await; } )+ }
    };
}

on_both!(
    maintenance_fires_does_its_tasks_and_is_told_of,
    maintenance_overlaps_as_any_other_work,
    maintenance_waits_for_other_maintenance_of_the_target,
    a_failure_stops_the_tasks_behind_it_where_that_is_wanted,
    everything_that_is_wrong_with_tasks_is_in_one_answer,
    a_cleanup_tells_sizes_before_and_after,
    a_cleanup_tells_what_is_dead_before_and_after,
    an_operation_that_never_finds_anything_is_told_of,
);

fn task(name: &str) -> v1::MaintenanceTask {
    v1::MaintenanceTask {
        name: name.to_owned(),
        ..v1::MaintenanceTask::default()
    }
}

fn prune(count: u32) -> v1::MaintenanceTask {
    v1::MaintenanceTask {
        keep_count: Some(count),
        ..task("prune_backups")
    }
}

fn upkeep(name: &str, tasks: Vec<v1::MaintenanceTask>) -> v1::ScheduleSpec {
    v1::ScheduleSpec {
        operations: Vec::new(),
        maintenance: tasks,
        ..once_an_hour(name)
    }
}

/// Settings of a real server on the world's databases.
fn settings(world: &World, more: &str) -> String {
    let store = if world.is_shared() {
        format!("[store]\nurl = \"{}\"\n", world.store)
    } else {
        String::new()
    };
    format!("[scheduler]\ndefault_schedules = false\n[engine]\nlease_term = \"2s\"\n{store}{more}")
}

/// A real server with these settings and more.
pub(crate) fn start(world: &World, more: &str, failpoints: &str) -> Daemon {
    let file = world.folder.path().join("settings.toml");
    std::fs::write(&file, settings(world, more)).expect("settings");
    let data = world.folder.path().join("data");
    Daemon::start_with_settings(&file, &data, &world.target, &world.catalog_file(), failpoints)
}

async fn create(daemon: &Daemon, spec: v1::ScheduleSpec) -> String {
    let address = format!("http://{}", daemon.address);
    let mut client = v1::schedule_service_client::ScheduleServiceClient::connect(address)
        .await
        .expect("a connection");
    let request = v1::CreateScheduleRequest {
        spec: Some(spec),
        request_id: String::new(),
    };
    let made = client.create_schedule(as_principal("ann", request)).await;
    made.expect("a schedule").into_inner().schedule.expect("a schedule").id
}

/// Two backups of everything, the older first.
async fn with_backups(daemon: &Daemon) -> [String; 2] {
    let client = daemon.client().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let stream = client
            .backups()
            .create(dbkeep_client::CreateRequest::new())
            .await
            .expect("a stream");
        let run = stream.finish().await.expect("an end");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        ids.push(run.id);
    }
    ids.try_into().expect("two")
}

/// Rows that are dead, and that nobody else vacuums.
async fn wear(world: &World) {
    if world.is_shared() {
        world
            .db
            .execute("ALTER TABLE tokens SET (autovacuum_enabled = false)")
            .await
            .expect("alone");
    }
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)";
    world
        .db
        .execute(&format!("INSERT INTO tokens {rows} SELECT 10000 + i, 9000000000 FROM n"))
        .await
        .expect("rows");
    world
        .db
        .execute("DELETE FROM tokens WHERE id BETWEEN 10001 AND 13000")
        .await
        .expect("deleted");
    if world.is_shared() {
        eventually(|| async {
            let sql = "SELECT n_dead_tup::text FROM pg_stat_user_tables WHERE relname = 'tokens'";
            let dead = world.db.fetch_text(sql).await.expect("a number")[0][0].clone()?;
            (dead.parse::<u64>().expect("a number") >= 3_000).then_some(())
        })
        .await;
    }
}

/// The slot of a schedule once it has ended.
async fn ended(world: &World, control: &Db, schedule: &str) -> (String, Option<String>) {
    eventually(|| async {
        let newest = world.slots(control, schedule).await.pop()?;
        (!["pending", "waiting", "fired"].contains(&newest.0.as_str())).then_some(newest)
    })
    .await
}

async fn maintenance_fires_does_its_tasks_and_is_told_of(database: &str) {
    let world = World::new(database).await;
    wear(&world).await;
    let mut mail = MailServer::start(&dbkeep_testkit::MailOptions::default())
        .await
        .expect("a mail server");
    let channel = format!(
        "[[channel]]\nname = \"email\"\nkind = \"email\"\nurl = \"smtp://127.0.0.1:{}\"\nstarttls = false\nfrom = \"dbkeep@example.com\"\n",
        mail.port
    );
    let daemon = start(&world, &channel, "");
    let [older, newer] = with_backups(&daemon).await;
    let tasks = vec![
        task("vacuum_analyze"),
        task("verify_backups"),
        prune(1),
        task("restore_drill"),
    ];
    let spec = v1::ScheduleSpec {
        notify: Some(v1::NotifyRules {
            on_success: true,
            on_failure: true,
            on_warnings: true,
            recipients: vec!["ops@learning.example".to_owned()],
            channels: vec!["email".to_owned()],
        }),
        ..upkeep("tidy", tasks)
    };
    let schedule = create(&daemon, spec).await;
    let control = world.control().await;
    world.make_due(&control, &schedule, DUE).await;
    let (outcome, run) = ended(&world, &control, &schedule).await;
    assert_eq!(outcome, "succeeded", "{:?}", world.reasons(&control, &schedule).await);
    let client = daemon.client().await;
    let run = client.runs().get(run.expect("a run")).await.expect("the run");
    assert_eq!(
        (run.kind(), run.state(), run.started_by.as_str()),
        (v1::RunKind::Maintain, RunState::Succeeded, "schedule tidy"),
        "{}",
        run.state_reason
    );
    let report = run.report.expect("a report");
    assert_eq!(report.status(), v1::ReportStatus::Success);
    let told: Vec<(&str, &str)> = report
        .steps
        .iter()
        .map(|step| {
            assert_eq!(step.state(), StepState::Succeeded, "{}: {}", step.operation, step.message);
            (step.operation.as_str(), step.message.as_str())
        })
        .collect();
    let vacuumed = if world.is_shared() {
        "1 table vacuumed"
    } else {
        "1 file tidied"
    };
    for ((operation, message), (task, begin)) in told.into_iter().zip([
        ("vacuum_analyze", vacuumed),
        ("verify_backups", "2 backups proven"),
        ("prune_backups", "1 backup removed"),
        ("restore_drill", "backup "),
    ]) {
        assert_eq!(operation, task);
        assert!(message.starts_with(begin), "{task}: {message}");
    }
    let backups = world.folder.path().join("data/backups");
    assert!(!backups.join(&older).exists() && backups.join(&newer).exists());
    // How large everything was and is, as far as the database knows.
    let sizes = report.sizes.expect("sizes");
    let (before, after) = (sizes.before.expect("before"), sizes.after.expect("after"));
    assert!(before.database_bytes.expect("a size") > 0 && after.database_bytes.expect("a size") > 0);
    let tokens = |snapshot: &v1::SizeSnapshot| {
        let mut tables = snapshot.tables.iter();
        tables
            .find(|table| table.table.ends_with("tokens"))
            .cloned()
            .expect("the table")
    };
    let (was, is) = (tokens(&before), tokens(&after));
    assert_eq!(was.row_count, None, "it was never analyzed");
    assert_eq!(
        (is.row_count, is.row_count_basis()),
        (Some(2 * EXPIRED), RowCountBasis::Estimate)
    );
    assert_eq!(
        is.bytes.is_some(),
        world.is_shared(),
        "only a walk through the file would tell"
    );
    assert_eq!(after.reusable_bytes.is_some(), !world.is_shared());
    // The slot is listed with its run, and whoever wanted to hear of it has.
    let listed = client.schedules().runs_all(dbkeep_client::ScheduleRunQuery::of("tidy")).await;
    let listed = listed.expect("slots");
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].outcome(), listed[0].run_id.as_str()),
        (SlotOutcome::Succeeded, run.id.as_str())
    );
    let told = mail.next().await.expect("a mail");
    let text = told["text"].as_str().expect("a text");
    for part in ["tidy", "succeeded (4 of 4 tasks)", "Database", "before"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

async fn maintenance_overlaps_as_any_other_work(database: &str) {
    let world = World::new(database).await;
    // Runs are accepted and stay queued: that is what a slot overlaps with.
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let control = world.control().await;
    let mut made = Vec::new();
    for (name, overlap) in [
        ("skips", v1::OverlapPolicy::Skip),
        ("waits", v1::OverlapPolicy::QueueOne),
        ("cancels", v1::OverlapPolicy::CancelOther),
    ] {
        let spec = v1::ScheduleSpec {
            overlap: overlap.into(),
            ..upkeep(name, vec![task("vacuum_analyze")])
        };
        made.push(idle.create(spec).await.id);
    }
    let [skipping, waiting, cancelling] = &made[..] else {
        panic!("three")
    };
    for schedule in &made {
        idle.fire(schedule).await.expect("a run, which stays queued");
        idle.newest(schedule, &[SlotOutcome::Fired]).await;
        world.make_due(&control, schedule, DUE).await;
    }
    idle.newest(skipping, &[SlotOutcome::Skipped]).await;
    idle.newest(waiting, &[SlotOutcome::Waiting]).await;
    idle.stop().await;
    let server = world.serve(|config| config).await;
    for (schedule, expected, runs) in [
        (skipping, vec![SlotOutcome::Skipped, SlotOutcome::Succeeded], 1),
        (waiting, vec![SlotOutcome::Succeeded, SlotOutcome::Succeeded], 2),
        (cancelling, vec![SlotOutcome::Succeeded, SlotOutcome::Warned], 2),
    ] {
        let outcomes = settled(&server, schedule, 2).await;
        let mut outcomes: Vec<SlotOutcome> = outcomes.iter().map(v1::ScheduleRun::outcome).collect();
        outcomes.sort_by_key(|outcome| *outcome as i32);
        let mut expected = expected;
        expected.sort_by_key(|outcome| *outcome as i32);
        assert_eq!(outcomes, expected, "{schedule}");
        assert_eq!(world.runs(&control, schedule).await, runs, "{schedule}");
    }
    server.stop().await;
}

/// The slots of a schedule once there are so many and all of them have ended.
async fn settled(server: &Server, schedule: &str, number: usize) -> Vec<v1::ScheduleRun> {
    eventually(|| async {
        let slots = server.list(schedule).await;
        let open = [SlotOutcome::Pending, SlotOutcome::Waiting, SlotOutcome::Fired];
        let over = slots.iter().all(|slot| !open.contains(&slot.outcome()));
        (over && slots.len() == number).then_some(slots)
    })
    .await
}

async fn run_of(server: &Server, id: &str) -> v1::Run {
    let request = v1::GetRunRequest { id: id.to_owned() };
    let answer = server.runs().get_run(request).await.expect("a run");
    answer.into_inner().run.expect("a run")
}

async fn maintenance_waits_for_other_maintenance_of_the_target(database: &str) {
    let world = World::new(database).await;
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let first = idle.create(upkeep("first", vec![task("vacuum_analyze")])).await.id;
    let second = idle.create(upkeep("second", vec![task("restore_drill")])).await.id;
    let ahead = idle.fire(&first).await.expect("a run");
    let behind = idle.fire(&second).await.expect("a run that waits");
    let waiting = run_of(&idle, &behind).await.waiting_for.expect("it waits");
    assert_eq!(waiting.run_id, ahead);
    idle.stop().await;
    let server = world.serve(|config| config).await;
    assert_eq!(settled(&server, &first, 1).await[0].outcome(), SlotOutcome::Succeeded);
    // There is nothing to restore, which is a warning.
    assert_eq!(settled(&server, &second, 1).await[0].outcome(), SlotOutcome::Warned);
    let report = run_of(&server, &behind).await.report.expect("a report");
    let advice = &report.recommendations;
    assert_eq!((advice.len(), advice[0].key.as_str()), (1, "no_backup"));
    assert_eq!(advice[0].remediation, "dbkeep backups create --target app");
    server.stop().await;
}

async fn a_failure_stops_the_tasks_behind_it_where_that_is_wanted(database: &str) {
    let world = World::new(database).await;
    let daemon = start(&world, "", "");
    let [_, newer] = with_backups(&daemon).await;
    // One byte of the newest dump.
    let folder = world.folder.path().join("data/backups").join(&newer);
    let files = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let dump = files
        .max_by_key(|path| std::fs::metadata(path).expect("a size").len())
        .expect("a dump");
    let mut bytes = std::fs::read(&dump).expect("the dump");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&dump, bytes).expect("damaged");
    let control = world.control().await;
    for (name, stops, expected) in [("goes on", false, StepState::Succeeded), ("stops", true, StepState::Skipped)] {
        let spec = v1::ScheduleSpec {
            options: Some(v1::ScheduleOptions {
                stop_on_failure: stops,
                ..v1::ScheduleOptions::default()
            }),
            ..upkeep(name, vec![task("restore_drill"), task("vacuum_analyze")])
        };
        let schedule = create(&daemon, spec).await;
        world.make_due(&control, &schedule, DUE).await;
        let (outcome, run) = ended(&world, &control, &schedule).await;
        assert_eq!(outcome, if stops { "failed" } else { "warned" }, "{name}");
        let run = daemon.client().await.runs().get(run.expect("a run")).await.expect("the run");
        let report = run.report.expect("a report");
        assert_eq!(report.steps[0].state(), StepState::Failed, "{name}");
        assert_eq!(report.steps[1].state(), expected, "{name}: {}", report.steps[1].message);
        if stops {
            let why = "not begun: operation restore_drill failed, and the run stops on failure";
            assert_eq!(report.steps[1].message, why);
        }
        let advice = &report.recommendations[0];
        assert_eq!(
            (advice.key.as_str(), advice.level()),
            ("backup_damaged", v1::RecommendationLevel::Act),
            "{name}"
        );
        assert!(advice.detail.contains(&newer), "{}", advice.detail);
    }
}

async fn everything_that_is_wrong_with_tasks_is_in_one_answer(database: &str) {
    use tonic_types::StatusExt as _;
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let odd = v1::MaintenanceTask {
        keep_days: Some(1),
        ..task("restore_drill")
    };
    let empty = v1::MaintenanceTask {
        keep_days: Some(0),
        ..prune(0)
    };
    let spec = v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            dry_run: true,
            max_rows: Some(1),
            ..v1::ScheduleOptions::default()
        }),
        ..upkeep(
            "odd",
            vec![
                task("vacuum_analyse"),
                odd,
                empty,
                task("reindex_bloated"),
                task("restore_drill"),
            ],
        )
    };
    let request = v1::CreateScheduleRequest {
        spec: Some(spec),
        request_id: String::new(),
    };
    let status = server.schedules().create_schedule(request).await.expect_err("refused");
    let details = status.get_error_details();
    let found: Vec<(String, String)> = details
        .bad_request()
        .expect("violations")
        .field_violations
        .iter()
        .map(|violation| (violation.field.clone(), violation.description.clone()))
        .collect();
    for (field, meant) in [
        ("spec.maintenance[0].name", "did you mean vacuum_analyze?"),
        ("spec.maintenance[1]", "belong to prune_backups"),
        ("spec.maintenance[2].keep_days", "at least 1"),
        ("spec.maintenance[2].keep_count", "at least 1"),
        ("spec.maintenance[4]", "is there already"),
        ("spec.options.dry_run", "has no effect on maintenance"),
        ("spec.options.max_rows", "has no effect on maintenance"),
    ] {
        let known = found.iter().any(|(name, problem)| name == field && problem.contains(meant));
        assert!(known, "{field} with {meant:?} among {found:#?}");
    }
    let useless = found
        .iter()
        .any(|(name, problem)| name == "spec.maintenance[3]" && problem.contains("makes none smaller"));
    assert_eq!(useless, !world.is_shared(), "{found:#?}");
    server.stop().await;
}

/// A server on a target that nobody else looks at or tidies, so that what is dead is what a run has left.
async fn undisturbed(world: &World) -> Server {
    if world.is_shared() {
        let alone = "ALTER TABLE tokens SET (autovacuum_enabled = false)";
        world.db.execute(alone).await.expect("alone");
    }
    world
        .serve(|mut config| {
            config.engine.monitor.enabled = false;
            config
        })
        .await
}

async fn a_cleanup_tells_what_is_dead_before_and_after(database: &str) {
    let world = World::new(database).await;
    let server = undisturbed(&world).await;
    world.db.execute("ANALYZE tokens").await.expect("analyzed");
    let schedule = server.create(once_an_hour("tokens")).await.id;
    let run = server.fire(&schedule).await.expect("a run");
    settled(&server, &schedule, 1).await;
    let sizes = run_of(&server, &run).await.report.expect("a report").sizes.expect("sizes");
    let space = |snapshot: Option<v1::SizeSnapshot>| {
        let snapshot = snapshot.expect("a look");
        let [table] = &snapshot.tables[..] else {
            panic!("one table is touched: {snapshot:?}")
        };
        (table.dead_rows, table.free_bytes, snapshot.reusable_bytes.is_some())
    };
    let told = (space(sizes.before), space(sizes.after));
    if world.is_shared() {
        // All rows are in one page, and those that live and those that died need it.
        assert_eq!(told, ((Some(0), Some(0), false), (Some(EXPIRED), Some(0), false)));
    } else {
        assert_eq!(
            told,
            ((None, None, true), (None, None, true)),
            "it knows what is free in the whole file"
        );
    }
    server.stop().await;
}

async fn a_cleanup_tells_sizes_before_and_after(database: &str) {
    let world = World::new(database).await;
    let server = undisturbed(&world).await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            vacuum: true,
            ..v1::ScheduleOptions::default()
        }),
        ..once_an_hour("tokens")
    };
    let schedule = server.create(spec).await.id;
    world.make_due(&control, &schedule, DUE).await;
    let slot = settled(&server, &schedule, 1).await.remove(0);
    let report = run_of(&server, &slot.run_id).await.report.expect("a report");
    let sizes = report.sizes.expect("sizes");
    let (before, after) = (sizes.before.expect("before"), sizes.after.expect("after"));
    assert!(before.time.expect("a time").seconds <= after.time.expect("a time").seconds);
    let [was] = &before.tables[..] else {
        panic!("one table is touched: {before:?}")
    };
    let [is] = &after.tables[..] else {
        panic!("one table is touched: {after:?}")
    };
    // What the plan counted, or nothing: the table was never analyzed.
    match was.row_count_basis() {
        RowCountBasis::Count => assert_eq!(was.row_count, Some(2 * EXPIRED)),
        basis => assert_eq!((basis, was.row_count), (RowCountBasis::Unspecified, None)),
    }
    assert_eq!((is.row_count, is.row_count_basis()), (Some(EXPIRED), RowCountBasis::Estimate));
    assert_eq!(was.bytes.is_some(), world.is_shared());
    // Nothing was dead, and nothing is once it is vacuumed, which analyzes too.
    let space = |size: &v1::TableSize| (size.dead_rows, size.free_bytes);
    if world.is_shared() {
        assert_eq!((space(was), space(is)), ((Some(0), None), (Some(0), Some(0))));
    } else {
        assert_eq!((space(was), space(is)), ((None, None), (None, None)));
    }
    // Nobody asks for sizes where a person started the run.
    let request = v1::RunCleanupRequest {
        target: "app".to_owned(),
        operations: vec!["expired_tokens".to_owned()],
        options: Some(v1::RunOptions {
            dry_run: Some(false),
            ..v1::RunOptions::default()
        }),
        ..v1::RunCleanupRequest::default()
    };
    let mut cleanups = v1::cleanup_service_client::CleanupServiceClient::new(server.channel.clone());
    let mut events = cleanups
        .run_cleanup(as_principal("ann", request))
        .await
        .expect("a run")
        .into_inner();
    let mut id = String::new();
    while let Some(event) = events.message().await.expect("an event") {
        id = event.event.expect("an event").run_id;
    }
    let report = run_of(&server, &id).await.report.expect("a report");
    assert!(report.sizes.is_none() && report.recommendations.is_empty());
    server.stop().await;
}

async fn an_operation_that_never_finds_anything_is_told_of(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let schedule = server.create(once_an_hour("tokens")).await.id;
    let mut advice = Vec::new();
    for number in 1..=6 {
        let run = server.fire(&schedule).await.expect("a run");
        settled(&server, &schedule, number).await;
        let report = run_of(&server, &run).await.report.expect("a report");
        let keys: Vec<String> = report.recommendations.into_iter().map(|piece| piece.key).collect();
        advice.push(keys);
    }
    // The first one deleted rows; the sixth is the fifth in a row that did not.
    assert_eq!(advice[..5], [const { Vec::<String>::new() }; 5]);
    assert_eq!(advice[5], ["nothing_to_do:expired_tokens"]);
    server.stop().await;
}

/// Killed at this point of its work, the run is taken over, is the only one of its slot, and knows how large everything was before.
#[cfg(feature = "failpoints")]
async fn killed_at(database: &str, point: &str) {
    let world = World::new(database).await;
    wear(&world).await;
    let mut daemon = start(&world, "", "");
    with_backups(&daemon).await;
    let tasks = vec![task("vacuum_analyze"), task("verify_backups"), prune(1)];
    let schedule = create(&daemon, upkeep("tidy", tasks)).await;
    daemon.kill();
    let control = world.control().await;
    world.make_due(&control, &schedule, DUE).await;
    let mut daemon = start(&world, "", &format!("{point}=panic"));
    assert!(!daemon.wait().success(), "{point}: killed");
    let report = |text: String| -> serde_json::Value { serde_json::from_str(&text).expect("JSON") };
    let sql = format!(
        "SELECT report FROM {} WHERE request_id LIKE 'slot-{schedule}-%'",
        if world.is_shared() { "dbkeep_control.runs" } else { "runs" }
    );
    let stored = control.fetch_text(&sql).await.expect("reports");
    let killed = stored.first().and_then(|row| row[0].clone()).map(report);
    let daemon = start(&world, "", "");
    let (outcome, run) = ended(&world, &control, &schedule).await;
    assert_eq!(
        outcome,
        "succeeded",
        "{point}: {:?}",
        world.reasons(&control, &schedule).await
    );
    assert_eq!(world.slots(&control, &schedule).await.len(), 1, "{point}");
    assert_eq!(world.runs(&control, &schedule).await, 1, "{point}");
    let client = daemon.client().await;
    let run = client.runs().get(run.expect("a run")).await.expect("the run");
    let report_now = run.report.clone().expect("a report");
    let steps = report_now.steps.iter().all(|step| step.state() == StepState::Succeeded);
    assert!(steps, "{point}: {:?}", report_now.steps);
    let sizes = report_now.sizes.expect("sizes");
    assert!(sizes.after.is_some(), "{point}");
    if let Some(before) = killed.as_ref().and_then(|report| report["sizes"]["before"]["at"].as_str()) {
        assert_eq!(run.attempts, 2, "{point}");
        let kept = sizes.before.and_then(|before| before.time).expect("before");
        let first: jiff::Timestamp = before.parse().expect("an instant");
        assert_eq!(
            (kept.seconds, kept.nanos),
            (first.as_second(), first.subsec_nanosecond()),
            "{point}: kept"
        );
    }
}

#[cfg(feature = "failpoints")]
macro_rules! killed {
    ($($name:ident: $point:literal),+ $(,)?) => {
        mod killed_sqlite { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("sqlite", $point).await; } )+ }
        mod killed_postgres { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("postgres", $point).await; } )+ }
    };
}

#[cfg(feature = "failpoints")]
killed!(
    when_its_run_is_prepared: "slot-planned",
    when_its_run_is_accepted: "slot-fired",
    when_sizes_are_taken: "sizes-taken",
    when_an_item_is_begun: "maintain-item-begun",
    when_a_task_is_over: "maintain-step-done",
    when_a_backup_is_loaded: "proof-loaded",
    when_a_backup_goes: "prune-begun",
);

/// Of the rebuild that waits for an older snapshot: its server process.
async fn rebuilding(world: &World, other_than: &str) -> String {
    eventually(|| async {
        let sql = "SELECT pid::text FROM pg_stat_progress_create_index \
                   WHERE datname = current_database() AND phase LIKE 'waiting for old snapshots%'";
        let rows = world.db.fetch_text(sql).await.expect("processes");
        let pid = rows.first()?[0].clone()?;
        (rows.len() == 1 && pid != other_than).then_some(pid)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_slept_past_its_lease_ends_no_rebuild_of_its_successor() {
    use sqlx::{Connection as _, Executor as _};
    let world = World::new("postgres").await;
    for sql in [
        "CREATE TABLE fat (id integer PRIMARY KEY, note text) WITH (autovacuum_enabled = false)",
        "INSERT INTO fat SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i",
        "CREATE INDEX fat_note ON fat (note)",
        "DELETE FROM fat WHERE id % 10 <> 0",
        "VACUUM (ANALYZE, INDEX_CLEANUP ON) fat",
    ] {
        world.db.execute(sql).await.expect("an index that is mostly air");
    }
    // Whoever looks at an older state of the database keeps a rebuild waiting.
    let mut reader = sqlx::PgConnection::connect(&world.target).await.expect("a session");
    reader
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tokens")
        .await
        .expect("a snapshot");
    let mut sleeper = start(&world, "", "");
    let schedule = create(&sleeper, upkeep("tidy", vec![task("reindex_bloated")])).await;
    let control = world.control().await;
    world.make_due(&control, &schedule, DUE).await;
    let first = rebuilding(&world, "").await;
    sleeper.signal(rustix::process::Signal::STOP);
    let file = world.folder.path().join("successor.toml");
    std::fs::write(&file, settings(&world, "")).expect("settings");
    let data = world.folder.path().join("successor");
    let successor = Daemon::start_with_settings(&file, &data, &world.target, &world.catalog_file(), "");
    let second = rebuilding(&world, &first).await;
    // It wakes up, finds its rebuild ended, and has done whatever it does about that when it is gone.
    sleeper.signal(rustix::process::Signal::CONT);
    sleeper.signal(rustix::process::Signal::TERM);
    sleeper.wait();
    assert_eq!(rebuilding(&world, "").await, second, "it is still the one that works");
    reader.execute("COMMIT").await.expect("the reader ends");
    let (outcome, run) = ended(&world, &control, &schedule).await;
    let client = successor.client().await;
    let run = client.runs().get(run.expect("a run")).await.expect("the run");
    let report = run.report.expect("a report");
    let told: Vec<&str> = report.warnings.iter().map(|warning| warning.code.as_str()).collect();
    // What the first attempt left was removed, which is worth a warning; nothing failed.
    assert_eq!(
        (outcome.as_str(), run.attempts, &told[..]),
        ("warned", 2, &["INDEX_LEFTOVER_REMOVED"][..])
    );
    assert!(
        report.steps[0].message.starts_with("1 index rebuilt"),
        "{}",
        report.steps[0].message
    );
    assert_eq!(world.db.count_where("pg_index", "NOT indisvalid").await.expect("a count"), 0);
}
