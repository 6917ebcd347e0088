//! `dbkeep migrations plan`: what would be done, and what to paste in order to do exactly that.
//!
//! Owns the arguments, the command lines, and the answer to whether a plan is blocked; how a plan looks is `table/migration.rs`. Called
//! by `mod.rs`; `apply.rs` plans in the same way before it begins.

use clap::Args;
use dbkeep_client::proto::{MigrationDirection, MigrationPlan};
use serde_json::json;

use super::{Of, Range};
use crate::{
    exit::Exit,
    json,
    output::Tone,
    session::{Session, quoted},
    table::migration as view,
};

/// Arguments of `migrations plan`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("span").multiple(true).args(["ids", "to", "steps"]))]
pub(crate) struct Plan {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    range: Range,
    /// Plan a rollback; of all there are is nobody's wish, so that it needs ids, --to or --steps.
    #[arg(long, requires = "span")]
    down: bool,
    /// Save the whole database first, whatever the migrations say; a rollback does anyway.
    #[arg(long, conflicts_with = "down")]
    backup: bool,
}

/// What turns a plan into a command line.
pub(super) struct Wish<'a> {
    pub(super) direction: MigrationDirection,
    pub(super) range: &'a Range,
    pub(super) backup: bool,
    /// Take down scripts that nobody has proven.
    pub(super) unproven: bool,
    /// Take a backup of another database.
    pub(super) other_database: bool,
    /// Go back to a backup of the whole database; empty for the one that was made before the oldest of the migrations.
    pub(super) from_backup: Option<&'a str>,
}

impl Plan {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let wish = Wish {
            direction: if self.down {
                MigrationDirection::Down
            } else {
                MigrationDirection::Up
            },
            range: &self.range,
            backup: self.backup,
            unproven: false,
            other_database: false,
            from_backup: None,
        };
        let plan = wish.plan(&self.of.target, session).await?;
        wish.answer(&plan, session)
    }
}

