//! Random schemas and rows, and random trees of files, against models in plain Rust that know neither SQL nor dbkeep: what a run takes is
//! what the model says, what it took is in the backup, and an undo gives the table, or the tree, back as it was. Of rows with children the
//! database is the model: what a plain deletion with declared keys leaves of a copy.
//!
//! The seed is printed; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` change it and the number of cases. A failing case is shrunk.

mod acts;
#[path = "properties/cycles.rs"]
mod cycles;
#[path = "properties/dangling.rs"]
mod dangling;
#[path = "properties/duplicates.rs"]
mod duplicates;
#[path = "properties/expired.rs"]
mod expired;
#[path = "properties/families.rs"]
mod families;
#[path = "properties/files.rs"]
mod files;
#[path = "properties/filters.rs"]
mod filters;
#[path = "properties/forms.rs"]
mod forms;
#[path = "properties/judge.rs"]
mod judge;
#[path = "properties/orphans.rs"]
mod orphans;
#[path = "properties/rows.rs"]
mod rows;
mod support;

use std::{
    collections::BTreeSet,
    os::unix::ffi::OsStrExt as _,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use dbkeep_client::{Error, OperationQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk};
use expired::{Edges, Expired, RETENTION};
use families::{Families, MANY};
use files::{Files, tree};
use jiff::{SignedDuration, Timestamp};
use judge::{again, blocked, judged};
use orphans::Orphans;
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestRunner},
};
use support::{Database, ROOT, World, empty};

const SEED: u64 = 20_261_123;

/// An operation for each number of columns, with and without a table of its own for the parents.
fn orphans_catalog() -> String {
    let mut text = String::new();
    for width in 1..=3 {
        for (table, parent) in [("child", "parent"), ("node", "node")] {
            text.push_str(&format!(
                "[[operation]]\nname = \"{table}_{width}\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
                 [[operation.rule]]\nname = \"it\"\nmax_fraction = 1.0\nkind = \"orphan\"\ntable = \"{table}\"\ncolumns = {:?}\n\
                 parent = \"{parent}\"\nparent_columns = {:?}\n\n",
                rows::numbered("c", width),
                rows::numbered("k", width)
            ));
        }
    }
    text
}

/// The catalog is checked against these when the server starts; each case brings tables of its own.
const ORPHANS_TABLES: &str = "CREATE TABLE parent (k1 integer, k2 integer, k3 integer); \
     CREATE TABLE child (id integer PRIMARY KEY, c1 integer, c2 integer, c3 integer); \
     CREATE TABLE node (id integer PRIMARY KEY, c1 integer, c2 integer, c3 integer, k1 integer, k2 integer, k3 integer)";

