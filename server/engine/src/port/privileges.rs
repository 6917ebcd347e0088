//! The rights of a role in a target's own database, which the database itself enforces: a last wall behind everything that the engine
//! checks. A database that knows no roles has no such port.

use async_trait::async_trait;

use super::TargetError;
use crate::model::privilege::{Access, Feature, Needs};

/// Looks at rights; changes none.
#[async_trait]
pub trait Privileges: Send + Sync {
    /// Says what the needs are called in this database, and which of them the role has. Without a name it is the role of the target itself.
    /// `chosen` are the features whose statements the script has in effect.
    ///
    /// # Errors
    /// Where the database cannot be reached. That something may not be read is no error: it is a right that is missing.
    async fn access(&self, needs: &Needs, role: Option<&str>, chosen: &[Feature]) -> Result<Access, TargetError>;
}
