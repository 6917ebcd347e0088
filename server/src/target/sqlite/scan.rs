//! The pass over a table: stretches of it in the table's own order, each listed by a short read. No snapshot stays open
//! between two windows, so that the write-ahead log can be checkpointed while a run goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{RowKey, Selection, Value},
    port::{Scan, TargetError, Window},
};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::{
    Idle, bind,
    error::{refused, statement},
    render, values,
};

/// Rows that one read looks at, so that it ends in milliseconds however rare the matches are.
const STRETCH_ROWS: u64 = 20_000;
/// A window is filled from as many stretches as fit into this time: rare matches would make tiny batches otherwise, and a
/// window that took longer would delay a request to stop.
const WINDOW_TIME: Duration = Duration::from_millis(200);

pub(super) struct WindowScan {
    /// Taken out while a statement runs: a future that is dropped midway must not give it back.
    connection: Option<SqliteConnection>,
    idle: Arc<Idle>,
    table: String,
    keys: String,
    predicate: String,
    width: usize,
    limit: u64,
    /// Keys after which the next window begins.
    after: Option<RowKey>,
    /// Last key of the stretch in work; `None` inside where the stretch reaches to the table's end.
    stretch: Option<Option<RowKey>>,
    examined: u64,
    total: u64,
    ended: bool,
}

impl WindowScan {
    pub(super) fn open(
        connection: SqliteConnection,
        idle: Arc<Idle>,
        selection: &Selection,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Self, TargetError> {
        let schema = &selection.table;
        let after = cursor.filter(|cursor| !cursor.is_empty()).map(decode).transpose()?;
        if after.as_ref().is_some_and(|key| key.len() != schema.row_key.len()) {
            return Err(refused("the journal's position does not fit the table's key".to_owned()));
        }
        Ok(Self {
            connection: Some(connection),
            idle,
            table: render::table(&schema.name),
            keys: render::columns(schema.row_key.iter().map(String::as_str)),
            predicate: render::predicate(selection)?,
            width: schema.row_key.len(),
            limit: u64::from(limit),
            after,
            stretch: None,
            examined: 0,
            total: 0,
            ended: false,
        })
    }

    /// `(k1, k2) > (?, ?)`, or nothing, with the values to bind.
    fn bounds<'a>(&self, after: Option<&'a RowKey>, until: Option<&'a RowKey>) -> (String, Vec<&'a Value>) {
        let mut parts = Vec::new();
        let mut values = Vec::new();
        for (key, operator) in [(after, ">"), (until, "<=")] {
            let Some(key) = key else { continue };
            let marks = key.iter().map(render::placeholder).collect::<Vec<_>>().join(", ");
            parts.push(format!("({}) {operator} ({marks})", self.keys));
            values.extend(key);
        }
        (
            if parts.is_empty() {
                "1".to_owned()
            } else {
                parts.join(" AND ")
            },
            values,
        )
    }

    async fn fetch(&self, connection: &mut SqliteConnection, sql: String, binds: &[&Value]) -> Result<Vec<RowKey>, TargetError> {
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in binds {
            query = bind(query, value);
        }
        let rows = query.fetch_all(connection).await.map_err(statement)?;
        rows.iter().map(|row| values(row, 0..self.width)).collect()
    }

    async fn count(&self, connection: &mut SqliteConnection, after: Option<&RowKey>) -> Result<u64, TargetError> {
        let (bounds, binds) = self.bounds(after, None);
        let sql = format!("SELECT count(*) FROM {} AS t WHERE {bounds}", self.table);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in binds {
            query = bind(query, value);
        }
        let row = query.fetch_one(connection).await.map_err(statement)?;
        Ok(u64::try_from(row.try_get::<i64, _>(0).map_err(statement)?).unwrap_or(0))
    }

