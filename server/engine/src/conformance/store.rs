//! What every [`Store`] has to do, whatever keeps its data. Each case starts from an empty store and ends in a panic where the
//! store is at fault; none of them sleeps for a fixed time.

#![expect(clippy::unwrap_used, reason = "in a suite a panic is the report")]

mod acceptance;
mod audit;
mod cancelling;
mod claims;
mod clock;
mod ladder;
mod listing;
mod logs;
mod monitoring;
mod outbox;
mod pruning;
mod queue;
mod schedules;
mod slots;
mod steering;
mod updates;

use std::{sync::Arc, time::Duration};

use futures::future::LocalBoxFuture;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::{
    model::{
        ChildAction, Event, EventBody, Finding, FindingLevel, Literal, OperationFacts, Plan, PlanChild, PlanId, PlanStep, Report,
        Run, RunId, RunKind, RunOptions, RunState, SampleRow, StepReport, StepState, TableName, Verification, Warning,
    },
    port::{CreateRun, Created, Grant, Store, Update},
    rule::{
        Action, ColumnTest, Origin, Rule, RuleKind, Severity,
        children::Child,
        expired::{Age, Expired},
    },
};

/// Events of a run that the store of most cases keeps.
const PLENTY: u64 = 20_000;
/// A lease that does not lapse during a case.
const LONG: Duration = Duration::from_secs(3600);
/// A lease that lapses at once.
const SHORT: Duration = Duration::from_millis(2);
/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A case, which panics where the store is at fault.
type Case = fn(Arc<dyn Store>) -> LocalBoxFuture<'static, ()>;

