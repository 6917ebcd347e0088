//! JSON of the sizes around a scheduled run, and of what to do after it. Called by `run.rs`.

use dbkeep_client::proto::{self, RecommendationLevel, RowCountBasis};
use serde::Serialize;

/// Sizes before and after a run.
#[derive(Debug, Serialize)]
pub(crate) struct Sizes<'a> {
    /// Null where unknown.
    before: Option<Snapshot<'a>>,
    /// Null until the run has ended, and where unknown.
    after: Option<Snapshot<'a>>,
}

impl<'a> From<&'a proto::RunSizes> for Sizes<'a> {
    fn from(sizes: &'a proto::RunSizes) -> Self {
        Self {
            before: sizes.before.as_ref().map(Snapshot::from),
            after: sizes.after.as_ref().map(Snapshot::from),
        }
    }
}

#[derive(Debug, Serialize)]
struct Snapshot<'a> {
    time: Option<String>,
    database_bytes: Option<u64>,
    /// Null where the database does not know it as a whole.
    reusable_bytes: Option<u64>,
    tables: Vec<Table<'a>>,
}

impl<'a> From<&'a proto::SizeSnapshot> for Snapshot<'a> {
    fn from(snapshot: &'a proto::SizeSnapshot) -> Self {
        Self {
            time: super::time(snapshot.time.as_ref()),
            database_bytes: snapshot.database_bytes,
            reusable_bytes: snapshot.reusable_bytes,
            tables: snapshot.tables.iter().map(Table::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Table<'a> {
    table: &'a str,
    row_count: Option<u64>,
    /// "count", "estimate" or "unknown".
    row_count_basis: &'static str,
    bytes: Option<u64>,
    /// Null where the database has none (SQLite), and where unknown.
    dead_rows: Option<u64>,
    /// Null where unknown, and where the database only knows what is free in all of it (SQLite).
    free_bytes: Option<u64>,
}

impl<'a> From<&'a proto::TableSize> for Table<'a> {
    fn from(size: &'a proto::TableSize) -> Self {
        Self {
            table: &size.table,
            row_count: size.row_count,
            row_count_basis: basis(size.row_count_basis()),
            bytes: size.bytes,
            dead_rows: size.dead_rows,
            free_bytes: size.free_bytes,
        }
    }
}

/// How a number of rows is known, in a word.
pub(crate) fn basis(basis: RowCountBasis) -> &'static str {
    match basis {
        RowCountBasis::Unspecified => "unknown",
        RowCountBasis::Estimate => "estimate",
        RowCountBasis::Count => "count",
    }
}

/// What to do next.
#[derive(Debug, Serialize)]
pub(crate) struct Recommendation<'a> {
    key: &'a str,
    /// "info", "warn" or "act"; "unspecified" from a later server.
    level: &'static str,
    name: &'a str,
    detail: &'a str,
    /// Null where none fits.
    remediation: Option<&'a str>,
    evidence: Vec<Evidence<'a>>,
}

/// A number that advice rests on.
#[derive(Debug, Serialize)]
struct Evidence<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> From<&'a proto::Recommendation> for Recommendation<'a> {
    fn from(recommendation: &'a proto::Recommendation) -> Self {
        Self {
            key: &recommendation.key,
            level: urgency(recommendation.level()),
            name: &recommendation.name,
            detail: &recommendation.detail,
            remediation: super::text(&recommendation.remediation),
            evidence: recommendation
                .evidence
                .iter()
                .map(|number| Evidence {
                    name: &number.name,
                    value: &number.value,
                })
                .collect(),
        }
    }
}

/// How urgent advice is, in a word.
pub(crate) fn urgency(level: RecommendationLevel) -> &'static str {
    match level {
        RecommendationLevel::Unspecified => "unspecified",
        RecommendationLevel::Info => "info",
        RecommendationLevel::Warn => "warn",
        RecommendationLevel::Act => "act",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_null_and_never_zero() {
        let sizes = proto::RunSizes {
            before: Some(proto::SizeSnapshot {
                database_bytes: Some(8192),
                tables: vec![proto::TableSize {
                    table: "logs".into(),
                    row_count: Some(7),
                    row_count_basis: RowCountBasis::Estimate.into(),
                    bytes: None,
                    dead_rows: Some(0),
                    free_bytes: None,
                }],
                ..Default::default()
            }),
            after: None,
        };
        assert_eq!(
            serde_json::to_string(&Sizes::from(&sizes)).unwrap(),
            concat!(
                r#"{"before":{"time":null,"database_bytes":8192,"reusable_bytes":null,"tables":[{"table":"logs","row_count":7,"#,
                r#""row_count_basis":"estimate","bytes":null,"dead_rows":0,"free_bytes":null}]},"after":null}"#
            )
        );
        let recommendation = proto::Recommendation {
            key: "time_limit".into(),
            level: RecommendationLevel::Warn.into(),
            name: "Give it more".into(),
            detail: "more time".into(),
            remediation: String::new(),
            evidence: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&Recommendation::from(&recommendation)).unwrap(),
            r#"{"key":"time_limit","level":"warn","name":"Give it more","detail":"more time","remediation":null,"evidence":[]}"#
        );
    }
}
