//! Discovery through the engine: finds the target and hands its catalog over.

use super::Engine;
use crate::{
    EngineError,
    discover::{self, DiscoverError, Discovery, Options},
};

impl Engine {
    /// Looks around in a target and proposes rules; changes nothing.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`, `Target`.
    pub async fn discover(&self, target: &str, options: &Options) -> Result<Discovery, EngineError> {
        let (name, entry) = self.target(target)?;
        let found = discover::discover(entry.target.as_ref(), &entry.catalog, options)
            .await
            .map_err(|error| match error {
                DiscoverError::UnknownTable(table) => EngineError::InvalidField {
                    field: "tables",
                    problem: format!("names {table}, which {name} does not have; expected tables of the target"),
                },
                DiscoverError::Target(source) => EngineError::target(name)(source),
            })?;
        tracing::info!(
            target = name,
            tables = found.tables,
            proposals = found.proposals.len(),
            complete = found.complete,
            "discovery made"
        );
        Ok(found)
    }
}
