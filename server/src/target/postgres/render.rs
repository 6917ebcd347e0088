//! Selections as PostgreSQL writes them. The only place that quotes an identifier or writes a condition.

use dbkeep_engine::{
    model::{Condition, Selection, TableName, TableSchema, TimeEncoding, TypeClass},
    port::TargetError,
};
use jiff::{Timestamp, tz::TimeZone};

use super::error::refused;

/// A quoted identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted table name.
pub(super) fn table(name: &TableName) -> String {
    match &name.schema {
        Some(schema) => format!("{}.{}", identifier(schema), identifier(&name.name)),
        None => identifier(&name.name),
    }
}

/// Columns of `t` as text: the form in which rows are captured.
pub(super) fn text_columns<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .map(|name| format!("t.{}::text", identifier(name)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `FROM ONLY table AS t WHERE ...` of a selection.
pub(super) fn from_where(selection: &Selection) -> Result<String, TargetError> {
    Ok(format!(
        "FROM ONLY {} AS t WHERE {}",
        table(&selection.table.name),
        predicate(selection)?
    ))
}

/// The whole predicate of a selection over `t`. No part of it is ever NULL, so that `NOT` means what it says.
pub(super) fn predicate(selection: &Selection) -> Result<String, TargetError> {
    let mut parts = vec![condition(&selection.table, &selection.matches)?];
    for earlier in &selection.except {
        parts.push(format!("NOT {}", condition(&selection.table, earlier)?));
    }
    Ok(parts.join(" AND "))
}

fn condition(schema: &TableSchema, condition: &Condition) -> Result<String, TargetError> {
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
            zone,
        } => {
            let class = schema.column(column).map_or(TypeClass::Other, |column| column.class);
            let limit = horizon_literal(class, *horizon, *encoding, zone.as_deref())?;
            let column = identifier(column);
            Ok(format!("(t.{column} IS NOT NULL AND t.{column} < {limit})"))
        }
    }
}

/// The horizon in the form that the column has.
fn horizon_literal(
    class: TypeClass,
    horizon: Timestamp,
    encoding: Option<TimeEncoding>,
    zone: Option<&str>,
) -> Result<String, TargetError> {
    match (class, encoding) {
        (TypeClass::Instant, _) => Ok(format!(
            "TIMESTAMPTZ '{}'",
            horizon.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f+00")
        )),
        (TypeClass::CivilTime | TypeClass::Date, _) => {
            let zone = TimeZone::get(zone.unwrap_or("UTC")).map_err(|error| refused(error.to_string()))?;
            Ok(format!(
                "TIMESTAMP '{}'",
                horizon.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%.6f")
            ))
        }
        // Of whole units those before the horizon are exactly those below its value rounded up.
        (TypeClass::Integer, Some(TimeEncoding::UnixSeconds)) => Ok(ceil_div(horizon.as_microsecond(), 1_000_000).to_string()),
        (TypeClass::Integer, Some(TimeEncoding::UnixMillis)) => Ok(ceil_div(horizon.as_microsecond(), 1_000).to_string()),
        (TypeClass::Real, Some(TimeEncoding::UnixSeconds)) => Ok(format!("{}e-6", horizon.as_microsecond())),
        (TypeClass::Real, Some(TimeEncoding::UnixMillis)) => Ok(format!("{}e-3", horizon.as_microsecond())),
        _ => Err(refused("the column cannot be compared with an instant".to_owned())),
    }
}

fn ceil_div(value: i64, divisor: i64) -> i64 {
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(identifier("select"), "\"select\"");
        assert_eq!(identifier("we\"ird; --"), "\"we\"\"ird; --\"");
        assert_eq!(
            table(&TableName {
                schema: Some("My Schema".into()),
                name: "T".into()
            }),
            "\"My Schema\".\"T\""
        );
    }

    #[test]
    fn the_horizon_takes_the_column_s_form() {
        let horizon: Timestamp = "2024-03-31T01:30:00.5Z".parse().expect("an instant");
        let literal = |class, encoding, zone| horizon_literal(class, horizon, encoding, zone).expect("a literal");
        assert_eq!(
            literal(TypeClass::Instant, None, None),
            "TIMESTAMPTZ '2024-03-31 01:30:00.500000+00'"
        );
        assert_eq!(
            literal(TypeClass::CivilTime, None, Some("Europe/Berlin")),
            "TIMESTAMP '2024-03-31 03:30:00.500000'"
        );
        assert_eq!(
            literal(TypeClass::Integer, Some(TimeEncoding::UnixSeconds), None),
            "1711848601"
        );
        assert_eq!(
            literal(TypeClass::Integer, Some(TimeEncoding::UnixMillis), None),
            "1711848600500"
        );
        assert_eq!(
            literal(TypeClass::Real, Some(TimeEncoding::UnixSeconds), None),
            "1711848600500000e-6"
        );
    }
}
