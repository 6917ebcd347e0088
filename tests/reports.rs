//! Reports over several operations: a real server, the real client, both databases.

mod support;

use dbkeep_client::{Error, OperationQuery, PlanRequest, RunRequest, proto};
use futures::StreamExt as _;
use support::{CHILDREN, Database, ORPHANS, World};

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    an_operation_that_fails_does_not_stop_the_others
    what_changes_under_one_operation_fails_that_one_alone
    an_archive_table_that_cannot_be_made_fails_its_operation_alone
    a_run_stops_on_failure_where_asked
    a_run_in_which_everything_fails_has_failed
    an_operation_over_its_expected_time_is_named_once
    steps_that_never_began_say_so
    operations_are_listed_by_category_and_severity
    the_log_of_a_run_that_ended_comes_whole
}

/// `first` has a rule on `session` and one on `child`, `second` one on `child`, `third` one on other rows of `session`.
const CATALOG: &str = r#"
[[operation]]
name = "first"
category = "EXPIRED_DATA"
severity = "LOW"
backup = false
expected_time = "PT1S"

[[operation.rule]]
name = "sessions"
kind = "expired"
table = "session"
column = "expires_at"
expiry = true
encoding = "unix_seconds"

[[operation.rule]]
name = "others"
kind = "orphan"
table = "child"
columns = ["other_id"]
parent = "parent"
parent_columns = ["id"]

[[operation]]
name = "second"
category = "ORPHANED_DATA"
severity = "MEDIUM"
backup = true
expected_time = "PT1H"

[[operation.rule]]
name = "parents"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]

[[operation]]
name = "third"
category = "EXPIRED_DATA"
severity = "MEDIUM"
backup = true

[[operation.rule]]
name = "sessions_again"
kind = "orphan"
table = "session"
columns = ["id"]
parent = "parent"
parent_columns = ["id"]
max_fraction = 1.0
"#;

/// Makes the database refuse every DELETE on this table.
async fn keep_all(world: &World, table: &str) {
    let sql = if world.url.starts_with("sqlite") {
        format!("CREATE TRIGGER keep_{table} AFTER DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'rows of {table} are kept'); END")
    } else {
        format!(
            "CREATE FUNCTION keep_{table}() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'rows of {table} are kept'; END $$; \
             CREATE TRIGGER keep_{table} AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep_{table}()"
        )
    };
    world.db.execute(&sql).await.expect("a trigger");
}

async fn plan(world: &World, operations: &[&str]) -> proto::Plan {
    let request = PlanRequest::new(operations.iter().copied());
    world.client.cleanup().plan(request).await.expect("a plan")
}

/// Executes a plan; the run with its events.
async fn events_of(world: &World, request: RunRequest) -> (proto::Run, Vec<proto::RunEvent>) {
    let mut stream = world.client.cleanup().run(request.full_speed()).await.expect("a run");
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event.expect("an event"));
    }
    (stream.finish().await.expect("the run"), events)
}

/// Each operation's name, state and verdict.
fn verdicts(report: &proto::RunReport) -> Vec<(&str, proto::StepState, proto::ReportStatus)> {
    let operations = report.operations.iter();
    operations
        .map(|operation| (operation.operation.as_str(), operation.state(), operation.status()))
        .collect()
}

fn sums_agree(report: &proto::RunReport) {
    let sum = |number: fn(&proto::OperationReport) -> u64| report.operations.iter().map(number).sum::<u64>();
    assert_eq!(sum(|operation| operation.rows_planned), report.rows_planned);
    assert_eq!(sum(|operation| operation.rows_examined), report.rows_examined);
    assert!(report.rows_examined >= report.rows_affected, "whatever went was looked at");
    assert_eq!(sum(|operation| operation.rows_affected), report.rows_affected);
    assert_eq!(sum(|operation| operation.rows_captured), report.rows_captured);
    assert_eq!(sum(|operation| operation.captured_bytes), report.captured_bytes);
}

