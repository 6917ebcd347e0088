//! Who may do what: roles, the targets that a token is for, and tokens.
//!
//! A token is shown once, when it is made; what is kept of it is its SHA-256, which is enough for a secret of 256 random bits. Whether a
//! call is allowed is decided from the row of its method and the [`Grant`] of its caller, and nothing else.

mod keyring;
mod token;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use keyring::{Admitted, Keyring, Refusal};
pub use token::{Presented, Secret, TokenId, TokenProblem, TokenRecord};

/// What a caller may do. They are no ladder: who approves does not operate, so that nobody approves what he started by having one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Looks; starts, stops and takes back.
    Operator,
    /// Looks; consents to what others started.
    Approver,
    /// Everything, and makes and revokes tokens. Approves nothing that he started himself, either.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Approver, Self::Admin];

    /// Name in settings, stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether a caller of this role may call what asks for another.
    #[must_use]
    pub fn covers(self, asked: Self) -> bool {
        self == asked || asked == Self::Viewer || self == Self::Admin
    }
}

/// The targets that a caller sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of them, also those that are added later.
    All,
    /// These. What is about no target at all, such as the switch over all schedules, is outside of it.
    Targets(BTreeSet<String>),
}

impl Scope {
    /// Whether it is all of them.
    #[must_use]
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// The targets by name; `None` for all.
    #[must_use]
    pub fn targets(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::All => None,
            Self::Targets(targets) => Some(targets),
        }
    }

    /// The only target, where it is one.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        let targets = self.targets().filter(|targets| targets.len() == 1)?;
        targets.first().map(String::as_str)
    }

    /// Whether a target is seen.
    #[must_use]
    pub fn covers(&self, target: &str) -> bool {
        match self {
            Self::All => true,
            Self::Targets(targets) => targets.contains(target),
        }
    }
}

/// What a caller has been granted, whichever way he proved who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What he may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// Until when; `None` for as long as nobody takes it back.
    pub until: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_cover_what_they_say() {
        let covered: Vec<(Role, Vec<Role>)> = Role::ALL
            .into_iter()
            .map(|role| (role, Role::ALL.into_iter().filter(|asked| role.covers(*asked)).collect()))
            .collect();
        assert_eq!(
            covered,
            [
                (Role::Viewer, vec![Role::Viewer]),
                (Role::Operator, vec![Role::Viewer, Role::Operator]),
                (Role::Approver, vec![Role::Viewer, Role::Approver]),
                (Role::Admin, Role::ALL.to_vec()),
            ]
        );
    }

    #[test]
    fn a_scope_covers_what_it_names() {
        let one = Scope::Targets(BTreeSet::from(["main".to_owned()]));
        assert!(one.covers("main") && !one.covers("other") && !one.covers(""));
        assert!(Scope::All.covers("other") && Scope::All.covers(""));
        assert!(!Scope::Targets(BTreeSet::new()).covers(""));
    }
}
