//! The port for acts on whole tables; each has its own file.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{RunId, SampledTable, TableName, TableSpace},
    port::{
        Claim, DumpOrder, DumpScope, Dumped, LoadOrder, Loaded, Maintenance, MaintenanceError, SampleOrder, TableLayout, Target,
        Watch,
    },
};

use super::{PostgresTarget, journal};

#[async_trait]
impl Maintenance for PostgresTarget {
    async fn scope(&self, tables: &[TableName]) -> Result<DumpScope, MaintenanceError> {
        self.dump_scope(tables).await
    }

    async fn dump(&self, order: &DumpOrder, watch: &Watch) -> Result<Dumped, MaintenanceError> {
        self.dump_tables(order, watch).await
    }

    async fn may_load(&self, tables: &[TableName], replace: bool) -> Result<(), MaintenanceError> {
        self.check_load(tables, replace).await
    }

    async fn load(&self, order: &LoadOrder, replace: bool, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        self.load_tables(order, replace, watch).await
    }

    async fn load_scratch(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        self.load_database(order, name, watch).await
    }

    async fn sample_scratch(
        &self,
        order: &SampleOrder,
        name: &str,
        watch: &Watch,
    ) -> Result<Vec<SampledTable>, MaintenanceError> {
        watch.or_stop(self.sample_database(order, name, watch)).await
    }

    async fn open_scratch(&self, name: &str) -> Result<Arc<dyn Target>, MaintenanceError> {
        self.open_database(name).await
    }

    async fn drop_scratch(&self, claim: Claim, name: &str) -> Result<(), MaintenanceError> {
        self.drop_database(claim, name).await
    }

    async fn scratch_table(&self, run: RunId, name: &str, layout: &TableLayout) -> Result<TableName, MaintenanceError> {
        self.table_aside(run, name, layout).await
    }

    async fn vacuum(&self, table: &TableName, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        self.vacuum_table(table, watch).await
    }

    async fn forget(&self, run: RunId) -> Result<u64, MaintenanceError> {
        let mut connection = self.connection().await?;
        let forgotten = journal::forget(&mut connection, run).await?;
        self.idle.put(connection);
        Ok(forgotten)
    }
}