async fn an_operation_that_fails_does_not_stop_the_others(database: Database) {
    use proto::{ReportStatus, StepState};
    let world = World::with_catalog(database, CATALOG).await;
    keep_all(&world, "session").await;
    let plan = plan(&world, &["first", "second", "third"]).await;
    let (run, _) = events_of(&world, RunRequest::of_plan(&plan).execute()).await;
    assert_eq!(run.state(), proto::RunState::PartiallySucceeded, "{}", run.state_reason);
    let report = run.report.expect("a report");
    assert_eq!(report.status(), ReportStatus::PartialSuccess);
    assert_eq!(
        verdicts(&report),
        [
            ("first", StepState::Partial, ReportStatus::PartialSuccess),
            ("second", StepState::Succeeded, ReportStatus::Success),
            ("third", StepState::Failed, ReportStatus::Failed),
        ],
        "the other rule of the first operation went on, and the operations after it too"
    );
    assert!(
        report.steps[0].message.contains("rows of session are kept"),
        "{}",
        report.steps[0].message
    );
    let [first, second, third] = &report.operations[..] else {
        panic!("{} operations", report.operations.len())
    };
    assert_eq!((first.error_count, second.error_count, third.error_count), (1, 0, 1));
    assert_eq!((&first.step_indexes[..], &third.step_indexes[..]), (&[0, 1][..], &[3][..]));
    assert_eq!(
        (first.category.as_str(), first.severity()),
        ("EXPIRED_DATA", proto::Severity::Low)
    );
    assert_eq!(second.severity(), proto::Severity::Medium);
    assert_eq!(second.expected_duration.as_ref().map(|time| time.seconds), Some(3_600));
    assert_eq!(third.expected_duration, None);
    assert!(second.rows_captured == second.rows_affected && second.rows_affected > 0);
    sums_agree(&report);
    // What the report says is what the database holds.
    assert_eq!(world.db.count("session").await.expect("a count"), 500);
    let left = world.db.count("child").await.expect("a count");
    assert_eq!(left, CHILDREN - report.rows_affected);
    // The report can be read later, and is the same.
    let again = world.client.runs().get(run.id.as_str()).await.expect("the run");
    assert_eq!(again.report, Some(report));
}

/// Begins a run, changes the database by `sql` after the first batch, and waits for the end.
async fn meddled(world: &World, request: RunRequest, sql: &str) -> proto::Run {
    let request = request.execute().batch_size(10).max_rows_per_second(200);
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    loop {
        let event = stream.next().await.expect("no end yet").expect("an event");
        if matches!(&event.event, Some(proto::run_event::Event::Progress(progress)) if progress.rows_affected > 0) {
            break;
        }
    }
    world.db.execute(sql).await.expect("a change");
    stream.finish().await.expect("an end")
}

async fn what_changes_under_one_operation_fails_that_one_alone(database: Database) {
    use proto::{ReportStatus, StepState};
    // On PostgreSQL a new trigger, since a new column would wait for the listing of the rows.
    let reshape = |table: &str| match database {
        Database::Postgres => format!(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
             CREATE TRIGGER grown AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION nothing()"
        ),
        Database::Sqlite => format!("ALTER TABLE {table} ADD COLUMN grown integer"),
    };
    let emptied = || "DELETE FROM parent".to_owned();
    let cases = [
        (emptied(), "parent", "was emptied during the run", false),
        (reshape("parent"), "parent", "changed its shape", false),
        (reshape("child"), "child", "changed its shape", false),
        (emptied(), "parent", "was emptied during the run", true),
    ];
    for (sql, table, says, stop) in cases {
        let world = World::new(database).await;
        let plan = plan(&world, &["orphans", "stale"]).await;
        let mut request = RunRequest::of_plan(&plan);
        if stop {
            request = request.stop_on_failure();
        }
        let run = meddled(&world, request, &sql).await;
        // A run of which nothing came to its end has failed.
        let (state, status, after) = if stop {
            let skipped = ("stale", StepState::Skipped, ReportStatus::Unspecified);
            (proto::RunState::Failed, ReportStatus::Failed, skipped)
        } else {
            let done = ("stale", StepState::Succeeded, ReportStatus::Success);
            (proto::RunState::PartiallySucceeded, ReportStatus::PartialSuccess, done)
        };
        assert_eq!(run.state(), state, "{sql}: {}", run.state_reason);
        let report = run.report.expect("a report");
        assert_eq!(report.status(), status, "{sql}");
        assert_eq!(
            verdicts(&report),
            [("orphans", StepState::Failed, ReportStatus::Failed), after],
            "{sql}"
        );
        let message = &report.steps[0].message;
        assert!(message.contains(table) && message.contains(says), "{message}");
        let gone = report.steps[0].rows_affected;
        assert!(gone > 0 && gone < ORPHANS, "{sql}: {gone} rows");
        assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - gone);
        let sessions = if stop { 500 } else { 300 };
        assert_eq!(world.db.count("session").await.expect("a count"), sessions, "{sql}");
    }
}

