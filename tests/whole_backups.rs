//! Backups of whole tables and databases, end to end: a real server, the real client, both databases, and an oracle in raw SQL that
//! hashes tables before the damage and after the restore.

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use dbkeep_client::{Client, CreateRequest, Error, PruneRequest, RestoreRequest, RunRequest, UndoRequest, proto};
use dbkeep_server::Config;
use dbkeep_testkit::{Db, chunk, fresh_database};
use support::{CATALOG, CHILDREN, Database, ORPHANS, World, connect};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    a_damaged_database_comes_back_bit_by_bit
    an_emptied_database_comes_back_whole
    a_catalog_can_ask_for_a_vacuum
    a_dropped_table_comes_back_with_all_that_belongs_to_it
    tables_alone_are_saved_and_shown_beside
    a_backup_is_proven_and_damage_is_found
    captured_rows_are_shown_beside_and_not_put_in_place
    old_backups_go_by_count_and_age
    what_an_ended_undo_left_is_told
    what_cannot_be_saved_is_refused_before_a_run
    a_run_tells_what_became_of_the_space
}

/// Objects that have to come back with a table: an index, a key that counts by itself, a child's key, a trigger, odd values.
async fn furnish(world: &World, database: Database) {
    let sql = match database {
        Database::Postgres => {
            "CREATE TABLE item (id bigserial PRIMARY KEY, parent_id integer REFERENCES parent (id), \"odd \"\" name\" text, raw bytea, at timestamptz, \
               doubled bigint GENERATED ALWAYS AS (id * 2) STORED); \
             CREATE INDEX item_parent ON item (parent_id); \
             INSERT INTO item (parent_id, \"odd \"\" name\", raw, at) SELECT 1 + i % 200, CASE WHEN i % 3 = 0 THEN NULL WHEN i % 3 = 1 THEN '' \
               ELSE E'tab\\tline\\n\\\\.\\n back\\\\slash ' || i END, decode(md5(i::text), 'hex'), '2024-03-31 01:30Z'::timestamptz + i * interval '1 s' \
               FROM generate_series(1, 500) AS i; \
             CREATE TABLE seen (n bigint NOT NULL); INSERT INTO seen VALUES (0); \
             CREATE FUNCTION count_item() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE public.seen SET n = n + 1; RETURN NEW; END'; \
             CREATE TRIGGER item_counted AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION count_item()"
        }
        Database::Sqlite => {
            "CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, parent_id integer REFERENCES parent (id), \"odd \"\" name\" text, raw blob, at real, \
               doubled integer GENERATED ALWAYS AS (id * 2) STORED); \
             CREATE INDEX item_parent ON item (parent_id); \
             INSERT INTO item (parent_id, \"odd \"\" name\", raw, at) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
               SELECT 1 + i % 200, CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'x' || char(0) || i END, randomblob(16), i / 7.0 FROM n; \
             CREATE TABLE seen (n bigint NOT NULL); INSERT INTO seen VALUES (0); \
             CREATE TRIGGER item_counted AFTER INSERT ON item BEGIN UPDATE seen SET n = n + 1; END"
        }
    };
    world.db.execute(sql).await.expect("furniture");
}

async fn save(client: &Client, tables: &[&str]) -> proto::Run {
    let mut request = CreateRequest::new();
    for table in tables {
        request = request.table(*table);
    }
    let run = client
        .backups()
        .create(request)
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(
        (run.kind(), run.backup_id.as_str()),
        (proto::RunKind::Backup, run.id.as_str())
    );
    run
}

async fn restore(client: &Client, request: RestoreRequest) -> Result<proto::Run, Error> {
    client.backups().restore(request).await?.finish().await
}

fn in_place(run: &proto::Run) -> RestoreRequest {
    RestoreRequest::in_place(run.id.as_str(), format!("app/{}", run.id))
}

async fn hash(db: &Db, table: &str) -> String {
    db.table_hash(table, "id").await.expect("a hash")
}

async fn number(db: &Db, sql: &str) -> String {
    let rows = db.fetch_text(sql).await.expect("a row");
    rows[0][0].clone().unwrap_or_default()
}

