//! The queue of a table: waiting in line by id, all tables at once, nobody overtaken.

use std::sync::Arc;

use futures::future::join_all;

use super::{LONG, accept, changes, enter, log, request, run};
use crate::{
    model::{Run, RunState, Waiting},
    port::{Created, Grant, Store},
};

/// A run that queues.
fn patient() -> Run {
    let mut run = run("shop");
    run.options.queue = true;
    run
}

/// What the run waits for, as everybody reads it.
async fn waiting(store: &dyn Store, run: &Run) -> Option<Waiting> {
    let read = store.run(run.id).await.unwrap().unwrap();
    let listed = store.runs(&crate::port::RunFilter::default(), None, 100).await.unwrap();
    assert_eq!(listed.iter().find(|listed| listed.id == run.id), Some(&read));
    read.waiting
}

fn before(run: &Run, table: &str) -> Option<Waiting> {
    Some(Waiting {
        run: run.id,
        table: table.to_owned(),
    })
}

async fn end(store: &dyn Store, grant: &Grant) {
    let done = enter(RunState::Succeeded, "done");
    store.update(grant.run.id, grant.fence, &done).await.unwrap();
}

async fn claim(store: &dyn Store) -> Option<Grant> {
    store.claim("holder", LONG, &[]).await.unwrap()
}

pub(super) async fn a_run_waits_in_line_for_its_tables(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let holder = accept(store, &request(patient(), &["a", "b"])).await;
    assert_eq!(holder.waiting, None, "nobody has its tables");
    let waiter = accept(store, &request(patient(), &["c", "b"])).await;
    assert_eq!(waiter.state, RunState::Queued);
    assert_eq!(waiter.waiting, before(&holder, "b"));
    assert!(
        waiter.state_reason.contains(&holder.id.to_string()),
        "{}",
        waiter.state_reason
    );
    assert_eq!(
        changes(&log(store, waiter.id).await),
        [(None, RunState::Queued, waiter.state_reason.as_str())]
    );
    let grant = claim(store).await.unwrap();
    assert_eq!(grant.run.id, holder.id);
    assert!(claim(store).await.is_none(), "its table is held");
    assert_eq!(waiting(store, &waiter).await, before(&holder, "b"));
    // An interrupted run keeps its tables.
    let interrupted = enter(RunState::Interrupted, "later");
    store.update(holder.id, grant.fence, &interrupted).await.unwrap();
    let grant = claim(store).await.unwrap();
    assert_eq!(grant.run.id, holder.id);
    end(store, &grant).await;
    assert_eq!(waiting(store, &waiter).await, None);
    let grant = claim(store).await.unwrap();
    assert_eq!(grant.run.id, waiter.id);
    assert_eq!(grant.run.state_reason, "attempt 1, its turn has come");
    // It has both of its tables now.
    for table in ["b", "c"] {
        let refused = store.create_run(&request(run("shop"), &[table])).await.unwrap();
        assert!(
            matches!(refused, Created::Held { run, .. } if run == waiter.id),
            "{refused:?}"
        );
    }
    accept(store, &request(run("shop"), &["a"])).await;
    end(store, &grant).await;
    accept(store, &request(run("shop"), &["b", "c"])).await;
}

pub(super) async fn nobody_overtakes(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let holder = accept(store, &request(patient(), &["a"])).await;
    let second = accept(store, &request(patient(), &["a", "b"])).await;
    // Its table is free, but the second run needs it and came before.
    let third = accept(store, &request(patient(), &["b"])).await;
    assert_eq!(third.waiting, before(&second, "b"));
    let refused = store.create_run(&request(run("shop"), &["b"])).await.unwrap();
    assert!(
        matches!(&refused, Created::Held { run, table, state: RunState::Queued, .. } if *run == second.id && table == "b"),
        "{refused:?}"
    );
    // A target has tables of its own.
    accept(store, &request(run("other"), &["b"])).await;
    let other = "shop".to_owned();
    let fourth = accept(store, &request(patient(), &["c"])).await;
    let grant = claim(store).await.unwrap();
    assert_eq!(grant.run.id, holder.id);
    // Who shares no table with those who wait does not wait either.
    assert_eq!(claim(store).await.unwrap().run.target, "other");
    assert_eq!(claim(store).await.unwrap().run.id, fourth.id);
    assert!(claim(store).await.is_none());
    end(store, &grant).await;
    assert!(store.claim("holder", LONG, &[other]).await.unwrap().is_none());
    let grant = claim(store).await.unwrap();
    assert_eq!(grant.run.id, second.id);
    assert_eq!(waiting(store, &third).await, before(&second, "b"));
    end(store, &grant).await;
    assert_eq!(claim(store).await.unwrap().run.id, third.id);
}

pub(super) async fn who_leaves_the_line_frees_it(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let holder = accept(store, &request(patient(), &["a"])).await;
    let second = accept(store, &request(patient(), &["a", "b"])).await;
    let third = accept(store, &request(patient(), &["b"])).await;
    let cancelled = store.request_cancel(second.id, "enough").await.unwrap().unwrap();
    assert_eq!((cancelled.state, cancelled.waiting), (RunState::Cancelled, None));
    assert_eq!(waiting(store, &third).await, None);
    assert_eq!(claim(store).await.unwrap().run.id, holder.id);
    assert_eq!(claim(store).await.unwrap().run.id, third.id);
}

/// With claimers and finishers at the same time, each table has one run at a time, and all come in order.
pub(super) async fn many_waiters_get_the_table_one_by_one(store: Arc<dyn Store>) {
    let mut ids = Vec::new();
    for number in 0..8 {
        let tables: &[&str] = if number % 2 == 0 { &["a", "b"] } else { &["b"] };
        ids.push(accept(store.as_ref(), &request(patient(), tables)).await.id);
    }
    let mut order = Vec::new();
    while order.len() < ids.len() {
        let claims = (0..4).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.claim("holder", LONG, &[]).await.unwrap() })
        });
        let granted: Vec<Grant> = join_all(claims).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(granted.len(), 1, "all of them need table b");
        order.push(granted[0].run.id);
        end(store.as_ref(), &granted[0]).await;
    }
    assert_eq!(order, ids);
}