/// Runs every case. `make` makes an empty store that keeps at most so many events of a run; several are in use at a time.
/// Call it on a runtime with several threads, or the concurrent cases prove little.
///
/// # Panics
/// Where the store does not do what [`Store`] says.
pub async fn store_conformance<F, Fut>(make: F)
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    macro_rules! cases {
        ($kept:expr; $($case:path),+ $(,)?) => {
            // Each case has a frame of its own: together they are more than a thread's stack.
            let cases: &[(&str, Case)] = &[$((stringify!($case), |store| Box::pin($case(store)))),+];
            for (name, case) in cases {
                println!("store conformance: {name}");
                case(make($kept).await).await;
            }
        };
    }
    cases!(PLENTY;
        a_plan_comes_back_as_it_was,
        old_plans_go_unless_a_run_is_of_them,
        acceptance::an_accepted_run_comes_back_as_it_was,
        acceptance::a_request_is_accepted_once,
        acceptance::a_table_has_one_run,
        acceptance::a_dry_run_ends_at_once,
        acceptance::a_run_does_not_begin_in_any_other_state,
        acceptance::one_of_many_callers_with_one_request_id_is_accepted,
        acceptance::one_of_many_callers_for_one_table_is_accepted,
        claims::the_oldest_free_run_is_granted,
        claims::targets_are_passed_over,
        claims::an_interrupted_run_goes_on,
        claims::each_run_has_one_claimer,
        claims::a_lapsed_lease_is_granted_again,
        claims::one_claimer_gets_a_lapsed_lease,
        claims::a_lapsed_lease_that_nobody_claimed_is_prolonged,
        claims::renewals_need_the_run,
        claims::all_leases_are_released,
        claims::a_cancel_request_outlives_the_attempt,
        claims::a_cancel_request_outlives_an_interruption,
        updates::events_are_numbered_in_order,
        updates::a_final_state_ends_everything,
        updates::an_interruption_gives_the_lease_back,
        updates::only_the_holder_writes,
        updates::only_permitted_states_are_entered,
        updates::sources_are_marked,
        updates::backups_are_marked_by_whoever_proves_them,
        updates::many_writers_leave_no_gap,
        updates::a_dropped_call_is_done_or_not_done,
        cancelling::a_run_that_nobody_works_on_ends_at_once,
        cancelling::an_interrupted_run_ends_in_its_next_attempt,
        cancelling::a_running_run_is_asked,
        cancelling::an_ended_run_stays_as_it_is,
        cancelling::a_request_races_with_the_end,
        cancelling::a_request_is_not_overwritten,
        queue::a_run_waits_in_line_for_its_tables,
        queue::nobody_overtakes,
        queue::who_leaves_the_line_frees_it,
        queue::many_waiters_get_the_table_one_by_one,
        steering::a_running_run_pauses_at_its_boundary,
        steering::a_paused_run_keeps_its_tables_and_its_place,
        steering::a_pause_is_taken_back_before_the_boundary,
        steering::a_pause_outlives_the_attempt,
        steering::a_paused_run_is_cancelled_at_once,
        steering::limits_change_for_good,
        steering::a_request_steers_once,
        steering::ended_runs_are_not_steered,
        listing::runs_are_listed_newest_first,
        listing::filters_are_exact_and_combine,
        listing::runs_with_captured_rows_are_found,
        ladder::a_plan_starts_one_run,
        ladder::a_waiting_run_is_nobodys_until_its_last_approval,
        ladder::a_denied_run_ends,
        ladder::a_paused_run_takes_verdicts,
        ladder::a_run_that_nobody_approves_in_time_fails,
        ladder::an_approval_races_with_a_denial,
        ladder::decisions_are_kept_and_listed,
        ladder::an_acceptance_and_its_decision_are_one,
        ladder::runs_that_were_worked_on_are_found,
        pruning::a_backup_that_is_needed_is_not_taken,
        pruning::a_backup_that_is_needed_by_now_is_not_taken,
        pruning::a_backup_that_goes_is_not_given_to_anybody,
        pruning::a_prune_races_with_an_undo,
        pruning::backups_of_whole_tables_are_found,
        outbox::the_same_event_is_told_once,
        outbox::a_delivery_comes_back_as_it_was,
        outbox::a_claim_gives_each_delivery_to_one,
        outbox::the_longest_due_is_claimed_first_and_per_channel,
        outbox::a_failed_try_waits_and_keeps_its_id,
        outbox::a_lapsed_lease_is_claimed_again_and_its_holder_is_late,
        outbox::leases_are_released,
        outbox::what_is_dead_comes_back_only_when_asked,
        outbox::what_is_due_is_known_ahead,
        outbox::putting_something_in_wakes,
        outbox::channels_that_are_gone_are_given_up,
        outbox::old_deliveries_are_pruned,
        outbox::deliveries_are_listed_and_filtered,
        monitoring::a_target_has_one_collector,
        monitoring::a_server_has_its_own_numbers,
        monitoring::what_was_collected_comes_back,
        monitoring::an_old_claim_writes_nothing,
        monitoring::history_is_read_by_object_and_time,
        monitoring::history_is_not_made_of_what_may_change,
        monitoring::alerts_change_together,
        monitoring::a_condition_is_open_once,
        monitoring::an_acknowledgement_stays,
        monitoring::alerts_are_listed_and_filtered,
        monitoring::changes_have_an_order,
        monitoring::ended_runs_are_counted,
        monitoring::the_standing_of_backups_is_that_of_those_that_are_kept,
        schedules::a_schedule_comes_back_as_it_was,
        schedules::a_request_creates_one_schedule,
        schedules::a_name_belongs_to_one,
        schedules::schedules_of_a_catalog_are_created_once,
        schedules::a_change_needs_what_was_read,
        schedules::one_of_many_changes_is_made,
        schedules::a_schedule_goes_with_its_slots,
        schedules::due_schedules_are_found_longest_overdue_first,
        schedules::the_switch_is_kept_with_who_set_it,
        schedules::servers_give_signs_of_life_and_take_their_leave,
        slots::a_slot_is_decided_once,
        slots::one_of_many_deciders_is_first,
        slots::each_slot_has_one_claimer,
        slots::slots_that_were_claimed_least_go_first,
        slots::slots_of_other_targets_are_left_alone,
        slots::a_lapsed_claim_is_given_again_and_starts_nothing,
        slots::a_claim_is_held_and_given_up,
        slots::slots_that_nobody_claims_are_found,
        slots::a_change_takes_its_records_along,
        slots::a_run_and_its_slot_are_one,
        slots::a_schedule_that_was_changed_is_not_fired_as_it_was,
        slots::what_is_paused_while_a_slot_is_planned_is_not_fired,
        slots::a_slot_that_waits_is_released_when_its_turn_comes,
        slots::a_slot_is_settled_once,
        slots::a_person_fires_one_slot_at_a_time,
        slots::a_named_call_fires_once,
        slots::a_named_call_has_the_slot_of_the_first,
        slots::overdue_slots_are_found_by_their_deadline,
        slots::slots_are_listed_newest_first,
        audit::a_record_comes_back_as_it_was,
        audit::many_writers_write_one_chain,
        audit::records_are_listed_and_filtered,
        audit::what_is_sealed_is_removed_in_order,
        audit::an_anchor_is_kept_and_told_of_once,
        audit::one_server_has_the_turn,
        logs::a_log_is_read_in_pages,
        logs::any_text_comes_back,
    );
    cases!(logs::FEW; logs::a_long_log_loses_its_beginning);
    cases!(1; logs::at_least_the_newest_event_is_kept);
}

