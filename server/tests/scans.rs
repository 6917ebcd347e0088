//! What the scheduler and the lists ask a control store with 10,000 schedules and as many slots: none of it reads them all. On SQLite the
//! statements are taken from the driver's own log and explained; on PostgreSQL the server counts what it has read.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use dbkeep_engine::{
    Engine,
    catalog::Catalog,
    engine::{Settings, TargetEntry},
    model::{
        Caller, CronFields, Misfire, NotifyRules, Overlap, ScheduleId, ScheduleOptions, ScheduleSpec, SlotOutcome, Timing,
        schedule::Work,
    },
    port::{Pulse, Roots, Schedules as _, SlotFilter},
    testing::MemoryArchive,
};
use dbkeep_server::{store::ControlStore, target};
use dbkeep_testkit::{Db, fresh_database};
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// Schedules, and slots that have ended.
const MANY: u32 = 10_000;
/// Those of them that are of the other target.
const OF_OTHER: u32 = 10;
/// Schedules that are due at one instant.
const DUE: usize = 5;
/// Longest wait for the sessions of a store to end; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What tables are named as, and by what they are called in statements.
const TABLES: [&str; 6] = ["schedules", "schedule_slots", "s", "l", "o", "r"];

const CATALOG: &str = r#"
[[operation]]
name = "expired_tokens"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
"#;

/// The statements that the driver says it has carried out.
#[derive(Debug, Clone, Default)]
struct Statements(Arc<Mutex<Vec<String>>>);

impl Statements {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("the statements"))
    }
}

impl<S: Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "sqlx::query" {
            return;
        }
        let mut told = Told::default();
        event.record(&mut told);
        // A short one is its own summary.
        let statement = if told.statement.trim().is_empty() {
            told.summary
        } else {
            told.statement
        };
        self.0.lock().expect("the statements").push(statement.trim().to_owned());
    }
}

#[derive(Default)]
struct Told {
    summary: String,
    statement: String,
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

struct Lab {
    engine: Engine,
    store: ControlStore,
    /// Before the names of the store's tables.
    schema: &'static str,
    url: String,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn on(url: String, schema: &'static str, folder: tempfile::TempDir) -> Self {
        let app = format!("sqlite://{}", folder.path().join("app.db").display());
        Db::open(&format!("{app}?mode=rwc")).await.expect("a database").close().await;
        let store = ControlStore::open(&url).await.expect("a store");
        let entry = TargetEntry {
            target: target::open(&app).expect("a target"),
            catalog: Arc::new(Catalog::parse("catalog.toml", CATALOG).expect("a catalog")),
            roots: Arc::new(Roots::new()),
            migrations: None,
        };
        let targets = BTreeMap::from([("app".to_owned(), entry)]);
        let engine = Engine::new(
            targets,
            Arc::new(store.clone()),
            Arc::new(MemoryArchive::default()),
            Settings::default(),
        );
        Self {
            engine,
            store,
            schema,
            url,
            _folder: folder,
        }
    }

    async fn create(&self, name: &str, expression: &str) -> ScheduleId {
        let spec = ScheduleSpec {
            name: name.to_owned(),
            description: String::new(),
            target: "app".to_owned(),
            work: Work::Operations(vec!["expired_tokens".to_owned()]),
            timing: Timing {
                cron: CronFields::from_expression(expression).expect("five fields"),
                ..Timing::default()
            },
            enabled: true,
            options: ScheduleOptions::default(),
            overlap: Overlap::Skip,
            misfire: Misfire::default(),
            pause_after_failures: 0,
            deadline_seconds: 600,
            notify: NotifyRules::default(),
        };
        let caller = Caller {
            principal: "ann".to_owned(),
            peer: String::new(),
        };
        let made = self.engine.create_schedule(spec, "", &caller).await.expect("a schedule");
        made.schedule.id
    }

