//! The tokens that a server knows: read from the control store, kept for a moment, read again.
//!
//! A token that is revoked through this server opens nothing from then on; one that was revoked through another, within [`FRESH`] of the
//! next call. Whoever holds a call open by a token is told through its [`Admitted::ended`], within [`LOOK`] of the revocation. Where the
//! store does not answer, what was read last is good for [`STALE`]; after that nobody is let in, and what is open by a token ends: it may have been
//! revoked meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Grant, Presented, TokenId, TokenProblem, TokenRecord};
use crate::port::{Store, StoreError};

/// How long what was read is taken without a question.
const FRESH: Duration = Duration::from_secs(1);
/// How long it is taken where the store does not answer.
const STALE: Duration = Duration::from_secs(10);
/// How long a store is waited for while what was read before will do.
const SOON: Duration = Duration::from_secs(1);
/// How often revocations are looked for where nobody calls.
const LOOK: Duration = Duration::from_secs(2);

/// Who is let in by a token. The same one for every call by it, for as long as nothing about the token changes.
#[derive(Debug)]
pub struct Admitted {
    /// Which token.
    pub id: TokenId,
    /// The principal: the token's name.
    pub principal: String,
    /// What it grants.
    pub grant: Grant,
    /// Cancelled when the token is revoked, or when it is not known any more whether it is.
    pub ended: CancellationToken,
}

/// Why a token opens nothing.
#[derive(Debug)]
pub enum Refusal {
    /// There is none of that id.
    Unknown,
    /// It is not good.
    Problem(TokenProblem),
    /// Whether it is good is not known.
    Unavailable(StoreError),
}

struct Entry {
    record: TokenRecord,
    admitted: Arc<Admitted>,
}

impl Entry {
    fn new(record: TokenRecord, ended: CancellationToken) -> Self {
        let admitted = Admitted {
            id: record.id,
            principal: record.name.clone(),
            grant: record.grant(),
            ended,
        };
        Self {
            record,
            admitted: Arc::new(admitted),
        }
    }
}

struct Known {
    read_at: Option<Instant>,
    /// When the newest try failed, and with what.
    failed_at: Option<(Instant, String)>,
    tokens: HashMap<TokenId, Entry>,
}

impl Known {
    fn age(&self) -> Option<Duration> {
        self.read_at.map(|at| at.elapsed())
    }

    fn admit(&self, presented: &Presented, now: Timestamp) -> Result<Arc<Admitted>, Refusal> {
        let entry = self.tokens.get(&presented.id).ok_or(Refusal::Unknown)?;
        entry.record.check(presented, now).map_err(Refusal::Problem)?;
        Ok(Arc::clone(&entry.admitted))
    }
}

/// The tokens that a server knows.
pub struct Keyring {
    store: Arc<dyn Store>,
    known: RwLock<Known>,
    /// One reads, the others wait for what it reads.
    reading: Mutex<()>,
}

impl Keyring {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            known: RwLock::new(Known {
                read_at: None,
                failed_at: None,
                tokens: HashMap::new(),
            }),
            reading: Mutex::default(),
        }
    }

    /// Lets the owner of a token in.
    ///
    /// # Errors
    /// Where the token opens nothing, or the store cannot say.
    pub async fn admit(&self, presented: &Presented, now: Timestamp) -> Result<Arc<Admitted>, Refusal> {
        {
            // Nearly every call finds what was read before it, under one lock.
            let known = self.known();
            if known.age().is_some_and(|age| age < FRESH) {
                return known.admit(presented, now);
            }
        }
        self.refresh(FRESH).await.map_err(Refusal::Unavailable)?;
        self.known().admit(presented, now)
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for revocations until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            // Before the first call there is nobody to tell.
            if self.age().is_none() {
                continue;
            }
            // A store that is gone may not even refuse.
            match timeout(LOOK, self.refresh(Duration::ZERO)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "tokens cannot be read; nobody is let in by one until they can"),
                Err(_) => tracing::warn!("tokens cannot be read in time; nobody is let in by one until they can"),
            }
            if self.age().is_some_and(|age| age >= STALE) {
                self.end_all();
            }
        }
    }

    /// Ends what is open by any token. Whoever is let in later is not concerned.
    fn end_all(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for entry in known.tokens.values_mut() {
            entry.admitted.ended.cancel();
            *entry = Entry::new(entry.record.clone(), CancellationToken::new());
        }
    }

    /// Reads the tokens now, so that what this server has just changed takes effect.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let _reading = self.reading.lock().await;
        let begun = Instant::now();
        let tokens = self.store.tokens().await?;
        self.take(tokens, begun);
        Ok(())
    }

    fn age(&self) -> Option<Duration> {
        self.known().age()
    }

    async fn refresh(&self, good_for: Duration) -> Result<(), StoreError> {
        let is_good = |age: Option<Duration>| age.is_some_and(|age| age < good_for);
        if is_good(self.age()) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if is_good(self.age()) {
            return Ok(());
        }
        let begun = Instant::now();
        let is_usable = self.age().is_some_and(|age| age < STALE);
        // Whoever waits behind this reading must not wait for each of those before him.
        let read = match (is_usable, self.failed()) {
            (true, Some(_)) => return Ok(()),
            (false, Some(error)) => return Err(StoreError::Unavailable(error)),
            (true, None) => timeout(SOON, self.store.tokens())
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("it did not answer soon".to_owned()))),
            (false, None) => self.store.tokens().await,
        };
        match read {
            Ok(tokens) => {
                self.take(tokens, begun);
                Ok(())
            }
            Err(error) => {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.failed_at = Some((Instant::now(), error.to_string()));
                drop(known);
                if is_usable {
                    tracing::debug!(%error, "tokens could not be read; what was read before is still taken");
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    /// What the newest try has failed with, where that is not long ago.
    fn failed(&self) -> Option<String> {
        let known = self.known();
        let (at, error) = known.failed_at.as_ref()?;
        (at.elapsed() < FRESH).then(|| error.clone())
    }

    fn take(&self, tokens: Vec<TokenRecord>, read_at: Instant) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut known.tokens);
        for record in tokens {
            let entry = match before.remove(&record.id) {
                Some(entry) if entry.record == record => entry,
                Some(entry) => Entry::new(record, entry.admitted.ended.clone()),
                None => Entry::new(record, CancellationToken::new()),
            };
            if entry.record.revoked_at.is_some() {
                entry.admitted.ended.cancel();
            }
            known.tokens.insert(entry.record.id, entry);
        }
        // Rows are never removed; one that is gone all the same opens nothing, and holds nothing open.
        for entry in before.into_values() {
            entry.admitted.ended.cancel();
        }
        known.read_at = Some(read_at);
        known.failed_at = None;
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keyring").finish_non_exhaustive()
    }
}
