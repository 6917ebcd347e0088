//! What a run of migrations would do: which ones, in which order, what each statement locks and risks, whether a backup is made,
//! and whether there is a proven way back. Pure: the caller brings what the target and the control store know.

use std::collections::HashSet;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{
    graph::{self, GraphError},
    risk,
    source::Collection,
    standing::{Item, Problem, Standing, Standings},
};
use crate::model::{
    Direction, EngineKind, Impact, LedgerEntry, LedgerState, Migration, MigrationId, PlannedMigration, Proof, Risk, RunId,
    Script, TableName,
};

/// Which migrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every pending one; backwards, every one in effect.
    All,
    /// Forwards, all up to and including this one; backwards, all after this one, which stays.
    To(String),
    /// These, forwards with what they need, backwards with what needs them.
    Named(Vec<String>),
    /// Backwards: the newest so many.
    Steps(u32),
}

/// Problems of a way back that a rollback passes over where it is told to take it unproven.
pub const EXCUSABLE: [&str; 5] = ["DOWN_UNPROVEN", "DOWN_SAMPLED", "DOWN_EMPTY", "DOWN_LOSSY", "DOWN_REFUTED"];

/// Whether there is a way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayBack {
    /// No down script.
    Absent,
    /// A down script without a statement.
    Empty,
    /// A down script that nobody has rehearsed as it is now.
    Unproven,
    /// A rehearsal showed that it brings back what was before.
    Proven(Proof),
    /// A rehearsal on a sample of the rows showed that it brings back what was before, for those rows.
    Sampled(Proof),
    /// A rehearsal showed that it brings back the schema, and loses data of what it drops.
    Lossy(Proof),
    /// A rehearsal showed that it does not.
    Refuted(Proof),
}

impl WayBack {
    /// The way back of a migration, by what rehearsals found out about the very same scripts.
    #[must_use]
    pub fn of(migration: &Migration, proofs: &[Proof]) -> Self {
        let Some(down) = &migration.down else { return Self::Absent };
        if down.statement_count() == 0 {
            return Self::Empty;
        }
        let proof = proofs
            .iter()
            .find(|proof| proof.id == migration.id && proof.up_sha256 == migration.up.sha256 && proof.down_sha256 == down.sha256);
        match proof {
            None => Self::Unproven,
            Some(proof) if proof.restored && proof.sampled => Self::Sampled(proof.clone()),
            Some(proof) if proof.restored => Self::Proven(proof.clone()),
            Some(proof) if proof.lossy => Self::Lossy(proof.clone()),
            Some(proof) => Self::Refuted(proof.clone()),
        }
    }
}

/// Where an estimate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EstimateSource {
    /// A rehearsal measured it.
    Rehearsal,
    /// Its author said so.
    Author,
    /// From the sizes of its tables.
    Size,
    /// Nobody can tell.
    Unknown,
}

/// One migration of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStep {
    /// The migration.
    pub migration: Migration,
    /// Statements that are in effect already, where it stopped before.
    pub statements_done: u32,
    /// What each statement of the script will do, in order.
    pub impacts: Vec<Impact>,
    /// The largest risk among them.
    pub risk: Risk,
    /// How long it takes, milliseconds; `None` where nobody can tell.
    pub estimated_ms: Option<u64>,
    /// By whom.
    pub estimated_by: EstimateSource,
    /// Whether it changes rows.
    pub transforms_data: bool,
    /// Whether the database is saved because of it.
    pub needs_backup: bool,
    /// Whether there is a way back.
    pub way_back: WayBack,
    /// Whether it is applied although a later one is in effect.
    pub out_of_order: bool,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationPlan {
    /// Which way.
    pub direction: Direction,
    /// The migrations in order.
    pub steps: Vec<PlanStep>,
    /// What stands in the way, and what a reader should know.
    pub problems: Vec<Problem>,
    /// Whether the whole database is saved first.
    pub backup_first: bool,
    /// Sum of the estimates, milliseconds.
    pub estimated_ms: u64,
    /// Steps that nobody can estimate.
    pub unestimated: u32,
    /// Steps that change rows.
    pub transforming: u32,
    /// The largest risk.
    pub risk: Risk,
    /// What was reviewed: a run with this token does exactly this, or is refused.
    pub token: String,
    /// What going back to a backup means beside the migrations; `None` where scripts are executed.
    pub rewind: Option<RewindPlan>,
}

