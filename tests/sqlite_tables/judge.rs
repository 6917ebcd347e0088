//! The judge: takes a table through plan, run, verification and undo, and compares all of the database before and after.

use std::collections::BTreeMap;

use dbkeep_client::{Error, PlanRequest, RunRequest, proto};
use dbkeep_server::{Config, Server};
use dbkeep_testkit::{Db, chunk};
use tokio_util::sync::CancellationToken;

use self::Expected::{Blocked, Gone, GoneForGood, Unloadable};
use crate::support::World;

/// A table, a rule on it, and what must come of it.
pub(crate) struct Case {
    name: &'static str,
    /// Statements that make the tables and fill them. Foreign keys are not enforced here, as SQLite does not by default.
    setup: &'static str,
    rule: String,
    expected: Expected,
}

pub(crate) enum Expected {
    /// These rows go, by the SQL literal of their first column, and the undo brings all of them back.
    Gone(&'static [&'static str]),
    /// These rows go; the undo leaves them out and says this about them.
    GoneForGood(&'static [&'static str], &'static str),
    /// The plan has a blocking finding of this code.
    Blocked(&'static str),
    /// The server does not start on such a catalog, and says this.
    Unloadable(&'static str),
}

fn list(names: &[&str]) -> String {
    format!("{names:?}")
}

pub(crate) fn orphan(table: &str, columns: &[&str], parent: &str, parent_columns: &[&str]) -> String {
    format!(
        "kind = \"orphan\"\ntable = {table:?}\ncolumns = {}\nparent = {parent:?}\nparent_columns = {}\n",
        list(columns),
        list(parent_columns)
    )
}

/// Rows whose text in `column` is more than a thousand days ago: 2001 in these tables, and never 2999.
pub(crate) fn expired(table: &str, column: &str) -> String {
    format!("kind = \"expired\"\ntable = {table:?}\ncolumn = {column:?}\nretention = \"P1000D\"\nzone = \"UTC\"\n")
}

/// Rows as text with their storage classes, by table; dbkeep's own tables left out.
type Dump = BTreeMap<String, Vec<Vec<String>>>;

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn texts(db: &Db, sql: &str) -> Vec<Vec<String>> {
    let rows = db.fetch_text(sql).await.unwrap_or_else(|error| panic!("{error:#}: {sql}"));
    rows.into_iter()
        .map(|row| {
            row.into_iter()
                .map(|value| value.unwrap_or_else(|| "NULL".to_owned()))
                .collect()
        })
        .collect()
}

async fn dump(db: &Db) -> Dump {
    let mut dump = Dump::new();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_dbkeep%' ESCAPE '\\'";
    for mut table in texts(db, tables).await {
        let table = table.remove(0);
        let name = table.replace('\'', "''");
        let columns = format!("SELECT name FROM pragma_table_xinfo('{name}') WHERE hidden <> 1 ORDER BY cid");
        let columns: Vec<_> = texts(db, &columns)
            .await
            .iter()
            .map(|column| format!("typeof(t.{0}) || ' ' || quote(t.{0})", quoted(&column[0])))
            .collect();
        let mut rows = texts(db, &format!("SELECT {} FROM {} AS t", columns.join(", "), quoted(&table))).await;
        rows.sort();
        dump.insert(table, rows);
    }
    dump
}

/// What `before` has more than `after`, row by row.
fn difference(before: &[Vec<String>], after: &[Vec<String>]) -> Vec<Vec<String>> {
    let mut left = after.to_vec();
    let mut missing = Vec::new();
    for row in before {
        match left.iter().position(|other| other == row) {
            Some(position) => drop(left.swap_remove(position)),
            None => missing.push(row.clone()),
        }
    }
    assert!(left.is_empty(), "rows that were not there: {left:?}");
    missing
}

/// Captured rows as their chunks have them, read by the documented format alone: columns, and rows in order.
fn captured(world: &World, run: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let folder = world.folder.path().join("data/backups").join(run);
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    let chunks = chunk::read_folder(&folder).expect("readable chunks").into_values();
    for section in chunks.flat_map(|chunk| chunk.sections) {
        columns = section.columns;
        let text = |row: Vec<Option<String>>| {
            row.into_iter()
                .map(|value| value.unwrap_or_else(|| "NULL".to_owned()))
                .collect()
        };
        rows.extend(section.rows.into_iter().map(text));
    }
    rows.sort();
    (columns, rows)
}

impl Case {
    /// Makes the database; returns its folder, its URL and the catalog.
    async fn prepare(&self) -> (tempfile::TempDir, String, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("app.db");
        std::fs::write(&file, []).expect("an empty database");
        let url = format!("sqlite://{}", file.display());
        let db = Db::open(&url).await.expect("a connection");
        db.execute(&format!(
            "PRAGMA foreign_keys = OFF; {}; PRAGMA foreign_keys = ON",
            self.setup
        ))
        .await
        .unwrap_or_else(|error| panic!("{}: {error:#}", self.name));
        db.close().await;
        let catalog = format!(
            "[[operation]]\nname = \"clean\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\n\
             [[operation.rule]]\nname = \"it\"\nmax_fraction = 1.0\n{}",
            self.rule
        );
        (folder, url, catalog)
    }

    async fn is_not_loaded(&self, said: &str) {
        let (folder, url, catalog) = self.prepare().await;
        let db = Db::open(&url).await.expect("a connection");
        let before = dump(&db).await;
        let file = folder.path().join("catalog.toml");
        std::fs::write(&file, catalog).expect("a catalog");
        let config = Config::embedded(folder.path().join("data")).with_target("app", url.as_str(), file.display().to_string());
        let refused = match Server::start(config, &CancellationToken::new()).await {
            Ok(_) => panic!("{}: the server starts", self.name),
            Err(error) => error.to_string(),
        };
        assert!(refused.contains(said), "{}: {refused}", self.name);
        assert_eq!(dump(&db).await, before, "{}: nothing has changed", self.name);
    }

    async fn check(&self) {
        if let Unloadable(said) = self.expected {
            return self.is_not_loaded(said).await;
        }
        let (folder, url, catalog) = self.prepare().await;
        let world = World::bare(url, folder, &catalog).await;
        let before = dump(&world.db).await;
        assert!(
            before.values().any(|rows| !rows.is_empty()),
            "{}: there is something to lose",
            self.name
        );
        let planned = world.client.cleanup().plan(PlanRequest::new(["clean"])).await;
        assert_eq!(dump(&world.db).await, before, "{}: a plan changes nothing", self.name);
        match &self.expected {
            Gone(keys) => {
                let run = self.runs(&world, &before, planned.expect(self.name), keys).await;
                let undo = world.undo(&run).await;
                let now = dump(&world.db).await;
                assert_eq!(
                    undo.state(),
                    proto::RunState::Succeeded,
                    "{}: {}",
                    self.name,
                    undo.state_reason
                );
                assert_eq!(now, before, "{}: as before", self.name);
                let again = world.plan("clean").await;
                assert_eq!(
                    again.row_count,
                    keys.len() as u64,
                    "{}: and the same rows match again",
                    self.name
                );
            }
            GoneForGood(keys, reason) => {
                let run = self.runs(&world, &before, planned.expect(self.name), keys).await;
                let after = dump(&world.db).await;
                let undo = world.undo(&run).await;
                let now = dump(&world.db).await;
                assert_ne!(undo.state(), proto::RunState::Succeeded, "{}", self.name);
                let warnings = undo.report.iter().flat_map(|report| &report.warnings);
                let said: Vec<_> = warnings
                    .map(|warning| warning.message.as_str())
                    .chain([undo.state_reason.as_str()])
                    .collect();
                assert!(said.iter().any(|said| said.contains(reason)), "{}: {said:?}", self.name);
                assert_eq!(now, after, "{}: none of them, and nothing else", self.name);
            }
            Blocked(code) => {
                let plan = planned.expect(self.name);
                assert!(plan.blocked, "{}", self.name);
                let refused = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
                let refused = refused.expect_err(self.name);
                assert!(
                    matches!(&refused, Error::PlanBlocked { finding, .. } if finding == code),
                    "{}: {refused:?}",
                    self.name
                );
                assert_eq!(dump(&world.db).await, before, "{}: nothing has changed", self.name);
            }
            Unloadable(_) => unreachable!("there is no world"),
        }
    }

    /// Executes the plan, in batches of two; exactly these rows must go and must be in the backup.
    async fn runs(&self, world: &World, before: &Dump, plan: proto::Plan, keys: &[&str]) -> proto::Run {
        let name = self.name;
        let count = keys.len() as u64;
        assert!(!plan.blocked, "{name}: {:?}", plan.steps[0].findings);
        assert_eq!(plan.row_count, count, "{name}: {}", plan.steps[0].selection_sql);
        let table = plan.steps[0].table.clone();
        let select = async |columns: &[String]| {
            let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
            let mut rows = texts(&world.db, &format!("SELECT {} FROM {}", columns.join(", "), quoted(&table))).await;
            // The chunk's reader has no mark on a blob.
            rows.iter_mut().flatten().for_each(|value| {
                if let Some(hex) = value.strip_prefix("\\x") {
                    *value = hex.to_owned();
                }
            });
            rows
        };
        let layout = format!(
            "SELECT name FROM pragma_table_xinfo('{}') WHERE hidden = 0 ORDER BY cid",
            table.replace('\'', "''")
        );
        let columns: Vec<_> = texts(&world.db, &layout).await.into_iter().flatten().collect();
        let stored = select(&columns).await;

        let run = world.execute(&plan, 2).await;
        assert_eq!(run.state(), proto::RunState::Succeeded, "{name}: {}", run.state_reason);
        let report = run.report.as_ref().expect("a report");
        assert_eq!((report.rows_affected, report.rows_captured), (count, count), "{name}");
        let after = dump(&world.db).await;
        let mut others = (before.clone(), after.clone());
        let gone = difference(
            &others.0.remove(&table).expect("the table"),
            &others.1.remove(&table).expect("the table"),
        );
        assert_eq!(others.0, others.1, "{name}: no other table has changed");
        let mut gone: Vec<_> = gone.iter().map(|row| row[0].split_once(' ').expect("a class").1).collect();
        gone.sort_unstable();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(gone, expected, "{name}");

        let (header, rows) = captured(world, &run.id);
        if count > 0 {
            assert_eq!(header, columns, "{name}: what was written, and nothing computed");
        }
        let mut expected = difference(&stored, &select(&columns).await);
        expected.sort();
        assert_eq!(rows, expected, "{name}: the backup has what the table had");
        if count > 0 {
            let verified = world.verify(&run).await;
            assert_eq!(
                verified.state(),
                proto::RunState::Succeeded,
                "{name}: {}",
                verified.state_reason
            );
            assert_eq!(verified.report.expect("a report").rows_affected, count, "{name}");
        }
        run
    }
}

pub(crate) async fn check(cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        case.check().await;
    }
}

pub(crate) fn case(name: &'static str, setup: &'static str, rule: String, expected: Expected) -> Case {
    Case {
        name,
        setup,
        rule,
        expected,
    }
}
