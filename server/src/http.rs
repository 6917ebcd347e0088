//! What the server's port answers beside gRPC: `/metrics` in Prometheus' text format, `/healthz` and `/readyz`.
//!
//! `/metrics` names targets and tables, and callers of plain HTTP have no name: it answers to this machine only, whatever the server listens
//! on. The other two tell nothing but whether the server works. Nothing here asks a target: samples are those that were collected.

mod exposition;

use std::time::Duration;

use axum::{
    Router,
    http::{Extensions, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use dbkeep_engine::Engine;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpConnectInfo;

/// The text format that Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest wait for the control store.
const PATIENCE: Duration = Duration::from_secs(2);

/// Adds the paths to a router. `stopping` is cancelled when the server goes down.
pub(crate) fn add(router: Router, engine: Engine, stopping: CancellationToken) -> Router {
    let ready = engine.clone();
    router
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || {
                let (engine, stopping) = (ready.clone(), stopping.clone());
                async move { readiness(&engine, &stopping).await }
            }),
        )
        .route(
            "/metrics",
            get(move |extensions: Extensions| {
                let engine = engine.clone();
                async move { metrics(&engine, &extensions).await }
            }),
        )
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

async fn metrics(engine: &Engine, extensions: &Extensions) -> Response {
    let peer = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return (StatusCode::FORBIDDEN, "metrics are shown to this machine only\n").into_response();
    }
    let engine = engine.clone();
    // In a task of its own, so that a caller who goes away leaves no query half-way.
    let rendered = tokio::spawn(async move { exposition::render(&engine).await }).await;
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
