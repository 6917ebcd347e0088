//! Changing the ledger itself: baselines and repairs. Each is explicit, says what it will mean before it is done, and is on record.

use std::time::Duration;

use jiff::Timestamp;

use super::{Engine, act_id};
use crate::{
    EngineError,
    migration::{
        plan::{self, Selection},
        standing::{Item, Problem, Standing, Word},
    },
    model::{Act, Caller, Decision, Direction, LedgerEntry, LedgerState, Migration, MigrationId, RunId, Script, StatementReport},
    port::{Claim, IndexState, MigratorError, TargetError, TargetErrorClass},
    run::migrate::index_of,
};

/// Length of the lease for one change of the ledger.
const TERM: Duration = Duration::from_secs(30);

/// What can be done to a ledger row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairAction {
    /// The statement at which it stopped is run by the next apply or rollback.
    Retry,
    /// The statement at which it stopped counts as done, and where it is one of several in a transaction, all that are left of those.
    Skip,
    /// All of it counts as in effect.
    MarkApplied,
    /// None of it counts as in effect.
    MarkPending,
    /// What the file holds now counts as what was applied.
    AcceptChecksum,
    /// The index that the statement left invalid is dropped; then as [`RepairAction::Retry`].
    DropInvalidIndex,
}

impl RepairAction {
    /// Every action.
    pub const ALL: [Self; 6] = [
        Self::Retry,
        Self::Skip,
        Self::MarkApplied,
        Self::MarkPending,
        Self::AcceptChecksum,
        Self::DropInvalidIndex,
    ];

    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::MarkApplied => "mark-applied",
            Self::MarkPending => "mark-pending",
            Self::AcceptChecksum => "accept-checksum",
            Self::DropInvalidIndex => "drop-invalid-index",
        }
    }
}

/// Something that may be done, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairProposal {
    /// What.
    pub action: RepairAction,
    /// What it means.
    pub effect: String,
}

/// What is wrong with a ledger row, and what may be done or was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The migration.
    pub id: MigrationId,
    /// What is there, in sentences.
    pub explanation: Vec<String>,
    /// What may be done; empty where nothing needs to.
    pub proposals: Vec<RepairProposal>,
    /// What was done; `None` where only the explanation was asked for.
    pub done: Option<RepairAction>,
    /// The ledger row now; `None` where there is none.
    pub entry: Option<LedgerEntry>,
}

impl Engine {
    /// Says that migrations are in effect which dbkeep did not apply; returns their ids. Nothing is executed.
    ///
    /// # Errors
    /// As [`Engine::plan_migrations`], and `NothingToMigrate`, `MigrationsHeld`, `MigrationLedgerMoved`.
    pub async fn baseline_migrations(
        &self,
        target: &str,
        selection: &Selection,
        caller: &Caller,
    ) -> Result<Vec<MigrationId>, EngineError> {
        let answer = self.baseline(target, selection, caller).await;
        self.noted_migrations(Act::Baseline, target, caller, answer).await
    }

    async fn baseline(&self, target: &str, selection: &Selection, caller: &Caller) -> Result<Vec<MigrationId>, EngineError> {
        let (name, ..) = self.migrations(target)?;
        let status = self.migration_status(target).await?;
        let chosen = plan::choose_up(&status.collection, &status.standings, selection).map_err(super::plan_refused(name))?;
        let rows: Vec<(&Migration, Option<LedgerEntry>)> = chosen
            .iter()
            .filter_map(|index| {
                let item = status.standings.of_index(*index)?;
                (item.standing == Standing::Pending).then(|| (&status.collection.migrations[*index], item.entry.clone()))
            })
            .collect();
        if rows.is_empty() {
            return Err(EngineError::NothingToMigrate { target: name.to_owned() });
        }
        let ids: Vec<MigrationId> = rows.iter().map(|(migration, _)| migration.id.clone()).collect();
        let listed = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let decision = Decision::allow(caller, Act::Baseline, format!("migrations {listed}"));
        let run = act_id(&decision);
        let entries = rows
            .into_iter()
            .map(|(migration, before)| {
                let after = row(migration, LedgerState::Baselined, caller, run);
                (before, after)
            })
            .collect();
        self.change_ledger(name, decision, None, entries).await?;
        Ok(ids)
    }

