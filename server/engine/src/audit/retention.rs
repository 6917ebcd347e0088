//! When a range of the log is closed, and when it may go. Pure.
//!
//! Closing a range and removing its records are acts like any other: each has a record, which holds the digest of all seals there are then, or of those
//! whose records are gone. Such a record is newer than the range, and the newest range never goes: so the newest of these records is always there. It
//! binds the seals, and tells a removal from a theft.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Digest, Phase, Record, Seal, Subject};

/// Who closes ranges and removes records.
pub const KEEPER: &str = "dbkeep";
/// Method of the record of a range that was closed. No RPC has that name.
pub const SEALING: &str = "AuditLog/Seal";
/// Method of the record of a range that was removed.
pub const REMOVAL: &str = "AuditLog/Prune";
/// Their count: number of the last record of the range.
const THROUGH: &str = "through";
/// Separates these digests from all others.
const FORM: &[u8] = b"dbkeep-audit-seals-1\0";

/// Where the next seal belongs: number of its last record, where there is something to close.
///
/// `sealed` is the last record that has a seal, `head` the newest record, `first_open` the time of the record after `sealed`.
#[must_use]
pub fn next_seal(sealed: u64, head: u64, first_open: Timestamp, now: Timestamp, most: u64, oldest: Duration) -> Option<u64> {
    let open = head.checked_sub(sealed).filter(|open| *open > 0)?;
    if open >= most {
        return Some(sealed + most);
    }
    let age = Duration::try_from(now.duration_since(first_open)).unwrap_or_default();
    // One record alone is the one about the range before: closing it would make the next one for ever.
    (open > 1 && age >= oldest).then_some(head)
}

/// The seal whose records may go: the oldest that still has some, if its newest record is older than the retention. Never the newest seal.
#[must_use]
pub fn next_removal(seals: &[Seal], now: Timestamp, retention: Duration) -> Option<&Seal> {
    let (_, older) = seals.split_last()?;
    let oldest = older.iter().find(|seal| !seal.pruned)?;
    // A clock that went back makes nothing older.
    let age = Duration::try_from(now.duration_since(oldest.at)).unwrap_or_default();
    (age >= retention).then_some(oldest)
}

/// Binds seals: whoever changes a field of one of them, or leaves one out, gets another digest.
#[must_use]
pub fn digest<'a>(seals: impl IntoIterator<Item = &'a Seal>) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(FORM);
    for seal in seals {
        hasher.update(seal.first.to_be_bytes());
        hasher.update(seal.last.to_be_bytes());
        hasher.update(seal.previous.0);
        hasher.update(seal.head.0);
        hasher.update(seal.at.as_microsecond().to_be_bytes());
    }
    Digest(hasher.finalize().into())
}

/// What is recorded when a range is closed. `seals` are all there are, this one included, in order.
#[must_use]
pub fn sealing(seals: &[Seal], call: Uuid) -> Subject {
    of_keeper(SEALING, seals, "are sealed", call)
}

/// What is recorded when the records of a seal go. `gone` are all seals without records, this one included, in order.
#[must_use]
pub fn removal(gone: &[Seal], call: Uuid) -> Subject {
    of_keeper(REMOVAL, gone, "are removed; their seal stays", call)
}

fn of_keeper(method: &str, seals: &[Seal], said: &str, call: Uuid) -> Subject {
    let (first, last) = seals.last().map_or((0, 0), |seal| (seal.first, seal.last));
    Subject {
        phase: Phase::Ended,
        principal: KEEPER.to_owned(),
        method: method.to_owned(),
        request: digest(seals),
        code: "OK".to_owned(),
        detail: format!("records {first} to {last} {said}"),
        counts: vec![(THROUGH.to_owned(), last)],
        ..Subject::of(call)
    }
}

/// What seals stand for: number of the last record, and their digest.
pub type Bound = (u64, Digest);

/// What binds these seals.
#[must_use]
pub fn bound(seals: &[Seal]) -> Option<Bound> {
    seals.last().map(|newest| (newest.last, digest(seals)))
}

/// What a record says of all seals; `None` where it is about something else.
#[must_use]
pub fn sealed(record: &Record) -> Option<Bound> {
    by_keeper(SEALING, record)
}

