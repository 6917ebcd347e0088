//! Private PostgreSQL clusters: owns finding the binaries, the unprivileged user, the port, and the end of every cluster.
//!
//! A cluster belongs to a *keeper*, a small shell process (`keeper.sh`) that works as a dead man's switch: it holds the reading end of a pipe whose writing end only this process has. However
//! this process ends (return, panic, `exit`, kill -9), the kernel closes the pipe, and the keeper stops the cluster and
//! removes its folder. That one mechanism serves `Drop`, statics (which Rust never drops) and killed tests alike.
//!
//! Everything is done by one user that is not root, since PostgreSQL refuses root: the user of this process, or, when that is
//! root, `postgres` or else `nobody`. The cluster listens on 127.0.0.1 only, and trusts whoever connects there.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

/// Environment variable that names the folder with `initdb`, `pg_ctl` and `postgres`; it goes before every other place.
pub const BIN_VARIABLE: &str = "DBKEEP_PG_BIN";

/// How many ports are tried before a start is given up.
const PORT_ATTEMPTS: usize = 10;

/// How much a cluster does for a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// No fsync: for tests. A commit still survives every end of a *process*, also [`PrivatePostgres::restart_immediate`].
    Fast,
    /// PostgreSQL's own defaults, fsync included: for benchmarks.
    Durable,
}

impl Durability {
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // synchronous_commit stays on: without it an immediate restart would lose commits, and every crash test would lie.
            Self::Fast => &[("fsync", "off"), ("full_page_writes", "off")],
            Self::Durable => &[],
        }
    }
}

/// A PostgreSQL cluster of one's own, which ends with this value, and at the latest with this process.
#[derive(Debug)]
pub struct PrivatePostgres {
    keeper: Arc<Keeper>,
    installation: Installation,
    port: u16,
}

impl PrivatePostgres {
    /// Makes a cluster, starts it on a free port, and returns when it accepts connections.
    ///
    /// # Errors
    /// When there are no PostgreSQL binaries (the message says where was looked), or the cluster does not start (with its log).
    pub async fn start(durability: Durability) -> Result<Self> {
        Self::start_with(durability, &[]).await
    }

