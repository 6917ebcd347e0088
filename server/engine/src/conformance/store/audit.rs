//! The audit log: one chain whoever appends, found by what is asked for, and only removed where a seal stands for it.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{LONG, PATIENCE, SHORT};
use crate::{
    access::Scope,
    audit::{Anchor, Digest, Inspection, Phase, Record, Subject, Verified, retention},
    model::notice::{Envelope, Notice, NoticeKind},
    port::{AuditFilter, DeliveryFilter, Store, Stored},
};

fn subject(target: &str, principal: &str) -> Subject {
    Subject {
        principal: principal.to_owned(),
        peer: "127.0.0.1:5000".to_owned(),
        method: "CleanupService/RunCleanup".to_owned(),
        target: target.to_owned(),
        request: Digest([7; 32]),
        ..Subject::of(Uuid::now_v7())
    }
}

async fn append(store: &dyn Store, count: usize) -> Vec<Record> {
    store.append(&vec![subject("shop", "ann"); count]).await.unwrap()
}

/// Every record that is there, in order.
async fn all(store: &dyn Store) -> Vec<Record> {
    let rows = store.audit_range(i64::MIN, i64::MAX, 100_000).await.unwrap();
    let records = rows.into_iter().map(|row| match row {
        Stored::Readable(record) => *record,
        Stored::Unreadable { number, problem } => panic!("record {number}: {problem}"),
    });
    records.collect()
}

/// The log as a verification finds it.
async fn inspected(store: &dyn Store) -> Verified {
    let outline = store.audit_outline().await.unwrap();
    assert_eq!(outline.unreadable, Vec::<String>::new());
    let mut inspection = Inspection::begin(outline.seals, outline.anchors).unwrap_or_else(|problem| panic!("{problem:?}"));
    let records = all(store).await;
    for record in &records {
        inspection.next(record).unwrap_or_else(|problem| panic!("{problem:?}"));
    }
    let span = records.first().zip(records.last());
    let signed = |record: &Record| i64::try_from(record.number).unwrap();
    assert_eq!(outline.span, span.map(|(first, last)| (signed(first), signed(last))));
    inspection
        .end(outline.head.expect("there is a head"))
        .unwrap_or_else(|problem| panic!("{problem:?}"))
}

pub(super) async fn a_record_comes_back_as_it_was(store: Arc<dyn Store>) {
    let store = store.as_ref();
    assert_eq!(inspected(store).await.head, (0, Digest::GENESIS));
    assert_eq!(store.append(&[]).await.unwrap(), []);
    let before = store.pulse().await.unwrap().now;
    let odd = Subject {
        phase: Phase::Denied,
        principal: "näme 🦀 \"'\\ \u{1}\0".to_owned(),
        code: "PERMISSION_DENIED".to_owned(),
        detail: "x".repeat(5_000),
        counts: vec![("rows".to_owned(), u64::MAX), ("bytes \0".to_owned(), 0)],
        ..subject("", "")
    };
    let ended = Subject {
        phase: Phase::Ended,
        ..subject("shop", "ann")
    };
    let appended = store
        .append(&[subject("shop", "ann"), odd.clone(), ended.clone()])
        .await
        .unwrap();
    assert_eq!(appended.iter().map(|record| record.number).collect::<Vec<_>>(), [1, 2, 3]);
    let after = store.pulse().await.unwrap().now;
    for record in &appended {
        // To the millisecond, which is what one of the databases has.
        let at = record.subject.at.as_millisecond();
        assert!((before.as_millisecond()..=after.as_millisecond()).contains(&at), "{record:?}");
        assert_eq!(store.audit_record(record.number).await.unwrap().as_ref(), Some(record));
    }
    let kept = Subject {
        at: appended[1].subject.at,
        ..odd.bounded()
    };
    assert_eq!(appended[1].subject, kept);
    assert_eq!(appended[1].previous, appended[0].hash);
    assert_eq!(all(store).await, appended);
    assert_eq!(store.audit_record(0).await.unwrap(), None);
    assert_eq!(store.audit_record(4).await.unwrap(), None);
    let verified = inspected(store).await;
    assert_eq!((verified.records, verified.head), (3, (3, appended[2].hash)));
    // In pages.
    let page = store.audit_range(2, 3, 1).await.unwrap();
    assert_eq!(page, [Stored::Readable(Box::new(appended[1].clone()))]);
}

