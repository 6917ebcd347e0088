//! The files of a new migration, in the layout and the numbering of the folder that it goes to. Writes nothing. Called by whoever
//! offers to begin a migration.

use std::collections::HashSet;

use jiff::{Timestamp, tz::TimeZone};

use super::{source::Collection, version::Version};
use crate::{
    model::{EngineKind, Layout, Migration},
    port::SourceFile,
};

/// A migration cannot be begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// The name has no letter and no digit.
    #[error("`{name}` is no name: expected letters, digits and underscores")]
    Name {
        /// The name.
        name: String,
    },
    /// The folder has a change of that name, and names are all that its layout has.
    #[error("there is a migration {name} already: expected another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// The newest version cannot be counted on from.
    #[error("no version can follow {newest}: expected digits")]
    Version {
        /// The newest version.
        newest: String,
    },
}

/// The files of a new migration, newer than all in the folder; of sqitch the plan too, with a line more.
///
/// # Errors
/// A name without letters and digits, or one that is taken where names have to differ; a version that cannot be followed.
pub fn propose(collection: &Collection, name: &str, now: Timestamp, engine: EngineKind) -> Result<Vec<SourceFile>, DraftError> {
    let name = snake_case(name)?;
    let newest = collection.migrations.iter().rfind(|migration| !migration.repeatable);
    let version = match collection.layout {
        Layout::Sqitch => String::new(),
        layout => next_version(layout, newest, now)?,
    };
    let (up, down) = (up_template(engine), DOWN);
    let files = match collection.layout {
        // A folder is of one form, whether or not anything in it can be taken back.
        Layout::Sqlx
            if newest.is_some()
                && collection
                    .migrations
                    .iter()
                    .all(|migration| !migration.up.file.ends_with(".up.sql")) =>
        {
            vec![(format!("{version}_{name}.sql"), up)]
        }
        Layout::Sqlx | Layout::GolangMigrate => vec![
            (format!("{version}_{name}.up.sql"), up),
            (format!("{version}_{name}.down.sql"), down.to_owned()),
        ],
        Layout::Diesel => vec![
            (format!("{version}_{name}/up.sql"), up),
            (format!("{version}_{name}/down.sql"), down.to_owned()),
        ],
        Layout::Prisma => vec![
            (format!("{version}_{name}/migration.sql"), up),
            (format!("{version}_{name}/down.sql"), down.to_owned()),
        ],
        Layout::Dbmate => vec![(
            format!("{version}_{name}.sql"),
            format!("-- migrate:up\n{up}\n-- migrate:down\n{down}"),
        )],
        Layout::Goose => vec![(
            format!("{version}_{name}.sql"),
            format!("-- +goose Up\n{up}\n-- +goose Down\n{down}"),
        )],
        Layout::Flyway => {
            let folder = newest
                .and_then(|newest| newest.up.file.rsplit_once('/'))
                .map_or(String::new(), |(folder, _)| format!("{folder}/"));
            vec![
                (format!("{folder}V{version}__{name}.sql"), up),
                (format!("{folder}U{version}__{name}.sql"), down.to_owned()),
            ]
        }
        Layout::Sqitch => sqitch(collection, &name, now, up)?,
    };
    let files = files.into_iter().map(|(path, text)| SourceFile {
        path,
        bytes: text.into_bytes(),
    });
    Ok(files.collect())
}

/// Letters and digits in lower case, with single underscores between words.
fn snake_case(name: &str) -> Result<String, DraftError> {
    let mut found = String::with_capacity(name.len());
    let mut before_lower = false;
    for character in name.chars() {
        if character.is_ascii_alphanumeric() {
            if character.is_ascii_uppercase() && before_lower {
                found.push('_');
            }
            before_lower = character.is_ascii_lowercase();
            found.push(character.to_ascii_lowercase());
        } else {
            before_lower = false;
            if !found.is_empty() && !found.ends_with('_') {
                found.push('_');
            }
        }
    }
    found.truncate(found.trim_end_matches('_').len());
    if found.is_empty() {
        return Err(DraftError::Name { name: name.to_owned() });
    }
    Ok(found)
}