    /// As [`start`](Self::start), with more settings for `postgresql.conf`, which win over the harness's own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(durability: Durability, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_from(None, durability, settings).await
    }

    /// Starts a cluster of its own, or a standby that streams from the cluster on a port of 127.0.0.1.
    pub(crate) async fn start_from(primary: Option<u16>, durability: Durability, settings: &[(&str, &str)]) -> Result<Self> {
        // No socket file: only TCP is used, and the built-in default is a folder of the system's own clusters.
        let common = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("max_connections", "200"),
        ];
        let zone = [("timezone", "UTC"), ("log_timezone", "UTC")];
        let config = common
            .iter()
            .chain(&zone)
            .chain(durability.settings())
            .chain(settings)
            .map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''")))
            .collect::<Vec<_>>()
            .join("\n");
        blocking(move || Self::start_blocking(primary, &config)).await
    }

    fn start_blocking(primary: Option<u16>, config: &str) -> Result<Self> {
        let installation = Installation::find()?;
        let keeper = Keeper::spawn(&installation, primary, config)?;
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            match keeper.ask(&format!("start {port}")) {
                Ok(()) => {
                    return Ok(Self {
                        keeper: Arc::new(keeper),
                        installation,
                        port,
                    });
                }
                // Someone took the port between our look and PostgreSQL's.
                Err(error) if error.to_string().contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port for PostgreSQL after {PORT_ATTEMPTS} attempts")
    }

    /// The URL of one of its databases, for the superuser `postgres`, who needs no password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The TCP port on 127.0.0.1, the same over every restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's folder, removed at its end. [`command`](Self::command) starts there and may write there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.keeper.folder
    }

    /// The path of one of PostgreSQL's programs, such as `pg_dump`. Clients may run as any user, root too.
    #[must_use]
    pub fn bin(&self, tool: &str) -> PathBuf {
        self.installation.bin.join(tool)
    }

    /// One of PostgreSQL's programs as the cluster's user, in the cluster's folder, with `PGHOST`, `PGPORT` and `PGUSER` set so
    /// that clients need only the database's name. (`.into()` makes a `tokio::process::Command` of it.)
    #[must_use]
    pub fn command(&self, tool: &str) -> Command {
        let mut command = self.installation.command(&self.bin(tool));
        command.current_dir(self.folder()).env("HOME", self.folder());
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }

    /// Makes an empty database.
    ///
    /// # Errors
    /// When the name is taken or the cluster is stopped.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.administer(format!("CREATE DATABASE {}", quoted(name))).await
    }

    /// Makes a database as a copy of another, to which nobody may be connected. Cheaper than filling a second one.
    ///
    /// # Errors
    /// When the name is taken, the template is missing or in use, or the cluster is stopped.
    pub async fn create_database_from_template(&self, name: &str, template: &str) -> Result<()> {
        self.administer(format!("CREATE DATABASE {} TEMPLATE {}", quoted(name), quoted(template)))
            .await
    }

    async fn administer(&self, sql: String) -> Result<()> {
        // A connection of its own each time: a pool belongs to one runtime, a shared cluster outlives each test's.
        let mut connection = PgConnection::connect(&self.url("postgres"))
            .await
            .with_context(|| sql.clone())?;
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut connection)
            .await
            .with_context(|| sql)?;
        connection.close().await?;
        Ok(())
    }

    /// Ends every server process at once, without a checkpoint, and starts again on the same port: a crash, with its recovery.
    ///
    /// # Errors
    /// When the cluster does not come back; the message has its log.
    pub async fn restart_immediate(&self) -> Result<()> {
        self.ask("restart".to_owned()).await
    }

    /// Ends every server process at once, as in a crash; [`start_again`](Self::start_again) brings it back.
    ///
    /// # Errors
    /// When the cluster does not stop.
    pub async fn stop_immediate(&self) -> Result<()> {
        self.ask("stop".to_owned()).await
    }

    /// Kills every server process with SIGKILL: none of them sends, writes or closes anything more. Its folder stays as it is, and
    /// [`start_again`](Self::start_again) recovers from it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self) -> Result<()> {
        self.ask("murder".to_owned()).await
    }

    /// Makes a primary of a standby; returns when it takes writes.
    ///
    /// # Errors
    /// When it is no standby, or does not become a primary; the message has its log.
    pub(crate) async fn promote(&self) -> Result<()> {
        self.ask("promote".to_owned()).await
    }

    /// Starts a stopped cluster on the port it had; after [`stop_immediate`](Self::stop_immediate) it recovers first.
    ///
    /// # Errors
    /// When it runs already or does not come up; the message has its log.
    pub async fn start_again(&self) -> Result<()> {
        self.ask(format!("start {}", self.port)).await
    }

    async fn ask(&self, command: String) -> Result<()> {
        let keeper = Arc::clone(&self.keeper);
        blocking(move || keeper.ask(&command)).await
    }
}

static SHARED: OnceCell<PrivatePostgres> = OnceCell::const_new();
static FRESH: AtomicU64 = AtomicU64::new(1);

/// The one cluster of this test binary, started at the first call, with [`Durability::Fast`]; its keeper ends it with the
/// process. Do not stop or crash it: other tests use it at the same time.
///
/// # Errors
/// As [`PrivatePostgres::start`]; every test that needs it fails then.
pub async fn shared() -> Result<&'static PrivatePostgres> {
    SHARED.get_or_try_init(|| PrivatePostgres::start(Durability::Fast)).await
}

/// The URL of a new, empty database in the [`shared`] cluster. `prefix` is for the reader of logs; the name is unique without it.
///
/// # Errors
/// As [`shared`].
pub async fn fresh_database(prefix: &str) -> Result<String> {
    let cluster = shared().await?;
    // Names end at 63 bytes, and plain letters need no quoting in a URL.
    let prefix: String = prefix
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .take(40)
        .collect();
    let name = format!("{prefix}_{}", FRESH.fetch_add(1, Ordering::Relaxed));
    cluster.create_database(&name).await?;
    Ok(cluster.url(&name))
}

