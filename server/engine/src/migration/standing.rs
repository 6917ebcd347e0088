//! Where every migration of a folder stands on a target: the folder, dbkeep's ledger and the ledgers of other tools held against one
//! another. Pure. What does not fit is told with its next step, and nothing is decided by a flag that somebody has to force.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{source::Collection, version};
use crate::model::{
    Direction, ForeignEntry, ForeignLedger, Layout, LedgerEntry, LedgerKind, LedgerState, Migration, MigrationId,
};

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not in effect.
    Pending,
    /// In effect, applied by dbkeep.
    Applied,
    /// In effect because somebody said so.
    Baselined,
    /// In effect by another tool's ledger.
    Adopted(LedgerKind),
    /// Stopped in the middle, in this direction.
    Stopped(Direction),
}

impl Standing {
    /// Whether the whole of it is in effect.
    #[must_use]
    pub fn in_effect(self) -> bool {
        matches!(self, Self::Applied | Self::Baselined | Self::Adopted(_))
    }
}

/// Two checksums that should be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The one in the ledger.
    pub applied: String,
    /// That of the file.
    pub file: String,
    /// When it was applied, where that is known.
    pub at: Option<Timestamp>,
    /// Whose ledger; `None` for dbkeep's own.
    pub tool: Option<LedgerKind>,
}

/// One migration, in the folder or only in a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its position in the collection; `None` where it is only in a ledger.
    pub index: Option<usize>,
    /// What names it.
    pub id: MigrationId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub standing: Standing,
    /// Whether it is pending although a later one is in effect.
    pub out_of_order: bool,
    /// Its row in dbkeep's ledger.
    pub entry: Option<LedgerEntry>,
    /// When it came into effect, where that is known.
    pub applied_at: Option<Timestamp>,
    /// Its file is not what was applied.
    pub change: Option<Change>,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable name in capitals.
    pub code: &'static str,
    /// The migration.
    pub id: MigrationId,
    /// What is wrong, with names.
    pub message: String,
    /// What to do.
    pub next_step: String,
    /// Whether nothing is applied while it lasts.
    pub blocks: bool,
}

/// The folder's layout does not say which ledgers count.
const fn counts(layout: Layout, kind: LedgerKind) -> bool {
    matches!(
        (layout, kind),
        // Both read the same files, and a team may have moved from one to the other.
        (
            Layout::Sqlx | Layout::GolangMigrate,
            LedgerKind::Sqlx | LedgerKind::GolangMigrate
        ) | (Layout::Diesel, LedgerKind::Diesel)
            | (Layout::Dbmate, LedgerKind::Dbmate)
            | (Layout::Goose, LedgerKind::Goose)
            | (Layout::Flyway, LedgerKind::Flyway)
            | (Layout::Prisma, LedgerKind::Prisma)
            | (Layout::Sqitch, LedgerKind::Sqitch)
    )
}

/// A folder on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standings {
    /// Every migration: those of the folder in its order, then those that only a ledger knows.
    pub items: Vec<Item>,
    /// What does not fit.
    pub problems: Vec<Problem>,
    /// Ledgers of other tools that were read.
    pub adopted: Vec<(LedgerKind, String)>,
    /// Ledgers of other tools that say nothing about this folder.
    pub ignored: Vec<(LedgerKind, String)>,
}

impl Standings {
    /// Ids of the migrations that are in effect.
    #[must_use]
    pub fn in_effect(&self) -> HashSet<MigrationId> {
        let items = self.items.iter().filter(|item| item.standing.in_effect());
        items.map(|item| item.id.clone()).collect()
    }

    /// The migration of that position in the folder.
    #[must_use]
    pub fn of_index(&self, index: usize) -> Option<&Item> {
        self.items.get(index).filter(|item| item.index == Some(index))
    }

    /// The one that came into effect last; of those whose time nobody knows the last in order.
    #[must_use]
    pub fn last_applied(&self) -> Option<&Item> {
        let items = self.items.iter().filter(|item| item.standing.in_effect());
        items.max_by_key(|item| item.applied_at)
    }
}

