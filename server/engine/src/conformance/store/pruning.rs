//! The removal of backups: decided only while nobody needs them, and once decided nobody gets them.

use std::sync::Arc;

use super::{LONG, accept, enter, queued, report, request, run, running};
use crate::{
    model::{Run, RunId, RunKind, RunState},
    port::{Created, RunFilter, Store, Update},
};

/// A cleanup that captured rows and has ended.
async fn ended(store: &dyn Store) -> Run {
    let grant = running(store).await;
    let update = Update {
        report: Some(report(3)),
        ..enter(RunState::Succeeded, "done")
    };
    store.update(grant.run.id, grant.fence, &update).await.unwrap();
    store.run(grant.run.id).await.unwrap().unwrap()
}

fn about(source: RunId) -> Run {
    Run {
        kind: RunKind::Undo,
        source: Some(source),
        ..run("shop")
    }
}

pub(super) async fn a_backup_that_is_needed_is_not_taken(store: Arc<dyn Store>) {
    let store = store.as_ref();
    assert!(!store.begin_prune(RunId::new()).await.unwrap(), "there is no such run");
    let living = queued(store).await;
    assert!(!store.begin_prune(living.id).await.unwrap(), "its run has not ended");
    store.request_cancel(living.id, "enough").await.unwrap();

    let source = ended(store).await;
    let undo = accept(store, &request(about(source.id), &[])).await;
    assert!(!store.begin_prune(source.id).await.unwrap(), "an undo waits");
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(grant.run.id, undo.id);
    assert!(!store.begin_prune(source.id).await.unwrap(), "an undo is at work");
    store
        .update(undo.id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    assert!(!store.begin_prune(source.id).await.unwrap(), "an undo will go on");
    assert_eq!(
        store.run(source.id).await.unwrap().unwrap().pruned,
        None,
        "nothing was decided"
    );
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    store
        .update(undo.id, grant.fence, &enter(RunState::Succeeded, "done"))
        .await
        .unwrap();
    assert!(store.begin_prune(source.id).await.unwrap());
}

pub(super) async fn a_backup_that_goes_is_not_given_to_anybody(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let source = ended(store).await;
    assert!(store.end_prune(source.id).await.is_err(), "it was never begun");
    assert!(store.begin_prune(source.id).await.unwrap());
    let pruned = store.run(source.id).await.unwrap().unwrap().pruned.expect("it was decided");
    assert!(!pruned.complete && pruned.at >= source.ended_at.unwrap());
    let Created::SourcePruned { source: named, at } = store.create_run(&request(about(source.id), &[])).await.unwrap() else {
        panic!("no run about it may begin")
    };
    assert_eq!((named, at), (source.id, pruned.at));
    assert!(store.begin_prune(source.id).await.unwrap(), "what was begun is gone on with");
    store.end_prune(source.id).await.unwrap();
    let done = store.run(source.id).await.unwrap().unwrap();
    assert_eq!(
        done.pruned.map(|pruned| (pruned.at, pruned.complete)),
        Some((at, true)),
        "decided once"
    );
    assert_eq!(Run { pruned: None, ..done }, source, "nothing else changes");
    // A run about another backup is none of its business.
    let other = ended(store).await;
    accept(store, &request(about(other.id), &[])).await;
}

pub(super) async fn a_prune_races_with_an_undo(store: Arc<dyn Store>) {
    for _ in 0..20 {
        let source = ended(store.as_ref()).await;
        let (pruning, undoing) = (Arc::clone(&store), Arc::clone(&store));
        let asked = request(about(source.id), &[]);
        let (pruned, undone) = tokio::join!(
            tokio::spawn(async move { pruning.begin_prune(source.id).await.unwrap() }),
            tokio::spawn(async move { matches!(undoing.create_run(&asked).await.unwrap(), Created::Accepted(_)) }),
        );
        assert_ne!(pruned.unwrap(), undone.unwrap(), "exactly one of them gets the backup");
        // Out of the way of the next round.
        for run in store.runs(&RunFilter::default(), None, 10).await.unwrap() {
            store.request_cancel(run.id, "enough").await.unwrap();
        }
    }
}

pub(super) async fn backups_of_whole_tables_are_found(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let rows = ended(store).await;
    let make = async |end| {
        let backup = Run {
            kind: RunKind::Backup,
            report: report(0),
            ..run("shop")
        };
        let backup = accept(store, &request(backup, &[])).await;
        let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
        store.update(backup.id, grant.fence, &enter(end, "done")).await.unwrap();
        backup.id
    };
    let made = make(RunState::Succeeded).await;
    make(RunState::Failed).await;
    let filter = RunFilter {
        captured: true,
        ..RunFilter::default()
    };
    let found: Vec<_> = store
        .runs(&filter, None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|run| run.id)
        .collect();
    assert_eq!(found, [made, rows.id], "one that failed is no backup");
}
