//! Going back to a backup waits for somebody else: whoever drops and makes everything does not decide that alone.

use dbkeep_engine::port::SourceFile;
use dbkeep_proto::v1::{self, RunState};
use futures::StreamExt as _;

use super::{
    rewinds::{plan_back, request},
    world::{BOTH, World, all, file, named, reason},
};

fn files() -> Vec<SourceFile> {
    vec![
        file(
            "1_a.up.sql",
            "CREATE TABLE a (id integer PRIMARY KEY, x text);\nINSERT INTO a VALUES (1, 'kept');",
        ),
        file("2_b.up.sql", "-- dbkeep: requires-backup = true\nUPDATE a SET x = 'lost';"),
    ]
}

/// Asks for the way back, and returns the run as it waits.
async fn asked(world: &mut World) -> v1::Run {
    let plan = plan_back(world, named(&["2"]), "").await.expect("a plan");
    assert_eq!(plan.restore.clone().expect("a restore").approvals_required, 1);
    let stream = world
        .migrations
        .rollback_migrations(request(&plan))
        .await
        .expect("accepted")
        .into_inner();
    let mut events = std::pin::pin!(stream.filter_map(async |message| message.ok()?.event));
    let id = events.next().await.expect("an event").run_id;
    let answer = world.runs.get_run(v1::GetRunRequest { id }).await.expect("a run");
    answer.into_inner().run.expect("a run")
}

async fn ended(world: &mut World, id: &str) -> v1::Run {
    let request = v1::WatchRunRequest {
        id: id.to_owned(),
        ..v1::WatchRunRequest::default()
    };
    let events = world.runs.watch_run(request).await.expect("a stream").into_inner();
    world
        .end_of(events.map(|message| message.map(|message| message.event.expect("an event"))))
        .await
        .expect("an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_by_a_backup_waits_for_somebody_else() {
    for engine in BOTH {
        let mut world = World::new(engine, &files(), None).await;
        world.apply(named(&["1"])).await.expect("accepted");
        let run = world.apply(all()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
        let changed = world.contents().await;
        let waiting = asked(&mut world).await;
        assert_eq!(
            (waiting.state(), waiting.approvals_required),
            (RunState::Queued, 1),
            "{waiting:?}"
        );
        assert!(
            waiting.state_reason.contains("approval by a principal"),
            "{}",
            waiting.state_reason
        );
        let nameless = v1::ApproveRunRequest {
            id: waiting.id.clone(),
            ..v1::ApproveRunRequest::default()
        };
        let refused = world
            .runs
            .approve_run(nameless.clone())
            .await
            .expect_err("nobody in particular");
        assert_eq!(reason(&refused), "APPROVAL_REFUSED", "{refused:?}");
        // It holds nothing meanwhile: another run of migrations is taken.
        world.rewrite(&[files(), vec![file("3_c.up.sql", "CREATE TABLE c (id integer);")]].concat());
        let between = world.apply(named(&["3"])).await.expect("accepted");
        assert_eq!(between.state(), RunState::Succeeded, "{}", between.state_reason);
        let refused = world
            .approve(&waiting.id, "bob")
            .await
            .expect_err("another table would be lost");
        assert_eq!(reason(&refused), "PLAN_MISMATCH", "{refused:?}");
        let denied = v1::ApproveRunRequest { deny: true, ..nameless };
        let run = world
            .runs
            .approve_run(denied)
            .await
            .expect("anybody may")
            .into_inner()
            .run
            .expect("a run");
        assert_eq!(run.state(), RunState::Cancelled);
        world.db.execute("DROP TABLE c").await.expect("gone");
        assert_eq!(world.contents().await, changed, "nothing has happened yet");

        let waiting = asked(&mut world).await;
        let run = world.approve(&waiting.id, "bob").await.expect("consent");
        assert_eq!(run.approvals[0].principal, "bob");
        let run = ended(&mut world, &waiting.id).await;
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        let kept = world.db.fetch_text("SELECT x FROM a").await.expect("rows");
        assert_eq!(kept[0][0].as_deref(), Some("kept"));
        world.end().await;
    }
}
