//! `AuditService` over a real server: lists and pages, single records, verdicts and exports.

use std::collections::BTreeSet;

use dbkeep_client::{AuditQuery, Client, Error, proto};
use dbkeep_engine::audit::{Phase, Subject, retention};
use dbkeep_engine::port::AuditLog as _;
use dbkeep_server::Config;
use futures::TryStreamExt as _;

use crate::{
    serving::Serving,
    world::{DATABASES, World, subjects},
};

struct Served {
    client: Client,
    serving: Serving,
}

impl Served {
    async fn on(world: &World) -> Self {
        let mut config = Config::embedded(world.folder.path().join("data")).with_store(world.url.as_str());
        config.anchor_file = Some(world.folder.path().join("anchors"));
        let serving = Serving::start(config).await;
        let address = serving.address.to_string();
        Self {
            client: Client::builder().address(address).connect().await.unwrap(),
            serving,
        }
    }

    async fn stop(self) {
        self.serving.stop().await;
    }
}

fn anchor(event: &proto::AuditEvent) -> proto::AuditAnchor {
    proto::AuditAnchor {
        number: event.number,
        hash: event.hash.clone(),
        time: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_listed_shown_verified_and_exported() {
    for database in DATABASES {
        let world = World::new(database).await;
        world.store.append(&subjects(700)).await.unwrap();
        let seal = world.store.close_segment(100).await.unwrap().unwrap();
        world.store.close_segment(200).await.unwrap().unwrap();
        world.store.prune_segment(&seal).await.unwrap().unwrap();
        let served = Served::on(&world).await;
        let audit = served.client.audit();

        let all = audit.list_all(AuditQuery::default().page_size(100)).await.unwrap();
        let numbers: Vec<u64> = all.iter().map(|event| event.number).collect();
        assert!(
            numbers.iter().copied().eq((101..=703).rev()),
            "newest first, without a gap: {numbers:?}"
        );
        let kept = world.records().await;
        for (event, record) in all.iter().zip(kept.iter().rev()) {
            assert_eq!(
                (event.hash.as_str(), event.number),
                (record.hash.to_string().as_str(), record.number)
            );
        }
        let denied = audit
            .list_all(
                AuditQuery::default()
                    .phase(proto::AuditPhase::Denied)
                    .target("app")
                    .principal("ops-2"),
            )
            .await
            .unwrap();
        let expected =
            |subject: &Subject| subject.phase == Phase::Denied && subject.target == "app" && subject.principal == "ops-2";
        assert_eq!(denied.len(), kept.iter().filter(|record| expected(&record.subject)).count());
        assert!(!denied.is_empty());
        let sealings = audit
            .list_all(AuditQuery::default().method(retention::SEALING))
            .await
            .unwrap();
        assert_eq!(sealings.len(), 2);
        let now = std::time::SystemTime::now();
        let later = now + std::time::Duration::from_secs(3_600);
        assert_eq!(audit.list_all(AuditQuery::default().since(later)).await.unwrap(), []);
        assert_eq!(audit.list_all(AuditQuery::default().until(later)).await.unwrap().len(), 603);

        let shown = audit.get(650).await.unwrap();
        assert_eq!(shown, all[703 - 650]);
        assert_eq!(shown.counts[0].name, "rows");
        for number in [0, 50, 704] {
            let error = audit.get(number).await.unwrap_err();
            assert!(
                matches!(&error, Error::UnknownAuditRecord { number: told, .. } if *told == number.to_string()),
                "{error:?}"
            );
        }
        // Refused with the field.
        let wrong = proto::AuditAnchor {
            hash: "x".to_owned(),
            ..anchor(&all[0])
        };
        let error = audit.verify(vec![anchor(&all[0]), wrong]).await.unwrap_err();
        assert!(
            matches!(&error, Error::InvalidField { violations, .. } if violations[0].field == "anchors[1].hash"),
            "{error:?}"
        );

        let steps: Vec<_> = audit
            .verify_watched(vec![anchor(&all[3])])
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert!(steps.len() > 2 && steps[0].total_count == 603, "{steps:?}");
        let verdict = steps.last().unwrap().verdict.clone().unwrap();
        assert_eq!(
            (verdict.problem, verdict.record_count, verdict.sealed_count),
            (None, 603, 100)
        );
        assert!(verdict.anchor_count >= 1);
        assert_eq!(verdict.head.unwrap().number, 703);

        let pieces: Vec<_> = audit.export().await.unwrap().try_collect().await.unwrap();
        let mut exported: Vec<&proto::AuditEvent> = pieces.iter().flat_map(|piece| &piece.events).collect();
        let trailer = pieces.last().unwrap().trailer.clone().unwrap();
        assert_eq!((trailer.seal_count, trailer.record_count), (2, 604));
        // The last one says that the log is taken away.
        let last = exported.pop().unwrap();
        assert_eq!(
            (last.method.as_str(), last.phase()),
            ("dbkeep.v1.AuditService/ExportAuditLog", proto::AuditPhase::Begun)
        );
        assert_eq!(trailer.head.unwrap().hash, last.hash);
        assert!(exported.iter().copied().eq(all.iter().rev()), "in order");

        // Somebody changes the log under the server.
        world.drop_triggers().await;
        world.execute("UPDATE {records} SET code = 'OK ' WHERE number = 400").await;
        let problem = audit.verify(Vec::new()).await.unwrap().problem.unwrap();
        assert_eq!((problem.number, problem.kind()), (400, proto::AuditProblemKind::Changed));
        world.execute("UPDATE {records} SET hash = 'none' WHERE number = 400").await;
        let problem = audit.verify(Vec::new()).await.unwrap().problem.unwrap();
        assert_eq!((problem.number, problem.kind()), (400, proto::AuditProblemKind::Unreadable));
        let exported = audit.export().await.unwrap().try_collect::<Vec<_>>().await.unwrap_err();
        assert!(
            matches!(&exported, Error::AuditLogBroken { number, .. } if number == "400"),
            "{exported:?}"
        );
        served.stop().await;
    }
}

/// The server looks after its own log: with an anchor file the head is there soon after the start.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_anchors_by_itself() {
    for database in DATABASES {
        let world = World::new(database).await;
        world.store.append(&subjects(3)).await.unwrap();
        let expected = world.anchor().await;
        let served = Served::on(&world).await;
        let file = world.folder.path().join("anchors");
        let written = async {
            loop {
                if let Ok(text) = tokio::fs::read_to_string(&file).await
                    && text.ends_with('\n')
                {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        let text = tokio::time::timeout(std::time::Duration::from_secs(30), written)
            .await
            .expect("it is anchored");
        let lines: BTreeSet<String> = text.lines().map(ToOwned::to_owned).collect();
        let anchor: dbkeep_engine::audit::Anchor = serde_json::from_str(lines.first().unwrap()).unwrap();
        assert_eq!((lines.len(), anchor.number, anchor.hash), (1, expected.number, expected.hash));
        let verdict = served.client.audit().verify(Vec::new()).await.unwrap();
        assert_eq!((verdict.problem, verdict.anchor_count), (None, 1));
        served.stop().await;
    }
}
