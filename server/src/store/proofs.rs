//! Proofs of down scripts: one for each migration and pair of scripts, the newest. What a sample of the rows shows says less than any
//! finding on all of them, and that all is well with it less than any finding that all is not well: it replaces neither. What was found on
//! another database of the target's name is replaced by anything.

use dbkeep_engine::{
    model::{Identity, MigrationId, Proof, RunId},
    port::StoreError,
};
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{
    ControlStore,
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

/// In the column that is 1 where everything came back, and 0 where it did not: everything but data that down drops.
const LOSSY: i64 = 2;
/// Everything, of those rows that a sample had.
const SAMPLED: i64 = 3;

/// Keeps proofs of a target.
pub(super) struct Put {
    target: String,
    proofs: Vec<Proof>,
}

impl Put {
    pub(super) fn new(target: &str, proofs: &[Proof]) -> Self {
        Self {
            target: rows::text(target),
            proofs: proofs.to_vec(),
        }
    }
}

impl Act for Put {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        for proof in &self.proofs {
            sqlx::query(
                "INSERT INTO migration_proofs (target, migration_id, up_sha256, down_sha256, restored, up_ms, run_id, at_ms, \
                 database_id, database_place) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $10, $11) ON CONFLICT (target, migration_id, up_sha256, down_sha256) \
                 DO UPDATE SET restored = excluded.restored, up_ms = excluded.up_ms, run_id = excluded.run_id, at_ms = excluded.at_ms, \
                 database_id = excluded.database_id, database_place = excluded.database_place \
                 WHERE $9 = 0 OR migration_proofs.restored = 3 OR migration_proofs.database_id <> excluded.database_id \
                 OR migration_proofs.database_place <> excluded.database_place",
            )
            .bind(&self.target)
            .bind(rows::text(&proof.id.0))
            .bind(&proof.up_sha256)
            .bind(&proof.down_sha256)
            .bind(verdict(proof))
            .bind(i64::try_from(proof.up_ms).unwrap_or(i64::MAX))
            .bind(proof.run.to_string())
            .bind(proof.at.as_millisecond())
            .bind(i64::from(proof.sampled))
            .bind(rows::text(&proof.identity.id))
            .bind(rows::text(&proof.identity.place))
            .execute(&mut *tx.connection)
            .await?;
        }
        Ok(())
    }
}

fn verdict(proof: &Proof) -> i64 {
    match (proof.lossy, proof.restored) {
        (true, _) => LOSSY,
        (false, true) if proof.sampled => SAMPLED,
        (false, restored) => i64::from(restored),
    }
}

impl ControlStore {
    pub(super) async fn read_proofs(&self, target: &str) -> Result<Vec<Proof>, StoreError> {
        let sql = "SELECT migration_id, up_sha256, down_sha256, restored, up_ms, run_id, at_ms, database_id, database_place FROM migration_proofs \
                   WHERE target = $1 ORDER BY at_ms DESC, migration_id";
        let query = sqlx::query(sql).bind(rows::text(target));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        found.iter().map(proof).collect()
    }
}

fn proof(row: &AnyRow) -> Result<Proof, StoreError> {
    let id: String = rows::column_of(row, "migration_id")?;
    let run: String = rows::column_of(row, "run_id")?;
    let strange = |column: &str| corrupt(format!("{column} of the proof of migration {id}"));
    let (restored, up_ms, at_ms): (i64, i64, i64) = (
        rows::column_of(row, "restored")?,
        rows::column_of(row, "up_ms")?,
        rows::column_of(row, "at_ms")?,
    );
    Ok(Proof {
        identity: Identity {
            id: rows::column_of(row, "database_id")?,
            place: rows::column_of(row, "database_place")?,
        },
        up_sha256: rows::column_of(row, "up_sha256")?,
        down_sha256: rows::column_of(row, "down_sha256")?,
        restored: matches!(restored, 1 | SAMPLED),
        lossy: restored == LOSSY,
        sampled: restored == SAMPLED,
        up_ms: u64::try_from(up_ms).map_err(|_| strange("up_ms"))?,
        run: RunId(Uuid::try_parse(&run).map_err(|_| strange("run_id"))?),
        at: jiff::Timestamp::from_millisecond(at_ms).map_err(|_| strange("at_ms"))?,
        id: MigrationId(id),
    })
}
