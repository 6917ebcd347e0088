//! `ScheduleService`: schedules, what became of their slots, and the switch over all of them. Called by tonic.

use std::collections::HashSet;

use dbkeep_engine::{
    Engine, EngineError,
    access::Scope,
    engine::schedules::{MAX_NOTE, MAX_PREVIEW, ScheduleView},
    model::{ScheduleId, SlotRecord, Timing},
    port::{SlotFilter, SlotPlace},
};
use dbkeep_proto::v1::{self, schedule_service_server::ScheduleService};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    convert::{
        schedule::{self as convert, Patch},
        time,
    },
    detached,
    gate::{caller_of, deadline_of, scope_of},
    page::seen,
    status::{Fault, Violation},
    stream::{EventStream, Streams},
    validate::Check,
};

/// Times of a preview where the caller does not say.
const PREVIEW: u32 = 10;

/// The service.
#[derive(Clone)]
pub(super) struct Schedules {
    pub(super) engine: Engine,
    pub(super) streams: Streams,
}

/// A failure with fields as the .proto files name them, and what the conversion has found before. What could not be read is judged by the
/// conversion alone: in its place the engine has seen something else.
fn merged(fault: Fault, before: Vec<Violation>) -> Fault {
    match fault {
        Fault::Engine(EngineError::InvalidFields { problems }) => {
            let unread = |field: &str| before.iter().any(|violation| is_within(&violation.field, field));
            let problems = problems.into_iter().map(|problem| Violation {
                field: convert::wire_field(&problem.field),
                problem: problem.problem,
            });
            let judged: Vec<Violation> = problems.filter(|violation| !unread(&violation.field)).collect();
            Fault::Fields([before, judged].concat())
        }
        other if before.is_empty() => other,
        _ => Fault::Fields(before),
    }
}

/// Whether a path is that of a field, or of a part of it.
fn is_within(path: &str, field: &str) -> bool {
    path.strip_prefix(field)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn etag(text: &str, check: &mut Check) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let number = text.parse().ok();
    if number.is_none() {
        check.refuse(
            "etag",
            format!("is {text:?}; expected the etag of a schedule, as it was read"),
        );
    }
    number
}

fn named(id: &str, check: &mut Check) {
    check.present("id", id, "the id or name of a schedule");
}

fn note(text: &str, check: &mut Check) {
    let length = text.chars().count();
    if length > MAX_NOTE {
        check.refuse("note", format!("has {length} characters; expected at most {MAX_NOTE}"));
    }
}

impl Schedules {
    /// The schedules that a caller for some targets sees; none for one who sees all.
    async fn seen_schedules(&self, scope: &Scope) -> Result<HashSet<ScheduleId>, Fault> {
        let mut seen = HashSet::new();
        for target in scope.targets().into_iter().flatten() {
            let (engine, target) = (self.engine.clone(), target.clone());
            let found = detached(async move { engine.schedules(Some(&target), None, u32::MAX).await }).await?;
            seen.extend(found.into_iter().map(|found| found.schedule.id));
        }
        Ok(seen)
    }

    /// A failure as the caller may know it: that a name is taken is for everybody, by which schedule only for who sees that.
    async fn seen_failure(&self, fault: Fault, scope: &Scope) -> Fault {
        let Fault::Engine(EngineError::ScheduleExists { name, id: Some(id) }) = fault else {
            return fault;
        };
        let engine = self.engine.clone();
        let other = detached(async move { engine.schedule(&id.to_string()).await }).await;
        let is_seen = scope.is_all() || other.is_ok_and(|other| scope.covers(&other.schedule.spec.target));
        Fault::Engine(EngineError::ScheduleExists {
            name,
            id: is_seen.then_some(id),
        })
    }

    /// What the engine says about a spec whose conversion found mistakes already: all of them in one answer. `of` is the schedule that is
    /// changed; none for one that is created.
    async fn refused(&self, patch: &Patch, check: Check, of: Option<&str>) -> Result<(), Fault> {
        let Err(fault) = check.finish() else { return Ok(()) };
        let Fault::Fields(before) = fault else { return Err(fault) };
        let base = match of {
            None => convert::blank(),
            Some(id) => {
                let (engine, id) = (self.engine.clone(), id.to_owned());
                match detached(async move { engine.schedule(&id).await }).await {
                    Ok(found) => found.schedule.spec,
                    // What is malformed is so whether there is such a schedule or not.
                    Err(_) => return Err(Fault::Fields(before)),
                }
            }
        };
        let spec = patch.on(&base);
        let engine = self.engine.clone();
        let problems = detached(async move { engine.schedule_problems(spec).await }).await?;
        let problems = problems.into_iter().map(|problem| patch.located(problem)).collect();
        Err(merged(Fault::Engine(EngineError::InvalidFields { problems }), before))
    }

