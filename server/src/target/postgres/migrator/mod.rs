//! Executes migrations on PostgreSQL and keeps their ledger there. Everything between `BEGIN` and `COMMIT` travels by the simple
//! protocol, with values as literals: a script may drop prepared statements, change the search path or the role, and still the
//! ledger row is written where it belongs.

mod blockers;
mod execute;
mod fingerprint;
mod foreign;
pub(super) mod ledger;
mod look;
mod observe;
mod problem;
mod session;
mod single;

use std::time::Duration;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Fingerprint, ForeignLedger, LedgerEntry, Statement, TableMeasure},
    port::{Claim, Follow, GroupDone, GroupOrder, IndexState, Migrator, MigratorError, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _};

pub(super) use self::session::Sessions;
use super::{PostgresTarget, begin_reading, error::statement};

#[async_trait]
impl Migrator for PostgresTarget {
    async fn ledger(&self) -> Result<Vec<LedgerEntry>, TargetError> {
        let mut connection = self.connection().await?;
        let entries = ledger::all(&mut connection).await?;
        self.idle.put(connection);
        Ok(entries)
    }

    async fn foreign_ledgers(&self) -> Result<Vec<ForeignLedger>, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let ledgers = foreign::ledgers(&mut connection, foreign::Rows::All).await?;
        connection.execute("COMMIT").await.map_err(statement)?;
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
        let mut connection = self.connect().await?;
        ledger::note(&mut connection, claim, entries).await?;
        self.idle.put(connection);
        Ok(())
    }

    async fn check(&self, query: &str) -> Result<Option<String>, TargetError> {
        self.look_whether(query).await
    }

    async fn verify(&self, statements: &[Statement]) -> Result<(), MigratorError> {
        // Not to be used again: a script may have set anything.
        let mut connection = self.connect().await?;
        connection.execute("BEGIN").await.map_err(statement)?;
        for (index, one) in statements.iter().enumerate() {
            let ran = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut connection).await;
            ran.map_err(|error| problem::of_statement(error, index, Vec::new()))?;
        }
        connection.execute("ROLLBACK").await.map_err(statement)?;
        Ok(())
    }

    async fn measure(&self, tables: &[String]) -> Result<Vec<TableMeasure>, TargetError> {
        let mut connection = self.connection().await?;
        let measures = look::measure(&mut connection, tables).await?;
        self.idle.put(connection);
        Ok(measures)
    }

    async fn fingerprint(&self) -> Result<Fingerprint, TargetError> {
        // Not to be used again: its search path is changed.
        let mut connection = self.connect().await?;
        fingerprint::take(&mut connection).await
    }

    async fn violations(&self) -> Result<Vec<String>, TargetError> {
        let mut connection = self.connect().await?;
        look::violations(&mut connection).await
    }

    async fn index_of(&self, one: &Statement, session: &[Statement]) -> Result<Option<(String, IndexState)>, TargetError> {
        self.look_for_index(one, session).await
    }

    async fn drop_invalid_index(&self, claim: Claim, full_name: &str) -> Result<(), MigratorError> {
        self.drop_invalid(claim, full_name).await
    }
}
