//! The engine's front: what the gRPC services, and nobody else, call. Every act that takes long is a run, carried out by the
//! [`Supervisor`]; here requests are checked, plans made, runs accepted and looked at.
//!
//! `limits` judges counts, `approve` is the consent to a run, `decide` keeps the record of what was asked and what became of it.

mod approve;
mod decide;
mod limits;

mod operations;

mod discover;

mod files;

mod steering;

pub mod backups;
pub mod migrations;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    EngineError,
    catalog::Catalog,
    model::{
        Act, Backup, Caller, EventBody, JournalEntry, OperationFacts, Plan, Report, Run, RunId, RunKind, RunLimits, RunOptions,
        RunState, StepReport, StepState, TargetStatus, Verification,
    },
    planner::{self, PlanError, Recount},
    port::{Archive, CreateRun, Created, Roots, RunFilter, Store, Target},
    rule::{Action, Operation, Severity},
    run::{Feeds, Supervisor, WatchItem, tables_of},
};

/// How far a count may move between plan and run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Share of the planned rows, 0 to 1.
    pub fraction: f64,
    /// Rows that are always tolerated, so that small counts may move.
    pub rows: u64,
}

impl Drift {
    /// Largest difference from a planned count that is taken.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count is a count"
    )]
    pub fn tolerance(&self, planned: u64) -> u64 {
        self.rows + (crate::run::as_f64(planned) * self.fraction) as u64
    }
}

/// What the operator of a server can set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this server in leases, unique among those that share a store.
    pub holder: String,
    /// Length of a lease.
    pub lease_term: Duration,
    /// How often the store is asked for runs that nobody works on.
    pub claim_interval: Duration,
    /// Most runs that this server works on at a time.
    pub concurrent_runs: usize,
    /// How long a plan's token is taken.
    pub plan_lifetime: Duration,
    /// How far a count may move between plan and run.
    pub drift: Drift,
    /// Principals beside the one that starts it who have to approve a run of severity CRITICAL; 0 lets it begin at once.
    pub approvals: u32,
    /// What a rule's earlier runs say about a count.
    pub history: HistoryLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            holder: uuid::Uuid::now_v7().to_string(),
            lease_term: Duration::from_secs(15),
            claim_interval: Duration::from_secs(2),
            concurrent_runs: 4,
            plan_lifetime: Duration::from_secs(3600),
            drift: Drift {
                fraction: 0.1,
                rows: 100,
            },
            approvals: 1,
            history: HistoryLimits::default(),
        }
    }
}

/// A target with its catalog.
#[derive(Clone)]
pub struct TargetEntry {
    /// The database.
    pub target: Arc<dyn Target>,
    /// Its operations.
    pub catalog: Arc<Catalog>,
    /// Folders whose files its rules may take.
    pub roots: Arc<Roots>,
    /// Where its migrations come from; `None` where it has none.
    pub migrations: Option<Migrations>,
}

impl TargetEntry {
    /// The database as a run of these limits reads it: at full speed with all that it has, otherwise so that others keep theirs.
    pub(crate) fn paced(&self, limits: RunLimits) -> Arc<dyn Target> {
        let gentle = if limits.is_full_speed() { None } else { self.target.gentle() };
        gentle.unwrap_or_else(|| Arc::clone(&self.target))
    }
}

/// What attempts and requests share.
pub(crate) struct Context {
    pub(crate) targets: BTreeMap<String, TargetEntry>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) settings: Settings,
    /// Tells the supervisor that there is a new run.
    pub(crate) wake: Notify,
    /// Tells leases to renew now, which brings a cancel request at once.
    pub(crate) renew: Arc<Notify>,
}

/// The engine.
#[derive(Clone)]
pub struct Engine {
    context: Arc<Context>,
}

