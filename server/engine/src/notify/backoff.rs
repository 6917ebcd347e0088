//! When a delivery that failed is tried again, or given up. Pure.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::settings::NotifySettings;
use crate::model::notice::DeliveryId;

/// Longest wait that a receiver can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(86_400);
/// The jitter moves a wait by at most this share of it, both ways, in thousandths.
const JITTER_THOUSANDTHS: u64 = 200;

/// The wait after the `tries`-th try, with jitter: a receiver that comes back is not met by everything at once. The jitter follows from the
/// delivery and the number of the try, so that it is the same wherever it is computed.
pub(super) fn wait_after(settings: &NotifySettings, delivery: DeliveryId, tries: u32, asked: Option<Duration>) -> Duration {
    let doubled = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    let plain = settings.first_wait.saturating_mul(doubled).min(settings.longest_wait);
    let mut hasher = Sha256::new();
    hasher.update(delivery.0.as_bytes());
    hasher.update(tries.to_le_bytes());
    let digest = hasher.finalize();
    let dice = u64::from(u16::from_le_bytes([digest[0], digest[1]]));
    let thousandths = 1_000 - JITTER_THOUSANDTHS + dice * 2 * JITTER_THOUSANDTHS / u64::from(u16::MAX);
    let jittered = plain / 1_000 * u32::try_from(thousandths).unwrap_or(1_000);
    jittered.max(asked.unwrap_or_default().min(LONGEST_ASKED))
}

/// Why a delivery is given up after its `tries`-th try failed; `None` where it is tried again.
pub(super) fn exhausted(settings: &NotifySettings, tries: u32, tried_for: Duration) -> Option<String> {
    if tries >= settings.max_tries {
        return Some(format!("given up after {tries} tries"));
    }
    (tried_for >= settings.give_up_after).then(|| format!("given up after {} s", tried_for.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_never_leave_their_jitter() {
        let settings = NotifySettings::default();
        for number in 0..50_u128 {
            let id = DeliveryId(uuid::Uuid::from_u128(number));
            for tries in 1..=100 {
                let plain = Duration::from_secs(5 << (tries - 1).min(10)).min(Duration::from_secs(3_600));
                let wait = wait_after(&settings, id, tries, None);
                assert!(
                    plain * 8 / 10 <= wait && wait <= plain * 12 / 10,
                    "{number}, try {tries}: {wait:?} for {plain:?}"
                );
                assert_eq!(wait, wait_after(&settings, id, tries, None), "the jitter is no dice");
            }
        }
        let waits: std::collections::BTreeSet<Duration> = (0..50_u128)
            .map(|number| wait_after(&settings, DeliveryId(uuid::Uuid::from_u128(number)), 1, None))
            .collect();
        assert!(waits.len() > 40, "deliveries that failed together do not come back together");
    }

    #[test]
    fn a_receiver_may_ask_for_more_and_not_for_less() {
        let settings = NotifySettings::default();
        let id = DeliveryId(uuid::Uuid::from_u128(7));
        let own = wait_after(&settings, id, 3, None);
        assert_eq!(wait_after(&settings, id, 3, Some(Duration::from_secs(1))), own);
        assert_eq!(
            wait_after(&settings, id, 3, Some(Duration::from_secs(600))),
            Duration::from_secs(600)
        );
        assert_eq!(wait_after(&settings, id, 3, Some(Duration::MAX)), LONGEST_ASKED);
    }

    #[test]
    fn a_delivery_is_given_up_for_a_reason() {
        let settings = NotifySettings::default();
        assert_eq!(exhausted(&settings, 39, Duration::from_secs(86_399)), None);
        assert_eq!(
            exhausted(&settings, 40, Duration::ZERO).as_deref(),
            Some("given up after 40 tries")
        );
        assert_eq!(
            exhausted(&settings, 1, Duration::from_secs(86_400)).as_deref(),
            Some("given up after 86400 s")
        );
    }
}
