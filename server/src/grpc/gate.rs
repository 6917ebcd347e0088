//! The gate: what every call passes before it reaches a service, and what ends it afterwards. It does not know what methods do.
//!
//! ```text
//! policy row -> who calls -> limits -> role -> what the request is about -> audit record -> the service
//! ```
//!
//! Whatever does not pass is answered here, and has no effect. An answer that stays open ends when what its caller is known by ends: a
//! token that is revoked, or whose time is over. Called by tonic's transport, around the router.
//!
//! Deadlines. tonic's own layer sits outside of this one, covers a call only until its headers, and answers `CANCELLED`. So the gate
//! reads `grpc-timeout` itself and acts a little before tonic's timer does: a call that has not answered by then ends with
//! `DEADLINE_EXCEEDED`, and a stream finds the instant in its request and ends itself in the same way. Being early also gives the
//! answer, which may name the run, a chance to arrive before the client gives up by its own clock.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use dbkeep_engine::{Engine, EngineError, access::Role, model::Caller};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    MAX_REQUEST,
    answer::Held,
    calls::{Calls, Open, Work},
    policy::{self, METRICS, Row, Subject},
    recorded::{self, Asked, Recorded},
    status::Fault,
    stream::sleep_until,
    subject::{FRAME, Requests},
};
use crate::{
    access::{self, Access, Identity, Peer, Stranger},
    telemetry,
};

/// The time that a caller gives.
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Longest time by which a deadline is kept early.
const HEAD_START: Duration = Duration::from_millis(100);
/// Longest wait for a request that is read here, where the caller has no deadline.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// The instant at which a call must have ended.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

/// The deadline that the gate found in a call's headers.
pub(super) fn deadline_of<T>(request: &tonic::Request<T>) -> Option<Instant> {
    request.extensions().get::<Deadline>().map(|deadline| deadline.0)
}

/// What the gate judges by.
pub(super) struct Guard {
    pub(super) access: Access,
    pub(super) calls: Calls,
    pub(super) requests: Requests,
    pub(super) engine: Engine,
    /// Records that are being written; waited for when the server goes down.
    pub(super) records: TaskTracker,
}

impl Guard {
    /// Lets a call through, or not. That it was denied is on record then, or in the log where the record cannot be written.
    async fn pass(&self, row: &'static Row, request: Request<Body>) -> Result<(Request<Body>, Passed), Fault> {
        let peer = peer_of(&request);
        let identity = match self.access.identify(request.uri(), request.headers(), &peer).await {
            Ok(identity) => identity,
            Err(stranger) => {
                let principal = access::claimed(request.headers());
                // Whom nobody knows fills no log: over the limit of his address he is not recorded either.
                self.calls.stranger(&peer)?;
                let fault = match stranger {
                    Stranger::Refused(problem) => Fault::Unauthenticated { problem },
                    Stranger::Name(problem) => Fault::PrincipalRefused { problem },
                    Stranger::Unavailable(error) => return Err(Fault::Engine(EngineError::Store(error))),
                };
                let caller = Caller {
                    principal,
                    peer: peer.address().to_owned(),
                };
                // Boxed here and below: a call that is let through, and not recorded, brings no room for what it does not do.
                return Err(Box::pin(recorded::denied(self, row.method, &caller, fault, Asked::Unread)).await);
            }
        };
        let open = self.calls.begin(&identity)?;
        let Denial { fault, asked } = match self.allow(row, request, Arc::clone(&identity), open).await {
            Ok(passed) => return Ok(passed),
            Err(denial) => denial,
        };
        match fault {
            // That the store does not answer is no denial.
            Fault::Engine(EngineError::Store(_)) => Err(fault),
            Fault::RoleRefused { .. } | Fault::OutOfScope { .. } | Fault::Engine(_) => {
                Err(Box::pin(recorded::denied(self, row.method, &identity.caller, fault, asked)).await)
            }
            fault => Err(fault),
        }
    }

