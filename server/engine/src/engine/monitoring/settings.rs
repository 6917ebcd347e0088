//! What the operator of a server can set about monitoring.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    monitor::{
        alerts::{Rule, RuleName},
        findings::Bounds,
    },
    port::Machine,
};

/// The rules that are in effect, by name.
pub type RulesOf = BTreeMap<RuleName, Rule>;

/// What is measured, and which values are worth an alert.
#[derive(Debug, Clone)]
pub struct MonitorSettings {
    /// Whether this server collects.
    pub enabled: bool,
    /// How often a target is collected.
    pub interval: Duration,
    /// Longest time that a quick look at a target may take.
    pub snapshot_limit: Duration,
    /// Rules for servers, and for targets that have none of their own.
    pub rules: RulesOf,
    /// Rules of targets that have their own; all of them, not only those that differ.
    pub target_rules: BTreeMap<String, RulesOf>,
    /// From which values on something is a finding.
    pub bounds: Bounds,
    /// The machine; `None` where its numbers are not wanted.
    pub machine: Option<Arc<dyn Machine>>,
    /// Folders of targets that are files of this machine, as the machine's disks name them.
    pub folders: BTreeMap<String, String>,
}

impl MonitorSettings {
    /// The rules as they come.
    #[must_use]
    pub fn default_rules() -> RulesOf {
        RuleName::ALL.into_iter().map(|name| (name, name.defaults())).collect()
    }

    /// The rules in effect for a target, or for servers where it is empty.
    #[must_use]
    pub fn rules_of(&self, target: &str) -> &RulesOf {
        self.target_rules.get(target).unwrap_or(&self.rules)
    }
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(60),
            snapshot_limit: Duration::from_secs(5),
            rules: Self::default_rules(),
            target_rules: BTreeMap::new(),
            bounds: Bounds::default(),
            machine: None,
            folders: BTreeMap::new(),
        }
    }
}
