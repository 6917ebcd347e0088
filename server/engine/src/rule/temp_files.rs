//! Rule kind `temp_files`: files beneath a root that were last written strictly before a horizon. The horizon is computed once per
//! plan, from the server's clock, which is the one that stamps files.

use jiff::{Span, Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch};
use crate::model::FileGlob;

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "temp_files",
    summary: "files under a root that are older than an age",
};

/// Pattern where a rule names none: every file.
pub(super) const EVERY_FILE: &str = "**/*";

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    root: String,
    glob: Option<String>,
    age: String,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TempFiles {
    /// Name of the root.
    pub root: String,
    /// Pattern of the files' names.
    pub glob: String,
    /// ISO 8601 duration.
    pub age: String,
}

/// Reads an ISO 8601 duration that points to the past.
pub(super) fn parse_age(key: &str, text: &str, zero: bool) -> Result<Span, String> {
    let positive = if zero { "a" } else { "a positive" };
    let expectation = format!("{key} is {text:?}; expected {positive} ISO 8601 duration such as PT24H or P7D");
    let span: Span = text.parse().map_err(|_| expectation.clone())?;
    if span.is_positive() || (zero && span.is_zero()) {
        Ok(span)
    } else {
        Err(expectation)
    }
}

/// The instant that lies a duration before another.
pub(super) fn before(clock: Timestamp, key: &str, text: &str) -> Result<Timestamp, Mismatch> {
    let span = parse_age(key, text, true).map_err(Mismatch::new)?;
    let instant = clock.to_zoned(TimeZone::UTC).checked_sub(span);
    Ok(instant
        .map_err(|_| Mismatch::new(format!("{key} {text} reaches before the first date; expected less")))?
        .timestamp())
}

/// Checks the keys that both kinds of file rules have.
pub(super) fn check_place(root: &str, glob: &str) -> Result<(), String> {
    if root.is_empty() {
        return Err("root is empty; expected the name of a root of the target".to_owned());
    }
    FileGlob::parse(glob).map(|_| ())
}

impl TryFrom<Settings> for TempFiles {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let glob = settings.glob.unwrap_or_else(|| EVERY_FILE.to_owned());
        check_place(&settings.root, &glob)?;
        parse_age("age", &settings.age, false)?;
        Ok(Self {
            root: settings.root,
            glob,
            age: settings.age,
        })
    }
}

impl TempFiles {
    pub(super) fn describe(&self) -> String {
        format!(
            "files of root {} like {} that were last written more than {} ago",
            self.root, self.glob, self.age
        )
    }

    pub(super) fn horizon(&self, clock: Timestamp) -> Result<Timestamp, Mismatch> {
        before(clock, "age", &self.age)
    }
}
