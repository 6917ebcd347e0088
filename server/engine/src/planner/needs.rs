//! What a catalog's operations ask of a role: the rights on tables that their steps need, derived from the same selections that a run
//! executes. Where the tables cannot be looked at, perhaps because just that right is missing, what the catalog itself says is all that is
//! known. Called by [`crate::engine`].

use std::sync::Arc;

use super::{PlanError, Purpose, Step, select, without_horizon};
use crate::{
    model::{
        ChildAction, RowAction, TableName, TableSchema,
        privilege::{ArchiveNeed, Feature, Need, Needs, Right},
    },
    port::{Roots, Target, TargetErrorClass},
    rule::{Action, Operation, Rule, RuleKind},
};

/// The needs of all operations.
///
/// # Errors
/// Where the target cannot be reached.
pub(crate) async fn needs(target: &dyn Target, roots: &Roots, operations: &[Operation]) -> Result<Needs, PlanError> {
    let mut needs = Needs::default();
    for operation in operations {
        let rules = without_horizon(operation);
        match select(target, roots, &rules, Purpose::Count).await {
            Ok(selections) => {
                for (rule, step) in rules.iter().zip(&selections.steps) {
                    let of_rule = OfRule::new(&mut needs, operation, rule.rule);
                    if step.files.is_some() {
                        of_rule.references(|name| selections.schemas.get(name).map_or(name, |schema| &schema.name));
                    } else {
                        of_rule.step(step);
                    }
                }
            }
            Err(PlanError::Target(error)) if error.class == TargetErrorClass::Lost => return Err(error.into()),
            Err(error) => {
                needs.unknown.push((operation.name.clone(), error.to_string()));
                for rule in &operation.rules {
                    OfRule::new(&mut needs, operation, rule).declared();
                }
            }
        }
    }
    Ok(needs)
}

/// Gathers the needs of one rule.
struct OfRule<'a> {
    needs: &'a mut Needs,
    operation: &'a Operation,
    rule: &'a Rule,
}

impl<'a> OfRule<'a> {
    fn new(needs: &'a mut Needs, operation: &'a Operation, rule: &'a Rule) -> Self {
        Self { needs, operation, rule }
    }

    fn why(&self, what: &str) -> String {
        format!("{}.{}: {what}", self.operation.name, self.rule.name)
    }

    fn need(&mut self, table: &TableName, feature: Feature, right: Right, what: &str) {
        let need = Need {
            table: table.clone(),
            right,
            feature,
            why: self.why(what),
        };
        if !self.needs.tables.contains(&need) {
            self.needs.tables.push(need);
        }
    }

    /// Rows of a table go, and may come back.
    fn goes(&mut self, table: &TableName) {
        self.need(table, Feature::Cleanup, Right::Read, "its rows are found");
        self.need(table, Feature::Cleanup, Right::Delete, "rows of it go");
        if self.operation.backup {
            self.need(table, Feature::Undo, Right::Insert, "rows that went come back");
        }
    }

    /// Columns of its rows get other values, and may get the old ones back by the same right.
    fn changes(&mut self, table: &TableName, columns: Vec<String>) {
        self.need(table, Feature::Cleanup, Right::Read, "its rows are found");
        self.need(table, Feature::Cleanup, Right::Change { columns }, "they get other values");
        self.need(table, Feature::Cleanup, Right::KeepShape, "it is not altered during a batch");
    }

    /// Rows of a table are locked before they go.
    fn locks(&mut self, table: &TableSchema) {
        if let Some(column) = table.primary_key.first() {
            let right = Right::LockRows { column: column.clone() };
            self.need(
                &table.name,
                Feature::Cleanup,
                right,
                "rows are locked before they go; who may delete them gains nothing by it",
            );
        }
    }

    /// What of a table's own shape matters.
    fn shape(&mut self, table: &TableSchema) {
        if table.row_security && !self.needs.hidden.contains(&table.name) {
            self.needs.hidden.push(table.name.clone());
        }
        if !table.triggers.is_empty() && !self.needs.triggers.contains(&table.name) {
            self.needs.triggers.push(table.name.clone());
        }
    }

    fn step(mut self, step: &Step) {
        let table = &step.selection.table;
        self.need(&table.name, Feature::Cleanup, Right::Read, "its rows are found");
        self.shape(table);
        for parent in step.selection.matches.parents() {
            self.need(&parent.name, Feature::Cleanup, Right::Read, "rows are judged by it");
            self.shape(parent);
        }
        for parent in step.still() {
            self.need(
                &parent.name,
                Feature::Cleanup,
                Right::KeepStill,
                "nobody writes to it during a batch (strict)",
            );
        }
        if step.selection.matches.is_about_sets() || !step.effect.is_plain_delete() && step.effect.removes() {
            self.locks(table);
        }
        match &step.effect.action {
            RowAction::Delete => self.goes(&table.name),
            RowAction::Archive { into, stamp_column } => {
                self.goes(&table.name);
                self.archive(into);
                let why = self.why("rows go there");
                self.needs.archives.push(ArchiveNeed {
                    of: Arc::clone(table),
                    into: into.clone(),
                    stamp_column: stamp_column.clone(),
                    why,
                });
            }
            RowAction::Set { assignments } => {
                let columns = assignments.iter().map(|(column, _)| column.clone()).collect();
                self.changes(&table.name, columns);
            }
        }
        for link in &step.effect.children {
            self.shape(&link.child);
            match link.action {
                ChildAction::Delete => {
                    self.locks(&link.child);
                    self.goes(&link.child.name);
                }
                ChildAction::SetNull => self.changes(&link.child.name, link.null_columns.clone()),
                ChildAction::Refuse => {
                    self.need(
                        &link.child.name,
                        Feature::Cleanup,
                        Right::Read,
                        "its rows keep others from going",
                    );
                }
            }
        }
    }

    fn archive(&mut self, into: &TableName) {
        self.need(into, Feature::Cleanup, Right::Insert, "rows go there");
        self.need(into, Feature::Undo, Right::Read, "copies of rows that come back are found");
        self.need(into, Feature::Undo, Right::Delete, "copies of rows that came back go");
    }

    /// Columns that refer to files.
    fn references<'n>(mut self, resolved: impl Fn(&'n TableName) -> &'n TableName)
    where
        'a: 'n,
    {
        if let RuleKind::OrphanFiles(files) = &self.rule.kind {
            for reference in &files.references {
                self.need(
                    resolved(&reference.table),
                    Feature::Cleanup,
                    Right::Read,
                    "its column refers to files",
                );
            }
        }
    }

    /// What the catalog says, without a look at the tables.
    fn declared(mut self) {
        let rule = self.rule;
        for table in rule.tables() {
            self.need(table, Feature::Cleanup, Right::Read, "its rows are looked at");
        }
        if rule.root().is_some() {
            return;
        }
        match &rule.action {
            Action::Delete => self.goes(&rule.table),
            Action::Archive { into, .. } => {
                self.goes(&rule.table);
                self.archive(into);
            }
            Action::Update { .. } | Action::Nullify { .. } => {
                let columns = rule.action.assignments().into_iter().map(|(column, _)| column).collect();
                self.changes(&rule.table, columns);
            }
        }
        for child in &rule.children {
            match child.action {
                ChildAction::Delete => self.goes(&child.table),
                ChildAction::SetNull => self.changes(&child.table, child.columns.clone()),
                ChildAction::Refuse => {}
            }
        }
    }
}
