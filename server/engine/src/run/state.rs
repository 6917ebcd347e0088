//! The states of a run and every edge between them. State changes happen nowhere else: the store asks [`next`] before it
//! writes a state.

use crate::model::RunState::{self, Cancelled, Cancelling, Failed, Interrupted, PartiallySucceeded, Queued, Running, Succeeded};

/// What moves a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A server takes it up.
    Claim,
    /// Somebody asks to cancel it.
    Cancel,
    /// A batch boundary is reached after that.
    Stop,
    /// Its server stops, dies, or cannot reach the target.
    Interrupt,
    /// Everything planned is done.
    Succeed,
    /// It ends with some of it done.
    FinishPartly,
    /// It cannot go on.
    Fail,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 7] = [
        Self::Claim,
        Self::Cancel,
        Self::Stop,
        Self::Interrupt,
        Self::Succeed,
        Self::FinishPartly,
        Self::Fail,
    ];
}

/// Every allowed edge; what is not here is refused.
pub const TRANSITIONS: &[(RunState, Trigger, RunState)] = &[
    // A free server takes the oldest run that nobody works on.
    (Queued, Trigger::Claim, Running),
    // Nothing was done, so there is no boundary to wait for.
    (Queued, Trigger::Cancel, Cancelled),
    // A dry run is done with its plan; no server needs to work on it.
    (Queued, Trigger::Succeed, Succeeded),
    // Its approval did not come in time.
    (Queued, Trigger::Fail, Failed),
    // The batch in flight ends first: a transaction is either committed with its journal row or leaves no trace.
    (Running, Trigger::Cancel, Cancelling),
    // The lease lapsed or was given back; the journal says where to go on.
    (Running, Trigger::Interrupt, Interrupted),
    (Running, Trigger::Succeed, Succeeded),
    (Running, Trigger::FinishPartly, PartiallySucceeded),
    (Running, Trigger::Fail, Failed),
    // Asking twice is asking once.
    (Cancelling, Trigger::Cancel, Cancelling),
    (Cancelling, Trigger::Stop, Cancelled),
    // The server died before the boundary; the next attempt finds the request and ends at once.
    (Cancelling, Trigger::Interrupt, Interrupted),
    // The work ended before the request was seen.
    (Cancelling, Trigger::Succeed, Succeeded),
    (Cancelling, Trigger::FinishPartly, PartiallySucceeded),
    (Cancelling, Trigger::Fail, Failed),
    // Another server, or the same one after its restart.
    (Interrupted, Trigger::Claim, Running),
    // Its last COMMIT may have taken effect without a reply: the next attempt reads the journal, then ends the run.
    (Interrupted, Trigger::Cancel, Interrupted),
];

/// The state that a trigger leads to; `None` where the edge does not exist.
#[must_use]
pub fn next(from: RunState, trigger: Trigger) -> Option<RunState> {
    TRANSITIONS
        .iter()
        .find(|edge| edge.0 == from && edge.1 == trigger)
        .map(|edge| edge.2)
}

/// Whether some trigger leads from one state to the other.
#[must_use]
pub fn permits(from: RunState, to: RunState) -> bool {
    TRANSITIONS.iter().any(|edge| edge.0 == from && edge.2 == to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_trigger_has_one_answer() {
        for from in RunState::ALL {
            for trigger in Trigger::ALL {
                let edges = TRANSITIONS.iter().filter(|edge| edge.0 == from && edge.1 == trigger).count();
                assert!(edges <= 1, "{from:?} {trigger:?} is ambiguous");
                if from.is_final() {
                    assert_eq!(next(from, trigger), None, "{from:?} is an end, yet {trigger:?} leaves it");
                }
            }
        }
    }

    #[test]
    fn every_state_is_reached_and_every_living_state_can_end() {
        for state in RunState::ALL {
            assert!(
                state == Queued || TRANSITIONS.iter().any(|edge| edge.2 == state),
                "{state:?} is never entered"
            );
            let mut reached = vec![state];
            while let Some(edge) = TRANSITIONS
                .iter()
                .find(|edge| reached.contains(&edge.0) && !reached.contains(&edge.2))
            {
                reached.push(edge.2);
            }
            assert!(reached.iter().any(|state| state.is_final()), "{state:?} can never end");
        }
    }
}
