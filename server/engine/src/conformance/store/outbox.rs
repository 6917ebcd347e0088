//! The outbox: nothing is told twice because it was seen twice, nothing is tried by two at a time, and nothing is lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use uuid::Uuid;

use super::{LONG, PATIENCE, SHORT};
use crate::{
    model::{
        Act, Caller, Decision, RunId,
        notice::{DeliveryId, DeliveryState, Envelope, Facts, Notice, NoticeKind, ScheduleRef},
    },
    port::{ClaimedDelivery, DecisionFilter, DeliveryFilter, LONGEST_LEASE, Requeued, Settlement, Store},
};

fn notice(key: &str) -> Notice {
    Notice::new(NoticeKind::RunFailed, key, "shop", "cleanup on shop failed")
}

fn envelope(key: &str, channel: &str, recipients: &[&str]) -> Envelope {
    Envelope {
        notice: notice(key),
        channel: channel.to_owned(),
        recipients: recipients.iter().map(|recipient| (*recipient).to_owned()).collect(),
    }
}

async fn put(store: &dyn Store, key: &str, channel: &str) {
    assert_eq!(store.enqueue(&[envelope(key, channel, &[])]).await.unwrap(), 1);
}

async fn claim(store: &dyn Store, channel: &str) -> Vec<ClaimedDelivery> {
    store.claim_deliveries(channel, "holder", LONG, 100).await.unwrap()
}

async fn claim_one(store: &dyn Store, channel: &str) -> ClaimedDelivery {
    let mut claimed = claim(store, channel).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

/// Claims until there is something to claim: waits end by the clock of the store, which cannot be moved.
async fn claim_in_time(store: &dyn Store, channel: &str) -> ClaimedDelivery {
    let polled = async {
        loop {
            if let Some(claimed) = claim(store, channel).await.pop() {
                return claimed;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("the wait ends")
}

async fn settle(store: &dyn Store, claimed: &ClaimedDelivery, settlement: Settlement) -> bool {
    store
        .settle(claimed.delivery.id, claimed.delivery.attempts, &settlement)
        .await
        .unwrap()
}

fn again(after: Duration) -> Settlement {
    Settlement::Again {
        after,
        error: "it is away".to_owned(),
    }
}

fn dead() -> Settlement {
    Settlement::Dead {
        error: "it refuses".to_owned(),
    }
}

fn decision() -> Decision {
    let caller = Caller {
        principal: "ann".to_owned(),
        peer: String::new(),
    };
    Decision::allow(&caller, Act::RetryDelivery, "again")
}

async fn decisions(store: &dyn Store) -> usize {
    store.decisions(&DecisionFilter::default(), None, 100).await.unwrap().len()
}

pub(super) async fn the_same_event_is_told_once(store: Arc<dyn Store>) {
    let envelopes = [
        envelope("a", "mail", &["x@example.com"]),
        envelope("a", "mail", &["y@example.com"]),
        envelope("a", "hook", &[]),
        envelope("b", "hook", &[]),
    ];
    let twice = [envelopes.as_slice(), &envelopes].concat();
    assert_eq!(store.enqueue(&twice).await.unwrap(), 4, "also within one call");
    assert_eq!(store.enqueue(&envelopes).await.unwrap(), 0);
    // Another server saw the same event a little later.
    let mut later = envelope("b", "hook", &[]);
    later.notice.at = jiff::Timestamp::UNIX_EPOCH;
    assert_eq!(store.enqueue(&[later]).await.unwrap(), 0);
    // Recipients are a set.
    let pair = |recipients: &[&str]| [envelope("c", "mail", recipients)];
    assert_eq!(store.enqueue(&pair(&["x@e.com", "y@e.com"])).await.unwrap(), 1);
    assert_eq!(store.enqueue(&pair(&["y@e.com", "x@e.com", "y@e.com"])).await.unwrap(), 0);
    // Also what is delivered is not told again.
    let first = claim(store.as_ref(), "hook").await;
    for claimed in &first {
        assert!(settle(store.as_ref(), claimed, Settlement::Delivered).await);
    }
    assert_eq!(store.enqueue(&envelopes).await.unwrap(), 0);
    // And many at the same time.
    let writers = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store
                .enqueue(&[envelope("d", "hook", &[]), envelope("e", "mail", &[])])
                .await
                .unwrap()
        })
    });
    let added: u64 = join_all(writers).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(added, 2);
}

