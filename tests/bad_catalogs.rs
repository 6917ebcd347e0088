//! Catalogs that do not say clearly which rows go: refused when the server starts, or, where the target was out of reach then, by
//! the first plan. Over gRPC, both databases.

mod support;

use dbkeep_client::{Error, PlanRequest, RunRequest, proto};
use dbkeep_server::Config;
use dbkeep_testkit::Db;
use support::{Database, World, connect, empty, refusal};
use tokio_util::sync::CancellationToken;

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    conditions_that_depend_on_the_present_or_on_other_rows_are_refused
    conditions_on_the_row_alone_are_taken
    a_catalog_that_could_not_be_checked_at_start_is_checked_by_the_plan
    a_schema_that_there_is_not_is_refused
    operations_of_which_one_leaves_nothing_to_the_other_are_refused
    operations_that_share_a_table_are_taken
    a_schedule_whose_operations_cannot_be_planned_together_is_refused
}

const DRAFTS: &str = "CREATE TABLE draft (id integer PRIMARY KEY, title text, at timestamp, opened integer);
CREATE TABLE other (id integer PRIMARY KEY);
INSERT INTO other VALUES (1);
INSERT INTO draft VALUES (1, 'a', '2020-01-01 00:00:00', 0), (2, 'b', '2030-01-01 00:00:00', 1), (3, NULL, NULL, NULL), (4, 'now', NULL, 2);
";

fn operation(name: &str, rules: &str) -> String {
    format!("[[operation]]\nname = \"{name}\"\ncategory = \"TEST\"\nseverity = \"LOW\"\nbackup = true\n{rules}\n")
}

fn rule(kind: &str, table: &str, rest: &str) -> String {
    format!("[[operation.rule]]\nname = \"r\"\nkind = \"{kind}\"\ntable = \"{table}\"\n{rest}\n")
}

fn filter(database: Database, condition: &str) -> String {
    let key = if database == Database::Postgres {
        "postgres"
    } else {
        "sqlite"
    };
    rule("filter", "draft", &format!("{key} = \"\"\"{condition}\"\"\""))
}

async fn conditions_that_depend_on_the_present_or_on_other_rows_are_refused(database: Database) {
    const PRESENT: &str = "changes between plan and run";
    const OTHERS: &str = "asks other rows";
    let conditions: &[(&str, &str)] = match database {
        Database::Postgres => &[
            ("at < 'now'", PRESENT),
            ("at < 'yesterday'::date", PRESENT),
            ("at < timestamp 'today'", PRESENT),
            ("at < CAST('now' AS timestamp)", PRESENT),
            ("at < ('no' || 'w')::timestamp", PRESENT),
            ("age(at) > '1 year'", PRESENT),
            ("id IN (TABLE other)", OTHERS),
            ("id IN (VALUES (1))", OTHERS),
            ("id IN (WITH o AS (TABLE other) TABLE o)", OTHERS),
            ("opened > pg_sleep_until(at)::text::integer", "is declared VOLATILE"),
            ("opened < dice()", "is declared VOLATILE"),
            ("opened < public.others()", "is declared STABLE"),
        ],
        Database::Sqlite => &[
            ("at < datetime('now')", PRESENT),
            ("at < date('now', '-30 days')", PRESENT),
            ("at < datetime()", PRESENT),
            ("at < strftime('%Y')", PRESENT),
            ("at < \"datetime\"(lower('NOW'))", PRESENT),
            ("julianday(at) < julianday()", PRESENT),
            ("at < unixepoch('subsec')", PRESENT),
            ("id IN other", OTHERS),
            ("id IN (VALUES (1))", OTHERS),
            ("title = \"nothing\"", "which is no column"),
        ],
    };
    let functions = "CREATE FUNCTION dice() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 3'; \
                     CREATE FUNCTION others() RETURNS integer LANGUAGE sql STABLE AS 'SELECT count(*)::integer FROM other';";
    let functions = if database == Database::Postgres { functions } else { "" };
    // A test on a column is read by the database just the same.
    if database == Database::Postgres {
        let said = refusal(
            database,
            DRAFTS,
            &operation("o", &(filter(database, "id = 1") + "where = { at = \"yesterday\" }\n")),
        )
        .await;
        assert!(said.contains("catalog.toml:6") && said.contains(PRESENT), "{said}");
    }
    for (condition, expected) in conditions {
        let said = refusal(
            database,
            &format!("{DRAFTS}{functions}"),
            &operation("o", &filter(database, condition)),
        )
        .await;
        assert!(
            said.contains("catalog.toml:6") && said.contains(expected),
            "{condition}: {said}"
        );
    }
}

