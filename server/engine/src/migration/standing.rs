//! Where every migration of a folder stands on a target: the folder, dbkeep's ledger and the ledgers of other tools held against one
//! another. Pure. What does not fit is told with its next step, and nothing is decided by a flag that somebody has to force.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{source::Collection, version};
use crate::model::{
    Direction, ForeignEntry, ForeignLedger, Layout, LedgerEntry, LedgerKind, LedgerReach, LedgerState, Migration, MigrationId,
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

/// What the ledger of another tool says of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Whose ledger.
    pub kind: LedgerKind,
    /// Whether it is noted there as failed, or as begun and not ended.
    pub failed: bool,
    /// Since when it is in effect, where the tool notes it.
    pub at: Option<Timestamp>,
}

/// How what another tool says stands to a row of dbkeep's that takes the migration back, or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It was there before the row, or whoever wrote the row knew of it.
    Older,
    /// It came after the row.
    Newer,
    /// Nobody can tell.
    Unknown,
}

impl Word {
    /// The problem that a row keeps whose writer knew of this word: it is then no news.
    #[must_use]
    pub fn known(&self) -> String {
        format!("{KNOWN} {}", self.kind.tool())
    }

    /// How old this is beside dbkeep's own row.
    #[must_use]
    pub fn age(&self, own: &LedgerEntry) -> Age {
        let known = own.state == LedgerState::RolledBack && own.problem.starts_with(KNOWN);
        let undecided = if known { Age::Older } else { Age::Unknown };
        let Some(at) = self.at else { return undecided };
        // Tools that note whole seconds cut off the rest, so that in the second of the row nobody knows which came first.
        let whole = at.subsec_nanosecond() == 0;
        if whole && at.as_second() == own.at.as_second() {
            undecided
        } else if at > own.at {
            Age::Newer
        } else {
            Age::Older
        }
    }
}

/// How the problem of a row begins that took back what another tool says is in effect.
const KNOWN: &str = "taken back, whatever stays in the ledger of";

/// What the ledgers of other tools say about a folder.
#[derive(Debug)]
pub struct Others<'a> {
    rows: HashMap<MigrationId, (LedgerKind, &'a ForeignEntry)>,
    /// The newest version of a tool that notes no others, which speaks for all older ones.
    limit: Option<(LedgerKind, version::Version)>,
    /// Ledgers that count: whose, and their tables.
    counting: Vec<(LedgerKind, String)>,
    /// Those that say nothing about a folder of this layout, or were not read.
    ignored: Vec<(LedgerKind, String)>,
}

impl<'a> Others<'a> {
    /// Reads what they say about a folder of this layout.
    #[must_use]
    pub fn read(layout: Layout, foreign: &'a [ForeignLedger]) -> Self {
        let (mut rows, mut up_to) = (HashMap::new(), None);
        let (mut counting, mut ignored) = (Vec::new(), Vec::new());
        for found in foreign {
            if !counts(layout, found.kind) || found.reach != LedgerReach::Read {
                ignored.push((found.kind, found.table.clone()));
                continue;
            }
            counting.push((found.kind, found.table.clone()));
            for entry in &found.entries {
                let id = id_of(found.kind, &entry.version);
                if entry.and_older {
                    up_to = Some((found.kind, id.clone()));
                }
                rows.insert(id, (found.kind, entry));
            }
        }
        let limit = up_to.and_then(|(kind, id)| Some((kind, version::Version::parse(&id.0)?)));
        Self {
            rows,
            limit,
            counting,
            ignored,
        }
    }

    /// The tool whose newest version is at least this one's.
    fn older(&self, migration: &Migration) -> Option<LedgerKind> {
        let (kind, limit) = self.limit.as_ref()?;
        (!migration.repeatable && version::Version::parse(&migration.id.0)? <= *limit).then_some(*kind)
    }

    /// What is said of a migration; `None` where nobody says that it, as it is now, was executed or begun.
    #[must_use]
    pub fn of(&self, migration: &Migration) -> Option<Word> {
        let Some((kind, entry)) = self.rows.get(&migration.id).copied() else {
            return self.older(migration).map(|kind| Word {
                kind,
                failed: false,
                at: None,
            });
        };
        // A repeatable one whose text changed is to be applied again.
        if !entry.failed && migration.repeatable && differing(migration, kind, entry).is_some() {
            return None;
        }
        Some(Word {
            kind,
            failed: entry.failed,
            at: entry.applied_at,
        })
    }
}