async fn a_plan_comes_back_as_it_was(store: Arc<dyn Store>) {
    let plan = plan();
    assert!(store.plan(plan.id).await.unwrap().is_none());
    store.put_plan(&plan).await.unwrap();
    store.put_plan(&plan).await.expect("keeping it again changes nothing");
    let kept = store.plan(plan.id).await.unwrap().expect("the plan is there");
    assert_eq!(serde_json::to_value(&kept).unwrap(), serde_json::to_value(&plan).unwrap());
    assert_eq!(kept.compute_digest(), plan.compute_digest());
    assert_eq!(kept.token(), plan.token());
}

async fn old_plans_go_unless_a_run_is_of_them(store: Arc<dyn Store>) {
    let expired = |days: i64| Plan {
        id: PlanId(Uuid::now_v7()),
        expires_at: now() - SignedDuration::from_hours(24 * days),
        ..plan()
    };
    let (old, used, recent) = (expired(31), expired(31), expired(29));
    store.put_plan(&used).await.unwrap();
    let of_plan = Run {
        plan: used.id,
        ..run("shop")
    };
    accept(store.as_ref(), &request(of_plan, &[])).await;
    store.put_plan(&recent).await.unwrap();
    store.put_plan(&old).await.unwrap();
    assert!(store.plan(old.id).await.unwrap().is_some());
    store.put_plan(&plan()).await.unwrap();
    assert!(store.plan(old.id).await.unwrap().is_none());
    assert!(store.plan(used.id).await.unwrap().is_some() && store.plan(recent.id).await.unwrap().is_some());
}

// What the cases share.

fn now() -> Timestamp {
    // Stores keep milliseconds.
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap()
}

