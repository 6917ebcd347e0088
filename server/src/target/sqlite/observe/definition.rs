//! What no pragma says of an index: the text of its expressions, and of its condition.

use dbkeep_engine::model::EngineKind;

use crate::target::words::{Word, normal, words};

/// Parts of an index as they are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    /// Each column or expression with its collation and order.
    pub(super) parts: Vec<String>,
    /// Condition of a partial index; empty for none.
    pub(super) condition: String,
}

impl Definition {
    /// Reads the text of a `CREATE INDEX`.
    pub(super) fn of(sql: &str) -> Self {
        let words = words(sql, EngineKind::Sqlite);
        let Some(open) = words.iter().position(|word| word.is_symbol("(")) else {
            return Self::default();
        };
        let (mut depth, mut from, mut parts, mut at) = (0_usize, open + 1, Vec::new(), open);
        while let Some(word) = words.get(at) {
            if word.is_symbol("(") {
                depth += 1;
            } else if word.is_symbol(")") {
                depth = depth.saturating_sub(1);
            }
            if depth == 0 || (depth == 1 && word.is_symbol(",")) {
                parts.push(text(sql, &words[from..at]));
                from = at + 1;
            }
            if depth == 0 {
                break;
            }
            at += 1;
        }
        let rest = words.get(at + 1..).unwrap_or_default();
        let condition = match rest.split_first() {
            Some((first, condition)) if first.is("WHERE") => text(sql, condition),
            _ => String::new(),
        };
        Self { parts, condition }
    }
}

/// The same for all that means the same but for spaces, quotes and the case of letters.
pub(super) fn alike(text: &str) -> String {
    normal(&words(text, EngineKind::Sqlite))
}

fn text(sql: &str, part: &[Word]) -> String {
    match (part.first(), part.last()) {
        (Some(first), Some(last)) => sql.chars().skip(first.at).take(last.end - first.at).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_condition_are_read() {
        let read = Definition::of(
            "CREATE UNIQUE INDEX \"a(b\" ON t (lower(a, ','), b COLLATE nocase DESC) WHERE b IS NOT NULL AND (c = 1)",
        );
        assert_eq!(read.parts, ["lower(a, ',')", "b COLLATE nocase DESC"]);
        assert_eq!(read.condition, "b IS NOT NULL AND (c = 1)");
        assert_eq!(Definition::of("CREATE INDEX ä ON t(ü)").parts, ["ü"]);
        assert_eq!(Definition::of("CREATE INDEX i ON t"), Definition::default());
        assert_eq!(alike("Lower( \"A\" )"), alike("lower(a)"));
    }
}
