//! What SQLite allows between a row and those that name it: keys that compare otherwise than the columns that name them, and keys
//! that are NULL. Either all that goes is in the backup and comes back, or nothing goes and the report says why.

mod acts;
mod support;

use std::collections::BTreeMap;

use dbkeep_client::proto;
use dbkeep_testkit::chunk;
use support::{Database, World};

/// Rows that are gone, by their tables.
type Gone = BTreeMap<String, u64>;

const CATALOG: &str = "[[operation]]\nname = \"clean\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
     [[operation.rule]]\nname = \"it\"\nkind = \"filter\"\ntable = \"p\"\ncondition = \"old = 1\"\nmax_fraction = 1.0\n";

async fn dump(world: &World) -> Vec<Vec<Option<String>>> {
    let mut dump = Vec::new();
    for table in ["p", "c"] {
        let columns = format!("SELECT name FROM pragma_table_info('{table}')");
        let columns = world.db.fetch_text(&columns).await.expect("columns");
        let values = columns
            .iter()
            .flatten()
            .flatten()
            .map(|name| format!("typeof({name}) || quote({name})"));
        let values: Vec<String> = values.collect();
        let sql = format!("SELECT '{table}', {} FROM {table}", values.join(", "));
        dump.extend(world.db.fetch_text(&sql).await.expect("rows"));
    }
    dump.sort();
    dump
}

fn counts(dump: &[Vec<Option<String>>]) -> Gone {
    let mut counts = Gone::new();
    for row in dump {
        *counts.entry(row[0].clone().expect("a table")).or_default() += 1;
    }
    counts
}

/// Rows in the backup of a run, by their tables, with what was done to them.
fn captured(world: &World, run: &proto::Run) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    let chunks = chunk::read_folder(&world.folder.path().join("data/backups").join(&run.id)).expect("chunks");
    for section in chunks.into_values().flat_map(|chunk| chunk.sections) {
        *counts.entry((section.table, section.effect)).or_default() += section.rows.len() as u64;
    }
    counts
}

/// Rows with `old = 1` go, with so many of `c`; or as many of those lose their key.
async fn goes(name: &str, setup: &str, parents: u64, children: u64, effect: &str) {
    let world = World::with_schema(Database::Sqlite, setup, CATALOG).await;
    let before = dump(&world).await;
    let plan = world.plan("clean").await;
    assert!(!plan.blocked, "{name}: {:?}", plan.steps[0].findings);
    let planned: u64 = plan.steps[0].children.iter().map(|child| child.row_count).sum();
    assert_eq!((plan.row_count, planned), (parents, children), "{name}: planned");
    let run = world.execute(&plan, 10).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{name}: {}", run.state_reason);
    let (had, has) = (counts(&before), counts(&dump(&world).await));
    let gone = |table: &str| had.get(table).unwrap_or(&0) - has.get(table).unwrap_or(&0);
    let expected = if effect == "deleted" { children } else { 0 };
    assert_eq!((gone("p"), gone("c")), (parents, expected), "{name}: gone");
    let mut kept = captured(&world, &run);
    assert_eq!(kept.remove(&("p".to_owned(), "deleted".to_owned())), Some(parents), "{name}");
    let of_children = kept.remove(&("c".to_owned(), effect.to_owned())).unwrap_or(0);
    assert_eq!((of_children, kept), (children, BTreeMap::new()), "{name}: kept");
    let verified = world.verify(&run).await;
    assert_eq!(
        verified.state(),
        proto::RunState::Succeeded,
        "{name}: {}",
        verified.state_reason
    );
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{name}: {}", undo.state_reason);
    assert_eq!(dump(&world).await, before, "{name}: as before");
}

