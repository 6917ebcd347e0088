//! How much a caller may ask for: calls a second and calls that are open, one principal at a time, so that one cannot take what others
//! need; and calls that are worked on, all together, above which the server refuses rather than slows down for everybody. Called by the gate.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dbkeep_engine::model::Caller;
use governor::{Quota, RateLimiter, clock::Clock as _, clock::MonotonicClock, state::keyed::DashMapStateStore};

use super::status::Fault;
use crate::{
    access::{Identity, KnownBy, Peer},
    config::access::CallLimits,
};

/// How many calls by whom nobody knows one address may make at once, for each that it may make in a second.
const STRANGERS_AT_ONCE: u32 = 10;
/// Calls of health, which ask for nobody's name, that one address may have open. A watch is open for as long as its connection.
const WATCHES: u32 = 64;
/// Denied calls that are recorded, of one principal at one address: a second, and at once.
const DENIALS: (u32, u32) = (1, 100);
/// When to try again where places are to become free.
const RETRY_OPEN: Duration = Duration::from_secs(5);
/// Number of keys above which those that are back at rest are forgotten.
const MANY_KEYS: usize = 10_000;
/// After so many calls the keys are counted, which takes a lock for each part of the map; there are at most so many more of them.
const COUNTED: usize = 1_024;

/// Calls a second, by key.
struct Rate<K: std::hash::Hash + Eq + Clone> {
    limiter: RateLimiter<K, DashMapStateStore<K>, MonotonicClock>,
    taken: AtomicUsize,
}

impl<K: std::hash::Hash + Eq + Clone> Rate<K> {
    /// `None` for no limit.
    fn new(per_second: u32, burst: u32) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        let quota = NonZeroU32::new(burst).map_or(quota, |burst| quota.allow_burst(burst));
        Some(Self {
            limiter: RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock),
            taken: AtomicUsize::new(0),
        })
    }

    /// Counts a call; the error is when to come again.
    fn take(&self, key: &K) -> Result<(), Duration> {
        let limiter = &self.limiter;
        if self.taken.fetch_add(1, Ordering::Relaxed).is_multiple_of(COUNTED) && limiter.len() > MANY_KEYS {
            limiter.retain_recent();
        }
        limiter
            .check_key(key)
            .map_err(|early| early.wait_time_from(limiter.clock().now()))
    }
}

/// Whom an address belongs to: a host of IPv6 has 2^64 of them.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

/// The limits, and how far they are used.
pub(super) struct Calls {
    limits: CallLimits,
    rate: Option<Rate<String>>,
    strangers: Option<Rate<IpAddr>>,
    /// Denials that are recorded, of one principal at one address.
    denials: Option<Rate<String>>,
    open: Arc<Mutex<HashMap<Arc<str>, u32>>>,
    working: Arc<AtomicUsize>,
}

/// A place among the calls that are worked on; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Work(Arc<AtomicUsize>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    pub(super) fn new(limits: CallLimits) -> Self {
        Self {
            limits,
            rate: Rate::new(limits.per_second, limits.burst),
            strangers: Rate::new(limits.strangers, limits.strangers.saturating_mul(STRANGERS_AT_ONCE)),
            denials: Rate::new(DENIALS.0, DENIALS.1),
            open: Arc::default(),
            working: Arc::default(),
        }
    }

    /// A place among the calls that are worked on.
    ///
    /// # Errors
    /// [`Fault::Overloaded`].
    pub(super) fn work(&self) -> Result<Work, Fault> {
        let most = match usize::try_from(self.limits.working) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(most) => most,
        };
        let more = |count: usize| (count < most).then_some(count + 1);
        match self.working.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Work(Arc::clone(&self.working))),
            Err(_) => Err(Fault::Overloaded),
        }
    }

    /// Counts a call by whom nobody knows.
    ///
    /// # Errors
    /// [`Fault::TooManyCalls`] where its address has made too many.
    pub(super) fn stranger(&self, peer: &Peer) -> Result<(), Fault> {
        let (Some(rate), Some(address)) = (&self.strangers, peer.remote) else {
            return Ok(());
        };
        rate.take(&network(address.ip())).map_err(|retry_after| Fault::TooManyCalls {
            problem: "too many calls by unknown callers come from this address".to_owned(),
            retry_after,
        })
    }

    /// Counts a call that is for everybody, which is open until the place is dropped.
    ///
    /// # Errors
    /// [`Fault::TooManyCalls`] where its address has too many open.
    pub(super) fn anybody(&self, peer: &Peer) -> Result<Open, Fault> {
        let address = peer.remote.map(|address| network(address.ip()).to_string());
        let key = format!("anybody at {}", address.unwrap_or_default());
        self.place(&key.into(), WATCHES, |count| {
            format!("this address has {count} calls of health open; expected at most {WATCHES}")
        })
    }

    /// A place among the open calls of a key, of which there are `most`; 0 for no limit.
    fn place(&self, key: &Arc<str>, most: u32, problem: impl FnOnce(u32) -> String) -> Result<Open, Fault> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(Arc::clone(key)).or_default();
        if most != 0 && *count >= most {
            return Err(Fault::TooManyCalls {
                problem: problem(*count),
                retry_after: RETRY_OPEN,
            });
        }
        *count += 1;
        Ok(Open {
            key: Arc::clone(key),
            all: Arc::clone(&self.open),
        })
    }

    /// Whether a denied call is recorded.
    pub(super) fn records_denial(&self, caller: &Caller) -> bool {
        let address = caller.peer.parse::<SocketAddr>().map(|peer| network(peer.ip()).to_string());
        let key = format!("{} {}", caller.principal, address.unwrap_or_default());
        self.denials.as_ref().is_none_or(|rate| rate.take(&key).is_ok())
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
            rate.take(principal).map_err(|retry_after| Fault::TooManyCalls {
                problem: format!(
                    "{principal} calls too often; expected at most {} calls a second",
                    self.limits.per_second
                ),
                retry_after,
            })?;
        }
        let most = if identity.known_by == KnownBy::Loopback {
            0
        } else {
            self.limits.open
        };
        self.place(&identity.counted_as, most, |count| {
            format!("{principal} has {count} calls and streams open; expected at most {most}")
        })
    }
}

