//! End to end: a real server, the real client, both databases. Every rule of the contract that a caller can see.

mod support;

use dbkeep_client::{Client, DiscoverRequest, Error, PlanRequest, RunQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Durability, PrivatePostgres};
use futures::StreamExt as _;
use support::{CHILDREN, Database, ORPHANS, World, connect};

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    a_plan_counts_exactly_and_changes_nothing
    a_run_deletes_what_was_planned_and_undo_restores_it
    overlapping_rules_count_each_row_once
    a_dry_run_is_the_default
    severities_ask_for_what_they_need
    bad_input_is_named_and_changes_nothing
    a_plan_token_is_checked
    a_drifted_count_is_refused
    a_changed_schema_is_refused
    an_empty_parent_is_refused
    too_large_a_share_is_refused
    a_request_id_makes_calls_idempotent
    one_run_at_a_time_holds_a_table
    a_cancelled_run_keeps_what_it_committed
    a_stream_resumes_without_gap_or_repeat
    a_shutdown_hands_the_run_back_and_a_restart_goes_on
    conflicts_are_reported_and_left
    a_damaged_backup_is_found
    runs_are_listed_page_by_page
    a_discovered_rule_is_a_catalog_that_runs
}

async fn a_plan_counts_exactly_and_changes_nothing(database: Database) {
    let world = World::new(database).await;
    let before = world.hash("child").await;
    let plan = world.plan("orphans").await;
    let step = &plan.steps[0];
    assert_eq!(
        (plan.row_count, step.row_count, step.table_row_count),
        (ORPHANS, ORPHANS, CHILDREN)
    );
    assert!(
        step.captured && step.capture_bytes > ORPHANS * 10,
        "{} bytes",
        step.capture_bytes
    );
    assert_eq!(step.samples.len(), 10);
    assert!(
        step.samples[0]
            .values
            .iter()
            .any(|value| value.column == "note" && value.value.as_deref().is_some_and(|note| note.starts_with("note ")))
    );
    assert!(!plan.blocked && !plan.token.is_empty() && plan.schema_fingerprint.len() == 64 && plan.digest.len() == 64);
    assert_eq!(world.hash("child").await, before);

    let stale = world.plan("stale").await;
    assert_eq!(stale.row_count, 200, "a NULL time never expires");
    assert!(stale.steps[0].horizon.is_some() && !stale.steps[0].captured);
}

async fn a_run_deletes_what_was_planned_and_undo_restores_it(database: Database) {
    let world = World::new(database).await;
    let before = world.hash("child").await;
    let run = world.clean("orphans").await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let report = run.report.expect("a report");
    assert_eq!(
        (report.rows_planned, report.rows_affected, report.rows_captured),
        (ORPHANS, ORPHANS, ORPHANS)
    );
    assert_eq!(report.steps[0].batches, ORPHANS.div_ceil(100));
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
    assert_eq!(
        world.db.count_where("child", "parent_id >= 1000000").await.expect("a count"),
        0
    );

    let backups = world.client.backups().list_all(Default::default()).await.expect("backups");
    assert_eq!(
        (backups.len(), backups[0].row_count, backups[0].id.as_str()),
        (1, ORPHANS, run.id.as_str())
    );
    assert_eq!(backups[0].verification(), proto::VerificationState::Unverified);
    let verified = world
        .client
        .backups()
        .verify(run.id.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
    assert_eq!(verified.report.expect("a report").rows_affected, ORPHANS);
    let backup = world.client.backups().get(run.id.as_str(), 0).await.expect("a backup");
    assert_eq!(backup.backup.verification(), proto::VerificationState::Verified);
    assert_eq!(backup.chunks.iter().map(|chunk| chunk.row_count).sum::<u64>(), ORPHANS);

    let undo = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()).full_speed())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(world.hash("child").await, before, "as before, bit by bit");
    assert_eq!(
        world
            .client
            .runs()
            .get(run.id.as_str())
            .await
            .expect("the run")
            .undone_by_run_id,
        undo.id
    );
    let again = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()))
        .await
        .expect_err("a second undo is refused");
    assert!(matches!(again, Error::RunState { .. }), "{again:?}");

    // Without a backup there is nothing to undo.
    let run = world.clean("stale").await;
    assert_eq!(
        run.report.as_ref().map(|report| (report.rows_affected, report.rows_captured)),
        Some((200, 0))
    );
    let refused = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()))
        .await
        .expect_err("nothing to undo");
    assert!(matches!(refused, Error::NothingCaptured { .. }), "{refused:?}");
}

