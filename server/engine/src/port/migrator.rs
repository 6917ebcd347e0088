//! Executes migrations on a target, and keeps their ledger there. What is executed, in which order and why is the engine's matter;
//! here one group of statements takes effect together with its ledger row, or not at all.
//!
//! ```text
//! lease ──► execute(group 1) ──► execute(group 2) ──► … ──► unlease
//!             │ atomic: BEGIN, timeouts, fence, lease, statements, checks, ledger row, COMMIT
//!             └ single: ledger row "in doubt", the statement, ledger row "done"
//! ```
//!
//! The lease is a row in the target, taken and prolonged by short statements, so that it holds behind a pooler that gives every
//! transaction another session. A group checks it, with the fence, in its own transaction right before it commits.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::target::{Claim, TargetError};
use crate::model::{Fingerprint, ForeignLedger, LedgerEntry, RowsLost, Script, Statement, StatementReport, TableMeasure};

/// A migration could not be executed.
#[derive(Debug, thiserror::Error)]
pub enum MigratorError {
    /// Somebody else migrates this target.
    #[error("{holder} migrates this target (run {run}) until {until} at least")]
    LeaseHeld {
        /// Who.
        holder: String,
        /// Its run.
        run: String,
        /// When its lease ends, by the target's clock.
        until: String,
    },
    /// A statement failed. Nothing of its group took effect, unless the group is not atomic.
    #[error("{message}")]
    Statement {
        /// Position in the group, from 0.
        index: usize,
        /// Offset of what is wrong in the statement's text, characters from 0; `None` where the database does not tell.
        offset: Option<usize>,
        /// The database's own code; may be empty.
        code: String,
        /// What the database said, without lines of its source.
        message: String,
        /// Whether a lock was waited for in vain, or others were in the way: the same again may work.
        retryable: bool,
        /// Who held the lock that was waited for, readable; empty where nobody knows.
        blockers: Vec<String>,
    },
    /// Rows vanished from tables that no statement of the group deletes from. Nothing of the group took effect.
    #[error("rows would be lost: {}", lost.iter().map(|table| format!("{} from {} to {}", table.table, table.before, table.after)).collect::<Vec<_>>().join(", "))]
    RowsLost {
        /// The tables.
        lost: Vec<RowsLost>,
    },
    /// Rows violate foreign keys that they did not violate before. Nothing of the group took effect.
    #[error("foreign keys would be violated: {}", violations.join(", "))]
    Violations {
        /// Which, readable.
        violations: Vec<String>,
    },
    /// A check did not hold. Nothing of the group took effect.
    #[error("check does not hold: {check}: {found}")]
    Check {
        /// The check.
        check: String,
        /// What it returned, or what the database said to it.
        found: String,
    },
    /// The ledger row of the migration is not what the order expects: somebody else was here meanwhile.
    #[error("{problem}")]
    LedgerMoved {
        /// What is there.
        problem: String,
    },
    /// It was told to stop. Nothing of an atomic group took effect; of a single statement it is in doubt.
    #[error("stopped")]
    Stopped,
    /// The database said no.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// How a group tells of itself.
#[derive(Debug, Clone)]
pub enum Told {
    /// A statement begins: its position in the group, from 0.
    Begun(usize),
    /// A statement ended. `statement` is its position in the group, from 1. It counts only when the group is committed.
    Ended(StatementReport),
}

/// How a group tells of itself and hears of its end.
#[derive(Debug, Clone)]
pub struct Follow {
    /// What it tells; nobody needs to listen.
    pub told: mpsc::UnboundedSender<Told>,
    /// Cancelled when it has to stop; it then ends within about a second.
    pub stop: CancellationToken,
}

/// Judges whether somebody else was at a migration meanwhile, by its row in dbkeep's ledger and by the ledgers of other tools, which are
/// read where nothing can come between: on SQLite under the write lock, on PostgreSQL in the group's transaction, before its first
/// statement and right before its commit. What the script itself wrote into such a ledger is left out.
#[derive(Clone)]
pub struct Elsewhere(Arc<Judge>);

/// Why a migration is not what the order takes it for, by its row and the ledgers of other tools.
type Judge = dyn Fn(Option<&LedgerEntry>, &[ForeignLedger]) -> Option<String> + Send + Sync;

impl Elsewhere {
    /// One that says why by a sentence, or nothing.
    pub fn new(judge: impl Fn(Option<&LedgerEntry>, &[ForeignLedger]) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// Looks at what the ledgers say.
    ///
    /// # Errors
    /// `LedgerMoved`.
    pub fn judge(&self, before: Option<&LedgerEntry>, ledgers: &[ForeignLedger]) -> Result<(), MigratorError> {
        match (self.0)(before, ledgers) {
            Some(problem) => Err(MigratorError::LedgerMoved { problem }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Elsewhere")
    }
}

/// A group of statements to be executed.
#[derive(Debug, Clone)]
pub struct GroupOrder {
    /// The right to do it.
    pub claim: Claim,
    /// Whether it is one transaction.
    pub atomic: bool,
    /// The statements; one where it is not atomic.
    pub statements: Vec<Statement>,
    /// Statements of the script before this group that set its session (`SET search_path`): executed again before it, since every
    /// group has a session of its own. They are not counted and not told.
    pub session: Vec<Statement>,
    /// SQLite: foreign keys are off meanwhile, `foreign_key_check` finds no new violation, and no child table loses rows.
    pub foreign_keys_off: bool,
    /// Longest wait for a lock.
    pub lock_timeout: Duration,
    /// Longest time of one statement; `None` for no limit.
    pub statement_timeout: Option<Duration>,
    /// Whether it looks, after each statement, which locks it took and which tables it wrote anew. That costs two queries a
    /// statement; rehearsals pay them.
    pub observe: bool,
    /// Queries that must hold right before the commit; for a group that is not atomic, after it: where one does not hold
    /// then, the ledger row counts the statement, stays in work, and tells the problem.
    pub checks: Vec<String>,
    /// A script that fails where the migration is not in effect: run after the checks, as they are, and always taken back.
    pub verify: Option<Script>,
    /// What the ledgers of other tools must not say; `None` where nobody else can be at the database.
    pub elsewhere: Option<Elsewhere>,
    /// Ledger row that has to be there before: its state and statements done, as they were read; `None` for none.
    pub before: Option<LedgerEntry>,
    /// Ledger row when it is done. `rows` and `duration_ms` are those of the groups before; the group adds its own.
    pub after: LedgerEntry,
}

/// What a group did. It is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDone {
    /// Its statements; positions in the group, from 1.
    pub statements: Vec<StatementReport>,
    /// The ledger row that was written.
    pub entry: LedgerEntry,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// State of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexState {
    /// There is none of that name.
    Absent,
    /// It is there and answers queries.
    Valid,
    /// It is there, costs every write, and answers no query.
    Invalid,
}

/// Executes migrations on a target.
#[async_trait]
pub trait Migrator: Send + Sync {
    /// dbkeep's ledger; empty where there is none. Makes nothing.
    async fn ledger(&self) -> Result<Vec<LedgerEntry>, TargetError>;

    /// Ledgers of other tools. Changes nothing.
    async fn foreign_ledgers(&self) -> Result<Vec<ForeignLedger>, TargetError>;

    /// Takes the target's lease for migrations, or prolongs it, for `term` from now by the target's clock; makes the ledger where it
    /// is missing. A lease of the same run with a smaller fence is taken over.
    ///
    /// Where a database has one writer at a time (no `Capability::ConcurrentWriters`), it cannot be prolonged while a group works: that
    /// fails with class `LockTimeout`, and is no loss. Nobody else can take it meanwhile either, and the group prolongs it as it
    /// commits, by the term that it was taken for.
    ///
    /// # Errors
    /// `LeaseHeld`; class `Fenced` where a larger fence of the same run is there.
    async fn lease(&self, claim: Claim, holder: &str, term: Duration) -> Result<(), MigratorError>;

    /// Gives the lease back; that of somebody else stays.
    async fn unlease(&self, claim: Claim) -> Result<(), TargetError>;

    /// Executes a group. Dropping the future stops it as [`Follow::stop`] does, only later. Each group has a session of its own:
    /// what a script sets (`SET search_path`) ends with its group.
    ///
    /// # Errors
    /// Any [`MigratorError`]. Class `Lost` leaves it unknown whether the group took effect: [`Migrator::ledger`] tells.
    async fn execute(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError>;

    /// Writes ledger rows outright, in one transaction under the lease and the fence; each as its `before` is in the ledger.
    async fn note(&self, claim: Claim, entries: &[(Option<LedgerEntry>, LedgerEntry)]) -> Result<(), MigratorError>;

    /// Looks whether a check holds, without being able to write: `Ok(None)`, or what it found.
    async fn check(&self, query: &str) -> Result<Option<String>, TargetError>;

    /// Runs statements that fail where something is not as it should be, in a transaction that is always taken back.
    ///
    /// # Errors
    /// `Statement` where one fails, or whatever the connection says.
    async fn verify(&self, statements: &[Statement]) -> Result<(), MigratorError>;

    /// How large tables are, by the names that statements use.
    async fn measure(&self, tables: &[String]) -> Result<Vec<TableMeasure>, TargetError>;

    /// Schema and data. Reads every row.
    async fn fingerprint(&self) -> Result<Fingerprint, TargetError>;

    /// Constraints that rows violate now, although the schema declares them: readable.
    async fn violations(&self) -> Result<Vec<String>, TargetError>;

    /// The index that a statement makes or drops by itself: its full name, as SQL, and its state now. Of a statement that builds
    /// indexes anew it is what an interrupted one left behind: full names with commas between them, invalid. `None` where the
    /// statement makes and drops no index, does not name it, or left nothing. `session` is what the script set before it
    /// ([`GroupOrder::session`]), since names mean what its session makes of them. Changes nothing.
    async fn index_of(&self, statement: &Statement, session: &[Statement]) -> Result<Option<(String, IndexState)>, TargetError>;

    /// Drops an index that is not valid, without blocking anybody where the database can; one that is valid or absent stays. The name
    /// is one of [`Migrator::index_of`].
    async fn drop_invalid_index(&self, claim: Claim, full_name: &str) -> Result<(), MigratorError>;
}

/// A file of a migrations folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path relative to the folder, with `/`.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Where a target's migrations lie.
#[async_trait]
pub trait MigrationFolder: Send + Sync {
    /// The folder, as a person knows it.
    fn place(&self) -> String;

    /// Its files, at most two folders deep, sorted by path; hidden ones left out.
    async fn files(&self) -> Result<Vec<SourceFile>, std::io::Error>;
}

/// Proofs of down scripts, in the control store.
#[async_trait]
pub trait Proofs: Send + Sync {
    /// Keeps proofs of a target; a newer one of the same migration and the same scripts replaces the older.
    async fn put_proofs(&self, target: &str, proofs: &[crate::model::Proof]) -> Result<(), super::StoreError>;

    /// Proofs of a target, newest first.
    async fn proofs(&self, target: &str) -> Result<Vec<crate::model::Proof>, super::StoreError>;
}