/// One table, then and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableAgainst {
    /// The table.
    pub table: TableName,
    /// Its rows in the backup; `None` where it was not there.
    pub then: Option<u64>,
    /// Its rows when the plan was made; `None` where it is not there.
    pub now: Option<u64>,
}

/// What going back to a backup of the whole database means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewindPlan {
    /// The backup.
    pub backup: RunId,
    /// When the run that made it was accepted.
    pub made_at: Timestamp,
    /// Every table of either side, by name.
    pub tables: Vec<TableAgainst>,
    /// What has to be typed.
    pub phrase: String,
    /// Principals beside the one that starts the run who have to approve it; the engine says.
    pub approvals_required: u32,
}

impl RewindPlan {
    /// The phrase to be typed. It depends on what does not change by itself, so that it can be typed while rows come and go.
    #[must_use]
    pub fn phrase_for(target: &str, backup: RunId, tables: &[TableAgainst], migrations: usize) -> String {
        let gone = tables.iter().filter(|table| table.then.is_none()).count();
        let noun = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let dropped = match gone {
            0 => String::new(),
            gone => format!(", dropping {}", noun(gone, "table")),
        };
        format!(
            "restore {target} to backup {backup}, taking {} back{dropped}",
            noun(migrations, "migration")
        )
    }
}

impl MigrationPlan {
    /// What a run keeps of it.
    #[must_use]
    pub fn planned(&self) -> Vec<PlannedMigration> {
        let of = |step: &PlanStep| PlannedMigration {
            id: step.migration.id.clone(),
            name: step.migration.name.clone(),
            up_sha256: step.migration.up.sha256.clone(),
            down_sha256: step
                .migration
                .down
                .as_ref()
                .map_or_else(String::new, |down| down.sha256.clone()),
            digest: step.migration.digest(),
        };
        self.steps.iter().map(of).collect()
    }

    /// The problems that stand in the way.
    pub fn blocking(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.blocks)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanRefused {
    /// The declared dependencies have no order.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A migration that was asked for is not in the folder.
    #[error("no migration of the folder is {wanted:?}{near}", near = near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near}?")))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The one that looks most like it.
        near: Option<MigrationId>,
    },
    /// Backwards, and a migration is not in effect.
    #[error("{id} is not in effect, so that there is nothing to roll back")]
    NotInEffect {
        /// The migration.
        id: MigrationId,
    },
    /// Backwards, and a migration stopped in the middle of its up script.
    #[error(
        "{id} stopped in the middle of its up script: a part of it may be in effect, and a down script takes back the whole only; \
         finish it by `dbkeep migrations apply`, or say what became of it by `dbkeep migrations repair {id}`"
    )]
    HalfApplied {
        /// The migration.
        id: MigrationId,
    },
}

/// The migration that somebody means: by id, by version as it is written, or by a name that only one has.
///
/// # Errors
/// `Unknown`.
pub fn find(collection: &Collection, wanted: &str) -> Result<usize, PlanRefused> {
    let migrations = &collection.migrations;
    let normal = super::version::normalise(wanted);
    let by_id = migrations
        .iter()
        .position(|migration| migration.id.0 == wanted || normal.as_ref().is_some_and(|normal| migration.id.0 == *normal));
    if let Some(index) = by_id {
        return Ok(index);
    }
    let full = |migration: &Migration| format!("{}_{}", migration.version, migration.name);
    let mut named = (0..migrations.len()).filter(|index| {
        let migration = &migrations[*index];
        migration.name == wanted || full(migration) == wanted
    });
    match (named.next(), named.next()) {
        (Some(index), None) => Ok(index),
        _ => Err(PlanRefused::Unknown {
            wanted: wanted.to_owned(),
            near: graph::near(migrations, wanted),
        }),
    }
}

