//! Random schemas and rows against a model in plain Rust that knows neither SQL nor dbkeep: what a run takes is what the model
//! says, what it took is in the backup, and an undo gives the table back as it was.
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
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use dbkeep_client::{Error, OperationQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk};
use expired::{Expired, RETENTION};
use jiff::{SignedDuration, Timestamp};
use judge::{again, blocked, judged};
use orphans::Orphans;
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestRunner},
};
use support::{Database, World};

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

/// Opens a world on each database with these tables and this catalog.
async fn worlds<const N: usize>(
    databases: [Database; N],
    tables: impl Fn(Database) -> String,
    catalog: impl Fn(Database) -> String,
) -> [World; N] {
    let mut worlds = Vec::new();
    for database in databases {
        let world = World::with_schema(database, &tables(database), &catalog(database)).await;
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
    println!("{name} on {databases:?}: {taken} rows went and came back in {done} cases");
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
    duplicates: 50, 30, |_| duplicates::TABLES.to_owned(), |_| duplicates::catalog(), duplicates::duplicates(), duplicates_hold;
    dangling_keys: 60, 40, dangling::tables, |_| dangling::catalog(), dangling::dangling(), dangling_holds;
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
