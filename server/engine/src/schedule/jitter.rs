//! A slot's own delay: fixed by the schedule and the slot, so that every server computes the same, and spread evenly, so that
//! schedules of one time do not begin at one instant.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The delay of one slot: whole milliseconds, evenly from zero up to and with `max`.
///
/// The first 8 bytes of the SHA-256 of the id's 16 bytes and the slot's nanoseconds (16 bytes, big-endian), scaled to the range:
/// any server, and any later version, gets the same. The scaling favours no millisecond by more than one part in 2^64.
#[must_use]
pub fn jitter_of(schedule_id: Uuid, slot: Timestamp, max: Duration) -> Duration {
    let mut hash = Sha256::new();
    hash.update(schedule_id.as_bytes());
    hash.update(slot.as_nanosecond().to_be_bytes());
    let digest = hash.finalize();
    let high = digest.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    // high / 2^64 is even over 0 to 1; times the number of milliseconds, rounded down.
    let choices = u128::from(u64::try_from(max.as_millis()).unwrap_or(u64::MAX)) + 1;
    let chosen = (u128::from(high) * choices) >> 64;
    Duration::from_millis(u64::try_from(chosen).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("an instant")
    }

    #[test]
    fn the_delay_of_a_slot_is_fixed_for_ever() {
        let id = Uuid::from_u128(0x0192_3456_789a_7bcd_8ef0_1234_5678_9abc);
        let max = Duration::from_secs(600);
        let of = |second| jitter_of(id, slot(second), max).as_millis();
        // Computed apart from this program; a change here would make servers of two versions disagree.
        assert_eq!([of(0), of(1_700_000_000), of(-86_400)], PINNED);
        assert_eq!(jitter_of(id, slot(0), Duration::ZERO), Duration::ZERO);
    }

    const PINNED: [u128; 3] = [566_265, 527_477, 353_617];

    #[test]
    fn delays_are_spread_evenly_over_slots_and_over_schedules() {
        let max = Duration::from_millis(9);
        for by_schedule in [false, true] {
            let mut counts = [0_u32; 10];
            for number in 0..20_000_u32 {
                let (id, second) = if by_schedule {
                    (u128::from(number), 0)
                } else {
                    (7, i64::from(number) * 60)
                };
                let delay = jitter_of(Uuid::from_u128(id), slot(second), max).as_millis();
                counts[usize::try_from(delay).expect("small")] += 1;
            }
            // 2,000 each is expected, with a standard deviation of 42: six of them either way.
            assert!(counts.iter().all(|count| (1_750..=2_250).contains(count)), "{counts:?}");
        }
    }
}
