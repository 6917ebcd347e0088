//! What names say: words of identifiers, singular and plural, and whether a column's name speaks of a table. Pure; knows no
//! values. Called by `relate`, `age` and `textkey`.

/// Words that end a column which names a row.
const KEY_WORDS: [&str; 9] = ["id", "uuid", "guid", "ulid", "key", "ref", "fk", "oid", "pk"];
/// Names of keys that say nothing of the table they are in.
const GENERIC_KEYS: [&str; 14] = [
    "id", "uuid", "guid", "ulid", "key", "code", "name", "slug", "pk", "oid", "number", "value", "title", "rowid",
];
/// Roles that by convention name another row of the same table.
const SELF_ROLES: [&[&str]; 16] = [
    &["parent"],
    &["root"],
    &["ancestor"],
    &["previous"],
    &["prev"],
    &["next"],
    &["manager"],
    &["supervisor"],
    &["reply", "to"],
    &["in", "reply", "to"],
    &["original"],
    &["duplicate", "of"],
    &["superseded", "by"],
    &["supersedes"],
    &["merged", "into"],
    &["reports", "to"],
];
/// Roles that by convention name a person.
const PERSON_ROLES: [&str; 19] = [
    "author",
    "owner",
    "creator",
    "editor",
    "assignee",
    "reviewer",
    "approver",
    "reporter",
    "sender",
    "recipient",
    "receiver",
    "manager",
    "instructor",
    "teacher",
    "student",
    "follower",
    "followee",
    "inviter",
    "moderator",
];
/// Tables that by convention hold persons, the most usual first.
const PERSON_TABLES: [&str; 6] = ["user", "account", "person", "member", "employee", "customer"];

/// Words of an identifier in lower case: cut at what is no letter or digit, and where `camelCase` begins a new one.
pub(super) fn words(name: &str) -> Vec<String> {
    let characters: Vec<char> = name.chars().collect();
    let mut words = Vec::new();
    let mut word = String::new();
    for (position, &character) in characters.iter().enumerate() {
        if !character.is_alphanumeric() {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            continue;
        }
        let before = position.checked_sub(1).and_then(|before| characters.get(before));
        let after = characters.get(position + 1);
        // `userId` before the I, `HTTPServer` before the S.
        let begins = character.is_uppercase()
            && (before.is_some_and(|before| before.is_lowercase() || before.is_numeric())
                || before.is_some_and(|before| before.is_uppercase()) && after.is_some_and(|after| after.is_lowercase()));
        if begins && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        word.extend(character.to_lowercase());
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// The forms under which a word may stand elsewhere: itself, and every singular that it could be the plural of.
fn forms(word: &str) -> Vec<String> {
    const IRREGULAR: [(&str, &str); 6] = [
        ("people", "person"),
        ("children", "child"),
        ("men", "man"),
        ("women", "woman"),
        ("indices", "index"),
        ("vertices", "vertex"),
    ];
    let mut forms = vec![word.to_owned()];
    if let Some((_, singular)) = IRREGULAR.iter().find(|(plural, _)| *plural == word) {
        forms.push((*singular).to_owned());
    }
    for (ending, instead) in [
        ("ies", &["y", "ie"][..]),
        ("ves", &["f", "fe", "ve"]),
        ("es", &["", "e"]),
        ("s", &[""]),
    ] {
        if let Some(stem) = word.strip_suffix(ending)
            && stem.chars().count() >= 2
        {
            forms.extend(instead.iter().map(|end| format!("{stem}{end}")));
        }
    }
    forms
}

/// Whether two words are the same but for their number.
pub(super) fn same_word(one: &str, other: &str) -> bool {
    one == other || {
        let others = forms(other);
        forms(one).iter().any(|form| others.contains(form))
    }
}

fn same_words(one: &[String], other: &[String]) -> bool {
    // Only the last word of a name is put into the plural, yet some write `orders_items`.
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_word(one, other))
        // `userprofiles` and `user_profile`.
        || one.len() != other.len() && same_word(&one.concat(), &other.concat())
}

/// Whether two names are those of one table, in whatever number and spelling.
pub(super) fn same_table(one: &str, other: &str) -> bool {
    let (one, other) = (words(one), words(other));
    !one.is_empty() && same_words(&one, &other)
}

/// A column's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stem {
    /// What it speaks of, without the words that say "key of".
    pub(super) words: Vec<String>,
    /// Whether it says that it is a key: `user_id`, `fk_user`, `created_by`.
    pub(super) marked: bool,
    /// Whether it is a deed, `created_by`: what is named did it.
    pub(super) by: bool,
}