pub(super) async fn many_writers_write_one_chain(store: Arc<dyn Store>) {
    let writers = (0..8_usize).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            for turn in 0..12 {
                let count = 1 + (writer + turn * 13) % 45;
                let appended = store.append(&vec![subject("shop", "ann"); count]).await.unwrap();
                assert_eq!(appended.len(), count);
                let together = appended.windows(2).all(|pair| pair[1].number == pair[0].number + 1);
                assert!(together, "what is appended together stands together");
                numbers.extend(appended.into_iter().map(|record| record.number));
            }
            numbers
        })
    });
    let written: Vec<u64> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    let distinct: BTreeSet<u64> = written.iter().copied().collect();
    assert_eq!(distinct.len(), written.len(), "nobody has another's number");
    let verified = inspected(store.as_ref()).await;
    assert_eq!(verified.records, u64::try_from(written.len()).unwrap(), "there is no gap");
}

pub(super) async fn records_are_listed_and_filtered(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let mut subjects = Vec::new();
    for number in 0..30_usize {
        let mut one = subject(["", "shop", "depot"][number % 3], ["ann", "bob"][number % 2]);
        one.phase = Phase::ALL[number % 3];
        if number.is_multiple_of(5) {
            one.method = "RunService/CancelRun".to_owned();
        }
        subjects.push(one);
    }
    let appended = store.append(&subjects).await.unwrap();
    let listed = async |filter: AuditFilter, before, limit| {
        let found = store.audit_records(&filter, before, limit).await.unwrap();
        found.into_iter().map(|record| record.number).collect::<Vec<_>>()
    };
    let wanted = |wanted: fn(&Subject) -> bool| {
        let found = appended.iter().rev().filter(|record| wanted(&record.subject));
        found.map(|record| record.number).collect::<Vec<_>>()
    };
    let everything = AuditFilter::default;
    assert_eq!(listed(everything(), None, 100).await, wanted(|_| true));
    assert_eq!(listed(everything(), None, 3).await, [30, 29, 28]);
    assert_eq!(listed(everything(), Some(28), 2).await, [27, 26]);
    assert_eq!(listed(everything(), Some(1), 2).await, Vec::<u64>::new());
    let of_ann = AuditFilter {
        principal: Some("ann".to_owned()),
        ..everything()
    };
    assert_eq!(
        listed(of_ann.clone(), None, 100).await,
        wanted(|subject| subject.principal == "ann")
    );
    let cancels = AuditFilter {
        method: Some("RunService/CancelRun".to_owned()),
        ..everything()
    };
    assert_eq!(
        listed(cancels, None, 100).await,
        wanted(|subject| subject.method == "RunService/CancelRun")
    );
    let both = AuditFilter {
        target: Some("shop".to_owned()),
        phase: Some(Phase::Ended),
        ..of_ann
    };
    let fit = |subject: &Subject| subject.principal == "ann" && subject.target == "shop" && subject.phase == Phase::Ended;
    assert_eq!(listed(both, None, 100).await, wanted(fit));
    let scoped = |targets: &[&str]| AuditFilter {
        scope: Scope::Targets(targets.iter().map(|target| (*target).to_owned()).collect()),
        ..everything()
    };
    assert_eq!(
        listed(scoped(&["shop", "other"]), None, 100).await,
        wanted(|subject| subject.target == "shop")
    );
    assert_eq!(
        listed(scoped(&["shop", "depot"]), None, 100).await,
        wanted(|subject| !subject.target.is_empty()),
        "what is about no target is not theirs"
    );
    assert_eq!(listed(scoped(&[]), None, 100).await, Vec::<u64>::new());
    let outside = AuditFilter {
        target: Some("depot".to_owned()),
        ..scoped(&["shop"])
    };
    assert_eq!(listed(outside, None, 100).await, Vec::<u64>::new());
    let at = appended[0].subject.at;
    let during = |since: Option<Timestamp>, until: Option<Timestamp>| AuditFilter {
        since,
        until,
        ..everything()
    };
    let microsecond = SignedDuration::from_micros(1);
    assert_eq!(listed(during(Some(at), None), None, 100).await.len(), 30);
    assert_eq!(
        listed(during(Some(at + microsecond), None), None, 100).await,
        Vec::<u64>::new()
    );
    assert_eq!(listed(during(None, Some(at)), None, 100).await, Vec::<u64>::new());
    assert_eq!(listed(during(None, Some(at + microsecond)), None, 100).await.len(), 30);
}