async fn overlapping_rules_count_each_row_once(database: Database) {
    let world = World::new(database).await;
    let both = world
        .db
        .count_where(
            "child",
            "other_id IS NOT NULL AND NOT (parent_id IS NOT NULL AND parent_id >= 1000000)",
        )
        .await
        .expect("a count");
    let plan = world.plan("both").await;
    assert_eq!(
        plan.steps.iter().map(|step| step.row_count).collect::<Vec<_>>(),
        [ORPHANS, both]
    );
    let run = world.clean("both").await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let steps = run.report.expect("a report").steps;
    assert_eq!(
        steps.iter().map(|step| step.rows_affected).collect::<Vec<_>>(),
        [ORPHANS, both]
    );
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS - both);
}

async fn a_dry_run_is_the_default(database: Database) {
    let world = World::new(database).await;
    let before = world.hash("child").await;
    let mut events = world
        .client
        .cleanup()
        .run(RunRequest::new(["orphans"]))
        .await
        .expect("a stream");
    let mut token = None;
    while let Some(event) = events.next().await {
        if let Some(proto::run_event::Event::PlanReady(ready)) = event.expect("an event").event {
            assert_eq!(ready.row_count, ORPHANS);
            token = Some(ready.plan_token);
        }
    }
    let run = events.finish().await.expect("the run");
    assert_eq!(
        (run.state(), run.options.and_then(|options| options.dry_run)),
        (proto::RunState::Succeeded, Some(true))
    );
    assert_eq!(world.hash("child").await, before, "nothing was deleted");
    // What was reviewed can be run.
    let request = RunRequest::new(Vec::<String>::new())
        .plan_token(token.expect("a token"))
        .execute()
        .full_speed();
    let run = world
        .client
        .cleanup()
        .run(request)
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.report.expect("a report").rows_affected, ORPHANS);
}

async fn severities_ask_for_what_they_need(database: Database) {
    let world = World::new(database).await;
    for operation in ["orphans", "both"] {
        let error = world
            .client
            .cleanup()
            .run(RunRequest::new([operation]).execute())
            .await
            .expect_err("a token is needed");
        assert!(matches!(error, Error::PlanRequired { .. }), "{error:?}");
    }
    let plan = world.plan("dangerous").await;
    let error = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .expect_err("a phrase is needed");
    assert!(matches!(error, Error::ConfirmationPhrase { .. }), "{error:?}");
    let run = world
        .client
        .cleanup()
        .run(RunRequest::new(["stale"]).execute())
        .await
        .expect("LOW runs at once")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN);
}

