//! Schemas that mean no good: nothing in them, names that break out of quotes, names that every table has, keys that lie.

use std::time::{Duration, Instant};

use dbkeep_engine::{
    catalog::Catalog,
    discover::{DiscoverError, HintKind, Options, discover},
    model::{Condition, RunId, Selection, TableName, Value},
    port::{Claim, TargetErrorClass},
};
use dbkeep_server::target;

use super::{
    lab::{BOTH, Database, Lab, line},
    schemas::{insert, uuid},
};

fn options(min_confidence: f64) -> Options {
    Options {
        min_confidence,
        ..Options::within(Duration::from_secs(60))
    }
}

#[tokio::test]
async fn empty_tables_and_columns_without_values_are_told_with_care() {
    for database in BOTH {
        let lab = Lab::with(
            database,
            "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer, group_id integer, expires_at {instant});
             CREATE TABLE groups (id integer PRIMARY KEY); CREATE TABLE columnless_log (id integer PRIMARY KEY);
             INSERT INTO groups VALUES (1), (2); INSERT INTO posts (id) SELECT 10 + id FROM groups;",
        )
        .await;
        let found = lab.discover().await;
        let lines: Vec<String> = found.proposals.iter().map(line).collect();
        for relation in ["orphan posts.user_id -> users.id", "orphan posts.group_id -> groups.id"] {
            assert!(lines.contains(&relation.to_owned()), "{database:?}: {lines:?}");
        }
        for proposal in &found.proposals {
            assert!(proposal.confidence <= 0.7, "{proposal:?}");
            assert_eq!(proposal.row_count, Some(0), "{proposal:?}");
        }
        let none = Lab::new(database).await.discover().await;
        assert_eq!((none.proposals.len(), none.tables, none.complete), (0, 0, true));
    }
}

#[tokio::test]
async fn a_parent_that_was_emptied_is_no_parent_to_be_sure_of() {
    for database in BOTH {
        let lab = Lab::with(
            database,
            "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer)",
        )
        .await;
        lab.execute(&insert("posts", 50, |n| format!("{n}, {n}"))).await;
        let found = lab.discover().await;
        assert!(found.proposals.iter().all(|proposal| proposal.confidence < 0.4), "{found:?}");
    }
}

#[tokio::test]
async fn columns_that_every_table_has_relate_nothing() {
    for database in BOTH {
        let mut setup = String::new();
        for table in ["alpha", "beta", "gamma"] {
            setup += &format!(
                "CREATE TABLE {table} (id integer PRIMARY KEY, name text, code text, status_id integer, type_id integer, value integer, position integer, version integer, parent text);
                 CREATE UNIQUE INDEX {table}_code ON {table} (code);"
            );
            setup += &insert(table, 60, |n| {
                format!("{n}, 'name {n}', 'C{n}', {}, {}, {n}, {n}, 1, 'x'", 1 + n % 3, 1 + n % 2)
            });
        }
        let found = Lab::with(database, &setup).await.discover().await;
        assert_eq!(
            found.proposals.iter().map(line).collect::<Vec<_>>(),
            Vec::<String>::new(),
            "{database:?}"
        );
    }
}

#[tokio::test]
async fn names_that_break_out_stay_names() {
    for database in BOTH {
        let lab = Lab::with(
            database,
            "CREATE TABLE \"group\" (\"id\" integer PRIMARY KEY, \"select\" text);
             CREATE TABLE \"we\"\"ird 'table'; --\" (\"id\" integer PRIMARY KEY, \"group_id\" integer, \"größe\nid\" integer);
             CREATE TABLE \"dotted.name\" (\"id\" integer PRIMARY KEY, \"group id\" integer);
             CREATE TABLE \"groß\" (\"id\" integer PRIMARY KEY, \"dotted.name_id\" integer, \"from\" text);
             CREATE TABLE \"größe\" (\"id\" integer PRIMARY KEY);",
        )
        .await;
        for (table, columns) in [
            ("group", "'x'"),
            ("we\"\"ird 'table'; --", "1 + id % 40, 1 + id % 30"),
            ("dotted.name", "1 + id % 40"),
        ] {
            lab.execute(&insert(&format!("\"{table}\""), 50, |n| {
                format!("{n}, {}", columns.replace("id", &n.to_string()))
            }))
            .await;
        }
        lab.execute(&insert("\"groß\"", 40, |n| format!("{n}, {n}, 'here'"))).await;
        lab.execute(&insert("\"größe\"", 30, |n| n.to_string())).await;
        // The lab proves of every snippet that the catalog's reader and the planner take it.
        let found = lab.discover().await;
        let lines: Vec<String> = found.proposals.iter().map(line).collect();
        let dotted = if database == Database::Sqlite {
            "main.dotted.name"
        } else {
            "public.dotted.name"
        };
        for expected in [
            "orphan we\"ird 'table'; --.group_id -> group.id".to_owned(),
            "orphan we\"ird 'table'; --.größe\nid -> größe.id".to_owned(),
            format!("orphan {dotted}.group id -> group.id"),
            format!("orphan groß.dotted.name_id -> {dotted}.id"),
        ] {
            assert!(lines.contains(&expected), "{database:?}: {expected}: {lines:#?}");
        }
    }
}

