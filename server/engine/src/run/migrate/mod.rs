//! The work of migrating: forwards, backwards, and in rehearsal.
//!
//! ```text
//! claim, lease ─► backup (step 0, where asked for) ─► for each migration: file as planned? ─► elsewhere meanwhile? ─► doubt ─► script
//! ```
//!
//! The ledger in the target is the truth: an attempt that goes on after a crash reads it, and takes no statement twice that it knows
//! to have taken effect. The first migration that fails ends the run; what was applied before stays.

mod doubt;
mod hold;
mod leftover;
mod rehearse;
mod rewind;
mod script;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::{Duration, Instant};

use super::{
    attempt::{Attempt, Ending, Halt},
    dump,
};
use crate::{
    engine::Migrations,
    failpoint,
    migration::{
        source::{self, Collection},
        standing::{Age, Others, Word},
    },
    model::{
        Direction, ForeignLedger, Layout, LedgerEntry, LedgerState, Migration, MigrationId, MigrationRecord, MigrationReport,
        PlannedMigration, RunState, StepState,
    },
    port::{Elsewhere, MigratorError},
};

pub(crate) use doubt::index_of;
use hold::Hold;
pub(super) use rehearse::work as rehearse;
use script::{ScriptDone, ScriptOrder};

/// How often it is looked whether another tool has come, where none was there. Each group looks as well, in its own transaction.
const LOOK_AROUND: Duration = Duration::from_millis(500);

impl From<MigratorError> for Halt {
    fn from(error: MigratorError) -> Self {
        match error {
            MigratorError::Target(error) => Self::Target(error),
            other => Self::Fail(other.to_string()),
        }
    }
}

/// The record of the run.
fn record(attempt: &Attempt) -> Result<MigrationRecord, Halt> {
    let record = attempt.ledger.report.migrations.clone();
    record
        .map(|record| *record)
        .ok_or_else(|| Halt::Fail("the run does not say which migrations it takes".to_owned()))
}

/// Reads the folder again, as it is now.
async fn collection(attempt: &Attempt) -> Result<Collection, Halt> {
    let target = &attempt.run.target;
    let entry = attempt.context.targets.get(target);
    let Some(Migrations { folder, layout }) = entry.and_then(|entry| entry.migrations.clone()) else {
        return Err(Halt::Fail(format!("target {target} has no migrations folder on this server")));
    };
    let files = folder
        .files()
        .await
        .map_err(|error| Halt::Fail(format!("{}: {error}", folder.place())))?;
    source::read(&files, attempt.target.engine(), layout).map_err(|error| Halt::Fail(error.to_string()))
}

/// The planned migration in the folder, unchanged since it was planned.
fn as_planned<'a>(collection: &'a Collection, planned: &PlannedMigration) -> Result<&'a Migration, String> {
    let found = collection.migrations.iter().find(|migration| migration.id == planned.id);
    let Some(migration) = found else {
        return Err(format!("{} {} is no longer in the folder", planned.id, planned.name));
    };
    let down = migration.down.as_ref().map_or("", |down| &down.sha256);
    if migration.up.sha256 != planned.up_sha256 || down != planned.down_sha256 || migration.digest() != planned.digest {
        return Err(format!(
            "{} {} changed since the plan was made, in its scripts ({}) or in what its author says of it; make a new plan",
            migration.id, migration.name, migration.up.file
        ));
    }
    Ok(migration)
}

fn blank(planned: &PlannedMigration, direction: Direction) -> MigrationReport {
    MigrationReport {
        id: planned.id.clone(),
        name: planned.name.clone(),
        direction,
        statements_total: 0,
        statements: Vec::new(),
        statements_done: 0,
        problem: None,
        lock_timeouts: 0,
        rehearsal: None,
    }
}

/// Keeps what became of a migration; a report of an earlier attempt is replaced.
fn keep(attempt: &mut Attempt, report: MigrationReport) {
    if let Some(record) = &mut attempt.ledger.report.migrations {
        match record.reports.iter_mut().find(|known| known.id == report.id) {
            Some(known) => *known = report,
            None => record.reports.push(report),
        }
    }
}

fn kept(attempt: &Attempt, planned: &PlannedMigration, direction: Direction) -> MigrationReport {
    let record = attempt.ledger.report.migrations.as_ref();
    let known = record.and_then(|record| record.reports.iter().find(|known| known.id == planned.id));
    known.cloned().unwrap_or_else(|| blank(planned, direction))
}

