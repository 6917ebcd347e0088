//! kill -9 of the real server between a delivery and the note that it was delivered: it is delivered again, and says so by its id. And with a
//! backlog that receivers which are away have left: all of it comes when they are back.

#![cfg(feature = "failpoints")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use dbkeep_client::proto::DeliveryState;
use dbkeep_testkit::{MailOptions, MailServer};

use crate::{
    mail::headers,
    receiver::Receiver,
    support::Daemon,
    world::{CATALOG, KEY, Kept, World, run, until, until_all},
};

/// Runs that are told of while everybody is away.
const BACKLOG: usize = 6;

async fn killed_between_delivery_and_note(kept: Kept) {
    let world = World::new(kept).await;
    let mut receiver = Receiver::start().await;
    let at = |name: &str| world.folder.path().join(name);
    fs::write(at("catalog.toml"), CATALOG).expect("a catalog");
    fs::write(at("authority.pem"), &receiver.identity.authority_pem).expect("an authority");
    let store = world
        .store
        .as_ref()
        .map(|url| format!("[store]\nurl = \"{url}\"\n"))
        .unwrap_or_default();
    let settings = format!(
        "{store}[engine]\nlease_term = \"2s\"\n[notifications]\nlease_term = \"2s\"\n[[channel]]\nname = \"hook\"\nkind = \"webhook\"\n\
         url = \"{}\"\nsecret = \"{KEY}\"\nca_file = \"authority.pem\"\nallow_private = true\n[[route]]\nchannels = [\"hook\"]\n",
        receiver.url()
    );
    fs::write(at("dbkeep.toml"), settings).expect("settings");
    let start = |failpoints: &str| {
        Daemon::start_with_settings(
            &at("dbkeep.toml"),
            &at("data"),
            &world.target,
            &at("catalog.toml"),
            failpoints,
        )
    };
    let mut daemon = start("notice-delivered=panic");
    let client = daemon.client().await;
    // The server may be killed before its answer is here.
    let watched = async {
        let plan = client
            .cleanup()
            .plan(dbkeep_client::PlanRequest::new(["expired_tokens"]))
            .await;
        let request = dbkeep_client::RunRequest::of_plan(&plan.expect("a plan"))
            .execute()
            .full_speed();
        if let Ok(stream) = client.cleanup().run(request).await {
            drop(stream.finish().await);
        }
    };
    let ((), first) = tokio::join!(watched, receiver.next());
    assert!(!daemon.wait().success(), "the server was killed");

    // Once more at the same point, then for good.
    let mut daemon = start("notice-delivered=panic");
    let second = receiver.next().await;
    assert!(!daemon.wait().success(), "the server was killed");
    let daemon = start("");
    let third = receiver.next().await;
    for again in [second, third] {
        assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
        assert_eq!(again.body, first.body);
    }
    let client = daemon.client().await;
    let delivered = until_all(&client, 1, DeliveryState::Delivered).await;
    assert_eq!(
        (delivered[0].id.as_str(), delivered[0].attempts),
        (first.header("webhook-id"), 3)
    );
    // The server is whole: the next run is told of as well.
    world.fill().await;
    run(&client).await;
    assert_ne!(receiver.next().await.header("webhook-id"), first.header("webhook-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_delivery_and_note_with_the_store_in_sqlite() {
    killed_between_delivery_and_note(Kept::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_delivery_and_note_with_the_store_in_postgres() {
    killed_between_delivery_and_note(Kept::Postgres).await;
}

async fn killed_with_a_backlog(kept: Kept) {
    let world = World::new(kept).await;
    // Both are away, and their ports are known.
    let mail = MailServer::start(&MailOptions::default()).await.expect("a mail server");
    let mail_port = mail.port;
    drop(mail);
    let (identity, hook_port) = Receiver::start().await.stop().await;
    let at = |name: &str| world.folder.path().join(name);
    fs::write(at("catalog.toml"), CATALOG).expect("a catalog");
    fs::write(at("authority.pem"), &identity.authority_pem).expect("an authority");
    let store = world
        .store
        .as_ref()
        .map(|url| format!("[store]\nurl = \"{url}\"\n"))
        .unwrap_or_default();
    let settings = format!(
        "{store}[engine]\nlease_term = \"2s\"\n[notifications]\nlease_term = \"2s\"\nfirst_wait = \"100ms\"\nlongest_wait = \"1s\"\n\
         [[channel]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://localhost:{hook_port}/hooks\"\nsecret = \"{KEY}\"\n\
         ca_file = \"authority.pem\"\nallow_private = true\n\
         [[channel]]\nname = \"mail\"\nkind = \"email\"\nurl = \"smtp://localhost:{mail_port}\"\nstarttls = false\n\
         from = \"dbkeep@example.com\"\nto = [\"ops@example.com\"]\n\
         [[route]]\nchannels = [\"hook\", \"mail\"]\n"
    );
    fs::write(at("dbkeep.toml"), settings).expect("settings");
    let start = |failpoints: &str| {
        Daemon::start_with_settings(
            &at("dbkeep.toml"),
            &at("data"),
            &world.target,
            &at("catalog.toml"),
            failpoints,
        )
    };
    let mut daemon = start("");
    let client = daemon.client().await;
    for _ in 0..BACKLOG {
        run(&client).await;
        world.fill().await;
    }
    let waiting = until(&client, |deliveries| {
        deliveries.len() == 2 * BACKLOG && deliveries.iter().all(|delivery| !delivery.last_error.is_empty())
    })
    .await;
    assert!(
        waiting.iter().all(|delivery| delivery.state() == DeliveryState::Due),
        "{waiting:?}"
    );
    let of = |channel: &str| -> BTreeSet<String> {
        let of_channel = waiting.iter().filter(|delivery| delivery.channel == channel);
        of_channel.map(|delivery| delivery.id.clone()).collect()
    };
    let (hooks, mails) = (of("hook"), of("mail"));
    assert_eq!((hooks.len(), mails.len()), (BACKLOG, BACKLOG));
    daemon.kill();

    // They are back, and the next server is killed in the middle of the backlog.
    let mut receiver = Receiver::start_at(identity, hook_port).await;
    let back = MailOptions {
        port: mail_port,
        ..MailOptions::default()
    };
    let mut mail = MailServer::start(&back).await.expect("a mail server");
    let mut daemon = start(&format!("notice-delivered={BACKLOG}*off->panic"));
    daemon.died("notice-delivered");
    let daemon = start("");
    let mut hooked: BTreeMap<String, String> = BTreeMap::new();
    while hooked.len() < BACKLOG {
        let seen = receiver.next().await;
        let id = seen.header("webhook-id").to_owned();
        if let Some(before) = hooked.insert(id, seen.body.clone()) {
            assert_eq!(before, seen.body, "what comes again is the same");
        }
    }
    assert_eq!(
        hooked.into_keys().collect::<BTreeSet<_>>(),
        hooks,
        "under the ids that they had"
    );
    let mut mailed = BTreeSet::new();
    while mailed.len() < BACKLOG {
        let seen = mail.next().await.expect("a mail");
        mailed.insert(headers(&seen, "Message-ID")[0].to_owned());
    }
    let expected: BTreeSet<String> = mails.iter().map(|id| format!("<{id}@example.com>")).collect();
    assert_eq!(mailed, expected, "under the ids that they had");
    let client = daemon.client().await;
    until_all(&client, 2 * BACKLOG, DeliveryState::Delivered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_a_backlog_in_sqlite() {
    killed_with_a_backlog(Kept::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_a_backlog_in_postgres() {
    killed_with_a_backlog(Kept::Postgres).await;
}
