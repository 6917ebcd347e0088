//! The nine operations, one after the other: plan, run, proof of the backup, and in the end the undo of all of them in reverse order.
//! Every count is compared with what the generator knows, and every table and folder with what it was. Called by `show.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use dbkeep_client::{Client, OperationQuery, PlanRequest, RunRequest, UndoRequest, proto};
use serde::Serialize;

use dbkeep_demo::{GroundTruth, RuleTruth, folder_hash, table_hashes, trashed};

use crate::voice::{Voice, megabytes, seconds};

/// The order of the runs. Users leave last: their rows would be missing in the counts of the others, and their avatars would have no
/// owner any more.
const ORDER: [&str; 9] = [
    "orphaned_achievements",
    "orphaned_progress",
    "orphaned_leaderboard",
    "orphaned_prerequisites",
    "expired_tokens",
    "old_logs",
    "cached_data",
    "temporary_files",
    "inactive_accounts",
];

/// One rule, in numbers that agree.
#[derive(Debug, Serialize)]
struct RuleCounts {
    rule: String,
    table: String,
    action: String,
    /// What the generator put there.
    truth: u64,
    planned: u64,
    affected: u64,
    captured: u64,
    /// Rows of other tables that went along.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    along_deleted: BTreeMap<String, u64>,
    /// Rows of other tables whose key became NULL.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    along_nullified: BTreeMap<String, u64>,
}

/// One operation, run and undone.
#[derive(Debug, Serialize)]
struct OperationOutcome {
    operation: String,
    category: String,
    severity: &'static str,
    expected_seconds: f64,
    rules: Vec<RuleCounts>,
    approved_by: Vec<String>,
    /// Rows and files whose backup was proven.
    verified: u64,
    restored: u64,
    run: String,
    verify: String,
    undo: String,
}

/// What `--output json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    database: String,
    seed: u64,
    declared_keys: bool,
    total_rows: u64,
    operations: Vec<OperationOutcome>,
    tables_compared: usize,
    folders_compared: usize,
    restored_exactly: bool,
}

impl Outcome {
    /// Id of the run of an operation.
    pub(crate) fn run_of(&self, operation: &str) -> Option<&str> {
        let outcome = self.operations.iter().find(|outcome| outcome.operation == operation)?;
        Some(&outcome.run)
    }
}

/// What is served, and who calls.
pub(crate) struct Tour<'a> {
    pub(crate) voice: &'a Voice,
    /// Whoever plans and runs.
    pub(crate) client: &'a Client,
    /// Somebody else.
    pub(crate) approver: &'a Client,
    /// The database.
    pub(crate) url: &'a str,
    /// Where the two folders of files are.
    pub(crate) place: &'a Path,
    pub(crate) truth: &'a GroundTruth,
}

/// The folders of files.
const ROOTS: [&str; 2] = ["temp", "uploads"];

/// Hashes of all tables and folders.
type Hashes = BTreeMap<String, String>;

