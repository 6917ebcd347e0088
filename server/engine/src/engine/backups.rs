//! Backups of whole tables, restores of any backup, and the removal of old ones: what is checked before a run is accepted, and what
//! may be pruned. The work of the runs is in [`crate::run`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{Engine, TargetEntry, backup_of, digest_of, request_id};
use crate::{
    EngineError,
    backup::keep::{Need, need},
    failpoint,
    model::{
        Backup, BackupContent, BackupRecord, Plan, Report, RestoreMode, RestoreRecord, Run, RunId, RunKind, RunOptions,
        StepReport, TableName, Verification,
    },
    planner::files::blocking,
    port::{Archive, CreateRun, FilesError, MaintenanceError, PruneBegun, Roots, RunFilter, StoreError},
};

/// Most tables that a request may name.
pub const MAX_TABLES: usize = 100;
/// Longest name of a scratch place, characters: room is left for what adapters append, within PostgreSQL's 63.
pub const MAX_SCRATCH_NAME: usize = 50;
/// Runs looked at to decide what may be pruned.
const PAGE_RUNS: u32 = 500;

/// A request to bring a backup back.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Makes the call idempotent; empty for a new one.
    pub request_id: String,
    /// The backup.
    pub backup: String,
    /// Into place rather than to a scratch place.
    pub in_place: bool,
    /// Tables; empty for all.
    pub tables: Vec<String>,
    /// Name of the scratch place; one is made up where empty.
    pub scratch_name: String,
    /// Tables that hold rows lose them first.
    pub replace: bool,
    /// Into place: take a backup of another database.
    pub other_database: bool,
    /// What was typed to confirm.
    pub confirm: String,
}

/// Which backups go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneRule {
    /// So many of the newest stay.
    pub keep_last: Option<u32>,
    /// Only those older than this.
    pub older_than: Option<Duration>,
    /// Only tell.
    pub dry_run: bool,
}

/// What became of one backup.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneOutcome {
    /// The backup, as it is now.
    pub backup: Backup,
    /// Whether it is gone, or would be.
    pub pruned: bool,
    /// Why, in one sentence.
    pub reason: String,
    /// Size of what went, or would go, bytes.
    pub freed_bytes: u64,
}

/// A backup, and what a rule says of it.
pub(crate) struct Candidate {
    pub(crate) run: Run,
    /// Why it goes; or why it stays.
    pub(crate) verdict: Result<String, String>,
    /// The newest of its kind that is proven, which stays.
    keeper: Option<RunId>,
}

fn files_error(target: &str) -> impl FnOnce(FilesError) -> EngineError {
    let target = target.to_owned();
    |source| EngineError::Files { target, source }
}

/// Size of the files that a run moved to the trash, bytes.
async fn set_aside(target: &str, roots: &Roots, run: RunId) -> Result<u64, EngineError> {
    let mut bytes = 0;
    for root in roots.values() {
        let root = Arc::clone(root);
        let usage = blocking(move || root.usage()).await.map_err(files_error(target))?;
        bytes += usage
            .iter()
            .filter(|usage| usage.run == run)
            .map(|usage| usage.bytes)
            .sum::<u64>();
    }
    Ok(bytes)
}

