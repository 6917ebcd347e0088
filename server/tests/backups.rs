//! Backups of whole tables under faults: kill -9 of the real server in the middle of a dump, a restore and a prune, a disk that is full,
//! an fsync that fails, on both databases; judged by raw SQL and by what lies in the backup folder.

#![cfg(feature = "failpoints")]

mod support;

use std::{fs, path::PathBuf, process::Command};

use dbkeep_client::{Client, CreateRequest, PruneRequest, RestoreRequest, RunQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use support::Daemon;

const CATALOG: &str = r#"
[[operation]]
name = "orphans"
category = "ORPHANED_DATA"
severity = "LOW"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]
"#;

struct World {
    url: String,
    db: Db,
    folder: tempfile::TempDir,
    catalog: PathBuf,
}

impl World {
    async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("whole").await.expect("a database")
        } else {
            let file = folder.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        let catalog = folder.path().join("catalog.toml");
        fs::write(&catalog, CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        db.execute(
            "CREATE TABLE parent (id integer PRIMARY KEY); \
             CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, note text); \
             CREATE INDEX child_parent ON child (parent_id)",
        )
        .await
        .expect("tables");
        let series = |rows: u32| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
        db.execute(&format!("INSERT INTO parent {} SELECT i FROM n", series(100)))
            .await
            .expect("parents");
        db.execute(&format!(
            "INSERT INTO child {} SELECT i, CASE WHEN i % 5 = 0 THEN 100000 + i ELSE 1 + i % 100 END, 'note ' || i FROM n",
            series(3_000)
        ))
        .await
        .expect("children");
        Self {
            url,
            db,
            folder,
            catalog,
        }
    }

    fn start(&self, failpoints: &str) -> Daemon {
        Daemon::start(&self.folder.path().join("data"), &self.url, &self.catalog, failpoints)
    }

    fn files(&self, run: &str) -> Vec<String> {
        let folder = self.folder.path().join("data/backups").join(run);
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    async fn hash(&self) -> String {
        self.db.table_hash("child", "id").await.expect("a hash")
    }
}

async fn the_run(client: &Client, kind: proto::RunKind) -> String {
    let mut runs = client.runs().list_all(RunQuery::default().kind(kind)).await.expect("runs");
    assert_eq!(runs.len(), 1);
    runs.remove(0).id
}

async fn finish(client: &Client, run: &str) -> proto::Run {
    client
        .runs()
        .watch(run)
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end")
}

async fn drain(stream: Result<dbkeep_client::RunStream, dbkeep_client::Error>) {
    if let Ok(mut stream) = stream {
        while let Some(Ok(_)) = stream.next().await {}
    }
}

async fn save(client: &Client) -> proto::Run {
    let run = client
        .backups()
        .create(CreateRequest::new())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    run
}

fn in_place(backup: &str) -> RestoreRequest {
    RestoreRequest::in_place(backup, format!("app/{backup}")).replace()
}

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("postgres").await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("sqlite").await; })* }
    };
}

on_both! {
    a_dump_that_is_killed_begins_anew
    a_restore_that_is_killed_is_all_or_nothing
    a_lost_reply_to_the_commit_of_a_restore_is_no_second_restore
    a_restore_beside_that_is_killed_begins_anew
    rows_shown_beside_go_on_where_they_were
    a_prune_that_is_killed_is_finished_by_the_next
    a_backup_that_an_undo_needs_stays
    an_fsync_that_fails_makes_no_backup
    a_full_disk_makes_no_backup
}