async fn bad_input_is_named_and_changes_nothing(database: Database) {
    let world = World::new(database).await;
    let before = (world.hash("child").await, world.hash("session").await);
    let run = |request: RunRequest| async { world.client.cleanup().run(request).await.expect_err("refused") };
    for (request, field) in [
        (RunRequest::new(["stale"]).execute().batch_size(0), "options.batch_size"),
        (RunRequest::new(["stale"]).execute().batch_size(10_001), "options.batch_size"),
        (
            RunRequest::new(["stale"])
                .execute()
                .max_execution_time(std::time::Duration::from_secs(59)),
            "options.max_execution_time",
        ),
        (
            RunRequest::new(["stale"])
                .execute()
                .max_execution_time(std::time::Duration::from_secs(7_201)),
            "options.max_execution_time",
        ),
        (RunRequest::new(Vec::<String>::new()).execute(), "operations"),
        (RunRequest::new(["stale", "stale"]).execute(), "operations[1]"),
        (RunRequest::new(["stale"]).execute().request_id("x".repeat(65)), "request_id"),
    ] {
        match run(request).await {
            Error::InvalidField { violations, .. } => {
                assert_eq!(violations[0].field, field);
                assert!(
                    violations[0].description.contains("expected"),
                    "{}",
                    violations[0].description
                );
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    let unknown = run(RunRequest::new(["nonsense"]).execute()).await;
    assert!(
        matches!(&unknown, Error::UnknownOperation { known, .. } if known.iter().any(|name| name == "orphans")),
        "{unknown:?}"
    );
    let unknown = run(RunRequest::new(["stale"]).target("elsewhere").execute()).await;
    assert!(matches!(unknown, Error::UnknownTarget { .. }), "{unknown:?}");
    for id in ["", "no-uuid", "0190a000-0000-7000-8000-000000000000"] {
        let error = world.client.runs().get(id).await.expect_err("no such run");
        assert!(
            matches!(error, Error::UnknownRun { .. } | Error::InvalidField { .. }),
            "{error:?}"
        );
        let error = world.client.backups().get(id, 0).await.expect_err("no such backup");
        assert!(
            matches!(error, Error::UnknownBackup { .. } | Error::InvalidField { .. }),
            "{error:?}"
        );
    }
    let run = world.clean("stale").await;
    let ahead = world
        .client
        .runs()
        .watch_after(run.id.as_str(), 10_000)
        .await
        .expect_err("no such event");
    assert!(matches!(ahead, Error::SequenceAhead { .. }), "{ahead:?}");
    let ended = world
        .client
        .runs()
        .cancel(run.id.as_str(), "too late")
        .await
        .expect_err("it has ended");
    assert!(matches!(ended, Error::RunState { .. }), "{ended:?}");
    assert_eq!(world.hash("child").await, before.0);
}

async fn a_plan_token_is_checked(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    let run = |request: RunRequest| async { world.client.cleanup().run(request.execute()).await.expect_err("refused") };
    let with = |token: &str| RunRequest::new(["orphans"]).plan_token(token);
    let mut foreign = plan.token.clone();
    foreign.replace_range(10..12, if &foreign[10..12] == "00" { "11" } else { "00" });
    let mut forged = plan.token.clone();
    let end = forged.len();
    forged.replace_range(end - 1.., if forged.ends_with('0') { "1" } else { "0" });
    for token in ["nonsense", "plan_", &foreign, &forged] {
        let error = run(with(token)).await;
        assert!(matches!(error, Error::UnknownPlan { .. }), "{token}: {error:?}");
    }
    let error = run(RunRequest::new(["stale"]).plan_token(&plan.token)).await;
    assert!(matches!(error, Error::PlanMismatch { .. }), "{error:?}");
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN);
}

async fn a_drifted_count_is_refused(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    // Ten times what was reviewed: somebody broke the parents.
    world.db.execute("DELETE FROM parent WHERE id > 100").await.expect("deleted");
    let before = world.hash("child").await;
    let error = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .expect_err("refused");
    assert!(matches!(error, Error::CountDrifted { .. }), "{error:?}");
    assert_eq!(world.hash("child").await, before);
}

async fn a_changed_schema_is_refused(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    world
        .db
        .execute("ALTER TABLE child ADD COLUMN extra text")
        .await
        .expect("altered");
    let error = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .expect_err("refused");
    assert!(matches!(error, Error::SchemaChanged { .. }), "{error:?}");
    // A column that the rule names vanished: file and line of the rule.
    world
        .db
        .execute("ALTER TABLE child RENAME COLUMN parent_id TO father_id")
        .await
        .expect("altered");
    let error = world
        .client
        .cleanup()
        .plan(PlanRequest::new(["orphans"]))
        .await
        .expect_err("refused");
    assert!(
        matches!(&error, Error::CatalogMismatch { origin, .. } if origin.contains("catalog.toml:9")),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("father_id"),
        "the message names the columns there are: {error}"
    );
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN);
}

async fn blocked_by(world: &World, operation: &str) -> String {
    let plan = world.plan(operation).await;
    assert!(plan.blocked);
    match world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .expect_err("refused")
    {
        Error::PlanBlocked { finding, .. } => finding,
        other => panic!("{other:?}"),
    }
}

async fn an_empty_parent_is_refused(database: Database) {
    let world = World::new(database).await;
    world.db.execute("DELETE FROM parent").await.expect("deleted");
    assert_eq!(blocked_by(&world, "orphans").await, "EMPTY_PARENT");
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN);
}

async fn too_large_a_share_is_refused(database: Database) {
    let world = World::new(database).await;
    world
        .db
        .execute("UPDATE child SET parent_id = 5000000 + id WHERE id > 1000")
        .await
        .expect("updated");
    assert_eq!(blocked_by(&world, "orphans").await, "OVER_MAX_FRACTION");
}

