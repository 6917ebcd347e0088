//! The generator against plain SQL: what it says about its rows must be what anybody finds who counts them.
//!
//! The queries here are written by hand, one for each rule, and share nothing with the generator or with dbkeep.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::collections::BTreeSet;

use anyhow::Result;
use dbkeep_demo::{CATALOG, GenerateOptions, GroundTruth, drop_tables, generate, schema, single_table, table_hashes};
use dbkeep_testkit::{Db, fresh_database};
use jiff::Timestamp;

const ROWS: u64 = 20_000;

/// What each rule takes: operation, rule, table, and the condition without the rows that earlier rules of the operation take.
/// [`condition`] fills the placeholders.
const CONDITIONS: [(&str, &str, &str, &str); 11] = [
    ("expired_tokens", "refresh_tokens", "refresh_tokens", "expires_at < '{now}'"),
    ("expired_tokens", "user_sessions", "user_sessions", "expires_at < '{now}'"),
    (
        "expired_tokens",
        "password_reset_tokens",
        "password_reset_tokens",
        "expires_at < '{now}'",
    ),
    ("old_logs", "api_logs", "api_logs", "{api_created} < {api_year}"),
    ("old_logs", "error_logs", "error_logs", "created_at < '{year}'"),
    ("old_logs", "audit_logs", "audit_logs", "created_at < '{two_years}'"),
    ("orphaned_progress", "progress_without_user", "user_progress", NO_USER),
    (
        "orphaned_progress",
        "progress_without_lesson",
        "user_progress",
        "lesson_id IS NOT NULL AND lesson_id NOT IN (SELECT id FROM lessons) \
         AND (user_id IS NULL OR user_id IN (SELECT id FROM users))",
    ),
    (
        "orphaned_progress",
        "progress_without_course",
        "user_progress",
        "course_id IS NOT NULL AND course_id NOT IN (SELECT id FROM courses) \
         AND (lesson_id IS NULL OR lesson_id IN (SELECT id FROM lessons)) \
         AND (user_id IS NULL OR user_id IN (SELECT id FROM users))",
    ),
    (
        "orphaned_achievements",
        "user_achievements_without_user",
        "user_achievements",
        NO_USER,
    ),
    (
        "orphaned_achievements",
        "achievements_without_course",
        "achievements",
        "course_id IS NOT NULL AND course_id NOT IN (SELECT id FROM courses)",
    ),
];

const NO_USER: &str = "user_id IS NOT NULL AND user_id NOT IN (SELECT id FROM users)";

/// Keys and times of which some rows must have none.
const NULLABLE: [(&str, &str); 14] = [
    ("user_progress", "user_id"),
    ("user_progress", "lesson_id"),
    ("user_progress", "course_id"),
    ("user_achievements", "user_id"),
    ("user_achievements", "achievement_id"),
    ("achievements", "course_id"),
    ("leaderboard_entries", "user_id"),
    ("refresh_tokens", "expires_at"),
    ("user_sessions", "expires_at"),
    ("password_reset_tokens", "expires_at"),
    ("cache_entries", "expires_at"),
    ("api_logs", "created_at"),
    ("error_logs", "created_at"),
    ("audit_logs", "created_at"),
];

struct Sqlite {
    folder: tempfile::TempDir,
}

impl Sqlite {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn url(&self, name: &str) -> String {
        format!("sqlite://{}", self.folder.path().join(name).display())
    }
}

fn options(url: &str) -> GenerateOptions {
    GenerateOptions {
        url: url.to_owned(),
        rows: ROWS,
        seed: 7,
        now: "2025-06-01T12:00:00Z".parse().unwrap(),
        declared_keys: false,
        drop_existing: false,
    }
}

/// Fills the placeholders of a condition for a database whose "now" is noon on 1 June 2025.
fn condition(template: &str, postgres: bool) -> String {
    let zone = if postgres { "+00" } else { "" };
    template
        .replace("{now}", &format!("2025-06-01 12:00:00{zone}"))
        .replace("{year}", "2024-06-01 12:00:00")
        .replace("{two_years}", "2023-06-01 12:00:00")
        .replace("{api_created}", "created_at")
        .replace("{api_year}", if postgres { "'2024-06-01 12:00:00+00'" } else { "1717243200" })
}

