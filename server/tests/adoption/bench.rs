//! A database with a child to save, and the oracle that judges in plain SQL what became of it.

use std::sync::Arc;

use dbkeep_engine::{
    model::{Condition, Order, RowKey, Selection, TableName},
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

/// Rows that a rule takes are 2 and 3, of cycles 12 and 13. The writer cares for the first of them; the other shows that a batch that may
/// go on does.
pub(crate) const TABLES: &str = "CREATE TABLE parent (id bigint PRIMARY KEY); \
     CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint, at timestamptz, note text); \
     CREATE TABLE original (LIKE child); CREATE TABLE captured (LIKE child); \
     CREATE TABLE removed (id bigint); CREATE TABLE safe (id bigint)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Orphan,
    Expired,
    /// Of `parent`, which `note` names.
    Dangling,
    /// Of one `parent_id`; the newest stays.
    Duplicate,
    /// From `id` to `parent_id`; of two that name each other the later one goes.
    Cycle,
}

impl Rule {
    /// TRUNCATE, so that each row lies where it lay before: the keys of one scan serve every interleaving.
    pub(crate) fn fill(self) -> String {
        let rows = match self {
            Self::Orphan | Self::Expired | Self::Dangling => {
                "(1, 1, '2030-01-01Z', 'parent:1'), (2, 2, '2010-01-01Z', 'parent:2'), (3, 3, '2010-01-01Z', 'parent:3')"
            }
            Self::Duplicate => {
                "(1, 1, '2010-01-01Z', 'alone'), (2, 2, '2010-01-01Z', 'taken'), (3, 3, '2010-01-01Z', 'taken'), \
                 (12, 2, '2020-01-01Z', 'kept'), (13, 3, '2020-01-01Z', 'kept')"
            }
            Self::Cycle => {
                "(1, 100, '2010-01-01Z', 'leads out'), (2, 12, '2010-01-01Z', 'kept'), (3, 13, '2010-01-01Z', 'kept'), \
                 (12, 2, '2010-01-01Z', 'taken'), (13, 3, '2010-01-01Z', 'taken')"
            }
        };
        format!(
            "TRUNCATE child; DELETE FROM parent; DELETE FROM original; DELETE FROM captured; DELETE FROM removed; DELETE FROM safe; \
             INSERT INTO parent VALUES (1); INSERT INTO child VALUES {rows}; INSERT INTO original SELECT * FROM child"
        )
    }

    /// What the oracle says where the row is gone that the writer cares for.
    pub(crate) fn lost(self) -> &'static str {
        if self == Self::Cycle { "lost 12" } else { "lost 2" }
    }

    /// Rows that the rule has no business with.
    fn safe(self) -> &'static str {
        match self {
            Self::Orphan => "SELECT c.id FROM child AS c JOIN parent AS p ON p.id = c.parent_id",
            Self::Expired => "SELECT c.id FROM child AS c WHERE c.at >= '2020-01-01Z'",
            Self::Dangling => "SELECT c.id FROM child AS c JOIN parent AS p ON 'parent:' || p.id = c.note",
            Self::Duplicate => {
                "SELECT c.id FROM child AS c WHERE NOT EXISTS (SELECT FROM child AS o WHERE o.parent_id = c.parent_id AND o.at > c.at)"
            }
            Self::Cycle => {
                "SELECT c.id FROM child AS c WHERE NOT EXISTS (SELECT FROM child AS o WHERE o.id = c.parent_id AND o.parent_id = c.id)"
            }
        }
    }

    /// Condition on `child` of what must not be left when all is over.
    pub(crate) fn left(self) -> &'static str {
        match self {
            Self::Orphan => "parent_id NOT IN (SELECT id FROM parent)",
            Self::Expired => "at < '2020-01-01Z'",
            Self::Dangling => "note NOT IN (SELECT 'parent:' || id FROM parent)",
            Self::Duplicate => "EXISTS (SELECT FROM child AS o WHERE o.parent_id = child.parent_id AND o.at > child.at)",
            Self::Cycle => "EXISTS (SELECT FROM child AS o WHERE o.id = child.parent_id AND o.parent_id = child.id)",
        }
    }
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
            Rule::Dangling => Condition::KeyDangling {
                column: "note".to_owned(),
                json_path: None,
                prefix: "parent:".to_owned(),
                suffix: String::new(),
                parent: schema("parent").await,
                parent_column: "id".to_owned(),
                unfit: Vec::new(),
            },
            Rule::Duplicate => Condition::Duplicate {
                table: schema("child").await,
                columns: vec!["parent_id".to_owned()],
                order: vec![Order {
                    column: "at".to_owned(),
                    newest_first: true,
                }],
                among: Vec::new(),
            },
            Rule::Cycle => Condition::Cycle {
                from: vec!["id".to_owned()],
                to: vec!["parent_id".to_owned()],
                among: Vec::new(),
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
        self.db.execute(&format!("INSERT INTO safe {}", rule.safe())).await.unwrap();
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