    /// Lists up to `limit` keys of the stretch in work, or of the next one. Returns the keys and the rows looked at.
    async fn part(&mut self, connection: &mut SqliteConnection, limit: u64) -> Result<(Vec<RowKey>, u64), TargetError> {
        let mut examined = 0;
        let until = match &self.stretch {
            Some(until) => until.clone(),
            None => {
                let (bounds, binds) = self.bounds(self.after.as_ref(), None);
                let sql = format!(
                    "SELECT {keys} FROM {} AS t WHERE {bounds} ORDER BY {keys} LIMIT 1 OFFSET {}",
                    self.table,
                    STRETCH_ROWS - 1,
                    keys = self.keys
                );
                let until = self.fetch(connection, sql, &binds).await?.pop();
                examined = if until.is_some() {
                    STRETCH_ROWS
                } else {
                    self.count(connection, self.after.as_ref()).await?
                };
                until
            }
        };
        let (bounds, binds) = self.bounds(self.after.as_ref(), until.as_ref());
        let sql = format!(
            "SELECT {keys} FROM {} AS t WHERE {bounds} AND {} ORDER BY {keys} LIMIT {limit}",
            self.table,
            self.predicate,
            keys = self.keys
        );
        let listed = self.fetch(connection, sql, &binds).await?;
        let full = listed.len() as u64 == limit;
        let (after, stretch) = match (full, listed.last(), until) {
            // There may be more in this stretch.
            (true, Some(last), until) => (Some(last.clone()), Some(until)),
            (_, _, Some(until)) => (Some(until), None),
            (_, _, None) => {
                self.ended = true;
                (listed.last().cloned().or(self.after.take()), None)
            }
        };
        (self.after, self.stretch) = (after, stretch);
        Ok((listed, examined))
    }

    async fn window(&mut self, connection: &mut SqliteConnection) -> Result<Option<Window>, TargetError> {
        if self.total == 0 {
            self.total = self.count(connection, self.after.as_ref()).await?.max(1);
        }
        let began = Instant::now();
        let mut keys = Vec::new();
        let mut examined = 0;
        while !self.ended && (keys.len() as u64) < self.limit {
            let (listed, looked_at) = self.part(connection, self.limit - keys.len() as u64).await?;
            keys.extend(listed);
            examined += looked_at;
            if began.elapsed() >= WINDOW_TIME {
                break;
            }
        }
        self.examined += examined;
        if self.ended && keys.is_empty() && examined == 0 {
            return Ok(None);
        }
        let cursor = self.after.as_ref().map(encode).unwrap_or_default();
        let fraction = dbkeep_engine::share(self.examined, self.total);
        Ok(Some(Window {
            keys,
            cursor,
            examined,
            fraction,
        }))
    }
}

#[async_trait]
impl Scan for WindowScan {
    async fn next(&mut self) -> Result<Option<Window>, TargetError> {
        if self.ended {
            return Ok(None);
        }
        let Some(mut connection) = self.connection.take() else {
            return Err(refused("the scan failed before".to_owned()));
        };
        let window = self.window(&mut connection).await?;
        self.connection = Some(connection);
        Ok(window)
    }
}

impl Drop for WindowScan {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.idle.put(connection);
        }
    }
}

/// A key as the journal keeps it: bytes in hexadecimal, so that every value survives. Nothing stands for the table's begin.
fn encode(key: &RowKey) -> String {
    let parts = key.iter().map(|value| match value {
        Value::Null => "n".to_owned(),
        Value::Integer(number) => format!("i{number}"),
        Value::Real(number) => format!("r{:016x}", number.to_bits()),
        Value::Text(bytes) => format!("t{}", hex::encode(bytes)),
        Value::Blob(bytes) => format!("b{}", hex::encode(bytes)),
    });
    parts.collect::<Vec<_>>().join(" ")
}

fn decode(text: &str) -> Result<RowKey, TargetError> {
    let malformed = || refused("the journal's position cannot be read".to_owned());
    text.split(' ')
        .map(|part| {
            let (tag, rest) = part.split_at_checked(1).ok_or_else(malformed)?;
            Ok(match tag {
                "n" => Value::Null,
                "i" => Value::Integer(rest.parse().map_err(|_| malformed())?),
                "r" => Value::Real(f64::from_bits(u64::from_str_radix(rest, 16).map_err(|_| malformed())?)),
                "t" => Value::Text(hex::decode(rest).map_err(|_| malformed())?),
                "b" => Value::Blob(hex::decode(rest).map_err(|_| malformed())?),
                _ => return Err(malformed()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_journal() {
        let key = vec![
            Value::Integer(-7),
            Value::Text(b"a b\xff".to_vec()),
            Value::Real(0.1),
            Value::Blob(Vec::new()),
            Value::Null,
        ];
        assert_eq!(decode(&encode(&key)).expect("readable"), key);
        assert!(decode("x1").is_err());
    }
}