async fn count(db: &Db, table: &str, condition: &str) -> u64 {
    db.count_where(table, condition).await.unwrap()
}

async fn agrees_with_sql(url: &str, truth: &GroundTruth) {
    let db = Db::open(url).await.unwrap();
    for (operation, rule, table, template) in CONDITIONS {
        let expected = truth.rule(operation, rule).unwrap();
        assert_eq!(expected.table, table);
        assert_eq!(
            count(&db, table, &condition(template, url.starts_with("postgres"))).await,
            expected.rows,
            "{rule}"
        );
        assert!(expected.rows > 0, "{rule} has nothing to find");
        assert!(
            expected.rows * 2 < truth.tables[table],
            "{rule} would take over half of its table"
        );
    }
    for (table, rows) in &truth.tables {
        assert_eq!(db.count(table).await.unwrap(), *rows, "{table}");
    }
    assert_eq!(truth.total_rows, truth.tables.values().sum::<u64>());
    for (table, column) in NULLABLE {
        assert!(count(&db, table, &format!("{column} IS NULL")).await > 0, "{table}.{column}");
    }
    // Rows that two rules would take, or the exclusion is not tested.
    let both = format!("{NO_USER} AND lesson_id NOT IN (SELECT id FROM lessons)");
    assert!(count(&db, "user_progress", &both).await > 0);
    let all = format!("{both} AND course_id NOT IN (SELECT id FROM courses)");
    assert!(count(&db, "user_progress", &all).await > 0);
    // For the operations that have no truth yet: something to find for each.
    assert!(count(&db, "leaderboard_entries", NO_USER).await > 0);
    assert!(count(&db, "lesson_prerequisites", "lesson_id NOT IN (SELECT id FROM lessons)").await > 0);
    assert!(count(&db, "lesson_prerequisites", "prerequisite_id NOT IN (SELECT id FROM lessons)").await > 0);
    let circle = "EXISTS (SELECT 1 FROM lesson_prerequisites b \
                  WHERE b.lesson_id = lesson_prerequisites.prerequisite_id AND b.prerequisite_id = lesson_prerequisites.lesson_id)";
    assert!(count(&db, "lesson_prerequisites", circle).await > 0);
    assert!(count(&db, "users", "status = 'SUSPENDED' AND suspended_at IS NULL").await > 0);
    db.close().await;
}

async fn agrees_on_declared_keys(url: &str, truth: &GroundTruth) {
    let db = Db::open(url).await.unwrap();
    let postgres = url.starts_with("postgres");
    let along = "(user_id IS NULL OR user_id IN (SELECT id FROM users)) AND achievement_id IN \
                 (SELECT id FROM achievements WHERE course_id IS NOT NULL AND course_id NOT IN (SELECT id FROM courses))";
    let cascaded = &truth
        .rule("orphaned_achievements", "achievements_without_course")
        .unwrap()
        .cascaded;
    assert_eq!(count(&db, "user_achievements", along).await, cascaded["user_achievements"]);
    let ended = condition(
        "session_id IN (SELECT id FROM user_sessions WHERE expires_at < '{now}')",
        postgres,
    );
    let nullified = &truth.rule("expired_tokens", "user_sessions").unwrap().nullified;
    assert_eq!(count(&db, "error_logs", &ended).await, nullified["error_logs"]);
    db.close().await;
}

async fn repeats_itself(first: &GenerateOptions, second: &GenerateOptions) {
    let hashes = table_hashes(&first.url).await.unwrap();
    assert_eq!(
        hashes.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        schema::TABLES.into_iter().collect()
    );
    generate(second).await.unwrap();
    assert_eq!(hashes, table_hashes(&second.url).await.unwrap());

    let other = GenerateOptions {
        seed: first.seed + 1,
        drop_existing: true,
        ..second.clone()
    };
    generate(&other).await.unwrap();
    for (table, hash) in table_hashes(&other.url).await.unwrap() {
        assert_ne!(hashes[&table], hash, "{table} does not depend on the seed");
    }
}

