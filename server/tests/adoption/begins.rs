//! Ways to begin a batch: as dbkeep does, more strictly, and wrongly, to show that the oracle would see it.

use async_trait::async_trait;
use dbkeep_engine::{
    backup::Section,
    model::{ChildLink, Condition, JournalEntry, Literal, Row, RowKey, Selection, TableName, TableSchema, Value},
    port::{BatchTransaction, Claim, Restored, RowSink, TargetError},
};
use futures::{FutureExt as _, future::BoxFuture};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::bench::{Bench, run};

/// Begins a batch on these rows.
pub(crate) type Begin = fn(Bench, Claim, Selection) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>>;

/// As a run without further wishes begins it.
pub(crate) fn plainly(
    bench: Bench,
    claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move { bench.target.begin(claim, &[&selection.table]).await }.boxed()
}

/// With the parent locked against writers from before the batch's snapshot until after its end.
pub(crate) fn with_the_parent_locked(
    bench: Bench,
    claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move {
        let parents: Vec<_> = selection.matches.parents().into_iter().map(AsRef::as_ref).collect();
        bench.target.begin_strict(claim, &[&selection.table], &parents).await
    }
    .boxed()
}

/// Without the last look for parents: shows that the oracle sees what that look prevents.
pub(crate) fn without_the_last_look(
    bench: Bench,
    claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move {
        let inner = bench.target.begin(claim, &[&selection.table]).await?;
        let batch: Box<dyn BatchTransaction> = Box::new(Blind { inner });
        Ok(batch)
    }
    .boxed()
}

/// The adapter's batch without its last look.
struct Blind {
    inner: Box<dyn BatchTransaction>,
}

#[async_trait]
impl BatchTransaction for Blind {
    async fn hold(&mut self, _: &Selection, _: &[RowKey]) -> Result<Vec<Row>, TargetError> {
        unreachable!("rows are deleted plainly here")
    }

    async fn hold_children(&mut self, _: &ChildLink, _: &[Row], _: u64) -> Result<Vec<Row>, TargetError> {
        unreachable!("no row has children here")
    }

    async fn remove(&mut self, _: &TableSchema, _: &[RowKey]) -> Result<u64, TargetError> {
        unreachable!("rows are deleted plainly here")
    }

    async fn assign(&mut self, _: &TableSchema, _: &[RowKey], _: &[(String, Option<Literal>)]) -> Result<Vec<Row>, TargetError> {
        unreachable!("no row is changed here")
    }

    async fn copy_to_archive(
        &mut self,
        _: &TableSchema,
        _: &[RowKey],
        _: &TableName,
        _: &str,
    ) -> Result<(u64, String), TargetError> {
        unreachable!("no row is archived here")
    }

    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        self.inner.delete(selection, keys, capture).await
    }

    async fn adopted(&mut self, _: &Selection) -> Result<u64, TargetError> {
        Ok(0)
    }

    async fn restore_together(&mut self, parts: Vec<Section>) -> Result<Restored, TargetError> {
        self.inner.restore_together(parts).await
    }

    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError> {
        self.inner.record(entry).await
    }

    async fn commit(self: Box<Self>) -> Result<(), TargetError> {
        self.inner.commit().await
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

/// The obvious deletion: by key, at READ COMMITTED, with the parents, or the rows that make others go, looked up in the same statement.
pub(crate) fn naively(
    bench: Bench,
    _claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move {
        let mut session = bench.session("dbkeep").await;
        run(&mut session, "BEGIN").await;
        let which = match selection.matches {
            Condition::Duplicate { .. } => {
                "t.id IN (2, 3) AND EXISTS (SELECT FROM child AS o WHERE o.parent_id = t.parent_id AND o.at > t.at)"
            }
            Condition::Cycle { .. } => {
                "t.id IN (12, 13) AND EXISTS (SELECT FROM child AS o WHERE o.id = t.parent_id AND o.parent_id = t.id)"
            }
            _ => "t.id IN (2, 3) AND NOT EXISTS (SELECT FROM parent AS p WHERE p.id = t.parent_id)",
        };
        let batch: Box<dyn BatchTransaction> = Box::new(Naive { session, which });
        Ok(batch)
    }
    .boxed()
}

struct Naive {
    session: PgConnection,
    /// Condition on the rows that go.
    which: &'static str,
}

#[async_trait]
impl BatchTransaction for Naive {
    async fn hold(&mut self, _: &Selection, _: &[RowKey]) -> Result<Vec<Row>, TargetError> {
        unreachable!("rows are deleted plainly here")
    }

    async fn hold_children(&mut self, _: &ChildLink, _: &[Row], _: u64) -> Result<Vec<Row>, TargetError> {
        unreachable!("no row has children here")
    }

    async fn remove(&mut self, _: &TableSchema, _: &[RowKey]) -> Result<u64, TargetError> {
        unreachable!("rows are deleted plainly here")
    }

    async fn assign(&mut self, _: &TableSchema, _: &[RowKey], _: &[(String, Option<Literal>)]) -> Result<Vec<Row>, TargetError> {
        unreachable!("no row is changed here")
    }

    async fn copy_to_archive(
        &mut self,
        _: &TableSchema,
        _: &[RowKey],
        _: &TableName,
        _: &str,
    ) -> Result<(u64, String), TargetError> {
        unreachable!("no row is archived here")
    }

    async fn delete(&mut self, _: &Selection, _: &[RowKey], capture: Option<&mut dyn RowSink>) -> Result<u64, TargetError> {
        let sql = format!(
            "DELETE FROM child AS t WHERE {} RETURNING t.id::text, t.parent_id::text, t.at::text, t.note",
            self.which
        );
        let rows: Vec<[String; 4]> = sqlx::query_as::<_, (String, String, String, String)>(AssertSqlSafe(sql))
            .fetch_all(&mut self.session)
            .await
            .unwrap()
            .into_iter()
            .map(<[String; 4]>::from)
            .collect();
        if let Some(sink) = capture {
            for row in &rows {
                sink.row(&row.clone().map(|text| Value::Text(text.into_bytes())))?;
            }
        }
        Ok(rows.len() as u64)
    }

    async fn adopted(&mut self, _: &Selection) -> Result<u64, TargetError> {
        Ok(0)
    }

    async fn restore_together(&mut self, _: Vec<Section>) -> Result<Restored, TargetError> {
        unreachable!("nothing is put back here")
    }

    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError> {
        let sql = format!(
            "INSERT INTO dbkeep.journal (run_id, step, batch, pass, fence, position, examined, matched, affected, conflicting) \
             VALUES ('{}', {}, {}, 1, 1, '', 0, {}, {}, 0)",
            entry.run, entry.step, entry.batch, entry.matched, entry.affected
        );
        run(&mut self.session, &sql).await;
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), TargetError> {
        run(&mut self.session, "COMMIT").await;
        Ok(())
    }

    async fn rollback(mut self: Box<Self>) {
        run(&mut self.session, "ROLLBACK").await;
    }
}
