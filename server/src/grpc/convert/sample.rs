//! Copies with some of the rows: how many are asked for, and how many of how many there were.

use dbkeep_engine::model::{Sample, SampledTable};
use dbkeep_proto::v1;

use crate::grpc::validate::Check;

/// What a copy had of a table.
pub(super) fn sampled(table: &SampledTable) -> v1::SampledTable {
    v1::SampledTable {
        table: table.table.to_string(),
        row_count: table.rows,
        of_row_count: table.of,
    }
}

/// How much of each table a rehearsal copies; `None` for all of it. What contradicts itself is noted in `check`.
pub(in crate::grpc) fn sample(sample: Option<v1::RehearsalSample>, check: &mut Check) -> Option<Sample> {
    let sample = sample?;
    match sample.amount {
        Some(v1::rehearsal_sample::Amount::RowCount(rows)) => Some(Sample::Rows(rows)),
        Some(v1::rehearsal_sample::Amount::Percent(percent)) if (0.01..=100.0).contains(&percent) => {
            // In bounds, so that the number is one of 1 to 10,000.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 1 and 10,000"
            )]
            let part = (percent * 100.0).round() as u32;
            Some(Sample::TenThousandths(part))
        }
        Some(v1::rehearsal_sample::Amount::Percent(percent)) => {
            check.refuse("sample.percent", format!("is {percent}; expected 0.01 to 100"));
            None
        }
        None => {
            check.refuse("sample", "says neither row_count nor percent; expected one of them");
            None
        }
    }
}
