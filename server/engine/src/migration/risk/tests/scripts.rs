//! Scripts whose statements depend on each other, names, tables to measure, and estimates.

use super::{EngineKind, Impact, Known, LockMode, Risk, Work, assess, known, locks_of, rules_of, script};
use crate::{
    migration::risk::{estimate_ms, overall, tables_of},
    model::Script,
};

const PG: EngineKind = EngineKind::Postgres;
const LITE: EngineKind = EngineKind::Sqlite;

fn postgres(statements: &[&str]) -> Vec<Impact> {
    assess(&script(statements, true), PG, &known())
}

fn sqlite(statements: &[&str]) -> Vec<Impact> {
    assess(&script(statements, true), LITE, &known())
}

#[test]
fn a_table_of_the_same_script_disturbs_nobody() {
    let impacts = postgres(&[
        "CREATE TABLE public.t (id bigint, name text)",
        "INSERT INTO t SELECT id, name FROM big WHERE id < 5",
        "UPDATE T SET name = 'x'",
        "CREATE INDEX ON t (name)",
        "ALTER TABLE t ALTER name SET NOT NULL, ADD COLUMN u uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE t RENAME TO s",
        "ALTER TABLE s RENAME COLUMN name TO title",
        "DROP TABLE s",
    ]);
    let all: Vec<_> = impacts.iter().flat_map(rules_of).collect();
    assert_eq!(all, Vec::<&str>::new());
    assert_eq!(overall(&impacts), Risk::Low);
    assert!(impacts[7].loses_data);
}

#[test]
fn a_quoted_name_is_another_table() {
    let impacts = postgres(&["CREATE TABLE t (a int)", "UPDATE \"T\" SET a = 1"]);
    assert_eq!(rules_of(&impacts[1]), ["update-without-where"]);
}

#[test]
fn an_index_anywhere_in_the_script_serves_a_foreign_key() {
    let late = postgres(&["CREATE TABLE t (a int REFERENCES parent)", "CREATE INDEX ON t (a, b)"]);
    assert!(rules_of(&late[0]).is_empty());
    let partial = postgres(&[
        "CREATE TABLE t (a int REFERENCES parent)",
        "CREATE INDEX ON t (a) WHERE a > 5",
    ]);
    assert_eq!(rules_of(&partial[0]), ["unindexed-foreign-key"]);
    let second = postgres(&["CREATE TABLE t (a int REFERENCES parent)", "CREATE INDEX ON t (b, a)"]);
    assert_eq!(rules_of(&second[0]), ["unindexed-foreign-key"]);
    assert!(second[0].reasons[0].message.contains("a of t"));
}

#[test]
fn foreign_keys_lock_both_sides() {
    let impacts = postgres(&[
        "ALTER TABLE small ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES mid",
        "ALTER TABLE small VALIDATE CONSTRAINT f",
        "DROP TABLE child",
    ]);
    let exclusive = LockMode::ShareRowExclusive;
    assert_eq!(
        locks_of(&impacts[0]),
        [("small".to_owned(), exclusive), ("mid".to_owned(), exclusive)]
    );
    assert_eq!(
        locks_of(&impacts[1]),
        [
            ("small".to_owned(), LockMode::ShareUpdateExclusive),
            ("mid".to_owned(), LockMode::RowShare)
        ]
    );
    assert_eq!(
        locks_of(&impacts[2]),
        [
            ("child".to_owned(), LockMode::AccessExclusive),
            ("parent".to_owned(), LockMode::AccessExclusive)
        ]
    );
}

#[test]
fn the_other_side_of_a_key_is_locked_where_it_is_dropped_or_changed() {
    let impacts = postgres(&[
        "UPDATE child SET note = 'x' WHERE id = 1",
        "UPDATE child SET \"parent_id\" = 2 WHERE id = 1",
        "ALTER TABLE child DROP CONSTRAINT child_parent_id_fkey",
        "ALTER TABLE child DROP CONSTRAINT another",
    ]);
    let parents = impacts.iter().map(|impact| locks_of(impact).get(1).map(|(_, mode)| *mode));
    assert_eq!(
        parents.collect::<Vec<_>>(),
        [None, Some(LockMode::RowShare), Some(LockMode::AccessExclusive), None]
    );
}

#[test]
fn work_under_a_lock_against_everybody_is_seen() {
    let statements = [
        "ALTER TABLE small ADD c int",
        "UPDATE big SET name = 'x' WHERE id > 5",
        "ALTER TABLE mid ADD c int",
    ];
    let impacts = postgres(&statements);
    assert_eq!(rules_of(&impacts[1]), ["long-work-under-lock"]);
    assert_eq!(rules_of(&impacts[2]), ["several-exclusive-locks"]);
    let apart = assess(&script(&statements, false), PG, &known());
    assert!(apart.iter().all(|impact| impact.reasons.is_empty()));
}

#[test]
fn a_check_that_holds_spares_the_scan() {
    let impacts = postgres(&[
        "ALTER TABLE big ADD CONSTRAINT k CHECK (name IS NOT NULL) NOT VALID",
        "ALTER TABLE big VALIDATE CONSTRAINT k",
        "ALTER TABLE big ALTER name SET NOT NULL",
    ]);
    assert_eq!(impacts[2].work, Work::Catalog);
}

#[test]
fn what_fails_in_a_transaction_is_high() {
    for sql in [
        "CREATE INDEX CONCURRENTLY i ON small (a)",
        "VACUUM small",
        "DROP INDEX CONCURRENTLY i",
        "REINDEX TABLE CONCURRENTLY small",
    ] {
        let impacts = postgres(&[sql]);
        assert!(rules_of(&impacts[0]).contains(&"fails-in-transaction"), "{sql}");
    }
}

