//! The scratch place of a backup, opened as a target of its own: what a rehearsal works in, on both databases.

use std::{fs::File, sync::Arc, time::Duration};

use dbkeep_engine::{
    model::{LedgerEntry, LedgerState, MaintenanceProgress, MigrationId, RunId, Statement},
    port::{Claim, DumpOrder, Follow, GroupOrder, LoadOrder, MaintenanceError, Target, Watch},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use jiff::Timestamp;
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
