//! `AuditService`: looking at the audit log, verifying it, and taking it away. Called by tonic.
//!
//! A caller who sees some targets lists and gets what is about them. The log as a whole is for those who see all of them, which the policy says: its
//! head and its hashes speak of every record.

use dbkeep_engine::{
    Engine,
    engine::audit::{Checked, Exported},
    model::RunId,
};
use dbkeep_proto::v1::{self, audit_service_server::AuditService};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    convert::audit as convert,
    detached,
    gate::{deadline_of, scope_of},
    page::Pages,
    status::Fault,
    stream::{EventStream, Streams, sleep_until},
    validate::Check,
};

/// Most anchors of a request: more than ten years of one a day.
const MAX_ANCHORS: usize = 5_000;

/// The service.
#[derive(Clone)]
pub(super) struct Audit {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

/// Page tokens hold an id; that of a record is made of its number.
fn id_of(number: u64) -> RunId {
    RunId(Uuid::from_u128(u128::from(number)))
}

/// What ends a stream beside its own end: the caller's deadline, and the end of the server.
struct Limits {
    _place: OwnedSemaphorePermit,
    deadline: Option<tokio::time::Instant>,
    shutdown: tokio_util::sync::CancellationToken,
}

impl Limits {
    fn new<T>(request: &Request<T>, streams: &Streams) -> Result<Self, Fault> {
        Ok(Self {
            _place: streams.place()?,
            deadline: deadline_of(request),
            shutdown: streams.shutdown(),
        })
    }

    /// The next piece of work, unless there is no more time for it.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(Fault::Engine(dbkeep_engine::EngineError::ShuttingDown)),
            () = sleep_until(self.deadline) => Err(Fault::Deadline { run: None }),
            done = work => done,
        }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let scope = scope_of(&request);
        let request = request.into_inner();
        let wire = request.filter.unwrap_or_default();
        let pages = Pages::of("audit", &wire);
        let mut check = Check::default();
        let size = check.page_size(request.page_size);
        let before = pages.after(&request.page_token, &mut check);
        let before = before.map(|id| u64::try_from(id.0.as_u128()).unwrap_or(u64::MAX));
        let filter = convert::filter(wire, scope, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let mut records = detached(async move { engine.audit_records(&filter, before, size + 1).await }).await?;
        let next_page_token = pages.cut(&mut records, size, |record| id_of(record.number));
        Ok(Response::new(v1::ListAuditEventsResponse {
            events: records.into_iter().map(convert::event).collect(),
            next_page_token,
        }))
    }

    async fn get_audit_event(
        &self,
        request: Request<v1::GetAuditEventRequest>,
    ) -> Result<Response<v1::GetAuditEventResponse>, Status> {
        let scope = scope_of(&request);
        let number = request.into_inner().number;
        let engine = self.engine.clone();
        let record = detached(async move { engine.audit_record(number, &scope).await }).await?;
        Ok(Response::new(v1::GetAuditEventResponse {
            event: Some(convert::event(record)),
        }))
    }

    type VerifyAuditLogStream = EventStream<v1::VerifyAuditLogResponse>;

    async fn verify_audit_log(
        &self,
        request: Request<v1::VerifyAuditLogRequest>,
    ) -> Result<Response<Self::VerifyAuditLogStream>, Status> {
        let limits = Limits::new(&request, &self.streams)?;
        let anchors = request.into_inner().anchors;
        let mut check = Check::default();
        if anchors.len() > MAX_ANCHORS {
            check.refuse(
                "anchors",
                format!("are {}; expected at most {MAX_ANCHORS}, the newest of them", anchors.len()),
            );
        }
        let anchors = convert::anchors(&anchors, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let mut walk = detached(async move { engine.check_audit(anchors).await }).await?;
        Ok(Response::new(Box::pin(async_stream::stream! {
            loop {
                let step = detached(async move {
                    let step = walk.next().await?;
                    Ok((walk, step))
                });
                match limits.within(step).await {
                    Ok((rest, step)) => {
                        walk = rest;
                        let is_over = matches!(step, Checked::Done(_));
                        yield Ok(convert::checked(step));
                        if is_over {
                            break;
                        }
                    }
                    Err(fault) => {
                        yield Err(fault.into());
                        break;
                    }
                }
            }
        })))
    }

    type ExportAuditLogStream = EventStream<v1::ExportAuditLogResponse>;

    async fn export_audit_log(
        &self,
        request: Request<v1::ExportAuditLogRequest>,
    ) -> Result<Response<Self::ExportAuditLogStream>, Status> {
        let limits = Limits::new(&request, &self.streams)?;
        let engine = self.engine.clone();
        let mut export = detached(async move { engine.export_audit().await }).await?;
        Ok(Response::new(Box::pin(async_stream::stream! {
            loop {
                let step = detached(async move {
                    let piece = export.next().await?;
                    Ok((export, piece))
                });
                match limits.within(step).await {
                    Ok((rest, Some(piece))) => {
                        export = rest;
                        let is_over = matches!(piece, Exported::Trailer(_));
                        yield Ok(convert::exported(piece));
                        if is_over {
                            break;
                        }
                    }
                    Ok((_, None)) => break,
                    Err(fault) => {
                        yield Err(fault.into());
                        break;
                    }
                }
            }
        })))
    }
}
