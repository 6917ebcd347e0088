//! What the foreground feels: sessions that read and update single rows at half of what the machine can do, while rows are deleted
//! from the same table in five ways: not at all, by dbkeep as it comes, by dbkeep at full speed, in naive batches, and by plain
//! statements in batches of the same size and with the same rests as dbkeep's.
//!
//! The load is open: each statement has its time, whether the one before has ended or not, and its latency counts from that time.
//! A stall is felt by everybody who came during it, and not by one statement alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dbkeep_client::{RunRequest, proto};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    postgres::{Bench, ORPHAN},
    report::{Series, line, percentile, ratio},
    server::Server,
    stolen::{self, Stolen},
};

/// How the foreground is loaded, and for how long it is watched.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Sessions of the foreground.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Longest time for which each contender is watched, seconds; one that is done earlier is watched only until then.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Share of the machine's capacity that the foreground takes, percent.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    capacity: u32,
    /// Only this contender, beside the idle database; may be given again.
    #[arg(long, value_enum)]
    contender: Vec<Contender>,
    /// Print the longest latency of each tenth of a second and the p99 of each second, to see what a stall coincides with.
    #[arg(long)]
    timeline: bool,
    /// Where dbkeep keeps its data and backups, an existing folder; beside the database's files unless it is given.
    #[arg(long, value_name = "FOLDER")]
    data: Option<std::path::PathBuf>,
    /// Rows of a batch of dbkeep as it comes; its default unless it is given. Plain statements have 250.
    #[arg(long, value_name = "ROWS")]
    batch_size: Option<u32>,
    /// Duty cycle of dbkeep as it comes, percent; its default unless it is given. Plain statements have 50.
    #[arg(long, value_name = "PERCENT")]
    duty: Option<u32>,
}

/// Rows that the foreground reads and updates; none of them is an orphan.
const KEYS: usize = 10_000;
/// One statement of so many is an update, the others read.
const UPDATE_EVERY: usize = 5;
/// Rest before each contender: a disk is busy for a while with a database that was dropped and one that was copied, and a server
/// looks at its targets for the first time when it starts, which is none of a run's doing.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the foreground has been at work before it is watched: its sessions connect, and its statements are prepared.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often a measurement is made again, from which the host took time, before it is given up.
const TRIES: u32 = 12;
/// How long the capacity is measured.
const CALIBRATION: Duration = Duration::from_secs(10);

async fn keys(db: &Db) -> Result<Arc<Vec<String>>> {
    // Spread over the whole table by a hash, the same in every round.
    let sql = format!("SELECT c.id FROM user_progress c WHERE NOT ({ORPHAN}) ORDER BY md5(c.id) LIMIT {KEYS}");
    let keys: Vec<String> = db
        .fetch_text(&sql)
        .await?
        .into_iter()
        .filter_map(|mut row| row.pop().flatten())
        .collect();
    ensure!(!keys.is_empty(), "every row is an orphan");
    Ok(Arc::new(keys))
}

/// Where the orphans are, in the order of the table.
async fn places(db: &Db) -> Result<Vec<String>> {
    let sql = format!("SELECT c.ctid::text FROM user_progress c WHERE {ORPHAN} ORDER BY c.ctid");
    Ok(db
        .fetch_text(&sql)
        .await?
        .into_iter()
        .filter_map(|mut row| row.pop().flatten())
        .collect())
}

/// Statements: (when it was due; latency, milliseconds).
type Timed = Vec<(Instant, f64)>;

/// One session: a statement at each of its times until the end. Without an interval one after the other.
async fn session(
    url: String,
    keys: Arc<Vec<String>>,
    offset: usize,
    interval: Option<Duration>,
    end: CancellationToken,
) -> Result<Timed> {
    let mut connection = PgConnection::connect(&url).await?;
    let began = Instant::now();
    let mut latencies = Vec::new();
    let mut due = began;
    for number in 0.. {
        if let Some(interval) = interval {
            due = began + interval * number;
            tokio::time::sleep_until(due.into()).await;
        } else {
            due = due.max(Instant::now());
        }
        if end.is_cancelled() {
            break;
        }
        let number = usize::try_from(number)?;
        let key = &keys[(offset + number * 7) % keys.len()];
        let sql = if number % UPDATE_EVERY == 0 {
            "UPDATE user_progress SET status = status WHERE id = $1"
        } else {
            "SELECT * FROM user_progress WHERE id = $1"
        };
        sqlx::query(sql).bind(key).execute(&mut connection).await?;
        latencies.push((due, due.elapsed().as_secs_f64() * 1e3));
    }
    connection.close().await?;
    Ok(latencies)
}

