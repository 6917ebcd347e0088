//! Clients that abuse HTTP/2, frame by frame, against the real binary: whoever behaves is served meanwhile, and the server's memory stays as
//! it is.

mod support;

use std::{fs, time::Duration};

use dbkeep_client::Client;
use support::Daemon;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for anything; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);
/// By how much memory may grow under a second helping of the same abuse, KiB. Allocators keep some of what was freed.
const GROWTH: u64 = 16 << 10;
/// By how much it may grow under the first, KiB.
const MOST: u64 = 96 << 10;

/// How long an abuser waits for the server to read on.
const PATIENT: Duration = Duration::from_secs(2);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header block of a call, by the static table of HPACK alone.
fn call(path: &str) -> Vec<u8> {
    let literal = |block: &mut Vec<u8>, text: &str| {
        block.push(u8::try_from(text.len()).expect("a short text"));
        block.extend(text.as_bytes());
    };
    // :method POST, :scheme http
    let mut block = vec![0x83, 0x86];
    block.push(0x04);
    literal(&mut block, path);
    block.push(0x01);
    literal(&mut block, "localhost");
    block.extend([0x0f, 0x10]);
    literal(&mut block, "application/grpc");
    block.push(0x00);
    literal(&mut block, "te");
    literal(&mut block, "trailers");
    block
}

/// A connection that has said hello, with a window of that many bytes for each answer.
async fn connect(address: &str, window: u32) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    // SETTINGS_INITIAL_WINDOW_SIZE
    let mut setting = vec![0, 4];
    setting.extend(window.to_be_bytes());
    stream.write_all(&frame(SETTINGS, 0, 0, &setting)).await.expect("written");
    stream
}

