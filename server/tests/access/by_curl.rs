//! A tool that knows nothing of dbkeep but what reflection tells it: it needs a token for both, the call and the reflection.

use std::process::{Output, Stdio};

use dbkeep_client::proto::Role;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::world::{HIDDEN, PATIENCE, SEEN, World};

/// A call by `buf curl`, which sends the token with the call, and with the reflection ahead of it where `reflects`.
async fn curl(world: &World, method: &str, token: Option<&str>, reflects: bool) -> Output {
    let authority = world.folder.path().join("authority.pem");
    std::fs::write(&authority, world.authority.pem()).expect("written");
    let mut command = Command::new(dbkeep_testkit::buf());
    command
        .args(["curl", "--protocol", "grpc", "-d", "{}", "--cacert"])
        .arg(authority);
    if let Some(token) = token {
        command.args(["--header", &format!("authorization: Bearer {token}")]);
    }
    if reflects {
        command.args(["--reflect-header", "*"]);
    }
    let running = command
        .arg(format!("https://{}/dbkeep.v1.{method}", world.address))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, running).await.expect("in time").expect("buf runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_with_a_token_finds_out_and_calls() {
    let world = World::start().await;
    let token = world.token("curl", Role::Viewer, Some(SEEN)).await;
    let answered = async |method: &str| -> Value {
        let output = curl(&world, method, Some(&token), true).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{method}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let caller = answered("AccessService/GetCaller").await;
    assert_eq!(
        (&caller["principal"], &caller["role"], &caller["targets"], &caller["knownBy"]),
        (&json!("curl"), &json!("ROLE_VIEWER"), &json!([SEEN]), &json!("token")),
        "{caller}"
    );
    let targets = answered("TargetService/ListTargets").await;
    let names: Vec<&Value> = targets["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|target| &target["name"])
        .collect();
    assert_eq!(names, [&json!(SEEN)], "{targets}");
    assert!(!targets.to_string().contains(HIDDEN), "{targets}");
    // Whoever has none does not even find out what there is, and neither does who keeps it from the reflection.
    let last = if token.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", &token[..token.len() - 1]);
    for (what, token, reflects) in [
        ("without a token", None, true),
        ("with a wrong token", Some(wrong.as_str()), true),
        ("with a token for the call alone", Some(token.as_str()), false),
    ] {
        let output = curl(&world, "TargetService/ListTargets", token, reflects).await;
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        // `buf` does not pass on for what the reflection was refused.
        let refused = ["unauthenticated", "failed to find service"]
            .iter()
            .any(|text| said.contains(text));
        assert!(!output.status.success() && refused, "{what}: {said}");
        assert!(
            output.stdout.is_empty(),
            "{what}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    world.stop().await;
}
