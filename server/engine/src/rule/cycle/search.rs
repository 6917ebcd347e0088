//! The kept edges, with an order of the nodes in which each of them points forward: whether one more edge would close a cycle, and
//! along which path. An edge that closes none is taken in, and the order follows.
//!
//! Whether there is a path is asked from both its ends at once, an edge here and an edge there, so that neither a node with a million
//! edges nor a far-reaching end costs more than the other end does. From the start nodes are followed in ascending order, from the end
//! in descending order: where the two have passed each other, all that could meet has met, and there is no path. What was passed is all
//! that has to move (Haeupler, Kavitha, Mathew, Sen and Tarjan, "Incremental cycle detection, topological ordering, and strong component
//! maintenance", 2012). Called by [`super::feedback`].

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    graph::{Adjacency, Edge, id},
    landmarks::Landmarks,
    patience::{Patience, Stopped},
    sequence::Sequence,
};

const NONE: u32 = u32::MAX;

/// In which order reached nodes are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Of the row, which is enough to be sure that there is no path.
    Place,
    /// In which they were reached, so that a path that is found is short.
    Turn,
}

/// One end of a search.
#[derive(Default)]
struct Side {
    /// Reached nodes whose edges were not followed yet, by what decides which is next.
    waiting: BinaryHeap<Reverse<(u64, u32)>>,
    /// The node whose edges are being followed, and how many of them were.
    current: Option<(u32, usize)>,
    /// Nodes all of whose edges were followed.
    done: Vec<u32>,
}

impl Side {
    fn begin(&mut self) {
        self.waiting.clear();
        self.current = None;
        self.done.clear();
    }

    /// The node that is followed next; none where all were.
    fn node(&mut self, links: &Adjacency) -> Option<u32> {
        loop {
            if let Some((node, followed)) = self.current {
                if followed < links.of(node).len() {
                    return Some(node);
                }
                self.done.push(node);
            }
            self.current = self.waiting.pop().map(|Reverse((_, node))| (node, 0));
            self.current?;
        }
    }

    /// The next edge of that node.
    fn edge(&mut self, links: &Adjacency) -> Option<u32> {
        let (node, followed) = self.current.as_mut()?;
        let edge = links.of(*node).get(*followed).copied();
        *followed += 1;
        edge
    }
}

/// What a search came to.
enum Outcome {
    /// This edge leads from what the start reaches to what reaches the end.
    Met(u32),
    /// There is no path: the start may move to just before this node, or after the end where that is the end itself.
    Apart(u32),
}

pub(super) struct Search {
    out: Adjacency,
    into: Adjacency,
    kept: Vec<bool>,
    row: Sequence,
    /// The search that reached a node, and from which end: twice its number, and one more from the end of the path.
    mark: Vec<u32>,
    /// Edge by which that was.
    reached: Vec<u32>,
    now: u32,
    /// Edges that the last search followed from each end.
    steps: usize,
    ahead: Side,
    behind: Side,
}

impl Search {
    /// Keeps what is not cut. Should that leave a cycle, the edges that point backward in the order are cut as well: what is kept is
    /// acyclic by construction.
    pub(super) fn new(nodes: usize, edges: &[Edge], cut: Vec<bool>, patience: &mut Patience<'_>) -> Result<Self, Stopped> {
        let mut kept: Vec<bool> = cut.into_iter().map(|cut| !cut).collect();
        let out = Adjacency::new(nodes, edges, |edge| edge.from);
        let order = sort(nodes, edges, &out, &kept, patience)?;
        let row = Sequence::new(&order);
        drop(order);
        for (edge, kept) in edges.iter().zip(&mut kept) {
            *kept &= row.place(edge.from) < row.place(edge.to);
        }
        Ok(Self {
            out,
            into: Adjacency::new(nodes, edges, |edge| edge.to),
            kept,
            row,
            mark: vec![0; nodes],
            reached: vec![NONE; nodes],
            now: 0,
            steps: 0,
            ahead: Side::default(),
            behind: Side::default(),
        })
    }

    pub(super) fn removed(&self) -> impl Iterator<Item = u32> {
        let removed = self.kept.iter().enumerate().filter(|(_, kept)| !**kept);
        removed.map(|(edge, _)| id(edge))
    }

