//! What authors say of a migration beyond its SQL: header comments `-- dbkeep: key = value` before the first statement of the up
//! script, and a sidecar TOML with the same keys. A key that nobody knows is refused, since whoever wrote it counts on it.
//! Called by [`super::source`].

use jiff::SignedDuration;
use toml::de::{DeTable, DeValue};

use super::{statement, version::normalise};
use crate::model::{EngineKind, Metadata, MigrationId};

/// What opens a header comment, after `--`.
const MARK: &str = "dbkeep:";

/// Keys, as they are written.
const KEYS: [&str; 10] = [
    "depends-on",
    "description",
    "version",
    "requires-backup",
    "estimated-duration",
    "data-transformation",
    "transaction",
    "lock-timeout",
    "check-before",
    "check-after",
];

/// Metadata was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct MetadataError {
    /// File, relative to the folder.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// What was said, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stated {
    /// The values.
    pub metadata: Metadata,
    /// `version`, normalised; it has to be the one of the file's name.
    pub version: Option<String>,
    /// Which keys were stated, with file and line of the first time.
    places: Vec<(&'static str, String, u32)>,
}

impl Stated {
    /// File and line where a key was stated.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<(&str, u32)> {
        let found = self.places.iter().find(|(stated, ..)| *stated == key);
        found.map(|(_, file, line)| (file.as_str(), *line))
    }

    fn set(&mut self, file: &str, line: u32, key: &str, values: &[String]) -> Result<(), MetadataError> {
        let refuse = |problem: String| {
            Err(MetadataError {
                file: file.to_owned(),
                line,
                problem,
            })
        };
        let Some(known) = KEYS.into_iter().find(|known| *known == key) else {
            return refuse(format!("unknown key `{key}`: expected one of {}", KEYS.join(", ")));
        };
        let repeatable = matches!(known, "depends-on" | "check-before" | "check-after");
        if !repeatable && let Some((_, line)) = self.place(known) {
            return refuse(format!("`{known}` is stated in line {line} already: expected it once"));
        }
        if let Err(expected) = self.put(known, values) {
            return refuse(format!("`{known}` = {}: expected {expected}", values.join(", ")));
        }
        if self.place(known).is_none() {
            self.places.push((known, file.to_owned(), line));
        }
        Ok(())
    }

    /// `Err` tells what was expected.
    fn put(&mut self, key: &'static str, values: &[String]) -> Result<(), &'static str> {
        let one = || match values {
            [value] if !value.is_empty() => Ok(value.as_str()),
            _ => Err("one value"),
        };
        let metadata = &mut self.metadata;
        match key {
            "depends-on" => {
                if values.is_empty() || values.iter().any(String::is_empty) {
                    return Err("versions or names of migrations");
                }
                metadata.depends_on.extend(values.iter().cloned().map(MigrationId));
            }
            "description" => one()?.clone_into(&mut metadata.description),
            "version" => self.version = Some(normalise(one()?).ok_or("a version of digits")?),
            "requires-backup" => metadata.requires_backup = truth(one()?)?,
            "estimated-duration" => {
                let duration = duration(one()?)?;
                let seconds = u64::try_from(duration.as_millis()).unwrap_or_default().div_ceil(1_000);
                metadata.estimated_seconds = Some(seconds);
            }
            "data-transformation" => metadata.data_transformation = Some(truth(one()?)?),
            "transaction" => metadata.transaction = Some(truth(one()?)?),
            "lock-timeout" => {
                let milliseconds = u64::try_from(duration(one()?)?.as_millis()).unwrap_or_default();
                if milliseconds == 0 {
                    return Err("at least 1ms: without a limit everybody waits behind the migration");
                }
                metadata.lock_timeout_ms = Some(milliseconds);
            }
            _ => {
                if values.is_empty() || values.iter().any(String::is_empty) {
                    return Err("a query");
                }
                let checks = if key == "check-before" {
                    &mut metadata.checks_before
                } else {
                    &mut metadata.checks_after
                };
                checks.extend(values.iter().map(|value| value.trim_end_matches(';').trim_end().to_owned()));
            }
        }
        Ok(())
    }

    /// Both together.
    ///
    /// # Errors
    /// A key that is stated in both.
    pub fn merge(mut self, other: Self) -> Result<Self, MetadataError> {
        for (key, file, line) in &other.places {
            if let Some((here, at)) = self.place(key) {
                return Err(MetadataError {
                    file: file.clone(),
                    line: *line,
                    problem: format!("`{key}` is stated in {here}:{at} too: expected it in one place"),
                });
            }
        }
        let (mine, theirs) = (&mut self.metadata, other.metadata);
        mine.depends_on.extend(theirs.depends_on);
        mine.checks_before.extend(theirs.checks_before);
        mine.checks_after.extend(theirs.checks_after);
        if mine.description.is_empty() {
            mine.description = theirs.description;
        }
        mine.requires_backup |= theirs.requires_backup;
        mine.estimated_seconds = mine.estimated_seconds.or(theirs.estimated_seconds);
        mine.data_transformation = mine.data_transformation.or(theirs.data_transformation);
        mine.transaction = mine.transaction.or(theirs.transaction);
        mine.lock_timeout_ms = mine.lock_timeout_ms.or(theirs.lock_timeout_ms);
        self.version = self.version.or(other.version);
        self.places.extend(other.places);
        Ok(self)
    }
}

