//! Which database this is: an id of dbkeep's own, made with its other tables, and where the server says that the database lies.

use dbkeep_engine::{model::Identity, port::TargetError};
use sqlx::{Executor as _, PgConnection};
use uuid::Uuid;

use super::{PostgresTarget, error::statement};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS dbkeep.identity (id integer PRIMARY KEY CHECK (id = 1), database_id text NOT NULL, made_at timestamptz NOT NULL DEFAULT now()); \
     COMMENT ON TABLE dbkeep.identity IS 'Tells this database from others when a backup is to be restored into it. Delete the row after copying the database.'";

/// Makes the table and the id, where they are missing, in the transaction that is open.
pub(super) async fn make(connection: &mut PgConnection) -> Result<(), TargetError> {
    connection.execute(CREATE).await.map_err(statement)?;
    sqlx::query("INSERT INTO dbkeep.identity (id, database_id) VALUES (1, $1) ON CONFLICT (id) DO NOTHING")
        .bind(Uuid::new_v4().to_string())
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}

impl PostgresTarget {
    pub(super) async fn known_identity(&self) -> Result<Identity, TargetError> {
        let mut connection = self.connection().await?;
        let there: bool = sqlx::query_scalar("SELECT to_regclass('dbkeep.identity') IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let id: Option<String> = if there {
            sqlx::query_scalar("SELECT database_id FROM dbkeep.identity WHERE id = 1")
                .fetch_optional(&mut connection)
                .await
                .map_err(statement)?
        } else {
            None
        };
        let place: Option<String> = sqlx::query_scalar(
            "SELECT 'database ' || d.oid || ' of cluster ' || c.system_identifier FROM pg_catalog.pg_database AS d, pg_catalog.pg_control_system() AS c \
             WHERE d.datname = pg_catalog.current_database() AND pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')",
        )
        .fetch_optional(&mut connection)
        .await
        // A role that may not ask is told so as an error; then only the id counts.
        .unwrap_or_default();
        self.idle.put(connection);
        Ok(Identity {
            id: id.unwrap_or_default(),
            place: place.unwrap_or_default(),
        })
    }
}