impl Stem {
    pub(super) fn of(column: &str) -> Self {
        let mut words = words(column);
        let is_key = |word: Option<&String>| word.is_some_and(|word| KEY_WORDS.contains(&word.as_str()));
        let mut marked = false;
        if words.len() > 1
            && words
                .first()
                .is_some_and(|first| matches!(first.as_str(), "fk" | "id" | "ref"))
        {
            words.remove(0);
            marked = true;
        }
        while words.len() > 1 && is_key(words.last()) {
            words.pop();
            marked = true;
        }
        let by = words.len() > 1 && words.last().is_some_and(|last| last == "by");
        if !marked && words.len() == 1 {
            // `userid`, `courseid`: no border shows. What is left must be worth a name.
            if let Some(stem) = words[0].strip_suffix("id").filter(|stem| stem.chars().count() >= 4) {
                words[0] = stem.to_owned();
                marked = true;
            }
        }
        Self {
            words,
            marked: marked || by,
            by,
        }
    }
}

/// How well a name speaks of a table, 0 to 1, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Match {
    pub(super) strength: f64,
    pub(super) reason: &'static str,
}

const fn found(strength: f64, reason: &'static str) -> Option<Match> {
    Some(Match { strength, reason })
}

/// Whether a key's own name says nothing of its table.
pub(super) fn is_generic(key: &str) -> bool {
    let words = words(key);
    words.iter().all(|word| GENERIC_KEYS.contains(&word.as_str()))
}

/// Whether the words of a name are those of another one.
pub(super) fn same_name(one: &str, other: &str) -> bool {
    words(one) == words(other)
}

/// What the name of `column` in `child` says about `key` of `parent`. `primary` tells whether the key is the primary one.
pub(super) fn relate(child: &str, column: &str, parent: &str, key: &str, primary: bool) -> Option<Match> {
    let table = words(parent);
    let column_words = words(column);
    let key_words = words(key);
    if column_words.is_empty() || table.is_empty() || key_words.is_empty() {
        return None;
    }
    // `country_code` and countries.code; `user_id` and users.id.
    if let Some(rest) = column_words.len().checked_sub(key_words.len()).filter(|rest| *rest > 0)
        && column_words[rest..] == key_words[..]
        && same_words(&column_words[..rest], &table)
    {
        return if primary {
            found(1.0, "the column's name is the table's and its key's")
        } else {
            found(0.6, "the column's name is the table's and its unique column's")
        };
    }
    let stem = Stem::of(column);
    let words = &stem.words;
    // Before the key's own name: of all tables whose key is called `user_id`, users is the one that it belongs to.
    if primary && stem.marked && same_words(words, &table) {
        return found(1.0, "the column's name is the table's");
    }
    if !is_generic(key) && column_words == key_words {
        return if primary {
            found(0.95, "the column's name is the key's")
        } else {
            found(0.55, "the column's name is that of a unique column")
        };
    }
    if !primary {
        return None;
    }
    if same_words(words, &table) {
        return found(0.6, "the column is called like the table, without saying that it is a key");
    }
    if !stem.marked {
        return None;
    }
    if words.len() > 1 && (1..words.len()).any(|start| same_words(&words[start..], &table)) {
        return found(0.8, "the column's name ends in the table's, after a role");
    }
    if table.len() > 1 && (1..table.len()).any(|start| same_words(words, &table[start..])) {
        return found(0.75, "the table's name ends in the column's");
    }
    child_role(child, words, &table)
}

/// `prerequisite_id` in `lesson_prerequisites`: the role stands in the child's name, beside the table it is a role of.
fn child_role(child: &str, stem: &[String], table: &[String]) -> Option<Match> {
    let child = words(child);
    let rest = child.len().checked_sub(stem.len()).filter(|rest| *rest > 0)?;
    if same_words(&child[rest..], stem) && same_words(&child[..rest], table) {
        return found(0.65, "the table's name is composed of the parent's and this role");
    }
    None
}

