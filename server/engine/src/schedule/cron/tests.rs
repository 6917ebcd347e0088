use std::collections::BTreeSet;

use jiff::{Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::*;

fn fields(expression: &str) -> CronFields {
    CronFields::from_expression(expression).expect(expression)
}

fn cron(expression: &str) -> Cron {
    Cron::parse(&fields(expression)).expect(expression)
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

fn in_utc(expression: &str, after: &str, limit: usize) -> Vec<String> {
    let end = Timestamp::MAX;
    let found = cron(expression).occurrences_between(&TimeZone::UTC, DstPolicy::default(), at(after), end, limit);
    found
        .iter()
        .map(|occurrence| occurrence.local.strftime("%Y-%m-%d %H:%M").to_string())
        .collect()
}

/// Local time, and offset, of each occurrence of some days; with a mark where the clock had a say.
fn in_zone(expression: &str, zone: &str, dst: DstPolicy, from: &str, to: &str) -> Vec<String> {
    let zone = super::super::zone(zone).expect("a zone");
    let found = cron(expression).occurrences_between(&zone, dst, at(from), at(to), 100);
    found
        .iter()
        .map(|occurrence| {
            let mark = match &occurrence.shift {
                None => String::new(),
                Some(Shift::Gap { wanted, .. }) => format!(" for {}", wanted.strftime("%H:%M")),
                Some(Shift::Skipped { wanted, .. }) => format!(" not for {}", wanted.strftime("%H:%M")),
                Some(Shift::FoldFirst) => " first".to_owned(),
                Some(Shift::FoldSecond) => " second".to_owned(),
            };
            format!("{}{mark}", occurrence.at.to_zoned(zone.clone()).strftime("%d %H:%M%:z"))
        })
        .collect()
}

const SHIFTED_ONCE: DstPolicy = DstPolicy {
    gap: GapPolicy::RunShifted,
    fold: FoldPolicy::Once,
};
const SKIPPED_TWICE: DstPolicy = DstPolicy {
    gap: GapPolicy::Skip,
    fold: FoldPolicy::Twice,
};

#[test]
fn every_way_to_write_a_field_names_what_it_should() {
    let cases: [(&str, &str, usize, &[&str]); 12] = [
        (
            "0 2 * * *",
            "2026-11-27T00:00:00Z",
            2,
            &["2026-11-27 02:00", "2026-11-28 02:00"],
        ),
        // 2026-11-27 is a Friday.
        (
            "0 1 * * 0",
            "2026-11-27T00:00:00Z",
            2,
            &["2026-11-29 01:00", "2026-12-06 01:00"],
        ),
        ("0 1 * * 7", "2026-11-27T00:00:00Z", 1, &["2026-11-29 01:00"]),
        ("0 1 * * sun", "2026-11-27T00:00:00Z", 1, &["2026-11-29 01:00"]),
        (
            "0 1 * * FRI-MON",
            "2026-11-27T02:00:00Z",
            4,
            &["2026-11-28 01:00", "2026-11-29 01:00", "2026-11-30 01:00", "2026-12-04 01:00"],
        ),
        (
            "0 1 * * 5-7",
            "2026-11-27T02:00:00Z",
            3,
            &["2026-11-28 01:00", "2026-11-29 01:00", "2026-12-04 01:00"],
        ),
        (
            "0 1 * * 7-2",
            "2026-11-27T02:00:00Z",
            3,
            &["2026-11-29 01:00", "2026-11-30 01:00", "2026-12-01 01:00"],
        ),
        (
            "0 3 1 jan,JUL *",
            "2026-11-27T00:00:00Z",
            2,
            &["2027-01-01 03:00", "2027-07-01 03:00"],
        ),
        (
            "*/25 22-23 * * *",
            "2026-11-27T00:00:00Z",
            4,
            &["2026-11-27 22:00", "2026-11-27 22:25", "2026-11-27 22:50", "2026-11-27 23:00"],
        ),
        (
            "1-59/29 0 * * *",
            "2026-11-27T00:00:00Z",
            3,
            &["2026-11-27 00:01", "2026-11-27 00:30", "2026-11-27 00:59"],
        ),
        (
            "0 0 29 2 *",
            "2026-11-27T00:00:00Z",
            2,
            &["2028-02-29 00:00", "2032-02-29 00:00"],
        ),
        // With a star in front it is AND, and Sundays on a 29th of February are 28 years apart.
        (
            "0 0 29 2 */7",
            "2026-11-27T00:00:00Z",
            2,
            &["2032-02-29 00:00", "2060-02-29 00:00"],
        ),
    ];
    for (expression, after, limit, expected) in cases {
        assert_eq!(in_utc(expression, after, limit), expected, "{expression}");
    }
}

#[test]
fn either_day_field_makes_a_day_count_unless_one_starts_with_a_star() {
    // Friday the 27th: every Friday, and every 13th.
    assert_eq!(
        in_utc("0 0 13 * FRI", "2026-11-28T00:00:00Z", 4),
        ["2026-12-04 00:00", "2026-12-11 00:00", "2026-12-13 00:00", "2026-12-18 00:00"]
    );
    // Fridays with an odd date.
    assert_eq!(
        in_utc("0 0 */2 * FRI", "2026-11-28T00:00:00Z", 3),
        ["2026-12-11 00:00", "2026-12-25 00:00", "2027-01-01 00:00"]
    );
    // A date that never comes takes nothing from the weekdays.
    assert_eq!(in_utc("0 0 30 2 MON", "2026-11-28T00:00:00Z", 1), ["2027-02-01 00:00"]);
    // The whole range written out is not a star: it makes every day count.
    assert_eq!(
        in_utc("0 0 1-31 * FRI", "2026-11-28T00:00:00Z", 2),
        ["2026-11-29 00:00", "2026-11-30 00:00"]
    );
}

#[test]
fn everything_that_is_wrong_is_said_in_one_answer() {
    let wrong = CronFields {
        minute: "60".to_owned(),
        hour: "5-1".to_owned(),
        day_of_month: "1,,2,32".to_owned(),
        month: "JUNE".to_owned(),
        day_of_week: "MOON".to_owned(),
    };
    let problems = Cron::parse(&wrong).expect_err("wrong");
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "minute: \"60\" is out of range; expected 0 to 59",
            "hour: \"5-1\" runs backwards; did you mean 1-5, or 5-23,0-1?",
            "day_of_month: \"1,,2,32\" has an empty place in its list; expected a value between commas",
            "day_of_month: \"32\" is out of range; expected 1 to 31",
            "month: \"JUNE\" is no value; expected 1 to 12, or JAN to DEC; did you mean JUN?",
            "day_of_week: \"MOON\" is no value; expected 0 to 7, or SUN to SAT; did you mean MON?",
        ]
    );
}

