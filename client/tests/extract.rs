//! `dbkeep backups extract` on chunks that a real server wrote, against the independent reader of the documented format in the test
//! kit; with no server at the time, and with damaged files among the good ones.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test reports; clippy knows tests, not the functions they share"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use dbkeep_client::{Client, PlanRequest, RunRequest, proto};
use dbkeep_server::Config;
use dbkeep_testkit::{Db, chunk, fresh_database};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const CATALOG: &str = r#"
[[operation]]
name = "old"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true

[[operation.rule]]
name = "logs"
kind = "expired"
table = "log"
column = "at"
expiry = true
encoding = "unix_seconds"

[[operation.rule]]
name = "notes"
kind = "expired"
table = "note"
column = "at"
expiry = true
encoding = "unix_seconds"
"#;

/// Chunks of two tables, left by a server that is gone.
async fn captured(database: &str) -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = if database == "postgres" {
        fresh_database("extract").await.unwrap()
    } else {
        let file = folder.path().join("app.db");
        fs::write(&file, []).unwrap();
        format!("sqlite://{}", file.display())
    };
    let db = Db::open(&url).await.unwrap();
    let text = if database == "postgres" { "text" } else { "ANY" };
    db.execute(&format!(
        "CREATE TABLE log (id bigint PRIMARY KEY, at bigint, \"a \"\"b\" {text}); CREATE TABLE note (id bigint PRIMARY KEY, at bigint, body {text})"
    ))
    .await
    .unwrap();
    let series = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)";
    let odd = "CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'it''s, \"odd\"' ELSE 'line' || chr(10) || 'two ' || i END";
    let odd = if database == "postgres" {
        odd.to_owned()
    } else {
        odd.replace("chr(10)", "char(10)")
    };
    for table in ["log", "note"] {
        db.execute(&format!(
            "INSERT INTO {table} {series} SELECT i, CASE WHEN i <= 210 THEN 5 END, {odd} FROM n"
        ))
        .await
        .unwrap();
    }
    if database == "sqlite" {
        db.execute("UPDATE log SET \"a \"\"b\" = x'00ff' WHERE id = 7; UPDATE log SET \"a \"\"b\" = 0.1 WHERE id = 8; UPDATE log SET \"a \"\"b\" = -3 WHERE id = 9")
            .await
            .unwrap();
    }
    let catalog = folder.path().join("catalog.toml");
    fs::write(&catalog, CATALOG).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog.display().to_string());
    let server = tokio::spawn(dbkeep_server::serve(listener, config, stop.clone()));
    let client = Client::builder().address(&address).connect().await.unwrap();
    let plan = client.cleanup().plan(PlanRequest::new(["old"])).await.unwrap();
    let run = client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute().batch_size(50).full_speed())
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(run.report.unwrap().rows_captured, 420);
    drop(client);
    stop.cancel();
    server.await.unwrap().unwrap();
    let chunks = folder.path().join("data/backups").join(&run.id);
    (folder, chunks, run.id)
}

