//! What the suites that judge tables do with a plan, each to its end. They bring their own tables; the world is
//! [`crate::support`]'s.

use dbkeep_client::{RunRequest, UndoRequest, proto};

use crate::support::World;

impl World {
    /// Executes a plan in batches of this size and waits for the end: at full speed where the size is even, else sharing the database, as runs
    /// do by default.
    pub(crate) async fn execute(&self, plan: &proto::Plan, batch_rows: u32) -> proto::Run {
        let mut request = RunRequest::of_plan(plan).execute().batch_size(batch_rows);
        if batch_rows.is_multiple_of(2) {
            request = request.full_speed();
        }
        let run = self.client.cleanup().run(request).await.expect("a run");
        run.finish().await.expect("an end")
    }

    /// Undoes a run and waits for the end.
    pub(crate) async fn undo(&self, run: &proto::Run) -> proto::Run {
        let request = UndoRequest::new(run.id.as_str()).full_speed();
        let undo = self.client.runs().undo(request).await.expect("a stream");
        undo.finish().await.expect("an end")
    }

    /// Verifies the backup of a run and waits for the end.
    pub(crate) async fn verify(&self, run: &proto::Run) -> proto::Run {
        let verified = self.client.backups().verify(run.id.as_str()).await.expect("a stream");
        verified.finish().await.expect("an end")
    }
}
