//! `dbkeepd`: the server as a process. Reads the command line, starts a [`Server`], and turns signals into a shutdown.
//!
//! Prints exactly one line to its output, `listening on ADDRESS:PORT`, when it serves; everything else goes to the error stream.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use dbkeep_server::{
    CatalogSource, Config, Server, check,
    config::{MigrationsConfig, TargetConfig, Url},
    process,
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
    /// A database to maintain, besides the file's; ${NAME} in its URL is a variable of the environment. Can be repeated.
    #[arg(long = "target", value_name = "NAME=URL")]
    targets: Vec<String>,
    /// Operations of the databases that --target names: a file, or builtin:learning-platform. Can be repeated.
    #[arg(long = "catalog", value_name = "PATH", requires = "targets")]
    catalogs: Vec<String>,
    /// A folder whose files the rules of the databases that --target names may take. Can be repeated.
    #[arg(long = "root", value_name = "NAME=PATH", requires = "targets", value_parser = root)]
    roots: Vec<(String, PathBuf)>,
    /// Migrations folder of a target, instead of the file's; its layout is detected. Without a name, of the databases that --target names.
    /// A folder whose own path has a = in it is written with ./ before it. Can be repeated.
    #[arg(long, value_name = "[TARGET=]DIR", value_parser = migrations)]
    migrations: Vec<(Option<String>, PathBuf)>,
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

/// Reads a value of --target. No message repeats it: whoever writes a password there, or a URL without a name, should not find it in a log.
fn target(position: usize, text: &str) -> anyhow::Result<(String, Url)> {
    let named = text.split_once('=').filter(|(name, _)| is_name(name));
    let (name, url) = named.with_context(|| {
        format!(
            "value {} of --target: expected NAME=URL such as app=sqlite://app.db",
            position + 1
        )
    })?;
    let url = Url::from_command_line(url).map_err(|problem| anyhow::anyhow!("--target {name}: {problem}"))?;
    Ok((name.to_owned(), url))
}

fn root(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text
        .split_once('=')
        .ok_or("expected NAME=PATH such as uploads=/srv/app/uploads")?;
    Ok((name.to_owned(), path.into()))
}

/// What stands before a = is a target where it can be the name of one.
fn migrations(text: &str) -> Result<(Option<String>, PathBuf), String> {
    let (name, folder) = match text.split_once('=') {
        Some((name, folder)) if is_name(name) => (Some(name.to_owned()), folder),
        _ => (None, text),
    };
    if folder.is_empty() {
        return Err("expected a folder, or TARGET=FOLDER such as app=/srv/app/migrations".to_owned());
    }
    Ok((name, folder.into()))
}

fn is_name(text: &str) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    !text.is_empty() && text.chars().all(fits)
}

fn main() -> ExitCode {
    if let Err(error) = process::harden() {
        eprintln!("dbkeepd: the process cannot be closed to others: {error}");
        return ExitCode::FAILURE;
    }
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
    let traces = telemetry::init(format)?;
    let ended = work(options).await;
    traces.end().await;
    ended
}

async fn work(options: Options) -> anyhow::Result<()> {
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
    let from_file = config.targets.len();
    for (position, text) in options.targets.iter().enumerate() {
        let (name, url) = target(position, text)?;
        config.targets.push(TargetConfig {
            name,
            url,
            catalogs: catalogs.clone(),
            roots: roots.clone(),
            migrations: None,
        });
    }
    let (from_file, added) = config.targets.split_at_mut(from_file);
    declare_migrations(options.migrations, from_file, added)?;
    config.check()?;
    Ok(config)
}

/// Gives targets the folders that the command line names: those of the file by name, those of the command line all at once too.
fn declare_migrations(
    folders: Vec<(Option<String>, PathBuf)>,
    from_file: &mut [TargetConfig],
    added: &mut [TargetConfig],
) -> anyhow::Result<()> {
    let known: Vec<String> = from_file.iter().chain(&*added).map(|target| target.name.clone()).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    // Whoever reads of it in an answer does not know where this process was started.
    let detected = |folder: PathBuf| MigrationsConfig {
        folder: std::path::absolute(&folder).unwrap_or(folder),
        layout: None,
    };
    let (named, for_all): (Vec<_>, Vec<_>) = folders.into_iter().partition(|(name, _)| name.is_some());
    anyhow::ensure!(
        for_all.len() < 2,
        "--migrations is given twice without a target; expected TARGET=DIR for each (known targets: {known})"
    );
    for (_, folder) in for_all {
        anyhow::ensure!(
            !added.is_empty(),
            "--migrations {} names no target, and there is no --target; expected TARGET=DIR (known targets: {known})",
            folder.display()
        );
        for target in &mut *added {
            target.migrations = Some(detected(folder.clone()));
        }
    }
    let mut given = Vec::new();
    for (name, folder) in named {
        let name = name.unwrap_or_default();
        anyhow::ensure!(
            !given.contains(&name),
            "--migrations {name} is given twice; expected one folder for each target"
        );
        let found = from_file.iter_mut().chain(&mut *added).find(|target| target.name == name);
        let target = found.with_context(|| {
            format!(
                "--migrations {name}={}: there is no target {name}; known targets: {known} (a folder of this name is written ./{name}={})",
                folder.display(),
                folder.display()
            )
        })?;
        // The folder is another; how its files are named is still what the file says.
        let layout = target.migrations.take().and_then(|before| before.layout);
        target.migrations = Some(MigrationsConfig {
            layout,
            ..detected(folder)
        });
        given.push(name);
    }
    Ok(())
}

async fn report(config: &Config) -> anyhow::Result<()> {
    for target in check(config).await? {
        let verdict = target.unreachable.map_or_else(
            || "fit the database".to_owned(),
            |problem| format!("not compared with the database, which cannot be reached: {problem}"),
        );
        println!("target {}: {} operations, {verdict}", target.name, target.operations);
        let declared = config.targets.iter().find(|declared| declared.name == target.name);
        if let Some(migrations) = declared.and_then(|declared| declared.migrations.as_ref()) {
            println!("target {}: migrations in {}", target.name, migrations.folder.display());
        }
        for line in target.role {
            println!("target {}: {line}", target.name);
        }
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
