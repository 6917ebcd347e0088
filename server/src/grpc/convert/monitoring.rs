//! Snapshots, history, findings, advice and alerts.

use dbkeep_engine::{
    engine::monitoring::{History, ServiceStatus, TargetHealth, TargetMetrics},
    model::monitor::{
        Alert, AlertState, Depth, Finding, Gap, HorizonHolder, IndexVitals, Level, LongTransaction, OldTemporary, Precision,
        QueryVitals, ReplicaVitals, SessionVitals, SlotVitals, Snapshot, TableVitals, Vitals,
    },
    monitor::history::Growth,
    port::{DiskNumbers, HistoryUsage, Step},
};
use dbkeep_proto::v1;

use super::{run, schedule, target, time};
use crate::grpc::validate::Check;

/// Most bytes of the tables of a snapshot, and of its indexes: clients of gRPC refuse messages of over 4 MiB, unless they are told not to.
const ROOM: usize = 3 << 19;
/// Bytes of a message in another one, beside its own.
const FRAME: usize = 6;

/// The service at a glance.
pub(in crate::grpc) fn status(status: ServiceStatus) -> v1::GetStatusResponse {
    v1::GetStatusResponse {
        scheduler: Some(schedule::scheduler(status.scheduler)),
        targets: status.targets.into_iter().map(health).collect(),
        runs: status.runs.into_iter().map(run::run).collect(),
        alerts: status.alerts.into_iter().map(alert).collect(),
        history: status.history.map(usage),
        collecting: status.collecting,
        gaps: status.gaps.into_iter().map(gap).collect(),
    }
}

fn health(health: TargetHealth) -> v1::TargetHealth {
    v1::TargetHealth {
        name: health.target,
        up: health.collected.as_ref().map(|collected| collected.up),
        collect_time: health.collected.map(|collected| time::timestamp(collected.at)),
        size_bytes: health.size_bytes,
        alerts: health.alerts,
        migrations: health.migrations.map(|counts| v1::MigrationCounts {
            applied: counts.applied,
            pending: counts.pending,
            changed: counts.changed,
            problem: counts.problem,
        }),
        engine: target::engine(health.engine).into(),
    }
}

fn usage(usage: HistoryUsage) -> v1::HistoryUsage {
    v1::HistoryUsage {
        series: usage.series,
        max_series: usage.max_series,
        points: usage.points,
        max_points: usage.max_points,
        trim_time: usage.trimmed_at.map(time::timestamp),
    }
}

/// The health of a target.
pub(in crate::grpc) fn metrics(metrics: TargetMetrics) -> v1::TargetMetrics {
    let database = &metrics.snapshot.database;
    let disk_unknown = match (&metrics.disk, &database.data_folder) {
        (Some(_), _) => String::new(),
        // The snapshot is of a server beside it.
        (None, Some(_)) => "the server that answers is on another machine: ask the one beside the database".to_owned(),
        (None, None) => database.disk_unknown.clone(),
    };
    v1::TargetMetrics {
        disk_unknown,
        disk: metrics.disk.map(disk),
        target: metrics.target,
        collect_time: metrics.collected_at.map(time::timestamp),
        up: metrics.up,
        snapshot: Some(snapshot(metrics.snapshot)),
        growth: metrics.growth.map(growth),
    }
}

fn disk(disk: DiskNumbers) -> v1::TargetDisk {
    v1::TargetDisk {
        folder: disk.folder,
        used_bytes: disk.used_bytes,
        free_bytes: disk.free_bytes,
        total_bytes: disk.total_bytes,
    }
}

fn growth(growth: Growth) -> v1::DatabaseGrowth {
    v1::DatabaseGrowth {
        bytes_per_day: growth.bytes_per_day,
        days_until_full: growth.days_until_full,
    }
}

/// The same for whoever watches, again and again: without the statements that make indexes.
pub(in crate::grpc) fn watched(mut kept: Snapshot) -> v1::MetricSnapshot {
    for index in &mut kept.indexes {
        index.definition.clear();
    }
    snapshot(kept)
}

/// The first of a list that together are not larger than [`ROOM`].
fn fitting<T: prost::Message>(list: impl Iterator<Item = T>) -> Vec<T> {
    let mut room = ROOM;
    list.map_while(|one| {
        // Its length stands before it.
        room = room.checked_sub(one.encoded_len() + FRAME)?;
        Some(one)
    })
    .collect()
}

