//! What ends is told of: the one place where the end of a run, and what became of a slot without one, turns into notices in the outbox, in
//! the transaction that writes it. Whoever ends the run (its attempt, a person, the lapse of an approval), kill -9 between the end and
//! the notice loses neither. Called by `draft` and `slots`.

use dbkeep_engine::{
    audit::{Phase, Subject},
    model::{
        Run, ScheduleId, ScheduleSpec, SlotOutcome, SlotRecord,
        notice::{Notice, NoticeKind, ScheduleRef},
    },
    notify::Rules,
};
use jiff::Timestamp;

use super::{audit, failure::Failure, outbox, rows, transaction::Tx};

/// What a schedule wants to be told.
fn rules(spec: &ScheduleSpec) -> Rules<'_> {
    Rules {
        on_success: spec.notify.on_success,
        on_failure: spec.notify.on_failure,
        on_warnings: spec.notify.on_warnings,
        channels: &spec.notify.channels,
        recipients: &spec.notify.recipients,
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

/// What a run has done, for the audit log: the end of the call that has started it, or of none where a schedule has.
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

/// Tells of a run that has ended, whoever is to hear of it: the audit log, and by the routes, and by the rules of the schedule that started it, as
/// they are now. A dry run has changed nothing, and whoever asked for it has its answer.
pub(super) async fn announce(tx: &mut Tx<'_>, run: &Run) -> Result<(), Failure> {
    if run.options.dry_run {
        return Ok(());
    }
    audit::note(tx, record(run)).await?;
    let scheduled = run.report.scheduled.as_deref();
    let spec = match scheduled {
        Some(scheduled) => spec_of(tx, scheduled.schedule).await?,
        None => None,
    };
    let schedule = scheduled.map(|scheduled| ScheduleRef {
        id: scheduled.schedule.to_string(),
        name: scheduled.name.clone(),
    });
    let notice = Notice::of_run(run, schedule);
    let envelopes = tx.routing.envelopes(&notice, spec.as_ref().map(rules));
    outbox::enqueue(tx, &envelopes).await?;
    Ok(())
}

fn about(kind: NoticeKind, key: String, id: ScheduleId, spec: &ScheduleSpec, title: String) -> Notice {
    let mut notice = Notice::new(kind, key, &spec.target, title);
    notice.schedule = Some(ScheduleRef {
        id: id.to_string(),
        name: spec.name.clone(),
    });
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
        0 | 1 => format!("{}: a run was {what}", spec.name),
        number => format!("{}: {number} runs were {what}", spec.name),
    };
    let mut notice = about(kind, key, record.schedule, spec, title);
    notice.line("Slot", record.slot.to_string());
    if record.first_slot != record.slot {
        notice.line("First slot", record.first_slot.to_string());
    }
    notice.line("Reason", &record.reason);
    notice.next_step = next.to_owned();
    let envelopes = tx.routing.envelopes(&notice, Some(rules(spec)));
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
    let title = format!("{}: paused", spec.name);
    let mut notice = about(NoticeKind::SchedulePaused, key, schedule, spec, title);
    notice.line("Reason", note);
    notice.next_step = "find out why its runs fail; then let it go on with `dbkeep schedules resume`".to_owned();
    let envelopes = tx.routing.envelopes(&notice, Some(rules(spec)));
    outbox::enqueue(tx, &envelopes).await?;
    Ok(())
}
