//! What depends on what: the order of a folder's migrations, what one of them needs, and what needs it. Pure. Called by the source
//! of a folder, and by whoever plans to apply or to take back.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
};

use super::version::normalise;
use crate::{
    model::{Migration, MigrationId},
    spelling,
};

/// Migrations have no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Each needs the next, and the last is the first again.
    #[error("migrations depend on each other: {}", path.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(" -> "))]
    Cycle {
        /// The cycle; its first is its last.
        path: Vec<MigrationId>,
    },
    /// A migration needs one that is not there.
    #[error("migration {migration} depends on {needs}, which is not in the folder{}", near.as_ref().map(|id| format!("; did you mean {id}?")).unwrap_or_default())]
    Missing {
        /// Which.
        migration: MigrationId,
        /// What it needs, as it is written.
        needs: String,
        /// The id that is most like it.
        near: Option<MigrationId>,
    },
    /// A migration was asked for that is not there.
    #[error("there is no migration {wanted} in the folder{}", near.as_ref().map(|id| format!("; did you mean {id}?")).unwrap_or_default())]
    Unknown {
        /// Which.
        wanted: MigrationId,
        /// The id that is most like it.
        near: Option<MigrationId>,
    },
    /// What a migration needs could be several.
    #[error("migration {migration} depends on {needs}, which could be {}", candidates.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(" or "))]
    Ambiguous {
        /// Which.
        migration: MigrationId,
        /// What it needs, as it is written.
        needs: String,
        /// What it could be.
        candidates: Vec<MigrationId>,
    },
    /// Two migrations have the same id.
    #[error("two migrations are {id}")]
    Duplicate {
        /// The id.
        id: MigrationId,
    },
}

/// The order in which all migrations can be applied: each after what it depends on, otherwise as they stand. Positions in the slice.
///
/// # Errors
/// Any [`GraphError`] but `Unknown`.
pub fn order(migrations: &[Migration]) -> Result<Vec<usize>, GraphError> {
    let graph = Graph::of(migrations)?;
    graph.order().map_err(|rest| GraphError::Cycle {
        path: graph.cycle(migrations, &rest),
    })
}

/// The wanted migrations and, of what they need, all that is not done; in the order in which they can be applied.
///
/// # Errors
/// Any [`GraphError`].
pub fn needed(migrations: &[Migration], wanted: &[MigrationId], done: &HashSet<MigrationId>) -> Result<Vec<usize>, GraphError> {
    let graph = Graph::of(migrations)?;
    let is_done = |position: usize| migrations.get(position).is_some_and(|migration| done.contains(&migration.id));
    let taken = reach(positions(migrations, wanted)?, &graph.needs, |position| !is_done(position));
    Ok(order(migrations)?
        .into_iter()
        .filter(|position| taken.contains(position))
        .collect())
}

/// The migrations that need the given ones, directly or by others, without the given ones; in the order in which they can be taken
/// back, which is that of [`order`] from its end.
///
/// # Errors
/// Any [`GraphError`].
pub fn dependents(migrations: &[Migration], given: &[MigrationId]) -> Result<Vec<usize>, GraphError> {
    let graph = Graph::of(migrations)?;
    let start = positions(migrations, given)?;
    let taken = reach(start.clone(), &graph.needed_by(), |_| true);
    let mut found = order(migrations)?;
    found.reverse();
    found.retain(|position| taken.contains(position) && !start.contains(position));
    Ok(found)
}

/// Names what migrations depend on by id, as far as it is found and unambiguous.
pub(super) fn resolve(migrations: &mut [Migration]) {
    let names = Names::of(migrations);
    let resolved: Vec<Vec<MigrationId>> = migrations
        .iter()
        .map(|migration| {
            let found = migration
                .metadata
                .depends_on
                .iter()
                .map(|needs| match names.find(&needs.0).as_slice() {
                    [position] => migrations
                        .get(*position)
                        .map_or_else(|| needs.clone(), |found| found.id.clone()),
                    _ => needs.clone(),
                });
            found.collect()
        })
        .collect();
    for (migration, depends_on) in migrations.iter_mut().zip(resolved) {
        migration.metadata.depends_on = depends_on;
    }
}

