//! Monitoring: one collector writes, history is what was written, and nobody is told of an alert that is not there.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;

use super::{LONG, PATIENCE, SHORT, accept, enter, now, queued, request, run, running};
use crate::{
    model::{
        Act, Caller, Decision, Run, RunKind, RunState, Verification,
        monitor::{Alert, AlertId, AlertState, Depth, Level, Metric, Sample, Snapshot, Threshold, Vitals},
        notice::{Envelope, Notice, NoticeKind},
    },
    port::{
        AlertChanges, AlertFilter, BackupStanding, CollectClaim, Collected, DecisionFilter, DeliveryFilter, EndedRuns,
        HistoryQuery, Point, PruneBegun, SourceMark, Step, Store, Update,
    },
};

const DUE: Duration = Duration::ZERO;

fn snapshot(bytes: u64) -> Snapshot {
    Snapshot {
        at: Timestamp::from_second(1_700_000_000).unwrap(),
        took_ms: 7,
        depth: Depth::Quick,
        database: Vitals {
            version: "15.18 \u{0} 🦀".to_owned(),
            size_bytes: Some(bytes),
            ..Vitals::default()
        },
        tables: Vec::new(),
        indexes: Vec::new(),
        unindexed_keys: Vec::new(),
        queries: Vec::new(),
        sessions: None,
        replicas: Vec::new(),
        slots: Vec::new(),
        gaps: Vec::new(),
    }
}

fn sample(metric: Metric, object: &str, value: f64) -> Sample {
    Sample {
        metric,
        object: object.to_owned(),
        value,
    }
}

fn collected(bytes: u64, samples: Vec<Sample>) -> Collected {
    Collected {
        snapshot: Some(snapshot(bytes)),
        samples,
    }
}

async fn claim(store: &dyn Store, target: &str) -> CollectClaim {
    store
        .claim_collection(target, "one", LONG, DUE)
        .await
        .unwrap()
        .expect("the target is free")
}

/// Claims until it is granted: terms end by the clock of the store, which cannot be moved.
async fn claim_in_time(store: &dyn Store, target: &str, server: &str) -> CollectClaim {
    let polled = async {
        loop {
            if let Some(claim) = store.claim_collection(target, server, LONG, DUE).await.unwrap() {
                return claim;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("the term ends")
}

fn all(metric: Metric, step: Step) -> HistoryQuery {
    HistoryQuery {
        target: "shop".to_owned(),
        metric,
        object: None,
        from: Timestamp::UNIX_EPOCH,
        to: now() + jiff::SignedDuration::from_hours(1),
        step,
        limit: 1_000,
    }
}

pub(super) async fn a_target_has_one_collector(store: Arc<dyn Store>) {
    let tries = (0..8).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let server = format!("server {number}");
            store.claim_collection("shop", &server, LONG, DUE).await.unwrap()
        })
    });
    let granted: Vec<_> = join_all(tries).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(granted.len(), 1);
    // Another target is another matter; the holder goes on; whoever holds it for an instant only gives way.
    let other = store.claim_collection("small", "one", LONG, DUE).await.unwrap().unwrap();
    assert!(store.claim_collection("small", "two", LONG, DUE).await.unwrap().is_none());
    let again = store.claim_collection("small", "one", SHORT, DUE).await.unwrap().unwrap();
    assert!(
        again.fence > other.fence && other.fence > granted[0].fence,
        "fences grow over all targets"
    );
    let taken = claim_in_time(store.as_ref(), "small", "two").await;
    assert!(taken.fence > again.fence);
    // What was collected just now is not due.
    assert!(store.put_collected(&taken, &collected(1, Vec::new())).await.unwrap());
    assert!(store.claim_collection("small", "two", LONG, LONG).await.unwrap().is_none());
    assert!(store.claim_collection("small", "two", LONG, DUE).await.unwrap().is_some());
}

