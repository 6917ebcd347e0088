//! The operations of a target's catalog as callers list them, and what reports keep of them. Changes nothing. Called by the gRPC
//! services and by the acceptance of runs.

use super::Engine;
use crate::{
    EngineError,
    model::OperationFacts,
    rule::{Operation, Severity},
};

impl Engine {
    /// The operations of a target's catalog in its order: those of one category (empty for all) and one severity (`None` for
    /// all).
    ///
    /// # Errors
    /// `UnknownTarget`, and `InvalidField` where the catalog has no such category: a misspelt one must not look like a catalog
    /// with nothing in it.
    pub fn list_operations(
        &self,
        target: &str,
        category: &str,
        severity: Option<Severity>,
    ) -> Result<Vec<&Operation>, EngineError> {
        let (_, entry) = self.target(target)?;
        let operations = entry.catalog.operations();
        if !category.is_empty() && operations.iter().all(|operation| operation.category != category) {
            let mut known = Vec::new();
            for operation in operations {
                if !known.contains(&operation.category.as_str()) {
                    known.push(operation.category.as_str());
                }
            }
            let expected = if known.is_empty() {
                "nothing: the catalog has no operation".to_owned()
            } else {
                format!("one of {}", known.join(", "))
            };
            return Err(EngineError::InvalidField {
                field: "category",
                problem: format!("is {category:?}; expected {expected}"),
            });
        }
        let chosen = operations.iter().filter(|operation| {
            (category.is_empty() || operation.category == category)
                && severity.is_none_or(|severity| operation.severity == severity)
        });
        Ok(chosen.collect())
    }

    /// What the report of a new run keeps of these operations.
    ///
    /// # Errors
    /// `UnknownTarget`, `UnknownOperation`.
    pub(super) fn operation_facts(&self, target: &str, names: &[String]) -> Result<Vec<OperationFacts>, EngineError> {
        let facts = names
            .iter()
            .map(|name| Ok(OperationFacts::from(self.operation(target, name)?)));
        facts.collect()
    }
}
