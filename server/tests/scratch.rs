//! The scratch place of a backup, opened as a target of its own: what a rehearsal works in, on both databases.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dbkeep_engine::{
    model::{LedgerEntry, LedgerState, MaintenanceProgress, MigrationId, RunId, Statement, fence},
    port::{Claim, DumpOrder, Follow, GroupOrder, LoadOrder, MaintenanceError, Target, Watch},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use jiff::Timestamp;
use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

fn order(claim: Claim, sql: &str) -> GroupOrder {
    GroupOrder {
        claim,
        atomic: true,
        statements: vec![Statement {
            sql: sql.to_owned(),
            line: 1,
            column: 1,
        }],
        session: Vec::new(),
        foreign_keys_off: false,
        lock_timeout: Duration::from_secs(2),
        statement_timeout: None,
        observe: true,
        elsewhere: None,
        verify: None,
        checks: Vec::new(),
        before: None,
        after: LedgerEntry {
            id: MigrationId("1".to_owned()),
            name: "one".to_owned(),
            sha256: "00".repeat(32),
            state: LedgerState::Applied,
            statements_done: 1,
            statements: 1,
            in_doubt: false,
            problem: String::new(),
            rows: 0,
            duration_ms: 0,
            at: Timestamp::UNIX_EPOCH,
            by: "test".to_owned(),
            run: claim.run,
            backup: None,
            script_sha256: String::new(),
        },
    }
}

async fn rehearse(url: &str, folder: &std::path::Path) {
    let db = Db::open(&format!("{url}{}", if url.starts_with("sqlite") { "?mode=rwc" } else { "" }))
        .await
        .expect("a database");
    db.execute("CREATE TABLE kept (id integer PRIMARY KEY); INSERT INTO kept VALUES (1), (2)")
        .await
        .expect("made");
    let target = target::open(url).expect("a target");
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    let maintenance = target.maintenance();
    let watch = Watch {
        progress: watch::channel(MaintenanceProgress::default()).0,
        stop: CancellationToken::new(),
    };
    let path = folder.join("dump");
    File::create(&path).expect("a file");
    let dump = DumpOrder {
        claim: None,
        tables: Vec::new(),
        path: path.clone(),
        schema_only: false,
    };
    let dumped = maintenance.dump(&dump, &watch).await.expect("a dump");
    let load = LoadOrder {
        claim,
        path,
        tables: dumped.tables,
        whole: true,
        notes: dumped.notes,
    };
    let name = format!("rehearsal_{}", &claim.run.to_string()[24..]);
    let missing = maintenance.open_scratch(&name).await;
    assert!(
        matches!(missing, Err(MaintenanceError::Place { .. })),
        "nothing is made by opening"
    );
    maintenance.load_scratch(&load, &name, &watch).await.expect("loaded");

    let scratch: Arc<dyn Target> = maintenance.open_scratch(&name).await.expect("a target");
    let (ours, theirs) = (scratch.migrator(), target.migrator());
    let print = |target: dbkeep_engine::model::Fingerprint| (target.objects, target.tables);
    assert_eq!(
        print(ours.fingerprint().await.expect("a fingerprint")),
        print(theirs.fingerprint().await.expect("a fingerprint")),
        "the same schema and rows"
    );
    scratch.claim(claim).await.expect("a claim");
    ours.lease(claim, "test", Duration::from_secs(60)).await.expect("a lease");
    let follow = Follow {
        told: mpsc::unbounded_channel().0,
        stop: CancellationToken::new(),
    };
    let done = ours
        .execute(&order(claim, "DROP TABLE kept"), &follow)
        .await
        .expect("applied there");
    assert_eq!(done.statements.len(), 1);
    assert!(theirs.ledger().await.expect("no ledger").is_empty(), "and nowhere else");
    assert_eq!(db.count("kept").await.expect("a count"), 2);
    drop(scratch);
    maintenance.drop_scratch(claim, &name).await.expect("dropped");
    assert!(maintenance.open_scratch(&name).await.is_err(), "it is gone");
}

#[tokio::test]
async fn a_scratch_database_is_a_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = fresh_database("scratch").await.expect("a database");
    rehearse(&url, folder.path()).await;
}