/// The foreground at work, from its start to [`Foreground::end`].
struct Foreground {
    sessions: Vec<tokio::task::JoinHandle<Result<Timed>>>,
    end: CancellationToken,
}

impl Foreground {
    /// At this rate, statements a second over all sessions; as fast as it goes without one.
    fn start(url: &str, keys: &Arc<Vec<String>>, connections: u32, rate: Option<f64>) -> Self {
        let end = CancellationToken::new();
        let interval = rate.map(|rate| Duration::from_secs_f64(f64::from(connections) / rate));
        let sessions = (0..connections)
            .map(|number| {
                // Far apart from each other, so that no two sessions wait for the same row.
                let offset = keys.len() * number as usize / connections as usize;
                tokio::spawn(session(url.to_owned(), Arc::clone(keys), offset, interval, end.clone()))
            })
            .collect();
        Self { sessions, end }
    }

    /// The statements that were due from a moment on.
    async fn end(self, from: Instant) -> Result<Timed> {
        self.end.cancel();
        let mut latencies = Vec::new();
        for session in self.sessions {
            latencies.extend(session.await??);
        }
        latencies.retain(|(due, _)| *due >= from);
        Ok(latencies)
    }
}

/// What works beside the foreground.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Contender {
    /// Nothing.
    Idle,
    /// dbkeep as it comes.
    Throttled,
    /// dbkeep at full speed.
    FullSpeed,
    /// Find 1,000, delete them, again.
    Naive,
    /// Rows that are known beforehand, by their place, each batch one statement, with rests: no search, no capture, no journal.
    /// What is felt beside it, no throttle can spare.
    Plain,
}

impl Contender {
    const ALL: [Self; 5] = [Self::Idle, Self::Throttled, Self::FullSpeed, Self::Naive, Self::Plain];
}

/// Deletes orphans in this way until the time is over, or none are left. Returns the rows that went.
async fn work(
    contender: Contender,
    load: &Load,
    server: Option<&Server>,
    db: &Db,
    places: &[String],
    time: Duration,
) -> Result<u64> {
    let began = Instant::now();
    match contender {
        Contender::Idle => {
            tokio::time::sleep(time).await;
            Ok(0)
        }
        Contender::Naive => {
            let mut rows = 0;
            while began.elapsed() < time {
                let sql =
                    format!("DELETE FROM user_progress WHERE id IN (SELECT c.id FROM user_progress c WHERE {ORPHAN} LIMIT 1000)");
                let deleted = db.execute(&sql).await?;
                rows += deleted;
                if deleted == 0 {
                    break;
                }
            }
            Ok(rows)
        }
        Contender::Plain => {
            let duty = load.duty.unwrap_or(50).clamp(1, 100);
            let mut rows = 0;
            for batch in places.chunks(load.batch_size.unwrap_or(250) as usize) {
                let batch_began = Instant::now();
                let places = batch.join("\",\"");
                rows += db
                    .execute(&format!(
                        "DELETE FROM user_progress WHERE ctid = ANY ('{{\"{places}\"}}'::tid[])"
                    ))
                    .await?;
                let rest = batch_began.elapsed() * (100 - duty) / duty;
                if began.elapsed() + rest >= time {
                    break;
                }
                tokio::time::sleep(rest).await;
            }
            Ok(rows)
        }
        Contender::Throttled | Contender::FullSpeed => {
            let server = server.context("a contender that is a server has one")?;
            let mut request = RunRequest::new(["with_capture"]).execute();
            if contender == Contender::FullSpeed {
                request = request.full_speed();
            } else {
                if let Some(rows) = load.batch_size {
                    request = request.batch_size(rows);
                }
                if let Some(percent) = load.duty {
                    request = request.duty_cycle_percent(percent);
                }
            }
            let mut stream = server.client.cleanup().run(request).await?;
            let followed = tokio::time::timeout(time.saturating_sub(began.elapsed()), async {
                while let Some(event) = futures::StreamExt::next(&mut stream).await {
                    event?;
                }
                anyhow::Ok(())
            });
            if let Ok(ended) = followed.await {
                ended?;
            } else {
                let id = stream.run_id().context("the run has told its id")?.to_owned();
                server.client.runs().cancel(id, "watched for long enough").await?;
            }
            let run = stream.finish().await?;
            ensure!(
                matches!(run.state(), proto::RunState::Succeeded | proto::RunState::Cancelled),
                "the run ended {:?}: {}",
                run.state(),
                run.state_reason
            );
            Ok(run.report.unwrap_or_default().rows_affected)
        }
    }
}

