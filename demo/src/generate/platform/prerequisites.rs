//! What must be learned before what: a graph whose cycles are known, and with them the fewest edges that break them all.

use super::{Platform, Space, rule};
use crate::generate::random::{GONE, Random};
use crate::generate::rows::{Closed, RowWriter, Rows};
use crate::truth::RuleTruth;

/// Lessons in one block of the pattern.
const BLOCK: u64 = 20;
/// Blocks after which the pattern repeats.
const PERIOD: u64 = 10;
/// Where in a block the cycles begin, after two edges to and from lessons that are gone.
const FIRST: u64 = 2;
/// Blocks of a period that are taken together, for a circle that is longer than a block.
const LONG: std::ops::Range<u64> = 2..5;

/// Cycles that share edges or lessons, from the lesson numbered here 0.
///
/// 0 to 2 are two cycles that share the edge 0 to 1, which breaks both. 3 to 5 are two cycles that share a lesson and no edge: one of each
/// has to go. 6 to 8 require each other in all six ways, and of each of the three pairs one has to go; these three leave an order.
const KNOT: [(u64, u64); 14] = [
    (0, 1),
    (1, 2),
    (2, 0),
    (1, 0),
    (3, 4),
    (4, 3),
    (3, 5),
    (5, 3),
    (6, 7),
    (7, 6),
    (7, 8),
    (8, 7),
    (6, 8),
    (8, 6),
];
/// The fewest edges of the knot that break all of its cycles: 1, 2 and 3, since the three parts have no lesson in common.
const KNOT_FEWEST: u64 = 6;

/// An edge by the numbers of the lessons, and how many edges must go for the cycles that it begins.
type Edge = ((u64, u64), u64);

impl Platform {
    /// As many edges as lessons. In each full block the first requires a lesson that is gone, and the second is required by one. Then comes,
    /// by turns, a lesson that requires itself and a circle, a knot of cycles, a circle over three blocks, or circles. Every other
    /// lesson requires some earlier one, and no lesson of a cycle requires anything outside, so that there is no further cycle.
    pub(super) fn lesson_prerequisites<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<[RuleTruth; 3], Closed> {
        rows.table("lesson_prerequisites")?;
        let mut random = self.random(Space::Prerequisites);
        let (mut of_none, mut on_none, mut circular) = (0, 0, 0);
        for index in 0..self.sizes.lessons {
            let ((lesson, prerequisite), broken_by) = self.prerequisite(index, &mut random);
            of_none += u64::from(lesson >= GONE);
            on_none += u64::from(prerequisite >= GONE);
            circular += broken_by;
            let row = rows.row();
            row.key(self.key(Space::Lessons, lesson));
            row.key(self.key(Space::Lessons, prerequisite));
            rows.end_row()?;
        }
        Ok([
            rule("prerequisites_of_no_lesson", "lesson_prerequisites", of_none),
            rule("prerequisites_on_no_lesson", "lesson_prerequisites", on_none),
            rule("circular_prerequisites", "lesson_prerequisites", circular),
        ])
    }

    fn prerequisite(&self, index: u64, random: &mut Random) -> Edge {
        let earlier = |random: &mut Random| ((index, random.below(index)), 0);
        let (block, position) = (index / BLOCK, index % BLOCK);
        if (block + 1) * BLOCK > self.sizes.lessons {
            return earlier(random);
        }
        let (turn, period) = (block % PERIOD, block / PERIOD);
        let long = (period + 1) * PERIOD * BLOCK <= self.sizes.lessons;
        if LONG.contains(&turn) && long {
            let start = (period * PERIOD + LONG.start) * BLOCK;
            // 50 in the first period; lengths from 2 on in the others.
            let length = 2 + (period * 11 + 48) % 49;
            return circle(index, start, length).unwrap_or_else(|| earlier(random));
        }
        let start = block * BLOCK + FIRST;
        match (turn, position) {
            (_, 0) => ((index, GONE + index), 0),
            (_, 1) => ((GONE + index, index), 0),
            (0, FIRST) => ((index, index), 1),
            (0, _) => circle(index, start + 1, 2 + period % 5).unwrap_or_else(|| earlier(random)),
            (1, _) => {
                let edge = usize::try_from(index - start).ok().and_then(|edge| KNOT.get(edge));
                let fewest = if index == start { KNOT_FEWEST } else { 0 };
                edge.map_or_else(|| earlier(random), |(from, to)| ((start + from, start + to), fewest))
            }
            _ => circle(index, start, 2 + (block * 5) % 17).unwrap_or_else(|| earlier(random)),
        }
    }
}

/// The edge of `index` in a circle of `length` lessons from `start`, if it is one of them. One edge breaks it.
fn circle(index: u64, start: u64, length: u64) -> Option<Edge> {
    let place = index.checked_sub(start).filter(|place| *place < length)?;
    Some(((index, start + (place + 1) % length), u64::from(place == 0)))
}
