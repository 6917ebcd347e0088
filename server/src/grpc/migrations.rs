//! `MigrationService`: a folder of migrations as it stands on a target, planned, rehearsed, applied, rolled back. Called by tonic.

use dbkeep_engine::{
    Engine,
    engine::migrations::{MigrateRequest, MigrationStatus},
    migration::plan::{MigrationPlan, Selection},
    model::{Direction, MigrationOptions},
};
use dbkeep_proto::v1::{self, migration_service_server::MigrationService};
use futures::StreamExt as _;
use tonic::{Request, Response, Status};

use super::{
    convert::{migration as convert, sample::sample},
    detached,
    gate::{caller_of, deadline_of},
    stream::{EventStream, Streams},
    validate::Check,
};

/// Migrations on a page where the caller does not say.
const PAGE: u32 = 200;
/// Most migrations on a page.
const LARGEST_PAGE: u32 = 1_000;

/// The service.
#[derive(Clone)]
pub(super) struct Migrations {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

/// A stream whose first message is the plan.
type Planned<T> = std::pin::Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

impl Migrations {
    async fn status_of(&self, target: String) -> Result<MigrationStatus, Status> {
        let engine = self.engine.clone();
        Ok(detached(async move { engine.migration_status(&target).await }).await?)
    }

    async fn planned(
        &self,
        target: String,
        direction: Direction,
        selection: Selection,
        backup: bool,
        from_backup: Option<String>,
    ) -> Result<(MigrationStatus, MigrationPlan), Status> {
        let engine = self.engine.clone();
        if let Some(from) = from_backup {
            return Ok(detached(async move { engine.plan_rewind(&target, &selection, &from).await }).await?);
        }
        Ok(detached(async move { engine.plan_migrations(&target, direction, &selection, backup).await }).await?)
    }
}

fn apply_plan(status: &MigrationStatus, plan: &MigrationPlan) -> v1::ApplyMigrationsResponse {
    v1::ApplyMigrationsResponse {
        plan: Some(convert::plan(status, plan)),
        event: None,
    }
}

/// The backup to go back to, where that is asked for; empty for the one before the oldest of the migrations. What contradicts itself is
/// noted in `check`.
fn from_backup(wanted: bool, id: String, selection: &Selection, check: &mut Check) -> Option<String> {
    if !wanted {
        if !id.is_empty() {
            check.refuse("backup_id", "is given without from_backup; expected both, or neither");
        }
        return None;
    }
    if id.is_empty() && *selection == Selection::All {
        check.refuse(
            "selection",
            "is empty, and so is backup_id; expected one of them: taking everything back is nobody's default",
        );
    }
    Some(id)
}

fn rollback_plan(status: &MigrationStatus, plan: &MigrationPlan) -> v1::RollbackMigrationsResponse {
    v1::RollbackMigrationsResponse {
        plan: Some(convert::plan(status, plan)),
        event: None,
    }
}

#[tonic::async_trait]
impl MigrationService for Migrations {
    async fn get_migration_status(
        &self,
        request: Request<v1::GetMigrationStatusRequest>,
    ) -> Result<Response<v1::GetMigrationStatusResponse>, Status> {
        let status = self.status_of(request.into_inner().target).await?;
        Ok(Response::new(v1::GetMigrationStatusResponse {
            status: Some(convert::status(&status)),
        }))
    }

    async fn list_migrations(
        &self,
        request: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        let v1::ListMigrationsRequest {
            target,
            states,
            page_size,
            page_token,
        } = request.into_inner();
        let mut check = Check::default();
        let wanted = convert::states(&states, &mut check);
        if page_size > LARGEST_PAGE {
            check.refuse(
                "page_size",
                format!("is {page_size}; expected 1 to {LARGEST_PAGE}, or 0 for {PAGE}"),
            );
        }
        check.finish()?;
        let size = usize::try_from(if page_size == 0 { PAGE } else { page_size }).unwrap_or(usize::MAX);
        let status = self.status_of(target).await?;
        let mut migrations: Vec<v1::Migration> = status
            .standings
            .items
            .iter()
            .map(|item| convert::item(&status, item))
            .filter(|migration| wanted.is_empty() || wanted.contains(&migration.state()))
            .collect();
        // A token is the id of the last migration of the page before: the order is the folder's, and goes on after it.
        if !page_token.is_empty() {
            let Some(last) = migrations.iter().position(|migration| migration.id == page_token) else {
                let mut check = Check::default();
                check.refuse(
                    "page_token",
                    "is of no page of this list; expected the next_page_token of the page before",
                );
                check.finish()?;
                return Ok(Response::new(v1::ListMigrationsResponse::default()));
            };
            migrations.drain(..=last);
        }
        let more = migrations.len() > size;
        migrations.truncate(size);
        let next_page_token = match migrations.last() {
            Some(last) if more => last.id.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListMigrationsResponse {
            migrations,
            next_page_token,
        }))
    }

