//! What keeps a rule from taking more than anybody meant: the share of a table that may go, whatever the database's statistics say of its
//! size and however many rules take of it, and the lock on parents of an operation of high severity.

mod support;

use dbkeep_client::{Error, RunRequest, proto};
use futures::StreamExt as _;
use sqlx::{Connection as _, Executor as _};
use support::{Database, World};

fn operation(severity: &str, rules: &[&str]) -> String {
    let rules: Vec<String> = (1..)
        .zip(rules)
        .map(|(number, rule)| format!("[[operation.rule]]\nname = \"rule{number}\"\n{rule}\n"))
        .collect();
    format!(
        "[[operation]]\nname = \"tidy\"\ncategory = \"TEST\"\nseverity = \"{severity}\"\nbackup = true\n{}",
        rules.concat()
    )
}

/// Rows of `thing` from 1 on, of which rule `doomed` takes some.
fn filled(rows: u32, doomed: &str) -> String {
    format!(
        "CREATE TABLE thing (id integer PRIMARY KEY, doomed integer); \
         INSERT INTO thing WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i, {doomed} FROM n;"
    )
}

/// The plan of `tidy` is blocked for the share of `thing`, and a run of it changes nothing. Returns what the finding says.
async fn share_is_refused(world: &World) -> String {
    let before = world.hash("thing").await;
    let plan = world.plan("tidy").await;
    let findings = plan.steps.iter().flat_map(|step| &step.findings);
    let found: Vec<_> = findings.filter(|finding| finding.code == "OVER_MAX_FRACTION").collect();
    assert_eq!(found.len(), 1, "{plan:?}");
    let refused = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    assert!(
        matches!(&refused, Err(Error::PlanBlocked { finding, .. }) if finding == "OVER_MAX_FRACTION"),
        "{refused:?}"
    );
    assert_eq!(world.hash("thing").await, before);
    found[0].detail.clone()
}

/// Statistics of before a deletion say that there are ten times as many rows: a small share of those, and most of what there is.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_before_a_deletion_do_not_hide_a_share() {
    let catalog = operation(
        "MEDIUM",
        &["kind = \"filter\"\ntable = \"thing\"\ncondition = \"doomed = 1\""],
    );
    let schema = filled(20_000, "CASE WHEN i % 10 < 8 THEN 1 ELSE 0 END");
    let world = World::with_schema(Database::Postgres, &schema, &catalog).await;
    let aged = "ALTER TABLE thing SET (autovacuum_enabled = off); ANALYZE thing; DELETE FROM thing WHERE id > 2000";
    world.db.execute(aged).await.expect("deleted");
    let rows = world
        .db
        .fetch_text("SELECT reltuples::bigint FROM pg_class WHERE relname = 'thing'")
        .await
        .expect("an estimate");
    assert_eq!(rows, [[Some("20000".to_owned())]], "the statistics are old");
    let said = share_is_refused(&world).await;
    assert!(said.contains("1600 of 2000 rows"), "{said}");
}