/// A snapshot. Of a database with very many tables it has the largest, so that any client takes it.
fn snapshot(snapshot: Snapshot) -> v1::MetricSnapshot {
    v1::MetricSnapshot {
        tables_total: snapshot.tables.len() as u64,
        indexes_total: snapshot.indexes.len() as u64,
        time: Some(time::timestamp(snapshot.at)),
        duration: Some(time::milliseconds(snapshot.took_ms)),
        exact: snapshot.depth == Depth::Exact,
        database: Some(database(snapshot.database)),
        tables: fitting(snapshot.tables.into_iter().map(table)),
        indexes: fitting(snapshot.indexes.into_iter().map(index)),
        queries: snapshot.queries.into_iter().map(query).collect(),
        sessions: snapshot.sessions.map(sessions),
        replicas: snapshot.replicas.into_iter().map(replica).collect(),
        slots: snapshot.slots.into_iter().map(slot).collect(),
        gaps: snapshot.gaps.into_iter().map(gap).collect(),
    }
}

fn gap(gap: Gap) -> v1::MetricGap {
    v1::MetricGap {
        what: gap.what,
        why: gap.why,
        allow: gap.allow,
    }
}

fn database(vitals: Vitals) -> v1::DatabaseVitals {
    v1::DatabaseVitals {
        version: vitals.version,
        size_bytes: vitals.size_bytes,
        own_bytes: vitals.own_bytes,
        in_recovery: vitals.in_recovery,
        cache_hit_fraction: vitals.cache_hit_fraction,
        index_hit_fraction: vitals.index_hit_fraction,
        statistics_since_time: vitals.statistics_since.map(time::timestamp),
        wal_written_bytes: vitals.wal_written_bytes,
        wal_size_bytes: vitals.wal_size_bytes,
        xid_age: vitals.xid_age,
        xid_limit: vitals.xid_limit,
        deadlocks: vitals.deadlocks,
        rollbacks: vitals.rollbacks,
        commits: vitals.commits,
        horizon: vitals.horizon.map(horizon),
        page_bytes: vitals.page_bytes,
        pages: vitals.pages,
        free_pages: vitals.free_pages,
        auto_vacuum: vitals.auto_vacuum,
        integrity_checked: vitals.integrity_problems.is_some(),
        integrity_problems: vitals.integrity_problems.unwrap_or_default(),
        recent_cache_hit_fraction: vitals.recent_cache_hit_fraction,
        recent_index_hit_fraction: vitals.recent_index_hit_fraction,
        old_temporary_tables: vitals.old_temporary.iter().map(temporary).collect(),
        recent_wal_bytes_per_second: vitals.recent_wal_bytes_per_second,
    }
}

fn temporary(table: &OldTemporary) -> v1::OldTemporaryTable {
    v1::OldTemporaryTable {
        table: table.table.to_string(),
        xid_age: table.xid_age,
    }
}

fn horizon(holder: HorizonHolder) -> v1::VacuumHorizon {
    v1::VacuumHorizon {
        kind: holder.kind,
        name: holder.name,
        detail: holder.detail,
        xid_age: holder.xid_age,
        age: holder.seconds.map(time::seconds),
        remedy: holder.remedy,
    }
}

fn table(table: TableVitals) -> v1::TableVitals {
    v1::TableVitals {
        table: table.table.to_string(),
        own: table.own,
        rows: table.rows.map(|rows| rows.rows),
        rows_exact: table.rows.is_some_and(|rows| rows.precision == Precision::Exact),
        heap_bytes: table.heap_bytes,
        index_bytes: table.index_bytes,
        toast_bytes: table.toast_bytes,
        dead_rows: table.dead_rows,
        free_bytes: table.free_bytes,
        free_exact: table.free_precision == Some(Precision::Exact),
        last_vacuum_time: table.last_vacuum.map(time::timestamp),
        last_analyze_time: table.last_analyze.map(time::timestamp),
        changed_since_analyze: table.changed_since_analyze,
        sequential_scans: table.sequential_scans,
        index_scans: table.index_scans,
        inserted: table.inserted,
        deleted: table.deleted,
    }
}

fn index(index: IndexVitals) -> v1::IndexVitals {
    v1::IndexVitals {
        table: index.table.to_string(),
        name: index.name,
        columns: index.columns,
        method: index.method,
        condition: index.condition,
        enforces: index.enforces,
        valid: index.valid,
        bytes: index.bytes,
        scans: index.scans,
        bloat_fraction: index.bloat_fraction,
        bloat_exact: index.bloat_precision == Some(Precision::Exact),
        duplicate_of: index.duplicate_of.unwrap_or_default(),
        definition: index.definition,
    }
}

