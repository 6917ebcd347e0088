//! A slot that cancels the run before it while that deletes: what it has committed stays, in its journal and its backup, and the run of the slot
//! does the rest.

use std::collections::BTreeSet;

use dbkeep_proto::v1::{self, RunState, SlotOutcome};

use crate::{
    ENDED,
    world::{LATE, Server, World, as_principal, captured, eventually, once_a_year},
};

/// Expired rows, and as many that live.
const ROWS: u64 = 1_000;

async fn run_of(server: &Server, id: &str) -> v1::Run {
    let request = v1::GetRunRequest { id: id.to_owned() };
    let answer = server.runs().get_run(request).await.expect("a run");
    answer.into_inner().run.expect("a run")
}

pub(crate) async fn a_slot_cancels_the_run_before_it_while_it_deletes(database: &str) {
    let world = World::new(database).await;
    world.fill_with(ROWS).await;
    // The first run is accepted and waits: it is throttled from its first batch on, and would work for a quarter of an hour.
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let control = world.control().await;
    let spec = v1::ScheduleSpec {
        overlap: v1::OverlapPolicy::CancelOther.into(),
        ..once_a_year("cancels")
    };
    let schedule = idle.create(spec).await;
    let older = idle.fire(&schedule.id).await.expect("a run, which stays queued");
    let slow = v1::UpdateRunLimitsRequest {
        id: older.clone(),
        max_rows_per_second: Some(1),
        ..v1::UpdateRunLimitsRequest::default()
    };
    let slowed = idle.runs().update_run_limits(as_principal("ann", slow)).await;
    slowed.expect("limits");
    idle.stop().await;
    let server = world.serve(|config| config).await;
    let journal = if world.is_shared() {
        "dbkeep.journal"
    } else {
        "_dbkeep_journal"
    };
    // Two batches. Before the first there is no journal.
    let committed = format!("SELECT 1 FROM {journal} WHERE run_id = '{older}' LIMIT 1 OFFSET 1");
    eventually(|| async {
        let enough = world.db.fetch_text(&committed).await.is_ok_and(|rows| !rows.is_empty());
        enough.then_some(())
    })
    .await;
    assert_eq!(run_of(&server, &older).await.state(), RunState::Running);
    world.make_due(&control, &schedule.id, LATE).await;
    let newer = eventually(|| async {
        let slots = server.list(&schedule.id).await;
        slots.into_iter().find(|slot| !slot.manual && ENDED.contains(&slot.outcome()))
    })
    .await;
    assert_eq!(newer.outcome(), SlotOutcome::Succeeded, "{}", newer.reason);

    // Both are told. The one that was fired by hand is the younger slot.
    let slots = server.list(&schedule.id).await;
    let told: Vec<_> = slots
        .iter()
        .map(|slot| (slot.run_id.as_str(), slot.manual, slot.outcome()))
        .collect();
    let expected = [
        (older.as_str(), true, SlotOutcome::Warned),
        (newer.run_id.as_str(), false, SlotOutcome::Succeeded),
    ];
    assert_eq!(told, expected);
    let why = "the next slot of schedule cancels is due";
    assert_eq!(slots[0].reason, format!("cancelled: {why}"));
    assert_eq!(server.get(&schedule.id).await.consecutive_failures, 0);
    let (first, second) = (run_of(&server, &older).await, run_of(&server, &newer.run_id).await);
    assert_eq!((first.state(), first.state_reason.as_str()), (RunState::Cancelled, why));
    assert_eq!(second.state(), RunState::Succeeded, "{}", second.state_reason);
    let affected = |run: v1::Run| run.report.expect("a report").rows_affected;
    let (gone, rest) = (affected(first), affected(second));
    assert!((2..ROWS).contains(&gone), "{gone} of {ROWS}: it was in its middle");
    assert_eq!(gone + rest, ROWS);

    // So say the journal and the backups, and the table.
    let mut kept = BTreeSet::new();
    for (run, rows) in [(&older, gone), (&newer.run_id, rest)] {
        let sql = format!("SELECT sum(affected), sum(chunk_rows) FROM {journal} WHERE run_id = '{run}'");
        let sums = world.db.fetch_text(&sql).await.expect("the journal");
        assert_eq!(sums[0], [Some(rows.to_string()), Some(rows.to_string())]);
        let ids = captured(&world.folder.path().join("data/backups").join(run));
        assert_eq!(u64::try_from(ids.len()).expect("small"), rows);
        kept.extend(ids);
    }
    let all: BTreeSet<u64> = (1..=ROWS).collect();
    assert_eq!(kept, all, "each row that expired is in one of the backups");
    assert_eq!(world.expired().await, 0);
    assert_eq!(world.db.count("tokens").await.expect("a count"), ROWS, "what lives stays");
    server.stop().await;
}