fn plan() -> Plan {
    let rule = Rule {
        name: "old".to_owned(),
        table: TableName {
            schema: Some("public".to_owned()),
            name: "sessions".to_owned(),
        },
        action: Action::Archive {
            into: TableName::parse("old_sessions"),
            stamp_column: "archived_at".to_owned(),
        },
        tests: vec![ColumnTest {
            column: "state".to_owned(),
            values: vec![Literal::Text("it's".to_owned()), Literal::Integer(7), Literal::Boolean(true)],
        }],
        children: vec![Child {
            table: TableName::parse("clicks"),
            columns: vec!["session_id".to_owned()],
            of: None,
            parent_columns: vec!["id".to_owned()],
            action: ChildAction::SetNull,
        }],
        strict: Some(true),
        max_fraction: 0.25,
        max_rows: Some(70),
        kind: RuleKind::Expired(Expired {
            column: "seen_at".to_owned(),
            fallback: Some("made_at".to_owned()),
            age: Age::Retention("P30D".to_owned()),
            zone: Some("UTC".to_owned()),
            encoding: None,
        }),
        origin: Origin {
            file: "catalog.toml".to_owned(),
            line: 12,
        },
    };
    let step = PlanStep {
        operation: "sessions".to_owned(),
        rule,
        table: "public.sessions".to_owned(),
        description: "rows of public.sessions whose seen_at is more than P30D ago".to_owned(),
        horizon: Some(Timestamp::now()),
        listed_at: Some(Timestamp::now()),
        row_count: u64::MAX,
        children: vec![PlanChild {
            table: "public.clicks".to_owned(),
            constraint: "clicks_session_fk".to_owned(),
            action: ChildAction::SetNull,
            row_count: 3,
            also_going: 1,
            table_row_count: 9,
        }],
        strict: true,
        table_row_count: 4_000_000_000,
        table_row_count_exact: false,
        captured: true,
        capture_bytes: 1,
        expected_ms: None,
        samples: vec![SampleRow(vec![
            ("id".to_owned(), Some("7".to_owned())),
            ("näme 🦀 \"'\\".to_owned(), None),
        ])],
        findings: vec![Finding {
            code: "TIME_COLUMN_UNINDEXED".to_owned(),
            level: FindingLevel::Warn,
            table: "public.sessions".to_owned(),
            detail: "no index".to_owned(),
            remediation: "make one".to_owned(),
        }],
        selection_sql: "SELECT 1\nFROM \"t\" WHERE a < '\u{1}'".to_owned(),
        operation_max_rows: Some(80),
    };
    let mut plan = Plan {
        id: PlanId(Uuid::now_v7()),
        target: "shop".to_owned(),
        operations: vec!["sessions".to_owned()],
        severity: Severity::High,
        steps: vec![step],
        fingerprint: "f".repeat(64),
        digest: String::new(),
        created_at: Timestamp::now(),
        expires_at: Timestamp::now(),
        approvals_required: 2,
    };
    plan.digest = plan.compute_digest();
    plan
}

fn report(captured: u64) -> Report {
    let step = StepReport {
        operation: "sessions".to_owned(),
        rule: "old".to_owned(),
        table: "public.sessions".to_owned(),
        state: StepState::Running,
        rows_planned: 10,
        rows_captured: captured,
        ..StepReport::default()
    };
    let warning = Warning {
        code: "SLOW".to_owned(),
        message: "slower than usual".to_owned(),
        step: Some(0),
    };
    Report {
        status: None,
        steps: vec![step],
        warnings: vec![warning],
        duration_ms: 5,
        operations: vec![OperationFacts {
            name: "sessions".to_owned(),
            category: "EXPIRED_DATA".to_owned(),
            severity: Severity::High,
            expected_seconds: Some(60),
            overdue: true,
            warnings: 1,
        }],
        ..Report::default()
    }
}

/// A cleanup of the target, to be queued.
fn run(target: &str) -> Run {
    let options = RunOptions {
        dry_run: false,
        ..RunOptions::default()
    };
    Run {
        id: RunId::new(),
        kind: RunKind::Cleanup,
        target: target.to_owned(),
        state: RunState::Queued,
        state_reason: String::new(),
        operations: vec!["sessions".to_owned()],
        plan: PlanId(Uuid::now_v7()),
        source: None,
        undone_by: None,
        options,
        limits: options.limits(),
        waiting: None,
        attempts: 0,
        report: report(0),
        last_sequence: 0,
        cancel_reason: None,
        pause_reason: None,
        created_at: now(),
        started_at: None,
        ended_at: None,
        verification: Verification::Unverified,
        started_by: "ann".to_owned(),
        approvals: Vec::new(),
        approvals_required: 0,
        approve_until: None,
        pruned: None,
    }
}