async fn conditions_on_the_row_alone_are_taken(database: Database) {
    let conditions: &[(&str, u64)] = match database {
        Database::Postgres => &[
            ("at < '2025-01-01'", 1),
            ("at::date < date '2025-01-01' AND title LIKE 'a%'", 1),
            ("date_trunc('year', at) = timestamp '2020-01-01'", 1),
            ("age(at, '2019-01-01'::timestamp) < '2 years'", 1),
            ("title LIKE 'now%'", 1),
        ],
        Database::Sqlite => &[
            ("datetime(at) < '2025-01-01'", 1),
            ("julianday(at) < julianday('2025-01-01')", 1),
            ("strftime('%Y', at) = '2020'", 1),
            ("title = 'now'", 1),
        ],
    };
    let operations = conditions.iter().enumerate();
    let catalog: String = operations
        .map(|(place, (condition, _))| operation(&format!("o{place}"), &filter(database, condition)))
        .collect();
    let world = World::with_schema(database, DRAFTS, &catalog).await;
    for (place, (condition, rows)) in conditions.iter().enumerate() {
        assert_eq!(world.plan(&format!("o{place}")).await.row_count, *rows, "{condition}");
    }
}

/// Starts a server whose target is out of reach, then brings the target.
async fn late_target(database: Database, catalog: &str) -> (String, tempfile::TempDir, dbkeep_client::Client, CancellationToken) {
    let (url, folder) = empty(database).await;
    let late = match database {
        Database::Postgres => format!("{url}_late"),
        Database::Sqlite => {
            std::fs::remove_file(folder.path().join("app.db")).expect("no file");
            url.clone()
        }
    };
    let file = folder.path().join("catalog.toml");
    std::fs::write(&file, catalog).expect("a catalog");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let config = Config::embedded(folder.path().join("data")).with_target("app", late.as_str(), file.display().to_string());
    let shutdown = CancellationToken::new();
    tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    let client = connect(&address).await;
    client.targets().list().await.expect("it serves");
    match database {
        Database::Postgres => {
            let name = late.rsplit('/').next().expect("a name");
            let db = Db::open(&url).await.expect("a connection");
            db.execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        }
        Database::Sqlite => std::fs::write(folder.path().join("app.db"), []).expect("an empty database"),
    }
    let db = Db::open(&late).await.expect("a connection");
    db.execute(DRAFTS).await.expect("tables");
    (late, folder, client, shutdown)
}

async fn a_catalog_that_could_not_be_checked_at_start_is_checked_by_the_plan(database: Database) {
    let orphan = "columns = [\"opened\"]\nparent = \"other\"\nparent_columns = [\"id\"]\n";
    let mut wrong = vec![
        (
            "no_table",
            rule("filter", "drafts", "condition = \"id = 1\""),
            "does not exist",
        ),
        (
            "no_column",
            rule("orphan", "draft", &orphan.replace("opened", "opener")),
            "has no column opener",
        ),
        ("no_sql", filter(database, "id === 1"), "does not take its condition"),
        (
            "archive",
            rule(
                "filter",
                "draft",
                "condition = \"id = 1\"\naction = \"archive\"\ninto = \"other\"\nstamp = \"at\"",
            ),
            "archive table",
        ),
    ];
    match database {
        Database::Postgres => wrong.push((
            "volatile",
            filter(database, "opened > pg_sleep_until(at)::text::integer"),
            "VOLATILE",
        )),
        Database::Sqlite => wrong.push(("quoted", filter(database, "title = \"nothing\""), "which is no column")),
    }
    let mut catalog: String = wrong.iter().map(|(name, rules, _)| operation(name, rules)).collect();
    catalog += &operation("right", &filter(database, "id = 1"));
    let (url, _folder, client, shutdown) = late_target(database, &catalog).await;
    let db = Db::open(&url).await.expect("a connection");
    let before = db.table_hash("draft", "id").await.expect("a hash");
    for (name, _, expected) in &wrong {
        let refused = client.cleanup().plan(PlanRequest::new([*name])).await.expect_err(name);
        let said = refused.to_string();
        assert!(
            matches!(refused, Error::CatalogMismatch { .. }) && said.contains("catalog.toml:") && said.contains(expected),
            "{name}: {refused:?}"
        );
        let refused = client.cleanup().run(RunRequest::new([*name]).execute()).await.map(|_| ());
        assert!(matches!(refused, Err(Error::CatalogMismatch { .. })), "{name}: {refused:?}");
    }
    assert_eq!(db.table_hash("draft", "id").await.expect("a hash"), before);
    let run = client
        .cleanup()
        .run(RunRequest::new(["right"]).execute())
        .await
        .expect("a run");
    let run = run.finish().await.expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(db.count("draft").await.expect("a count"), 3);
    shutdown.cancel();
}

