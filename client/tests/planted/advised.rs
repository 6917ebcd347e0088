//! What is recommended by what runs, schedules and tables have shown, on both databases: it is applied as it stands, by a shell or in a
//! catalog, is gone afterwards, and has kept its promise. What would take days is put into the control store, as if it had been so.

use std::{path::Path, time::Instant};

use dbkeep_server::{CatalogSource, Config};
use dbkeep_testkit::{Db, fresh_database};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

use crate::{PATIENCE, Server, execute, number};

/// A schedule whose name a shell has to be kept from.
const SCHEDULE: &str = "by night's end";

const SESSIONS: &str = r#"
[[operation]]
name = "old_sessions"
category = "EXPIRED_DATA"
severity = "LOW"
backup = false
[[operation.rule]]
name = "sessions"
kind = "expired"
table = "sessions"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
max_fraction = 1.0
"#;

/// A target, and what its servers keep.
struct World {
    folder: tempfile::TempDir,
    url: String,
    db: Db,
}

impl World {
    async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (url, open) = if database == "postgres" {
            let url = fresh_database("advised").await.unwrap();
            (url.clone(), url)
        } else {
            let url = format!("sqlite://{}", folder.path().join("app.db").display());
            let open = format!("{url}?mode=rwc");
            (url, open)
        };
        let db = Db::open(&open).await.unwrap();
        execute(&db, "CREATE TABLE sessions (id bigint PRIMARY KEY, expires_at bigint)").await;
        Self { folder, url, db }
    }

    fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    /// A server on what the one before it has kept.
    async fn serve(&self, catalogs: &[&str], change: impl FnOnce(&mut Config)) -> Server {
        let source = |(number, text): (usize, &&str)| CatalogSource::Text {
            name: format!("{number}.toml"),
            text: (*text).to_owned(),
        };
        let mut config =
            Config::embedded(self.folder.path().join("data")).with_target("app", self.url.as_str(), source((0, &"")));
        config.targets[0].catalogs = catalogs.iter().enumerate().map(source).collect();
        config.default_schedules = false;
        config.engine.monitor.enabled = false;
        change(&mut config);
        Server::serve(config, tempfile::tempdir().unwrap()).await
    }

    async fn control(&self) -> Db {
        let file = self.folder.path().join("data/control.db");
        Db::open(&format!("sqlite://{}", file.display())).await.unwrap()
    }

    /// Sessions that have expired.
    async fn expire(&self, from: u32, rows: u32) {
        let values: Vec<String> = (from..from + rows).map(|id| format!("({id}, 1000)")).collect();
        execute(&self.db, &format!("INSERT INTO sessions VALUES {}", values.join(", "))).await;
    }
}

impl Server {
    /// What is recommended under this key.
    async fn advice(&self, key: &str) -> Option<Value> {
        let all = self.recommendations().await;
        let found = all.into_iter().find(|one| one["key"] == key)?;
        for field in ["name", "level", "detail", "remediation"] {
            assert!(!found[field].as_str().unwrap().is_empty(), "{found}");
        }
        assert!(!found["evidence"].as_array().unwrap().is_empty(), "{found}");
        Some(found)
    }

    /// What to type, which is this.
    async fn remediation(&self, key: &str, expected: &str) -> String {
        let advice = self.advice(key).await.unwrap_or_else(|| panic!("{key} is recommended"));
        assert_eq!(advice["remediation"], expected);
        expected.to_owned()
    }

    /// Has a shell do what it is told.
    async fn typed(&self, commands: &str) {
        let folder = Path::new(env!("CARGO_BIN_EXE_dbkeep")).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-ec", commands])
            .env("PATH", path)
            .env("DBKEEP_ADDR", &self.address)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{commands}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Creates the schedule of old sessions.
    async fn schedule(&self, options: &[&str]) {
        let mut arguments = vec![
            "schedules",
            "create",
            SCHEDULE,
            "--target",
            "app",
            "--operation",
            "old_sessions",
        ];
        arguments.extend(options);
        self.dbkeep(&arguments).await;
    }

    /// Has it run now, to its end.
    async fn fire(&self) {
        self.dbkeep(&["schedules", "run", SCHEDULE]).await;
    }
}

/// Every operation that is recommended for a table that grows, by the name of the table.
async fn grown(server: &Server) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for one in server.recommendations().await {
        if let Some(table) = one["key"].as_str().unwrap().strip_prefix("add_cleanup_rule:") {
            assert!(!one["evidence"].as_array().unwrap().is_empty(), "{one}");
            found.push((table.to_owned(), one["remediation"].as_str().unwrap().to_owned()));
        }
    }
    found
}

