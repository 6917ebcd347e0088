//! The real `dbkeepd` as a child process, for tests that kill it.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use dbkeep_client::{Client, ReconnectPolicy};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Longest wait for the end of a server; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `dbkeepd`. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    /// Where it listens, `host:port`; empty where it ended before it told.
    pub(crate) address: String,
}

impl Daemon {
    /// Starts a server on a free port, with `failpoints` armed where any are given, and waits until it serves.
    pub(crate) fn start(data: &Path, target: &str, catalog: &Path, failpoints: &str) -> Self {
        Self::start_with_roots(data, target, catalog, &[], failpoints)
    }

    /// The same with folders whose files the target's rules may take.
    pub(crate) fn start_with_roots(data: &Path, target: &str, catalog: &Path, roots: &[(&str, &Path)], failpoints: &str) -> Self {
        Self::launch(
            Command::new(env!("CARGO_BIN_EXE_dbkeepd")),
            data,
            target,
            catalog,
            roots,
            failpoints,
        )
    }

    /// The same with the target's migrations folder, and without a catalog.
    pub(crate) fn start_with_migrations(data: &Path, target: &str, migrations: &Path, failpoints: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeepd"));
        command
            .args(["--target", &format!("app={target}"), "--migrations"])
            .arg(migrations);
        Self::launch_with(command, data, failpoints)
    }

    /// The same with a file of settings.
    pub(crate) fn start_with_settings(settings: &Path, data: &Path, target: &str, catalog: &Path, failpoints: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeepd"));
        command.arg("--config").arg(settings);
        Self::launch(command, data, target, catalog, &[], failpoints)
    }

    /// The same by a command that ends in `dbkeepd`.
    pub(crate) fn start_by(command: Command, data: &Path, target: &str, catalog: &Path, failpoints: &str) -> Self {
        Self::launch(command, data, target, catalog, &[], failpoints)
    }

    /// Starts a server as a configuration file says.
    pub(crate) fn start_configured(config: &Path) -> Self {
        Self::start_configured_with(config, "")
    }

    /// The same with `failpoints` armed.
    pub(crate) fn start_configured_with(config: &Path, failpoints: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeepd"));
        command.arg("--config").arg(config);
        Self::spawn(command, failpoints)
    }

    /// Starts a server by a command as it is.
    pub(crate) fn start_command(command: Command) -> Self {
        Self::spawn(command, "")
    }

    fn launch(
        mut command: Command,
        data: &Path,
        target: &str,
        catalog: &Path,
        roots: &[(&str, &Path)],
        failpoints: &str,
    ) -> Self {
        command
            .args(["--target", &format!("app={target}"), "--catalog"])
            .arg(catalog)
            .args(roots.iter().map(|(name, path)| format!("--root={name}={}", path.display())));
        Self::launch_with(command, data, failpoints)
    }

    fn launch_with(mut command: Command, data: &Path, failpoints: &str) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data);
        Self::spawn(command, failpoints)
    }

    fn spawn(mut command: Command, failpoints: &str) -> Self {
        command
            .env("DBKEEP_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        if !failpoints.is_empty() {
            command.env("FAILPOINTS", failpoints);
        }
        let mut child = command.spawn().expect("dbkeepd starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("a line");
        // A server with armed failpoints may take up an interrupted run, and end, before it says a word.
        let address = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        assert!(
            !address.is_empty() || !failpoints.is_empty(),
            "unexpected first line {line:?}"
        );
        Self { child, address }
    }

    /// A client of this server.
    pub(crate) async fn client(&self) -> Client {
        // No stream may outlive the server that it came from: these tests look at the run again after the restart.
        Client::builder()
            .address(&self.address)
            .reconnect(ReconnectPolicy::never())
            .connect()
            .await
            .expect("a connection")
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    fn process(&self) -> Pid {
        let id = i32::try_from(self.child.id()).ok();
        id.and_then(Pid::from_raw).expect("a process")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.process(), signal).expect("a signal");
    }

    /// Sends it and every program that it has started a signal, as a machine that stops or goes on does.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for group in self.groups() {
            // It may have ended by itself meanwhile.
            let _ = rustix::process::kill_process_group(group, signal);
        }
        self.signal(signal);
    }

    /// Process groups of the programs that it has started: each has its own.
    fn groups(&self) -> Vec<Pid> {
        let parent = self.child.id().to_string();
        let processes = std::fs::read_dir("/proc").expect("the processes");
        let groups = processes.filter_map(|process| {
            let told = std::fs::read_to_string(process.ok()?.path().join("stat")).ok()?;
            // Behind the name, which may hold anything: state, parent, group.
            let mut after_name = told.rsplit_once(')')?.1.split_whitespace().skip(1);
            (after_name.next() == Some(&parent)).then(|| after_name.next()?.parse().ok())?
        });
        groups.filter_map(Pid::from_raw).collect()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("gone")
    }

    /// Waits until the failpoint that it was started with has killed it.
    pub(crate) fn died(&mut self, point: &str) {
        use std::os::unix::process::ExitStatusExt as _;
        let id = self.process();
        let (telling, told) = mpsc::channel();
        // Its end is waited for by somebody else, so that this thread may lose its patience. The status stays for whoever asks next.
        std::thread::spawn(move || {
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let end = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(id), ended));
            // Whoever asked may have gone.
            let _ = telling.send(end.map(drop));
        });
        let end = told.recv_timeout(PATIENCE);
        end.unwrap_or_else(|_| panic!("{point} was never passed: the server lives"))
            .expect("a child");
        let status = self.wait();
        assert_eq!(
            status.signal(),
            Some(Signal::KILL.as_raw()),
            "{point} was never passed: the server ended with {status}"
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended before; there is nobody to tell of a failure here. What is stopped would not hear of its end.
        for group in self.groups() {
            let _ = rustix::process::kill_process_group(group, Signal::CONT);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
