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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableKind;

    fn table(name: &str) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            name: TableName::parse(name),
            kind: TableKind::Table,
            columns: Vec::new(),
            primary_key: Vec::new(),
            row_key: Vec::new(),
            indexes: Vec::new(),
            incoming: Vec::new(),
            triggers: Vec::new(),
            rewrite_rules: Vec::new(),
            row_security: false,
            lossy_columns: Vec::new(),
            shape_guard: String::new(),
        })
    }

    fn cycle() -> Condition {
        Condition::Cycle {
            from: vec!["a".into()],
            to: vec!["b".into()],
            among: Vec::new(),
        }
    }

    fn duplicate(table: &Arc<TableSchema>) -> Condition {
        Condition::Duplicate {
            table: Arc::clone(table),
            columns: vec!["a".into()],
            order: Vec::new(),
            among: Vec::new(),
        }
    }

    fn link(parent: &Arc<TableSchema>, child: &Arc<TableSchema>, action: ChildAction) -> ChildLink {
        ChildLink {
            name: "key_1".into(),
            parent: Arc::clone(parent),
            parent_columns: vec!["id".into()],
            child: Arc::clone(child),
            child_columns: vec!["p".into()],
            null_columns: Vec::new(),
            action,
            except: Vec::new(),
        }
    }

    #[test]
    fn nothing_hangs_on_a_table_after_a_cycle() {
        let (edges, other) = (table("edges"), table("other"));
        let mut sets = Sets::default();
        sets.check_order(&edges, &cycle()).expect("the first step");
        sets.check(&edges, &cycle(), &[]).expect("edges alone");
        let refusal = sets.check_order(&edges, &duplicate(&edges)).expect_err("the same table");
        assert!(
            refusal.expected.contains("the last one that has to do with its table"),
            "{refusal:?}"
        );
        let orphans = Condition::ParentMissing {
            columns: vec!["p".into()],
            parent: Arc::clone(&edges),
            parent_columns: vec!["id".into()],
            unfit: Vec::new(),
        };
        sets.check_order(&other, &orphans).expect_err("its parent");
        sets.check_order(&other, &duplicate(&other)).expect("another table");
    }

    #[test]
    fn what_stays_must_not_go_along() {
        let (nodes, other) = (table("nodes"), table("other"));
        let mut sets = Sets::default();
        let own = [link(&nodes, &nodes, ChildAction::Delete)];
        let refusal = sets.check(&nodes, &duplicate(&nodes), &own).expect_err("its own children");
        assert!(refusal.expected.starts_with("key_1 deletes rows of nodes"), "{refusal:?}");
        let others = [link(&nodes, &other, ChildAction::Delete)];
        sets.check(&nodes, &duplicate(&nodes), &others).expect("children elsewhere");
        sets.check(&nodes, &cycle(), &others).expect_err("edges that others hang on");
        let unset = [link(&nodes, &nodes, ChildAction::SetNull)];
        sets.check(&nodes, &duplicate(&nodes), &unset).expect("a key that is emptied");
    }

    #[test]
    fn duplicates_are_looked_for_among_what_is_left() {
        let entries = table("entries");
        let Condition::Duplicate { among, .. } = among(&duplicate(&entries), &[cycle()]) else {
            panic!("a duplicate stays one");
        };
        assert!(matches!(among.as_slice(), [Condition::Not(_)]), "{among:?}");
    }
}
