//! Whatever is wrong with a folder, a script or the history ends with a clear status, no lost data, and a next step that works.

use dbkeep_engine::{
    model::{EngineKind, Layout},
    port::SourceFile,
};
use dbkeep_proto::v1::{self, MigrationState, RepairAction, RunState};

use super::world::{BOTH, World, all, file, named, newest, reason};

fn two() -> Vec<SourceFile> {
    vec![
        file("1_people.up.sql", "CREATE TABLE people (id integer PRIMARY KEY, name text);"),
        file("1_people.down.sql", "DROP TABLE people;"),
        file(
            "2_names.up.sql",
            "INSERT INTO people VALUES (1, 'ann');\n\nINSERT INTO people VALUES (2, 'bob');",
        ),
        file("2_names.down.sql", "DELETE FROM people WHERE id IN (1, 2);"),
    ]
}

fn replaced(mut files: Vec<SourceFile>, path: &str, text: &str) -> Vec<SourceFile> {
    files.retain(|file| file.path != path);
    files.push(file(path, text));
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_script_is_told_with_file_line_and_column_and_can_be_mended() {
    let cases = [
        // A table that is not there.
        (
            "INSERT INTO peopl VALUES (2, 'bob');",
            15,
            ["\"peopl\" does not exist", "no such table: peopl"],
        ),
        // No SQL, from the first word on and from a later one on.
        (
            "INSER INTO people VALUES (2, 'bob');",
            3,
            ["syntax error at or near \"INSER\"", "near \"INSER\": syntax error"],
        ),
        (
            "INSERT INTO people VALUS (2, 'bob');",
            22,
            ["syntax error at or near \"VALUS\"", "near \"VALUS\": syntax error"],
        ),
    ];
    for (engine, (statement, column, [postgres, sqlite])) in BOTH.into_iter().flat_map(|engine| cases.map(|case| (engine, case)))
    {
        let said = match engine {
            EngineKind::Postgres => postgres,
            EngineKind::Sqlite => sqlite,
        };
        let text = format!("INSERT INTO people VALUES (1, 'ann');\n  {statement}");
        let mut world = World::new(engine, &replaced(two(), "2_names.up.sql", &text), None).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
        let report = run.report.expect("a report");
        let problem = &report.migrations[1].problem;
        assert!(problem.starts_with(&format!("2_names.up.sql:2:{column}: ")), "{problem}");
        assert!(problem.contains(said), "{problem}");
        assert!(!problem.contains("at line"), "{problem}");
        // The first migration stays, nothing of the second does.
        assert_eq!(world.db.count("people").await.expect("a count"), 0);
        let status = world.status().await;
        assert_eq!((status.applied_count, status.pending_count), (1, 1));
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        world.rewrite(&two());
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.db.count("people").await.expect("a count"), 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_makes_no_sense_is_refused_with_the_path() {
    let cases: [(&str, Vec<SourceFile>, &str, &[&str]); 6] = [
        (
            "a cycle",
            replaced(
                replaced(two(), "1_people.up.sql", "-- dbkeep: depends-on = 2\nSELECT 1;"),
                "2_names.up.sql",
                "-- dbkeep: depends-on = 1\nSELECT 1;",
            ),
            "MIGRATION_GRAPH",
            &["1 -> 2 -> 1"],
        ),
        (
            "a missing dependency",
            replaced(two(), "2_names.up.sql", "-- dbkeep: depends-on = 11\nSELECT 1;"),
            "MIGRATION_GRAPH",
            &["2", "11", "did you mean 1?"],
        ),
        (
            "a version twice",
            replaced(two(), "01_other.up.sql", "SELECT 1;"),
            "MIGRATION_SOURCE",
            &["1_people.up.sql", "01_other.up.sql"],
        ),
        (
            "an unknown key",
            replaced(two(), "2_names.up.sql", "-- dbkeep: depnds-on = 1\nSELECT 1;"),
            "MIGRATION_SOURCE",
            &["2_names.up.sql:1", "depnds-on", "depends-on"],
        ),
        (
            "a quote that never ends",
            replaced(two(), "2_names.up.sql", "SELECT 1;\nSELECT 'a;"),
            "MIGRATION_SOURCE",
            &["2_names.up.sql:2:8"],
        ),
        (
            "a down without an up",
            replaced(two(), "3_x.down.sql", "SELECT 1;"),
            "MIGRATION_SOURCE",
            &["3_x.down.sql"],
        ),
    ];
    let mut no_utf8 = two();
    no_utf8[2].bytes = vec![b'S', 0xff, 0xfe];
    let no_text = ("no UTF-8", no_utf8, "MIGRATION_SOURCE", &["2_names.up.sql", "byte 1"][..]);
    for engine in BOTH {
        for (name, files, expected, words) in cases.iter().chain([&no_text]) {
            // A table and its rows are there, and stay.
            let mut world = World::new(engine, &two()[..2], Some(Layout::Sqlx)).await;
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            world.db.execute("INSERT INTO people VALUES (7, 'eve')").await.expect("a row");
            world.rewrite(files);
            let refused = world.plan(v1::MigrationDirection::Up, all()).await.expect_err(name);
            assert_eq!(reason(&refused), *expected, "{name}: {refused}");
            for word in *words {
                assert!(
                    refused.message().contains(word),
                    "{name}: {word:?} is not in {}",
                    refused.message()
                );
            }
            assert_eq!(world.db.count("people").await.expect("a count"), 1, "{name}");
            // Mended, it goes on where it was.
            world.rewrite(&two());
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{name}: {}", run.state_reason);
            assert_eq!(world.db.count("people").await.expect("a count"), 3, "{name}");
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_blocks_nothing_and_may_come_back() {
    for engine in BOTH {
        let mut world = World::new(engine, &two(), None).await;
        world.apply(all()).await.expect("accepted");
        let mut left = two();
        left.retain(|file| !file.path.starts_with("1_"));
        left.push(file("3_more.up.sql", "INSERT INTO people VALUES (3, 'eve');"));
        world.rewrite(&left);
        let status = world.status().await;
        let problem = &status.problems[0];
        assert_eq!(
            (problem.code.as_str(), problem.migration_id.as_str(), problem.blocks),
            ("FILE_MISSING", "1", false)
        );
        assert!(problem.next_step.contains("bring the file back"), "{}", problem.next_step);
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.db.count("people").await.expect("a count"), 3);
        left.extend(two().into_iter().filter(|file| file.path.starts_with("1_")));
        world.rewrite(&left);
        assert!(world.status().await.problems.is_empty());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_tool_noted_as_failed_blocks_until_somebody_says_what_it_did() {
    for engine in BOTH {
        for (action, executed) in [(RepairAction::MarkApplied, 0), (RepairAction::MarkPending, 2)] {
            let mut world = World::new(engine, &two(), Some(Layout::Sqlx)).await;
            world.apply(newest(1)).await.expect("accepted");
            let ledger = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamp NOT NULL, \
                          success boolean NOT NULL, checksum CHECKSUM NOT NULL, execution_time bigint NOT NULL)";
            let row = "INSERT INTO _sqlx_migrations VALUES (2, 'names', '2026-01-01 00:00:00', false, BYTES, 1)";
            let (kind, bytes) = match engine {
                EngineKind::Postgres => ("bytea", "'\\x00'"),
                EngineKind::Sqlite => ("blob", "x'00'"),
            };
            world.db.execute(&ledger.replace("CHECKSUM", kind)).await.expect("its ledger");
            world.db.execute(&row.replace("BYTES", bytes)).await.expect("its row");
            let status = world.status().await;
            let problem = status
                .problems
                .iter()
                .find(|problem| problem.code == "FOREIGN_FAILED")
                .expect("a problem");
            assert!(
                problem.blocks && problem.next_step.contains("dbkeep migrations repair 2"),
                "{problem:?}"
            );
            assert_eq!(reason(&world.apply(all()).await.expect_err("blocked")), "MIGRATIONS_BLOCKED");
            world.repair("2", action).await.expect("somebody looked");
            assert!(world.status().await.problems.is_empty(), "{action:?}");
            if action == RepairAction::MarkApplied {
                assert_eq!(
                    reason(&world.apply(all()).await.expect_err("nothing to do")),
                    "NOTHING_TO_MIGRATE"
                );
            } else {
                let run = world.apply(all()).await.expect("accepted");
                assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            }
            assert_eq!(world.db.count("people").await.expect("a count"), executed);
            let theirs = "SELECT count(*) || '' FROM _sqlx_migrations WHERE NOT success";
            assert_eq!(
                world.db.fetch_text(theirs).await.expect("its row")[0][0].as_deref(),
                Some("1"),
                "it stays as it is"
            );
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_waits_until_an_up_script_that_stopped_is_finished() {
    for engine in BOTH {
        let script = |text: &str| {
            vec![
                file(
                    "1_a.up.sql",
                    &format!("-- dbkeep: transaction = false\nCREATE TABLE a (id integer);\n{text}"),
                ),
                file("1_a.down.sql", "DROP TABLE a;"),
                file("0_base.up.sql", "CREATE TABLE base (id integer);"),
                file("0_base.down.sql", "DROP TABLE base;"),
            ]
        };
        let mut world = World::new(engine, &script("INSERT INTO a SELECT id FROM b;"), Some(Layout::Sqlx)).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
        let plan = world.plan(v1::MigrationDirection::Down, newest(1)).await.expect("a plan");
        let problem = plan
            .problems
            .iter()
            .find(|problem| problem.code == "STOPPED_OTHER_WAY")
            .expect("a problem");
        assert!(
            problem.blocks && problem.next_step.contains("dbkeep migrations apply"),
            "{problem:?}"
        );
        assert_eq!(
            reason(&world.rollback(newest(1), true).await.expect_err("blocked")),
            "MIGRATIONS_BLOCKED"
        );
        // By its name, too, it is said that a part of it is there: that it was not in effect would send somebody the wrong way.
        let refused = world
            .plan(v1::MigrationDirection::Down, named(&["1"]))
            .await
            .expect_err("a half of it cannot be taken back");
        assert!(
            format!("{refused:?}").contains("stopped in the middle of its up script"),
            "{refused:?}"
        );
        // The cause is mended beside, so that the script is the same.
        world.db.execute("CREATE TABLE b (id integer)").await.expect("a table");
        world.db.execute("INSERT INTO b VALUES (1)").await.expect("a row");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.db.count("a").await.expect("a count"), 1);
        let run = world.rollback(newest(1), true).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_tells_what_makes_no_order_and_a_mended_folder_is_applied() {
    let depends = |on: &str| format!("-- dbkeep: depends-on = {on}\nSELECT 1;");
    let cases = [
        (
            replaced(
                replaced(two(), "1_people.up.sql", &depends("2")),
                "2_names.up.sql",
                &depends("1"),
            ),
            "1 -> 2 -> 1",
        ),
        (replaced(two(), "2_names.up.sql", &depends("11")), "did you mean 1?"),
    ];
    for engine in BOTH {
        for (files, words) in &cases {
            let mut world = World::new(engine, files, Some(Layout::Sqlx)).await;
            let status = world.status().await;
            let [problem] = &status.problems[..] else {
                panic!("one problem: {:?}", status.problems)
            };
            assert_eq!((problem.code.as_str(), problem.blocks), ("GRAPH", true));
            assert!(problem.message.contains(words), "{}", problem.message);
            assert!(problem.next_step.contains("depends-on"), "{}", problem.next_step);
            assert_eq!(
                (status.total_count, status.pending_count),
                (2, 2),
                "they are counted all the same"
            );
            assert_eq!(world.list().await.len(), 2);
            let refused = world.apply(all()).await.expect_err("no order");
            assert_eq!(reason(&refused), "MIGRATION_GRAPH");
            world.rewrite(&two());
            assert!(world.status().await.problems.is_empty());
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_named_with_both_checksums_and_blocks_until_it_is_accepted() {
    for engine in BOTH {
        let mut world = World::new(engine, &two(), None).await;
        world.apply(all()).await.expect("accepted");
        let more = replaced(two(), "3_more.up.sql", "CREATE TABLE more (id integer);");
        let before = world.one("2").await.sha256;
        world.rewrite(&replaced(more, "2_names.up.sql", "INSERT INTO people VALUES (3, 'eve');"));
        let status = world.status().await;
        let problem = status
            .problems
            .iter()
            .find(|problem| problem.code == "CHANGED")
            .expect("a problem");
        let now = world.one("2").await;
        assert_ne!(now.sha256, before);
        assert_eq!(now.applied_checksum, before);
        assert!(
            problem.message.contains(&before) && problem.message.contains(&now.sha256),
            "{}",
            problem.message
        );
        assert!(
            problem.blocks && problem.message.contains("2_names.up.sql"),
            "{}",
            problem.message
        );
        let refused = world.apply(all()).await.expect_err("blocked");
        assert_eq!(reason(&refused), "MIGRATIONS_BLOCKED");
        let explained = world.repair("2", RepairAction::Unspecified).await.expect("an explanation");
        assert_eq!(explained.done(), RepairAction::Unspecified);
        assert_eq!(explained.proposals.len(), 1, "{explained:?}");
        let wrong = world
            .repair("2", RepairAction::Skip)
            .await
            .expect_err("it did not stop anywhere");
        assert_eq!(reason(&wrong), "REPAIR_REFUSED");
        world.repair("2", RepairAction::AcceptChecksum).await.expect("accepted");
        assert!(world.status().await.problems.is_empty());
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(
            world.db.count("people").await.expect("a count"),
            2,
            "nothing was executed again"
        );
        let request = v1::ListDecisionsRequest::default();
        let decisions = world
            .runs
            .list_decisions(request)
            .await
            .expect("a list")
            .into_inner()
            .decisions;
        let repairs: Vec<_> = decisions.iter().filter(|one| one.act() == v1::DecisionAct::Repair).collect();
        assert_eq!(repairs.len(), 2, "the refused one is on record too");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_empty_or_unproven_down_is_refused_with_a_next_step() {
    for engine in BOTH {
        let mut files = replaced(two(), "3_none.up.sql", "CREATE TABLE none (id integer);");
        files.push(file("4_empty.up.sql", "CREATE TABLE empty (id integer);"));
        files.push(file("4_empty.down.sql", "-- nothing\n"));
        let mut world = World::new(engine, &files, None).await;
        world.apply(all()).await.expect("accepted");
        let plan = world.plan(v1::MigrationDirection::Down, newest(4)).await.expect("a plan");
        let codes: Vec<&str> = plan.problems.iter().map(|problem| problem.code.as_str()).collect();
        assert_eq!(codes, ["DOWN_EMPTY", "DOWN_MISSING", "DOWN_UNPROVEN", "DOWN_UNPROVEN"]);
        assert!(
            plan.problems
                .iter()
                .all(|problem| problem.blocks && !problem.next_step.is_empty())
        );
        assert_eq!(
            reason(&world.rollback(newest(1), false).await.expect_err("empty")),
            "MIGRATIONS_BLOCKED"
        );
        let run = world.rollback(newest(1), true).await.expect("told to take it");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        // One that is missing cannot be taken, whatever is said.
        assert_eq!(
            reason(&world.rollback(newest(1), true).await.expect_err("missing")),
            "MIGRATIONS_BLOCKED"
        );
        // An empty rollback is nobody's default.
        let everything = v1::RollbackMigrationsRequest::default();
        assert_eq!(
            reason(&world.migrations.rollback_migrations(everything).await.expect_err("all")),
            "INVALID_FIELD"
        );
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_order_migrations_are_explained_and_applied_and_rolled_back_with_what_needs_them() {
    for engine in BOTH {
        let files = vec![
            file("1_a.up.sql", "CREATE TABLE a (id integer PRIMARY KEY);"),
            file("1_a.down.sql", "DROP TABLE a;"),
            file("3_c.up.sql", "CREATE TABLE c (id integer PRIMARY KEY);"),
            file("3_c.down.sql", "DROP TABLE c;"),
        ];
        let mut world = World::new(engine, &files, None).await;
        world.apply(all()).await.expect("accepted");
        let mut more = files.clone();
        more.push(file("2_b.up.sql", "CREATE TABLE b (id integer PRIMARY KEY);"));
        more.push(file("2_b.down.sql", "DROP TABLE b;"));
        more.push(file(
            "4_d.up.sql",
            "-- dbkeep: depends-on = 2\nALTER TABLE b ADD COLUMN d integer;",
        ));
        more.push(file("4_d.down.sql", "ALTER TABLE b DROP COLUMN d;"));
        world.rewrite(&more);
        let status = world.status().await;
        let problem = &status.problems[0];
        assert_eq!(
            (problem.code.as_str(), problem.migration_id.as_str(), problem.blocks),
            ("OUT_OF_ORDER", "2", false)
        );
        assert!(world.one("2").await.out_of_order);
        // Named, it brings what it needs.
        let plan = world.plan(v1::MigrationDirection::Up, named(&["4"])).await.expect("a plan");
        let ids: Vec<String> = plan
            .steps
            .iter()
            .map(|step| step.migration.as_ref().expect("one").id.clone())
            .collect();
        assert_eq!(ids, ["2", "4"]);
        let run = world.apply(named(&["4"])).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        // Backwards, what depends on it goes first.
        let plan = world.plan(v1::MigrationDirection::Down, named(&["2"])).await.expect("a plan");
        let ids: Vec<String> = plan
            .steps
            .iter()
            .map(|step| step.migration.as_ref().expect("one").id.clone())
            .collect();
        assert_eq!(ids, ["4", "2"]);
        let run = world.rollback(named(&["2"]), true).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.status().await.applied_count, 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_needs_no_backup() {
    for engine in BOTH {
        let text = "-- dbkeep: requires-backup = true\nCREATE TABLE people (id integer PRIMARY KEY, name text);";
        let mut world = World::new(engine, &replaced(two(), "1_people.up.sql", text), None).await;
        assert!(
            world
                .plan(v1::MigrationDirection::Up, all())
                .await
                .expect("a plan")
                .backup_first
        );
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let steps = run.report.expect("a report").steps;
        assert_eq!(steps[0].state(), v1::StepState::Skipped);
        assert!(run.backup_id.is_empty());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_first_holds_what_was_there_and_can_be_restored() {
    for engine in BOTH {
        let text = "-- dbkeep: requires-backup = true\nDELETE FROM people;";
        let mut files = two();
        files.push(file("3_none.up.sql", text));
        let mut world = World::new(engine, &files, None).await;
        world.apply(newest(2)).await.expect("accepted");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.db.count("people").await.expect("a count"), 0);
        assert_eq!(world.one("3").await.backup_id, run.backup_id);
        let request = v1::RestoreBackupRequest {
            id: run.backup_id.clone(),
            mode: v1::RestoreMode::InPlace.into(),
            tables: vec!["people".to_owned()],
            confirm: format!("app/{}", run.backup_id),
            ..v1::RestoreBackupRequest::default()
        };
        let mut stream = world.backups.restore_backup(request).await.expect("accepted").into_inner();
        while stream.message().await.expect("a message").is_some() {}
        assert_eq!(world.db.count("people").await.expect("a count"), 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_hold_before_and_after_or_nothing_happens() {
    for engine in BOTH {
        let files = vec![
            file(
                "1_a.up.sql",
                "-- dbkeep: check-after = SELECT count(*) = 2 FROM a\nCREATE TABLE a (id integer PRIMARY KEY);\nINSERT INTO a VALUES (1), (2);",
            ),
            file(
                "2_b.up.sql",
                "-- dbkeep: check-before = SELECT count(*) = 3 FROM a\nINSERT INTO a VALUES (7);",
            ),
        ];
        let mut world = World::new(engine, &files, None).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
        assert!(
            run.state_reason.contains("SELECT count(*) = 3 FROM a"),
            "{}",
            run.state_reason
        );
        assert_eq!(world.db.count("a").await.expect("a count"), 2);
        let failing = file(
            "3_c.up.sql",
            "-- dbkeep: check-after = SELECT count(*) = 9 FROM a\nINSERT INTO a VALUES (8);",
        );
        world.rewrite(&[files[0].clone(), failing]);
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
        assert_eq!(world.db.count("a").await.expect("a count"), 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_rebuild_that_would_cascade_is_taken_back_and_works_with_keys_off() {
    let rebuild = "CREATE TABLE parent_new (id integer PRIMARY KEY, name text NOT NULL DEFAULT '');\n\
                   INSERT INTO parent_new (id) SELECT id FROM parent;\nDROP TABLE parent;\nALTER TABLE parent_new RENAME TO parent;";
    let base = file(
        "1_base.up.sql",
        "CREATE TABLE parent (id integer PRIMARY KEY);\nCREATE TABLE child (id integer PRIMARY KEY, parent_id integer REFERENCES parent ON DELETE CASCADE);\n\
         INSERT INTO parent VALUES (1), (2);\nINSERT INTO child VALUES (1, 1), (2, 1), (3, 2);",
    );
    let mut world = World::new(EngineKind::Sqlite, &[base.clone(), file("2_rebuild.up.sql", rebuild)], None).await;
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::PartiallySucceeded, "{}", run.state_reason);
    assert!(run.state_reason.contains("child"), "{}", run.state_reason);
    assert_eq!(world.db.count("child").await.expect("a count"), 3, "no row is lost");
    let off = format!("PRAGMA foreign_keys = OFF;\n{rebuild}\nPRAGMA foreign_keys = ON;");
    world.rewrite(&[base, file("2_rebuild.up.sql", &off)]);
    let run = world.apply(all()).await.expect("accepted");
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(world.db.count("child").await.expect("a count"), 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_executes_nothing_and_a_draft_writes_nothing() {
    for engine in BOTH {
        let mut world = World::new(engine, &two(), None).await;
        world
            .db
            .execute("CREATE TABLE people (id integer PRIMARY KEY, name text)")
            .await
            .expect("a table");
        let request = v1::BaselineMigrationsRequest {
            selection: Some(named(&["people"])),
            ..v1::BaselineMigrationsRequest::default()
        };
        let ids = world
            .migrations
            .baseline_migrations(request)
            .await
            .expect("done")
            .into_inner()
            .ids;
        assert_eq!(ids, ["1"]);
        assert_eq!(world.one("1").await.state(), MigrationState::Baselined);
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let request = v1::DraftMigrationRequest {
            name: "Add Mail".to_owned(),
            ..v1::DraftMigrationRequest::default()
        };
        let draft = world.migrations.draft_migration(request).await.expect("a draft").into_inner();
        let paths: Vec<&str> = draft.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["3_add_mail.up.sql", "3_add_mail.down.sql"]);
        assert_eq!(world.status().await.total_count, 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_stopped_and_changed_goes_on_only_when_somebody_says_where() {
    for engine in BOTH {
        let sidecar = file("1_a.dbkeep.toml", "transaction = false");
        let script = |text: &str| file("1_a.up.sql", text);
        let broken = "CREATE TABLE a (id integer);\nINSERT INTO a VALUES (1);\nINSERT INTO nowhere VALUES (2);";
        let mut world = World::new(engine, &[script(broken), sidecar.clone()], None).await;
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
        assert_eq!(world.one("1").await.statements_done, 2);
        // The same text as one transaction would begin again.
        world.rewrite(&[script(broken)]);
        assert_eq!(
            reason(&world.apply(all()).await.expect_err("another grouping")),
            "MIGRATIONS_BLOCKED"
        );
        let mended = "CREATE TABLE a (id integer);\nINSERT INTO a VALUES (1);\nINSERT INTO a VALUES (2);";
        world.rewrite(&[script(mended), sidecar]);
        let refused = world.apply(all()).await.expect_err("another text");
        assert_eq!(reason(&refused), "MIGRATIONS_BLOCKED");
        assert!(refused.message().contains("accept-checksum"), "{}", refused.message());
        world
            .repair("1", RepairAction::AcceptChecksum)
            .await
            .expect("its first two are the same");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(world.db.count("a").await.expect("a count"), 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_failed_after_the_last_statement_is_asked_again() {
    for engine in BOTH {
        let files = vec![file(
            "1_a.up.sql",
            "-- dbkeep: transaction = false\n-- dbkeep: check-after = SELECT count(*) = 1 FROM a WHERE id = 7\nCREATE TABLE a (id integer);\nVACUUM;",
        )];
        let mut world = World::new(engine, &files, None).await;
        for _ in 0..2 {
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
            let stopped = world.one("1").await;
            assert_eq!((stopped.state(), stopped.statements_done), (MigrationState::StoppedUp, 2));
            assert!(
                world.status().await.problems[0]
                    .message
                    .contains("all of its statements took effect")
            );
        }
        world.db.execute("INSERT INTO a VALUES (7)").await.expect("a row");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_touches_nothing_outside_of_its_copy() {
    for text in [
        "CREATE ROLE dbkeep_never",
        "ALTER SYSTEM SET log_statement = 'all'",
        "DROP DATABASE postgres",
        "GRANT pg_monitor TO CURRENT_USER",
    ] {
        let mut world = World::new(EngineKind::Postgres, &[file("1_a.up.sql", text)], Some(Layout::Sqlx)).await;
        let run = world.test(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Failed, "{text}: {}", run.state_reason);
        assert!(run.state_reason.contains("cannot be rehearsed"), "{}", run.state_reason);
        assert_eq!(world.left_of(&run).await, Vec::<String>::new());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_can_be_rehearsed_and_applied_again() {
    for engine in BOTH {
        let mut world = World::new(engine, &two(), None).await;
        for _ in 0..2 {
            let run = world.apply(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            let run = world.rollback(newest(1), true).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            let run = world.test(all()).await.expect("accepted");
            assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
            assert_eq!(world.left_of(&run).await, Vec::<String>::new());
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_the_same_run() {
    for engine in BOTH {
        let mut world = World::new(engine, &two(), None).await;
        let token = world.plan(v1::MigrationDirection::Up, all()).await.expect("a plan").token;
        let request = v1::ApplyMigrationsRequest {
            request_id: "once".to_owned(),
            dry_run: Some(false),
            plan_token: token,
            ..v1::ApplyMigrationsRequest::default()
        };
        let first = world.apply_as(request.clone()).await.expect("accepted");
        let again = world.apply_as(request).await.expect("the same");
        assert_eq!(first.id, again.id);
        assert_eq!(world.db.count("people").await.expect("a count"), 2);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_and_a_plan_that_moved_is_refused() {
    for engine in BOTH {
        let mut world = World::new(engine, &two(), None).await;
        let before = world.contents().await;
        let request = v1::ApplyMigrationsRequest::default();
        let mut stream = world.migrations.apply_migrations(request).await.expect("a plan").into_inner();
        let plan = stream
            .message()
            .await
            .expect("a message")
            .expect("a message")
            .plan
            .expect("a plan");
        assert_eq!(plan.steps.len(), 2);
        assert!(stream.message().await.expect("an end").is_none());
        assert_eq!(world.contents().await, before);
        let own = match engine {
            EngineKind::Postgres => "SELECT count(*)::text FROM information_schema.tables WHERE table_schema = 'dbkeep'",
            EngineKind::Sqlite => "SELECT count(*) || '' FROM sqlite_schema WHERE name LIKE '%dbkeep%'",
        };
        assert_eq!(world.db.fetch_text(own).await.expect("a count")[0][0].as_deref(), Some("0"));
        world.rewrite(&replaced(two(), "2_names.up.sql", "SELECT 1;"));
        let refused = world.apply_planned(all(), plan.token).await.expect_err("another plan");
        assert_eq!(reason(&refused), "PLAN_MISMATCH");
        world.end().await;
    }
}