async fn a_damaged_database_comes_back_bit_by_bit(database: Database) {
    let world = World::new(database).await;
    furnish(&world, database).await;
    let before = (
        world.hash("child").await,
        world.hash("item").await,
        world.hash("parent").await,
        world.hash("session").await,
    );
    let backup = save(&world.client, &[]).await;
    let shown = world
        .client
        .backups()
        .get(backup.id.as_str(), 0)
        .await
        .expect("the backup")
        .backup;
    assert_eq!(shown.kind(), proto::BackupKind::Database);
    let rows = |name: &str| {
        shown
            .tables
            .iter()
            .find(|table| table.table.ends_with(name))
            .map(|table| table.row_count)
    };
    assert_eq!(
        (rows("child"), rows("item"), rows("seen")),
        (Some(CHILDREN), Some(500), Some(1))
    );
    assert_eq!(shown.files.len(), 2, "the dump and its manifest");
    for file in &shown.files {
        let path = world.folder.path().join("data/backups").join(&backup.id).join(&file.file);
        let found = fs::metadata(&path).expect("the file");
        assert_eq!(
            (found.len(), found.permissions().mode() & 0o777),
            (file.size_bytes, 0o600),
            "{}",
            file.file
        );
    }
    assert!(
        !shown.tool.is_empty() && shown.size_bytes > 0 && shown.row_count > CHILDREN,
        "{shown:?}"
    );

    world
        .db
        .execute("DELETE FROM item; DELETE FROM child WHERE id % 2 = 0; UPDATE child SET note = 'damaged'; DELETE FROM parent WHERE id > 100; DELETE FROM session")
        .await
        .expect("damage");
    // Nothing happens by accident.
    let refused = restore(&world.client, RestoreRequest::in_place(backup.id.as_str(), "app")).await;
    assert!(
        matches!(&refused, Err(Error::ConfirmationRequired { expected, .. }) if *expected == format!("app/{}", backup.id)),
        "{refused:?}"
    );
    let refused = restore(&world.client, in_place(&backup)).await;
    assert!(
        matches!(&refused, Err(Error::TablesNotEmpty { tables, .. }) if tables.iter().any(|table| table.ends_with("child"))),
        "{refused:?}"
    );
    assert_eq!(world.db.count("item").await.expect("a count"), 0, "nothing was changed");

    let run = restore(&world.client, in_place(&backup).replace()).await.expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(run.source_run_id, backup.id);
    let after = (
        world.hash("child").await,
        world.hash("item").await,
        world.hash("parent").await,
        world.hash("session").await,
    );
    assert_eq!(after, before, "as before, bit by bit");
    assert_eq!(number(&world.db, "SELECT n FROM seen").await, "0", "no trigger fired");
    world
        .db
        .execute("INSERT INTO item (parent_id) VALUES (1)")
        .await
        .expect("a new row");
    assert_eq!(number(&world.db, "SELECT n FROM seen").await, "1", "the trigger is on again");
    assert_eq!(
        number(&world.db, "SELECT max(id) FROM item").await,
        "501",
        "keys go on where they were"
    );

    // The journal is not what a dump brings back: dbkeep works on.
    let cleaned = world.clean("orphans").await;
    assert_eq!(cleaned.state(), proto::RunState::Succeeded, "{}", cleaned.state_reason);
}

/// Everything is gone, also what tables need: views, functions, types.
async fn an_emptied_database_comes_back_whole(database: Database) {
    let world = World::new(database).await;
    furnish(&world, database).await;
    world
        .db
        .execute("CREATE VIEW half AS SELECT id FROM child WHERE id % 2 = 0")
        .await
        .expect("a view");
    let before = (world.hash("child").await, world.hash("item").await);
    let backup = save(&world.client, &[]).await;
    let drop_all = match database {
        Database::Postgres => "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
        Database::Sqlite => {
            "DROP VIEW half; DROP TABLE item; DROP TABLE child; DROP TABLE parent; DROP TABLE session; DROP TABLE seen"
        }
    };
    world.db.execute(drop_all).await.expect("damage");
    let run = restore(&world.client, in_place(&backup)).await.expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(
        (world.hash("child").await, world.hash("item").await),
        before,
        "as before, bit by bit"
    );
    world
        .db
        .execute("INSERT INTO item (parent_id) VALUES (1)")
        .await
        .expect("a new row");
    assert_eq!(number(&world.db, "SELECT n FROM seen").await, "1", "its trigger is there");
    if database == Database::Postgres {
        assert_eq!(world.db.count("half").await.expect("the view"), CHILDREN / 2);
    }
}