impl Engine {
    /// Accepts a backup of tables, or of the whole database where none are named.
    ///
    /// # Errors
    /// `UnknownTarget`, `ToolUnavailable`, `TableUnsuitable`, `RequestIdReused`, `InvalidField`, `Target`, `Store`.
    pub async fn create_backup(&self, request: &str, target: &str, tables: &[String]) -> Result<Run, EngineError> {
        let (name, entry) = self.target(target)?;
        let request_id = request_id(request)?;
        let digest = digest_of(&["backup", name, &tables.join(",")]);
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        let asked = named(tables)?;
        let scope = entry.target.maintenance().scope(&asked).await.map_err(refused(name))?;
        let shown = if scope.tables.is_empty() {
            "the whole database".to_owned()
        } else {
            scope.tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let record = BackupRecord {
            asked: scope.tables,
            tool: scope.tool,
            ..BackupRecord::default()
        };
        let report = Report {
            steps: vec![step("backup", &shown, 0)],
            backup: Some(record),
            ..Report::default()
        };
        let run = self.without_plan(RunKind::Backup, name, None, report);
        // A snapshot is taken, so that no table is needed for itself.
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

    /// Accepts a restore of a backup.
    ///
    /// # Errors
    /// `UnknownBackup`, `BackupPruned`, `BackupKind`, `ConfirmationRequired`, `TablesNotEmpty`, `ToolUnavailable`, `WrongState`,
    /// `RunAlreadyActive`, `RequestIdReused`, `InvalidField`, `Target`, `Store`.
    pub async fn restore_backup(&self, request: &RestoreRequest) -> Result<Run, EngineError> {
        let source = self.backup_run(&request.backup).await?;
        let request_id = request_id(&request.request_id)?;
        let digest = digest_of(&[
            "restore",
            &source.id.to_string(),
            if request.in_place { "in place" } else { "scratch" },
            &request.tables.join(","),
            &request.scratch_name,
            if request.replace { "replace" } else { "" },
            if request.other_database { "other database" } else { "" },
        ]);
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        if let Some(pruned) = source.pruned {
            return Err(EngineError::BackupPruned {
                backup: source.id,
                at: pruned.at,
            });
        }
        if !source.state.is_final() {
            return Err(EngineError::WrongState {
                run: source.id,
                state: source.state,
                expected: "a run that has ended",
            });
        }
        let (name, entry) = self.target(&source.target)?;
        let wanted = named(&request.tables)?;
        let run_id = RunId::new();
        let mode = if request.in_place {
            RestoreMode::InPlace {
                replace: request.replace,
            }
        } else {
            RestoreMode::Scratch {
                name: scratch_name(&request.scratch_name, run_id)?,
            }
        };
        let (steps, tables) = match source.whole_backup() {
            Some(record) => whole_steps(&source, record, &wanted)?,
            _ => rows_steps(&source, &wanted)?,
        };
        let mut held = Vec::new();
        if let RestoreMode::InPlace { replace } = mode {
            if source.whole_backup().is_none() {
                return Err(EngineError::BackupKind {
                    backup: source.id,
                    expected: "UndoRun, which puts captured rows back, or a scratch place to look at them".to_owned(),
                });
            }
            let here = entry.target.identity().await.map_err(EngineError::target(name))?;
            let then = source.whole_backup().map(|record| &record.identity);
            if let Some(difference) = then
                .and_then(|then| here.differs_from(then))
                .filter(|_| !request.other_database)
            {
                return Err(EngineError::BackupOtherDatabase {
                    backup: source.id,
                    difference,
                });
            }
            let expected = format!("{name}/{}", source.id);
            if request.confirm != expected {
                return Err(EngineError::ConfirmationRequired { expected });
            }
            entry
                .target
                .maintenance()
                .may_load(&tables, replace)
                .await
                .map_err(refused(name))?;
            held = tables.iter().map(ToString::to_string).collect();
        }
        let report = Report {
            steps,
            backup: source.whole_backup().cloned(),
            restore: Some(Box::new(RestoreRecord {
                mode,
                tables: wanted,
                place: String::new(),
                other_database: request.other_database,
            })),
            ..Report::default()
        };
        let run = Run {
            id: run_id,
            ..self.without_plan(RunKind::Restore, name, Some(&source), report)
        };
        self.accept(CreateRun {
            run,
            tables: held,
            request_id,
            request_digest: digest,
            events: Vec::new(),
            decision: None,
            slot: None,
        })
        .await
    }

    /// A run that proves a backup of whole tables.
    pub(super) fn proof_of_whole(&self, source: &Run) -> Run {
        let record = source.report.backup.clone().unwrap_or_default();
        let rows = record.tables.iter().map(|table| table.rows).sum();
        let report = Report {
            // The first step is the one that saved; a run of migrations has others after it.
            steps: source
                .report
                .steps
                .iter()
                .take(1)
                .map(|saved| step("verify", &saved.table, rows))
                .collect(),
            backup: Some(record),
            ..Report::default()
        };
        self.without_plan(RunKind::Verify, &source.target, Some(source), report)
    }

    fn without_plan(&self, kind: RunKind, target: &str, source: Option<&Run>, report: Report) -> Run {
        let options = RunOptions {
            dry_run: false,
            full_speed: true,
            max_execution_seconds: *RunOptions::MAX_EXECUTION_SECONDS.end(),
            ..RunOptions::default()
        };
        let operations = source.map(|source| source.operations.clone()).unwrap_or_default();
        let plan = Plan::none(target, Timestamp::now());
        self.new_run(
            kind,
            target,
            operations,
            &plan,
            source.map(|source| source.id),
            options,
            report,
        )
    }

    /// Removes old backups of a target, or tells what would go. A removal goes in this order: the store takes no new run about the
    /// backup, then the files go, then the journal's rows, then the store knows that nothing is left. Cut short anywhere, the next
    /// call goes on with it, whatever its rule.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`, `Target`, `Store`, `Archive`.
    pub async fn prune_backups(&self, target: &str, rule: PruneRule) -> Result<Vec<PruneOutcome>, EngineError> {
        let mut outcomes = Vec::new();
        for candidate in self.prune_candidates(target, rule).await? {
            outcomes.push(self.prune_candidate(target, candidate, rule.dry_run).await?);
        }
        Ok(outcomes)
    }

    /// The backups of a target that are there, in part or whole, each with what a rule says of it.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`, `Store`.
    pub(crate) async fn prune_candidates(&self, target: &str, rule: PruneRule) -> Result<Vec<Candidate>, EngineError> {
        if rule.keep_last.is_none() && rule.older_than.is_none() {
            return Err(EngineError::InvalidField {
                field: "keep_last",
                problem: "is absent, and so is older_than; expected at least one of them".to_owned(),
            });
        }
        let (name, _) = self.target(target)?;
        let sources = self.backup_runs(name).await?;
        let about_backups = RunFilter {
            target: Some(name.to_owned()),
            kinds: vec![RunKind::Undo, RunKind::Verify, RunKind::Restore, RunKind::Rollback],
            ..RunFilter::default()
        };
        let about = self.all_runs(&about_backups).await?;
        // Captured rows and whole backups are told apart: however many captures there are, they stand for no copy of the database.
        let proven = |whole: bool| {
            let is_proven = |run: &&Run| {
                run.pruned.is_none()
                    && run.whole_backup().is_some() == whole
                    && matches!(run.verification, Verification::Verified(_))
            };
            sources.iter().find(is_proven).map(|run| run.id)
        };
        let newest_proven_of = [proven(false), proven(true)];
        let now = Timestamp::now();
        let mut newer = 0_u64;
        let mut candidates = Vec::new();
        for run in sources {
            if run.pruned.is_some_and(|pruned| pruned.complete) {
                continue;
            }
            let (position, newest_proven) = (newer, newest_proven_of[usize::from(run.whole_backup().is_some())]);
            if run.pruned.is_none() {
                newer += 1;
            }
            let verdict = match rule_keeps(&run, position, rule, now) {
                // What was begun is finished, whatever today's rule says.
                _ if run.pruned.is_some() => Ok("its removal was begun before and is finished now".to_owned()),
                Some(kept) => Err(kept),
                None if newest_proven == Some(run.id) => {
                    Err("the newest backup of its kind of this target that was proven".to_owned())
                }
                None => match need(&run, &about) {
                    Need::Kept(why) => Err(why),
                    Need::None(known) => Ok(format!("made {}{known}", run.created_at)),
                },
            };
            candidates.push(Candidate {
                run,
                verdict,
                keeper: newest_proven,
            });
        }
        Ok(candidates)
    }

    /// Removes one of them, where it is to go. What may have changed since they were listed is looked at again, in the transaction that decides
    /// the removal: the files of those before it may have taken their time to go.
    ///
    /// # Errors
    /// `UnknownTarget`, `Target`, `Store`, `Archive`, `Files`.
    pub(crate) async fn prune_candidate(
        &self,
        target: &str,
        candidate: Candidate,
        dry_run: bool,
    ) -> Result<PruneOutcome, EngineError> {
        let (name, entry) = self.target(target)?;
        let Candidate { run, verdict, keeper } = candidate;
        let kept = |run: &Run, reason: String| PruneOutcome {
            backup: backup_of(run),
            pruned: false,
            reason,
            freed_bytes: 0,
        };
        let reason = match verdict {
            Ok(reason) => reason,
            Err(reason) => return Ok(kept(&run, reason)),
        };
        let set_aside = set_aside(name, &entry.roots, run.id).await?;
        let freed_bytes = run.report.total(|step| step.captured_bytes) + set_aside;
        if !dry_run && let PruneBegun::Kept(why) = self.context.store.begin_prune(run.id, keeper).await? {
            return Ok(kept(&run, why));
        }
        if !dry_run {
            self.remove(name, entry, run.id).await?;
        }
        let now = self.context.store.run(run.id).await?.unwrap_or(run);
        Ok(PruneOutcome {
            backup: backup_of(&now),
            pruned: true,
            reason,
            freed_bytes,
        })
    }

    /// Removes what there is of a backup whose removal is decided.
    async fn remove(&self, name: &str, entry: &TargetEntry, id: RunId) -> Result<(), EngineError> {
        failpoint!("prune-begun");
        let archive = Arc::clone(&self.context.archive);
        let removed = tokio::task::spawn_blocking(move || remove_files(archive.as_ref(), id));
        removed.await.map_err(|error| crate::port::ArchiveError::Io {
            path: id.to_string(),
            source: std::io::Error::other(error),
        })??;
        for root in entry.roots.values() {
            let root = Arc::clone(root);
            blocking(move || root.prune(id)).await.map_err(files_error(name))?;
        }
        failpoint!("prune-files-gone");
        entry.target.maintenance().forget(id).await.map_err(refused(name))?;
        failpoint!("prune-forgotten");
        self.context.store.end_prune(id).await?;
        failpoint!("prune-ended");
        tracing::info!(run = %id, target = name, "backup pruned");
        Ok(())
    }

    pub(super) async fn all_runs(&self, filter: &RunFilter) -> Result<Vec<Run>, StoreError> {
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let page = self.context.store.runs(filter, before, PAGE_RUNS).await?;
            let Some(last) = page.last() else { return Ok(all) };
            before = Some(last.id);
            all.extend(page);
        }
    }
}

/// Removes every file of a run, and its folder.
fn remove_files(archive: &dyn Archive, run: RunId) -> Result<(), crate::port::ArchiveError> {
    for file in archive.list(run)? {
        archive.remove(run, &file)?;
        failpoint!("prune-file-gone");
    }
    archive.remove_folder(run)
}

/// Why the rule of a request keeps a backup with `newer` younger ones; `None` where it does not.
fn rule_keeps(run: &Run, newer: u64, rule: PruneRule, now: Timestamp) -> Option<String> {
    if let Some(keep) = rule.keep_last
        && newer < u64::from(keep)
    {
        return Some(format!("among the newest {keep}"));
    }
    if let Some(age) = rule.older_than {
        let old = now.duration_since(run.created_at);
        if Duration::try_from(old).is_ok_and(|old| old < age) || old.is_negative() {
            return Some(format!("younger than {} s", age.as_secs()));
        }
    }
    None
}

fn step(operation: &str, table: &str, planned: u64) -> StepReport {
    StepReport {
        operation: operation.to_owned(),
        table: table.to_owned(),
        rows_planned: planned,
        ..StepReport::default()
    }
}

/// One step for each table of a backup of whole tables, with those tables.
fn whole_steps(
    source: &Run,
    record: &BackupRecord,
    wanted: &[TableName],
) -> Result<(Vec<StepReport>, Vec<TableName>), EngineError> {
    let chosen = choose(source, record.tables.iter().map(|table| (&table.table, table.rows)), wanted)?;
    let steps = chosen
        .iter()
        .map(|(table, rows)| step("restore", &table.to_string(), *rows))
        .collect();
    Ok((steps, chosen.into_iter().map(|(table, _)| table).collect()))
}

/// One step for each step of a cleanup. All of them, so that their numbers stay those of its journal.
fn rows_steps(source: &Run, wanted: &[TableName]) -> Result<(Vec<StepReport>, Vec<TableName>), EngineError> {
    let tables: Vec<_> = source
        .report
        .steps
        .iter()
        .map(|done| (TableName::parse(&done.table), done.rows_captured))
        .collect();
    let chosen = choose(source, tables.iter().map(|(table, rows)| (table, *rows)), wanted)?;
    let steps = source.report.steps.iter().map(|done| {
        let taken = chosen.iter().any(|(table, _)| table.to_string() == done.table);
        step("restore", &done.table, if taken { done.rows_captured } else { 0 })
    });
    let steps = steps.collect();
    Ok((steps, chosen.into_iter().map(|(table, _)| table).collect()))
}

/// The wanted among a backup's tables; all where none are named.
fn choose<'a>(
    source: &Run,
    tables: impl Iterator<Item = (&'a TableName, u64)>,
    wanted: &[TableName],
) -> Result<Vec<(TableName, u64)>, EngineError> {
    let tables: Vec<_> = tables.map(|(table, rows)| (table.clone(), rows)).collect();
    if wanted.is_empty() {
        return Ok(tables);
    }
    let named = |wanted: &TableName, table: &TableName| {
        wanted.name == table.name && (wanted.schema.is_none() || wanted.schema == table.schema)
    };
    let mut chosen = Vec::new();
    for name in wanted {
        let found: Vec<_> = tables.iter().filter(|(table, _)| named(name, table)).collect();
        match found[..] {
            [] => {
                return Err(EngineError::InvalidField {
                    field: "tables",
                    problem: format!("names {name}, which backup {} does not hold", source.id),
                });
            }
            _ if name.schema.is_none() && found.iter().any(|(table, _)| table.schema != found[0].0.schema) => {
                return Err(EngineError::InvalidField {
                    field: "tables",
                    problem: format!(
                        "names {name}, which backup {} holds in several schemas; expected schema.table",
                        source.id
                    ),
                });
            }
            _ => chosen.extend(
                found
                    .into_iter()
                    .filter(|entry| !chosen.contains(*entry))
                    .cloned()
                    .collect::<Vec<_>>(),
            ),
        }
    }
    Ok(chosen)
}

fn named(tables: &[String]) -> Result<Vec<TableName>, EngineError> {
    let invalid = |problem| EngineError::InvalidField {
        field: "tables",
        problem,
    };
    if tables.len() > MAX_TABLES {
        return Err(invalid(format!(
            "names {} tables; expected at most {MAX_TABLES}",
            tables.len()
        )));
    }
    for (position, table) in tables.iter().enumerate() {
        if table.is_empty() || table.chars().any(char::is_control) {
            return Err(invalid(format!("names {table:?}; expected the name of a table")));
        }
        if tables[..position].contains(table) {
            return Err(invalid(format!("names {table} twice; expected each table once")));
        }
    }
    Ok(tables.iter().map(|table| TableName::parse(table)).collect())
}

/// The name of a scratch place; made up from the run's random digits where none is given.
fn scratch_name(given: &str, run: RunId) -> Result<String, EngineError> {
    if given.is_empty() {
        let digits = run.0.simple().to_string();
        return Ok(format!("dbkeep_scratch_{}", &digits[20..]));
    }
    let allowed = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    if given.len() <= MAX_SCRATCH_NAME && given.chars().all(allowed) && !given.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(given.to_owned());
    }
    Err(EngineError::InvalidField {
        field: "scratch_name",
        problem: format!("is {given:?}; expected 1 to {MAX_SCRATCH_NAME} of a-z 0-9 _, not beginning with a digit"),
    })
}

