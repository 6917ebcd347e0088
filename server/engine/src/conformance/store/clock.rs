//! The clock of the store goes back: what a dead server held is free at once, and what a living one prolongs is its own.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    LONG, running,
    schedules::{made, read, schedule},
    slots::slot,
};
use crate::{
    model::{
        SlotOutcome, fence,
        notice::{Envelope, Notice, NoticeKind},
    },
    port::{SlotGrant, Store, StoreError},
};

/// How far it goes back: further than any lease is long.
const BACK: Duration = Duration::from_secs(7_200);

fn envelope(key: &str) -> Envelope {
    Envelope {
        notice: Notice::new(NoticeKind::RunFailed, key, "shop", "cleanup on shop failed"),
        channel: "hook".to_owned(),
        recipients: Vec::new(),
    }
}

async fn claim_slot(store: &dyn Store) -> Option<SlotGrant> {
    store.claim_slot("another", LONG, &["shop".to_owned()], false).await.unwrap()
}

pub(super) async fn goes_back(store: Arc<dyn Store>, set_back: impl AsyncFnOnce(Duration)) {
    let store = store.as_ref();
    let (dead, alive) = (running(store).await, running(store).await);
    for name in ["dead", "alive"] {
        let id = made(store, &schedule(name, "shop")).await.schedule.id;
        let kept = read(store, id).await;
        let due = slot(id, Timestamp::from_second(1_800_000_000).unwrap(), SlotOutcome::Pending);
        assert!(store.decide_slots(&kept, &kept.schedule.state, &[due]).await.unwrap());
    }
    let slots = [claim_slot(store).await.unwrap(), claim_slot(store).await.unwrap()];
    store.enqueue(&[envelope("in hand")]).await.unwrap();
    let in_hand = store.claim_deliveries("hook", "holder", LONG, 9).await.unwrap();
    assert_eq!(in_hand.len(), 1);
    store.enqueue(&[envelope("untried")]).await.unwrap();
    assert!(claim_slot(store).await.is_none());
    assert!(store.claim("another", LONG, &[]).await.unwrap().is_none());

    set_back(BACK).await;
    // A server that lives prolongs what it holds, and nobody else gets that.
    store.renew(alive.run.id, alive.fence, LONG).await.unwrap();
    assert!(store.hold_slot(slots[1].claim, LONG).await.unwrap());
    let taken = store
        .claim("another", LONG, &[])
        .await
        .unwrap()
        .expect("nobody waits for the clock");
    assert_eq!((taken.run.id, fence::attempt(taken.fence)), (dead.run.id, 2));
    assert!(
        store.claim("another", LONG, &[]).await.unwrap().is_none(),
        "the other one is held"
    );
    assert!(
        matches!(store.renew(dead.run.id, dead.fence, LONG).await, Err(StoreError::Fenced)),
        "were it not dead, it would be shut out"
    );
    assert_eq!(store.pulse().await.unwrap().pending, 1, "to be seen by whoever looks");
    let fired = claim_slot(store).await.expect("nobody waits for the clock");
    assert_eq!(fired.claim.schedule, slots[0].claim.schedule);
    assert!(fired.claim.fence > slots[0].claim.fence);
    assert!(claim_slot(store).await.is_none());
    assert_eq!(
        store.next_due(&["hook".to_owned()]).await.unwrap(),
        Some(Duration::ZERO),
        "both are due now"
    );
    let delivered = store.claim_deliveries("hook", "another", LONG, 9).await.unwrap();
    assert_eq!(delivered.len(), 2, "what was in hand, and what was never tried");
    // From here on waits are waits again.
    let settlement = crate::port::Settlement::Again {
        after: Duration::from_secs(60),
        error: "it is away".to_owned(),
    };
    for claimed in &delivered {
        let (id, attempt) = (claimed.delivery.id, claimed.delivery.attempts);
        assert!(store.settle(id, attempt, &settlement).await.unwrap());
    }
    assert!(store.claim_deliveries("hook", "another", LONG, 9).await.unwrap().is_empty());
}
