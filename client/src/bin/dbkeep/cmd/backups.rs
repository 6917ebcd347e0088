//! `dbkeep backups`: the rows that runs captured, and proving them.
//!
//! Owns the list and detail views. Following a verification is `follow.rs`; putting rows back is `runs undo`. Called by
//! `main.rs`.

use std::pin::pin;

use clap::Subcommand;
use dbkeep_client::{
    BackupQuery,
    proto::{RunKind, VerificationState},
};
use futures::TryStreamExt as _;
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use crate::{
    exit::Exit,
    follow::{Until, follow},
    json,
    output::Tone,
    session::Session,
    table,
};

/// Commands of `backups`.
#[derive(Debug, Subcommand)]
pub(crate) enum Backups {
    /// List backups, newest first.
    List {
        /// Only backups of this target.
        #[arg(long)]
        target: Option<String>,
        /// Most backups to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a backup with its chunks.
    Show {
        /// Id of the backup, which is that of its run.
        id: String,
        /// Most chunks to show, up to 10000.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        max_chunks: u32,
    },
    /// Read every chunk, check every checksum, and restore the rows into scratch tables that vanish.
    Verify {
        /// Id of the backup, which is that of its run.
        id: String,
        /// Print the id of the verifying run and leave it at work.
        #[arg(long)]
        detach: bool,
    },
}

impl Backups {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::List { target, limit } => {
                let mut query = BackupQuery::default().page_size(limit.min(500));
                if let Some(target) = target {
                    query = query.target(target);
                }
                list(session, query, usize::try_from(limit)?).await
            }
            Self::Show { id, max_chunks } => show(session, id, max_chunks).await,
            Self::Verify { id, detach } => {
                let until = if detach { Until::Started } else { Until::End };
                let backups = session.client.backups();
                follow(session, RunKind::Verify, until, backups.verify(id)).await
            }
        }
    }
}

fn verification_tone(state: VerificationState) -> Tone {
    match state {
        VerificationState::Verified => Tone::Good,
        VerificationState::Damaged => Tone::Bad,
        VerificationState::Unverified | VerificationState::Unspecified => Tone::Dim,
    }
}

async fn list(session: &Session, query: BackupQuery, limit: usize) -> anyhow::Result<Exit> {
    let output = &session.output;
    let mut stream = pin!(session.client.backups().list(query));
    let mut backups = Vec::new();
    let mut more = false;
    while let Some(backup) = stream.try_next().await? {
        if backups.len() == limit {
            more = true;
            break;
        }
        backups.push(backup);
    }
    if output.is_json() {
        let backups: Vec<_> = backups.iter().map(json::backup::Backup::from).collect();
        output.json(&json!({ "backups": backups, "more": more }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["ID", "TARGET", "OPERATIONS", "ROWS", "SIZE", "CHUNKS", "PROVEN", "MADE"]);
    for backup in &backups {
        table.add_row([
            output.cell(Tone::Strong, &backup.id),
            output.cell(Tone::Dim, &backup.target),
            output.cell(Tone::Dim, backup.operations.join(", ")),
            output.number(Tone::Strong, HumanCount(backup.row_count)),
            output.number(Tone::Dim, HumanBytes(backup.size_bytes)),
            output.number(Tone::Dim, HumanCount(backup.chunk_count)),
            output.cell(
                verification_tone(backup.verification()),
                json::verification(backup.verification()),
            ),
            output.cell(Tone::Dim, table::instant(backup.create_time.as_ref())),
        ]);
    }
    output.line(table)?;
    if more {
        output.note(format_args!("There are more than {limit}; --limit shows them."));
    }
    Ok(Exit::Success)
}

async fn show(session: &Session, id: String, max_chunks: u32) -> anyhow::Result<Exit> {
    let output = &session.output;
    let detail = session.client.backups().get(id, max_chunks).await?;
    let backup = &detail.backup;
    if output.is_json() {
        let chunks: Vec<_> = detail.chunks.iter().map(json::backup::Chunk::from).collect();
        output.json(&json!({
            "backup": json::backup::Backup::from(backup),
            "chunks": chunks,
            "truncated": detail.truncated,
        }))?;
        return Ok(Exit::Success);
    }
    output.line(format_args!(
        "Backup {} of {}: {}, {}, {}{}, in {}",
        output.paint(Tone::Strong, &backup.id),
        backup.target,
        table::rows(backup.row_count),
        HumanBytes(backup.size_bytes),
        output.paint(
            verification_tone(backup.verification()),
            &json::verification(backup.verification())
        ),
        backup
            .verify_time
            .as_ref()
            .map(|time| format!(" {}", table::instant(Some(time))))
            .unwrap_or_default(),
        table::or_dash(&backup.folder),
    ))?;
    let mut table = output.table(["STEP", "BATCH", "FILE", "ROWS", "SIZE", "SHA-256"]);
    for chunk in &detail.chunks {
        table.add_row([
            output.number(Tone::Dim, u64::from(chunk.step_index) + 1),
            output.number(Tone::Dim, chunk.batch),
            output.cell(Tone::Strong, &chunk.file),
            output.number(Tone::Dim, HumanCount(chunk.row_count)),
            output.number(Tone::Dim, HumanBytes(chunk.size_bytes)),
            output.cell(Tone::Dim, &chunk.sha256),
        ]);
    }
    output.line(table)?;
    if detail.truncated {
        output.note(format_args!(
            "There are {} chunks; --max-chunks shows more.",
            HumanCount(backup.chunk_count)
        ));
    }
    Ok(Exit::Success)
}