/// Applies, or takes back, what was planned.
pub(super) async fn work(attempt: &mut Attempt, direction: Direction) -> Result<Ending, Halt> {
    let record = record(attempt)?;
    attempt.take_target().await?;
    let target = Arc::clone(&attempt.target);
    let hold = Hold::take(&target, attempt.claim, &attempt.context.settings.holder).await?;
    let ending = match record.rewind {
        Some(_) => rewind::held(attempt, &record, &hold).await,
        None => held(attempt, &record, direction, &hold).await,
    };
    hold.release().await;
    ending
}

async fn held(attempt: &mut Attempt, record: &MigrationRecord, direction: Direction, hold: &Hold) -> Result<Ending, Halt> {
    let target = Arc::clone(&attempt.target);
    let first = usize::from(record.backup_first);
    // Skipped is one that found nothing to save, which was before the first migration.
    let saved = matches!(
        attempt.ledger.report.steps[0].state,
        StepState::Succeeded | StepState::Skipped
    );
    if record.backup_first && !saved {
        dump::whole(attempt).await?;
        failpoint!("migrate-saved");
    }
    let collection = collection(attempt).await?;
    let ledger = target.migrator().ledger().await?;
    let mut ledger: HashMap<MigrationId, LedgerEntry> = ledger.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
    let mut looked = Instant::now();
    let mut foreign = target.migrator().foreign_ledgers().await?;
    let at_first = words_of(&collection, record, &foreign);
    let mut done = 0_usize;
    for (position, planned) in record.planned.iter().enumerate() {
        let step = first + position;
        let migration = match as_planned(&collection, planned) {
            Ok(migration) => migration,
            Err(problem) => return failed(attempt, step, done, problem).await,
        };
        let (script, finished) = match direction {
            Direction::Up => (&migration.up, LedgerState::Applied),
            Direction::Down => match &migration.down {
                Some(down) => (down, LedgerState::RolledBack),
                None => return failed(attempt, step, done, format!("{} has no down script", planned.id)).await,
            },
        };
        let mut entry = ledger.get(&planned.id).cloned();
        let mine = entry
            .as_ref()
            .is_some_and(|entry| entry.run == attempt.run.id && entry.state == finished);
        if mine {
            // An earlier attempt committed it; at most its word in the report was lost.
            if attempt.ledger.report.steps[step].state != StepState::Succeeded {
                settle(attempt, step, planned, direction, entry.as_ref()).await?;
            }
            done += 1;
            continue;
        }
        attempt.boundary()?;
        if attempt.out_of_time() {
            let reason = format!(
                "{}; {done} of {} migrations are done",
                super::OUT_OF_TIME,
                record.planned.len()
            );
            return Ok(ending(RunState::PartiallySucceeded, reason));
        }
        if !foreign.is_empty() || looked.elapsed() > LOOK_AROUND {
            foreign = target.migrator().foreign_ledgers().await?;
            looked = Instant::now();
        }
        let meanwhile = Meanwhile {
            layout: collection.layout,
            migration: migration.clone(),
            direction,
            at_first: at_first.get(&planned.id).cloned(),
        };
        let word = Others::read(collection.layout, &foreign).of(migration);
        if let Some(problem) = meanwhile
            .moved(entry.as_ref(), word.as_ref())
            .or_else(|| overtaken(entry.as_ref(), planned, direction))
        {
            return failed(attempt, step, done, problem).await;
        }
        attempt.ledger.begin_short_step(step).await?;
        if let Some(doubted) = entry.as_ref().filter(|entry| entry.in_doubt) {
            match doubt::resolve(attempt, &target, script, doubted).await? {
                Ok(resolved) => entry = Some(resolved),
                Err(problem) => return failed(attempt, step, done, problem).await,
            }
        }
        let order = ScriptOrder {
            migration,
            direction,
            script,
            step,
            phase: match direction {
                Direction::Up => "applying",
                Direction::Down => "reverting",
            },
            options: record.options,
            by: &record.by,
            // One that found nothing to save left no backup.
            backup: (record.backup_first && attempt.ledger.report.steps[0].state == StepState::Succeeded)
                .then_some(attempt.run.id),
            observe: false,
            verify: true,
            elsewhere: Some(meanwhile.clone().into()),
            // Its row is then known to be newer than what another tool goes on to say.
            remark: match direction {
                Direction::Up => String::new(),
                Direction::Down => word.as_ref().map(Word::known).unwrap_or_default(),
            },
            lost: hold.lost(),
        };
        let executed = script::execute(attempt, &target, &order, entry).await?;
        if let Some(entry) = executed.entry.clone() {
            ledger.insert(planned.id.clone(), entry);
        }
        let total = script.statement_count();
        note(attempt, step, planned, direction, total, &executed).await?;
        if let Some(problem) = &executed.problem {
            // Where another tool was here meanwhile, that is why.
            let others = target.migrator().foreign_ledgers().await?;
            let mut reason = problem.to_string();
            if let Some(why) = meanwhile.by_ledgers(executed.entry.as_ref(), &others)
                && !reason.contains(&why)
            {
                reason = format!("{why} ({reason})");
            }
            if let Some(entry) = executed
                .entry
                .as_ref()
                .filter(|entry| entry.state != finished && entry.statements_done > 0)
            {
                reason.push_str(&format!(
                    "; {} of {} statements took effect",
                    entry.statements_done, entry.statements
                ));
            }
            return failed(attempt, step, done, reason).await;
        }
        attempt
            .ledger
            .end_short_step(step, StepState::Succeeded, String::new())
            .await?;
        done += 1;
        failpoint!("migration-done");
    }
    let word = match direction {
        Direction::Up => "applied",
        Direction::Down => "rolled back",
    };
    Ok(ending(
        RunState::Succeeded,
        format!("{done} {} {word}", if done == 1 { "migration" } else { "migrations" }),
    ))
}

