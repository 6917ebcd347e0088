//! What an engine is given: settings, targets, and what requests and attempts share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

use super::{HistoryLimits, Migrations, MonitorSettings, audit::AuditSettings};
use crate::{
    access::Keyring,
    audit::Journal,
    catalog::Catalog,
    model::RunLimits,
    notify::NotifySettings,
    port::{Archive, Roots, Store, Target},
    run::Feeds,
};

/// How far a count may move between plan and run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Share of the planned rows, 0 to 1.
    pub fraction: f64,
    /// Rows that are always tolerated, so that small counts may move.
    pub rows: u64,
}

impl Drift {
    /// Largest difference from a planned count that is taken.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count is a count"
    )]
    pub fn tolerance(&self, planned: u64) -> u64 {
        self.rows + (crate::run::as_f64(planned) * self.fraction) as u64
    }
}

/// What the operator of a server can set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this server in leases, unique among those that share a store.
    pub holder: String,
    /// Length of a lease.
    pub lease_term: Duration,
    /// How often the store is asked for runs that nobody works on.
    pub claim_interval: Duration,
    /// Most runs that this server works on at a time.
    pub concurrent_runs: usize,
    /// How long a plan's token is taken.
    pub plan_lifetime: Duration,
    /// How far a count may move between plan and run.
    pub drift: Drift,
    /// Principals beside the one that starts it who have to approve a run of severity CRITICAL; 0 lets it begin at once.
    pub approvals: u32,
    /// What a rule's earlier runs say about a count.
    pub history: HistoryLimits,
    /// Who is told of what, and how.
    pub notify: NotifySettings,
    /// What is measured, and which values are worth an alert.
    pub monitor: MonitorSettings,
    /// How long records of the audit log are kept, and where its head is anchored.
    pub audit: AuditSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            holder: uuid::Uuid::now_v7().to_string(),
            lease_term: Duration::from_secs(15),
            claim_interval: Duration::from_secs(2),
            concurrent_runs: 4,
            plan_lifetime: Duration::from_secs(3600),
            drift: Drift {
                fraction: 0.1,
                rows: 100,
            },
            approvals: 1,
            history: HistoryLimits::default(),
            notify: NotifySettings::default(),
            monitor: MonitorSettings::default(),
            audit: AuditSettings::default(),
        }
    }
}

/// A target with its catalog.
#[derive(Clone)]
pub struct TargetEntry {
    /// The database.
    pub target: Arc<dyn Target>,
    /// Its operations.
    pub catalog: Arc<Catalog>,
    /// Folders whose files its rules may take.
    pub roots: Arc<Roots>,
    /// Where its migrations come from; `None` where it has none.
    pub migrations: Option<Migrations>,
}

impl TargetEntry {
    /// The database as a run of these limits reads it: at full speed with all that it has, otherwise so that others keep theirs.
    pub(crate) fn paced(&self, limits: RunLimits) -> Arc<dyn Target> {
        let gentle = if limits.is_full_speed() { None } else { self.target.gentle() };
        gentle.unwrap_or_else(|| Arc::clone(&self.target))
    }
}

/// What attempts and requests share.
pub(crate) struct Context {
    pub(crate) targets: BTreeMap<String, TargetEntry>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) feeds: Arc<Feeds>,
    /// The tokens that open this server.
    pub(crate) keyring: Arc<Keyring>,
    /// The way into the audit log.
    pub(crate) audit: Journal,
    pub(crate) settings: Settings,
    /// Tells the supervisor that there is a new run.
    pub(crate) wake: Notify,
    /// Tells the scheduler that a schedule was created or changed.
    pub(crate) schedules: Notify,
    /// Tells leases to renew now, which brings a cancel request at once.
    pub(crate) renew: Arc<Notify>,
    /// Revision of the newest change of collections and alerts that this server has seen.
    pub(crate) revision: watch::Sender<u64>,
    /// Tells the collector to look for one now.
    pub(crate) observed: Notify,
}
