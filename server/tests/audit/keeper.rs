//! The keeper: ranges are closed, old ones go, what does not fit is left as it is and told of, and the head is anchored.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dbkeep_engine::{
    Engine,
    audit::{Anchor, Digest, Problem, ProblemKind},
    engine::Settings,
    model::notice::{Channel, ChannelKind, Delivery, NoticeKind, NoticeSeverity},
    notify::{Route, Routing},
    port::{AnchorError, AnchorFile, AuditLog as _, DeliveryFilter, Outbox as _},
};
use jiff::{SignedDuration, Timestamp};

use crate::world::{DATABASES, World, engine_on, subjects, verify};

const DAY: Duration = Duration::from_secs(86_400);

fn days(days: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24 * days)
}

/// Everything that is told goes to the channel `hook`.
fn told_to_all(settings: &mut Settings) {
    let channel = Channel {
        name: "hook".to_owned(),
        kind: ChannelKind::Webhook,
        destination: String::new(),
        recipients: Vec::new(),
    };
    let route = Route {
        kinds: Vec::new(),
        severity: NoticeSeverity::Info,
        targets: Vec::new(),
        channels: vec!["hook".to_owned()],
        recipients: Vec::new(),
    };
    settings.notify.routing = Arc::new(Routing::new([channel], vec![route]));
}

async fn deliveries(world: &World) -> Vec<Delivery> {
    world.store.deliveries(&DeliveryFilter::default(), None, 100).await.unwrap()
}

