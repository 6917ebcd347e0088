//! How sure a proposed relation is: one formula over what was found, documented for users in `docs/discovery.md`. Pure. Called by
//! `relate` and `textkey`.

use crate::run::as_f64;

/// Whether equal values in two columns say anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// There are no values.
    Nothing,
    /// Small numbers and short words: they are found in every table that counts from 1.
    Weak,
    /// UUIDs, long numbers, long texts: nobody has the same by chance.
    Strong,
}

/// What is known of a possible relation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Signs {
    /// How well the names fit, 0 to 1.
    pub(super) name: f64,
    /// Whether the values say anything.
    pub(super) telling: Telling,
    /// Distinct values that were looked up.
    pub(super) asked: usize,
    /// Those that the parent has.
    pub(super) found: usize,
    /// Share of the sampled rows whose value the parent has, 0 to 1: orphans of a small parent bring many values of few rows.
    pub(super) rows: f64,
    /// Whether the parent's columns are its primary key rather than another unique one.
    pub(super) primary: bool,
    /// Whether both columns are of exactly the same type.
    pub(super) same_type: bool,
    /// Whether the child's columns are its own primary key.
    pub(super) own_key: bool,
    /// Whether a value that is not found looks like a word for "none": 0, -1 or an empty text.
    pub(super) sentinel: bool,
}

/// Below this a relation is not worth telling.
pub(super) const FLOOR: f64 = 0.3;
/// Highest confidence of a relation to a column that is no primary key: a subscriber's e-mail address may name a user, and need not.
const NATURAL_KEY_LIMIT: f64 = 0.65;
/// Looked-up values from which on their share is trusted.
const ENOUGH: usize = 5;

/// A count as a number to reckon with.
pub(super) fn count(number: usize) -> f64 {
    as_f64(u64::try_from(number).unwrap_or(u64::MAX))
}

/// Confidence in a relation, 0 to 1, in hundredths.
pub(super) fn confidence(signs: &Signs) -> f64 {
    let name = signs.name;
    let share = f64::midpoint(count(signs.found) / count(signs.asked.max(1)), signs.rows);
    let base = match signs.telling {
        Telling::Nothing => 0.7 * name,
        Telling::Strong if signs.found == 0 => {
            if signs.asked >= ENOUGH {
                0.35 * name
            } else {
                0.5 * name
            }
        }
        Telling::Strong => {
            // One equal UUID may be a test row; three are none. The rest of the values may well be orphans.
            let certainty = (count(signs.found) / 3.0).min(1.0) * f64::midpoint(1.0, share);
            1.0 - (1.0 - 0.6 * name) * (1.0 - 0.85 * certainty)
        }
        Telling::Weak if signs.asked < ENOUGH => name * 0.7 * share,
        // Agreement proves nothing here; disagreement does.
        Telling::Weak if share >= 0.5 => name * (0.6 + 0.35 * share),
        Telling::Weak => name * 0.9 * share,
    };
    let factors = [(!signs.same_type, 0.97), (signs.own_key, 0.9), (signs.sentinel, 0.85)];
    let weighed = factors
        .iter()
        .filter(|(holds, _)| *holds)
        .fold(base, |value, (_, factor)| value * factor);
    let limited = if signs.primary {
        weighed
    } else {
        weighed.min(NATURAL_KEY_LIMIT)
    };
    hundredths(limited)
}

/// Rounded down, so that what is told is never more than what was reckoned.
pub(super) fn hundredths(value: f64) -> f64 {
    // The margin keeps 0.95 from becoming 0.94 by the last bit.
    ((value * 100.0 + 1e-9).floor() / 100.0).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURE: Signs = Signs {
        name: 1.0,
        telling: Telling::Strong,
        asked: 100,
        found: 100,
        rows: 1.0,
        primary: true,
        same_type: true,
        own_key: false,
        sentinel: false,
    };

    #[test]
    fn the_documented_examples() {
        let found = |signs: Signs, found: usize| Signs {
            found,
            rows: count(found) / 100.0,
            ..signs
        };
        let weak = |name, times| {
            let telling = Telling::Weak;
            found(Signs { name, telling, ..SURE }, times)
        };
        let nothing = Signs {
            telling: Telling::Nothing,
            asked: 0,
            ..found(SURE, 0)
        };
        let with_sentinel = Signs {
            sentinel: true,
            ..weak(1.0, 99)
        };
        for (signs, expected) in [
            (SURE, 0.94),
            (found(SURE, 50), 0.85),
            (found(SURE, 0), 0.35),
            (Signs { name: 0.0, ..SURE }, 0.85),
            (Signs { name: 0.75, ..SURE }, 0.91),
            (weak(1.0, 100), 0.95),
            (weak(1.0, 50), 0.77),
            (weak(1.0, 40), 0.36),
            (weak(0.75, 100), 0.71),
            (weak(0.0, 100), 0.0),
            (
                Signs {
                    rows: 0.9,
                    ..weak(1.0, 30)
                },
                0.81,
            ),
            (nothing, 0.7),
            (Signs { primary: false, ..SURE }, 0.65),
            (with_sentinel, 0.8),
        ] {
            assert!(
                (confidence(&signs) - expected).abs() < 1e-9,
                "{signs:?}: {}",
                confidence(&signs)
            );
        }
    }

    #[test]
    fn small_numbers_alone_prove_nothing_and_more_agreement_never_hurts() {
        for name in [0.0, 0.55, 0.8, 1.0] {
            for telling in [Telling::Weak, Telling::Strong] {
                let mut last = 0.0;
                for found in 0..=100 {
                    let now = confidence(&Signs {
                        name,
                        telling,
                        found,
                        rows: count(found) / 100.0,
                        ..SURE
                    });
                    assert!((0.0..=1.0).contains(&now) && now >= last, "{name} {telling:?} {found}");
                    last = now;
                }
                if telling == Telling::Weak {
                    assert!(last <= name, "{name}");
                }
            }
        }
    }
}
