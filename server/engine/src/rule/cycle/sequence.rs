//! Nodes in a row, of which any can be moved elsewhere without a new number for all others: each has a label of 64 bits, with room
//! between one and the next (Dietz and Sleator, "Two algorithms for maintaining order in a list", 1987). Called by [`super::search`].

use super::graph::id;

/// A row of nodes in a ring that is closed by one more, the base: it stands before the first and after the last.
pub(super) struct Sequence {
    label: Vec<u64>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl Sequence {
    /// All nodes from 0 on, in this order.
    pub(super) fn new(order: &[u32]) -> Self {
        let base = order.len();
        let mut sequence = Self {
            label: vec![0; base + 1],
            next: vec![0; base + 1],
            previous: vec![0; base + 1],
        };
        let gap = u64::MAX / (base as u64 + 1);
        let mut last = base;
        for (node, place) in order.iter().zip(1..) {
            sequence.label[*node as usize] = gap * place;
            sequence.join(last, *node as usize);
            last = *node as usize;
        }
        sequence.join(last, base);
        sequence
    }

    fn join(&mut self, one: usize, other: usize) {
        self.next[one] = id(other);
        self.previous[other] = id(one);
    }

    /// A number that is larger for later nodes; it may be another one after a move.
    pub(super) fn place(&self, node: u32) -> u64 {
        self.label[node as usize].wrapping_sub(self.label[self.label.len() - 1])
    }

    pub(super) fn base(&self) -> u32 {
        id(self.label.len() - 1)
    }

    /// The node after this one, or the base.
    pub(super) fn next(&self, node: u32) -> u32 {
        self.next[node as usize]
    }

    /// The node before this one, or the base.
    pub(super) fn previous(&self, node: u32) -> u32 {
        self.previous[node as usize]
    }

    /// Moves nodes, in the order in which they are given, to just before one that is not among them, or the base.
    pub(super) fn move_before(&mut self, mark: u32, moved: &[u32]) {
        for node in moved {
            let node = *node as usize;
            self.join(self.previous[node] as usize, self.next[node] as usize);
        }
        let first = self.previous[mark as usize] as usize;
        let mut last = first;
        for node in moved {
            self.join(last, *node as usize);
            last = *node as usize;
        }
        self.join(last, mark as usize);
        // As many of those that follow get new labels as it takes to find room; the farther, the more room for each.
        let (mut end, mut steps) = (mark as usize, moved.len() as u64 + 1);
        let room = loop {
            let room = if end == first {
                u64::MAX
            } else {
                self.label[end].wrapping_sub(self.label[first])
            };
            if room / steps > steps {
                break room / steps;
            }
            end = self.next[end] as usize;
            steps += 1;
        };
        let (mut node, mut label) = (self.next[first] as usize, self.label[first]);
        while node != end {
            label = label.wrapping_add(room);
            self.label[node] = label;
            node = self.next[node] as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(sequence: &Sequence) -> Vec<u32> {
        let base = sequence.base();
        let row: Vec<u32> = std::iter::successors(Some(sequence.next(base)), |node| Some(sequence.next(*node)))
            .take_while(|node| *node != base)
            .collect();
        assert!(row.is_sorted_by(|one, other| sequence.place(*one) < sequence.place(*other)));
        row
    }

    #[test]
    fn room_is_found_where_all_go_to_one_place() {
        for mark in [0, 1, 99, 100] {
            let mut sequence = Sequence::new(&(0..100).collect::<Vec<_>>());
            for turn in 0..10_000 {
                let node = turn * 7 % 100;
                if node != mark {
                    sequence.move_before(mark, &[node]);
                    assert_eq!(sequence.next(node), mark);
                }
            }
            assert_eq!(row(&sequence).len(), 100);
        }
    }

    proptest! {
        #[test]
        fn moves_are_those_of_a_list(moves in prop::collection::vec((0_u32..=20, prop::collection::btree_set(0_u32..20, 0..8)), 0..60)) {
            let mut list: Vec<u32> = (0..20).rev().collect();
            let mut sequence = Sequence::new(&list);
            for (mark, mut moved) in moves {
                moved.remove(&mark);
                let moved: Vec<u32> = moved.into_iter().collect();
                list.retain(|node| !moved.contains(node));
                let at = list.iter().position(|node| *node == mark).unwrap_or(list.len());
                list.splice(at..at, moved.iter().copied());
                sequence.move_before(mark, &moved);
                prop_assert_eq!(&row(&sequence), &list);
            }
        }
    }
}
