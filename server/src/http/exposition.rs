//! The text that Prometheus reads: the newest samples of the registry ([`Metric`]), and numbers of the service itself ([`OWN`]). Called for
//! `/metrics`.
//!
//! Labels are bounded: by targets, by the tables that history is kept of, by rules, and by states. docs/MONITORING.md has one row for each
//! family, which a test compares.

use std::{collections::BTreeMap, fmt::Write as _};

use dbkeep_engine::{
    Engine, EngineError,
    model::{
        RunKind, RunState,
        monitor::{AlertState, Kind, Metric},
    },
    port::{AlertFilter, RunFilter},
};

/// Most runs and alerts that are counted.
const MOST: u32 = 10_000;

/// A family of the service itself.
#[derive(Clone, Copy)]
struct Own {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const BUILD_INFO: Own = Own {
    name: "dbkeep_build_info",
    kind: Kind::Gauge,
    help: "The version of this server.",
};
const RUNS: Own = Own {
    name: "dbkeep_runs",
    kind: Kind::Gauge,
    help: "Runs that have not ended, by state.",
};
const RUNS_ENDED: Own = Own {
    name: "dbkeep_runs_ended_total",
    kind: Kind::Counter,
    help: "Runs that have ended, by target, kind and final state; 0 for those of configured targets that there never were.",
};
const ALERTS_RAISED: Own = Own {
    name: "dbkeep_alerts_raised",
    kind: Kind::Gauge,
    help: "Alerts that are raised, by target, rule and level.",
};
const SCHEDULER_RUNNING: Own = Own {
    name: "dbkeep_scheduler_running",
    kind: Kind::Gauge,
    help: "1 where slots are decided, 0 where the switch is off.",
};
const SERVERS_ALIVE: Own = Own {
    name: "dbkeep_servers_alive",
    kind: Kind::Gauge,
    help: "Servers that work with this control store.",
};
const HISTORY_POINTS: Own = Own {
    name: "dbkeep_history_points",
    kind: Kind::Gauge,
    help: "Points of history that are kept.",
};
const HISTORY_POINTS_LIMIT: Own = Own {
    name: "dbkeep_history_points_limit",
    kind: Kind::Gauge,
    help: "Most points of history.",
};
const HISTORY_SERIES: Own = Own {
    name: "dbkeep_history_series",
    kind: Kind::Gauge,
    help: "Series of which history is kept.",
};
const HISTORY_SERIES_LIMIT: Own = Own {
    name: "dbkeep_history_series_limit",
    kind: Kind::Gauge,
    help: "Most series of history.",
};

/// Every family of the service itself, in the order of the text.
#[cfg(test)]
const OWN: [Own; 10] = [
    BUILD_INFO,
    RUNS,
    RUNS_ENDED,
    ALERTS_RAISED,
    SCHEDULER_RUNNING,
    SERVERS_ALIVE,
    HISTORY_POINTS,
    HISTORY_POINTS_LIMIT,
    HISTORY_SERIES,
    HISTORY_SERIES_LIMIT,
];

/// How a metric of the registry is called here.
fn name_of(metric: Metric) -> String {
    let prefix = if metric.is_of_server() { "dbkeep" } else { "dbkeep_target" };
    format!("{prefix}_{}", metric.name())
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    }
}

/// One family of samples.
struct Family<'a> {
    name: String,
    help: &'a str,
    kind: &'static str,
    /// Labels, written, and the value.
    samples: Vec<(String, f64)>,
}

impl Family<'_> {
    fn write(&self, text: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        let (name, kind) = (&self.name, self.kind);
        let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in &self.samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    }
}

/// `{a="1",b="2"}`; labels without a value are left out.
fn labels(pairs: &[(&str, &str)]) -> String {
    let written: Vec<String> = pairs
        .iter()
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    if written.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", written.join(","))
    }
}