async fn a_request_id_makes_calls_idempotent(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    let request = || RunRequest::of_plan(&plan).execute().full_speed().request_id("nightly-42");
    let first = world
        .client
        .cleanup()
        .run(request())
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end");
    let second = world
        .client
        .cleanup()
        .run(request())
        .await
        .expect("the same run")
        .finish()
        .await
        .expect("an end");
    assert_eq!(first.id, second.id);
    assert_eq!(
        world.client.runs().list_all(RunQuery::default()).await.expect("runs").len(),
        1
    );
    let other = world
        .client
        .cleanup()
        .run(RunRequest::new(["stale"]).execute().request_id("nightly-42"))
        .await
        .expect_err("reused");
    assert!(
        matches!(&other, Error::RequestIdReused { run, .. } if *run == first.id),
        "{other:?}"
    );
    assert_eq!(
        world.db.count_where("session", "expires_at <= 200").await.expect("a count"),
        200
    );
}

/// Starts a run that cannot end by itself for a while: one row a batch, with rests.
async fn slow_run(client: &Client, plan: &proto::Plan) -> (String, dbkeep_client::RunStream) {
    let mut stream = client
        .cleanup()
        .run(RunRequest::of_plan(plan).execute().batch_size(1))
        .await
        .expect("a run");
    loop {
        let event = stream.next().await.expect("an event").expect("an event");
        if matches!(event.event, Some(proto::run_event::Event::Progress(_))) {
            return (event.run_id, stream);
        }
    }
}

async fn one_run_at_a_time_holds_a_table(database: Database) {
    let world = World::new(database).await;
    let plan = world.plan("orphans").await;
    let (run, stream) = slow_run(&world.client, &plan).await;
    let error = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&world.plan("both").await).execute())
        .await
        .expect_err("the table is held");
    assert!(
        matches!(&error, Error::RunAlreadyActive { run: holder, .. } if *holder == run),
        "{error:?}"
    );
    // Another table is free.
    let other = world
        .client
        .cleanup()
        .run(RunRequest::new(["stale"]).execute().full_speed())
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end");
    assert_eq!(other.state(), proto::RunState::Succeeded);
    world.client.runs().cancel(run.as_str(), "enough").await.expect("cancelled");
    assert_eq!(stream.finish().await.expect("an end").state(), proto::RunState::Cancelled);
    // Now the table is free too.
    assert_eq!(world.clean("orphans").await.state(), proto::RunState::Succeeded);
}

async fn a_cancelled_run_keeps_what_it_committed(database: Database) {
    let world = World::new(database).await;
    let before = world.hash("child").await;
    let plan = world.plan("orphans").await;
    let (run, stream) = slow_run(&world.client, &plan).await;
    world
        .client
        .runs()
        .cancel(run.as_str(), "changed my mind")
        .await
        .expect("cancelled");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(
        (ended.state(), ended.state_reason.as_str()),
        (proto::RunState::Cancelled, "changed my mind")
    );
    let deleted = ended.report.expect("a report").rows_affected;
    assert!(deleted > 0 && deleted < ORPHANS, "{deleted} rows");
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - deleted);
    world
        .client
        .runs()
        .cancel(run.as_str(), "again")
        .await
        .expect("cancelling twice is no error");
    let undo = world
        .client
        .runs()
        .undo(UndoRequest::new(run.as_str()).full_speed())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.report.expect("a report").rows_affected, deleted);
    assert_eq!(world.hash("child").await, before);
}

async fn a_stream_resumes_without_gap_or_repeat(database: Database) {
    let world = World::new(database).await;
    let run = world.clean("orphans").await;
    let all: Vec<_> = world
        .client
        .runs()
        .watch(run.id.as_str())
        .await
        .expect("a stream")
        .map(|event| event.expect("an event"))
        .collect()
        .await;
    assert!(
        all.iter()
            .all(|event| event.coalesced == 0 || matches!(event.event, Some(proto::run_event::Event::Progress(_))))
    );
    let mut expected = 1;
    for event in &all {
        assert_eq!(event.sequence, expected + event.coalesced);
        expected = event.sequence + 1;
    }
    assert_eq!(all.last().map(|event| event.sequence), Some(run.last_sequence));
    for event in &all {
        let rest: Vec<_> = world
            .client
            .runs()
            .watch_after(run.id.as_str(), event.sequence)
            .await
            .expect("a stream")
            .map(|event| event.expect("an event"))
            .collect()
            .await;
        assert_eq!(
            rest.first().map(|next| next.sequence - next.coalesced),
            (event.sequence < run.last_sequence).then_some(event.sequence + 1)
        );
    }
}

