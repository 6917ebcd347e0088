//! `MonitoringService`: the service at a glance, the health of targets, its history, and alerts.
//!
//! Owns the typed methods over its RPCs, the builders of their requests, and the streams, which go on after a break where they were. Made by
//! [`Client::monitoring`].

use std::time::SystemTime;

use dbkeep_proto::v1::{
    AcknowledgeAlertRequest, Alert, AlertState, GetMetricsRequest, GetRecommendationsRequest, GetStatusRequest,
    GetStatusResponse, ListAlertsRequest, ListAlertsResponse, ListFindingsRequest, ListFindingsResponse,
    ListMetricHistoryRequest, ListMetricHistoryResponse, MetricStep, Recommendation, TargetMetrics, WatchAlertsRequest,
    WatchAlertsResponse, WatchMetricsRequest, WatchMetricsResponse, monitoring_service_client::MonitoringServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry::{self, Backoff},
    watch::ReconnectPolicy,
};

/// Looks at how targets are, and follows it.
///
/// ```no_run
/// # async fn example(client: dbkeep_client::Client) -> Result<(), dbkeep_client::Error> {
/// use dbkeep_client::{AlertQuery, Look};
///
/// let monitoring = client.monitoring();
/// let metrics = monitoring.metrics("app", Look::Newest).await?;
/// println!("{:?}", metrics.growth);
/// for alert in monitoring.list_all_alerts(AlertQuery::default()).await? {
///     monitoring.acknowledge(alert.id, "I look").await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Monitoring {
    client: Client,
}

/// How a snapshot is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Look {
    /// The newest one that was collected.
    #[default]
    Newest,
    /// A new one.
    Fresh,
    /// A new one that reads tables; it can take up to a minute.
    Exact,
}

/// Goes on with a stream after a break, from the message that it saw last, until it was silent for too long.
macro_rules! resumed {
    ($monitoring:expr, $message:expr, $method:ident) => {{
        let (monitoring, mut message) = ($monitoring, $message);
        let asked = message.after_revision;
        async_stream::try_stream! {
            let policy = ReconnectPolicy::default();
            let mut outage: Option<(Instant, Backoff)> = None;
            loop {
                let mut service = monitoring.service();
                let opened = service.$method(monitoring.client.prepare(message.clone(), None)).await;
                let mut broken = match opened.map(tonic::Response::into_inner).map_err(Error::from) {
                    Ok(mut stream) => loop {
                        match stream.message().await.map_err(Error::from) {
                            Ok(Some(next)) => {
                                outage = None;
                                message.after_revision = next.revision;
                                yield next;
                            }
                            Ok(None) => break None,
                            Err(error) => break Some(error),
                        }
                    },
                    Err(error) => Some(error),
                };
                // A control store that was put back to an earlier state does not know a revision that it gave out: from the begin, then.
                let is_unknown = |error: &Error| matches!(error, Error::InvalidField { violations, .. } if violations.iter().any(|violation| violation.field == "after_revision"));
                if message.after_revision > asked && broken.as_ref().is_some_and(is_unknown) {
                    message.after_revision = 0;
                    continue;
                }
                if let Some(error) = broken.take_if(|error| !error.is_unavailable()) {
                    Err(error)?;
                }
                let (since, backoff) = outage
                    .get_or_insert_with(|| (Instant::now(), Backoff::new(policy.initial_backoff, policy.max_backoff)));
                let pause = backoff.pause(broken.as_ref().and_then(Error::retry_after));
                if let Some(error) = broken.take_if(|_| since.elapsed() + pause > policy.give_up_after) {
                    Err(error)?;
                }
                sleep(pause).await;
            }
        }
    }};
}

