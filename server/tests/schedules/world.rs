//! A target, a control store, and any number of servers on them. Slots are made due by writing the store, in SQL of the test's own: cron
//! knows no seconds, and no test waits for a minute.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use dbkeep_proto::v1::{self, run_service_client::RunServiceClient, schedule_service_client::ScheduleServiceClient};
use dbkeep_server::Config;
use dbkeep_testkit::{Db, chunk, fresh_database};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};

use crate::serving::{Serving, catalog};

/// Longest wait for anything; only a failing test takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a test looks for what it waits for. No stream tells of slots, and the servers are other processes: what is waited for is a row.
const LOOK: Duration = Duration::from_millis(25);
/// Expired rows of the target.
pub(crate) const EXPIRED: u64 = 40;

pub(crate) const CATALOG: &str = r#"
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
# Several runs may plan while one of them deletes: the share that would go is then larger than it was.
max_fraction = 1.0

[[operation]]
name = "grave"
category = "EXPIRED_DATA"
severity = "CRITICAL"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"

[[schedule]]
name = "declared"
cron = "0 2 * * *"
operations = ["expired_tokens"]
"#;

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) target: String,
    pub(crate) store: String,
    pub(crate) db: Db,
}

impl World {
    pub(crate) async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("data")).expect("a folder");
        let (target, store) = if database == "postgres" {
            (
                fresh_database("schedules").await.expect("a database"),
                fresh_database("control").await.expect("a database"),
            )
        } else {
            let file = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
            (file("app.db"), file("data/control.db"))
        };
        let open = if database == "postgres" {
            target.clone()
        } else {
            format!("{target}?mode=rwc")
        };
        Self::on(folder, target, store, &open).await
    }

    /// On databases that are there. `open` is the target's URL for this test, which knows no lists of servers.
    pub(crate) async fn on(folder: tempfile::TempDir, target: String, store: String, open: &str) -> Self {
        let db = Db::open(open).await.expect("a connection");
        db.execute("CREATE TABLE tokens (id bigint PRIMARY KEY, expires_at bigint)")
            .await
            .expect("a table");
        let world = Self {
            folder,
            target,
            store,
            db,
        };
        world.fill().await;
        world
    }

    /// Expired rows, and as many that live.
    pub(crate) async fn fill(&self) {
        self.fill_with(EXPIRED).await;
    }

    /// The same, so many of each.
    pub(crate) async fn fill_with(&self, number: u64) {
        let rows = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})");
        self.db.execute("DELETE FROM tokens").await.expect("empty");
        for (first, expires) in [(0, 1_000_u64), (100_000, 9_000_000_000)] {
            self.db
                .execute(&format!("INSERT INTO tokens {rows} SELECT i + {first}, {expires} FROM n"))
                .await
                .expect("rows");
        }
    }

    pub(crate) async fn expired(&self) -> u64 {
        self.db.count_where("tokens", "expires_at < 2000").await.expect("a count")
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.store.starts_with("postgres")
    }

    pub(crate) fn catalog_file(&self) -> PathBuf {
        let path = self.folder.path().join("catalog.toml");
        std::fs::write(&path, CATALOG).expect("a catalog");
        path
    }

    pub(crate) async fn serve(&self, change: impl FnOnce(Config) -> Config) -> Server {
        let data = self.folder.path().join("data");
        let mut config = Config::embedded(data).with_target("app", self.target.as_str(), catalog(CATALOG));
        if self.is_shared() {
            config = config.with_store(self.store.as_str());
        }
        let mut serving = Serving::start(change(config)).await;
        let channel = serving.channel().await;
        let server = Server { channel, serving };
        server
            .schedules()
            .get_scheduler_status(v1::GetSchedulerStatusRequest {})
            .await
            .expect("an answer");
        server
    }

    pub(crate) async fn control(&self) -> Db {
        Db::open(&self.store).await.expect("the control store")
    }

    pub(crate) fn table(&self, name: &str) -> String {
        if self.is_shared() {
            format!("dbkeep_control.{name}")
        } else {
            name.to_owned()
        }
    }

    /// Makes the newest slot of a schedule due now, as if nobody had looked since the begin of this minute, less `back`. Returns that
    /// instant.
    pub(crate) async fn make_due(&self, control: &Db, schedule: &str, back: SignedDuration) -> Timestamp {
        let now = Timestamp::now();
        let slot = Timestamp::from_second(now.as_second() / 60 * 60).expect("a minute") - back;
        let at = slot.as_millisecond();
        self.rewrite(control, schedule, &format!("next_fire_ms = {at}, "), |state| {
            state["next_slot"] = slot.to_string().into();
            state["next_fire"] = slot.to_string().into();
            state["last_slot"] = serde_json::Value::Null;
        })
        .await;
        slot
    }

    /// Lets the consent to a schedule have ended at this instant.
    pub(crate) async fn end_consent(&self, control: &Db, schedule: &str, at: Timestamp) {
        self.rewrite(control, schedule, "", |state| {
            assert!(state["approval"].is_object(), "there is one: {state}");
            state["approval"]["expires_at"] = at.to_string().into();
        })
        .await;
    }

    /// Changes the state of a schedule, and these columns besides.
    async fn rewrite(&self, control: &Db, schedule: &str, columns: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let schedules = self.table("schedules");
        let sql = format!("SELECT state FROM {schedules} WHERE id = '{schedule}'");
        let text = control.fetch_text(&sql).await.expect("a state")[0][0]
            .clone()
            .expect("a state");
        let mut state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        change(&mut state);
        let state = state.to_string().replace('\'', "''");
        let sql = format!("UPDATE {schedules} SET {columns}state = '{state}', version = version + 1 WHERE id = '{schedule}'");
        assert_eq!(control.execute(&sql).await.expect("changed"), 1);
    }

    /// Rows of slots as the store holds them: outcome and run.
    pub(crate) async fn slots(&self, control: &Db, schedule: &str) -> Vec<(String, Option<String>)> {
        let sql = format!(
            "SELECT outcome, run_id FROM {} WHERE schedule_id = '{schedule}' ORDER BY slot_ms",
            self.table("schedule_slots")
        );
        let rows = control.fetch_text(&sql).await.expect("slots");
        rows.into_iter()
            .map(|row| (row[0].clone().expect("an outcome"), row[1].clone()))
            .collect()
    }

    /// Waits until so many of these schedules have a slot of this kind: outcome and run.
    pub(crate) async fn reached(
        &self,
        control: &Db,
        schedules: &[String],
        number: u64,
        fits: impl Fn(&(String, Option<String>)) -> bool,
    ) {
        eventually(|| async {
            let mut found = 0;
            for schedule in schedules {
                found += u64::from(self.slots(control, schedule).await.iter().any(&fits));
            }
            (found >= number).then_some(())
        })
        .await;
    }

    /// Why slots ended as they did.
    pub(crate) async fn reasons(&self, control: &Db, schedule: &str) -> Vec<String> {
        let sql = format!(
            "SELECT reason FROM {} WHERE schedule_id = '{schedule}' ORDER BY slot_ms",
            self.table("schedule_slots")
        );
        let rows = control.fetch_text(&sql).await.expect("reasons");
        rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect()
    }

    /// Number of runs of slots of a schedule, by their request ids.
    pub(crate) async fn runs(&self, control: &Db, schedule: &str) -> u64 {
        let sql = format!(
            "SELECT count(*) FROM {} WHERE request_id LIKE 'slot-{schedule}-%'",
            self.table("runs")
        );
        control.fetch_text(&sql).await.expect("a count")[0][0]
            .clone()
            .expect("a count")
            .parse()
            .expect("a number")
    }
}

