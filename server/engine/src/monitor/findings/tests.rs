//! A healthy target has no finding; each thing that is wrong has one, and it is named.

use super::*;
use crate::model::{
    TableName,
    monitor::{
        Depth, Gap, HorizonHolder, IndexVitals, LongTransaction, OldTemporary, Partition, Precision, QueryVitals, ReplicaVitals,
        RowCount, SessionVitals, SlotVitals, TableVitals, UnindexedKey, Vitals,
    },
};

const MIB: u64 = 1 << 20;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn healthy() -> Snapshot {
    let table = TableName::parse("public.events");
    Snapshot {
        at: at(100 * 86_400),
        took_ms: 5,
        depth: Depth::Quick,
        database: Vitals {
            version: "16.2".to_owned(),
            size_bytes: Some(500 * MIB),
            recent_cache_hit_fraction: Some(0.99),
            recent_index_hit_fraction: Some(0.99),
            statistics_since: Some(at(0)),
            xid_age: Some(1_000),
            xid_limit: Some(2_000_000_000),
            page_bytes: Some(4_096),
            pages: Some(100_000),
            free_pages: Some(10),
            wal_size_bytes: Some(MIB),
            integrity_problems: Some(Vec::new()),
            ..Vitals::default()
        },
        tables: vec![TableVitals {
            table: table.clone(),
            own: false,
            rows: Some(RowCount {
                rows: 1_000_000,
                precision: Precision::Estimated,
            }),
            heap_bytes: Some(400 * MIB),
            index_bytes: Some(100 * MIB),
            toast_bytes: Some(0),
            dead_rows: Some(1_000),
            free_bytes: Some(MIB),
            free_precision: Some(Precision::Estimated),
            last_vacuum: Some(at(99 * 86_400)),
            last_analyze: Some(at(99 * 86_400)),
            changed_since_analyze: Some(100),
            sequential_scans: Some(10),
            index_scans: Some(100_000),
            inserted: Some(1),
            deleted: Some(1),
            xid_age: Some(1_000),
        }],
        indexes: vec![IndexVitals {
            table,
            name: "events_at".to_owned(),
            oid: Some(16_500),
            columns: vec!["at".to_owned()],
            method: "btree".to_owned(),
            condition: String::new(),
            enforces: false,
            clustered: false,
            expression: false,
            serves_key: false,
            valid: true,
            bytes: Some(50 * MIB),
            scans: Some(1_000),
            bloat_fraction: Some(0.1),
            bloat_precision: Some(Precision::Estimated),
            duplicate_of: None,
            first_seen: Some(at(0)),
            definition: "CREATE INDEX events_at ON public.events USING btree (at)".to_owned(),
        }],
        unindexed_keys: Vec::new(),
        queries: Vec::new(),
        sessions: Some(SessionVitals {
            connections: 10,
            max_connections: 100,
            ..SessionVitals::default()
        }),
        replicas: Vec::new(),
        slots: Vec::new(),
        gaps: Vec::new(),
    }
}

fn of(snapshot: &Snapshot, engine: EngineKind) -> Vec<Finding> {
    findings(snapshot, engine, &Bounds::default())
}

/// The only finding after a change to a healthy PostgreSQL.
fn only(change: impl FnOnce(&mut Snapshot)) -> Finding {
    one(EngineKind::Postgres, change)
}

