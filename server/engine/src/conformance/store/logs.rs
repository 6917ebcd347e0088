//! Reading event logs: pages, the beginning that long logs lose, and every kind of text.

use std::sync::Arc;

use super::{accept, claim_in_time, held, log, request, run, warning};
use crate::{
    model::{EventBody, Progress, RunId, StepReport, Throttle, Warning},
    port::{EventPage, Store, Update},
};

/// Events that the store of the trimming case keeps.
pub(super) const FEW: u64 = 20;

pub(super) async fn a_log_is_read_in_pages(store: Arc<dyn Store>) {
    assert_eq!(
        store.events(RunId::new(), 0, 10).await.unwrap(),
        EventPage {
            events: Vec::new(),
            first_kept: 1,
            last: 0
        }
    );
    let (id, fence) = held(store.as_ref()).await;
    // Another run's log does not mix in.
    let other = accept(store.as_ref(), &request(run("other"), &[])).await;
    store
        .update(
            id,
            fence,
            &Update {
                events: (4..=10).map(warning).collect(),
                ..Update::default()
            },
        )
        .await
        .unwrap();
    let all = log(store.as_ref(), id).await;
    assert_eq!(all.len(), 10);
    for (after, limit) in [
        (0, 3),
        (3, 3),
        (7, 3),
        (8, 3),
        (9, 1),
        (10, 5),
        (11, 5),
        (u64::MAX, 5),
        (0, 0),
        (u64::MAX, 0),
        (0, u32::MAX),
    ] {
        let page = store.events(id, after, limit).await.unwrap();
        let expected: Vec<_> = all
            .iter()
            .filter(|event| event.sequence > after)
            .take(usize::try_from(limit).unwrap())
            .cloned()
            .collect();
        assert_eq!(
            page,
            EventPage {
                events: expected,
                first_kept: 1,
                last: 10
            },
            "after {after}, at most {limit}"
        );
    }
    assert_eq!(store.events(other.id, 0, 10).await.unwrap().last, 2);
}

pub(super) async fn a_long_log_loses_its_beginning(store: Arc<dyn Store>) {
    let (id, fence) = held(store.as_ref()).await;
    let mut previous = 1;
    for number in 4..=95 {
        let events = store
            .update(
                id,
                fence,
                &Update {
                    events: vec![warning(number)],
                    ..Update::default()
                },
            )
            .await
            .unwrap();
        assert_eq!(events[0].sequence, number);
        let page = store.events(id, 0, 1000).await.unwrap();
        assert_eq!(page.last, number);
        assert!(page.first_kept >= previous);
        previous = page.first_kept;
        let kept = page.last + 1 - page.first_kept;
        assert!(kept <= FEW, "{kept} events are kept");
        assert!(kept >= FEW.min(number) / 2, "only {kept} events are kept");
        assert_eq!(
            page.events.iter().map(|event| event.sequence).collect::<Vec<_>>(),
            (page.first_kept..=page.last).collect::<Vec<_>>()
        );
    }
    assert!(previous > 1);
    // One update may bring more than is kept.
    let many = store
        .update(
            id,
            fence,
            &Update {
                events: (0..50).map(warning).collect(),
                ..Update::default()
            },
        )
        .await
        .unwrap();
    assert_eq!((many[0].sequence, many.len()), (96, 50));
    let kept = log(store.as_ref(), id).await;
    assert_eq!(kept.last(), many.last());
    assert!(u64::try_from(kept.len()).unwrap() <= FEW);
    // Numbers go on over attempts, also where the beginning is lost.
    store.release_all().await.unwrap();
    let grant = claim_in_time(store.as_ref()).await;
    assert_eq!((grant.run.id, grant.run.last_sequence), (id, 147));
    let page = store.events(id, u64::MAX, 0).await.unwrap();
    assert_eq!((page.events.len(), page.last), (0, 147));
    assert!(page.first_kept > 100);
}

pub(super) async fn at_least_the_newest_event_is_kept(store: Arc<dyn Store>) {
    let (id, fence) = held(store.as_ref()).await;
    store
        .update(
            id,
            fence,
            &Update {
                events: vec![warning(4), warning(5)],
                ..Update::default()
            },
        )
        .await
        .unwrap();
    let page = store.events(id, 0, 10).await.unwrap();
    assert_eq!((page.first_kept, page.last, page.events.len()), (5, 5, 1));
}

pub(super) async fn any_text_comes_back(store: Arc<dyn Store>) {
    let hostile = "'; DROP TABLE runs; -- \"$1\" \\ \u{0} \u{7f} \u{feff} ünï 🦀 \u{202e} \r\n\t %_?".repeat(50);
    let mut asked = request(run("ta'rget $1"), &["sche\"ma.t'able"]);
    asked.request_id = "id' \"$1\" ü".to_owned();
    asked.run.operations = vec!["o'p".to_owned(), String::new()];
    let accepted = accept(store.as_ref(), &asked).await;
    assert_eq!(
        (&accepted.target, &accepted.operations),
        (&asked.run.target, &asked.run.operations)
    );
    assert!(store.run_of_request(&asked.request_id).await.unwrap().is_some());
    let grant = store
        .claim("hol'der \u{0}", super::LONG, std::slice::from_ref(&hostile))
        .await
        .unwrap()
        .unwrap();
    let progress = Progress {
        examined: u64::MAX,
        scan_fraction: 0.1 + 0.2,
        rows_per_second: 1.0 / 3.0,
        eta_ms: None,
        throttle: Some(Throttle {
            reason: "LATENCY".to_owned(),
            value: hostile.clone(),
        }),
        ..Progress::default()
    };
    let events = vec![
        EventBody::Warning(Warning {
            code: "ODD".to_owned(),
            message: hostile.clone(),
            step: Some(u32::MAX),
        }),
        EventBody::Progress(progress),
        EventBody::StepFinished {
            step: 0,
            report: StepReport {
                message: hostile.clone(),
                ..StepReport::default()
            },
        },
    ];
    let written = store
        .update(
            grant.run.id,
            grant.fence,
            &Update {
                events,
                ..Update::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(log(store.as_ref(), grant.run.id).await[3..], written);
    let run = store.request_cancel(grant.run.id, &hostile).await.unwrap().unwrap();
    // A store that cannot keep U+0000 in a reason may put another character in its place, and nothing else.
    let reason = store.run(run.id).await.unwrap().unwrap().cancel_reason.unwrap();
    assert_eq!(reason.replace('\u{fffd}', "\0"), hostile);
}
