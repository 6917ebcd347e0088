//! Runs that are steered while they work: a real server, the real client, both databases. Waits are for events, and what happened
//! is read from the target's journal and tables.

mod support;

use std::time::{Duration, Instant};

use dbkeep_client::{Client, Error, LimitsUpdate, PlanRequest, ReconnectPolicy, RunRequest, RunStream, UndoRequest, proto};
use dbkeep_server::Config;
use dbkeep_testkit::fresh_database;
use futures::StreamExt as _;
use proto::{RunState, run_event::Event};
use sqlx::{Connection as _, Executor as _};
use support::{CHILDREN, Database, ORPHANS, World, connect};
use tokio_util::sync::CancellationToken;

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    a_run_pauses_within_a_second_and_resumes_exactly
    a_rest_is_cut_short_by_a_pause_and_by_limits
    a_pause_survives_a_restart
    a_paused_run_can_be_cancelled
    limits_change_while_a_run_works
    an_undo_is_steered_too
    runs_wait_in_line
    a_locked_table_makes_batches_smaller
    limits_of_a_step_on_files_change_while_it_works
    a_step_on_files_rests_and_pauses
    an_undo_of_files_is_steered_too
}

/// As soon as a request to act within a second has taken effect.
const SOON: Duration = Duration::from_secs(1);

fn journal(database: Database) -> &'static str {
    match database {
        Database::Postgres => "dbkeep.journal",
        Database::Sqlite => "_dbkeep_journal",
    }
}

/// Rows listed for each batch of a run, in order.
async fn batches(world: &World, database: Database, run: &str) -> Vec<u64> {
    let sql = format!(
        "SELECT CAST(matched AS text) FROM {} WHERE run_id = '{run}' ORDER BY step, batch",
        journal(database)
    );
    let rows = world.db.fetch_text(&sql).await.expect("the journal");
    rows.into_iter()
        .filter_map(|mut row| row.pop().flatten())
        .map(|rows| rows.parse().expect("a number"))
        .collect()
}

/// Reads events until one fits; returns what the test makes of it.
async fn until<T>(stream: &mut RunStream, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
    loop {
        let event = stream.next().await.expect("no end yet").expect("an event");
        if let Some(found) = event.event.as_ref().and_then(&mut fits) {
            return found;
        }
    }
}

async fn until_state(stream: &mut RunStream, state: RunState) -> String {
    until(stream, |event| match event {
        Event::StateChanged(change) if change.to() == state => Some(change.reason.clone()),
        Event::StateChanged(change) if dbkeep_client::is_final(change.to()) => {
            panic!("{:?} before {state:?}: {}", change.to(), change.reason)
        }
        _ => None,
    })
    .await
}

/// Starts a run and waits for its first batch.
async fn started(client: &Client, request: RunRequest) -> (String, RunStream) {
    let mut stream = client.cleanup().run(request).await.expect("a run");
    until(&mut stream, |event| match event {
        Event::Progress(progress) => (progress.rows_affected > 0).then_some(()),
        _ => None,
    })
    .await;
    (stream.run_id().expect("it has told its id").to_owned(), stream)
}

/// A run that cannot end by itself for a while: one row a batch, with rests.
async fn slow_run(world: &World) -> (String, RunStream) {
    let plan = world.plan("orphans").await;
    started(&world.client, RunRequest::of_plan(&plan).execute().batch_size(1)).await
}

async fn hasten(client: &Client, run: &str) {
    let update = LimitsUpdate::new(run).batch_size(1_000).duty_cycle_percent(100);
    client.runs().update_limits(update).await.expect("limits");
}

