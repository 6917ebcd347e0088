//! `dbkeep decisions`: who asked for what, and what became of it.
//!
//! Owns the list view. Called by `main.rs`.

use std::pin::pin;

use clap::{Subcommand, ValueEnum};
use dbkeep_client::{DecisionQuery, proto};
use futures::TryStreamExt as _;
use serde_json::json;

use crate::{exit::Exit, json, output::Tone, session::Session, table};

/// Commands of `decisions`.
#[derive(Debug, Subcommand)]
pub(crate) enum Decisions {
    /// List decisions, newest first.
    List {
        /// Only decisions about this run.
        #[arg(long, value_name = "ID")]
        run: Option<String>,
        /// Only decisions about this plan.
        #[arg(long, value_name = "ID")]
        plan: Option<String>,
        /// Only decisions with this outcome.
        #[arg(long, value_enum)]
        outcome: Option<Outcome>,
        /// Most decisions to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

/// An outcome to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Outcome {
    Allowed,
    Refused,
}

impl From<Outcome> for proto::DecisionOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed => Self::Allowed,
            Outcome::Refused => Self::Refused,
        }
    }
}

impl Decisions {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let Self::List {
            run,
            plan,
            outcome,
            limit,
        } = self;
        let mut query = DecisionQuery::default().page_size(limit.min(500));
        if let Some(run) = run {
            query = query.run(run);
        }
        if let Some(plan) = plan {
            query = query.plan(plan);
        }
        if let Some(outcome) = outcome {
            query = query.outcome(outcome.into());
        }
        list(session, query, usize::try_from(limit)?).await
    }
}

async fn list(session: &Session, query: DecisionQuery, limit: usize) -> anyhow::Result<Exit> {
    let output = &session.output;
    let mut stream = pin!(session.client.decisions().list(query));
    let mut decisions = Vec::new();
    let mut more = false;
    while let Some(decision) = stream.try_next().await? {
        if decisions.len() == limit {
            more = true;
            break;
        }
        decisions.push(decision);
    }
    if output.is_json() {
        let decisions: Vec<_> = decisions.iter().map(json::decision::Decision::from).collect();
        output.json(&json!({ "decisions": decisions, "more": more }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["TIME", "WHO", "ACT", "OUTCOME", "REASON", "TARGET", "RUN", "DETAIL"]);
    for decision in &decisions {
        let tone = match decision.outcome() {
            proto::DecisionOutcome::Refused => Tone::Bad,
            proto::DecisionOutcome::Allowed | proto::DecisionOutcome::Unspecified => Tone::Good,
        };
        table.add_row([
            output.cell(Tone::Dim, table::instant(decision.time.as_ref())),
            output.cell(Tone::Strong, &decision.principal),
            output.cell(Tone::Strong, json::decision_act(decision.act())),
            output.cell(tone, json::decision_outcome(decision.outcome())),
            output.cell(tone, table::or_dash(&decision.reason)),
            output.cell(Tone::Dim, table::or_dash(&decision.target)),
            output.cell(Tone::Dim, table::or_dash(&decision.run_id)),
            output.cell(Tone::Dim, &decision.detail),
        ]);
    }
    output.line(table)?;
    if more {
        output.note(format_args!("There are more than {limit}; --limit shows them."));
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for outcome in Outcome::value_variants() {
            let word = outcome.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::decision_outcome((*outcome).into()));
        }
    }
}
