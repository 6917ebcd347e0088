//! The log: where it goes, how it looks, and what never comes into it. Nothing else in the server knows about subscribers. Called by the
//! binary.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
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
}

/// Sends the log to the error stream, which leaves the output to what the binary promises to print there.
///
/// # Errors
/// Where the filter is malformed or a log is there already.
pub fn init(format: Format) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.to_owned()))?;
    let colours = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    let open = filter.and(filter_fn(is_open));
    let result = match format {
        Format::Text => registry().with(lines.with_filter(open)).try_init(),
        Format::Json => registry().with(lines.json().flatten_event(true).with_filter(open)).try_init(),
    };
    result.map_err(|_| TelemetryError::Taken)
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
