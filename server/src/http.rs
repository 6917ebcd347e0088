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
    let ready = Arc::new(Ready {
        engine: engine.clone(),
        newest: Mutex::default(),
    });
    let shared = Arc::new(Shared {
        engine,
        newest: Mutex::default(),
    });
    router
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || {
                let (ready, stopping) = (Arc::clone(&ready), stopping.clone());
                async move { readiness(&ready, &stopping).await }
            }),
        )
        .route("/metrics", get(move || metrics(Arc::clone(&shared))))
}

/// Whether the store answers, for everybody who asks within a second: everybody may, as often as he likes.
struct Ready {
    engine: Engine,
    /// Locked while it is found out: nobody else asks then.
    newest: Mutex<Option<(Instant, bool)>>,
}

impl Ready {
    async fn is_ready(&self) -> bool {
        let mut newest = self.newest.lock().await;
        if let Some((_, ready)) = newest.filter(|(at, _)| at.elapsed() < FRESH) {
            return ready;
        }
        let ready = matches!(
            tokio::time::timeout(PATIENCE, self.engine.monitor_revision()).await,
            Ok(Ok(_))
        );
        *newest = Some((Instant::now(), ready));
        ready
    }
}

async fn readiness(ready: &Ready, stopping: &CancellationToken) -> Response {
    let refuse = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    if stopping.is_cancelled() {
        return refuse("the server goes down");
    }
    match tokio::time::timeout(PATIENCE * 2, ready.is_ready()).await {
        Ok(true) => "ready\n".into_response(),
        // The cause is no business of whoever asks.
        Ok(false) | Err(_) => refuse("the control store does not answer"),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dbkeep_engine::{engine::Settings, testing::MemoryArchive};

    use super::*;
    use crate::store::ControlStore;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_goes_down_is_not_ready() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("control.db").display());
        let store = ControlStore::open(&url).await.expect("a store");
        let engine = Engine::new(
            BTreeMap::new(),
            Arc::new(store),
            Arc::new(MemoryArchive::default()),
            Settings::default(),
        );
        let ready = Ready {
            engine,
            newest: Mutex::default(),
        };
        let stopping = CancellationToken::new();
        assert_eq!(readiness(&ready, &stopping).await.status(), StatusCode::OK);
        stopping.cancel();
        // Though the store answers, and was found to a moment ago.
        assert_eq!(readiness(&ready, &stopping).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
