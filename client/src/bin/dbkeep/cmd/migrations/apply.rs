//! `dbkeep migrations test`, `apply` and `rollback`: the runs.
//!
//! Owns the order of things before a script is executed: plan, show, ask, and only then a run with the plan's token, so that what was
//! shown is what runs. Following a run is `follow.rs`. Called by `mod.rs`.

use clap::Args;
use dbkeep_client::{
    ApplyRequest, RehearseRequest, RollbackRequest,
    proto::{MigrationDirection, MigrationPlan, RunKind},
};

use super::{Manner, Of, Range, Which, plan::Wish};
use crate::{
    exit::Exit,
    follow::{Until, follow},
    json::event::Line,
    output::Tone,
    prompt,
    session::Session,
    table::migration as view,
};

/// Arguments of `migrations test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    which: Which,
    /// Migrations in effect, rather than pending ones, newest first: down, up, compare with the present. --to names the one before them.
    #[arg(long)]
    applied: bool,
    /// Copy the schema without rows: quick, and no proof of a way back. PostgreSQL only.
    #[arg(long, conflicts_with = "applied")]
    schema_only: bool,
    /// Copy at most N rows of each table, spread over its primary key, and the rows that their keys name: quicker on a large database, and
    /// no proof of a way back for rows that are not in the copy.
    #[arg(long, value_name = "N", conflicts_with_all = ["schema_only", "sample"])]
    sample_rows: Option<u64>,
    /// The same with a part of the rows of each table, in percent, 0.01 to 100.
    #[arg(long, value_name = "PERCENT", conflicts_with = "schema_only", value_parser = percent)]
    sample: Option<f64>,
    #[command(flatten)]
    manner: Manner,
    /// Print the run's id and leave it at work.
    #[arg(long)]
    detach: bool,
}

impl Test {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let mut request = RehearseRequest::new()
            .target(self.of.target)
            .selection(self.which.selection())
            .manner(self.manner.wire());
        if self.applied {
            request = request.applied();
        }
        if self.schema_only {
            request = request.schema_only();
        }
        if let Some(rows) = self.sample_rows {
            request = request.sample_rows(rows);
        }
        if let Some(percent) = self.sample {
            request = request.sample_percent(percent);
        }
        let migrations = session.client.migrations();
        follow(session, RunKind::Rehearse, until(self.detach), migrations.test(request)).await
    }
}

/// How a run begins; for `apply` and `rollback`.
#[derive(Debug, Args)]
struct Begin {
    /// Do it. Without it, only the plan is shown.
    #[arg(long)]
    execute: bool,
    /// Token of a plan that was reviewed, of the same migrations; without it, --execute plans first, shows the plan and asks.
    #[arg(long, value_name = "TOKEN", requires = "execute")]
    plan: Option<String>,
    #[command(flatten)]
    manner: Manner,
    /// Do not ask; for scripts.
    #[arg(long, short, requires = "execute")]
    yes: bool,
    /// Print the run's id and leave it at work.
    #[arg(long)]
    detach: bool,
}

/// Arguments of `migrations apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    range: Range,
    /// Save the whole database first, whatever the migrations say.
    #[arg(long)]
    backup: bool,
    #[command(flatten)]
    begin: Begin,
}

impl Apply {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let wish = Wish {
            direction: MigrationDirection::Up,
            range: &self.range,
            backup: self.backup,
            unproven: false,
            other_database: false,
            from_backup: None,
        };
        let mut request = match &self.begin.plan {
            Some(token) => ApplyRequest::new()
                .target(&self.of.target)
                .selection(self.range.selection())
                .plan_token(token),
            None => match self.begin.review(&wish, &self.of.target, session).await? {
                Ok(plan) => ApplyRequest::of_plan(&plan),
                Err(exit) => return Ok(exit),
            },
        };
        if self.backup {
            request = request.backup();
        }
        let request = request.manner(self.begin.manner.wire());
        let migrations = session.client.migrations();
        follow(session, RunKind::Migrate, until(self.begin.detach), migrations.apply(request)).await
    }
}

/// Arguments of `migrations rollback`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("back").required(true).multiple(true).args(["ids", "to", "steps", "from_backup"]))]
pub(crate) struct Rollback {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    range: Range,
    /// Take down scripts that are empty, that no rehearsal has proven, or that one has refuted.
    #[arg(long)]
    unproven: bool,
    /// Execute no script: bring the whole database, schema and rows, back to a backup. Without RUN to the one that was made before the
    /// oldest of these migrations was applied. Everything written since is lost.
    #[arg(long, value_name = "RUN", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "unproven")]
    from_backup: Option<String>,
    /// Phrase that the plan of --from-backup states, letter by letter; without it, a terminal is asked.
    #[arg(long, value_name = "TEXT", requires_all = ["execute", "from_backup"])]
    phrase: Option<String>,
    /// With --from-backup: take a backup of another database than the target is now.
    #[arg(long, requires = "from_backup")]
    other_database: bool,
    #[command(flatten)]
    begin: Begin,
}

