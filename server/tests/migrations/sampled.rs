//! Rehearsals on a sample: what they say, what counts as proven, what a rollback makes of it.

use dbkeep_engine::{model::EngineKind, port::SourceFile};
use dbkeep_proto::v1::{self, RunState, WayBack, rehearsal_sample::Amount};
use futures::StreamExt as _;
use tonic::Status;

use super::world::{BOTH, World, all, file, named, reason};

/// 3,000 rows, of which one is not like the others.
fn files(engine: EngineKind) -> Vec<SourceFile> {
    let rows = match engine {
        EngineKind::Postgres => "INSERT INTO users SELECT n, 10 FROM generate_series(1, 3000) AS n;",
        EngineKind::Sqlite => {
            "INSERT INTO users WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 3000) SELECT n, 10 FROM s;"
        }
    };
    vec![
        file(
            "1_base.up.sql",
            &format!(
                "CREATE TABLE users (id integer PRIMARY KEY, n integer NOT NULL);\n{rows}\nUPDATE users SET n = -1 WHERE id = 7;"
            ),
        ),
        file("2_add.up.sql", "UPDATE users SET n = n + 1;"),
        file("2_add.down.sql", "UPDATE users SET n = n - 1;"),
        // Right for every row but one, which no sample of ten has.
        file("3_clip.up.sql", "UPDATE users SET n = n + 1 WHERE n > 0;"),
        file("3_clip.down.sql", "UPDATE users SET n = n - 1;"),
        file("4_wrong.up.sql", "UPDATE users SET n = n + 1;"),
        file("4_wrong.down.sql", "UPDATE users SET n = n - 2;"),
    ]
}

async fn sample(world: &mut World, request: v1::TestMigrationRequest, amount: Amount) -> Result<v1::Run, Status> {
    let request = v1::TestMigrationRequest {
        sample: Some(v1::RehearsalSample { amount: Some(amount) }),
        ..request
    };
    let stream = world.migrations.test_migration(request).await?.into_inner();
    let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
    world.end_of(events).await
}

fn of(ids: &[&str]) -> v1::TestMigrationRequest {
    v1::TestMigrationRequest {
        selection: Some(named(ids)),
        ..v1::TestMigrationRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_proves_nothing_for_the_other_rows_and_says_so() {
    for engine in BOTH {
        let mut world = World::new(engine, &files(engine), None).await;
        let run = world.apply(named(&["1"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let before = world.contents().await;
        let run = sample(&mut world, of(&["2", "3", "4"]), Amount::RowCount(10))
            .await
            .expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{engine:?}: {}", run.state_reason);
        assert_eq!(world.contents().await, before, "only the copy was changed");
        assert!(world.left_of(&run).await.is_empty());
        let report = run.report.expect("a report");
        let told: Vec<_> = report
            .sampled_tables
            .iter()
            .map(|table| (table.table.trim_start_matches("public."), table.row_count, table.of_row_count))
            .collect();
        assert_eq!(told, [("users", 10, 3_000)]);
        let warning = report
            .warnings
            .iter()
            .find(|warning| warning.code == "SAMPLED")
            .expect("a warning");
        assert!(
            warning.message.contains("10 of 3000 rows") && warning.message.contains("at most 10 rows"),
            "{warning:?}"
        );
        for migration in &report.migrations {
            let found = migration.rehearsal.clone().expect("a finding");
            let (up, whole) = (
                found.up_duration.expect("a time"),
                found.whole_up_duration.expect("an estimate"),
            );
            // 300 times as many rows, at a millisecond at least.
            assert!(
                (whole.seconds, whole.nanos) >= (up.seconds, up.nanos) && (whole.seconds > 0 || whole.nanos >= 300_000_000),
                "{up:?} {whole:?}"
            );
            assert_eq!(found.row_count, 10);
        }
        let ways: Vec<WayBack> = world.list().await.iter().map(v1::Migration::way_back).collect();
        assert_eq!(
            ways,
            [WayBack::Absent, WayBack::Sampled, WayBack::Sampled, WayBack::Refuted],
            "{engine:?}: what a sample refutes is refuted"
        );
        // All rows show what the sample did not, and prove the rest; no sample takes either back.
        let run = world.test(named(&["2", "3"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
        assert!(run.report.expect("a report").sampled_tables.is_empty());
        for round in ["whole", "sampled again"] {
            assert_eq!(world.one("2").await.way_back(), WayBack::Proven, "{round}");
            assert_eq!(world.one("3").await.way_back(), WayBack::Refuted, "{round}");
            sample(&mut world, of(&["2", "3"]), Amount::Percent(1.0))
                .await
                .expect("accepted");
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_takes_what_a_sample_showed_only_when_told() {
    for engine in BOTH {
        let mut world = World::new(engine, &files(engine), None).await;
        let run = world.apply(named(&["1", "2"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let applied = v1::TestMigrationRequest {
            applied: true,
            ..of(&["2"])
        };
        let run = sample(&mut world, applied, Amount::Percent(5.0)).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.one("2").await.way_back(), WayBack::Sampled);
        let refused = world.rollback(named(&["2"]), false).await.expect_err("a sample is no proof");
        assert!(
            reason(&refused) == "MIGRATIONS_BLOCKED" && refused.message().contains("DOWN_SAMPLED"),
            "{refused:?}"
        );
        let run = world
            .rollback(named(&["2"]), true)
            .await
            .expect("somebody wants it all the same");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_means_nothing_is_refused() {
    for engine in BOTH {
        let mut world = World::new(engine, &files(engine), None).await;
        for amount in [
            Amount::RowCount(0),
            Amount::RowCount(10_000_001),
            Amount::Percent(0.0),
            Amount::Percent(100.5),
            Amount::Percent(f64::NAN),
        ] {
            let refused = sample(&mut world, of(&["1"]), amount).await.expect_err("refused");
            assert_eq!(reason(&refused), "INVALID_FIELD", "{amount:?}: {refused:?}");
        }
        let neither = v1::TestMigrationRequest {
            selection: Some(all()),
            sample: Some(v1::RehearsalSample::default()),
            ..v1::TestMigrationRequest::default()
        };
        let refused = world.migrations.test_migration(neither).await.expect_err("refused");
        assert_eq!(reason(&refused), "INVALID_FIELD", "{refused:?}");
        world.end().await;
    }
}
