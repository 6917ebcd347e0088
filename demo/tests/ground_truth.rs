//! The generator against plain SQL: what it says about its rows must be what anybody finds who counts them.
//!
//! The queries here are written by hand, one for each rule, and share nothing with the generator or with dbkeep.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
};

use anyhow::Result;
use dbkeep_demo::{
    CATALOG, GenerateOptions, GroundTruth, drop_tables, folder_hash, generate, generate_files, schema, single_table, table_hashes,
};
use dbkeep_testkit::{Db, fresh_database};
use jiff::Timestamp;

const ROWS: u64 = 20_000;

/// What each rule takes: operation, rule, table, and the condition without the rows that earlier rules of the operation take.
/// [`condition`] fills the placeholders.
const CONDITIONS: [(&str, &str, &str, &str); 19] = [
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
    (
        "orphaned_leaderboard",
        "entries_without_user",
        "leaderboard_entries",
        "user_id IS NOT NULL AND user_id NOT IN (SELECT id FROM users WHERE status NOT IN ('SUSPENDED', 'DELETED'))",
    ),
    (
        "orphaned_leaderboard",
        "duplicate_entries",
        "leaderboard_entries",
        "user_id IN (SELECT id FROM users WHERE status IN ('ACTIVE', 'INACTIVE')) \
         AND EXISTS (SELECT 1 FROM leaderboard_entries AS o WHERE o.user_id = leaderboard_entries.user_id \
         AND o.category = leaderboard_entries.category AND (o.updated_at > leaderboard_entries.updated_at \
         OR (o.updated_at IS NOT NULL AND leaderboard_entries.updated_at IS NULL) \
         OR (o.id < leaderboard_entries.id AND (o.updated_at = leaderboard_entries.updated_at \
         OR (o.updated_at IS NULL AND leaderboard_entries.updated_at IS NULL)))))",
    ),
    (
        "orphaned_prerequisites",
        "prerequisites_of_no_lesson",
        "lesson_prerequisites",
        "lesson_id NOT IN (SELECT id FROM lessons)",
    ),
    (
        "orphaned_prerequisites",
        "prerequisites_on_no_lesson",
        "lesson_prerequisites",
        "prerequisite_id NOT IN (SELECT id FROM lessons) AND lesson_id IN (SELECT id FROM lessons)",
    ),
    ("cached_data", "expired_entries", "cache_entries", "expires_at < '{now}'"),
    (
        "cached_data",
        "entries_of_no_user",
        "cache_entries",
        "substr(cache_key, 1, 5) = 'user:' AND substr(cache_key, 6) NOT IN (SELECT id FROM users) \
         AND (expires_at IS NULL OR expires_at >= '{now}')",
    ),
    ("inactive_accounts", "suspended_users", "users", LEAVING),
    (
        "inactive_accounts",
        "absent_users",
        "users",
        "status = 'ACTIVE' AND coalesce(last_login_at, created_at) < '{login_year}'",
    ),
];

const LEAVING: &str = "status = 'SUSPENDED' AND suspended_at < '{half_year}'";

/// What of a table goes along with the users that leave, and which of it the other operations have not taken before: table, the
/// condition of the former, and that of the latter.
const THEIRS: [(&str, &str, &str); 6] = [
    (
        "user_progress",
        OF_LEAVING,
        "(lesson_id IS NULL OR lesson_id IN (SELECT id FROM lessons)) AND (course_id IS NULL OR course_id IN (SELECT id FROM courses))",
    ),
    ("user_achievements", OF_LEAVING, "{achievement_stays}"),
    ("user_sessions", OF_LEAVING, "(expires_at IS NULL OR expires_at >= '{now}')"),
    ("refresh_tokens", OF_LEAVING, "(expires_at IS NULL OR expires_at >= '{now}')"),
    (
        "password_reset_tokens",
        "email IN (SELECT email FROM users WHERE {leaving})",
        "(expires_at IS NULL OR expires_at >= '{now}')",
    ),
    ("leaderboard_entries", OF_LEAVING, "1 = 0"),
];

