//! Alerts on their whole way: something goes wrong on a real server, its collector sees it, and a real HTTPS server is told, once when it
//! begins and once when it is over.

use std::time::Duration;

use dbkeep_client::{AlertQuery, ApplyRequest, Client, PlanRequest, RunRequest, ScheduleDraft, ScheduleTiming, proto};
use dbkeep_engine::{
    model::{
        Layout,
        notice::{NoticeKind, NoticeSeverity},
    },
    monitor::alerts::RuleName,
    notify::Route,
};
use dbkeep_server::{
    Config,
    config::channels::{ChannelConfig, ChannelSetting, HookConfig},
};
use dbkeep_testkit::Db;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    receiver::Receiver,
    serving::{Serving, catalog},
    world::{DATABASES, PATIENCE, World},
};

const CATALOG: &str = r#"
[[operation]]
name = "expired_tokens"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
max_fraction = 1.0

[[operation]]
name = "slow_sessions"
category = "EXPIRED_DATA"
severity = "LOW"
backup = false
expected_time = "PT1S"
[[operation.rule]]
name = "sessions"
kind = "expired"
table = "sessions"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
max_fraction = 1.0
"#;

const MIGRATION: &str = "CREATE TABLE from_migration (id integer PRIMARY KEY);\n";

pub(crate) struct Running {
    pub(crate) client: Client,
    serving: Serving,
}

impl Running {
    /// A server that looks several times a second and tells one webhook of alerts.
    pub(crate) async fn start(world: &World, receiver: &Receiver) -> Self {
        Self::start_with(world, receiver, |_| {}).await
    }

    /// The same with settings of the test's own.
    pub(crate) async fn start_with(world: &World, receiver: &Receiver, change: impl FnOnce(&mut Config)) -> Self {
        let setting = ChannelSetting::Webhook {
            hook: HookConfig {
                url: receiver.url().into(),
                allow_private: true,
            },
            key: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        };
        let mut channel = ChannelConfig::new("hook", setting);
        channel.authorities = receiver.authority();
        let mut config = Config::embedded(world.folder.path().join("data"))
            .with_target("app", world.target.as_str(), catalog(CATALOG))
            .with_migrations("app", world.folder.path().join("migrations"), Some(Layout::Sqlx))
            .with_channel(channel)
            .with_route(Route {
                kinds: vec![NoticeKind::AlertRaised, NoticeKind::AlertResolved],
                severity: NoticeSeverity::Info,
                targets: Vec::new(),
                channels: vec!["hook".to_owned()],
                recipients: Vec::new(),
            });
        if world.is_shared() {
            config = config.with_store(world.store.as_str());
        }
        config.engine.monitor.interval = Duration::from_millis(200);
        // Two minutes are for people; what is tested here is that it is told, and once.
        let rules = &mut config.engine.monitor.rules;
        rules
            .entry(RuleName::TargetDown)
            .and_modify(|rule| rule.lasting = Duration::ZERO);
        config.engine.monitor.snapshot_limit = Duration::from_secs(2);
        // The disk of whoever tests is nobody's business here.
        config.engine.monitor.machine = None;
        config.engine.notify.first_wait = Duration::from_millis(10);
        config.engine.notify.poll_interval = Duration::from_millis(50);
        change(&mut config);
        let serving = Serving::start(config).await;
        Self {
            client: serving.client().await,
            serving,
        }
    }

    pub(crate) async fn stop(self) {
        self.serving.stop().await;
    }

    pub(crate) async fn run(&self, operation: &str) -> proto::Run {
        let plan = self.client.cleanup().plan(PlanRequest::new([operation])).await.unwrap();
        let request = RunRequest::of_plan(&plan).execute().full_speed();
        self.client.cleanup().run(request).await.unwrap().finish().await.unwrap()
    }

    /// Runs an operation, which ends so.
    async fn run_to(&self, operation: &str, state: proto::RunState) -> proto::Run {
        let run = self.run(operation).await;
        assert_eq!(run.state(), state, "{}", run.state_reason);
        run
    }

    /// Proves a backup, which ends so.
    async fn verify_to(&self, backup: &str, state: proto::RunState) {
        let verified = self.client.backups().verify(backup).await.unwrap().finish().await.unwrap();
        assert_eq!(verified.state(), state, "{}", verified.state_reason);
    }

    /// Nothing more is told, however often it looks.
    async fn is_quiet(&self, receiver: &mut Receiver, why: &str) {
        self.looks(3).await;
        assert!(!receiver.has_more(), "{why}");
    }

