//! Rows that grow old: columns that say when a row expires, and tables that look like logs. Pure. Called by `mod.rs`.

use super::{
    facts::{Profile, Table, text},
    names,
    relate::Relation,
    snippet::{Draft, Setting},
};
use crate::model::{Column, EngineKind, TypeClass};

/// Words that say that a row ends then.
const ENDS: [&[&str]; 14] = [
    &["expires", "at"],
    &["expires", "on"],
    &["expires"],
    &["expired", "at"],
    &["expire", "at"],
    &["expire", "date"],
    &["expiry"],
    &["expiry", "date"],
    &["expiration"],
    &["expiration", "date"],
    &["valid", "until"],
    &["valid", "to"],
    &["not", "after"],
    &["expiration", "time"],
];
/// Words of tables whose rows are worth nothing once they have expired.
const FLEETING: [&str; 17] = [
    "token",
    "session",
    "cache",
    "otp",
    "nonce",
    "challenge",
    "lock",
    "verification",
    "reset",
    "captcha",
    "state",
    "code",
    "login",
    "lease",
    "throttle",
    "limit",
    "temp",
];
/// Words that say when a row was written.
const WRITTEN: [&[&str]; 12] = [
    &["created", "at"],
    &["created", "on"],
    &["created"],
    &["logged", "at"],
    &["occurred", "at"],
    &["recorded", "at"],
    &["inserted", "at"],
    &["received", "at"],
    &["timestamp"],
    &["ts"],
    &["time"],
    &["event", "time"],
];
/// Words of tables that only grow.
const LOGS: [&str; 3] = ["log", "audit", "trace"];
/// Words of tables that often only grow.
const LIKE_LOGS: [&str; 7] = [
    "event",
    "history",
    "metric",
    "activity",
    "notification",
    "delivery",
    "webhook",
];

/// A retention that takes nothing yet.
const PLACEHOLDER: &str = "P100Y";

