//! The monitoring service of the fake server.
//!
//! Owns what it was asked. Its answers are one raised alert, one small snapshot and the scheduler of the state; the stream of alerts breaks
//! after its first message, and goes on from the revision that the client sends.

use dbkeep_client::proto::{self, monitoring_service_server::MonitoringService};
use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Request, Response, Status};

use super::{Call, Fake};

/// What the service was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Status,
    Metrics { target: String, fresh: bool, exact: bool },
    History(Box<proto::ListMetricHistoryRequest>),
    Findings { fresh: bool, exact: bool },
    Advice { target: String },
    Alerts(Box<proto::ListAlertsRequest>),
    WatchAlerts { after: u64 },
    Acknowledge { id: String, note: String },
}

/// The alert of every answer.
pub(crate) fn alert() -> proto::Alert {
    proto::Alert {
        id: "alert-1".into(),
        rule: "disk_nearly_full".into(),
        object: "box:/srv".into(),
        level: proto::AlertLevel::Warning.into(),
        state: proto::AlertState::Raised.into(),
        threshold: Some(proto::AlertThreshold {
            value: 0.85,
            raise_at: 0.8,
            clear_at: 0.75,
        }),
        detail: "the disk of /srv is 85.0 % full \u{1b}[31m".into(),
        remediation: "make room".into(),
        ..Default::default()
    }
}

