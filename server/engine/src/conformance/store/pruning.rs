//! The removal of backups: decided only while nobody needs them, and once decided nobody gets them.

use std::sync::Arc;

use super::{LONG, accept, enter, queued, report, request, run, running};
use crate::{
    model::{MaintenanceRecord, MaintenanceTask, Run, RunId, RunKind, RunState, TaskRecord},
    port::{Created, PruneBegun, RunFilter, SourceMark, Store, Update},
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

/// Whether a removal is decided.
async fn taken(store: &dyn Store, run: RunId) -> bool {
    store.begin_prune(run, None).await.unwrap() == PruneBegun::Begun
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
    assert!(!taken(store, RunId::new()).await, "there is no such run");
    let living = queued(store).await;
    assert!(!taken(store, living.id).await, "its run has not ended");
    store.request_cancel(living.id, "enough").await.unwrap();

    let source = ended(store).await;
    let undo = accept(store, &request(about(source.id), &[])).await;
    assert!(!taken(store, source.id).await, "an undo waits");
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(grant.run.id, undo.id);
    assert!(!taken(store, source.id).await, "an undo is at work");
    store
        .update(undo.id, grant.fence, &enter(RunState::Interrupted, "later"))
        .await
        .unwrap();
    assert!(!taken(store, source.id).await, "an undo will go on");
    assert_eq!(
        store.run(source.id).await.unwrap().unwrap().pruned,
        None,
        "nothing was decided"
    );
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    store
        .update(undo.id, grant.fence, &enter(RunState::Failed, "cut short"))
        .await
        .unwrap();
    assert!(!taken(store, source.id).await, "its rows may be nowhere else");
    let undo = accept(store, &request(about(source.id), &[])).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    let done = Update {
        source_mark: Some(SourceMark::Undone),
        ..enter(RunState::Succeeded, "done")
    };
    store.update(undo.id, grant.fence, &done).await.unwrap();
    assert!(taken(store, source.id).await);
}

pub(super) async fn a_backup_that_goes_is_not_given_to_anybody(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let source = ended(store).await;
    assert!(store.end_prune(source.id).await.is_err(), "it was never begun");
    assert!(taken(store, source.id).await);
    let pruned = store.run(source.id).await.unwrap().unwrap().pruned.expect("it was decided");
    assert!(!pruned.complete && pruned.at >= source.ended_at.unwrap());
    let Created::SourcePruned { source: named, at } = store.create_run(&request(about(source.id), &[])).await.unwrap() else {
        panic!("no run about it may begin")
    };
    assert_eq!((named, at), (source.id, pruned.at));
    assert!(taken(store, source.id).await, "what was begun is gone on with");
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
            tokio::spawn(async move { taken(pruning.as_ref(), source.id).await }),
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

/// What changed since backups were listed is looked at in the transaction of the decision.
pub(super) async fn a_backup_that_is_needed_by_now_is_not_taken(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let kept = async |run: RunId, keeper: Option<RunId>| match store.begin_prune(run, keeper).await.unwrap() {
        PruneBegun::Kept(why) => why,
        PruneBegun::Begun => panic!("it is needed"),
    };
    let (old, newer) = (ended(store).await, ended(store).await);
    // A run of maintenance that finds out about backups.
    let record = |task: MaintenanceTask, current: Option<RunId>| {
        let mut report = report(0);
        report.maintenance = Some(Box::new(MaintenanceRecord {
            tasks: vec![TaskRecord {
                task,
                items: Vec::new(),
                current: current.map(|current| current.to_string()),
            }],
        }));
        report
    };
    let maintenance = Run {
        kind: RunKind::Maintain,
        report: record(MaintenanceTask::VerifyBackups, None),
        ..run("shop")
    };
    let maintenance = accept(store, &request(maintenance, &[])).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(grant.run.id, maintenance.id);
    let write = async |update: Update| store.update(maintenance.id, grant.fence, &update).await.unwrap();
    let at = |current| Update {
        report: Some(record(MaintenanceTask::VerifyBackups, current)),
        ..Update::default()
    };
    let found = |proofs: Vec<(RunId, SourceMark)>| Update {
        proofs,
        ..Update::default()
    };
    write(at(Some(old.id))).await;
    assert!(kept(old.id, None).await.contains("is proving it"));
    write(at(Some(newer.id))).await;
    // One that is proven needs another of its kind that is newer and proven.
    write(found(vec![(old.id, SourceMark::Verified)])).await;
    assert!(kept(old.id, None).await.contains("newest of its kind"));
    assert!(
        kept(old.id, Some(newer.id)).await.contains("not proven any more"),
        "it never was"
    );
    write(found(vec![(newer.id, SourceMark::Damaged)])).await;
    assert!(kept(old.id, Some(newer.id)).await.contains("not proven any more"));
    write(found(vec![(newer.id, SourceMark::Verified)])).await;
    // A prune that names a backup proves nothing of it.
    write(Update {
        report: Some(record(
            MaintenanceTask::PruneBackups {
                keep_days: None,
                keep_count: Some(1),
            },
            Some(old.id),
        )),
        ..Update::default()
    })
    .await;
    assert_eq!(store.begin_prune(old.id, Some(newer.id)).await.unwrap(), PruneBegun::Begun);
}
