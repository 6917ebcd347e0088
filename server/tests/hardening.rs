//! What dbkeepd leaves to others of what it writes and of itself: nothing. And the examples for systemd and containers, which shut the rest.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use dbkeep_client::{CreateRequest, PlanRequest, RunRequest, UndoRequest, VerifyRequest, proto::RunState};
use dbkeep_testkit::{Db, fresh_database};
use support::Daemon;

const CATALOG: &str = r#"
[[operation]]
name = "logs"
category = "LOGS"
severity = "LOW"
backup = true
[[operation.rule]]
name = "logs"
kind = "filter"
table = "logs"
condition = "id > 50"
max_fraction = 1.0
"#;

/// Everything beneath a folder, with its mode; the folder itself is among it.
fn modes(folder: &Path, found: &mut BTreeMap<PathBuf, u32>) {
    found.insert(folder.to_owned(), fs::symlink_metadata(folder).unwrap().mode() & 0o7777);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            modes(&path, found);
        } else {
            found.insert(path.clone(), fs::symlink_metadata(&path).unwrap().mode() & 0o7777);
        }
    }
}

async fn everything_that_is_written(url: &str, place: &Path) {
    let db = Db::open(url).await.unwrap();
    let rows = (1..=100)
        .map(|id| format!("({id}, 'row {id}')"))
        .collect::<Vec<_>>()
        .join(", ");
    db.execute(&format!(
        "CREATE TABLE logs (id integer PRIMARY KEY, note text); INSERT INTO logs VALUES {rows}"
    ))
    .await
    .unwrap();
    db.close().await;
    let (data, catalog) = (place.join("data"), place.join("catalog.toml"));
    fs::write(&catalog, CATALOG).unwrap();
    // As the laxest of surroundings would have it.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "umask 0; ulimit -S -c unlimited 2>/dev/null; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_dbkeepd"),
    ]);
    let daemon = Daemon::start_by(command, &data, url, &catalog, "");

    let process = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", daemon.id())).unwrap();
    let limits = process("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    assert!(process("status").contains("Umask:\t0077"), "{}", process("status"));

    let client = daemon.client().await;
    let plan = client.cleanup().plan(PlanRequest::new(["logs"])).await.unwrap();
    let run = client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute().full_speed())
        .await
        .unwrap();
    let run = run.finish().await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    let whole = client
        .backups()
        .create(CreateRequest::new())
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    assert_eq!(whole.state(), RunState::Succeeded, "{}", whole.state_reason);
    for backup in [&run.id, &whole.id] {
        let proven = client.backups().verify(VerifyRequest::new(backup.as_str())).await.unwrap();
        assert_eq!(proven.finish().await.unwrap().state(), RunState::Succeeded);
    }
    let undone = client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()).full_speed())
        .await
        .unwrap();
    assert_eq!(undone.finish().await.unwrap().state(), RunState::Succeeded);

    let mut found = BTreeMap::new();
    modes(&data, &mut found);
    assert!(
        found.keys().any(|path| path.extension().is_some_and(|end| end == "chunk")),
        "{found:?}"
    );
    assert!(found.len() > 6, "{found:?}");
    for (path, mode) in found {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{} has {mode:04o}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_read_what_is_written_of_sqlite() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("app.db");
    fs::write(&file, []).unwrap();
    everything_that_is_written(&format!("sqlite://{}", file.display()), place.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_read_what_is_written_of_postgres() {
    let place = tempfile::tempdir().unwrap();
    let url = fresh_database("modes").await.unwrap();
    everything_that_is_written(&url, place.path()).await;
}

#[test]
fn the_memory_of_the_process_is_closed() {
    use rustix::process::{DumpableBehavior, dumpable_behavior};
    dbkeep_server::process::harden().unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
}

#[tokio::test]
async fn a_folder_in_which_everybody_may_write_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for (name, mode, refused) in [
        ("all", 0o777, true),
        ("sticky", 0o1777, true),
        ("group", 0o770, false),
        ("own", 0o700, false),
    ] {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        let opened = dbkeep_server::archive::FolderArchive::open(&folder);
        match opened {
            Ok(_) => assert!(!refused, "{name}"),
            Err(error) => {
                assert!(refused, "{name}: {error}");
                assert!(error.to_string().contains("expected 0700"), "{error}");
            }
        }
        let config = dbkeep_server::Config::embedded(&folder);
        let started = dbkeep_server::Server::start(config, &tokio_util::sync::CancellationToken::new()).await;
        assert_eq!(started.is_err(), refused, "{name} as data folder");
    }
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_unit_gives_the_server_nothing_that_it_does_not_need() {
    let unit = example("dbkeepd.service");
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in unit.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        settings.entry(key).or_default().push(value);
    }
    for (key, value) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("ProtectProc", "invisible"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "dbkeep"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("SystemCallArchitectures", "native"),
    ] {
        assert_eq!(settings.get(key).map(Vec::as_slice), Some(&[value][..]), "{key}");
    }
    assert_eq!(settings["SystemCallFilter"], ["@system-service", "~@privileged"]);
    assert!(settings["LoadCredential"][0].starts_with("app:/"), "{settings:?}");
    let start = settings["ExecStart"][0];
    // What it starts has to be a command line of ours; `StateDirectory` makes the folder that it names.
    assert!(
        start.starts_with("/usr/bin/dbkeepd ") && start.contains("--data /var/lib/dbkeep"),
        "{start}"
    );
    verified_by_systemd(&unit);
}

/// Where systemd is there, it says itself what it thinks of the unit.
fn verified_by_systemd(unit: &str) {
    let there = Command::new("systemd-analyze").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dbkeepd.service");
    fs::write(&path, unit.replace("/usr/bin/dbkeepd", env!("CARGO_BIN_EXE_dbkeepd"))).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("dbkeepd.service:"), "{said}");
    let exposure = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(exposure.status.success(), "{}", String::from_utf8_lossy(&exposure.stdout));
}

