//! A server that is stopped (SIGSTOP) while its session holds locks or a snapshot: its socket stays open, so that PostgreSQL misses nobody.
//! A second server takes the run over once the lease has lapsed, ends exactly that session, says so, and completes the run; the first one
//! wakes up and changes nothing any more. Where a machine stops, the programs that the server has started stop with it.

#![cfg(feature = "failpoints")]

mod support;

use std::{fs, path::PathBuf, time::Duration};

use dbkeep_client::{ApplyRequest, Client, CreateRequest, RehearseRequest, RestoreRequest, RunQuery, proto};
use dbkeep_testkit::{Db, fresh_database};
use rustix::process::Signal;
use support::Daemon;
use tokio::time::{Instant, timeout};

/// Longest wait for anything; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a row is looked for that tells what another process does.
const PEEK: Duration = Duration::from_millis(20);

struct World {
    folder: tempfile::TempDir,
    target: String,
    store: String,
    db: Db,
}

impl World {
    async fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let target = fresh_database("stopped").await.expect("a database");
        let migrations = folder.path().join("migrations");
        fs::create_dir(&migrations).expect("a folder");
        for (name, text) in files {
            fs::write(migrations.join(name), text).expect("a file");
        }
        Self {
            db: Db::open(&target).await.expect("a connection"),
            store: fresh_database("control").await.expect("a database"),
            folder,
            target,
        }
    }

    fn start(&self, number: usize, failpoints: &str) -> Daemon {
        let config: PathBuf = self.folder.path().join(format!("server{number}.toml"));
        // Of the one that is stopped, so that the other has not to wait for long. On a slow disk two seconds are not enough to keep a lease
        // while a large table is copied; whoever has to bring the run to its end has the usual term.
        let term = if number == 1 { "2s" } else { "15s" };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data{number}\"\n[store]\nurl = \"{}\"\n[backup]\nfolder = \"backups\"\n\
             [engine]\nlease_term = \"{term}\"\n[scheduler]\ndefault_schedules = false\n\
             [[target]]\nname = \"app\"\nurl = \"{}\"\nmigrations = \"migrations\"\n",
            self.store, self.target
        );
        fs::write(&config, text).expect("a configuration");
        Daemon::start_configured_with(&config, failpoints)
    }

    /// Waits until a query says true.
    async fn until(&self, sql: &str) {
        let began = Instant::now();
        loop {
            let rows = self.db.fetch_text(sql).await.expect("an answer");
            if rows.first().and_then(|row| row[0].as_deref()) == Some("true") {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "in vain: {sql}");
            tokio::time::sleep(PEEK).await;
        }
    }

    async fn value(&self, sql: &str) -> String {
        let rows = self.db.fetch_text(sql).await.expect("an answer");
        rows[0][0].clone().unwrap_or_default()
    }
}

async fn the_run(client: &Client, kind: proto::RunKind) -> String {
    let mut runs = client.runs().list_all(RunQuery::default().kind(kind)).await.expect("runs");
    assert_eq!(runs.len(), 1);
    runs.remove(0).id
}

async fn finish(client: &Client, run: &str) -> proto::Run {
    let ended = async {
        client
            .runs()
            .watch(run)
            .await
            .expect("a stream")
            .finish()
            .await
            .expect("an end")
    };
    timeout(PATIENCE, ended).await.expect("an end in time")
}

/// The sessions that were ended, as the run tells them.
fn told(run: &proto::Run) -> String {
    let report = run.report.as_ref().expect("a report");
    let ended = report.warnings.iter().filter(|warning| warning.code == "SESSION_ENDED");
    let ended: Vec<&str> = ended.map(|warning| warning.message.as_str()).collect();
    assert!(!ended.is_empty(), "nobody was ended: {:?}", report.warnings);
    ended.join("\n")
}

