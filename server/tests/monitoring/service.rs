//! The service, by a real client against a real server, on both databases.

use std::time::Duration;

use dbkeep_client::{AlertQuery, Client, Error, HistoryQuery, Look, proto};
use dbkeep_server::Config;
use dbkeep_testkit::Db;
use futures::TryStreamExt as _;
use tokio::time::timeout;

use crate::{
    serving::{Serving, catalog},
    world::{DATABASES, PATIENCE, World},
};

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

pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) address: std::net::SocketAddr,
    serving: Serving,
}

impl World {
    pub(crate) async fn serve(&self, address: &str, interval: Duration) -> Running {
        let mut config = Config::embedded(self.folder.path().join("data"));
        config = config.with_target("app", self.target.as_str(), catalog(CATALOG));
        if self.is_shared() {
            config = config.with_store(self.store.as_str());
        }
        config.engine.monitor.interval = interval;
        let serving = Serving::start_at(address, config).await;
        Running {
            client: serving.client().await,
            address: serving.address,
            serving,
        }
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_collected_shown_and_watched() {
    for database in DATABASES {
        let world = World::new(database).await;
        let server = world.serve("127.0.0.1:0", Duration::from_millis(200)).await;
        let monitoring = server.client.monitoring();
        let mut stream = Box::pin(monitoring.watch_metrics("app", 0));
        let first = timeout(PATIENCE, stream.try_next()).await.unwrap().unwrap().unwrap();
        let metrics = first.metrics.unwrap();
        assert_eq!((metrics.target.as_str(), metrics.up), ("app", Some(true)), "{database}");
        let size = metrics.snapshot.unwrap().database.unwrap().size_bytes.unwrap();
        assert!(size > 0);
        let kept = monitoring.metrics("", Look::Newest).await.unwrap();
        assert!(kept.collect_time.is_some() && kept.snapshot.is_some());
        let fresh = monitoring.metrics("app", Look::Fresh).await.unwrap();
        assert!(fresh.collect_time.is_none() && fresh.snapshot.is_some());
        // The server comes back at the same place, and the stream goes on after what it has seen.
        let second = timeout(PATIENCE, stream.try_next()).await.unwrap().unwrap().unwrap();
        assert!(second.revision > first.revision);
        let address = server.address.to_string();
        server.stop().await;
        let server = world.serve(&address, Duration::from_millis(200)).await;
        let third = timeout(PATIENCE, stream.try_next()).await.unwrap().unwrap().unwrap();
        assert!(third.revision > second.revision, "{database}");
        let monitoring = server.client.monitoring();
        let history = monitoring
            .history(HistoryQuery::new("app", "database_size_bytes").step(proto::MetricStep::Raw))
            .await
            .unwrap();
        assert_eq!(history.step(), proto::MetricStep::Raw);
        assert!(history.points.len() >= 2 && history.points.iter().all(|point| point.last > 0.0));
        let status = monitoring.status().await.unwrap();
        assert!(status.collecting && status.scheduler.unwrap().running);
        assert_eq!(status.targets[0].name, "app");
        assert_eq!((status.targets[0].up, status.targets[0].alerts), (Some(true), 0));
        assert!(status.history.unwrap().points >= 2);
        monitoring.findings("app", Look::Newest).await.unwrap();
        monitoring.recommendations("app").await.unwrap();
        // The machine's numbers are of this server, whatever target is named. It is measured beside the targets: after one of their next
        // looks its numbers are there.
        let memory = timeout(PATIENCE, async {
            loop {
                let query = HistoryQuery::new("", "server_memory_total_bytes").step(proto::MetricStep::Raw);
                let found = monitoring.history(query).await.unwrap().points;
                if !found.is_empty() {
                    return found;
                }
                stream.try_next().await.unwrap().unwrap();
            }
        });
        assert!(memory.await.unwrap()[0].last > 0.0);
        drop(stream);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_its_field() {
    let world = World::new("sqlite").await;
    let server = world.serve("127.0.0.1:0", Duration::from_secs(60)).await;
    let monitoring = server.client.monitoring();
    let unknown = monitoring.metrics("nowhere", Look::Newest).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownTarget { .. }), "{unknown:?}");
    let fields = |error: Error| match error {
        Error::InvalidField { violations, .. } => violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let metric = monitoring
        .history(HistoryQuery::new("app", "size").limit(10_001))
        .await
        .unwrap_err();
    assert_eq!(fields(metric), ["metric", "limit"]);
    let now = std::time::SystemTime::now();
    let turned = HistoryQuery::new("app", "up").from(now).to(now - Duration::from_secs(5));
    assert_eq!(fields(monitoring.history(turned).await.unwrap_err()), ["from"]);
    let alert = monitoring.acknowledge("nothing", "").await.unwrap_err();
    assert!(matches!(alert, Error::UnknownAlert { .. }), "{alert:?}");
    let nameless = monitoring.acknowledge("", "").await.unwrap_err();
    assert_eq!(fields(nameless), ["id"]);
    let foreign = monitoring
        .list_all_alerts(AlertQuery::default().target("nowhere"))
        .await
        .unwrap_err();
    assert!(matches!(foreign, Error::UnknownTarget { .. }), "{foreign:?}");
    let mut stream = std::pin::pin!(monitoring.watch_alerts(None, u64::MAX / 2));
    assert_eq!(fields(stream.try_next().await.unwrap_err()), ["after_revision"]);
    assert!(monitoring.list_all_alerts(AlertQuery::default()).await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_target_on_this_machine_is_seen_and_of_another_it_is_said_why_not() {
    for database in DATABASES {
        let mut world = World::new(database).await;
        let server = world.serve("127.0.0.1:0", Duration::from_secs(60)).await;
        let metrics = server.client.monitoring().metrics("app", Look::Fresh).await.unwrap();
        assert_eq!(metrics.disk_unknown, "", "{database}");
        let disk = metrics.disk.unwrap();
        let folder = if world.is_shared() {
            let db = Db::open(&world.target).await.unwrap();
            db.execute("CREATE ROLE sees_little LOGIN").await.unwrap();
            db.fetch_text("SELECT current_setting('data_directory')").await.unwrap()[0][0]
                .clone()
                .unwrap()
        } else {
            world.folder.path().display().to_string()
        };
        assert_eq!(disk.folder, folder, "{database}");
        let found = rustix::fs::statvfs(folder.as_str()).unwrap();
        assert_eq!(disk.total_bytes, found.f_blocks * found.f_frsize, "{database}");
        assert!(disk.free_bytes > 0 && disk.used_bytes > 0, "{database}: {disk:?}");
        server.stop().await;
        if world.is_shared() {
            world.target = world.target.replace("postgres://postgres@", "postgres://sees_little@");
            let server = world.serve("127.0.0.1:0", Duration::from_secs(60)).await;
            let metrics = server.client.monitoring().metrics("app", Look::Fresh).await.unwrap();
            assert!(metrics.disk.is_none());
            assert!(
                metrics.disk_unknown.contains("GRANT pg_read_all_settings"),
                "{}",
                metrics.disk_unknown
            );
            server.stop().await;
        }
    }
}