async fn a_shutdown_hands_the_run_back_and_a_restart_goes_on(database: Database) {
    let mut world = World::new(database).await;
    let plan = world.plan("orphans").await;
    let (run, mut stream) = slow_run(&world.client, &plan).await;
    let last = stream.last_sequence();
    world.restart().await;
    // The client's stream finds the server again by itself; the run goes on from its journal to its end.
    let mut sequence = last;
    let mut states = Vec::new();
    while let Some(event) = stream.next().await {
        let event = event.expect("an event");
        assert_eq!(event.sequence, sequence + 1 + event.coalesced, "no gap, no repeat");
        sequence = event.sequence;
        if let Some(proto::run_event::Event::StateChanged(change)) = event.event {
            states.push(change.to());
        }
    }
    use proto::RunState::{Interrupted, Running, Succeeded};
    assert_eq!(states, [Interrupted, Running, Succeeded]);
    let ended = connect(&world.address).await.runs().get(run.as_str()).await.expect("the run");
    assert_eq!((ended.attempts, ended.report.expect("a report").rows_affected), (2, ORPHANS));
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

async fn conflicts_are_reported_and_left(database: Database) {
    let world = World::new(database).await;
    let run = world.clean("orphans").await;
    world
        .db
        .execute("INSERT INTO child (id, parent_id, note) VALUES (5, 1, 'somebody else'), (10, 1, 'somebody else')")
        .await
        .expect("inserted");
    let undo = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()).full_speed())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::PartiallySucceeded, "{}", undo.state_reason);
    let report = undo.report.expect("a report");
    assert_eq!((report.rows_affected, report.rows_conflicting), (ORPHANS - 2, 2));
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.code == "UNDO_CONFLICT" && warning.message.contains("id=5")),
        "{:?}",
        report.warnings
    );
    assert_eq!(
        world
            .db
            .count_where("child", "note = 'somebody else'")
            .await
            .expect("a count"),
        2,
        "never overwritten"
    );
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN);
}

async fn a_damaged_backup_is_found(database: Database) {
    let world = World::new(database).await;
    let run = world.clean("orphans").await;
    let folder = world.folder.path().join("data/backups").join(&run.id);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let mut bytes = std::fs::read(&files[1]).expect("a chunk");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[1], bytes).expect("written");
    std::fs::remove_file(&files[2]).expect("removed");
    let verified = world
        .client
        .backups()
        .verify(run.id.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(verified.state(), proto::RunState::Failed, "{}", verified.state_reason);
    let warnings = verified.report.expect("a report").warnings;
    assert_eq!(
        warnings.iter().filter(|warning| warning.code == "BACKUP_DAMAGED").count(),
        2,
        "{warnings:?}"
    );
    let backup = world.client.backups().get(run.id.as_str(), 0).await.expect("a backup");
    assert_eq!(backup.backup.verification(), proto::VerificationState::Damaged);
    // What is whole still comes back; what is not is named.
    let undo = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()).full_speed())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::PartiallySucceeded);
    assert_eq!(undo.report.expect("a report").rows_affected, ORPHANS - 200);
}

async fn runs_are_listed_page_by_page(database: Database) {
    let world = World::new(database).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(
            world
                .client
                .cleanup()
                .run(RunRequest::new(["stale"]))
                .await
                .expect("a dry run")
                .finish()
                .await
                .expect("an end")
                .id,
        );
    }
    made.reverse();
    let listed = world
        .client
        .runs()
        .list_all(RunQuery::default().page_size(2))
        .await
        .expect("runs");
    assert_eq!(
        listed.iter().map(|run| run.id.clone()).collect::<Vec<_>>(),
        made,
        "newest first, each once"
    );
    let none = world
        .client
        .runs()
        .list_all(RunQuery::default().operation("orphans"))
        .await
        .expect("runs");
    assert!(none.is_empty());
    let page = |token: &str, target: &str| proto::ListRunsRequest {
        filter: Some(proto::RunFilter {
            target: target.to_owned(),
            ..Default::default()
        }),
        page_size: 2,
        page_token: token.to_owned(),
    };
    let first = world.client.runs().list_page(page("", "")).await.expect("a page");
    for (token, target) in [("nonsense", ""), (first.next_page_token.as_str(), "app")] {
        let error = world.client.runs().list_page(page(token, target)).await.expect_err("refused");
        assert!(
            matches!(&error, Error::InvalidField { violations, .. } if violations[0].field == "page_token"),
            "{error:?}"
        );
    }
}

