//! A server that answers as its script says, and writes down what it was asked.
//!
//! Owns the services (those of migrations and schedules are in `fake/`), the in-memory network between client and server, and builders of events. Every streaming call
//! takes the next [`Answer`] of the script, whatever call it is: the tests are about the order of calls.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use dbkeep_client::{
    Channel, Client, ClientBuilder,
    proto::{self, RunEvent, RunState, run_event::Event},
};
use futures::{StreamExt as _, channel::mpsc, stream::BoxStream};
use hyper_util::rt::TokioIo;
use proto::{
    backup_service_server::{BackupService, BackupServiceServer},
    cleanup_service_server::{CleanupService, CleanupServiceServer},
    migration_service_server::MigrationServiceServer,
    monitoring_service_server::MonitoringServiceServer,
    run_service_server::{RunService, RunServiceServer},
    schedule_service_server::ScheduleServiceServer,
    target_service_server::{TargetService, TargetServiceServer},
};
use tokio::{io::DuplexStream, task::JoinHandle};
use tonic::{
    Code, Request, Response, Status,
    transport::{Endpoint, Server, server::Router},
};
use tonic_types::{ErrorDetails, StatusExt as _};

pub(crate) use self::{migrations::Migrating, monitoring::Asked, schedules::Scheduling};

mod migrations;
mod monitoring;
mod schedules;

/// Id of the run that every call is about.
pub(crate) const RUN: &str = "run-1";

/// What the server was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Run { request_id: String, phrase: String },
    Undo { request_id: String },
    Verify { request_id: String },
    Backup { request_id: String },
    Restore { request_id: String },
    Prune { dry_run: bool },
    Watch { after: u64 },
    GetRun,
    Plan,
    Cancel { request_id: String },
    Approve { principal: Option<String>, deny: bool },
    Pause { request_id: String },
    Resume { request_id: String },
    Limits { request_id: String },
    Migrations(Migrating),
    Schedules(Scheduling),
    Monitoring(Asked),
}

/// How a streaming call is answered.
pub(crate) enum Answer {
    /// With an error in place of a stream.
    Refuse(Status),
    /// With a stream.
    Stream(Vec<Step>),
}

/// What a stream does next.
pub(crate) enum Step {
    /// Sends an event.
    Send(Box<RunEvent>),
    /// Says nothing for this long.
    Silence(Duration),
    /// Ends with an error.
    Fail(Status),
    /// Cuts the connection under the stream, once everything sent has arrived.
    Cut,
    /// Stays open and says nothing.
    Hang,
}

/// The server; clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    calls: Vec<Call>,
    script: VecDeque<Answer>,
    /// Errors for the next unary calls.
    unary_failures: VecDeque<Status>,
    /// Makes unary calls hang.
    unary_hangs: bool,
    run: proto::Run,
    plan: proto::Plan,
    pub(crate) migration_plan: proto::MigrationPlan,
    pub(crate) schedule: proto::Schedule,
    pub(crate) scheduler: proto::SchedulerStatus,
    links: Vec<JoinHandle<()>>,
    connections: usize,
}

