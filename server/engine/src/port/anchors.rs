//! Where heads of the audit log are kept that whoever can write the control store cannot change: a file on another disk or machine.

use std::fmt;

use async_trait::async_trait;

use crate::audit::Anchor;

/// Anchors cannot be kept or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct AnchorError {
    /// Which file, and which line of it.
    pub place: String,
    /// What is wrong.
    pub problem: String,
}

/// A file of anchors, to which is only added.
#[async_trait]
pub trait AnchorFile: Send + Sync + fmt::Debug {
    /// Adds an anchor; it is on the disk when this returns.
    async fn keep(&self, anchor: &Anchor) -> Result<(), AnchorError>;

    /// All of them, in the order in which they were added; none where there is no file yet.
    ///
    /// # Errors
    /// Where a line is none: a file that somebody has changed proves nothing.
    async fn read(&self) -> Result<Vec<Anchor>, AnchorError>;
}
