//! The copy that migrations are tried on: whole, a sample of its rows, or the schema without rows; made in a place of its own, which the
//! next attempt makes anew. What is tried on it is the parent's matter.

use std::{fmt::Write as _, sync::Arc};

use super::{
    super::{Attempt, Halt, Hold, script},
    ledger_row, order,
};
use crate::{
    failpoint,
    migration::risk::{self, Known},
    model::{
        Direction, EngineKind, Migration, MigrationId, MigrationProgress, MigrationRecord, RunId, RunKind, Sample, SampledTable,
        Script, StatementReport, TableCount, TableName, Work,
    },
    port::{Archive, ArchiveError, Claim, DumpOrder, LoadOrder, RunFilter, SampleOrder, Target},
    run::maintain::{act, blocking},
};

/// Tables of a sample that its warning names.
const NAMED: usize = 20;
/// The warning of a copy that could not be dropped.
pub(super) const LEFT: &str = "SCRATCH_LEFT";
/// Rehearsals before this one whose copies are looked after.
const LOOKED_BACK: u32 = 50;

/// The copy that migrations are tried on.
pub(super) struct Copy {
    pub(super) target: Arc<dyn Target>,
    /// What it has of each table; `None` where it is no sample.
    pub(super) sampled: Option<Vec<SampledTable>>,
}

pub(super) fn place(run: RunId) -> String {
    let digits = run.0.simple().to_string();
    format!("dbkeep_rehearsal_{}", &digits[20..])
}

/// Removes the files of a run that made no backup.
pub(super) fn sweep(archive: &dyn Archive, run: RunId) -> Result<(), ArchiveError> {
    for file in archive.list(run)? {
        archive.remove(run, &file)?;
    }
    archive.remove_folder(run)
}

/// Drops the copies of earlier rehearsals of the target that could not be dropped in the end: somebody was connected whom the target's role
/// may not send away, or the connection broke.
pub(super) async fn drop_left(attempt: &mut Attempt) -> Result<(), Halt> {
    let filter = RunFilter {
        target: Some(attempt.run.target.clone()),
        kinds: vec![RunKind::Rehearse],
        attempted: true,
        ..RunFilter::default()
    };
    let runs = attempt.context.store.runs(&filter, None, LOOKED_BACK).await?;
    let left = runs.iter().filter(|run| {
        let mut warnings = run.report.warnings.iter();
        run.state.is_final() && warnings.any(|warning| warning.code == LEFT)
    });
    for run in left {
        // It has ended: whichever of its attempts made the copy, none makes another.
        let claim = Claim {
            run: run.id,
            fence: u64::MAX,
        };
        let name = place(run.id);
        if let Err(error) = attempt.target.maintenance().drop_scratch(claim, &name).await {
            let text = format!("{name} of rehearsal {} may be left behind still: {error}", run.id);
            attempt.ledger.warn(None, LEFT, text).await?;
        }
    }
    Ok(())
}

/// Copies the database to a place of its own.
pub(super) async fn make(attempt: &mut Attempt, record: &MigrationRecord) -> Result<Copy, Halt> {
    tell(attempt, "copying").await?;
    let run = attempt.run.id;
    let scope = attempt.target.maintenance().scope(&[]).await?;
    let (archive, file) = (Arc::clone(&attempt.context.archive), scope.file.to_owned());
    let path = blocking(move || archive.staging(run, &file)).await?;
    if let Some(sample) = record.sample {
        let order = SampleOrder {
            claim: attempt.claim,
            path,
            sample,
        };
        return sampled(attempt, order).await;
    }
    let order = DumpOrder {
        claim: Some(attempt.claim),
        tables: Vec::new(),
        path: path.clone(),
        schema_only: record.schema_only,
    };
    let dumped = act(attempt, |target, watch| {
        Box::pin(async move { target.maintenance().dump(&order, &watch).await })
    })
    .await?;
    failpoint!("rehearsal-dumped");
    let tables: Vec<TableCount> = dumped.tables;
    let load = LoadOrder {
        claim: attempt.claim,
        path,
        tables,
        whole: true,
        notes: dumped.notes,
    };
    let name = place(run);
    let to = name.clone();
    act(attempt, |target, watch| {
        Box::pin(async move { target.maintenance().load_scratch(&load, &to, &watch).await })
    })
    .await?;
    opened(attempt, &name, None).await
}

async fn sampled(attempt: &mut Attempt, order: SampleOrder) -> Result<Copy, Halt> {
    let name = place(attempt.run.id);
    let to = name.clone();
    let sampled = act(attempt, |target, watch| {
        Box::pin(async move { target.maintenance().sample_scratch(&order, &to, &watch).await })
    })
    .await?;
    failpoint!("rehearsal-dumped");
    if let Some(record) = &mut attempt.ledger.report.migrations {
        record.sampled.clone_from(&sampled);
    }
    opened(attempt, &name, Some(sampled)).await
}

async fn opened(attempt: &mut Attempt, name: &str, sampled: Option<Vec<SampledTable>>) -> Result<Copy, Halt> {
    let target = attempt.target.maintenance().open_scratch(name).await?;
    target.claim(attempt.claim).await?;
    Ok(Copy { target, sampled })
}

