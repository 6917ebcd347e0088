//! `dbkeepd`: the server as a process. Reads the command line, starts a [`Server`], and turns signals into a shutdown.
//!
//! Prints exactly one line to its output, `listening on ADDRESS:PORT`, when it serves; everything else goes to the error stream.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use dbkeep_server::{
    CatalogSource, Config, Server, check,
    config::{MigrationsConfig, TargetConfig},
    telemetry::{self, Format},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Maintains databases: plans, runs, undoes and verifies cleanups over gRPC.
///
/// Without any option it keeps its state in a data folder and listens on 127.0.0.1:50777.
#[derive(Debug, Parser)]
#[command(name = "dbkeepd", version)]
struct Options {
    /// Settings to read; dbkeep.toml in the repository shows all of them. No file is read unless it is named here.
    #[arg(long, value_name = "FILE", env = "DBKEEP_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on, instead of the file's. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Data folder, instead of the file's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A database to maintain, besides the file's. Can be repeated.
    #[arg(long = "target", value_name = "NAME=URL", value_parser = target)]
    targets: Vec<(String, String)>,
    /// Operations of the databases that --target names: a file, or builtin:learning-platform. Can be repeated.
    #[arg(long = "catalog", value_name = "PATH", requires = "targets")]
    catalogs: Vec<String>,
    /// A folder whose files the rules of the databases that --target names may take. Can be repeated.
    #[arg(long = "root", value_name = "NAME=PATH", requires = "targets", value_parser = root)]
    roots: Vec<(String, PathBuf)>,
    /// Migrations folder of the databases that --target names; its layout is detected.
    #[arg(long, value_name = "DIR", requires = "targets")]
    migrations: Option<PathBuf>,
    /// Check the settings and the catalogs, and exit.
    #[arg(long)]
    check: bool,
    /// How log lines look. What is logged is set by DBKEEP_LOG, as in "info" or "debug,sqlx=warn".
    #[arg(long, value_enum, default_value_t, env = "DBKEEP_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn target(text: &str) -> Result<(String, String), String> {
    let (name, url) = text.split_once('=').ok_or("expected NAME=URL such as app=sqlite://app.db")?;
    Ok((name.to_owned(), url.to_owned()))
}

fn root(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text
        .split_once('=')
        .ok_or("expected NAME=PATH such as uploads=/srv/app/uploads")?;
    Ok((name.to_owned(), path.into()))
}

fn main() -> ExitCode {
    let options = Options::parse();
    #[cfg(feature = "failpoints")]
    let _scenario = failpoints::arm();
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dbkeepd: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The chain of causes in one line. Whoever tells its cause itself is not followed by it once more.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

#[tokio::main]
async fn start(options: Options) -> anyhow::Result<()> {
    let format = match options.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    telemetry::init(format)?;
    let only_check = options.check;
    let config = configure(options)?;
    if only_check {
        return report(&config).await;
    }
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let server = Server::start(config, &shutdown).await?;
    println!("listening on {address}");
    server.serve(listener, shutdown).await?;
    Ok(())
}

/// The file's settings, overruled and completed by the command line.
fn configure(options: Options) -> anyhow::Result<Config> {
    let mut config = match (&options.config, options.data.clone()) {
        (Some(file), _) => Config::from_file(file)?,
        (None, Some(data)) => Config::embedded(data),
        (None, None) => Config::embedded(Config::default_data_folder()?),
    };
    config.data_folder = options.data.unwrap_or(config.data_folder);
    config.listen = options.listen.unwrap_or(config.listen);
    let catalogs = options.catalogs.into_iter().map(CatalogSource::from).collect::<Vec<_>>();
    let mut roots = BTreeMap::new();
    for (name, path) in options.roots {
        anyhow::ensure!(
            roots.insert(name.clone(), path).is_none(),
            "--root {name} is given twice; expected unique names"
        );
    }
    let added = options.targets.into_iter().map(|(name, url)| TargetConfig {
        name,
        url: url.into(),
        catalogs: catalogs.clone(),
        roots: roots.clone(),
        migrations: options
            .migrations
            .clone()
            .map(|folder| MigrationsConfig { folder, layout: None }),
    });
    config.targets.extend(added);
    config.check()?;
    Ok(config)
}

async fn report(config: &Config) -> anyhow::Result<()> {
    for target in check(config).await? {
        let verdict = target.unreachable.map_or_else(
            || "fit the database".to_owned(),
            |problem| format!("not compared with the database, which cannot be reached: {problem}"),
        );
        println!("target {}: {} operations, {verdict}", target.name, target.operations);
    }
    println!("the configuration is valid");
    Ok(())
}

/// The first SIGTERM or SIGINT shuts down in order; a second one ends the process at once, which costs no more than a crash.
fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for times in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if times > 1 {
                tracing::warn!("second signal: ending at once");
                std::process::exit(1);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}

/// Crash points for tests.
#[cfg(feature = "failpoints")]
mod failpoints {
    use rustix::process::{Signal, getpid, kill_process};

    /// Arms the points that the variable FAILPOINTS names, as in `batch-committed=panic`. A panic that a point raises becomes a
    /// real SIGKILL, so that nothing is flushed, closed or unwound.
    pub(super) fn arm() -> fail::FailScenario<'static> {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str().is_some_and(|message| message.starts_with("failpoint")) {
                // Should the signal be refused, the panic goes its usual way.
                let _ = kill_process(getpid(), Signal::KILL);
            }
            usual(panic);
        }));
        fail::FailScenario::setup()
    }
}
