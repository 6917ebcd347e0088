//! The way into the log: calls that wait at the same time share a transaction, and each goes on when its own record is durable.
//!
//! ```text
//! record(subject) -> queue (bounded) -> one task: takes what waits, AuditLog::append -> every caller gets its record, or all of them the error
//! ```
//!
//! While one transaction is on its way to the disk the next one fills, so that a busy server writes few large transactions and an idle one answers at
//! once. Nobody is answered before the transaction with his record has been committed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::{Record, Subject};
use crate::port::{AuditLog, StoreError};

/// Most records of one transaction: a bounded time for those who wait, and few enough values for one statement.
const TOGETHER: usize = 512;
/// Most calls that wait in the queue; further ones wait before it.
const QUEUE: usize = 4_096;

/// A record was not written, so that the act must not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The store did not take it.
    #[error("the audit log takes no record: {0}")]
    NotWritten(#[from] StoreError),
    /// The server goes down.
    #[error("the audit log takes no more records")]
    Stopped,
}

/// A call that waits for its record.
struct Waiting {
    subject: Subject,
    answer: oneshot::Sender<Result<Record, AuditError>>,
}

/// Writes records. Clones share one queue.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Waiting>,
    /// What the task takes when the first record comes: a journal may be made outside of any runtime.
    idle: Arc<Mutex<Option<Idle>>>,
}

/// A task that has not begun.
struct Idle {
    log: Arc<dyn AuditLog>,
    queue: mpsc::Receiver<Waiting>,
}

impl Journal {
    /// A journal over a log. It works on the runtime that writes the first record, until the last clone is dropped.
    #[must_use]
    pub fn new(log: Arc<dyn AuditLog>) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self {
            queue: sender,
            idle: Arc::new(Mutex::new(Some(Idle { log, queue }))),
        }
    }

    /// Writes a record; it is on the disk when this returns. The store sets its time, and what is too long to be kept is cut off.
    ///
    /// Dropped half-way, the record may be written all the same, or not.
    ///
    /// # Errors
    /// Where it was not written, or nobody knows whether it was. The act that it is about must not be done.
    pub async fn record(&self, subject: Subject) -> Result<Record, AuditError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Idle { log, queue }) = idle {
            drop(tokio::spawn(write(log, queue)));
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            subject: subject.bounded(),
            answer,
        };
        self.queue.send(waiting).await.map_err(|_| AuditError::Stopped)?;
        answered.await.unwrap_or(Err(AuditError::Stopped))
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Journal").finish_non_exhaustive()
    }
}

/// Writes what waits until nobody can write any more.
async fn write(log: Arc<dyn AuditLog>, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::with_capacity(TOGETHER);
    while queue.recv_many(&mut waiting, TOGETHER).await > 0 {
        let (subjects, answers): (Vec<Subject>, Vec<_>) =
            waiting.drain(..).map(|Waiting { subject, answer }| (subject, answer)).unzip();
        let appended = match log.append(&subjects).await {
            Ok(records) if records.len() == answers.len() => Ok(records),
            Ok(records) => Err(StoreError::Corrupt(format!(
                "{} records were written of {}",
                records.len(),
                answers.len()
            ))),
            Err(error) => Err(error),
        };
        // Whoever is not there any more has given up the call; his record stands.
        match appended {
            Ok(records) => answers
                .into_iter()
                .zip(records)
                .for_each(|(answer, record)| drop(answer.send(Ok(record)))),
            Err(error) => {
                tracing::error!(%error, calls = answers.len(), "records of the audit log were not written; their calls are refused");
                let refused = AuditError::NotWritten(error);
                answers.into_iter().for_each(|answer| drop(answer.send(Err(refused.clone()))));
            }
        }
    }
}

#[cfg(test)]
mod tests;