#[test]
fn a_field_that_is_no_field_is_refused_with_what_was_expected() {
    let cases = [
        (FieldKind::Minute, "", "is empty; expected 0 to 59, or *"),
        (FieldKind::Minute, "*/0", "expected 1 to 60; a step of 0 never moves on"),
        (FieldKind::Minute, "*/90", "expected 1 to 60"),
        (FieldKind::Minute, "*/x", "the step \"x\"; expected 1 to 60"),
        (FieldKind::Minute, "*/", "the step \"\"; expected 1 to 60"),
        (FieldKind::Minute, "*/5/5", "has two steps"),
        (FieldKind::Minute, "5/15", "did you mean 5-59/15?"),
        (FieldKind::Minute, "1 2", "has spaces in it"),
        (FieldKind::Minute, "-5", "lacks a value"),
        (FieldKind::Minute, "5-", "lacks a value"),
        (FieldKind::Minute, "1-2-3", "\"2-3\" in \"1-2-3\" is no value"),
        (FieldKind::Minute, "**", "\"**\" is no value"),
        (FieldKind::Minute, "*-5", "\"*\" in \"*-5\" is no value"),
        (FieldKind::Minute, "+5", "\"+5\" is no value"),
        (FieldKind::Minute, "٣", "is no value"),
        (FieldKind::Minute, "99999999999999999999", "is out of range"),
        (FieldKind::Minute, "@daily", "stands for a whole expression"),
        (FieldKind::Hour, "24", "expected 0 to 23"),
        (FieldKind::DayOfMonth, "0", "expected 1 to 31"),
        (FieldKind::DayOfMonth, "L", "L (the last day"),
        (FieldKind::DayOfMonth, "LW", "L (the last day"),
        (FieldKind::DayOfMonth, "L-3", "L (the last day"),
        (FieldKind::DayOfMonth, "15W", "W (the working day"),
        (FieldKind::DayOfMonth, "?", "did you mean *?"),
        (FieldKind::Month, "0", "expected 1 to 12, or JAN to DEC"),
        (FieldKind::Month, "13", "expected 1 to 12"),
        (FieldKind::Month, "JUL-FEB", "did you mean FEB-JUL, or JUL-12,1-FEB?"),
        (FieldKind::DayOfWeek, "8", "expected 0 to 7, or SUN to SAT"),
        (FieldKind::DayOfWeek, "5L", "L (the last day"),
        (FieldKind::DayOfWeek, "FRIL", "L (the last day"),
        (FieldKind::DayOfWeek, "FRI#2", "# (the n-th weekday"),
        (FieldKind::DayOfWeek, "Monday", "did you mean MON?"),
        (FieldKind::DayOfWeek, "thurs-fri", "did you mean THU?"),
    ];
    for (kind, text, expected) in cases {
        let problems = field::parse(kind, text).expect_err(text);
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{text:?}: {problems:?}"
        );
    }
    for month in ["JUL", "jul", "Jul"] {
        assert!(field::parse(FieldKind::Month, month).is_ok(), "a name with an L in it");
    }
    assert!(field::parse(FieldKind::DayOfWeek, "WED").is_ok(), "a name with a W in it");
}

