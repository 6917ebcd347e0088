//! Lists and streams of a caller who is for some targets: full pages of what it sees, and nothing else.

use std::time::Duration;

use dbkeep_client::{
    AlertQuery, AuditQuery, BackupQuery, DecisionQuery, DeliveryQuery, Error, RunQuery, RunRequest, ScheduleDraft, ScheduleQuery,
    ScheduleTiming, ScheduleUpdate, proto::Role,
};
use dbkeep_engine::{
    model::{
        monitor::{Alert, AlertId, AlertState, Level},
        notice::{Envelope, Notice, NoticeKind},
    },
    port::{AlertChanges, Metrics as _, Outbox as _},
};
use dbkeep_server::store::ControlStore;
use futures::StreamExt as _;
use jiff::Timestamp;

use crate::world::{HIDDEN, SEEN, World};

/// An alert and a delivery of each target, as the server itself would write them. Returns the alerts' ids, those of the hidden target first.
async fn alerts_and_deliveries(world: &World) -> [String; 2] {
    let file = world.folder.path().join("data/control.db");
    let store = ControlStore::open(&format!("sqlite://{}", file.display()))
        .await
        .expect("the store");
    let ids = [HIDDEN, SEEN].map(|target| (target, AlertId::new()));
    for (target, id) in ids {
        let claim = store
            .claim_collection(target, "test", Duration::from_secs(60), Duration::ZERO)
            .await
            .expect("an answer")
            .expect("nobody collects");
        let now = Timestamp::now();
        let changes = AlertChanges {
            put: vec![Alert {
                id,
                rule: "disk_nearly_full".to_owned(),
                target: target.to_owned(),
                object: format!("/srv/{target}"),
                level: Level::Warning,
                state: AlertState::Raised,
                threshold: None,
                detail: format!("the disk of {target} is full"),
                remediation: "make room".to_owned(),
                since: now,
                raised_at: Some(now),
                seen_at: now,
                resolved_at: None,
                acknowledged: None,
            }],
            ..AlertChanges::default()
        };
        assert!(store.change_alerts(&claim, &changes).await.expect("an answer"));
        let envelope = Envelope {
            notice: Notice::new(
                NoticeKind::AlertRaised,
                target,
                target,
                format!("the disk of {target} is full"),
            ),
            channel: "hook".to_owned(),
            recipients: Vec::new(),
        };
        assert_eq!(store.enqueue(&[envelope]).await.expect("an answer"), 1);
    }
    store.close().await;
    ids.map(|(_, id)| id.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_what_the_caller_sees_and_all_of_it() {
    let world = World::start().await;
    let [hidden_alert, seen_alert] = alerts_and_deliveries(&world).await;
    let admin = world.client(&world.admin()).await;
    for (number, target) in [HIDDEN, SEEN, HIDDEN].into_iter().enumerate() {
        let request = RunRequest::new([format!("expired_{target}")]).target(target).execute();
        // The second one on a target waits for the first.
        let request = if number == 2 { request.queue() } else { request };
        let mut events = admin.cleanup().run(request).await.expect("accepted");
        events.next().await.expect("an event").expect("no error");
        let draft = ScheduleDraft::new(format!("s{number}"))
            .target(target)
            .operation(format!("expired_{target}"))
            .timing(ScheduleTiming::cron("0 3 1 1 *"));
        admin.schedules().create(draft).await.expect("a schedule");
    }
    let scoped = world.client(&world.token("scoped", Role::Viewer, Some(SEEN)).await).await;
    let targets = scoped.targets().list().await.expect("targets");
    assert_eq!(targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), [SEEN]);
    // Pages of one, so that what is passed over lies between pages too.
    let runs = scoped.runs().list_all(RunQuery::default().page_size(1)).await.expect("runs");
    assert_eq!(runs.iter().map(|run| run.target.as_str()).collect::<Vec<_>>(), [SEEN]);
    assert_eq!(
        admin
            .runs()
            .list_all(RunQuery::default().page_size(1))
            .await
            .expect("runs")
            .len(),
        3
    );
    let decisions = scoped
        .decisions()
        .list_all(DecisionQuery::default().page_size(1))
        .await
        .expect("decisions");
    assert!(
        !decisions.is_empty() && decisions.iter().all(|decision| decision.target == SEEN),
        "{decisions:?}"
    );
    let schedules = scoped
        .schedules()
        .list_all(ScheduleQuery::default().page_size(1))
        .await
        .expect("schedules");
    assert_eq!(
        schedules
            .iter()
            .map(|schedule| schedule.spec.as_ref().expect("a spec").target.as_str())
            .collect::<Vec<_>>(),
        [SEEN]
    );
    let alerts = async |client: &dbkeep_client::Client| {
        let query = AlertQuery::default().page_size(1);
        let alerts = client.monitoring().list_all_alerts(query).await.expect("alerts");
        alerts.into_iter().map(|alert| alert.id).collect::<Vec<_>>()
    };
    assert_eq!(alerts(&admin).await.len(), 2);
    assert_eq!(alerts(&scoped).await, [seen_alert]);
    let acting = world.client(&world.token("acting", Role::Operator, Some(SEEN)).await).await;
    let error = acting
        .monitoring()
        .acknowledge(hidden_alert, "mine")
        .await
        .expect_err("unknown");
    assert!(matches!(&error, Error::UnknownAlert { .. }), "{error:?}");
    let deliveries = async |client: &dbkeep_client::Client| {
        let query = DeliveryQuery::default().page_size(1);
        client.notifications().list_all(query).await.expect("deliveries")
    };
    let all = deliveries(&admin).await;
    assert_eq!(all.len(), 2);
    let seen = deliveries(&scoped).await;
    assert_eq!(seen.len(), 1);
    for delivery in &all {
        let got = scoped.notifications().get(delivery.id.as_str()).await;
        if delivery.id == seen[0].id {
            assert_eq!(got.expect("seen").id, delivery.id);
        } else {
            assert!(matches!(&got, Err(Error::UnknownDelivery { .. })), "{got:?}");
        }
    }
    assert!(!format!("{seen:?}").contains(HIDDEN), "{seen:?}");
    let audit = scoped
        .audit()
        .list_all(AuditQuery::default().page_size(1))
        .await
        .expect("the log");
    assert!(
        !audit.is_empty() && audit.iter().all(|event| event.target == SEEN),
        "{audit:?}"
    );
    // What there is of the others is not even counted.
    for (client, schedules) in [(&admin, 3), (&scoped, 1)] {
        let scheduler = client.schedules().scheduler_status().await.expect("the scheduler");
        let status = client.monitoring().status().await.expect("the status");
        let is_all = schedules == 3;
        assert_eq!(status.history.is_some(), is_all);
        for scheduler in [scheduler, status.scheduler.expect("the scheduler")] {
            assert_eq!(scheduler.schedule_count, schedules);
            let server = scheduler.servers.first().expect("the server");
            assert_eq!((!server.host.is_empty(), !server.address.is_empty()), (is_all, is_all));
        }
    }
    // That a name is taken is told, and by which schedule only of what is seen.
    let drafted = |name: &str| {
        ScheduleDraft::new(name)
            .target(SEEN)
            .operation(format!("expired_{SEEN}"))
            .timing(ScheduleTiming::cron("0 3 1 1 *"))
    };
    for (name, is_seen) in [("s0", false), ("s1", true)] {
        let error = acting.schedules().create(drafted(name)).await.expect_err("taken");
        let Error::ScheduleExists { schedule, message, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(!schedule.is_empty(), is_seen, "{error:?}");
        assert!(
            is_seen || !message.contains(&admin.schedules().get(name).await.expect("it").id),
            "{message}"
        );
    }
    let error = acting
        .schedules()
        .update(ScheduleUpdate::new("s1").name("s0"))
        .await
        .expect_err("taken");
    assert!(
        matches!(&error, Error::ScheduleExists { schedule, .. } if schedule.is_empty()),
        "{error:?}"
    );
    let status = scoped.monitoring().status().await.expect("the status");
    assert_eq!(status.alerts.len(), 1);
    assert_eq!(
        status.targets.iter().map(|health| health.name.as_str()).collect::<Vec<_>>(),
        [SEEN]
    );
    assert!(status.runs.iter().all(|run| run.target == SEEN) && status.runs.len() == 1);
    // A name that is another's is none at all.
    for name in [HIDDEN, "nowhere"] {
        let error = scoped.targets().get(name).await.expect_err("unknown");
        assert!(
            matches!(&error, dbkeep_client::Error::UnknownTarget { known, .. } if *known == [SEEN]),
            "{name}: {error:?}"
        );
    }
    // The only target of a caller is not the only one of the server: what names none is asked for a name.
    let error = scoped.migrations().status("").await.expect_err("no name");
    assert!(!error.to_string().contains(HIDDEN), "{error}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_target_is_none_at_all() {
    let world = World::working().await;
    let admin = world.client(&world.admin()).await;
    for target in [HIDDEN, SEEN] {
        let request = RunRequest::new([format!("expired_{target}")]).target(target).execute();
        let run = admin
            .cleanup()
            .run(request)
            .await
            .expect("accepted")
            .finish()
            .await
            .expect("a run");
        assert!(run.report.expect("a report").rows_captured > 0, "{target}");
    }
    let scoped = world.client(&world.token("scoped", Role::Operator, Some(SEEN)).await).await;
    let all = admin
        .backups()
        .list_all(BackupQuery::default().page_size(1))
        .await
        .expect("backups");
    assert_eq!(all.len(), 2);
    let seen = scoped
        .backups()
        .list_all(BackupQuery::default().page_size(1))
        .await
        .expect("backups");
    assert_eq!(seen.iter().map(|backup| backup.target.as_str()).collect::<Vec<_>>(), [SEEN]);
    for backup in &all {
        let got = scoped.backups().get(backup.id.as_str(), 10).await;
        if backup.target == SEEN {
            got.expect("seen");
        } else {
            assert!(matches!(&got, Err(Error::UnknownBackup { .. })), "{got:?}");
            let undone = scoped.runs().undo(dbkeep_client::UndoRequest::new(backup.id.as_str())).await;
            assert!(matches!(undone.err(), Some(Error::UnknownRun { .. })));
        }
    }
    world.stop().await;
}