fn extract(path: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dbkeep"))
        .args(["backups", "extract"])
        .arg(path)
        .args(arguments)
        // Nobody listens there.
        .env("DBKEEP_ADDR", "127.0.0.1:1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

type Rows = BTreeMap<String, Vec<Vec<Option<String>>>>;

/// What the independent reader finds.
fn expected(folder: &Path) -> Rows {
    let mut rows = Rows::new();
    let chunks = chunk::read_folder(folder).unwrap().into_values();
    for section in chunks.flat_map(|chunk| chunk.sections) {
        rows.entry(section.table).or_default().extend(section.rows);
    }
    rows.values_mut().for_each(|rows| rows.sort());
    rows
}

/// Values of JSON lines in the text form of the independent reader.
fn from_jsonl(text: &str, columns: &BTreeMap<String, Vec<String>>) -> Rows {
    let mut rows = Rows::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let table = line["table"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        let row = columns[&table]
            .iter()
            .map(|column| match &line["row"][column] {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Object(bytes) => Some(bytes["$hex"].as_str().unwrap().to_owned()),
                number => Some(number.to_string()),
            })
            .collect();
        rows.entry(table).or_default().push(row);
    }
    rows.values_mut().for_each(|rows| rows.sort());
    rows
}

async fn every_form_holds_every_row(database: &str) {
    let (folder, chunks, _) = captured(database).await;
    let truth = expected(&chunks);
    assert_eq!(truth.values().map(Vec::len).collect::<Vec<_>>(), [210, 210]);
    let columns: BTreeMap<String, Vec<String>> = chunk::read_folder(&chunks)
        .unwrap()
        .into_values()
        .flat_map(|chunk| chunk.sections)
        .map(|section| (section.table, section.columns))
        .collect();

    let output = extract(&chunks, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let found = from_jsonl(std::str::from_utf8(&output.stdout).unwrap(), &columns);
    assert_eq!(found, truth, "JSON lines");

    // SQL that the database itself reads: SQLite here, whatever the rows came from, since only the values matter.
    let out = folder.path().join("sql");
    let output = extract(&chunks, &["--format", "sql", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let db = Db::open(&format!("sqlite://{}?mode=rwc", folder.path().join("again.db").display()))
        .await
        .unwrap();
    let mut found = Rows::new();
    for (table, columns) in &columns {
        let names: Vec<_> = columns
            .iter()
            .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
            .collect();
        db.execute(&format!("CREATE TABLE {table} ({})", names.join(", ")))
            .await
            .unwrap();
        let file = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.file_stem().unwrap().to_string_lossy().rsplit('.').next() == Some(table))
            .unwrap();
        let sql = fs::read_to_string(file).unwrap();
        let sql = sql.replace("\"public\".", "").replace(" OVERRIDING SYSTEM VALUE", "");
        db.execute(&sql).await.unwrap();
        let shown: Vec<_> = names
            .iter()
            .map(|name| format!("CASE typeof({name}) WHEN 'blob' THEN lower(hex({name})) ELSE CAST({name} AS TEXT) END"))
            .collect();
        let mut rows = db
            .fetch_text(&format!("SELECT {} FROM {table}", shown.join(", ")))
            .await
            .unwrap();
        rows.sort();
        found.insert(table.clone(), rows);
    }
    assert_eq!(found, truth, "SQL");

    // CSV of two tables needs a file for each, or one table; NULL and empty differ.
    let output = extract(&chunks, &["--format", "csv"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--table"));
    let output = extract(&chunks, &["--format", "csv", "--table", "note"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("\"id\",\"at\",\"body\"\n"), "{text:.60}");
    assert!(
        text.contains("\n\"4\",\"5\",\n") && text.contains("\n\"5\",\"5\",\"\"\n"),
        "NULL is nothing, empty is in quotes"
    );
    assert!(text.contains("\"it's, \"\"odd\"\"\""));
    // Files that are there are not replaced.
    let output = extract(&chunks, &["--format", "sql", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_holds_every_row_of_postgres() {
    every_form_holds_every_row("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_holds_every_row_of_sqlite() {
    every_form_holds_every_row("sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_by_file_and_the_good_chunks_are_read() {
    let (_folder, chunks, _) = captured("sqlite").await;
    let mut files: Vec<_> = fs::read_dir(&chunks).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 10);
    let flipped = &files[1];
    let mut bytes = fs::read(flipped).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(flipped, &bytes).unwrap();
    let cut = &files[7];
    let bytes = fs::read(cut).unwrap();
    fs::write(cut, &bytes[..bytes.len() - 1]).unwrap();

    let output = extract(&chunks, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    let named: Vec<_> = told["extracted"]["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|damage| PathBuf::from(damage["file"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [flipped.clone(), cut.clone()]);
    assert_eq!(told["extracted"]["chunks"], 8);
    let lines = String::from_utf8(output.stdout).unwrap().lines().count() as u64;
    assert_eq!(told["extracted"]["rows"], lines);
    // Batches of 50, 50, 50, 50 and 10 rows for each table; the second of the first and the third of the second are lost.
    assert_eq!(lines, 320);

    let output = extract(cut, &[]);
    assert_eq!(
        (output.status.code(), output.stdout.len()),
        (Some(1), 0),
        "nothing of a damaged chunk is shown"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains(cut.file_name().unwrap().to_str().unwrap()));
    let output = extract(Path::new("nowhere"), &[]);
    assert_eq!(output.status.code(), Some(1));
}
