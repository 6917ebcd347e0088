//! `MonitoringService`: the service at a glance, the health of targets, its history, and alerts. Called by tonic.
//!
//! The two streams follow the revision of the newest change, which the collector looks for once a second: a watcher that has nothing new to
//! hear costs the store nothing. What they show is state and not a log, so that a slow watcher gets what is newest.

use std::time::Duration;

use dbkeep_engine::{
    Engine, EngineError,
    access::Scope,
    engine::monitoring::{HistoryRequest, Look, MAX_POINTS},
    model::{
        RunId,
        monitor::{Alert, AlertId, AlertState, Metric},
    },
    port::AlertFilter,
};
use dbkeep_proto::v1::{self, monitoring_service_server::MonitoringService};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    convert::{monitoring as convert, run, time},
    detached,
    gate::{caller_of, deadline_of, scope_of},
    page::{Pages, seen},
    status::Fault,
    stream::{EventStream, Streams, sleep_until},
    validate::Check,
};

/// Points of a history where the caller does not say: a day of a collection a minute.
const POINTS: u32 = 2_000;
/// From when on history is shown where the caller does not say.
const HISTORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Most alerts that are read at a time for a watcher.
const ALERTS: u32 = 500;

/// The service.
#[derive(Clone)]
pub(super) struct Monitoring {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

fn look(fresh: bool, exact: bool) -> Look {
    match (fresh, exact) {
        (_, true) => Look::Exact,
        (true, false) => Look::Fresh,
        (false, false) => Look::Newest,
    }
}

fn instant(field: &str, given: Option<&prost_types::Timestamp>, check: &mut Check) -> Option<Timestamp> {
    let read = given.and_then(time::instant);
    if given.is_some() && read.is_none() {
        check.refuse(field, "is malformed; expected an instant");
    }
    read
}

/// Refuses a revision that the store has not come to: it is of another store.
async fn check_revision(engine: &Engine, after: u64) -> Result<(), EngineError> {
    let newest = engine.monitor_revision().await?;
    if after > newest {
        return Err(EngineError::InvalidField {
            field: "after_revision",
            problem: format!("is {after}, beyond the newest one, {newest}; expected that of a message, or 0 to begin anew"),
        });
    }
    Ok(())
}

/// What a stream waits for between two looks.
struct Patience {
    changes: watch::Receiver<u64>,
    deadline: Option<Instant>,
    shutdown: tokio_util::sync::CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Patience {
    fn new(engine: &Engine, streams: &Streams, place: OwnedSemaphorePermit, deadline: Option<Instant>) -> Self {
        let mut changes = engine.monitor_changes();
        changes.mark_unchanged();
        Self {
            changes,
            deadline,
            shutdown: streams.shutdown(),
            _place: place,
        }
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// Where the caller's deadline or the end of the server comes first.
    async fn change(&mut self) -> Result<(), Fault> {
        tokio::select! {
            biased;
            () = sleep_until(self.deadline) => Err(Fault::Deadline { run: None }),
            () = self.shutdown.cancelled() => Err(Fault::Engine(EngineError::ShuttingDown)),
            changed = self.changes.changed() => changed.map_err(|_| Fault::Engine(EngineError::ShuttingDown)),
        }
    }
}

/// The newest collections after a revision.
async fn collected(engine: &Engine, target: &str, scope: &Scope, after: u64) -> Result<Vec<v1::WatchMetricsResponse>, Fault> {
    let (engine, target, scope) = (engine.clone(), target.to_owned(), scope.clone());
    detached(async move {
        let mut messages = Vec::new();
        for collection in engine.collections_after(after).await? {
            if !scope.covers(&collection.target) || !target.is_empty() && collection.target != target {
                continue;
            }
            let kept = engine.kept_snapshot(&collection.target).await?;
            let (collected_at, snapshot) = kept.map_or((None, None), |(at, snapshot)| (Some(at), Some(snapshot)));
            messages.push(v1::WatchMetricsResponse {
                revision: collection.revision,
                metrics: Some(v1::TargetMetrics {
                    target: collection.target,
                    collect_time: collected_at.map(time::timestamp),
                    up: Some(collection.up),
                    snapshot: snapshot.map(convert::watched),
                    ..v1::TargetMetrics::default()
                }),
            });
        }
        Ok(messages)
    })
    .await
}

/// The alerts that are raised, and the revision from which on changes are to be told.
async fn raised(engine: &Engine, target: Option<&str>) -> Result<(u64, Vec<Alert>), Fault> {
    let engine = engine.clone();
    let filter = AlertFilter {
        target: target.map(str::to_owned),
        states: vec![AlertState::Raised],
        before: None,
        limit: ALERTS,
    };
    detached(async move {
        // Before the list: what changes in between is told twice, and not never.
        let revision = engine.monitor_revision().await?;
        let mut all = Vec::new();
        let mut filter = filter;
        loop {
            let page = engine.alerts(&filter).await?;
            let last = page.last().map(|alert| alert.id);
            let full = page.len() >= usize::try_from(ALERTS).unwrap_or(usize::MAX);
            all.extend(page);
            if !full {
                break;
            }
            filter.before = last;
        }
        all.reverse();
        Ok((revision, all))
    })
    .await
}

#[tonic::async_trait]
impl MonitoringService for Monitoring {
    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let scope = scope_of(&request);
        let engine = self.engine.clone();
        let status = detached(async move { engine.service_status(&scope).await }).await?;
        Ok(Response::new(convert::status(status)))
    }

    async fn get_metrics(&self, request: Request<v1::GetMetricsRequest>) -> Result<Response<v1::GetMetricsResponse>, Status> {
        let v1::GetMetricsRequest { target, fresh, exact } = request.into_inner();
        let engine = self.engine.clone();
        let metrics = detached(async move { engine.target_metrics(&target, look(fresh, exact)).await }).await?;
        Ok(Response::new(v1::GetMetricsResponse {
            metrics: Some(convert::metrics(metrics)),
        }))
    }

    async fn list_metric_history(
        &self,
        request: Request<v1::ListMetricHistoryRequest>,
    ) -> Result<Response<v1::ListMetricHistoryResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::default();
        let metric = Metric::named(&request.metric);
        if metric.is_none() {
            let known = Metric::ALL.iter().map(|metric| metric.name()).collect::<Vec<_>>().join(", ");
            check.refuse("metric", format!("is {:?}; expected one of {known}", request.metric));
        }
        let from = instant("from_time", request.from_time.as_ref(), &mut check);
        let to = instant("to_time", request.to_time.as_ref(), &mut check);
        let step = convert::step(request.step, &mut check);
        if request.limit > MAX_POINTS {
            check.refuse(
                "limit",
                format!("is {}; expected 1 to {MAX_POINTS}, or 0 for {POINTS}", request.limit),
            );
        }
        check.finish()?;
        let Some(metric) = metric else {
            return Err(Fault::Fields(Vec::new()).into());
        };
        let asked = HistoryRequest {
            target: request.target,
            metric,
            object: request.object,
            from: from.unwrap_or_else(|| {
                to.unwrap_or_else(Timestamp::now)
                    .checked_sub(HISTORY)
                    .unwrap_or(Timestamp::MIN)
            }),
            to,
            step,
            limit: if request.limit == 0 { POINTS } else { request.limit },
        };
        let engine = self.engine.clone();
        let history = detached(async move { engine.metric_history(&asked).await }).await?;
        Ok(Response::new(convert::history(history)))
    }

