//! Status, and what introspection tells of tables.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Fixture, claim, count, find, fresh, quote, schema, strings};
use crate::{
    model::{Generated, OnDelete, RunId, TableKind, TableSchema, Trigger, TypeClass},
    port::Claim,
};

pub(super) async fn a_database_without_a_journal_has_no_totals(fixture: &dyn Fixture) {
    let run = RunId::new();
    assert_eq!(fixture.target().totals(run).await.expect("totals"), Vec::new());
    assert_eq!(
        fixture.target().journal(run, (0, 0), 10).await.expect("a journal"),
        Vec::new()
    );
    let table = fresh("unclaimed");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)"))
        .await;
    let schema = schema(fixture, &table).await;
    assert!(
        fixture.target().begin(Claim { run, fence: 1 }, &[&schema]).await.is_err(),
        "no batch without a claim"
    );
}

pub(super) async fn the_status_names_version_size_and_clock(fixture: &dyn Fixture) {
    let target = fixture.target();
    let status = target.status().await.expect("a status");
    assert!(
        status.version.starts_with(|first: char| first.is_ascii_digit()),
        "a version, got {:?}",
        status.version
    );
    assert!(status.size_bytes > 0, "a size");
    assert!(
        status.clock.duration_since(Timestamp::now()).abs().as_secs() < 60,
        "the clock of this machine, got {}",
        status.clock
    );
    assert!(
        !target.address().is_empty() && !target.address().contains('@'),
        "an address without a user: {}",
        target.address()
    );
}

pub(super) async fn introspection_reads_columns(fixture: &dyn Fixture) {
    let table = fresh("Order");
    fixture
        .execute(&format!(
            "CREATE TABLE {} (id bigint NOT NULL PRIMARY KEY, \"group\" text, \"we\"\"ird\" varchar(40) NOT NULL, \
             \"MixedCase\" double precision, made {}, data {})",
            quote(&table),
            fixture.instant(),
            fixture.bytes()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    assert_eq!(schema.name.name, table);
    assert_eq!(schema.kind, TableKind::Table);
    let found: Vec<_> = schema
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.nullable))
        .collect();
    let expected = [
        ("id", false),
        ("group", true),
        ("we\"ird", false),
        ("MixedCase", true),
        ("made", true),
        ("data", true),
    ]
    .to_vec();
    assert_eq!(found, expected);
    let classes: Vec<_> = schema.columns[..4].iter().map(|column| column.class).collect();
    assert_eq!(
        classes,
        [TypeClass::Integer, TypeClass::Text, TypeClass::Text, TypeClass::Real]
    );
    assert!(
        schema.columns[2].type_name.contains("(40)"),
        "a type with its length, got {}",
        schema.columns[2].type_name
    );
    assert!(schema.columns.iter().all(|column| column.generated == Generated::No));
    assert_eq!(schema.primary_key, ["id"]);
    assert!(!schema.row_key.is_empty(), "rows can be addressed");
    assert_eq!(
        (schema.incoming.len(), schema.triggers.len(), schema.rewrite_rules.len()),
        (0, 0, 0)
    );
    assert!(!schema.row_security && schema.lossy_columns.is_empty());
    let again = self::schema(fixture, &table).await;
    assert_eq!(
        TableSchema::fingerprint([schema.as_ref()]),
        TableSchema::fingerprint([again.as_ref()]),
        "the same shape twice"
    );
    // The name that the database resolved must itself be a name.
    let resolved = fixture
        .target()
        .introspect(&schema.name)
        .await
        .expect("introspection")
        .expect("the same table");
    assert_eq!(resolved.name, schema.name);
}

pub(super) async fn introspection_keeps_the_order_of_a_composite_key(fixture: &dyn Fixture) {
    let table = fresh("composite");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (a bigint NOT NULL, b text NOT NULL, c bigint NOT NULL, d text, PRIMARY KEY (c, a, b)){}",
            fixture.keyed()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    assert_eq!(schema.primary_key, ["c", "a", "b"]);
    assert_eq!(schema.row_key, ["c", "a", "b"]);
}

