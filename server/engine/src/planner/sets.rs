//! What rules about sets of rows mean for the other steps of a plan, and what such a rule cannot be combined with.

use std::sync::Arc;

use crate::{
    model::{ChildAction, ChildLink, Condition, TableName, TableSchema},
    rule::Mismatch,
};

/// The tables of which nothing can be told in advance once a step has taken rows from them.
#[derive(Default)]
pub(super) struct Sets(Vec<TableName>);

impl Sets {
    /// Whether a step may come where it stands.
    ///
    /// # Errors
    /// Where it hangs on a table that a rule of kind `cycle` has taken rows from.
    pub(super) fn check_order(&self, table: &TableSchema, condition: &Condition) -> Result<(), Mismatch> {
        let parents = condition.parents();
        let mut names = std::iter::once(&table.name).chain(parents.iter().map(|parent| &parent.name));
        match names.find(|name| self.0.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Mismatch::new(format!(
                "it comes after a rule of kind cycle on {name}, whose rows are known only when that has run; \
                 expected the rule of kind cycle as the last one that has to do with its table"
            ))),
        }
    }

    /// Whether the rows that a step deletes may go with what hangs on them; remembers what later steps must not hang on.
    ///
    /// # Errors
    /// Where the row that a deleted one is judged by could go along with it.
    pub(super) fn check(&mut self, table: &Arc<TableSchema>, condition: &Condition, links: &[ChildLink]) -> Result<(), Mismatch> {
        if !condition.is_about_sets() {
            return Ok(());
        }
        let own = |link: &&ChildLink| link.child.name == table.name && link.action == ChildAction::Delete;
        if let Some(link) = links.iter().find(own) {
            return Err(Mismatch::new(format!(
                "{} deletes rows of {} along with others of the same table, also the ones that are to stay; \
                 expected action = \"nullify\", or another key",
                link.name, table.name
            )));
        }
        if matches!(condition, Condition::Cycle { .. }) {
            if let Some(link) = links.first() {
                return Err(Mismatch::new(format!(
                    "rows of {} are edges, and {} makes rows of {} hang on them; expected action = \"nullify\" or a table of edges alone",
                    table.name, link.name, link.child.name
                )));
            }
            self.0.push(table.name.clone());
        }
        Ok(())
    }
}

/// The condition as it holds of a row after earlier steps have taken theirs: those rows do not count any more, neither as the ones
/// that go nor as the ones that stay.
pub(super) fn among(condition: &Condition, except: &[Condition]) -> Condition {
    let mut condition = condition.clone();
    if let Condition::Duplicate { among, .. } = &mut condition {
        among.extend(except.iter().map(|part| Condition::Not(Box::new(part.clone()))));
    }
    condition
}
