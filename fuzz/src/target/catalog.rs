//! Catalogs: TOML by people.

use std::collections::BTreeSet;

use dbkeep_engine::catalog::Catalog;

use super::{Check, Target, broken, no_seeds};

pub(super) const TARGET: Target = Target {
    name: "catalog",
    about: "the reader of catalogs",
    words: &[
        "[[operation]]\n",
        "[[operation.rule]]\n",
        "[[operation.rule.child]]\n",
        "[[schedule]]\n",
        "kind = \"orphan\"",
        "kind = \"expired\"",
        "kind = \"duplicate\"",
        "kind = \"cycle\"",
        "kind = \"dangling_key\"",
        "kind = \"filter\"",
        "kind = \"temp_files\"",
        "kind = \"orphan_files\"",
        "retention = \"P1Y\"",
        "P9999999Y",
        "-P1D",
        "PT",
        "zone = \"Europe/Berlin\"",
        "max_fraction = nan",
        "condition = ",
        "now()",
        "--",
        "/*",
        "$$",
        "where = { a = { null = true } }",
        "glob = \"**\"",
        "[[[",
        "{{{{",
        "'''",
        "\"\"\"",
        "\\u0000",
    ],
    seeds: no_seeds,
    open,
};

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

fn check(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let lines = text.matches('\n').count() + 1;
    match Catalog::parse("fuzz.toml", &text) {
        Err(error) => {
            let said = error.to_string();
            let Some(rest) = said.strip_prefix("fuzz.toml:") else {
                return broken(format!("a refusal names no file: {said}"));
            };
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            match digits.parse::<usize>() {
                Ok(line) if (1..=lines).contains(&line) => Ok(rest[digits.len()..].to_owned()),
                _ => broken(format!("a refusal names no line of {lines}: {said}")),
            }
        }
        Ok(catalog) => {
            let mut names = BTreeSet::new();
            for operation in catalog.operations() {
                if operation.name.is_empty() || !names.insert(&operation.name) {
                    return broken(format!("operation {:?} is there twice, or has no name", operation.name));
                }
                for rule in &operation.rules {
                    if rule.describe().is_empty() || rule.name.is_empty() {
                        return broken(format!("a rule of {} has no name or no words", operation.name));
                    }
                    if !(0.0..=1.0).contains(&rule.max_fraction) {
                        return broken(format!("a rule of {} may take {}", operation.name, rule.max_fraction));
                    }
                    for clock in [jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MIN, jiff::Timestamp::MAX] {
                        // An answer or a refusal; what is not in the past would take rows of today.
                        if let Ok(Some(horizon)) = rule.horizon(clock)
                            && horizon > clock
                        {
                            return broken(format!("the horizon of {} is {horizon}, and now is {clock}", rule.name));
                        }
                    }
                }
            }
            let refused = catalog.check_schedules().err();
            let again = Catalog::parse("fuzz.toml", &text).map_err(|error| format!("not read twice: {error}"))?;
            if again.operations() != catalog.operations() {
                return broken("the same text is read in two ways");
            }
            Ok(format!(
                "accepted, {} operations {}",
                names.len().min(3),
                refused.map(|error| error.to_string()).unwrap_or_default()
            ))
        }
    }
}
