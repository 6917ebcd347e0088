//! Generated folders in every layout, on both databases: up, down, compare, up again; and what a rehearsal says of planted bad downs.

use dbkeep_engine::{
    model::Layout,
    port::SourceFile,
    testing::migrations::{FIRST_SPOILED, Spoil, generate, spoil},
};
use dbkeep_proto::v1::{self, MigrationState, RunState, WayBack};
use sqlx::Connection as _;

use super::world::{BOTH, World, all, newest};

/// Migrations of a folder; `steps` of them are taken back together.
const COUNT: usize = 24;
const SEED: u64 = 11;

/// Migrations of a folder that has grown for years.
const MANY: usize = 1_000;

/// Migrations of a folder that is as long as many are.
const LONG: usize = 200;

/// Executes the up scripts of a folder of sqlx in their order, by nobody but the database.
async fn execute_alone(world: &World, files: &[SourceFile]) {
    let mut ups: Vec<_> = files.iter().filter(|file| !file.path.ends_with(".down.sql")).collect();
    ups.sort_by(|one, other| one.path.cmp(&other.path));
    // By one connection: another that still remembers the schema before would not find a column to be renamed.
    let mut one = sqlx::AnyConnection::connect(&world.url).await.expect("a connection");
    for up in ups {
        let sql = String::from_utf8(up.bytes.clone()).expect("text");
        let executed = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut one).await;
        executed.unwrap_or_else(|error| panic!("{}: {error}", up.path));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_thousand_comes_to_its_end_as_its_scripts_alone_do() {
    sqlx::any::install_default_drivers();
    for engine in BOTH {
        let files = generate(Layout::Sqlx, engine, MANY, SEED);
        let mut world = World::new(engine, &files, Some(Layout::Sqlx)).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(
            run.state(),
            RunState::Succeeded,
            "seed {SEED} on {engine:?}: {}",
            run.state_reason
        );
        let status = world.status().await;
        assert_eq!(
            (status.applied_count, status.pending_count, status.problems.len()),
            (1_000, 0, 0)
        );
        let report = run.report.expect("a report");
        assert_eq!(report.migrations.len(), MANY);
        assert!(
            report
                .migrations
                .iter()
                .all(|migration| migration.statements_done == migration.statement_count)
        );
        let alone = World::new(engine, &[], Some(Layout::Sqlx)).await;
        execute_alone(&alone, &files).await;
        assert_eq!(world.contents().await, alone.contents().await, "seed {SEED} on {engine:?}");
        alone.end().await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_folders_of_every_layout_come_to_the_same_end() {
    for engine in BOTH {
        let mut first = None;
        for layout in Layout::ALL {
            let case = format!("{layout:?} on {engine:?}");
            let mut world = World::new(engine, &generate(layout, engine, LONG, SEED), Some(layout)).await;
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{case}: {}", run.state_reason);
            let status = world.status().await;
            assert_eq!((status.applied_count, status.pending_count), (200, 0), "{case}");
            assert!(status.problems.is_empty(), "{case}: {:?}", status.problems);
            let contents = world.contents().await;
            assert_eq!(&contents, first.get_or_insert_with(|| contents.clone()), "{case}");
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn up_down_compare_and_up_again_in_every_layout() {
    for engine in BOTH {
        for layout in Layout::ALL {
            let mut world = World::new(engine, &generate(layout, engine, COUNT, SEED), None).await;
            let status = world.status().await;
            assert_eq!(status.layout, layout.name(), "{:?}", status.layout_evidence);
            assert_eq!((status.total_count, status.pending_count), (24, 24), "{layout:?}");
            assert!(!status.layout_evidence.is_empty());
            let empty = world.contents().await;
            let run = world.apply(newest(12)).await.expect("accepted");
            assert_eq!(
                run.state(),
                RunState::Succeeded,
                "{layout:?} on {engine:?}: {}",
                run.state_reason
            );
            let half = world.contents().await;
            assert_ne!(empty, half);
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(
                run.state(),
                RunState::Succeeded,
                "{layout:?} on {engine:?}: {}",
                run.state_reason
            );
            let whole = world.contents().await;
            let run = world.rollback(newest(12), true).await.expect("accepted");
            assert_eq!(
                run.state(),
                RunState::Succeeded,
                "{layout:?} on {engine:?}: {}",
                run.state_reason
            );
            assert!(!run.backup_id.is_empty(), "a rollback saves the database first");
            assert_eq!(world.contents().await, half, "{layout:?} on {engine:?}");
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            assert_eq!(world.contents().await, whole, "{layout:?} on {engine:?}");
            // All of it, the oldest too.
            let run = world.rollback(newest(24), true).await.expect("accepted");
            assert_eq!(
                run.state(),
                RunState::Succeeded,
                "{layout:?} on {engine:?}: {}",
                run.state_reason
            );
            let status = world.status().await;
            assert_eq!((status.applied_count, status.pending_count), (0, 24), "{layout:?}");
            assert_eq!(world.contents().await, empty, "{layout:?} on {engine:?}");
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            assert_eq!(world.contents().await, whole, "{layout:?} on {engine:?}");
            let status = world.status().await;
            assert_eq!((status.applied_count, status.pending_count), (24, 0));
            assert!(status.problems.is_empty(), "{:?}", status.problems);
            let migrations = world.list().await;
            assert!(
                migrations
                    .iter()
                    .all(|migration| migration.state() == MigrationState::Applied)
            );
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_flags_every_planted_bad_down_and_none_of_the_good() {
    for engine in BOTH {
        for layout in Layout::ALL {
            let planted: Vec<(usize, Spoil)> = Spoil::ALL
                .into_iter()
                .enumerate()
                .map(|(number, kind)| (FIRST_SPOILED + 1 + number * 2, kind))
                .collect();
            let mut world = World::new(engine, &spoil(layout, engine, 10, SEED, &planted), None).await;
            let before = world.contents().await;
            let run = world.test(all()).await.expect("accepted");
            assert_eq!(
                run.state(),
                RunState::PartiallySucceeded,
                "{layout:?} on {engine:?}: {}",
                run.state_reason
            );
            assert_eq!(world.contents().await, before, "a rehearsal changes nothing");
            assert_eq!(world.left_of(&run).await, Vec::<String>::new(), "and leaves nothing behind");
            let report = run.report.expect("a report");
            // Where a table that a migration is about holds no row, nothing is proven.
            let without_rows: Vec<u32> = report
                .warnings
                .iter()
                .filter(|warning| warning.code == "NO_ROWS")
                .filter_map(|warning| warning.step_index)
                .collect();
            let reports = report.migrations;
            assert_eq!(reports.len(), 10);
            for (position, report) in reports.iter().enumerate() {
                let bad = planted.iter().find(|(at, _)| *at == position).map(|(_, kind)| *kind);
                let found = report.rehearsal.as_ref().expect("a rehearsal");
                assert_eq!(
                    found.restored,
                    bad.is_none(),
                    "{} is {bad:?} in {layout:?} on {engine:?}: {:?}",
                    report.id,
                    found.differences
                );
                assert_eq!(found.has_down, bad != Some(Spoil::Empty), "{}", report.id);
                assert!(bad.is_none() || bad == Some(Spoil::Empty) || !found.differences.is_empty());
            }
            for (position, migration) in world.list().await.iter().enumerate() {
                let bad = planted.iter().find(|(at, _)| *at == position).map(|(_, kind)| *kind);
                let empty = without_rows.contains(&u32::try_from(position).expect("a position"));
                let expected = match bad {
                    None if empty => WayBack::Unproven,
                    None => WayBack::Proven,
                    Some(Spoil::Empty) => WayBack::Empty,
                    Some(Spoil::Lossy | Spoil::Wrong) => WayBack::Refuted,
                };
                let told = migration.way_back();
                // A layout in which an empty script is no script says so.
                let same = told == expected || (expected == WayBack::Empty && told == WayBack::Absent);
                assert!(same, "{} is {told:?}, expected {expected:?} in {layout:?}", migration.id);
            }
            // What was proven is taken back without a word, what was not is refused.
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            let proven = world.list().await[9].way_back() == WayBack::Proven;
            let run = world.rollback(newest(1), !proven).await.expect("the newest is good");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            let refused = world.rollback(newest(4), false).await.expect_err("one of them is not");
            assert_eq!(super::world::reason(&refused), "MIGRATIONS_BLOCKED");
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_thousand_is_listed_page_by_page() {
    for engine in BOTH {
        let mut world = World::new(engine, &generate(Layout::Sqlx, engine, 1_000, SEED), None).await;
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListMigrationsRequest {
                page_size: 300,
                page_token,
                ..v1::ListMigrationsRequest::default()
            };
            let answer = world.migrations.list_migrations(request).await.expect("a page").into_inner();
            seen.extend(answer.migrations.into_iter().map(|migration| migration.id));
            if answer.next_page_token.is_empty() {
                break;
            }
            page_token = answer.next_page_token;
        }
        assert_eq!(seen.len(), 1_000);
        let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), 1_000);
        world.end().await;
    }
}