/// A request of its own for a run.
fn request(run: Run, tables: &[&str]) -> CreateRun {
    CreateRun {
        request_id: Uuid::now_v7().to_string(),
        request_digest: "digest".to_owned(),
        tables: tables.iter().map(|table| (*table).to_owned()).collect(),
        events: vec![EventBody::PlanReady {
            plan: run.plan,
            token: None,
            step_counts: vec![10],
        }],
        run,
        decision: None,
        slot: None,
    }
}

async fn accept(store: &dyn Store, request: &CreateRun) -> Run {
    match store.create_run(request).await.unwrap() {
        Created::Accepted(run) => run,
        other => panic!("expected Accepted, got {other:?}"),
    }
}

/// A queued run on a table of its own.
async fn queued(store: &dyn Store) -> Run {
    let run = run("shop");
    let table = run.id.to_string();
    accept(store, &request(run, &[&table])).await
}

/// A run with a lease that does not lapse.
async fn running(store: &dyn Store) -> Grant {
    let run = queued(store).await;
    let grant = store
        .claim("holder", LONG, &[])
        .await
        .unwrap()
        .expect("the queued run is free");
    assert_eq!(grant.run.id, run.id, "no other run of this case is free");
    grant
}

/// The same: the run, and the fence of its attempt.
async fn held(store: &dyn Store) -> (RunId, u64) {
    let grant = running(store).await;
    (grant.run.id, grant.fence)
}

/// Claims until there is something to claim: leases lapse by the clock of the store, which cannot be moved.
async fn claim_in_time(store: &dyn Store) -> Grant {
    let polled = async {
        loop {
            if let Some(grant) = store.claim("another", LONG, &[]).await.unwrap() {
                return grant;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("the lease lapses")
}

/// What a failover that lost a claim must not do: let two servers write under one fence. `forget` takes the newest claim of a run back, as
/// if it had never been there. Returns the run, the fence of the lost claim and that of the claim that counts.
///
/// # Panics
/// Where the store does not tell them apart.
pub async fn lost_claim_conformance(store: Arc<dyn Store>, forget: impl AsyncFnOnce(RunId)) -> (RunId, u64, u64) {
    claims::of_one_number(store, forget).await
}

/// What a clock of the store that goes back must not do: hold up what a dead server held, or shut out one that lives. `set_back` makes everything
/// that the store holds so much later, as if its clock had gone back.
///
/// # Panics
/// Where the store waits for the clock, or lets two have the same.
pub async fn set_back_conformance(store: Arc<dyn Store>, set_back: impl AsyncFnOnce(Duration)) {
    clock::goes_back(store, set_back).await;
}

fn enter(state: RunState, reason: &str) -> Update {
    Update {
        state: Some((state, reason.to_owned())),
        ..Update::default()
    }
}

fn warning(number: u64) -> EventBody {
    EventBody::Warning(Warning {
        code: "NUMBER".to_owned(),
        message: number.to_string(),
        step: None,
    })
}

async fn log(store: &dyn Store, run: RunId) -> Vec<Event> {
    let page = store.events(run, 0, 100_000).await.unwrap();
    assert_eq!(page.events.last().map_or(0, |event| event.sequence), page.last);
    for (event, sequence) in page.events.iter().zip(page.first_kept..) {
        assert_eq!((event.run, event.sequence), (run, sequence), "the log has a gap");
    }
    page.events
}

/// The changes of state in a log: left, entered, reason.
fn changes(log: &[Event]) -> Vec<(Option<RunState>, RunState, &str)> {
    let changes = log.iter().filter_map(|event| match &event.body {
        EventBody::StateChanged { from, to, reason, .. } => Some((*from, *to, reason.as_str())),
        _ => None,
    });
    changes.collect()
}

/// Whether a run of its own may have the table.
async fn is_free(store: &dyn Store, table: &str) -> bool {
    let created = store.create_run(&request(run("shop"), &[table])).await.unwrap();
    if let Created::Accepted(run) = &created {
        store.request_cancel(run.id, "only asked").await.unwrap();
    }
    matches!(created, Created::Accepted(_))
}
