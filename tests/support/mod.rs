//! A real server in this process and a database of its own, for tests that go over gRPC.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use dbkeep_client::{Client, PlanRequest, ReconnectPolicy, RunRequest, proto};
use dbkeep_server::Config;
use dbkeep_testkit::{Db, fresh_database};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Which database the target is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Postgres,
    Sqlite,
}

/// Operations on the tables of [`World::new`]: `orphans` (HIGH), `stale` (LOW), `both` (MEDIUM, two overlapping rules).
pub(crate) const CATALOG: &str = r#"
[[operation]]
name = "orphans"
description = "Children without a parent."
category = "ORPHANED_DATA"
severity = "HIGH"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]

[[operation]]
name = "stale"
category = "EXPIRED_DATA"
severity = "LOW"
backup = false

[[operation.rule]]
name = "expired_sessions"
kind = "expired"
table = "session"
column = "expires_at"
expiry = true
encoding = "unix_seconds"

[[operation]]
name = "both"
category = "ORPHANED_DATA"
severity = "MEDIUM"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]

[[operation.rule]]
name = "without_other"
kind = "orphan"
table = "child"
columns = ["other_id"]
parent = "parent"
parent_columns = ["id"]

[[operation]]
name = "dangerous"
category = "ORPHANED_DATA"
severity = "CRITICAL"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]
"#;

/// Name of the target's root, and of its folder beside the catalog: declared where a test has made it before the server starts.
pub(crate) const ROOT: &str = "files";

/// Children, of which every fifth that is not a seventh is an orphan.
pub(crate) const CHILDREN: u64 = 3_000;
/// Orphans among them.
pub(crate) const ORPHANS: u64 = 515;

/// A database and a server.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) catalog: PathBuf,
    pub(crate) address: String,
    pub(crate) client: Client,
    shutdown: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl World {
    /// Tables parent (200 rows), child (3,000; 515 orphans; `other_id` missing for every eleventh), session (500; 200 expired).
    pub(crate) async fn new(database: Database) -> Self {
        Self::with_catalog(database, CATALOG).await
    }

    pub(crate) async fn with_catalog(database: Database, catalog_text: &str) -> Self {
        let (url, folder) = empty(database).await;
        Self::on(url, folder, catalog_text).await
    }

    /// A server over tables of the caller's.
    pub(crate) async fn with_schema(database: Database, schema: &str, catalog_text: &str) -> Self {
        let (url, folder) = empty(database).await;
        let db = Db::open(&url).await.expect("a connection");
        db.execute(schema).await.expect("tables");
        Self::bare(url, folder, catalog_text).await
    }

    /// The same in a database of the caller's.
    pub(crate) async fn on(url: String, folder: tempfile::TempDir, catalog_text: &str) -> Self {
        let db = Db::open(&url).await.expect("a connection");
        db.execute(
            "CREATE TABLE parent (id integer PRIMARY KEY); \
             CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, other_id integer, note text); \
             CREATE TABLE session (id integer PRIMARY KEY, expires_at bigint)",
        )
        .await
        .expect("tables");
        let series = |rows: u64| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
        db.execute(&format!("INSERT INTO parent {} SELECT i FROM n", series(200)))
            .await
            .expect("parents");
        db.execute(&format!(
            "INSERT INTO child {} SELECT i, CASE WHEN i % 7 = 0 THEN NULL WHEN i % 5 = 0 THEN 1000000 + i ELSE 1 + i % 200 END, \
             CASE WHEN i % 11 = 0 THEN 2000000 END, 'note ' || i FROM n",
            series(CHILDREN)
        ))
        .await
        .expect("children");
        db.execute(&format!(
            "INSERT INTO session {} SELECT i, CASE WHEN i <= 200 THEN i WHEN i % 2 = 0 THEN NULL ELSE 99999999999 END FROM n",
            series(500)
        ))
        .await
        .expect("sessions");
        Self::bare(url, folder, catalog_text).await
    }

    /// A server on a database that is left as it is.
    pub(crate) async fn bare(url: String, folder: tempfile::TempDir, catalog_text: &str) -> Self {
        let catalog = folder.path().join("catalog.toml");
        fs::write(&catalog, catalog_text).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        let (shutdown, address, server) = Self::serve(&folder, &url, &catalog, "127.0.0.1:0").await;
        let client = connect(&address).await;
        Self {
            url,
            db,
            folder,
            catalog,
            address,
            client,
            shutdown,
            server: Some(server),
        }
    }

    async fn serve(
        folder: &tempfile::TempDir,
        url: &str,
        catalog: &Path,
        listen: &str,
    ) -> (CancellationToken, String, JoinHandle<()>) {
        let listener = TcpListener::bind(listen).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog.display().to_string());
        let root = folder.path().join(ROOT);
        if root.is_dir() {
            config = config.with_root("app", ROOT, root);
        }
        let shutdown = CancellationToken::new();
        let serving = dbkeep_server::serve(listener, config, shutdown.clone());
        let server = tokio::spawn(async move { serving.await.expect("the server ends in order") });
        (shutdown, address, server)
    }

    /// Shuts the server down in order and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            server.await.expect("the server ends");
        }
    }

    /// Starts it again where it was.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let (shutdown, address, server) = Self::serve(&self.folder, &self.url, &self.catalog, &self.address.clone()).await;
        (self.shutdown, self.address, self.server) = (shutdown, address, Some(server));
    }

    pub(crate) async fn plan(&self, operation: &str) -> proto::Plan {
        self.client
            .cleanup()
            .plan(PlanRequest::new([operation]))
            .await
            .expect("a plan")
    }

    /// Plans, executes at full speed, and waits for the end.
    pub(crate) async fn clean(&self, operation: &str) -> proto::Run {
        let plan = self.plan(operation).await;
        let run = self
            .client
            .cleanup()
            .run(RunRequest::of_plan(&plan).execute().batch_size(100).full_speed())
            .await
            .expect("a run");
        run.finish().await.expect("an end")
    }

    pub(crate) async fn hash(&self, table: &str) -> String {
        self.db.table_hash(table, "id").await.expect("a hash")
    }
}

/// A database with nothing in it, and a folder.
pub(crate) async fn empty(database: Database) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = match database {
        Database::Postgres => fresh_database("e2e").await.expect("a database"),
        Database::Sqlite => {
            let file = folder.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        }
    };
    (url, folder)
}

/// What a server says that does not take its catalog.
pub(crate) async fn refusal(database: Database, schema: &str, catalog: &str) -> String {
    let (url, folder) = empty(database).await;
    let db = Db::open(&url).await.expect("a connection");
    db.execute(schema).await.expect("tables");
    let file = folder.path().join("catalog.toml");
    fs::write(&file, catalog).expect("a catalog");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let config = Config::embedded(folder.path().join("data")).with_target("app", url.as_str(), file.display().to_string());
    let ended = dbkeep_server::serve(listener, config, CancellationToken::new()).await;
    ended.expect_err("the catalog must be refused").to_string()
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A client that keeps its streams over a restart of the server.
pub(crate) async fn connect(address: &str) -> Client {
    Client::builder()
        .address(address)
        .reconnect(ReconnectPolicy::default())
        .connect()
        .await
        .expect("a connection")
}
