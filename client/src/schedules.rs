//! `ScheduleService`: what is to be done when, what became of every slot, and the switch over all of them.
//!
//! Owns the typed methods over its RPCs and the queries of its lists. What a schedule is made of is built in `schedules/draft.rs`;
//! following a run that was fired is `watch.rs`. Made by [`Client::schedules`].

mod draft;

use dbkeep_proto::v1::{
    ApproveScheduleRequest, DeleteScheduleRequest, GetScheduleRequest, GetSchedulerStatusRequest, ListScheduleRunsRequest,
    ListScheduleRunsResponse, ListSchedulesRequest, ListSchedulesResponse, PauseScheduleRequest, PreviewScheduleRequest,
    PreviewedTime, ResumeScheduleRequest, RunScheduleRequest, Schedule, ScheduleRun, SchedulerStatus, SlotOutcome,
    StartSchedulerRequest, StopSchedulerRequest, preview_schedule_request::Of, schedule_service_client::ScheduleServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tonic::transport::Channel;

pub use self::draft::{ScheduleDraft, ScheduleManner, ScheduleNotices, ScheduleTiming, ScheduleUpdate};
use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
    runs::wire_instant,
    watch::{Opening, RunStream},
};

/// Creates, changes, fires and watches schedules.
///
/// ```no_run
/// use dbkeep_client::{Client, PreviewRequest, ScheduleDraft, ScheduleRunQuery, ScheduleTiming};
///
/// # async fn example(client: Client) -> Result<(), dbkeep_client::Error> {
/// let schedules = client.schedules();
/// let timing = ScheduleTiming::cron("30 2 * * *").timezone("Europe/Berlin");
/// for time in schedules.preview(PreviewRequest::of_timing(timing.clone()).count(3)).await? {
///     println!("{} {}", time.local, time.shift);
/// }
/// let draft = ScheduleDraft::new("nightly").operation("expired_tokens").timing(timing);
/// let schedule = schedules.create(draft).await?;
/// println!("{} fires next at {:?}", schedule.id, schedule.next_run_time);
///
/// // What became of its slots, whoever decided them.
/// for slot in schedules.runs_all(ScheduleRunQuery::of("nightly")).await? {
///     println!("{:?} {:?} {}", slot.slot_time, slot.outcome(), slot.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Schedules {
    client: Client,
}

/// A unary call that is repeated as the client's policy says, or with `once` is not.
macro_rules! call {
    ($schedules:expr, $send:ident, $method:ident, $message:expr) => {
        retry::$send(&$schedules.client, $schedules.client.call_timeout(), $message, |request| {
            let mut service = $schedules.service();
            async move { service.$method(request).await }
        })
        .await
    };
}

/// What an answer must have.
fn present<T>(value: Option<T>, missing: &'static str) -> Result<T, Error> {
    value.ok_or(Error::Incomplete { missing })
}

impl Schedules {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn service(&self) -> ScheduleServiceClient<Channel> {
        ScheduleServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Creates a schedule. A repetition carries the same request id, and is answered with the schedule that the first call made.
    ///
    /// # Errors
    /// [`Error::InvalidField`] with every field that is malformed, [`Error::ScheduleExists`], [`Error::RequestIdReused`].
    pub async fn create(&self, draft: ScheduleDraft) -> Result<Schedule, Error> {
        let answer = call!(self, unary, create_schedule, draft.into_message())?;
        present(answer.schedule, "CreateScheduleResponse.schedule")
    }

    /// One schedule, by id or name, here and below.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`].
    pub async fn get(&self, id: impl Into<String>) -> Result<Schedule, Error> {
        let answer = call!(self, unary, get_schedule, GetScheduleRequest { id: id.into() })?;
        present(answer.schedule, "GetScheduleResponse.schedule")
    }

