//! JSON of decisions.
//!
//! Owns the shape `decision`. Called by `cmd/decisions.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// An entry of the record of decisions.
#[derive(Debug, Serialize)]
pub(crate) struct Decision<'a> {
    id: &'a str,
    time: Option<String>,
    principal: &'a str,
    peer: Option<&'a str>,
    /// "run", "approve", "deny", "undo", "cancel", "migrate", "rollback", "repair", "baseline", "schedule", "test_channel" or
    /// "retry_delivery".
    act: String,
    target: Option<&'a str>,
    run_id: Option<&'a str>,
    plan_id: Option<&'a str>,
    /// "allowed" or "refused".
    outcome: String,
    /// Name of an `ErrorReason`; null where it was allowed.
    reason: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> From<&'a proto::Decision> for Decision<'a> {
    fn from(decision: &'a proto::Decision) -> Self {
        Self {
            id: &decision.id,
            time: super::time(decision.time.as_ref()),
            principal: &decision.principal,
            peer: super::text(&decision.peer),
            act: super::decision_act(decision.act()),
            target: super::text(&decision.target),
            run_id: super::text(&decision.run_id),
            plan_id: super::text(&decision.plan_id),
            outcome: super::decision_outcome(decision.outcome()),
            reason: super::text(&decision.reason),
            detail: super::text(&decision.detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_and_what_it_leaves_out() {
        let decision = proto::Decision {
            id: "d1".into(),
            time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            principal: "ann".into(),
            act: proto::DecisionAct::Approve.into(),
            run_id: "r1".into(),
            outcome: proto::DecisionOutcome::Refused.into(),
            reason: "APPROVAL_REFUSED".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Decision::from(&decision)).unwrap(),
            concat!(
                r#"{"id":"d1","time":"1970-01-01T00:00:00Z","principal":"ann","peer":null,"act":"approve","target":null,"#,
                r#""run_id":"r1","plan_id":null,"outcome":"refused","reason":"APPROVAL_REFUSED","detail":null}"#,
            )
        );
    }
}