/// Everything: the registry in its order, then the service.
pub(super) async fn render(engine: &Engine) -> Result<String, EngineError> {
    let mut families: BTreeMap<Metric, Vec<(String, f64)>> = BTreeMap::new();
    let names = engine.targets().keys().map(String::as_str).chain([""]);
    for target in names {
        for (_, sample) in engine.newest_samples(target).await? {
            let labels = labels(&[("target", target), (sample.metric.object(), &sample.object)]);
            families.entry(sample.metric).or_default().push((labels, sample.value));
        }
    }
    let mut text = String::new();
    for (metric, samples) in families {
        Family {
            name: name_of(metric),
            help: metric.help(),
            kind: kind_name(metric.kind()),
            samples,
        }
        .write(&mut text);
    }
    own(engine, &mut text).await?;
    Ok(text)
}

/// Numbers of the service itself.
async fn own(engine: &Engine, text: &mut String) -> Result<(), EngineError> {
    let mut write = |own: Own, samples: Vec<(String, f64)>| {
        Family {
            name: own.name.to_owned(),
            help: own.help,
            kind: kind_name(own.kind),
            samples,
        }
        .write(text);
    };
    let one = |value: f64| vec![(String::new(), value)];
    let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    write(BUILD_INFO, vec![(version, 1.0)]);
    write(RUNS, living(engine).await?);
    write(RUNS_ENDED, ended(engine).await?);
    write(ALERTS_RAISED, raised(engine).await?);
    let scheduler = engine.scheduler_view().await?;
    write(SCHEDULER_RUNNING, one(if scheduler.switch.running { 1.0 } else { 0.0 }));
    let alive = scheduler.servers.iter().filter(|server| server.alive).count();
    write(SERVERS_ALIVE, one(count(alive)));
    let usage = engine.history_usage().await?;
    write(HISTORY_POINTS, one(wide(usage.points)));
    write(HISTORY_POINTS_LIMIT, one(wide(usage.max_points)));
    write(HISTORY_SERIES, one(wide(usage.series)));
    write(HISTORY_SERIES_LIMIT, one(wide(usage.max_series)));
    Ok(())
}

/// A counter that begins with its first run would hide that one: an increase is seen between two values.
async fn ended(engine: &Engine) -> Result<Vec<(String, f64)>, EngineError> {
    let of = |target: &str, kind: RunKind, state: RunState| {
        labels(&[("target", target), ("kind", kind.name()), ("state", state.name())])
    };
    let mut samples = BTreeMap::new();
    for target in engine.targets().keys() {
        for kind in RunKind::ALL {
            for state in RunState::ALL.into_iter().filter(|state| state.is_final()) {
                samples.insert(of(target, kind, state), 0.0);
            }
        }
    }
    for ended in engine.ended_runs().await? {
        samples.insert(of(&ended.target, ended.kind, ended.state), wide(ended.runs));
    }
    Ok(samples.into_iter().collect())
}

async fn living(engine: &Engine) -> Result<Vec<(String, f64)>, EngineError> {
    let states: Vec<RunState> = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
    let filter = RunFilter {
        states: states.clone(),
        ..RunFilter::default()
    };
    let runs = engine.runs(&filter, None, MOST).await?;
    let by_state = states.into_iter().map(|state| {
        let number = runs.iter().filter(|run| run.state == state).count();
        (labels(&[("state", state.name())]), count(number))
    });
    Ok(by_state.collect())
}

async fn raised(engine: &Engine) -> Result<Vec<(String, f64)>, EngineError> {
    let filter = AlertFilter {
        states: vec![AlertState::Raised],
        limit: MOST,
        ..AlertFilter::default()
    };
    let mut raised: BTreeMap<String, usize> = BTreeMap::new();
    for alert in engine.alerts(&filter).await? {
        let labels = labels(&[
            ("target", &alert.target),
            ("rule", &alert.rule),
            ("level", alert.level.name()),
        ]);
        *raised.entry(labels).or_default() += 1;
    }
    Ok(raised.into_iter().map(|(labels, number)| (labels, count(number))).collect())
}

