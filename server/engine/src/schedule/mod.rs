//! When schedules fire, and what becomes of every slot: pure, with no clock, no store and no thread of its own. `now` always comes
//! in, so that every server that looks at the same schedule at the same instant says the same.
//!
//! ```text
//! CronFields + zone -> cron::Cron -> occurrences -> calendar (exclusions) -> jitter -> decide -> SlotRecord
//! ```
//!
//! Called by the service that creates and previews schedules ([`mod@validate`], [`cron`]) and by the loop that fires them ([`mod@decide`]).

pub mod calendar;
pub mod clock;
pub mod cron;
pub mod decide;
mod email;
mod jitter;
pub mod validate;
mod zone;

use std::fmt;

pub use calendar::Exclusion;
pub use clock::{CLOCK_BOUND, ClockAlarm, ClockReading, ClockWatch};
pub use cron::{Cron, Occurrence, Shift};
pub use decide::{Decision, Firing, PreviousRun, Start, decide};
pub use jitter::jitter_of;
pub use validate::{Known, KnownChannel, validate};
pub use zone::zone;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Its path from where it was looked at, such as `minute` or `notify.recipients[1]`.
    pub field: String,
    /// The offending text, what was expected, and what may have been meant.
    pub problem: String,
}

impl FieldProblem {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The same field, seen from further out.
    pub(crate) fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            problem: self.problem,
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.problem)
    }
}
