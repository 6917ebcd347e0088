//! Restore and scratch: rows come back as they were, or are named.

use super::{
    Fixture, aging, claim, count, delete_all, dump, family, fresh, ids, listed, literal, number, older_than, remaining, resolve,
    restore, schema, select,
};
use crate::{
    model::{TableName, Value},
    port::{Restored, TableLayout},
    run::batch::layout,
};

pub(super) async fn restored_rows_are_identical(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 500, 2).await;
    let before = dump(fixture, &table, &["id", "at"], "id").await;
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(count(fixture, &table).await, 250);
    // Taken back it changes nothing.
    let claim = claim(fixture).await;
    let mut batch = fixture.target().begin(claim, &[]).await.expect("a batch");
    assert_eq!(
        batch
            .restore(&layout(&selection.table), rows.clone())
            .await
            .expect("a restore")
            .rows,
        250
    );
    drop(batch);
    assert_eq!(count(fixture, &table).await, 250);
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!(
        restored,
        Restored {
            rows: 250,
            ..Restored::default()
        }
    );
    assert_eq!(dump(fixture, &table, &["id", "at"], "id").await, before);
}

pub(super) async fn restore_of_nothing(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 2, 2).await;
    assert_eq!(
        restore(fixture, &layout(&selection.table), Vec::new()).await,
        Restored::default()
    );
    assert_eq!(count(fixture, &table).await, 2);
}

pub(super) async fn restore_leaves_rows_in_the_way(fixture: &dyn Fixture) {
    let table = fresh("occupied");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, code text UNIQUE, at {}); INSERT INTO {table} VALUES \
             (1, 'a', '2001-01-01T00:00:00Z'), (2, 'b', '2001-01-01T00:00:00Z'), (3, 'c', '2001-01-01T00:00:00Z'), \
             (4, 'd', '2001-01-01T00:00:00Z'), (5, NULL, '2001-01-01T00:00:00Z')",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(ids(&rows), [1, 2, 3, 4, 5]);
    fixture
        .execute(&format!("INSERT INTO {table} VALUES (2, 'new', NULL), (99, 'd', NULL)"))
        .await;
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!((restored.rows, restored.conflicting), (3, 2));
    let mut keys: Vec<_> = restored.conflicts.iter().map(|conflict| conflict.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["id=2", "id=4"]);
    assert!(restored.conflicts.iter().all(|conflict| !conflict.reason.is_empty()));
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 5, 99]);
    assert_eq!(
        count(fixture, &format!("{table} WHERE id IN (2, 99) AND at IS NULL")).await,
        2,
        "what stood there is as it was"
    );

    // Many conflicts are all counted and some are named.
    let (many, selection) = aging(fixture, 300, 1).await;
    let rows = delete_all(fixture, &selection).await;
    fixture
        .execute(&format!("INSERT INTO {many} VALUES (100, '2031-01-01T00:00:00Z')"))
        .await;
    let restored = restore(fixture, &layout(&selection.table), rows.clone()).await;
    assert_eq!((restored.rows, restored.conflicting, restored.conflicts.len()), (299, 1, 1));
    let again = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!(
        (again.rows, again.conflicting),
        (0, 300),
        "a second restore finds every row in its place"
    );
    assert!(!again.conflicts.is_empty() && again.conflicts.len() <= 300);
}

pub(super) async fn restore_leaves_rows_whose_parent_is_gone(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1), (2); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, up bigint REFERENCES {parent} (id), at {}); INSERT INTO {child} VALUES \
             (1, 1, '2001-01-01T00:00:00Z'), (2, 2, '2001-01-01T00:00:00Z'), (3, NULL, '2001-01-01T00:00:00Z')",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &child).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    fixture.execute(&format!("DELETE FROM {parent} WHERE id = 2")).await;
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!((restored.rows, restored.conflicting, restored.conflicts.len()), (2, 1, 1));
    assert_eq!(restored.conflicts[0].key, "id=2");
    assert_eq!(remaining(fixture, &child).await, [1, 3]);
}

