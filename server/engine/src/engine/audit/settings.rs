//! What the operator of a server can set about the audit log.

use std::{sync::Arc, time::Duration};

use crate::port::AnchorFile;

const DAY: Duration = Duration::from_secs(86_400);

/// How long records are kept, and where the head is anchored.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// File that gets the head.
    pub anchor_file: Option<Arc<dyn AnchorFile>>,
    /// Channel that gets the head.
    pub anchor_channel: Option<String>,
    /// How often, where there is either.
    pub anchor_every: Duration,
    /// How long records are kept; only whole segments go, and never the newest.
    pub retention: Duration,
    /// A segment is closed with so many records ..
    pub segment_records: u64,
    /// .. or when its first record is so old.
    pub segment_age: Duration,
    /// How often it is looked after.
    pub interval: Duration,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            anchor_file: None,
            anchor_channel: None,
            anchor_every: DAY,
            retention: 730 * DAY,
            segment_records: 10_000,
            segment_age: 30 * DAY,
            interval: Duration::from_secs(60),
        }
    }
}

impl AuditSettings {
    /// Whether the head is anchored anywhere.
    #[must_use]
    pub fn anchors(&self) -> bool {
        self.anchor_file.is_some() || self.anchor_channel.is_some()
    }
}
