use proptest::prelude::*;

use super::*;
use EngineKind::{Postgres, Sqlite};

fn cut(text: &str, engine: EngineKind) -> Vec<String> {
    let statements = split(text, engine, 1).unwrap();
    statements.into_iter().map(|statement| statement.sql).collect()
}

fn places(text: &str, engine: EngineKind) -> Vec<(u32, u32)> {
    let statements = split(text, engine, 1).unwrap();
    statements
        .into_iter()
        .map(|statement| (statement.line, statement.column))
        .collect()
}

fn refused(text: &str, engine: EngineKind) -> (u32, u32, Problem) {
    let error = split(text, engine, 1).unwrap_err();
    (error.line, error.column, error.problem)
}

/// Groups: whether each is atomic, and its statements.
type Grouped = Vec<(bool, Vec<String>)>;

fn grouped(text: &str, engine: EngineKind, transaction: bool) -> Result<Grouped, (u32, Problem)> {
    let (found, _) = groups(split(text, engine, 1).unwrap(), engine, transaction).map_err(|error| (error.line, error.problem))?;
    let lines = found.into_iter().map(|group| {
        let statements = group.statements.into_iter().map(|statement| statement.sql);
        (group.atomic, statements.collect())
    });
    Ok(lines.collect())
}

#[test]
fn comments_and_empty_statements_vanish() {
    assert_eq!(cut("", Postgres), Vec::<String>::new());
    assert_eq!(cut("-- a;b\n/* c; */;;\n ;", Postgres), Vec::<String>::new());
    assert_eq!(cut("-- a\nSELECT 1 -- b\n + 2 -- c\n; -- d", Sqlite), ["SELECT 1 -- b\n + 2"]);
    assert_eq!(cut("SELECT 1", Sqlite), ["SELECT 1"]);
}

#[test]
fn quotes_hide_semicolons() {
    assert_eq!(
        cut("SELECT ';', E'\\';', \";\" ; SELECT $$;$$, $x$;$$;$x$;", Postgres),
        ["SELECT ';', E'\\';', \";\"", "SELECT $$;$$, $x$;$$;$x$"]
    );
    assert_eq!(
        cut("SELECT `;`, [;]; SELECT '\\'; SELECT 2", Sqlite),
        ["SELECT `;`, [;]", "SELECT '\\'", "SELECT 2"]
    );
    assert_eq!(cut("/* a /* ; */ ; */ SELECT 1;", Postgres), ["SELECT 1"]);
    assert_eq!(cut("/* a /* ; */ SELECT 1;", Sqlite), ["SELECT 1"]);
}

#[test]
fn lines_and_columns_are_those_of_the_file() {
    assert_eq!(
        places("\u{feff}SELECT 1;\r\n  -- ä\r\n  SELECT 'ä'; /* ü */ SELECT 2", Postgres),
        [(1, 1), (3, 3), (3, 23)]
    );
    let statements = split("\nSELECT 1", Sqlite, 10).unwrap();
    assert_eq!(statements.first().map(|statement| statement.line), Some(11));
}

#[test]
fn triggers_are_one_statement() {
    let trigger = "CREATE TEMP TRIGGER IF NOT EXISTS a AFTER UPDATE ON t WHEN CASE WHEN NEW.a THEN 1 ELSE 0 END BEGIN\n\
        UPDATE t SET b = CASE a WHEN 1 THEN ';' ELSE 'END' END;\n SELECT NEW.\"end\"; -- END;\n END";
    assert_eq!(cut(&format!("{trigger};\nSELECT 1;"), Sqlite), [trigger, "SELECT 1"]);
    assert_eq!(cut(trigger, Sqlite), [trigger]);
    assert_eq!(cut("CREATE TABLE trigger_log (a); SELECT 1", Sqlite).len(), 2);
    assert_eq!(
        refused(
            "SELECT 1;\n CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT 2;",
            Sqlite
        ),
        (2, 2, Problem::UnterminatedBody)
    );
    // PostgreSQL's triggers have no body.
    assert_eq!(
        cut(
            "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); SELECT 1",
            Postgres
        )
        .len(),
        2
    );
}