pub(super) async fn restore_does_not_depend_on_the_order_of_rows(fixture: &dyn Fixture) {
    let table = fresh("chain");
    let old = "'2001-01-01T00:00:00Z'";
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, up bigint REFERENCES {table} (id), at {}); \
             CREATE INDEX {table}_up ON {table} (up); INSERT INTO {table} VALUES (1, NULL, {old}), (2, 1, {old}), (3, 2, {old}), (4, NULL, {old}), \
             (5, 6, {old}), (6, 5, {old})",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let mut rows = delete_all(fixture, &selection).await;
    rows.sort_by_key(|row| -number(&row[0]));
    // One row is in the way of another, children come before their parents, and two name each other.
    fixture.execute(&format!("INSERT INTO {table} VALUES (4, NULL, NULL)")).await;
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!((restored.rows, restored.conflicting), (5, 1), "{:?}", restored.conflicts);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 4, 5, 6]);
}

pub(super) async fn restore_fills_identity_and_generated_columns(fixture: &dyn Fixture) {
    let table = fresh("numbered");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id {}, size bigint, twice bigint GENERATED ALWAYS AS (size * 2) STORED, at {}); \
             INSERT INTO {table} (size, at) VALUES (5, '2001-01-01T00:00:00Z'), (6, '2031-01-01T00:00:00Z'), (7, '2001-01-01T00:00:00Z')",
            fixture.identity(),
            fixture.instant()
        ))
        .await;
    let columns = ["id", "size", "twice", "at"];
    let before = dump(fixture, &table, &columns, "id").await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(ids(&rows), [1, 3]);
    assert_eq!(restore(fixture, &layout(&selection.table), rows).await.rows, 2);
    assert_eq!(dump(fixture, &table, &columns, "id").await, before);
    fixture.execute(&format!("INSERT INTO {table} (size) VALUES (8)")).await;
    assert_eq!(
        remaining(fixture, &table).await,
        [1, 2, 3, 4],
        "the numbering goes on where it was"
    );
}

pub(super) async fn the_scratch_proves_rows(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 1_000, 2).await;
    let (_, child, orphans) = family(fixture).await;
    let rows = resolve(fixture, &selection, &listed(fixture, &selection, 1_000).await).await;
    let others = resolve(fixture, &orphans, &listed(fixture, &orphans, 1_000).await).await;
    let mut scratch = fixture.target().scratch().await.expect("a scratch");
    for _ in 0..2 {
        assert_eq!(
            scratch.prove(&layout(&selection.table), rows.clone()).await.expect("a proof"),
            500
        );
        assert_eq!(
            scratch.prove(&layout(&orphans.table), others.clone()).await.expect("a proof"),
            2
        );
        assert_eq!(scratch.prove(&layout(&orphans.table), Vec::new()).await.expect("a proof"), 0);
    }
    assert_eq!(
        (count(fixture, &table).await, count(fixture, &child).await),
        (1_000, 6),
        "no table of anybody is touched"
    );
}

pub(super) async fn the_scratch_finds_what_cannot_come_back(fixture: &dyn Fixture) {
    let layout = TableLayout {
        table: TableName::parse("nowhere"),
        columns: vec![("id".to_owned(), "bigint".to_owned()), ("note".to_owned(), "text".to_owned())],
        row_key: vec!["id".to_owned()],
        captured: crate::port::Captured::Deleted,
    };
    let row = |id: &str| vec![Value::Text(id.into()), Value::Text(b"x".to_vec())];
    let good = || vec![fixture.integer(1), Value::Null];
    let mut scratch = fixture.target().scratch().await.expect("a scratch");
    // 007 is a number, but not the text of one that the database would write.
    assert_eq!(
        scratch
            .prove(&layout, vec![good(), row("007"), good()])
            .await
            .expect("a proof"),
        2
    );
    assert_eq!(
        scratch.prove(&layout, vec![good(), good()]).await.expect("a proof"),
        2,
        "keys are not part of the proof"
    );
}

