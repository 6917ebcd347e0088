//! The configuration: what an operator sets, read from TOML and checked before anything is opened.
//!
//! A refusal names file, line and what was expected. No setting is needed to start: [`Config::embedded`] is a SQLite control store
//! in a data folder, on loopback. Called by the binary, and by tests that start a server. The settings are shown one by one in
//! `dbkeep.toml` at the root of the repository.

pub mod access;
mod audit;
pub mod channels;
mod read;
mod roots;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use dbkeep_engine::{
    engine::Settings,
    model::Layout,
    notify::{Route, Routing},
};

use access::AccessConfig;
use channels::ChannelConfig;

use crate::target::TARGET_SILENCE;

/// Name of the catalog that is built in.
pub const BUILTIN_CATALOG: &str = "builtin:learning-platform";
/// Where the server listens if nothing else is said.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_777);

/// The configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// "file:line", or what else the setting came from.
    pub place: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// A connection string. It may hold a password, so that it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The string itself, for those who connect.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The file of a SQLite URL; `None` for other products.
    #[must_use]
    pub fn sqlite_file(&self) -> Option<&Path> {
        let rest = self.0.strip_prefix("sqlite:")?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        Some(Path::new(rest.split_once('?').map_or(rest, |(path, _)| path)))
    }
}

impl Url {
    /// Reads a URL of a command line, where `${NAME}` stands for a variable of the environment. A password that is written out is refused:
    /// every user of the machine can read it there. A relative path of a file starts where the process does.
    ///
    /// # Errors
    /// What is wrong with it, without its text.
    pub fn from_command_line(text: &str) -> Result<Self, String> {
        if read::has_written_password(text) {
            return Err(
                "the URL holds a password, and every user of this machine can read a command line; expected it in a variable of the environment, as in \
                 'postgres://user:${APP_PASSWORD}@host/database' with the quotes, or [[target]] with password_file in a file for --config"
                    .to_owned(),
            );
        }
        read::expand(text, &|name| std::env::var(name).ok()).map(Self)
    }
}

impl From<&str> for Url {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Url {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.split_once(':').map_or("", |(scheme, _)| scheme);
        write!(formatter, "{scheme}:<hidden>")
    }
}

/// Where the operations of a target are declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogSource {
    /// The learning platform's catalog, which is part of the binary.
    Builtin,
    /// A file.
    File(PathBuf),
    /// A text at hand, under the name by which messages call it.
    Text {
        /// That name.
        name: String,
        /// The catalog.
        text: String,
    },
}

impl From<&str> for CatalogSource {
    /// `builtin:learning-platform`, or a path.
    fn from(text: &str) -> Self {
        if text == BUILTIN_CATALOG {
            Self::Builtin
        } else {
            Self::File(PathBuf::from(text))
        }
    }
}

impl From<String> for CatalogSource {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Path> for CatalogSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<PathBuf> for CatalogSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// A database to be maintained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// Its name, unique: 1 to 63 of A-Z a-z 0-9 _ -.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// Its catalogs, merged in this order; none means that it has no operations.
    pub catalogs: Vec<CatalogSource>,
    /// Folders whose files its rules may take, by the names that rules use.
    pub roots: BTreeMap<String, PathBuf>,
    /// Its migrations; `None` where it has none.
    pub migrations: Option<MigrationsConfig>,
}