async fn a_catalog_can_ask_for_a_vacuum(database: Database) {
    let catalog = CATALOG.replacen(
        "severity = \"LOW\"\nbackup = false",
        "severity = \"LOW\"\nbackup = false\nvacuum = true",
        1,
    );
    let world = World::with_catalog(database, &catalog).await;
    let run = world.clean("stale").await;
    assert!(run.options.is_some_and(|options| options.vacuum));
    let report = run.report.expect("a report");
    assert_eq!(report.space.len(), 1, "{report:?}");
    assert!(
        report.space[0].bytes_before > 0 && !report.space[0].reusable_by.is_empty(),
        "{report:?}"
    );
    let other = world.clean("orphans").await;
    assert_eq!(other.report.map(|report| report.space.len()), Some(0), "this one does not");
}

/// A VACUUM that waits for a lock ends when its run is cancelled, and nothing of it is left on the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_can_be_cancelled() {
    let world = World::new(Database::Postgres).await;
    let locker = Db::open(&world.url).await.expect("a connection");
    // Rows may be deleted under this lock; VACUUM wants the same one.
    locker
        .fetch_text("BEGIN; LOCK TABLE session IN SHARE UPDATE EXCLUSIVE MODE; SELECT 1")
        .await
        .expect("a lock");
    let request = RunRequest::new(["stale"]).execute().full_speed().vacuum();
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    use futures::StreamExt as _;
    let first = stream.next().await.expect("an event").expect("an event");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'VACUUM (ANALYZE)%' AND state = 'active' AND datname = current_database()";
    while number(&world.db, waiting).await == "0" {}
    world
        .client
        .runs()
        .cancel(first.run_id.as_str(), "enough")
        .await
        .expect("cancelled");
    let run = stream.finish().await.expect("an end");
    assert_eq!(run.state(), proto::RunState::Cancelled, "{}", run.state_reason);
    assert_eq!(
        run.report.map(|report| report.rows_affected),
        Some(200),
        "the rows are gone all the same"
    );
    assert_eq!(number(&world.db, waiting).await, "0", "nobody waits for the lock any more");
    locker.close().await;
}

/// Partitions are saved with their parent, and come back into their places.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_saved_with_their_parent() {
    let world = World::new(Database::Postgres).await;
    world
        .db
        .execute(
            "CREATE TABLE event (id integer NOT NULL, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
             CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2024-02-01'); \
             CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2024-02-01') TO ('2024-03-01'); \
             INSERT INTO event SELECT i, '2024-01-01'::date + i % 60 FROM generate_series(1, 600) AS i",
        )
        .await
        .expect("partitions");
    let before = world.hash("event").await;
    let backup = save(&world.client, &["event"]).await;
    world.db.execute("DELETE FROM event WHERE id % 2 = 0").await.expect("damage");
    let run = restore(&world.client, in_place(&backup).replace()).await.expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.hash("event").await, before);
}

async fn a_dropped_table_comes_back_with_all_that_belongs_to_it(database: Database) {
    let world = World::new(database).await;
    furnish(&world, database).await;
    let before = (world.hash("item").await, world.hash("child").await);
    let backup = save(&world.client, &[]).await;
    world
        .db
        .execute("DROP TABLE item; DELETE FROM child WHERE id <= 10")
        .await
        .expect("damage");
    let run = restore(&world.client, in_place(&backup).table("item"))
        .await
        .expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.hash("item").await, before.0, "as before, bit by bit");
    assert_ne!(world.hash("child").await, before.1, "nobody asked for the other table");
    let (index, refused) = match database {
        Database::Postgres => ("SELECT count(*) FROM pg_indexes WHERE indexname = 'item_parent'", true),
        // The driver of the oracle enforces keys.
        Database::Sqlite => ("SELECT count(*) FROM sqlite_schema WHERE name = 'item_parent'", true),
    };
    assert_eq!(number(&world.db, index).await, "1");
    let orphan = world.db.execute("INSERT INTO item (parent_id) VALUES (-1)").await;
    assert_eq!(orphan.is_err(), refused, "its key is there");
    world
        .db
        .execute("INSERT INTO item (parent_id) VALUES (1)")
        .await
        .expect("a new row");
    assert_eq!(number(&world.db, "SELECT n FROM seen").await, "1", "its trigger is there");
    let next = number(&world.db, "SELECT max(id) FROM item").await;
    assert!(next == "501" || next == "502", "keys go on where they were: {next}");

    // A second restore finds rows in its way.
    let refused = restore(&world.client, in_place(&backup).table("item")).await;
    assert!(matches!(refused, Err(Error::TablesNotEmpty { .. })), "{refused:?}");
    let refused = restore(&world.client, in_place(&backup).table("nowhere")).await;
    assert!(matches!(refused, Err(Error::InvalidField { .. })), "{refused:?}");
}

