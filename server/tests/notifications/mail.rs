//! Mail against a real mail server (aiosmtpd), read by Python's parser.

use dbkeep_client::{
    DeliveryQuery, PlanRequest, RunQuery, RunRequest,
    proto::{DeliveryState, RunState},
};
use dbkeep_server::config::channels::{ChannelConfig, ChannelSetting, EmailConfig, MailSecurity};
use dbkeep_testkit::{MailOptions, MailServer};
use serde_json::Value;

use crate::{
    receiver::{Identity, Receiver},
    world::{Kept, Running, World, everything_to, hook, run, until, until_all},
};

fn mail_to(port: u16, security: MailSecurity, to: &[&str]) -> ChannelConfig {
    let email = EmailConfig {
        host: "localhost".to_owned(),
        port,
        security,
        allow_plaintext: false,
        login: None,
        from: "dbkeep@example.com".to_owned(),
        to: to.iter().map(|address| (*address).to_owned()).collect(),
    };
    ChannelConfig::new("mail", ChannelSetting::Email(email))
}

fn with_login(mut channel: ChannelConfig, user: &str, password: &str) -> ChannelConfig {
    if let ChannelSetting::Email(email) = &mut channel.setting {
        email.login = Some((user.to_owned(), password.into()));
    }
    channel
}

