//! Rows as the model's nouns and back. What does not fit the model is `Corrupt`, with the run and the column that it is in.

use std::{fmt::Display, str::FromStr};

use dbkeep_engine::{
    model::{Event, PlanId, Pruned, Run, RunId, RunKind, RunLimits, RunOptions, RunState, Verification},
    port::StoreError,
};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Any, Decode, Row, Type, any::AnyRow};
use uuid::Uuid;

use super::{
    failure::{corrupt, store_error},
    queue,
};

/// The columns of the table `runs` that [`stored_run`] reads; with [`queue::WAITING`].
pub(super) const RUN: &str = "id, kind, target, state, state_reason, operations, plan_id, source_id, undone_by, options, limits, attempts, \
     report, first_sequence, last_sequence, cancel_reason, pause_reason, created_ms, started_ms, ended_ms, verification, verified_ms, \
     started_by, approvals, approvals_required, approve_until_ms, pruned_ms, prune_complete, fence";

/// `SELECT` of those columns from the table `runs`; conditions follow.
pub(super) fn select_run() -> String {
    format!("SELECT {RUN}, {} FROM runs", queue::WAITING)
}

/// A run with what only the store needs to know of it.
pub(super) struct StoredRun {
    pub(super) run: Run,
    /// Oldest event that is kept.
    pub(super) first_sequence: u64,
    /// Fence of the newest claim.
    pub(super) fence: u64,
}

/// Reads a row with the columns of [`RUN`].
pub(super) fn stored_run(row: &AnyRow) -> Result<StoredRun, StoreError> {
    let id: RunId = parsed(row, "id")?;
    let stamp = |column| column_of::<Option<i64>>(row, column)?.map(|ms| timestamp(ms, id)).transpose();
    let json = |column| Ok::<_, StoreError>((column_of::<String>(row, column)?, move || format!("{column} of run {id}")));
    let (operations, operations_place) = json("operations")?;
    let (options, options_place) = json("options")?;
    let (report, report_place) = json("report")?;
    let (approvals, approvals_place) = json("approvals")?;
    let kind: String = column_of(row, "kind")?;
    let state: String = column_of(row, "state")?;
    let verification: String = column_of(row, "verification")?;
    let verified_at = stamp("verified_ms")?;
    let options: RunOptions = from_json(&options, options_place)?;
    let limits: Option<String> = column_of(row, "limits")?;
    let run = Run {
        id,
        kind: kind_of(&kind).ok_or_else(|| corrupt(format!("kind {kind:?} of run {id}")))?,
        target: column_of(row, "target")?,
        state: state_of(&state).ok_or_else(|| corrupt(format!("state {state:?} of run {id}")))?,
        state_reason: column_of(row, "state_reason")?,
        operations: from_json(&operations, operations_place)?,
        plan: PlanId(parsed::<Uuid>(row, "plan_id")?),
        source: optional_id(row, "source_id")?,
        undone_by: optional_id(row, "undone_by")?,
        options,
        limits: limits_of(limits.as_deref(), options, id)?,
        waiting: queue::waiting(row)?,
        attempts: unsigned(column_of(row, "attempts")?, id)?,
        report: from_json(&report, report_place)?,
        last_sequence: unsigned(column_of(row, "last_sequence")?, id)?,
        cancel_reason: column_of(row, "cancel_reason")?,
        pause_reason: column_of(row, "pause_reason")?,
        created_at: timestamp(column_of(row, "created_ms")?, id)?,
        started_at: stamp("started_ms")?,
        ended_at: stamp("ended_ms")?,
        verification: verification_of(&verification, verified_at)
            .ok_or_else(|| corrupt(format!("verification {verification:?} of run {id}")))?,
        started_by: column_of(row, "started_by")?,
        approvals: from_json(&approvals, approvals_place)?,
        approvals_required: unsigned(column_of(row, "approvals_required")?, id)?,
        approve_until: stamp("approve_until_ms")?,
        pruned: stamp("pruned_ms")?
            .map(|at| {
                Ok::<_, StoreError>(Pruned {
                    at,
                    complete: column_of::<i64>(row, "prune_complete")? != 0,
                })
            })
            .transpose()?,
    };
    Ok(StoredRun {
        run,
        first_sequence: unsigned(column_of(row, "first_sequence")?, id)?,
        fence: unsigned(column_of(row, "fence")?, id)?,
    })
}

