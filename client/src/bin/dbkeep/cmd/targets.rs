//! `dbkeep targets`: the databases that the server maintains.
//!
//! Owns their list and their detail view. Called by `main.rs`.

use clap::Subcommand;
use dbkeep_client::proto;
use indicatif::HumanBytes;
use serde_json::json;

use crate::{
    cmd::grants,
    exit::Exit,
    json::{self, catalog},
    output::{Output, Tone},
    session::Session,
    table,
};

/// Commands of `targets`.
#[derive(Debug, Subcommand)]
pub(crate) enum Targets {
    /// List the configured targets; does not connect to them.
    List,
    /// Let the server connect to a target and tell its version, size and capabilities.
    Show {
        /// Name of the target.
        name: String,
    },
}

impl Targets {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::List => list(session).await,
            Self::Show { name } => show(session, name).await,
        }
    }
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let output = &session.output;
    let targets = session.client.targets().list().await?;
    if output.is_json() {
        let targets: Vec<_> = targets.iter().map(catalog::Target::from).collect();
        output.json(&json!({ "targets": targets }))?;
        return Ok(Exit::Success);
    }
    show_list(&targets, output)?;
    Ok(Exit::Success)
}

/// Prints targets as they are configured; `dbkeep status` shows them too.
pub(crate) fn show_list(targets: &[proto::Target], output: &Output) -> std::io::Result<()> {
    let mut table = output.table(["NAME", "ENGINE", "ADDRESS", "OPERATIONS"]);
    for target in targets {
        table.add_row([
            output.cell(Tone::Strong, &target.name),
            output.cell(Tone::Dim, json::engine(target.engine())),
            output.cell(Tone::Dim, &target.address),
            output.number(Tone::Dim, target.operation_count),
        ]);
    }
    output.line(table)
}

async fn show(session: &Session, name: String) -> anyhow::Result<Exit> {
    let output = &session.output;
    let detail = session.client.targets().get(name).await?;
    let (target, status) = (&detail.target, &detail.status);
    if output.is_json() {
        output.json(&json!({
            "target": catalog::Target::from(target),
            "status": catalog::TargetStatus::from(status),
        }))?;
        return Ok(Exit::Success);
    }
    let capabilities: Vec<String> = status
        .capabilities()
        .map(|capability| json::capability(capability).replace('_', " "))
        .collect();
    let mut table = output.table(["TARGET", &target.name]);
    table
        .add_row(["engine", &format!("{} {}", json::engine(target.engine()), status.version)])
        .add_row(["address", &target.address])
        .add_row(["size", &HumanBytes(status.size_bytes).to_string()])
        .add_row(["clock", &status.clock])
        .add_row(["operations", &target.operation_count.to_string()])
        .add_row(["capabilities", &capabilities.join(", ")])
        .add_row(["active runs", table::or_dash(&status.active_run_ids.join(", "))]);
    if let Some(role) = &status.role {
        table.add_row(["role", table::or_dash(&role.name)]);
    }
    output.line(table)?;
    if let Some(role) = &status.role {
        if !role.problem.is_empty() {
            output.line(format_args!("The role's rights were not looked at: {}", role.problem))?;
        }
        grants::show_missing(role.missing.iter(), output)?;
        grants::show_excess(&role.excess, output)?;
    }
    Ok(Exit::Success)
}
