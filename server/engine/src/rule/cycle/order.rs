//! A good order of nodes: one whose backward arcs weigh little. The greedy order of Eades, Lin and Smyth (sinks last, sources
//! first, otherwise the node that gives most more than it takes), made better by moving single nodes while that helps.

use std::collections::BTreeSet;

use super::{
    graph::id,
    patience::{Patience, Stopped},
};

/// Above this number of nodes single nodes are not moved: a move costs up to the length of the order.
const SIFT_NODES: usize = 4_096;
/// Rounds of moves over all nodes.
const SIFT_ROUNDS: u32 = 8;

/// A weighted arc.
#[derive(Clone, Copy)]
pub(super) struct Arc {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) weight: u64,
}

/// Neighbours of each node with weights, in flat arrays.
struct Neighbours {
    starts: Vec<u32>,
    links: Vec<(u32, u32)>,
}

impl Neighbours {
    fn new(nodes: usize, arcs: &[Arc], ends: impl Fn(&Arc) -> (u32, u32)) -> Self {
        let mut starts = vec![0_u32; nodes + 1];
        for arc in arcs {
            starts[ends(arc).0 as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let mut links = vec![(0, 0); arcs.len()];
        for (number, arc) in arcs.iter().enumerate() {
            let (node, other) = ends(arc);
            let place = &mut next[node as usize];
            links[*place as usize] = (other, id(number));
            *place += 1;
        }
        Self { starts, links }
    }

    /// (neighbour, arc) of a node.
    fn of(&self, node: u32) -> &[(u32, u32)] {
        let node = node as usize;
        &self.links[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// The position of each node in a good order.
pub(super) fn good(nodes: usize, arcs: &[Arc], patience: &mut Patience<'_>) -> Result<Vec<u32>, Stopped> {
    let out = Neighbours::new(nodes, arcs, |arc| (arc.from, arc.to));
    let into = Neighbours::new(nodes, arcs, |arc| (arc.to, arc.from));
    let mut order = greedy(nodes, arcs, (&out, &into), patience)?;
    if nodes <= SIFT_NODES {
        sift(&mut order, arcs, (&out, &into), patience)?;
    }
    let mut position = vec![0; nodes];
    for (place, node) in order.iter().enumerate() {
        position[*node as usize] = id(place);
    }
    Ok(position)
}

fn greedy(
    nodes: usize,
    arcs: &[Arc],
    (out, into): (&Neighbours, &Neighbours),
    patience: &mut Patience<'_>,
) -> Result<Vec<u32>, Stopped> {
    let mut gives = vec![0_i64; nodes];
    let mut takes = vec![0_i64; nodes];
    for arc in arcs {
        let weight = i64::try_from(arc.weight).unwrap_or(i64::MAX);
        gives[arc.from as usize] += weight;
        takes[arc.to as usize] += weight;
    }
    // Sinks and sources before all others; among the others the largest surplus, and of equals the lowest number.
    let rank = |gives: i64, takes: i64| match (gives, takes) {
        (0, _) => i64::MIN,
        (_, 0) => i64::MIN + 1,
        _ => takes - gives,
    };
    let mut queue: BTreeSet<(i64, u32)> = (0..id(nodes))
        .map(|node| (rank(gives[node as usize], takes[node as usize]), node))
        .collect();
    let (mut head, mut tail) = (Vec::with_capacity(nodes), Vec::new());
    let mut gone = vec![false; nodes];
    while let Some((_, node)) = queue.pop_first() {
        patience.spend(1 + out.of(node).len() + into.of(node).len())?;
        gone[node as usize] = true;
        if gives[node as usize] == 0 && takes[node as usize] != 0 {
            tail.push(node);
        } else {
            head.push(node);
        }
        for (links, leaving) in [(out.of(node), true), (into.of(node), false)] {
            for &(other, arc) in links {
                let at = other as usize;
                if gone[at] {
                    continue;
                }
                queue.remove(&(rank(gives[at], takes[at]), other));
                let side = if leaving { &mut takes } else { &mut gives };
                side[at] -= i64::try_from(arcs[arc as usize].weight).unwrap_or(i64::MAX);
                queue.insert((rank(gives[at], takes[at]), other));
            }
        }
    }
    tail.reverse();
    head.extend(tail);
    Ok(head)
}

/// Moves each node to where its backward arcs weigh least, round after round, while a round helps.
fn sift(
    order: &mut Vec<u32>,
    arcs: &[Arc],
    (out, into): (&Neighbours, &Neighbours),
    patience: &mut Patience<'_>,
) -> Result<(), Stopped> {
    let mut position = vec![0; order.len()];
    for (place, node) in order.iter().enumerate() {
        position[*node as usize] = place;
    }
    for _ in 0..SIFT_ROUNDS {
        let mut helped = false;
        for node in 0..id(order.len()) {
            let here = position[node as usize];
            patience.spend(1 + out.of(node).len() + into.of(node).len())?;
            // What changes when the node steps over a neighbour: (neighbour's place, cost of having it before this node).
            let mut steps: Vec<(usize, i64)> = Vec::new();
            for (links, sign) in [(out.of(node), 1), (into.of(node), -1)] {
                for &(other, arc) in links {
                    let weight = i64::try_from(arcs[arc as usize].weight).unwrap_or(i64::MAX);
                    steps.push((position[other as usize], sign * weight));
                }
            }
            steps.sort_unstable();
            // Cost relative to standing before all neighbours, just after each of them.
            let (mut cost, mut current, mut best, mut goal) = (0, 0, 0, None);
            for &(place, step) in &steps {
                cost += step;
                if place < here {
                    current = cost;
                }
                if cost < best {
                    (best, goal) = (cost, Some(place));
                }
            }
            if best >= current {
                continue;
            }
            helped = true;
            patience.spend(goal.map_or(here, |place| place.abs_diff(here)))?;
            order.remove(here);
            let goal = goal.map_or(0, |place| if place > here { place } else { place + 1 });
            order.insert(goal, node);
            for place in goal.min(here)..=goal.max(here) {
                position[order[place] as usize] = place;
            }
        }
        if !helped {
            break;
        }
    }
    Ok(())
}
