//! Selections as PostgreSQL writes them. The only place that quotes an identifier or writes a condition.

use dbkeep_engine::{
    model::{Condition, Literal, Selection, TableKind, TableName, TableSchema, TimeEncoding, TypeClass},
    port::TargetError,
};
use jiff::{Timestamp, tz::TimeZone};

use super::{error::refused, sets};

/// How a statement over many rows takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As fast as the database can.
    AtOnce,
    /// With rests inside of it, while a table is read and while parents are hashed before the first row comes, which nothing from outside
    /// can divide. What rests and what does not: docs/adr/0022-rests-within-a-statement.md.
    Resting,
}

/// Share of the rows after each of which a statement rests: a thousand rows take about half a millisecond, which is less than a commit does.
const RESTING_ROWS: &str = "0.001";
/// How long it rests, seconds: a few times what was done, so that it is felt no more than the run, which looks at its own rows only.
const REST: &str = "0.002";

impl Pace {
    /// A condition that is true of each row of `alias`, and at times takes its time. It names a column that every table has, or it would be
    /// asked of the rows of a join and not of those that the table gives.
    fn rest(self, alias: &str) -> Option<String> {
        (self == Self::Resting).then(|| {
            format!("(pg_catalog.random() >= {RESTING_ROWS} OR pg_catalog.pg_sleep(CASE WHEN {alias}.tableoid = 0 THEN 0 ELSE {REST} END) IS NOT NULL)")
        })
    }

    /// A table of parents in a FROM clause, or what rests while it is read. It may be a view, which has no column of the system's; alone in
    /// its clause the condition is asked of its rows anyway. An EXISTS with such a condition of its own would not become a join. Rows of
    /// a table are told apart by their place where they are alike.
    pub(super) fn parents(self, schema: &TableSchema) -> String {
        let name = table(&schema.name);
        let columns = if schema.kind == TableKind::Table { "*, ctid" } else { "*" };
        match self {
            Self::AtOnce => name,
            Self::Resting => format!(
                "(SELECT {columns} FROM {name} WHERE pg_catalog.random() >= {RESTING_ROWS} OR pg_catalog.pg_sleep({REST}) IS NOT NULL)"
            ),
        }
    }
}

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

/// The statement that makes the archive of a table. Without defaults, constraints and identity: a row is kept there as it was. The primary
/// key keeps a row from being archived twice.
pub(super) fn archive(of: &TableSchema, into: &TableName, stamp_column: &str) -> String {
    let columns = of
        .captured_columns()
        .map(|column| format!("{} {}", identifier(&column.name), column.type_name));
    let key: Vec<String> = of.primary_key.iter().map(|name| identifier(name)).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}, {} timestamptz NOT NULL, PRIMARY KEY ({}))",
        table(into),
        columns.collect::<Vec<_>>().join(", "),
        identifier(stamp_column),
        key.join(", ")
    )
}

/// `FROM ONLY table AS t WHERE ...` of a selection.
pub(super) fn from_where(selection: &Selection) -> Result<String, TargetError> {
    from_where_at(selection, Pace::AtOnce)
}

/// The same at this pace.
pub(super) fn from_where_at(selection: &Selection, pace: Pace) -> Result<String, TargetError> {
    Ok(format!(
        "FROM ONLY {} AS t WHERE {}",
        table(&selection.table.name),
        predicate_at(selection, pace)?
    ))
}

/// The whole predicate of a selection over `t`. No part of it is ever NULL, so that `NOT` means what it says.
pub(super) fn predicate(selection: &Selection) -> Result<String, TargetError> {
    predicate_at(selection, Pace::AtOnce)
}

/// The same at this pace.
pub(super) fn predicate_at(selection: &Selection, pace: Pace) -> Result<String, TargetError> {
    let mut parts = Vec::from_iter(pace.rest("t"));
    parts.push(condition_at(&selection.table, &selection.matches, "t", pace)?);
    parts.extend(none_of_at(&selection.table, &selection.except, "t", pace)?);
    Ok(parts.join(" AND "))
}

/// `NOT ..` of each condition on a row of `schema` under this alias.
pub(super) fn none_of(schema: &TableSchema, conditions: &[Condition], alias: &str) -> Result<Vec<String>, TargetError> {
    none_of_at(schema, conditions, alias, Pace::AtOnce)
}

fn none_of_at(schema: &TableSchema, conditions: &[Condition], alias: &str, pace: Pace) -> Result<Vec<String>, TargetError> {
    let negated = |part| Ok(format!("NOT {}", condition_at(schema, part, alias, pace)?));
    conditions.iter().map(negated).collect()
}

/// Text as a literal, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A catalog's value; PostgreSQL reads a quoted one as of the type that it is compared with.
pub(super) fn value(value: &Literal) -> String {
    match value {
        Literal::Boolean(true) => "TRUE".to_owned(),
        Literal::Boolean(false) => "FALSE".to_owned(),
        Literal::Integer(number) => number.to_string(),
        Literal::Text(text) => literal(text),
    }
}

/// `a.x = b.y AND ..` for pairs of columns.
pub(super) fn same<'a>(left: &str, columns: &'a [String], right: &str, others: &'a [String]) -> String {
    let pairs = columns.iter().zip(others);
    let pairs = pairs.map(|(column, other)| format!("{left}.{} = {right}.{}", identifier(column), identifier(other)));
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

/// A condition on a row of `schema` under this alias; never NULL.
pub(super) fn condition(schema: &TableSchema, condition: &Condition, alias: &str) -> Result<String, TargetError> {
    condition_at(schema, condition, alias, Pace::AtOnce)
}

