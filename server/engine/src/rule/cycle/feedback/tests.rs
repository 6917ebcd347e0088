//! Cuts against brute force where graphs are small, against their own definition (acyclic, minimal, witnessed) where not.

use proptest::prelude::*;

use super::*;

fn edges(pairs: impl IntoIterator<Item = (u32, u32)>) -> Vec<Edge> {
    pairs.into_iter().map(|(from, to)| Edge { from, to }).collect()
}

fn nodes_of(edges: &[Edge]) -> usize {
    edges
        .iter()
        .map(|edge| edge.from.max(edge.to) as usize + 1)
        .max()
        .unwrap_or(0)
}

/// Kahn's algorithm, written again so that nothing of the accused is used.
fn is_acyclic(edges: &[Edge], removed: &[u32]) -> bool {
    let mut gone = vec![false; edges.len()];
    for edge in removed {
        gone[*edge as usize] = true;
    }
    let nodes = nodes_of(edges);
    let mut out = vec![Vec::new(); nodes];
    let mut waiting = vec![0; nodes];
    for (edge, _) in edges.iter().zip(&gone).filter(|(_, gone)| !**gone) {
        out[edge.from as usize].push(edge.to);
        waiting[edge.to as usize] += 1;
    }
    let mut ready: Vec<usize> = (0..nodes).filter(|node| waiting[*node] == 0).collect();
    let mut seen = 0;
    while let Some(node) = ready.pop() {
        seen += 1;
        for to in &out[node] {
            waiting[*to as usize] -= 1;
            if waiting[*to as usize] == 0 {
                ready.push(*to as usize);
            }
        }
    }
    seen == nodes
}

fn decide(edges: &[Edge]) -> Feedback {
    feedback(edges.to_vec(), &|| false).expect("nobody stops it")
}

/// Every witness is a path of kept edges that closes its edge into a cycle, and nothing is left of any cycle.
fn check(edges: &[Edge]) -> Vec<u32> {
    let mut result = decide(edges);
    let removed = result.removed().to_vec();
    assert!(removed.is_sorted_by(|one, other| one < other), "ascending, each once");
    assert!(is_acyclic(edges, &removed), "a cycle is left");
    for &number in &removed {
        let edge = edges[number as usize];
        let mut at = edge.to;
        for step in result.witness(number, &|| false).expect("nobody stops it") {
            assert!(removed.binary_search(&step).is_err(), "a witness stays");
            assert_eq!(edges[step as usize].from, at, "a witness is a path");
            at = edges[step as usize].to;
        }
        // With this, removal is minimal: the edge alone would close a cycle of kept ones.
        assert_eq!(at, edge.from, "a witness closes the cycle");
    }
    removed
}

fn least(edges: &[Edge]) -> u32 {
    (0_u32..1 << edges.len())
        .filter(|set| {
            let removed: Vec<u32> = (0..id(edges.len())).filter(|edge| set >> edge & 1 == 1).collect();
            is_acyclic(edges, &removed)
        })
        .map(u32::count_ones)
        .min()
        .expect("without edges there is no cycle")
}

#[test]
fn nothing_comes_of_nothing() {
    assert_eq!(check(&[]), Vec::<u32>::new());
    assert_eq!(check(&edges([(0, 1), (1, 2), (0, 2)])), Vec::<u32>::new());
}

#[test]
fn a_cycle_of_any_length_loses_its_last_edge() {
    for length in 2..=50 {
        let ring = edges((0..length).map(|node| (node, (node + 1) % length)));
        assert_eq!(check(&ring), vec![length - 1], "length {length}");
    }
    assert_eq!(check(&edges([(3, 3)])), vec![0]);
}

#[test]
fn the_edge_that_many_cycles_share_goes() {
    // Rings of lengths 2 to 50 through the edge 0 -> 1, each over nodes of its own.
    let mut list = vec![(0, 1)];
    let mut node = 2;
    for length in 2..=50 {
        let mut at = 1;
        for _ in 0..length - 2 {
            list.push((at, node));
            at = node;
            node += 1;
        }
        list.push((at, 0));
    }
    assert_eq!(check(&edges(list)), vec![0]);
}

#[test]
fn rings_beside_each_other_lose_one_edge_each() {
    let mut list = Vec::new();
    let mut first = 0;
    for length in 2..=50 {
        list.extend((0..length).map(|node| (first + node, first + (node + 1) % length)));
        list.push((first, first));
        first += length;
    }
    assert_eq!(check(&edges(list)).len(), 2 * 49);
}

