//! A deletion beside a writer that saves its row, in every order: all 70 interleavings of four steps of a batch and four steps of
//! a writer, with real sessions. A step that waits for a lock is seen in `pg_blocking_pids`; the other session goes on until it
//! is free. What happened is judged in plain SQL over the oracle's own connection, by rules that know nothing of the order.
//!
//! How a batch begins is a parameter ([`Begin`]): the same interleavings judge a stricter mode.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod begins;
mod bench;
mod families;
mod gate;
mod kinds;
mod parties;

use std::collections::BTreeMap;

use begins::{Begin, naively, plainly, with_the_parent_locked, without_the_last_look};
use bench::{Bench, Rule};
use dbkeep_engine::{
    model::{Row, RunId, Value},
    port::Claim,
};
use parties::{Collector, Deleter, End, Party as _, Writer, interleave};

/// What a writer does between its BEGIN and its COMMIT, and what makes a row safe from then on.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    steps: [&'static str; 2],
    rule: Rule,
}

const ADOPTS: Story = Story {
    name: "adopts",
    steps: [
        "INSERT INTO parent VALUES (2)",
        "UPDATE child SET note = 'adopted' WHERE id = 2",
    ],
    rule: Rule::Orphan,
};
const ADOPTS_CHILD_FIRST: Story = Story {
    name: "adopts_child_first",
    steps: [
        "UPDATE child SET note = 'adopted' WHERE id = 2",
        "INSERT INTO parent VALUES (2)",
    ],
    rule: Rule::Orphan,
};
const PARENT_ONLY: Story = Story {
    name: "parent_only",
    steps: ["INSERT INTO parent VALUES (2)", "SELECT FROM child WHERE id = 2"],
    rule: Rule::Orphan,
};
const RE_PARENTS: Story = Story {
    name: "re_parents",
    steps: ["INSERT INTO parent VALUES (4)", "UPDATE child SET parent_id = 4 WHERE id = 2"],
    rule: Rule::Orphan,
};
const REMOVES: Story = Story {
    name: "removes",
    steps: [
        "INSERT INTO parent VALUES (2)",
        "WITH gone AS (DELETE FROM child WHERE id = 2 RETURNING id) INSERT INTO removed SELECT id FROM gone",
    ],
    rule: Rule::Orphan,
};
const REFRESHES: Story = Story {
    name: "refreshes",
    steps: [
        "SELECT FROM child WHERE id = 2",
        "UPDATE child SET at = '2030-01-01Z' WHERE id = 2",
    ],
    rule: Rule::Expired,
};

const ISOLATIONS: [&str; 2] = ["READ COMMITTED", "REPEATABLE READ"];

/// Every order of so many steps of a batch and four of a writer.
fn orders(steps: usize) -> Vec<String> {
    let of = |bits: u32| {
        (0..steps + 4)
            .map(|bit| if bits >> bit & 1 == 1 { 'w' } else { 'd' })
            .collect()
    };
    let orders: Vec<String> = (0..1 << (steps + 4))
        .filter(|bits: &u32| bits.count_ones() == 4)
        .map(of)
        .collect();
    assert_eq!(orders.len(), if steps == 4 { 70 } else { 126 });
    orders
}

/// What the interleavings of one story came to.
#[derive(Debug, Default)]
struct Tally {
    /// How the batch ended the first time.
    ends: BTreeMap<End, usize>,
    /// Interleavings whose writer failed, at REPEATABLE READ.
    writer_failed: usize,
    /// Interleavings in which some step had to wait.
    waited: usize,
    /// Interleavings that lost the row.
    lost: Vec<String>,
    /// Whatever else the oracle objects to.
    others: Vec<String>,
}

/// Runs every interleaving of a story.
async fn every_interleaving(story: Story, isolation: &str, begin: Begin) -> Tally {
    let bench = Bench::open(&format!("adoption_{}", story.name)).await;
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    bench.target.claim(claim).await.unwrap();
    bench.db.execute(&story.rule.fill()).await.unwrap();
    let selection = bench.selection(story.rule).await;
    let keys = bench.keys(&selection).await;
    assert_eq!(keys.len(), 2);
    let mut session = Some(bench.session("writer").await);
    let mut tally = Tally::default();
    for (place, order) in (1..).zip(orders(4)) {
        bench.db.execute(&story.rule.fill()).await.unwrap();
        let deleter = |batch| Deleter {
            bench: bench.clone(),
            begin,
            claim,
            selection: selection.clone(),
            keys: keys.clone(),
            place: (place, batch),
            batch: None,
            sink: Collector::default(),
            end: End::Open,
        };
        let writer = Writer {
            session: session.take().unwrap(),
            statements: [
                // The SELECT takes the snapshot of a REPEATABLE READ transaction.
                format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1"),
                story.steps[0].to_owned(),
                story.steps[1].to_owned(),
                "COMMIT".to_owned(),
            ],
            failed: false,
            may_fail: &["40001"],
        };
        let (first, writer, ended) =
            interleave(&bench, async || bench.witness(story.rule).await, &order, deleter(1), writer).await;
        session = Some(writer.session);
        let mut commits = keep_captured(&bench, &first).await;
        // A batch that was taken back is tried again, as the engine does, and then nothing stands in its way.
        if first.end != End::Committed {
            let mut again = deleter(2);
            for number in 0..4 {
                again.step(number).await;
            }
            assert_eq!(again.end, End::Committed, "{order}");
            commits += keep_captured(&bench, &again).await;
        }
        let wrongs = bench.wrongs(place, commits).await;
        assert_eq!(
            bench.db.count_where("child", story.rule.left()).await.unwrap(),
            0,
            "{order}: a row remains"
        );
        *tally.ends.entry(first.end).or_default() += 1;
        tally.writer_failed += usize::from(writer.failed);
        tally.waited += usize::from(ended != order);
        let (lost, others): (Vec<_>, Vec<_>) = wrongs.into_iter().partition(|wrong| wrong == story.rule.lost());
        if !lost.is_empty() {
            tally.lost.push(order.clone());
        }
        tally.others.extend(others.iter().map(|wrong| format!("{order}: {wrong}")));
    }
    println!("{} at {isolation}: {tally:?}", story.name);
    tally
}

