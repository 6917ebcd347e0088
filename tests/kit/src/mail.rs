//! A real mail server for tests: aiosmtpd, a Python program, so that neither protocol nor parsing of mail is shared with what is tested. `./check
//! tools` brings it. It ends with the value that started it, and with this process.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStdout,
    time::{Duration, timeout},
};

const SCRIPT: &str = include_str!("mail_server.py");
/// Longest wait for the server or for a mail; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server asks for.
#[derive(Debug, Clone, Default)]
pub struct MailOptions<'a> {
    /// Certificate and key, PEM files: the server then insists on STARTTLS.
    pub certificate: Option<(&'a Path, &'a Path)>,
    /// TLS from the first byte in place of STARTTLS.
    pub wrapped: bool,
    /// User and password that it insists on.
    pub login: Option<(&'a str, &'a str)>,
    /// Recipients that it refuses.
    pub refused: &'a [&'a str],
    /// A port that is free, such as that of a server that has ended; 0 for any.
    pub port: u16,
}

/// A running mail server on 127.0.0.1.
#[derive(Debug)]
pub struct MailServer {
    /// Its port.
    pub port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl MailServer {
    /// Starts it; returns when it listens.
    ///
    /// # Errors
    /// Where there is no Python with aiosmtpd, or it does not start.
    pub async fn start(options: &MailOptions<'_>) -> Result<Self> {
        let (certificate, key) = options.certificate.unzip();
        let options = json!({
            "certificate": certificate,
            "key": key,
            "wrapped": options.wrapped,
            "login": options.login.map(|(user, password)| [user, password]),
            "refused": options.refused,
            "port": options.port,
        });
        let mut child = Command::new(python()?)
            .args(["-c", SCRIPT, &options.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("the mail server has no output")?;
        let lines = BufReader::new(ChildStdout::from_std(stdout)?).lines();
        let mut server = Self { port: 0, lines, child };
        let first = server.next().await?;
        server.port = u16::try_from(first["port"].as_u64().context("the mail server tells no port")?)?;
        Ok(server)
    }

    /// The next mail: `from`, `to`, `secured`, `user`, `headers` (pairs), `text` and `html`.
    ///
    /// # Errors
    /// Where none comes.
    pub async fn next(&mut self) -> Result<Value> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.context("no mail came")??;
        Ok(serde_json::from_str(&line.context("the mail server has ended")?)?)
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // It may have ended before; there is nobody to tell of a failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that `./check` has set up beside the builds, or the system's, if it has aiosmtpd.
fn python() -> Result<PathBuf> {
    let executable = std::env::current_exe().unwrap_or_default();
    let default_target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    executable
        .ancestors()
        .chain([default_target.as_path()])
        .map(|folder| folder.join("tools/python/bin/python3"))
        .filter(|program| program.exists())
        .chain([PathBuf::from("python3")])
        .find(|program| {
            let asked = Command::new(program)
                .args(["-c", "import aiosmtpd"])
                .stderr(Stdio::null())
                .status();
            asked.is_ok_and(|status| status.success())
        })
        .context("no Python with aiosmtpd: neither in target/tools/python nor on PATH. `./check tools` brings it.")
}
