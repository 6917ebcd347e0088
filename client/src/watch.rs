//! Following a run through broken connections: [`RunStream`].
//!
//! Owns what callers see: the stream, its policy, and word of the connection. What happens behind it (order, reconnecting,
//! the end) is `watch/follower.rs`. Does not own the run: that is the server's, and dropping a stream stops nothing. Made by
//! `cleanup.rs` (RunCleanup), `runs.rs` (WatchRun, UndoRun), `backups.rs` (VerifyBackup, CreateBackup, RestoreBackup),
//! `migrations.rs` (TestMigration, ApplyMigrations, RollbackMigrations) and `schedules.rs` (RunSchedule).

mod follower;

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use dbkeep_proto::v1::{Run, RunEvent, RunState};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use tokio::sync::watch;

pub(crate) use self::follower::Opening;
use self::follower::{Follower, Step};
use crate::{connect::Client, error::Error};

/// Whether a run in this state has ended. INTERRUPTED has not: the run will go on.
#[must_use]
pub fn is_final(state: RunState) -> bool {
    match state {
        RunState::Cancelled | RunState::Succeeded | RunState::PartiallySucceeded | RunState::Failed => true,
        RunState::Unspecified
        | RunState::Queued
        | RunState::Running
        | RunState::Pausing
        | RunState::Paused
        | RunState::Cancelling
        | RunState::Interrupted => false,
    }
}

/// How a [`RunStream`] comes back after a broken connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectPolicy {
    /// Time without any event after which the stream gives up with [`Error::LostContact`]; 5 minutes by default. It counts
    /// from the break, so that a run which is silent over a healthy connection is never given up.
    pub give_up_after: Duration,
    /// Pause before the first attempt; 200 ms by default. It doubles with every further one.
    pub initial_backoff: Duration,
    /// Longest pause, unless the server asks for a longer one; 10 s by default.
    pub max_backoff: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            give_up_after: Duration::from_secs(300),
            initial_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(10),
        }
    }
}

impl ReconnectPolicy {
    /// Ends the stream with the first break.
    #[must_use]
    pub fn never() -> Self {
        Self::give_up_after(Duration::ZERO)
    }

    /// Gives up after this time without contact.
    #[must_use]
    pub fn give_up_after(time: Duration) -> Self {
        Self {
            give_up_after: time,
            ..Self::default()
        }
    }
}

/// Whether a [`RunStream`] has the server at the moment, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// The stream is open.
    Open,
    /// The stream broke and is being opened again.
    Lost {
        /// What broke it, or what the newest attempt ran into.
        problem: String,
        /// Pause before the next attempt.
        retry_in: Duration,
    },
}

/// The events of a run, in order, without gap or repeat, until it ends.
///
/// Ends after the [`StateChanged`](dbkeep_proto::v1::StateChanged) into a final state, or after its first error. Waiting for
/// the next event is cancel safe. Dropping the stream does not stop the run.
///
/// A [`HistoryLost`](dbkeep_proto::v1::HistoryLost) event says that the server no longer keeps the events up to
/// `first_available_sequence`; the stream goes on from there.
#[must_use = "a stream follows the run only while it is polled"]
pub struct RunStream {
    /// Absent while `waiting` holds it, and after the end.
    follower: Option<Box<Follower>>,
    waiting: Option<BoxFuture<'static, Step>>,
    client: Client,
    run_id: Option<String>,
    last_sequence: u64,
    connection: watch::Receiver<Connection>,
}

impl RunStream {
    /// Opens the stream, repeating on UNAVAILABLE as the client's retry policy says.
    pub(crate) async fn open(client: Client, opening: Opening) -> Result<Self, Error> {
        let (sender, connection) = watch::channel(Connection::Open);
        let follower = Follower::begin(client.clone(), opening, sender).await?;
        Ok(Self {
            run_id: follower.run_id.clone(),
            last_sequence: follower.last_sequence,
            follower: Some(Box::new(follower)),
            waiting: None,
            client,
            connection,
        })
    }

    /// Id of the run: known from the first event on, and from the start where the run is only watched.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// Sequence of the last event that was delivered; 0 before the first.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Tells when the connection is lost and when it is back, while the stream is polled.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Follows the run to its end and returns it with its report. Works before, during and after reading the events.
    ///
    /// # Errors
    /// Those of the stream, and those of GetRun.
    pub async fn finish(mut self) -> Result<Run, Error> {
        while let Some(event) = self.next().await {
            event?;
        }
        let Some(run_id) = self.run_id else {
            return Err(Error::Incomplete {
                missing: "RunEvent.run_id",
            });
        };
        self.client.runs().get(run_id).await
    }
}

impl std::fmt::Debug for RunStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RunStream")
            .field("run_id", &self.run_id)
            .field("last_sequence", &self.last_sequence)
            .finish_non_exhaustive()
    }
}

impl Stream for RunStream {
    type Item = Result<RunEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(follower) = this.follower.take() {
            this.waiting = Some(follower.into_next().boxed());
        }
        let Some(waiting) = this.waiting.as_mut() else {
            return Poll::Ready(None);
        };
        let (follower, item) = std::task::ready!(waiting.poll_unpin(context));
        this.waiting = None;
        this.run_id.clone_from(&follower.run_id);
        this.last_sequence = follower.last_sequence;
        if !follower.ended {
            this.follower = Some(follower);
        }
        Poll::Ready(item)
    }
}
