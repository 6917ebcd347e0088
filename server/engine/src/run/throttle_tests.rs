//! The throttle against simulated series of batches and measurements.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn limits(batch_rows: u32, max_rows_per_second: u32, duty_cycle_percent: u32) -> RunLimits {
    RunLimits {
        batch_rows,
        max_rows_per_second,
        duty_cycle_percent,
    }
}

fn throttle(limits: RunLimits) -> Throttle {
    Throttle::new(limits, None)
}

/// Names of what began, and with a minus of what ended.
fn changed(throttle: &mut Throttle) -> Vec<String> {
    let changes = throttle.changes();
    for change in &changes {
        assert!(!change.value.is_empty() && !change.threshold.is_empty(), "{change:?}");
    }
    changes
        .into_iter()
        .map(|change| format!("{}{}", if change.cleared { "-" } else { "" }, change.reason))
        .collect()
}

fn replica(behind: Option<u64>, retained_bytes: Option<u64>, stopped: bool) -> Pressure {
    Pressure {
        replicas: Some(vec![Replica {
            name: "eu2".to_owned(),
            behind: behind.map(Duration::from_secs),
            retained_bytes,
            stopped,
        }]),
        ..Pressure::default()
    }
}

fn probe(ms: u32) -> Pressure {
    Pressure {
        probe: Some(MS * ms),
        ..Pressure::default()
    }
}

#[test]
fn a_rest_is_in_proportion_to_the_batch() {
    for (duty, took, rest) in [(50, 40, 40), (25, 40, 120), (80, 40, 10), (1, 40, 3_960), (100, 40, 0)] {
        let mut throttle = throttle(limits(1_000, 0, duty));
        assert_eq!(throttle.rest(), Duration::ZERO, "nothing was done yet");
        throttle.after_batch(1_000, MS * took);
        assert_eq!(throttle.rest(), MS * rest, "{duty} %");
        assert_eq!(throttle.rows(), 1_000);
    }
}

#[test]
fn the_default_duty_is_one_event_and_shown_with_each_batch() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    for took in [40, 47, 45] {
        throttle.after_batch(1_000, MS * took);
        let shown = throttle.shown().expect("it slows the run");
        assert_eq!((shown.reason.as_str(), shown.value), ("DUTY_CYCLE", format!("{took} ms")));
    }
    assert_eq!(changed(&mut throttle), ["DUTY_CYCLE"]);
    throttle.set_limits(limits(1_000, 0, 100));
    assert_eq!(changed(&mut throttle), ["-DUTY_CYCLE"]);
    assert_eq!((throttle.shown(), throttle.rest()), (None, Duration::ZERO));
}

#[test]
fn a_limit_of_rows_a_second_is_kept_on_average_without_bursts() {
    for duty in [50, 100] {
        let mut throttle = throttle(limits(1_000, 400, duty));
        let (mut rows, mut time) = (0, Duration::ZERO);
        for _ in 0..100 {
            assert_eq!(throttle.rows(), 400, "no more than a second's worth at once");
            throttle.after_batch(400, MS * 8);
            rows += 400;
            time += MS * 8 + throttle.rest();
        }
        let rate = f64::from(rows) / time.as_secs_f64();
        assert!((rate - 400.0).abs() < 1.0, "{rate} rows/s at {duty} %");
        assert!(changed(&mut throttle).contains(&"ROWS_PER_SECOND".to_owned()));
    }
    // Where the duty cycle is slower anyhow, the limit slows nothing.
    let mut throttle = throttle(limits(1_000, 100_000, 50));
    throttle.after_batch(1_000, MS * 30);
    assert_eq!(changed(&mut throttle), ["DUTY_CYCLE"]);
    assert_eq!(throttle.rest(), MS * 30);
}