#[tokio::test]
async fn two_parents_that_are_equally_likely_are_told_and_not_guessed() {
    for database in BOTH {
        let mut setup = "CREATE TABLE cart_items (id integer PRIMARY KEY); CREATE TABLE wish_items (id integer PRIMARY KEY);
                         CREATE TABLE notes (id integer PRIMARY KEY, item_id integer);"
            .to_owned();
        for table in ["cart_items", "wish_items"] {
            setup += &insert(table, 50, |n| n.to_string());
        }
        setup += &insert("notes", 60, |n| format!("{n}, {}", 1 + n % 50));
        let found = Lab::with(database, &setup).await.discover().await;
        assert_eq!(found.proposals.len(), 0, "{:?}", found.proposals);
        let [hint] = found.hints.as_slice() else {
            panic!("{:?}", found.hints)
        };
        assert_eq!(
            (hint.kind, hint.columns.as_slice()),
            (HintKind::Ambiguous, &["item_id".to_owned()][..])
        );
        assert_eq!(hint.candidates, ["cart_items(id)", "wish_items(id)"]);
    }
}

#[tokio::test]
async fn zero_that_means_none_is_warned_of() {
    for database in BOTH {
        let mut setup =
            "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer);"
                .to_owned();
        setup += &insert("users", 50, |n| n.to_string());
        setup += &insert("posts", 100, |n| format!("{n}, {}", if n % 4 == 0 { 0 } else { 1 + n % 50 }));
        let found = Lab::with(database, &setup).await.discover().await;
        let [proposal] = found.proposals.as_slice() else {
            panic!("{found:?}")
        };
        assert!(
            proposal.note.contains("\"0\" names no row") && proposal.confidence < 0.9,
            "{proposal:?}"
        );
        assert_eq!(proposal.row_count, Some(25));
    }
}

#[tokio::test]
async fn declared_keys_that_nobody_checked_are_found_with_their_orphans() {
    for (database, declare) in [
        (
            Database::Postgres,
            "CREATE TABLE p (a integer, b text, PRIMARY KEY (a, b)); CREATE TABLE c (id integer PRIMARY KEY, x integer, y text);
             INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO c VALUES (1, 1, 'a'), (2, 2, 'a'), (3, NULL, 'a');
             ALTER TABLE c ADD CONSTRAINT odd FOREIGN KEY (x, y) REFERENCES p (a, b) NOT VALID;",
        ),
        (
            Database::Sqlite,
            "PRAGMA foreign_keys = OFF; CREATE TABLE p (a integer, b text, PRIMARY KEY (a, b));
             CREATE TABLE c (id integer PRIMARY KEY, x integer, y text, FOREIGN KEY (X, Y) REFERENCES P);
             INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO c VALUES (1, 1, 'a'), (2, 2, 'a'), (3, NULL, 'a'); PRAGMA foreign_keys = ON;",
        ),
    ] {
        let found = Lab::with(database, declare).await.discover().await;
        let [proposal] = found.proposals.as_slice() else { panic!("{found:?}") };
        assert_eq!(line(proposal), "orphan c.x+y -> p.a+b");
        assert!((proposal.confidence - 0.97).abs() < 1e-9, "{proposal:?}");
        assert_eq!(proposal.row_count, Some(1));
    }
}

