//! A target and a control store on either database, and an engine or a server on them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use dbkeep_engine::{
    Engine,
    catalog::Catalog,
    engine::{Settings, TargetEntry},
    model::notice::{Channel, ChannelKind, NoticeSeverity},
    notify::{Route, Routing},
    port::{DiskNumbers, Machine, MachineNumbers, Roots, UnreadableFolder},
    testing::MemoryArchive,
};
use dbkeep_server::{store::ControlStore, target};
use dbkeep_testkit::{Db, fresh_database};

/// Longest wait for anything; only a failing test takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The two databases.
pub(crate) const DATABASES: [&str; 2] = ["sqlite", "postgres"];

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) target: String,
    pub(crate) store: String,
}

impl World {
    pub(crate) async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("data")).unwrap();
        let (target, store) = if database == "postgres" {
            (
                fresh_database("monitored").await.unwrap(),
                fresh_database("control").await.unwrap(),
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
        let db = Db::open(&open).await.unwrap();
        db.execute("CREATE TABLE tokens (id bigint PRIMARY KEY, expires_at bigint)")
            .await
            .unwrap();
        db.close().await;
        Self { folder, target, store }
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.store.starts_with("postgres")
    }

    /// A table of the control store, for SQL of the test's own.
    pub(crate) fn table(&self, name: &str) -> String {
        if self.is_shared() {
            format!("dbkeep_control.{name}")
        } else {
            name.to_owned()
        }
    }

    /// An engine on the target `app` with one webhook that hears of everything. It delivers nothing: what it wants to tell stands in the
    /// outbox.
    pub(crate) async fn engine(&self, machine: Arc<dyn Machine>, change: impl FnOnce(&mut Settings)) -> (Engine, ControlStore) {
        let channel = Channel {
            name: "hook".to_owned(),
            kind: ChannelKind::Webhook,
            destination: String::new(),
            recipients: Vec::new(),
        };
        let route = Route {
            kinds: Vec::new(),
            severity: NoticeSeverity::Info,
            targets: Vec::new(),
            channels: vec!["hook".to_owned()],
            recipients: Vec::new(),
        };
        let mut settings = Settings::default();
        settings.notify.routing = Arc::new(Routing::new([channel], vec![route]));
        settings.monitor.machine = Some(machine);
        change(&mut settings);
        let store = ControlStore::open(&self.store).await.unwrap();
        let entry = TargetEntry {
            target: target::open(&self.target).unwrap(),
            catalog: Arc::new(Catalog::default()),
            roots: Arc::new(Roots::new()),
            migrations: None,
        };
        let targets = BTreeMap::from([("app".to_owned(), entry)]);
        let engine = Engine::new(targets, Arc::new(store.clone()), Arc::new(MemoryArchive::default()), settings);
        (engine, store)
    }
}

/// Two folders of one file system.
const FOLDERS: [&str; 2] = ["/srv", "/srv/backups"];

/// A machine whose one disk is as full as the test wants.
#[derive(Debug)]
pub(crate) struct Host {
    host: String,
    percent: Mutex<u64>,
    away: Mutex<bool>,
}

impl Host {
    pub(crate) fn new(host: &str, percent: u64) -> Arc<Self> {
        Arc::new(Self {
            host: host.to_owned(),
            percent: Mutex::new(percent),
            away: Mutex::new(false),
        })
    }

    /// Takes its folders away, or brings them back.
    pub(crate) fn take_away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }

    fn unreadable(&self) -> Vec<UnreadableFolder> {
        let folders: &[&str] = if *self.away.lock().unwrap() { &FOLDERS } else { &[] };
        folders
            .iter()
            .map(|folder| UnreadableFolder {
                folder: (*folder).to_owned(),
                why: "gone".to_owned(),
            })
            .collect()
    }

    pub(crate) fn fill(&self, percent: u64) {
        *self.percent.lock().unwrap() = percent;
    }
}

#[async_trait]
impl Machine for Host {
    fn host(&self) -> &str {
        &self.host
    }

    async fn disks(&self) -> Vec<DiskNumbers> {
        if *self.away.lock().unwrap() {
            return Vec::new();
        }
        let percent = *self.percent.lock().unwrap();
        FOLDERS
            .map(|folder| DiskNumbers {
                folder: folder.to_owned(),
                device: 7,
                used_bytes: percent * 1_000,
                free_bytes: (100 - percent) * 1_000,
                total_bytes: 100_000,
            })
            .to_vec()
    }

    async fn measure(&self) -> MachineNumbers {
        MachineNumbers {
            cpu_fraction: Some(0.25),
            memory_used_bytes: Some(1),
            memory_total_bytes: Some(2),
            disks: self.disks().await,
            unreadable: self.unreadable(),
        }
    }
}
