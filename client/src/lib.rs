//! Typed client of dbkeep, the database maintenance service.
//!
//! Owns the connection, one handle per service with a method for every RPC, the retries, the streams that survive a broken
//! connection, and the typed errors. Does not own the wire types: those are [`proto`], and answers are handed out as they
//! are. The command line tool `dbkeep` (feature `cli`) is built on this library and uses nothing that is not public here.
//!
//! # Connection
//!
//! ```no_run
//! use std::time::Duration;
//! use dbkeep_client::Client;
//!
//! # async fn example() -> Result<(), dbkeep_client::Error> {
//! let client = Client::builder()
//!     .address("127.0.0.1:50777")
//!     .call_timeout(Duration::from_secs(10))
//!     .connect()
//!     .await?;
//! # let _ = client;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is cheap to clone; clones share one HTTP/2 connection, which comes back by itself after it broke.
//!
//! # A run, from the plan to the undo
//!
//! ```no_run
//! use dbkeep_client::{Client, PlanRequest, RunRequest, proto};
//! use futures::StreamExt as _;
//!
//! # async fn example(client: Client) -> Result<(), dbkeep_client::Error> {
//! // What would go? Nothing is changed by asking.
//! let plan = client.cleanup().plan(PlanRequest::new(["expired_tokens"])).await?;
//! println!("{} rows in {} steps", plan.row_count, plan.steps.len());
//!
//! // Execute exactly this plan. The run belongs to the server; the stream only watches it.
//! let mut events = client.cleanup().run(RunRequest::of_plan(&plan).execute().batch_size(500)).await?;
//! while let Some(event) = events.next().await {
//!     if let Some(proto::run_event::Event::Progress(progress)) = event?.event {
//!         println!("{} of {} rows", progress.rows_affected, progress.rows_planned);
//!     }
//! }
//! let run = events.finish().await?;
//!
//! // Put every row back.
//! let undo = client.runs().undo(run.id.as_str()).await?.finish().await?;
//! println!("{} rows are back", undo.report.unwrap_or_default().rows_affected);
//! # Ok(())
//! # }
//! ```
//!
//! # What is repeated, and what is not
//!
//! Unary calls are repeated on UNAVAILABLE only, with backoff and jitter, honouring the server's `RetryInfo` and never past
//! the call's timeout. Calls that change something carry a request id that is made up once and sent with every repetition,
//! so that the server does the work once. What cannot carry one and would mean something else a second time is sent once: changes of the
//! ledger of migrations, and deleting or firing a schedule. [`RunStream`] reconnects through `WatchRun` after its last event.

mod access;
mod audit;
mod backups;
mod cleanup;
mod connect;
mod decisions;
mod discovery;
mod error;
mod migrations;
mod monitoring;
mod notifications;
mod retry;
mod runs;
mod schedules;
mod targets;
mod watch;

pub use dbkeep_proto::v1 as proto;
pub use tonic::{Code, transport::Channel};

pub use crate::{
    access::{Access, NewToken, TokenDraft},
    audit::{Audit, AuditQuery},
    backups::{BackupDetail, BackupQuery, Backups, CreateRequest, PruneRequest, RestoreRequest, VerifyRequest},
    cleanup::{Cleanup, OperationQuery, PlanRequest, RunRequest},
    connect::{Client, ClientBuilder, DEFAULT_ADDRESS},
    decisions::{DecisionQuery, Decisions},
    discovery::DiscoverRequest,
    error::{Error, FieldViolation, MigrationViolation},
    migrations::{
        ApplyRequest, MigrationDetail, MigrationManner, MigrationQuery, MigrationSelection, Migrations, RehearseRequest,
        RollbackRequest,
    },
    monitoring::{AlertQuery, HistoryQuery, Look, Monitoring},
    notifications::{DeliveryQuery, Notifications},
    retry::RetryPolicy,
    runs::{LimitsUpdate, RunQuery, Runs, UndoRequest},
    schedules::{
        PreviewRequest, ScheduleDraft, ScheduleManner, ScheduleNotices, ScheduleQuery, ScheduleRunQuery, ScheduleTiming,
        ScheduleUpdate, Schedules,
    },
    targets::{TargetDetail, Targets},
    watch::{Connection, ReconnectPolicy, RunStream, is_final},
};
