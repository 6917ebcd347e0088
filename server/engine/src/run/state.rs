//! The states of a run and every edge between them. State changes happen nowhere else: the store asks [`next`] before it
//! writes a state.

use crate::model::RunState::{
    self, Cancelled, Cancelling, Failed, Interrupted, PartiallySucceeded, Paused, Pausing, Queued, Running, Succeeded,
};

/// What moves a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A server takes it up.
    Claim,
    /// Somebody asks to cancel it.
    Cancel,
    /// Somebody asks to pause it.
    Pause,
    /// Somebody asks to let it go on.
    Resume,
    /// A batch boundary is reached after a request to cancel or to pause.
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
    pub const ALL: [Self; 9] = [
        Self::Claim,
        Self::Cancel,
        Self::Pause,
        Self::Resume,
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
    // Nobody works on it, so that nothing is in flight; it keeps its place in the queue of its tables.
    (Queued, Trigger::Pause, Paused),
    // It is not paused; asking for what is so changes nothing.
    (Queued, Trigger::Resume, Queued),
    // A dry run is done with its plan; no server needs to work on it.
    (Queued, Trigger::Succeed, Succeeded),
    // Its approval did not come in time.
    (Queued, Trigger::Fail, Failed),
    // The batch in flight ends first: a transaction is either committed with its journal row or leaves no trace.
    (Running, Trigger::Cancel, Cancelling),
    // As with a request to cancel: the batch in flight ends first.
    (Running, Trigger::Pause, Pausing),
    (Running, Trigger::Resume, Running),
    // The lease lapsed or was given back; the journal says where to go on.
    (Running, Trigger::Interrupt, Interrupted),
    (Running, Trigger::Succeed, Succeeded),
    (Running, Trigger::FinishPartly, PartiallySucceeded),
    (Running, Trigger::Fail, Failed),
    // Asking twice is asking once.
    (Pausing, Trigger::Pause, Pausing),
    // The boundary was not reached yet; the attempt goes on as if nobody had asked.
    (Pausing, Trigger::Resume, Running),
    // Who wants it to end does not care that it was to pause.
    (Pausing, Trigger::Cancel, Cancelling),
    // The attempt has claimed the target and read its journal: nothing of this run can take effect any more.
    (Pausing, Trigger::Stop, Paused),
    // The server died before the boundary; the next attempt finds the request, reads the journal, and pauses.
    (Pausing, Trigger::Interrupt, Interrupted),
    // The work ended before the request was seen.
    (Pausing, Trigger::Succeed, Succeeded),
    (Pausing, Trigger::FinishPartly, PartiallySucceeded),
    (Pausing, Trigger::Fail, Failed),
    (Paused, Trigger::Pause, Paused),
    // Any server may take it up again.
    (Paused, Trigger::Resume, Queued),
    // Nothing is in flight: it was queued when it was paused, or an attempt came to a boundary.
    (Paused, Trigger::Cancel, Cancelled),
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
    // For the same reason it is not paused at once, but by the next attempt.
    (Interrupted, Trigger::Pause, Interrupted),
    (Interrupted, Trigger::Resume, Interrupted),
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
    fn pausing_and_cancelling_have_an_answer_wherever_they_make_sense() {
        for from in RunState::ALL.into_iter().filter(|state| !state.is_final()) {
            assert!(next(from, Trigger::Cancel).is_some(), "{from:?} cannot be cancelled");
            for trigger in [Trigger::Pause, Trigger::Resume] {
                assert_eq!(next(from, trigger).is_some(), from != Cancelling, "{from:?} {trigger:?}");
            }
            // A lease may lapse wherever somebody holds it, and nowhere else.
            assert_eq!(next(from, Trigger::Interrupt).is_some(), from.is_held(), "{from:?}");
            assert_eq!(
                next(from, Trigger::Claim).is_some(),
                matches!(from, Queued | Interrupted),
                "{from:?}"
            );
        }
        assert_eq!(next(Paused, Trigger::Resume), Some(Queued), "a server has to take it up");
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
