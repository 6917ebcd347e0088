//! `/metrics`, `/healthz` and `/readyz`, as a scraper and a prober ask for them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_reads_what_was_collected() {
    for database in DATABASES {
        let world = World::new(database).await;
        let server = world.serve("127.0.0.1:0", Duration::from_millis(200)).await;
        let scraped = timeout(PATIENCE, async {
            loop {
                let (status, text) = get(server.address, "/metrics").await;
                assert_eq!(status, 200, "{text}");
                // Chunked bodies have their lengths between the lines.
                let lines: Vec<&str> = text
                    .lines()
                    .filter(|line| line.starts_with('#') || line.contains(' '))
                    .collect();
                let samples = parse(&lines.join("\n"));
                if samples.contains_key("dbkeep_target_up{target=\"app\"}") {
                    return samples;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        let samples = scraped.await.unwrap();
        assert_eq!(samples["dbkeep_target_up{target=\"app\"}"], 1.0, "{database}");
        assert!(samples["dbkeep_target_database_size_bytes{target=\"app\"}"] > 0.0);
        assert_eq!(samples["dbkeep_runs{state=\"running\"}"], 0.0);
        assert_eq!(samples["dbkeep_scheduler_running"], 1.0);
        assert!(samples.keys().any(|name| name.starts_with("dbkeep_build_info{version=")));
        assert_eq!(get(server.address, "/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(get(server.address, "/readyz").await, (200, "ready\n".to_owned()));
        // gRPC's own answer for what there is not: a status in a header, over 200.
        assert_eq!(get(server.address, "/metric").await.0, 200);
        server.stop().await;
    }
}
