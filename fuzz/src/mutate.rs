//! Mutations as values: a list of them on a seed of the corpus is a case, so that the same list makes the same input, and a shorter list a
//! simpler one. proptest brings the generator, the seed and the way to shrink.

use proptest::{collection::vec, prelude::*, sample::Index};

/// Longest input, bytes.
pub const LONGEST: usize = 64 << 10;

/// One change of an input.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// One bit is another.
    Flip {
        /// Which bit.
        at: Index,
    },
    /// One byte is this one.
    Set {
        /// Which byte.
        at: Index,
        /// What it becomes.
        to: u8,
    },
    /// Some bytes more.
    Insert {
        /// Where.
        at: Index,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Some bytes fewer.
    Remove {
        /// From where.
        at: Index,
        /// How many, at most.
        length: usize,
    },
    /// Nothing after here.
    Cut {
        /// Where.
        at: Index,
    },
    /// A part once more, several times.
    Repeat {
        /// From where.
        at: Index,
        /// How many bytes, at most.
        length: usize,
        /// How often.
        times: usize,
    },
    /// A part moves.
    Move {
        /// From where.
        from: Index,
        /// To where.
        to: Index,
        /// How many bytes, at most.
        length: usize,
    },
    /// A part of another input of the pool.
    Splice {
        /// Which.
        other: Index,
        /// From where in it.
        from: Index,
        /// To where.
        to: Index,
        /// How many bytes, at most.
        length: usize,
    },
    /// A word of the target's own language.
    Word {
        /// Which.
        word: Index,
        /// Where.
        at: Index,
        /// Whether it replaces as many bytes.
        over: bool,
    },
    /// A number becomes another.
    Number {
        /// From which place on the next number is taken.
        at: Index,
        /// Which of the numbers at which programs break.
        to: Index,
    },
    /// A line goes, or stands twice.
    Line {
        /// Which.
        at: Index,
        /// Whether it stands twice.
        twice: bool,
    },
}

/// Numbers at which programs break.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "1e400",
    "0.1",
];

/// Bytes that mean something in many languages, more often than others.
fn byte() -> impl Strategy<Value = u8> {
    let telling = b"\0\t\n\r \"'`$#%&()*+,-./0123456789:;<=>?@AZ[\\]^_az{|}~\x7f\x80\xc3\xe2\xef\xff";
    prop_oneof![3 => prop::sample::select(&telling[..]), 1 => any::<u8>()]
}

/// A mutation.
fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(|at| Mutation::Flip { at }),
        (at(), byte()).prop_map(|(at, to)| Mutation::Set { at, to }),
        (at(), vec(byte(), 1..12)).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        (at(), 1..64_usize).prop_map(|(at, length)| Mutation::Remove { at, length }),
        at().prop_map(|at| Mutation::Cut { at }),
        (at(), 1..48_usize, 1..40_usize).prop_map(|(at, length, times)| Mutation::Repeat { at, length, times }),
        (at(), at(), 1..96_usize).prop_map(|(from, to, length)| Mutation::Move { from, to, length }),
        (at(), at(), at(), 1..256_usize).prop_map(|(other, from, to, length)| Mutation::Splice { other, from, to, length }),
        (at(), at(), any::<bool>()).prop_map(|(word, at, over)| Mutation::Word { word, at, over }),
        (at(), at()).prop_map(|(at, to)| Mutation::Number { at, to }),
        (at(), any::<bool>()).prop_map(|(at, twice)| Mutation::Line { at, twice }),
    ]
}

/// A seed, and what is done to it.
#[derive(Debug, Clone)]
pub struct Case {
    seed: Index,
    mutations: Vec<Mutation>,
}

impl Case {
    /// Every case there is.
    pub fn strategy() -> impl Strategy<Value = Self> {
        (any::<Index>(), vec(mutation(), 0..12)).prop_map(|(seed, mutations)| Self { seed, mutations })
    }