#[tokio::test]
async fn a_scratch_file_is_a_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/app.db", folder.path().display());
    rehearse(&url, folder.path()).await;
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 2, "the database and the dump");
}

/// A scratch file of this claim, with what a run makes of it.
async fn scratch_file(folder: &Path, claim: Claim) -> (Arc<dyn Target>, PathBuf) {
    let url = format!("sqlite://{}/app.db", folder.display());
    let db = Db::open(&format!("{url}?mode=rwc")).await.expect("a database");
    db.execute("CREATE TABLE kept (id integer PRIMARY KEY, text text); INSERT INTO kept VALUES (1, 'a')")
        .await
        .expect("made");
    let target = target::open(&url).expect("a target");
    let watch = Watch {
        progress: watch::channel(MaintenanceProgress::default()).0,
        stop: CancellationToken::new(),
    };
    let path = folder.join("dump");
    File::create(&path).expect("a file");
    let dump = DumpOrder {
        claim: None,
        tables: Vec::new(),
        path: path.clone(),
        schema_only: false,
    };
    let dumped = target.maintenance().dump(&dump, &watch).await.expect("a dump");
    let load = LoadOrder {
        claim,
        path,
        tables: dumped.tables,
        whole: true,
        notes: dumped.notes,
    };
    target
        .maintenance()
        .load_scratch(&load, "copy", &watch)
        .await
        .expect("loaded");
    (target, folder.join("copy.db"))
}

/// The fence of whoever made it.
const CLAIM_FENCE: u64 = 1;

/// Names of files that begin like the copy.
fn copies(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("copy")).collect()
}

#[tokio::test]
async fn a_scratch_file_that_somebody_was_writing_when_killed_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let claim = Claim {
        run: RunId::new(),
        fence: CLAIM_FENCE,
    };
    let (target, copy) = scratch_file(folder.path(), claim).await;
    // As a kill leaves it: pages of a transaction that never ended are in the file, and its journal is beside.
    let options = SqliteConnectOptions::new()
        .filename(&copy)
        .journal_mode(SqliteJournalMode::Delete);
    let mut writing = options.connect().await.expect("a connection");
    writing
        .execute(
            "PRAGMA cache_size = 1; BEGIN; CREATE TABLE more (id integer PRIMARY KEY, text text); \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
             INSERT INTO more SELECT i, hex(randomblob(100)) FROM n",
        )
        .await
        .expect("written");
    let mut journal = copy.clone().into_os_string();
    journal.push("-journal");
    let (mut pages, journal_pages) = (
        std::fs::read(&copy).expect("the file"),
        std::fs::read(&journal).expect("its journal"),
    );
    assert!(journal_pages.iter().any(|byte| *byte != 0), "pages were spilled");
    writing.close().await.expect("closed");
    // The page with the schema was on its way, too.
    pages[100..2_000].fill(0xff);
    std::fs::write(&copy, &pages).expect("written");
    std::fs::write(&journal, &journal_pages).expect("written");
    let other = Claim {
        run: RunId::new(),
        fence: CLAIM_FENCE,
    };
    let refused = target.maintenance().drop_scratch(other, "copy").await;
    assert!(matches!(refused, Err(MaintenanceError::Place { .. })), "it is another run's");
    target.maintenance().drop_scratch(claim, "copy").await.expect("dropped");
    assert_eq!(copies(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_scratch_file_that_was_going_when_killed_leaves_nothing_beside() {
    let folder = tempfile::tempdir().expect("a folder");
    let claim = Claim {
        run: RunId::new(),
        fence: CLAIM_FENCE,
    };
    let (target, copy) = scratch_file(folder.path(), claim).await;
    let going = folder
        .path()
        .join(format!("copy.dbkeep-{}-{}", claim.run, fence::name(claim.fence)));
    std::fs::rename(&copy, going).expect("renamed");
    for beside in ["-wal", "-shm"] {
        std::fs::write(folder.path().join(format!("copy.db{beside}")), b"left").expect("written");
    }
    let next = Claim {
        fence: CLAIM_FENCE + 1,
        ..claim
    };
    target.maintenance().drop_scratch(next, "copy").await.expect("dropped");
    assert_eq!(copies(folder.path()), Vec::<String>::new());
}