fn condition_at(schema: &TableSchema, condition: &Condition, alias: &str, pace: Pace) -> Result<String, TargetError> {
    let parts = |parts: &[Condition], operator: &str, none: &str| {
        let parts = parts.iter().map(|part| condition_at(schema, part, alias, pace));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        Ok(if parts.is_empty() {
            none.to_owned()
        } else {
            format!("({})", parts.join(operator))
        })
    };
    match condition {
        Condition::All(all) => parts(all, " AND ", "TRUE"),
        Condition::Any(any) => parts(any, " OR ", "FALSE"),
        Condition::Not(part) => Ok(format!("(NOT {})", condition_at(schema, part, alias, pace)?)),
        Condition::ParentMissing {
            columns,
            parent,
            parent_columns,
            unfit,
        } => {
            let p = inner(alias);
            let mut fit = vec![same(&p, parent_columns, alias, columns)];
            fit.extend(none_of_at(parent, unfit, &p, pace)?);
            Ok(format!(
                "({} AND NOT EXISTS (SELECT 1 FROM {} AS {p} WHERE {}))",
                present(alias, columns),
                pace.parents(parent),
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
                pace.parents(parent),
                same(&p, parent_columns, alias, columns),
                condition_at(parent, matches, &p, pace)?
            ))
        }
        Condition::KeyDangling {
            parent,
            parent_column,
            unfit,
            ..
        } => {
            let p = inner(alias);
            let key = text_key(condition, alias)?;
            let mut fit = vec![format!("{p}.{} = {}", identifier(parent_column), key.typed(&key.text))];
            fit.extend(none_of_at(parent, unfit, &p, pace)?);
            Ok(format!(
                "({} AND NOT EXISTS (SELECT 1 FROM {} AS {p} WHERE {}))",
                key.form,
                pace.parents(parent),
                fit.join(" AND ")
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
            let column = format!("{alias}.{}", identifier(column));
            Ok(format!("({column} IS NOT NULL AND {column} < {limit})"))
        }
        Condition::OneOf { column, values } => {
            let column = format!("{alias}.{}", identifier(column));
            let values: Vec<String> = values.iter().map(value).collect();
            Ok(format!("({column} IS NOT NULL AND {column} IN ({}))", values.join(", ")))
        }
        Condition::IsNull { column } => Ok(format!("({alias}.{} IS NULL)", identifier(column))),
        Condition::Duplicate { .. } | Condition::Cycle { .. } => sets::is_duplicate(condition, alias),
        // The text names columns without their table.
        Condition::Sql { text, .. } if alias == "t" => Ok(format!("coalesce(({text}), FALSE)")),
        Condition::Sql { table: of, text } => Ok(format!(
            "EXISTS (SELECT 1 FROM ONLY {} AS t WHERE {} AND coalesce(({text}), FALSE))",
            table(&of.name),
            same("t", &of.row_key, alias, &of.row_key)
        )),
    }
}

/// A key inside a text column.
pub(super) struct TextKey {
    /// Whether the row names a key at all; never NULL.
    form: String,
    /// The key as text, of rows of that form.
    pub(super) text: String,
    class: TypeClass,
}

impl TextKey {
    const NUMBER: &'static str = "^(0|[1-9][0-9]{0,17})$";
    const UUID: &'static str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";

    /// An expression of text as the type of the parent's column. The CASE keeps the cast from seeing other text, in whatever
    /// order the database evaluates the condition.
    pub(super) fn typed(&self, text: &str) -> String {
        match self.class {
            TypeClass::Text => text.to_owned(),
            TypeClass::Integer => format!("CASE WHEN {text} ~ '{}' THEN ({text})::bigint END", Self::NUMBER),
            _ => format!("CASE WHEN {text} ~ '{}' THEN ({text})::uuid END", Self::UUID),
        }
    }
}

/// The key that a row names by a condition of kind `KeyDangling`.
pub(super) fn text_key(condition: &Condition, alias: &str) -> Result<TextKey, TargetError> {
    let Condition::KeyDangling {
        column,
        json_path,
        prefix,
        suffix,
        parent,
        parent_column,
        ..
    } = condition
    else {
        return Err(refused("the condition names no text key".to_owned()));
    };
    let base = match json_path {
        Some(path) => {
            let path: Vec<String> = path.iter().map(|name| literal(name)).collect();
            let (column, path) = (identifier(column), path.join(", "));
            // An object or a list names nothing, whatever its text looks like.
            format!(
                "(CASE WHEN jsonb_typeof(({alias}.{column})::jsonb #> ARRAY[{path}]) IN ('string', 'number') \
                 THEN {alias}.{column} #>> ARRAY[{path}] END)"
            )
        }
        None => format!("{alias}.{}::text", identifier(column)),
    };
    let (before, after) = (prefix.chars().count(), suffix.chars().count());
    let text = format!(
        "substr({base}, {}, greatest(length({base}) - {}, 0))",
        before + 1,
        before + after
    );
    let class = parent.column(parent_column).map_or(TypeClass::Other, |column| column.class);
    let of_type = match class {
        TypeClass::Text => format!("{text} <> ''"),
        TypeClass::Integer => format!("{text} ~ '{}'", TextKey::NUMBER),
        _ => format!("{text} ~ '{}'", TextKey::UUID),
    };
    let form = format!(
        "{base} IS NOT NULL AND left({base}, {before}) = {} AND right({base}, {after}) = {} AND length({base}) >= {} AND {of_type}",
        literal(prefix),
        literal(suffix),
        before + after
    );
    Ok(TextKey { form, text, class })
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