/// Every way to name a migration.
#[derive(Debug, Default)]
struct Names {
    ids: HashMap<String, usize>,
    /// Written versions, `version_name` and names; a name may be that of several.
    others: HashMap<String, BTreeSet<usize>>,
}

impl Names {
    fn of(migrations: &[Migration]) -> Self {
        let mut names = Self::default();
        for (position, migration) in migrations.iter().enumerate() {
            names.ids.insert(migration.id.0.clone(), position);
            let mut add = |name: String| names.others.entry(name).or_default().insert(position);
            if !migration.version.is_empty() {
                add(migration.version.clone());
                add(format!("{}_{}", migration.version, migration.name));
                add(format!("{}_{}", migration.id, migration.name));
            }
            add(migration.name.clone());
        }
        names
    }

    /// None, one or several migrations of a name. An id is preferred to everything else.
    fn find(&self, written: &str) -> Vec<usize> {
        let by_id = |id: &str| self.ids.get(id).map(|position| vec![*position]);
        by_id(written)
            .or_else(|| self.others.get(written).map(|found| found.iter().copied().collect()))
            .or_else(|| by_id(&normalise(written)?))
            .unwrap_or_default()
    }
}

/// What each migration needs, by position.
#[derive(Debug)]
struct Graph {
    needs: Vec<Vec<usize>>,
}

impl Graph {
    fn of(migrations: &[Migration]) -> Result<Self, GraphError> {
        let names = Names::of(migrations);
        if names.ids.len() < migrations.len() {
            let mut seen = HashSet::new();
            if let Some(twice) = migrations.iter().find(|migration| !seen.insert(&migration.id)) {
                return Err(GraphError::Duplicate { id: twice.id.clone() });
            }
        }
        let mut needs = Vec::with_capacity(migrations.len());
        for migration in migrations {
            let mut found = BTreeSet::new();
            for written in &migration.metadata.depends_on {
                match names.find(&written.0).as_slice() {
                    [one] => {
                        found.insert(*one);
                    }
                    [] => {
                        return Err(GraphError::Missing {
                            migration: migration.id.clone(),
                            needs: written.0.clone(),
                            near: near(migrations, &written.0),
                        });
                    }
                    several => {
                        return Err(GraphError::Ambiguous {
                            migration: migration.id.clone(),
                            needs: written.0.clone(),
                            candidates: several
                                .iter()
                                .filter_map(|one| migrations.get(*one))
                                .map(|one| one.id.clone())
                                .collect(),
                        });
                    }
                }
            }
            needs.push(found.into_iter().collect());
        }
        Ok(Self { needs })
    }

    fn needed_by(&self) -> Vec<Vec<usize>> {
        let mut by = vec![Vec::new(); self.needs.len()];
        for (position, needs) in self.needs.iter().enumerate() {
            for need in needs {
                if let Some(by) = by.get_mut(*need) {
                    by.push(position);
                }
            }
        }
        by
    }

    /// Always the first that needs nothing more; `Err` has what is left when each needs another.
    fn order(&self) -> Result<Vec<usize>, HashSet<usize>> {
        let by = self.needed_by();
        let mut open: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let mut ready: BinaryHeap<Reverse<usize>> = open
            .iter()
            .enumerate()
            .filter(|(_, open)| **open == 0)
            .map(|(position, _)| Reverse(position))
            .collect();
        let mut found = Vec::with_capacity(open.len());
        while let Some(Reverse(position)) = ready.pop() {
            found.push(position);
            for next in by.get(position).into_iter().flatten() {
                if let Some(open) = open.get_mut(*next) {
                    *open -= 1;
                    if *open == 0 {
                        ready.push(Reverse(*next));
                    }
                }
            }
        }
        if found.len() == open.len() {
            return Ok(found);
        }
        let done: HashSet<usize> = found.into_iter().collect();
        Err((0..open.len()).filter(|position| !done.contains(position)).collect())
    }

