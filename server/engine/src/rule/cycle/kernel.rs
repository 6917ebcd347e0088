//! What is left of a component when everything that has an obvious answer is gone. Every reduction here keeps the optimum:
//!
//! - a node that nothing enters or nothing leaves is on no cycle;
//! - where one link alone leaves a node and weighs at least as much as all that enter it, it is never worth cutting: the node
//!   merges into its successor (and the mirror image of that); a node with one link in and one out is the common case;
//! - where one link alone enters a node, no heavier link out of it needs to be cut, for cutting the one breaks the same
//!   cycles (and the mirror image): such a link gets a weight that no solution pays;
//! - links between the same two nodes are one link with the weights added up;
//! - a link from a node to itself must be cut.
//!
//! What is left is solved exactly where it is small, by dynamic programming over the sets of nodes that come first in an
//! order; otherwise [`super::order`] finds a good order.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    graph::{Edge, id},
    order::{self, Arc},
    patience::{Patience, Stopped},
};

/// Most nodes that are ordered exactly: the table has 2^18 entries of 9 bytes.
pub const EXACT_NODES: usize = 18;
/// A weight that no solution pays; larger than the edges that a graph can have.
const NEVER: u64 = 1 << 40;

/// Steps of exact search that are left for the whole graph, so that a million small components do not take for ever.
pub(super) struct Effort(pub(super) u64);

#[derive(Clone, Copy)]
struct Link {
    weight: u64,
    /// Whether some other cut is at least as good wherever this one would do.
    never: bool,
    /// What to cut: a place in [`Kernel::cuts`].
    cut: u32,
    /// Highest number among the edges of that cut.
    last: u32,
}

impl Link {
    fn price(self) -> u64 {
        if self.never { NEVER } else { self.weight }
    }
}

/// Links of a node with the nodes at their other ends.
type Ends = Vec<(u32, Link)>;

enum Cut {
    Edge(u32),
    Both(u32, u32),
}

pub(super) struct Kernel {
    out: Vec<BTreeMap<u32, Link>>,
    into: Vec<BTreeSet<u32>>,
    cuts: Vec<Cut>,
    taken: Vec<u32>,
    work: BTreeSet<u32>,
}

impl Kernel {
    /// A component: its edges with their numbers, nodes numbered from 0.
    pub(super) fn new(nodes: usize, edges: impl IntoIterator<Item = (u32, Edge)>) -> Self {
        let mut kernel = Self {
            out: vec![BTreeMap::new(); nodes],
            into: vec![BTreeSet::new(); nodes],
            cuts: Vec::new(),
            taken: Vec::new(),
            work: (0..id(nodes)).collect(),
        };
        for (number, edge) in edges {
            let link = Link {
                weight: 1,
                never: false,
                cut: id(kernel.cuts.len()),
                last: number,
            };
            kernel.cuts.push(Cut::Edge(number));
            kernel.add(edge.from, edge.to, link);
        }
        kernel
    }

    fn add(&mut self, from: u32, to: u32, link: Link) {
        if from == to {
            self.taken.push(link.cut);
            return;
        }
        let joined = match self.out[from as usize].get(&to) {
            None => link,
            Some(&other) => {
                self.cuts.push(Cut::Both(other.cut, link.cut));
                Link {
                    weight: other.weight + link.weight,
                    never: other.never || link.never,
                    cut: id(self.cuts.len() - 1),
                    last: other.last.max(link.last),
                }
            }
        };
        self.out[from as usize].insert(to, joined);
        self.into[to as usize].insert(from);
        self.work.extend([from, to]);
    }

    fn remove(&mut self, from: u32, to: u32) -> Option<Link> {
        self.into[to as usize].remove(&from);
        self.work.extend([from, to]);
        self.out[from as usize].remove(&to)
    }

    /// Takes a node out, with everything that hangs on it: (predecessor, link in), (successor, link out).
    fn take_node(&mut self, node: u32) -> (Ends, Ends) {
        let before: Vec<u32> = self.into[node as usize].iter().copied().collect();
        let after: Vec<u32> = self.out[node as usize].keys().copied().collect();
        let entering = before
            .into_iter()
            .filter_map(|from| self.remove(from, node).map(|link| (from, link)));
        let entering = entering.collect();
        let leaving = after
            .into_iter()
            .filter_map(|to| self.remove(node, to).map(|link| (to, link)));
        (entering, leaving.collect())
    }

    fn weight_in(&self, node: u32) -> u64 {
        let links = self.into[node as usize]
            .iter()
            .filter_map(|from| self.out[*from as usize].get(&node));
        links.map(|link| link.price()).sum()
    }

    fn weight_out(&self, node: u32) -> u64 {
        self.out[node as usize].values().map(|link| link.price()).sum()
    }

