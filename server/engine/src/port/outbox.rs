//! What the control store keeps of notifications: envelopes on their way. Part of every [`Store`](super::Store).
//!
//! ```text
//! enqueue -> due --claim (lease, attempts + 1)--> in hand --settle--> delivered -> pruned
//!             ^                                      |         |
//!             |   lease lapses, or settle with a wait |        '--> dead -> pruned
//!             '---------------------------------------'               |
//!             '------------------------ requeue ----------------------'
//! ```
//!
//! All times are the store's, so that servers whose clocks differ agree on what is due and whose lease has lapsed.

use std::time::Duration;

use async_trait::async_trait;

use super::store::StoreError;
use crate::model::{
    Decision,
    notice::{Delivery, DeliveryId, DeliveryState, Envelope},
};

/// A delivery in the hands of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDelivery {
    /// The delivery; its `attempts` is the fence of this try.
    pub delivery: Delivery,
    /// Tries since it was put into the outbox or asked for again, this one included.
    pub tries: u32,
    /// Time since then.
    pub tried_for: Duration,
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The other side took it.
    Delivered,
    /// It is tried again after this wait.
    Again {
        /// The wait.
        after: Duration,
        /// Why this try failed.
        error: String,
    },
    /// It is given up.
    Dead {
        /// Why.
        error: String,
    },
}

/// Which deliveries to list; an empty part does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// In this state.
    pub state: Option<DeliveryState>,
    /// Over this channel.
    pub channel: Option<String>,
    /// About this run.
    pub run: Option<crate::model::RunId>,
}

/// What became of asking for a delivery again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requeued {
    /// It is due at once.
    Done(Delivery),
    /// It is not dead; nothing was changed.
    NotDead(Delivery),
    /// There is no such delivery.
    Unknown,
}

/// The part of a control store that keeps envelopes until they are delivered. Every act is one transaction.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Puts envelopes into the outbox, due at once; returns how many. One whose notice, channel and recipients are there already is the same
    /// event seen again, and changes nothing.
    async fn enqueue(&self, envelopes: &[Envelope]) -> Result<u64, StoreError>;

    /// Waits until this server has put something into the outbox, or has done so since the last call returned. May return early.
    async fn enqueued(&self);

    /// Time until the next delivery over one of these channels can be claimed: zero where one can be now, `None` where nothing is due.
    async fn next_due(&self, channels: &[String]) -> Result<Option<Duration>, StoreError>;

    /// Gives at most `limit` deliveries over a channel that are due to `holder` for `term`: the longest due first, also those whose lease lapsed.
    async fn claim_deliveries(
        &self,
        channel: &str,
        holder: &str,
        term: Duration,
        limit: u32,
    ) -> Result<Vec<ClaimedDelivery>, StoreError>;

    /// Writes what became of a try. Returns false, and writes nothing, where it is not the newest try of a delivery that is due.
    async fn settle(&self, delivery: DeliveryId, attempt: u32, settlement: &Settlement) -> Result<bool, StoreError>;

    /// Lets every lease on a delivery lapse now. Called at start by a server that knows that it is the only one.
    async fn release_deliveries(&self) -> Result<(), StoreError>;

    /// A delivery by its id.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;

    /// Deliveries, newest first, older than `before` where given.
    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Makes a dead delivery due again with all of its tries ahead, together with the decision that lets that through.
    async fn requeue(&self, id: DeliveryId, decision: &Decision) -> Result<Requeued, StoreError>;

    /// Gives up what has been due for so long over any channel but these and is in nobody's hands: no server has a channel of that name any
    /// more. Returns how many.
    async fn abandon(&self, channels: &[String], after: Duration, reason: &str) -> Result<u64, StoreError>;

    /// Removes what was delivered, and what was given up, longer ago than this; returns how many.
    async fn prune_deliveries(&self, delivered: Duration, dead: Duration) -> Result<u64, StoreError>;
}
