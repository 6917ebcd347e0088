//! What the server's port answers beside gRPC: `/metrics` in Prometheus' text format, `/healthz` and `/readyz`.
//!
//! `/metrics` names targets and tables: it passes the same gate as every method, and is for callers who see all targets. The other two tell
//! nothing but whether the server works. Nothing here asks a target: samples are those that were collected.

mod exposition;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use dbkeep_engine::{Engine, EngineError};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The text format that Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest wait for the control store.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for metrics: scrapers give up after ten seconds.
const METRICS_PATIENCE: Duration = Duration::from_secs(9);
/// How long metrics count as new.
const FRESH: Duration = Duration::from_secs(1);

/// What everybody who asks for metrics within a second gets, so that asking often costs the control store no more.
struct Shared {
    engine: Engine,
    /// Locked while it is made: nobody else makes it then.
    newest: Mutex<Option<(Instant, String)>>,
}

impl Shared {
    async fn text(&self) -> Result<String, EngineError> {
        let mut newest = self.newest.lock().await;
        if let Some((_, text)) = newest.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let text = exposition::render(&self.engine).await?;
        *newest = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

/// Adds the paths to a router. `stopping` is cancelled when the server goes down.
pub(crate) fn add(router: Router, engine: Engine, stopping: CancellationToken) -> Router {
    let ready = engine.clone();
    let shared = Arc::new(Shared {
        engine,
        newest: Mutex::default(),
    });
    router
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || {
                let (engine, stopping) = (ready.clone(), stopping.clone());
                async move { readiness(&engine, &stopping).await }
            }),
        )
        .route("/metrics", get(move || metrics(Arc::clone(&shared))))
}

async fn readiness(engine: &Engine, stopping: &CancellationToken) -> Response {
    let refuse = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    if stopping.is_cancelled() {
        return refuse("the server goes down");
    }
    match tokio::time::timeout(PATIENCE, engine.monitor_revision()).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        // The cause is no business of whoever asks.
        Ok(Err(_)) | Err(_) => refuse("the control store does not answer"),
    }
}

async fn metrics(shared: Arc<Shared>) -> Response {
    // In a task of its own, so that a caller who goes away leaves no query half-way.
    let rendered = tokio::spawn(async move { shared.text().await });
    let Ok(rendered) = tokio::time::timeout(METRICS_PATIENCE, rendered).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the control store does not answer\n").into_response();
    };
    match rendered {
        Ok(Ok(text)) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "metrics could not be shown");
            (StatusCode::SERVICE_UNAVAILABLE, "the control store does not answer\n").into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics could not be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
