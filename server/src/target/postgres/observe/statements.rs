//! Statements that take the most time, by `pg_stat_statements`, without their literals.

use dbkeep_engine::{
    migration::statement::{TokenKind, words},
    model::{EngineKind, monitor::QueryVitals},
    port::TargetErrorClass,
};
use sqlx::{AssertSqlSafe, FromRow};

use super::{
    super::render,
    session::{Look, unsigned},
};

/// Longest text that is kept, characters.
const TEXT: usize = 1_000;

/// Where the extension is, and what it calls the time of all calls: its 1.8 has renamed that, and an upgrade of the server leaves the
/// extension as it was.
const EXTENSION: &str = "SELECT n.nspname::text AS schema, EXISTS (SELECT 1 FROM pg_catalog.pg_attribute AS a \
       WHERE a.attrelid = c.oid AND a.attname = 'total_exec_time') AS renamed \
     FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace \
     LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements' \
     WHERE e.extname = 'pg_stat_statements'";

#[derive(FromRow)]
struct Extension {
    schema: String,
    renamed: bool,
}

#[derive(FromRow)]
struct Statement {
    id: Option<i64>,
    text: Option<String>,
    calls: i64,
    total: f64,
    share: f64,
}

pub(super) async fn most_expensive(look: &mut Look<'_>) -> Vec<QueryVitals> {
    const WHAT: &str = "slow_queries";
    let extension = look.one::<Extension>(|| sqlx::query(EXTENSION)).await;
    let extension = match look.or_gap(WHAT, extension) {
        Some(Some(extension)) => extension,
        Some(None) => {
            look.gap(
                WHAT,
                "the extension pg_stat_statements is not installed",
                "CREATE EXTENSION pg_stat_statements; -- and put it beside what is in shared_preload_libraries, which takes a restart",
            );
            return Vec::new();
        }
        None => return Vec::new(),
    };
    let time = if extension.renamed { "total_exec_time" } else { "total_time" };
    let sql = format!(
        "SELECT s.queryid AS id, min(left(s.query, 20000)) AS text, sum(s.calls)::bigint AS calls, sum(s.{time})::float8 AS total, \
           coalesce(sum(s.{time}) / nullif(sum(sum(s.{time})) OVER (), 0), 0)::float8 AS share \
         FROM {}.pg_stat_statements AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.dbid \
         WHERE d.datname = pg_catalog.current_database() GROUP BY s.queryid ORDER BY sum(s.{time}) DESC, s.queryid LIMIT 51",
        render::identifier(&extension.schema)
    );
    let found = look.list::<Statement>(|| sqlx::query(AssertSqlSafe(sql.clone()))).await;
    // Object not in prerequisite state: the library is not loaded.
    if found.as_ref().is_err_and(|error| error.code.as_deref() == Some("55000")) {
        let loaded = loaded(look).await;
        look.gap(
            WHAT,
            "the library pg_stat_statements is not loaded",
            preload(loaded.as_deref()),
        );
        return Vec::new();
    }
    let denied = found.as_ref().is_err_and(|error| error.class == TargetErrorClass::Permission);
    if denied {
        let allow = format!(
            "GRANT SELECT ON {}.pg_stat_statements TO {};",
            render::identifier(&extension.schema),
            look.role()
        );
        look.gap(WHAT, "the role may not read pg_stat_statements", allow);
        return Vec::new();
    }
    let found = look.or_gap(WHAT, found).unwrap_or_default();
    // Statements of other roles have no id for one who may not see them.
    if found.iter().any(|statement| statement.id.is_none()) {
        let allow = look.grant();
        look.gap(WHAT, "the role may not see the statements of other roles", allow);
    }
    let visible = found.into_iter().filter_map(|statement| {
        let id = statement.id?;
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean_ms = statement.total / statement.calls.max(1) as f64;
        let finite = statement.total.is_finite() && statement.share.is_finite();
        finite.then(|| QueryVitals {
            id: id.to_string(),
            text: without_literals(&statement.text.unwrap_or_default()),
            calls: unsigned(statement.calls),
            mean_ms,
            total_ms: statement.total,
            share_fraction: statement.share,
        })
    });
    visible.take(50).collect()
}

/// Libraries that are loaded with the server, as the setting has them; a role that may not see it gets no row.
const LOADED: &str = "SELECT s.setting FROM pg_catalog.pg_settings AS s WHERE s.name = 'shared_preload_libraries'";

async fn loaded(look: &mut Look<'_>) -> Option<String> {
    // Where it cannot be read, the statement says so in place of them.
    let found = look.one::<(String,)>(|| sqlx::query(LOADED)).await;
    found.ok().flatten().map(|(setting,)| setting)
}

/// The statement that loads the library with the server, beside those that are loaded already.
fn preload(loaded: Option<&str>) -> String {
    let Some(loaded) = loaded else {
        return "add pg_stat_statements to what SHOW shared_preload_libraries tells a superuser, and restart the server"
            .to_owned();
    };
    let mut libraries: Vec<String> = loaded
        .split(',')
        .map(|library| library.trim().trim_matches('"'))
        .filter(|library| !library.is_empty())
        .map(render::literal)
        .collect();
    libraries.push(render::literal("pg_stat_statements"));
    format!(
        "ALTER SYSTEM SET shared_preload_libraries = {}; -- and restart the server",
        libraries.join(", ")
    )
}

/// A statement without literals and comments. The extension replaces those of queries by parameters, but keeps those of commands, a
/// password for instance. From a text that could end elsewhere than it seems to, everything is left out.
fn without_literals(sql: &str) -> String {
    let mut text = String::new();
    let mut end = 0;
    let mut parameter = false;
    for token in words(sql, EngineKind::Postgres) {
        if token.offset > end && !text.is_empty() {
            text.push(' ');
        }
        end = token.end();
        match token.kind {
            TokenKind::Text => {
                text.push('?');
                let escaped = token.text.starts_with(['e', 'E', '$']);
                if token.text.contains('\\') && !escaped {
                    break;
                }
            }
            TokenKind::Number if !parameter => text.push('?'),
            _ => text.push_str(token.text),
        }
        parameter = token.is_symbol('$');
    }
    text.chars().take(TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_stays_loaded() {
        for (loaded, statement) in [
            (
                "",
                "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'; -- and restart the server",
            ),
            (
                "auto_explain, \"$libdir/other\"",
                "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', '$libdir/other', 'pg_stat_statements'; -- and restart the server",
            ),
        ] {
            assert_eq!(preload(Some(loaded)), statement);
        }
        assert!(!preload(None).contains("ALTER SYSTEM"), "{}", preload(None));
    }

    #[test]
    fn no_literal_is_shown() {
        for (sql, shown) in [
            (
                "SELECT * FROM t WHERE a = $1 AND b>$2",
                "SELECT * FROM t WHERE a = $1 AND b>$2",
            ),
            ("ALTER ROLE x PASSWORD 'geheim'", "ALTER ROLE x PASSWORD ?"),
            ("SET a = 17; -- trace=geheim", "SET a = ?;"),
            ("SELECT /* geheim */ \"A 1\"", "SELECT \"A 1\""),
            ("DO $x$ geheim $x$", "DO ?"),
            ("SET a = E'it\\'s geheim', b = 1", "SET a = ?, b = ?"),
            ("SET a = 'it\\', b = 'geheim'", "SET a = ?"),
            ("SET a = 'geheim", "SET a ="),
        ] {
            assert_eq!(without_literals(sql), shown);
        }
        assert_eq!(without_literals(&"ä ".repeat(2_000)).chars().count(), TEXT);
    }
}