/// As if three tables had been looked at for three days, and had grown by a fifth.
async fn look_back(world: &World) {
    let control = world.control().await;
    let series = "SELECT count(*) FROM metric_series WHERE metric = 'table_rows'";
    let looking = async { while number(&control, series).await < 3 {} };
    timeout(PATIENCE, looking).await.unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    for (hours, rows) in [(72, 100_000), (1, 120_000)] {
        let at = now - hours * 3_600_000;
        let points = format!(
            "INSERT INTO samples_1h (series, at_ms, samples, min, max, sum, last) \
             SELECT id, {at}, 1, {rows}.0, {rows}.0, {rows}.0, {rows}.0 FROM metric_series \
             WHERE metric = 'table_rows' AND (object LIKE '%visits' OR object LIKE '%clicks' OR object LIKE '%notes')"
        );
        execute(&control, &points).await;
    }
    control.close().await;
}

/// The name of the operation in a catalog's text.
fn operation(text: &str) -> &str {
    let name = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap();
    name.trim_matches('"')
}

async fn carry_out(server: &Server, catalog: &str) {
    let arguments = ["run", operation(catalog), "--execute", "--yes", "--full-speed"];
    server.dbkeep(&arguments).await;
}

async fn a_rule_that_is_pasted_takes_rows_from_a_table_that_grows(database: &str) {
    let world = World::new(database).await;
    let now = jiff::Timestamp::now().as_second();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120000)";
    for sql in [
        "CREATE TABLE visits (id bigint PRIMARY KEY, expires_at bigint)",
        "CREATE TABLE clicks (id bigint PRIMARY KEY, created_at bigint)",
        "CREATE TABLE notes (id bigint PRIMARY KEY, body text)",
        &format!("INSERT INTO visits {many} SELECT i, CASE WHEN i <= 20000 THEN 1000000000 ELSE 3900000000 END FROM n"),
        &format!("INSERT INTO clicks {many} SELECT i, CASE WHEN i <= 20000 THEN 1000000000 ELSE {now} END FROM n"),
        &format!("INSERT INTO notes {many} SELECT i, 'a note' FROM n"),
        "ANALYZE",
    ] {
        execute(&world.db, sql).await;
    }
    let server = world
        .serve(&[], |config| {
            config.engine.monitor.enabled = true;
            config.engine.monitor.interval = std::time::Duration::from_millis(500);
        })
        .await;
    assert!(grown(&server).await.is_empty(), "nobody knows how they grow");
    look_back(&world).await;
    let found = grown(&server).await;
    server.stop().await;
    let schema = if world.is_postgres() { "public." } else { "" };
    let tables: Vec<&str> = found.iter().map(|(table, _)| table.as_str()).collect();
    let [clicks, notes, visits] = ["clicks", "notes", "visits"].map(|table| format!("{schema}{table}"));
    assert_eq!(tables, [clicks.as_str(), notes.as_str(), visits.as_str()]);
    let rules: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();

    // What leaves nothing open takes its rows. The others wait for a decision, and are no rule for their tables until then.
    let server = world.serve(&rules, |_| {}).await;
    let open: Vec<String> = grown(&server).await.into_iter().map(|(table, _)| table).collect();
    assert_eq!(open, [clicks, notes]);
    carry_out(&server, rules[2]).await;
    let left = |table: &'static str| {
        let db = world.db.clone();
        async move { db.count(table).await.unwrap() }
    };
    assert_eq!(world.db.count_where("visits", "expires_at < 2000000000").await.unwrap(), 0);
    assert_eq!(
        (left("visits").await, left("clicks").await, left("notes").await),
        (100_000, 120_000, 120_000)
    );
    server.stop().await;

    let decided: Vec<String> = rules
        .iter()
        .map(|rule| {
            let lines = rule.lines().map(|line| match line.split_once(" = ") {
                Some(("retention", _)) => "retention = \"P5Y\"",
                Some(("condition", _)) => "condition = \"id <= 20000\"",
                _ => line,
            });
            lines.collect::<Vec<_>>().join("\n")
        })
        .collect();
    let decided: Vec<&str> = decided.iter().map(String::as_str).collect();
    let server = world.serve(&decided, |_| {}).await;
    assert!(grown(&server).await.is_empty(), "{database}");
    for rule in &decided[..2] {
        carry_out(&server, rule).await;
    }
    assert_eq!((left("clicks").await, left("notes").await), (100_000, 100_000));
    server.stop().await;
}

