//! What a rollback from a backup keeps beside rows and schema: rows of tables that belong to an extension, and on SQLite the ids that rows
//! have beside their columns.

use dbkeep_engine::{model::EngineKind, port::SourceFile};
use dbkeep_proto::v1::RunState;

use super::{
    rewinds::{go_back, plan_back, request},
    world::{World, all, file, named},
};

fn files(up: &str) -> Vec<SourceFile> {
    vec![
        file(
            "1_a.up.sql",
            "CREATE TABLE a (id integer PRIMARY KEY, x text);\nINSERT INTO a VALUES (1, 'kept');",
        ),
        file(
            "2_b.up.sql",
            &format!("-- dbkeep: requires-backup = true\nUPDATE a SET x = 'lost';\n{up}"),
        ),
    ]
}

async fn text(world: &World, sql: &str) -> Vec<String> {
    let rows = world.db.fetch_text(sql).await.expect("rows");
    rows.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_extension_s_table_stay_and_are_told() {
    let mut world = World::new(EngineKind::Postgres, &files(""), None).await;
    // A table of an extension as its script would make it: one that asks for its rows to be dumped, and one that does not.
    world
        .db
        .execute(
            "CREATE TABLE settings (id integer PRIMARY KEY, v text); CREATE TABLE fixed (id integer PRIMARY KEY); \
             INSERT INTO settings VALUES (1, 'then'); INSERT INTO fixed VALUES (1); \
             ALTER EXTENSION plpgsql ADD TABLE settings; ALTER EXTENSION plpgsql ADD TABLE fixed; \
             UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass::oid], extcondition = ARRAY[''] WHERE extname = 'plpgsql'",
        )
        .await
        .expect("an extension's tables");
    world.apply(named(&["1"])).await.expect("accepted");
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    world
        .db
        .execute("INSERT INTO settings VALUES (2, 'since'); UPDATE settings SET v = 'changed' WHERE id = 1; INSERT INTO fixed VALUES (2)")
        .await
        .expect("rows");
    let plan = plan_back(&mut world, named(&["2"]), "").await.expect("a plan");
    let run = go_back(&mut world, request(&plan)).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(
        text(&world, "SELECT x FROM a").await,
        ["kept"],
        "the application's rows go back"
    );
    assert_eq!(
        text(&world, "SELECT id || v FROM settings ORDER BY id").await,
        ["1changed", "2since"],
        "the extension's stay"
    );
    assert_eq!(text(&world, "SELECT id::text FROM fixed ORDER BY id").await, ["1", "2"]);
    let warnings = run.report.expect("a report").warnings;
    assert!(
        warnings.iter().any(|warning| warning.code == "RESTORE_NOTE"
            && warning.message.contains("settings")
            && warning.message.contains("extension")),
        "{warnings:?}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_rows_without_a_key_of_their_own_are_as_they_were() {
    let up = "DELETE FROM bare WHERE rowid = 7; INSERT INTO bare VALUES ('new'); UPDATE texts SET v = 0; DELETE FROM shadowed;";
    let mut world = World::new(EngineKind::Sqlite, &files(up), None).await;
    world
        .db
        .execute(
            "CREATE TABLE bare (x text); CREATE TABLE texts (k text PRIMARY KEY, v integer); CREATE TABLE shadowed (rowid text, _rowid_ text); \
             CREATE TABLE backwards (id INTEGER PRIMARY KEY DESC, v text); \
             INSERT INTO bare (rowid, x) VALUES (7, 'seven'), (3, 'three'), (1000000007, 'far'), (-5, 'minus'); \
             INSERT INTO texts (rowid, k, v) VALUES (42, 'b', 1), (9, 'a', 2); \
             INSERT INTO shadowed (oid, rowid, _rowid_) VALUES (77, 'r', 's'), (11, 't', 'u'); \
             INSERT INTO backwards (rowid, id, v) VALUES (500, 1, 'one'), (400, 2, 'two')",
        )
        .await
        .expect("tables");
    let ids = "SELECT rowid || x FROM bare UNION ALL SELECT rowid || k || v FROM texts UNION ALL SELECT oid || rowid || _rowid_ FROM shadowed \
               UNION ALL SELECT rowid || '.' || id || v FROM backwards ORDER BY 1";
    let before = text(&world, ids).await;
    assert_eq!(before.len(), 10);
    world.apply(named(&["1"])).await.expect("accepted");
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    assert_ne!(text(&world, ids).await, before);
    let plan = plan_back(&mut world, named(&["2"]), "").await.expect("a plan");
    let run = go_back(&mut world, request(&plan)).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(text(&world, ids).await, before, "every row has the id that it had");
    world.end().await;
}
