//! Acts on whole tables inside an attempt: watched, cancelled at once, and told of a few times a second.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Halt};
use crate::{
    model::MaintenanceProgress,
    port::{ArchiveError, MaintenanceError, Target, TargetErrorClass, Watch},
};

/// Least time between two progress events.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// How long an act may take to end after it was told to. It does so at once, unless it is just committing.
const GRACE: Duration = Duration::from_secs(60);

impl From<MaintenanceError> for Halt {
    fn from(error: MaintenanceError) -> Self {
        match error {
            MaintenanceError::Target(error) => Self::Target(error),
            other => Self::Fail(other.to_string()),
        }
    }
}

/// How an act ended.
pub(super) enum Acted<T> {
    /// By itself.
    Ended(Result<T, MaintenanceError>),
    /// The time for it was over; nothing of it is left.
    OutOfTime,
}

/// Carries an act out for as long as the lease lasts.
pub(super) async fn act<T>(
    attempt: &mut Attempt,
    begin: impl FnOnce(Arc<dyn Target>, Watch) -> BoxFuture<'static, Result<T, MaintenanceError>>,
) -> Result<T, Halt> {
    match act_within(attempt, None, begin).await? {
        Acted::Ended(result) => Ok(result?),
        // Without a limit there is no such end.
        Acted::OutOfTime => Err(Halt::Fail("its time was over".to_owned())),
    }
}

/// The same within a time. A failure of the act is the caller's to judge.
pub(super) async fn act_within<T>(
    attempt: &mut Attempt,
    limit: Option<Duration>,
    begin: impl FnOnce(Arc<dyn Target>, Watch) -> BoxFuture<'static, Result<T, MaintenanceError>>,
) -> Result<Acted<T>, Halt> {
    let (progress, mut told) = watch::channel(MaintenanceProgress::default());
    let stop = CancellationToken::new();
    let watching = Watch {
        progress,
        stop: stop.clone(),
    };
    let mut acting = begin(Arc::clone(&attempt.target), watching);
    let over = limit.map(|limit| Instant::now() + limit);
    let mut next = Instant::now();
    loop {
        let due = async {
            // Word comes often; it is passed on at its own pace.
            if told.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(next).await;
        };
        let end = async {
            match over {
                Some(over) => tokio::time::sleep_until(over).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = &mut acting => return Ok(Acted::Ended(result)),
            stopped = attempt.lease.stopped() => {
                stop.cancel();
                // Its processes and statements are to be gone before the run says so. One that does not end is dropped, which
                // ends it too, only less gently.
                return match tokio::time::timeout(GRACE, &mut acting).await {
                    // It came to its end first: a commit that was on its way is not taken back by a wish.
                    Ok(Ok(done)) => Ok(Acted::Ended(Ok(done))),
                    // Whether it took effect is unknown, so that nobody may say that it was stopped.
                    Ok(Err(MaintenanceError::Target(error))) if error.class == TargetErrorClass::Lost => {
                        Ok(Acted::Ended(Err(MaintenanceError::Target(error))))
                    }
                    _ => Err(Halt::Stop(stopped)),
                };
            }
            () = end => {
                stop.cancel();
                return Ok(match tokio::time::timeout(GRACE, &mut acting).await {
                    Ok(Ok(done)) => Acted::Ended(Ok(done)),
                    _ => Acted::OutOfTime,
                });
            }
            () = due => {
                next = Instant::now() + TELL_INTERVAL;
                let word = told.borrow_and_update().clone();
                attempt.ledger.maintenance(word).await?;
            }
        }
    }
}

/// Blocks on the disk where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, Halt> {
    Ok(tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Halt::Fail(error.to_string()))??)
}