/// Makes the deletion of every sixteenth session take half a second.
async fn slow_down(world: &World) {
    if world.is_postgres() {
        let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN OLD; END $$; \
                    CREATE TRIGGER slow AFTER DELETE ON sessions FOR EACH ROW WHEN (OLD.id % 16 = 0) EXECUTE FUNCTION slow()";
        return execute(&world.db, slow).await;
    }
    let many =
        "CREATE TABLE many AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 7000) SELECT i FROM n";
    execute(&world.db, many).await;
    let pairs = |of: u128| format!("SELECT count(*) FROM many a, many b WHERE a.i <= {of} AND a.i + b.i < 0");
    let began = Instant::now();
    number(&world.db, &pairs(1_000)).await;
    // So many as this machine reads in that time.
    let of = (500_000 / began.elapsed().as_millis().max(1)).clamp(1, 7_000);
    let slow = format!(
        "CREATE TRIGGER slow AFTER DELETE ON sessions WHEN OLD.id % 16 = 0 BEGIN {}; END",
        pairs(of)
    );
    execute(&world.db, &slow).await;
}

async fn smaller_batches_are_not_slowed_down(database: &str) {
    let world = World::new(database).await;
    slow_down(&world).await;
    let server = world.serve(&[SESSIONS], |_| {}).await;
    server
        .schedule(&["--cron", "@yearly", "--batch-size", "64", "--full-speed"])
        .await;
    let mut from = 0;
    for rows in [32, 128, 128] {
        assert!(server.advice("smaller_batches:old_sessions").await.is_none(), "{database}");
        world.expire(from, rows).await;
        server.fire().await;
        from += 128;
    }
    let typed = "dbkeep schedules update 'by night'\\''s end' --batch-size 16";
    let mut next = server.remediation("smaller_batches:old_sessions", typed).await;
    // A machine that is slower now than when it was measured is told so again.
    for time in 1.. {
        assert!(time <= 3, "{database}: {next}");
        server.typed(&next).await;
        for _ in 0..2 {
            world.expire(from, 48).await;
            server.fire().await;
            from += 48;
        }
        let Some(advice) = server.advice("smaller_batches:old_sessions").await else {
            break;
        };
        advice["remediation"].as_str().unwrap().clone_into(&mut next);
    }
    assert_eq!(world.db.count("sessions").await.unwrap(), 0);
    server.stop().await;
}

async fn a_schedule_gets_more_time_between_its_slots(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(&[SESSIONS], |_| {}).await;
    server.schedule(&["--cron", "@hourly"]).await;
    world.expire(0, 40).await;
    server.fire().await;
    let key = format!("schedule_too_often:{SCHEDULE}");
    assert!(server.advice(&key).await.is_none(), "{database}");
    // As if it had taken two thirds of an hour.
    let control = world.control().await;
    let longer = "UPDATE runs SET report = json_set(report, '$.duration_ms', 2400000)";
    assert_eq!(control.execute(longer).await.unwrap(), 1);
    let typed = "dbkeep schedules update 'by night'\\''s end' --cron @daily";
    let next = server.remediation(&key, typed).await;
    server.typed(&next).await;
    assert!(server.advice(&key).await.is_none(), "{database}");
    server.fire().await;
    server.stop().await;
}