#[test]
fn expressions_are_five_fields_or_a_name() {
    for (alias, meaning) in ALIASES {
        assert_eq!(fields(alias).to_expression(), meaning);
        assert_eq!(fields(&alias.to_uppercase()), fields(meaning));
    }
    for (text, expected) in [
        (
            "0 0 2 * * *",
            "has 6 fields; expected 5: minute hour day_of_month month day_of_week; seconds are not supported",
        ),
        ("0 0 2 * * * 2026", "has 7 fields"),
        ("0 2 * *", "has 4 fields"),
        ("", "has 0 fields"),
        ("@reboot", "names the start of a machine"),
        ("@dayly", "did you mean @daily?"),
        ("@every 5m", "is no alias"),
    ] {
        let problems = CronFields::from_expression(text).expect_err(text);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].field, "expression");
        assert!(problems[0].problem.contains(expected), "{text}: {problems:?}");
    }
    assert_eq!(fields("  0   2 * *\t* ").to_expression(), "0 2 * * *");
}

#[test]
fn days_that_never_come_are_refused() {
    for expression in [
        "0 0 30 feb *",
        "0 0 30 2 *",
        "0 0 31 4 *",
        "0 0 31 4,6,9,11 *",
        "0 0 30,31 2 */2",
        "0 0 31 2 */7",
    ] {
        let problems = Cron::parse(&fields(expression)).expect_err(expression);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].field, "day_of_month");
        assert!(problems[0].problem.starts_with("never fires"), "{problems:?}");
    }
    for expression in ["0 0 29 2 *", "0 0 31 4,5 *", "0 0 30 2 MON", "0 0 31 * *"] {
        assert!(
            cron(expression)
                .next_after(&TimeZone::UTC, DstPolicy::default(), Timestamp::UNIX_EPOCH)
                .is_some()
        );
    }
}