/// A request to clean up.
#[derive(Debug, Clone)]
pub struct CleanupRequest {
    /// Makes the call idempotent; empty for a new one.
    pub request_id: String,
    /// Target; empty where there is only one.
    pub target: String,
    /// Operations; empty where the plan names them.
    pub operations: Vec<String>,
    /// Token of a plan; empty for none.
    pub plan_token: String,
    /// The plan's phrase, as it was typed; empty for none.
    pub confirmation_phrase: String,
    /// How to run.
    pub options: RunOptions,
    /// Who asks.
    pub caller: Caller,
    /// Cancelled when the caller goes away. Planning takes its time; a run that nobody waits for any more is not begun.
    pub given_up: CancellationToken,
}

pub use limits::HistoryLimits;
pub use migrations::Migrations;

/// Most operations of one plan.
pub const MAX_OPERATIONS: usize = 32;
/// Longest request id, characters.
pub const MAX_REQUEST_ID: usize = 64;

impl Engine {
    /// Puts an engine together.
    #[must_use]
    pub fn new(
        targets: BTreeMap<String, TargetEntry>,
        store: Arc<dyn Store>,
        archive: Arc<dyn Archive>,
        settings: Settings,
    ) -> Self {
        let feeds = Feeds::new(Arc::clone(&store));
        Self {
            context: Arc::new(Context {
                targets,
                store,
                archive,
                feeds,
                settings,
                wake: Notify::new(),
                renew: Arc::new(Notify::new()),
            }),
        }
    }