/// What costs the same for one row as for a thousand makes batches no smaller, however long it takes; the rests heed it.
#[test]
fn a_price_that_every_batch_pays_leaves_the_size() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    for _ in 0..20 {
        throttle.after_batch_at_a_price(1_000, MS * 3_000, MS * 2_900);
        assert_eq!((throttle.rows(), throttle.rest()), (1_000, MS * 3_000));
    }
    for _ in 0..2 {
        throttle.after_batch_at_a_price(1_000, MS * 3_000, MS * 2_600);
    }
    assert_eq!(throttle.rows(), 500);
}

#[test]
fn batches_shrink_to_their_time_and_grow_back_slowly() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    // 1 ms a row: 200 rows fit.
    let mut sizes = Vec::new();
    for _ in 0..20 {
        sizes.push(throttle.rows());
        throttle.after_batch(1_000, MS * throttle.rows());
    }
    assert_eq!(sizes[..3], [1_000, 1_000, 250], "one slow batch may be an accident");
    assert!(sizes[6..].iter().all(|rows| (100..=262).contains(rows)), "{sizes:?}");
    assert_eq!(changed(&mut throttle), ["DUTY_CYCLE", "BATCH_TIME"]);
    // The database has its speed back.
    let mut batches = 0;
    while throttle.rows() < 1_000 {
        let before = throttle.rows();
        throttle.after_batch(1_000, MS * 4);
        assert!(throttle.rows() - before <= 1_000 / GROWTH);
        batches += 1;
    }
    assert!(batches >= 10, "slowly: {batches} batches");
    assert_eq!(changed(&mut throttle), ["-BATCH_TIME"]);
}

#[test]
fn bursts_are_short_where_that_does_not_cost_too_much() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    // 30 microseconds a row: 333 rows fit.
    let mut took = Duration::ZERO;
    for _ in 0..20 {
        took = Duration::from_micros(30) * throttle.rows();
        throttle.after_batch(1_000, took);
    }
    assert!(took <= MS * 10, "{took:?}");
    // A disk that needs its time for every commit: smaller batches would only mean more of them.
    for _ in 0..20 {
        throttle.after_batch(1_000, MS * 60);
    }
    assert_eq!(throttle.rows(), 250);
    // And one that does not is let to have larger ones again.
    for _ in 0..40 {
        throttle.after_batch(1_000, MS * 2);
    }
    assert_eq!(throttle.rows(), 1_000);
    assert_eq!(
        changed(&mut throttle),
        ["DUTY_CYCLE"],
        "the same rows in smaller batches are no slowdown"
    );
}

#[test]
fn a_window_is_no_longer_burst_than_the_smallest_batch() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    assert_eq!((throttle.rows(), throttle.window_rows()), (1_000, 250));
    throttle.timed_out(200);
    assert_eq!((throttle.rows(), throttle.window_rows()), (100, 100));
    throttle.set_limits(limits(2, 0, 50));
    assert_eq!(throttle.window_rows(), 1, "never none");
    throttle.set_limits(limits(1_000, 0, 100));
    assert_eq!(
        throttle.window_rows(),
        throttle.rows(),
        "at full speed windows are whole batches"
    );
}

#[test]
fn a_single_slow_batch_changes_nothing() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    for took in [5, 900, 5, 5, 900, 5] {
        throttle.after_batch(1_000, MS * took);
        assert_eq!(throttle.rows(), 1_000);
    }
}

#[test]
fn full_speed_batches_may_take_a_second() {
    let mut throttle = throttle(limits(10_000, 0, 100));
    for _ in 0..10 {
        throttle.after_batch(10_000, MS * 900);
    }
    assert_eq!((throttle.rows(), changed(&mut throttle).len()), (10_000, 0));
    throttle.after_batch(10_000, MS * 2_000);
    throttle.after_batch(10_000, MS * 2_000);
    assert_eq!(
        (throttle.rows(), changed(&mut throttle)),
        (5_000, vec!["BATCH_TIME".to_owned()])
    );
}

