//! `dbkeep audit`: who did what, and whether the log of it is whole.
//!
//! Owns the list and the detail view, the verification (of the server's log, or of an exported file with no server), the export, and the file of anchors
//! that somebody keeps beside the server. What proves a log is the engine's ([`dbkeep_engine::audit`]). Called by `main.rs`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Subcommand, ValueEnum};
use dbkeep_client::{AuditQuery, proto};
use dbkeep_engine::audit::{
    Anchor, Digest, Phase, Problem, Record, Seal, Subject, Verified,
    export::{Line, Reader, Trailer},
    lines,
};
use futures::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::json;

use crate::{
    duration::Span,
    exit::Exit,
    json::{self, audit::Verdict},
    output::{Output, Tone},
    session::Session,
    table,
};

/// Most anchors that a server takes at a time; the newest prove most.
const MOST_ANCHORS: usize = 5_000;

/// Commands of `audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List records, newest first.
    List {
        /// Only of this principal.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
        /// Only of this method, like RunService/CancelRun.
        #[arg(long, value_name = "SERVICE/METHOD")]
        method: Option<String>,
        /// Only about this target.
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// Only where the call stands so.
        #[arg(long, value_enum)]
        phase: Option<PhaseWord>,
        /// Only since so long ago.
        #[arg(long, value_name = "DURATION")]
        since: Option<Span>,
        /// Only until so long ago.
        #[arg(long, value_name = "DURATION")]
        until: Option<Span>,
        /// Most records to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a record.
    Show {
        /// Its number.
        number: u64,
    },
    /// Read the whole log and say whether it is what was written; exit code 1 where it is not.
    Verify {
        /// An exported file instead of the server's log; needs no server.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Heads that were kept elsewhere: a file of `audit anchor`, or the server's anchor file.
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
    },
    /// Write the whole log as JSON lines, to be verified with no server.
    Export {
        /// Where to; standard output without it. A file that is there is not written over.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Verify the log and add its head to a file, which is to lie where nobody who can change the log can change it.
    Anchor {
        /// The file; it is made where it is missing.
        file: PathBuf,
    },
}

/// A phase to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PhaseWord {
    Begun,
    Ended,
    Denied,
}

impl From<PhaseWord> for proto::AuditPhase {
    fn from(phase: PhaseWord) -> Self {
        match phase {
            PhaseWord::Begun => Self::Begun,
            PhaseWord::Ended => Self::Ended,
            PhaseWord::Denied => Self::Denied,
        }
    }
}

impl Audit {
    /// The exported file that is to be verified: that needs no server.
    pub(crate) fn offline(&self) -> Option<(&Path, Option<&Path>)> {
        match self {
            Self::Verify {
                file: Some(file),
                anchor,
            } => Some((file, anchor.as_deref())),
            _ => None,
        }
    }

    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::List {
                by,
                method,
                target,
                phase,
                since,
                until,
                limit,
            } => {
                let mut query = AuditQuery::default().page_size(limit.min(500));
                if let Some(name) = by {
                    query = query.principal(name);
                }
                if let Some(method) = method {
                    query = query.method(method);
                }
                if let Some(target) = target {
                    query = query.target(target);
                }
                if let Some(phase) = phase {
                    query = query.phase(phase.into());
                }
                if let Some(since) = since {
                    query = query.since(ago(since)?);
                }
                if let Some(until) = until {
                    query = query.until(ago(until)?);
                }
                list(session, query, usize::try_from(limit)?).await
            }
            Self::Show { number } => show(&session.output, &session.client.audit().get(number).await?),
            Self::Verify { anchor, .. } => {
                let anchors = anchor.as_deref().map(read_anchors).transpose()?.unwrap_or_default();
                told(&session.output, &verified(session, &anchors).await?)
            }
            Self::Export { out } => export(session, out.as_deref()).await,
            Self::Anchor { file } => keep(session, &file).await,
        }
    }
}

fn ago(span: Span) -> anyhow::Result<SystemTime> {
    SystemTime::now()
        .checked_sub(Duration::from(span))
        .context("that is before all times")
}

