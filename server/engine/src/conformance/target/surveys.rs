//! Surveys: counts and samples of what a selection takes.

use std::sync::Arc;

use super::{
    Fixture, aging, at, count, delete_all, family, fresh, ids, listed, number, older_than, parent_missing, remaining, resolve,
    schema, select, survey_count,
};
use crate::model::{Condition, Selection, TimeEncoding};

pub(super) async fn tables_are_counted(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 1_234, 2).await;
    let count = async |limit| fixture.target().count_rows(&selection.table, limit).await.expect("a count");
    assert_eq!(
        (
            count(None).await,
            count(Some(1)).await,
            count(Some(5_000)).await,
            count(Some(0)).await
        ),
        (1_234, 1, 1_234, 0)
    );
}

pub(super) async fn orphans_are_counted_without_null_keys(fixture: &dyn Fixture) {
    let (_, _, selection) = family(fixture).await;
    assert_eq!(survey_count(fixture, &selection).await, 2);
    let keys = listed(fixture, &selection, 10).await;
    assert_eq!(ids(&resolve(fixture, &selection, &keys).await), [5, 6]);
}

pub(super) async fn orphans_with_composite_keys_need_every_column(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (a bigint NOT NULL, b text NOT NULL, PRIMARY KEY (a, b)); INSERT INTO {parent} VALUES (1, 'x'), (2, 'y'); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, pa bigint, pb text); \
             INSERT INTO {child} VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 2, 'x'), (4, NULL, 'x'), (5, 1, NULL), (6, NULL, NULL), (7, 9, 'z')"
        ))
        .await;
    let (child, parent) = (schema(fixture, &child).await, schema(fixture, &parent).await);
    let selection = select(&child, parent_missing(&["pa", "pb"], &parent, &["a", "b"]));
    assert_eq!(survey_count(fixture, &selection).await, 3);
    let keys = listed(fixture, &selection, 10).await;
    assert_eq!(ids(&resolve(fixture, &selection, &keys).await), [2, 3, 7]);
    // Named the other way round it is the same key.
    let swapped = select(&child, parent_missing(&["pb", "pa"], &parent, &["b", "a"]));
    assert_eq!(survey_count(fixture, &swapped).await, 3);
}

pub(super) async fn orphans_of_a_self_reference(fixture: &dyn Fixture) {
    let table = fresh("tree");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, up bigint); \
             INSERT INTO {table} VALUES (1, NULL), (2, 1), (3, 3), (4, 40), (5, 4)"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let selection = select(&schema, parent_missing(&["up"], &schema, &["id"]));
    assert_eq!(survey_count(fixture, &selection).await, 1);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [4]);
    // Its child is an orphan from now on.
    assert_eq!(survey_count(fixture, &selection).await, 1);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [5]);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3]);
}

pub(super) async fn orphans_of_an_empty_parent_are_all_with_a_key(fixture: &dyn Fixture) {
    let (parent, _, selection) = family(fixture).await;
    fixture.execute(&format!("DELETE FROM {parent}")).await;
    assert_eq!(survey_count(fixture, &selection).await, 5);
}

pub(super) async fn orphans_whose_key_does_not_fit_the_parent_s_type(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("small_parent"), fresh("wide_child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id integer NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1), (2); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, up bigint); \
             INSERT INTO {child} VALUES (1, 1), (2, 9223372036854775807), (3, -5000000000), (4, 3)"
        ))
        .await;
    let selection = select(
        &schema(fixture, &child).await,
        parent_missing(&["up"], &schema(fixture, &parent).await, &["id"]),
    );
    assert_eq!(survey_count(fixture, &selection).await, 3);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [2, 3, 4]);
    assert_eq!(remaining(fixture, &child).await, [1]);
}

pub(super) async fn earlier_steps_are_left_out_and_null_is_not(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    let (instant, old, new) = (fixture.instant(), "'2001-01-01T00:00:00Z'", "'2031-01-01T00:00:00Z'");
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, up bigint, at {instant}); \
             INSERT INTO {child} VALUES (1, 1, {old}), (2, 9, {old}), (3, NULL, {old}), (4, 9, {new}), (5, 9, NULL), (6, NULL, NULL), (7, 1, {new})"
        ))
        .await;
    let (child_schema, parent) = (schema(fixture, &child).await, schema(fixture, &parent).await);
    let orphan = parent_missing(&["up"], &parent, &["id"]);
    let old = older_than(fixture, "at", "2020-01-01T00:00:00Z");
    let selection = |matches: &Condition, except: &[&Condition]| Selection {
        table: Arc::clone(&child_schema),
        matches: matches.clone(),
        except: except.iter().map(|condition| (*condition).clone()).collect(),
    };
    let expected = [
        (selection(&old, &[]), vec![1, 2, 3]),
        (selection(&old, &[&orphan]), vec![1, 3]),
        (selection(&orphan, &[]), vec![2, 4, 5]),
        (selection(&orphan, &[&old]), vec![4, 5]),
        (selection(&orphan, &[&orphan]), vec![]),
        (selection(&old, &[&orphan, &old]), vec![]),
    ];
    for (selection, expected) in expected {
        assert_eq!(survey_count(fixture, &selection).await, expected.len() as u64);
        let keys = listed(fixture, &selection, 10).await;
        assert_eq!(keys.len(), expected.len());
        assert_eq!(ids(&resolve(fixture, &selection, &keys).await), expected);
    }
    assert_eq!(count(fixture, &child).await, 7, "looking changes nothing");
}