/// What a record says of the seals whose records are gone; `None` where it is about something else.
#[must_use]
pub fn removed(record: &Record) -> Option<Bound> {
    by_keeper(REMOVAL, record)
}

fn by_keeper(method: &str, record: &Record) -> Option<Bound> {
    let subject = &record.subject;
    // Whoever is denied may have called himself anything.
    if subject.method != method || subject.principal != KEEPER || subject.phase != Phase::Ended {
        return None;
    }
    let through = subject.counts.iter().find(|(name, _)| name == THROUGH)?;
    Some((through.1, subject.request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(days * 86_400).expect("a time")
    }

    fn seal(first: u64, last: u64, days: i64, pruned: bool) -> Seal {
        Seal {
            first,
            last,
            previous: Digest::GENESIS,
            head: Digest([7; 32]),
            at: at(days),
            pruned,
        }
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_segment_is_closed_when_it_is_full_or_old() {
        let month = 30 * DAY;
        assert_eq!(next_seal(0, 0, at(0), at(99), 10, month), None, "there is nothing");
        assert_eq!(next_seal(20, 29, at(0), at(29), 10, month), None);
        assert_eq!(next_seal(20, 30, at(0), at(0), 10, month), Some(30));
        assert_eq!(next_seal(20, 55, at(0), at(0), 10, month), Some(30), "one at a time");
        assert_eq!(next_seal(20, 22, at(0), at(30), 10, month), Some(22));
        assert_eq!(next_seal(20, 21, at(0), at(30), 10, month), None, "one alone");
        assert_eq!(next_seal(20, 22, at(30), at(0), 10, month), None, "the clock went back");
        assert_eq!(next_seal(20, 19, at(0), at(99), 10, month), None, "a head that was cut off");
    }

    #[test]
    fn the_oldest_goes_first_and_the_newest_never() {
        let seals = [seal(1, 5, 0, true), seal(6, 9, 10, false), seal(10, 12, 20, false)];
        assert_eq!(next_removal(&seals, at(109), 100 * DAY), None);
        assert_eq!(next_removal(&seals, at(110), 100 * DAY), Some(&seals[1]));
        let all_but_one = [seal(1, 5, 0, true), seal(6, 9, 10, true), seal(10, 12, 20, false)];
        assert_eq!(next_removal(&all_but_one, at(9_999), 100 * DAY), None);
        assert_eq!(next_removal(&seals[..1], at(9_999), 100 * DAY), None);
        assert_eq!(next_removal(&[], at(9_999), 100 * DAY), None);
        assert_eq!(next_removal(&seals, at(-9_999), 100 * DAY), None);
    }

    #[test]
    fn the_digest_binds_every_field() {
        let seals = [seal(1, 5, 0, true), seal(6, 9, 10, true)];
        let whole = digest(&seals);
        let mut seen = vec![whole, digest(&seals[..1]), digest(seals.iter().rev())];
        for change in [
            |seal: &mut Seal| seal.first += 1,
            |seal: &mut Seal| seal.last += 1,
            |seal: &mut Seal| seal.previous = Digest([1; 32]),
            |seal: &mut Seal| seal.head = Digest([1; 32]),
            |seal: &mut Seal| seal.at = at(77),
        ] {
            let mut changed = seals.clone();
            change(&mut changed[1]);
            seen.push(digest(&changed));
        }
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
    }

    #[test]
    fn what_the_keeper_records_is_read_as_it_was_written() {
        let seals = [seal(1, 5, 0, true), seal(6, 9, 10, true)];
        let record = super::super::chain::append(None, removal(&seals, Uuid::nil()));
        assert_eq!((removed(&record), sealed(&record)), (bound(&seals), None));
        assert_eq!(removed(&record), Some((9, digest(&seals))));
        let record = super::super::chain::append(None, sealing(&seals, Uuid::nil()));
        assert_eq!((sealed(&record), removed(&record)), (bound(&seals), None));
        let mut other = record.clone();
        other.subject.principal = "ann".to_owned();
        assert_eq!(sealed(&other), None, "nobody else seals");
        let mut denied = record;
        denied.subject.phase = Phase::Denied;
        assert_eq!(sealed(&denied), None, "whoever was denied has sealed nothing");
    }
}
