//! A database with a child to save, and the oracle that judges in plain SQL what became of it.

use std::sync::Arc;

use dbkeep_engine::{
    model::{Condition, RowKey, Selection, TableName},
    port::Target,
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};

pub(crate) async fn run(session: &mut PgConnection, sql: &str) {
    session
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// Rows that a rule takes are 2 and 3. The writer cares for 2; 3 shows that a batch that may go on does.
pub(crate) const TABLES: &str = "CREATE TABLE parent (id bigint PRIMARY KEY); \
     CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint, at timestamptz, note text); \
     CREATE TABLE original (LIKE child); CREATE TABLE captured (LIKE child); \
     CREATE TABLE removed (id bigint); CREATE TABLE safe (id bigint)";

/// TRUNCATE, so that each row lies where it lay before: the keys of one scan serve every interleaving.
pub(crate) const FILL: &str = "TRUNCATE child; DELETE FROM parent; DELETE FROM original; DELETE FROM captured; DELETE FROM removed; DELETE FROM safe; \
     INSERT INTO parent VALUES (1); \
     INSERT INTO child VALUES (1, 1, '2030-01-01Z', 'kept'), (2, 2, '2010-01-01Z', 'taken'), (3, 3, '2010-01-01Z', 'taken'); \
     INSERT INTO original SELECT * FROM child";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Orphan,
    Expired,
}

/// A database, the adapter on it, and the oracle beside it.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) options: PgConnectOptions,
    pub(crate) db: Db,
    pub(crate) target: Arc<dyn Target>,
}

impl Bench {
    pub(crate) async fn open(name: &str) -> Self {
        Self::with(name, TABLES).await
    }

    /// With tables of the caller's.
    pub(crate) async fn with(name: &str, tables: &str) -> Self {
        let url = fresh_database(name).await.unwrap();
        let bench = Self {
            options: url.parse().unwrap(),
            db: Db::open(&url).await.unwrap(),
            target: target::open(&url).unwrap(),
        };
        bench.db.execute(tables).await.unwrap();
        bench
    }

    pub(crate) async fn session(&self, name: &str) -> PgConnection {
        PgConnection::connect_with(&self.options.clone().application_name(name))
            .await
            .unwrap()
    }

    pub(crate) async fn selection(&self, rule: Rule) -> Selection {
        let schema = async |name| {
            let schema = self.target.introspect(&TableName::parse(name)).await.unwrap();
            Arc::new(schema.expect("the table exists"))
        };
        let matches = match rule {
            Rule::Orphan => Condition::ParentMissing {
                columns: vec!["parent_id".to_owned()],
                parent: schema("parent").await,
                parent_columns: vec!["id".to_owned()],
                unfit: Vec::new(),
            },
            Rule::Expired => Condition::OlderThan {
                column: "at".to_owned(),
                horizon: "2020-01-01T00:00:00Z".parse().unwrap(),
                encoding: None,
                zone: None,
            },
        };
        Selection {
            table: schema("child").await,
            matches,
            except: Vec::new(),
        }
    }

    pub(crate) async fn keys(&self, selection: &Selection) -> Vec<RowKey> {
        let mut scan = self.target.scan(selection, None, 100).await.unwrap();
        let mut keys = Vec::new();
        while let Some(window) = scan.next().await.unwrap() {
            keys.extend(window.keys);
        }
        keys
    }

    /// Whether a session of that name waits for another one.
    pub(crate) async fn waits(&self, name: &str) -> bool {
        let sql = format!(
            "SELECT FROM pg_stat_activity AS a, unnest(pg_blocking_pids(a.pid)) AS b, pg_stat_activity AS o WHERE a.application_name = '{name}' \
             AND a.datname = current_database() AND o.pid = b AND o.backend_type = 'client backend'"
        );
        !self.db.fetch_text(&sql).await.unwrap().is_empty()
    }

    /// Notes which rows are safe now, for everybody to see: one of them must not be gone later.
    pub(crate) async fn witness(&self, rule: Rule) {
        let safe = match rule {
            Rule::Orphan => "SELECT c.id FROM child AS c JOIN parent AS p ON p.id = c.parent_id",
            Rule::Expired => "SELECT c.id FROM child AS c WHERE c.at >= '2020-01-01Z'",
        };
        self.db.execute(&format!("INSERT INTO safe {safe}")).await.unwrap();
    }

    /// Everything that must not be, in words.
    pub(crate) async fn wrongs(&self, step: u32, commits: usize) -> Vec<String> {
        let sql = format!(
            "SELECT 'lost ' || id FROM (SELECT id FROM safe EXCEPT SELECT id FROM child EXCEPT SELECT id FROM removed) AS a \
             UNION ALL SELECT 'uncaptured ' || id FROM (SELECT id FROM original EXCEPT SELECT id FROM child EXCEPT SELECT id FROM removed \
                EXCEPT SELECT id FROM captured) AS b \
             UNION ALL SELECT 'captured and there ' || id FROM (SELECT id FROM captured INTERSECT SELECT id FROM child) AS c \
             UNION ALL SELECT 'taken twice ' || id FROM (SELECT id FROM captured INTERSECT SELECT id FROM removed) AS d \
             UNION ALL SELECT 'captured otherwise than it was ' || id FROM (SELECT * FROM captured EXCEPT SELECT * FROM original) AS e \
             UNION ALL SELECT 'captured twice ' || id FROM captured GROUP BY id HAVING count(*) > 1 \
             UNION ALL SELECT 'journal ' || count(*) || ' batches, ' || coalesce(sum(affected), 0) || ' rows' FROM dbkeep.journal WHERE step = {step} \
                HAVING coalesce(sum(affected), 0) <> (SELECT count(*) FROM captured) OR count(*) <> {commits}"
        );
        let rows = self.db.fetch_text(&sql).await.unwrap();
        rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect()
    }
}
