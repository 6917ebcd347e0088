//! The work of a rehearsal: a copy of the database, on which each migration goes up, down and up again, and what was there before is
//! compared with what is there after; of one that is in effect, down and up (`applied`). Nothing of it touches the target, and the copy goes in the end, also after a crash: the next
//! attempt removes what the one before it made.

mod applied;
mod compare;
mod copy;
mod reach;

use std::sync::Arc;

use super::{
    Attempt, Ending, Halt, Hold, as_planned, collection, ending, keep, kept, note, record,
    script::{self, ScriptDone, ScriptOrder, count},
};
use compare::{change, differences, rows_lost, schema_differences, unproven_without_rows, without_rows};
use copy::{Copy, LEFT, as_if_whole, drop_left, fresh, make, place, sweep, tell_of_sample};
use reach::reaches_further;

use crate::{
    failpoint,
    model::{
        Direction, LedgerEntry, LedgerState, Migration, MigrationId, MigrationProgress, MigrationRecord, PlannedMigration, Proof,
        Rehearsal, RunState, StepState,
    },
    port::Target,
    run::maintain::blocking,
};

pub(crate) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let record = record(attempt)?;
    let run = attempt.run.id;
    let archive = Arc::clone(&attempt.context.archive);
    blocking(move || sweep(archive.as_ref(), run)).await?;
    drop_left(attempt).await?;
    let result = if record.in_effect {
        applied::rehearsed(attempt, &record).await
    } else {
        rehearsed(attempt, &record).await
    };
    let archive = Arc::clone(&attempt.context.archive);
    let swept = blocking(move || sweep(archive.as_ref(), run)).await;
    let name = place(run);
    // One that was shut out leaves the place to its successor: the adapter refuses to drop what a later attempt made.
    let dropped = attempt.target.maintenance().drop_scratch(attempt.claim, &name).await;
    if let Err(error) = dropped {
        let text = format!("{name} may be left behind, and is dropped by the next rehearsal of this target: {error}");
        let told = attempt.ledger.warn(None, LEFT, text).await;
        // Of one that halted, that is what counts.
        if result.is_ok() {
            told?;
        }
    }
    let ending = result?;
    swept?;
    Ok(ending)
}

async fn rehearsed(attempt: &mut Attempt, record: &MigrationRecord) -> Result<Ending, Halt> {
    attempt.take_target().await?;
    let collection = collection(attempt).await?;
    let mut copy = Some(make(attempt, record).await?);
    failpoint!("rehearsal-copied");
    if record.schema_only {
        let text = "the copy has no rows: nothing is seen of what becomes of them, and no way back is proven";
        attempt.ledger.warn(None, "SCHEMA_ONLY", text.to_owned()).await?;
    }
    tell_of_sample(attempt).await?;
    let mut good = 0_u32;
    let mut bad = Vec::new();
    let mut before: Vec<&Migration> = Vec::new();
    for (step, planned) in record.planned.iter().enumerate() {
        let migration = match as_planned(&collection, planned) {
            Ok(migration) => migration,
            Err(problem) => return failed(attempt, step, problem).await,
        };
        attempt.boundary()?;
        attempt.ledger.begin_step(step).await?;
        if let Some(statement) = reaches_further(migration, attempt.target.engine()) {
            let problem = format!(
                "{statement} acts on the whole server or on what is outside of this database, so that no copy can hold it: it cannot be rehearsed"
            );
            return failed(attempt, step, problem).await;
        }
        let place = match copy.take() {
            Some(place) => place,
            // The last migration left the copy other than it found it.
            None => fresh(attempt, record, &before).await?,
        };
        let tried = one(attempt, record, step, planned, migration, &place).await?;
        let mut report = kept(attempt, planned, Direction::Up);
        report.rehearsal = Some(tried.rehearsal.clone());
        keep(attempt, report);
        failpoint!("rehearsal-tried");
        if let Some(problem) = tried.problem {
            return failed(attempt, step, problem).await;
        }
        // Of one that had stopped, the copy began in the middle: nothing is known about the way back to its beginning.
        let whole = !tried.resumed;
        let proof = Proof {
            identity: attempt.target.identity().await?,
            id: planned.id.clone(),
            up_sha256: planned.up_sha256.clone(),
            down_sha256: planned.down_sha256.clone(),
            restored: tried.rehearsal.restored,
            lossy: false,
            sampled: record.sample.is_some(),
            up_ms: tried.rehearsal.whole_up_ms.unwrap_or(tried.rehearsal.up_ms),
            run: attempt.run.id,
            at: jiff::Timestamp::now(),
        };
        // Without rows nothing is seen of what becomes of them. What goes wrong without them does so all the more with them.
        if whole && proof.restored && !tried.without_rows.is_empty() && !record.schema_only {
            let text = unproven_without_rows(&tried.without_rows);
            attempt.ledger.warn(Some(step), "NO_ROWS", text).await?;
        } else if whole && !record.schema_only {
            attempt.context.store.put_proofs(&attempt.run.target, &[proof]).await?;
        }
        let verdict = if whole {
            verdict(&tried.rehearsal)
        } else {
            "it had stopped in the middle, so that only the rest of it was tried, and not its way back".to_owned()
        };
        let state = if verdict.is_empty() {
            good += 1;
            StepState::Succeeded
        } else {
            attempt.ledger.warn(Some(step), "DOWN_NOT_PROVEN", verdict.clone()).await?;
            bad.push(planned.id.to_string());
            StepState::Partial
        };
        attempt.ledger.end_step(step, state, verdict).await?;
        before.push(migration);
        copy = tried.usable.then_some(place);
    }
    Ok(if bad.is_empty() {
        ending(RunState::Succeeded, went(good, "up, down and up again"))
    } else {
        ending(
            RunState::PartiallySucceeded,
            format!("{}; not so {}", went(good, "up, down and up again"), bad.join(", ")),
        )
    })
}