    /// Copies of one schedule that is due in years, each with a slot that has ended.
    async fn fill(&self) {
        let model = self.create("model", "0 0 29 2 *").await;
        let (schema, url) = (self.schema, &self.url);
        let db = Db::open(url).await.expect("a connection");
        let far = (Timestamp::now() + SignedDuration::from_hours(20 * 365 * 24)).as_millisecond();
        for first in (0..MANY).step_by(500) {
            let (mut schedules, mut slots) = (String::new(), String::new());
            for number in first..first + 500 {
                let comma = if number == first { "" } else { ", " };
                let id = format!("00000000-0000-7000-8000-{number:012}");
                let target = if number < OF_OTHER { "other" } else { "app" };
                let at = far + i64::from(number) * 60_000;
                write!(schedules, "{comma}('{id}', 'name {number:05}', '{target}', {at})").expect("text");
                let slot = 1_000_000_000_000_i64 + i64::from(number) * 60_000;
                write!(slots, "{comma}('{id}', {slot}, 'succeeded', '', 1, {slot}, {slot}, 0)").expect("text");
            }
            let copied = format!(
                "INSERT INTO {schema}schedules (id, name, target, etag, version, spec, state, next_fire_ms, created_ms, created_by, updated_ms, updated_by) \
                 SELECT v.column1, v.column2, v.column3, 1, 1, s.spec, s.state, v.column4, s.created_ms, s.created_by, s.updated_ms, s.updated_by \
                 FROM (VALUES {schedules}) AS v CROSS JOIN {schema}schedules AS s WHERE s.id = '{model}'"
            );
            assert_eq!(db.execute(&copied).await.expect("schedules"), 500);
            let ended = format!(
                "INSERT INTO {schema}schedule_slots (schedule_id, slot_ms, outcome, reason, slot_count, first_slot_ms, decided_ms, manual) VALUES {slots}"
            );
            assert_eq!(db.execute(&ended).await.expect("slots"), 500);
        }
        // PostgreSQL does that by itself; the file of a server is never analyzed.
        if !schema.is_empty() {
            db.execute("ANALYZE").await.expect("statistics");
        }
        db.close().await;
    }

    /// All that a look asks, with slots in every state, at an instant at which these are due.
    async fn look(&self, due: Timestamp) {
        let (engine, store) = (&self.engine, &self.store);
        let term = Duration::from_secs(15);
        for _ in 0..2 {
            let pulse = store.pulse().await.expect("a pulse");
            engine.tick_at(Pulse { now: due, ..pulse }).await.expect("a look");
        }
        let pending = store.pulse().await.expect("a pulse").pending;
        assert_eq!(usize::try_from(pending).expect("few"), DUE, "what is due was decided");
        let targets = ["app".to_owned()];
        let claimed = store.claim_slot("me", term, &targets, false).await.expect("an answer");
        let claimed = claimed.expect("one of them");
        assert!(store.hold_slot(claimed.claim, term).await.expect("an answer"));
        engine.give_up_slots().await.expect("a look at those that nobody claims");
        store.unclaimed_slots(Duration::ZERO, None, 200).await.expect("slots");
        store.waiting_slots(200).await.expect("slots");
        store.release_waiting().await.expect("slots");
        store.ended_slots(200).await.expect("slots");
        store.overdue_slots(due, 200).await.expect("slots");
        store.open_slots(claimed.claim.schedule).await.expect("slots");
    }

