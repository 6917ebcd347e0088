//! The hunt: cases from a seed until the time is over, what they find, and the smallest input that still shows it.
//!
//! There is no coverage to go by. What stands in for it is what a target says of an input (accepted, or refused for which reason): an input
//! that is told something new joins the pool, from which further cases are made. Everything follows from the seed, so that `--seed` and
//! `--cases` bring a case back.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::{
    strategy::{Strategy as _, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use sha2::{Digest as _, Sha256};

use crate::{
    mutate::Case,
    target::{Check, Target},
};

/// Longest time of one input. Whoever takes longer would be a way to stop a server.
const SLOW: Duration = Duration::from_secs(5);
/// After this time an input is taken to have no end, and the process with it.
const ENDLESS: Duration = Duration::from_secs(60);
/// Longest time that a finding is made smaller.
const SHRINKING: Duration = Duration::from_secs(20);
/// Most inputs of a pool beside the corpus.
const POOL: usize = 4_000;
/// Longest text of an outcome, characters.
const LABEL: usize = 120;

/// How long a hunt is.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// As many cases as the time has room for; the corpus goes first, whatever it takes.
    Time(Duration),
    /// So many cases.
    Cases(u64),
}

/// What came of a hunt.
#[derive(Debug)]
pub struct Outcome {
    /// Inputs that were tried.
    pub cases: u64,
    /// Kinds of answers that the target gave.
    pub kinds: usize,
    /// What was found, where anything was.
    pub finding: Option<Finding>,
}

/// An input that breaks a promise.
#[derive(Debug)]
pub struct Finding {
    /// Number of the case that showed it first; seeds of the corpus have the first numbers.
    pub case: u64,
    /// Which promise, or the panic.
    pub problem: String,
    /// The smallest input that shows it.
    pub input: Vec<u8>,
}

/// Numbers of the case that is being tried, for whoever looks from outside.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The case.
    #[must_use]
    pub fn case(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Texts and numbers of an answer are the input's; what is left tells one kind of answer from another.
fn kind(answer: &str) -> String {
    let mut kind = String::new();
    let mut quoted = None;
    for character in answer.chars().take(4 * LABEL) {
        match (quoted, character) {
            (Some(quote), _) if character == quote => quoted = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quoted = Some(character),
            (None, '0'..='9') => {}
            (None, _) => kind.push(character),
        }
        if kind.len() >= LABEL {
            break;
        }
    }
    kind
}

/// Tries one input. `Err` is a broken promise.
fn try_one(check: &mut Check, input: &[u8]) -> Result<String, String> {
    let began = Instant::now();
    let answer = catch_unwind(AssertUnwindSafe(|| check(input))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", said.unwrap_or("without a word")))
    })?;
    let took = began.elapsed();
    if took > SLOW {
        return Err(format!("took {:.1} s", took.as_secs_f64()));
    }
    Ok(answer)
}

/// Ends the process where one input has no end, after it has been said which.
fn watch(progress: &Progress, name: &'static str, seed: u64) {
    let progress = progress.clone();
    std::thread::spawn(move || {
        let mut last = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let case = progress.case();
            if case != last.0 {
                last = (case, Instant::now());
            } else if last.1.elapsed() > ENDLESS {
                eprintln!("{name}: case {case} of seed {seed} has no end within {} s", ENDLESS.as_secs());
                std::process::abort();
            }
        }
    });
}