pub(super) async fn a_delivery_comes_back_as_it_was(store: Arc<dyn Store>) {
    let mut given = envelope("odd 🦀 '\"\\ \u{0}", "mail", &["x@example.com"]);
    given.notice.run = Some(RunId::new());
    given.notice.schedule = Some(ScheduleRef {
        id: "s1".to_owned(),
        name: "daily".to_owned(),
    });
    given.notice.line("Reason", "it's <b>bold</b> & \u{1b}[31m");
    given.notice.facts = Facts {
        rows_affected: u64::MAX,
        operations: vec!["a".to_owned()],
        ..Facts::default()
    };
    store.enqueue(std::slice::from_ref(&given)).await.unwrap();
    let listed = store.deliveries(&DeliveryFilter::default(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].envelope, given);
    assert_eq!(
        (listed[0].state, listed[0].attempts, listed[0].ended_at),
        (DeliveryState::Due, 0, None)
    );
    assert_eq!(listed[0].last_error, "");
    assert_eq!(store.delivery(listed[0].id).await.unwrap(), Some(listed[0].clone()));
    assert_eq!(store.delivery(DeliveryId::new()).await.unwrap(), None);
    let claimed = claim_one(store.as_ref(), "mail").await;
    assert_eq!((claimed.delivery.envelope.clone(), claimed.tries), (given, 1));
    assert!(settle(store.as_ref(), &claimed, Settlement::Delivered).await);
    let delivered = store.delivery(listed[0].id).await.unwrap().unwrap();
    assert_eq!((delivered.state, delivered.attempts), (DeliveryState::Delivered, 1));
    assert!(delivered.ended_at.is_some_and(|ended| ended >= delivered.created_at));
    assert!(!settle(store.as_ref(), &claimed, dead()).await, "it has ended");
}

pub(super) async fn a_claim_gives_each_delivery_to_one(store: Arc<dyn Store>) {
    let envelopes: Vec<Envelope> = (0..40).map(|number| envelope(&number.to_string(), "hook", &[])).collect();
    assert_eq!(store.enqueue(&envelopes).await.unwrap(), 40);
    let claimers = (0..8).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = store
                    .claim_deliveries("hook", &format!("holder {number}"), LONG, 3)
                    .await
                    .unwrap();
                assert!(claimed.len() <= 3, "the limit holds");
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed.into_iter().map(|claimed| claimed.delivery.id));
            }
        })
    });
    let mut all: Vec<DeliveryId> = join_all(claimers).await.into_iter().flat_map(Result::unwrap).collect();
    // Rows that another transaction had locked are passed over, so that the last look may miss some.
    all.extend(
        claim(store.as_ref(), "hook")
            .await
            .into_iter()
            .map(|claimed| claimed.delivery.id),
    );
    assert_eq!(all.len(), 40);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 40, "one has each");
}

pub(super) async fn the_longest_due_is_claimed_first_and_per_channel(store: Arc<dyn Store>) {
    for key in ["a", "b", "c"] {
        put(store.as_ref(), key, "hook").await;
    }
    put(store.as_ref(), "d", "chat").await;
    let first = store.claim_deliveries("hook", "holder", LONG, 2).await.unwrap();
    let keys: Vec<&str> = first
        .iter()
        .map(|claimed| claimed.delivery.envelope.notice.key.as_str())
        .collect();
    assert_eq!(keys, ["a", "b"]);
    assert_eq!(claim_one(store.as_ref(), "hook").await.delivery.envelope.notice.key, "c");
    assert!(claim(store.as_ref(), "pager").await.is_empty());
    assert_eq!(claim_one(store.as_ref(), "chat").await.delivery.envelope.notice.key, "d");
}

pub(super) async fn a_failed_try_waits_and_keeps_its_id(store: Arc<dyn Store>) {
    put(store.as_ref(), "a", "hook").await;
    let first = claim_one(store.as_ref(), "hook").await;
    assert!(settle(store.as_ref(), &first, again(LONG)).await);
    assert!(claim(store.as_ref(), "hook").await.is_empty(), "it waits");
    let waiting = store.delivery(first.delivery.id).await.unwrap().unwrap();
    assert_eq!(
        (waiting.state, waiting.last_error.as_str()),
        (DeliveryState::Due, "it is away")
    );
    assert!(waiting.due_at.duration_since(waiting.created_at) > jiff::SignedDuration::from_mins(50));

    put(store.as_ref(), "b", "chat").await;
    let mut claimed = claim_one(store.as_ref(), "chat").await;
    let id = claimed.delivery.id;
    for tries in 2..6 {
        assert!(settle(store.as_ref(), &claimed, again(Duration::from_millis(3))).await);
        claimed = claim_in_time(store.as_ref(), "chat").await;
        assert_eq!(
            (claimed.delivery.id, claimed.delivery.attempts, claimed.tries),
            (id, tries, tries)
        );
    }
    assert!(
        claimed.tried_for >= Duration::from_millis(12),
        "four waits of three milliseconds"
    );
}