#[test]
fn the_image_runs_as_nobody_and_the_containers_can_gain_nothing() {
    let image = example("Containerfile");
    let of = |instruction: &str| {
        let prefix = format!("{instruction} ");
        image
            .lines()
            .filter_map(move |line| line.strip_prefix(&prefix).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("FROM").len(), 2, "built in one stage, run in another");
    assert_eq!(of("USER"), ["65532:65532"]);
    assert_eq!(of("HEALTHCHECK").len(), 1);
    assert!(image.contains("/healthz") && image.contains("--locked"));
    assert_eq!(of("ENTRYPOINT"), ["[\"/usr/bin/dbkeepd\"]"]);
    // What the server runs is root's: it cannot change its own program.
    assert!(
        of("COPY")
            .iter()
            .filter(|copy| copy.contains("--from=build"))
            .all(|copy| copy.contains("--chown=0:0"))
    );

    let compose = example("compose.yaml");
    for line in [
        "    user: \"65532:65532\"",
        "    read_only: true",
        "    cap_drop: [ALL]",
        "    security_opt: [no-new-privileges:true]",
        "      core: 0",
        "      - /var/lib/dbkeep/data:uid=65532,gid=65532,mode=0700",
    ] {
        assert!(compose.lines().any(|found| found == line), "{line}");
    }
    assert!(!compose.contains("privileged: true"));
    // What undo and every other server needs is on the volume, not in a container's memory: by the settings of the example itself.
    let settings: String = compose
        .lines()
        .skip_while(|line| !line.starts_with("# In dbkeep.toml:"))
        .skip(1)
        .map_while(|line| line.strip_prefix("#   "))
        .map(|line| format!("{line}\n"))
        .collect();
    let settings: toml::Table = settings.parse().expect("settings");
    let folder = settings["backup"]["folder"].as_str().expect("a folder");
    assert!(
        compose.lines().any(|line| line == format!("      - backups:{folder}")),
        "{folder} is a volume"
    );
}
