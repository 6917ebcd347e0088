//! Graphs: random ones of few nodes, and rings of any length that share nodes and edges. The model does not say which edges go; it
//! says when what went was right.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    judge::Case,
    orphans::any_bool,
    rows::{ACTS, Act, Builder, Key, Rest, acts, keys, mark, operations, rest},
    support::Database,
};

/// What an end of an edge looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Number,
    Text,
    /// Two columns.
    Two,
}

#[derive(Debug, Clone)]
struct Edge {
    from: Option<usize>,
    to: Option<usize>,
    live: Option<i64>,
    rest: Rest,
}

#[derive(Debug, Clone)]
pub(crate) struct Graph {
    ends: Ends,
    key: Key,
    /// Whether only edges count whose `live` is 1.
    live: bool,
    act: Act,
    edges: Vec<Edge>,
    batch_rows: u32,
    deciding: Vec<String>,
}

/// Nodes up to which the least number of edges that have to go is computed.
const FEW: usize = 12;

fn edge(nodes: usize) -> impl Strategy<Value = Edge> {
    let node = move || option::weighted(0.95, 0..nodes);
    let live = option::weighted(0.9, prop_oneof![1 => Just(0_i64), 6 => Just(1)]);
    (node(), node(), live, rest()).prop_map(|(from, to, live, rest)| Edge { from, to, live, rest })
}

fn few_nodes() -> impl Strategy<Value = Vec<Edge>> {
    (2..=FEW - 2).prop_flat_map(|nodes| vec(edge(nodes), 0..28))
}

/// Rings of 1 to 50 nodes out of 60. With a stride of its own each shares edges with those of the same stride, and nodes with all.
fn rings() -> impl Strategy<Value = Vec<Edge>> {
    let ring = (
        prop_oneof![1 => Just(1_usize), 8 => 2..=50_usize],
        0..60_usize,
        select(&[1_usize, 1, 7, 11][..]),
    );
    (vec(ring, 1..5), vec(edge(60), 0..12), rest()).prop_map(|(rings, mut edges, rest)| {
        for (length, start, stride) in rings {
            let node = |place: usize| (start + place % length * stride) % 60;
            edges.extend((0..length).map(|place| Edge {
                from: Some(node(place)),
                to: Some(node(place + 1)),
                live: Some(1),
                rest,
            }));
        }
        edges
    })
}

pub(crate) fn graphs() -> impl Strategy<Value = Graph> {
    (
        select(&[Ends::Number, Ends::Text, Ends::Two][..]),
        keys(),
        any_bool(),
        acts(),
        prop_oneof![2 => few_nodes().boxed(), 1 => rings().boxed()],
        1..8_u32,
    )
        .prop_map(|(ends, key, live, act, edges, batch_rows)| Graph {
            ends,
            key,
            live,
            act,
            edges,
            batch_rows,
            deciding: deciding(ends == Ends::Two),
        })
}

/// A ring of each length from 2 to 50, a self loop beside each, all of them joined by edges that close nothing.
pub(crate) fn every_length() -> Graph {
    let mut pairs = Vec::new();
    let mut first = 0;
    for length in 2..=50 {
        pairs.extend((0..length).map(|node| (first + node, first + (node + 1) % length)));
        pairs.push((first, first));
        first += length;
        pairs.push((first - 1, first));
    }
    let rest = crate::rows::plain();
    let edge = |(from, to)| Edge {
        from: Some(from),
        to: Some(to),
        live: Some(1),
        rest,
    };
    Graph {
        ends: Ends::Number,
        key: Key::Number,
        live: false,
        act: Act::Delete,
        edges: pairs.into_iter().map(edge).collect(),
        batch_rows: 40,
        deciding: deciding(false),
    }
}