/// The migrations of a plan forwards, in order, as positions in the collection.
///
/// # Errors
/// Any [`PlanRefused`].
pub fn choose_up(collection: &Collection, standings: &Standings, selection: &Selection) -> Result<Vec<usize>, PlanRefused> {
    let order = graph::order(&collection.migrations)?;
    let done = standings.in_effect();
    let pending = |index: &usize| standings.of_index(*index).is_some_and(|item| !item.standing.in_effect());
    Ok(match selection {
        Selection::All => order.into_iter().filter(pending).collect(),
        Selection::Steps(count) => order
            .into_iter()
            .filter(pending)
            .take(usize::try_from(*count).unwrap_or(usize::MAX))
            .collect(),
        Selection::To(wanted) => {
            let last = find(collection, wanted)?;
            let end = order.iter().position(|index| *index == last).unwrap_or(order.len());
            order.into_iter().take(end + 1).filter(pending).collect()
        }
        Selection::Named(names) => {
            let mut wanted = Vec::new();
            for name in names {
                let index = find(collection, name)?;
                if pending(&index) {
                    wanted.push(collection.migrations[index].id.clone());
                }
            }
            graph::needed(&collection.migrations, &wanted, &done)?
        }
    })
}

/// The migrations of a plan backwards, newest first, as positions in the collection.
///
/// # Errors
/// Any [`PlanRefused`].
pub fn choose_down(collection: &Collection, standings: &Standings, selection: &Selection) -> Result<Vec<usize>, PlanRefused> {
    let order = graph::order(&collection.migrations)?;
    let there = |index: &usize| {
        standings
            .of_index(*index)
            .is_some_and(|item| item.standing.in_effect() || item.standing == Standing::Stopped(Direction::Down))
    };
    let backwards = order
        .iter()
        .rev()
        .copied()
        .filter(|index| there(index) && !collection.migrations[*index].repeatable);
    Ok(match selection {
        Selection::All => backwards.collect(),
        Selection::Steps(count) => {
            // The newest are those that were applied last: out of order ones go first although they stand earlier.
            let mut applied: Vec<(usize, usize)> = backwards.enumerate().collect();
            let at = |index: usize| standings.of_index(index).and_then(|item| item.applied_at);
            applied.sort_by(|(one, a), (two, b)| at(*b).cmp(&at(*a)).then(one.cmp(two)));
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            let newest: Vec<_> = applied.into_iter().take(count).map(|(_, index)| index).collect();
            with_dependents(collection, standings, &newest)?
        }
        Selection::To(wanted) => {
            let stays = find(collection, wanted)?;
            if !there(&stays) {
                return Err(absent(collection, standings, stays));
            }
            let end = order.iter().position(|index| *index == stays).unwrap_or(0);
            let after: HashSet<usize> = order[end + 1..].iter().copied().collect();
            backwards.filter(|index| after.contains(index)).collect()
        }
        Selection::Named(names) => {
            let mut wanted = Vec::new();
            for name in names {
                let index = find(collection, name)?;
                if !there(&index) {
                    return Err(absent(collection, standings, index));
                }
                wanted.push(index);
            }
            with_dependents(collection, standings, &wanted)?
        }
    })
}

/// Why a migration that is not in effect as a whole cannot be taken back.
fn absent(collection: &Collection, standings: &Standings, index: usize) -> PlanRefused {
    let id = collection.migrations[index].id.clone();
    let stopped = |item: &Item| item.standing == Standing::Stopped(Direction::Up);
    if standings.of_index(index).is_some_and(stopped) {
        PlanRefused::HalfApplied { id }
    } else {
        PlanRefused::NotInEffect { id }
    }
}

fn with_dependents(collection: &Collection, standings: &Standings, wanted: &[usize]) -> Result<Vec<usize>, PlanRefused> {
    let ids: Vec<MigrationId> = wanted.iter().map(|index| collection.migrations[*index].id.clone()).collect();
    let mut all: HashSet<usize> = graph::dependents(&collection.migrations, &ids)?.into_iter().collect();
    all.extend(wanted);
    let in_effect = |index: &usize| {
        standings
            .of_index(*index)
            .is_some_and(|item: &Item| item.standing != Standing::Pending)
    };
    let order = graph::order(&collection.migrations)?;
    Ok(order
        .into_iter()
        .rev()
        .filter(|index| all.contains(index) && in_effect(index))
        .collect())
}

