//! What SQLite allows a table to be, through plan, run, verification and undo over a real server. Each table is either handled,
//! and then exactly the rows go that are written down beside it, or refused by name, and then nothing has changed.
//!
//! The judge is the oracle's own connection: all tables, value by value with its storage class, before and after.

mod acts;
#[path = "sqlite_tables/judge.rs"]
mod judge;
mod support;

use judge::{
    Expected::{Blocked, Gone, GoneForGood, Unloadable},
    case, check, expired, orphan,
};

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_rowid() {
    check([
        case(
            "orphans by a text key, addressed by two columns",
            "CREATE TABLE owner (code TEXT PRIMARY KEY) WITHOUT ROWID; INSERT INTO owner VALUES ('a'), ('b'); \
             CREATE TABLE item (a INT, b TEXT, owner TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID; \
             INSERT INTO item VALUES (1, 'x', 'a'), (2, 'x', 'z'), (3, 'y', NULL), (4, '', 'A'), (5, 'x', ''), (6, 'w', 'b')",
            orphan("item", &["owner"], "owner", &["code"]),
            Gone(&["2", "4", "5"]),
        ),
        case(
            "expired",
            "CREATE TABLE log (id TEXT, part BLOB, at TEXT, PRIMARY KEY (id, part)) WITHOUT ROWID; \
             INSERT INTO log VALUES ('a', x'00', '2001-01-01'), ('b', x'', '2999-01-01'), ('c', x'ff', '2001-01-01T12:00:00Z'), \
               ('d', 7, '2001-01-01 00:00:00+02:00'), ('e', 'x', NULL), ('f', 1.5, '2001-01-01')",
            expired("log", "at"),
            Gone(&["'a'", "'c'", "'d'", "'f'"]),
        ),
        case(
            "a self reference",
            "CREATE TABLE node (id TEXT PRIMARY KEY, up TEXT) WITHOUT ROWID; \
             INSERT INTO node VALUES ('r', NULL), ('a', 'r'), ('b', 'gone'), ('c', 'b'), ('d', 'd'), ('e', '')",
            orphan("node", &["up"], "node", &["id"]),
            // The child of b is an orphan only once b is gone, which this plan does not count.
            Gone(&["'b'", "'e'"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns() {
    check([
        case(
            "are computed again",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INT, v INT AS (up * 2), s TEXT NOT NULL AS (id || '-' || coalesce(up, '')) STORED UNIQUE, note); \
             INSERT INTO c (id, up, note) VALUES (1, 1, 'x'), (2, 2, x'00'), (3, NULL, 1.5), (4, 5, NULL); CREATE INDEX c_v ON c (v)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["2", "4"]),
        ),
        case(
            "can name the parent",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1), (3); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, doc TEXT, up INTEGER AS (json_extract(doc, '$.up')), st INTEGER AS (up + 1) STORED); \
             INSERT INTO c (id, doc) VALUES (1, '{\"up\":1}'), (2, '{\"up\":2}'), (3, '{}'), (4, '{\"up\":\"3\"}'), (5, '{\"up\":\"x\"}')",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["2", "5"]),
        ),
        case(
            "can be the parent's key",
            "CREATE TABLE p (id INTEGER PRIMARY KEY, doc TEXT, code TEXT AS (lower(doc)) STORED); INSERT INTO p (doc) VALUES ('ABC'), (NULL); \
             CREATE UNIQUE INDEX p_code ON p (code); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, code TEXT); INSERT INTO c VALUES (1, 'abc'), (2, 'ABC'), (3, NULL)",
            orphan("c", &["code"], "p", &["code"]),
            Gone(&["2"]),
        ),
        case(
            "can hold the time",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, doc TEXT, at TEXT AS (json_extract(doc, '$.at')) VIRTUAL); \
             INSERT INTO t (doc) VALUES ('{\"at\":\"2001-01-01\"}'), ('{\"at\":\"2999-01-01\"}'), ('{}'), ('{\"at\":2001}'), (NULL)",
            expired("t", "at"),
            Gone(&["1"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_tables() {
    check([
        case(
            "ANY compares by class",
            "CREATE TABLE p (id ANY PRIMARY KEY) STRICT; INSERT INTO p VALUES (1), ('b'), (x'63'), (2.5); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up ANY) STRICT; \
             INSERT INTO c VALUES (1, 1), (2, '1'), (3, 'b'), (4, x'62'), (5, x'63'), (6, 'c'), (7, 1.0), (8, 2.5), (9, '2.5'), (10, NULL)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["2", "4", "6", "9"]),
        ),
        case(
            "expired, without rowid",
            "CREATE TABLE t (id INT PRIMARY KEY, at TEXT, r REAL, b BLOB, a ANY) STRICT, WITHOUT ROWID; \
             INSERT INTO t VALUES (1, '2001-01-01', 1, x'', '007'), (2, '2999-01-01', 2, NULL, 7), (3, '2001-01-01', 0.1, x'00', 7.0)",
            expired("t", "at"),
            Gone(&["1", "3"]),
        ),
        case(
            "a number for a time needs an encoding",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at INT) STRICT; INSERT INTO t VALUES (1, 1)",
            expired("t", "at"),
            Unloadable("expected encoding"),
        ),
        case(
            "a number for a time with one",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at INT) STRICT; INSERT INTO t VALUES (1, 978307200), (2, 99999999999), (3, NULL), (4, -1), (5, 0)",
            "kind = \"expired\"\ntable = \"t\"\ncolumn = \"at\"\nretention = \"P1000D\"\nencoding = \"unix_seconds\"\n".to_owned(),
            Gone(&["1", "4", "5"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_the_rowid() {
    check([
        case(
            "at both ends",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (0); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER); \
             INSERT INTO c VALUES (-9223372036854775808, 1), (-1, 0), (0, 1), (1, 1), (9223372036854775807, 1)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["-9223372036854775808", "0", "1", "9223372036854775807"]),
        ),
        case(
            "and is its own parent",
            "CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER); INSERT INTO c VALUES (1, NULL), (2, 1), (3, 9), (4, 3), (5, 5)",
            orphan("c", &["up"], "c", &["id"]),
            Gone(&["3"]),
        ),
        case(
            "AUTOINCREMENT does not give a number twice",
            "CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO p VALUES (1); \
             CREATE TABLE c (id INTEGER PRIMARY KEY AUTOINCREMENT, up INT); INSERT INTO c VALUES (1, 1), (5, 2), (9, 3); DELETE FROM p WHERE id > 1",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["5", "9"]),
        ),
        case(
            "INT PRIMARY KEY and INTEGER PRIMARY KEY DESC are none",
            "CREATE TABLE p (id INT PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE c (id INTEGER PRIMARY KEY DESC, up INT); INSERT INTO c VALUES (10, 1), (20, 2), (30, NULL), (40, 2)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["20", "40"]),
        ),
        case(
            "a primary key that allows NULL",
            "CREATE TABLE t (id TEXT PRIMARY KEY, at TEXT); INSERT INTO t VALUES (NULL, '2001-01-01'), (NULL, '2001-01-01'), ('a', '2001-01-01'), (NULL, '2999-01-01')",
            expired("t", "at"),
            Gone(&["'a'", "NULL", "NULL"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_hide_the_rowid() {
    check([
        case(
            "two names are taken",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE c (rowid TEXT PRIMARY KEY, _ROWID_ INT, up INT); INSERT INTO c VALUES ('a', 1, 1), ('b', 1, 2), ('c', 2, 3), ('d', 2, NULL)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["'b'", "'c'"]),
        ),
        case(
            "one of them is the key",
            "CREATE TABLE t (oid INTEGER PRIMARY KEY, rowid TEXT, at TEXT); INSERT INTO t VALUES (7, 'x', '2001-01-01'), (-3, 'x', '2001-01-01'), (8, 'y', '2999-01-01')",
            expired("t", "at"),
            Gone(&["7", "-3"]),
        ),
        case(
            "all names are taken",
            "CREATE TABLE t (rowid TEXT PRIMARY KEY, _rowid_ TEXT, oid TEXT, at TEXT); INSERT INTO t VALUES ('a', 'b', 'c', '2001-01-01')",
            expired("t", "at"),
            Blocked("NO_PRIMARY_KEY"),
        ),
        case(
            "the parent's names are taken",
            "CREATE TABLE p (rowid TEXT, _rowid_ TEXT, oid TEXT); INSERT INTO p VALUES ('1', '2', '3'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up TEXT); INSERT INTO c VALUES (1, '1'), (2, '2'), (3, '3')",
            orphan("c", &["up"], "p", &["oid"]),
            Gone(&["1", "2"]),
        ),
        case(
            "no key at all",
            "CREATE TABLE t (a, at TEXT); INSERT INTO t VALUES (1, '2001-01-01'), (1, '2001-01-01')",
            expired("t", "at"),
            Blocked("NO_PRIMARY_KEY"),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_and_virtual_tables() {
    const PEOPLE: &str = "CREATE TABLE person (id INTEGER PRIMARY KEY, active INT, at TEXT); INSERT INTO person VALUES (1, 1, '2001-01-01'), (2, 0, '2001-01-01'); \
         CREATE VIEW people AS SELECT * FROM person WHERE active; CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER); INSERT INTO c VALUES (1, 1), (2, 2), (3, 3)";
    check([
        case("a view loses no rows", PEOPLE, expired("people", "at"), Blocked("NOT_A_TABLE")),
        case(
            "a view with a trigger neither",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01'); CREATE VIEW v AS SELECT * FROM t; \
             CREATE TRIGGER v_gone INSTEAD OF DELETE ON v BEGIN DELETE FROM t WHERE id = OLD.id; END",
            expired("v", "at"),
            Blocked("NOT_A_TABLE"),
        ),
        case("a view can be a parent", PEOPLE, orphan("c", &["up"], "people", &["id"]), Gone(&["2", "3"])),
        case(
            "a virtual table",
            "CREATE VIRTUAL TABLE words USING fts5(body, at); INSERT INTO words VALUES ('hello', '2001-01-01')",
            expired("words", "at"),
            Blocked("NOT_A_TABLE"),
        ),
        case(
            "the tables behind a virtual one",
            "CREATE VIRTUAL TABLE words USING fts5(body, at); INSERT INTO words VALUES ('hello', '2001-01-01')",
            expired("words_content", "c1"),
            Blocked("NOT_A_TABLE"),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_and_indexes() {
    check([
        case(
            "CHECK, UNIQUE, partial and computed indexes",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INT NOT NULL CHECK (up > 0), code TEXT UNIQUE CHECK (length(code) > 1), n INT DEFAULT 7); \
             CREATE UNIQUE INDEX c_low ON c (lower(code)); CREATE UNIQUE INDEX c_part ON c (up) WHERE n = 1; \
             INSERT INTO c VALUES (1, 1, 'ab', 1), (2, 2, 'cd', 1), (3, 2, NULL, 2), (4, 3, 'EF', NULL), (5, 1, NULL, 3)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["2", "3", "4"]),
        ),
        case(
            "a row that its own table would refuse today",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INT CHECK (n > 0), at TEXT); PRAGMA ignore_check_constraints = ON; \
             INSERT INTO t VALUES (1, -1, '2001-01-01'); PRAGMA ignore_check_constraints = OFF",
            expired("t", "at"),
            GoneForGood(&["1"], "CHECK constraint failed"),
        ),
        case(
            "clauses that would replace or ignore",
            "CREATE TABLE t (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, code TEXT UNIQUE ON CONFLICT IGNORE, at TEXT NOT NULL ON CONFLICT ABORT); \
             INSERT INTO t VALUES (1, 'a', '2001-01-01'), (2, 'b', '2999-01-01'), (3, NULL, '2001-01-01'), (4, NULL, '2001-01-01')",
            expired("t", "at"),
            Gone(&["1", "3", "4"]),
        ),
        case(
            "a trigger before a deletion",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01'); \
             CREATE TRIGGER keep BEFORE DELETE ON t BEGIN SELECT RAISE(IGNORE); END",
            expired("t", "at"),
            Blocked("DELETE_TRIGGER"),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names() {
    check([
        case(
            "reserved words",
            "CREATE TABLE \"table\" (\"order\" INTEGER PRIMARY KEY); INSERT INTO \"table\" VALUES (1); \
             CREATE TABLE \"select\" (\"group\" INTEGER PRIMARY KEY, \"from\" INT, \"where\" TEXT, t INT, p INT, k1 INT); \
             INSERT INTO \"select\" VALUES (1, 1, 'x', 1, 1, 1), (2, 2, 'y', 1, 1, 1), (3, NULL, NULL, 2, 2, 2)",
            orphan("select", &["from"], "table", &["order"]),
            Gone(&["2"]),
        ),
        case(
            "quotes, spaces and other letters",
            "CREATE TABLE \"we\"\"ird [t] 'ä☃\" (\"i \"\"d\" INTEGER PRIMARY KEY, \"a't\" TEXT, \"x]y\" BLOB, \"-- z\" TEXT AS (\"a't\" || '!')); \
             INSERT INTO \"we\"\"ird [t] 'ä☃\" VALUES (1, '2001-01-01', x'00'), (2, '2999-01-01', NULL), (3, '2001-01-01', 'q')",
            expired("we\"ird [t] 'ä☃", "a't"),
            Gone(&["1", "3"]),
        ),
        case(
            "a column with the name of its table, and one with that of an alias",
            "CREATE TABLE p (p INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE t (t INTEGER PRIMARY KEY, p INT, k INT); INSERT INTO t VALUES (1, 1, 5), (2, 7, 5)",
            orphan("t", &["p"], "p", &["p"]),
            Gone(&["2"]),
        ),
        case(
            "a table in another case",
            "CREATE TABLE Mixed (Id INTEGER PRIMARY KEY, At TEXT); INSERT INTO Mixed VALUES (1, '2001-01-01'), (2, '2999-01-01')",
            expired("mIXED", "At"),
            Gone(&["1"]),
        ),
        case(
            "a column in another case",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, At TEXT); INSERT INTO t VALUES (1, '2001-01-01')",
            expired("t", "at"),
            Unloadable("has no column at"),
        ),
        case(
            "a name that SQLite would take for a string",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01')",
            expired("t", "gone"),
            Unloadable("has no column gone"),
        ),
        case(
            "a dot, which a catalog cannot write",
            "CREATE TABLE \"a.b\" (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO \"a.b\" VALUES (1, '2001-01-01')",
            expired("a.b", "at"),
            Unloadable("schema a cannot be reached"),
        ),
        case(
            "main is the schema",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01')",
            expired("main.t", "at"),
            Gone(&["1"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collations() {
    check([
        case(
            "the parent's decides: it does not care",
            "CREATE TABLE p (code TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID; INSERT INTO p VALUES ('Abc'), ('ä'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, code TEXT); \
             INSERT INTO c VALUES (1, 'ABC'), (2, 'abc '), (3, 'Ä'), (4, 'ä'), (5, ''), (6, NULL)",
            orphan("c", &["code"], "p", &["code"]),
            Gone(&["2", "3", "5"]),
        ),
        case(
            "the parent's decides: it cares",
            "CREATE TABLE p (code TEXT PRIMARY KEY); INSERT INTO p VALUES ('Abc'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE); INSERT INTO c VALUES (1, 'Abc'), (2, 'ABC'), (3, 'abc')",
            orphan("c", &["code"], "p", &["code"]),
            Gone(&["2", "3"]),
        ),
        case(
            "blanks at the end",
            "CREATE TABLE p (code TEXT COLLATE RTRIM PRIMARY KEY); INSERT INTO p VALUES ('a '); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, code TEXT); INSERT INTO c VALUES (1, 'a'), (2, 'a   '), (3, ' a'), (4, 'A')",
            orphan("c", &["code"], "p", &["code"]),
            Gone(&["3", "4"]),
        ),
        case(
            "of the key that addresses a row",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE c (code TEXT COLLATE NOCASE, part TEXT COLLATE RTRIM, up INT, PRIMARY KEY (code DESC, part)) WITHOUT ROWID; \
             INSERT INTO c VALUES ('b', 'x', 2), ('B ', 'x', 1), ('a', 'x', 2), ('C', 'x ', 2), ('D', 'y', NULL), ('ab', 'x', 3)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["'b'", "'a'", "'C'", "'ab'"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn affinities() {
    check([
        case(
            "text against integer",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE c (id INTEGER PRIMARY KEY, up TEXT); INSERT INTO c VALUES (1, '1'), (2, '2')",
            orphan("c", &["up"], "p", &["id"]),
            Unloadable("expected types that can be equal"),
        ),
        case(
            "no type against integer",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE c (id INTEGER PRIMARY KEY, up); INSERT INTO c VALUES (1, '1'), (2, 2)",
            orphan("c", &["up"], "p", &["id"]),
            Unloadable("expected types that can be equal"),
        ),
        case(
            "no type at all: '1' is not 1",
            "CREATE TABLE p (id PRIMARY KEY); INSERT INTO p VALUES (1), ('2'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up); INSERT INTO c VALUES (1, 1), (2, '1'), (3, 2), (4, '2'), (5, 1.0), (6, x'31'), (7, NULL)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["2", "3", "6"]),
        ),
        case(
            "integers that are kept as something else",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1), (2); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up BIGINT); \
             INSERT INTO c VALUES (1, '1'), (2, 2.0), (3, 'x'), (4, 2.5), (5, x'31'), (6, ' 1 '), (7, '1e0'), (8, ''), (9, NULL)",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["3", "4", "5", "8"]),
        ),
        case(
            "a fraction against integer",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1), (9007199254740992); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up REAL); INSERT INTO c VALUES (1, 1), (2, 1.5), (3, 9007199254740993), (4, -0.0), (5, NULL)",
            orphan("c", &["up"], "p", &["id"]),
            // 9007199254740993 is no double; the column keeps its neighbour, which is a parent.
            Gone(&["2", "4"]),
        ),
        case(
            "two texts of different length",
            "CREATE TABLE p (id CLOB PRIMARY KEY); INSERT INTO p VALUES (1), ('x'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up VARCHAR(1)); INSERT INTO c VALUES (1, 1), (2, '1'), (3, '1.0'), (4, 'xx'), (5, x'78')",
            orphan("c", &["up"], "p", &["id"]),
            Gone(&["3", "4", "5"]),
        ),
        case(
            "a time column that makes numbers of texts",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME); \
             INSERT INTO t VALUES (1, '2001'), (2, '2001-01-01 10:00'), (3, 2001), (4, 0.5), (5, '2999-01-01'), (6, 'soon'), (7, x'323030312d30312d3031'), (8, NULL)",
            expired("t", "at"),
            Gone(&["2"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn composite_keys() {
    check([
        case(
            "a NULL anywhere names no parent",
            "CREATE TABLE p (a INT, b TEXT, PRIMARY KEY (a, b)); INSERT INTO p VALUES (1, 'x'), (1, 'y'), (2, NULL); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, b TEXT, a INT); \
             INSERT INTO c VALUES (1, 'x', 1), (2, 'x', 2), (3, NULL, 1), (4, 'x', NULL), (5, NULL, NULL), (6, NULL, 2), (7, 'y', 9)",
            orphan("c", &["a", "b"], "p", &["a", "b"]),
            Gone(&["2", "7"]),
        ),
        case(
            "a parent without rows",
            "CREATE TABLE p (a INT, b TEXT, PRIMARY KEY (a, b)); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, a INT, b TEXT); INSERT INTO c VALUES (1, 1, 'x')",
            orphan("c", &["a", "b"], "p", &["a", "b"]),
            Blocked("EMPTY_PARENT"),
        ),
    ])
    .await;
}

/// Orphans of a declared key, which exist because SQLite does not enforce keys unless it is asked to.
const DECLARED: &str = "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
     CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES p (id)); INSERT INTO c VALUES (1, 1), (2, 2), (3, NULL), (4, 4)";

#[tokio::test(flavor = "multi_thread")]
async fn declared_keys() {
    check([
        case(
            "orphans go, and cannot come back without their parents",
            DECLARED,
            orphan("c", &["up"], "p", &["id"]),
            GoneForGood(&["2", "4"], "FOREIGN KEY"),
        ),
        case(
            "the same with a key that is checked at the commit",
            "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO c VALUES (1, 1), (2, 2)",
            orphan("c", &["up"], "p", &["id"]),
            GoneForGood(&["2"], "FOREIGN KEY"),
        ),
        case(
            "rows that nobody names, of a table that others name",
            "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO p VALUES (1, '2999-01-01'), (2, '2001-01-01'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES P); CREATE INDEX c_up ON c (up); INSERT INTO c VALUES (1, 1)",
            expired("p", "at"),
            Gone(&["2"]),
        ),
        case(
            "rows that are named",
            "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO p VALUES (1, '2001-01-01'), (2, '2001-01-01'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES p (id)); CREATE INDEX c_up ON c (up); INSERT INTO c VALUES (1, 1)",
            expired("p", "at"),
            Blocked("RESTRICTED_BY_CHILD"),
        ),
        case(
            "without an index for the key",
            "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO p VALUES (1, '2001-01-01'); \
             CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES p (id)); INSERT INTO c VALUES (1, 1)",
            expired("p", "at"),
            Blocked("CHILD_KEY_UNINDEXED"),
        ),
        case(
            "a chain in one table, children before parents",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER REFERENCES t (id), at TEXT); CREATE INDEX t_up ON t (up); \
             INSERT INTO t VALUES (1, 2, '2001-01-01'), (2, 3, '2001-01-01'), (3, 4, '2001-01-01'), (4, 5, '2001-01-01'), (5, NULL, '2001-01-01'), (6, NULL, '2999-01-01')",
            expired("t", "at"),
            Gone(&["1", "2", "3", "4", "5"]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_what_was_planned_where_rows_name_each_other() {
    check([case(
        "ten orphans, and behind them a child of each",
        "CREATE TABLE node (id INTEGER PRIMARY KEY, up INTEGER); INSERT INTO node VALUES (100, NULL); \
         INSERT INTO node WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT i, 1000 + i FROM n; \
         INSERT INTO node SELECT id + 10, id FROM node WHERE id <= 10",
        orphan("node", &["up"], "node", &["id"]),
        Gone(&["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]),
    )])
    .await;
}