    /// Pages as people turn them.
    async fn lists(&self, of: ScheduleId) {
        let (engine, store) = (&self.engine, &self.store);
        assert_eq!(engine.schedules(None, None, 51).await.expect("a page").len(), 51);
        assert_eq!(
            engine.schedules(None, Some("name 05000"), 51).await.expect("a page").len(),
            51
        );
        let others = engine.schedules(Some("other"), Some("name 00001"), 51).await.expect("a page");
        assert_eq!(others.len(), 8);
        let counted = store.scheduled("other").await.expect("counts").schedules;
        assert_eq!(counted, u64::from(OF_OTHER));
        store.schedule("name 05000").await.expect("an answer").expect("by its name");
        assert_eq!(
            engine.slots(&SlotFilter::default(), None, 51).await.expect("a page").len(),
            51
        );
        let of_one = SlotFilter {
            schedule: Some(of),
            outcomes: vec![SlotOutcome::Pending],
        };
        assert_eq!(engine.slots(&of_one, None, 51).await.expect("a page").len(), 1);
    }
}

/// Schedules that are due at the same instant, and that instant.
async fn due(lab: &Lab) -> (Vec<ScheduleId>, Timestamp) {
    let mut ids = Vec::new();
    for number in 0..DUE {
        ids.push(lab.create(&format!("due {number}"), "*/10 * * * *").await);
    }
    let kept = lab.store.schedule("due 0").await.expect("an answer").expect("a schedule");
    let slot = kept.schedule.state.next_slot.expect("a slot");
    (ids, slot + SignedDuration::from_secs(1))
}

/// The table that a step of a plan reads from one end to the other, in whatever order. An index of open slots holds no others.
fn scanned(detail: &str) -> Option<&str> {
    if ["slots_open", "slots_deadline"].iter().any(|index| detail.contains(index)) {
        return None;
    }
    let table = detail.strip_prefix("SCAN ")?.split_whitespace().next()?;
    TABLES.contains(&table).then_some(table)
}

async fn explained(db: &Db, statements: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut plans = BTreeMap::new();
    for statement in statements {
        let reads = ["SELECT", "UPDATE", "DELETE", "INSERT"]
            .iter()
            .any(|verb| statement.starts_with(verb));
        if !reads || !statement.contains("schedule") {
            continue;
        }
        let rows = db
            .fetch_text(&format!("EXPLAIN QUERY PLAN {statement}"))
            .await
            .expect("a plan");
        let details = rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
        plans.insert(statement.clone(), details);
    }
    plans
}

async fn on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("control.db").display());
    let lab = Lab::on(url.clone(), "", folder).await;
    lab.fill().await;
    let (ids, at) = due(&lab).await;
    let statements = Statements::default();
    tracing_subscriber::registry().with(statements.clone()).init();
    lab.look(at).await;
    let of_looks = statements.take();
    lab.lists(ids[0]).await;
    let of_lists = statements.take();
    lab.store.close().await;
    let db = Db::open(&url).await.expect("a connection");
    let looks = explained(&db, &of_looks).await;
    assert!(looks.len() >= 12, "the statements of a look: {looks:#?}");
    for (statement, plan) in &looks {
        let scanned: Vec<_> = plan.iter().filter_map(|detail| scanned(detail)).collect();
        assert!(scanned.is_empty(), "{statement} reads all of {scanned:?}: {plan:#?}");
    }
    let lists = explained(&db, &of_lists).await;
    assert!(lists.len() >= 6, "the statements of the lists: {lists:#?}");
    for (statement, plan) in &lists {
        for detail in plan {
            // A page is the beginning of an index, or a part of it: nothing is sorted for it.
            let is_page = statement.contains(" LIMIT ") && detail.contains(" USING ");
            assert!(scanned(detail).is_none() || is_page, "{statement}: {plan:#?}");
            assert!(!detail.contains("TEMP B-TREE"), "{statement} sorts: {plan:#?}");
        }
    }
    db.close().await;
}

/// Rows of the tables of schedules and slots that the server has read: one after the other, and through indexes.
async fn read(url: &str) -> (i64, i64) {
    let db = Db::open(url).await.expect("a connection");
    // A session leaves its counts behind when it ends.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                  AND backend_type = 'client backend'";
    let alone = async {
        while db.fetch_text(others).await.expect("sessions")[0][0].as_deref() != Some("0") {
            // The end of a session comes without an event here.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, alone).await.expect("the sessions end");
    let counts = "SELECT sum(seq_tup_read)::text, sum(idx_tup_fetch)::text FROM pg_stat_user_tables \
                  WHERE schemaname = 'dbkeep_control' AND relname IN ('schedules', 'schedule_slots')";
    let rows = db.fetch_text(counts).await.expect("counts");
    let number = |column: usize| {
        let text = rows[0][column].as_deref().expect("a count");
        text.parse().expect("a number")
    };
    let counts = (number(0), number(1));
    db.close().await;
    counts
}

async fn on_postgres() {
    let url = fresh_database("scans").await.expect("a database");
    let folder = tempfile::tempdir().expect("a folder");
    let lab = Lab::on(url.clone(), "dbkeep_control.", folder).await;
    lab.fill().await;
    let (ids, at) = due(&lab).await;
    lab.store.close().await;
    let before = read(&url).await;
    assert!(before.0 + before.1 > 0, "the server counts: making them has read some");
    let lab = Lab::on(url.clone(), "dbkeep_control.", tempfile::tempdir().expect("a folder")).await;
    lab.look(at).await;
    lab.lists(ids[0]).await;
    lab.store.close().await;
    let after = read(&url).await;
    let (one_by_one, by_index) = (after.0 - before.0, after.1 - before.1);
    println!("{one_by_one} rows read one after the other, {by_index} through indexes");
    assert_eq!(one_by_one, 0, "nothing was read from one end to the other");
    assert!(
        by_index > 0 && by_index < i64::from(MANY) / 4,
        "{by_index} rows through indexes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_look_and_no_list_reads_all_schedules_or_slots() {
    on_sqlite().await;
    on_postgres().await;
}
