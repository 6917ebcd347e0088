//! The work of a restore, and of the proof of a backup of whole tables: check the files, let the adapter load them, and compare what
//! is there with what was saved. Captured rows go chunk by chunk into scratch tables, as an undo would put them back.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{Attempt, Ending, Halt},
    dump::fingerprint,
    lease::Stop,
    maintain::{Acted, act, act_within, blocking},
};
use crate::{
    backup::{ChunkError, Section, read_chunk},
    failpoint,
    model::{
        BackupFile, BackupRecord, JournalEntry, LedgerEntry, RestoreMode, RunId, RunState, StepState, TableCount, TableName,
    },
    port::{Archive, ArchiveError, Captured, LoadOrder, Loaded, MaintenanceError, SourceMark},
};

/// Journal entries read at a time.
const PAGE_ENTRIES: u32 = 256;

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let (Some(order), Some(_)) = (attempt.ledger.report.restore.clone(), attempt.run.source) else {
        return Err(Halt::Fail("the run does not say what to restore".to_owned()));
    };
    match (attempt.ledger.report.backup.clone(), order.mode) {
        (Some(record), RestoreMode::InPlace { replace }) => in_place(attempt, &record, replace).await,
        (Some(record), RestoreMode::Scratch { name }) => scratch(attempt, &record, name).await,
        (None, RestoreMode::Scratch { name }) => captured_rows(attempt, &name).await,
        (None, RestoreMode::InPlace { .. }) => Err(Halt::Fail("captured rows are put back by an undo".to_owned())),
    }
}

/// Proves a backup of whole tables: everything is loaded into a place that vanishes, and counted.
pub(super) async fn prove(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let Some(record) = attempt.ledger.report.backup.clone() else {
        return Err(Halt::Fail("the run does not say what to prove".to_owned()));
    };
    let source = source_of(attempt)?;
    attempt.boundary()?;
    attempt.ledger.begin_step(0).await?;
    let loaded = match prove_whole(attempt, source, &record, None).await? {
        Some(Ok(loaded)) => loaded,
        Some(Err(problem)) => return damaged(attempt, problem).await,
        // Without a limit there is no such end.
        None => return Err(Halt::Fail("its time was over".to_owned())),
    };
    let rows = loaded.tables.iter().map(|table| table.rows).sum();
    let step = &mut attempt.ledger.report.steps[0];
    (step.rows_affected, step.rows_matched) = (rows, rows);
    step.captured_bytes = record.files.iter().map(|file| file.bytes).sum();
    attempt.ledger.end_step(0, StepState::Succeeded, String::new()).await?;
    Ok(Ending {
        state: RunState::Succeeded,
        reason: format!("{rows} rows in {} tables proven", loaded.tables.len()),
        mark: Some(SourceMark::Verified),
    })
}

fn source_of(attempt: &Attempt) -> Result<RunId, Halt> {
    attempt
        .run
        .source
        .ok_or_else(|| Halt::Fail("the run names no backup".to_owned()))
}

/// Name of the place that a proof loads a backup to.
pub(super) fn proof_place(attempt: &Attempt) -> String {
    format!("dbkeep_proof_{}", attempt.run.id.0.simple())
}

/// Loads a backup of whole tables into a place that vanishes, and counts; the inner error says what is damaged. `None` where the limit
/// came first. A place that cannot be removed is a warning: what was found out stands.
pub(super) async fn prove_whole(
    attempt: &mut Attempt,
    source: RunId,
    record: &BackupRecord,
    limit: Option<Duration>,
) -> Result<Option<Result<Loaded, String>>, Halt> {
    let begun = Instant::now();
    let order = match checked_within(attempt, source, record, &record.tables, limit).await? {
        Some(Ok(order)) => order,
        Some(Err(problem)) => return Ok(Some(Err(problem))),
        None => return Ok(None),
    };
    failpoint!("proof-checked");
    let limit = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    let (claim, place) = (attempt.claim, proof_place(attempt));
    let name = place.clone();
    let acted = act_within(attempt, limit, |target, watch| {
        Box::pin(async move {
            let loaded = target.maintenance().load_scratch(&order, &name, &watch).await;
            failpoint!("proof-loaded");
            let dropped = target.maintenance().drop_scratch(claim, &name).await;
            Ok((loaded?, dropped.err()))
        })
    })
    .await;
    let loaded = match acted {
        Ok(Acted::Ended(Ok((loaded, None)))) => loaded,
        Ok(Acted::Ended(Ok((loaded, Some(error))))) => {
            left_behind(attempt, &place, error).await?;
            loaded
        }
        Ok(Acted::OutOfTime) => {
            tidy(attempt, &place).await?;
            return Ok(None);
        }
        Ok(Acted::Ended(Err(MaintenanceError::Damaged { problem }))) => {
            tidy(attempt, &place).await?;
            return Ok(Some(Err(problem)));
        }
        Ok(Acted::Ended(Err(error))) => {
            let halt = Halt::from(error);
            if is_ours_to_tidy(&halt) {
                tidy(attempt, &place).await?;
            }
            return Err(halt);
        }
        Err(halt) => {
            // Told to stop, the act above may have been dropped before it tidied up.
            if is_ours_to_tidy(&halt) {
                tidy(attempt, &place).await?;
            }
            return Err(halt);
        }
    };
    Ok(Some(same_counts(&record.tables, &loaded).map(|()| loaded)))
}

