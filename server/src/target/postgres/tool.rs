//! PostgreSQL's own programs, `pg_dump` and `pg_restore`: where they are, whether they are new enough, and how they run. The target's
//! password travels in their environment, never on a command line; none of them outlives this process.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use dbkeep_engine::port::MaintenanceError;
use percent_encoding::percent_decode_str;
use sqlx::postgres::PgSslMode;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, ChildStdout, Command},
};

use super::{error::LACKING, liveness};
use crate::hosts::Hosts;

/// Starts a program and ends it with SIGKILL when standard input closes: however dbkeep ends, the system closes its end of that pipe.
/// (The usual way, a signal at the parent's death, needs unsafe code.)
///
/// The guard is there before the program, and ends the whole process group: a keeper that is killed at any instant leaves either no
/// program, or a guard that ends it and whatever it started.
const KEEPER: &str = "exec 3<&0 </dev/null\n{ read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 &\nguard=$!\n\"$@\" 3<&-\ncode=$?\n\
     kill -KILL \"$guard\" 2>/dev/null\nexit $code";
/// Most that is kept of what a program says on standard error, bytes.
const MAX_SAID: usize = 4_096;
/// Longest time for a program to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// What every call of a program needs.
#[derive(Clone)]
pub(super) struct Programs {
    folder: Option<PathBuf>,
    environment: Vec<(&'static str, String)>,
}

impl Programs {
    /// For the target on these servers.
    pub(super) fn new(hosts: &Hosts, folder: Option<PathBuf>) -> Self {
        let options = hosts.first();
        let (host, port) = hosts.places();
        let mode = match options.get_ssl_mode() {
            PgSslMode::Disable => "disable",
            PgSslMode::Allow => "allow",
            PgSslMode::Prefer => "prefer",
            PgSslMode::Require => "require",
            PgSslMode::VerifyCa => "verify-ca",
            PgSslMode::VerifyFull => "verify-full",
        };
        let mut environment = vec![
            ("PGHOST", host),
            ("PGPORT", port),
            ("PGUSER", options.get_username().to_owned()),
            (
                "PGDATABASE",
                options.get_database().unwrap_or(options.get_username()).to_owned(),
            ),
            ("PGSSLMODE", mode.to_owned()),
            ("PGAPPNAME", super::APPLICATION.to_owned()),
            ("PGCONNECT_TIMEOUT", "10".to_owned()),
            // Its own limits: a dump of a large table takes what it takes.
            (
                "PGOPTIONS",
                format!(
                    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 {}",
                    liveness::OPTIONS
                ),
            ),
            ("LC_ALL", "C".to_owned()),
        ];
        if hosts.is_writable() {
            environment.push(("PGTARGETSESSIONATTRS", "read-write".to_owned()));
        }
        // What the driver's options do not hand out is in the URL, percent-encoded as the driver reads it.
        if let Ok(url) = url::Url::parse(hosts.url(0)) {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let password = url.password().map(decoded);
            let named = |names: &[&str]| {
                url.query_pairs()
                    .find(|(name, _)| names.contains(&name.as_ref()))
                    .map(|(_, value)| value.into_owned())
            };
            let settings = [
                ("PGPASSWORD", named(&["password"]).or(password)),
                ("PGSSLROOTCERT", named(&["sslrootcert", "ssl-root-cert", "ssl-ca"])),
                ("PGSSLCERT", named(&["sslcert", "ssl-cert"])),
                ("PGSSLKEY", named(&["sslkey", "ssl-key"])),
            ];
            environment.extend(settings.into_iter().filter_map(|(name, value)| Some((name, value?))));
        }
        Self { folder, environment }
    }

    /// The same for another database of the same server.
    pub(super) fn in_database(&self, database: &str) -> Self {
        let mut other = self.clone();
        other.environment.retain(|(name, _)| *name != "PGDATABASE");
        other.environment.push(("PGDATABASE", database.to_owned()));
        other
    }

    /// The same for sessions of another name.
    pub(super) fn named(&self, name: String) -> Self {
        let mut other = self.clone();
        other.environment.retain(|(known, _)| *known != "PGAPPNAME");
        other.environment.push(("PGAPPNAME", name));
        other
    }

    /// Where a program is.
    fn find(&self, tool: &str) -> Result<PathBuf, MaintenanceError> {
        let is_program = |path: &PathBuf| path.is_file();
        let missing = |problem: String| MaintenanceError::Tool {
            tool: tool.to_owned(),
            problem,
        };
        match &self.folder {
            Some(folder) => Some(folder.join(tool)).filter(is_program).ok_or_else(|| {
                missing(format!(
                    "is not in {}; expected [backup] pg_bin to be the folder of PostgreSQL's client programs",
                    folder.display()
                ))
            }),
            None => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let mut places = std::env::split_paths(&path).map(|folder| folder.join(tool));
                places.find(is_program).ok_or_else(|| {
                    missing("is not on the PATH; expected PostgreSQL's client programs, or [backup] pg_bin".to_owned())
                })
            }
        }
    }

