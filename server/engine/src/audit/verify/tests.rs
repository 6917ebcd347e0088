//! Logs that were tampered with in every way, by seed.

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    super::{Phase, Subject},
    *,
};

/// A small generator (splitmix64): the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn subject(number: u64) -> Subject {
    Subject {
        call: Uuid::from_u128(u128::from(number)),
        at: Timestamp::from_microsecond(i64::try_from(number).expect("small") * 1_000).expect("a time"),
        phase: Phase::ALL[usize::try_from(number % 3).expect("small")],
        principal: format!("ops-{}", number % 5),
        peer: "127.0.0.1:5000".to_owned(),
        method: "CleanupService/RunCleanup".to_owned(),
        target: "main".to_owned(),
        request: Digest([u8::try_from(number % 251).expect("small"); 32]),
        code: "OK".to_owned(),
        detail: format!("run {number}"),
        counts: vec![("rows".to_owned(), number * 7)],
    }
}

fn log(records: u64) -> Vec<Record> {
    let mut log: Vec<Record> = Vec::new();
    for number in 1..=records {
        log.push(chain::append(log.last(), subject(number)));
    }
    log
}

fn anchor(record: &Record) -> Anchor {
    Anchor {
        number: record.number,
        hash: record.hash,
        at: record.subject.at,
    }
}

fn verify(seals: Vec<Seal>, anchors: Vec<Anchor>, log: &[Record]) -> Result<Verified, Problem> {
    let mut verifier = Verifier::begin(seals, anchors)?;
    for record in log {
        verifier.next(record)?;
    }
    verifier.end()
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

#[test]
fn a_whole_log_fits() {
    let log = log(50);
    let verified = verify(Vec::new(), vec![anchor(&log[49]), anchor(&log[9])], &log).expect("it is whole");
    assert_eq!((verified.records, verified.anchors), (50, 2));
    assert_eq!(verified.head, (50, log[49].hash));
    let empty = verify(Vec::new(), Vec::new(), &[]).expect("nothing is whole, too");
    assert_eq!(empty.head, (0, Digest::GENESIS));
}

#[test]
fn the_form_of_the_hash_does_not_change() {
    // Computed apart from this code, with Python's hashlib, from the form that the module states.
    let first = chain::append(None, subject(1));
    assert_eq!(
        first.hash.to_string(),
        "4b04ec0d4050da7e6c71e5357b40edf55ecc635039752f47a00b26fc6dc80f0a"
    );
}

#[test]
fn a_thousand_tamperings_are_found() {
    const SEED: u64 = 20_261_127;
    println!("seed {SEED}");
    let mut random = Random(SEED);
    let whole = log(60);
    let anchors = vec![anchor(&whole[59])];
    for round in 0..1_000 {
        let mut tampered = whole.clone();
        let place = usize::try_from(random.below(60)).expect("small");
        let what = random.below(12);
        match what {
            0 => tampered[place].subject.principal.push('x'),
            1 => tampered[place].subject.detail = "run 9999".to_owned(),
            2 => tampered[place].subject.counts[0].1 ^= 1 << random.below(63),
            3 => tampered[place].subject.code = "PERMISSION_DENIED".to_owned(),
            4 => tampered[place].hash.0[usize::try_from(random.below(32)).expect("small")] ^= 1,
            5 => tampered[place].previous.0[usize::try_from(random.below(32)).expect("small")] ^= 1,
            6 => drop(tampered.remove(place)),
            7 => tampered.truncate(place),
            8 => {
                let other = (place + 1 + usize::try_from(random.below(59)).expect("small")) % 60;
                tampered.swap(place, other);
            }
            9 => tampered.insert(place, tampered[usize::try_from(random.below(60)).expect("small")].clone()),
            10 => {
                // From a place on all is made anew, as one would who can write the store.
                tampered[place].subject.detail = "nothing happened".to_owned();
                remake(&mut tampered, place);
            }
            _ => {
                // One record is cut out, and those after it are numbered and made anew.
                tampered.remove(place);
                remake(&mut tampered, place);
            }
        }
        let found = verify(Vec::new(), anchors.clone(), &tampered);
        assert!(found.is_err(), "round {round}: tampering {what} at {place} was not found");
    }
}

fn remake(log: &mut [Record], from: usize) {
    for place in from..log.len() {
        let last = place.checked_sub(1).map(|before| log[before].clone());
        log[place] = chain::append(last.as_ref(), log[place].subject.clone());
    }
}

#[test]
fn without_an_anchor_a_cut_tail_and_a_log_made_anew_cannot_be_seen() {
    let whole = log(20);
    assert!(verify(Vec::new(), Vec::new(), &whole[..10]).is_ok());
    let mut anew = whole.clone();
    anew[3].subject.detail.clear();
    remake(&mut anew, 3);
    assert!(verify(Vec::new(), Vec::new(), &anew).is_ok());
    let found = verify(Vec::new(), vec![anchor(&whole[19])], &anew).expect_err("the anchor is elsewhere");
    assert_eq!(found.kind, ProblemKind::Replaced);
    let found = verify(Vec::new(), vec![anchor(&whole[19])], &whole[..10]).expect_err("the anchor is elsewhere");
    assert_eq!((found.kind, found.number), (ProblemKind::Truncated, 11));
}

#[test]
fn what_is_wrong_is_named() {
    let whole = log(10);
    let kind = |log: &[Record]| verify(Vec::new(), Vec::new(), log).expect_err("it does not fit").kind;
    let mut changed = whole.clone();
    changed[4].subject.peer.clear();
    assert_eq!(kind(&changed), ProblemKind::Changed);
    let mut missing = whole.clone();
    missing.remove(4);
    assert_eq!(kind(&missing), ProblemKind::Missing);
    let mut doubled = whole.clone();
    doubled.insert(4, whole[2].clone());
    assert_eq!(kind(&doubled), ProblemKind::Reordered);
    let mut other = whole.clone();
    other[4] = chain::follow(5, Digest([1; 32]), subject(5));
    assert_eq!(kind(&other), ProblemKind::Broken);
}

#[test]
fn seals_stand_for_what_is_gone() {
    let whole = log(30);
    let gone = seal(&whole, 0, 9, true);
    let closed = seal(&whole, 10, 19, false);
    let all = vec![closed.clone(), gone.clone()];
    let verified = verify(all.clone(), vec![anchor(&whole[9])], &whole[10..]).expect("it is whole");
    assert_eq!((verified.records, verified.sealed, verified.anchors), (20, 10, 1));
    let kind = |seals: Vec<Seal>, log: &[Record]| verify(seals, Vec::new(), log).expect_err("it does not fit").kind;
    assert_eq!(kind(all.clone(), &whole[11..]), ProblemKind::Missing);
    assert_eq!(kind(all.clone(), &whole[10..15]), ProblemKind::Truncated);
    let other = Seal {
        head: Digest([9; 32]),
        ..gone.clone()
    };
    assert_eq!(kind(vec![other.clone(), closed.clone()], &whole[10..]), ProblemKind::Seal);
    assert_eq!(kind(vec![other], &whole[10..]), ProblemKind::Broken);
    assert_eq!(
        kind(vec![seal(&whole, 0, 9, false), seal(&whole, 10, 19, true)], &whole),
        ProblemKind::Seal
    );
    let wrong = Seal {
        head: Digest([9; 32]),
        ..closed
    };
    assert_eq!(kind(vec![gone, wrong], &whole[10..]), ProblemKind::Seal);
}