#[test]
fn a_skipped_fixed_time_comes_at_the_first_instant_after_or_not_at_all() {
    // In Berlin 02:00 to 03:00 is skipped on 2026-03-29.
    let berlin = |expression, dst| {
        in_zone(
            expression,
            "Europe/Berlin",
            dst,
            "2026-03-27T22:00:00Z",
            "2026-03-30T12:00:00Z",
        )
    };
    assert_eq!(
        berlin("30 2 * * *", SHIFTED_ONCE),
        ["28 02:30+01:00", "29 03:00+02:00 for 02:30", "30 02:30+02:00"]
    );
    assert_eq!(
        berlin("30 2 * * *", SKIPPED_TWICE),
        ["28 02:30+01:00", "29 03:00+02:00 not for 02:30", "30 02:30+02:00"],
        "what is skipped is said"
    );
    // Several that fall together happen once, also with one that is there anyway.
    assert_eq!(
        berlin("0,30 2,3 29 * *", SHIFTED_ONCE),
        ["29 03:00+02:00 for 02:00", "29 03:30+02:00"]
    );
    assert_eq!(berlin("0,30 2,3 29 * *", SKIPPED_TWICE), ["29 03:00+02:00", "29 03:30+02:00"]);
    let said = cron("30 2 * * *").next_after(
        &super::super::zone("Europe/Berlin").expect("a zone"),
        SKIPPED_TWICE,
        at("2026-03-28T12:00:00Z"),
    );
    let said = said.expect("an occurrence");
    assert!(!said.fires());
    assert_eq!(
        said.shift.expect("a shift").to_string(),
        "02:30 does not exist on 2026-03-29 in Europe/Berlin, where the clock goes forward, and this schedule skips such a time (gap = skip)"
    );
    // By real time there is no hole.
    assert_eq!(
        berlin("0 */1 29 * *", SHIFTED_ONCE)[..4],
        ["29 00:00+01:00", "29 01:00+01:00", "29 03:00+02:00", "29 04:00+02:00"]
    );
    let days = in_zone(
        "0 9 * * *",
        "Pacific/Apia",
        SHIFTED_ONCE,
        "2011-12-28T12:00:00Z",
        "2012-01-01T12:00:00Z",
    );
    assert_eq!(
        days,
        [
            "28 09:00-10:00",
            "29 09:00-10:00",
            "31 00:00+14:00 for 09:00",
            "31 09:00+14:00",
            "01 09:00+14:00"
        ],
        "a whole day was skipped"
    );
}

#[test]
fn a_fixed_time_that_comes_twice_happens_once_or_twice() {
    // In Berlin 02:00 to 03:00 comes twice on 2026-10-25.
    let berlin = |expression, dst| {
        in_zone(
            expression,
            "Europe/Berlin",
            dst,
            "2026-10-24T12:00:00Z",
            "2026-10-26T12:00:00Z",
        )
    };
    assert_eq!(berlin("30 2 * * *", SHIFTED_ONCE), ["25 02:30+02:00 first", "26 02:30+01:00"]);
    assert_eq!(
        berlin("0,30 2 25 * *", SKIPPED_TWICE),
        [
            "25 02:00+02:00 first",
            "25 02:30+02:00 first",
            "25 02:00+01:00 second",
            "25 02:30+01:00 second"
        ],
        "in the order of real time"
    );
    assert_eq!(
        berlin("0 * 25 * *", SHIFTED_ONCE)[1..5],
        [
            "25 01:00+02:00",
            "25 02:00+02:00 first",
            "25 02:00+01:00 second",
            "25 03:00+01:00"
        ],
        "by real time"
    );
    // Half an hour: 01:30 to 02:00 comes twice.
    assert_eq!(
        in_zone(
            "*/30 1-2 5 4 *",
            "Australia/Lord_Howe",
            SHIFTED_ONCE,
            "2026-04-04T12:00:00Z",
            "2026-04-05T12:00:00Z"
        ),
        [
            "05 01:00+11:00",
            "05 01:30+11:00 first",
            "05 01:30+10:30 second",
            "05 02:00+10:30",
            "05 02:30+10:30"
        ]
    );
}

#[test]
fn a_shift_is_explained_in_a_sentence() {
    let zone = super::super::zone("Europe/Berlin").expect("a zone");
    let told = |expression: &str, after: &str| {
        let occurrence = cron(expression)
            .next_after(&zone, DstPolicy::default(), at(after))
            .expect("one");
        occurrence.shift.expect("shifted").to_string()
    };
    assert_eq!(
        told("30 2 * * *", "2026-03-28T12:00:00Z"),
        "02:30 does not exist on 2026-03-29 in Europe/Berlin, where the clock goes forward: this is the first instant after"
    );
    assert_eq!(
        told("30 2 * * *", "2026-10-24T12:00:00Z"),
        "the clock goes back and shows this time twice: this is the first time"
    );
}

