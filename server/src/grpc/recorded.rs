//! Records of calls in the audit log: that one begins, before it takes effect; how it ended; and that it was denied. Called by the gate.
//!
//! A call that begins has to have its record on the disk first: without one it is refused. How it ended is written behind the answer, also
//! where nobody waits for it any more. What a run does stands in a record of its own, when it ends.

use dbkeep_engine::{
    Engine,
    audit::{Digest, Phase, Subject},
    model::Caller,
};
use http::Response;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status, body::Body};
use uuid::Uuid;

use super::{policy::Row, status::Fault};

/// What came of a call, for the record: the service puts it into its answer.
#[derive(Debug, Clone)]
pub(super) struct Outcome(pub(super) String);

/// A call that has begun. Dropped before its end, it was given up.
pub(super) struct Recorded {
    engine: Engine,
    /// `None` once its end was told.
    begun: Option<Subject>,
}

fn subject(row_method: &str, caller: &Caller, target: String, body: &[u8]) -> Subject {
    Subject {
        principal: caller.principal.clone(),
        peer: caller.peer.clone(),
        method: row_method.trim_start_matches('/').to_owned(),
        target,
        request: Digest(Sha256::digest(body).into()),
        ..Subject::of(Uuid::now_v7())
    }
}

/// Writes that a call begins. It must not take effect before this returns.
///
/// # Errors
/// [`Fault::AuditUnavailable`].
pub(super) async fn begin(engine: &Engine, row: &Row, caller: &Caller, target: String, body: &[u8]) -> Result<Recorded, Fault> {
    let subject = subject(row.method, caller, target, body);
    match engine.audit().record(subject.clone()).await {
        Ok(_) => Ok(Recorded {
            engine: engine.clone(),
            begun: Some(subject),
        }),
        Err(error) => {
            tracing::error!(%error, method = row.method, "refused: the call cannot be recorded");
            Err(Fault::AuditUnavailable)
        }
    }
}

/// Writes that a call was denied, and gives the reason back. It stays denied where that cannot be written.
pub(super) async fn denied(engine: &Engine, method: &str, caller: &Caller, fault: Fault) -> Fault {
    let (code, detail) = fault.told();
    let subject = Subject {
        phase: Phase::Denied,
        code: name(code).to_owned(),
        detail,
        ..subject(method, caller, String::new(), &[])
    };
    if let Err(error) = engine.audit().record(subject).await {
        tracing::error!(%error, method, "a denied call cannot be recorded");
    }
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
        let write = async move {
            if let Err(error) = engine.audit().record(subject).await {
                tracing::error!(%error, "the end of a call cannot be recorded");
            }
        };
        // Outside of a runtime there is no server any more; a call without an end is one during which the server ended.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(write));
        }
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
