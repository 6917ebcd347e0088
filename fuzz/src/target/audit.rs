//! Exports of the audit log, as somebody may have changed them: the lines of `dbkeep audit export`, read as `dbkeep audit verify --file` reads
//! them, and before them anchors that were kept elsewhere (`{"anchor":{..}}`).
//!
//! An export that verifies has to be the whole of one chain from its beginning: a record that was changed, moved, taken out or put in shows.
//! Nearly every change breaks a hash. So that others reach what comes behind the hashes, an input whose first line is `rechained` gets its
//! records linked and hashed anew, and its trailer the new head: what somebody does who can write the file, and knows the form.

use dbkeep_engine::audit::{
    Anchor, Digest, Phase, Record, Seal, Subject, chain,
    export::{Line, Reader, Trailer},
    retention,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Check, Target, broken};

pub(super) const TARGET: Target = Target {
    name: "audit",
    about: "the verifier of an exported audit log",
    words: &[
        "rechained\n",
        "{\"anchor\":",
        "{\"seal\":",
        "{\"record\":",
        "{\"trailer\":",
        "\"number\":",
        "\"hash\":",
        "\"previous\":",
        "\"pruned\":true",
        "\"pruned\":false",
        "\"seals\":",
        "\"records\":",
        "\"head\":",
        "AuditLog/Seal",
        "AuditLog/Prune",
        "18446744073709551615",
        "\"first\":1",
        "\"last\":",
        "\n",
    ],
    seeds,
    open,
};

/// What makes an input one that is linked and hashed anew.
const RECHAINED: &[u8] = b"rechained\n";

/// An anchor that was kept elsewhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    anchor: Anchor,
}

fn records(count: u64) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for number in 0..count {
        let subject = Subject {
            call: Uuid::from_u128(u128::from(number / 2)),
            at: Timestamp::from_second(1_800_000_000 + i64::try_from(number).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH),
            phase: Phase::ALL[usize::try_from(number % 3).unwrap_or(0)],
            principal: format!("user{number}"),
            peer: "127.0.0.1:1".into(),
            method: "RunService/UndoRun".into(),
            target: "app".into(),
            request: Digest([7; 32]),
            code: if number % 2 == 0 { String::new() } else { "OK".into() },
            detail: "because".into(),
            counts: vec![("rows".into(), number)],
        };
        records.push(chain::append(records.last(), subject));
    }
    records
}

fn anchor(record: &Record) -> Anchor {
    Anchor {
        number: record.number,
        hash: record.hash,
        at: record.subject.at,
    }
}

fn line(value: &impl Serialize) -> String {
    format!("{}\n", serde_json::to_string(value).unwrap_or_default())
}

/// An export: whole, with its first half closed, and with that half removed, as the keeper does it.
fn export(count: u64, closed: bool, gone: bool) -> String {
    let mut log = records(count);
    let mut seals = Vec::new();
    if let (true, Some(last)) = (closed, log.get(usize::try_from(count / 2).unwrap_or(0))) {
        seals.push(Seal {
            first: 1,
            last: last.number,
            previous: Digest::GENESIS,
            head: last.hash,
            at: last.subject.at,
            pruned: gone,
        });
        let mut says = vec![retention::sealing(&seals, Uuid::nil())];
        says.extend(gone.then(|| retention::removal(&seals, Uuid::nil())));
        for subject in says {
            log.push(chain::append(log.last(), subject));
        }
    }
    let head = log.last().map_or(
        Anchor {
            number: 0,
            hash: Digest::GENESIS,
            at: Timestamp::UNIX_EPOCH,
        },
        anchor,
    );
    if gone {
        let through = seals.first().map_or(0, |seal| seal.last);
        log.retain(|record| record.number > through);
    }
    let trailer = Trailer {
        seals: seals.len() as u64,
        records: log.len() as u64,
        head,
    };
    let lines = seals.into_iter().map(Line::Seal);
    let lines = lines.chain(log.into_iter().map(|record| Line::Record(Box::new(record))));
    lines.chain([Line::Trailer(trailer)]).map(|whole| line(&whole)).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (count, closed, gone) in [(0, false, false), (1, false, false), (6, true, false), (6, true, true)] {
        let export = export(count, closed, gone);
        let kept = records(count).last().map(|last| line(&Kept { anchor: anchor(last) }));
        seeds.push(format!("{}{export}", kept.unwrap_or_default()).into_bytes());
        seeds.push([RECHAINED, export.as_bytes()].concat());
    }
    // A seal that stands for all records that there could ever be.
    let endless = Line::Seal(Seal {
        first: 1,
        last: u64::MAX,
        previous: Digest::GENESIS,
        head: Digest([1; 32]),
        at: Timestamp::UNIX_EPOCH,
        pruned: true,
    });
    seeds.push(format!("{}{}", line(&endless), export(1, false, false)).into_bytes());
    seeds
}

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