/// The database goes away in the middle of a run and comes back: the run says so, waits, and goes on; no batch is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_waited_for() {
    let cluster = PrivatePostgres::start(Durability::Fast).await.expect("a cluster");
    cluster.create_database("app").await.expect("a database");
    let world = World::on(cluster.url("app"), tempfile::tempdir().expect("a folder"), support::CATALOG).await;
    let plan = world.plan("orphans").await;
    let (run, mut stream) = slow_run(&world.client, &plan).await;
    cluster.stop_immediate().await.expect("stopped");
    loop {
        let event = stream.next().await.expect("an event").expect("an event");
        if let Some(proto::run_event::Event::StateChanged(change)) = event.event {
            assert_eq!(change.to(), proto::RunState::Interrupted, "{}", change.reason);
            assert!(change.reason.contains("out of reach"), "{}", change.reason);
            break;
        }
    }
    let down = world
        .client
        .cleanup()
        .plan(PlanRequest::new(["stale"]))
        .await
        .expect_err("it is down");
    assert!(matches!(down, Error::TargetUnavailable { .. }), "{down:?}");
    cluster.start_again().await.expect("started");
    let ended = stream.finish().await.expect("an end");
    assert_eq!(
        (ended.id.as_str(), ended.state()),
        (run.as_str(), proto::RunState::Succeeded),
        "{}",
        ended.state_reason
    );
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    let left = dbkeep_testkit::Db::open(&cluster.url("app")).await.expect("a connection");
    assert_eq!(left.count("child").await.expect("a count"), CHILDREN - ORPHANS);
}

async fn a_discovered_rule_is_a_catalog_that_runs(database: Database) {
    let mut world = World::new(database).await;
    let before = world.hash("child").await;
    let found = world
        .client
        .cleanup()
        .discover(DiscoverRequest::default())
        .await
        .expect("a discovery");
    assert!(
        found.complete && found.warnings.is_empty() && found.table_count == 3,
        "{found:?}"
    );
    let [proposal] = found.proposals.as_slice() else {
        panic!("{:#?}", found.proposals)
    };
    assert_eq!(
        (proposal.table.as_str(), proposal.columns.as_slice()),
        ("child", &["parent_id".to_owned()][..])
    );
    assert_eq!(
        (proposal.parent.as_str(), proposal.parent_columns.as_slice()),
        ("parent", &["id".to_owned()][..])
    );
    assert_eq!((proposal.row_count, proposal.supported), (Some(ORPHANS), true));
    assert!(proposal.note.contains("already, in operation orphans"), "{}", proposal.note);
    assert_eq!(world.hash("child").await, before);

    std::fs::write(&world.catalog, &proposal.toml).expect("a catalog");
    world.restart().await;
    world.client = connect(&world.address).await;
    let run = world.clean(&proposal.operation).await;
    assert_eq!(run.report.as_ref().map(|report| report.rows_affected), Some(ORPHANS));
    let again = world
        .client
        .cleanup()
        .discover(DiscoverRequest::default())
        .await
        .expect("a discovery");
    assert_eq!(again.proposals[0].row_count, Some(0));
    assert!(again.proposals[0].confidence > proposal.confidence, "{again:?}");
    let undo = world.client.runs().undo(run.id.as_str()).await.expect("an undo");
    undo.finish().await.expect("an end");
    assert_eq!(world.hash("child").await, before);

    for (request, field) in [
        (DiscoverRequest::default().table("child").table("nowhere"), "tables"),
        (DiscoverRequest::default().min_confidence(1.5), "min_confidence"),
        (DiscoverRequest::default().limit(1_001), "limit"),
    ] {
        match world.client.cleanup().discover(request).await {
            Err(Error::InvalidField { violations, .. }) => assert_eq!(violations[0].field, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let nowhere = world
        .client
        .cleanup()
        .discover(DiscoverRequest::default().target("nowhere"))
        .await;
    assert!(matches!(nowhere, Err(Error::UnknownTarget { .. })), "{nowhere:?}");
    // Little time is no reason for an error: the answer says that it is not complete, or came in time.
    let hasty = Client::builder()
        .address(&world.address)
        .plan_timeout(std::time::Duration::from_secs(2));
    let hasty = hasty.connect().await.expect("a connection");
    hasty
        .cleanup()
        .discover(DiscoverRequest::default())
        .await
        .expect("an answer in time");
}
