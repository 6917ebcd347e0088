//! A control store on either database with a log in it, an engine over it, and an attacker who can write its tables.

use std::{collections::BTreeMap, sync::Arc};

use dbkeep_engine::{
    Engine,
    audit::{Anchor, Digest, Phase, Problem, Record, Subject, Verified},
    engine::{Settings, audit::Checked},
    port::{AuditLog as _, Stored},
    testing::MemoryArchive,
};
use dbkeep_server::store::ControlStore;
use dbkeep_testkit::{Db, fresh_database};
use uuid::Uuid;

/// The two databases.
pub(crate) const DATABASES: [&str; 2] = ["sqlite", "postgres"];

/// A small generator (splitmix64): the same numbers for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(crate) fn one_of<'a, T>(&mut self, choice: &'a [T]) -> &'a T {
        &choice[usize::try_from(self.below(u64::try_from(choice.len()).unwrap())).unwrap()]
    }
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) url: String,
    pub(crate) store: ControlStore,
    pub(crate) db: Db,
}

impl World {
    pub(crate) async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = if database == "postgres" {
            fresh_database("audit").await.unwrap()
        } else {
            format!("sqlite://{}", folder.path().join("control.db").display())
        };
        let store = ControlStore::open(&url).await.unwrap();
        let db = Db::open(&url).await.unwrap();
        Self { folder, url, store, db }
    }

    /// A table of the control store.
    pub(crate) fn table(&self, name: &str) -> String {
        if self.url.starts_with("postgres") {
            format!("dbkeep_control.{name}")
        } else {
            name.to_owned()
        }
    }

    /// SQL of the test's own; tables are written `{records}`, `{seals}`, `{head}` and `{anchors}`.
    pub(crate) fn sql(&self, sql: &str) -> String {
        ["records", "seals", "head", "anchors"]
            .iter()
            .fold(sql.to_owned(), |sql, name| {
                sql.replace(&format!("{{{name}}}"), &self.table(&format!("audit_{name}")))
            })
    }

    pub(crate) async fn execute(&self, sql: &str) -> u64 {
        let sql = self.sql(sql);
        self.db.execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn refused(&self, sql: &str) -> String {
        let sql = self.sql(sql);
        match self.db.execute(&sql).await {
            Ok(rows) => panic!("{sql} changed {rows} rows"),
            Err(error) => format!("{error:#}"),
        }
    }

    pub(crate) async fn number(&self, sql: &str) -> u64 {
        let rows = self.db.fetch_text(&self.sql(sql)).await.unwrap();
        rows[0][0].as_deref().unwrap().parse().unwrap()
    }

    /// The columns of a table of the log.
    pub(crate) async fn columns(&self, name: &str) -> Vec<String> {
        let sql = if self.url.starts_with("postgres") {
            format!(
                "SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'dbkeep_control' AND table_name = '{name}'"
            )
        } else {
            format!("SELECT name FROM pragma_table_info('{name}')")
        };
        let rows = self.db.fetch_text(&sql).await.unwrap();
        rows.into_iter().flatten().flatten().collect()
    }

    /// The rows of a table of the log, in order.
    pub(crate) async fn rows(&self, table: &str) -> Vec<Vec<Option<String>>> {
        self.db
            .fetch_text(&self.sql(&format!("SELECT * FROM {table} ORDER BY 1")))
            .await
            .unwrap()
    }

    /// What somebody does who owns the tables.
    pub(crate) async fn drop_triggers(&self) {
        let triggers = [
            ("records", "audit_records_update"),
            ("records", "audit_records_delete"),
            ("seals", "audit_seals_update"),
            ("seals", "audit_seals_delete"),
            ("head", "audit_head_update"),
            ("head", "audit_head_delete"),
        ];
        for (table, trigger) in triggers {
            if self.url.starts_with("postgres") {
                self.execute(&format!("DROP TRIGGER {trigger} ON {{{table}}}")).await;
            } else {
                self.execute(&format!("DROP TRIGGER {trigger}")).await;
            }
        }
        if self.url.starts_with("postgres") {
            self.execute("DROP TRIGGER audit_anchors_change ON {anchors}").await;
        } else {
            for trigger in [
                "audit_anchors_update",
                "audit_anchors_delete",
                "audit_records_insert",
                "audit_seals_insert",
                "audit_head_insert",
                "audit_anchors_insert",
            ] {
                self.execute(&format!("DROP TRIGGER {trigger}")).await;
            }
        }
    }

    /// An engine without targets over the store.
    pub(crate) fn engine(&self, change: impl FnOnce(&mut Settings)) -> Engine {
        engine_on(&self.store, change)
    }

    /// Every record.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let rows = self.store.audit_range(i64::MIN, i64::MAX, 1_000_000).await.unwrap();
        let records = rows.into_iter().map(|row| match row {
            Stored::Readable(record) => *record,
            Stored::Unreadable { problem, .. } => panic!("{problem}"),
        });
        records.collect()
    }

    /// The head, as somebody keeps it elsewhere.
    pub(crate) async fn anchor(&self) -> Anchor {
        let (number, hash) = self.store.audit_outline().await.unwrap().head.unwrap();
        Anchor {
            number,
            hash,
            at: jiff::Timestamp::now(),
        }
    }
}

pub(crate) fn engine_on(store: &ControlStore, change: impl FnOnce(&mut Settings)) -> Engine {
    let mut settings = Settings::default();
    change(&mut settings);
    Engine::new(
        BTreeMap::new(),
        Arc::new(store.clone()),
        Arc::new(MemoryArchive::default()),
        settings,
    )
}

pub(crate) fn subject(number: u64) -> Subject {
    Subject {
        phase: Phase::ALL[usize::try_from(number % 3).unwrap()],
        principal: format!("ops-{}", number % 5),
        peer: format!("127.0.0.1:{}", 5_000 + number % 100),
        method: ["CleanupService/RunCleanup", "RunService/CancelRun"][usize::try_from(number % 2).unwrap()].to_owned(),
        target: ["app", "depot"][usize::try_from(number / 2 % 2).unwrap()].to_owned(),
        request: Digest([u8::try_from(number % 251).unwrap(); 32]),
        code: "OK".to_owned(),
        detail: format!("run {number}"),
        counts: vec![("rows".to_owned(), number * 7)],
        ..Subject::of(Uuid::now_v7())
    }
}

pub(crate) fn subjects(count: u64) -> Vec<Subject> {
    (1..=count).map(subject).collect()
}

/// What a verification by the engine says.
pub(crate) async fn verify(engine: &Engine, anchors: Vec<Anchor>) -> Result<Verified, Problem> {
    let mut check = engine.check_audit(anchors).await.unwrap();
    loop {
        if let Checked::Done(verdict) = check.next().await.unwrap() {
            return verdict;
        }
    }
}