impl World {
    fn database(&self) -> Database {
        match self.db {
            Db::Postgres(_) => Database::Postgres,
            Db::Sqlite(_) => Database::Sqlite,
        }
    }
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

/// Returns the number of rows that the model takes, as do all of these.
async fn orphans_hold([world]: &[World; 1], case: &Orphans) -> usize {
    let database = world.database();
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

async fn forms_hold([world]: &[World; 1], case: &forms::Orphans) -> usize {
    let database = world.database();
    world
        .db
        .execute(&case.setup(Timestamp::now(), database))
        .await
        .expect("tables and rows");
    let expected = case.expected(database);
    if !case.has_parents() && !expected.is_empty() {
        blocked(world, &case.case()).await;
        return 0;
    }
    judged(world, &case.case(), Some(&expected)).await.len()
}

async fn expired_holds([world]: &[World; 1], case: &Expired) -> usize {
    let (database, now) = (world.database(), Timestamp::now());
    world.db.execute(&case.setup(now, database)).await.expect("a table and rows");
    let plan = world.plan(&case.case().operation).await;
    let horizon = plan.steps[0].horizon.expect("a horizon");
    let horizon = Timestamp::new(horizon.seconds, horizon.nanos).expect("an instant");
    let wanted = now - SignedDuration::from_hours(if case.is_past() { 0 } else { 24 * RETENTION });
    assert!(
        horizon.duration_since(wanted).abs() < SignedDuration::from_mins(5),
        "{horizon} for {wanted}"
    );
    // Another plan has another horizon; what a day lies before it or after it is the same for both.
    judged(world, &case.case(), Some(&case.expected(now, horizon, database)))
        .await
        .len()
}

/// Times exactly on the horizon, which is known when the plan is there.
async fn horizons_hold([world]: &[World; 1], case: &Edges) -> usize {
    let database = world.database();
    world.db.execute(&case.setup(database)).await.expect("a table and rows");
    let plan = world.plan(&case.operation()).await;
    assert!(!plan.blocked, "{:?}", plan.steps[0].findings);
    let horizon = plan.steps[0].horizon.expect("a horizon");
    let horizon = Timestamp::new(horizon.seconds, horizon.nanos).expect("an instant");
    let late = case.late_setup(horizon, database);
    world.db.execute(&late).await.expect("rows on the horizon");
    let before = dump(world, &["entry"]).await;
    let marks = async || -> BTreeSet<String> {
        let rows = world.db.fetch_text("SELECT mark FROM entry").await.expect("marks");
        rows.into_iter().flatten().flatten().collect()
    };
    let had = marks().await;
    let expected = case.expected(horizon, database);
    let run = world.execute(&plan, case.batch_rows).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let has = marks().await;
    assert_eq!(
        had.difference(&has).cloned().collect::<BTreeSet<_>>(),
        expected,
        "what went of {horizon}"
    );
    let report = run.report.as_ref().expect("a report");
    assert_eq!(report.rows_affected, expected.len() as u64);
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(dump(world, &["entry"]).await, before, "as before");
    expected.len()
}

async fn duplicates_hold([world]: &[World; 1], case: &duplicates::Duplicates) -> usize {
    let database = world.database();
    world.db.execute(&case.setup(database)).await.expect("a table and rows");
    judged(world, &case.case(), Some(&case.expected(database))).await.len()
}

async fn dangling_holds([world]: &[World; 1], case: &dangling::Dangling) -> usize {
    let database = world.database();
    world.db.execute(&case.setup(database)).await.expect("tables and rows");
    let expected = case.expected(database);
    if !case.has_parents() && !expected.is_empty() {
        blocked(world, &case.case()).await;
        return 0;
    }
    judged(world, &case.case(), Some(&expected)).await.len()
}

/// The same edges go on both databases, in whatever order they were written.
async fn cycles_hold(worlds: &[World; 2], case: &cycles::Graph) -> usize {
    let mut first: Option<BTreeSet<String>> = None;
    for world in worlds {
        let database = world.database();
        for backwards in [false, true] {
            world
                .db
                .execute(&case.setup(database, backwards))
                .await
                .expect("a table and rows");
            let gone = if backwards {
                again(world, &case.case()).await
            } else {
                judged(world, &case.case(), None).await
            };
            case.judge(&gone);
            let first = first.get_or_insert_with(|| gone.clone());
            assert_eq!(*first, gone, "the same on {database:?}, backwards {backwards}");
        }
    }
    first.map_or(0, |first| first.len())
}

/// What a run leaves is what a plain deletion leaves of the copy, and every count is what the copy lost.
async fn families_hold([world]: &[World; 1], case: &Families) -> usize {
    let database = world.database();
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

async fn files_hold([world]: &[World; 1], case: &Files) -> usize {
    let database = world.database();
    let root = world.folder.path().join(ROOT);
    for entry in std::fs::read_dir(&root).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path).expect("removed");
        } else {
            std::fs::remove_file(path).expect("removed");
        }
    }
    case.plant(&root);
    world.db.execute(&case.setup(database)).await.expect("rows");
    let planted = tree(&root);
    let plan = world.plan(&case.operation()).await;
    assert_eq!(tree(&root), planted, "a plan changes nothing");
    let horizon = plan.steps[0].horizon.expect("a horizon");
    let horizon = Timestamp::new(horizon.seconds, horizon.nanos).expect("an instant");
    let refused = async || {
        let run = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
        assert!(
            matches!(&run, Err(Error::PlanBlocked { finding, .. }) if ["EMPTY_REFERENCES", "NO_REFERENCE_MATCHES"].contains(&finding.as_str())),
            "{:?}",
            run.map(drop)
        );
    };
    let Some(planned) = case.expected(&root, horizon, None, database) else {
        assert!(plan.blocked, "{:?}", plan.steps[0].findings);
        refused().await;
        assert_eq!(tree(&root), planted);
        return 0;
    };
    assert!(!plan.blocked, "{:?}", plan.steps[0].findings);
    assert_eq!(plan.row_count, planned.len() as u64, "planned");