/// Limits in effect: what was stored, or, of a run that is older than that column, those of its options.
pub(super) fn limits_of(stored: Option<&str>, options: RunOptions, run: RunId) -> Result<RunLimits, StoreError> {
    match stored {
        Some(json) => from_json(json, || format!("limits of run {run}")),
        None => Ok(options.limits()),
    }
}

/// Reads an event from the columns `sequence`, `at_ms` and `body`; `None` where they are NULL.
pub(super) fn event(row: &AnyRow, run: RunId) -> Result<Option<Event>, StoreError> {
    let Some(sequence) = column_of::<Option<i64>>(row, "sequence")? else {
        return Ok(None);
    };
    let at = timestamp(column_of(row, "at_ms")?, run)?;
    let body: String = column_of(row, "body")?;
    let body = from_json(&body, || format!("event {sequence} of run {run}"))?;
    Ok(Some(Event {
        run,
        sequence: unsigned(sequence, run)?,
        at,
        body,
    }))
}

/// A column of a row.
pub(super) fn column_of<'r, T: Decode<'r, Any> + Type<Any>>(row: &'r AnyRow, column: &str) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| store_error(&error))
}

fn parsed<T: FromStr<Err: Display>>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    let text: String = column_of(row, column)?;
    text.parse()
        .map_err(|error| corrupt(format!("{column} is {text:?}: {error}")))
}

/// A run's id that may be absent.
pub(super) fn optional_id(row: &AnyRow, column: &str) -> Result<Option<RunId>, StoreError> {
    let text: Option<String> = column_of(row, column)?;
    text.map(|text| {
        text.parse()
            .map_err(|error| corrupt(format!("{column} is {text:?}: {error}")))
    })
    .transpose()
}

/// A number that the model holds unsigned.
pub(super) fn unsigned<T: TryFrom<i64>>(number: i64, run: RunId) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| corrupt(format!("number {number} of run {run}")))
}

/// A number as the databases hold it. None that counts rows or events comes near the limit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An instant of a run.
pub(super) fn timestamp(ms: i64, run: RunId) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|error| corrupt(format!("time {ms} of run {run}: {error}")))
}

/// The server's clock, as exact as the store keeps it, so that an event reads the same before and after.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Free text as both databases take it: PostgreSQL refuses U+0000.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| corrupt(format!("a value that cannot be written as JSON: {error}")))
}

pub(super) fn from_json<T: DeserializeOwned>(json: &str, place: impl FnOnce() -> String) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| corrupt(format!("{}: {error}", place())))
}

pub(super) fn kind_of(name: &str) -> Option<RunKind> {
    RunKind::ALL.into_iter().find(|kind| kind.name() == name)
}

pub(super) fn state_of(name: &str) -> Option<RunState> {
    RunState::ALL.into_iter().find(|state| state.name() == name)
}

/// The two columns that a verification is kept in.
pub(super) fn verification_columns(verification: Verification) -> (&'static str, Option<i64>) {
    match verification {
        Verification::Unverified => ("unverified", None),
        Verification::Verified(at) => ("verified", Some(at.as_millisecond())),
        Verification::Damaged(at) => ("damaged", Some(at.as_millisecond())),
    }
}

fn verification_of(name: &str, at: Option<Timestamp>) -> Option<Verification> {
    match (name, at) {
        ("unverified", None) => Some(Verification::Unverified),
        ("verified", Some(at)) => Some(Verification::Verified(at)),
        ("damaged", Some(at)) => Some(Verification::Damaged(at)),
        _ => None,
    }
}