/// A server in this process.
pub(crate) struct Server {
    pub(crate) channel: Channel,
    serving: Serving,
}

impl Server {
    pub(crate) fn schedules(&self) -> ScheduleServiceClient<Channel> {
        ScheduleServiceClient::new(self.channel.clone())
    }

    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn stop(self) {
        self.serving.stop().await;
    }

    /// Creates a schedule; its id.
    pub(crate) async fn create(&self, spec: v1::ScheduleSpec) -> v1::Schedule {
        let request = v1::CreateScheduleRequest {
            spec: Some(spec),
            request_id: String::new(),
        };
        let answer = self.schedules().create_schedule(as_principal("ann", request)).await;
        answer.expect("a schedule").into_inner().schedule.expect("a schedule")
    }

    pub(crate) async fn get(&self, id: &str) -> v1::Schedule {
        let request = v1::GetScheduleRequest { id: id.to_owned() };
        let answer = self.schedules().get_schedule(request).await.expect("a schedule");
        answer.into_inner().schedule.expect("a schedule")
    }

    pub(crate) async fn list(&self, id: &str) -> Vec<v1::ScheduleRun> {
        let request = v1::ListScheduleRunsRequest {
            id: id.to_owned(),
            page_size: 500,
            ..v1::ListScheduleRunsRequest::default()
        };
        self.schedules()
            .list_schedule_runs(request)
            .await
            .expect("slots")
            .into_inner()
            .runs
    }

