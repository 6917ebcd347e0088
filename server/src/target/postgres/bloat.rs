//! How much of a table or an index holds nothing, by its statistics: number of entries, average widths, fill factor. Reads nothing.
//!
//! The estimates know nothing of deduplication in B-trees: an index with many equal keys looks fuller than it is.

/// Room for entries in a B-tree's page: without its header and special space, bytes.
const INDEX_PAGE_OVERHEAD: f64 = 24.0 + 16.0;
/// Header of a table's page.
const HEAP_PAGE_OVERHEAD: f64 = 24.0;
/// Header of a row before its bitmap of NULLs, and its line pointer.
const ROW_HEADER: f64 = 23.0;
const LINE_POINTER: f64 = 4.0;

fn padded(bytes: f64) -> f64 {
    (bytes / 8.0).ceil() * 8.0
}

/// Part of an index that its entries do not need, 0 to 1. `width` is that of a whole key, `fill` the fill factor in percent.
pub(super) fn index_air(entries: f64, width: f64, fill: f64, page: f64, bytes: f64) -> f64 {
    let room = (page - INDEX_PAGE_OVERHEAD) * fill / 100.0;
    // A line pointer, a header, and the key, which is padded to eight bytes.
    let entry = LINE_POINTER + padded(8.0 + width);
    let in_page = (room / entry).floor().max(1.0);
    let leaves = (entries / in_page).ceil();
    let inner = (leaves / in_page).ceil();
    beyond((leaves + inner + 1.0) * page, bytes)
}

/// Part of `size` that is more than what is needed.
pub(super) fn beyond(needed: f64, size: f64) -> f64 {
    if size <= 0.0 || !needed.is_finite() {
        return 0.0;
    }
    (1.0 - needed / size).clamp(0.0, 1.0)
}

/// What rows need of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RowShape {
    /// Average width of all columns together, NULLs as nothing, bytes.
    pub(super) width: f64,
    /// Columns, and whether any of them is ever NULL.
    pub(super) columns: f64,
    pub(super) nulls: bool,
}

/// Bytes of a table that its rows, alive and dead, do not need, of `bytes`.
pub(super) fn table_air(rows: f64, shape: RowShape, fill: f64, page: f64, bytes: f64) -> f64 {
    let bitmap = if shape.nulls { (shape.columns / 8.0).ceil() } else { 0.0 };
    let row = LINE_POINTER + padded(ROW_HEADER + bitmap) + padded(shape.width);
    let in_page = ((page - HEAP_PAGE_OVERHEAD) * fill / 100.0 / row).floor().max(1.0);
    let needed = (rows / in_page).ceil() * page;
    (bytes - needed).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "exact in these cases")]
    fn the_estimate_is_what_the_entries_do_not_need() {
        // 366 entries of 20 bytes fit into a page that is filled to 90 %: a million of them need 2,733 leaves.
        let pages = |pages: f64| index_air(1_000_000.0, 8.0, 90.0, 8_192.0, pages * 8_192.0);
        assert_eq!(pages(2_742.0), 0.0);
        assert!((pages(2.0 * 2_742.0) - 0.5).abs() < 0.001);
        assert_eq!(pages(1_000.0), 0.0, "deduplicated, and not less than nothing");
        assert!(index_air(0.0, 8.0, 90.0, 8_192.0, 8_192_000.0) > 0.99, "emptied");
        assert_eq!(index_air(0.0, 8.0, 90.0, 8_192.0, 0.0), 0.0);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "whole pages")]
    fn rows_need_their_widths_with_padding() {
        let shape = RowShape {
            width: 12.0,
            columns: 2.0,
            nulls: false,
        };
        // 4 + 24 + 16 bytes: 185 rows in a page.
        assert_eq!(table_air(185.0, shape, 100.0, 8_192.0, 8_192.0), 0.0);
        assert_eq!(table_air(185.0, shape, 100.0, 8_192.0, 81_920.0), 73_728.0);
        assert_eq!(table_air(186.0, shape, 100.0, 8_192.0, 81_920.0), 65_536.0);
        assert_eq!(table_air(0.0, shape, 100.0, 8_192.0, 81_920.0), 81_920.0);
        let with_nulls = RowShape {
            nulls: true,
            columns: 9.0,
            ..shape
        };
        // The bitmap of nine columns does not fit into the header's padding: 4 + 32 + 16.
        assert_eq!(table_air(157.0, with_nulls, 100.0, 8_192.0, 16_384.0), 8_192.0);
        assert_eq!(table_air(158.0, with_nulls, 100.0, 8_192.0, 16_384.0), 0.0);
    }
}
