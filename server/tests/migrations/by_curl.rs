//! Status, plan and apply by a tool that knows nothing of dbkeep but what reflection tells it, with progress while it is made.

use std::process::Stdio;

use dbkeep_engine::model::EngineKind;
use dbkeep_proto::v1::MigrationState;
use dbkeep_testkit::buf;
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::timeout,
};

use super::world::{BOTH, Holder, PATIENCE, World, file};

fn curl(world: &World, method: &str, body: &Value) -> Child {
    Command::new(buf())
        .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d"])
        .arg(body.to_string())
        .arg(format!("{}/dbkeep.v1.MigrationService/{method}", world.address))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("buf runs")
}

/// The answer of a call that is no stream.
async fn ask(world: &World, method: &str, body: Value) -> Result<Value, String> {
    let ended = timeout(PATIENCE, curl(world, method, &body).wait_with_output()).await;
    let output = ended.expect("in time").expect("an end");
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_plan_and_apply_by_reflection_with_progress_as_it_is_made() {
    for engine in BOTH {
        let second = match engine {
            EngineKind::Postgres => "SELECT pg_advisory_lock(79);\nINSERT INTO a VALUES (2);\nSELECT pg_advisory_unlock(79);",
            EngineKind::Sqlite => "INSERT INTO a VALUES (2);",
        };
        let files = [
            file("1_a.up.sql", "CREATE TABLE a (id integer PRIMARY KEY);"),
            file("2_b.up.sql", second),
        ];
        let mut world = World::new(engine, &files, None).await;
        let mut holder = None;
        if engine == EngineKind::Postgres {
            let mut session = Holder::open(&world.url).await;
            session.run("SELECT pg_advisory_lock(79)").await;
            holder = Some(session);
        }
        let status = ask(&world, "GetMigrationStatus", json!({})).await.expect("a status");
        assert_eq!(
            (&status["status"]["pendingCount"], &status["status"]["layout"]),
            (&json!(2), &json!("sqlx")),
            "{status}"
        );
        let plan = ask(&world, "PlanMigrations", json!({})).await.expect("a plan");
        assert_eq!(plan["plan"]["steps"].as_array().map(Vec::len), Some(2), "{plan}");
        let wrong = json!({"dry_run": false, "plan_token": "another"});
        let refused = ask(&world, "ApplyMigrations", wrong).await.expect_err("another plan");
        assert!(
            refused.contains("failed_precondition") && refused.contains("make a new plan"),
            "{refused}"
        );
        let right = json!({"dry_run": false, "plan_token": plan["plan"]["token"], "options": {"lock_timeout": "60s"}});
        let mut applying = curl(&world, "ApplyMigrations", &right);
        let mut stdout = applying.stdout.take().expect("its output");
        let mut told = String::new();
        let mut buffer = vec![0; 4_096];
        if let Some(mut holder) = holder {
            // The second waits; that it began is told now, not in the end.
            while !told.contains("SELECT pg_advisory_lock(79)") {
                let read = timeout(PATIENCE, stdout.read(&mut buffer))
                    .await
                    .expect("progress in time")
                    .expect("a read");
                assert!(read > 0, "it ended before it could: {told}");
                told.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            assert!(!told.contains("RUN_STATE_SUCCEEDED"), "{told}");
            assert_eq!(world.one("2").await.state(), MigrationState::Pending);
            holder.run("SELECT pg_advisory_unlock(79)").await;
        }
        let mut rest = Vec::new();
        timeout(PATIENCE, stdout.read_to_end(&mut rest))
            .await
            .expect("in time")
            .expect("the rest");
        told.push_str(&String::from_utf8_lossy(&rest));
        assert!(applying.wait().await.expect("an end").success());
        assert!(
            told.contains("RUN_STATE_SUCCEEDED") && told.contains("INSERT INTO a VALUES (2)"),
            "{told}"
        );
        let sequences = told.matches("\"sequence\"").count();
        assert!(sequences > 4, "{told}");
        let status = ask(&world, "GetMigrationStatus", json!({})).await.expect("a status");
        assert_eq!(status["status"]["appliedCount"], json!(2), "{status}");
        assert_eq!(world.db.count("a").await.expect("a count"), 1);
        world.end().await;
    }
}
