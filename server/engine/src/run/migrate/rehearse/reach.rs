//! Statements that no copy can hold: on PostgreSQL the copy is a database of the same server.

use crate::{
    migration::statement::words,
    model::{EngineKind, Migration},
};

/// The first statement that acts on more than its database: on PostgreSQL the copy is a database of the same server.
pub(super) fn reaches_further(migration: &Migration, engine: EngineKind) -> Option<String> {
    let scripts = [Some(&migration.up), migration.down.as_ref(), migration.verify.as_ref()];
    let mut statements = scripts
        .into_iter()
        .flatten()
        .flat_map(|script| script.statements().map(move |one| (script, one)));
    let found = statements.find(|(_, one)| {
        let words: Vec<String> = words(&one.sql, engine)
            .take(6)
            .map(|token| token.text.to_ascii_uppercase())
            .collect();
        further(&words.iter().map(String::as_str).collect::<Vec<_>>(), &one.sql, engine)
    });
    found.map(|(script, one)| format!("{}:{}", script.file, one.line))
}

fn further(first: &[&str], sql: &str, engine: EngineKind) -> bool {
    const SHARED: [&str; 8] = [
        "DATABASE",
        "ROLE",
        "USER",
        "GROUP",
        "TABLESPACE",
        "SUBSCRIPTION",
        "SYSTEM",
        "OWNED",
    ];
    match engine {
        EngineKind::Sqlite => matches!(first, ["ATTACH", ..] | ["VACUUM", "INTO", ..]),
        EngineKind::Postgres => match first {
            // A user mapping is the database's own.
            ["CREATE" | "ALTER" | "DROP", "USER", "MAPPING", ..] => false,
            ["CREATE" | "ALTER" | "DROP" | "REASSIGN", what, ..] => SHARED.contains(what),
            // Rights on objects are the database's, membership of roles is not: only that has no ON.
            ["GRANT" | "REVOKE", ..] => !words(sql, engine).any(|token| token.text.eq_ignore_ascii_case("ON")),
            ["COPY", ..] => words(sql, engine)
                .any(|token| token.text.eq_ignore_ascii_case("PROGRAM") || token.text.eq_ignore_ascii_case("TO")),
            ["COMMENT", "ON", what, ..] | ["SECURITY", "LABEL", .., what] => SHARED.contains(what),
            ["NOTIFY" | "LOAD", ..] => true,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_the_server_is_told_from_what_acts_on_the_database() {
        let reaches = |sql: &str| {
            let first: Vec<String> = words(sql, EngineKind::Postgres)
                .take(6)
                .map(|token| token.text.to_ascii_uppercase())
                .collect();
            further(
                &first.iter().map(String::as_str).collect::<Vec<_>>(),
                sql,
                EngineKind::Postgres,
            )
        };
        for sql in [
            "create role r",
            "ALTER USER u PASSWORD 'x'",
            "DROP DATABASE IF EXISTS d",
            "REASSIGN OWNED BY a TO b",
            "GRANT a TO b",
            "COPY t TO '/tmp/x'",
            "COPY t FROM PROGRAM 'ls'",
            "ALTER SYSTEM RESET ALL",
            "COMMENT ON DATABASE d IS 'x'",
        ] {
            assert!(reaches(sql), "{sql}");
        }
        for sql in [
            "CREATE USER MAPPING FOR u SERVER s",
            "GRANT SELECT ON t TO b",
            "COPY t FROM '/tmp/x'",
            "CREATE TABLE role (id int)",
            "COMMENT ON TABLE t IS 'x'",
        ] {
            assert!(!reaches(sql), "{sql}");
        }
    }
}
