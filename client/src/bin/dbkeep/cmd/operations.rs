//! `dbkeep operations`: what a target's catalog can clean.
//!
//! Owns the list and the detail view of operations. Called by `main.rs`.

use clap::{Subcommand, ValueEnum};
use dbkeep_client::{OperationQuery, proto};
use serde_json::json;

use crate::{
    exit::Exit,
    json::{self, catalog},
    output::Tone,
    session::Session,
    table,
};

/// Commands of `operations`.
#[derive(Debug, Subcommand)]
pub(crate) enum Operations {
    /// List the operations of a target's catalog.
    List {
        /// Target whose catalog is read; may be left away where the server has one.
        #[arg(long)]
        target: Option<String>,
        /// Only this category.
        #[arg(long)]
        category: Option<String>,
        /// Only this severity.
        #[arg(long, value_enum)]
        severity: Option<Severity>,
    },
    /// Show an operation with its rules.
    Show {
        /// Name of the operation.
        name: String,
        /// Target whose catalog is read; may be left away where the server has one.
        #[arg(long)]
        target: Option<String>,
    },
}

/// A severity to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl From<Severity> for proto::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Low => Self::Low,
            Severity::Medium => Self::Medium,
            Severity::High => Self::High,
            Severity::Critical => Self::Critical,
        }
    }
}

impl Operations {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::List {
                target,
                category,
                severity,
            } => {
                let mut query = OperationQuery::default().target(target.unwrap_or_default());
                if let Some(category) = category {
                    query = query.category(category);
                }
                if let Some(severity) = severity {
                    query = query.severity(severity.into());
                }
                list(session, query).await
            }
            Self::Show { name, target } => show(session, target.unwrap_or_default(), name).await,
        }
    }
}

fn severity_tone(severity: proto::Severity) -> Tone {
    match severity {
        proto::Severity::Low => Tone::Good,
        proto::Severity::Medium => Tone::Warn,
        proto::Severity::High | proto::Severity::Critical => Tone::Bad,
        proto::Severity::Unspecified => Tone::Dim,
    }
}

async fn list(session: &Session, query: OperationQuery) -> anyhow::Result<Exit> {
    let output = &session.output;
    let operations = session.client.cleanup().operations(query).await?;
    if output.is_json() {
        let operations: Vec<_> = operations.iter().map(catalog::Operation::from).collect();
        output.json(&json!({ "operations": operations }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["NAME", "CATEGORY", "SEVERITY", "BACKUP", "EXPECTED", "DESCRIPTION"]);
    for operation in &operations {
        table.add_row([
            output.cell(Tone::Strong, &operation.name),
            output.cell(Tone::Dim, &operation.category),
            output.cell(severity_tone(operation.severity()), json::severity(operation.severity())),
            output.cell(Tone::Dim, if operation.backup { "yes" } else { "no" }),
            output.cell(Tone::Dim, table::duration(operation.expected_duration.as_ref())),
            output.cell(Tone::Dim, &operation.description),
        ]);
    }
    output.line(table)?;
    Ok(Exit::Success)
}

async fn show(session: &Session, target: String, name: String) -> anyhow::Result<Exit> {
    let output = &session.output;
    let operation = session.client.cleanup().operation(target, name).await?;
    if output.is_json() {
        output.json(&json!({ "operation": catalog::Operation::from(&operation) }))?;
        return Ok(Exit::Success);
    }
    output.line(format_args!(
        "{}  severity {}, {}, category {}, expected {}",
        output.paint(Tone::Strong, &operation.name),
        output.paint(severity_tone(operation.severity()), &json::severity(operation.severity())),
        if operation.backup { "with backup" } else { "without backup" },
        table::or_dash(&operation.category),
        table::duration(operation.expected_duration.as_ref()),
    ))?;
    output.line(output.paint(Tone::Dim, &operation.description))?;
    let mut table = output.table(["RULE", "KIND", "TABLE", "ACTION", "DECLARED AT", "SELECTS"]);
    for rule in &operation.rules {
        table.add_row([
            output.cell(Tone::Strong, &rule.name),
            output.cell(Tone::Dim, &rule.kind),
            output.cell(Tone::Strong, &rule.table),
            output.cell(Tone::Dim, &rule.action),
            output.cell(Tone::Dim, &rule.origin),
            output.cell(Tone::Dim, &rule.description),
        ]);
    }
    output.line(table)?;
    Ok(Exit::Success)
}
