//! The hash of a record.
//!
//! ```text
//! hash(n) = SHA-256( "dbkeep-audit-1" 0x00 | hash(n-1) | number | call | at | phase | principal | peer | method | target
//!                    | request | code | detail | count of counts | each name and number )
//! ```
//!
//! Numbers are 8 bytes, big endian; times microseconds since 1970; texts have their length in bytes before them, so that no two
//! different records have the same bytes. A change of this form is a new first line.

use sha2::{Digest as _, Sha256};

use super::{Digest, Record, Subject};

const FORM: &[u8] = b"dbkeep-audit-1\0";

/// The hash of a record with that number that follows on `previous`.
#[must_use]
pub fn hash(previous: Digest, number: u64, subject: &Subject) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(FORM);
    hasher.update(previous.0);
    hasher.update(number.to_be_bytes());
    hasher.update(subject.call.as_bytes());
    hasher.update(subject.at.as_microsecond().to_be_bytes());
    for part in [
        subject.phase.name(),
        &subject.principal,
        &subject.peer,
        &subject.method,
        &subject.target,
    ] {
        text(&mut hasher, part);
    }
    hasher.update(subject.request.0);
    text(&mut hasher, &subject.code);
    text(&mut hasher, &subject.detail);
    hasher.update((subject.counts.len() as u64).to_be_bytes());
    for (name, count) in &subject.counts {
        text(&mut hasher, name);
        hasher.update(count.to_be_bytes());
    }
    Digest(hasher.finalize().into())
}

fn text(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

/// The record that follows on another, or the first.
#[must_use]
pub fn append(last: Option<&Record>, subject: Subject) -> Record {
    let (number, previous) = last.map_or((1, Digest::GENESIS), |last| (last.number + 1, last.hash));
    follow(number, previous, subject)
}

/// The record of that number that follows on a hash.
#[must_use]
pub fn follow(number: u64, previous: Digest, subject: Subject) -> Record {
    let hash = hash(previous, number, &subject);
    Record {
        number,
        subject,
        previous,
        hash,
    }
}
