//! The log: where it goes, how it looks, and what never comes into it; and the traces, for a collector that the environment names. Nothing
//! else in the server knows about subscribers. Called by the binary, and by the gate for what a call belongs to.

use std::{env, io::IsTerminal as _, path::PathBuf};

use http::HeaderMap;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{
    SpanExporter, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, ParseError, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    registry,
    util::SubscriberInitExt as _,
};

/// Environment variable that says what is logged, in the syntax of tracing's filters.
pub const FILTER_VARIABLE: &str = "DBKEEP_LOG";
/// Environment variables that name the collector, the first that is set; OpenTelemetry's own, as are those for its time limit, its headers,
/// the sampler and the name of the service.
const COLLECTOR_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// The same for a file with the authorities of the collector's certificate; the public ones without it.
const AUTHORITY_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
/// The name of the service where none is set.
const SERVICE_VARIABLE: &str = "OTEL_SERVICE_NAME";
/// What is logged where it is not set.
const DEFAULT_FILTER: &str = "info,sqlx=warn,h2=warn,hyper=warn,tower=warn";

/// Libraries that carry what callers and receivers are sent. What they log below INFO is about the line, and nobody here decides what of a
/// request their next version shows there: they stay silent, whatever is asked for.
const CARRIERS: [&str; 11] = [
    "h2",
    "hyper",
    "hyper_util",
    "lettre",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "tokio_rustls",
    "tonic",
    "tower",
    "tower_http",
];

/// Whether an event may be logged at all.
fn is_open(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !is_carrier(metadata.target())
}

/// Whether a target is, or is in, one of [`CARRIERS`].
fn is_carrier(target: &str) -> bool {
    let library = target.split("::").next().unwrap_or(target);
    CARRIERS.contains(&library)
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("{FILTER_VARIABLE} is malformed: {0}")]
    Filter(#[from] ParseError),
    /// Something else has set up a log before.
    #[error("the log is set up already")]
    Taken,
    /// Spans cannot be sent to the collector.
    #[error(
        "spans cannot be sent to {collector}: {problem}; expected http://HOST:PORT or https://HOST:PORT of a collector that speaks OTLP over gRPC"
    )]
    Collector {
        /// Where they should go.
        collector: String,
        /// Why they cannot.
        problem: String,
    },
}

/// Spans on their way to a collector.
#[derive(Debug, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends what is left, and ends. A collector that is away is waited for as long as its time limit says.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn first_of(variables: &[&str]) -> Option<String> {
    let values = variables.iter().filter_map(|name| env::var(name).ok());
    values.into_iter().find(|value| !value.trim().is_empty())
}

/// The way to the collector that the environment names, if any.
fn traces() -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let Some(collector) = first_of(&COLLECTOR_VARIABLES) else {
        return Ok(None);
    };
    let failed = |problem: String| TelemetryError::Collector {
        collector: collector.clone(),
        problem,
    };
    let mut exporter = SpanExporter::builder().with_tonic();
    if collector.starts_with("https:") {
        let mut tls = ClientTlsConfig::new();
        tls = match first_of(&AUTHORITY_VARIABLES).map(PathBuf::from) {
            Some(file) => {
                let pem = std::fs::read(&file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => tls.with_webpki_roots(),
        };
        exporter = exporter.with_tls_config(tls);
    }
    let exporter = exporter.build().map_err(|error| failed(error.to_string()))?;
    let mut resource = Resource::builder();
    if env::var_os(SERVICE_VARIABLE).is_none() {
        resource = resource.with_service_name("dbkeepd");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build());
    Ok(Some(provider.build()))
}

/// The headers of a call, for whoever looks for what it belongs to.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Makes a span part of the trace that its caller names (`traceparent`, W3C Trace Context).
pub(crate) fn follow(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    // Where there is no trace to belong to, the span is its own.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
}

/// Sends the log to the error stream, which leaves the output to what the binary promises to print there, and spans to the collector that
/// the environment names. Within a runtime, which carries them.
///
/// # Errors
/// Where the filter is malformed, a log is there already, or the collector is no address.
pub fn init(format: Format) -> Result<Traces, TelemetryError> {
    let filter = EnvFilter::try_new(env::var(FILTER_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.to_owned()))?;
    let colours = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    // Spans are for the collector: a line of the log says by itself what it is about.
    let open = filter.and(filter_fn(|metadata| metadata.is_event() && is_open(metadata)));
    let provider = traces()?;
    let spans = provider.as_ref().map(|provider| {
        let own = filter_fn(|metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with("dbkeep"));
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("dbkeepd"))
            .with_filter(own)
    });
    let lines = match format {
        Format::Text => lines.with_filter(open).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(open).boxed(),
    };
    let result = registry().with(lines).with(spans).try_init();
    result.map_err(|_| TelemetryError::Taken)?;
    Ok(Traces(provider))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_secrets_is_known_by_its_library() {
        for carrier in [
            "h2",
            "h2::codec::framed_read",
            "hyper_util::client::legacy::pool",
            "lettre::transport",
        ] {
            assert!(is_carrier(carrier), "{carrier}");
        }
        for other in ["dbkeep_server::grpc", "sqlx::query", "h2o", "", "dbkeep_engine::h2"] {
            assert!(!is_carrier(other), "{other}");
        }
    }
}
