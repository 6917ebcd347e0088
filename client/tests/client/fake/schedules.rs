//! The service of schedules of the fake server.
//!
//! Owns what it was asked. Its answers are the schedule and the scheduler that the test has put into the state; lists are of three, two on
//! a page.

use dbkeep_client::proto::{self, preview_schedule_request::Of, schedule_service_server::ScheduleService};
use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Request, Response, Status};

use super::{Call, Fake};

/// What the service was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scheduling {
    Create {
        request_id: String,
        spec: Box<proto::ScheduleSpec>,
    },
    Get {
        id: String,
    },
    Update {
        id: String,
        etag: String,
        paths: Vec<String>,
        spec: Box<proto::ScheduleSpec>,
    },
    Delete {
        id: String,
        etag: String,
    },
    Run {
        id: String,
        request_id: String,
    },
    Pause {
        note: String,
    },
    Resume {
        note: String,
    },
    Approve {
        etag: String,
        max_rows: u64,
        until: i64,
    },
    Preview {
        of: Option<Of>,
        count: u32,
    },
    Runs {
        id: String,
        outcomes: Vec<i32>,
    },
    Status,
    Start,
    Stop {
        note: String,
    },
}

fn page<T>(token: &str, item: impl Fn(usize) -> T) -> (Vec<T>, String) {
    let first: usize = token.parse().unwrap_or(0);
    let next = if first == 0 { "2".to_owned() } else { String::new() };
    ((first..3).take(2).map(item).collect(), next)
}

impl Fake {
    async fn scheduling(&self, call: Scheduling) -> Result<(), Status> {
        self.unary(Call::Schedules(call)).await
    }

    fn schedule(&self) -> Option<proto::Schedule> {
        Some(self.state().schedule.clone())
    }

    fn scheduler(&self) -> Option<proto::SchedulerStatus> {
        Some(self.state().scheduler.clone())
    }
}

#[tonic::async_trait]
impl ScheduleService for Fake {
    type RunScheduleStream = BoxStream<'static, Result<proto::RunScheduleResponse, Status>>;

    async fn create_schedule(
        &self,
        request: Request<proto::CreateScheduleRequest>,
    ) -> Result<Response<proto::CreateScheduleResponse>, Status> {
        let proto::CreateScheduleRequest { spec, request_id } = request.into_inner();
        let spec = Box::new(spec.unwrap_or_default());
        self.scheduling(Scheduling::Create { request_id, spec }).await?;
        Ok(Response::new(proto::CreateScheduleResponse {
            schedule: self.schedule(),
        }))
    }

    async fn get_schedule(
        &self,
        request: Request<proto::GetScheduleRequest>,
    ) -> Result<Response<proto::GetScheduleResponse>, Status> {
        let id = request.into_inner().id;
        self.scheduling(Scheduling::Get { id }).await?;
        Ok(Response::new(proto::GetScheduleResponse {
            schedule: self.schedule(),
        }))
    }

    async fn list_schedules(
        &self,
        request: Request<proto::ListSchedulesRequest>,
    ) -> Result<Response<proto::ListSchedulesResponse>, Status> {
        let schedule = self.state().schedule.clone();
        let (schedules, next_page_token) = page(&request.get_ref().page_token, |number| proto::Schedule {
            id: format!("s{number}"),
            ..schedule.clone()
        });
        Ok(Response::new(proto::ListSchedulesResponse {
            schedules,
            next_page_token,
        }))
    }

    async fn update_schedule(
        &self,
        request: Request<proto::UpdateScheduleRequest>,
    ) -> Result<Response<proto::UpdateScheduleResponse>, Status> {
        let request = request.into_inner();
        self.scheduling(Scheduling::Update {
            id: request.id,
            etag: request.etag,
            paths: request.update_mask.unwrap_or_default().paths,
            spec: Box::new(request.spec.unwrap_or_default()),
        })
        .await?;
        Ok(Response::new(proto::UpdateScheduleResponse {
            schedule: self.schedule(),
        }))
    }

    async fn delete_schedule(
        &self,
        request: Request<proto::DeleteScheduleRequest>,
    ) -> Result<Response<proto::DeleteScheduleResponse>, Status> {
        let proto::DeleteScheduleRequest { id, etag } = request.into_inner();
        self.scheduling(Scheduling::Delete { id, etag }).await?;
        Ok(Response::new(proto::DeleteScheduleResponse {}))
    }