    /// Explains what is wrong with a migration's ledger row and what may be done about it; with an action, does that.
    ///
    /// # Errors
    /// As [`Engine::migration`], and `RepairRefused`, `MigrationsHeld`, `MigrationLedgerMoved`.
    pub async fn repair_ledger(
        &self,
        target: &str,
        wanted: &str,
        action: Option<RepairAction>,
        caller: &Caller,
    ) -> Result<Repair, EngineError> {
        let answer = self.repair(target, wanted, action, caller).await;
        if action.is_none() {
            return answer;
        }
        self.noted_migrations(Act::Repair, target, caller, answer).await
    }

    async fn repair(
        &self,
        target: &str,
        wanted: &str,
        action: Option<RepairAction>,
        caller: &Caller,
    ) -> Result<Repair, EngineError> {
        let (name, entry, _) = self.migrations(target)?;
        let view = self.migration(target, wanted).await?;
        let item = &view.status.standings.items[view.item];
        let migration = view.status.collection.migrations.get(view.item);
        let problems: Vec<&Problem> = view
            .status
            .standings
            .problems
            .iter()
            .filter(|problem| problem.id == item.id)
            .collect();
        let index = match stopped_at(item, migration) {
            Some((script, statement)) => index_of(entry.target.as_ref(), script, statement)
                .await
                .map_err(EngineError::target(name))?,
            None => None,
        };
        let mut explanation: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
        if let Some((index, state)) = &index {
            explanation.push(match state {
                IndexState::Absent => format!("index {index} is not there"),
                IndexState::Valid => format!("index {index} is there and valid"),
                IndexState::Invalid => format!("index {index} is there and invalid: it costs every write and serves no query"),
            });
        }
        let proposals = proposals(item, migration, &problems, index.as_ref());
        if explanation.is_empty() {
            explanation.push(format!("nothing is wrong with {} {}", item.id, item.name));
            if let (Standing::Baselined, Some(entry)) = (item.standing, &item.entry) {
                explanation.push(format!(
                    "it counts as in effect because {} said so on {}; what of it was executed is not known",
                    entry.by, entry.at
                ));
            }
        }
        let mut repair = Repair {
            id: item.id.clone(),
            explanation,
            proposals,
            done: None,
            entry: item.entry.clone(),
        };
        let Some(action) = action else { return Ok(repair) };
        if !repair.proposals.iter().any(|proposal| proposal.action == action) {
            let offered = repair
                .proposals
                .iter()
                .map(|proposal| proposal.action.name())
                .collect::<Vec<_>>();
            return Err(EngineError::RepairRefused {
                id: item.id.0.clone(),
                action: action.name(),
                offered: if offered.is_empty() {
                    "nothing: nothing is wrong with it".to_owned()
                } else {
                    offered.join(", ")
                },
            });
        }
        let Some(migration) = migration else {
            return Err(EngineError::RepairRefused {
                id: item.id.0.clone(),
                action: action.name(),
                offered: "nothing: its file is not in the folder".to_owned(),
            });
        };
        let dropped = (action == RepairAction::DropInvalidIndex)
            .then_some(index)
            .flatten()
            .map(|(index, _)| index);
        let what = dropped.as_ref().map_or_else(String::new, |index| format!(" {index}"));
        let decision = Decision::allow(
            caller,
            Act::Repair,
            format!("{}{what} of migration {}", action.name(), item.id),
        );
        let run = act_id(&decision);
        let after = repaired(item, migration, action, caller, run);
        self.change_ledger(name, decision, dropped.as_deref(), vec![(item.entry.clone(), after.clone())])
            .await?;
        repair.done = Some(action);
        repair.entry = Some(after);
        Ok(repair)
    }

    /// Changes ledger rows under a lease of its own, after dropping an index that is not valid. The record comes first: without it there
    /// is no act.
    async fn change_ledger(
        &self,
        name: &str,
        decision: Decision,
        dropped: Option<&str>,
        entries: Vec<(Option<LedgerEntry>, LedgerEntry)>,
    ) -> Result<(), EngineError> {
        let (_, entry) = self.target(name)?;
        let claim = Claim {
            run: act_id(&decision),
            fence: 1,
        };
        self.context.store.record(&decision.about(name, None, None)).await?;
        let target = entry.target.as_ref();
        target.claim(claim).await.map_err(EngineError::target(name))?;
        let migrator = target.migrator();
        let holder = &self.context.settings.holder;
        migrator.lease(claim, holder, TERM).await.map_err(migrator_error(name))?;
        let changed = async {
            if let Some(index) = dropped {
                migrator.drop_invalid_index(claim, index).await?;
            }
            migrator.note(claim, &entries).await
        };
        let changed = changed.await;
        // Lapses by itself where this fails.
        let _ = migrator.unlease(claim).await;
        changed.map_err(migrator_error(name))
    }
}

