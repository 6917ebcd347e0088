//! On a simulated clock: a small world applies what a look changes, as the store does.

use super::*;

struct World {
    rules: BTreeMap<RuleName, Rule>,
    unseen: Vec<(RuleName, String)>,
    open: Vec<Alert>,
    told: Vec<(i64, AlertTransition, String)>,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn condition(rule: RuleName, object: &str, value: f64) -> Condition {
    Condition {
        rule,
        object: object.to_owned(),
        value,
        detail: format!("{value}"),
        remediation: String::new(),
    }
}

impl World {
    fn new() -> Self {
        Self {
            rules: RuleName::ALL.into_iter().map(|name| (name, name.defaults())).collect(),
            unseen: Vec::new(),
            open: Vec::new(),
            told: Vec::new(),
        }
    }

    fn look_at(&mut self, second: i64, looked: &[RuleName], conditions: &[Condition]) {
        let look = Look {
            target: "main",
            now: at(second),
            rules: &self.rules,
            conditions,
            looked,
            unseen: &self.unseen,
        };
        for (alert, transition) in step(&look, &self.open) {
            self.open.retain(|open| open.id != alert.id);
            if alert.state != AlertState::Resolved {
                self.open.push(alert.clone());
            }
            if matches!(transition, AlertTransition::Raised | AlertTransition::Resolved) {
                self.told.push((second, transition, alert.key()));
            }
        }
    }

    fn look(&mut self, second: i64, conditions: &[Condition]) {
        self.look_at(second, &RuleName::ALL, conditions);
    }

