//! What the statements of a script will do and how risky that is, found by reading them: locks, work, loss of data, reasons. Pure;
//! called by whoever plans, and never by whoever executes. It does not know which locks were really taken: [`crate::run`] looks.
//!
//! ```text
//! Statement -> token -> postgres | sqlite (a Reading of facts) -> rules (own) + squawk (PostgreSQL) -> Impact -> estimate
//!                                   ^ context: the target's sizes, and what earlier statements of the script did
//! ```

mod context;
mod estimate;
mod postgres;
mod reading;
mod rows;
mod rules;
mod sqlite;
mod squawk;
#[cfg(test)]
mod tests;
mod token;

use std::cmp::Reverse;

pub use self::estimate::estimate_ms;
use self::{
    context::Context,
    reading::{Fact, Reading},
    rules::Judge,
    token::{Name, tokens_of},
};
use crate::model::{EngineKind, Impact, Risk, Script, TableLock, TableMeasure};

/// What the planner knows about the target. Everything may be empty; what is not known is taken for dangerous.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Sizes of the tables that [`tables_of`] named.
    pub tables: Vec<TableMeasure>,
    /// Existing indexes: table, and leading columns. An index of only some rows does not belong here.
    pub indexes: Vec<(String, Vec<String>)>,
    /// Existing foreign keys: child table, child columns, parent table.
    pub foreign_keys: Vec<(String, Vec<String>, String)>,
    /// Columns: table, column, type. They tell a harmless change of a type from a rewrite, and what a rebuild leaves behind.
    pub columns: Vec<(String, String, String)>,
}

/// Every table that a script names, in the order of their first mention, spelled so that the database can look it up: PostgreSQL's
/// names are quoted where they have to be (`to_regclass` takes them), SQLite's are bare. Tables that the script creates are among
/// them, because one of that name may exist already.
#[must_use]
pub fn tables_of(script: &Script, engine: EngineKind) -> Vec<String> {
    let known = Known::default();
    let mut tables: Vec<String> = Vec::new();
    for (reading, _) in readings(script, engine, &known) {
        let locked = reading.locks.into_iter().map(|(table, _)| table);
        let named = reading.facts.iter().filter_map(Fact::table).cloned();
        for table in locked.chain(reading.tables).chain(named) {
            let table = table.to_string();
            if table != rules::DATABASE && !tables.contains(&table) {
                tables.push(table);
            }
        }
    }
    tables
}

/// What each statement of a script will do, in order. A statement that cannot be read is judged as such; nothing fails.
#[must_use]
pub fn assess(script: &Script, engine: EngineKind, known: &Known) -> Vec<Impact> {
    let findings = match engine {
        EngineKind::Postgres => squawk::findings(script),
        EngineKind::Sqlite => Vec::new(),
    };
    let readings = readings(script, engine, known);
    let atomic = script.groups.iter().enumerate();
    let groups = atomic.flat_map(|(number, group)| group.statements.iter().map(move |_| (number, group.atomic)));
    // An index may be created after the foreign key that needs it.
    let mut finally = Context::new(known, engine);
    for (reading, _) in &readings {
        finally.learn(&reading.facts);
    }
    let mut judge = Judge::new(finally, script.foreign_keys_off);
    let mut impacts = Vec::with_capacity(readings.len());
    for (at, ((reading, context), (group, atomic))) in readings.into_iter().zip(groups).enumerate() {
        let mut reasons = judge.judge(&reading, &context, group, atomic);
        for finding in findings.iter().filter(|finding| finding.statement == at) {
            squawk::add(finding, &reading, &context, &mut reasons);
        }
        reasons.sort_by_key(|reason| Reverse(reason.risk));
        impacts.push(impact_of(reading, reasons));
    }
    impacts
}

/// The highest risk of any reason; low where there is none.
#[must_use]
pub fn overall(impacts: &[Impact]) -> Risk {
    let reasons = impacts.iter().flat_map(|impact| &impact.reasons);
    reasons.map(|reason| reason.risk).max().unwrap_or(Risk::Low)
}

/// Each statement, read, with what was known at it and of what it creates itself.
fn readings(script: &Script, engine: EngineKind, known: &Known) -> Vec<(Reading, Context)> {
    let mut context = Context::new(known, engine);
    let statements: Vec<_> = script
        .statements()
        .map(|statement| tokens_of(&statement.sql, engine))
        .collect();
    let rebuilds = match engine {
        EngineKind::Postgres => Vec::new(),
        EngineKind::Sqlite => sqlite::rebuilds(&statements),
    };
    let mut readings = Vec::with_capacity(statements.len());
    for (at, tokens) in statements.iter().enumerate() {
        let reading = match engine {
            EngineKind::Postgres => postgres::read(tokens, &context),
            EngineKind::Sqlite => sqlite::read(tokens, at, &rebuilds, &context),
        };
        let mut at_statement = context.clone();
        at_statement.learn_creations(&reading.facts);
        context.learn(&reading.facts);
        readings.push((reading, at_statement));
    }
    readings
}

fn impact_of(reading: Reading, reasons: Vec<crate::model::RiskReason>) -> Impact {
    Impact {
        kind: reading.kind,
        locks: reading
            .locks
            .into_iter()
            .map(|(table, mode)| TableLock {
                table: table.to_string(),
                mode,
            })
            .collect(),
        work: reading.work,
        tables: reading.tables.iter().map(Name::to_string).collect(),
        changes_rows: reading.changes_rows,
        loses_data: reading.loses_data,
        reasons,
    }
}
