//! Somebody should be told.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Level;

/// Id of an alert, sortable by time; each time that a condition is raised anew makes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlertId(pub Uuid);

impl AlertId {
    /// A new id (UUID version 7).
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for AlertId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for AlertId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for AlertId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// The condition holds, not yet for long enough. Nobody is told.
    Pending,
    /// It held for long enough; people were told.
    Raised,
    /// It ended; people were told.
    Resolved,
}

impl AlertState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Raised, Self::Resolved];

    /// Name in stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Raised => "raised",
            Self::Resolved => "resolved",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// The value that was measured, the one at which the alert begins, and the one at which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Measured last.
    pub value: f64,
    /// Begins here.
    pub raise_at: f64,
    /// Ends here; nearer to what is well, so that a value on the border does not raise one alert after another.
    pub clear_at: f64,
}

/// A condition that held, or holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its id.
    pub id: AlertId,
    /// Name of the rule, such as `disk_nearly_full`.
    pub rule: String,
    /// Target; empty for what is about a server.
    pub target: String,
    /// Table, schedule, operation, folder or server; empty for the target as a whole.
    pub object: String,
    /// How much it matters.
    pub level: Level,
    /// Where it stands.
    pub state: AlertState,
    /// What was measured; `None` where the condition is an event.
    pub threshold: Option<Threshold>,
    /// What is the matter, in one sentence with its numbers.
    pub detail: String,
    /// What to do, in one sentence.
    pub remediation: String,
    /// Since when the condition holds.
    pub since: Timestamp,
    /// When people were told.
    pub raised_at: Option<Timestamp>,
    /// When it was looked at last.
    pub seen_at: Timestamp,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// Who has said that somebody looks after it, when, and with which note.
    pub acknowledged: Option<(String, Timestamp, String)>,
}

impl Alert {
    /// The same for the same condition: `rule/target/object`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.rule, self.target, self.object)
    }
}

/// What a look at the conditions changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertTransition {
    /// It is noted, and not told of yet.
    Begun,
    /// People are to be told that it began.
    Raised,
    /// It goes on, and its numbers changed.
    Held,
    /// It goes on, much as it was: no change that anybody is told of.
    Seen,
    /// It is over; people are to be told, since they were told of its begin.
    Resolved,
    /// It was over before anybody was told.
    Passed,
}
