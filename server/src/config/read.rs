//! Reading a configuration file: unknown keys, malformed values and missing variables are refused at their line.

mod access;
mod audit;
mod channels;
mod limits;
mod monitoring;
mod secret;

pub(super) use secret::{expand, has_written_password};

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use dbkeep_engine::{model::Layout, port::LONGEST_LEASE};
use serde::Deserialize;
use toml::Spanned;

use super::{
    BUILTIN_CATALOG, CatalogSource, Config, ConfigError, MigrationsConfig, TargetConfig, check_target_name, refuse, roots,
};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: ServerSection,
    tls: access::TlsSection,
    auth: access::AuthSection,
    calls: access::CallsSection,
    store: StoreSection,
    data: FolderSection,
    backup: BackupSection,
    engine: EngineSection,
    scheduler: SchedulerSection,
    limits: limits::Section,
    monitoring: monitoring::Section,
    audit: audit::Section,
    target: Vec<TargetSection>,
    notifications: channels::NotificationsSection,
    channel: Vec<channels::ChannelSection>,
    route: Vec<channels::RouteSection>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ServerSection {
    listen: Option<Spanned<String>>,
    shutdown_grace: Option<Spanned<String>>,
    max_streams: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StoreSection {
    url: Option<Spanned<String>>,
    url_file: Option<Spanned<PathBuf>>,
    password_file: Option<Spanned<PathBuf>>,
    wait: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FolderSection {
    folder: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BackupSection {
    folder: Option<PathBuf>,
    pg_bin: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EngineSection {
    lease_term: Option<Spanned<String>>,
    plan_lifetime: Option<Spanned<String>>,
    drift_fraction: Option<Spanned<f64>>,
    drift_rows: Option<u64>,
    concurrent_runs: Option<Spanned<u64>>,
    target_silence: Option<Spanned<String>>,
    approvals: Option<Spanned<u64>>,
    dangerously_run_critical_without_approval: Option<Spanned<bool>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct SchedulerSection {
    default_schedules: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetSection {
    name: Spanned<String>,
    url: Option<Spanned<String>>,
    url_file: Option<Spanned<PathBuf>>,
    password_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    catalog: Vec<Spanned<String>>,
    #[serde(default)]
    roots: BTreeMap<String, Spanned<PathBuf>>,
    migrations: Option<Spanned<PathBuf>>,
    migrations_layout: Option<Spanned<String>>,
    #[serde(default)]
    alerts: monitoring::Alerts,
}

/// Looks an environment variable up.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One file while it is read.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
    /// Folder that relative paths start from.
    base: &'a Path,
    environment: Environment<'a>,
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// The first thing in it that is unknown, malformed or out of bounds.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| refuse(&name, format!("cannot be read: {error}")))?;
        let base = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Self::from_text(&name, &text, base, &|variable| std::env::var(variable).ok())
    }

    fn from_text(name: &str, text: &str, base: &Path, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let source = Source {
            name,
            text,
            base,
            environment,
        };
        let file: File = toml::from_str(text)
            .map_err(|error| source.refuse(error.span().map_or(0, |span| span.start), without_value(error.message())))?;
        let data_folder = match file.data.folder {
            Some(folder) => base.join(folder),
            None => Self::default_data_folder()?,
        };
        let mut config = Self::embedded(data_folder);
        source.access(file.tls, file.auth, file.calls, &mut config)?;
        source.server(file.server, &mut config)?;
        config.store_url = source.database(
            file.store.url.as_ref(),
            file.store.url_file.as_ref(),
            file.store.password_file.as_ref(),
        )?;
        source.duration(
            file.store.wait,
            &mut config.store_wait,
            Duration::ZERO,
            Duration::from_secs(3_600),
        )?;
        config.backup_folder = file.backup.folder.map(|folder| base.join(folder));
        config.pg_bin = file.backup.pg_bin.map(|folder| base.join(folder));
        source.engine(file.engine, &mut config)?;
        config.default_schedules = file.scheduler.default_schedules.unwrap_or(config.default_schedules);
        source.limits(file.limits, &mut config)?;
        source.monitoring(file.monitoring, &mut config)?;
        for mut target in file.target {
            let alerts = std::mem::take(&mut target.alerts);
            let target = source.target(target, &config.targets)?;
            source.target_alerts(&target.name, alerts, &mut config)?;
            config.targets.push(target);
        }
        source.notifications(file.notifications, &mut config)?;
        for channel in file.channel {
            let channel = source.channel(channel, &config.channels)?;
            config.channels.push(channel);
        }
        for route in file.route {
            let route = source.route(route, &config)?;
            config.routes.push(route);
        }
        source.audit(file.audit, &mut config)?;
        Ok(config)
    }
}

/// What TOML's reader says, without the value that it found where another type belongs: it may be a secret that lacks its quotes.
fn without_value(message: &str) -> String {
    let message = message.replace('\n', ", ");
    if !message.starts_with("invalid type") && !message.starts_with("invalid value") {
        return message;
    }
    let Some((found, expected)) = message.split_once(", expected") else {
        return "a value of another type is expected".to_owned();
    };
    let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
    format!("{kind}, expected{expected}")
}

impl Source<'_> {
    fn refuse(&self, offset: usize, problem: impl Into<String>) -> ConfigError {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or_default();
        refuse(format!("{}:{}", self.name, before.matches('\n').count() + 1), problem)
    }

    fn server(&self, section: ServerSection, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(listen) = section.listen {
            let refused = |problem: String| self.refuse(listen.span().start, format!("listen: {problem}"));
            let address = listen.get_ref().parse::<SocketAddr>();
            config.listen = address.map_err(|_| {
                refused(format!(
                    "is {:?}; expected address:port such as 127.0.0.1:50777",
                    listen.get_ref()
                ))
            })?;
            config.access.check_listen(config.listen).map_err(refused)?;
        }
        self.duration(
            section.shutdown_grace,
            &mut config.shutdown_grace,
            Duration::ZERO,
            Duration::from_secs(600),
        )?;
        self.count(section.max_streams, &mut config.max_streams, 1_000_000)
    }

    fn engine(&self, section: EngineSection, config: &mut Config) -> Result<(), ConfigError> {
        self.duration(
            section.target_silence,
            &mut config.target_silence,
            Duration::ZERO,
            Duration::from_secs(3600),
        )?;
        let engine = &mut config.engine;
        self.duration(
            section.lease_term,
            &mut engine.lease_term,
            Duration::from_secs(2),
            LONGEST_LEASE,
        )?;
        self.duration(
            section.plan_lifetime,
            &mut engine.plan_lifetime,
            Duration::from_secs(1),
            Duration::from_secs(30 * 86_400),
        )?;
        self.count(section.concurrent_runs, &mut engine.concurrent_runs, 64)?;
        if let Some(fraction) = section.drift_fraction {
            if !(0.0..=1.0).contains(fraction.get_ref()) {
                return Err(self.refuse(
                    fraction.span().start,
                    format!("is {}; expected 0.0 to 1.0", fraction.get_ref()),
                ));
            }
            engine.drift.fraction = fraction.into_inner();
        }
        engine.drift.rows = section.drift_rows.unwrap_or(engine.drift.rows);
        engine.approvals = self.approvals(
            section.approvals,
            section.dangerously_run_critical_without_approval,
            engine.approvals,
        )?;
        Ok(())
    }

    fn target(&self, section: TargetSection, before: &[TargetConfig]) -> Result<TargetConfig, ConfigError> {
        let start = section.name.span().start;
        let name = section.name.get_ref();
        check_target_name(name).map_err(|problem| self.refuse(start, problem))?;
        if before.iter().any(|other| other.name == *name) {
            return Err(self.refuse(start, format!("target {name} is declared twice; expected unique names")));
        }
        let url = self.database(
            section.url.as_ref(),
            section.url_file.as_ref(),
            section.password_file.as_ref(),
        )?;
        let url = url.ok_or_else(|| {
            self.refuse(
                start,
                format!("target {name} has no url; expected url or url_file, such as sqlite://path/to/file.db"),
            )
        })?;
        let catalogs = section.catalog.into_iter().map(|catalog| {
            let text = catalog.get_ref();
            if text == BUILTIN_CATALOG {
                return Ok(CatalogSource::Builtin);
            }
            if text.starts_with("builtin:") || text.is_empty() {
                return Err(self.refuse(
                    catalog.span().start,
                    format!("catalog {text:?} is unknown; expected a path or {BUILTIN_CATALOG}"),
                ));
            }
            Ok(CatalogSource::File(self.base.join(text)))
        });
        let catalogs = catalogs.collect::<Result<_, _>>()?;
        let mut roots = BTreeMap::new();
        for (root, path) in section.roots {
            let start = path.span().start;
            let path = path.into_inner();
            roots::check_one(&root, &path).map_err(|problem| self.refuse(start, problem))?;
            roots.insert(root, path);
        }
        let migrations = self.migrations(section.migrations, section.migrations_layout)?;
        Ok(TargetConfig {
            name: name.clone(),
            url,
            catalogs,
            roots,
            migrations,
        })
    }

    fn migrations(
        &self,
        folder: Option<Spanned<PathBuf>>,
        layout: Option<Spanned<String>>,
    ) -> Result<Option<MigrationsConfig>, ConfigError> {
        let layout = match layout {
            None => None,
            Some(named) if folder.is_none() => {
                let problem = "migrations_layout is set, and migrations, the folder, is not";
                return Err(self.refuse(named.span().start, problem));
            }
            Some(named) => match Layout::named(named.get_ref()) {
                Some(layout) => Some(layout),
                None => {
                    let known = Layout::ALL.map(Layout::name).join(", ");
                    let problem = format!("migrations_layout {:?} is unknown; expected one of {known}", named.get_ref());
                    return Err(self.refuse(named.span().start, problem));
                }
            },
        };
        let Some(folder) = folder else { return Ok(None) };
        if folder.get_ref().as_os_str().is_empty() {
            return Err(self.refuse(folder.span().start, "migrations is empty; expected the path of a folder"));
        }
        Ok(Some(MigrationsConfig {
            folder: self.base.join(folder.into_inner()),
            layout,
        }))
    }

    fn duration(
        &self,
        text: Option<Spanned<String>>,
        value: &mut Duration,
        least: Duration,
        most: Duration,
    ) -> Result<(), ConfigError> {
        let Some(text) = text else { return Ok(()) };
        let parsed = text
            .get_ref()
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok());
        match parsed {
            Some(duration) if (least..=most).contains(&duration) => *value = duration,
            _ => {
                let problem = format!(
                    "is {:?}; expected a duration such as \"15s\", \"10m\" or \"1h\", from {} s to {} s",
                    text.get_ref(),
                    least.as_secs(),
                    most.as_secs()
                );
                return Err(self.refuse(text.span().start, problem));
            }
        }
        Ok(())
    }

    fn count(&self, number: Option<Spanned<u64>>, value: &mut usize, most: usize) -> Result<(), ConfigError> {
        let Some(number) = number else { return Ok(()) };
        match usize::try_from(*number.get_ref()) {
            Ok(count) if (1..=most).contains(&count) => *value = count,
            _ => return Err(self.refuse(number.span().start, format!("is {}; expected 1 to {most}", number.get_ref()))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let text = if text.contains("[data]") {
            text.to_owned()
        } else {
            format!("{text}\n[data]\nfolder = \"data\"\n")
        };
        Config::from_text("c.toml", &text, Path::new("/etc/dbkeep"), &|name| {
            (name == "SECRET").then(|| "s3cret".to_owned())
        })
    }

    #[test]
    fn an_empty_file_is_the_embedded_default() {
        let config = read("").expect("a configuration");
        assert_eq!(config.data_folder, Path::new("/etc/dbkeep/data"));
        assert_eq!(
            (config.listen, config.max_streams, config.targets.len()),
            (super::super::DEFAULT_LISTEN, 10_000, 0)
        );
    }

    #[test]
    fn paths_are_relative_to_the_file_and_variables_are_filled_in() {
        let config = read(
            "[[target]]\nname = \"a\"\nurl = \"sqlite://app.db?mode=rw\"\ncatalog = [\"a.toml\", \"builtin:learning-platform\"]\n\
             [[target]]\nname = \"b\"\nurl = \"postgres://u:${SECRET}@h/d\"\n[backup]\nfolder = \"/backups\"\n",
        )
        .expect("a configuration");
        assert_eq!(config.targets[0].url.expose(), "sqlite:///etc/dbkeep/app.db?mode=rw");
        assert_eq!(
            config.targets[0].catalogs,
            [CatalogSource::File("/etc/dbkeep/a.toml".into()), CatalogSource::Builtin]
        );
        assert_eq!(config.targets[1].url.expose(), "postgres://u:s3cret@h/d");
        assert_eq!(config.backup_folder(), Path::new("/backups"));
    }

    #[test]
    fn refuses_with_line_and_expectation() {
        let target = "[[target]]\nname = \"a\"\nurl = \"sqlite://a.db\"\n";
        let cases = [
            (
                "[store]\nurl = \"postgres://u:${SECRET}@one,,two/d\"".to_owned(),
                "c.toml:2",
                "server 2 of its list is empty; expected host:port",
            ),
            ("[server]\nlisten = \"0.0.0.0:1\"".to_owned(), "c.toml:2", "there is no TLS"),
            ("[server]\nlisten = \"here\"".to_owned(), "c.toml:2", "expected address:port"),
            ("[server]\nport = 1".to_owned(), "c.toml:2", "unknown field `port`"),
            ("[sever]\n".to_owned(), "c.toml:1", "unknown field `sever`"),
            ("[server]\n\nmax_streams = 0".to_owned(), "c.toml:3", "expected 1 to 1000000"),
            ("[server]\nmax_streams = -1".to_owned(), "c.toml:2", "expected u64"),
            (
                "[engine]\nlease_term = \"1 parsec\"".to_owned(),
                "c.toml:2",
                "expected a duration such as \"15s\"",
            ),
            (
                "[engine]\nlease_term = \"-15s\"".to_owned(),
                "c.toml:2",
                "expected a duration",
            ),
            ("[engine]\nplan_lifetime = 15".to_owned(), "c.toml:2", "expected a string"),
            ("[engine]\ndrift_fraction = 1.5".to_owned(), "c.toml:2", "expected 0.0 to 1.0"),
            (format!("{target}{target}"), "c.toml:5", "declared twice"),
            (target.replace("\"a\"", "\"a b\""), "c.toml:2", "expected 1 to 63"),
            (target.replace("sqlite", "mysql"), "c.toml:3", "expected sqlite://"),
            (target.replace("a.db", "${NONE}"), "c.toml:3", "no variable \"NONE\""),
            (target.replace("a.db", ""), "c.toml:3", "names no file"),
            (
                format!("{target}catalog = [\"builtin:other\"]"),
                "c.toml:4",
                "expected a path or builtin:learning-platform",
            ),
            ("[[target]]\nname = \"a\"\n".to_owned(), "c.toml:2", "has no url"),
            (
                format!("{target}roots = {{ temp = \"/\" }}"),
                "c.toml:4",
                "root temp: / is the whole system",
            ),
            (
                format!("{target}\nroots = {{ temp = \"uploads\" }}"),
                "c.toml:5",
                "is relative; expected the absolute path",
            ),
            (
                format!("{target}roots = {{ temp = \"/no/such/folder\" }}"),
                "c.toml:4",
                "No such file",
            ),
            (
                format!("{target}roots = {{ temp = \"/dev/null\" }}"),
                "c.toml:4",
                "is no folder",
            ),
            (
                format!("{target}roots = {{ temp = \"/proc/self\" }}"),
                "c.toml:4",
                "is a link",
            ),
            ("x".to_owned(), "c.toml:1", ""),
            (
                "[[target]]\nname = \"a\"\nurl = \"sqlite://a.db\"\npassword_file = \"/dev/null\"".to_owned(),
                "c.toml:4",
                "password is empty",
            ),
            (
                "[[target]]\nname = \"a\"\nurl_file = \"/dev/null\"".to_owned(),
                "c.toml:3",
                "url is empty",
            ),
            (
                format!("{target}url_file = \"x\""),
                "c.toml:4",
                "url_file stands beside url; expected one of them",
            ),
            ("[store]\npassword_file = \"missing\"".to_owned(), "c.toml:2", "password_file"),
            (
                "[store]\nurl_file = \"${NONE}/x\"".to_owned(),
                "c.toml:2",
                "no variable \"NONE\"",
            ),
            // A secret that lacks its quotes.
            (
                "[[channel]]\nname = \"m\"\nkind = \"email\"\npassword = 5318008".to_owned(),
                "c.toml:4",
                "invalid type: integer, expected a string",
            ),
        ];
        refused(&cases);
    }

    #[test]
    fn every_secret_can_come_from_a_file_also_one_that_a_variable_leads_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        secret("store", "postgres://dbkeep@store/d\n");
        secret("store-password", "a b@c\nnot this line");
        secret("app", "p/w");
        let mail = secret("mail", "m\u{e9}l");
        let chat = secret("chat", "https://hooks.slack.com/services/T/B/x\n");
        let hook = secret("hook", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let text = format!(
            "[data]\nfolder = \"data\"\n[store]\nurl_file = \"${{CREDENTIALS_DIRECTORY}}/store\"\npassword_file = \"${{CREDENTIALS_DIRECTORY}}/store-password\"\n\
             [[target]]\nname = \"app\"\nurl = \"postgres://keeper@one,two/app\"\npassword_file = \"${{CREDENTIALS_DIRECTORY}}/app\"\n\
             [[channel]]\nname = \"mail\"\nkind = \"email\"\nurl = \"smtp://mail.example.com\"\nfrom = \"a@example.com\"\nusername = \"u\"\npassword_file = \"{mail}\"\n\
             [[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl_file = \"{chat}\"\n\
             [[channel]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://example.com/x\"\nsecret_file = \"{hook}\"\n"
        );
        let directory = folder.path().display().to_string();
        let config = Config::from_text("c.toml", &text, Path::new("/base"), &|name| {
            (name == "CREDENTIALS_DIRECTORY").then(|| directory.clone())
        });
        let config = config.expect("a configuration");
        let store = config.store_url.as_ref().expect("a store");
        assert_eq!(store.expose(), "postgres://dbkeep:a%20b%40c@store/d");
        assert_eq!(config.targets[0].url.expose(), "postgres://keeper:p%2Fw@one,two/app");
        let shown = format!("{config:?}");
        for hidden in ["a%20b", "p%2F", "m\u{e9}l", "services/T", "MfKQ9r8"] {
            assert!(!shown.contains(hidden), "{hidden}: {shown}");
        }
    }

    #[test]
    fn access_is_refused_with_line_and_expectation() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let place = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).expect("written");
            file.display().to_string()
        };
        let (certificate, key) = (place("c.pem", &certificate), place("k.pem", &key.serialize_pem()));
        let tls = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
        let with_clients = format!("{tls}client_ca = \"{certificate}\"\n");
        let rule = "[[auth.certificate]]\nsan = \"a\"\nprincipal = \"b\"\nrole = \"viewer\"\n";
        let oidc = "[auth.oidc]\nissuer = \"i\"\naudience = \"a\"\njwks = \"keys.json\"\n";
        for fine in [
            format!("{tls}[server]\nlisten = \"0.0.0.0:1\""),
            "[auth]\ndangerously_listen_without_tls = true\n[server]\nlisten = \"0.0.0.0:1\"".to_owned(),
            format!("{with_clients}client_certificate = \"required\"\n{rule}"),
            format!("{oidc}roles = {{ x = \"admin\" }}"),
        ] {
            read(&fine).and_then(|config| config.check()).expect(&fine);
        }
        let cases = [
            (tls.replace(&key, &certificate), "c.toml:2", "no items found"),
            (tls.replace(&key, "/no/such/key"), "c.toml:2", "/no/such/key"),
            (tls.replace(&certificate, "/dev/null"), "c.toml:2", "holds no certificate"),
            (format!("[tls]\nkey = \"{key}\""), "c.toml:2", "certificate is not"),
            (format!("[tls]\ncertificate = \"{key}\""), "c.toml:2", "key is not"),
            (
                "[tls]\nclient_ca = \"x\"".to_owned(),
                "c.toml:2",
                "certificate and key are not set",
            ),
            (
                format!("{tls}client_certificate = \"required\""),
                "c.toml:4",
                "client_ca is not",
            ),
            (
                format!("{with_clients}client_certificate = \"maybe\""),
                "c.toml:5",
                "expected optional or required",
            ),
            (
                "[auth]\nloopback = \"all\"".to_owned(),
                "c.toml:2",
                "expected one of user, any, token",
            ),
            (rule.replace("viewer", "root"), "c.toml:4", "expected one of viewer, operator"),
            (rule.replace("\"b\"", "\"b c\""), "c.toml:3", "expected 1 to 64"),
            (
                rule.replace("\"b\"", &format!("{:?}", dbkeep_engine::model::Caller::ANONYMOUS)),
                "c.toml:3",
                "the name of those who have none",
            ),
            (format!("{rule}{rule}"), "c.toml:6", "no other section"),
            (format!("{rule}targets = []"), "c.toml:5", "targets is empty"),
            (
                oidc.replace("keys.json", "http://id.example/k"),
                "c.toml:4",
                "an address of https",
            ),
            (oidc.replace("\"i\"", "\"\""), "c.toml:2", "is empty"),
            (
                format!("{oidc}roles = {{ x = \"root\" }}"),
                "c.toml:5",
                "expected one of viewer",
            ),
            ("[calls]\nper_second = 9000000".to_owned(), "c.toml:2", "or 0 for no limit"),
        ];
        refused(&cases);
        for (text, problem) in [
            (format!("{tls}{rule}"), "expected client_ca"),
            (format!("{with_clients}{rule}targets = [\"nowhere\"]"), "is not declared"),
        ] {
            let error = read(&text).and_then(|config| config.check()).expect_err("must be refused");
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    fn refused(cases: &[(String, &str, &str)]) {
        for (text, place, problem) in cases {
            let message = read(text).map(|_| ()).expect_err("must be refused").to_string();
            assert!(
                message.starts_with(&format!("{place}: ")) && message.contains(problem),
                "{text}\n=> {message}"
            );
            assert!(!message.contains("s3cret") && !message.contains("5318008"), "{message}");
        }
    }

    #[test]
    fn channels_and_routes_are_refused_with_line_and_expectation() {
        let mail =
            "[[channel]]\nname = \"mail\"\nkind = \"email\"\nurl = \"smtp://mail.example.com\"\nfrom = \"a@example.com\"\n";
        let hook = "[[channel]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://example.com/x\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";
        let chat = "[[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl = \"https://hooks.slack.com/${SECRET}\"\n";
        for fine in [
            format!("{mail}to = [\"ops@example.com\"]\n{hook}{chat}[[route]]\nchannels = [\"mail\", \"slack\", \"hook\"]"),
            format!("{mail}username = \"u\"\npassword = \"${{SECRET}}\""),
            mail.replace("smtp://mail.example.com", "smtp://127.0.0.1:2525") + "starttls = false",
            format!("{mail}starttls = false\nallow_plaintext = true"),
            hook.replace("example.com", "10.0.0.7") + "allow_private = true",
            format!("{hook}[[route]]\nkinds = [\"run_failed\"]\nseverity = \"error\"\nchannels = [\"hook\"]"),
        ] {
            let config = read(&fine).expect(&fine);
            assert!(!format!("{config:?}").contains("s3cret"));
        }
        let cases = [
            (
                mail.replace("email", "pager"),
                "c.toml:3",
                "expected one of email, slack, webhook",
            ),
            (mail.replace("\"mail\"", "\"m m\""), "c.toml:2", "expected 1 to 63"),
            (format!("{mail}{mail}"), "c.toml:7", "declared twice"),
            (
                mail.replace("smtp://", "http://"),
                "c.toml:4",
                "expected smtp://host:port or smtps://host:port",
            ),
            (
                mail.replace("smtp://", "smtp://u:s3cret@"),
                "c.toml:4",
                "the keys username and password",
            ),
            (mail.replace(".com\"\nfrom", ".com/x\"\nfrom"), "c.toml:4", "more than a host"),
            (
                mail.replace("a@example.com", "nobody"),
                "c.toml:5",
                "expected one such as ops@example.com",
            ),
            (mail.replace("from = \"a@example.com\"\n", ""), "c.toml:2", "from is missing"),
            (format!("{mail}to = [\"x@y\\r\\nBcc: z@y\"]"), "c.toml:6", "no mail address"),
            (format!("{mail}starttls = false"), "c.toml:6", "would travel unsecured"),
            (
                mail.replace("smtp://", "smtps://") + "starttls = true",
                "c.toml:6",
                "which is TLS already",
            ),
            (format!("{mail}username = \"u\""), "c.toml:6", "password is not"),
            (format!("{mail}password = \"${{SECRET}}\""), "c.toml:2", "username is missing"),
            (format!("{mail}password = \"${{NONE}}\""), "c.toml:6", "no variable \"NONE\""),
            (
                format!("{mail}password = \"x\"\npassword_file = \"p\""),
                "c.toml:7",
                "expected one of them",
            ),
            (
                format!("{mail}password_file = \"missing\""),
                "c.toml:6",
                "password_file: /etc/dbkeep/missing",
            ),
            (format!("{mail}ca_file = \"/dev/null\""), "c.toml:6", "holds no certificate"),
            (format!("{mail}timeout = \"2m\""), "c.toml:6", "expected a duration"),
            (
                format!("{mail}allow_private = true"),
                "c.toml:6",
                "expected it of slack or webhook",
            ),
            (format!("{mail}secret = \"s3cret\""), "c.toml:6", "expected it of webhook"),
            (
                format!("{chat}secret = \"s3cret\""),
                "c.toml:5",
                "the channel is of kind slack",
            ),
            (format!("{hook}to = [\"a@example.com\"]"), "c.toml:6", "expected it of email"),
            (hook.replace("https", "http"), "c.toml:4", "not of https"),
            (hook.replace("example.com", "192.168.0.1"), "c.toml:4", "no public address"),
            (
                hook.replace("example.com", "u:s3cret@example.com"),
                "c.toml:4",
                "holds a user",
            ),
            (hook.replace("whsec_", "s3cret"), "c.toml:5", "does not begin with whsec_"),
            (
                hook.replace("\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"", "\"\""),
                "c.toml:5",
                "secret is empty",
            ),
            (
                hook.lines().take(4).collect::<Vec<_>>().join("\n"),
                "c.toml:2",
                "secret is missing",
            ),
            (
                format!("{chat}[[route]]\nchannels = [\"pager\"]"),
                "c.toml:6",
                "expected one of chat",
            ),
            (format!("{chat}[[route]]\nchannels = []"), "c.toml:6", "channels is empty"),
            (
                "[[route]]\nchannels = [\"email\"]".to_owned(),
                "c.toml:2",
                "expected a [[channel]]",
            ),
            (
                format!("{mail}[[route]]\nchannels = [\"mail\"]"),
                "c.toml:7",
                "expected recipients",
            ),
            (
                format!("{mail}[[route]]\nchannels = [\"mail\"]\nrecipients = [\"x\"]"),
                "c.toml:8",
                "no mail address",
            ),
            (
                format!("{chat}[[route]]\nkinds = [\"run_died\"]\nchannels = [\"chat\"]"),
                "c.toml:6",
                "run_refused",
            ),
            (
                format!("{chat}[[route]]\nseverity = \"loud\"\nchannels = [\"chat\"]"),
                "c.toml:6",
                "expected info, warning or error",
            ),
            ("[notifications]\nmax_tries = 0".to_owned(), "c.toml:2", "expected 1 to 1000"),
            (
                "[notifications]\nfirst_wait = \"2h\"\nlongest_wait = \"1h\"".to_owned(),
                "c.toml:3",
                "expected at least first_wait",
            ),
        ];
        refused(&cases);
    }

    /// The example must stay true: every line that is a setting in a comment is uncommented, and the whole is read.
    #[test]
    fn the_example_file_is_valid() {
        let example = include_str!("../../../dbkeep.toml");
        let setting = |line: &str| {
            let bare = line.strip_prefix('#')?;
            let is_setting = bare.starts_with('[')
                || bare
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            is_setting.then(|| bare.to_owned())
        };
        let lines = example
            .lines()
            .map(|line| setting(line).unwrap_or_else(|| line.to_owned()))
            .collect::<Vec<_>>();
        let settings = lines
            .iter()
            .filter(|line| line.contains(" = ") && !line.starts_with('#'))
            .count();
        assert_eq!(settings, 86, "every setting has its line");
        let read = Config::from_text("dbkeep.toml", &lines.join("\n"), Path::new("/base"), &|name| {
            Some(match name {
                "DBKEEP_SLACK_URL" => "https://hooks.slack.com/services/T0/B0/x".to_owned(),
                "DBKEEP_WEBHOOK_SECRET" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
                _ => "value".to_owned(),
            })
        });
        let config = read.expect("the example is valid");
        assert_eq!(config.access.calls, crate::config::access::CallLimits::default());
        assert_eq!(config.access.oidc.as_ref().map(|oidc| oidc.roles.len()), Some(2));
        assert_eq!(config.pg_bin.as_deref(), Some(Path::new("/usr/lib/postgresql/17/bin")));
        let defaults = Config::embedded("/base");
        assert_eq!(
            (config.listen, config.shutdown_grace, config.max_streams),
            (defaults.listen, defaults.shutdown_grace, defaults.max_streams)
        );
        assert_eq!((config.store_wait, config.targets.len()), (defaults.store_wait, 2));
        assert_eq!(config.engine.lease_term, defaults.engine.lease_term);
        assert_eq!(config.target_silence, defaults.target_silence);
        assert_eq!(config.engine.plan_lifetime, defaults.engine.plan_lifetime);
        assert_eq!(
            (config.engine.drift, config.engine.concurrent_runs),
            (defaults.engine.drift, defaults.engine.concurrent_runs)
        );
        let (read, usual) = (&config.engine.notify, &defaults.engine.notify);
        assert_eq!(
            (read.first_wait, read.longest_wait, read.give_up_after, read.max_tries),
            (usual.first_wait, usual.longest_wait, usual.give_up_after, usual.max_tries)
        );
        assert_eq!(
            (read.lease_term, read.keep_delivered, read.keep_dead),
            (usual.lease_term, usual.keep_delivered, usual.keep_dead)
        );
        let (read, usual) = (&config.engine.monitor, &defaults.engine.monitor);
        assert_eq!(
            (read.enabled, read.interval, read.snapshot_limit, &read.rules),
            (usual.enabled, usual.interval, usual.snapshot_limit, &usual.rules)
        );
        assert_eq!(config.history_points, defaults.history_points);
        let (read, usual) = (&config.engine.audit, &defaults.engine.audit);
        assert_eq!((read.anchor_every, read.retention), (usual.anchor_every, usual.retention));
        assert_eq!(
            config.anchor_file.as_deref(),
            Some(Path::new("/mnt/witness/dbkeep-anchors.jsonl"))
        );
        let read = &config.engine.monitor;
        assert!(!read.rules_of("app")[&dbkeep_engine::monitor::alerts::RuleName::LowIndexEfficiency].enabled);
        assert_eq!((config.channels.len(), config.routes.len()), (3, 1));
        assert!(
            config
                .channels
                .iter()
                .all(|channel| channel.timeout == super::super::channels::DEFAULT_TIMEOUT)
        );
        Config::from_text("dbkeep.toml", example, Path::new("/base"), &|_| None)
            .expect("as it stands it sets nothing that is missing");
    }
}