    /// Puts back every edge that closes no cycle, in the order of their numbers.
    pub(super) fn minimise(&mut self, edges: &[Edge], patience: &mut Patience<'_>) -> Result<(), Stopped> {
        let mut landmarks = Landmarks::default();
        // Nothing that is kept goes again, so that a path, once it is known, is known for good.
        let mut proven = vec![false; edges.len()];
        for (number, edge) in edges.iter().enumerate() {
            if self.kept[number] || proven[number] {
                continue;
            }
            if self.row.place(edge.from) > self.row.place(edge.to) {
                match self.search(edges, *edge, By::Place, patience)? {
                    Outcome::Met(middle) => {
                        landmarks.note(edges[middle as usize].from, self.steps);
                        if landmarks.are_due(self.mark.len(), edges.len()) {
                            let known = landmarks.survey(edges, &self.kept, &self.row, (&self.out, &self.into), patience)?;
                            for (edge, proven) in edges.iter().zip(&mut proven).skip(number) {
                                *proven |= known.closes(*edge);
                            }
                        }
                        continue;
                    }
                    Outcome::Apart(limit) => self.make_room(*edge, limit),
                }
            }
            self.kept[number] = true;
        }
        Ok(())
    }

    /// Searches for a path from `edge.to` to `edge.from`, which stands after it in the row.
    fn search(&mut self, edges: &[Edge], edge: Edge, by: By, patience: &mut Patience<'_>) -> Result<Outcome, Stopped> {
        let (start, end) = (edge.to, edge.from);
        let (low, high) = (self.row.place(start), self.row.place(end));
        if self.now >= NONE / 2 - 1 {
            self.mark.fill(0);
            self.now = 0;
        }
        self.now += 1;
        let (from_start, from_end) = (2 * self.now, 2 * self.now + 1);
        self.ahead.begin();
        self.behind.begin();
        for (node, side, mark) in [(start, &mut self.ahead, from_start), (end, &mut self.behind, from_end)] {
            self.mark[node as usize] = mark;
            self.reached[node as usize] = NONE;
            side.waiting.push(Reverse((0, node)));
        }
        let mut limit = end;
        self.steps = 0;
        while let Some(one) = self.ahead.node(&self.out) {
            let other = self.behind.node(&self.into);
            let (lowest, highest) = (self.row.place(one), other.map_or(low, |other| self.row.place(other)));
            if other.is_none() || (by == By::Place && lowest > highest) {
                if lowest < self.row.place(limit) {
                    limit = one;
                }
                break;
            }
            patience.spend(2)?;
            self.steps += 1;
            for (ahead, side, links, own) in [
                (true, &mut self.ahead, &self.out, from_start),
                (false, &mut self.behind, &self.into, from_end),
            ] {
                let Some(number) = side.edge(links) else { continue };
                if !self.kept[number as usize] {
                    continue;
                }
                let next = edges[number as usize];
                let node = if ahead { next.to } else { next.from };
                let (mark, place) = (self.mark[node as usize], self.row.place(node));
                if mark == from_start + from_end - own {
                    return Ok(Outcome::Met(number));
                }
                if mark == own || place < low || place > high {
                    continue;
                }
                let mut key = self.steps as u64;
                if by == By::Place {
                    // Beyond what the other side is at it has reached all that it can reach, and this is not among it.
                    if ahead && place > highest {
                        if place < self.row.place(limit) {
                            limit = node;
                        }
                        continue;
                    }
                    if !ahead && place < lowest {
                        continue;
                    }
                    key = if ahead { place } else { u64::MAX - place };
                }
                self.mark[node as usize] = own;
                self.reached[node as usize] = number;
                side.waiting.push(Reverse((key, node)));
            }
        }
        Ok(Outcome::Apart(limit))
    }

    /// Moves what leads to the start of an edge before what its end leads to, as far as the search that found no path went.
    fn make_room(&mut self, edge: Edge, limit: u32) {
        let place = self.row.place(limit);
        let (mut before, mut moved) = (limit, Vec::with_capacity(self.ahead.done.len()));
        if limit == edge.from {
            before = self.row.next(edge.from);
        } else {
            let behind = self.behind.done.iter().rev();
            moved.extend(behind.filter(|node| self.row.place(**node) > place));
        }
        let ahead = self.ahead.done.iter();
        moved.extend(ahead.filter(|node| self.row.place(**node) < place));
        self.row.move_before(before, &moved);
    }

