//! Executes migrations on SQLite and keeps their ledger there. A group is one `BEGIN IMMEDIATE` transaction on a connection of its
//! own: from its begin to its end nobody else writes, so that the fence and the lease that it saw then hold until its commit.

mod children;
mod definition;
mod execute;
mod fingerprint;
mod foreign;
mod keys;
pub(super) mod ledger;
mod look;
mod problem;

use std::time::Duration;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Fingerprint, ForeignLedger, LedgerEntry, Statement, TableMeasure},
    port::{Claim, Follow, GroupDone, GroupOrder, IndexState, Migrator, MigratorError, TargetError},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;

use super::{SqliteTarget, dump::stoppable_by, error::statement, render};

#[async_trait]
impl Migrator for SqliteTarget {
    async fn ledger(&self) -> Result<Vec<LedgerEntry>, TargetError> {
        let mut connection = self.connection().await?;
        let entries = ledger::all(&mut connection).await?;
        self.idle.put(connection);
        Ok(entries)
    }

    async fn foreign_ledgers(&self) -> Result<Vec<ForeignLedger>, TargetError> {
        let mut connection = self.connection().await?;
        let ledgers = foreign::ledgers(&mut connection).await?;
        self.idle.put(connection);
        Ok(ledgers)
    }

    async fn lease(&self, claim: Claim, holder: &str, term: Duration) -> Result<(), MigratorError> {
        let mut connection = self.connection().await?;
        ledger::lease(&mut connection, claim, holder, term).await?;
        self.idle.put(connection);
        Ok(())
    }

    async fn unlease(&self, claim: Claim) -> Result<(), TargetError> {
        let mut connection = self.connection().await?;
        ledger::unlease(&mut connection, claim).await?;
        self.idle.put(connection);
        Ok(())
    }

    async fn execute(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        if order.atomic {
            self.execute_together(order, follow).await
        } else {
            self.execute_alone(order, follow).await
        }
    }

    async fn note(&self, claim: Claim, entries: &[(Option<LedgerEntry>, LedgerEntry)]) -> Result<(), MigratorError> {
        let mut connection = self.connection().await?;
        ledger::note(&mut connection, claim, entries).await?;
        self.idle.put(connection);
        Ok(())
    }

    async fn check(&self, query: &str) -> Result<Option<String>, TargetError> {
        let mut connection = self.apart().await?;
        // Ends the query when nobody waits for it any more.
        let _stop = stoppable_by(&mut connection, CancellationToken::new()).await?;
        let found = look::hold(&mut connection, query).await;
        connection.close().await.map_err(statement)?;
        found
    }

    async fn verify(&self, statements: &[Statement]) -> Result<(), MigratorError> {
        let mut connection = self.apart().await?;
        let _stop = stoppable_by(&mut connection, CancellationToken::new()).await?;
        connection.execute("BEGIN").await.map_err(statement)?;
        for (index, one) in statements.iter().enumerate() {
            let ran = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut connection).await;
            ran.map_err(|error| problem::of_statement(error, index, &one.sql))?;
        }
        connection.execute("ROLLBACK").await.map_err(statement)?;
        connection.close().await.map_err(statement)?;
        Ok(())
    }

    async fn measure(&self, tables: &[String]) -> Result<Vec<TableMeasure>, TargetError> {
        let mut connection = self.connection().await?;
        let measures = look::measure(&mut connection, tables).await?;
        self.idle.put(connection);
        Ok(measures)
    }

    async fn fingerprint(&self) -> Result<Fingerprint, TargetError> {
        let mut connection = self.apart().await?;
        let _stop = stoppable_by(&mut connection, CancellationToken::new()).await?;
        let taken = fingerprint::take(&mut connection).await?;
        connection.close().await.map_err(statement)?;
        Ok(taken)
    }

    async fn violations(&self) -> Result<Vec<String>, TargetError> {
        let mut connection = self.apart().await?;
        let _stop = stoppable_by(&mut connection, CancellationToken::new()).await?;
        let violations = keys::Violations::find(&mut connection).await?;
        connection.close().await.map_err(statement)?;
        Ok(violations.told())
    }

    async fn index_of(&self, one: &Statement, _session: &[Statement]) -> Result<Option<(String, IndexState)>, TargetError> {
        let Some(name) = look::index_of(&one.sql) else {
            return Ok(None);
        };
        let mut connection = self.connection().await?;
        let found = look::index_exists(&mut connection, &name).await?;
        self.idle.put(connection);
        let state = if found { IndexState::Valid } else { IndexState::Absent };
        Ok(Some((format!("main.{}", render::identifier(&name)), state)))
    }

    async fn drop_invalid_index(&self, _claim: Claim, _full_name: &str) -> Result<(), MigratorError> {
        // An index is built in one transaction here: none is ever invalid.
        Ok(())
    }
}
