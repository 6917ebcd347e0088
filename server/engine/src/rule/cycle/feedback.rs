//! Which edges to remove so that no cycle is left, and for each a proof that it had to go.
//!
//! ```text
//!  components   edges inside a strongly connected component; all others are on no cycle
//!  self loops   go first and always
//!  kernel       per component, reductions that keep the optimum; exact where little is left, else a good order
//!  minimal      every removed edge is put back where that closes no cycle; what stays out has a path of kept edges from its
//!               end back to its start: its witness
//! ```
//!
//! The result is minimal always: no removed edge could have stayed. It is the least possible number where every component
//! reduces to at most [`EXACT_NODES`] nodes (and the effort below lasts); beyond that it is a good one. It depends
//! on the order of the edges and on nothing else: nodes are renumbered, nothing is hashed, nothing is random.
//!
//! Memory: at most [`BYTES_PER_EDGE`] for each edge. Time grows with the edges, but for the searches for witnesses, which go from both
//! ends inside the stretch of the order between them; only a large component in which everything hangs together makes them long.

use super::{
    graph::{self, Adjacency, Edge, id},
    kernel::{Effort, Kernel},
    order::{self, Arc},
};

pub use super::kernel::EXACT_NODES;

/// Components with more edges are ordered without being reduced, because the reductions hold about 200 bytes for an edge.
pub const REDUCED_EDGES: usize = 100_000;
/// Steps of exact search for a whole graph: a few seconds.
const EXACT_STEPS: u64 = 1 << 28;

/// Most bytes held for each edge.
pub const BYTES_PER_EDGE: usize = 128;
const UNSEEN: u32 = u32::MAX;

/// Edges to remove, and what proves each.
pub struct Feedback {
    /// Numbers of the removed edges, ascending.
    removed: Vec<u32>,
    /// Edges inside components, without self loops, renumbered.
    edges: Vec<Edge>,
    /// Their numbers in the input, ascending.
    numbers: Vec<u32>,
    search: Search,
}

impl Feedback {
    /// Numbers of the edges to remove, ascending.
    #[must_use]
    pub fn removed(&self) -> &[u32] {
        &self.removed
    }

    /// Kept edges that lead from the end of a removed edge back to its start, in the order of the path; none for a self
    /// loop. Asked for one by one, because together they may be longer than the graph.
    pub fn witness(&mut self, removed: u32) -> Vec<u32> {
        let Ok(place) = self.numbers.binary_search(&removed) else {
            return Vec::new();
        };
        let path = self.search.path(&self.edges, self.edges[place]);
        path.unwrap_or_default()
            .into_iter()
            .map(|edge| self.numbers[edge as usize])
            .collect()
    }
}

/// Decides what goes. Where two answers are equally good, the order of the edges decides.
#[must_use]
pub fn feedback(mut edges: Vec<Edge>) -> Feedback {
    let nodes = graph::renumber(&mut edges);
    let component = graph::components(nodes, &edges);
    let mut removed = Vec::new();
    let mut numbers = Vec::new();
    for (number, edge) in edges.iter().enumerate() {
        if edge.from == edge.to {
            removed.push(id(number));
        } else if component[edge.from as usize] == component[edge.to as usize] {
            numbers.push(id(number));
        }
    }
    let mut edges: Vec<Edge> = numbers.iter().map(|number| edges[*number as usize]).collect();
    edges.shrink_to_fit();
    let components: Vec<u32> = edges.iter().map(|edge| component[edge.from as usize]).collect();
    drop(component);
    let nodes = graph::renumber(&mut edges);
    let cut = cut_components(&edges, &components);
    drop(components);
    let mut search = Search::new(nodes, &edges, cut);
    search.minimise(&edges);
    removed.extend(search.removed().map(|edge| numbers[edge as usize]));
    removed.sort_unstable();
    Feedback {
        removed,
        edges,
        numbers,
        search,
    }
}