    /// Schedules by name; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub fn list(&self, query: ScheduleQuery) -> impl Stream<Item = Result<Schedule, Error>> + Send + use<> {
        let schedules = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = schedules.list_page(message.clone()).await?;
                for schedule in page.schedules {
                    yield schedule;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All schedules of a query, by name.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_all(&self, query: ScheduleQuery) -> Result<Vec<Schedule>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_page(&self, message: ListSchedulesRequest) -> Result<ListSchedulesResponse, Error> {
        call!(self, unary, list_schedules, message)
    }

    /// Changes the fields that the update sets. A standing approval ends where target, work or options change. Where an etag is given
    /// and the answer to a call that worked was lost, its repetition is refused with [`Error::ScheduleChanged`]: nothing is changed
    /// twice.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`], [`Error::ScheduleExists`] where the new name is taken,
    /// [`Error::ScheduleChanged`] where the etag is not the newest.
    pub async fn update(&self, update: ScheduleUpdate) -> Result<Schedule, Error> {
        let answer = call!(self, unary, update_schedule, update.into_message())?;
        present(answer.schedule, "UpdateScheduleResponse.schedule")
    }

    /// Removes a schedule with its slots; a run that it started goes on. With an empty `etag`, whatever there is. Sent once, whatever
    /// the retry policy says: a name may be another schedule's by the second time.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::ScheduleChanged`].
    pub async fn delete(&self, id: impl Into<String>, etag: impl Into<String>) -> Result<(), Error> {
        let message = DeleteScheduleRequest {
            id: id.into(),
            etag: etag.into(),
        };
        call!(self, once, delete_schedule, message).map(|_| ())
    }

    /// Fires a schedule now, paused or not, and follows its run. The call has a request id of its own, so that it fires once however often it
    /// has to be made.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::ScheduleBusy`], [`Error::StandingApproval`], [`Error::SlotRefused`], and everything that
    /// refuses a run of its work.
    pub async fn run(&self, id: impl Into<String>) -> Result<RunStream, Error> {
        let message = RunScheduleRequest {
            id: id.into(),
            request_id: retry::request_id(),
        };
        RunStream::open(self.client.clone(), Opening::Schedule(message)).await
    }

    /// Lets slots pass until [`resume`](Self::resume). Pausing what is paused changes the note only.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`].
    pub async fn pause(&self, id: impl Into<String>, note: impl Into<String>) -> Result<Schedule, Error> {
        let message = PauseScheduleRequest {
            id: id.into(),
            note: note.into(),
        };
        let answer = call!(self, unary, pause_schedule, message)?;
        present(answer.schedule, "PauseScheduleResponse.schedule")
    }

    /// Lets it fire again, from the next slot on, and forgets its failures. The note is in the record of decisions.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`].
    pub async fn resume(&self, id: impl Into<String>, note: impl Into<String>) -> Result<Schedule, Error> {
        let message = ResumeScheduleRequest {
            id: id.into(),
            note: note.into(),
        };
        let answer = call!(self, unary, resume_schedule, message)?;
        present(answer.schedule, "ResumeScheduleResponse.schedule")
    }

    /// Consents to all runs of a schedule until an instant, up to a number of rows each. `etag` is that of the schedule as it was
    /// reviewed. The client must be [named](crate::ClientBuilder::principal), and by another name than the one that changed the
    /// schedule last.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`], [`Error::ApprovalRefused`], [`Error::ScheduleChanged`].
    pub async fn approve(
        &self,
        id: impl Into<String>,
        etag: impl Into<String>,
        max_rows: u64,
        until: jiff::Timestamp,
    ) -> Result<Schedule, Error> {
        let message = ApproveScheduleRequest {
            id: id.into(),
            etag: etag.into(),
            max_rows,
            expire_time: Some(wire_instant(until)),
        };
        let answer = call!(self, unary, approve_schedule, message)?;
        present(answer.schedule, "ApproveScheduleResponse.schedule")
    }

    /// The next times of a schedule, or of a timing that belongs to none.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`].
    pub async fn preview(&self, request: PreviewRequest) -> Result<Vec<PreviewedTime>, Error> {
        Ok(call!(self, unary, preview_schedule, request.message)?.times)
    }

    /// What became of slots, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`].
    pub fn runs(&self, query: ScheduleRunQuery) -> impl Stream<Item = Result<ScheduleRun, Error>> + Send + use<> {
        let schedules = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = schedules.runs_page(message.clone()).await?;
                for run in page.runs {
                    yield run;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All of a query, newest first. Mind their number; [`runs`](Self::runs) holds one page at a time.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`].
    pub async fn runs_all(&self, query: ScheduleRunQuery) -> Result<Vec<ScheduleRun>, Error> {
        self.runs(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::UnknownSchedule`], [`Error::InvalidField`].
    pub async fn runs_page(&self, message: ListScheduleRunsRequest) -> Result<ListScheduleRunsResponse, Error> {
        call!(self, unary, list_schedule_runs, message)
    }

    /// Whether slots are decided at all, and who works with this control store.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn scheduler_status(&self) -> Result<SchedulerStatus, Error> {
        let answer = call!(self, unary, get_scheduler_status, GetSchedulerStatusRequest {})?;
        present(answer.status, "GetSchedulerStatusResponse.status")
    }

    /// Lets slots be decided again, on every server. Those that passed meanwhile are caught up as their schedules say.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn start_scheduler(&self) -> Result<SchedulerStatus, Error> {
        let answer = call!(self, unary, start_scheduler, StartSchedulerRequest {})?;
        present(answer.status, "StartSchedulerResponse.status")
    }