fn migrator_error(target: &str) -> impl Fn(MigratorError) -> EngineError + '_ {
    move |error| match error {
        MigratorError::Target(source) => EngineError::Target {
            target: target.to_owned(),
            source,
        },
        MigratorError::LeaseHeld { holder, run, until } => EngineError::MigrationsHeld {
            target: target.to_owned(),
            holder,
            run,
            until,
        },
        MigratorError::LedgerMoved { problem } => EngineError::MigrationLedgerMoved {
            target: target.to_owned(),
            problem,
        },
        // A change of the ledger executes nothing that could fail otherwise.
        other => EngineError::Target {
            target: target.to_owned(),
            source: TargetError::new(TargetErrorClass::Refused, other.to_string()),
        },
    }
}

fn row(migration: &Migration, state: LedgerState, caller: &Caller, run: RunId) -> LedgerEntry {
    let statements = u32::try_from(migration.up.statement_count()).unwrap_or(u32::MAX);
    let in_effect = matches!(state, LedgerState::Applied | LedgerState::Baselined);
    LedgerEntry {
        id: migration.id.clone(),
        name: migration.name.clone(),
        sha256: migration.up.sha256.clone(),
        state,
        statements_done: if in_effect { statements } else { 0 },
        statements,
        in_doubt: false,
        problem: String::new(),
        rows: 0,
        duration_ms: 0,
        at: Timestamp::UNIX_EPOCH,
        by: caller.principal.clone(),
        run,
        backup: None,
        script_sha256: migration.up.digest(),
    }
}

/// The script and the position of the statement at which a migration stopped.
fn stopped_at<'a>(item: &Item, migration: Option<&'a Migration>) -> Option<(&'a Script, u32)> {
    let migration = migration?;
    let Standing::Stopped(direction) = item.standing else {
        return None;
    };
    let script = match direction {
        Direction::Up => &migration.up,
        Direction::Down => migration.down.as_ref()?,
    };
    Some((script, item.entry.as_ref()?.statements_done))
}

fn proposals(
    item: &Item,
    migration: Option<&Migration>,
    problems: &[&Problem],
    index: Option<&(String, IndexState)>,
) -> Vec<RepairProposal> {
    let mut proposals = Vec::new();
    let mut propose = |action, effect: String| proposals.push(RepairProposal { action, effect });
    let Some(migration) = migration else { return proposals };
    if let (Standing::Stopped(direction), Some(entry)) = (item.standing, &item.entry) {
        let next = entry.statements_done + 1;
        let command = match direction {
            Direction::Up => "apply",
            Direction::Down => "rollback",
        };
        let script = match direction {
            Direction::Up => Some(&migration.up),
            Direction::Down => migration.down.as_ref(),
        };
        if script.is_none_or(|script| script.digest() != entry.script_sha256) {
            let done = usize::try_from(entry.statements_done).unwrap_or(usize::MAX);
            if !entry.in_doubt && script.is_some_and(|script| script.is_boundary(done) && done <= script.statement_count()) {
                propose(
                    RepairAction::AcceptChecksum,
                    format!(
                        "the first {done} statements of the script as it is now count as those that took effect, and the next {command} goes on after them"
                    ),
                );
            }
            propose(
                RepairAction::MarkApplied,
                "all of it counts as in effect; right where the rest was done by hand".to_owned(),
            );
            propose(
                RepairAction::MarkPending,
                "none of it counts as in effect; right where what took effect was taken back by hand".to_owned(),
            );
            return proposals;
        }
        if matches!(index, Some((_, IndexState::Invalid))) {
            propose(
                RepairAction::DropInvalidIndex,
                format!("the invalid index is dropped, and the next {command} runs statement {next} again"),
            );
        }
        if entry.in_doubt {
            propose(
                RepairAction::Retry,
                format!("the next {command} runs statement {next} again; right where it did not take effect"),
            );
        }
        // Where all of them took effect there is none to skip: what is left are its checks.
        if let Some(script) = script.filter(|_| entry.statements_done < entry.statements) {
            propose(
                RepairAction::Skip,
                skipped_in_words(script, migration, direction, entry.statements_done),
            );
        }
        propose(
            RepairAction::MarkApplied,
            "all of it counts as in effect; right where the rest was done by hand".to_owned(),
        );
        propose(
            RepairAction::MarkPending,
            format!(
                "none of it counts as in effect; right where its first {} statements were taken back by hand",
                entry.statements_done
            ),
        );
    }
    if item.standing == Standing::Baselined {
        propose(
            RepairAction::MarkPending,
            "it counts as not in effect, and the next apply runs it; right where it was a mistake to count it, and nobody, no other tool either, has executed it".to_owned(),
        );
    }
    if item.change.is_some() {
        propose(
            RepairAction::AcceptChecksum,
            "the file as it is now counts as what was applied; nothing is executed".to_owned(),
        );
    }
    if problems
        .iter()
        .any(|problem| matches!(problem.code, "FOREIGN_FAILED" | "FOREIGN_UNDATED"))
    {
        propose(
            RepairAction::MarkApplied,
            "it counts as in effect; the other tool's ledger stays as it is".to_owned(),
        );
        propose(
            RepairAction::MarkPending,
            "it counts as not in effect, and the next apply runs it; the other tool's ledger stays as it is".to_owned(),
        );
    }
    proposals
}

