//! What rules do to rows and files, in words: for the reasons of states, for warnings, and for whoever is told of a run. Pure.

use super::{Action, Rule};

impl Rule {
    /// What it takes, "rows" or "files", and what becomes of that, as in "were deleted".
    pub(crate) fn deed(&self) -> (&'static str, &'static str) {
        if self.root().is_some() {
            return ("files", "moved to the trash");
        }
        let done = match &self.action {
            Action::Delete => "deleted",
            Action::Archive { .. } => "archived",
            Action::Update { .. } => "updated",
            Action::Nullify { .. } => "set to NULL",
        };
        ("rows", done)
    }
}

/// What rules did to so many rows or files each, summed up by what it was: "12 rows deleted, 3 files moved to the trash". `auxiliary` stands before
/// what was done, such as "would be ".
pub(crate) fn amounts<'a>(parts: impl IntoIterator<Item = (&'a Rule, u64)>, auxiliary: &str) -> String {
    let mut sums: Vec<((&str, &str), u64)> = Vec::new();
    for (rule, count) in parts {
        let deed = rule.deed();
        match sums.iter_mut().find(|(known, _)| *known == deed) {
            Some((_, sum)) => *sum += count,
            None => sums.push((deed, count)),
        }
    }
    let told: Vec<String> = sums
        .into_iter()
        .map(|((what, done), sum)| format!("{sum} {what} {auxiliary}{done}"))
        .collect();
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn each_deed_has_its_word() {
        let table = "kind = \"filter\"\ntable = \"t\"\n";
        let texts = [
            format!("{table}condition = \"a = 1\""),
            format!("{table}condition = \"a = 2\"\naction = \"archive\"\ninto = \"old\"\nstamp = \"at\""),
            format!("{table}condition = \"a = 3\"\naction = \"update\"\nset = {{ b = 1 }}"),
            format!("{table}condition = \"a = 4\"\naction = \"nullify\"\nnullify = [\"c\"]"),
            "kind = \"temp_files\"\nroot = \"temp\"\nage = \"P1D\"".to_owned(),
            format!("{table}condition = \"a = 5\""),
        ];
        let mut text = "[[operation]]\nname = \"o\"\ncategory = \"LOGS\"\nseverity = \"LOW\"\nbackup = false\n".to_owned();
        for (place, rule) in texts.iter().enumerate() {
            text.push_str(&format!("[[operation.rule]]\nname = \"r{place}\"\n{rule}\n"));
        }
        let catalog = Catalog::parse("c.toml", &text).expect("a catalog");
        let rules = &catalog.operations()[0].rules;
        let parts = || rules.iter().zip([1, 2, 3, 4, 5, 60]);
        assert_eq!(
            amounts(parts(), ""),
            "61 rows deleted, 2 rows archived, 3 rows updated, 4 rows set to NULL, 5 files moved to the trash"
        );
        assert_eq!(
            amounts(parts().take(2), "would be "),
            "1 rows would be deleted, 2 rows would be archived"
        );
    }
}
