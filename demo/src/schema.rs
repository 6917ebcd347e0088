//! The platform's tables, as SQL for both databases.
//!
//! The SQL itself is in `schema/*.sql`, with comments on keys and on how times are encoded; here it is only cut into the
//! sections that the generator runs at different moments. It exists in two variants: *plain*, as the platform has it, with
//! one foreign key, and *declared*, with CASCADE, SET NULL, RESTRICT and deferrable keys. No key is declared on a column
//! that the catalog's orphan rules look at, since a declared key would not let those orphans exist.

/// Every table of the platform, parents before their children.
pub const TABLES: [&str; 16] = [
    "users",
    "courses",
    "lessons",
    "lesson_prerequisites",
    "achievements",
    "user_achievements",
    "user_progress",
    "leaderboard_entries",
    "refresh_tokens",
    "user_sessions",
    "password_reset_tokens",
    "api_logs",
    "error_logs",
    "audit_logs",
    "cache_entries",
    "archived_users",
];

/// The tables of the benchmark schema, parents before their children.
pub(crate) const SINGLE_TABLES: [&str; 3] = ["users", "user_progress", "api_logs"];

/// A schema as the two scripts a generator runs: one before the rows and one after them.
#[derive(Debug, Clone)]
pub struct Schema {
    /// CREATE TABLE statements, separated by semicolons.
    pub tables: String,
    /// Keys and indexes, separated by semicolons.
    pub keys: String,
}

/// The platform's schema for PostgreSQL, with the additional foreign keys if `declared_keys`.
#[must_use]
pub fn postgres(declared_keys: bool) -> Schema {
    let script = include_str!("../schema/postgres.sql");
    let mut keys = section(script, "keys");
    if declared_keys {
        keys.push_str(&section(script, "declared_keys"));
    }
    Schema {
        tables: section(script, "tables"),
        keys,
    }
}

/// The platform's schema for SQLite, with the additional foreign keys if `declared_keys`.
#[must_use]
pub fn sqlite(declared_keys: bool) -> Schema {
    let script = include_str!("../schema/sqlite.sql");
    Schema {
        tables: free_or_strip_declared(&section(script, "tables"), declared_keys),
        keys: section(script, "keys"),
    }
}

/// The benchmark schema for PostgreSQL.
pub(crate) fn single_postgres() -> Schema {
    let script = include_str!("../schema/single_postgres.sql");
    Schema {
        tables: section(script, "tables"),
        keys: section(script, "keys"),
    }
}

/// The benchmark schema for SQLite.
pub(crate) fn single_sqlite() -> Schema {
    let script = include_str!("../schema/single_sqlite.sql");
    Schema {
        tables: section(script, "tables"),
        keys: section(script, "keys"),
    }
}

/// The lines between `-- section: NAME` and the next such line.
fn section(script: &str, name: &str) -> String {
    let mut inside = false;
    let mut found = String::new();
    for line in script.lines() {
        if let Some(heading) = line.strip_prefix("-- section: ") {
            inside = heading == name;
        } else if inside {
            found.push_str(line);
            found.push('\n');
        }
    }
    found
}

/// Takes the text between `/*declared` and `declared*/` out of its comment, or removes it. It is removed because SQLite
/// stores the statement as it was written, and a plain database should not carry the other variant in its schema.
fn free_or_strip_declared(script: &str, free: bool) -> String {
    let mut parts = script.split(" /*declared");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (declared, rest) = part.split_once(" declared*/").unwrap_or(("", part));
        if free {
            result.push_str(declared);
        }
        result.push_str(rest);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_created_on_both_sides_and_in_both_variants() {
        for schema in [postgres(false), postgres(true), sqlite(false), sqlite(true)] {
            for table in TABLES {
                assert!(schema.tables.contains(&format!("CREATE TABLE {table} (")), "{table}");
            }
            assert!(!schema.tables.contains("declared"));
        }
    }

    #[test]
    fn the_declared_variant_alone_has_the_additional_keys() {
        for (plain, declared) in [(postgres(false), postgres(true)), (sqlite(false), sqlite(true))] {
            let (plain, declared) = (plain.tables + &plain.keys, declared.tables + &declared.keys);
            for clause in ["ON DELETE CASCADE", "ON DELETE SET NULL", "DEFERRABLE INITIALLY DEFERRED"] {
                assert!(!plain.contains(clause), "{clause}");
                assert!(declared.contains(clause), "{clause}");
            }
            assert!(plain.contains("ON DELETE RESTRICT") && declared.contains("ON DELETE RESTRICT"));
        }
    }
}
