//! Discovery: proposes rules for a database that nobody has described yet.
//!
//! It looks at the schema (declared keys, names, types), at a bounded sample of each table, and at whether sampled values are found
//! in the tables that they may name; then it writes the rules down as catalog snippets, each read back by the catalog's own reader
//! and counted by the survey that plans use. It changes nothing and decides nothing: a proposal is for a person to review. The
//! formula of the confidence is in [`score`](self), its meaning in `docs/discovery.md`. Called by [`crate::Engine::discover`].

mod age;
mod candidates;
mod check;
mod facts;
mod grown;
mod hints;
mod lookup;
mod names;
mod relate;
mod score;
mod sets;
mod snippet;
mod textkey;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

pub use self::grown::for_grown;
use self::{facts::Table, snippet::Draft};
use crate::{
    catalog::Catalog,
    model::TableName,
    port::{Target, TargetError, TargetErrorClass},
};

/// What to look for, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only rules that take rows from these tables; all tables where empty. Parents are looked for everywhere.
    pub tables: Vec<TableName>,
    /// Only proposals of at least this confidence, 0 to 1.
    pub min_confidence: f64,
    /// Most proposals.
    pub limit: usize,
    /// When to stop, with what was found by then.
    pub until: Instant,
    /// Longest time for one statement that looks around.
    pub statement_limit: Duration,
    /// Longest time for one statement that counts the rows of a proposal.
    pub count_limit: Duration,
    /// Cancelled when nobody waits for the answer any more.
    pub given_up: CancellationToken,
}

impl Options {
    /// Confidence below which a proposal is not told unless somebody asks for it.
    pub const MIN_CONFIDENCE: f64 = 0.7;
    /// Most proposals of an answer.
    pub const MAX_LIMIT: usize = 1_000;
    /// Longest time for a discovery.
    pub const MAX_TIME: Duration = Duration::from_secs(120);

    /// Everything of [`Options::MIN_CONFIDENCE`] and more that is found within `time`.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        let time = time.min(Self::MAX_TIME);
        // The last statement may begin just before the end: what it may take is kept back.
        let statement_limit = (time / 10).clamp(Duration::from_millis(10), Duration::from_secs(5));
        Self {
            tables: Vec::new(),
            min_confidence: Self::MIN_CONFIDENCE,
            limit: Self::MAX_LIMIT,
            until: Instant::now() + time.saturating_sub(statement_limit),
            statement_limit,
            count_limit: Duration::from_secs(10),
            given_up: CancellationToken::new(),
        }
    }
}

/// A rule that might be wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Name of the operation in the snippet.
    pub operation: String,
    /// Rule kind.
    pub kind: String,
    /// Table that would lose rows, as the snippet writes it.
    pub table: TableName,
    /// Columns of that table that the rule looks at.
    pub columns: Vec<String>,
    /// What a relation points to: table and columns; `None` where the rule is about no relation.
    pub parent: Option<(TableName, Vec<String>)>,
    /// What the rule selects, in one sentence.
    pub description: String,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// What speaks for it, one sentence each.
    pub evidence: Vec<String>,
    /// Exact number of rows that the rule would take now.
    pub row_count: Option<u64>,
    /// Why there is no `row_count`; empty where there is one.
    pub uncounted: String,
    /// An operation with this one rule, ready for a catalog.
    pub toml: String,
    /// What to consider before using it; empty where there is nothing.
    pub note: String,
    /// Whether this version can run it: the snippet is read by the catalog's reader and fits the target's schema.
    pub supported: bool,
}

/// What kind of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HintKind {
    /// Several parents are equally likely.
    Ambiguous,
    /// A pair of columns names rows of several tables.
    Polymorphic,
    /// A column seems to name files.
    FileReference,
}

/// Something that was noticed and is no rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// What kind.
    pub kind: HintKind,
    /// The table.
    pub table: TableName,
    /// Its columns.
    pub columns: Vec<String>,
    /// The tables in question, `table(columns)` each.
    pub candidates: Vec<String>,
    /// What it means, in one sentence.
    pub detail: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Discovery {
    /// Proposed rules: those that would take rows first, then by confidence.
    pub proposals: Vec<Proposal>,
    /// What was noticed besides.
    pub hints: Vec<Hint>,
    /// What could not be looked at, and why.
    pub warnings: Vec<String>,
    /// Whether everything was looked at before the time was over.
    pub complete: bool,
    /// Tables looked at.
    pub tables: usize,
}

/// The state of one discovery: its time, and what went wrong in it.
struct Work {
    until: Instant,
    given_up: CancellationToken,
    cut_short: bool,
    warnings: Vec<String>,
}

