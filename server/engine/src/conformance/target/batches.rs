//! Batches: what is deleted, captured and recorded in one transaction.

use super::{
    Collector, Fixture, aging, begin, chunk, claim, count, delete_all, dump, entry, family, fresh, ids, listed, number, refused,
    remaining, resolve, schema, select,
};
use crate::{
    model::{JournalEntry, Row, Value},
    port::TargetErrorClass,
};

pub(super) async fn a_batch_rechecks_parents(fixture: &dyn Fixture) {
    let (parent, child, selection) = family(fixture).await;
    let keys = listed(fixture, &selection, 10).await;
    assert_eq!(keys.len(), 2);
    fixture.execute(&format!("INSERT INTO {parent} VALUES (4)")).await;
    assert_eq!(
        ids(&resolve(fixture, &selection, &keys).await),
        [6],
        "the parent of 5 has come back"
    );
    fixture
        .execute(&format!("UPDATE {child} SET parent_id = 1 WHERE id = 6"))
        .await;
    assert_eq!(
        ids(&resolve(fixture, &selection, &keys).await),
        [0_i64; 0],
        "6 was given another parent"
    );
    fixture
        .execute(&format!(
            "DELETE FROM {parent} WHERE id = 4; UPDATE {child} SET parent_id = NULL WHERE id = 6"
        ))
        .await;
    assert_eq!(
        ids(&resolve(fixture, &selection, &keys).await),
        [5],
        "6 means no parent any more"
    );
    fixture.execute(&format!("DELETE FROM {child} WHERE id = 5")).await;
    assert_eq!(resolve(fixture, &selection, &keys).await, Vec::<Row>::new());
    assert_eq!(remaining(fixture, &child).await, [1, 2, 3, 4, 6]);
}

pub(super) async fn a_batch_rechecks_times(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 10, 2).await;
    let keys = listed(fixture, &selection, 10).await;
    fixture
        .execute(&format!("UPDATE {table} SET at = '2030-01-01T00:00:00Z' WHERE id IN (2, 4)"))
        .await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 3);
    assert_eq!(batch.adopted(&selection).await.expect("nobody is adopted"), 0);
    batch.commit().await.expect("a commit");
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 4, 5, 7, 9]);
}

pub(super) async fn a_batch_captures_exactly_what_it_deletes(fixture: &dyn Fixture) {
    let (_, child, selection) = family(fixture).await;
    let keys = listed(fixture, &selection, 10).await;
    let mut rows = resolve(fixture, &selection, &keys).await;
    rows.sort_by_key(|row| number(&row[0]));
    let expected = [(5, 4, "e"), (6, 5, "f")];
    let expected =
        expected.map(|(id, parent, note)| vec![fixture.integer(id), fixture.integer(parent), Value::Text(note.into())]);
    assert_eq!(rows, expected);
    assert_eq!(count(fixture, &child).await, 6);
}

pub(super) async fn a_batch_without_keys_deletes_nothing(fixture: &dyn Fixture) {
    let (_, child, selection) = family(fixture).await;
    assert_eq!(resolve(fixture, &selection, &[]).await, Vec::<Row>::new());
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &[], None).await.expect("no deletion"), 0);
    assert_eq!(batch.adopted(&selection).await.expect("nobody is adopted"), 0);
    batch.commit().await.expect("a commit");
    assert_eq!(count(fixture, &child).await, 6);
}

pub(super) async fn a_batch_that_is_taken_back_leaves_everything(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 100, 2).await;
    let before = dump(fixture, &table, &["id", "at"], "id").await;
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    for dropped in [false, true] {
        let mut batch = begin(fixture, claim, &selection.table).await;
        assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 50);
        batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
        if dropped {
            drop(batch)
        } else {
            batch.rollback().await
        }
        assert_eq!(dump(fixture, &table, &["id", "at"], "id").await, before, "dropped: {dropped}");
        assert_eq!(fixture.target().totals(claim.run).await.expect("totals"), Vec::new());
    }
    // The rows are not locked either, and the number of the batch is still free.
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 50);
    batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
    batch.commit().await.expect("a commit");
    assert_eq!(count(fixture, &table).await, 50);
}

pub(super) async fn a_journal_row_comes_with_the_commit(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 10, 2).await;
    let keys = listed(fixture, &selection, 1_000).await;
    let (target, claim) = (fixture.target(), claim(fixture).await);
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 5);
    let recorded = JournalEntry {
        affected: 5,
        chunk: Some(chunk(1)),
        ..entry(claim, 0, 1)
    };
    batch.record(&recorded).await.expect("a journal row");
    assert_eq!(
        target.totals(claim.run).await.expect("totals"),
        Vec::new(),
        "not before the commit"
    );
    assert_eq!(count(fixture, &table).await, 10, "not before the commit");
    batch.commit().await.expect("a commit");
    assert_eq!(target.journal(claim.run, (0, 0), 10).await.expect("a journal"), [recorded]);
    assert_eq!(count(fixture, &table).await, 5);
}

pub(super) async fn a_batch_number_is_taken_once(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 4, 2).await;
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    let mut first = begin(fixture, claim, &selection.table).await;
    first.record(&entry(claim, 0, 1)).await.expect("a journal row");
    first.commit().await.expect("a commit");
    let mut second = begin(fixture, claim, &selection.table).await;
    assert_eq!(second.delete(&selection, &keys, None).await.expect("a deletion"), 2);
    refused(second.record(&entry(claim, 0, 1)).await, TargetErrorClass::Constraint);
    second.rollback().await;
    assert_eq!(count(fixture, &table).await, 4);
}

pub(super) async fn a_sink_that_refuses_keeps_every_row(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 500, 2).await;
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    for (limit, dropped) in [(0, false), (100, false), (249, true)] {
        let mut batch = begin(fixture, claim, &selection.table).await;
        let mut sink = Collector {
            limit: Some(limit),
            ..Collector::default()
        };
        let error = refused(batch.delete(&selection, &keys, Some(&mut sink)).await, TargetErrorClass::Sink);
        assert!(error.sink.is_some() && !error.is_retryable(), "what the sink said is kept");
        if dropped {
            drop(batch)
        } else {
            batch.rollback().await
        }
        assert_eq!(count(fixture, &table).await, 500);
    }
    // The adapter is as good as new afterwards.
    assert_eq!(delete_all(fixture, &selection).await.len(), 250);
}

pub(super) async fn a_row_that_a_child_names_is_refused(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 6, 2).await;
    let child = fresh("guardian");
    fixture
        .execute(&format!(
            "CREATE TABLE {child} (id bigint PRIMARY KEY, up bigint REFERENCES {table} (id)); INSERT INTO {child} VALUES (1, 4)"
        ))
        .await;
    let selection = select(&schema(fixture, &table).await, selection.matches);
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    let error = refused(batch.delete(&selection, &keys, None).await, TargetErrorClass::Constraint);
    assert!(!error.is_retryable() && !error.message.is_empty());
    batch.rollback().await;
    assert_eq!(count(fixture, &table).await, 6);
}