impl Rollback {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        if self.from_backup.as_deref() == Some("") && self.range.arguments().is_empty() {
            session.output.note(
                "--from-backup needs to know how far back: name migrations, give --to or --steps, or the backup itself with \
                 --from-backup=RUN. Nothing was changed.",
            );
            return Ok(Exit::Usage);
        }
        let wish = Wish {
            direction: MigrationDirection::Down,
            range: &self.range,
            backup: false,
            unproven: self.unproven,
            other_database: self.other_database,
            from_backup: self.from_backup.as_deref(),
        };
        let mut phrase = self.phrase.clone();
        let mut request = match &self.begin.plan {
            Some(token) => {
                let request = RollbackRequest::new(self.range.selection())
                    .target(&self.of.target)
                    .plan_token(token);
                match self.from_backup.as_deref() {
                    Some(backup) => request.from_backup(Some(backup).filter(|backup| !backup.is_empty())),
                    None => request,
                }
            }
            None => match self.begin.review(&wish, &self.of.target, session).await? {
                Ok(plan) => {
                    if let (None, Some(restore)) = (&phrase, &plan.restore) {
                        match prompt::phrase(&restore.confirmation_phrase, &session.output).await? {
                            Ok(typed) => phrase = Some(typed),
                            Err(exit) => return Ok(exit),
                        }
                    }
                    RollbackRequest::of_plan(&plan)
                }
                Err(exit) => return Ok(exit),
            },
        };
        if let Some(phrase) = phrase {
            request = request.confirmation_phrase(phrase);
        }
        if self.unproven {
            request = request.unproven();
        }
        if self.other_database {
            request = request.other_database();
        }
        let request = request.manner(self.begin.manner.wire());
        let migrations = session.client.migrations();
        follow(
            session,
            RunKind::Rollback,
            until(self.begin.detach),
            migrations.rollback(request),
        )
        .await
    }
}

impl Begin {
    /// Plans, shows the plan and asks. `Ok` means go on; the error is how the command ends otherwise, for instance because nobody asked
    /// for more than the plan.
    async fn review(&self, wish: &Wish<'_>, target: &str, session: &Session) -> anyhow::Result<Result<MigrationPlan, Exit>> {
        let output = &session.output;
        let plan = wish.plan(target, session).await?;
        if !self.execute {
            let exit = wish.answer(&plan, session)?;
            if exit == Exit::Success {
                output.note(if plan.steps.is_empty() && plan.restore.is_none() {
                    "Nothing is to be done."
                } else {
                    "Nothing was changed; --execute does it."
                });
            }
            return Ok(Err(exit));
        }
        if output.is_json() {
            output.json(&Line::MigrationPlan { plan: (&plan).into() })?;
        } else {
            view::plan(&plan, output)?;
        }
        if wish.is_blocked(&plan) {
            output.note(output.paint_note(Tone::Bad, "A problem blocks this plan. Nothing was changed."));
            return Ok(Err(Exit::Refused));
        }
        // A deployment that finds everything in effect has found what it wanted.
        if plan.steps.is_empty() && plan.restore.is_none() {
            output.note("Nothing is to be done.");
            return Ok(Err(Exit::Success));
        }
        // Typing the phrase is the answer to any question.
        if self.yes || plan.restore.is_some() {
            return Ok(Ok(plan));
        }
        Ok(prompt::confirm(&question(&plan), output).await?.map(|()| plan))
    }
}

/// "5" and "5%" mean the same.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.01..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a percentage from 0.01 to 100".to_owned()),
    }
}

fn until(detach: bool) -> Until {
    if detach { Until::Started } else { Until::End }
}

fn question(plan: &MigrationPlan) -> String {
    let amount = view::migrations(plan.steps.len());
    match plan.direction() {
        MigrationDirection::Down => format!("Take {amount} back on {}?", plan.target),
        MigrationDirection::Up | MigrationDirection::Unspecified => format!("Apply {amount} to {}?", plan.target),
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_client::proto::MigrationPlanStep;

    use super::*;

    #[test]
    fn the_question_says_which_way_and_how_many() {
        let mut plan = MigrationPlan {
            target: "main".into(),
            steps: vec![MigrationPlanStep::default()],
            ..Default::default()
        };
        assert_eq!(question(&plan), "Apply 1 migration to main?");
        plan.direction = MigrationDirection::Down.into();
        plan.steps.push(MigrationPlanStep::default());
        assert_eq!(question(&plan), "Take 2 migrations back on main?");
    }
}