async fn a_schema_that_there_is_not_is_refused(database: Database) {
    for rules in [
        rule("filter", "elsewhere.draft", "condition = \"id = 1\""),
        filter(database, "id = 1") + "action = \"archive\"\ninto = \"elsewhere.old\"\nstamp = \"at\"",
    ] {
        // PostgreSQL tells of the second only when it is to make the table.
        if database == Database::Postgres && rules.contains("archive") {
            continue;
        }
        let said = refusal(database, DRAFTS, &operation("o", &rules)).await;
        assert!(said.contains("catalog.toml:6") && said.contains("elsewhere"), "{said}");
    }
}

/// Drafts older than a retention, and what becomes of them.
fn aged(retention: &str, rest: &str) -> String {
    rule(
        "expired",
        "draft",
        &format!("column = \"at\"\nretention = \"{retention}\"\nzone = \"UTC\"\n{rest}"),
    )
}

const KEEP: &str = "action = \"archive\"\ninto = \"old_draft\"\nstamp = \"archived_at\"";
const OPEN: &str = "action = \"update\"\nset = { opened = 7 }";

async fn operations_of_which_one_leaves_nothing_to_the_other_are_refused(database: Database) {
    let titled = "where = { title = \"a\" }\n";
    let cases = [
        // Whichever of the two looks further back.
        (
            aged("P1Y", KEEP),
            aged("P6M", ""),
            "it deletes every row of draft that rule r of operation one",
        ),
        (
            aged("P1Y", KEEP),
            aged("P2Y", ""),
            "archives to old_draft every row of draft that it would delete",
        ),
        (
            aged("P1Y", ""),
            aged("P1Y", &format!("{titled}{KEEP}")),
            "deletes every row of draft that it would archive to old_draft",
        ),
        (
            aged("P2Y", OPEN),
            aged("P1Y", ""),
            "it deletes every row of draft that rule r of operation one",
        ),
        (
            aged("P1Y", OPEN),
            aged("P1Y", "action = \"nullify\"\nnullify = [\"opened\"]"),
            "updates every row of draft that it would nullify",
        ),
        (
            filter(database, "id = 1"),
            filter(database, "id = 1") + KEEP,
            "deletes every row of draft that it would archive to old_draft",
        ),
    ];
    for (first, second, expected) in cases {
        let catalog = operation("one", &first) + &operation("two", &second);
        let line = catalog
            .lines()
            .enumerate()
            .filter(|(_, line)| *line == "[[operation.rule]]")
            .nth(1)
            .expect("two rules")
            .0
            + 1;
        let said = refusal(database, DRAFTS, &catalog).await;
        assert!(
            said.contains(&format!("catalog.toml:{line}: rule r of operation two: "))
                && said.contains("catalog.toml:6)")
                && said.contains(expected)
                && said.contains("expected one of them, or a `where` that keeps their rows apart"),
            "{expected}: {said}"
        );
    }
    // In one operation the order decides, and the second would have nothing to do.
    let second = aged("P2Y", "").replace("\"r\"", "\"s\"");
    let said = refusal(database, DRAFTS, &operation("o", &(aged("P1Y", KEEP) + &second))).await;
    assert!(
        said.contains("catalog.toml:16")
            && said.contains("the first leaves no row of draft to the second; expected the second one first"),
        "{said}"
    );
}

async fn operations_that_share_a_table_are_taken(database: Database) {
    let of_title = |title: &str, rest: &str| format!("where = {{ title = \"{title}\" }}\n{rest}");
    let operations = [
        aged("P1Y", &of_title("a", KEEP)),
        aged("P1Y", &of_title("b", "")),
        // What is left of them goes much later, whatever it is called.
        aged("P5Y", ""),
        // A state on the way to that.
        aged("P2Y", OPEN),
        filter(database, "id = 4"),
    ];
    let catalog: String = operations
        .iter()
        .enumerate()
        .map(|(place, rules)| operation(&format!("o{place}"), rules))
        .collect();
    let world = World::with_schema(database, DRAFTS, &catalog).await;
    let counted = [
        world.plan("o0").await.row_count,
        world.plan("o1").await.row_count,
        world.plan("o2").await.row_count,
    ];
    assert_eq!(counted, [1, 0, 1]);
}

