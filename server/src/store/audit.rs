//! The audit log: appending, sealing and removing, each under the lock of the head's row, so that several servers write one chain. Times are the
//! database's. `audit_rows` reads.

use std::time::Duration;

use dbkeep_engine::{
    audit::{Anchor, Digest, Record, Seal, Subject, chain, retention},
    failpoint,
    model::notice::Envelope,
    port::StoreError,
};
use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    audit_rows::{self, COLUMNS, SEAL},
    draft::lease_ms,
    failure::{Failure, corrupt},
    outbox, rows,
    transaction::{Act, Tx},
};

/// Rows of one INSERT. Few different numbers, so that few statements are prepared.
const ROWS: [usize; 4] = [128, 32, 8, 1];
/// Columns of a record.
const WIDTH: usize = 14;

/// The head, whose row stays locked until the end of the transaction.
async fn lock_head(tx: &mut Tx<'_>) -> Result<(u64, Digest), Failure> {
    let sql = format!("SELECT number, hash FROM audit_head WHERE one = 1 {}", tx.dialect.lock_rows());
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(&mut *tx.connection).await?;
    let row = row.ok_or_else(|| corrupt("the head of the audit log is gone"))?;
    Ok(audit_rows::head(&row)?)
}

/// The clock of the database.
async fn now(tx: &mut Tx<'_>) -> Result<Timestamp, Failure> {
    let sql = format!("SELECT {} AS now_us", tx.dialect.now_us());
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *tx.connection).await?;
    let us: i64 = rows::column_of(&row, "now_us")?;
    Ok(Timestamp::from_microsecond(us).map_err(|error| corrupt(format!("the clock shows {us}: {error}")))?)
}

/// Appends to the chain within a transaction that holds its head.
async fn append(tx: &mut Tx<'_>, head: (u64, Digest), subjects: &[Subject]) -> Result<Vec<Record>, Failure> {
    let at = now(tx).await?;
    let mut records = Vec::with_capacity(subjects.len());
    let (mut number, mut previous) = head;
    for subject in subjects {
        number += 1;
        let subject = Subject {
            at,
            ..subject.clone().bounded()
        };
        let record = chain::follow(number, previous, subject);
        previous = record.hash;
        records.push(record);
    }
    let mut rest = records.as_slice();
    while !rest.is_empty() {
        let rows = ROWS.into_iter().find(|rows| *rows <= rest.len()).unwrap_or(1);
        let (now, later) = rest.split_at(rows);
        insert(tx, now).await?;
        rest = later;
    }
    sqlx::query("UPDATE audit_head SET number = $1, hash = $2 WHERE one = 1")
        .bind(rows::signed(number))
        .bind(previous.to_string())
        .execute(&mut *tx.connection)
        .await?;
    Ok(records)
}

async fn insert(tx: &mut Tx<'_>, records: &[Record]) -> Result<(), Failure> {
    let tuple = |row: usize| {
        let numbered: Vec<String> = (1..=WIDTH).map(|column| format!("${}", row * WIDTH + column)).collect();
        format!("({})", numbered.join(", "))
    };
    let tuples: Vec<String> = (0..records.len()).map(tuple).collect();
    let sql = format!("INSERT INTO audit_records ({COLUMNS}) VALUES {}", tuples.join(", "));
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for record in records {
        let subject = &record.subject;
        query = query
            .bind(rows::signed(record.number))
            .bind(subject.call.to_string())
            .bind(subject.at.as_microsecond())
            .bind(subject.phase.name())
            .bind(&subject.principal)
            .bind(&subject.peer)
            .bind(&subject.method)
            .bind(&subject.target)
            .bind(subject.request.to_string())
            .bind(&subject.code)
            .bind(&subject.detail)
            .bind(rows::to_json(&subject.counts)?)
            .bind(record.previous.to_string())
            .bind(record.hash.to_string());
    }
    query.execute(&mut *tx.connection).await?;
    Ok(())
}

/// Appends a record within another act, which is not done without it.
pub(super) async fn append_one(tx: &mut Tx<'_>, subject: Subject) -> Result<(), Failure> {
    let head = lock_head(tx).await?;
    append(tx, head, &[subject]).await.map(drop)
}

/// Appends a record within another act, which it does not keep from happening: what it is about has been done. A log that has no end takes
/// nothing more, which every call that begins is told.
pub(super) async fn note(tx: &mut Tx<'_>, subject: Subject) -> Result<(), Failure> {
    match append_one(tx, subject).await {
        Err(Failure::Store(StoreError::Corrupt(problem))) => {
            tracing::error!(problem, "what was done cannot be recorded in the audit log");
            Ok(())
        }
        written => written,
    }
}

/// Appends records.
pub(super) struct Append {
    subjects: Vec<Subject>,
}

impl Append {
    pub(super) fn new(subjects: &[Subject]) -> Self {
        Self {
            subjects: subjects.to_vec(),
        }
    }
}

impl Act for Append {
    type Output = Vec<Record>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<Record>, Failure> {
        if self.subjects.is_empty() {
            return Ok(Vec::new());
        }
        let head = lock_head(tx).await?;
        let records = append(tx, head, &self.subjects).await?;
        failpoint!(
            "audit-append",
            Err(Failure::Store(StoreError::Unavailable("an injected fault".to_owned())))
        );
        Ok(records)
    }
}

