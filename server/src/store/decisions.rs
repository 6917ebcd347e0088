//! The record of decisions: added to, read, never changed.

use dbkeep_engine::{
    model::{Act as DecidedAct, Caller, Decision, DecisionId, Outcome, PlanId},
    port::{DecisionFilter, StoreError},
};
use sqlx::{AssertSqlSafe, any::AnyRow};
use uuid::Uuid;

use super::{
    ControlStore,
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

const COLUMNS: &str = "id, at_ms, principal, peer, act, target, run_id, plan_id, outcome, reason, detail";

/// Adds an entry to the open transaction. The same entry again changes nothing.
pub(super) async fn insert(tx: &mut Tx<'_>, decision: &Decision) -> Result<(), Failure> {
    let sql = format!(
        "INSERT INTO decisions ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(decision.id.to_string())
        .bind(decision.at.as_millisecond())
        .bind(rows::text(&decision.caller.principal))
        .bind(rows::text(&decision.caller.peer))
        .bind(decision.act.name())
        .bind(rows::text(&decision.target))
        .bind(decision.run.map(|run| run.to_string()))
        .bind(decision.plan.map(|plan| plan.to_string()))
        .bind(decision.outcome.name())
        .bind(rows::text(&decision.reason))
        .bind(rows::text(&decision.detail))
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}

/// Adds an entry in a transaction of its own.
pub(super) struct Record {
    decision: Decision,
}

impl Record {
    pub(super) fn new(decision: &Decision) -> Self {
        Self {
            decision: decision.clone(),
        }
    }
}

impl Act for Record {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        insert(tx, &self.decision).await
    }
}

impl ControlStore {
    pub(super) async fn read_decisions(
        &self,
        filter: &DecisionFilter,
        before: Option<DecisionId>,
        limit: u32,
    ) -> Result<Vec<Decision>, StoreError> {
        let parts = [
            ("run_id =", filter.run.map(|run| run.to_string())),
            ("plan_id =", filter.plan.map(|plan| plan.to_string())),
            ("outcome =", filter.outcome.map(|outcome| outcome.name().to_owned())),
            ("id <", before.map(|id| id.to_string())),
        ];
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for (condition, value) in parts {
            if let Some(value) = value {
                values.push(value);
                conditions.push(format!("{condition} ${}", values.len()));
            }
        }
        let place = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM decisions {place} ORDER BY id DESC LIMIT ${}",
            values.len() + 1
        );
        let query = values
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        let found = self.read(query.bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        found.iter().map(decision).collect()
    }
}

fn decision(row: &AnyRow) -> Result<Decision, StoreError> {
    let id: String = rows::column_of(row, "id")?;
    let strange = |column: &str, value: &str| corrupt(format!("{column} {value:?} of decision {id}"));
    let (act, outcome): (String, String) = (rows::column_of(row, "act")?, rows::column_of(row, "outcome")?);
    let plan: Option<String> = rows::column_of(row, "plan_id")?;
    let at_ms: i64 = rows::column_of(row, "at_ms")?;
    Ok(Decision {
        id: DecisionId(Uuid::try_parse(&id).map_err(|_| strange("id", &id))?),
        at: jiff::Timestamp::from_millisecond(at_ms).map_err(|_| strange("at_ms", &at_ms.to_string()))?,
        caller: Caller {
            principal: rows::column_of(row, "principal")?,
            peer: rows::column_of(row, "peer")?,
        },
        act: DecidedAct::ALL
            .into_iter()
            .find(|known| known.name() == act)
            .ok_or_else(|| strange("act", &act))?,
        target: rows::column_of(row, "target")?,
        run: rows::optional_id(row, "run_id")?,
        plan: plan
            .map(|plan| Uuid::try_parse(&plan).map(PlanId).map_err(|_| strange("plan_id", &plan)))
            .transpose()?,
        outcome: Outcome::ALL
            .into_iter()
            .find(|known| known.name() == outcome)
            .ok_or_else(|| strange("outcome", &outcome))?,
        reason: rows::column_of(row, "reason")?,
        detail: rows::column_of(row, "detail")?,
    })
}
