//! Scans: every row of a selection, in windows, from any cursor.

use super::{
    Fixture, aging, begin, claim, count, delete_all, dump, entry, fresh, ids, older_than, parent_missing, quote, resolve,
    restore, schema, select, survey_count, windows,
};
use crate::{model::RowKey, run::batch::layout};

pub(super) async fn a_scan_lists_exactly_the_selection_in_windows(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 1_000, 3).await;
    let expected: Vec<i64> = (1..=1_000).filter(|id| id % 3 == 0).collect();
    for limit in [1, 10, 332, 333, 334, 5_000] {
        let windows = windows(fixture, &selection, None, limit).await;
        assert!(windows.len() as u64 >= 333_u64.div_ceil(u64::from(limit)));
        let keys: Vec<RowKey> = windows.into_iter().flat_map(|window| window.keys).collect();
        assert_eq!(keys.len(), expected.len(), "in windows of {limit}");
        assert_eq!(
            ids(&resolve(fixture, &selection, &keys).await),
            expected,
            "in windows of {limit}"
        );
    }
}

pub(super) async fn a_scan_resumes_after_each_window(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 300, 3).await;
    let all = windows(fixture, &selection, None, 7).await;
    let keys: Vec<RowKey> = all.iter().flat_map(|window| window.keys.clone()).collect();
    let mut done = 0;
    for window in &all {
        done += window.keys.len();
        let rest = windows(fixture, &selection, Some(&window.cursor), 11).await;
        let rest: Vec<RowKey> = rest.into_iter().flat_map(|window| window.keys).collect();
        assert_eq!(rest, keys[done..], "after {done} keys");
    }
    // A pass that found nothing has a position too.
    let nothing = select(&selection.table, older_than(fixture, "at", "1990-01-01T00:00:00Z"));
    for window in windows(fixture, &nothing, None, 7).await {
        assert!(window.keys.is_empty());
        assert!(
            windows(fixture, &nothing, Some(&window.cursor), 7)
                .await
                .iter()
                .all(|window| window.keys.is_empty())
        );
    }
}

pub(super) async fn a_scan_of_an_empty_table_ends(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 1, 1).await;
    fixture.execute(&format!("DELETE FROM {table}")).await;
    assert!(
        windows(fixture, &selection, None, 10)
            .await
            .iter()
            .all(|window| window.keys.is_empty())
    );
    assert_eq!(survey_count(fixture, &selection).await, 0);
}

pub(super) async fn a_scan_of_a_sparse_table_lists_all(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 50_000, 1_999).await;
    let windows = windows(fixture, &selection, None, 2).await;
    let keys: Vec<RowKey> = windows.into_iter().flat_map(|window| window.keys).collect();
    let expected: Vec<i64> = (1..=25).map(|number| number * 1_999).collect();
    assert_eq!(ids(&resolve(fixture, &selection, &keys).await), expected);
}

pub(super) async fn a_scan_goes_on_while_rows_vanish(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 400, 2).await;
    let target = fixture.target();
    let claim = claim(fixture).await;
    let mut scan = target.scan(&selection, None, 10).await.expect("a scan");
    let (mut taken, mut lost, mut number) = (0, 0, 0);
    while let Some(window) = scan.next().await.expect("a window") {
        number += 1;
        // Others take rows that are still to come, and change some that were listed.
        let ahead = 20 * number + 30;
        lost += count(
            fixture,
            &format!("{table} WHERE id IN ({ahead}, {ahead} + 2, {ahead} + 3) AND id % 2 = 0"),
        )
        .await;
        fixture
            .execute(&format!(
                "DELETE FROM {table} WHERE id IN ({ahead}, {ahead} + 2, {ahead} + 3)"
            ))
            .await;
        if window.keys.is_empty() {
            continue;
        }
        let mut batch = begin(fixture, claim, &selection.table).await;
        taken += batch.delete(&selection, &window.keys, None).await.expect("a deletion");
        batch.record(&entry(claim, 0, number)).await.expect("a journal row");
        batch.commit().await.expect("a commit");
    }
    assert_eq!(taken + lost, 200);
    assert!(lost > 0);
    assert_eq!(
        count(fixture, &format!("{table} WHERE id % 2 = 0")).await,
        0,
        "nothing that matches is left"
    );
}