#[test]
fn function_bodies_are_one_statement() {
    let body = "CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC\n SELECT CASE WHEN a > 1 THEN 1 END;\n\
        SELECT 2; END";
    assert_eq!(cut(&format!("{body};SELECT 1"), Postgres), [body, "SELECT 1"]);
    assert_eq!(cut("CREATE PROCEDURE p() BEGIN ATOMIC END; SELECT 1", Postgres).len(), 2);
    assert_eq!(
        refused("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;", Postgres),
        (1, 1, Problem::UnterminatedBody)
    );
    assert_eq!(
        cut(
            "CREATE FUNCTION f() RETURNS int AS $f$ BEGIN; END; $f$ LANGUAGE plpgsql; SELECT 1",
            Postgres
        )
        .len(),
        2
    );
    assert_eq!(cut("DO $$ BEGIN NULL; END $$; SELECT 1", Postgres).len(), 2);
}

#[test]
fn rules_keep_their_statements() {
    let rule = "CREATE RULE r AS ON DELETE TO t DO INSTEAD (UPDATE t SET a = (1); SELECT 1;)";
    assert_eq!(cut(&format!("{rule};SELECT 1"), Postgres), [rule, "SELECT 1"]);
}

#[test]
fn commands_of_shells_are_refused() {
    let command = |command: &str| Problem::ShellCommand {
        command: command.to_owned(),
    };
    assert_eq!(
        refused("\\set ON_ERROR_STOP on\nSELECT 1;", Postgres),
        (1, 1, command("\\set"))
    );
    assert_eq!(refused("SELECT 1\n\\gexec", Postgres), (2, 1, command("\\gexec")));
    assert_eq!(refused("SELECT 1;\n  \\i other.sql", Postgres), (2, 3, command("\\i")));
    assert_eq!(refused(".read x.sql\n", Sqlite), (1, 1, command(".read")));
    assert_eq!(cut("SELECT '\\i', t.a FROM t", Postgres).len(), 1);
}

#[test]
fn copy_with_rows_is_refused() {
    assert_eq!(
        refused("SELECT 1;\nCOPY t (a, b) FROM stdin;\n1\t'x\n\\.\n", Postgres),
        (2, 1, Problem::InlineCopy)
    );
    assert_eq!(cut("COPY t FROM '/a;b'; COPY t TO STDOUT", Postgres).len(), 2);
}

#[test]
fn what_never_ends_is_refused_where_it_begins() {
    for (text, engine, line, column, problem) in [
        ("SELECT 1;\nSELECT 'a;\nb", Postgres, 2, 8, Problem::UnterminatedText),
        ("SELECT \"a", Postgres, 1, 8, Problem::UnterminatedName),
        ("SELECT [a", Sqlite, 1, 8, Problem::UnterminatedName),
        ("SELECT `a", Sqlite, 1, 8, Problem::UnterminatedName),
        ("SELECT 1 /* /* */", Postgres, 1, 10, Problem::UnterminatedComment),
        ("SELECT E'a\\'", Postgres, 1, 8, Problem::UnterminatedText),
        (
            "\n$a$ $b$",
            Postgres,
            2,
            1,
            Problem::UnterminatedDollar { tag: "$a$".to_owned() },
        ),
    ] {
        assert_eq!(refused(text, engine), (line, column, problem), "{text}");
    }
}

#[test]
fn a_transaction_around_everything_is_removed() {
    for text in [
        "BEGIN; SELECT 1; SELECT 2; COMMIT;",
        "start transaction; SELECT 1; SELECT 2; end work",
        "SELECT 1; SELECT 2",
    ] {
        assert_eq!(
            grouped(text, Postgres, true),
            Ok(vec![(true, vec!["SELECT 1".to_owned(), "SELECT 2".to_owned()])]),
            "{text}"
        );
    }
    assert_eq!(grouped("BEGIN IMMEDIATE; COMMIT", Sqlite, true), Ok(vec![]));
    assert_eq!(grouped("", Sqlite, true), Ok(vec![]));
}

#[test]
fn transactions_that_do_not_fit_are_refused() {
    for (text, line, problem) in [
        ("SELECT 1;\nBEGIN; SELECT 1; COMMIT", 2, Problem::PartialTransaction),
        ("BEGIN; SELECT 1;\nCOMMIT; BEGIN; COMMIT", 2, Problem::PartialTransaction),
        ("BEGIN; SELECT 1", 1, Problem::PartialTransaction),
        ("SELECT 1;\nROLLBACK", 2, Problem::Rollback),
        ("SELECT 1;\nROLLBACK TO SAVEPOINT a", 2, Problem::Rollback),
        ("ABORT", 1, Problem::Rollback),
    ] {
        assert_eq!(grouped(text, Postgres, true), Err((line, problem)), "{text}");
    }
    for (text, line, problem) in [
        ("SELECT 1;\nBEGIN; SELECT 1", 2, Problem::NoCommit),
        ("SELECT 1;\nCOMMIT", 2, Problem::NoBegin),
        ("BEGIN;\nBEGIN; COMMIT", 2, Problem::NestedBegin),
        (
            "BEGIN;\nVACUUM; COMMIT",
            2,
            Problem::NotBetweenBeginAndCommit { what: "VACUUM" },
        ),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE; COMMIT",
            1,
            Problem::TransactionForm {
                statement: "BEGIN ISOLATION LEVEL SERIALIZABLE".to_owned(),
            },
        ),
        (
            "PREPARE TRANSACTION 'x'",
            1,
            Problem::TransactionForm {
                statement: "PREPARE TRANSACTION 'x'".to_owned(),
            },
        ),
    ] {
        assert_eq!(grouped(text, Postgres, false), Err((line, problem)), "{text}");
    }
}

