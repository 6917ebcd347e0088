//! What `dbkeep report weekly`, `dbkeep top` and `dbkeep metrics` show of a real server, beside what was done in its target.

use std::time::Duration;

use dbkeep_server::{CatalogSource, Config};
use dbkeep_testkit::{Db, fresh_database};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{CATALOG, PATIENCE, Server, execute};

/// Three of twenty rows have expired, and one of two indexes is of no use.
const PREPARED: [&str; 4] = [
    "CREATE TABLE parent (id integer PRIMARY KEY, code text, expires_at bigint)",
    "INSERT INTO parent WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) \
     SELECT i, 'code', CASE WHEN i <= 3 THEN 1000 ELSE 9000000000 END FROM n",
    "CREATE INDEX code_first ON parent (code)",
    "CREATE INDEX code_second ON parent (code)",
];

impl Server {
    /// The lines of an answer as JSON.
    async fn told(&self, arguments: &[&str]) -> Vec<Value> {
        let told = self.dbkeep(&[arguments, &["-o", "json"]].concat()).await;
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A server that has looked at the target several times.
async fn serve(url: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let catalog = CatalogSource::Text {
        name: "catalog.toml".to_owned(),
        text: CATALOG.to_owned(),
    };
    let mut config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog);
    config.engine.monitor.interval = Duration::from_millis(200);
    let server = Server::serve(config, folder).await;
    let looked_at = async {
        let history = ["metrics", "app", "--history", "database_size_bytes", "--step", "raw"];
        while server.told(&history).await[0]["points"].as_array().unwrap().len() < 2 {}
    };
    timeout(PATIENCE, looked_at).await.unwrap();
    server
}

async fn a_week(server: &Server) {
    let told = server.told(&["report", "weekly"]).await;
    let weeks = told[0]["weekly"]["targets"].as_array().unwrap();
    assert_eq!(weeks.len(), 1, "{weeks:?}");
    let week = &weeks[0];
    assert_eq!((&week["target"], &week["up"]), (&json!("app"), &json!(true)));
    assert_eq!(
        week["runs"],
        json!({ "succeeded": 1, "partially_succeeded": 0, "failed": 0, "cancelled": 0, "not_ended": 0 })
    );
    assert_eq!((&week["rows_affected"], &week["problems"]), (&json!(3), &json!([])));
    // A size of five minutes is kept once they are over: what is known in the first ones is the size now.
    assert!(week["last_bytes"].as_u64() > Some(0), "{week}");
    let findings = week["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding["kind"] == "duplicate_index" && finding["object"].as_str().unwrap().ends_with("code_second")),
        "{findings:?}"
    );
    let words = server.dbkeep(&["report", "weekly", "app"]).await;
    let affected = |line: &str| line.contains("rows affected") && line.contains('3');
    assert!(words.contains("app") && words.lines().any(affected), "{words}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("week.html");
    server
        .dbkeep(&["report", "weekly", "app", "--html", file.to_str().unwrap()])
        .await;
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg"), "{page}");
    for word in ["app", "duplicate_index", "code_second"] {
        assert!(page.contains(word), "{word}: {page}");
    }
}

async fn live(server: &Server) {
    // The first looks may come before the stream of metrics has brought some.
    let with_metrics = async {
        loop {
            let looks = server.told(&["top", "--interval", "50ms", "--count", "10"]).await;
            assert_eq!(looks.len(), 10);
            let last = looks.into_iter().next_back().unwrap();
            if !last["metrics"].as_array().unwrap().is_empty() {
                return last;
            }
        }
    };
    let look = timeout(PATIENCE, with_metrics).await.unwrap();
    assert_eq!(look["problem"], Value::Null);
    let target = &look["targets"][0];
    assert_eq!((&target["name"], &target["up"]), (&json!("app"), &json!(true)));
    let metrics = &look["metrics"][0];
    assert_eq!(metrics["target"], json!("app"));
    let tables = metrics["tables"].as_array().unwrap();
    assert!(
        tables
            .iter()
            .any(|table| table["table"].as_str().unwrap().ends_with("parent")),
        "{tables:?}"
    );
    let lines = server.dbkeep(&["top", "--interval", "50ms", "--count", "2"]).await;
    let of_target = lines.lines().filter(|line| line.contains(" target app up, size ")).count();
    assert_eq!(of_target, 2, "a line for each look: {lines}");
}

async fn is_shown(url: &str, open: &str, counts_log: bool) {
    let db = Db::open(open).await.unwrap();
    for sql in PREPARED {
        execute(&db, sql).await;
    }
    let server = serve(url).await;
    server
        .dbkeep(&["run", "old_parents", "--execute", "--yes", "--full-speed"])
        .await;
    assert_eq!(db.count("parent").await.unwrap(), 17);
    a_week(&server).await;
    live(&server).await;
    let metrics = server.dbkeep(&["metrics", "app"]).await;
    assert_eq!(metrics.contains("log written"), counts_log, "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let url = fresh_database("shown").await.unwrap();
    is_shown(&url, &url, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("app.db").display());
    is_shown(&url, &format!("{url}?mode=rwc"), false).await;
}
