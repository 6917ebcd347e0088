//! `dbkeep migrations baseline` and `new` as a first user types them, by the real binary against a real server, on both databases; wrong
//! input too. What is typed after a mistake works.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::{fs, path::Path, process::Stdio};

use dbkeep_engine::{
    model::{EngineKind, Layout},
    testing::migrations::generate,
};
use dbkeep_server::{CatalogSource, Config, ServeError};
use dbkeep_testkit::{Db, fresh_database};
use serde_json::Value;
use tokio::{net::TcpListener, process::Command, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const BOTH: [EngineKind; 2] = [EngineKind::Postgres, EngineKind::Sqlite];
const SEED: u64 = 5;

/// A checkout with a migrations folder, a database, and a server that knows both.
struct Place {
    folder: tempfile::TempDir,
    db: Db,
    address: String,
    stop: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
}

/// What a command did.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// What it said, if it ended so.
    #[track_caller]
    fn with(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        &self.out
    }

    /// What it complained of, if it ended so.
    #[track_caller]
    fn complaint(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        &self.err
    }
}

impl Place {
    async fn new(engine: EngineKind, files: &[(String, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = match engine {
            EngineKind::Postgres => fresh_database("byhand").await.unwrap(),
            EngineKind::Sqlite => {
                let file = folder.path().join("app.db");
                fs::write(&file, []).unwrap();
                format!("sqlite://{}", file.display())
            }
        };
        let migrations = folder.path().join("migrations");
        for (path, bytes) in files {
            let path = migrations.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let nothing = CatalogSource::Text {
            name: "none.toml".into(),
            text: String::new(),
        };
        let config = Config::embedded(folder.path().join("data"))
            .with_target("app", url.as_str(), nothing)
            .with_migrations("app", migrations, None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        Self {
            db: Db::open(&url).await.unwrap(),
            address,
            server: tokio::spawn(dbkeep_server::serve(listener, config, stop.clone())),
            stop,
            folder,
        }
    }

    /// Types a command in the checkout; nobody is there to answer a question.
    async fn types(&self, line: &[&str]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_dbkeep"))
            .args(line)
            .current_dir(self.folder.path())
            .env("DBKEEP_ADDR", &self.address)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn migrations(&self, words: &[&str]) -> Said {
        let mut line = vec!["migrations"];
        line.extend(words);
        self.types(&line).await
    }

    /// Ids and states of all migrations.
    async fn states(&self) -> Vec<(String, String)> {
        let listed = self.migrations(&["list", "-o", "json"]).await;
        let answer: Value = serde_json::from_str(listed.with(0)).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let migrations = answer["migrations"].as_array().unwrap();
        migrations.iter().map(|one| (text(&one["id"]), text(&one["state"]))).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.await.unwrap().unwrap();
    }
}

fn files(texts: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let files = texts.iter();
    files
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_says_what_it_will_count_and_a_mistaken_one_is_taken_back() {
    for engine in BOTH {
        let place = Place::new(
            engine,
            &files(&[
                ("1_people.up.sql", "CREATE TABLE people (id integer PRIMARY KEY);"),
                ("1_people.down.sql", "DROP TABLE people;"),
                ("2_names.up.sql", "INSERT INTO people VALUES (1), (2);"),
                ("2_names.down.sql", "DELETE FROM people;"),
                ("3_more.up.sql", "CREATE TABLE more (id integer PRIMARY KEY);"),
                ("3_more.down.sql", "DROP TABLE more;"),
            ]),
        )
        .await;
        // The table is there already: that is why somebody wants a baseline.
        place
            .db
            .execute("CREATE TABLE people (id integer PRIMARY KEY)")
            .await
            .unwrap();
        let states = |second: &str| {
            let all = [("1", "baselined"), ("2", second), ("3", second)];
            all.map(|(id, state)| (id.to_owned(), state.to_owned())).to_vec()
        };
        for (line, code, words) in [
            (&["baseline", "--to", "nothing", "--yes"][..], 1, "dbkeep migrations list"),
            (&["baseline", "--target", "nope", "--yes"], 1, "known are: app"),
            (&["baseline", "1", "--to", "2", "--yes"], 2, "cannot be used with"),
            // Nobody can be asked.
            (&["baseline", "--to", "1"], 2, "--yes"),
        ] {
            let said = place.migrations(line).await;
            assert!(said.complaint(code).contains(words), "{line:?}: {}", said.err);
        }
        assert!(
            place.states().await.iter().all(|(_, state)| state == "pending"),
            "nothing was changed"
        );
        let said = place.migrations(&["baseline", "--to", "1", "--yes"]).await;
        assert_eq!(said.with(0), "In effect now: 1\n");
        assert!(said.err.contains("migrations repair 1 --action mark-pending"), "{}", said.err);
        assert_eq!(place.states().await, states("pending"));
        let again = place.migrations(&["baseline", "--to", "1", "--yes"]).await;
        assert_eq!((again.with(0), again.err.trim()), ("", "Nothing is pending."));

        // Whoever forgets how far it goes counts everything.
        let said = place.migrations(&["baseline", "--yes"]).await;
        assert_eq!(said.with(0), "In effect now: 2, 3\n");
        assert_eq!(place.states().await, states("baselined"));
        let said = place.migrations(&["repair", "3", "--action", "skip", "--yes"]).await;
        assert!(said.complaint(4).contains("mark-pending"), "{}", said.err);
        let said = place.migrations(&["repair", "3"]).await;
        let told = said.with(0);
        assert!(
            told.contains("said so") && told.contains("migrations repair 3 --action mark-pending"),
            "{told}"
        );
        for id in ["3", "2"] {
            place
                .migrations(&["repair", id, "--action", "mark-pending", "--yes"])
                .await
                .with(0);
        }
        assert_eq!(place.states().await, states("pending"));
        place.migrations(&["apply", "--execute", "--yes"]).await.with(0);
        assert_eq!(place.states().await, states("applied"));
        assert_eq!(place.db.count("people").await.unwrap(), 2);
        assert_eq!(place.db.count("more").await.unwrap(), 0);

        // And on: looked at, taken back, tried on a copy, applied.
        assert!(place.migrations(&["show", "2"]).await.with(0).contains("INSERT INTO people"));
        let said = place.migrations(&["rollback", "--steps", "1"]).await;
        assert!(said.with(4).contains("DOWN_UNPROVEN"), "{}", said.out);
        place
            .migrations(&["rollback", "--steps", "1", "--execute", "--yes", "--unproven"])
            .await
            .with(0);
        place.migrations(&["test"]).await.with(0);
        place.migrations(&["apply", "--execute", "--yes"]).await.with(0);
        assert!(place.migrations(&["status"]).await.with(0).contains("in effect"));
        let said = place.migrations(&["rollback", "--steps", "1"]).await;
        assert!(
            !said.with(0).contains("DOWN_UNPROVEN"),
            "a rehearsal has proven it: {}",
            said.out
        );
        place.end().await;
    }
}

/// Puts a statement where a draft wants those of its up script.
fn fill(path: &Path, statement: &str) {
    let draft = fs::read_to_string(path).unwrap();
    let marker = ["-- migrate:up", "-- +goose Up"]
        .into_iter()
        .find(|marker| draft.contains(marker));
    let filled = match marker {
        Some(marker) => {
            let (before, after) = draft.split_once(marker).unwrap();
            let (rest, after) = after.split_once('\n').unwrap();
            format!("{before}{marker}{rest}\n{statement}\n{after}")
        }
        None => format!("{draft}{statement}\n"),
    };
    fs::write(path, filled).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_migration_follows_the_folder_and_is_applied_in_every_layout() {
    for engine in BOTH {
        for layout in Layout::ALL {
            let generated = generate(layout, engine, 6, SEED);
            let generated: Vec<_> = generated.into_iter().map(|file| (file.path, file.bytes)).collect();
            let place = Place::new(engine, &generated).await;
            place.migrations(&["apply", "--execute", "--yes"]).await.with(0);
            let said = place.migrations(&["new", "Add Orders"]).await;
            let written: Vec<&str> = said
                .with(0)
                .lines()
                .map(|line| line.strip_prefix("Written: ").unwrap())
                .collect();
            let written: Vec<_> = written.iter().map(|path| place.folder.path().join(path)).collect();
            assert!(
                !written.is_empty() && written.iter().all(|path| path.is_file()),
                "{layout:?}: {written:?}"
            );
            fill(&written[0], "CREATE TABLE orders_by_hand (id integer PRIMARY KEY);");
            let states = place.states().await;
            let pending: Vec<_> = states.iter().filter(|(_, state)| state == "pending").collect();
            assert_eq!((states.len(), pending.len()), (7, 1), "{layout:?}: {states:?}");
            assert!(place.migrations(&["plan"]).await.with(0).contains("add_orders"), "{layout:?}");
            place.migrations(&["apply", "--execute", "--yes"]).await.with(0);
            assert_eq!(place.db.count("orders_by_hand").await.unwrap(), 0, "{layout:?}");
            place.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_migration_that_cannot_be_written_leaves_nothing() {
    let place = Place::new(EngineKind::Sqlite, &files(&[("1_a.up.sql", "SELECT 1;")])).await;
    let count = || fs::read_dir(place.folder.path().join("migrations")).unwrap().count();
    let long = "x".repeat(246);
    for (line, code, words) in [
        (&["new", "!!!"][..], 2, "letters, digits and underscores"),
        (&["new", ""], 2, "what the migration is about"),
        (&["new"], 2, "<NAME>"),
        (&["new", "x", "--folder", "nowhere"], 1, "--folder"),
        (&["new", "x", "--target", "nope"], 1, "known are: app"),
        // The up script's name just fits, the down script's does not.
        (&["new", &long], 1, "nothing was written"),
    ] {
        let said = place.migrations(line).await;
        let complaint = said.complaint(code);
        assert!(complaint.contains(words), "{line:?}: {complaint}");
        let lines: Vec<&str> = complaint.lines().map(str::trim).collect();
        let repeated = lines.iter().skip(1).any(|line| lines[0].contains(line) && !line.is_empty());
        assert!(!repeated, "{line:?} says it twice: {complaint}");
        assert_eq!(count(), 1, "{line:?}");
    }
    let said = place.migrations(&["new", "../Over There"]).await;
    assert!(said.with(0).contains("migrations/2_over_there.up.sql"), "{}", said.out);
    let beside = fs::read_dir(place.folder.path()).unwrap();
    let strays = beside.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains("over"));
    assert_eq!(strays.count(), 0, "it does not leave the folder");
    fs::rename(place.folder.path().join("migrations"), place.folder.path().join("away")).unwrap();
    let gone = place.migrations(&["status"]).await;
    let complaint = gone.complaint(4);
    assert!(
        complaint.contains("No such file") && complaint.contains("hint: correct the folder"),
        "{complaint}"
    );
    assert_eq!(
        complaint.lines().next().unwrap().matches("/migrations").count(),
        1,
        "{complaint}"
    );
    place.end().await;
}
