//! The supervisor: takes up runs that nobody works on, each in a task of its own, and brings them to a boundary at shutdown.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::attempt::{Aftermath, carry_out};
use crate::engine::Context;

/// First wait before a lost target is tried again; doubled up to [`LAST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait between two tries.
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// Targets that were out of reach, and when they are tried again.
#[derive(Default)]
struct Backoffs(Mutex<HashMap<String, (Instant, Duration)>>);

impl Backoffs {
    fn waiting(&self) -> Vec<String> {
        let now = Instant::now();
        let backoffs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        backoffs
            .iter()
            .filter(|(_, (until, _))| *until > now)
            .map(|(target, _)| target.clone())
            .collect()
    }

    fn note(&self, target: &str, aftermath: Aftermath) {
        let mut backoffs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match aftermath {
            Aftermath::Settled => drop(backoffs.remove(target)),
            Aftermath::TargetLost => {
                let wait = backoffs
                    .get(target)
                    .map_or(FIRST_BACKOFF, |(_, wait)| (*wait * 2).min(LAST_BACKOFF));
                backoffs.insert(target.to_owned(), (Instant::now() + wait, wait));
            }
        }
    }
}

/// Runs until its token is cancelled and every attempt has reached a boundary.
pub struct Supervisor {
    context: Arc<Context>,
    backoffs: Arc<Backoffs>,
}

impl Supervisor {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            backoffs: Arc::default(),
        }
    }

    /// Takes up runs until `shutdown`; returns when all of them are handed back.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut attempts = JoinSet::new();
        while !shutdown.is_cancelled() {
            self.context.expire_approvals().await;
            // Asked before the runs are: one whose lease lapses in between is claimed, and one whose lease lapses later is waited for.
            let patience = self.patience().await;
            while attempts.len() < self.context.settings.concurrent_runs && self.take_up(&mut attempts, &shutdown).await {}
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.context.wake.notified() => {}
                () = tokio::time::sleep(patience) => {}
                Some(ended) = attempts.join_next() => report_panic(ended),
            }
        }
        while let Some(ended) = attempts.join_next().await {
            report_panic(ended);
        }
    }

    /// How long to wait until the store is asked again: until a lease lapses, so that the runs of a server that died go on as soon as
    /// they may.
    async fn patience(&self) -> Duration {
        let interval = self.context.settings.claim_interval;
        match self.context.store.next_lapse().await {
            Ok(left) => left.map_or(interval, |left| left.min(interval)),
            Err(error) => {
                tracing::warn!(%error, "when a lease lapses is not known");
                interval
            }
        }
    }

    /// Claims one run and starts an attempt; false where there is none.
    async fn take_up(&self, attempts: &mut JoinSet<()>, shutdown: &CancellationToken) -> bool {
        let granted = Instant::now();
        let settings = &self.context.settings;
        let grant = match self
            .context
            .store
            .claim(&settings.holder, settings.lease_term, &self.backoffs.waiting())
            .await
        {
            Ok(Some(grant)) => grant,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, "no run could be claimed");
                return false;
            }
        };
        self.context.feeds.announce(grant.run.id, grant.run.last_sequence);
        let (context, backoffs, shutdown) = (Arc::clone(&self.context), Arc::clone(&self.backoffs), shutdown.clone());
        attempts.spawn(async move {
            let target = grant.run.target.clone();
            let aftermath = carry_out(context, grant, granted, shutdown).await;
            backoffs.note(&target, aftermath);
        });
        true
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an attempt panicked; its run goes on when its lease lapses");
    }
}
