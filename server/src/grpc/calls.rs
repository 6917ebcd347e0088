//! How much a caller may ask for: calls a second and calls that are open, one principal at a time, so that one cannot take what others
//! need; and calls that are worked on, all together, above which the server refuses rather than slows down for everybody. Called by the gate.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{Quota, RateLimiter, clock::Clock as _, clock::MonotonicClock, state::keyed::DashMapStateStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::status::Fault;
use crate::{
    access::{Identity, KnownBy, Peer},
    config::access::CallLimits,
};

/// Calls by whom nobody knows, of one address: a second, and at once.
const STRANGERS: (u32, u32) = (5, 50);
/// When to try again where places are to become free.
const RETRY_OPEN: Duration = Duration::from_secs(5);
/// Number of keys above which those that are back at rest are forgotten.
const MANY_KEYS: usize = 10_000;

type Rate<K> = RateLimiter<K, DashMapStateStore<K>, MonotonicClock>;

fn rate<K: std::hash::Hash + Eq + Clone>(per_second: u32, burst: u32) -> Option<Rate<K>> {
    let quota = Quota::per_second(NonZeroU32::new(per_second)?);
    let quota = NonZeroU32::new(burst).map_or(quota, |burst| quota.allow_burst(burst));
    Some(RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock))
}

fn take<K: std::hash::Hash + Eq + Clone>(rate: &Rate<K>, key: &K) -> Result<(), Duration> {
    if rate.len() > MANY_KEYS {
        rate.retain_recent();
    }
    rate.check_key(key).map_err(|early| early.wait_time_from(rate.clock().now()))
}

/// The limits, and how far they are used.
pub(super) struct Calls {
    limits: CallLimits,
    rate: Option<Rate<String>>,
    strangers: Option<Rate<IpAddr>>,
    open: Arc<Mutex<HashMap<String, u32>>>,
    working: Arc<Semaphore>,
}

impl Calls {
    pub(super) fn new(limits: CallLimits) -> Self {
        let working = usize::try_from(limits.working).unwrap_or(usize::MAX);
        let working = if working == 0 { Semaphore::MAX_PERMITS } else { working };
        Self {
            limits,
            rate: rate(limits.per_second, limits.burst),
            strangers: rate(STRANGERS.0, STRANGERS.1),
            open: Arc::default(),
            working: Arc::new(Semaphore::new(working)),
        }
    }

    /// A place among the calls that are worked on; given back when it is dropped.
    ///
    /// # Errors
    /// [`Fault::Overloaded`].
    pub(super) fn work(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.working).try_acquire_owned().map_err(|_| Fault::Overloaded)
    }

    /// Counts a call by whom nobody knows.
    ///
    /// # Errors
    /// [`Fault::TooManyCalls`] where its address has made too many.
    pub(super) fn stranger(&self, peer: &Peer) -> Result<(), Fault> {
        let (Some(rate), Some(address)) = (&self.strangers, peer.remote) else {
            return Ok(());
        };
        take(rate, &address.ip().to_canonical()).map_err(|retry_after| Fault::TooManyCalls {
            problem: "too many calls by unknown callers come from this address".to_owned(),
            retry_after,
        })
    }

    /// Counts a call of a known caller, which is open until the place is dropped.
    ///
    /// # Errors
    /// [`Fault::TooManyCalls`].
    pub(super) fn begin(&self, identity: &Identity) -> Result<Open, Fault> {
        let principal = &identity.caller.principal;
        if identity.known_by != KnownBy::Loopback
            && let Some(rate) = &self.rate
        {
            take(rate, principal).map_err(|retry_after| Fault::TooManyCalls {
                problem: format!(
                    "{principal} calls too often; expected at most {} calls a second",
                    self.limits.per_second
                ),
                retry_after,
            })?;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal.clone()).or_default();
        if self.limits.open != 0 && identity.known_by != KnownBy::Loopback && *count >= self.limits.open {
            return Err(Fault::TooManyCalls {
                problem: format!(
                    "{principal} has {count} calls and streams open; expected at most {}",
                    self.limits.open
                ),
                retry_after: RETRY_OPEN,
            });
        }
        *count += 1;
        Ok(Open {
            principal: principal.clone(),
            all: Arc::clone(&self.open),
        })
    }
}

/// A call that is open.
#[derive(Debug)]
pub(super) struct Open {
    principal: String,
    all: Arc<Mutex<HashMap<String, u32>>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::{
        access::{Grant, Role, Scope},
        model::Caller,
    };

    use super::*;

    fn of(principal: &str, known_by: KnownBy) -> Identity {
        Identity {
            caller: Caller {
                principal: principal.to_owned(),
                peer: String::new(),
            },
            grant: Grant {
                role: Role::Viewer,
                scope: Scope::All,
                until: None,
            },
            known_by,
            ended: tokio_util::sync::CancellationToken::new(),
        }
    }

    #[test]
    fn one_principal_does_not_take_what_others_need() {
        let calls = Calls::new(CallLimits {
            per_second: 1,
            burst: 2,
            open: 10,
            ..CallLimits::default()
        });
        let (ann, bob) = (of("ann", KnownBy::Token), of("bob", KnownBy::Token));
        assert!(calls.begin(&ann).is_ok() && calls.begin(&ann).is_ok());
        let Err(Fault::TooManyCalls { retry_after, .. }) = calls.begin(&ann) else {
            panic!("a third call at once must be refused");
        };
        assert!(
            retry_after > Duration::ZERO && retry_after <= Duration::from_secs(1),
            "{retry_after:?}"
        );
        assert!(calls.begin(&bob).is_ok());
    }

    #[test]
    fn places_come_back() {
        let calls = Calls::new(CallLimits {
            per_second: 0,
            open: 2,
            working: 1,
            ..CallLimits::default()
        });
        let ann = of("ann", KnownBy::Token);
        let first = calls.begin(&ann).expect("a place");
        let second = calls.begin(&ann).expect("a place");
        assert!(matches!(calls.begin(&ann), Err(Fault::TooManyCalls { .. })));
        assert!(
            calls.begin(&of("ann", KnownBy::Loopback)).is_ok(),
            "whoever is here anyhow is not counted"
        );
        drop((first, second));
        assert!(calls.begin(&ann).is_ok());
        assert!(calls.open.lock().expect("the lock").is_empty());
        let work = calls.work().expect("a place");
        assert!(matches!(calls.work(), Err(Fault::Overloaded)));
        drop(work);
        assert!(calls.work().is_ok());
    }

    #[test]
    fn strangers_are_counted_by_address() {
        let calls = Calls::new(CallLimits::default());
        let peer = |text: &str| Peer::new(Some(text.parse().expect("an address")), None, None);
        for port in 1..=STRANGERS.1 {
            assert!(calls.stranger(&peer(&format!("10.0.0.1:{port}"))).is_ok());
        }
        assert!(matches!(calls.stranger(&peer("10.0.0.1:9")), Err(Fault::TooManyCalls { .. })));
        assert!(calls.stranger(&peer("10.0.0.2:9")).is_ok());
    }
}
