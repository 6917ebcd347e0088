//! `dbkeep grants`: the rights of the role with which dbkeep comes to a database.
//!
//! Owns the script view, the check and the lists of what is missing or too much. Called by `main.rs`, and by `targets.rs` for the lists.

use clap::{Args, ValueEnum};
use dbkeep_client::proto::{ExcessRight, Grant, GrantFeature};
use serde_json::json;

use crate::{
    exit::Exit,
    json::{self, catalog},
    output::{Output, Tone},
    session::Session,
};

/// Arguments of `grants`.
#[derive(Debug, Args)]
pub(crate) struct Grants {
    /// Name of the target; may be left out where there is one.
    #[arg(default_value = "")]
    target: String,
    /// The role, which need not be there yet [default: the one that dbkeep comes with].
    #[arg(long, value_name = "NAME", default_value = "")]
    role: String,
    /// What the role is for; the statements of everything else stand in comments. Can be repeated [default: what the configuration uses].
    #[arg(long = "for", value_enum, value_name = "FEATURE", value_delimiter = ',')]
    features: Vec<Feature>,
    /// Say what the role lacks, and end with exit code 1 where it lacks anything, instead of printing the script.
    #[arg(long)]
    check: bool,
}

/// What rights are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Feature {
    /// To come in, and to keep the journal.
    Basis,
    /// Plans and runs of the catalog's operations.
    Cleanup,
    /// Putting captured rows back.
    Undo,
    /// Looking at the database's health.
    Monitoring,
    /// Applying migrations, and taking them back.
    Migrations,
    /// Backups of whole tables, or of the whole database.
    Backups,
    /// Restoring those, and proving that they can be.
    Restores,
    /// VACUUM, ANALYZE, and indexes that are built anew.
    Maintenance,
    /// Looking around for rules.
    Discovery,
}

impl From<Feature> for GrantFeature {
    fn from(feature: Feature) -> Self {
        match feature {
            Feature::Basis => Self::Basis,
            Feature::Cleanup => Self::Cleanup,
            Feature::Undo => Self::Undo,
            Feature::Monitoring => Self::Monitoring,
            Feature::Migrations => Self::Migrations,
            Feature::Backups => Self::Backups,
            Feature::Restores => Self::Restores,
            Feature::Maintenance => Self::Maintenance,
            Feature::Discovery => Self::Discovery,
        }
    }
}

impl Grants {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let features: Vec<GrantFeature> = self.features.iter().copied().map(GrantFeature::from).collect();
        let answer = session.client.targets().grants(self.target, self.role, &features).await?;
        let mut wanted = if features.is_empty() {
            answer.used().collect()
        } else {
            features
        };
        wanted.push(GrantFeature::Basis);
        let missing: Vec<&Grant> = answer
            .grants
            .iter()
            .filter(|grant| !grant.held && wanted.contains(&grant.feature()))
            .collect();
        let exit = if self.check && !missing.is_empty() {
            Exit::Failure
        } else {
            Exit::Success
        };
        if output.is_json() {
            let grants: Vec<_> = answer.grants.iter().map(catalog::Grant::from).collect();
            let excess: Vec<_> = answer.excess.iter().map(catalog::Excess::from).collect();
            let missing: Vec<_> = missing.into_iter().map(catalog::Grant::from).collect();
            let used: Vec<_> = answer.used().map(json::grant_feature).collect();
            output.json(&json!({
                "target": answer.target,
                "role": answer.role,
                "exists": answer.exists,
                "used": used,
                "grants": grants,
                "missing": missing,
                "excess": excess,
                "notes": answer.notes,
                "script": answer.script,
            }))?;
            return Ok(exit);
        }
        if !self.check {
            // As it is, so that it can be kept in a file and run.
            output.line(answer.script.trim_end())?;
            return Ok(exit);
        }
        if !answer.exists {
            output.line(format_args!("There is no role {} yet.", answer.role))?;
        } else if missing.is_empty() {
            output.line(format_args!("Role {} has every right that it needs.", answer.role))?;
        }
        show_missing(missing.into_iter(), output)?;
        show_excess(&answer.excess, output)?;
        for note in &answer.notes {
            output.line(format_args!("Note: {note}."))?;
        }
        Ok(exit)
    }
}

/// Lists rights that are missing, with the statements that grant them.
pub(crate) fn show_missing<'a>(missing: impl Iterator<Item = &'a Grant>, output: &Output) -> std::io::Result<()> {
    let mut table = output.table(["MISSING RIGHT", "ON", "FOR", "STATEMENT"]);
    let mut any = false;
    for grant in missing {
        any = true;
        table.add_row([
            output.cell(Tone::Bad, &grant.privilege),
            output.cell(Tone::Dim, &grant.object),
            output.cell(Tone::Dim, format!("{}: {}", json::grant_feature(grant.feature()), grant.why)),
            output.cell(Tone::Strong, terminated(&grant.statement)),
        ]);
    }
    if any { output.line(table) } else { Ok(()) }
}

/// Lists what a role could do besides.
pub(crate) fn show_excess(excess: &[ExcessRight], output: &Output) -> std::io::Result<()> {
    if excess.is_empty() {
        return Ok(());
    }
    let mut table = output.table(["MORE THAN IT NEEDS", "WHY IT MATTERS", "STATEMENT"]);
    for right in excess {
        let tone = if right.warning { Tone::Warn } else { Tone::Dim };
        table.add_row([
            output.cell(tone, &right.what),
            output.cell(Tone::Dim, &right.why),
            output.cell(Tone::Strong, terminated(&right.statement)),
        ]);
    }
    output.line(table)
}

/// A statement as it is typed; nothing where there is none.
fn terminated(statement: &str) -> String {
    if statement.is_empty() {
        String::new()
    } else {
        format!("{statement};")
    }
}
