//! Rights on a real PostgreSQL: a role of exactly the granted ones does everything that its features promise, each single one is needed and
//! named where it is missing, and what is too much is named, too.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::{collections::BTreeSet, path::Path};

use dbkeep_client::{
    ApplyRequest, Client, CreateRequest, DiscoverRequest, Look, MigrationSelection, PlanRequest, RestoreRequest, RunRequest,
    RunStream, ScheduleDraft, ScheduleTiming, UndoRequest, VerifyRequest, proto,
};
use dbkeep_server::{CatalogSource, Config};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};
use proto::{GrantFeature, MigrationDirection, RunState};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const ROLE: &str = "Keep\"er";
const OPERATIONS: [&str; 6] = ["suspended", "kindless", "twice", "away", "private", "rings"];

/// Every way in which a step touches a table, over two schemas, a type of its own, keys that cascade and keys that are emptied.
const CATALOG: &str = r#"
[[operation]]
name = "suspended"
category = "X"
severity = "MEDIUM"
backup = true
[[operation.rule]]
name = "users"
kind = "expired"
table = "users"
column = "suspended_at"
retention = "P6M"
action = "archive"
into = "archived_users"
stamp = "archived_at"
max_fraction = 1.0

[[operation]]
name = "kindless"
category = "X"
severity = "HIGH"
backup = true
[[operation.rule]]
name = "events"
kind = "orphan"
table = "app.events"
columns = ["kind_id"]
parent = "app.kinds"
parent_columns = ["id"]
max_fraction = 1.0

[[operation]]
name = "twice"
category = "X"
severity = "LOW"
backup = false
[[operation.rule]]
name = "scores"
kind = "duplicate"
table = "scores"
columns = ["player"]
keep = "newest"
by = ["at"]
max_fraction = 1.0

[[operation]]
name = "away"
category = "X"
severity = "LOW"
backup = true
[[operation.rule]]
name = "accounts"
kind = "expired"
table = "accounts"
column = "seen"
retention = "P1Y"
where = { state = "ACTIVE" }
action = "update"
set = { state = "INACTIVE" }
max_fraction = 1.0

[[operation]]
name = "private"
category = "X"
severity = "LOW"
backup = false
[[operation.rule]]
name = "hidden"
kind = "expired"
table = "hidden"
column = "expires_at"
expiry = true
max_fraction = 1.0

[[operation]]
name = "rings"
category = "X"
severity = "LOW"
backup = true
[[operation.rule]]
name = "edges"
kind = "cycle"
table = "edges"
from = ["a"]
to = ["b"]
max_fraction = 1.0
"#;

const SCHEMA: &str = "CREATE ROLE app_owner; GRANT CREATE ON DATABASE app TO app_owner; \
     REVOKE ALL ON DATABASE app FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT ALL ON SCHEMA public TO app_owner; \
     SET ROLE app_owner; \
     CREATE SCHEMA app; CREATE SCHEMA types; CREATE TYPE types.mood AS ENUM ('fine', 'bad'); \
     CREATE TABLE users (id integer PRIMARY KEY, mood types.mood, suspended_at timestamptz); \
     CREATE TABLE posts (id integer PRIMARY KEY, user_id integer REFERENCES users ON DELETE CASCADE); CREATE INDEX ON posts (user_id); \
     CREATE TABLE notes (id integer PRIMARY KEY, user_id integer REFERENCES users ON DELETE SET NULL); CREATE INDEX ON notes (user_id); \
     CREATE TABLE bills (id integer PRIMARY KEY, user_id integer REFERENCES users); CREATE INDEX ON bills (user_id); \
     CREATE TABLE app.kinds (id integer PRIMARY KEY); \
     CREATE TABLE app.events (id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, kind_id integer); \
     CREATE TABLE scores (id serial PRIMARY KEY, player text, at timestamptz); \
     CREATE TABLE accounts (id integer PRIMARY KEY, state text, seen timestamptz); \
     CREATE TABLE hidden (id integer PRIMARY KEY, expires_at timestamptz); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; \
     CREATE TABLE edges (a integer, b integer, PRIMARY KEY (a, b)); \
     CREATE TABLE elsewhere (id integer PRIMARY KEY); \
     INSERT INTO users SELECT n, 'fine', CASE WHEN n % 2 = 0 THEN '2001-01-01'::timestamptz END FROM generate_series(1, 20) AS n; \
     INSERT INTO posts SELECT n, n FROM generate_series(1, 20) AS n; INSERT INTO notes SELECT n, n FROM generate_series(1, 20) AS n; \
     INSERT INTO app.kinds VALUES (1); INSERT INTO app.events (kind_id) SELECT n % 3 FROM generate_series(1, 30) AS n; \
     INSERT INTO scores (player, at) SELECT 'p' || n % 5, now() - n * interval '1 day' FROM generate_series(1, 20) AS n; \
     INSERT INTO accounts SELECT n, 'ACTIVE', '2001-01-01' FROM generate_series(1, 10) AS n; \
     INSERT INTO hidden SELECT n, '2001-01-01' FROM generate_series(1, 10) AS n; \
     INSERT INTO edges VALUES (1, 2), (2, 1), (2, 3); RESET ROLE; ANALYZE";

