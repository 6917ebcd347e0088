//! One chain, whoever appends: several servers on one PostgreSQL, and what waits at the same time in one.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dbkeep_engine::{
    audit::{AuditError, Journal},
    port::{AuditLog, StoreError},
};
use dbkeep_server::store::ControlStore;
use futures::future::join_all;

use crate::world::{DATABASES, World, engine_on, subject, verify};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_servers_write_one_chain() {
    const EACH: u64 = 150;
    let world = World::new("postgres").await;
    let writers = (0..4).map(|server| {
        let url = world.url.clone();
        tokio::spawn(async move {
            let store = ControlStore::open(&url).await.unwrap();
            let engine = engine_on(&store, |_| {});
            let calls = (0..EACH).map(|number| {
                let journal = engine.audit().clone();
                async move { journal.record(subject(server * 1_000 + number)).await.unwrap() }
            });
            let records = join_all(calls).await;
            store.close().await;
            records
        })
    });
    let written: Vec<_> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    let numbers: BTreeSet<u64> = written.iter().map(|record| record.number).collect();
    assert!(numbers.into_iter().eq(1..=4 * EACH), "every number once, without a gap");
    let kept = world.records().await;
    for record in &written {
        assert_eq!(
            &kept[usize::try_from(record.number).unwrap() - 1],
            record,
            "what was answered is what stands"
        );
    }
    let verified = verify(&world.engine(|_| {}), Vec::new()).await.expect("it is whole");
    assert_eq!(verified.records, 4 * EACH);
}

/// While others append and the keeper seals and removes, a verification never cries wolf, and an export is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_verification_beside_appends_and_removals_finds_nothing() {
    for database in DATABASES {
        let world = World::new(database).await;
        let engine = world.engine(|settings| {
            settings.audit.segment_records = 200;
            settings.audit.retention = std::time::Duration::ZERO;
        });
        let over = tokio_util::sync::CancellationToken::new();
        let appending = tokio::spawn({
            let (engine, over) = (engine.clone(), over.clone());
            async move {
                let mut number = 0;
                while !over.is_cancelled() {
                    let calls = (number..number + 100).map(|number| engine.audit().record(subject(number)));
                    for recorded in join_all(calls).await {
                        recorded.unwrap();
                    }
                    number += 100;
                }
            }
        });
        let removed = Arc::new(AtomicUsize::new(0));
        let keeping = tokio::spawn({
            let (engine, over, removed) = (engine.clone(), over.clone(), Arc::clone(&removed));
            async move {
                while !over.is_cancelled() {
                    let looked = engine.keep_audit(None).await.unwrap();
                    assert_eq!(looked.problem, None);
                    removed.fetch_add(looked.removed.len(), Ordering::SeqCst);
                }
            }
        });
        // Appending goes on until something was removed: only then there was something to cry wolf about.
        let mut verifications = 0;
        while verifications < 15 || removed.load(Ordering::SeqCst) == 0 {
            verify(&engine, Vec::new())
                .await
                .unwrap_or_else(|problem| panic!("{database}: {problem:?}"));
            verifications += 1;
            assert!(!keeping.is_finished(), "{database}: the keeper has ended");
        }
        over.cancel();
        appending.await.unwrap();
        keeping.await.unwrap();
        let verified = verify(&engine, Vec::new()).await.expect("it is whole");
        assert!(verified.sealed >= 200, "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_nothing_is_recorded_and_everybody_hears_of_it() {
    for database in DATABASES {
        let world = World::new(database).await;
        let journal = Journal::new(Arc::new(world.store.clone()) as Arc<dyn AuditLog>);
        assert_eq!(journal.record(subject(1)).await.unwrap().number, 1);
        // A head that nobody can read: nothing is appended to a log that has no end.
        world.drop_triggers().await;
        world.execute("UPDATE {head} SET hash = 'gone'").await;
        let refused = join_all((0..20).map(|number| journal.record(subject(number)))).await;
        for recorded in refused {
            assert!(
                matches!(recorded, Err(AuditError::NotWritten(StoreError::Corrupt(_)))),
                "{recorded:?}"
            );
        }
        world.execute("DELETE FROM {head}").await;
        let recorded = journal.record(subject(2)).await;
        assert!(
            matches!(recorded, Err(AuditError::NotWritten(StoreError::Corrupt(_)))),
            "{recorded:?}"
        );
        world.store.close().await;
        let refused = join_all((0..20).map(|number| journal.record(subject(number)))).await;
        for recorded in refused {
            assert!(
                matches!(recorded, Err(AuditError::NotWritten(StoreError::Unavailable(_)))),
                "{recorded:?}"
            );
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM {records}").await, 1, "{database}");
    }
}