    type WatchMetricsStream = EventStream<v1::WatchMetricsResponse>;

    async fn watch_metrics(
        &self,
        request: Request<v1::WatchMetricsRequest>,
    ) -> Result<Response<Self::WatchMetricsStream>, Status> {
        let deadline = deadline_of(&request);
        let scope = scope_of(&request);
        let v1::WatchMetricsRequest { target, after_revision } = request.into_inner();
        if !target.is_empty() {
            self.engine.target(&target).map_err(Fault::from)?;
        }
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        detached(async move { check_revision(&engine, after_revision).await }).await?;
        let engine = self.engine.clone();
        let mut patience = Patience::new(&engine, &self.streams, place, deadline);
        Ok(Response::new(Box::pin(async_stream::stream! {
            let mut after = after_revision;
            loop {
                match collected(&engine, &target, &scope, after).await {
                    Ok(messages) => {
                        for message in messages {
                            after = message.revision;
                            yield Ok(message);
                        }
                    }
                    Err(fault) => {
                        yield Err(fault.into());
                        break;
                    }
                }
                if let Err(fault) = patience.change().await {
                    yield Err(fault.into());
                    break;
                }
            }
        })))
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        let v1::ListFindingsRequest { target, fresh, exact } = request.into_inner();
        let engine = self.engine.clone();
        let (at, findings) = detached(async move { engine.findings(&target, look(fresh, exact)).await }).await?;
        Ok(Response::new(v1::ListFindingsResponse {
            time: Some(time::timestamp(at)),
            findings: findings.into_iter().map(convert::finding).collect(),
        }))
    }

