//! `CleanupService.DiscoverOperations`: checks the request and gives the discovery the caller's time. Called by `cleanup.rs`.

use std::time::Duration;

use dbkeep_engine::{Engine, discover::Options, model::TableName};
use dbkeep_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{convert, detached, status::Fault, validate::Check};

/// Most tables that a request names.
const MAX_TABLES: usize = 1_000;
/// Part of the caller's time that is kept for the way of the answer.
const RETURN: Duration = Duration::from_millis(250);

/// Discovers until shortly before the deadline.
pub(super) async fn discover(
    engine: &Engine,
    request: v1::DiscoverOperationsRequest,
    deadline: Option<Instant>,
) -> Result<v1::DiscoverOperationsResponse, Fault> {
    let given_up = CancellationToken::new();
    let options = options(&request, deadline, given_up.clone())?;
    // Whoever goes away drops this future, but not the task that works: it looks at the token between two statements.
    let _waiting = given_up.drop_guard();
    let engine = engine.clone();
    let found = detached(async move { engine.discover(&request.target, &options).await }).await?;
    Ok(convert::discovery::discovery(found))
}

fn options(
    request: &v1::DiscoverOperationsRequest,
    deadline: Option<Instant>,
    given_up: CancellationToken,
) -> Result<Options, Fault> {
    let mut check = Check::default();
    if request.tables.len() > MAX_TABLES {
        let count = request.tables.len();
        check.refuse("tables", format!("names {count} tables; expected at most {MAX_TABLES}"));
    }
    for (position, table) in request.tables.iter().enumerate() {
        check.present(&format!("tables[{position}]"), table, "the name of a table");
    }
    let min_confidence = request.min_confidence.unwrap_or(Options::MIN_CONFIDENCE);
    if !(0.0..=1.0).contains(&min_confidence) {
        check.refuse("min_confidence", format!("is {min_confidence}; expected 0 to 1"));
    }
    let most = Options::MAX_LIMIT;
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    if limit > most {
        check.refuse("limit", format!("is {limit}; expected 1 to {most}, or 0 for {most}"));
    }
    check.finish()?;
    let time = deadline.map_or(Options::MAX_TIME, |deadline| {
        deadline.saturating_duration_since(Instant::now()).saturating_sub(RETURN)
    });
    Ok(Options {
        tables: request.tables.iter().map(|table| TableName::parse(table)).collect(),
        min_confidence,
        limit: if limit == 0 { most } else { limit },
        given_up,
        ..Options::within(time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &v1::DiscoverOperationsRequest, seconds: u64) -> Result<Options, Fault> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        options(request, Some(deadline), CancellationToken::new())
    }

    #[test]
    fn absent_fields_are_the_defaults_and_the_deadline_is_kept() {
        let options = asked(&v1::DiscoverOperationsRequest::default(), 10).expect("options");
        assert_eq!((options.limit, options.tables.len()), (Options::MAX_LIMIT, 0));
        assert!((options.min_confidence - Options::MIN_CONFIDENCE).abs() < f64::EPSILON);
        let end = options.until + options.statement_limit;
        assert!(end <= std::time::Instant::now() + Duration::from_secs(10), "{options:?}");
    }

    #[test]
    fn every_mistake_is_named() {
        let request = v1::DiscoverOperationsRequest {
            tables: vec!["users".into(), String::new()],
            min_confidence: Some(f64::NAN),
            limit: 1_001,
            ..Default::default()
        };
        let Err(Fault::Fields(violations)) = asked(&request, 10) else {
            panic!("no refusal")
        };
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["tables[1]", "min_confidence", "limit"]);
    }
}