async fn a_run_pauses_within_a_second_and_resumes_exactly(database: Database) {
    let world = World::new(database).await;
    let before = world.hash("child").await;
    let (run, mut stream) = slow_run(&world).await;
    let asked = Instant::now();
    let answer = world.client.runs().pause(run.as_str(), "lunch").await.expect("a run");
    assert!(
        matches!(answer.state(), RunState::Pausing | RunState::Paused),
        "{:?}",
        answer.state()
    );
    assert_eq!(until_state(&mut stream, RunState::Paused).await, "lunch");
    let took = asked.elapsed();
    println!("{database:?}: paused after {} ms", took.as_millis());
    assert!(took < SOON, "{took:?}");
    let paused = world.client.runs().get(run.as_str()).await.expect("the run");
    assert_eq!((paused.state(), paused.state_reason.as_str()), (RunState::Paused, "lunch"));
    let deleted = paused.report.as_ref().expect("a report").rows_affected;
    assert!(deleted > 0 && deleted < ORPHANS, "{deleted} rows");
    // What was told is what is in the journal, and nothing goes on behind it.
    assert_eq!(batches(&world, database, &run).await.iter().sum::<u64>(), deleted);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - deleted);
    let again = world.client.runs().pause(run.as_str(), "again").await.expect("no error");
    assert_eq!((again.state(), again.last_sequence), (RunState::Paused, paused.last_sequence));
    // It keeps its table, and the refusal says who has it.
    let plan = world.plan("orphans").await;
    let refused = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    match refused.expect_err("the table is held") {
        Error::RunAlreadyActive {
            run: holder, message, ..
        } => {
            assert_eq!(holder, run);
            for word in [run.as_str(), "paused", "orphans", "child", "accepted at"] {
                assert!(message.contains(word), "{message} lacks {word}");
            }
        }
        other => panic!("{other:?}"),
    }
    let resumed = world.client.runs().resume(run.as_str()).await.expect("a run");
    assert!(
        matches!(resumed.state(), RunState::Queued | RunState::Running),
        "{:?}",
        resumed.state()
    );
    hasten(&world.client, &run).await;
    let ended = stream.finish().await.expect("an end");
    assert_eq!(
        (ended.state(), ended.attempts),
        (RunState::Succeeded, 2),
        "{}",
        ended.state_reason
    );
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
    let undo = world.client.runs().undo(UndoRequest::new(run.as_str()).full_speed()).await;
    let undo = undo.expect("a stream").finish().await.expect("an end");
    assert_eq!(undo.state(), RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(world.hash("child").await, before);
    for error in [
        world.client.runs().pause(run.as_str(), "").await.expect_err("it has ended"),
        world.client.runs().resume(run.as_str()).await.expect_err("it has ended"),
        world
            .client
            .runs()
            .update_limits(LimitsUpdate::new(run.as_str()).batch_size(5))
            .await
            .expect_err("it has ended"),
    ] {
        assert!(matches!(error, Error::RunState { .. }), "{error:?}");
    }
}

