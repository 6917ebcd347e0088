//! Rehearsals of migrations that are in effect: newest first, each goes down and up again on the copy, and what is there then is compared
//! with what was there before; then down once more, so that the one before it finds what it would find in a rollback.
//!
//! What was there before such a migration was applied nobody knows any more. That down and up lead back to the present is what can be
//! shown, and it is no proof where down changes nothing; data that down drops does not come back, and is told apart from the rest.

use std::sync::Arc;

use super::{
    super::{Attempt, Ending, Halt, Hold, as_planned, collection, ending, keep, kept, note, script},
    Copy, compare,
    compare::{change, rows_lost, there_and_back, unproven_without_rows, without_rows},
    copy::{as_if_whole, make, tell_of_sample},
    failed, order,
    reach::reaches_further,
    verdict, verified, went,
};
use crate::{
    failpoint,
    model::{Direction, Migration, MigrationRecord, PlannedMigration, Proof, Rehearsal, RunState, StepState},
};

/// What became of one migration on the copy.
struct Tried {
    rehearsal: Rehearsal,
    /// Whether the copy is as it was, so that an older one can be tried.
    usable: bool,
    /// Tables that it is about, and that held no row before it was taken back.
    without_rows: Vec<String>,
}

pub(super) async fn rehearsed(attempt: &mut Attempt, record: &MigrationRecord) -> Result<Ending, Halt> {
    attempt.take_target().await?;
    let collection = collection(attempt).await?;
    let copy = make(attempt, record).await?;
    failpoint!("rehearsal-copied");
    tell_of_sample(attempt).await?;
    let (mut good, mut bad) = (0_u32, Vec::new());
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
        let last = step + 1 == record.planned.len();
        let hold = Hold::take(&copy.target, attempt.claim, &attempt.context.settings.holder).await?;
        let tried = one(attempt, record, step, planned, migration, &copy, &hold, last).await;
        hold.release().await;
        let tried = tried?;
        let found = &tried.rehearsal;
        let mut report = kept(attempt, planned, Direction::Down);
        report.rehearsal = Some(found.clone());
        keep(attempt, report);
        failpoint!("rehearsal-tried");
        let proof = Proof {
            identity: attempt.target.identity().await?,
            id: planned.id.clone(),
            up_sha256: planned.up_sha256.clone(),
            down_sha256: planned.down_sha256.clone(),
            restored: found.restored,
            lossy: !found.restored && found.differences.is_empty() && !found.loses.is_empty(),
            sampled: record.sample.is_some(),
            up_ms: found.whole_up_ms.unwrap_or(found.up_ms),
            run: attempt.run.id,
            at: jiff::Timestamp::now(),
        };
        if proof.restored && !tried.without_rows.is_empty() {
            let text = unproven_without_rows(&tried.without_rows);
            attempt.ledger.warn(Some(step), "NO_ROWS", text).await?;
        } else {
            attempt.context.store.put_proofs(&attempt.run.target, &[proof]).await?;
        }
        let verdict = verdict(found);
        let state = if verdict.is_empty() {
            good += 1;
            StepState::Succeeded
        } else {
            attempt.ledger.warn(Some(step), "DOWN_NOT_PROVEN", verdict.clone()).await?;
            bad.push(planned.id.to_string());
            StepState::Partial
        };
        attempt.ledger.end_step(step, state, verdict).await?;
        if !tried.usable && !last {
            for later in step + 1..record.planned.len() {
                let why = format!("it is tried only once {} is taken back", planned.id);
                attempt.ledger.skip_step(later, why).await?;
                bad.push(record.planned[later].id.to_string());
            }
            break;
        }
    }
    Ok(if bad.is_empty() {
        ending(RunState::Succeeded, went(good, "down and up again"))
    } else {
        ending(
            RunState::PartiallySucceeded,
            format!("{}; not so {}", went(good, "down and up again"), bad.join(", ")),
        )
    })
}

#[expect(clippy::too_many_arguments, reason = "they have no other common owner")]
async fn one(
    attempt: &mut Attempt,
    record: &MigrationRecord,
    step: usize,
    planned: &PlannedMigration,
    migration: &Migration,
    copy: &Copy,
    hold: &Hold,
    last: bool,
) -> Result<Tried, Halt> {
    let target = Arc::clone(&copy.target);
    let mut rehearsal = Rehearsal {
        has_down: migration.down.as_ref().is_some_and(|down| down.statement_count() > 0),
        ..Rehearsal::default()
    };
    // Of one that did not come back there is nothing to prove.
    let ended = |rehearsal| {
        Ok(Tried {
            rehearsal,
            usable: false,
            without_rows: Vec::new(),
        })
    };
    let Some(down) = migration.down.as_ref().filter(|_| rehearsal.has_down) else {
        return ended(rehearsal);
    };
    compare(attempt, step, migration).await?;
    let first = target.migrator().fingerprint().await?;
    let without_rows = without_rows(&first, migration, target.engine());
    let backwards = order(record, migration, Direction::Down, step, "reverting", hold);
    let reverted = script::execute(attempt, &target, &backwards, None).await?;
    note(attempt, step, planned, Direction::Down, down.statement_count(), &reverted).await?;
    rehearsal.down_ms = reverted.duration_ms();
    if let Some(problem) = &reverted.problem {
        rehearsal.differences.push(format!("down failed: {problem}"));
        (rehearsal.rows_lost, rehearsal.violations) = (reverted.rows_lost, reverted.violations);
        return ended(rehearsal);
    }
    compare(attempt, step, migration).await?;
    let between = target.migrator().fingerprint().await?;
    rehearsal.rows_lost = rows_lost(&first, &between, down, target.engine());
    attempt.boundary()?;
    let forwards = order(record, migration, Direction::Up, step, "again", hold);
    let up = script::execute(attempt, &target, &forwards, reverted.entry.clone()).await?;
    (rehearsal.up_ms, rehearsal.rows) = (up.duration_ms(), up.rows());
    rehearsal.whole_up_ms = as_if_whole(copy.sampled.as_deref(), &up.statements, &migration.up, target.engine());
    if let Some(problem) = &up.problem {
        rehearsal.differences.push(format!("up after down failed: {problem}"));
        return ended(rehearsal);
    }
    if let Some(problem) = verified(&target, migration).await? {
        rehearsal.differences.push(problem);
        return ended(rehearsal);
    }
    compare(attempt, step, migration).await?;
    let after = target.migrator().fingerprint().await?;
    rehearsal.size_change = change(between.bytes, after.bytes);
    rehearsal.violations = target.migrator().violations().await?;
    (rehearsal.differences, rehearsal.loses) = there_and_back(&first, &between, &after);
    rehearsal.restored = rehearsal.differences.is_empty() && rehearsal.loses.is_empty();
    if last {
        return Ok(Tried {
            rehearsal,
            usable: true,
            without_rows,
        });
    }
    attempt.boundary()?;
    let gone = script::execute(attempt, &target, &backwards, up.entry.clone()).await?;
    let usable = gone.problem.is_none();
    if let Some(problem) = gone.problem {
        rehearsal.differences.push(format!("down failed the second time: {problem}"));
        rehearsal.restored = false;
    }
    Ok(Tried {
        rehearsal,
        usable,
        without_rows,
    })
}
