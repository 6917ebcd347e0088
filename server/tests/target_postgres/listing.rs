//! Listing: in windows, from where a pass stood, and with rests where a run shares the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dbkeep_engine::model::{Condition, Literal, Selection, Value};

use crate::lab::Lab;

/// Its windows are whole all the same: one that is not full would say that there are no more rows at once.
#[tokio::test]
async fn a_run_that_shares_the_database_lists_and_takes_rows_in_several_statements() {
    let lab = sharing(
        "several_statements",
        "CREATE TABLE parent (id bigint PRIMARY KEY); INSERT INTO parent VALUES (1); \
         CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint); INSERT INTO child SELECT n, n % 2 FROM generate_series(1, 600) AS n; \
         CREATE TABLE said (rows bigint); \
         CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO said SELECT count(*) FROM gone; RETURN NULL; END $$; \
         CREATE TRIGGER say AFTER DELETE ON child REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION say()",
    )
    .await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let mut scan = lab.target.scan(&selection, None, 200).await.unwrap();
    let mut windows = Vec::new();
    while let Some(window) = scan.next().await.unwrap() {
        windows.push(window.keys.len());
    }
    assert_eq!(windows, [200, 100]);
    assert_eq!(lab.delete_all(&selection).await.len(), 300);
    assert_eq!(lab.one("SELECT count(*) FROM child WHERE parent_id = 0").await, "0");
    let said = lab
        .one("SELECT count(*) || ' ' || sum(rows) || ' ' || max(rows) FROM said")
        .await;
    assert_eq!(said, "10 300 32");
}

#[tokio::test]
async fn a_pass_resumes_wherever_rows_lie() {
    // Few rows expired, and an index that the planner likes: rows in no order, in the order of time, and against it.
    let lab = Lab::open("scattered", "SELECT 1").await;
    for (table, minute) in [("mixed", "i * 7919 % 20000"), ("ascending", "i"), ("descending", "20000 - i")] {
        lab.execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text); INSERT INTO {table} \
             SELECT i, '2019-12-31 17:00+00'::timestamptz + ({minute}) * interval '1 min', repeat('x', 100) FROM generate_series(1, 20000) AS i; \
             CREATE INDEX ON {table} (at); ANALYZE {table}"
        ))
        .await;
        let selection = lab.expired(table).await;
        let count = usize::try_from(lab.target.survey(&selection, 0).await.unwrap().row_count).unwrap();
        let (all, mut cursor) = lab.listed(&selection, None, 97).await;
        assert!(
            count > 400 && all.len() == count,
            "{table}: {count} rows, {} listed",
            all.len()
        );
        let mut seen = all[..97].to_vec();
        while let Some(after) = cursor {
            let (rest, next) = lab.listed(&selection, Some(&after), 97).await;
            assert_eq!(rest.len() + seen.len(), count, "{table}: none is skipped after {after}");
            seen.extend_from_slice(&rest[..rest.len().min(97)]);
            cursor = next;
        }
        seen.sort_by_key(|key| format!("{key:?}"));
        seen.dedup();
        assert_eq!(seen.len(), count, "{table}: none is listed twice");
    }
}

/// A lab whose runs share the database.
async fn sharing(name: &str, setup: &str) -> Lab {
    let mut lab = Lab::open(name, setup).await;
    lab.target = lab.target.gentle().expect("a target for runs that share it");
    lab
}

/// Of a hundred thousand parents every fifth is gone; some children name no parent.
const MANY: &str = "CREATE TABLE parent (id bigint PRIMARY KEY, gone boolean NOT NULL, pair bigint NOT NULL); CREATE INDEX ON parent (pair); \
     INSERT INTO parent SELECT n, n % 7 = 0, n / 2 FROM generate_series(1, 100000) AS n WHERE n % 5 <> 0; \
     CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint); \
     INSERT INTO child SELECT n, nullif(1 + n % 100000, 100000) FROM generate_series(1, 50000) AS n; ANALYZE parent; ANALYZE child";