    async fn run_schedule(
        &self,
        request: Request<proto::RunScheduleRequest>,
    ) -> Result<Response<Self::RunScheduleStream>, Status> {
        let proto::RunScheduleRequest { id, request_id } = request.into_inner();
        let events = self.stream(Call::Schedules(Scheduling::Run { id, request_id }))?;
        let events = events.map(|event| Ok(proto::RunScheduleResponse { event: Some(event?) }));
        Ok(Response::new(events.boxed()))
    }

    async fn pause_schedule(
        &self,
        request: Request<proto::PauseScheduleRequest>,
    ) -> Result<Response<proto::PauseScheduleResponse>, Status> {
        let note = request.into_inner().note;
        self.scheduling(Scheduling::Pause { note }).await?;
        Ok(Response::new(proto::PauseScheduleResponse {
            schedule: self.schedule(),
        }))
    }

    async fn resume_schedule(
        &self,
        request: Request<proto::ResumeScheduleRequest>,
    ) -> Result<Response<proto::ResumeScheduleResponse>, Status> {
        let note = request.into_inner().note;
        self.scheduling(Scheduling::Resume { note }).await?;
        Ok(Response::new(proto::ResumeScheduleResponse {
            schedule: self.schedule(),
        }))
    }

    async fn approve_schedule(
        &self,
        request: Request<proto::ApproveScheduleRequest>,
    ) -> Result<Response<proto::ApproveScheduleResponse>, Status> {
        let request = request.into_inner();
        self.scheduling(Scheduling::Approve {
            etag: request.etag,
            max_rows: request.max_rows,
            until: request.expire_time.unwrap_or_default().seconds,
        })
        .await?;
        Ok(Response::new(proto::ApproveScheduleResponse {
            schedule: self.schedule(),
        }))
    }

    async fn preview_schedule(
        &self,
        request: Request<proto::PreviewScheduleRequest>,
    ) -> Result<Response<proto::PreviewScheduleResponse>, Status> {
        let proto::PreviewScheduleRequest { of, count, .. } = request.into_inner();
        self.scheduling(Scheduling::Preview { of, count }).await?;
        Ok(Response::new(proto::PreviewScheduleResponse {
            times: vec![proto::PreviewedTime {
                local: "2027-03-28T03:00:00+02:00[Europe/Berlin]".into(),
                shift: "moved".into(),
                ..Default::default()
            }],
        }))
    }

    async fn list_schedule_runs(
        &self,
        request: Request<proto::ListScheduleRunsRequest>,
    ) -> Result<Response<proto::ListScheduleRunsResponse>, Status> {
        let request = request.into_inner();
        let (runs, next_page_token) = page(&request.page_token, |number| proto::ScheduleRun {
            schedule_id: format!("s{number}"),
            slot_time: Some(prost_types::Timestamp::default()),
            outcome: proto::SlotOutcome::Skipped.into(),
            reason: "the run before it had not ended".into(),
            run_id: format!("run-{number}"),
            ..Default::default()
        });
        self.scheduling(Scheduling::Runs {
            id: request.id,
            outcomes: request.outcomes,
        })
        .await?;
        Ok(Response::new(proto::ListScheduleRunsResponse { runs, next_page_token }))
    }

    async fn get_scheduler_status(
        &self,
        _: Request<proto::GetSchedulerStatusRequest>,
    ) -> Result<Response<proto::GetSchedulerStatusResponse>, Status> {
        self.scheduling(Scheduling::Status).await?;
        Ok(Response::new(proto::GetSchedulerStatusResponse {
            status: self.scheduler(),
        }))
    }

    async fn start_scheduler(
        &self,
        _: Request<proto::StartSchedulerRequest>,
    ) -> Result<Response<proto::StartSchedulerResponse>, Status> {
        self.scheduling(Scheduling::Start).await?;
        self.state().scheduler.running = true;
        Ok(Response::new(proto::StartSchedulerResponse {
            status: self.scheduler(),
        }))
    }

    async fn stop_scheduler(
        &self,
        request: Request<proto::StopSchedulerRequest>,
    ) -> Result<Response<proto::StopSchedulerResponse>, Status> {
        let note = request.into_inner().note;
        self.scheduling(Scheduling::Stop { note }).await?;
        self.state().scheduler.running = false;
        Ok(Response::new(proto::StopSchedulerResponse {
            status: self.scheduler(),
        }))
    }
}
