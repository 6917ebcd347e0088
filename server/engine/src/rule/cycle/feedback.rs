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
//! Memory: at most [`BYTES_PER_EDGE`] for each edge. Time grows with the edges, but for the searches of `search`, which are
//! longer the more hangs together; whoever does not want to wait any longer says so, and everything ends at once.

use super::{
    graph::{self, Edge, id},
    kernel::{Effort, Kernel},
    order::{self, Arc},
    patience::Patience,
    search::Search,
};

pub use super::{kernel::EXACT_NODES, patience::Stopped};

/// Components with more edges are ordered without being reduced, because the reductions hold about 200 bytes for an edge.
pub const REDUCED_EDGES: usize = 100_000;
/// Steps of exact search for a whole graph: a few seconds.
const EXACT_STEPS: u64 = 1 << 28;

/// Most bytes held for each edge.
pub const BYTES_PER_EDGE: usize = 128;

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
    ///
    /// # Errors
    /// Where `is_over` says so.
    pub fn witness(&mut self, removed: u32, is_over: &dyn Fn() -> bool) -> Result<Vec<u32>, Stopped> {
        let Ok(place) = self.numbers.binary_search(&removed) else {
            return Ok(Vec::new());
        };
        let path = self
            .search
            .path(&self.edges, self.edges[place], &mut Patience::new(is_over))?;
        Ok(path.into_iter().map(|edge| self.numbers[edge as usize]).collect())
    }
}

/// Decides what goes. Where two answers are equally good, the order of the edges decides. `is_over` is asked now and then whether
/// nobody waits for the result any more.
///
/// # Errors
/// Where `is_over` says so.
pub fn feedback(mut edges: Vec<Edge>, is_over: &dyn Fn() -> bool) -> Result<Feedback, Stopped> {
    let patience = &mut Patience::new(is_over);
    let nodes = graph::renumber(&mut edges);
    let component = graph::components(nodes, &edges, patience)?;
    let mut removed = Vec::new();
    let mut numbers = Vec::new();
    for (number, edge) in edges.iter().enumerate() {
        if edge.from == edge.to {
            removed.push(id(number));
        } else if component[edge.from as usize] == component[edge.to as usize] {
            numbers.push(id(number));
        }
    }
    numbers.shrink_to_fit();
    // In place, because a second list of them would be too much.
    edges.retain(|edge| edge.from != edge.to && component[edge.from as usize] == component[edge.to as usize]);
    edges.shrink_to_fit();
    let components: Vec<u32> = edges.iter().map(|edge| component[edge.from as usize]).collect();
    drop(component);
    let nodes = graph::renumber(&mut edges);
    let cut = cut_components(&edges, &components, patience)?;
    drop(components);
    let mut search = Search::new(nodes, &edges, cut, patience)?;
    search.minimise(&edges, patience)?;
    removed.extend(search.removed().map(|edge| numbers[edge as usize]));
    removed.sort_unstable();
    Ok(Feedback {
        removed,
        edges,
        numbers,
        search,
    })
}

/// Which edges to cut, by component.
fn cut_components(edges: &[Edge], components: &[u32], patience: &mut Patience<'_>) -> Result<Vec<bool>, Stopped> {
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
            for edge in kernel.solve(&mut effort, patience)? {
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
        let position = order::good(nodes, &arcs, patience)?;
        for (edge, ends) in group.iter().zip(&local) {
            cut[*edge as usize] = position[ends.from as usize] > position[ends.to as usize];
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests;