/// Rests change nothing about what is counted and listed, also where parents have conditions of their own, which is compared with plain SQL.
#[tokio::test]
async fn what_rests_counts_and_lists_the_same() {
    let lab = sharing("rests_the_same", MANY).await;
    let missing = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let is_gone = Condition::OneOf {
        column: "gone".to_owned(),
        values: vec![Literal::Boolean(true)],
    };
    let of_the_gone = Selection {
        matches: Condition::ParentMatches {
            columns: vec!["parent_id".to_owned()],
            parent: lab.schema("parent").await,
            parent_columns: vec!["id".to_owned()],
            matches: Box::new(is_gone.clone()),
        },
        ..missing.clone()
    };
    let without_a_fit_one = Selection {
        matches: Condition::ParentMissing {
            columns: vec!["parent_id".to_owned()],
            parent: lab.schema("parent").await,
            parent_columns: vec!["id".to_owned()],
            unfit: vec![is_gone],
        },
        ..missing.clone()
    };
    // The parents that an earlier step takes, where it is about duplicates: rows that are alike are told apart by their place.
    let repeated = Condition::Duplicate {
        table: lab.schema("parent").await,
        columns: vec!["pair".to_owned()],
        order: Vec::new(),
        among: Vec::new(),
    };
    let without_the_first_of_a_pair = Selection {
        matches: Condition::ParentMissing {
            columns: vec!["parent_id".to_owned()],
            parent: lab.schema("parent").await,
            parent_columns: vec!["id".to_owned()],
            unfit: vec![repeated],
        },
        ..missing.clone()
    };
    let others = Selection {
        except: vec![missing.matches.clone()],
        ..without_a_fit_one.clone()
    };
    let cases = [
        (missing, "NOT EXISTS (SELECT FROM parent p WHERE p.id = c.parent_id)"),
        (
            of_the_gone,
            "EXISTS (SELECT FROM parent p WHERE p.id = c.parent_id AND p.gone)",
        ),
        (
            without_a_fit_one,
            "NOT EXISTS (SELECT FROM parent p WHERE p.id = c.parent_id AND NOT p.gone)",
        ),
        (
            without_the_first_of_a_pair,
            "NOT EXISTS (SELECT FROM parent p WHERE p.id = c.parent_id \
             AND NOT EXISTS (SELECT FROM parent q WHERE q.pair = p.pair AND q.id < p.id))",
        ),
        (others, "EXISTS (SELECT FROM parent p WHERE p.id = c.parent_id AND p.gone)"),
    ];
    for (selection, condition) in cases {
        let expected = lab
            .text(&format!(
                "SELECT id::text FROM child c WHERE parent_id IS NOT NULL AND {condition} ORDER BY ctid"
            ))
            .await;
        let expected: Vec<String> = expected.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
        assert!(expected.len() > 5_000, "{condition}");
        let survey = lab.target.survey_share(&selection, 5, 1).await.unwrap();
        assert_eq!(
            (survey.row_count, survey.samples.len(), survey.table_rows),
            (expected.len() as u64, 5, Some(50_000)),
            "{condition}"
        );
        let keys = lab.keys(&selection).await;
        // A key is the row's place, and then its id.
        let ids: Vec<Value> = keys.into_iter().filter_map(|mut key| key.pop()).collect();
        let expected: Vec<Value> = expected.into_iter().map(|id| Value::Text(id.into_bytes())).collect();
        assert!(ids == expected, "{condition}");
    }
}

/// What is seen from beside: the session that counts, or lists, is at rest before it has given out its first row, while it hashes the parents.
/// One child alone names a parent, so that nothing rests for the children.
#[tokio::test]
async fn a_statement_that_shares_the_database_rests_on_its_way() {
    let lab = sharing("rests_on_its_way", MANY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    lab.execute("ALTER TABLE parent DROP CONSTRAINT parent_pkey; UPDATE child SET parent_id = NULL WHERE id <> 1; ANALYZE child")
        .await;
    let (target, counted) = (Arc::clone(&lab.target), selection.clone());
    let counting = tokio::spawn(async move {
        loop {
            target.survey(&counted, 1).await.unwrap();
        }
    });
    lab.resting("FETCH% dbkeep_survey").await;
    counting.abort();
    let target = Arc::clone(&lab.target);
    let listing = tokio::spawn(async move {
        loop {
            target.scan(&selection, None, 100).await.unwrap().next().await.unwrap();
        }
    });
    lab.resting("FETCH% dbkeep_scan").await;
    listing.abort();
}

impl Lab {
    /// Returns when a statement of dbkeep's like this is at rest.
    async fn resting(&self, statement: &str) {
        let resting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dbkeep' AND wait_event = 'PgSleep' AND query LIKE '{statement}'"
        );
        let patience = Instant::now() + Duration::from_secs(30);
        while self.one(&resting).await == "0" {
            assert!(Instant::now() < patience, "a statement like {statement:?} should rest");
        }
    }
}