async fn an_archive_table_that_cannot_be_made_fails_its_operation_alone(database: Database) {
    use proto::{ReportStatus, StepState};
    let archiving = CATALOG.replacen(
        "expiry = true\n",
        "expiry = true\naction = \"archive\"\ninto = \"old_session\"\nstamp = \"archived_at\"\n",
        1,
    );
    let world = World::with_catalog(database, &archiving).await;
    let plan = plan(&world, &["second", "first"]).await;
    // The name is taken by the time that the table is needed.
    let taken = match database {
        Database::Postgres => "CREATE TYPE old_session AS ENUM ('taken')",
        Database::Sqlite => "CREATE TABLE spare (id integer); CREATE INDEX old_session ON spare (id)",
    };
    let run = meddled(&world, RunRequest::of_plan(&plan), taken).await;
    let report = run.report.expect("a report");
    assert_eq!(
        verdicts(&report),
        [
            ("second", StepState::Succeeded, ReportStatus::Success),
            ("first", StepState::Partial, ReportStatus::PartialSuccess),
        ],
        "{}",
        run.state_reason
    );
    let states: Vec<_> = report.steps.iter().map(|step| (step.rule.as_str(), step.state())).collect();
    assert_eq!(
        states,
        [
            ("parents", StepState::Succeeded),
            ("sessions", StepState::Failed),
            ("others", StepState::Succeeded)
        ]
    );
    assert_eq!(world.db.count("session").await.expect("a count"), 500);
}

async fn a_run_stops_on_failure_where_asked(database: Database) {
    use proto::{ReportStatus, StepState};
    let world = World::with_catalog(database, CATALOG).await;
    keep_all(&world, "session").await;
    let before = world.db.count("child").await.expect("a count");
    let plan = plan(&world, &["first", "second", "third"]).await;
    let (run, events) = events_of(&world, RunRequest::of_plan(&plan).execute().stop_on_failure()).await;
    assert!(run.options.as_ref().is_some_and(|options| options.stop_on_failure));
    assert_eq!(run.state(), proto::RunState::PartiallySucceeded, "{}", run.state_reason);
    let report = run.report.expect("a report");
    assert_eq!(
        verdicts(&report),
        [
            ("first", StepState::Partial, ReportStatus::PartialSuccess),
            ("second", StepState::Skipped, ReportStatus::Unspecified),
            ("third", StepState::Skipped, ReportStatus::Unspecified),
        ]
    );
    assert_eq!(
        report.steps[2].message,
        "not begun: operation first failed in rule sessions, and the run stops on failure"
    );
    sums_agree(&report);
    let gone = report.operations[0].rows_affected;
    assert!(gone > 0, "the other rule of the operation that failed went on");
    assert_eq!(world.db.count("child").await.expect("a count"), before - gone);
    // Whoever watches learns of the steps that are left out.
    let skipped = events.iter().filter_map(|event| match &event.event {
        Some(proto::run_event::Event::StepFinished(finished)) => finished.step.as_ref(),
        _ => None,
    });
    let skipped = skipped
        .filter(|step| step.state() == StepState::Skipped)
        .map(|step| step.index)
        .collect::<Vec<_>>();
    assert_eq!(skipped, [2, 3]);
}

async fn a_run_in_which_everything_fails_has_failed(database: Database) {
    let world = World::with_catalog(database, CATALOG).await;
    keep_all(&world, "session").await;
    keep_all(&world, "child").await;
    let before = (world.hash("child").await, world.hash("session").await);
    for stop in [false, true] {
        let plan = plan(&world, &["second", "third"]).await;
        let mut request = RunRequest::of_plan(&plan).execute();
        if stop {
            request = request.stop_on_failure();
        }
        let (run, _) = events_of(&world, request).await;
        assert_eq!(run.state(), proto::RunState::Failed, "{}", run.state_reason);
        assert!(run.state_reason.contains("rows of child are kept"), "{}", run.state_reason);
        let report = run.report.expect("a report");
        assert_eq!(report.status(), proto::ReportStatus::Failed);
        assert_eq!(report.operations[0].status(), proto::ReportStatus::Failed);
        let last = if stop {
            proto::StepState::Skipped
        } else {
            proto::StepState::Failed
        };
        assert_eq!(report.operations[1].state(), last);
        assert_eq!(report.rows_affected, 0);
    }
    assert_eq!((world.hash("child").await, world.hash("session").await), before);
}