pub(super) async fn a_server_has_its_own_numbers(store: Arc<dyn Store>) {
    let one = store.claim_collection("", "one", LONG, DUE).await.unwrap().unwrap();
    let two = store.claim_collection("", "two", LONG, DUE).await.unwrap().unwrap();
    let own = |object: &str, value| Collected {
        snapshot: None,
        samples: vec![sample(Metric::SERVER_CPU, object, value)],
    };
    assert!(store.put_collected(&one, &own("a", 0.25)).await.unwrap());
    assert!(store.put_collected(&two, &own("b", 0.75)).await.unwrap());
    let mut values: Vec<(String, f64)> = store
        .newest_samples("", LONG)
        .await
        .unwrap()
        .into_iter()
        .map(|(_, sample)| (sample.object, sample.value))
        .collect();
    values.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(values, [("a".to_owned(), 0.25), ("b".to_owned(), 0.75)]);
    assert!(store.collections(0).await.unwrap().is_empty(), "a server is no target");
}

pub(super) async fn what_was_collected_comes_back(store: Arc<dyn Store>) {
    assert!(store.newest_snapshot("shop").await.unwrap().is_none());
    assert!(store.newest_samples("shop", LONG).await.unwrap().is_empty());
    let usage = store.history_usage().await.unwrap();
    assert_eq!((usage.series, usage.points, usage.trimmed_at), (0, 0, None));
    let claim = claim(store.as_ref(), "shop").await;
    let odd = "public.\"odd 🦀 \u{0}'\\";
    let samples = vec![
        sample(Metric::TABLE_ROWS, odd, 9_007_199_254_740_991.0),
        sample(Metric::DATABASE_SIZE, "", 5e9),
        sample(Metric::CACHE_HIT, "", f64::NAN),
        sample(Metric::DATABASE_SIZE, "", 1.0),
        sample(Metric::HORIZON_AGE, "", -0.5),
    ];
    assert!(store.put_collected(&claim, &collected(5, samples)).await.unwrap());
    let (_, kept) = store.newest_snapshot("shop").await.unwrap().unwrap();
    assert_eq!(kept, snapshot(5));
    let newest = store.newest_samples("shop", LONG).await.unwrap();
    let values: Vec<(&str, f64)> = newest
        .iter()
        .map(|(_, sample)| (sample.metric.name(), sample.value))
        .collect();
    assert_eq!(
        values,
        [
            ("database_size_bytes", 5e9),
            ("horizon_age", -0.5),
            ("table_rows", 9_007_199_254_740_991.0)
        ],
        "what is no number is left out, and so is a second value"
    );
    assert_eq!(newest[2].1.object, odd.replace('\0', "\u{fffd}"));
    let usage = store.history_usage().await.unwrap();
    assert_eq!((usage.series, usage.points), (3, 3));
    // The target is away: the snapshot stays, and it is said.
    let away = Collected {
        snapshot: None,
        samples: vec![sample(Metric::TARGET_UP, "", 0.0)],
    };
    assert!(store.put_collected(&claim, &away).await.unwrap());
    assert_eq!(store.newest_snapshot("shop").await.unwrap().unwrap().1, snapshot(5));
    assert!(!store.collections(0).await.unwrap()[0].up);
    // Many objects at once.
    let many: Vec<Sample> = (0..1_300)
        .map(|number| sample(Metric::TABLE_ROWS, &format!("t{number}"), f64::from(number)))
        .collect();
    assert!(store.put_collected(&claim, &collected(6, many)).await.unwrap());
    assert_eq!(store.newest_samples("shop", LONG).await.unwrap().len(), 1_304);
}