/// Statements a second that the machine can do in the slowest second of some, measured while nobody stole its processors. Of a virtual machine
/// whose processors are at times half as fast, for seconds, because a neighbour has the other thread of their core, half of the average would
/// be all of it: the foreground alone would queue, whatever works beside it.
async fn capacity(url: &str, keys: &Arc<Vec<String>>, connections: u32) -> Result<f64> {
    for _ in 0..TRIES {
        let foreground = Foreground::start(url, keys, connections, None);
        tokio::time::sleep(WARM_UP).await;
        let (began, stolen) = (Instant::now(), Stolen::begin());
        tokio::time::sleep(CALIBRATION).await;
        let share = stolen.share();
        let mut seconds = vec![0_u32; usize::try_from(CALIBRATION.as_secs())?];
        for (due, _) in foreground.end(began).await? {
            let second = usize::try_from(due.duration_since(began).as_secs())?;
            if let Some(done) = seconds.get_mut(second) {
                *done += 1;
            }
        }
        if share <= stolen::TOO_MUCH {
            println!("statements/s at full load, by seconds: {seconds:?}");
            return Ok(f64::from(
                seconds.into_iter().min().context("it is measured for a second at least")?,
            ));
        }
        println!(
            "{:.1} % of the processors' time was stolen: the capacity is measured again",
            share * 100.0
        );
    }
    bail!("the host shares this machine's processors with others: nothing can be measured")
}

/// The longest latency of the statements that were due in each tenth of a second, and the p99 of each second.
fn print_timeline(timed: &Timed, began: Instant) {
    let timed: Vec<(f64, f64)> = timed
        .iter()
        .map(|(due, latency)| (due.duration_since(began).as_secs_f64(), *latency))
        .collect();
    let mut longest: std::collections::BTreeMap<u64, f64> = std::collections::BTreeMap::new();
    for (due, latency) in &timed {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "tenths of seconds since the begin"
        )]
        let longest = longest.entry((due * 10.0) as u64).or_default();
        *longest = longest.max(*latency);
    }
    let tenths: Vec<String> = longest.values().map(|latency| format!("{latency:.0}")).collect();
    println!("longest latency by tenths of a second, ms: {}", tenths.join(" "));
    let mut seconds: std::collections::BTreeMap<u64, Vec<f64>> = std::collections::BTreeMap::new();
    for (due, latency) in &timed {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds since the begin"
        )]
        seconds.entry(*due as u64).or_default().push(*latency);
    }
    let seconds = seconds
        .values_mut()
        .map(|latencies| format!("{:.1}", percentile(latencies, 0.99)));
    println!("p99 by seconds, ms: {}", seconds.collect::<Vec<_>>().join(" "));
}

/// What was seen of one contender.
struct Watched {
    /// Of the foreground's statements, milliseconds.
    p99: f64,
    /// Deleted a second.
    rows: f64,
    /// Share of the processors' time that the host took.
    stolen: f64,
}

/// Watches the foreground beside one contender, on a fresh copy of the database. dbkeep has its data in `folder`.
async fn watch(
    contender: Contender,
    load: &Load,
    bench: &mut Bench,
    keys: &Arc<Vec<String>>,
    rate: f64,
    folder: &std::path::Path,
) -> Result<Watched> {
    let (url, db) = bench.copy().await?;
    // Up before the foreground is watched: a server does not start when it has work.
    let server = if matches!(contender, Contender::Throttled | Contender::FullSpeed) {
        Some(Server::start(folder, &url).await?)
    } else {
        None
    };
    // Before the foreground moves rows; those of it are no orphans.
    let places = if contender == Contender::Plain {
        places(&db).await?
    } else {
        Vec::new()
    };
    tokio::time::sleep(SETTLE).await;
    let foreground = Foreground::start(&url, keys, load.connections, Some(rate));
    tokio::time::sleep(WARM_UP).await;
    let (began, stolen) = (Instant::now(), Stolen::begin());
    let time = Duration::from_secs(load.seconds);
    let deleted = work(contender, load, server.as_ref(), &db, &places, time).await?;
    let (seconds, stolen) = (began.elapsed().as_secs_f64(), stolen.share());
    let timed = foreground.end(began).await?;
    drop(server);
    db.close().await;
    if load.timeline {
        print_timeline(&timed, began);
    }
    let mut latencies: Vec<f64> = timed.into_iter().map(|(_, latency)| latency).collect();
    #[expect(clippy::cast_precision_loss, reason = "a rate of rows")]
    let rows = deleted as f64 / seconds;
    Ok(Watched {
        p99: percentile(&mut latencies, 0.99),
        rows,
        stolen,
    })
}