    /// A program with the environment of the target. `database` in place of the target's own, where given.
    pub(super) fn command(&self, tool: &str, database: Option<&str>, arguments: &[String]) -> Result<Command, MaintenanceError> {
        let program = self.find(tool)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "dbkeep"]).arg(program).args(arguments);
        // These would lead it elsewhere.
        for variable in ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGTARGETSESSIONATTRS"] {
            command.env_remove(variable);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(database) = database {
            command.env("PGDATABASE", database);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The keeper's guard ends this group, and nothing else must be in it.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Makes sure that a program is there and not older than the server, and returns its version such as "15.4".
    pub(super) async fn check(&self, tool: &str, server_major: u32) -> Result<String, MaintenanceError> {
        let failed = |problem: String| MaintenanceError::Tool {
            tool: tool.to_owned(),
            problem,
        };
        let mut command = self.command(tool, None, &["--version".to_owned()])?;
        let asking = async {
            let mut running = Running::start(tool, &mut command)?;
            let said = running.read_all().await?;
            running
                .end()
                .await?
                .map_err(|problem| failed(format!("does not run: {problem}")))?;
            Ok::<_, MaintenanceError>(said)
        };
        let said = tokio::time::timeout(VERSION_TIMEOUT, asking)
            .await
            .map_err(|_| failed("does not tell its version".to_owned()))??;
        // "pg_dump (PostgreSQL) 15.4 (Debian ..)", "pg_dump (PostgreSQL) 18beta1"
        let version = said.split_whitespace().nth(2).unwrap_or_default().to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major: u32 = digits
            .parse()
            .map_err(|_| failed(format!("tells an unknown version: {}", said.trim())))?;
        if major < server_major {
            return Err(failed(format!(
                "has version {version}, the server {server_major}; expected one that is not older than the server (see [backup] pg_bin)"
            )));
        }
        Ok(version)
    }

    /// Runs a program to its end. The inner error is what it said.
    pub(super) async fn run(
        &self,
        tool: &str,
        database: Option<&str>,
        arguments: &[String],
    ) -> Result<Result<String, String>, MaintenanceError> {
        let mut command = self.command(tool, database, arguments)?;
        let mut running = Running::start(tool, &mut command)?;
        let said = running.read_all().await?;
        Ok(running.end().await?.map(|()| said))
    }
}

/// A program at work. Dropped, it is killed.
pub(super) struct Running {
    tool: String,
    child: Child,
    pub(super) stdout: ChildStdout,
    said: tokio::task::JoinHandle<String>,
}

impl Running {
    pub(super) fn start(tool: &str, command: &mut Command) -> Result<Self, MaintenanceError> {
        let io = |source| MaintenanceError::Io {
            path: tool.to_owned(),
            source,
        };
        let mut child = command.spawn().map_err(io)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io(std::io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Self {
            tool: tool.to_owned(),
            child,
            stdout,
            said: tokio::spawn(last_words(stderr)),
        })
    }

    fn io(&self, source: std::io::Error) -> MaintenanceError {
        MaintenanceError::Io {
            path: self.tool.clone(),
            source,
        }
    }