pub(super) async fn introspection_tells_generated_columns(fixture: &dyn Fixture) {
    let table = fresh("generated");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id {}, size bigint, twice bigint GENERATED ALWAYS AS (size * 2) STORED, note text)",
            fixture.identity()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let captured: Vec<_> = schema.captured_columns().map(|column| column.name.as_str()).collect();
    assert_eq!(
        captured,
        ["id", "size", "note"],
        "an identity column is captured, a generated one is not"
    );
    assert_eq!(schema.column("twice").map(|column| column.generated), Some(Generated::Yes));
}

pub(super) async fn introspection_lists_indexes_that_can_serve(fixture: &dyn Fixture) {
    let table = fresh("indexed");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, a bigint, b bigint, c text, d bigint, \"e\"\"f\" bigint); \
             CREATE INDEX {table}_ba ON {table} (b, a); CREATE UNIQUE INDEX {table}_c ON {table} (c); \
             CREATE INDEX {table}_part ON {table} (d) WHERE d > 5; CREATE INDEX {table}_expr ON {table} (lower(c), d); \
             CREATE INDEX {table}_odd ON {table} (\"e\"\"f\")"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let has = |columns: &[&str], unique| {
        schema
            .indexes
            .iter()
            .any(|index| index.columns == columns && index.unique == unique)
    };
    assert!(
        has(&["b", "a"], false) && has(&["c"], true) && has(&["e\"f"], false),
        "{:?}",
        schema.indexes
    );
    assert!(has(&["", "d"], false), "an expression is an empty name: {:?}", schema.indexes);
    assert!(schema.indexed(&strings(&["a", "b"])) && schema.indexed(&strings(&["id"])) && schema.indexed(&strings(&["b"])));
    assert!(
        !schema.indexed(&strings(&["a"])),
        "an index that begins with another column does not serve"
    );
    assert!(!schema.indexed(&strings(&["d"])), "a partial index does not serve");
}

pub(super) async fn introspection_lists_incoming_keys(fixture: &dyn Fixture) {
    let parent = fresh("keyed");
    let actions = [
        ("", OnDelete::NoAction),
        ("ON DELETE NO ACTION", OnDelete::NoAction),
        ("ON DELETE RESTRICT", OnDelete::Restrict),
        ("ON DELETE CASCADE", OnDelete::Cascade),
        ("ON DELETE SET NULL", OnDelete::SetNull),
        ("ON DELETE SET DEFAULT", OnDelete::SetDefault),
    ];
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY, a bigint NOT NULL, b bigint NOT NULL, \
             up bigint REFERENCES {parent} (id), UNIQUE (a, b))"
        ))
        .await;
    let mut expected = BTreeSet::from([(parent.clone(), "up".to_owned(), "NoAction".to_owned(), false)]);
    for (position, (clause, action)) in actions.into_iter().enumerate() {
        let (child, indexed) = (fresh("Ref"), position % 2 == 0);
        let name = quote(&child);
        fixture
            .execute(&format!(
                "CREATE TABLE {name} (id bigint PRIMARY KEY, \"my key\" bigint REFERENCES {parent} (id) {clause})"
            ))
            .await;
        if indexed {
            fixture
                .execute(&format!("CREATE INDEX {} ON {name} (\"my key\", id)", fresh("idx")))
                .await;
        }
        expected.insert((child, "my key".to_owned(), format!("{action:?}"), indexed));
    }
    // Composite keys: an index that begins with them in any order serves; one that is partial or begins elsewhere does not.
    for (index, serves) in [
        ("(y, x)", true),
        ("(x, z, y)", false),
        ("(x, y) WHERE z > 1", false),
        ("(x, y, z)", true),
    ] {
        let child = fresh("pair");
        fixture
            .execute(&format!(
                "CREATE TABLE {child} (id bigint PRIMARY KEY, x bigint, y bigint, z bigint, FOREIGN KEY (x, y) REFERENCES {parent} (a, b)); \
                 CREATE INDEX {child}_i ON {child} {index}"
            ))
            .await;
        expected.insert((child, "x,y".to_owned(), "NoAction".to_owned(), serves));
    }
    let schema = schema(fixture, &parent).await;
    let found: BTreeSet<_> = schema
        .incoming
        .iter()
        .map(|key| {
            (
                key.child.name.clone(),
                key.child_columns.join(","),
                format!("{:?}", key.on_delete),
                key.indexed,
            )
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(schema.incoming.len(), expected.len(), "each key once");
    assert!(schema.incoming.iter().all(|key| !key.name.is_empty()), "each key has a name");
}

pub(super) async fn introspection_lists_triggers_whatever_their_names(fixture: &dyn Fixture) {
    let table = fresh("triggered");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)"))
        .await;
    // Names that hold every word of the statement's head: only the head itself may decide.
    let triggers = [
        ("plain before", "BEFORE DELETE", true, false, true),
        ("plain after", "AFTER DELETE", true, false, false),
        ("in before", "BEFORE INSERT", false, true, true),
        ("in after", "AFTER INSERT", false, true, false),
        ("upd after", "AFTER UPDATE", false, false, false),
        ("fires on x", "BEFORE DELETE", true, false, true),
        ("after all", "BEFORE DELETE", true, false, true),
        ("AFTER", "BEFORE DELETE", true, false, true),
        ("before insert on", "AFTER DELETE", true, false, false),
        ("delete", "AFTER INSERT", false, true, false),
        ("it's \"after\" on", "BEFORE DELETE", true, false, true),
    ];
    let mut expected = BTreeSet::new();
    for (name, event, on_delete, on_insert, before) in triggers {
        fixture.execute(&fixture.trigger(name, event, &table)).await;
        expected.insert(format!(
            "{:?}",
            Trigger {
                name: name.to_owned(),
                on_delete,
                on_update: event.ends_with("UPDATE"),
                on_insert,
                before
            }
        ));
    }
    let schema = schema(fixture, &table).await;
    let found: BTreeSet<_> = schema.triggers.iter().map(|trigger| format!("{trigger:?}")).collect();
    assert_eq!(found, expected);
}

