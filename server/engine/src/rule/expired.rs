//! Rule kind `expired`: rows whose time column lies strictly before a horizon. The horizon is computed once per plan, from the
//! target's clock, in UTC. A NULL time never expires, and a row exactly on the horizon stays.

use jiff::{Span, Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch, Schemas, column_of, schema_of};
use crate::model::{Condition, EngineKind, Finding, FindingLevel, TableName, TableSchema, TimeEncoding, TypeClass};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "expired",
    summary: "rows older than a retention, or past their own expiry",
};

/// After so many days the calendar repeats itself.
const DAYS_OF_FOUR_YEARS: i64 = 1_461;

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    column: String,
    fallback: Option<String>,
    retention: Option<String>,
    expiry: Option<bool>,
    zone: Option<String>,
    encoding: Option<TimeEncoding>,
}

/// What the time column means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Age {
    /// It says when the row was made or last used; the row goes when it is older than this ISO 8601 duration.
    Retention(String),
    /// It says when the row itself expires.
    Expiry,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// Column that holds the instant.
    pub column: String,
    /// Column that decides where that one is NULL.
    #[serde(default)]
    pub fallback: Option<String>,
    /// What it means.
    pub age: Age,
    /// Zone of a zone-less column (IANA name).
    pub zone: Option<String>,
    /// How a column that is no timestamp holds the instant.
    pub encoding: Option<TimeEncoding>,
}

/// Reads an ISO 8601 duration that points to the past: positive, in calendar units.
fn parse_retention(text: &str) -> Result<Span, String> {
    let expectation = "expected a positive ISO 8601 duration such as P1Y, P30D or PT12H";
    let span: Span = text.parse().map_err(|_| format!("retention is {text:?}; {expectation}"))?;
    if span.is_positive() {
        Ok(span)
    } else {
        Err(format!("retention is {text:?}; {expectation}"))
    }
}

impl TryFrom<Settings> for Expired {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let age = match (settings.retention, settings.expiry) {
            (Some(retention), None | Some(false)) => {
                parse_retention(&retention)?;
                Age::Retention(retention)
            }
            (None, Some(true)) => Age::Expiry,
            (Some(_), Some(true)) => {
                return Err(
                    "retention and expiry are both set; expected retention where the column says how old the row is, \
                            or expiry = true where it says when the row expires"
                        .to_owned(),
                );
            }
            (None, None | Some(false)) => {
                return Err(
                    "retention is missing; there is no default: expected retention = \"P1Y\" or the like, \
                            or expiry = true where the column says when the row expires"
                        .to_owned(),
                );
            }
        };
        if let Some(zone) = &settings.zone {
            TimeZone::get(zone).map_err(|_| format!("zone is {zone:?}; expected an IANA name such as UTC or Europe/Berlin"))?;
        }
        Ok(Self {
            column: settings.column,
            fallback: settings.fallback,
            age,
            zone: settings.zone,
            encoding: settings.encoding,
        })
    }
}

impl Expired {
    /// The rule for rows whose column is older than a duration.
    pub(super) fn older_than(
        column: &str,
        age: &str,
        zone: Option<&str>,
        encoding: Option<TimeEncoding>,
    ) -> Result<Self, String> {
        Settings {
            column: column.to_owned(),
            fallback: None,
            retention: Some(age.to_owned()),
            expiry: None,
            zone: zone.map(str::to_owned),
            encoding,
        }
        .try_into()
    }

    pub(super) fn describe(&self, table: &TableName) -> String {
        let column = match &self.fallback {
            Some(fallback) => format!("{} (or {fallback}, where that is NULL)", self.column),
            None => self.column.clone(),
        };
        match &self.age {
            Age::Retention(retention) => format!("rows of {table} whose {column} is more than {retention} ago"),
            Age::Expiry => format!("rows of {table} whose {column} is past"),
        }
    }

    pub(super) fn horizon(&self, clock: Timestamp) -> Result<Timestamp, Mismatch> {
        let Age::Retention(retention) = &self.age else {
            return Ok(clock);
        };
        let span = parse_retention(retention).map_err(Mismatch::new)?;
        let horizon = clock.to_zoned(TimeZone::UTC).checked_sub(span);
        Ok(horizon
            .map_err(|_| Mismatch::new(format!("retention {retention} reaches before the first date; expected less")))?
            .timestamp())
    }