/// The file's own checksum in the manner of another tool, where that tool noted another one.
fn differing<'a>(migration: &'a Migration, kind: LedgerKind, entry: &ForeignEntry) -> Option<&'a String> {
    let ours = migration.foreign_checksums.iter().find(|(known, _)| *known == kind);
    let (_, ours) = ours?;
    (!entry.checksum.is_empty() && !ours.eq_ignore_ascii_case(&entry.checksum)).then_some(ours)
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
    /// What the ledger of another tool says of it, whether that counts or not.
    pub elsewhere: Option<Word>,
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
    /// Ledgers of other tools that say nothing about this folder, or were not read.
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
    let others = Others::read(collection.layout, foreign);
    let mut problems = not_read(collection.layout, foreign, ledger.is_empty());
    let mut items: Vec<Item> = Vec::new();
    for (index, migration) in collection.migrations.iter().enumerate() {
        items.push(item(
            index,
            migration,
            own.get(&migration.id).copied(),
            &others,
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
        .rows
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
        adopted: others.counting,
        ignored: others.ignored,
    }
}

/// What is told of ledgers that would count and were not read. `fresh` says that dbkeep's own ledger has no row yet.
fn not_read(layout: Layout, foreign: &[ForeignLedger], fresh: bool) -> Vec<Problem> {
    let counting: Vec<&ForeignLedger> = foreign.iter().filter(|found| counts(layout, found.kind)).collect();
    let mut problems = Vec::new();
    for found in &counting {
        let LedgerReach::Unreadable { grants } = &found.reach else {
            continue;
        };
        problems.push(Problem {
            code: "FOREIGN_UNREADABLE",
            id: MigrationId(String::new()),
            message: format!(
                "dbkeep's role may not read {}, the ledger of {}: what is in effect by it would look pending",
                found.table,
                found.kind.tool()
            ),
            next_step: format!("let dbkeep read it: {grants}"),
            blocks: true,
        });
    }
    let outside = || counting.iter().filter(|found| found.reach == LedgerReach::Outside);
    let (Some(one), true) = (outside().next(), outside().count() == counting.len()) else {
        return problems;
    };
    let named: Vec<String> = outside()
        .map(|found| format!("{} of {}", found.table, found.kind.tool()))
        .collect();
    let name = one.table.rsplit('.').next().unwrap_or(&one.table);
    problems.push(Problem {
        code: "FOREIGN_OUTSIDE",
        id: MigrationId(String::new()),
        message: format!(
            "not on the search_path of dbkeep's role, and therefore not read, since it may be another application's: {}",
            named.join(", ")
        ),
        next_step: format!(
            "where one of them is this folder's, set that role's search_path so that it names the schema first, or count what is in effect by \
             `dbkeep migrations baseline`; where none is, an empty table says so: CREATE TABLE {name} (LIKE {})",
            one.table
        ),
        blocks: fresh && named.len() > 1,
    });
    problems
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
    others: &Others<'_>,
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
        elsewhere: others.of(migration),
    };
    let Some(entry) = own else {
        adopt(&mut item, migration, others, problems);
        return item;
    };
    if entry.state == LedgerState::RolledBack
        && let Some(word) = item.elsewhere.clone()
    {
        match word.age(entry) {
            // What dbkeep itself did, or was told by a repair, is newer than what it adopted.
            Age::Older => {}
            Age::Newer => {
                adopt(&mut item, migration, others, problems);
                return item;
            }
            Age::Unknown => problems.push(undated(migration, entry, &word)),
        }
    }
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
    } else if let Some(change) = &item.change {
        problems.push(changed(migration, change));
    }
    item
}

/// Takes over what the ledger of another tool says.
fn adopt(item: &mut Item, migration: &Migration, others: &Others<'_>, problems: &mut Vec<Problem>) {
    let Some((kind, entry)) = others.rows.get(&migration.id).copied() else {
        if let Some(kind) = others.older(migration) {
            item.standing = Standing::Adopted(kind);
        }
        return;
    };
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
            next_step: looked(migration, kind),
            blocks: true,
        });
        return;
    }
    item.applied_at = entry.applied_at;
    let ours = differing(migration, kind, entry);
    if ours.is_some() && migration.repeatable {
        return;
    }
    item.standing = Standing::Adopted(kind);
    if let Some(ours) = ours {
        let change = Change {
            applied: entry.checksum.clone(),
            file: ours.clone(),
            at: entry.applied_at,
            tool: Some(kind),
        };
        problems.push(changed(migration, &change));
        item.change = Some(change);
    }
}

/// What is left to do where the word of another tool is none to rely on.
fn looked(migration: &Migration, kind: LedgerKind) -> String {
    format!(
        "look at what of {} is in effect, then `dbkeep migrations repair {}` with mark-applied or mark-pending; {}'s ledger stays as it is",
        migration.up.file,
        migration.id,
        kind.tool()
    )
}

/// It was taken back, and another tool says that it is in effect, nobody knows since when.
fn undated(migration: &Migration, entry: &LedgerEntry, word: &Word) -> Problem {
    let says = if word.failed { "was begun" } else { "is in effect" };
    Problem {
        code: "FOREIGN_UNDATED",
        id: migration.id.clone(),
        message: format!(
            "{} {} counts as not in effect since {}, and the ledger of {} says that it {says}, but not whether that was before or after",
            migration.id,
            migration.name,
            entry.at,
            word.kind.tool()
        ),
        next_step: looked(migration, word.kind),
        blocks: true,
    }
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
        elsewhere: None,
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