/// One changed value, in whatever table, changes that table's hash and no other; the value put back brings the hash back.
async fn notices_one_value(url: &str) {
    let before = table_hashes(url).await.unwrap();
    let db = Db::open(url).await.unwrap();
    let victim = &db
        .fetch_text("SELECT id, score FROM leaderboard_entries ORDER BY id LIMIT 1")
        .await
        .unwrap()[0];
    let (id, score) = (victim[0].clone().unwrap(), victim[1].clone().unwrap());
    db.execute(&format!(
        "UPDATE leaderboard_entries SET score = score + 0.1 WHERE id = '{id}'"
    ))
    .await
    .unwrap();
    let mut changed = table_hashes(url).await.unwrap();
    assert_ne!(before["leaderboard_entries"], changed["leaderboard_entries"]);
    db.execute(&format!("UPDATE leaderboard_entries SET score = {score} WHERE id = '{id}'"))
        .await
        .unwrap();
    changed.insert("leaderboard_entries".to_owned(), before["leaderboard_entries"].clone());
    assert_eq!(before, changed);
    assert_eq!(before, table_hashes(url).await.unwrap());
    db.close().await;
}

async fn refuses_what_exists(options: &GenerateOptions) {
    let before = table_hashes(&options.url).await.unwrap();
    let refusal = generate(options).await.unwrap_err().to_string();
    assert!(refusal.contains("user_progress") && refusal.contains("--drop"), "{refusal}");
    assert!(single_table(&options.url, 1_000, 0.2, 1).await.is_err());
    assert_eq!(before, table_hashes(&options.url).await.unwrap());
}

/// `--drop` drops the platform's tables and nothing else.
async fn spares_other_tables(options: &GenerateOptions) {
    let db = Db::open(&options.url).await.unwrap();
    db.execute("CREATE TABLE not_the_platforms (id integer); INSERT INTO not_the_platforms VALUES (1)")
        .await
        .unwrap();
    db.close().await;
    generate(&GenerateOptions {
        drop_existing: true,
        ..options.clone()
    })
    .await
    .unwrap();
    drop_tables(&options.url).await.unwrap();
    assert!(table_hashes(&options.url).await.unwrap().is_empty());
    let db = Db::open(&options.url).await.unwrap();
    assert_eq!(db.count("not_the_platforms").await.unwrap(), 1);
    db.close().await;
}

async fn makes_exact_benchmark_tables(url: &str) {
    let truth = single_table(url, 12_345, 0.2, 3).await.unwrap();
    assert_eq!(
        (truth.users, truth.user_progress, truth.orphans, truth.api_logs),
        (1_234, 12_345, 2_469, 12_345)
    );
    let db = Db::open(url).await.unwrap();
    assert_eq!(db.count("users").await.unwrap(), truth.users);
    assert_eq!(db.count("user_progress").await.unwrap(), truth.user_progress);
    assert_eq!(count(&db, "user_progress", NO_USER).await, truth.orphans);
    assert_eq!(db.count("api_logs").await.unwrap(), truth.api_logs);
    let old = if url.starts_with("postgres") {
        "created_at < now() - interval '1 year'"
    } else {
        "created_at < unixepoch('now', '-1 year')"
    };
    assert_eq!(count(&db, "api_logs", old).await, truth.expired);
    db.close().await;
}

#[tokio::test]
async fn sqlite_truth_agrees_with_sql() {
    let files = Sqlite::new();
    let plain = options(&files.url("plain.db"));
    agrees_with_sql(&plain.url, &generate(&plain).await.unwrap()).await;

    let declared = GenerateOptions {
        declared_keys: true,
        ..options(&files.url("declared.db"))
    };
    let truth = generate(&declared).await.unwrap();
    agrees_with_sql(&declared.url, &truth).await;
    agrees_on_declared_keys(&declared.url, &truth).await;

    let smallest = GenerateOptions {
        rows: 1_000,
        ..options(&files.url("smallest.db"))
    };
    agrees_with_sql(&smallest.url, &generate(&smallest).await.unwrap()).await;
}

