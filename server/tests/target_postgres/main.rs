//! Traps that only PostgreSQL sets, each with real sessions that get in each other's way. A test never sleeps: it looks into
//! `pg_stat_activity` until the session that should wait does.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod lab;
mod listing;

use std::sync::Arc;

use dbkeep_engine::{
    model::{Condition, JournalEntry, Literal, RowKey, RunId, Selection, TableKind, TableName, TypeClass, Value},
    port::{Claim, TargetErrorClass},
};
use dbkeep_server::target;
use sqlx::Executor as _;

use lab::{Collector, FAMILY, Lab, refused, run, strings};

// --- adoption

#[tokio::test]
async fn a_row_that_is_adopted_while_the_batch_waits_for_it_is_kept() {
    let lab = Lab::open("adopted_waiting", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    assert_eq!(keys.len(), 2);
    let mut writer = lab.session().await;
    run(
        &mut writer,
        "BEGIN; INSERT INTO parent VALUES (2); UPDATE child SET note = 'adopted' WHERE id = 2",
    )
    .await;
    let mut batch = lab.begin(&selection).await;
    let deleting = tokio::spawn({
        let (selection, keys) = (selection.clone(), keys.clone());
        async move {
            let result = batch.delete(&selection, &keys, None).await;
            batch.rollback().await;
            result
        }
    });
    lab.waiter("dbkeep").await;
    run(&mut writer, "COMMIT").await;
    let error = refused(deleting.await.unwrap(), TargetErrorClass::Conflict);
    assert!(error.is_retryable());
    assert_eq!(
        lab.one("SELECT string_agg(id || coalesce(note, ''), ' ' ORDER BY id) FROM child")
            .await,
        "1 2adopted 3"
    );
    // Tried again, the batch takes only what is still an orphan.
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 1);
    assert_eq!(batch.adopted(&selection).await.unwrap(), 0);
    batch.commit().await.unwrap();
    assert_eq!(
        lab.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await,
        "1 2"
    );
}

