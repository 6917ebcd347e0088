//! Plans: written once, read by id. The whole plan is one JSON value, so that what was reviewed is what comes back.

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