/// What the caller knows beside the folder and the ledgers.
pub struct Facts<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// Its product.
    pub engine: EngineKind,
    /// Its tables.
    pub known: &'a risk::Known,
    /// What rehearsals found out.
    pub proofs: &'a [Proof],
    /// Whether a backup was asked for.
    pub backup: bool,
}

/// Puts a plan together from chosen migrations.
#[must_use]
pub fn plan(
    collection: &Collection,
    standings: &Standings,
    chosen: &[usize],
    direction: Direction,
    facts: &Facts<'_>,
) -> MigrationPlan {
    let steps: Vec<PlanStep> = chosen
        .iter()
        .filter_map(|index| {
            let item = standings.of_index(*index)?;
            Some(step(&collection.migrations[*index], item, direction, facts))
        })
        .collect();
    let mut problems = standings.problems.clone();
    // What stopped in the other direction has to come to an end first; the run would find out only after its backup.
    let other = match direction {
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    };
    problems.extend(
        standings
            .items
            .iter()
            .filter(|item| item.standing == Standing::Stopped(other))
            .map(|item| stopped_other_way(item, other)),
    );
    for step in &steps {
        if direction == Direction::Down
            && let Some(problem) = way_back_problem(step)
        {
            problems.push(problem);
        }
    }
    let backup_first =
        !steps.is_empty() && (facts.backup || direction == Direction::Down || steps.iter().any(|step| step.needs_backup));
    MigrationPlan {
        direction,
        backup_first,
        estimated_ms: steps.iter().filter_map(|step| step.estimated_ms).sum(),
        unestimated: count(&steps, |step| step.estimated_ms.is_none()),
        transforming: count(&steps, |step| step.transforms_data),
        risk: steps.iter().map(|step| step.risk).max().unwrap_or(Risk::Low),
        token: token(facts.target, direction, &steps, backup_first, None),
        steps,
        problems,
        rewind: None,
    }
}

/// What going back to a backup takes back, and what its ledger says.
pub struct Rewind<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// The backup.
    pub backup: RunId,
    /// When the run that made it was accepted.
    pub made_at: Timestamp,
    /// Ledger rows that have to be written afterwards: [`LedgerEntry::rewound`].
    pub written: &'a [LedgerEntry],
    /// Tables then and now.
    pub tables: Vec<TableAgainst>,
    /// What rehearsals found out.
    pub proofs: &'a [Proof],
    /// What stands in the way.
    pub problems: Vec<Problem>,
    /// Principals beside the one that starts the run who have to approve it.
    pub approvals_required: u32,
}

/// Puts a plan together that goes back to a backup: newest first, everything that its ledger does not have as it is now.
#[must_use]
pub fn plan_rewind(collection: &Collection, standings: &Standings, rewind: Rewind<'_>) -> MigrationPlan {
    let mut changed: Vec<(&LedgerEntry, &Item)> = rewind
        .written
        .iter()
        .filter_map(|entry| Some((entry, standings.items.iter().find(|item| item.id == entry.id)?)))
        .collect();
    // A clock says less than the order of the folder where times are equal.
    changed.sort_by_key(|(_, item)| std::cmp::Reverse((item.entry.as_ref().map(|entry| entry.at), item.index)));
    let mut problems = rewind.problems;
    let mut steps = Vec::new();
    for (entry, item) in changed {
        if matches!(entry.state, LedgerState::Applied | LedgerState::Baselined) && item.standing == Standing::Pending {
            problems.push(Problem {
                code: "COMES_BACK",
                id: item.id.clone(),
                message: format!(
                    "{} {} was in effect when the backup was made, and will be again",
                    item.id, item.name
                ),
                next_step: "nothing, if that is what is wanted".to_owned(),
                blocks: false,
            });
            continue;
        }
        let migration = item
            .index
            .and_then(|index| collection.migrations.get(index).cloned())
            .unwrap_or_else(|| without_file(item));
        steps.push(PlanStep {
            statements_done: 0,
            risk: Risk::High,
            estimated_ms: None,
            estimated_by: EstimateSource::Unknown,
            transforms_data: true,
            needs_backup: true,
            way_back: WayBack::of(&migration, rewind.proofs),
            out_of_order: item.out_of_order,
            migration,
            impacts: Vec::new(),
        });
    }
    // Whatever does not fit now is as it was afterwards: it is told, and stands in nobody's way.
    problems.extend(standings.problems.iter().map(|problem| Problem {
        blocks: false,
        ..problem.clone()
    }));
    let shape: Vec<String> = rewind
        .tables
        .iter()
        .map(|table| format!("{}{}{}", table.then.is_some(), table.now.is_some(), table.table))
        .collect();
    let about = format!("{} {}", rewind.backup, shape.join("\n"));
    MigrationPlan {
        direction: Direction::Down,
        backup_first: true,
        estimated_ms: 0,
        unestimated: count(&steps, |_| true),
        transforming: count(&steps, |_| true),
        risk: Risk::High,
        token: token(rewind.target, Direction::Down, &steps, true, Some(&about)),
        rewind: Some(RewindPlan {
            backup: rewind.backup,
            made_at: rewind.made_at,
            phrase: RewindPlan::phrase_for(rewind.target, rewind.backup, &rewind.tables, steps.len()),
            approvals_required: rewind.approvals_required,
            tables: rewind.tables,
        }),
        steps,
        problems,
    }
}

