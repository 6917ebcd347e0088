//! `CREATE TABLE` in its forms.

use super::column::{self, Definition};
use crate::{
    migration::risk::{
        context::Context,
        reading::{Fact, Reading},
        rows,
        token::{Cursor, Name},
    },
    model::{EngineKind, LockMode, Work},
};

/// Reads what follows `CREATE TABLE`.
pub(super) fn create(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut reading = Reading::new("CREATE TABLE");
    // Where the table is there already the statement does nothing, so that it is judged as if it were not.
    cursor.eat("IF NOT EXISTS");
    let table = cursor.name()?;
    reading.lock(&table, LockMode::AccessExclusive);
    let partition = cursor.eat("PARTITION OF");
    if partition {
        let parent = cursor.name()?;
        reading.lock(&parent, LockMode::AccessExclusive);
    }
    cursor.eat("OF");
    let items = loop {
        match cursor.parens() {
            Some(items) => break Some(items),
            // The type of a typed table stands before its columns.
            None if cursor.peek().is_some_and(|token| token.is_name() && !token.is_word("AS")) && !partition => {
                cursor.skip(1);
                cursor.eat_symbol(".");
            }
            None => break None,
        }
    };
    reading.fact(Fact::Creates(table.clone()));
    if let Some(query) = cursor.after("AS") {
        return Some(create_as(query, &table, reading, context));
    }
    for item in items.map(|items| items.split_commas()).unwrap_or_default() {
        read_item(item, &table, &mut reading);
    }
    if let Some(parents) = cursor.after("INHERITS").and_then(|mut cursor| cursor.parens()) {
        let mut parents = parents;
        for parent in parents.names() {
            reading.lock(&parent, LockMode::ShareUpdateExclusive);
        }
    }
    Some(reading)
}

/// `CREATE TABLE .. AS`, which also makes materialized views.
pub(super) fn create_as(query: Cursor<'_>, table: &Name, mut reading: Reading, context: &Context) -> Reading {
    let empty = query.has("WITH NO DATA");
    if let Some(mut inner) = rows::read(query, context) {
        if empty {
            inner.work = Work::Catalog;
            inner.tables.clear();
        } else if !inner.tables.is_empty() {
            inner.work = inner.work.max(Work::Scan);
        }
        reading.absorb(inner);
    }
    if !empty {
        reading.fact(Fact::Fills(table.clone()));
    }
    reading
}

fn read_item(mut item: Cursor<'_>, table: &Name, reading: &mut Reading) {
    if item.eat("LIKE") {
        if let Some(source) = item.name() {
            reading.lock(&source, LockMode::AccessShare);
        }
        return;
    }
    if let Some(constraint) = column::table_constraint(item) {
        match constraint.kind {
            column::ConstraintKind::ForeignKey { columns, parent } => {
                reading.lock(&parent, LockMode::ShareRowExclusive);
                reading.fact(Fact::ForeignKey {
                    child: table.clone(),
                    columns,
                    parent,
                    constraint: constraint.name,
                });
            }
            column::ConstraintKind::Unique { columns, .. } => reading.fact(new_index(table, constraint.name, columns)),
            _ => {}
        }
        return;
    }
    let Some(definition) = Definition::read(item) else { return };
    if definition.unique {
        reading.fact(new_index(table, None, vec![definition.column.clone()]));
    }
    if let Some(parent) = definition.references {
        reading.lock(&parent, LockMode::ShareRowExclusive);
        reading.fact(Fact::ForeignKey {
            child: table.clone(),
            columns: vec![definition.column],
            parent,
            constraint: None,
        });
    }
}

fn new_index(table: &Name, index: Option<String>, columns: Vec<String>) -> Fact {
    let quoted = |name: String| Name::parse(&format!("\"{}\"", name.replace('"', "\"\"")), EngineKind::Postgres);
    Fact::Indexes {
        index: index.map(|index| quoted(index).beside(table)),
        table: table.clone(),
        columns,
        concurrently: false,
        built: false,
    }
}
