//! What the rules of a plan change for those after them, with the names that the database resolved and the keys that it declares.

use super::StepRule;
use crate::{
    model::{ChildAction, Effect, RowAction, TableName},
    rule::{
        Action, Mismatch,
        conflict::{self, Write},
    },
};

/// What earlier rules of a plan change, with the names that the database resolved.
#[derive(Default)]
pub(super) struct Changes<'a>(Vec<(&'a StepRule<'a>, Vec<Write>)>);

impl<'a> Changes<'a> {
    /// Whether a rule looks at what an earlier one changes: its rows were counted before that.
    pub(super) fn check(&self, step: &StepRule<'_>, resolved: impl Fn(&TableName) -> TableName) -> Result<(), Mismatch> {
        let mut looks = conflict::looks(step.rule);
        for look in &mut looks.columns {
            look.table = resolved(&look.table);
        }
        for (earlier, writes) in &self.0 {
            if let Some(done) = conflict::conflict(writes, &looks) {
                return Err(Mismatch::new(format!(
                    "rule {} of operation {} ({}) comes before it and {done} it selects, so that its rows cannot be \
                     counted in advance; expected it before that rule, or in a plan of its own",
                    earlier.rule.name, earlier.operation, earlier.rule.origin
                )));
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, step: &'a StepRule<'a>, effect: &Effect, resolved: impl Fn(&TableName) -> TableName) {
        let mut writes = conflict::writes(step.rule);
        for write in &mut writes {
            write.table = resolved(&write.table);
        }
        if let (RowAction::Archive { into, .. }, Action::Archive { into: written, .. }) = (&effect.action, &step.rule.action) {
            for write in writes.iter_mut().filter(|write| write.table == *written) {
                write.table = into.clone();
            }
        }
        for link in effect.children.iter().filter(|link| link.action == ChildAction::SetNull) {
            let columns = link.null_columns.iter();
            writes.extend(columns.map(|column| conflict::emptied(&link.child.name, column)));
        }
        self.0.push((step, writes));
    }
}
