//! Relations that are worth a try: by the names of columns and tables, by convention, by composite keys, and, where values are such
//! that nobody has them by chance, without any name. Pure. Called by `relate`.

use std::collections::BTreeSet;

use super::{
    facts::{Key, Table, text},
    names::{self, Match, Stem},
    score::{self, Signs, Telling},
};
use crate::model::{Column, Generated, Row, TypeClass};

/// Parents that are tried without any hint in the names, for all columns together.
const BLIND_TRIES: usize = 20_000;

/// A relation to be tried.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) child: usize,
    pub(super) columns: Vec<String>,
    pub(super) parent: usize,
    pub(super) key: Key,
    pub(super) name: Option<Match>,
    pub(super) signs: Signs,
    pub(super) missing: Vec<String>,
}

/// Whether values of the two columns can be equal: what the rule kind `orphan` asks for.
fn comparable(one: &Column, other: &Column) -> bool {
    let number = |class| matches!(class, TypeClass::Integer | TypeClass::Real);
    (one.class == other.class || number(one.class) && number(other.class))
        && (one.class != TypeClass::Other || one.type_name == other.type_name)
}

impl Candidate {
    fn new(tables: &[Table], child: usize, columns: &[&str], parent: usize, key: &Key, name: Option<Match>) -> Option<Self> {
        let (from, to) = (&tables[child], &tables[parent]);
        let mut same_type = true;
        let mut telling = Telling::Nothing;
        for (column, key) in columns.iter().zip(&key.columns) {
            let (mine, theirs) = (from.schema.column(column)?, to.schema.column(key)?);
            let time = matches!(mine.class, TypeClass::Instant | TypeClass::CivilTime | TypeClass::Date);
            if !comparable(mine, theirs) || time {
                return None;
            }
            same_type &= mine.type_name == theirs.type_name;
            telling = match (telling, from.profile(column)?.telling) {
                (Telling::Strong, _) | (_, Telling::Strong) => Telling::Strong,
                (Telling::Weak, _) | (_, Telling::Weak) => Telling::Weak,
                (Telling::Nothing, Telling::Nothing) => Telling::Nothing,
            };
        }
        let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        Some(Self {
            signs: Signs {
                name: name.map_or(0.0, |name| name.strength),
                telling,
                asked: 0,
                found: 0,
                rows: 0.0,
                primary: key.primary,
                same_type,
                own_key: from.is_primary(&columns),
                sentinel: false,
            },
            child,
            columns,
            parent,
            key: key.clone(),
            name,
            missing: Vec::new(),
        })
    }

    pub(super) fn confidence(&self) -> f64 {
        score::confidence(&self.signs)
    }

    /// Takes in which of the values, each of so many rows, were found.
    pub(super) fn learn(&mut self, asked: &[Row], counts: &[usize], present: &[bool]) {
        self.signs.asked = asked.len();
        self.signs.found = present.iter().filter(|present| **present).count();
        let rows = |only_found: bool| -> usize {
            let counted = counts.iter().zip(present).filter(|(_, present)| **present || !only_found);
            counted.map(|(count, _)| *count).sum()
        };
        self.signs.rows = score::count(rows(true)) / score::count(rows(false).max(1));
        let absent = asked.iter().zip(present).filter(|(_, present)| !**present);
        self.missing = absent
            .map(|(row, _)| row.iter().filter_map(text).collect::<Vec<_>>().join(", "))
            .collect();
        self.signs.sentinel = self
            .missing
            .iter()
            .any(|value| matches!(value.as_str(), "" | "0" | "-1" | "00000000-0000-0000-0000-000000000000"));
    }
}

/// Relations that names speak of.
pub(super) fn by_name(tables: &[Table], child: usize) -> Vec<Candidate> {
    let from = &tables[child];
    let mut candidates = Vec::new();
    for column in from.schema.columns.iter().filter(|column| column.generated == Generated::No) {
        let name = column.name.as_str();
        let own_key = from.schema.primary_key == [name];
        let stem = Stem::of(name);
        // `user_id`, the key of users, is its own identity, whoever else has a key of that name.
        let itself =
            own_key && names::relate(&from.name.name, name, &from.name.name, name, true).is_some_and(|own| own.strength == 1.0);
        if itself || own_key && names::is_generic(name) || stem.words.is_empty() {
            continue;
        }
        for (parent, to) in tables.iter().enumerate() {
            for key in to.keys.iter().filter(|key| key.columns.len() == 1) {
                if parent == child && key.columns[0] == name {
                    continue;
                }
                let mut found = names::relate(&from.name.name, name, &to.name.name, &key.columns[0], key.primary);
                if let Some(found) = &mut found
                    && from.schema.name.schema != to.schema.name.schema
                {
                    found.strength *= 0.9;
                }
                let found = found.or_else(|| convention(from, child, name, tables, parent, key));
                candidates.extend(found.and_then(|found| Candidate::new(tables, child, &[name], parent, key, Some(found))));
            }
        }
    }
    // A column that is called like a table, and holds small numbers, is as likely a position or an amount.
    candidates.retain(|candidate| {
        candidate.signs.telling == Telling::Strong
            || candidate
                .columns
                .iter()
                .all(|column| Stem::of(column).marked || column_is_key(candidate))
    });
    candidates.extend(composite(tables, child));
    candidates
}

