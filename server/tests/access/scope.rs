//! Lists and streams of a caller who is for some targets: full pages of what it sees, and nothing else.

use dbkeep_client::{
    BackupQuery, DecisionQuery, RunQuery, RunRequest, ScheduleDraft, ScheduleQuery, ScheduleTiming, proto::Role,
};
use futures::StreamExt as _;

use crate::world::{HIDDEN, SEEN, World};

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_what_the_caller_sees_and_all_of_it() {
    let world = World::start().await;
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
    assert!(
        scoped
            .backups()
            .list_all(BackupQuery::default())
            .await
            .expect("backups")
            .is_empty()
    );
    let status = scoped.monitoring().status().await.expect("the status");
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
