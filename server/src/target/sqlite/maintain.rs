//! The port for acts on whole tables; each has its own file.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{DeadRows, IndexSpace, IndexSurvey, MaintenanceTask, RunId, SampledTable, SizeSnapshot, TableName, TableSpace},
    port::{
        Claim, DumpOrder, DumpScope, Dumped, LoadOrder, Loaded, Maintenance, MaintenanceError, SampleOrder, TableLayout, Target,
        TargetError, TargetErrorClass, Watch,
    },
};

use super::{SqliteTarget, journal};

/// Freed pages of a tree go to the file's free list, so that a rebuild makes nothing smaller.
const NO_REBUILD: &str = "REINDEX of SQLite only mends indexes after a collation has changed, and makes none smaller";

fn no_rebuild() -> TargetError {
    TargetError::new(TargetErrorClass::Unsupported, NO_REBUILD)
}

#[async_trait]
impl Maintenance for SqliteTarget {
    fn unsupported(&self, task: &str) -> Option<&'static str> {
        (task == MaintenanceTask::ReindexBloated.name()).then_some(NO_REBUILD)
    }

    async fn scope(&self, tables: &[TableName]) -> Result<DumpScope, MaintenanceError> {
        self.dump_scope(tables).await
    }

    async fn dump(&self, order: &DumpOrder, watch: &Watch) -> Result<Dumped, MaintenanceError> {
        self.dump_file(order, watch).await
    }

    async fn may_load(&self, tables: &[TableName], replace: bool) -> Result<(), MaintenanceError> {
        self.check_load(tables, replace).await
    }

    async fn load(&self, order: &LoadOrder, replace: bool, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        self.load_tables(order, replace, watch).await
    }

    async fn load_scratch(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        self.load_file(order, name, watch).await
    }

    async fn sample_scratch(
        &self,
        order: &SampleOrder,
        name: &str,
        watch: &Watch,
    ) -> Result<Vec<SampledTable>, MaintenanceError> {
        self.sample_file(order, name, watch).await
    }

    async fn open_scratch(&self, name: &str) -> Result<Arc<dyn Target>, MaintenanceError> {
        self.open_file_aside(name).await
    }

    async fn drop_scratch(&self, claim: Claim, name: &str) -> Result<(), MaintenanceError> {
        self.drop_file(claim, name).await
    }

    async fn scratch_table(&self, run: RunId, name: &str, layout: &TableLayout) -> Result<TableName, MaintenanceError> {
        self.table_aside(run, name, layout).await
    }

    async fn vacuum(&self, table: &TableName, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        self.vacuum_table(table, watch).await
    }

    async fn dead_rows(&self) -> Result<Vec<DeadRows>, MaintenanceError> {
        let message = "all tables of SQLite share one file, which is tidied as a whole";
        Err(TargetError::new(TargetErrorClass::Unsupported, message).into())
    }

    async fn vacuum_file(&self, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        self.tidy_file(watch).await
    }

    async fn survey_indexes(&self, _: &Watch) -> Result<IndexSurvey, MaintenanceError> {
        Err(no_rebuild().into())
    }

    async fn reindex(&self, _: RunId, _: &TableName, _: &Watch) -> Result<IndexSpace, MaintenanceError> {
        Err(no_rebuild().into())
    }

    async fn settle_reindex(&self, _: RunId, _: &TableName) -> Result<Vec<TableName>, MaintenanceError> {
        Ok(Vec::new())
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