fn query(query: QueryVitals) -> v1::QueryVitals {
    v1::QueryVitals {
        id: query.id,
        text: query.text,
        calls: query.calls,
        mean_ms: query.mean_ms,
        total_ms: query.total_ms,
        share_fraction: query.share_fraction,
    }
}

fn sessions(sessions: SessionVitals) -> v1::SessionVitals {
    v1::SessionVitals {
        connections: sessions.connections,
        max_connections: sessions.max_connections,
        active: sessions.active,
        idle_in_transaction: sessions.idle_in_transaction,
        waiting: sessions.waiting,
        long_transactions: sessions.long_transactions.into_iter().map(long_transaction).collect(),
    }
}

fn long_transaction(transaction: LongTransaction) -> v1::LongTransaction {
    v1::LongTransaction {
        pid: transaction.pid,
        role: transaction.role,
        application: transaction.application,
        state: transaction.state,
        age: Some(time::seconds(transaction.seconds)),
        blocks: transaction.blocks,
        prepared: transaction.prepared.unwrap_or_default(),
    }
}

fn replica(replica: ReplicaVitals) -> v1::ReplicaVitals {
    v1::ReplicaVitals {
        name: replica.name,
        state: replica.state,
        lag_seconds: replica.lag_seconds,
        lag_bytes: replica.lag_bytes,
    }
}

fn slot(slot: SlotVitals) -> v1::SlotVitals {
    v1::SlotVitals {
        name: slot.name,
        active: slot.active,
        physical: slot.physical,
        retained_bytes: slot.retained_bytes,
    }
}

/// A stretch of history.
pub(in crate::grpc) fn history(history: History) -> v1::ListMetricHistoryResponse {
    let step = match history.step {
        Step::Raw => v1::MetricStep::Raw,
        Step::FiveMinutes => v1::MetricStep::FiveMinutes,
        Step::Hour => v1::MetricStep::Hour,
    };
    v1::ListMetricHistoryResponse {
        step: step.into(),
        points: history
            .points
            .into_iter()
            .map(|point| v1::MetricPoint {
                object: point.object,
                time: Some(time::timestamp(point.at)),
                samples: point.samples,
                min: point.min,
                max: point.max,
                mean: point.mean,
                last: point.last,
            })
            .collect(),
        truncated: history.more,
    }
}

/// How fine a history is wanted; what means nothing is noted in `check`.
pub(in crate::grpc) fn step(number: i32, check: &mut Check) -> Option<Step> {
    match v1::MetricStep::try_from(number) {
        Ok(v1::MetricStep::Unspecified) => None,
        Ok(v1::MetricStep::Raw) => Some(Step::Raw),
        Ok(v1::MetricStep::FiveMinutes) => Some(Step::FiveMinutes),
        Ok(v1::MetricStep::Hour) => Some(Step::Hour),
        Err(_) => {
            check.refuse(
                "step",
                format!("is {number}; expected a step, or METRIC_STEP_UNSPECIFIED for one that fits"),
            );
            None
        }
    }
}

/// A finding.
pub(in crate::grpc) fn finding(finding: Finding) -> v1::HealthFinding {
    v1::HealthFinding {
        key: finding.key(),
        kind: finding.kind.name().to_owned(),
        level: level(finding.level).into(),
        object: finding.object,
        detail: finding.detail,
        remediation: finding.remediation,
        definition: finding.definition,
        parent_table: finding.parent.map(|table| table.to_string()).unwrap_or_default(),
    }
}

fn level(level: Level) -> v1::AlertLevel {
    match level {
        Level::Info => v1::AlertLevel::Info,
        Level::Warning => v1::AlertLevel::Warning,
        Level::Error => v1::AlertLevel::Error,
    }
}

/// An alert.
pub(in crate::grpc) fn alert(alert: Alert) -> v1::Alert {
    let state = match alert.state {
        AlertState::Pending => v1::AlertState::Pending,
        AlertState::Raised => v1::AlertState::Raised,
        AlertState::Resolved => v1::AlertState::Resolved,
    };
    v1::Alert {
        id: alert.id.to_string(),
        rule: alert.rule,
        target: alert.target,
        object: alert.object,
        level: level(alert.level).into(),
        state: state.into(),
        threshold: alert.threshold.map(|threshold| v1::AlertThreshold {
            value: threshold.value,
            raise_at: threshold.raise_at,
            clear_at: threshold.clear_at,
        }),
        detail: alert.detail,
        remediation: alert.remediation,
        since_time: Some(time::timestamp(alert.since)),
        raised_time: alert.raised_at.map(time::timestamp),
        seen_time: Some(time::timestamp(alert.seen_at)),
        resolved_time: alert.resolved_at.map(time::timestamp),
        acknowledgement: alert.acknowledged.map(|(principal, at, note)| v1::Acknowledgement {
            principal,
            time: Some(time::timestamp(at)),
            note,
        }),
    }
}