struct Server {
    client: Client,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), dbkeep_server::ServeError>>,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start(url: &str) -> Self {
        Self::start_with(url, None).await
    }

    /// The same with a folder of migrations.
    async fn start_with(url: &str, migrations: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = CatalogSource::Text {
            name: "catalog.toml".into(),
            text: CATALOG.into(),
        };
        let mut config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog);
        if let Some(migrations) = migrations {
            config = config.with_migrations("app", migrations, None);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
        let client = Client::builder().address(&address).connect().await.unwrap();
        Self {
            client,
            shutdown,
            task,
            _folder: folder,
        }
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Plans and runs an operation; what became of it.
    async fn run(&self, operation: &str) -> Result<proto::Run, String> {
        let plan = self.client.cleanup().plan(PlanRequest::new([operation])).await;
        let plan = plan.map_err(|error| error.to_string())?;
        if plan.blocked {
            return Err(format!("blocked: {:?}", plan.steps));
        }
        assert!(plan.row_count > 0, "{operation} has nothing to do");
        let request = RunRequest::of_plan(&plan).execute().full_speed();
        let stream = self.client.cleanup().run(request).await.map_err(|error| error.to_string())?;
        let run = stream.finish().await.map_err(|error| error.to_string())?;
        if run.state() == RunState::Succeeded {
            Ok(run)
        } else {
            Err(format!("{:?}: {} {:?}", run.state(), run.state_reason, run.report))
        }
    }

    async fn undo(&self, run: &proto::Run) -> Result<(), String> {
        let undo = self.client.runs().undo(UndoRequest::new(run.id.as_str()).full_speed()).await;
        let undo = undo.map_err(|error| error.to_string())?.finish().await;
        let undo = undo.map_err(|error| error.to_string())?;
        if undo.state() == RunState::Succeeded {
            Ok(())
        } else {
            Err(format!("{:?}: {}", undo.state(), undo.state_reason))
        }
    }
}

/// A cluster whose database `app` grants nothing to everybody.
async fn cluster() -> (PrivatePostgres, Db) {
    let cluster = PrivatePostgres::start(Durability::Fast).await.unwrap();
    cluster.create_database("app").await.unwrap();
    let db = Db::open(&cluster.url("app")).await.unwrap();
    db.execute(SCHEMA).await.unwrap();
    (cluster, db)
}

fn as_role(cluster: &PrivatePostgres, database: &str) -> String {
    cluster.url(database).replace("postgres@", "Keep%22er@")
}