    async fn get_recommendations(
        &self,
        request: Request<v1::GetRecommendationsRequest>,
    ) -> Result<Response<v1::GetRecommendationsResponse>, Status> {
        let target = request.into_inner().target;
        let engine = self.engine.clone();
        let advice = detached(async move { engine.recommendations(&target).await }).await?;
        Ok(Response::new(v1::GetRecommendationsResponse {
            recommendations: advice.into_iter().map(run::recommendation).collect(),
        }))
    }

    async fn list_alerts(&self, request: Request<v1::ListAlertsRequest>) -> Result<Response<v1::ListAlertsResponse>, Status> {
        let scope = scope_of(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let filter = v1::ListAlertsRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        };
        let pages = Pages::of("alerts", &filter);
        let size = check.page_size(request.page_size);
        // Page tokens hold the id of the last entry, whatever kind of entry it is.
        let before = pages.after(&request.page_token, &mut check).map(|id| AlertId(id.0));
        let states = convert::states(&request.states, &mut check);
        check.finish()?;
        let target = request.target.or_else(|| scope.only().map(str::to_owned));
        let fetch = |before, limit| {
            let engine = self.engine.clone();
            let filter = AlertFilter {
                target: target.clone(),
                states: states.clone(),
                before,
                limit,
            };
            detached(async move { engine.alerts(&filter).await })
        };
        let mut alerts = seen(size, before, fetch, |alert| alert.id, |alert| scope.covers(&alert.target)).await?;
        let next_page_token = pages.cut(&mut alerts, size, |alert| RunId(alert.id.0));
        Ok(Response::new(v1::ListAlertsResponse {
            alerts: alerts.into_iter().map(convert::alert).collect(),
            next_page_token,
        }))
    }

    type WatchAlertsStream = EventStream<v1::WatchAlertsResponse>;

    async fn watch_alerts(&self, request: Request<v1::WatchAlertsRequest>) -> Result<Response<Self::WatchAlertsStream>, Status> {
        let deadline = deadline_of(&request);
        let scope = scope_of(&request);
        let v1::WatchAlertsRequest { target, after_revision } = request.into_inner();
        if let Some(target) = target.as_deref().filter(|target| !target.is_empty()) {
            self.engine.target(target).map_err(Fault::from)?;
        }
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        detached(async move { check_revision(&engine, after_revision).await }).await?;
        let engine = self.engine.clone();
        let mut patience = Patience::new(&engine, &self.streams, place, deadline);
        Ok(Response::new(Box::pin(async_stream::stream! {
            let mut after = after_revision;
            if after == 0 {
                match raised(&engine, target.as_deref()).await {
                    Ok((revision, mut alerts)) => {
                        after = revision;
                        alerts.retain(|alert| scope.covers(&alert.target));
                        // Who breaks off in the middle of the list has not seen it, and gets it again.
                        let last = alerts.len().saturating_sub(1);
                        for (number, alert) in alerts.into_iter().enumerate() {
                            let revision = if number == last { revision } else { 0 };
                            yield Ok(v1::WatchAlertsResponse { revision, alert: Some(convert::alert(alert)) });
                        }
                    }
                    Err(fault) => {
                        yield Err(fault.into());
                        return;
                    }
                }
            }
            loop {
                let asked = engine.clone();
                match detached(async move { asked.alerts_after(after, ALERTS).await }).await {
                    Ok(changed) => {
                        let full = changed.len() >= usize::try_from(ALERTS).unwrap_or(usize::MAX);
                        for (revision, alert) in changed {
                            after = revision;
                            let wanted = scope.covers(&alert.target) && target.as_ref().is_none_or(|target| *target == alert.target);
                            // Nobody is told of what is pending, here as little as elsewhere.
                            if wanted && alert.state != AlertState::Pending {
                                yield Ok(v1::WatchAlertsResponse { revision, alert: Some(convert::alert(alert)) });
                            }
                        }
                        if full {
                            continue;
                        }
                    }
                    Err(fault) => {
                        yield Err(fault.into());
                        break;
                    }
                }
                if let Err(fault) = patience.change().await {
                    yield Err(fault.into());
                    break;
                }
            }
        })))
    }

    async fn acknowledge_alert(
        &self,
        request: Request<v1::AcknowledgeAlertRequest>,
    ) -> Result<Response<v1::AcknowledgeAlertResponse>, Status> {
        let caller = caller_of(&request);
        let v1::AcknowledgeAlertRequest { id, note } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of an alert");
        check.finish()?;
        let engine = self.engine.clone();
        let alert = detached(async move { engine.acknowledge_alert(&id, &note, &caller).await }).await?;
        Ok(Response::new(v1::AcknowledgeAlertResponse {
            alert: Some(convert::alert(alert)),
        }))
    }
}
