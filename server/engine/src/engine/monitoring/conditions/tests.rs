//! Conditions of snapshots and reports.

use super::*;
use crate::model::monitor::{Depth, Vitals};

fn snapshot(database: Vitals) -> Snapshot {
    Snapshot {
        at: Timestamp::UNIX_EPOCH,
        took_ms: 1,
        depth: Depth::Quick,
        database,
        tables: Vec::new(),
        indexes: Vec::new(),
        unindexed_keys: Vec::new(),
        queries: Vec::new(),
        sessions: None,
        replicas: Vec::new(),
        slots: Vec::new(),
        gaps: Vec::new(),
    }
}

#[test]
fn index_efficiency_is_that_of_today() {
    let looked = |recent: Option<f64>| {
        let mut found = Conditions::default();
        let vitals = Vitals {
            index_hit_fraction: Some(0.1),
            recent_index_hit_fraction: recent,
            ..Vitals::default()
        };
        of_snapshot(&snapshot(vitals), &mut found);
        let seen = found.conditions.iter().find(|seen| seen.rule == RuleName::LowIndexEfficiency);
        (
            found.looked.contains(&RuleName::LowIndexEfficiency),
            seen.map(|seen| seen.value),
        )
    };
    assert_eq!(looked(Some(0.7)), (true, Some(0.7)));
    assert_eq!(looked(None), (false, None), "an alert stays as it is where nobody knows");
}