    /// The same about a timing that is only looked at.
    async fn refused_timing(&self, timing: &Timing, check: Check) -> Result<(), Fault> {
        let Err(fault) = check.finish() else { return Ok(()) };
        let Fault::Fields(before) = fault else { return Err(fault) };
        let (engine, timing) = (self.engine.clone(), timing.clone());
        match detached(async move { engine.preview(&timing, Some(Timestamp::UNIX_EPOCH), 0).await }).await {
            Ok(_) => Err(Fault::Fields(before)),
            Err(fault) => Err(merged(fault, before)),
        }
    }
}

#[tonic::async_trait]
impl ScheduleService for Schedules {
    async fn create_schedule(
        &self,
        request: Request<v1::CreateScheduleRequest>,
    ) -> Result<Response<v1::CreateScheduleResponse>, Status> {
        let (caller, scope) = (caller_of(&request), scope_of(&request));
        let v1::CreateScheduleRequest { spec, request_id } = request.into_inner();
        let mut check = Check::default();
        check.request_id(&request_id);
        let patch = Patch::of(spec.unwrap_or_default(), |_| true, &mut check);
        self.refused(&patch, check, None).await?;
        let engine = self.engine.clone();
        let spec = patch.on(&convert::blank());
        let made = detached(async move { engine.create_schedule(spec, &request_id, &caller).await }).await;
        let made = match made {
            Ok(made) => made,
            Err(fault) => return Err(merged(self.seen_failure(fault, &scope).await, Vec::new()).into()),
        };
        Ok(Response::new(v1::CreateScheduleResponse {
            schedule: Some(convert::schedule(made)),
        }))
    }