/// A call that is open.
#[derive(Debug)]
pub(super) struct Open {
    key: Arc<str>,
    all: Arc<Mutex<HashMap<Arc<str>, u32>>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
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
        let caller = Caller {
            principal: principal.to_owned(),
            peer: String::new(),
        };
        let grant = Grant {
            role: Role::Viewer,
            scope: Scope::All,
            until: None,
        };
        Identity::new(caller, grant, known_by)
    }

    /// Keys at rest are forgotten, so that addresses that come once do not stay for ever.
    #[test]
    fn many_keys_are_forgotten() {
        let rate = Rate::new(1_000_000, 1).expect("a limit");
        for key in 0..4 * MANY_KEYS {
            assert!(rate.take(&key).is_ok());
        }
        // At rest after a microsecond: only those since keys were counted last are there.
        assert!(rate.limiter.len() <= MANY_KEYS + COUNTED, "{}", rate.limiter.len());
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
        let limits = CallLimits::default();
        let calls = Calls::new(limits);
        let peer = |text: &str| Peer::new(Some(text.parse().expect("an address")), None, None);
        for port in 1..=limits.strangers * STRANGERS_AT_ONCE {
            assert!(calls.stranger(&peer(&format!("10.0.0.1:{port}"))).is_ok());
        }
        assert!(matches!(calls.stranger(&peer("10.0.0.1:9")), Err(Fault::TooManyCalls { .. })));
        assert!(calls.stranger(&peer("10.0.0.2:9")).is_ok());
        let unlimited = Calls::new(CallLimits {
            strangers: 0,
            ..CallLimits::default()
        });
        assert!((0..1_000).all(|_| unlimited.stranger(&peer("10.0.0.1:9")).is_ok()));
    }

    #[test]
    fn what_is_for_everybody_is_counted_by_network() {
        let calls = Calls::new(CallLimits::default());
        let peer = |text: &str| Peer::new(Some(text.parse().expect("an address")), None, None);
        for (many, other) in [("[2001:db8::", "[2001:db8:0:1::1]:1"), ("[::ffff:10.0.0.1]:", "10.0.0.2:1")] {
            let addresses = (1..=WATCHES).map(|number| {
                let tail = if many.ends_with("::") {
                    format!("{number:x}]:1")
                } else {
                    number.to_string()
                };
                peer(&format!("{many}{tail}"))
            });
            let open: Vec<Open> = addresses.map(|peer| calls.anybody(&peer).expect("a place")).collect();
            let again = peer(&format!("{many}{}", if many.ends_with("::") { "ffff]:1" } else { "9" }));
            assert!(matches!(calls.anybody(&again), Err(Fault::TooManyCalls { .. })));
            assert!(calls.anybody(&peer(other)).is_ok());
            drop(open);
            assert!(calls.anybody(&again).is_ok());
        }
        assert!(calls.open.lock().expect("the lock").is_empty());
    }
}