    /// Reduces until nothing more can be.
    fn reduce(&mut self, patience: &mut Patience<'_>) -> Result<(), Stopped> {
        while let Some(node) = self.work.pop_first() {
            let (entering, leaving) = (self.into[node as usize].len(), self.out[node as usize].len());
            patience.spend(1 + entering + leaving)?;
            match (entering, leaving) {
                (0, 0) => {}
                (0, _) | (_, 0) => {
                    self.take_node(node);
                }
                (1, 1) => {
                    let (before, after) = self.take_node(node);
                    if let (Some(&(from, first)), Some(&(to, second))) = (before.first(), after.first()) {
                        // The cheaper of the two, and of equal ones that which comes last.
                        let later = (second.price(), u32::MAX - second.last) < (first.price(), u32::MAX - first.last);
                        self.add(from, to, if later { second } else { first });
                    }
                }
                (_, 1) if self.weight_out(node) >= self.weight_in(node) => {
                    let (before, after) = self.take_node(node);
                    for (from, link) in before {
                        self.add(from, after[0].0, link);
                    }
                }
                (1, _) if self.weight_in(node) >= self.weight_out(node) => {
                    let (before, after) = self.take_node(node);
                    for (to, link) in after {
                        self.add(before[0].0, to, link);
                    }
                }
                (1, _) => self.dominate_out(node),
                (_, 1) => self.dominate_in(node),
                _ => {}
            }
        }
        Ok(())
    }

    fn dominate_out(&mut self, node: u32) {
        let weight = self.weight_in(node);
        for (to, link) in &mut self.out[node as usize] {
            if !link.never && link.weight >= weight {
                link.never = true;
                self.work.insert(*to);
            }
        }
    }

    fn dominate_in(&mut self, node: u32) {
        let weight = self.weight_out(node);
        for from in self.into[node as usize].clone() {
            if let Some(link) = self.out[from as usize].get_mut(&node)
                && !link.never
                && link.weight >= weight
            {
                link.never = true;
                self.work.insert(from);
            }
        }
    }

    /// Numbers of edges whose removal leaves no cycle.
    pub(super) fn solve(mut self, effort: &mut Effort, patience: &mut Patience<'_>) -> Result<Vec<u32>, Stopped> {
        self.reduce(patience)?;
        let alive: Vec<u32> = (0..id(self.out.len()))
            .filter(|node| !self.out[*node as usize].is_empty())
            .collect();
        if !alive.is_empty() {
            let mut place = BTreeMap::new();
            for (number, node) in alive.iter().enumerate() {
                place.insert(*node, id(number));
            }
            let cost = (alive.len() as u64) << alive.len().min(63);
            let exactly = alive.len() <= EXACT_NODES && cost <= effort.0;
            let mut arcs = Vec::new();
            for node in &alive {
                for (to, link) in &self.out[*node as usize] {
                    // A component stays one while it is reduced, so that both ends of a link are alive.
                    if let (Some(&from), Some(&to)) = (place.get(node), place.get(to)) {
                        // A search for a good order is only misled by prices that nobody pays.
                        let weight = if exactly { link.price() } else { link.weight };
                        arcs.push(Arc { from, to, weight });
                    }
                }
            }
            let position = if exactly {
                effort.0 -= cost;
                exact(alive.len(), &arcs, patience)?
            } else {
                order::good(alive.len(), &arcs, patience)?
            };
            for node in &alive {
                for (to, link) in &self.out[*node as usize] {
                    if position[place[node] as usize] > position[place[to] as usize] {
                        self.taken.push(link.cut);
                    }
                }
            }
        }
        let mut edges = Vec::new();
        let mut open = std::mem::take(&mut self.taken);
        while let Some(cut) = open.pop() {
            match self.cuts[cut as usize] {
                Cut::Edge(number) => edges.push(number),
                Cut::Both(first, second) => open.extend([first, second]),
            }
        }
        Ok(edges)
    }
}

/// Positions in an order whose backward arcs weigh least. `best[set]` is the least weight with exactly these nodes first:
/// the last of them pays for its arcs to the others.
fn exact(nodes: usize, arcs: &[Arc], patience: &mut Patience<'_>) -> Result<Vec<u32>, Stopped> {
    let mut out: Vec<Vec<(usize, u64)>> = vec![Vec::new(); nodes];
    for arc in arcs {
        out[arc.from as usize].push((arc.to as usize, arc.weight));
    }
    let mut best = vec![0_u64; 1 << nodes];
    let mut last = vec![0_u8; 1 << nodes];
    for set in 1_usize..1 << nodes {
        patience.spend(nodes)?;
        best[set] = u64::MAX;
        for node in (0..nodes).filter(|node| set >> node & 1 == 1) {
            let before = set & !(1 << node);
            let pays = out[node].iter().filter(|(to, _)| before >> to & 1 == 1);
            let weight = best[before] + pays.map(|(_, weight)| weight).sum::<u64>();
            if weight < best[set] {
                best[set] = weight;
                last[set] = u8::try_from(node).unwrap_or(u8::MAX);
            }
        }
    }
    let mut position = vec![0; nodes];
    let mut set = (1 << nodes) - 1;
    for place in (0..nodes).rev() {
        let node = usize::from(last[set]);
        position[node] = id(place);
        set &= !(1 << node);
    }
    Ok(position)
}
