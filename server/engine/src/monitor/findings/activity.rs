//! The database at work: memory, sessions, the horizon, replicas, transaction ids, integrity.

use super::{
    super::text::{bytes, fraction, literal, percent, quoted_table, seconds},
    Patient,
};
use crate::model::monitor::{Finding, FindingKind, Level, LongTransaction};

/// What PostgreSQL calls the process that vacuums and analyzes by itself.
const AUTOVACUUM: &str = "autovacuum worker";

/// Part of the database's age from which on a table is among those that make it that old.
const HOLDS_BACK: f64 = 0.95;

pub(super) fn look(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    memory(patient, found);
    transactions(patient, found);
    found.extend(horizon(patient));
    found.extend(wraparound(patient));
    found.extend(connections(patient));
    replication(patient, found);
    queries(patient, found);
    integrity(patient, found);
}

fn whole(kind: FindingKind, level: Level, detail: String, remediation: impl Into<String>) -> Finding {
    Finding {
        kind,
        level,
        object: String::new(),
        parent: None,
        definition: String::new(),
        detail,
        remediation: remediation.into(),
    }
}

fn memory(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    let database = &patient.snapshot.database;
    // Averages since the statistics began say little of today: after a year nothing moves them.
    let low = |hit: Option<f64>| hit.filter(|hit| *hit < patient.bounds.hit_fraction);
    let advice = "raise shared_buffers, give the server more memory, or find the statements that read whole tables";
    if let Some(hit) = low(database.recent_cache_hit_fraction) {
        let detail = format!(
            "{} of the table blocks that were asked for since the look before were in memory",
            percent(hit)
        );
        found.push(whole(FindingKind::LowCacheHit, Level::Warning, detail, advice));
    }
    if let Some(hit) = low(database.recent_index_hit_fraction) {
        let detail = format!(
            "{} of the index blocks that were asked for since the look before were in memory",
            percent(hit)
        );
        found.push(whole(FindingKind::LowIndexHit, Level::Warning, detail, advice));
    }
}

fn transactions(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    let Some(sessions) = &patient.snapshot.sessions else {
        return;
    };
    for transaction in &sessions.long_transactions {
        let (object, who) = match &transaction.prepared {
            Some(name) => (
                format!("prepared {name}"),
                format!("the prepared transaction {name} ({})", transaction.role),
            ),
            None => (
                transaction.pid.to_string(),
                format!(
                    "session {} ({}, {})",
                    transaction.pid, transaction.role, transaction.application
                ),
            ),
        };
        let end = end_of(transaction);
        if !transaction.blocks.is_empty() {
            found.push(Finding {
                kind: FindingKind::BlockedSessions,
                level: Level::Warning,
                object,
                parent: None,
                definition: String::new(),
                detail: format!(
                    "{} sessions wait for {who}, in a transaction for {}, {}",
                    transaction.blocks.len(),
                    seconds(transaction.seconds),
                    transaction.state
                ),
                remediation: end,
            });
        } else if transaction.seconds >= patient.bounds.transaction_seconds {
            found.push(Finding {
                kind: FindingKind::LongTransaction,
                level: Level::Warning,
                object,
                parent: None,
                definition: String::new(),
                detail: format!(
                    "{who} is in a transaction for {}, {}",
                    seconds(transaction.seconds),
                    transaction.state
                ),
                remediation: end,
            });
        }
    }
}

/// How a transaction is ended. Not so what dbkeep does: it would begin again, and a run is stopped by its name; nor autovacuum, which the
/// database starts again.
fn end_of(transaction: &LongTransaction) -> String {
    if let Some(name) = &transaction.prepared {
        return format!(
            "ROLLBACK PREPARED {}; -- or COMMIT PREPARED, whichever its owner meant",
            literal(name)
        );
    }
    if transaction.own {
        return match &transaction.run {
            Some(run) => format!("dbkeep runs cancel {run}"),
            None => "dbkeep is at work: wait, or cancel what `dbkeep runs list` shows to be running".to_owned(),
        };
    }
    if transaction.backend == AUTOVACUUM {
        let waiting: Vec<String> = transaction
            .blocks
            .iter()
            .map(|pid| format!("SELECT pg_cancel_backend({pid});"))
            .collect();
        return format!(
            "wait until autovacuum is done with it, or end the statement that waits: {}",
            waiting.join(" ")
        );
    }
    let end = format!("SELECT pg_terminate_backend({});", transaction.pid);
    if transaction.backend.is_empty() {
        return format!("{end} -- once somebody has seen what it is: dbkeep's role may not");
    }
    end
}

fn horizon(patient: &Patient<'_>) -> Option<Finding> {
    let holder = patient.snapshot.database.horizon.as_ref()?;
    let long = match holder.seconds {
        Some(seconds) => seconds >= patient.bounds.horizon_seconds,
        None => holder.xid_age >= patient.bounds.horizon_xids,
    };
    let since = holder
        .seconds
        .map_or_else(String::new, |time| format!(" for {}", seconds(time)));
    long.then(|| Finding {
        kind: FindingKind::HorizonHeld,
        level: Level::Warning,
        object: format!("{} {}", holder.kind, holder.name),
        parent: None,
        definition: String::new(),
        detail: format!(
            "{} {} keeps VACUUM from removing what died in the last {} transactions{since} ({})",
            holder.kind, holder.name, holder.xid_age, holder.detail
        ),
        remediation: holder.remedy.clone(),
    })
}

