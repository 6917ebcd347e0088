//! Random schemas and rows against a model in plain Rust that knows neither SQL nor dbkeep: what a run takes is what the model
//! says, what it took is in the backup, and an undo gives the table back as it was. Of rows with children the database is the model:
//! what a plain deletion with declared keys leaves of a copy.
//!
//! The seed is printed; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` change it and the number of cases. A failing case is shrunk.

mod acts;
#[path = "properties/expired.rs"]
mod expired;
#[path = "properties/families.rs"]
mod families;
#[path = "properties/orphans.rs"]
mod orphans;
mod support;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use dbkeep_client::{Error, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk, fresh_database};
use expired::{Expired, RETENTION, clocks};
use families::{Families, MANY};
use jiff::{SignedDuration, Timestamp};
use orphans::Orphans;
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestRunner},
};
use support::{Database, World};

const SEED: u64 = 20_261_123;

/// An operation for each number of columns, with and without a table of its own for the parents, and for each clock.
fn catalog(database: Database) -> String {
    let mut text = String::new();
    let mut add = |name: &str, rule: String| {
        text.push_str(&format!(
            "[[operation]]\nname = \"{name}\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
             [[operation.rule]]\nname = \"it\"\nmax_fraction = 1.0\n{rule}\n\n"
        ));
    };
    for width in 1..=3 {
        let columns = |prefix: &str| {
            format!(
                "{:?}",
                (1..=width).map(|place| format!("{prefix}{place}")).collect::<Vec<_>>()
            )
        };
        for (table, parent) in [("child", "parent"), ("node", "node")] {
            let rule = format!(
                "kind = \"orphan\"\ntable = \"{table}\"\ncolumns = {}\nparent = \"{parent}\"\nparent_columns = {}",
                columns("c"),
                columns("k")
            );
            add(&format!("{table}_{width}"), rule);
        }
    }
    for (column, reading) in [
        ("seconds", "encoding = \"unix_seconds\""),
        ("millis", "encoding = \"unix_millis\""),
        ("instant", "zone = \"UTC\""),
        (
            "wall",
            if database == Database::Sqlite {
                "zone = \"UTC\""
            } else {
                "zone = \"Europe/Berlin\""
            },
        ),
    ] {
        let rule = format!("kind = \"expired\"\ntable = \"entry\"\ncolumn = \"{column}\"\n{reading}");
        add(&format!("{column}_past"), format!("{rule}\nexpiry = true"));
        add(&format!("{column}_old"), format!("{rule}\nretention = \"P{RETENTION}D\""));
    }
    for (name, rule) in families::operations() {
        add(&name, rule);
    }
    text
}

async fn world(database: Database) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let url = match database {
        Database::Postgres => fresh_database("properties").await.expect("a database"),
        Database::Sqlite => {
            let file = folder.path().join("app.db");
            std::fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        }
    };
    let db = Db::open(&url).await.expect("a connection");
    // The catalog is checked against these when the server starts; each case brings tables of its own.
    let keys = "k1 integer, k2 integer, k3 integer";
    let names = "id integer PRIMARY KEY, c1 integer, c2 integer, c3 integer";
    db.execute(&format!(
        "CREATE TABLE parent ({keys}); CREATE TABLE child ({names}); CREATE TABLE node ({names}, {keys}); \
         CREATE TABLE entry (id integer PRIMARY KEY, {}); {}",
        clocks(database),
        families::TABLES
    ))
    .await
    .expect("tables");
    if database == Database::Postgres {
        db.execute("CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
            .await
            .expect("a collation");
    }
    db.close().await;
    let world = World::bare(url, folder, &catalog(database)).await;
    // The server listens before it has checked its catalog; until then the tables must stay.
    world.plan("family").await;
    world
}

/// Every row of every table, as text that loses nothing.
async fn dump(world: &World, tables: &[&str]) -> Vec<Vec<Option<String>>> {
    let mut dump = Vec::new();
    for table in tables {
        let sql = match &world.db {
            Db::Postgres(_) => format!("SELECT '{table}', t::text FROM {table} AS t"),
            Db::Sqlite(_) => {
                let columns = format!("SELECT name FROM pragma_table_xinfo('{table}') ORDER BY cid");
                let columns = world.db.fetch_text(&columns).await.expect("columns");
                let columns = columns.iter().map(|column| column[0].as_deref().expect("a name"));
                let values = columns.map(|name| format!("typeof(t.{name}) || quote(t.{name})"));
                format!(
                    "SELECT '{table}', {} FROM {table} AS t",
                    values.collect::<Vec<_>>().join(", ")
                )
            }
        };
        dump.extend(world.db.fetch_text(&sql).await.expect("rows"));
    }
    dump.sort();
    dump
}

