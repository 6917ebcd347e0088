//! Indexes that cost and do not serve; [`keys`] looks for those that are missing.

use super::{
    super::text::{bytes, in_schema, percent, seconds},
    Patient, keys,
};
use crate::model::monitor::{Finding, FindingKind, IndexVitals, Level, Precision};

pub(super) fn look(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    let own = |index: &IndexVitals| {
        patient
            .snapshot
            .tables
            .iter()
            .any(|table| table.own && table.table == index.table)
    };
    for index in patient.snapshot.indexes.iter().filter(|index| !own(index)) {
        // One word for one index: of two reasons to drop it the stronger.
        let finding = invalid(patient, index)
            .or_else(|| duplicate(patient, index))
            .or_else(|| unused(patient, index))
            .or_else(|| bloated(patient, index));
        found.extend(finding);
    }
    keys::unindexed(patient, found);
}

fn full_name(index: &IndexVitals) -> String {
    match &index.table.schema {
        Some(schema) => format!("{schema}.{}", index.name),
        None => index.name.clone(),
    }
}

fn drop_statement(patient: &Patient<'_>, index: &IndexVitals) -> String {
    let concurrently = if patient.is_postgres() { "CONCURRENTLY " } else { "" };
    format!("DROP INDEX {concurrently}{};", in_schema(&index.table, &index.name))
}

fn rebuild_statement(patient: &Patient<'_>, index: &IndexVitals) -> String {
    let how = if patient.is_postgres() {
        "REINDEX INDEX CONCURRENTLY"
    } else {
        "REINDEX"
    };
    format!("{how} {};", in_schema(&index.table, &index.name))
}

fn size(index: &IndexVitals) -> String {
    index.bytes.map_or_else(String::new, |size| format!(", {}", bytes(size)))
}

fn invalid(patient: &Patient<'_>, index: &IndexVitals) -> Option<Finding> {
    if index.valid {
        return None;
    }
    // What REINDEX CONCURRENTLY leaves behind has the working index beside it.
    let left_behind = ["_ccnew", "_ccold"].iter().any(|mark| {
        index
            .name
            .rsplit_once(mark)
            .is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let remediation = if left_behind {
        drop_statement(patient, index)
    } else if index.definition.starts_with("CREATE UNIQUE") {
        format!("{} -- once no value is there twice", rebuild_statement(patient, index))
    } else {
        rebuild_statement(patient, index)
    };
    Some(Finding {
        kind: FindingKind::InvalidIndex,
        level: Level::Warning,
        object: full_name(index),
        parent: None,
        definition: String::new(),
        detail: format!(
            "the index of {} failed to build{}: every write keeps it up to date, and no statement can use it",
            index.table,
            size(index)
        ),
        remediation,
    })
}

fn duplicate(patient: &Patient<'_>, index: &IndexVitals) -> Option<Finding> {
    let other = index.duplicate_of.as_ref().filter(|_| !index.enforces)?;
    Some(Finding {
        kind: FindingKind::DuplicateIndex,
        level: Level::Warning,
        object: full_name(index),
        parent: None,
        definition: index.definition.clone(),
        detail: format!(
            "{other} does the work of this index of {} ({}){}",
            index.table,
            index.columns.join(", "),
            size(index)
        ),
        remediation: drop_statement(patient, index),
    })
}

fn unused(patient: &Patient<'_>, index: &IndexVitals) -> Option<Finding> {
    let bounds = patient.bounds;
    let size_is_worth_it = index.bytes? >= bounds.index_bytes;
    // A key's index is used when a parent is deleted, however seldom that is; one that CLUSTER goes by is not there for statements alone.
    let is_kept = index.enforces || index.serves_key || index.clustered;
    if is_kept || index.scans? > 0 || !size_is_worth_it {
        return None;
    }
    // Whichever is later, the index or the statistics: what nobody has counted is no evidence.
    let counted_since = patient.snapshot.database.statistics_since?.max(index.first_seen?);
    let age = u64::try_from(patient.at().as_second() - counted_since.as_second()).ok()?;
    let table = patient.snapshot.tables.iter().find(|table| table.table == index.table);
    let scans = table.map_or(0, |table| {
        table.sequential_scans.unwrap_or(0) + table.index_scans.unwrap_or(0)
    });
    if age < bounds.evidence_seconds || scans < bounds.evidence_scans {
        return None;
    }
    let mut caveats = String::new();
    if patient.has_replicas() {
        caveats.push_str("; statements on replicas are not in this count: look there first");
    }
    if index.expression {
        caveats.push_str("; ANALYZE keeps statistics of its expression, which the planner loses with it: CREATE STATISTICS keeps them, from PostgreSQL 14 on");
    }
    Some(Finding {
        kind: FindingKind::UnusedIndex,
        level: if caveats.is_empty() { Level::Warning } else { Level::Info },
        object: full_name(index),
        parent: None,
        definition: index.definition.clone(),
        detail: format!(
            "no statement has used the index of {} for {}, while the table was read {scans} times{}{caveats}",
            index.table,
            seconds(age),
            size(index)
        ),
        remediation: drop_statement(patient, index),
    })
}

fn bloated(patient: &Patient<'_>, index: &IndexVitals) -> Option<Finding> {
    let (fraction, size) = (index.bloat_fraction?, index.bytes?);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of bytes, between 0 and the size"
    )]
    let empty = (size as f64 * fraction.clamp(0.0, 1.0)) as u64;
    if fraction < patient.bounds.bloat_fraction || empty < patient.bounds.bloat_bytes {
        return None;
    }
    let how = match index.bloat_precision {
        Some(Precision::Exact) => "measured",
        Some(Precision::Estimated) | None => "estimated",
    };
    Some(Finding {
        kind: FindingKind::BloatedIndex,
        level: Level::Info,
        object: full_name(index),
        parent: None,
        definition: String::new(),
        detail: format!(
            "about {} of {} of the index of {} are empty ({how})",
            percent(fraction),
            bytes(size),
            index.table
        ),
        remediation: rebuild_statement(patient, index),
    })
}
