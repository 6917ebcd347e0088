//! Notifications as callers see them: channels, a try of one, and what is in the outbox. What goes into the outbox by itself is put there by the
//! store, when a run ends; other parts of the engine use [`Context::announce`].

use std::time::{Duration, Instant};

use super::{Context, Engine};
use crate::{
    EngineError,
    model::{
        Act, Caller, Decision,
        notice::{Channel, Delivery, DeliveryId, Envelope, Notice, NoticeKind, is_address},
    },
    notify::{Dispatcher, Rules},
    port::{DeliveryError, DeliveryFilter, Requeued, StoreError},
};

/// Most recipients of a test.
const MAX_TEST_RECIPIENTS: usize = 10;

/// What became of the try of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    /// The id that the other side was given.
    pub delivery: DeliveryId,
    /// To whom, where the channel takes recipients.
    pub recipients: Vec<String>,
    /// Why it failed; `None` where the other side took it.
    pub failure: Option<DeliveryError>,
    /// How long it took.
    pub took: Duration,
}

impl Context {
    /// Puts a notice into the outbox, for everybody who is to hear of it; returns how many envelopes that were. The same notice again
    /// changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn announce(&self, notice: &Notice, rules: Option<Rules<'_>>) -> Result<u64, StoreError> {
        let envelopes = self.settings.notify.routing.envelopes(notice, rules);
        if envelopes.is_empty() {
            return Ok(0);
        }
        self.store.enqueue(&envelopes).await
    }
}

impl Engine {
    /// The task that delivers what is in the outbox.
    #[must_use]
    pub fn dispatcher(&self) -> Dispatcher {
        Dispatcher::new(std::sync::Arc::clone(&self.context))
    }

    /// Puts a notice into the outbox, for everybody who is to hear of it by the routes and by these rules.
    ///
    /// # Errors
    /// `Store`.
    pub async fn announce(&self, notice: &Notice, rules: Option<Rules<'_>>) -> Result<u64, EngineError> {
        Ok(self.context.announce(notice, rules).await?)
    }

    /// Checks where a caller wants notices to go.
    ///
    /// # Errors
    /// What is wrong and what was expected.
    pub fn check_recipients(&self, channels: &[String], recipients: &[String]) -> Result<(), String> {
        self.context.settings.notify.routing.check(channels, recipients)
    }

