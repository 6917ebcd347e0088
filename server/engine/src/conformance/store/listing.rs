//! Lists of runs: their order, their pages and their filters.

use std::sync::Arc;

use jiff::Timestamp;

use super::{LONG, accept, enter, queued, report, request, run, running};
use crate::{
    model::{Run, RunId, RunKind, RunState},
    port::{RunFilter, Store, Update},
};

async fn ids(store: &dyn Store, filter: &RunFilter) -> Vec<RunId> {
    store
        .runs(filter, None, 1000)
        .await
        .unwrap()
        .into_iter()
        .map(|run| run.id)
        .collect()
}

pub(super) async fn runs_are_listed_newest_first(store: Arc<dyn Store>) {
    let all = RunFilter::default();
    assert!(ids(store.as_ref(), &all).await.is_empty());
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(queued(store.as_ref()).await);
    }
    made.reverse();
    assert_eq!(store.runs(&all, None, 100).await.unwrap(), made, "as each of them is");
    assert_eq!(store.runs(&all, None, 3).await.unwrap(), made[..3]);
    assert_eq!(store.runs(&all, Some(made[2].id), 3).await.unwrap(), made[3..6]);
    assert_eq!(store.runs(&all, Some(made[5].id), 3).await.unwrap(), made[6..]);
    assert!(store.runs(&all, Some(made[6].id), 3).await.unwrap().is_empty());
    assert!(store.runs(&all, None, 0).await.unwrap().is_empty());
    // A new run does not move the pages of somebody who is reading.
    queued(store.as_ref()).await;
    assert_eq!(store.runs(&all, Some(made[2].id), 3).await.unwrap(), made[3..6]);
}

pub(super) async fn filters_are_exact_and_combine(store: Arc<dyn Store>) {
    let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
    let make = async |target: &str, kind, operations: &[&str], second| {
        let operations = operations.iter().map(|operation| (*operation).to_owned()).collect();
        let run = Run {
            kind,
            operations,
            created_at: at(second),
            ..run(target)
        };
        accept(store.as_ref(), &request(run, &[])).await.id
    };
    let one = make("shop", RunKind::Cleanup, &["sessions"], 1).await;
    let two = make("shop", RunKind::Undo, &["sessions", "old_carts"], 2).await;
    let three = make("Shop", RunKind::Cleanup, &["old-carts", "sessions", "sessions"], 3).await;
    let four = make("shop", RunKind::Verify, &["Sessions"], 4).await;
    store.request_cancel(one, "enough").await.unwrap();
    let check =
        async |filter: RunFilter, expected: &[RunId]| assert_eq!(ids(store.as_ref(), &filter).await, expected, "{filter:?}");
    let target = |target: &str| RunFilter {
        target: Some(target.to_owned()),
        ..RunFilter::default()
    };
    let operation = |operation: &str| RunFilter {
        operation: Some(operation.to_owned()),
        ..RunFilter::default()
    };

    check(target("shop"), &[four, two, one]).await;
    check(target("Shop"), &[three]).await;
    for nobody in ["", "sho", "shop ", "shop' OR '1'='1", "%", "sh\0op"] {
        check(target(nobody), &[]).await;
    }
    check(operation("sessions"), &[three, two, one]).await;
    check(operation("Sessions"), &[four]).await;
    check(operation("old_carts"), &[two]).await;
    check(operation("old-carts"), &[three]).await;
    for nobody in [
        "",
        "%",
        "session",
        "sessions%",
        "_essions",
        "sessions\",\"old_carts",
        "\"sessions\"",
        "old?carts",
        "*",
        "sessions\\",
    ] {
        check(operation(nobody), &[]).await;
    }
    check(
        RunFilter {
            kinds: vec![RunKind::Undo],
            ..RunFilter::default()
        },
        &[two],
    )
    .await;
    check(
        RunFilter {
            kinds: vec![RunKind::Undo, RunKind::Verify, RunKind::Undo],
            ..RunFilter::default()
        },
        &[four, two],
    )
    .await;
    check(
        RunFilter {
            states: vec![RunState::Cancelled],
            ..RunFilter::default()
        },
        &[one],
    )
    .await;
    check(
        RunFilter {
            states: vec![RunState::Cancelled, RunState::Queued],
            ..RunFilter::default()
        },
        &[four, three, two, one],
    )
    .await;
    check(
        RunFilter {
            states: vec![RunState::Failed],
            ..RunFilter::default()
        },
        &[],
    )
    .await;
    check(
        RunFilter {
            created_after: Some(at(3)),
            ..RunFilter::default()
        },
        &[four, three],
    )
    .await;
    check(
        RunFilter {
            created_after: Some(at(5)),
            ..RunFilter::default()
        },
        &[],
    )
    .await;
    check(
        RunFilter {
            created_after: Some(Timestamp::MIN),
            ..RunFilter::default()
        },
        &[four, three, two, one],
    )
    .await;
    check(
        RunFilter {
            captured: true,
            ..RunFilter::default()
        },
        &[],
    )
    .await;

    let everything = RunFilter {
        target: Some("shop".to_owned()),
        states: vec![RunState::Queued, RunState::Running],
        kinds: vec![RunKind::Cleanup, RunKind::Undo],
        operation: Some("sessions".to_owned()),
        created_after: Some(at(1)),
        captured: false,
        attempted: false,
    };
    check(everything.clone(), &[two]).await;
    assert!(store.runs(&everything, Some(two), 10).await.unwrap().is_empty());
    assert_eq!(store.runs(&everything, Some(three), 10).await.unwrap().len(), 1);
    check(
        RunFilter {
            captured: true,
            ..everything
        },
        &[],
    )
    .await;
}

pub(super) async fn runs_with_captured_rows_are_found(store: Arc<dyn Store>) {
    let captured = RunFilter {
        captured: true,
        ..RunFilter::default()
    };
    queued(store.as_ref()).await;
    let early = accept(
        store.as_ref(),
        &request(
            Run {
                report: report(5),
                ..run("shop")
            },
            &[],
        ),
    )
    .await;
    assert_eq!(ids(store.as_ref(), &captured).await, [early.id]);
    let held = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    for run in [held.run, early] {
        store.request_cancel(run.id, "out of the way").await.unwrap();
        if run.state == RunState::Running {
            store
                .update(run.id, held.fence, &enter(RunState::Cancelled, "out of the way"))
                .await
                .unwrap();
        }
    }
    let grant = running(store.as_ref()).await;
    let write = async |update: Update| drop(store.update(grant.run.id, grant.fence, &update).await.unwrap());
    assert_eq!(ids(store.as_ref(), &captured).await.len(), 1);
    write(Update {
        report: Some(report(0)),
        ..Update::default()
    })
    .await;
    assert_eq!(ids(store.as_ref(), &captured).await.len(), 1);
    write(Update {
        report: Some(report(1)),
        ..Update::default()
    })
    .await;
    assert_eq!(ids(store.as_ref(), &captured).await[0], grant.run.id);
    // An update without a report leaves it as it was.
    write(enter(RunState::Succeeded, "done")).await;
    let filter = RunFilter {
        states: vec![RunState::Succeeded],
        kinds: vec![RunKind::Cleanup],
        ..captured
    };
    assert_eq!(ids(store.as_ref(), &filter).await, [grant.run.id]);
}
