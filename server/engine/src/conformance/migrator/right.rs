//! Who may migrate, and what it expects to find.

use std::time::Duration;

use super::{Fixture, entry, execute, is_there, order, right, row};
use crate::{
    model::{LedgerState, RunId},
    port::{Claim, MigratorError, TargetErrorClass},
};

fn is_fenced(error: &MigratorError) -> bool {
    matches!(error, MigratorError::Target(error) if error.class == TargetErrorClass::Fenced)
}

pub(super) async fn a_database_without_a_ledger_has_none(fixture: &dyn Fixture) {
    let target = fixture.target();
    assert_eq!(target.migrator().ledger().await.expect("no ledger is no error"), []);
    assert!(
        !is_there(fixture, "migration").await && !is_there(fixture, "_dbkeep_migration").await,
        "looking makes nothing"
    );
}

pub(super) async fn the_lease_is_one_run_s_at_a_time(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let target = fixture.target();
    let migrator = target.migrator();
    let other = Claim {
        run: RunId::new(),
        fence: 1,
    };
    target.claim(other).await.expect("a claim");
    let minute = Duration::from_secs(60);
    match migrator.lease(other, "other", minute).await {
        Err(MigratorError::LeaseHeld { holder, run, until }) => {
            assert_eq!((holder.as_str(), run), ("suite", claim.run.to_string()));
            assert!(until.contains('T'), "{until}");
        }
        unexpected => panic!("the lease is held: {unexpected:?}"),
    }
    migrator.lease(claim, "suite", minute).await.expect("its own is prolonged");
    migrator
        .unlease(other)
        .await
        .expect("giving back what is not held is no error");
    assert!(
        migrator.lease(other, "other", minute).await.is_err(),
        "that of somebody else stays"
    );

    let later = Claim { fence: 2, ..claim };
    target.claim(later).await.expect("a claim");
    migrator
        .lease(later, "suite", minute)
        .await
        .expect("a later attempt takes over");
    let error = migrator
        .lease(claim, "suite", minute)
        .await
        .expect_err("the older one is shut out");
    assert!(is_fenced(&error), "{error:?}");
    migrator.unlease(later).await.expect("given back");
    migrator.lease(other, "other", Duration::ZERO).await.expect("free again");
    migrator
        .lease(later, "suite", minute)
        .await
        .expect("a lease that ran out is free");
    migrator.unlease(later).await.expect("given back");
}

pub(super) async fn a_group_needs_the_fence_and_the_lease(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let target = fixture.target();
    let sql = "CREATE TABLE not_allowed (id integer)";
    target.migrator().unlease(claim).await.expect("given back");
    let error = execute(fixture, &order(claim, "not_allowed", &[sql]))
        .await
        .expect_err("no lease");
    assert!(is_fenced(&error), "{error:?}");

    let claim = right(fixture).await;
    let later = Claim { fence: 2, ..claim };
    target.claim(later).await.expect("a claim");
    let error = execute(fixture, &order(claim, "not_allowed", &[sql]))
        .await
        .expect_err("fenced");
    assert!(is_fenced(&error), "{error:?}");

    let other = Claim {
        run: RunId::new(),
        fence: 1,
    };
    target.claim(other).await.expect("a claim");
    let error = execute(fixture, &order(other, "not_allowed", &[sql]))
        .await
        .expect_err("leased");
    assert!(matches!(error, MigratorError::LeaseHeld { .. }), "{error:?}");
    let mut single = order(other, "not_allowed", &[sql]);
    single.atomic = false;
    assert!(execute(fixture, &single).await.is_err(), "the same outside of a transaction");
    assert!(!is_there(fixture, "not_allowed").await && row(fixture, "not_allowed").await.is_none());
}

pub(super) async fn a_ledger_that_moved_is_left_alone(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let done = execute(fixture, &order(claim, "moved", &["CREATE TABLE moved (id integer)"]))
        .await
        .expect("applied");
    let again = order(claim, "moved", &["CREATE TABLE moved_again (id integer)"]);
    let error = execute(fixture, &again).await.expect_err("there is a row");
    assert!(matches!(error, MigratorError::LedgerMoved { .. }), "{error:?}");
    let mut stale = again.clone();
    stale.before = Some(entry(claim, "moved", LedgerState::Applied, 9, 9));
    let error = execute(fixture, &stale).await.expect_err("another row");
    assert!(matches!(error, MigratorError::LedgerMoved { .. }), "{error:?}");
    let mut absent = order(claim, "absent", &["CREATE TABLE moved_again (id integer)"]);
    absent.before = Some(entry(claim, "absent", LedgerState::RolledBack, 1, 1));
    let error = execute(fixture, &absent).await.expect_err("no row");
    assert!(matches!(error, MigratorError::LedgerMoved { .. }), "{error:?}");
    assert!(!is_there(fixture, "moved_again").await);

    let mut right_one = again;
    right_one.before = Some(done.entry);
    right_one.after.state = LedgerState::RolledBack;
    let done = execute(fixture, &right_one).await.expect("as expected");
    assert_eq!(row(fixture, "moved").await.as_ref(), Some(&done.entry));
    assert_eq!(done.entry.state, LedgerState::RolledBack);
}

pub(super) async fn notes_are_written_outright(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let target = fixture.target();
    let one = entry(claim, "it's \\ noted", LedgerState::Baselined, 0, 3);
    let mut two = entry(claim, "noted 2", LedgerState::Applied, 2, 2);
    two.backup = Some(RunId::new());
    two.problem = "'; \" \\ ä\n".to_owned();
    let both = [(None, one.clone()), (None, two.clone())];
    target.migrator().note(claim, &both).await.expect("noted");
    for wanted in [one.clone(), two] {
        let found = row(fixture, &wanted.id.0).await.expect("a row");
        assert!(found.at > jiff::Timestamp::UNIX_EPOCH, "the target's clock");
        assert_eq!(found, crate::model::LedgerEntry { at: found.at, ..wanted });
    }
    let third = entry(claim, "noted 3", LedgerState::Applied, 1, 1);
    let stale = [(None, third), (None, one)];
    let error = target.migrator().note(claim, &stale).await.expect_err("one moved");
    assert!(matches!(error, MigratorError::LedgerMoved { .. }), "{error:?}");
    assert!(row(fixture, "noted 3").await.is_none(), "all or nothing");
    target.migrator().unlease(claim).await.expect("given back");
    assert!(target.migrator().note(claim, &[]).await.is_err(), "not without the lease");
}
