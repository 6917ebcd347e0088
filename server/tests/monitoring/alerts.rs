//! From what is measured to what people are told, by ticks at instants that the test chooses.

use std::{sync::Arc, time::Duration};

use dbkeep_engine::{
    Engine, EngineError,
    model::{
        Caller,
        monitor::{Alert, AlertState},
        notice::NoticeKind,
    },
    port::{AlertFilter, DecisionFilter, DeliveryFilter, Ladder as _, Outbox as _},
};
use dbkeep_server::store::ControlStore;
use jiff::Timestamp;

use crate::world::{DATABASES, Host, World};

async fn alerts(engine: &Engine) -> Vec<Alert> {
    let filter = AlertFilter {
        limit: 100,
        ..AlertFilter::default()
    };
    engine.alerts(&filter).await.unwrap()
}

async fn told(store: &ControlStore) -> Vec<NoticeKind> {
    let deliveries = store.deliveries(&DeliveryFilter::default(), None, 100).await.unwrap();
    deliveries
        .iter()
        .rev()
        .map(|delivery| delivery.envelope.notice.kind)
        .collect()
}

fn minutes(from: Timestamp, minutes: i64) -> Timestamp {
    from + jiff::SignedDuration::from_mins(minutes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_once_it_lasts_and_once_it_is_over() {
    for database in DATABASES {
        let world = World::new(database).await;
        let host = Host::new("box", 85);
        let (engine, store) = world.engine(host.clone(), |_| {}).await;
        let start = Timestamp::now();
        assert!(engine.collect_at("", start).await.unwrap());
        let pending = alerts(&engine).await;
        assert_eq!((pending.len(), pending[0].state), (1, AlertState::Pending));
        assert_eq!(pending[0].object, "box:/srv");
        assert!(engine.collect_at("", minutes(start, 4)).await.unwrap());
        assert_eq!(told(&store).await, [], "it has not lasted");
        // The clock of the store is set back by a day: it has lasted for no longer by that, nor for a day.
        assert!(engine.collect_at("", minutes(start, -1_440)).await.unwrap());
        assert!(engine.collect_at("", minutes(start, -1_436)).await.unwrap());
        assert_eq!(told(&store).await, []);
        assert!(engine.collect_at("", minutes(start, -1_435)).await.unwrap());
        assert_eq!(told(&store).await, [NoticeKind::AlertRaised]);
        let raised = alerts(&engine).await.remove(0);
        assert_eq!((raised.state, raised.id), (AlertState::Raised, pending[0].id));
        // Between the bounds it neither ends nor begins anew.
        host.fill(77);
        assert!(engine.collect_at("", minutes(start, 20)).await.unwrap());
        host.fill(85);
        assert!(engine.collect_at("", minutes(start, 40)).await.unwrap());
        assert_eq!(told(&store).await.len(), 1);
        host.fill(50);
        assert!(engine.collect_at("", minutes(start, 41)).await.unwrap());
        assert_eq!(told(&store).await, [NoticeKind::AlertRaised, NoticeKind::AlertResolved]);
        let ended = alerts(&engine).await;
        assert_eq!((ended.len(), ended[0].state), (1, AlertState::Resolved));
        // One that passed before anybody was told leaves nothing.
        host.fill(85);
        assert!(engine.collect_at("", minutes(start, 50)).await.unwrap());
        host.fill(50);
        assert!(engine.collect_at("", minutes(start, 51)).await.unwrap());
        assert_eq!(alerts(&engine).await.len(), 1);
        assert_eq!(told(&store).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_looked_at_is_not_empty() {
    for database in DATABASES {
        let world = World::new(database).await;
        let host = Host::new("box", 85);
        let (engine, store) = world.engine(host.clone(), |_| {}).await;
        let start = Timestamp::now();
        for minute in [0, 5] {
            assert!(engine.collect_at("", minutes(start, minute)).await.unwrap());
        }
        assert_eq!(told(&store).await, [NoticeKind::AlertRaised]);
        assert_eq!(engine.service_status().await.unwrap().gaps, []);
        host.take_away(true);
        for minute in [6, 7] {
            assert!(engine.collect_at("", minutes(start, minute)).await.unwrap());
        }
        assert_eq!(alerts(&engine).await[0].state, AlertState::Raised, "{database}");
        let gaps = engine.service_status().await.unwrap().gaps;
        let what: Vec<&str> = gaps.iter().map(|gap| gap.what.as_str()).collect();
        assert_eq!(what, ["disk box:/srv", "disk box:/srv/backups"], "{database}");
        host.take_away(false);
        host.fill(50);
        assert!(engine.collect_at("", minutes(start, 8)).await.unwrap());
        assert_eq!(told(&store).await, [NoticeKind::AlertRaised, NoticeKind::AlertResolved]);
        assert_eq!(engine.service_status().await.unwrap().gaps, [], "{database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_other_machines_leave_each_others_alerts_alone() {
    let world = World::new("postgres").await;
    let (one, two) = (Host::new("one", 85), Host::new("two", 10));
    let (first, store) = world.engine(one.clone(), |_| {}).await;
    let (second, _) = world.engine(two, |_| {}).await;
    let start = Timestamp::now();
    for minute in [0, 6] {
        assert!(first.collect_at("", minutes(start, minute)).await.unwrap());
    }
    assert_eq!(told(&store).await, [NoticeKind::AlertRaised]);
    // The first server is alive.
    dbkeep_engine::port::Schedules::beat(
        &store,
        &dbkeep_engine::model::ServerInfo {
            id: first.settings().holder.clone(),
            address: String::new(),
            host: "one".to_owned(),
            version: String::new(),
            started_at: start,
        },
        start,
    )
    .await
    .unwrap();
    assert!(second.collect_at("", minutes(start, 7)).await.unwrap());
    assert_eq!(alerts(&second).await[0].state, AlertState::Raised);
    // It is gone, and nobody will ever measure that disk again.
    dbkeep_engine::port::Schedules::farewell(&store, &first.settings().holder)
        .await
        .unwrap();
    assert!(second.collect_at("", minutes(start, 8)).await.unwrap());
    assert_eq!(alerts(&second).await[0].state, AlertState::Resolved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_is_one_alert() {
    let world = World::new("sqlite").await;
    let file = world.folder.path().join("app.db");
    // One server that is restarted: the second engine goes on under the claim of the first.
    let (engine, store) = world
        .engine(Host::new("box", 1), |settings| settings.holder = "one".to_owned())
        .await;
    let start = Timestamp::now();
    assert!(engine.collect_at("app", start).await.unwrap());
    assert_eq!(alerts(&engine).await, []);
    let away = world.folder.path().join("away.db");
    std::fs::rename(&file, &away).unwrap();
    // A pool may still have the old file open: a folder in its place can be opened by nobody, and the connections are new.
    std::fs::create_dir(&file).unwrap();
    let (engine, _) = world
        .engine(Host::new("box", 1), |settings| settings.holder = "one".to_owned())
        .await;
    for minute in 1..3 {
        assert!(engine.collect_at("app", minutes(start, minute)).await.unwrap());
        assert_eq!(told(&store).await, [], "it may be a restart");
    }
    for minute in 3..5 {
        assert!(engine.collect_at("app", minutes(start, minute)).await.unwrap());
    }
    let down = alerts(&engine).await;
    assert_eq!(
        (down.len(), down[0].rule.as_str(), down[0].state),
        (1, "target_down", AlertState::Raised)
    );
    assert_eq!(told(&store).await, [NoticeKind::AlertRaised]);
    let status = engine.service_status().await.unwrap();
    assert!(!status.targets[0].collected.as_ref().unwrap().up);
    let kept = engine.kept_snapshot("app").await.unwrap();
    assert!(kept.is_some(), "the last one stays");
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&away, &file).unwrap();
    assert!(engine.collect_at("app", minutes(start, 5)).await.unwrap());
    assert_eq!(told(&store).await, [NoticeKind::AlertRaised, NoticeKind::AlertResolved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_is_kept_with_its_decision() {
    for database in DATABASES {
        let world = World::new(database).await;
        let (engine, store) = world
            .engine(Host::new("box", 85), |settings| {
                let rules = &mut settings.monitor.rules;
                for rule in rules.values_mut() {
                    rule.lasting = Duration::ZERO;
                }
            })
            .await;
        let start = Timestamp::now();
        assert!(engine.collect_at("", start).await.unwrap());
        let alert = alerts(&engine).await.remove(0);
        assert_eq!(alert.state, AlertState::Raised, "a rule that need not last");
        let caller = Caller {
            principal: "ann".to_owned(),
            peer: String::new(),
        };
        let id = alert.id.to_string();
        let taken = engine.acknowledge_alert(&id, "I look", &caller).await.unwrap();
        assert_eq!(taken.acknowledged.as_ref().unwrap().0, "ann");
        assert!(engine.collect_at("", minutes(start, 1)).await.unwrap());
        assert_eq!(alerts(&engine).await[0].acknowledged, taken.acknowledged);
        let decisions = store.decisions(&DecisionFilter::default(), None, 10).await.unwrap();
        assert_eq!(decisions.len(), 1);
        for unknown in ["x", "0190a6e0-0000-7000-8000-000000000000"] {
            let error = engine.acknowledge_alert(unknown, "", &caller).await.unwrap_err();
            assert!(matches!(error, EngineError::UnknownAlert { .. }), "{error}");
        }
        let long = "x".repeat(501);
        let error = engine.acknowledge_alert(&id, &long, &caller).await.unwrap_err();
        assert!(matches!(error, EngineError::InvalidField { field: "note", .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_collect_a_target_once() {
    let world = World::new("postgres").await;
    let (one, store) = world.engine(Host::new("one", 1), |_| {}).await;
    let (two, _) = world.engine(Host::new("two", 1), |_| {}).await;
    let now = Timestamp::now();
    let collected = futures::future::join_all((0..8).map(|number| {
        let engine: Engine = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { engine.collect_at("app", now).await.unwrap() })
    }))
    .await;
    let holders: Vec<bool> = collected.into_iter().map(Result::unwrap).collect();
    let (evens, odds): (Vec<_>, Vec<_>) = holders.iter().enumerate().partition(|(number, _)| number % 2 == 0);
    let wrote = |side: Vec<(usize, &bool)>| side.into_iter().any(|(_, wrote)| *wrote);
    assert_ne!(wrote(evens), wrote(odds), "one of them holds it: {holders:?}");
    let collections = Arc::new(store);
    assert_eq!(
        dbkeep_engine::port::Metrics::collections(collections.as_ref(), 0)
            .await
            .unwrap()
            .len(),
        1
    );
}