async fn a_dump_that_is_killed_begins_anew(database: &str) {
    for point in ["dump-begun", "dump-written", "archive-file-renamed", "dump-published"] {
        let world = World::new(database).await;
        let before = world.hash().await;
        let mut daemon = world.start(&format!("{point}=panic"));
        drain(daemon.client().await.backups().create(CreateRequest::new()).await).await;
        assert!(!daemon.wait().success(), "{point}: the server was killed");
        let daemon = world.start("");
        let client = daemon.client().await;
        let run = the_run(&client, proto::RunKind::Backup).await;
        let ended = finish(&client, &run).await;
        assert_eq!(
            (ended.state(), ended.attempts),
            (proto::RunState::Succeeded, 2),
            "{point}: {}",
            ended.state_reason
        );
        let shown = client.backups().get(run.as_str(), 0).await.expect("the backup").backup;
        let mut named: Vec<_> = shown.files.iter().map(|file| file.file.clone()).collect();
        named.sort_unstable();
        assert_eq!(world.files(&run), named, "{point}: nothing is left of the first attempt");
        world.db.execute("DELETE FROM child").await.expect("damage");
        let restored = client
            .backups()
            .restore(in_place(&run))
            .await
            .expect("a stream")
            .finish()
            .await
            .expect("an end");
        assert_eq!(
            restored.state(),
            proto::RunState::Succeeded,
            "{point}: {}",
            restored.state_reason
        );
        assert_eq!(world.hash().await, before, "{point}");
    }
}

async fn a_restore_that_is_killed_is_all_or_nothing(database: &str) {
    for point in ["load-checked", "load-copied", "load-recorded", "load-committed"] {
        let world = World::new(database).await;
        let before = world.hash().await;
        let daemon = world.start("");
        let backup = save(&daemon.client().await).await.id;
        drop(daemon);
        world
            .db
            .execute("DELETE FROM child WHERE id > 1000; UPDATE child SET note = 'x'")
            .await
            .expect("damage");
        let damaged = world.hash().await;
        let mut daemon = world.start(&format!("{point}=panic"));
        drain(daemon.client().await.backups().restore(in_place(&backup)).await).await;
        assert!(!daemon.wait().success(), "{point}: the server was killed");
        let now = if point == "load-committed" { &before } else { &damaged };
        assert_eq!(world.hash().await, *now, "{point}: all of it or nothing");
        let daemon = world.start("");
        let client = daemon.client().await;
        let run = the_run(&client, proto::RunKind::Restore).await;
        let ended = finish(&client, &run).await;
        assert_eq!(
            (ended.state(), ended.attempts),
            (proto::RunState::Succeeded, 2),
            "{point}: {}",
            ended.state_reason
        );
        assert_eq!(world.hash().await, before, "{point}");
        assert_eq!(ended.report.expect("a report").rows_affected, 3_100, "{point}: both tables");
    }
}

async fn a_lost_reply_to_the_commit_of_a_restore_is_no_second_restore(database: &str) {
    let world = World::new(database).await;
    let daemon = world.start("load-commit-reply-lost=1*return->off");
    let client = daemon.client().await;
    let backup = save(&client).await.id;
    let before = world.hash().await;
    world.db.execute("DELETE FROM child").await.expect("damage");
    let run = client
        .backups()
        .restore(in_place(&backup))
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(
        (run.state(), run.attempts),
        (proto::RunState::Succeeded, 2),
        "{}",
        run.state_reason
    );
    assert_eq!(world.hash().await, before);
    let journal = if database == "postgres" {
        "dbkeep.journal"
    } else {
        "_dbkeep_journal"
    };
    let rows = world
        .db
        .count_where(journal, &format!("run_id = '{}'", run.id))
        .await
        .expect("a count");
    assert_eq!(rows, 1, "it was carried out once");
}