#[test]
fn timeouts_halve_down_to_one_row() {
    let mut throttle = throttle(limits(1_000, 0, 100));
    let mut sizes = Vec::new();
    while throttle.rows() > 1 {
        throttle.timed_out(usize::try_from(throttle.rows()).unwrap_or(0));
        sizes.push(throttle.rows());
    }
    assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 7, 3, 1]);
    throttle.timed_out(1);
    assert_eq!(throttle.rows(), 1);
    assert_eq!(changed(&mut throttle), ["TIMEOUTS"], "one event for all of them");
    while throttle.rows() < 1_000 {
        throttle.after_batch(1, MS);
    }
    assert_eq!(changed(&mut throttle), ["-TIMEOUTS"]);
}

#[test]
fn a_lagging_replica_holds_the_run_until_it_has_caught_up() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    for (behind, holds) in [
        (3, false),
        (10, false),
        (11, true),
        (8, true),
        (6, true),
        (5, false),
        (9, false),
    ] {
        throttle.observe(&replica(Some(behind), Some(0), false));
        assert_eq!(throttle.holds(), holds, "{behind} s behind");
    }
    let changes = throttle.changes();
    assert_eq!(changes.len(), 2);
    assert_eq!(
        (changes[0].value.as_str(), changes[0].threshold.as_str(), changes[0].cleared),
        ("11.0 s behind (replica eu2)", "10 s", false)
    );
    assert!(changes[1].cleared);
    assert_eq!(changes[1].value, "6.0 s behind (replica eu2)", "the last value that held it");
}

