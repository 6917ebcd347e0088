//! What ends is told of: the one place where the end of a run, and what became of a slot without one, turns into notices in the outbox, in
//! the transaction that writes it. Whoever ends the run (its attempt, a person, the lapse of an approval), kill -9 between the end and
//! the notice loses neither. Called by `draft` and `slots`.

use dbkeep_engine::{
    audit::{Phase, Subject},
    model::{
        NotifyRules, Run, RunState, ScheduleId, ScheduleSpec, ScheduledBy, SlotOutcome, SlotRecord,
        notice::{Notice, NoticeKind, ScheduleRef},
    },
    notify::Rules,
    schedule::decide,
};
use jiff::Timestamp;

use super::{
    audit,
    failure::{Failure, corrupt},
    outbox, rows,
    transaction::Tx,
};

/// What a schedule wants to be told.
fn rules(notify: &NotifyRules) -> Rules<'_> {
    Rules {
        on_success: notify.on_success,
        on_failure: notify.on_failure,
        on_warnings: notify.on_warnings,
        channels: &notify.channels,
        recipients: &notify.recipients,
    }
}

async fn spec_of(tx: &mut Tx<'_>, schedule: ScheduleId) -> Result<Option<ScheduleSpec>, Failure> {
    let row = sqlx::query("SELECT spec FROM schedules WHERE id = $1")
        .bind(schedule.to_string())
        .fetch_optional(&mut *tx.connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let json: String = rows::column_of(&row, "spec")?;
    Ok(Some(rows::from_json(&json, || format!("spec of schedule {schedule}"))?))
}

/// That a schedule has a run begin, for the audit log; of others the call says so.
pub(super) fn begun(run: &Run) -> Subject {
    Subject {
        principal: run.started_by.clone(),
        method: format!("run/{}", run.kind.name()),
        target: run.target.clone(),
        detail: format!("run {}, by a schedule", run.id),
        ..Subject::of(run.id.0)
    }
}

/// What a run has done, for the audit log.
fn record(run: &Run) -> Subject {
    let report = &run.report;
    let counts = [
        ("rows_planned", report.total(|step| step.rows_planned)),
        ("rows_affected", report.total(|step| step.rows_affected)),
        ("rows_captured", report.total(|step| step.rows_captured)),
        ("bytes_captured", report.total(|step| step.captured_bytes)),
    ];
    Subject {
        phase: Phase::Ended,
        principal: run.started_by.clone(),
        method: format!("run/{}", run.kind.name()),
        target: run.target.clone(),
        code: run.state.name().to_ascii_uppercase(),
        detail: format!("run {}: {}", run.id, run.state_reason),
        counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        ..Subject::of(run.id.0)
    }
}

/// When the run of a slot had to end; `None` where there is no deadline, or the slot is gone with its schedule.
async fn deadline_of(tx: &mut Tx<'_>, scheduled: &ScheduledBy) -> Result<Option<Timestamp>, Failure> {
    let row = sqlx::query("SELECT deadline_ms FROM schedule_slots WHERE schedule_id = $1 AND slot_ms = $2")
        .bind(scheduled.schedule.to_string())
        .bind(scheduled.slot.as_millisecond())
        .fetch_optional(&mut *tx.connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let deadline_ms: Option<i64> = rows::column_of(&row, "deadline_ms")?;
    let read =
        |ms| Timestamp::from_millisecond(ms).map_err(|_| corrupt(format!("deadline {ms} of a slot of {}", scheduled.schedule)));
    Ok(deadline_ms.map(read).transpose()?)
}

/// Tells of a run that has ended, whoever is to hear of it: the audit log, and by the routes, and by the rules of the schedule that started it: as
/// they are now or, where it is gone, as they were when the run began. A dry run has changed nothing, and whoever asked for it has its answer; of
/// one that a schedule started nobody has.
pub(super) async fn announce(tx: &mut Tx<'_>, run: &Run) -> Result<(), Failure> {
    let scheduled = run.report.scheduled.as_deref();
    if !run.options.dry_run {
        audit::note(tx, record(run)).await?;
    } else if scheduled.is_none() {
        return Ok(());
    }
    let (spec, deadline) = match scheduled {
        Some(scheduled) if run.state == RunState::Cancelled => {
            (spec_of(tx, scheduled.schedule).await?, deadline_of(tx, scheduled).await?)
        }
        Some(scheduled) => (spec_of(tx, scheduled.schedule).await?, None),
        None => (None, None),
    };
    let schedule = scheduled.map(|scheduled| ScheduleRef {
        id: scheduled.schedule.to_string(),
        name: scheduled.name.clone(),
    });
    let notify = spec.as_ref().map(|spec| &spec.notify);
    let notify = notify.or_else(|| scheduled.map(|scheduled| &scheduled.notify));
    let notice = Notice::of_run(run, schedule, decide::stopped_by(deadline, run));
    let envelopes = tx.routing.envelopes(&notice, notify.map(rules));
    outbox::enqueue(tx, &envelopes).await?;
    Ok(())
}

fn about(kind: NoticeKind, key: String, id: ScheduleId, spec: &ScheduleSpec, title: String) -> Notice {
    let mut notice = Notice::new(kind, key, &spec.target, title);
    notice.schedule = Some(ScheduleRef {
        id: id.to_string(),
        name: spec.name.clone(),
    });
    notice.line("Target", &spec.target);
    notice.line("Schedule", &spec.name);
    notice.command = format!("dbkeep schedules runs '{}'", spec.name.replace('\'', "'\\''"));
    notice
}

/// Tells of a slot that had no run: skipped, missed or refused. Others are told of by their runs.
pub(super) async fn announce_slot(tx: &mut Tx<'_>, spec: &ScheduleSpec, record: &SlotRecord) -> Result<(), Failure> {
    let (kind, what, next) = match record.kind {
        SlotOutcome::Skipped => (NoticeKind::SlotSkipped, "skipped", "nothing, where that was meant"),
        SlotOutcome::Missed => (
            NoticeKind::SlotMissed,
            "missed",
            "find out why no server decided it; run it now where it is needed",
        ),
        SlotOutcome::Refused if record.reason.contains("OVER_MAX_ROWS") => (
            NoticeKind::RunRefused,
            "refused",
            "nothing was changed. Where so many rows are right: raise max_rows with `dbkeep schedules update`, run it more often, or give its work to several schedules",
        ),
        SlotOutcome::Refused => (
            NoticeKind::RunRefused,
            "refused",
            "read the reason; nothing was changed. Then mend the rule, the limit or the consent",
        ),
        _ => return Ok(()),
    };
    let key = format!("slot:{}:{}:{what}", record.schedule, record.slot.as_millisecond());
    let title = match record.missed {
        0 | 1 => format!("{} on {}: a run was {what}", spec.name, spec.target),
        number => format!("{} on {}: {number} runs were {what}", spec.name, spec.target),
    };
    let mut notice = about(kind, key, record.schedule, spec, title);
    notice.line("Slot", record.slot.to_string());
    if record.first_slot != record.slot {
        notice.line("First slot", record.first_slot.to_string());
    }
    notice.line("Reason", &record.reason);
    notice.next_step = next.to_owned();
    let envelopes = tx.routing.envelopes(&notice, Some(rules(&spec.notify)));
    outbox::enqueue(tx, &envelopes).await?;
    Ok(())
}

/// Tells of a schedule that paused itself.
pub(super) async fn announce_pause(
    tx: &mut Tx<'_>,
    schedule: ScheduleId,
    spec: &ScheduleSpec,
    at: Timestamp,
    note: &str,
) -> Result<(), Failure> {
    let key = format!("schedule:{schedule}:paused:{}", at.as_millisecond());
    let title = format!("{} on {}: paused", spec.name, spec.target);
    let mut notice = about(NoticeKind::SchedulePaused, key, schedule, spec, title);
    notice.line("Reason", note);
    notice.next_step = "find out why its runs fail; then let it go on with `dbkeep schedules resume`".to_owned();
    let envelopes = tx.routing.envelopes(&notice, Some(rules(&spec.notify)));
    outbox::enqueue(tx, &envelopes).await?;
    Ok(())
}
