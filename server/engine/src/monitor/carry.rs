//! What one look alone cannot tell, by the look before: since when an index is known, how often blocks were in memory lately, and how much
//! log is written. Called by whoever makes a snapshot, with the newest one that is kept.
//!
//! Counters go on from one look to the next, or they do not: somebody reset them, the server crashed, or another server has taken over.
//! What was known by counting then begins anew, since a counter of 0 says nothing of the time before.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::model::monitor::{Blocks, IndexVitals, Snapshot, Vitals};

/// So many blocks have to have been asked for before a part of them means something.
const EVIDENCE_BLOCKS: u64 = 10_000;

/// Completes a snapshot by the newest one that was kept before it. Without one the indexes are seen for the first time, and nothing is
/// known of the time in between.
pub fn carry_over(previous: Option<&Snapshot>, snapshot: &mut Snapshot) {
    let at = snapshot.at;
    // A look that is older than the kept one, by a clock that was set back, follows nothing.
    let before = previous.filter(|previous| previous.at <= at && goes_on(&previous.database, &snapshot.database));
    let known: BTreeMap<_, _> = before
        .into_iter()
        .flat_map(|before| &before.indexes)
        .map(|index| ((&index.table, index.name.as_str(), index.oid), index))
        .collect();
    for index in &mut snapshot.indexes {
        let same = known.get(&(&index.table, index.name.as_str(), index.oid));
        let same = same.filter(|same| is_unchanged(same, index));
        index.first_seen = same.and_then(|same| same.first_seen).or(Some(at));
    }
    let database = &mut snapshot.database;
    database.recent_wal_bytes_per_second = before.and_then(|before| written(before, at, database.wal_written_bytes));
    let before = before.map(|before| &before.database);
    database.recent_cache_hit_fraction = lately(before.and_then(|before| before.heap_blocks), database.heap_blocks);
    database.recent_index_hit_fraction = lately(before.and_then(|before| before.index_blocks), database.index_blocks);
}

/// Whether the counters of the one are those of the other, and nobody has reset them.
fn goes_on(before: &Vitals, now: &Vitals) -> bool {
    let is_other = before.timeline.zip(now.timeline).is_some_and(|(before, now)| before != now);
    let has_taken_over = before.in_recovery != now.in_recovery;
    let is_reset = before.commits.zip(now.commits).is_some_and(|(before, now)| now < before);
    !is_other && !has_taken_over && !is_reset
}

/// Whether it is the same index, by what it is made of, and its counter goes on. A text that could not be read is no difference.
fn is_unchanged(before: &IndexVitals, now: &IndexVitals) -> bool {
    let is_readable = !before.definition.is_empty() && !now.definition.is_empty();
    let is_other = is_readable && before.definition != now.definition;
    let is_reset = before.scans.zip(now.scans).is_some_and(|(before, now)| now < before);
    !is_other && !is_reset
}

#[expect(clippy::cast_precision_loss, reason = "a part of a whole")]
fn lately(before: Option<Blocks>, now: Option<Blocks>) -> Option<f64> {
    let (before, now) = before.zip(now)?;
    let fetched = now.fetched.checked_sub(before.fetched)?;
    let hit = now.hit.checked_sub(before.hit)?;
    (fetched >= EVIDENCE_BLOCKS).then(|| (hit as f64 / fetched as f64).min(1.0))
}