fn one(engine: EngineKind, change: impl FnOnce(&mut Snapshot)) -> Finding {
    let mut snapshot = healthy();
    change(&mut snapshot);
    let mut found = of(&snapshot, engine);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn none(change: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = healthy();
    change(&mut snapshot);
    assert_eq!(of(&snapshot, EngineKind::Postgres), []);
}

#[test]
fn health_is_silent() {
    none(|_| {});
    assert_eq!(of(&healthy(), EngineKind::Sqlite), []);
}

#[test]
fn each_kind_has_its_part_of_the_page() {
    let page = include_str!("../../../../../docs/findings.md");
    let told: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(told.len(), FindingKind::ALL.len());
    for kind in FindingKind::ALL {
        assert!(
            told.contains(&kind.name()),
            "docs/findings.md says nothing of {}",
            kind.name()
        );
    }
}

#[test]
fn indexes() {
    let unused = only(|snapshot| snapshot.indexes[0].scans = Some(0));
    assert_eq!(unused.key(), "unused_index:public.events_at");
    assert_eq!(unused.remediation, "DROP INDEX CONCURRENTLY \"public\".\"events_at\";");
    none(|snapshot| {
        snapshot.indexes[0].scans = Some(0);
        snapshot.indexes[0].enforces = true;
    });
    none(|snapshot| {
        // Seldom used, and without it each delete of a parent would read the table.
        snapshot.indexes[0].scans = Some(0);
        snapshot.indexes[0].serves_key = true;
    });
    let with_replica = only(|snapshot| {
        snapshot.indexes[0].scans = Some(0);
        snapshot.replicas.push(ReplicaVitals {
            name: "standby".to_owned(),
            state: "streaming".to_owned(),
            lag_seconds: Some(0.1),
            lag_bytes: Some(0),
        });
    });
    assert_eq!(with_replica.level, Level::Info);
    let duplicate = only(|snapshot| {
        snapshot.indexes[0].duplicate_of = Some("events_at_kind".to_owned());
        snapshot.indexes[0].scans = Some(0);
    });
    assert_eq!(duplicate.kind, FindingKind::DuplicateIndex);
    let invalid = only(|snapshot| snapshot.indexes[0].valid = false);
    assert_eq!(invalid.remediation, "REINDEX INDEX CONCURRENTLY \"public\".\"events_at\";");
    let left = only(|snapshot| {
        snapshot.indexes[0].valid = false;
        snapshot.indexes[0].name = "events_at_ccnew1".to_owned();
    });
    assert_eq!(left.remediation, "DROP INDEX CONCURRENTLY \"public\".\"events_at_ccnew1\";");
    let bloated = only(|snapshot| snapshot.indexes[0].bloat_fraction = Some(0.6));
    assert_eq!(bloated.kind, FindingKind::BloatedIndex);
    none(|snapshot| {
        snapshot.indexes[0].bloat_fraction = Some(0.6);
        snapshot.indexes[0].bytes = Some(MIB);
    });
}

#[test]
fn an_index_that_is_dropped_can_be_made_again() {
    for spoil in [
        |index: &mut IndexVitals| index.scans = Some(0),
        |index: &mut IndexVitals| index.duplicate_of = Some("events_at_kind".to_owned()),
    ] {
        let found = only(|snapshot| spoil(&mut snapshot.indexes[0]));
        assert!(found.remediation.starts_with("DROP INDEX"), "{found:?}");
        assert_eq!(found.definition, "CREATE INDEX events_at ON public.events USING btree (at)");
    }
    let rebuilt = only(|snapshot| snapshot.indexes[0].bloat_fraction = Some(0.6));
    assert_eq!(rebuilt.definition, "");
}

#[test]
fn a_bloated_index_is_rebuilt_as_its_database_does_it() {
    let bloated = |engine, precision| {
        one(engine, |snapshot| {
            snapshot.indexes[0].bloat_fraction = Some(0.6);
            snapshot.indexes[0].bloat_precision = Some(precision);
        })
    };
    let guessed = bloated(EngineKind::Postgres, Precision::Estimated);
    assert_eq!(guessed.remediation, "REINDEX INDEX CONCURRENTLY \"public\".\"events_at\";");
    assert!(guessed.detail.ends_with("(estimated)"), "{guessed:?}");
    let measured = bloated(EngineKind::Sqlite, Precision::Exact);
    assert_eq!(measured.remediation, "REINDEX \"public\".\"events_at\";");
    assert!(measured.detail.ends_with("(measured)"), "{measured:?}");
}

#[test]
fn what_makes_transaction_ids_run_out_is_what_is_vacuumed() {
    const AGE: u64 = 1_700_000_000;
    let old = |table: u64, temporary: &[&str]| {
        let found = only(|snapshot| {
            snapshot.database.xid_age = Some(AGE);
            snapshot.tables[0].xid_age = Some(table);
            snapshot.database.old_temporary = temporary
                .iter()
                .map(|name| OldTemporary {
                    table: TableName::parse(name),
                    xid_age: AGE,
                })
                .collect();
        });
        (found.remediation.clone(), found.detail)
    };
    assert_eq!(old(AGE, &[]).0, "VACUUM (FREEZE) \"public\".\"events\";");
    let whole = "VACUUM (FREEZE); -- the whole database: no table that is shown is as old as that";
    assert_eq!(old(1_000, &[]).0, whole, "a catalog, for instance");
    let (remediation, detail) = old(1_000, &["pg_temp_3.left"]);
    let lines: Vec<&str> = remediation.lines().collect();
    assert!(lines[0].starts_with("DROP TABLE \"pg_temp_3\".\"left\"; -- "), "{lines:?}");
    assert_eq!(lines[1..], [whole]);
    assert!(detail.contains("temporary tables pg_temp_3.left"), "{detail}");
}

#[test]
fn a_prepared_transaction_that_others_wait_for_is_named() {
    let found = only(|snapshot| {
        snapshot
            .sessions
            .as_mut()
            .expect("sessions")
            .long_transactions
            .push(LongTransaction {
                pid: 0,
                prepared: Some("it's\\mine".to_owned()),
                role: "app".to_owned(),
                application: String::new(),
                backend: String::new(),
                own: false,
                run: None,
                state: "prepared".to_owned(),
                seconds: 70,
                blocks: vec![10, 11],
            });
    });
    assert_eq!(found.key(), "blocked_sessions:prepared it's\\mine");
    assert!(
        found
            .detail
            .starts_with("2 sessions wait for the prepared transaction it's\\mine (app)"),
        "{found:?}"
    );
    assert!(
        found.remediation.starts_with("ROLLBACK PREPARED E'it''s\\\\mine'; -- "),
        "{found:?}"
    );
}

#[test]
fn an_index_is_unused_once_it_was_counted_for_long() {
    let now = 100 * 86_400;
    let unused = |since: Option<i64>, seen: Option<i64>, reads: u64| {
        let mut snapshot = healthy();
        snapshot.indexes[0].scans = Some(0);
        snapshot.indexes[0].first_seen = seen.map(at);
        snapshot.tables[0].index_scans = Some(reads);
        snapshot.database.statistics_since = since.map(at);
        of(&snapshot, EngineKind::Postgres).pop()
    };
    let week = now - 7 * 86_400;
    let old = unused(Some(0), Some(week), 1_000).expect("a week is enough");
    assert!(
        old.detail.contains("for 7 d 0 h, while the table was read 1010 times"),
        "{old:?}"
    );
    assert!(unused(Some(week), Some(0), 1_000).is_some());
    for (since, seen, reads, why) in [
        (Some(now - 60), Some(0), 1_000_000, "the statistics were reset a minute ago"),
        (Some(week + 1), Some(0), 1_000_000, "not a week ago"),
        (None, Some(0), 1_000_000, "nobody knows since when they count"),
        (Some(0), Some(now - 60), 1_000_000, "the index was made a minute ago"),
        (Some(0), None, 1_000_000, "no look has gone before"),
        (Some(0), Some(0), 5, "nobody reads the table"),
    ] {
        assert_eq!(unused(since, seen, reads), None, "{why}");
    }
}

#[test]
fn an_index_that_serves_otherwise_is_not_dropped_lightly() {
    none(|snapshot| {
        snapshot.indexes[0].scans = Some(0);
        snapshot.indexes[0].clustered = true;
    });
    let expression = only(|snapshot| {
        snapshot.indexes[0].scans = Some(0);
        snapshot.indexes[0].expression = true;
    });
    assert_eq!(expression.level, Level::Info);
    assert!(expression.detail.contains("statistics of its expression"), "{expression:?}");
    // A replica that is away has left its slot.
    let slot = |physical| SlotVitals {
        name: "standby".to_owned(),
        active: true,
        physical,
        retained_bytes: Some(0),
    };
    for (physical, level) in [(true, Level::Info), (false, Level::Warning)] {
        let unused = only(|snapshot| {
            snapshot.indexes[0].scans = Some(0);
            snapshot.slots.push(slot(physical));
        });
        assert_eq!(unused.level, level);
    }
}

#[test]
fn a_standby_is_not_told_to_write() {
    let spoil = |snapshot: &mut Snapshot| {
        snapshot.indexes[0].scans = Some(0);
        snapshot.unindexed_keys.push(key(20_000));
        snapshot.tables[0].dead_rows = Some(300_000);
        snapshot.tables[0].changed_since_analyze = Some(900_000);
        snapshot.tables[0].free_bytes = Some(300 * MIB);
        snapshot.database.xid_age = Some(1_700_000_000);
        snapshot.tables[0].xid_age = Some(1_700_000_000);
        snapshot.slots.push(SlotVitals {
            name: "synchronised".to_owned(),
            active: false,
            physical: false,
            retained_bytes: Some(2 << 30),
        });
    };
    let mut snapshot = healthy();
    spoil(&mut snapshot);
    assert_eq!(of(&snapshot, EngineKind::Postgres).len(), 7);
    let on_standby = only(|snapshot| {
        spoil(snapshot);
        snapshot.database.in_recovery = true;
    });
    assert_eq!(
        on_standby.remediation,
        "on its primary: VACUUM (FREEZE) \"public\".\"events\";"
    );
}

fn key(rows: u64) -> UnindexedKey {
    UnindexedKey {
        constraint: "lines_event_fkey".to_owned(),
        table: TableName::parse("public.lines"),
        columns: vec!["event".to_owned()],
        parent: TableName::parse("public.events"),
        rows: Some(rows),
        partitioned: false,
        partitions: Vec::new(),
    }
}

#[test]
fn missing_indexes() {
    let missing = only(|snapshot| snapshot.unindexed_keys.push(key(20_000)));
    assert_eq!(missing.level, Level::Warning);
    assert_eq!(
        missing.remediation,
        "CREATE INDEX CONCURRENTLY \"lines_event_idx\" ON \"public\".\"lines\" (\"event\");"
    );
    none(|snapshot| snapshot.unindexed_keys.push(key(10)));
    let sqlite = one(EngineKind::Sqlite, |snapshot| snapshot.unindexed_keys.push(key(5_000)));
    assert_eq!(
        sqlite.remediation,
        "CREATE INDEX \"lines_event_idx\" ON \"lines\" (\"event\");"
    );
    let taken = only(|snapshot| {
        snapshot.indexes[0].name = "lines_event_idx".to_owned();
        snapshot.unindexed_keys.push(key(20_000));
    });
    assert!(taken.remediation.contains(" \"lines_event_idx1\" ON "), "{taken:?}");
}

#[test]
fn a_partitioned_table_gets_its_index_piece_by_piece() {
    let part = |table: &str, of: &str, partitioned| Partition {
        table: TableName::parse(table),
        of: TableName::parse(of),
        partitioned,
    };
    let long = format!("old.{}", "ä".repeat(40));
    let found = only(|snapshot| {
        snapshot.unindexed_keys.push(UnindexedKey {
            partitioned: true,
            partitions: vec![
                part("public.l\"1", "public.lines", false),
                part("old.lines", "public.lines", true),
                part(&format!("{long}1"), "old.lines", false),
                part(&format!("{long}2"), "old.lines", false),
            ],
            ..key(20_000)
        });
    });
    let cut = "ä".repeat(29);
    assert_eq!(
        found.remediation.lines().collect::<Vec<_>>(),
        [
            "CREATE INDEX \"lines_event_idx\" ON ONLY \"public\".\"lines\" (\"event\");",
            "CREATE INDEX CONCURRENTLY \"l\"\"1_event_idx\" ON \"public\".\"l\"\"1\" (\"event\");",
            "CREATE INDEX \"lines_event_idx\" ON ONLY \"old\".\"lines\" (\"event\");",
            &format!(
                "CREATE INDEX CONCURRENTLY \"{cut}_idx\" ON \"old\".\"{}1\" (\"event\");",
                "ä".repeat(40)
            ),
            &format!(
                "CREATE INDEX CONCURRENTLY \"{cut}_idx1\" ON \"old\".\"{}2\" (\"event\");",
                "ä".repeat(40)
            ),
            "ALTER INDEX \"public\".\"lines_event_idx\" ATTACH PARTITION \"public\".\"l\"\"1_event_idx\";",
            "ALTER INDEX \"public\".\"lines_event_idx\" ATTACH PARTITION \"old\".\"lines_event_idx\";",
            &format!("ALTER INDEX \"old\".\"lines_event_idx\" ATTACH PARTITION \"old\".\"{cut}_idx\";"),
            &format!("ALTER INDEX \"old\".\"lines_event_idx\" ATTACH PARTITION \"old\".\"{cut}_idx1\";"),
        ]
    );
    let elsewhere = only(|snapshot| {
        snapshot.unindexed_keys.push(UnindexedKey {
            partitioned: true,
            ..key(20_000)
        });
    });
    let statement = "CREATE INDEX \"lines_event_idx\" ON \"public\".\"lines\" (\"event\");";
    assert!(elsewhere.remediation.starts_with(statement), "{elsewhere:?}");
}

#[test]
fn tables() {
    let dead = only(|snapshot| {
        snapshot.tables[0].dead_rows = Some(300_000);
        snapshot.database.horizon = Some(holder(60));
    });
    assert_eq!(dead.kind, FindingKind::DeadRows);
    assert!(dead.detail.contains("transaction 77"), "{dead:?}");
    none(|snapshot| {
        snapshot.tables[0].dead_rows = Some(300_000);
        snapshot.tables[0].own = true;
    });
    let stale = only(|snapshot| {
        snapshot.tables[0].changed_since_analyze = Some(300_000);
        snapshot.tables[0].last_analyze = None;
    });
    assert_eq!(stale.remediation, "ANALYZE \"public\".\"events\";");
    let bloated = only(|snapshot| snapshot.tables[0].free_bytes = Some(300 * MIB));
    assert_eq!(bloated.kind, FindingKind::BloatedTable);
}

fn holder(seconds: u64) -> HorizonHolder {
    HorizonHolder {
        kind: "transaction".to_owned(),
        name: "77".to_owned(),
        detail: "app, idle in transaction".to_owned(),
        xid_age: 50,
        seconds: Some(seconds),
        remedy: "SELECT pg_terminate_backend(77);".to_owned(),
    }
}

#[test]
fn activity() {
    let held = only(|snapshot| snapshot.database.horizon = Some(holder(7_200)));
    assert_eq!(held.remediation, "SELECT pg_terminate_backend(77);");
    none(|snapshot| snapshot.database.horizon = Some(holder(60)));
    assert_eq!(
        only(|snapshot| snapshot.database.recent_cache_hit_fraction = Some(0.5)).kind,
        FindingKind::LowCacheHit
    );
    assert_eq!(
        only(|snapshot| snapshot.database.recent_index_hit_fraction = Some(0.5)).kind,
        FindingKind::LowIndexHit
    );
    none(|snapshot| {
        // Of a year, or without a look before: nobody knows how it is today.
        snapshot.database.cache_hit_fraction = Some(0.5);
        snapshot.database.index_hit_fraction = Some(0.5);
        snapshot.database.recent_cache_hit_fraction = None;
        snapshot.database.recent_index_hit_fraction = None;
    });
    let transaction = |seconds, blocks| LongTransaction {
        pid: 9,
        prepared: None,
        role: "app".to_owned(),
        application: "web".to_owned(),
        backend: "client backend".to_owned(),
        own: false,
        run: None,
        state: "idle in transaction".to_owned(),
        seconds,
        blocks,
    };
    let with = |transaction| {
        only(move |snapshot: &mut Snapshot| {
            snapshot
                .sessions
                .as_mut()
                .expect("sessions")
                .long_transactions
                .push(transaction);
        })
    };
    assert_eq!(with(transaction(600, Vec::new())).kind, FindingKind::LongTransaction);
    assert_eq!(with(transaction(70, vec![10, 11])).kind, FindingKind::BlockedSessions);
    assert_eq!(
        with(transaction(600, Vec::new())).remediation,
        "SELECT pg_terminate_backend(9);"
    );
    for blocks in [vec![10, 11], Vec::new()] {
        let own = |run: Option<&str>| LongTransaction {
            application: "dbkeep".to_owned(),
            own: true,
            run: run.map(str::to_owned),
            ..transaction(600, blocks.clone())
        };
        assert_eq!(with(own(Some("0190"))).remediation, "dbkeep runs cancel 0190");
        let unknown = with(own(None)).remediation;
        assert!(
            unknown.starts_with("dbkeep is at work: wait") && !unknown.contains("pg_"),
            "{unknown}"
        );
    }
    let vacuum = with(LongTransaction {
        backend: "autovacuum worker".to_owned(),
        ..transaction(600, vec![10, 11])
    });
    assert_eq!(
        vacuum.remediation,
        "wait until autovacuum is done with it, or end the statement that waits: SELECT pg_cancel_backend(10); SELECT pg_cancel_backend(11);"
    );
    let hidden = with(LongTransaction {
        backend: String::new(),
        ..transaction(600, Vec::new())
    });
    assert!(hidden.remediation.contains("-- once somebody has seen"), "{hidden:?}");
    let wraparound = only(|snapshot| {
        snapshot.database.xid_age = Some(1_700_000_000);
        snapshot.tables[0].xid_age = Some(1_650_000_000);
    });
    assert_eq!(wraparound.level, Level::Error);
    assert_eq!(wraparound.remediation, "VACUUM (FREEZE) \"public\".\"events\";");
    let taken = only(|snapshot| snapshot.sessions.as_mut().expect("sessions").connections = 96);
    assert_eq!((taken.kind, taken.level), (FindingKind::ConnectionsNearLimit, Level::Error));
    let behind = only(|snapshot| {
        snapshot.replicas.push(ReplicaVitals {
            name: "standby".to_owned(),
            state: "streaming".to_owned(),
            lag_seconds: Some(90.0),
            lag_bytes: None,
        });
    });
    assert_eq!(behind.key(), "replica_lag:standby");
    let slot = only(|snapshot| {
        snapshot.slots.push(SlotVitals {
            name: "o'brien".to_owned(),
            active: false,
            physical: true,
            retained_bytes: Some(2 << 30),
        });
    });
    assert_eq!(slot.level, Level::Warning);
    assert!(slot.remediation.contains("'o''brien'"), "{slot:?}");
    let slow = only(|snapshot| {
        snapshot.queries.push(QueryVitals {
            id: "1".to_owned(),
            text: "SELECT\n$1".to_owned(),
            calls: 100,
            mean_ms: 20.0,
            total_ms: 2_000.0,
            share_fraction: 0.5,
        });
    });
    assert_eq!(slow.kind, FindingKind::SlowQuery);
    let broken = only(|snapshot| snapshot.database.integrity_problems = Some(vec!["row 7 missing".to_owned()]));
    assert_eq!(broken.level, Level::Error);
    let gap = only(|snapshot| {
        snapshot.gaps.push(Gap {
            what: "slow_queries".to_owned(),
            why: "the extension is not there".to_owned(),
            allow: "CREATE EXTENSION pg_stat_statements;".to_owned(),
        });
    });
    assert_eq!(gap.remediation, "CREATE EXTENSION pg_stat_statements;");
}

#[test]
fn sqlite() {
    let free = one(EngineKind::Sqlite, |snapshot| snapshot.database.free_pages = Some(50_000));
    assert!(free.remediation.starts_with("VACUUM;"), "{free:?}");
    let incremental = one(EngineKind::Sqlite, |snapshot| {
        snapshot.database.free_pages = Some(50_000);
        snapshot.database.auto_vacuum = "incremental".to_owned();
    });
    assert_eq!(incremental.remediation, "PRAGMA incremental_vacuum;");
    let wal = one(EngineKind::Sqlite, |snapshot| {
        snapshot.database.wal_size_bytes = Some(1 << 30)
    });
    assert_eq!(wal.kind, FindingKind::LargeWal);
    let guessing = one(EngineKind::Sqlite, |snapshot| snapshot.tables[0].rows = None);
    assert_eq!(guessing.remediation, "ANALYZE;");
}

#[test]
fn the_gravest_comes_first() {
    let mut snapshot = healthy();
    snapshot.indexes[0].scans = Some(0);
    snapshot.database.integrity_problems = Some(vec!["broken".to_owned()]);
    snapshot.gaps.push(Gap {
        what: "x".to_owned(),
        why: "y".to_owned(),
        allow: String::new(),
    });
    let levels: Vec<Level> = of(&snapshot, EngineKind::Postgres)
        .iter()
        .map(|finding| finding.level)
        .collect();
    assert_eq!(levels, [Level::Error, Level::Warning, Level::Info]);
    for kind in FindingKind::ALL {
        assert_eq!(FindingKind::named(kind.name()), Some(kind));
    }
}