async fn list(session: &Session, query: AuditQuery, limit: usize) -> anyhow::Result<Exit> {
    let output = &session.output;
    let mut stream = pin!(session.client.audit().list(query));
    let mut events = Vec::new();
    let mut more = false;
    while let Some(event) = stream.try_next().await? {
        if events.len() == limit {
            more = true;
            break;
        }
        events.push(event);
    }
    if output.is_json() {
        let events: Vec<_> = events.iter().map(json::audit::Event::from).collect();
        output.json(&json!({ "events": events, "more": more }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["NUMBER", "TIME", "WHO", "FROM", "METHOD", "TARGET", "PHASE", "CODE", "DETAIL"]);
    for event in &events {
        table.add_row([
            output.number(Tone::Strong, event.number),
            output.cell(Tone::Dim, table::instant(event.time.as_ref())),
            output.cell(Tone::Strong, &event.principal),
            output.cell(Tone::Dim, table::or_dash(&event.peer)),
            output.cell(Tone::Strong, &event.method),
            output.cell(Tone::Dim, table::or_dash(&event.target)),
            output.cell(tone(event.phase()), json::audit_phase(event.phase())),
            output.cell(tone(event.phase()), table::or_dash(&event.code)),
            output.cell(Tone::Dim, &event.detail),
        ]);
    }
    output.line(table)?;
    if more {
        output.note(format_args!("There are more than {limit}; --limit shows them."));
    }
    Ok(Exit::Success)
}

fn tone(phase: proto::AuditPhase) -> Tone {
    match phase {
        proto::AuditPhase::Denied => Tone::Bad,
        proto::AuditPhase::Ended => Tone::Good,
        proto::AuditPhase::Begun | proto::AuditPhase::Unspecified => Tone::Strong,
    }
}

fn show(output: &Output, event: &proto::AuditEvent) -> anyhow::Result<Exit> {
    if output.is_json() {
        output.json(&json!({ "event": json::audit::Event::from(event) }))?;
        return Ok(Exit::Success);
    }
    output.line(detail(output, event))?;
    Ok(Exit::Success)
}

fn detail(output: &Output, event: &proto::AuditEvent) -> comfy_table::Table {
    let mut table = output.table(["RECORD", &event.number.to_string()]);
    let mut row = |label: &str, tone: Tone, value: &str| {
        table.add_row([output.cell(Tone::Dim, label), output.cell(tone, table::or_dash(value))]);
    };
    row("call", Tone::Dim, &event.call_id);
    row("time", Tone::Strong, &json::time(event.time.as_ref()).unwrap_or_default());
    row("phase", tone(event.phase()), &json::audit_phase(event.phase()));
    row("who", Tone::Strong, &event.principal);
    row("from", Tone::Strong, &event.peer);
    row("method", Tone::Strong, &event.method);
    row("target", Tone::Strong, &event.target);
    row("code", tone(event.phase()), &event.code);
    row("detail", Tone::Strong, &event.detail);
    for count in &event.counts {
        row(&count.name, Tone::Strong, &count.value.to_string());
    }
    row("request", Tone::Dim, &event.request_digest);
    row("previous hash", Tone::Dim, &event.previous_hash);
    row("hash", Tone::Dim, &event.hash);
    table
}

/// Has the server verify its log.
async fn verified(session: &Session, anchors: &[Anchor]) -> anyhow::Result<Verdict> {
    let newest = anchors.iter().skip(anchors.len().saturating_sub(MOST_ANCHORS));
    let mut stream = pin!(
        session
            .client
            .audit()
            .verify_watched(newest.map(wire_anchor).collect())
            .await?
    );
    // It shows on a terminal only.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    while let Some(step) = stream.try_next().await? {
        bar.set_length(step.total_count);
        bar.set_position(step.record_count);
        if let Some(verdict) = step.verdict {
            bar.finish_and_clear();
            return Verdict::of_wire(&verdict);
        }
    }
    bail!("the verification ended without a verdict")
}

/// Verifies an exported file; called without a server.
pub(crate) fn verify_file(output: &Output, file: &Path, anchor: Option<&Path>) -> anyhow::Result<Exit> {
    let anchors = anchor.map(read_anchors).transpose()?.unwrap_or_default();
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    let mut reader = Reader::new(anchors);
    let read = || -> anyhow::Result<Result<Verified, Problem>> {
        for line in BufReader::new(opened).split(b'\n') {
            let line = line.with_context(|| file.display().to_string())?;
            if let Err(problem) = reader.next(&String::from_utf8_lossy(&line)) {
                return Ok(Err(problem));
            }
        }
        Ok(reader.end())
    };
    told(output, &Verdict::from(read()?))
}

fn told(output: &Output, verdict: &Verdict) -> anyhow::Result<Exit> {
    let exit = if verdict.whole { Exit::Success } else { Exit::Failure };
    if output.is_json() {
        output.json(&json!({ "verdict": verdict }))?;
        return Ok(exit);
    }
    for (tone, line) in words(verdict) {
        output.line(output.paint(tone, &line))?;
    }
    Ok(exit)
}

fn words(verdict: &Verdict) -> Vec<(Tone, String)> {
    if let Some(problem) = &verdict.problem {
        let place = format!("the log does not fit: record {} is {}", problem.number, problem.kind);
        return vec![
            (Tone::Bad, place),
            (Tone::Strong, problem.detail.clone()),
            (
                Tone::Dim,
                "what follows on that proves nothing; compare the log with an export and the anchors".to_owned(),
            ),
        ];
    }
    let anchors = match verdict.anchors {
        0 => "no anchor: a log that was cut off or made anew as a whole would look like this, too".to_owned(),
        1 => "1 anchor met".to_owned(),
        many => format!("{many} anchors met"),
    };
    let mut lines = vec![
        (Tone::Good, format!("whole: {} records", verdict.records)),
        (if verdict.anchors == 0 { Tone::Warn } else { Tone::Good }, anchors),
    ];
    if verdict.removed > 0 {
        let removed = format!("{} older ones were removed, and their seals fit", verdict.removed);
        lines.push((Tone::Dim, removed));
    }
    if let Some(head) = &verdict.head {
        lines.push((Tone::Dim, format!("head: record {}, {}", head.number, head.hash)));
    }
    lines
}

async fn export(session: &Session, out: Option<&Path>) -> anyhow::Result<Exit> {
    let mut stream = pin!(session.client.audit().export().await?);
    let mut sink = Sink::open(out)?;
    while let Some(piece) = stream.try_next().await? {
        for seal in &piece.seals {
            sink.write(&Line::Seal(seal_of(seal)?))?;
        }
        for event in &piece.events {
            sink.write(&Line::Record(Box::new(record_of(event)?)))?;
        }
        let Some(trailer) = piece.trailer else { continue };
        let head = trailer.head.as_ref().context("the trailer has no head")?;
        let trailer = Trailer {
            seals: trailer.seal_count,
            records: trailer.record_count,
            head: anchor_of(head)?,
        };
        sink.write(&Line::Trailer(trailer.clone()))?;
        sink.close()?;
        let Some(out) = out else { return Ok(Exit::Success) };
        if session.output.is_json() {
            let export = json!({ "file": out, "seals": trailer.seals, "records": trailer.records, "head": trailer.head });
            session.output.json(&json!({ "export": export }))?;
        } else {
            let text = format!(
                "{} records in {}, head: record {}",
                trailer.records,
                out.display(),
                trailer.head.number
            );
            session.output.line(text)?;
        }
        return Ok(Exit::Success);
    }
    bail!("the export ended without its trailer; what was written is not whole")
}

/// Where an export goes. A file has its name only when it is whole and on the disk.
enum Sink {
    Stdout(BufWriter<io::Stdout>),
    File {
        writer: BufWriter<File>,
        part: PathBuf,
        out: PathBuf,
    },
}

impl Sink {
    fn open(out: Option<&Path>) -> anyhow::Result<Self> {
        let Some(out) = out else {
            return Ok(Self::Stdout(BufWriter::new(io::stdout())));
        };
        if out.exists() {
            bail!("{} is there already; expected a new file", out.display());
        }
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .with_context(|| part.display().to_string())?;
        Ok(Self::File {
            writer: BufWriter::new(file),
            part,
            out: out.to_owned(),
        })
    }

    fn write(&mut self, line: &Line) -> anyhow::Result<()> {
        let text = serde_json::to_string(line)?;
        match self {
            Self::Stdout(writer) => writeln!(writer, "{text}")?,
            Self::File { writer, .. } => writeln!(writer, "{text}")?,
        }
        Ok(())
    }

    fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Stdout(mut writer) => Ok(writer.flush()?),
            Self::File { mut writer, part, out } => {
                writer.flush()?;
                writer.get_ref().sync_all()?;
                // A link fails where a file of that name has come up meanwhile.
                fs::hard_link(&part, &out).with_context(|| out.display().to_string())?;
                fs::remove_file(&part)?;
                Ok(())
            }
        }
    }
}