async fn a_schedule_whose_operations_cannot_be_planned_together_is_refused(database: Database) {
    let catalog = |operations: &str| {
        operation("open", &aged("P1Y", OPEN))
            + &operation("opened", &rule("filter", "draft", "condition = \"opened = 7\""))
            + &format!("[[schedule]]\nname = \"nightly\"\nenabled = false\ncron = \"0 2 * * *\"\noperations = {operations}\n")
    };
    let wrong = catalog("[\"open\", \"opened\"]");
    let line = wrong.lines().position(|line| line == "[[schedule]]").expect("a schedule") + 1;
    let said = refusal(database, DRAFTS, &wrong).await;
    assert!(
        said.contains(&format!(
            "catalog.toml:{line}: schedule nightly plans rule r of operation open before rule r of operation opened"
        )) && said.contains("changes opened, by which the second selects")
            && said.contains("expected the second one first"),
        "{said}"
    );
    // The order in which they can be counted, and each alone.
    let world = World::with_schema(database, DRAFTS, &catalog("[\"opened\", \"open\"]")).await;
    assert_eq!(world.plan("open").await.row_count, 1);
}

const SCHEMAS: &str = "CREATE SCHEMA one; CREATE SCHEMA two; CREATE SCHEMA far; CREATE SCHEMA off;
CREATE TABLE one.draft (id integer PRIMARY KEY, up integer);
CREATE TABLE two.draft (id integer PRIMARY KEY, up integer);
CREATE TABLE far.hidden (id integer PRIMARY KEY, up integer);
CREATE TABLE off.hidden (id integer PRIMARY KEY, up integer);
CREATE TABLE one.single (id integer PRIMARY KEY, up integer);
CREATE TABLE off.single (id integer PRIMARY KEY, up integer);
CREATE INDEX single_up ON one.single (up);
INSERT INTO one.single VALUES (1, NULL), (2, 1), (3, 1);
INSERT INTO two.draft VALUES (1, NULL);
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = one, two', current_database()); END $$;";

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_could_mean_several_tables_is_refused() {
    let orphan = |parent: &str| {
        let rest = format!("columns = [\"up\"]\nparent = \"{parent}\"\nparent_columns = [\"id\"]\n");
        rule("orphan", "single", &rest)
    };
    let one = |table: &str, rest: &str| rule("filter", table, &format!("condition = \"id = 1\"\n{rest}"));
    let child =
        "[[operation.rule.child]]\ntable = \"draft\"\ncolumns = [\"up\"]\nparent_columns = [\"id\"]\non_delete = \"cascade\"\n";
    let several = "one.draft, two.draft";
    let cases = [
        (one("draft", ""), several),
        (orphan("draft"), several),
        (one("single", child), several),
        (
            one("single", "action = \"archive\"\ninto = \"draft\"\nstamp = \"at\"\n"),
            several,
        ),
        (one("hidden", ""), "such as far.hidden, off.hidden"),
        (orphan("hidden"), "such as far.hidden, off.hidden"),
    ];
    for (rules, expected) in cases {
        let said = refusal(Database::Postgres, SCHEMAS, &operation("o", &rules)).await;
        assert!(
            said.contains("catalog.toml:6") && said.contains(expected),
            "{expected}: {said}"
        );
    }
    // A full name says which, and so does one that the search path finds once.
    let catalog = operation("full", &one("two.draft", "max_fraction = 1.0\n")) + &operation("short", &one("single", ""));
    let world = World::with_schema(Database::Postgres, SCHEMAS, &catalog).await;
    let (full, short) = (world.plan("full").await, world.plan("short").await);
    assert_eq!((full.steps[0].table.as_str(), full.row_count), ("two.draft", 1));
    assert_eq!((short.steps[0].table.as_str(), short.row_count), ("one.single", 1));
}

/// Two names of one table are one table, also where it comes to rules that conflict.
#[tokio::test(flavor = "multi_thread")]
async fn rules_conflict_by_the_names_that_the_database_resolved() {
    let first = rule(
        "filter",
        "draft",
        "condition = \"id = 1\"\naction = \"update\"\nset = { opened = 7 }",
    );
    let second = rule("filter", "public.draft", "condition = \"opened = 7\"").replace("\"r\"", "\"s\"");
    let said = refusal(Database::Postgres, DRAFTS, &operation("o", &(first + &second))).await;
    assert!(
        said.contains("rule s of operation o") && said.contains("changes opened"),
        "{said}"
    );
}

/// The same of rules of two operations, of which one leaves nothing to the other.
#[tokio::test(flavor = "multi_thread")]
async fn operations_contradict_one_another_by_the_names_that_the_database_resolved() {
    let second = aged("P2Y", KEEP).replace("\"draft\"", "\"public.draft\"");
    let said = refusal(
        Database::Postgres,
        DRAFTS,
        &(operation("one", &aged("P1Y", "")) + &operation("two", &second)),
    )
    .await;
    assert!(
        said.contains("rule r of operation two") && said.contains("deletes every row of public.draft that it would archive"),
        "{said}"
    );
}
