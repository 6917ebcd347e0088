//! The three logs.

use super::people::Tokens;
use super::{Along, Platform, Space, email, flag, rule};
use crate::generate::random::{Quota, Random};
use crate::generate::rows::{Closed, Micros, RowWriter, Rows};
use crate::generate::times::{LogTimes, whole};
use crate::truth::RuleTruth;

const LEVELS: [&str; 8] = ["info", "info", "info", "info", "info", "debug", "warn", "error"];
const PATHS: [&str; 8] = [
    "/api/v1/lessons",
    "/api/v1/lessons/compile",
    "/api/v1/progress",
    "/api/v1/achievements",
    "/api/v1/leaderboard?page=2",
    "/api/v1/session/refresh",
    "/api/v1/courses/solidity%20basics",
    "/healthz",
];
const ERRORS: [&str; 5] = ["CompileError", "TimeoutError", "TypeError", "DatabaseError", "OutOfGas"];
const ACTIONS: [&str; 5] = [
    "user.login",
    "user.role_changed",
    "course.published",
    "lesson.edited",
    "export.requested",
];

impl Platform {
    /// In the order of time, as logs are written.
    pub(super) fn api_logs<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<RuleTruth, Closed> {
        rows.table("api_logs")?;
        let mut random = self.random(Space::ApiLogs);
        let mut times = LogTimes::in_order(self.sizes.api_logs, 300, self.year_ago, self.now_micros);
        for index in 0..self.sizes.api_logs {
            let created = times.next(&mut random);
            api_log(rows, index, created, &mut random)?;
        }
        Ok(rule("api_logs", "api_logs", times.expired))
    }

    /// Also tells how many rows name a session that goes: by its end, and along with its user.
    pub(super) fn error_logs<W: RowWriter>(
        &self,
        rows: &mut Rows<W>,
        sessions: &Tokens,
    ) -> Result<(RuleTruth, u64, Along), Closed> {
        rows.table("error_logs")?;
        let mut random = self.random(Space::ErrorLogs);
        let size = self.sizes.error_logs;
        let mut times = LogTimes::in_order(size, 250, self.year_ago, self.now_micros);
        let mut without_session = Quota::per_mille(600, size);
        let (mut of_ended_sessions, mut along) = (0, Along::default());
        for index in 0..size {
            let created = times.next(&mut random);
            let session = random.below(self.sizes.sessions);
            let named = !without_session.draw(&mut random);
            let of_ended = flag(&sessions.ended, session);
            of_ended_sessions += u64::from(named && of_ended);
            if named && flag(&sessions.theirs, session) {
                along.add(!of_ended && created.is_none_or(|created| created >= self.year_ago));
            }
            let row = rows.row();
            row.integer(number(index));
            row.time_or_null(created);
            row.text(random.pick(&ERRORS));
            row.key_or_null(named.then(|| self.key(Space::Sessions, session)));
            row.text(&format!(
                r#"{{"line": {}, "message": "unexpected \"{}\"", "retried": {}}}"#,
                random.below(400),
                random.pick(&ACTIONS),
                random.chance(500)
            ));
            rows.end_row()?;
        }
        Ok((rule("error_logs", "error_logs", times.expired), of_ended_sessions, along))
    }

    /// In no order, as after an import: old rows are spread over the whole table.
    pub(super) fn audit_logs<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<RuleTruth, Closed> {
        rows.table("audit_logs")?;
        let mut random = self.random(Space::AuditLogs);
        let mut times = LogTimes::shuffled(self.sizes.audit_logs, 200, self.two_years_ago, self.now_micros);
        for index in 0..self.sizes.audit_logs {
            let created = times.next(&mut random);
            let row = rows.row();
            row.integer(number(index));
            row.time_or_null(created);
            row.text(random.pick(&ACTIONS));
            if random.chance(50) {
                row.null();
            } else {
                row.text(&format!(
                    r#"{{"by": "{}", "ip": "10.{}.{}.7"}}"#,
                    email(random.below(self.sizes.users)),
                    random.below(256),
                    random.below(256)
                ));
            }
            rows.end_row()?;
        }
        Ok(rule("audit_logs", "audit_logs", times.expired))
    }
}

/// Writes one row of `api_logs`, whose columns are the same in the benchmark schema.
pub(in crate::generate) fn api_log<W: RowWriter>(
    rows: &mut Rows<W>,
    index: u64,
    created: Option<Micros>,
    random: &mut Random,
) -> Result<(), Closed> {
    let row = rows.row();
    row.integer(number(index));
    match created {
        Some(created) => row.epoch_time(created),
        None => row.null(),
    }
    row.text(random.pick(&LEVELS));
    row.text(random.pick(&PATHS));
    row.text(&format!(
        r#"{{"status":{},"ms":{},"request":"{:012x}"}}"#,
        200 + random.below(4) * 100,
        random.below(2_000),
        random.below(1 << 48)
    ));
    rows.end_row()
}

/// The number of a row in a column that counts from 1.
fn number(index: u64) -> i64 {
    whole(index) + 1
}
