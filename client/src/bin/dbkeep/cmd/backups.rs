//! `dbkeep backups`: what runs saved: making it, looking at it, proving it, bringing it back, and removing what is old.
//!
//! Owns the list and detail views and the confirmation before a restore into place. Following a run is `follow.rs`; putting captured
//! rows back is `runs undo`; reading chunks without a server is `cmd/extract.rs`. Called by `main.rs`.

use std::pin::pin;

use clap::Subcommand;
use dbkeep_client::{
    BackupQuery, CreateRequest, PruneRequest, RestoreRequest,
    proto::{BackupKind, RunKind, VerificationState},
};
use futures::TryStreamExt as _;
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use crate::{
    cmd::extract::Extract,
    duration::Span,
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
    /// Copy whole tables, or the whole database, into one file: pg_dump for PostgreSQL, VACUUM INTO for SQLite.
    Create {
        /// Target to save; may be left away where the server has one.
        #[arg(long)]
        target: Option<String>,
        /// Only this table; may be given again.
        #[arg(long)]
        table: Vec<String>,
        /// Print the run's id and leave it at work.
        #[arg(long)]
        detach: bool,
    },
    /// Bring a backup back: to a scratch place beside the target's tables, or into place with --in-place.
    Restore {
        /// Id of the backup.
        id: String,
        /// Only this table of the backup; may be given again.
        #[arg(long)]
        table: Vec<String>,
        /// Name of the scratch place (a database, a file, or a schema or prefix for captured rows).
        #[arg(long, value_name = "NAME", conflicts_with = "in_place")]
        scratch_name: Option<String>,
        /// Write into the target's own tables, in one transaction.
        #[arg(long, requires = "confirm")]
        in_place: bool,
        /// What will be written to, typed out: TARGET/BACKUP.
        #[arg(long, value_name = "TARGET/BACKUP", requires = "in_place")]
        confirm: Option<String>,
        /// Tables that hold rows lose them first.
        #[arg(long, requires = "in_place")]
        replace: bool,
        /// Take a backup of another database than the target is now.
        #[arg(long, requires = "in_place")]
        other_database: bool,
        /// Print the run's id and leave it at work.
        #[arg(long)]
        detach: bool,
    },
    /// Tell which old backups would go, and remove them with --execute.
    #[command(group = clap::ArgGroup::new("rule").required(true).multiple(true))]
    Prune {
        /// Target whose backups are looked through; may be left away where the server has one.
        #[arg(long)]
        target: Option<String>,
        /// How many of the newest stay.
        #[arg(long, value_name = "COUNT", group = "rule")]
        keep_last: Option<u32>,
        /// Only those older than this, e.g. 30d.
        #[arg(long, value_name = "DURATION", group = "rule")]
        older_than: Option<Span>,
        /// Remove them.
        #[arg(long)]
        execute: bool,
    },
    /// Print the rows of chunk files; needs no server.
    Extract(Extract),
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
            Self::Create { target, table, detach } => {
                let mut request = CreateRequest::new().target(target.unwrap_or_default());
                for table in table {
                    request = request.table(table);
                }
                let until = if detach { Until::Started } else { Until::End };
                let backups = session.client.backups();
                follow(session, RunKind::Backup, until, backups.create(request)).await
            }
            Self::Restore {
                id,
                table,
                scratch_name,
                in_place,
                confirm,
                replace,
                other_database,
                detach,
            } => {
                let mut request = match confirm.filter(|_| in_place) {
                    Some(confirm) => RestoreRequest::in_place(id, confirm),
                    None => RestoreRequest::scratch(id).scratch_name(scratch_name.unwrap_or_default()),
                };
                if replace {
                    request = request.replace();
                }
                if other_database {
                    request = request.other_database();
                }
                for table in table {
                    request = request.table(table);
                }
                let until = if detach { Until::Started } else { Until::End };
                let backups = session.client.backups();
                follow(session, RunKind::Restore, until, backups.restore(request)).await
            }
            Self::Prune {
                target,
                keep_last,
                older_than,
                execute,
            } => {
                let mut request = PruneRequest::default().target(target.unwrap_or_default());
                if let Some(backups) = keep_last {
                    request = request.keep_last(backups);
                }
                if let Some(age) = older_than {
                    request = request.older_than(age.into());
                }
                if execute {
                    request = request.execute();
                }
                prune(session, request).await
            }
            Self::Extract(extract) => extract.run(&session.output),
        }
    }
}

