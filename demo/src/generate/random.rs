//! Random numbers and keys that are the same on every machine and in every version of every library.
//!
//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) is enough for test data and
//! fits into ten lines; a crate's generator may change its stream with its version, and a seed in a bug report would then
//! mean nothing.

use uuid::{Builder, Uuid};

/// A stream of random numbers.
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The stream number `stream` of `seed`; streams of one seed are independent of each other.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self {
            state: mix(mix(seed).wrapping_add(stream)),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// A number from 0 up to, and without, `bound`; 0 if `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }

    /// A number from `low` up to, and without, `high`; `low` if there is nothing between them.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = u64::try_from(high.saturating_sub(low)).unwrap_or(0);
        low.saturating_add_unsigned(self.below(width))
    }

    /// True `per_mille` times of 1000, about.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `items`, which must not be empty.
    pub(super) fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        let count = u64::try_from(items.len()).expect("a slice's length fits into 64 bits");
        items[usize::try_from(self.below(count)).expect("below the slice's length")]
    }
}

/// Picks an exact number of rows out of a stream of rows, each set of rows being equally likely (Knuth, The Art of Computer
/// Programming, volume 2, 3.4.2, algorithm S). It must be asked exactly once for every row.
pub(super) struct Quota {
    rows_left: u64,
    picks_left: u64,
}

impl Quota {
    /// `picks` of `rows`.
    pub(super) fn exactly(picks: u64, rows: u64) -> Self {
        Self {
            rows_left: rows,
            picks_left: picks.min(rows),
        }
    }

    /// `per_mille` thousandths of `rows`, but never none: the smallest database, too, has each kind of row.
    pub(super) fn per_mille(per_mille: u64, rows: u64) -> Self {
        Self::exactly((rows.saturating_mul(per_mille) / 1000).max(1), rows)
    }

    /// Rows of the stream that the quota will not pick: the stream of a second quota that must not get the same rows.
    pub(super) fn others(&self) -> u64 {
        self.rows_left - self.picks_left
    }

    /// Whether the next row is one of the picked.
    pub(super) fn draw(&mut self, random: &mut Random) -> bool {
        let picked = random.below(self.rows_left) < self.picks_left;
        self.rows_left = self.rows_left.saturating_sub(1);
        self.picks_left -= u64::from(picked);
        picked
    }
}

/// Added to the number of a row, it gives a row that was never written. No table has as many rows.
pub(super) const GONE: u64 = 1 << 48;

/// The key of row `index` in the key space `space`. A function and not a list, so that a child can name its parent without
/// anybody remembering fifty million keys. The order of keys has nothing to do with the order of rows, as with real UUIDs of
/// version 4, which these are in form.
pub(super) fn key(seed: u64, space: u64, index: u64) -> Uuid {
    let high = mix(mix(seed)
        .wrapping_add(mix(space))
        .wrapping_add(index.wrapping_mul(GOLDEN_GAMMA)));
    let low = mix(high ^ index);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    Builder::from_random_bytes(bytes).into_uuid()
}

/// A number below `bound` that depends on nothing but `seed` and `index`.
pub(super) fn hashed_below(seed: u64, index: u64, bound: u64) -> u64 {
    scale(mix(mix(seed).wrapping_add(index.wrapping_mul(GOLDEN_GAMMA))), bound)
}

/// 2^64 divided by the golden ratio, made odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64: a bijection, so two indexes of one space never meet in the same `high` half.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Maps all 64-bit numbers evenly to those below `bound`, without the division that a remainder would cost.
fn scale(value: u64, bound: u64) -> u64 {
    let product = u128::from(value) * u128::from(bound);
    u64::try_from(product >> 64).expect("the upper half of a product of two 64-bit numbers has 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_exact_whatever_the_seed() {
        for seed in 0..50 {
            let mut random = Random::new(seed, 1);
            let mut quota = Quota::per_mille(200, 1_234);
            let picked = (0..1_234).filter(|_| quota.draw(&mut random)).count();
            assert_eq!(picked, 246);
        }
    }

    #[test]
    fn a_stream_is_the_same_for_ever() {
        let mut random = Random::new(42, 7);
        let first: Vec<u64> = (0..4).map(|_| random.below(1_000)).collect();
        let mut again = Random::new(42, 7);
        assert_eq!(first, (0..4).map(|_| again.below(1_000)).collect::<Vec<_>>());
        let mut other = Random::new(42, 8);
        assert_ne!(first, (0..4).map(|_| other.below(1_000)).collect::<Vec<_>>());
    }

    #[test]
    fn keys_look_like_version_four() {
        assert_eq!(key(1, 2, 3).get_version_num(), 4);
        assert_ne!(key(1, 2, 3), key(1, 2, 4));
        assert_ne!(key(1, 2, 3), key(1, 3, 3));
        assert_ne!(key(1, 2, 3), key(2, 2, 3));
    }
}
