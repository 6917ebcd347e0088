//! `BackupService`: making backups, looking at them, proving them, bringing them back, and removing old ones.
//!
//! Owns the typed methods over its RPCs. Putting rows back is [`Runs::undo`](crate::Runs::undo). Made by
//! [`Client::backups`].

use std::time::Duration;

use dbkeep_proto::v1::{
    Backup, Chunk, CreateBackupRequest, GetBackupRequest, GetBackupResponse, ListBackupsRequest, ListBackupsResponse,
    PruneBackupsRequest, PruneBackupsResponse, RestoreBackupRequest, RestoreMode, VerifyBackupRequest,
    backup_service_client::BackupServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tonic::transport::Channel;

use crate::{
    cleanup::wire_duration,
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
    watch::{Opening, RunStream},
};

/// Makes, shows, proves, restores and removes backups.
///
/// ```
/// use dbkeep_client::{BackupQuery, proto::RunState};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let playground = dbkeep_demo::playground().await?;
/// # let client = playground.client.clone();
/// # let plan = client.cleanup().plan(dbkeep_client::PlanRequest::new(["old_logs"])).await?;
/// # client.cleanup().run(dbkeep_client::RunRequest::of_plan(&plan).execute()).await?.finish().await?;
/// let backups = client.backups();
/// for backup in backups.list_all(BackupQuery::default().target("platform")).await? {
///     let proof = backups.verify(backup.id.as_str()).await?.finish().await?;
///     println!("{}: {} rows, sound: {}", backup.id, backup.row_count, proof.state() == RunState::Succeeded);
/// }
/// # assert_eq!(backups.list_all(BackupQuery::default()).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Backups {
    client: Client,
}

/// A backup with its chunks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BackupDetail {
    /// The backup.
    pub backup: Backup,
    /// Its chunks in the order in which they were written.
    pub chunks: Vec<Chunk>,
    /// Whether the list of chunks was cut.
    pub truncated: bool,
}

impl Backups {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn service(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Backups, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub fn list(&self, query: BackupQuery) -> impl Stream<Item = Result<Backup, Error>> + Send + use<> {
        let backups = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = backups.list_page(message.clone()).await?;
                for backup in page.backups {
                    yield backup;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All backups of a query, newest first.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_all(&self, query: BackupQuery) -> Result<Vec<Backup>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_page(&self, message: ListBackupsRequest) -> Result<ListBackupsResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.list_backups(request).await }
        })
        .await
    }

    /// One backup with up to `max_chunks` of its chunks, at most 10,000; 1,000 where 0.
    ///
    /// # Errors
    /// [`Error::UnknownBackup`].
    pub async fn get(&self, id: impl Into<String>, max_chunks: u32) -> Result<BackupDetail, Error> {
        let message = GetBackupRequest {
            id: id.into(),
            max_chunks,
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_backup(request).await }
        });
        let GetBackupResponse {
            backup,
            chunks,
            truncated,
        } = answer.await?;
        let backup = backup.ok_or(Error::Incomplete {
            missing: "GetBackupResponse.backup",
        })?;
        Ok(BackupDetail {
            backup,
            chunks,
            truncated,
        })
    }

    /// Lets the server re-read every chunk and restore the rows into scratch tables, as a run of its own, and follows that.
    /// Takes a backup's id, or a [`VerifyRequest`].
    ///
    /// # Errors
    /// [`Error::UnknownBackup`], [`Error::RunState`], [`Error::RequestIdReused`], [`Error::TargetUnavailable`].
    pub async fn verify(&self, request: impl Into<VerifyRequest>) -> Result<RunStream, Error> {
        RunStream::open(self.client.clone(), Opening::Verify(request.into().message)).await
    }

    /// Lets the server copy whole tables, or the whole database, into its backup folder, and follows that. The run's id becomes the
    /// backup's.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::ToolUnavailable`], [`Error::InvalidField`], [`Error::RequestIdReused`],
    /// [`Error::TargetUnavailable`].
    pub async fn create(&self, request: CreateRequest) -> Result<RunStream, Error> {
        RunStream::open(self.client.clone(), Opening::Backup(request.message)).await
    }

    /// Lets the server bring a backup back, into place or to a scratch place, and follows that.
    ///
    /// # Errors
    /// [`Error::UnknownBackup`], [`Error::BackupPruned`], [`Error::BackupKind`], [`Error::ConfirmationRequired`],
    /// [`Error::TablesNotEmpty`], [`Error::ToolUnavailable`], [`Error::RunAlreadyActive`], [`Error::RunState`],
    /// [`Error::InvalidField`], [`Error::RequestIdReused`], [`Error::TargetUnavailable`].
    pub async fn restore(&self, request: RestoreRequest) -> Result<RunStream, Error> {
        RunStream::open(self.client.clone(), Opening::Restore(request.message)).await
    }

    /// Removes old backups of a target, or tells what would go. It has the time of a plan, since large files go one by one; repeating
    /// it is safe, and finishes what was cut short.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::InvalidField`], [`Error::BackupStorage`], [`Error::TargetUnavailable`].
    pub async fn prune(&self, request: PruneRequest) -> Result<PruneBackupsResponse, Error> {
        retry::unary(&self.client, self.client.plan_timeout(), request.message, |request| {
            let mut service = self.service();
            async move { service.prune_backups(request).await }
        })
        .await
    }
}