fn ending(state: RunState, reason: String) -> Ending {
    Ending {
        state,
        reason,
        mark: None,
    }
}

/// Ends the run at a migration that failed.
async fn failed(attempt: &mut Attempt, step: usize, done: usize, problem: String) -> Result<Ending, Halt> {
    if attempt.ledger.report.steps[step].state == StepState::Pending {
        attempt.ledger.begin_short_step(step).await?;
    }
    let name = attempt.ledger.report.steps[step].rule.clone();
    attempt.ledger.end_step(step, StepState::Failed, problem.clone()).await?;
    let left = attempt.ledger.report.steps.len() - step - 1;
    let (state, before) = if done > 0 {
        (RunState::PartiallySucceeded, format!("{done} before it are done"))
    } else {
        (RunState::Failed, "none was done before it".to_owned())
    };
    Ok(ending(
        state,
        format!("{name}: {problem}; {before}, {left} after it were not begun"),
    ))
}

/// Writes what a script did into the report.
async fn note(
    attempt: &mut Attempt,
    step: usize,
    planned: &PlannedMigration,
    direction: Direction,
    total: usize,
    executed: &ScriptDone,
) -> Result<(), Halt> {
    let mut report = kept(attempt, planned, direction);
    report.take(direction, total, executed);
    keep(attempt, report);
    let entry = &mut attempt.ledger.report.steps[step];
    entry.rows_affected += executed.rows();
    entry.rows_planned = entry.rows_affected;
    entry.batches += executed.statements.len() as u64;
    for warning in executed.warnings.clone() {
        attempt.ledger.warn(Some(step), "MIGRATION_NOTE", warning).await?;
    }
    Ok(())
}

/// Takes over from the ledger what an earlier attempt did.
async fn settle(
    attempt: &mut Attempt,
    step: usize,
    planned: &PlannedMigration,
    direction: Direction,
    entry: Option<&LedgerEntry>,
) -> Result<(), Halt> {
    attempt.ledger.begin_short_step(step).await?;
    let mut report = kept(attempt, planned, direction);
    if let Some(entry) = entry {
        report.statements_done = entry.statements_done;
        report.statements_total = entry.statements;
        let row = &mut attempt.ledger.report.steps[step];
        row.rows_affected = entry.rows;
        row.rows_planned = entry.rows;
        row.duration_ms = entry.duration_ms;
    }
    keep(attempt, report);
    attempt
        .ledger
        .end_short_step(step, StepState::Succeeded, String::new())
        .await?;
    Ok(())
}

