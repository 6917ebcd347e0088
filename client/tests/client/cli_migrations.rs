//! `dbkeep migrations` against the fake server: what is shown before something is executed, exit codes, and the files of `new`.

use dbkeep_client::proto::{self, RunState};

use crate::{
    cli::{dbkeep, json_lines, one_run, serve, text},
    fake::{Call, Fake, Migrating},
};

fn plan(problem: Option<&str>) -> proto::MigrationPlan {
    proto::MigrationPlan {
        target: "main".into(),
        direction: proto::MigrationDirection::Up.into(),
        token: "tok".into(),
        risk: proto::Risk::High.into(),
        steps: vec![proto::MigrationPlanStep {
            migration: Some(proto::Migration {
                id: "3".into(),
                name: "users".into(),
                up_file: "3_users.sql".into(),
                state: proto::MigrationState::Pending.into(),
                ..Default::default()
            }),
            statements: vec![proto::PlannedStatement {
                line: 7,
                sql: "ALTER TABLE users ADD COLUMN a int".into(),
                reasons: vec![proto::RiskReason {
                    rule: "blocks-writers".into(),
                    risk: proto::Risk::High.into(),
                    message: "everybody waits".into(),
                    help: "do it at night".into(),
                }],
                ..Default::default()
            }],
            ..Default::default()
        }],
        problems: problem
            .map(|code| proto::MigrationProblem {
                code: code.into(),
                migration_id: "3".into(),
                message: "it stopped".into(),
                next_step: "repair it".into(),
                blocks: true,
            })
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

fn fake(problem: Option<&str>) -> Fake {
    let fake = one_run(RunState::Succeeded);
    fake.set_run(|run| run.set_kind(proto::RunKind::Migrate));
    fake.state().migration_plan = plan(problem);
    fake
}

#[tokio::test]
async fn an_apply_is_a_plan_until_execute() {
    let fake = fake(None);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["migrations", "apply"]).await;
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for words in [
        "3 users",
        "line 7",
        "everybody waits",
        "do it at night",
        "--execute --target main --plan tok",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(matches!(&fake.calls()[..], [Call::Migrations(Migrating::Plan { .. })]));
}

#[tokio::test]
async fn what_was_shown_is_what_runs() {
    let fake = fake(None);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["migrations", "apply", "--execute"]).await;
    assert_eq!(output.status.code(), Some(2), "nobody can be asked");
    let output = dbkeep(address, &["migrations", "apply", "--execute", "--yes", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let types: Vec<_> = json_lines(&output).iter().map(|line| line["type"].clone()).collect();
    assert_eq!(types, ["migration_plan", "state_changed", "progress", "state_changed", "run"]);
    let calls = fake.calls();
    assert!(
        calls.iter().any(|call| matches!(
            call,
            Call::Migrations(Migrating::Apply { token, migrations, dry_run: Some(false), .. })
                if token == "tok" && migrations == &["3"]
        )),
        "{calls:?}"
    );
}

#[tokio::test]
async fn what_blocks_is_exit_code_4() {
    let fake = fake(Some("STOPPED"));
    let address = serve(&fake).await;
    for arguments in [
        &["migrations", "status"][..],
        &["migrations", "plan"],
        &["migrations", "apply"],
        &["migrations", "apply", "--execute", "--yes"],
    ] {
        let output = dbkeep(address, arguments).await;
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("next: repair it"), "{arguments:?}");
    }
    let asked_only = |call: &Call| matches!(call, Call::Migrations(Migrating::Status | Migrating::Plan { .. }));
    assert!(fake.calls().iter().all(asked_only));
}

#[tokio::test]
async fn nothing_to_do_is_a_success() {
    let fake = Fake::new([]);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["migrations", "apply", "--execute", "--yes"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("Nothing is to be done."));
    let output = dbkeep(address, &["migrations", "baseline", "--yes", "-o", "json"]).await;
    assert_eq!(text(&output.stdout), "{\"baselined\":[]}\n");
}

#[tokio::test]
async fn a_token_asks_no_question_and_plans_nothing() {
    let fake = fake(None);
    let address = serve(&fake).await;
    let output = dbkeep(
        address,
        &["migrations", "rollback", "3", "--execute", "--plan", "tok", "--unproven"],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(matches!(
        &fake.calls()[0],
        Call::Migrations(Migrating::Rollback {
            unproven: true,
            dry_run: Some(false),
            ..
        })
    ));
}

#[tokio::test]
async fn a_repair_is_proposed_with_its_command_and_done_on_demand() {
    let fake = fake(None);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["migrations", "repair", "3"]).await;
    let told = text(&output.stdout);
    assert!(told.contains("it stopped at line 7"), "{told}");
    assert!(told.contains("dbkeep migrations repair 3 --action mark-applied"), "{told}");
    let asked = dbkeep(address, &["migrations", "repair", "3", "--action", "mark-applied"]).await;
    assert_eq!(asked.status.code(), Some(2), "nobody can be asked");
    let output = dbkeep(
        address,
        &["migrations", "repair", "3", "--action", "mark-applied", "--yes", "-o", "json"],
    )
    .await;
    assert_eq!(json_lines(&output)[0]["repair"]["done"], "mark_applied");
    let done = Call::Migrations(Migrating::Repair {
        action: proto::RepairAction::MarkApplied.into(),
    });
    assert_eq!(fake.calls().iter().filter(|call| **call == done).count(), 1);
}

#[tokio::test]
async fn a_baseline_counts_what_was_shown() {
    let fake = fake(None);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["migrations", "baseline", "--to", "3", "--yes", "-o", "json"]).await;
    assert_eq!(text(&output.stdout), "{\"baselined\":[\"3\"]}\n");
    let baseline = Call::Migrations(Migrating::Baseline {
        migrations: vec!["3".into()],
    });
    assert_eq!(fake.calls().last(), Some(&baseline));
}

#[tokio::test]
async fn new_files_are_written_below_the_folder_and_over_nothing() {
    let fake = Fake::new([]);
    let address = serve(&fake).await;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("migrations");
    let place_text = place.display().to_string();
    let new = |name: &'static str| {
        [
            "migrations".to_owned(),
            "new".to_owned(),
            name.to_owned(),
            "--folder".to_owned(),
            place_text.clone(),
        ]
    };
    let run = async |name| {
        let arguments = new(name);
        dbkeep(address, &arguments.each_ref().map(String::as_str)).await
    };
    assert_eq!(run("users").await.status.code(), Some(1), "the folder has to be there");
    std::fs::create_dir(&place).unwrap();
    let output = run("users").await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("4_users.sql"));
    std::fs::write(place.join("4_users.sql"), "mine").unwrap();
    assert_eq!(run("users").await.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(place.join("4_users.sql")).unwrap(), "mine");
    assert_eq!(run("hostile").await.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn lists_and_one_migration() {
    let fake = Fake::new([]);
    let address = serve(&fake).await;
    let output = dbkeep(
        address,
        &["migrations", "list", "--state", "pending", "--limit", "2", "-o", "json"],
    )
    .await;
    let lines = json_lines(&output);
    assert_eq!(lines[0]["migrations"].as_array().unwrap().len(), 2);
    assert_eq!(lines[0]["more"], true);
    let output = dbkeep(address, &["migrations", "show", "3"]).await;
    let told = text(&output.stdout);
    assert!(told.contains("3.up.sql") && told.contains("line 7: SELECT 1"), "{told}");
}