async fn prune(session: &Session, request: PruneRequest) -> anyhow::Result<Exit> {
    let output = &session.output;
    let answer = session.client.backups().prune(request).await?;
    if output.is_json() {
        let backups: Vec<_> = answer.backups.iter().map(json::backup::Pruned::from).collect();
        output.json(&json!({ "backups": backups, "freed_bytes": answer.freed_bytes, "dry_run": answer.dry_run }))?;
        return Ok(Exit::Success);
    }
    let gone = if answer.dry_run { "would go" } else { "gone" };
    let mut table = output.table(["ID", "KIND", "MADE", "SIZE", "", "WHY"]);
    for pruned in &answer.backups {
        let Some(backup) = &pruned.backup else { continue };
        table.add_row([
            output.cell(Tone::Strong, &backup.id),
            output.cell(Tone::Dim, json::backup_kind(backup.kind())),
            output.cell(Tone::Dim, table::instant(backup.create_time.as_ref())),
            output.number(Tone::Dim, HumanBytes(backup.size_bytes)),
            output.cell(
                if pruned.pruned { Tone::Warn } else { Tone::Good },
                if pruned.pruned { gone } else { "stays" },
            ),
            output.cell(Tone::Dim, &pruned.reason),
        ]);
    }
    output.line(table)?;
    output.line(format_args!("{} {gone}", HumanBytes(answer.freed_bytes)))?;
    if answer.dry_run {
        output.note("Nothing was removed; --execute does it.");
    }
    Ok(Exit::Success)
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
    let mut table = output.table([
        "ID",
        "TARGET",
        "KIND",
        "OPERATIONS",
        "ROWS",
        "SIZE",
        "CHUNKS",
        "PROVEN",
        "MADE",
    ]);
    for backup in &backups {
        table.add_row([
            output.cell(Tone::Strong, &backup.id),
            output.cell(Tone::Dim, &backup.target),
            output.cell(
                Tone::Dim,
                if backup.prune_time.is_some() {
                    "pruned".to_owned()
                } else {
                    json::backup_kind(backup.kind())
                },
            ),
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

/// A backup of whole tables: its files and tables.
fn whole(session: &Session, backup: &dbkeep_client::proto::Backup) -> anyhow::Result<Exit> {
    let output = &session.output;
    let mut files = output.table(["FILE", "SIZE", "SHA-256"]);
    for file in &backup.files {
        files.add_row([
            output.cell(Tone::Strong, &file.file),
            output.number(Tone::Dim, HumanBytes(file.size_bytes)),
            output.cell(Tone::Dim, &file.sha256),
        ]);
    }
    let mut tables = output.table(["TABLE", "ROWS"]);
    for table in &backup.tables {
        tables.add_row([
            output.cell(Tone::Strong, &table.table),
            output.number(Tone::Dim, HumanCount(table.row_count)),
        ]);
    }
    output.line(files)?;
    output.line(tables)?;
    output.line(format_args!(
        "Written by {}. To look at it: {}",
        backup.tool,
        session.command(&format!("backups restore {}", backup.id))
    ))?;
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
    if backup.prune_time.is_some() {
        let when = table::instant(backup.prune_time.as_ref());
        return Ok(output
            .line(output.paint(Tone::Warn, &format!("Its files were removed {when}.")))
            .map(|()| Exit::Success)?);
    }
    if backup.kind() != BackupKind::Rows {
        return whole(session, backup);
    }
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