/// Which backups to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct BackupQuery {
    message: ListBackupsRequest,
}

impl BackupQuery {
    /// Only backups of this target.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Backups fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, backups: u32) -> Self {
        self.message.page_size = backups;
        self
    }
}

/// What to prove. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct VerifyRequest {
    message: VerifyBackupRequest,
}

impl VerifyRequest {
    /// Proves the backup with this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            message: VerifyBackupRequest {
                request_id: retry::request_id(),
                id: id.into(),
            },
        }
    }

    /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }
}

impl<S: Into<String>> From<S> for VerifyRequest {
    fn from(id: S) -> Self {
        Self::new(id)
    }
}

/// What to save. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct CreateRequest {
    message: CreateBackupRequest,
}

impl CreateRequest {
    /// The whole database of the server's only target.
    #[expect(
        clippy::new_without_default,
        reason = "a default would hide that each one has its own request id"
    )]
    pub fn new() -> Self {
        Self {
            message: CreateBackupRequest {
                request_id: retry::request_id(),
                ..CreateBackupRequest::default()
            },
        }
    }

    /// The target to save; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Only this table; call it again for further ones.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.message.tables.push(table.into());
        self
    }

    /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }
}

/// What to bring back, and where to. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct RestoreRequest {
    message: RestoreBackupRequest,
}

impl RestoreRequest {
    fn of(id: impl Into<String>, mode: RestoreMode) -> Self {
        Self {
            message: RestoreBackupRequest {
                request_id: retry::request_id(),
                id: id.into(),
                mode: mode.into(),
                ..RestoreBackupRequest::default()
            },
        }
    }

    /// To a scratch place that stays, to be looked at.
    pub fn scratch(id: impl Into<String>) -> Self {
        Self::of(id, RestoreMode::Scratch)
    }

    /// Into the target's own tables. `confirm` is typed by whoever wants it: `<target>/<backup id>`.
    pub fn in_place(id: impl Into<String>, confirm: impl Into<String>) -> Self {
        let mut request = Self::of(id, RestoreMode::InPlace);
        request.message.confirm = confirm.into();
        request
    }

    /// Into place: tables that hold rows lose them first.
    pub fn replace(mut self) -> Self {
        self.message.replace = true;
        self
    }

    /// Into place: take a backup of another database than the target is now.
    pub fn other_database(mut self) -> Self {
        self.message.other_database = true;
        self
    }

    /// To a scratch place of this name, rather than one that is made up.
    pub fn scratch_name(mut self, name: impl Into<String>) -> Self {
        self.message.scratch_name = name.into();
        self
    }

    /// Only this table of the backup; call it again for further ones.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.message.tables.push(table.into());
        self
    }

    /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }
}

/// Which backups go; a dry run until told to execute.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct PruneRequest {
    message: PruneBackupsRequest,
}

impl PruneRequest {
    /// Those beyond the newest `backups`.
    pub fn keep_last(mut self, backups: u32) -> Self {
        self.message.keep_last = Some(backups);
        self
    }

    /// Those older than this; with [`keep_last`](Self::keep_last), only where both say so.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.message.older_than = Some(wire_duration(age));
        self
    }

    /// The target whose backups are looked through; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Removes them, instead of only saying what would go.
    pub fn execute(mut self) -> Self {
        self.message.dry_run = Some(false);
        self
    }
}