    async fn allow(
        &self,
        row: &'static Row,
        request: Request<Body>,
        identity: Arc<Identity>,
        open: Open,
    ) -> Result<(Request<Body>, Passed), Denial> {
        let asked = row.role.unwrap_or(Role::Viewer);
        let unread = |fault: Fault, request: Request<Body>| Denial {
            fault,
            asked: if has_one_message(row) {
                Asked::Coming(request.into_body())
            } else {
                Asked::Unread
            },
        };
        if !identity.grant.role.covers(asked) {
            let fault = Fault::RoleRefused {
                method: row.method,
                role: identity.grant.role.name(),
                asked: asked.name(),
            };
            return Err(unread(fault, request));
        }
        let scope = &identity.grant.scope;
        // Also of what has no message that could be read.
        if row.subject == Subject::House && !scope.is_all() {
            return Err(unread(Fault::OutOfScope { method: row.method }, request));
        }
        // As a whole, so that nobody takes a place among those who are worked for by sending nothing.
        let (mut request, body) = whole(row, request).await?;
        let place = self.calls.work()?;
        let mut recorded = None;
        if let Some(body) = body.filter(|_| row.audited || !scope.is_all()) {
            let target = match Box::pin(self.requests.target(row, &body, scope, &self.engine)).await {
                Ok(target) => target,
                Err(fault) => {
                    let asked = Asked::Read(body);
                    return Err(Denial { fault, asked });
                }
            };
            if row.audited {
                recorded = Some(Box::pin(recorded::begin(self, row, &identity, target, &body)).await?);
            }
        }
        request.extensions_mut().insert(Arc::clone(&identity));
        Ok((
            request,
            Passed {
                identity,
                open,
                place,
                recorded,
            },
        ))
    }
}

/// A call that was not let through, and what it asked for.
struct Denial {
    fault: Fault,
    asked: Asked,
}

impl From<Fault> for Denial {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            asked: Asked::Unread,
        }
    }
}

/// A call that was let through.
struct Passed {
    identity: Arc<Identity>,
    open: Open,
    /// Held until the answer begins.
    place: Work,
    /// `None` for what is not recorded.
    recorded: Option<Recorded>,
}

/// Refuses what no client of gRPC sends, and a browser does: a page that somebody looks at must not call in his name over loopback.
fn is_grpc(row: &Row, request: &Request<Body>) -> Result<(), Fault> {
    if row.method == METRICS {
        return Ok(());
    }
    let kind = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let is_grpc = kind.is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if request.version() == Version::HTTP_2 && request.method() == Method::POST && is_grpc {
        return Ok(());
    }
    Err(Fault::RequestBroken {
        problem: "is no call of gRPC; expected POST over HTTP/2 with content-type application/grpc",
    })
}

/// Whether a request is a message, rather than a stream of them or nothing of gRPC.
fn has_one_message(row: &Row) -> bool {
    row.rpc.is_some()
}

/// Reads a request as a whole, and puts it together again. `None` for one that is too long, which the service refuses without reading it,
/// and for a stream of requests.
async fn whole(row: &Row, request: Request<Body>) -> Result<(Request<Body>, Option<Bytes>), Fault> {
    if !has_one_message(row) {
        return Ok((request, None));
    }
    let (parts, body) = request.into_parts();
    let mut read = pin!(Limited::new(body, MAX_REQUEST + FRAME).collect());
    // Of most calls it is there already, and there is nothing to wait for.
    let read = match futures::poll!(read.as_mut()) {
        Poll::Ready(read) => Ok(read),
        Poll::Pending => tokio::time::timeout(REQUEST_TIME, read).await,
    };
    let read = match read {
        Ok(Ok(read)) => read.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Fault::RequestTooLong { limit: MAX_REQUEST }),
        Ok(Err(_)) => {
            return Err(Fault::RequestBroken {
                problem: "did not arrive as a whole",
            });
        }
        Err(_) => return Err(Fault::Deadline { run: None }),
    };
    Ok((Request::from_parts(parts, Body::new(Full::new(read.clone()))), Some(read)))
}

/// Where a call comes from.
fn peer_of(request: &Request<Body>) -> Arc<Peer> {
    request.extensions().get::<Arc<Peer>>().cloned().unwrap_or_default()
}

/// Who calls, as the gate found.
pub(super) fn identity_of<T>(request: &tonic::Request<T>) -> Option<&Identity> {
    request.extensions().get::<Arc<Identity>>().map(Arc::as_ref)
}

