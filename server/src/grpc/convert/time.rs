//! Instants and durations.

use jiff::Timestamp;

const NANOSECONDS: i32 = 1_000_000_000;

/// An instant as the wire carries it: nanoseconds count forward, also before 1970.
pub(in crate::grpc) fn timestamp(instant: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = (instant.as_second(), instant.subsec_nanosecond());
    if nanos < 0 {
        return prost_types::Timestamp {
            seconds: seconds - 1,
            nanos: nanos + NANOSECONDS,
        };
    }
    prost_types::Timestamp { seconds, nanos }
}

/// An instant from the wire; `None` where it lies outside of the years -9999 to 9999 or its nanoseconds are malformed.
pub(in crate::grpc) fn instant(timestamp: &prost_types::Timestamp) -> Option<Timestamp> {
    if !(0..NANOSECONDS).contains(&timestamp.nanos) {
        return None;
    }
    Timestamp::new(timestamp.seconds, timestamp.nanos).ok()
}

/// A duration from milliseconds.
pub(in crate::grpc) fn milliseconds(ms: u64) -> prost_types::Duration {
    let nanos = i32::try_from(ms % 1_000 * 1_000_000).unwrap_or_default();
    prost_types::Duration {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        nanos,
    }
}

/// A duration from whole seconds.
pub(in crate::grpc) fn seconds(seconds: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_the_wire() {
        for text in [
            "2024-02-29T12:00:00.123456789Z",
            "1969-12-31T23:59:59.5Z",
            "1970-01-01T00:00:00Z",
        ] {
            let given: Timestamp = text.parse().expect("an instant");
            let wire = timestamp(given);
            assert!((0..NANOSECONDS).contains(&wire.nanos), "{text}");
            assert_eq!(instant(&wire), Some(given));
        }
        assert_eq!(
            instant(&prost_types::Timestamp {
                seconds: i64::MAX,
                nanos: 0
            }),
            None
        );
        assert_eq!(instant(&prost_types::Timestamp { seconds: 0, nanos: -1 }), None);
    }

    #[test]
    fn milliseconds_are_split() {
        assert_eq!(
            milliseconds(1_234),
            prost_types::Duration {
                seconds: 1,
                nanos: 234_000_000
            }
        );
    }
}
