//! The handbook's chapters on recovery and on the drill, as they stand in `docs/OPERATIONS.md`, on both databases: for each section the trouble
//! is made in earnest, every command of its steps is typed into a shell against the real server, and what comes of it is judged by raw SQL.
//! A section without a scenario here fails, and so does a step that its scenario does not take.

#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

mod steps;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::fs;

use dbkeep_testkit::Db;
use serde_json::Value;

use crate::{
    steps::Section,
    world::{EXPIRED, ROWS, World, by_hand},
};

/// The operation, as fast as it can.
const CLEANUP: &str = "dbkeep run expired_tokens --target app --execute --yes --full-speed";

async fn wrong_rows(postgres: bool, section: &mut Section) {
    let mut world = World::new(postgres, &[], "").await;
    world.types(CLEANUP, 0);
    world.set("RUN", world.newest_run("cleanup"));
    let db = world.db().await;
    assert_eq!(db.count("tokens").await.unwrap(), ROWS - EXPIRED);
    db.execute("INSERT INTO tokens VALUES (7, NULL, 'mine')").await.unwrap();
    world.goes_to(section, 3);
    assert_eq!(db.count("tokens").await.unwrap(), ROWS);
    assert_eq!(
        db.count_where("tokens", "note = 'mine' OR note = 'token 7'").await.unwrap(),
        1,
        "what came meanwhile stays"
    );
    let kept = world.goes(section);
    assert!(kept.contains("token 7"), "{kept}");
}

/// Has the database refuse the deletion of one row, or not any more: once the row is gone, since what fires before a deletion blocks the plan.
async fn refuse_one(db: &Db, postgres: bool, refused: bool) {
    let statements: &[&str] = match (postgres, refused) {
        (true, true) => &[
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF OLD.id = 1777 THEN RAISE EXCEPTION 'token 1777 is needed'; END IF; RETURN OLD; END $$",
            "CREATE TRIGGER refuse AFTER DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION refuse()",
        ],
        (true, false) => &["DROP TRIGGER refuse ON tokens"],
        (false, true) => &["CREATE TRIGGER refuse AFTER DELETE ON tokens WHEN OLD.id = 1777 BEGIN \
                            SELECT RAISE(ABORT, 'token 1777 is needed'); END"],
        (false, false) => &["DROP TRIGGER refuse"],
    };
    for statement in statements {
        db.execute(statement).await.unwrap();
    }
}

async fn failed_cleanup(postgres: bool, section: &mut Section) {
    let mut world = World::new(postgres, &[], "").await;
    let db = world.db().await;
    refuse_one(&db, postgres, true).await;
    world.fails(&format!("{CLEANUP} --force"));
    let run = world.newest_run("cleanup");
    world.set("RUN", run.as_str());
    let left = db.count("tokens").await.unwrap();
    assert!(ROWS - EXPIRED < left && left < ROWS, "midway: {left}");
    let told = world.goes(section);
    assert!(told.contains("token 1777 is needed"), "{told}");
    by_hand(section, "mend the cause");
    refuse_one(&db, postgres, false).await;
    world.goes(section);
    assert_eq!(db.count("tokens").await.unwrap(), ROWS - EXPIRED);
    world.goes(section);
    assert_eq!(
        db.count("tokens").await.unwrap(),
        ROWS - EXPIRED + (ROWS - left),
        "what the first run took is back"
    );
}

async fn failed_migration(postgres: bool, section: &mut Section) {
    let files = [
        (
            "1_people.up.sql",
            "CREATE TABLE people (id integer PRIMARY KEY);\nINSERT INTO people VALUES (1), (2);",
        ),
        ("1_people.down.sql", "DROP TABLE people;"),
        (
            "2_ages.up.sql",
            "ALTER TABLE people ADD COLUMN age integer;\nINSERT INTO people VALUES (1, 5);",
        ),
        ("2_ages.down.sql", "ALTER TABLE people DROP COLUMN age;"),
    ];
    let mut world = World::new(postgres, &files, "").await;
    world.fails("dbkeep migrations apply --target app --execute --yes");
    world.set("MIGRATION", "2");
    world.goes(section);
    by_hand(section, "mend the file");
    fs::write(
        world.path("migrations/2_ages.up.sql"),
        "ALTER TABLE people ADD COLUMN age integer;\n",
    )
    .unwrap();
    world.goes(section);
    let db = world.db().await;
    assert_eq!(db.count_where("people", "age IS NULL").await.unwrap(), 2);
    world.goes(section);
    let people = world.db().await.fetch_text("SELECT * FROM people ORDER BY id").await.unwrap();
    assert_eq!(people, [[Some("1".to_owned())], [Some("2".to_owned())]]);
}

