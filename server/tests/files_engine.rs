//! The trash as the engine shows it: listed by root and run, and pruned only when nobody needs it any more.

use std::{collections::BTreeMap, fs, sync::Arc, time::SystemTime};

use dbkeep_engine::{
    Engine, EngineError,
    catalog::Catalog,
    engine::{CleanupRequest, Settings, TargetEntry},
    model::{Caller, Run, RunId, RunOptions, RunState},
    port::{FileRoot, FilesError, Roots},
};
use dbkeep_server::{archive::FolderArchive, files::FolderRoot, store::ControlStore, target};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

const CATALOG: &str = r#"
[[operation]]
name = "temporary"
category = "TEMPORARY_FILES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "old"
kind = "temp_files"
root = "temp"
age = "PT1H"
max_fraction = 1.0
"#;

/// Runs `work` to its end.
async fn end(engine: &Engine, run: &Run) -> Run {
    let events = engine
        .watch(&run.id.to_string(), 0, CancellationToken::new())
        .await
        .expect("a stream");
    futures::pin_mut!(events);
    while let Some(event) = events.next().await {
        event.expect("an event");
    }
    engine.run(&run.id.to_string()).await.expect("the run")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trash_is_listed_and_pruned_when_nobody_needs_it() {
    let place = tempfile::tempdir().expect("a folder");
    let at = |name: &str| place.path().join(name);
    for folder in ["temp", "empty"] {
        fs::create_dir(at(folder)).expect("a root");
    }
    for name in ["a", "b"] {
        fs::write(at("temp").join(name), "12345").expect("a file");
        let file = fs::File::options().append(true).open(at("temp").join(name)).expect("open");
        file.set_modified(SystemTime::UNIX_EPOCH).expect("a time");
    }
    fs::write(at("app.db"), []).expect("a database");
    let mut roots = Roots::new();
    for name in ["temp", "empty"] {
        let root = FolderRoot::open(at(name), at("spill")).expect("a root");
        roots.insert(name.to_owned(), Arc::new(root) as Arc<dyn FileRoot>);
    }
    let entry = TargetEntry {
        target: target::open(&format!("sqlite://{}", at("app.db").display())).expect("a target"),
        catalog: Arc::new(Catalog::parse("c.toml", CATALOG).expect("a catalog")),
        roots: Arc::new(roots),
        migrations: None,
    };
    let store = ControlStore::open(&format!("sqlite://{}", at("control.db").display()))
        .await
        .expect("a store");
    let archive = FolderArchive::open(at("backups")).expect("an archive");
    let targets = BTreeMap::from([("app".to_owned(), entry)]);
    let engine = Engine::new(targets, Arc::new(store), Arc::new(archive), Settings::default());

    let refused = engine.prune_trash(RunId::new()).await;
    assert!(matches!(refused, Err(EngineError::UnknownRun { .. })), "{refused:?}");

    let caller = Caller {
        principal: "tester".to_owned(),
        peer: String::new(),
    };
    let options = RunOptions {
        dry_run: false,
        ..RunOptions::default()
    };
    let request = CleanupRequest {
        request_id: String::new(),
        target: "app".to_owned(),
        operations: vec!["temporary".to_owned()],
        plan_token: String::new(),
        confirmation_phrase: String::new(),
        options,
        caller: caller.clone(),
        given_up: CancellationToken::new(),
    };
    let run = engine.run_cleanup(request).await.expect("a run");
    // Nobody works on it yet.
    let refused = engine.prune_trash(run.id).await;
    assert!(matches!(refused, Err(EngineError::WrongState { .. })), "{refused:?}");
    let shutdown = CancellationToken::new();
    let supervisor = tokio::spawn(engine.supervisor().run(shutdown.clone()));
    let run = end(&engine, &run).await;
    assert_eq!(run.state, RunState::Succeeded, "{}", run.state_reason);
    shutdown.cancel();
    supervisor.await.expect("the supervisor ends");

    let listed = engine.trash("app").await.expect("a list");
    let listed: Vec<_> = listed
        .iter()
        .map(|(root, usage)| (root.as_str(), usage.run, usage.files, usage.bytes))
        .collect();
    assert_eq!(listed, [("temp", run.id, 2, 10)]);

    // An undo that has not ended needs it.
    let undo = engine
        .undo("", &run.id.to_string(), RunOptions::default(), &caller)
        .await
        .expect("an undo");
    let refused = engine.prune_trash(run.id).await;
    assert!(
        matches!(&refused, Err(EngineError::RunAlreadyActive { run, .. }) if *run == undo.id),
        "{refused:?}"
    );
    engine.cancel(&undo.id.to_string(), "", &caller).await.expect("cancelled");

    let pruned = engine.prune_trash(run.id).await.expect("pruned");
    assert_eq!((pruned.files, pruned.bytes), (2, 10));
    assert!(engine.trash("app").await.expect("a list").is_empty());
    assert_eq!(engine.prune_trash(run.id).await.expect("nothing left").files, 0);
    let unknown = engine.trash("other").await;
    assert!(matches!(unknown, Err(EngineError::UnknownTarget { .. })), "{unknown:?}");

    // A root that is gone is told.
    fs::remove_dir(at("empty")).expect("removed");
    let unusable = engine.trash("app").await;
    assert!(
        matches!(
            unusable,
            Err(EngineError::Files {
                source: FilesError::Unusable { .. },
                ..
            })
        ),
        "{unusable:?}"
    );
}
