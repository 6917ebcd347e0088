//! Webhooks and Slack against a real HTTPS server.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dbkeep_client::proto::{DeliveryState, TestChannelResponse};
use dbkeep_server::config::channels::{ChannelConfig, ChannelSetting};

use crate::{
    receiver::{Receiver, Reply, Seen},
    world::{KEY, Kept, ROWS, Running, World, everything_to, hook, run, until, until_all, webhook},
};

/// The signature by Python's standard library, which shares nothing with ours.
fn signature_by_python(seen: &Seen) -> String {
    let script = "import base64, hashlib, hmac, sys\n\
        key = base64.b64decode(sys.argv[1].removeprefix('whsec_'))\n\
        signed = f'{sys.argv[2]}.{sys.argv[3]}.'.encode() + sys.stdin.buffer.read()\n\
        print('v1,' + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode())";
    let mut python = Command::new("python3")
        .args(["-c", script, KEY, seen.header("webhook-id"), seen.header("webhook-timestamp")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is there: ./check needs it");
    python
        .stdin
        .take()
        .expect("its input")
        .write_all(seen.body.as_bytes())
        .expect("it reads");
    let output = python.wait_with_output().expect("it ends");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn is_by_the_schema(body: &serde_json::Value) {
    let schema = serde_json::from_str(include_str!("../../../docs/notification.schema.json")).expect("JSON");
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema");
    let errors: Vec<String> = validator.iter_errors(body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{body}");
}

async fn a_run_is_told(kept: Kept) {
    let mut receiver = Receiver::start().await;
    let mut chat = ChannelConfig::new("chat", ChannelSetting::Slack(hook(&receiver.url(), true)));
    chat.authorities = receiver.authority();
    let world = World::new(kept).await;
    let config = world
        .config("data")
        .with_channel(webhook(&receiver))
        .with_channel(chat)
        .with_route(everything_to(&["hook", "chat"]));
    let server = Running::start(config).await;
    let ended = run(&server.client).await;
    let (first, second) = (receiver.next().await, receiver.next().await);
    let (signed, blocks) = if first.headers.contains_key("webhook-id") {
        (first, second)
    } else {
        (second, first)
    };
    let body = signed.json();
    is_by_the_schema(&body);
    assert_eq!(body["type"], "run_succeeded");
    assert_eq!(body["data"]["run_id"], ended.id);
    assert_eq!(body["data"]["facts"]["rows_affected"], ROWS);
    assert_eq!(body["data"]["facts"]["rows_captured"], ROWS);
    assert_eq!(signed.header("webhook-signature"), signature_by_python(&signed));
    let sent: i64 = signed.header("webhook-timestamp").parse().expect("seconds");
    assert!((jiff::Timestamp::now().as_second() - sent).abs() < 120);

    let blocks = blocks.json();
    assert_eq!(blocks["blocks"][0]["type"], "header");
    assert!(
        blocks["text"]
            .as_str()
            .expect("a text")
            .starts_with("[dbkeep] OK: cleanup on app succeeded")
    );

    let delivered = until_all(&server.client, 2, DeliveryState::Delivered).await;
    let told = delivered
        .iter()
        .find(|delivery| delivery.channel == "hook")
        .expect("the webhook's");
    assert_eq!(signed.header("webhook-id"), told.id);
    assert_eq!(told.notification.as_ref().expect("it").run_id, ended.id);
    // A dry run changes nothing, and tells nobody.
    world.fill().await;
    let dry = dbkeep_client::RunRequest::new(["expired_tokens"]);
    let dry = server
        .client
        .cleanup()
        .run(dry)
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end");
    assert!(dry.options.expect("options").dry_run.unwrap_or(true));
    assert_eq!(until_all(&server.client, 2, DeliveryState::Delivered).await.len(), 2);
    assert!(!receiver.has_more());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_told_with_the_store_in_sqlite() {
    a_run_is_told(Kept::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_told_with_the_store_in_postgres() {
    a_run_is_told(Kept::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_passes_is_tried_again_under_the_same_id() {
    let mut receiver = Receiver::start().await;
    receiver.will([Reply::status(500), Reply::status(503), Reply::status(429)]);
    let world = World::new(Kept::Sqlite).await;
    let config = world
        .config("data")
        .with_channel(webhook(&receiver))
        .with_route(everything_to(&["hook"]));
    let server = Running::start(config).await;
    run(&server.client).await;
    let first = receiver.next().await;
    for _ in 0..3 {
        let again = receiver.next().await;
        assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
        assert_eq!(again.body, first.body, "byte for byte");
        assert_eq!(again.header("webhook-signature"), signature_by_python(&again));
    }
    let delivered = until_all(&server.client, 1, DeliveryState::Delivered).await;
    assert_eq!((delivered[0].attempts, delivered[0].last_error.as_str()), (4, ""));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_gets_nothing_until_somebody_asks() {
    let mut receiver = Receiver::start().await;
    receiver.will([Reply::status(410)]);
    let world = World::new(Kept::Sqlite).await;
    let config = world
        .config("data")
        .with_channel(webhook(&receiver))
        .with_route(everything_to(&["hook"]));
    let server = Running::start(config).await;
    run(&server.client).await;
    let first = receiver.next().await;
    let dead = until_all(&server.client, 1, DeliveryState::Dead).await.remove(0);
    assert!(
        dead.last_error.contains("410") && dead.ended_time.is_some(),
        "{}",
        dead.last_error
    );
    let notifications = server.client.notifications();
    let due = notifications.retry(dead.id.as_str()).await.expect("it is dead");
    assert_eq!(due.state(), DeliveryState::Due);
    let second = receiver.next().await;
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    let delivered = until_all(&server.client, 1, DeliveryState::Delivered).await.remove(0);
    assert_eq!(notifications.get(delivered.id.as_str()).await.expect("it"), delivered);
    let refused = notifications.retry(delivered.id.as_str()).await.expect_err("it is not dead");
    assert!(
        matches!(&refused, dbkeep_client::Error::DeliveryState { state, .. } if state == "delivered"),
        "{refused}"
    );
    let unknown = notifications.retry("nothing").await.expect_err("no id");
    assert!(matches!(unknown, dbkeep_client::Error::UnknownDelivery { .. }));
    let decisions = server
        .client
        .decisions()
        .list_all(Default::default())
        .await
        .expect("decisions");
    let retried: Vec<String> = decisions
        .iter()
        .filter(|decision| decision.act() == dbkeep_client::proto::DecisionAct::RetryDelivery)
        .map(|decision| format!("{} {:?} {}", decision.principal, decision.outcome(), decision.reason))
        .collect();
    assert_eq!(
        retried,
        ["ann Refused UNKNOWN_DELIVERY", "ann Refused DELIVERY_STATE", "ann Allowed "]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_receiver_asks_for_is_kept() {
    let mut receiver = Receiver::start().await;
    receiver.will([Reply::Status(503, Some(("retry-after", "3600".to_owned())))]);
    let world = World::new(Kept::Sqlite).await;
    let config = world
        .config("data")
        .with_channel(webhook(&receiver))
        .with_route(everything_to(&["hook"]));
    let server = Running::start(config).await;
    run(&server.client).await;
    receiver.next().await;
    let waiting = until(&server.client, |deliveries| {
        deliveries.first().is_some_and(|delivery| !delivery.last_error.is_empty())
    })
    .await;
    let seconds = |time: &Option<prost_types::Timestamp>| time.as_ref().expect("a time").seconds;
    let wait = seconds(&waiting[0].due_time) - seconds(&waiting[0].created_time);
    assert!((3_600..3_700).contains(&wait), "{wait} s");
    assert_eq!(waiting[0].state(), DeliveryState::Due);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_delays_and_loses_nothing() {
    let receiver = Receiver::start().await;
    let world = World::new(Kept::Sqlite).await;
    let mut config = world
        .config("data")
        .with_channel(webhook(&receiver))
        .with_route(everything_to(&["hook"]));
    config.engine.notify.longest_wait = Duration::from_millis(50);
    config.engine.notify.max_tries = 1_000;
    let (identity, port) = receiver.stop().await;
    let server = Running::start(config).await;
    run(&server.client).await;
    let failing = until(&server.client, |deliveries| {
        deliveries.first().is_some_and(|delivery| delivery.attempts > 2)
    })
    .await;
    assert!(
        failing[0].last_error.contains("Connection refused"),
        "{}",
        failing[0].last_error
    );
    assert!(!failing[0].last_error.contains("s3cret"), "{}", failing[0].last_error);
    let mut back = Receiver::start_at(identity, port).await;
    let seen = back.next().await;
    assert_eq!(seen.header("webhook-id"), failing[0].id);
    until_all(&server.client, 1, DeliveryState::Delivered).await;
    server.stop().await;
}

/// A server whose only channel is `hook`, changed by `change`, and what a test of it says.
async fn tested(receiver: &Receiver, change: impl FnOnce(&mut ChannelConfig)) -> (TestChannelResponse, Duration) {
    let world = World::new(Kept::Sqlite).await;
    let mut channel = webhook(receiver);
    change(&mut channel);
    let server = Running::start(world.config("data").with_channel(channel)).await;
    let begun = Instant::now();
    let answer = server.client.notifications().test("hook", [""; 0]).await.expect("an answer");
    let took = begun.elapsed();
    let decisions = server
        .client
        .decisions()
        .list_all(Default::default())
        .await
        .expect("decisions");
    assert!(decisions[0].detail.contains("channel hook"), "{}", decisions[0].detail);
    assert!(!answer.problem.contains("s3cret"), "{}", answer.problem);
    server.stop().await;
    (answer, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_what_became_of_it() {
    let mut receiver = Receiver::start().await;
    let (answer, _) = tested(&receiver, |_| {}).await;
    assert!(answer.delivered && answer.problem.is_empty(), "{}", answer.problem);
    let seen = receiver.next().await;
    assert_eq!(seen.header("webhook-id"), answer.delivery_id);
    assert_eq!(seen.json()["type"], "test");
    is_by_the_schema(&seen.json());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let mut elsewhere = Receiver::start().await;
    let receiver = Receiver::start().await;
    receiver.will([Reply::Status(307, Some(("location", elsewhere.url())))]);
    let (answer, _) = tested(&receiver, |channel| {
        // Both are trusted, so that nothing but the rule keeps the request here.
        let both = format!("{}{}", receiver.identity.authority_pem, elsewhere.identity.authority_pem);
        channel.authorities = Some(both.into_bytes());
    })
    .await;
    assert!(!answer.delivered && !answer.transient, "{}", answer.problem);
    assert!(
        answer.problem.contains("307") && answer.problem.contains("redirect"),
        "{}",
        answer.problem
    );
    assert!(!elsewhere.has_more());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_into_this_machine_is_refused() {
    let mut receiver = Receiver::start().await;
    let (answer, _) = tested(&receiver, |channel| {
        channel.setting = ChannelSetting::Webhook {
            hook: hook(&receiver.url(), false),
            key: KEY.into(),
        };
    })
    .await;
    assert!(!answer.delivered && !answer.transient);
    assert!(answer.problem.contains("no public address"), "{}", answer.problem);
    assert!(!receiver.has_more());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() {
    let mut receiver = Receiver::start().await;
    let stranger = crate::receiver::Identity::new();
    for authorities in [None, Some(stranger.authority_pem.into_bytes())] {
        let (answer, _) = tested(&receiver, |channel| channel.authorities = authorities).await;
        assert!(!answer.delivered && answer.transient);
        assert!(answer.problem.contains("certificate"), "{}", answer.problem);
    }
    assert!(!receiver.has_more());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_end_is_cut() {
    let receiver = Receiver::start().await;
    receiver.will([
        Reply::Endless(500, 64 << 10),
        Reply::Stalled(500),
        Reply::Silence,
        Reply::Endless(200, 1),
    ]);
    let short = |channel: &mut ChannelConfig| channel.timeout = Duration::from_secs(1);
    for problem in ["500", "500", "no answer within 1 s"] {
        let (answer, took) = tested(&receiver, short).await;
        assert!(!answer.delivered && answer.transient);
        assert!(answer.problem.contains(problem), "{}", answer.problem);
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    let (answer, took) = tested(&receiver, short).await;
    assert!(
        answer.delivered && took < Duration::from_secs(20),
        "of a success no body is of interest"
    );
}
