//! `dbkeep migrations repair` and `baseline`: changing the ledger, and nothing else.
//!
//! Owns the questions before it. What fits a migration is the server's to say. Called by `mod.rs`.

use clap::{Args, ValueEnum};
use dbkeep_client::{
    MigrationSelection,
    proto::{MigrationDirection, MigrationState, RepairAction, RepairLedgerResponse},
};
use serde_json::json;

use super::{Of, Which};
use crate::{
    exit::Exit,
    json,
    output::Tone,
    prompt,
    session::{Session, quoted},
    table::migration as view,
};

/// Most migrations that a call can name.
const MOST_NAMED: usize = 1_000;

/// Arguments of `migrations repair`.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// Id, version or name of the migration.
    id: String,
    #[command(flatten)]
    of: Of,
    /// What to do; without it, only what is wrong and what may be done is told.
    #[arg(long, value_enum)]
    action: Option<Action>,
    /// Do not ask; for scripts.
    #[arg(long, short, requires = "action")]
    yes: bool,
}

/// What is done to a row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    /// The statement at which it stopped is run by the next apply or rollback.
    Retry,
    /// The statement at which it stopped counts as done.
    Skip,
    /// All of it counts as in effect.
    MarkApplied,
    /// None of it counts as in effect.
    MarkPending,
    /// What the file holds now counts as what was applied.
    AcceptChecksum,
    /// The index that the statement left invalid is dropped; then as retry.
    DropInvalidIndex,
}

impl From<Action> for RepairAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Retry => Self::Retry,
            Action::Skip => Self::Skip,
            Action::MarkApplied => Self::MarkApplied,
            Action::MarkPending => Self::MarkPending,
            Action::AcceptChecksum => Self::AcceptChecksum,
            Action::DropInvalidIndex => Self::DropInvalidIndex,
        }
    }
}

/// The word for an action on a command line.
fn word(action: RepairAction) -> String {
    json::repair_action(action).replace('_', "-")
}

impl Repair {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let migrations = session.client.migrations();
        let target = &self.of.target;
        let Some(action) = self.action.map(RepairAction::from) else {
            let found = migrations.repair(target, &self.id, None).await?;
            if output.is_json() {
                output.json(&json!({ "repair": json::migration::Repair::from(&found) }))?;
            } else {
                self.propose(&found, session)?;
            }
            return Ok(Exit::Success);
        };
        if !self.yes {
            let found = migrations.repair(target, &self.id, None).await?;
            // What does not fit is not asked about: the server refuses it, and has it on record.
            if let Some(proposal) = found.proposals.iter().find(|proposal| proposal.action() == action) {
                for line in &found.explanation {
                    output.note(line);
                }
                let question = format!("{} on {}: {}. Do it?", word(action), found.id, proposal.effect);
                if let Err(exit) = prompt::confirm(&question, output).await? {
                    return Ok(exit);
                }
            }
        }
        let done = migrations.repair(target, &self.id, Some(action)).await?;
        if output.is_json() {
            output.json(&json!({ "repair": json::migration::Repair::from(&done) }))?;
            return Ok(Exit::Success);
        }
        let told = output.paint(Tone::Good, &format!("Done: {} on {}.", word(action), done.id));
        output.line(told)?;
        Ok(Exit::Success)
    }

    /// Prints what is wrong, and what may be done with the command for it.
    fn propose(&self, found: &RepairLedgerResponse, session: &Session) -> anyhow::Result<()> {
        let output = &session.output;
        output.line(output.paint(Tone::Strong, &found.id))?;
        for line in &found.explanation {
            output.line(format_args!("  {}", output.paint(Tone::Warn, line)))?;
        }
        if found.proposals.is_empty() {
            output.line("Nothing needs to be done.")?;
        }
        for proposal in &found.proposals {
            output.line(format_args!(
                "{}: {}\n  {}",
                output.paint(Tone::Strong, &word(proposal.action())),
                proposal.effect,
                session.command(&self.arguments(&found.id, proposal.action()))
            ))?;
        }
        Ok(())
    }

    fn arguments(&self, id: &str, action: RepairAction) -> String {
        let target = match self.of.target.as_str() {
            "" => String::new(),
            target => format!(" --target {}", quoted(target)),
        };
        format!("migrations repair {} --action {}{target}", quoted(id), word(action))
    }
}

/// Arguments of `migrations baseline`.
#[derive(Debug, Args)]
pub(crate) struct Baseline {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    which: Which,
    /// Do not ask; for scripts.
    #[arg(long, short)]
    yes: bool,
}

impl Baseline {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let migrations = session.client.migrations();
        let plan = migrations
            .plan(&self.of.target, MigrationDirection::Up, self.which.selection(), false)
            .await?;
        let pending: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|step| step.migration.as_ref())
            .filter(|migration| migration.state() == MigrationState::Pending)
            .collect();
        let ids = if pending.is_empty() {
            output.note("Nothing is pending.");
            Vec::new()
        } else {
            for migration in &pending {
                output.note(format_args!("  {}", view::title(&migration.id, &migration.name)));
            }
            let amount = view::migrations(pending.len());
            let question = format!("Count {amount} as in effect on {}, without executing anything?", plan.target);
            if !self.yes
                && let Err(exit) = prompt::confirm(&question, output).await?
            {
                return Ok(exit);
            }
            // By name, so that what was shown is what counts, whatever came meanwhile.
            let selection = if pending.len() <= MOST_NAMED {
                MigrationSelection::named(pending.iter().map(|migration| migration.id.as_str()))
            } else {
                self.which.selection()
            };
            migrations.baseline(plan.target.as_str(), selection).await?
        };
        if output.is_json() {
            output.json(&json!({ "baselined": ids }))?;
        } else if !ids.is_empty() {
            output.line(format_args!("In effect now: {}", ids.join(", ")))?;
            // The newest, since whoever counted too many counted those at the end.
            if let Some(newest) = ids.last() {
                let repair = Repair {
                    id: newest.clone(),
                    of: Of {
                        target: self.of.target.clone(),
                    },
                    action: None,
                    yes: false,
                };
                let taken_back = session.command(&repair.arguments(newest, RepairAction::MarkPending));
                output.note(format_args!("Where that was a mistake, one by one: {taken_back}"));
            }
        }
        Ok(Exit::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_called_as_their_options_are() {
        for action in Action::value_variants() {
            let name = action.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(name, word((*action).into()));
        }
    }

    #[test]
    fn a_proposal_can_be_pasted() {
        let repair = Repair {
            id: "users".into(),
            of: Of { target: "main".into() },
            action: None,
            yes: false,
        };
        assert_eq!(
            repair.arguments("3", RepairAction::MarkApplied),
            "migrations repair 3 --action mark-applied --target main"
        );
    }
}
