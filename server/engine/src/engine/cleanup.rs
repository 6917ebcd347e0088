//! Cleanups: plans, and what is asked before a run of one is accepted. The work of the run is in [`crate::run`].

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Engine, MAX_OPERATIONS, TargetEntry, approve, decide, digest_of, limits, plan_error, request_id, schedules::Slot};
use crate::{
    EngineError,
    model::{
        Approval, Caller, EventBody, Plan, Report, Run, RunKind, RunOptions, RunState, StepReport, StepState, Warning, going,
    },
    planner::{self, Asked, Recount},
    port::{CreateRun, RunFilter},
    rule::{Operation, Severity},
    run::tables_of,
};

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

impl Engine {
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
            Asked::default(),
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
                Asked::default(),
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
            action: step.rule.action.name().to_owned(),
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
            slot: None,
        })
        .await
    }

    /// Accepts the cleanup of a slot, under limits in place of confirmations: nobody is there to confirm. Where it would delete more than the
    /// limits allow, or needs a consent that the schedule does not have, nothing is changed.
    ///
    /// # Errors
    /// Those of [`Engine::run_cleanup`], and `StandingApproval`, `SlotLost`.
    pub(super) async fn start_scheduled_cleanup(&self, slot: &Slot<'_>, operations: &[String]) -> Result<Run, EngineError> {
        let spec = &slot.schedule.spec;
        let (name, entry) = self.target(&spec.target)?;
        let operations = self.operations(name, operations)?;
        let asked = &spec.options;
        let options = RunOptions {
            dry_run: asked.dry_run,
            batch_rows: asked.batch_rows,
            max_execution_seconds: slot.seconds,
            full_speed: asked.full_speed,
            stop_on_failure: asked.stop_on_failure,
            max_rows: asked.max_rows,
            max_share_millionths: asked.max_fraction.map(going::millionths),
            vacuum: asked.vacuum_after,
            // A table that somebody has now will be free some time; the slot has until its deadline.
            queue: true,
            ..RunOptions::default()
        };
        let caller = slot.caller();
        let speeds = self.speeds(name).await?;
        let expected = |operation: &str, rule: &str, rows: u64| speeds.expected_ms(operation, rule, rows);
        let (mut plan, selections) = planner::plan(
            name,
            entry.paced(options.limits()).as_ref(),
            &entry.roots,
            &operations,
            &self.context.settings,
            expected,
            Asked {
                max_fraction: asked.max_fraction,
                ..Asked::default()
            },
        )
        .await
        .map_err(plan_error(name))?;
        self.limit(&mut plan, options.max_rows).await?;
        self.context.store.put_plan(&plan).await?;
        let limits = slot.check_limits(&plan);
        // Whoever hears of a dry run hears what a run would be refused for.
        let refused = match limits {
            Err(EngineError::PlanBlocked { finding }) if options.dry_run => Some(Warning {
                code: finding.code.clone(),
                message: format!("a run would be refused: {}", finding.detail),
                step: None,
            }),
            limits => {
                limits?;
                None
            }
        };
        if !options.dry_run && plan.severity >= Severity::Critical {
            let makers = match &slot.schedule.state.approval {
                Some(approval) if !slot.fired_by.is_empty() => self.makers(&approval.by).await?,
                _ => BTreeSet::new(),
            };
            slot.check_approval(&plan, &self.consent_digest(spec), &makers)?;
        }
        let steps = plan.steps.iter().map(|step| StepReport {
            operation: step.operation.clone(),
            rule: step.rule.name.clone(),
            table: step.table.clone(),
            action: step.rule.action.name().to_owned(),
            rows_planned: step.row_count,
            ..StepReport::default()
        });
        let report = Report {
            steps: steps.collect(),
            operations: self.operation_facts(name, &plan.operations)?,
            scheduled: Some(Box::new(slot.scheduled())),
            warnings: refused.into_iter().collect(),
            ..Report::default()
        };
        // What was consented to was judged over the plan, and binds the work as well: what drifts in meanwhile was consented to by nobody.
        let approval = slot.schedule.state.approval.as_ref();
        let approval = approval.filter(|_| plan.severity >= Severity::Critical);
        let consented = approval.filter(|_| !options.dry_run).map(|approval| approval.max_rows);
        let options = RunOptions {
            vacuum: options.vacuum || wants_vacuum(entry, &plan.operations),
            max_rows: options.max_rows.into_iter().chain(consented).min(),
            ..options
        };
        let mut run = self.new_run(RunKind::Cleanup, name, plan.operations.clone(), &plan, None, options, report);
        run.started_by.clone_from(&caller.principal);
        if let Some(approval) = approval {
            run.approvals.push(Approval {
                principal: approval.by.clone(),
                at: approval.at,
            });
        }
        let mut tables = tables_of(selections.steps.iter().flat_map(planner::Step::held));
        if options.dry_run {
            tables.clear();
            run.state = RunState::Succeeded;
            run.state_reason = limits::dry_run_says(&plan, &options);
            run.report.status = Some(crate::model::ReportStatus::Success);
            run.report.steps.iter_mut().for_each(|step| step.state = StepState::Succeeded);
            run.ended_at = Some(run.created_at);
        }
        let ready = EventBody::PlanReady {
            plan: plan.id,
            token: None,
            step_counts: plan.steps.iter().map(|step| step.row_count).collect(),
        };
        crate::failpoint!("slot-planned");
        let decision = decide::allow_slot(&caller, &run, &plan, slot.claim.slot);
        let request_id = slot.request_id();
        self.accept(CreateRun {
            run,
            tables,
            request_digest: digest_of(&["slot", &request_id]),
            request_id,
            events: vec![ready],
            decision,
            slot: Some(slot.claim),
        })
        .await
    }

    /// The target of a request: named, the only one, or the plan's.
    pub(super) async fn target_of(&self, request: &CleanupRequest) -> Result<(&str, &TargetEntry), EngineError> {
        if request.target.is_empty() && !request.plan_token.is_empty() {
            let plan = self.plan_of_token(&request.plan_token).await?;
            return self.target(&plan.target);
        }
        self.target(&request.target)
    }

    /// The target of a plan, by its token.
    ///
    /// # Errors
    /// `UnknownPlan`, `Store`.
    pub async fn plan_target(&self, token: &str) -> Result<String, EngineError> {
        Ok(self.plan_of_token(token).await?.target)
    }

    pub(super) async fn plan_of_token(&self, token: &str) -> Result<Plan, EngineError> {
        let id = Plan::id_of_token(token).ok_or(EngineError::UnknownPlan)?;
        let plan = self.context.store.plan(id).await?.ok_or(EngineError::UnknownPlan)?;
        if plan.token() == token {
            Ok(plan)
        } else {
            Err(EngineError::UnknownPlan)
        }
    }

    /// Takes a plan's token: the plan must be young, for this, on the same schema, and count about the same.
    pub(super) async fn recheck(
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
            Asked {
                recount: Some(Recount { plan: &plan }),
                ..Asked::default()
            },
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