/// Holds a folder against the ledgers.
#[must_use]
pub fn standings(collection: &Collection, ledger: &[LedgerEntry], foreign: &[ForeignLedger]) -> Standings {
    let own: HashMap<&MigrationId, &LedgerEntry> = ledger.iter().map(|entry| (&entry.id, entry)).collect();
    let mut adopted = Vec::new();
    let mut ignored = Vec::new();
    let mut others: HashMap<MigrationId, (LedgerKind, &ForeignEntry)> = HashMap::new();
    let mut up_to: Option<(LedgerKind, MigrationId)> = None;
    for found in foreign {
        if !counts(collection.layout, found.kind) {
            ignored.push((found.kind, found.table.clone()));
            continue;
        }
        adopted.push((found.kind, found.table.clone()));
        for entry in &found.entries {
            let id = id_of(found.kind, &entry.version);
            if entry.and_older {
                up_to = Some((found.kind, id.clone()));
            }
            others.insert(id, (found.kind, entry));
        }
    }
    let limit = up_to.and_then(|(kind, id)| {
        let limit = version::Version::parse(&id.0)?;
        Some((kind, limit))
    });
    let mut problems = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    for (index, migration) in collection.migrations.iter().enumerate() {
        let older = || {
            let (kind, limit) = limit.as_ref()?;
            (!migration.repeatable && version::Version::parse(&migration.id.0)? <= *limit).then_some(*kind)
        };
        let elsewhere = others.get(&migration.id).copied();
        items.push(item(
            index,
            migration,
            own.get(&migration.id).copied(),
            elsewhere,
            older(),
            &mut problems,
        ));
    }
    let known: HashSet<&MigrationId> = collection.migrations.iter().map(|migration| &migration.id).collect();
    mark_out_of_order(&mut items, &collection.migrations, &mut problems);
    for entry in ledger {
        if known.contains(&entry.id) || entry.state == LedgerState::RolledBack {
            continue;
        }
        items.push(only_in_ledger(
            &entry.id,
            &entry.name,
            standing_of(entry),
            Some(entry),
            Some(entry.at),
            &mut problems,
        ));
    }
    let mut lonely: Vec<_> = others
        .iter()
        .filter(|(id, (_, entry))| !known.contains(id) && !own.contains_key(id) && !entry.failed)
        .collect();
    lonely.sort_by_key(|(id, _)| (*id).clone());
    for (id, (kind, entry)) in lonely {
        items.push(only_in_ledger(
            id,
            &entry.version,
            Standing::Adopted(*kind),
            None,
            entry.applied_at,
            &mut problems,
        ));
    }
    needs_of_applied(&items, &collection.migrations, &mut problems);
    Standings {
        items,
        problems,
        adopted,
        ignored,
    }
}

/// The id that a row of another tool's ledger means.
fn id_of(kind: LedgerKind, written: &str) -> MigrationId {
    let text = match kind {
        LedgerKind::Sqitch => return MigrationId(written.to_owned()),
        LedgerKind::Flyway if written.starts_with("R__") => return MigrationId(written.replace(' ', "_")),
        // Prisma notes the folder's whole name.
        LedgerKind::Prisma => written.split('_').next().unwrap_or(written),
        _ => written,
    };
    MigrationId(version::normalise(text).unwrap_or_else(|| written.to_owned()))
}

fn standing_of(entry: &LedgerEntry) -> Standing {
    match entry.state {
        LedgerState::Applied => Standing::Applied,
        LedgerState::Baselined => Standing::Baselined,
        LedgerState::RolledBack => Standing::Pending,
        LedgerState::Applying => Standing::Stopped(Direction::Up),
        LedgerState::Reverting => Standing::Stopped(Direction::Down),
    }
}

