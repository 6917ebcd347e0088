//! Selections as SQLite writes them. The only place that quotes an identifier or writes a condition.

use dbkeep_engine::{
    model::{ChildLink, Condition, Literal, Selection, TableName, TableSchema, TimeEncoding, TypeClass, Value},
    port::TargetError,
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{error::refused, sets};

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
    predicate_of(selection, "t")
}

/// The same over a row under this alias. Beside other tables it must not be `t`: a condition in SQL names columns without their
/// table, and is given a row of its own only under another alias.
pub(super) fn predicate_of(selection: &Selection, alias: &str) -> Result<String, TargetError> {
    let mut parts = vec![condition(&selection.matches, alias)?];
    parts.extend(none_of(&selection.except, alias)?);
    Ok(parts.join(" AND "))
}

/// `NOT ..` of each condition on a row under this alias.
pub(super) fn none_of(conditions: &[Condition], alias: &str) -> Result<Vec<String>, TargetError> {
    let negated = |part| Ok(format!("NOT {}", condition(part, alias)?));
    conditions.iter().map(negated).collect()
}

/// Text as a literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A catalog's value.
pub(super) fn value(value: &Literal) -> String {
    match value {
        Literal::Boolean(value) => i32::from(*value).to_string(),
        Literal::Integer(number) => number.to_string(),
        Literal::Text(text) => literal(text),
    }
}

/// `a.x = b.y AND ..` for pairs of columns.
pub(super) fn same(left: &str, columns: &[String], right: &str, others: &[String]) -> String {
    let pairs = columns.iter().zip(others);
    let pairs = pairs.map(|(column, other)| format!("{left}.{} = {right}.{}", identifier(column), identifier(other)));
    pairs.collect::<Vec<_>>().join(" AND ")
}

/// How values of a column are compared, as far as it matters between two of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    /// Texts are taken for numbers where they look like some.
    Number,
    /// Values are taken as they are; texts or not.
    Other,
    /// `ANY`, which is one of the two: it depends on the table.
    Unknown,
}

/// SQLite's rules from a declared type to an affinity.
pub(super) fn affinity(type_name: &str) -> Affinity {
    let name = type_name.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if name == "ANY" {
        Affinity::Unknown
    } else if !has(&["INT"]) && (name.is_empty() || has(&["CHAR", "CLOB", "TEXT", "BLOB"])) {
        Affinity::Other
    } else {
        Affinity::Number
    }
}

/// Whether the row `child` names the row `parent` along a link, as the action of a declared key asks it: the parent's column comes
/// first, so that its collation holds, and of its affinity nothing is known there. That matters between a parent without a type
/// and a child of text alone; elsewhere the bare column can be looked up by an index.
pub(super) fn names(link: &ChildLink, parent: &str, child: &str) -> String {
    let text = |schema: &TableSchema, name: &String| schema.column(name).is_some_and(|column| column.class == TypeClass::Text);
    let pairs = link.parent_columns.iter().zip(&link.child_columns);
    let pairs = pairs.map(|(of_parent, of_child)| {
        let untyped = text(&link.child, of_child) && !text(&link.parent, of_parent);
        let plus = if untyped { "+" } else { "" };
        format!("{plus}{parent}.{} = {child}.{}", identifier(of_parent), identifier(of_child))
    });
    pairs.collect::<Vec<_>>().join(" AND ")
}

fn present(alias: &str, columns: &[String]) -> String {
    let present = columns
        .iter()
        .map(|column| format!("{alias}.{} IS NOT NULL", identifier(column)));
    present.collect::<Vec<_>>().join(" AND ")
}

/// An alias for a table inside a condition on the rows of `alias`.
fn inner(alias: &str) -> String {
    format!("{alias}p")
}