/// At one row a second every rest takes about a second, at a duty cycle of 1 % as long as the batch times 99.
async fn a_rest_is_cut_short_by_a_pause_and_by_limits(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    let request = RunRequest::of_plan(&plan)
        .execute()
        .batch_size(500)
        .max_rows_per_second(100)
        .duty_cycle_percent(100);
    let (run, mut stream) = started(&world.client, request).await;
    // A second's worth of rows and no more, and then about a second of rest.
    assert_eq!(batches(&world, database, &run).await[0], 100);
    until(&mut stream, |event| match event {
        Event::Throttled(slowdown) => (slowdown.reason == "ROWS_PER_SECOND" && !slowdown.cleared).then_some(()),
        _ => None,
    })
    .await;
    let slow = LimitsUpdate::new(run.as_str()).max_rows_per_second(1);
    world.client.runs().update_limits(slow).await.expect("limits");
    let asked = Instant::now();
    world.client.runs().pause(run.as_str(), "").await.expect("a run");
    until_state(&mut stream, RunState::Paused).await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    world.client.runs().resume(run.as_str()).await.expect("a run");
    until_state(&mut stream, RunState::Running).await;
    let fast = LimitsUpdate::new(run.as_str()).max_rows_per_second(0);
    let asked = Instant::now();
    let now = world.client.runs().update_limits(fast).await.expect("limits");
    assert_eq!(
        now.limits,
        Some(proto::RunLimits {
            batch_size: 500,
            max_rows_per_second: 0,
            duty_cycle_percent: 100
        })
    );
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    // At one row a second it would have taken minutes.
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

async fn a_pause_survives_a_restart(database: Database) {
    let mut world = World::new(database).await;
    let (run, mut stream) = slow_run(&world).await;
    world.client.runs().pause(run.as_str(), "over night").await.expect("a run");
    until_state(&mut stream, RunState::Paused).await;
    let before = world.client.runs().get(run.as_str()).await.expect("the run");
    world.restart().await;
    let client = connect(&world.address).await;
    // The server that has just started takes up whatever is free: another run does go through.
    let other = client
        .cleanup()
        .run(RunRequest::new(["stale"]).execute().full_speed())
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end");
    assert_eq!(other.state(), RunState::Succeeded);
    let after = client.runs().get(run.as_str()).await.expect("the run");
    assert_eq!(after, before, "nobody touched it");
    client.runs().resume(run.as_str()).await.expect("a run");
    hasten(&client, &run).await;
    // The stream of before the restart sees it through.
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

async fn a_paused_run_can_be_cancelled(database: Database) {
    let world = World::new(database).await;
    let (run, mut stream) = slow_run(&world).await;
    world.client.runs().pause(run.as_str(), "").await.expect("a run");
    until_state(&mut stream, RunState::Paused).await;
    let cancelled = world.client.runs().cancel(run.as_str(), "enough").await.expect("a run");
    assert_eq!(cancelled.state(), RunState::Cancelled, "nothing is in flight");
    let ended = stream.finish().await.expect("an end");
    let deleted = ended.report.expect("a report").rows_affected;
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - deleted);
    assert_eq!(world.clean("orphans").await.state(), RunState::Succeeded, "the table is free");
}

async fn limits_change_while_a_run_works(database: Database) {
    let world = World::new(database).await;
    let (run, mut stream) = slow_run(&world).await;
    for (update, field) in [
        (LimitsUpdate::new(run.as_str()), "batch_size"),
        (LimitsUpdate::new(run.as_str()).batch_size(0), "batch_size"),
        (LimitsUpdate::new(run.as_str()).batch_size(10_001), "batch_size"),
        (LimitsUpdate::new(run.as_str()).duty_cycle_percent(0), "duty_cycle_percent"),
        (LimitsUpdate::new(run.as_str()).duty_cycle_percent(101), "duty_cycle_percent"),
    ] {
        match world.client.runs().update_limits(update).await.expect_err("refused") {
            Error::InvalidField { violations, .. } => assert_eq!(violations[0].field, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let update = LimitsUpdate::new(run.as_str()).batch_size(50).duty_cycle_percent(100);
    let asked = Instant::now();
    world.client.runs().update_limits(update).await.expect("limits");
    let (before, after) = until(&mut stream, |event| match event {
        Event::LimitsChanged(change) => Some((change.before, change.after)),
        _ => None,
    })
    .await;
    let limits = |batch_size, duty_cycle_percent| {
        Some(proto::RunLimits {
            batch_size,
            max_rows_per_second: 0,
            duty_cycle_percent,
        })
    };
    assert_eq!((before, after), (limits(1, 50), limits(50, 100)));
    // From the next boundary on: a batch of fifty, and the rests are over.
    until(&mut stream, |event| match event {
        Event::Throttled(slowdown) => (slowdown.reason == "DUTY_CYCLE" && slowdown.cleared).then_some(()),
        _ => None,
    })
    .await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let ended = stream.finish().await.expect("an end");
    assert_eq!(
        (ended.state(), ended.attempts),
        (RunState::Succeeded, 1),
        "{}",
        ended.state_reason
    );
    assert_eq!(ended.limits, limits(50, 100));
    assert_eq!(
        ended.options.expect("options").batch_size,
        Some(1),
        "what was asked for at first is kept"
    );
    let batches = batches(&world, database, &run).await;
    let small = batches.iter().take_while(|rows| **rows == 1).count();
    let (last, full) = batches[small..].split_last().expect("larger batches");
    assert!(small > 0 && full.iter().all(|rows| *rows == 50) && *last <= 50, "{batches:?}");
    assert_eq!(batches.iter().sum::<u64>(), ORPHANS);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

async fn an_undo_is_steered_too(database: Database) {
    let world = World::new(database).await;
    let before = world.hash("child").await;
    let cleanup = world.clean("orphans").await;
    // At one row a second the first chunk of a hundred rows is followed by a long rest.
    let request = UndoRequest::new(cleanup.id.as_str()).max_rows_per_second(1);
    let mut stream = world.client.runs().undo(request).await.expect("a stream");
    until(&mut stream, |event| match event {
        Event::Throttled(slowdown) => (slowdown.reason == "ROWS_PER_SECOND").then_some(()),
        _ => None,
    })
    .await;
    let undo = stream.run_id().expect("it has told its id").to_owned();
    let asked = Instant::now();
    world.client.runs().pause(undo.as_str(), "lunch").await.expect("a run");
    until_state(&mut stream, RunState::Paused).await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let put_back = world.db.count("child").await.expect("a count") + ORPHANS - CHILDREN;
    assert!(put_back > 0 && put_back < ORPHANS, "{put_back} rows");
    let update = LimitsUpdate::new(undo.as_str()).max_rows_per_second(0);
    world.client.runs().update_limits(update).await.expect("limits");
    world.client.runs().resume(undo.as_str()).await.expect("a run");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    assert_eq!(world.hash("child").await, before);
}

async fn runs_wait_in_line(database: Database) {
    let world = World::new(database).await;
    let both = world.plan("both").await;
    let orphans = world.plan("orphans").await;
    let (first, holder) = slow_run(&world).await;
    let queued = async |plan: &proto::Plan| {
        let request = RunRequest::of_plan(plan).execute().full_speed().queue();
        let mut stream = world.client.cleanup().run(request).await.expect("it is accepted");
        let reason = until_state(&mut stream, RunState::Queued).await;
        (stream.run_id().expect("it has told its id").to_owned(), reason, stream)
    };
    let (second, reason, second_stream) = queued(&both).await;
    assert!(reason.contains(&first) && reason.contains("child"), "{reason}");
    let (third, _, mut third_stream) = queued(&orphans).await;
    let waits = async |run: &str| world.client.runs().get(run).await.expect("the run").waiting_for;
    let waiting_for = |run: &str, table: &str| {
        Some(proto::WaitingFor {
            run_id: run.to_owned(),
            table: table.to_owned(),
        })
    };
    let table = waits(&second).await.expect("it waits").table;
    assert!(table.ends_with("child"), "{table}");
    assert_eq!(waits(&second).await, waiting_for(&first, &table));
    assert_eq!(waits(&third).await, waiting_for(&first, &table));
    // Whoever does not queue is refused, also when the holder goes: those in line come first.
    world.client.runs().pause(second.as_str(), "not yet").await.expect("a run");
    world.client.runs().cancel(first.as_str(), "enough").await.expect("a run");
    assert_eq!(holder.finish().await.expect("an end").state(), RunState::Cancelled);
    assert_eq!(waits(&second).await, None);
    assert_eq!(
        waits(&third).await,
        waiting_for(&second, &table),
        "a paused run keeps its place"
    );
    let again = world.plan("orphans").await;
    let refused = world.client.cleanup().run(RunRequest::of_plan(&again).execute()).await;
    let refused = refused.expect_err("others are in line");
    assert!(
        matches!(&refused, Error::RunAlreadyActive { run, .. } if *run == second),
        "{refused:?}"
    );
    world.client.runs().resume(second.as_str()).await.expect("a run");
    let second = second_stream.finish().await.expect("an end");
    assert_eq!(second.state(), RunState::Succeeded, "{}", second.state_reason);
    let reason = until_state(&mut third_stream, RunState::Running).await;
    assert!(reason.contains("its turn has come"), "{reason}");
    let third = third_stream.finish().await.expect("an end");
    assert_eq!(third.state(), RunState::Succeeded, "{}", third.state_reason);
    let instant = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).expect("a time");
    assert!(instant(second.end_time) <= instant(third.start_time), "one after the other");
}

/// Files of [`with_files`], all of them old.
const FILES: u64 = 300;

const FILE_CATALOG: &str = r#"
[[operation]]
name = "temporary"
category = "TEMPORARY_FILES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "old"
kind = "temp_files"
root = "files"
age = "PT1H"
max_fraction = 1.0
"#;

/// A database with nothing in it, and a root with old files.
async fn with_files(database: Database) -> World {
    let (url, folder) = support::empty(database).await;
    let root = folder.path().join(support::ROOT);
    std::fs::create_dir(&root).expect("a root");
    for number in 0..FILES {
        let file = std::fs::File::create(root.join(number.to_string())).expect("a file");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
    }
    World::bare(url, folder, FILE_CATALOG).await
}

/// Names in the root, without the trash.
fn files_left(world: &World) -> u64 {
    let names = std::fs::read_dir(world.folder.path().join(support::ROOT)).expect("a folder");
    names
        .filter(|entry| entry.as_ref().expect("an entry").file_name() != ".dbkeep-trash")
        .count() as u64
}

/// Files of each sealed batch of a run, in order, by the manifest.
fn file_batches(world: &World, run: &str) -> Vec<u64> {
    let trash = world.folder.path().join(support::ROOT).join(".dbkeep-trash").join(run);
    let manifest = std::fs::read_to_string(trash.join("0/manifest")).expect("a manifest");
    let sealed = manifest
        .lines()
        .filter_map(|line| line.split_once("{\"sealed\":").map(|(_, rest)| rest));
    sealed
        .map(|sealed| {
            let (_, rest) = sealed.split_once("\"files\":").expect("a count");
            let digits = rest.split_once(',').expect("more").0;
            digits.parse().expect("a number")
        })
        .collect()
}

async fn limits_of_a_step_on_files_change_while_it_works(database: Database) {
    let world = with_files(database).await;
    let plan = world.plan("temporary").await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(1).max_rows_per_second(20);
    let (run, mut stream) = started(&world.client, request).await;
    until(&mut stream, |event| match event {
        Event::Throttled(slowdown) => (slowdown.reason == "ROWS_PER_SECOND" && !slowdown.cleared).then_some(()),
        _ => None,
    })
    .await;
    let update = LimitsUpdate::new(run.as_str())
        .batch_size(50)
        .max_rows_per_second(0)
        .duty_cycle_percent(100);
    let asked = Instant::now();
    world.client.runs().update_limits(update).await.expect("limits");
    // From the next boundary on: batches of fifty, and the rests are over.
    let mut cleared = std::collections::BTreeSet::new();
    until(&mut stream, |event| {
        if let Event::Throttled(slowdown) = event
            && slowdown.cleared
        {
            cleared.insert(slowdown.reason.clone());
        }
        cleared
            .is_superset(&["DUTY_CYCLE", "ROWS_PER_SECOND"].map(str::to_owned).into())
            .then_some(())
    })
    .await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let ended = stream.finish().await.expect("an end");
    assert_eq!(
        (ended.state(), ended.attempts),
        (RunState::Succeeded, 1),
        "{}",
        ended.state_reason
    );
    let batches = file_batches(&world, &run);
    let small = batches.iter().take_while(|files| **files == 1).count();
    let (last, full) = batches[small..].split_last().expect("larger batches");
    assert!(
        small > 0 && full.iter().all(|files| *files == 50) && *last <= 50,
        "{batches:?}"
    );
    assert_eq!(batches.iter().sum::<u64>(), FILES);
    assert_eq!(files_left(&world), 0);
}

async fn a_step_on_files_rests_and_pauses(database: Database) {
    let world = with_files(database).await;
    let plan = world.plan("temporary").await;
    let request = RunRequest::of_plan(&plan)
        .execute()
        .batch_size(200)
        .max_rows_per_second(100)
        .duty_cycle_percent(100);
    let (run, mut stream) = started(&world.client, request).await;
    // A second's worth of files and no more, and then about a second of rest.
    assert_eq!(file_batches(&world, &run)[0], 100);
    let slow = LimitsUpdate::new(run.as_str()).max_rows_per_second(1);
    world.client.runs().update_limits(slow).await.expect("limits");
    let asked = Instant::now();
    world.client.runs().pause(run.as_str(), "lunch").await.expect("a run");
    assert_eq!(until_state(&mut stream, RunState::Paused).await, "lunch");
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let paused = world.client.runs().get(run.as_str()).await.expect("the run");
    let moved = paused.report.expect("a report").rows_affected;
    assert_eq!(
        (files_left(&world), file_batches(&world, &run).iter().sum()),
        (FILES - moved, moved)
    );
    world.client.runs().resume(run.as_str()).await.expect("a run");
    until_state(&mut stream, RunState::Running).await;
    let fast = LimitsUpdate::new(run.as_str()).max_rows_per_second(0);
    let asked = Instant::now();
    world.client.runs().update_limits(fast).await.expect("limits");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    // At one file a second it would have taken minutes.
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!((files_left(&world), file_batches(&world, &run).iter().sum()), (0, FILES));
}

async fn an_undo_of_files_is_steered_too(database: Database) {
    let world = with_files(database).await;
    let cleanup = world.clean("temporary").await;
    assert_eq!((cleanup.state(), files_left(&world)), (RunState::Succeeded, 0));
    let request = UndoRequest::new(cleanup.id.as_str()).max_rows_per_second(10);
    let mut stream = world.client.runs().undo(request).await.expect("a stream");
    until(&mut stream, |event| match event {
        Event::Throttled(slowdown) => (slowdown.reason == "ROWS_PER_SECOND").then_some(()),
        _ => None,
    })
    .await;
    let undo = stream.run_id().expect("it has told its id").to_owned();
    let slow = LimitsUpdate::new(undo.as_str()).max_rows_per_second(1);
    world.client.runs().update_limits(slow).await.expect("limits");
    let asked = Instant::now();
    world.client.runs().pause(undo.as_str(), "lunch").await.expect("a run");
    until_state(&mut stream, RunState::Paused).await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let back = files_left(&world);
    assert!(back > 0 && back <= 20, "{back} files");
    let update = LimitsUpdate::new(undo.as_str())
        .max_rows_per_second(0)
        .duty_cycle_percent(100);
    world.client.runs().update_limits(update).await.expect("limits");
    world.client.runs().resume(undo.as_str()).await.expect("a run");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(ended.report.expect("a report").rows_affected, FILES);
    assert_eq!(files_left(&world), FILES);
}

/// A session that keeps locks on the children until it is rolled back.
enum Blocker {
    Postgres(sqlx::PgConnection),
    Sqlite(sqlx::SqliteConnection),
}

impl Blocker {
    /// On PostgreSQL the children that fit, on SQLite everything.
    async fn lock(world: &World, database: Database, children: &str) -> Self {
        match database {
            Database::Postgres => {
                let mut connection = sqlx::PgConnection::connect(&world.url).await.expect("a connection");
                let lock = format!("BEGIN; SELECT 1 FROM child WHERE {children} FOR UPDATE");
                connection.execute(sqlx::AssertSqlSafe(lock)).await.expect("locked");
                Self::Postgres(connection)
            }
            Database::Sqlite => {
                let mut connection = sqlx::SqliteConnection::connect(&world.url).await.expect("a connection");
                connection.execute("BEGIN IMMEDIATE").await.expect("locked");
                Self::Sqlite(connection)
            }
        }
    }

    async fn release(self) {
        match self {
            Self::Postgres(mut connection) => connection.execute("ROLLBACK").await.map(drop).expect("released"),
            Self::Sqlite(mut connection) => connection.execute("ROLLBACK").await.map(drop).expect("released"),
        }
    }
}

async fn a_locked_table_makes_batches_smaller(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    let request = RunRequest::of_plan(&plan)
        .execute()
        .batch_size(100)
        .duty_cycle_percent(100)
        .max_rows_per_second(100);
    // A second of rest after the first batch is enough to come in between, and would do no harm if it were not.
    let (run, mut stream) = started(&world.client, request).await;
    let blocker = Blocker::lock(&world, database, "parent_id >= 1000000").await;
    let taken = batches(&world, database, &run).await.len();
    let retried = until(&mut stream, |event| match event {
        Event::Warning(warning) => (warning.code == "BATCH_RETRIED").then(|| warning.message.clone()),
        _ => None,
    })
    .await;
    let expected = format!("batch {} of 100 rows is tried again in 50 ms with 100", taken + 1);
    assert!(retried.contains(&expected), "the first time as it was: {retried}");
    let slowdown = until(&mut stream, |event| match event {
        Event::Throttled(slowdown) => (slowdown.reason == "TIMEOUTS" && !slowdown.cleared).then(|| slowdown.clone()),
        _ => None,
    })
    .await;
    assert!(slowdown.value.contains("batches of 50 rows"), "{slowdown:?}");
    blocker.release().await;
    let update = LimitsUpdate::new(run.as_str()).max_rows_per_second(0);
    world.client.runs().update_limits(update).await.expect("limits");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    let sizes = batches(&world, database, &run).await;
    let after = &sizes[taken..];
    assert!(after[0] <= 50, "{sizes:?}");
    assert!(
        after.windows(2).all(|pair| pair[1] <= pair[0] + 100 / 16),
        "slowly back: {sizes:?}"
    );
    assert_eq!(sizes.iter().sum::<u64>(), ORPHANS);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

/// A pass that has not begun to list, because that takes long or because somebody keeps it waiting, is no reason to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_opens_its_scan_is_steered() {
    let world = World::new(Database::Postgres).await;
    let (run, mut stream) = slow_run(&world).await;
    world.client.runs().pause(run.as_str(), "").await.expect("a run");
    until_state(&mut stream, RunState::Paused).await;
    let mut blocker = sqlx::PgConnection::connect(&world.url).await.expect("a connection");
    let lock = "BEGIN; LOCK TABLE child IN ACCESS EXCLUSIVE MODE";
    blocker.execute(lock).await.expect("locked");
    world.client.runs().resume(run.as_str()).await.expect("a run");
    until_state(&mut stream, RunState::Running).await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE ANY (ARRAY['DECLARE%', '%pg_relation_size%'])";
    while world.db.fetch_text(waits).await.expect("sessions").is_empty() {
        tokio::task::yield_now().await;
    }
    let asked = Instant::now();
    world.client.runs().pause(run.as_str(), "at once").await.expect("a run");
    assert_eq!(until_state(&mut stream, RunState::Paused).await, "at once");
    let took = asked.elapsed();
    assert!(took < SOON, "{took:?}");
    blocker.execute("ROLLBACK").await.expect("released");
    world.client.runs().resume(run.as_str()).await.expect("a run");
    hasten(&world.client, &run).await;
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

/// A second session and a batch wait for each other: PostgreSQL ends the batch, which is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_survived() {
    let world = World::new(Database::Postgres).await;
    let before = world.hash("child").await;
    // The batch looks for a deadlock just before it gives up waiting, which leaves time to make one; the session never does.
    let name = world.url.rsplit('/').next().expect("a name");
    let patience = format!("ALTER DATABASE {name} SET deadlock_timeout = '1900ms'");
    world.db.execute(&patience).await.expect("set");
    let plan = world.plan("orphans").await;
    let request = RunRequest::of_plan(&plan)
        .execute()
        .batch_size(20)
        .duty_cycle_percent(100)
        .max_rows_per_second(20);
    let (run, mut stream) = started(&world.client, request).await;
    let mut session = sqlx::PgConnection::connect(&world.url).await.expect("a connection");
    session.execute("SET deadlock_timeout = '10min'").await.expect("set");
    let orphan = |offset: u32| format!("SELECT id FROM child WHERE parent_id >= 1000000 ORDER BY id OFFSET {offset} LIMIT 1");
    let waiting = "SELECT count(*)::text FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
         WHERE NOT l.granted AND a.application_name = 'dbkeep' AND a.datname = current_database()";
    // On a machine that is busy for two seconds the batch gives up waiting before there is a deadlock.
    for tries in 1.. {
        session.execute("BEGIN").await.expect("begun");
        let (first, later): (i32, i32) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT ({}), id FROM child WHERE id = ({}) FOR UPDATE",
            orphan(0),
            orphan(7)
        )))
        .fetch_one(&mut session)
        .await
        .expect("an orphan that no batch has yet");
        // The batch has the first orphan by the time it waits for the later one.
        while world.db.fetch_text(waiting).await.expect("a count")[0][0].as_deref() == Some("0") {}
        assert!(first < later);
        let lock = format!("SELECT 1 FROM child WHERE id = {first} FOR UPDATE");
        session.execute(sqlx::AssertSqlSafe(lock)).await.expect("the batch gives way");
        session.execute("ROLLBACK").await.expect("released");
        let retried = until(&mut stream, |event| match event {
            Event::Warning(warning) => (warning.code == "BATCH_RETRIED").then(|| warning.message.clone()),
            _ => None,
        })
        .await;
        if retried.contains("deadlock") {
            break;
        }
        assert!(tries < 5, "no deadlock in {tries} tries: {retried}");
    }
    hasten(&world.client, &run).await;
    let update = LimitsUpdate::new(run.as_str()).max_rows_per_second(0);
    world.client.runs().update_limits(update).await.expect("limits");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
    let undo = world.client.runs().undo(UndoRequest::new(run.as_str()).full_speed()).await;
    undo.expect("a stream").finish().await.expect("an end");
    assert_eq!(world.hash("child").await, before);
}

/// Statements over sixty rows run out of time, as the database says: batches are halved until they fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_runs_out_of_time_is_halved() {
    let world = World::new(Database::Postgres).await;
    world
        .db
        .execute(
            "CREATE FUNCTION too_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF (SELECT count(*) FROM gone) > 60 THEN RAISE 'canceling statement due to statement timeout' USING ERRCODE = '57014'; END IF; \
             RETURN NULL; END $$; \
             CREATE TRIGGER slow AFTER DELETE ON child REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION too_slow()",
        )
        .await
        .expect("a trigger");
    let plan = world.plan("orphans").await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(200).full_speed();
    let ended = world.client.cleanup().run(request).await.expect("a run").finish().await;
    let ended = ended.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    let sizes = batches(&world, Database::Postgres, &ended.id).await;
    assert_eq!(sizes[0], 50, "200, 100, 50: {sizes:?}");
    assert!(sizes.iter().all(|rows| *rows <= 60), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<u64>(), ORPHANS);
    let warnings = ended.report.expect("a report").warnings;
    assert!(
        warnings
            .iter()
            .any(|warning| warning.code == "BATCH_RETRIED" && warning.message.contains("batch 1 of 200 rows")),
        "{warnings:?}"
    );
}

