//! A server with one operation of each severity on the same table, and calls under any name.

use std::{collections::HashMap, path::PathBuf};

use dbkeep_proto::v1::{self, cleanup_service_client::CleanupServiceClient, run_service_client::RunServiceClient};
use dbkeep_server::{CatalogSource, Config, ServeError, Server};
use dbkeep_testkit::{Db, fresh_database};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

/// Which database the target is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Postgres,
    Sqlite,
}

/// The severities, which are the operations' names too, and what else the catalog says of them.
pub(crate) const SEVERITIES: [&str; 4] = ["LOW", "MEDIUM", "HIGH", "CRITICAL"];
/// Children without a parent among the [`CHILDREN`].
pub(crate) const ORPHANS: u64 = 300;
/// Rows of the table that every operation deletes from.
pub(crate) const CHILDREN: u64 = 2_000;
/// What a plan of the CRITICAL operation asks for.
pub(crate) fn phrase(database: Database) -> String {
    let table = match database {
        Database::Postgres => "public.child",
        Database::Sqlite => "child",
    };
    format!("delete {ORPHANS} rows from {table} on app")
}

/// The catalog: `LOW` to `CRITICAL` delete orphans; `capped` may delete fewer than there are; `other` is about another table.
pub(crate) fn catalog() -> String {
    let rule = |name: &str, keys: &str| {
        format!(
            "[[operation.rule]]\nname = \"{name}\"\nkind = \"orphan\"\ntable = \"child\"\ncolumns = [\"parent_id\"]\n\
             parent = \"parent\"\nparent_columns = [\"id\"]\n{keys}"
        )
    };
    let operation = |name: &str, severity: &str, keys: &str, rules: String| {
        format!(
            "[[operation]]\nname = \"{name}\"\ncategory = \"ORPHANED_DATA\"\nseverity = \"{severity}\"\nbackup = {}\n{keys}{rules}\n",
            severity != "LOW"
        )
    };
    let mut text: String = SEVERITIES
        .iter()
        .map(|severity| operation(severity, severity, "", rule("orphans", "")))
        .collect();
    text += &operation("capped_rule", "MEDIUM", "", rule("orphans", "max_rows = 299\n"));
    let other_column = rule("others", "").replace("[\"parent_id\"]", "[\"other_id\"]");
    text += &operation(
        "capped_together",
        "MEDIUM",
        "max_rows = 320\n",
        rule("orphans", "max_rows = 300\n") + &other_column,
    );
    text += "[[operation]]\nname = \"other\"\ncategory = \"EXPIRED_DATA\"\nseverity = \"LOW\"\nbackup = false\n\
             [[operation.rule]]\nname = \"expired\"\nkind = \"expired\"\ntable = \"session\"\ncolumn = \"expires_at\"\nexpiry = true\n\
             encoding = \"unix_seconds\"\n";
    text
}

/// A refusal, taken apart.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) metadata: HashMap<String, String>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("an ErrorInfo in {status:?}"));
        Self {
            code: status.code(),
            reason: info.reason.clone(),
            metadata: info.metadata.clone(),
        }
    }
}