const FEATURES: [GrantFeature; 5] = [
    GrantFeature::Basis,
    GrantFeature::Cleanup,
    GrantFeature::Undo,
    GrantFeature::Monitoring,
    GrantFeature::Backups,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_of_exactly_these_rights_does_everything_that_they_are_for() {
    let (cluster, db) = cluster().await;
    let owner = Server::start(&cluster.url("app")).await;
    // The superuser is told that it is one.
    let seen = owner.client.targets().get("app").await.unwrap();
    let role = seen.status.role.unwrap();
    assert!(role.missing.is_empty(), "{:?}", role.missing);
    assert_eq!(role.excess[0].what, "SUPERUSER");
    let answer = owner.client.targets().grants("app", ROLE, &FEATURES).await.unwrap();
    assert!(!answer.exists && answer.grants.iter().all(|grant| !grant.held));
    for _ in 0..2 {
        db.execute(&answer.script).await.expect("the script runs, and again");
    }
    owner.end().await;

    let server = Server::start(&as_role(&cluster, "app")).await;
    let role = server.client.targets().get("app").await.unwrap().status.role.unwrap();
    assert_eq!((role.name.as_str(), role.problem.as_str()), (ROLE, ""));
    assert!(role.missing.is_empty(), "{:?}", role.missing);
    // Whole backups are made when people ask for them: what they take is told, and is no warning.
    let excess: Vec<_> = role
        .excess
        .iter()
        .map(|excess| (excess.what.as_str(), excess.warning))
        .collect();
    assert_eq!(excess, [("member of pg_read_all_data", false)]);
    let tables = ["users", "posts", "notes", "archived_users", "accounts", "app.events", "edges"];
    let mut before = Vec::new();
    for table in tables {
        before.push(db.table_hash(table, "1").await.unwrap());
    }
    for operation in OPERATIONS {
        let run = server
            .run(operation)
            .await
            .unwrap_or_else(|error| panic!("{operation}: {error}"));
        let captured = run.report.as_ref().is_some_and(|report| report.rows_captured > 0);
        if captured {
            let verified = server
                .client
                .backups()
                .verify(VerifyRequest::new(run.id.as_str()))
                .await
                .unwrap();
            assert_eq!(verified.finish().await.unwrap().state(), RunState::Succeeded, "{operation}");
            server.undo(&run).await.unwrap_or_else(|error| panic!("{operation}: {error}"));
        } else {
            assert!(["twice", "private"].contains(&operation), "{operation} captures");
        }
    }
    for (table, before) in tables.iter().zip(before) {
        assert_eq!(db.table_hash(table, "1").await.unwrap(), before, "{table} is as it was");
    }
    let metrics = server.client.monitoring().metrics("app", Look::Fresh).await.unwrap();
    let gaps = metrics.snapshot.unwrap().gaps;
    let of_rights = gaps.iter().filter(|gap| !gap.allow.contains("EXTENSION")).collect::<Vec<_>>();
    assert!(of_rights.is_empty(), "{of_rights:?}");
    // Policies hide rows from pg_dump, too; this role is not bound by them.
    let backup = server.client.backups().create(CreateRequest::new()).await.unwrap();
    let backup = backup.finish().await.unwrap();
    assert_eq!(backup.state(), RunState::Succeeded, "{}", backup.state_reason);
    // What it may not do, the database refuses, whatever dbkeep thinks of it.
    let keeper = Db::open(&as_role(&cluster, "app")).await.unwrap();
    for refused in [
        "DELETE FROM elsewhere",
        "DELETE FROM app.kinds",
        "DELETE FROM accounts",
        "UPDATE accounts SET seen = now()",
        "UPDATE users SET suspended_at = now()",
        "TRUNCATE users",
        "CREATE TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "ALTER TABLE users ADD COLUMN x integer",
        "CREATE ROLE other",
    ] {
        let error = keeper.execute(refused).await.expect_err(refused);
        let said = format!("{error:#}");
        assert!(
            said.contains("permission denied") || said.contains("must be owner"),
            "{refused}: {said}"
        );
    }
    server.end().await;
}

/// What takes a grant away.
fn revocation(grant: &proto::Grant) -> String {
    let statement = &grant.statement;
    if let Some(rest) = statement.strip_prefix("GRANT ") {
        let (what, role) = rest.rsplit_once(" TO ").unwrap();
        return format!("REVOKE {what} FROM {role}");
    }
    if statement.starts_with("CREATE SCHEMA") {
        return "ALTER SCHEMA dbkeep OWNER TO postgres".to_owned();
    }
    if statement.starts_with("CREATE TABLE") {
        return "DROP TABLE archived_users".to_owned();
    }
    for attribute in ["BYPASSRLS", "CREATEDB"] {
        if let Some(role) = statement.strip_suffix(&format!(" {attribute}")) {
            return format!("{role} NO{attribute}");
        }
    }
    panic!("no way back from {statement}")
}

/// Features that the role of [`Server::attempt`] is not granted at first.
const ON_REQUEST: [GrantFeature; 6] = [
    GrantFeature::Monitoring,
    GrantFeature::Discovery,
    GrantFeature::Backups,
    GrantFeature::Maintenance,
    GrantFeature::Restores,
    GrantFeature::Migrations,
];

/// What became of a run; the error is what it says.
async fn ended(stream: Result<RunStream, dbkeep_client::Error>) -> Result<proto::Run, String> {
    let run = stream.map_err(|error| error.to_string())?.finish().await;
    let run = run.map_err(|error| error.to_string())?;
    match run.state() {
        RunState::Succeeded => Ok(run),
        state => Err(format!("{state:?}: {}", run.state_reason)),
    }
}

/// What a run warns of, where that is about a right.
fn rights(run: &proto::Run) -> Vec<String> {
    let warnings = run.report.iter().flat_map(|report| &report.warnings);
    let about = warnings.filter(|warning| warning.code.ends_with("_NOT_PERMITTED") || warning.code == "VACUUM_FAILED");
    about
        .map(|warning| format!("{}: {}", warning.code, warning.message))
        .collect()
}

impl Server {
    /// Does what a feature is for. The error is every refusal that came.
    async fn attempt(&self, feature: GrantFeature, backup: &mut String) -> Result<(), Vec<String>> {
        let client = &self.client;
        let refused = match feature {
            GrantFeature::Monitoring => {
                let metrics = client.monitoring().metrics("app", Look::Fresh).await.unwrap();
                let gaps = metrics.snapshot.unwrap().gaps.into_iter();
                let gaps = gaps.filter(|gap| !gap.allow.contains("EXTENSION"));
                gaps.map(|gap| format!("{}: {}; {}", gap.what, gap.why, gap.allow)).collect()
            }
            GrantFeature::Discovery => client.cleanup().discover(DiscoverRequest::default()).await.unwrap().warnings,
            GrantFeature::Backups => match ended(client.backups().create(CreateRequest::new()).await).await {
                Ok(run) => {
                    *backup = run.id;
                    Vec::new()
                }
                Err(error) => vec![error],
            },
            GrantFeature::Restores => {
                let request = RestoreRequest::in_place(&*backup, format!("app/{backup}"));
                let into_place = request.table("public.wide").replace();
                let requests = [RestoreRequest::scratch(&*backup), into_place];
                let mut refused = Vec::new();
                for request in requests {
                    refused.extend(ended(client.backups().restore(request).await).await.err());
                }
                refused
            }
            GrantFeature::Maintenance => {
                let name = format!(
                    "upkeep {}",
                    client.schedules().list_all(Default::default()).await.unwrap().len()
                );
                let draft = ScheduleDraft::new(name)
                    .target("app")
                    .maintenance("vacuum_analyze")
                    .maintenance("reindex_bloated")
                    .timing(ScheduleTiming::cron("0 3 1 1 *"));
                let schedule = client.schedules().create(draft).await.unwrap();
                let run = ended(client.schedules().run(schedule.id).await).await.unwrap();
                rights(&run)
            }
            GrantFeature::Migrations => {
                let plan = client
                    .migrations()
                    .plan("app", MigrationDirection::Up, MigrationSelection::all(), false)
                    .await
                    .unwrap();
                let run = ended(client.migrations().apply(ApplyRequest::of_plan(&plan)).await).await;
                run.err().into_iter().collect()
            }
            other => panic!("{other:?} is never on request"),
        };
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }
}

/// What [ROLES](../../docs/ROLES.md) says of features that are asked for: without their rights each refusal says how they are come by, and with
/// exactly the rights of that one feature it works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_request_says_how_it_is_allowed_and_then_works() {
    let (cluster, db) = cluster().await;
    // An index of which nine tenths are air, large enough to be worth a rebuild, and rows that nobody vacuums.
    for sql in [
        "SET ROLE app_owner; CREATE TABLE wide (id integer PRIMARY KEY, user_id integer) WITH (autovacuum_enabled = false); \
         INSERT INTO wide SELECT n, n % 20 FROM generate_series(1, 700000) AS n; DELETE FROM wide WHERE id % 10 <> 0; RESET ROLE",
        "ANALYZE wide",
    ] {
        db.execute(sql).await.expect(sql);
    }
    let migrations = tempfile::tempdir().unwrap();
    let script = "ALTER TABLE accounts ADD COLUMN note text;\nCREATE TABLE made (id integer PRIMARY KEY);\n";
    std::fs::write(migrations.path().join("1_made.up.sql"), script).unwrap();
    let owner = Server::start(&cluster.url("app")).await;
    let lean = [GrantFeature::Basis, GrantFeature::Cleanup];
    let script = owner.client.targets().grants("app", ROLE, &lean).await.unwrap().script;
    db.execute(&script).await.unwrap();

    let server = Server::start_with(&as_role(&cluster, "app"), Some(migrations.path())).await;
    // A vacuum that the role may not do is no success without effect.
    let request = RunRequest::new(["twice"]).execute().full_speed().vacuum();
    let run = ended(server.client.cleanup().run(request).await).await.unwrap();
    let said = rights(&run);
    assert!(
        said.iter()
            .any(|text| text.starts_with("VACUUM_FAILED") && text.contains("dbkeep grants")),
        "{said:?}"
    );
    let mut backup = String::new();
    for feature in ON_REQUEST {
        let refused = server.attempt(feature, &mut backup).await.expect_err("refused");
        let advice = if feature == GrantFeature::Monitoring {
            "GRANT "
        } else {
            "dbkeep grants"
        };
        assert!(refused.iter().any(|text| text.contains(advice)), "{feature:?}: {refused:?}");
        assert!(
            refused.iter().all(|text| !text.contains("denied") || text.contains(advice)),
            "{feature:?}: {refused:?}"
        );
        let answer = owner.client.targets().grants("app", ROLE, &[feature]).await.unwrap();
        db.execute(&answer.script).await.unwrap();
        let outcome = server.attempt(feature, &mut backup).await;
        assert_eq!(outcome, Ok(()), "{feature:?}");
        if feature == GrantFeature::Maintenance {
            let small = db
                .fetch_text("SELECT (pg_relation_size('wide_pkey') < 10 * 1024 * 1024)::text")
                .await
                .unwrap();
            assert_eq!(small, [[Some("true".to_owned())]], "the index was rebuilt");
        }
        // What no statement grants, because its owner is powerful, is not taken away either.
        let granted = |grant: &&proto::Grant| grant.feature() == feature && !grant.statement.is_empty();
        for grant in answer.grants.iter().filter(granted) {
            let revoke = revocation(grant);
            db.execute(&revoke).await.expect(&revoke);
        }
    }
    server.end().await;
    owner.end().await;
}