/// Nothing goes, and the step says why.
async fn stays(name: &str, setup: &str, said: &str) {
    let world = World::with_schema(Database::Sqlite, setup, CATALOG).await;
    let before = dump(&world).await;
    let plan = world.plan("clean").await;
    let run = world.execute(&plan, 10).await;
    assert_eq!(run.state(), proto::RunState::Failed, "{name}: {}", run.state_reason);
    assert!(run.state_reason.contains(said), "{name}: {}", run.state_reason);
    assert_eq!(dump(&world).await, before, "{name}: nothing has changed");
    assert_eq!(captured(&world, &run), BTreeMap::new(), "{name}: nothing was kept");
}

const KEYS: [(&str, &str, &str); 4] = [
    (
        "a parent without regard to capitals",
        "code TEXT COLLATE NOCASE UNIQUE",
        "code TEXT",
    ),
    (
        "a parent without regard to spaces",
        "code TEXT COLLATE RTRIM UNIQUE",
        "code TEXT",
    ),
    (
        "a child without regard to capitals",
        "code TEXT UNIQUE",
        "code TEXT COLLATE NOCASE",
    ),
    (
        "a number that a child without a type holds as text",
        "code INTEGER UNIQUE",
        "code",
    ),
];

/// The values of a parent, of the child that its key means, and of one that it does not mean; then the same of another parent, which
/// stays.
const VALUES: [[&str; 6]; 4] = [
    ["'Abc'", "'aBC'", "'abc '", "'Xyz'", "'xyz'", "NULL"],
    ["'abc'", "'abc  '", "'ABC'", "'xyz'", "'xyz '", "NULL"],
    ["'Abc'", "'Abc'", "'abc'", "'Xyz'", "'Xyz'", "NULL"],
    ["7", "'7'", "'x'", "8", "'8'", "NULL"],
];

#[tokio::test(flavor = "multi_thread")]
async fn children_by_keys_that_compare_otherwise_than_theirs() {
    for ((name, parent, child), [gone, named, not_named, stays, named_too, none]) in KEYS.into_iter().zip(VALUES) {
        for (action, effect) in [("CASCADE", "deleted"), ("SET NULL", "changed")] {
            // A row that the key does not mean could not be there if it were enforced.
            let setup = format!(
                "PRAGMA foreign_keys = OFF; CREATE TABLE p (id INTEGER PRIMARY KEY, {parent}, old INTEGER); \
                 CREATE TABLE c (id INTEGER PRIMARY KEY, {child} REFERENCES p (code) ON DELETE {action}); CREATE INDEX c_code ON c (code); \
                 INSERT INTO p VALUES (1, {gone}, 1), (2, {stays}, 0), (3, NULL, 1); \
                 INSERT INTO c VALUES (1, {named}), (2, {not_named}), (3, {named_too}), (4, {none}), (5, {named})"
            );
            goes(&format!("{name}, {action}"), &setup, 2, 2, effect).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_with_a_key_that_is_null() {
    let setup = "CREATE TABLE p (id TEXT PRIMARY KEY, old INTEGER); \
         CREATE TABLE c (id TEXT PRIMARY KEY, p TEXT REFERENCES p ON DELETE CASCADE, note TEXT); CREATE INDEX c_p ON c (p); \
         INSERT INTO p VALUES ('a', 1), ('b', 0); INSERT INTO c VALUES ('x', 'a', 'one'), (NULL, 'a', 'two'), (NULL, 'a', 'three'), (NULL, 'b', 'four')";
    stays("two children of one row", setup, "a row of c has NULL in its primary key").await;
    let emptied = setup.replace("CASCADE", "SET NULL");
    stays(
        "two that would lose their key",
        &emptied,
        "a row of c has NULL in its primary key",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_children_and_a_key_that_is_null() {
    let setup = "CREATE TABLE p (id TEXT PRIMARY KEY, code INTEGER UNIQUE, old INTEGER); \
         CREATE TABLE c (id INTEGER PRIMARY KEY, code INTEGER REFERENCES p (code) ON DELETE CASCADE); CREATE INDEX c_code ON c (code); \
         INSERT INTO p VALUES (NULL, 1, 1), (NULL, 2, 0); INSERT INTO c VALUES (1, 1), (2, 2)";
    stays("the listed row", setup, "a row of p has NULL in its primary key").await;
}
