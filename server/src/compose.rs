//! The composition root: the only place that names adapters. It opens the control store, the backup folder and the targets of a
//! configuration, reads the catalogs, and puts the engine together. Called by [`crate::Server`] and by `dbkeepd --check`.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dbkeep_engine::{
    Engine, EngineError,
    catalog::{Catalog, CatalogError},
    engine::{Migrations, MonitorSettings, TargetEntry},
    model::privilege::{Access, Feature},
    notify::Channels,
    planner::{self, PlanError},
    port::{ArchiveError, FileRoot, FilesError, Notifier, Outbox as _, Roots, Store, StoreError},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    anchor_file::LineFile,
    archive::FolderArchive,
    config::{BUILTIN_CATALOG, CatalogSource, Config, ConfigError, TargetConfig, Url},
    files::FolderRoot,
    machine::LocalMachine,
    migration_folder::DiskFolder,
    notify,
    store::{ControlStore, KEPT_SERIES},
    target,
};

/// The learning platform's catalog.
const BUILTIN_TEXT: &str = include_str!("../../catalogs/learning-platform.toml");
/// First wait before a control store that does not answer is asked again; doubled up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait between two tries.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// File in the data folder with the token that was made at the first start.
const FIRST_TOKEN_FILE: &str = "admin-token";
/// File in the control store's folder that a running server holds.
const LOCK_FILE: &str = "dbkeepd.lock";