/// Where the migrations of a target are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationsConfig {
    /// The folder.
    pub folder: PathBuf,
    /// Its layout; `None` to detect it.
    pub layout: Option<Layout>,
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; used by the binary only, since [`crate::serve`] is given a listener.
    pub listen: SocketAddr,
    /// Longest time from the signal to stop until the server is gone.
    pub shutdown_grace: Duration,
    /// Most open event streams.
    pub max_streams: usize,
    /// Who may call, and how much.
    pub access: AccessConfig,
    /// Folder of what the server keeps for itself.
    pub data_folder: PathBuf,
    /// The control store, where it is not a SQLite file in the data folder.
    pub store_url: Option<Url>,
    /// How long to wait at start for a control store that does not answer.
    pub store_wait: Duration,
    /// The backup folder, where it is not `backups` in the data folder.
    pub backup_folder: Option<PathBuf>,
    /// Folder of `pg_dump` and `pg_restore`, where it is not to be found on the PATH.
    pub pg_bin: Option<PathBuf>,
    /// How long a target may be silent before that is looked into; zero for never.
    pub target_silence: Duration,
    /// How runs are worked on.
    pub engine: Settings,
    /// Most points of metrics' history that the control store keeps.
    pub history_points: u64,
    /// File that gets the head of the audit log; how often, and how long records are kept, is in `engine.audit`.
    pub anchor_file: Option<PathBuf>,
    /// Whether schedules that catalogs declare are created when they are first met.
    pub default_schedules: bool,
    /// The databases.
    pub targets: Vec<TargetConfig>,
    /// What carries notifications.
    pub channels: Vec<ChannelConfig>,
    /// Which of them go where.
    pub routes: Vec<Route>,
    /// Roots that were declared for a target that there is not: refused when the configuration is checked.
    stray_roots: Vec<(String, String)>,
}

impl Config {
    /// A server of its own with everything in one folder: a SQLite control store, and the backups.
    #[must_use]
    pub fn embedded(data_folder: impl Into<PathBuf>) -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            shutdown_grace: Duration::from_secs(10),
            max_streams: 10_000,
            access: AccessConfig::default(),
            data_folder: data_folder.into(),
            store_url: None,
            store_wait: Duration::from_secs(60),
            backup_folder: None,
            pg_bin: None,
            target_silence: TARGET_SILENCE,
            engine: Settings::default(),
            history_points: crate::store::KEPT_POINTS,
            anchor_file: None,
            default_schedules: true,
            targets: Vec::new(),
            channels: Vec::new(),
            routes: Vec::new(),
            stray_roots: Vec::new(),
        }
    }

    /// Adds a target with one catalog: `builtin:learning-platform`, a path, or a [`CatalogSource`].
    #[must_use]
    pub fn with_target(mut self, name: impl Into<String>, url: impl Into<Url>, catalog: impl Into<CatalogSource>) -> Self {
        self.targets.push(TargetConfig {
            name: name.into(),
            url: url.into(),
            catalogs: vec![catalog.into()],
            roots: BTreeMap::new(),
            migrations: None,
        });
        self
    }

    /// Declares the migrations folder of a target that was added before; its layout is detected where none is given.
    #[must_use]
    pub fn with_migrations(mut self, target: &str, folder: impl Into<PathBuf>, layout: Option<Layout>) -> Self {
        let folder = folder.into();
        if let Some(target) = self.targets.iter_mut().find(|declared| declared.name == target) {
            target.migrations = Some(MigrationsConfig { folder, layout });
        } else {
            self.stray_roots.push((target.to_owned(), folder.display().to_string()));
        }
        self
    }

    /// Declares a folder whose files the rules of a target may take, which was added before.
    #[must_use]
    pub fn with_root(mut self, target: &str, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        if let Some(target) = self.targets.iter_mut().find(|declared| declared.name == target) {
            target.roots.insert(name.into(), path.into());
        } else {
            self.stray_roots.push((target.to_owned(), name.into()));
        }
        self
    }

    /// Adds a channel for notifications.
    #[must_use]
    pub fn with_channel(mut self, channel: ChannelConfig) -> Self {
        self.channels.push(channel);
        self
    }

    /// Adds a route over channels that were added before.
    #[must_use]
    pub fn with_route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Which notifications go where.
    #[must_use]
    pub fn routing(&self) -> Routing {
        Routing::new(self.channels.iter().map(ChannelConfig::facts), self.routes.clone())
    }

    /// Uses another control store than the SQLite file in the data folder.
    #[must_use]
    pub fn with_store(mut self, url: impl Into<Url>) -> Self {
        self.store_url = Some(url.into());
        self
    }

    /// The control store's URL.
    ///
    /// # Errors
    /// Where the data folder's path cannot be written in a URL.
    pub fn store_url(&self) -> Result<Url, ConfigError> {
        self.store_url
            .clone()
            .map_or_else(|| sqlite_url(&self.data_folder.join("control.db")), Ok)
    }

    /// The backup folder.
    #[must_use]
    pub fn backup_folder(&self) -> PathBuf {
        self.backup_folder.clone().unwrap_or_else(|| self.data_folder.join("backups"))
    }

    /// The data folder where none is named: `$XDG_DATA_HOME/dbkeep`, else `~/.local/share/dbkeep`.
    ///
    /// # Errors
    /// Where the environment names neither.
    pub fn default_data_folder() -> Result<PathBuf, ConfigError> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("dbkeep"))
            .ok_or_else(|| {
                refuse(
                    "environment",
                    "neither XDG_DATA_HOME nor HOME is an absolute path; expected a data folder ([data] folder, or --data)",
                )
            })
    }

    /// The folder for lists that are too long for memory.
    #[must_use]
    pub fn spill_folder(&self) -> PathBuf {
        self.data_folder.join("spill")
    }

    /// Checks what one setting alone cannot show: names of targets, where the server listens, where
    /// notifications go, and that roots are apart.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.access
            .check_listen(self.listen)
            .map_err(|problem| refuse("listen", problem))?;
        for (position, target) in self.targets.iter().enumerate() {
            check_target_name(&target.name).map_err(|problem| refuse("target", problem))?;
            if self.targets[..position].iter().any(|other| other.name == target.name) {
                return Err(refuse(
                    "target",
                    format!("{} is declared twice; expected unique names", target.name),
                ));
            }
        }
        self.access.check(&self.targets)?;
        channels::check(self)?;
        audit::check(self)?;
        roots::check(self)
    }
}