const OF_LEAVING: &str = "user_id IN (SELECT id FROM users WHERE {leaving})";

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
        .replace("{login_year}", &format!("2024-06-01 12:00:00{zone}"))
        .replace("{half_year}", &format!("2024-12-01 12:00:00{zone}"))
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
    let postgres = url.starts_with("postgres");
    let achievement_stays = if truth.declared_keys {
        "(achievement_id IS NULL OR achievement_id NOT IN \
         (SELECT id FROM achievements WHERE course_id IS NOT NULL AND course_id NOT IN (SELECT id FROM courses)))"
    } else {
        "1 = 1"
    };
    let suspended = truth.rule("inactive_accounts", "suspended_users").unwrap();
    assert_eq!(
        suspended.cascaded.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        THEIRS.iter().map(|(table, ..)| *table).collect()
    );
    for (table, theirs, left) in THEIRS {
        let theirs = condition(&theirs.replace("{leaving}", LEAVING), postgres);
        assert_eq!(count(&db, table, &theirs).await, suspended.cascaded[table], "{table}");
        let left = condition(&left.replace("{achievement_stays}", achievement_stays), postgres);
        let last = count(&db, table, &format!("{theirs} AND {left}")).await;
        assert_eq!(last, suspended.cascaded_last[table], "{table} after the others");
    }
    let edges = db
        .fetch_text("SELECT lesson_id, prerequisite_id FROM lesson_prerequisites")
        .await
        .unwrap();
    let edges: Vec<(String, String)> = edges
        .into_iter()
        .map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap()))
        .collect();
    let circular = truth.rule("orphaned_prerequisites", "circular_prerequisites").unwrap();
    assert_eq!(fewest_that_break_every_cycle(&edges), circular.rows);
    // Names that only look like a user's, and equal times among duplicates.
    assert!(
        count(
            &db,
            "cache_entries",
            "cache_key LIKE 'User:%' OR cache_key LIKE 'last_user:%'"
        )
        .await
            > 0
    );
    if truth.total_rows == ROWS {
        let ties = "EXISTS (SELECT 1 FROM leaderboard_entries AS o WHERE o.id < leaderboard_entries.id \
                    AND o.user_id = leaderboard_entries.user_id AND o.category = leaderboard_entries.category \
                    AND o.updated_at = leaderboard_entries.updated_at)";
        assert!(count(&db, "leaderboard_entries", ties).await > 0);
    }
    assert!(count(&db, "users", "status = 'SUSPENDED' AND suspended_at IS NULL").await > 0);
    db.close().await;
}

/// Found without any knowledge of how the edges were made: the parts in which every lesson leads to every other are taken by themselves;
/// one with as many edges as lessons is a circle; in any other all choices of edges are tried, the small ones first.
fn fewest_that_break_every_cycle(edges: &[(String, String)]) -> u64 {
    let mut from: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (lesson, prerequisite) in edges {
        from.entry(lesson).or_default().push(prerequisite);
    }
    let reached = |start: &str, without: &dyn Fn(&str, &str) -> bool| -> BTreeSet<String> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(node) = open.pop() {
            for next in from.get(node.as_str()).into_iter().flatten() {
                if !without(&node, next) && reached.insert((*next).to_owned()) {
                    open.push((*next).to_owned());
                }
            }
        }
        reached
    };
    let nodes: Vec<String> = from.keys().map(|node| (*node).to_owned()).collect();
    let from_each: BTreeMap<&String, BTreeSet<String>> = nodes.iter().map(|node| (node, reached(node, &|_, _| false))).collect();
    let mut parts: BTreeMap<&str, Vec<&(String, String)>> = BTreeMap::new();
    for edge in edges {
        if edge.0 == edge.1 || from_each.get(&edge.1).is_some_and(|reached| reached.contains(&edge.0)) {
            // The part is known by its first lesson.
            let both =
                |node: &&String| **node == edge.0 || from_each[&edge.0].contains(*node) && from_each[*node].contains(&edge.0);
            parts.entry(nodes.iter().find(both).unwrap()).or_default().push(edge);
        }
    }
    let mut fewest = 0;
    for part in parts.values() {
        let lessons: BTreeSet<&String> = part.iter().map(|edge| &edge.0).collect();
        if part.len() == lessons.len() {
            fewest += 1;
            continue;
        }
        assert!(part.len() <= 12, "too many edges to try all choices");
        let breaks = |choice: u32| {
            let gone = |node: &str, next: &str| {
                part.iter()
                    .enumerate()
                    .any(|(bit, edge)| choice & (1 << bit) != 0 && edge.0 == node && edge.1 == next)
            };
            lessons.iter().all(|lesson| !reached(lesson, &gone).contains(*lesson))
        };
        let choices = 1..1_u32 << part.len();
        fewest += u64::from(choices.filter(|choice| breaks(*choice)).map(u32::count_ones).min().unwrap());
    }
    fewest
}

