//! A copy with some of the rows: how many were asked for, and how many of how many it has. Which rows those are is the adapter's matter.

use serde::{Deserialize, Serialize};

use super::super::schema::TableName;

/// How many rows of each table a copy takes. Rows that their keys name come along, so that a table may have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// At most so many of each table.
    Rows(u64),
    /// So many of ten thousand, and at least one of a table that has any.
    TenThousandths(u32),
}

impl Sample {
    /// Most rows of each table that can be asked for.
    pub const MAX_ROWS: u64 = 10_000_000;

    /// Rows to take of a table that has `rows`.
    #[must_use]
    pub fn of(self, rows: u64) -> u64 {
        match self {
            Self::Rows(most) => most.min(rows),
            Self::TenThousandths(part) => {
                let wanted = (u128::from(rows) * u128::from(part)).div_ceil(10_000);
                u64::try_from(wanted).unwrap_or(rows).min(rows)
            }
        }
    }
}

/// A table of such a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledTable {
    /// The table.
    pub table: TableName,
    /// Rows that the copy has.
    pub rows: u64,
    /// Rows that the table has.
    pub of: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_no_more_than_there_is_and_some_of_whatever_there_is() {
        assert_eq!((Sample::Rows(10).of(3), Sample::Rows(10).of(30)), (3, 10));
        let percent = Sample::TenThousandths(100);
        assert_eq!((percent.of(0), percent.of(1), percent.of(100), percent.of(101)), (0, 1, 1, 2));
        assert_eq!(Sample::TenThousandths(10_000).of(u64::MAX), u64::MAX);
    }
}
