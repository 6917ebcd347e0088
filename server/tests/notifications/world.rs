//! A target with something to delete, and a server that tells of it.

use std::time::Duration;

use dbkeep_client::{Client, DeliveryQuery, PlanRequest, RunRequest, proto};
use dbkeep_engine::{
    model::notice::{NoticeKind, NoticeSeverity},
    notify::Route,
};
use dbkeep_server::{
    Config,
    config::channels::{ChannelConfig, ChannelSetting, HookConfig},
};
use dbkeep_testkit::{Db, fresh_database};
use tokio::time::{sleep, timeout};

use crate::{
    receiver::Receiver,
    serving::{Serving, catalog},
};

/// Longest wait for anything; only a failing test takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Key of the webhooks' signature.
pub(crate) const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Rows that one run deletes.
pub(crate) const ROWS: u64 = 40;

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
max_fraction = 1.0
"#;

/// Which database keeps the control store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Sqlite,
    Postgres,
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) target: String,
    /// The control store, where it is shared.
    pub(crate) store: Option<String>,
    pub(crate) db: Db,
}

impl World {
    pub(crate) async fn new(kept: Kept) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let target = format!("sqlite://{}", folder.path().join("app.db").display());
        let db = Db::open(&format!("{target}?mode=rwc")).await.expect("a database");
        db.execute("CREATE TABLE tokens (id INTEGER PRIMARY KEY, expires_at INTEGER)")
            .await
            .expect("a table");
        let store = match kept {
            Kept::Sqlite => None,
            Kept::Postgres => Some(fresh_database("notify").await.expect("a database")),
        };
        let world = Self {
            folder,
            target,
            store,
            db,
        };
        world.fill().await;
        world
    }

    /// Puts in what a run deletes.
    pub(crate) async fn fill(&self) {
        let rows = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})");
        self.db
            .execute(&format!("INSERT INTO tokens (expires_at) {rows} SELECT 1000 FROM n"))
            .await
            .expect("rows");
    }

    /// Settings with short waits, and a data folder of this name.
    pub(crate) fn config(&self, data: &str) -> Config {
        let data = self.folder.path().join(data);
        let mut config = Config::embedded(data).with_target("app", self.target.as_str(), catalog(CATALOG));
        if let Some(store) = &self.store {
            config = config.with_store(store.as_str());
        }
        config.engine.notify.first_wait = Duration::from_millis(10);
        config.engine.notify.poll_interval = Duration::from_millis(100);
        config
    }
}

/// A route that takes everything to this channel.
pub(crate) fn everything_to(channels: &[&str]) -> Route {
    Route {
        kinds: Vec::<NoticeKind>::new(),
        severity: NoticeSeverity::Info,
        targets: Vec::new(),
        channels: channels.iter().map(|name| (*name).to_owned()).collect(),
        recipients: Vec::new(),
    }
}

pub(crate) fn hook(url: &str, allow_private: bool) -> HookConfig {
    HookConfig {
        url: url.into(),
        allow_private,
    }
}

/// The webhook `hook` to a receiver, which is trusted and may be on this machine.
pub(crate) fn webhook(receiver: &Receiver) -> ChannelConfig {
    let setting = ChannelSetting::Webhook {
        hook: hook(&receiver.url(), true),
        key: KEY.into(),
    };
    let mut channel = ChannelConfig::new("hook", setting);
    channel.authorities = receiver.authority();
    channel
}

pub(crate) struct Running {
    pub(crate) client: Client,
    serving: Serving,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let serving = Serving::start(config).await;
        Self {
            client: serving.client().await,
            serving,
        }
    }

    pub(crate) async fn stop(self) {
        self.serving.stop().await;
    }
}

/// Runs the operation to its end.
pub(crate) async fn run(client: &Client) -> proto::Run {
    let plan = client
        .cleanup()
        .plan(PlanRequest::new(["expired_tokens"]))
        .await
        .expect("a plan");
    let request = RunRequest::of_plan(&plan).execute().full_speed();
    client
        .cleanup()
        .run(request)
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end")
}

/// Waits until every delivery is as it should be, which no event tells.
pub(crate) async fn until(client: &Client, is: impl Fn(&[proto::Delivery]) -> bool) -> Vec<proto::Delivery> {
    let polled = async {
        loop {
            let deliveries = client
                .notifications()
                .list_all(DeliveryQuery::default())
                .await
                .expect("deliveries");
            if is(&deliveries) {
                return deliveries;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, polled).await.expect("the deliveries come to that")
}

/// Waits until there are so many deliveries, all in this state.
pub(crate) async fn until_all(client: &Client, count: usize, state: proto::DeliveryState) -> Vec<proto::Delivery> {
    let all =
        |deliveries: &[proto::Delivery]| deliveries.len() == count && deliveries.iter().all(|delivery| delivery.state() == state);
    until(client, all).await
}