    /// Keys of what is recommended.
    pub(crate) async fn advice(&self) -> Vec<String> {
        let advice = self.client.monitoring().recommendations("app").await.unwrap();
        advice.into_iter().map(|one| one.key).collect()
    }

    /// Waits for so many further looks: what is there to be told of twice would be told of by then.
    pub(crate) async fn looks(&self, number: usize) {
        use futures::TryStreamExt as _;
        let mut stream = std::pin::pin!(self.client.monitoring().watch_metrics("app", 0));
        for _ in 0..=number {
            timeout(PATIENCE, stream.try_next()).await.unwrap().unwrap().unwrap();
        }
    }
}

/// The next notification: its type, and the alert that it is about.
async fn told(receiver: &mut Receiver) -> (String, String, Value) {
    let body = receiver.next().await.json();
    let alert = body["data"]["lines"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["label"] == "Alert")
        .unwrap()["value"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(body["data"]["target"], "app");
    let rule = alert.split_once(' ').unwrap().0.to_owned();
    (body["type"].as_str().unwrap().to_owned(), rule, body["data"].clone())
}

pub(crate) async fn raised(receiver: &mut Receiver, rule: &str) -> Value {
    let (kind, found, data) = told(receiver).await;
    assert_eq!((kind.as_str(), found.as_str()), ("alert_raised", rule), "{data}");
    assert!(data["next_step"].is_string(), "whoever is told is told what to do: {data}");
    data
}

pub(crate) async fn resolved(receiver: &mut Receiver, rule: &str) {
    let (kind, found, data) = told(receiver).await;
    assert_eq!((kind.as_str(), found.as_str()), ("alert_resolved", rule), "{data}");
}

pub(crate) async fn rows(db: &Db, table: &str, from: u32) {
    let values: Vec<String> = (from..from + 40).map(|id| format!("({id}, 1000)")).collect();
    db.execute(&format!("INSERT INTO {table} (id, expires_at) VALUES {}", values.join(", ")))
        .await
        .unwrap();
}

/// Makes the database refuse every DELETE on a table, and what takes that back.
pub(crate) fn keep_all(is_postgres: bool, table: &str) -> (String, String) {
    if is_postgres {
        (
            format!(
                "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows are kept'; END $$; \
                 CREATE TRIGGER keep AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()"
            ),
            format!("DROP TRIGGER keep ON {table}"),
        )
    } else {
        (
            format!("CREATE TRIGGER keep AFTER DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'rows are kept'); END"),
            "DROP TRIGGER keep".to_owned(),
        )
    }
}

pub(crate) async fn prepared(database: &str) -> (World, Db) {
    let world = World::new(database).await;
    std::fs::create_dir_all(world.folder.path().join("migrations")).unwrap();
    std::fs::write(world.folder.path().join("migrations/1_first.sql"), MIGRATION).unwrap();
    let db = Db::open(&world.target).await.unwrap();
    db.execute("CREATE TABLE sessions (id bigint PRIMARY KEY, expires_at bigint)")
        .await
        .unwrap();
    rows(&db, "tokens", 1).await;
    rows(&db, "sessions", 1).await;
    (world, db)
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_late_operations_are_told_once_and_once_more_when_over() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let (keep, release) = keep_all(world.is_shared(), "tokens");

        db.execute(&keep).await.unwrap();
        server.run_to("expired_tokens", proto::RunState::Failed).await;
        let data = raised(&mut receiver, "operation_failed").await;
        assert_eq!(data["severity"], "error");
        assert!(
            data["title"].as_str().unwrap().contains("rows are kept"),
            "{database}: {data}"
        );
        server.is_quiet(&mut receiver, "told once, and not at each look").await;
        let open = server
            .client
            .monitoring()
            .list_all_alerts(AlertQuery::default())
            .await
            .unwrap();
        assert_eq!((open.len(), open[0].object.as_str()), (1, "expired_tokens"));

        db.execute(&release).await.unwrap();
        server.run_to("expired_tokens", proto::RunState::Succeeded).await;
        resolved(&mut receiver, "operation_failed").await;

        // One row that the database takes more than the expected second to delete.
        let slow = if world.is_shared() {
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.5); RETURN OLD; END $$; \
             CREATE TRIGGER slow AFTER DELETE ON sessions FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION slow()"
        } else {
            "CREATE TABLE many AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 7000) SELECT i FROM n; \
             CREATE TRIGGER slow AFTER DELETE ON sessions WHEN OLD.id = 1 BEGIN \
             SELECT count(*) FROM many a, many b WHERE a.i + b.i < 0; END"
        };
        db.execute(slow).await.unwrap();
        server.run("slow_sessions").await;
        let data = raised(&mut receiver, "expected_time_exceeded").await;
        assert_eq!(data["severity"], "warning");
        rows(&db, "sessions", 100).await;
        server.run("slow_sessions").await;
        resolved(&mut receiver, "expected_time_exceeded").await;
        server.is_quiet(&mut receiver, database).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_over_once_it_succeeded_and_not_when_it_is_tried_again() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let (keep, release) = keep_all(world.is_shared(), "tokens");
        db.execute(&keep).await.unwrap();
        server.run_to("expired_tokens", proto::RunState::Failed).await;
        raised(&mut receiver, "operation_failed").await;
        // Somebody holds the second run up while it is looked at.
        let holder = Db::open(&world.target).await.unwrap();
        let hold = if world.is_shared() {
            "BEGIN; LOCK TABLE tokens IN SHARE MODE"
        } else {
            "BEGIN IMMEDIATE"
        };
        holder.execute(hold).await.unwrap();
        let cleanup = server.client.cleanup();
        let plan = cleanup.plan(PlanRequest::new(["expired_tokens"])).await.unwrap();
        let request = RunRequest::of_plan(&plan).execute().full_speed();
        let stream = cleanup.run(request).await.unwrap();
        let running = tokio::spawn(async move { stream.finish().await });
        server.looks(2).await;
        assert!(!running.is_finished(), "{database}: it is at work");
        assert!(!receiver.has_more(), "{database}: nothing is over yet");
        holder.execute("ROLLBACK").await.unwrap();
        let again = timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
        assert_eq!(again.state(), proto::RunState::Failed, "{}", again.state_reason);
        server
            .is_quiet(&mut receiver, &format!("{database}: it failed all the time"))
            .await;
        db.execute(&release).await.unwrap();
        server.run_to("expired_tokens", proto::RunState::Succeeded).await;
        resolved(&mut receiver, "operation_failed").await;
        holder.close().await;
        server.stop().await;
    }
}

