//! Whether a whole log is what was written: its seals, its records, its head, what was anchored of it, and that whatever is gone was removed by the keeper.
//!
//! The same for a store, whose rows may be anything, and for an export, which has no more than it says. Pure.

use super::{
    Anchor, Digest, Problem, ProblemKind, Record, Seal, Verified, Verifier,
    retention::{self, Bound},
};

/// A log while it is read, in order.
#[derive(Debug)]
pub struct Inspection {
    verifier: Verifier,
    /// What the seals stand for, and what those stand for whose records are gone.
    standing: [Option<Bound>; 2],
    /// What the newest records of the keeper say of both.
    said: [Option<Bound>; 2],
}

impl Inspection {
    /// Begins with what stands for records: seals and anchors, in any order.
    ///
    /// # Errors
    /// Where the seals do not fit each other.
    pub fn begin(mut seals: Vec<Seal>, anchors: Vec<Anchor>) -> Result<Self, Problem> {
        seals.sort_by_key(|seal| seal.first);
        let gone: Vec<Seal> = seals.iter().filter(|seal| seal.pruned).cloned().collect();
        let standing = [retention::bound(&seals), retention::bound(&gone)];
        Ok(Self {
            verifier: Verifier::begin(seals, anchors)?,
            standing,
            said: [None, None],
        })
    }

    /// Number of the newest record so far, gone or not.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.verifier.head().0
    }

    /// The next record.
    ///
    /// # Errors
    /// Where it does not fit.
    pub fn next(&mut self, record: &Record) -> Result<(), Problem> {
        self.verifier.next(record)?;
        let [sealed, removed] = self.said;
        self.said = [retention::sealed(record).or(sealed), retention::removed(record).or(removed)];
        Ok(())
    }

    /// The end of the log, with its head: number and hash of the newest record, 0 and [`Digest::GENESIS`] of an empty one.
    ///
    /// # Errors
    /// Where the head, a seal or an anchor speaks of what was not there, or records are gone that nobody has removed.
    pub fn end(self, head: (u64, Digest)) -> Result<Verified, Problem> {
        let verified = self.verifier.end()?;
        let (last, hash) = verified.head;
        let wrong = |number, kind, detail: String| Err(Problem { number, kind, detail });
        if last < head.0 {
            let detail = format!("the log ends with record {last}, and its head is record {}", head.0);
            return wrong(last + 1, ProblemKind::Truncated, detail);
        }
        if last > head.0 {
            let detail = format!("the log goes on to record {last}, and its head is record {}", head.0);
            return wrong(head.0 + 1, ProblemKind::Broken, detail);
        }
        if hash != head.1 {
            let detail = "its hash is not that of the head".to_owned();
            return wrong(last, ProblemKind::Replaced, detail);
        }
        let [sealed, gone] = self.standing;
        let [said_sealed, said_gone] = self.said;
        if gone != said_gone {
            let through = gone.or(said_gone).map_or(0, |(through, _)| through);
            let detail =
                format!("records up to {through} are gone, or said to be, and not as the newest record of a removal says");
            return wrong(through, ProblemKind::Seal, detail);
        }
        if sealed != said_sealed {
            let through = sealed.or(said_sealed).map_or(0, |(through, _)| through);
            let detail = format!("the seals up to record {through} are not those that the newest record of one speaks of");
            return wrong(through, ProblemKind::Seal, detail);
        }
        Ok(verified)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{
        super::{Phase, Subject, chain},
        *,
    };

    fn log(records: u64) -> Vec<Record> {
        let mut log: Vec<Record> = Vec::new();
        for number in 1..=records {
            let subject = Subject {
                phase: Phase::Denied,
                principal: format!("ops-{number}"),
                ..Subject::of(Uuid::from_u128(number.into()))
            };
            log.push(chain::append(log.last(), subject));
        }
        log
    }

    fn seal(log: &[Record], first: usize, last: usize, pruned: bool) -> Seal {
        Seal {
            first: log[first].number,
            last: log[last].number,
            previous: log[first].previous,
            head: log[last].hash,
            at: log[last].subject.at,
            pruned,
        }
    }

    fn inspect(seals: &[Seal], log: &[Record], head: &Record) -> Result<Verified, ProblemKind> {
        let inspected = || {
            let mut inspection = Inspection::begin(seals.to_vec(), Vec::new())?;
            for record in log {
                inspection.next(record)?;
            }
            inspection.end((head.number, head.hash))
        };
        inspected().map_err(|problem: Problem| problem.kind)
    }

    #[test]
    fn the_head_is_the_end() {
        let whole = log(10);
        assert_eq!(inspect(&[], &whole, &whole[9]).map(|verified| verified.records), Ok(10));
        assert_eq!(inspect(&[], &whole[..7], &whole[9]), Err(ProblemKind::Truncated));
        assert_eq!(inspect(&[], &whole, &whole[6]), Err(ProblemKind::Broken));
        let other = Record {
            hash: Digest([1; 32]),
            ..whole[9].clone()
        };
        assert_eq!(inspect(&[], &whole, &other), Err(ProblemKind::Replaced));
    }

    #[test]
    fn what_is_gone_was_removed_by_the_keeper() {
        let mut whole = log(20);
        let gone = [seal(&whole, 0, 4, true), seal(&whole, 5, 9, true)];
        whole.push(chain::append(whole.last(), retention::sealing(&gone, Uuid::nil())));
        let stolen = inspect(&gone, &whole[10..], &whole[20]);
        assert_eq!(stolen, Err(ProblemKind::Seal), "nobody said so");
        whole.push(chain::append(whole.last(), retention::removal(&gone[..1], Uuid::nil())));
        let partly = inspect(&gone, &whole[10..], &whole[21]);
        assert_eq!(partly, Err(ProblemKind::Seal), "only of the first five");
        whole.push(chain::append(whole.last(), retention::removal(&gone, Uuid::nil())));
        let verified = inspect(&gone, &whole[10..], &whole[22]).expect("it is whole");
        assert_eq!((verified.records, verified.sealed), (13, 10));
        let mut moved = gone.clone();
        moved[0].at = jiff::Timestamp::MAX;
        let changed = inspect(&moved, &whole[10..], &whole[22]);
        assert_eq!(changed, Err(ProblemKind::Seal), "a seal was changed");
    }

    #[test]
    fn seals_are_those_that_were_recorded() {
        let mut whole = log(20);
        let seals = [seal(&whole, 0, 4, false), seal(&whole, 5, 9, false)];
        whole.push(chain::append(whole.last(), retention::sealing(&seals, Uuid::nil())));
        let head = whole[20].clone();
        assert_eq!(inspect(&seals, &whole, &head).map(|verified| verified.records), Ok(21));
        let fewer = inspect(&seals[..1], &whole, &head);
        assert_eq!(fewer, Err(ProblemKind::Seal), "one was removed");
        assert_eq!(inspect(&[], &whole, &head), Err(ProblemKind::Seal), "all were removed");
        let added = [seals.as_slice(), &[seal(&whole, 10, 14, false)]].concat();
        let more = inspect(&added, &whole, &head);
        assert_eq!(more, Err(ProblemKind::Seal), "one was added");
    }
}