async fn a_restore_beside_that_is_killed_begins_anew(database: &str) {
    let world = World::new(database).await;
    let before = world.hash().await;
    let daemon = world.start("");
    let backup = save(&daemon.client().await).await.id;
    drop(daemon);
    let name = format!("aside_{}", &backup.replace('-', "")[20..]);
    let mut daemon = world.start("scratch-made=panic");
    let request = RestoreRequest::scratch(&backup).scratch_name(&name);
    drain(daemon.client().await.backups().restore(request).await).await;
    assert!(!daemon.wait().success(), "the server was killed");
    let daemon = world.start("");
    let client = daemon.client().await;
    let run = the_run(&client, proto::RunKind::Restore).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    let aside = if database == "postgres" {
        format!("{}/{name}", world.url.rsplit_once('/').expect("a URL").0)
    } else {
        format!("sqlite://{}", world.folder.path().join(format!("{name}.db")).display())
    };
    let aside = Db::open(&aside).await.expect("the scratch place");
    assert_eq!(aside.table_hash("child", "id").await.expect("a hash"), before);
    aside.close().await;
    let mut beside: Vec<_> = fs::read_dir(world.folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("dbkeep-"))
        .collect();
    beside.sort_unstable();
    assert_eq!(beside, Vec::<String>::new(), "nothing unfinished is left beside the target");
}

async fn clean(client: &Client) -> proto::Run {
    let request = RunRequest::new(["orphans"]).execute().batch_size(100).full_speed();
    let run = client
        .cleanup()
        .run(request)
        .await
        .expect("a run")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    run
}

async fn rows_shown_beside_go_on_where_they_were(database: &str) {
    let world = World::new(database).await;
    let daemon = world.start("");
    let run = clean(&daemon.client().await).await;
    drop(daemon);
    let mut daemon = world.start("show-committed=2*off->panic");
    let request = RestoreRequest::scratch(run.id.as_str()).scratch_name("shown");
    drain(daemon.client().await.backups().restore(request).await).await;
    assert!(!daemon.wait().success(), "the server was killed");
    let daemon = world.start("");
    let client = daemon.client().await;
    let restore = the_run(&client, proto::RunKind::Restore).await;
    let ended = finish(&client, &restore).await;
    assert_eq!(
        (ended.state(), ended.attempts),
        (proto::RunState::Succeeded, 2),
        "{}",
        ended.state_reason
    );
    let table = if database == "postgres" {
        "shown.child"
    } else {
        "shown__child"
    };
    assert_eq!(world.db.count(table).await.expect("a count"), 600, "no row is shown twice");
}

async fn a_prune_that_is_killed_is_finished_by_the_next(database: &str) {
    for point in ["prune-begun", "prune-file-gone", "prune-files-gone", "prune-forgotten"] {
        let world = World::new(database).await;
        let daemon = world.start("");
        let client = daemon.client().await;
        let run = clean(&client).await.id;
        drop(daemon);
        let mut daemon = world.start(&format!("{point}=panic"));
        let client = daemon.client().await;
        let killed = client.backups().prune(PruneRequest::default().keep_last(0).execute()).await;
        assert!(killed.is_err() && !daemon.wait().success(), "{point}: the server was killed");
        let daemon = world.start("");
        let client = daemon.client().await;
        let refused = client.runs().undo(run.as_str()).await.map(drop);
        assert!(
            matches!(&refused, Err(dbkeep_client::Error::BackupPruned { .. })),
            "{point}: {refused:?}"
        );
        // Even a rule that would keep it: what was begun cannot be had back.
        let done = client
            .backups()
            .prune(PruneRequest::default().keep_last(9).execute())
            .await
            .expect("done");
        assert!(
            done.backups[0].pruned && done.backups[0].reason.contains("finished now"),
            "{point}: {done:?}"
        );
        assert!(
            !world.folder.path().join("data/backups").join(&run).exists(),
            "{point}: every file is gone"
        );
        let journal = if database == "postgres" {
            "dbkeep.journal"
        } else {
            "_dbkeep_journal"
        };
        assert_eq!(
            world.db.count(journal).await.expect("a count"),
            0,
            "{point}: the journal is gone"
        );
        let done = client
            .backups()
            .prune(PruneRequest::default().keep_last(0).execute())
            .await
            .expect("done");
        assert_eq!(done.backups.len(), 0, "{point}: nothing is left to do");
    }
}