/// A database and a server.
pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) catalog: String,
    change: fn(&mut Config),
    url: String,
    channel: Channel,
    shutdown: CancellationToken,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl World {
    pub(crate) async fn new(database: Database) -> Self {
        Self::with(database, |_| {}).await
    }

    /// Tables parent (200 rows), child (2,000; 300 orphans, and 25 whose `other_id` names nobody), session (50; 20 expired).
    pub(crate) async fn with(database: Database, change: fn(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = match database {
            Database::Postgres => fresh_database("ladder").await.expect("a database"),
            Database::Sqlite => {
                let file = folder.path().join("app.db");
                std::fs::write(&file, []).expect("an empty database");
                format!("sqlite://{}", file.display())
            }
        };
        let db = Db::open(&url).await.expect("a connection");
        let series = |rows: u64| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
        for sql in [
            "CREATE TABLE parent (id integer PRIMARY KEY)".to_owned(),
            "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, other_id integer, note text)".to_owned(),
            "CREATE TABLE session (id integer PRIMARY KEY, expires_at bigint)".to_owned(),
            format!("INSERT INTO parent {} SELECT i FROM n", series(200)),
            format!(
                "INSERT INTO child {} SELECT i, CASE WHEN i <= {ORPHANS} THEN 1000000 + i ELSE 1 + i % 200 END, \
                 CASE WHEN i > 1975 THEN 2000000 END, 'note ' || i FROM n",
                series(CHILDREN)
            ),
            format!(
                "INSERT INTO session {} SELECT i, CASE WHEN i <= 20 THEN i ELSE 99999999999 END FROM n",
                series(50)
            ),
        ] {
            db.execute(&sql).await.expect("sql");
        }
        let mut world = Self {
            db,
            catalog: catalog(),
            change,
            url,
            channel: Channel::from_static("http://127.0.0.1:1").connect_lazy(),
            shutdown: CancellationToken::new(),
            server: None,
            folder,
        };
        world.start().await.expect("the server starts");
        world
    }

    fn config(&self) -> Config {
        let source = || CatalogSource::Text {
            name: "catalog.toml".into(),
            text: self.catalog.clone(),
        };
        let data = self.folder.path().join("data");
        let mut config = Config::embedded(data)
            .with_target("app", self.url.as_str(), source())
            .with_target("elsewhere", self.url.as_str(), source());
        (self.change)(&mut config);
        config
    }

    /// Starts the server with the catalog and the changes of now.
    pub(crate) async fn start(&mut self) -> Result<(), ServeError> {
        self.shutdown = CancellationToken::new();
        let server = Server::start(self.config(), &self.shutdown).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        self.server = Some(tokio::spawn(server.serve(listener, self.shutdown.clone())));
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URI");
        self.channel = endpoint.connect().await?;
        Ok(())
    }

    /// Stops it in order.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            server.await.expect("no panic").expect("an end in order");
        }
    }

    /// Starts it again, with these changes to the settings.
    pub(crate) async fn restart(&mut self, change: fn(&mut Config)) {
        self.stop().await;
        self.change = change;
        self.start().await.expect("the server starts");
    }

    /// The control store's file.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("data/control.db")
    }

    pub(crate) fn cleanup(&self) -> CleanupServiceClient<Channel> {
        CleanupServiceClient::new(self.channel.clone())
    }

    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn plan(&self, operation: &str) -> v1::Plan {
        let request = v1::PlanCleanupRequest {
            target: "app".into(),
            operations: vec![operation.into()],
        };
        let answer = self.cleanup().plan_cleanup(request).await.expect("a plan");
        answer.into_inner().plan.expect("a plan")
    }

    /// Starts a run; its id, once it is accepted.
    pub(crate) async fn run(&self, principal: &str, request: v1::RunCleanupRequest) -> Result<String, Refusal> {
        let answer = self.cleanup().run_cleanup(by(principal, request)).await?;
        Ok(first_run(answer.into_inner()).await)
    }

    /// Starts a run that has to be accepted, and waits for its end.
    pub(crate) async fn finish(&self, principal: &str, request: v1::RunCleanupRequest) -> v1::Run {
        let id = self.run(principal, request).await.expect("accepted");
        self.end_of(&id).await
    }

    /// A run of the CRITICAL operation by Ann, with everything but an approval; it waits.
    pub(crate) async fn waiting(&self) -> String {
        let plan = self.plan("CRITICAL").await;
        let id = self.run("ann", confirmed(&plan)).await.expect("accepted");
        let run = self.run_of(&id).await;
        assert_eq!(
            (run.state(), run.approvals_required, run.started_by.as_str()),
            (v1::RunState::Queued, 1, "ann")
        );
        id
    }

    pub(crate) async fn run_of(&self, id: &str) -> v1::Run {
        let answer = self
            .runs()
            .get_run(v1::GetRunRequest { id: id.into() })
            .await
            .expect("the run");
        answer.into_inner().run.expect("the run")
    }

    /// Watches a run to its end.
    pub(crate) async fn end_of(&self, id: &str) -> v1::Run {
        let request = v1::WatchRunRequest {
            id: id.into(),
            after_sequence: 0,
        };
        let mut events = self.runs().watch_run(request).await.expect("a stream").into_inner();
        while events.message().await.expect("an event").is_some() {}
        self.run_of(id).await
    }

    /// The events of a run so far that ended.
    pub(crate) async fn approvals_in_log(&self, id: &str) -> Vec<v1::Approved> {
        let request = v1::WatchRunRequest {
            id: id.into(),
            after_sequence: 0,
        };
        let mut events = self.runs().watch_run(request).await.expect("a stream").into_inner();
        let mut approvals = Vec::new();
        while let Some(response) = events.message().await.expect("an event") {
            if let Some(v1::run_event::Event::Approved(approved)) = response.event.and_then(|event| event.event) {
                approvals.push(approved);
            }
        }
        approvals
    }

    pub(crate) async fn approve(&self, principal: &str, id: &str) -> Result<v1::Run, Refusal> {
        self.resolve(principal, id, false).await
    }

    pub(crate) async fn deny(&self, principal: &str, id: &str) -> Result<v1::Run, Refusal> {
        self.resolve(principal, id, true).await
    }

    async fn resolve(&self, principal: &str, id: &str, deny: bool) -> Result<v1::Run, Refusal> {
        let request = v1::ApproveRunRequest {
            id: id.into(),
            deny,
            reason: "because".into(),
        };
        let answer = self.runs().approve_run(by(principal, request)).await?;
        Ok(answer.into_inner().run.expect("the run"))
    }

    /// Asks for a pause, which a run that has just ended refuses.
    pub(crate) async fn pause(&self, id: &str) {
        let request = v1::PauseRunRequest {
            id: id.into(),
            reason: "not now".into(),
            ..Default::default()
        };
        drop(self.runs().pause_run(request).await);
    }

    pub(crate) async fn resume(&self, id: &str) {
        let request = v1::ResumeRunRequest {
            id: id.into(),
            ..Default::default()
        };
        self.runs().resume_run(request).await.expect("resumed");
    }

    pub(crate) async fn decisions(&self, filter: v1::DecisionFilter) -> Vec<v1::Decision> {
        let request = v1::ListDecisionsRequest {
            filter: Some(filter),
            page_size: 500,
            page_token: String::new(),
        };
        let answer = self.runs().list_decisions(request).await.expect("decisions");
        answer.into_inner().decisions
    }

    /// The newest decision.
    pub(crate) async fn last_decision(&self) -> v1::Decision {
        let decisions = self.decisions(v1::DecisionFilter::default()).await;
        decisions.into_iter().next().expect("a decision")
    }

    pub(crate) async fn children(&self) -> String {
        self.db.table_hash("child", "id").await.expect("a hash")
    }

    pub(crate) async fn count(&self) -> u64 {
        self.db.count("child").await.expect("a count")
    }

    /// Makes so many further orphans.
    pub(crate) async fn add_orphans(&self, from: u64, rows: u64) {
        let sql = format!(
            "INSERT INTO child (id, parent_id) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             SELECT {from} + i, 3000000 FROM n"
        );
        self.db.execute(&sql).await.expect("orphans");
    }

    /// What must hold after a refusal: its code and reason, every row in its place, and a record that says the same.
    pub(crate) async fn refused<T: std::fmt::Debug>(
        &self,
        case: &str,
        answer: Result<T, Refusal>,
        expected: (Code, &str),
        by: &str,
        act: v1::DecisionAct,
        before: &str,
    ) -> Refusal {
        let refusal = answer.expect_err(case);
        assert_eq!((refusal.code, refusal.reason.as_str()), expected, "{case}: {refusal:?}");
        assert_eq!(self.children().await, before, "{case}: a row is gone");
        let decision = self.last_decision().await;
        assert_eq!(
            (
                decision.outcome(),
                decision.reason.as_str(),
                decision.principal.as_str(),
                decision.act()
            ),
            (v1::DecisionOutcome::Refused, expected.1, by, act),
            "{case}: {decision:?}"
        );
        assert!(decision.peer.starts_with("127.0.0.1:"), "{case}: {decision:?}");
        refusal
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A request under a name; none for an empty one.
pub(crate) fn by<T>(principal: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !principal.is_empty() {
        request
            .metadata_mut()
            .insert("dbkeep-principal", principal.parse().expect("a header value"));
    }
    request
}

/// A request to delete what an operation finds, without a token.
pub(crate) fn bare(operation: &str) -> v1::RunCleanupRequest {
    v1::RunCleanupRequest {
        target: "app".into(),
        operations: vec![operation.into()],
        options: Some(v1::RunOptions {
            dry_run: Some(false),
            batch_size: Some(100),
            full_speed: true,
            ..v1::RunOptions::default()
        }),
        ..v1::RunCleanupRequest::default()
    }
}

/// The same with a plan's token and phrase.
pub(crate) fn confirmed(plan: &v1::Plan) -> v1::RunCleanupRequest {
    v1::RunCleanupRequest {
        plan_token: plan.token.clone(),
        confirmation_phrase: plan.confirmation_phrase.clone(),
        ..bare(&plan.operations[0])
    }
}

/// The same with changed options.
pub(crate) fn with(request: v1::RunCleanupRequest, change: impl FnOnce(&mut v1::RunOptions)) -> v1::RunCleanupRequest {
    let mut options = request.options.unwrap_or_default();
    change(&mut options);
    v1::RunCleanupRequest {
        options: Some(options),
        ..request
    }
}

async fn first_run(mut events: Streaming<v1::RunCleanupResponse>) -> String {
    let first = events.message().await.expect("a message").expect("an event");
    first.event.expect("an event").run_id
}