fn metrics(target: &str) -> proto::TargetMetrics {
    proto::TargetMetrics {
        target: target.into(),
        up: Some(true),
        snapshot: Some(proto::MetricSnapshot {
            database: Some(proto::DatabaseVitals {
                version: "15.18".into(),
                size_bytes: Some(5_000_000),
                index_hit_fraction: Some(0.991),
                recent_wal_bytes_per_second: Some(1_234.6),
                ..Default::default()
            }),
            tables: vec![proto::TableVitals {
                table: "public.api_logs".into(),
                rows: Some(1_234_567),
                ..Default::default()
            }],
            gaps: vec![proto::MetricGap {
                what: "slow_queries".into(),
                why: "the extension is missing".into(),
                allow: "CREATE EXTENSION pg_stat_statements".into(),
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Fake {
    async fn monitoring(&self, asked: Asked) -> Result<(), Status> {
        self.unary(Call::Monitoring(asked)).await
    }
}

#[tonic::async_trait]
impl MonitoringService for Fake {
    async fn get_status(&self, _: Request<proto::GetStatusRequest>) -> Result<Response<proto::GetStatusResponse>, Status> {
        self.monitoring(Asked::Status).await?;
        Ok(Response::new(proto::GetStatusResponse {
            scheduler: Some(self.state().scheduler.clone()),
            targets: vec![proto::TargetHealth {
                name: "main".into(),
                engine: proto::Engine::Sqlite.into(),
                up: Some(false),
                size_bytes: Some(5_000_000),
                alerts: 3,
                migrations: Some(proto::MigrationCounts {
                    applied: 12,
                    pending: 4,
                    ..Default::default()
                }),
                ..Default::default()
            }],
            alerts: vec![alert()],
            collecting: true,
            ..Default::default()
        }))
    }

    async fn get_metrics(
        &self,
        request: Request<proto::GetMetricsRequest>,
    ) -> Result<Response<proto::GetMetricsResponse>, Status> {
        let proto::GetMetricsRequest { target, fresh, exact } = request.into_inner();
        let metrics = Some(metrics(&target)).filter(|_| target != "half");
        self.monitoring(Asked::Metrics { target, fresh, exact }).await?;
        Ok(Response::new(proto::GetMetricsResponse { metrics }))
    }

    async fn list_metric_history(
        &self,
        request: Request<proto::ListMetricHistoryRequest>,
    ) -> Result<Response<proto::ListMetricHistoryResponse>, Status> {
        self.monitoring(Asked::History(Box::new(request.into_inner()))).await?;
        Ok(Response::new(proto::ListMetricHistoryResponse {
            step: proto::MetricStep::Hour.into(),
            points: vec![proto::MetricPoint {
                samples: 60,
                min: 1.0,
                max: 3.0,
                mean: 2.25,
                last: 3.0,
                ..Default::default()
            }],
            truncated: true,
        }))
    }

    type WatchMetricsStream = BoxStream<'static, Result<proto::WatchMetricsResponse, Status>>;

    async fn watch_metrics(
        &self,
        request: Request<proto::WatchMetricsRequest>,
    ) -> Result<Response<Self::WatchMetricsStream>, Status> {
        let after = request.into_inner().after_revision;
        if after > 90 {
            return Err(super::invalid(&[("after_revision", "is beyond the newest one")]));
        }
        let message = proto::WatchMetricsResponse {
            revision: after + 1,
            metrics: Some(metrics("main")),
        };
        Ok(Response::new(stream::iter([Ok(message)]).boxed()))
    }

    async fn list_findings(
        &self,
        request: Request<proto::ListFindingsRequest>,
    ) -> Result<Response<proto::ListFindingsResponse>, Status> {
        let proto::ListFindingsRequest { fresh, exact, .. } = request.into_inner();
        self.monitoring(Asked::Findings { fresh, exact }).await?;
        Ok(Response::new(proto::ListFindingsResponse {
            time: None,
            findings: vec![proto::HealthFinding {
                key: "unused_index:public.i".into(),
                kind: "unused_index".into(),
                level: proto::AlertLevel::Info.into(),
                object: "public.i".into(),
                detail: "nothing has used it".into(),
                remediation: "DROP INDEX public.i".into(),
                parent_table: String::new(),
                definition: "CREATE INDEX i ON public.t (a)".into(),
            }],
        }))
    }

    async fn get_recommendations(
        &self,
        request: Request<proto::GetRecommendationsRequest>,
    ) -> Result<Response<proto::GetRecommendationsResponse>, Status> {
        let target = request.into_inner().target;
        self.monitoring(Asked::Advice { target }).await?;
        Ok(Response::new(proto::GetRecommendationsResponse {
            recommendations: vec![proto::Recommendation {
                key: "rebuild_index:public.i".into(),
                name: "Rebuild an index".into(),
                level: proto::RecommendationLevel::Warn.into(),
                detail: "much of it is empty".into(),
                remediation: "REINDEX INDEX CONCURRENTLY public.i".into(),
                evidence: vec![proto::Evidence {
                    name: "bloat".into(),
                    value: "60 %".into(),
                }],
            }],
        }))
    }

    async fn list_alerts(
        &self,
        request: Request<proto::ListAlertsRequest>,
    ) -> Result<Response<proto::ListAlertsResponse>, Status> {
        let request = request.into_inner();
        let next_page_token = if request.page_token.is_empty() { "2" } else { "" };
        self.monitoring(Asked::Alerts(Box::new(request))).await?;
        Ok(Response::new(proto::ListAlertsResponse {
            alerts: vec![alert(), alert()],
            next_page_token: next_page_token.into(),
        }))
    }

    type WatchAlertsStream = BoxStream<'static, Result<proto::WatchAlertsResponse, Status>>;

    async fn watch_alerts(
        &self,
        request: Request<proto::WatchAlertsRequest>,
    ) -> Result<Response<Self::WatchAlertsStream>, Status> {
        let after = request.into_inner().after_revision;
        self.monitoring(Asked::WatchAlerts { after }).await?;
        if after >= 3 {
            return Err(super::invalid(&[("target", "is not there any more")]));
        }
        let message = proto::WatchAlertsResponse {
            revision: after + 1,
            alert: Some(alert()),
        };
        let broken = super::shutting_down(std::time::Duration::from_millis(1));
        Ok(Response::new(stream::iter([Ok(message), Err(broken)]).boxed()))
    }

    async fn acknowledge_alert(
        &self,
        request: Request<proto::AcknowledgeAlertRequest>,
    ) -> Result<Response<proto::AcknowledgeAlertResponse>, Status> {
        let proto::AcknowledgeAlertRequest { id, note } = request.into_inner();
        self.monitoring(Asked::Acknowledge { id, note: note.clone() }).await?;
        let mut alert = alert();
        alert.acknowledgement = Some(proto::Acknowledgement {
            principal: "ann".into(),
            time: None,
            note,
        });
        Ok(Response::new(proto::AcknowledgeAlertResponse { alert: Some(alert) }))
    }
}
