//! Several servers on one outbox, and what a test or a list asks wrongly.

use std::collections::BTreeSet;

use dbkeep_client::{DeliveryQuery, Error, proto::DeliveryState};
use dbkeep_engine::{
    model::notice::{Envelope, Notice, NoticeKind},
    port::Outbox as _,
};
use dbkeep_server::store::ControlStore;

use crate::{
    receiver::Receiver,
    world::{Kept, Running, World, everything_to, run, until_all, webhook},
};

const MANY: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_servers_deliver_each_notification_once() {
    let mut receiver = Receiver::start().await;
    let world = World::new(Kept::Postgres).await;
    let config = |data: &str| {
        world
            .config(data)
            .with_channel(webhook(&receiver))
            .with_route(everything_to(&["hook"]))
    };
    let (one, two) = (Running::start(config("one")).await, Running::start(config("two")).await);
    // A third party puts them in, so that both have to find them.
    let store = ControlStore::open(world.store.as_deref().expect("a shared store"))
        .await
        .expect("the store");
    let envelopes: Vec<Envelope> = (0..MANY)
        .map(|number| Envelope {
            notice: Notice::new(NoticeKind::AlertRaised, format!("alert:{number}"), "app", "disk is full"),
            channel: "hook".to_owned(),
            recipients: Vec::new(),
        })
        .collect();
    store.enqueue(&envelopes).await.expect("they are put in");
    let mut ids = BTreeSet::new();
    for _ in 0..MANY {
        let id = receiver.next().await.header("webhook-id").to_owned();
        assert!(ids.insert(id), "each comes once while nothing fails");
    }
    let delivered = until_all(&one.client, MANY, DeliveryState::Delivered).await;
    assert!(
        delivered
            .iter()
            .all(|delivery| delivery.attempts == 1 && ids.contains(&delivery.id))
    );
    assert!(!receiver.has_more());
    one.stop().await;
    two.stop().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_in_while_no_server_runs_goes_out_later() {
    let mut receiver = Receiver::start().await;
    let world = World::new(Kept::Sqlite).await;
    let routed = || world.config("data").with_route(everything_to(&["hook"]));
    // A server with the route and with a channel that leads nowhere any more.
    let (identity, port) = Receiver::start().await.stop().await;
    let mut gone = webhook(&receiver);
    let other = Receiver::start_at(identity, port).await;
    gone.setting = webhook(&other).setting;
    other.stop().await;
    let mut config = routed().with_channel(gone);
    config.engine.notify.first_wait = std::time::Duration::from_millis(1);
    config.engine.notify.longest_wait = std::time::Duration::from_millis(1);
    config.engine.notify.max_tries = 1_000_000;
    let server = Running::start(config).await;
    run(&server.client).await;
    server.stop().await;
    let server = Running::start(routed().with_channel(webhook(&receiver))).await;
    let seen = receiver.next().await;
    let delivered = until_all(&server.client, 1, DeliveryState::Delivered).await;
    assert_eq!(seen.header("webhook-id"), delivered[0].id);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_and_nonsense_is_refused() {
    let mut receiver = Receiver::start().await;
    let world = World::new(Kept::Sqlite).await;
    let config = world
        .config("data")
        .with_channel(webhook(&receiver))
        .with_route(everything_to(&["hook"]));
    let server = Running::start(config).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(run(&server.client).await.id);
        receiver.next().await;
        world.fill().await;
    }
    let notifications = server.client.notifications();
    let all = until_all(&server.client, 3, DeliveryState::Delivered).await;
    let paged = notifications
        .list_all(DeliveryQuery::default().page_size(1))
        .await
        .expect("pages");
    assert_eq!(paged, all);
    let of = |query: DeliveryQuery| notifications.list_all(query);
    let one = of(DeliveryQuery::default().run(runs[1].as_str()).channel("hook"))
        .await
        .expect("a list");
    assert_eq!(one, all[1..2], "newest first");
    assert_eq!(
        of(DeliveryQuery::default().state(DeliveryState::Dead)).await.expect("a list"),
        []
    );
    assert_eq!(of(DeliveryQuery::default().channel("other")).await.expect("a list"), []);
    for query in [DeliveryQuery::default().run("x"), DeliveryQuery::default().page_size(501)] {
        assert!(matches!(of(query).await, Err(Error::InvalidField { .. })));
    }
    assert!(matches!(notifications.get("x").await, Err(Error::UnknownDelivery { .. })));
    let unknown = notifications.test("pager", [""; 0]).await.expect_err("no such channel");
    assert!(
        matches!(&unknown, Error::UnknownChannel { known, .. } if known == &["hook"]),
        "{unknown}"
    );
    let refused = notifications
        .test("hook", ["a@example.com"])
        .await
        .expect_err("it takes no recipients");
    assert!(matches!(refused, Error::InvalidField { .. }), "{refused}");
    let channels = notifications.channels().await.expect("channels");
    assert_eq!(channels.len(), 1);
    assert_eq!(channels[0].destination, format!("localhost:{}", receiver.port));
    assert!(!format!("{channels:?}").contains("s3cret"));
    server.stop().await;
}