fn item(
    index: usize,
    migration: &Migration,
    own: Option<&LedgerEntry>,
    elsewhere: Option<(LedgerKind, &ForeignEntry)>,
    older_than: Option<LedgerKind>,
    problems: &mut Vec<Problem>,
) -> Item {
    let mut item = Item {
        index: Some(index),
        id: migration.id.clone(),
        name: migration.name.clone(),
        standing: Standing::Pending,
        out_of_order: false,
        entry: own.cloned(),
        applied_at: None,
        change: None,
    };
    if let Some(entry) = own {
        // What dbkeep itself did, or was told by a repair, is newer than what it adopted.
        item.standing = standing_of(entry);
        if item.standing.in_effect() {
            item.applied_at = Some(entry.at);
        }
        if entry.state != LedgerState::RolledBack && !entry.sha256.is_empty() && entry.sha256 != migration.up.sha256 {
            if migration.repeatable && item.standing.in_effect() {
                item.standing = Standing::Pending;
            } else if !matches!(item.standing, Standing::Stopped(_)) {
                // Of one that stopped, the script in work is compared statement by statement.
                item.change = Some(Change {
                    applied: entry.sha256.clone(),
                    file: migration.up.sha256.clone(),
                    at: Some(entry.at),
                    tool: None,
                });
            }
        }
        if let Standing::Stopped(direction) = item.standing {
            problems.push(stopped(migration, entry, direction));
        }
    } else if let Some((kind, entry)) = elsewhere {
        if entry.failed {
            problems.push(Problem {
                code: "FOREIGN_FAILED",
                id: migration.id.clone(),
                message: format!(
                    "{} noted in its own ledger that {} {} failed half-way",
                    kind.tool(),
                    migration.id,
                    migration.name
                ),
                next_step: format!(
                    "look at what of {} is in effect, then `dbkeep migrations repair {}` with mark-applied or mark-pending; {}'s ledger stays as it is",
                    migration.up.file, migration.id, kind.tool()
                ),
                blocks: true,
            });
        } else {
            item.standing = Standing::Adopted(kind);
            item.applied_at = entry.applied_at;
            let ours = migration.foreign_checksums.iter().find(|(known, _)| *known == kind);
            if let Some((_, ours)) = ours
                && !entry.checksum.is_empty()
                && !ours.eq_ignore_ascii_case(&entry.checksum)
            {
                if migration.repeatable {
                    item.standing = Standing::Pending;
                } else {
                    item.change = Some(Change {
                        applied: entry.checksum.clone(),
                        file: ours.clone(),
                        at: entry.applied_at,
                        tool: Some(kind),
                    });
                }
            }
        }
    } else if let Some(kind) = older_than {
        item.standing = Standing::Adopted(kind);
    }
    if let Some(change) = &item.change
        && !matches!(item.standing, Standing::Stopped(_))
    {
        problems.push(changed(migration, change));
    }
    item
}

/// Whether a migration that stopped still has the very script, in the very groups, that stopped.
fn stands(migration: &Migration, entry: &LedgerEntry) -> bool {
    let script = match entry.state {
        LedgerState::Reverting => migration.down.as_ref(),
        _ => Some(&migration.up),
    };
    script.is_some_and(|script| script.digest() == entry.script_sha256)
}

fn stopped(migration: &Migration, entry: &LedgerEntry, direction: Direction) -> Problem {
    let (script, way) = match direction {
        Direction::Up => (Some(&migration.up), "apply"),
        Direction::Down => (migration.down.as_ref(), "rollback"),
    };
    let next = entry.statements_done + 1;
    let at = script
        .and_then(|script| {
            script
                .statements()
                .nth(usize::try_from(entry.statements_done).ok()?)
                .map(|statement| (script, statement))
        })
        .map_or_else(String::new, |(script, statement)| {
            format!(" ({}:{})", script.file, statement.line)
        });
    let why = if entry.problem.is_empty() {
        String::new()
    } else {
        format!(": {}", entry.problem)
    };
    let (doubt, next_step) = if entry.in_doubt {
        (
            format!("; whether statement {next}{at} took effect is not known"),
            format!(
                "`dbkeep migrations repair {}` says what is there, and offers retry (run it again) or skip (it took effect)",
                migration.id
            ),
        )
    } else {
        (
            format!("; statement {next}{at} did not take effect"),
            format!(
                "mend the cause, then `dbkeep migrations {way}` goes on at statement {next}; or `dbkeep migrations repair {}`",
                migration.id
            ),
        )
    };
    if !stands(migration, entry) {
        return Problem {
            code: "STOPPED",
            id: migration.id.clone(),
            message: format!(
                "{} {} stopped after {} of {} statements, and its script, or how it is cut into transactions, changed since{why}",
                migration.id, migration.name, entry.statements_done, entry.statements
            ),
            next_step: format!(
                "bring the script back as it was, or say by `dbkeep migrations repair {} --action accept-checksum` that its first {} statements are still those that took effect",
                migration.id, entry.statements_done
            ),
            blocks: true,
        };
    }
    if entry.statements_done >= entry.statements && !entry.in_doubt {
        return Problem {
            code: "STOPPED",
            id: migration.id.clone(),
            message: format!(
                "all of its statements took effect, and yet {} {} did not come to its end{why}",
                migration.id, migration.name
            ),
            next_step: format!("mend the cause, then `dbkeep migrations {way}` asks its checks again and executes nothing"),
            blocks: false,
        };
    }
    Problem {
        code: "STOPPED",
        id: migration.id.clone(),
        message: format!(
            "{} {} stopped after {} of {} statements of its {} script{doubt}{why}",
            migration.id,
            migration.name,
            entry.statements_done,
            entry.statements,
            match direction {
                Direction::Up => "up",
                Direction::Down => "down",
            }
        ),
        next_step,
        blocks: entry.in_doubt,
    }
}

