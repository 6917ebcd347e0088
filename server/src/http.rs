//! What the server's port answers beside gRPC: `/metrics` in Prometheus' text format, `/healthz` and `/readyz`.
//!
//! `/metrics` names targets and tables, and callers of plain HTTP have no name: it answers to this machine only, whatever the server listens
//! on. The other two tell nothing but whether the server works. Nothing here asks a target: samples are those that were collected.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use axum::{
    Router,
    http::{Extensions, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use dbkeep_engine::{
    Engine, EngineError,
    model::{
        RunState,
        monitor::{AlertState, Kind, Metric},
    },
    port::{AlertFilter, RunFilter},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpConnectInfo;

/// The text format that Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest wait for the control store.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most runs and alerts that are counted.
const MOST: u32 = 10_000;

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
    let rendered = tokio::spawn(async move { render(&engine).await }).await;
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

/// One family of samples.
struct Family<'a> {
    name: String,
    help: &'a str,
    kind: &'static str,
    /// Labels, written, and the value.
    samples: Vec<(String, f64)>,
}

impl Family<'_> {
    fn write(&self, text: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        let (name, kind) = (&self.name, self.kind);
        let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in &self.samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    }
}

/// `{a="1",b="2"}`; labels without a value are left out.
fn labels(pairs: &[(&str, &str)]) -> String {
    let written: Vec<String> = pairs
        .iter()
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    if written.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", written.join(","))
    }
}

/// Everything, in the order of the registry. Labels are bounded: by targets, and by the tables that history is kept of.
async fn render(engine: &Engine) -> Result<String, EngineError> {
    let mut families: BTreeMap<Metric, Vec<(String, f64)>> = BTreeMap::new();
    let names = engine.targets().keys().map(String::as_str).chain([""]);
    for target in names {
        for (_, sample) in engine.newest_samples(target).await? {
            let labels = labels(&[("target", target), (sample.metric.object(), &sample.object)]);
            families.entry(sample.metric).or_default().push((labels, sample.value));
        }
    }
    let mut text = String::new();
    for (metric, samples) in families {
        let prefix = if metric.is_of_server() { "dbkeep" } else { "dbkeep_target" };
        Family {
            name: format!("{prefix}_{}", metric.name()),
            help: metric.help(),
            kind: match metric.kind() {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
            },
            samples,
        }
        .write(&mut text);
    }
    own(engine, &mut text).await?;
    Ok(text)
}

/// Numbers of the service itself.
async fn own(engine: &Engine, text: &mut String) -> Result<(), EngineError> {
    let mut gauge = |name: &str, help: &str, samples: Vec<(String, f64)>| {
        Family {
            name: format!("dbkeep_{name}"),
            help,
            kind: "gauge",
            samples,
        }
        .write(text);
    };
    let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    gauge("build_info", "The version of this server.", vec![(version, 1.0)]);
    let living: Vec<RunState> = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
    let filter = RunFilter {
        states: living.clone(),
        ..RunFilter::default()
    };
    let runs = engine.runs(&filter, None, MOST).await?;
    let by_state = living.into_iter().map(|state| {
        let number = runs.iter().filter(|run| run.state == state).count();
        (labels(&[("state", state.name())]), count(number))
    });
    gauge("runs", "Runs that have not ended, by state.", by_state.collect());
    let filter = AlertFilter {
        states: vec![AlertState::Raised],
        limit: MOST,
        ..AlertFilter::default()
    };
    let mut raised: BTreeMap<String, usize> = BTreeMap::new();
    for alert in engine.alerts(&filter).await? {
        let labels = labels(&[
            ("target", &alert.target),
            ("rule", &alert.rule),
            ("level", alert.level.name()),
        ]);
        *raised.entry(labels).or_default() += 1;
    }
    let raised = raised.into_iter().map(|(labels, number)| (labels, count(number)));
    gauge("alerts_raised", "Alerts that are raised.", raised.collect());
    let scheduler = engine.scheduler_view().await?;
    let one = |value: f64| vec![(String::new(), value)];
    let running = if scheduler.switch.running { 1.0 } else { 0.0 };
    gauge(
        "scheduler_running",
        "1 where slots are decided, 0 where the switch is off.",
        one(running),
    );
    let alive = scheduler.servers.iter().filter(|server| server.alive).count();
    gauge(
        "servers_alive",
        "Servers that work with this control store.",
        one(count(alive)),
    );
    let usage = engine.history_usage().await?;
    gauge("history_points", "Points of history that are kept.", one(wide(usage.points)));
    gauge("history_points_limit", "Most points of history.", one(wide(usage.max_points)));
    gauge("history_series", "Series of which history is kept.", one(wide(usage.series)));
    Ok(())
}

fn count(number: usize) -> f64 {
    wide(u64::try_from(number).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has floating point numbers")]
fn wide(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_empty_ones_left_out() {
        assert_eq!(labels(&[("target", "app"), ("", "x"), ("table", "")]), "{target=\"app\"}");
        assert_eq!(labels(&[("table", "a\"b\\c\nd")]), "{table=\"a\\\"b\\\\c\\nd\"}");
        assert_eq!(labels(&[]), "");
    }

    #[test]
    fn a_family_without_samples_is_not_there() {
        let mut text = String::new();
        let family = |samples| Family {
            name: "dbkeep_x".to_owned(),
            help: "a\nb",
            kind: "gauge",
            samples,
        };
        family(Vec::new()).write(&mut text);
        assert_eq!(text, "");
        family(vec![(String::new(), 5e9)]).write(&mut text);
        assert_eq!(text, "# HELP dbkeep_x a\\nb\n# TYPE dbkeep_x gauge\ndbkeep_x 5000000000\n");
    }
}