#[test]
fn a_stopped_replica_counts_as_lagging_as_does_one_for_which_log_piles_up() {
    for (pressure, what) in [
        (
            replica(None, Some(3 << 20), true),
            "stopped, 3 MiB of log kept for it (replica eu2)",
        ),
        (
            replica(None, Some(2 << 30), false),
            "2048 MiB of log kept for it (replica eu2)",
        ),
    ] {
        let mut throttle = throttle(limits(1_000, 0, 50));
        throttle.observe(&pressure);
        assert!(throttle.holds());
        assert_eq!(throttle.shown().map(|shown| shown.value).as_deref(), Some(what));
        throttle.observe(&replica(Some(0), Some(0), false));
        assert!(!throttle.holds());
        assert_eq!(changed(&mut throttle), ["REPLICA_LAG", "-REPLICA_LAG"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_gone_counts_as_lagging_for_a_while() {
    let streams = |count: usize| Pressure {
        replicas: Some(vec![
            Replica {
                name: "walreceiver".to_owned(),
                behind: Some(Duration::ZERO),
                retained_bytes: None,
                stopped: false,
            };
            count
        ]),
        ..Pressure::default()
    };
    let mut throttle = throttle(limits(1_000, 0, 50));
    throttle.observe(&streams(2));
    assert!(!throttle.holds());
    // One of two of the same name.
    tokio::time::advance(Duration::from_secs(1)).await;
    throttle.observe(&streams(1));
    assert!(throttle.holds());
    let shown = throttle.shown().map(|shown| shown.value);
    assert_eq!(shown.as_deref(), Some("gone for 1.0 s (replica walreceiver)"));
    // Back again, and gone for good.
    throttle.observe(&streams(2));
    assert!(!throttle.holds());
    for (after, holds) in [(1, true), (598, true), (1, false)] {
        tokio::time::advance(Duration::from_secs(after)).await;
        throttle.observe(&streams(1));
        assert_eq!(throttle.holds(), holds, "{after} s later");
    }
    assert_eq!(
        changed(&mut throttle),
        ["REPLICA_LAG", "-REPLICA_LAG", "REPLICA_LAG", "-REPLICA_LAG"]
    );
}

#[test]
fn full_speed_looks_at_replicas_only_where_a_limit_was_set() {
    let far = replica(Some(500), None, false);
    let mut without = throttle(limits(1_000, 0, 100));
    without.observe(&far);
    assert!(!without.holds());
    let mut with = Throttle::new(limits(1_000, 0, 100), Some(Duration::from_secs(60)));
    with.observe(&far);
    assert!(with.holds());
    // Who turns a held run to full speed lets it go.
    let mut held = throttle(limits(1_000, 0, 50));
    held.observe(&far);
    assert!(held.holds());
    held.set_limits(limits(1_000, 0, 100));
    held.observe(&far);
    assert!(!held.holds());
    assert_eq!(changed(&mut held), ["REPLICA_LAG", "-REPLICA_LAG"]);
}

#[test]
fn whoever_waits_for_locks_gets_smaller_batches_and_longer_rests() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    throttle.after_batch(1_000, MS * 40);
    let waiters = |count| Pressure {
        lock_waiters: Some(count),
        ..Pressure::default()
    };
    throttle.observe(&waiters(3));
    assert_eq!((throttle.rows(), throttle.rest()), (500, MS * 80));
    throttle.observe(&waiters(0));
    assert_eq!((throttle.rows(), throttle.rest()), (1_000, MS * 40));
    assert_eq!(changed(&mut throttle), ["DUTY_CYCLE", "LOCK_WAITERS", "-LOCK_WAITERS"]);
}

#[test]
fn a_probe_is_compared_with_its_own_past() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    throttle.after_batch(1_000, MS * 40);
    throttle.changes();
    // A slow database is slow always: nothing to react to.
    for _ in 0..30 {
        throttle.observe(&probe(50));
    }
    // One outlier is no strain; three in a row are.
    for ms in [400, 50, 50, 400, 50] {
        throttle.observe(&probe(ms));
        assert_eq!(changed(&mut throttle), Vec::<String>::new(), "after {ms} ms");
    }
    for _ in 0..3 {
        throttle.observe(&probe(400));
    }
    assert_eq!(changed(&mut throttle), ["PROBE_LATENCY"]);
    assert_eq!(throttle.rest(), MS * 160);
    for _ in 0..3 {
        throttle.observe(&probe(60));
    }
    assert_eq!(changed(&mut throttle), ["-PROBE_LATENCY"]);
    // What is fast may become ten times as slow without anybody noticing.
    let mut fast = super::Throttle::new(limits(1_000, 0, 50), None);
    for _ in 0..30 {
        fast.observe(&probe(1));
    }
    for _ in 0..10 {
        fast.observe(&probe(15));
    }
    assert_eq!(changed(&mut fast), Vec::<String>::new());
}

#[test]
fn a_growing_log_is_left_time_to_be_checkpointed() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    throttle.after_batch(1_000, MS * 10);
    for (mib, rest) in [(100, 10), (257, 40), (200, 40), (128, 10)] {
        throttle.observe(&Pressure {
            wal_bytes: Some(mib << 20),
            ..Pressure::default()
        });
        assert_eq!(throttle.rest(), MS * rest, "{mib} MiB");
    }
    assert_eq!(changed(&mut throttle), ["DUTY_CYCLE", "WAL_SIZE", "-WAL_SIZE"]);
}

#[test]
fn what_cannot_be_told_slows_nothing() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    for _ in 0..10 {
        throttle.observe(&Pressure::default());
    }
    assert_eq!(
        (throttle.rows(), throttle.holds(), throttle.changes().len()),
        (1_000, false, 0)
    );
}

#[test]
fn limits_take_effect_at_once() {
    let mut throttle = throttle(limits(1_000, 0, 50));
    throttle.after_batch(1_000, MS * 40);
    throttle.set_limits(limits(5_000, 0, 20));
    assert_eq!((throttle.rows(), throttle.rest()), (5_000, MS * 160));
    throttle.timed_out(5_000);
    throttle.set_limits(limits(4_000, 0, 20));
    assert_eq!(throttle.rows(), 2_500, "what timed out stays small");
    throttle.set_limits(limits(10, 0, 20));
    assert_eq!(throttle.rows(), 10);
    assert_eq!(
        changed(&mut throttle),
        ["DUTY_CYCLE", "TIMEOUTS", "-TIMEOUTS"],
        "a batch can have the size that was asked for"
    );
}