/// Spoils the largest chunk of a backup. Returns where it is, and what it was.
fn tear(world: &World, backup: &str) -> (std::path::PathBuf, Vec<u8>) {
    let folder = world.folder.path().join("data/backups").join(backup);
    let chunk = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .expect("a chunk");
    let whole = std::fs::read(&chunk).unwrap();
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[middle] ^= 0xff;
    std::fs::write(&chunk, torn).unwrap();
    (chunk, whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_that_maintenance_finds_is_told() {
    for database in DATABASES {
        let (world, _db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let run = server.run("expired_tokens").await;
        let (chunk, whole) = tear(&world, &run.backup_id);
        let draft = ScheduleDraft::new("proofs")
            .target("app")
            .maintenance("vacuum_analyze")
            .maintenance("verify_backups")
            .timing(ScheduleTiming::cron("@yearly"));
        let schedules = server.client.schedules();
        let schedule = schedules.create(draft).await.unwrap();
        let upkeep = schedules.run(schedule.id.as_str()).await.unwrap().finish().await.unwrap();
        assert_eq!(
            upkeep.state(),
            proto::RunState::PartiallySucceeded,
            "{database}: {}",
            upkeep.state_reason
        );
        let data = raised(&mut receiver, "backup_failed").await;
        assert!(
            data["title"].as_str().unwrap().contains(&run.backup_id),
            "the backup is named: {data}"
        );
        server.is_quiet(&mut receiver, &format!("{database}: told once")).await;
        std::fs::write(&chunk, whole).unwrap();
        server.verify_to(&run.backup_id, proto::RunState::Succeeded).await;
        resolved(&mut receiver, "backup_failed").await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_damaged_or_old_is_told() {
    for database in DATABASES {
        let (world, _db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let run = server.run("expired_tokens").await;
        let (chunk, whole) = tear(&world, &run.backup_id);
        server.verify_to(&run.backup_id, proto::RunState::Failed).await;
        raised(&mut receiver, "backup_failed").await;
        server.is_quiet(&mut receiver, &format!("{database}: told once")).await;
        std::fs::write(&chunk, whole).unwrap();
        server.verify_to(&run.backup_id, proto::RunState::Succeeded).await;
        resolved(&mut receiver, "backup_failed").await;

        // As if all of that had been 31 days ago.
        let control = Db::open(&world.store).await.unwrap();
        let month = 31_i64 * 86_400_000;
        let older = format!(
            "UPDATE {} SET created_ms = created_ms - {month}, started_ms = started_ms - {month}, ended_ms = ended_ms - {month}, \
             verified_ms = verified_ms - {month}",
            world.table("runs")
        );
        control.execute(&older).await.unwrap();
        let data = raised(&mut receiver, "backup_unverified").await;
        assert!(data["title"].as_str().unwrap().contains("31 days ago"), "{data}");
        assert_eq!(server.advice().await, ["restore_test_overdue"], "{database}");
        server.is_quiet(&mut receiver, &format!("{database}: told once")).await;
        // Without any backup nothing is proven: the alert stays. (As far as monitoring sees, which looks at the store.)
        let pruned = |text: &str| {
            format!(
                "UPDATE {} SET pruned_ms = {text} WHERE id = '{}'",
                world.table("runs"),
                run.backup_id
            )
        };
        control.execute(&pruned("1")).await.unwrap();
        server
            .is_quiet(&mut receiver, &format!("{database}: not seen is not over"))
            .await;
        control.execute(&pruned("NULL")).await.unwrap();
        server.verify_to(&run.backup_id, proto::RunState::Succeeded).await;
        resolved(&mut receiver, "backup_unverified").await;
        assert_eq!(server.advice().await, [""; 0], "{database}: proven, as advised");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_that_drift_are_told() {
    for database in DATABASES {
        let (world, _db) = prepared(database).await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        let applied = server.client.migrations().apply(ApplyRequest::new()).await.unwrap();
        let applied = applied.finish().await.unwrap();
        assert_eq!(applied.state(), proto::RunState::Succeeded, "{}", applied.state_reason);
        server.stop().await;
        // Files are held against their ledger when a server starts, and now and then.
        let file = world.folder.path().join("migrations/1_first.sql");
        std::fs::write(&file, format!("{MIGRATION}-- edited afterwards\n")).unwrap();
        let server = Running::start(&world, &receiver).await;
        let data = raised(&mut receiver, "migration_drift").await;
        assert!(data["title"].as_str().unwrap().contains("migration 1"), "{data}");
        server.is_quiet(&mut receiver, &format!("{database}: told once")).await;
        server.stop().await;
        std::fs::write(&file, MIGRATION).unwrap();
        let server = Running::start(&world, &receiver).await;
        resolved(&mut receiver, "migration_drift").await;
        server.stop().await;
    }
}

/// Takes a target away, or brings it back.
async fn reachable(world: &World, is: bool) {
    if world.is_shared() {
        let (server, name) = world.target.rsplit_once('/').unwrap();
        let admin = Db::open(&format!("{server}/postgres")).await.unwrap();
        let (from, to) = if is { ("away", "") } else { ("", "away") };
        let rename = format!("ALTER DATABASE \"{name}{from}\" RENAME TO \"{name}{to}\"");
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        let renamed = async {
            // Nobody is connected to a database that is renamed, nor about to be.
            loop {
                admin.execute(&end).await.unwrap();
                if admin.execute(&rename).await.is_ok() {
                    return;
                }
            }
        };
        timeout(PATIENCE, renamed).await.unwrap();
        return;
    }
    let (file, away) = (world.folder.path().join("app.db"), world.folder.path().join("away.db"));
    if is {
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&away, &file).unwrap();
    } else {
        // A folder in its place can be opened by nobody.
        std::fs::rename(&file, &away).unwrap();
        std::fs::create_dir(&file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_goes_away_is_told_once() {
    for database in DATABASES {
        let (world, db) = prepared(database).await;
        db.close().await;
        let mut receiver = Receiver::start().await;
        let server = Running::start(&world, &receiver).await;
        server.looks(1).await;
        reachable(&world, false).await;
        let server = if world.is_shared() {
            server
        } else {
            // Connections that are open still have the old file.
            server.stop().await;
            Running::start(&world, &receiver).await
        };
        let data = raised(&mut receiver, "target_down").await;
        assert_eq!(data["severity"], "error");
        server
            .is_quiet(&mut receiver, &format!("{database}: told once, and not at each look"))
            .await;
        let status = server.client.monitoring().status().await.unwrap();
        assert_eq!((status.targets[0].up, status.alerts.len()), (Some(false), 1));
        reachable(&world, true).await;
        resolved(&mut receiver, "target_down").await;
        server.stop().await;
    }
}