fn next_version(layout: Layout, newest: Option<&Migration>, now: Timestamp) -> Result<String, DraftError> {
    let dashes = |now: Timestamp| strftime(now, "%Y-%m-%d-%H%M%S");
    let Some(newest) = newest.map(|newest| newest.version.as_str()) else {
        return Ok(match layout {
            Layout::Diesel => format!("{}-0000", dashes(now)),
            Layout::GolangMigrate => "000001".to_owned(),
            Layout::Flyway => "1".to_owned(),
            _ => strftime(now, "%Y%m%d%H%M%S"),
        });
    };
    // diesel's first migration is 00000000000000, which is no time and tells nothing of the others.
    let digits: String = newest.chars().filter(char::is_ascii_digit).collect();
    let stamp = match (newest.contains('-'), digits.len()) {
        (true, 14) => Some(dashes(now)),
        (true, 18) => Some(format!("{}-0000", dashes(now))),
        (false, 14) if newest.len() == 14 => Some(strftime(now, "%Y%m%d%H%M%S")),
        // golang-migrate can count seconds since 1970.
        (false, 10) if layout == Layout::GolangMigrate && newest.len() == 10 && !newest.starts_with('0') => {
            Some(now.as_second().to_string())
        }
        _ => None,
    };
    let refused = || DraftError::Version {
        newest: newest.to_owned(),
    };
    let last = Version::parse(newest).ok_or_else(refused)?;
    match stamp.filter(|stamp| Version::parse(stamp).is_some_and(|stamp| stamp > last)) {
        Some(stamp) => Ok(stamp),
        None => counted_on(newest)
            .filter(|next| Version::parse(next).is_some_and(|next| next > last))
            .ok_or_else(refused),
    }
}

/// The version whose last number is one more, with as many digits as there were.
fn counted_on(version: &str) -> Option<String> {
    let start = version
        .rfind(|character: char| !character.is_ascii_digit())
        .map_or(0, |at| at + 1);
    let (head, number) = (version.get(..start)?, version.get(start..)?);
    let mut digits: Vec<u8> = number.bytes().collect();
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return String::from_utf8(digits).ok().map(|digits| format!("{head}{digits}"));
        }
        *digit = b'0';
    }
    // All nines. A timestamp in several parts has no room for another digit.
    let grown = String::from_utf8(digits).ok().map(|digits| format!("{head}1{digits}"));
    grown.filter(|_| !version.contains('-') && !number.is_empty())
}

