//! The real binary `dbkeep` against the fake server over TCP: exit codes, and what stands on stdout and stderr.

use std::{net::SocketAddr, process::Output};

use dbkeep_client::proto::{self, RunState};
use tokio::{net::TcpListener, process::Command};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;

use crate::fake::{
    Answer::{Refuse, Stream},
    Call, Fake, RUN, progress, refusal, state,
};

pub(crate) async fn serve(fake: &Fake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(fake.router().serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

pub(crate) async fn dbkeep(address: impl ToString, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dbkeep"))
        .args(arguments)
        .env("DBKEEP_ADDR", address.to_string())
        .env_remove("NO_COLOR")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn one_run(end: RunState) -> Fake {
    let fake = Fake::new([Stream(vec![state(1, RunState::Running), progress(2), state(3, end)])]);
    fake.set_run(|run| run.set_state(end));
    fake.set_plan(proto::Plan {
        token: "tok".into(),
        target: "main".into(),
        operations: vec!["a".into()],
        row_count: 5,
        steps: vec![proto::PlanStep {
            table: "logs".into(),
            row_count: 5,
            ..Default::default()
        }],
        ..Default::default()
    });
    fake
}

#[tokio::test]
async fn the_end_of_a_run_is_the_exit_code() {
    for (end, code) in [
        (RunState::Succeeded, 0),
        (RunState::Failed, 1),
        (RunState::PartiallySucceeded, 3),
        (RunState::Cancelled, 6),
    ] {
        let address = serve(&one_run(end)).await;
        let output = dbkeep(address, &["run", "a", "--execute", "--yes"]).await;
        assert_eq!(output.status.code(), Some(code), "{end:?}: {}", text(&output.stderr));
        assert!(!text(&output.stdout).contains('\u{1b}'), "colours without a terminal");
    }
}

#[tokio::test]
async fn a_run_streams_json_lines_from_plan_to_report() {
    let fake = one_run(RunState::Succeeded);
    let output = dbkeep(serve(&fake).await, &["run", "a", "--execute", "--yes", "-o", "json"]).await;
    let lines = json_lines(&output);
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["plan", "state_changed", "progress", "state_changed", "run"]);
    assert_eq!(lines[4]["run"]["state"], "succeeded");
    assert!(matches!(&fake.calls()[..], [Call::Plan, Call::Run { .. }, Call::GetRun]));
}

#[tokio::test]
async fn nothing_is_deleted_where_nobody_can_be_asked() {
    let fake = one_run(RunState::Succeeded);
    let output = dbkeep(serve(&fake).await, &["run", "a", "--execute"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--yes"), "{}", text(&output.stderr));
    assert_eq!(fake.calls(), [Call::Plan]);
}

#[tokio::test]
async fn a_blocked_plan_is_not_run() {
    let fake = Fake::new([]);
    fake.set_plan(proto::Plan {
        blocked: true,
        row_count: 1,
        ..Default::default()
    });
    let output = dbkeep(serve(&fake).await, &["run", "a", "--execute", "--yes"]).await;
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(fake.calls(), [Call::Plan]);
}

#[tokio::test]
async fn detach_tells_the_id_and_how_to_come_back() {
    let output = dbkeep(
        serve(&one_run(RunState::Succeeded)).await,
        &["run", "a", "--execute", "--yes", "--detach"],
    )
    .await;
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains(RUN));
    assert!(
        text(&output.stderr).contains(&format!("dbkeep runs watch {RUN}")),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn a_refusal_tells_reason_and_hint() {
    let held = || {
        refusal(
            Code::Aborted,
            "RUN_ALREADY_ACTIVE",
            &[("run", "other"), ("target", "main"), ("table", "logs")],
        )
    };
    let fake = Fake::new([Refuse(held()), Refuse(held())]);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["run", "a"]).await;
    assert_eq!(output.status.code(), Some(4));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("RUN_ALREADY_ACTIVE") && stderr.contains("dbkeep runs watch other"),
        "{stderr}"
    );
    let output = dbkeep(address, &["run", "a", "--output", "json"]).await;
    let error: serde_json::Value = serde_json::from_str(&text(&output.stderr)).unwrap();
    assert_eq!(
        (&error["error"]["reason"], &error["error"]["exit_code"]),
        (&"RUN_ALREADY_ACTIVE".into(), &4.into())
    );
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn nobody_there_is_exit_code_5_and_nonsense_is_2() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let output = dbkeep(address, &["targets", "list"]).await;
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&address.to_string()));
    assert_eq!(dbkeep("ftp://x:1", &["targets", "list"]).await.status.code(), Some(2));
    assert_eq!(dbkeep(address, &["target"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn lists_and_details_are_tables_or_one_json_object() {
    let address = serve(&Fake::new([])).await;
    for arguments in [
        &["targets", "list"][..],
        &["operations", "list"],
        &["operations", "show", "a"],
        &["discover"],
        &["discover", "--toml"],
        &["plan", "a"],
        &["runs", "list"],
        &["runs", "show", RUN],
        &["runs", "cancel", RUN],
        &["backups", "list"],
        &["backups", "show", RUN],
    ] {
        let output = dbkeep(address, arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty());
        let output = dbkeep(address, &[arguments, &["-o", "json"]].concat()).await;
        assert_eq!(json_lines(&output).len(), 1, "{arguments:?}");
    }
    let more = dbkeep(address, &["runs", "list", "--limit", "3", "-o", "json"]).await;
    let more = &json_lines(&more)[0];
    assert_eq!((more["runs"].as_array().unwrap().len(), &more["more"]), (3, &true.into()));
}

#[tokio::test]
async fn a_discovery_is_a_table_or_a_catalog_to_save() {
    let address = serve(&Fake::new([])).await;
    let table = text(&dbkeep(address, &["discover"]).await.stdout);
    assert!(
        table.contains("child (parent_id)") && table.contains("parent (id)") && table.contains("0.94"),
        "{table}"
    );
    assert!(table.contains("discover --toml > catalog.toml"), "{table}");
    let catalog = text(&dbkeep(address, &["discover", "--toml"]).await.stdout);
    assert!(catalog.contains("\n[[operation]]\nname = \"orphaned_child\"\n"), "{catalog}");
    assert!(catalog.contains("\n# [[operation]]\n# name = \"not_yet\"\n"), "{catalog}");
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_detaches_and_leaves_the_run_at_work() {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

    let fake = Fake::new([Stream(vec![state(1, RunState::Running), crate::fake::Step::Hang])]);
    let address = serve(&fake).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_dbkeep"))
        .args(["runs", "watch", RUN, "-o", "json"])
        .env("DBKEEP_ADDR", address.to_string())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first event tells that the handler is in place.
    assert!(lines.next_line().await.unwrap().unwrap().contains("state_changed"));
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    assert_eq!(
        lines.next_line().await.unwrap().unwrap(),
        format!(r#"{{"type":"detached","run_id":"{RUN}"}}"#)
    );
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).await.unwrap();
    assert!(stderr.contains(&format!("dbkeep runs cancel {RUN}")), "{stderr}");
    assert!(!fake.calls().iter().any(|call| matches!(call, Call::Cancel { .. })));
}

#[tokio::test]
async fn a_report_is_a_page_figures_or_tables() {
    let events = || vec![state(1, RunState::Running), progress(2), state(3, RunState::Succeeded)];
    let fake = Fake::new([Stream(events()), Stream(events()), Stream(events()), Stream(events())]);
    fake.set_run(|run| {
        run.set_state(RunState::Succeeded);
        run.last_sequence = 3;
    });
    let address = serve(&fake).await;
    let page = dbkeep(address, &["runs", "report", RUN, "--html"]).await;
    assert_eq!(page.status.code(), Some(0), "{}", text(&page.stderr));
    let html = text(&page.stdout);
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"), "{html}");
    assert!(html.contains(RUN) && html.contains("Sampled: 1 progress event,"), "{html}");

    let folder = std::env::temp_dir().join(format!("dbkeep-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("report.html");
    let written = dbkeep(address, &["runs", "report", RUN, "--html", &file.display().to_string()]).await;
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    assert!(written.stdout.is_empty());
    assert!(std::fs::read_to_string(&file).unwrap().contains("</html>"));
    let nowhere = folder.join("missing").join("report.html");
    let figures = dbkeep(address, &["runs", "report", RUN, "--json"]).await;
    let lines = json_lines(&figures);
    assert_eq!(lines[0]["report"]["course"]["progress_count"], 1);
    assert_eq!(lines[0]["report"]["run"]["id"], RUN);
    let refused = dbkeep(address, &["runs", "report", RUN, "--html", &nowhere.display().to_string()]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("missing"), "{}", text(&refused.stderr));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_report_on_a_run_at_work_does_not_wait_for_its_end() {
    let events = vec![state(1, RunState::Running), progress(2), crate::fake::Step::Hang];
    let fake = Fake::new([Stream(events)]);
    fake.set_run(|run| {
        run.set_state(RunState::Running);
        run.last_sequence = 2;
    });
    let output = dbkeep(serve(&fake).await, &["runs", "report", RUN]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains(&format!("dbkeep runs watch {RUN}")), "{stdout}");
}