fn deciding(two: bool) -> Vec<String> {
    let names: &[&str] = if two { &["b", "b2"] } else { &["b"] };
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn catalog() -> String {
    let mut text = String::new();
    for (name, ends, two) in [
        ("one", "from = [\"a\"]\nto = [\"b\"]", false),
        ("two", "from = [\"a\", \"a2\"]\nto = [\"b\", \"b2\"]", true),
    ] {
        for (suffix, live) in [("all", ""), ("live", "where.live = 1")] {
            let rule = format!("kind = \"cycle\"\n{ends}\n{live}");
            operations(&mut text, &format!("{name}_{suffix}"), "edge", &rule, &ACTS, &deciding(two));
        }
    }
    text
}

pub(crate) const TABLES: &str = "CREATE TABLE edge (id integer PRIMARY KEY, mark text, every text, state text, size bigint, spare text, \
     a bigint, b bigint, a2 text, b2 text, live bigint)";

impl Graph {
    pub(crate) fn case(&self) -> Case<'_> {
        let ends = if self.ends == Ends::Two { "two" } else { "one" };
        let live = if self.live { "live" } else { "all" };
        Case {
            operation: format!("{ends}_{live}_{}", self.act.name()),
            act: self.act,
            table: "edge",
            others: &[],
            deciding: &self.deciding,
            batch_rows: self.batch_rows,
            spreads: false,
        }
    }

    /// The edges by their marks.
    fn edges(&self) -> BTreeMap<String, (usize, usize)> {
        let counts = |edge: &Edge| (!self.live || edge.live == Some(1)) && edge.rest.concerns(self.act);
        let edges = self.edges.iter().enumerate().filter(|(_, edge)| counts(edge));
        edges
            .filter_map(|(place, edge)| Some((mark(place), (edge.from?, edge.to?))))
            .collect()
    }

    /// Whether these are edges without which there is no cycle, each of them would close one, and where that can be told there could
    /// not be fewer.
    pub(crate) fn judge(&self, gone: &BTreeSet<String>) {
        let edges = self.edges();
        for mark in gone {
            assert!(edges.contains_key(mark), "{mark} is no edge");
        }
        for (mark, (from, to)) in &edges {
            assert!(from != to || gone.contains(mark), "the self loop {mark} goes");
        }
        let kept: Vec<(usize, usize)> = edges
            .iter()
            .filter(|(mark, _)| !gone.contains(*mark))
            .map(|(_, edge)| *edge)
            .collect();
        assert!(is_acyclic(&kept), "a cycle is left of {edges:?} without {gone:?}");
        for mark in gone {
            let with: Vec<_> = kept.iter().copied().chain([edges[mark]]).collect();
            assert!(!is_acyclic(&with), "{mark} closes no cycle in {edges:?} without {gone:?}");
        }
        let all: Vec<_> = edges.into_values().collect();
        if let Some(least) = least(&all) {
            assert_eq!(gone.len(), least, "the fewest of {all:?}");
        }
    }

    /// Of a ring that shares no node with any other goes the last edge by the key, and every self loop.
    pub(crate) fn last_of_each_ring(&self) -> BTreeSet<String> {
        let (mut place, mut gone) = (0, BTreeSet::new());
        for length in 2..=50 {
            let last = (place..place + length).max_by_key(|place| self.key.rank(*place));
            gone.extend([mark(last.expect("an edge")), mark(place + length)]);
            place += length + 2;
        }
        gone
    }

    /// The order in which the rows are written is another one where `backwards`.
    pub(crate) fn setup(&self, database: Database, backwards: bool) -> String {
        let declared = match self.ends {
            Ends::Number | Ends::Two => "bigint",
            Ends::Text => "text",
        };
        let columns = [
            ("a", declared),
            ("b", declared),
            ("a2", "text"),
            ("b2", "text"),
            ("live", "bigint"),
        ];
        let columns = columns
            .map(|(name, declared)| (name.to_owned(), declared.to_owned()))
            .to_vec();
        let mut table = Builder::new("edge", self.key, columns, database);
        let mut rows: Vec<(usize, &Edge)> = self.edges.iter().enumerate().collect();
        if backwards {
            rows.reverse();
        }
        for (place, edge) in rows {
            let [(a, a2), (b, b2)] = [edge.from, edge.to].map(|node| self.node(node));
            let live = edge.live.map_or_else(|| "NULL".to_owned(), |live| live.to_string());
            table.row(place, &[a, b, a2, b2, live], edge.rest);
        }
        table.sql()
    }

    /// Nodes in the order of their numbers are in no order of their names.
    fn node(&self, node: Option<usize>) -> (String, String) {
        let Some(node) = node else {
            return ("NULL".to_owned(), "'x'".to_owned());
        };
        match self.ends {
            Ends::Number => ((node * 37 % 4_001).to_string(), "NULL".to_owned()),
            Ends::Text => (format!("'{}{}'", ["n", "N", "é"][node % 3], node / 3), "NULL".to_owned()),
            Ends::Two => ((node % 3).to_string(), format!("'n{}'", node / 3)),
        }
    }
}

/// Whether taking away, again and again, what begins where nothing ends leaves nothing.
fn is_acyclic(edges: &[(usize, usize)]) -> bool {
    let mut left = edges.to_vec();
    loop {
        let ends: BTreeSet<usize> = left.iter().map(|edge| edge.1).collect();
        let before = left.len();
        left.retain(|edge| ends.contains(&edge.0));
        if left.is_empty() || left.len() == before {
            return left.is_empty();
        }
    }
}

/// The least number of edges without which there is no cycle: of all orders of the nodes the one with the fewest edges that lead
/// back, found for one set of first nodes after another. `None` where there are too many nodes.
fn least(edges: &[(usize, usize)]) -> Option<usize> {
    let nodes: BTreeSet<usize> = edges.iter().flat_map(|edge| [edge.0, edge.1]).collect();
    let nodes: Vec<usize> = nodes.into_iter().collect();
    if nodes.len() > FEW {
        return None;
    }
    let place = |node: usize| nodes.binary_search(&node).expect("a node");
    let edges: Vec<(usize, usize)> = edges.iter().map(|edge| (place(edge.0), place(edge.1))).collect();
    let mut least = vec![0; 1 << nodes.len()];
    for first in 1..least.len() {
        // The last of these nodes: what leads from it to itself or to one before it leads back.
        let with_last = (0..nodes.len()).filter(|last| first >> last & 1 == 1).map(|last| {
            let back = edges.iter().filter(|edge| edge.0 == last && first >> edge.1 & 1 == 1);
            least[first & !(1 << last)] + back.count()
        });
        least[first] = with_last.min().expect("a node");
    }
    least.last().copied()
}
