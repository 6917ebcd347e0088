//! The port for acts on whole tables; each has its own file.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{DeadRows, IndexSpace, IndexSurvey, RunId, SampledTable, SizeSnapshot, TableName, TableSpace},
    port::{
        Claim, DumpOrder, DumpScope, Dumped, LoadOrder, Loaded, Maintenance, MaintenanceError, SampleOrder, TableLayout, Target,
        TargetError, TargetErrorClass, Watch,
    },
};

use super::{PostgresTarget, journal};

#[async_trait]
impl Maintenance for PostgresTarget {
    fn unsupported(&self, _: &str) -> Option<&'static str> {
        None
    }

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

    async fn dead_rows(&self) -> Result<Vec<DeadRows>, MaintenanceError> {
        self.tables_with_dead_rows().await
    }

    async fn vacuum_file(&self, _: &Watch) -> Result<TableSpace, MaintenanceError> {
        let message = "tables of PostgreSQL have files of their own, and are vacuumed one by one";
        Err(TargetError::new(TargetErrorClass::Unsupported, message).into())
    }

    async fn survey_indexes(&self, watch: &Watch) -> Result<IndexSurvey, MaintenanceError> {
        self.look_at_indexes(watch).await
    }

    async fn reindex(&self, run: RunId, index: &TableName, watch: &Watch) -> Result<IndexSpace, MaintenanceError> {
        self.rebuild_index(run, index, watch).await
    }

    async fn settle_reindex(&self, run: RunId, index: &TableName) -> Result<Vec<TableName>, MaintenanceError> {
        self.settle_rebuild(run, index).await
    }

    async fn sizes(&self, tables: Option<&[TableName]>) -> Result<SizeSnapshot, MaintenanceError> {
        self.measure(tables).await
    }

    async fn forget(&self, run: RunId) -> Result<u64, MaintenanceError> {
        let mut connection = self.connection().await?;
        let forgotten = journal::forget(&mut connection, run).await?;
        self.idle.put(connection);
        Ok(forgotten)
    }
}
