//! What must hold of a run that does anything to rows: it does it to those that the model names and to no other, tells so in the
//! plan and in the report, keeps what was there in the backup, and takes it all back.

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_client::{Error, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk};

use crate::{
    dump,
    rows::{Act, DONE},
    support::World,
};

/// Rows by their marks, each by the names of its columns.
type Rows = BTreeMap<String, BTreeMap<String, Option<String>>>;

/// A case that is about one table.
pub(crate) struct Case<'a> {
    pub(crate) operation: String,
    pub(crate) act: Act,
    pub(crate) table: &'a str,
    /// Tables that nothing may happen to.
    pub(crate) others: &'a [&'a str],
    /// Columns that [`Act::Sever`] empties.
    pub(crate) deciding: &'a [String],
    pub(crate) batch_rows: u32,
    /// Whether a row that the run changes or removes can make another one match.
    pub(crate) spreads: bool,
}

impl Case<'_> {
    fn tables(&self) -> Vec<&str> {
        std::iter::once(self.table).chain(self.others.iter().copied()).collect()
    }

    /// The columns that the action writes, with what it writes.
    fn written(&self) -> Vec<(String, Option<String>)> {
        match self.act {
            Act::Delete | Act::Archive => Vec::new(),
            Act::Update => DONE
                .map(|(column, value)| (column.to_owned(), Some(value.to_owned())))
                .to_vec(),
            Act::Nullify => vec![("spare".to_owned(), None)],
            Act::Sever => self.deciding.iter().map(|column| (column.clone(), None)).collect(),
        }
    }
}

/// Values as the chunk reader shows them.
async fn rows(world: &World, table: &str) -> Rows {
    let (names, value): (_, fn(&str) -> String) = match &world.db {
        Db::Postgres(_) => (
            format!("SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"),
            |name| format!("{name}::text"),
        ),
        Db::Sqlite(_) => (
            format!("SELECT name FROM pragma_table_xinfo('{table}') ORDER BY cid"),
            |name| format!("CASE WHEN typeof({name}) = 'blob' THEN lower(hex({name})) ELSE {name} END"),
        ),
    };
    let names: Vec<String> = texts(world, &names).await;
    let values: Vec<String> = names.iter().map(|name| value(name)).collect();
    let found = world
        .db
        .fetch_text(&format!("SELECT {} FROM {table}", values.join(", ")))
        .await
        .expect("rows");
    let found = found.into_iter().map(|row| names.iter().cloned().zip(row).collect());
    by_mark(found)
}

fn by_mark(found: impl Iterator<Item = BTreeMap<String, Option<String>>>) -> Rows {
    let mut rows = Rows::new();
    for row in found {
        let mark = row["mark"].clone().expect("a mark");
        assert!(rows.insert(mark.clone(), row).is_none(), "{mark} is there twice");
    }
    rows
}

async fn texts(world: &World, sql: &str) -> Vec<String> {
    let found = world.db.fetch_text(sql).await.expect("rows");
    found.into_iter().map(|mut row| row.swap_remove(0).expect("a text")).collect()
}

/// Rows in the backup of a run as they were, and the new values of those that were changed. Read by the documented format alone.
fn backup(world: &World, run: &proto::Run, case: &Case<'_>) -> (Rows, Rows) {
    let folder = world.folder.path().join("data/backups").join(&run.id);
    let effect = match case.act {
        Act::Delete => "deleted",
        Act::Archive => "archived",
        Act::Update | Act::Nullify | Act::Sever => "changed",
    };
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for section in chunk::read_folder(&folder)
        .expect("readable chunks")
        .into_values()
        .flat_map(|chunk| chunk.sections)
    {
        assert_eq!((section.table.as_str(), section.effect.as_str()), (case.table, effect));
        for mut row in section.rows {
            let values = row.split_off(section.columns.len());
            let row: BTreeMap<_, _> = section.columns.iter().cloned().zip(row).collect();
            let mut changed: BTreeMap<_, _> = section.changed.iter().cloned().zip(values).collect();
            changed.insert("mark".to_owned(), row["mark"].clone());
            old.push(row);
            new.push(changed);
        }
    }
    (by_mark(old.into_iter()), by_mark(new.into_iter()))
}

/// What the table should hold after the run.
fn due(before: &Rows, gone: &BTreeSet<String>, case: &Case<'_>) -> Rows {
    let mut due = before.clone();
    if case.act.removes() {
        due.retain(|mark, _| !gone.contains(mark));
        return due;
    }
    for mark in gone {
        for (column, value) in case.written() {
            due.get_mut(mark).expect("a row of the table").insert(column, value);
        }
    }
    due
}

