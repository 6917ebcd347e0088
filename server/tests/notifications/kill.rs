//! kill -9 of the real server between a delivery and the note that it was delivered: it is delivered again, and says so by its id.

#![cfg(feature = "failpoints")]

use std::fs;

use dbkeep_client::proto::DeliveryState;

use crate::{
    receiver::Receiver,
    support::Daemon,
    world::{CATALOG, KEY, Kept, World, run, until_all},
};

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