async fn rules_together_hold_the_share(database: Database) {
    let rule = |rest: u32, share: &str| {
        format!("kind = \"filter\"\ntable = \"thing\"\ncondition = \"id % 10 IN ({rest}, {rest} + 3, {rest} + 6)\"\n{share}")
    };
    // Three tenths each, of different rows.
    let (first, second, third) = (rule(1, ""), rule(2, ""), rule(3, ""));
    let catalog = operation("MEDIUM", &[&first, &second, &third]);
    let world = World::with_schema(database, &filled(1_000, "0"), &catalog).await;
    let said = share_is_refused(&world).await;
    assert!(said.contains("900 of 1000 rows") && said.contains("3 rules"), "{said}");

    // One of them alone is within it, and whoever allows more for one of them has looked at the table.
    let wide = rule(3, "max_fraction = 0.9");
    for (rules, rows) in [(vec![first.as_str()], 300), (vec![&first, &second, &wide], 900)] {
        let world = World::with_schema(database, &filled(1_000, "0"), &operation("MEDIUM", &rules)).await;
        let plan = world.plan("tidy").await;
        let ended = world
            .client
            .cleanup()
            .run(RunRequest::of_plan(&plan).execute().full_speed())
            .await;
        let ended = ended.expect("a run").finish().await.expect("an end");
        assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
        let report = ended.report.expect("a report");
        assert_eq!(
            (report.rows_affected, world.db.count("thing").await.expect("a count")),
            (rows, 1_000 - rows)
        );
        assert!(report.rows_examined >= 1_000, "{} rows were looked at", report.rows_examined);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_together_hold_the_share_on_postgres() {
    rules_together_hold_the_share(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_together_hold_the_share_on_sqlite() {
    rules_together_hold_the_share(Database::Sqlite).await;
}

/// A writer of parents keeps a batch of an operation of severity HIGH waiting, and none of one of severity MEDIUM.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_run_takes_its_lock() {
    let orphan =
        "kind = \"orphan\"\ntable = \"child\"\ncolumns = [\"parent_id\"]\nparent = \"parent\"\nparent_columns = [\"id\"]";
    let schema = "CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer PRIMARY KEY, parent_id integer); \
         INSERT INTO parent SELECT generate_series(1, 50); INSERT INTO child SELECT i, i FROM generate_series(1, 60) AS i";
    for (severity, waits) in [("MEDIUM", false), ("HIGH", true)] {
        let world = World::with_schema(Database::Postgres, schema, &operation(severity, &[orphan])).await;
        let plan = world.plan("tidy").await;
        let mut writer = sqlx::PgConnection::connect(&world.url).await.expect("a connection");
        // Of no concern to any orphan.
        writer
            .execute("BEGIN; INSERT INTO parent VALUES (1000)")
            .await
            .expect("written");
        let request = RunRequest::of_plan(&plan).execute().full_speed();
        let mut stream = world.client.cleanup().run(request).await.expect("a run");
        if waits {
            loop {
                let event = stream.next().await.expect("it waits").expect("an event");
                if let Some(proto::run_event::Event::Warning(warning)) = event.event
                    && warning.code == "BATCH_RETRIED"
                {
                    break;
                }
            }
            assert_eq!(
                world.db.count("child").await.expect("a count"),
                60,
                "nothing went while somebody wrote"
            );
            writer.execute("COMMIT").await.expect("committed");
        }
        let ended = stream.finish().await.expect("an end");
        assert_eq!(
            ended.state(),
            proto::RunState::Succeeded,
            "{severity}: {}",
            ended.state_reason
        );
        assert_eq!(world.db.count("child").await.expect("a count"), 50);
        writer.close().await.expect("closed");
    }
}

/// A key that is looked at only at the commit keeps the rows that it is about, by its name: the batch asks before that.
#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_key_keeps_its_rows() {
    let schema = "CREATE TABLE thing (id integer PRIMARY KEY, doomed integer); \
         CREATE TABLE use (id integer PRIMARY KEY, thing_id integer CONSTRAINT use_of_thing REFERENCES thing DEFERRABLE INITIALLY DEFERRED); \
         CREATE INDEX ON use (thing_id); INSERT INTO thing SELECT i, i % 2 FROM generate_series(1, 100) AS i; INSERT INTO use VALUES (1, 2)";
    let catalog = operation(
        "MEDIUM",
        &["kind = \"filter\"\ntable = \"thing\"\ncondition = \"doomed = 1\""],
    );
    let world = World::with_schema(Database::Postgres, schema, &catalog).await;
    let plan = world.plan("tidy").await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(10).max_rows_per_second(20);
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    loop {
        let event = stream.next().await.expect("it works").expect("an event");
        if let Some(proto::run_event::Event::Progress(progress)) = event.event
            && progress.rows_affected > 0
        {
            break;
        }
    }
    // While the run rests: a row that names the last of those that are to go.
    world.db.execute("INSERT INTO use VALUES (2, 99)").await.expect("inserted");
    let ended = stream.finish().await.expect("an end");
    assert_ne!(ended.state(), proto::RunState::Succeeded);
    let said = ended.state_reason;
    assert!(said.contains("use_of_thing"), "{said}");
    let kept = world
        .db
        .fetch_text("SELECT count(*) FROM thing WHERE id IN (2, 99)")
        .await
        .expect("a count");
    assert_eq!(kept, [[Some("2".to_owned())]]);
}

/// Rows that a declared key forbids, and that are there all the same: whoever lets them go is told that they cannot simply come back.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_declared_key_are_told() {
    let orphan =
        "kind = \"orphan\"\ntable = \"child\"\ncolumns = [\"parent_id\"]\nparent = \"parent\"\nparent_columns = [\"id\"]";
    let tables = "CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer PRIMARY KEY, parent_id integer);
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1), (2, 1), (3, 1), (4, 9)";
    let key = "ALTER TABLE child ADD CONSTRAINT child_of FOREIGN KEY (parent_id) REFERENCES parent NOT VALID; CREATE INDEX ON child (parent_id)";
    for (rest, told) in [
        ("", &["UNDO_NEEDS_PARENT", "PARENT_MAY_RETURN"][..]),
        ("\nstrict = true", &["UNDO_NEEDS_PARENT"]),
    ] {
        let catalog = operation("LOW", &[&format!("{orphan}{rest}")]);
        let world = World::with_schema(Database::Postgres, &format!("{tables}; {key}"), &catalog).await;
        let plan = world.plan("tidy").await;
        let codes: Vec<_> = plan.steps[0].findings.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, told);
        let unseen = world.client.cleanup().run(RunRequest::new(["tidy"]).execute()).await;
        assert!(matches!(&unseen, Err(Error::FindingsUnconfirmed { .. })), "{unseen:?}");
        assert_eq!(world.db.count("child").await.expect("a count"), 4);
        // Once they are gone there is nothing to tell.
        world.db.execute("DELETE FROM child WHERE id = 4").await.expect("deleted");
        assert!(world.plan("tidy").await.steps[0].findings.is_empty());
    }
}
