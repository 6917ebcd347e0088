//! Other tools that migrate the same database beside dbkeep: what they did is not done again, whenever they did it, and what dbkeep took
//! back does not hide what they do later.

use dbkeep_engine::model::{EngineKind, Layout};
use dbkeep_proto::v1::{self, MigrationState, RepairAction, RunState};
use dbkeep_testkit::Db;
use tokio::{task::JoinHandle, time::timeout};

use super::world::{BOTH, Holder, PATIENCE, World, all, file, newest, reason, until};

/// The ledger of sqlx with a row of this version.
fn sqlx_ledger(engine: EngineKind, version: u32, success: bool) -> String {
    let (stamp, bytes, empty) = match engine {
        EngineKind::Postgres => ("timestamptz", "bytea", "'\\x00'"),
        EngineKind::Sqlite => ("timestamp", "blob", "x'00'"),
    };
    format!(
        "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, installed_on {stamp} NOT NULL, \
         success boolean NOT NULL, checksum {bytes} NOT NULL, execution_time bigint NOT NULL);\n\
         INSERT INTO _sqlx_migrations VALUES ({version}, 'b', CURRENT_TIMESTAMP, {success}, {empty}, 1);"
    )
}

/// Begins to apply everything; the id of the run once it has ended.
async fn applying(world: &mut World) -> JoinHandle<String> {
    let plan_token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token,
        options: Some(v1::MigrationOptions {
            lock_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..v1::MigrationOptions::default()
        }),
        ..v1::ApplyMigrationsRequest::default()
    };
    let mut client = world.migrations.clone();
    tokio::spawn(async move {
        let mut stream = client.apply_migrations(request).await.expect("accepted").into_inner();
        let mut run = String::new();
        while let Some(message) = stream.message().await.expect("a message") {
            if let Some(event) = message.event {
                run = event.run_id;
            }
        }
        run
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_tool_did_right_before_is_not_done_again() {
    for engine in BOTH {
        for (success, said) in [
            (true, "was applied by sqlx meanwhile"),
            (false, "was begun by sqlx meanwhile"),
        ] {
            // The other tool does the second one in the same moment in which the first is committed: nothing lies between that and the second.
            let beside = format!(
                "CREATE TABLE t (n integer NOT NULL);\nINSERT INTO t VALUES (0);\nUPDATE t SET n = n + 1;\n{}",
                sqlx_ledger(engine, 2, success)
            );
            let files = [file("1_a.up.sql", &beside), file("2_b.up.sql", "UPDATE t SET n = n + 1;")];
            let mut world = World::new(engine, &files, Some(Layout::Sqlx)).await;
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::PartiallySucceeded, "{engine:?}: {}", run.state_reason);
            assert!(run.state_reason.contains(said), "{engine:?}: {}", run.state_reason);
            let n = world.db.fetch_text("SELECT CAST(n AS text) FROM t").await.expect("a number");
            assert_eq!(n[0][0].as_deref(), Some("1"), "{engine:?}: once");
            let state = world.one("2").await.state();
            let expected = if success {
                MigrationState::Adopted
            } else {
                MigrationState::Pending
            };
            assert_eq!(state, expected, "{engine:?}");
            assert_eq!(
                world
                    .status()
                    .await
                    .problems
                    .iter()
                    .any(|problem| problem.code == "FOREIGN_FAILED"),
                !success
            );
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_tool_does_while_a_script_works_takes_the_script_back() {
    let script = "SELECT pg_advisory_lock(80);\nUPDATE t SET n = n + 1;";
    let mut world = World::new(EngineKind::Postgres, &[file("1_a.up.sql", script)], Some(Layout::Sqlx)).await;
    world
        .db
        .execute("CREATE TABLE t (n integer NOT NULL); INSERT INTO t VALUES (0)")
        .await
        .expect("a table");
    let mut holder = Holder::open(&world.url).await;
    holder.run("SELECT pg_advisory_lock(80)").await;
    let run = applying(&mut world).await;
    let other = Db::open(&world.url).await.expect("a connection");
    until(
        &other,
        "SELECT (count(*) > 0)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 80 AND NOT granted",
        "true",
    )
    .await;
    let theirs = format!("UPDATE t SET n = n + 1; {}", sqlx_ledger(EngineKind::Postgres, 1, true));
    other.execute(&theirs).await.expect("another tool");
    holder.run("SELECT pg_advisory_unlock(80)").await;
    let id = timeout(PATIENCE, run).await.expect("in time").expect("no panic");
    let answer = world.runs.get_run(v1::GetRunRequest { id }).await.expect("a run");
    let run = answer.into_inner().run.expect("a run");
    assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
    assert!(
        run.state_reason.contains("was applied by sqlx meanwhile"),
        "{}",
        run.state_reason
    );
    let n = other.fetch_text("SELECT n::text FROM t").await.expect("a number");
    assert_eq!(n[0][0].as_deref(), Some("1"), "once");
    assert_eq!(world.one("1").await.state(), MigrationState::Adopted);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_does_not_hide_what_another_tool_does_later() {
    for engine in BOTH {
        let files = [
            file(
                "1_a.sql",
                "-- migrate:up\nCREATE TABLE a (id integer);\n-- migrate:down\nDROP TABLE a;\n",
            ),
            file(
                "2_b.sql",
                "-- migrate:up\nCREATE TABLE b (id integer);\n-- migrate:down\nDROP TABLE b;\n",
            ),
        ];
        let mut world = World::new(engine, &files, Some(Layout::Dbmate)).await;
        world
            .db
            .execute("CREATE TABLE a (id integer); CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY); INSERT INTO schema_migrations VALUES ('1')")
            .await
            .expect("another tool");
        assert_eq!(world.one("1").await.state(), MigrationState::Adopted, "{engine:?}");
        // What is taken back although the other ledger goes on to say that it is there is pending, and blocks nothing.
        let run = world.rollback(newest(1), true).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.one("1").await.state(), MigrationState::Pending, "{engine:?}");
        assert!(
            world.status().await.problems.is_empty(),
            "{:?}",
            world.status().await.problems
        );
        let run = world.apply(newest(1)).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.one("1").await.state(), MigrationState::Applied);

        // A baseline taken back, of which the other tool said nothing then.
        let baseline = v1::BaselineMigrationsRequest {
            selection: Some(all()),
            ..v1::BaselineMigrationsRequest::default()
        };
        world.migrations.baseline_migrations(baseline).await.expect("counted");
        world.repair("2", RepairAction::MarkPending).await.expect("taken back");
        assert!(world.status().await.problems.is_empty());
        world
            .db
            .execute("CREATE TABLE b (id integer); INSERT INTO schema_migrations VALUES ('2')")
            .await
            .expect("another tool");
        let problems = world.status().await.problems;
        let [problem] = &problems[..] else {
            panic!("one problem: {problems:?}")
        };
        assert_eq!(
            (problem.code.as_str(), problem.migration_id.as_str()),
            ("FOREIGN_UNDATED", "2")
        );
        assert!(
            problem.blocks && problem.next_step.contains("migrations repair 2"),
            "{problem:?}"
        );
        assert_eq!(reason(&world.apply(all()).await.expect_err("blocked")), "MIGRATIONS_BLOCKED");
        // Somebody looked, and says either; what he says is then known.
        world.repair("2", RepairAction::MarkPending).await.expect("it is not there");
        assert!(world.status().await.problems.is_empty(), "{engine:?}");
        assert_eq!(world.one("2").await.state(), MigrationState::Pending);
        assert!(world.one("2").await.problem.contains("dbmate"), "and says so");
        world.end().await;
    }
}

/// The ledger of golang-migrate in a schema, which says that this version is in effect, and therefore every older one.
fn golang_ledger(schema: &str, version: u32) -> String {
    format!(
        "CREATE TABLE {schema}.schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL); \
         INSERT INTO {schema}.schema_migrations VALUES ({version}, false)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_another_schema_speaks_for_another_application() {
    let files = [
        file("1_a.up.sql", "CREATE TABLE a (id integer);"),
        file("2_b.up.sql", "CREATE TABLE b (id integer);"),
    ];
    let mut world = World::new(EngineKind::Postgres, &files, Some(Layout::GolangMigrate)).await;
    // What a control store in the same database notes of itself is no ledger of the folder's.
    let own = format!("CREATE SCHEMA dbkeep_control; {}", golang_ledger("dbkeep_control", 42));
    world.db.execute(&own).await.expect("a control store");
    let status = world.status().await;
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    for (schema, blocks) in [("other", false), ("another", true)] {
        let ledger = format!("CREATE SCHEMA {schema}; {}", golang_ledger(schema, 42));
        world.db.execute(&ledger).await.expect("another application");
        let status = world.status().await;
        assert_eq!((status.applied_count, status.pending_count), (0, 2), "{schema}");
        assert!(status.adopted_ledgers.is_empty(), "{:?}", status.adopted_ledgers);
        let [problem] = &status.problems[..] else {
            panic!("one problem: {:?}", status.problems)
        };
        assert_eq!(
            (problem.code.as_str(), problem.blocks),
            ("FOREIGN_OUTSIDE", blocks),
            "{problem:?}"
        );
        let named = format!("{schema}.schema_migrations of golang-migrate");
        assert!(problem.message.contains(&named), "{problem:?}");
        assert!(problem.next_step.contains("search_path"), "{problem:?}");
    }
    assert_eq!(reason(&world.apply(all()).await.expect_err("blocked")), "MIGRATIONS_BLOCKED");
    // The one that a bare name means is this folder's, whatever the others say.
    world.db.execute(&golang_ledger("public", 1)).await.expect("its own ledger");
    let status = world.status().await;
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    assert_eq!(world.one("1").await.state(), MigrationState::Adopted);
    assert_eq!(world.one("2").await.state(), MigrationState::Pending);
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.one("2").await.state(), MigrationState::Applied);
    assert_eq!(world.db.count("b").await.expect("it was made"), 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_may_not_be_read_blocks_until_it_may() {
    let files = [
        file("1_a.up.sql", "CREATE TABLE a (id integer);"),
        file("2_b.up.sql", "CREATE TABLE b (id integer);"),
    ];
    // The second schema is that of the role's own name, which the search path names before `public`.
    for (role, schema) in [("ledger_keeper", "public"), ("own_keeper", "own_keeper")] {
        let mut world = World::as_role(role, &files).await;
        let ledger = format!("CREATE SCHEMA IF NOT EXISTS {schema}; {}", golang_ledger(schema, 1));
        world.db.execute(&ledger).await.expect("a ledger of somebody else's");
        let problems = world.status().await.problems;
        let [problem] = &problems[..] else {
            panic!("one problem: {problems:?}")
        };
        assert_eq!((problem.code.as_str(), problem.blocks), ("FOREIGN_UNREADABLE", true));
        let named = format!("{schema}.schema_migrations");
        assert!(problem.message.contains(&named), "{problem:?}");
        assert_eq!(reason(&world.apply(all()).await.expect_err("blocked")), "MIGRATIONS_BLOCKED");
        assert_eq!(
            problem.next_step.contains("GRANT USAGE ON SCHEMA"),
            schema == role,
            "{problem:?}"
        );
        let (_, grants) = problem.next_step.split_once(": ").expect("statements");
        world.db.execute(grants).await.expect("what it says");
        assert!(world.status().await.problems.is_empty(), "{schema}");
        assert_eq!(world.one("1").await.state(), MigrationState::Adopted, "{schema}");
        assert_eq!(world.one("2").await.state(), MigrationState::Pending, "{schema}");
        world.end().await;
    }
}