pub(super) async fn what_is_sealed_is_removed_in_order(store: Arc<dyn Store>) {
    let store = store.as_ref();
    assert_eq!(store.close_segment(1).await.unwrap(), None, "there is nothing");
    let records = append(store, 30).await;
    assert_eq!(store.close_segment(0).await.unwrap(), None);
    assert_eq!(store.close_segment(31).await.unwrap(), None, "it is not there");
    let first = store.close_segment(10).await.unwrap().expect("it is sealed");
    assert_eq!((first.first, first.last, first.pruned), (1, 10, false));
    assert_eq!(
        (first.previous, first.head, first.at),
        (Digest::GENESIS, records[9].hash, records[9].subject.at)
    );
    assert_eq!(store.close_segment(10).await.unwrap(), None, "it is sealed already");
    assert_eq!(store.close_segment(5).await.unwrap(), None);
    assert_eq!(store.prune_segment(&first).await.unwrap(), None, "the newest seal stays");
    let second = store.close_segment(20).await.unwrap().expect("it is sealed");
    assert_eq!((second.first, second.last, second.previous), (11, 20, records[9].hash));
    let third = store.close_segment(21).await.unwrap().expect("it is sealed");
    assert_eq!(inspected(store).await.records, 33, "each has a record");

    assert_eq!(store.prune_segment(&second).await.unwrap(), None, "an older one is there");
    let changed = crate::audit::Seal {
        head: Digest([9; 32]),
        ..first.clone()
    };
    assert_eq!(store.prune_segment(&changed).await.unwrap(), None, "it is another seal");
    let said = store.prune_segment(&first).await.unwrap().expect("its records go");
    let gone = [crate::audit::Seal {
        pruned: true,
        ..first.clone()
    }];
    assert_eq!((said.number, retention::removed(&said)), (34, retention::bound(&gone)));
    assert_eq!(store.prune_segment(&first).await.unwrap(), None, "they are gone");
    let verified = inspected(store).await;
    assert_eq!((verified.records, verified.sealed), (24, 10));
    assert_eq!(store.audit_record(10).await.unwrap(), None);
    store.prune_segment(&second).await.unwrap().expect("its records go");
    assert_eq!(store.prune_segment(&third).await.unwrap(), None, "the newest seal stays");
    let verified = inspected(store).await;
    assert_eq!((verified.records, verified.sealed), (15, 20));
    // The chain goes on.
    assert_eq!(append(store, 1).await[0].number, 36);
    inspected(store).await;
}

pub(super) async fn an_anchor_is_kept_and_told_of_once(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let records = append(store, 3).await;
    let anchor = |record: &Record| Anchor {
        number: record.number,
        hash: record.hash,
        at: record.subject.at,
    };
    let envelope = Envelope {
        notice: Notice::new(NoticeKind::AuditAnchored, "audit:anchor:3", "", "head of the audit log"),
        channel: "hook".to_owned(),
        recipients: Vec::new(),
    };
    for _ in 0..2 {
        store
            .put_anchor(&anchor(&records[2]), std::slice::from_ref(&envelope))
            .await
            .unwrap();
    }
    store.put_anchor(&anchor(&records[0]), &[]).await.unwrap();
    let outline = store.audit_outline().await.unwrap();
    assert_eq!(outline.anchors, [anchor(&records[0]), anchor(&records[2])]);
    let told = store.deliveries(&DeliveryFilter::default(), None, 10).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(inspected(store).await.anchors, 2);
}

pub(super) async fn one_server_has_the_turn(store: Arc<dyn Store>) {
    let takes = async |holder: &str, term| store.claim_audit_turn(holder, term).await.unwrap();
    assert!(takes("one", LONG).await);
    assert!(!takes("other", LONG).await);
    assert!(takes("one", SHORT).await, "it keeps its own");
    let taken = async {
        // Leases lapse by the clock of the store, which cannot be moved.
        while !takes("other", LONG).await {
            tokio::time::sleep(SHORT).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("the lease lapses");
    assert!(!takes("one", LONG).await);
    store.end_audit_turn("one").await.unwrap();
    assert!(!takes("one", LONG).await, "only who has it gives it back");
    store.end_audit_turn("other").await.unwrap();
    assert!(takes("one", LONG).await);
}
