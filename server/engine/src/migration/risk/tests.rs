//! Statements in a table: what they lock, how much they work through, whether data goes, and the largest risk.

use super::*;
use crate::{
    migration::statement,
    model::{LockMode, Work},
};
use EngineKind::{Postgres, Sqlite};
use LockMode::{AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive, ShareUpdateExclusive};
use Risk::{High, Low, Medium};
use Work::{Build, Catalog, Rewrite, Rows, Scan};

/// A script as its source would read it.
fn script(text: &str, engine: EngineKind) -> Script {
    let statements = statement::split(text, engine, 1).expect("statements");
    let (groups, foreign_keys_off) = statement::groups(statements, engine, true).expect("groups");
    Script {
        file: "1.sql".to_owned(),
        sha256: String::new(),
        groups,
        foreign_keys_off,
    }
}

fn measure(table: &str, rows: Option<u64>) -> TableMeasure {
    TableMeasure {
        table: table.to_owned(),
        rows,
        bytes: rows.unwrap_or_default() * 100,
    }
}

/// `big` and `Odd Name` are large, `mid` is in the middle, `small` is small, `empty` is empty, `later` is not there yet; `child` refers
/// to `big`. Nothing is known of others.
fn known() -> Known {
    let tables = [
        ("big", Some(5_000_000)),
        ("mid", Some(50_000)),
        ("small", Some(100)),
        ("child", Some(2_000_000)),
        ("empty", Some(0)),
    ];
    let mut tables: Vec<_> = tables.into_iter().map(|(table, rows)| measure(table, rows)).collect();
    tables.push(measure("later", None));
    tables.push(measure("\"Odd Name\"", Some(5_000_000)));
    Known {
        tables,
        indexes: vec![
            ("big".to_owned(), vec!["id".to_owned()]),
            ("child".to_owned(), vec!["big_id".to_owned()]),
        ],
        foreign_keys: vec![("child".to_owned(), vec!["big_id".to_owned()], "big".to_owned())],
    }
}

fn impacts(text: &str, engine: EngineKind) -> Vec<Impact> {
    assess(&script(text, engine), engine, &known())
}

fn only(text: &str, engine: EngineKind) -> Impact {
    let mut impacts = impacts(text, engine);
    assert_eq!(impacts.len(), 1, "{text}");
    impacts.remove(0)
}

fn rules_of(impact: &Impact) -> Vec<&str> {
    impact.reasons.iter().map(|reason| reason.rule.as_str()).collect()
}

/// The rules of every statement of a script.
fn rules_in(text: &str, engine: EngineKind) -> Vec<Vec<String>> {
    let impacts = impacts(text, engine);
    impacts
        .iter()
        .map(|impact| rules_of(impact).into_iter().map(str::to_owned).collect())
        .collect()
}

