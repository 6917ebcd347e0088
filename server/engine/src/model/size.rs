//! How large a target is before and after a scheduled run. Plain data, kept in the run's report; taken without looking at rows, and
//! therefore mostly from what the database estimates.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{plan::Plan, run::Report};

/// How a number of rows is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowsBy {
    /// It is not.
    #[default]
    Unknown,
    /// From statistics of the database, or from a count less the rows that the run deleted, while others may have written.
    Estimate,
    /// The run's plan counted them, or the table takes no space at all.
    Count,
}

/// The size of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableSize {
    /// The table, as the database resolved it.
    pub table: String,
    /// Its rows.
    pub rows: Option<u64>,
    /// How that is known.
    pub rows_by: RowsBy,
    /// Its size with indexes, bytes; `None` where the database cannot tell without reading it.
    pub bytes: Option<u64>,
    /// Its dead rows, by statistics; `None` where there is no such thing (SQLite), and where they are not known.
    #[serde(default)]
    pub dead_rows: Option<u64>,
    /// Bytes inside it, without indexes, that new rows could use, estimated by statistics; `None` of a table that was never analyzed, and
    /// where the database only knows what is free in all of it (SQLite).
    #[serde(default)]
    pub free_bytes: Option<u64>,
}

/// The size of a target at an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeSnapshot {
    /// When it was taken.
    pub at: Timestamp,
    /// The whole database, bytes.
    pub database_bytes: Option<u64>,
    /// How much of that is free for new rows; `None` where the database does not know it as a whole.
    pub reusable_bytes: Option<u64>,
    /// Tables that the run touches; of built-in maintenance the largest.
    pub tables: Vec<TableSize>,
}

/// Sizes before and after a scheduled run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SizeRecord {
    /// Before the first attempt changed anything; `None` where that could not be found out.
    pub before: Option<SizeSnapshot>,
    /// After the end of the last attempt; `None` until then, and where that could not be found out.
    #[serde(default)]
    pub after: Option<SizeSnapshot>,
    /// Runs of the schedule in a row, this one included, in which an operation found nothing to do; of operations that did not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub idle_runs: BTreeMap<String, u32>,
}

impl SizeSnapshot {
    /// Takes over what a plan counted: the numbers of rows that it knows are better than estimates.
    pub fn take_counts(&mut self, plan: &Plan) {
        for step in plan.steps.iter().filter(|step| step.table_row_count_exact) {
            if let Some(table) = self.tables.iter_mut().find(|table| table.table == step.table) {
                (table.rows, table.rows_by) = (Some(step.table_row_count), RowsBy::Count);
            }
        }
    }

    /// Corrects numbers of rows that the database has not renewed since: statistics change with a vacuum, and not with a deletion.
    pub fn take_deleted(&mut self, before: &Self, plan: &Plan, report: &Report) {
        let mut deleted: BTreeMap<&str, u64> = BTreeMap::new();
        for (planned, done) in plan.steps.iter().zip(&report.steps) {
            if planned.rule.action.assignments().is_empty() {
                *deleted.entry(&planned.table).or_default() += done.rows_affected;
            }
            for along in &done.along {
                *deleted.entry(&along.table).or_default() += along.deleted;
            }
        }
        for table in &mut self.tables {
            let renewed = report.space.iter().any(|space| space.table == table.table);
            let gone = deleted.get(table.table.as_str()).copied().unwrap_or(0);
            let known = before.tables.iter().find(|known| known.table == table.table);
            if let Some(rows) = known.and_then(|known| known.rows)
                && gone > 0
                && !renewed
                && table.rows_by != RowsBy::Count
            {
                (table.rows, table.rows_by) = (Some(rows.saturating_sub(gone)), RowsBy::Estimate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PlanStep, StepReport, TableSpace, confirmation::tests::step};

    fn snapshot(rows: Option<u64>, rows_by: RowsBy) -> SizeSnapshot {
        SizeSnapshot {
            at: Timestamp::UNIX_EPOCH,
            database_bytes: Some(10),
            reusable_bytes: None,
            tables: vec![TableSize {
                table: "logs".to_owned(),
                rows,
                rows_by,
                ..TableSize::default()
            }],
        }
    }

    fn plan() -> Plan {
        Plan {
            steps: vec![PlanStep {
                table_row_count: 100,
                ..step("logs", 40)
            }],
            ..Plan::none("main", Timestamp::UNIX_EPOCH)
        }
    }

    #[test]
    fn a_count_is_better_than_an_estimate_and_less_what_went_than_old_statistics() {
        let mut before = snapshot(Some(7), RowsBy::Estimate);
        before.take_counts(&plan());
        assert_eq!((before.tables[0].rows, before.tables[0].rows_by), (Some(100), RowsBy::Count));
        let mut report = Report {
            steps: vec![StepReport {
                rows_affected: 40,
                ..StepReport::default()
            }],
            ..Report::default()
        };
        let after = |report: &Report, rows, by| {
            let mut after = snapshot(rows, by);
            after.take_deleted(&before, &plan(), report);
            (after.tables[0].rows, after.tables[0].rows_by)
        };
        assert_eq!(after(&report, Some(7), RowsBy::Estimate), (Some(60), RowsBy::Estimate));
        assert_eq!(after(&report, None, RowsBy::Unknown), (Some(60), RowsBy::Estimate));
        assert_eq!(
            after(&report, Some(0), RowsBy::Count),
            (Some(0), RowsBy::Count),
            "known for certain"
        );
        report.space.push(TableSpace {
            table: "logs".to_owned(),
            ..TableSpace::default()
        });
        assert_eq!(
            after(&report, Some(61), RowsBy::Estimate),
            (Some(61), RowsBy::Estimate),
            "renewed by the vacuum"
        );
    }
}
