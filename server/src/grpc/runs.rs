//! `RunService`: looking at runs, following them, steering them, stopping them, and taking them back. Called by tonic.

use dbkeep_engine::{
    Engine,
    model::{DecisionId, LimitsPatch, RunId},
};
use dbkeep_proto::v1::{self, run_service_server::RunService};
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
pub(super) struct Runs {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let id = request.into_inner().id;
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.finish()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.run(&id).await }).await?;
        Ok(Response::new(v1::GetRunResponse {
            run: Some(convert::run::run(run)),
        }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let scope = scope_of(&request);
        let request = request.into_inner();
        let wire = request.filter.unwrap_or_default();
        let pages = Pages::of("runs", &wire);
        let mut check = Check::default();
        let size = check.page_size(request.page_size);
        let before = pages.after(&request.page_token, &mut check);
        let mut filter = convert::run::filter(wire, &mut check);
        check.finish()?;
        filter.target = filter.target.or_else(|| scope.only().map(str::to_owned));
        let fetch = |before, limit| {
            let (engine, filter) = (self.engine.clone(), filter.clone());
            detached(async move { engine.runs(&filter, before, limit).await })
        };
        let mut runs = seen(size, before, fetch, |run| run.id, |run| scope.covers(&run.target)).await?;
        let next_page_token = pages.cut(&mut runs, size, |run| run.id);
        Ok(Response::new(v1::ListRunsResponse {
            runs: runs.into_iter().map(convert::run::run).collect(),
            next_page_token,
        }))
    }

    type WatchRunStream = EventStream<v1::WatchRunResponse>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let deadline = deadline_of(&request);
        let v1::WatchRunRequest { id, after_sequence } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.finish()?;
        let place = self.streams.place()?;
        let events = self.streams.follow(&self.engine, id, after_sequence, place, deadline).await?;
        Ok(events.answer(|event| v1::WatchRunResponse { event: Some(event) }))
    }

    async fn cancel_run(&self, request: Request<v1::CancelRunRequest>) -> Result<Response<v1::CancelRunResponse>, Status> {
        let caller = caller_of(&request);
        let v1::CancelRunRequest { id, reason, request_id } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.reason(&reason);
        check.request_id(&request_id);
        check.finish()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.cancel(&id, &reason, &caller).await }).await?;
        Ok(Response::new(v1::CancelRunResponse {
            run: Some(convert::run::run(run)),
        }))
    }

    async fn pause_run(&self, request: Request<v1::PauseRunRequest>) -> Result<Response<v1::PauseRunResponse>, Status> {
        let v1::PauseRunRequest { id, reason, request_id } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.reason(&reason);
        check.request_id(&request_id);
        check.finish()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.pause(&request_id, &id, &reason).await }).await?;
        Ok(Response::new(v1::PauseRunResponse {
            run: Some(convert::run::run(run)),
        }))
    }

    async fn resume_run(&self, request: Request<v1::ResumeRunRequest>) -> Result<Response<v1::ResumeRunResponse>, Status> {
        let v1::ResumeRunRequest { id, request_id } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.request_id(&request_id);
        check.finish()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.resume(&request_id, &id).await }).await?;
        Ok(Response::new(v1::ResumeRunResponse {
            run: Some(convert::run::run(run)),
        }))
    }

    async fn update_run_limits(
        &self,
        request: Request<v1::UpdateRunLimitsRequest>,
    ) -> Result<Response<v1::UpdateRunLimitsResponse>, Status> {
        let caller = caller_of(&request);
        let v1::UpdateRunLimitsRequest {
            id,
            batch_size,
            max_rows_per_second,
            duty_cycle_percent,
            request_id,
        } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.request_id(&request_id);
        check.finish()?;
        let patch = LimitsPatch {
            batch_rows: batch_size,
            max_rows_per_second,
            duty_cycle_percent,
        };
        let engine = self.engine.clone();
        let run = detached(async move { engine.update_limits(&request_id, &id, patch, &caller).await }).await?;
        Ok(Response::new(v1::UpdateRunLimitsResponse {
            run: Some(convert::run::run(run)),
        }))
    }

    type UndoRunStream = EventStream<v1::UndoRunResponse>;

    async fn undo_run(&self, request: Request<v1::UndoRunRequest>) -> Result<Response<Self::UndoRunStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let v1::UndoRunRequest { request_id, id, options } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of the cleanup to take back");
        check.request_id(&request_id);
        let options = check.options(options, false);
        if options.dry_run {
            check.refuse(
                "options.dry_run",
                "is true; an undo has no dry run, expected it absent or false",
            );
        }
        if options.max_rows.is_some() {
            check.refuse(
                "options.max_rows",
                "is set; an undo puts back what was captured, expected it absent",
            );
        }
        if options.force {
            check.refuse(
                "options.force",
                "is true; an undo has no findings to force, expected it false",
            );
        }
        check.finish()?;
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.undo(&request_id, &id, options, &caller).await }).await?;
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(events.answer(|event| v1::UndoRunResponse { event: Some(event) }))
    }

    async fn approve_run(&self, request: Request<v1::ApproveRunRequest>) -> Result<Response<v1::ApproveRunResponse>, Status> {
        let caller = caller_of(&request);
        let v1::ApproveRunRequest { id, deny, reason } = request.into_inner();
        let mut check = Check::default();
        check.present("id", &id, "the id of a run");
        check.reason(&reason);
        check.finish()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.approve(&id, deny, &reason, &caller).await }).await?;
        Ok(Response::new(v1::ApproveRunResponse {
            run: Some(convert::run::run(run)),
        }))
    }

    async fn list_decisions(
        &self,
        request: Request<v1::ListDecisionsRequest>,
    ) -> Result<Response<v1::ListDecisionsResponse>, Status> {
        let scope = scope_of(&request);
        let request = request.into_inner();
        let wire = request.filter.unwrap_or_default();
        let pages = Pages::of("decisions", &wire);
        let mut check = Check::default();
        let size = check.page_size(request.page_size);
        // Page tokens hold the id of the last entry, whatever kind of entry it is.
        let before = pages.after(&request.page_token, &mut check).map(|id| DecisionId(id.0));
        let filter = convert::decision::filter(&wire, &mut check);
        check.finish()?;
        let fetch = |before, limit| {
            let (engine, filter) = (self.engine.clone(), filter.clone());
            detached(async move { engine.decisions(&filter, before, limit).await })
        };
        let mut decisions = seen(
            size,
            before,
            fetch,
            |decision| decision.id,
            |decision| scope.covers(&decision.target),
        )
        .await?;
        let next_page_token = pages.cut(&mut decisions, size, |decision| RunId(decision.id.0));
        Ok(Response::new(v1::ListDecisionsResponse {
            decisions: decisions.into_iter().map(convert::decision::decision).collect(),
            next_page_token,
        }))
    }
}