/// What skipping means, with every statement that then counts as done.
fn skipped_in_words(script: &Script, migration: &Migration, direction: Direction, done: u32) -> String {
    let rest = script.rest_of_group(usize::try_from(done).unwrap_or(usize::MAX));
    let named: Vec<String> = script
        .statements()
        .enumerate()
        .skip(rest.start)
        .take(rest.len())
        .map(|(place, one)| {
            format!(
                "{} ({}:{}: {})",
                place + 1,
                script.file,
                one.line,
                StatementReport::excerpt_of(&one.sql)
            )
        })
        .collect();
    let command = match direction {
        Direction::Up => "apply",
        Direction::Down => "rollback",
    };
    let next = if rest.end < script.statement_count() {
        format!("the next {command} goes on after that")
    } else if asks_afterwards(migration, direction) {
        format!("the next {command} asks its checks and executes nothing")
    } else {
        "it then has come to its end".to_owned()
    };
    if let [only] = &named[..] {
        return format!("statement {only} counts as done, and {next}; right where it took effect, or was done by hand");
    }
    format!(
        "statements {}, which are one transaction, count as done, and {next}; right where all of them were done by hand",
        named.join(", ")
    )
}

/// Whether something is asked once all statements are through.
fn asks_afterwards(migration: &Migration, direction: Direction) -> bool {
    direction == Direction::Up && (!migration.metadata.checks_after.is_empty() || migration.verify.is_some())
}

fn repaired(item: &Item, migration: &Migration, action: RepairAction, caller: &Caller, run: RunId) -> LedgerEntry {
    let now = item
        .entry
        .clone()
        .unwrap_or_else(|| row(migration, LedgerState::Baselined, caller, run));
    let same = LedgerEntry {
        by: caller.principal.clone(),
        run,
        ..now
    };
    match action {
        RepairAction::Retry | RepairAction::DropInvalidIndex => LedgerEntry {
            in_doubt: false,
            problem: String::new(),
            ..same
        },
        RepairAction::Skip => {
            let (script, direction) = match same.state {
                LedgerState::Reverting => (migration.down.as_ref(), Direction::Down),
                _ => (Some(&migration.up), Direction::Up),
            };
            let before = usize::try_from(same.statements_done).unwrap_or(usize::MAX);
            // The proposal was made for a script that is there.
            let end = script.map_or(before, |script| script.rest_of_group(before).end);
            let done = u32::try_from(end).unwrap_or(u32::MAX);
            let all = done >= same.statements && !asks_afterwards(migration, direction);
            LedgerEntry {
                in_doubt: false,
                problem: String::new(),
                statements_done: done,
                state: match (same.state, all) {
                    (LedgerState::Applying, true) => LedgerState::Applied,
                    (LedgerState::Reverting, true) => LedgerState::RolledBack,
                    (state, _) => state,
                },
                ..same
            }
        }
        RepairAction::MarkApplied => LedgerEntry {
            backup: same.backup,
            ..row(migration, LedgerState::Baselined, caller, run)
        },
        RepairAction::MarkPending => LedgerEntry {
            backup: same.backup,
            problem: item.elsewhere.as_ref().map(Word::known).unwrap_or_default(),
            ..row(migration, LedgerState::RolledBack, caller, run)
        },
        RepairAction::AcceptChecksum => {
            let script = match same.state {
                LedgerState::Reverting => migration.down.as_ref(),
                _ => Some(&migration.up),
            };
            let count = script.map_or(0, |script| u32::try_from(script.statement_count()).unwrap_or(u32::MAX));
            LedgerEntry {
                sha256: migration.up.sha256.clone(),
                script_sha256: script.map(Script::digest).unwrap_or_default(),
                statements: count,
                problem: String::new(),
                ..same
            }
        }
    }
}