/// Plans, runs and undoes; `expected` are the marks of the rows that the model names, where it names them in advance. Returns the
/// marks of the rows that the run took.
pub(crate) async fn judged(world: &World, case: &Case<'_>, expected: Option<&BTreeSet<String>>) -> BTreeSet<String> {
    let tables = case.tables();
    let whole = dump(world, &tables).await;
    let before = rows(world, case.table).await;
    let plan = world.plan(&case.operation).await;
    assert!(!plan.blocked, "{:?}", plan.steps[0].findings);
    let sql = &plan.steps[0].selection_sql;
    if let Some(expected) = expected {
        assert_eq!(plan.row_count, expected.len() as u64, "planned; {sql}");
    }
    assert_eq!(dump(world, &tables).await, whole, "a plan changes nothing");

    let run = world.execute(&plan, case.batch_rows).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let report = run.report.as_ref().expect("a report");
    assert_eq!(
        (report.rows_affected, report.rows_captured),
        (plan.row_count, plan.row_count),
        "a run is its plan"
    );
    let (kept, changed) = backup(world, &run, case);
    let gone: BTreeSet<String> = kept.keys().cloned().collect();
    assert_eq!(gone.len() as u64, plan.row_count, "what was kept");
    if let Some(expected) = expected {
        assert_eq!(gone, *expected, "what was taken; {sql}");
    }

    // Nothing but that, and nothing of it is lost: what is there, with what was kept, is what was there.
    let after = rows(world, case.table).await;
    assert_eq!(after, due(&before, &gone, case), "what is there");
    for (mark, row) in &kept {
        let was = before[mark].iter().filter(|(column, _)| row.contains_key(*column));
        assert!(was.eq(row.iter()), "{mark} was kept as {row:?}, it was {:?}", before[mark]);
        let written: BTreeMap<_, _> = case
            .written()
            .into_iter()
            .chain([("mark".to_owned(), Some(mark.clone()))])
            .collect();
        assert_eq!(changed[mark], written, "the new values");
    }
    if case.act == Act::Archive {
        let mut archived = rows(world, &format!("old_{}", case.table)).await;
        for row in archived.values_mut() {
            assert!(row.remove("archived_at").expect("a stamp").is_some(), "it has a time");
        }
        assert_eq!(archived, kept, "the archive holds them");
    }
    let others = |rows: &[Vec<Option<String>>]| -> Vec<Vec<Option<String>>> {
        let others = rows.iter().filter(|row| row[0].as_deref() != Some(case.table));
        others.cloned().collect()
    };
    assert_eq!(others(&dump(world, &tables).await), others(&whole), "other tables stay");
    if !case.spreads {
        assert_eq!(world.plan(&case.operation).await.row_count, 0, "a second run finds nothing");
    }
    undone(world, &run, gone.is_empty()).await;
    assert_eq!(dump(world, &tables).await, whole, "as before");
    if case.act == Act::Archive {
        assert_eq!(world.db.count(&format!("old_{}", case.table)).await.expect("a count"), 0);
    }
    gone
}

async fn undone(world: &World, run: &proto::Run, empty: bool) {
    if empty {
        let undo = world.client.runs().undo(UndoRequest::new(run.id.as_str())).await;
        assert!(matches!(undo, Err(Error::NothingCaptured { .. })), "nothing to undo");
        return;
    }
    let verified = world.verify(run).await;
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
    let undo = world.undo(run).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(undo.report.expect("a report").rows_conflicting, 0);
}

/// An empty table of parents blocks the plan.
pub(crate) async fn blocked(world: &World, case: &Case<'_>) {
    let before = dump(world, &case.tables()).await;
    let plan = world.plan(&case.operation).await;
    let run = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    assert!(
        matches!(&run, Err(Error::PlanBlocked { finding, .. }) if finding == "EMPTY_PARENT"),
        "without parents"
    );
    assert_eq!(dump(world, &case.tables()).await, before);
}

/// Executes an operation on tables that were judged before; returns the marks that are gone, or changed.
pub(crate) async fn again(world: &World, case: &Case<'_>) -> BTreeSet<String> {
    let before = rows(world, case.table).await;
    let plan = world.plan(&case.operation).await;
    let run = world.execute(&plan, case.batch_rows).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(run.report.expect("a report").rows_affected, plan.row_count);
    let after = rows(world, case.table).await;
    let differs = |mark: &&String| after.get(*mark) != before.get(*mark);
    before.keys().filter(differs).cloned().collect()
}
