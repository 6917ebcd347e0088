//! Reading runs: one, or a page of those that pass a filter.

use dbkeep_engine::{
    model::{Run, RunId, RunKind},
    port::{BackupStanding, EndedRuns, RunFilter, StoreError},
};
use sqlx::{Any, AssertSqlSafe, any::AnyArguments, query::Query};

use super::{ControlStore, failure::corrupt, rows};

/// A value for a placeholder.
enum Value {
    Text(String),
    Number(i64),
}

/// Conditions that all have to hold, with numbered placeholders.
#[derive(Default)]
struct Conditions {
    sql: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn placeholder(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    /// The text after `WHERE`.
    fn text(&self) -> String {
        if self.sql.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", self.sql.join(" AND "))
        }
    }

    /// A column that has one of these values; none of them does not filter.
    fn any_of(&mut self, column: &str, values: impl Iterator<Item = &'static str>) {
        let placeholders = values
            .map(|value| self.placeholder(Value::Text(value.to_owned())))
            .collect::<Vec<_>>();
        if !placeholders.is_empty() {
            self.sql.push(format!("{column} IN ({})", placeholders.join(", ")));
        }
    }

    fn of(filter: &RunFilter, before: Option<RunId>) -> Self {
        let mut conditions = Self::default();
        if let Some(target) = &filter.target {
            let target = conditions.placeholder(Value::Text(rows::text(target)));
            conditions.sql.push(format!("target = {target}"));
        }
        conditions.any_of("state", filter.states.iter().map(|state| state.name()));
        conditions.any_of("kind", filter.kinds.iter().map(|kind| kind.name()));
        if let Some(operation) = &filter.operation {
            let operation = conditions.placeholder(Value::Text(rows::text(operation)));
            conditions.sql.push(format!(
                "id IN (SELECT run_id FROM run_operations WHERE operation = {operation})"
            ));
        }
        if let Some(after) = filter.created_after {
            let after = conditions.placeholder(Value::Number(after.as_millisecond()));
            conditions.sql.push(format!("created_ms >= {after}"));
        }
        if filter.captured {
            // The condition of the index `runs_with_backup`, word for word.
            let backup = "(captured_rows > 0 OR (kind = 'backup' AND state = 'succeeded'))";
            conditions.sql.push(backup.to_owned());
        }
        if filter.attempted {
            conditions.sql.push("attempts > 0".to_owned());
        }
        if let Some(before) = before {
            let before = conditions.placeholder(Value::Text(before.to_string()));
            conditions.sql.push(format!("id < {before}"));
        }
        conditions
    }
}

fn bind(sql: String, values: Vec<Value>) -> Query<'static, Any, AnyArguments> {
    values
        .into_iter()
        .fold(sqlx::query(AssertSqlSafe(sql)), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
        })
}

impl ControlStore {
    pub(super) async fn read_run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        let sql = format!("{} WHERE id = $1", rows::select_run());
        let row = self
            .read(
                sqlx::query(AssertSqlSafe(sql))
                    .bind(id.to_string())
                    .fetch_optional(&self.pool),
            )
            .await?;
        Ok(row.as_ref().map(rows::stored_run).transpose()?.map(|stored| stored.run))
    }

    pub(super) async fn read_runs(&self, filter: &RunFilter, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, StoreError> {
        let mut conditions = Conditions::of(filter, before);
        let limit = conditions.placeholder(Value::Number(i64::from(limit)));
        let sql = format!("{} {} ORDER BY id DESC LIMIT {limit}", rows::select_run(), conditions.text());
        let found = self.read(bind(sql, conditions.values).fetch_all(&self.pool)).await?;
        found
            .iter()
            .map(|row| rows::stored_run(row).map(|stored| stored.run))
            .collect()
    }

    pub(super) async fn read_ended_runs(&self) -> Result<Vec<EndedRuns>, StoreError> {
        // The condition of the index `runs_ended`, word for word.
        let query = sqlx::query(
            "SELECT target, kind, state, COUNT(*) AS runs FROM runs \
             WHERE state IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled') \
             GROUP BY target, kind, state ORDER BY target, kind, state",
        );
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let mut ended = Vec::with_capacity(found.len());
        for row in &found {
            let (kind, state): (String, String) = (rows::column_of(row, "kind")?, rows::column_of(row, "state")?);
            let runs: i64 = rows::column_of(row, "runs")?;
            ended.push(EndedRuns {
                target: rows::column_of(row, "target")?,
                kind: rows::kind_of(&kind).ok_or_else(|| corrupt(format!("kind {kind:?} of a run")))?,
                state: rows::state_of(&state).ok_or_else(|| corrupt(format!("state {state:?} of a run")))?,
                runs: u64::try_from(runs).unwrap_or_default(),
            });
        }
        Ok(ended)
    }

    pub(super) async fn read_backup_standing(&self, target: &str) -> Result<BackupStanding, StoreError> {
        let filter = RunFilter {
            target: Some(target.to_owned()),
            kinds: RunKind::SAVING.to_vec(),
            captured: true,
            ..RunFilter::default()
        };
        let conditions = Conditions::of(&filter, None);
        let sql = format!(
            "SELECT COUNT(*) AS kept, MIN(created_ms) AS oldest_ms, MAX(id) AS newest, \
             MAX(CASE WHEN verification = 'verified' THEN verified_ms END) AS proven_ms, \
             COUNT(CASE WHEN verification = 'damaged' THEN 1 END) AS damaged, \
             MAX(CASE WHEN verification = 'damaged' THEN id END) AS newest_damaged FROM runs {} AND pruned_ms IS NULL",
            conditions.text()
        );
        let row = self.read(bind(sql, conditions.values).fetch_one(&self.pool)).await?;
        let count = |column: &str| -> Result<u64, StoreError> {
            let number: i64 = rows::column_of(&row, column)?;
            Ok(u64::try_from(number).unwrap_or_default())
        };
        let time = |column: &str| -> Result<Option<jiff::Timestamp>, StoreError> {
            let at_ms: Option<i64> = rows::column_of(&row, column)?;
            let strange = |_| corrupt(format!("{column} of the backups of {target}"));
            at_ms.map(jiff::Timestamp::from_millisecond).transpose().map_err(strange)
        };
        let run = |column: &str| -> Result<Option<RunId>, StoreError> {
            let id: Option<String> = rows::column_of(&row, column)?;
            let strange = |_| corrupt(format!("{column} of the backups of {target}"));
            id.map(|id| id.parse()).transpose().map_err(strange)
        };
        Ok(BackupStanding {
            kept: count("kept")?,
            oldest: time("oldest_ms")?,
            newest: run("newest")?,
            proven: time("proven_ms")?,
            damaged: count("damaged")?,
            newest_damaged: run("newest_damaged")?,
        })
    }

    pub(super) async fn read_run_of_request(&self, request_id: &str) -> Result<Option<(RunId, String)>, StoreError> {
        let query = sqlx::query("SELECT id, request_digest FROM runs WHERE request_id = $1").bind(rows::text(request_id));
        let Some(row) = self.read(query.fetch_optional(&self.pool)).await? else {
            return Ok(None);
        };
        let id: String = rows::column_of(&row, "id")?;
        let run = id.parse().map_err(|_| corrupt(format!("id {id:?} of a run")))?;
        Ok(Some((run, rows::column_of(&row, "request_digest")?)))
    }
}