async fn ids(world: &World, table: &str) -> BTreeSet<String> {
    let rows = world.db.fetch_text(&format!("SELECT id FROM {table}")).await.expect("ids");
    rows.into_iter().map(|mut row| row.remove(0).expect("an id")).collect()
}

/// Ids in the backup of a run, read by the documented format alone; one that is in it twice shows twice.
fn captured(world: &World, run: &proto::Run) -> Vec<String> {
    let folder = world.folder.path().join("data/backups").join(&run.id);
    let mut ids = Vec::new();
    for chunk in chunk::read_folder(&folder).expect("readable chunks").into_values() {
        for section in chunk.sections {
            let place = section.columns.iter().position(|column| column == "id").expect("the key");
            ids.extend(section.rows.into_iter().map(|mut row| row.swap_remove(place).expect("an id")));
        }
    }
    ids.sort();
    ids
}

/// Plans, runs and undoes; `expected` is what the model takes from this table.
async fn cleans(world: &World, plan: &proto::Plan, tables: &[&str], expected: &BTreeSet<String>, batch_rows: u32) {
    let (table, before) = (tables[0], dump(world, tables).await);
    let had = ids(world, table).await;
    let count = expected.len() as u64;
    assert!(!plan.blocked, "{:?}", plan.steps[0].findings);
    assert_eq!(plan.row_count, count, "planned; {}", plan.steps[0].selection_sql);

    let run = world.execute(plan, batch_rows).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let report = run.report.as_ref().expect("a report");
    assert_eq!((report.rows_affected, report.rows_captured), (count, count));
    let has = ids(world, table).await;
    assert_eq!(had.difference(&has).cloned().collect::<BTreeSet<_>>(), *expected, "what went");
    assert!(has.is_subset(&had), "nothing came");
    assert_eq!(
        captured(world, &run),
        expected.iter().cloned().collect::<Vec<_>>(),
        "what was kept"
    );
    if tables.len() > 1 {
        let others = |rows: &[Vec<Option<String>>]| rows.iter().filter(|row| row[0].as_deref() != Some(table)).count();
        assert_eq!(others(&dump(world, tables).await), others(&before), "parents stay");
    }

    if expected.is_empty() {
        let undo = world.client.runs().undo(UndoRequest::new(run.id.as_str())).await;
        assert!(matches!(undo, Err(Error::NothingCaptured { .. })), "nothing to undo");
    } else {
        let verified = world.verify(&run).await;
        assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
        let undo = world.undo(&run).await;
        assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    }
    assert_eq!(dump(world, tables).await, before, "as before");
}

/// Returns the number of rows that the model takes, as does [`expired_holds`].
async fn orphans_hold(world: &World, database: Database, case: &Orphans) -> usize {
    world.db.execute(&case.setup(database)).await.expect("tables and rows");
    let expected = case.expected(database);
    let tables: &[&str] = if case.itself { &["node"] } else { &["child", "parent"] };
    let before = dump(world, tables).await;
    let plan = world.plan(&case.operation()).await;
    if !case.has_parents(database) && !expected.is_empty() {
        let run = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
        assert!(
            matches!(&run, Err(Error::PlanBlocked { finding, .. }) if finding == "EMPTY_PARENT"),
            "without parents"
        );
        assert_eq!(dump(world, tables).await, before);
        return 0;
    }
    cleans(world, &plan, tables, &expected, case.batch_rows).await;
    expected.len()
}

async fn expired_holds(world: &World, database: Database, case: &Expired) -> usize {
    let now = Timestamp::now();
    world.db.execute(&case.setup(now, database)).await.expect("a table and rows");
    let plan = world.plan(&case.operation()).await;
    let horizon = plan.steps[0].horizon.expect("a horizon");
    let horizon = Timestamp::new(horizon.seconds, horizon.nanos).expect("an instant");
    let wanted = now - SignedDuration::from_hours(if case.past { 0 } else { 24 * RETENTION });
    assert!(
        horizon.duration_since(wanted).abs() < SignedDuration::from_mins(5),
        "{horizon} for {wanted}"
    );
    let expected = case.expected(now, horizon, database);
    cleans(world, &plan, &["entry"], &expected, case.batch_rows).await;
    expected.len()
}

