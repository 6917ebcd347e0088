//! Migrations as callers ask for them: status, plan, and the runs that test, apply and roll back. What a folder means is in
//! [`crate::migration`], the work of the runs in [`crate::run`]; `permit` refuses, `repair` changes the ledger itself,
//! `rewind` goes back to a backup.

mod permit;
mod repair;
mod rewind;

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use permit::{check_options, check_sample, permit, request_digest};
pub use repair::{Repair, RepairAction, RepairProposal};

use super::{Engine, TargetEntry, request_id};
use crate::{
    EngineError,
    migration::{
        draft, graph,
        plan::{self, Facts, MigrationPlan, PlanRefused, Selection},
        risk::{self, Known},
        source::{self, Collection},
        standing::{Problem, Standings, standings},
    },
    model::{
        Act, BackupRecord, Caller, Decision, Direction, EngineKind, ForeignLedger, Impact, Layout, LedgerEntry, Migration,
        MigrationId, MigrationOptions, MigrationRecord, Plan, Proof, Report, Run, RunId, RunKind, RunOptions, Sample, TableName,
    },
    port::{CreateRun, MaintenanceError, MigrationFolder, SourceFile, TargetError},
    run::migrate::steps,
};

/// The pseudo-table that a run of migrations holds, so that there is one at a time on a target.
pub const MIGRATIONS: &str = "dbkeep migrations";
/// Most migrations that a request may name.
pub const MAX_NAMED: usize = 1_000;
/// Most tables whose keys and indexes are looked at for a plan.
const MAX_LOOKED_AT: usize = 200;

/// Where a target's migrations come from.
#[derive(Clone)]
pub struct Migrations {
    /// The folder.
    pub folder: Arc<dyn MigrationFolder>,
    /// Its layout; `None` to detect it.
    pub layout: Option<Layout>,
}

/// A folder as it stands on its target.
#[derive(Debug, Clone)]
pub struct MigrationStatus {
    /// The target.
    pub target: String,
    /// The folder.
    pub place: String,
    /// What is in it.
    pub collection: Collection,
    /// Where each migration stands.
    pub standings: Standings,
    /// What rehearsals of this database found out.
    pub proofs: Vec<Proof>,
}

/// One migration with all there is to know.
#[derive(Debug, Clone)]
pub struct MigrationView {
    /// The status that it was taken from.
    pub status: MigrationStatus,
    /// Its position among the items of the status.
    pub item: usize,
    /// What its up script will do, statement by statement.
    pub up: Vec<Impact>,
    /// The same of its down script.
    pub down: Vec<Impact>,
}

/// A request to apply, roll back or rehearse.
#[derive(Debug, Clone)]
pub struct MigrateRequest {
    /// Makes the call idempotent; empty for a new one.
    pub request_id: String,
    /// Target; may be empty where there is one.
    pub target: String,
    /// Which migrations.
    pub selection: Selection,
    /// Token of the plan that was reviewed; empty for none.
    pub token: String,
    /// Save the whole database first, whatever the migrations say.
    pub backup: bool,
    /// Backwards: go back to a backup of the whole database rather than by scripts. Empty for the one that was made before the oldest of
    /// these migrations was applied.
    pub from_backup: Option<String>,
    /// What was typed to confirm.
    pub phrase: String,
    /// Rehearsals: of migrations that are in effect, chosen as for a rollback; otherwise of pending ones.
    pub in_effect: bool,
    /// Rehearsals: copy no rows.
    pub schema_only: bool,
    /// Rehearsals: copy some of the rows.
    pub sample: Option<Sample>,
    /// How.
    pub options: MigrationOptions,
    /// Who asks.
    pub caller: Caller,
}

/// What a run executes, as it stood when the run was accepted; `None` where the same request was accepted before.
pub type Planned = Option<(MigrationStatus, MigrationPlan)>;