impl Wish<'_> {
    /// Asks the server for the plan.
    pub(super) async fn plan(&self, target: &str, session: &Session) -> anyhow::Result<MigrationPlan> {
        let migrations = session.client.migrations();
        if let Some(backup) = self.from_backup {
            let backup = Some(backup).filter(|backup| !backup.is_empty());
            return Ok(migrations.plan_from_backup(target, self.range.selection(), backup).await?);
        }
        Ok(migrations
            .plan(target, self.direction, self.range.selection(), self.backup)
            .await?)
    }

    /// Whether a run of the plan would be refused.
    pub(super) fn is_blocked(&self, plan: &MigrationPlan) -> bool {
        plan.problems.iter().any(|problem| {
            let excused = self.unproven
                && matches!(
                    problem.code.as_str(),
                    "DOWN_UNPROVEN" | "DOWN_SAMPLED" | "DOWN_EMPTY" | "DOWN_LOSSY" | "DOWN_REFUTED"
                );
            let other = self.other_database && problem.code == "BACKUP_OTHER_DATABASE";
            problem.blocks && !excused && !other
        })
    }

    /// The command that does exactly what a plan says.
    pub(super) fn arguments(&self, plan: &MigrationPlan) -> String {
        let verb = match self.direction {
            MigrationDirection::Down => "rollback",
            _ => "apply",
        };
        format!(
            "migrations {verb}{} --execute --target {} --plan {}{}{}{}{}",
            self.range.arguments(),
            quoted(&plan.target),
            plan.token,
            if self.backup { " --backup" } else { "" },
            if self.unproven { " --unproven" } else { "" },
            if self.other_database { " --other-database" } else { "" },
            plan.restore.as_ref().map_or_else(String::new, |restore| format!(
                " --from-backup={} --phrase {}",
                restore.backup_id,
                quoted(&restore.confirmation_phrase)
            )),
        )
    }

    /// A plan as the whole answer of a command.
    pub(super) fn answer(&self, plan: &MigrationPlan, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let exit = if self.is_blocked(plan) { Exit::Refused } else { Exit::Success };
        if output.is_json() {
            output.json(&json!({ "plan": json::migration::Plan::from(plan) }))?;
            return Ok(exit);
        }
        view::plan(plan, output)?;
        if exit == Exit::Refused {
            output.line(output.paint(
                Tone::Bad,
                "Blocked: a run of this plan would be refused. See the problems above.",
            ))?;
            let unproven = Self { unproven: true, ..*self };
            if self.direction == MigrationDirection::Down && !unproven.is_blocked(plan) {
                output.line("To take a way back that nobody has proven: --unproven")?;
            }
        } else if !plan.steps.is_empty() || plan.restore.is_some() {
            output.line(format_args!("Token: {}", output.paint(Tone::Strong, &plan.token)))?;
            if self.direction == MigrationDirection::Up {
                output.line(format_args!(
                    "To rehearse it on a copy first:\n  {}",
                    session.command(&self.rehearsal(plan))
                ))?;
            }
            output.line(format_args!(
                "To do exactly this:\n  {}",
                session.command(&self.arguments(plan))
            ))?;
        }
        Ok(exit)
    }

    /// The command that rehearses what a plan says. A rehearsal counts no steps, so that their ids stand in for them.
    fn rehearsal(&self, plan: &MigrationPlan) -> String {
        let which = if self.range.steps.is_some() {
            let ids = plan.steps.iter().filter_map(|step| step.migration.as_ref());
            ids.map(|migration| format!(" {}", quoted(&migration.id))).collect()
        } else {
            self.range.arguments()
        };
        format!("migrations test{which} --target {}", quoted(&plan.target))
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_client::proto::{Migration, MigrationPlanStep, MigrationProblem, MigrationRestore};

    use super::*;

    fn plan(code: &str) -> MigrationPlan {
        MigrationPlan {
            target: "main".into(),
            token: "tok".into(),
            steps: vec![MigrationPlanStep {
                migration: Some(Migration {
                    id: "3".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            problems: vec![MigrationProblem {
                code: code.into(),
                blocks: true,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn only_an_unproven_way_back_is_excused() {
        let range = Range {
            ids: vec![],
            to: None,
            steps: Some(1),
        };
        let wish = |unproven| Wish {
            direction: MigrationDirection::Down,
            range: &range,
            backup: false,
            unproven,
            other_database: false,
            from_backup: None,
        };
        assert!(wish(false).is_blocked(&plan("DOWN_UNPROVEN")));
        assert!(!wish(true).is_blocked(&plan("DOWN_UNPROVEN")));
        assert!(wish(true).is_blocked(&plan("DOWN_MISSING")));
        assert_eq!(
            wish(true).arguments(&plan("DOWN_UNPROVEN")),
            "migrations rollback --steps 1 --execute --target main --plan tok --unproven"
        );
    }

    #[test]
    fn a_plan_back_to_a_backup_names_it_and_its_phrase() {
        let range = Range {
            ids: vec!["3".into()],
            to: None,
            steps: None,
        };
        let wish = Wish {
            direction: MigrationDirection::Down,
            range: &range,
            backup: false,
            unproven: false,
            other_database: false,
            from_backup: Some(""),
        };
        let mut plan = plan("");
        plan.restore = Some(MigrationRestore {
            backup_id: "b1".into(),
            confirmation_phrase: "restore main".into(),
            ..Default::default()
        });
        assert_eq!(
            wish.arguments(&plan),
            "migrations rollback 3 --execute --target main --plan tok --from-backup=b1 --phrase 'restore main'"
        );
    }

    #[test]
    fn a_plan_forwards_becomes_a_rehearsal_and_an_apply() {
        let range = Range {
            ids: vec![],
            to: None,
            steps: Some(1),
        };
        let wish = Wish {
            direction: MigrationDirection::Up,
            range: &range,
            backup: true,
            unproven: false,
            other_database: false,
            from_backup: None,
        };
        assert_eq!(
            wish.arguments(&plan("")),
            "migrations apply --steps 1 --execute --target main --plan tok --backup"
        );
        assert_eq!(wish.rehearsal(&plan("")), "migrations test 3 --target main");
    }
}
