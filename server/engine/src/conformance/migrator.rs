//! What every adapter must do with migrations, whatever its database. As in [`super::target`], one function per rule, on a database of
//! nobody else; what the adapter did is looked at in plain SQL.

mod foreign;
mod groups;
mod prints;
mod right;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::target::Fixture;
use crate::{
    model::{EngineKind, LedgerEntry, LedgerState, MigrationId, RunId, Statement},
    port::{Claim, Follow, GroupDone, GroupOrder, MigratorError, Told},
};

macro_rules! rules {
    ($fixture:expr, $($module:ident :: $rule:ident),+ $(,)?) => {{
        let mut broken = Vec::new();
        $(
            println!("rule {}", stringify!($rule));
            if AssertUnwindSafe($module::$rule($fixture)).catch_unwind().await.is_err() {
                broken.push(stringify!($rule));
            }
        )+
        broken
    }};
}

/// Runs every rule, also after one that does not hold.
///
/// # Panics
/// With the names of the rules that do not hold; what each expected is in the output.
pub async fn migrator_conformance(fixture: &dyn Fixture) {
    let broken = rules!(
        fixture,
        right::a_database_without_a_ledger_has_none,
        right::the_lease_is_one_run_s_at_a_time,
        right::a_group_needs_the_fence_and_the_lease,
        right::a_ledger_that_moved_is_left_alone,
        right::notes_are_written_outright,
        groups::a_group_takes_effect_with_its_ledger_row,
        groups::a_group_that_fails_leaves_nothing,
        groups::a_script_that_ends_its_transaction_is_told,
        groups::a_check_takes_the_group_back,
        groups::a_check_cannot_write,
        groups::a_single_statement_is_in_doubt_while_it_works,
        groups::a_single_statement_that_fails_is_in_no_doubt,
        groups::a_group_that_is_stopped_leaves_nothing,
        groups::a_statement_that_takes_too_long_is_ended,
        groups::rows_that_vanish_take_the_group_back,
        groups::tables_are_measured,
        prints::a_fingerprint_sees_every_change,
        prints::a_fingerprint_does_not_see_a_change_that_was_taken_back,
        foreign::ledgers_of_other_tools_are_read,
        foreign::what_another_tool_did_meanwhile_takes_the_group_back,
    );
    assert!(broken.is_empty(), "{} rules do not hold: {}", broken.len(), broken.join(", "));
}

// --- helpers

fn is_postgres(fixture: &dyn Fixture) -> bool {
    fixture.target().engine() == EngineKind::Postgres
}

/// Name of dbkeep's table for the lease.
fn lease_table(fixture: &dyn Fixture) -> &'static str {
    if is_postgres(fixture) {
        "dbkeep.migration_lease"
    } else {
        "_dbkeep_migration_lease"
    }
}

/// The right to migrate, whoever had it before.
async fn right(fixture: &dyn Fixture) -> Claim {
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    let target = fixture.target();
    target.claim(claim).await.expect("a claim");
    let migrator = target.migrator();
    if migrator.lease(claim, "suite", Duration::from_secs(60)).await.is_err() {
        fixture.execute(&format!("DELETE FROM {}", lease_table(fixture))).await;
        migrator
            .lease(claim, "suite", Duration::from_secs(60))
            .await
            .expect("a lease");
    }
    claim
}

fn follow() -> (Follow, mpsc::UnboundedReceiver<Told>) {
    let (told, hearing) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    (Follow { told, stop }, hearing)
}

fn entry(claim: Claim, id: &str, state: LedgerState, done: u32, of: u32) -> LedgerEntry {
    LedgerEntry {
        id: MigrationId(id.to_owned()),
        name: format!("name of {id}"),
        sha256: "ab".repeat(32),
        state,
        statements_done: done,
        statements: of,
        in_doubt: false,
        problem: String::new(),
        rows: 0,
        duration_ms: 0,
        at: Timestamp::UNIX_EPOCH,
        by: "a person".to_owned(),
        run: claim.run,
        backup: None,
        script_sha256: String::new(),
    }
}

/// A group of these statements that applies a migration which the ledger does not know.
fn order(claim: Claim, id: &str, statements: &[&str]) -> GroupOrder {
    let statements: Vec<Statement> = statements
        .iter()
        .zip(1..)
        .map(|(sql, line)| Statement {
            sql: (*sql).to_owned(),
            line,
            column: 1,
        })
        .collect();
    let count = u32::try_from(statements.len()).expect("a few");
    GroupOrder {
        claim,
        atomic: true,
        statements,
        session: Vec::new(),
        foreign_keys_off: false,
        lock_timeout: Duration::from_secs(2),
        statement_timeout: None,
        observe: false,
        elsewhere: None,
        verify: None,
        checks: Vec::new(),
        before: None,
        after: entry(claim, id, LedgerState::Applied, count, count),
    }
}

async fn execute(fixture: &dyn Fixture, order: &GroupOrder) -> Result<GroupDone, MigratorError> {
    let (follow, _hearing) = follow();
    fixture.target().migrator().execute(order, &follow).await
}

/// The ledger row of a migration.
async fn row(fixture: &dyn Fixture, id: &str) -> Option<LedgerEntry> {
    let ledger = fixture.target().migrator().ledger().await.expect("a ledger");
    ledger.into_iter().find(|entry| entry.id.0 == id)
}

/// Whether there is a table of that name.
async fn is_there(fixture: &dyn Fixture, table: &str) -> bool {
    let sql = if is_postgres(fixture) {
        format!("SELECT 1 FROM pg_class WHERE relname = '{table}'")
    } else {
        format!("SELECT 1 FROM sqlite_schema WHERE name = '{table}'")
    };
    !fixture.rows(&sql).await.is_empty()
}

async fn count(fixture: &dyn Fixture, from: &str) -> String {
    let rows = fixture.rows(&format!("SELECT count(*) FROM {from}")).await;
    rows[0][0].clone().expect("a count")
}
