//! One field of a cron expression: its text to the set of values that it names, with everything that is wrong about it.

use crate::spelling;

/// The five fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    Minute,
    Hour,
    DayOfMonth,
    Month,
    DayOfWeek,
}

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
/// In the order of their numbers.
pub(super) const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl FieldKind {
    pub(super) const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day_of_month",
            Self::Month => "month",
            Self::DayOfWeek => "day_of_week",
        }
    }

    fn least(self) -> u8 {
        match self {
            Self::Minute | Self::Hour | Self::DayOfWeek => 0,
            Self::DayOfMonth | Self::Month => 1,
        }
    }

    /// The greatest value that may be written; 7 is another name of Sunday.
    fn most(self) -> u8 {
        match self {
            Self::Minute => 59,
            Self::Hour => 23,
            Self::DayOfMonth => 31,
            Self::Month => 12,
            Self::DayOfWeek => 7,
        }
    }

    /// How many values there are.
    fn count(self) -> u8 {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::DayOfMonth => 31,
            Self::Month => 12,
            Self::DayOfWeek => 7,
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &WEEKDAYS,
            Self::Minute | Self::Hour | Self::DayOfMonth => &[],
        }
    }

    /// What a value may be, in words.
    fn expected(self) -> String {
        let numbers = format!("{} to {}", self.least(), self.most());
        match self.names() {
            [first, .., last] => format!("{numbers}, or {first} to {last}"),
            _ => numbers,
        }
    }
}

/// The values that a field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Values {
    /// One bit for each; Sunday is 0.
    bits: u64,
    /// Whether the field starts with `*`, also as `*/2`: the mark of a wildcard in every cron since Vixie's.
    pub(super) starred: bool,
}

impl Values {
    pub(super) fn contains(self, value: u8) -> bool {
        value < 64 && self.bits & (1 << value) != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |value| self.contains(*value))
    }
}

