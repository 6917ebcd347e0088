//! What the operator of a server can set about notifications, and the channels that it has.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::routing::Routing;
use crate::port::Notifier;

/// The channels of a server, by name.
#[derive(Clone, Default)]
pub struct Channels(BTreeMap<String, Arc<dyn Notifier>>);

impl Channels {
    /// The channel of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Notifier>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Notifier>> {
        self.0.values()
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Arc<dyn Notifier>> for Channels {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Notifier>>>(notifiers: I) -> Self {
        let named = notifiers
            .into_iter()
            .map(|notifier| (notifier.channel().name.clone(), notifier));
        Self(named.collect())
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.keys()).finish()
    }
}

/// How notices are routed and delivered.
#[derive(Debug, Clone)]
pub struct NotifySettings {
    /// What carries them.
    pub channels: Channels,
    /// Who hears of what.
    pub routing: Arc<Routing>,
    /// How long a delivery belongs to the server that tries it. One try may take half of that.
    pub lease_term: Duration,
    /// Wait after the first try that failed; doubled with each further one.
    pub first_wait: Duration,
    /// Longest such wait.
    pub longest_wait: Duration,
    /// A delivery that has been tried for so long is given up when a try fails.
    pub give_up_after: Duration,
    /// Most tries.
    pub max_tries: u32,
    /// How often the outbox is looked into for what other servers put there.
    pub poll_interval: Duration,
    /// How long deliveries are kept once they are delivered.
    pub keep_delivered: Duration,
    /// How long those are kept that were given up.
    pub keep_dead: Duration,
}

impl Default for NotifySettings {
    fn default() -> Self {
        Self {
            channels: Channels::default(),
            routing: Arc::default(),
            lease_term: Duration::from_secs(60),
            first_wait: Duration::from_secs(5),
            longest_wait: Duration::from_secs(3_600),
            give_up_after: Duration::from_secs(24 * 3_600),
            // Enough for a receiver that is away for a day: the waits grow to an hour.
            max_tries: 40,
            poll_interval: Duration::from_secs(5),
            keep_delivered: Duration::from_secs(30 * 86_400),
            keep_dead: Duration::from_secs(90 * 86_400),
        }
    }
}
