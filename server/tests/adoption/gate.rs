//! The engine's own batch protocol, held up before each of its steps: what a batch does to rows with children is the engine's
//! business, and only the moment is the test's.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    backup::Section,
    model::{
        Capability, ChildLink, ColumnSource, EngineKind, JournalEntry, Literal, Row, RowKey, RunId, Selection, StepTotals,
        TableName, TableSchema, TargetStatus,
    },
    port::{
        BatchTransaction, ChildCount, Claim, DeclaredKey, Explore, Maintenance, Migrator, Namesakes, Observer, Pressure, Repeats,
        Restored, Rewinder, RowSink, Sample, Scan, Scratch, Survey, Target, TargetError, ValueStream,
    },
};
use tokio::sync::{Mutex, mpsc};

/// At which step a batch does what. The begin is step 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stages {
    pub(crate) hold: usize,
    pub(crate) change: usize,
    pub(crate) look: usize,
    pub(crate) commit: usize,
}

/// Rows are held, changed, and the changes committed; nobody looks for parents where no rule asks for them.
pub(crate) const FAMILY: Stages = Stages {
    hold: 1,
    change: 2,
    look: 3,
    commit: 3,
};
/// The same with a look for parents.
pub(crate) const FAMILY_OF_PARENTS: Stages = Stages { commit: 4, ..FAMILY };
/// Rows are deleted at once.
pub(crate) const PLAIN: Stages = Stages {
    hold: 1,
    change: 1,
    look: 2,
    commit: 3,
};

/// Where a batch waits until it may take its next step.
pub(crate) struct Gate {
    stage: usize,
    /// Told each time that the batch stands before a step.
    pub(crate) arrived: mpsc::Sender<()>,
    /// One for each step that it may take.
    pub(crate) permits: mpsc::Receiver<()>,
}

impl Gate {
    pub(crate) fn new(arrived: mpsc::Sender<()>, permits: mpsc::Receiver<()>) -> Self {
        Self {
            stage: 0,
            arrived,
            permits,
        }
    }

    async fn enter(&mut self, stage: usize) {
        while self.stage < stage {
            self.arrived.send(()).await.unwrap();
            self.permits.recv().await.unwrap();
            self.stage += 1;
        }
    }
}

/// A target of which a batch needs its transaction alone.
pub(crate) struct Gated {
    pub(crate) inner: Arc<dyn Target>,
    pub(crate) gate: Arc<Mutex<Gate>>,
    pub(crate) stages: Stages,
}

struct GatedBatch {
    inner: Box<dyn BatchTransaction>,
    gate: Arc<Mutex<Gate>>,
    stages: Stages,
}

impl GatedBatch {
    async fn enter(&mut self, stage: usize) {
        self.gate.lock().await.enter(stage).await;
    }
}

