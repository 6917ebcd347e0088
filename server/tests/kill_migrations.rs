//! kill -9 of the real server in the middle of migrations, rollbacks and rehearsals, on both databases: the restarted server goes on
//! from the target's ledger, no statement takes effect twice, and nothing of a rehearsal stays.

#![cfg(feature = "failpoints")]

mod support;

use std::{fs, path::Path};

use dbkeep_proto::v1::{
    self, RunState, migration_service_client::MigrationServiceClient, rehearsal_sample::Amount,
    run_service_client::RunServiceClient,
};
use dbkeep_testkit::{Db, fresh_database};
use support::Daemon;
use tonic::transport::Channel;

struct World {
    place: tempfile::TempDir,
    url: String,
    db: Db,
}

impl World {
    async fn new(database: &str, files: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("killmigrations").await.expect("a database")
        } else {
            let file = place.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        let folder = place.path().join("migrations");
        fs::create_dir(&folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("a file");
        }
        Self {
            db: Db::open(&url).await.expect("a connection"),
            place,
            url,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join(name)
    }

    fn start(&self, failpoints: &str) -> Daemon {
        Daemon::start_with_migrations(&self.path("data"), &self.url, &self.path("migrations"), failpoints)
    }

    async fn value(&self, sql: &str) -> String {
        let rows = self.db.fetch_text(sql).await.expect("rows");
        rows[0][0].clone().unwrap_or_default()
    }

    /// SQLite's journal mode, by a new connection: one that is open finds out late that another one has changed it.
    async fn journal_mode(&self) -> String {
        let db = Db::open(&self.url).await.expect("a connection");
        let rows = db.fetch_text("PRAGMA journal_mode").await.expect("a mode");
        db.close().await;
        rows[0][0].clone().unwrap_or_default()
    }
}

async fn channel(daemon: &Daemon) -> Channel {
    let address = format!("http://{}", daemon.address);
    Channel::from_shared(address)
        .expect("an address")
        .connect()
        .await
        .expect("a connection")
}

/// Starts applying; the server dies somewhere on the way.
async fn apply(daemon: &Daemon) {
    let mut migrations = MigrationServiceClient::new(channel(daemon).await);
    let request = v1::PlanMigrationsRequest::default();
    let plan = migrations
        .plan_migrations(request)
        .await
        .expect("a plan")
        .into_inner()
        .plan
        .expect("a plan");
    let request = v1::ApplyMigrationsRequest {
        dry_run: Some(false),
        plan_token: plan.token,
        ..v1::ApplyMigrationsRequest::default()
    };
    // The server may die before it has answered; the run is there all the same.
    let Ok(answer) = migrations.apply_migrations(request).await else {
        return;
    };
    let mut stream = answer.into_inner();
    while let Ok(Some(_)) = stream.message().await {}
}

/// Approves a run. The server may die before it has answered.
async fn consent(daemon: &Daemon, id: String) {
    let mut request = tonic::Request::new(v1::ApproveRunRequest {
        id,
        ..v1::ApproveRunRequest::default()
    });
    let name = tonic::metadata::MetadataValue::from_static("bob");
    request.metadata_mut().insert("dbkeep-principal", name);
    let _ = RunServiceClient::new(channel(daemon).await).approve_run(request).await;
}

/// Follows the newest run to its end.
async fn end(daemon: &Daemon) -> v1::Run {
    let mut runs = RunServiceClient::new(channel(daemon).await);
    let listed = runs
        .list_runs(v1::ListRunsRequest::default())
        .await
        .expect("a list")
        .into_inner()
        .runs;
    let id = listed[0].id.clone();
    let watch = v1::WatchRunRequest {
        id: id.clone(),
        ..v1::WatchRunRequest::default()
    };
    let mut events = runs.watch_run(watch).await.expect("a stream").into_inner();
    while events.message().await.expect("no break").is_some() {}
    runs.get_run(v1::GetRunRequest { id })
        .await
        .expect("a run")
        .into_inner()
        .run
        .expect("a run")
}

const STEPS: [(&str, &str); 3] = [
    (
        "1_a.up.sql",
        "CREATE TABLE a (id integer PRIMARY KEY, n integer NOT NULL);\nINSERT INTO a VALUES (1, 0);",
    ),
    ("2_b.up.sql", "UPDATE a SET n = n + 1;"),
    ("3_c.up.sql", "-- dbkeep: requires-backup = true\nUPDATE a SET n = n + 1;"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_migration_goes_on_and_nothing_is_done_twice() {
    for database in ["postgres", "sqlite"] {
        for point in [
            "attempt-begins",
            "migrate-saved",
            "migration-recorded",
            "migration-committed",
            "migration-group-committed",
            "migration-done",
        ] {
            for skip in [0, 1] {
                let world = World::new(database, &STEPS).await;
                world
                    .db
                    .execute("CREATE TABLE other (id integer PRIMARY KEY)")
                    .await
                    .expect("a table");
                let mut daemon = world.start(&format!("{point}={}1*panic", if skip == 1 { "1*off->" } else { "" }));
                apply(&daemon).await;
                // Where the point is passed only once, the second pass never comes and the run has ended.
                let once = matches!(point, "attempt-begins" | "migrate-saved");
                if skip == 1 && once {
                    daemon.kill();
                } else {
                    daemon.died(point);
                }
                let mut daemon = world.start("");
                let run = end(&daemon).await;
                assert_eq!(run.state(), RunState::Succeeded, "{database} {point}: {}", run.state_reason);
                assert_eq!(world.value("SELECT CAST(n AS text) FROM a").await, "2", "{database} {point}");
                assert!(!run.backup_id.is_empty());
                let report = run.report.expect("a report");
                assert!(
                    report.steps.iter().all(|step| step.state() == v1::StepState::Succeeded),
                    "{:?}",
                    report.steps
                );
                daemon.kill();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rollback_goes_on_statement_by_statement() {
    let files = [
        (
            "1_a.up.sql",
            "CREATE TABLE a (id integer PRIMARY KEY, n integer NOT NULL);\nINSERT INTO a VALUES (1, 0);",
        ),
        ("2_b.up.sql", "UPDATE a SET n = n + 5;"),
        ("2_b.down.sql", "UPDATE a SET n = n - 2;\nUPDATE a SET n = n - 3;"),
        ("2_b.dbkeep.toml", "transaction = false"),
    ];
    for database in ["postgres", "sqlite"] {
        for point in [
            "migrate-saved",
            "migration-recorded",
            "migration-committed",
            "migration-group-committed",
            "migration-done",
        ] {
            let world = World::new(database, &files).await;
            let mut daemon = world.start("");
            apply(&daemon).await;
            daemon.kill();
            assert_eq!(world.value("SELECT CAST(n AS text) FROM a").await, "5");
            let mut daemon = world.start(&format!("{point}=1*panic"));
            let mut migrations = MigrationServiceClient::new(channel(&daemon).await);
            let selection = v1::MigrationSelection {
                steps: 1,
                ..v1::MigrationSelection::default()
            };
            let request = v1::PlanMigrationsRequest {
                direction: v1::MigrationDirection::Down.into(),
                selection: Some(selection.clone()),
                ..v1::PlanMigrationsRequest::default()
            };
            let plan = migrations
                .plan_migrations(request)
                .await
                .expect("a plan")
                .into_inner()
                .plan
                .expect("a plan");
            let request = v1::RollbackMigrationsRequest {
                dry_run: Some(false),
                plan_token: plan.token,
                unproven: true,
                selection: Some(selection),
                ..v1::RollbackMigrationsRequest::default()
            };
            if let Ok(answer) = migrations.rollback_migrations(request).await {
                let mut stream = answer.into_inner();
                while let Ok(Some(_)) = stream.message().await {}
            }
            daemon.died(point);
            let mut daemon = world.start("");
            let run = end(&daemon).await;
            assert_eq!(run.state(), RunState::Succeeded, "{database} {point}: {}", run.state_reason);
            assert_eq!(world.value("SELECT CAST(n AS text) FROM a").await, "0", "{database} {point}");
            daemon.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_leaves_the_old_state_or_the_new_and_comes_to_its_end() {
    let files = [
        (
            "1_a.up.sql",
            "CREATE TABLE a (id integer PRIMARY KEY, n integer NOT NULL, gone text);\nINSERT INTO a VALUES (1, 0, 'x'), (2, 5, 'y');",
        ),
        (
            "2_b.up.sql",
            "-- dbkeep: requires-backup = true\nALTER TABLE a DROP COLUMN gone;\nUPDATE a SET n = n + 1;\nCREATE TABLE b (id integer);",
        ),
    ];
    for database in ["postgres", "sqlite"] {
        for point in [
            "rewind-checked",
            "rewind-frozen",
            "dump-published",
            "rewind-saved",
            "rewind-dropped",
            "rewind-filled",
            "rewind-recorded",
            "rewind-committed",
            "rewind-commit-reply-lost",
        ] {
            let world = World::new(database, &files[..1]).await;
            let mut daemon = world.start("");
            apply(&daemon).await;
            daemon.kill();
            fs::write(world.path("migrations").join(files[1].0), files[1].1).expect("a file");
            let mut daemon = world.start("");
            apply(&daemon).await;
            daemon.kill();
            world.db.execute("INSERT INTO a VALUES (3, 9)").await.expect("a row");
            // What the kill leaves is looked at before anybody takes the run up again.
            let lost = point == "rewind-commit-reply-lost";
            let mut daemon = world.start(&format!("{point}=1*{}", if lost { "return" } else { "panic" }));
            let mut migrations = MigrationServiceClient::new(channel(&daemon).await);
            let plan = v1::PlanMigrationsRequest {
                direction: v1::MigrationDirection::Down.into(),
                selection: Some(v1::MigrationSelection {
                    steps: 1,
                    ..v1::MigrationSelection::default()
                }),
                from_backup: true,
                ..v1::PlanMigrationsRequest::default()
            };
            let plan = migrations
                .plan_migrations(plan)
                .await
                .expect("a plan")
                .into_inner()
                .plan
                .expect("a plan");
            let restore = plan.restore.expect("a restore");
            let request = v1::RollbackMigrationsRequest {
                dry_run: Some(false),
                plan_token: plan.token,
                from_backup: true,
                backup_id: restore.backup_id,
                confirmation_phrase: restore.confirmation_phrase,
                ..v1::RollbackMigrationsRequest::default()
            };
            if let Ok(answer) = migrations.rollback_migrations(request).await {
                let mut stream = answer.into_inner();
                while let Ok(Some(message)) = stream.message().await {
                    // The first event says that it waits for somebody else.
                    if let Some(event) = message.event.filter(|event| event.sequence == 1) {
                        consent(&daemon, event.run_id).await;
                    }
                }
            }
            if lost {
                daemon.kill();
            } else {
                daemon.died(point);
            }
            let committed = matches!(point, "rewind-committed" | "rewind-commit-reply-lost");
            let there = world.value("SELECT CAST(count(*) AS text) FROM a").await;
            let expected = if committed { "2" } else { "3" };
            assert_eq!(there, expected, "{database} {point}: all of the one or all of the other");
            let mut daemon = world.start("");
            let run = end(&daemon).await;
            assert_eq!(run.state(), RunState::Succeeded, "{database} {point}: {}", run.state_reason);
            assert_eq!(
                world
                    .value("SELECT CAST(sum(n) AS text) || min(gone) || max(gone) FROM a")
                    .await,
                "5xy",
                "{database} {point}"
            );
            let ledger = if database == "postgres" {
                "dbkeep.migration"
            } else {
                "_dbkeep_migration"
            };
            let state = world.value(&format!("SELECT state FROM {ledger} WHERE id = '2'")).await;
            assert_eq!(state, "rolled_back", "{database} {point}");
            // The state before was saved last under the lock, and nothing else of an earlier attempt stays.
            let backup = files_below(&world.path("data").join("backups").join(&run.id));
            assert_eq!(backup.len(), 2, "{database} {point}: {backup:?}");
            assert!(
                run.report
                    .expect("a report")
                    .steps
                    .iter()
                    .all(|step| step.state() == v1::StepState::Succeeded)
            );
            daemon.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rehearsal_leaves_nothing_behind() {
    for database in ["postgres", "sqlite"] {
        for (point, part) in [
            ("rehearsal-dumped", None),
            ("scratch-created", None),
            ("scratch-made", None),
            ("scratch-going", None),
            ("rehearsal-copied", None),
            ("rehearsal-tried", None),
            ("migration-recorded", None),
            ("migration-committed", None),
            ("scratch-made", Some(Amount::RowCount(1))),
            ("rehearsal-copied", Some(Amount::Percent(50.0))),
            ("rehearsal-tried", Some(Amount::RowCount(1))),
        ] {
            // A file is made under its own name at once, and a database goes at once.
            if matches!(
                (database, point),
                ("sqlite", "scratch-created") | ("postgres", "scratch-going")
            ) {
                continue;
            }
            let mut files = STEPS.to_vec();
            files.extend([
                ("1_a.down.sql", "DROP TABLE a;"),
                ("2_b.down.sql", "UPDATE a SET n = n - 1;"),
                ("3_c.down.sql", "UPDATE a SET n = n - 1;"),
            ]);
            let world = World::new(database, &files).await;
            world
                .db
                .execute("CREATE TABLE other (id integer PRIMARY KEY)")
                .await
                .expect("a table");
            let mut daemon = world.start(&format!("{point}=1*panic"));
            let mut migrations = MigrationServiceClient::new(channel(&daemon).await);
            let mut stream = migrations
                .test_migration(v1::TestMigrationRequest {
                    sample: part.map(|amount| v1::RehearsalSample { amount: Some(amount) }),
                    ..v1::TestMigrationRequest::default()
                })
                .await
                .expect("accepted")
                .into_inner();
            while let Ok(Some(_)) = stream.message().await {}
            daemon.died(point);
            let mut daemon = world.start("");
            let run = end(&daemon).await;
            assert_eq!(run.state(), RunState::Succeeded, "{database} {point}: {}", run.state_reason);
            daemon.kill();
            let backups = files_below(&world.path("data").join("backups"));
            assert!(backups.is_empty(), "{database} {point}: {backups:?}");
            if database == "postgres" {
                let left = world
                    .value("SELECT count(*)::text FROM pg_database WHERE datname ~ '^dbkeep_(rehearsal|making)_'")
                    .await;
                assert_eq!(left, "0", "{point}");
            } else {
                let left: Vec<String> = files_below(world.place.path())
                    .into_iter()
                    .filter(|name| name.contains("rehearsal"))
                    .collect();
                assert!(left.is_empty(), "{point}: {left:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_in_doubt_is_looked_at_and_whatever_cannot_be_is_left_to_a_person() {
    let files = [
        ("1_a.up.sql", "CREATE TABLE a (id integer);"),
        ("2_b.up.sql", "-- no-transaction\nCREATE INDEX CONCURRENTLY a_id ON a (id);"),
    ];
    for point in ["migration-in-doubt", "migration-alone"] {
        let world = World::new("postgres", &files).await;
        let mut daemon = world.start(&format!("{point}=1*panic"));
        apply(&daemon).await;
        daemon.died(point);
        let mut daemon = world.start("");
        let run = end(&daemon).await;
        assert_eq!(run.state(), RunState::Succeeded, "{point}: {}", run.state_reason);
        let valid = world
            .value("SELECT count(*)::text FROM pg_index WHERE indexrelid = 'a_id'::regclass AND indisvalid")
            .await;
        assert_eq!(valid, "1", "{point}");
        daemon.kill();
    }
    let files = [("1_a.up.sql", "-- no-transaction\nALTER SYSTEM SET log_statement = 'none';")];
    let world = World::new("postgres", &files).await;
    let mut daemon = world.start("migration-alone=1*panic");
    apply(&daemon).await;
    daemon.died("migration-alone");
    let mut daemon = world.start("");
    let run = end(&daemon).await;
    assert_eq!(run.state(), RunState::Failed, "{}", run.state_reason);
    assert!(run.state_reason.contains("repair"), "{}", run.state_reason);
    let mut migrations = MigrationServiceClient::new(channel(&daemon).await);
    let request = v1::RepairLedgerRequest {
        id: "1".to_owned(),
        action: v1::RepairAction::Skip.into(),
        ..v1::RepairLedgerRequest::default()
    };
    migrations.repair_ledger(request).await.expect("it took effect");
    let status = migrations
        .get_migration_status(v1::GetMigrationStatusRequest::default())
        .await
        .expect("a status");
    let status = status.into_inner().status.expect("a status");
    assert_eq!((status.applied_count, status.problems.len()), (1, 0));
    daemon.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_sqlite_in_doubt_is_run_again_or_left_to_a_person() {
    for (statement, again) in [("VACUUM;", true), ("PRAGMA journal_mode = WAL;", false)] {
        for point in ["migration-in-doubt", "migration-alone"] {
            let file = format!("-- no-transaction\n{statement}\nINSERT INTO a VALUES (2);");
            let files = [
                ("1_a.up.sql", "CREATE TABLE a (id integer);\nINSERT INTO a VALUES (1);"),
                ("2_b.up.sql", file.as_str()),
            ];
            let case = format!("{statement} {point}");
            let world = World::new("sqlite", &files).await;
            let mut daemon = world.start(&format!("{point}=1*panic"));
            apply(&daemon).await;
            daemon.died(point);
            let doubt = world
                .value("SELECT in_doubt || state FROM _dbkeep_migration WHERE id = '2'")
                .await;
            assert_eq!(doubt, "1applying", "{case}");
            let mut daemon = world.start("");
            let run = end(&daemon).await;
            let mut migrations = MigrationServiceClient::new(channel(&daemon).await);
            if again {
                assert_eq!(run.state(), RunState::Succeeded, "{case}: {}", run.state_reason);
            } else {
                assert_eq!(run.state(), RunState::PartiallySucceeded, "{case}: {}", run.state_reason);
                assert!(
                    run.state_reason.contains("dbkeep migrations repair 2"),
                    "{case}: {}",
                    run.state_reason
                );
                let took_effect = point == "migration-alone";
                assert_eq!(
                    world.journal_mode().await == "wal",
                    took_effect,
                    "{case}: only the database knows"
                );
                let action = if took_effect {
                    v1::RepairAction::Skip
                } else {
                    v1::RepairAction::Retry
                };
                let request = v1::RepairLedgerRequest {
                    id: "2".to_owned(),
                    action: action.into(),
                    ..v1::RepairLedgerRequest::default()
                };
                migrations.repair_ledger(request).await.expect("somebody looked");
                apply(&daemon).await;
                assert_eq!(world.journal_mode().await, "wal", "{case}");
            }
            let status = migrations
                .get_migration_status(v1::GetMigrationStatusRequest::default())
                .await
                .expect("a status");
            let status = status.into_inner().status.expect("a status");
            assert_eq!((status.applied_count, status.problems.len()), (2, 0), "{case}");
            assert_eq!(
                world.value("SELECT CAST(sum(id) AS text) FROM a").await,
                "3",
                "{case}: nothing twice"
            );
            daemon.kill();
        }
    }
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
