//! The state behind a [`RunStream`](super::RunStream).
//!
//! Owns the order of events, the reconnecting, and the decision that a run has ended. `watch.rs` polls it.
//!
//! ```text
//!   RunCleanup / UndoRun / VerifyBackup / CreateBackup / RestoreBackup / WatchRun /
//!   TestMigration / ApplyMigrations / RollbackMigrations / RunSchedule
//!                              |
//!                              v   event: due -> deliver, old -> drop, too new -> SequenceGap
//!   +---------------------> following ---- StateChanged into a final state ----> end
//!   |                          |
//!   |             broken, UNAVAILABLE, SHUTTING_DOWN, too many streams, or closed early
//!   |                          v
//!   |   a run id is known:  WatchRun(run, after the last delivered sequence)
//!   |   no event came yet:  the same call with the same request id
//!   |                          |
//!   +------ opened ------------+------ no contact for `give_up_after` ----> LostContact
//! ```
//!
//! A server closes a stream early when it shuts down, and at once when a run that ended is watched after its last event;
//! the run itself tells the two apart. The first message of ApplyMigrations and RollbackMigrations has the plan and no event:
//! whoever wants a plan asks for it, so that it is passed over here.

use dbkeep_proto::v1::{
    ApplyMigrationsRequest, CreateBackupRequest, MigrationPlan, RestoreBackupRequest, RollbackMigrationsRequest,
    RunCleanupRequest, RunEvent, RunScheduleRequest, TestMigrationRequest, UndoRunRequest, VerifyBackupRequest, WatchRunRequest,
    run_event::Event,
};
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{Connection, is_final};
use crate::{
    connect::Client,
    error::Error,
    retry::{self, Backoff},
};

/// The call that a stream begins with; kept to repeat it where it breaks before it told the run's id.
#[derive(Debug, Clone)]
pub(crate) enum Opening {
    Cleanup(RunCleanupRequest),
    Undo(UndoRunRequest),
    Verify(VerifyBackupRequest),
    Backup(CreateBackupRequest),
    Restore(RestoreBackupRequest),
    Rehearse(TestMigrationRequest),
    Apply(ApplyMigrationsRequest),
    Rollback(RollbackMigrationsRequest),
    Schedule(RunScheduleRequest),
    Watch(WatchRunRequest),
}

/// The calls stream the same message in different envelopes.
type Events = BoxStream<'static, Result<Option<RunEvent>, Status>>;

/// A follower after it waited for an event, and what came of it.
pub(super) type Step = (Box<Follower>, Option<Result<RunEvent, Error>>);

/// A run being followed.
pub(super) struct Follower {
    client: Client,
    opening: Opening,
    pub(super) run_id: Option<String>,
    pub(super) last_sequence: u64,
    events: Option<Events>,
    opened_at: Instant,
    /// Set from a break until the next event.
    outage: Option<Outage>,
    connection: watch::Sender<Connection>,
    /// Nothing comes any more: the run ended, or an error did.
    pub(super) ended: bool,
}

struct Outage {
    since: Instant,
    backoff: Backoff,
}

/// What becomes of an event that came.
#[derive(Debug)]
enum Verdict {
    Deliver,
    Drop,
}

impl Follower {
    /// Opens the stream for the first time, repeating on UNAVAILABLE as the client's retry policy says.
    pub(super) async fn begin(client: Client, opening: Opening, connection: watch::Sender<Connection>) -> Result<Self, Error> {
        let (run_id, last_sequence) = match &opening {
            Opening::Watch(request) => (Some(request.id.clone()), request.after_sequence),
            Opening::Cleanup(_)
            | Opening::Undo(_)
            | Opening::Verify(_)
            | Opening::Backup(_)
            | Opening::Restore(_)
            | Opening::Rehearse(_)
            | Opening::Apply(_)
            | Opening::Rollback(_)
            | Opening::Schedule(_) => (None, 0),
        };
        let mut follower = Self {
            client,
            opening,
            run_id,
            last_sequence,
            events: None,
            opened_at: Instant::now(),
            outage: None,
            connection,
            ended: false,
        };
        // Opening has no deadline of its own (a server may count rows before it answers), but the pauses between attempts do.
        let deadline = Instant::now() + follower.client.call_timeout();
        let policy = follower.client.retry().clone();
        let events = retry::attempts(&policy, deadline, || follower.open()).await?;
        follower.events = Some(events);
        follower.opened_at = Instant::now();
        Ok(follower)
    }