impl Fake {
    /// A server with this script; what `GetRun` says is a run that succeeded, with `last_sequence` far ahead.
    pub(crate) fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        let fake = Self::default();
        {
            let mut state = fake.state();
            state.script = script.into_iter().collect();
            state.run = proto::Run {
                id: RUN.into(),
                kind: proto::RunKind::Cleanup.into(),
                state: RunState::Succeeded.into(),
                last_sequence: u64::MAX,
                options: Some(proto::RunOptions {
                    dry_run: Some(false),
                    ..Default::default()
                }),
                ..Default::default()
            };
        }
        fake
    }

    pub(crate) fn set_run(&self, change: impl FnOnce(&mut proto::Run)) {
        change(&mut self.state().run);
    }

    #[cfg(feature = "cli")]
    pub(crate) fn set_plan(&self, plan: proto::Plan) {
        self.state().plan = plan;
    }

    pub(crate) fn fail_unary(&self, failures: impl IntoIterator<Item = Status>) {
        self.state().unary_failures.extend(failures);
    }

    pub(crate) fn hang_unary(&self) {
        self.state().unary_hangs = true;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How often a client connected.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        self.client_with(Client::builder())
    }

    pub(crate) fn client_with(&self, builder: ClientBuilder) -> Client {
        builder.over_channel(self.channel())
    }

    /// The services, to be served over any transport.
    pub(crate) fn router(&self) -> Router {
        Server::builder()
            .add_service(TargetServiceServer::new(self.clone()))
            .add_service(CleanupServiceServer::new(self.clone()))
            .add_service(RunServiceServer::new(self.clone()))
            .add_service(BackupServiceServer::new(self.clone()))
            .add_service(MigrationServiceServer::new(self.clone()))
            .add_service(ScheduleServiceServer::new(self.clone()))
            .add_service(MonitoringServiceServer::new(self.clone()))
    }

    /// A network of pipes. Each connection runs through a task, and aborting that task is pulling the plug.
    fn channel(&self) -> Channel {
        let (sender, connections) = mpsc::unbounded::<Result<DuplexStream, io::Error>>();
        tokio::spawn(self.router().serve_with_incoming(connections));
        let fake = self.clone();
        let connector = tower::service_fn(move |_| {
            let (client_side, mut client_end) = tokio::io::duplex(64 * 1024);
            let (mut server_end, server_side) = tokio::io::duplex(64 * 1024);
            let link = tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client_end, &mut server_end).await;
            });
            let mut state = fake.state();
            state.links.push(link);
            state.connections += 1;
            let accepted = sender.unbounded_send(Ok(server_side)).map_err(io::Error::other);
            std::future::ready(accepted.map(|()| TokioIo::new(client_side)))
        });
        Endpoint::from_static("http://fake.invalid:1").connect_with_connector_lazy(connector)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    /// Writes a unary call down and fails or hangs it where the test asked for that.
    pub(crate) async fn unary(&self, call: Call) -> Result<(), Status> {
        let (failure, hangs) = {
            let mut state = self.state();
            state.calls.push(call);
            (state.unary_failures.pop_front(), state.unary_hangs)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        failure.map_or(Ok(()), Err)
    }

    pub(crate) fn stream(&self, call: Call) -> Result<BoxStream<'static, Result<RunEvent, Status>>, Status> {
        let answer = {
            let mut state = self.state();
            state.calls.push(call);
            state.script.pop_front()
        };
        let steps = match answer {
            Some(Answer::Refuse(status)) => return Err(status),
            Some(Answer::Stream(steps)) => steps,
            // The script is over: the server is gone for good.
            None => return Err(Status::unavailable("the script is over")),
        };
        let fake = self.clone();
        Ok(async_stream::stream! {
            for step in steps {
                match step {
                    Step::Send(event) => yield Ok(*event),
                    Step::Silence(time) => tokio::time::sleep(time).await,
                    Step::Fail(status) => yield Err(status),
                    Step::Cut => {
                        // Paused time moves only when every task waits: then all that was sent has arrived.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        for link in fake.state().links.drain(..) {
                            link.abort();
                        }
                        std::future::pending::<()>().await;
                    }
                    Step::Hang => std::future::pending::<()>().await,
                }
            }
        }
        .boxed())
    }
}

/// Streams of the four calls differ in the envelope only.
macro_rules! envelope {
    ($events:expr, $response:ident) => {
        Ok(Response::new(
            $events
                .map(|event| event.map(|event| proto::$response { event: Some(event) }))
                .boxed(),
        ))
    };
}

#[tonic::async_trait]
impl RunService for Fake {
    type WatchRunStream = BoxStream<'static, Result<proto::WatchRunResponse, Status>>;
    type UndoRunStream = BoxStream<'static, Result<proto::UndoRunResponse, Status>>;

    async fn get_run(&self, _: Request<proto::GetRunRequest>) -> Result<Response<proto::GetRunResponse>, Status> {
        self.unary(Call::GetRun).await?;
        Ok(Response::new(proto::GetRunResponse {
            run: Some(self.state().run.clone()),
        }))
    }

    /// Five runs, two on a page.
    async fn list_runs(&self, request: Request<proto::ListRunsRequest>) -> Result<Response<proto::ListRunsResponse>, Status> {
        let first: usize = request.get_ref().page_token.parse().unwrap_or(0);
        let runs = (first..5)
            .take(2)
            .map(|id| proto::Run {
                id: id.to_string(),
                ..Default::default()
            })
            .collect();
        let next_page_token = if first + 2 < 5 {
            (first + 2).to_string()
        } else {
            String::new()
        };
        Ok(Response::new(proto::ListRunsResponse { runs, next_page_token }))
    }

