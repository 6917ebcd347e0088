//! What `dbkeepd` makes of `--migrations`: a folder for every target of the command line, or for one by its name, also one of the file.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use dbkeep_client::Client;
use support::Daemon;

/// Checks a command line, without serving.
fn check(folder: &Path, arguments: &[&str]) -> Output {
    let data = folder.join("data").display().to_string();
    Command::new(env!("CARGO_BIN_EXE_dbkeepd"))
        .args(["--check", "--data", &data])
        .args(arguments)
        .current_dir(folder)
        .env("DBKEEP_LOG", "error")
        .output()
        .expect("dbkeepd runs")
}

fn complaint(folder: &Path, arguments: &[&str]) -> String {
    let output = check(folder, arguments);
    assert!(
        !output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stderr).expect("text")
}

/// Two empty databases, and a folder of migrations for each.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["one", "two"] {
        fs::write(folder.path().join(format!("{name}.db")), []).expect("a database");
        fs::create_dir(folder.path().join(name)).expect("a folder");
        fs::write(folder.path().join(name).join(format!("1_{name}.up.sql")), "SELECT 1;").expect("a file");
    }
    folder
}

async fn first_migration(client: &Client, target: &str) -> String {
    let query = dbkeep_client::MigrationQuery::default().target(target);
    let listed = client.migrations().list_all(query).await.expect("a list");
    listed[0].name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_declared_for_one_target_or_for_all_of_the_command_line() {
    let place = place();
    let path = |name: &str| place.path().join(name).display().to_string();
    let config = place.path().join("dbkeep.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data\"\n[scheduler]\ndefault_schedules = false\n\
         [[target]]\nname = \"first\"\nurl = \"sqlite://{}\"\nmigrations = \"nowhere\"\nmigrations_layout = \"sqlx\"\n",
        path("one.db")
    );
    fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeepd"));
    let (first, second) = (
        format!("first={}", path("one")),
        format!("second=sqlite://{}", path("two.db")),
    );
    command.arg("--config").arg(&config);
    // Relative to where the server is started, and by the target of the command line alone.
    command.args(["--target", &second, "--migrations", "two", "--migrations", &first]);
    command.current_dir(place.path());
    let daemon = Daemon::start_command(command);
    let client = daemon.client().await;
    assert_eq!(first_migration(&client, "first").await, "one");
    assert_eq!(first_migration(&client, "second").await, "two");
    let status = client.migrations().status("second").await.expect("a status");
    assert_eq!(
        status.folder,
        path("two"),
        "whole, since nobody knows where the server was started"
    );
}

#[test]
fn a_command_line_that_names_no_target_of_ours_is_refused_with_those_that_are() {
    let place = place();
    let targets = ["--target", "one=sqlite://one.db", "--target", "two=sqlite://two.db"];
    let with = |more: &[&'static str]| complaint(place.path(), &[&targets[..], more].concat());
    let unknown = with(&["--migrations", "three=two"]);
    assert!(
        unknown.contains("there is no target three; known targets: one, two"),
        "{unknown}"
    );
    assert!(unknown.contains("./three=two"), "{unknown}");
    let twice = with(&["--migrations", "one=one", "--migrations", "one=two"]);
    assert!(twice.contains("--migrations one is given twice"), "{twice}");
    let twice = with(&["--migrations", "one", "--migrations", "two"]);
    assert!(
        twice.contains("expected TARGET=DIR for each (known targets: one, two)"),
        "{twice}"
    );
    let nothing = with(&["--migrations", "one="]);
    assert!(nothing.contains("expected a folder, or TARGET=FOLDER"), "{nothing}");
    let nobody = complaint(place.path(), &["--migrations", "one"]);
    assert!(
        nobody.contains("there is no --target") && nobody.contains("known targets: none"),
        "{nobody}"
    );
    let good = check(
        place.path(),
        &[&targets[..], &["--migrations", "./a=b", "--migrations", "two=two"]].concat(),
    );
    let told = String::from_utf8(good.stdout).expect("text");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(
        told.contains("target one: migrations in ") && told.contains("/a=b\n"),
        "{told}"
    );
    assert!(
        told.contains("target two: migrations in ") && told.contains("/two\n"),
        "{told}"
    );
}
