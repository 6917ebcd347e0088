//! Rehearsals of migrations that are in effect: a down script that leads back is proven, one that drops data is told from one that is
//! wrong, and the database itself is never touched.

use dbkeep_engine::port::SourceFile;
use dbkeep_proto::v1::{self, RunState, StepState, WayBack};

use super::world::{BOTH, World, all, file, named, reason};

fn files() -> Vec<SourceFile> {
    vec![
        file(
            "1_base.up.sql",
            "CREATE TABLE users (id integer PRIMARY KEY, n integer NOT NULL);\nINSERT INTO users VALUES (1, 5), (2, 7);",
        ),
        file("1_base.down.sql", "DROP TABLE users;"),
        file("2_index.up.sql", "CREATE INDEX users_n ON users (n);"),
        file("2_index.down.sql", "DROP INDEX users_n;"),
        file("3_tag.up.sql", "ALTER TABLE users ADD COLUMN tag text DEFAULT 'none';"),
        file("3_tag.down.sql", "ALTER TABLE users DROP COLUMN tag;"),
        file("4_extra.up.sql", "CREATE TABLE extra (id integer PRIMARY KEY);"),
        file("4_extra.down.sql", "DROP TABLE extra;"),
        file("5_nothing.up.sql", "CREATE TABLE IF NOT EXISTS users (id integer);"),
        file("5_nothing.down.sql", "SELECT 1;"),
        file("6_wrong.up.sql", "UPDATE users SET n = n + 1;"),
        file("6_wrong.down.sql", "UPDATE users SET n = n - 2;"),
        file("7_right.up.sql", "UPDATE users SET n = n + 1;"),
        file("7_right.down.sql", "UPDATE users SET n = n - 1;"),
    ]
}

