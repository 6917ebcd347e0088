//! `dbkeep audit` against a real server, and against files with no server: tables, JSON and exit codes.

use std::{fs, path::Path};

use dbkeep_engine::{
    audit::{Phase, Subject},
    port::{AuditFilter, AuditLog as _},
};
use dbkeep_server::{Config, store::ControlStore};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{dbkeep, json_lines, text};

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

fn subject(number: u64) -> Subject {
    Subject {
        phase: if number.is_multiple_of(4) {
            Phase::Denied
        } else {
            Phase::Ended
        },
        principal: format!("ops-{}", number % 2),
        method: "RunService/CancelRun".to_owned(),
        target: "app".to_owned(),
        code: "OK".to_owned(),
        detail: format!("run {number}"),
        counts: vec![("rows".to_owned(), number)],
        ..Subject::of(uuid::Uuid::from_u128(number.into()))
    }
}

/// A server with twenty records in its log, the first ten of them sealed.
async fn serve(folder: &Path) -> (String, ControlStore, CancellationToken) {
    let url = format!("sqlite://{}", folder.join("control.db").display());
    let store = ControlStore::open(&url).await.unwrap();
    let subjects: Vec<Subject> = (1..=20).map(subject).collect();
    store.append(&subjects).await.unwrap();
    store.close_segment(10).await.unwrap().unwrap();
    let config = Config::embedded(folder.join("data")).with_store(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    (address, store, shutdown)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_tables_or_json() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _, shutdown) = serve(folder.path()).await;
    let output = dbkeep(
        &address,
        &["audit", "list", "--phase", "denied", "--by", "ops-0", "--limit", "2"],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("run 20") && !text(&output.stdout).contains("run 12"));
    assert!(text(&output.stderr).contains("more than 2"));
    let output = dbkeep(&address, &["audit", "list", "--method", "AuditLog/Seal", "-o", "json"]).await;
    let listed = &json_lines(&output)[0];
    assert_eq!((&listed["events"][0]["number"], &listed["more"]), (&21.into(), &false.into()));
    assert_eq!(listed["events"][0]["counts"]["through"], 10);
    let output = dbkeep(&address, &["audit", "list", "--until", "1h"]).await;
    assert!(!text(&output.stdout).contains("run"), "{}", text(&output.stdout));

    let output = dbkeep(&address, &["audit", "show", "7"]).await;
    for shown in ["run 7", "ops-1", "RunService/CancelRun", "previous hash"] {
        assert!(text(&output.stdout).contains(shown), "{}", text(&output.stdout));
    }
    let output = dbkeep(&address, &["audit", "show", "99"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("UNKNOWN_AUDIT_RECORD"),
        "{}",
        text(&output.stderr)
    );
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_verified_exported_and_anchored() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (address, store, shutdown) = serve(folder.path()).await;
    let output = dbkeep(&address, &["audit", "verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("whole: 21 records"), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("no anchor"), "{}", text(&output.stdout));

    let anchors = at("anchors");
    let output = dbkeep(&address, &["audit", "anchor", &anchors]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    store.append(&[subject(21)]).await.unwrap();
    let output = dbkeep(&address, &["audit", "anchor", &anchors, "-o", "json"]).await;
    let line = &json_lines(&output)[0];
    assert_eq!(
        (&line["anchor"]["number"], &line["verdict"]["anchors"]),
        (&22.into(), &1.into())
    );
    let kept = fs::read_to_string(&anchors).unwrap();
    assert_eq!(kept.lines().count(), 2);
    // A crash has left the beginning of a third line.
    fs::write(&anchors, format!("{kept}{{\"number\":1,\"ha")).unwrap();
    let output = dbkeep(&address, &["audit", "verify", "--anchor", &anchors, "-o", "json"]).await;
    let verdict = &json_lines(&output)[0]["verdict"];
    assert_eq!((&verdict["whole"], &verdict["anchors"]), (&true.into(), &2.into()));
    let output = dbkeep(&address, &["audit", "anchor", &anchors]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    fs::write(&anchors, kept).unwrap();
    let output = dbkeep(&address, &["audit", "verify", "--anchor", &anchors, "-o", "json"]).await;
    let verdict = &json_lines(&output)[0]["verdict"];
    assert_eq!((&verdict["whole"], &verdict["anchors"]), (&true.into(), &2.into()));

    let export = at("log.jsonl");
    let output = dbkeep(&address, &["audit", "export", "--out", &export, "-o", "json"]).await;
    let told = &json_lines(&output)[0]["export"];
    // One of them says that the log is taken away.
    assert_eq!(
        (&told["records"], &told["seals"]),
        (&23.into(), &1.into()),
        "{}",
        text(&output.stderr)
    );
    let output = dbkeep(&address, &["audit", "export", "--out", &export]).await;
    assert_eq!(output.status.code(), Some(1), "no file is written over");
    let output = dbkeep(&address, &["audit", "export"]).await;
    let (printed, written) = (text(&output.stdout), fs::read_to_string(&export).unwrap());
    // All but the trailer; behind it come the records of the exports themselves.
    let lines = |text: &str| text.lines().take(24).map(ToOwned::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&printed), lines(&written));
    assert!(printed.lines().count() > written.lines().count(), "{printed}");

    // With no server at all.
    let output = dbkeep(NOBODY, &["audit", "verify", "--file", &export, "--anchor", &anchors]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("2 anchors met"), "{}", text(&output.stdout));
    let whole = fs::read_to_string(&export).unwrap();
    for (name, changed, kind) in [
        ("changed", whole.replace("run 7", "run 8"), "changed"),
        (
            "cut",
            whole.lines().take(12).map(|line| format!("{line}\n")).collect(),
            "truncated",
        ),
        ("odd", whole.replace("\"principal\"", "\"owner\""), "unreadable"),
        ("empty", String::new(), "truncated"),
    ] {
        fs::write(at(name), changed).unwrap();
        let output = dbkeep(NOBODY, &["audit", "verify", "--file", &at(name), "-o", "json"]).await;
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output.stderr));
        let verdict = &json_lines(&output)[0]["verdict"];
        assert_eq!(
            (&verdict["whole"], &verdict["problem"]["kind"]),
            (&false.into(), &kind.into()),
            "{name}"
        );
    }
    fs::write(at("no_anchors"), "{}\n").unwrap();
    let output = dbkeep(NOBODY, &["audit", "verify", "--file", &export, "--anchor", &at("no_anchors")]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no_anchors:1"), "{}", text(&output.stderr));
    shutdown.cancel();
}

/// The script of docs/AUDIT.md, which shares no code with dbkeep, computes the same head.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_verified_by_hand_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let (address, store, shutdown) = serve(folder.path()).await;
    let odd = Subject {
        principal: "näme 🦀 \"'\\ \u{1}".to_owned(),
        counts: vec![("bytes".to_owned(), u64::MAX), ("ü".to_owned(), 0)],
        ..subject(21)
    };
    store.append(&[odd]).await.unwrap();
    let export = folder.path().join("log.jsonl");
    let output = dbkeep(&address, &["audit", "export", "--out", &export.display().to_string()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // The last record that it holds says that the log is taken away.
    let records = store.audit_records(&AuditFilter::default(), None, 10).await.unwrap();
    let head = records
        .iter()
        .find(|record| record.subject.phase == Phase::Begun)
        .unwrap()
        .hash;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/AUDIT.md")).unwrap();
    let (_, rest) = page.split_once("```python\n").expect("a block of python");
    fs::write(folder.path().join("by_hand.py"), rest.split_once("```").unwrap().0).unwrap();
    let by_hand = || async {
        let mut python = tokio::process::Command::new("python3");
        python.arg("by_hand.py").current_dir(folder.path()).output().await.unwrap()
    };
    let output = by_hand().await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("head {head}\n"));
    let changed = fs::read_to_string(&export).unwrap().replace("run 7", "run 8");
    fs::write(&export, changed).unwrap();
    let output = by_hand().await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("AssertionError: 7"), "{}", text(&output.stderr));
    shutdown.cancel();
}