pub(super) async fn an_old_claim_writes_nothing(store: Arc<dyn Store>) {
    let old = store.claim_collection("shop", "one", SHORT, DUE).await.unwrap().unwrap();
    let new = claim_in_time(store.as_ref(), "shop", "two").await;
    assert!(store.put_collected(&new, &collected(2, Vec::new())).await.unwrap());
    let late = collected(1, vec![sample(Metric::DATABASE_SIZE, "", 1.0)]);
    assert!(!store.put_collected(&old, &late).await.unwrap());
    assert_eq!(store.newest_snapshot("shop").await.unwrap().unwrap().1, snapshot(2));
    assert!(store.newest_samples("shop", LONG).await.unwrap().is_empty());
    let changes = AlertChanges {
        put: vec![alert("wraparound", "", AlertState::Raised)],
        envelopes: vec![envelope("late")],
        ..AlertChanges::default()
    };
    assert!(!store.change_alerts(&old, &changes).await.unwrap());
    assert!(store.alerts(&everything()).await.unwrap().is_empty());
    assert!(
        store
            .deliveries(&DeliveryFilter::default(), None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

pub(super) async fn history_is_read_by_object_and_time(store: Arc<dyn Store>) {
    let claim = claim(store.as_ref(), "shop").await;
    for round in 0..3 {
        let samples = vec![
            sample(Metric::TABLE_ROWS, "b", f64::from(round)),
            sample(Metric::TABLE_ROWS, "B", 7.5),
            sample(Metric::DATABASE_SIZE, "", 1.0),
        ];
        // Each at an instant of its own.
        let before = now();
        while now() <= before {
            tokio::task::yield_now().await;
        }
        assert!(store.put_collected(&claim, &collected(1, samples)).await.unwrap());
    }
    let found = store.history(&all(Metric::TABLE_ROWS, Step::Raw)).await.unwrap();
    let values: Vec<(&str, f64)> = found.iter().map(|point| (point.object.as_str(), point.last)).collect();
    assert_eq!(
        values,
        [("B", 7.5), ("B", 7.5), ("B", 7.5), ("b", 0.0), ("b", 1.0), ("b", 2.0)]
    );
    assert!(found[3].at < found[4].at && found[4].at < found[5].at);
    let Point {
        samples, min, max, mean, ..
    } = found[5];
    assert_eq!((samples, min, max, mean), (1, 2.0, 2.0, 2.0));
    let only = HistoryQuery {
        object: Some("b".to_owned()),
        from: found[4].at,
        to: found[5].at,
        ..all(Metric::TABLE_ROWS, Step::Raw)
    };
    assert_eq!(store.history(&only).await.unwrap(), found[4..5], "from is in it, to is not");
    let few = HistoryQuery {
        limit: 2,
        ..all(Metric::TABLE_ROWS, Step::Raw)
    };
    assert_eq!(store.history(&few).await.unwrap(), found[..2]);
    let other = HistoryQuery {
        target: "Shop".to_owned(),
        ..all(Metric::TABLE_ROWS, Step::Raw)
    };
    assert!(store.history(&other).await.unwrap().is_empty());
}

pub(super) async fn history_is_not_made_of_what_may_change(store: Arc<dyn Store>) {
    let claim = claim(store.as_ref(), "shop").await;
    assert!(!store.roll_up(100).await.unwrap(), "there is nothing");
    let size = vec![sample(Metric::DATABASE_SIZE, "", 1.0)];
    assert!(store.put_collected(&claim, &collected(1, size)).await.unwrap());
    let rolls = (0..4).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.roll_up(100).await.unwrap() })
    });
    assert!(join_all(rolls).await.into_iter().all(|more| !more.unwrap()));
    // The interval that this sample is in has not ended.
    assert_eq!(store.history(&all(Metric::DATABASE_SIZE, Step::Raw)).await.unwrap().len(), 1);
    assert!(
        store
            .history(&all(Metric::DATABASE_SIZE, Step::FiveMinutes))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.history_usage().await.unwrap().points, 1);
}

fn alert(rule: &str, object: &str, state: AlertState) -> Alert {
    Alert {
        id: AlertId::new(),
        rule: rule.to_owned(),
        target: "shop".to_owned(),
        object: object.to_owned(),
        level: Level::Warning,
        state,
        threshold: Some(Threshold {
            value: 0.8125,
            raise_at: 0.8,
            clear_at: 0.75,
        }),
        detail: "it's \u{1b}[31m full 🦀".to_owned(),
        remediation: "make room".to_owned(),
        since: now(),
        raised_at: Some(now()),
        seen_at: now(),
        resolved_at: (state == AlertState::Resolved).then(now),
        acknowledged: None,
    }
}

fn envelope(key: &str) -> Envelope {
    Envelope {
        notice: Notice::new(NoticeKind::AlertRaised, key, "shop", "disk is nearly full"),
        channel: "hook".to_owned(),
        recipients: Vec::new(),
    }
}

fn everything() -> AlertFilter {
    AlertFilter {
        limit: 100,
        ..AlertFilter::default()
    }
}