fn names(grants: &[&proto::Grant]) -> BTreeSet<String> {
    grants
        .iter()
        .map(|grant| format!("{} on {}", grant.privilege, grant.object))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_right_that_is_taken_away_is_named_and_no_other() {
    let (cluster, db) = cluster().await;
    let server = Server::start(&cluster.url("app")).await;
    let targets = server.client.targets();
    // Reading everything, as whole backups do, would stand in for nearly every single right: they are looked at after the others.
    let lean = &FEATURES[..4];
    let script = targets.grants("app", ROLE, lean).await.unwrap().script;
    db.execute(&script).await.unwrap();
    let whole = targets.grants("app", ROLE, lean).await.unwrap();
    let of_ours = |grant: &&proto::Grant| lean.contains(&grant.feature());
    let ours: Vec<proto::Grant> = whole.grants.iter().filter(of_ours).cloned().collect();
    assert!(ours.len() > 30 && ours.iter().all(|grant| grant.held), "{ours:?}");
    for grant in &ours {
        let revoke = revocation(grant);
        db.execute(&revoke).await.expect(&revoke);
        let answer = targets.grants("app", ROLE, lean).await.unwrap();
        let missing: Vec<&proto::Grant> = answer.grants.iter().filter(of_ours).filter(|grant| !grant.held).collect();
        let missing = names(&missing);
        let mut expected = names(&[grant]);
        if revoke.starts_with("DROP TABLE") {
            // With the table go the rights on it.
            expected.extend(["INSERT", "SELECT", "DELETE"].map(|right| format!("{right} on table public.archived_users")));
        }
        assert_eq!(missing, expected, "{revoke}");
        db.execute(&script).await.unwrap();
    }
    let of_backups = |answer: &proto::GetGrantsResponse| {
        let of_backups = answer.grants.iter().filter(|grant| grant.feature() == GrantFeature::Backups);
        of_backups.map(|grant| (grant.object.clone(), grant.held)).collect::<Vec<_>>()
    };
    let everything = |held| vec![("role pg_read_all_data".to_owned(), held)];
    assert_eq!(
        of_backups(&whole),
        everything(false),
        "there is a table that the catalog does not name"
    );
    let answer = targets.grants("app", ROLE, &FEATURES).await.unwrap();
    db.execute(&answer.script).await.unwrap();
    assert_eq!(
        of_backups(&targets.grants("app", ROLE, &FEATURES).await.unwrap()),
        everything(true)
    );
    server.end().await;
}

/// Each right of cleanup and undo, taken away in a copy of the database: something does not work without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_right_is_granted_that_is_not_needed() {
    let (cluster, db) = cluster().await;
    let server = Server::start(&cluster.url("app")).await;
    let answer = server
        .client
        .targets()
        .grants("app", ROLE, &[GrantFeature::Cleanup, GrantFeature::Undo])
        .await
        .unwrap();
    db.execute(&answer.script).await.unwrap();
    server.end().await;
    db.close().await;
    let needed = |grant: &&proto::Grant| {
        matches!(grant.feature(), GrantFeature::Cleanup | GrantFeature::Undo) && !grant.statement.starts_with("CREATE TABLE")
    };
    for (number, grant) in answer.grants.iter().filter(needed).enumerate() {
        let copy = format!("copy{number}");
        cluster.create_database_from_template(&copy, "app").await.unwrap();
        let changed = Db::open(&cluster.url(&copy)).await.unwrap();
        let revoke = revocation(grant);
        changed.execute(&revoke).await.expect(&revoke);
        let works = everything(&as_role(&cluster, &copy)).await;
        if grant.privilege == "BYPASSRLS" {
            changed.execute(&grant.statement).await.unwrap();
        }
        changed.close().await;
        assert!(works.is_err(), "without {} on {} all works", grant.privilege, grant.object);
    }
    // And with all of them it does.
    cluster.create_database_from_template("whole", "app").await.unwrap();
    assert_eq!(everything(&as_role(&cluster, "whole")).await, Ok(()));
}

