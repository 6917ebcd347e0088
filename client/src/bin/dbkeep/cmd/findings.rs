//! `dbkeep findings` and `dbkeep recommendations`: what is wrong with a target, and what should be done.
//!
//! Owns both views. Called by `main.rs`.

use clap::Args;
use dbkeep_client::Look;
use serde_json::json;

use crate::{
    cmd::alerts::level_tone,
    exit::Exit,
    json::{self, monitoring},
    output::{Tone, printable},
    session::Session,
    table,
};

/// Arguments of `findings`.
#[derive(Debug, Args)]
pub(crate) struct Findings {
    /// Name of the target; may be left out where there is one.
    #[arg(default_value = "")]
    target: String,
    #[command(flatten)]
    depth: Depth,
}

/// How to look.
#[derive(Debug, Args)]
pub(crate) struct Depth {
    /// Look now, and not at what was collected last.
    #[arg(long, conflicts_with = "exact")]
    fresh: bool,
    /// Look now, count rows and read pages: that reads whole tables.
    #[arg(long)]
    exact: bool,
}

impl Depth {
    pub(crate) fn look(&self) -> Look {
        match (self.fresh, self.exact) {
            (_, true) => Look::Exact,
            (true, false) => Look::Fresh,
            (false, false) => Look::Newest,
        }
    }
}

impl Findings {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let answer = session.client.monitoring().findings(self.target, self.depth.look()).await?;
        if output.is_json() {
            let findings: Vec<_> = answer.findings.iter().map(monitoring::Finding::from).collect();
            output.json(&json!({ "time": json::time(answer.time.as_ref()), "findings": findings }))?;
            return Ok(Exit::Success);
        }
        let mut table = output.table(["FINDING", "LEVEL", "ABOUT", "WHAT", "WHAT TO DO"]);
        for finding in &answer.findings {
            table.add_row([
                output.cell(Tone::Strong, &finding.kind),
                output.cell(level_tone(finding.level()), json::alert_level(finding.level())),
                output.cell(Tone::Strong, table::or_dash(&finding.object)),
                output.cell(Tone::Strong, &finding.detail),
                output.cell(Tone::Dim, table::or_dash(&finding.remediation)),
            ]);
        }
        output.line(table)?;
        for finding in answer.findings.iter().filter(|finding| !finding.definition.is_empty()) {
            output.note(printable(&format!(
                "{} is made again by: {}",
                finding.object, finding.definition
            )));
        }
        output.note(format_args!("Measured {}.", table::instant(answer.time.as_ref())));
        Ok(Exit::Success)
    }
}

/// Arguments of `recommendations`.
#[derive(Debug, Args)]
pub(crate) struct Recommendations {
    /// Name of the target; may be left out where there is one.
    #[arg(default_value = "")]
    target: String,
}

impl Recommendations {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let advice = session.client.monitoring().recommendations(self.target).await?;
        if output.is_json() {
            let advice: Vec<_> = advice.iter().map(json::sizes::Recommendation::from).collect();
            output.json(&json!({ "recommendations": advice }))?;
            return Ok(Exit::Success);
        }
        if advice.is_empty() {
            output.note("Nothing is recommended.");
        }
        // No table: what is to be pasted keeps its lines.
        Ok(table::sizes::recommend(&advice, output).map(|()| Exit::Success)?)
    }
}