/// Which edges to cut, by component.
fn cut_components(edges: &[Edge], components: &[u32]) -> Vec<bool> {
    let mut by_component: Vec<u32> = (0..id(edges.len())).collect();
    by_component.sort_by_key(|edge| components[*edge as usize]);
    // Groups come in the order of their first edge, so that the effort goes to the same ones whatever Tarjan called them.
    let mut groups: Vec<&[u32]> = by_component
        .chunk_by(|one, other| components[*one as usize] == components[*other as usize])
        .collect();
    groups.sort_unstable_by_key(|group| group[0]);
    let mut effort = Effort(EXACT_STEPS);
    let mut cut = vec![false; edges.len()];
    for group in groups {
        let mut local: Vec<Edge> = group.iter().map(|edge| edges[*edge as usize]).collect();
        let nodes = graph::renumber(&mut local);
        if group.len() <= REDUCED_EDGES {
            let kernel = Kernel::new(nodes, group.iter().copied().zip(local));
            for edge in kernel.solve(&mut effort) {
                cut[edge as usize] = true;
            }
            continue;
        }
        let arcs: Vec<Arc> = local
            .iter()
            .map(|edge| Arc {
                from: edge.from,
                to: edge.to,
                weight: 1,
            })
            .collect();
        let position = order::good(nodes, &arcs);
        for (edge, ends) in group.iter().zip(&local) {
            cut[*edge as usize] = position[ends.from as usize] > position[ends.to as usize];
        }
    }
    cut
}

/// The kept edges with an order of the nodes in which each of them points forward, and searches in it.
struct Search {
    out: Adjacency,
    into: Adjacency,
    kept: Vec<bool>,
    position: Vec<u32>,
    forward: Side,
    backward: Side,
}

/// One end of a search.
struct Side {
    /// Edge by which a node was reached in the search of that stamp.
    reached: Vec<u32>,
    stamp: Vec<u32>,
    now: u32,
    queue: Vec<u32>,
    next: usize,
}

impl Side {
    fn new(nodes: usize) -> Self {
        Self {
            reached: vec![UNSEEN; nodes],
            stamp: vec![0; nodes],
            now: 0,
            queue: Vec::new(),
            next: 0,
        }
    }

    fn begin(&mut self, node: u32) {
        if self.now == u32::MAX {
            self.stamp.fill(0);
            self.now = 0;
        }
        self.now += 1;
        self.queue.clear();
        self.next = 0;
        self.reach(node, UNSEEN);
    }

    fn has(&self, node: u32) -> bool {
        self.stamp[node as usize] == self.now
    }

    fn reach(&mut self, node: u32, edge: u32) {
        self.stamp[node as usize] = self.now;
        self.reached[node as usize] = edge;
        self.queue.push(node);
    }
}

impl Search {
    fn new(nodes: usize, edges: &[Edge], cut: Vec<bool>) -> Self {
        let kept: Vec<bool> = cut.into_iter().map(|cut| !cut).collect();
        let mut search = Self {
            out: Adjacency::new(nodes, edges, |edge| edge.from),
            into: Adjacency::new(nodes, edges, |edge| edge.to),
            kept,
            position: vec![UNSEEN; nodes],
            forward: Side::new(nodes),
            backward: Side::new(nodes),
        };
        search.sort(edges);
        search
    }

    /// Gives every node a position after all that lead to it. Should the cut have left a cycle, the node with the lowest
    /// number goes on, and the edges that then point backward are cut as well: what is kept is acyclic by construction.
    fn sort(&mut self, edges: &[Edge]) {
        let nodes = self.position.len();
        let mut waiting = vec![0_u32; nodes];
        for (edge, kept) in edges.iter().zip(&self.kept) {
            waiting[edge.to as usize] += u32::from(*kept);
        }
        let mut ready: Vec<u32> = (0..id(nodes)).filter(|node| waiting[*node as usize] == 0).collect();
        let (mut next, mut lowest, mut placed) = (0, 0, 0);
        while placed < id(nodes) {
            let node = if let Some(node) = ready.get(next) {
                next += 1;
                *node
            } else {
                while self.position[lowest as usize] != UNSEEN {
                    lowest += 1;
                }
                lowest
            };
            if self.position[node as usize] != UNSEEN {
                continue;
            }
            self.position[node as usize] = placed;
            placed += 1;
            for edge in self.out.of(node) {
                let to = edges[*edge as usize].to as usize;
                if self.kept[*edge as usize] && self.position[to] == UNSEEN {
                    waiting[to] -= 1;
                    if waiting[to] == 0 {
                        ready.push(id(to));
                    }
                }
            }
        }
        for (edge, kept) in edges.iter().zip(&mut self.kept) {
            *kept &= self.position[edge.from as usize] < self.position[edge.to as usize];
        }
    }