/// Every operation and its undo, up to the first that does not work.
async fn everything(url: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let catalog = CatalogSource::Text {
        name: "catalog.toml".into(),
        text: CATALOG.into(),
    };
    let config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog);
    // A catalog that names what the role cannot see keeps the server from starting.
    let checked = dbkeep_server::check(&config).await.map_err(|error| error.to_string())?;
    if let Some(problem) = &checked[0].unreachable {
        return Err(problem.clone());
    }
    let server = Server::start(url).await;
    let mut outcome = Ok(());
    for operation in OPERATIONS {
        outcome = match server.run(operation).await {
            Ok(run) if run.report.as_ref().is_some_and(|report| report.rows_captured > 0) => server.undo(&run).await,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            break;
        }
    }
    server.end().await;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_says_what_is_missing_also_where_it_makes_a_table_invisible() {
    let (cluster, db) = cluster().await;
    let config = |url: &str| {
        let catalog = CatalogSource::Text {
            name: "catalog.toml".into(),
            text: CATALOG.into(),
        };
        Config::embedded("unused").with_target("app", url, catalog)
    };
    let server = Server::start(&cluster.url("app")).await;
    let script = server.client.targets().grants("app", ROLE, &[]).await.unwrap().script;
    server.end().await;
    db.execute(&script).await.unwrap();
    let checked = dbkeep_server::check(&config(&as_role(&cluster, "app"))).await.unwrap();
    assert_eq!(
        (checked[0].role.as_slice(), checked[0].unreachable.as_deref()),
        (&[][..], None)
    );
    db.execute("REVOKE DELETE ON posts FROM \"Keep\"\"er\"; ALTER ROLE \"Keep\"\"er\" CREATEROLE CREATEDB; GRANT pg_write_all_data TO \"Keep\"\"er\"")
        .await
        .unwrap();
    db.execute("REVOKE pg_write_all_data FROM \"Keep\"\"er\"").await.unwrap();
    let checked = dbkeep_server::check(&config(&as_role(&cluster, "app"))).await.unwrap();
    let said = &checked[0].role;
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].contains("lacks DELETE on table public.posts (cleanup; suspended.users: rows of it go)"),
        "{said:?}"
    );
    assert!(
        said[0].contains("GRANT DELETE ON TABLE \"public\".\"posts\" TO \"Keep\"\"er\";"),
        "{said:?}"
    );
    assert!(said[1].contains("CREATEROLE") && said[2].contains("CREATEDB"), "{said:?}");
    // Without the schema its tables look as if they were not there; the right is named all the same.
    db.execute("REVOKE USAGE ON SCHEMA public FROM \"Keep\"\"er\"").await.unwrap();
    dbkeep_server::check(&config(&as_role(&cluster, "app")))
        .await
        .expect_err("refused");
    let target = dbkeep_server::target::open(&as_role(&cluster, "app")).unwrap();
    let catalog = dbkeep_engine::catalog::Catalog::parse("catalog.toml", CATALOG).unwrap();
    let entry = dbkeep_engine::engine::TargetEntry {
        target,
        catalog: catalog.into(),
        roots: dbkeep_engine::port::Roots::new().into(),
        migrations: None,
    };
    let features = entry.features(false);
    let access = entry.access(None, &features).await.unwrap().expect("it has roles");
    let missing: Vec<String> = access
        .missing(&features)
        .map(|grant| format!("{} on {}", grant.privilege, grant.object))
        .collect();
    assert!(missing.contains(&"USAGE on schema public".to_owned()), "{missing:?}");
    assert!(!missing.iter().any(|name| name.contains("app.events")), "{missing:?}");
    assert!(
        access.notes.iter().any(|note| note.contains("operation suspended")),
        "{:?}",
        access.notes
    );
}

