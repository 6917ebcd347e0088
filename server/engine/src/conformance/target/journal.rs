//! The journal: what it tells is what was recorded.

use super::{Fixture, begin, chunk, claim, entry, fresh_table, schema};
use crate::model::{JournalEntry, RunId, StepTotals};

pub(super) async fn totals_and_journal_tell_what_was_recorded(fixture: &dyn Fixture) {
    let (target, table) = (fixture.target(), fresh_table(fixture).await);
    let schema = schema(fixture, &table).await;
    let (claim, stranger) = (claim(fixture).await, claim(fixture).await);
    let mut recorded = Vec::new();
    for step in [2, 0, 10] {
        for number in 1..=11_u64 {
            let entry = JournalEntry {
                pass: if number > 6 { 2 } else { 1 },
                cursor: format!("'({step},{number})' \u{2603}"),
                examined: 100 * number,
                matched: 10 * number,
                affected: 9 * number,
                conflicting: 1,
                chunk: (number % 3 != 0).then(|| chunk(number)),
                ..entry(claim, step, number)
            };
            let mut batch = begin(fixture, claim, &schema).await;
            batch.record(&entry).await.expect("a journal row");
            batch.commit().await.expect("a commit");
            recorded.push(entry);
        }
    }
    let mut batch = begin(fixture, stranger, &schema).await;
    batch
        .record(&JournalEntry {
            chunk: Some(chunk(77)),
            ..entry(stranger, 0, 1)
        })
        .await
        .expect("a journal row");
    batch.commit().await.expect("a commit");

    let chunks: u64 = (1..=11).filter(|number| number % 3 != 0).sum();
    let expected = |step| StepTotals {
        step,
        batches: 11,
        first_batch: 1,
        examined: 6_600,
        matched: 660,
        affected: 594,
        along: Vec::new(),
        conflicting: 11,
        captured: chunks,
        captured_bytes: chunks + 8 * 5_000_000_000,
        pass: 2,
        cursor: format!("'({step},11)' \u{2603}"),
    };
    assert_eq!(
        target.totals(claim.run).await.expect("totals"),
        [expected(0), expected(2), expected(10)]
    );
    assert_eq!(target.totals(RunId::new()).await.expect("totals"), Vec::new());

    recorded.retain(|entry| entry.chunk.is_some());
    recorded.sort_by_key(|entry| (entry.step, entry.batch));
    for limit in [1, 5, 100] {
        let (mut pages, mut after) = (Vec::new(), (0, 0));
        loop {
            let page = target.journal(claim.run, after, limit).await.expect("a page");
            assert!(page.len() <= limit as usize);
            let Some(last) = page.last() else { break };
            after = (last.step, last.batch);
            pages.extend(page);
        }
        assert_eq!(pages, recorded, "in pages of {limit}");
    }
    let rest = target.journal(claim.run, (2, 11), 100).await.expect("a page");
    assert!(rest.iter().all(|entry| entry.step == 10) && rest.len() == 8);

    recorded.retain(|entry| entry.step == 2);
    recorded.reverse();
    for limit in [1, 5, 100] {
        let (mut pages, mut below) = (Vec::new(), u64::MAX);
        loop {
            let page = target.journal_back(claim.run, 2, below, limit).await.expect("a page");
            let Some(last) = page.last() else { break };
            below = last.batch;
            pages.extend(page);
        }
        assert_eq!(pages, recorded, "newest first, in pages of {limit}");
    }
}