    let changed = case.change(&root);
    let late = case.late_setup(database);
    if !late.is_empty() {
        world.db.execute(&late).await.expect("late rows");
    }
    let before = tree(&root);
    let Some(expected) = case.expected(&root, horizon, Some(&changed), database) else {
        refused().await;
        assert_eq!(tree(&root), before);
        return 0;
    };
    let run = world.execute(&plan, case.batch_rows).await;
    let count = expected.len() as u64;
    // A step that has nothing to take also ends so where no column refers to anything.
    let quiet = changed.is_empty() && !expected.is_empty();
    assert!(
        run.state() == proto::RunState::Succeeded || (run.state() == proto::RunState::PartiallySucceeded && !quiet),
        "{}",
        run.state_reason
    );
    let report = run.report.as_ref().expect("a report");
    let after = tree(&root);
    let gone: BTreeSet<Vec<u8>> = before
        .keys()
        .filter(|path| !after.contains_key(*path))
        .map(|path| path.as_os_str().as_bytes().to_vec())
        .collect();
    assert_eq!(gone, expected, "what went");
    for (path, file) in &after {
        assert_eq!(before.get(path), Some(file), "{} is as it was", path.display());
    }
    assert_eq!((report.rows_affected, report.rows_captured), (count, count));
    if expected.is_empty() {
        let undo = world.client.runs().undo(UndoRequest::new(run.id.as_str())).await;
        assert!(matches!(undo, Err(Error::NothingCaptured { .. })), "nothing to undo");
    } else {
        let verified = world.verify(&run).await;
        assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
        let undo = world.undo(&run).await;
        assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    }
    assert_eq!(tree(&root), before, "as before");
    expected.len()
}

/// Opens a world on each database with these tables and this catalog.
async fn worlds<const N: usize>(
    databases: [Database; N],
    tables: impl Fn(Database) -> String,
    catalog: impl Fn(Database) -> String,
) -> [World; N] {
    let mut worlds = Vec::new();
    for database in databases {
        let (url, folder) = empty(database).await;
        std::fs::create_dir(folder.path().join(ROOT)).expect("a root");
        let db = Db::open(&url).await.expect("a connection");
        db.execute(&tables(database)).await.expect("tables");
        db.close().await;
        let world = World::bare(url, folder, &catalog(database)).await;
        // The server compares the catalog with these tables before it answers; then they make way for those of the first case.
        let operations = world.client.cleanup().operations(OperationQuery::default()).await;
        assert!(!operations.expect("a catalog that fits").is_empty());
        worlds.push(world);
    }
    worlds.try_into().unwrap_or_else(|_| unreachable!("one for each"))
}