impl Engine {
    fn migrations(&self, target: &str) -> Result<(&str, &TargetEntry, &Migrations), EngineError> {
        let (name, entry) = self.target(target)?;
        let migrations = entry
            .migrations
            .as_ref()
            .ok_or_else(|| EngineError::NoMigrations { target: name.to_owned() })?;
        Ok((name, entry, migrations))
    }

    async fn collection(&self, name: &str, entry: &TargetEntry, migrations: &Migrations) -> Result<Collection, EngineError> {
        let place = migrations.folder.place();
        let files = migrations
            .folder
            .files()
            .await
            .map_err(|error| EngineError::MigrationSource {
                target: name.to_owned(),
                place: place.clone(),
                problem: error.to_string(),
            })?;
        source::read(&files, entry.target.engine(), migrations.layout).map_err(|error| EngineError::MigrationSource {
            target: name.to_owned(),
            place,
            problem: error.to_string(),
        })
    }

    /// Where every migration of the folder stands on the target. Changes nothing.
    ///
    /// # Errors
    /// `UnknownTarget`, `NoMigrations`, `MigrationSource`, `Target`, `Store`.
    pub async fn migration_status(&self, target: &str) -> Result<MigrationStatus, EngineError> {
        let (name, entry, migrations) = self.migrations(target)?;
        let collection = self.collection(name, entry, migrations).await?;
        let (ledger, foreign) = ledgers(entry).await.map_err(EngineError::target(name))?;
        let mut standings = standings(&collection, &ledger, &foreign);
        // A plan is refused for it; whoever only looks hears of it here.
        if let Err(problem) = graph::order(&collection.migrations) {
            standings.problems.push(Problem {
                code: "GRAPH",
                id: MigrationId(String::new()),
                message: problem.to_string(),
                next_step: "correct the depends-on lines that the message names".to_owned(),
                blocks: true,
            });
        }
        let mut proofs = self.context.store.proofs(name).await?;
        if !proofs.is_empty() {
            // The name may mean another database than it did then.
            let here = entry.target.identity().await.map_err(EngineError::target(name))?;
            proofs.retain(|proof| proof.is_of(&here));
        }
        Ok(MigrationStatus {
            target: name.to_owned(),
            place: migrations.folder.place(),
            collection,
            standings,
            proofs,
        })
    }

    /// One migration, with what its statements will do.
    ///
    /// # Errors
    /// As [`Engine::migration_status`], and `UnknownMigration`.
    pub async fn migration(&self, target: &str, wanted: &str) -> Result<MigrationView, EngineError> {
        let (name, entry, _) = self.migrations(target)?;
        let status = self.migration_status(target).await?;
        let found = plan::find(&status.collection, wanted);
        let only_in_ledger = || status.standings.items.iter().position(|item| item.id.0 == wanted);
        let item = match found {
            Ok(index) => index,
            Err(refused) => only_in_ledger().ok_or_else(|| plan_refused(name)(refused))?,
        };
        let (mut up, mut down) = (Vec::new(), Vec::new());
        if let Some(migration) = status.collection.migrations.get(item) {
            let known = known(entry, [migration]).await.map_err(EngineError::target(name))?;
            let engine = entry.target.engine();
            up = risk::assess(&migration.up, engine, &known);
            if let Some(script) = &migration.down {
                down = risk::assess(script, engine, &known);
            }
        }
        Ok(MigrationView { status, item, up, down })
    }