    /// A cycle among what has no order. Each of those needs another of them, so that a walk comes back to where it was.
    fn cycle(&self, migrations: &[Migration], rest: &HashSet<usize>) -> Vec<MigrationId> {
        let mut walk: Vec<usize> = Vec::new();
        let mut at: HashMap<usize, usize> = HashMap::new();
        let mut next = rest.iter().copied().min();
        while let Some(position) = next {
            if let Some(start) = at.get(&position) {
                let mut cycle: Vec<usize> = walk.get(*start..).unwrap_or_default().to_vec();
                // The one that stands first in the folder opens the cycle, so that it is told the same way each time.
                let least = cycle
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, position)| **position)
                    .map_or(0, |(index, _)| index);
                cycle.rotate_left(least);
                cycle.extend(cycle.first().copied());
                return cycle
                    .into_iter()
                    .filter_map(|position| migrations.get(position))
                    .map(|one| one.id.clone())
                    .collect();
            }
            at.insert(position, walk.len());
            walk.push(position);
            next = self
                .needs
                .get(position)
                .and_then(|needs| needs.iter().copied().find(|need| rest.contains(need)));
        }
        Vec::new()
    }
}

fn positions(migrations: &[Migration], ids: &[MigrationId]) -> Result<Vec<usize>, GraphError> {
    let known: HashMap<&MigrationId, usize> = migrations
        .iter()
        .enumerate()
        .map(|(position, migration)| (&migration.id, position))
        .collect();
    let find = |id: &MigrationId| {
        known.get(id).copied().ok_or_else(|| GraphError::Unknown {
            wanted: id.clone(),
            near: near(migrations, &id.0),
        })
    };
    ids.iter().map(find).collect()
}

/// Everything that can be reached from `start`, which is part of it, by ways on which every stop may be entered.
fn reach(start: Vec<usize>, ways: &[Vec<usize>], enters: impl Fn(usize) -> bool) -> HashSet<usize> {
    let mut found: HashSet<usize> = start.iter().copied().collect();
    let mut open = start;
    while let Some(position) = open.pop() {
        for next in ways.get(position).into_iter().flatten() {
            if enters(*next) && found.insert(*next) {
                open.push(*next);
            }
        }
    }
    found
}