pub(super) fn condition(condition: &Condition, alias: &str) -> Result<String, TargetError> {
    let parts = |parts: &[Condition], operator: &str, none: &str| {
        let parts = parts.iter().map(|part| self::condition(part, alias));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        Ok(if parts.is_empty() {
            none.to_owned()
        } else {
            format!("({})", parts.join(operator))
        })
    };
    match condition {
        Condition::All(all) => parts(all, " AND ", "1"),
        Condition::Any(any) => parts(any, " OR ", "0"),
        Condition::Not(part) => Ok(format!("(NOT {})", self::condition(part, alias)?)),
        Condition::ParentMissing {
            columns,
            parent,
            parent_columns,
            unfit,
        } => {
            let p = inner(alias);
            let mut fit = vec![same(&p, parent_columns, alias, columns)];
            fit.extend(none_of(unfit, &p)?);
            Ok(format!(
                "({} AND NOT EXISTS (SELECT 1 FROM {} AS {p} WHERE {}))",
                present(alias, columns),
                table(&parent.name),
                fit.join(" AND ")
            ))
        }
        Condition::ParentMatches {
            columns,
            parent,
            parent_columns,
            matches,
        } => {
            let p = inner(alias);
            Ok(format!(
                "({} AND EXISTS (SELECT 1 FROM {} AS {p} WHERE {} AND {}))",
                present(alias, columns),
                table(&parent.name),
                same(&p, parent_columns, alias, columns),
                self::condition(matches, &p)?
            ))
        }
        Condition::KeyDangling {
            column,
            json_path,
            prefix,
            suffix,
            parent,
            parent_column,
            unfit,
        } => {
            let p = inner(alias);
            let column = format!("{alias}.{}", identifier(column));
            let base = match json_path {
                // Anything but JSON names nothing; json_extract would fail on it.
                Some(path) => {
                    let path: String = path.iter().map(|name| format!(".\"{}\"", name.replace('"', ""))).collect();
                    let whole = format!("CASE WHEN json_valid({column}) THEN {column} END");
                    let path = literal(&format!("${path}"));
                    // An object or a list names nothing, whatever its text looks like.
                    format!(
                        "CASE WHEN json_type({whole}, {path}) IN ('text', 'integer') THEN CAST(json_extract({whole}, {path}) AS TEXT) END"
                    )
                }
                None => format!("CASE WHEN typeof({column}) = 'text' THEN {column} END"),
            };
            let (before, after) = (prefix.chars().count(), suffix.chars().count());
            let key = format!("substr({base}, {}, max(length({base}) - {}, 0))", before + 1, before + after);
            let numeric = parent
                .column(parent_column)
                .is_some_and(|column| column.class == TypeClass::Integer);
            let (of_type, typed) = if numeric {
                (
                    format!(
                        "{key} <> '' AND {key} NOT GLOB '*[^0-9]*' AND length({key}) <= 18 AND CAST(CAST({key} AS INTEGER) AS TEXT) = {key}"
                    ),
                    format!("CAST({key} AS INTEGER)"),
                )
            } else {
                (format!("{key} <> ''"), key)
            };
            let mut fit = vec![format!("{p}.{} = {typed}", identifier(parent_column))];
            fit.extend(none_of(unfit, &p)?);
            let ending = if after == 0 {
                "1".to_owned()
            } else {
                format!("substr({base}, -{after}) = {}", literal(suffix))
            };
            Ok(format!(
                "(coalesce({base} IS NOT NULL AND length({base}) >= {} AND substr({base}, 1, {before}) = {} AND {ending} AND {of_type}, 0) \
                 AND NOT EXISTS (SELECT 1 FROM {} AS {p} WHERE {}))",
                before + after,
                literal(prefix),
                table(&parent.name),
                fit.join(" AND ")
            ))
        }
        Condition::OlderThan {
            column,
            horizon,
            encoding,
            ..
        } => older_than(&format!("{alias}.{}", identifier(column)), *horizon, *encoding),
        Condition::OneOf { column, values } => {
            let column = format!("{alias}.{}", identifier(column));
            let values: Vec<String> = values.iter().map(value).collect();
            Ok(format!("({column} IS NOT NULL AND {column} IN ({}))", values.join(", ")))
        }
        Condition::IsNull { column } => Ok(format!("({alias}.{} IS NULL)", identifier(column))),
        Condition::Duplicate { .. } | Condition::Cycle { .. } => sets::is_duplicate(condition, alias),
        // The text names columns without their table.
        Condition::Sql { text, .. } if alias == "t" => Ok(format!("coalesce(({text}), 0)")),
        Condition::Sql { table: of, text } => Ok(format!(
            "EXISTS (SELECT 1 FROM {} AS t WHERE {} AND coalesce(({text}), 0))",
            table(&of.name),
            same("t", &of.row_key, alias, &of.row_key)
        )),
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
        format!("(typeof({column}) IN ('integer', 'real') AND {column} < {limit})")
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
                "(typeof({column}) = 'text' AND {column} < '{day}' AND {column} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' \
                 AND coalesce(strftime('%Y-%m-%d %H:%M:%f', {column}) < '{exact}', 0))"
            ))
        }
        None => Err(refused("the catalog does not say how the column holds an instant".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_are_sqlites() {
        for name in [
            "INTEGER",
            "bigint",
            "REAL",
            "DECIMAL(10,5)",
            "DATETIME",
            "CHARINT",
            "BLOBINT",
            "odd",
        ] {
            assert_eq!(affinity(name), Affinity::Number, "{name}");
        }
        for name in ["", "TEXT", "varchar(20)", "CLOB", "BLOB", "BLOBREAL", "CHARDOUBLE"] {
            assert_eq!(affinity(name), Affinity::Other, "{name}");
        }
        assert_eq!(affinity("Any"), Affinity::Unknown);
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(identifier("we\"ird; --"), "\"we\"\"ird; --\"");
        assert_eq!(table(&TableName::parse("main.group")), "main.\"group\"");
    }
}