impl Monitoring {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> MonitoringServiceClient<Channel> {
        MonitoringServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Servers, scheduler, targets, runs now, migrations and alerts.
    ///
    /// # Errors
    /// None of its own.
    pub async fn status(&self) -> Result<GetStatusResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), GetStatusRequest {}, |request| {
            let mut service = self.service();
            async move { service.get_status(request).await }
        })
        .await
    }

    /// How a target is; the only one where the name is empty.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::TargetUnavailable`], [`Error::TargetPermission`].
    pub async fn metrics(&self, target: impl Into<String>, look: Look) -> Result<TargetMetrics, Error> {
        let message = GetMetricsRequest {
            target: target.into(),
            fresh: look == Look::Fresh,
            exact: look == Look::Exact,
        };
        let answer = retry::unary(&self.client, self.timeout(look), message, |request| {
            let mut service = self.service();
            async move { service.get_metrics(request).await }
        });
        answer.await?.metrics.ok_or(Error::Incomplete {
            missing: "GetMetricsResponse.metrics",
        })
    }

    /// An exact look takes as long as a plan may.
    fn timeout(&self, look: Look) -> std::time::Duration {
        if look == Look::Exact {
            self.client.plan_timeout()
        } else {
            self.client.call_timeout()
        }
    }

    /// The history of one metric, such as `database_size_bytes`.
    ///
    /// # Errors
    /// [`Error::InvalidField`], [`Error::UnknownTarget`].
    pub async fn history(&self, query: HistoryQuery) -> Result<ListMetricHistoryResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), query.message, |request| {
            let mut service = self.service();
            async move { service.list_metric_history(request).await }
        })
        .await
    }

    /// What is wrong with a target, the gravest first.
    ///
    /// # Errors
    /// As [`Monitoring::metrics`].
    pub async fn findings(&self, target: impl Into<String>, look: Look) -> Result<ListFindingsResponse, Error> {
        let message = ListFindingsRequest {
            target: target.into(),
            fresh: look == Look::Fresh,
            exact: look == Look::Exact,
        };
        retry::unary(&self.client, self.timeout(look), message, |request| {
            let mut service = self.service();
            async move { service.list_findings(request).await }
        })
        .await
    }

    /// What should be done about a target, the most important first.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::TargetUnavailable`] where it was never collected.
    pub async fn recommendations(&self, target: impl Into<String>) -> Result<Vec<Recommendation>, Error> {
        let message = GetRecommendationsRequest { target: target.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_recommendations(request).await }
        });
        Ok(answer.await?.recommendations)
    }

    /// Alerts, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`], [`Error::UnknownTarget`].
    pub fn alerts(&self, query: AlertQuery) -> impl Stream<Item = Result<Alert, Error>> + Send + use<> {
        let monitoring = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = monitoring.alerts_page(message.clone()).await?;
                for alert in page.alerts {
                    yield alert;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All alerts of a query, newest first.
    ///
    /// # Errors
    /// As [`Monitoring::alerts`].
    pub async fn list_all_alerts(&self, query: AlertQuery) -> Result<Vec<Alert>, Error> {
        self.alerts(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// As [`Monitoring::alerts`].
    pub async fn alerts_page(&self, message: ListAlertsRequest) -> Result<ListAlertsResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.list_alerts(request).await }
        })
        .await
    }

    /// Says that the caller looks after an alert. Whoever said so first is kept.
    ///
    /// # Errors
    /// [`Error::UnknownAlert`], [`Error::InvalidField`].
    pub async fn acknowledge(&self, id: impl Into<String>, note: impl Into<String>) -> Result<Alert, Error> {
        let message = AcknowledgeAlertRequest {
            id: id.into(),
            note: note.into(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.acknowledge_alert(request).await }
        });
        answer.await?.alert.ok_or(Error::Incomplete {
            missing: "AcknowledgeAlertResponse.alert",
        })
    }

    /// Follows the snapshots of one target, or of all: first those collected after a revision (0 for the newest of each), then each new one. A
    /// break is mended, and the stream goes on after the last message.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::InvalidField`], [`Error::TooManyStreams`]; why the server is away, after five minutes of it.
    pub fn watch_metrics(
        &self,
        target: &str,
        after_revision: u64,
    ) -> impl Stream<Item = Result<WatchMetricsResponse, Error>> + Send + use<> {
        let message = WatchMetricsRequest {
            target: target.to_owned(),
            after_revision,
        };
        resumed!(self.clone(), message, watch_metrics)
    }

    /// Follows alerts, of one target where one is given: first those that are raised, or that changed after a revision, then each change.
    /// A break is mended, and the stream goes on after the last message.
    ///
    /// # Errors
    /// As [`Monitoring::watch_metrics`].
    pub fn watch_alerts(
        &self,
        target: Option<String>,
        after_revision: u64,
    ) -> impl Stream<Item = Result<WatchAlertsResponse, Error>> + Send + use<> {
        let message = WatchAlertsRequest { target, after_revision };
        resumed!(self.clone(), message, watch_alerts)
    }
}

/// Which history; the last day of all objects by default, as fine as fits.
#[derive(Debug, Clone)]
#[must_use]
pub struct HistoryQuery {
    message: ListMetricHistoryRequest,
}

impl HistoryQuery {
    /// Of this metric of a target; the only one where the name is empty.
    pub fn new(target: impl Into<String>, metric: impl Into<String>) -> Self {
        Self {
            message: ListMetricHistoryRequest {
                target: target.into(),
                metric: metric.into(),
                ..ListMetricHistoryRequest::default()
            },
        }
    }

    /// Only of this table, replica, slot, server or folder.
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.message.object = Some(object.into());
        self
    }

    /// From then on.
    pub fn from(mut self, time: SystemTime) -> Self {
        self.message.from_time = Some(time.into());
        self
    }

    /// Before then.
    pub fn to(mut self, time: SystemTime) -> Self {
        self.message.to_time = Some(time.into());
        self
    }

    /// How fine.
    pub fn step(mut self, step: MetricStep) -> Self {
        self.message.set_step(step);
        self
    }

    /// Most points, 1 to 10,000; the server's default is 2,000.
    pub fn limit(mut self, points: u32) -> Self {
        self.message.limit = points;
        self
    }
}

/// Which alerts to list; those that are raised by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct AlertQuery {
    message: ListAlertsRequest,
}

impl AlertQuery {
    /// Only of this target; those of servers where it is empty.
    pub fn target(mut self, name: impl Into<String>) -> Self {
        self.message.target = Some(name.into());
        self
    }

    /// Also in this state; without any, those that are raised.
    pub fn state(mut self, state: AlertState) -> Self {
        self.message.states.push(state.into());
        self
    }

    /// Alerts fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, alerts: u32) -> Self {
        self.message.page_size = alerts;
        self
    }
}