/// Has the schedule's next run come to its work when it has worked for a minute.
async fn fire_after_a_minute(world: &World) {
    let idle = world.serve(&[SESSIONS], |config| config.engine.concurrent_runs = 0).await;
    idle.dbkeep(&["schedules", "run", SCHEDULE, "--detach"]).await;
    idle.stop().await;
    let control = world.control().await;
    let minute = "UPDATE runs SET report = json_set(report, '$.duration_ms', 60000) WHERE state = 'queued'";
    assert_eq!(control.execute(minute).await.unwrap(), 1);
    let server = world.serve(&[SESSIONS], |_| {}).await;
    let open = "SELECT count(*) FROM runs WHERE ended_ms IS NULL";
    let working = async { while number(&control, open).await > 0 {} };
    timeout(PATIENCE, working).await.unwrap();
    server.stop().await;
    control.close().await;
}

async fn a_schedule_that_runs_out_of_time_gets_more(database: &str) {
    let world = World::new(database).await;
    let key = "schedule_more_often:old_sessions";
    let server = world.serve(&[SESSIONS], |_| {}).await;
    server.schedule(&["--cron", "@yearly", "--max-time", "60s"]).await;
    world.expire(0, 40).await;
    server.fire().await;
    assert!(server.advice(key).await.is_none(), "{database}");
    server.stop().await;
    world.expire(100, 40).await;
    for _ in 0..2 {
        fire_after_a_minute(&world).await;
        assert_eq!(world.db.count("sessions").await.unwrap(), 40, "{database}: the time was over");
    }
    // The run that makes it two of three says so in its own report, beside what it met.
    let control = world.control().await;
    for (said, reports) in [(key, 1), ("time_limit:by night's end", 2)] {
        let said = said.replace('\'', "''");
        let sql = format!("SELECT count(*) FROM runs WHERE instr(report, '{said}') > 0");
        assert_eq!(number(&control, &sql).await, reports, "{database}: {said}");
    }
    control.close().await;
    let server = world.serve(&[SESSIONS], |_| {}).await;
    let typed = "dbkeep schedules update 'by night'\\''s end' --max-time 120s";
    let next = server.remediation(key, typed).await;
    server.typed(&next).await;
    server.stop().await;
    // What did not fit before.
    fire_after_a_minute(&world).await;
    assert_eq!(world.db.count("sessions").await.unwrap(), 0, "{database}");
    let server = world.serve(&[SESSIONS], |_| {}).await;
    server.fire().await;
    assert!(server.advice(key).await.is_none(), "{database}: one of three is no pattern");
    server.stop().await;
}

async fn backups_are_proven_by_the_drill_that_is_made(database: &str) {
    let world = World::new(database).await;
    let saved = SESSIONS.replace("backup = false", "backup = true");
    let server = world.serve(&[saved.as_str()], |_| {}).await;
    world.expire(0, 40).await;
    carry_out(&server, SESSIONS).await;
    let key = "restore_test_overdue";
    assert!(server.advice(key).await.is_none(), "{database}");
    // As if that had been 31 days ago.
    let control = world.control().await;
    let month = 31_i64 * 86_400_000;
    let older = format!(
        "UPDATE runs SET created_ms = created_ms - {month}, started_ms = started_ms - {month}, ended_ms = ended_ms - {month}"
    );
    assert_eq!(control.execute(&older).await.unwrap(), 1);
    for typed in [
        "dbkeep schedules create drill-app --target app --maintenance verify_backups --maintenance restore_drill --cron @weekly",
        "dbkeep schedules run 'drill-app'",
    ] {
        let next = server.remediation(key, typed).await;
        server.typed(&next).await;
    }
    assert!(server.advice(key).await.is_none(), "{database}");
    server.stop().await;
}

/// The same tests on both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite { $( #[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("sqlite").await; } )+ }
        mod postgres { $( #[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("postgres").await; } )+ }
    };
}

on_both!(
    a_rule_that_is_pasted_takes_rows_from_a_table_that_grows,
    smaller_batches_are_not_slowed_down,
    a_schedule_gets_more_time_between_its_slots,
    a_schedule_that_runs_out_of_time_gets_more,
    backups_are_proven_by_the_drill_that_is_made,
);
