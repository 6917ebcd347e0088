//! The batch protocol: how rows leave a table so that no crash, lost reply or second holder can lose or double one.
//!
//! ```text
//!  begin      own connection, time limits, fence held against other attempts, shape of the table held against DDL
//!  delete     by key and the full predicate again; each deleted row streams into the chunk. Rows with children, and rows that
//!             are archived or changed, are held, captured and counted first: see `family`
//!  seal       fsync the chunk and its folder: from here on the rows are safe outside the database
//!  validate   captured = deleted, and in a newer snapshot: no parent has appeared meanwhile
//!  record     the journal row: cursor, counts, chunk, checksum - in the same transaction as the deletion
//!  commit     all of it or nothing of it
//! ```
//!
//! Where it ends early, the transaction takes the deletion back, and the chunk is removed or stays as a file that no
//! journal row names; the next attempt removes those. Where the reply to the commit is lost, the attempt ends: the next
//! one claims under a larger fence, which waits for the old transaction, and then reads in the journal what happened.

use std::sync::Arc;

use crate::{
    backup::ChunkWriter,
    failpoint,
    model::{Along, ChunkRef, Effect, JournalEntry, Selection, TableSchema},
    port::{Archive, Captured, Claim, RowSink, TableLayout, Target, TargetError, TargetErrorClass, Window},
};

pub use super::allowance::BatchAllowance;
use super::family;

/// One batch to be carried out.
pub struct BatchOrder<'a> {
    /// Under which right.
    pub claim: Claim,
    /// Step of the plan.
    pub step: u32,
    /// Number of the batch in its step.
    pub batch: u64,
    /// Pass over the table.
    pub pass: u32,
    /// What must still hold of a listed row.
    pub selection: &'a Selection,
    /// The listed rows.
    pub window: &'a Window,
    /// Rows that were looked at since the batch before.
    pub examined: u64,
    /// What becomes of the rows and of those that hang on them.
    pub effect: &'a Effect,
    /// Tables that nobody else may write to during the batch.
    pub still: &'a [&'a TableSchema],
    /// Most rows of all tables that the transaction should touch, where it has more than one listed row.
    pub budget: u32,
    /// What the batch may touch; one with more is not carried out.
    pub allowance: BatchAllowance,
    /// Whether the rows are captured.
    pub capture: bool,
}

/// What the transaction did before its chunk is sealed.
pub(super) struct Done {
    /// Selected rows deleted or changed.
    pub(super) affected: u64,
    /// Rows of other tables that went or changed along with them.
    pub(super) along: Vec<Along>,
    /// Rows that the chunk must hold.
    pub(super) captured: u64,
}

/// The layout of a table's captured rows.
#[must_use]
pub fn layout(table: &TableSchema) -> TableLayout {
    TableLayout {
        table: table.name.clone(),
        columns: table
            .captured_columns()
            .map(|column| (column.name.clone(), column.type_name.clone()))
            .collect(),
        row_key: if table.primary_key.is_empty() {
            table.row_key.clone()
        } else {
            table.primary_key.clone()
        },
        captured: Captured::Deleted,
    }
}

/// The chunk of a batch whose sections are these.
pub(super) fn begin_chunk(
    archive: &dyn Archive,
    order: &BatchOrder<'_>,
    sections: Vec<TableLayout>,
) -> Result<ChunkWriter, TargetError> {
    let BatchOrder { claim, step, batch, .. } = order;
    Ok(ChunkWriter::create(archive, claim.run, claim.fence, *step, *batch, sections)?)
}