/// The binaries, and the user who runs them.
#[derive(Debug, Clone)]
struct Installation {
    bin: PathBuf,
    user: Option<User>,
}

/// Someone to become when this process is root.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl Installation {
    fn find() -> Result<Self> {
        let user = if rustix::process::geteuid().is_root() {
            Some(User::unprivileged()?)
        } else {
            None
        };
        let bin = match std::env::var_os(BIN_VARIABLE) {
            Some(named) => complete(Path::new(&named))
                .with_context(|| format!("{BIN_VARIABLE}={} has no initdb, pg_ctl and postgres", named.display()))?,
            None => candidates().iter().find_map(|folder| complete(folder)).with_context(|| {
                format!(
                    "PostgreSQL's server programs are missing: not in {BIN_VARIABLE}, /usr/lib/postgresql/*/bin, PATH or \
                     target/tools/postgresql/bin. `./check tools` brings them."
                )
            })?,
        };
        Ok(Self { bin, user })
    }

    /// A command as the cluster's user, without any `PG*` variable of whoever runs the tests.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C");
        if let Some(user) = self.user {
            // The standard library drops root's supplementary groups with the user id.
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

impl User {
    fn unprivileged() -> Result<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        let find = |name: &str| {
            passwd
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .find_map(|fields| match fields[..] {
                    [user, _, uid, gid, ..] if user == name => Some(Self {
                        uid: uid.parse().ok()?,
                        gid: gid.parse().ok()?,
                    }),
                    _ => None,
                })
        };
        find("postgres")
            .or_else(|| find("nobody"))
            .context("PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody")
    }
}

/// The folder with its links resolved, if it has what a cluster needs.
fn complete(folder: &Path) -> Option<PathBuf> {
    let initdb = folder.join("initdb").canonicalize().ok()?;
    let bin = initdb.parent()?;
    ["pg_ctl", "postgres"]
        .iter()
        .all(|tool| bin.join(tool).is_file())
        .then(|| bin.to_owned())
}

/// Where the binaries may be, best first.
fn candidates() -> Vec<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // `./check` unpacks beside the builds: above this executable, or in the default place for documentation tests.
    let executable = std::env::current_exe().unwrap_or_default();
    let default_target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let targets = executable
        .ancestors()
        .chain([default_target.as_path()])
        .map(|folder| folder.join("tools/postgresql/bin"));
    debian
        .into_iter()
        .map(|(_, bin)| bin)
        .chain(std::env::split_paths(&path))
        .chain(targets)
        .collect()
}

/// The process that keeps a cluster; see the module's head and `keeper.sh`.
#[derive(Debug)]
struct Keeper {
    process: Mutex<KeeperProcess>,
    folder: PathBuf,
}

#[derive(Debug)]
struct KeeperProcess {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Keeper {
    fn spawn(installation: &Installation, primary: Option<u16>, config: &str) -> Result<Self> {
        let primary = primary.map(|port| port.to_string()).unwrap_or_default();
        let mut child = installation
            .command(Path::new("sh"))
            // From the environment rather than the command line, so that `ps` stays readable.
            .args(["-c", r#"eval "$KEEPER""#, "dbkeep-testkit-keeper"])
            .env("KEEPER", include_str!("keeper.sh"))
            .args([
                installation.bin.as_os_str(),
                primary.as_ref(),
                config.as_ref(),
                std::env::temp_dir().as_os_str(),
            ])
            .args(["/tmp", "/var/tmp"])
            .current_dir("/")
            // Not in the tests' group: a Ctrl-C or a group-wide kill must leave it alive to clean up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("sh, as {:?}", installation.user))?;
        let commands = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().context("the keeper's output")?);
        let mut folder = String::new();
        answers.read_line(&mut folder)?;
        let folder = PathBuf::from(folder.trim_end_matches('\n'));
        let keeper = Self {
            process: Mutex::new(KeeperProcess {
                child,
                commands,
                answers,
            }),
            folder,
        };
        if !keeper.folder.is_absolute() {
            bail!(
                "no folder for a cluster could be made in {}, /tmp or /var/tmp",
                std::env::temp_dir().display()
            );
        }
        Ok(keeper)
    }

    /// Gives one command and waits for its end, however many callers there are.
    fn ask(&self, command: &str) -> Result<()> {
        let mut process = self.lock();
        let commands = process.commands.as_mut().context("the keeper has ended")?;
        writeln!(commands, "{command}").context("the keeper of the cluster is gone")?;
        let mut answer = String::new();
        process.answers.read_line(&mut answer)?;
        match answer.trim_end() {
            "ok" => Ok(()),
            answer => Err(anyhow!(
                "PostgreSQL: {command}: {answer}\n{}{}",
                self.log("keeper.log"),
                self.log("server.log")
            )),
        }
    }

    /// The end of one of the cluster's logs, for a message.
    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..]
            .iter()
            .map(|line| format!("  {name}: {line}\n"))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, KeeperProcess> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut process = self.lock();
        process.commands = None; // closes the pipe, which is the signal
        let _ = process.child.wait(); // no postgres and no folder after this
    }
}

