//! Tables and the file: space that nothing uses, and statistics that are old.

use super::{
    super::text::{bytes, fraction, percent, quoted_table},
    Patient,
};
use crate::model::monitor::{Finding, FindingKind, Level, Precision, TableVitals};

pub(super) fn look(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    for table in patient.snapshot.tables.iter().filter(|table| !table.own) {
        found.extend(dead_rows(patient, table));
        found.extend(stale_statistics(patient, table));
        found.extend(bloated(patient, table));
    }
    if patient.is_postgres() {
        return;
    }
    found.extend(free_pages(patient));
    found.extend(large_wal(patient));
    found.extend(no_statistics(patient));
}

fn dead_rows(patient: &Patient<'_>, table: &TableVitals) -> Option<Finding> {
    let dead = table.dead_rows?;
    let live = table.rows.map_or(0, |rows| rows.rows);
    let part = fraction(dead, dead + live);
    if dead < patient.bounds.rows || part < patient.bounds.dead_fraction {
        return None;
    }
    let holder = patient.snapshot.database.horizon.as_ref();
    let held = holder.map_or_else(String::new, |holder| {
        format!(
            "; those that are newer than {} {} cannot be removed while it lasts",
            holder.kind, holder.name
        )
    });
    Some(Finding {
        kind: FindingKind::DeadRows,
        level: Level::Warning,
        object: table.table.to_string(),
        parent: None,
        definition: String::new(),
        detail: format!("{dead} of {} rows are dead ({}){held}", dead + live, percent(part)),
        remediation: format!("VACUUM (ANALYZE) {};", quoted_table(&table.table)),
    })
}

fn stale_statistics(patient: &Patient<'_>, table: &TableVitals) -> Option<Finding> {
    let changed = table.changed_since_analyze?;
    let rows = table.rows.map_or(0, |rows| rows.rows);
    if changed < patient.bounds.rows || fraction(changed, rows.max(changed)) < patient.bounds.dead_fraction {
        return None;
    }
    let detail = match table.last_analyze {
        Some(_) => format!("{changed} rows have changed since the last ANALYZE, of {rows}"),
        None => format!("{changed} rows have changed, and the table was never analyzed"),
    };
    Some(Finding {
        kind: FindingKind::StaleStatistics,
        level: Level::Info,
        object: table.table.to_string(),
        parent: None,
        definition: String::new(),
        detail,
        remediation: format!("ANALYZE {};", quoted_table(&table.table)),
    })
}

fn bloated(patient: &Patient<'_>, table: &TableVitals) -> Option<Finding> {
    let (free, heap) = (table.free_bytes?, table.heap_bytes?);
    let part = fraction(free, heap);
    if free < patient.bounds.bloat_bytes || part < patient.bounds.bloat_fraction {
        return None;
    }
    let how = match table.free_precision {
        Some(Precision::Exact) => "measured",
        Some(Precision::Estimated) | None => "estimated",
    };
    // SQLite's free pages belong to the file, and are told of there.
    patient.is_postgres().then(|| Finding {
        kind: FindingKind::BloatedTable,
        level: Level::Info,
        object: table.table.to_string(),
        parent: None,
        definition: String::new(),
        detail: format!(
            "{} of {} are free for new rows ({}, {how}); VACUUM does not give them back to the disk",
            bytes(free),
            bytes(heap),
            percent(part)
        ),
        remediation: format!(
            "VACUUM (FULL) {}; -- locks the table for as long as it takes; pg_repack does not",
            quoted_table(&table.table)
        ),
    })
}

fn free_pages(patient: &Patient<'_>) -> Option<Finding> {
    let database = &patient.snapshot.database;
    let (free, pages, page) = (database.free_pages?, database.pages?, database.page_bytes?);
    let part = fraction(free, pages);
    if free * page < patient.bounds.bloat_bytes || part < patient.bounds.free_fraction {
        return None;
    }
    let remediation = if database.auto_vacuum == "incremental" {
        "PRAGMA incremental_vacuum;"
    } else {
        "VACUUM; -- needs as much room again, and keeps writers out for as long as it takes"
    };
    Some(Finding {
        kind: FindingKind::FreePages,
        level: Level::Info,
        object: String::new(),
        parent: None,
        definition: String::new(),
        detail: format!(
            "{} of {} of the file are free pages ({}): new rows use them, the disk does not",
            bytes(free * page),
            bytes(pages * page),
            percent(part)
        ),
        remediation: remediation.to_owned(),
    })
}

fn large_wal(patient: &Patient<'_>) -> Option<Finding> {
    let wal = patient.snapshot.database.wal_size_bytes?;
    (wal >= patient.bounds.wal_bytes).then(|| Finding {
        kind: FindingKind::LargeWal,
        level: Level::Warning,
        object: String::new(),
        parent: None,
        definition: String::new(),
        detail: format!(
            "the write-ahead log has {}: a reader that does not end, or writers without a pause, keep it from being used again",
            bytes(wal)
        ),
        remediation: "PRAGMA wal_checkpoint(TRUNCATE);".to_owned(),
    })
}

fn no_statistics(patient: &Patient<'_>) -> Option<Finding> {
    let indexed = |table: &TableVitals| {
        patient
            .snapshot
            .indexes
            .iter()
            .any(|index| index.table == table.table && !index.columns.is_empty())
    };
    let database = &patient.snapshot.database;
    let size = database.size_bytes.unwrap_or(0);
    let tables = || patient.snapshot.tables.iter().filter(|table| !table.own);
    // ANALYZE says nothing of an empty table: where it has said something of others, it was there. In a small file guesses do not hurt.
    if size < patient.bounds.index_bytes || tables().any(|table| table.rows.is_some()) {
        return None;
    }
    let missing = tables().filter(|table| indexed(table)).count();
    (missing > 0).then(|| Finding {
        kind: FindingKind::StaleStatistics,
        level: Level::Info,
        object: String::new(),
        parent: None,
        definition: String::new(),
        detail: format!("{missing} tables with indexes have no statistics: the planner guesses"),
        remediation: "ANALYZE;".to_owned(),
    })
}
