//! Conditions of random shape, and a model that evaluates them with three truth values.

use std::{cmp::Ordering, collections::BTreeSet};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngSeed, TestRunner},
};

use crate::{
    judge::Case,
    rows::{Act, Builder, Key, Rest, keys, mark, operations, rest},
    support::Database,
};

/// A filter names its columns itself, so that there is none to be emptied.
const ACTS: [Act; 4] = [Act::Delete, Act::Archive, Act::Update, Act::Nullify];

#[derive(Debug, Clone, Copy)]
enum Operator {
    Equal,
    Differs,
    Less,
    AtMost,
}

/// A number of a row.
#[derive(Debug, Clone)]
enum Number {
    A,
    B,
    Constant(i64),
    Sum(Box<Number>, Box<Number>),
    Remainder(Box<Number>),
    Either(Box<Number>, Box<Number>),
}

#[derive(Debug, Clone)]
enum Condition {
    Compare(Number, Operator, Number),
    Between(Number, i64, i64),
    IsNull(Number, bool),
    OneOf(Number, Vec<i64>),
    /// Whether the text column is this one.
    Text(usize),
    /// Whether the row holds what an update writes, or nothing.
    State(usize),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
}

const TEXTS: [&str; 4] = ["", "a", "it's; -- no end", "A"];
const STATES: [&str; 2] = ["open", "done"];

#[derive(Debug, Clone)]
struct Entry {
    a: Option<i64>,
    b: Option<i64>,
    text: Option<usize>,
    rest: Rest,
}

#[derive(Debug, Clone)]
pub(crate) struct Filter {
    condition: usize,
    act: usize,
    key: Key,
    entries: Vec<Entry>,
    batch_rows: u32,
}

fn numbers() -> impl Strategy<Value = Number> {
    let leaf = prop_oneof![
        3 => Just(Number::A),
        3 => Just(Number::B),
        1 => (-3..4_i64).prop_map(Number::Constant),
    ];
    leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Number::Sum(one.into(), other.into())),
            inner.clone().prop_map(|number| Number::Remainder(number.into())),
            (inner.clone(), inner).prop_map(|(one, other)| Number::Either(one.into(), other.into())),
        ]
    })
}

fn conditions() -> impl Strategy<Value = Condition> {
    let operator = proptest::sample::select(&[Operator::Equal, Operator::Differs, Operator::Less, Operator::AtMost][..]);
    let leaf = prop_oneof![
        4 => (numbers(), operator, numbers()).prop_map(|(one, operator, other)| Condition::Compare(one, operator, other)),
        1 => (numbers(), -3..2_i64, 0..4_i64).prop_map(|(number, from, to)| Condition::Between(number, from, to)),
        1 => (numbers(), crate::orphans::any_bool()).prop_map(|(number, not)| Condition::IsNull(number, not)),
        1 => (numbers(), vec(-3..4_i64, 1..4)).prop_map(|(number, list)| Condition::OneOf(number, list)),
        1 => (0..TEXTS.len()).prop_map(Condition::Text),
        1 => (0..STATES.len()).prop_map(Condition::State),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Condition::And(one.into(), other.into())),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Condition::Or(one.into(), other.into())),
            inner.prop_map(|part| Condition::Not(part.into())),
        ]
    })
}

/// The conditions of the catalog: the same ones for one seed.
pub(crate) struct Conditions(Vec<Condition>);

impl Conditions {
    pub(crate) fn new(seed: u64) -> Self {
        let mut runner = TestRunner::new(Config {
            rng_seed: RngSeed::Fixed(seed),
            ..Config::default()
        });
        let mut list: Vec<Condition> = Vec::new();
        while list.len() < 40 {
            let condition = conditions().new_tree(&mut runner).expect("a condition").current();
            let text = condition.sql();
            // One that reads no column is refused.
            let reads = ["a", "b", "s", "state"]
                .iter()
                .any(|column| words(&text).any(|word| word == *column));
            if reads {
                list.push(condition);
            }
        }
        Self(list)
    }

    pub(crate) fn catalog(&self) -> String {
        let mut text = String::new();
        for (number, condition) in self.0.iter().enumerate() {
            let rule = format!("kind = \"filter\"\ncondition = {:?}", condition.sql());
            operations(&mut text, &format!("filter_{number}"), "draft", &rule, &ACTS, &[]);
        }
        text
    }

    pub(crate) fn filters(&self) -> impl Strategy<Value = Filter> + use<> {
        let number = || option::weighted(0.8, -3..5_i64);
        let entry = (number(), number(), option::weighted(0.8, 0..TEXTS.len()), rest());
        let entry = entry.prop_map(|(a, b, text, rest)| Entry { a, b, text, rest });
        (0..self.0.len(), 0..ACTS.len(), keys(), vec(entry, 0..30), 1..8_u32).prop_map(
            |(condition, act, key, entries, batch_rows)| Filter {
                condition,
                act,
                key,
                entries,
                batch_rows,
            },
        )
    }

