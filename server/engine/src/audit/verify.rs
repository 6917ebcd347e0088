//! Whether a log is whole: the first place that does not fit, and what does not fit there.

use super::{Anchor, Digest, Record, Seal, chain};

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// A record's contents are not those that were hashed.
    Changed,
    /// A record does not follow on the one before it.
    Broken,
    /// Records are missing.
    Missing,
    /// A record stands where another belongs.
    Reordered,
    /// The log ends before a record that was anchored.
    Truncated,
    /// A record has another hash than was anchored: the log was made anew.
    Replaced,
    /// A seal does not fit the records or the seal before it.
    Seal,
    /// Something stands there that is no record, seal or head.
    Unreadable,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Changed,
        Self::Broken,
        Self::Missing,
        Self::Reordered,
        Self::Truncated,
        Self::Replaced,
        Self::Seal,
        Self::Unreadable,
    ];

    /// Name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Broken => "broken",
            Self::Missing => "missing",
            Self::Reordered => "reordered",
            Self::Truncated => "truncated",
            Self::Replaced => "replaced",
            Self::Seal => "seal",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Number of the record where it shows.
    pub number: u64,
    /// What does not fit.
    pub kind: ProblemKind,
    /// In one sentence.
    pub detail: String,
}

/// What a verification saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Records that were read and fit.
    pub records: u64,
    /// Records that a seal stands for, because they are gone.
    pub sealed: u64,
    /// Number and hash of the newest record; number 0 where there is none.
    pub head: (u64, Digest),
    /// Anchors that were met.
    pub anchors: u64,
}

/// Reads seals and records in the order of their numbers. The first problem ends it: what follows on a broken place proves nothing.
#[derive(Debug)]
pub struct Verifier {
    /// Not met yet, the next one last.
    anchors: Vec<Anchor>,
    /// Seals whose records are there, the next one last.
    seals: Vec<Seal>,
    verified: Verified,
}

impl Verifier {
    /// Begins with what is gone. Seals and anchors may come in any order.
    ///
    /// # Errors
    /// Where seals do not follow on each other, or one that stands for records that are gone comes after records that are there.
    pub fn begin(mut seals: Vec<Seal>, mut anchors: Vec<Anchor>) -> Result<Self, Problem> {
        seals.sort_by_key(|seal| seal.first);
        anchors.sort_by_key(|anchor| std::cmp::Reverse(anchor.number));
        let mut verifier = Self {
            anchors,
            seals: Vec::new(),
            verified: Verified {
                records: 0,
                sealed: 0,
                head: (0, Digest::GENESIS),
                anchors: 0,
            },
        };
        let mut end = (0, Digest::GENESIS);
        for seal in seals {
            // After the largest number there is none, so that no log ends there.
            if seal.first != end.0 + 1 || seal.last < seal.first || seal.last == u64::MAX || seal.previous != end.1 {
                return Err(problem(
                    seal.first,
                    ProblemKind::Seal,
                    format!(
                        "the seal of {} to {} does not follow on record {}, where the one before it ends",
                        seal.first, seal.last, end.0
                    ),
                ));
            }
            end = (seal.last, seal.head);
            if !seal.pruned {
                verifier.seals.push(seal);
            } else if verifier.seals.is_empty() {
                verifier.verified.sealed += seal.last - seal.first + 1;
                verifier.verified.head = end;
                verifier.meet_sealed(&seal)?;
            } else {
                return Err(problem(
                    seal.first,
                    ProblemKind::Seal,
                    format!("records {} to {} are gone, and older ones are not", seal.first, seal.last),
                ));
            }
        }
        verifier.seals.reverse();
        Ok(verifier)
    }

    /// Anchors of records that are gone: only that of a seal's last record can be compared.
    fn meet_sealed(&mut self, seal: &Seal) -> Result<(), Problem> {
        while let Some(anchor) = self.anchors.last().filter(|anchor| anchor.number <= seal.last) {
            if anchor.number == seal.last {
                if anchor.hash != seal.head {
                    return Err(replaced(anchor));
                }
                self.verified.anchors += 1;
            }
            self.anchors.pop();
        }
        Ok(())
    }

    /// The next record.
    ///
    /// # Errors
    /// Where it does not fit.
    pub fn next(&mut self, record: &Record) -> Result<(), Problem> {
        let (last, head) = self.verified.head;
        let expected = last + 1;
        if record.number > expected {
            return Err(problem(
                expected,
                ProblemKind::Missing,
                format!("after record {last} comes {}", record.number),
            ));
        }
        if record.number < expected {
            return Err(problem(
                expected,
                ProblemKind::Reordered,
                format!("after record {last} comes {}", record.number),
            ));
        }
        if record.previous != head {
            return Err(problem(
                record.number,
                ProblemKind::Broken,
                "it does not follow on the record before it".to_owned(),
            ));
        }
        if chain::hash(record.previous, record.number, &record.subject) != record.hash {
            return Err(problem(
                record.number,
                ProblemKind::Changed,
                "its contents are not those that were hashed".to_owned(),
            ));
        }
        self.verified.head = (record.number, record.hash);
        self.verified.records += 1;
        while let Some(anchor) = self.anchors.last().filter(|anchor| anchor.number <= record.number) {
            // An anchor of number 0 is that of an empty log.
            if anchor.number == record.number && anchor.hash != record.hash {
                return Err(replaced(anchor));
            }
            self.verified.anchors += 1;
            self.anchors.pop();
        }
        if let Some(seal) = self.seals.last().filter(|seal| seal.last == record.number) {
            if seal.head != record.hash || seal.at != record.subject.at {
                return Err(problem(
                    record.number,
                    ProblemKind::Seal,
                    format!(
                        "the seal of {} to {} has another hash or time for its last record",
                        seal.first, seal.last
                    ),
                ));
            }
            self.seals.pop();
        }
        Ok(())
    }

    /// Number and hash of the newest record so far.
    #[must_use]
    pub fn head(&self) -> (u64, Digest) {
        self.verified.head
    }

    /// The end of the log.
    ///
    /// # Errors
    /// Where an anchor or a seal speaks of records that were not there.
    pub fn end(self) -> Result<Verified, Problem> {
        let (last, _) = self.verified.head;
        let beyond = self.anchors.first().map(|anchor| anchor.number);
        let beyond = beyond
            .max(self.seals.first().map(|seal| seal.last))
            .filter(|number| *number > last);
        match beyond {
            Some(number) => Err(problem(
                last + 1,
                ProblemKind::Truncated,
                format!("the log ends with record {last}, and there was one of number {number}"),
            )),
            None => Ok(self.verified),
        }
    }
}

fn problem(number: u64, kind: ProblemKind, detail: String) -> Problem {
    Problem { number, kind, detail }
}

fn replaced(anchor: &Anchor) -> Problem {
    problem(
        anchor.number,
        ProblemKind::Replaced,
        format!("it has another hash than at {}, when it was anchored", anchor.at),
    )
}

#[cfg(test)]
mod tests;