    /// Whether every row of this rule is one of the other's too, on whatever day both look at the same table.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let alike = Self {
            age: other.age.clone(),
            ..self.clone()
        };
        if alike != *other {
            return false;
        }
        match (&self.age, &other.age) {
            (_, Age::Expiry) => true,
            (Age::Expiry, Age::Retention(_)) => false,
            // Months are longer and shorter: P30D is now more and now less than P1M.
            (Age::Retention(own), Age::Retention(others)) => {
                let no_later =
                    |clock| matches!((self.horizon(clock), other.horizon(clock)), (Ok(own), Ok(others)) if own <= others);
                let mut days = DAYS_OF_FOUR_YEARS * 10..DAYS_OF_FOUR_YEARS * 11;
                own == others || days.all(|day| Timestamp::from_second(day * 86_400).is_ok_and(no_later))
            }
        }
    }

    pub(super) fn condition(
        &self,
        engine: EngineKind,
        table: &TableName,
        schemas: &Schemas,
        horizon: Option<Timestamp>,
    ) -> Result<Condition, Mismatch> {
        let schema = schema_of(schemas, table)?;
        let older = self.column_older(engine, schema, &self.column, horizon)?;
        let Some(fallback) = &self.fallback else { return Ok(older) };
        let unknown = Condition::IsNull {
            column: self.column.clone(),
        };
        let made = self.column_older(engine, schema, fallback, horizon)?;
        Ok(Condition::Any(vec![older, Condition::All(vec![unknown, made])]))
    }

    fn column_older(
        &self,
        engine: EngineKind,
        schema: &TableSchema,
        name: &str,
        horizon: Option<Timestamp>,
    ) -> Result<Condition, Mismatch> {
        let column = column_of(schema, name)?;
        let place = format!("{}.{} is {}", schema.name, column.name, column.type_name);
        let utc = self
            .zone
            .as_deref()
            .is_some_and(|zone| TimeZone::get(zone).is_ok_and(|zone| zone == TimeZone::UTC));
        let unix = self
            .encoding
            .filter(|encoding| matches!(encoding, TimeEncoding::UnixSeconds | TimeEncoding::UnixMillis));
        let encoding = match (engine, column.class) {
            (EngineKind::Postgres, TypeClass::Instant) => None,
            (EngineKind::Postgres, TypeClass::CivilTime | TypeClass::Date) if self.zone.is_none() => {
                return Err(Mismatch::new(format!(
                    "{place}, which carries no zone; expected zone = \"UTC\" or the zone it is written in"
                )));
            }
            (EngineKind::Postgres, TypeClass::CivilTime | TypeClass::Date) => None,
            (EngineKind::Postgres, TypeClass::Integer | TypeClass::Real) | (EngineKind::Sqlite, _)
                if unix.is_some() && column.class != TypeClass::Text =>
            {
                unix
            }
            (_, TypeClass::Integer | TypeClass::Real) => {
                return Err(Mismatch::new(format!(
                    "{place}; expected encoding = \"unix_seconds\" or \"unix_millis\""
                )));
            }
            // SQLite has no time type: a column that is no number holds text, whatever its declaration says.
            (EngineKind::Sqlite, _) if utc => Some(TimeEncoding::TextUtc),
            (EngineKind::Sqlite, _) => {
                return Err(Mismatch::new(format!(
                    "{place}, text without a zone; expected zone = \"UTC\" (no other zone can be compared as text)"
                )));
            }
            (EngineKind::Postgres, _) => return Err(Mismatch::new(format!("{place}; expected a timestamp, a date or a number"))),
        };
        let horizon = horizon.ok_or_else(|| Mismatch::new("the plan has no horizon for this rule; expected a new plan"))?;
        Ok(Condition::OlderThan {
            column: name.to_owned(),
            horizon,
            encoding,
            zone: self.zone.clone(),
        })
    }

    pub(super) fn findings(&self, table: &TableName, schemas: &Schemas) -> Vec<Finding> {
        let Ok(schema) = schema_of(schemas, table) else {
            return Vec::new();
        };
        if schema.indexed(std::slice::from_ref(&self.column)) {
            return Vec::new();
        }
        vec![Finding {
            code: "TIME_COLUMN_UNINDEXED".to_owned(),
            level: FindingLevel::Info,
            table: schema.name.to_string(),
            detail: format!(
                "no index of {} begins with {}, so that each pass reads the whole table",
                schema.name, self.column
            ),
            remediation: format!(
                "create an index on {} ({}) where this rule runs often",
                schema.name, self.column
            ),
        }]
    }
}
