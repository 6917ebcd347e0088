//! `BackupService`: looking at the rows that runs captured, and proving them.
//!
//! Owns the typed methods over its RPCs. Putting rows back is [`Runs::undo`](crate::Runs::undo). Made by
//! [`Client::backups`].

use dbkeep_proto::v1::{
    Backup, Chunk, GetBackupRequest, GetBackupResponse, ListBackupsRequest, ListBackupsResponse, VerifyBackupRequest,
    backup_service_client::BackupServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
    watch::{Opening, RunStream},
};

/// Looks at backups and proves them.
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
