//! What is CRITICAL takes two people: not one with two tokens, one of which he has made himself.

use dbkeep_client::{
    Client, Error, PlanRequest, RunRequest, ScheduleDraft, ScheduleTiming, TokenDraft,
    proto::{Role, RunState},
};
use futures::StreamExt as _;

use crate::world::{SEEN, World};

async fn made(world: &World, maker: &Client, name: &str, role: Role) -> Client {
    let token = maker
        .access()
        .create_token(TokenDraft::new(name, role))
        .await
        .expect("a token");
    world.client(&token.secret).await
}

/// Starts a run that waits for somebody's approval.
async fn waiting(client: &Client) -> String {
    let plan = client
        .cleanup()
        .plan(PlanRequest::new([format!("grave_{SEEN}")]).target(SEEN))
        .await
        .expect("a plan");
    let request = RunRequest::of_plan(&plan)
        .confirmation_phrase(plan.confirmation_phrase.clone())
        .execute();
    let mut events = client.cleanup().run(request).await.expect("accepted");
    events.next().await.expect("an event").expect("no error").run_id
}

fn problem(error: &Error) -> &str {
    match error {
        Error::ApprovalRefused { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_starter_made_approves_nothing_of_his() {
    let world = World::working().await;
    let root = world.client(&world.admin()).await;
    let ann = made(&world, &root, "ann", Role::Admin).await;
    let bob = made(&world, &root, "bob", Role::Approver).await;
    let run = waiting(&ann).await;
    // Hers, and one that hers has made.
    let puppet = made(&world, &ann, "puppet", Role::Approver).await;
    let between = made(&world, &ann, "between", Role::Admin).await;
    let far = made(&world, &between, "far", Role::Approver).await;
    for (who, expected) in [
        (&ann, "same_principal"),
        (&puppet, "token_of_same_principal"),
        (&between, "token_of_same_principal"),
        (&far, "token_of_same_principal"),
    ] {
        let error = who.runs().approve(run.as_str(), "mine").await.expect_err("one person");
        assert_eq!(problem(&error), expected, "{error:?}");
    }
    // Also once the token in between is gone.
    root.access().revoke_token("between").await.expect("revoked");
    let error = far.runs().approve(run.as_str(), "mine").await.expect_err("one person");
    assert_eq!(problem(&error), "token_of_same_principal");
    assert_eq!(ann.runs().get(run.as_str()).await.expect("the run").state(), RunState::Queued);
    // Whoever made hers has made bob's as well: that makes the two no one.
    bob.runs().approve(run.as_str(), "seen").await.expect("somebody else");
    let done = ann
        .runs()
        .watch(run.as_str())
        .await
        .expect("events")
        .finish()
        .await
        .expect("the run");
    assert_eq!(done.state(), RunState::Succeeded, "{done:?}");
    // What may not be approved may be denied all the same.
    let run = waiting(&ann).await;
    let denied = puppet.runs().deny(run.as_str(), "no").await.expect("denied");
    assert_eq!(denied.state(), RunState::Cancelled);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_approve_a_schedule_of_his() {
    let world = World::start().await;
    let root = world.client(&world.admin()).await;
    let ann = made(&world, &root, "ann", Role::Admin).await;
    let bob = made(&world, &root, "bob", Role::Admin).await;
    let puppet = made(&world, &ann, "puppet", Role::Approver).await;
    let draft = ScheduleDraft::new("grave")
        .target(SEEN)
        .operation(format!("grave_{SEEN}"))
        .timing(ScheduleTiming::cron("0 3 1 1 *"));
    let schedule = ann.schedules().create(draft).await.expect("a schedule");
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let error = puppet
        .schedules()
        .approve("grave", schedule.etag.as_str(), 1_000, until)
        .await
        .expect_err("one person");
    assert_eq!(problem(&error), "token_of_same_principal");
    // By a token of bob's: it stands, and bob does not fire it.
    let of_bob = made(&world, &bob, "of-bob", Role::Approver).await;
    of_bob
        .schedules()
        .approve("grave", schedule.etag.as_str(), 1_000, until)
        .await
        .expect("another person");
    let error = bob.schedules().run("grave").await.expect_err("one person");
    assert!(
        matches!(&error, Error::StandingApproval { problem, .. } if problem.contains("of-bob") && problem.contains("has fired it")),
        "{error:?}"
    );
    drop(ann.schedules().run("grave").await.expect("two persons"));
    world.stop().await;
}