#[test]
fn statements_that_cannot_be_in_a_transaction_are_alone() {
    for text in [
        "CREATE UNIQUE INDEX CONCURRENTLY a ON t (b)",
        "create index concurrently a on t (b)",
        "DROP INDEX CONCURRENTLY a",
        "REINDEX INDEX CONCURRENTLY a",
        "REINDEX (CONCURRENTLY) TABLE t",
        "REINDEX DATABASE d",
        "VACUUM (FULL) t",
        "CREATE DATABASE d",
        "DROP DATABASE d",
        "CREATE TABLESPACE s LOCATION '/x'",
        "DROP TABLESPACE s",
        "ALTER SYSTEM SET a = 1",
        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
        "DROP SUBSCRIPTION s",
    ] {
        assert_eq!(grouped(text, Postgres, true), Ok(vec![(false, vec![text.to_owned()])]));
        let two = format!("SELECT 1;\n{text}");
        assert!(
            matches!(grouped(&two, Postgres, true), Err((2, Problem::NotInTransaction { .. }))),
            "{text}"
        );
        let apart = vec![(true, vec!["SELECT 1".to_owned()]), (false, vec![text.to_owned()])];
        assert_eq!(grouped(&two, Postgres, false), Ok(apart));
    }
    for text in [
        "VACUUM",
        "PRAGMA journal_mode = WAL",
        "ATTACH 'x' AS y",
        "DETACH y",
        "VACUUM INTO 'x'",
    ] {
        assert_eq!(grouped(text, Sqlite, true), Ok(vec![(false, vec![text.to_owned()])]));
    }
    for text in [
        "CREATE INDEX concurrently_made ON t (b)",
        "ALTER TABLE t DETACH PARTITION p",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "SAVEPOINT a",
        "RELEASE a",
        "PREPARE q AS SELECT 1",
    ] {
        assert_eq!(grouped(text, Postgres, true), Ok(vec![(true, vec![text.to_owned()])]));
    }
}

#[test]
fn without_a_transaction_only_begin_and_commit_make_a_group() {
    assert_eq!(
        grouped(
            "SELECT 1; BEGIN; SELECT 2; SELECT 3; COMMIT; SELECT 4; BEGIN; COMMIT",
            Postgres,
            false
        ),
        Ok(vec![
            (true, vec!["SELECT 1".to_owned()]),
            (true, vec!["SELECT 2".to_owned(), "SELECT 3".to_owned()]),
            (true, vec!["SELECT 4".to_owned()]),
        ])
    );
}

#[test]
fn foreign_keys_are_asked_off_in_any_spelling() {
    for (text, off) in [
        ("PRAGMA foreign_keys = OFF; SELECT 1; PRAGMA foreign_keys = ON", true),
        ("pragma Foreign_Keys=0; SELECT 1", true),
        ("PRAGMA foreign_keys(off); SELECT 1", true),
        ("PRAGMA main.foreign_keys = false; SELECT 1", true),
        (
            "PRAGMA foreign_keys = 'no'; BEGIN; SELECT 1; COMMIT; PRAGMA foreign_keys = 1",
            true,
        ),
        ("PRAGMA foreign_keys = ON; SELECT 1", false),
        ("PRAGMA foreign_keys(yes); SELECT 1", false),
    ] {
        let (found, asked) = groups(split(text, Sqlite, 1).unwrap(), Sqlite, true).unwrap();
        assert_eq!(asked, off, "{text}");
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!(found.first().map(|group| group.statements.len()), Some(1), "{text}");
    }
    let kept = grouped(
        "PRAGMA defer_foreign_keys = ON; PRAGMA legacy_alter_table = ON; PRAGMA foreign_keys",
        Sqlite,
        true,
    );
    assert_eq!(kept.unwrap().first().map(|(_, statements)| statements.len()), Some(3));
}