    /// Waits for the next event. Takes itself along, so that the stream can keep the wait between two polls.
    pub(super) async fn into_next(mut self: Box<Self>) -> Step {
        let item = self.next().await;
        if !matches!(item, Some(Ok(_))) {
            self.ended = true;
        }
        (self, item)
    }

    /// The next event to deliver; `None` once the run has ended.
    async fn next(&mut self) -> Option<Result<RunEvent, Error>> {
        loop {
            let problem = match &mut self.events {
                None => return None,
                Some(events) => match events.next().await {
                    Some(Ok(Some(event))) => match self.judge(&event) {
                        Ok(Verdict::Deliver) => return Some(Ok(event)),
                        Ok(Verdict::Drop) => continue,
                        Err(error) => return Some(Err(error)),
                    },
                    Some(Ok(None)) => return Some(Err(Error::Incomplete { missing: "event" })),
                    Some(Err(status)) => Error::from(status),
                    None => match self.has_ended().await {
                        Ok(true) => return None,
                        Ok(false) => Error::Unreachable {
                            problem: "the stream was closed before the run ended".to_owned(),
                        },
                        Err(error) => error,
                    },
                },
            };
            self.events = None;
            if let Err(error) = self.come_back(problem).await {
                return Some(Err(error));
            }
        }
    }

    /// Decides over an event and moves on to it.
    fn judge(&mut self, event: &RunEvent) -> Result<Verdict, Error> {
        self.outage = None;
        if self.run_id.is_none() && !event.run_id.is_empty() {
            self.run_id = Some(event.run_id.clone());
        }
        if let Some(Event::HistoryLost(lost)) = &event.event {
            // Not an entry of the log, but word of its beginning: the next event is the first that is still kept.
            let before_first = lost.first_available_sequence.saturating_sub(1);
            if before_first <= self.last_sequence {
                return Ok(Verdict::Drop);
            }
            self.last_sequence = before_first;
            return Ok(Verdict::Deliver);
        }
        if event.sequence <= self.last_sequence {
            return Ok(Verdict::Drop);
        }
        let expected = self.last_sequence + 1;
        if expected.checked_add(event.coalesced) != Some(event.sequence) {
            return Err(Error::SequenceGap {
                run: event.run_id.clone(),
                expected,
                found: event.sequence,
                coalesced: event.coalesced,
            });
        }
        self.last_sequence = event.sequence;
        if let Some(Event::StateChanged(change)) = &event.event
            && is_final(change.to())
        {
            // Nothing comes after it; the server's own end of stream need not be waited for.
            self.events = None;
        }
        Ok(Verdict::Deliver)
    }