async fn a_backup_that_an_undo_needs_stays(database: &str) {
    let world = World::new(database).await;
    let before = world.hash().await;
    let daemon = world.start("");
    let run = clean(&daemon.client().await).await.id;
    drop(daemon);
    let mut daemon = world.start("undo-committed=1*off->panic");
    drain(
        daemon
            .client()
            .await
            .runs()
            .undo(UndoRequest::new(run.as_str()).full_speed())
            .await,
    )
    .await;
    assert!(!daemon.wait().success(), "the server was killed");
    // The undo is taken up again, and stands still.
    let daemon = world.start("undo-claimed=pause");
    let client = daemon.client().await;
    let done = client
        .backups()
        .prune(PruneRequest::default().keep_last(0).execute())
        .await
        .expect("done");
    assert!(
        !done.backups[0].pruned && done.backups[0].reason.contains("about it is"),
        "{done:?}"
    );
    assert_eq!(world.files(&run).len(), 6, "every chunk is there");
    drop(daemon);
    let daemon = world.start("");
    let client = daemon.client().await;
    let undo = the_run(&client, proto::RunKind::Undo).await;
    let ended = finish(&client, &undo).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(world.hash().await, before);
    let done = client
        .backups()
        .prune(PruneRequest::default().keep_last(0).execute())
        .await
        .expect("done");
    assert!(done.backups[0].pruned, "{done:?}");
    assert_eq!(world.files(&run).len(), 0);
}

async fn an_fsync_that_fails_makes_no_backup(database: &str) {
    for point in ["archive-file-fsync-fails", "archive-folder-fsync-fails"] {
        let world = World::new(database).await;
        // Once only: a second try would report success for data that may be gone.
        let daemon = world.start(&format!("{point}=1*return->off"));
        let client = daemon.client().await;
        let run = client
            .backups()
            .create(CreateRequest::new())
            .await
            .expect("a stream")
            .finish()
            .await
            .expect("an end");
        assert_eq!(
            (run.state(), run.attempts),
            (proto::RunState::Failed, 1),
            "{point}: {}",
            run.state_reason
        );
        assert!(run.state_reason.contains("injected"), "{point}: {}", run.state_reason);
        assert_eq!(world.files(&run.id), Vec::<String>::new(), "{point}");
        assert_eq!(
            client.backups().list_all(Default::default()).await.expect("backups").len(),
            0,
            "{point}"
        );
        save(&client).await;
    }
}

async fn a_full_disk_makes_no_backup(database: &str) {
    let world = World::new(database).await;
    // Incompressible, and much more than what the limit below leaves room for.
    let noise = if database == "postgres" {
        "CREATE TABLE noise AS SELECT i AS id, string_agg(md5(i::text || j::text), '') AS text FROM generate_series(1, 2000) AS i, generate_series(1, 250) AS j GROUP BY i"
    } else {
        "CREATE TABLE noise (id integer PRIMARY KEY, bytes blob); \
         INSERT INTO noise WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT i, randomblob(4000) FROM n"
    };
    world.db.execute(noise).await.expect("noise");
    // 4 MiB for each file, for dbkeepd and whatever it starts; the signal is ignored, so that writing fails as on a full disk.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_dbkeepd"),
    ]);
    let daemon = Daemon::start_by(command, &world.folder.path().join("data"), &world.url, &world.catalog, "");
    let client = daemon.client().await;
    let run = client
        .backups()
        .create(CreateRequest::new())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Failed, "{}", run.state_reason);
    assert_eq!(world.files(&run.id), Vec::<String>::new(), "nothing is left of it");
    assert_eq!(client.backups().list_all(Default::default()).await.expect("backups").len(), 0);
    // What fits is saved, by the same server.
    let small = client
        .backups()
        .create(CreateRequest::new().table("child"))
        .await
        .expect("a stream");
    assert_eq!(small.finish().await.expect("an end").state(), proto::RunState::Succeeded);
}