/// The scratch place that a restore made, opened.
async fn open_aside(world: &World, database: Database, run: &proto::Run, name: &str) -> Db {
    match database {
        Database::Postgres => {
            assert!(run.state_reason.contains(&format!("database {name}")), "{}", run.state_reason);
            let (server, _) = world.url.rsplit_once('/').expect("a URL");
            Db::open(&format!("{server}/{name}")).await.expect("the scratch database")
        }
        Database::Sqlite => {
            let file = world.folder.path().join(format!("{name}.db"));
            assert!(run.state_reason.contains(&file.display().to_string()), "{}", run.state_reason);
            Db::open(&format!("sqlite://{}", file.display()))
                .await
                .expect("the scratch file")
        }
    }
}

/// A name that no other test takes: the databases of a cluster are shared.
fn scratch_name() -> String {
    format!(
        "look_{}",
        tempfile::Builder::new()
            .rand_bytes(10)
            .tempdir()
            .expect("a name")
            .path()
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .to_lowercase()
            .replace('.', "")
    )
}

async fn tables_alone_are_saved_and_shown_beside(database: Database) {
    let world = World::new(database).await;
    furnish(&world, database).await;
    let before = (world.hash("item").await, world.hash("session").await);
    let backup = save(&world.client, &["item", "session"]).await;
    let shown = world
        .client
        .backups()
        .get(backup.id.as_str(), 0)
        .await
        .expect("the backup")
        .backup;
    assert_eq!((shown.kind(), shown.tables.len()), (proto::BackupKind::Tables, 2));
    world
        .db
        .execute("DELETE FROM item; DELETE FROM session")
        .await
        .expect("damage");

    let name = scratch_name();
    let run = restore(&world.client, RestoreRequest::scratch(backup.id.as_str()).scratch_name(&name))
        .await
        .expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let aside = open_aside(&world, database, &run, &name).await;
    assert_eq!(
        (hash(&aside, "item").await, hash(&aside, "session").await),
        before,
        "as before, bit by bit"
    );
    aside.close().await;
    assert_eq!(
        world.db.count("item").await.expect("a count"),
        0,
        "the target was not touched"
    );

    // A part of it, under a name of its own; and never over what is there.
    let other = scratch_name();
    let run = restore(
        &world.client,
        RestoreRequest::scratch(backup.id.as_str())
            .scratch_name(&other)
            .table("session"),
    )
    .await
    .expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let aside = open_aside(&world, database, &run, &other).await;
    assert_eq!(hash(&aside, "session").await, before.1);
    aside.close().await;
    let run = restore(&world.client, RestoreRequest::scratch(backup.id.as_str()).scratch_name(&name))
        .await
        .expect("a run");
    assert_eq!(run.state(), proto::RunState::Failed, "{}", run.state_reason);
    assert!(run.state_reason.contains("another name"), "{}", run.state_reason);
    let kept = open_aside_again(&world, database, &name).await;
    assert_eq!(hash(&kept, "item").await, before.0, "what was there stays");
    kept.close().await;

    // Into place, where the tables are empty.
    let run = restore(&world.client, in_place(&backup)).await.expect("a restore");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!((world.hash("item").await, world.hash("session").await), before);
}

async fn open_aside_again(world: &World, database: Database, name: &str) -> Db {
    let url = match database {
        Database::Postgres => format!("{}/{name}", world.url.rsplit_once('/').expect("a URL").0),
        Database::Sqlite => format!("sqlite://{}", world.folder.path().join(format!("{name}.db")).display()),
    };
    Db::open(&url).await.expect("the scratch place")
}

