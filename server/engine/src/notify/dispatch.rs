//! The dispatcher: empties the outbox. One task, started beside the supervisor; several servers may do the same on one store.
//!
//! It sleeps until something is put into the outbox here, until the next delivery is due, or for the poll interval, which finds what other servers
//! have put there. A delivery is claimed under a lease, tried in a task of its own, and settled. A server that dies in between leaves a
//! lease to lapse, and the delivery is tried again under the same id.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{NotifySettings, backoff};
use crate::{
    engine::Context,
    failpoint,
    model::notice::one_line,
    port::{ClaimedDelivery, DeliveryError, DeliveryErrorClass, Notifier, Settlement, StoreError},
};

/// Most tries at a time over one channel: one that is out of order does not take the others' places.
const PER_CHANNEL: usize = 4;
/// Longest text about a failed try, characters.
const MAX_ERROR: usize = 500;
/// How often what is old is removed.
const HOUSEKEEPING: Duration = Duration::from_secs(3_600);

/// Runs until its token is cancelled and every try at work has ended.
pub struct Dispatcher {
    context: Arc<Context>,
    /// The channels of the tries at work.
    at_work: HashMap<Id, String>,
    housekept: Option<Instant>,
}

impl Dispatcher {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            at_work: HashMap::new(),
            housekept: None,
        }
    }

    fn settings(&self) -> &NotifySettings {
        &self.context.settings.notify
    }

    /// Delivers until `shutdown`. Tries that are at work then are ended and settled; dropped half-way, they are repeated after the
    /// lapse of their lease.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tries = JoinSet::new();
        let context = Arc::clone(&self.context);
        while !shutdown.is_cancelled() {
            let wait = match self.take_up(&mut tries).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, "the outbox could not be read");
                    self.settings().poll_interval
                }
            };
            self.keep_house().await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = context.store.enqueued() => {}
                () = tokio::time::sleep(wait) => {}
                Some(ended) = tries.join_next_with_id() => self.note_end(ended),
            }
        }
        while let Some(ended) = tries.join_next_with_id().await {
            self.note_end(ended);
        }
    }

    /// Takes up what is due, as far as there are free places; returns how long there is nothing to do.
    async fn take_up(&mut self, tries: &mut JoinSet<()>) -> Result<Duration, StoreError> {
        let settings = self.settings();
        let idle = settings.poll_interval;
        loop {
            let free: Vec<Arc<dyn Notifier>> = self
                .settings()
                .channels
                .iter()
                .filter(|notifier| self.places(&notifier.channel().name) > 0)
                .cloned()
                .collect();
            let names: Vec<String> = free.iter().map(|notifier| notifier.channel().name.clone()).collect();
            if names.is_empty() {
                // No channel, or all of them at work: the end of a try comes by itself.
                return Ok(idle);
            }
            match self.context.store.next_due(&names).await? {
                None => return Ok(idle),
                Some(Duration::ZERO) => {}
                Some(wait) => return Ok(wait.min(idle)),
            }
            let mut taken = 0;
            for notifier in free {
                taken += self.take_up_of(&notifier, tries).await?;
            }
            if taken == 0 {
                // Another server was first.
                return Ok(idle);
            }
        }
    }

    async fn take_up_of(&mut self, notifier: &Arc<dyn Notifier>, tries: &mut JoinSet<()>) -> Result<usize, StoreError> {
        let name = &notifier.channel().name;
        let limit = u32::try_from(self.places(name)).unwrap_or(u32::MAX);
        let term = self.settings().lease_term;
        let holder = &self.context.settings.holder;
        let claimed = self.context.store.claim_deliveries(name, holder, term, limit).await?;
        let count = claimed.len();
        for delivery in claimed {
            let (context, notifier) = (Arc::clone(&self.context), Arc::clone(notifier));
            let task = tries.spawn(async move { attempt(&context, notifier.as_ref(), &delivery).await });
            self.at_work.insert(task.id(), name.clone());
        }
        Ok(count)
    }

    fn places(&self, channel: &str) -> usize {
        let taken = self.at_work.values().filter(|at_work| *at_work == channel).count();
        PER_CHANNEL.saturating_sub(taken)
    }

    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(error) => {
                tracing::error!(%error, "a delivery panicked; it is tried again when its lease lapses");
                error.id()
            }
        };
        self.at_work.remove(&task);
    }

    /// Now and then removes what is old, and gives up what no server delivers any more.
    async fn keep_house(&mut self) {
        if self.housekept.is_some_and(|last| last.elapsed() < HOUSEKEEPING) {
            return;
        }
        self.housekept = Some(Instant::now());
        let settings = self.settings();
        let store = &self.context.store;
        let reason = "no server has this channel any more";
        let kept = async {
            let abandoned = store
                .abandon(&settings.channels.names(), settings.give_up_after, reason)
                .await?;
            let pruned = store.prune_deliveries(settings.keep_delivered, settings.keep_dead).await?;
            Ok::<_, StoreError>((abandoned, pruned))
        };
        match kept.await {
            Ok((abandoned, pruned)) => {
                if abandoned > 0 {
                    tracing::error!(abandoned, "notifications were given up: no server has their channel any more");
                }
                if pruned > 0 {
                    tracing::info!(pruned, "old notifications were put away");
                }
            }
            Err(error) => tracing::warn!(%error, "old notifications could not be put away"),
        }
    }
}

/// One try: delivers, and writes what became of it.
async fn attempt(context: &Context, notifier: &dyn Notifier, claimed: &ClaimedDelivery) {
    let settings = &context.settings.notify;
    let delivery = &claimed.delivery;
    let channel = &notifier.channel().name;
    // Settled well before the lease lapses, so that nobody else tries at the same time.
    let longest = settings.lease_term / 2;
    let result = match timeout(longest, notifier.deliver(&delivery.envelope, delivery.id)).await {
        Ok(result) => result,
        Err(_) => Err(DeliveryError::transient(format!(
            "no answer within {} s",
            longest.as_secs_f64()
        ))),
    };
    let settlement = match result {
        Ok(()) => {
            failpoint!("notice-delivered");
            Settlement::Delivered
        }
        Err(error) => settlement_of(settings, claimed, error),
    };
    match &settlement {
        Settlement::Delivered => {
            tracing::info!(delivery = %delivery.id, channel, attempt = delivery.attempts, "notification delivered");
        }
        Settlement::Again { after, error } => {
            tracing::warn!(delivery = %delivery.id, channel, attempt = delivery.attempts, error, again_in = ?after, "notification not delivered");
        }
        Settlement::Dead { error } => {
            tracing::error!(delivery = %delivery.id, channel, attempt = delivery.attempts, error, "notification given up");
        }
    }
    match context.store.settle(delivery.id, delivery.attempts, &settlement).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!(delivery = %delivery.id, "another server has taken the delivery over"),
        Err(error) => {
            tracing::warn!(delivery = %delivery.id, %error, "what became of a delivery was not written; it is tried again");
        }
    }
}

fn settlement_of(settings: &NotifySettings, claimed: &ClaimedDelivery, error: DeliveryError) -> Settlement {
    let said = one_line(&error.message, MAX_ERROR);
    if error.class == DeliveryErrorClass::Permanent {
        return Settlement::Dead { error: said };
    }
    match backoff::exhausted(settings, claimed.tries, claimed.tried_for) {
        Some(why) => Settlement::Dead {
            error: format!("{why}: {said}"),
        },
        None => Settlement::Again {
            after: backoff::wait_after(settings, claimed.delivery.id, claimed.tries, error.retry_after),
            error: said,
        },
    }
}