#[tokio::test]
async fn views_and_the_journal_are_nobody_s_tables() {
    for database in BOTH {
        let mut setup =
            "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer);
                         CREATE VIEW user_posts AS SELECT * FROM posts;"
                .to_owned();
        if database == Database::Postgres {
            setup += "CREATE SCHEMA other; CREATE TABLE other.users (id integer PRIMARY KEY); CREATE TABLE other.posts (id integer PRIMARY KEY, user_id integer);";
        } else {
            setup += "CREATE VIRTUAL TABLE posts_text USING fts5 (body);";
        }
        let lab = Lab::with(database, &setup).await;
        let run = RunId::new();
        lab.target.claim(Claim { run, fence: 1 }).await.expect("the journal");
        let tables: Vec<String> = lab
            .target
            .tables()
            .await
            .expect("tables")
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected: &[&str] = match database {
            Database::Postgres => &["other.posts", "other.users", "posts", "users"],
            Database::Sqlite => &["posts", "users"],
        };
        assert_eq!(tables, expected, "{database:?}");
        // The parent of one's own schema is the nearer one.
        let found = lab.discover().await;
        let lines: Vec<String> = found.proposals.iter().map(line).collect();
        assert!(lines.contains(&"orphan posts.user_id -> users.id".to_owned()), "{lines:?}");
        if database == Database::Postgres {
            assert!(
                lines.contains(&"orphan other.posts.user_id -> other.users.id".to_owned()),
                "{lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_for_one_table_gets_that_table() {
    for database in BOTH {
        let mut setup =
            "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer);
                         CREATE TABLE notes (id integer PRIMARY KEY, user_id integer);"
                .to_owned();
        for table in ["posts", "notes"] {
            setup += &insert(table, 30, |n| format!("{n}, {n}"));
        }
        setup += &insert("users", 29, |n| n.to_string());
        let lab = Lab::with(database, &setup).await;
        let only = Options {
            tables: vec![TableName::parse("notes")],
            ..options(0.5)
        };
        let found = lab.discover_with(&only).await;
        assert_eq!(
            found.proposals.iter().map(line).collect::<Vec<_>>(),
            ["orphan notes.user_id -> users.id"]
        );
        assert_eq!(
            lab.discover_with(&Options {
                limit: 1,
                ..options(0.5)
            })
            .await
            .proposals
            .len(),
            1
        );
        assert_eq!(lab.discover_with(&options(0.96)).await.proposals.len(), 0);
        let unknown = Options {
            tables: vec![TableName::parse("nowhere")],
            ..options(0.5)
        };
        let refused = discover(lab.target.as_ref(), &Catalog::default(), &unknown).await;
        assert!(matches!(refused, Err(DiscoverError::UnknownTable(name)) if name.name == "nowhere"));
        // What the catalog has is not proposed as news.
        let catalog = Catalog::parse("mine", &found.proposals[0].toml).expect("a catalog");
        let again = discover(lab.target.as_ref(), &catalog, &only).await.expect("a discovery");
        let operation = &catalog.operations()[0].name;
        assert!(
            again.proposals[0]
                .note
                .contains(&format!("already, in operation {operation}")),
            "{again:?}"
        );
        assert_ne!(&again.proposals[0].operation, operation);
    }
}

#[tokio::test]
async fn two_hundred_tables_are_looked_at_in_time() {
    for database in BOTH {
        let mut setup = String::new();
        for table in 0..200_u64 {
            let parent = (table + 199) % 200;
            setup += &format!(
                "CREATE TABLE thing{table}s (id {{uuid}} PRIMARY KEY, thing{parent}_id {{uuid}}, owner_key {{uuid}}, note text);"
            );
            setup += &insert(&format!("thing{table}s"), 20, |n| {
                format!(
                    "{}, {}, {}, 'note {n}'",
                    uuid(table, n),
                    uuid(parent, n),
                    uuid(100_000 + table, n)
                )
            });
        }
        let lab = Lab::with(database, &setup).await;
        let began = Instant::now();
        let found = lab.discover_with(&options(0.7)).await;
        assert!(found.complete && found.tables == 200, "{:?}", found.warnings);
        assert_eq!(found.proposals.len(), 200, "{database:?}");
        assert!(found.proposals.iter().all(|proposal| proposal.row_count == Some(0)));
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_time_that_is_over_leaves_an_honest_answer() {
    for database in BOTH {
        let lab = Lab::with(
            database,
            "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer)",
        )
        .await;
        let over = Options {
            until: Instant::now(),
            tables: vec![TableName::parse("posts")],
            ..options(0.0)
        };
        let found = lab.discover_with(&over).await;
        assert!(!found.complete && found.proposals.is_empty(), "{found:?}");
        let given_up = options(0.0);
        given_up.given_up.cancel();
        assert!(!lab.discover_with(&given_up).await.complete);
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_by_the_database() {
    for database in BOTH {
        let lab = Lab::with(
            database,
            "CREATE TABLE users (id integer, name text); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer);
             INSERT INTO posts WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) SELECT i, i FROM n;
             INSERT INTO users SELECT id + 100000, 'x' FROM posts;",
        )
        .await;
        let schema = async |name: &str| {
            let found = lab.target.introspect(&TableName::parse(name)).await.expect("a look");
            std::sync::Arc::new(found.expect("a table"))
        };
        let selection = Selection {
            table: schema("posts").await,
            matches: Condition::ParentMissing {
                columns: vec!["user_id".into()],
                parent: schema("users").await,
                parent_columns: vec!["id".into()],
                unfit: Vec::new(),
            },
            except: Vec::new(),
        };
        let hurried = lab.target.bounded(Duration::from_millis(1));
        let error = hurried.survey(&selection, 0).await.expect_err("too slow");
        assert_eq!(error.class, TargetErrorClass::Timeout, "{database:?}: {error}");
        // Others are not hurried, nor is the next statement that is short.
        assert_eq!(lab.target.count_rows(&selection.table, None).await.expect("a count"), 30_000);
        let patient = lab.target.bounded(Duration::from_secs(60));
        assert_eq!(patient.count_rows(&selection.table, Some(5)).await.expect("a count"), 5);
    }
}

#[tokio::test]
async fn a_table_that_may_not_be_read_is_a_gap_and_no_failure() {
    let lab = Lab::with(
        Database::Postgres,
        "CREATE TABLE users (id integer PRIMARY KEY); CREATE TABLE posts (id integer PRIMARY KEY, user_id integer); CREATE TABLE secrets (id integer PRIMARY KEY, user_id integer);",
    )
    .await;
    lab.execute(&insert("users", 30, |n| n.to_string())).await;
    for table in ["posts", "secrets"] {
        lab.execute(&insert(table, 30, |n| format!("{n}, {n}"))).await;
    }
    let role = format!("looker_{}", std::process::id());
    lab.execute(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT SELECT ON users, posts TO {role};"
    ))
    .await;
    let (_, rest) = lab.url.split_once('@').expect("a user in the URL");
    let limited = target::open(&format!("postgres://{role}@{rest}")).expect("a target");
    let found = discover(limited.as_ref(), &Catalog::default(), &options(0.0))
        .await
        .expect("a discovery");
    assert!(
        found.warnings.iter().any(|warning| warning.contains("no values of secrets")),
        "{:?}",
        found.warnings
    );
    let count = |what: &str| {
        let proposal = found.proposals.iter().find(|proposal| line(proposal) == what);
        proposal.map(|proposal| (proposal.row_count, proposal.uncounted.clone()))
    };
    assert_eq!(count("orphan posts.user_id -> users.id"), Some((Some(0), String::new())));
    let (rows, reason) = count("orphan secrets.user_id -> users.id").expect("by its name");
    assert!(rows.is_none() && reason.contains("permission denied"), "{reason}");
    lab.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role};")).await;
}

#[tokio::test]
async fn a_sample_comes_from_all_over_a_large_table() {
    for database in BOTH {
        let lab = Lab::with(
            database,
            "CREATE TABLE big (id integer PRIMARY KEY, filler text);
             INSERT INTO big WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) SELECT i, 'some text to fill the pages of this table with' FROM n;",
        )
        .await;
        let schema = lab
            .target
            .introspect(&TableName::parse("big"))
            .await
            .expect("a look")
            .expect("a table");
        let columns = ["id".to_owned()];
        let sample = lab.target.sample(&schema, &columns, 500).await.expect("a sample");
        assert!(
            !sample.whole && sample.rows.len() > 400 && sample.rows.len() <= 500,
            "{}",
            sample.rows.len()
        );
        let numbers: Vec<i64> = sample
            .rows
            .iter()
            .map(|row| row[0].preview(20).expect("a value").parse().expect("a number"))
            .collect();
        for fifth in 0..5 {
            let range = fifth * 8_000 + 1..=(fifth + 1) * 8_000;
            assert!(
                numbers.iter().any(|number| range.contains(number)),
                "{database:?}: nothing in {range:?}"
            );
        }
        assert_eq!(lab.target.sample(&schema, &columns, 500).await.expect("a sample"), sample);
        let asked: Vec<Vec<Value>> = [numbers[0], 999_999]
            .iter()
            .map(|number| match database {
                Database::Postgres => vec![Value::Text(number.to_string().into_bytes())],
                Database::Sqlite => vec![Value::Integer(*number)],
            })
            .collect();
        assert_eq!(
            lab.target.present(&schema, &columns, &asked).await.expect("an answer"),
            [true, false]
        );
    }
}
