//! The learning platform, as the demonstration generates it: without declared keys all of its relations are found.

use dbkeep_demo::{GenerateOptions, GroundTruth, generate};
use dbkeep_engine::discover::HintKind;

use super::lab::{BOTH, Database, Lab, Labels, line};

const RELATIONS: &[&str] = &[
    "orphan lessons.course_id -> courses.id",
    "orphan lesson_prerequisites.lesson_id -> lessons.id",
    "orphan lesson_prerequisites.prerequisite_id -> lessons.id",
    "orphan achievements.course_id -> courses.id",
    "orphan user_achievements.user_id -> users.id",
    "orphan user_achievements.achievement_id -> achievements.id",
    "orphan user_progress.user_id -> users.id",
    "orphan user_progress.lesson_id -> lessons.id",
    "orphan user_progress.course_id -> courses.id",
    "orphan leaderboard_entries.user_id -> users.id",
    "orphan refresh_tokens.user_id -> users.id",
    "orphan user_sessions.user_id -> users.id",
    "orphan error_logs.session_id -> user_sessions.id",
    "dangling_key cache_entries.cache_key -> users.id",
    "cycle lesson_prerequisites.lesson_id+prerequisite_id",
    "expired refresh_tokens.expires_at",
    "expired user_sessions.expires_at",
    "expired password_reset_tokens.expires_at",
    "expired cache_entries.expires_at",
    "expired api_logs.created_at",
    "expired error_logs.created_at",
    "expired audit_logs.created_at",
];

/// Right, and less sure: a password reset names its user by the address; the board has one entry for each category.
const ALSO_RIGHT: &[&str] = &[
    "orphan password_reset_tokens.email -> users.email",
    "duplicate leaderboard_entries.user_id+category",
];

pub(crate) fn labels() -> Labels {
    Labels::new(RELATIONS, ALSO_RIGHT)
}

/// The platform in a database of its own.
pub(crate) async fn generated(database: Database, declared_keys: bool) -> (Lab, GroundTruth) {
    let lab = Lab::new(database).await;
    let truth = generate(&GenerateOptions {
        url: lab.url.clone(),
        rows: 20_000,
        seed: 7,
        now: "2025-06-01T12:00:00Z".parse().expect("an instant"),
        declared_keys,
        drop_existing: false,
    })
    .await
    .expect("the platform");
    (lab, truth)
}

#[tokio::test]
async fn the_platform_s_relations_are_found_with_exact_counts() {
    for database in BOTH {
        let (lab, truth) = generated(database, false).await;
        let found = lab.discover().await;
        labels().judge(&format!("{database:?}"), &found);
        let count = |what: &str| {
            let proposal = found.proposals.iter().find(|proposal| line(proposal) == what);
            proposal.unwrap_or_else(|| panic!("{what}")).row_count
        };
        let planted = |operation: &str, rule: &str| Some(truth.rule(operation, rule).expect("the rule").rows);
        // Of the first rule of each operation the generator's count needs no exception.
        assert_eq!(
            count("orphan user_progress.user_id -> users.id"),
            planted("orphaned_progress", "progress_without_user")
        );
        assert_eq!(
            count("orphan achievements.course_id -> courses.id"),
            planted("orphaned_achievements", "achievements_without_course")
        );
        assert_eq!(
            count("orphan user_achievements.user_id -> users.id"),
            planted("orphaned_achievements", "user_achievements_without_user")
        );
        // A retention is the owner's to set: until then nothing is old.
        assert_eq!(count("expired api_logs.created_at"), Some(0));
        let logs = found
            .proposals
            .iter()
            .find(|proposal| line(proposal) == "expired api_logs.created_at")
            .expect("logs");
        assert!(
            logs.note.contains("PLACEHOLDER") && logs.toml.contains("# PLACEHOLDER"),
            "{}",
            logs.toml
        );
        let files: Vec<String> = found
            .hints
            .iter()
            .filter(|hint| hint.kind == HintKind::FileReference)
            .map(|hint| format!("{}.{}", hint.table, hint.columns[0]))
            .collect();
        for file in ["users.avatar", "courses.thumbnail", "lessons.attachment"] {
            assert!(files.contains(&file.to_owned()), "{files:?}");
        }
        // The only key that the platform declares is checked by PostgreSQL alone.
        let declared = found
            .proposals
            .iter()
            .find(|proposal| line(proposal) == RELATIONS[0])
            .expect("declared");
        assert!((declared.confidence - if database == Database::Postgres { 1.0 } else { 0.97 }).abs() < 1e-9);
    }
}
