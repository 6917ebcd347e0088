//! `dbkeep migrations status`, `list` and `show`: looking, and changing nothing.
//!
//! Owns these three views; statements and problems look alike everywhere (`table/migration.rs`). Called by `mod.rs`.

use std::pin::pin;

use clap::{Args, ValueEnum};
use dbkeep_client::{MigrationQuery, proto};
use futures::TryStreamExt as _;
use indicatif::HumanCount;
use serde_json::json;

use super::Of;
use crate::{
    exit::Exit,
    json,
    output::{Output, Tone},
    session::Session,
    table::{self, migration as view},
};

/// Arguments of `migrations status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    of: Of,
}

impl Status {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let status = session.client.migrations().status(self.of.target).await?;
        // A script that asks before it deploys wants the answer in the exit code.
        let exit = if status.problems.iter().any(|problem| problem.blocks) {
            Exit::Refused
        } else {
            Exit::Success
        };
        if output.is_json() {
            output.json(&json!({ "status": json::migration::Status::from(&status) }))?;
            return Ok(exit);
        }
        show_status(&status, output)?;
        if exit == Exit::Refused {
            output.line(output.paint(Tone::Bad, "Nothing is applied while what blocks lasts."))?;
        } else if status.pending_count > 0 {
            let command = session.command(&format!("migrations plan --target {}", status.target));
            output.line(format_args!("What is pending would do this: {command}"))?;
        }
        Ok(exit)
    }
}

fn show_status(status: &proto::MigrationStatus, output: &Output) -> anyhow::Result<()> {
    let mut table = output.table(["TARGET", &status.target]);
    table
        .add_row(["folder", &status.folder])
        .add_row(["layout", &status.layout])
        .add_row(["because", table::or_dash(&status.layout_evidence.join("\n"))])
        .add_row(["migrations", &status.total_count.to_string()])
        .add_row(["in effect", &status.applied_count.to_string()])
        .add_row(["pending", &status.pending_count.to_string()])
        .add_row(["last applied", table::or_dash(&status.last_applied_id)])
        .add_row(["at", &table::instant(status.last_apply_time.as_ref())]);
    if !status.adopted_ledgers.is_empty() {
        table.add_row(["adopted ledgers", &status.adopted_ledgers.join("\n")]);
    }
    if !status.ignored_ledgers.is_empty() {
        table.add_row(["ignored ledgers", &status.ignored_ledgers.join("\n")]);
    }
    output.line(table)?;
    for warning in &status.warnings {
        output.line(format_args!("  {}", output.paint(Tone::Warn, warning)))?;
    }
    Ok(view::problems(&status.problems, output)?)
}

/// Arguments of `migrations list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    of: Of,
    /// Only migrations in this state; may be given again.
    #[arg(long, value_enum)]
    state: Vec<State>,
    /// Most migrations to list.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// A state to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum State {
    Pending,
    Applied,
    Baselined,
    Adopted,
    StoppedUp,
    StoppedDown,
}

impl From<State> for proto::MigrationState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Applied => Self::Applied,
            State::Baselined => Self::Baselined,
            State::Adopted => Self::Adopted,
            State::StoppedUp => Self::StoppedUp,
            State::StoppedDown => Self::StoppedDown,
        }
    }
}

impl List {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let limit = usize::try_from(self.limit)?;
        let query = MigrationQuery::default()
            .target(self.of.target)
            .page_size(self.limit.min(1_000));
        let query = self.state.into_iter().fold(query, |query, state| query.state(state.into()));
        let mut stream = pin!(session.client.migrations().list(query));
        let mut migrations = Vec::new();
        let mut more = false;
        while let Some(migration) = stream.try_next().await? {
            if migrations.len() == limit {
                more = true;
                break;
            }
            migrations.push(migration);
        }
        if output.is_json() {
            let migrations: Vec<_> = migrations.iter().map(json::migration::Migration::from).collect();
            output.json(&json!({ "migrations": migrations, "more": more }))?;
            return Ok(Exit::Success);
        }
        let mut table = output.table(["ID", "NAME", "STATE", "WAY BACK", "STATEMENTS", "APPLIED", "BY", "TIME"]);
        for migration in &migrations {
            table.add_row([
                output.cell(Tone::Strong, &migration.id),
                output.cell(Tone::Dim, &migration.name),
                output.cell(view::state_tone(migration.state()), view::state(migration)),
                output.cell(
                    view::way_back_tone(migration.way_back()),
                    json::way_back(migration.way_back()),
                ),
                output.number(Tone::Dim, migration.statement_count),
                output.cell(Tone::Dim, table::instant(migration.apply_time.as_ref())),
                output.cell(Tone::Dim, table::or_dash(&migration.applied_by)),
                output.number(Tone::Dim, table::duration(migration.duration.as_ref())),
            ]);
        }
        output.line(table)?;
        if more {
            output.note(format_args!("There are more than {limit}; --limit shows them."));
        }
        Ok(Exit::Success)
    }
}

