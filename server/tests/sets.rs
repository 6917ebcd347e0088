//! Duplicates and cycles against other sessions on PostgreSQL, corrupt indexes on both databases, and the documented examples against
//! the real server. A test never sleeps: it looks into `pg_stat_activity` until the session that should wait does.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use dbkeep_client::{PlanRequest, RunRequest};
use dbkeep_engine::{
    model::{Condition, Order, RowKey, RunId, Selection, TableName},
    port::{BatchTransaction, Claim, Target, TargetError, TargetErrorClass},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use support::Daemon;

struct Lab {
    url: String,
    db: Db,
    target: Arc<dyn Target>,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn open(url: String, folder: tempfile::TempDir, setup: &str) -> Self {
        let lab = Self {
            db: Db::open(&url).await.unwrap(),
            target: target::open(&url).unwrap(),
            url,
            _folder: folder,
        };
        lab.execute(setup).await;
        lab
    }

    async fn postgres(name: &str, setup: &str) -> Self {
        Self::open(fresh_database(name).await.unwrap(), tempfile::tempdir().unwrap(), setup).await
    }

    async fn sqlite(setup: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        fs::write(&file, []).unwrap();
        Self::open(format!("sqlite://{}", file.display()), folder, setup).await
    }

    async fn execute(&self, sql: &str) {
        self.db.execute(sql).await.unwrap_or_else(|error| panic!("{error:#}: {sql}"));
    }

    async fn ids(&self, sql: &str) -> Vec<String> {
        let rows = self.db.fetch_text(sql).await.unwrap();
        rows.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect()
    }

    async fn session(&self, name: &str) -> PgConnection {
        let mut session = PgConnection::connect(&self.url).await.unwrap();
        run(&mut session, &format!("SET application_name = '{name}'")).await;
        session
    }

    async fn selection(
        &self,
        table: &str,
        matches: impl FnOnce(&Arc<dbkeep_engine::model::TableSchema>) -> Condition,
    ) -> Selection {
        let table = Arc::new(self.target.introspect(&TableName::parse(table)).await.unwrap().unwrap());
        Selection {
            matches: matches(&table),
            table,
            except: Vec::new(),
        }
    }

    async fn duplicates(&self) -> Selection {
        self.selection("entry", |table| Condition::Duplicate {
            table: Arc::clone(table),
            columns: vec!["user_id".to_owned()],
            order: vec![Order {
                column: "at".to_owned(),
                newest_first: true,
            }],
            among: Vec::new(),
        })
        .await
    }

    async fn cycles(&self) -> Selection {
        self.selection("edge", |_| Condition::Cycle {
            from: vec!["a".to_owned()],
            to: vec!["b".to_owned()],
            among: Vec::new(),
        })
        .await
    }

    async fn keys(&self, selection: &Selection) -> Vec<RowKey> {
        let mut scan = self.target.scan(selection, None, 10_000).await.unwrap();
        let mut keys = Vec::new();
        while let Some(window) = scan.next().await.unwrap() {
            keys.extend(window.keys);
        }
        keys
    }

    async fn begin(&self, selection: &Selection) -> Box<dyn BatchTransaction> {
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        self.target.claim(claim).await.unwrap();
        self.target.begin(claim, &[&selection.table]).await.unwrap()
    }

    /// A whole batch on these keys.
    async fn batch(&self, selection: &Selection, keys: &[RowKey]) -> Result<u64, TargetError> {
        let mut batch = self.begin(selection).await;
        match batch.delete(selection, keys, None).await {
            Ok(deleted) => {
                batch.commit().await.unwrap();
                Ok(deleted)
            }
            Err(error) => {
                batch.rollback().await;
                Err(error)
            }
        }
    }

    /// Returns when a session of that name waits for a lock.
    async fn waiter(&self, application: &str) {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = '{application}'"
        );
        let patience = Instant::now() + Duration::from_secs(30);
        while self.ids(&waiting).await[0] == "0" {
            assert!(
                Instant::now() < patience,
                "a session {application:?} should be waiting for a lock"
            );
        }
    }

    /// Runs a batch that has to wait for another session's open change, which then ends like this.
    async fn batch_against(&self, selection: &Selection, change: &str, end: &str) -> Result<u64, TargetError> {
        let keys = self.keys(selection).await;
        assert!(!keys.is_empty());
        let mut writer = self.session("writer").await;
        run(&mut writer, "BEGIN").await;
        run(&mut writer, change).await;
        let batch = self.batch(selection, &keys);
        let meanwhile = async {
            self.waiter("dbkeep").await;
            run(&mut writer, end).await;
        };
        tokio::join!(batch, meanwhile).0
    }
}