/// The states of a filter, those that are raised where there are none; what means nothing is noted in `check`.
pub(in crate::grpc) fn states(numbers: &[i32], check: &mut Check) -> Vec<AlertState> {
    if numbers.is_empty() {
        return vec![AlertState::Raised];
    }
    let mut states = Vec::new();
    for (position, number) in numbers.iter().enumerate() {
        match v1::AlertState::try_from(*number) {
            Ok(v1::AlertState::Pending) => states.push(AlertState::Pending),
            Ok(v1::AlertState::Raised) => states.push(AlertState::Raised),
            Ok(v1::AlertState::Resolved) => states.push(AlertState::Resolved),
            Ok(v1::AlertState::Unspecified) | Err(_) => {
                check.refuse(
                    format!("states[{position}]"),
                    format!("is {number}; expected a state of alerts"),
                );
            }
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::TableName;
    use prost::Message as _;

    use super::*;

    /// As the collector keeps it; what is not said here is not known.
    fn kept(tables: usize, definition: usize) -> Snapshot {
        let name = |number: usize| TableName {
            schema: Some("tenant".to_owned()),
            name: format!("a table with a rather long name, of tenant {number}"),
        };
        let table = |number| {
            let json = serde_json::json!({
                "table": name(number), "own": false, "rows": { "rows": 1_000_000, "precision": "estimated" },
                "heap_bytes": 1_u64 << 40, "index_bytes": 1_u64 << 40, "toast_bytes": 1_u64 << 40, "dead_rows": 1_u64 << 40,
                "free_bytes": 1_u64 << 40, "free_precision": "estimated", "last_vacuum": "2026-01-01T00:00:00.123456Z",
                "last_analyze": "2026-01-01T00:00:00.123456Z", "changed_since_analyze": 1_u64 << 40, "sequential_scans": 1_u64 << 40,
                "index_scans": 1_u64 << 40, "inserted": 1_u64 << 40, "deleted": 1_u64 << 40, "xid_age": 1,
            });
            serde_json::from_value(json).expect("a table")
        };
        let index = |number: usize| {
            let json = serde_json::json!({
                "table": name(number / 3), "name": format!("index {number}"), "columns": ["tenant_id", "created_at"], "method": "btree",
                "condition": "", "enforces": false, "valid": true, "bytes": 1_u64 << 40, "scans": 1_u64 << 40, "bloat_fraction": 0.5,
                "duplicate_of": null, "definition": "x".repeat(definition),
            });
            serde_json::from_value(json).expect("an index")
        };
        Snapshot {
            at: jiff::Timestamp::UNIX_EPOCH,
            took_ms: 1,
            depth: Depth::Quick,
            database: Vitals::default(),
            tables: (0..tables).map(table).collect(),
            indexes: (0..tables * 3).map(index).collect(),
            unindexed_keys: Vec::new(),
            queries: Vec::new(),
            sessions: None,
            replicas: Vec::new(),
            slots: Vec::new(),
            gaps: Vec::new(),
        }
    }

    #[test]
    fn a_snapshot_of_many_tables_fits_into_a_message() {
        let sent = snapshot(kept(20_000, 300));
        assert!(sent.encoded_len() < 4 << 20, "{} bytes", sent.encoded_len());
        assert_eq!((sent.tables_total, sent.indexes_total), (20_000, 60_000));
        assert!(sent.tables.len() > 5_000 && sent.indexes.len() > 3_000);
        assert!(sent.tables[0].table.ends_with("tenant 0"), "the largest come first");
        let small = snapshot(kept(10, 300));
        assert_eq!((small.tables.len(), small.indexes.len()), (10, 30));
        assert!(small.indexes.iter().all(|index| index.definition.len() == 300));
        let one = snapshot(kept(1, ROOM));
        assert_eq!((one.tables.len(), one.indexes.len(), one.indexes_total), (1, 0, 3));
    }

    #[test]
    fn watchers_get_no_definitions() {
        let sent = watched(kept(20_000, 5_000));
        assert!(sent.encoded_len() < 4 << 20);
        assert!(sent.indexes.len() > 5_000 && sent.indexes.iter().all(|index| index.definition.is_empty()));
    }
}
