//! What each statement of a script will do, by reading it: locks, work, what is lost, and how risky that is on this target.
//!
//! ```text
//! statement -> token -> postgres | sqlite (both with rows, column) -> Reading { locks, work, facts }
//! Reading + Context (sizes, keys, what the script did before) -> rules, squawk -> Impact
//! ```
//!
//! Two sources of judgement: `rules` knows how large a table is and what the script made itself; `squawk` adds what other
//! clients of a PostgreSQL database notice, which needs neither.

mod column;
mod context;
mod estimate;
mod postgres;
mod reading;
mod rows;
mod rules;
mod sqlite;
mod squawk;
mod token;

pub use estimate::estimate_ms;

use self::{context::Context, reading::Reading, rules::Held, token::Name};
use crate::model::{EngineKind, Impact, Risk, RiskReason, Script, TableLock, TableMeasure};

/// What of the target matters for judging a script. Whatever is missing counts as large, and as not indexed.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// How large its tables are, with names as [`tables_of`] returns them.
    pub tables: Vec<TableMeasure>,
    /// Its indexes and primary keys: table, columns.
    pub indexes: Vec<(String, Vec<String>)>,
    /// Its foreign keys: child, columns of the child, parent.
    pub foreign_keys: Vec<(String, Vec<String>, String)>,
}

/// Every table that a script names, once, in the order of their appearance and spelled so that the database reads the same name.
#[must_use]
pub fn tables_of(script: &Script, engine: EngineKind) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    walk(script, engine, &Known::default(), |reading, _| {
        let named = reading
            .named
            .iter()
            .map(Name::to_string)
            .filter(|name| name != sqlite::DATABASE);
        for name in named {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    });
    names
}

/// What each statement of a script will do, in their order.
#[must_use]
pub fn assess(script: &Script, engine: EngineKind, known: &Known) -> Vec<Impact> {
    // What comes later matters too, so that the script is read twice rather than kept with all that was known at each statement.
    let after = walk(script, engine, known, |_, _| {});
    let places = script.groups.iter().enumerate();
    let mut places =
        places.flat_map(|(group, held)| held.statements.iter().map(move |statement| (group, held.atomic, statement)));
    let mut held = (0, Held::default());
    let mut impacts = Vec::with_capacity(script.statement_count());
    walk(script, engine, known, |reading, before| {
        let Some((group, atomic, statement)) = places.next() else {
            return;
        };
        if group != held.0 {
            held = (group, Held::default());
        }
        let mut reasons = rules::judge(reading, before, &after, script.foreign_keys_off);
        if atomic {
            reasons.extend(held.1.judge(reading, before));
        }
        if engine == EngineKind::Postgres {
            reasons.extend(squawk::lint(&statement.sql, reading, before));
        }
        // The worst comes first; those that are alike stay as they are.
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.risk));
        impacts.push(impact(reading, before, reasons));
    });
    impacts
}

fn impact(reading: &Reading, before: &Context, reasons: Vec<RiskReason>) -> Impact {
    let locks = reading.locks.iter().map(|(table, mode)| TableLock {
        table: table.to_string(),
        mode: *mode,
    });
    let tables = reading.tables.iter().map(Name::to_string);
    Impact {
        kind: reading.kind.clone(),
        locks: locks.collect(),
        work: reading.work,
        tables: tables.filter(|name| name != sqlite::DATABASE).collect(),
        changes_rows: reading.changes_rows,
        loses_data: rules::loses_data(reading, before),
        reasons,
    }
}

/// The largest risk among the reasons.
#[must_use]
pub fn overall(impacts: &[Impact]) -> Risk {
    let reasons = impacts.iter().flat_map(|impact| &impact.reasons);
    reasons.map(|reason| reason.risk).max().unwrap_or(Risk::Low)
}

/// Reads every statement and shows each with what is known before it; returns what is known in the end.
fn walk(script: &Script, engine: EngineKind, known: &Known, mut visit: impl FnMut(&Reading, &Context)) -> Context {
    let tokens: Vec<_> = script
        .statements()
        .map(|statement| token::tokens_of(&statement.sql, engine))
        .collect();
    let rebuilds = match engine {
        EngineKind::Sqlite => sqlite::rebuilds(&tokens),
        EngineKind::Postgres => Vec::new(),
    };
    let mut context = Context::new(known, engine);
    for (at, tokens) in tokens.iter().enumerate() {
        let mut reading = match engine {
            EngineKind::Postgres => postgres::read(tokens, &context),
            EngineKind::Sqlite => sqlite::read(tokens, &context, rebuilds.iter().find(|rebuild| rebuild.concerns(at)), at),
        };
        reading.name_facts();
        visit(&reading, &context);
        context.learn(&reading.facts);
    }
    context
}

#[cfg(test)]
mod tests;
