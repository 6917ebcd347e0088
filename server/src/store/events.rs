//! Event logs: numbered from 1 without gaps, and trimmed at their beginning.

use dbkeep_engine::{
    model::{Event, RunId},
    port::{EventPage, StoreError},
};

use super::{ControlStore, failure::Failure, rows, transaction::Tx};

/// Adds an entry.
pub(super) async fn insert(tx: &mut Tx<'_>, event: &Event) -> Result<(), Failure> {
    sqlx::query("INSERT INTO run_events (run_id, sequence, at_ms, body) VALUES ($1, $2, $3, $4)")
        .bind(event.run.to_string())
        .bind(rows::signed(event.sequence))
        .bind(event.at.as_millisecond())
        .bind(rows::to_json(&event.body)?)
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}

/// Drops the oldest entries where there are too many; returns the first that is kept. A tenth is dropped at a time, so that
/// most appends have nothing to drop.
pub(super) async fn trim(tx: &mut Tx<'_>, run: RunId, first: u64, last: u64) -> Result<u64, Failure> {
    if last + 1 - first <= tx.kept_events {
        return Ok(first);
    }
    let first = last + 1 - (tx.kept_events - tx.kept_events / 10);
    sqlx::query("DELETE FROM run_events WHERE run_id = $1 AND sequence < $2")
        .bind(run.to_string())
        .bind(rows::signed(first))
        .execute(&mut *tx.connection)
        .await?;
    Ok(first)
}

impl ControlStore {
    pub(super) async fn read_events(&self, run: RunId, after: u64, limit: u32) -> Result<EventPage, StoreError> {
        // One statement sees one state of the database: a trim in between would look like a gap, or like lost history.
        let sql = "SELECT r.first_sequence, r.last_sequence, e.sequence, e.at_ms, e.body FROM runs r \
             LEFT JOIN run_events e ON e.run_id = r.id AND e.sequence > $2 AND $3 > 0 WHERE r.id = $1 ORDER BY e.sequence LIMIT $4";
        let query = sqlx::query(sql)
            .bind(run.to_string())
            .bind(rows::signed(after))
            .bind(i64::from(limit))
            .bind(i64::from(limit.max(1)));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let Some(row) = found.first() else {
            return Ok(EventPage {
                events: Vec::new(),
                first_kept: 1,
                last: 0,
            });
        };
        let first_kept = rows::unsigned(rows::column_of(row, "first_sequence")?, run)?;
        let last = rows::unsigned(rows::column_of(row, "last_sequence")?, run)?;
        let events = found
            .iter()
            .filter_map(|row| rows::event(row, run).transpose())
            .collect::<Result<_, _>>()?;
        Ok(EventPage {
            events,
            first_kept,
            last,
        })
    }
}