fn strftime(now: Timestamp, format: &str) -> String {
    now.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

const DOWN: &str = "-- Take back all that the up script did, in reverse order. A rehearsal proves it.\n";

fn up_template(engine: EngineKind) -> String {
    let example = match engine {
        EngineKind::Postgres => "ALTER TABLE orders ADD COLUMN note text;",
        EngineKind::Sqlite => "ALTER TABLE orders ADD COLUMN note TEXT;",
    };
    format!(
        "-- Statements of the migration, e.g. {example}\n\
         -- Headers before the first statement, each as `-- dbkeep` with a colon, key = value:\n\
         --   depends-on = 12, 14        requires-backup = true     estimated-duration = 5m\n\
         --   lock-timeout = 3s          transaction = false        data-transformation = true\n\
         --   check-before = SELECT ..   check-after = SELECT ..    description = What it is for\n"
    )
}

fn sqitch(collection: &Collection, name: &str, now: Timestamp, up: String) -> Result<Vec<(String, String)>, DraftError> {
    let taken: HashSet<&str> = collection
        .migrations
        .iter()
        .map(|migration| migration.name.as_str())
        .collect();
    if taken.contains(name) {
        return Err(DraftError::Taken { name: name.to_owned() });
    }
    let mut plan = collection.plan.clone();
    if plan.is_empty() {
        plan.push_str("%syntax-version=1.0.0\n%project=database\n\n");
    } else if !plan.ends_with('\n') {
        plan.push('\n');
    }
    plan.push_str(&format!(
        "{name} {} dbkeep <dbkeep@localhost> # {name}\n",
        strftime(now, "%Y-%m-%dT%H:%M:%SZ")
    ));
    let verify = "-- A statement that fails where the migration is not in effect.\n".to_owned();
    Ok(vec![
        (format!("deploy/{name}.sql"), up),
        (format!("revert/{name}.sql"), DOWN.to_owned()),
        (format!("verify/{name}.sql"), verify),
        ("sqitch.plan".to_owned(), plan),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::source;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.to_owned(),
            bytes: text.as_bytes().to_vec(),
        }
    }

    fn now() -> Timestamp {
        "2024-06-01T12:30:05Z".parse().unwrap()
    }

    fn paths(files: &[SourceFile], layout: Layout, name: &str) -> Vec<String> {
        let collection = source::read(files, EngineKind::Postgres, Some(layout)).unwrap();
        let drafted = propose(&collection, name, now(), EngineKind::Postgres).unwrap();
        let mut all: Vec<SourceFile> = files.to_vec();
        all.retain(|file| file.path != "sqitch.plan");
        all.extend(drafted.clone());
        let again = source::read(&all, EngineKind::Postgres, Some(layout)).unwrap();
        assert_eq!(again.migrations.len(), collection.migrations.len() + 1);
        assert_eq!(
            again.migrations.last().map(|migration| migration.name.clone()),
            Some(snake_case(name).unwrap())
        );
        assert_eq!(again.warnings, collection.warnings);
        drafted.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn names_become_snake_case() {
        for (name, expected) in [
            ("Add Users", "add_users"),
            ("addUsersTable", "add_users_table"),
            (" --x__y!", "x_y"),
            ("HTTP2 log", "http2_log"),
        ] {
            assert_eq!(snake_case(name).as_deref(), Ok(expected));
        }
        assert!(snake_case("").is_err());
        assert!(snake_case("__ --").is_err());
    }

    #[test]
    fn an_empty_folder_gets_the_habit_of_its_layout() {
        for (layout, expected) in [
            (Layout::Sqlx, vec!["20240601123005_a.up.sql", "20240601123005_a.down.sql"]),
            (
                Layout::Diesel,
                vec!["2024-06-01-123005-0000_a/up.sql", "2024-06-01-123005-0000_a/down.sql"],
            ),
            (Layout::GolangMigrate, vec!["000001_a.up.sql", "000001_a.down.sql"]),
            (Layout::Dbmate, vec!["20240601123005_a.sql"]),
            (Layout::Goose, vec!["20240601123005_a.sql"]),
            (Layout::Flyway, vec!["V1__a.sql", "U1__a.sql"]),
            (
                Layout::Prisma,
                vec!["20240601123005_a/migration.sql", "20240601123005_a/down.sql"],
            ),
            (
                Layout::Sqitch,
                vec!["deploy/a.sql", "revert/a.sql", "verify/a.sql", "sqitch.plan"],
            ),
        ] {
            assert_eq!(paths(&[], layout, "a"), expected);
        }
    }

    #[test]
    fn numbering_is_continued() {
        for (existing, layout, expected) in [
            ("0009_x.sql", Layout::Sqlx, "0010_a.sql"),
            ("99_x.up.sql", Layout::GolangMigrate, "100_a.up.sql"),
            ("20230101000000_x.sql", Layout::Sqlx, "20240601123005_a.sql"),
            ("20990101000000_x.sql", Layout::Sqlx, "20990101000001_a.sql"),
            ("1500000000_x.up.sql", Layout::GolangMigrate, "1717245005_a.up.sql"),
            ("2017-09-23-182408_x/up.sql", Layout::Diesel, "2024-06-01-123005_a/up.sql"),
            ("00000000000000_x/up.sql", Layout::Diesel, "20240601123005_a/up.sql"),
            ("db/V1_9__x.sql", Layout::Flyway, "db/V1_10__a.sql"),
            ("V01.02__x.sql", Layout::Flyway, "V01.03__a.sql"),
            // Of the form that can be taken back, though nothing in it can.
            ("0007_x.up.sql", Layout::Sqlx, "0008_a.up.sql"),
            (
                "99999999999999999999999_x.sql",
                Layout::Sqlx,
                "100000000000000000000000_a.sql",
            ),
        ] {
            let found = paths(&[file(existing, "SELECT 1;")], layout, "a");
            assert_eq!(found.first().map(String::as_str), Some(expected), "{existing}");
        }
        let repeatable = [file("V1__x.sql", ""), file("R__zz.sql", "")];
        let collection = source::read(&repeatable, EngineKind::Sqlite, None).unwrap();
        let drafted = propose(&collection, "a", now(), EngineKind::Sqlite).unwrap();
        assert_eq!(drafted.first().map(|file| file.path.as_str()), Some("V2__a.sql"));
    }

    #[test]
    fn a_plan_is_continued() {
        let files = [file("sqitch.plan", "%project=p\n\nx"), file("deploy/x.sql", "SELECT 1;")];
        let collection = source::read(&files, EngineKind::Postgres, None).unwrap();
        let drafted = propose(&collection, "Add y", now(), EngineKind::Postgres).unwrap();
        assert_eq!(
            drafted
                .last()
                .map(|file| String::from_utf8(file.bytes.clone()).unwrap())
                .as_deref(),
            Some("%project=p\n\nx\nadd_y 2024-06-01T12:30:05Z dbkeep <dbkeep@localhost> # add_y\n")
        );
        assert_eq!(
            propose(&collection, "X", now(), EngineKind::Postgres),
            Err(DraftError::Taken { name: "x".to_owned() })
        );
    }
}