    /// What a run would do. Changes nothing, and refuses whatever the run would refuse; what is refused there for want of a token or a
    /// proof is among the plan's problems.
    ///
    /// # Errors
    /// `UnknownTarget`, `NoMigrations`, `MigrationSource`, `UnknownMigration`, `MigrationGraph`, `InvalidField`, `Target`, `Store`.
    pub async fn plan_migrations(
        &self,
        target: &str,
        direction: Direction,
        selection: &Selection,
        backup: bool,
    ) -> Result<(MigrationStatus, MigrationPlan), EngineError> {
        let (name, entry, _) = self.migrations(target)?;
        if let Selection::Named(names) = selection
            && (names.is_empty() || names.len() > MAX_NAMED)
        {
            return Err(EngineError::InvalidField {
                field: "migrations",
                problem: format!("names {} migrations; expected 1 to {MAX_NAMED}", names.len()),
            });
        }
        let status = self.migration_status(target).await?;
        let MigrationStatus {
            collection,
            standings,
            proofs,
            ..
        } = &status;
        let chosen = match direction {
            Direction::Up => plan::choose_up(collection, standings, selection),
            Direction::Down => plan::choose_down(collection, standings, selection),
        };
        let chosen = chosen.map_err(plan_refused(name))?;
        let migrations = chosen.iter().map(|index| &collection.migrations[*index]);
        let known = known(entry, migrations).await.map_err(EngineError::target(name))?;
        let facts = Facts {
            target: name,
            engine: entry.target.engine(),
            known: &known,
            proofs,
            backup,
        };
        let plan = plan::plan(collection, standings, &chosen, direction, &facts);
        Ok((status, plan))
    }

    /// Accepts a run that applies migrations; returns it with the plan that it executes.
    ///
    /// # Errors
    /// As [`Engine::plan_migrations`], and `MigrationsBlocked`, `MigrationPlanRequired`, `MigrationPlanChanged`, `NothingToMigrate`,
    /// `RunAlreadyActive`, `RequestIdReused`, `ToolUnavailable`.
    pub async fn apply_migrations(&self, request: &MigrateRequest) -> Result<(Run, Planned), EngineError> {
        let answer = self.migrate(request, Direction::Up).await;
        self.noted_migrations(Act::Migrate, &request.target, &request.caller, answer)
            .await
    }

    /// Accepts a run that takes migrations back. The whole database is saved first.
    ///
    /// # Errors
    /// As [`Engine::apply_migrations`].
    pub async fn rollback_migrations(&self, request: &MigrateRequest) -> Result<(Run, Planned), EngineError> {
        let answer = self.migrate(request, Direction::Down).await;
        self.noted_migrations(Act::Rollback, &request.target, &request.caller, answer)
            .await
    }

