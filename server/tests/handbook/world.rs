//! Two databases that are maintained, their server as its own process with a file of settings, and somebody who goes by the handbook.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use dbkeep_testkit::{Db, MailOptions, MailServer, fresh_database};
use serde_json::Value;

use crate::{
    steps::{Section, Step},
    support::Daemon,
};

/// Rows of the table that the operation is about, and those of them that go.
pub(crate) const ROWS: u64 = 3_000;
pub(crate) const EXPIRED: u64 = 2_500;

const CATALOG: &str = r#"
[[operation]]
name = "expired_tokens"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
max_fraction = 1.0
"#;

const SCHEDULE: &str = r#"
[[schedule]]
name = "nightly"
operations = ["expired_tokens"]
cron = "0 3 * * *"
"#;

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) postgres: bool,
    /// URLs of `app` and `copy`, and of the control store where servers share one.
    pub(crate) app: String,
    copy: String,
    pub(crate) store: Option<String>,
    mail: MailServer,
    pub(crate) daemon: Daemon,
    /// What the handbook's placeholders stand for.
    placeholders: BTreeMap<&'static str, String>,
}

/// A new database of that product; a file in the folder for SQLite.
async fn database(postgres: bool, folder: &Path, name: &str) -> String {
    if postgres {
        return fresh_database(name).await.unwrap();
    }
    let file = folder.join(format!("{name}.db"));
    fs::write(&file, []).unwrap();
    format!("sqlite://{}", file.display())
}

/// The table, filled.
pub(crate) async fn fill(url: &str) {
    let db = Db::open(url).await.unwrap();
    db.execute("CREATE TABLE tokens (id bigint PRIMARY KEY, expires_at bigint, note text)")
        .await
        .unwrap();
    db.execute(&format!(
        "INSERT INTO tokens WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) \
         SELECT i, CASE WHEN i <= {EXPIRED} THEN i ELSE 4000000000 + i END, 'token ' || i FROM n"
    ))
    .await
    .unwrap();
    db.close().await;
}