pub(super) async fn introspection_tells_views_and_missing_tables(fixture: &dyn Fixture) {
    let (table, view) = (fresh("base"), fresh("view"));
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY); CREATE VIEW {view} AS SELECT id FROM {table}"
        ))
        .await;
    assert_eq!(schema(fixture, &view).await.kind, TableKind::View);
    assert!(
        schema(fixture, &view).await.row_key.is_empty(),
        "nothing addresses a row of a view"
    );
    assert_eq!(find(fixture, &fresh("missing")).await, None);
    assert_eq!(find(fixture, &format!("{table}\"; DROP TABLE {table}; --")).await, None);
    assert_eq!(count(fixture, &table).await, 0, "the table is still there");
}

pub(super) async fn the_shape_guard_follows_ddl_and_not_rows(fixture: &dyn Fixture) {
    let table = fresh("guarded");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, a text)"))
        .await;
    let mut last = schema(fixture, &table).await;
    fixture
        .execute(&format!(
            "INSERT INTO {table} VALUES (1, 'x'), (2, 'y'); DELETE FROM {table} WHERE id = 2"
        ))
        .await;
    claim(fixture).await;
    let after_rows = schema(fixture, &table).await;
    assert_eq!(
        last.shape_guard, after_rows.shape_guard,
        "rows and the journal do not change a shape"
    );
    let child = fresh("guard_child");
    let changes = [
        format!("ALTER TABLE {table} ADD COLUMN b bigint"),
        format!("ALTER TABLE {table} RENAME COLUMN b TO c"),
        fixture.trigger(&fresh("guard"), "BEFORE DELETE", &table),
        fixture.trigger(&fresh("guard"), "AFTER INSERT", &table),
        format!("CREATE TABLE {child} (id bigint PRIMARY KEY, up bigint REFERENCES {table} (id) ON DELETE CASCADE)"),
        format!("ALTER TABLE {table} DROP COLUMN c"),
    ];
    for change in changes {
        fixture.execute(&change).await;
        let now = schema(fixture, &table).await;
        assert_ne!(last.shape_guard, now.shape_guard, "{change}");
        assert_ne!(
            TableSchema::fingerprint([last.as_ref()]),
            TableSchema::fingerprint([now.as_ref()]),
            "{change}"
        );
        last = now;
    }
}