    /// The edges of a path from `edge.to` to `edge.from`, if there is one.
    pub(super) fn path(&mut self, edges: &[Edge], edge: Edge, patience: &mut Patience<'_>) -> Result<Vec<u32>, Stopped> {
        if self.row.place(edge.from) < self.row.place(edge.to) {
            return Ok(Vec::new());
        }
        let Outcome::Met(middle) = self.search(edges, edge, By::Turn, patience)? else {
            return Ok(Vec::new());
        };
        let mut path = Vec::new();
        let mut number = middle;
        while number != NONE {
            path.push(number);
            number = self.reached[edges[number as usize].from as usize];
        }
        path.reverse();
        number = self.reached[edges[middle as usize].to as usize];
        while number != NONE {
            path.push(number);
            number = self.reached[edges[number as usize].to as usize];
        }
        Ok(path)
    }
}

/// Nodes in an order in which each stands after all that lead to it along kept edges. Where a cycle is left, the node with the lowest
/// number goes on.
fn sort(nodes: usize, edges: &[Edge], out: &Adjacency, kept: &[bool], patience: &mut Patience<'_>) -> Result<Vec<u32>, Stopped> {
    let mut waiting = vec![0_u32; nodes];
    for (edge, kept) in edges.iter().zip(kept) {
        waiting[edge.to as usize] += u32::from(*kept);
    }
    let mut order: Vec<u32> = Vec::with_capacity(nodes);
    order.extend((0..id(nodes)).filter(|node| waiting[*node as usize] == 0));
    let (mut next, mut lowest) = (0, 0);
    while next < nodes {
        if next == order.len() {
            while waiting[lowest] == 0 {
                lowest += 1;
            }
            waiting[lowest] = 0;
            order.push(id(lowest));
        }
        let links = out.of(order[next]);
        next += 1;
        patience.spend(1 + links.len())?;
        for edge in links {
            let to = edges[*edge as usize].to as usize;
            if kept[*edge as usize] && waiting[to] > 0 {
                waiting[to] -= 1;
                if waiting[to] == 0 {
                    order.push(id(to));
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reaches(edges: &[Edge], kept: &[bool], start: u32, end: u32) -> bool {
        let mut seen = vec![start];
        let mut next = 0;
        while next < seen.len() {
            let node = seen[next];
            next += 1;
            for (edge, _) in edges.iter().zip(kept).filter(|(edge, kept)| **kept && edge.from == node) {
                if !seen.contains(&edge.to) {
                    seen.push(edge.to);
                }
            }
        }
        seen.contains(&end)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// One edge after the other, as if there were no order to be kept.
        #[test]
        fn what_closes_no_cycle_is_put_back(
            nodes in 2_u32..25,
            pairs in prop::collection::vec((0_u32..25, 0_u32..25, prop::bool::ANY), 1..120),
        ) {
            let list = pairs.iter().map(|(from, to, cut)| (Edge { from: from % nodes, to: to % nodes }, *cut));
            let (edges, cut): (Vec<Edge>, Vec<bool>) = list.filter(|(edge, _)| edge.from != edge.to).unzip();
            let patience = &mut Patience::new(&|| false);
            let mut search = Search::new(nodes as usize, &edges, cut, patience).expect("nobody stops it");
            let mut kept = search.kept.clone();
            for (number, edge) in edges.iter().enumerate() {
                kept[number] |= !reaches(&edges, &kept, edge.to, edge.from);
            }
            search.minimise(&edges, patience).expect("nobody stops it");
            prop_assert_eq!(&search.kept, &kept);
            for (number, edge) in edges.iter().enumerate() {
                if kept[number] {
                    prop_assert!(search.row.place(edge.from) < search.row.place(edge.to));
                    continue;
                }
                let path = search.path(&edges, *edge, patience).expect("nobody stops it");
                let ends = path.iter().map(|step| edges[*step as usize]);
                let at = ends.fold(edge.to, |at, step| if step.from == at { step.to } else { u32::MAX });
                prop_assert_eq!(at, edge.from);
                prop_assert!(path.iter().all(|step| kept[*step as usize]));
            }
        }
    }
}