#[test]
fn the_answer_is_strictly_after_the_question() {
    let next = |after: &str| {
        let found = cron("0 2 * * *").next_after(&TimeZone::UTC, DstPolicy::default(), at(after));
        found.expect("one").at.to_string()
    };
    assert_eq!(next("2026-11-27T01:59:59.999999999Z"), "2026-11-27T02:00:00Z");
    assert_eq!(next("2026-11-27T02:00:00Z"), "2026-11-28T02:00:00Z");
    assert_eq!(next("2026-11-27T02:00:00.000000001Z"), "2026-11-28T02:00:00Z");
    assert_eq!(
        next("1969-12-31T01:59:59.5Z"),
        "1970-01-01T02:00:00Z",
        "the calendar begins with 1970"
    );
    assert_eq!(
        cron("0 2 * * *").next_after(&TimeZone::UTC, DstPolicy::default(), at("2100-12-31T02:00:00Z")),
        None,
        "and ends with 2100"
    );
}

#[test]
fn the_last_occurrence_is_found_by_halving() {
    let zone = super::super::zone("America/New_York").expect("a zone");
    let (from, to) = (at("2016-11-27T00:00:00Z"), at("2026-11-27T13:14:15.5Z"));
    for (expression, expected) in [
        ("* * * * *", Some("2026-11-27T13:14:00Z")),
        ("0 0 29 2 *", Some("2024-02-29T05:00:00Z")),
        ("* * * 1 *", Some("2026-02-01T04:59:00Z")),
        ("14 8 * * *", Some("2026-11-27T13:14:00Z")),
        ("15 8 * * *", Some("2026-11-26T13:15:00Z")),
    ] {
        let before = ASKED.get();
        let found = cron(expression).last_between(&zone, DstPolicy::default(), from, to);
        let asked = ASKED.get() - before;
        assert_eq!(found.map(|found| found.at.to_string()).as_deref(), expected, "{expression}");
        assert!(asked < 400, "{expression}: the calendar was asked {asked} times");
    }
    let none = cron("0 0 29 2 *").last_between(&zone, DstPolicy::default(), at("2025-01-01T00:00:00Z"), to);
    assert_eq!(none, None);
    assert_eq!(
        cron("* * * * *").last_between(&zone, DstPolicy::default(), to, from),
        None,
        "a clock that went back"
    );
}

/// A small generator with a seed, so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn field(&mut self, least: u64, most: u64, star: bool) -> String {
        let span = most - least + 1;
        match self.below(if star { 6 } else { 3 }) {
            0 => (least + self.below(span)).to_string(),
            1 => {
                let (one, other) = (least + self.below(span), least + self.below(span));
                format!("{}-{}/{}", one.min(other), one.max(other), 1 + self.below(5))
            }
            2 => {
                let values: BTreeSet<u64> = (0..3).map(|_| least + self.below(span)).collect();
                values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            3 => format!("*/{}", 2 + self.below(10).min(span - 2)),
            _ => "*".to_owned(),
        }
    }
}