    /// After an early end of the stream: whether the run has ended and everything of it was delivered.
    fn has_ended(&self) -> BoxFuture<'static, Result<bool, Error>> {
        let (client, run_id, last_sequence) = (self.client.clone(), self.run_id.clone(), self.last_sequence);
        async move {
            let Some(run_id) = run_id else { return Ok(false) };
            let run = client.runs().get(run_id).await?;
            Ok(is_final(run.state()) && run.last_sequence <= last_sequence)
        }
        .boxed()
    }

    /// Opens the stream again, with pauses, until it is open, something else than absence goes wrong, or it is time to give up.
    async fn come_back(&mut self, mut problem: Error) -> Result<(), Error> {
        let policy = self.client.reconnect().clone();
        // A stream that stood for long and had nothing to say was contact too.
        if self.opened_at.elapsed() >= policy.max_backoff {
            self.outage = None;
        }
        let now = Instant::now();
        let mut outage = self.outage.take().unwrap_or_else(|| Outage {
            since: now,
            backoff: Backoff::new(policy.initial_backoff, policy.max_backoff),
        });
        loop {
            if !comes_back(&problem) {
                return Err(problem);
            }
            let pause = outage.backoff.pause(problem.retry_after());
            let waited = outage.since.elapsed();
            if waited + pause > policy.give_up_after {
                return Err(Error::LostContact {
                    run: self.run_id.clone(),
                    last_sequence: self.last_sequence,
                    waited,
                    last_error: Box::new(problem),
                });
            }
            tracing::debug!(run = self.run_id, after = self.last_sequence, %problem, pause_ms = pause.as_millis(), "stream broke");
            self.connection.send_replace(Connection::Lost {
                problem: problem.to_string(),
                retry_in: pause,
            });
            sleep(pause).await;
            match self.open().await {
                Ok(events) => {
                    self.events = Some(events);
                    self.opened_at = Instant::now();
                    // Not yet contact: a server that takes calls and breaks them must not be tried for ever, and at full pace.
                    self.outage = Some(outage);
                    self.connection.send_replace(Connection::Open);
                    return Ok(());
                }
                Err(error) => problem = error,
            }
        }
    }

    /// Opens the stream once: by WatchRun where the run is known, else by the call that starts it.
    fn open(&self) -> BoxFuture<'static, Result<Events, Error>> {
        let client = self.client.clone();
        let opening = match &self.run_id {
            Some(id) => Opening::Watch(WatchRunRequest {
                id: id.clone(),
                after_sequence: self.last_sequence,
            }),
            None => self.opening.clone(),
        };
        async move {
            let events: Events = match opening {
                Opening::Cleanup(request) => {
                    let answer = client.cleanup().service().run_cleanup(client.prepare(request, None)).await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Undo(request) => {
                    let answer = client.runs().service().undo_run(client.prepare(request, None)).await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Verify(request) => {
                    let answer = client
                        .backups()
                        .service()
                        .verify_backup(client.prepare(request, None))
                        .await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Backup(request) => {
                    let mut service = client.backups().service();
                    let answer = service.create_backup(client.prepare(request, None)).await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Restore(request) => {
                    let mut service = client.backups().service();
                    let answer = service.restore_backup(client.prepare(request, None)).await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Rehearse(request) => {
                    let mut service = client.migrations().service();
                    let answer = service.test_migration(client.prepare(request, None)).await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Apply(request) => {
                    let mut service = client.migrations().service();
                    let answer = service.apply_migrations(client.prepare(request, None)).await?;
                    without_plan(answer.into_inner().map_ok(|response| (response.plan, response.event)))
                }
                Opening::Rollback(request) => {
                    let mut service = client.migrations().service();
                    let answer = service.rollback_migrations(client.prepare(request, None)).await?;
                    without_plan(answer.into_inner().map_ok(|response| (response.plan, response.event)))
                }
                Opening::Schedule(request) => {
                    let mut service = client.schedules().service();
                    let answer = service.run_schedule(client.prepare(request, None)).await?;
                    answer.into_inner().map_ok(|response| response.event).boxed()
                }
                Opening::Watch(request) => {
                    // Watching begins without work on the server's side, so that silence means absence. The limit is this
                    // side's alone: sent along, it would cut the stream itself.
                    let mut service = client.runs().service();
                    let opened = service.watch_run(client.prepare(request, None));
                    let Ok(answer) = timeout(client.call_timeout(), opened).await else {
                        return Err(Error::Unreachable {
                            problem: "no answer to WatchRun in time".to_owned(),
                        });
                    };
                    answer?.into_inner().map_ok(|response| response.event).boxed()
                }
            };
            Ok(events)
        }
        .boxed()
    }
}

/// The events of a stream whose first message has a plan and no event. A message with neither breaks the protocol, and stays to be
/// told.
fn without_plan(
    messages: impl Stream<Item = Result<(Option<MigrationPlan>, Option<RunEvent>), Status>> + Send + 'static,
) -> Events {
    messages
        .try_filter_map(|(plan, event)| std::future::ready(Ok((plan.is_none() || event.is_some()).then_some(event))))
        .boxed()
}

/// Whether a stream that ended this way is worth opening again. Too many streams is a reason to wait here, and not when a
/// call is first made: the run is under way, and somebody follows it. No deadline is set on a stream, so that one that passes
/// is a proxy's, or that of the question whether the run has ended.
fn comes_back(problem: &Error) -> bool {
    problem.is_unavailable() || matches!(problem, Error::TooManyStreams { .. } | Error::Deadline { .. })
}
