//! Runs about the captured rows of another: undo and verification.

use std::collections::BTreeSet;

use super::{Engine, decide, digest_of, request_id};
use crate::{
    EngineError,
    model::{Act, Caller, OperationFacts, Report, Run, RunKind, RunOptions, StepReport},
    planner,
    port::CreateRun,
    rule::Action,
};

impl Engine {
    /// Accepts an undo of a cleanup.
    ///
    /// # Errors
    /// `UnknownRun`, `WrongState`, `NothingCaptured`, `RunAlreadyActive`, `RequestIdReused`, `InvalidField`, `Target`, `Store`.
    pub async fn undo(
        &self,
        request_id_text: &str,
        source: &str,
        options: RunOptions,
        caller: &Caller,
    ) -> Result<Run, EngineError> {
        let started = self.start_undo(request_id_text, source, options, caller).await;
        self.noted_about(Act::Undo, source, caller, started).await
    }

    async fn start_undo(
        &self,
        request_id_text: &str,
        source: &str,
        options: RunOptions,
        caller: &Caller,
    ) -> Result<Run, EngineError> {
        let source = self.run(source).await?;
        let digest = digest_of(&[
            "undo",
            &source.id.to_string(),
            &serde_json::to_string(&options).unwrap_or_default(),
        ]);
        let request_id = request_id(request_id_text)?;
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        let wrong = |expected| EngineError::WrongState {
            run: source.id,
            state: source.state,
            expected,
        };
        if source.kind != RunKind::Cleanup {
            return Err(wrong("a cleanup; only those can be undone"));
        }
        if !source.state.is_final() {
            return Err(wrong("a run that has ended; cancel it first"));
        }
        if source.undone_by.is_some() {
            return Err(wrong("a run that was not undone before"));
        }
        if let Some(pruned) = source.pruned {
            return Err(EngineError::BackupPruned {
                backup: source.id,
                at: pruned.at,
            });
        }
        let mut run = self.about(RunKind::Undo, &source, options).await?;
        run.started_by.clone_from(&caller.principal);
        let decision = Some(decide::allow_undo(caller, &run, source.id));
        let tables = self.written_by(&source).await?;
        self.accept(CreateRun {
            run,
            tables,
            request_id,
            request_digest: digest,
            events: Vec::new(),
            decision,
            slot: None,
        })
        .await
    }

    /// All tables that a cleanup has written to, or could have: its own, those of rows that went along, and archives.
    async fn written_by(&self, source: &Run) -> Result<Vec<String>, EngineError> {
        let plan = self.context.store.plan(source.plan).await?.ok_or(EngineError::UnknownPlan)?;
        let mut tables = BTreeSet::new();
        for step in &source.report.steps {
            tables.insert(step.table.clone());
            tables.extend(step.along.iter().map(|along| along.table.clone()));
        }
        for step in &plan.steps {
            tables.extend(step.children.iter().map(|child| child.table.clone()));
            if let Action::Archive { into, .. } = &step.rule.action {
                let (name, entry) = self.target(&source.target)?;
                let archive = planner::archive_name(entry.target.as_ref(), into).await;
                tables.insert(archive.map_err(EngineError::target(name))?.to_string());
            }
        }
        Ok(tables.into_iter().collect())
    }

    /// Accepts a verification of a backup.
    ///
    /// # Errors
    /// `UnknownBackup`, `WrongState`, `RequestIdReused`, `InvalidField`, `Store`.
    pub async fn verify(&self, request_id_text: &str, backup: &str, caller: &Caller) -> Result<Run, EngineError> {
        let source = self.backup_run(backup).await?;
        let digest = digest_of(&["verify", &source.id.to_string()]);
        let request_id = request_id(request_id_text)?;
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        if !source.state.is_final() {
            return Err(EngineError::WrongState {
                run: source.id,
                state: source.state,
                expected: "a run that has ended",
            });
        }
        if let Some(pruned) = source.pruned {
            return Err(EngineError::BackupPruned {
                backup: source.id,
                at: pruned.at,
            });
        }
        let options = RunOptions {
            dry_run: false,
            full_speed: true,
            max_execution_seconds: *RunOptions::MAX_EXECUTION_SECONDS.end(),
            ..RunOptions::default()
        };
        let mut run = if source.whole_backup().is_some() {
            self.proof_of_whole(&source)
        } else {
            self.about(RunKind::Verify, &source, options).await?
        };
        run.started_by.clone_from(&caller.principal);
        self.accept(CreateRun {
            run,
            tables: Vec::new(),
            request_id,
            request_digest: digest,
            events: Vec::new(),
            decision: None,
            slot: None,
        })
        .await
    }

    /// A new run about the captured rows of another.
    async fn about(&self, kind: RunKind, source: &Run, options: RunOptions) -> Result<Run, EngineError> {
        if source.report.total(|step| step.rows_captured) == 0 {
            return Err(EngineError::NothingCaptured { run: source.id });
        }
        let plan = self.context.store.plan(source.plan).await?.ok_or(EngineError::UnknownPlan)?;
        let steps = source.report.steps.iter().map(|step| StepReport {
            operation: step.operation.clone(),
            rule: step.rule.clone(),
            table: step.table.clone(),
            rows_planned: step.rows_captured,
            ..StepReport::default()
        });
        let report = Report {
            steps: steps.collect(),
            operations: source.report.operations.iter().map(OperationFacts::of_follow_up).collect(),
            ..Report::default()
        };
        Ok(self.new_run(
            kind,
            &source.target,
            source.operations.clone(),
            &plan,
            Some(source.id),
            options,
            report,
        ))
    }
}