/// Runs cases of a strategy in the same worlds. A panic inside is a failure that is shrunk.
fn holds<S: Strategy, const N: usize>(
    name: &str,
    databases: [Database; N],
    (tables, catalog): (impl Fn(Database) -> String, impl Fn(Database) -> String),
    cases: u32,
    strategy: S,
    check: impl AsyncFn(&[World; N], &S::Value) -> usize,
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
    println!("{name} on {databases:?}: {} cases, seed {:?}", config.cases, config.rng_seed);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut worlds = runtime.block_on(worlds(databases, tables, catalog));
    let (done, taken) = (AtomicU32::new(0), AtomicUsize::new(0));
    let result = TestRunner::new(config).run(&strategy, |case| {
        taken.fetch_add(runtime.block_on(check(&worlds, &case)), Ordering::Relaxed);
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{name} on {databases:?} after {} good cases: {failure}", done.into_inner());
    }
    for world in &mut worlds {
        runtime.block_on(world.stop());
    }
    let (done, taken) = (done.into_inner(), taken.into_inner());
    println!("{name} on {databases:?}: {taken} rows or files went and came back in {done} cases");
    assert!(taken > 0, "cases in which nothing goes prove nothing");
}

/// A kind on SQLite and on PostgreSQL, with the number of cases of each.
macro_rules! on_each {
    ($($name:ident: $sqlite:literal, $postgres:literal, $tables:expr, $catalog:expr, $strategy:expr, $check:expr;)*) => {
        mod sqlite {
            use super::*;
            $(#[test] fn $name() { holds(stringify!($name), [Database::Sqlite], ($tables, $catalog), $sqlite, $strategy, $check); })*
        }
        mod postgres {
            use super::*;
            $(#[test] fn $name() { holds(stringify!($name), [Database::Postgres], ($tables, $catalog), $postgres, $strategy, $check); })*
        }
    };
}

on_each! {
    orphans: 60, 30, |_| ORPHANS_TABLES.to_owned(), |_| orphans_catalog(), orphans::orphans(), orphans_hold;
    orphans_of_every_form: 60, 30, forms::tables, forms::catalog, forms::orphans(), forms_hold;
    expired: 40, 25, expired::tables, expired::catalog, expired::expired(), expired_holds;
    expired_on_the_horizon: 40, 25, expired::tables, expired::catalog, expired::edges(), horizons_hold;
    duplicates: 50, 30, |_| duplicates::TABLES.to_owned(), |_| duplicates::catalog(), duplicates::duplicates(), duplicates_hold;
    dangling_keys: 60, 40, dangling::tables, |_| dangling::catalog(), dangling::dangling(), dangling_holds;
    families: 120, 40, families::tables, |_| families::catalog(), families::families(), families_hold;
    old_files: 20, 12, |_| files::TABLES.to_owned(), |_| files::catalog(), files::files(false), files_hold;
    unused_files: 40, 25, |_| files::TABLES.to_owned(), |_| files::catalog(), files::files(true), files_hold;
}

fn filters_hold_on(database: Database, cases: u32) {
    let conditions = filters::Conditions::new(SEED);
    let tables = (|_| filters::TABLES.to_owned(), |_| conditions.catalog());
    holds(
        "filters",
        [database],
        tables,
        cases,
        conditions.filters(),
        async |[world]: &[World; 1], case: &filters::Filter| {
            world
                .db
                .execute(&case.setup(world.database()))
                .await
                .expect("a table and rows");
            judged(world, &case.case(), Some(&conditions.expected(case))).await.len()
        },
    );
}

#[test]
fn filters_on_sqlite() {
    filters_hold_on(Database::Sqlite, 50);
}

#[test]
fn filters_on_postgres() {
    filters_hold_on(Database::Postgres, 30);
}

const BOTH: [Database; 2] = [Database::Sqlite, Database::Postgres];

#[test]
fn cycles() {
    let tables = (|_| cycles::TABLES.to_owned(), |_| cycles::catalog());
    holds("cycles", BOTH, tables, 25, cycles::graphs(), cycles_hold);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_of_every_length_loses_its_last_edge() {
    let graph = cycles::every_length();
    for world in worlds(BOTH, |_| cycles::TABLES.to_owned(), |_| cycles::catalog()).await {
        world
            .db
            .execute(&graph.setup(world.database(), false))
            .await
            .expect("a table and rows");
        let gone = judged(&world, &graph.case(), Some(&graph.last_of_each_ring())).await;
        graph.judge(&gone);
    }
}