/// How an `expired` rule has to read a column.
struct Reading {
    settings: Vec<(&'static str, Setting)>,
    assumed: Option<&'static str>,
    known: bool,
}

fn is_one_of(column: &str, phrases: &[&[&str]]) -> bool {
    let words = names::words(column);
    phrases
        .iter()
        .any(|phrase| words.iter().map(String::as_str).eq(phrase.iter().copied()))
}

fn has_word(table: &str, words: &[&str]) -> bool {
    names::words(table)
        .iter()
        .any(|word| words.iter().any(|known| names::same_word(word, known)))
}

/// How the column holds an instant; `None` where it does not seem to.
fn reading(engine: EngineKind, column: &Column, profile: Option<&Profile>) -> Option<Reading> {
    let utc = || ("zone", Setting::Text("UTC".to_owned()));
    let zone = "The column carries no zone; UTC is assumed.";
    let encoding = |name: &str| ("encoding", Setting::Text(name.to_owned()));
    let plain = |settings, assumed, known| {
        Some(Reading {
            settings,
            assumed,
            known,
        })
    };
    match (engine, column.class) {
        (EngineKind::Postgres, TypeClass::Instant) => return plain(Vec::new(), None, true),
        (EngineKind::Postgres, TypeClass::CivilTime | TypeClass::Date) => return plain(vec![utc()], Some(zone), true),
        (EngineKind::Postgres, TypeClass::Integer | TypeClass::Real) | (EngineKind::Sqlite, _) => {}
        (EngineKind::Postgres, _) => return None,
    }
    let texts: Vec<String> = profile
        .map(|profile| profile.values.iter().filter_map(text).collect())
        .unwrap_or_default();
    let most =
        |fits: &dyn Fn(&str) -> bool| !texts.is_empty() && texts.iter().filter(|text| fits(text)).count() * 10 >= texts.len() * 9;
    let number_between =
        |least: f64, most: f64| move |text: &str| text.parse::<f64>().is_ok_and(|number| (least..most).contains(&number));
    // From 1986 to 2096.
    if column.class != TypeClass::Text && most(&number_between(5e8, 4e9)) {
        return plain(vec![encoding("unix_seconds")], None, true);
    }
    if column.class != TypeClass::Text && most(&number_between(5e11, 4e12)) {
        return plain(vec![encoding("unix_millis")], None, true);
    }
    if engine == EngineKind::Postgres || matches!(column.class, TypeClass::Integer | TypeClass::Real) {
        return None;
    }
    let is_date = |text: &str| {
        let bytes = text.as_bytes();
        bytes.len() >= 10
            && bytes[4] == b'-'
            && bytes[7] == b'-'
            && [0, 1, 2, 3, 5, 6, 8, 9].iter().all(|place| bytes[*place].is_ascii_digit())
    };
    if most(&is_date) {
        return plain(vec![utc()], Some(zone), true);
    }
    // Of an empty table nothing more can be known.
    let guess = "There are no values; text in UTC is assumed.";
    texts.is_empty().then_some(Reading {
        settings: vec![utc()],
        assumed: Some(guess),
        known: false,
    })
}

/// Proposals for columns of time.
pub(super) fn drafts(engine: EngineKind, tables: &[Table], relations: &[Relation]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (position, table) in tables.iter().enumerate() {
        let children: Vec<String> = relations
            .iter()
            .filter(|relation| relation.parent == position && relation.child != position)
            .map(|relation| format!("{}.{}", tables[relation.child].name, relation.columns.join(", ")))
            .collect();
        let mut expiring = false;
        for column in &table.schema.columns {
            if is_one_of(&column.name, &ENDS)
                && let Some(reading) = reading(engine, column, table.profile(&column.name))
            {
                expiring = true;
                drafts.push(expiry(position, table, column, reading, &children));
            }
        }
        if !expiring {
            drafts.extend(retention(engine, position, table, &children));
        }
    }
    drafts
}

fn notes(reading: &Reading, children: &[String]) -> Vec<String> {
    let mut notes: Vec<String> = reading.assumed.map(str::to_owned).into_iter().collect();
    if !children.is_empty() {
        notes.push(format!("Rows of this table are named by {}.", children.join(" and ")));
    }
    notes
}

fn expiry(position: usize, table: &Table, column: &Column, reading: Reading, children: &[String]) -> Draft {
    let fleeting = has_word(&table.name.name, &FLEETING);
    let mut evidence = vec![format!("{} says when a row expires.", column.name)];
    let mut notes = notes(&reading, children);
    if fleeting {
        evidence.push(format!("By its name {} holds what is worth nothing afterwards.", table.name));
    } else {
        notes.push("Are these rows of no use once they have expired? Their table's name does not say so.".to_owned());
    }
    let mut settings = vec![
        ("column", Setting::Text(column.name.clone())),
        ("expiry", Setting::Flag(true)),
    ];
    let sure = if fleeting { 0.95 } else { 0.6 };
    let confidence = if reading.known { sure } else { sure - 0.3 };
    settings.extend(reading.settings);
    Draft {
        kind: "expired",
        table: position,
        columns: vec![column.name.clone()],
        parent: None,
        title: "expired",
        subject: format!("{}_by_{}", table.name.name, column.name),
        description: format!("Rows of {} whose {} is past.", table.name, column.name),
        category: "EXPIRED_DATA",
        severity: if fleeting { "LOW" } else { "MEDIUM" },
        settings,
        comments: Vec::new(),
        confidence,
        evidence,
        notes,
    }
}

/// Logs are kept for a time that only their owner knows: the snippet holds a placeholder under which no row is old.
fn retention(engine: EngineKind, position: usize, table: &Table, children: &[String]) -> Option<Draft> {
    let surely = has_word(&table.name.name, &LOGS);
    if !surely && !has_word(&table.name.name, &LIKE_LOGS) || !children.is_empty() {
        return None;
    }
    // What is updated is no log.
    if is_changed_later(table) {
        return None;
    }
    let (column, reading) = dated(engine, table, &WRITTEN)?;
    let confidence = match (surely, reading.known) {
        (true, true) => 0.7,
        (false, true) => 0.5,
        (_, false) => 0.4,
    };
    let evidence = vec![
        format!(
            "By its name {} only grows, and {} says when a row was written.",
            table.name, column.name
        ),
        "No column says that rows are changed later, and no other table names its rows.".to_owned(),
    ];
    Some(kept(position, table, column, reading, children, confidence, evidence))
}

/// The first column that is called by one of these phrases and holds an instant.
fn dated<'a>(engine: EngineKind, table: &'a Table, phrases: &[&[&str]]) -> Option<(&'a Column, Reading)> {
    phrases.iter().find_map(|phrase| {
        let column = table
            .schema
            .columns
            .iter()
            .find(|column| is_one_of(&column.name, &[phrase]))?;
        Some((column, reading(engine, column, table.profile(&column.name))?))
    })
}

/// Whether a column says by its name that rows are changed after they were written.
fn is_changed_later(table: &Table) -> bool {
    table.schema.columns.iter().any(|column| {
        names::words(&column.name)
            .first()
            .is_some_and(|word| word == "updated" || word == "modified")
    })
}

