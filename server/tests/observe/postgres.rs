//! Tables, indexes and keys of PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dbkeep_engine::{
    model::{
        EngineKind,
        monitor::{Blocks, Depth, FindingKind, Precision, Snapshot},
    },
    monitor::{
        carry_over,
        findings::{Bounds, findings},
    },
};
use dbkeep_testkit::{Db, Durability, PrivatePostgres, fresh_database};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{LIMIT, decimal, execute, gaps, index, look, number, quick, table};

async fn prepared(name: &str, sql: &[&str]) -> (String, Db) {
    let url = fresh_database(name).await.expect("a database");
    let db = Db::open(&url).await.expect("a connection");
    for sql in sql {
        execute(&db, sql).await;
    }
    (url, db)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_rows_and_dead_rows_are_those_of_the_database() {
    let (url, db) = prepared(
        "sizes",
        &[
            "CREATE SCHEMA dbkeep; CREATE TABLE dbkeep.journal AS SELECT generate_series(1, 1000) AS id",
            "CREATE TABLE big (id integer PRIMARY KEY, v integer, long text) WITH (autovacuum_enabled = off)",
            "ALTER TABLE big ALTER COLUMN long SET STORAGE EXTERNAL",
            "INSERT INTO big SELECT n, 0, CASE WHEN n <= 10 THEN repeat('x', 9000) END FROM generate_series(1, 20000) AS n",
            "VACUUM (ANALYZE) big",
            "UPDATE big SET v = 1 WHERE id <= 5000",
            "DELETE FROM big WHERE id > 19000",
            "CREATE TABLE empty (id integer)",
        ],
    )
    .await;
    // Counters of the sessions that have written arrive when these are idle or gone.
    let target = dbkeep_server::target::open(&url).expect("a target");
    let age = "SELECT age(relfrozenxid) FROM pg_class WHERE relname = 'big'";
    let age_before = number(&db, age).await;
    let snapshot = crate::until(target.as_ref(), |snapshot| {
        table(snapshot, "public.big").dead_rows == Some(6_000)
    })
    .await;
    let big = table(&snapshot, "public.big");
    assert_eq!(
        big.rows.map(|rows| (rows.rows, rows.precision)),
        Some((19_000, Precision::Estimated))
    );
    assert_eq!(big.changed_since_analyze, Some(6_000));
    assert_eq!((big.inserted, big.deleted), (Some(20_000), Some(1_000)));
    assert!(big.last_vacuum.is_some() && big.last_analyze.is_some());
    let toast = "(SELECT reltoastrelid FROM pg_class WHERE relname = 'big')";
    for (measured, sql) in [
        (
            big.heap_bytes,
            format!("SELECT pg_table_size('big') - pg_total_relation_size({toast})"),
        ),
        (big.index_bytes, "SELECT pg_indexes_size('big')".to_owned()),
        (big.toast_bytes, format!("SELECT pg_total_relation_size({toast})")),
        (big.total_bytes(), "SELECT pg_total_relation_size('big')".to_owned()),
        (
            snapshot.database.own_bytes,
            "SELECT pg_total_relation_size('dbkeep.journal')".to_owned(),
        ),
    ] {
        assert_eq!(measured, Some(number(&db, &sql).await), "{sql}");
    }
    // Whoever else writes in the cluster makes it older.
    let ages = age_before..=number(&db, age).await;
    assert!(
        big.xid_age.is_some_and(|age| ages.contains(&age)),
        "{:?} in {ages:?}",
        big.xid_age
    );
    assert!(big.toast_bytes > Some(90_000), "ten long texts are aside: {big:?}");
    assert!(table(&snapshot, "dbkeep.journal").own && !big.own);
    let empty = table(&snapshot, "public.empty");
    assert_eq!(
        empty.rows.map(|rows| (rows.rows, rows.precision)),
        Some((0, Precision::Exact))
    );
    assert_eq!((empty.heap_bytes, empty.free_bytes), (Some(0), Some(0)));
    assert_eq!(snapshot.tables[0].table.to_string(), "public.big", "the largest first");
    assert_eq!(gaps(&snapshot), [""; 0], "{:?}", snapshot.gaps);
    assert!(snapshot.database.xid_age.is_some_and(|age| age > 0));
    assert_eq!(snapshot.database.xid_limit, Some(2_144_483_647));
    let version = db.fetch_text("SHOW server_version").await.expect("a version");
    assert!(
        version[0][0]
            .as_ref()
            .is_some_and(|version| version.starts_with(&snapshot.database.version))
    );
    // No more than what the database itself says, at a moment in which nobody writes.
    let wal = number(&db, "SELECT (pg_current_wal_lsn() - '0/0')::bigint").await;
    assert!(
        snapshot
            .database
            .wal_written_bytes
            .is_some_and(|written| written > 0 && written <= wal)
    );
    assert!(snapshot.database.wal_size_bytes.is_some_and(|bytes| bytes >= 16 << 20));
}

/// Blocks of tables (`heap`) or indexes (`idx`), by the views that PostgreSQL has for people.
async fn blocks(db: &Db, kind: &str) -> Blocks {
    let view = if kind == "heap" { "tables" } else { "indexes" };
    let sum = |what: &str| format!("SELECT sum({kind}_blks_{what})::bigint FROM pg_statio_user_{view}");
    let hit = number(db, &sum("hit")).await;
    Blocks {
        fetched: hit + number(db, &sum("read")).await,
        hit,
    }
}

/// Executes a statement, whose counters have arrived then.
async fn counted(session: &mut PgConnection, sql: &'static str) {
    for sql in [sql, "SELECT pg_stat_force_next_flush()"] {
        session.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
    }
}

/// The part of these blocks that was in memory, as the database divides.
async fn part(db: &Db, blocks: Blocks) -> f64 {
    decimal(db, &format!("SELECT {}::float8 / {}", blocks.hit, blocks.fetched)).await
}

/// Twenty scans of the whole table, and twenty thousand of its index.
const READ: [&str; 2] = [
    "DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM count(*) FROM wide WHERE v <> 'y'; END LOOP; END $$",
    "DO $$ BEGIN SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
       FOR i IN 1..20000 LOOP PERFORM 1 FROM wide WHERE id = 1 + i * 7919 % 50000; END LOOP; END $$",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_and_scans_are_those_that_were_asked_for() {
    // So little memory that most blocks of the table are read again by each scan, and nobody else who reads.
    let settings = [
        ("autovacuum", "off"),
        ("shared_buffers", "128kB"),
        ("max_parallel_workers_per_gather", "0"),
    ];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    // One session, which tells what it has counted after each statement.
    let mut session = PgConnection::connect(&url).await.expect("a connection");
    for sql in [
        "CREATE TABLE wide AS SELECT n AS id, repeat('x', 100) AS v FROM generate_series(1, 50000) AS n",
        "CREATE INDEX wide_id ON wide (id)",
        "VACUUM (ANALYZE) wide",
        READ[0],
        READ[1],
    ] {
        counted(&mut session, sql).await;
    }
    let mut first = quick(&url).await;
    let (heap, indexes) = (blocks(&db, "heap").await, blocks(&db, "idx").await);
    let vitals = &first.database;
    assert_eq!((vitals.heap_blocks, vitals.index_blocks), (Some(heap), Some(indexes)));
    for (measured, blocks) in [(vitals.cache_hit_fraction, heap), (vitals.index_hit_fraction, indexes)] {
        let (measured, part) = (measured.expect("enough blocks"), part(&db, blocks).await);
        assert!((measured - part).abs() < 1e-9, "{measured}, {part}");
        assert!(
            0.0 < measured && measured < 1.0,
            "some were in memory, and some were not: {blocks:?}"
        );
    }
    carry_over(None, &mut first);
    for sql in READ {
        counted(&mut session, sql).await;
    }
    let mut second = quick(&url).await;
    carry_over(Some(&first), &mut second);
    let wide = |snapshot| {
        let wide = table(snapshot, "public.wide");
        wide.sequential_scans.zip(wide.index_scans).expect("counters")
    };
    let ((whole, by_index), (more, more_by_index)) = (wide(&first), wide(&second));
    assert_eq!((more - whole, more_by_index - by_index), (20, 20_000));
    assert_eq!(index(&second, "wide_id").scans, Some(more_by_index));
    let pages = number(&db, "SELECT pg_relation_size('wide') / current_setting('block_size')::bigint").await;
    for (kind, before, least, measured) in [
        ("heap", heap, 20 * pages, second.database.recent_cache_hit_fraction),
        // The root and a leaf each time.
        ("idx", indexes, 40_000, second.database.recent_index_hit_fraction),
    ] {
        let after = blocks(&db, kind).await;
        let lately = Blocks {
            fetched: after.fetched - before.fetched,
            hit: after.hit - before.hit,
        };
        assert!(lately.fetched >= least, "{kind}: {lately:?}, {least}");
        let (measured, part) = (measured.expect("enough blocks"), part(&db, lately).await);
        assert!((measured - part).abs() < 1e-9, "{kind}: {measured}, {part}");
    }
    let found = findings(&second, EngineKind::Postgres, &Bounds::default());
    for kind in [FindingKind::LowCacheHit, FindingKind::LowIndexHit] {
        assert!(found.iter().any(|finding| finding.kind == kind), "{kind:?}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_is_what_was_written_and_its_rate_what_was_written_in_the_time() {
    const WRITTEN: &str = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
    // Its own cluster, in which nobody else writes.
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("autovacuum", "off")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    let outer = std::time::Instant::now();
    let before_first = number(&db, WRITTEN).await;
    let mut first = quick(&url).await;
    let inner = std::time::Instant::now();
    let after_first = number(&db, WRITTEN).await;
    carry_over(None, &mut first);
    assert_eq!(first.database.recent_wal_bytes_per_second, None, "none was looked at before");
    // A million bytes of the test's own, and what stands around them.
    db.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 1000000))")
        .await
        .expect("written");
    let before_second = number(&db, WRITTEN).await;
    let inner = inner.elapsed();
    let mut second = quick(&url).await;
    let outer = outer.elapsed();
    let after_second = number(&db, WRITTEN).await;
    carry_over(Some(&first), &mut second);
    let of = |snapshot: &Snapshot| snapshot.database.wal_written_bytes.expect("a position");
    let (one, other) = (of(&first), of(&second));
    assert!(
        (before_first..=after_first).contains(&one),
        "{before_first} <= {one} <= {after_first}"
    );
    assert!(
        (before_second..=after_second).contains(&other),
        "{before_second} <= {other} <= {after_second}"
    );
    assert!((1_000_000..1_500_000).contains(&(other - one)), "{one}, {other}");
    let rate = second.database.recent_wal_bytes_per_second.expect("a rate");
    // The time between the two looks is shorter than that around both, and longer than that within.
    let bytes = |bytes: u64| f64::from(u32::try_from(bytes).expect("few"));
    let (least, most) = (
        bytes(before_second - after_first) / outer.as_secs_f64(),
        bytes(after_second - before_first) / inner.as_secs_f64(),
    );
    assert!((least..=most).contains(&rate), "{least} <= {rate} <= {most}");
    let on_disk = number(&db, "SELECT sum(size)::bigint FROM pg_ls_waldir()").await;
    assert_eq!(second.database.wal_size_bytes, Some(on_disk));
}

/// Waits for a row, and ends the transaction, so that whoever waits for it goes on; true where the database chose it as the victim.
async fn gives_up(session: &mut PgConnection, row: &'static str) -> bool {
    let is_victim = session.execute(row).await.is_err();
    session
        .execute("ROLLBACK; SELECT pg_stat_force_next_flush()")
        .await
        .expect("rolled back");
    is_victim
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_as_a_whole_is_what_it_says_of_itself() {
    const ROWS: [&str; 2] = [
        "SELECT 1 FROM t WHERE id = 1 FOR UPDATE",
        "SELECT 1 FROM t WHERE id = 2 FOR UPDATE",
    ];
    let settings = [("autovacuum", "off"), ("deadlock_timeout", "10ms")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    execute(&db, "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await;
    // It stays, as the session of the look does: both are among those that are counted.
    let mut session = PgConnection::connect(&url).await.expect("a connection");
    let target = dbkeep_server::target::open(&url).expect("a target");
    let observer = target.observer();
    let first = observer.observe(Depth::Quick, LIMIT).await.expect("a snapshot");
    let of_database = "FROM pg_database WHERE datname = current_database()";
    for (measured, sql) in [
        (
            first.database.size_bytes,
            "SELECT pg_database_size(current_database())".to_owned(),
        ),
        (
            first.database.xid_age,
            format!("SELECT greatest(age(datfrozenxid), mxid_age(datminmxid))::bigint {of_database}"),
        ),
        (
            first.sessions.as_ref().map(|sessions| sessions.connections),
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'".to_owned(),
        ),
    ] {
        let counted: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.clone()))
            .fetch_one(&mut session)
            .await
            .expect("a number");
        assert_eq!(measured, u64::try_from(counted).ok(), "{sql}");
    }
    for _ in 0..3 {
        execute(&db, "BEGIN; CREATE TABLE never (id integer); ROLLBACK").await;
    }
    let second = observer.observe(Depth::Quick, LIMIT).await.expect("a snapshot");
    let rolled_back = |snapshot: &Snapshot| snapshot.database.rollbacks.expect("a counter");
    assert_eq!(rolled_back(&second) - rolled_back(&first), 3);
    let committed = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let before = number(&db, committed).await;
    for _ in 0..5 {
        execute(&db, "INSERT INTO t SELECT max(id) + 1 FROM t").await;
    }
    let third = observer.observe(Depth::Quick, LIMIT).await.expect("a snapshot");
    let after = number(&db, committed).await;
    let commits = third.database.commits.expect("a counter");
    assert!(
        (before + 5..=after).contains(&commits),
        "{before} + 5 <= {commits} <= {after}"
    );

    // Each of two sessions has a row that the other one wants.
    let (mut one, mut other) = (
        PgConnection::connect(&url).await.expect("a connection"),
        PgConnection::connect(&url).await.expect("a connection"),
    );
    for (session, row) in [(&mut one, ROWS[0]), (&mut other, ROWS[1])] {
        session.execute("BEGIN").await.expect("begun");
        session.execute(row).await.expect("locked");
    }
    let crosswise = async { tokio::join!(gives_up(&mut one, ROWS[1]), gives_up(&mut other, ROWS[0])) };
    let (one_gave_up, other_gave_up) = tokio::time::timeout(LIMIT, crosswise).await.expect("in time");
    assert!(one_gave_up != other_gave_up, "one of the two");
    let fourth = observer.observe(Depth::Quick, LIMIT).await.expect("a snapshot");
    assert_eq!((third.database.deadlocks, fourth.database.deadlocks), (Some(0), Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_space_is_estimated_as_it_is_measured() {
    let (url, _db) = prepared(
        "bloat",
        &[
            "CREATE EXTENSION pgstattuple",
            "CREATE TABLE big (id integer PRIMARY KEY, v integer, name text) WITH (autovacuum_enabled = off)",
            "INSERT INTO big SELECT n, n % 7, 'name ' || n FROM generate_series(1, 200000) AS n",
            "CREATE INDEX big_name ON big (lower(name))",
            "CREATE TABLE full_up AS SELECT * FROM big",
            // From every page most rows go, so that no page can be given back.
            "DELETE FROM big WHERE id % 10 <> 0",
            "VACUUM (ANALYZE)",
        ],
    )
    .await;
    let (estimated, measured) = (quick(&url).await, look(&url, Depth::Exact).await);
    let part = |free: Option<u64>, whole: Option<u64>| {
        let (free, whole) = (free.expect("free"), whole.expect("a size"));
        u32::try_from(free * 100 / whole).expect("percent")
    };
    for (name, least, most) in [("public.big", 80, 95), ("public.full_up", 0, 10)] {
        let (estimate, measure) = (table(&estimated, name), table(&measured, name));
        assert_eq!(estimate.free_precision, Some(Precision::Estimated));
        assert_eq!(measure.free_precision, Some(Precision::Exact));
        // Where rows were, their line pointers stay until new rows take them: 200 of 4 bytes in a page, which are not free.
        let (guess, truth) = (
            part(estimate.free_bytes, estimate.heap_bytes),
            part(measure.free_bytes, measure.heap_bytes),
        );
        assert!(
            (least..=most).contains(&guess) && guess.abs_diff(truth) <= 10,
            "{name}: {guess} %, {truth} %"
        );
        assert_eq!(measure.rows.map(|rows| rows.precision), Some(Precision::Exact));
    }
    assert_eq!(table(&measured, "public.big").rows.map(|rows| rows.rows), Some(20_000));
    for name in ["big_pkey", "big_name"] {
        let (guess, truth) = (index(&estimated, name).bloat_fraction, index(&measured, name).bloat_fraction);
        let (guess, truth) = (guess.expect("an estimate"), truth.expect("a measurement"));
        assert!(guess > 0.8 && (guess - truth).abs() < 0.1, "{name}: {guess}, {truth}");
    }
    assert_eq!(gaps(&measured), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_and_keys_are_told_apart() {
    let (url, db) = prepared(
        "indexes",
        &[
            "CREATE TABLE parent (id integer PRIMARY KEY, code text UNIQUE)",
            "CREATE TABLE child (id integer PRIMARY KEY, a integer REFERENCES parent, b integer REFERENCES parent, \
               c integer CONSTRAINT lonely REFERENCES parent, d integer REFERENCES parent, e text, f integer)",
            "CREATE INDEX on_a ON child (a)",
            "CREATE INDEX on_a_again ON child (a)",
            "CREATE INDEX on_a_f ON child (a, f) INCLUDE (e)",
            "CREATE INDEX on_b ON child (b) WHERE b IS NOT NULL",
            "CREATE INDEX on_d_some ON child (d) WHERE d > 5",
            "CREATE INDEX on_e ON child (e)",
            "CREATE INDEX on_e_pattern ON child (e text_pattern_ops)",
            "CREATE INDEX on_lower ON child (lower(e), f)",
            "CREATE INDEX on_lower_only ON child (lower(e))",
            "CREATE INDEX on_id ON child (id)",
            "CREATE INDEX on_hash ON child USING hash (f)",
            "CREATE TABLE twice AS SELECT 1 AS n UNION ALL SELECT 1",
        ],
    )
    .await;
    db.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)")
        .await
        .expect_err("not unique");
    let snapshot = quick(&url).await;
    let other = |name: &str| index(&snapshot, name).duplicate_of.clone();
    assert_eq!(other("on_a").as_deref(), Some("on_a_f"));
    assert_eq!(other("on_a_again").as_deref(), Some("on_a_f"));
    assert_eq!(other("on_lower_only").as_deref(), Some("on_lower"));
    assert_eq!(other("on_id").as_deref(), Some("child_pkey"));
    for name in [
        "on_a_f",
        "on_b",
        "on_d_some",
        "on_e",
        "on_e_pattern",
        "on_lower",
        "on_hash",
        "child_pkey",
    ] {
        assert_eq!(other(name), None, "{name}");
    }
    let missing: Vec<_> = snapshot
        .unindexed_keys
        .iter()
        .map(|key| (key.constraint.as_str(), key.columns.join(","), key.parent.to_string()))
        .collect();
    assert_eq!(
        missing,
        [
            ("child_d_fkey", "d".to_owned(), "public.parent".to_owned()),
            ("lonely", "c".to_owned(), "public.parent".to_owned())
        ]
    );
    for (name, serves) in [
        ("on_a_f", true),
        ("on_a", false),
        ("on_b", true),
        ("on_d_some", false),
        ("on_e", false),
    ] {
        assert_eq!(index(&snapshot, name).serves_key, serves, "{name}");
    }
    let broken = index(&snapshot, "broken");
    assert!(!broken.valid && broken.enforces && broken.definition.starts_with("CREATE UNIQUE INDEX broken"));
    let lower = index(&snapshot, "on_lower");
    assert!(lower.expression);
    assert_eq!(lower.columns, ["lower(e)", "f"]);
    assert_eq!((lower.method.as_str(), lower.condition.as_str()), ("btree", ""));
    assert_eq!(index(&snapshot, "on_d_some").condition, "(d > 5)");
    assert!(index(&snapshot, "parent_code_key").enforces && !lower.enforces && lower.valid);
    let size = number(&db, "SELECT pg_table_size('on_lower')").await;
    assert_eq!(lower.bytes, Some(size));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_tell_indexes_apart() {
    let (url, _db) = prepared(
        "settings",
        &[
            "CREATE TABLE t (a integer, b integer, c integer, v tsvector)",
            "CREATE INDEX short ON t USING gist (v tsvector_ops(siglen = 100)); CREATE INDEX long ON t USING gist (v tsvector_ops(siglen = 200))",
            "CREATE INDEX fine ON t USING brin (a) WITH (pages_per_range = 4); CREATE INDEX coarse ON t USING brin (a)",
            "CREATE INDEX dense ON t (b) WITH (fillfactor = 100); CREATE INDEX loose ON t (b) WITH (fillfactor = 50)",
            "CREATE INDEX ordered ON t (c); CREATE INDEX more ON t (c, a); ALTER TABLE t CLUSTER ON ordered",
        ],
    )
    .await;
    let snapshot = quick(&url).await;
    let other = |name: &str| index(&snapshot, name).duplicate_of.clone();
    for name in ["short", "long", "fine", "coarse", "dense", "ordered", "more"] {
        assert_eq!(other(name), None, "{name}");
    }
    assert_eq!(
        other("loose").as_deref(),
        Some("dense"),
        "how full its pages are does not matter"
    );
    assert!(index(&snapshot, "ordered").clustered && !index(&snapshot, "more").clustered);
    assert!(!index(&snapshot, "ordered").expression);
    assert!(
        snapshot
            .indexes
            .iter()
            .all(|index| index.oid.is_some() && index.first_seen.is_none())
    );
    let database = &snapshot.database;
    assert_eq!(database.timeline, Some(1));
    let blocks = database.heap_blocks.expect("counters");
    assert!(blocks.hit <= blocks.fetched && database.index_blocks.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_is_not_waited_for() {
    let (url, _db) = prepared(
        "locked",
        &["CREATE TABLE held (id integer PRIMARY KEY); CREATE TABLE free (id integer PRIMARY KEY)"],
    )
    .await;
    let mut holder = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .expect("a connection");
    sqlx::Executor::execute(&mut holder, "BEGIN; LOCK TABLE held")
        .await
        .expect("locked");
    let snapshot = quick(&url).await;
    assert_eq!(table(&snapshot, "public.held").heap_bytes, None);
    assert_eq!(table(&snapshot, "public.free").heap_bytes, Some(0));
    assert_eq!(index(&snapshot, "free_pkey").bytes, Some(8_192));
    assert_eq!(gaps(&snapshot), ["table_sizes"]);
    assert!(snapshot.gaps.iter().any(|gap| gap.why.starts_with("1 tables are locked")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_come_and_go_are_no_error() {
    let (url, _db) = prepared("vanishing", &["CREATE TABLE stays (id integer PRIMARY KEY, v text)"]).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let rounds = Arc::new(AtomicUsize::new(0));
    let churn = tokio::spawn({
        let (url, rounds) = (url.clone(), Arc::clone(&rounds));
        async move {
            let db = Db::open(&url).await.expect("a connection");
            while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                db.execute(
                    "CREATE TABLE comes (id integer PRIMARY KEY, v text); CREATE INDEX on_lower ON comes (lower(v)) WHERE v <> 'x'",
                )
                .await
                .expect("made");
                db.execute("DROP TABLE comes").await.expect("dropped");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let target = dbkeep_server::target::open(&url).expect("a target");
    // However slow one of the two is, many tables came and went while they were looked at.
    let mut looks = 0;
    while looks < 50 || rounds.load(Ordering::Relaxed) <= 10 {
        looks += 1;
        for depth in [Depth::Quick, Depth::Exact] {
            let snapshot = target.observer().observe(depth, crate::LIMIT).await.expect("a snapshot");
            assert!(table(&snapshot, "public.stays").heap_bytes.is_some());
            assert_eq!(index(&snapshot, "stays_pkey").bytes, Some(8_192));
        }
    }
    stop.send(()).expect("it is at it");
    churn.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_have_numbers_and_their_whole_has_none() {
    let (url, db) = prepared(
        "partitioned",
        &[
            "CREATE TABLE parent (id integer PRIMARY KEY)",
            "CREATE TABLE whole (id integer, part integer, parent_id integer REFERENCES parent, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
            "CREATE TABLE one PARTITION OF whole FOR VALUES IN (1)",
            "CREATE TABLE two PARTITION OF whole FOR VALUES IN (2)",
            "CREATE INDEX by_parent ON whole (parent_id)",
            "CREATE INDEX by_v ON whole (v)",
            "CREATE INDEX by_v_again ON one (v)",
            "INSERT INTO parent VALUES (1)",
            "INSERT INTO whole SELECT n, 1 + n % 2, 1, 'value ' || n FROM generate_series(1, 4000) AS n",
            "ANALYZE",
        ],
    )
    .await;
    let snapshot = quick(&url).await;
    let names: Vec<String> = snapshot.tables.iter().map(|table| table.table.to_string()).collect();
    assert!(
        !names.contains(&"public.whole".to_owned()),
        "it has no rows of its own: {names:?}"
    );
    for part in ["one", "two"] {
        let one = table(&snapshot, &format!("public.{part}"));
        assert_eq!(one.rows.map(|rows| rows.rows), Some(2_000));
        let bytes = number(&db, &format!("SELECT pg_indexes_size('{part}')")).await;
        assert_eq!(one.index_bytes, Some(bytes));
        // A piece of the whole's index cannot be dropped alone, and is what the key finds its rows by.
        let piece = index(&snapshot, &format!("{part}_parent_id_idx"));
        assert!(piece.enforces && piece.duplicate_of.is_none(), "{piece:?}");
    }
    let extra = index(&snapshot, "by_v_again");
    assert!(!extra.enforces);
    assert_eq!(extra.duplicate_of.as_deref(), Some("one_v_idx"));
    assert!(
        snapshot.indexes.iter().all(|index| index.name != "by_parent"),
        "the whole's index has no pages"
    );
    assert_eq!(
        snapshot.unindexed_keys,
        [],
        "the index of the whole serves the key, and that of each part"
    );
    db.execute("DROP INDEX by_parent").await.expect("dropped");
    let keys: Vec<String> = quick(&url)
        .await
        .unindexed_keys
        .iter()
        .map(|key| format!("{}({})", key.table, key.columns.join(",")))
        .collect();
    assert_eq!(keys, ["public.whole(parent_id)"], "told once, and not of each part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_of_several_pages_is_read_to_its_end() {
    // Two full pages and one table more, in two schemas.
    let (url, db) = prepared(
        "pages",
        &[
            "CREATE SCHEMA other",
            "DO $$ BEGIN FOR i IN 1..401 LOOP \
               EXECUTE format('CREATE TABLE %I.%I (id integer PRIMARY KEY, v text)', CASE WHEN i % 2 = 0 THEN 'other' ELSE 'public' END, 't' || i); \
             END LOOP; END $$",
        ],
    )
    .await;
    let snapshot = quick(&url).await;
    let mut names: Vec<String> = snapshot.tables.iter().map(|table| table.table.to_string()).collect();
    names.sort();
    names.dedup();
    let tables = "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                  WHERE c.relkind = 'r' AND n.nspname IN ('public', 'other')";
    assert_eq!(names.len() as u64, number(&db, tables).await);
    assert_eq!((names.len(), snapshot.indexes.len()), (401, 401));
    for name in ["t1", "t200", "t201", "t400", "t401"] {
        assert_eq!(index(&snapshot, &format!("{name}_pkey")).bytes, Some(8_192));
    }
    assert_eq!(gaps(&snapshot), [""; 0]);
}
