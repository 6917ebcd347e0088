//! The work of going back to a backup of the whole database.
//!
//! ```text
//! claim, lease ─► done before? ─► backup as recorded? ─► ledger as planned? ─► freeze ─► the present state saved (step 0) ─► rewind (step 1)
//! ```
//!
//! The journal row of step 1 comes with the commit, so that an attempt that goes on after a crash knows whether everything was replaced
//! or nothing. In the second case it begins anew, with another backup of the present: the one before it was made before others could
//! write again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Attempt, Ending, Halt, Hold, blank, ending, keep};
use crate::{
    failpoint,
    model::{
        BackupRecord, Direction, LedgerEntry, MigrationId, MigrationProgress, MigrationRecord, RunState, StepState, TableCount,
    },
    port::{FreezeOrder, Frozen, RewindOrder, Rewound},
    run::{
        dump,
        load::{checked, damaged, description},
        maintain::{act, blocking},
    },
};

/// Step that replaces everything.
const REPLACE: usize = 1;

pub(super) async fn held(attempt: &mut Attempt, record: &MigrationRecord, hold: &Hold) -> Result<Ending, Halt> {
    let source = match attempt.run.source {
        Some(source) => attempt.context.store.run(source).await?,
        None => None,
    };
    let Some(source) = source else {
        return Err(Halt::Fail("the backup's run is gone".to_owned()));
    };
    let Some(saved) = source.whole_backup().cloned() else {
        return Err(Halt::Fail(format!("run {} made no backup of the whole database", source.id)));
    };
    // The journal before the wish to stop: an earlier attempt may have committed without hearing of it.
    let totals = attempt.target.totals(attempt.run.id).await?;
    if totals.iter().any(|step| usize::try_from(step.step) == Ok(REPLACE)) {
        attempt.ledger.begin_step(REPLACE).await?;
        return finish(attempt, record, &saved.tables, Vec::new()).await;
    }
    attempt.boundary()?;
    tell(attempt, "checking").await?;
    let load = match checked(attempt, source.id, &saved, &saved.tables).await? {
        Ok(load) => load,
        Err(problem) => return damaged(attempt, problem).await,
    };
    let (archive, kept) = (Arc::clone(&attempt.context.archive), saved.clone());
    let described = blocking(move || description(archive.as_ref(), source.id, &kept)).await?;
    let then = match described.and_then(|description| description.ledger()) {
        Ok(ledger) => ledger,
        Err(problem) => return damaged(attempt, problem).await,
    };
    let now = attempt.target.migrator().ledger().await?;
    if let Some(problem) = moved(record, &now, &then) {
        return Err(Halt::Fail(problem));
    }
    failpoint!("rewind-checked");
    let freeze = FreezeOrder {
        claim: attempt.claim,
        path: load.path.clone(),
        lock_timeout: Duration::from_millis(record.options.lock_timeout_ms.max(1)),
        lock_tries: record.options.lock_tries,
    };
    let frozen = act(attempt, |target, watch| {
        Box::pin(async move { target.rewinder().freeze(&freeze, &watch).await })
    })
    .await?;
    failpoint!("rewind-frozen");
    save(attempt).await?;
    failpoint!("rewind-saved");
    if hold.lost().is_cancelled() {
        return Err(Halt::Fail("another server migrates this target now".to_owned()));
    }
    attempt.boundary()?;
    attempt.ledger.begin_step(REPLACE).await?;
    tell(attempt, "replacing").await?;
    let order = RewindOrder {
        tables: saved.tables.clone(),
        notes: load.notes,
        ledger: then,
        by: record.by.clone(),
        step: u32::try_from(REPLACE).unwrap_or(u32::MAX),
    };
    let rewound = replace(attempt, frozen, order).await?;
    failpoint!("rewind-committed");
    // A reply that is lost after the database committed looks exactly like this.
    failpoint!(
        "rewind-commit-reply-lost",
        Err(crate::port::TargetError::new(crate::port::TargetErrorClass::Lost, "the reply to COMMIT was lost").into())
    );
    finish(attempt, record, &rewound.tables, rewound.warnings).await
}

async fn replace(attempt: &mut Attempt, frozen: Box<dyn Frozen>, order: RewindOrder) -> Result<Rewound, Halt> {
    act(attempt, |_, watch| {
        Box::pin(async move { frozen.rewind(&order, &watch).await })
    })
    .await
}

/// Saves the present state. What an earlier attempt saved is older than this, and its files go: the report must not name them.
async fn save(attempt: &mut Attempt) -> Result<(), Halt> {
    if let Some(record) = &mut attempt.ledger.report.backup {
        *record = BackupRecord {
            tool: std::mem::take(&mut record.tool),
            ..BackupRecord::default()
        };
        attempt.ledger.keep().await?;
    }
    dump::whole(attempt).await.map(drop)
}

/// Why the ledger does not stand where the plan left it.
fn moved(record: &MigrationRecord, now: &[LedgerEntry], then: &[LedgerEntry]) -> Option<String> {
    let in_effect = |id: &MigrationId, ledger: &[LedgerEntry]| {
        ledger
            .iter()
            .any(|entry| entry.id == *id && entry.state != crate::model::LedgerState::RolledBack)
    };
    let written = LedgerEntry::rewound(now, then, crate::model::RunId::default(), "");
    let taken: BTreeSet<&MigrationId> = written
        .iter()
        .map(|entry| &entry.id)
        .filter(|id| in_effect(id, now))
        .collect();
    let planned: BTreeSet<&MigrationId> = record.planned.iter().map(|planned| &planned.id).collect();
    let other = taken.symmetric_difference(&planned).next()?;
    Some(format!("{other} does not stand where the plan left it; make a new plan"))
}

async fn finish(
    attempt: &mut Attempt,
    record: &MigrationRecord,
    tables: &[TableCount],
    warnings: Vec<String>,
) -> Result<Ending, Halt> {
    for warning in warnings {
        attempt.ledger.warn(Some(REPLACE), "RESTORE_NOTE", warning).await?;
    }
    for planned in &record.planned {
        keep(attempt, blank(planned, Direction::Down));
    }
    let rows = tables.iter().map(|table| table.rows).sum();
    let step = &mut attempt.ledger.report.steps[REPLACE];
    (step.rows_planned, step.rows_affected, step.rows_matched) = (rows, rows, rows);
    step.batches = 1;
    attempt.ledger.end_step(REPLACE, StepState::Succeeded, String::new()).await?;
    let count = record.planned.len();
    Ok(ending(
        RunState::Succeeded,
        format!(
            "{count} {} taken back; {rows} rows in {} tables are as they were",
            if count == 1 { "migration" } else { "migrations" },
            tables.len()
        ),
    ))
}

async fn tell(attempt: &mut Attempt, phase: &str) -> Result<(), Halt> {
    let progress = MigrationProgress {
        step: u32::try_from(REPLACE).unwrap_or(u32::MAX),
        id: MigrationId(String::new()),
        direction: Direction::Down,
        phase: phase.to_owned(),
        statement: 0,
        statements: 0,
        line: 0,
        excerpt: String::new(),
        finished: None,
    };
    Ok(attempt.ledger.migrating(progress).await?)
}