/// Log written since the look before, bytes a second; `None` where no time lies between the two.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn written(before: &Snapshot, at: Timestamp, now: Option<u64>) -> Option<f64> {
    let bytes = now?.checked_sub(before.database.wal_written_bytes?)?;
    let seconds = at.duration_since(before.at).as_secs_f64();
    (seconds > 0.0).then(|| bytes as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TableName, monitor::Depth};

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).expect("a time")
    }

    fn index(name: &str, oid: u64) -> IndexVitals {
        IndexVitals {
            table: TableName::parse("public.t"),
            name: name.to_owned(),
            oid: Some(oid),
            columns: Vec::new(),
            method: "btree".to_owned(),
            condition: String::new(),
            enforces: false,
            clustered: false,
            expression: false,
            serves_key: false,
            valid: true,
            bytes: None,
            scans: Some(5),
            bloat_fraction: None,
            bloat_precision: None,
            duplicate_of: None,
            first_seen: None,
            definition: format!("CREATE INDEX {name} ON public.t (a)"),
        }
    }

    fn snapshot(day: i64, indexes: Vec<IndexVitals>) -> Snapshot {
        Snapshot {
            at: at(day),
            took_ms: 1,
            depth: Depth::Quick,
            database: Vitals {
                commits: Some(100),
                timeline: Some(1),
                ..Vitals::default()
            },
            tables: Vec::new(),
            indexes,
            unindexed_keys: Vec::new(),
            queries: Vec::new(),
            sessions: None,
            replicas: Vec::new(),
            slots: Vec::new(),
            gaps: Vec::new(),
        }
    }

    /// What the second look knows of its only index after the first, which a change was made to.
    fn seen(change: impl FnOnce(&mut Snapshot)) -> Option<Timestamp> {
        let mut first = snapshot(1, vec![index("a", 7)]);
        carry_over(None, &mut first);
        assert_eq!(first.indexes[0].first_seen, Some(at(1)));
        let mut second = snapshot(2, vec![index("a", 7)]);
        change(&mut second);
        carry_over(Some(&first), &mut second);
        second.indexes[0].first_seen
    }

    #[test]
    fn an_index_is_known_since_its_first_look() {
        assert_eq!(seen(|_| {}), Some(at(1)));
        assert_eq!(seen(|second| second.indexes[0].definition = String::new()), Some(at(1)));
        for change in [
            |second: &mut Snapshot| second.indexes[0].oid = Some(8),
            |second: &mut Snapshot| second.indexes[0].definition.push_str(" WHERE a > 1"),
            |second: &mut Snapshot| second.indexes[0].name = "b".to_owned(),
        ] {
            assert_eq!(seen(change), Some(at(2)), "another index");
        }
    }

    #[test]
    fn what_could_not_be_read_breaks_nothing() {
        for change in [
            |second: &mut Snapshot| second.database.timeline = None,
            |second: &mut Snapshot| second.database.commits = None,
            |second: &mut Snapshot| second.indexes[0].scans = None,
        ] {
            assert_eq!(seen(change), Some(at(1)));
        }
    }

    #[test]
    fn counters_that_do_not_go_on_begin_anew() {
        for change in [
            |second: &mut Snapshot| second.indexes[0].scans = Some(4),
            |second: &mut Snapshot| second.database.commits = Some(99),
            |second: &mut Snapshot| second.database.timeline = Some(2),
            |second: &mut Snapshot| second.database.in_recovery = true,
        ] {
            assert_eq!(seen(change), Some(at(2)));
        }
        let mut first = snapshot(3, vec![index("a", 7)]);
        carry_over(None, &mut first);
        let mut earlier = snapshot(2, vec![index("a", 7)]);
        carry_over(Some(&first), &mut earlier);
        assert_eq!(earlier.indexes[0].first_seen, Some(at(2)), "a clock that was set back");
    }

    #[test]
    fn blocks_are_those_between_two_looks() {
        let fraction = |(fetched, hit)| {
            let mut first = snapshot(1, Vec::new());
            first.database.heap_blocks = Some(Blocks {
                fetched: 1_000_000,
                hit: 999_000,
            });
            let mut second = snapshot(2, Vec::new());
            second.database.heap_blocks = Some(Blocks { fetched, hit });
            carry_over(Some(&first), &mut second);
            assert_eq!(second.database.recent_index_hit_fraction, None, "nothing is known of it");
            second.database.recent_cache_hit_fraction
        };
        assert_eq!(fraction((1_010_000, 1_004_000)), Some(0.5));
        assert_eq!(fraction((1_009_999, 1_004_000)), None, "too few");
        assert_eq!(fraction((900_000, 999_000)), None, "reset");
        assert_eq!(fraction((1_010_000, 998_000)), None, "reset");
        let mut alone = snapshot(2, Vec::new());
        alone.database.heap_blocks = Some(Blocks {
            fetched: 1_000_000,
            hit: 0,
        });
        carry_over(None, &mut alone);
        assert_eq!(alone.database.recent_cache_hit_fraction, None);
    }

    /// The rate of the log at a look on that day, after one on the first day at which a thousand bytes were written.
    fn rate(day: i64, written: Option<u64>, change: impl FnOnce(&mut Snapshot)) -> Option<f64> {
        let mut first = snapshot(1, Vec::new());
        first.database.wal_written_bytes = Some(1_000);
        let mut second = snapshot(day, Vec::new());
        second.database.wal_written_bytes = written;
        change(&mut second);
        carry_over(Some(&first), &mut second);
        second.database.recent_wal_bytes_per_second
    }

    #[test]
    fn log_is_what_was_written_between_two_looks() {
        // 86,400 seconds, and a thousand bytes in each.
        assert_eq!(rate(2, Some(86_401_000), |_| {}), Some(1_000.0));
        assert_eq!(rate(2, Some(1_000), |_| {}), Some(0.0), "nobody writes");
        assert_eq!(rate(2, None, |_| {}), None, "nothing is known of it");
        assert_eq!(rate(2, Some(999), |_| {}), None, "another log");
        assert_eq!(rate(1, Some(2_000), |_| {}), None, "no time lies between them");
        assert_eq!(rate(2, Some(2_000), |second| second.database.timeline = Some(2)), None);
        let mut alone = snapshot(2, Vec::new());
        alone.database.wal_written_bytes = Some(5);
        carry_over(None, &mut alone);
        assert_eq!(alone.database.recent_wal_bytes_per_second, None);
    }

    #[test]
    fn what_was_kept_by_an_older_version_is_read() {
        let mut kept = serde_json::to_value(snapshot(1, vec![index("a", 7)])).expect("JSON");
        for name in ["oid", "clustered", "expression", "first_seen"] {
            kept["indexes"][0].as_object_mut().expect("an index").remove(name);
        }
        let vitals = kept["database"].as_object_mut().expect("vitals");
        for name in ["timeline", "heap_blocks", "index_blocks"] {
            vitals.remove(name);
        }
        let kept: Snapshot = serde_json::from_value(kept).expect("a snapshot");
        let mut now = snapshot(2, vec![index("a", 7)]);
        carry_over(Some(&kept), &mut now);
        assert_eq!(now.indexes[0].first_seen, Some(at(2)));
    }
}