/// Arguments of `migrations show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Id, version or name of the migration.
    id: String,
    #[command(flatten)]
    of: Of,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let detail = session.client.migrations().get(self.of.target, self.id).await?;
        let migration = &detail.migration;
        if output.is_json() {
            let statements = |statements: &[proto::PlannedStatement]| {
                serde_json::to_value(statements.iter().map(json::migration::Statement::from).collect::<Vec<_>>())
            };
            let problems: Vec<_> = detail.problems.iter().map(json::migration::Problem::from).collect();
            output.json(&json!({
                "migration": json::migration::Migration::from(migration),
                "up": statements(&detail.up)?,
                "down": statements(&detail.down)?,
                "problems": problems,
            }))?;
            return Ok(Exit::Success);
        }
        show_facts(migration, output)?;
        view::problems(&detail.problems, output)?;
        let (up_done, down_done) = match migration.state() {
            proto::MigrationState::StoppedUp => (migration.statements_done, 0),
            proto::MigrationState::StoppedDown => (0, migration.statements_done),
            _ => (0, 0),
        };
        if !migration.up_file.is_empty() {
            output.line(format_args!("Up, {}:", output.paint(Tone::Strong, &migration.up_file)))?;
            view::statements(&detail.up, up_done, output)?;
        }
        if !migration.down_file.is_empty() {
            output.line(format_args!("Down, {}:", output.paint(Tone::Strong, &migration.down_file)))?;
            view::statements(&detail.down, down_done, output)?;
        }
        Ok(Exit::Success)
    }
}

/// What is known of a migration: by its author, then by the ledger.
fn show_facts(migration: &proto::Migration, output: &Output) -> anyhow::Result<()> {
    let mut table = output.table(["MIGRATION", &migration.id]);
    let mut row = |what: &str, fact: &str| {
        if !fact.is_empty() {
            table.add_row([what, fact]);
        }
    };
    row("name", &migration.name);
    row("version", &migration.version);
    row("description", &migration.description);
    row("state", &view::state(migration));
    row("repeatable", if migration.repeatable { "yes" } else { "" });
    row("needs", &migration.depends_on.join(", "));
    row(
        "backup first",
        if migration.requires_backup { "yes, by its author" } else { "" },
    );
    let expected = migration.estimated_duration.as_ref();
    row(
        "expected",
        &expected
            .map(|time| format!("{}, by its author", table::duration(Some(time))))
            .unwrap_or_default(),
    );
    row(
        "changes rows",
        match migration.data_transformation {
            Some(true) => "yes, by its author",
            Some(false) => "no, by its author",
            None => "",
        },
    );
    row("checksum", &migration.sha256);
    let way_back = json::way_back(migration.way_back());
    row(
        "way back",
        &match migration.way_back_run_id.as_str() {
            "" => way_back,
            run => format!("{way_back}, by rehearsal {run}"),
        },
    );
    if let Some(time) = &migration.apply_time {
        row("applied", &table::instant(Some(time)));
    }
    row("by", &migration.applied_by);
    row("run", &migration.run_id);
    row("backup", &migration.backup_id);
    if migration.duration.is_some() {
        row("took", &table::duration(migration.duration.as_ref()));
        row("rows changed", &HumanCount(migration.row_count).to_string());
    }
    if !migration.problem.is_empty() {
        row(
            "stopped",
            &format!(
                "after {} of {} statements: {}",
                migration.statements_done, migration.statement_count, migration.problem
            ),
        );
    }
    if migration.in_doubt {
        row("in doubt", "nobody knows whether the statement after those took effect");
    }
    row("checksum applied", &migration.applied_checksum);
    Ok(output.line(table)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for state in State::value_variants() {
            let word = state.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::migration_state((*state).into()));
        }
    }
}