fn changed(migration: &Migration, change: &Change) -> Problem {
    let when = change.at.map_or_else(String::new, |at| format!(" on {at}"));
    let by = change.tool.map_or("dbkeep", LedgerKind::tool);
    Problem {
        code: "CHANGED",
        id: migration.id.clone(),
        message: format!(
            "{} is not what {by} applied{when}: the ledger has checksum {}, the file {}",
            migration.up.file, change.applied, change.file
        ),
        next_step: format!(
            "bring the file back as it was, or say by `dbkeep migrations repair {} --action accept-checksum` that the change means the same",
            migration.id
        ),
        blocks: true,
    }
}

fn mark_out_of_order(items: &mut [Item], migrations: &[Migration], problems: &mut Vec<Problem>) {
    let newest = items
        .iter()
        .rposition(|item| item.standing.in_effect() && item.index.is_some_and(|index| !migrations[index].repeatable));
    let Some(newest) = newest else { return };
    let (newest_id, newest_name) = (items[newest].id.clone(), items[newest].name.clone());
    for item in &mut items[..newest] {
        let repeatable = item.index.is_some_and(|index| migrations[index].repeatable);
        if item.standing == Standing::Pending && !repeatable {
            item.out_of_order = true;
            problems.push(Problem {
                code: "OUT_OF_ORDER",
                id: item.id.clone(),
                message: format!(
                    "{} {} is pending although {newest_id} {newest_name}, which comes after it, is in effect: it came from a branch that was merged later",
                    item.id, item.name
                ),
                next_step: "it is applied with the others; declare depends-on where it needs what came meanwhile, and test it first".to_owned(),
                blocks: false,
            });
        }
    }
}

fn only_in_ledger(
    id: &MigrationId,
    name: &str,
    standing: Standing,
    entry: Option<&LedgerEntry>,
    at: Option<Timestamp>,
    problems: &mut Vec<Problem>,
) -> Item {
    problems.push(Problem {
        code: "FILE_MISSING",
        id: id.clone(),
        message: format!("{id} {name} is in the ledger, and no file of the folder is of that version"),
        next_step: "bring the file back if it should be there; nothing else needs it, except a rollback of it".to_owned(),
        blocks: false,
    });
    Item {
        index: None,
        id: id.clone(),
        name: name.to_owned(),
        standing,
        out_of_order: false,
        entry: entry.cloned(),
        applied_at: at,
        change: None,
    }
}

/// A migration in effect whose declared dependency is not: the history is not one that the graph allows.
fn needs_of_applied(items: &[Item], migrations: &[Migration], problems: &mut Vec<Problem>) {
    let in_effect: HashSet<&MigrationId> = items
        .iter()
        .filter(|item| item.standing.in_effect())
        .map(|item| &item.id)
        .collect();
    for item in items.iter().filter(|item| item.standing.in_effect()) {
        let Some(migration) = item.index.and_then(|index| migrations.get(index)) else {
            continue;
        };
        for needed in &migration.metadata.depends_on {
            if migrations.iter().any(|other| other.id == *needed) && !in_effect.contains(needed) {
                problems.push(Problem {
                    code: "DEPENDENCY_PENDING",
                    id: item.id.clone(),
                    message: format!(
                        "{} {} is in effect, and {needed}, on which it depends, is not",
                        item.id, item.name
                    ),
                    next_step: format!("apply {needed}, or baseline it where what it does is there already"),
                    blocks: false,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
