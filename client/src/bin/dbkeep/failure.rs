//! Errors, told so that somebody can act on them.
//!
//! Owns the words: message, reason, violations, and a hint on what to do next. Goes by the variants of
//! [`Error`], never by messages. Called by `main.rs`.

use std::{borrow::Cow, io};

use dbkeep_client::Error;
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{Output, Tone},
    session::quoted,
};

/// The JSON line on stderr of a command that failed: `{"error":{...}}`.
#[derive(Debug, Serialize)]
struct Failure<'a> {
    error: FailureDetail<'a>,
}

#[derive(Debug, Serialize)]
struct FailureDetail<'a> {
    message: String,
    /// Name of an `ErrorReason`; null where no server gave one.
    reason: Option<&'a str>,
    violations: Vec<Violation<'a>>,
    retry_after_seconds: Option<f64>,
    hint: Option<String>,
    exit_code: u8,
}

#[derive(Debug, Serialize)]
struct Violation<'a> {
    field: Cow<'a, str>,
    expected: &'a str,
}

/// Prints an error and says how the process ends.
pub(crate) fn report(error: &anyhow::Error, output: &Output) -> Exit {
    if is_broken_pipe(error) {
        // The reader has seen enough.
        return Exit::Success;
    }
    let known = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let exit = known.map_or(Exit::Failure, Exit::of_error);
    let message = known.map_or_else(|| format!("{error:#}"), ToString::to_string);
    let detail = FailureDetail {
        message,
        reason: known.and_then(Error::reason_name),
        violations: known.map(violations).unwrap_or_default(),
        retry_after_seconds: known.and_then(Error::retry_after).map(|time| time.as_secs_f64()),
        hint: known.and_then(hint),
        exit_code: exit.code(),
    };
    if output.is_json() {
        match serde_json::to_string(&Failure { error: detail }) {
            Ok(text) => output.note(text),
            Err(problem) => output.note(problem),
        }
    } else {
        for line in lines(&detail, output) {
            output.note(line);
        }
    }
    exit
}

fn lines(detail: &FailureDetail<'_>, output: &Output) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {}{}",
        output.paint_note(Tone::Bad, "error:"),
        output.paint_note(Tone::Strong, &detail.message),
        detail
            .reason
            .map(|reason| output.paint_note(Tone::Dim, &format!(" ({reason})")))
            .unwrap_or_default(),
    )];
    // The message of a single one may say all of it.
    let unsaid = detail
        .violations
        .iter()
        .filter(|violation| detail.violations.len() > 1 || !detail.message.contains(violation.expected));
    for violation in unsaid {
        lines.push(output.paint_note(Tone::Warn, &format!("  {}: {}", violation.field, violation.expected)));
    }
    if let Some(hint) = &detail.hint {
        lines.push(format!("{} {hint}", output.paint_note(Tone::Good, "hint:")));
    }
    lines
}

