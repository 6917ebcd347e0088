//! Which database this is: an id of dbkeep's own, made with its other tables, and where the server says that the database lies.

use dbkeep_engine::{model::Identity, port::TargetError};
use sqlx::Executor as _;
use uuid::Uuid;

use super::{PostgresTarget, error::statement, line::Line};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS dbkeep.identity (id integer PRIMARY KEY CHECK (id = 1), database_id text NOT NULL, made_at timestamptz NOT NULL DEFAULT now()); \
     COMMENT ON TABLE dbkeep.identity IS 'Tells this database from others when a backup is to be restored into it. Delete the row after copying the database.'";

/// Makes the table and the id, where they are missing, in the transaction that is open.
pub(super) async fn make(connection: &mut Line) -> Result<(), TargetError> {
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
        // Without USAGE on the schema even that is refused: then nobody knows the id.
        let there = sqlx::query_scalar("SELECT to_regclass('dbkeep.identity') IS NOT NULL").fetch_one(&mut connection);
        let there: bool = unless_refused(there.await)?.unwrap_or(false);
        let id: Option<String> = if there {
            let id = sqlx::query_scalar("SELECT database_id FROM dbkeep.identity WHERE id = 1").fetch_optional(&mut connection);
            unless_refused(id.await)?.flatten()
        } else {
            None
        };
        let place = sqlx::query_scalar(
            "SELECT 'database ' || d.oid || ' of cluster ' || c.system_identifier FROM pg_catalog.pg_database AS d, pg_catalog.pg_control_system() AS c \
             WHERE d.datname = pg_catalog.current_database()",
        )
        .fetch_optional(&mut connection);
        // A role that may not ask is told so as an error; then only the id counts.
        let place: Option<String> = unless_refused(place.await)?.flatten();
        self.idle.put(connection);
        Ok(Identity {
            id: id.unwrap_or_default(),
            place: place.unwrap_or_default(),
        })
    }
}

/// What was read; nothing where the role may not read it. Whatever else goes wrong is an error: an identity that is not known by accident
/// would let a backup of another database pass.
fn unless_refused<T>(read: Result<T, sqlx::Error>) -> Result<Option<T>, TargetError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => Ok(None),
        Err(error) => Err(statement(error)),
    }
}