async fn keep(session: &Session, file: &Path) -> anyhow::Result<Exit> {
    let output = &session.output;
    let kept = if file.exists() { read_anchors(file)? } else { Vec::new() };
    let verdict = verified(session, &kept).await?;
    let Some(head) = verdict.head.as_ref().filter(|_| verdict.whole) else {
        // A head that nobody has verified is no proof of anything.
        return told(output, &verdict);
    };
    if head.number == 0 {
        bail!("the log is empty; there is nothing to anchor");
    }
    let anchor = Anchor {
        number: head.number,
        hash: Digest::parse(&head.hash).context("the head has no hash")?,
        at: jiff::Timestamp::now(),
    };
    let last = if file.exists() {
        fs::read(file)?.last().copied()
    } else {
        None
    };
    let line = lines::added(last, &anchor)?;
    let mut opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .with_context(|| file.display().to_string())?;
    opened.write_all(line.as_bytes())?;
    opened.sync_all()?;
    if output.is_json() {
        output.json(&json!({ "anchor": anchor, "verdict": verdict }))?;
        return Ok(Exit::Success);
    }
    told(output, &verdict)?;
    output.line(format_args!("anchored in {}", file.display()))?;
    Ok(Exit::Success)
}

fn read_anchors(file: &Path) -> anyhow::Result<Vec<Anchor>> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    lines::read(&bytes).map_err(|error| anyhow!("{}:{} is no anchor ({})", file.display(), error.line, error.problem))
}