async fn kept(engine: &Engine, now: Timestamp) -> dbkeep_engine::engine::audit::Looked {
    engine.keep_audit(Some(now)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_closed_when_they_are_full_or_old_and_go_when_their_time_has_come() {
    for database in DATABASES {
        let world = World::new(database).await;
        let engine = world.engine(|settings| {
            settings.audit.segment_records = 40;
            settings.audit.retention = 100 * DAY;
        });
        assert_eq!(kept(&engine, days(0)).await, Default::default(), "there is nothing");
        world.store.append(&subjects(95)).await.unwrap();
        let looked = kept(&engine, days(0)).await;
        let ranges: Vec<(u64, u64)> = looked.sealed.iter().map(|seal| (seal.first, seal.last)).collect();
        assert_eq!(ranges, [(1, 40), (41, 80)]);
        assert_eq!((looked.removed.len(), looked.problem), (0, None));
        assert_eq!(kept(&engine, days(0)).await.sealed, [], "the rest is neither full nor old");
        let looked = kept(&engine, days(31)).await;
        let ranges: Vec<(u64, u64)> = looked.sealed.iter().map(|seal| (seal.first, seal.last)).collect();
        assert_eq!(ranges, [(81, 97)], "with the two records about the ranges");
        assert_eq!(kept(&engine, days(99)).await.removed, []);
        let looked = kept(&engine, days(101)).await;
        let ranges: Vec<(u64, u64)> = looked.removed.iter().map(|seal| (seal.first, seal.last)).collect();
        assert_eq!(ranges, [(1, 40), (41, 80)], "the newest range stays");
        assert_eq!(world.records().await[0].number, 81);
        let verified = verify(&engine, Vec::new()).await.expect("it is whole");
        assert_eq!(verified.sealed, 80);
        // Also after years, and with a clock that went back.
        kept(&engine, days(9_999)).await;
        kept(&engine, days(-9_999)).await;
        let verified = verify(&engine, Vec::new()).await.expect("it is whole");
        assert!(verified.records > 0);
    }
}

/// What was changed is evidence: it is neither closed, nor anchored, nor removed, and people are told once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_stays_and_is_told_of() {
    for database in DATABASES {
        let world = World::new(database).await;
        world.drop_triggers().await;
        let engine = world.engine(|settings| {
            told_to_all(settings);
            settings.audit.segment_records = 40;
            settings.audit.retention = 100 * DAY;
        });
        world.store.append(&subjects(90)).await.unwrap();
        assert_eq!(kept(&engine, days(0)).await.sealed.len(), 2);
        world
            .execute("UPDATE {records} SET detail = 'nothing' WHERE number = 7")
            .await;
        let changed = |found: Option<Problem>, number| {
            let found = found.expect("it is found");
            assert_eq!((found.kind, found.number), (ProblemKind::Changed, number), "{database}");
        };
        let looked = kept(&engine, days(101)).await;
        assert_eq!(looked.removed, []);
        changed(looked.problem, 7);
        assert_eq!(world.records().await[0].number, 1, "{database}");
        // A second look tells nobody again.
        kept(&engine, days(101)).await;
        let told = deliveries(&world).await;
        assert_eq!(told.len(), 1, "{told:?}");
        let notice = &told[0].envelope.notice;
        assert_eq!(
            (notice.kind, notice.severity),
            (NoticeKind::AuditBroken, NoticeSeverity::Error)
        );
        assert!(notice.title.contains("record 7 is changed"), "{}", notice.title);

        // The open end likewise.
        let last = world.anchor().await.number;
        world
            .execute(&format!("UPDATE {{records}} SET principal = 'x' WHERE number = {last}"))
            .await;
        world.store.append(&subjects(60)).await.unwrap();
        let looked = kept(&engine, days(0)).await;
        assert_eq!(looked.sealed, []);
        changed(looked.problem, last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_servers_looks_after_the_log() {
    for database in DATABASES {
        let world = World::new(database).await;
        world.store.append(&subjects(50)).await.unwrap();
        let full = |settings: &mut Settings| settings.audit.segment_records = 40;
        let (one, other) = (world.engine(full), engine_on(&world.store, full));
        let taken = world.store.claim_audit_turn("another server", DAY).await.unwrap();
        assert!(taken);
        assert_eq!(kept(&one, days(0)).await, Default::default(), "it is not its turn");
        world.store.end_audit_turn("another server").await.unwrap();
        assert_eq!(kept(&one, days(0)).await.sealed.len(), 1);
        world.store.append(&subjects(50)).await.unwrap();
        assert_eq!(kept(&other, days(0)).await.sealed.len(), 1, "each gets its turn");
    }
}

/// A file in memory that fails where the test says so.
#[derive(Debug, Default)]
struct Paper {
    lines: std::sync::Mutex<Vec<Anchor>>,
    is_away: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl AnchorFile for Paper {
    async fn keep(&self, anchor: &Anchor) -> Result<(), AnchorError> {
        if self.is_away.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(AnchorError {
                place: "paper".to_owned(),
                problem: "it is away".to_owned(),
            });
        }
        self.lines.lock().unwrap().push(*anchor);
        Ok(())
    }

    async fn read(&self) -> Result<Vec<Anchor>, AnchorError> {
        Ok(self.lines.lock().unwrap().clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_anchored_in_file_and_channel() {
    for database in DATABASES {
        let world = World::new(database).await;
        let paper = Arc::new(Paper::default());
        let engine = world.engine(|settings| {
            settings.audit.anchor_file = Some(Arc::clone(&paper) as Arc<dyn AnchorFile>);
            settings.audit.anchor_channel = Some("witness".to_owned());
        });
        assert_eq!(
            kept(&engine, days(0)).await.anchored,
            None,
            "of an empty log there is nothing to say"
        );
        world.store.append(&subjects(30)).await.unwrap();
        let first = kept(&engine, days(0)).await.anchored.expect("it is anchored");
        assert_eq!((first.number, paper.lines.lock().unwrap().clone()), (30, vec![first]));
        world.store.append(&subjects(5)).await.unwrap();
        assert_eq!(kept(&engine, days(0)).await.anchored, None, "a day has not passed");
        // A file that is away is tried again, and nobody is told of an anchor that is not in it.
        paper.is_away.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(engine.keep_audit(Some(days(1))).await.is_err());
        assert_eq!(deliveries(&world).await.len(), 1);
        paper.is_away.store(false, std::sync::atomic::Ordering::Relaxed);
        let second = kept(&engine, days(1)).await.anchored.expect("it is anchored");
        assert_eq!(second.number, 35);
        assert_eq!(kept(&engine, days(3)).await.anchored, None, "the head has not moved");
        let told = deliveries(&world).await;
        let keys: Vec<&str> = told.iter().map(|delivery| delivery.envelope.notice.key.as_str()).collect();
        assert_eq!(
            keys,
            [&second, &first].map(|anchor| format!("audit:anchor:{}:{}", anchor.number, anchor.hash))
        );
        assert!(told.iter().all(|delivery| delivery.envelope.channel == "witness"));
        let verified = verify(&engine, Vec::new()).await.expect("it is whole");
        assert_eq!(verified.anchors, 2);

        // Another server has a file of its own, and gets its turn.
        let other_paper = Arc::new(Paper::default());
        let other_server = engine_on(&world.store, |settings| {
            settings.audit.anchor_file = Some(Arc::clone(&other_paper) as Arc<dyn AnchorFile>);
        });
        assert!(kept(&other_server, days(1)).await.anchored.is_some());
        assert_eq!(other_paper.lines.lock().unwrap().len(), 1);
        assert_eq!(deliveries(&world).await.len(), 2, "nobody is told of the same head again");

        // The file knows what the store forgot.
        world.drop_triggers().await;
        world.execute("DELETE FROM {records} WHERE number > 20").await;
        world
            .execute("UPDATE {head} SET number = 20, hash = (SELECT hash FROM {records} WHERE number = 20)")
            .await;
        world.execute("DELETE FROM {anchors}").await;
        let problem = verify(&engine, Vec::new()).await.expect_err("it was cut off");
        assert_eq!((problem.kind, problem.number), (ProblemKind::Truncated, 21), "{database}");
        let elsewhere = engine_on(&world.store, |_| {});
        assert!(
            verify(&elsewhere, Vec::new()).await.is_ok(),
            "a server without the file cannot know"
        );
        paper.lines.lock().unwrap().clear();
        let other = Anchor {
            number: 10,
            hash: Digest([1; 32]),
            at: Timestamp::now(),
        };
        let problem = verify(&engine, vec![other]).await.expect_err("it is another log");
        assert_eq!((problem.kind, problem.number), (ProblemKind::Replaced, 10));
    }
}