/// A server cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A folder cannot be used.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another server uses the same control store.
    #[error(
        "the control store in {folder} is in use by another dbkeepd (process {process}); expected another data folder, or that server to be stopped"
    )]
    InUse {
        /// Folder of the control store.
        folder: String,
        /// The other's process id, as it wrote it down.
        process: String,
    },
    /// The control store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It did not answer within the time that was given.
    #[error("{source} (tried for {waited_seconds} s)")]
    StoreAbsent {
        /// What the last try said.
        source: StoreError,
        /// For how long it was tried.
        waited_seconds: u64,
    },
    /// The backup folder cannot be used.
    #[error("backup folder: {0}")]
    Archive(#[from] ArchiveError),
    /// A target's URL cannot be used.
    #[error("target {name}: {source}")]
    TargetUrl {
        /// The target.
        name: String,
        /// What is wrong with it.
        source: target::UrlError,
    },
    /// A catalog was refused.
    #[error("target {name}: {source}")]
    Catalog {
        /// The target.
        name: String,
        /// Where and why.
        source: CatalogError,
    },
    /// A catalog cannot be read.
    #[error("target {name}: catalog {path}: {source}")]
    CatalogFile {
        /// The target.
        name: String,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A root cannot be used.
    #[error("target {name}: {source}")]
    Root {
        /// The target.
        name: String,
        /// What is wrong with it.
        source: FilesError,
    },
    /// A channel cannot be used.
    #[error("channel {name}: {problem}")]
    Channel {
        /// The channel.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A catalog does not fit its target.
    #[error(transparent)]
    Mismatch(EngineError),
    /// The first token cannot be made.
    #[error("first token: {0}")]
    Token(EngineError),
    /// The schedules that the catalogs declare cannot be created.
    #[error("schedules: {0}")]
    Schedules(EngineError),
    /// The server was told to stop before it had started.
    #[error("stopped before the control store answered")]
    Stopped,
}

/// What a server consists of.
pub(crate) struct Composition {
    pub(crate) engine: Engine,
    pub(crate) store: ControlStore,
    /// Held for as long as the server lives; `None` for a shared store.
    pub(crate) lock: Option<FolderLock>,
}

/// Puts a server together. Targets are not needed for that: one that is out of reach only costs a warning.
pub(crate) async fn compose(config: &Config, shutdown: &CancellationToken) -> Result<Composition, ComposeError> {
    config.check()?;
    let targets = targets(config)?;
    let mut settings = config.engine.clone();
    settings.notify.channels = channels(config)?;
    settings.notify.routing = Arc::new(config.routing());
    settings.audit.anchor_file = config.anchor_file.clone().map(|path| Arc::new(LineFile::new(path)) as _);
    watch_machine(config, &mut settings.monitor);
    let url = config.store_url()?;
    make_folder(&config.data_folder)?;
    let lock = match url.sqlite_file() {
        Some(file) => Some(FolderLock::take(
            file.parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )?),
        None => None,
    };
    let store = open_store(&url, config.store_wait, shutdown).await?;
    let store = store
        .announcing(Arc::clone(&settings.notify.routing))
        .keeping_history(config.history_points, KEPT_SERIES);
    if lock.is_some() {
        // Nobody else can hold a lease: runs of the process before this one go on at once.
        store.release_all().await?;
        store.release_deliveries().await?;
    }
    let archive = FolderArchive::open(config.backup_folder())?;
    let engine = Engine::new(targets, Arc::new(store.clone()), Arc::new(archive), settings);
    engine.check_catalogs().await.map_err(ComposeError::Mismatch)?;
    keep_first_token(&engine, &config.data_folder).await?;
    if config.default_schedules {
        engine.seed_schedules().await.map_err(ComposeError::Schedules)?;
    }
    if let Err(error) = engine.missing_channels().await {
        // Nothing but a warning would have come of it.
        tracing::warn!(%error, "channels of schedules could not be looked at");
    }
    Ok(Composition { engine, store, lock })
}

/// At the first start on a control store, makes a token for everything and writes it where only this user reads it.
///
/// The file is written first: a server that dies in between leaves a file of a token that opens nothing, which the next start replaces, and
/// never a token that nobody has. Of several servers that start together one keeps its file.
async fn keep_first_token(engine: &Engine, data_folder: &Path) -> Result<(), ComposeError> {
    let path = data_folder.join(FIRST_TOKEN_FILE);
    let failed = |source| ComposeError::Folder {
        path: path.display().to_string(),
        source,
    };
    if !engine.tokens().await.map_err(ComposeError::Token)?.is_empty() {
        return Ok(());
    }
    let random = crate::access::random().map_err(|()| {
        failed(std::io::Error::other(
            "the operating system gives no random bytes for a token",
        ))
    })?;
    let secret = Engine::new_secret(random);
    // Made for this user only, and complete under its name or not there.
    tempfile::NamedTempFile::new_in(data_folder)
        .and_then(|mut file| {
            writeln!(file, "{}", secret.reveal())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            fs::File::open(data_folder)?.sync_all()
        })
        .map_err(failed)?;
    if engine.keep_first(&secret).await.map_err(ComposeError::Token)? {
        tracing::info!(file = %path.display(), "first start: the administrator's token was written");
        return Ok(());
    }
    fs::remove_file(&path).map_err(failed)
}

/// What `--check` found of one target.
#[derive(Debug)]
pub struct TargetCheck {
    /// The target.
    pub name: String,
    /// Number of operations in its catalog.
    pub operations: usize,
    /// Why the catalog could not be compared with the target's schema; `None` where it fits.
    pub unreachable: Option<String>,
    /// What its role lacks, and could do besides, one sentence each.
    pub role: Vec<String>,
}

/// Checks a configuration and its catalogs; opens neither the control store nor the backup folder.
///
/// # Errors
/// The first thing that would keep a server from starting.
pub async fn check(config: &Config) -> Result<Vec<TargetCheck>, ComposeError> {
    config.check()?;
    channels(config)?;
    let mut checked = Vec::new();
    for (name, entry) in targets(config)? {
        let operations = entry.catalog.operations();
        let features = entry.features(config.engine.monitor.enabled);
        let (access, fits) = tokio::join!(
            entry.access(None, &features),
            planner::check(entry.target.as_ref(), &entry.roots, operations)
        );
        let role = match &access {
            Ok(Some(access)) => of_role(access, &features),
            Ok(None) | Err(_) => Vec::new(),
        };
        if fits.is_err() {
            // A table that the role may not see looks like one that is not there: what it lacks is told before the catalog is refused.
            role.iter().for_each(|line| tracing::warn!(target = name, "{line}"));
        }
        let unreachable = match fits {
            Ok(()) => None,
            Err(PlanError::Target(error)) => Some(error.to_string()),
            Err(PlanError::Files(error)) => Some(error.to_string()),
            Err(PlanError::Mismatch {
                origin,
                operation,
                rule,
                expected,
            }) => {
                return Err(ComposeError::Mismatch(EngineError::CatalogMismatch {
                    origin,
                    operation,
                    rule,
                    expected,
                }));
            }
        };
        checked.push(TargetCheck {
            name,
            operations: operations.len(),
            unreachable,
            role,
        });
    }
    Ok(checked)
}

/// What is to be said of a role.
fn of_role(access: &Access, features: &[Feature]) -> Vec<String> {
    let lacks = access.missing(features).map(|grant| {
        let lack = format!(
            "role {} lacks {} on {} ({}; {})",
            access.role,
            grant.privilege,
            grant.object,
            grant.feature.name(),
            grant.why
        );
        if grant.statement.is_empty() {
            lack
        } else {
            format!("{lack}: {};", grant.statement)
        }
    });
    let besides = access
        .excess
        .iter()
        .map(|excess| format!("role {} has more than it needs: {}: {}", access.role, excess.what, excess.why));
    lacks.chain(besides).collect()
}

fn targets(config: &Config) -> Result<BTreeMap<String, TargetEntry>, ComposeError> {
    let mut targets = BTreeMap::new();
    for declared in &config.targets {
        let tools = target::Tools {
            pg_bin: config.pg_bin.clone(),
            target_silence: config.target_silence,
        };
        let opened = target::open_with(declared.url.expose(), &tools);
        let target = opened.map_err(|source| ComposeError::TargetUrl {
            name: declared.name.clone(),
            source,
        })?;
        targets.insert(
            declared.name.clone(),
            TargetEntry {
                target,
                catalog: Arc::new(catalog(declared)?),
                roots: Arc::new(roots(config, declared)?),
                migrations: declared.migrations.as_ref().map(|declared| Migrations {
                    folder: Arc::new(DiskFolder::new(declared.folder.clone())),
                    layout: declared.layout,
                }),
            },
        );
    }
    Ok(targets)
}

/// The folders whose disks are watched: what dbkeep writes to, and the targets that are files of this machine.
fn watch_machine(config: &Config, monitor: &mut MonitorSettings) {
    let mut folders = vec![config.data_folder.clone(), config.backup_folder()];
    for target in &config.targets {
        let folder = target.url.sqlite_file().and_then(Path::parent);
        if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) {
            monitor.folders.insert(target.name.clone(), folder.display().to_string());
            folders.push(folder.to_owned());
        }
    }
    monitor.machine = Some(Arc::new(LocalMachine::new(folders)));
}

fn channels(config: &Config) -> Result<Channels, ComposeError> {
    let opened = config.channels.iter().map(|declared| {
        notify::open(declared).map_err(|problem| ComposeError::Channel {
            name: declared.name.clone(),
            problem,
        })
    });
    opened.collect::<Result<Vec<Arc<dyn Notifier>>, _>>().map(Channels::from_iter)
}

fn roots(config: &Config, target: &TargetConfig) -> Result<Roots, ComposeError> {
    let mut roots = Roots::new();
    for (name, path) in &target.roots {
        let root = FolderRoot::open(path, config.spill_folder()).map_err(|source| ComposeError::Root {
            name: target.name.clone(),
            source,
        })?;
        roots.insert(name.clone(), Arc::new(root) as Arc<dyn FileRoot>);
    }
    Ok(roots)
}

fn catalog(target: &TargetConfig) -> Result<Catalog, ComposeError> {
    let refused = |source| ComposeError::Catalog {
        name: target.name.clone(),
        source,
    };
    let mut merged = Catalog::default();
    for source in &target.catalogs {
        let catalog = match source {
            CatalogSource::Builtin => Catalog::parse(BUILTIN_CATALOG, BUILTIN_TEXT),
            CatalogSource::File(path) => {
                let shown = path.display().to_string();
                let text = fs::read_to_string(path).map_err(|source| ComposeError::CatalogFile {
                    name: target.name.clone(),
                    path: shown.clone(),
                    source,
                })?;
                Catalog::parse(&shown, &text)
            }
            CatalogSource::Text { name, text } => Catalog::parse(name, text),
        };
        merged.merge(catalog.map_err(refused)?).map_err(refused)?;
    }
    merged.check_schedules().map_err(refused)?;
    Ok(merged)
}

/// Opens the control store. A shared one may be down for a moment, or start at the same time: it is waited for.
async fn open_store(url: &Url, wait: Duration, shutdown: &CancellationToken) -> Result<ControlStore, ComposeError> {
    let begun = Instant::now();
    let mut pause = FIRST_WAIT;
    loop {
        let source = match ControlStore::open(url.expose()).await {
            Ok(store) => return Ok(store),
            Err(error @ StoreError::Unavailable(_)) if url.sqlite_file().is_none() => error,
            // A file does not become usable by waiting.
            Err(error) => return Err(error.into()),
        };
        if begun.elapsed() + pause > wait {
            return Err(ComposeError::StoreAbsent {
                source,
                waited_seconds: begun.elapsed().as_secs(),
            });
        }
        tracing::warn!(error = %source, "the control store does not answer yet");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return Err(ComposeError::Stopped),
        }
        pause = (pause * 2).min(LAST_WAIT);
    }
}

