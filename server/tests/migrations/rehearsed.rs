//! What a rehearsal reports beside the way back: rows that vanish, constraints that break; and what becomes of its copy.

use dbkeep_engine::model::EngineKind;
use dbkeep_proto::v1::{self, RunState};
use dbkeep_testkit::Db;

use super::world::{BOTH, Holder, World, all, file, named, until};

/// The report of the migration of this id.
fn found(run: &v1::Run, id: &str) -> v1::RehearsalReport {
    let reports = &run.report.as_ref().expect("a report").migrations;
    let report = reports.iter().find(|report| report.id == id).expect("its report");
    report.rehearsal.clone().expect("a rehearsal")
}

/// Warnings of this code.
fn warned(run: &v1::Run, code: &str) -> Vec<String> {
    let warnings = &run.report.as_ref().expect("a report").warnings;
    let of_it = warnings.iter().filter(|warning| warning.code == code);
    of_it.map(|warning| warning.message.clone()).collect()
}

/// A world of which the first migration is applied.
async fn begun(engine: EngineKind, first: &str, second: (&str, &str)) -> World {
    let files = [
        file("1_base.up.sql", first),
        file("2_next.up.sql", second.0),
        file("2_next.down.sql", second.1),
    ];
    let mut world = World::new(engine, &files, None).await;
    let run = world.apply(named(&["1"])).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_takes_are_told_though_no_statement_deletes_them() {
    for engine in BOTH {
        let tables = "CREATE TABLE flag (id integer PRIMARY KEY, up integer NOT NULL);\nCREATE TABLE child (id integer PRIMARY KEY);\n\
                      INSERT INTO flag VALUES (1, 0);\nINSERT INTO child VALUES (1), (2), (3);\n";
        let trigger = match engine {
            EngineKind::Postgres => {
                "CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM child; RETURN NULL; END $$;\n\
                 CREATE TRIGGER flag_sweeps AFTER UPDATE ON flag FOR EACH ROW EXECUTE FUNCTION sweep();"
            }
            EngineKind::Sqlite => "CREATE TRIGGER flag_sweeps AFTER UPDATE ON flag BEGIN DELETE FROM child; END;",
        };
        let flip = ("UPDATE flag SET up = 1;", "UPDATE flag SET up = 0;");
        let mut world = begun(engine, &format!("{tables}{trigger}"), flip).await;
        let run = world.test(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
        let found = found(&run, "2");
        assert_eq!(found.rows_lost.len(), 1, "{:?}", found.rows_lost);
        assert!(found.rows_lost[0].ends_with("child: 3 -> 0"), "{:?}", found.rows_lost);
        assert!(found.violations.is_empty() && !found.restored, "{found:?}");
        let why = warned(&run, "DOWN_NOT_PROVEN");
        assert!(why[0].contains("rows vanish that no statement deletes"), "{why:?}");
        assert_eq!(world.db.count("child").await.expect("a count"), 3, "only on the copy");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_rows_violate_is_told() {
    let base = "CREATE TABLE parent (id integer PRIMARY KEY);\nCREATE TABLE loose (id integer PRIMARY KEY, up integer);\n\
                INSERT INTO parent VALUES (1);\nINSERT INTO loose VALUES (1, 1), (2, 9);";
    let declare = (
        "ALTER TABLE loose ADD CONSTRAINT loose_up FOREIGN KEY (up) REFERENCES parent NOT VALID;",
        "ALTER TABLE loose DROP CONSTRAINT loose_up;",
    );
    let mut world = begun(EngineKind::Postgres, base, declare).await;
    let run = world.test(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
    let told = found(&run, "2");
    assert_eq!(told.violations.len(), 1, "{:?}", told.violations);
    assert!(
        told.violations[0].contains("loose") && told.violations[0].contains("1 row violates loose_up"),
        "{:?}",
        told.violations
    );
    assert!(told.rows_lost.is_empty() && told.restored, "{told:?}");
    assert!(warned(&run, "DOWN_NOT_PROVEN")[0].contains("constraints are violated"));
    world.end().await;

    // SQLite's own check of keys is off while the table is rebuilt, so that the script as a whole is looked at.
    let rebuild = (
        "PRAGMA foreign_keys = OFF;\nCREATE TABLE tight (id integer PRIMARY KEY, up integer REFERENCES parent);\n\
         INSERT INTO tight SELECT * FROM loose;\nDROP TABLE loose;\nALTER TABLE tight RENAME TO loose;",
        "SELECT 1;",
    );
    let mut world = begun(EngineKind::Sqlite, base, rebuild).await;
    let before = world.contents().await;
    let run = world.test(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
    let told = found(&run, "2");
    assert_eq!(told.violations.len(), 1, "{:?}", told.violations);
    assert!(
        told.violations[0].starts_with("loose: 1 row names a row of parent by (up)"),
        "{:?}",
        told.violations
    );
    assert_eq!(world.contents().await, before);
    world.end().await;
}

const FAMILY: &str = "CREATE TABLE parent (id integer PRIMARY KEY);\n\
    CREATE TABLE child (id integer PRIMARY KEY, up integer REFERENCES parent ON DELETE CASCADE);\n\
    INSERT INTO parent VALUES (1), (2);\nINSERT INTO child VALUES (1, 1), (2, 1), (3, 2);";

/// A rebuild of `parent` that copies the rows that a condition chooses.
fn rebuilt(condition: &str) -> String {
    format!(
        "CREATE TABLE parent_new (id integer PRIMARY KEY, name text NOT NULL DEFAULT '');\n\
         INSERT INTO parent_new (id) SELECT id FROM parent WHERE {condition};\n\
         DROP TABLE parent;\nALTER TABLE parent_new RENAME TO parent;"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_a_rebuild_takes_along_are_told_by_table_and_count() {
    for (condition, off, lost) in [("true", false, "child: 3 -> 0"), ("id = 1", true, "parent: 2 -> 1")] {
        let pragma = if off { "PRAGMA foreign_keys = OFF;\n" } else { "" };
        let up = format!("{pragma}{}", rebuilt(condition));
        let mut world = begun(EngineKind::Sqlite, FAMILY, (up.as_str(), "SELECT 1;")).await;
        let before = world.contents().await;
        let run = world.test(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{lost}: {}", run.state_reason);
        assert_eq!(found(&run, "2").rows_lost, [lost.to_owned()]);
        assert_eq!(world.contents().await, before, "{lost}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_in_a_script_that_is_no_transaction_keeps_every_row() {
    const OFF: &str = "PRAGMA foreign_keys = off;\n";
    for (off, begin, condition, refused) in [
        (OFF, false, "true", None),
        (OFF, true, "true", None),
        (OFF, false, "id = 1", Some("parent from 2 to 1")),
        ("", false, "true", Some("child from 3 to 0")),
    ] {
        let (begin, commit) = if begin { ("BEGIN;\n", "\nCOMMIT;") } else { ("", "") };
        let script = format!(
            "-- no-transaction\n{off}{begin}{}{commit}\nPRAGMA foreign_keys = on;",
            rebuilt(condition)
        );
        let mut world = begun(EngineKind::Sqlite, FAMILY, (script.as_str(), "SELECT 1;")).await;
        let run = world.apply(all()).await.expect("accepted");
        match refused {
            None => assert_eq!(run.state(), RunState::Succeeded, "{script}: {}", run.state_reason),
            Some(why) => {
                assert_eq!(run.state(), RunState::Failed, "{script}: {}", run.state_reason);
                assert!(run.state_reason.contains(why), "{script}: {}", run.state_reason);
            }
        }
        assert_eq!(world.db.count("child").await.expect("a count"), 3, "{script}");
        assert_eq!(
            world.db.count("parent").await.expect("the table is never away"),
            2,
            "{script}"
        );
        let named = world
            .db
            .fetch_text("SELECT count(*) || '' FROM pragma_table_info('parent')")
            .await;
        let columns = if refused.is_some() { "1" } else { "2" };
        assert_eq!(named.expect("a count")[0][0].as_deref(), Some(columns), "{script}");
        let orphans = world
            .db
            .fetch_text("SELECT count(*) || '' FROM pragma_foreign_key_check")
            .await;
        assert_eq!(orphans.expect("a count")[0][0].as_deref(), Some("0"), "{script}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_somebody_looks_at_is_dropped_by_a_later_rehearsal() {
    const ROLE: &str = "rehearsal_keeper";
    // Goes on once a superuser is connected to the copy, whom the target's role may not send away.
    let visited = "DO $$ BEGIN\n  WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = 'postgres') LOOP\n    \
                   PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);\n  END LOOP;\nEND $$;";
    let files = |up: &str| [file("1_a.up.sql", up), file("1_a.down.sql", "SELECT 1;")];
    let mut world = World::as_role(ROLE, &files(visited)).await;
    let db = Db::open(&world.url).await.expect("a connection");
    let (beginning, _) = world.url.rsplit_once('/').expect("a database");
    let beginning = beginning.to_owned();
    let visiting = async {
        let own = format!("FROM pg_database WHERE datname LIKE 'dbkeep\\_rehearsal\\_%' AND pg_get_userbyid(datdba) = '{ROLE}'");
        until(&db, &format!("SELECT count(*)::text {own}"), "1").await;
        let name = db.fetch_text(&format!("SELECT datname::text {own}")).await.expect("a name")[0][0].clone();
        Holder::open(&format!("{beginning}/{}", name.expect("a name"))).await
    };
    let (run, visitor) = tokio::join!(world.test(all()), visiting);
    let run = run.expect("accepted");
    let left = world.left_of(&run).await;
    assert_eq!(left.len(), 1, "{left:?}");
    let told = warned(&run, "SCRATCH_LEFT");
    assert!(told.len() == 1 && told[0].contains(&left[0]), "{told:?}");
    world.rewrite(&files("SELECT 2;"));
    let next = world.test(all()).await.expect("accepted");
    assert_eq!(world.left_of(&run).await, left, "the visitor is there still");
    assert_eq!(world.left_of(&next).await, Vec::<String>::new());
    let told = warned(&next, "SCRATCH_LEFT");
    assert!(told.len() == 1 && told[0].contains(&left[0]), "{told:?}");
    drop(visitor);
    let sessions = format!("SELECT count(*)::text FROM pg_stat_activity WHERE datname = '{}'", left[0]);
    until(&db, &sessions, "0").await;
    let last = world.test(all()).await.expect("accepted");
    assert_eq!(world.left_of(&run).await, Vec::<String>::new());
    assert_eq!(warned(&last, "SCRATCH_LEFT"), Vec::<String>::new());
    world.end().await;
}
