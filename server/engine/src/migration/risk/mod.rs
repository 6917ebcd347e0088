//! What each statement of a script will do, by reading it: locks, work, what is lost, and how risky that is on this target.
//!
//! ```text
//! statement -> token -> postgres | sqlite (both with rows, column) -> Reading { locks, work, facts }
//! Reading + Context (sizes, keys, what the script did before) -> rules, squawk -> Impact
//! ```
//!
//! Two sources of judgement: [`rules`] knows how large a table is and what the script made itself; [`squawk`] adds what other
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
use crate::model::{EngineKind, Impact, Risk, Script, TableLock, TableMeasure};

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
    let (readings, _) = read(script, engine, &Known::default());
    let mut names: Vec<String> = Vec::new();
    for (reading, _) in &readings {
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
    }
    names
}

/// What each statement of a script will do, in their order.
#[must_use]
pub fn assess(script: &Script, engine: EngineKind, known: &Known) -> Vec<Impact> {
    let (readings, after) = read(script, engine, known);
    let mut readings = readings.iter();
    let mut impacts = Vec::with_capacity(script.statement_count());
    for group in &script.groups {
        let mut held = Held::default();
        for (statement, (reading, before)) in group.statements.iter().zip(readings.by_ref()) {
            let mut reasons = rules::judge(reading, before, &after, script.foreign_keys_off);
            if group.atomic {
                reasons.extend(held.judge(reading, before));
            }
            if engine == EngineKind::Postgres {
                reasons.extend(squawk::lint(&statement.sql, reading, before));
            }
            // The worst comes first; those that are alike stay as they are.
            reasons.sort_by(|one, two| two.risk.cmp(&one.risk));
            let locks = reading.locks.iter();
            impacts.push(Impact {
                kind: reading.kind.clone(),
                locks: locks
                    .map(|(table, mode)| TableLock {
                        table: table.to_string(),
                        mode: *mode,
                    })
                    .collect(),
                work: reading.work,
                tables: reading
                    .tables
                    .iter()
                    .map(Name::to_string)
                    .filter(|name| name != sqlite::DATABASE)
                    .collect(),
                changes_rows: reading.changes_rows,
                loses_data: rules::loses_data(reading, before),
                reasons,
            });
        }
    }
    impacts
}

/// The largest risk among the reasons.
#[must_use]
pub fn overall(impacts: &[Impact]) -> Risk {
    let reasons = impacts.iter().flat_map(|impact| &impact.reasons);
    reasons.map(|reason| reason.risk).max().unwrap_or(Risk::Low)
}

/// Every statement read, each with what is known before it, and what is known in the end.
fn read(script: &Script, engine: EngineKind, known: &Known) -> (Vec<(Reading, Context)>, Context) {
    let tokens: Vec<_> = script
        .statements()
        .map(|statement| token::tokens_of(&statement.sql, engine))
        .collect();
    let rebuilds = match engine {
        EngineKind::Sqlite => sqlite::rebuilds(&tokens),
        EngineKind::Postgres => Vec::new(),
    };
    let mut context = Context::new(known, engine);
    let mut readings = Vec::with_capacity(tokens.len());
    for (at, tokens) in tokens.iter().enumerate() {
        let mut reading = match engine {
            EngineKind::Postgres => postgres::read(tokens, &context),
            EngineKind::Sqlite => sqlite::read(tokens, &context, rebuilds.iter().find(|rebuild| rebuild.concerns(at)), at),
        };
        reading.name_facts();
        let before = context.clone();
        context.learn(&reading.facts);
        readings.push((reading, before));
    }
    (readings, context)
}

#[cfg(test)]
mod tests;
