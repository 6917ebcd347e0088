//! The audit log as callers see it: the way into it, looking at it, verifying and exporting it; and the task that looks after it.
//!
//! `walk` reads a log from its beginning to its end, `keeper` seals, removes and anchors. What is a record and what proves it is
//! [`crate::audit`]'s, what is kept is the store's ([`crate::port::AuditLog`]). Called by `AuditService`, and, for its records, by whatever stands before
//! every call.

mod keeper;
mod settings;
mod walk;

use std::sync::Arc;

pub use keeper::{Keeper, Looked};
pub use settings::AuditSettings;
pub use walk::{Check, Checked, Export, Exported};

use super::Engine;
use crate::{
    EngineError,
    access::Scope,
    audit::{Anchor, AuditError, Journal, Record},
    port::{AuditFilter, StoreError},
};

impl From<AuditError> for EngineError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::NotWritten(error) => Self::Store(error),
            AuditError::Stopped => Self::ShuttingDown,
        }
    }
}

impl Engine {
    /// The way into the audit log. Whoever records here waits until the record is durable; cheap to clone.
    #[must_use]
    pub fn audit(&self) -> &Journal {
        &self.context.audit
    }

    /// Records, newest first, with numbers below `before` where given.
    ///
    /// # Errors
    /// `Store`.
    pub async fn audit_records(&self, filter: &AuditFilter, before: Option<u64>, limit: u32) -> Result<Vec<Record>, EngineError> {
        Ok(self.context.store.audit_records(filter, before, limit).await?)
    }

    /// A record by its number, for a caller who sees these targets.
    ///
    /// # Errors
    /// `UnknownAuditRecord`, also where the caller does not see its target; `Store`.
    pub async fn audit_record(&self, number: u64, scope: &Scope) -> Result<Record, EngineError> {
        let found = self.context.store.audit_record(number).await?;
        found
            .filter(|record| scope.covers(&record.subject.target))
            .ok_or(EngineError::UnknownAuditRecord { number })
    }

    /// Begins to verify the whole log, against anchors that the caller kept, those of the store and those of the anchor file.
    ///
    /// # Errors
    /// `Store`.
    pub async fn check_audit(&self, anchors: Vec<Anchor>) -> Result<Check, EngineError> {
        let file = self.context.settings.audit.anchor_file.clone();
        Ok(Check::begin(Arc::clone(&self.context.store), file, anchors).await?)
    }

    /// Begins to read the whole log for somebody who takes it away.
    ///
    /// # Errors
    /// `AuditLogBroken` where there is what cannot be read, `Store`.
    pub async fn export_audit(&self) -> Result<Export, EngineError> {
        Export::begin(Arc::clone(&self.context.store)).await
    }

    /// The task that seals, removes and anchors.
    #[must_use]
    pub fn audit_keeper(&self) -> Keeper {
        Keeper::new(self.clone())
    }

    async fn store_now(&self) -> Result<jiff::Timestamp, StoreError> {
        Ok(self.context.store.pulse().await?.now)
    }
}
