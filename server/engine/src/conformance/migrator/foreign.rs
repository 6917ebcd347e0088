//! Ledgers of other tools, made by hand in each tool's own shape.

use super::{Fixture, count, execute, is_postgres, order, right, row};
use crate::{
    model::{ForeignEntry, ForeignLedger, LedgerKind},
    port::{Elsewhere, MigratorError},
};

async fn find(fixture: &dyn Fixture, kind: LedgerKind) -> ForeignLedger {
    let ledgers = fixture.target().migrator().foreign_ledgers().await.expect("ledgers");
    let kinds: Vec<LedgerKind> = ledgers.iter().map(|ledger| ledger.kind).collect();
    assert_eq!(kinds, [kind], "{ledgers:?}");
    ledgers.into_iter().next().expect("one")
}

fn versions(ledger: &ForeignLedger) -> Vec<&str> {
    ledger.entries.iter().map(|entry| entry.version.as_str()).collect()
}

fn flags(entry: &ForeignEntry) -> (bool, bool) {
    (entry.failed, entry.and_older)
}

pub(super) async fn ledgers_of_other_tools_are_read(fixture: &dyn Fixture) {
    let postgres = is_postgres(fixture);
    let (time, bytes, yes, no) = if postgres {
        ("timestamptz", "bytea", "true", "false")
    } else {
        ("timestamp", "blob", "1", "0")
    };
    let none = fixture.target().migrator().foreign_ledgers().await.expect("ledgers");
    assert_eq!(none, []);
    let checksum = fixture.bytes_literal(&[0xab, 0x01]);
    fixture
        .execute(&format!(
            "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, installed_on {time} NOT NULL DEFAULT CURRENT_TIMESTAMP, \
             success boolean NOT NULL, checksum {bytes} NOT NULL, execution_time bigint NOT NULL); \
             INSERT INTO _sqlx_migrations VALUES (20240102, 'two', '2024-01-02 00:00:00', {no}, {checksum}, 5), (20240101, 'one', '2024-01-01 00:00:00', {yes}, {checksum}, 5)"
        ))
        .await;
    let ledger = find(fixture, LedgerKind::Sqlx).await;
    assert_eq!(versions(&ledger), ["20240101", "20240102"]);
    assert_eq!((ledger.entries[0].failed, ledger.entries[1].failed), (false, true));
    assert_eq!(ledger.entries[0].checksum, "ab01");
    assert_eq!(ledger.entries[0].applied_at, "2024-01-01T00:00:00Z".parse().ok());
    assert!(ledger.table.ends_with("_sqlx_migrations"), "{}", ledger.table);
    fixture.execute("DROP TABLE _sqlx_migrations").await;

    fixture
        .execute(
            "CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY NOT NULL, run_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP); \
             INSERT INTO __diesel_schema_migrations VALUES ('20240102000000', '2024-01-02 10:00:00'), ('00000000000000', '2024-01-01 10:00:00')",
        )
        .await;
    let ledger = find(fixture, LedgerKind::Diesel).await;
    assert_eq!(versions(&ledger), ["00000000000000", "20240102000000"]);
    assert_eq!(ledger.entries[1].applied_at, "2024-01-02T10:00:00Z".parse().ok());
    fixture.execute("DROP TABLE __diesel_schema_migrations").await;

    fixture
        .execute(&format!(
            "CREATE TABLE schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL); INSERT INTO schema_migrations VALUES (7, {yes})"
        ))
        .await;
    let ledger = find(fixture, LedgerKind::GolangMigrate).await;
    assert_eq!((versions(&ledger), flags(&ledger.entries[0])), (vec!["7"], (true, true)));
    fixture.execute("DROP TABLE schema_migrations").await;

    fixture
        .execute("CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY); INSERT INTO schema_migrations VALUES ('20240102'), ('20240101')")
        .await;
    let ledger = find(fixture, LedgerKind::Dbmate).await;
    assert_eq!(versions(&ledger), ["20240101", "20240102"]);
    fixture.execute("DROP TABLE schema_migrations").await;

    fixture
        .execute(&format!(
            "CREATE TABLE goose_db_version (id integer PRIMARY KEY, version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp DEFAULT CURRENT_TIMESTAMP); \
             INSERT INTO goose_db_version (id, version_id, is_applied) VALUES (1, 0, {yes}), (2, 1, {yes}), (3, 2, {yes}), (4, 2, {no})"
        ))
        .await;
    let ledger = find(fixture, LedgerKind::Goose).await;
    assert_eq!(versions(&ledger), ["1"]);
    assert!(ledger.entries[0].applied_at.is_some());
    fixture.execute("DROP TABLE goose_db_version").await;

    fixture
        .execute(&format!(
            "CREATE TABLE flyway_schema_history (installed_rank integer NOT NULL PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL, type varchar(20) NOT NULL, \
             script varchar(1000) NOT NULL, checksum integer, installed_by varchar(100) NOT NULL, installed_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, execution_time integer NOT NULL, success boolean NOT NULL); \
             INSERT INTO flyway_schema_history (installed_rank, version, description, type, script, checksum, installed_by, execution_time, success) VALUES \
             (1, '1', '<< Flyway Baseline >>', 'BASELINE', '<< Flyway Baseline >>', NULL, 'me', 0, {yes}), (2, '1.1', 'more', 'SQL', 'V1_1__more.sql', -42, 'me', 1, {yes}), \
             (3, NULL, 'my view', 'SQL', 'R__my_view.sql', 7, 'me', 1, {yes}), (4, '2', 'bad', 'SQL', 'V2__bad.sql', 8, 'me', 1, {no})"
        ))
        .await;
    let ledger = find(fixture, LedgerKind::Flyway).await;
    assert_eq!(versions(&ledger), ["1", "1.1", "R__my_view", "2"]);
    assert_eq!(ledger.entries[1].checksum, "-42");
    assert_eq!(
        (flags(&ledger.entries[0]), flags(&ledger.entries[3])),
        ((false, true), (true, false))
    );
    fixture.execute("DROP TABLE flyway_schema_history").await;

    let (stamp, finished) = if postgres {
        ("timestamptz", "'2024-03-01 10:00:00+00'")
    } else {
        ("DATETIME", "1709287200000")
    };
    fixture
        .execute(&format!(
            "CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at {stamp}, migration_name varchar(255) NOT NULL, logs text, \
             rolled_back_at {stamp}, started_at {stamp} NOT NULL, applied_steps_count integer NOT NULL DEFAULT 0); \
             INSERT INTO _prisma_migrations VALUES ('a', 'aa', NULL, '20240101_one', 'oh', {finished}, {finished}, 0), ('b', 'bb', {finished}, '20240102_two', NULL, NULL, {finished}, 1), \
             ('c', 'cc', NULL, '20240103_three', 'oh', NULL, {finished}, 0)"
        ))
        .await;
    let mut ledger = find(fixture, LedgerKind::Prisma).await;
    ledger.entries.sort_by(|one, other| one.version.cmp(&other.version));
    // The first was declared to be rolled back: it is pending, and no failure.
    assert_eq!(versions(&ledger), ["20240102_two", "20240103_three"]);
    let failed: Vec<bool> = ledger.entries.iter().map(|entry| entry.failed).collect();
    assert_eq!(failed, [false, true]);
    assert_eq!(ledger.entries[0].applied_at, "2024-03-01T10:00:00Z".parse().ok());
    assert_eq!(ledger.entries[0].checksum, "bb");
    fixture.execute("DROP TABLE _prisma_migrations").await;

    let (make, table, drop) = if postgres {
        ("CREATE SCHEMA sqitch; ", "sqitch.changes", "DROP SCHEMA sqitch CASCADE")
    } else {
        ("", "changes", "DROP TABLE changes")
    };
    fixture
        .execute(&format!(
            "{make}CREATE TABLE {table} (change_id text PRIMARY KEY, script_hash text, change text NOT NULL, project text NOT NULL, note text NOT NULL DEFAULT '', \
             committed_at {time} NOT NULL, committer_name text NOT NULL, committer_email text NOT NULL); \
             INSERT INTO {table} VALUES ('f1', 'h1', 'users', 'app', '', '2024-01-01 00:00:00', 'me', 'me@x'), ('f2', 'h2', 'posts', 'app', '', '2024-01-02 00:00:00', 'me', 'me@x')"
        ))
        .await;
    let ledger = find(fixture, LedgerKind::Sqitch).await;
    assert_eq!(
        (versions(&ledger), ledger.entries[1].checksum.as_str()),
        (vec!["users", "posts"], "h2")
    );
    assert_eq!(ledger.table, table);
    fixture.execute(drop).await;
}