    /// Fires a schedule by hand; returns the id of its run once that is accepted.
    pub(crate) async fn fire(&self, id: &str) -> Result<String, tonic::Status> {
        let request = v1::RunScheduleRequest {
            id: id.to_owned(),
            ..v1::RunScheduleRequest::default()
        };
        let mut events = self
            .schedules()
            .run_schedule(as_principal("ann", request))
            .await?
            .into_inner();
        let first = events.message().await?.expect("an event");
        Ok(first.event.expect("an event").run_id)
    }

    /// Waits until a slot of a schedule has one of these outcomes; the newest that has.
    pub(crate) async fn newest(&self, id: &str, outcomes: &[v1::SlotOutcome]) -> v1::ScheduleRun {
        eventually(|| async {
            let slots = self.list(id).await;
            slots.into_iter().find(|slot| outcomes.contains(&slot.outcome()))
        })
        .await
    }
}

/// The ids in the chunks of a run's folder; none is there twice.
pub(crate) fn captured(folder: &Path) -> BTreeSet<u64> {
    let chunks = chunk::read_folder(folder).expect("chunks");
    let mut ids = BTreeSet::new();
    for section in chunks.values().flat_map(|chunk| &chunk.sections) {
        let key = section.columns.iter().position(|column| column == "id").expect("a key");
        for row in &section.rows {
            let id: u64 = row[key].as_ref().expect("a key").parse().expect("a number");
            assert!(ids.insert(id), "row {id} is captured once");
        }
    }
    ids
}

/// A generator of its own: the same sequence for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Looks until there is something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(look: impl Fn() -> F) -> T {
    timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
    .expect("it comes in time")
}

pub(crate) fn as_principal<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("dbkeep-principal", name.parse().expect("a name"));
    request
}

/// To make the newest slot of [`once_a_year`] due: since then nobody has looked.
pub(crate) const LATE: SignedDuration = SignedDuration::from_mins(10);

/// The minute of five minutes ago: the newest slot of [`once_a_year`] and [`once_an_hour`].
pub(crate) fn five_minutes_ago() -> Timestamp {
    let then = (Timestamp::now() - SignedDuration::from_mins(5)).as_second();
    Timestamp::from_second(then / 60 * 60).expect("a minute")
}

/// Expires tokens once a year, in the minute of five minutes ago: its newest slot can be caught up, and no other comes while a test runs.
pub(crate) fn once_a_year(name: &str) -> v1::ScheduleSpec {
    yearly(name, five_minutes_ago())
}

/// The same in the minute of this instant.
pub(crate) fn yearly(name: &str, slot: Timestamp) -> v1::ScheduleSpec {
    let slot = slot.to_zoned(TimeZone::UTC);
    let expression = format!("{} {} {} {} *", slot.minute(), slot.hour(), slot.day(), slot.month());
    v1::ScheduleSpec {
        name: name.to_owned(),
        operations: vec!["expired_tokens".to_owned()],
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Expression(expression)),
            timezone: "UTC".to_owned(),
            ..v1::Timing::default()
        }),
        ..v1::ScheduleSpec::default()
    }
}

/// Of a minute that was five minutes ago: its newest slot can be caught up, and the next is far away.
pub(crate) fn once_an_hour(name: &str) -> v1::ScheduleSpec {
    let minute = five_minutes_ago().as_second() / 60 % 60;
    v1::ScheduleSpec {
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Expression(format!("{minute} * * * *"))),
            ..v1::Timing::default()
        }),
        ..once_a_year(name)
    }
}

/// A schedule that nobody but a person fires while a test runs: its slot is New Year.
pub(crate) fn only_by_hand(name: &str) -> v1::ScheduleSpec {
    v1::ScheduleSpec {
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Expression("0 0 1 1 *".to_owned())),
            ..v1::Timing::default()
        }),
        ..once_a_year(name)
    }
}
