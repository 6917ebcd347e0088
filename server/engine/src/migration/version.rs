//! Versions as numbers: what file names write in several ways, compared as one. Digits may be more than any integer holds.

use std::{cmp::Ordering, fmt};

/// A version: numbers, most significant first. Zeros at the end do not count, as `1.0` is `1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Digits without leading zeros.
    parts: Vec<String>,
}

impl Version {
    /// The version of a text: `2017-09-23-182408` is 20170923182408, `000007` is 7, `1_2` and `01.02` are 1.2. `None` where it is
    /// something else.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        let joined: String = written.chars().filter(|character| *character != '-').collect();
        if written.starts_with('-') || written.ends_with('-') {
            return None;
        }
        let mut parts = Vec::new();
        for part in joined.split(['.', '_']) {
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let digits = part.trim_start_matches('0');
            parts.push(if digits.is_empty() { "0" } else { digits }.to_owned());
        }
        while parts.len() > 1 && parts.last().is_some_and(|part| part == "0") {
            parts.pop();
        }
        Some(Self { parts })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.parts.join("."))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // Without leading zeros, the longer number is the larger one.
        let mine = self.parts.iter().map(|part| (part.len(), part));
        mine.cmp(other.parts.iter().map(|part| (part.len(), part)))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The text by which a version is compared with others: see [`Version::parse`].
#[must_use]
pub fn normalise(written: &str) -> Option<String> {
    Version::parse(written).map(|version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(written: &str) -> Version {
        Version::parse(written).unwrap()
    }

    #[test]
    fn spellings_of_the_same_version_are_equal() {
        for (written, normal) in [
            ("2017-09-23-182408", "20170923182408"),
            ("000007", "7"),
            ("1_2", "1.2"),
            ("01.02", "1.2"),
            ("1.0", "1"),
            ("1.0.1", "1.0.1"),
            ("00000000000000", "0"),
            ("2024-05-01-123456-0000", "202405011234560000"),
        ] {
            assert_eq!(normalise(written).as_deref(), Some(normal), "{written}");
        }
        for wrong in ["", "a", "1a", "1..2", "1.", "_1", "-1", "1-", "١"] {
            assert_eq!(normalise(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_compared_and_not_texts() {
        for (smaller, larger) in [
            ("2", "10"),
            ("1.2", "1.10"),
            ("1", "1.0.1"),
            ("99999999999999999999", "100000000000000000000"),
            ("0", "1"),
            ("1.9", "2"),
            ("20240101000000", "20240101000001"),
        ] {
            assert!(version(smaller) < version(larger), "{smaller} {larger}");
        }
        assert_eq!(version("1.0"), version("1"));
    }
}