/// The dump of a backup.
async fn dump_of(world: &World, backup: &proto::Run) -> PathBuf {
    let shown = world
        .client
        .backups()
        .get(backup.id.as_str(), 0)
        .await
        .expect("the backup")
        .backup;
    world
        .folder
        .path()
        .join("data/backups")
        .join(&backup.id)
        .join(&shown.files[0].file)
}

async fn a_backup_is_proven_and_damage_is_found(database: Database) {
    let world = World::new(database).await;
    let backup = save(&world.client, &[]).await;
    let proof = world
        .client
        .backups()
        .verify(backup.id.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(proof.state(), proto::RunState::Succeeded, "{}", proof.state_reason);
    let shown = world
        .client
        .backups()
        .get(backup.id.as_str(), 0)
        .await
        .expect("the backup")
        .backup;
    assert_eq!(shown.verification(), proto::VerificationState::Verified);
    let left = match database {
        Database::Postgres => {
            let name = format!("dbkeep_proof_{}", proof.id.replace('-', ""));
            number(
                &world.db,
                &format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'"),
            )
            .await
        }
        Database::Sqlite => fs::read_dir(world.folder.path())
            .expect("the folder")
            .filter(|entry| {
                entry
                    .as_ref()
                    .is_ok_and(|entry| entry.file_name().to_string_lossy().contains("proof"))
            })
            .count()
            .to_string(),
    };
    assert_eq!(left, "0", "the proof leaves nothing");

    let path = dump_of(&world, &backup).await;
    let whole = fs::read(&path).expect("the dump");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    world.db.execute("DELETE FROM child").await.expect("damage");
    for (altered, what) in [
        (Some(flipped), "SHA-256"),
        (Some(whole[..whole.len() - 1].to_vec()), "bytes"),
        (None, "missing"),
    ] {
        match altered {
            Some(bytes) => fs::write(&path, bytes).expect("written"),
            None => fs::remove_file(&path).expect("removed"),
        }
        let run = restore(&world.client, in_place(&backup).table("child")).await.expect("a run");
        assert_eq!(run.state(), proto::RunState::Failed, "{}", run.state_reason);
        assert!(run.state_reason.contains(what), "{what}: {}", run.state_reason);
        assert_eq!(world.db.count("child").await.expect("a count"), 0, "nothing of it was used");
    }
    let proof = world
        .client
        .backups()
        .verify(backup.id.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(proof.state(), proto::RunState::Failed, "{}", proof.state_reason);
    let shown = world
        .client
        .backups()
        .get(backup.id.as_str(), 0)
        .await
        .expect("the backup")
        .backup;
    assert_eq!(shown.verification(), proto::VerificationState::Damaged);
}

async fn captured_rows_are_shown_beside_and_not_put_in_place(database: Database) {
    let world = World::new(database).await;
    let run = world.clean("orphans").await;
    let refused = restore(&world.client, in_place(&run)).await;
    assert!(
        matches!(&refused, Err(Error::BackupKind { expected, .. }) if expected.contains("UndoRun")),
        "{refused:?}"
    );
    let name = scratch_name();
    let shown = restore(&world.client, RestoreRequest::scratch(run.id.as_str()).scratch_name(&name))
        .await
        .expect("a restore");
    assert_eq!(shown.state(), proto::RunState::Succeeded, "{}", shown.state_reason);
    let table = match database {
        Database::Postgres => format!("{name}.child"),
        Database::Sqlite => format!("{name}__child"),
    };
    let chunks = chunk::read_folder(&world.folder.path().join("data/backups").join(&run.id)).expect("chunks");
    let mut captured: Vec<_> = chunks
        .values()
        .flat_map(|chunk| &chunk.sections)
        .flat_map(|section| section.rows.clone())
        .collect();
    let mut there = world
        .db
        .fetch_text(&format!("SELECT id, parent_id, other_id, note FROM {table}"))
        .await
        .expect("rows");
    captured.sort();
    there.sort();
    assert_eq!(there.len() as u64, ORPHANS);
    assert_eq!(there, captured, "what is shown is what was captured");
    assert_eq!(
        world.db.count("child").await.expect("a count"),
        CHILDREN - ORPHANS,
        "nothing was put back"
    );

    // Somebody else's place is not written to.
    let taken = scratch_name();
    let sql = match database {
        Database::Postgres => format!(
            "CREATE SCHEMA {taken}; CREATE TABLE {taken}.child (id integer, parent_id integer, other_id integer, note text)"
        ),
        Database::Sqlite => format!("CREATE TABLE {taken}__child (id integer, parent_id integer, other_id integer, note text)"),
    };
    world.db.execute(&sql).await.expect("a table");
    let failed = restore(&world.client, RestoreRequest::scratch(run.id.as_str()).scratch_name(&taken))
        .await
        .expect("a run");
    assert_eq!(failed.state(), proto::RunState::Failed, "{}", failed.state_reason);
    let table = match database {
        Database::Postgres => format!("{taken}.child"),
        Database::Sqlite => format!("{taken}__child"),
    };
    assert_eq!(world.db.count(&table).await.expect("a count"), 0);

    // The undo works as if nobody had looked.
    let undo = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()).full_speed())
        .await
        .expect("an undo");
    assert_eq!(undo.finish().await.expect("an end").state(), proto::RunState::Succeeded);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN);
}

