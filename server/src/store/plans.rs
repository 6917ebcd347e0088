//! Plans: written once, read by id. The whole plan is one JSON value, so that what was reviewed is what comes back. Those that started
//! nothing go some time after they expired; those of a run stay, since it and its undo read them.

use dbkeep_engine::{
    model::{Plan, PlanId},
    port::StoreError,
};
use sqlx::Row;

use super::{
    ControlStore,
    failure::Failure,
    rows,
    transaction::{Act, Tx},
};

/// How long a plan that started no run is kept after it expired: for so long its token is told that it is too old, not unknown.
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// Most such plans that go when one comes.
const AT_ONCE: i64 = 100;

/// Keeps a plan. Keeping it again changes nothing.
pub(super) struct Put {
    id: String,
    target: String,
    created_ms: i64,
    expires_ms: i64,
    body: String,
}

impl Put {
    pub(super) fn new(plan: &Plan) -> Result<Self, StoreError> {
        Ok(Self {
            id: plan.id.to_string(),
            target: rows::text(&plan.target),
            created_ms: plan.created_at.as_millisecond(),
            expires_ms: plan.expires_at.as_millisecond(),
            body: rows::to_json(plan)?,
        })
    }
}

impl Act for Put {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        sqlx::query(
            "DELETE FROM plans WHERE id IN (SELECT p.id FROM plans p WHERE p.expires_ms < $1 \
             AND NOT EXISTS (SELECT 1 FROM plan_uses u WHERE u.plan_id = p.id) LIMIT $2)",
        )
        .bind(rows::now().as_millisecond() - KEPT_MS)
        .bind(AT_ONCE)
        .execute(&mut *tx.connection)
        .await?;
        sqlx::query("INSERT INTO plans (id, target, created_ms, expires_ms, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING")
            .bind(&self.id)
            .bind(&self.target)
            .bind(self.created_ms)
            .bind(self.expires_ms)
            .bind(&self.body)
            .execute(&mut *tx.connection)
            .await?;
        Ok(())
    }
}

impl ControlStore {
    pub(super) async fn read_plan(&self, id: PlanId) -> Result<Option<Plan>, StoreError> {
        let row = self
            .read(
                sqlx::query("SELECT body FROM plans WHERE id = $1")
                    .bind(id.to_string())
                    .fetch_optional(&self.pool),
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let body: String = row.try_get(0).map_err(|error| super::failure::store_error(&error))?;
        rows::from_json(&body, || format!("plan {id}")).map(Some)
    }
}
