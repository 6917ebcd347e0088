//! Rows of the audit log as records, seals, anchors and its head, and the lists of them. Whoever writes into the tables may leave anything there, which is
//! told of and not passed over.

use dbkeep_engine::{
    access::Scope,
    audit::{Anchor, Digest, Phase, Record, Seal, Subject},
    port::{AuditFilter, Outline, StoreError, Stored},
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, any::AnyRow};
use uuid::Uuid;

use super::{ControlStore, failure::corrupt, rows};

/// The columns of a record, in the order in which they are written.
pub(super) const COLUMNS: &str =
    "number, call_id, at_us, phase, principal, peer, method, target, request, code, detail, counts, previous, hash";
/// The columns of a seal.
pub(super) const SEAL: &str = "first_number, last_number, previous, head, at_us, pruned";

/// Reads a row of [`COLUMNS`].
pub(super) fn record(row: &AnyRow) -> Result<Record, StoreError> {
    let stored: i64 = rows::column_of(row, "number")?;
    let strange = |column: &str, value: &str| corrupt(format!("{column} {value:?} of record {stored} of the audit log"));
    let number = u64::try_from(stored).map_err(|_| strange("number", &stored.to_string()))?;
    let text = |column: &str| rows::column_of::<String>(row, column);
    let (call, phase, counts) = (text("call_id")?, text("phase")?, text("counts")?);
    Ok(Record {
        number,
        subject: Subject {
            call: Uuid::try_parse(&call).map_err(|_| strange("call_id", &call))?,
            at: instant(row, "at_us")?,
            phase: Phase::named(&phase).ok_or_else(|| strange("phase", &phase))?,
            principal: text("principal")?,
            peer: text("peer")?,
            method: text("method")?,
            target: text("target")?,
            request: digest(row, "request")?,
            code: text("code")?,
            detail: text("detail")?,
            counts: rows::from_json(&counts, || format!("counts of record {stored} of the audit log"))?,
        },
        previous: digest(row, "previous")?,
        hash: digest(row, "hash")?,
    })
}

/// Reads a row of [`SEAL`].
pub(super) fn seal(row: &AnyRow) -> Result<Seal, StoreError> {
    let pruned: i64 = rows::column_of(row, "pruned")?;
    Ok(Seal {
        first: number(row, "first_number")?,
        last: number(row, "last_number")?,
        previous: digest(row, "previous")?,
        head: digest(row, "head")?,
        at: instant(row, "at_us")?,
        pruned: match pruned {
            0 => false,
            1 => true,
            other => return Err(corrupt(format!("pruned {other} of a seal of the audit log"))),
        },
    })
}

/// Reads the head's number and hash.
pub(super) fn head(row: &AnyRow) -> Result<(u64, Digest), StoreError> {
    Ok((number(row, "number")?, digest(row, "hash")?))
}

fn anchor(row: &AnyRow) -> Result<Anchor, StoreError> {
    Ok(Anchor {
        number: number(row, "number")?,
        hash: digest(row, "hash")?,
        at: instant(row, "at_us")?,
    })
}

fn number(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    let stored: i64 = rows::column_of(row, column)?;
    u64::try_from(stored).map_err(|_| corrupt(format!("{column} {stored} in the audit log")))
}

fn digest(row: &AnyRow, column: &str) -> Result<Digest, StoreError> {
    let text: String = rows::column_of(row, column)?;
    Digest::parse(&text).ok_or_else(|| corrupt(format!("{column} {text:?} in the audit log")))
}

fn instant(row: &AnyRow, column: &str) -> Result<Timestamp, StoreError> {
    let us: i64 = rows::column_of(row, column)?;
    Timestamp::from_microsecond(us).map_err(|_| corrupt(format!("{column} {us} in the audit log")))
}

/// What can be read, and what is wrong with the rest.
fn readable<T>(found: &[AnyRow], read: fn(&AnyRow) -> Result<T, StoreError>, problems: &mut Vec<String>) -> Vec<T> {
    let mut readable = Vec::with_capacity(found.len());
    for row in found {
        match read(row) {
            Ok(value) => readable.push(value),
            Err(error) => problems.push(error.to_string()),
        }
    }
    readable
}

/// A condition over a column, with the place of its value.
enum Value {
    Text(String),
    Number(i64),
}

