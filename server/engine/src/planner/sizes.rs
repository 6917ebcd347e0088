//! The sizes of tables while a plan is made: estimates where those will do, counts where a size has to decide whether too much of a table
//! would go. A table that is counted once has that size in every step. Called by the planner alone.

use std::collections::BTreeMap;

use crate::{
    model::{PlanStep, TableKind, TableName, TableSchema},
    port::{Target, TargetError},
};

/// Margin within which an estimated table size is not trusted to decide over the largest share that may go.
const ESTIMATE_MARGIN: f64 = 1.5;

/// What is known of the sizes of tables while a plan is made.
#[derive(Default)]
pub(super) struct Sizes {
    /// Rows, and whether they were counted.
    rows: BTreeMap<TableName, (u64, bool)>,
    /// Rows that go of each table by the steps so far.
    going: BTreeMap<TableName, u64>,
}

impl Sizes {
    /// Makes sure that something is known of a table before its rows are looked for. The database's own statistics will not do: they
    /// may be of before a large deletion.
    pub(super) async fn estimate(&mut self, target: &dyn Target, table: &TableSchema) -> Result<(), TargetError> {
        if !self.rows.contains_key(&table.name)
            && let Some(rows) = target.estimate_rows(table).await?
        {
            self.rows.insert(table.name.clone(), (rows, false));
        }
        Ok(())
    }

    /// From how many selected rows on the size of their table decides whether too much would go, so that both are counted in one snapshot:
    /// the size that is known from another one is not to be compared with.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count is a count"
    )]
    pub(super) fn whole_from(&self, table: &TableSchema, max_fraction: f64) -> u64 {
        let (known, margin) = match self.rows.get(&table.name) {
            Some((rows, true)) => (*rows, 1.0),
            Some((rows, false)) => (*rows, ESTIMATE_MARGIN),
            None => return 0,
        };
        (max_fraction * crate::run::as_f64(known) / margin).floor() as u64 + 1
    }

    /// Takes up what a survey has counted.
    pub(super) fn counted(&mut self, table: &TableSchema, rows: u64) {
        self.rows.insert(table.name.clone(), (rows, true));
    }

    /// Rows of a table of which so many more go, and whether that is exact. An estimate will do, unless it has to decide whether too
    /// much would go.
    pub(super) async fn of(
        &mut self,
        target: &dyn Target,
        table: &TableSchema,
        row_count: u64,
        max_fraction: f64,
    ) -> Result<(u64, bool), TargetError> {
        let going = self.going.entry(table.name.clone()).or_default();
        *going = going.saturating_add(row_count);
        let going = *going;
        self.estimate(target, table).await?;
        let decisive = |rows: u64| crate::run::as_f64(going) * ESTIMATE_MARGIN > max_fraction * crate::run::as_f64(rows);
        if let Some((rows, exact)) = self.rows.get(&table.name).copied()
            && (exact || !decisive(rows))
        {
            return Ok((rows, exact));
        }
        if matches!(table.kind, TableKind::View | TableKind::Foreign) {
            return Ok((0, false));
        }
        let rows = target.count_rows(table, None).await?;
        self.counted(table, rows);
        Ok((rows, true))
    }

    /// Brings steps up to what later ones made known: a table that had to be counted for one has that size for all.
    pub(super) fn settle(&self, steps: &mut [PlanStep]) {
        let counted: BTreeMap<String, u64> = self
            .rows
            .iter()
            .filter(|(_, (_, exact))| *exact)
            .map(|(table, (rows, _))| (table.to_string(), *rows))
            .collect();
        for step in steps.iter_mut().filter(|step| step.rule.root().is_none()) {
            if let Some(rows) = counted.get(&step.table) {
                step.table_row_count = *rows;
                step.table_row_count_exact = true;
            }
            for child in &mut step.children {
                if child.table_row_count > 0
                    && let Some(rows) = counted.get(&child.table)
                {
                    child.table_row_count = *rows;
                }
            }
        }
    }
}
