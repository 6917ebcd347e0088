//! Going back to a backup of the whole database, as callers ask for it: which backup, what of the present it does not have, and what
//! stands in the way. The work of the run is in [`crate::run`].

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{Engine, MIGRATIONS, MigrationStatus, maintenance, plan_refused};
use crate::{
    EngineError,
    migration::{
        plan::{self, MigrationPlan, Rewind, RewindPlan, Selection, TableAgainst},
        standing::{Item, Problem},
    },
    model::{
        BackupRecord, LedgerEntry, MigrationId, MigrationRecord, Run, RunId, StepReport, TableCount, TableName, Verification,
    },
    port::ArchiveError,
    run::load::description,
};

/// Code of the problem that a backup is of another database, which a request may pass over.
pub(super) const OTHER_DATABASE: &str = "BACKUP_OTHER_DATABASE";

/// Steps of such a run: the present state is saved, then everything is replaced.
pub(super) fn steps(backup: RunId) -> Vec<StepReport> {
    let step = |operation: &str, rule: String| StepReport {
        operation: operation.to_owned(),
        rule,
        table: "the whole database".to_owned(),
        ..StepReport::default()
    };
    vec![
        step("backup", String::new()),
        step("migrations", format!("from backup {backup}")),
    ]
}

/// What such a run holds: who works on a table that is replaced would not know what of its work is left.
pub(super) fn held(rewind: &RewindPlan) -> Vec<String> {
    let tables = rewind.tables.iter().map(|table| table.table.to_string());
    std::iter::once(MIGRATIONS.to_owned()).chain(tables).collect()
}

impl Engine {
    /// What going back to a backup would do. An empty `backup` is the one that was made before the oldest of these migrations was
    /// applied. Changes nothing.
    ///
    /// # Errors
    /// As [`Engine::plan_migrations`], and `UnknownBackup`, `BackupPruned`, `BackupKind`, `MigrationsBlocked`, `ToolUnavailable`.
    pub async fn plan_rewind(
        &self,
        target: &str,
        selection: &Selection,
        backup: &str,
    ) -> Result<(MigrationStatus, MigrationPlan), EngineError> {
        let (name, entry, _) = self.migrations(target)?;
        let status = self.migration_status(target).await?;
        let wanted = if *selection == Selection::All {
            Vec::new()
        } else {
            plan::choose_down(&status.collection, &status.standings, selection).map_err(plan_refused(name))?
        };
        let asked: Vec<&Item> = wanted.iter().filter_map(|index| status.standings.of_index(*index)).collect();
        let backup = if backup.is_empty() {
            backup_before(name, &asked)?.to_string()
        } else {
            backup.to_owned()
        };
        let source = self.backup_run(&backup).await?;
        let record = whole_database(name, &source)?;
        let mut problems = Vec::new();
        let then = match self.ledger_of(&source, &record).await? {
            Ok(ledger) => ledger,
            Err(problem) => {
                problems.push(blocks("BACKUP_DAMAGED", format!("backup {}: {problem}", source.id)));
                Vec::new()
            }
        };
        if let Verification::Damaged(at) = source.verification {
            let message = format!("backup {} was found damaged at {at}", source.id);
            problems.push(blocks("BACKUP_DAMAGED", message));
        }
        let here = entry.target.identity().await.map_err(EngineError::target(name))?;
        if let Some(difference) = here.differs_from(&record.identity) {
            problems.push(Problem {
                code: OTHER_DATABASE,
                id: MigrationId(String::new()),
                message: format!("backup {} is of another database: {difference}", source.id),
                next_step: "name a backup of this database, or say that it is to be taken all the same (other_database)"
                    .to_owned(),
                blocks: true,
            });
        }
        let now = entry.target.migrator().ledger().await.map_err(EngineError::target(name))?;
        let written = LedgerEntry::rewound(&now, &then, RunId::default(), "");
        if problems.iter().all(|problem| problem.code == OTHER_DATABASE) {
            for item in asked {
                if written.iter().all(|entry| entry.id != item.id) {
                    problems.push(Problem {
                        code: "BACKUP_TOO_NEW",
                        id: item.id.clone(),
                        message: format!(
                            "{} {} was in effect already when backup {} was made, so that going back to it does not take it back",
                            item.id, item.name, source.id
                        ),
                        next_step: "name an older backup, or only migrations that came after it".to_owned(),
                        blocks: true,
                    });
                }
            }
        }
        let tables = entry.target.rewinder().survey().await.map_err(maintenance(name))?;
        let rewind = Rewind {
            target: name,
            backup: source.id,
            made_at: source.created_at,
            written: &written,
            tables: against(&record.tables, &tables),
            proofs: &status.proofs,
            problems,
            approvals_required: self.context.settings.approvals,
        };
        let plan = plan::plan_rewind(&status.collection, &status.standings, rewind);
        Ok((status, plan))
    }