pub(super) async fn a_lapsed_lease_is_claimed_again_and_its_holder_is_late(store: Arc<dyn Store>) {
    put(store.as_ref(), "a", "hook").await;
    let lost = store.claim_deliveries("hook", "holder", SHORT, 1).await.unwrap().remove(0);
    let taken = claim_in_time(store.as_ref(), "hook").await;
    assert_eq!((taken.delivery.id, taken.delivery.attempts), (lost.delivery.id, 2));
    for settlement in [Settlement::Delivered, dead(), again(SHORT)] {
        assert!(!settle(store.as_ref(), &lost, settlement).await, "it is in other hands");
    }
    assert!(settle(store.as_ref(), &taken, Settlement::Delivered).await);
}

pub(super) async fn leases_are_released(store: Arc<dyn Store>) {
    put(store.as_ref(), "a", "hook").await;
    let first = claim_one(store.as_ref(), "hook").await;
    assert!(claim(store.as_ref(), "hook").await.is_empty());
    store.release_deliveries().await.unwrap();
    let second = claim_one(store.as_ref(), "hook").await;
    assert_eq!((second.delivery.id, second.delivery.attempts), (first.delivery.id, 2));
    // One that waits for its next try goes on waiting.
    assert!(settle(store.as_ref(), &second, again(LONG)).await);
    store.release_deliveries().await.unwrap();
    assert!(claim(store.as_ref(), "hook").await.is_empty());
}

pub(super) async fn what_is_dead_comes_back_only_when_asked(store: Arc<dyn Store>) {
    let unknown = store.requeue(DeliveryId::new(), &decision()).await.unwrap();
    assert_eq!(unknown, Requeued::Unknown);
    put(store.as_ref(), "a", "hook").await;
    let claimed = claim_one(store.as_ref(), "hook").await;
    let id = claimed.delivery.id;
    assert!(matches!(store.requeue(id, &decision()).await.unwrap(), Requeued::NotDead(delivery) if delivery.id == id));
    assert_eq!(decisions(store.as_ref()).await, 0, "nothing was let through");
    assert!(settle(store.as_ref(), &claimed, dead()).await);
    assert!(claim(store.as_ref(), "hook").await.is_empty());
    assert_eq!(store.next_due(&["hook".to_owned()]).await.unwrap(), None);
    let given_up = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (given_up.state, given_up.last_error.as_str()),
        (DeliveryState::Dead, "it refuses")
    );
    assert!(given_up.ended_at.is_some());

    let Requeued::Done(due) = store.requeue(id, &decision()).await.unwrap() else {
        panic!("it was dead")
    };
    assert_eq!((due.state, due.ended_at), (DeliveryState::Due, None));
    assert_eq!(decisions(store.as_ref()).await, 1);
    assert!(matches!(store.requeue(id, &decision()).await.unwrap(), Requeued::NotDead(_)));
    assert_eq!(decisions(store.as_ref()).await, 1);
    let claimed_again = claim_one(store.as_ref(), "hook").await;
    // All of its tries are ahead of it; the fence does not go back, so that the first holder stays shut out.
    assert_eq!((claimed_again.delivery.attempts, claimed_again.tries), (2, 1));
    assert!(!settle(store.as_ref(), &claimed, Settlement::Delivered).await);
    assert!(settle(store.as_ref(), &claimed_again, Settlement::Delivered).await);
}

pub(super) async fn what_is_due_is_known_ahead(store: Arc<dyn Store>) {
    let channels = ["hook".to_owned(), "chat".to_owned()];
    let due = async |channels: &[String]| store.next_due(channels).await.unwrap();
    assert_eq!(due(&channels).await, None);
    put(store.as_ref(), "a", "hook").await;
    assert_eq!(due(&channels).await, Some(Duration::ZERO));
    assert_eq!(due(&channels[1..]).await, None);
    assert_eq!(due(&[]).await, None);
    let claimed = claim_one(store.as_ref(), "hook").await;
    let lease = due(&channels).await.expect("its lease may lapse");
    let longest = LONG.min(LONGEST_LEASE);
    assert!(lease > longest / 2 && lease <= longest, "{lease:?}");
    assert!(settle(store.as_ref(), &claimed, again(Duration::from_secs(600))).await);
    let wait = due(&channels).await.expect("its next try");
    assert!(
        wait > Duration::from_secs(500) && wait <= Duration::from_secs(600),
        "{wait:?}"
    );
}

