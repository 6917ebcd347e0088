//! The whole way, by the tools of an operator: a schedule created through reflection by `buf curl`, once with the request of docs/SCHEDULES.md and
//! once as the learning platform has it, on its own schema and with the catalog that comes with dbkeep; its slot fires, its run deletes, a real mail
//! server gets the mail and a real HTTPS server what is told in Slack, and the slot is on record.

use std::process::Command;

use dbkeep_demo::{GenerateOptions, generate, generate_files};
use dbkeep_testkit::{Db, MailOptions, MailServer, buf, fresh_database};
use jiff::{SignedDuration, Timestamp, civil::Weekday, tz::TimeZone};
use serde_json::{Value, json};

use crate::{
    receiver::Receiver,
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
    let mut mail = MailServer::start(&MailOptions::default()).await.expect("a mail server");
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
    let said = format!("daily_cleanup on learning succeeded ({EXPIRED} rows)");
    assert!(text.contains(&said), "{text}");
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

/// What the platform cleans on Sundays.
const WEEKLY: [&str; 5] = [
    "orphaned_achievements",
    "orphaned_progress",
    "orphaned_leaderboard",
    "orphaned_prerequisites",
    "old_logs",
];

/// The platform's weekly schedule.
fn weekly() -> Value {
    json!({
        "spec": {
            "name": "weekly_deep_clean",
            "operations": WEEKLY,
            "timing": {
                "cron": {"minute": "0", "hour": "1", "day_of_month": "*", "month": "*", "day_of_week": "0"},
                "timezone": "UTC"
            },
            "enabled": true,
            "options": {"batch_size": 500, "max_execution_time": "3600s"},
            "notify": {
                "on_success": true,
                "on_failure": true,
                "on_warnings": true,
                "recipients": ["ops@learning.example"],
                "channels": ["email", "slack"]
            }
        }
    })
}

fn is_sunday_at_one(at: &Value) -> bool {
    let at: Timestamp = at.as_str().expect("an instant").parse().expect("an instant");
    let at = at.to_zoned(TimeZone::UTC);
    (at.weekday(), at.hour(), at.minute()) == (Weekday::Sunday, 1, 0)
}

pub(crate) async fn the_weekly_clean_of_the_platform_fires_cleans_and_tells(database: &str) {
    let world = World::new(database).await;
    let place = world.folder.path();
    let (url, store) = if world.is_shared() {
        let url = fresh_database("platform").await.expect("a database");
        (url, format!("[store]\nurl = \"{}\"\n", world.store))
    } else {
        (format!("sqlite://{}", place.join("platform.db").display()), String::new())
    };
    let options = GenerateOptions {
        url: url.clone(),
        rows: 20_000,
        seed: 7,
        now: Timestamp::now(),
        declared_keys: false,
        drop_existing: false,
    };
    let truth = generate(&options).await.expect("a platform");
    generate_files(&options, place).expect("its files");
    // Rows that go in all, and rows that stay in each table.
    let (mut rows, mut left) = (0, truth.tables.clone());
    for name in WEEKLY {
        let operation = truth.operation(name).expect("the generator knows it");
        assert!(operation.rows() > 0, "{name}: there is something to clean");
        rows += operation.rows();
        for rule in &operation.rules {
            *left.get_mut(&rule.table).expect("its table") -= rule.rows;
        }
    }
    assert!((1_000..1_000_000).contains(&rows), "{rows}: told with one separator");

    let mut chat = Receiver::start().await;
    let authority = place.join("authority.pem");
    std::fs::write(&authority, &chat.identity.authority_pem).expect("an authority");
    let (certificate, key) = chat.identity.files(&world.folder);
    let options = MailOptions {
        certificate: Some((&certificate, &key)),
        ..MailOptions::default()
    };
    let mut mail = MailServer::start(&options).await.expect("a mail server");
    let config = place.join("dbkeep.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data\"\n{store}[scheduler]\ndefault_schedules = false\n\
         [[channel]]\nname = \"mail\"\nkind = \"email\"\nurl = \"smtp://localhost:{}\"\nca_file = \"{}\"\nfrom = \"dbkeep@example.com\"\n\
         [[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl = \"{}\"\nca_file = \"{}\"\nallow_private = true\n\
         [[target]]\nname = \"platform\"\nurl = \"{url}\"\ncatalog = [\"builtin:learning-platform\"]\n\
         roots = {{ temp = \"{}\", uploads = \"{}\" }}\n",
        mail.port,
        authority.display(),
        chat.url(),
        authority.display(),
        place.join("temp").display(),
        place.join("uploads").display()
    );
    std::fs::write(&config, text).expect("a configuration");
    let daemon = Daemon::start_configured(&config);
    let made = curl(&daemon, "CreateSchedule", &weekly()).expect("a schedule");
    let id = made["schedule"]["id"].as_str().expect("an id").to_owned();
    assert!(is_sunday_at_one(&made["schedule"]["nextRunTime"]), "{made}");
    // On whatever day this runs, the slot of the last Sunday is caught up.
    let longer = json!({"id": "weekly_deep_clean", "spec": {"catchUp": "604800s"}, "updateMask": "catchUp"});
    curl(&daemon, "UpdateSchedule", &longer).expect("changed");
    let control = world.control().await;
    world
        .make_due(&control, &id, SignedDuration::from_mins(7 * 24 * 60 - 1))
        .await;

    let said = format!(
        "weekly_deep_clean on platform succeeded ({},{:03} rows)",
        rows / 1_000,
        rows % 1_000
    );
    let mailed = mail.next().await.expect("a mail");
    assert_eq!(
        (&mailed["to"], &mailed["secured"]),
        (&json!(["ops@learning.example"]), &json!(true))
    );
    let text = mailed["text"].as_str().expect("a text");
    assert!(text.contains(&said), "{said}, and not {text}");
    let posted = chat.next().await.json();
    let text = posted["text"].as_str().expect("a text");
    assert!(text.contains(&said), "{said}, and not {text}");
    assert_eq!(posted["blocks"][0]["type"], "header", "{posted}");

    let listed = eventually(|| async {
        let listed = dbkeep(&daemon, &["schedules", "runs", "weekly_deep_clean"]);
        let outcome = listed["schedule_runs"][0]["outcome"].as_str();
        let is_over = outcome.is_some_and(|outcome| ["succeeded", "warned"].contains(&outcome));
        is_over.then_some(listed)
    })
    .await;
    assert_eq!(listed["schedule_runs"].as_array().expect("slots").len(), 1, "{listed}");
    let slot = &listed["schedule_runs"][0];
    assert!(is_sunday_at_one(&slot["slot_time"]), "{listed}");
    assert_eq!(
        (&slot["schedule_id"], &slot["manual"]),
        (&json!(id), &json!(false)),
        "{listed}"
    );
    let shown = dbkeep(&daemon, &["runs", "show", slot["run_id"].as_str().expect("a run")]);
    assert_eq!(shown["run"]["report"]["rows_affected"], rows, "{shown}");
    // As the generator has it, and as anybody counts it.
    let db = Db::open(&url).await.expect("the platform");
    for (table, rows) in &left {
        assert_eq!(db.count(table).await.expect("a count"), *rows, "{table}");
    }
    let orphans = "user_id IS NOT NULL AND user_id NOT IN (SELECT id FROM users)";
    for table in ["user_progress", "user_achievements", "leaderboard_entries"] {
        assert_eq!(db.count_where(table, orphans).await.expect("a count"), 0, "{table}");
    }
}