impl ControlStore {
    pub(super) async fn read_audit_records(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        let mut parts: Vec<(&str, Value)> = Vec::new();
        let texts = [
            ("principal =", filter.principal.as_deref()),
            ("method =", filter.method.as_deref()),
            ("target =", filter.target.as_deref()),
            ("phase =", filter.phase.map(Phase::name)),
        ];
        parts.extend(
            texts
                .into_iter()
                .filter_map(|(condition, text)| Some((condition, Value::Text(rows::text(text?))))),
        );
        let numbers = [
            ("at_us >=", filter.since.map(Timestamp::as_microsecond)),
            ("at_us <", filter.until.map(Timestamp::as_microsecond)),
            ("number <", before.map(rows::signed)),
        ];
        parts.extend(
            numbers
                .into_iter()
                .filter_map(|(condition, number)| Some((condition, Value::Number(number?)))),
        );
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for (condition, value) in parts {
            values.push(value);
            conditions.push(format!("{condition} ${}", values.len()));
        }
        if let Scope::Targets(targets) = &filter.scope {
            if targets.is_empty() {
                return Ok(Vec::new());
            }
            let mut places = Vec::with_capacity(targets.len());
            for target in targets {
                values.push(Value::Text(rows::text(target)));
                places.push(format!("${}", values.len()));
            }
            conditions.push(format!("target IN ({})", places.join(", ")));
        }
        let place = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM audit_records {place} ORDER BY number DESC LIMIT ${}",
            values.len() + 1
        );
        let query = values
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, value| match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            });
        let found = self.read(query.bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        found.iter().map(record).collect()
    }

    pub(super) async fn read_audit_record(&self, number: u64) -> Result<Option<Record>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM audit_records WHERE number = $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(rows::signed(number));
        let row = self.read(query.fetch_optional(&self.pool)).await?;
        row.as_ref().map(record).transpose()
    }

    pub(super) async fn read_audit_range(&self, from: i64, to: i64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM audit_records WHERE number BETWEEN $1 AND $2 ORDER BY number LIMIT $3");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(from).bind(to).bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        found
            .iter()
            .map(|row| match record(row) {
                Ok(record) => Ok(Stored::Readable(Box::new(record))),
                Err(error) => Ok(Stored::Unreadable {
                    number: rows::column_of(row, "number")?,
                    problem: error.to_string(),
                }),
            })
            .collect()
    }

    /// Anchors first: they speak of records that are there when the head is read. Seals before and after it: where they are the same they were so
    /// at that moment.
    pub(super) async fn read_audit_outline(&self) -> Result<Outline, StoreError> {
        loop {
            let outline = self.read_outline_once().await?;
            let mut problems = Vec::new();
            let sql = format!("SELECT {SEAL} FROM audit_seals ORDER BY first_number");
            let found = self.read(sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool)).await?;
            if readable(&found, seal, &mut problems) == outline.seals {
                return Ok(outline);
            }
        }
    }

    async fn read_outline_once(&self) -> Result<Outline, StoreError> {
        let mut outline = Outline::default();
        let query = sqlx::query("SELECT number, hash, at_us FROM audit_anchors ORDER BY number");
        let found = self.read(query.fetch_all(&self.pool)).await?;
        outline.anchors = readable(&found, anchor, &mut outline.unreadable);
        let sql = format!("SELECT {SEAL} FROM audit_seals ORDER BY first_number");
        let found = self.read(sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool)).await?;
        outline.seals = readable(&found, seal, &mut outline.unreadable);
        // One statement, hence of one moment. Outer, so that there is an answer where the head is gone.
        let query = sqlx::query(
            "SELECT span.smallest, span.largest, head.number, head.hash FROM \
             (SELECT (SELECT MIN(number) FROM audit_records) AS smallest, (SELECT MAX(number) FROM audit_records) AS largest) AS span \
             LEFT JOIN audit_head AS head ON head.one = 1",
        );
        let row = self.read(query.fetch_one(&self.pool)).await?;
        let smallest: Option<i64> = rows::column_of(&row, "smallest")?;
        let largest: Option<i64> = rows::column_of(&row, "largest")?;
        outline.span = smallest.zip(largest);
        if rows::column_of::<Option<i64>>(&row, "number")?.is_some() {
            outline.head = match head(&row) {
                Ok(head) => Some(head),
                Err(error) => {
                    outline.unreadable.push(error.to_string());
                    None
                }
            };
        }
        Ok(outline)
    }
}
