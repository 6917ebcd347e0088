//! Durations as people type and read them.
//!
//! Owns the grammar ("90s", "30m", "2h", "1h30m", "500ms") and the words for tables. JSON has seconds as numbers instead.

use std::{fmt, str::FromStr, time::Duration};

/// A duration given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(Duration);

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

/// Why a text is no duration.
#[derive(Debug, thiserror::Error)]
#[error("expected numbers with units ms, s, m, h or d, like 90s, 30m, 2h or 1h30m")]
pub(crate) struct InvalidDuration;

impl FromStr for Span {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(InvalidDuration);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(InvalidDuration)?;
            let number: u64 = rest[..digits].parse().map_err(|_| InvalidDuration)?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let unit_ms = match &rest[..letters] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(InvalidDuration),
            };
            rest = &rest[letters..];
            let part = Duration::from_millis(number.checked_mul(unit_ms).ok_or(InvalidDuration)?);
            total = total.checked_add(part).ok_or(InvalidDuration)?;
        }
        Ok(Self(total))
    }
}

/// A duration in two units at most: "47 ms", "3.2 s", "2 min 5 s", "1 h 10 min".
pub(crate) struct Words(pub(crate) Duration);

impl fmt::Display for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(formatter, "{} ms", self.0.as_millis()),
            1..10 => write!(formatter, "{}.{} s", seconds, self.0.subsec_millis() / 100),
            10..60 => write!(formatter, "{seconds} s"),
            60..3600 => write!(formatter, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(formatter, "{} h {} min", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("1h30m", 5400),
            ("1d", 86_400),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Span>().unwrap(), Span(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!("500ms".parse::<Span>().unwrap(), Span(Duration::from_millis(500)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "90",
            "s",
            "1.5h",
            "-1s",
            "1 h",
            "2w",
            "99999999999999999999s",
            "18446744073709551615d",
            "1hm",
            "½h",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_two_units_at_most() {
        for (millis, words) in [
            (47, "47 ms"),
            (3_290, "3.2 s"),
            (59_999, "59 s"),
            (125_000, "2 min 5 s"),
            (4_200_000, "1 h 10 min"),
        ] {
            assert_eq!(Words(Duration::from_millis(millis)).to_string(), words);
        }
    }
}
