//! The gate: what every call passes before it reaches a service. It looks the method up in the policy, asks who calls, and keeps the
//! caller's deadline; it does not know what methods do. Called by tonic's transport, around the router.
//!
//! Deadlines. tonic's own layer sits outside of this one, covers a call only until its headers, and answers `CANCELLED`. So the gate
//! reads `grpc-timeout` itself and acts a little before tonic's timer does: a call that has not answered by then ends with
//! `DEADLINE_EXCEEDED`, and a stream finds the instant in its request and ends itself in the same way. Being early also gives the
//! answer, which may name the run, a chance to arrive before the client gives up by its own clock.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{policy, principal, status::Fault, stream::sleep_until};

/// Longest time by which a deadline is kept early.
const HEAD_START: Duration = Duration::from_millis(100);

/// The instant at which a call must have ended.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

/// The deadline that the gate found in a call's headers.
pub(super) fn deadline_of<T>(request: &tonic::Request<T>) -> Option<Instant> {
    request.extensions().get::<Deadline>().map(|deadline| deadline.0)
}

/// Puts the gate around the router.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateLayer;

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner }
    }
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub(super) struct Gate<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if policy::row(path).is_none() && policy::is_served(path) {
            tracing::warn!(method = path, "refused: no policy row");
            let refusal = Status::from(Fault::MethodNotAllowed { method: path.to_owned() });
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        }
        match principal::identify(request.headers(), request.extensions()) {
            Ok(caller) => drop(request.extensions_mut().insert(caller)),
            Err(fault) => return Box::pin(std::future::ready(Ok(Status::from(fault).into_http()))),
        }
        let deadline = timeout(request.headers()).and_then(|timeout| Instant::now().checked_add(early(timeout)));
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = answer => answer,
                () = sleep_until(deadline) => Ok(Status::from(Fault::Deadline { run: None }).into_http()),
            }
        })
    }
}

/// The time after which the gate acts.
fn early(timeout: Duration) -> Duration {
    timeout - HEAD_START.min(timeout / 10)
}

/// The time that a caller gives, by the protocol: up to eight digits and a unit. What is malformed counts as absent, as in tonic.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header value"));
            timeout(&headers)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for malformed in ["", "S", "5", "5s", "+5S", "999999999S", "5 S"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn the_head_start_is_small() {
        assert_eq!(early(Duration::from_secs(10)), Duration::from_millis(9_900));
        assert_eq!(early(Duration::from_millis(10)), Duration::from_millis(9));
        assert_eq!(early(Duration::ZERO), Duration::ZERO);
    }
}