/// A rule for a table that is known to grow, whatever it is called: by when its rows expire, or else by when they were written.
pub(super) fn of_grown(engine: EngineKind, table: &Table) -> Option<Draft> {
    let others = table.schema.incoming.iter().filter(|key| key.child != table.schema.name);
    let children: Vec<String> = others
        .map(|key| format!("{}.{}", key.child, key.child_columns.join(", ")))
        .collect();
    if let Some((column, reading)) = dated(engine, table, &ENDS) {
        return Some(expiry(0, table, column, reading, &children));
    }
    let (column, reading) = dated(engine, table, &WRITTEN)?;
    let confidence = if reading.known { 0.5 } else { 0.4 };
    let evidence = vec![format!("The table grows, and {} says when a row was written.", column.name)];
    let mut draft = kept(0, table, column, reading, &children, confidence, evidence);
    if is_changed_later(table) {
        draft
            .notes
            .push("Rows are changed after they were written: is their age a reason for them to go?".to_owned());
    }
    Some(draft)
}

/// A rule that keeps rows for a time that only their owner knows.
fn kept(
    position: usize,
    table: &Table,
    column: &Column,
    reading: Reading,
    children: &[String],
    confidence: f64,
    evidence: Vec<String>,
) -> Draft {
    let mut notes = notes(&reading, children);
    notes.push(format!(
        "PLACEHOLDER: retention is {PLACEHOLDER}, so that nothing goes; set how long these rows must be kept."
    ));
    let mut settings = vec![
        ("column", Setting::Text(column.name.clone())),
        ("retention", Setting::Text(PLACEHOLDER.to_owned())),
    ];
    settings.extend(reading.settings);
    Draft {
        kind: "expired",
        table: position,
        columns: vec![column.name.clone()],
        parent: None,
        title: "old",
        subject: format!("{}_by_{}", table.name.name, column.name),
        description: format!("Rows of {} whose {} is older than you keep them.", table.name, column.name),
        category: "LOGS",
        severity: "MEDIUM",
        settings,
        comments: vec![("retention", "PLACEHOLDER: set how long these rows must be kept")],
        confidence,
        evidence,
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discover::score::Telling,
        model::{Generated, Value},
    };

    fn read(engine: EngineKind, class: TypeClass, values: &[&str]) -> Option<Vec<String>> {
        let column = Column {
            name: "c".into(),
            type_name: String::new(),
            class,
            nullable: true,
            generated: Generated::No,
        };
        let profile = Profile {
            values: values.iter().map(|value| Value::Text(value.as_bytes().to_vec())).collect(),
            counts: vec![1; values.len()],
            nulls: 0,
            telling: Telling::Weak,
        };
        reading(engine, &column, Some(&profile))
            .map(|reading| reading.settings.iter().map(|setting| format!("{setting:?}")).collect())
    }

    #[test]
    fn a_column_of_time_is_told_by_its_values_where_its_type_does_not() {
        use EngineKind::{Postgres, Sqlite};
        let has = |found: Option<Vec<String>>, part: &str| {
            found.is_some_and(|settings| settings.iter().any(|setting| setting.contains(part)))
        };
        assert_eq!(read(Postgres, TypeClass::Instant, &[]), Some(Vec::new()));
        assert!(has(read(Postgres, TypeClass::CivilTime, &[]), "UTC"));
        assert!(has(read(Postgres, TypeClass::Integer, &["1700000000"]), "unix_seconds"));
        assert!(has(read(Sqlite, TypeClass::Integer, &["1700000000000"]), "unix_millis"));
        assert!(has(read(Sqlite, TypeClass::Text, &["2024-01-01 00:00:00"]), "UTC"));
        assert!(has(read(Sqlite, TypeClass::Other, &["1700000000"]), "unix_seconds"));
        for (engine, class, value) in [
            (Postgres, TypeClass::Integer, "30"),
            (Postgres, TypeClass::Text, "2024-01-01"),
            (Sqlite, TypeClass::Integer, "30"),
            (Sqlite, TypeClass::Text, "never"),
            (Sqlite, TypeClass::Real, "2460310.5"),
        ] {
            assert_eq!(read(engine, class, &[value]), None, "{value}");
        }
    }

    #[test]
    fn words_are_whole_words() {
        assert!(is_one_of("expiresAt", &ENDS) && is_one_of("valid_until", &ENDS) && !is_one_of("expires_in", &ENDS));
        assert!(has_word("refresh_tokens", &FLEETING) && has_word("api_logs", &LOGS) && !has_word("blogs", &LOGS));
    }
}