/// A migration that only the ledger knows.
fn without_file(item: &Item) -> Migration {
    Migration {
        id: item.id.clone(),
        version: String::new(),
        name: item.name.clone(),
        repeatable: false,
        up: Script {
            file: String::new(),
            sha256: item.entry.as_ref().map_or_else(String::new, |entry| entry.sha256.clone()),
            groups: Vec::new(),
            foreign_keys_off: false,
        },
        down: None,
        verify: None,
        metadata: crate::model::Metadata::default(),
        foreign_checksums: Vec::new(),
    }
}

fn count(steps: &[PlanStep], of: impl Fn(&PlanStep) -> bool) -> u32 {
    u32::try_from(steps.iter().filter(|step| of(step)).count()).unwrap_or(u32::MAX)
}

fn step(migration: &Migration, item: &Item, direction: Direction, facts: &Facts<'_>) -> PlanStep {
    let nothing = Script {
        file: migration.up.file.clone(),
        sha256: String::new(),
        groups: Vec::new(),
        foreign_keys_off: false,
    };
    let script = match direction {
        Direction::Up => &migration.up,
        Direction::Down => migration.down.as_ref().unwrap_or(&nothing),
    };
    let impacts = risk::assess(script, facts.engine, facts.known);
    let way_back = WayBack::of(migration, facts.proofs);
    let (estimated_ms, estimated_by) = estimate(migration, direction, &impacts, facts);
    let metadata = &migration.metadata;
    let changes_rows = impacts.iter().any(|impact| impact.changes_rows);
    PlanStep {
        statements_done: match item.standing {
            Standing::Stopped(stopped) if stopped == direction => item.entry.as_ref().map_or(0, |entry| entry.statements_done),
            _ => 0,
        },
        risk: risk::overall(&impacts),
        estimated_ms,
        estimated_by,
        transforms_data: metadata.data_transformation.unwrap_or(changes_rows),
        // What its opposite cannot bring back needs a backup, whatever its author says.
        needs_backup: metadata.requires_backup || impacts.iter().any(|impact| impact.loses_data),
        way_back,
        out_of_order: item.out_of_order,
        migration: migration.clone(),
        impacts,
    }
}

