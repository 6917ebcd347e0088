//! `dbkeep discover`: rules that a database might want, as a table or as a catalog to save.
//!
//! Owns the arguments, the table, and how snippets become one catalog. Called by `main.rs`.

use clap::Args;
use dbkeep_client::{
    DiscoverRequest,
    proto::{DiscoverOperationsResponse, DiscoveryHintKind, Proposal},
};
use indicatif::HumanCount;
use serde_json::json;

use crate::{
    exit::Exit,
    json,
    output::{Output, Tone},
    session::Session,
};

/// Confidence from which on a proposal is shown as sure.
const SURE: f64 = 0.9;

/// Arguments of `discover`.
#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// Target to look at; may be left away where the server has one.
    #[arg(long)]
    target: Option<String>,
    /// Only rules that take rows from this table; may be given several times.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// Only proposals of at least this confidence, 0 to 1.
    #[arg(long, default_value_t = 0.7, value_parser = confidence)]
    min_confidence: f64,
    /// Most proposals, 1 to 1000.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Print a whole catalog to save and edit, instead of a table.
    #[arg(long)]
    toml: bool,
}

fn confidence(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

impl Discover {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let target = self.target.unwrap_or_default();
        let mut request = DiscoverRequest::default()
            .target(target.as_str())
            .min_confidence(self.min_confidence)
            .limit(self.limit);
        for table in self.tables {
            request = request.table(table);
        }
        let found = session.client.cleanup().discover(request).await?;
        match (output.is_json(), self.toml) {
            (true, false) => output.json(&json!({ "discovery": json::discovery::Discovery::from(&found) }))?,
            (true, true) => output.json(&json!({ "catalog": catalog(&found) }))?,
            (false, true) => {
                output.line(catalog(&found).trim_end())?;
                remarks(&found, output);
            }
            (false, false) => {
                table(&found, output)?;
                remarks(&found, output);
                let option = if target.is_empty() {
                    String::new()
                } else {
                    format!(" --target {target}")
                };
                output.line(format_args!(
                    "To save these as a catalog, and read it before it is used:\n  {} > catalog.toml",
                    session.command(&format!("discover{option} --toml"))
                ))?;
            }
        }
        Ok(Exit::Success)
    }
}

/// All snippets as one catalog; what this server cannot run stands in it as comments.
fn catalog(found: &DiscoverOperationsResponse) -> String {
    let mut text = format!(
        "# Proposed by `dbkeep discover` from {} tables. Nothing here is decided: keep what you mean, and plan it before it runs.\n",
        found.table_count
    );
    if !found.complete {
        text.push_str("# The time was over before everything was looked at.\n");
    }
    for proposal in &found.proposals {
        text.push('\n');
        if proposal.supported {
            text.push_str(&proposal.toml);
        } else {
            text.extend(proposal.toml.lines().map(|line| format!("# {line}\n")));
        }
    }
    text
}

fn rows(proposal: &Proposal) -> String {
    proposal
        .row_count
        .map_or_else(|| "not counted".to_owned(), |rows| HumanCount(rows).to_string())
}

fn place(table: &str, columns: &[String]) -> String {
    format!("{table} ({})", columns.join(", "))
}

fn table(found: &DiscoverOperationsResponse, output: &Output) -> std::io::Result<()> {
    let mut table = output.table(["SURE", "KIND", "TABLE", "NAMES", "ROWS", "WHY"]);
    for proposal in &found.proposals {
        let names = if proposal.parent.is_empty() {
            "-".to_owned()
        } else {
            place(&proposal.parent, &proposal.parent_columns)
        };
        let reasons = proposal
            .evidence
            .iter()
            .chain(Some(&proposal.note))
            .filter(|reason| !reason.is_empty());
        table.add_row([
            output.number(
                if proposal.confidence >= SURE { Tone::Good } else { Tone::Warn },
                format_args!("{:.2}", proposal.confidence),
            ),
            output.cell(Tone::Dim, &proposal.kind),
            output.cell(Tone::Strong, place(&proposal.table, &proposal.columns)),
            output.cell(Tone::Strong, names),
            output.number(
                if proposal.row_count == Some(0) {
                    Tone::Good
                } else {
                    Tone::Warn
                },
                rows(proposal),
            ),
            output.cell(Tone::Dim, reasons.cloned().collect::<Vec<_>>().join(" ")),
        ]);
    }
    output.line(table)?;
    for hint in &found.hints {
        let place = place(&hint.table, &hint.columns);
        let candidates = if hint.candidates.is_empty() {
            String::new()
        } else {
            format!(" [{}]", hint.candidates.join(", "))
        };
        let tone = if hint.kind() == DiscoveryHintKind::Ambiguous {
            Tone::Warn
        } else {
            Tone::Dim
        };
        let kind = json::hint_kind(hint.kind()).replace('_', " ");
        output.line(output.paint(tone, &format!("{kind}: {place}: {}{candidates}", hint.detail)))?;
    }
    Ok(())
}

/// What somebody should know who takes the answer for the whole truth.
fn remarks(found: &DiscoverOperationsResponse, output: &Output) {
    for warning in &found.warnings {
        output.note(output.paint_note(Tone::Warn, &format!("not looked at: {warning}")));
    }
    if !found.complete {
        output.note(output.paint_note(
            Tone::Warn,
            "The time was over before everything was looked at; --table narrows the search.",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_stands_as_comments() {
        let proposal = |name: &str, supported| Proposal {
            toml: format!("[[operation]]\nname = \"{name}\"\n"),
            supported,
            ..Default::default()
        };
        let found = DiscoverOperationsResponse {
            proposals: vec![proposal("a", true), proposal("b", false)],
            complete: true,
            table_count: 3,
            ..Default::default()
        };
        let text = catalog(&found);
        assert!(
            text.ends_with("\n\n[[operation]]\nname = \"a\"\n\n# [[operation]]\n# name = \"b\"\n"),
            "{text}"
        );
        assert!(text.starts_with("# Proposed") && text.contains("3 tables"));
    }

    #[test]
    fn a_confidence_lies_between_0_and_1() {
        assert!(confidence("0.7").is_ok() && confidence("1").is_ok());
        assert!(confidence("1.1").is_err() && confidence("NaN").is_err() && confidence("sure").is_err());
    }
}