async fn an_operation_over_its_expected_time_is_named_once(database: Database) {
    let world = World::with_catalog(database, CATALOG).await;
    // One row that the database takes more than the expected second to delete.
    let sql = if database == Database::Sqlite {
        "CREATE TRIGGER slow AFTER DELETE ON session WHEN OLD.id = 1 BEGIN \
         SELECT count(*) FROM child a, parent b, parent c WHERE a.id + b.id + c.id < 0; END"
    } else {
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.2); RETURN OLD; END $$; \
         CREATE TRIGGER slow AFTER DELETE ON session FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION slow()"
    };
    world.db.execute(sql).await.expect("a trigger");
    let plan = plan(&world, &["first", "second"]).await;
    let (run, events) = events_of(&world, RunRequest::of_plan(&plan).execute().batch_size(20)).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let report = run.report.expect("a report");
    let said = |warning: &&proto::RunWarning| warning.code == "EXPECTED_TIME_EXCEEDED";
    let warnings = report.warnings.iter().filter(said).collect::<Vec<_>>();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("operation first "), "{}", warnings[0].message);
    assert!(warnings[0].message.contains("expects 1 s"), "{}", warnings[0].message);
    let of_log = events.iter().filter_map(|event| match &event.event {
        Some(proto::run_event::Event::Warning(warning)) => Some(warning),
        _ => None,
    });
    assert_eq!(of_log.filter(said).count(), 1);
    assert_eq!(report.operations[0].warning_count, 1);
    assert_eq!(report.operations[1].warning_count, 0, "an hour is enough");
    let worked = report.operations[0].duration.expect("a duration");
    assert!(worked.seconds >= 1, "{worked:?}");
}

async fn steps_that_never_began_say_so(database: Database) {
    let world = World::with_catalog(database, CATALOG).await;
    let plan = plan(&world, &["second", "third"]).await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(1);
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    let run_id = loop {
        let event = stream.next().await.expect("an event").expect("an event");
        if matches!(event.event, Some(proto::run_event::Event::Progress(_))) {
            break event.run_id;
        }
    };
    world.client.runs().cancel(run_id, "enough").await.expect("cancelled");
    let run = stream.finish().await.expect("an end");
    assert_eq!(run.state(), proto::RunState::Cancelled);
    let report = run.report.expect("a report");
    assert!(report.rows_affected < ORPHANS, "{} rows", report.rows_affected);
    assert_eq!(report.operations[0].state(), proto::StepState::Partial);
    assert_eq!(report.operations[1].state(), proto::StepState::Skipped);
    assert_eq!(report.steps[1].message, "not begun: enough");
}

async fn operations_are_listed_by_category_and_severity(database: Database) {
    let world = World::with_catalog(database, CATALOG).await;
    let cleanup = world.client.cleanup();
    let names = async |query: OperationQuery| {
        let operations = cleanup.operations(query).await.expect("operations");
        operations.into_iter().map(|operation| operation.name).collect::<Vec<_>>()
    };
    assert_eq!(names(OperationQuery::default()).await, ["first", "second", "third"]);
    let expired = || OperationQuery::default().category("EXPIRED_DATA");
    assert_eq!(names(expired()).await, ["first", "third"]);
    assert_eq!(names(expired().severity(proto::Severity::Medium)).await, ["third"]);
    assert_eq!(
        names(OperationQuery::default().severity(proto::Severity::Critical)).await,
        [""; 0]
    );
    let refused = cleanup
        .operations(OperationQuery::default().category("LOGZ"))
        .await
        .expect_err("refused");
    assert!(matches!(refused, Error::InvalidField { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(
        text.contains("category") && text.contains("expected one of EXPIRED_DATA, ORPHANED_DATA"),
        "{text}"
    );
}

async fn the_log_of_a_run_that_ended_comes_whole(database: Database) {
    let world = World::with_catalog(database, CATALOG).await;
    let plan = plan(&world, &["first", "second"]).await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(1);
    let started = world.client.cleanup().run(request).await.expect("a run");
    let run = started.finish().await.expect("an end");
    let mut stream = world.client.runs().watch(run.id.as_str()).await.expect("a stream");
    let mut progress = Vec::new();
    let mut sequence = 0;
    while let Some(event) = stream.next().await {
        let event = event.expect("an event");
        sequence += 1;
        assert_eq!((event.sequence, event.coalesced), (sequence, 0));
        if matches!(event.event, Some(proto::run_event::Event::Progress(_))) {
            progress.push(sequence);
        }
    }
    assert_eq!(sequence, run.last_sequence);
    // Otherwise there was nothing that could have been left out.
    assert!(sequence > 16, "{sequence} events");
    assert!(progress.windows(2).any(|pair| pair[0] + 1 == pair[1]), "{progress:?}");
}