async fn run(session: &mut PgConnection, sql: &str) {
    session
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// Entry 3 stays of the three of user 1; user 2 has one only.
const ENTRIES: &str = "CREATE TABLE entry (id bigint PRIMARY KEY, user_id bigint, at bigint); \
     INSERT INTO entry VALUES (1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 1)";
const LEFT: &str = "SELECT id FROM entry ORDER BY id";

/// A ring of three.
const EDGES: &str = "CREATE TABLE edge (a bigint, b bigint, PRIMARY KEY (a, b)); INSERT INTO edge VALUES (1, 2), (2, 3), (3, 1)";

#[tokio::test]
async fn a_keeper_that_is_being_deleted_keeps_its_duplicates() {
    for change in [
        "DELETE FROM entry WHERE id = 3",
        "UPDATE entry SET user_id = 9 WHERE id = 3",
        "UPDATE entry SET at = 0 WHERE id = 3",
    ] {
        let lab = Lab::postgres("keeper_deleted", ENTRIES).await;
        let selection = lab.duplicates().await;
        let error = lab.batch_against(&selection, change, "COMMIT").await.unwrap_err();
        assert_eq!(error.class, TargetErrorClass::Conflict, "{change}: {error}");
        // The batch is tried again with what it had listed, then the next pass lists what is there.
        let keys = lab.keys(&selection).await;
        assert_eq!(lab.batch(&selection, &keys).await.unwrap(), keys.len() as u64);
        let groups = lab
            .ids("SELECT user_id FROM entry GROUP BY user_id HAVING count(*) <> 1")
            .await;
        assert!(groups.is_empty(), "{change}: one row for each key, got {groups:?}");
        assert!(
            lab.ids("SELECT user_id FROM entry WHERE user_id = 1").await.len() == 1,
            "{change}"
        );
    }
}

#[tokio::test]
async fn a_batch_tried_again_with_old_keys_leaves_what_lost_its_keeper() {
    let lab = Lab::postgres("keeper_retried", ENTRIES).await;
    let selection = lab.duplicates().await;
    let keys = lab.keys(&selection).await;
    lab.execute("DELETE FROM entry WHERE id = 3").await;
    assert_eq!(lab.batch(&selection, &keys).await.unwrap(), 0);
    assert_eq!(lab.ids(LEFT).await, ["1", "2", "4"]);
}

#[tokio::test]
async fn a_keeper_whose_deletion_is_taken_back_is_one() {
    let lab = Lab::postgres("keeper_rolled_back", ENTRIES).await;
    let selection = lab.duplicates().await;
    let deleted = lab
        .batch_against(&selection, "DELETE FROM entry WHERE id = 3", "ROLLBACK")
        .await;
    assert_eq!(deleted.unwrap(), 2);
    assert_eq!(lab.ids(LEFT).await, ["3", "4"]);
}

#[tokio::test]
async fn nobody_takes_a_keeper_away_before_the_batch_has_ended() {
    for change in ["DELETE FROM entry WHERE id = 3", "UPDATE entry SET user_id = 9 WHERE id = 3"] {
        let lab = Lab::postgres("keeper_locked", ENTRIES).await;
        let selection = lab.duplicates().await;
        let keys = lab.keys(&selection).await;
        let mut batch = lab.begin(&selection).await;
        assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
        let mut writer = lab.session("writer").await;
        // A session that looks before it leaps: at the end of its wait it sees that no other row of the key is there.
        let guarded = format!("{change} AND EXISTS (SELECT 1 FROM entry AS o WHERE o.user_id = 1 AND o.id < 3)");
        let write = tokio::spawn(async move { run(&mut writer, &guarded).await });
        lab.waiter("writer").await;
        batch.rollback().await;
        write.await.unwrap();
        assert_eq!(
            lab.ids("SELECT id FROM entry WHERE user_id = 1 ORDER BY id").await,
            ["1", "2"],
            "{change}"
        );
    }
}

#[tokio::test]
async fn a_better_row_that_appears_during_the_batch_costs_nothing() {
    let lab = Lab::postgres("better_row", ENTRIES).await;
    let selection = lab.duplicates().await;
    let keys = lab.keys(&selection).await;
    let mut writer = lab.session("writer").await;
    run(&mut writer, "BEGIN; INSERT INTO entry VALUES (5, 1, 5)").await;
    assert_eq!(lab.batch(&selection, &keys).await.unwrap(), 2);
    run(&mut writer, "COMMIT").await;
    assert_eq!(lab.ids(LEFT).await, ["3", "4", "5"]);
}

#[tokio::test]
async fn a_duplicate_that_becomes_the_best_is_kept() {
    let lab = Lab::postgres("becomes_best", ENTRIES).await;
    let selection = lab.duplicates().await;
    let error = lab
        .batch_against(&selection, "UPDATE entry SET at = 9 WHERE id = 1", "COMMIT")
        .await
        .unwrap_err();
    assert_eq!(error.class, TargetErrorClass::Conflict, "{error}");
    let keys = lab.keys(&selection).await;
    assert_eq!(lab.batch(&selection, &keys).await.unwrap(), 2);
    assert_eq!(lab.ids(LEFT).await, ["1", "4"]);
}

#[tokio::test]
async fn an_edge_whose_cycle_is_being_broken_is_kept() {
    for change in ["DELETE FROM edge WHERE a = 1", "UPDATE edge SET b = 7 WHERE a = 2"] {
        let lab = Lab::postgres("edge_deleted", EDGES).await;
        let selection = lab.cycles().await;
        let keys = lab.keys(&selection).await;
        let error = lab.batch_against(&selection, change, "COMMIT").await.unwrap_err();
        assert_eq!(error.class, TargetErrorClass::Conflict, "{change}: {error}");
        assert_eq!(lab.batch(&selection, &keys).await.unwrap(), 0, "{change}");
        assert!(lab.keys(&selection).await.is_empty(), "{change}");
        assert!(lab.ids("SELECT a FROM edge").await.contains(&"3".to_owned()), "{change}");
    }
}

#[tokio::test]
async fn duplicates_are_found_where_postgres_trusts_a_corrupt_unique_index() {
    let lab = Lab::postgres(
        "corrupt_unique",
        "CREATE TABLE entry (id bigint PRIMARY KEY, user_id bigint NOT NULL, at bigint NOT NULL); \
         CREATE UNIQUE INDEX entry_user ON entry (user_id) INCLUDE (at, id); \
         INSERT INTO entry SELECT i, i, 1 FROM generate_series(1, 1000) AS i",
    )
    .await;
    // An index that is not ready is not maintained; what is inserted meanwhile is missing from it for ever.
    lab.execute("UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'entry_user'::regclass")
        .await;
    lab.execute("INSERT INTO entry SELECT 1000 + i, i, 2 FROM generate_series(1, 500) AS i")
        .await;
    lab.execute(
        "UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'entry_user'::regclass; ANALYZE entry",
    )
    .await;
    let selection = lab.duplicates().await;
    assert_eq!(lab.target.survey(&selection, 3).await.unwrap().row_count, 500);
    let keys = lab.keys(&selection).await;
    assert_eq!(lab.batch(&selection, &keys).await.unwrap(), 500);
    lab.execute("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
        .await;
    assert_eq!(lab.ids("SELECT count(*) FROM entry WHERE id <= 500").await, ["0"]);
}

#[tokio::test]
async fn duplicates_are_found_where_sqlite_trusts_a_corrupt_unique_index() {
    let lab = Lab::sqlite(
        "CREATE TABLE entry (id INTEGER PRIMARY KEY, user_id INTEGER, at INTEGER); \
         CREATE TABLE shadow (id INTEGER PRIMARY KEY, user_id INTEGER, at INTEGER); CREATE UNIQUE INDEX entry_user ON shadow (user_id, at); \
         INSERT INTO entry VALUES (1, 1, 1), (2, 1, 1), (3, 1, 0), (4, 2, 1); \
         PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET tbl_name = 'entry', sql = replace(sql, 'shadow', 'entry') WHERE name = 'entry_user'; \
         PRAGMA writable_schema = RESET",
    )
    .await;
    let selection = lab.duplicates().await;
    assert!(
        selection
            .table
            .indexes
            .iter()
            .any(|index| index.unique && index.columns[0] == "user_id")
    );
    assert_eq!(lab.target.survey(&selection, 3).await.unwrap().row_count, 2);
    assert_eq!(lab.keys(&selection).await.len(), 2);
}

/// The catalog of a page in `docs/rules/`.
fn example(page: &str) -> String {
    let toml = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    toml.expect("the page has an example").to_owned()
}

/// Plans and runs the page's operation on both databases; `left` is what the query says after it.
async fn documented(page: &str, operation: &str, setup: &str, query: &str, left: &[&str]) {
    for database in ["postgres", "sqlite"] {
        let lab = match database {
            "postgres" => Lab::postgres("documented", setup).await,
            _ => Lab::sqlite(setup).await,
        };
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.toml");
        fs::write(&catalog, example(page)).unwrap();
        let before = lab.ids(query).await;
        let server = Daemon::start(&folder.path().join("data"), &lab.url, &catalog, "");
        let client = server.client().await;
        let plan = client.cleanup().plan(PlanRequest::new([operation])).await.unwrap();
        let planned: u64 = plan.steps.iter().map(|step| step.row_count).sum();
        let mut events = client
            .cleanup()
            .run(RunRequest::of_plan(&plan).execute().batch_size(2).full_speed())
            .await
            .unwrap();
        while let Some(event) = events.next().await {
            event.unwrap();
        }
        assert_eq!(lab.ids(query).await, left, "{database}");
        assert_eq!(
            usize::try_from(planned).unwrap(),
            before.len() - left.len(),
            "{database}: the plan told it"
        );
    }
}

#[tokio::test]
async fn the_documented_duplicates() {
    let setup = "CREATE TABLE leaderboard_entries (id text PRIMARY KEY, user_id text, category text, score integer, updated_at timestamp); \
         INSERT INTO leaderboard_entries VALUES ('a', 'u1', 'gas', 1, '2026-01-01 00:00:00'), ('b', 'u1', 'gas', 2, '2026-02-01 00:00:00'), \
         ('c', 'u1', 'gas', 3, NULL), ('d', 'u1', 'size', 1, '2026-01-01 00:00:00'), ('e', 'u2', 'gas', 1, '2026-01-01 00:00:00'), \
         ('f', 'u2', 'gas', 9, '2026-01-01 00:00:00'), ('g', NULL, 'gas', 1, NULL), ('h', NULL, 'gas', 1, NULL)";
    let query = "SELECT id FROM leaderboard_entries ORDER BY id";
    let page = include_str!("../../docs/rules/duplicate.md");
    documented(page, "orphaned_leaderboard", setup, query, &["b", "d", "e", "g", "h"]).await;
}

#[tokio::test]
async fn the_documented_cycles() {
    let setup = "CREATE TABLE lesson_prerequisites (lesson_id text NOT NULL, prerequisite_id text NOT NULL, PRIMARY KEY (lesson_id, prerequisite_id)); \
         INSERT INTO lesson_prerequisites VALUES ('a', 'b'), ('b', 'c'), ('c', 'a'), ('c', 'd'), ('d', 'e'), ('f', 'f'), ('g', 'h'), ('h', 'g')";
    let query = "SELECT lesson_id || prerequisite_id FROM lesson_prerequisites ORDER BY 1";
    let page = include_str!("../../docs/rules/cycle.md");
    documented(page, "orphaned_prerequisites", setup, query, &["ab", "bc", "cd", "de", "gh"]).await;
}