fn refuse(place: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        place: place.into(),
        problem: problem.into(),
    }
}

fn check_target_name(name: &str) -> Result<(), String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
    if !name.is_empty() && name.len() <= 63 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!("the name is {name:?}; expected 1 to 63 of A-Z a-z 0-9 _ -"))
}

/// The URL of a SQLite file.
fn sqlite_url(path: &Path) -> Result<Url, ConfigError> {
    let Some(text) = path.to_str() else {
        return Err(refuse(
            path.display().to_string(),
            "is no UTF-8; expected a path that a URL can hold",
        ));
    };
    // The driver decodes percent signs and cuts at a question mark.
    Ok(Url(format!(
        "sqlite://{}",
        text.replace('%', "%25").replace('?', "%3F").replace('#', "%23")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_loopback_is_taken() {
        let plain = AccessConfig::default();
        for taken in ["127.0.0.1:0", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(plain.check_listen(taken.parse().expect("an address")), Ok(()), "{taken}");
        }
        for refused in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let refused = refused.parse().expect("an address");
            let problem = plain.check_listen(refused).expect_err("must be refused");
            assert!(problem.contains("there is no TLS"), "{problem}");
            let told = AccessConfig {
                dangerously_listen_without_tls: true,
                ..AccessConfig::default()
            };
            assert_eq!(told.check_listen(refused), Ok(()));
        }
    }

    #[test]
    fn names_of_targets_are_unique_and_plain() {
        let config = Config::embedded("d").with_target("a", "sqlite://a", BUILTIN_CATALOG);
        assert_eq!(config.check(), Ok(()));
        assert!(config.clone().with_target("a", "sqlite://b", "c.toml").check().is_err());
        assert!(config.clone().with_target("a b", "sqlite://b", "c.toml").check().is_err());
        assert!(config.with_target("x".repeat(64), "sqlite://b", "c.toml").check().is_err());
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = Config::embedded("d")
            .with_target("a", "postgres://u:s3cret@h/d", BUILTIN_CATALOG)
            .with_store("postgres://u:s3cret@h/d");
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn the_embedded_store_lies_in_the_data_folder() {
        let config = Config::embedded("/d%/x?");
        assert_eq!(config.store_url().expect("a URL").expose(), "sqlite:///d%25/x%3F/control.db");
        assert_eq!(config.backup_folder(), Path::new("/d%/x?/backups"));
        assert_eq!(Url::from("sqlite://a/b.db?mode=ro").sqlite_file(), Some(Path::new("a/b.db")));
    }
}