/// Reads a field.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn parse(kind: FieldKind, text: &str) -> Result<Values, Vec<String>> {
    let text = text.trim();
    if text.is_empty() {
        return Err(vec![format!("is empty; expected {}, or *", kind.expected())]);
    }
    if text.starts_with('@') {
        return Err(vec![format!(
            "{text:?} stands for a whole expression; expected {}, or *",
            kind.expected()
        )]);
    }
    if text.contains(char::is_whitespace) {
        return Err(vec![format!(
            "{text:?} has spaces in it; expected one field, as in 1,2 or 1-5"
        )]);
    }
    let mut bits = 0;
    let mut problems = Vec::new();
    for element in text.split(',') {
        match parse_element(kind, element) {
            Ok(found) => bits |= found,
            Err(_) if element.is_empty() => {
                let problem = format!("{text:?} has an empty place in its list; expected a value between commas");
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Values {
        bits,
        starred: text.starts_with('*'),
    })
}

fn parse_element(kind: FieldKind, element: &str) -> Result<u64, Vec<String>> {
    if let Some(problem) = foreign(kind, element) {
        return Err(vec![problem]);
    }
    let mut parts = element.split('/');
    let base = parts.next().unwrap_or_default();
    let step = parts.next();
    if parts.next().is_some() {
        return Err(vec![format!("{element:?} has two steps; expected one, as in */5")]);
    }
    let mut problems = Vec::new();
    let range = range(kind, base, element, step).map_err(|found| problems.extend(found)).ok();
    let step = match step {
        None => Some(1),
        Some(step) => match step.parse::<u8>() {
            Ok(number) if is_number(step) && (1..=kind.count()).contains(&number) => Some(number),
            _ => {
                problems.push(format!(
                    "{element:?} has the step {step:?}; expected 1 to {}{}",
                    kind.count(),
                    // The next thing that people try after "every 90 minutes".
                    if is_number(step) && step.trim_start_matches('0').is_empty() {
                        "; a step of 0 never moves on"
                    } else {
                        ""
                    }
                ));
                None
            }
        },
    };
    let (Some((first, last)), Some(step)) = (range, step) else {
        return Err(problems);
    };
    Ok((first..=last).step_by(usize::from(step)).fold(0, |bits, value| {
        // A range of weekdays runs on beyond Saturday.
        let value = if kind == FieldKind::DayOfWeek { value % 7 } else { value };
        bits | 1 << value
    }))
}

/// First and last value of an element. Those of weekdays may run on beyond 6.
fn range(kind: FieldKind, base: &str, element: &str, step: Option<&str>) -> Result<(u8, u8), Vec<String>> {
    if base == "*" {
        return Ok((kind.least(), kind.least() + (kind.count() - 1)));
    }
    let Some((from, to)) = base.split_once('-') else {
        let value = value(kind, base, element).map_err(|problem| vec![problem])?;
        // What this means differs between the crons there are: once, or from there to the end.
        if let Some(step) = step {
            return Err(vec![format!(
                "{element:?} has a step without a range; did you mean {base}-{}/{step}?",
                kind.most()
            )]);
        }
        return Ok((value, value));
    };
    let (first, last) = match (value(kind, from, element), value(kind, to, element)) {
        (Ok(first), Ok(last)) => (first, last),
        (first, last) => return Err([first.err(), last.err()].into_iter().flatten().collect()),
    };
    if first <= last {
        return Ok((first, last));
    }
    if kind == FieldKind::DayOfWeek {
        // FRI-MON; and 7-2 is 0-2.
        return Ok(if first == 7 { (0, last) } else { (first, last + 7) });
    }
    Err(vec![format!(
        "{element:?} runs backwards; did you mean {to}-{from}, or {from}-{},{}-{to}?",
        kind.most(),
        kind.least()
    )])
}

fn value(kind: FieldKind, text: &str, element: &str) -> Result<u8, String> {
    let whole = if text == element {
        String::new()
    } else {
        format!(" in {element:?}")
    };
    if text.is_empty() {
        return Err(format!("{element:?} lacks a value; expected {}", kind.expected()));
    }
    if is_number(text) {
        return match text.parse::<u8>() {
            Ok(number) if (kind.least()..=kind.most()).contains(&number) => Ok(number),
            _ => Err(format!("{text:?}{whole} is out of range; expected {}", kind.expected())),
        };
    }
    let names = kind.names();
    if let Some(position) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return u8::try_from(position)
            .map(|position| position + kind.least())
            .map_err(|error| error.to_string());
    }
    // "Monday" is near to nothing, and yet plain.
    let written_out = names
        .iter()
        .find(|name| text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(name)));
    let near = written_out.map_or_else(
        || spelling::suggestion(names.iter().copied(), text),
        |name| format!("; did you mean {name}?"),
    );
    Err(format!("{text:?}{whole} is no value; expected {}{near}", kind.expected()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Marks of other crons, refused by name: to take `15W` for 15 would fire on the wrong day.
fn foreign(kind: FieldKind, element: &str) -> Option<String> {
    let upper = element.to_ascii_uppercase();
    let base = upper.split(['/', '-']).next().unwrap_or_default();
    let is_day = |text: &str| is_number(text) || WEEKDAYS.contains(&text);
    if element.contains('?') {
        return Some(format!("{element:?}: ? is not supported; did you mean *?"));
    }
    if element.contains('#') {
        return Some(format!(
            "{element:?}: # (the n-th weekday of a month) is not supported; expected {}",
            kind.expected()
        ));
    }
    if !matches!(kind, FieldKind::DayOfMonth | FieldKind::DayOfWeek) {
        return None;
    }
    if base == "L" || base == "LW" || base.strip_suffix('L').is_some_and(is_day) {
        return Some(format!(
            "{element:?}: L (the last day, or the last weekday of a month) is not supported; expected {}",
            kind.expected()
        ));
    }
    if base == "W" || base.strip_suffix('W').is_some_and(is_day) {
        return Some(format!(
            "{element:?}: W (the working day nearest to a date) is not supported; expected {}",
            kind.expected()
        ));
    }
    None
}
