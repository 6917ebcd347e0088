//! Decisions, and the filter over them.

use dbkeep_engine::{
    model::{Act, Decision, Outcome, PlanId, RunId},
    port::DecisionFilter,
};
use dbkeep_proto::v1;

use super::time;
use crate::grpc::validate::Check;

/// An entry of the record.
pub(in crate::grpc) fn decision(decision: Decision) -> v1::Decision {
    v1::Decision {
        id: decision.id.to_string(),
        time: Some(time::timestamp(decision.at)),
        principal: decision.caller.principal,
        peer: decision.caller.peer,
        act: act(decision.act).into(),
        target: decision.target,
        run_id: decision.run.map(|run| run.to_string()).unwrap_or_default(),
        plan_id: decision.plan.map(|plan| plan.to_string()).unwrap_or_default(),
        outcome: outcome(decision.outcome).into(),
        reason: decision.reason,
        detail: decision.detail,
    }
}

fn act(act: Act) -> v1::DecisionAct {
    match act {
        Act::Run => v1::DecisionAct::Run,
        Act::Approve => v1::DecisionAct::Approve,
        Act::Deny => v1::DecisionAct::Deny,
        Act::Undo => v1::DecisionAct::Undo,
        Act::Cancel => v1::DecisionAct::Cancel,
        Act::Migrate => v1::DecisionAct::Migrate,
        Act::Rollback => v1::DecisionAct::Rollback,
        Act::Repair => v1::DecisionAct::Repair,
        Act::Baseline => v1::DecisionAct::Baseline,
        Act::Schedule => v1::DecisionAct::Schedule,
        Act::TestChannel => v1::DecisionAct::TestChannel,
        Act::RetryDelivery => v1::DecisionAct::RetryDelivery,
        Act::AcknowledgeAlert => v1::DecisionAct::AcknowledgeAlert,
    }
}

fn outcome(outcome: Outcome) -> v1::DecisionOutcome {
    match outcome {
        Outcome::Allowed => v1::DecisionOutcome::Allowed,
        Outcome::Refused => v1::DecisionOutcome::Refused,
    }
}

/// The filter of a list; what means nothing is noted in `check`.
pub(in crate::grpc) fn filter(filter: &v1::DecisionFilter, check: &mut Check) -> DecisionFilter {
    let mut id = |field: &str, text: &str| {
        if text.is_empty() {
            return None;
        }
        let id = uuid::Uuid::try_parse(text).ok();
        if id.is_none() {
            check.refuse(field, format!("is {text:?}; expected an id, or nothing for all"));
        }
        id
    };
    let (run, plan) = (id("filter.run_id", &filter.run_id), id("filter.plan_id", &filter.plan_id));
    let outcome = match v1::DecisionOutcome::try_from(filter.outcome) {
        Ok(v1::DecisionOutcome::Unspecified) => None,
        Ok(v1::DecisionOutcome::Allowed) => Some(Outcome::Allowed),
        Ok(v1::DecisionOutcome::Refused) => Some(Outcome::Refused),
        Err(_) => {
            let number = filter.outcome;
            check.refuse(
                "filter.outcome",
                format!("is {number}; expected an outcome, or DECISION_OUTCOME_UNSPECIFIED for all"),
            );
            None
        }
    };
    DecisionFilter {
        run: run.map(RunId),
        plan: plan.map(PlanId),
        outcome,
    }
}