fn decision() -> Decision {
    let caller = Caller {
        principal: "ann".to_owned(),
        peer: String::new(),
    };
    Decision::allow(&caller, Act::AcknowledgeAlert, "seen")
}

fn put(alerts: &[&Alert]) -> AlertChanges {
    AlertChanges {
        put: alerts.iter().map(|alert| (*alert).clone()).collect(),
        ..AlertChanges::default()
    }
}

pub(super) async fn alerts_change_together(store: Arc<dyn Store>) {
    let claim = claim(store.as_ref(), "shop").await;
    let pending = alert("disk_nearly_full", "/srv", AlertState::Pending);
    assert!(store.change_alerts(&claim, &put(&[&pending])).await.unwrap());
    assert_eq!(store.alert(pending.id).await.unwrap(), Some(pending.clone()));
    let mut raised = pending.clone();
    raised.state = AlertState::Raised;
    let other = alert("wraparound", "", AlertState::Pending);
    let changes = AlertChanges {
        put: vec![raised.clone(), other.clone()],
        envelopes: vec![envelope("disk")],
        ..AlertChanges::default()
    };
    assert!(store.change_alerts(&claim, &changes).await.unwrap());
    // The reply was lost: again changes nothing.
    assert!(store.change_alerts(&claim, &changes).await.unwrap());
    assert_eq!(store.deliveries(&DeliveryFilter::default(), None, 10).await.unwrap().len(), 1);
    assert_eq!(store.alert(raised.id).await.unwrap(), Some(raised.clone()));
    // One that goes on much as it was is noted, and is no change.
    let revision = store.alerts_after(0, 10).await.unwrap().last().unwrap().0;
    raised.seen_at += Duration::from_secs(60);
    let seen = AlertChanges {
        seen: vec![raised.clone()],
        ..AlertChanges::default()
    };
    assert!(store.change_alerts(&claim, &seen).await.unwrap());
    assert_eq!(store.alert(raised.id).await.unwrap(), Some(raised.clone()));
    assert_eq!(store.alerts_after(revision, 10).await.unwrap(), []);
    // A pending one that passed is forgotten; one that people were told of is not.
    let drop = AlertChanges {
        drop: vec![other.id, raised.id],
        ..AlertChanges::default()
    };
    assert!(store.change_alerts(&claim, &drop).await.unwrap());
    assert_eq!(store.alert(other.id).await.unwrap(), None);
    assert_eq!(store.alert(raised.id).await.unwrap(), Some(raised));
}

pub(super) async fn a_condition_is_open_once(store: Arc<dyn Store>) {
    let claim = claim(store.as_ref(), "shop").await;
    let first = alert("disk_nearly_full", "/srv", AlertState::Raised);
    assert!(store.change_alerts(&claim, &put(&[&first])).await.unwrap());
    let second = alert("disk_nearly_full", "/srv", AlertState::Raised);
    let changes = AlertChanges {
        envelopes: vec![envelope("second")],
        ..put(&[&second])
    };
    assert!(!store.change_alerts(&claim, &changes).await.unwrap());
    assert_eq!(store.alerts(&everything()).await.unwrap(), std::slice::from_ref(&first));
    assert!(
        store
            .deliveries(&DeliveryFilter::default(), None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    // One ends and the next begins within one look.
    let mut ended = first;
    ended.state = AlertState::Resolved;
    ended.resolved_at = Some(now());
    assert!(store.change_alerts(&claim, &put(&[&second, &ended])).await.unwrap());
    assert_eq!(store.alerts(&everything()).await.unwrap(), [second.clone(), ended.clone()]);
    // What ended stays so, also where a server that slept still thinks that it goes on.
    let late = Alert {
        state: AlertState::Raised,
        resolved_at: None,
        detail: "late".to_owned(),
        ..ended.clone()
    };
    let seen = AlertChanges {
        seen: vec![late.clone()],
        ..AlertChanges::default()
    };
    assert!(store.change_alerts(&claim, &seen).await.unwrap());
    let mut over = second.clone();
    over.state = AlertState::Resolved;
    over.resolved_at = Some(now());
    assert!(store.change_alerts(&claim, &put(&[&over])).await.unwrap());
    assert!(store.change_alerts(&claim, &put(&[&late])).await.unwrap());
    assert_eq!(store.alerts(&everything()).await.unwrap(), [over, ended]);
}

pub(super) async fn an_acknowledgement_stays(store: Arc<dyn Store>) {
    let claim = claim(store.as_ref(), "shop").await;
    let raised = alert("wraparound", "", AlertState::Raised);
    assert!(
        store
            .acknowledge_alert(raised.id, "ann", "", &decision())
            .await
            .unwrap()
            .is_none()
    );
    assert!(store.change_alerts(&claim, &put(&[&raised])).await.unwrap());
    let taken = store
        .acknowledge_alert(raised.id, "ann", "I look", &decision())
        .await
        .unwrap()
        .unwrap();
    let (by, _, note) = taken.acknowledged.clone().unwrap();
    assert_eq!((by.as_str(), note.as_str()), ("ann", "I look"));
    // Repeating changes nothing, also by somebody else; and a look that began before does not take it back.
    let again = store
        .acknowledge_alert(raised.id, "bob", "me too", &decision())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again, taken);
    assert!(store.change_alerts(&claim, &put(&[&raised])).await.unwrap());
    assert_eq!(store.alert(raised.id).await.unwrap(), Some(taken));
    let kept = store.decisions(&DecisionFilter::default(), None, 10).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].act, Act::AcknowledgeAlert);
}