/// The same with every record linked and hashed anew, from the last one that a removed range stands for on, and the trailer's head set to it.
fn rechained(lines: Vec<String>) -> Vec<String> {
    let mut head = (0, Digest::GENESIS);
    let again = |text: String| {
        let Ok(mut read) = serde_json::from_str::<Line>(&text) else {
            return text;
        };
        match &mut read {
            Line::Seal(seal) if seal.pruned => head = (seal.last, seal.head),
            Line::Seal(_) => {}
            Line::Record(record) => {
                record.previous = head.1;
                record.hash = chain::hash(record.previous, record.number, &record.subject);
                head = (record.number, record.hash);
            }
            Line::Trailer(trailer) => (trailer.head.number, trailer.head.hash) = head,
        }
        line(&read).trim_end().to_owned()
    };
    lines.into_iter().map(again).collect()
}

fn check(input: &[u8]) -> Result<String, String> {
    let (rest, anew) = match input.strip_prefix(RECHAINED) {
        Some(rest) => (rest, true),
        None => (input, false),
    };
    let text = rest.strip_suffix(b"\n").unwrap_or(rest);
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .peekable();
    let mut anchors = Vec::new();
    while let Some(Ok(kept)) = lines.peek().map(|line| serde_json::from_str::<Kept>(line)) {
        anchors.push(kept.anchor);
        lines.next();
    }
    let lines: Vec<String> = lines.collect();
    let lines = if anew { rechained(lines) } else { lines };
    let mut reader = Reader::new(anchors.clone());
    let verified = lines
        .iter()
        .try_for_each(|line| reader.next(line))
        .and_then(|()| reader.end());
    let verified = match verified {
        Ok(verified) => verified,
        Err(problem) if problem.detail.is_empty() => return broken("a log is refused without a word"),
        Err(problem) => return Ok(format!("{}: {}", problem.kind.name(), problem.detail)),
    };
    // What must hold of a log that verifies, told without the verifier.
    let (mut records, mut gone, mut trailer) = (Vec::new(), None, None);
    for line in &lines {
        match serde_json::from_str(line) {
            Ok(Line::Record(record)) => records.push(*record),
            Ok(Line::Seal(seal)) if seal.pruned => gone = gone.max(Some((seal.last, seal.head))),
            Ok(Line::Seal(_)) => {}
            Ok(Line::Trailer(last)) => trailer = Some(last),
            Err(error) => return broken(format!("a line that is none is accepted: {error}")),
        }
    }
    let mut previous = gone.unwrap_or((0, Digest::GENESIS));
    for record in &records {
        if Some(record.number) != previous.0.checked_add(1) || previous.1 != record.previous {
            return broken(format!("record {} does not follow on {}", record.number, previous.0));
        }
        if chain::hash(record.previous, record.number, &record.subject) != record.hash {
            return broken(format!("record {} was changed", record.number));
        }
        previous = (record.number, record.hash);
    }
    let Some(trailer) = trailer else {
        return broken("an export without its trailer is accepted");
    };
    if (trailer.head.number, trailer.head.hash) != previous || trailer.records != records.len() as u64 {
        return broken(format!(
            "the trailer speaks of {}, and the log ends at {}",
            trailer.head.number, previous.0
        ));
    }
    let removed = |record: &Record| record.subject.principal == "dbkeep" && record.subject.method == "AuditLog/Prune";
    if gone.is_some() && !records.iter().any(removed) {
        return broken("records are gone, and nobody has removed them");
    }
    if let Some(beyond) = anchors.iter().find(|anchor| anchor.number > previous.0) {
        return broken(format!("the log ends at {}, and {} was anchored", previous.0, beyond.number));
    }
    let replaced = |anchor: &&Anchor| {
        records
            .iter()
            .any(|record| record.number == anchor.number && record.hash != anchor.hash)
    };
    if let Some(anchor) = anchors.iter().find(replaced) {
        return broken(format!("record {} is not the one that was anchored", anchor.number));
    }
    Ok(format!(
        "whole, {} records, {} sealed",
        verified.records.min(3),
        verified.sealed.min(3)
    ))
}