impl World {
    pub(crate) async fn new(postgres: bool, migrations: &[(&str, &str)], failpoints: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (app, copy) = (
            database(postgres, folder.path(), "app").await,
            database(postgres, folder.path(), "copy").await,
        );
        fill(&app).await;
        fill(&copy).await;
        let store = if postgres {
            Some(fresh_database("control").await.unwrap())
        } else {
            None
        };
        let path = |name: &str| folder.path().join(name);
        fs::write(path("catalog.toml"), format!("{CATALOG}{SCHEDULE}")).unwrap();
        fs::write(path("copy.toml"), CATALOG).unwrap();
        for name in ["migrations", "backups"] {
            fs::create_dir(path(name)).unwrap();
        }
        for (name, text) in migrations {
            fs::write(path("migrations").join(name), text).unwrap();
        }
        let mail = MailServer::start(&MailOptions::default()).await.unwrap();
        let settings = settings(&app, &copy, store.as_deref(), mail.port, "data", true);
        fs::write(path("dbkeep.toml"), settings).unwrap();
        let daemon = Daemon::start_configured_with(&path("dbkeep.toml"), failpoints);
        let placeholders = BTreeMap::from([
            ("TARGET", "app".to_owned()),
            ("COPY", "copy".to_owned()),
            ("OPERATION", "expired_tokens".to_owned()),
            ("CHANNEL", "mail".to_owned()),
            ("SOMEBODY", "bob".to_owned()),
            ("BACKUPS", path("backups").display().to_string()),
            ("CONFIG", path("dbkeep.toml").display().to_string()),
            ("STATEMENTS", path("statements").display().to_string()),
        ]);
        Self {
            postgres,
            app,
            copy,
            store,
            mail,
            daemon,
            placeholders,
            folder,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a placeholder stands for from here on.
    pub(crate) fn set(&mut self, placeholder: &'static str, value: impl Into<String>) {
        self.placeholders.insert(placeholder, value.into());
    }

    pub(crate) fn placeholder(&self, name: &str) -> &str {
        &self.placeholders[name]
    }

    /// Writes the settings anew: with the data folder, and with or without the catalog of `app`.
    pub(crate) fn configure(&self, data: &str, catalog: bool) {
        let settings = settings(&self.app, &self.copy, self.store.as_deref(), self.mail.port, data, catalog);
        fs::write(self.path("dbkeep.toml"), settings).unwrap();
    }

    /// Ends the server as a power cut does, and starts another by the settings.
    pub(crate) fn restart(&mut self) {
        self.daemon.kill();
        self.start();
    }

    pub(crate) fn start(&mut self) {
        self.daemon = Daemon::start_configured(&self.path("dbkeep.toml"));
    }

    /// The database `app`, by connections of its own.
    pub(crate) async fn db(&self) -> Db {
        Db::open(&self.app).await.unwrap()
    }

    pub(crate) async fn hash(&self, url: &str) -> String {
        let db = Db::open(url).await.unwrap();
        let hash = db.table_hash("tokens", "id").await.unwrap();
        db.close().await;
        hash
    }

    pub(crate) fn copy(&self) -> &str {
        &self.copy
    }

    /// The place beside the target that a restore made.
    pub(crate) fn beside(&self, name: &str) -> String {
        if self.postgres {
            let (server, _) = self.app.rsplit_once('/').unwrap();
            format!("{server}/{name}")
        } else {
            format!("sqlite://{}", self.path(&format!("{name}.db")).display())
        }
    }

    /// Drops that place.
    pub(crate) async fn drop_beside(&self, name: &str) {
        if self.postgres {
            self.db()
                .await
                .execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await
                .unwrap();
        } else {
            fs::remove_file(self.path(&format!("{name}.db"))).unwrap();
        }
    }

    /// Types a line into a shell, with the handbook's placeholders as variables. An unknown one is an error of the shell.
    fn shell(&self, commands: &str) -> Output {
        let server = Path::new(env!("CARGO_BIN_EXE_dbkeepd"));
        let tool = server.with_file_name("dbkeep");
        assert!(
            tool.exists(),
            "{} is not there: cargo build -p dbkeep-client --features cli",
            tool.display()
        );
        let mut places = vec![server.parent().unwrap().to_path_buf()];
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(self.folder.path())
            .envs(&self.placeholders)
            .env("PATH", std::env::join_paths(places).unwrap())
            .env("DBKEEP_ADDR", &self.daemon.address)
            .env("DBKEEP_LOG", "error")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Types something that is not in the handbook, to make the trouble or to read ids; ends so.
    pub(crate) fn types(&self, commands: &str, code: i32) -> String {
        let output = self.shell(commands);
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{commands}: {told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        told
    }

    /// Types something that fails, in full or in part.
    pub(crate) fn fails(&self, commands: &str) {
        let output = self.shell(commands);
        let (told, why) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            matches!(output.status.code(), Some(1 | 3)),
            "{commands}: {}: {told}{why}",
            output.status
        );
    }

    /// Types something that may end in any way.
    pub(crate) fn tries(&self, commands: &str) {
        self.shell(commands);
    }

    pub(crate) fn json(&self, command: &str) -> Value {
        let told = self.types(&format!("{command} -o json"), 0);
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{command}: {error}: {told}"))
    }

    /// The newest run of a kind.
    pub(crate) fn newest_run(&self, kind: &str) -> String {
        let listed = self.json(&format!("dbkeep runs list --kind {kind} --limit 1"));
        listed["runs"][0]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn state(&self, run: &str) -> String {
        let shown = self.json(&format!("dbkeep runs show {run}"));
        shown["run"]["state"].as_str().unwrap().to_owned()
    }

    /// Starts a run that takes some seconds, and returns once it has removed something of that target. Its id stands for `$RUN`.
    pub(crate) async fn begin(&mut self, target: &str, url: &str) {
        let slowly = "--execute --yes --detach --rows-per-second 500 --batch-size 50";
        self.types(&format!("dbkeep run expired_tokens --target {target} {slowly}"), 0);
        self.set("RUN", self.newest_run("cleanup"));
        self.at_work(url).await;
    }

    /// The next mail that came.
    pub(crate) async fn mail(&mut self) -> Value {
        self.mail.next().await.unwrap()
    }

    /// Waits until the server's run has removed something, and has not ended.
    async fn at_work(&self, url: &str) {
        let db = Db::open(url).await.unwrap();
        loop {
            let left = db.count("tokens").await.unwrap();
            assert!(left > ROWS - EXPIRED, "it ended before anybody looked");
            if left < ROWS {
                break;
            }
        }
        db.close().await;
    }

    /// The next step of a section, which has commands: they end well. Returns what they said.
    pub(crate) fn goes(&self, section: &mut Section) -> String {
        self.goes_to(section, 0)
    }

    /// The same, where they end with another code.
    pub(crate) fn goes_to(&self, section: &mut Section, code: i32) -> String {
        let step = next(section);
        assert!(
            !step.commands.is_empty(),
            "{}: is done by hand: {}",
            section.heading,
            step.text
        );
        let output = self.shell(&step.commands);
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}: {}\n{}\n{told}\n{}",
            section.heading,
            step.text,
            step.commands,
            String::from_utf8_lossy(&output.stderr)
        );
        told
    }
}

/// The next step of a section, which is done by hand: the caller does it. It names what the caller has in mind.
pub(crate) fn by_hand(section: &mut Section, what: &str) {
    let step = next(section);
    assert!(
        step.commands.is_empty() && step.text.contains(what),
        "{}: expected to do by hand {what:?}: {}",
        section.heading,
        step.text
    );
}

fn next(section: &mut Section) -> Step {
    let heading = &section.heading;
    section
        .steps
        .pop_front()
        .unwrap_or_else(|| panic!("{heading}: there is no further step"))
}

fn settings(app: &str, copy: &str, store: Option<&str>, mail: u16, data: &str, catalog: bool) -> String {
    let catalog = if catalog { "catalog = [\"catalog.toml\"]\n" } else { "" };
    let store = store.map_or_else(String::new, |url| format!("[store]\nurl = \"{url}\"\n"));
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"{data}\"\n[backup]\nfolder = \"backups\"\n{store}\
         [[target]]\nname = \"app\"\nurl = \"{app}\"\nmigrations = \"migrations\"\n{catalog}\
         [[target]]\nname = \"copy\"\nurl = \"{copy}\"\ncatalog = [\"copy.toml\"]\n\
         [[channel]]\nname = \"mail\"\nkind = \"email\"\nurl = \"smtp://127.0.0.1:{mail}\"\nstarttls = false\n\
         from = \"dbkeep@example.org\"\nto = [\"ops@example.org\"]\n"
    )
}