/// A copy like that before the first migration, with those up to now applied.
pub(super) async fn fresh(attempt: &mut Attempt, record: &MigrationRecord, before: &[&Migration]) -> Result<Copy, Halt> {
    let made = make(attempt, record).await?;
    let hold = Hold::take(&made.target, attempt.claim, &attempt.context.settings.holder).await?;
    for migration in before {
        let order = order(record, migration, Direction::Up, 0, "again", &hold);
        let entry = ledger_row(attempt, &made.target, &migration.id).await?;
        let done = script::execute(attempt, &made.target, &order, entry).await?;
        if let Some(problem) = done.problem {
            return Err(Halt::Fail(format!("{problem}, although it worked on the copy before")));
        }
    }
    hold.release().await;
    Ok(made)
}

/// Says plainly that what follows rests on some of the rows, and on how many of how many.
pub(super) async fn tell_of_sample(attempt: &mut Attempt) -> Result<(), Halt> {
    let record = attempt.ledger.report.migrations.as_ref();
    let Some((sample, tables)) = record.and_then(|record| Some((record.sample?, record.sampled.clone()))) else {
        return Ok(());
    };
    attempt.ledger.warn(None, "SAMPLED", in_words(sample, &tables)).await?;
    Ok(())
}

fn in_words(sample: Sample, tables: &[SampledTable]) -> String {
    let asked = match sample {
        Sample::Rows(rows) => format!("at most {rows} rows of each table"),
        Sample::TenThousandths(part) => format!("{}.{:02} % of the rows of each table", part / 100, part % 100),
    };
    let (rows, of) = tables
        .iter()
        .fold((0, 0), |(rows, of), table| (rows + table.rows, of + table.of));
    let mut text = format!(
        "this rests on a sample ({asked}, and the rows that their keys name): {rows} of {of} rows. Nothing is seen of the others, and no way \
         back is proven for them"
    );
    let partly: Vec<_> = tables.iter().filter(|table| table.rows < table.of).collect();
    for (position, table) in partly.iter().take(NAMED).enumerate() {
        let separator = if position == 0 { ": " } else { ", " };
        let _ = write!(text, "{separator}{} {} of {}", table.table, table.rows, table.of);
    }
    if partly.len() > NAMED {
        let _ = write!(text, ", and {} more tables", partly.len() - NAMED);
    }
    text
}

/// What a script would take with all rows, milliseconds, by what it took on a sample: a statement that works through rows takes as many
/// times longer as the table has more of them. `None` where the copy was no sample.
pub(super) fn as_if_whole(
    sampled: Option<&[SampledTable]>,
    statements: &[StatementReport],
    script: &Script,
    engine: EngineKind,
) -> Option<u64> {
    let sampled = sampled?;
    let impacts = risk::assess(script, engine, &Known::default());
    let whole = statements.iter().map(|done| {
        let place = usize::try_from(done.statement).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(impact) = impacts.get(place).filter(|impact| impact.work != Work::Catalog) else {
            return done.duration_ms;
        };
        let (rows, of) = impact
            .tables
            .iter()
            .filter_map(|name| named(sampled, name))
            .map(|table| (table.rows, table.of))
            .max_by_key(|(rows, of)| of.saturating_mul(1_000) / (*rows).max(1))
            .unwrap_or((1, 1));
        // Below a millisecond is not nothing, once it happens a million times.
        let took = u128::from(done.duration_ms.max(1));
        let whole = took * u128::from(of.max(rows)) / u128::from(rows.max(1));
        u64::try_from(whole).unwrap_or(u64::MAX).max(done.duration_ms)
    });
    Some(whole.fold(0, u64::saturating_add))
}

fn named<'a>(sampled: &'a [SampledTable], name: &str) -> Option<&'a SampledTable> {
    let bare = |table: &str| {
        let last = table.rsplit('.').next().unwrap_or(table);
        last.trim_matches(['"', '`', '[', ']']).to_lowercase()
    };
    let exact = sampled.iter().find(|table| table.table == TableName::parse(name));
    exact.or_else(|| sampled.iter().find(|table| bare(&table.table.name) == bare(name)))
}

async fn tell(attempt: &mut Attempt, phase: &str) -> Result<(), Halt> {
    let progress = MigrationProgress {
        step: 0,
        id: MigrationId(String::new()),
        direction: Direction::Up,
        phase: phase.to_owned(),
        statement: 0,
        statements: 0,
        line: 0,
        excerpt: String::new(),
        finished: None,
    };
    Ok(attempt.ledger.migrating(progress).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, rows: u64, of: u64) -> SampledTable {
        SampledTable {
            table: TableName::parse(name),
            rows,
            of,
        }
    }

    #[test]
    fn a_sample_says_how_many_of_how_many() {
        let tables = [table("public.users", 10, 1_000), table("public.small", 3, 3)];
        let text = in_words(Sample::TenThousandths(150), &tables);
        assert!(
            text.contains("1.50 % of the rows") && text.contains("13 of 1003 rows") && text.contains("public.users 10 of 1000"),
            "{text}"
        );
        assert!(!text.contains("small"), "{text}");
    }

    #[test]
    fn names_are_found_as_statements_write_them() {
        let tables = [table("public.users", 10, 1_000), table("other.Things", 1, 2)];
        assert_eq!(named(&tables, "users").map(|table| table.of), Some(1_000));
        assert_eq!(named(&tables, "\"public\".users").map(|table| table.of), Some(1_000));
        assert_eq!(named(&tables, "things").map(|table| table.of), Some(2));
        assert_eq!(named(&tables, "none"), None);
    }
}