/// Stops the first server while it holds the table, and lets a second one take over. Returns the run as the second one left it.
async fn taken_over(world: &World, first: &Daemon, kind: proto::RunKind, holding: &str) -> proto::Run {
    world.until(holding).await;
    first.signal_all(Signal::STOP);
    world.db.execute("INSERT INTO released VALUES (1)").await.expect("a row");
    let stranger = Db::open(&world.target).await.expect("a connection");
    let mine = stranger.fetch_text("SELECT pg_backend_pid()::text").await.expect("a process");
    // As behind a pooler: the process is noted, and serves somebody else by now.
    let process = mine[0][0].clone().expect("a number");
    let noted = format!(
        "INSERT INTO dbkeep.session SELECT a.pid, a.backend_start, (SELECT run_id FROM dbkeep.session LIMIT 1), 0, 'migration' \
         FROM pg_stat_activity AS a WHERE a.pid = {process}"
    );
    assert_eq!(world.db.execute(&noted).await.expect("a note"), 1);
    let second = world.start(2, "");
    let client = second.client().await;
    let run = the_run(&client, kind).await;
    let run = finish(&client, &run).await;
    let still = stranger.fetch_text("SELECT pg_backend_pid()::text").await.expect("a process");
    assert_eq!(mine, still, "nobody else was ended");
    let forgotten = world
        .db
        .execute(&format!("DELETE FROM dbkeep.session WHERE pid = {process}"))
        .await;
    assert_eq!(forgotten.expect("deleted"), 1, "and is noted as long as it is there");
    // It wakes up, finds itself shut out, and is not heard of.
    first.signal_all(Signal::CONT);
    let again = finish(&client, &run.id).await;
    assert_eq!(again.state(), run.state());
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_does_not_keep_a_migration_s_locks() {
    let _alone = ALONE.lock().await;
    let together = "ALTER TABLE a ADD COLUMN n integer NOT NULL DEFAULT 0;\n\
                    SELECT pg_sleep(600) WHERE NOT EXISTS (SELECT 1 FROM released);\nUPDATE a SET n = n + 1;";
    // A statement that no transaction holds, and that works for as long as the function of its index does.
    let alone = "-- no-transaction\nCREATE INDEX CONCURRENTLY a_slow ON a (public.slow(id));";
    let slow = "CREATE FUNCTION public.slow(id integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN \
                PERFORM pg_catalog.pg_sleep(600) WHERE NOT EXISTS (SELECT 1 FROM public.released); RETURN id; END $$";
    for script in [together, alone] {
        let is_alone = script == alone;
        let world = World::new(&[("1_a.up.sql", script)]).await;
        for sql in [
            "CREATE TABLE a (id integer); INSERT INTO a VALUES (1); CREATE TABLE released (id integer)",
            slow,
        ] {
            world.db.execute(sql).await.expect("tables");
        }
        let first = world.start(1, "");
        let client = first.client().await;
        let plan = client
            .migrations()
            .plan(
                "app",
                proto::MigrationDirection::Up,
                dbkeep_client::MigrationSelection::all(),
                false,
            )
            .await
            .expect("a plan");
        let _stream = client
            .migrations()
            .apply(ApplyRequest::of_plan(&plan))
            .await
            .expect("accepted");
        let holding = "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND wait_event = 'PgSleep'";
        let run = taken_over(&world, &first, proto::RunKind::Migrate, holding).await;
        assert_eq!(run.state(), proto::RunState::Succeeded, "{script}: {}", run.state_reason);
        if is_alone {
            // What its end left invalid is gone, and the index was built anew.
            let built =
                "SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ',') FROM pg_index WHERE indrelid = 'a'::regclass";
            assert_eq!(world.value(built).await, "a_slow true");
            let warnings = &run.report.as_ref().expect("a report").warnings;
            assert!(
                warnings.iter().any(|warning| warning.code == "INVALID_INDEX_DROPPED"),
                "the first had begun it: {warnings:?}"
            );
        } else {
            assert_eq!(world.value("SELECT n::text FROM a").await, "1", "once, by the second");
        }
        let sleeping =
            "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
        assert_eq!(world.value(sleeping).await, "0", "its session is gone");
        assert!(
            told(&run).contains("attempt 1 of run") && told(&run).contains("migration"),
            "{}",
            told(&run)
        );
        assert_eq!(world.value("SELECT count(*)::text FROM dbkeep.session").await, "0");
    }
}

/// A table that takes more than a moment to copy, and more than the buffers between a server and its client hold.
const BIG: &str = "CREATE TABLE big (id integer PRIMARY KEY, text text NOT NULL); INSERT INTO big SELECT n, repeat(md5(n::text), 15) \
     FROM generate_series(1, 200000) AS n; CREATE TABLE released (id integer)";

/// One test at a time: each stops a server in the midst of something that is soon over, and beside the others it would be stopped too late.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Somebody of dbkeep's copies rows out of the target.
const COPYING: &str = "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
     AND application_name LIKE 'dbkeep%' AND query LIKE 'COPY %' AND query LIKE '%big%'";

async fn with_big_table() -> World {
    let text = "-- dbkeep: requires-backup = true\nALTER TABLE big ADD COLUMN n integer;";
    let files = [("1_a.up.sql", text), ("1_a.down.sql", "ALTER TABLE big DROP COLUMN n;")];
    let world = World::new(&files).await;
    world.db.execute(BIG).await.expect("tables");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_does_not_keep_the_snapshot_of_a_sample() {
    let _alone = ALONE.lock().await;
    // Between two statements, when the copy is made, and within one that copies. Of dbkeep's sessions that are between two of theirs, the one of
    // the sample is the one that holds the lock by which it is known.
    let between = "SELECT (count(*) > 0)::text FROM pg_stat_activity AS a WHERE a.datname = current_database() AND a.state = 'idle in transaction' \
                   AND a.backend_xmin IS NOT NULL AND a.state_change < clock_timestamp() - interval '1 second' \
                   AND EXISTS (SELECT 1 FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
                               WHERE l.pid = a.pid AND l.mode = 'RowShareLock' AND c.relname = 'run')";
    for (failpoints, holding) in [("scratch-made=pause", between), ("", COPYING)] {
        let world = with_big_table().await;
        let first = world.start(1, failpoints);
        let client = first.client().await;
        let request = RehearseRequest::new().target("app").sample_rows(200_000);
        let _stream = client.migrations().test(request).await.expect("accepted");
        let run = taken_over(&world, &first, proto::RunKind::Rehearse, holding).await;
        assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
        assert!(told(&run).contains("(sample)"), "{}", told(&run));
        let others =
            "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
        assert_eq!(world.value(others).await, "0");
        assert_eq!(world.value("SELECT count(*)::text FROM dbkeep.session").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_machine_does_not_keep_the_locks_of_its_dump() {
    let _alone = ALONE.lock().await;
    for kind in [proto::RunKind::Rehearse, proto::RunKind::Migrate] {
        let world = with_big_table().await;
        let first = world.start(1, "");
        let client = first.client().await;
        let migrations = client.migrations();
        let _stream = if kind == proto::RunKind::Rehearse {
            migrations.test(RehearseRequest::new().target("app")).await.expect("accepted")
        } else {
            let up = proto::MigrationDirection::Up;
            let plan = migrations
                .plan("app", up, dbkeep_client::MigrationSelection::all(), false)
                .await;
            let request = ApplyRequest::of_plan(&plan.expect("a plan"));
            migrations.apply(request).await.expect("accepted")
        };
        let run = taken_over(&world, &first, kind, COPYING).await;
        assert_eq!(run.state(), proto::RunState::Succeeded, "{kind:?}: {}", run.state_reason);
        assert!(
            told(&run).contains("(pg_dump)") && told(&run).contains("(dump)"),
            "{}",
            told(&run)
        );
        let columns = "SELECT count(*)::text FROM information_schema.columns WHERE table_name = 'big'";
        let expected = if kind == proto::RunKind::Migrate { "3" } else { "2" };
        assert_eq!(world.value(columns).await, expected);
        assert_eq!(world.value("SELECT count(*)::text FROM dbkeep.session").await, "0");
        assert_eq!(run.backup_id.is_empty(), kind == proto::RunKind::Rehearse);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_does_not_keep_a_restore_s_locks() {
    let _alone = ALONE.lock().await;
    let world = World::new(&[("1_a.up.sql", "SELECT 1;")]).await;
    world
        .db
        .execute("CREATE TABLE a (id integer PRIMARY KEY, n integer); INSERT INTO a SELECT n, n FROM generate_series(1, 1000) AS n; CREATE TABLE released (id integer)")
        .await
        .expect("tables");
    let first = world.start(1, "load-copied=pause");
    let client = first.client().await;
    let saved = client
        .backups()
        .create(CreateRequest::new().table("a"))
        .await
        .expect("accepted");
    let saved = saved.finish().await.expect("an end");
    assert_eq!(saved.state(), proto::RunState::Succeeded, "{}", saved.state_reason);
    world.db.execute("UPDATE a SET n = 0").await.expect("changed");
    let request = RestoreRequest::in_place(&saved.id, format!("app/{}", saved.id)).replace();
    let _stream = client.backups().restore(request).await.expect("accepted");
    let holding = "SELECT (count(*) > 0)::text FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.relation = 'a'::regclass \
                   AND l.mode = 'AccessExclusiveLock' AND l.granted AND a.state = 'idle in transaction'";
    let run = taken_over(&world, &first, proto::RunKind::Restore, holding).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.value("SELECT sum(n)::text FROM a").await, "500500");
    assert!(told(&run).contains("restore"), "{}", told(&run));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_does_not_go_to_a_database_that_the_target_became_meanwhile() {
    let _alone = ALONE.lock().await;
    let mut world = World::new(&[("1_a.up.sql", "SELECT 1;")]).await;
    world
        .db
        .execute("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT n FROM generate_series(1, 100) AS n")
        .await
        .expect("a table");
    let mut first = world.start(1, "load-checked=panic");
    let client = first.client().await;
    let saved = client
        .backups()
        .create(CreateRequest::new().table("a"))
        .await
        .expect("accepted");
    let saved = saved.finish().await.expect("an end");
    assert_eq!(saved.state(), proto::RunState::Succeeded, "{}", saved.state_reason);
    let request = RestoreRequest::in_place(&saved.id, format!("app/{}", saved.id)).replace();
    let _stream = client.backups().restore(request).await.expect("accepted");
    assert!(!first.wait().success(), "it was killed before anything was written");

    // The target is another database now, with a table of that name and rows of its own.
    world.target = fresh_database("another").await.expect("a database");
    world.db = Db::open(&world.target).await.expect("a connection");
    world
        .db
        .execute("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (-1)")
        .await
        .expect("a table");
    let second = world.start(2, "");
    let client = second.client().await;
    let run = the_run(&client, proto::RunKind::Restore).await;
    let run = finish(&client, &run).await;
    assert_eq!(run.state(), proto::RunState::Failed, "{}", run.state_reason);
    assert!(run.state_reason.contains("of another database"), "{}", run.state_reason);
    assert_eq!(world.value("SELECT sum(id)::text FROM a").await, "-1");
}