/// Hunts over one target.
///
/// # Errors
/// Where the target cannot be set up, or has no corpus.
pub fn hunt(target: &Target, seed: u64, length: Length, progress: &Progress) -> anyhow::Result<Outcome> {
    let mut pool = target.corpus()?;
    anyhow::ensure!(!pool.is_empty(), "{} has no corpus", target.name);
    let mut check = (target.open)()?;
    watch(progress, target.name, seed);
    let seeds = pool.len();
    let full = seeds + POOL;
    let key: [u8; 32] = Sha256::digest(format!("{} {seed}", target.name)).into();
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &key));
    let strategy = Case::strategy();
    let mut kinds = BTreeSet::new();
    let began = Instant::now();
    let mut cases = 0_u64;
    loop {
        let over = match length {
            Length::Time(time) => began.elapsed() >= time,
            Length::Cases(most) => cases >= most,
        };
        let position = usize::try_from(cases).unwrap_or(usize::MAX);
        if over && position >= seeds {
            return Ok(Outcome {
                cases,
                kinds: kinds.len(),
                finding: None,
            });
        }
        progress.0.store(cases, Ordering::Relaxed);
        if position < seeds {
            let input = pool[position].clone();
            match try_one(&mut check, &input) {
                Ok(answer) => kinds.insert(kind(&answer)),
                Err(problem) => return Ok(found(cases, kinds.len(), problem, input)),
            };
            cases += 1;
            continue;
        }
        let mut tree = strategy
            .new_tree(&mut runner)
            .map_err(|reason| anyhow::anyhow!("no case can be made: {reason}"))?;
        let input = tree.current().input(&pool, target.words);
        match try_one(&mut check, &input) {
            Ok(answer) => {
                if kinds.insert(kind(&answer)) && pool.len() < full {
                    pool.push(input);
                }
            }
            Err(problem) => {
                let (problem, input) = smallest(&mut tree, &mut check, &pool, target.words, (problem, input));
                return Ok(found(cases, kinds.len(), problem, input));
            }
        }
        cases += 1;
    }
}

fn found(case: u64, kinds: usize, problem: String, input: Vec<u8>) -> Outcome {
    Outcome {
        cases: case + 1,
        kinds,
        finding: Some(Finding { case, problem, input }),
    }
}

/// The smallest case that still breaks a promise.
fn smallest(
    tree: &mut impl ValueTree<Value = Case>,
    check: &mut Check,
    pool: &[Vec<u8>],
    words: &[&str],
    mut best: (String, Vec<u8>),
) -> (String, Vec<u8>) {
    let began = Instant::now();
    let mut moved = tree.simplify();
    while moved && began.elapsed() < SHRINKING {
        let input = tree.current().input(pool, words);
        moved = match try_one(check, &input) {
            Err(problem) => {
                best = (problem, input);
                tree.simplify()
            }
            Ok(_) => tree.complicate(),
        };
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(open: fn() -> anyhow::Result<Check>) -> Target {
        Target {
            name: "of_tests",
            about: "",
            words: &["wrong"],
            seeds: || vec![b"all is well\n".to_vec()],
            open,
        }
    }

    #[test]
    fn a_broken_promise_is_found_shrunk_and_found_again() {
        let breaking = target(|| {
            Ok(Box::new(|input: &[u8]| {
                if input.windows(5).any(|part| part == b"wrong") {
                    return Err("the word".to_owned());
                }
                Ok("fine".to_owned())
            }))
        });
        let once = hunt(&breaking, 1, Length::Cases(10_000), &Progress::default()).expect("a hunt");
        let finding = once.finding.expect("a finding");
        assert_eq!(finding.problem, "the word");
        assert!(finding.input.len() < 40, "{:?}", String::from_utf8_lossy(&finding.input));
        let again = hunt(&breaking, 1, Length::Cases(finding.case + 1), &Progress::default()).expect("a hunt");
        assert_eq!(
            again.finding.map(|found| (found.case, found.input)),
            Some((finding.case, finding.input))
        );
    }

    #[test]
    fn a_panic_is_a_finding_and_a_quiet_target_is_none() {
        let panicking = target(|| {
            Ok(Box::new(|input: &[u8]| {
                assert!(input.len() < 60, "too long");
                Ok(String::new())
            }))
        });
        let outcome = hunt(&panicking, 2, Length::Cases(10_000), &Progress::default()).expect("a hunt");
        assert!(outcome.finding.is_some_and(|found| found.problem == "panic: too long"));
        let quiet = target(|| Ok(Box::new(|input: &[u8]| Ok(format!("{} bytes", input.len())))));
        let outcome = hunt(&quiet, 3, Length::Cases(500), &Progress::default()).expect("a hunt");
        assert!(outcome.finding.is_none());
        assert_eq!((outcome.cases, outcome.kinds), (500, 1));
    }
}