fn estimate(migration: &Migration, direction: Direction, impacts: &[Impact], facts: &Facts<'_>) -> (Option<u64>, EstimateSource) {
    let proof = facts
        .proofs
        .iter()
        .find(|proof| proof.id == migration.id && proof.up_sha256 == migration.up.sha256);
    if let (Direction::Up, Some(proof)) = (direction, proof.filter(|proof| !proof.sampled)) {
        return (Some(proof.up_ms), EstimateSource::Rehearsal);
    }
    if let (Direction::Up, Some(seconds)) = (direction, migration.metadata.estimated_seconds) {
        return (Some(seconds.saturating_mul(1_000)), EstimateSource::Author);
    }
    let each: Option<Vec<u64>> = impacts
        .iter()
        .map(|impact| risk::estimate_ms(impact, facts.known, facts.engine))
        .collect();
    let size: Option<u64> = each.map(|each| each.iter().sum());
    // What a sample says of all rows is mostly too long: what takes as long with few rows was multiplied as well.
    match (size, proof.filter(|_| direction == Direction::Up)) {
        (Some(size), Some(proof)) if size <= proof.up_ms => (Some(size), EstimateSource::Size),
        (_, Some(proof)) => (Some(proof.up_ms), EstimateSource::Rehearsal),
        (Some(size), None) => (Some(size), EstimateSource::Size),
        (None, None) => (None, EstimateSource::Unknown),
    }
}

fn stopped_other_way(item: &Item, stopped: Direction) -> Problem {
    let (script, command) = match stopped {
        Direction::Up => ("up", "apply"),
        Direction::Down => ("down", "rollback"),
    };
    Problem {
        code: "STOPPED_OTHER_WAY",
        id: item.id.clone(),
        message: format!("{} {} stopped in the middle of its {script} script", item.id, item.name),
        next_step: format!(
            "finish that by `dbkeep migrations {command}`, or `dbkeep migrations repair {}`",
            item.id
        ),
        blocks: true,
    }
}

/// What speaks against rolling a migration back by its script.
fn way_back_problem(step: &PlanStep) -> Option<Problem> {
    let (id, name) = (&step.migration.id, &step.migration.name);
    let (code, message) = match &step.way_back {
        WayBack::Proven(_) => return None,
        WayBack::Absent => ("DOWN_MISSING", format!("{id} {name} has no down script")),
        WayBack::Empty => ("DOWN_EMPTY", format!("the down script of {id} {name} has no statement")),
        WayBack::Unproven => (
            "DOWN_UNPROVEN",
            format!("no rehearsal has shown that the down script of {id} {name} brings back what was before"),
        ),
        WayBack::Sampled(proof) => (
            "DOWN_SAMPLED",
            format!(
                "a rehearsal (run {}, {}) showed that the down script of {id} {name} brings back what was before, and saw a sample of the rows only",
                proof.run, proof.at
            ),
        ),
        WayBack::Lossy(proof) => (
            "DOWN_LOSSY",
            format!(
                "a rehearsal (run {}, {}) showed that the down script of {id} {name} works, and loses data of what it drops: up brings back the schema only",
                proof.run, proof.at
            ),
        ),
        WayBack::Refuted(proof) => (
            "DOWN_REFUTED",
            format!(
                "a rehearsal (run {}, {}) showed that the down script of {id} {name} does not bring back what was before",
                proof.run, proof.at
            ),
        ),
    };
    let next_step = match step.way_back {
        WayBack::Absent => {
            format!(
                "write one, or go back to the backup that was made before {id} was applied: `dbkeep migrations rollback --from-backup`"
            )
        }
        WayBack::Unproven | WayBack::Sampled(_) => format!(
            "rehearse it on all rows: `dbkeep migrations test --applied {id}`; or say that it is to be taken unproven: the database is saved first"
        ),
        _ => "say that it is to be taken all the same (unproven): the database is saved first".to_owned(),
    };
    Some(Problem {
        code,
        id: id.clone(),
        message,
        next_step,
        blocks: true,
    })
}

/// Tells plans apart; parts are framed by their lengths.
fn token(target: &str, direction: Direction, steps: &[PlanStep], backup_first: bool, rewind: Option<&str>) -> String {
    let mut hasher = Sha256::new();
    let mut part = |text: &str| {
        hasher.update(text.len().to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(target);
    part(match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    });
    part(if backup_first { "backup" } else { "" });
    if let Some(rewind) = rewind {
        part("rewind");
        part(rewind);
    }
    for step in steps {
        part(&step.migration.id.0);
        part(&step.migration.up.sha256);
        part(&step.migration.digest());
        part(&step.statements_done.to_string());
    }
    hex::encode(hasher.finalize())
}