/// What an adapter says before a run is accepted.
pub(super) fn refused(target: &str) -> impl Fn(MaintenanceError) -> EngineError + '_ {
    move |error| {
        let target = target.to_owned();
        match error {
            MaintenanceError::Tool { tool, problem } => EngineError::ToolUnavailable { target, tool, problem },
            MaintenanceError::Table { table, problem } => EngineError::TableUnsuitable { target, table, problem },
            MaintenanceError::NotEmpty { tables } => EngineError::TablesNotEmpty { target, tables },
            MaintenanceError::Target(source) => EngineError::Target { target, source },
            MaintenanceError::Io { path, source } => EngineError::Archive(crate::port::ArchiveError::Io { path, source }),
            MaintenanceError::Unsupported { problem } => EngineError::Target {
                source: crate::port::TargetError::new(crate::port::TargetErrorClass::Unsupported, problem),
                target,
            },
            other @ (MaintenanceError::Damaged { .. }
            | MaintenanceError::Place { .. }
            | MaintenanceError::Blocked { .. }
            | MaintenanceError::Stopped) => EngineError::Target {
                source: crate::port::TargetError::new(crate::port::TargetErrorClass::Refused, other.to_string()),
                target,
            },
        }
    }
}

/// What a run saved.
pub(super) fn content_of(run: &Run) -> BackupContent {
    match run.whole_backup() {
        Some(record) => BackupContent::Whole(record.clone()),
        None => BackupContent::Rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RunState;

    #[test]
    fn names_of_scratch_places_are_plain() {
        let run = RunId::new();
        assert!(scratch_name("", run).is_ok_and(|name| name.starts_with("dbkeep_scratch_") && name.len() <= MAX_SCRATCH_NAME));
        assert_eq!(scratch_name("look_1", run).ok().as_deref(), Some("look_1"));
        for refused in ["1look", "Look", "a-b", "a.b", "a\"b", "../x", &"x".repeat(51)] {
            assert!(scratch_name(refused, run).is_err(), "{refused}");
        }
    }

    fn run(kind: RunKind, state: RunState, source: Option<RunId>, rows: (u64, u64, u64)) -> Run {
        let report = Report {
            steps: vec![StepReport {
                rows_planned: rows.0,
                rows_affected: rows.1,
                rows_conflicting: rows.2,
                ..StepReport::default()
            }],
            ..Report::default()
        };
        Run {
            id: RunId::new(),
            kind,
            target: "t".to_owned(),
            state,
            state_reason: String::new(),
            operations: Vec::new(),
            plan: crate::model::PlanId::NONE,
            source,
            undone_by: None,
            options: RunOptions::default(),
            attempts: 1,
            report,
            last_sequence: 1,
            cancel_reason: None,
            created_at: Timestamp::now(),
            started_at: None,
            ended_at: None,
            verification: Verification::Unverified,
            pruned: None,
            limits: RunOptions::default().limits(),
            waiting: None,
            pause_reason: None,
            started_by: String::new(),
            approvals: Vec::new(),
            approvals_required: 0,
            approve_until: None,
        }
    }

    #[test]
    fn count_and_age_must_both_agree() {
        let source = run(RunKind::Cleanup, RunState::Succeeded, None, (9, 9, 0));
        let later = |seconds: i64| source.created_at + jiff::SignedDuration::from_secs(seconds);
        let rule = |keep_last, seconds: Option<u64>| PruneRule {
            keep_last,
            older_than: seconds.map(Duration::from_secs),
            dry_run: true,
        };
        let goes = |newer, rule, at| rule_keeps(&source, newer, rule, at).is_none();
        assert!(goes(2, rule(Some(2), None), later(0)) && !goes(1, rule(Some(2), None), later(0)));
        assert!(goes(0, rule(None, Some(10)), later(10)) && !goes(0, rule(None, Some(10)), later(9)));
        assert!(goes(2, rule(Some(2), Some(10)), later(10)));
        assert!(!goes(1, rule(Some(2), Some(10)), later(99)) && !goes(9, rule(Some(2), Some(10)), later(9)));
        assert!(
            !goes(9, rule(None, Some(10)), later(-99)),
            "a clock that went back makes nothing old"
        );
    }

    #[test]
    fn tables_are_named_once() {
        let given = |names: &[&str]| named(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(given(&["a.b", "c"]).map(|tables| tables.len()).ok(), Some(2));
        for refused in [&["a", "a"][..], &[""], &["a\nb"]] {
            assert!(given(refused).is_err(), "{refused:?}");
        }
    }
}