fn wraparound(patient: &Patient<'_>) -> Option<Finding> {
    let database = &patient.snapshot.database;
    let (age, limit) = (database.xid_age?, database.xid_limit?);
    let part = fraction(age, limit);
    let (warning, error) = patient.bounds.wraparound;
    if part < warning {
        return None;
    }
    // What is much younger does not hold the database back, whatever a VACUUM of it does.
    let holds = |own: u64| fraction(own, age) >= HOLDS_BACK;
    let tables = patient.snapshot.tables.iter();
    let oldest = tables
        .filter(|table| table.xid_age.is_some_and(holds))
        .max_by_key(|table| table.xid_age);
    let temporary: Vec<_> = database.old_temporary.iter().filter(|table| holds(table.xid_age)).collect();
    let there = if patient.takes_writes() { "" } else { "on its primary: " };
    let mut statements: Vec<String> = temporary
        .iter()
        .map(|table| {
            format!(
                "{there}DROP TABLE {}; -- temporary, which no VACUUM reaches: once its session has ended",
                quoted_table(&table.table)
            )
        })
        .collect();
    statements.push(match oldest {
        Some(table) => format!("{there}VACUUM (FREEZE) {};", quoted_table(&table.table)),
        None => format!("{there}VACUUM (FREEZE); -- the whole database: no table that is shown is as old as that"),
    });
    let of_sessions = match temporary.as_slice() {
        [] => String::new(),
        several => {
            let names: Vec<String> = several.iter().map(|table| table.table.to_string()).collect();
            format!("; as old are the temporary tables {}", names.join(", "))
        }
    };
    Some(whole(
        FindingKind::Wraparound,
        if part >= error { Level::Error } else { Level::Warning },
        format!(
            "{} of the transaction ids are used up ({age}): at the end the database refuses writes{of_sessions}",
            percent(part)
        ),
        statements.join("\n"),
    ))
}

fn connections(patient: &Patient<'_>) -> Option<Finding> {
    let sessions = patient.snapshot.sessions.as_ref()?;
    let part = fraction(sessions.connections, sessions.max_connections);
    let (warning, error) = patient.bounds.connections;
    (part >= warning).then(|| {
        whole(
            FindingKind::ConnectionsNearLimit,
            if part >= error { Level::Error } else { Level::Warning },
            format!(
                "{} of {} sessions are taken, {} of them idle in a transaction",
                sessions.connections, sessions.max_connections, sessions.idle_in_transaction
            ),
            "put a pooler between the applications and the database, or end sessions that nobody uses",
        )
    })
}

fn replication(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    for replica in &patient.snapshot.replicas {
        let lag = replica.lag_seconds.unwrap_or(0.0);
        if lag >= patient.bounds.lag_seconds {
            found.push(Finding {
                kind: FindingKind::ReplicaLag,
                level: Level::Warning,
                object: replica.name.clone(),
                parent: None,
                definition: String::new(),
                detail: format!(
                    "the replica is {lag:.0} s behind ({}, state {})",
                    replica.lag_bytes.map_or_else(|| "bytes unknown".to_owned(), bytes),
                    replica.state
                ),
                remediation: "look at the replica's disk and at statements on it that hold replay".to_owned(),
            });
        }
    }
    // A standby keeps slots for the day on which it takes over.
    let slots = patient.snapshot.slots.iter().filter(|_| patient.takes_writes());
    for slot in slots.filter(|slot| !slot.active) {
        let kept = slot.retained_bytes.unwrap_or(0);
        found.push(Finding {
            kind: FindingKind::InactiveSlot,
            level: if kept >= patient.bounds.slot_bytes {
                Level::Warning
            } else {
                Level::Info
            },
            object: slot.name.clone(),
            parent: None,
            definition: String::new(),
            detail: format!("nobody uses the replication slot, and {} of log are kept for it", bytes(kept)),
            remediation: format!(
                "SELECT pg_drop_replication_slot({}); -- where its replica does not come back",
                literal(&slot.name)
            ),
        });
    }
}

fn queries(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    let (mean, calls, share) = patient.bounds.slow;
    for query in &patient.snapshot.queries {
        if query.mean_ms >= mean && query.calls >= calls && query.share_fraction >= share {
            found.push(Finding {
                kind: FindingKind::SlowQuery,
                level: Level::Info,
                object: query.id.clone(),
                parent: None,
                definition: String::new(),
                detail: format!(
                    "a statement takes {} of all time: {} calls of {:.1} ms on average: {}",
                    percent(query.share_fraction),
                    query.calls,
                    query.mean_ms,
                    crate::model::notice::one_line(&query.text, 200)
                ),
                remediation: "EXPLAIN (ANALYZE, BUFFERS) it; an index may be missing".to_owned(),
            });
        }
    }
}

fn integrity(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    for problem in patient.snapshot.database.integrity_problems.iter().flatten().take(10) {
        found.push(Finding {
            kind: FindingKind::IntegrityProblem,
            level: Level::Error,
            object: problem.chars().take(80).collect(),
            parent: None,
            definition: String::new(),
            detail: format!("the check of integrity found: {problem}"),
            remediation: "stop writing to the database, keep a copy of its file, and restore the newest verified backup"
                .to_owned(),
        });
    }
}