pub(super) async fn a_scan_of_text_and_composite_keys(fixture: &dyn Fixture) {
    let instant = fixture.instant();
    let old = "'2001-01-01T00:00:00Z'";
    for (name, columns, key, rows) in [
        (
            "text_key",
            "code text NOT NULL",
            "code",
            "('', 1), ('a', 2), ('A', 3), ('a b', 4), ('ä', 5), ('''', 6), ('a''b', 7), ('\\', 8)",
        ),
        (
            "composite_key",
            "code text NOT NULL, place bigint NOT NULL",
            "place, code",
            "('b', 1, 1), ('a', 1, 2), ('a', 2, 3), ('c', -5, 4), ('', 9223372036854775807, 5), ('z', 0, 6)",
        ),
    ] {
        let table = fresh(name);
        fixture
            .execute(&format!(
                "CREATE TABLE {table} (id bigint NOT NULL, {columns}, at {instant}, PRIMARY KEY ({key})){}",
                fixture.keyed()
            ))
            .await;
        let width = columns.split(',').count();
        let names = ["code", "place"][..width].join(", ");
        fixture
            .execute(&format!(
                "INSERT INTO {table} ({names}, id) VALUES {rows}; UPDATE {table} SET at = {old}"
            ))
            .await;
        let selection = select(
            &schema(fixture, &table).await,
            older_than(fixture, "at", "2020-01-01T00:00:00Z"),
        );
        let total = count(fixture, &table).await;
        for limit in [1, 2, 3, 100] {
            let all = windows(fixture, &selection, None, limit).await;
            let keys: Vec<RowKey> = all.iter().flat_map(|window| window.keys.clone()).collect();
            let rows = resolve(fixture, &selection, &keys).await;
            assert_eq!(
                ids(&rows),
                (1..=i64::try_from(total).expect("few")).collect::<Vec<_>>(),
                "{table} in windows of {limit}"
            );
            let first = all.first().expect("a window");
            let rest = windows(fixture, &selection, Some(&first.cursor), limit).await;
            assert_eq!(
                rest.iter().map(|window| window.keys.len()).sum::<usize>(),
                keys.len() - first.keys.len()
            );
        }
        delete_all(fixture, &selection).await;
        assert_eq!(count(fixture, &table).await, 0);
    }
}

pub(super) async fn quoted_names_work_from_end_to_end(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("Select"), fresh("we\"ird; --"));
    let (p, c) = (quote(&parent), quote(&child));
    fixture
        .execute(&format!(
            "CREATE TABLE {p} (\"order\" bigint NOT NULL PRIMARY KEY); INSERT INTO {p} VALUES (1); \
             CREATE TABLE {c} (\"a\"\"b\" bigint NOT NULL PRIMARY KEY, \"group\" bigint, \"T\" text, \"k1\" text, \"p\" text); \
             INSERT INTO {c} VALUES (1, 1, 'x', 'y', 'z'), (2, 2, 'x', 'y', 'z'), (3, NULL, 'x', 'y', 'z')"
        ))
        .await;
    let child = schema(fixture, &child).await;
    let selection = select(
        &child,
        parent_missing(&["group"], &schema(fixture, &parent).await, &["order"]),
    );
    let columns = ["\"a\"\"b\"", "\"group\"", "\"T\"", "k1", "p"];
    let before = dump(fixture, &c, &columns, "1").await;
    let survey = fixture.target().survey(&selection, 5).await.expect("a survey");
    assert_eq!((survey.row_count, survey.samples.len()), (1, 1));
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(ids(&rows), [2]);
    let layout = layout(&child);
    assert_eq!(
        fixture
            .target()
            .scratch()
            .await
            .expect("a scratch")
            .prove(&layout, rows.clone())
            .await
            .expect("a proof"),
        1
    );
    assert_eq!(restore(fixture, &layout, rows).await.rows, 1);
    assert_eq!(dump(fixture, &c, &columns, "1").await, before);
}