fn violations(error: &Error) -> Vec<Violation<'_>> {
    match error {
        Error::InvalidField { violations, .. } => violations
            .iter()
            .map(|violation| Violation {
                field: Cow::Borrowed(&violation.field),
                expected: &violation.description,
            })
            .collect(),
        Error::MigrationsBlocked { violations, .. } => violations
            .iter()
            .map(|violation| Violation {
                field: Cow::Owned(format!("{} {}", violation.code, violation.migration)),
                expected: &violation.description,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What to do next, where there is something to do.
fn hint(error: &Error) -> Option<String> {
    let known_names = |noun: &str, known: &[String]| {
        if known.is_empty() {
            format!("there are no {noun}")
        } else {
            format!("{noun}: {}", known.join(", "))
        }
    };
    Some(match error {
        Error::InvalidAddress { .. } => "give --addr or DBKEEP_ADDR like 127.0.0.1:50777".to_owned(),
        Error::Unreachable { .. } => "is dbkeepd running there? The address is --addr or DBKEEP_ADDR".to_owned(),
        Error::Deadline { run: Some(run), .. } => format!("the run goes on: dbkeep runs watch {run}"),
        Error::Deadline { run: None, .. } => "give the call more time with --timeout".to_owned(),
        Error::LostContact { run: Some(run), .. } => format!("the run goes on: dbkeep runs watch {run}"),
        Error::LostContact { run: None, .. } => "a run may have been started: dbkeep runs list".to_owned(),
        Error::SequenceGap { run, expected, .. } => {
            format!(
                "follow it again from there: dbkeep runs watch {run} --after {}",
                expected.saturating_sub(1)
            )
        }
        Error::UnknownTarget { known, .. } => known_names("targets", known),
        Error::UnknownOperation { known, .. } => known_names("operations", known),
        Error::UnknownRun { .. } => "dbkeep runs list shows the runs".to_owned(),
        Error::UnknownBackup { .. } => "dbkeep backups list shows the backups".to_owned(),
        Error::UnknownChannel { known, .. } => known_names("channels", known),
        Error::UnknownDelivery { .. } => "dbkeep notify deliveries shows the deliveries".to_owned(),
        Error::UnknownAlert { .. } => "dbkeep alerts shows the alerts".to_owned(),
        Error::UnknownAuditRecord { .. } => "dbkeep audit list shows the records".to_owned(),
        Error::AuditLogBroken { .. } => "dbkeep audit verify tells what does not fit".to_owned(),
        Error::DeliveryState { .. } => "dbkeep notify deliveries --state dead shows those that were given up".to_owned(),
        Error::CatalogMismatch { origin, expected, .. } => format!("correct the catalog at {origin}: expected {expected}"),
        Error::UnknownPlan { .. } | Error::PlanExpired { .. } | Error::SchemaChanged { .. } | Error::CountDrifted { .. } => {
            "make and review a new plan: dbkeep plan OPERATION..".to_owned()
        }
        Error::PlanMismatch { plan, .. } if plan.is_empty() => {
            "the folder or the database changed since: review a new plan with dbkeep migrations plan, of the same selection"
                .to_owned()
        }
        Error::PlanMismatch { .. } => "run what the plan was made for, or make a new one: dbkeep plan OPERATION..".to_owned(),
        Error::PlanRequired { operation, .. } if operation.is_empty() => {
            "leave --plan away to plan, review and apply in one go, or give the token of dbkeep migrations plan".to_owned()
        }
        Error::PlanRequired { .. } => {
            "leave --plan away to plan, review and run in one go, or give the token of dbkeep plan".to_owned()
        }
        Error::PlanBlocked { remediation, .. } if !remediation.is_empty() => remediation.clone(),
        Error::PlanUsed { run, .. } => {
            format!("the run that it started: dbkeep runs show {run}; for another one make a new plan: dbkeep plan OPERATION..")
        }
        Error::ConfirmationPhrase { .. } => "give --phrase with the phrase that the plan states, letter by letter".to_owned(),
        Error::ApprovalRefused { problem, schedule, .. } if !schedule.is_empty() => format!(
            "{}: dbkeep --principal NAME schedules approve {} --max-rows N --until DATE",
            if problem == "anonymous" {
                "say who you are"
            } else {
                "somebody else than who changed it last has to"
            },
            quoted(schedule)
        ),
        Error::ApprovalRefused { problem, run, .. } if problem == "anonymous" => {
            format!("say who you are: dbkeep --principal NAME runs approve {run}")
        }
        Error::ApprovalRefused { run, .. } => format!("somebody else has to: dbkeep --principal NAME runs approve {run}"),
        Error::Unauthenticated { .. } => {
            "set DBKEEP_TOKEN, or give --token-file; a server writes the administrator's token to admin-token in its data folder when it first starts"
                .to_owned()
        }
        Error::RoleRefused { asked, .. } => {
            format!("a token of that role is needed: dbkeep tokens create NAME --role {asked} (dbkeep whoami tells who you are)")
        }
        Error::OutOfScope { .. } => "a token for all targets is needed (dbkeep whoami tells who you are)".to_owned(),
        Error::UnknownToken { .. } | Error::TokenExists { .. } => "dbkeep tokens list shows the tokens".to_owned(),
        Error::PrincipalRefused { .. } => "give --principal or DBKEEP_PRINCIPAL like ann or ann@host".to_owned(),
        Error::FindingsUnconfirmed { .. } => {
            "review it (dbkeep plan OPERATION..) and run with the plan's token, or give --force".to_owned()
        }
        Error::RunAlreadyActive { run, .. } => {
            format!("follow it: dbkeep runs watch {run}; stop it: dbkeep runs cancel {run}; wait in line for it: --queue")
        }
        Error::RunState { allowed, .. } if !allowed.is_empty() => format!("allowed in: {}", allowed.join(", ")),
        Error::RequestIdReused { run, .. } if !run.is_empty() => format!("the first call started run {run}"),
        Error::NothingCaptured { .. } => "its operation declares no backup, or it deleted nothing".to_owned(),
        Error::TargetPermission { target, .. } => {
            format!("give dbkeep's database user on {target} the rights that the message names")
        }
        Error::BackupDamaged { .. } => "restore the file from a copy of the backup folder, then verify again".to_owned(),
        Error::BackupPruned { .. } => "dbkeep backups list shows what is still there".to_owned(),
        Error::ConfirmationRequired { expected, .. } => {
            format!("if that is what you want: --confirm, or of migrations rollback --phrase, with {expected:?}")
        }
        Error::ToolUnavailable { tool, .. } => {
            format!(
                "install a {tool} that is not older than the target's server, or name its folder: [backup] pg_bin in dbkeep.toml"
            )
        }
        Error::TablesNotEmpty { .. } => {
            "give --replace to empty them first, or leave --in-place away to look at the rows".to_owned()
        }
        Error::BackupKind { backup, .. } => format!("put captured rows back: dbkeep runs undo {backup}"),
        Error::BackupOtherDatabase { backup, .. } => format!(
            "look at it in a scratch place: dbkeep backups restore {backup}; or give --other-database if it is meant for this one"
        ),
        Error::BackupStorage { path, .. } => format!("make room in {path}; nothing was deleted without its backup"),
        Error::RootUnusable { target, .. } => {
            format!("make the folder that the message names usable, or change the roots of {target} in the server's settings")
        }
        Error::NoMigrations { target, .. } => {
            format!(
                "name its folder in the server's settings: `migrations` of target {target} in dbkeep.toml, or dbkeepd --migrations {target}=FOLDER"
            )
        }
        Error::MigrationSource { folder, .. } => format!("correct the folder {folder}, where the server reads it"),
        Error::UnknownMigration { near: Some(near), .. } => format!("did you mean {near}?"),
        Error::UnknownMigration { .. } => "dbkeep migrations list shows the migrations".to_owned(),
        Error::MigrationGraph { .. } => "correct the depends-on lines that the message names".to_owned(),
        Error::MigrationsBlocked { .. } => "dbkeep migrations status shows everything that does not fit".to_owned(),
        Error::NothingToMigrate { .. } => "dbkeep migrations list shows where each migration stands".to_owned(),
        Error::MigrationsHeld { run, .. } if !run.is_empty() => {
            format!("follow it: dbkeep runs watch {run}; then try again")
        }
        Error::MigrationLedgerMoved { .. } => "dbkeep migrations status shows what is there now; then try again".to_owned(),
        Error::RepairRefused { migration, .. } => {
            format!("dbkeep migrations repair {migration} explains what is wrong, and what fits")
        }
        Error::UnknownSchedule { .. } => "dbkeep schedules list shows the schedules".to_owned(),
        Error::ScheduleExists { name, .. } => {
            format!(
                "give another name, or change that one: dbkeep schedules update {}",
                quoted(name)
            )
        }
        Error::ScheduleChanged { schedule, .. } => {
            format!("read it again: dbkeep schedules show {}; then try again", quoted(schedule))
        }
        Error::ScheduleBusy { schedule, .. } => {
            format!("dbkeep schedules runs {} shows what it is at", quoted(schedule))
        }
        Error::StandingApproval { schedule, .. } => format!(
            "somebody else than who changed it last has to: dbkeep --principal NAME schedules approve {} --max-rows N --until DATE",
            quoted(schedule)
        ),
        Error::SlotRefused { schedule, .. } if !schedule.is_empty() => {
            format!("dbkeep schedules runs {} shows what became of its slots", quoted(schedule))
        }
        Error::Internal { incident, .. } if !incident.is_empty() => format!("the server's log has the cause under {incident}"),
        away => {
            let seconds = away.retry_after()?.as_secs_f64();
            format!("try again in {seconds} s")
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn an_error_prints_message_reason_and_hint() {
        let error = Error::RunAlreadyActive {
            run: "r1".into(),
            target: "main".into(),
            table: "logs".into(),
            message: "run r1 holds table logs".into(),
        };
        let detail = FailureDetail {
            message: error.to_string(),
            reason: error.reason_name(),
            violations: vec![Violation {
                field: "options.batch_size".into(),
                expected: "1 to 10000",
            }],
            retry_after_seconds: None,
            hint: hint(&error),
            exit_code: Exit::of_error(&error).code(),
        };
        assert_eq!(
            lines(&detail, &Output::plain(Format::Table)),
            [
                "error: run r1 holds table logs (RUN_ALREADY_ACTIVE)",
                "  options.batch_size: 1 to 10000",
                "hint: follow it: dbkeep runs watch r1; stop it: dbkeep runs cancel r1; wait in line for it: --queue",
            ]
        );
        assert_eq!(
            serde_json::to_string(&Failure { error: detail }).unwrap(),
            r#"{"error":{"message":"run r1 holds table logs","reason":"RUN_ALREADY_ACTIVE","violations":[{"field":"options.batch_size","expected":"1 to 10000"}],"retry_after_seconds":null,"hint":"follow it: dbkeep runs watch r1; stop it: dbkeep runs cancel r1; wait in line for it: --queue","exit_code":4}}"#
        );
    }

    #[test]
    fn refusals_about_schedules_name_the_next_command() {
        let approval = Error::StandingApproval {
            schedule: "nightly logs".into(),
            operations: vec!["a".into()],
            problem: "it has none".into(),
            message: String::new(),
        };
        assert!(
            hint(&approval)
                .unwrap()
                .contains("schedules approve 'nightly logs' --max-rows N")
        );
        let refused = Error::ApprovalRefused {
            run: String::new(),
            schedule: "nightly".into(),
            principal: "anonymous".into(),
            problem: "anonymous".into(),
            message: String::new(),
        };
        assert!(
            hint(&refused)
                .unwrap()
                .starts_with("say who you are: dbkeep --principal NAME schedules approve nightly")
        );
        let reused = Error::RequestIdReused {
            request_id: "r".into(),
            run: String::new(),
            message: String::new(),
        };
        assert_eq!(hint(&reused), None, "no run is named");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(report(&gone, &Output::plain(Format::Table)), Exit::Success);
    }
}
