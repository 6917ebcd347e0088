//! The whole way, by the tools of an operator: a schedule created through reflection by `buf curl`, with the request of docs/SCHEDULES.md; its slot
//! fires, its run deletes, a real mail server gets the mail, and the slot is on record.

use std::process::Command;

use dbkeep_testkit::{MailServer, buf};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    support::Daemon,
    world::{EXPIRED, World, eventually},
};

fn curl(daemon: &Daemon, method: &str, body: &Value) -> Result<Value, String> {
    let output = Command::new(buf())
        .args([
            "curl",
            "--protocol",
            "grpc",
            "--http2-prior-knowledge",
            "-H",
            "dbkeep-principal: ann",
            "-d",
        ])
        .arg(body.to_string())
        .arg(format!("http://{}/dbkeep.v1.ScheduleService/{method}", daemon.address))
        .output()
        .expect("buf runs");
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The request of the page, as it stands there.
fn documented() -> Value {
    let page = include_str!("../../../docs/SCHEDULES.md");
    let (_, behind) = page.split_once("```json\n").expect("a request");
    let (request, _) = behind.split_once("```").expect("its end");
    serde_json::from_str(request).expect("JSON")
}

/// What `dbkeep ... -o json` prints.
fn dbkeep(daemon: &Daemon, arguments: &[&str]) -> Value {
    let server = std::path::Path::new(env!("CARGO_BIN_EXE_dbkeepd"));
    let output = Command::new(server.with_file_name("dbkeep"))
        .args(arguments)
        .args(["-o", "json"])
        .env("DBKEEP_ADDR", &daemon.address)
        .output()
        .expect("dbkeep, which cargo build -p dbkeep-client --features cli makes");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&said).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_an_operator_fires_and_mails() {
    let world = World::new("sqlite").await;
    let mut mail = MailServer::start(&dbkeep_testkit::MailOptions::default())
        .await
        .expect("a mail server");
    let config = world.folder.path().join("dbkeep.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data\"\n[scheduler]\ndefault_schedules = false\n\
         [[channel]]\nname = \"email\"\nkind = \"email\"\nurl = \"smtp://127.0.0.1:{}\"\nstarttls = false\nfrom = \"dbkeep@example.com\"\n\
         [[target]]\nname = \"learning\"\nurl = \"{}\"\ncatalog = [\"{}\"]\n",
        mail.port,
        world.target,
        world.catalog_file().display()
    );
    std::fs::write(&config, text).expect("a configuration");
    let daemon = Daemon::start_configured(&config);
    let refused = curl(
        &daemon,
        "CreateSchedule",
        &json!({"spec": {"name": "x", "operations": ["expired_token"]}}),
    );
    let refused = refused.expect_err("no timing, and an operation that there is not");
    assert!(refused.contains("did you mean expired_tokens?"), "{refused}");
    let made = curl(&daemon, "CreateSchedule", &documented()).expect("a schedule");
    let id = made["schedule"]["id"].as_str().expect("an id").to_owned();
    let next = made["schedule"]["nextRunTime"].as_str().expect("a next run");
    assert!(next.ends_with("T02:00:00Z"), "{next}");
    // As if the server had been away since yesterday, for a day less a minute, in which there is one slot at whatever time this runs.
    let control = world.control().await;
    world.make_due(&control, &id, SignedDuration::from_mins(24 * 60 - 1)).await;
    let told = mail.next().await.expect("a mail");
    assert_eq!(told["to"], json!(["ops@learning.example"]));
    let text = told["text"].as_str().expect("a text");
    assert!(
        text.contains("daily_cleanup") && text.contains("learning") && text.contains("40"),
        "{text}"
    );
    let slots = eventually(|| async {
        let slots = curl(&daemon, "ListScheduleRuns", &json!({"id": "daily_cleanup"})).expect("slots");
        (slots["runs"][0]["outcome"] == "SLOT_OUTCOME_SUCCEEDED").then_some(slots)
    })
    .await;
    assert!(slots["runs"][0]["slotTime"].as_str().expect("a slot").ends_with("T02:00:00Z"));
    assert_eq!(world.expired().await, 0);
    // And as an operator reads it.
    let slot = &slots["runs"][0];
    let run = slot["runId"].as_str().expect("a run");
    let listed = dbkeep(&daemon, &["schedules", "runs", "daily_cleanup"]);
    assert_eq!(listed["schedule_runs"].as_array().expect("slots").len(), 1, "{listed}");
    let told = &listed["schedule_runs"][0];
    assert_eq!(told["outcome"], "succeeded", "{listed}");
    assert_eq!(told["run_id"], run, "{listed}");
    assert_eq!(
        (&told["schedule_id"], &told["slot_time"]),
        (&json!(id), &slot["slotTime"]),
        "{listed}"
    );
    assert_eq!(told["manual"], false, "{listed}");
    let shown = dbkeep(&daemon, &["runs", "show", run]);
    assert_eq!(
        (&shown["run"]["id"], &shown["run"]["state"]),
        (&json!(run), &json!("succeeded")),
        "{shown}"
    );
    assert_eq!(shown["run"]["report"]["rows_affected"], EXPIRED, "{shown}");
}