pub(super) async fn nasty_values_survive(fixture: &dyn Fixture) {
    let long = "long \u{2603} ".repeat(250_000);
    let texts = [
        "",
        " ",
        "  both  ",
        "a\nb\r\n\tc\u{8}\u{b}\u{c}",
        "\\",
        "\\N",
        "\\.",
        "\\x41",
        "a\\'b",
        "'",
        "''",
        "\"",
        "$$",
        "{}",
        "{NULL}",
        "NULL",
        "null",
        "%s %n",
        "$1 ? :a @b",
        "--",
        "/*",
        "; DROP TABLE x",
        "0",
        "007",
        "1e5",
        "0x10",
        "true",
        "2024-01-01",
        "\u{fc}\u{6f22}\u{1d11e}\u{202e}\u{200b}",
        "e\u{301}",
        "\u{feff}bom",
        "\u{1}\u{7f}\u{80}",
        "\u{fffd}\u{ffff}\u{10ffff}",
        &long,
    ];
    let extras = fixture.extra_values();
    let columns: Vec<String> = (0..extras.len()).map(|position| format!("x{position}")).collect();
    let declared: String = columns
        .iter()
        .zip(&extras)
        .map(|(name, (kind, _))| format!(", {name} {kind}"))
        .collect();
    let table = fresh("nasty");
    let (bytes, instant) = (fixture.bytes(), fixture.instant());
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, t text, v varchar(3000000), n bigint, f double precision, d {bytes}, at {instant}{declared})"
        ))
        .await;
    let all_bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for (id, text) in texts.iter().enumerate() {
        let text = literal(text);
        let data = fixture.bytes_literal(&all_bytes[..if id % 2 == 0 { id } else { all_bytes.len() }]);
        fixture
            .execute(&format!(
                "INSERT INTO {table} (id, t, v, n, f, d, at) VALUES ({id}, {text}, {text}, 9223372036854775807 - {id}, 0.1 * {id}, {data}, '2001-01-01T00:00:00.123Z')"
            ))
            .await;
    }
    fixture
        .execute(&format!(
            "INSERT INTO {table} (id, n, f, at) VALUES (1000, -9223372036854775807 - 1, 1e308, '2001-01-01T00:00:00Z'), \
             (1001, 0, -1.7976931348623157e308, '2001-01-01T00:00:00Z'), (1002, NULL, 2.2250738585072014e-308, '2001-01-01T00:00:00Z')"
        ))
        .await;
    if !extras.is_empty() {
        let values = extras.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ");
        fixture
            .execute(&format!(
                "INSERT INTO {table} (id, at, {}) VALUES (2000, '2001-01-01T00:00:00Z', {values})",
                columns.join(", ")
            ))
            .await;
    }
    let mut names = vec!["id", "t", "v", "n", "f", "d", "at"];
    names.extend(columns.iter().map(String::as_str));
    let before = dump(fixture, &table, &names, "id").await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(rows.len(), before.len());
    let layout = layout(&selection.table);
    let proven = fixture
        .target()
        .scratch()
        .await
        .expect("a scratch")
        .prove(&layout, rows.clone())
        .await
        .expect("a proof");
    assert_eq!(proven, rows.len() as u64, "every row is proven");
    let restored = restore(fixture, &layout, rows).await;
    assert_eq!(
        (restored.rows, restored.conflicting),
        (before.len() as u64, 0),
        "{:?}",
        restored.conflicts
    );
    let after = dump(fixture, &table, &names, "id").await;
    for (before, after) in before.iter().zip(&after) {
        for ((name, before), after) in names.iter().zip(before).zip(after) {
            let shown = |value: &Option<String>| value.as_ref().map(|value| value.chars().take(200).collect::<String>());
            assert!(
                before == after,
                "column {name}: {:?} came back as {:?}",
                shown(before),
                shown(after)
            );
        }
    }
    assert_eq!(before.len(), after.len());
}
