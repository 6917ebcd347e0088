//! The servers that work with this store: each says regularly that it is there.

use std::time::Duration;

use dbkeep_engine::{
    model::{ServerInfo, ServerSeen},
    port::StoreError,
};
use jiff::{SignedDuration, Timestamp};
use sqlx::AssertSqlSafe;

use super::{
    ControlStore,
    draft::term_ms,
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

/// How long a server that is gone stays on the list.
const KEPT_MS: i64 = 24 * 60 * 60 * 1_000;

/// A sign of life.
pub(super) struct Beat {
    server: ServerInfo,
    clock: Timestamp,
}

impl Beat {
    pub(super) fn new(server: &ServerInfo, clock: Timestamp) -> Self {
        Self {
            server: server.clone(),
            clock,
        }
    }
}

impl Act for Beat {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        let now = tx.dialect.now_ms();
        let sql = format!(
            "INSERT INTO servers (id, address, host, version, started_ms, seen_ms, clock_ahead_ms) \
             VALUES ($1, $2, $3, $4, $5, {now}, $6 - {now}) ON CONFLICT (id) DO UPDATE SET address = excluded.address, \
             seen_ms = excluded.seen_ms, clock_ahead_ms = excluded.clock_ahead_ms"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(rows::text(&self.server.id))
            .bind(rows::text(&self.server.address))
            .bind(rows::text(&self.server.host))
            .bind(rows::text(&self.server.version))
            .bind(self.server.started_at.as_millisecond())
            .bind(self.clock.as_millisecond())
            .execute(&mut *tx.connection)
            .await?;
        let sql = format!("DELETE FROM servers WHERE seen_ms < {now} - {KEPT_MS}");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx.connection).await?;
        Ok(())
    }
}

/// Takes a server off the list.
pub(super) struct Farewell {
    id: String,
}

impl Farewell {
    pub(super) fn new(id: &str) -> Self {
        Self { id: rows::text(id) }
    }
}

impl Act for Farewell {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        sqlx::query("DELETE FROM servers WHERE id = $1")
            .bind(&self.id)
            .execute(&mut *tx.connection)
            .await?;
        Ok(())
    }
}

impl ControlStore {
    pub(super) async fn read_servers(&self, term: Duration) -> Result<Vec<ServerSeen>, StoreError> {
        let sql = format!(
            "SELECT id, address, host, version, started_ms, seen_ms, clock_ahead_ms, {} - seen_ms AS silent_ms FROM servers ORDER BY started_ms DESC, id",
            self.dialect.now_ms()
        );
        let found = self.read(sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool)).await?;
        let mut servers = Vec::with_capacity(found.len());
        for row in &found {
            let time = |column: &str| -> Result<Timestamp, StoreError> {
                Timestamp::from_millisecond(rows::column_of(row, column)?).map_err(|_| corrupt(format!("{column} of a server")))
            };
            servers.push(ServerSeen {
                server: ServerInfo {
                    id: rows::column_of(row, "id")?,
                    address: rows::column_of(row, "address")?,
                    host: rows::column_of(row, "host")?,
                    version: rows::column_of(row, "version")?,
                    started_at: time("started_ms")?,
                },
                seen_at: time("seen_ms")?,
                alive: rows::column_of::<i64>(row, "silent_ms")? <= term_ms(term),
                clock_ahead: SignedDuration::from_millis(rows::column_of(row, "clock_ahead_ms")?),
            });
        }
        Ok(servers)
    }
}
