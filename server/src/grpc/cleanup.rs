//! `CleanupService`: operations, plans, and the runs that execute them. Called by tonic.

use dbkeep_engine::{Engine, engine::CleanupRequest};
use dbkeep_proto::v1::{self, cleanup_service_server::CleanupService};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert, detached, discovery,
    gate::{caller_of, deadline_of},
    status::Fault,
    stream::{EventStream, Streams},
    validate::Check,
};

/// The service.
#[derive(Clone)]
pub(super) struct Cleanup {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

#[tonic::async_trait]
impl CleanupService for Cleanup {
    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::default();
        let severity = convert::target::severity_filter(request.severity).unwrap_or_else(|_| {
            check.refuse(
                "severity",
                format!("is {}; expected 1 (LOW) to 4 (CRITICAL), or 0 for all", request.severity),
            );
            None
        });
        check.finish()?;
        let operations = self
            .engine
            .list_operations(&request.target, &request.category, severity)
            .map_err(Fault::from)?;
        Ok(Response::new(v1::ListOperationsResponse {
            operations: operations.into_iter().map(convert::target::operation).collect(),
        }))
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::GetOperationResponse>, Status> {
        let request = request.into_inner();
        let operation = self.engine.operation(&request.target, &request.name).map_err(Fault::from)?;
        Ok(Response::new(v1::GetOperationResponse {
            operation: Some(convert::target::operation(operation)),
        }))
    }

    async fn plan_cleanup(&self, request: Request<v1::PlanCleanupRequest>) -> Result<Response<v1::PlanCleanupResponse>, Status> {
        let v1::PlanCleanupRequest { target, operations } = request.into_inner();
        let mut check = Check::default();
        check.operations(&operations, false);
        check.finish()?;
        let engine = self.engine.clone();
        let plan = detached(async move { engine.plan(&target, &operations).await }).await?;
        Ok(Response::new(v1::PlanCleanupResponse {
            plan: Some(convert::plan::plan(plan)),
        }))
    }

    async fn discover_operations(
        &self,
        request: Request<v1::DiscoverOperationsRequest>,
    ) -> Result<Response<v1::DiscoverOperationsResponse>, Status> {
        let deadline = deadline_of(&request);
        let found = discovery::discover(&self.engine, request.into_inner(), deadline).await?;
        Ok(Response::new(found))
    }

    type RunCleanupStream = EventStream<v1::RunCleanupResponse>;

    async fn run_cleanup(&self, request: Request<v1::RunCleanupRequest>) -> Result<Response<Self::RunCleanupStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        check.request_id(&request.request_id);
        check.operations(&request.operations, !request.plan_token.is_empty());
        check.phrase(&request.confirmation_phrase);
        let options = check.options(request.options, true);
        check.finish()?;
        // The place is taken before the run is accepted: a caller that cannot watch has started nothing.
        let place = self.streams.place()?;
        let given_up = CancellationToken::new();
        let waiting = given_up.clone().drop_guard();
        let asked = CleanupRequest {
            request_id: request.request_id,
            target: request.target,
            operations: request.operations,
            plan_token: request.plan_token,
            confirmation_phrase: request.confirmation_phrase,
            options,
            caller,
            given_up,
        };
        let engine = self.engine.clone();
        let run = detached(async move { engine.run_cleanup(asked).await }).await?;
        waiting.disarm();
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(events.answer(|event| v1::RunCleanupResponse { event: Some(event) }))
    }
}