/// How many migrations went where, in words.
fn went(count: u32, way: &str) -> String {
    match count {
        1 => format!("1 migration goes {way}"),
        count => format!("{count} migrations go {way}"),
    }
}

async fn failed(attempt: &mut Attempt, step: usize, problem: String) -> Result<Ending, Halt> {
    let name = attempt.ledger.report.steps[step].rule.clone();
    attempt.ledger.end_step(step, StepState::Failed, problem.clone()).await?;
    Ok(ending(RunState::Failed, format!("{name}: {problem}")))
}

/// Why a migration is not proven; empty where it is.
fn verdict(rehearsal: &Rehearsal) -> String {
    if !rehearsal.rows_lost.is_empty() {
        let lost: Vec<String> = rehearsal
            .rows_lost
            .iter()
            .map(|lost| format!("{} from {} to {}", lost.table, lost.before, lost.after))
            .collect();
        return format!("rows vanish that no statement deletes: {}", lost.join(", "));
    }
    if !rehearsal.violations.is_empty() {
        return format!("constraints are violated: {}", rehearsal.violations.join(", "));
    }
    if !rehearsal.has_down {
        return "there is no way back: its down script is missing or empty".to_owned();
    }
    if !rehearsal.restored && rehearsal.differences.is_empty() && !rehearsal.loses.is_empty() {
        return format!(
            "down loses data of {}; up brings back the schema only",
            rehearsal.loses.join(", ")
        );
    }
    if !rehearsal.restored {
        let shown: Vec<&str> = rehearsal.differences.iter().take(3).map(String::as_str).collect();
        return format!("down does not bring back what was before: {}", shown.join("; "));
    }
    String::new()
}

fn order<'a>(
    record: &'a MigrationRecord,
    migration: &'a Migration,
    direction: Direction,
    step: usize,
    phase: &'static str,
    hold: &Hold,
) -> ScriptOrder<'a> {
    ScriptOrder {
        migration,
        direction,
        script: match direction {
            Direction::Up => &migration.up,
            // The caller looks whether there is one.
            Direction::Down => migration.down.as_ref().unwrap_or(&migration.up),
        },
        step,
        phase,
        options: record.options,
        by: &record.by,
        backup: None,
        observe: true,
        // That is a step of its own here.
        verify: false,
        // The copy is nobody else's.
        elsewhere: None,
        remark: String::new(),
        lost: hold.lost(),
    }
}

/// What became of a migration on the copy.
struct Tried {
    rehearsal: Rehearsal,
    /// Why it cannot be applied at all.
    problem: Option<String>,
    /// Whether the copy is as the next migration finds it on the target.
    usable: bool,
    /// Whether it began in the middle, where it had stopped on the target.
    resumed: bool,
    /// Tables that it is about, and that held no row before it.
    without_rows: Vec<String>,
}

async fn one(
    attempt: &mut Attempt,
    record: &MigrationRecord,
    step: usize,
    planned: &PlannedMigration,
    migration: &Migration,
    copy: &Copy,
) -> Result<Tried, Halt> {
    let target = Arc::clone(&copy.target);
    let hold = Hold::take(&target, attempt.claim, &attempt.context.settings.holder).await?;
    let tried = on_copy(attempt, record, step, planned, migration, copy, &hold).await;
    hold.release().await;
    tried
}

