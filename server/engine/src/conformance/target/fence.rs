//! The fence between attempts, and the guard over the shape of tables.

use std::sync::Arc;

use super::{Fixture, aging, begin, claim, count, entry, fresh, fresh_table, listed, refused, schema, select};
use crate::{
    model::RunId,
    port::{Claim, TargetErrorClass},
};

pub(super) async fn an_older_attempt_is_shut_out(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 4, 2).await;
    let target = fixture.target();
    let (run, schema) = (RunId::new(), Arc::clone(&selection.table));
    let claim = |fence| Claim { run, fence };
    refused(target.begin(claim(1), &[&schema]).await, TargetErrorClass::Fenced);
    target.claim(claim(1)).await.expect("the first claim");
    target.claim(claim(1)).await.expect("an equal claim");
    target.begin(claim(1), &[&schema]).await.expect("a batch").rollback().await;
    target.claim(claim(5)).await.expect("a larger fence");
    refused(target.claim(claim(4)).await, TargetErrorClass::Fenced);
    refused(target.claim(claim(1)).await, TargetErrorClass::Fenced);
    refused(target.begin(claim(1), &[&schema]).await, TargetErrorClass::Fenced);
    // A number that nobody has claimed is as wrong as an old one.
    refused(target.begin(claim(6), &[&schema]).await, TargetErrorClass::Fenced);
    refused(
        target
            .begin(
                Claim {
                    run: RunId::new(),
                    fence: 5,
                },
                &[&schema],
            )
            .await,
        TargetErrorClass::Fenced,
    );
    refused(target.begin(claim(1), &[]).await, TargetErrorClass::Fenced);
    // Other runs are not touched, and the holder goes on.
    self::claim(fixture).await;
    target
        .begin(claim(5), &[&schema])
        .await
        .expect("the holder's batch")
        .commit()
        .await
        .expect("a commit");
    assert_eq!(count(fixture, &table).await, 4);
}

pub(super) async fn a_claim_waits_for_the_older_batch(fixture: &dyn Fixture) {
    for commits in [true, false] {
        let (table, selection) = aging(fixture, 4, 2).await;
        let keys = listed(fixture, &selection, 10).await;
        let (target, old) = (fixture.target(), claim(fixture).await);
        let new = Claim { fence: 2, ..old };
        let mut batch = begin(fixture, old, &selection.table).await;
        assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 2);
        batch.record(&entry(old, 0, 1)).await.expect("a journal row");
        let claiming = tokio::spawn({
            let target = Arc::clone(&target);
            async move {
                target.claim(new).await?;
                // When the claim has returned, the journal is final.
                target.totals(new.run).await
            }
        });
        tokio::task::yield_now().await;
        if commits {
            batch.commit().await.expect("a commit")
        } else {
            drop(batch)
        }
        let totals = claiming.await.expect("no panic").expect("the claim");
        assert_eq!(totals.len(), usize::from(commits));
        assert_eq!(count(fixture, &table).await, if commits { 2 } else { 4 });
        refused(target.begin(old, &[&selection.table]).await, TargetErrorClass::Fenced);
    }
}

pub(super) async fn a_changed_shape_stops_the_batch(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 4, 2).await;
    let (target, claim) = (fixture.target(), claim(fixture).await);
    let matches = selection.matches;
    let changes = [
        format!("ALTER TABLE {table} ADD COLUMN extra text"),
        fixture.trigger(&fresh("late"), "AFTER DELETE", &table),
        format!(
            "CREATE TABLE {} (id bigint PRIMARY KEY, up bigint REFERENCES {table} (id) ON DELETE CASCADE)",
            fresh("late_child")
        ),
        format!("ALTER TABLE {table} RENAME COLUMN extra TO other"),
    ];
    for change in changes {
        let planned = select(&schema(fixture, &table).await, matches.clone());
        target
            .begin(claim, &[&planned.table])
            .await
            .expect("still the planned shape")
            .rollback()
            .await;
        fixture.execute(&change).await;
        let error = refused(target.begin(claim, &[&planned.table]).await, TargetErrorClass::SchemaChanged);
        assert!(!error.is_retryable(), "{change}");
        assert_eq!(count(fixture, &table).await, 4, "{change}");
    }
    let table = fresh_table(fixture).await;
    let (planned, others) = (
        schema(fixture, &table).await,
        schema(fixture, &fresh_table(fixture).await).await,
    );
    fixture.execute(&format!("ALTER TABLE {table} RENAME TO {table}_gone")).await;
    refused(
        target.begin(claim, &[&others, &planned]).await,
        TargetErrorClass::SchemaChanged,
    );
    target
        .begin(claim, &[&others])
        .await
        .expect("the other table is as it was")
        .rollback()
        .await;
}
