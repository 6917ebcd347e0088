//! What a name that nobody knows was meant to be. Called wherever a refusal can say so.

/// Levenshtein's distance: characters to be put in, taken out or changed.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in one.chars().enumerate() {
        let mut last = index + 1;
        let mut diagonal = index;
        for (cell, against) in row.iter_mut().skip(1).zip(&other) {
            let change = diagonal + usize::from(character != *against);
            diagonal = *cell;
            *cell = change.min(diagonal + 1).min(last + 1);
            last = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The name that is most like a text, in whatever case, if any is like it at all; the first of several.
pub(crate) fn nearest<'a>(names: impl IntoIterator<Item = &'a str>, written: &str) -> Option<&'a str> {
    let wanted = written.to_lowercase();
    names
        .into_iter()
        .filter_map(|name| {
            let distance = distance(&wanted, &name.to_lowercase());
            (!name.is_empty() && distance <= 1 + name.chars().count() / 4).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean X?`, or nothing where no name is near.
pub(crate) fn suggestion<'a>(names: impl IntoIterator<Item = &'a str>, written: &str) -> String {
    nearest(names, written).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_in_any_case_and_a_stranger_is_not() {
        let names = ["orphaned_progress", "old_logs", "expired_tokens"];
        assert_eq!(nearest(names, "OLD_LOG"), Some("old_logs"));
        assert_eq!(nearest(names, "expired_token"), Some("expired_tokens"));
        assert_eq!(nearest(names, "vacuum"), None);
        assert_eq!(suggestion(names, "oldlogs"), "; did you mean old_logs?");
        assert_eq!(suggestion([], "old_logs"), "");
    }
}
