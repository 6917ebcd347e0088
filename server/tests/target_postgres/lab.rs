//! What the tests stand on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dbkeep_engine::{
    model::{Condition, Row, RowKey, RunId, Selection, TableName, TableSchema, TimeEncoding, Value},
    port::{BatchTransaction, Claim, Restored, RowSink, SinkError, Target, TargetError, TargetErrorClass},
    run::batch::layout,
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// A database of one's own, the adapter on it, and the oracle beside it.
pub(crate) struct Lab {
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) target: Arc<dyn Target>,
}

#[derive(Default)]
pub(crate) struct Collector(pub(crate) Vec<Row>);

impl RowSink for Collector {
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        self.0.push(values.to_vec());
        Ok(())
    }
}

pub(crate) fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Lab {
    pub(crate) async fn open(name: &str, setup: &str) -> Self {
        let url = fresh_database(name).await.unwrap();
        let lab = Self {
            db: Db::open(&url).await.unwrap(),
            target: target::open(&url).unwrap(),
            url,
        };
        lab.execute(setup).await;
        lab
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.db.execute(sql).await.unwrap_or_else(|error| panic!("{error:#}: {sql}"));
    }

    pub(crate) async fn text(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.db
            .fetch_text(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {sql}"))
    }

    pub(crate) async fn one(&self, sql: &str) -> String {
        self.text(sql).await[0][0].clone().unwrap_or_default()
    }

    /// A session of somebody else.
    pub(crate) async fn session(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    pub(crate) async fn schema(&self, table: &str) -> Arc<TableSchema> {
        Arc::new(
            self.target
                .introspect(&TableName::parse(table))
                .await
                .unwrap()
                .expect("the table exists"),
        )
    }

    pub(crate) async fn orphans(&self, child: &str, columns: &[&str], parent: &str, parent_columns: &[&str]) -> Selection {
        let (columns, parent_columns) = (strings(columns), strings(parent_columns));
        let matches = Condition::ParentMissing {
            columns,
            parent: self.schema(parent).await,
            parent_columns,
            unfit: Vec::new(),
        };
        Selection {
            table: self.schema(child).await,
            matches,
            except: Vec::new(),
        }
    }

    /// Rows whose column `at` lies before 2020.
    pub(crate) async fn expired(&self, table: &str) -> Selection {
        self.older(table, "at", "2020-01-01T00:00:00Z", None, None).await
    }

    pub(crate) async fn older(
        &self,
        table: &str,
        column: &str,
        horizon: &str,
        zone: Option<&str>,
        encoding: Option<TimeEncoding>,
    ) -> Selection {
        let (column, horizon, zone) = (column.to_owned(), horizon.parse().unwrap(), zone.map(str::to_owned));
        let matches = Condition::OlderThan {
            column,
            horizon,
            encoding,
            zone,
        };
        Selection {
            table: self.schema(table).await,
            matches,
            except: Vec::new(),
        }
    }

    pub(crate) async fn keys(&self, selection: &Selection) -> Vec<RowKey> {
        self.listed(selection, None, 10_000).await.0
    }

    /// Keys of a pass after a position, and the position after the first window.
    pub(crate) async fn listed(&self, selection: &Selection, after: Option<&str>, limit: u32) -> (Vec<RowKey>, Option<String>) {
        let mut scan = self.target.scan(selection, after, limit).await.unwrap();
        let (mut keys, mut first) = (Vec::new(), None);
        while let Some(window) = scan.next().await.unwrap() {
            first.get_or_insert(window.cursor);
            keys.extend(window.keys);
        }
        (keys, first)
    }

    pub(crate) async fn claim(&self) -> Claim {
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        self.target.claim(claim).await.unwrap();
        claim
    }

    pub(crate) async fn begin(&self, selection: &Selection) -> Box<dyn BatchTransaction> {
        self.target.begin(self.claim().await, &[&selection.table]).await.unwrap()
    }

    pub(crate) async fn delete_all(&self, selection: &Selection) -> Vec<Row> {
        let keys = self.keys(selection).await;
        let mut batch = self.begin(selection).await;
        let mut sink = Collector::default();
        let deleted = batch.delete(selection, &keys, Some(&mut sink)).await.unwrap();
        assert_eq!((deleted, deleted), (keys.len() as u64, sink.0.len() as u64));
        assert_eq!(batch.adopted(selection).await.unwrap(), 0);
        batch.commit().await.unwrap();
        sink.0
    }

    pub(crate) async fn restore(&self, selection: &Selection, rows: Vec<Row>) -> Restored {
        let mut batch = self.target.begin(self.claim().await, &[]).await.unwrap();
        let restored = batch.restore(&layout(&selection.table), rows).await.unwrap();
        batch.commit().await.unwrap();
        restored
    }

    /// Deletes, proves and restores; the table must be as before.
    pub(crate) async fn round_trip(&self, selection: &Selection, table: &str, order: &str) {
        let dump = format!("SELECT t.*, t::text FROM {table} AS t ORDER BY {order}");
        let before = self.text(&dump).await;
        let rows = self.delete_all(selection).await;
        assert_eq!(rows.len(), before.len(), "everything is selected");
        assert_eq!(self.one(&format!("SELECT count(*) FROM {table}")).await, "0");
        let mut scratch = self.target.scratch().await.unwrap();
        assert_eq!(
            scratch.prove(&layout(&selection.table), rows.clone()).await.unwrap(),
            rows.len() as u64
        );
        let restored = self.restore(selection, rows).await;
        assert_eq!(
            (restored.rows, restored.conflicting),
            (before.len() as u64, 0),
            "{:?}",
            restored.conflicts
        );
        let after = self.text(&dump).await;
        for (before, after) in before.iter().zip(&after) {
            for (position, (before, after)) in before.iter().zip(after).enumerate() {
                assert_eq!(before, after, "column {position}");
            }
        }
        assert_eq!(before.len(), after.len());
    }

    /// Returns when a session of that name waits for a lock.
    pub(crate) async fn waiter(&self, application: &str) {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = '{application}'"
        );
        let patience = Instant::now() + Duration::from_secs(30);
        while self.one(&waiting).await == "0" {
            assert!(
                Instant::now() < patience,
                "a session {application:?} should be waiting for a lock"
            );
        }
    }
}

#[track_caller]
pub(crate) fn refused<T>(result: Result<T, TargetError>, class: TargetErrorClass) -> TargetError {
    match result {
        Ok(_) => panic!("expected an error of class {class:?}"),
        Err(error) => {
            assert_eq!(error.class, class, "{error}");
            error
        }
    }
}

pub(crate) async fn run(session: &mut PgConnection, sql: &str) {
    session
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// One parent and three children, of which 2 and 3 are orphans.
pub(crate) const FAMILY: &str = "CREATE TABLE parent (id bigint PRIMARY KEY); INSERT INTO parent VALUES (1); \
     CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint, note text); INSERT INTO child VALUES (1, 1), (2, 2), (3, 3)";