    /// The channels of this server, by name.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        let channels = &self.context.settings.notify.channels;
        channels.iter().map(|notifier| notifier.channel().clone()).collect()
    }

    /// Sends a notice over a channel now, past the outbox: to `recipients`, or the channel's own where none are given.
    ///
    /// # Errors
    /// `UnknownChannel`, `InvalidField`, `Store` where the record cannot be written. That the other side refuses is no error, but the outcome.
    pub async fn test_channel(&self, name: &str, recipients: &[String], caller: &Caller) -> Result<TestOutcome, EngineError> {
        let tested = self.try_channel(name, recipients, caller).await;
        match tested {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                let refused = Decision::refuse(caller, Act::TestChannel, error.reason(), error.to_string());
                Err(self.recorded(&refused, error).await)
            }
        }
    }

    async fn try_channel(&self, name: &str, recipients: &[String], caller: &Caller) -> Result<TestOutcome, EngineError> {
        let settings = &self.context.settings.notify;
        let notifier = settings.channels.get(name).ok_or_else(|| EngineError::UnknownChannel {
            name: name.to_owned(),
            known: settings.channels.names(),
        })?;
        let channel = notifier.channel();
        let recipients = recipients_of_test(channel, recipients)?;
        let delivery = DeliveryId::new();
        let to = if recipients.is_empty() {
            String::new()
        } else {
            format!(" to {}", recipients.join(", "))
        };
        // Before it leaves the house: without a record there is no act.
        let decision = Decision::allow(caller, Act::TestChannel, format!("channel {name}{to}, delivery {delivery}"));
        self.context.store.record(&decision).await?;
        let mut notice = Notice::new(
            NoticeKind::Test,
            format!("test:{delivery}"),
            "",
            format!("test of channel {name}"),
        );
        notice.line("Channel", format!("{name} ({})", channel.kind.name()));
        notice.line("Asked by", &caller.principal);
        notice.next_step = "Nothing is to be done: notifications reach you here.".to_owned();
        notice.command = "dbkeep notify channels".to_owned();
        let envelope = Envelope {
            notice,
            channel: name.to_owned(),
            recipients: recipients.clone(),
        };
        let begun = Instant::now();
        let longest = settings.lease_term / 2;
        let result = match tokio::time::timeout(longest, notifier.deliver(&envelope, delivery)).await {
            Ok(result) => result,
            Err(_) => Err(DeliveryError::transient(format!(
                "no answer within {} s",
                longest.as_secs_f64()
            ))),
        };
        let failure = result.err();
        tracing::info!(channel = name, %delivery, delivered = failure.is_none(), "channel tested");
        Ok(TestOutcome {
            delivery,
            recipients,
            failure,
            took: begun.elapsed(),
        })
    }

    /// Deliveries, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<Delivery>, EngineError> {
        Ok(self.context.store.deliveries(filter, before, limit).await?)
    }

    /// A delivery by its id.
    ///
    /// # Errors
    /// `UnknownDelivery`, `Store`.
    pub async fn delivery(&self, id: &str) -> Result<Delivery, EngineError> {
        let unknown = || EngineError::UnknownDelivery { id: id.to_owned() };
        let delivery = id.parse().map_err(|_| unknown())?;
        self.context.store.delivery(delivery).await?.ok_or_else(unknown)
    }

    /// Makes a delivery that was given up due again, with all of its tries ahead.
    ///
    /// # Errors
    /// `UnknownDelivery`, `DeliveryState` where it was not given up, `Store`.
    pub async fn retry_delivery(&self, id: &str, caller: &Caller) -> Result<Delivery, EngineError> {
        let asked = self.requeue(id, caller).await;
        match asked {
            Ok(delivery) => Ok(delivery),
            Err(error) => {
                let refused = Decision::refuse(caller, Act::RetryDelivery, error.reason(), error.to_string());
                Err(self.recorded(&refused, error).await)
            }
        }
    }

    async fn requeue(&self, id: &str, caller: &Caller) -> Result<Delivery, EngineError> {
        let known = self.delivery(id).await?;
        let notice = &known.envelope.notice;
        let detail = format!("delivery {} over {}: {}", known.id, known.envelope.channel, notice.title);
        let decision = Decision::allow(caller, Act::RetryDelivery, detail).about(&notice.target, notice.run, None);
        match self.context.store.requeue(known.id, &decision).await? {
            Requeued::Done(delivery) => Ok(delivery),
            Requeued::NotDead(delivery) => Err(EngineError::DeliveryState {
                id: delivery.id,
                state: delivery.state,
            }),
            Requeued::Unknown => Err(EngineError::UnknownDelivery { id: id.to_owned() }),
        }
    }
}

fn recipients_of_test(channel: &Channel, recipients: &[String]) -> Result<Vec<String>, EngineError> {
    let refuse = |problem: String| {
        Err(EngineError::InvalidField {
            field: "recipients",
            problem,
        })
    };
    if !channel.kind.takes_recipients() {
        if recipients.is_empty() {
            return Ok(Vec::new());
        }
        return refuse(format!(
            "names recipients; channel {} of kind {} goes to one place, expected none",
            channel.name,
            channel.kind.name()
        ));
    }
    if recipients.len() > MAX_TEST_RECIPIENTS {
        return refuse(format!(
            "names {} recipients; expected at most {MAX_TEST_RECIPIENTS}",
            recipients.len()
        ));
    }
    if let Some(recipient) = recipients.iter().find(|recipient| !is_address(recipient)) {
        return refuse(format!(
            "{recipient:?} is no mail address; expected one such as ops@example.com"
        ));
    }
    let recipients = if recipients.is_empty() {
        &channel.recipients
    } else {
        recipients
    };
    if recipients.is_empty() {
        return refuse(format!(
            "is empty, and channel {} has no recipients of its own; expected an address",
            channel.name
        ));
    }
    Ok(recipients.to_vec())
}