pub(super) async fn alerts_are_listed_and_filtered(store: Arc<dyn Store>) {
    let claim = claim(store.as_ref(), "shop").await;
    let alerts: Vec<Alert> = [
        ("a", AlertState::Resolved),
        ("b", AlertState::Raised),
        ("c", AlertState::Pending),
        ("d", AlertState::Raised),
    ]
    .into_iter()
    .map(|(object, state)| alert("disk_nearly_full", object, state))
    .collect();
    let elsewhere = Alert {
        target: "Shop".to_owned(),
        ..alert("disk_nearly_full", "e", AlertState::Raised)
    };
    let mut given: Vec<&Alert> = alerts.iter().collect();
    given.push(&elsewhere);
    assert!(store.change_alerts(&claim, &put(&given)).await.unwrap());
    let check = async |filter: AlertFilter, expected: &[&str]| {
        let found = store.alerts(&filter).await.unwrap();
        let objects: Vec<&str> = found.iter().map(|alert| alert.object.as_str()).collect();
        assert_eq!(objects, expected, "{filter:?}");
    };
    check(everything(), &["e", "d", "c", "b", "a"]).await;
    let of_shop = AlertFilter {
        target: Some("shop".to_owned()),
        ..everything()
    };
    check(of_shop.clone(), &["d", "c", "b", "a"]).await;
    let open = AlertFilter {
        states: vec![AlertState::Raised, AlertState::Pending],
        ..of_shop.clone()
    };
    check(open.clone(), &["d", "c", "b"]).await;
    check(
        AlertFilter {
            before: Some(alerts[3].id),
            limit: 1,
            ..open
        },
        &["c"],
    )
    .await;
}

pub(super) async fn changes_have_an_order(store: Arc<dyn Store>) {
    assert_eq!(store.monitor_revision().await.unwrap(), 0);
    let claim = claim(store.as_ref(), "shop").await;
    assert!(store.put_collected(&claim, &collected(1, Vec::new())).await.unwrap());
    let first = store.collections(0).await.unwrap();
    assert_eq!((first.len(), first[0].target.as_str(), first[0].up), (1, "shop", true));
    assert_eq!(store.monitor_revision().await.unwrap(), first[0].revision);
    assert!(store.collections(first[0].revision).await.unwrap().is_empty());
    let (one, two) = (
        alert("wraparound", "", AlertState::Raised),
        alert("replica_lag", "r", AlertState::Raised),
    );
    assert!(store.change_alerts(&claim, &put(&[&one, &two])).await.unwrap());
    let changed = store.alerts_after(first[0].revision, 10).await.unwrap();
    assert_eq!(changed.len(), 2);
    assert!(changed[0].0 < changed[1].0, "a page never ends within a revision");
    assert_eq!(store.alerts_after(first[0].revision, 1).await.unwrap(), changed[..1]);
    store.acknowledge_alert(one.id, "ann", "", &decision()).await.unwrap();
    let newest = store.alerts_after(changed[1].0, 10).await.unwrap();
    assert_eq!((newest.len(), newest[0].1.id), (1, one.id));
    assert_eq!(store.monitor_revision().await.unwrap(), newest[0].0);
    assert_eq!(store.alerts_after(0, 10).await.unwrap().len(), 2, "each once");
}

