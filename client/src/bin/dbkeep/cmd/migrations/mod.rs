//! `dbkeep migrations`: how a folder of migrations stands on a target, and bringing the target along it.
//!
//! Owns the arguments that several commands share, and who does what. Called by `main.rs`.
//!
//! - `status.rs`: status, list, show
//! - `plan.rs`: what would be done, and what to paste in order to do it
//! - `apply.rs`: test, apply, rollback
//! - `repair.rs`: repair, baseline
//! - `new.rs`: the files of a new migration

mod apply;
mod new;
mod plan;
mod repair;
mod status;

use clap::{Args, Subcommand};
use dbkeep_client::{MigrationManner, MigrationSelection};

use crate::{
    duration::Span,
    exit::Exit,
    session::{Session, quoted},
};

/// Commands of `migrations`.
#[derive(Debug, Subcommand)]
pub(crate) enum Migrations {
    /// How the folder stands on the target, and what to do about what does not fit; exit code 4 where something blocks.
    Status(status::Status),
    /// List migrations in their order, then those that only a ledger knows.
    List(status::List),
    /// Show a migration: where it stands, its statements, and what each will do.
    Show(status::Show),
    /// What apply, or with --down rollback, would do; changes nothing. Exit code 4 where something blocks.
    Plan(plan::Plan),
    /// Rehearse migrations on a copy of the database: up, down, compare, up again.
    Test(apply::Test),
    /// Apply migrations: only a plan unless --execute.
    Apply(apply::Apply),
    /// Take migrations back, newest first: only a plan unless --execute.
    Rollback(apply::Rollback),
    /// Say that migrations are in effect already; executes nothing.
    Baseline(repair::Baseline),
    /// Explain what is wrong with a migration's row in the ledger, and mend it with --action.
    Repair(repair::Repair),
    /// Write the files of a new migration, in the layout and numbering of the folder.
    New(new::New),
}

impl Migrations {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::Status(command) => command.run(session).await,
            Self::List(command) => command.run(session).await,
            Self::Show(command) => command.run(session).await,
            Self::Plan(command) => command.run(session).await,
            Self::Test(command) => command.run(session).await,
            Self::Apply(command) => command.run(session).await,
            Self::Rollback(command) => command.run(session).await,
            Self::Baseline(command) => command.run(session).await,
            Self::Repair(command) => command.run(session).await,
            Self::New(command) => command.run(session).await,
        }
    }
}

/// Which target's folder.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// Target of the folder; may be left away where the server has one.
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
}

/// Which migrations: by name, or up to one.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Ids, versions or names of migrations; what they need comes along. All that are pending where none is given.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All up to and including this one.
    #[arg(long, value_name = "ID", conflicts_with = "ids")]
    to: Option<String>,
}

impl Which {
    fn selection(&self) -> MigrationSelection {
        selection(&self.ids, self.to.as_deref(), None)
    }
}

/// Which migrations, backwards too: by name, to one, or so many.
#[derive(Debug, Args)]
pub(crate) struct Range {
    /// Ids, versions or names of migrations; what they need (backwards: what needs them) comes along.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Forwards: all up to and including this one. Backwards: all after this one, which stays.
    #[arg(long, value_name = "ID", conflicts_with = "ids")]
    to: Option<String>,
    /// Only the next (backwards: the newest) so many.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["ids", "to"], value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
}

impl Range {
    fn selection(&self) -> MigrationSelection {
        selection(&self.ids, self.to.as_deref(), self.steps)
    }

    /// The same as arguments of a command line, each after a space.
    fn arguments(&self) -> String {
        let mut text = String::new();
        for id in &self.ids {
            text.push_str(&format!(" {}", quoted(id)));
        }
        if let Some(to) = &self.to {
            text.push_str(&format!(" --to {}", quoted(to)));
        }
        if let Some(steps) = self.steps {
            text.push_str(&format!(" --steps {steps}"));
        }
        text
    }
}

fn selection(ids: &[String], to: Option<&str>, steps: Option<u32>) -> MigrationSelection {
    match (to, steps) {
        (Some(to), _) => MigrationSelection::to(to),
        (None, Some(steps)) => MigrationSelection::steps(steps),
        (None, None) => MigrationSelection::named(ids),
    }
}

/// How scripts are executed.
#[derive(Debug, Args)]
pub(crate) struct Manner {
    /// Longest wait for a lock in one try, 1ms to 10m; whoever comes later waits behind it [server default: 2s].
    #[arg(long, value_name = "DURATION")]
    lock_timeout: Option<Span>,
    /// Most tries for a lock, 1 to 1000 [server default: 10].
    #[arg(long, value_name = "COUNT")]
    lock_tries: Option<u32>,
    /// Longest time of one statement, up to 24h [server default: no limit].
    #[arg(long, value_name = "DURATION")]
    statement_timeout: Option<Span>,
}

impl Manner {
    fn wire(&self) -> MigrationManner {
        let mut manner = MigrationManner::default();
        if let Some(time) = self.lock_timeout {
            manner = manner.lock_timeout(time.into());
        }
        if let Some(tries) = self.lock_tries {
            manner = manner.lock_tries(tries);
        }
        if let Some(time) = self.statement_timeout {
            manner = manner.statement_timeout(time.into());
        }
        manner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_comes_back_as_arguments() {
        let range = |ids: &[&str], to: Option<&str>, steps| Range {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            to: to.map(str::to_owned),
            steps,
        };
        assert_eq!(range(&[], None, None).arguments(), "");
        assert_eq!(range(&["3", "add it"], None, None).arguments(), " 3 'add it'");
        assert_eq!(range(&[], Some("R__a'b"), None).arguments(), " --to 'R__a'\\''b'");
        assert_eq!(range(&[], None, Some(2)).arguments(), " --steps 2");
        assert_eq!(range(&[], None, None).selection(), MigrationSelection::all());
        assert_eq!(range(&[], Some("3"), None).selection(), MigrationSelection::to("3"));
        assert_eq!(range(&[], None, Some(2)).selection(), MigrationSelection::steps(2));
    }
}
