//! Event streams: every long call shows a run's log through here.
//!
//! A stream ends with the run's last event, with the caller's deadline, or with the server; and it holds one of a fixed number of
//! places, since an open stream costs memory for as long as the client pleases. Dropping a stream never touches its run.

use std::{pin::Pin, sync::Arc};

use dbkeep_engine::{Engine, model::RunId, run::WatchItem};
use dbkeep_proto::v1::RunEvent;
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::{convert, recorded::Outcome, status::Fault};

/// The stream of a streaming response.
pub(super) type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The places for open streams, and the token that ends them all.
#[derive(Clone)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    limit: usize,
    shutdown: CancellationToken,
}

impl Streams {
    /// At most `limit` streams at a time, until `shutdown`.
    pub(super) fn new(limit: usize, shutdown: CancellationToken) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(limit)),
            limit,
            shutdown,
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Fault::TooManyStreams`].
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Fault::TooManyStreams { limit: self.limit })
    }

    /// The token that ends every stream.
    pub(super) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Follows a run's log after a sequence.
    ///
    /// # Errors
    /// Those of [`Engine::watch`].
    pub(super) async fn follow(
        &self,
        engine: &Engine,
        id: String,
        after: u64,
        place: OwnedSemaphorePermit,
        deadline: Option<Instant>,
    ) -> Result<Events, Fault> {
        let (engine, shutdown) = (engine.clone(), self.shutdown.clone());
        let (run, items) = super::detached(async move {
            let run = engine.run(&id).await?.id;
            Ok((run, engine.watch(&id, after, shutdown).await?))
        })
        .await?;
        Ok(Events {
            run,
            items: Box::pin(items),
            place,
            deadline,
        })
    }
}

/// A run's events before they are wrapped in the response of a method.
pub(super) struct Events {
    run: RunId,
    items: Pin<Box<dyn Stream<Item = Result<WatchItem, dbkeep_engine::EngineError>> + Send>>,
    place: OwnedSemaphorePermit,
    deadline: Option<Instant>,
}

impl Events {
    /// The answer of a method whose responses are made by `wrap`; the record of the call gets the run.
    pub(super) fn answer<T: Send + 'static>(self, wrap: fn(RunEvent) -> T) -> Response<EventStream<T>> {
        let outcome = self.outcome();
        let mut answer = Response::new(self.wrap(wrap));
        answer.extensions_mut().insert(outcome);
        answer
    }

    /// What the record of the call says.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome(format!("run {}", self.run))
    }

    /// The stream of a method whose response is made by `wrap`.
    pub(super) fn wrap<T: Send + 'static>(self, wrap: fn(RunEvent) -> T) -> EventStream<T> {
        let Self {
            run,
            mut items,
            place,
            deadline,
        } = self;
        Box::pin(async_stream::stream! {
            // Given back when the stream is dropped, however it ends.
            let _place = place;
            let deadline = sleep_until(deadline);
            tokio::pin!(deadline);
            loop {
                let item = tokio::select! {
                    biased;
                    () = &mut deadline => Err(Fault::Deadline { run: Some(run) }),
                    item = items.next() => match item {
                        Some(item) => item.map_err(Fault::from),
                        None => break,
                    },
                };
                let failed = item.is_err();
                yield item.map(|item| wrap(convert::event::item(run, item))).map_err(Status::from);
                if failed {
                    break;
                }
            }
        })
    }
}

/// Ends at the instant; never where there is none.
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