pub(super) async fn what_another_tool_did_meanwhile_takes_the_group_back(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let postgres = is_postgres(fixture);
    let no = if postgres { "false" } else { "0" };
    fixture
        .execute(&format!(
            "CREATE TABLE shared (n integer NOT NULL); INSERT INTO shared VALUES (0); \
             CREATE TABLE schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL); INSERT INTO schema_migrations VALUES (1, {no})"
        ))
        .await;
    let judging = |id: &str, statements: &[&str]| {
        let mut order = order(claim, id, statements);
        // As long as it says 1, it says nothing of this one.
        order.elsewhere = Some(Elsewhere::new(|_, ledgers| {
            let versions = ledgers.iter().flat_map(|ledger| &ledger.entries);
            let mut other = versions.filter(|entry| entry.version != "1");
            other.next().map(|entry| format!("version {} came meanwhile", entry.version))
        }));
        order
    };
    let up = "UPDATE shared SET n = n + 1";
    execute(fixture, &judging("beside_before", &[up]))
        .await
        .expect("nobody was there");
    assert_eq!(count(fixture, "shared WHERE n = 1").await, "1");
    // What the script itself notes there is its own.
    let noting = [up, "UPDATE schema_migrations SET version = 7"];
    execute(fixture, &judging("beside_own", &noting))
        .await
        .expect("nobody else was there");
    assert_eq!(count(fixture, "shared WHERE n = 2").await, "1");
    // After the look at the ledgers, and before the group.
    fixture
        .execute("UPDATE shared SET n = n + 1; UPDATE schema_migrations SET version = 2")
        .await;
    for atomic in [true, false] {
        let statement = if atomic { up } else { "VACUUM" };
        let mut order = judging("beside_after", &[statement]);
        order.atomic = atomic;
        let error = execute(fixture, &order).await.expect_err("somebody was there");
        assert!(
            matches!(&error, MigratorError::LedgerMoved { problem } if problem == "version 2 came meanwhile"),
            "{error:?}"
        );
        assert_eq!(count(fixture, "shared WHERE n = 3").await, "1", "not twice");
        assert!(row(fixture, "beside_after").await.is_none(), "atomic {atomic}");
    }
    fixture.execute("DROP TABLE shared; DROP TABLE schema_migrations").await;
}