fn make_folder(folder: &Path) -> Result<(), ComposeError> {
    crate::archive::make_folder(folder).map_err(|source| ComposeError::Folder {
        path: folder.display().to_string(),
        source,
    })
}

/// The right to be the only server on an embedded control store. The system takes it back when the process ends, however it ends.
pub(crate) struct FolderLock {
    _file: fs::File,
}

impl FolderLock {
    fn take(folder: &Path) -> Result<Self, ComposeError> {
        make_folder(folder)?;
        let path: PathBuf = folder.join(LOCK_FILE);
        let failed = |source| ComposeError::Folder {
            path: path.display().to_string(),
            source,
        };
        let options = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let mut file = options.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut process = String::new();
                file.read_to_string(&mut process).map_err(failed)?;
                let process = if process.trim().is_empty() {
                    "unknown".to_owned()
                } else {
                    process.trim().to_owned()
                };
                return Err(ComposeError::InUse {
                    folder: folder.display().to_string(),
                    process,
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::schedule::Work;

    use super::*;

    #[test]
    fn a_second_server_on_a_folder_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = FolderLock::take(&folder.path().join("data")).expect("the lock");
        let Err(error) = FolderLock::take(&folder.path().join("data")) else {
            panic!("must be refused")
        };
        assert!(
            error.to_string().contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        FolderLock::take(&folder.path().join("data")).expect("the lock is free again");
    }

    #[test]
    fn the_builtin_catalog_is_valid() {
        let config = Config::embedded("d").with_target("a", "sqlite://a.db", BUILTIN_CATALOG);
        assert_eq!(catalog(&config.targets[0]).expect("a catalog").operations().len(), 9);
    }

    /// The schedules that a first start creates, word for word.
    #[test]
    fn the_builtin_catalog_has_three_schedules() {
        let config = Config::embedded("d").with_target("a", "sqlite://a.db", BUILTIN_CATALOG);
        let catalog = catalog(&config.targets[0]).expect("a catalog");
        let found: Vec<_> = catalog
            .schedules()
            .into_iter()
            .map(|spec| {
                assert!(spec.enabled && spec.timing.timezone == "UTC", "{}", spec.name);
                let Work::Operations(operations) = &spec.work else {
                    panic!("{:?}", spec.work)
                };
                let notify = &spec.notify;
                (
                    spec.name.as_str(),
                    spec.timing.cron.to_expression(),
                    operations.join(" "),
                    (spec.options.batch_rows, spec.options.max_execution_seconds),
                    (
                        notify.on_success,
                        notify.on_failure,
                        notify.on_warnings,
                        notify.channels.join(" "),
                    ),
                )
            })
            .collect();
        let channels = |names: &str| names.to_owned();
        let expected = [
            (
                "daily_cleanup",
                "0 2 * * *".to_owned(),
                "expired_tokens cached_data".to_owned(),
                (1_000, 1_800),
                (false, true, true, channels("email")),
            ),
            (
                "weekly_deep_clean",
                "0 1 * * 0".to_owned(),
                "orphaned_achievements orphaned_progress orphaned_leaderboard orphaned_prerequisites old_logs".to_owned(),
                (500, 3_600),
                (true, true, true, channels("email slack")),
            ),
            (
                "monthly_archive",
                "0 3 1 * *".to_owned(),
                "inactive_accounts temporary_files".to_owned(),
                (100, 7_200),
                (true, true, true, channels("email")),
            ),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn catalogs_of_a_target_may_not_overlap() {
        let mut config = Config::embedded("d").with_target("a", "sqlite://a.db", BUILTIN_CATALOG);
        config.targets[0].catalogs.push(CatalogSource::Text {
            name: "again".into(),
            text: BUILTIN_TEXT.into(),
        });
        let error = catalog(&config.targets[0]).expect_err("must be refused").to_string();
        assert!(
            error.starts_with("target a: again:") && error.contains("declared twice"),
            "{error}"
        );
    }
}