/// Whether a column by convention names another row of its own table.
pub(super) fn names_itself(column: &str) -> bool {
    let stem = Stem::of(column);
    SELF_ROLES
        .iter()
        .any(|role| stem.words.iter().map(String::as_str).eq(role.iter().copied()))
        && (stem.marked || stem.words.len() > 1)
}

/// Whether a column by convention names a person: `author_id`, `created_by`.
pub(super) fn names_person(column: &str) -> bool {
    let stem = Stem::of(column);
    stem.marked && (stem.by || stem.words.last().is_some_and(|last| PERSON_ROLES.contains(&last.as_str())))
}

/// How usual it is that a table of this name holds persons: 0 is the most usual, `None` where it does not.
pub(super) fn person_rank(table: &str) -> Option<usize> {
    let words = words(table);
    let [word] = words.as_slice() else { return None };
    PERSON_TABLES.iter().position(|known| same_word(word, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strength(child: &str, column: &str, parent: &str, key: &str) -> Option<f64> {
        relate(child, column, parent, key, true).map(|found| found.strength)
    }

    #[test]
    fn identifiers_fall_into_words() {
        for (name, expected) in [
            ("user_id", &["user", "id"][..]),
            ("userId", &["user", "id"]),
            ("UserID", &["user", "id"]),
            ("HTTPServerKey", &["http", "server", "key"]),
            ("tbl-Order  Items", &["tbl", "order", "items"]),
            ("größeId", &["größe", "id"]),
            ("\"", &[]),
        ] {
            assert_eq!(words(name), expected, "{name}");
        }
    }

    #[test]
    fn number_does_not_matter() {
        for (one, other) in [
            ("course", "courses"),
            ("entry", "entries"),
            ("address", "addresses"),
            ("status", "statuses"),
            ("person", "people"),
            ("leaf", "leaves"),
            ("archive", "archives"),
            ("movie", "movies"),
            ("box", "boxes"),
            ("series", "series"),
        ] {
            assert!(same_word(one, other) && same_word(other, one), "{one} {other}");
        }
        for (one, other) in [("user", "course"), ("as", "a"), ("user", "use"), ("is", "i")] {
            assert!(!same_word(one, other), "{one} {other}");
        }
    }

    #[test]
    fn names_speak_of_tables() {
        for (child, column, parent, key, expected) in [
            ("user_progress", "user_id", "users", "id", Some(1.0)),
            ("p", "userId", "User", "id", Some(1.0)),
            ("p", "fk_user", "users", "id", Some(1.0)),
            ("p", "userid", "users", "id", Some(1.0)),
            ("p", "id_user", "users", "id", Some(1.0)),
            ("p", "blogEntryId", "blog_entries", "id", Some(1.0)),
            ("p", "user_profile_id", "userprofiles", "id", Some(1.0)),
            ("orders", "country_code", "countries", "code", Some(1.0)),
            ("p", "isbn", "books", "isbn", Some(0.95)),
            ("p", "billing_address_id", "addresses", "id", Some(0.8)),
            ("error_logs", "session_id", "user_sessions", "id", Some(0.75)),
            ("lesson_prerequisites", "prerequisite_id", "lessons", "id", Some(0.65)),
            ("p", "user", "users", "id", Some(0.6)),
            ("p", "user_name", "users", "id", None),
            ("p", "user_id", "user_archive", "id", None),
            ("p", "id", "users", "id", None),
            ("p", "code", "countries", "code", None),
            ("p", "paid", "users", "id", None),
            ("p", "prerequisite_id", "lessons", "id", None),
        ] {
            assert_eq!(
                strength(child, column, parent, key),
                expected,
                "{child}.{column} -> {parent}.{key}"
            );
        }
        assert_eq!(
            relate("t", "email", "users", "email", false).map(|found| found.strength),
            Some(0.55)
        );
        assert_eq!(relate("t", "user_id", "users", "email", false), None);
    }

    #[test]
    fn roles_are_conventions() {
        assert!(names_itself("parent_id") && names_itself("inReplyTo") && names_itself("reply_to_id"));
        assert!(!names_itself("parent") && !names_itself("user_id") && !names_itself("parent_name"));
        assert!(names_person("author_id") && names_person("created_by") && !names_person("author") && !names_person("standby"));
        assert_eq!(person_rank("users"), Some(0));
        assert_eq!(person_rank("user_sessions"), None);
    }
}