    /// Decides no slot on any server until [`start_scheduler`](Self::start_scheduler). Runs that were started go on.
    ///
    /// # Errors
    /// [`Error::InvalidField`], [`Error::StoreUnavailable`].
    pub async fn stop_scheduler(&self, note: impl Into<String>) -> Result<SchedulerStatus, Error> {
        let answer = call!(self, unary, stop_scheduler, StopSchedulerRequest { note: note.into() })?;
        present(answer.status, "StopSchedulerResponse.status")
    }
}

/// Which schedules to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ScheduleQuery {
    message: ListSchedulesRequest,
}

impl ScheduleQuery {
    /// Only schedules of this target.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Schedules fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, schedules: u32) -> Self {
        self.message.page_size = schedules;
        self
    }
}

/// Which slots to list; those of all schedules by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ScheduleRunQuery {
    message: ListScheduleRunsRequest,
}

impl ScheduleRunQuery {
    /// Only slots of this schedule, by id or name.
    pub fn of(schedule: impl Into<String>) -> Self {
        Self {
            message: ListScheduleRunsRequest {
                id: schedule.into(),
                ..ListScheduleRunsRequest::default()
            },
        }
    }

    /// Only slots with this outcome; call it again for further ones.
    pub fn outcome(mut self, outcome: SlotOutcome) -> Self {
        self.message.outcomes.push(outcome.into());
        self
    }

    /// Slots fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, slots: u32) -> Self {
        self.message.page_size = slots;
        self
    }
}

/// Which times to compute.
#[derive(Debug, Clone)]
#[must_use]
pub struct PreviewRequest {
    message: PreviewScheduleRequest,
}

impl PreviewRequest {
    /// Times of a schedule, by id or name.
    pub fn of_schedule(id: impl Into<String>) -> Self {
        Self::of(Of::Id(id.into()))
    }

    /// Times of a timing that belongs to no schedule yet.
    pub fn of_timing(timing: ScheduleTiming) -> Self {
        Self::of(Of::Timing(timing.into_message()))
    }

    fn of(of: Of) -> Self {
        Self {
            message: PreviewScheduleRequest {
                of: Some(of),
                ..PreviewScheduleRequest::default()
            },
        }
    }

    /// How many, 1 to 1,000; the server's default is 10.
    pub fn count(mut self, times: u32) -> Self {
        self.message.count = times;
        self
    }

    /// Only times after this instant; after now where not set.
    pub fn after(mut self, instant: jiff::Timestamp) -> Self {
        self.message.after = Some(wire_instant(instant));
        self
    }
}
