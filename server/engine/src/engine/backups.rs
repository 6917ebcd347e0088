//! Backups of whole tables, restores of any backup, and the removal of old ones: what is checked before a run is accepted, and what
//! may be pruned. The work of the runs is in [`crate::run`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{Engine, TargetEntry, backup_of, digest_of, request_id};
use crate::{
    EngineError, failpoint,
    model::{
        Backup, BackupContent, BackupRecord, Plan, Report, RestoreMode, RestoreRecord, Run, RunId, RunKind, RunOptions, RunState,
        StepReport, StepState, TableName, Verification,
    },
    planner::files::blocking,
    port::{Archive, CreateRun, FilesError, MaintenanceError, Roots, RunFilter, StoreError},
    run::OUT_OF_TIME,
};

/// Most tables that a request may name.
pub const MAX_TABLES: usize = 100;
/// Longest name of a scratch place, characters: room is left for what adapters append, within PostgreSQL's 63.
pub const MAX_SCRATCH_NAME: usize = 50;
/// Runs looked at to decide what may be pruned.
const PAGE_RUNS: u32 = 500;
/// How far the clocks of servers may be apart that accept runs on one store.
const CLOCKS_APART: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

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

/// What the runs about a backup say of its removal.
enum Need {
    /// Nobody needs it; with what should be known of it all the same.
    None(String),
    /// It stays, for this reason.
    Kept(String),
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
        if rule.keep_last.is_none() && rule.older_than.is_none() {
            return Err(EngineError::InvalidField {
                field: "keep_last",
                problem: "is absent, and so is older_than; expected at least one of them".to_owned(),
            });
        }
        let (name, entry) = self.target(target)?;
        let listed_at = Timestamp::now();
        let sources = self.backup_runs(name).await?;
        let about_backups = RunFilter {
            target: Some(name.to_owned()),
            kinds: vec![RunKind::Undo, RunKind::Verify, RunKind::Restore, RunKind::Rollback],
            ..RunFilter::default()
        };
        let about = self.all_runs(&about_backups).await?;
        let newest_proven = sources
            .iter()
            .find(|run| run.pruned.is_none() && matches!(run.verification, Verification::Verified(_)))
            .map(|run| run.id);
        let now = Timestamp::now();
        let mut newer = 0_u64;
        let mut outcomes = Vec::new();
        for run in sources {
            if run.pruned.is_some_and(|pruned| pruned.complete) {
                continue;
            }
            let position = newer;
            if run.pruned.is_none() {
                newer += 1;
            }
            let reason = match rule_keeps(&run, position, rule, now) {
                // What was begun is finished, whatever today's rule says.
                _ if run.pruned.is_some() => Ok("its removal was begun before and is finished now".to_owned()),
                Some(kept) => Err(kept),
                None if newest_proven == Some(run.id) => Err("the newest backup of this target that was proven".to_owned()),
                None => match need(&run, &about) {
                    Need::Kept(why) => Err(why),
                    // The files of those before it may have taken their time to go.
                    Need::None(known) => match self.need_since(&run, newest_proven, &about_backups, listed_at).await? {
                        Some(why) => Err(why),
                        None => Ok(format!("made {}{known}", run.created_at)),
                    },
                },
            };
            let outcome = match reason {
                Err(reason) => PruneOutcome {
                    backup: backup_of(&run),
                    pruned: false,
                    reason,
                    freed_bytes: 0,
                },
                Ok(reason) => {
                    let set_aside = set_aside(name, &entry.roots, run.id).await?;
                    let freed_bytes = run.report.total(|step| step.captured_bytes) + set_aside;
                    let taken = rule.dry_run || self.prune_one(name, entry, &run).await?;
                    let now = self.context.store.run(run.id).await?.unwrap_or(run);
                    PruneOutcome {
                        backup: backup_of(&now),
                        pruned: taken,
                        reason: if taken {
                            reason
                        } else {
                            "a run about it has just begun".to_owned()
                        },
                        freed_bytes: if taken { freed_bytes } else { 0 },
                    }
                }
            };
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Why a backup is needed that was not when the backups were listed: an undo of it has begun since and was cut short, or the proven
    /// backup that would stay in its place turned out to be damaged.
    async fn need_since(
        &self,
        run: &Run,
        newest_proven: Option<RunId>,
        about: &RunFilter,
        listed_at: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let since = RunFilter {
            created_after: Some(listed_at - CLOCKS_APART),
            ..about.clone()
        };
        if let Need::Kept(why) = need(run, &self.all_runs(&since).await?) {
            return Ok(Some(why));
        }
        if matches!(run.verification, Verification::Verified(_))
            && let Some(proven) = newest_proven
        {
            let now = self.context.store.run(proven).await?;
            let holds = now.is_some_and(|now| now.pruned.is_none() && matches!(now.verification, Verification::Verified(_)));
            if !holds {
                return Ok(Some(format!("backup {proven}, which was to stay, is not proven any more")));
            }
        }
        Ok(None)
    }

    async fn prune_one(&self, name: &str, entry: &TargetEntry, run: &Run) -> Result<bool, EngineError> {
        if !self.context.store.begin_prune(run.id).await? {
            return Ok(false);
        }
        failpoint!("prune-begun");
        let (archive, id) = (Arc::clone(&self.context.archive), run.id);
        let removed = tokio::task::spawn_blocking(move || remove_files(archive.as_ref(), id));
        removed.await.map_err(|error| crate::port::ArchiveError::Io {
            path: run.id.to_string(),
            source: std::io::Error::other(error),
        })??;
        for root in entry.roots.values() {
            let root = Arc::clone(root);
            blocking(move || root.prune(id)).await.map_err(files_error(name))?;
        }
        failpoint!("prune-files-gone");
        entry.target.maintenance().forget(run.id).await.map_err(refused(name))?;
        failpoint!("prune-forgotten");
        self.context.store.end_prune(run.id).await?;
        tracing::info!(run = %run.id, target = name, "backup pruned");
        Ok(true)
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

/// Whether somebody still needs a backup: its own run has not ended; a run about it has not; or an undo of it was begun and did not
/// come to its end, so that rows may be nowhere else.
fn need(run: &Run, about: &[Run]) -> Need {
    if !run.state.is_final() {
        return Need::Kept(format!("its run is {}", run.state.name()));
    }
    let mine = || about.iter().filter(|other| other.source == Some(run.id));
    if let Some(other) = mine().find(|other| !other.state.is_final()) {
        return Need::Kept(format!("run {} about it is {}", other.id, other.state.name()));
    }
    // Runs come newest first; an older undo that was cut short says nothing once a newer one came to its end.
    let Some(undo) = mine().find(|other| other.kind == RunKind::Undo) else {
        return Need::None(String::new());
    };
    let (back, left) = (
        undo.report.total(|step| step.rows_affected),
        undo.report.total(|step| step.rows_conflicting),
    );
    // Rows of damaged chunks never come back, however often it is tried; but only an undo that went through every chunk has tried.
    let went_through = undo.state == RunState::PartiallySucceeded
        && !undo.state_reason.starts_with(OUT_OF_TIME)
        && undo
            .report
            .steps
            .iter()
            .all(|step| matches!(step.state, StepState::Succeeded | StepState::Partial));
    let lost = went_through && matches!(run.verification, Verification::Damaged(_));
    if run.undone_by.is_none() && back + left < undo.report.total(|step| step.rows_planned) && !lost {
        let state = undo.state.name();
        return Need::Kept(format!(
            "its undo {} is {state} with {back} rows put back, and can be tried again",
            undo.id
        ));
    }
    Need::None(if left > 0 {
        format!("; its undo left {left} rows in conflict")
    } else {
        String::new()
    })
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
    fn a_backup_is_kept_while_somebody_needs_it() {
        let source = run(RunKind::Cleanup, RunState::Succeeded, None, (9, 9, 0));
        let kept = |source: &Run, about: &[Run]| matches!(need(source, about), Need::Kept(_));
        for state in RunState::ALL {
            let own = Run { state, ..source.clone() };
            assert_eq!(kept(&own, &[]), !state.is_final(), "its own run is {state:?}");
            for kind in [RunKind::Undo, RunKind::Verify, RunKind::Restore, RunKind::Rollback] {
                let other = run(kind, state, Some(source.id), (9, 9, 0));
                assert_eq!(kept(&source, &[other]), !state.is_final(), "{kind:?} is {state:?}");
                let elsewhere = run(kind, state, Some(RunId::new()), (9, 0, 0));
                assert!(!kept(&source, &[elsewhere]), "about another backup");
            }
        }
        for state in [RunState::Cancelled, RunState::Failed, RunState::PartiallySucceeded] {
            let undo = run(RunKind::Undo, state, Some(source.id), (9, 4, 1));
            assert!(kept(&source, std::slice::from_ref(&undo)), "cut short, {state:?}");
            let newer = run(RunKind::Undo, RunState::Succeeded, Some(source.id), (9, 8, 1));
            assert!(!kept(&source, &[newer, undo.clone()]), "a newer one came to its end");
            let damaged = Run {
                verification: Verification::Damaged(Timestamp::now()),
                ..source.clone()
            };
            assert!(
                kept(&damaged, std::slice::from_ref(&undo)),
                "what is whole can still come back, {state:?}"
            );
            let mut through = undo;
            through.report.steps[0].state = StepState::Partial;
            let lost = state == RunState::PartiallySucceeded;
            assert_eq!(!kept(&damaged, &[through]), lost, "no try brings the rest back, {state:?}");
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