/// Removes the place of a proof.
async fn tidy(attempt: &mut Attempt, place: &str) -> Result<(), Halt> {
    match attempt.target.maintenance().drop_scratch(attempt.claim, place).await {
        Ok(()) => Ok(()),
        Err(error) => left_behind(attempt, place, error).await,
    }
}

/// Warns of a place that is there still.
async fn left_behind(attempt: &mut Attempt, place: &str, error: MaintenanceError) -> Result<(), Halt> {
    let message = format!("{place} may be left behind: {error}");
    attempt.ledger.warn(None, "SCRATCH_LEFT", message).await?;
    Ok(())
}

pub(super) async fn damaged(attempt: &mut Attempt, problem: String) -> Result<Ending, Halt> {
    attempt.ledger.warn(None, "BACKUP_DAMAGED", problem.clone()).await?;
    Ok(Ending {
        state: RunState::Failed,
        reason: format!("the backup is damaged: {problem}"),
        mark: Some(SourceMark::Damaged),
    })
}

/// What lies beside a dump, and says what is in it.
pub(crate) struct Description(serde_json::Value);

impl Description {
    /// The ledger of migrations as the dump's schema has them.
    pub(crate) fn ledger(&self) -> Result<Vec<LedgerEntry>, String> {
        let Some(ledger) = self.0.get("migrations") else {
            return Err(
                "it does not say which migrations its schema has: a version of dbkeep made it that did not note them".to_owned(),
            );
        };
        serde_json::from_value(ledger.clone()).map_err(|error| format!("its manifest cannot be read: {error}"))
    }
}

/// Reads what lies beside a dump, checked against the backup's record. The inner error says what is damaged.
pub(crate) fn description(
    archive: &dyn Archive,
    source: RunId,
    record: &BackupRecord,
) -> Result<Result<Description, String>, ArchiveError> {
    let [_, manifest] = &record.files[..] else {
        return Ok(Err("the backup's record names no files".to_owned()));
    };
    if let Some(problem) = differs(archive, source, manifest, &CancellationToken::new())? {
        return Ok(Err(problem));
    }
    let mut reading = archive.open(source, &manifest.file)?;
    let mut json = Vec::new();
    std::io::Read::read_to_end(&mut reading, &mut json).map_err(|error| ArchiveError::Io {
        path: manifest.file.clone(),
        source: error,
    })?;
    Ok(match serde_json::from_slice(&json) {
        Ok(json) => Ok(Description(json)),
        Err(error) => Err(format!("its manifest cannot be read: {error}")),
    })
}

/// What of a file is not as the backup's record says.
fn differs(
    archive: &dyn Archive,
    source: RunId,
    file: &BackupFile,
    stop: &CancellationToken,
) -> Result<Option<String>, ArchiveError> {
    let found = match fingerprint(archive, source, file.file.clone(), stop) {
        Ok(found) => found,
        Err(ArchiveError::Missing { .. }) => return Ok(Some(format!("{} is missing", file.file))),
        Err(other) => return Err(other),
    };
    Ok(if found.bytes != file.bytes {
        Some(format!(
            "{} has {} bytes, its record says {}",
            file.file, found.bytes, file.bytes
        ))
    } else if found.sha256 != file.sha256 {
        Some(format!("the SHA-256 of {} differs from its record's", file.file))
    } else {
        None
    })
}