    pub(crate) fn expected(&self, filter: &Filter) -> BTreeSet<String> {
        let goes = |entry: &Entry| self.0[filter.condition].holds(entry) == Some(true) && entry.rest.concerns(ACTS[filter.act]);
        let gone = filter.entries.iter().enumerate().filter(|(_, entry)| goes(entry));
        gone.map(|(place, _)| mark(place)).collect()
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric())
}

pub(crate) const TABLES: &str = "CREATE TABLE draft (id integer PRIMARY KEY, mark text, every text, state text, size bigint, spare text, a bigint, \
     b bigint, s text)";

impl Filter {
    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            operation: format!("filter_{}_{}", self.condition, ACTS[self.act].name()),
            act: ACTS[self.act],
            table: "draft",
            others: &[],
            deciding: &[],
            batch_rows: self.batch_rows,
            spreads: false,
        }
    }

    pub(crate) fn setup(&self, database: Database) -> String {
        let columns = [("a", "bigint"), ("b", "bigint"), ("s", "text")];
        let columns = columns.map(|(name, declared)| (name.to_owned(), declared.to_owned()));
        let mut table = Builder::new("draft", self.key, columns.to_vec(), database);
        for (place, entry) in self.entries.iter().enumerate() {
            let number = |number: Option<i64>| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string());
            let text = entry.text.map_or_else(|| "NULL".to_owned(), |text| literal(TEXTS[text]));
            table.row(place, &[number(entry.a), number(entry.b), text], entry.rest);
        }
        table.sql()
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Number {
    fn sql(&self) -> String {
        match self {
            Self::A => "a".to_owned(),
            Self::B => "B".to_owned(),
            Self::Constant(number) => format!("({number})"),
            Self::Sum(one, other) => format!("({} + {})", one.sql(), other.sql()),
            Self::Remainder(number) => format!("({} % 3)", number.sql()),
            Self::Either(one, other) => format!("coalesce({}, {})", one.sql(), other.sql()),
        }
    }

    fn value(&self, entry: &Entry) -> Option<i64> {
        match self {
            Self::A => entry.a,
            Self::B => entry.b,
            Self::Constant(number) => Some(*number),
            Self::Sum(one, other) => Some(one.value(entry)? + other.value(entry)?),
            Self::Remainder(number) => Some(number.value(entry)? % 3),
            Self::Either(one, other) => one.value(entry).or_else(|| other.value(entry)),
        }
    }
}

impl Condition {
    fn sql(&self) -> String {
        match self {
            Self::Compare(one, operator, other) => {
                let operator = match operator {
                    Operator::Equal => "=",
                    Operator::Differs => "<>",
                    Operator::Less => "<",
                    Operator::AtMost => "<=",
                };
                format!("{} {operator} {}", one.sql(), other.sql())
            }
            Self::Between(number, from, to) => format!("{} BETWEEN {from} AND {to}", number.sql()),
            Self::IsNull(number, not) => format!("{} IS {}NULL", number.sql(), if *not { "NOT " } else { "" }),
            Self::OneOf(number, list) => {
                let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                format!("{} IN ({})", number.sql(), list.join(", "))
            }
            Self::Text(text) => format!("s = {}", literal(TEXTS[*text])),
            Self::State(state) => format!("state = {}", literal(STATES[*state])),
            Self::And(one, other) => format!("{} AND {}", one.grouped(), other.grouped()),
            // Without parentheses of its own: whoever puts it into a statement has to.
            Self::Or(one, other) => format!("{} OR {}", one.grouped(), other.grouped()),
            Self::Not(part) => format!("NOT ({})", part.sql()),
        }
    }

    fn grouped(&self) -> String {
        format!("({})", self.sql())
    }

    /// `None` is neither true nor false.
    fn holds(&self, entry: &Entry) -> Option<bool> {
        match self {
            Self::Compare(one, operator, other) => {
                let order = one.value(entry)?.cmp(&other.value(entry)?);
                Some(match operator {
                    Operator::Equal => order == Ordering::Equal,
                    Operator::Differs => order != Ordering::Equal,
                    Operator::Less => order == Ordering::Less,
                    Operator::AtMost => order != Ordering::Greater,
                })
            }
            Self::Between(number, from, to) => Some((*from..=*to).contains(&number.value(entry)?)),
            Self::IsNull(number, not) => Some(number.value(entry).is_none() != *not),
            Self::OneOf(number, list) => Some(list.contains(&number.value(entry)?)),
            Self::Text(text) => Some(TEXTS[entry.text?] == TEXTS[*text]),
            Self::State(state) => Some(entry.rest.state()? == STATES[*state]),
            Self::And(one, other) => match (one.holds(entry), other.holds(entry)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (one, other) => Some(one? && other?),
            },
            Self::Or(one, other) => match (one.holds(entry), other.holds(entry)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (one, other) => Some(one? || other?),
            },
            Self::Not(part) => part.holds(entry).map(|holds| !holds),
        }
    }
}