/// Every feature that asks for the rights of owners.
const OF_OWNERS: [GrantFeature; 3] = [GrantFeature::Migrations, GrantFeature::Restores, GrantFeature::Maintenance];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_script_makes_a_member_of_a_role_that_can_do_everything() {
    let (cluster, db) = cluster().await;
    for sql in [
        "CREATE ROLE makes_roles CREATEROLE",
        "CREATE ROLE copies REPLICATION",
        "CREATE ROLE unbound BYPASSRLS",
        "CREATE ROLE runs; GRANT pg_execute_server_program TO runs",
        "CREATE ROLE between; GRANT postgres TO between; CREATE ROLE far; GRANT between TO far",
        "CREATE ROLE plain",
        "CREATE TABLE of_postgres (id integer)",
    ] {
        db.execute(sql).await.expect(sql);
    }
    let powerful = ["makes_roles", "copies", "unbound", "runs", "far"];
    for owner in powerful.iter().chain(&["plain"]) {
        let sql = format!("CREATE TABLE of_{owner} (id integer); ALTER TABLE of_{owner} OWNER TO {owner}");
        db.execute(&sql).await.expect(&sql);
    }
    let server = Server::start(&cluster.url("app")).await;
    let answer = server.client.targets().grants("app", ROLE, &OF_OWNERS).await.unwrap();
    db.execute(&answer.script).await.expect("the script runs");
    for owner in powerful.iter().chain(&["postgres"]) {
        assert!(
            !answer.script.contains(&format!("GRANT \"{owner}\"")),
            "{owner}: {}",
            answer.script
        );
        let is_told = |grant: &&proto::Grant| grant.object == format!("tables of role {owner}");
        let told: Vec<_> = answer.grants.iter().filter(is_told).collect();
        assert!(told.len() >= 2, "{owner}: {:?}", answer.grants);
        assert!(
            told.iter()
                .all(|grant| grant.statement.is_empty() && grant.why.contains("OWNER TO"))
        );
    }
    let of = format!("pg_has_role('{ROLE}', rolname, 'MEMBER')");
    let held = db
        .fetch_text(&format!(
            "SELECT rolname FROM pg_roles WHERE {of} AND (rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls)"
        ))
        .await
        .unwrap();
    assert!(held.is_empty(), "{held:?}");
    let member = db
        .fetch_text(&format!("SELECT pg_has_role('{ROLE}', 'plain', 'MEMBER')::text"))
        .await
        .unwrap();
    assert_eq!(member, [[Some("true".to_owned())]], "other owners are granted");
    // It is still said what is missing, until the tables have another owner.
    let lacks = |answer: &proto::GetGrantsResponse| {
        let lacks = answer
            .grants
            .iter()
            .filter(|grant| !grant.held && grant.feature() == GrantFeature::Migrations);
        lacks.map(|grant| grant.object.clone()).collect::<Vec<_>>()
    };
    let answer = server.client.targets().grants("app", ROLE, &OF_OWNERS).await.unwrap();
    assert_eq!(lacks(&answer).len(), powerful.len() + 1, "{:?}", lacks(&answer));
    for owner in powerful.iter().chain(&["postgres"]) {
        let sql = format!("ALTER TABLE of_{owner} OWNER TO plain");
        db.execute(&sql).await.expect(&sql);
    }
    let answer = server.client.targets().grants("app", ROLE, &OF_OWNERS).await.unwrap();
    assert!(lacks(&answer).is_empty(), "{:?}", lacks(&answer));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_could_become_is_named() {
    let (cluster, db) = cluster().await;
    let server = Server::start(&cluster.url("app")).await;
    let targets = server.client.targets();
    let script = targets.grants("app", ROLE, &[]).await.unwrap().script;
    db.execute(&script).await.unwrap();
    let excess = async || {
        let answer = targets.grants("app", ROLE, &[]).await.unwrap();
        let excess = answer.excess.into_iter();
        excess
            .map(|excess| (excess.what, excess.warning, excess.statement))
            .collect::<Vec<_>>()
    };
    assert!(excess().await.is_empty());
    for sql in [
        // Without its rights being inherited: it can take them all the same.
        "CREATE ROLE makes_roles CREATEROLE; GRANT makes_roles TO \"Keep\"\"er\"; ALTER ROLE \"Keep\"\"er\" NOINHERIT",
        "CREATE ROLE between; GRANT postgres TO between; CREATE ROLE far; GRANT between TO far; GRANT far TO \"Keep\"\"er\"",
        "CREATE ROLE copies REPLICATION BYPASSRLS; GRANT copies TO \"Keep\"\"er\"",
    ] {
        db.execute(sql).await.expect(sql);
    }
    let named = excess().await;
    let revoke = |name: &str| format!("REVOKE \"{name}\" FROM \"Keep\"\"er\"");
    assert_eq!(
        named[..3],
        [
            ("member of copies".to_owned(), true, revoke("copies")),
            ("member of makes_roles".to_owned(), true, revoke("makes_roles")),
            ("member of postgres, through far".to_owned(), true, String::new()),
        ]
    );
    for sql in [revoke("copies"), revoke("makes_roles"), revoke("far")] {
        db.execute(&sql).await.expect(&sql);
    }
    assert!(excess().await.is_empty());
    for (name, warning) in [
        ("pg_execute_server_program", true),
        ("pg_read_all_data", false),
        ("pg_read_server_files", true),
        ("pg_write_all_data", true),
        ("pg_write_server_files", true),
    ] {
        db.execute(&format!("GRANT {name} TO \"Keep\"\"er\"")).await.expect(name);
        assert_eq!(excess().await, [(format!("member of {name}"), warning, revoke(name))]);
        db.execute(&revoke(name)).await.expect(name);
        // The same through a role of no rights of its own.
        db.execute(&format!("CREATE ROLE via; GRANT {name} TO via; GRANT via TO \"Keep\"\"er\""))
            .await
            .expect(name);
        assert_eq!(
            excess().await,
            [(format!("member of {name}, through via"), warning, String::new())]
        );
        db.execute("DROP ROLE via").await.expect(name);
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_says_that_it_has_no_roles() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    std::fs::write(&file, []).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let empty = CatalogSource::Text {
        name: "c".into(),
        text: String::new(),
    };
    let config = Config::embedded(folder.path().join("data")).with_target("app", format!("sqlite://{}", file.display()), empty);
    let task = tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    let client = Client::builder().address(&address).connect().await.unwrap();
    let error = client.targets().grants("app", "", &[]).await.expect_err("refused");
    assert!(matches!(error, dbkeep_client::Error::TargetRefused { .. }), "{error:?}");
    assert!(error.to_string().contains("no roles"), "{error}");
    let seen = client.targets().get("app").await.unwrap();
    assert!(seen.status.role.is_none());
    assert!(!seen.status.capabilities().any(|known| known == proto::Capability::Roles));
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