/// Checks the files of a backup against its record. The inner error says what is damaged.
pub(super) async fn checked(
    attempt: &Attempt,
    source: RunId,
    record: &BackupRecord,
    tables: &[TableCount],
) -> Result<Result<LoadOrder, String>, Halt> {
    let checked = checked_within(attempt, source, record, tables, None).await?;
    // Without a limit there is no such end.
    checked.ok_or_else(|| Halt::Fail("its time was over".to_owned()))
}

/// The same within a time; `None` where that came first. Reading a large dump takes long, and ends where the attempt has to.
async fn checked_within(
    attempt: &Attempt,
    source: RunId,
    record: &BackupRecord,
    tables: &[TableCount],
    limit: Option<Duration>,
) -> Result<Option<Result<LoadOrder, String>>, Halt> {
    let archive = Arc::clone(&attempt.context.archive);
    let record = record.clone();
    let whole = record.asked.is_empty() && tables.len() == record.tables.len();
    let stop = CancellationToken::new();
    // Also where this is dropped: nobody waits for the sum any more.
    let (stopped, _guard) = (stop.clone(), stop.drop_guard());
    let looking = blocking(move || {
        let described = match description(archive.as_ref(), source, &record)? {
            Ok(described) => described,
            Err(problem) => return Ok(Err(problem)),
        };
        let Some(dump) = record.files.first() else {
            return Ok(Err("the backup's record names no files".to_owned()));
        };
        if let Some(problem) = differs(archive.as_ref(), source, dump, &stopped)? {
            return Ok(Err(problem));
        }
        Ok(Ok((archive.local(source, &dump.file)?, described)))
    });
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let looked = tokio::select! {
        looked = looking => looked?,
        stop = attempt.lease.stopped() => return Err(stop.into()),
        () = over => return Ok(None),
    };
    let (path, described) = match looked {
        Ok(found) => found,
        Err(problem) => return Ok(Some(Err(problem))),
    };
    Ok(Some(Ok(LoadOrder {
        claim: attempt.claim,
        path,
        whole,
        tables: tables.to_vec(),
        notes: described.0.get("notes").cloned().unwrap_or_default(),
    })))
}

/// The tables that the steps of the run stand for.
fn wanted(attempt: &Attempt, record: &BackupRecord) -> Vec<TableCount> {
    let steps = &attempt.ledger.report.steps;
    record
        .tables
        .iter()
        .filter(|table| steps.iter().any(|step| step.table == table.table.to_string()))
        .cloned()
        .collect()
}

/// A restore that brings nothing, or less or more than was saved, is no restore.
pub(super) fn same_counts(expected: &[TableCount], loaded: &Loaded) -> Result<(), String> {
    if loaded.tables.is_empty() {
        return Err("nothing was restored".to_owned());
    }
    for table in expected {
        let found = loaded
            .tables
            .iter()
            .find(|found| found.table == table.table)
            .map(|found| found.rows);
        if found != Some(table.rows) {
            let found = found.map_or_else(|| "none".to_owned(), |rows| rows.to_string());
            return Err(format!("{} has {found} rows, {} were saved", table.table, table.rows));
        }
    }
    Ok(())
}

async fn in_place(attempt: &mut Attempt, record: &BackupRecord, replace: bool) -> Result<Ending, Halt> {
    let tables = wanted(attempt, record);
    // The journal before the wish to stop: an earlier attempt may have committed without hearing of it.
    attempt.take_target().await?;
    let done = !attempt.target.totals(attempt.run.id).await?.is_empty();
    if !done {
        attempt.boundary()?;
    }
    attempt.ledger.begin_step(0).await?;
    let (place, warnings) = if done {
        // The journal row came with the commit: an earlier attempt loaded and counted everything, and only its word was lost.
        ("their own place".to_owned(), Vec::new())
    } else {
        let other_database = attempt
            .ledger
            .report
            .restore
            .as_ref()
            .is_some_and(|restore| restore.other_database);
        same_database(attempt, record, other_database).await?;
        let order = match checked(attempt, source_of(attempt)?, record, &tables).await? {
            Ok(order) => order,
            Err(problem) => return damaged(attempt, problem).await,
        };
        failpoint!("load-checked");
        let loaded = act(attempt, |target, watch| {
            Box::pin(async move { target.maintenance().load(&order, replace, &watch).await })
        })
        .await?;
        failpoint!("load-committed");
        // A reply that is lost after the server committed looks exactly like this.
        failpoint!(
            "load-commit-reply-lost",
            Err(crate::port::TargetError::new(crate::port::TargetErrorClass::Lost, "the reply to COMMIT was lost").into())
        );
        same_counts(&tables, &loaded).map_err(Halt::Fail)?;
        (loaded.place, loaded.warnings)
    };
    finish(attempt, &tables, place, warnings).await
}

