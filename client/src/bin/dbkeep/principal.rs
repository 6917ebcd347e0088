//! Who calls, where `--principal` does not say: the name of the system's user.
//!
//! Owns how that becomes a name that the server takes. Called by `main.rs`.

/// Longest name that the server takes.
const LONGEST: usize = 64;

/// The user's name from the environment; `None` where the environment has none, and the caller stays nameless.
pub(crate) fn of_user() -> Option<String> {
    ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|variable| std::env::var(variable).ok().and_then(|name| acceptable(&name)))
}

/// The name with what a principal may not hold replaced.
fn acceptable(name: &str) -> Option<String> {
    let taken = |character: char| character.is_ascii_alphanumeric() || "._@-".contains(character);
    let name: String = name
        .chars()
        .take(LONGEST)
        .map(|character| if taken(character) { character } else { '_' })
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_becomes_one_that_the_server_takes() {
        assert_eq!(acceptable("ann"), Some("ann".to_owned()));
        assert_eq!(acceptable("CORP\\jörg b"), Some("CORP_j_rg_b".to_owned()));
        assert_eq!(acceptable(&"x".repeat(80)).map(|name| name.len()), Some(LONGEST));
        assert_eq!(acceptable(""), None);
    }
}
