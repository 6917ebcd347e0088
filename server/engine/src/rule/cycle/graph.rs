//! Directed graphs in flat arrays, and their strongly connected components: an edge lies on a cycle exactly if both its ends
//! are in one component. Knows nothing of weights or of what is to be removed. Called by [`super::feedback`].

use super::patience::{Patience, Stopped};

/// One edge: a row that names two nodes. Nodes are numbers below 2^32 without a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Node that the edge leaves.
    pub from: u32,
    /// Node that the edge enters.
    pub to: u32,
}

/// An index as the arrays keep it. Callers refuse graphs with more edges than `u32` can number.
pub(super) fn id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Edges by the node at one of their ends: 4 bytes for each edge and each node.
pub(super) struct Adjacency {
    starts: Vec<u32>,
    edges: Vec<u32>,
}

impl Adjacency {
    /// Sorts edges by `end`, and by number within a node.
    pub(super) fn new(nodes: usize, edges: &[Edge], end: impl Fn(Edge) -> u32) -> Self {
        let mut starts = vec![0_u32; nodes + 1];
        for edge in edges {
            starts[end(*edge) as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let mut sorted = vec![0; edges.len()];
        for (number, edge) in edges.iter().enumerate() {
            let place = &mut next[end(*edge) as usize];
            sorted[*place as usize] = id(number);
            *place += 1;
        }
        Self { starts, edges: sorted }
    }

    /// Numbers of the node's edges, ascending.
    pub(super) fn of(&self, node: u32) -> &[u32] {
        let node = node as usize;
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// Gives nodes new numbers in the order in which the edges first name them, so that nothing hangs on the numbers that came
/// in. Returns how many nodes there are.
pub(super) fn renumber(edges: &mut [Edge]) -> usize {
    let largest = edges.iter().map(|edge| edge.from.max(edge.to)).max();
    let Some(largest) = largest else { return 0 };
    // Callers number nodes densely; where they do not, a sorted list of the numbers in use stands in for the table.
    let sparse = largest as usize > edges.len().saturating_mul(2);
    let mut used: Vec<u32> = Vec::new();
    if sparse {
        used = edges.iter().flat_map(|edge| [edge.from, edge.to]).collect();
        used.sort_unstable();
        used.dedup();
    }
    let mut names = vec![u32::MAX; if sparse { used.len() } else { largest as usize + 1 }];
    let mut nodes = 0;
    let mut name = |old: u32| {
        let place = if sparse {
            used.partition_point(|number| *number < old)
        } else {
            old as usize
        };
        if names[place] == u32::MAX {
            names[place] = nodes;
            nodes += 1;
        }
        names[place]
    };
    for edge in edges.iter_mut() {
        edge.from = name(edge.from);
        edge.to = name(edge.to);
    }
    nodes as usize
}

/// The component of each node (Tarjan's algorithm, without recursion: a chain of millions of nodes is no deep call).
pub(super) fn components(nodes: usize, edges: &[Edge], patience: &mut Patience<'_>) -> Result<Vec<u32>, Stopped> {
    const UNSEEN: u32 = u32::MAX;
    let out = Adjacency::new(nodes, edges, |edge| edge.from);
    let mut component = vec![UNSEEN; nodes];
    let mut index = vec![UNSEEN; nodes];
    let mut low = vec![0_u32; nodes];
    // Next edge of each node to be followed, as a position in its list.
    let mut next = vec![0_u32; nodes];
    let (mut path, mut open) = (Vec::new(), Vec::new());
    let (mut seen, mut found) = (0, 0);
    for root in 0..id(nodes) {
        if index[root as usize] != UNSEEN {
            continue;
        }
        path.push(root);
        while let Some(&node) = path.last() {
            patience.spend(1)?;
            let at = node as usize;
            if index[at] == UNSEEN {
                (index[at], low[at]) = (seen, seen);
                seen += 1;
                open.push(node);
            }
            if let Some(edge) = out.of(node).get(next[at] as usize) {
                next[at] += 1;
                let to = edges[*edge as usize].to;
                if index[to as usize] == UNSEEN {
                    path.push(to);
                } else if component[to as usize] == UNSEEN {
                    low[at] = low[at].min(index[to as usize]);
                }
                continue;
            }
            path.pop();
            if let Some(&parent) = path.last() {
                low[parent as usize] = low[parent as usize].min(low[at]);
            }
            if low[at] == index[at] {
                while let Some(member) = open.pop() {
                    component[member as usize] = found;
                    if member == node {
                        break;
                    }
                }
                found += 1;
            }
        }
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(pairs: &[(u32, u32)]) -> Vec<Edge> {
        pairs.iter().map(|&(from, to)| Edge { from, to }).collect()
    }

    fn components(nodes: usize, edges: &[Edge]) -> Vec<u32> {
        super::components(nodes, edges, &mut Patience::new(&|| false)).expect("nobody stops it")
    }

    #[test]
    fn numbers_follow_the_edges() {
        for offset in [0, 4_000_000_000] {
            let mut list = edges(&[(7 + offset, 3 + offset), (3 + offset, 9 + offset), (9 + offset, 7 + offset)]);
            assert_eq!(renumber(&mut list), 3);
            assert_eq!(list, edges(&[(0, 1), (1, 2), (2, 0)]));
        }
        assert_eq!(renumber(&mut []), 0);
    }

    #[test]
    fn components_are_mutual_reachability() {
        let list = edges(&[(0, 1), (1, 0), (1, 2), (2, 3), (3, 4), (4, 2), (5, 5)]);
        let component = components(6, &list);
        assert_eq!(component[0], component[1]);
        assert!(component[2] == component[3] && component[3] == component[4]);
        assert!(component[1] != component[2] && component[5] != component[4]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let chain: Vec<Edge> = (0..1_000_000).map(|from| Edge { from, to: from + 1 }).collect();
        let component = components(1_000_001, &chain);
        let mut distinct = component.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), component.len());
    }
}
