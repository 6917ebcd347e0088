//! Repeating calls that failed because something was away for the moment.
//!
//! Owns the policy, the backoff and the loop around one call. Only UNAVAILABLE is repeated, and only because every call of
//! dbkeep is safe to repeat: reads change nothing, PlanCleanup changes no row, CancelRun is idempotent, and the calls that
//! start or steer a run, or create a schedule, carry a request id that is the same in every repetition. The exceptions are sent
//! [`once`]: the two calls that change the ledger of migrations, DeleteSchedule, and RunSchedule. Called by the service files for unary calls and by
//! `watch.rs` for the opening of streams.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Response, Status};
use uuid::Uuid;

use crate::{connect::Client, error::Error};

/// How a call is repeated on UNAVAILABLE.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a call is sent at most, the first time included; 4 by default.
    pub max_attempts: u32,
    /// Pause after the first failure; 200 ms by default. It doubles with every further one.
    pub initial_backoff: Duration,
    /// Longest pause, unless the server asks for a longer one; 5 s by default.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 4,
            initial_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// Sends every call once.
    #[must_use]
    pub fn never() -> Self {
        Self {
            max_attempts: 1,
            ..Self::default()
        }
    }

    /// Sets how often a call is sent at most; 0 counts as 1.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }
}

/// Exponential pauses of which the upper half is random, so that clients that failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self {
            next: initial.min(max),
            max,
        }
    }

    /// The next pause; at least as long as the server asked for.
    pub(crate) fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let half = self.next / 2;
        self.next = self.next.saturating_mul(2).min(self.max);
        retry_after.unwrap_or_default().max(half).saturating_add(random_part(half))
    }
}

/// A random duration from 0 to `limit`. The random half of a version 4 UUID spares a dependency for one number.
fn random_part(limit: Duration) -> Duration {
    let (_, low) = Uuid::new_v4().as_u64_pair();
    let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(low % (nanos + 1))
}

/// Makes up a request id: unique, and sortable by the time at which it was made.
pub(crate) fn request_id() -> String {
    Uuid::now_v7().to_string()
}

/// Sends a unary call, and again while it is worth it. `timeout` covers everything: attempts and pauses.
pub(crate) async fn unary<M, T, F, Fut>(client: &Client, timeout: Duration, message: M, send: F) -> Result<T, Error>
where
    M: Clone,
    F: Fn(tonic::Request<M>) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    sent(client, client.retry(), timeout, message, send).await
}

/// Sends a unary call once, whatever becomes of it: one that means the next of something would mean another if it were repeated.
pub(crate) async fn once<M, T, F, Fut>(client: &Client, timeout: Duration, message: M, send: F) -> Result<T, Error>
where
    M: Clone,
    F: Fn(tonic::Request<M>) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    sent(client, &RetryPolicy::never(), timeout, message, send).await
}

async fn sent<M, T, F, Fut>(client: &Client, policy: &RetryPolicy, timeout: Duration, message: M, send: F) -> Result<T, Error>
where
    M: Clone,
    F: Fn(tonic::Request<M>) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + timeout;
    attempts(policy, deadline, || {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let sent = send(client.prepare(message.clone(), Some(remaining)));
        async move {
            match timeout_at(deadline, sent).await {
                Ok(answer) => answer.map(Response::into_inner).map_err(Error::from),
                Err(_) => {
                    let message = format!("no answer within the call's {} s", timeout.as_secs_f64());
                    Err(Error::Deadline { run: None, message })
                }
            }
        }
    })
    .await
}

/// Repeats `attempt` on UNAVAILABLE as the policy says, with no pause that would reach beyond `deadline`.
pub(crate) async fn attempts<T, F, Fut>(policy: &RetryPolicy, deadline: Instant, mut attempt: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut backoff = Backoff::new(policy.initial_backoff, policy.max_backoff);
    let mut sent = 0;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        sent += 1;
        if sent >= policy.max_attempts || !error.is_unavailable() {
            return Err(error);
        }
        let pause = backoff.pause(error.retry_after());
        // Better the reason why the server is away than a deadline that hides it.
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        tracing::debug!(attempt = sent, pause_ms = pause.as_millis(), %error, "call failed, sending it again");
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn away(retry_after: Option<Duration>) -> Error {
        Error::StoreUnavailable {
            retry_after,
            message: "away".to_owned(),
        }
    }

    async fn count(policy: &RetryPolicy, deadline: Duration, error: impl Fn() -> Error) -> (u32, Duration) {
        let start = Instant::now();
        let sent = Cell::new(0);
        let result: Result<(), Error> = attempts(policy, start + deadline, || {
            sent.set(sent.get() + 1);
            let error = error();
            async { Err(error) }
        })
        .await;
        assert!(result.is_err());
        (sent.get(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn unavailable_is_repeated_as_often_as_the_policy_says() {
        let policy = RetryPolicy::default();
        let (sent, took) = count(&policy, Duration::from_secs(60), || away(None)).await;
        assert_eq!(sent, 4);
        // Pauses of 200, 400 and 800 ms, of which the upper halves are random.
        assert!(
            took >= Duration::from_millis(700) && took <= Duration::from_millis(1410),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_retry_info_is_honoured() {
        let policy = RetryPolicy::default().with_max_attempts(2);
        let (sent, took) = count(&policy, Duration::from_secs(60), || away(Some(Duration::from_secs(7)))).await;
        assert_eq!(sent, 2);
        assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(8), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_pause_reaches_beyond_the_deadline() {
        let policy = RetryPolicy::default();
        let (sent, took) = count(&policy, Duration::from_secs(5), || away(Some(Duration::from_secs(7)))).await;
        assert_eq!((sent, took), (1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_not_repeated() {
        let policy = RetryPolicy::default();
        let refused = || Error::PlanRequired {
            operation: String::new(),
            severity: String::new(),
            message: String::new(),
        };
        assert_eq!(count(&policy, Duration::from_secs(60), refused).await.0, 1);
        assert_eq!(
            count(&RetryPolicy::never(), Duration::from_secs(60), || away(None)).await.0,
            1
        );
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_stay_in_their_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for expected in [100, 200, 400, 400] {
            let pause = backoff.pause(None);
            let expected = Duration::from_millis(expected);
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} for {expected:?}");
        }
    }
}
