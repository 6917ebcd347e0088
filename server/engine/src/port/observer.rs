//! What looks at a target's health.

use std::time::Duration;

use async_trait::async_trait;

use super::TargetError;
use crate::model::monitor::{Depth, Snapshot};

/// Looks at a target, changes nothing in it, and holds nothing that others wait for: each statement has a time limit and a limit for
/// locks, and what cannot be read within them is a gap of the snapshot.
#[async_trait]
pub trait Observer: Send + Sync {
    /// A snapshot. With [`Depth::Quick`] no statement reads a user's table. What cannot be read (no permission, no extension, a table
    /// that was dropped meanwhile) is a gap, and never an error.
    ///
    /// # Errors
    /// Only where the target cannot be reached, or did not answer at all within `limit`: also a SQLite file that a writer keeps from
    /// everybody else. A file that is damaged has a snapshot that says so.
    async fn observe(&self, depth: Depth, limit: Duration) -> Result<Snapshot, TargetError>;
}
