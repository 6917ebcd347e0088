//! An answer while it is open: it holds its caller's place, and ends with `UNAUTHENTICATED` when what the caller is known by ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use jiff::Timestamp;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body};

use super::{calls::Open, status::Fault};
use crate::access::Identity;

/// The longest that tokio's timer takes; a token without an end needs none.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The body of an answer.
pub(super) struct Held {
    /// `None` once it has ended.
    inner: Option<Body>,
    /// What ends it early; `None` for an answer that is there already.
    limit: Option<Limit>,
    _open: Open,
}

struct Limit {
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    expired: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Held {
    /// `until` is whom the answer is for, as long as he may see it; `None` for one that is there as a whole.
    pub(super) fn new(inner: Body, until: Option<Arc<Identity>>, open: Open) -> Self {
        // What is empty, as every refusal, has nothing left to see.
        let until = until.filter(|_| !inner.is_end_stream());
        let limit = until.map(|identity| Limit {
            revoked: Box::pin(identity.ended.clone().cancelled_owned()),
            expired: identity.grant.until.map(|until| {
                let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
                Box::pin(tokio::time::sleep(left.min(LONGEST)))
            }),
        });
        Self {
            inner: Some(inner),
            limit,
            _open: open,
        }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let over = this.limit.as_mut().and_then(|limit| {
            let revoked = limit.revoked.as_mut().poll(context).is_ready();
            let expired = limit
                .expired
                .as_mut()
                .is_some_and(|timer| timer.as_mut().poll(context).is_ready());
            match (revoked, expired) {
                (true, _) => Some("the token was revoked, or nobody knows any more whether it was"),
                (false, true) => Some("the time of the token is over"),
                (false, false) => None,
            }
        });
        if let Some(problem) = over {
            // The service's stream is dropped with it.
            this.inner = None;
            let mut trailers = HeaderMap::new();
            return match Status::from(Fault::Unauthenticated { problem }).add_header(&mut trailers) {
                Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Err(status) => Poll::Ready(Some(Err(status))),
            };
        }
        let frame = Pin::new(inner).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            this.inner = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