pub(crate) fn headers<'a>(mail: &'a Value, name: &str) -> Vec<&'a str> {
    let all = mail["headers"].as_array().expect("headers");
    all.iter()
        .filter(|pair| pair[0].as_str().is_some_and(|named| named.eq_ignore_ascii_case(name)))
        .filter_map(|pair| pair[1].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_mailed_over_starttls_to_each_recipient() {
    let world = World::new(Kept::Sqlite).await;
    let identity = Identity::new();
    let (certificate, key) = identity.files(&world.folder);
    let mut server = MailServer::start(&MailOptions {
        certificate: Some((&certificate, &key)),
        login: Some(("dbkeep", "s3cret")),
        ..MailOptions::default()
    })
    .await
    .expect("a mail server");
    let channel = mail_to(server.port, MailSecurity::StartTls, &["ops@example.com", "ann@example.com"]);
    let mut channel = with_login(channel, "dbkeep", "s3cret");
    channel.authorities = Some(identity.authority_pem.clone().into_bytes());
    let config = world
        .config("data")
        .with_channel(channel)
        .with_route(everything_to(&["email"]));
    let running = Running::start(config).await;
    let ended = run(&running.client).await;
    let mails = [server.next().await.expect("a mail"), server.next().await.expect("a mail")];
    let delivered = until_all(&running.client, 2, DeliveryState::Delivered).await;
    for mail in &mails {
        assert_eq!(
            (&mail["secured"], &mail["user"]),
            (&Value::Bool(true), &Value::from("dbkeep"))
        );
        let to = mail["to"].as_array().expect("recipients");
        assert_eq!(to.len(), 1, "one mail each");
        let of = delivered
            .iter()
            .find(|delivery| delivery.recipients[0] == to[0].as_str().expect("an address"))
            .expect("its delivery");
        assert_eq!(headers(mail, "Message-ID"), [format!("<{}@example.com>", of.id)]);
        assert_eq!(headers(mail, "Subject"), ["[dbkeep] OK: cleanup on app succeeded (40 rows)"]);
        assert_eq!(headers(mail, "Auto-Submitted"), ["auto-generated"]);
        let (text, html) = (mail["text"].as_str().expect("text"), mail["html"].as_str().expect("HTML"));
        for part in [text, html] {
            for said in [
                "app",
                "expired_tokens",
                "40 rows",
                &ended.id,
                "dbkeep runs undo",
                "dbkeep runs show",
            ] {
                assert!(part.contains(said), "{said} in {part}");
            }
        }
        assert!(html.contains("width=device-width"));
    }
    let decisions = running
        .client
        .decisions()
        .list_all(Default::default())
        .await
        .expect("decisions");
    assert!(!format!("{delivered:?}{decisions:?}").contains("s3cret"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_texts_make_no_header_no_markup_and_no_mention() {
    let mut server = MailServer::start(&MailOptions::default()).await.expect("a mail server");
    let mut receiver = Receiver::start().await;
    let mut chat = ChannelConfig::new("chat", ChannelSetting::Slack(hook(&receiver.url(), true)));
    chat.authorities = receiver.authority();
    let world = World::new(Kept::Sqlite).await;
    let mut config = world
        .config("data")
        .with_channel(mail_to(server.port, MailSecurity::Plain, &["ops@example.com"]))
        .with_channel(chat)
        .with_route(everything_to(&["mail", "chat"]));
    // Nobody takes the run up, so that a person ends it, with words of their own.
    config.engine.concurrent_runs = 0;
    let running = Running::start(config).await;
    let plan = running
        .client
        .cleanup()
        .plan(PlanRequest::new(["expired_tokens"]))
        .await
        .expect("a plan");
    let request = RunRequest::of_plan(&plan).execute();
    let stream = running.client.cleanup().run(request).await.expect("a run");
    let queued = running
        .client
        .runs()
        .list_all(RunQuery::default())
        .await
        .expect("runs")
        .remove(0);
    let reason = "no\r\nBcc: evil@example.com\r\n\r\n<script>alert(1)</script> <!channel>";
    let ended = running
        .client
        .runs()
        .cancel(queued.id, reason)
        .await
        .expect("it is cancelled");
    assert_eq!(ended.state(), RunState::Cancelled);
    drop(stream);
    let mail = server.next().await.expect("a mail");
    assert_eq!(headers(&mail, "Bcc"), [""; 0]);
    assert_eq!(mail["to"], serde_json::json!(["ops@example.com"]));
    assert!(
        headers(&mail, "Subject")[0].starts_with("[dbkeep] WARNING: cleanup on app was cancelled"),
        "{mail}"
    );
    let html = mail["html"].as_str().expect("HTML");
    assert!(
        html.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !html.contains("<script"),
        "{html}"
    );
    assert!(mail["text"].as_str().expect("text").contains("<script>alert(1)</script>"));
    let blocks = receiver.next().await.body;
    assert!(
        blocks.contains("&lt;!channel&gt;") && !blocks.contains("<!channel>"),
        "{blocks}"
    );
    until_all(&running.client, 2, DeliveryState::Delivered).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_refused_costs_the_others_nothing() {
    let mut server = MailServer::start(&MailOptions {
        refused: &["gone@example.com"],
        ..MailOptions::default()
    })
    .await
    .expect("a mail server");
    let world = World::new(Kept::Sqlite).await;
    let channel = mail_to(server.port, MailSecurity::Plain, &["gone@example.com", "ops@example.com"]);
    let config = world
        .config("data")
        .with_channel(channel)
        .with_route(everything_to(&["mail"]));
    let running = Running::start(config).await;
    run(&running.client).await;
    let mail = server.next().await.expect("a mail");
    assert_eq!(
        (&mail["to"], &mail["secured"]),
        (&serde_json::json!(["ops@example.com"]), &Value::Bool(false))
    );
    let settled = until(&running.client, |deliveries| {
        deliveries.len() == 2 && deliveries.iter().all(|delivery| delivery.ended_time.is_some())
    })
    .await;
    for delivery in &settled {
        let expected = if delivery.recipients == ["ops@example.com"] {
            DeliveryState::Delivered
        } else {
            assert!(delivery.last_error.contains("no such user"), "{}", delivery.last_error);
            DeliveryState::Dead
        };
        assert_eq!(delivery.state(), expected);
    }
    running.stop().await;
}

/// What a test of the channel says, and whether it may pass.
async fn tested(world: &World, channel: ChannelConfig) -> (bool, bool, String) {
    let running = Running::start(world.config("data").with_channel(channel)).await;
    let answer = running
        .client
        .notifications()
        .test("mail", ["ann@example.com"])
        .await
        .expect("an answer");
    assert_eq!(answer.recipients, ["ann@example.com"]);
    let listed = running.client.notifications().list_all(DeliveryQuery::default()).await;
    assert_eq!(listed.expect("a list"), [], "a test does not go through the outbox");
    running.stop().await;
    assert!(!answer.problem.contains("s3cret"), "{}", answer.problem);
    (answer.delivered, answer.transient, answer.problem)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_to_a_server_that_cannot_be_trusted() {
    let world = World::new(Kept::Sqlite).await;
    let identity = Identity::new();
    let (certificate, key) = identity.files(&world.folder);
    let authority = Some(identity.authority_pem.clone().into_bytes());
    let stranger = Some(Identity::new().authority_pem.into_bytes());
    let secured = MailOptions {
        certificate: Some((&certificate, &key)),
        login: Some(("dbkeep", "s3cret")),
        ..MailOptions::default()
    };
    let wrapped = MailOptions {
        wrapped: true,
        ..secured.clone()
    };
    let mut starttls = MailServer::start(&secured).await.expect("a mail server");
    let mut tls = MailServer::start(&wrapped).await.expect("a mail server");
    let plain = MailServer::start(&MailOptions::default()).await.expect("a mail server");

    let to = |port, security, authority: &Option<Vec<u8>>, password: &str| {
        let mut channel = with_login(mail_to(port, security, &[]), "dbkeep", password);
        channel.authorities.clone_from(authority);
        channel
    };
    for (channel, problem) in [
        (to(starttls.port, MailSecurity::StartTls, &stranger, "s3cret"), "certificate"),
        (to(starttls.port, MailSecurity::StartTls, &None, "s3cret"), "certificate"),
        (to(tls.port, MailSecurity::Tls, &stranger, "s3cret"), "certificate"),
        (to(starttls.port, MailSecurity::StartTls, &authority, "s3cret-not"), "535"),
        // It offers no STARTTLS: the password stays here.
        (to(plain.port, MailSecurity::StartTls, &authority, "s3cret"), "STARTTLS"),
    ] {
        let (delivered, transient, said) = tested(&world, channel).await;
        assert!(!delivered && transient, "{said}");
        assert!(said.contains(problem), "{problem} in {said}");
    }
    for (server, security) in [(&mut starttls, MailSecurity::StartTls), (&mut tls, MailSecurity::Tls)] {
        let (delivered, _, said) = tested(&world, to(server.port, security, &authority, "s3cret")).await;
        assert!(delivered, "{said}");
        let mail = server.next().await.expect("a mail");
        assert_eq!(
            (&mail["secured"], &mail["user"]),
            (&Value::Bool(true), &Value::from("dbkeep"))
        );
        assert_eq!(
            headers(&mail, "Subject"),
            ["[dbkeep] OK: test of channel mail"],
            "the first that it took"
        );
    }
}
