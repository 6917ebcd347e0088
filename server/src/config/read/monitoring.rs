//! The section `[monitoring]`, and the rules for alerts, of all targets or of one.

use std::{collections::BTreeMap, time::Duration};

use dbkeep_engine::{
    engine::monitoring::RulesOf,
    monitor::alerts::{Override, RuleName},
};
use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigError, Source};

/// Least number of points that makes sense: a day of the metrics of one small target.
const LEAST_POINTS: u64 = 100_000;
/// Most points.
const MOST_POINTS: u64 = 10_000_000_000;

/// Rules by name, each with what was set of it.
pub(super) type Alerts = BTreeMap<Spanned<String>, Spanned<Override>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Section {
    enabled: Option<bool>,
    interval: Option<Spanned<String>>,
    snapshot_limit: Option<Spanned<String>>,
    max_points: Option<Spanned<u64>>,
    alerts: Alerts,
}

impl Source<'_> {
    pub(super) fn monitoring(&self, section: Section, config: &mut Config) -> Result<(), ConfigError> {
        let monitor = &mut config.engine.monitor;
        monitor.enabled = section.enabled.unwrap_or(monitor.enabled);
        self.duration(
            section.interval,
            &mut monitor.interval,
            Duration::from_secs(5),
            Duration::from_secs(3_600),
        )?;
        self.duration(
            section.snapshot_limit,
            &mut monitor.snapshot_limit,
            Duration::from_secs(1),
            Duration::from_secs(60),
        )?;
        self.rules(section.alerts, &mut monitor.rules)?;
        if let Some(points) = section.max_points {
            let number = *points.get_ref();
            if !(LEAST_POINTS..=MOST_POINTS).contains(&number) {
                return Err(self.refuse(
                    points.span().start,
                    format!("max_points is {number}; expected {LEAST_POINTS} to {MOST_POINTS}"),
                ));
            }
            config.history_points = number;
        }
        Ok(())
    }

    /// Rules of one target, over those of all.
    pub(super) fn target_alerts(&self, target: &str, alerts: Alerts, config: &mut Config) -> Result<(), ConfigError> {
        if alerts.is_empty() {
            return Ok(());
        }
        if let Some(disk) = alerts.keys().find(|name| name.get_ref() == RuleName::DiskNearlyFull.name()) {
            let problem = "disk_nearly_full is about machines and not about targets; set it under [monitoring.alerts]";
            return Err(self.refuse(disk.span().start, problem.to_owned()));
        }
        let monitor = &mut config.engine.monitor;
        let mut rules = monitor.rules.clone();
        self.rules(alerts, &mut rules)?;
        monitor.target_rules.insert(target.to_owned(), rules);
        Ok(())
    }

    fn rules(&self, alerts: Alerts, rules: &mut RulesOf) -> Result<(), ConfigError> {
        for (name, set) in alerts {
            let Some(known) = RuleName::named(name.get_ref()) else {
                let all = RuleName::ALL.map(RuleName::name).join(", ");
                let problem = format!("there is no alert {:?}; expected one of {all}", name.get_ref());
                return Err(self.refuse(name.span().start, problem));
            };
            let rule = rules.get(&known).copied().unwrap_or_else(|| known.defaults());
            let rule = rule
                .with(*set.get_ref())
                .map_err(|problem| self.refuse(name.span().start, problem))?;
            rules.insert(known, rule);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_text(
            "c.toml",
            &format!("{text}\n[data]\nfolder = \"d\"\n"),
            Path::new("/"),
            &|_| None,
        )
    }

    #[test]
    fn rules_of_a_target_are_over_those_of_all() {
        let config = read(
            "[monitoring]\ninterval = \"10s\"\n[monitoring.alerts.disk_nearly_full]\nraise_at = 0.9\n\
             [monitoring.alerts.replica_lag]\nenabled = false\n\
             [[target]]\nname = \"a\"\nurl = \"sqlite://a.db\"\n[target.alerts.replica_lag]\nenabled = true\nfor_seconds = 1\n\
             [[target]]\nname = \"b\"\nurl = \"sqlite://b.db\"\n",
        )
        .expect("a configuration");
        let monitor = &config.engine.monitor;
        assert_eq!(monitor.interval, Duration::from_secs(10));
        let disk = monitor.rules_of("")[&RuleName::DiskNearlyFull];
        assert!(
            (disk.raise_at - 0.9).abs() < 1e-9 && (disk.clear_at - 0.85).abs() < 1e-9,
            "{disk:?}"
        );
        assert!(!monitor.rules_of("b")[&RuleName::ReplicaLag].enabled);
        let lag = monitor.rules_of("a")[&RuleName::ReplicaLag];
        assert!(lag.enabled && lag.lasting == Duration::from_secs(1));
        assert!((monitor.rules_of("a")[&RuleName::DiskNearlyFull].raise_at - 0.9).abs() < 1e-9);
    }

    #[test]
    fn mistakes_are_told_with_line_and_expectation() {
        let target = "[[target]]\nname = \"a\"\nurl = \"sqlite://a.db\"\n";
        for (text, place, problem) in [
            ("[monitoring]\ninterval = \"1s\"".to_owned(), "c.toml:2", "from 5 s to 3600 s"),
            ("[monitoring]\nevery = \"1m\"".to_owned(), "c.toml:2", "unknown field `every`"),
            ("[monitoring]\nmax_points = 7".to_owned(), "c.toml:2", "expected 100000 to"),
            (
                "[monitoring.alerts.disk_full]\n".to_owned(),
                "c.toml:1",
                "expected one of disk_nearly_full",
            ),
            (
                "[monitoring.alerts.disk_nearly_full]\nraise = 0.5".to_owned(),
                "c.toml:2",
                "unknown field `raise`",
            ),
            (
                "\n[monitoring.alerts.disk_nearly_full]\nclear_at = 0.9".to_owned(),
                "c.toml:2",
                "cannot end at 0.9",
            ),
            (
                format!("{target}[target.alerts.target_down]\nraise_at = 2.0"),
                "c.toml:4",
                "it has no threshold",
            ),
            (
                "[monitoring.alerts.wraparound]\nlevel = \"loud\"".to_owned(),
                "c.toml:2",
                "unknown variant `loud`",
            ),
        ] {
            let error = read(&text).expect_err(&text);
            assert_eq!(error.place, place, "{error}");
            assert!(error.problem.contains(problem), "{error}");
        }
    }
}