async fn in_doubt(postgres: bool, section: &mut Section) {
    let point = "migration-alone";
    // Nobody can see afterwards which attempt did these.
    let script = if postgres {
        "-- no-transaction\nALTER SYSTEM SET log_statement = 'none';"
    } else {
        "-- no-transaction\nPRAGMA journal_mode = WAL;"
    };
    let files = [("1_a.up.sql", script)];
    let mut world = World::new(postgres, &files, &format!("{point}=1*panic")).await;
    // The server dies before it has answered; the run is there all the same.
    world.tries("dbkeep migrations apply --target app --execute --yes --detach");
    world.daemon.died(point);
    world.start();
    let run = world.newest_run("migrate");
    world.fails(&format!("dbkeep runs watch {run}"));
    world.set("MIGRATION", "1");
    world.types("dbkeep migrations status --target app", 4);
    let told = world.goes(section);
    assert!(told.contains("retry"), "{told}");
    by_hand(section, "look in the database");
    world.goes(section);
    world.types("dbkeep migrations status --target app", 0);
}

/// The text under a name, wherever it stands.
fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match value {
        Value::Object(fields) => match fields.get(name).and_then(Value::as_str) {
            Some(found) => Some(found),
            None => fields.values().find_map(|field| text(field, name)),
        },
        Value::Array(items) => items.iter().find_map(|item| text(item, name)),
        _ => None,
    }
}

async fn no_way_down(postgres: bool, section: &mut Section) {
    let kept = "CREATE TABLE kept (id integer PRIMARY KEY);\nINSERT INTO kept VALUES (1), (2);";
    let mut world = World::new(postgres, &[("1_kept.up.sql", kept)], "").await;
    let apply = "dbkeep migrations apply --target app --execute --yes";
    world.types(apply, 0);
    // In a run of its own: the backup is made at the begin of a run.
    fs::write(
        world.path("migrations/2_none.up.sql"),
        "-- dbkeep: requires-backup = true\nDELETE FROM kept;",
    )
    .unwrap();
    world.types(apply, 0);
    assert_eq!(world.db().await.count("kept").await.unwrap(), 0);
    world.goes(section);
    let plan = world.json("dbkeep migrations rollback --target app --steps 1 --from-backup");
    world.set("TOKEN", text(&plan, "token").unwrap());
    world.set("PHRASE", text(&plan, "confirmation_phrase").unwrap());
    world.goes(section);
    world.set("RUN", world.newest_run("rollback"));
    world.goes(section);
    assert_eq!(world.db().await.count("kept").await.unwrap(), 2);
}

async fn lost_server(postgres: bool, section: &mut Section) {
    let mut world = World::new(postgres, &[], "").await;
    let app = world.app.clone();
    world.begin("app", &app).await;
    world.daemon.kill();
    by_hand(section, "bring the data folder back");
    if postgres {
        // Another machine: nothing of the first one's data is there.
        world.configure("elsewhere", true);
    } else {
        let (lost, copy) = (world.path("data"), world.path("saved"));
        world.types("cp -a data saved", 0);
        fs::remove_dir_all(&lost).unwrap();
        fs::rename(copy, lost).unwrap();
    }
    world.goes(section);
    by_hand(section, "start `dbkeepd");
    world.start();
    world.goes(section);
    assert_eq!(world.state(world.placeholder("RUN")), "succeeded");
    assert_eq!(world.db().await.count("tokens").await.unwrap(), ROWS - EXPIRED);
}

async fn lost_store(postgres: bool, section: &mut Section) {
    let mut world = World::new(postgres, &[], "").await;
    let before = world.hash(&world.app).await;
    world.types(CLEANUP, 0);
    world.set("RUN", world.newest_run("cleanup"));
    world.daemon.kill();
    if let Some(store) = &world.store {
        let store = Db::open(store).await.unwrap();
        store.execute("DROP SCHEMA dbkeep_control CASCADE").await.unwrap();
    }
    fs::remove_dir_all(world.path("data")).unwrap();
    world.goes(section);
    let db = world.db().await;
    for file in fs::read_dir(world.path("statements")).unwrap() {
        let statements = fs::read_to_string(file.unwrap().path()).unwrap();
        db.execute(&format!("BEGIN; {statements} COMMIT")).await.unwrap();
    }
    assert_eq!(world.hash(&world.app).await, before);
    by_hand(section, "start the server with an empty store");
    world.start();
    let told = world.goes(section);
    assert!(told.contains("expired_tokens") && told.contains("nightly"), "{told}");
}

