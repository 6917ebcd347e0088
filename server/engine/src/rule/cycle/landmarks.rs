//! Paths that need no search of their own. In a large knot most of them lead through few places: where some searches met, most others
//! would meet as well. For 64 such nodes at a time one pass over the graph tells what leads to each and what each leads to, and that
//! answers for every edge whose path leads through one. Called by [`super::search`].

use super::{
    graph::{Adjacency, Edge},
    patience::{Patience, Stopped},
    sequence::Sequence,
};

/// One for each bit of a word.
const COUNT: usize = 64;

/// Where searches met since the last pass, and what they cost.
#[derive(Default)]
pub(super) struct Landmarks {
    nodes: Vec<u32>,
    /// Every so many of the meetings are noted, and so many were not since.
    every: usize,
    missed: usize,
    steps: usize,
}

impl Landmarks {
    /// A search met at this node after so many steps.
    pub(super) fn note(&mut self, node: u32, steps: usize) {
        self.steps += steps;
        self.missed += 1;
        if self.missed < self.every {
            return;
        }
        self.missed = 0;
        self.nodes.push(node);
        if self.nodes.len() == 2 * COUNT {
            let mut odd = false;
            self.nodes.retain(|_| {
                odd = !odd;
                odd
            });
            self.every = 2 * self.every.max(1);
        }
    }

    /// Whether the searches have cost about what a pass over such a graph costs: it may then be in vain without costing more than that.
    pub(super) fn are_due(&self, nodes: usize, edges: usize) -> bool {
        self.nodes.len() >= COUNT && self.steps >= (nodes + edges) / 4
    }

    /// Passes over the kept edges, and begins anew.
    pub(super) fn survey(
        &mut self,
        edges: &[Edge],
        kept: &[bool],
        row: &Sequence,
        (out, into): (&Adjacency, &Adjacency),
        patience: &mut Patience<'_>,
    ) -> Result<Known, Stopped> {
        let base = row.base();
        let mut known = Known {
            leads_to: vec![0; base as usize],
            comes_from: vec![0; base as usize],
        };
        for (bit, node) in self.nodes.iter().take(COUNT).enumerate() {
            known.leads_to[*node as usize] |= 1 << bit;
            known.comes_from[*node as usize] |= 1 << bit;
        }
        *self = Self::default();
        let mut node = row.next(base);
        while node != base {
            let from = known.comes_from[node as usize];
            patience.spend(1)?;
            if from != 0 {
                let links = out.of(node).iter().filter(|edge| kept[**edge as usize]);
                for edge in links {
                    known.comes_from[edges[*edge as usize].to as usize] |= from;
                }
                patience.spend(out.of(node).len())?;
            }
            node = row.next(node);
        }
        node = row.previous(base);
        while node != base {
            let to = known.leads_to[node as usize];
            patience.spend(1)?;
            if to != 0 {
                let links = into.of(node).iter().filter(|edge| kept[**edge as usize]);
                for edge in links {
                    known.leads_to[edges[*edge as usize].from as usize] |= to;
                }
                patience.spend(into.of(node).len())?;
            }
            node = row.previous(node);
        }
        Ok(known)
    }
}

/// By node, which landmarks it leads to and which lead to it.
pub(super) struct Known {
    leads_to: Vec<u64>,
    comes_from: Vec<u64>,
}

impl Known {
    /// Whether a path from the end of the edge back to its start leads through a landmark.
    pub(super) fn closes(&self, edge: Edge) -> bool {
        self.leads_to[edge.to as usize] & self.comes_from[edge.from as usize] != 0
    }
}