/// What other tools say of the planned migrations.
fn words_of(collection: &Collection, record: &MigrationRecord, foreign: &[ForeignLedger]) -> HashMap<MigrationId, Word> {
    let others = Others::read(collection.layout, foreign);
    let planned: HashSet<&MigrationId> = record.planned.iter().map(|planned| &planned.id).collect();
    let migrations = collection
        .migrations
        .iter()
        .filter(|migration| planned.contains(&migration.id));
    migrations
        .filter_map(|migration| Some((migration.id.clone(), others.of(migration)?)))
        .collect()
}

/// Why a migration does not stand where the plan left it, by dbkeep's own ledger.
fn overtaken(entry: Option<&LedgerEntry>, planned: &PlannedMigration, direction: Direction) -> Option<String> {
    let (id, name) = (&planned.id, &planned.name);
    let entry = entry?;
    match (direction, entry.state) {
        (Direction::Up, LedgerState::Applied | LedgerState::Baselined) => (entry.sha256 == planned.up_sha256)
            .then(|| format!("{id} {name} was applied by another run meanwhile; make a new plan")),
        (Direction::Up, LedgerState::Reverting) => {
            Some(format!("{id} {name} stopped in the middle of a rollback; finish that first"))
        }
        (Direction::Down, LedgerState::Applying) => Some(format!(
            "{id} {name} stopped in the middle of its up script; finish that, or repair it, first"
        )),
        _ => None,
    }
}

/// What a migration has to be to other tools so that the run may go on with it.
#[derive(Clone)]
struct Meanwhile {
    layout: Layout,
    migration: Migration,
    direction: Direction,
    /// What they said when the run, or this attempt of it, began.
    at_first: Option<Word>,
}

impl Meanwhile {
    /// Why it does not stand where the plan left it, by its row and by what other tools say of it now.
    fn moved(&self, entry: Option<&LedgerEntry>, word: Option<&Word>) -> Option<String> {
        let (id, name) = (&self.migration.id, &self.migration.name);
        let absent = || format!("{id} {name} is not in effect any more; make a new plan");
        let state = entry.map(|entry| entry.state);
        let age = entry.zip(word).map(|(entry, word)| word.age(entry));
        if self.direction == Direction::Down {
            return match state {
                None => word.is_none_or(|word| word.failed).then(absent),
                // Applied again by another tool.
                Some(LedgerState::RolledBack) => (age != Some(Age::Newer) || word.is_some_and(|word| word.failed)).then(absent),
                Some(_) => None,
            };
        }
        let word = word?;
        let changed = self.at_first.as_ref() != Some(word);
        let news = match state {
            None => true,
            Some(LedgerState::RolledBack) => changed || age != Some(Age::Older),
            // Whether it stopped before or after that, the plan knew of it.
            Some(LedgerState::Applying) => changed || age == Some(Age::Newer),
            Some(LedgerState::Applied | LedgerState::Baselined | LedgerState::Reverting) => false,
        };
        let tool = word.kind.tool();
        news.then(|| {
            if word.failed {
                format!("{id} {name} was begun by {tool} meanwhile, which notes it as failed or not yet ended; make a new plan")
            } else {
                format!("{id} {name} was applied by {tool} meanwhile; make a new plan")
            }
        })
    }

    fn by_ledgers(&self, entry: Option<&LedgerEntry>, foreign: &[ForeignLedger]) -> Option<String> {
        self.moved(entry, Others::read(self.layout, foreign).of(&self.migration).as_ref())
    }
}

impl From<Meanwhile> for Elsewhere {
    fn from(meanwhile: Meanwhile) -> Self {
        Self::new(move |entry, foreign| meanwhile.by_ledgers(entry, foreign))
    }
}

/// Steps of a run: the backup first, where there is one, then a step for each migration.
pub(crate) fn steps(planned: &[PlannedMigration], backup_first: bool) -> Vec<crate::model::StepReport> {
    let step = |operation: &str, rule: String, table: &str| crate::model::StepReport {
        operation: operation.to_owned(),
        rule,
        table: table.to_owned(),
        ..crate::model::StepReport::default()
    };
    let backup = backup_first.then(|| step("backup", String::new(), "the whole database"));
    let migrations = planned
        .iter()
        .map(|planned| step("migrations", format!("{} {}", planned.id, planned.name), ""));
    backup.into_iter().chain(migrations).collect()
}
