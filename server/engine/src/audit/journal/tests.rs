//! What callers of a journal see, over a log in memory whose transactions the test lets through one by one.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::*;
use crate::{
    audit::{Anchor, Seal, chain},
    model::notice::Envelope,
    port::{AuditFilter, Outline, Stored},
};

/// A log in memory. Each transaction waits for a permit, and fails where the test says so.
struct Held {
    permits: Semaphore,
    failing: Mutex<bool>,
    records: Mutex<Vec<Record>>,
    transactions: Mutex<Vec<usize>>,
    begun: Semaphore,
}

impl Held {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(permits),
            failing: Mutex::new(false),
            records: Mutex::default(),
            transactions: Mutex::default(),
            begun: Semaphore::new(0),
        })
    }
}

fn not_here<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not of this log".to_owned()))
}

#[async_trait]
impl AuditLog for Held {
    async fn append(&self, subjects: &[Subject]) -> Result<Vec<Record>, StoreError> {
        self.begun.add_permits(1);
        self.permits.acquire().await.expect("never closed").forget();
        self.transactions.lock().expect("unharmed").push(subjects.len());
        if *self.failing.lock().expect("unharmed") {
            return Err(StoreError::Unavailable("the disk is full".to_owned()));
        }
        let mut records = self.records.lock().expect("unharmed");
        let before = records.len();
        for subject in subjects {
            let next = chain::append(records.last(), subject.clone());
            records.push(next);
        }
        Ok(records[before..].to_vec())
    }

    async fn audit_records(&self, _: &AuditFilter, _: Option<u64>, _: u32) -> Result<Vec<Record>, StoreError> {
        not_here()
    }

    async fn audit_record(&self, _: u64) -> Result<Option<Record>, StoreError> {
        not_here()
    }

    async fn audit_range(&self, _: i64, _: i64, _: u32) -> Result<Vec<Stored>, StoreError> {
        not_here()
    }

    async fn audit_outline(&self) -> Result<Outline, StoreError> {
        not_here()
    }

    async fn close_segment(&self, _: u64) -> Result<Option<Seal>, StoreError> {
        not_here()
    }

    async fn prune_segment(&self, _: &Seal) -> Result<Option<Record>, StoreError> {
        not_here()
    }

    async fn put_anchor(&self, _: &Anchor, _: &[Envelope]) -> Result<(), StoreError> {
        not_here()
    }

    async fn claim_audit_turn(&self, _: &str, _: Duration) -> Result<bool, StoreError> {
        not_here()
    }

    async fn end_audit_turn(&self, _: &str) -> Result<(), StoreError> {
        not_here()
    }
}

fn subject(number: u128) -> Subject {
    Subject::of(Uuid::from_u128(number))
}

#[tokio::test]
async fn calls_that_wait_at_the_same_time_share_a_transaction() {
    let log = Held::new(0);
    let journal = Journal::new(Arc::clone(&log) as Arc<dyn AuditLog>);
    let first = tokio::spawn({
        let journal = journal.clone();
        async move { journal.record(subject(0)).await }
    });
    // The first transaction is on its way to the disk while the others come.
    log.begun.acquire().await.expect("never closed").forget();
    let others: Vec<_> = (1..=600)
        .map(|number| {
            let journal = journal.clone();
            tokio::spawn(async move { (number, journal.record(subject(number)).await) })
        })
        .collect();
    while journal.queue.max_capacity() - journal.queue.capacity() < 600 {
        tokio::task::yield_now().await;
    }
    log.permits.add_permits(3);
    for other in others {
        let (number, recorded) = other.await.expect("a task");
        let record = recorded.expect("it is written");
        assert_eq!(record.subject.call, Uuid::from_u128(number), "each has his own record");
        assert_eq!(record.subject.at, Timestamp::UNIX_EPOCH);
    }
    assert_eq!(first.await.expect("a task").expect("it is written").number, 1);
    assert_eq!(*log.transactions.lock().expect("unharmed"), [1, TOGETHER, 600 - TOGETHER]);
}

#[tokio::test]
async fn an_error_reaches_everybody_who_waits_and_nobody_later() {
    let log = Held::new(0);
    let journal = Journal::new(Arc::clone(&log) as Arc<dyn AuditLog>);
    *log.failing.lock().expect("unharmed") = true;
    let waiting = join_all((0..20).map(|number| journal.record(subject(number))));
    log.permits.add_permits(2);
    let refused = AuditError::NotWritten(StoreError::Unavailable("the disk is full".to_owned()));
    for recorded in waiting.await {
        assert_eq!(recorded, Err(refused.clone()));
    }
    *log.failing.lock().expect("unharmed") = false;
    log.permits.add_permits(1);
    assert_eq!(journal.record(subject(1)).await.expect("it goes on").number, 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_harms_nobody() {
    let log = Held::new(0);
    let journal = Journal::new(Arc::clone(&log) as Arc<dyn AuditLog>);
    let gone = tokio::spawn({
        let journal = journal.clone();
        async move { journal.record(subject(7)).await }
    });
    log.begun.acquire().await.expect("never closed").forget();
    gone.abort();
    assert!(gone.await.expect_err("it was dropped").is_cancelled());
    log.permits.add_permits(2);
    let record = journal.record(subject(8)).await.expect("it is written");
    assert_eq!(record.number, 2, "what was on its way stands");
}