async fn lost_backups(postgres: bool, section: &mut Section) {
    let mut world = World::new(postgres, &[], "").await;
    world.types(CLEANUP, 0);
    let captured = world.newest_run("cleanup");
    by_hand(section, "an empty backup folder");
    fs::remove_dir_all(world.path("backups")).unwrap();
    fs::create_dir(world.path("backups")).unwrap();
    world.goes(section);
    world.set("BACKUP", world.newest_run("backup"));
    let told = world.goes(section);
    let line = told.lines().find(|line| line.contains(&captured));
    assert!(line.is_some_and(|line| line.contains("gone")), "{told}");
}

/// Puts an empty database where `app` is.
async fn make_anew(world: &World) {
    if world.postgres {
        let (_, name) = world.app.rsplit_once('/').unwrap();
        let beside = Db::open(world.copy()).await.unwrap();
        for statement in [
            format!("DROP DATABASE \"{name}\" WITH (FORCE)"),
            format!("CREATE DATABASE \"{name}\""),
        ] {
            beside.execute(&statement).await.unwrap();
        }
        return;
    }
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let file = world.path(name);
        if file.exists() {
            fs::remove_file(file).unwrap();
        }
    }
    fs::write(world.path("app.db"), []).unwrap();
}

async fn lost_target(postgres: bool, section: &mut Section) {
    let mut world = World::new(postgres, &[], "").await;
    let before = world.hash(&world.app).await;
    world.types("dbkeep backups create --target app", 0);
    let backup = world.newest_run("backup");
    world.types(&format!("dbkeep backups verify {backup}"), 0);
    world.set("BACKUP", backup);
    by_hand(section, "make an empty database");
    make_anew(&world).await;
    world.configure("data", false);
    world.restart();
    world.goes(section);
    assert_eq!(world.hash(&world.beside("recovered")).await, before);
    world.goes(section);
    assert_eq!(world.hash(&world.app).await, before);
    by_hand(section, "put `catalog` back");
    world.configure("data", true);
    world.restart();
    world.drop_beside("recovered").await;
    world.goes(section);
}

async fn drill(postgres: bool, section: &mut Section) {
    let files = [
        (
            "1_more.up.sql",
            "CREATE TABLE more (id integer PRIMARY KEY);\nINSERT INTO more VALUES (1);",
        ),
        ("1_more.down.sql", "DROP TABLE more;"),
    ];
    let mut world = World::new(postgres, &files, "").await;
    world.types("dbkeep backups create --target app", 0);
    world.set("BACKUP", world.newest_run("backup"));
    world.goes(section);
    world.goes(section);
    by_hand(section, "count a table");
    let restored = Db::open(&world.beside("drill")).await.unwrap();
    assert_eq!(restored.count("tokens").await.unwrap(), ROWS);
    restored.close().await;
    world.drop_beside("drill").await;

    let before = world.hash(world.copy()).await;
    world.goes(section);
    assert_ne!(world.hash(world.copy()).await, before);
    world.set("RUN", world.newest_run("cleanup"));
    world.goes(section);
    assert_eq!(world.hash(world.copy()).await, before);

    let app = world.app.clone();
    world.begin("app", &app).await;
    by_hand(section, "kill -9");
    world.restart();
    world.goes(section);
    assert_eq!(world.db().await.count("tokens").await.unwrap(), ROWS - EXPIRED);

    world.goes(section);
    let mail = world.mail().await;
    assert!(mail["to"].to_string().contains("ops@example.org"), "{mail}");
    world.goes(section);
    world.goes(section);
    let schedules = world.types("dbkeep schedules list", 0);
    assert!(schedules.contains("drill"), "{schedules}");
}

async fn all(postgres: bool) {
    let (sections, mut monthly) = steps::handbook();
    for mut section in sections {
        println!("{}", section.heading);
        match section.heading.as_str() {
            "A cleanup deleted the wrong rows" => wrong_rows(postgres, &mut section).await,
            "A cleanup failed midway" => failed_cleanup(postgres, &mut section).await,
            "A migration failed midway" => failed_migration(postgres, &mut section).await,
            "A statement of a migration is in doubt" => in_doubt(postgres, &mut section).await,
            "A migration has no way down" => no_way_down(postgres, &mut section).await,
            "A server is lost" => lost_server(postgres, &mut section).await,
            "The control store is lost" => lost_store(postgres, &mut section).await,
            "The disk with the backups is lost" => lost_backups(postgres, &mut section).await,
            "The target's disk is lost" => lost_target(postgres, &mut section).await,
            other => panic!("nobody has gone by the section {other:?}"),
        }
        assert!(
            section.steps.is_empty(),
            "{}: not taken: {:?}",
            section.heading,
            section.steps
        );
    }
    drill(postgres, &mut monthly).await;
    assert!(monthly.steps.is_empty(), "not taken: {:?}", monthly.steps);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_works_on_sqlite() {
    all(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_works_on_postgres() {
    all(true).await;
}