fn count(number: usize) -> f64 {
    wide(u64::try_from(number).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has floating point numbers")]
fn wide(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::monitor::Unit;

    use super::*;

    #[test]
    fn labels_are_escaped_and_empty_ones_left_out() {
        assert_eq!(labels(&[("target", "app"), ("", "x"), ("table", "")]), "{target=\"app\"}");
        assert_eq!(labels(&[("table", "a\"b\\c\nd")]), "{table=\"a\\\"b\\\\c\\nd\"}");
        assert_eq!(labels(&[]), "");
    }

    #[test]
    fn a_family_without_samples_is_not_there() {
        let mut text = String::new();
        let family = |samples| Family {
            name: "dbkeep_x".to_owned(),
            help: "a\nb",
            kind: "gauge",
            samples,
        };
        family(Vec::new()).write(&mut text);
        assert_eq!(text, "");
        family(vec![(String::new(), 5e9)]).write(&mut text);
        assert_eq!(text, "# HELP dbkeep_x a\\nb\n# TYPE dbkeep_x gauge\ndbkeep_x 5000000000\n");
    }

    const DASHBOARD: &str = include_str!("../../../docs/grafana/dashboard.json");
    const RULES: &str = include_str!("../../../docs/prometheus/alerts.yml");
    const PAGE: &str = include_str!("../../../docs/MONITORING.md");

    /// Each family: its name, type, unit, and labels.
    fn families() -> Vec<(String, &'static str, &'static str, Vec<&'static str>)> {
        let unit = |metric: Metric| match metric.unit() {
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
            Unit::Ratio => "0 to 1",
            Unit::Count => "number",
        };
        let mut all: Vec<_> = Metric::ALL
            .iter()
            .map(|metric| {
                let target = if metric.is_of_server() { "" } else { "target" };
                let labels = [target, metric.object()].into_iter().filter(|label| !label.is_empty());
                (name_of(*metric), kind_name(metric.kind()), unit(*metric), labels.collect())
            })
            .collect();
        all.extend(OWN.map(|own| {
            let labels = match own.name {
                "dbkeep_build_info" => vec!["version"],
                "dbkeep_runs" => vec!["state"],
                "dbkeep_runs_ended_total" => vec!["target", "kind", "state"],
                "dbkeep_alerts_raised" => vec!["target", "rule", "level"],
                _ => Vec::new(),
            };
            (own.name.to_owned(), kind_name(own.kind), "number", labels)
        }));
        all
    }

    /// Names of metrics in an expression or a text.
    fn named(text: &str) -> Vec<&str> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("dbkeep_"))
            .collect()
    }

    #[test]
    fn the_page_has_a_row_for_each_metric_and_no_other() {
        let all = families();
        for (name, kind, unit, labels) in &all {
            let labels = if labels.is_empty() {
                "-".to_owned()
            } else {
                labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
            };
            let row = format!("| `{name}` | {kind} | {unit} | {labels} | ");
            assert_eq!(PAGE.matches(&row).count(), 1, "docs/MONITORING.md has no row {row}");
        }
        let rows = PAGE.lines().filter(|line| line.starts_with("| `dbkeep_")).count();
        assert_eq!(rows, all.len());
    }

    #[test]
    fn dashboard_and_rules_name_only_what_there_is() {
        let all: Vec<String> = families().into_iter().map(|(name, ..)| name).collect();
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
        let mut expressions = Vec::new();
        let mut left = vec![&dashboard];
        while let Some(value) = left.pop() {
            match value {
                serde_json::Value::Object(map) => {
                    for key in ["expr", "definition"] {
                        expressions.extend(map.get(key).and_then(serde_json::Value::as_str));
                    }
                    left.extend(map.values());
                }
                serde_json::Value::Array(list) => left.extend(list),
                _ => {}
            }
        }
        assert!(expressions.len() > 10, "a dashboard shows something");
        let rules: Vec<&str> = RULES
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("expr: "))
            .collect();
        assert_eq!(
            rules.len(),
            RULES.matches("- alert: ").count(),
            "each rule has an expression of one line"
        );
        for expression in expressions.iter().chain(&rules) {
            let names = named(expression);
            assert!(!names.is_empty(), "{expression}");
            for name in names {
                assert!(all.iter().any(|known| known == name), "{name} of {expression} does not exist");
            }
        }
        for name in named(RULES) {
            assert!(all.iter().any(|known| known == name), "{name} does not exist");
        }
    }
}
