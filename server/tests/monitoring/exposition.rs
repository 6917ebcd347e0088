//! `/metrics`, `/healthz` and `/readyz`, as a scraper and a prober ask for them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use dbkeep_client::{PlanRequest, RunRequest};
use dbkeep_testkit::Db;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::world::{DATABASES, PATIENCE, World};

/// Status and body of a GET by HTTP/1.1.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let status = answer.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

/// Samples by name and labels, of a text that keeps the rules of the format: HELP and TYPE once and before the samples of a family, names of
/// the allowed characters, and every value a number.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split_once(' ').expect("a help text").0.clone_into(&mut family);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family, "TYPE follows HELP");
            assert!(["gauge", "counter"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(types.insert(name.to_owned(), kind).is_none(), "{name} has one TYPE");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert_eq!(name, family, "samples stand with their family");
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "{name}"
        );
        let value: f64 = value.parse().unwrap();
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} stands once");
    }
    samples
}

/// The same text by somebody else's parser, which leaves out what it cannot read.
struct Scraped(prometheus_parse::Scrape);

impl Scraped {
    fn of(text: &str) -> Self {
        Self(prometheus_parse::Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap())
    }

    /// The value of the one sample with exactly these labels, and whether it is a counter.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<(f64, bool)> {
        let mut fitting = self.0.samples.iter().filter(|sample| {
            sample.metric == name
                && sample.labels.len() == labels.len()
                && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
        });
        let found = match fitting.next()?.value {
            prometheus_parse::Value::Gauge(value) => (value, false),
            prometheus_parse::Value::Counter(value) => (value, true),
            ref other => panic!("{name}: {other:?}"),
        };
        assert!(fitting.next().is_none(), "{name} {labels:?} stands once");
        Some(found)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_reads_what_was_collected() {
    for database in DATABASES {
        let world = World::new(database).await;
        let server = world.serve("127.0.0.1:0", Duration::from_millis(200)).await;
        for dry in [true, false] {
            let cleanup = server.client.cleanup();
            let plan = cleanup.plan(PlanRequest::new(["expired_tokens"])).await.unwrap();
            let request = RunRequest::of_plan(&plan);
            let request = if dry { request } else { request.execute() };
            cleanup.run(request).await.unwrap().finish().await.unwrap();
        }
        let scraped = timeout(PATIENCE, async {
            loop {
                let (status, text) = get(server.address, "/metrics").await;
                assert_eq!(status, 200, "{text}");
                // Chunked bodies have their lengths between the lines.
                let lines: Vec<&str> = text
                    .lines()
                    .filter(|line| line.starts_with('#') || line.contains(' '))
                    .collect();
                let lines = lines.join("\n");
                let (samples, scraped) = (parse(&lines), Scraped::of(&lines));
                assert_eq!(scraped.0.samples.len(), samples.len(), "every line is read: {lines}");
                let families = lines.lines().filter(|line| line.starts_with("# TYPE ")).count();
                assert_eq!(scraped.0.docs.len(), families, "every family says what it is");
                if samples.contains_key("dbkeep_target_up{target=\"app\"}") {
                    return (samples, scraped);
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        let (samples, scraped) = scraped.await.unwrap();
        assert_eq!(scraped.value("dbkeep_target_up", &[("target", "app")]), Some((1.0, false)));
        assert_eq!(scraped.value("dbkeep_runs", &[("state", "queued")]), Some((0.0, false)));
        assert_eq!(samples["dbkeep_target_up{target=\"app\"}"], 1.0, "{database}");
        assert!(samples["dbkeep_target_database_size_bytes{target=\"app\"}"] > 0.0);
        assert_eq!(samples["dbkeep_runs{state=\"running\"}"], 0.0);
        assert_eq!(samples["dbkeep_scheduler_running"], 1.0);
        let ended = [("target", "app"), ("kind", "cleanup"), ("state", "succeeded")];
        assert_eq!(
            scraped.value("dbkeep_runs_ended_total", &ended),
            Some((2.0, true)),
            "{database}"
        );
        let never = [("target", "app"), ("kind", "cleanup"), ("state", "failed")];
        assert_eq!(
            scraped.value("dbkeep_runs_ended_total", &never),
            Some((0.0, true)),
            "the first failure is an increase"
        );
        assert!(samples.keys().any(|name| name.starts_with("dbkeep_build_info{version=")));
        assert_eq!(get(server.address, "/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(get(server.address, "/readyz").await, (200, "ready\n".to_owned()));
        // gRPC's own answer for what there is not: a status in a header, over 200.
        assert_eq!(get(server.address, "/metric").await.0, 200);
        server.stop().await;
    }
}

/// Asks until it is answered so.
async fn becomes(address: SocketAddr, expected: (u16, &str)) {
    let asked = timeout(PATIENCE, async {
        loop {
            let (status, body) = get(address, "/readyz").await;
            if (status, body.as_str()) == expected {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    asked.await.unwrap_or_else(|_| panic!("expected {expected:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_store_is_not_ready() {
    for database in DATABASES {
        let world = World::new(database).await;
        let server = world.serve("127.0.0.1:0", Duration::from_millis(200)).await;
        becomes(server.address, (200, "ready\n")).await;
        let db = Db::open(&world.store).await.unwrap();
        let (table, away) = (world.table("monitor_counters"), "monitor_counters_away");
        db.execute(&format!("ALTER TABLE {table} RENAME TO {away}")).await.unwrap();
        becomes(server.address, (503, "the control store does not answer\n")).await;
        assert_eq!(get(server.address, "/healthz").await, (200, "ok\n".to_owned()), "{database}");
        let back = format!("ALTER TABLE {} RENAME TO monitor_counters", world.table(away));
        db.execute(&back).await.unwrap();
        becomes(server.address, (200, "ready\n")).await;
        db.close().await;
        server.stop().await;
    }
}