#[test]
fn the_linter_finds_its_statement() {
    let impacts = postgres(&[
        "SELECT 'ü'",
        "ALTER TABLE small RENAME COLUMN a TO b",
        "TRUNCATE parent CASCADE",
    ]);
    assert_eq!(rules_of(&impacts[0]), Vec::<&str>::new());
    assert_eq!(rules_of(&impacts[1]), ["renaming-column"]);
    assert!(impacts[1].reasons[0].message.starts_with("small: "));
    assert!(rules_of(&impacts[2]).contains(&"ban-truncate-cascade"));
    assert!(
        impacts[2]
            .reasons
            .iter()
            .any(|reason| reason.message.contains("all rows of child"))
    );
}

#[test]
fn nothing_makes_the_readers_panic() {
    let deep = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let texts = [
        "",
        ";",
        "(",
        ")",
        "'",
        "\"",
        "$$",
        "$a$ $a",
        "/*",
        "--",
        "[",
        "`",
        "ALTER",
        "ALTER TABLE",
        "CREATE INDEX ON",
        "WITH",
        "WITH a AS",
        "DELETE",
        "U&'",
        "e'\\",
        deep.as_str(),
    ];
    for engine in [PG, LITE] {
        for text in texts {
            let one = script(&[text], true);
            assert_eq!(assess(&one, engine, &Known::default()).len(), 1, "{text:.20}");
            assert!(tables_of(&one, engine).len() < 2);
        }
    }
}

const REBUILD: [&str; 4] = [
    "CREATE TABLE new_parent (id INTEGER PRIMARY KEY, name TEXT)",
    "INSERT INTO new_parent SELECT * FROM parent",
    "DROP TABLE parent",
    "ALTER TABLE new_parent RENAME TO parent",
];

#[test]
fn a_rebuild_loses_nothing_but_may_cascade() {
    let on = sqlite(&REBUILD);
    assert_eq!(
        (on[1].work, on[2].work, on[2].loses_data),
        (Work::Rewrite, Work::Rewrite, false)
    );
    assert_eq!(rules_of(&on[2]), ["rebuild-cascades"]);
    assert_eq!(on[2].reasons[0].risk, Risk::High);
    assert!(on[2].reasons[0].message.contains("child"));
    let off = assess(
        &Script {
            foreign_keys_off: true,
            ..script(&REBUILD, true)
        },
        LITE,
        &known(),
    );
    assert_eq!(off[2].reasons[0].risk, Risk::Low);
    let childless = assess(&script(&REBUILD, true), LITE, &Known::default());
    assert_eq!(childless[2].reasons[0].risk, Risk::Low);
}

#[test]
fn a_rebuild_that_leaves_something_out_loses_it() {
    let mut partly = REBUILD;
    partly[1] = "INSERT INTO new_parent SELECT * FROM parent WHERE id > 5";
    assert!(sqlite(&partly)[1].loses_data);
    let columns = [
        "CREATE TABLE n (id, name)",
        "INSERT INTO n (id, name) SELECT id, name FROM big",
        "DROP TABLE big",
        "ALTER TABLE n RENAME TO big",
    ];
    let impacts = sqlite(&columns);
    assert!(impacts[1].loses_data);
    assert!(impacts[1].reasons[0].message.contains("price"));
}

#[test]
fn renaming_the_old_table_first_is_a_rebuild_too() {
    let impacts = sqlite(&[
        "ALTER TABLE \"parent\" RENAME TO old",
        "CREATE TABLE Parent (id INTEGER PRIMARY KEY)",
        "INSERT INTO PARENT (id) SELECT id FROM old",
        "DROP TABLE old",
    ]);
    assert!(!impacts[3].loses_data);
    assert_eq!(rules_of(&impacts[3]), ["rebuild-cascades"]);
    assert_eq!(impacts[3].reasons[0].risk, Risk::High);
}

#[test]
fn a_drop_that_is_no_rebuild_loses_the_table() {
    let mut other = REBUILD;
    other[3] = "ALTER TABLE new_parent RENAME TO somebody";
    assert!(sqlite(&other)[2].loses_data);
}

#[test]
fn every_table_is_named_once() {
    let one = script(
        &[
            "UPDATE App.\"Odd\" SET a = (SELECT 1 FROM big b JOIN \"small\" ON true)",
            "ALTER TABLE big ADD FOREIGN KEY (x) REFERENCES parent",
        ],
        true,
    );
    assert_eq!(tables_of(&one, PG), ["app.\"Odd\"", "big", "small", "parent"]);
    let lite = script(&["DELETE FROM [Odd Name]", "VACUUM"], true);
    assert_eq!(tables_of(&lite, LITE), ["Odd Name"]);
}

#[test]
fn estimates_follow_the_size() {
    let estimate = |sql: &str| {
        let impacts = assess(&script(&[sql], true), PG, &known());
        estimate_ms(&impacts[0], &known(), PG)
    };
    assert_eq!(estimate("ALTER TABLE big ADD c int"), Some(5));
    assert_eq!(estimate("ALTER TABLE big ALTER name SET NOT NULL"), Some(1_005));
    assert_eq!(estimate("ALTER TABLE big ALTER id TYPE bigint"), Some(5_005));
    assert_eq!(estimate("CREATE INDEX ON big (id)"), Some(5_005));
    assert_eq!(estimate("UPDATE big SET name = 'x'"), Some(50_005));
    assert_eq!(estimate("CREATE INDEX ON unknown (id)"), None);
}
