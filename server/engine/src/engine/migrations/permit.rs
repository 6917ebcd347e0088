//! What a request to migrate has to be like: which of a plan's problems it passes over, what it must have reviewed, how far its options go.
//! Asks no database.

use super::{MigrateRequest, rewind};
use crate::{
    EngineError,
    engine::digest_of,
    migration::plan::{self, MigrationPlan, Selection},
    model::{MigrationOptions, Risk, Sample},
};

/// Whether a plan may be executed as it was asked for.
pub(super) fn permit(name: &str, plan: &MigrationPlan, request: &MigrateRequest) -> Result<(), EngineError> {
    if plan.steps.is_empty() && plan.rewind.is_none() && plan.blocking().next().is_none() {
        return Err(EngineError::NothingToMigrate { target: name.to_owned() });
    }
    let excused = |code: &str| {
        request.options.unproven && plan::EXCUSABLE.contains(&code)
            || request.options.other_database && code == rewind::OTHER_DATABASE
    };
    let blocking: Vec<_> = plan.blocking().filter(|problem| !excused(problem.code)).cloned().collect();
    if !blocking.is_empty() {
        return Err(EngineError::MigrationsBlocked {
            target: name.to_owned(),
            problems: blocking,
        });
    }
    if !request.token.is_empty() && request.token != plan.token {
        return Err(EngineError::MigrationPlanChanged { target: name.to_owned() });
    }
    if request.token.is_empty()
        && let Some(rewind) = &plan.rewind
    {
        return Err(EngineError::MigrationPlanRequired {
            target: name.to_owned(),
            reason: format!("everything written since backup {} is lost", rewind.backup),
        });
    }
    if let Some(rewind) = &plan.rewind
        && request.phrase != rewind.phrase
    {
        return Err(EngineError::ConfirmationRequired {
            expected: rewind.phrase.clone(),
        });
    }
    if request.token.is_empty() && plan.risk == Risk::High {
        let risky = plan.steps.iter().find(|step| step.risk == Risk::High);
        let reason = risky.and_then(|step| {
            let mut reasons = step.impacts.iter().flat_map(|impact| &impact.reasons);
            let reason = reasons.find(|reason| reason.risk == Risk::High)?;
            Some(format!("{} {}: {}", step.migration.id, step.migration.name, reason.message))
        });
        return Err(EngineError::MigrationPlanRequired {
            target: name.to_owned(),
            reason: reason.unwrap_or_default(),
        });
    }
    Ok(())
}

pub(super) fn check_options(options: &MigrationOptions) -> Result<(), EngineError> {
    let bounds = [
        ("lock_timeout", options.lock_timeout_ms, 1, 600_000),
        ("lock_tries", u64::from(options.lock_tries), 1, 1_000),
        ("statement_timeout", options.statement_timeout_ms, 0, 86_400_000),
    ];
    for (field, value, least, most) in bounds {
        if !(least..=most).contains(&value) {
            return Err(EngineError::InvalidField {
                field,
                problem: format!("is {value}; expected {least} to {most} (times in milliseconds)"),
            });
        }
    }
    Ok(())
}

pub(super) fn check_sample(request: &MigrateRequest) -> Result<(), EngineError> {
    let problem = match request.sample {
        None => return Ok(()),
        Some(_) if request.schema_only => "is given with copy SCHEMA_ONLY; expected one of them".to_owned(),
        Some(Sample::Rows(rows)) if !(1..=Sample::MAX_ROWS).contains(&rows) => {
            format!("asks for {rows} rows of each table; expected 1 to {}", Sample::MAX_ROWS)
        }
        Some(Sample::TenThousandths(part)) if !(1..=10_000).contains(&part) => {
            format!("asks for {}.{:02} %; expected 0.01 to 100", part / 100, part % 100)
        }
        Some(_) => return Ok(()),
    };
    Err(EngineError::InvalidField {
        field: "sample",
        problem,
    })
}

pub(super) fn request_digest(word: &str, name: &str, request: &MigrateRequest) -> String {
    let selection = match &request.selection {
        Selection::All => "all".to_owned(),
        Selection::To(id) => format!("to {id}"),
        Selection::Named(names) => format!("named {}", names.join(",")),
        Selection::Steps(steps) => format!("steps {steps}"),
    };
    let options = serde_json::to_string(&request.options).unwrap_or_default();
    digest_of(&[
        word,
        name,
        &selection,
        &request.token,
        if request.backup { "backup" } else { "" },
        &options,
        &request
            .from_backup
            .as_ref()
            .map_or_else(String::new, |backup| format!("from {backup}")),
        &request.sample.map_or_else(String::new, |sample| format!("sample {sample:?}")),
    ])
}