/// Which of the backups went, by their ids.
fn gone(answer: &proto::PruneBackupsResponse) -> Vec<&str> {
    let mut ids: Vec<_> = answer
        .backups
        .iter()
        .filter(|pruned| pruned.pruned)
        .filter_map(|pruned| pruned.backup.as_ref().map(|backup| backup.id.as_str()))
        .collect();
    ids.sort_unstable();
    ids
}

async fn old_backups_go_by_count_and_age(database: Database) {
    let world = World::new(database).await;
    let rows = world.clean("orphans").await;
    let first = save(&world.client, &["session"]).await;
    let second = save(&world.client, &["session"]).await;
    let folder = |run: &proto::Run| world.folder.path().join("data/backups").join(&run.id);

    let refused = world.client.backups().prune(PruneRequest::default()).await;
    assert!(matches!(refused, Err(Error::InvalidField { .. })), "{refused:?}");
    let told = world
        .client
        .backups()
        .prune(PruneRequest::default().keep_last(1))
        .await
        .expect("told");
    assert!(told.dry_run && told.freed_bytes > 0, "{told:?}");
    assert_eq!(gone(&told), [rows.id.as_str(), first.id.as_str()]);
    assert!(folder(&rows).exists() && folder(&first).exists(), "a dry run removes nothing");
    let none = world
        .client
        .backups()
        .prune(
            PruneRequest::default()
                .keep_last(0)
                .older_than(Duration::from_secs(3600))
                .execute(),
        )
        .await
        .expect("done");
    assert_eq!(gone(&none), Vec::<&str>::new(), "all are young");

    // The newest that was proven stays, whatever the count says.
    let proof = world
        .client
        .backups()
        .verify(first.id.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(proof.state(), proto::RunState::Succeeded, "{}", proof.state_reason);
    let done = world
        .client
        .backups()
        .prune(PruneRequest::default().keep_last(1).execute())
        .await
        .expect("done");
    assert_eq!(gone(&done), [rows.id.as_str()]);
    assert!(!folder(&rows).exists() && folder(&first).exists() && folder(&second).exists());
    let kept = done
        .backups
        .iter()
        .find(|pruned| pruned.backup.as_ref().is_some_and(|backup| backup.id == first.id));
    assert!(kept.is_some_and(|kept| kept.reason.contains("proven")), "{kept:?}");

    let journal = match database {
        Database::Postgres => "dbkeep.journal",
        Database::Sqlite => "_dbkeep_journal",
    };
    let left = world
        .db
        .count_where(journal, &format!("run_id = '{}'", rows.id))
        .await
        .expect("a count");
    assert_eq!(left, 0, "its journal is gone");
    let shown = world.client.backups().get(rows.id.as_str(), 0).await.expect("the backup");
    assert!(shown.backup.prune_time.is_some() && shown.chunks.is_empty());
    for refused in [
        world.client.runs().undo(rows.id.as_str()).await.map(drop),
        world.client.backups().verify(rows.id.as_str()).await.map(drop),
        world
            .client
            .backups()
            .restore(RestoreRequest::scratch(rows.id.as_str()))
            .await
            .map(drop),
    ] {
        assert!(
            matches!(&refused, Err(Error::BackupPruned { backup, .. }) if *backup == rows.id),
            "{refused:?}"
        );
    }
    let again = world
        .client
        .backups()
        .prune(PruneRequest::default().keep_last(1).execute())
        .await
        .expect("done");
    assert_eq!(gone(&again), Vec::<&str>::new(), "a second prune has nothing to do");
}

/// An undo that came to its end frees its backup, also where it left rows that were in conflict; one that is needed is kept by its state
/// (`server/tests/backups.rs` has those that are cut short).
async fn what_an_ended_undo_left_is_told(database: Database) {
    let world = World::new(database).await;
    let run = world.clean("orphans").await;
    world
        .db
        .execute("INSERT INTO child (id, note) VALUES (5, 'in the way')")
        .await
        .expect("a row");
    let undo = world
        .client
        .runs()
        .undo(run.id.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::PartiallySucceeded, "{}", undo.state_reason);
    let told = world
        .client
        .backups()
        .prune(PruneRequest::default().keep_last(0))
        .await
        .expect("told");
    assert_eq!(gone(&told), [run.id.as_str()]);
    assert!(told.backups[0].reason.contains("left 1 rows"), "{:?}", told.backups);
}

async fn what_cannot_be_saved_is_refused_before_a_run(database: Database) {
    let world = World::new(database).await;
    world
        .db
        .execute("CREATE VIEW seen_through AS SELECT id FROM child")
        .await
        .expect("a view");
    for table in ["nowhere", "seen_through"] {
        let refused = world
            .client
            .backups()
            .create(CreateRequest::new().table(table))
            .await
            .map(drop);
        assert!(matches!(&refused, Err(Error::InvalidField { .. })), "{table}: {refused:?}");
    }
    let refused = world
        .client
        .backups()
        .create(CreateRequest::new().target("other"))
        .await
        .map(drop);
    assert!(matches!(&refused, Err(Error::UnknownTarget { .. })), "{refused:?}");
    let runs = world
        .client
        .runs()
        .list_all(dbkeep_client::RunQuery::default())
        .await
        .expect("runs");
    assert_eq!(runs.len(), 0, "nothing was started");

    // The same request twice is one run.
    let request = CreateRequest::new().table("session");
    let first = world
        .client
        .backups()
        .create(request.clone())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    let second = world
        .client
        .backups()
        .create(request)
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(first.id, second.id);
}

async fn a_run_tells_what_became_of_the_space(database: Database) {
    let world = World::new(database).await;
    let Database::Postgres = database else {
        // On one connection: the setting takes effect with the VACUUM.
        world
            .db
            .execute("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
            .await
            .expect("a setting");
        world
            .db
            .execute("INSERT INTO session WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) SELECT i, CASE WHEN i < 20000 THEN 5 END FROM n")
            .await
            .expect("rows");
        let run = vacuumed(&world).await;
        let space = &run.report.as_ref().expect("a report").space;
        assert_eq!(
            (space.len(), space[0].table.as_str(), space[0].reusable_by.as_str()),
            (1, "main", "freelist")
        );
        assert!(space[0].bytes_returned > 0, "free pages went back: {space:?}");
        assert_eq!(space[0].bytes_before - space[0].bytes_after, space[0].bytes_returned);
        return;
    };
    // Somebody looks at an old state of the table while the rows go.
    let holder = Db::open(&world.url).await.expect("a connection");
    let process = number(
        &holder,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_backend_pid(), (SELECT count(*) FROM session)",
    )
    .await;
    let run = vacuumed(&world).await;
    let report = run.report.expect("a report");
    let space = &report.space[0];
    assert!(space.dead_rows >= 200, "{space:?}");
    let named = space.holders.iter().find(|holder| holder.name == process);
    assert!(
        named.is_some_and(|named| named.kind == "session"
            && named.user == "postgres"
            && named.detail.contains("idle in transaction")),
        "{space:?}"
    );
    let warning = report.warnings.iter().find(|warning| warning.code == "VACUUM_HELD");
    assert!(
        warning.is_some_and(|warning| warning.message.contains(&process)),
        "{:?}",
        report.warnings
    );
    holder.close().await;

    // With nobody in the way the space is reusable, and says by what it was found.
    world
        .db
        .execute("INSERT INTO session SELECT i, 5 FROM generate_series(100000, 100200) AS i; CREATE EXTENSION pg_freespacemap")
        .await
        .expect("rows");
    let run = vacuumed(&world).await;
    let space = &run.report.as_ref().expect("a report").space[0];
    assert_eq!(
        (space.dead_rows, space.holders.len(), space.reusable_by.as_str()),
        (0, 0, "freespacemap"),
        "{space:?}"
    );
    assert!(space.bytes_reusable > 0, "{space:?}");
}

/// Runs `stale` with a vacuum at the end.
async fn vacuumed(world: &World) -> proto::Run {
    let request = RunRequest::new(["stale"]).execute().full_speed().vacuum();
    let run = world
        .client
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

/// A server whose PostgreSQL programs are these scripts.
async fn with_tools(url: &str, folder: &tempfile::TempDir, pg_dump: &str) -> (Client, CancellationToken) {
    let tools = folder.path().join("tools");
    fs::create_dir_all(&tools).expect("a folder");
    let path = tools.join("pg_dump");
    fs::write(&path, format!("#!/bin/sh\n{pg_dump}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("executable");
    let catalog = folder.path().join("catalog.toml");
    fs::write(&catalog, CATALOG).expect("a catalog");
    let mut config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog.display().to_string());
    config.pg_bin = Some(tools);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    (connect(&address).await, shutdown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pg_dump_is_refused_before_a_run_and_a_failing_one_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = fresh_database("tools").await.expect("a database");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, other_id integer); \
                CREATE TABLE session (id integer PRIMARY KEY, expires_at bigint)")
        .await
        .expect("tables");
    let (client, stop) = with_tools(&url, &folder, "echo 'pg_dump (PostgreSQL) 9.6.1'").await;
    let refused = client.backups().create(CreateRequest::new()).await.map(drop);
    assert!(
        matches!(&refused, Err(Error::ToolUnavailable { tool, problem, .. }) if tool == "pg_dump" && problem.contains("9.6.1")),
        "{refused:?}"
    );
    fs::remove_file(folder.path().join("tools/pg_dump")).expect("removed");
    let refused = client.backups().create(CreateRequest::new()).await.map(drop);
    assert!(matches!(&refused, Err(Error::ToolUnavailable { .. })), "{refused:?}");

    // It tells a good version, then runs out of room half-way.
    let script = "case \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.1';; *) for argument; do case \"$argument\" in --file=*) \
                  printf half > \"${argument#--file=}\";; esac; done; echo 'No space left on device' >&2; exit 1;; esac";
    fs::write(folder.path().join("tools/pg_dump"), format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(folder.path().join("tools/pg_dump"), fs::Permissions::from_mode(0o700)).expect("executable");
    let run = client
        .backups()
        .create(CreateRequest::new())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Failed);
    assert!(
        run.state_reason.contains("No space left on device") && run.backup_id.is_empty(),
        "{}",
        run.state_reason
    );
    assert!(
        !folder.path().join("data/backups").join(&run.id).exists(),
        "nothing is left of it"
    );
    assert_eq!(client.backups().list_all(Default::default()).await.expect("backups").len(), 0);

    // One that never ends is gone when its run is cancelled: its lock on a file says when.
    let alive = folder.path().join("alive");
    let script = format!(
        "case \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.1';; *) echo $$ > {alive}.part; mv {alive}.part {alive}; exec sleep 600;; esac",
        alive = alive.display()
    );
    fs::write(folder.path().join("tools/pg_dump"), format!("#!/bin/sh\n{script}\n")).expect("a script");
    let mut stream = client.backups().create(CreateRequest::new()).await.expect("a stream");
    use futures::StreamExt as _;
    let mut id = String::new();
    while let Some(event) = stream.next().await {
        let event = event.expect("an event");
        id = event.run_id;
        // Its first word is that it dumps.
        if matches!(event.event, Some(proto::run_event::Event::Maintenance(_))) && alive.exists() {
            break;
        }
    }
    client.runs().cancel(id.as_str(), "enough").await.expect("cancelled");
    let run = stream.finish().await.expect("an end");
    assert_eq!(run.state(), proto::RunState::Cancelled, "{}", run.state_reason);
    let process = fs::read_to_string(&alive).expect("its id");
    let status = fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    assert!(status.is_empty() || status.contains(") Z"), "pg_dump is gone: {status}");
    stop.cancel();
}