async fn test_applied(world: &mut World, selection: v1::MigrationSelection) -> v1::Run {
    use futures::StreamExt as _;
    let request = v1::TestMigrationRequest {
        selection: Some(selection),
        applied: true,
        ..v1::TestMigrationRequest::default()
    };
    let stream = world.migrations.test_migration(request).await.expect("accepted").into_inner();
    let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
    world.end_of(events).await.expect("events")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_is_proven_lossy_or_refuted_and_rollback_knows_it() {
    for engine in BOTH {
        let mut world = World::new(engine, &files(), None).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        world
            .db
            .execute("UPDATE users SET tag = 'mine' WHERE id = 2; INSERT INTO extra VALUES (1)")
            .await
            .expect("rows");
        let before = world.contents().await;
        let refused = world.rollback(named(&["7"]), false).await.expect_err("nobody has proven it");
        assert!(
            reason(&refused) == "MIGRATIONS_BLOCKED" && refused.message().contains("test --applied 7"),
            "{refused:?}"
        );
        let run = test_applied(&mut world, all()).await;
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{engine:?}: {}", run.state_reason);
        assert_eq!(world.contents().await, before, "only the copy was changed");
        assert!(world.left_of(&run).await.is_empty());
        let report = run.report.expect("a report");
        let told: Vec<(String, StepState)> = report.steps.iter().map(|step| (step.message.clone(), step.state())).collect();
        // Newest first. The base comes last, and takes its rows along.
        let expected = [
            "",
            "hold other values in n",
            "changes nothing",
            "loses data of",
            "loses data of",
            "",
            "loses data of",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((message, state), expected) in told.iter().zip(expected) {
            let good = expected.is_empty();
            assert_eq!(
                *state,
                if good { StepState::Succeeded } else { StepState::Partial },
                "{engine:?}: {message}"
            );
            assert!(
                message.contains(expected) && message.is_empty() == good,
                "{engine:?}: {message:?}, not {expected:?}"
            );
        }
        let loses: Vec<String> = report
            .migrations
            .iter()
            .flat_map(|migration| migration.rehearsal.clone().unwrap_or_default().loses_data)
            .map(|name| name.trim_start_matches("public.").to_owned())
            .collect();
        // The rows of the base are not those of its script any more, once the wrong way back was taken.
        assert_eq!(loses, ["extra", "users.tag", "users"], "{engine:?}");
        let ways: Vec<WayBack> = world.list().await.iter().map(v1::Migration::way_back).collect();
        let expected = [
            WayBack::Lossy,
            WayBack::Proven,
            WayBack::Lossy,
            WayBack::Lossy,
            WayBack::Refuted,
            WayBack::Refuted,
            WayBack::Proven,
        ];
        assert_eq!(ways, expected, "{engine:?}");
        let run = world.rollback(named(&["7"]), false).await.expect("it is proven");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let lossy = world.rollback(named(&["4"]), false).await.expect_err("it loses data");
        assert!(
            reason(&lossy) == "MIGRATIONS_BLOCKED" && lossy.message().contains("DOWN_LOSSY"),
            "{lossy:?}"
        );
        let run = world
            .rollback(named(&["4"]), true)
            .await
            .expect("somebody wants it all the same");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_rows_proves_nothing() {
    for engine in BOTH {
        let files = [
            file("1_a.up.sql", "CREATE TABLE a (id integer PRIMARY KEY, x text);"),
            file("1_a.down.sql", "DROP TABLE a;"),
            file("2_lossy.up.sql", "ALTER TABLE a DROP COLUMN x;"),
            file("2_lossy.down.sql", "ALTER TABLE a ADD COLUMN x text;"),
        ];
        let mut world = World::new(engine, &files, None).await;
        let run = world.apply(named(&["1"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let told = |run: &v1::Run| {
            let warnings = &run.report.as_ref().expect("a report").warnings;
            let found = warnings.iter().find(|warning| warning.code == "NO_ROWS");
            found.map(|warning| warning.message.clone())
        };
        let run = world.test(named(&["2"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        let why = told(&run).expect("it says why");
        assert!(why.contains("a holds no row") && why.contains("not proven"), "{why}");
        assert_eq!(world.one("2").await.way_back(), WayBack::Unproven, "{engine:?}");
        // The same of what is in effect.
        let run = test_applied(&mut world, named(&["1"])).await;
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        assert!(told(&run).is_some(), "{engine:?}");
        assert_eq!(world.one("1").await.way_back(), WayBack::Unproven, "{engine:?}");
        // With a row it shows what the down script does.
        world.db.execute("INSERT INTO a VALUES (1, 'kept')").await.expect("a row");
        let run = world.test(named(&["2"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{engine:?}: {}", run.state_reason);
        assert_eq!(told(&run), None);
        assert_eq!(world.one("2").await.way_back(), WayBack::Refuted, "{engine:?}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_without_rows_says_so_and_proves_nothing() {
    use futures::StreamExt as _;
    for engine in BOTH {
        let mut world = World::new(engine, &files(), None).await;
        let run = world.apply(named(&["1"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let request = v1::TestMigrationRequest {
            selection: Some(named(&["2", "6"])),
            copy: v1::RehearsalCopy::SchemaOnly.into(),
            ..v1::TestMigrationRequest::default()
        };
        let both = v1::TestMigrationRequest {
            applied: true,
            ..request.clone()
        };
        assert_eq!(
            reason(&world.migrations.test_migration(both).await.expect_err("refused")),
            "INVALID_FIELD"
        );
        let answer = world.migrations.test_migration(request).await;
        if engine == dbkeep_engine::model::EngineKind::Sqlite {
            assert_eq!(reason(&answer.expect_err("refused")), "INVALID_FIELD");
            world.end().await;
            continue;
        }
        let events = answer.expect("accepted").into_inner();
        let events = events.filter_map(async |message| message.map(|message| message.event).transpose());
        let run = world.end_of(events).await.expect("events");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let report = run.report.expect("a report");
        let found: Vec<_> = report
            .migrations
            .iter()
            .map(|migration| migration.rehearsal.clone().unwrap_or_default())
            .collect();
        assert!(
            found
                .iter()
                .all(|found| found.schema_only && found.restored && found.row_count == 0),
            "{found:?}"
        );
        assert!(report.warnings.iter().any(|warning| warning.code == "SCHEMA_ONLY"));
        // A wrong way back changes nothing where there is no row, and is not taken for proven.
        for id in ["2", "6"] {
            assert_eq!(world.one(id).await.way_back(), WayBack::Unproven, "{id}");
        }
        world.end().await;
    }
}