    async fn migrate(&self, request: &MigrateRequest, direction: Direction) -> Result<(Run, Planned), EngineError> {
        let request_id = request_id(&request.request_id)?;
        let (name, entry, _) = self.migrations(&request.target)?;
        let (kind, word) = match direction {
            Direction::Up => (RunKind::Migrate, "migrate"),
            Direction::Down => (RunKind::Rollback, "rollback"),
        };
        let digest = request_digest(word, name, request);
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok((run, None));
        }
        check_options(&request.options)?;
        let (status, plan) = match &request.from_backup {
            Some(backup) => self.plan_rewind(&request.target, &request.selection, backup).await?,
            None => {
                self.plan_migrations(&request.target, direction, &request.selection, request.backup)
                    .await?
            }
        };
        permit(name, &plan, request)?;
        let backup = if plan.backup_first {
            let scope = entry.target.maintenance().scope(&[]).await.map_err(maintenance(name))?;
            Some(BackupRecord {
                tool: scope.tool,
                ..BackupRecord::default()
            })
        } else {
            None
        };
        let act = match direction {
            Direction::Up => Act::Migrate,
            Direction::Down => Act::Rollback,
        };
        let run = self
            .accept_migrations(name, kind, &plan, request, backup, request_id, digest, Some(act))
            .await?;
        Ok((run, Some((status, plan))))
    }

    /// Accepts a rehearsal.
    ///
    /// # Errors
    /// As [`Engine::plan_migrations`], and `NothingToMigrate`, `RequestIdReused`, `ToolUnavailable`.
    pub async fn test_migrations(&self, request: &MigrateRequest) -> Result<Run, EngineError> {
        let request_id = request_id(&request.request_id)?;
        let (name, entry, _) = self.migrations(&request.target)?;
        let word = match (request.in_effect, request.schema_only) {
            (true, _) => "rehearse applied",
            (false, true) => "rehearse schema",
            (false, false) => "rehearse",
        };
        check_sample(request)?;
        if request.schema_only && (request.in_effect || entry.target.engine() == EngineKind::Sqlite) {
            let why = if request.in_effect {
                "with migrations in effect, whose way back shows in rows; expected WHOLE"
            } else {
                "on SQLite, where a copy comes with its rows; expected WHOLE"
            };
            return Err(EngineError::InvalidField {
                field: "copy",
                problem: format!("is SCHEMA_ONLY {why}"),
            });
        }
        let digest = request_digest(word, name, request);
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        check_options(&request.options)?;
        let direction = if request.in_effect { Direction::Down } else { Direction::Up };
        let (status, mut plan) = self
            .plan_migrations(&request.target, direction, &request.selection, false)
            .await?;
        if request.in_effect {
            let whole = status.standings.in_effect();
            plan.steps.retain(|step| whole.contains(&step.migration.id));
        }
        if plan.steps.is_empty() {
            return Err(EngineError::NothingToMigrate { target: name.to_owned() });
        }
        entry.target.maintenance().scope(&[]).await.map_err(maintenance(name))?;
        self.accept_migrations(name, RunKind::Rehearse, &plan, request, None, request_id, digest, None)
            .await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what the three kinds of run differ in has no other common owner"
    )]
    async fn accept_migrations(
        &self,
        name: &str,
        kind: RunKind,
        plan: &MigrationPlan,
        request: &MigrateRequest,
        backup: Option<BackupRecord>,
        request_id: String,
        digest: String,
        act: Option<Act>,
    ) -> Result<Run, EngineError> {
        let planned = plan.planned();
        let rewind = plan.rewind.as_ref();
        let report = Report {
            steps: match rewind {
                Some(rewind) => rewind::steps(rewind.backup),
                None => steps(&planned, backup.is_some()),
            },
            migrations: Some(Box::new(MigrationRecord {
                planned,
                backup_first: backup.is_some(),
                by: request.caller.principal.clone(),
                options: request.options,
                reports: Vec::new(),
                rewind: rewind.map(|rewind| rewind.backup),
                token: rewind.map_or_else(String::new, |_| plan.token.clone()),
                in_effect: request.in_effect,
                schema_only: request.schema_only,
                sample: request.sample,
                sampled: Vec::new(),
            })),
            backup,
            ..Report::default()
        };
        let options = RunOptions {
            dry_run: false,
            full_speed: true,
            max_execution_seconds: *RunOptions::MAX_EXECUTION_SECONDS.end(),
            ..RunOptions::default()
        };
        let mut run = self.new_run(
            kind,
            name,
            Vec::new(),
            &Plan::none(name, Timestamp::now()),
            rewind.map(|rewind| rewind.backup),
            options,
            report,
        );
        run.started_by.clone_from(&request.caller.principal);
        let decision = act.map(|act| {
            let ids: Vec<&str> = plan.steps.iter().map(|step| step.migration.id.0.as_str()).collect();
            let from = rewind.map_or_else(String::new, |rewind| format!(", from backup {}", rewind.backup));
            Decision::allow(&request.caller, act, format!("migrations {}{from}", ids.join(", "))).about(name, Some(run.id), None)
        });
        // A rehearsal works on its own copy, so that it stands in nobody's way.
        let mut tables = if act.is_some() {
            vec![MIGRATIONS.to_owned()]
        } else {
            Vec::new()
        };
        if let Some(rewind) = rewind {
            tables = rewind::held(rewind);
            self.await_consent(&mut run, rewind);
        }
        self.accept(CreateRun {
            run,
            tables,
            request_id,
            request_digest: digest,
            events: Vec::new(),
            decision,
            slot: None,
        })
        .await
    }

    /// Passes an answer on, a refusal once it is recorded.
    async fn noted_migrations<T>(
        &self,
        act: Act,
        target: &str,
        caller: &Caller,
        answer: Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        match answer {
            Ok(done) => Ok(done),
            Err(error) => {
                let name = self.target(target).map_or(target, |(name, _)| name);
                let decision = Decision::refuse(caller, act, error.reason(), error.to_string()).about(name, None, None);
                Err(self.recorded(&decision, error).await)
            }
        }
    }

    /// The files of a new migration, in the folder's own layout. Nothing is written: whoever asks has the folder under version control.
    ///
    /// # Errors
    /// `UnknownTarget`, `NoMigrations`, `MigrationSource`, `InvalidField`.
    pub async fn draft_migration(&self, target: &str, title: &str) -> Result<(Layout, Vec<SourceFile>), EngineError> {
        let (name, entry, migrations) = self.migrations(target)?;
        let collection = self.collection(name, entry, migrations).await?;
        let files = draft::propose(&collection, title, Timestamp::now(), entry.target.engine()).map_err(|error| {
            EngineError::InvalidField {
                field: "name",
                problem: error.to_string(),
            }
        })?;
        Ok((collection.layout, files))
    }
}