pub(super) async fn expired_is_strictly_before_the_horizon(fixture: &dyn Fixture) {
    let table = fresh("expiring");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, at {}); INSERT INTO {table} VALUES \
             (1, '2024-03-31T00:59:59.999Z'), (2, '2024-03-31T01:00:00Z'), (3, '2024-03-31T01:00:00.001Z'), (4, NULL), \
             (5, '1970-01-01T00:00:00Z'), (6, '2099-12-31T23:59:59Z'), \
             (7, '2024-03-31T02:59:59.999+02:00'), (8, '2024-03-31T03:00:00+02:00'), (9, '2024-03-30T23:00:00-02:00')",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2024-03-31T01:00:00Z"),
    );
    assert_eq!(survey_count(fixture, &selection).await, 3);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [1, 5, 7]);
    assert_eq!(remaining(fixture, &table).await, [2, 3, 4, 6, 8, 9]);
}

pub(super) async fn expired_epochs_are_compared_exactly(fixture: &dyn Fixture) {
    let table = fresh("epochs");
    // The horizon is 1704067200.5 s.
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, s bigint, ms bigint, f double precision); INSERT INTO {table} VALUES \
             (1, 1704067199, 1704067200499, 1704067200.25), (2, 1704067200, 1704067200500, 1704067200.5), \
             (3, 1704067201, 1704067200501, 1704067200.75), (4, NULL, NULL, NULL), (5, 0, 0, 0), (6, -5, -5, -5.5), \
             (7, 9223372036854775807, 9223372036854775807, 1e300), (8, -9223372036854775807, -9223372036854775807, -1e300)"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let selection = |column: &str, encoding, horizon: &str| {
        let column = column.to_owned();
        select(
            &schema,
            Condition::OlderThan {
                column,
                horizon: at(horizon),
                encoding: Some(encoding),
                zone: None,
            },
        )
    };
    let half = "2024-01-01T00:00:00.5Z";
    let expected = [
        (selection("s", TimeEncoding::UnixSeconds, half), vec![1, 2, 5, 6, 8]),
        (
            selection("s", TimeEncoding::UnixSeconds, "2024-01-01T00:00:00Z"),
            vec![1, 5, 6, 8],
        ),
        (selection("ms", TimeEncoding::UnixMillis, half), vec![1, 5, 6, 8]),
        (
            selection("ms", TimeEncoding::UnixMillis, "2024-01-01T00:00:00.5001Z"),
            vec![1, 2, 5, 6, 8],
        ),
        (selection("f", TimeEncoding::UnixSeconds, half), vec![1, 5, 6, 8]),
        (selection("f", TimeEncoding::UnixMillis, "1970-01-01T00:00:00Z"), vec![6, 8]),
        (selection("s", TimeEncoding::UnixSeconds, "1969-12-31T23:59:55Z"), vec![8]),
        (
            selection("s", TimeEncoding::UnixSeconds, "1969-12-31T23:59:55.5Z"),
            vec![6, 8],
        ),
    ];
    for (position, (selection, expected)) in expected.into_iter().enumerate() {
        let keys = listed(fixture, &selection, 10).await;
        assert_eq!(ids(&resolve(fixture, &selection, &keys).await), expected, "case {position}");
        assert_eq!(
            survey_count(fixture, &selection).await,
            expected.len() as u64,
            "case {position}"
        );
    }
}

pub(super) async fn survey_samples_are_rows_of_the_selection(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 100, 4).await;
    let survey = fixture.target().survey(&selection, 7).await.expect("a survey");
    assert_eq!((survey.row_count, survey.samples.len()), (25, 7));
    assert!(
        survey.samples.iter().all(|row| row.len() == 2 && number(&row[0]) % 4 == 0),
        "{:?}",
        survey.samples
    );
    assert!(
        survey.row_bytes > 5 && survey.row_bytes < 200,
        "an average size, got {}",
        survey.row_bytes
    );
    assert!(survey.sql.contains(&selection.table.name.name), "the SQL, got {}", survey.sql);
    let none = fixture.target().survey(&selection, 0).await.expect("a survey");
    assert_eq!((none.row_count, none.samples.len()), (25, 0));
}

pub(super) async fn a_share_is_counted_in_one_snapshot(fixture: &dyn Fixture) {
    const ROWS: u32 = 400;
    let (table, selection) = aging(fixture, ROWS, 2).await;
    let few = fixture
        .target()
        .survey_share(&selection, 0, u64::from(ROWS))
        .await
        .expect("a survey");
    assert_eq!(
        (few.row_count, few.table_rows),
        (u64::from(ROWS / 2), None),
        "nobody asked for it"
    );
    // Somebody deletes all the while, as many rows of the selection as others: half of the table is selected at any instant.
    let deleting = async {
        for number in 1..=ROWS / 2 {
            fixture
                .execute(&format!(
                    "DELETE FROM {table} WHERE id IN ({}, {})",
                    number * 2 - 1,
                    number * 2
                ))
                .await;
        }
    };
    let counting = async {
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let survey = fixture.target().survey_share(&selection, 3, 0).await.expect("a survey");
            let whole = survey.table_rows.expect("it was asked for");
            assert_eq!(survey.row_count * 2, whole, "two counts of two instants");
            seen.insert(whole);
            if whole == 0 {
                return seen;
            }
        }
    };
    let ((), seen) = tokio::join!(deleting, counting);
    assert!(seen.len() > 2, "it was counted while rows went: {seen:?}");
}