/// Where the two agree on what is meant: day fields are a plain star or have none. For a field such as `*/2` beside a restricted one
/// croner takes OR, and this crate AND, as Vixie's cron does. Numbers of weekdays that run over Saturday, and 7 at the end of a
/// range, are ours alone, too.
#[test]
fn croner_is_of_the_same_opinion() {
    let seed = 0x5eed_2026;
    println!("seed {seed:#x}");
    let mut numbers = Numbers(seed);
    let mut compared = 0;
    let mut never = 0;
    for _ in 0..2_000 {
        let day = |numbers: &mut Numbers, least, most| {
            if numbers.below(2) == 0 {
                "*".to_owned()
            } else {
                numbers.field(least, most, false)
            }
        };
        let expression = format!(
            "{} {} {} {} {}",
            numbers.field(0, 59, true),
            numbers.field(0, 23, true),
            day(&mut numbers, 1, 31),
            numbers.field(1, 12, true),
            day(&mut numbers, 0, 6),
        );
        let Ok(ours) = Cron::parse(&fields(&expression)) else {
            never += 1;
            continue;
        };
        let theirs: croner::Cron = expression.parse().expect(&expression);
        let mut after = Timestamp::from_second(i64::try_from(numbers.below(2_000_000_000)).expect("small")).expect("an instant");
        for _ in 0..8 {
            let found = ours.next_after(&TimeZone::UTC, DstPolicy::default(), after).expect("one");
            let asked = chrono::DateTime::from_timestamp(after.as_second(), 0).expect("an instant");
            let expected = theirs.find_next_occurrence(&asked, false).expect(&expression);
            assert_eq!(found.at.as_second(), expected.timestamp(), "{expression} after {after}");
            after = found.at;
            compared += 1;
        }
    }
    println!("{compared} occurrences compared, {never} expressions that never fire");
    assert!(compared > 10_000 && never < 400);
}

fn any_field(least: u8, most: u8) -> impl Strategy<Value = String> {
    let value = least..=most;
    let element = prop_oneof![
        Just("*".to_owned()),
        (1..=most - least + 1).prop_map(|step| format!("*/{step}")),
        value.clone().prop_map(|value| value.to_string()),
        (value.clone(), value, 1..=5_u8)
            .prop_map(|(one, other, step)| { format!("{}-{}/{step}", one.min(other), one.max(other)) }),
    ];
    proptest::collection::vec(element, 1..4).prop_map(|elements| elements.join(","))
}

fn any_fields() -> impl Strategy<Value = CronFields> {
    // Days up to the 28th, which every month has.
    (
        any_field(0, 59),
        any_field(0, 23),
        any_field(1, 28),
        any_field(1, 12),
        any_field(0, 6),
    )
        .prop_map(|(minute, hour, day_of_month, month, day_of_week)| CronFields {
            minute,
            hour,
            day_of_month,
            month,
            day_of_week,
        })
}

proptest! {
    #[test]
    fn an_expression_is_read_as_it_was_written(written in any_fields()) {
        prop_assert_eq!(&CronFields::from_expression(&written.to_expression()), &Ok(written.clone()));
        prop_assert!(Cron::parse(&written).is_ok());
        let stored = serde_json::to_string(&written).expect("json");
        prop_assert_eq!(serde_json::from_str::<CronFields>(&stored).expect("the same"), written);
    }

    #[test]
    fn no_text_brings_the_reader_down(text in "\\PC{0,40}", field in "[-0-9A-Za-z*/,#?@ ]{0,12}") {
        if let Ok(read) = CronFields::from_expression(&text) {
            let _ = Cron::parse(&read);
        }
        let _ = Cron::parse(&CronFields { minute: field.clone(), day_of_week: field, ..CronFields::default() });
    }

    /// From any instant on, in a zone with half-hour changes: asked one by one and asked for all is the same, and only goes up.
    #[test]
    fn asking_again_goes_on_where_it_was(written in any_fields(), second in 0_i64..2_000_000_000, twice in any::<bool>()) {
        let zone = super::super::zone("Australia/Lord_Howe").expect("a zone");
        let dst = if twice { SKIPPED_TWICE } else { SHIFTED_ONCE };
        let cron = Cron::parse(&written).expect("valid");
        let start = Timestamp::from_second(second).expect("an instant");
        let all = cron.occurrences_between(&zone, dst, start, Timestamp::MAX, 20);
        let mut after = start;
        for occurrence in all {
            prop_assert!(occurrence.at > after);
            let next = cron.next_after(&zone, dst, after);
            prop_assert_eq!(next.as_ref(), Some(&occurrence));
            let last = cron.last_between(&zone, dst, start, occurrence.at);
            prop_assert_eq!(last.as_ref(), Some(&occurrence));
            after = occurrence.at;
        }
    }
}
