//! Selections as SQLite writes them. The only place that quotes an identifier or writes a condition.

use dbkeep_engine::{
    model::{Condition, Selection, TableName, TimeEncoding, Value},
    port::TargetError,
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::error::refused;

/// A quoted identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted table name.
pub(super) fn table(name: &TableName) -> String {
    format!("main.{}", identifier(&name.name))
}

/// Columns of `t`.
pub(super) fn columns<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .map(|name| format!("t.{}", identifier(name)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A parameter for this value: bytes that are no UTF-8 travel as a blob and become text again.
pub(super) fn placeholder(value: &Value) -> &'static str {
    match value {
        Value::Text(bytes) if std::str::from_utf8(bytes).is_err() => "CAST(? AS TEXT)",
        _ => "?",
    }
}

/// The whole predicate of a selection over `t`. No part of it is ever NULL, so that `NOT` means what it says.
pub(super) fn predicate(selection: &Selection) -> Result<String, TargetError> {
    let mut parts = vec![condition(&selection.matches)?];
    for earlier in &selection.except {
        parts.push(format!("NOT {}", condition(earlier)?));
    }
    Ok(parts.join(" AND "))
}

fn condition(condition: &Condition) -> Result<String, TargetError> {
    match condition {
        Condition::ParentMissing {
            columns,
            parent,
            parent_columns,
        } => {
            let present = columns.iter().map(|column| format!("t.{} IS NOT NULL", identifier(column)));
            let same = columns
                .iter()
                .zip(parent_columns)
                .map(|(column, key)| format!("p.{} = t.{}", identifier(key), identifier(column)));
            Ok(format!(
                "({} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {}))",
                present.collect::<Vec<_>>().join(" AND "),
                table(&parent.name),
                same.collect::<Vec<_>>().join(" AND ")
            ))
        }
        Condition::OlderThan {
            column,
            horizon,
            encoding,
            ..
        } => older_than(&identifier(column), *horizon, *encoding),
    }
}

/// Columns have no fixed type in SQLite: a value of another storage class than the declared encoding never expires.
fn older_than(column: &str, horizon: Timestamp, encoding: Option<TimeEncoding>) -> Result<String, TargetError> {
    let unix = |divisor: i64| {
        // A value may have a fraction whatever the column's type, so that the horizon keeps its own.
        let micros = horizon.as_microsecond();
        let limit = if micros % divisor == 0 {
            (micros / divisor).to_string()
        } else {
            format!("{micros}e-{}", divisor.ilog10())
        };
        format!("(typeof(t.{column}) IN ('integer', 'real') AND t.{column} < {limit})")
    };
    match encoding {
        Some(TimeEncoding::UnixSeconds) => Ok(unix(1_000_000)),
        Some(TimeEncoding::UnixMillis) => Ok(unix(1_000)),
        Some(TimeEncoding::TextUtc) => {
            // To strftime a bare number is a Julian day, and `12:00` lies in the year 2000: only what begins as a date counts.
            // It brings every ISO 8601 form, with `T`, `Z` or an offset, to one that compares as text, rounded to a
            // millisecond; the horizon is rounded down, so that rounding keeps rows rather than takes them. The comparison of the
            // bare text with the day after the next is always true of such rows; it lets an index skip the others.
            let exact = horizon.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
            let later = horizon
                .checked_add(SignedDuration::from_hours(48))
                .map_err(|error| refused(error.to_string()))?;
            let day = later.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string();
            Ok(format!(
                "(typeof(t.{column}) = 'text' AND t.{column} < '{day}' AND t.{column} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' \
                 AND coalesce(strftime('%Y-%m-%d %H:%M:%f', t.{column}) < '{exact}', 0))"
            ))
        }
        None => Err(refused("the catalog does not say how the column holds an instant".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(identifier("we\"ird; --"), "\"we\"\"ird; --\"");
        assert_eq!(table(&TableName::parse("main.group")), "main.\"group\"");
    }
}