#[test]
fn a_rebuilt_table_takes_the_place_of_the_old_one_at_once() {
    let sizes = |text: &str| {
        let found = grouped(text, Sqlite, false).unwrap();
        found.iter().map(|(_, statements)| statements.len()).collect::<Vec<_>>()
    };
    let rebuild = "CREATE TABLE n (id); INSERT INTO n SELECT id FROM t; DROP TABLE IF EXISTS main.\"T\"; ALTER TABLE n RENAME TO t; SELECT 1";
    assert_eq!(sizes(rebuild), [1, 1, 1, 1, 1], "foreign keys see to it");
    assert_eq!(sizes(&format!("PRAGMA foreign_keys = OFF; {rebuild}")), [1, 1, 2, 1]);
    // Two of them, one within the other; a column of that name; a table that is only dropped.
    let off = "PRAGMA foreign_keys = OFF; ";
    let two = "DROP TABLE a; DROP TABLE b; ALTER TABLE x RENAME TO a; ALTER TABLE y RENAME TO b";
    assert_eq!(sizes(&format!("{off}{two}")), [4]);
    assert_eq!(
        sizes(&format!("{off}DROP TABLE a; ALTER TABLE x RENAME COLUMN b TO a")),
        [1, 1]
    );
    assert_eq!(sizes(&format!("{off}DROP TABLE a; SELECT 1")), [1, 1]);
    assert_eq!(
        sizes(&format!(
            "{off}BEGIN; DROP TABLE a; ALTER TABLE x RENAME TO a; COMMIT; SELECT 1"
        )),
        [2, 1]
    );
    // Nothing that no transaction holds is put into one.
    assert_eq!(
        sizes(&format!("{off}DROP TABLE a; VACUUM; ALTER TABLE x RENAME TO a")),
        [1, 1, 1]
    );
}

#[test]
fn what_only_looks_ends_in_a_rollback() {
    let statements = split("BEGIN; SELECT 1; ROLLBACK;", Postgres, 1).unwrap();
    assert_eq!(group::without_rollback(statements, Postgres).len(), 1);
}

/// Statements with whatever could hide or fake a semicolon.
fn statement(engine: EngineKind) -> impl Strategy<Value = String> {
    let own: &[&str] = match engine {
        Postgres => &["$$ ; ' $$", "$t$ ; $$ -- \n $t$", "E'\\';'", "/* ; /* ' */ ; */", "a[1]"],
        Sqlite => &["`;`", "[; ']", "/* ; /* ' */", "'\\'"],
    };
    let shared = [
        "'; '' '",
        "\"; \"\" \"",
        "-- ; ' \" $$ \n",
        "/* ; ' \n */",
        "x1",
        "\n",
        "\r\n",
        "(1)",
        "ä",
        "+",
        " ",
    ];
    let pieces: Vec<String> = shared.iter().chain(own).map(|piece| (*piece).to_owned()).collect();
    prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| format!("SELECT {} + 1", pieces.join(" ")))
}

fn given_back(statements: &[String], engine: EngineKind) {
    let mut text = String::from("-- first ; line\n");
    let mut expected = Vec::new();
    for statement in statements {
        text.push_str("\t /* ; */ ");
        let line = u32::try_from(text.matches('\n').count()).unwrap() + 1;
        expected.push((statement.clone(), line, 11));
        text.push_str(statement);
        text.push_str(" -- end;\n;\n");
    }
    let found: Vec<(String, u32, u32)> = split(&text, engine, 1)
        .unwrap()
        .into_iter()
        .map(|statement| (statement.sql, statement.line, statement.column))
        .collect();
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn joined_statements_are_given_back_postgres(statements in prop::collection::vec(statement(Postgres), 0..8)) {
        given_back(&statements, Postgres);
    }

    #[test]
    fn joined_statements_are_given_back_sqlite(statements in prop::collection::vec(statement(Sqlite), 0..8)) {
        given_back(&statements, Sqlite);
    }

    #[test]
    fn any_text_is_cut_or_refused(text in "[-'\"$a/*;\\\\\n\\[\\]`(). ä]{0,60}") {
        for engine in [Postgres, Sqlite] {
            if let Ok(statements) = split(&text, engine, 1) {
                for statement in statements {
                    prop_assert!(!statement.sql.is_empty());
                    prop_assert_eq!(statement.sql.trim(), &statement.sql);
                }
            }
        }
    }
}