// What came over the wire as what is verified and written to files.

fn wire_anchor(anchor: &Anchor) -> proto::AuditAnchor {
    proto::AuditAnchor {
        number: anchor.number,
        hash: anchor.hash.to_string(),
        time: None,
    }
}

fn hash_of(text: &str) -> anyhow::Result<Digest> {
    Digest::parse(text).with_context(|| format!("{text:?} is no hash"))
}

fn instant_of(stamp: Option<&prost_types::Timestamp>) -> anyhow::Result<jiff::Timestamp> {
    json::instant(stamp).context("a time is missing")
}

fn anchor_of(anchor: &proto::AuditAnchor) -> anyhow::Result<Anchor> {
    Ok(Anchor {
        number: anchor.number,
        hash: hash_of(&anchor.hash)?,
        at: instant_of(anchor.time.as_ref())?,
    })
}

fn seal_of(seal: &proto::AuditSeal) -> anyhow::Result<Seal> {
    Ok(Seal {
        first: seal.first_number,
        last: seal.last_number,
        previous: hash_of(&seal.previous_hash)?,
        head: hash_of(&seal.hash)?,
        at: instant_of(seal.time.as_ref())?,
        pruned: seal.pruned,
    })
}

fn record_of(event: &proto::AuditEvent) -> anyhow::Result<Record> {
    let phase = match event.phase() {
        proto::AuditPhase::Begun => Phase::Begun,
        proto::AuditPhase::Ended => Phase::Ended,
        proto::AuditPhase::Denied => Phase::Denied,
        proto::AuditPhase::Unspecified => bail!("record {} has a phase that this version does not know", event.number),
    };
    let call = event
        .call_id
        .parse()
        .with_context(|| format!("call of record {}", event.number))?;
    Ok(Record {
        number: event.number,
        subject: Subject {
            at: instant_of(event.time.as_ref())?,
            phase,
            principal: event.principal.clone(),
            peer: event.peer.clone(),
            method: event.method.clone(),
            target: event.target.clone(),
            request: hash_of(&event.request_digest)?,
            code: event.code.clone(),
            detail: event.detail.clone(),
            counts: event.counts.iter().map(|count| (count.name.clone(), count.value)).collect(),
            ..Subject::of(call)
        },
        previous: hash_of(&event.previous_hash)?,
        hash: hash_of(&event.hash)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for phase in PhaseWord::value_variants() {
            let word = phase.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::audit_phase((*phase).into()));
        }
    }

    #[test]
    fn a_record_survives_the_wire() {
        let subject = Subject {
            at: jiff::Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
            phase: Phase::Denied,
            principal: "ann".to_owned(),
            counts: vec![("rows".to_owned(), 7)],
            ..Subject::of(uuid_of("0198c0de-0000-7000-8000-000000000001"))
        };
        let record = dbkeep_engine::audit::chain::append(None, subject);
        let event = proto::AuditEvent {
            number: 1,
            call_id: record.subject.call.to_string(),
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 123_456_000,
            }),
            phase: proto::AuditPhase::Denied.into(),
            principal: "ann".into(),
            request_digest: record.subject.request.to_string(),
            counts: vec![proto::AuditCount {
                name: "rows".into(),
                value: 7,
            }],
            previous_hash: record.previous.to_string(),
            hash: record.hash.to_string(),
            ..Default::default()
        };
        assert_eq!(record_of(&event).unwrap(), record);
    }

    fn uuid_of<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    #[test]
    fn a_verdict_is_told() {
        let whole = Verdict::from(Ok(Verified {
            records: 7,
            sealed: 3,
            head: (10, Digest::GENESIS),
            anchors: 0,
        }));
        let text: Vec<String> = words(&whole).into_iter().map(|(_, line)| line).collect();
        assert!(text[0].contains("7 records") && text[1].contains("no anchor"), "{text:?}");
        let broken = Verdict::from(Err(Problem {
            number: 4,
            kind: dbkeep_engine::audit::ProblemKind::Missing,
            detail: "after record 3 comes 5".to_owned(),
        }));
        let text: Vec<String> = words(&broken).into_iter().map(|(_, line)| line).collect();
        assert!(text[0].contains("record 4 is missing"), "{text:?}");
    }
}
