//! A primary and its standby, each a private cluster of its own ([`PrivatePostgres`]), which end as those do.
//!
//! Replication is synchronous: the primary acknowledges a COMMIT when the standby has it on its disk (`synchronous_commit = on` together with
//! `synchronous_standby_names`). That is what makes a failover testable, and what an operator needs for the same guarantee: **whatever was
//! acknowledged is there after a promotion**, and what was not acknowledged may or may not be. Without it a promotion may lose the last
//! transactions that were acknowledged, and a program that was told of them can only find out by looking.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use crate::postgres::{Durability, PrivatePostgres};

/// Longest wait for the standby to stream.
const STREAMING: Duration = Duration::from_secs(60);
/// How often is looked whether it does: the primary tells nobody.
const LOOK: Duration = Duration::from_millis(50);

/// A primary, and a standby that has every transaction that the primary acknowledged.
#[derive(Debug)]
pub struct ReplicatedPostgres {
    primary: PrivatePostgres,
    standby: PrivatePostgres,
}

impl ReplicatedPostgres {
    /// Makes both, and returns when the standby streams synchronously.
    ///
    /// # Errors
    /// As [`PrivatePostgres::start`], and where the standby does not stream.
    pub async fn start() -> Result<Self> {
        let primary = PrivatePostgres::start(Durability::Fast).await?;
        // The copy of the primary has its settings; once promoted it must not wait for a standby, which it has none of.
        let settings = [("synchronous_standby_names", "")];
        let standby = PrivatePostgres::start_from(Some(primary.port()), Durability::Fast, &settings).await?;
        let mut connection = PgConnection::connect(&primary.url("postgres")).await?;
        // Only now: a primary that is to wait for a standby acknowledges nothing before there is one.
        for sql in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"] {
            sqlx::query(sql).execute(&mut connection).await.context(sql)?;
        }
        let begun = Instant::now();
        loop {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
            let streaming: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
            if streaming == 1 {
                break;
            }
            if begun.elapsed() > STREAMING {
                bail!("the standby does not stream after {} s", STREAMING.as_secs());
            }
            sleep(LOOK).await;
        }
        connection.close().await?;
        Ok(Self { primary, standby })
    }

    /// The URL of a database on both, for a program that finds the one that takes writes.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}?target_session_attrs=read-write",
            self.primary.port(),
            self.standby.port()
        )
    }

    /// The cluster that was the primary at the start.
    #[must_use]
    pub fn primary(&self) -> &PrivatePostgres {
        &self.primary
    }

    /// The cluster that was the standby at the start.
    #[must_use]
    pub fn standby(&self) -> &PrivatePostgres {
        &self.standby
    }

    /// Kills the primary, with SIGKILL to all of its processes.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_primary(&self) -> Result<()> {
        self.primary.kill().await
    }

    /// Makes the standby the primary; returns when it takes writes.
    ///
    /// # Errors
    /// When it is one already.
    pub async fn promote(&self) -> Result<()> {
        self.standby.promote().await
    }

    /// Kills the primary and makes the standby the primary.
    ///
    /// # Errors
    /// As [`kill_primary`](Self::kill_primary) and [`promote`](Self::promote).
    pub async fn fail_over(&self) -> Result<()> {
        self.kill_primary().await?;
        self.promote().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_promotion_loses_nothing_that_was_acknowledged() {
        let pair = ReplicatedPostgres::start().await.unwrap();
        pair.primary().create_database("app").await.unwrap();
        let mut connection = PgConnection::connect(&pair.primary().url("app")).await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (id bigint)")
            .execute(&mut connection)
            .await
            .unwrap();
        // It has what was acknowledged on its disk; that it shows it already nobody says.
        let mut standby = PgConnection::connect(&pair.standby().url("postgres")).await.unwrap();
        let refused = sqlx::raw_sql("CREATE TABLE t (id bigint)").execute(&mut standby).await;
        assert!(refused.is_err(), "a standby takes no writes");

        // Somebody writes for as long as the primary lives, and counts what it acknowledged.
        let acknowledged = Arc::new(AtomicI64::new(0));
        let counting = Arc::clone(&acknowledged);
        let writing = tokio::spawn(async move {
            for id in 1_i64.. {
                let written = sqlx::query("INSERT INTO t VALUES ($1)")
                    .bind(id)
                    .execute(&mut connection)
                    .await;
                if written.is_err() {
                    return;
                }
                counting.store(id, Ordering::SeqCst);
            }
        });
        while acknowledged.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
        pair.kill_primary().await.unwrap();
        writing.await.unwrap();
        assert!(pair.kill_primary().await.is_err(), "it is dead");
        pair.promote().await.unwrap();
        assert!(pair.promote().await.is_err(), "it is the primary");

        let mut connection = PgConnection::connect(&pair.standby().url("app")).await.unwrap();
        let newest: i64 = sqlx::query_scalar("SELECT max(id) FROM t")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        // One more may have come over without its word.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&newest),
            "{newest} of {acknowledged}"
        );
        sqlx::raw_sql("INSERT INTO t VALUES (0)")
            .execute(&mut connection)
            .await
            .unwrap();
    }
}