    fn removed(&self) -> impl Iterator<Item = u32> {
        let removed = self.kept.iter().enumerate().filter(|(_, kept)| !**kept);
        removed.map(|(edge, _)| id(edge))
    }

    /// Puts back every edge that closes no cycle, in the order of their numbers.
    fn minimise(&mut self, edges: &[Edge]) {
        for (number, edge) in edges.iter().enumerate() {
            if self.kept[number] || self.meets(edges, *edge).is_some() {
                continue;
            }
            self.kept[number] = true;
            if self.position[edge.from as usize] > self.position[edge.to as usize] {
                self.reorder(edges, *edge);
            }
        }
    }

    /// Searches for a path from `edge.to` to `edge.from`, from both ends in turn, by whole levels of the smaller side.
    /// Returns where they meet.
    fn meets(&mut self, edges: &[Edge], edge: Edge) -> Option<u32> {
        let (low, high) = (self.position[edge.to as usize], self.position[edge.from as usize]);
        if low >= high {
            return None;
        }
        self.forward.begin(edge.to);
        self.backward.begin(edge.from);
        loop {
            let open = |side: &Side| side.queue.len() - side.next;
            let ahead = open(&self.forward) <= open(&self.backward);
            if open(&self.forward) == 0 || open(&self.backward) == 0 {
                return None;
            }
            if let Some(node) = self.level(edges, ahead, low, high) {
                return Some(node);
            }
        }
    }

    /// Follows the edges of one level; returns the node that the other side has reached already.
    fn level(&mut self, edges: &[Edge], ahead: bool, low: u32, high: u32) -> Option<u32> {
        let (side, other, links) = if ahead {
            (&mut self.forward, &self.backward, &self.out)
        } else {
            (&mut self.backward, &self.forward, &self.into)
        };
        let end = side.queue.len();
        while side.next < end {
            let node = side.queue[side.next];
            side.next += 1;
            for number in links.of(node) {
                let edge = edges[*number as usize];
                let neighbour = if ahead { edge.to } else { edge.from };
                let place = self.position[neighbour as usize];
                if !self.kept[*number as usize] || place < low || place > high || side.has(neighbour) {
                    continue;
                }
                side.reach(neighbour, *number);
                if other.has(neighbour) {
                    return Some(neighbour);
                }
            }
        }
        None
    }

    /// The edges of a path from `edge.to` to `edge.from`, if there is one.
    fn path(&mut self, edges: &[Edge], edge: Edge) -> Option<Vec<u32>> {
        let middle = self.meets(edges, edge)?;
        let mut path = Vec::new();
        let mut node = middle;
        while self.forward.reached[node as usize] != UNSEEN {
            let number = self.forward.reached[node as usize];
            path.push(number);
            node = edges[number as usize].from;
        }
        path.reverse();
        node = middle;
        while self.backward.reached[node as usize] != UNSEEN {
            let number = self.backward.reached[node as usize];
            path.push(number);
            node = edges[number as usize].to;
        }
        Some(path)
    }

    /// Makes room in the order for an edge that points backward and closes no cycle (Pearce and Kelly, "A dynamic topological
    /// sort algorithm for directed acyclic graphs", 2006): whatever leads to its start moves before whatever its end leads
    /// to, within the places that these nodes hold.
    fn reorder(&mut self, edges: &[Edge], edge: Edge) {
        let (low, high) = (self.position[edge.to as usize], self.position[edge.from as usize]);
        self.forward.begin(edge.to);
        while self.forward.next < self.forward.queue.len() {
            self.level(edges, true, low, high);
        }
        self.backward.begin(edge.from);
        while self.backward.next < self.backward.queue.len() {
            self.level(edges, false, low, high);
        }
        let position = &mut self.position;
        for side in [&mut self.forward, &mut self.backward] {
            side.queue.sort_unstable_by_key(|node| position[*node as usize]);
        }
        let moved: Vec<u32> = self.backward.queue.iter().chain(&self.forward.queue).copied().collect();
        let mut places: Vec<u32> = moved.iter().map(|node| position[*node as usize]).collect();
        places.sort_unstable();
        for (node, place) in moved.into_iter().zip(places) {
            position[node as usize] = place;
        }
    }
}

#[cfg(test)]
mod tests;