/// The caller that the gate found.
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Caller {
    identity_of(request).map_or_else(
        || Caller {
            principal: Caller::ANONYMOUS.to_owned(),
            peer: String::new(),
        },
        |identity| identity.caller.clone(),
    )
}

/// The targets that the caller sees: none where the gate has found nobody.
pub(super) fn scope_of<T>(request: &tonic::Request<T>) -> dbkeep_engine::access::Scope {
    identity_of(request).map_or_else(
        || dbkeep_engine::access::Scope::Targets(std::collections::BTreeSet::new()),
        |identity| identity.grant.scope.clone(),
    )
}

/// Puts the gate around the router.
#[derive(Clone)]
pub(super) struct GateLayer(pub(super) Arc<Guard>);

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            guard: Arc::clone(&self.0),
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let row = match policy::row(path) {
            Some(row) => row,
            None if policy::is_served(path) => {
                tracing::warn!(method = path, "refused: no policy row");
                let fault = Fault::MethodNotAllowed { method: path.to_owned() };
                let (guard, path) = (Arc::clone(&self.guard), path.to_owned());
                let peer = peer_of(&request);
                let principal = access::claimed(request.headers());
                return Box::pin(async move {
                    let fault = guard.calls.stranger(&peer).err().unwrap_or(fault);
                    let caller = Caller {
                        principal,
                        peer: peer.address().to_owned(),
                    };
                    let fault = recorded::denied(&guard, &path, &caller, fault, Asked::Unread).await;
                    Ok(Status::from(fault).into_http())
                });
            }
            // Not ours: the router says that there is no such thing.
            None => return Box::pin(self.inner.call(request)),
        };
        if row.role.is_none() {
            let peer = peer_of(&request);
            return match self.guard.calls.anybody(&peer) {
                Ok(open) => {
                    let answer = self.inner.call(request);
                    Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Held::new(body, None, open)))) })
                }
                Err(fault) => Box::pin(std::future::ready(Ok(refusal(row, fault)))),
            };
        }
        // The one that was polled to be ready is the one that is called.
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready);
        let guard = Arc::clone(&self.guard);
        let span = tracing::info_span!("call", otel.name = row.method, otel.kind = "server", rpc.system = "grpc");
        telemetry::follow(&span, request.headers());
        Box::pin(through(guard, row, inner, request).instrument(span))
    }
}

async fn through<S>(
    guard: Arc<Guard>,
    row: &'static Row,
    mut inner: S,
    mut request: Request<Body>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let deadline = timeout(request.headers()).and_then(|timeout| Instant::now().checked_add(early(timeout)));
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(Deadline(deadline));
    }
    let work = async move {
        if let Err(fault) = is_grpc(row, &request) {
            return Ok(refusal(row, fault));
        }
        match guard.pass(row, request).await {
            Ok((request, passed)) => {
                let answer = inner.call(request).await?;
                drop(passed.place);
                if let Some(recorded) = passed.recorded {
                    recorded.end(&answer);
                }
                // One answer that is there already is told, whatever has ended meanwhile; also that the caller has just ended it himself.
                let until = row.streams().then_some(passed.identity);
                Ok(answer.map(|body| Body::new(Held::new(body, until, passed.open))))
            }
            Err(fault) => Ok(refusal(row, fault)),
        }
    };
    tokio::select! {
        biased;
        answer = work => answer,
        () = sleep_until(deadline) => Ok(refusal(row, Fault::Deadline { run: None })),
    }
}

/// What is answered to a call that does not pass.
fn refusal(row: &Row, fault: Fault) -> Response<Body> {
    let status = Status::from(fault);
    if row.method != METRICS {
        return status.into_http();
    }
    // A scraper speaks plain HTTP.
    let code = match status.code() {
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = Response::new(Body::new(Full::new(Bytes::from(format!("{}\n", status.message())))));
    *answer.status_mut() = code;
    answer
}

/// The time after which the gate acts.
fn early(timeout: Duration) -> Duration {
    timeout - HEAD_START.min(timeout / 10)
}

/// The time that a caller gives, by the protocol: up to eight digits and a unit. What is malformed counts as absent, as in tonic.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&TIMEOUT)?.to_str().ok()?;
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