pub(super) async fn putting_something_in_wakes(store: Arc<dyn Store>) {
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.enqueued().await })
    };
    put(store.as_ref(), "a", "hook").await;
    tokio::time::timeout(PATIENCE, waiting).await.expect("it wakes").unwrap();
    // Also where nobody was waiting at that moment, and for one that comes back.
    let claimed = claim_one(store.as_ref(), "hook").await;
    assert!(settle(store.as_ref(), &claimed, dead()).await);
    store.requeue(claimed.delivery.id, &decision()).await.unwrap();
    tokio::time::timeout(PATIENCE, store.enqueued()).await.expect("it wakes");
}

pub(super) async fn channels_that_are_gone_are_given_up(store: Arc<dyn Store>) {
    for (key, channel) in [("a", "hook"), ("b", "gone"), ("c", "taken"), ("d", "later")] {
        put(store.as_ref(), key, channel).await;
    }
    claim_one(store.as_ref(), "taken").await;
    let later = claim_one(store.as_ref(), "later").await;
    assert!(settle(store.as_ref(), &later, again(LONG)).await);
    let known = ["hook".to_owned()];
    assert_eq!(
        store.abandon(&known, LONG, "no such channel").await.unwrap(),
        0,
        "not for so long"
    );
    assert_eq!(store.abandon(&known, Duration::ZERO, "no such channel").await.unwrap(), 1);
    let filter = DeliveryFilter {
        state: Some(DeliveryState::Dead),
        ..DeliveryFilter::default()
    };
    let given_up = store.deliveries(&filter, None, 10).await.unwrap();
    assert_eq!(given_up.len(), 1);
    assert_eq!(
        (given_up[0].envelope.channel.as_str(), given_up[0].last_error.as_str()),
        ("gone", "no such channel")
    );
    assert_eq!(
        store.abandon(&[], Duration::ZERO, "none").await.unwrap(),
        1,
        "without any channel all of them"
    );
}

pub(super) async fn old_deliveries_are_pruned(store: Arc<dyn Store>) {
    for key in ["a", "b", "c"] {
        put(store.as_ref(), key, key).await;
    }
    let delivered = claim_one(store.as_ref(), "a").await;
    assert!(settle(store.as_ref(), &delivered, Settlement::Delivered).await);
    let given_up = claim_one(store.as_ref(), "b").await;
    assert!(settle(store.as_ref(), &given_up, dead()).await);
    assert_eq!(store.prune_deliveries(LONG, LONG).await.unwrap(), 0);
    assert_eq!(store.prune_deliveries(Duration::ZERO, LONG).await.unwrap(), 1);
    assert_eq!(store.delivery(delivered.delivery.id).await.unwrap(), None);
    assert_eq!(store.prune_deliveries(Duration::ZERO, Duration::ZERO).await.unwrap(), 1);
    let left = store.deliveries(&DeliveryFilter::default(), None, 10).await.unwrap();
    assert_eq!(left.len(), 1, "what is due stays");
    assert_eq!(left[0].envelope.channel, "c");
}

pub(super) async fn deliveries_are_listed_and_filtered(store: Arc<dyn Store>) {
    let run = RunId(Uuid::now_v7());
    let mut of_run = envelope("run", "mail", &["x@example.com"]);
    of_run.notice.run = Some(run);
    store.enqueue(&[of_run]).await.unwrap();
    for number in 0..5 {
        put(store.as_ref(), &number.to_string(), "hook").await;
    }
    let claimed = store.claim_deliveries("hook", "holder", LONG, 1).await.unwrap().remove(0);
    assert!(settle(store.as_ref(), &claimed, dead()).await);
    let list = async |filter: DeliveryFilter, before, limit| {
        let listed = store.deliveries(&filter, before, limit).await.unwrap();
        listed.into_iter().map(|delivery| delivery.id).collect::<Vec<_>>()
    };
    let all = list(DeliveryFilter::default(), None, 100).await;
    assert_eq!(all.len(), 6);
    assert!(all.is_sorted_by(|newer, older| newer > older), "newest first");
    assert_eq!(list(DeliveryFilter::default(), Some(all[1]), 2).await, all[2..4]);
    let of = |state| DeliveryFilter {
        state: Some(state),
        ..DeliveryFilter::default()
    };
    assert_eq!(list(of(DeliveryState::Dead), None, 100).await, [claimed.delivery.id]);
    assert_eq!(list(of(DeliveryState::Due), None, 100).await.len(), 5);
    assert!(list(of(DeliveryState::Delivered), None, 100).await.is_empty());
    let filter = DeliveryFilter {
        run: Some(run),
        channel: Some("mail".to_owned()),
        state: Some(DeliveryState::Due),
    };
    assert_eq!(list(filter, None, 100).await, [all[5]]);
}
