//! The log: where it goes and how it looks. Nothing else in the server knows about subscribers. Called by the binary.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, util::SubscriberInitExt as _};

/// Environment variable that says what is logged, in the syntax of tracing's filters.
pub const FILTER_VARIABLE: &str = "DBKEEP_LOG";
/// What is logged where it is not set.
const DEFAULT_FILTER: &str = "info,sqlx=warn,h2=warn,hyper=warn,tower=warn";

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
    let lines = fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let result = match format {
        Format::Text => lines.finish().try_init(),
        Format::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    result.map_err(|_| TelemetryError::Taken)
}