    /// Lets a new run wait for the consent of others: it drops and makes everything, as no run of severity CRITICAL does.
    pub(super) fn await_consent(&self, run: &mut Run, rewind: &RewindPlan) {
        run.approvals_required = rewind.approvals_required;
        if run.approvals_required == 0 {
            return;
        }
        let until = run.created_at.checked_add(self.context.settings.plan_lifetime);
        let until = until.unwrap_or(Timestamp::MAX);
        run.approve_until = Some(until);
        let others = match run.approvals_required {
            1 => "a principal".to_owned(),
            number => format!("{number} principals"),
        };
        run.state_reason = format!(
            "waits until {until:.0} for approval by {others} other than {}",
            run.started_by
        );
    }

    /// Looks again at what going back to a backup means, for somebody who approves it: the tables to take.
    ///
    /// # Errors
    /// As [`Engine::plan_rewind`], `MigrationsBlocked`, and `MigrationPlanChanged` where it is not what was reviewed.
    pub(in crate::engine) async fn recheck_rewind(
        &self,
        target: &str,
        record: &MigrationRecord,
        backup: RunId,
    ) -> Result<Vec<String>, EngineError> {
        let (_, plan) = self.plan_rewind(target, &Selection::All, &backup.to_string()).await?;
        let excused = |problem: &&Problem| record.options.other_database && problem.code == OTHER_DATABASE;
        let blocking: Vec<Problem> = plan.blocking().filter(|problem| !excused(problem)).cloned().collect();
        if !blocking.is_empty() {
            return Err(EngineError::MigrationsBlocked {
                target: target.to_owned(),
                problems: blocking,
            });
        }
        match &plan.rewind {
            Some(rewind) if plan.token == record.token => Ok(held(rewind)),
            _ => Err(EngineError::MigrationPlanChanged {
                target: target.to_owned(),
            }),
        }
    }

    /// The ledger of migrations that lies beside a backup. The inner error says what is damaged, or missing.
    async fn ledger_of(&self, source: &Run, record: &BackupRecord) -> Result<Result<Vec<LedgerEntry>, String>, EngineError> {
        let (archive, record, id) = (Arc::clone(&self.context.archive), record.clone(), source.id);
        let reading = tokio::task::spawn_blocking(move || description(archive.as_ref(), id, &record));
        let read = reading.await.map_err(|error| ArchiveError::Io {
            path: "a task of this server".to_owned(),
            source: std::io::Error::other(error),
        })?;
        Ok(read?.and_then(|description| description.ledger()))
    }
}

fn blocks(code: &'static str, message: String) -> Problem {
    Problem {
        code,
        id: MigrationId(String::new()),
        message,
        next_step: "name another backup: `dbkeep backups list` has those that are there".to_owned(),
        blocks: true,
    }
}

/// The backup that was made before the oldest of these migrations was applied.
fn backup_before(target: &str, asked: &[&Item]) -> Result<RunId, EngineError> {
    let oldest = asked
        .iter()
        .min_by_key(|item| (item.applied_at.or(item.entry.as_ref().map(|entry| entry.at)), item.index));
    let Some(oldest) = oldest else {
        return Err(EngineError::NothingToMigrate {
            target: target.to_owned(),
        });
    };
    oldest
        .entry
        .as_ref()
        .and_then(|entry| entry.backup)
        .ok_or_else(|| EngineError::MigrationsBlocked {
            target: target.to_owned(),
            problems: vec![Problem {
                code: "NO_BACKUP",
                id: oldest.id.clone(),
                message: format!("no backup was made before {} {} was applied", oldest.id, oldest.name),
                next_step: "name the backup to go back to (`dbkeep backups list`), or take it back by its down script".to_owned(),
                blocks: true,
            }],
        })
}

/// What a backup of this target's whole database holds.
fn whole_database(target: &str, source: &Run) -> Result<BackupRecord, EngineError> {
    if let Some(pruned) = source.pruned {
        return Err(EngineError::BackupPruned {
            backup: source.id,
            at: pruned.at,
        });
    }
    let unfit = |expected: String| EngineError::BackupKind {
        backup: source.id,
        expected,
    };
    if source.target != target {
        return Err(unfit(format!("one of target {target}; this one is of {}", source.target)));
    }
    if !source.state.is_final() {
        return Err(EngineError::WrongState {
            run: source.id,
            state: source.state,
            expected: "a run that has ended",
        });
    }
    match source.whole_backup() {
        Some(record) if record.asked.is_empty() => Ok(record.clone()),
        _ => Err(unfit("a backup of the whole database".to_owned())),
    }
}

fn against(then: &[TableCount], now: &[TableCount]) -> Vec<TableAgainst> {
    let mut tables: BTreeMap<&TableName, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for table in then {
        tables.entry(&table.table).or_default().0 = Some(table.rows);
    }
    for table in now {
        tables.entry(&table.table).or_default().1 = Some(table.rows);
    }
    tables
        .into_iter()
        .map(|(table, (then, now))| TableAgainst {
            table: table.clone(),
            then,
            now,
        })
        .collect()
}