impl Work {
    /// Whether it is time to stop.
    fn is_over(&mut self) -> bool {
        if Instant::now() >= self.until || self.given_up.is_cancelled() {
            self.cut_short = true;
        }
        self.cut_short
    }

    /// The time that a statement may take, at most `limit`.
    fn left(&self, limit: Duration) -> Duration {
        self.until
            .saturating_duration_since(Instant::now())
            .clamp(Duration::from_millis(1), limit)
    }

    /// Takes a statement's failure for a gap in the answer, unless the database is gone.
    fn tolerate<T>(&mut self, result: Result<T, TargetError>, what: impl FnOnce() -> String) -> Result<Option<T>, TargetError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.class == TargetErrorClass::Lost => Err(error),
            Err(error) => {
                let why = match error.class {
                    TargetErrorClass::Timeout => "it took too long".to_owned(),
                    _ => error.message,
                };
                self.warnings.push(format!("{}: {why}", what()));
                Ok(None)
            }
        }
    }
}

/// Whether `name` is what somebody calls the table: with or without its schema.
#[must_use]
pub fn is_called(table: &TableName, resolved: &TableName, name: &TableName) -> bool {
    table == name || resolved == name || name.schema.is_none() && name.name == table.name
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The request names a table that the target does not have.
    #[error("there is no table {0}")]
    UnknownTable(TableName),
    /// The target failed.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Looks around in a target and proposes rules. `catalog` is what the target has already.
///
/// # Errors
/// Where the target is out of reach, or has no table that was asked for. Whatever else fails leaves a gap that is warned of.
pub async fn discover(target: &dyn Target, catalog: &Catalog, options: &Options) -> Result<Discovery, DiscoverError> {
    let mut work = Work {
        until: options.until,
        given_up: options.given_up.clone(),
        cut_short: false,
        warnings: Vec::new(),
    };
    let looking = target.bounded(work.left(options.statement_limit));
    let looking = looking.as_ref();
    let names = looking.tables().await;
    let Some(names) = work.tolerate(names, || "the list of tables could not be read".to_owned())? else {
        return Ok(Discovery {
            warnings: work.warnings,
            ..Discovery::default()
        });
    };
    let tables = facts::gather(looking, names, &mut work).await?;
    let is_there = |name: &&TableName| tables.iter().any(|table| is_called(&table.name, &table.schema.name, name));
    if let Some(unknown) = options.tables.iter().find(|name| !is_there(name)).filter(|_| !work.cut_short) {
        return Err(DiscoverError::UnknownTable(unknown.clone()));
    }
    let wanted: Vec<bool> = tables
        .iter()
        .map(|table| {
            options.tables.is_empty()
                || options
                    .tables
                    .iter()
                    .any(|name| is_called(&table.name, &table.schema.name, name))
        })
        .collect();

    let mut noticed = Vec::new();
    let relations = relate::relations(looking, &tables, &wanted, &mut noticed, &mut work).await?;
    let mut drafts: Vec<Draft> = relations.iter().map(|relation| relation.draft(&tables)).collect();
    drafts.extend(age::drafts(target.engine(), &tables, &relations));
    drafts.extend(textkey::drafts(looking, &tables, &wanted, &mut work).await?);
    drafts.extend(sets::cycles(&tables, &relations));
    drafts.extend(sets::duplicates(looking, &tables, &wanted, &relations, &mut work).await?);
    drafts.retain(|draft| wanted[draft.table] && draft.confidence >= options.min_confidence);
    drafts.sort_by(|one, other| {
        other
            .confidence
            .total_cmp(&one.confidence)
            .then_with(|| one.identity().cmp(&other.identity()))
    });
    drafts.truncate(options.limit);
    noticed.extend(hints::file_references(&tables, &wanted));
    noticed.sort_by(|one, other| (one.kind, &one.table, &one.columns).cmp(&(other.kind, &other.table, &other.columns)));

    let mut proposals = check::proposals(target, options.count_limit, &tables, drafts, catalog, &mut work).await?;
    // What would take rows comes first; within, the order stays that of confidence.
    proposals.sort_by_key(|proposal| proposal.row_count.is_some_and(|rows| rows == 0));
    Ok(Discovery {
        proposals,
        hints: noticed,
        warnings: work.warnings,
        complete: !work.cut_short,
        tables: tables.len(),
    })
}

/// Position of each table by the name that the database resolves.
fn positions(tables: &[Table]) -> BTreeMap<&TableName, usize> {
    tables
        .iter()
        .enumerate()
        .map(|(position, table)| (&table.schema.name, position))
        .collect()
}
