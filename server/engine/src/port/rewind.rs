//! A whole database back to what a backup holds: schema and rows, with whatever came since gone. Which backup, whether anybody agreed,
//! and the backup of the present state in between are the engine's matter.
//!
//! ```text
//! survey (for the plan) .. freeze ──► the present state is dumped and sealed ──► rewind
//!                            │                                                     └ the same transaction: drop, make, copy, count,
//!                            └ a transaction: fence, every write stopped             ledger rows, journal row, lease, COMMIT
//! ```
//!
//! From the freeze to the commit nobody else writes, so that no row is in neither the backup of the present state nor the one that is
//! restored. Whoever dies in between leaves the database as it was.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;

use super::{
    maintenance::{MaintenanceError, Watch},
    target::Claim,
};
use crate::model::{LedgerEntry, TableCount};

/// How writes are to be stopped.
#[derive(Debug, Clone)]
pub struct FreezeOrder {
    /// The right to do it.
    pub claim: Claim,
    /// The dump that the database is to become, already checked against its checksum.
    pub path: PathBuf,
    /// Longest wait for locks in one try.
    pub lock_timeout: Duration,
    /// Most tries.
    pub lock_tries: u32,
}

/// What a frozen database is to become.
#[derive(Debug, Clone)]
pub struct RewindOrder {
    /// Every table of the dump, with its rows.
    pub tables: Vec<TableCount>,
    /// What the adapter noted when it made the dump.
    pub notes: serde_json::Value,
    /// The ledger of migrations as the dump's schema has them.
    pub ledger: Vec<LedgerEntry>,
    /// Principal on whose behalf.
    pub by: String,
    /// Step of the run that the journal row is of.
    pub step: u32,
}

/// What became of it. It is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewound {
    /// Tables that are there now, with their rows.
    pub tables: Vec<TableCount>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Brings a whole database back.
#[async_trait]
pub trait Rewinder: Send + Sync {
    /// Looks whether everything that the database holds now can be replaced, and counts the rows of each table. Changes nothing.
    ///
    /// # Errors
    /// `Unsupported`, which names what stands in the way; `Tool`.
    async fn survey(&self) -> Result<Vec<TableCount>, MaintenanceError>;

    /// Stops every write to the database's own tables until what is returned is dropped. Readers go on.
    ///
    /// # Errors
    /// `Blocked`, which names who writes; class `Fenced`.
    async fn freeze(&self, order: &FreezeOrder, watch: &Watch) -> Result<Box<dyn Frozen>, MaintenanceError>;
}

/// A database that nobody else writes to. Dropped, it is as it was, and free.
#[async_trait]
pub trait Frozen: Send {
    /// Replaces everything, in the transaction that has stopped the writes: it checks fence and lease, and writes the ledger of
    /// migrations and a journal row (batch 1 of the step). dbkeep's journal, fences and leases stay as they are.
    ///
    /// # Errors
    /// `Blocked`, which names who reads; `Damaged`; `Unsupported`; `Stopped`. Class `Lost` leaves it unknown whether it took effect:
    /// the journal tells.
    async fn rewind(self: Box<Self>, order: &RewindOrder, watch: &Watch) -> Result<Rewound, MaintenanceError>;
}