    async fn read_all(&mut self) -> Result<String, MaintenanceError> {
        let mut text = Vec::new();
        match self.stdout.read_to_end(&mut text).await {
            Ok(_) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Waits for its end. The inner error is what it said.
    pub(super) async fn end(self) -> Result<Result<(), String>, MaintenanceError> {
        let Self {
            tool, mut child, said, ..
        } = self;
        // wait() would close standard input first, which is what keeps the program alive.
        let kept = child.stdin.take();
        let status = child
            .wait()
            .await
            .map_err(|source| MaintenanceError::Io { path: tool, source })?;
        drop(kept);
        let said = said.await.unwrap_or_default();
        Ok(if status.success() {
            Ok(())
        } else {
            Err(complaint(status, &said))
        })
    }
}

fn complaint(status: ExitStatus, said: &str) -> String {
    let said = said.trim().replace('\n', "; ");
    if said.is_empty() {
        return status.to_string();
    }
    // Programs tell no SQLSTATE. In another language than ours the advice is missing, and nothing else.
    if said.contains("permission denied") || said.contains("must be owner") {
        return format!("{said}; {LACKING}");
    }
    said
}

/// The end of what a program says: the last lines tell why it failed.
async fn last_words(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 1_024];
    while let Ok(read) = stderr.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(MAX_SAID);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// `--file=path` and the like, from a path that may be any bytes but is never split by a shell.
pub(super) fn path_argument(name: &str, path: &Path) -> Result<String, MaintenanceError> {
    let text = path.to_str().ok_or_else(|| MaintenanceError::Io {
        path: path.display().to_string(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is no UTF-8"),
    })?;
    // A relative path that begins with a dash would be taken for an option.
    let text = if text.starts_with('-') {
        format!("./{text}")
    } else {
        text.to_owned()
    };
    Ok(format!("{name}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_into_the_environment_alone() {
        let url = "postgres://me:s%40cret@db.example:6543/app?sslmode=require&sslrootcert=/ca.pem";
        let hosts = Hosts::parse(url).expect("a server");
        let programs = Programs::new(&hosts, Some(PathBuf::from("/bin")));
        let value = |name| {
            programs
                .environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(value("PGPASSWORD"), Some("s@cret"));
        assert_eq!(
            (value("PGHOST"), value("PGPORT"), value("PGDATABASE")),
            (Some("db.example"), Some("6543"), Some("app"))
        );
        assert_eq!(
            (value("PGSSLMODE"), value("PGSSLROOTCERT")),
            (Some("require"), Some("/ca.pem"))
        );
        assert_eq!(value("PGTARGETSESSIONATTRS"), None, "one server is taken as it is");
        let several = Hosts::parse("postgres://me@h1:6001,h2:6002/app").expect("servers");
        let several = Programs::new(&several, None).environment;
        for (name, value) in [
            ("PGHOST", "h1,h2"),
            ("PGPORT", "6001,6002"),
            ("PGTARGETSESSIONATTRS", "read-write"),
        ] {
            assert!(several.contains(&(name, value.to_owned())), "{name}: {several:?}");
        }
        let command = programs.command("sh", None, &["-c".to_owned()]).expect("a command");
        let shown = command
            .as_std()
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect::<Vec<_>>();
        assert!(!shown.join(" ").contains("cret"), "{shown:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_missing_old_or_failing_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = "postgres://me@127.0.0.1/app";
        let hosts = Hosts::parse(url).expect("a server");
        let programs = Programs::new(&hosts, Some(folder.path().to_owned()));
        let Err(MaintenanceError::Tool { tool, problem }) = programs.check("pg_dump", 15).await else {
            panic!("it is missing")
        };
        assert!(tool == "pg_dump" && problem.contains("pg_bin"), "{problem}");

        let script = |text: &str| {
            let path = folder.path().join("pg_dump");
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&path, mode).expect("executable");
        };
        script("echo 'pg_dump (PostgreSQL) 12.9 (Debian 12.9-1)'");
        let Err(MaintenanceError::Tool { problem, .. }) = programs.check("pg_dump", 15).await else {
            panic!("it is too old")
        };
        assert!(problem.contains("12.9") && problem.contains("not older"), "{problem}");
        assert_eq!(programs.check("pg_dump", 12).await.expect("new enough"), "12.9");

        script("echo first >&2; echo 'no room' >&2; exit 3");
        let said = programs
            .run("pg_dump", None, &[])
            .await
            .expect("it runs")
            .expect_err("it fails");
        assert_eq!(said, "first; no room");
    }

    /// The program tells its id, then waits for ever; it has to be gone when nobody waits for it any more.
    #[tokio::test]
    async fn a_program_does_not_outlive_whoever_started_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = "postgres://me@127.0.0.1/app";
        let hosts = Hosts::parse(url).expect("a server");
        let programs = Programs::new(&hosts, Some(PathBuf::from("/bin")));
        let script = "echo $$; while :; do read -r line < fifo; done".to_owned();
        let fifo = std::process::Command::new("mkfifo")
            .arg(folder.path().join("fifo"))
            .status()
            .expect("mkfifo");
        assert!(fifo.success());
        let mut command = programs.command("sh", None, &["-c".to_owned(), script]).expect("a command");
        command.current_dir(folder.path());
        let mut running = Running::start("sh", &mut command).expect("started");
        let mut line = String::new();
        let mut reader = tokio::io::BufReader::new(&mut running.stdout);
        tokio::io::AsyncBufReadExt::read_line(&mut reader, &mut line)
            .await
            .expect("its id");
        let process = PathBuf::from(format!("/proc/{}", line.trim()));
        assert!(process.exists());
        // Its standard output ends when it does: the pipe is held open by nobody else.
        let Running {
            child, mut stdout, said, ..
        } = running;
        drop(child);
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).await.expect("its end");
        said.await.expect("its last words");
    }
}