pub(crate) async fn run(options: &Options, load: &Load) -> Result<()> {
    println!(
        "\nForeground on PostgreSQL: {} sessions at {} % of capacity, {} rows, fsync on, {} s each, {} interleaved rounds",
        load.connections, load.capacity, options.rows, load.seconds, options.rounds
    );
    let settings = [
        ("shared_buffers", "1GB"),
        ("max_wal_size", "16GB"),
        // A server that has been up for a while writes into log segments that it has used before; making a new one stalls everybody.
        ("min_wal_size", "4GB"),
        ("checkpoint_timeout", "1h"),
    ];
    let cluster = PrivatePostgres::start_with(Durability::Durable, &settings).await?;
    cluster.create_database("prepared").await?;
    dbkeep_demo::single_table(&cluster.url("prepared"), options.rows, 0.2, options.seed).await?;
    let db = Db::open(&cluster.url("prepared")).await?;
    db.execute("DROP TABLE api_logs").await?;
    db.execute("VACUUM ANALYZE").await?;
    let keys = keys(&db).await?;
    db.close().await;

    let mut bench = Bench::of(cluster);
    let folder = match &load.data {
        Some(data) => tempfile::tempdir_in(data)?,
        None => tempfile::tempdir()?,
    };
    let (url, db) = bench.copy().await?;
    db.close().await;
    let all = capacity(&url, &keys, load.connections).await?;
    let rate = all * f64::from(load.capacity) / 100.0;
    println!("capacity {all:.0} statements/s, load {rate:.0} statements/s, one in {UPDATE_EVERY} an update");

    let mut p99: [Series; 5] = std::array::from_fn(|_| Series::default());
    let mut rows: [Series; 5] = std::array::from_fn(|_| Series::default());
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|contender| *contender == Contender::Idle || load.contender.is_empty() || load.contender.contains(contender))
        .collect();
    let (mut round, mut tries) = (0, options.rounds * TRIES);
    while round < options.rounds {
        ensure!(
            tries > 0,
            "the host shares this machine's processors with others: {round} rounds could be measured"
        );
        tries -= 1;
        let mut watched = Vec::with_capacity(contenders.len());
        for contender in &contenders {
            let place = folder.path().join(format!("{contender:?}{tries}"));
            let one = watch(*contender, load, &mut bench, &keys, rate, &place).await?;
            println!(
                "round {round} {contender:?}: p99 {:.2} ms, {:.0} rows/s, {:.1} % stolen",
                one.p99,
                one.rows,
                one.stolen * 100.0
            );
            watched.push(one);
        }
        if watched.iter().any(|one| one.stolen > stolen::TOO_MUCH) {
            println!("round {round} is made again: the host took more than a hundredth of the processors' time");
            continue;
        }
        for (contender, one) in contenders.iter().zip(watched) {
            p99[*contender as usize].push(one.p99);
            rows[*contender as usize].push(one.rows);
        }
        round += 1;
    }
    let [idle, throttled, full_speed, naive, plain] = &p99;
    line("foreground p99, nothing else", idle, "ms");
    line("foreground p99, dbkeep as it comes", throttled, "ms");
    line("foreground p99, dbkeep at full speed", full_speed, "ms");
    line("foreground p99, naive batches", naive, "ms");
    line("foreground p99, plain statements with rests", plain, "ms");
    line("rows deleted a second, dbkeep as it comes", &rows[1], "/s");
    line("rows deleted a second, dbkeep at full speed", &rows[2], "/s");
    line("rows deleted a second, naive batches", &rows[3], "/s");
    line("rows deleted a second, plain statements with rests", &rows[4], "/s");
    ratio("foreground p99, default throttle / idle", &throttled.ratios(idle), 1.5);
    ratio(
        "foreground p99, default throttle / naive batches",
        &throttled.ratios(naive),
        0.1,
    );
    line("foreground p99, full speed / idle (no target)", &full_speed.ratios(idle), "");
    line(
        "foreground p99, plain statements with rests / idle (no target)",
        &plain.ratios(idle),
        "",
    );
    Ok(())
}