/// The seals in order.
async fn seals(tx: &mut Tx<'_>) -> Result<Vec<Seal>, Failure> {
    let sql = format!("SELECT {SEAL} FROM audit_seals ORDER BY first_number");
    let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *tx.connection).await?;
    Ok(found.iter().map(audit_rows::seal).collect::<Result<_, StoreError>>()?)
}

/// Seals everything after the newest seal up to a record.
pub(super) struct Close {
    last: u64,
    /// Id of the act: the same however often it is performed.
    call: Uuid,
}

impl Close {
    pub(super) fn new(last: u64) -> Self {
        Self {
            last,
            call: Uuid::now_v7(),
        }
    }
}

impl Act for Close {
    type Output = Option<Seal>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<Seal>, Failure> {
        // Whoever seals at the same time waits here, and then sees this seal.
        let head = lock_head(tx).await?;
        let mut seals = seals(tx).await?;
        let newest = seals.last();
        let (sealed, previous) = newest.map_or((0, Digest::GENESIS), |newest| (newest.last, newest.head));
        if self.last <= sealed {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM audit_records WHERE number = $1");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(rows::signed(self.last))
            .fetch_optional(&mut *tx.connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let newest = audit_rows::record(&row)?;
        let seal = Seal {
            first: sealed + 1,
            last: newest.number,
            previous,
            head: newest.hash,
            at: newest.subject.at,
            pruned: false,
        };
        let sql = format!("INSERT INTO audit_seals ({SEAL}) VALUES ($1, $2, $3, $4, $5, 0)");
        sqlx::query(AssertSqlSafe(sql))
            .bind(rows::signed(seal.first))
            .bind(rows::signed(seal.last))
            .bind(seal.previous.to_string())
            .bind(seal.head.to_string())
            .bind(seal.at.as_microsecond())
            .execute(&mut *tx.connection)
            .await?;
        seals.push(seal.clone());
        append(tx, head, &[retention::sealing(&seals, self.call)]).await?;
        Ok(Some(seal))
    }
}

/// Removes the records of the oldest seal that has some.
pub(super) struct Remove {
    seal: Seal,
    /// Id of the act: the same however often it is performed.
    call: Uuid,
}

impl Remove {
    pub(super) fn new(seal: &Seal) -> Self {
        Self {
            seal: seal.clone(),
            call: Uuid::now_v7(),
        }
    }
}

impl Act for Remove {
    type Output = Option<Record>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<Record>, Failure> {
        let head = lock_head(tx).await?;
        let mut seals = seals(tx).await?;
        let oldest = seals.iter().position(|seal| !seal.pruned);
        let Some(position) = oldest.filter(|position| position + 1 < seals.len() && seals[*position] == self.seal) else {
            return Ok(None);
        };
        seals.truncate(position + 1);
        let appended = append(tx, head, &[retention::removal(&seals, self.call)]).await?;
        sqlx::query("UPDATE audit_seals SET pruned = 1 WHERE first_number = $1")
            .bind(rows::signed(self.seal.first))
            .execute(&mut *tx.connection)
            .await?;
        sqlx::query("DELETE FROM audit_records WHERE number BETWEEN $1 AND $2")
            .bind(rows::signed(self.seal.first))
            .bind(rows::signed(self.seal.last))
            .execute(&mut *tx.connection)
            .await?;
        failpoint!("audit-removed");
        Ok(appended.into_iter().next())
    }
}

/// Notes an anchor, and tells of it.
pub(super) struct PutAnchor {
    anchor: Anchor,
    envelopes: Vec<Envelope>,
}

impl PutAnchor {
    pub(super) fn new(anchor: &Anchor, envelopes: &[Envelope]) -> Self {
        Self {
            anchor: *anchor,
            envelopes: envelopes.to_vec(),
        }
    }
}

impl Act for PutAnchor {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        sqlx::query("INSERT INTO audit_anchors (number, hash, at_us) VALUES ($1, $2, $3) ON CONFLICT (number) DO NOTHING")
            .bind(rows::signed(self.anchor.number))
            .bind(self.anchor.hash.to_string())
            .bind(self.anchor.at.as_microsecond())
            .execute(&mut *tx.connection)
            .await?;
        outbox::enqueue(tx, &self.envelopes).await?;
        Ok(())
    }
}

/// Takes or keeps the turn at looking after the log.
pub(super) struct TakeTurn {
    holder: String,
    term_ms: i64,
}

impl TakeTurn {
    pub(super) fn new(holder: &str, term: Duration) -> Self {
        Self {
            holder: rows::text(holder),
            term_ms: lease_ms(term),
        }
    }
}

impl Act for TakeTurn {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        let (now, lapsed) = (tx.dialect.now_ms(), tx.dialect.lapsed());
        let sql = format!(
            "UPDATE audit_turn SET holder = $1, lease_until_ms = {now} + $2 \
             WHERE one = 1 AND (holder = $1 OR lease_until_ms IS NULL OR {lapsed})"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.holder).bind(self.term_ms);
        Ok(query.execute(&mut *tx.connection).await?.rows_affected() > 0)
    }
}

/// Gives the turn back.
pub(super) struct EndTurn {
    holder: String,
}

impl EndTurn {
    pub(super) fn new(holder: &str) -> Self {
        Self {
            holder: rows::text(holder),
        }
    }
}

impl Act for EndTurn {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        sqlx::query("UPDATE audit_turn SET holder = NULL, lease_until_ms = NULL WHERE one = 1 AND holder = $1")
            .bind(&self.holder)
            .execute(&mut *tx.connection)
            .await?;
        Ok(())
    }
}