/// What a run leaves is what a plain deletion leaves of the copy, and every count is what the copy lost.
async fn families_hold(world: &World, database: Database, case: &Families) -> usize {
    let (before, after) = case.setup(&world.db, world.folder.path()).await;
    let doomed = before["top"].values().filter(|row| row[3].ends_with('1')).count() as u64;
    let plan = world.plan(&case.operation()).await;
    assert_eq!(plan.row_count, doomed, "planned");
    let mut codes: Vec<_> = plan.steps[0].findings.iter().map(|finding| finding.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    let mut blocked = case.blocked(&before, database);
    if doomed == 0 {
        blocked.retain(|code| *code != "NULL_PRIMARY_KEY");
    }
    assert_eq!(codes, blocked, "{:?}", plan.steps[0].findings);
    if plan.blocked {
        let run = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
        assert!(matches!(&run, Err(Error::PlanBlocked { .. })), "{run:?}");
        assert_eq!(families::rows(&world.db, "").await, before, "nothing has changed");
        return 0;
    }
    let after = after.expect("the database does not refuse either");
    let changes = case.changes(&before, &after);
    let along = |table: &str, action: proto::ChildAction| -> u64 {
        let children = plan.steps[0].children.iter();
        let of_table = children.filter(|child| child.table.rsplit('.').next() == Some(table) && child.action() == action);
        of_table.map(|child| child.row_count).sum()
    };
    for (table, (deleted, nullified)) in &changes {
        let listed = if *table == "top" { doomed } else { 0 };
        let planned = (
            along(table, proto::ChildAction::Delete) + listed,
            along(table, proto::ChildAction::SetNull),
        );
        assert_eq!(planned, (*deleted, *nullified), "planned of {table}");
    }

    let run = world.execute(&plan, case.batch_rows).await;
    let report = run.report.as_ref().expect("a report");
    assert_eq!(
        run.state(),
        proto::RunState::Succeeded,
        "{}: {:?}",
        run.state_reason,
        report.steps
    );
    assert_eq!(families::rows(&world.db, "").await, after, "as the database itself leaves it");
    let mut touched = 0;
    for (table, (deleted, nullified)) in &changes {
        let done = report.steps[0].along.iter();
        let done = done.filter(|along| along.table.rsplit('.').next() == Some(table));
        let (mut went, mut changed) = done.fold((0, 0), |sum, along| {
            (sum.0 + along.rows_deleted, sum.1 + along.rows_nullified)
        });
        if *table == "top" {
            went += report.steps[0].rows_affected;
        }
        touched += went + changed;
        // A row that one batch changes and a later one deletes was changed all the same.
        if case.batch_rows < MANY {
            changed = changed.min(*nullified);
        }
        assert_eq!((went, changed), (*deleted, *nullified), "what became of {table}");
    }
    assert_eq!(report.rows_captured, touched, "what was kept");
    if touched > 0 {
        let verified = world.verify(&run).await;
        assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
        let undo = world.undo(&run).await;
        assert_eq!(
            undo.state(),
            proto::RunState::Succeeded,
            "{}: {:?}",
            undo.state_reason,
            undo.report
        );
    }
    assert_eq!(families::rows(&world.db, "").await, before, "as before");
    usize::try_from(touched).expect("few rows")
}

/// Runs cases of a strategy in one world. A panic inside is a failure that is shrunk.
fn holds<S: Strategy>(
    name: &str,
    database: Database,
    cases: u32,
    strategy: S,
    check: impl AsyncFn(&World, Database, &S::Value) -> usize,
) {
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    println!("{name} on {database:?}: {} cases, seed {:?}", config.cases, config.rng_seed);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut world = runtime.block_on(world(database));
    let (done, taken) = (AtomicU32::new(0), AtomicUsize::new(0));
    let result = TestRunner::new(config).run(&strategy, |case| {
        taken.fetch_add(runtime.block_on(check(&world, database, &case)), Ordering::Relaxed);
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{name} on {database:?} after {} good cases: {failure}", done.into_inner());
    }
    runtime.block_on(world.stop());
    let (done, taken) = (done.into_inner(), taken.into_inner());
    println!("{name} on {database:?}: {taken} rows went and came back in {done} cases");
    assert!(taken > 0, "cases in which nothing goes prove nothing");
}

#[test]
fn orphans_on_sqlite() {
    holds("orphans", Database::Sqlite, 60, orphans::orphans(), orphans_hold);
}

#[test]
fn orphans_on_postgres() {
    holds("orphans", Database::Postgres, 30, orphans::orphans(), orphans_hold);
}

#[test]
fn expired_on_sqlite() {
    holds("expired", Database::Sqlite, 40, expired::expired(), expired_holds);
}

#[test]
fn expired_on_postgres() {
    holds("expired", Database::Postgres, 25, expired::expired(), expired_holds);
}

#[test]
fn families_on_sqlite() {
    holds("families", Database::Sqlite, 120, families::families(), families_hold);
}

#[test]
fn families_on_postgres() {
    holds("families", Database::Postgres, 40, families::families(), families_hold);
}