/// Writes until everything is out, or the server has had enough; reads whatever comes, unless told not to.
async fn pour(stream: TcpStream, frames: impl Iterator<Item = Vec<u8>>, reads: bool) {
    let (mut from, mut to) = stream.into_split();
    let reader = tokio::spawn(async move {
        let mut sink = vec![0; 64 << 10];
        while reads && from.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        from
    });
    let mut frames = frames.peekable();
    while frames.peek().is_some() {
        let buffer: Vec<u8> = frames.by_ref().take(256).flatten().collect();
        // Whoever is not read any more waits; that is as good as refused.
        match timeout(PATIENT, to.write_all(&buffer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    reader.abort();
}

#[derive(Debug, Clone, Copy)]
enum Abuse {
    /// Calls that are taken back as soon as they are made (CVE-2023-44487).
    RapidReset,
    /// Headers that never end (CVE-2024-27316).
    ContinuationFlood,
    /// Pings, whose answers nobody reads.
    Pings,
    /// Settings, whose acknowledgements nobody reads.
    Settings,
    /// Calls whose answers nobody makes room for.
    SlowRead,
    /// Requests that never end.
    SlowWrite,
    /// Frames of no bytes.
    EmptyData,
    /// Windows that overflow.
    Windows,
}

const ABUSES: [Abuse; 8] = [
    Abuse::RapidReset,
    Abuse::ContinuationFlood,
    Abuse::Pings,
    Abuse::Settings,
    Abuse::SlowRead,
    Abuse::SlowWrite,
    Abuse::EmptyData,
    Abuse::Windows,
];

const LIST: &str = "/dbkeep.v1.TargetService/ListTargets";
const EMPTY: [u8; 5] = [0; 5];

async fn abuse(address: &str, how: Abuse) {
    let odd = |number: u32| number * 2 + 1;
    match how {
        Abuse::RapidReset => {
            let frames = (0..100_000).flat_map(|number| {
                [
                    frame(HEADERS, END_HEADERS, odd(number), &call(LIST)),
                    frame(RST_STREAM, 0, odd(number), &8_u32.to_be_bytes()),
                ]
            });
            pour(connect(address, 65_535).await, frames, true).await;
        }
        Abuse::ContinuationFlood => {
            // A header that is never in the table, again and again.
            let filler: Vec<u8> = [0x00, 0x01, b'x', 0x01, b'y'].into_iter().cycle().take(15_000).collect();
            let frames = std::iter::once(frame(HEADERS, 0, 1, &call(LIST)))
                .chain(std::iter::repeat_with(move || frame(CONTINUATION, 0, 1, &filler)).take(8_000));
            pour(connect(address, 65_535).await, frames, true).await;
        }
        Abuse::Pings => {
            let frames = (0..500_000_u64).map(|number| frame(PING, 0, 0, &number.to_be_bytes()));
            pour(connect(address, 65_535).await, frames, false).await;
        }
        Abuse::Settings => {
            let frames = (0..500_000_u32).map(|number| {
                let mut setting = vec![0, 4];
                setting.extend((number % 65_535).to_be_bytes());
                frame(SETTINGS, 0, 0, &setting)
            });
            pour(connect(address, 65_535).await, frames, false).await;
        }
        Abuse::SlowRead => {
            let frames = (0..5_000).flat_map(|number| {
                [
                    frame(HEADERS, END_HEADERS, odd(number), &call(LIST)),
                    frame(DATA, END_STREAM, odd(number), &EMPTY),
                ]
            });
            pour(connect(address, 0).await, frames, false).await;
        }
        Abuse::SlowWrite => {
            let frames = (0..5_000).map(|number| frame(HEADERS, END_HEADERS, odd(number), &call(LIST)));
            pour(connect(address, 65_535).await, frames, true).await;
        }
        Abuse::EmptyData => {
            let frames = std::iter::once(frame(HEADERS, END_HEADERS, 1, &call(LIST)))
                .chain(std::iter::repeat_with(|| frame(DATA, 0, 1, &[])).take(500_000));
            pour(connect(address, 65_535).await, frames, true).await;
        }
        Abuse::Windows => {
            let frames = (0..100_000).map(|_| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()));
            pour(connect(address, 65_535).await, frames, true).await;
        }
    }
}

/// Resident memory of a process, KiB.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("its memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Four such clients at a time, while another one is served.
async fn round(server: &Daemon, healthy: &Client, how: Abuse) {
    let abusers: Vec<_> = (0..4)
        .map(|_| {
            let address = server.address.clone();
            tokio::spawn(async move { abuse(&address, how).await })
        })
        .collect();
    let served = async {
        for _ in 0..50 {
            healthy.targets().list().await.expect("whoever behaves is served");
        }
    };
    timeout(PATIENCE, served)
        .await
        .unwrap_or_else(|_| panic!("{how:?} keeps others from being served"));
    for abuser in abusers {
        timeout(PATIENCE, abuser)
            .await
            .unwrap_or_else(|_| panic!("{how:?} does not end"))
            .expect("no panic");
    }
    // A client that comes anew is served, too.
    let anew = server.client().await;
    timeout(PATIENCE, anew.targets().list())
        .await
        .expect("in time")
        .expect("served");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_abuses_http2_harms_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("app.db");
    fs::write(&database, []).expect("a database");
    let catalog = folder.path().join("catalog.toml");
    fs::write(&catalog, "").expect("a catalog");
    let target = format!("sqlite://{}", database.display());
    let server = Daemon::start(&folder.path().join("data"), &target, &catalog, "");
    let healthy = server.client().await;
    healthy.targets().list().await.expect("served");
    for how in ABUSES {
        let before = memory(server.id());
        round(&server, &healthy, how).await;
        let first = memory(server.id());
        round(&server, &healthy, how).await;
        let second = memory(server.id());
        println!("{how:?}: {before} KiB before, {first} after the first round, {second} after the second");
        assert!(first <= before + MOST, "{how:?}: memory grows from {before} to {first} KiB");
        assert!(second <= first + GROWTH, "{how:?}: memory grows from {first} to {second} KiB");
    }
}
