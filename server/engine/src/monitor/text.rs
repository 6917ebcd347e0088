//! Numbers and names for people.

use crate::model::TableName;

/// A name as both databases read it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name as both databases read it.
pub(super) fn quoted_table(table: &TableName) -> String {
    table.quoted()
}

/// The name of something that is in the table's schema, an index for instance.
pub(super) fn in_schema(table: &TableName, name: &str) -> String {
    let schema = table.schema.clone();
    TableName {
        schema,
        name: name.to_owned(),
    }
    .quoted()
}

/// A text as PostgreSQL reads it between quotes, whatever is in it.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        return format!("E'{}'", quoted.replace('\\', "\\\\"));
    }
    format!("'{quoted}'")
}

/// A name as one word of a shell, whatever is in it.
pub(super) fn for_a_shell(name: &str) -> String {
    format!("'{}'", name.replace('\'', "'\\''"))
}

/// Bytes in the largest unit in which they are at least one: `17 B`, `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one place")]
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A part of a whole in percent, without places.
pub(super) fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction * 100.0)
}

/// A time in its two largest units: `2 h 5 min`.
pub(super) fn seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A part of a whole; 0 where there is no whole.
#[expect(clippy::cast_precision_loss, reason = "a fraction")]
pub(super) fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(quoted_table(&TableName::parse("public.a\"b")), "\"public\".\"a\"\"b\"");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(percent(0.805), "80 %");
        assert_eq!(seconds(59), "59 s");
        assert_eq!(seconds(7_500), "2 h 5 min");
        assert_eq!(seconds(90_000), "1 d 1 h");
        assert!((fraction(1, 0)).abs() < f64::EPSILON);
    }
}