type Expected<'a> = (&'a str, &'a str, &'a [(&'a str, LockMode)], Work, bool, Risk);

fn check(table: &[Expected<'_>], engine: EngineKind) {
    let mut wrong = Vec::new();
    for (sql, kind, locks, work, loses, risk) in table {
        let impact = only(sql, engine);
        let found: Vec<(&str, LockMode)> = impact.locks.iter().map(|lock| (lock.table.as_str(), lock.mode)).collect();
        let highest = overall(std::slice::from_ref(&impact));
        let same =
            impact.kind == *kind && found == *locks && impact.work == *work && impact.loses_data == *loses && highest == *risk;
        if !same {
            wrong.push(format!(
                "{sql}\n  expected {kind:?} {locks:?} {work:?} loses {loses} {risk:?}\n  found    {:?} {found:?} {:?} loses {} {highest:?} {:?}",
                impact.kind, impact.work, impact.loses_data, rules_of(&impact)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} statements:\n{}", wrong.len(), wrong.join("\n"));
}

// One statement a line is what makes these tables readable.
#[rustfmt::skip]
#[test]
fn postgresql_statements() {
    let table: [Expected<'_>; 87] = [
        // Tables.
        ("CREATE TABLE t (id bigint PRIMARY KEY, name text NOT NULL)", "CREATE TABLE", &[("t", AccessExclusive)], Catalog, false, Low),
        ("create  table if not exists T (id int)", "CREATE TABLE", &[("t", AccessExclusive)], Catalog, false, Low),
        ("CREATE TABLE t (id int PRIMARY KEY REFERENCES big)", "CREATE TABLE", &[("t", AccessExclusive), ("big", ShareRowExclusive)], Catalog, false, Low),
        ("CREATE TABLE t (b int REFERENCES big (id) ON DELETE SET NULL)", "CREATE TABLE", &[("t", AccessExclusive), ("big", ShareRowExclusive)], Catalog, false, Medium),
        ("CREATE TABLE t AS SELECT * FROM big", "CREATE TABLE", &[("t", AccessExclusive), ("big", AccessShare)], Scan, false, Low),
        ("CREATE TABLE t AS SELECT * FROM big WITH NO DATA", "CREATE TABLE", &[("t", AccessExclusive), ("big", AccessShare)], Catalog, false, Low),
        ("CREATE UNLOGGED TABLE s.t (LIKE big)", "CREATE TABLE", &[("s.t", AccessExclusive), ("big", AccessShare)], Catalog, false, Low),
        ("CREATE TABLE p PARTITION OF big FOR VALUES FROM (1) TO (2)", "CREATE TABLE", &[("p", AccessExclusive), ("big", AccessExclusive)], Catalog, false, Low),
        ("DROP TABLE small", "DROP TABLE", &[("small", AccessExclusive)], Catalog, true, High),
        ("DROP TABLE IF EXISTS child CASCADE", "DROP TABLE", &[("child", AccessExclusive), ("big", AccessExclusive)], Catalog, true, High),
        ("DROP TABLE empty", "DROP TABLE", &[("empty", AccessExclusive)], Catalog, true, Low),
        ("TRUNCATE TABLE ONLY small", "TRUNCATE", &[("small", AccessExclusive)], Catalog, true, High),
        ("TRUNCATE big CASCADE", "TRUNCATE", &[("big", AccessExclusive), ("child", AccessExclusive)], Catalog, true, High),
        // Columns.
        ("ALTER TABLE big ADD COLUMN a int", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big ADD a int DEFAULT 7 NOT NULL", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big ADD COLUMN a timestamptz DEFAULT now()", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big ADD COLUMN a uuid DEFAULT gen_random_uuid()", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE mid ADD COLUMN a uuid DEFAULT gen_random_uuid()", "ALTER TABLE", &[("mid", AccessExclusive)], Rewrite, false, Medium),
        ("ALTER TABLE small ADD COLUMN a uuid DEFAULT gen_random_uuid()", "ALTER TABLE", &[("small", AccessExclusive)], Rewrite, false, Low),
        ("ALTER TABLE stranger ADD COLUMN a uuid DEFAULT gen_random_uuid()", "ALTER TABLE", &[("stranger", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE big ADD COLUMN a bigserial", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE big ADD a int GENERATED ALWAYS AS IDENTITY", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE big ADD a int GENERATED ALWAYS AS (b * 2) STORED", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE big ADD COLUMN a int NOT NULL", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, High),
        ("ALTER TABLE empty ADD COLUMN a int NOT NULL", "ALTER TABLE", &[("empty", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE later ADD COLUMN a int NOT NULL", "ALTER TABLE", &[("later", AccessExclusive)], Catalog, false, Medium),
        ("ALTER TABLE big ADD COLUMN a int UNIQUE", "ALTER TABLE", &[("big", AccessExclusive)], Build, false, High),
        ("ALTER TABLE small ADD COLUMN a int CHECK (a > 0)", "ALTER TABLE", &[("small", AccessExclusive)], Scan, false, Low),
        ("ALTER TABLE small ADD COLUMN b int REFERENCES big", "ALTER TABLE", &[("small", AccessExclusive), ("big", ShareRowExclusive)], Catalog, false, Medium),
        ("ALTER TABLE ONLY \"Odd Name\" DROP COLUMN \"A\"", "ALTER TABLE", &[("\"Odd Name\"", AccessExclusive)], Catalog, true, High),
        ("ALTER TABLE big DROP COLUMN id CASCADE", "ALTER TABLE", &[("big", AccessExclusive), ("child", AccessExclusive)], Catalog, true, High),
        ("ALTER TABLE empty DROP a", "ALTER TABLE", &[("empty", AccessExclusive)], Catalog, true, Low),
        ("ALTER TABLE big ALTER COLUMN a TYPE bigint", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE mid ALTER a SET DATA TYPE text USING a::text", "ALTER TABLE", &[("mid", AccessExclusive)], Rewrite, false, Medium),
        ("ALTER TABLE small ALTER a TYPE character varying(10)", "ALTER TABLE", &[("small", AccessExclusive)], Rewrite, true, High),
        ("ALTER TABLE big ALTER a SET NOT NULL", "ALTER TABLE", &[("big", AccessExclusive)], Scan, false, High),
        ("ALTER TABLE small ALTER a SET NOT NULL", "ALTER TABLE", &[("small", AccessExclusive)], Scan, false, Low),
        ("ALTER TABLE big ALTER a DROP NOT NULL", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big ALTER a SET DEFAULT 1", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big ALTER a SET STATISTICS 100", "ALTER TABLE", &[("big", ShareUpdateExclusive)], Catalog, false, Low),
        ("ALTER TABLE big SET (fillfactor = 70)", "ALTER TABLE", &[("big", ShareUpdateExclusive)], Catalog, false, Low),
        ("ALTER TABLE big SET TABLESPACE fast", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE big SET UNLOGGED", "ALTER TABLE", &[("big", AccessExclusive)], Rewrite, false, High),
        ("ALTER TABLE big RENAME TO huge", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Medium),
        ("ALTER TABLE big RENAME a TO b", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Medium),
        ("ALTER TABLE small ADD a int, DROP b, ALTER c TYPE bigint", "ALTER TABLE", &[("small", AccessExclusive)], Rewrite, true, High),
        ("ALTER TABLE small ADD a int, ADD b numeric(10, 2) DEFAULT 0", "ALTER TABLE", &[("small", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big FROBNICATE a", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Medium),
        // Constraints.
        ("ALTER TABLE child ADD CONSTRAINT f FOREIGN KEY (big_id) REFERENCES big", "ALTER TABLE", &[("child", ShareRowExclusive), ("big", ShareRowExclusive)], Scan, false, High),
        ("ALTER TABLE child ADD CONSTRAINT f FOREIGN KEY (big_id) REFERENCES big (id) NOT VALID", "ALTER TABLE", &[("child", ShareRowExclusive), ("big", ShareRowExclusive)], Catalog, false, Low),
        ("ALTER TABLE child ADD FOREIGN KEY (other) REFERENCES big NOT VALID", "ALTER TABLE", &[("child", ShareRowExclusive), ("big", ShareRowExclusive)], Catalog, false, Medium),
        ("ALTER TABLE big ADD CONSTRAINT c CHECK (a > 0)", "ALTER TABLE", &[("big", AccessExclusive)], Scan, false, High),
        ("ALTER TABLE big ADD CONSTRAINT c CHECK (a > 0) NOT VALID", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big VALIDATE CONSTRAINT c", "ALTER TABLE", &[("big", ShareUpdateExclusive)], Scan, false, Low),
        ("ALTER TABLE big ADD CONSTRAINT u UNIQUE (a)", "ALTER TABLE", &[("big", AccessExclusive)], Build, false, High),
        ("ALTER TABLE big ADD CONSTRAINT u UNIQUE USING INDEX i", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big DROP CONSTRAINT IF EXISTS c", "ALTER TABLE", &[("big", AccessExclusive)], Catalog, false, Low),
        ("ALTER TABLE big DISABLE TRIGGER ALL", "ALTER TABLE", &[("big", ShareRowExclusive)], Catalog, false, Medium),
        ("ALTER TABLE big ATTACH PARTITION mid FOR VALUES IN (1)", "ALTER TABLE", &[("big", ShareUpdateExclusive), ("mid", AccessExclusive)], Scan, false, Medium),
        ("ALTER TABLE big DETACH PARTITION mid CONCURRENTLY", "ALTER TABLE", &[("big", ShareUpdateExclusive), ("mid", ShareUpdateExclusive)], Catalog, false, Low),
        // Indexes.
        ("CREATE INDEX i ON big (a)", "CREATE INDEX", &[("big", Share)], Build, false, High),
        ("CREATE UNIQUE INDEX ON mid USING btree (lower(a))", "CREATE INDEX", &[("mid", Share)], Build, false, Medium),
        ("CREATE INDEX i ON small (a)", "CREATE INDEX", &[("small", Share)], Build, false, Low),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON big (a)", "CREATE INDEX", &[("big", ShareUpdateExclusive)], Build, false, Low),
        ("DROP INDEX i", "DROP INDEX", &[], Catalog, false, Medium),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX", &[], Catalog, false, Low),
        ("REINDEX TABLE big", "REINDEX TABLE", &[("big", Share)], Build, false, High),
        ("REINDEX TABLE CONCURRENTLY big", "REINDEX TABLE", &[("big", ShareUpdateExclusive)], Build, false, Low),
        ("VACUUM (FULL, ANALYZE) big", "VACUUM FULL", &[("big", AccessExclusive)], Rewrite, false, High),
        ("VACUUM big", "VACUUM", &[("big", ShareUpdateExclusive)], Scan, false, Low),
        ("CLUSTER big USING i", "CLUSTER", &[("big", AccessExclusive)], Rewrite, false, High),
        ("REFRESH MATERIALIZED VIEW stranger", "REFRESH MATERIALIZED VIEW", &[("stranger", AccessExclusive)], Rewrite, false, High),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY stranger", "REFRESH MATERIALIZED VIEW", &[("stranger", Exclusive)], Scan, false, Low),
        // Rows.
        ("INSERT INTO small VALUES (1), (2)", "INSERT", &[("small", RowExclusive)], Rows, false, Low),
        ("INSERT INTO child (big_id) SELECT id FROM mid", "INSERT", &[("child", RowExclusive), ("big", RowShare), ("mid", AccessShare)], Rows, false, Low),
        ("UPDATE small SET a = 1", "UPDATE", &[("small", RowExclusive)], Rows, false, High),
        ("UPDATE small SET a = (SELECT 1 WHERE true)", "UPDATE", &[("small", RowExclusive)], Rows, false, High),
        ("UPDATE small SET a = 1 WHERE 1 = 1", "UPDATE", &[("small", RowExclusive)], Rows, false, High),
        ("UPDATE ONLY small AS s SET a = 1 WHERE s.id = 3", "UPDATE", &[("small", RowExclusive)], Rows, false, Low),
        ("UPDATE empty SET a = 1", "UPDATE", &[("empty", RowExclusive)], Rows, false, Low),
        ("DELETE FROM small", "DELETE", &[("small", RowExclusive)], Rows, true, High),
        ("DELETE FROM big WHERE id = 'x'", "DELETE", &[("big", RowExclusive), ("child", RowExclusive)], Rows, true, Medium),
        ("WITH gone AS (DELETE FROM small WHERE a RETURNING *) INSERT INTO mid SELECT * FROM gone", "DELETE", &[("mid", RowExclusive), ("small", RowExclusive)], Rows, true, Medium),
        ("MERGE INTO small s USING mid m ON s.id = m.id WHEN MATCHED THEN DELETE", "MERGE", &[("small", RowExclusive), ("mid", AccessShare)], Rows, true, Medium),
        // Others.
        ("DO $$ BEGIN DROP TABLE big; END $$", "DO", &[], Catalog, false, Medium),
        ("LOCK TABLE small IN SHARE MODE", "LOCK TABLE", &[("small", Share)], Catalog, false, Medium),
        ("FLY ME TO the_moon", "FLY ME", &[], Catalog, false, Medium),
    ];
    check(&table, Postgres);
}

// One statement a line is what makes these tables readable.
#[rustfmt::skip]
#[test]
fn sqlite_statements() {
    let whole: &[(&str, LockMode)] = &[("*", AccessExclusive)];
    let table: [Expected<'_>; 48] = [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL)", "CREATE TABLE", whole, Catalog, false, Low),
        ("create table if not exists main.t (id)", "CREATE TABLE", whole, Catalog, false, Low),
        ("CREATE TEMP TABLE t (id)", "CREATE TABLE", &[], Catalog, false, Low),
        ("CREATE TABLE t AS SELECT * FROM big", "CREATE TABLE", whole, Scan, false, Low),
        ("CREATE TABLE t (b INTEGER REFERENCES big (id))", "CREATE TABLE", whole, Catalog, false, Medium),
        ("CREATE TABLE t (b INTEGER UNIQUE REFERENCES big (id))", "CREATE TABLE", whole, Catalog, false, Low),
        ("CREATE TABLE t (a, b, FOREIGN KEY (a) REFERENCES big (id), PRIMARY KEY (a, b)) WITHOUT ROWID", "CREATE TABLE", whole, Catalog, false, Low),
        ("CREATE VIRTUAL TABLE f USING fts5(a)", "CREATE VIRTUAL TABLE", whole, Catalog, false, Low),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW", whole, Catalog, false, Low),
        ("CREATE TRIGGER g AFTER INSERT ON big BEGIN DELETE FROM small; END", "CREATE TRIGGER", whole, Catalog, false, Low),
        ("CREATE INDEX i ON big (a)", "CREATE INDEX", whole, Build, false, Medium),
        ("CREATE UNIQUE INDEX IF NOT EXISTS i ON small (a)", "CREATE INDEX", whole, Build, false, Low),
        ("CREATE INDEX i ON stranger (a)", "CREATE INDEX", whole, Build, false, Medium),
        ("CREATE INDEX i ON mid (a) WHERE a IS NOT NULL", "CREATE INDEX", whole, Build, false, Medium),
        ("ALTER TABLE big ADD COLUMN a INTEGER", "ALTER TABLE", whole, Catalog, false, Low),
        ("ALTER TABLE big ADD a TEXT NOT NULL DEFAULT ''", "ALTER TABLE", whole, Catalog, false, Low),
        ("ALTER TABLE big ADD a TEXT NOT NULL", "ALTER TABLE", whole, Catalog, false, High),
        ("ALTER TABLE empty ADD a TEXT NOT NULL", "ALTER TABLE", whole, Catalog, false, Low),
        ("ALTER TABLE big ADD a TEXT UNIQUE", "ALTER TABLE", whole, Catalog, false, High),
        ("ALTER TABLE empty ADD a INTEGER PRIMARY KEY", "ALTER TABLE", whole, Catalog, false, High),
        ("ALTER TABLE big ADD a TEXT DEFAULT CURRENT_TIMESTAMP", "ALTER TABLE", whole, Catalog, false, High),
        ("ALTER TABLE big ADD a TEXT DEFAULT (random())", "ALTER TABLE", whole, Catalog, false, High),
        ("ALTER TABLE small ADD a INTEGER CHECK (a > 0)", "ALTER TABLE", whole, Scan, false, Low),
        ("ALTER TABLE small ADD b INTEGER REFERENCES big", "ALTER TABLE", whole, Catalog, false, Medium),
        ("ALTER TABLE big DROP COLUMN a", "ALTER TABLE", whole, Rewrite, true, High),
        ("ALTER TABLE [small] DROP `a`", "ALTER TABLE", whole, Rewrite, true, High),
        ("ALTER TABLE big RENAME TO huge", "ALTER TABLE", whole, Catalog, false, Medium),
        ("ALTER TABLE big RENAME COLUMN a TO b", "ALTER TABLE", whole, Catalog, false, Medium),
        ("ALTER TABLE big RENAME a TO b", "ALTER TABLE", whole, Catalog, false, Medium),
        ("DROP TABLE small", "DROP TABLE", whole, Catalog, true, High),
        ("DROP TABLE IF EXISTS \"Small\"", "DROP TABLE", whole, Catalog, true, High),
        ("DROP TABLE empty", "DROP TABLE", whole, Catalog, true, Low),
        ("DROP INDEX i", "DROP INDEX", whole, Catalog, false, Low),
        ("DROP VIEW IF EXISTS v", "DROP VIEW", whole, Catalog, false, Low),
        ("INSERT INTO small VALUES (1)", "INSERT", whole, Rows, false, Low),
        ("INSERT OR REPLACE INTO big VALUES (1)", "INSERT", whole, Rows, false, Medium),
        ("REPLACE INTO small VALUES (1)", "INSERT", whole, Rows, false, Low),
        ("UPDATE BIG SET a = 1", "UPDATE", whole, Rows, false, High),
        ("UPDATE OR IGNORE small SET a = 1 WHERE id = 1", "UPDATE", whole, Rows, false, Low),
        ("UPDATE empty SET a = 1", "UPDATE", whole, Rows, false, Low),
        ("DELETE FROM small", "DELETE", whole, Rows, true, High),
        ("DELETE FROM small WHERE a = 1", "DELETE", whole, Rows, true, Medium),
        ("SELECT * FROM big", "SELECT", &[], Rows, false, Low),
        ("VACUUM", "VACUUM", whole, Rewrite, false, High),
        ("PRAGMA writable_schema = ON", "PRAGMA WRITABLE_SCHEMA", &[], Catalog, false, High),
        ("PRAGMA writable_schema(0)", "PRAGMA WRITABLE_SCHEMA", &[], Catalog, false, Low),
        ("PRAGMA main.user_version = 7", "PRAGMA USER_VERSION", whole, Catalog, false, Low),
        ("UPDATE sqlite_schema SET sql = 'x' WHERE name = 't'", "UPDATE", whole, Rows, false, High),
    ];
    check(&table, Sqlite);
}

const REBUILD: &str = "CREATE TABLE new_big (id INTEGER PRIMARY KEY, a TEXT);\n\
    INSERT INTO new_big (id, a) SELECT id, a FROM big;\n\
    DROP TABLE big;\n\
    ALTER TABLE new_big RENAME TO big;";

#[test]
fn a_rebuilt_table_loses_nothing_but_may_take_others_rows_with_it() {
    let found = impacts(REBUILD, Sqlite);
    assert_eq!(
        found.iter().map(|impact| impact.work).collect::<Vec<_>>(),
        [Catalog, Rewrite, Catalog, Catalog]
    );
    assert!(found.iter().all(|impact| !impact.loses_data));
    assert_eq!(rules_of(&found[1]), ["rewrites-table"]);
    assert_eq!(rules_of(&found[2]), ["rebuild-cascades"]);
    assert_eq!(found[2].reasons[0].risk, High);
    assert!(
        found[2].reasons[0].message.contains("child"),
        "{}",
        found[2].reasons[0].message
    );
    assert!(found[3].reasons.is_empty());
    let off = format!("PRAGMA foreign_keys = OFF;\n{REBUILD}");
    assert_eq!(
        rules_in(&off, Sqlite),
        [vec![], vec!["rewrites-table".to_owned()], vec![], vec![]]
    );
    // Nothing refers to this one.
    let small = REBUILD.replace("big", "\"small\"").replace("new_\"small\"", "[new small]");
    assert_eq!(overall(&impacts(&small, Sqlite)), Low);
}

#[test]
fn references_follow_a_table_that_is_renamed_first() {
    let text = "PRAGMA foreign_keys = OFF; ALTER TABLE big RENAME TO old_big; CREATE TABLE big (id INTEGER PRIMARY KEY); \
        INSERT INTO big SELECT id FROM old_big; DROP TABLE old_big;";
    let found = impacts(text, Sqlite);
    assert_eq!(rules_of(&found[3]), ["rebuild-cascades"]);
    assert!(!found[3].loses_data);
}

#[test]
fn a_rebuild_that_leaves_rows_out_loses_them() {
    let text = REBUILD.replace("FROM big;", "FROM big WHERE a IS NOT NULL;");
    let found = impacts(&text, Sqlite);
    assert!(found[2].loses_data);
    assert_eq!(rules_of(&found[2]), ["loses-data", "rebuild-cascades"]);
    // Without the renaming it is no rebuild at all.
    let found = impacts(REBUILD.rsplit_once("ALTER").expect("a renaming").0, Sqlite);
    assert_eq!(rules_of(&found[2]), ["loses-data"]);
}

#[test]
fn what_the_script_made_itself_is_nobody_elses() {
    for engine in [Postgres, Sqlite] {
        let text = "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT id, a FROM small; UPDATE t SET a = 1; \
            CREATE INDEX i ON t (a); DELETE FROM t; ALTER TABLE t ADD b text NOT NULL; ALTER TABLE t DROP COLUMN a; DROP TABLE t";
        let found = impacts(text, engine);
        assert_eq!(overall(&found), Low, "{engine:?}: {:?}", rules_in(text, engine));
        assert!(found.iter().all(|impact| !impact.loses_data));
    }
}

#[test]
fn an_index_may_come_after_the_key_that_needs_it() {
    let with = "CREATE TABLE t (a int REFERENCES small); CREATE INDEX i ON t (a)";
    let partial = "CREATE TABLE t (a int REFERENCES small); CREATE INDEX i ON t (a) WHERE a > 1";
    let second = "CREATE TABLE t (a int REFERENCES small); CREATE INDEX i ON t (b, a)";
    for engine in [Postgres, Sqlite] {
        assert_eq!(overall(&impacts(with, engine)), Low);
        assert_eq!(rules_in(partial, engine)[0], ["unindexed-foreign-key"]);
        assert_eq!(rules_in(second, engine)[0], ["unindexed-foreign-key"]);
    }
    let rebuilt = "CREATE TABLE n (a int REFERENCES big); INSERT INTO n SELECT a FROM small; DROP TABLE small; \
        ALTER TABLE n RENAME TO small; CREATE INDEX i ON small (a)";
    assert_eq!(overall(&impacts(rebuilt, Sqlite)), Low);
}

#[test]
fn locks_are_held_to_the_end_of_the_transaction() {
    let found = rules_in("ALTER TABLE small ADD a int; UPDATE big SET a = 1 WHERE id = 3", Postgres);
    assert_eq!(found[1], ["long-work-under-lock"]);
    let found = rules_in(
        "ALTER TABLE small ADD a int; ALTER TABLE mid ADD a int; ALTER TABLE small ADD b int",
        Postgres,
    );
    assert_eq!(found, [vec![], vec!["several-exclusive-locks".to_owned()], vec![]]);
    // A table that is not there yet blocks nobody.
    assert_eq!(
        overall(&impacts("ALTER TABLE later ADD a int; ALTER TABLE mid ADD a int", Postgres)),
        Low
    );
    let mut apart = script("ALTER TABLE small ADD a int; ALTER TABLE mid ADD a int", Postgres);
    let second = apart.groups[0].statements.pop().expect("two statements");
    apart.groups.push(crate::model::Group {
        atomic: true,
        statements: vec![second],
    });
    assert_eq!(overall(&assess(&apart, Postgres, &known())), Low);
}

#[test]
fn a_new_view_is_locked_against_nobody() {
    let text = "CREATE VIEW v AS SELECT a FROM small; ALTER TABLE small ADD b int";
    assert_eq!(overall(&impacts(text, Postgres)), Low);
    let text = text.replace("CREATE", "CREATE OR REPLACE");
    assert_eq!(rules_in(&text, Postgres)[1], ["several-exclusive-locks"]);
}

#[test]
fn squawk_adds_what_other_clients_notice() {
    for (sql, rule, risk) in [
        ("DROP VIEW v", "ban-drop-view", Medium),
        ("drop function f(int)", "ban-drop-function", Medium),
        ("DROP INDEX i", "require-concurrent-index-deletion", Medium),
        ("TRUNCATE small CASCADE", "ban-truncate-cascade", High),
        ("ALTER VIEW v RENAME TO w", "renaming-object", Medium),
        ("ALTER TABLE small SET SCHEMA old", "ban-set-schema", Medium),
        ("ALTER TABLE small ALTER a DROP NOT NULL", "ban-drop-not-null", Low),
        ("ALTER TABLE small ALTER a DROP DEFAULT", "ban-drop-default", Low),
        ("ALTER TABLE small DROP CONSTRAINT c", "ban-drop-constraint", Low),
    ] {
        let impact = only(sql, Postgres);
        let found = impact.reasons.iter().find(|reason| reason.rule == rule);
        assert_eq!(found.map(|reason| reason.risk), Some(risk), "{sql}: {:?}", rules_of(&impact));
    }
    // Style is nobody's risk, and SQLite is not its business.
    for sql in [
        "CREATE TABLE t (id serial PRIMARY KEY, a char(3), b timestamp)",
        "ALTER TABLE small ADD a varchar(20)",
    ] {
        assert_eq!(rules_of(&only(sql, Postgres)), [""; 0], "{sql}");
    }
    assert_eq!(rules_of(&only("DROP VIEW v", Sqlite)), [""; 0]);
}

#[test]
fn a_validated_check_spares_the_scan_for_not_null() {
    let text = "ALTER TABLE big ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE big VALIDATE CONSTRAINT c; \
        ALTER TABLE big ALTER a SET NOT NULL";
    assert_eq!(impacts(text, Postgres)[2].work, Catalog);
}

#[test]
fn tables_are_named_once_and_as_the_database_reads_them() {
    let text = "ALTER TABLE \"Odd Name\" ADD a int REFERENCES Parent; UPDATE s.\"T\" SET a = 1 FROM other WHERE true; \
        CREATE INDEX ON parent (a); DROP INDEX i";
    assert_eq!(
        tables_of(&script(text, Postgres), Postgres),
        ["\"Odd Name\"", "parent", "s.\"T\"", "other"]
    );
    let text =
        "DELETE FROM [Odd Name] WHERE a IN (SELECT a FROM `b`); DROP TABLE main.c; CREATE TABLE d (a REFERENCES e); VACUUM";
    assert_eq!(
        tables_of(&script(&text.replace("; VACUUM", ""), Sqlite), Sqlite),
        ["Odd Name", "b", "main.c", "d", "e"]
    );
    assert!(tables_of(&script("VACUUM", Sqlite), Sqlite).is_empty());
}

#[test]
fn estimates_follow_the_size() {
    let known = known();
    let of = |text: &str, engine| estimate_ms(&only(text, engine), &known, engine);
    assert_eq!(of("ALTER TABLE big ADD a int", Postgres), Some(5));
    assert_eq!(of("CREATE INDEX i ON big (a)", Postgres), Some(5_005));
    assert_eq!(of("ALTER TABLE big ALTER a TYPE bigint", Postgres), Some(5_005));
    assert_eq!(of("ALTER TABLE big ALTER a SET NOT NULL", Postgres), Some(1_005));
    assert_eq!(of("UPDATE mid SET a = 1", Postgres), Some(505));
    assert_eq!(of("UPDATE mid SET a = 1", Sqlite), Some(171));
    assert_eq!(of("INSERT INTO big VALUES (1)", Postgres), Some(5));
    assert_eq!(of("CREATE INDEX i ON stranger (a)", Postgres), None);
    assert_eq!(of("VACUUM", Sqlite), None);
}

#[test]
fn a_script_without_statements_risks_nothing() {
    for engine in [Postgres, Sqlite] {
        let nothing = script("-- nothing\n", engine);
        assert!(assess(&nothing, engine, &known()).is_empty());
        assert!(tables_of(&nothing, engine).is_empty());
    }
    assert_eq!(overall(&[]), Low);
}

#[test]
fn whatever_is_written_is_read_without_a_panic() {
    let pieces = [
        "ALTER TABLE",
        "big",
        "ADD",
        "(",
        ")",
        ",",
        "DROP",
        "\"",
        "CREATE",
        "INDEX ON",
        "SELECT",
        "FROM",
        "WITH a AS (",
        "CHECK",
        "$$",
        "'",
        "COLUMN",
        "TYPE",
        "REFERENCES",
        ".",
        "ä",
        "PRAGMA",
        "VACUUM",
        "INSERT INTO",
        "DELETE",
        "COPY",
        "UNIQUE",
        "=",
        "U&\"",
        "GENERATED",
    ];
    for engine in [Postgres, Sqlite] {
        for one in pieces {
            for two in pieces {
                for three in pieces {
                    let sql = format!("{one} {two} {three}");
                    let statement = crate::model::Statement { sql, line: 1, column: 1 };
                    let group = crate::model::Group {
                        atomic: true,
                        statements: vec![statement],
                    };
                    let script = Script {
                        file: String::new(),
                        sha256: String::new(),
                        groups: vec![group],
                        foreign_keys_off: false,
                    };
                    assert_eq!(assess(&script, engine, &Known::default()).len(), 1);
                }
            }
        }
    }
}
