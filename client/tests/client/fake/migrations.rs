//! The service of migrations of the fake server.
//!
//! Owns what it was asked, and the plan that comes before the events of a run.

use dbkeep_client::proto::{self, migration_service_server::MigrationService};
use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Request, Response, Status};

use super::{Call, Fake};

/// What the service was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Migrating {
    Status,
    Plan {
        direction: i32,
        migrations: Vec<String>,
    },
    Test {
        request_id: String,
    },
    Apply {
        request_id: String,
        token: String,
        migrations: Vec<String>,
        dry_run: Option<bool>,
    },
    Rollback {
        request_id: String,
        unproven: bool,
        dry_run: Option<bool>,
    },
    Repair {
        action: i32,
    },
    Baseline {
        migrations: Vec<String>,
    },
    Draft {
        name: String,
    },
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

fn names(selection: Option<proto::MigrationSelection>) -> Vec<String> {
    selection.unwrap_or_default().migrations
}

/// The plan in the first message, and the events in those after it.
macro_rules! planned {
    ($fake:expr, $events:expr, $response:ident) => {{
        let plan = proto::$response {
            plan: Some($fake.state().migration_plan.clone()),
            event: None,
        };
        let events = $events.map(|event| {
            event.map(|event| proto::$response {
                plan: None,
                event: Some(event),
            })
        });
        Ok(Response::new(futures::stream::iter([Ok(plan)]).chain(events).boxed()))
    }};
}

#[tonic::async_trait]
impl MigrationService for Fake {
    async fn get_migration_status(
        &self,
        _: Request<proto::GetMigrationStatusRequest>,
    ) -> Result<Response<proto::GetMigrationStatusResponse>, Status> {
        self.unary(Call::Migrations(Migrating::Status)).await?;
        let plan = self.state().migration_plan.clone();
        let status = proto::MigrationStatus {
            target: "main".into(),
            layout: "sqlx".into(),
            problems: plan.problems,
            ..Default::default()
        };
        Ok(Response::new(proto::GetMigrationStatusResponse { status: Some(status) }))
    }

    /// Three migrations, two on a page.
    async fn list_migrations(
        &self,
        request: Request<proto::ListMigrationsRequest>,
    ) -> Result<Response<proto::ListMigrationsResponse>, Status> {
        let first: usize = request.get_ref().page_token.parse().unwrap_or(0);
        let migrations = (first..3).take(2).map(|id| proto::Migration {
            id: id.to_string(),
            state: proto::MigrationState::Pending.into(),
            ..Default::default()
        });
        Ok(Response::new(proto::ListMigrationsResponse {
            migrations: migrations.collect(),
            next_page_token: if first == 0 { "2".into() } else { String::new() },
        }))
    }

    async fn get_migration(
        &self,
        request: Request<proto::GetMigrationRequest>,
    ) -> Result<Response<proto::GetMigrationResponse>, Status> {
        let migration = proto::Migration {
            id: request.into_inner().id,
            up_file: "3.up.sql".into(),
            ..Default::default()
        };
        Ok(Response::new(proto::GetMigrationResponse {
            migration: Some(migration),
            up: vec![proto::PlannedStatement {
                line: 7,
                sql: "SELECT 1".into(),
                ..Default::default()
            }],
            ..Default::default()
        }))
    }

    async fn plan_migrations(
        &self,
        request: Request<proto::PlanMigrationsRequest>,
    ) -> Result<Response<proto::PlanMigrationsResponse>, Status> {
        let request = request.into_inner();
        self.unary(Call::Migrations(Migrating::Plan {
            direction: request.direction,
            migrations: names(request.selection),
        }))
        .await?;
        Ok(Response::new(proto::PlanMigrationsResponse {
            plan: Some(self.state().migration_plan.clone()),
        }))
    }

    type TestMigrationStream = Stream<proto::TestMigrationResponse>;

    async fn test_migration(
        &self,
        request: Request<proto::TestMigrationRequest>,
    ) -> Result<Response<Self::TestMigrationStream>, Status> {
        let events = self.stream(Call::Migrations(Migrating::Test {
            request_id: request.into_inner().request_id,
        }))?;
        let events = events.map(|event| Ok(proto::TestMigrationResponse { event: Some(event?) }));
        Ok(Response::new(events.boxed()))
    }

    type ApplyMigrationsStream = Stream<proto::ApplyMigrationsResponse>;

    async fn apply_migrations(
        &self,
        request: Request<proto::ApplyMigrationsRequest>,
    ) -> Result<Response<Self::ApplyMigrationsStream>, Status> {
        let request = request.into_inner();
        let events = self.stream(Call::Migrations(Migrating::Apply {
            request_id: request.request_id,
            token: request.plan_token,
            migrations: names(request.selection),
            dry_run: request.dry_run,
        }))?;
        planned!(self, events, ApplyMigrationsResponse)
    }

    type RollbackMigrationsStream = Stream<proto::RollbackMigrationsResponse>;

    async fn rollback_migrations(
        &self,
        request: Request<proto::RollbackMigrationsRequest>,
    ) -> Result<Response<Self::RollbackMigrationsStream>, Status> {
        let request = request.into_inner();
        let events = self.stream(Call::Migrations(Migrating::Rollback {
            request_id: request.request_id,
            unproven: request.unproven,
            dry_run: request.dry_run,
        }))?;
        planned!(self, events, RollbackMigrationsResponse)
    }

    async fn repair_ledger(
        &self,
        request: Request<proto::RepairLedgerRequest>,
    ) -> Result<Response<proto::RepairLedgerResponse>, Status> {
        let request = request.into_inner();
        self.unary(Call::Migrations(Migrating::Repair { action: request.action }))
            .await?;
        Ok(Response::new(proto::RepairLedgerResponse {
            id: request.id,
            explanation: vec!["it stopped at line 7".into()],
            proposals: vec![proto::RepairProposal {
                action: proto::RepairAction::MarkApplied.into(),
                effect: "all of it counts as in effect".into(),
            }],
            done: request.action,
        }))
    }

    async fn baseline_migrations(
        &self,
        request: Request<proto::BaselineMigrationsRequest>,
    ) -> Result<Response<proto::BaselineMigrationsResponse>, Status> {
        let migrations = names(request.into_inner().selection);
        self.unary(Call::Migrations(Migrating::Baseline {
            migrations: migrations.clone(),
        }))
        .await?;
        Ok(Response::new(proto::BaselineMigrationsResponse { ids: migrations }))
    }

    async fn draft_migration(
        &self,
        request: Request<proto::DraftMigrationRequest>,
    ) -> Result<Response<proto::DraftMigrationResponse>, Status> {
        let name = request.into_inner().name;
        self.unary(Call::Migrations(Migrating::Draft { name: name.clone() })).await?;
        // Somebody who asks for this name is answered as no honest server would.
        let path = if name == "hostile" {
            "../hostile.sql".to_owned()
        } else {
            format!("4_{name}.sql")
        };
        Ok(Response::new(proto::DraftMigrationResponse {
            layout: "sqlx".into(),
            files: vec![proto::DraftFile {
                path,
                text: "-- up\n".into(),
            }],
        }))
    }
}
