//! How much of a table or an index its rows do not need, by the average widths of columns. Called by `relations`.

use dbkeep_engine::model::monitor::{RowCount, TableVitals};

use super::{
    super::bloat::{self, RowShape},
    rows::{IndexRow, TableRow, WidthRow},
    session::{float, unsigned, whole},
};

/// Bytes that rows, alive and dead, do not need, by the average widths of the columns.
pub(super) fn free_bytes(row: &TableRow, rows: Option<RowCount>, columns: &[WidthRow], page: u32) -> Option<u64> {
    let (main, rows) = (float(unsigned(row.main?)), float(rows?.rows + unsigned(row.dead)));
    if main <= 0.0 || rows <= 0.0 {
        return Some(whole(main));
    }
    let widths: Option<Vec<f64>> = columns.iter().map(WidthRow::width).collect();
    let shape = RowShape {
        width: widths?.iter().sum(),
        columns: columns.iter().map(|_| 1.0).sum(),
        nulls: columns.iter().any(|column| column.nulls.is_some_and(|nulls| nulls > 0.0)),
    };
    // Without any statistics fixed widths alone would say that nothing is ever NULL.
    columns
        .iter()
        .any(|column| column.width.is_some())
        .then(|| whole(bloat::table_air(rows, shape, f64::from(row.fill), f64::from(page), main)))
}

/// Part of a B-tree that its entries, of dead rows too, do not need.
pub(super) fn air(row: &IndexRow, table: &TableVitals, columns: &[WidthRow], expressions: &[WidthRow], page: u32) -> Option<f64> {
    if row.method != "btree" || row.partitioned || row.entries < 0.0 || !row.usable {
        return None;
    }
    let bytes = float(unsigned(row.bytes?));
    let numbers = row.columns.split(' ').map(str::parse::<i32>);
    let mut width = 0.0;
    for (number, place) in numbers.zip(1..) {
        let number = number.ok()?;
        let of = if number == 0 {
            expressions.iter().find(|column| column.number == place)
        } else {
            columns.iter().find(|column| column.number == number)
        };
        width += of.and_then(WidthRow::width)?;
    }
    let analyzed = columns.iter().any(|column| column.width.is_some());
    let live = table.rows.map_or(0, |rows| rows.rows);
    let dead = float(table.dead_rows.unwrap_or(0));
    // A partial index has its part of the dead rows too.
    let share = if live == 0 {
        1.0
    } else {
        (row.entries / float(live)).min(1.0)
    };
    (analyzed || row.entries == 0.0)
        .then(|| bloat::index_air(row.entries + dead * share, width, f64::from(row.fill), f64::from(page), bytes))
}