    async fn watch_run(&self, request: Request<proto::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let request = request.into_inner();
        assert_eq!(request.id, RUN);
        envelope!(
            self.stream(Call::Watch {
                after: request.after_sequence
            })?,
            WatchRunResponse
        )
    }

    async fn cancel_run(&self, request: Request<proto::CancelRunRequest>) -> Result<Response<proto::CancelRunResponse>, Status> {
        self.unary(Call::Cancel {
            request_id: request.into_inner().request_id,
        })
        .await?;
        Ok(Response::new(proto::CancelRunResponse {
            run: Some(self.state().run.clone()),
        }))
    }

    async fn approve_run(
        &self,
        request: Request<proto::ApproveRunRequest>,
    ) -> Result<Response<proto::ApproveRunResponse>, Status> {
        let principal = request.metadata().get("dbkeep-principal");
        let principal = principal.map(|name| name.to_str().expect("ASCII").to_owned());
        let deny = request.get_ref().deny;
        self.unary(Call::Approve { principal, deny }).await?;
        Ok(Response::new(proto::ApproveRunResponse {
            run: Some(self.state().run.clone()),
        }))
    }

    async fn pause_run(&self, request: Request<proto::PauseRunRequest>) -> Result<Response<proto::PauseRunResponse>, Status> {
        self.unary(Call::Pause {
            request_id: request.into_inner().request_id,
        })
        .await?;
        Ok(Response::new(proto::PauseRunResponse {
            run: Some(self.state().run.clone()),
        }))
    }

    /// Three decisions, two on a page.
    async fn list_decisions(
        &self,
        request: Request<proto::ListDecisionsRequest>,
    ) -> Result<Response<proto::ListDecisionsResponse>, Status> {
        let first: usize = request.get_ref().page_token.parse().unwrap_or(0);
        let decisions = (first..3).take(2).map(|id| proto::Decision {
            id: id.to_string(),
            act: proto::DecisionAct::Run.into(),
            outcome: proto::DecisionOutcome::Refused.into(),
            reason: "PLAN_USED".into(),
            ..Default::default()
        });
        Ok(Response::new(proto::ListDecisionsResponse {
            decisions: decisions.collect(),
            next_page_token: if first == 0 { "2".into() } else { String::new() },
        }))
    }

    async fn resume_run(&self, request: Request<proto::ResumeRunRequest>) -> Result<Response<proto::ResumeRunResponse>, Status> {
        self.unary(Call::Resume {
            request_id: request.into_inner().request_id,
        })
        .await?;
        Ok(Response::new(proto::ResumeRunResponse {
            run: Some(self.state().run.clone()),
        }))
    }

    async fn update_run_limits(
        &self,
        request: Request<proto::UpdateRunLimitsRequest>,
    ) -> Result<Response<proto::UpdateRunLimitsResponse>, Status> {
        self.unary(Call::Limits {
            request_id: request.into_inner().request_id,
        })
        .await?;
        Ok(Response::new(proto::UpdateRunLimitsResponse {
            run: Some(self.state().run.clone()),
        }))
    }

    async fn undo_run(&self, request: Request<proto::UndoRunRequest>) -> Result<Response<Self::UndoRunStream>, Status> {
        envelope!(
            self.stream(Call::Undo {
                request_id: request.into_inner().request_id
            })?,
            UndoRunResponse
        )
    }
}

#[tonic::async_trait]
impl CleanupService for Fake {
    type RunCleanupStream = BoxStream<'static, Result<proto::RunCleanupResponse, Status>>;

    async fn list_operations(
        &self,
        _: Request<proto::ListOperationsRequest>,
    ) -> Result<Response<proto::ListOperationsResponse>, Status> {
        Ok(Response::new(proto::ListOperationsResponse::default()))
    }

    async fn get_operation(
        &self,
        request: Request<proto::GetOperationRequest>,
    ) -> Result<Response<proto::GetOperationResponse>, Status> {
        let operation = proto::Operation {
            name: request.into_inner().name,
            ..Default::default()
        };
        Ok(Response::new(proto::GetOperationResponse {
            operation: Some(operation),
        }))
    }

