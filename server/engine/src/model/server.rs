//! The servers that work with one control store, and the switch that they all obey.

use jiff::{SignedDuration, Timestamp};

/// A server, as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its id, new with every start: the holder in leases.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Name of its machine.
    pub host: String,
    /// Its version.
    pub version: String,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
}

/// A server, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSeen {
    /// What it says of itself.
    pub server: ServerInfo,
    /// When it last gave a sign of life, by the store's clock.
    pub seen_at: Timestamp,
    /// Whether that is recent.
    pub alive: bool,
    /// By how much its clock was ahead of the store's then; negative where it was behind.
    pub clock_ahead: SignedDuration,
}

/// Whether slots are decided at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerSwitch {
    /// Whether they are.
    pub running: bool,
    /// Why not; empty while they are.
    pub note: String,
    /// Who said so; empty where nobody did.
    pub by: String,
    /// When.
    pub at: Option<Timestamp>,
}

impl Default for SchedulerSwitch {
    /// On, and nobody ever touched it.
    fn default() -> Self {
        Self {
            running: true,
            note: String::new(),
            by: String::new(),
            at: None,
        }
    }
}