/// Reads the header comments of an up script.
///
/// # Errors
/// An unknown key, a malformed value, a key that is stated twice, a header after the first statement.
pub fn of_header(file: &str, text: &str, engine: EngineKind, first_line: u32) -> Result<Stated, MetadataError> {
    let mut stated = Stated::default();
    for (comment, line, leading) in headers(text, engine, first_line) {
        let refuse = |problem: &str| MetadataError {
            file: file.to_owned(),
            line,
            problem: problem.to_owned(),
        };
        if !leading {
            return Err(refuse("a header after a statement: expected it before the first statement"));
        }
        let (key, value) = comment
            .split_once('=')
            .ok_or_else(|| refuse("expected `-- dbkeep: key = value`"))?;
        let (key, value) = (key.trim(), value.trim());
        let values: Vec<String> = if key == "depends-on" {
            value.split(',').map(|part| part.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        };
        stated.set(file, line, key, &values)?;
    }
    Ok(stated)
}

/// Refuses header comments where they mean nothing: in down and verify scripts.
///
/// # Errors
/// There is one.
pub fn refuse_header(file: &str, text: &str, engine: EngineKind, first_line: u32) -> Result<(), MetadataError> {
    match headers(text, engine, first_line).first() {
        Some((_, line, _)) => Err(MetadataError {
            file: file.to_owned(),
            line: *line,
            problem: "a header here means nothing: expected it in the up script".to_owned(),
        }),
        None => Ok(()),
    }
}

fn headers(text: &str, engine: EngineKind, first_line: u32) -> Vec<(&str, u32, bool)> {
    // Most scripts have none, and need not be cut into tokens for it.
    if !text.contains(MARK) {
        return Vec::new();
    }
    let comments = statement::comments(text, engine, first_line).into_iter();
    comments
        .filter_map(|(comment, line, leading)| {
            let header = comment.strip_prefix("--")?.trim_start().strip_prefix(MARK)?;
            Some((header.trim(), line, leading))
        })
        .collect()
}

/// Reads a sidecar.
///
/// # Errors
/// What is not TOML, an unknown key, a malformed value.
pub fn of_sidecar(file: &str, text: &str) -> Result<Stated, MetadataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_of = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        u32::try_from(before.matches('\n').count()).map_or(u32::MAX, |lines| lines.saturating_add(1))
    };
    let refuse = |offset: usize, problem: String| MetadataError {
        file: file.to_owned(),
        line: line_of(offset),
        problem,
    };
    let table =
        DeTable::parse(text).map_err(|error| refuse(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut stated = Stated::default();
    for (key, value) in entries {
        let offset = key.span().start;
        let values = match value.get_ref() {
            DeValue::Array(values) => values.iter().map(|value| scalar(value.get_ref())).collect::<Option<Vec<_>>>(),
            value => scalar(value).map(|value| vec![value]),
        };
        let values = values.ok_or_else(|| {
            refuse(
                offset,
                format!(
                    "`{}`: expected a text, a number, true or false, or a list of such",
                    key.get_ref()
                ),
            )
        })?;
        stated.set(file, line_of(offset), key.get_ref(), &values)?;
    }
    Ok(stated)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.trim().to_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn truth(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false"),
    }
}

/// Hours, minutes, seconds and smaller, `5m`, `1h 30m` or `PT5M`: longer units depend on a calendar.
fn duration(value: &str) -> Result<SignedDuration, &'static str> {
    match value.parse::<SignedDuration>() {
        Ok(duration) if !duration.is_negative() => Ok(duration),
        _ => Err("a duration such as 500ms, 90s, 5m, 1h 30m or PT5M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Stated, MetadataError> {
        of_header("a.sql", text, EngineKind::Postgres, 1)
    }

    fn refused(text: &str) -> (u32, String) {
        let error = header(text).unwrap_err();
        assert_eq!(error.file, "a.sql");
        (error.line, error.problem)
    }

    const FULL: &str = "\u{feff}-- a migration\r\n\
        -- dbkeep: depends-on = 12, 0014\r\n\
        --dbkeep: depends-on=create_users\r\n\
        -- dbkeep: requires-backup = true\r\n\
        \r\n\
        /* a word */ -- dbkeep: estimated-duration = PT5M\r\n\
        -- dbkeep: description = Adds a = b\r\n\
        -- dbkeep: data-transformation = false\r\n\
        -- dbkeep: transaction = false\r\n\
        -- dbkeep: version = 0015\r\n\
        -- dbkeep: lock-timeout = 1s 500ms\r\n\
        -- dbkeep: check-before = SELECT count(*) = 0 FROM t;\r\n\
        -- dbkeep: check-after = SELECT 1\r\n\
        -- dbkeep: check-after = SELECT 2\r\n\
        SELECT 1;\r\n";

    fn full() -> Metadata {
        Metadata {
            depends_on: ["12", "0014", "create_users"].map(|id| MigrationId(id.to_owned())).to_vec(),
            description: "Adds a = b".to_owned(),
            requires_backup: true,
            estimated_seconds: Some(300),
            data_transformation: Some(false),
            transaction: Some(false),
            lock_timeout_ms: Some(1_500),
            checks_before: vec!["SELECT count(*) = 0 FROM t".to_owned()],
            checks_after: vec!["SELECT 1".to_owned(), "SELECT 2".to_owned()],
        }
    }

    #[test]
    fn headers_are_read() {
        let stated = header(FULL).unwrap();
        assert_eq!(stated.metadata, full());
        assert_eq!(stated.version.as_deref(), Some("15"));
        assert_eq!(stated.place("transaction"), Some(("a.sql", 9)));
        assert_eq!(header("SELECT 1").unwrap(), Stated::default());
    }

    #[test]
    fn a_sidecar_says_the_same() {
        let text = "depends-on = [12, \"0014\", \"create_users\"]\nrequires-backup = true\nestimated-duration = \"5m\"\n\
            description = \"Adds a = b\"\ndata-transformation = false\ntransaction = false\nversion = 15\n\
            lock-timeout = \"1500ms\"\ncheck-before = \"SELECT count(*) = 0 FROM t\"\n\
            check-after = [\n  \"SELECT 1\",\n  \"SELECT 2\",\n]\n";
        let stated = of_sidecar("a.dbkeep.toml", text).unwrap();
        assert_eq!(stated.metadata, full());
        assert_eq!(stated.place("check-after"), Some(("a.dbkeep.toml", 10)));
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_line() {
        let (line, problem) = refused("-- x\n-- dbkeep: depend-on = 1\n");
        assert_eq!(line, 2);
        assert!(
            problem.starts_with("unknown key `depend-on`: expected one of depends-on"),
            "{problem}"
        );
        for (text, expected) in [
            ("-- dbkeep: transaction = no", "expected true or false"),
            ("-- dbkeep: estimated-duration = 5", "expected a duration such as"),
            ("-- dbkeep: estimated-duration = -5m", "expected a duration such as"),
            ("-- dbkeep: estimated-duration = 1 day", "expected a duration such as"),
            ("-- dbkeep: lock-timeout = 0s", "at least 1ms"),
            ("-- dbkeep: depends-on = 1,,2", "expected versions or names"),
            ("-- dbkeep: description =", "expected one value"),
            ("-- dbkeep: check-after = ", "expected a query"),
            ("-- dbkeep: version = abc", "expected a version of digits"),
            ("-- dbkeep: transaction", "expected `-- dbkeep: key = value`"),
            (
                "-- dbkeep: transaction = true\n-- dbkeep: transaction = true",
                "stated in line 1 already",
            ),
            ("SELECT 1; -- dbkeep: transaction = true", "before the first statement"),
        ] {
            let (_, problem) = refused(text);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        for (text, line, expected) in [
            ("a = ", 1, ""),
            ("description = \"x\"\nfoo = 1\n", 2, "unknown key `foo`"),
            ("\ntransaction = 1", 2, "expected true or false"),
            ("check-after = [[1]]", 1, "expected a text"),
            ("[table]\nx = 1", 1, "expected a text"),
            ("version = 0x12", 1, "expected a text"),
        ] {
            let error = of_sidecar("s.toml", text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.problem.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_in_two_places_is_refused() {
        let sidecar = of_sidecar("a.dbkeep.toml", "# words\ntransaction = false\n").unwrap();
        let error = header("-- dbkeep: transaction = true")
            .unwrap()
            .merge(sidecar.clone())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "a.dbkeep.toml:2: `transaction` is stated in a.sql:1 too: expected it in one place"
        );
        let both = header("-- dbkeep: description = x").unwrap().merge(sidecar).unwrap();
        assert_eq!(
            (both.metadata.description.as_str(), both.metadata.transaction),
            ("x", Some(false))
        );
    }

    #[test]
    fn text_that_looks_like_a_header_is_none() {
        assert_eq!(header("SELECT '\n-- dbkeep: x = y\n';").unwrap(), Stated::default());
        assert!(refuse_header("d.sql", "-- dbkeep: transaction = false", EngineKind::Sqlite, 1).is_err());
        assert!(refuse_header("d.sql", "SELECT '-- dbkeep: x'", EngineKind::Sqlite, 1).is_ok());
    }
}
