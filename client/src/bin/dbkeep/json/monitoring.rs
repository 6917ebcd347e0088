//! JSON of monitoring.
//!
//! Owns the shapes `alert`, `finding`, `recommendation`, `metrics`, `point` and `health`. Called by `cmd/alerts.rs`, `cmd/findings.rs`,
//! `cmd/metrics.rs` and `cmd/status.rs`.

use dbkeep_client::proto;
use serde::Serialize;
use serde_json::{Value, json};

/// An alert.
#[derive(Debug, Serialize)]
pub(crate) struct Alert<'a> {
    id: &'a str,
    rule: &'a str,
    /// Null for what is about a server.
    target: Option<&'a str>,
    object: Option<&'a str>,
    /// "info", "warning" or "error".
    level: String,
    /// "pending", "raised" or "resolved".
    state: String,
    value: Option<f64>,
    raise_at: Option<f64>,
    clear_at: Option<f64>,
    detail: &'a str,
    remediation: Option<&'a str>,
    since_time: Option<String>,
    raised_time: Option<String>,
    seen_time: Option<String>,
    resolved_time: Option<String>,
    acknowledged_by: Option<&'a str>,
    acknowledged_time: Option<String>,
    note: Option<&'a str>,
}

impl<'a> From<&'a proto::Alert> for Alert<'a> {
    fn from(alert: &'a proto::Alert) -> Self {
        let threshold = alert.threshold.as_ref();
        let acknowledged = alert.acknowledgement.as_ref();
        Self {
            id: &alert.id,
            rule: &alert.rule,
            target: super::text(&alert.target),
            object: super::text(&alert.object),
            level: super::alert_level(alert.level()),
            state: super::alert_state(alert.state()),
            value: threshold.map(|threshold| threshold.value),
            raise_at: threshold.map(|threshold| threshold.raise_at),
            clear_at: threshold.map(|threshold| threshold.clear_at),
            detail: &alert.detail,
            remediation: super::text(&alert.remediation),
            since_time: super::time(alert.since_time.as_ref()),
            raised_time: super::time(alert.raised_time.as_ref()),
            seen_time: super::time(alert.seen_time.as_ref()),
            resolved_time: super::time(alert.resolved_time.as_ref()),
            acknowledged_by: acknowledged.map(|said| said.principal.as_str()),
            acknowledged_time: super::time(acknowledged.and_then(|said| said.time.as_ref())),
            note: acknowledged.and_then(|said| super::text(&said.note)),
        }
    }
}

/// A finding.
#[derive(Debug, Serialize)]
pub(crate) struct Finding<'a> {
    key: &'a str,
    kind: &'a str,
    level: String,
    object: Option<&'a str>,
    detail: &'a str,
    remediation: Option<&'a str>,
    /// The table whose rows a key refers to; null where the finding is about no key.
    parent_table: Option<&'a str>,
    /// The statement that makes a dropped index again; null where none is dropped.
    definition: Option<&'a str>,
}

impl<'a> From<&'a proto::HealthFinding> for Finding<'a> {
    fn from(finding: &'a proto::HealthFinding) -> Self {
        Self {
            key: &finding.key,
            kind: &finding.kind,
            level: super::alert_level(finding.level()),
            object: super::text(&finding.object),
            detail: &finding.detail,
            remediation: super::text(&finding.remediation),
            parent_table: super::text(&finding.parent_table),
            definition: super::text(&finding.definition),
        }
    }
}

/// A target's metrics: the whole snapshot. What could not be read is null.
pub(crate) fn metrics(metrics: &proto::TargetMetrics) -> Value {
    let snapshot = metrics.snapshot.as_ref();
    json!({
        "target": metrics.target,
        "collect_time": super::time(metrics.collect_time.as_ref()),
        "up": metrics.up,
        "bytes_per_day": metrics.growth.map(|growth| growth.bytes_per_day),
        "days_until_full": metrics.growth.and_then(|growth| growth.days_until_full),
        "disk": metrics.disk.as_ref().map(|disk| json!({
            "folder": disk.folder, "used_bytes": disk.used_bytes, "free_bytes": disk.free_bytes, "total_bytes": disk.total_bytes,
        })),
        "disk_unknown": super::text(&metrics.disk_unknown),
        "time": super::time(snapshot.and_then(|snapshot| snapshot.time.as_ref())),
        "duration_seconds": super::seconds(snapshot.and_then(|snapshot| snapshot.duration.as_ref())),
        "exact": snapshot.is_some_and(|snapshot| snapshot.exact),
        "database": snapshot.and_then(|snapshot| snapshot.database.as_ref()).map(database),
        "tables": list(snapshot, |snapshot| &snapshot.tables, table),
        "tables_total": snapshot.map(|snapshot| snapshot.tables_total),
        "indexes": list(snapshot, |snapshot| &snapshot.indexes, index),
        "indexes_total": snapshot.map(|snapshot| snapshot.indexes_total),
        "sessions": snapshot.and_then(|snapshot| snapshot.sessions.as_ref()).map(sessions),
        "replicas": list(snapshot, |snapshot| &snapshot.replicas, replica),
        "slots": list(snapshot, |snapshot| &snapshot.slots, slot),
        "queries": list(snapshot, |snapshot| &snapshot.queries, query),
        "gaps": list(snapshot, |snapshot| &snapshot.gaps, gap),
    })
}

