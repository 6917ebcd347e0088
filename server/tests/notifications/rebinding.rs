//! A name whose owner answers every question with another address, so that one answer is judged and another one reached: the connection
//! goes where the judged answer led, and nowhere else.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::notice::{DeliveryId, Envelope, Notice, NoticeKind},
    port::DeliveryErrorClass,
};
use dbkeep_server::{
    config::channels::ChannelSetting,
    notify::{Resolve, open_with},
};

use crate::{
    receiver::{Identity, Receiver},
    world::{KEY, hook, webhook},
};

const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))];

/// Answers with one address after the other.
#[derive(Default)]
struct Rebinding {
    asked: AtomicUsize,
}

#[async_trait]
impl Resolve for Rebinding {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        assert_eq!(host, "localhost");
        let place = self.asked.fetch_add(1, Ordering::Relaxed) % ADDRESSES.len();
        Ok(vec![ADDRESSES[place]])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_answer_is_reached_where_it_was_judged() {
    let identity = Arc::new(Identity::new());
    let first = Receiver::start_on(Arc::clone(&identity), ADDRESSES[0], 0).await;
    let second = Receiver::start_on(identity, ADDRESSES[1], first.port).await;
    let mut receivers = [first, second];
    let envelope = Envelope {
        notice: Notice::new(NoticeKind::RunFailed, "run:1:ended", "shop", "cleanup on shop failed"),
        channel: "hook".to_owned(),
        recipients: Vec::new(),
    };

    let resolver = Arc::new(Rebinding::default());
    let channel = open_with(&webhook(&receivers[0]), Arc::clone(&resolver) as Arc<dyn Resolve>).expect("a channel");
    for turn in 0..6 {
        channel.deliver(&envelope, DeliveryId::new()).await.expect("delivered");
        assert_eq!(resolver.asked.load(Ordering::Relaxed), turn + 1, "asked once for a request");
        receivers[turn % 2].next().await;
        assert!(
            !receivers.iter_mut().any(Receiver::has_more),
            "a request went where another answer leads"
        );
    }

    // What may not be reached is not reached by any of its answers.
    let mut wary = webhook(&receivers[0]);
    wary.setting = ChannelSetting::Webhook {
        hook: hook(&receivers[0].url(), false),
        key: KEY.into(),
    };
    let resolver = Arc::new(Rebinding::default());
    let channel = open_with(&wary, Arc::clone(&resolver) as Arc<dyn Resolve>).expect("a channel");
    for turn in 0..4 {
        let error = channel.deliver(&envelope, DeliveryId::new()).await.expect_err("refused");
        assert_eq!(error.class, DeliveryErrorClass::Permanent, "{error}");
        assert!(error.message.contains("no public address"), "{error}");
        assert_eq!(resolver.asked.load(Ordering::Relaxed), turn + 1, "asked once for a request");
    }
    assert!(!receivers.iter_mut().any(Receiver::has_more));
}