async fn on_copy(
    attempt: &mut Attempt,
    record: &MigrationRecord,
    step: usize,
    planned: &PlannedMigration,
    migration: &Migration,
    copy: &Copy,
    hold: &Hold,
) -> Result<Tried, Halt> {
    let target = &copy.target;
    let mut rehearsal = Rehearsal {
        has_down: migration.down.as_ref().is_some_and(|down| down.statement_count() > 0),
        schema_only: record.schema_only,
        ..Rehearsal::default()
    };
    let entry = ledger_row(attempt, target, &migration.id).await?;
    let resumed = entry.is_some();
    compare(attempt, step, migration).await?;
    let at_first = target.migrator().fingerprint().await?;
    let without_rows = without_rows(&at_first, migration, target.engine());
    let up = script::execute(
        attempt,
        target,
        &order(record, migration, Direction::Up, step, "applying", hold),
        entry,
    )
    .await?;
    note(attempt, step, planned, Direction::Up, migration.up.statement_count(), &up).await?;
    (rehearsal.up_ms, rehearsal.rows) = (up.duration_ms(), up.rows());
    rehearsal.whole_up_ms = as_if_whole(copy.sampled.as_deref(), &up.statements, &migration.up, target.engine());
    if let Some(problem) = &up.problem {
        (rehearsal.rows_lost, rehearsal.violations) = (up.rows_lost, up.violations);
        return Ok(Tried {
            rehearsal,
            problem: Some(problem.to_string()),
            usable: false,
            resumed,
            without_rows,
        });
    }
    if let Some(problem) = verified(target, migration).await? {
        return Ok(Tried {
            rehearsal,
            problem: Some(problem),
            usable: false,
            resumed,
            without_rows,
        });
    }
    compare(attempt, step, migration).await?;
    let after_up = target.migrator().fingerprint().await?;
    rehearsal.size_change = change(at_first.bytes, after_up.bytes);
    rehearsal.violations = target.migrator().violations().await?;
    rehearsal.rows_lost = rows_lost(&at_first, &after_up, &migration.up, target.engine());
    if !rehearsal.has_down || resumed {
        return Ok(Tried {
            rehearsal,
            problem: None,
            usable: true,
            resumed,
            without_rows,
        });
    }
    attempt.boundary()?;
    let reverted = script::execute(
        attempt,
        target,
        &order(record, migration, Direction::Down, step, "reverting", hold),
        up.entry.clone(),
    )
    .await?;
    rehearsal.down_ms = reverted.duration_ms();
    if let Some(problem) = &reverted.problem {
        rehearsal.differences.push(format!("down failed: {problem}"));
        return Ok(Tried {
            rehearsal,
            problem: None,
            usable: false,
            resumed,
            without_rows,
        });
    }
    compare(attempt, step, migration).await?;
    let after_down = target.migrator().fingerprint().await?;
    rehearsal.differences = differences(&at_first, &after_down, "after down");
    let restored = rehearsal.differences.is_empty();
    let again = again(attempt, record, step, migration, target, hold, &reverted).await?;
    if let Some(problem) = &again.problem {
        rehearsal.differences.push(format!("up after down failed: {problem}"));
        rehearsal.differences.truncate(Rehearsal::MAX_DIFFERENCES);
        return Ok(Tried {
            rehearsal,
            problem: None,
            usable: false,
            resumed,
            without_rows,
        });
    }
    let after_again = target.migrator().fingerprint().await?;
    // Values such as now() differ the second time; the schema may not.
    let schema = schema_differences(&after_up, &after_again, "after up again");
    rehearsal.restored = restored && schema.is_empty();
    rehearsal.differences.extend(schema);
    rehearsal.differences.truncate(Rehearsal::MAX_DIFFERENCES);
    let usable = rehearsal.restored;
    Ok(Tried {
        rehearsal,
        problem: None,
        usable,
        resumed,
        without_rows,
    })
}

async fn again(
    attempt: &mut Attempt,
    record: &MigrationRecord,
    step: usize,
    migration: &Migration,
    target: &Arc<dyn Target>,
    hold: &Hold,
    reverted: &ScriptDone,
) -> Result<ScriptDone, Halt> {
    attempt.boundary()?;
    let order = order(record, migration, Direction::Up, step, "again", hold);
    script::execute(attempt, target, &order, reverted.entry.clone()).await
}

/// The ledger row that the script begins with. The copy has none of the target's, so that one which stopped in the middle, and of which
/// the copy holds the first statements, has to be told to it.
async fn ledger_row(attempt: &Attempt, copy: &Arc<dyn Target>, id: &MigrationId) -> Result<Option<LedgerEntry>, Halt> {
    let ledger = attempt.target.migrator().ledger().await?;
    let stopped = ledger
        .into_iter()
        .find(|entry| entry.id == *id && matches!(entry.state, LedgerState::Applying));
    let Some(entry) = stopped else { return Ok(None) };
    let told = LedgerEntry {
        in_doubt: false,
        ..entry
    };
    copy.migrator().note(attempt.claim, &[(None, told.clone())]).await?;
    Ok(Some(told))
}

/// Runs the script that fails where the migration is not in effect.
async fn verified(target: &Arc<dyn Target>, migration: &Migration) -> Result<Option<String>, Halt> {
    let Some(verify) = &migration.verify else { return Ok(None) };
    let statements: Vec<_> = verify.statements().cloned().collect();
    Ok(match target.migrator().verify(&statements).await {
        Ok(()) => None,
        Err(crate::port::MigratorError::Target(error)) => return Err(Halt::Target(error)),
        Err(error) => Some(format!("{} does not hold: {error}", verify.file)),
    })
}

async fn compare(attempt: &mut Attempt, step: usize, migration: &Migration) -> Result<(), Halt> {
    let progress = MigrationProgress {
        step: count(step),
        id: migration.id.clone(),
        direction: Direction::Up,
        phase: "comparing".to_owned(),
        statement: 0,
        statements: 0,
        line: 0,
        excerpt: String::new(),
        finished: None,
    };
    Ok(attempt.ledger.migrating(progress).await?)
}
