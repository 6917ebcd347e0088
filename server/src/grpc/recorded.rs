//! Records of calls in the audit log: that one begins, before it takes effect; how it ended; and that it was denied. Called by the gate.
//!
//! A call that is denied has its digest as well, where its caller is known: what comes of its request is read for that, for a moment and to a bound.
//!
//! A call that begins has to have its record on the disk first: without one it is refused. How it ended is written behind the answer, also
//! where nobody waits for it any more. What a run does stands in a record of its own, when it ends.

use std::time::Duration;

use bytes::Bytes;
use dbkeep_engine::{
    Engine,
    audit::{Digest, Phase, Subject},
    model::Caller,
};
use http::Response;
use http_body_util::{BodyExt as _, Limited};
use sha2::{Digest as _, Sha256};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, body::Body};
use uuid::Uuid;

use super::{MAX_REQUEST, gate::Guard, policy::Row, status::Fault, subject::FRAME};
use crate::access::Identity;

/// How often it is tried to write the end of a call.
const TRIES: u32 = 3;
/// Pause before the second try; before the third it is twice as long.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest wait for a request that is only read for its digest.
const REQUEST_TIME: Duration = Duration::from_secs(1);

/// What a call that is denied asked for.
pub(super) enum Asked {
    /// Its request is not read: nobody knows the caller, or there is no one message.
    Unread,
    /// Its request.
    Read(Bytes),
    /// Its request has not been read yet.
    Coming(Body),
}

impl Asked {
    /// Its digest; [`Digest::GENESIS`], which is that of nothing, where it is not there as a whole.
    async fn digest(self) -> Digest {
        let body = match self {
            Self::Unread => return Digest::GENESIS,
            Self::Read(body) => body,
            Self::Coming(body) => {
                let read = Limited::new(body, MAX_REQUEST + FRAME).collect();
                match tokio::time::timeout(REQUEST_TIME, read).await {
                    Ok(Ok(body)) => body.to_bytes(),
                    Ok(Err(_)) | Err(_) => return Digest::GENESIS,
                }
            }
        };
        digest(&body)
    }
}

fn digest(body: &[u8]) -> Digest {
    Digest(Sha256::digest(body).into())
}

/// What came of a call, for the record: the service puts it into its answer.
#[derive(Debug, Clone)]
pub(super) struct Outcome(pub(super) String);

/// A call that has begun. Dropped before its end, it was given up.
pub(super) struct Recorded {
    engine: Engine,
    records: TaskTracker,
    /// `None` once its end was told.
    begun: Option<Subject>,
}

fn subject(row_method: &str, caller: &Caller, target: String) -> Subject {
    Subject {
        principal: caller.principal.clone(),
        peer: caller.peer.clone(),
        method: row_method.trim_start_matches('/').to_owned(),
        target,
        ..Subject::of(Uuid::now_v7())
    }
}

/// Writes that a call begins. It must not take effect before this returns.
///
/// # Errors
/// [`Fault::AuditUnavailable`].
pub(super) async fn begin(guard: &Guard, row: &Row, identity: &Identity, target: String, body: &[u8]) -> Result<Recorded, Fault> {
    let subject = Subject {
        detail: format!("known by {}", identity.known_by.name()),
        request: digest(body),
        ..subject(row.method, &identity.caller, target)
    };
    let (engine, records, method) = (guard.engine.clone(), guard.records.clone(), row.method);
    // In a task of its own: of a caller who goes away now, there is a record that it begins, and one that it was given up.
    let written = guard.records.spawn(async move {
        match engine.audit().record(subject.clone()).await {
            Ok(_) => Ok(Recorded {
                engine,
                records,
                begun: Some(subject),
            }),
            Err(error) => {
                tracing::error!(%error, method, "refused: the call cannot be recorded");
                Err(Fault::AuditUnavailable)
            }
        }
    });
    written.await.unwrap_or(Err(Fault::AuditUnavailable))
}

/// Writes that a call was denied, and gives the reason back. It stays denied where that cannot be written. Whoever is denied often is recorded
/// now and then: he must not fill the log.
pub(super) async fn denied(guard: &Guard, method: &str, caller: &Caller, fault: Fault, asked: Asked) -> Fault {
    if !guard.calls.records_denial(caller) {
        tracing::debug!(
            method,
            principal = caller.principal,
            peer = caller.peer,
            "denied, and not recorded any more"
        );
        return fault;
    }
    let (code, detail) = fault.told();
    let subject = Subject {
        phase: Phase::Denied,
        code: name(code).to_owned(),
        detail,
        ..subject(method, caller, String::new())
    };
    let (engine, method) = (guard.engine.clone(), method.to_owned());
    // Also where the caller goes away meanwhile.
    let written = guard.records.spawn(async move {
        let subject = Subject {
            request: asked.digest().await,
            ..subject
        };
        if let Err(error) = engine.audit().record(subject).await {
            tracing::error!(%error, method, "a denied call cannot be recorded");
        }
    });
    // What became of it is in the log.
    drop(written.await);
    fault
}

impl Recorded {
    /// The call was answered.
    pub(super) fn end(mut self, answer: &Response<Body>) {
        let status = answer.extensions().get::<Status>();
        let code = status.map_or(Code::Ok, Status::code);
        let detail = match (status, answer.extensions().get::<Outcome>()) {
            (Some(status), _) => status.message().to_owned(),
            (None, Some(Outcome(outcome))) => outcome.clone(),
            (None, None) => String::new(),
        };
        self.write(code, detail);
    }

    fn write(&mut self, code: Code, detail: String) {
        let Some(begun) = self.begun.take() else { return };
        let engine = self.engine.clone();
        let subject = Subject {
            phase: Phase::Ended,
            code: name(code).to_owned(),
            detail,
            ..begun
        };
        self.records.spawn(async move {
            for number in 1..=TRIES {
                match engine.audit().record(subject.clone()).await {
                    Ok(_) => return,
                    Err(error) if number == TRIES => tracing::error!(%error, "the end of a call cannot be recorded"),
                    Err(_) => tokio::time::sleep(PAUSE * number).await,
                }
            }
        });
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.write(
            Code::Cancelled,
            "the caller did not wait for the answer, or its deadline came; what was accepted goes on".to_owned(),
        );
    }
}

/// A code as gRPC names it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
