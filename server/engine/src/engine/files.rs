//! The trash of files from the outside: what lies in it, and its end. Called by whoever keeps backups for a time, and then no longer.

use std::sync::Arc;

use super::Engine;
use crate::{
    EngineError,
    model::{RunId, RunState},
    planner::files::blocking,
    port::{RunFilter, TrashUsage},
};

/// Runs read at a time.
const PAGE_RUNS: u32 = 100;

impl Engine {
    /// The runs whose files lie in the trash of a target, each with the root's name; oldest run first.
    ///
    /// # Errors
    /// `UnknownTarget`, `Files`.
    pub async fn trash(&self, target: &str) -> Result<Vec<(String, TrashUsage)>, EngineError> {
        let (name, entry) = self.target(target)?;
        let mut found = Vec::new();
        for (root_name, root) in entry.roots.iter() {
            let root = Arc::clone(root);
            let usage = blocking(move || root.usage()).await.map_err(|source| EngineError::Files {
                target: name.to_owned(),
                source,
            })?;
            found.extend(usage.into_iter().map(|usage| (root_name.clone(), usage)));
        }
        found.sort_by_key(|(_, usage)| usage.run);
        Ok(found)
    }

    /// Unlinks for good the files that a run has moved to the trash; they cannot be put back afterwards. Returns what was unlinked.
    /// Asking again is no error.
    ///
    /// # Errors
    /// `UnknownRun`; `WrongState` where the run has not ended, `RunAlreadyActive` where an undo or a verification of it has not;
    /// `Files`, `Store`.
    pub async fn prune_trash(&self, run: RunId) -> Result<TrashUsage, EngineError> {
        let source = self.run(&run.to_string()).await?;
        if !source.state.is_final() {
            return Err(EngineError::WrongState {
                run,
                state: source.state,
                expected: "a run that has ended",
            });
        }
        let filter = RunFilter {
            target: Some(source.target.clone()),
            states: RunState::ALL.into_iter().filter(|state| !state.is_final()).collect(),
            ..RunFilter::default()
        };
        let mut before = None;
        loop {
            let page = self.runs(&filter, before, PAGE_RUNS).await?;
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            if let Some(active) = page.iter().find(|active| active.source == Some(run)) {
                return Err(EngineError::RunAlreadyActive {
                    run: active.id,
                    state: active.state,
                    operations: active.operations.clone(),
                    since: active.created_at,
                    target: active.target.clone(),
                    table: format!("the trash of run {run}"),
                });
            }
        }
        let (name, entry) = self.target(&source.target)?;
        let mut pruned = TrashUsage { run, files: 0, bytes: 0 };
        for root in entry.roots.values() {
            let root = Arc::clone(root);
            let usage = blocking(move || root.prune(run)).await.map_err(|source| EngineError::Files {
                target: name.to_owned(),
                source,
            })?;
            pruned.files += usage.files;
            pruned.bytes += usage.bytes;
        }
        tracing::info!(%run, target = name, files = pruned.files, bytes = pruned.bytes, "trash pruned");
        Ok(pruned)
    }
}