/// The migration whose id, written version with name, or name is most like a text, if any is like it at all.
pub(super) fn near(migrations: &[Migration], written: &str) -> Option<MigrationId> {
    let wanted = written.to_lowercase();
    let close = |name: &str| {
        let distance = spelling::distance(&wanted, &name.to_lowercase());
        (!name.is_empty() && distance <= 1 + name.chars().count() / 4).then_some(distance)
    };
    let best = migrations.iter().filter_map(|migration| {
        let full = format!("{}_{}", migration.version, migration.name);
        let names = [migration.id.0.as_str(), &full, &migration.name];
        names
            .into_iter()
            .filter_map(close)
            .min()
            .map(|distance| (distance, &migration.id))
    });
    best.min_by_key(|(distance, _)| *distance).map(|(_, id)| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Metadata, Script};

    fn migration(id: &str, name: &str, needs: &[&str]) -> Migration {
        Migration {
            id: MigrationId(id.to_owned()),
            version: id.to_owned(),
            name: name.to_owned(),
            repeatable: false,
            up: Script {
                file: format!("{id}_{name}.sql"),
                sha256: String::new(),
                groups: Vec::new(),
                foreign_keys_off: false,
            },
            down: None,
            verify: None,
            metadata: Metadata {
                depends_on: needs.iter().map(|id| MigrationId((*id).to_owned())).collect(),
                ..Metadata::default()
            },
            foreign_checksums: Vec::new(),
        }
    }

    fn id(text: &str) -> MigrationId {
        MigrationId(text.to_owned())
    }

    #[test]
    fn without_dependencies_the_order_is_that_of_the_folder() {
        let migrations = [migration("1", "a", &[]), migration("2", "b", &[]), migration("3", "c", &[])];
        assert_eq!(order(&migrations), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[]), Ok(vec![]));
    }

    #[test]
    fn what_is_needed_comes_first_and_ties_stay() {
        let migrations = [
            migration("1", "a", &["3"]),
            migration("2", "b", &[]),
            migration("3", "c", &["5"]),
            migration("4", "d", &[]),
            migration("5", "e", &[]),
        ];
        assert_eq!(order(&migrations), Ok(vec![1, 3, 4, 2, 0]));
    }

    #[test]
    fn needs_are_named_in_several_ways() {
        let migrations = [
            migration("7", "users", &[]),
            migration("8", "x", &["0007", "7_users", "users", "7"]),
            migration("9", "x", &[]),
            migration("10", "y", &["9"]),
        ];
        assert_eq!(order(&migrations), Ok(vec![0, 1, 2, 3]));
        let mut named = migrations.to_vec();
        resolve(&mut named);
        assert_eq!(named[1].metadata.depends_on, vec![id("7"); 4]);
        let ambiguous = [migrations.as_slice(), &[migration("11", "z", &["x"])]].concat();
        let error = order(&ambiguous).unwrap_err();
        assert_eq!(error.to_string(), "migration 11 depends on x, which could be 8 or 9");
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_like_it() {
        let migrations = [migration("7", "create_users", &[]), migration("8", "x", &["create_user"])];
        assert_eq!(
            order(&migrations).unwrap_err().to_string(),
            "migration 8 depends on create_user, which is not in the folder; did you mean 7?"
        );
        let far = [migration("7", "create_users", &["elsewhere"])];
        assert_eq!(
            order(&far),
            Err(GraphError::Missing {
                migration: id("7"),
                needs: "elsewhere".to_owned(),
                near: None
            })
        );
    }

    #[test]
    fn cycles_are_told_in_full() {
        let migrations = [
            migration("1", "a", &[]),
            migration("2", "b", &["4", "1"]),
            migration("3", "c", &["2"]),
            migration("4", "d", &["3"]),
            migration("5", "e", &["2"]),
        ];
        assert_eq!(
            order(&migrations).unwrap_err().to_string(),
            "migrations depend on each other: 2 -> 4 -> 3 -> 2"
        );
        let own = [migration("1", "a", &["1"])];
        assert_eq!(
            order(&own),
            Err(GraphError::Cycle {
                path: vec![id("1"), id("1")]
            })
        );
        let twice = [migration("1", "a", &[]), migration("1", "b", &[])];
        assert_eq!(order(&twice), Err(GraphError::Duplicate { id: id("1") }));
    }

    #[test]
    fn only_what_is_needed_and_not_done_is_taken() {
        let migrations = [
            migration("1", "a", &[]),
            migration("2", "b", &["1"]),
            migration("3", "c", &[]),
            migration("4", "d", &["2", "3"]),
        ];
        assert_eq!(needed(&migrations, &[id("4")], &HashSet::new()), Ok(vec![0, 1, 2, 3]));
        assert_eq!(
            needed(&migrations, &[id("4")], &HashSet::from([id("1"), id("3")])),
            Ok(vec![1, 3])
        );
        assert_eq!(needed(&migrations, &[id("3")], &HashSet::new()), Ok(vec![2]));
        assert!(matches!(
            needed(&migrations, &[id("44")], &HashSet::new()),
            Err(GraphError::Unknown { near: Some(_), .. })
        ));
    }

    #[test]
    fn dependents_are_taken_back_last_first() {
        let migrations = [
            migration("1", "a", &[]),
            migration("2", "b", &["1"]),
            migration("3", "c", &[]),
            migration("4", "d", &["2"]),
        ];
        assert_eq!(dependents(&migrations, &[id("1")]), Ok(vec![3, 1]));
        assert_eq!(dependents(&migrations, &[id("1"), id("2")]), Ok(vec![3]));
        assert_eq!(dependents(&migrations, &[id("3")]), Ok(vec![]));
    }

    #[test]
    fn long_chains_are_no_recursion() {
        let migrations: Vec<Migration> = (0..20_000_u32)
            .map(|number| {
                let needs = (number + 1).to_string();
                migration(
                    &number.to_string(),
                    "x",
                    if number < 19_999 { vec![needs.as_str()] } else { vec![] }.as_slice(),
                )
            })
            .collect();
        let found = order(&migrations).unwrap();
        assert_eq!((found.first(), found.last()), (Some(&19_999), Some(&0)));
        assert_eq!(dependents(&migrations, &[id("19999")]).unwrap().len(), 19_999);
    }
}