    async fn get_schedule(&self, request: Request<v1::GetScheduleRequest>) -> Result<Response<v1::GetScheduleResponse>, Status> {
        let id = request.into_inner().id;
        let mut check = Check::default();
        named(&id, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let found = detached(async move { engine.schedule(&id).await }).await?;
        Ok(Response::new(v1::GetScheduleResponse {
            schedule: Some(convert::schedule(found)),
        }))
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        let scope = scope_of(&request);
        let v1::ListSchedulesRequest {
            target,
            page_size,
            page_token,
        } = request.into_inner();
        let mut check = Check::default();
        let size = check.page_size(page_size);
        // A token is the name after which the list goes on, in hexadecimal: names are free text.
        let after = if page_token.is_empty() {
            None
        } else {
            let name = hex::decode(&page_token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            if name.is_none() {
                check.refuse(
                    "page_token",
                    "is no token of this list; expected next_page_token of the page before",
                );
            }
            name
        };
        check.finish()?;
        let target = Some(target)
            .filter(|target| !target.is_empty())
            .or_else(|| scope.only().map(str::to_owned));
        let fetch = |after: Option<String>, limit| {
            let (engine, target) = (self.engine.clone(), target.clone());
            detached(async move { engine.schedules(target.as_deref(), after.as_deref(), limit).await })
        };
        let name = |found: &ScheduleView| found.schedule.spec.name.clone();
        let mut found = seen(size, after, fetch, name, |found| scope.covers(&found.schedule.spec.target)).await?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let more = found.len() > length;
        found.truncate(length);
        let next_page_token = match found.last() {
            Some(last) if more => hex::encode(&last.schedule.spec.name),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListSchedulesResponse {
            schedules: found.into_iter().map(convert::schedule).collect(),
            next_page_token,
        }))
    }

    async fn update_schedule(
        &self,
        request: Request<v1::UpdateScheduleRequest>,
    ) -> Result<Response<v1::UpdateScheduleResponse>, Status> {
        let (caller, scope) = (caller_of(&request), scope_of(&request));
        let v1::UpdateScheduleRequest {
            id,
            etag: given,
            spec,
            update_mask,
        } = request.into_inner();
        let mut check = Check::default();
        named(&id, &mut check);
        let etag = etag(&given, &mut check);
        let paths = update_mask.unwrap_or_default().paths;
        for (position, path) in paths.iter().enumerate() {
            if !convert::FIELDS.contains(&path.as_str()) {
                let known = convert::FIELDS.join(", ");
                check.refuse(
                    format!("update_mask.paths[{position}]"),
                    format!("is {path:?}; expected one of {known}"),
                );
            }
        }
        let wanted = |field: &str| paths.is_empty() || paths.iter().any(|path| path == field);
        let patch = Patch::of(spec.unwrap_or_default(), wanted, &mut check);
        self.refused(&patch, check, Some(&id)).await?;
        let engine = self.engine.clone();
        let changed = detached(async move { engine.update_schedule(&id, etag, &caller, |spec| patch.on(spec)).await }).await;
        let changed = match changed {
            Ok(changed) => changed,
            Err(fault) => return Err(merged(self.seen_failure(fault, &scope).await, Vec::new()).into()),
        };
        Ok(Response::new(v1::UpdateScheduleResponse {
            schedule: Some(convert::schedule(changed)),
        }))
    }

    async fn delete_schedule(
        &self,
        request: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        let caller = caller_of(&request);
        let v1::DeleteScheduleRequest { id, etag: given } = request.into_inner();
        let mut check = Check::default();
        named(&id, &mut check);
        let etag = etag(&given, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        detached(async move { engine.delete_schedule(&id, etag, &caller).await }).await?;
        Ok(Response::new(v1::DeleteScheduleResponse {}))
    }

    type RunScheduleStream = EventStream<v1::RunScheduleResponse>;

    async fn run_schedule(&self, request: Request<v1::RunScheduleRequest>) -> Result<Response<Self::RunScheduleStream>, Status> {
        let deadline = deadline_of(&request);
        let caller = caller_of(&request);
        let v1::RunScheduleRequest { id, request_id } = request.into_inner();
        let mut check = Check::default();
        named(&id, &mut check);
        check.finish()?;
        let place = self.streams.place()?;
        let engine = self.engine.clone();
        let run = detached(async move { engine.run_schedule(&id, &request_id, &caller).await }).await?;
        let events = self
            .streams
            .follow(&self.engine, run.id.to_string(), 0, place, deadline)
            .await?;
        Ok(events.answer(|event| v1::RunScheduleResponse { event: Some(event) }))
    }

    async fn pause_schedule(
        &self,
        request: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::PauseScheduleResponse>, Status> {
        let caller = caller_of(&request);
        let v1::PauseScheduleRequest { id, note: why } = request.into_inner();
        let mut check = Check::default();
        named(&id, &mut check);
        note(&why, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let paused = detached(async move { engine.pause_schedule(&id, &why, &caller).await }).await?;
        Ok(Response::new(v1::PauseScheduleResponse {
            schedule: Some(convert::schedule(paused)),
        }))
    }

    async fn resume_schedule(
        &self,
        request: Request<v1::ResumeScheduleRequest>,
    ) -> Result<Response<v1::ResumeScheduleResponse>, Status> {
        let caller = caller_of(&request);
        let v1::ResumeScheduleRequest { id, note: why } = request.into_inner();
        let mut check = Check::default();
        named(&id, &mut check);
        note(&why, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let resumed = detached(async move { engine.resume_schedule(&id, &why, &caller).await }).await?;
        Ok(Response::new(v1::ResumeScheduleResponse {
            schedule: Some(convert::schedule(resumed)),
        }))
    }

    async fn approve_schedule(
        &self,
        request: Request<v1::ApproveScheduleRequest>,
    ) -> Result<Response<v1::ApproveScheduleResponse>, Status> {
        let caller = caller_of(&request);
        let v1::ApproveScheduleRequest {
            id,
            etag: given,
            max_rows,
            expire_time,
        } = request.into_inner();
        let mut check = Check::default();
        named(&id, &mut check);
        check.present("etag", &given, "the etag of the schedule that was reviewed");
        let etag = etag(&given, &mut check).unwrap_or_default();
        let expires_at = expire_time.as_ref().and_then(time::instant);
        if expires_at.is_none() {
            check.refuse(
                "expire_time",
                "is missing or malformed; expected until when the approval holds",
            );
        }
        check.finish()?;
        let engine = self.engine.clone();
        let expires_at = expires_at.unwrap_or(Timestamp::UNIX_EPOCH);
        let approved = detached(async move { engine.approve_schedule(&id, etag, max_rows, expires_at, &caller).await }).await?;
        Ok(Response::new(v1::ApproveScheduleResponse {
            schedule: Some(convert::schedule(approved)),
        }))
    }

    async fn preview_schedule(
        &self,
        request: Request<v1::PreviewScheduleRequest>,
    ) -> Result<Response<v1::PreviewScheduleResponse>, Status> {
        let v1::PreviewScheduleRequest { of, count, after } = request.into_inner();
        let mut check = Check::default();
        let most = u32::try_from(MAX_PREVIEW).unwrap_or(u32::MAX);
        if count > most {
            check.refuse("count", format!("is {count}; expected 1 to {most}, or 0 for {PREVIEW}"));
        }
        let count = usize::try_from(if count == 0 { PREVIEW } else { count }).unwrap_or(usize::MAX);
        let instant = after.as_ref().and_then(time::instant);
        if after.is_some() && instant.is_none() {
            check.refuse("after", "is malformed; expected an instant");
        }
        let timing = match of {
            Some(v1::preview_schedule_request::Of::Id(id)) => {
                named(&id, &mut check);
                check.finish()?;
                let engine = self.engine.clone();
                let found = detached(async move { engine.schedule(&id).await }).await?;
                found.schedule.spec.timing
            }
            Some(v1::preview_schedule_request::Of::Timing(timing)) => {
                let timing = convert::timing(timing, "timing", &mut check);
                self.refused_timing(&timing, check).await?;
                timing
            }
            None => {
                check.refuse("id", "is empty, and no timing is given; expected one of them");
                return Err(check
                    .finish()
                    .map_or_else(Status::from, |()| Status::from(Fault::Fields(Vec::new()))));
            }
        };
        let engine = self.engine.clone();
        let times = detached(async move { engine.preview(&timing, instant, count).await }).await;
        let times = times.map_err(|fault| merged(fault, Vec::new()))?;
        Ok(Response::new(v1::PreviewScheduleResponse {
            times: times.into_iter().map(convert::previewed).collect(),
        }))
    }

    async fn list_schedule_runs(
        &self,
        request: Request<v1::ListScheduleRunsRequest>,
    ) -> Result<Response<v1::ListScheduleRunsResponse>, Status> {
        let scope = scope_of(&request);
        let v1::ListScheduleRunsRequest {
            id,
            outcomes,
            page_size,
            page_token,
        } = request.into_inner();
        let mut check = Check::default();
        let size = check.page_size(page_size);
        let outcomes = convert::outcomes(&outcomes, &mut check);
        let behind = if page_token.is_empty() { None } else { place_of(&page_token) };
        if !page_token.is_empty() && behind.is_none() {
            check.refuse(
                "page_token",
                "is no token of this list; expected next_page_token of the page before",
            );
        }
        check.finish()?;
        let schedule = if id.is_empty() {
            None
        } else {
            let engine = self.engine.clone();
            Some(detached(async move { engine.schedule(&id).await }).await?.schedule.id)
        };
        // A slot does not say whose it is; its schedule does. One that was deleted is seen by those only who see everything.
        let schedules = self.seen_schedules(&scope).await?;
        let filter = SlotFilter { schedule, outcomes };
        let fetch = |behind, limit| {
            let (engine, filter) = (self.engine.clone(), filter.clone());
            detached(async move { engine.slots(&filter, behind, limit).await })
        };
        let place = |slot: &SlotRecord| SlotPlace {
            slot: slot.slot,
            schedule: slot.schedule,
        };
        let visible = |slot: &SlotRecord| scope.is_all() || schedules.contains(&slot.schedule);
        let mut slots = seen(size, behind, fetch, place, visible).await?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let more = slots.len() > length;
        slots.truncate(length);
        let next_page_token = match slots.last() {
            Some(last) if more => format!("{:x}.{}", last.slot.as_millisecond(), last.schedule),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListScheduleRunsResponse {
            runs: slots.into_iter().map(convert::slot).collect(),
            next_page_token,
        }))
    }

    async fn get_scheduler_status(
        &self,
        request: Request<v1::GetSchedulerStatusRequest>,
    ) -> Result<Response<v1::GetSchedulerStatusResponse>, Status> {
        let scope = scope_of(&request);
        let engine = self.engine.clone();
        let view = detached(async move { engine.scheduler_view(&scope).await }).await?;
        Ok(Response::new(v1::GetSchedulerStatusResponse {
            status: Some(convert::scheduler(view)),
        }))
    }

    async fn start_scheduler(
        &self,
        request: Request<v1::StartSchedulerRequest>,
    ) -> Result<Response<v1::StartSchedulerResponse>, Status> {
        let caller = caller_of(&request);
        let engine = self.engine.clone();
        let view = detached(async move { engine.switch_scheduler(true, "", &caller).await }).await?;
        Ok(Response::new(v1::StartSchedulerResponse {
            status: Some(convert::scheduler(view)),
        }))
    }

    async fn stop_scheduler(
        &self,
        request: Request<v1::StopSchedulerRequest>,
    ) -> Result<Response<v1::StopSchedulerResponse>, Status> {
        let caller = caller_of(&request);
        let why = request.into_inner().note;
        let mut check = Check::default();
        note(&why, &mut check);
        check.finish()?;
        let engine = self.engine.clone();
        let view = detached(async move { engine.switch_scheduler(false, &why, &caller).await }).await?;
        Ok(Response::new(v1::StopSchedulerResponse {
            status: Some(convert::scheduler(view)),
        }))
    }
}

/// The place that a page token names.
fn place_of(token: &str) -> Option<SlotPlace> {
    let (slot, schedule) = token.split_once('.')?;
    Some(SlotPlace {
        slot: Timestamp::from_millisecond(i64::from_str_radix(slot, 16).ok()?).ok()?,
        schedule: schedule.parse().ok()?,
    })
}