/// A list of the snapshot; empty where there is none.
fn list<'a, T: 'a>(
    snapshot: Option<&'a proto::MetricSnapshot>,
    of: impl Fn(&'a proto::MetricSnapshot) -> &'a Vec<T>,
    shape: impl Fn(&T) -> Value,
) -> Vec<Value> {
    snapshot.map(of).into_iter().flatten().map(shape).collect()
}

fn database(vitals: &proto::DatabaseVitals) -> Value {
    let temporary = vitals.old_temporary_tables.iter();
    let temporary: Vec<Value> = temporary
        .map(|table| json!({ "table": table.table, "xid_age": table.xid_age }))
        .collect();
    json!({
        "version": vitals.version, "size_bytes": vitals.size_bytes, "own_bytes": vitals.own_bytes, "in_recovery": vitals.in_recovery,
        "cache_hit_fraction": vitals.cache_hit_fraction, "index_hit_fraction": vitals.index_hit_fraction,
        "recent_cache_hit_fraction": vitals.recent_cache_hit_fraction, "recent_index_hit_fraction": vitals.recent_index_hit_fraction,
        "statistics_since_time": super::time(vitals.statistics_since_time.as_ref()), "wal_written_bytes": vitals.wal_written_bytes,
        "recent_wal_bytes_per_second": vitals.recent_wal_bytes_per_second,
        "wal_size_bytes": vitals.wal_size_bytes, "xid_age": vitals.xid_age, "xid_limit": vitals.xid_limit,
        "old_temporary_tables": temporary, "deadlocks": vitals.deadlocks, "rollbacks": vitals.rollbacks, "commits": vitals.commits,
        "horizon": vitals.horizon.as_ref().map(horizon), "page_bytes": vitals.page_bytes, "pages": vitals.pages,
        "free_pages": vitals.free_pages, "auto_vacuum": super::text(&vitals.auto_vacuum),
        "integrity_problems": vitals.integrity_checked.then_some(&vitals.integrity_problems),
    })
}

fn horizon(holder: &proto::VacuumHorizon) -> Value {
    json!({
        "kind": holder.kind, "name": holder.name, "detail": holder.detail, "xid_age": holder.xid_age,
        "age_seconds": super::seconds(holder.age.as_ref()), "remedy": super::text(&holder.remedy),
    })
}

fn table(table: &proto::TableVitals) -> Value {
    json!({
        "table": table.table, "own": table.own, "rows": table.rows, "rows_exact": table.rows_exact, "heap_bytes": table.heap_bytes,
        "index_bytes": table.index_bytes, "toast_bytes": table.toast_bytes, "dead_rows": table.dead_rows,
        "free_bytes": table.free_bytes, "free_exact": table.free_exact,
        "last_vacuum_time": super::time(table.last_vacuum_time.as_ref()),
        "last_analyze_time": super::time(table.last_analyze_time.as_ref()),
        "changed_since_analyze": table.changed_since_analyze, "sequential_scans": table.sequential_scans,
        "index_scans": table.index_scans, "inserted": table.inserted, "deleted": table.deleted,
    })
}

fn index(index: &proto::IndexVitals) -> Value {
    json!({
        "table": index.table, "name": index.name, "columns": index.columns, "method": index.method,
        "condition": super::text(&index.condition), "enforces": index.enforces, "valid": index.valid, "bytes": index.bytes,
        "scans": index.scans, "bloat_fraction": index.bloat_fraction, "bloat_exact": index.bloat_exact,
        "duplicate_of": super::text(&index.duplicate_of), "definition": super::text(&index.definition),
    })
}

fn sessions(sessions: &proto::SessionVitals) -> Value {
    let long = sessions.long_transactions.iter().map(|transaction| {
        json!({
            "pid": transaction.pid, "prepared": super::text(&transaction.prepared), "role": transaction.role,
            "application": super::text(&transaction.application), "state": transaction.state,
            "age_seconds": super::seconds(transaction.age.as_ref()), "blocks": transaction.blocks,
        })
    });
    json!({
        "connections": sessions.connections, "max_connections": sessions.max_connections, "active": sessions.active,
        "idle_in_transaction": sessions.idle_in_transaction, "waiting": sessions.waiting,
        "long_transactions": long.collect::<Vec<Value>>(),
    })
}

fn replica(replica: &proto::ReplicaVitals) -> Value {
    json!({ "name": replica.name, "state": replica.state, "lag_seconds": replica.lag_seconds, "lag_bytes": replica.lag_bytes })
}

fn slot(slot: &proto::SlotVitals) -> Value {
    json!({ "name": slot.name, "active": slot.active, "physical": slot.physical, "retained_bytes": slot.retained_bytes })
}

fn query(query: &proto::QueryVitals) -> Value {
    json!({
        "id": query.id, "text": query.text, "calls": query.calls, "mean_ms": query.mean_ms, "total_ms": query.total_ms,
        "share_fraction": query.share_fraction,
    })
}

/// Something that could not be read.
pub(crate) fn gap(gap: &proto::MetricGap) -> Value {
    json!({ "what": gap.what, "why": gap.why, "allow": super::text(&gap.allow) })
}

/// A point of history.
pub(crate) fn point(point: &proto::MetricPoint) -> Value {
    json!({
        "object": super::text(&point.object), "time": super::time(point.time.as_ref()), "samples": point.samples, "min": point.min,
        "max": point.max, "mean": point.mean, "last": point.last,
    })
}

/// A target at a glance.
pub(crate) fn health(health: &proto::TargetHealth) -> Value {
    json!({
        "name": health.name, "engine": super::engine(health.engine()), "up": health.up, "collect_time": super::time(health.collect_time.as_ref()),
        "size_bytes": health.size_bytes, "alerts": health.alerts,
        "migrations": health.migrations.as_ref().map(|counts| json!({
            "applied": counts.applied, "pending": counts.pending, "changed": counts.changed, "problem": super::text(&counts.problem),
        })),
    })
}

/// How full history is.
pub(crate) fn usage(usage: &proto::HistoryUsage) -> Value {
    json!({
        "series": usage.series, "max_series": usage.max_series, "points": usage.points, "max_points": usage.max_points,
        "trim_time": super::time(usage.trim_time.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_and_what_it_leaves_out() {
        let alert = proto::Alert {
            id: "a1".into(),
            rule: "target_down".into(),
            target: "app".into(),
            level: proto::AlertLevel::Error.into(),
            state: proto::AlertState::Raised.into(),
            detail: "away".into(),
            ..Default::default()
        };
        let value = serde_json::to_value(Alert::from(&alert)).unwrap();
        assert_eq!((&value["level"], &value["state"]), (&json!("error"), &json!("raised")));
        assert_eq!(
            (&value["object"], &value["value"], &value["note"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
    }

    #[test]
    fn what_could_not_be_read_is_null_and_not_zero() {
        let measured = proto::TargetMetrics {
            snapshot: Some(proto::MetricSnapshot {
                database: Some(proto::DatabaseVitals {
                    size_bytes: Some(0),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let value = metrics(&measured);
        assert_eq!(
            (&value["database"]["size_bytes"], &value["database"]["commits"]),
            (&json!(0), &Value::Null)
        );
        assert_eq!((&value["sessions"], &value["up"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn the_whole_snapshot_is_there() {
        let measured = proto::TargetMetrics {
            snapshot: Some(proto::MetricSnapshot {
                indexes: vec![proto::IndexVitals {
                    name: "on_v".into(),
                    definition: "CREATE INDEX on_v ON t (v)".into(),
                    ..Default::default()
                }],
                indexes_total: 7,
                replicas: vec![proto::ReplicaVitals {
                    name: "standby".into(),
                    ..Default::default()
                }],
                slots: vec![proto::SlotVitals {
                    name: "gone".into(),
                    physical: true,
                    ..Default::default()
                }],
                database: Some(proto::DatabaseVitals {
                    horizon: Some(proto::VacuumHorizon {
                        kind: "replica".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                sessions: Some(proto::SessionVitals {
                    long_transactions: vec![proto::LongTransaction {
                        prepared: "two".into(),
                        blocks: vec![5],
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let value = metrics(&measured);
        assert_eq!(value["indexes"][0]["definition"], json!("CREATE INDEX on_v ON t (v)"));
        assert_eq!(value["indexes_total"], json!(7));
        assert_eq!(value["replicas"][0]["name"], json!("standby"));
        assert_eq!(value["slots"][0]["physical"], json!(true));
        assert_eq!(value["database"]["horizon"]["kind"], json!("replica"));
        let long = &value["sessions"]["long_transactions"][0];
        assert_eq!((&long["prepared"], &long["blocks"]), (&json!("two"), &json!([5])));
    }
}
