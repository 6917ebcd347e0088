//! What a server does with schedules when it starts: it creates those that the catalogs declare, and says which are to tell somebody over a
//! channel that is not set up. Called once, before anything is decided.

use std::collections::BTreeMap;

use super::{Engine, new_schedule, replan, spec_problems};
use crate::{EngineError, schedule::validate};

/// Schedules that are read at a time.
const PAGE: u32 = 500;

impl Engine {
    /// Creates the schedules that the catalogs declare and that were never created. Channels that this server does not have are left
    /// out, with a warning.
    ///
    /// # Errors
    /// `InvalidFields`, `Store`.
    pub async fn seed_schedules(&self) -> Result<(), EngineError> {
        let known = self.known();
        for (target, entry) in self.targets() {
            let declared = entry.catalog.schedules();
            if declared.is_empty() {
                continue;
            }
            let now = self.context.store.pulse().await?.now;
            let mut schedules = Vec::new();
            for spec in declared {
                let mut spec = spec.clone();
                spec.target.clone_from(target);
                let wanted = std::mem::take(&mut spec.notify.channels);
                let (there, missing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|channel| {
                    let channel = known.channels.get(channel);
                    channel.is_some_and(|channel| !channel.needs_recipients() || !spec.notify.recipients.is_empty())
                });
                if !missing.is_empty() {
                    tracing::warn!(
                        schedule = spec.name,
                        missing = missing.join(", "),
                        "channels are not set up; the schedule is created without them"
                    );
                }
                let takes_recipients =
                    |name: &String| known.channels.get(name).is_some_and(|known| known.kind.takes_recipients());
                if there.is_empty() {
                    spec.notify = Default::default();
                } else {
                    if !missing.is_empty() && !there.iter().any(takes_recipients) {
                        // They were for the channels that are left out.
                        spec.notify.recipients.clear();
                    }
                    spec.notify.channels = there;
                }
                let problems = validate(&spec, &known, now);
                if !problems.is_empty() {
                    return Err(spec_problems(problems));
                }
                let mut schedule = new_schedule(spec, "catalog", now);
                replan(&mut schedule, now)?;
                schedules.push(schedule);
            }
            for name in self.context.store.seed_schedules(target, &schedules).await? {
                tracing::info!(schedule = name, target, "schedule of the catalog created");
            }
        }
        Ok(())
    }

    /// Channels that schedules want to be told over and that this server does not have, each with the number of these schedules and the name of the
    /// first. Says so in the log: unless another server has them, what is to be told there ends as dead letters.
    ///
    /// # Errors
    /// `Store`.
    pub async fn missing_channels(&self) -> Result<BTreeMap<String, (u64, String)>, EngineError> {
        let routing = &self.context.settings.notify.routing;
        let mut missing: BTreeMap<String, (u64, String)> = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.context.store.schedules(None, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.spec.name.clone());
            for schedule in &page {
                let notify = &schedule.spec.notify;
                if !(notify.on_success || notify.on_failure || notify.on_warnings) {
                    continue;
                }
                for name in notify.channels.iter().filter(|name| !routing.knows(name)) {
                    let found = missing.entry(name.clone()).or_insert_with(|| (0, schedule.spec.name.clone()));
                    found.0 += 1;
                }
            }
        }
        for (channel, (schedules, example)) in &missing {
            tracing::warn!(
                channel,
                schedules,
                example,
                "schedules tell over a channel that is not set up here; unless another server has it, what they tell there is given up"
            );
        }
        Ok(missing)
    }
}