    async fn plan_cleanup(&self, _: Request<proto::PlanCleanupRequest>) -> Result<Response<proto::PlanCleanupResponse>, Status> {
        self.unary(Call::Plan).await?;
        Ok(Response::new(proto::PlanCleanupResponse {
            plan: Some(self.state().plan.clone()),
        }))
    }

    async fn discover_operations(
        &self,
        _: Request<proto::DiscoverOperationsRequest>,
    ) -> Result<Response<proto::DiscoverOperationsResponse>, Status> {
        let proposal = |operation: &str, supported: bool| proto::Proposal {
            operation: operation.into(),
            kind: "orphan".into(),
            table: "child".into(),
            columns: vec!["parent_id".into()],
            parent: "parent".into(),
            parent_columns: vec!["id".into()],
            confidence: 0.94,
            row_count: supported.then_some(7),
            toml: format!("[[operation]]\nname = \"{operation}\"\n"),
            supported,
            ..Default::default()
        };
        Ok(Response::new(proto::DiscoverOperationsResponse {
            proposals: vec![proposal("orphaned_child", true), proposal("not_yet", false)],
            complete: true,
            table_count: 2,
            ..Default::default()
        }))
    }

    async fn run_cleanup(&self, request: Request<proto::RunCleanupRequest>) -> Result<Response<Self::RunCleanupStream>, Status> {
        envelope!(
            self.stream({
                let request = request.into_inner();
                Call::Run {
                    request_id: request.request_id,
                    phrase: request.confirmation_phrase,
                }
            })?,
            RunCleanupResponse
        )
    }
}

#[tonic::async_trait]
impl BackupService for Fake {
    type VerifyBackupStream = BoxStream<'static, Result<proto::VerifyBackupResponse, Status>>;

    async fn list_backups(&self, _: Request<proto::ListBackupsRequest>) -> Result<Response<proto::ListBackupsResponse>, Status> {
        let backups = vec![proto::Backup {
            id: RUN.into(),
            ..Default::default()
        }];
        Ok(Response::new(proto::ListBackupsResponse {
            backups,
            next_page_token: String::new(),
        }))
    }

    async fn get_backup(&self, _: Request<proto::GetBackupRequest>) -> Result<Response<proto::GetBackupResponse>, Status> {
        let backup = Some(proto::Backup {
            id: RUN.into(),
            ..Default::default()
        });
        Ok(Response::new(proto::GetBackupResponse {
            backup,
            chunks: vec![proto::Chunk::default()],
            truncated: true,
        }))
    }

    async fn verify_backup(
        &self,
        request: Request<proto::VerifyBackupRequest>,
    ) -> Result<Response<Self::VerifyBackupStream>, Status> {
        envelope!(
            self.stream(Call::Verify {
                request_id: request.into_inner().request_id
            })?,
            VerifyBackupResponse
        )
    }

    type CreateBackupStream = BoxStream<'static, Result<proto::CreateBackupResponse, Status>>;

    async fn create_backup(
        &self,
        request: Request<proto::CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let events = self.stream(Call::Backup {
            request_id: request.into_inner().request_id,
        })?;
        Ok(Response::new(
            events
                .map(|event| Ok(proto::CreateBackupResponse { event: Some(event?) }))
                .boxed(),
        ))
    }

    type RestoreBackupStream = BoxStream<'static, Result<proto::RestoreBackupResponse, Status>>;

    async fn restore_backup(
        &self,
        request: Request<proto::RestoreBackupRequest>,
    ) -> Result<Response<Self::RestoreBackupStream>, Status> {
        let events = self.stream(Call::Restore {
            request_id: request.into_inner().request_id,
        })?;
        Ok(Response::new(
            events
                .map(|event| Ok(proto::RestoreBackupResponse { event: Some(event?) }))
                .boxed(),
        ))
    }