pub(super) async fn ended_runs_are_counted(store: Arc<dyn Store>) {
    let store = store.as_ref();
    assert!(store.ended_runs().await.unwrap().is_empty());
    for state in [RunState::Succeeded, RunState::Failed, RunState::Succeeded] {
        let grant = running(store).await;
        store.update(grant.run.id, grant.fence, &enter(state, "done")).await.unwrap();
    }
    let living = queued(store).await;
    let backup = accept(store, &request(run("odd 🦀 \"'"), &[])).await;
    for run in [living.id, backup.id] {
        let counted: u64 = store.ended_runs().await.unwrap().iter().map(|ended| ended.runs).sum();
        store.request_cancel(run, "enough").await.unwrap();
        let after: u64 = store.ended_runs().await.unwrap().iter().map(|ended| ended.runs).sum();
        assert_eq!(after, counted + 1, "one that lives is not counted");
    }
    let ended = |target: &str, state, runs| EndedRuns {
        target: target.to_owned(),
        kind: RunKind::Cleanup,
        state,
        runs,
    };
    let expected = [
        ended("odd 🦀 \"'", RunState::Cancelled, 1),
        ended("shop", RunState::Cancelled, 1),
        ended("shop", RunState::Failed, 1),
        ended("shop", RunState::Succeeded, 2),
    ];
    assert_eq!(store.ended_runs().await.unwrap(), expected);
}

pub(super) async fn the_standing_of_backups_is_that_of_those_that_are_kept(store: Arc<dyn Store>) {
    let store = store.as_ref();
    let standing = async || store.backup_standing("shop").await.unwrap();
    assert_eq!(standing().await, BackupStanding::default());
    let mut made = Vec::new();
    for state in [
        RunState::Succeeded,
        RunState::Succeeded,
        RunState::Succeeded,
        RunState::Succeeded,
        RunState::Failed,
    ] {
        let backup = Run {
            kind: RunKind::Backup,
            ..run("shop")
        };
        let backup = accept(store, &request(backup, &[])).await;
        let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
        assert_eq!(grant.run.id, backup.id);
        store.update(backup.id, grant.fence, &enter(state, "over")).await.unwrap();
        made.push(store.run(backup.id).await.unwrap().unwrap());
    }
    let all = standing().await;
    assert_eq!(
        (all.kept, all.oldest, all.newest),
        (4, Some(made[0].created_at), Some(made[3].id)),
        "one that failed is none"
    );
    assert_eq!((all.proven, all.damaged, all.newest_damaged), (None, 0, None));
    assert_eq!(store.begin_prune(made[0].id, None).await.unwrap(), PruneBegun::Begun);
    let keeper = Run {
        kind: RunKind::Maintain,
        ..run("shop")
    };
    let keeper = accept(store, &request(keeper, &[])).await;
    let grant = store.claim("holder", LONG, &[]).await.unwrap().unwrap();
    assert_eq!(grant.run.id, keeper.id);
    let found = async |run: &Run, mark| {
        let update = Update {
            proofs: vec![(run.id, mark)],
            ..Update::default()
        };
        store.update(keeper.id, grant.fence, &update).await.unwrap();
        store.run(run.id).await.unwrap().unwrap().verification
    };
    found(&made[1], SourceMark::Damaged).await;
    let Verification::Verified(proven) = found(&made[2], SourceMark::Verified).await else {
        panic!("it is proven");
    };
    found(&made[3], SourceMark::Damaged).await;
    assert_eq!(
        standing().await,
        BackupStanding {
            kept: 3,
            oldest: Some(made[1].created_at),
            newest: Some(made[3].id),
            proven: Some(proven),
            damaged: 2,
            newest_damaged: Some(made[3].id),
        }
    );
    assert_eq!(store.backup_standing("odd 🦀").await.unwrap(), BackupStanding::default());
}
