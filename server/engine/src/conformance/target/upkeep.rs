//! Built-in maintenance: what is vacuumed and rebuilt, and that a database which has no use for an act says so.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Fixture, fresh};
use crate::{
    model::{EngineKind, MaintenanceProgress, MaintenanceTask, RowsBy, RunId, TableName, TableSpace, monitor::Depth},
    port::{MaintenanceError, TargetErrorClass, Watch},
};

/// How long a database's statistics may take to tell of what was done.
const STATISTICS: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

fn nobody() -> Watch {
    Watch {
        progress: watch::channel(MaintenanceProgress::default()).0,
        stop: CancellationToken::new(),
    }
}

fn is_unsupported<T>(result: Result<T, MaintenanceError>) -> bool {
    matches!(result, Err(MaintenanceError::Target(error)) if error.class == TargetErrorClass::Unsupported && !error.message.is_empty())
}

/// Whether a table is among those with dead rows; looks until it is as expected.
async fn until_dead(fixture: &dyn Fixture, table: &str, expected: bool) -> Option<u64> {
    let target = fixture.target();
    let since = Instant::now();
    loop {
        let found = target.maintenance().dead_rows().await.expect("a list");
        let found = found.into_iter().find(|dead| dead.table.name == table);
        if found.is_some() == expected {
            return found.map(|dead| {
                assert!(dead.permitted, "it is our own");
                dead.dead
            });
        }
        assert!(since.elapsed() < STATISTICS, "the statistics never told of {table}");
        tokio::time::sleep(LOOK).await;
    }
}

pub(super) async fn dead_rows_are_vacuumed_or_the_file_is_tidied(fixture: &dyn Fixture) {
    let (table, target) = (fresh("worn"), fixture.target());
    // Nobody else may come first.
    let alone = match target.engine() {
        EngineKind::Postgres => " WITH (autovacuum_enabled = false)",
        EngineKind::Sqlite => "",
    };
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, note text){alone}; \
             INSERT INTO {table} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) SELECT i, 'a note of some length' FROM n; \
             DELETE FROM {table} WHERE id % 2 = 0"
        ))
        .await;
    let maintenance = target.maintenance();
    match target.engine() {
        EngineKind::Postgres => {
            assert_eq!(until_dead(fixture, &table, true).await, Some(2_000));
            assert!(is_unsupported(maintenance.vacuum_file(&nobody()).await));
            let space = maintenance
                .vacuum(&TableName::parse(&table), &nobody())
                .await
                .expect("vacuumed");
            assert_eq!(space.dead_rows, 0);
            until_dead(fixture, &table, false).await;
        }
        EngineKind::Sqlite => {
            assert!(is_unsupported(maintenance.dead_rows().await));
            let space = maintenance.vacuum_file(&nobody()).await.expect("tidied");
            assert_eq!(space.table, TableSpace::WHOLE_FILE);
            let known = fixture
                .rows(&format!("SELECT count(*) FROM sqlite_stat1 WHERE tbl = '{table}'"))
                .await;
            assert_eq!(known[0][0].as_deref(), Some("1"), "the statistics are new");
        }
    }
    assert_eq!(
        fixture.rows(&format!("SELECT count(*) FROM {table}")).await[0][0].as_deref(),
        Some("2000")
    );
}

pub(super) async fn indexes_are_rebuilt_or_it_is_said_that_none_is(fixture: &dyn Fixture) {
    let (table, target, run) = (fresh("worn"), fixture.target(), RunId::new());
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, note text); CREATE INDEX {table}_note ON {table} (note)"
        ))
        .await;
    let schema = target
        .introspect(&TableName::parse(&table))
        .await
        .expect("a look")
        .expect("a table");
    let index = TableName {
        schema: schema.name.schema.clone(),
        name: format!("{table}_note"),
    };
    let maintenance = target.maintenance();
    match target.engine() {
        EngineKind::Postgres => {
            let survey = maintenance.survey_indexes(&nobody()).await.expect("a survey");
            assert!(survey.bloated.iter().all(|bloated| bloated.index != index), "it is small");
            let space = maintenance.reindex(run, &index, &nobody()).await.expect("rebuilt");
            assert_eq!(space.bytes_before, space.bytes_after);
            let stopped = nobody();
            stopped.stop.cancel();
            let told = maintenance.survey_indexes(&stopped).await;
            assert!(matches!(told, Ok(_) | Err(MaintenanceError::Stopped)), "{told:?}");
        }
        EngineKind::Sqlite => {
            assert!(is_unsupported(maintenance.survey_indexes(&nobody()).await));
            assert!(is_unsupported(maintenance.reindex(run, &index, &nobody()).await));
        }
    }
    assert_eq!(maintenance.settle_reindex(run, &index).await.expect("nothing to do"), []);
}

