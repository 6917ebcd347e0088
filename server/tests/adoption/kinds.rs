//! Rows that go because of a key in a text, or because of other rows of their table: beside a writer that changes what they go by.

use crate::{
    ISOLATIONS, Story,
    begins::{naively, plainly},
    bench::Rule,
    every_interleaving, nothing_is_lost, orders,
};

const LOOKS: &str = "SELECT FROM child WHERE id = 1";

const ADOPTS_KEY: Story = Story {
    name: "adopts_key",
    steps: [
        "INSERT INTO parent VALUES (2)",
        "UPDATE child SET at = '2030-01-01Z' WHERE id = 2",
    ],
    rule: Rule::Dangling,
};
const KEY_MOVES: Story = Story {
    name: "key_moves",
    steps: [
        "INSERT INTO parent VALUES (4)",
        "UPDATE child SET note = 'parent:4' WHERE id = 2",
    ],
    rule: Rule::Dangling,
};
const PARENT_OF_KEY_ONLY: Story = Story {
    name: "parent_of_key_only",
    steps: ["INSERT INTO parent VALUES (2)", LOOKS],
    rule: Rule::Dangling,
};
const KEEPER_IS_REMOVED: Story = Story {
    name: "keeper_is_removed",
    steps: [
        LOOKS,
        "WITH gone AS (DELETE FROM child WHERE id = 12 RETURNING id) INSERT INTO removed SELECT id FROM gone",
    ],
    rule: Rule::Duplicate,
};
const KEEPER_LEAVES: Story = Story {
    name: "keeper_leaves",
    steps: [LOOKS, "UPDATE child SET parent_id = 4 WHERE id = 12"],
    rule: Rule::Duplicate,
};
const DUPLICATE_LEAVES: Story = Story {
    name: "duplicate_leaves",
    steps: [LOOKS, "UPDATE child SET parent_id = 4 WHERE id = 2"],
    rule: Rule::Duplicate,
};
const EDGE_TURNS: Story = Story {
    name: "edge_turns",
    steps: [LOOKS, "UPDATE child SET parent_id = 100 WHERE id = 2"],
    rule: Rule::Cycle,
};
const EDGE_IS_REMOVED: Story = Story {
    name: "edge_is_removed",
    steps: [
        LOOKS,
        "WITH gone AS (DELETE FROM child WHERE id = 2 RETURNING id) INSERT INTO removed SELECT id FROM gone",
    ],
    rule: Rule::Cycle,
};
const LISTED_EDGE_TURNS: Story = Story {
    name: "listed_edge_turns",
    steps: [LOOKS, "UPDATE child SET parent_id = 100 WHERE id = 12"],
    rule: Rule::Cycle,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_key_is_adopted_is_never_lost() {
    nothing_is_lost(ADOPTS_KEY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_key_comes_to_name_another_row_is_never_lost() {
    nothing_is_lost(KEY_MOVES).await;
}

/// As of an orphan, and no more than that: see ADR 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_a_key_names_is_missed_only_between_the_last_look_and_the_commit() {
    let lost: Vec<_> = orders(4).into_iter().filter(|order| order.ends_with("wd")).collect();
    for isolation in ISOLATIONS {
        let tally = every_interleaving(PARENT_OF_KEY_ONLY, isolation, plainly).await;
        assert_eq!((&tally.lost, &tally.others), (&lost, &vec![]), "{isolation}");
        assert_eq!((tally.waited, tally.writer_failed), (0, 0), "nobody is in the other's way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_a_duplicate_no_more_once_the_other_is_removed_is_never_lost() {
    nothing_is_lost(KEEPER_IS_REMOVED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_a_duplicate_no_more_once_the_other_has_another_key_is_never_lost() {
    nothing_is_lost(KEEPER_LEAVES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_that_gets_another_key_is_never_lost() {
    nothing_is_lost(DUPLICATE_LEAVES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_cycle_another_edge_leaves_is_never_lost() {
    nothing_is_lost(EDGE_TURNS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_cycle_is_broken_by_a_removal_is_never_lost() {
    nothing_is_lost(EDGE_IS_REMOVED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_leaves_its_cycle_is_never_lost() {
    nothing_is_lost(LISTED_EDGE_TURNS).await;
}

/// The teeth of these: the deletion that everybody writes first does not keep the rows as they are by which others go. What it has decided
/// on is wrong once the writer has committed.
#[tokio::test(flavor = "multi_thread")]
async fn the_obvious_deletion_loses_the_last_row_of_a_key_and_edges_of_no_cycle() {
    let lost = |order: &String| {
        let place = |who, number| order.match_indices(who).nth(number).unwrap().0;
        place("d", 1) < place("w", 3) && place("w", 3) < place("d", 3)
    };
    let lost: Vec<_> = orders(4).into_iter().filter(lost).collect();
    assert!(!lost.is_empty());
    for story in [KEEPER_IS_REMOVED, KEEPER_LEAVES, EDGE_TURNS, EDGE_IS_REMOVED] {
        let tally = every_interleaving(story, ISOLATIONS[0], naively).await;
        assert_eq!((&tally.lost, &tally.others), (&lost, &vec![]), "{}", story.name);
    }
}