/// The files are what the truth says, by their times and by what the rows name.
#[tokio::test]
async fn files_agree_with_the_rows() {
    let files = Sqlite::new();
    let options = GenerateOptions {
        now: Timestamp::now(),
        ..options(&files.url("named.db"))
    };
    let truth = generate(&options).await.unwrap();
    generate_files(&options, files.folder.path()).unwrap();
    let before = ["temp", "uploads"].map(|root| folder_hash(&files.folder.path().join(root)).unwrap());
    assert!(
        generate_files(&options, files.folder.path()).is_err(),
        "folders that exist are refused"
    );

    let db = Db::open(&options.url).await.unwrap();
    let named = "SELECT avatar FROM users WHERE avatar IS NOT NULL UNION SELECT thumbnail FROM courses WHERE thumbnail IS NOT NULL \
                 UNION SELECT attachment FROM lessons WHERE attachment IS NOT NULL";
    let named: BTreeSet<String> = db
        .fetch_text(named)
        .await
        .unwrap()
        .into_iter()
        .filter_map(|row| row[0].clone())
        .collect();
    let (mut old, mut unused, mut used, mut all, mut links) = (0, 0, 0, [0, 0], 0);
    let mut open = vec![files.folder.path().join("temp"), files.folder.path().join("uploads")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry
                .path()
                .strip_prefix(files.folder.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
                continue;
            }
            if entry.file_type().unwrap().is_symlink() {
                links += 1;
                continue;
            }
            let is_old = entry.metadata().unwrap().modified().unwrap().elapsed().unwrap().as_secs() > 86_400;
            all[usize::from(name.starts_with("uploads/"))] += 1;
            match (name.starts_with("temp/"), is_old, named.contains(&name)) {
                (true, true, _) => old += 1,
                (false, true, false) => unused += 1,
                (false, _, true) => used += 1,
                _ => {}
            }
        }
    }
    assert_eq!(old, truth.rule("temporary_files", "stale_temp_files").unwrap().rows);
    assert_eq!(unused, truth.rule("temporary_files", "unused_uploads").unwrap().rows);
    assert!(
        used > 0 && links == 2 && old * 2 < all[0] && unused * 2 < all[1],
        "{used} {links} {all:?}"
    );
    // The hash sees a mode that changed, of files and of folders, and a time that moved.
    for path in ["temp/odd/-rf", "temp/empty"].map(|name| files.folder.path().join(name)) {
        let mode = std::fs::metadata(&path).unwrap().permissions();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).unwrap();
        assert_ne!(before[0], folder_hash(&files.folder.path().join("temp")).unwrap());
        std::fs::set_permissions(&path, mode).unwrap();
        assert_eq!(before[0], folder_hash(&files.folder.path().join("temp")).unwrap());
    }
    let moved = std::fs::File::options()
        .append(true)
        .open(files.folder.path().join("temp/odd/-rf"))
        .unwrap();
    moved.set_modified(std::time::SystemTime::now()).unwrap();
    assert_ne!(before[0], folder_hash(&files.folder.path().join("temp")).unwrap());
    assert_eq!(before[1], folder_hash(&files.folder.path().join("uploads")).unwrap());
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
    let theirs = format!(
        "session_id IN (SELECT id FROM user_sessions WHERE {{open}} user_id IN (SELECT id FROM users WHERE {LEAVING})) AND {{young}}"
    );
    let suspended = truth.rule("inactive_accounts", "suspended_users").unwrap();
    let alone = condition(&theirs.replace("{open}", "").replace("{young}", "1 = 1"), postgres);
    assert_eq!(count(&db, "error_logs", &alone).await, suspended.nullified["error_logs"]);
    let last = theirs
        .replace("{open}", "(expires_at IS NULL OR expires_at >= '{now}') AND")
        .replace("{young}", "(created_at IS NULL OR created_at >= '{year}')");
    assert_eq!(
        count(&db, "error_logs", &condition(&last, postgres)).await,
        suspended.nullified_last["error_logs"]
    );
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
            rules.iter().map(move |rule| {
                // A rule on files has a root instead of a table.
                let table = match rule.get("root") {
                    Some(root) => format!("files:{}", root.as_str().unwrap()),
                    None => text(rule, "table"),
                };
                (text(operation, "name"), text(rule, "name"), table)
            })
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
