//! Listing: in windows, from where a pass stood, and so that a run that shares the database is not felt.

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
    assert_eq!(said, "5 300 64");
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

/// Children of 1,000 parents of which every seventh is gone, on many pages.
const MANY: &str = "CREATE TABLE parent (id bigint PRIMARY KEY); INSERT INTO parent SELECT n FROM generate_series(1, 1000) AS n WHERE n % 7 <> 0; \
     CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint, note text); \
     INSERT INTO child SELECT n, 1 + n % 1000, repeat('x', 100) FROM generate_series(1, 20000) AS n; ANALYZE parent; ANALYZE child";

/// A lab whose runs share the database.
async fn sharing(name: &str, setup: &str) -> Lab {
    let mut lab = Lab::open(name, setup).await;
    lab.target = lab.target.gentle().expect("a target for runs that share it");
    lab
}

impl Lab {
    /// Sessions of dbkeep's that keep dead rows from being removed.
    async fn snapshots(&self) -> String {
        self.one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dbkeep' AND backend_xmin IS NOT NULL")
            .await
    }
}

#[tokio::test]
async fn a_run_that_shares_the_database_keeps_no_snapshot_while_it_lists() {
    let lab = sharing("no_snapshot", MANY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let expected = lab
        .text(
            "SELECT id::text FROM child AS c WHERE NOT EXISTS (SELECT 1 FROM parent AS p WHERE p.id = c.parent_id) ORDER BY ctid",
        )
        .await;
    let survey = lab.target.survey(&selection, 5).await.unwrap();
    assert_eq!((survey.row_count, survey.samples.len()), (expected.len() as u64, 5));

    let mut scan = lab.target.scan(&selection, None, 100).await.unwrap();
    assert!(scan.may_pass_over(), "it is listed by its pages");
    let first = scan.next().await.unwrap().expect("a window");
    assert_eq!(first.keys.len(), 100);
    assert_eq!(lab.snapshots().await, "0");
    // Read by a cursor, it keeps one: the test would see it.
    lab.execute("ALTER TABLE parent DROP CONSTRAINT parent_pkey")
        .await;
    let mut cursor = lab.target.scan(&selection, None, 100).await.unwrap();
    assert!(!cursor.may_pass_over(), "no index: no parent can be looked up");
    cursor.next().await.unwrap();
    assert_eq!(lab.snapshots().await, "1");
    let by_cursor = lab.keys(&selection).await;
    assert_eq!(by_cursor.len(), expected.len());
    assert_eq!(by_cursor[..100], first.keys, "in the same order");
}

#[tokio::test]
async fn a_listing_by_pages_goes_on_from_any_of_its_windows() {
    let lab = sharing("by_pages", MANY).await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let all = lab.keys(&selection).await;
    let mut scan = lab.target.scan(&selection, None, 97).await.unwrap();
    let mut listed = 0;
    while let Some(window) = scan.next().await.unwrap() {
        assert_eq!(window.keys, all[listed..listed + window.keys.len()]);
        listed += window.keys.len();
        let (rest, _) = lab.listed(&selection, Some(&window.cursor), 1_000).await;
        assert_eq!(rest, all[listed..], "after {}", window.cursor);
    }
    assert_eq!(listed, all.len());
}

/// They would begin to match while the run takes others of their table.
#[tokio::test]
async fn rows_that_are_judged_by_their_own_table_are_listed_in_one_snapshot() {
    let lab = sharing(
        "own_parents",
        "CREATE TABLE node (id bigint PRIMARY KEY, parent_id bigint, note text); \
         INSERT INTO node SELECT n, n + 1, repeat('x', 100) FROM generate_series(1, 20000) AS n; ANALYZE node",
    )
    .await;
    let selection = lab.orphans("node", &["parent_id"], "node", &["id"]).await;
    let mut scan = lab.target.scan(&selection, None, 100).await.unwrap();
    assert!(!scan.may_pass_over());
    let window = scan.next().await.unwrap().expect("a window");
    assert_eq!(window.keys.len(), 1, "the last one alone has no parent");
}

/// Where few rows come into question an index lists them better than a look at every page.
#[tokio::test]
async fn an_index_on_the_selection_is_not_given_up_for_pages() {
    let lab = sharing(
        "few_in_question",
        &format!("{MANY}; CREATE INDEX ON child (id, parent_id); UPDATE child SET parent_id = NULL WHERE id > 10; VACUUM ANALYZE child; \
                  CREATE INDEX ON child (parent_id) WHERE parent_id IS NOT NULL; ANALYZE child"),
    )
    .await;
    let selection = lab.orphans("child", &["parent_id"], "parent", &["id"]).await;
    let scan = lab.target.scan(&selection, None, 100).await.unwrap();
    assert!(!scan.may_pass_over());
}