    async fn prune_backups(
        &self,
        request: Request<proto::PruneBackupsRequest>,
    ) -> Result<Response<proto::PruneBackupsResponse>, Status> {
        let dry_run = request.into_inner().dry_run.unwrap_or(true);
        self.unary(Call::Prune { dry_run }).await?;
        Ok(Response::new(proto::PruneBackupsResponse {
            dry_run,
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl TargetService for Fake {
    async fn list_targets(&self, _: Request<proto::ListTargetsRequest>) -> Result<Response<proto::ListTargetsResponse>, Status> {
        let targets = vec![proto::Target {
            name: "main".into(),
            engine: proto::Engine::Sqlite.into(),
            ..Default::default()
        }];
        Ok(Response::new(proto::ListTargetsResponse { targets }))
    }

    /// Knows no target, and leaves the status out of its answer where asked for "half".
    async fn get_target(&self, request: Request<proto::GetTargetRequest>) -> Result<Response<proto::GetTargetResponse>, Status> {
        let name = request.into_inner().name;
        if name == "half" {
            return Ok(Response::new(proto::GetTargetResponse {
                target: Some(proto::Target::default()),
                status: None,
            }));
        }
        Err(refusal(
            Code::NotFound,
            "UNKNOWN_TARGET",
            &[("target", name.as_str()), ("known", "main")],
        ))
    }

    /// One right that is held and one that is not; of "small" none, since it has no roles.
    async fn get_grants(&self, request: Request<proto::GetGrantsRequest>) -> Result<Response<proto::GetGrantsResponse>, Status> {
        let request = request.into_inner();
        if request.target == "small" {
            return Err(refusal(
                Code::FailedPrecondition,
                "TARGET_REFUSED",
                &[("target", "small"), ("problem", "the database has no roles")],
            ));
        }
        let grant = |privilege: &str, held: bool| proto::Grant {
            feature: proto::GrantFeature::Cleanup.into(),
            object: "table public.users".into(),
            privilege: privilege.into(),
            statement: format!("GRANT {privilege} ON TABLE users TO x"),
            why: "a.b: rows of it go".into(),
            held,
        };
        Ok(Response::new(proto::GetGrantsResponse {
            target: "main".into(),
            role: request.role,
            exists: true,
            used: vec![proto::GrantFeature::Basis.into(), proto::GrantFeature::Cleanup.into()],
            grants: vec![grant("SELECT", true), grant("DELETE", false)],
            excess: vec![proto::ExcessRight {
                what: "CREATEDB".into(),
                why: "nobody makes databases".into(),
                warning: true,
                statement: "ALTER ROLE x NOCREATEDB".into(),
            }],
            notes: vec!["a note".into()],
            script: "GRANT SELECT ON TABLE users TO x;\nGRANT DELETE ON TABLE users TO x;\n".into(),
        }))
    }
}

/// An error as dbkeep sends it.
pub(crate) fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: std::collections::HashMap<String, String> = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Status::with_error_details(
        code,
        "the server's sentence",
        ErrorDetails::with_error_info(reason, "dbkeep", metadata),
    )
}

/// INVALID_FIELD with what is wrong with each field.
#[cfg(feature = "cli")]
pub(crate) fn invalid(fields: &[(&str, &str)]) -> Status {
    let mut details = ErrorDetails::with_error_info("INVALID_FIELD", "dbkeep", std::collections::HashMap::new());
    for (field, expected) in fields {
        details.add_bad_request_violation(*field, *expected);
    }
    Status::with_error_details(Code::InvalidArgument, "the server's sentence", details)
}

/// SHUTTING_DOWN with a time to come back.
pub(crate) fn shutting_down(retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("SHUTTING_DOWN", "dbkeep", std::collections::HashMap::new());
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::Unavailable, "the server is shutting down", details)
}

fn event(sequence: u64, event: Event) -> RunEvent {
    RunEvent {
        run_id: RUN.into(),
        sequence,
        event: Some(event),
        ..Default::default()
    }
}

/// Progress with this sequence.
pub(crate) fn progress(sequence: u64) -> Step {
    Step::Send(Box::new(event(
        sequence,
        Event::Progress(proto::Progress {
            rows_affected: sequence,
            ..Default::default()
        }),
    )))
}

/// Progress that stands for others too.
pub(crate) fn coalesced(sequence: u64, left_out: u64) -> Step {
    let mut event = event(sequence, Event::Progress(proto::Progress::default()));
    event.coalesced = left_out;
    Step::Send(Box::new(event))
}

/// A change of state.
pub(crate) fn state(sequence: u64, to: RunState) -> Step {
    Step::Send(Box::new(event(
        sequence,
        Event::StateChanged(proto::StateChanged {
            to: to.into(),
            ..Default::default()
        }),
    )))
}

/// Word that the log begins later than asked for.
pub(crate) fn history_lost(first_available_sequence: u64) -> Step {
    Step::Send(Box::new(event(
        0,
        Event::HistoryLost(proto::HistoryLost {
            first_available_sequence,
        }),
    )))
}
