//! `BackupService`: looking at backups and proving them. Called by tonic.

use dbkeep_engine::Engine;
use dbkeep_proto::v1::{self, backup_service_server::BackupService};
use tonic::{Request, Response, Status};

use super::{
    convert, detached,
    gate::deadline_of,
    page::Pages,
    principal::caller_of,
    stream::{EventStream, Streams},
    validate::Check,
};

/// The service.
#[derive(Clone)]
pub(super) struct Backups {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

#[tonic::async_trait]
impl BackupService for Backups {
    async fn list_backups(&self, request: Request<v1::ListBackupsRequest>) -> Result<Response<v1::ListBackupsResponse>, Status> {
        let v1::ListBackupsRequest {
            target,
            page_size,
            page_token,
        } = request.into_inner();
        let pages = Pages::of("backups", &target);
        let mut check = Check::default();
        let size = check.page_size(page_size);
        let before = pages.after(&page_token, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let target = (!target.is_empty()).then_some(target);
        let mut backups = detached(async move { engine.backups(target.as_deref(), before, size + 1).await }).await?;
        let next_page_token = pages.cut(&mut backups, size, |backup| backup.run);
        Ok(Response::new(v1::ListBackupsResponse {
            backups: backups.into_iter().map(convert::backup::backup).collect(),
            next_page_token,
        }))
    }

    async fn get_backup(&self, request: Request<v1::GetBackupRequest>) -> Result<Response<v1::GetBackupResponse>, Status> {
        let v1::GetBackupRequest { id, max_chunks } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a backup");
        let limit = check.max_chunks(max_chunks);
        check.finish()?;
        let engine = self.engine.clone();
        // One more than asked for tells whether the list was cut.
        let (backup, mut entries) = detached(async move { engine.backup(&id, limit + 1).await }).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let truncated = entries.len() > limit;
        entries.truncate(limit);
        let chunks = entries.into_iter().filter_map(convert::backup::chunk).collect();
        Ok(Response::new(v1::GetBackupResponse {
            backup: Some(convert::backup::backup(backup)),
            chunks,
            truncated,
        }))
    }

    type VerifyBackupStream = EventStream<v1::VerifyBackupResponse>;

    async fn verify_backup(
        &self,
        request: Request<v1::VerifyBackupRequest>,
    ) -> Result<Response<Self::VerifyBackupStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let v1::VerifyBackupRequest { request_id, id } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a backup");
        check.request_id(&request_id);
        check.finish()?;
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.verify(&request_id, &id, &caller).await }).await?;
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(Response::new(
            events.wrap(|event| v1::VerifyBackupResponse { event: Some(event) }),
        ))
    }
}