/// Looks once more at what was looked at when the run was accepted: it may have waited, and its target lead to another database by now.
pub(super) async fn same_database(attempt: &Attempt, record: &BackupRecord, other_database: bool) -> Result<(), Halt> {
    if other_database {
        return Ok(());
    }
    let here = attempt.target.identity().await?;
    match here.differs_from(&record.identity) {
        Some(difference) => Err(Halt::Fail(format!(
            "the backup is of another database than when the run was accepted: {difference}"
        ))),
        None => Ok(()),
    }
}

async fn scratch(attempt: &mut Attempt, record: &BackupRecord, name: String) -> Result<Ending, Halt> {
    let tables = wanted(attempt, record);
    attempt.boundary()?;
    attempt.ledger.begin_step(0).await?;
    let order = match checked(attempt, source_of(attempt)?, record, &tables).await? {
        Ok(order) => order,
        Err(problem) => return damaged(attempt, problem).await,
    };
    let (claim, place) = (attempt.claim, name.clone());
    let result = act(attempt, |target, watch| {
        Box::pin(async move { target.maintenance().load_scratch(&order, &place, &watch).await })
    })
    .await
    .and_then(|loaded| same_counts(&tables, &loaded).map(|()| loaded).map_err(Halt::Fail));
    match result {
        Ok(loaded) => finish(attempt, &tables, loaded.place, loaded.warnings).await,
        Err(halt) => {
            if is_ours_to_tidy(&halt)
                && let Err(error) = attempt.target.maintenance().drop_scratch(claim, &name).await
            {
                let message = format!("{name} may be left behind: {error}");
                attempt.ledger.warn(None, "SCRATCH_LEFT", message).await?;
            }
            Err(halt)
        }
    }
}

/// Whether this attempt still speaks for its run: one that was shut out must leave the place to its successor. After a run that was
/// paused there may be none: it can be cancelled as it is.
fn is_ours_to_tidy(halt: &Halt) -> bool {
    matches!(
        halt,
        Halt::Fail(_) | Halt::Target(_) | Halt::Stop(Stop::Cancelled(_) | Stop::Paused(_))
    )
}

async fn finish(attempt: &mut Attempt, tables: &[TableCount], place: String, warnings: Vec<String>) -> Result<Ending, Halt> {
    for warning in warnings {
        attempt.ledger.warn(None, "RESTORE_NOTE", warning).await?;
    }
    for index in 0..attempt.ledger.report.steps.len() {
        let step = &mut attempt.ledger.report.steps[index];
        let rows = tables
            .iter()
            .find(|table| table.table.to_string() == step.table)
            .map_or(0, |table| table.rows);
        (step.rows_affected, step.rows_matched) = (rows, rows);
        attempt.ledger.end_step(index, StepState::Succeeded, String::new()).await?;
    }
    let rows: u64 = tables.iter().map(|table| table.rows).sum();
    let reason = format!("{rows} rows in {} tables are in {place}", tables.len());
    if let Some(restore) = &mut attempt.ledger.report.restore {
        restore.place = place;
    }
    Ok(Ending {
        state: RunState::Succeeded,
        reason,
        mark: None,
    })
}