    /// The task that works on runs.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        Supervisor::new(Arc::clone(&self.context))
    }

    // Targets and catalogs.

    /// All targets by name.
    #[must_use]
    pub fn targets(&self) -> &BTreeMap<String, TargetEntry> {
        &self.context.targets
    }

    /// The target of that name, or the only one where the name is empty.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`.
    pub fn target(&self, name: &str) -> Result<(&str, &TargetEntry), EngineError> {
        let targets = &self.context.targets;
        let found = if name.is_empty() && targets.len() == 1 {
            targets.iter().next()
        } else {
            targets.get_key_value(name)
        };
        match found {
            Some((name, entry)) => Ok((name, entry)),
            None if name.is_empty() && !targets.is_empty() => {
                let known = targets.keys().cloned().collect::<Vec<_>>().join(", ");
                Err(EngineError::InvalidField {
                    field: "target",
                    problem: format!("is empty; expected one of {known}"),
                })
            }
            None => Err(EngineError::UnknownTarget {
                name: name.to_owned(),
                known: targets.keys().cloned().collect(),
            }),
        }
    }

    /// Connects to a target; also names the runs that hold tables of it.
    ///
    /// # Errors
    /// `UnknownTarget`, `Target`, `Store`.
    pub async fn target_status(&self, name: &str) -> Result<(TargetStatus, Vec<RunId>), EngineError> {
        let (name, entry) = self.target(name)?;
        let status = entry.target.status().await.map_err(EngineError::target(name))?;
        let living = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = RunFilter {
            target: Some(name.to_owned()),
            states: living,
            ..RunFilter::default()
        };
        let active = self.context.store.runs(&filter, None, 100).await?;
        Ok((status, active.into_iter().map(|run| run.id).collect()))
    }

    /// An operation of a target's catalog.
    ///
    /// # Errors
    /// `UnknownTarget`, `UnknownOperation`.
    pub fn operation(&self, target: &str, name: &str) -> Result<&Operation, EngineError> {
        let (target, entry) = self.target(target)?;
        entry.catalog.get(name).ok_or_else(|| EngineError::UnknownOperation {
            target: target.to_owned(),
            name: name.to_owned(),
            known: entry
                .catalog
                .operations()
                .iter()
                .map(|operation| operation.name.clone())
                .collect(),
        })
    }

    /// Checks every catalog against its target's schema; targets that cannot be reached are passed over with a warning.
    ///
    /// # Errors
    /// `CatalogMismatch` with file, line and what was expected.
    pub async fn check_catalogs(&self) -> Result<(), EngineError> {
        for (name, entry) in &self.context.targets {
            match planner::check(entry.target.as_ref(), &entry.roots, entry.catalog.operations()).await {
                Ok(()) => {}
                Err(PlanError::Target(error)) => {
                    tracing::warn!(target = name, %error, "catalog not checked against the target's schema")
                }
                Err(PlanError::Files(error)) => {
                    tracing::warn!(target = name, %error, "catalog not checked against the target's roots")
                }
                Err(mismatch) => return Err(plan_error(name)(mismatch)),
            }
        }
        Ok(())
    }

    // Plans.

    fn operations<'a>(&'a self, target: &str, names: &[String]) -> Result<Vec<&'a Operation>, EngineError> {
        let invalid = |problem: String| EngineError::InvalidField {
            field: "operations",
            problem,
        };
        if names.is_empty() || names.len() > MAX_OPERATIONS {
            return Err(invalid(format!(
                "names {} operations; expected 1 to {MAX_OPERATIONS}",
                names.len()
            )));
        }
        for (position, name) in names.iter().enumerate() {
            if names[..position].contains(name) {
                return Err(invalid(format!("names {name} twice; expected each operation once")));
            }
        }
        names.iter().map(|name| self.operation(target, name)).collect()
    }

    /// Makes and keeps a plan.
    ///
    /// # Errors
    /// `UnknownTarget`, `UnknownOperation`, `InvalidField`, `CatalogMismatch`, `Target`, `Store`.
    pub async fn plan(&self, target: &str, operations: &[String]) -> Result<Plan, EngineError> {
        let (name, entry) = self.target(target)?;
        let operations = self.operations(name, operations)?;
        let speeds = self.speeds(name).await?;
        let expected = |operation: &str, rule: &str, rows: u64| speeds.expected_ms(operation, rule, rows);
        let (mut plan, _) = planner::plan(
            name,
            entry.target.as_ref(),
            &entry.roots,
            &operations,
            &self.context.settings,
            expected,
            None,
        )
        .await
        .map_err(plan_error(name))?;
        self.limit(&mut plan, None).await?;
        self.context.store.put_plan(&plan).await?;
        tracing::info!(plan = %plan.id, target = name, rows = plan.row_count(), "plan made");
        Ok(plan)
    }

    /// Measured speeds of the target's newest runs.
    async fn speeds(&self, target: &str) -> Result<Speeds, EngineError> {
        let filter = RunFilter {
            target: Some(target.to_owned()),
            states: vec![RunState::Succeeded, RunState::PartiallySucceeded],
            kinds: vec![RunKind::Cleanup],
            ..RunFilter::default()
        };
        Ok(Speeds {
            runs: self.context.store.runs(&filter, None, 50).await?,
        })
    }

    // Runs.

    /// Accepts a cleanup, or finds the one that the same request started. A dry run ends with its plan.
    ///
    /// # Errors
    /// Those of [`Engine::plan`], and everything that [`EngineError`] says about plans, requests and held tables. Nothing is
    /// changed then.
    pub async fn run_cleanup(&self, request: CleanupRequest) -> Result<Run, EngineError> {
        let started = self.start_cleanup(&request).await;
        self.noted_run(&request, started).await
    }

    async fn start_cleanup(&self, request: &CleanupRequest) -> Result<Run, EngineError> {
        let (name, entry) = self.target_of(request).await?;
        let request_id = request_id(&request.request_id)?;
        let digest = digest_of(&[
            "cleanup",
            name,
            &request.operations.join(","),
            &request.plan_token,
            &request.confirmation_phrase,
            &serde_json::to_string(&request.options).unwrap_or_default(),
        ]);
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        let (plan, schemas) = if request.plan_token.is_empty() {
            let operations = self.operations(name, &request.operations)?;
            if !request.options.dry_run {
                permit(&operations, false)?;
            }
            let speeds = self.speeds(name).await?;
            let expected = |operation: &str, rule: &str, rows: u64| speeds.expected_ms(operation, rule, rows);
            let (mut plan, selections) = planner::plan(
                name,
                entry.paced(request.options.limits()).as_ref(),
                &entry.roots,
                &operations,
                &self.context.settings,
                expected,
                None,
            )
            .await
            .map_err(plan_error(name))?;
            self.limit(&mut plan, request.options.max_rows).await?;
            self.context.store.put_plan(&plan).await?;
            if !request.options.dry_run {
                limits::accept(&plan, None, &request.options)?;
            }
            (plan, selections.steps)
        } else {
            self.refuse_used(request).await?;
            self.recheck(name, entry, request).await?
        };
        let steps = plan.steps.iter().map(|step| StepReport {
            operation: step.operation.clone(),
            rule: step.rule.name.clone(),
            table: step.table.clone(),
            rows_planned: step.row_count,
            ..StepReport::default()
        });
        let report = Report {
            steps: steps.collect(),
            operations: self.operation_facts(name, &plan.operations)?,
            ..Report::default()
        };
        let mut run = self.new_run(
            RunKind::Cleanup,
            name,
            plan.operations.clone(),
            &plan,
            None,
            RunOptions {
                vacuum: request.options.vacuum || wants_vacuum(entry, &plan.operations),
                ..request.options
            },
            report,
        );
        run.started_by.clone_from(&request.caller.principal);
        let mut tables = tables_of(schemas.iter().flat_map(planner::Step::held));
        if request.options.dry_run {
            tables.clear();
            run.state = RunState::Succeeded;
            run.state_reason = limits::dry_run_says(&plan, &request.options);
            run.report.status = Some(crate::model::ReportStatus::Success);
            run.report.steps.iter_mut().for_each(|step| step.state = StepState::Succeeded);
            run.ended_at = Some(run.created_at);
        } else {
            self.await_approvals(&mut run, &plan);
        }
        if request.given_up.is_cancelled() {
            return Err(EngineError::GivenUp);
        }
        let ready = EventBody::PlanReady {
            plan: plan.id,
            token: request.options.dry_run.then(|| plan.token()),
            step_counts: plan.steps.iter().map(|step| step.row_count).collect(),
        };
        let decision = decide::allow_run(request, &run, &plan);
        self.accept(CreateRun {
            run,
            tables,
            request_id,
            request_digest: digest,
            events: vec![ready],
            decision,
        })
        .await
    }

    /// The target of a request: named, the only one, or the plan's.
    async fn target_of(&self, request: &CleanupRequest) -> Result<(&str, &TargetEntry), EngineError> {
        if request.target.is_empty() && !request.plan_token.is_empty() {
            let plan = self.plan_of_token(&request.plan_token).await?;
            return self.target(&plan.target);
        }
        self.target(&request.target)
    }

    async fn plan_of_token(&self, token: &str) -> Result<Plan, EngineError> {
        let id = Plan::id_of_token(token).ok_or(EngineError::UnknownPlan)?;
        let plan = self.context.store.plan(id).await?.ok_or(EngineError::UnknownPlan)?;
        if plan.token() == token {
            Ok(plan)
        } else {
            Err(EngineError::UnknownPlan)
        }
    }

    /// Takes a plan's token: the plan must be young, for this, on the same schema, and count about the same.
    async fn recheck(
        &self,
        name: &str,
        entry: &TargetEntry,
        request: &CleanupRequest,
    ) -> Result<(Plan, Vec<planner::Step>), EngineError> {
        let plan = self.plan_of_token(&request.plan_token).await?;
        let mismatch = |field, planned: &str, requested: &str| EngineError::PlanMismatch {
            plan: plan.id,
            field,
            planned: planned.to_owned(),
            requested: requested.to_owned(),
        };
        if plan.target != name {
            return Err(mismatch("target", &plan.target, name));
        }
        if !request.operations.is_empty() && request.operations != plan.operations {
            return Err(mismatch(
                "operations",
                &plan.operations.join(", "),
                &request.operations.join(", "),
            ));
        }
        if Timestamp::now() >= plan.expires_at {
            return Err(EngineError::PlanExpired {
                plan: plan.id,
                expired_at: plan.expires_at,
            });
        }
        let operations = self.operations(name, &plan.operations)?;
        let declared = operations.iter().flat_map(|operation| {
            operation
                .rules
                .iter()
                .map(|rule| (operation.backup || rule.root().is_some(), operation.max_rows, rule))
        });
        let severity = operations.iter().map(|operation| operation.severity).max();
        let planned = plan
            .steps
            .iter()
            .map(|step| (step.captured, step.operation_max_rows, &step.rule));
        if !declared.eq(planned) || severity != Some(plan.severity) {
            return Err(mismatch("catalog", "the rules of then", "the rules of now"));
        }
        if !request.options.dry_run {
            permit(&operations, true)?;
            approve::check_phrase(&plan, &request.confirmation_phrase)?;
        }
        let (mut recount, selections) = planner::plan(
            name,
            entry.paced(request.options.limits()).as_ref(),
            &entry.roots,
            &operations,
            &self.context.settings,
            |_, _, _| None,
            Some(Recount { plan: &plan }),
        )
        .await
        .map_err(plan_error(name))?;
        if recount.fingerprint != plan.fingerprint {
            let tables = tables_of(selections.schemas.values().map(|schema| &schema.name)).join(", ");
            return Err(EngineError::SchemaChanged { plan: plan.id, tables });
        }
        for (step, (planned, now)) in plan.steps.iter().zip(&recount.steps).enumerate() {
            let selected = (planned.row_count, now.row_count);
            for (planned_count, found) in [selected, (planned.along_count(), now.along_count())] {
                let tolerance = self.context.settings.drift.tolerance(planned_count);
                if planned_count.abs_diff(found) > tolerance {
                    return Err(EngineError::CountDrifted {
                        step,
                        rule: planned.rule.name.clone(),
                        planned: planned_count,
                        found,
                        tolerance,
                    });
                }
            }
        }
        if !request.options.dry_run {
            self.limit(&mut recount, request.options.max_rows).await?;
            limits::accept(&recount, Some(&plan), &request.options)?;
        }
        Ok((plan, selections.steps))
    }

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

    #[expect(clippy::too_many_arguments, reason = "each of them differs between the three kinds of run")]
    fn new_run(
        &self,
        kind: RunKind,
        target: &str,
        operations: Vec<String>,
        plan: &Plan,
        source: Option<RunId>,
        options: RunOptions,
        report: Report,
    ) -> Run {
        Run {
            id: RunId::new(),
            kind,
            target: target.to_owned(),
            state: RunState::Queued,
            state_reason: String::new(),
            operations,
            plan: plan.id,
            source,
            undone_by: None,
            options,
            limits: options.limits(),
            waiting: None,
            attempts: 0,
            report,
            last_sequence: 0,
            cancel_reason: None,
            pause_reason: None,
            created_at: Timestamp::now(),
            started_at: None,
            ended_at: None,
            verification: Verification::Unverified,
            started_by: String::new(),
            approvals: Vec::new(),
            approvals_required: 0,
            approve_until: None,
            pruned: None,
        }
    }

    /// The run that the same request started before.
    async fn repeated(&self, request_id: &str, digest: &str) -> Result<Option<Run>, EngineError> {
        match self.context.store.run_of_request(request_id).await? {
            Some((run, stored)) if stored == digest => self.context.store.run(run).await.map_err(EngineError::from),
            Some((run, _)) => Err(EngineError::RequestIdReused {
                request_id: request_id.to_owned(),
                run,
            }),
            None => Ok(None),
        }
    }

    async fn accept(&self, request: CreateRun) -> Result<Run, EngineError> {
        let target = request.run.target.clone();
        match self.context.store.create_run(&request).await? {
            Created::Accepted(run) => {
                tracing::info!(run = %run.id, kind = ?run.kind, target, "run accepted");
                self.context.wake.notify_one();
                Ok(run)
            }
            Created::Repeated(run) => Ok(run),
            Created::RequestIdReused(run) => Err(EngineError::RequestIdReused {
                request_id: request.request_id,
                run,
            }),
            Created::PlanUsed(run) => Err(EngineError::PlanUsed {
                plan: request.run.plan,
                run,
            }),
            Created::Held {
                run,
                table,
                state,
                operations,
                since,
            } => Err(EngineError::RunAlreadyActive {
                run,
                state,
                operations,
                since,
                target,
                table,
            }),
            Created::SourcePruned { source, at } => Err(EngineError::BackupPruned { backup: source, at }),
        }
    }

    /// A run by its id.
    ///
    /// # Errors
    /// `UnknownRun`, `Store`.
    pub async fn run(&self, id: &str) -> Result<Run, EngineError> {
        let unknown = || EngineError::UnknownRun { id: id.to_owned() };
        let run = id.parse().map_err(|_| unknown())?;
        self.context.store.run(run).await?.ok_or_else(unknown)
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn runs(&self, filter: &RunFilter, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, EngineError> {
        Ok(self.context.store.runs(filter, before, limit).await?)
    }

    /// Asks a run to stop at its next batch boundary. Asking again is no error.
    ///
    /// # Errors
    /// `UnknownRun`, `WrongState` where it has ended otherwise, `Store`.
    pub async fn cancel(&self, id: &str, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let asked = self.request_cancel(id, reason, caller).await;
        self.noted_about(Act::Cancel, id, caller, asked).await
    }

    async fn request_cancel(&self, id: &str, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let known = self.run(id).await?;
        if !known.state.is_final() {
            // Before the request itself: without a record there is no act.
            self.context
                .store
                .record(&decide::allow_cancel(caller, &known, reason))
                .await?;
        }
        let reason = if reason.is_empty() { "cancelled on request" } else { reason };
        let run = self
            .context
            .store
            .request_cancel(known.id, reason)
            .await?
            .ok_or_else(|| EngineError::UnknownRun { id: id.to_owned() })?;
        if run.state.is_final() && run.state != RunState::Cancelled {
            return Err(EngineError::WrongState {
                run: run.id,
                state: run.state,
                expected: "a run that has not ended",
            });
        }
        self.context.renew.notify_waiters();
        // An interrupted run ends in its next attempt: the sooner that begins the better.
        self.context.wake.notify_one();
        self.context.feeds.announce(run.id, run.last_sequence);
        Ok(run)
    }

    /// Follows a run's events after a sequence until it ends or the token is cancelled.
    ///
    /// # Errors
    /// `UnknownRun`, `SequenceAhead`, `Store`.
    pub async fn watch(
        &self,
        id: &str,
        after: u64,
        shutdown: CancellationToken,
    ) -> Result<impl futures::Stream<Item = Result<WatchItem, EngineError>> + Send + use<>, EngineError> {
        let run = self.run(id).await?;
        if after > run.last_sequence {
            return Err(EngineError::SequenceAhead {
                run: run.id,
                last: run.last_sequence,
            });
        }
        // A log that is over brings no further event, hence none that would end the stream.
        let over = run.state.is_final() && after == run.last_sequence;
        Ok(self
            .context
            .feeds
            .watch(run.id, after, run.state.is_final(), shutdown)
            .take(if over { 0 } else { usize::MAX }))
    }

    // Backups.

    /// Backups, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn backups(&self, target: Option<&str>, before: Option<RunId>, limit: u32) -> Result<Vec<Backup>, EngineError> {
        let filter = RunFilter {
            target: target.map(str::to_owned),
            kinds: RunKind::SAVING.to_vec(),
            captured: true,
            ..RunFilter::default()
        };
        Ok(self
            .context
            .store
            .runs(&filter, before, limit)
            .await?
            .iter()
            .map(backup_of)
            .collect())
    }

    async fn backup_run(&self, id: &str) -> Result<Run, EngineError> {
        let unknown = || EngineError::UnknownBackup { id: id.to_owned() };
        let run = self.run(id).await.map_err(|error| {
            if matches!(error, EngineError::UnknownRun { .. }) {
                unknown()
            } else {
                error
            }
        })?;
        let captured = run.report.total(|step| step.rows_captured) > 0;
        if run.whole_backup().is_some() || run.kind == RunKind::Cleanup && captured {
            Ok(run)
        } else {
            Err(unknown())
        }
    }

    /// A backup with at most `limit` of its chunks, from the target's journal.
    ///
    /// # Errors
    /// `UnknownBackup`, `Target`, `Store`.
    pub async fn backup(&self, id: &str, limit: u32) -> Result<(Backup, Vec<JournalEntry>), EngineError> {
        let run = self.backup_run(id).await?;
        if run.whole_backup().is_some() || run.pruned.is_some() {
            return Ok((backup_of(&run), Vec::new()));
        }
        let (name, entry) = self.target(&run.target)?;
        let chunks = entry
            .target
            .journal(run.id, (0, 0), limit)
            .await
            .map_err(EngineError::target(name))?;
        Ok((backup_of(&run), chunks))
    }
}