    async fn get_migration(
        &self,
        request: Request<v1::GetMigrationRequest>,
    ) -> Result<Response<v1::GetMigrationResponse>, Status> {
        let v1::GetMigrationRequest { target, id } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id, version or name of a migration");
        check.finish()?;
        let engine = self.engine.clone();
        let view = detached(async move { engine.migration(&target, &id).await }).await?;
        Ok(Response::new(convert::view(&view)))
    }

    async fn plan_migrations(
        &self,
        request: Request<v1::PlanMigrationsRequest>,
    ) -> Result<Response<v1::PlanMigrationsResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::default();
        let direction = match v1::MigrationDirection::try_from(request.direction) {
            Ok(v1::MigrationDirection::Down) => Direction::Down,
            Ok(v1::MigrationDirection::Up | v1::MigrationDirection::Unspecified) => Direction::Up,
            Err(_) => {
                check.refuse("direction", format!("is {}; expected a direction", request.direction));
                Direction::Up
            }
        };
        let selection = convert::selection(request.selection, &mut check);
        let from_backup = from_backup(request.from_backup, request.backup_id, &selection, &mut check);
        if from_backup.is_some() && direction == Direction::Up {
            check.refuse(
                "from_backup",
                "is set with a plan forwards; expected direction MIGRATION_DIRECTION_DOWN",
            );
        }
        check.finish()?;
        let (status, plan) = self
            .planned(request.target, direction, selection, request.backup, from_backup)
            .await?;
        Ok(Response::new(v1::PlanMigrationsResponse {
            plan: Some(convert::plan(&status, &plan)),
        }))
    }

    type TestMigrationStream = EventStream<v1::TestMigrationResponse>;

    async fn test_migration(
        &self,
        request: Request<v1::TestMigrationRequest>,
    ) -> Result<Response<Self::TestMigrationStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let copy = v1::RehearsalCopy::try_from(request.copy).unwrap_or_else(|_| {
            check.refuse("copy", format!("is {}; expected WHOLE or SCHEMA_ONLY", request.copy));
            v1::RehearsalCopy::Whole
        });
        check.request_id(&request.request_id);
        let order = MigrateRequest {
            request_id: request.request_id,
            target: request.target,
            selection: convert::selection(request.selection, &mut check),
            token: String::new(),
            backup: false,
            from_backup: None,
            phrase: String::new(),
            in_effect: request.applied,
            schema_only: copy == v1::RehearsalCopy::SchemaOnly,
            sample: sample(request.sample, &mut check),
            options: convert::options(request.options, &mut check),
            caller,
        };
        check.finish()?;
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.test_migrations(&order).await }).await?;
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(events.answer(|event| v1::TestMigrationResponse { event: Some(event) }))
    }

    type ApplyMigrationsStream = Planned<v1::ApplyMigrationsResponse>;

    async fn apply_migrations(
        &self,
        request: Request<v1::ApplyMigrationsRequest>,
    ) -> Result<Response<Self::ApplyMigrationsStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        check.request_id(&request.request_id);
        let order = MigrateRequest {
            request_id: request.request_id,
            target: request.target,
            selection: convert::selection(request.selection, &mut check),
            token: request.plan_token,
            backup: request.backup,
            from_backup: None,
            phrase: String::new(),
            in_effect: false,
            schema_only: false,
            sample: None,
            options: convert::options(request.options, &mut check),
            caller,
        };
        check.finish()?;
        if request.dry_run.unwrap_or(true) {
            let (status, plan) = self
                .planned(
                    order.target.clone(),
                    Direction::Up,
                    order.selection.clone(),
                    order.backup,
                    None,
                )
                .await?;
            let first = apply_plan(&status, &plan);
            return Ok(Response::new(futures::stream::once(async move { Ok(first) }).boxed()));
        }
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let (run, planned) = detached(async move { engine.apply_migrations(&order).await }).await?;
        // A call that repeats an accepted request has no plan any more: what it planned may be done.
        let first = futures::stream::iter(planned.map(|(status, plan)| Ok(apply_plan(&status, &plan))));
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        let outcome = events.outcome();
        let events = events.wrap(|event| v1::ApplyMigrationsResponse {
            plan: None,
            event: Some(event),
        });
        let mut answer = Response::new(first.chain(events).boxed());
        answer.extensions_mut().insert(outcome);
        Ok(answer)
    }

    type RollbackMigrationsStream = Planned<v1::RollbackMigrationsResponse>;

    async fn rollback_migrations(
        &self,
        request: Request<v1::RollbackMigrationsRequest>,
    ) -> Result<Response<Self::RollbackMigrationsStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        check.request_id(&request.request_id);
        let selection = convert::selection(request.selection, &mut check);
        if selection == Selection::All && !request.from_backup {
            check.refuse(
                "selection",
                "is empty; expected steps, to or migrations: taking everything back is nobody's default",
            );
        }
        let from_backup = from_backup(request.from_backup, request.backup_id, &selection, &mut check);
        if from_backup.is_none() && !request.confirmation_phrase.is_empty() {
            check.refuse(
                "confirmation_phrase",
                "is given without from_backup; expected none: scripts need no phrase",
            );
        }
        if from_backup.is_none() && request.other_database {
            check.refuse("other_database", "is set without from_backup; expected both, or neither");
        }
        if from_backup.is_some() && request.unproven {
            check.refuse(
                "unproven",
                "is set with from_backup; expected one of them: no script is executed",
            );
        }
        let order = MigrateRequest {
            request_id: request.request_id,
            target: request.target,
            selection,
            token: request.plan_token,
            backup: true,
            from_backup,
            phrase: request.confirmation_phrase,
            in_effect: false,
            schema_only: false,
            sample: None,
            options: MigrationOptions {
                unproven: request.unproven,
                other_database: request.other_database,
                ..convert::options(request.options, &mut check)
            },
            caller,
        };
        check.finish()?;
        if request.dry_run.unwrap_or(true) {
            let (status, plan) = self
                .planned(
                    order.target.clone(),
                    Direction::Down,
                    order.selection.clone(),
                    true,
                    order.from_backup.clone(),
                )
                .await?;
            let first = rollback_plan(&status, &plan);
            return Ok(Response::new(futures::stream::once(async move { Ok(first) }).boxed()));
        }
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let (run, planned) = detached(async move { engine.rollback_migrations(&order).await }).await?;
        // A call that repeats an accepted request has no plan any more: what it planned may be done.
        let first = futures::stream::iter(planned.map(|(status, plan)| Ok(rollback_plan(&status, &plan))));
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        let outcome = events.outcome();
        let events = events.wrap(|event| v1::RollbackMigrationsResponse {
            plan: None,
            event: Some(event),
        });
        let mut answer = Response::new(first.chain(events).boxed());
        answer.extensions_mut().insert(outcome);
        Ok(answer)
    }

    async fn repair_ledger(
        &self,
        request: Request<v1::RepairLedgerRequest>,
    ) -> Result<Response<v1::RepairLedgerResponse>, Status> {
        let caller = caller_of(&request);
        let v1::RepairLedgerRequest { target, id, action } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id, version or name of a migration");
        let action = convert::repair_action_of(action, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let repair = detached(async move { engine.repair_ledger(&target, &id, action, &caller).await }).await?;
        Ok(Response::new(convert::repair(repair)))
    }

    async fn baseline_migrations(
        &self,
        request: Request<v1::BaselineMigrationsRequest>,
    ) -> Result<Response<v1::BaselineMigrationsResponse>, Status> {
        let caller = caller_of(&request);
        let v1::BaselineMigrationsRequest { target, selection } = request.into_inner();
        let mut check = Check::default();
        let selection = convert::selection(selection, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let ids = detached(async move { engine.baseline_migrations(&target, &selection, &caller).await }).await?;
        Ok(Response::new(v1::BaselineMigrationsResponse {
            ids: ids.into_iter().map(|id| id.0).collect(),
        }))
    }

    async fn draft_migration(
        &self,
        request: Request<v1::DraftMigrationRequest>,
    ) -> Result<Response<v1::DraftMigrationResponse>, Status> {
        let v1::DraftMigrationRequest { target, name } = request.into_inner();
        let mut check = Check::default();
        check.present("name", &name, "what the migration is about");
        check.finish()?;
        let engine = self.engine.clone();
        let (layout, files) = detached(async move { engine.draft_migration(&target, &name).await }).await?;
        Ok(Response::new(v1::DraftMigrationResponse {
            layout: layout.name().to_owned(),
            files: files.into_iter().map(convert::draft).collect(),
        }))
    }
}
