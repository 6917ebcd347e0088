//! The server under test, as a process of its own, so that its memory is its own too.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dbkeep_client::{Client, PlanRequest, RunRequest, UndoRequest, proto};

/// The catalog of the benchmark: the same orphans with and without capture. Severity LOW and a share of up to all rows, since
/// what is measured is speed.
pub(crate) const CATALOG: &str = r#"
[[operation]]
name = "delete_only"
category = "ORPHANED_DATA"
severity = "LOW"
backup = false

[[operation.rule]]
name = "orphans"
kind = "orphan"
table = "user_progress"
columns = ["user_id"]
parent = "users"
parent_columns = ["id"]
max_fraction = 1.0

[[operation]]
name = "with_capture"
category = "ORPHANED_DATA"
severity = "LOW"
backup = true

[[operation.rule]]
name = "orphans"
kind = "orphan"
table = "user_progress"
columns = ["user_id"]
parent = "users"
parent_columns = ["id"]
max_fraction = 1.0
"#;

/// Serves until standard input closes: the other side of [`Server::start`].
pub(crate) async fn serve(data: &Path, target: &str, root: Option<PathBuf>) -> Result<()> {
    let catalog = data.join("catalog.toml");
    let mut config = dbkeep_server::Config::embedded(data).with_target("bench", target, catalog.display().to_string());
    if let Some(root) = root {
        config = config.with_root("bench", "files", root);
    }
    let migrations = data.join("migrations");
    if migrations.exists() {
        config = config.with_migrations("bench", migrations, None);
    }
    // What is measured is how fast calls are answered, not how many one caller may make; each is counted all the same.
    config.access.calls.per_second = 10_000_000;
    config.access.calls.burst = 10_000_000;
    let _traces = dbkeep_server::telemetry::init(dbkeep_server::telemetry::Format::Text)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let closed = shutdown.clone();
    tokio::task::spawn_blocking(move || {
        // The end of the input, or an error on it, means that the benchmark is gone.
        let _ = std::io::stdin().read_line(&mut String::new());
        closed.cancel();
    });
    Ok(dbkeep_server::serve(listener, config, shutdown).await?)
}

pub(crate) struct Server {
    child: Child,
    pub(crate) client: Client,
    /// Where it listens, `host:port`.
    pub(crate) address: String,
}

/// What one run took.
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) run: proto::Run,
}

impl Server {
    /// Starts this program again as a server on the target.
    pub(crate) async fn start(data: &Path, target: &str) -> Result<Self> {
        Self::start_with(data, target, CATALOG, None).await
    }

    /// The same with another catalog, and a folder as root "files".
    pub(crate) async fn start_with(data: &Path, target: &str, catalog: &str, root: Option<&Path>) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        std::fs::write(data.join("catalog.toml"), catalog)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args([data.as_os_str(), target.as_ref()])
            .args(root)
            .env("DBKEEP_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut address)?;
        let client = Client::builder()
            .address(address.trim())
            .plan_timeout(Duration::from_secs(600))
            .connect()
            .await?;
        let address = address.trim().to_owned();
        Ok(Self { child, client, address })
    }

    /// One cleanup from the call to its last event, planning included.
    pub(crate) async fn cleanup(&self, operation: &str, full_speed: bool, batch: u32) -> Result<Measured> {
        let mut request = RunRequest::new([operation])
            .execute()
            .batch_size(batch)
            .max_execution_time(Duration::from_secs(7_200));
        if full_speed {
            request = request.full_speed();
        }
        let began = Instant::now();
        let run = self.client.cleanup().run(request).await?.finish().await?;
        let seconds = began.elapsed().as_secs_f64();
        ensure!(
            run.state() == proto::RunState::Succeeded,
            "the run ended {:?}: {}",
            run.state(),
            run.state_reason
        );
        Ok(Measured { seconds, run })
    }

    pub(crate) async fn plan(&self, operation: &str) -> Result<f64> {
        let began = Instant::now();
        self.client.cleanup().plan(PlanRequest::new([operation])).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    pub(crate) async fn undo(&self, run: &str) -> Result<f64> {
        let began = Instant::now();
        let undo = self
            .client
            .runs()
            .undo(UndoRequest::new(run).full_speed())
            .await?
            .finish()
            .await?;
        ensure!(
            undo.state() == proto::RunState::Succeeded,
            "the undo ended {:?}: {}",
            undo.state(),
            undo.state_reason
        );
        Ok(began.elapsed().as_secs_f64())
    }

    /// Peak resident memory of the server so far, MB (10^6 bytes).
    pub(crate) fn peak_rss_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0 / 1e6)
    }
}

impl Server {
    /// Processor time that the server has taken so far, seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may hold anything; user and system time are the 12th and 13th field after it, in hundredths of seconds.
        let (_, rest) = stat.rsplit_once(')').context("a name")?;
        let mut times = rest.split_whitespace().skip(11);
        let mut next = || -> Result<f64> { Ok(times.next().context("a time")?.parse()?) };
        Ok((next()? + next()?) / 100.0)
    }
}

/// A server that knows nothing of dbkeep but one message.
pub(crate) struct BareServer {
    child: Child,
    address: String,
}

impl BareServer {
    /// Where it listens, `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nobody is left to tell of a failure.
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts this program again as a bare server that answers with the encoded list of targets in a file.
    pub(crate) fn start_bare(answer: &Path) -> Result<BareServer> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve-bare")
            .arg(answer)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut address)?;
        let address = address.trim().to_owned();
        Ok(BareServer { child, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nobody is left to tell of a failure.
        let _ = self.child.wait();
    }
}
