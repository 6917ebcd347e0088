//! What a run that ended says: its kind of notice, its title, its numbers, and what to do next. Pure. Called by the store, in the
//! transaction that ends the run, and by nobody else.

use jiff::Timestamp;

use super::words;
use crate::model::{
    Report, Run, RunKind, RunState, SizeSnapshot, StepState,
    monitor::Recommendation,
    notice::{Facts, Notice, NoticeKind, ScheduleRef},
};

/// Most failed steps and most warnings that are told in full.
const MOST_TOLD: usize = 3;

impl Notice {
    /// The notice of a run that has ended. Its key is `run:<id>:ended`, so that a run has one such notice, whoever makes it. `deadline` is that
    /// of its slot, where it was stopped by it.
    ///
    /// - everything planned is done, without a warning: [`NoticeKind::RunSucceeded`]
    /// - a step failed, or the whole run: [`NoticeKind::RunFailed`], also where others succeeded, since a failed operation is never only a warning
    /// - it was stopped at its deadline: [`NoticeKind::RunFailed`], as its schedule counts it
    /// - it failed before any server took it up: [`NoticeKind::RunRefused`]
    /// - anything else, such as warnings, a time limit, or a person who stopped it: [`NoticeKind::RunWarned`]
    #[must_use]
    pub fn of_run(run: &Run, schedule: Option<ScheduleRef>, deadline: Option<Timestamp>) -> Self {
        let facts = facts_of(run);
        let kind = match deadline {
            Some(_) => NoticeKind::RunFailed,
            None => kind_of(run, &facts),
        };
        let result = match deadline {
            Some(_) => format!("was stopped at its deadline, after {}", amount(run, &facts)),
            None => result_of(run, &facts),
        };
        let dry = run.options.dry_run;
        let whose = match &schedule {
            Some(schedule) => format!("{} on {}", schedule.name, run.target),
            None => format!("{} on {}", name_of(run.kind), run.target),
        };
        let mut notice = Self::new(
            kind,
            format!("run:{}:ended", run.id),
            run.target.as_str(),
            if dry {
                format!("{whose}, {result}")
            } else {
                format!("{whose} {result}")
            },
        );
        notice.at = run.ended_at.unwrap_or(notice.at);
        notice.run = Some(run.id);
        notice.line("Target", &run.target);
        if let Some(schedule) = &schedule {
            notice.line("Schedule", &schedule.name);
        }
        notice.line("Run", format!("{} ({})", run.id, name_of(run.kind)));
        notice.line("Operations", run.operations.join(", "));
        notice.line(
            "Result",
            format!("{}: {}", run.state.name().replace('_', " "), run.state_reason),
        );
        if let Some(deadline) = deadline {
            notice.line("Deadline", deadline.to_string());
        }
        if run.started_at.is_some() {
            notice.line(rows_label(run.kind), words::count(facts.rows_affected));
        }
        if facts.bytes > 0 {
            let rows = if facts.rows_captured > 0 {
                format!("{}, ", words::counted(facts.rows_captured, "row"))
            } else {
                String::new()
            };
            notice.line("Backup", format!("{rows}{}", words::bytes(facts.bytes)));
        }
        if run.started_at.is_some() {
            notice.line("Time at work", words::duration(facts.duration_ms));
        }
        notice.line("Started by", &run.started_by);
        tell_sizes(&mut notice, &run.report);
        tell_troubles(&mut notice, &run.report, &facts);
        notice.next_step = next_step(run, &facts);
        tell_advice(&mut notice, &run.report);
        notice.command = format!("dbkeep runs show {}", run.id);
        notice.facts = facts;
        notice.schedule = schedule;
        notice
    }
}

