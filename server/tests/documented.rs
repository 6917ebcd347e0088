//! The example of every rule kind's page in `docs/rules/`, as it stands there, on both databases: loaded, planned, run, and undone.
//! Each page has one block of `toml` and one of `sql`, whose last comment says how many rows go. The kinds that look at files need folders
//! beside: `tests/files.rs` runs theirs, and here only their pages must exist.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::{collections::BTreeMap, fs, path::Path};

use dbkeep_client::{Client, PlanRequest, RunRequest, UndoRequest, proto};
use dbkeep_engine::rule::KINDS;
use dbkeep_server::{CatalogSource, Config};
use dbkeep_testkit::{Db, fresh_database};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const OF_FILES: [&str; 2] = ["temp_files", "orphan_files"];

fn block<'a>(page: &'a str, language: &str, kind: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("```{language}\n"))
        .unwrap_or_else(|| panic!("docs/rules/{kind}.md has no block of {language}"));
    rest.split_once("```").expect("the block ends").0
}

/// All rows of the example's tables, as text.
async fn rows(db: &Db, sql: &str) -> BTreeMap<String, Vec<Vec<Option<String>>>> {
    let mut rows = BTreeMap::new();
    for table in sql
        .split("CREATE TABLE ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next())
    {
        let mut all = db.fetch_text(&format!("SELECT * FROM {table}")).await.unwrap();
        all.sort();
        rows.insert(table.to_owned(), all);
    }
    assert!(!rows.is_empty());
    rows
}

async fn works(kind: &str, toml: &str, sql: &str, url: &str, folder: &Path) {
    let db = Db::open(url).await.unwrap();
    db.execute(sql).await.unwrap();
    let catalog = CatalogSource::Text {
        name: format!("{kind}.md"),
        text: toml.to_owned(),
    };
    let config = Config::embedded(folder.join("data")).with_target("app", url, catalog);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    let client = Client::builder().address(&address).connect().await.unwrap();
    let mut went = 0;
    for operation in toml
        .split("[[operation]]\nname = \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        let before = rows(&db, sql).await;
        let plan = client.cleanup().plan(PlanRequest::new([operation])).await.unwrap();
        assert!(!plan.blocked, "{kind}: {operation}: {:?}", plan.steps);
        let request = RunRequest::of_plan(&plan).execute().full_speed();
        let run = client.cleanup().run(request).await.unwrap().finish().await.unwrap();
        assert_eq!(
            run.state(),
            proto::RunState::Succeeded,
            "{kind}: {operation}: {}",
            run.state_reason
        );
        let affected = run.report.unwrap().rows_affected;
        assert_eq!(affected, plan.row_count, "{kind}: {operation}");
        assert_ne!(before, rows(&db, sql).await, "{kind}: {operation}");
        went += affected;
        let undo = client
            .runs()
            .undo(UndoRequest::new(run.id.as_str()).full_speed())
            .await
            .unwrap();
        let undo = undo.finish().await.unwrap();
        assert_eq!(
            undo.state(),
            proto::RunState::Succeeded,
            "{kind}: {operation}: {}",
            undo.state_reason
        );
        assert_eq!(before, rows(&db, sql).await, "{kind}: {operation}");
    }
    let said = sql
        .rsplit_once(" rows go")
        .and_then(|(before, _)| before.rsplit_once("-- "))
        .expect("-- N rows go")
        .1;
    assert_eq!(went.to_string(), said, "{kind}");
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

async fn all(postgres: bool) {
    for kind in KINDS.iter().map(|kind| kind.name) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/rules/{kind}.md"));
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("docs/rules/{kind}.md: {error}"));
        let toml = block(&page, "toml", kind);
        assert!(toml.contains(&format!("kind = \"{kind}\"")), "{kind}");
        if OF_FILES.contains(&kind) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let url = if postgres {
            fresh_database("documented").await.unwrap()
        } else {
            let file = folder.path().join("app.db");
            fs::write(&file, []).unwrap();
            format!("sqlite://{}", file.display())
        };
        works(kind, toml, block(&page, "sql", kind), &url, folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_runs_on_sqlite() {
    all(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_runs_on_postgres() {
    all(true).await;
}