/// Carries out one batch; the returned entry is in the journal.
///
/// # Errors
/// [`TargetError::is_retryable`] tells whether the same batch may be tried again; otherwise nothing of it took effect, but
/// for class `Lost` from the commit, where the journal tells.
pub async fn run_batch(
    target: &dyn Target,
    archive: &Arc<dyn Archive>,
    order: &BatchOrder<'_>,
) -> Result<JournalEntry, TargetError> {
    let mut name = None;
    let result = work_in_transaction(target, archive, order, &mut name).await;
    if let (Err(error), Some(name)) = (&result, name)
        && error.class != TargetErrorClass::Lost
    {
        // The transaction is gone, so no journal row names this chunk. Failing to remove it is not worth hiding the error
        // behind: the next attempt tries again.
        if let Err(error) = archive.remove(order.claim.run, &name) {
            tracing::warn!(run = %order.claim.run, chunk = name, %error, "chunk of a batch that was taken back not removed");
        }
    }
    result
}

async fn work_in_transaction(
    target: &dyn Target,
    archive: &Arc<dyn Archive>,
    order: &BatchOrder<'_>,
    name: &mut Option<String>,
) -> Result<JournalEntry, TargetError> {
    let mut tables = vec![order.selection.table.as_ref()];
    for link in order.effect.acting() {
        if !tables.iter().any(|table| table.name == link.child.name) {
            tables.push(link.child.as_ref());
        }
    }
    let mut transaction = target.begin_strict(order.claim, &tables, order.still).await?;
    failpoint!("batch-begun");
    let (done, writer) = if order.effect.is_plain_delete() {
        let mut writer = None;
        if order.capture {
            let made = begin_chunk(archive.as_ref(), order, vec![layout(&order.selection.table)])?;
            *name = Some(made.name().to_owned());
            writer = Some(made);
        }
        let sink = writer.as_mut().map(|writer| writer as &mut dyn RowSink);
        let deleted = transaction.delete(order.selection, &order.window.keys, sink).await?;
        let done = Done {
            affected: deleted,
            along: Vec::new(),
            captured: deleted,
        };
        (done, writer)
    } else {
        let (done, writer) = family::work(transaction.as_mut(), archive.as_ref(), order, name).await?;
        (done, writer)
    };
    failpoint!("batch-deleted");
    let chunk = match writer {
        Some(writer) if done.captured > 0 => Some(seal(writer, done.captured).await?),
        // Nothing to keep: dropping the writer removes its file.
        _ => None,
    };
    failpoint!("batch-sealed");
    // After the seal and not beside it: whoever adopts a row while the disk works must be seen.
    let adopted = transaction.adopted(order.selection).await?;
    if adopted > 0 {
        transaction.rollback().await;
        return Err(TargetError::new(
            TargetErrorClass::Conflict,
            format!("{adopted} rows were adopted by a parent that appeared meanwhile; the batch was taken back"),
        ));
    }
    let entry = JournalEntry {
        run: order.claim.run,
        step: order.step,
        batch: order.batch,
        pass: order.pass,
        fence: order.claim.fence,
        cursor: order.window.cursor.clone(),
        examined: order.examined,
        matched: order.window.keys.len() as u64,
        affected: done.affected,
        along: done.along,
        conflicting: 0,
        chunk,
    };
    transaction.record(&entry).await?;
    failpoint!("batch-recorded");
    transaction.commit().await?;
    failpoint!("batch-committed");
    // A reply that is lost after the server committed looks exactly like this.
    failpoint!(
        "batch-commit-reply-lost",
        Err(TargetError::new(TargetErrorClass::Lost, "the reply to COMMIT was lost"))
    );
    Ok(entry)
}

/// Makes the chunk durable and checks that it holds what was deleted.
async fn seal(writer: ChunkWriter, deleted: u64) -> Result<ChunkRef, TargetError> {
    if writer.rows() != deleted {
        return Err(TargetError::new(
            TargetErrorClass::Refused,
            format!(
                "{} rows were captured and {deleted} deleted or changed; the batch was taken back",
                writer.rows()
            ),
        ));
    }
    failpoint!(
        "batch-seal-fails",
        Err(crate::port::SinkError(std::io::Error::from(std::io::ErrorKind::StorageFull)).into())
    );
    tokio::task::spawn_blocking(move || writer.seal())
        .await
        .map_err(|error| TargetError::new(TargetErrorClass::Refused, format!("sealing the chunk was cut short: {error}")))?
        .map_err(TargetError::from)
}
