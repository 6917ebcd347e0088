//! `AuditService`: the audit log, its verification, and taking it away.
//!
//! Owns the typed methods over its RPCs and the builder of the list's request. Made by [`Client::audit`]. What is exported can be verified without a
//! server; that is the command line tool's, or anybody's who knows the form of the hash.

use std::time::SystemTime;

use dbkeep_proto::v1::{
    AuditAnchor, AuditEvent, AuditFilter, AuditPhase, ExportAuditLogRequest, ExportAuditLogResponse, GetAuditEventRequest,
    ListAuditEventsRequest, ListAuditEventsResponse, VerifyAuditLogRequest, VerifyAuditLogResponse,
    audit_service_client::AuditServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
};

/// Looks at the audit log.
///
/// ```no_run
/// # async fn example(client: dbkeep_client::Client) -> Result<(), dbkeep_client::Error> {
/// use dbkeep_client::{AuditQuery, proto::AuditPhase};
///
/// let audit = client.audit();
/// for denied in audit.list_all(AuditQuery::default().phase(AuditPhase::Denied)).await? {
///     println!("{} {}: {}", denied.number, denied.principal, denied.method);
/// }
/// let verdict = audit.verify(Vec::new()).await?;
/// assert!(verdict.problem.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Audit {
    client: Client,
}

impl Audit {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Records, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub fn list(&self, query: AuditQuery) -> impl Stream<Item = Result<AuditEvent, Error>> + Send + use<> {
        let audit = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = audit.list_page(message.clone()).await?;
                for event in page.events {
                    yield event;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All records of a query, newest first. Mind their number; [`list`](Self::list) holds one page at a time.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_all(&self, query: AuditQuery) -> Result<Vec<AuditEvent>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_page(&self, message: ListAuditEventsRequest) -> Result<ListAuditEventsResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.list_audit_events(request).await }
        })
        .await
    }

    /// One record.
    ///
    /// # Errors
    /// [`Error::UnknownAuditRecord`].
    pub async fn get(&self, number: u64) -> Result<AuditEvent, Error> {
        let message = GetAuditEventRequest { number };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_audit_event(request).await }
        });
        answer.await?.event.ok_or(Error::Incomplete {
            missing: "GetAuditEventResponse.event",
        })
    }

    /// Verifies the whole log against heads that were kept elsewhere, and follows how far it is; the last message has the verdict.
    ///
    /// # Errors
    /// [`Error::InvalidField`], [`Error::TooManyStreams`].
    pub async fn verify_watched(
        &self,
        anchors: Vec<AuditAnchor>,
    ) -> Result<impl Stream<Item = Result<VerifyAuditLogResponse, Error>> + Send + use<>, Error> {
        let message = VerifyAuditLogRequest { anchors };
        let stream = self
            .service()
            .verify_audit_log(self.client.prepare(message, None))
            .await?
            .into_inner();
        Ok(stream.map_err(Error::from))
    }

    /// The same without its course.
    ///
    /// # Errors
    /// [`Error::InvalidField`], [`Error::TooManyStreams`].
    pub async fn verify(&self, anchors: Vec<AuditAnchor>) -> Result<dbkeep_proto::v1::AuditVerdict, Error> {
        let mut stream = std::pin::pin!(self.verify_watched(anchors).await?);
        while let Some(step) = stream.try_next().await? {
            if let Some(verdict) = step.verdict {
                return Ok(verdict);
            }
        }
        Err(Error::Incomplete {
            missing: "VerifyAuditLogResponse.verdict",
        })
    }

    /// The whole log: seals, records, and at last a trailer; one that ends without it was cut off.
    ///
    /// # Errors
    /// [`Error::AuditLogBroken`], [`Error::StoreUnavailable`] also where records were removed meanwhile, [`Error::TooManyStreams`].
    pub async fn export(&self) -> Result<impl Stream<Item = Result<ExportAuditLogResponse, Error>> + Send + use<>, Error> {
        let stream = self
            .service()
            .export_audit_log(self.client.prepare(ExportAuditLogRequest {}, None))
            .await?
            .into_inner();
        Ok(stream.map_err(Error::from))
    }
}

/// Which records to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct AuditQuery {
    message: ListAuditEventsRequest,
}

impl AuditQuery {
    /// Only of this principal.
    pub fn principal(mut self, name: impl Into<String>) -> Self {
        self.filter().principal = name.into();
        self
    }

    /// Only of this method, as `Service/Method`.
    pub fn method(mut self, name: impl Into<String>) -> Self {
        self.filter().method = name.into();
        self
    }

    /// Only about this target.
    pub fn target(mut self, name: impl Into<String>) -> Self {
        self.filter().target = name.into();
        self
    }

    /// Only where the call stands so.
    pub fn phase(mut self, phase: AuditPhase) -> Self {
        self.filter().set_phase(phase);
        self
    }

    /// Only from then on.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.filter().since_time = Some(time.into());
        self
    }

    /// Only before then.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.filter().until_time = Some(time.into());
        self
    }

    /// Records fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, records: u32) -> Self {
        self.message.page_size = records;
        self
    }

    fn filter(&mut self) -> &mut AuditFilter {
        self.message.filter.get_or_insert_default()
    }
}
