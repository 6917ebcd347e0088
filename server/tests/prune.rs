//! What was set aside elsewhere goes with a pruned backup: the engine on real adapters, with a trash that a test joins to it.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dbkeep_engine::{
    Engine, EngineError,
    catalog::Catalog,
    engine::{Settings, TargetEntry, backups::PruneRule},
    model::{RunId, RunState},
    port::{ArchiveError, Trash},
};
use dbkeep_server::{archive::FolderArchive, store::ControlStore, target};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

/// A folder for each run, of 7 bytes; refuses to be emptied while `broken`.
struct Bin {
    folder: std::path::PathBuf,
    broken: AtomicBool,
}

impl Trash for Bin {
    fn size(&self, target: &str, run: RunId) -> Result<u64, ArchiveError> {
        assert_eq!(target, "app");
        Ok(if self.folder.join(run.to_string()).exists() { 7 } else { 0 })
    }

    fn remove(&self, _: &str, run: RunId) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Io {
            path: run.to_string(),
            source,
        };
        if self.broken.load(Ordering::SeqCst) {
            return Err(failed(io::Error::other("the trash is stuck")));
        }
        match fs::remove_dir_all(self.folder.join(run.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_goes_with_its_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("app.db");
    let url = format!("sqlite://{}", file.display());
    let db = dbkeep_testkit::Db::open(&format!("{url}?mode=rwc"))
        .await
        .expect("a database");
    db.execute("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        .await
        .expect("a table");
    let entry = TargetEntry {
        target: target::open(&url).expect("a target"),
        catalog: Arc::new(Catalog::default()),
    };
    let store = ControlStore::open(&format!("sqlite://{}", folder.path().join("control.db").display()))
        .await
        .expect("a store");
    let archive = FolderArchive::open(folder.path().join("backups")).expect("an archive");
    let engine = Engine::new(
        BTreeMap::from([("app".to_owned(), entry)]),
        Arc::new(store),
        Arc::new(archive),
        Settings::default(),
    );
    let bin = Arc::new(Bin {
        folder: folder.path().join("trash"),
        broken: AtomicBool::new(true),
    });
    let trash: Arc<dyn Trash> = Arc::clone(&bin) as _;
    assert!(
        engine.join_trash(Arc::clone(&trash)) && !engine.join_trash(trash),
        "one trash is joined"
    );
    let stop = CancellationToken::new();
    let supervisor = tokio::spawn(engine.supervisor().run(stop.clone()));

    let run = engine.create_backup("", "app", &[]).await.expect("accepted").id;
    let events = engine.watch(&run.to_string(), 0, stop.clone()).await.expect("events");
    let events: Vec<_> = events.collect().await;
    assert!(events.iter().all(Result::is_ok));
    assert_eq!(
        engine.run(&run.to_string()).await.expect("the run").state,
        RunState::Succeeded
    );
    fs::create_dir_all(bin.folder.join(run.to_string())).expect("something set aside");

    let rule = |dry_run| PruneRule {
        keep_last: Some(0),
        older_than: None,
        dry_run,
    };
    let told = engine.prune_backups("app", rule(true)).await.expect("told");
    let bytes = engine
        .run(&run.to_string())
        .await
        .expect("the run")
        .report
        .total(|step| step.captured_bytes);
    assert_eq!((told[0].pruned, told[0].freed_bytes), (true, bytes + 7));
    assert!(bin.folder.join(run.to_string()).exists(), "a dry run removes nothing");

    let stuck = engine
        .prune_backups("app", rule(false))
        .await
        .expect_err("the trash is stuck");
    assert!(
        matches!(&stuck, EngineError::Archive(error) if error.to_string().contains("stuck")),
        "{stuck}"
    );
    let half = engine
        .run(&run.to_string())
        .await
        .expect("the run")
        .pruned
        .expect("it was decided");
    assert!(!half.complete);
    bin.broken.store(false, Ordering::SeqCst);
    // Whatever the rule says now.
    let kept = PruneRule {
        keep_last: None,
        older_than: Some(Duration::from_secs(3600)),
        dry_run: false,
    };
    let done = engine.prune_backups("app", kept).await.expect("done");
    assert!(done[0].pruned, "{done:?}");
    assert!(!bin.folder.join(run.to_string()).exists() && !folder.path().join("backups").join(run.to_string()).exists());
    assert!(
        engine
            .run(&run.to_string())
            .await
            .expect("the run")
            .pruned
            .is_some_and(|pruned| pruned.complete)
    );
    stop.cancel();
    supervisor.await.expect("the supervisor ends");
}