    /// Its input: mutations of an input of the pool, which is not empty.
    #[must_use]
    pub fn input(&self, pool: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
        let mut input = self.seed.get(pool).clone();
        for mutation in &self.mutations {
            mutation.apply(&mut input, pool, words);
            input.truncate(LONGEST);
        }
        input
    }
}

/// A place between two bytes, or at either end.
fn between(at: Index, length: usize) -> usize {
    at.index(length + 1)
}

/// A part of an input.
fn part(input: &[u8], from: Index, length: usize) -> Vec<u8> {
    let from = between(from, input.len());
    input[from..input.len().min(from + length)].to_vec()
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

impl Mutation {
    fn apply(&self, input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&str]) {
        match self {
            Self::Flip { at } if !input.is_empty() => {
                let bit = at.index(input.len() * 8);
                input[bit / 8] ^= 1 << (bit % 8);
            }
            Self::Set { at, to } if !input.is_empty() => {
                let at = at.index(input.len());
                input[at] = *to;
            }
            Self::Flip { .. } | Self::Set { .. } => {}
            Self::Insert { at, bytes } => {
                let at = between(*at, input.len());
                insert(input, at, bytes);
            }
            Self::Remove { at, length } => {
                let at = between(*at, input.len());
                input.drain(at..input.len().min(at + length));
            }
            Self::Cut { at } => input.truncate(between(*at, input.len())),
            Self::Repeat { at, length, times } => {
                let bytes = part(input, *at, *length).repeat(*times);
                let at = between(*at, input.len());
                insert(input, at, &bytes);
            }
            Self::Move { from, to, length } => {
                let bytes = part(input, *from, *length);
                let from = between(*from, input.len());
                input.drain(from..from + bytes.len());
                let to = between(*to, input.len());
                insert(input, to, &bytes);
            }
            Self::Splice { other, from, to, length } => {
                let other: &Vec<u8> = other.get(pool);
                let bytes = part(other, *from, *length);
                let to = between(*to, input.len());
                insert(input, to, &bytes);
            }
            Self::Word { word, at, over } => {
                if words.is_empty() {
                    return;
                }
                let word = word.get(words).as_bytes();
                let at = between(*at, input.len());
                if *over {
                    input.drain(at..input.len().min(at + word.len()));
                }
                insert(input, at, word);
            }
            Self::Number { at, to } => {
                let from = between(*at, input.len());
                let Some(begin) = input[from..].iter().position(u8::is_ascii_digit) else {
                    return;
                };
                let begin = from + begin;
                let length = input[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = to.get(&NUMBERS).as_bytes();
                input.splice(begin..begin + length, number.iter().copied());
            }
            Self::Line { at, twice } => {
                let lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
                if lines.is_empty() {
                    return;
                }
                let chosen = at.index(lines.len());
                let mut changed = Vec::with_capacity(input.len() * 2);
                for (place, line) in lines.iter().enumerate() {
                    if place != chosen || *twice {
                        changed.extend_from_slice(line);
                    }
                    if place == chosen && *twice {
                        changed.extend_from_slice(line);
                    }
                }
                *input = changed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        strategy::ValueTree as _,
        test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
    };

    use super::*;

    #[test]
    fn a_seed_makes_the_same_cases_and_they_differ_from_one_another() {
        let pool = [b"one two 3\nfour\n".to_vec(), Vec::new()];
        let inputs = || {
            let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
            let strategy = Case::strategy();
            (0..500)
                .map(|_| {
                    strategy
                        .new_tree(&mut runner)
                        .expect("a case")
                        .current()
                        .input(&pool, &["word"])
                })
                .collect::<Vec<_>>()
        };
        let (first, second) = (inputs(), inputs());
        assert_eq!(first, second);
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(distinct.len() > 300, "{}", distinct.len());
        assert!(first.iter().all(|input| input.len() <= LONGEST));
        assert!(first.iter().any(|input| input.windows(4).any(|part| part == b"word")));
    }
}
