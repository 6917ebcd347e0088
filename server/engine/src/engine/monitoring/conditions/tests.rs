//! Conditions of snapshots and reports.

use super::*;
use crate::model::{
    StepReport, Warning,
    monitor::{Depth, Vitals},
};

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

#[test]
fn a_limit_is_one_of_time_or_of_rows() {
    let step = |operation: &str, message: &str| StepReport {
        operation: operation.to_owned(),
        message: message.to_owned(),
        ..StepReport::default()
    };
    let report = Report {
        steps: vec![
            step("slow", "stopped at the time limit of 60 s"),
            step("many", ""),
            step("well", "3 rows left"),
        ],
        warnings: vec![
            Warning {
                code: "COUNT_DRIFTED".to_owned(),
                message: "stopped before the plan was exceeded: 10 rows deleted".to_owned(),
                step: Some(1),
            },
            Warning {
                code: "BATCH_RETRIED".to_owned(),
                message: "again".to_owned(),
                step: Some(2),
            },
        ],
        ..Report::default()
    };
    let met: Vec<Option<&str>> = report
        .operation_reports()
        .iter()
        .map(|operation| limit_met(&report, operation))
        .collect();
    assert_eq!(
        met,
        [
            Some("stopped at the time limit of 60 s"),
            Some("stopped before the plan was exceeded: 10 rows deleted"),
            None
        ]
    );
}