/// The backup that a run made.
fn backup_of(run: &Run) -> Backup {
    let chunks = run
        .report
        .steps
        .iter()
        .filter(|step| step.rows_captured > 0)
        .map(|step| step.batches)
        .sum();
    Backup {
        run: run.id,
        target: run.target.clone(),
        operations: run.operations.clone(),
        rows: run.report.total(|step| step.rows_captured),
        bytes: run.report.total(|step| step.captured_bytes),
        chunks,
        verification: run.verification,
        created_at: run.created_at,
        content: backups::content_of(run),
        pruned: run.pruned,
    }
}

/// Whether the catalog asks for a vacuum after one of the operations.
fn wants_vacuum(entry: &TargetEntry, operations: &[String]) -> bool {
    let mut declared = operations.iter().filter_map(|name| entry.catalog.get(name));
    declared.any(|operation| operation.vacuum)
}

/// Speeds of earlier runs.
struct Speeds {
    runs: Vec<Run>,
}

impl Speeds {
    /// Milliseconds that a rule is expected to take, from the newest run that deleted a row by it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive estimate in milliseconds"
    )]
    fn expected_ms(&self, operation: &str, rule: &str, rows: u64) -> Option<u64> {
        let mut steps = self.runs.iter().flat_map(|run| &run.report.steps);
        let step = steps
            .find(|step| step.operation == operation && step.rule == rule && step.rows_affected > 0 && step.duration_ms > 0)?;
        let per_row = crate::run::as_f64(step.duration_ms) / crate::run::as_f64(step.rows_affected);
        Some((per_row * crate::run::as_f64(rows)).round() as u64)
    }
}