impl Tour<'_> {
    /// All of it.
    ///
    /// # Errors
    /// Where a count is not the generator's, a run fails, or something is not as before after the undo.
    pub(crate) async fn operate(&self) -> Result<Outcome> {
        let known = self.operations().await?;
        let before = self.hashes().await?;
        self.voice.say(
            "4. One after the other: an exact plan, and exactly this plan, batch by batch, each row in a backup before it goes.",
        );
        let mut operations = Vec::new();
        for name in ORDER {
            let operation = known
                .get(name)
                .with_context(|| format!("the server has no operation {name}"))?;
            operations.push(self.clean(operation).await?);
        }
        let after = self.hashes().await?;
        ensure!(before != after, "nine operations changed nothing");
        let (moved, in_trash) = (files_of(&operations), self.in_trash(&operations)?);
        ensure!(
            moved > 0 && in_trash == moved,
            "{moved} files were moved to the trash, and {in_trash} are in it"
        );
        self.voice
            .say("  planned = done = what the generator put there, for every rule and every table that goes along");

        self.voice
            .say("5. Undo, the last run first: every row and every file goes back.");
        for outcome in operations.iter_mut().rev() {
            let undo = self.client.runs().undo(UndoRequest::new(outcome.run.as_str())).await?;
            let undo = self
                .voice
                .follow(&format!("undo of {}", outcome.operation), undo, None)
                .await?;
            let report = undo.report.unwrap_or_default();
            ensure!(
                report.rows_conflicting == 0,
                "the undo of {} met conflicts",
                outcome.operation
            );
            (outcome.undo, outcome.restored) = (undo.id, report.rows_affected);
        }
        let after = self.hashes().await?;
        let changed: Vec<&String> = before
            .iter()
            .filter(|(name, hash)| after.get(*name) != Some(*hash))
            .map(|(name, _)| name)
            .collect();
        ensure!(
            changed.is_empty() && before.len() == after.len(),
            "after the undo these differ from before: {changed:?}"
        );
        let left = self.in_trash(&operations)?;
        ensure!(left == 0, "after the undo {left} files are in the trash");
        let folders_compared = before.keys().filter(|name| name.starts_with("files:")).count();
        let tables_compared = before.len() - folders_compared;
        self.voice.say(format_args!(
            "  SHA-256 over each of {tables_compared} tables and {folders_compared} folders, with modes, owners and times: the same as before the first run; the trash is empty"
        ));
        Ok(Outcome {
            database: self.truth.database.clone(),
            seed: self.truth.seed,
            declared_keys: self.truth.declared_keys,
            total_rows: self.truth.total_rows,
            operations,
            tables_compared,
            folders_compared,
            restored_exactly: true,
        })
    }

    async fn operations(&self) -> Result<BTreeMap<String, proto::Operation>> {
        let listed = self.client.cleanup().operations(OperationQuery::default()).await?;
        self.voice.say("3. What the catalog has:");
        for operation in &listed {
            self.voice.say(format_args!(
                "  {:<23} {:<18} {:<9} about {:>5.0} s  {}",
                operation.name,
                operation.category,
                severity(operation.severity()),
                seconds(operation.expected_duration),
                operation.description
            ));
        }
        Ok(listed
            .into_iter()
            .map(|operation| (operation.name.clone(), operation))
            .collect())
    }

    async fn hashes(&self) -> Result<Hashes> {
        let mut hashes = table_hashes(self.url).await?;
        for root in ROOTS {
            let folder: PathBuf = self.place.join(root);
            hashes.insert(format!("files:{root}"), folder_hash(&folder)?);
        }
        Ok(hashes)
    }

    /// Files that the runs have in the trash of the folders together.
    fn in_trash(&self, operations: &[OperationOutcome]) -> Result<u64> {
        let mut files = 0;
        for root in ROOTS {
            for outcome in operations {
                files += trashed(&self.place.join(root), &outcome.run)?;
            }
        }
        Ok(files)
    }

    /// Plans, runs, plans again, and proves the backup.
    async fn clean(&self, operation: &proto::Operation) -> Result<OperationOutcome> {
        let name = operation.name.as_str();
        let plan = self.client.cleanup().plan(PlanRequest::new([name])).await?;
        ensure!(!plan.blocked, "{name} is blocked: {:?}", plan.steps);
        self.voice.say(format_args!(
            "{name}: {} rows, {} more along with them, about {:.1} MB to capture",
            plan.row_count,
            plan.along_row_count,
            megabytes(plan.capture_bytes)
        ));
        for step in &plan.steps {
            let truth = self.truth_of(step)?;
            ensure!(
                step.row_count == truth.rows,
                "{}: the generator made {} rows, the plan counted {}",
                step.rule,
                truth.rows,
                step.row_count
            );
            self.voice.say(format_args!(
                "  {:<31} {:>8} of {:>8}  {}",
                step.rule, step.row_count, step.table_row_count, step.table
            ));
            for finding in &step.findings {
                self.voice
                    .say(format_args!("    {:?} {}: {}", finding.level(), finding.code, finding.detail));
            }
        }
        // Captured even where the operation does not ask for it, so that it can be undone.
        let mut request = RunRequest::of_plan(&plan).execute().capture().batch_size(5_000);
        if !plan.confirmation_phrase.is_empty() {
            self.voice
                .say(format_args!("  it asks for the phrase: {}", plan.confirmation_phrase));
            request = request.confirmation_phrase(plan.confirmation_phrase.as_str());
        }
        let stream = self.client.cleanup().run(request).await?;
        let approver = (plan.approvals_required > 0).then_some(self.approver);
        let run = self.voice.follow(name, stream, approver).await?;
        let report = run.report.clone().context("a run without a report")?;
        let mut rules = Vec::new();
        for (step, planned) in report.steps.iter().zip(&plan.steps) {
            rules.push(self.counts(step, planned)?);
        }
        ensure!(
            rules.len() == plan.steps.len(),
            "{name} reports {} rules of {}",
            rules.len(),
            plan.steps.len()
        );
        let again = self.client.cleanup().plan(PlanRequest::new([name])).await?;
        ensure!(
            again.row_count == 0,
            "after its run {name} still finds {} rows",
            again.row_count
        );

        let verify = self.client.backups().verify(run.id.as_str()).await?;
        let verify = self.voice.follow(&format!("proof of {name}"), verify, None).await?;
        Ok(OperationOutcome {
            operation: name.to_owned(),
            category: operation.category.clone(),
            severity: severity(operation.severity()),
            expected_seconds: seconds(operation.expected_duration),
            rules,
            approved_by: run.approvals.iter().map(|approval| approval.principal.clone()).collect(),
            verified: verify.report.unwrap_or_default().rows_affected,
            restored: 0,
            run: run.id,
            verify: verify.id,
            undo: String::new(),
        })
    }

    fn truth_of(&self, step: &proto::PlanStep) -> Result<&RuleTruth> {
        self.truth
            .rule(&step.operation, &step.rule)
            .with_context(|| format!("the generator knows no rule {} of {}", step.rule, step.operation))
    }

    /// Compares one rule's report with plan and truth.
    fn counts(&self, step: &proto::StepReport, planned: &proto::PlanStep) -> Result<RuleCounts> {
        let truth = self.truth_of(planned)?;
        ensure!(
            step.rows_affected == truth.rows && step.rows_planned == truth.rows,
            "{}: the generator made {} rows, the run had {} planned and took {}",
            step.rule,
            truth.rows,
            step.rows_planned,
            step.rows_affected
        );
        let (mut deleted, mut nullified) = (BTreeMap::new(), BTreeMap::new());
        for along in &step.along {
            let table = along.table.rsplit('.').next().unwrap_or(&along.table).to_owned();
            if along.rows_deleted > 0 {
                deleted.insert(table.clone(), along.rows_deleted);
            }
            if along.rows_nullified > 0 {
                nullified.insert(table, along.rows_nullified);
            }
        }
        // `inactive_accounts` runs last, and the others have taken some of its users' rows.
        let last = !truth.cascaded_last.is_empty();
        let expected = if last {
            (&truth.cascaded_last, &truth.nullified_last)
        } else {
            (&truth.cascaded, &truth.nullified)
        };
        let some = |counts: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            counts
                .iter()
                .filter(|(_, rows)| **rows > 0)
                .map(|(table, rows)| (table.clone(), *rows))
                .collect()
        };
        ensure!(
            (&deleted, &nullified) == (&some(expected.0), &some(expected.1)),
            "{}: {deleted:?} went along and {nullified:?} lost a key; the generator made {:?} and {:?}",
            step.rule,
            expected.0,
            expected.1
        );
        Ok(RuleCounts {
            rule: step.rule.clone(),
            table: step.table.clone(),
            action: planned.action.clone(),
            truth: truth.rows,
            planned: planned.row_count,
            affected: step.rows_affected,
            captured: step.rows_captured,
            along_deleted: deleted,
            along_nullified: nullified,
        })
    }
}

/// Files that the runs took.
fn files_of(operations: &[OperationOutcome]) -> u64 {
    let rules = operations.iter().flat_map(|outcome| &outcome.rules);
    let of_files = rules.filter(|rule| rule.table.starts_with("files:"));
    of_files.map(|rule| rule.affected).sum()
}

fn severity(severity: proto::Severity) -> &'static str {
    severity.as_str_name().trim_start_matches("SEVERITY_")
}
