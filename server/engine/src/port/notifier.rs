//! What carries a notice to the other side: mail, chat, webhooks.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::notice::{Channel, DeliveryId, Envelope};

/// Whether another try may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryErrorClass {
    /// The other side is away, busy, or out of order for the moment.
    Transient,
    /// The other side refuses, and will refuse the same again.
    Permanent,
}

/// A try failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DeliveryError {
    /// Whether another try may succeed.
    pub class: DeliveryErrorClass,
    /// When the other side asked to be tried again.
    pub retry_after: Option<Duration>,
    /// What happened, in one sentence without any secret.
    pub message: String,
}

impl DeliveryError {
    /// A failure that passes.
    #[must_use]
    pub fn transient(message: impl Into<String>) -> Self {
        Self {
            class: DeliveryErrorClass::Transient,
            retry_after: None,
            message: message.into(),
        }
    }

    /// A failure that stays.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            class: DeliveryErrorClass::Permanent,
            ..Self::transient(message)
        }
    }
}

/// A channel that can be sent over. It tries once and keeps nothing: repeating is the dispatcher's.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// What it is.
    fn channel(&self) -> &Channel;

    /// Delivers an envelope; returns once the other side has taken it. Every try of a delivery comes with the same id, and hands the same
    /// id on where the protocol has a place for it, so that the other side can tell a repetition.
    ///
    /// # Errors
    /// Where it is not certain that the other side has taken it.
    async fn deliver(&self, envelope: &Envelope, delivery: DeliveryId) -> Result<(), DeliveryError>;
}