/// Captured rows into scratch tables, each chunk in a transaction with its journal row.
async fn captured_rows(attempt: &mut Attempt, name: &str) -> Result<Ending, Halt> {
    let source = source_of(attempt)?;
    attempt.take_target().await?;
    let totals = attempt.target.totals(attempt.run.id).await?;
    for step in &totals {
        attempt.ledger.take_totals(step);
    }
    let mut places: Vec<TableName> = Vec::new();
    let mut left_out = 0_u64;
    for index in 0..attempt.ledger.report.steps.len() {
        if attempt.ledger.report.steps[index].rows_planned == 0
            || attempt.ledger.report.steps[index].state == StepState::Succeeded
        {
            continue;
        }
        let step = u32::try_from(index).unwrap_or(u32::MAX);
        attempt.boundary()?;
        attempt.ledger.begin_step(index).await?;
        let done = totals.iter().find(|totals| totals.step == step);
        let mut after = (step, done.and_then(|done| done.cursor.parse().ok()).unwrap_or(0));
        loop {
            let page = attempt.target.journal(source, after, PAGE_ENTRIES).await?;
            let entries: Vec<_> = page.into_iter().filter(|entry| entry.step == step).collect();
            let Some(last) = entries.last() else { break };
            after = (step, last.batch);
            for entry in &entries {
                attempt.boundary()?;
                match show(attempt, index, entry, name).await? {
                    Some(tables) => tables.into_iter().for_each(|table| {
                        if !places.contains(&table) {
                            places.push(table);
                        }
                    }),
                    None => left_out += entry.chunk.as_ref().map_or(0, |chunk| chunk.rows),
                }
            }
        }
        attempt.ledger.end_step(index, StepState::Succeeded, String::new()).await?;
    }
    let rows = attempt.ledger.report.total(|step| step.rows_affected);
    let planned = attempt.ledger.report.total(|step| step.rows_planned);
    if rows == 0 {
        return Err(Halt::Fail("no row was restored".to_owned()));
    }
    let place = if places.is_empty() {
        name.to_owned()
    } else {
        places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    if let Some(restore) = &mut attempt.ledger.report.restore {
        restore.place.clone_from(&place);
    }
    Ok(if rows < planned || left_out > 0 {
        Ending {
            state: RunState::PartiallySucceeded,
            reason: format!("{rows} of {planned} rows are in {place}; the others are in damaged chunks"),
            mark: Some(SourceMark::Damaged),
        }
    } else {
        Ending {
            state: RunState::Succeeded,
            reason: format!("{rows} rows are in {place}"),
            mark: None,
        }
    })
}

/// Puts the rows of one chunk into their scratch tables, whose names are returned; `None` where the chunk is damaged.
async fn show(attempt: &mut Attempt, index: usize, entry: &JournalEntry, name: &str) -> Result<Option<Vec<TableName>>, Halt> {
    let Some(chunk) = entry.chunk.clone() else { return Ok(None) };
    let (archive, reference) = (Arc::clone(&attempt.context.archive), chunk.clone());
    let (run, step, batch) = (entry.run, entry.step, entry.batch);
    let read = tokio::task::spawn_blocking(move || read_chunk(archive.as_ref(), run, step, batch, &reference)).await;
    let sections = match read.map_err(|error| Halt::Fail(error.to_string()))? {
        Ok(read) => read,
        Err(ChunkError::Damaged { problem }) => {
            let message = format!("chunk {}: {problem}; its {} rows were left out", chunk.file, chunk.rows);
            attempt.ledger.warn(Some(index), "BACKUP_DAMAGED", message).await?;
            return Ok(None);
        }
        Err(ChunkError::Archive(error)) => return Err(error.into()),
    };
    let expected = sections.iter().map(|section| section.rows.len()).sum::<usize>() as u64;
    // Tables are made outside of the transaction.
    let mut placed = Vec::with_capacity(sections.len());
    for Section { mut layout, mut rows } in sections {
        // To look at are the rows as they were, whatever was done to them.
        layout.captured = Captured::Deleted;
        rows.iter_mut().for_each(|row| row.truncate(layout.columns.len()));
        layout.table = attempt
            .target
            .maintenance()
            .scratch_table(attempt.run.id, name, &layout)
            .await?;
        placed.push((layout, rows));
    }
    let mut tables = Vec::with_capacity(placed.len());
    let mut transaction = attempt.target.begin(attempt.claim, &[]).await?;
    for (layout, rows) in placed {
        let count = rows.len() as u64;
        let restored = transaction.restore(&layout, rows).await?;
        if restored.rows != count {
            transaction.rollback().await;
            let why = restored
                .conflicts
                .first()
                .map_or(String::new(), |conflict| format!(": {}", conflict.reason));
            return Err(Halt::Fail(format!(
                "{} of {count} rows went into {}{why}",
                restored.rows, layout.table
            )));
        }
        tables.push(layout.table);
    }
    let shown = JournalEntry {
        run: attempt.run.id,
        fence: attempt.claim.fence,
        pass: 1,
        // Where to go on; batches without a chunk leave gaps in the numbers.
        cursor: entry.batch.to_string(),
        examined: 0,
        matched: expected,
        affected: expected,
        along: Vec::new(),
        conflicting: 0,
        chunk: None,
        ..entry.clone()
    };
    transaction.record(&shown).await?;
    transaction.commit().await?;
    failpoint!("show-committed");
    let report = &mut attempt.ledger.report.steps[index];
    report.rows_matched += expected;
    report.rows_affected += expected;
    report.batches += 1;
    Ok(Some(tables))
}
