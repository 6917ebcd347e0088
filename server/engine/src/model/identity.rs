//! What tells one database from another, so that a backup does not go to one that only has its target's name.

use serde::{Deserialize, Serialize};

/// What is known of which database it is. Either part may be empty, where nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Random, made once, and kept in dbkeep's own table in the database. A copy of the database has the same.
    pub id: String,
    /// Where the database lies, as its server knows it; a copy lies elsewhere. Empty where the database is a file, which may be moved.
    pub place: String,
}

impl Identity {
    /// Why this database is not the one that `then` was read from; `None` where nothing says so.
    #[must_use]
    pub fn differs_from(&self, then: &Self) -> Option<String> {
        let known = |now: &str, then: &str| !now.is_empty() && !then.is_empty() && now != then;
        if known(&self.id, &then.id) {
            return Some(format!("it is of database {}, and this is database {}", then.id, self.id));
        }
        if !then.id.is_empty() && self.id.is_empty() {
            return Some(format!(
                "it is of database {}, and this one has no id of dbkeep: it was made anew",
                then.id
            ));
        }
        known(&self.place, &then.place).then(|| {
            format!(
                "it is of {}, and this is {}: a copy of that database, or it was moved by a dump, a template or an upgrade",
                then.place, self.place
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: &str, place: &str) -> Identity {
        Identity {
            id: id.to_owned(),
            place: place.to_owned(),
        }
    }

    #[test]
    fn another_database_is_told_from_an_unknown_one() {
        let then = identity("a", "1/16384");
        assert_eq!(then.differs_from(&then), None);
        assert!(
            identity("b", "1/16384")
                .differs_from(&then)
                .expect("other")
                .contains("database a")
        );
        assert!(identity("a", "1/16999").differs_from(&then).expect("a copy").contains("copy"));
        assert!(
            identity("", "1/16384")
                .differs_from(&then)
                .expect("made anew")
                .contains("anew")
        );
        for unknown in [identity("", ""), identity("", "1/16384")] {
            assert_eq!(then.differs_from(&unknown), None, "the backup does not say");
        }
        assert_eq!(identity("a", "").differs_from(&then), None, "the server does not say");
    }
}