/// Hands what a committed batch captured to the oracle; returns the number of commits.
async fn keep_captured(bench: &Bench, deleter: &Deleter) -> usize {
    if deleter.end != End::Committed {
        return 0;
    }
    let literal = |value: &Value| format!("'{}'", value.preview(100).unwrap());
    let tuple = |row: &Row| format!("({})", row.iter().map(literal).collect::<Vec<_>>().join(", "));
    let tuples: Vec<_> = deleter.sink.0.iter().map(tuple).collect();
    if !tuples.is_empty() {
        let insert = format!("INSERT INTO captured VALUES {}", tuples.join(", "));
        bench.db.execute(&insert).await.unwrap();
    }
    1
}

async fn nothing_is_lost(story: Story) {
    for isolation in ISOLATIONS {
        let tally = every_interleaving(story, isolation, plainly).await;
        assert_eq!(
            (&tally.lost, &tally.others),
            (&vec![], &vec![]),
            "{} at {isolation}",
            story.name
        );
        // A batch that meets a newer version of a row is refused and not decided anew; somebody waited, or the story was not told.
        assert!(tally.ends[&End::Committed] > 0 && tally.ends[&End::Conflict] > 0, "{tally:?}");
        assert!(tally.waited > 0, "{tally:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_adopted_is_never_lost() {
    nothing_is_lost(ADOPTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_adopted_before_its_parent_is_there_is_never_lost() {
    nothing_is_lost(ADOPTS_CHILD_FIRST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_moves_to_another_parent_is_never_lost() {
    nothing_is_lost(RE_PARENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_else_deletes_is_taken_once() {
    nothing_is_lost(REMOVES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refreshed_is_never_lost() {
    nothing_is_lost(REFRESHES).await;
}

/// ADR 2: a parent that is committed between the last look for parents and the batch's commit, by a writer that does not touch
/// the child. It is lost where the writer's commit and the batch's are the last two steps, in this order, and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_comes_back_alone_is_missed_only_between_the_last_look_and_the_commit() {
    let lost: Vec<_> = orders(4).into_iter().filter(|order| order.ends_with("wd")).collect();
    assert_eq!(lost.len(), 20);
    for isolation in ISOLATIONS {
        let tally = every_interleaving(PARENT_ONLY, isolation, plainly).await;
        assert_eq!((&tally.lost, &tally.others), (&lost, &vec![]), "{isolation}");
        assert_eq!((tally.waited, tally.writer_failed), (0, 0), "nobody is in the other's way");
    }
}

/// The teeth of the test above: without the last look, every commit of the parent between the batch's begin and its end is missed.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_last_look_for_parents_more_is_lost() {
    let lost = |order: &String| order.find('d') < order.rfind('w') && order.ends_with('d');
    let lost: Vec<_> = orders(4).into_iter().filter(lost).collect();
    assert_eq!(lost.len(), 34);
    let tally = every_interleaving(PARENT_ONLY, ISOLATIONS[0], without_the_last_look).await;
    assert_eq!((tally.lost, tally.others), (lost, vec![]));
}

/// The teeth of all of them: the deletion that everybody writes first takes a row that was adopted while it waited.
#[tokio::test(flavor = "multi_thread")]
async fn the_obvious_deletion_loses_adopted_rows() {
    let lost = |order: &String| {
        let place = |who, number| order.match_indices(who).nth(number).unwrap().0;
        place("w", 2) < place("d", 1) && place("d", 1) < place("w", 3)
    };
    let lost: Vec<_> = orders(4).into_iter().filter(lost).collect();
    let tally = every_interleaving(ADOPTS, ISOLATIONS[0], naively).await;
    assert_eq!(tally.lost, lost);
    // What it took is no longer what was there when the row was listed.
    let changed = |order: &String| format!("{order}: captured otherwise than it was 2");
    assert_eq!(tally.others, lost.iter().map(changed).collect::<Vec<_>>());
    assert!(!lost.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_parent_locked_nothing_is_lost() {
    for (story, isolation) in [
        (PARENT_ONLY, ISOLATIONS[0]),
        (PARENT_ONLY, ISOLATIONS[1]),
        (ADOPTS, ISOLATIONS[0]),
    ] {
        let tally = every_interleaving(story, isolation, with_the_parent_locked).await;
        assert_eq!(
            (&tally.lost, &tally.others),
            (&vec![], &vec![]),
            "{} at {isolation}",
            story.name
        );
        assert!(tally.waited > 0, "{tally:?}");
    }
}