async fn ledgers(entry: &TargetEntry) -> Result<(Vec<LedgerEntry>, Vec<ForeignLedger>), TargetError> {
    let migrator = entry.target.migrator();
    Ok((migrator.ledger().await?, migrator.foreign_ledgers().await?))
}

/// What of the target's tables matters for these migrations.
async fn known<'a>(entry: &TargetEntry, migrations: impl IntoIterator<Item = &'a Migration>) -> Result<Known, TargetError> {
    let target = entry.target.as_ref();
    let mut names = BTreeSet::new();
    for migration in migrations {
        names.extend(risk::tables_of(&migration.up, target.engine()));
        if let Some(down) = &migration.down {
            names.extend(risk::tables_of(down, target.engine()));
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    if names.is_empty() {
        return Ok(Known::default());
    }
    let tables = target.migrator().measure(&names).await?;
    let mut known = Known::default();
    for table in tables.iter().filter(|table| table.rows.is_some()).take(MAX_LOOKED_AT) {
        if let Some(schema) = target.introspect(&TableName::parse(&table.table)).await? {
            let columns = schema.columns.iter();
            known
                .columns
                .extend(columns.map(|column| (table.table.clone(), column.name.clone(), column.type_name.clone())));
            let indexes = schema.indexes.into_iter().map(|index| (table.table.clone(), index.columns));
            known.indexes.extend(indexes);
            if !schema.primary_key.is_empty() {
                known.indexes.push((table.table.clone(), schema.primary_key));
            }
            let keys = schema.incoming.into_iter();
            known
                .foreign_keys
                .extend(keys.map(|key| (key.child.to_string(), key.child_columns, table.table.clone())));
        }
    }
    known.tables = tables;
    Ok(known)
}

fn plan_refused(target: &str) -> impl Fn(PlanRefused) -> EngineError + '_ {
    move |refused| match refused {
        PlanRefused::Unknown { wanted, near } => EngineError::UnknownMigration {
            target: target.to_owned(),
            wanted,
            near: near.map(|near| near.0),
        },
        other @ (PlanRefused::NotInEffect { .. } | PlanRefused::HalfApplied { .. }) => EngineError::InvalidField {
            field: "migrations",
            problem: other.to_string(),
        },
        PlanRefused::Graph(problem) => EngineError::MigrationGraph {
            target: target.to_owned(),
            problem: problem.to_string(),
        },
    }
}

fn maintenance(target: &str) -> impl Fn(MaintenanceError) -> EngineError + '_ {
    super::backups::refused(target)
}

/// Run id under which an act on the ledger itself is noted there: that of the decision that let it through.
fn act_id(decision: &Decision) -> RunId {
    RunId(decision.id.0)
}
