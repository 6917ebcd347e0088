//! `BackupService`: making backups, looking at them, proving them, bringing them back, and removing old ones. Called by tonic.

use dbkeep_engine::{
    Engine,
    engine::backups::{PruneRule, RestoreRequest},
};
use dbkeep_proto::v1::{self, backup_service_server::BackupService};
use tonic::{Request, Response, Status};

use super::{
    convert, detached,
    gate::{caller_of, deadline_of, scope_of},
    page::{Pages, seen},
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
        let scope = scope_of(&request);
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
        let target = Some(target)
            .filter(|target| !target.is_empty())
            .or_else(|| scope.only().map(str::to_owned));
        let fetch = |before, limit| {
            let (engine, target) = (self.engine.clone(), target.clone());
            detached(async move { engine.backups(target.as_deref(), before, limit).await })
        };
        let mut backups = seen(
            size,
            before,
            fetch,
            |backup| backup.run,
            |backup| scope.covers(&backup.target),
        )
        .await?;
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
        Ok(events.answer(|event| v1::VerifyBackupResponse { event: Some(event) }))
    }

    type CreateBackupStream = EventStream<v1::CreateBackupResponse>;

    async fn create_backup(
        &self,
        request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let deadline = deadline_of(&request);
        let v1::CreateBackupRequest {
            request_id,
            target,
            tables,
        } = request.into_inner();
        let mut check = Check::default();
        check.request_id(&request_id);
        check.tables(&tables);
        check.finish()?;
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.create_backup(&request_id, &target, &tables).await }).await?;
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(events.answer(|event| v1::CreateBackupResponse { event: Some(event) }))
    }

    type RestoreBackupStream = EventStream<v1::RestoreBackupResponse>;

    async fn restore_backup(
        &self,
        request: Request<v1::RestoreBackupRequest>,
    ) -> Result<Response<Self::RestoreBackupStream>, Status> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        check.present("id", &request.id, "the id of a backup");
        check.request_id(&request.request_id);
        check.tables(&request.tables);
        let in_place = match request.mode() {
            v1::RestoreMode::InPlace => true,
            v1::RestoreMode::Scratch => false,
            v1::RestoreMode::Unspecified => {
                check.refuse(
                    "mode",
                    "is unspecified; expected RESTORE_MODE_IN_PLACE or RESTORE_MODE_SCRATCH",
                );
                false
            }
        };
        if in_place && !request.scratch_name.is_empty() {
            check.refuse("scratch_name", "is given for a restore into place; expected it empty");
        }
        if !in_place && request.other_database {
            check.refuse("other_database", "is for restores into place; expected it absent");
        }
        if !in_place && (request.replace || !request.confirm.is_empty()) {
            check.refuse("replace", "and confirm are for restores into place; expected them absent");
        }
        check.finish()?;
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let order = RestoreRequest {
            request_id: request.request_id,
            backup: request.id,
            in_place,
            tables: request.tables,
            scratch_name: request.scratch_name,
            replace: request.replace,
            other_database: request.other_database,
            confirm: request.confirm,
        };
        let run = detached(async move { engine.restore_backup(&order).await }).await?;
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(events.answer(|event| v1::RestoreBackupResponse { event: Some(event) }))
    }

    async fn prune_backups(
        &self,
        request: Request<v1::PruneBackupsRequest>,
    ) -> Result<Response<v1::PruneBackupsResponse>, Status> {
        let v1::PruneBackupsRequest {
            target,
            keep_last,
            older_than,
            dry_run,
        } = request.into_inner();
        let mut check = Check::default();
        let older_than = older_than.and_then(|age| check.age("older_than", &age));
        check.finish()?;
        let rule = PruneRule {
            keep_last,
            older_than,
            dry_run: dry_run.unwrap_or(true),
        };
        let engine = self.engine.clone();
        let outcomes = detached(async move { engine.prune_backups(&target, rule).await }).await?;
        Ok(Response::new(v1::PruneBackupsResponse {
            freed_bytes: outcomes.iter().map(|outcome| outcome.freed_bytes).sum(),
            backups: outcomes.into_iter().map(convert::backup::pruned).collect(),
            dry_run: rule.dry_run,
        }))
    }
}