/// Dead rows and free bytes of a table, once they are these: statistics arrive late.
async fn until_space(fixture: &dyn Fixture, table: &str, expected: (u64, u64)) {
    let target = fixture.target();
    let name = TableName::parse(table);
    let since = Instant::now();
    loop {
        let sizes = target
            .maintenance()
            .sizes(Some(std::slice::from_ref(&name)))
            .await
            .expect("sizes");
        let size = sizes.tables.first().expect("the table");
        if size.dead_rows.zip(size.free_bytes) == Some(expected) {
            return;
        }
        assert!(since.elapsed() < STATISTICS, "{size:?}, expected {expected:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Of 500 rows in three pages every fifth stays. Each takes 4 + 24 + 16 bytes, so that 185 fit into a page of 8,192 bytes: what stays would
/// fit into one.
async fn space_is_dead_and_then_free(fixture: &dyn Fixture, table: &str) {
    fixture
        .execute(&format!("ALTER TABLE {table} SET (autovacuum_enabled = false)"))
        .await;
    until_space(fixture, table, (0, 0)).await;
    // Its session tells of it at once, where the server knows how.
    let tell = "DO $$ BEGIN PERFORM pg_stat_force_next_flush(); EXCEPTION WHEN undefined_function THEN NULL; END $$";
    fixture
        .execute(&format!("DELETE FROM {table} WHERE id % 5 <> 0; {tell}"))
        .await;
    until_space(fixture, table, (400, 0)).await;
    fixture.execute(&format!("VACUUM (ANALYZE) {table}")).await;
    until_space(fixture, table, (0, 2 * 8_192)).await;
    // A snapshot has the same numbers.
    let target = fixture.target();
    let snapshot = target.observer().observe(Depth::Quick, STATISTICS).await.expect("a snapshot");
    let mut vitals = snapshot.tables.iter();
    let vitals = vitals.find(|vitals| vitals.table.name == table).expect("the table");
    assert_eq!((vitals.dead_rows, vitals.free_bytes), (Some(0), Some(2 * 8_192)));
}

/// What the database does not know without a look at every row or page is unknown, and not zero.
pub(super) async fn sizes_are_known_or_said_to_be_unknown(fixture: &dyn Fixture) {
    let (filled, bare, gone) = (fresh("filled"), fresh("bare"), fresh("gone"));
    let target = fixture.target();
    fixture
        .execute(&format!(
            "CREATE TABLE {filled} (id bigint NOT NULL PRIMARY KEY, note text); CREATE TABLE {bare} (id bigint NOT NULL PRIMARY KEY); \
             INSERT INTO {filled} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i, 'a note' FROM n"
        ))
        .await;
    let names = [&filled, &bare, &gone].map(|name| TableName::parse(name));
    let maintenance = target.maintenance();
    let is_postgres = target.engine() == EngineKind::Postgres;
    let first = maintenance.sizes(Some(&names)).await.expect("sizes");
    assert!(first.database_bytes.expect("a size") > 0);
    let of = |snapshot: &crate::model::SizeSnapshot, name: &str| snapshot.tables.iter().find(|size| size.table == name).cloned();
    let (full, empty) = (of(&first, &filled).expect("a table"), of(&first, &bare).expect("a table"));
    assert_eq!((full.rows, full.rows_by), (None, RowsBy::Unknown), "never analyzed");
    assert_eq!(full.bytes.is_some(), is_postgres);
    assert_eq!(
        (full.dead_rows, full.free_bytes),
        (is_postgres.then_some(0), None),
        "nothing is known of what is free before the first ANALYZE"
    );
    assert_eq!(first.reusable_bytes.is_some(), !is_postgres, "free pages are the file's");
    if is_postgres {
        assert_eq!((empty.dead_rows, empty.free_bytes), (Some(0), Some(0)));
        assert_eq!(
            (empty.rows, empty.rows_by),
            (Some(0), RowsBy::Count),
            "without a page there is no row"
        );
    }
    assert_eq!(of(&first, &gone), None, "there is no such table");
    fixture.execute(&format!("ANALYZE {filled}")).await;
    let second = maintenance.sizes(Some(&names)).await.expect("sizes");
    let full = of(&second, &filled).expect("a table");
    assert_eq!((full.rows, full.rows_by), (Some(500), RowsBy::Estimate));
    if is_postgres {
        space_is_dead_and_then_free(fixture, &filled).await;
    } else {
        assert_eq!((full.dead_rows, full.free_bytes), (None, None), "what is deleted is gone");
    }
    // Nobody names a table: the largest, and none of our own.
    let largest = maintenance.sizes(None).await.expect("sizes").tables;
    assert!(!largest.is_empty() && largest.len() <= 20);
    assert!(largest.iter().all(|size| !size.table.contains("dbkeep")), "{largest:?}");
    let reindex = maintenance.unsupported(MaintenanceTask::ReindexBloated.name());
    assert_eq!(reindex.is_none(), is_postgres);
    let others = MaintenanceTask::NAMES.into_iter().filter(|name| *name != "reindex_bloated");
    assert!(others.into_iter().all(|name| maintenance.unsupported(name).is_none()));
}
