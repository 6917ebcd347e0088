//! Who asks, and the record of what became of it. A decision is written before what it is about takes effect, in the same
//! transaction where that is the store's, and never changed.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{plan::PlanId, run::RunId};

/// Whoever calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name that the caller gave, or [`Caller::ANONYMOUS`].
    pub principal: String,
    /// Where the call came from; empty where the transport does not tell.
    pub peer: String,
}

impl Caller {
    /// Principal of callers without a name. Whoever calls itself so has none.
    pub const ANONYMOUS: &str = "anonymous@loopback";
    /// Longest name, characters.
    pub const MAX_PRINCIPAL: usize = 64;

    /// Whether nobody is named.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.principal == Self::ANONYMOUS
    }

    /// Whether a text is the name of a principal: 1 to 64 of `A-Z a-z 0-9 . _ @ -`.
    #[must_use]
    pub fn is_principal(name: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        (1..=Self::MAX_PRINCIPAL).contains(&name.len()) && name.bytes().all(allowed)
    }
}

/// Why a caller may not consent to what somebody else has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalProblem {
    /// Nobody is named.
    Anonymous,
    /// The caller has begun it.
    SamePrincipal,
    /// Whoever has begun it has made the caller's token, or one by which it was made.
    TokenOfSamePrincipal,
}

impl ApprovalProblem {
    /// What is in the way of a caller's consent to what `other` has begun; `makers` are those by whom the caller's token was made.
    #[must_use]
    pub fn of(caller: &Caller, other: &str, makers: &BTreeSet<String>) -> Option<Self> {
        if caller.is_anonymous() {
            Some(Self::Anonymous)
        } else if caller.principal == other {
            Some(Self::SamePrincipal)
        } else {
            makers.contains(other).then_some(Self::TokenOfSamePrincipal)
        }
    }

    /// Name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::SamePrincipal => "same_principal",
            Self::TokenOfSamePrincipal => "token_of_same_principal",
        }
    }

    /// The rule in one clause; `deed` is what the other one did, such as `started it`.
    #[must_use]
    pub fn describe(self, deed: &str) -> String {
        match self {
            Self::Anonymous => "an approval needs a named principal".to_owned(),
            Self::SamePrincipal => format!("whoever {deed} cannot approve it"),
            Self::TokenOfSamePrincipal => format!("its token was made by whoever {deed}"),
        }
    }
}

/// Consent to a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who approved.
    pub principal: String,
    /// When, by the server's clock.
    pub at: Timestamp,
}

/// Id of a decision, sortable by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId(pub Uuid);

impl fmt::Display for DecisionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A cleanup that deletes.
    Run,
    /// The approval of a run.
    Approve,
    /// The denial of a run.
    Deny,
    /// Taking a run back.
    Undo,
    /// Stopping a run.
    Cancel,
    /// Applying migrations.
    Migrate,
    /// Taking migrations back.
    Rollback,
    /// Changing the ledger of migrations.
    Repair,
    /// Saying that migrations are in effect.
    Baseline,
    /// Creating, changing, firing or removing a schedule, and the switch over all of them.
    Schedule,
    /// Sending a notice to try a channel.
    TestChannel,
    /// Trying a notification again that was given up.
    RetryDelivery,
    /// Saying that somebody looks after an alert.
    AcknowledgeAlert,
}

impl Act {
    /// Every act.
    pub const ALL: [Self; 13] = [
        Self::Run,
        Self::Approve,
        Self::Deny,
        Self::Undo,
        Self::Cancel,
        Self::Migrate,
        Self::Rollback,
        Self::Repair,
        Self::Baseline,
        Self::Schedule,
        Self::TestChannel,
        Self::RetryDelivery,
        Self::AcknowledgeAlert,
    ];

    /// Name in stores.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Undo => "undo",
            Self::Cancel => "cancel",
            Self::Migrate => "migrate",
            Self::Rollback => "rollback",
            Self::Repair => "repair",
            Self::Baseline => "baseline",
            Self::Schedule => "schedule",
            Self::TestChannel => "test_channel",
            Self::RetryDelivery => "retry_delivery",
            Self::AcknowledgeAlert => "acknowledge_alert",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was let through.
    Allowed,
    /// It was refused.
    Refused,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 2] = [Self::Allowed, Self::Refused];

    /// Name in stores.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }
}

/// One entry of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its id.
    pub id: DecisionId,
    /// When, by the server's clock, to the millisecond.
    pub at: Timestamp,
    /// Who asked.
    pub caller: Caller,
    /// For what.
    pub act: Act,
    /// Target that it is about; empty where none is known.
    pub target: String,
    /// Run that it is about.
    pub run: Option<RunId>,
    /// Plan that it is about.
    pub plan: Option<PlanId>,
    /// What became of it.
    pub outcome: Outcome,
    /// Name of the reason for a refusal, as the API gives it; empty where it was let through.
    pub reason: String,
    /// The particulars in one sentence, at most [`Decision::MAX_DETAIL`] characters.
    pub detail: String,
}

impl Decision {
    /// Longest detail, characters.
    pub const MAX_DETAIL: usize = 1_000;

    /// A decision of now, to let something through.
    #[must_use]
    pub fn allow(caller: &Caller, act: Act, detail: impl Into<String>) -> Self {
        let now = Timestamp::now();
        let detail: String = detail.into();
        Self {
            id: DecisionId(Uuid::now_v7()),
            // As exact as stores keep it, so that it reads the same before and after.
            at: Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
            caller: caller.clone(),
            act,
            target: String::new(),
            run: None,
            plan: None,
            outcome: Outcome::Allowed,
            reason: String::new(),
            detail: detail.chars().take(Self::MAX_DETAIL).collect(),
        }
    }

    /// A decision of now, to refuse something.
    #[must_use]
    pub fn refuse(caller: &Caller, act: Act, reason: &str, detail: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Refused,
            reason: reason.to_owned(),
            ..Self::allow(caller, act, detail)
        }
    }

    /// Says which target, run and plan it is about.
    #[must_use]
    pub fn about(self, target: &str, run: Option<RunId>, plan: Option<PlanId>) -> Self {
        Self {
            target: target.to_owned(),
            run,
            plan,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        for name in ["a", "ann@db-1.example", "A_b.c", &"x".repeat(64)] {
            assert!(Caller::is_principal(name), "{name}");
        }
        for name in ["", " ", "a b", "ä", "a\n", "a/b", &"x".repeat(65)] {
            assert!(!Caller::is_principal(name), "{name:?}");
        }
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let caller = Caller {
            principal: "a".into(),
            peer: String::new(),
        };
        let decision = Decision::refuse(&caller, Act::Run, "X", "ü".repeat(5_000));
        assert_eq!(decision.detail.chars().count(), Decision::MAX_DETAIL);
        assert_eq!((decision.outcome, decision.reason.as_str()), (Outcome::Refused, "X"));
    }
}