    fn disk(&mut self, second: i64, value: f64) {
        self.look(second, &[condition(RuleName::DiskNearlyFull, "backups", value)]);
    }
}

#[test]
fn a_condition_has_to_last() {
    let mut world = World::new();
    world.disk(0, 0.85);
    world.disk(120, 0.70);
    assert!(world.open.is_empty() && world.told.is_empty(), "it passed");
    world.disk(180, 0.85);
    world.disk(479, 0.85);
    assert!(world.told.is_empty());
    world.disk(480, 0.85);
    assert_eq!(
        world.told,
        [(480, AlertTransition::Raised, "disk_nearly_full/main/backups".to_owned())]
    );
}

#[test]
fn a_value_on_the_border_is_one_alert() {
    let mut world = World::new();
    for minute in 0..120 {
        world.disk(minute * 60, if minute % 2 == 0 { 0.81 } else { 0.79 });
    }
    assert_eq!(world.told.len(), 1, "{:?}", world.told);
    world.disk(7_200, 0.75);
    assert_eq!(world.told.len(), 1, "at the value at which it ends it still holds");
    world.disk(7_260, 0.749);
    assert_eq!(world.told.last().map(|told| told.1), Some(AlertTransition::Resolved));
    world.disk(7_320, 0.79);
    assert!(world.open.is_empty(), "between the thresholds nothing begins");
}

#[test]
fn below_is_the_other_way_round() {
    let mut world = World::new();
    let hit = |value| [condition(RuleName::LowIndexEfficiency, "", value)];
    world.look(0, &hit(0.90));
    assert!(world.open.is_empty(), "under it, not at it");
    world.look(0, &hit(0.89));
    world.look(900, &hit(0.91));
    assert_eq!(world.told.len(), 1);
    world.look(960, &hit(0.92));
    assert_eq!(world.told.len(), 1);
    world.look(1_020, &hit(0.93));
    assert_eq!(world.told.len(), 2);
}

#[test]
fn what_was_not_looked_at_is_not_over() {
    let mut world = World::new();
    world.look(0, &[condition(RuleName::OperationFailed, "orphans", 1.0)]);
    assert_eq!(world.told.len(), 1);
    world.look_at(60, &[RuleName::TargetDown], &[condition(RuleName::TargetDown, "", 1.0)]);
    assert_eq!(world.open.len(), 2);
    assert_eq!(world.told.len(), 1, "a target that is away for a moment is nobody's trouble");
    for second in 0..10 {
        world.look_at(
            180 + second,
            &[RuleName::TargetDown],
            &[condition(RuleName::TargetDown, "", 1.0)],
        );
    }
    assert_eq!(world.told.len(), 2, "told once, and not at each look");
    // What it was about is gone: an operation that was taken out of the catalog.
    world.look(200, &[]);
    assert!(world.open.is_empty());
    assert_eq!(world.told.len(), 4);
}

#[test]
fn one_thing_that_could_not_be_looked_at_is_not_over() {
    let mut world = World::new();
    let disks = |objects: &[&str]| -> Vec<Condition> {
        objects
            .iter()
            .map(|object| condition(RuleName::DiskNearlyFull, object, 0.9))
            .collect()
    };
    for second in [0, 300] {
        world.look(second, &disks(&["one", "two"]));
    }
    assert_eq!(world.told.len(), 2);
    // The rule was looked at, the folder was not.
    world.unseen = vec![(RuleName::DiskNearlyFull, "one".to_owned())];
    world.look(360, &[]);
    let open: Vec<&str> = world.open.iter().map(|alert| alert.object.as_str()).collect();
    assert_eq!(open, ["one"]);
    world.unseen.clear();
    world.look(420, &[]);
    assert!(world.open.is_empty());
}

#[test]
fn clocks_jump() {
    let mut world = World::new();
    world.disk(10_000, 0.9);
    world.disk(5_000, 0.9);
    assert!(world.told.is_empty(), "back: it lasts from there");
    world.disk(5_299, 0.9);
    assert!(world.told.is_empty());
    world.disk(5_300, 0.9);
    assert_eq!(world.told.len(), 1);
    world.disk(9_000_000, 0.9);
    assert_eq!(world.told.len(), 1, "forward: still the same alert");
}

#[test]
fn a_rule_that_is_switched_off_resolves() {
    let mut world = World::new();
    world.look(0, &[condition(RuleName::OperationFailed, "x", 1.0)]);
    world.rules.get_mut(&RuleName::OperationFailed).expect("the rule").enabled = false;
    world.look(60, &[condition(RuleName::OperationFailed, "x", 1.0)]);
    assert_eq!(world.told.last().map(|told| told.1), Some(AlertTransition::Resolved));
    world.look(120, &[condition(RuleName::OperationFailed, "x", 1.0)]);
    assert_eq!(world.told.len(), 2);
}

#[test]
fn targets_are_apart() {
    let mut world = World::new();
    world.look(0, &[condition(RuleName::OperationFailed, "x", 1.0)]);
    let rules = world.rules.clone();
    let other = Look {
        target: "other",
        now: at(60),
        rules: &rules,
        conditions: &[],
        looked: &RuleName::ALL,
        unseen: &[],
    };
    assert_eq!(step(&other, &world.open), []);
}

#[test]
fn several_of_one_name_are_judged_by_the_worst() {
    let mut world = World::new();
    let lag = |second: i64, values: &[f64], world: &mut World| {
        let conditions: Vec<_> = values
            .iter()
            .map(|value| condition(RuleName::ReplicaLag, "walreceiver", *value))
            .collect();
        world.look(second, &conditions);
    };
    for second in [0, 300, 600] {
        lag(second, &[0.1, 90.0, 70.0], &mut world);
        assert_eq!(world.open.len(), 1);
    }
    assert_eq!(world.told.len(), 1);
    lag(660, &[0.1, 0.2], &mut world);
    assert_eq!(world.told.len(), 2);
}

#[test]
fn a_replica_that_dies_is_not_over() {
    let mut world = World::new();
    for second in [0, 300] {
        world.look(second, &[condition(RuleName::ReplicaLag, "r", 90.0)]);
    }
    world.look(360, &[]);
    world.look(300 + 86_399, &[]);
    assert_eq!((world.told.len(), world.open.len()), (1, 1));
    world.look(300 + 86_400, &[]);
    assert_eq!(
        world.told.len(),
        2,
        "nobody waits for ever for one that was taken out of service"
    );
}

#[test]
fn what_is_told_to_watchers_is_news() {
    let rules: BTreeMap<_, _> = RuleName::ALL.into_iter().map(|name| (name, name.defaults())).collect();
    let look = |second: i64, value: f64, open: &[Alert]| {
        let conditions = [condition(RuleName::ReplicaLag, "r", value)];
        let look = Look {
            target: "main",
            now: at(second),
            rules: &rules,
            conditions: &conditions,
            looked: &RuleName::ALL,
            unseen: &[],
        };
        step(&look, open).remove(0)
    };
    let (mut alert, _) = look(0, 100.0, &[]);
    let mut transitions = Vec::new();
    for (second, value) in [(60, 104.0), (120, 109.0), (180, 112.0), (240, 113.0), (300, 114.0)] {
        let (next, transition) = look(second, value, &[alert]);
        assert_eq!(next.seen_at, at(second));
        alert = next;
        transitions.push(transition);
    }
    let (seen, held, raised) = (AlertTransition::Seen, AlertTransition::Held, AlertTransition::Raised);
    assert_eq!(transitions, [seen, seen, held, seen, raised], "small steps add up");
}

#[test]
fn every_rule_is_raised_held_and_resolved() {
    for name in RuleName::ALL {
        let mut world = World::new();
        let rule = name.defaults();
        let (bad, good) = match name.side() {
            Side::Above => (rule.raise_at + 0.01, rule.clear_at - 0.01),
            Side::Below => (rule.raise_at - 0.01, rule.clear_at + 0.01),
            Side::Event => (1.0, 0.0),
        };
        for minute in 0..=20 {
            world.look(minute * 60, &[condition(name, "o", bad)]);
        }
        assert_eq!(world.told.len(), 1, "{name:?}");
        assert_eq!(world.open.len(), 1, "{name:?}");
        world.look(2_000, &[condition(name, "o", good)]);
        assert_eq!(world.told.len(), 2, "{name:?}");
        assert!(world.open.is_empty(), "{name:?}");
    }
}

#[test]
fn overrides_have_to_fit() {
    let disk = RuleName::DiskNearlyFull.defaults();
    let set = |raise_at, clear_at| Override {
        raise_at,
        clear_at,
        ..Override::default()
    };
    let moved = disk.with(set(Some(0.9), None)).expect("it fits");
    assert!((moved.clear_at - 0.85).abs() < 1e-9, "the distance stays");
    assert!(disk.with(set(Some(0.7), Some(0.8))).is_err());
    assert!(disk.with(set(Some(f64::NAN), None)).is_err());
    assert!(
        RuleName::LowIndexEfficiency
            .defaults()
            .with(set(Some(0.9), Some(0.8)))
            .is_err()
    );
    assert!(RuleName::TargetDown.defaults().with(set(Some(0.9), None)).is_err());
    for name in RuleName::ALL {
        assert_eq!(RuleName::named(name.name()), Some(name));
        assert_eq!(name.defaults().with(Override::default()), Ok(name.defaults()));
    }
}