fn facts_of(run: &Run) -> Facts {
    let report = &run.report;
    let failed = report.steps.iter().filter(|step| step.state == StepState::Failed).count();
    let unsaid = report.operations.iter().map(|operation| operation.warnings).sum::<u64>();
    let whole: u64 = report
        .backup
        .iter()
        .flat_map(|backup| &backup.files)
        .map(|file| file.bytes)
        .sum();
    Facts {
        status: report.status,
        operations: run.operations.clone(),
        rows_affected: report.total(|step| step.reach()),
        rows_captured: report.total(|step| step.rows_captured),
        bytes: report.total(|step| step.captured_bytes) + whole,
        duration_ms: report.duration_ms,
        warnings: unsaid.max(report.warnings.len() as u64),
        errors: (failed as u64).max(u64::from(run.state == RunState::Failed)),
    }
}

fn kind_of(run: &Run, facts: &Facts) -> NoticeKind {
    match run.state {
        RunState::Failed if run.started_at.is_none() => NoticeKind::RunRefused,
        _ if facts.errors > 0 => NoticeKind::RunFailed,
        RunState::Succeeded if facts.warnings == 0 => NoticeKind::RunSucceeded,
        _ => NoticeKind::RunWarned,
    }
}

/// How much was done, in the unit of the run's kind.
fn amount(run: &Run, facts: &Facts) -> String {
    if run.kind != RunKind::Maintain {
        return words::counted(facts.rows_affected, "row");
    }
    let steps = &run.report.steps;
    let done = steps.iter().filter(|step| step.state == StepState::Succeeded).count();
    format!("{done} of {}", words::counted(steps.len() as u64, "task"))
}

fn result_of(run: &Run, facts: &Facts) -> String {
    let rows = amount(run, facts);
    match run.state {
        RunState::Succeeded if run.options.dry_run => run.state_reason.clone(),
        RunState::Failed if run.started_at.is_none() => format!("did not begin: {}", run.state_reason),
        RunState::Failed => format!("failed: {}", run.state_reason),
        RunState::Cancelled => format!("was cancelled after {rows}: {}", run.state_reason),
        _ if facts.errors > 0 => format!("did a part ({rows}), {} failed", words::counted(facts.errors, "step")),
        RunState::PartiallySucceeded => format!("did a part ({rows}): {}", run.state_reason),
        _ if facts.warnings > 0 => format!("succeeded ({rows}) with {}", words::counted(facts.warnings, "warning")),
        _ => format!("succeeded ({rows})"),
    }
}

/// How large the database was and is.
fn tell_sizes(notice: &mut Notice, report: &Report) {
    let Some(sizes) = &report.sizes else { return };
    let of = |snapshot: &Option<SizeSnapshot>| snapshot.as_ref().and_then(|snapshot| snapshot.database_bytes);
    if let (Some(before), Some(after)) = (of(&sizes.before), of(&sizes.after)) {
        notice.line(
            "Database",
            format!("{} before, {} after", words::bytes(before), words::bytes(after)),
        );
    }
}

/// What to do next: the most urgent in the sentence that is there for it, where nothing else is said there, and the rest behind.
fn tell_advice(notice: &mut Notice, report: &Report) {
    let mut advice = report.advice.iter();
    if notice.next_step.is_empty()
        && let Some(first) = advice.next()
    {
        notice.next_step = sentence(first);
    }
    for piece in advice.by_ref().take(MOST_TOLD) {
        notice.line("What to do next", sentence(piece));
    }
    let more = advice.count() as u64;
    if more > 0 {
        notice.line("What to do next", format!("and {} more, in the report", words::count(more)));
    }
}

fn sentence(advice: &Recommendation) -> String {
    match advice.remediation.as_str() {
        "" => advice.detail.clone(),
        // A message has no place for the text of a catalog, which has to keep its lines.
        text if text.contains('\n') => format!("{} What to type or to paste is in the report.", advice.detail),
        command => format!("{}: {command}", advice.detail),
    }
}

