//! Exports of the audit log, as somebody may have changed them: one record, seal or anchor a line, as JSON.
//!
//! A log that verifies has to be the whole of one chain from its beginning: a record that was changed, moved, taken out or put in shows.

use dbkeep_engine::audit::{Anchor, Digest, Phase, Record, Seal, Subject, Verifier, chain};
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::{Check, Target, broken};

pub(super) const TARGET: Target = Target {
    name: "audit",
    about: "the verifier of the audit log",
    words: &[
        "\"number\":",
        "\"hash\":",
        "\"previous\":",
        "\"pruned\":true",
        "\"pruned\":false",
        "18446744073709551615",
        "\"first\":1",
        "\"last\":",
        "\n",
    ],
    seeds,
    open,
};

/// A line of an export.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record(Box<Record>),
    Seal(Seal),
    Anchor(Anchor),
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

fn seeds() -> Vec<Vec<u8>> {
    let at = Timestamp::UNIX_EPOCH;
    let line = |value: &dyn erased::Line| value.line();
    let mut seeds = Vec::new();
    for (count, sealed, gone) in [(0, 0, false), (1, 0, false), (4, 0, false), (6, 3, false), (6, 3, true)] {
        let records = records(count);
        let mut text = String::new();
        if sealed > 0 {
            let seal = Seal {
                first: 1,
                last: sealed,
                previous: Digest::GENESIS,
                head: records[usize::try_from(sealed).unwrap_or(1) - 1].hash,
                at,
                pruned: gone,
            };
            text.push_str(&line(&seal));
        }
        if let Some(last) = records.last() {
            text.push_str(&line(&Anchor {
                number: last.number,
                hash: last.hash,
                at,
            }));
        }
        for record in records.iter().filter(|record| !gone || record.number > sealed) {
            text.push_str(&line(record));
        }
        seeds.push(text.into_bytes());
    }
    // One that stands for all records that there could ever be.
    let endless = Seal {
        first: 1,
        last: u64::MAX,
        previous: Digest::GENESIS,
        head: Digest([1; 32]),
        at,
        pruned: true,
    };
    let record = records(1).remove(0);
    seeds.push(format!("{}{}", line(&endless), line(&record)).into_bytes());
    seeds
}

mod erased {
    //! Anything that is a line of JSON.

    /// Such a line.
    pub(super) trait Line {
        /// The line with its end.
        fn line(&self) -> String;
    }

    impl<T: serde::Serialize> Line for T {
        fn line(&self) -> String {
            format!("{}\n", serde_json::to_string(self).unwrap_or_default())
        }
    }
}

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

fn check(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let (mut records, mut seals, mut anchors) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Record(record)) => records.push(*record),
            Ok(Line::Seal(seal)) => seals.push(seal),
            Ok(Line::Anchor(anchor)) => anchors.push(anchor),
            Err(_) => {}
        }
    }
    let gone = seals.iter().filter(|seal| seal.pruned).map(|seal| seal.last).max();
    let verified = Verifier::begin(seals, anchors.clone()).and_then(|mut verifier| {
        records.iter().try_for_each(|record| verifier.next(record))?;
        verifier.end()
    });
    let verified = match verified {
        Ok(verified) => verified,
        Err(problem) if problem.detail.is_empty() => return broken("a log is refused without a word"),
        Err(problem) => return Ok(format!("{}: {}", problem.kind.name(), problem.detail)),
    };
    // What must hold of a log that verifies, told without the verifier.
    let mut previous = gone.map(|last| (last, None)).unwrap_or((0, Some(Digest::GENESIS)));
    for record in &records {
        if Some(record.number) != previous.0.checked_add(1) || previous.1.is_some_and(|hash| hash != record.previous) {
            return broken(format!("record {} does not follow on {}", record.number, previous.0));
        }
        if chain::hash(record.previous, record.number, &record.subject) != record.hash {
            return broken(format!("record {} was changed", record.number));
        }
        previous = (record.number, Some(record.hash));
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
