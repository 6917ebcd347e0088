//! Time zones by name: those of the machine's database or, where it has none, those that come with the program.

use jiff::tz::{self, TimeZone};

use super::FieldProblem;
use crate::spelling;

/// The zone of a name of the IANA database, in any case.
///
/// # Errors
/// The problem of field `timezone`, with a name that is near.
pub fn zone(name: &str) -> Result<TimeZone, FieldProblem> {
    const EXPECTED: &str = "expected a name of the IANA time zone database such as UTC or Europe/Berlin";
    let problem = |text: String| FieldProblem::new("timezone", text);
    if name.is_empty() {
        return Err(problem(format!("is empty; {EXPECTED}")));
    }
    // The database has a zone for "nobody knows where", which nobody can mean.
    match TimeZone::get(name) {
        Ok(zone) if !zone.is_unknown() => return Ok(zone),
        _ => {}
    }
    let names: Vec<String> = tz::db().available().map(|name| name.to_string()).collect();
    let near = near(&names, name).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(problem(format!("there is no time zone {name:?}; {EXPECTED}{near}")))
}

/// A name whose last part was written alone, or the one that is spelt most alike.
fn near<'a>(names: &'a [String], written: &str) -> Option<&'a str> {
    let city = written.trim().replace(' ', "_");
    let place = |name: &&String| {
        name.rsplit_once('/')
            .is_some_and(|(_, last)| last.eq_ignore_ascii_case(&city))
    };
    // "Etc/GMT" and the like are nobody's city.
    let by_place = names.iter().filter(place).find(|name| !name.starts_with("Etc/"));
    by_place
        .map(String::as_str)
        .or_else(|| spelling::nearest(names.iter().map(String::as_str), &city))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZoneDatabase;

    use super::*;

    #[test]
    fn zones_come_with_the_program() {
        let bundled = TimeZoneDatabase::bundled();
        assert!(bundled.available().count() > 400, "the bundled database is part of the build");
        for name in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
            assert!(bundled.get(name).is_ok(), "{name}");
            assert!(zone(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn unknown_zones_are_refused_with_what_was_meant() {
        let cases = [
            ("Europe/Berln", "did you mean Europe/Berlin?"),
            ("Berlin", "did you mean Europe/Berlin?"),
            ("new york", "did you mean America/New_York?"),
            ("America/Los Angeles", "did you mean America/Los_Angeles?"),
            ("", "is empty"),
        ];
        for (name, expected) in cases {
            let problem = zone(name).expect_err(name);
            assert_eq!(problem.field, "timezone");
            assert!(problem.problem.contains(expected), "{name}: {problem}");
        }
        let stranger = zone("Middle-earth/Shire").expect_err("nowhere");
        assert!(!stranger.problem.contains("did you mean"), "{stranger}");
        assert!(zone("Etc/Unknown").is_err(), "a zone that says it is none");
        assert_eq!(zone("europe/berlin").expect("in any case").iana_name(), Some("Europe/Berlin"));
    }
}