/// A port nobody listens on, below the range from which the kernel serves outgoing connections: from within it, some client's
/// connection could hold the port while the cluster is stopped, or a client that retries could connect to itself.
fn free_port() -> Result<u16> {
    const LOWEST: u16 = 15_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing: u16 = range
        .split_whitespace()
        .next()
        .and_then(|low| low.parse().ok())
        .unwrap_or(32_768);
    let width = outgoing.saturating_sub(LOWEST);
    for _ in 0..100 {
        // A hasher's random keys are all the randomness this needs.
        let random = RandomState::new().build_hasher().finish();
        // Where the range leaves no room, port 0 lets the kernel choose.
        let wanted = if width == 0 {
            0
        } else {
            LOWEST + u16::try_from(random % u64::from(width))?
        };
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) {
            return Ok(listener.local_addr()?.port());
        }
    }
    bail!("no free port on 127.0.0.1")
}

/// An identifier for SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs what waits for a process, away from the runtime's workers.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("interrupted")?
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
    }

    /// A process that is not a child of this one, to wait for its end.
    struct Process(OwnedFd);

    impl Process {
        fn open(pid: &str) -> Self {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            Self(pidfd_open(pid, PidfdFlags::empty()).unwrap())
        }

        fn expect_end(&self) {
            let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
            assert_eq!(
                poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)).unwrap(),
                1,
                "it still runs"
            );
        }
    }

    fn postmaster(cluster: &PrivatePostgres) -> String {
        let file = std::fs::read_to_string(cluster.folder().join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn commits_survive_crashes_and_nothing_is_left() {
        let cluster = PrivatePostgres::start(Durability::Fast).await.unwrap();
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (id bigint); INSERT INTO t VALUES (1)")
            .execute(&mut connection)
            .await
            .unwrap();
        sqlx::raw_sql("BEGIN; INSERT INTO t VALUES (2)")
            .execute(&mut connection)
            .await
            .unwrap();

        cluster.restart_immediate().await.unwrap();
        assert!(
            sqlx::query("SELECT 1").execute(&mut connection).await.is_err(),
            "a crash cuts connections"
        );
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        assert_eq!(
            number(&mut connection, "SELECT count(*) FROM t").await,
            1,
            "what was committed, and no more"
        );
        sqlx::raw_sql("INSERT INTO t VALUES (3)")
            .execute(&mut connection)
            .await
            .unwrap();

        cluster.stop_immediate().await.unwrap();
        cluster.stop_immediate().await.unwrap();
        assert!(PgConnection::connect(&cluster.url("postgres")).await.is_err());
        cluster.start_again().await.unwrap();
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        assert_eq!(number(&mut connection, "SELECT count(*) FROM t").await, 2);
        assert!(cluster.start_again().await.is_err(), "it runs already");

        let (folder, port) = (cluster.folder().to_owned(), cluster.port());
        let server = Process::open(&postmaster(&cluster));
        drop(cluster);
        server.expect_end();
        assert!(!folder.exists());
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free again");
    }

    #[tokio::test]
    async fn durable_is_durable_and_the_caller_has_the_last_word() {
        let cluster = PrivatePostgres::start_with(Durability::Durable, &[("log_timezone", "Asia/Kathmandu")])
            .await
            .unwrap();
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        let sql = "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('log_timezone')";
        let settings: (String, String, String) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
        assert_eq!(settings, ("on".to_owned(), "on".to_owned(), "Asia/Kathmandu".to_owned()));
    }

    #[tokio::test]
    async fn fresh_databases_are_apart() {
        let (one, two) = tokio::join!(fresh_database("Fresh one!"), fresh_database("Fresh one!"));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one, two);
        let mut connection = PgConnection::connect(&one).await.unwrap();
        sqlx::raw_sql("CREATE TABLE only_here (id bigint)")
            .execute(&mut connection)
            .await
            .unwrap();
        let mut connection = PgConnection::connect(&two).await.unwrap();
        assert_eq!(
            number(
                &mut connection,
                "SELECT count(*) FROM pg_tables WHERE tablename = 'only_here'"
            )
            .await,
            0
        );
        let encoding: String = sqlx::query_scalar("SHOW server_encoding")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(encoding, "UTF8");
    }

    #[tokio::test]
    async fn a_template_is_copied() {
        let cluster = shared().await.unwrap();
        cluster.create_database("a \"template\"").await.unwrap();
        let mut connection = PgConnection::connect(&cluster.url("a%20%22template%22")).await.unwrap();
        sqlx::raw_sql("CREATE TABLE t AS SELECT generate_series(1, 10) AS id")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        cluster
            .create_database_from_template("its_copy", "a \"template\"")
            .await
            .unwrap();
        let mut connection = PgConnection::connect(&cluster.url("its_copy")).await.unwrap();
        assert_eq!(number(&mut connection, "SELECT count(*) FROM t").await, 10);
    }

    #[tokio::test]
    async fn tools_need_only_a_database_name() {
        let cluster = shared().await.unwrap();
        let mut dump: tokio::process::Command = cluster.command("pg_dump").into();
        let output = dump
            .args(["--schema-only", "--file=dump.sql", "template1"])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(
            std::fs::read_to_string(cluster.folder().join("dump.sql"))
                .unwrap()
                .contains("PostgreSQL database dump")
        );
        assert!(cluster.bin("pg_dump").is_file());
    }

    #[tokio::test]
    async fn a_cluster_that_cannot_start_says_why() {
        let error = PrivatePostgres::start_with(Durability::Fast, &[("no_such_setting", "1")])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no_such_setting"), "{error}");
    }

    /// Plays both parts: the parent starts this very test again as the victim, kills it, and looks what is left.
    #[tokio::test]
    async fn a_killed_process_leaves_nothing() {
        const VICTIM: &str = "DBKEEP_TESTKIT_VICTIM";
        if std::env::var_os(VICTIM).is_some() {
            let cluster = PrivatePostgres::start(Durability::Fast).await.unwrap();
            let keeper = cluster.keeper.lock().child.id();
            println!("\nvictim {keeper} {} {}", postmaster(&cluster), cluster.folder().display());
            return std::future::pending().await;
        }
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "postgres::tests::a_killed_process_leaves_nothing", "--nocapture"])
            .env(VICTIM, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = BufReader::new(victim.stdout.take().unwrap())
            .lines()
            .map(|line| line.unwrap())
            .find(|line| line.starts_with("victim "));
        let line = line.expect("the victim has its cluster");
        let [keeper, postmaster, folder] = line["victim ".len()..].splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let (keeper, postmaster) = (Process::open(keeper), Process::open(postmaster));
        assert!(Path::new(folder).is_dir());

        victim.kill().unwrap(); // SIGKILL
        victim.wait().unwrap();
        postmaster.expect_end();
        keeper.expect_end();
        assert!(!Path::new(folder).exists());
    }
}