fn tell_troubles(notice: &mut Notice, report: &Report, facts: &Facts) {
    let mut failed = report.steps.iter().filter(|step| step.state == StepState::Failed);
    for step in failed.by_ref().take(MOST_TOLD) {
        // A task of maintenance has no rules.
        let dot = if step.rule.is_empty() { "" } else { "." };
        notice.line("Failed", format!("{}{dot}{}: {}", step.operation, step.rule, step.message));
    }
    let more = failed.count() as u64;
    if more > 0 {
        notice.line("Failed", format!("and {}", words::counted(more, "step")));
    }
    for warning in report.warnings.iter().take(MOST_TOLD) {
        notice.line("Warning", format!("{}: {}", warning.code, warning.message));
    }
    let told = report.warnings.len().min(MOST_TOLD) as u64;
    if facts.warnings > told && told > 0 {
        notice.line(
            "Warning",
            format!("and {}", words::counted(facts.warnings - told, "more warning")),
        );
    }
}

fn next_step(run: &Run, facts: &Facts) -> String {
    let captured = run.kind == RunKind::Cleanup && facts.rows_captured > 0;
    let back = format!("To put the rows back: dbkeep runs undo {}", run.id);
    match (run.state, run.kind) {
        (RunState::Succeeded, _) if captured => back,
        (RunState::Succeeded, _) => String::new(),
        (_, RunKind::Migrate | RunKind::Rollback) => {
            format!(
                "See where each migration stands, and what may be done: dbkeep migrations status --target {}",
                run.target
            )
        }
        (RunState::Failed, _) if run.started_at.is_none() => {
            "Nothing was changed. Plan it again where it is still wanted.".to_owned()
        }
        (_, RunKind::Cleanup) => format!(
            "Look at what stopped it, then count what is left: dbkeep plan --target {} {}",
            run.target,
            run.operations.join(" ")
        ),
        // Of what a schedule starts, the next slot tries again by itself.
        (_, RunKind::Maintain) => match &run.report.scheduled {
            Some(slot) => format!(
                "Look at what stopped it, then fire it again: dbkeep schedules run {}",
                slot.schedule
            ),
            None => "Look at what stopped it, then start it again.".to_owned(),
        },
        _ => "Look at what stopped it, then start it again.".to_owned(),
    }
}

fn name_of(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Cleanup => "cleanup",
        RunKind::Undo => "undo",
        RunKind::Verify => "verification",
        RunKind::Backup => "backup",
        RunKind::Restore => "restore",
        RunKind::Migrate => "migration",
        RunKind::Rollback => "rollback",
        RunKind::Rehearse => "rehearsal",
        RunKind::Maintain => "maintenance",
    }
}