#[tokio::test]
async fn sqlite_generation_repeats_itself_and_refuses_what_exists() {
    let files = Sqlite::new();
    let first = options(&files.url("first.db"));
    generate(&first).await.unwrap();
    repeats_itself(&first, &options(&files.url("second.db"))).await;
    notices_one_value(&first.url).await;
    refuses_what_exists(&first).await;
    spares_other_tables(&first).await;
}

#[tokio::test]
async fn sqlite_benchmark_tables_are_exact() {
    let files = Sqlite::new();
    makes_exact_benchmark_tables(&files.url("single.db")).await;
}

#[tokio::test]
async fn postgres_truth_agrees_with_sql() {
    let plain = options(&fresh_database("plain").await.unwrap());
    agrees_with_sql(&plain.url, &generate(&plain).await.unwrap()).await;

    let declared = GenerateOptions {
        declared_keys: true,
        ..options(&fresh_database("declared").await.unwrap())
    };
    let truth = generate(&declared).await.unwrap();
    agrees_with_sql(&declared.url, &truth).await;
    agrees_on_declared_keys(&declared.url, &truth).await;
}

#[tokio::test]
async fn postgres_generation_repeats_itself_and_refuses_what_exists() {
    let first = options(&fresh_database("first").await.unwrap());
    generate(&first).await.unwrap();
    repeats_itself(&first, &options(&fresh_database("second").await.unwrap())).await;
    notices_one_value(&first.url).await;
    refuses_what_exists(&first).await;
    spares_other_tables(&first).await;
}

#[tokio::test]
async fn postgres_benchmark_tables_are_exact() {
    makes_exact_benchmark_tables(&fresh_database("single").await.unwrap()).await;
}

#[tokio::test]
async fn both_databases_get_the_same_truth() -> Result<()> {
    let files = Sqlite::new();
    let mut sqlite = generate(&options(&files.url("same.db"))).await?;
    let postgres = generate(&options(&fresh_database("same").await?)).await?;
    sqlite.database.clone_from(&postgres.database);
    assert_eq!(sqlite, postgres);
    Ok(())
}

#[tokio::test]
async fn impossible_requests_are_refused() {
    let files = Sqlite::new();
    let few = GenerateOptions {
        rows: 999,
        ..options(&files.url("few.db"))
    };
    assert!(generate(&few).await.unwrap_err().to_string().contains("1000 rows or more"));
    let url = "mysql://somebody:secret@localhost/platform";
    let refusal = format!("{:#}", generate(&options(url)).await.unwrap_err());
    assert!(
        refusal.contains("sqlite:// or postgres://") && !refusal.contains("secret"),
        "{refusal}"
    );
    assert!(single_table(&files.url("few.db"), 1_000, 1.5, 1).await.is_err());
    assert!(
        table_hashes(&files.url("missing.db")).await.is_err(),
        "hashing must not make a file"
    );
}

/// The names that tests and the demonstration look up must be those that the server reads.
#[tokio::test]
async fn truth_and_catalog_name_the_same_rules() {
    let files = Sqlite::new();
    let truth = generate(&GenerateOptions {
        rows: 1_000,
        now: Timestamp::now(),
        ..options(&files.url("names.db"))
    })
    .await
    .unwrap();
    let catalog: toml::Table = CATALOG.parse().unwrap();
    let text = |value: &toml::Value, key: &str| value[key].as_str().unwrap().to_owned();
    let declared: Vec<_> = catalog["operation"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|operation| {
            let rules = operation["rule"].as_array().unwrap();
            rules
                .iter()
                .map(move |rule| (text(operation, "name"), text(rule, "name"), text(rule, "table")))
        })
        .collect();
    let known: Vec<_> = truth
        .operations
        .iter()
        .flat_map(|operation| {
            operation
                .rules
                .iter()
                .map(|rule| (operation.name.clone(), rule.name.clone(), rule.table.clone()))
        })
        .collect();
    assert_eq!(declared, known);
}