#[tokio::test]
async fn a_writer_that_gives_up_lets_the_batch_go_on() {
    let lab = Lab::open("adoption_undone", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut writer = lab.session().await;
    run(
        &mut writer,
        "BEGIN; INSERT INTO parent VALUES (2); UPDATE child SET note = 'adopted' WHERE id = 2",
    )
    .await;
    let mut batch = lab.begin(&selection).await;
    let deleting = tokio::spawn(async move {
        (
            batch.delete(&selection, &keys, None).await,
            batch.adopted(&selection).await,
            batch.commit().await,
        )
    });
    lab.waiter("dbkeep").await;
    run(&mut writer, "ROLLBACK").await;
    let (deleted, adopted, committed) = deleting.await.unwrap();
    assert_eq!((deleted.unwrap(), adopted.unwrap()), (2, 0));
    committed.unwrap();
    assert_eq!(lab.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await, "1");
}

#[tokio::test]
async fn a_parent_that_appears_after_the_deletion_is_seen() {
    let lab = Lab::open("adopted_untouched", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    assert_eq!(batch.adopted(&selection).await.unwrap(), 0);
    lab.execute("INSERT INTO parent VALUES (3)").await;
    assert!(
        batch.adopted(&selection).await.unwrap() > 0,
        "the child was not touched, its parent is there all the same"
    );
    batch.rollback().await;
    assert_eq!(lab.one("SELECT count(*) FROM child").await, "3");
}

#[tokio::test]
async fn parents_are_looked_up_in_whatever_types_their_keys_have() {
    let lab = Lab::open(
        "adopted_types",
        "CREATE TYPE mood AS ENUM ('fine', 'so so'); CREATE DOMAIN code AS varchar(20) CHECK (VALUE <> ''); CREATE TYPE pair AS (a int, b text)",
    )
    .await;
    let keys = [
        ("smallint", "integer", "70000"),
        ("integer", "bigint", "-9223372036854775808"),
        ("numeric(20,2)", "numeric", "1.005"),
        ("integer", "numeric", "1.5"),
        ("bigint", "double precision", "0.1"),
        ("double precision", "real", "0.1"),
        ("text", "char(5)", "'ab'"),
        ("char(5)", "char(5)", "'ab'"),
        ("varchar(3)", "text", "'longer than the parent''s'"),
        ("code", "code", "'a ''b'''"),
        ("uuid", "uuid", "'00000000-0000-0000-0000-00000000000a'"),
        ("date", "date", "'0044-03-15 BC'"),
        ("timestamptz", "timestamptz", "'infinity'"),
        ("mood", "mood", "'so so'"),
        ("int[]", "int[]", "'[2:3]={1,NULL}'"),
        ("pair", "pair", "'(1,\"x, y\")'"),
        ("bytea", "bytea", "'\\x00ff'"),
        ("inet", "inet", "'10.0.0.1/8'"),
        ("name", "name", "'n'"),
        ("int4range", "int4range", "'[1,5)'"),
    ];
    for (place, (parent_type, child_type, value)) in keys.into_iter().enumerate() {
        lab.execute(&format!(
            "CREATE TABLE p{place} (id {parent_type} UNIQUE, b text); INSERT INTO p{place} (b) VALUES ('keyless'); CREATE TABLE c{place} (id {child_type} PRIMARY KEY, up {child_type}, b text); \
             INSERT INTO c{place} VALUES ({value}, {value}, 'x')"
        ))
        .await;
        let selection = lab
            .orphans(&format!("c{place}"), &["up"], &format!("p{place}"), &["id"])
            .await;
        let keys = lab.keys(&selection).await;
        assert_eq!(keys.len(), 1, "{child_type}");
        let mut batch = lab.begin(&selection).await;
        let context = format!("{child_type} of {parent_type}");
        assert_eq!(
            batch
                .delete(&selection, &keys, None)
                .await
                .unwrap_or_else(|error| panic!("{context}: {error}")),
            1,
            "{context}"
        );
        assert_eq!(
            batch
                .adopted(&selection)
                .await
                .unwrap_or_else(|error| panic!("{context}: {error}")),
            0,
            "{context}"
        );
        if parent_type == child_type {
            lab.execute(&format!("INSERT INTO p{place} VALUES ({value})")).await;
            assert_eq!(batch.adopted(&selection).await.unwrap(), 1, "{context}");
        }
        batch.rollback().await;
    }
    // Two columns, of which one is equal.
    lab.execute(
        "CREATE TABLE pp (a int, b text, PRIMARY KEY (a, b)); CREATE TABLE cc (id int PRIMARY KEY, a int, b text); \
         INSERT INTO cc VALUES (1, 1, 'x'), (2, 1, 'y'); INSERT INTO pp VALUES (0, 'nobody')",
    )
    .await;
    let selection = lab.orphans("cc", &["b", "a"], "pp", &["b", "a"]).await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    lab.execute("INSERT INTO pp VALUES (2, 'x'), (1, 'z')").await;
    assert_eq!(batch.adopted(&selection).await.unwrap(), 0);
    lab.execute("INSERT INTO pp VALUES (1, 'x')").await;
    assert_eq!(batch.adopted(&selection).await.unwrap(), 1);
}

// --- rows that move

#[tokio::test]
async fn a_row_that_moved_is_missed_and_never_the_wrong_one_taken() {
    let lab = Lab::open("moved", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    lab.execute("UPDATE child SET note = 'moved' WHERE id = 2").await;
    let place = lab.one("SELECT ctid FROM child WHERE id = 3").await;
    lab.execute("DELETE FROM child WHERE id = 3").await;
    lab.execute("VACUUM child").await;
    // Orphans as well, in the places of those that were listed.
    lab.execute("INSERT INTO child VALUES (50, 50), (51, 51), (52, 52)").await;
    let there = lab.one(&format!("SELECT id FROM child WHERE ctid = '{place}'")).await;
    assert!(
        there.starts_with('5'),
        "the place {place} should be taken again, by one of the new rows"
    );
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 0);
    batch.commit().await.unwrap();
    assert_eq!(
        lab.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await,
        "1 2 50 51 52"
    );
    // The next pass has them all.
    assert_eq!(lab.delete_all(&selection).await.len(), 4);
}

// --- locks

#[tokio::test]
async fn a_claim_waits_for_the_open_batch_of_the_older_attempt() {
    let lab = Lab::open("claim_waits", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let old = lab.claim().await;
    let mut batch = lab.target.begin(old, &[&selection.table]).await.unwrap();
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    let new = Claim { fence: 2, ..old };
    let claiming = tokio::spawn({
        let target = Arc::clone(&lab.target);
        async move { target.claim(new).await }
    });
    lab.waiter("dbkeep").await;
    assert!(!claiming.is_finished(), "a batch of the older attempt is open");
    // It may still commit: that is what the claim waits for.
    let entry = JournalEntry {
        run: old.run,
        step: 0,
        batch: 1,
        pass: 1,
        fence: 1,
        cursor: String::new(),
        examined: 0,
        matched: 2,
        affected: 2,
        along: Vec::new(),
        conflicting: 0,
        chunk: None,
    };
    batch.record(&entry).await.unwrap();
    batch.commit().await.unwrap();
    claiming.await.unwrap().unwrap();
    assert_eq!(lab.target.totals(old.run).await.unwrap()[0].affected, 2);
    refused(lab.target.begin(old, &[&selection.table]).await, TargetErrorClass::Fenced);
    refused(lab.target.claim(old).await, TargetErrorClass::Fenced);
    lab.target.begin(new, &[&selection.table]).await.unwrap().rollback().await;
}

#[tokio::test]
async fn a_lock_that_is_not_granted_in_time_is_worth_another_try() {
    let lab = Lab::open("lock_timeout", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut other = lab.session().await;

    run(&mut other, "BEGIN; SELECT FROM child WHERE id = 2 FOR UPDATE").await;
    let mut batch = lab.begin(&selection).await;
    assert!(refused(batch.delete(&selection, &keys, None).await, TargetErrorClass::LockTimeout).is_retryable());
    batch.rollback().await;
    run(&mut other, "ROLLBACK; BEGIN; LOCK TABLE child IN ACCESS EXCLUSIVE MODE").await;
    let claim = lab.claim().await;
    assert!(
        refused(
            lab.target.begin(claim, &[&selection.table]).await,
            TargetErrorClass::LockTimeout
        )
        .is_retryable()
    );
    run(&mut other, "ROLLBACK").await;

    // Somebody alters the parent between the deletion and the look at it: without a limit both would wait for each other.
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    drop(batch);
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys[..1], None).await.unwrap(), 1);
    let mut altering = lab.session().await;
    run(&mut altering, "SET application_name = 'altering'").await;
    let altering = tokio::spawn(async move { altering.execute("ALTER TABLE parent ADD COLUMN extra int").await.map(|_| ()) });
    lab.waiter("altering").await;
    assert!(refused(batch.adopted(&selection).await, TargetErrorClass::LockTimeout).is_retryable());
    batch.rollback().await;
    altering.await.unwrap().unwrap();
    assert_eq!(lab.one("SELECT count(*) FROM child").await, "3");
}

#[tokio::test]
async fn a_deadlock_is_worth_another_try() {
    let lab = Lab::open("deadlock", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys[..1], None).await.unwrap(), 1);
    let mut writer = lab.session().await;
    // The writer never finds the deadlock, so that the batch does.
    run(
        &mut writer,
        "SET deadlock_timeout = '1min'; SET application_name = 'writer'; BEGIN; UPDATE child SET note = 'w' WHERE id = 3",
    )
    .await;
    let writing = tokio::spawn(async move {
        writer.execute("UPDATE child SET note = 'w' WHERE id = 2").await?;
        writer.execute("COMMIT").await.map(|_| ())
    });
    lab.waiter("writer").await;
    let error = refused(batch.delete(&selection, &keys[1..], None).await, TargetErrorClass::Conflict);
    assert!(error.is_retryable() && error.code.as_deref() == Some("40P01"));
    batch.rollback().await;
    writing.await.unwrap().unwrap();
    assert_eq!(
        lab.one("SELECT string_agg(id || coalesce(note, ''), ' ' ORDER BY id) FROM child")
            .await,
        "1 2w 3w"
    );
}

#[tokio::test]
async fn the_shape_is_held_until_the_batch_ends() {
    let lab = Lab::open("shape_held", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    let mut other = lab.session().await;
    run(
        &mut other,
        "SET application_name = 'altering'; CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
    )
    .await;
    let altering = tokio::spawn(async move {
        other
            .execute("CREATE TRIGGER late BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION nothing()")
            .await
            .map(|_| ())
    });
    lab.waiter("altering").await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    batch.commit().await.unwrap();
    altering.await.unwrap().unwrap();
    refused(
        lab.target.begin(lab.claim().await, &[&selection.table]).await,
        TargetErrorClass::SchemaChanged,
    );
}

#[tokio::test]
async fn a_session_that_is_killed_is_a_lost_connection() {
    let lab = Lab::open("killed", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    let killed = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dbkeep' \
                  AND state = 'idle in transaction'";
    assert_eq!(lab.one(killed).await, "1");
    let error = refused(batch.commit().await, TargetErrorClass::Lost);
    assert!(!error.is_retryable(), "what became of the batch is not known");
    assert_eq!(lab.one("SELECT count(*) FROM child").await, "3");
    assert_eq!(lab.delete_all(&selection).await.len(), 2, "a new connection is made");
}

// --- permissions

#[tokio::test]
async fn row_level_security_is_an_error_and_not_a_wrong_count() {
    let lab = Lab::open("row_security", FAMILY).await;
    let role = format!("keeper_{}", RunId::new().0.simple());
    lab.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA public TO {role}; \
         DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END$$"
    ))
    .await;
    let as_role = Lab {
        url: String::new(),
        db: lab.db.clone(),
        target: target::open(&lab.url.replace("postgres@", &format!("{role}@"))).unwrap(),
    };
    let selection = as_role.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = as_role.keys(&selection).await;
    assert_eq!(
        (keys.len(), as_role.target.survey(&selection, 1).await.unwrap().row_count),
        (2, 2)
    );
    let claim = as_role.claim().await;
    for table in ["parent", "child"] {
        lab.execute(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")).await;
        assert!(as_role.schema(table).await.row_security);
        refused(as_role.target.survey(&selection, 1).await, TargetErrorClass::Permission);
        let scanned = match as_role.target.scan(&selection, None, 10).await {
            Ok(mut scan) => scan.next().await,
            Err(error) => Err(error),
        };
        refused(scanned, TargetErrorClass::Permission);
        refused(
            as_role.target.count_rows(as_role.schema(table).await.as_ref(), None).await,
            TargetErrorClass::Permission,
        );
        let mut batch = as_role.target.begin(claim, &[&selection.table]).await.unwrap();
        refused(batch.delete(&selection, &keys, None).await, TargetErrorClass::Permission);
        batch.rollback().await;
        lab.execute(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")).await;
    }
    // Switched on just after the deletion, it must not hide the parents from the last look either.
    let mut batch = as_role.target.begin(claim, &[&selection.table]).await.unwrap();
    assert_eq!(batch.delete(&selection, &keys[..0], None).await.unwrap(), 0);
    batch.rollback().await;
    lab.execute(&format!("REVOKE DELETE ON child FROM {role}")).await;
    refused(
        as_role.target.begin(claim, &[&selection.table]).await,
        TargetErrorClass::Permission,
    );
    assert_eq!(lab.one("SELECT count(*) FROM child").await, "3");
    // An owner is not bound by the policy, and sees everything.
    lab.execute("ALTER TABLE parent ENABLE ROW LEVEL SECURITY; ALTER TABLE child ENABLE ROW LEVEL SECURITY")
        .await;
    assert_eq!(lab.target.survey(&selection, 1).await.unwrap().row_count, 2);
    lab.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

// --- triggers and rules

#[tokio::test]
async fn a_trigger_that_keeps_rows_is_told_by_the_counts() {
    let lab = Lab::open("cancelling", FAMILY).await;
    lab.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF OLD.id = 2 THEN RETURN NULL; END IF; RETURN OLD; END$$; \
         CREATE TRIGGER keep BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    let mut sink = Collector::default();
    assert_eq!(
        (batch.delete(&selection, &keys, Some(&mut sink)).await.unwrap(), sink.0.len()),
        (1, 1)
    );
    batch.commit().await.unwrap();
    assert_eq!(
        lab.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await,
        "1 2"
    );
}

#[tokio::test]
async fn a_trigger_that_keeps_rows_out_makes_conflicts() {
    let lab = Lab::open("keeping_out", FAMILY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let rows = lab.delete_all(&selection).await;
    lab.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END$$; \
         CREATE TRIGGER keep BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let restored = lab.restore(&selection, rows).await;
    assert_eq!(
        (restored.rows, restored.conflicting, restored.conflicts[0].key.as_str()),
        (1, 1, "id=2")
    );
    assert_eq!(
        lab.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await,
        "1 3"
    );
}

#[tokio::test]
async fn introspection_tells_what_kind_of_table_it_is() {
    let lab = Lab::open(
        "kinds",
        "CREATE TABLE plain (id bigint PRIMARY KEY); CREATE TABLE base (id bigint PRIMARY KEY); CREATE TABLE heir () INHERITS (base); \
         CREATE TABLE parted (id bigint, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); CREATE TABLE leaf PARTITION OF parted DEFAULT; \
         CREATE MATERIALIZED VIEW mat AS SELECT 1 AS id; CREATE TABLE keyless (a int); \
         CREATE RULE soft AS ON DELETE TO plain DO INSTEAD NOTHING; \
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; \
         CREATE TRIGGER off BEFORE DELETE ON plain FOR EACH ROW EXECUTE FUNCTION nothing(); ALTER TABLE plain DISABLE TRIGGER off; \
         CREATE TRIGGER each AFTER DELETE OR INSERT ON plain FOR EACH STATEMENT EXECUTE FUNCTION nothing(); \
         CREATE TABLE far (id bigint PRIMARY KEY, up bigint REFERENCES plain (id)); CREATE INDEX ON far USING brin (up)",
    )
    .await;
    let mut kinds = Vec::new();
    for table in ["plain", "base", "heir", "parted", "leaf", "mat", "keyless"] {
        kinds.push(lab.schema(table).await.kind);
    }
    let (table, inherited, partitioned, view) = (
        TableKind::Table,
        TableKind::Inherited,
        TableKind::Partitioned,
        TableKind::View,
    );
    assert_eq!(kinds, [table, inherited, table, partitioned, table, view, table]);
    assert!(lab.schema("keyless").await.row_key.is_empty());
    let plain = lab.schema("plain").await;
    assert_eq!(plain.rewrite_rules, ["soft"]);
    assert_eq!(plain.triggers.len(), 1, "one is switched off: {:?}", plain.triggers);
    assert!(plain.triggers[0].on_delete && plain.triggers[0].on_insert && !plain.triggers[0].before);
    assert_eq!(
        (plain.incoming.len(), plain.incoming[0].indexed),
        (1, false),
        "a BRIN index finds no single row"
    );
}

#[tokio::test]
async fn the_shape_guard_sees_every_change_that_matters() {
    let lab = Lab::open(
        "guard",
        "CREATE TABLE t (id bigint PRIMARY KEY, a int); CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN OLD; END$$; \
         CREATE TRIGGER tr BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION nothing(); ALTER TABLE t DISABLE TRIGGER tr; CREATE TABLE c (id int PRIMARY KEY, up bigint)",
    )
    .await;
    let mut last = lab.schema("t").await.shape_guard.clone();
    for change in [
        "ALTER TABLE t ENABLE TRIGGER tr",
        "ALTER TABLE t ALTER COLUMN a TYPE bigint",
        "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
        "CREATE RULE soft AS ON DELETE TO t DO INSTEAD NOTHING",
        "ALTER TABLE c ADD FOREIGN KEY (up) REFERENCES t (id) ON DELETE CASCADE",
        "ALTER TABLE t ADD COLUMN g bigint GENERATED ALWAYS AS (a) STORED",
    ] {
        lab.execute(change).await;
        let now = lab.schema("t").await.shape_guard.clone();
        assert_ne!(last, now, "{change}");
        last = now;
    }
    lab.execute("INSERT INTO t (id, a) VALUES (1, 1); ANALYZE t; UPDATE t SET a = 2")
        .await;
    assert_eq!(lab.schema("t").await.shape_guard, last);
}

// --- values

#[tokio::test]
async fn every_type_survives_capture_and_restore() {
    let lab = Lab::open(
        "types",
        "CREATE TYPE mood AS ENUM ('fine', 'so, so', ''''); CREATE DOMAIN posint AS int CHECK (VALUE > 0); CREATE DOMAIN deeper AS posint; \
         CREATE TYPE pair AS (a int, b text, c mood[]); CREATE DOMAIN pairs AS pair[]; CREATE TYPE floats AS RANGE (subtype = float8)",
    )
    .await;
    let mut columns: Vec<(&str, Vec<&str>)> = vec![
        ("smallint", vec!["-32768", "32767"]),
        ("integer", vec!["-2147483648", "0"]),
        ("bigint", vec!["-9223372036854775808", "9223372036854775807"]),
        (
            "numeric",
            vec!["'NaN'", "1.10", "1e-300", "-0.00", "123456789012345678901234567890.123456789"],
        ),
        ("numeric(10,2)", vec!["1.1", "-99999999.99"]),
        ("real", vec!["0.1", "'NaN'", "'-Infinity'", "1e-45", "3.4028235e38", "'-0'"]),
        (
            "double precision",
            vec![
                "0.1",
                "'NaN'",
                "'Infinity'",
                "5e-324",
                "1.7976931348623157e308",
                "'-0'",
                "0.30000000000000004",
            ],
        ),
        ("money", vec!["'-92233720368547758.08'", "'1234.56'"]),
        ("text", vec!["''", "E'tab\\tnew\\nline\\\\ \\u2603'"]),
        ("varchar(5)", vec!["'ab   '", "'\u{2603}\u{2603}\u{2603}\u{2603}\u{2603}'"]),
        ("char(5)", vec!["'ab'", "''"]),
        ("char(5)[]", vec!["'{ab,\"  x\"}'"]),
        ("\"char\"", vec!["'x'", "''"]),
        ("name", vec!["'a name'", "''"]),
        ("bytea", vec!["'\\x'", "'\\x00ff5c27'"]),
        ("bit(3)", vec!["B'101'", "B'000'"]),
        ("bit varying", vec!["B''", "B'0101010101'"]),
        ("bit varying(7)", vec!["B'1'"]),
        ("boolean", vec!["true", "false"]),
        ("date", vec!["'infinity'", "'0001-01-01 BC'", "'5874897-12-31'"]),
        ("time", vec!["'24:00:00'", "'00:00:00.000001'"]),
        ("timetz", vec!["'12:00:00.5+15:59:59'", "'00:00-12'"]),
        (
            "timestamp",
            vec![
                "'-infinity'",
                "'0044-03-15 12:00:00.123456 BC'",
                "'294276-12-31 23:59:59.999999'",
            ],
        ),
        (
            "timestamptz",
            vec![
                "'infinity'",
                "'0044-03-15 12:00:00+00 BC'",
                "'2024-03-31 02:30:00+02'",
                "'1880-01-01 00:00:00 Europe/Amsterdam'",
            ],
        ),
        ("timestamp(0)", vec!["'2024-01-01 00:00:00.5'"]),
        (
            "interval",
            vec![
                "'-1 year -2 mons +3 days -04:05:06.789'",
                "'178000000 years'",
                "'1 mon -1 day'",
                "'0'",
            ],
        ),
        ("interval day to second(2)", vec!["'3 days 04:05:06.789'"]),
        ("uuid", vec!["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
        (
            "json",
            vec!["'{\"a\" : 1, \"a\":2,  \"b\":[1.0, 1e2]}'", "'null'", "'\"\\u0041\"'"],
        ),
        (
            "jsonb",
            vec!["'{\"a\" : 1, \"a\":2, \"n\": 1.10}'", "'null'", "'\"\\u2603 \\n\"'"],
        ),
        ("jsonpath", vec!["'$.a[*] ? (@ > 1)'"]),
        ("inet", vec!["'192.168.1.1/32'", "'10.0.0.1/8'", "'::ffff:1.2.3.4/128'"]),
        ("cidr", vec!["'10.0.0.0/8'", "'2001:db8::/32'"]),
        ("macaddr", vec!["'08:00:2b:01:02:03'"]),
        ("macaddr8", vec!["'08:00:2b:01:02:03:04:05'"]),
        ("point", vec!["'(0.1,-1e-300)'"]),
        ("line", vec!["'{1,-1,0.1}'"]),
        ("lseg", vec!["'[(0,0),(1,1)]'"]),
        ("box", vec!["'(1,1),(0,0)'"]),
        ("path", vec!["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
        ("polygon", vec!["'((0,0),(1,0),(0.1,1))'"]),
        ("circle", vec!["'<(0,0),0.1>'"]),
        ("box[]", vec!["'{(1,1),(0,0);(2,2),(1,1)}'"]),
        ("tsvector", vec!["'''a b'':1A,2 c:3'"]),
        ("tsquery", vec!["'a & !b | c:*'"]),
        ("int4range", vec!["'[1,5)'", "'empty'", "'(,5]'"]),
        ("numrange", vec!["'[1.10,2]'"]),
        ("tstzrange", vec!["'[2024-01-01 00:00+00,infinity]'"]),
        ("floats", vec!["'[0.1,NaN]'"]),
        ("int[]", vec!["'{}'", "'[2:3]={1,NULL}'", "'[-1:0][5:6]={{1,2},{3,4}}'"]),
        (
            "text[]",
            vec!["'{\"\",NULL,\"NULL\",\"a\\\"b\\\\c\",\"{}\",\" x \"}'", "'{{a,b},{c,d}}'"],
        ),
        ("timestamptz[]", vec!["'{\"2024-01-01 00:00+00\",-infinity}'"]),
        ("bytea[]", vec!["'{\"\\\\x00ff\"}'"]),
        ("mood", vec!["'so, so'", "''''"]),
        ("mood[]", vec!["'{fine,\"so, so\"}'"]),
        ("posint", vec!["7"]),
        ("deeper", vec!["8"]),
        ("posint[]", vec!["'{1,2}'"]),
        (
            "pair",
            vec!["'(1,\"a, \"\"b\"\"\",\"{fine,\"\"so, so\"\"}\")'", "'(,,)'", "'(,\"\",{})'"],
        ),
        (
            "pair[]",
            vec!["ARRAY[ROW(1, 'x', '{fine}')::pair, NULL, ROW(NULL, NULL, NULL)::pair]"],
        ),
        ("pairs", vec!["ARRAY[ROW(1, 'x', '{fine}')::pair]"]),
        ("oid", vec!["4294967295"]),
        ("regclass", vec!["'pg_class'"]),
        ("regtype", vec!["'int[]'"]),
        ("xid", vec!["'4294967295'"]),
        ("tid", vec!["'(1,2)'"]),
        ("pg_lsn", vec!["'16/B374D848'"]),
        ("pg_snapshot", vec!["'10:20:10,14,15'"]),
    ];
    let version: u32 = lab.one("SHOW server_version_num").await.parse().unwrap();
    if version >= 140_000 {
        columns.push(("numeric", vec!["'-Infinity'", "'Infinity'"]));
        columns.push(("int4multirange", vec!["'{[1,5),[7,)}'", "'{}'"]));
    }
    if lab.db.fetch_text("SELECT '<a/>'::xml").await.is_ok() {
        columns.push((
            "xml",
            vec![
                "'<a b=\"c\">x &amp; y</a>'",
                "'text <b/> more'",
                "'<!DOCTYPE a><a/>'",
                "'<?xml version=\"1.0\"?><a/>'",
            ],
        ));
    }
    for (extension, kind, value) in [
        ("hstore", "hstore", "'a=>1, \"b c\"=>NULL, d=>\"\"'"),
        ("citext", "citext", "'MiXed'"),
        ("ltree", "ltree", "'a.b.c'"),
        ("isn", "isbn13", "'978-0-393-04002-9'"),
        ("cube", "cube", "'(1, 0.1),(2, 3)'"),
    ] {
        if lab
            .one(&format!(
                "SELECT count(*) FROM pg_available_extensions WHERE name = '{extension}'"
            ))
            .await
            == "1"
        {
            lab.execute(&format!("CREATE EXTENSION {extension}")).await;
            columns.push((kind, vec![value]));
        }
    }
    let declared: String = columns
        .iter()
        .enumerate()
        .map(|(place, (kind, _))| format!(", c{place} {kind}"))
        .collect();
    lab.execute(&format!(
        "CREATE TABLE kinds (id int PRIMARY KEY, at timestamptz NOT NULL{declared})"
    ))
    .await;
    let most = columns.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    for place in 0..=most {
        let values: String = columns
            .iter()
            .map(|(_, values)| format!(", {}", values.get(place).unwrap_or(&"NULL")))
            .collect();
        lab.execute(&format!("INSERT INTO kinds VALUES ({place}, '2001-01-01'{values})"))
            .await;
    }
    let selection = lab.expired("kinds").await;
    assert_eq!(selection.table.lossy_columns, Vec::<String>::new());
    lab.round_trip(&selection, "kinds", "id").await;
}

#[tokio::test]
async fn the_sessions_settings_of_a_role_do_not_change_what_is_captured() {
    let lab = Lab::open(
        "settings",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, d date, i interval, f float8, b bytea, m money, x text); \
         INSERT INTO t VALUES (1, '2001-02-03 04:05:06.789+00', '2001-02-03', '-1 mon 2 days', 0.1, '\\x00ff', '1234.56', 'a\\b'); \
         DO $$DECLARE s text; BEGIN FOREACH s IN ARRAY ARRAY['datestyle = ''SQL, DMY''', 'timezone = ''Asia/Tokyo''', 'intervalstyle = ''iso_8601''', \
           'extra_float_digits = -5', 'bytea_output = ''escape''', 'standard_conforming_strings = off', 'default_transaction_isolation = ''serializable''', \
           'search_path = pg_catalog, public'] \
         LOOP EXECUTE format('ALTER DATABASE %I SET %s', current_database(), s); END LOOP; END$$",
    )
    .await;
    let selection = lab.expired("t").await;
    lab.round_trip(&selection, "t", "id").await;
    let rows = lab.delete_all(&selection).await;
    let texts: Vec<_> = rows[0].iter().map(|value| value.preview(100).unwrap()).collect();
    assert_eq!(
        texts[..6],
        [
            "1",
            "2001-02-03 04:05:06.789+00",
            "2001-02-03",
            "-1 mons +2 days",
            "0.1",
            "\\x00ff"
        ]
    );
}

#[tokio::test]
async fn identity_and_generated_columns_of_every_kind() {
    let lab = Lab::open(
        "identity",
        "CREATE TABLE always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, up text GENERATED ALWAYS AS (upper(a)) STORED, at timestamptz DEFAULT '2001-01-01'); \
         CREATE TABLE serials (id bigserial PRIMARY KEY, n bigint GENERATED BY DEFAULT AS IDENTITY, at timestamptz DEFAULT '2001-01-01'); \
         INSERT INTO always (a) VALUES ('x'), (NULL), ('z'); INSERT INTO serials DEFAULT VALUES; INSERT INTO serials (id, n) VALUES (70, -5)",
    )
    .await;
    for (table, sequences) in [
        ("always", &["always_id_seq"][..]),
        ("serials", &["serials_id_seq", "serials_n_seq"]),
    ] {
        let mut before = Vec::new();
        for sequence in sequences {
            before.push(lab.one(&format!("SELECT last_value FROM {sequence}")).await);
        }
        lab.round_trip(&lab.expired(table).await, table, "id").await;
        for (sequence, before) in sequences.iter().zip(before) {
            assert_eq!(
                lab.one(&format!("SELECT last_value FROM {sequence}")).await,
                before,
                "{sequence} is not moved"
            );
        }
    }
}

#[tokio::test]
async fn tables_of_other_schemas_with_odd_names() {
    let lab = Lab::open(
        "odd",
        "CREATE SCHEMA \"Odd \"\"schema\"; CREATE TYPE \"Odd \"\"schema\".\"Mood; \" AS ENUM ('a', 'b', 'c'); \
         CREATE TABLE \"Odd \"\"schema\".\"Pa.rent\" (\"the key\" \"Odd \"\"schema\".\"Mood; \" PRIMARY KEY); \
         CREATE TABLE \"Odd \"\"schema\".\"ta.ble\" (\"the key\" \"Odd \"\"schema\".\"Mood; \" PRIMARY KEY, \"select\" \"Odd \"\"schema\".\"Mood; \"); \
         INSERT INTO \"Odd \"\"schema\".\"Pa.rent\" VALUES ('c'); INSERT INTO \"Odd \"\"schema\".\"ta.ble\" VALUES ('a', 'b'), ('b', 'a'); CREATE TABLE \"ta.ble\" (wrong int)",
    )
    .await;
    let name = |table: &str| TableName {
        schema: Some("Odd \"schema".to_owned()),
        name: table.to_owned(),
    };
    let table = Arc::new(lab.target.introspect(&name("ta.ble")).await.unwrap().unwrap());
    let parent = Arc::new(lab.target.introspect(&name("Pa.rent")).await.unwrap().unwrap());
    assert_eq!((&table.name, &parent.name), (&name("ta.ble"), &name("Pa.rent")));
    assert_eq!(lab.target.introspect(&name("missing")).await.unwrap(), None);
    assert_eq!(
        lab.target
            .introspect(&TableName {
                schema: Some("nowhere".into()),
                name: "t".into()
            })
            .await
            .unwrap(),
        None
    );
    let matches = Condition::ParentMissing {
        columns: strings(&["select"]),
        parent,
        parent_columns: strings(&["the key"]),
        unfit: Vec::new(),
    };
    let selection = Selection {
        table,
        matches,
        except: Vec::new(),
    };
    lab.round_trip(&selection, "\"Odd \"\"schema\".\"ta.ble\"", "1").await;
}

#[tokio::test]
async fn casts_to_text_that_may_lose_something_are_named() {
    let lab = Lab::open(
        "lossy",
        "CREATE TYPE mood AS ENUM ('fine', 'bad'); CREATE FUNCTION hide(mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'hidden'$$; \
         CREATE CAST (mood AS text) WITH FUNCTION hide(mood); CREATE DOMAIN dmood AS mood; CREATE DOMAIN ddmood AS dmood; \
         CREATE TYPE inward AS ENUM ('fine'); CREATE FUNCTION guess(text) RETURNS inward LANGUAGE sql IMMUTABLE AS $$SELECT 'fine'::inward$$; \
         CREATE CAST (text AS inward) WITH FUNCTION guess(text); \
         CREATE TYPE honest AS ENUM ('fine'); CREATE TYPE pair AS (a int, b mood); CREATE DOMAIN posint AS int; \
         CREATE TABLE t (id int PRIMARY KEY, good honest, p pair, n posint, v varchar(3), c char(3), x mood, d dmood, dd ddmood, i inward, blank bpchar)",
    )
    .await;
    let schema = lab.schema("t").await;
    assert_eq!(schema.lossy_columns, ["x", "d", "dd", "i", "blank"]);
    assert_eq!(schema.column("n").map(|column| column.class), Some(TypeClass::Integer));
}

#[tokio::test]
async fn deferrable_constraints_do_not_stop_a_restore() {
    let lab = Lab::open(
        "deferrable",
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1), (2), (3); \
         CREATE TABLE child (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, code text UNIQUE DEFERRABLE INITIALLY DEFERRED, \
           up int REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED, at timestamptz NOT NULL); \
         INSERT INTO child VALUES (1, 'a', 1, '2001-01-01'), (2, 'b', 2, '2001-01-01'), (3, 'c', 3, '2001-01-01'), (4, 'd', 1, '2001-01-01')",
    )
    .await;
    let selection = lab.expired("child").await;
    lab.round_trip(&selection, "child", "id").await;
    let rows = lab.delete_all(&selection).await;
    lab.execute(
        "DELETE FROM parent WHERE id = 2; INSERT INTO child VALUES (1, 'new', 1, '2031-01-01'), (9, 'c', 1, '2031-01-01')",
    )
    .await;
    let restored = lab.restore(&selection, rows).await;
    let mut keys: Vec<_> = restored.conflicts.iter().map(|conflict| conflict.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!((restored.rows, keys), (1, vec!["id=1", "id=2", "id=3"]));
    assert_eq!(
        lab.one("SELECT string_agg(id || code, ' ' ORDER BY id) FROM child").await,
        "1new 4d 9c"
    );
}

#[tokio::test]
async fn exclusion_and_check_constraints_are_conflicts() {
    let lab = Lab::open(
        "excluded",
        "CREATE TABLE room (id int PRIMARY KEY, during int4range, size int, at timestamptz NOT NULL, EXCLUDE USING gist (during WITH &&)); \
         INSERT INTO room VALUES (1, '[1,5)', 1, '2001-01-01'), (2, '[5,9)', 2, '2001-01-01'), (3, '[20,30)', -3, '2001-01-01')",
    )
    .await;
    let selection = lab.expired("room").await;
    let rows = lab.delete_all(&selection).await;
    lab.execute("INSERT INTO room VALUES (7, '[4,5)', 1, '2031-01-01'); ALTER TABLE room ADD CHECK (size > 0)")
        .await;
    let restored = lab.restore(&selection, rows).await;
    assert_eq!((restored.rows, restored.conflicting), (1, 2), "{:?}", restored.conflicts);
    assert_eq!(lab.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM room").await, "2 7");
}

#[tokio::test]
async fn times_without_a_zone_are_read_in_the_declared_one() {
    let lab = Lab::open(
        "zones",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, d date); INSERT INTO t VALUES \
         (1, '2024-07-01 11:59:59.999999', '2024-06-30'), (2, '2024-07-01 12:00:00', '2024-07-01'), (3, '2024-07-01 13:59:59.999999', '2024-07-02'), \
         (4, '2024-07-01 14:00:00', NULL), (5, NULL, '-infinity'), (6, 'infinity', 'infinity')",
    )
    .await;
    let ids = async |column: &str, zone: &str| {
        let selection = lab.older("t", column, "2024-07-01T12:00:00Z", Some(zone), None).await;
        let mut batch = lab.begin(&selection).await;
        let mut sink = Collector::default();
        let keys = lab.keys(&selection).await;
        batch.delete(&selection, &keys, Some(&mut sink)).await.unwrap();
        batch.rollback().await;
        let mut ids: Vec<String> = sink.0.iter().map(|row| row[0].preview(9).unwrap()).collect();
        ids.sort();
        assert_eq!(ids.len() as u64, lab.target.survey(&selection, 0).await.unwrap().row_count);
        ids.join(" ")
    };
    assert_eq!(ids("at", "UTC").await, "1");
    assert_eq!(ids("at", "Europe/Berlin").await, "1 2 3");
    assert_eq!(ids("at", "America/New_York").await, "");
    assert_eq!(ids("d", "UTC").await, "1 2 5");
    assert_eq!(ids("d", "Pacific/Kiritimati").await, "1 2 3 5");
}

// --- keys of the database

#[tokio::test]
async fn what_a_key_takes_along_unheld_takes_the_batch_back() {
    let lab = Lab::open(
        "keys",
        "CREATE TABLE p (id int PRIMARY KEY, at timestamptz, up int REFERENCES p ON DELETE SET NULL); \
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE); \
         CREATE TABLE n (id int PRIMARY KEY, p int REFERENCES p ON DELETE SET NULL); \
         INSERT INTO p VALUES (1, '2001-01-01', NULL), (2, '2001-01-01', 1), (3, '2001-01-01', 2), (4, '2031-01-01', NULL); \
         INSERT INTO c VALUES (1, 1), (2, 1), (3, 4); INSERT INTO n VALUES (1, 2), (2, 4)",
    )
    .await;
    let selection = lab.expired("p").await;
    let (c, n) = (lab.schema("c").await, lab.schema("n").await);
    let numbers = |numbers: &[&str]| -> Vec<RowKey> {
        numbers
            .iter()
            .map(|number| vec![Value::Text(number.as_bytes().to_vec())])
            .collect()
    };
    for (held_c, held_n) in [(false, true), (true, false), (true, true)] {
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        lab.target.claim(claim).await.unwrap();
        let mut batch = lab.target.begin(claim, &[&selection.table, &c, &n]).await.unwrap();
        if held_c {
            assert_eq!(batch.remove(&c, &numbers(&["1", "2"])).await.unwrap(), 2);
        }
        if held_n {
            let assigned = batch.assign(&n, &numbers(&["1"]), &[("p".to_owned(), None)]).await;
            assert_eq!(assigned.unwrap(), [[Value::Null]]);
        }
        assert_eq!(batch.remove(&selection.table, &numbers(&["1", "2", "3"])).await.unwrap(), 3);
        let recorded = batch.record(&entry(claim, 3)).await;
        if held_c && held_n {
            recorded.unwrap();
        } else {
            let error = refused(recorded, TargetErrorClass::Refused);
            assert!(error.message.contains("more than were captured"), "{error}");
        }
        batch.rollback().await;
        let counts = "SELECT (SELECT count(*) FROM p)::text || (SELECT count(*) FROM c)::text || (SELECT count(p) FROM n)::text";
        assert_eq!(lab.one(counts).await, "432");
    }
}

#[tokio::test]
async fn what_a_key_changes_along_takes_the_batch_back() {
    let lab = Lab::open(
        "keys_update",
        "CREATE TABLE p (id int PRIMARY KEY, at timestamptz, code text UNIQUE); CREATE TABLE c (code text REFERENCES p (code) ON UPDATE CASCADE); \
         INSERT INTO p VALUES (1, '2001-01-01', 'a'), (2, '2001-01-01', 'b'); INSERT INTO c VALUES ('a')",
    )
    .await;
    let selection = lab.expired("p").await;
    for (id, named) in [("1", true), ("2", false)] {
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        lab.target.claim(claim).await.unwrap();
        let mut batch = lab.target.begin(claim, &[&selection.table]).await.unwrap();
        let code = [("code".to_owned(), Some(Literal::Text("z".to_owned())))];
        let key = vec![Value::Text(id.as_bytes().to_vec())];
        assert_eq!(batch.assign(&selection.table, &[key], &code).await.unwrap().len(), 1);
        assert_eq!(batch.record(&entry(claim, 1)).await.is_err(), named, "row {id}");
        batch.rollback().await;
    }
}

/// A journal row of a batch that took so many rows.
fn entry(claim: Claim, rows: u64) -> JournalEntry {
    JournalEntry {
        run: claim.run,
        step: 0,
        batch: 1,
        pass: 1,
        fence: claim.fence,
        cursor: String::new(),
        examined: 0,
        matched: rows,
        affected: rows,
        along: Vec::new(),
        conflicting: 0,
        chunk: None,
    }
}

#[tokio::test]
async fn a_statement_that_was_prepared_for_other_columns_is_tried_again() {
    let lab = Lab::open(
        "stale",
        "CREATE TABLE p (id int PRIMARY KEY, at timestamptz, note text COLLATE \"C\"); INSERT INTO p VALUES (1, '2001-01-01', 'a')",
    )
    .await;
    let selection = lab.expired("p").await;
    let keys = lab.keys(&selection).await;
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    lab.target.claim(claim).await.unwrap();
    // Two connections take turns.
    for _ in 0..4 {
        let mut batch = lab.target.begin(claim, &[&selection.table]).await.unwrap();
        assert_eq!(batch.hold(&selection, &keys).await.unwrap().len(), 1);
        batch.rollback().await;
    }
    // Nothing that the shape's digest would show.
    lab.execute("ALTER TABLE p ALTER note TYPE text COLLATE \"POSIX\"").await;
    let mut tries = 0;
    loop {
        tries += 1;
        let keys = lab.keys(&selection).await;
        let mut batch = lab.target.begin(claim, &[&selection.table]).await.unwrap();
        match batch.hold(&selection, &keys).await {
            Ok(rows) => break assert_eq!(rows.len(), 1),
            Err(error) => assert!(error.is_retryable() && tries < 8, "{error}"),
        }
    }
}
