//! Fences: the number under which an attempt of a run changes things. It grows with every attempt, and below the attempt's number it
//! holds a number drawn by lot for each claim: where a failover of the control store forgets a claim, two servers may hold attempts of the
//! same number, and are still told from one another in the store, in the target and by the names of files.
//!
//! ```text
//!   63      32 31       0
//!   | attempt  | by lot  |
//! ```
//!
//! Fences of versions that drew no lot are the number of the attempt alone, so that those of later attempts are larger than all of them.

/// Bits of the number drawn by lot.
const LOT_BITS: u32 = 32;

/// The fence of an attempt.
#[must_use]
pub fn of(attempt: u32, lot: u32) -> u64 {
    (u64::from(attempt) << LOT_BITS) | u64::from(lot)
}

/// Number of the attempt that a fence belongs to.
#[must_use]
pub fn attempt(fence: u64) -> u64 {
    if fence >> LOT_BITS == 0 { fence } else { fence >> LOT_BITS }
}

/// A fence in names of files and in comments, such as `0003-9f3a2b1c`; `0003` without a lot.
#[must_use]
pub fn name(fence: u64) -> String {
    if fence >> LOT_BITS == 0 {
        return format!("{fence:04}");
    }
    format!("{:04}-{:08x}", attempt(fence), fence & u64::from(u32::MAX))
}

/// The fence that a text begins with, as [`name`] writes it; `None` where it begins with none.
#[must_use]
pub fn named(text: &str) -> Option<u64> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let number: u64 = number.parse().ok()?;
    let Some(rest) = rest.strip_prefix('-') else {
        return Some(number);
    };
    // A lot has all its digits, whatever follows; anything else is another part of the name.
    let lot = rest.get(..8).filter(|lot| lot.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match (u32::try_from(number), lot.map(|lot| u32::from_str_radix(lot, 16))) {
        (Ok(number), Some(Ok(lot))) => Some(of(number, lot)),
        _ => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_grow_with_attempts_and_differ_by_lot() {
        assert!(of(2, 0) > of(1, u32::MAX));
        assert!(of(1, 0) > 1_000_000, "larger than those of versions before");
        assert_ne!(of(3, 1), of(3, 2));
        assert!(i64::try_from(of(u32::MAX >> 1, u32::MAX)).is_ok(), "a column holds it");
        for (fence, number, text) in [
            (2, 2, "0002"),
            (12_345, 12_345, "12345"),
            (of(3, 0x9f3a_2b1c), 3, "0003-9f3a2b1c"),
            (of(10_000, 1), 10_000, "10000-00000001"),
        ] {
            assert_eq!((attempt(fence), name(fence).as_str()), (number, text));
            for ending in ["", ".dump", ".chunk", ".manifest.json.partial"] {
                assert_eq!(named(&format!("{text}{ending}")), Some(fence), "{text}{ending}");
            }
        }
        assert_eq!(named("x"), None);
        assert_eq!(named("0002-table.dump"), Some(2), "no lot");
    }
}
