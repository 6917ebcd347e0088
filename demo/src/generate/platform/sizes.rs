//! How many rows each table gets.

use std::collections::BTreeMap;

use crate::schema::TABLES;

/// Rows per table; together exactly what was asked for.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) users: u64,
    pub(super) courses: u64,
    pub(super) lessons: u64,
    pub(super) achievements: u64,
    pub(super) user_achievements: u64,
    pub(super) user_progress: u64,
    pub(super) leaderboard: u64,
    pub(super) refresh_tokens: u64,
    pub(super) sessions: u64,
    pub(super) reset_tokens: u64,
    pub(super) api_logs: u64,
    pub(super) error_logs: u64,
    pub(super) audit_logs: u64,
    pub(super) cache: u64,
    pub(super) archived: u64,
}

impl Sizes {
    /// Spreads `rows` over the tables: most of them are progress and API logs.
    pub(super) fn spread(rows: u64) -> Self {
        let share = |per_mille: u64, fewest: u64| (rows / 1000 * per_mille + rows % 1000 * per_mille / 1000).max(fewest);
        let mut sizes = Self {
            users: share(40, 20),
            courses: share(1, 5),
            lessons: share(10, 20),
            achievements: share(4, 20),
            user_achievements: share(40, 20),
            user_progress: 0,
            leaderboard: share(25, 20),
            refresh_tokens: share(25, 20),
            sessions: share(25, 20),
            reset_tokens: share(8, 20),
            api_logs: share(320, 20),
            error_logs: share(25, 20),
            audit_logs: share(25, 20),
            cache: share(8, 20),
            archived: share(2, 5),
        };
        // Takes the rest, so that rounding is nowhere visible.
        sizes.user_progress = rows - sizes.tables().values().sum::<u64>();
        sizes
    }

    /// The same by table name.
    pub(super) fn tables(&self) -> BTreeMap<String, u64> {
        // In the order of TABLES.
        let counts = [
            self.users,
            self.courses,
            self.lessons,
            // One edge per lesson.
            self.lessons,
            self.achievements,
            self.user_achievements,
            self.user_progress,
            self.leaderboard,
            self.refresh_tokens,
            self.sessions,
            self.reset_tokens,
            self.api_logs,
            self.error_logs,
            self.audit_logs,
            self.cache,
            self.archived,
        ];
        TABLES
            .iter()
            .zip(counts)
            .map(|(table, count)| ((*table).to_owned(), count))
            .collect()
    }
}