#[async_trait]
impl BatchTransaction for GatedBatch {
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        self.enter(self.stages.change).await;
        self.inner.delete(selection, keys, capture).await
    }

    async fn hold(&mut self, selection: &Selection, keys: &[RowKey]) -> Result<Vec<Row>, TargetError> {
        self.enter(self.stages.hold).await;
        self.inner.hold(selection, keys).await
    }

    async fn hold_children(&mut self, link: &ChildLink, parents: &[Row], limit: u64) -> Result<Vec<Row>, TargetError> {
        self.inner.hold_children(link, parents, limit).await
    }

    async fn remove(&mut self, table: &TableSchema, keys: &[RowKey]) -> Result<u64, TargetError> {
        self.enter(self.stages.change).await;
        self.inner.remove(table, keys).await
    }

    async fn assign(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        assignments: &[(String, Option<Literal>)],
    ) -> Result<Vec<Row>, TargetError> {
        self.enter(self.stages.change).await;
        self.inner.assign(table, keys, assignments).await
    }

    async fn copy_to_archive(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        into: &TableName,
        stamp_column: &str,
    ) -> Result<(u64, String), TargetError> {
        self.enter(self.stages.change).await;
        self.inner.copy_to_archive(table, keys, into, stamp_column).await
    }

    async fn adopted(&mut self, selection: &Selection) -> Result<u64, TargetError> {
        self.enter(self.stages.look).await;
        self.inner.adopted(selection).await
    }

    async fn restore_together(&mut self, _: Vec<Section>) -> Result<Restored, TargetError> {
        unreachable!("nothing is put back here")
    }

    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError> {
        self.enter(self.stages.commit).await;
        self.inner.record(entry).await
    }

    async fn commit(self: Box<Self>) -> Result<(), TargetError> {
        self.inner.commit().await
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

const NOT_ASKED: &str = "a batch asks its target for a transaction and for nothing else";

#[async_trait]
impl Explore for Gated {
    fn bounded(&self, _: std::time::Duration) -> Arc<dyn Target> {
        unreachable!("{NOT_ASKED}")
    }

    async fn tables(&self) -> Result<Vec<TableName>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn declared_keys(&self) -> Result<Vec<DeclaredKey>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn sample(&self, _: &TableSchema, _: &[String], _: u32) -> Result<Sample, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn present(&self, _: &TableSchema, _: &[String], _: &[Row]) -> Result<Vec<bool>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn repeats(&self, _: &TableSchema, _: &[String]) -> Result<Repeats, TargetError> {
        unreachable!("{NOT_ASKED}")
    }
}

#[async_trait]
impl Target for Gated {
    fn engine(&self) -> EngineKind {
        self.inner.engine()
    }

    fn address(&self) -> String {
        self.inner.address()
    }

    fn capabilities(&self) -> &'static [Capability] {
        self.inner.capabilities()
    }

    async fn begin_strict(
        &self,
        claim: Claim,
        tables: &[&TableSchema],
        still: &[&TableSchema],
    ) -> Result<Box<dyn BatchTransaction>, TargetError> {
        let inner = self.inner.begin_strict(claim, tables, still).await?;
        Ok(Box::new(GatedBatch {
            inner,
            gate: Arc::clone(&self.gate),
            stages: self.stages,
        }))
    }

    async fn status(&self) -> Result<TargetStatus, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn introspect(&self, _: &TableName) -> Result<Option<TableSchema>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn namesakes(&self, _: &TableName) -> Result<Namesakes, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn survey(&self, _: &Selection, _: u32) -> Result<Survey, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn survey_share(&self, _: &Selection, _: u32, _: u64) -> Result<Survey, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn explain(&self, _: &Selection) -> Result<(), TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn count_children(&self, _: &Selection, _: &[ChildLink]) -> Result<Vec<ChildCount>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn unlike(&self, _: &ChildLink) -> Result<Option<String>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn create_archive(&self, _: &TableSchema, _: &TableName, _: &str) -> Result<(), TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn count_rows(&self, _: &TableSchema, _: Option<u64>) -> Result<u64, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn estimate_rows(&self, _: &TableSchema) -> Result<Option<u64>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn column_values(&self, _: &ColumnSource) -> Result<Box<dyn ValueStream>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn holds(&self, _: &ColumnSource, _: &[Vec<u8>]) -> Result<Vec<usize>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn indirect_values(&self, _: &ColumnSource, _: &str) -> Result<Box<dyn ValueStream>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn scan(&self, _: &Selection, _: Option<&str>, _: u32) -> Result<Box<dyn Scan>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn claim(&self, _: Claim) -> Result<(), TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn totals(&self, _: RunId) -> Result<Vec<StepTotals>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn journal(&self, _: RunId, _: (u32, u64), _: u32) -> Result<Vec<JournalEntry>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn journal_back(&self, _: RunId, _: u32, _: u64, _: u32) -> Result<Vec<JournalEntry>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn pressure(&self) -> Result<Pressure, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    async fn scratch(&self) -> Result<Box<dyn Scratch>, TargetError> {
        unreachable!("{NOT_ASKED}")
    }

    fn maintenance(&self) -> &dyn Maintenance {
        unreachable!("{NOT_ASKED}")
    }

    fn migrator(&self) -> &dyn Migrator {
        unreachable!("{NOT_ASKED}")
    }

    fn rewinder(&self) -> &dyn Rewinder {
        unreachable!("{NOT_ASKED}")
    }

    fn observer(&self) -> &dyn Observer {
        unreachable!("{NOT_ASKED}")
    }
}