fn rows_label(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Undo | RunKind::Restore => "Rows put back",
        RunKind::Verify | RunKind::Maintain => "Rows proven",
        RunKind::Cleanup | RunKind::Backup | RunKind::Migrate | RunKind::Rollback | RunKind::Rehearse => "Rows affected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PlanId, ReportStatus, RunId, RunOptions, StepReport, Verification, Warning, notice::NoticeSeverity};

    fn run(state: RunState, steps: &[StepState]) -> Run {
        let options = RunOptions {
            dry_run: false,
            ..RunOptions::default()
        };
        let steps = steps.iter().map(|state| StepReport {
            operation: "logs".to_owned(),
            rule: "old".to_owned(),
            state: *state,
            rows_affected: 1_000,
            rows_captured: 1_000,
            captured_bytes: 2_048,
            message: "lock timeout\non logs".to_owned(),
            ..StepReport::default()
        });
        Run {
            id: RunId::new(),
            kind: RunKind::Cleanup,
            target: "shop".to_owned(),
            state,
            state_reason: "the reason".to_owned(),
            operations: vec!["logs".to_owned()],
            plan: PlanId::NONE,
            source: None,
            undone_by: None,
            options,
            limits: options.limits(),
            waiting: None,
            attempts: 1,
            report: Report {
                status: Some(ReportStatus::Success),
                steps: steps.collect(),
                duration_ms: 61_000,
                ..Report::default()
            },
            last_sequence: 1,
            cancel_reason: None,
            pause_reason: None,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: Some(Timestamp::UNIX_EPOCH),
            ended_at: Some(Timestamp::UNIX_EPOCH),
            verification: Verification::Unverified,
            started_by: "ann".to_owned(),
            approvals: Vec::new(),
            approvals_required: 0,
            approve_until: None,
            pruned: None,
        }
    }

    fn value<'a>(notice: &'a Notice, label: &str) -> Option<&'a str> {
        let mut found = notice.lines.iter().filter(|line| line.label == label);
        found.next().map(|line| line.value.as_str())
    }

    #[test]
    fn a_success_tells_rows_backup_time_and_the_way_back() {
        let run = run(RunState::Succeeded, &[StepState::Succeeded, StepState::Succeeded]);
        let notice = Notice::of_run(&run, None, None);
        assert_eq!(
            (notice.kind, notice.severity),
            (NoticeKind::RunSucceeded, NoticeSeverity::Info)
        );
        assert_eq!(notice.title, "cleanup on shop succeeded (2,000 rows)");
        assert_eq!(value(&notice, "Rows affected"), Some("2,000"));
        assert_eq!(value(&notice, "Backup"), Some("2,000 rows, 4.0 KiB"));
        assert_eq!(value(&notice, "Time at work"), Some("1 min 1 s"));
        assert_eq!(notice.next_step, format!("To put the rows back: dbkeep runs undo {}", run.id));
        assert_eq!(notice.command, format!("dbkeep runs show {}", run.id));
        assert_eq!((notice.at, notice.run), (Timestamp::UNIX_EPOCH, Some(run.id)));
        assert_eq!(notice.id, Notice::of_run(&run, None, None).id, "whoever makes it");
    }

    #[test]
    fn a_failed_operation_is_never_only_a_warning() {
        let partial = run(RunState::PartiallySucceeded, &[StepState::Succeeded, StepState::Failed]);
        let notice = Notice::of_run(&partial, None, None);
        assert_eq!(notice.kind, NoticeKind::RunFailed);
        assert_eq!(notice.title, "cleanup on shop did a part (2,000 rows), 1 step failed");
        assert_eq!(value(&notice, "Failed"), Some("logs.old: lock timeout on logs"));
        let failed = Notice::of_run(&run(RunState::Failed, &[StepState::Skipped]), None, None);
        assert_eq!((failed.kind, failed.facts.errors), (NoticeKind::RunFailed, 1));
        assert!(
            failed.next_step.contains("dbkeep plan --target shop logs"),
            "{}",
            failed.next_step
        );
    }

    #[test]
    fn what_ends_otherwise_is_a_warning_or_a_refusal() {
        let mut warned = run(RunState::Succeeded, &[StepState::Succeeded]);
        for number in 0..5 {
            warned.report.warnings.push(Warning {
                code: "SLOW".to_owned(),
                message: number.to_string(),
                step: None,
            });
        }
        let notice = Notice::of_run(&warned, None, None);
        assert_eq!((notice.kind, notice.facts.warnings), (NoticeKind::RunWarned, 5));
        let told: Vec<&str> = notice
            .lines
            .iter()
            .filter(|line| line.label == "Warning")
            .map(|line| line.value.as_str())
            .collect();
        assert_eq!(told, ["SLOW: 0", "SLOW: 1", "SLOW: 2", "and 2 more warnings"]);
        for state in [RunState::PartiallySucceeded, RunState::Cancelled] {
            assert_eq!(
                Notice::of_run(&run(state, &[StepState::Partial]), None, None).kind,
                NoticeKind::RunWarned
            );
        }
        let mut refused = run(RunState::Failed, &[StepState::Pending]);
        refused.started_at = None;
        let notice = Notice::of_run(&refused, None, None);
        assert_eq!(notice.kind, NoticeKind::RunRefused);
        assert_eq!(notice.title, "cleanup on shop did not begin: the reason");
    }

    #[test]
    fn what_its_deadline_stopped_has_failed() {
        let stopped = run(RunState::Cancelled, &[StepState::Partial]);
        let deadline = "2026-11-27T12:00:00Z".parse().expect("an instant");
        let notice = Notice::of_run(&stopped, None, Some(deadline));
        assert_eq!((notice.kind, notice.severity), (NoticeKind::RunFailed, NoticeSeverity::Error));
        assert_eq!(notice.title, "cleanup on shop was stopped at its deadline, after 1,000 rows");
        assert_eq!(value(&notice, "Deadline"), Some("2026-11-27T12:00:00Z"));
    }

    #[test]
    fn a_dry_run_says_what_would_go() {
        let mut dry = run(RunState::Succeeded, &[StepState::Succeeded]);
        dry.options.dry_run = true;
        dry.state_reason = "dry run: 1000 rows would be deleted".to_owned();
        let schedule = ScheduleRef {
            id: "s1".to_owned(),
            name: "rehearsal".to_owned(),
        };
        let notice = Notice::of_run(&dry, Some(schedule), None);
        assert_eq!(notice.kind, NoticeKind::RunSucceeded);
        assert_eq!(notice.title, "rehearsal on shop, dry run: 1000 rows would be deleted");
    }

    #[test]
    fn advice_and_sizes_are_told_beside_the_way_back() {
        let mut told = run(RunState::Succeeded, &[StepState::Succeeded]);
        let advice = |what: &str, command: &str| Recommendation {
            key: "key".to_owned(),
            name: String::new(),
            level: crate::model::monitor::Level::Info,
            detail: what.to_owned(),
            remediation: command.to_owned(),
            evidence: Vec::new(),
        };
        told.report.advice = vec![advice("Give it more time", "dbkeep x"), advice("Look", "")];
        let snapshot = |bytes| SizeSnapshot {
            at: Timestamp::UNIX_EPOCH,
            database_bytes: Some(bytes),
            reusable_bytes: None,
            tables: Vec::new(),
        };
        told.report.sizes = Some(Box::new(crate::model::SizeRecord {
            before: Some(snapshot(4_096)),
            after: Some(snapshot(2_048)),
            ..Default::default()
        }));
        let notice = Notice::of_run(&told, None, None);
        assert!(notice.next_step.starts_with("To put the rows back"), "{}", notice.next_step);
        assert_eq!(value(&notice, "What to do next"), Some("Give it more time: dbkeep x"));
        assert_eq!(value(&notice, "Database"), Some("4.0 KiB before, 2.0 KiB after"));
        told.report.steps[0].rows_captured = 0;
        let notice = Notice::of_run(&told, None, None);
        assert_eq!(notice.next_step, "Give it more time: dbkeep x");
        told.report.advice = vec![advice("It grows.", "[[operation]]\nname = \"x\"")];
        let in_lines = Notice::of_run(&told, None, None);
        assert_eq!(in_lines.next_step, "It grows. What to type or to paste is in the report.");
        assert_eq!(value(&notice, "What to do next"), Some("Look"));
    }

    #[test]
    fn maintenance_is_told_by_its_tasks() {
        let mut upkeep = run(RunState::PartiallySucceeded, &[StepState::Succeeded, StepState::Failed]);
        upkeep.kind = RunKind::Maintain;
        for step in &mut upkeep.report.steps {
            step.operation = "restore_drill".to_owned();
            step.rule.clear();
        }
        let notice = Notice::of_run(&upkeep, None, None);
        assert_eq!(notice.title, "maintenance on shop did a part (1 of 2 tasks), 1 step failed");
        assert_eq!(value(&notice, "Failed"), Some("restore_drill: lock timeout on logs"));
        assert_eq!(value(&notice, "Rows proven"), Some("2,000"));
    }

    #[test]
    fn a_schedule_gives_its_name_and_nothing_breaks_a_line() {
        let mut odd = run(RunState::Failed, &[]);
        odd.state_reason = "x\r\nBcc: everybody@example.com".to_owned();
        let schedule = ScheduleRef {
            id: "s1".to_owned(),
            name: "daily\r\ncleanup".to_owned(),
        };
        let notice = Notice::of_run(&odd, Some(schedule), None);
        assert_eq!(notice.title, "daily cleanup on shop failed: x Bcc: everybody@example.com");
        assert!(notice.lines.iter().all(|line| !line.value.contains(['\r', '\n'])));
    }
}