#[test]
fn parallel_edges_weigh_together() {
    assert_eq!(check(&edges([(0, 1), (0, 1), (1, 2), (2, 0), (2, 0)])), vec![2]);
}

#[test]
fn a_ring_of_a_million_edges() {
    let length = 1_000_000;
    let ring = edges((0..length).map(|node| (node, (node + 1) % length)));
    let mut result = decide(&ring);
    assert_eq!(result.removed().len(), 1);
    let removed = result.removed()[0];
    let witness = result.witness(removed, &|| false).expect("nobody stops it");
    assert_eq!(witness.len(), 999_999);
}

/// A generator of its own, so that a seed names a graph for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        u32::try_from(mixed % u64::from(limit)).expect("below a u32")
    }
}

#[test]
fn a_million_random_edges() {
    let mut random = Random(7);
    let nodes = 900_000;
    let list = edges((0..1_000_000).map(|_| (random.below(nodes), random.below(nodes))));
    let removed = check(&list);
    println!("seed 7: {} of {} edges removed", removed.len(), list.len());
}

#[test]
fn small_tangles_beside_each_other() {
    let mut random = Random(11);
    let list = edges((0..200_000).map(|_| {
        let tangle = random.below(5_000) * 20;
        (tangle + random.below(20), tangle + random.below(20))
    }));
    let removed = check(&list);
    println!("seed 11: {} of {} edges removed", removed.len(), list.len());
}

/// One knot in which everything hangs together, as it is found in no table, but can be.
fn knot(seed: u64, edges_of_it: u32, nodes: u32) -> Vec<Edge> {
    let mut random = Random(seed);
    edges((0..edges_of_it).map(|_| (random.below(nodes), random.below(nodes))))
}

#[test]
fn one_large_knot() {
    let list = knot(13, 120_000, 50_000);
    let removed = check(&list);
    println!("seed 13: {} of {} edges removed", removed.len(), list.len());
}

#[test]
fn a_node_that_all_others_point_at_and_are_pointed_at_from() {
    let list = edges((1..=100_000).flat_map(|node| [(0, node), (node, 0)]));
    assert_eq!(check(&list).len(), 100_000);
}

#[test]
fn a_search_ends_when_nobody_waits() {
    let small = edges((0..20_000).flat_map(|node| [(node, node + 1), (node + 1, node)]));
    // Larger than what is reduced, and smaller.
    for list in [knot(15, 120_000, 50_000), knot(16, 30_000, 20_000), small] {
        let asked = std::cell::Cell::new(0);
        let end_at = |last: u32| {
            asked.set(0);
            let ask = || {
                asked.set(asked.get() + 1);
                asked.get() == last
            };
            feedback(list.clone(), &ask).is_err()
        };
        assert!(!end_at(u32::MAX));
        let all = asked.get();
        assert!(all >= 10, "it asked {all} times only");
        for part in 1..=4 {
            assert!(end_at(all * part / 4));
            assert_eq!(asked.get(), all * part / 4, "it ends at once");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn small_graphs_are_cut_as_little_as_possible(pairs in prop::collection::vec((0_u32..6, 0_u32..6), 0..13)) {
        let list = edges(pairs);
        prop_assert_eq!(id(check(&list).len()), least(&list));
    }

    #[test]
    fn sparse_graphs_are_cut_as_little_as_possible(pairs in prop::collection::vec((0_u32..9, 0_u32..9), 8..14)) {
        let list = edges(pairs);
        prop_assert_eq!(id(check(&list).len()), least(&list));
    }

    #[test]
    fn the_names_of_nodes_do_not_matter(
        pairs in prop::collection::vec((0_u32..40, 0_u32..40), 0..160),
        names in Just((0_u32..40).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let list = edges(pairs);
        let renamed: Vec<Edge> = list
            .iter()
            .map(|edge| Edge { from: names[edge.from as usize], to: names[edge.to as usize] })
            .collect();
        prop_assert_eq!(check(&list), check(&renamed));
    }

    #[test]
    fn larger_graphs_are_cut_minimally(nodes in 2_u32..120, pairs in prop::collection::vec((0_u32..120, 0_u32..120), 0..600)) {
        check(&edges(pairs.into_iter().map(|(from, to)| (from % nodes, to % nodes))));
    }
}