/// What the severities ask for before anything is deleted. LOW: nothing. MEDIUM and above: the token of a plan (that HIGH
/// and CRITICAL capture is checked when the catalog is read). CRITICAL asks for a phrase and approvals besides: see `approve`.
fn permit(operations: &[&Operation], has_token: bool) -> Result<(), EngineError> {
    for operation in operations {
        match operation.severity {
            Severity::Medium | Severity::High | Severity::Critical if !has_token => {
                return Err(EngineError::PlanRequired {
                    operation: operation.name.clone(),
                    severity: operation.severity,
                });
            }
            Severity::Low | Severity::Medium | Severity::High | Severity::Critical => {}
        }
    }
    Ok(())
}

fn request_id(text: &str) -> Result<String, EngineError> {
    let length = text.chars().count();
    if length > MAX_REQUEST_ID || text.chars().any(char::is_control) {
        return Err(EngineError::InvalidField {
            field: "request_id",
            problem: format!("has {length} characters; expected 1 to {MAX_REQUEST_ID} printable ones"),
        });
    }
    Ok(if text.is_empty() {
        uuid::Uuid::now_v7().to_string()
    } else {
        text.to_owned()
    })
}

/// Tells requests apart; parts are framed by their lengths.
fn digest_of(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex::encode(hasher.finalize())
}

fn plan_error(target: &str) -> impl Fn(PlanError) -> EngineError + '_ {
    move |error| match error {
        PlanError::Target(source) => EngineError::Target {
            target: target.to_owned(),
            source,
        },
        PlanError::Files(source) => EngineError::Files {
            target: target.to_owned(),
            source,
        },
        PlanError::Mismatch {
            origin,
            operation,
            rule,
            expected,
        } => EngineError::CatalogMismatch {
            origin,
            operation,
            rule,
            expected,
        },
    }
}
