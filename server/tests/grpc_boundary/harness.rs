//! A server of its own for each test, with clients.

use std::{collections::HashMap, time::Duration};

use dbkeep_proto::v1::{
    self, backup_service_client::BackupServiceClient, cleanup_service_client::CleanupServiceClient,
    run_service_client::RunServiceClient, target_service_client::TargetServiceClient,
};
use dbkeep_server::Config;
use dbkeep_testkit::Db;
use tonic::{Code, Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::serving::{Serving, catalog};

/// Longest wait for anything; only a failing test takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Expired rows in the target's table.
pub(crate) const EXPIRED: u64 = 40;

pub(crate) const CATALOG: &str = r#"
[[operation]]
name = "expired_tokens"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"

[[operation]]
name = "old_tokens"
category = "LOGS"
severity = "MEDIUM"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
retention = "P1Y"
encoding = "unix_seconds"
"#;

/// A running server.
pub(crate) struct TestServer {
    pub(crate) channel: Channel,
    pub(crate) serving: Serving,
    pub(crate) database: String,
    _folder: tempfile::TempDir,
}

impl TestServer {
    /// A server with the target `app`, whose table holds [`EXPIRED`] expired rows and as many that live.
    pub(crate) async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// A server that accepts runs and never takes one up, so that they stay queued.
    pub(crate) async fn idle() -> Self {
        Self::with(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await
    }

    pub(crate) async fn with(change: impl FnOnce(Config) -> Config) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let database = format!("sqlite://{}", folder.path().join("app.db").display());
        let db = Db::open(&format!("{database}?mode=rwc")).await.expect("a database");
        let rows = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {EXPIRED})");
        for sql in [
            "CREATE TABLE tokens (id INTEGER PRIMARY KEY, expires_at INTEGER)".to_owned(),
            format!("INSERT INTO tokens {rows} SELECT i, 1000 FROM n"),
            format!("INSERT INTO tokens {rows} SELECT i + 1000, 9000000000 FROM n"),
        ] {
            db.execute(&sql).await.expect("sql");
        }
        db.close().await;
        let config = Config::embedded(folder.path().join("data")).with_target("app", database.as_str(), catalog(CATALOG));
        let mut serving = Serving::start(change(config)).await;
        let channel = serving.channel().await;
        // A connection may be waiting in the listener's queue; an answer means that the server serves.
        let mut targets = TargetServiceClient::new(channel.clone());
        targets.list_targets(v1::ListTargetsRequest {}).await.expect("an answer");
        Self {
            channel,
            serving,
            database,
            _folder: folder,
        }
    }

    pub(crate) fn targets(&self) -> TargetServiceClient<Channel> {
        TargetServiceClient::new(self.channel.clone())
    }

    pub(crate) fn cleanup(&self) -> CleanupServiceClient<Channel> {
        CleanupServiceClient::new(self.channel.clone())
    }

    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone())
    }

    pub(crate) fn backups(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.channel.clone())
    }

    /// Starts a run that deletes; its id, and its stream after the first event.
    pub(crate) async fn run(&self, request_id: &str) -> (String, tonic::Streaming<v1::RunCleanupResponse>) {
        let mut events = self
            .cleanup()
            .run_cleanup(executing(request_id))
            .await
            .expect("a run")
            .into_inner();
        let first = events
            .message()
            .await
            .expect("a message")
            .expect("an event")
            .event
            .expect("an event");
        (first.run_id, events)
    }

    /// Stops the server and waits for it.
    pub(crate) async fn stop(self) {
        self.serving.stop().await;
    }
}

/// A request that deletes.
pub(crate) fn executing(request_id: &str) -> v1::RunCleanupRequest {
    v1::RunCleanupRequest {
        request_id: request_id.into(),
        operations: vec!["expired_tokens".into()],
        options: Some(v1::RunOptions {
            dry_run: Some(false),
            batch_size: Some(10),
            ..v1::RunOptions::default()
        }),
        ..v1::RunCleanupRequest::default()
    }
}

/// A refusal, taken apart.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) details: ErrorDetails,
}

impl Refusal {
    pub(crate) fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("an ErrorInfo in {status:?}"));
        assert_eq!(info.domain, "dbkeep");
        Self {
            code: status.code(),
            reason: info.reason.clone(),
            metadata: info.metadata.clone(),
            details: details.clone(),
        }
    }

    /// Paths of the violated fields.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let violations = self
            .details
            .bad_request()
            .map(|request| request.field_violations.as_slice())
            .unwrap_or_default();
        violations.iter().map(|violation| violation.field.as_str()).collect()
    }
}

/// The refusal of a call that must fail.
pub(crate) fn refused<T>(result: Result<T, Status>) -> Refusal {
    match result {
        Ok(_) => panic!("the call must be refused"),
        Err(status) => Refusal::of(&status),
    }
}
