//! Backups go to the database that they are of: another one that has the target's name is refused until told.

use dbkeep_engine::{
    model::{EngineKind, RunId},
    port::{Claim, SourceFile},
};
use dbkeep_proto::v1::{self, RunState};
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;

use super::{
    rewinds::{go_back, plan_back, request},
    world::{BOTH, World, all, file, named, reason},
};

fn files() -> Vec<SourceFile> {
    vec![
        file(
            "1_a.up.sql",
            "CREATE TABLE a (id integer PRIMARY KEY, x text);\nINSERT INTO a VALUES (1, 'kept');",
        ),
        file("2_b.up.sql", "-- dbkeep: requires-backup = true\nUPDATE a SET x = 'lost';"),
    ]
}

/// Restores the table in place.
async fn restored(world: &mut World, backup: &str, other_database: bool) -> Result<v1::Run, tonic::Status> {
    let request = v1::RestoreBackupRequest {
        id: backup.to_owned(),
        mode: v1::RestoreMode::InPlace.into(),
        replace: true,
        confirm: format!("app/{backup}"),
        other_database,
        ..v1::RestoreBackupRequest::default()
    };
    let stream = world.backups.restore_backup(request).await?.into_inner();
    let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
    world.end_of(events).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_database_is_refused_until_told() {
    for engine in BOTH {
        let mut world = World::new(engine, &files(), None).await;
        world.apply(named(&["1"])).await.expect("accepted");
        let applied = world.apply(all()).await.expect("accepted");
        assert_eq!(applied.state(), RunState::Succeeded, "{}", applied.state_reason);
        let backup = applied.backup_id.clone();
        let run = restored(&mut world, &backup, false).await.expect("its own");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        // As if another database had come under the target's name.
        let table = match engine {
            EngineKind::Postgres => "dbkeep.identity",
            EngineKind::Sqlite => "_dbkeep_identity",
        };
        let change = format!("UPDATE {table} SET database_id = 'another'");
        world.db.execute(&change).await.expect("changed");
        let refused = restored(&mut world, &backup, false).await.expect_err("another's");
        assert_eq!(reason(&refused), "BACKUP_OTHER_DATABASE", "{refused:?}");
        assert!(refused.message().contains("this is database another"), "{refused:?}");
        let plan = plan_back(&mut world, named(&["2"]), &backup).await.expect("a plan");
        let problem = plan
            .problems
            .iter()
            .find(|problem| problem.code == "BACKUP_OTHER_DATABASE")
            .expect("a problem");
        assert!(problem.blocks && problem.message.contains("another"), "{problem:?}");
        let refused = go_back(&mut world, request(&plan)).await.expect_err("another's");
        assert_eq!(reason(&refused), "MIGRATIONS_BLOCKED", "{refused:?}");
        let told = v1::RollbackMigrationsRequest {
            other_database: true,
            ..request(&plan)
        };
        let run = go_back(&mut world, told).await.expect("somebody wants it all the same");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        let id = world
            .db
            .fetch_text(&format!("SELECT database_id FROM {table}"))
            .await
            .expect("an id");
        assert_eq!(id[0][0].as_deref(), Some("another"), "the database stays what it is");
        let run = restored(&mut world, &backup, true).await.expect("told");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_another_database_proves_nothing() {
    for engine in BOTH {
        let mut files = files();
        files.push(file("1_a.down.sql", "DROP TABLE a;"));
        let mut world = World::new(engine, &files, None).await;
        let run = world.test(named(&["1"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        assert_eq!(world.one("1").await.way_back(), v1::WayBack::Proven, "{engine:?}");
        // As if another database had come under the target's name.
        let table = match engine {
            EngineKind::Postgres => "dbkeep.identity",
            EngineKind::Sqlite => "_dbkeep_identity",
        };
        let change = format!("UPDATE {table} SET database_id = 'another'");
        world.db.execute(&change).await.expect("changed");
        assert_eq!(world.one("1").await.way_back(), v1::WayBack::Unproven, "{engine:?}");
        world.apply(named(&["1"])).await.expect("accepted");
        let refused = world
            .rollback(named(&["1"]), false)
            .await
            .expect_err("nobody has proven it here");
        assert!(
            reason(&refused) == "MIGRATIONS_BLOCKED" && refused.message().contains("DOWN_UNPROVEN"),
            "{refused:?}"
        );
        let run = world.rollback(named(&["1"]), true).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        world.test(named(&["1"])).await.expect("accepted");
        assert_eq!(
            world.one("1").await.way_back(),
            v1::WayBack::Proven,
            "{engine:?}: shown here too"
        );
        world.end().await;
    }
}

#[tokio::test]
async fn a_copy_on_a_server_is_told_from_its_original_and_a_copied_file_is_not() {
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    let url = fresh_database("original").await.expect("a database");
    let target = dbkeep_server::target::open(&url).expect("a target");
    let before = target.identity().await.expect("an identity");
    assert!(before.id.is_empty() && before.place.contains("of cluster"), "{before:?}");
    target.claim(claim).await.expect("a claim");
    let original = target.identity().await.expect("an identity");
    assert_eq!((original.id.len(), original.differs_from(&before)), (36, None));
    drop(target);
    let server = Db::open(&url.replace(url.rsplit('/').next().expect("a name"), "postgres")).await;
    let (name, copy) = (
        url.rsplit('/').next().expect("a name"),
        format!("copy_{}", &claim.run.to_string()[24..]),
    );
    let server = server.expect("a connection");
    server
        .execute(&format!(
            "CREATE DATABASE {copy} TEMPLATE {}",
            name.split('?').next().expect("a name")
        ))
        .await
        .expect("a copy");
    let copied = dbkeep_server::target::open(&url.replace(name, &copy))
        .expect("a target")
        .identity()
        .await
        .expect("an identity");
    assert_eq!(copied.id, original.id, "the id is copied with the rest");
    assert!(copied.differs_from(&original).expect("a copy").contains("copy"), "{copied:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let (file, copy) = (folder.path().join("a.db"), folder.path().join("b.db"));
    std::fs::write(&file, []).expect("a file");
    let target = dbkeep_server::target::open(&format!("sqlite://{}", file.display())).expect("a target");
    target.claim(claim).await.expect("a claim");
    let original = target.identity().await.expect("an identity");
    drop(target);
    std::fs::copy(&file, &copy).expect("a copy");
    let copied = dbkeep_server::target::open(&format!("sqlite://{}", copy.display())).expect("a target");
    assert_eq!(copied.identity().await.expect("an identity").differs_from(&original), None);
}