/// Whether the name stands for the key itself, `isbn` or `country_code`, rather than for the table alone.
fn column_is_key(candidate: &Candidate) -> bool {
    candidate.name.is_some_and(|name| name.strength != 0.6)
}

/// Relations by convention: `parent_id` names its own table, `author_id` a user.
fn convention(from: &Table, child: usize, column: &str, tables: &[Table], parent: usize, key: &Key) -> Option<Match> {
    if !key.primary {
        return None;
    }
    if parent == child && names::names_itself(column) {
        let profile = from.profile(column)?;
        // A tree has roots, which name nothing; of numbers that all name something anything may be true.
        let rooted = profile.nulls > 0 || profile.telling != Telling::Weak;
        return Some(Match {
            strength: if rooted { 0.8 } else { 0.4 },
            reason: "by convention such a column names another row of its own table",
        });
    }
    if names::names_person(column) && parent != child {
        let rank = names::person_rank(&tables[parent].name.name)?;
        let best = tables.iter().filter_map(|table| names::person_rank(&table.name.name)).min()?;
        return (rank == best).then_some(Match {
            strength: 0.7,
            reason: "by convention such a column names a person",
        });
    }
    None
}

/// Relations to composite keys: by the same names, or with the table's name before `id`.
fn composite(tables: &[Table], child: usize) -> Vec<Candidate> {
    let from = &tables[child];
    let mut candidates = Vec::new();
    for (parent, to) in tables.iter().enumerate().filter(|(parent, _)| *parent != child) {
        for key in to.keys.iter().filter(|key| key.primary && key.columns.len() > 1) {
            let mut named = false;
            let columns: Option<Vec<&str>> = key
                .columns
                .iter()
                .map(|key_column| {
                    let role = from.schema.columns.iter().find(|column| {
                        names::is_generic(key_column)
                            && names::relate(&from.name.name, &column.name, &to.name.name, key_column, true)
                                .is_some_and(|found| found.strength == 1.0)
                    });
                    named |= role.is_some();
                    let same = from
                        .schema
                        .columns
                        .iter()
                        .find(|column| names::same_name(&column.name, key_column));
                    role.or(same.filter(|_| !names::is_generic(key_column)))
                        .map(|column| column.name.as_str())
                })
                .collect();
            let Some(columns) = columns else { continue };
            let owned: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
            // Of two tables with the same key nothing tells which is the parent.
            if from.is_primary(&owned) || columns.iter().collect::<BTreeSet<_>>().len() < columns.len() {
                continue;
            }
            // Where each column names a table of its own, the pair may be there for other reasons.
            let independent = key.columns.iter().all(|column| {
                tables.iter().enumerate().any(|(other, table)| {
                    other != parent
                        && table.keys.iter().any(|other_key| {
                            other_key.primary
                                && other_key.columns.len() == 1
                                && names::relate(&to.name.name, column, &table.name.name, &other_key.columns[0], true).is_some()
                        })
                })
            });
            let name = Match {
                strength: match (named, independent) {
                    (true, _) => 1.0,
                    (false, false) => 0.85,
                    (false, true) => 0.5,
                },
                reason: "the columns' names are those of a composite key",
            };
            candidates.extend(Candidate::new(tables, child, &columns, parent, key, Some(name)));
        }
    }
    candidates
}

/// Columns that look like keys and whose names speak of no table, each with every table that it could name.
pub(super) fn without_name(
    tables: &[Table],
    named: &[Candidate],
    taken: &BTreeSet<(usize, Vec<String>)>,
    pairs: &BTreeSet<(usize, String)>,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (child, from) in tables.iter().enumerate() {
        for column in &from.schema.columns {
            let name = column.name.as_str();
            let Some(profile) = from.profile(name) else { continue };
            let stem = Stem::of(name);
            let looks_like_key = stem.marked || column.type_name.eq_ignore_ascii_case("uuid");
            let settled = named
                .iter()
                .any(|candidate| candidate.child == child && candidate.columns == [name] && candidate.confidence() >= 0.6);
            if profile.telling != Telling::Strong
                || !looks_like_key
                || settled
                || taken.contains(&(child, vec![name.to_owned()]))
                || pairs.contains(&(child, name.to_owned()))
                || from.schema.primary_key == [name]
            {
                continue;
            }
            for (parent, to) in tables.iter().enumerate() {
                for key in to.keys.iter().filter(|key| key.primary && key.columns.len() == 1) {
                    if candidates.len() >= BLIND_TRIES {
                        return candidates;
                    }
                    let tried = named.iter().any(|known| {
                        known.child == child && known.columns == [name] && known.parent == parent && known.key == *key
                    });
                    if !tried
                        && to
                            .profile(&key.columns[0])
                            .is_some_and(|values| values.telling == Telling::Strong)
                    {
                        candidates.extend(Candidate::new(tables, child, &[name], parent, key, None));
                    }
                }
            }
        }
    }
    candidates
}
