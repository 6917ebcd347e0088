//! How long a statement will take, from the size of its tables. The constants are conservative orders of magnitude for one
//! connection on ordinary disks, not measurements of the target: a rehearsal measures.

use super::{Known, token::Name};
use crate::model::{EngineKind, Impact, TableMeasure, Work};

/// What a change of the catalog takes, milliseconds.
const CATALOG_MS: u64 = 5;
/// Bytes that are read in a second while a condition is checked.
const SCAN_BYTES: u64 = 500_000_000;
/// Bytes that are written anew in a second, with log and indexes.
const REWRITE_BYTES: u64 = 100_000_000;
/// Rows that an index build sorts and writes in a second.
const BUILD_ROWS: u64 = 1_000_000;
/// Rows that a statement changes in a second.
const CHANGED_ROWS: u64 = 100_000;
/// The same on SQLite, which has neither row versions nor another process to talk to.
const CHANGED_ROWS_SQLITE: u64 = 300_000;

/// How long a statement will take, milliseconds, without waiting for locks; `None` where the size of a table is unknown. For rows
/// that a condition picks it is the time for all of them, mostly too long.
#[must_use]
pub fn estimate_ms(impact: &Impact, known: &Known, engine: EngineKind) -> Option<u64> {
    let mut total = CATALOG_MS;
    if impact.work == Work::Catalog {
        return Some(total);
    }
    for table in &impact.tables {
        let measure = measure_of(table, known, engine)?;
        // A table that is not there yet has no rows that count.
        let rows = measure.rows.unwrap_or_default();
        let (amount, per_second) = match impact.work {
            Work::Catalog => (0, 1),
            Work::Rows if engine == EngineKind::Sqlite => (rows, CHANGED_ROWS_SQLITE),
            Work::Rows => (rows, CHANGED_ROWS),
            Work::Scan => (measure.bytes, SCAN_BYTES),
            Work::Build => (rows, BUILD_ROWS),
            Work::Rewrite => (measure.bytes, REWRITE_BYTES),
        };
        total = total.saturating_add(amount.saturating_mul(1_000) / per_second);
    }
    Some(total)
}

fn measure_of<'a>(table: &str, known: &'a Known, engine: EngineKind) -> Option<&'a TableMeasure> {
    let exact = known.tables.iter().find(|measure| measure.table == table);
    exact.or_else(|| {
        let name = Name::parse(table, engine);
        known
            .tables
            .iter()
            .find(|measure| Name::parse(&measure.table, engine).may_be(&name))
    })
}