/// A pause that comes by way of another server, over a shared control store.
#[tokio::test(flavor = "multi_thread")]
async fn another_server_steers_within_a_second() {
    let world = World::new(Database::Postgres).await;
    let store = fresh_database("shared_store").await.expect("a database");
    let shutdown = CancellationToken::new();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for name in ["one", "two"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut config = Config::embedded(world.folder.path().join(name))
            .with_store(store.clone())
            .with_target("app", world.url.clone(), world.catalog.display().to_string());
        config.backup_folder = Some(world.folder.path().join("backups"));
        servers.push(tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone())));
        clients.push(
            Client::builder()
                .address(&address)
                .reconnect(ReconnectPolicy::never())
                .connect()
                .await
                .expect("a connection"),
        );
    }
    let plan = clients[0]
        .cleanup()
        .plan(PlanRequest::new(["orphans"]))
        .await
        .expect("a plan");
    let (run, mut stream) = started(&clients[0], RunRequest::of_plan(&plan).execute().batch_size(1)).await;
    // Either server may have taken it up: both ways are measured.
    for client in [&clients[1], &clients[0], &clients[1]] {
        let asked = Instant::now();
        client.runs().pause(run.as_str(), "measured").await.expect("a run");
        until_state(&mut stream, RunState::Paused).await;
        let took = asked.elapsed();
        println!("paused after {} ms", took.as_millis());
        assert!(took < SOON, "{took:?}");
        client.runs().resume(run.as_str()).await.expect("a run");
        until_state(&mut stream, RunState::Running).await;
    }
    hasten(&clients[1], &run).await;
    let ended = stream.finish().await.expect("an end");
    assert_eq!(ended.state(), RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    shutdown.cancel();
    for server in servers {
        server.await.expect("no panic").expect("it ends in order");
    }
}
