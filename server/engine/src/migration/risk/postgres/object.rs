//! Everything that has a name and is no table: views, triggers, types, functions, schemas; and what is dropped.

use super::table;
use crate::{
    migration::risk::{
        context::Context,
        reading::{Fact, Reading},
        rows::sources,
        token::{Cursor, Name},
    },
    model::{EngineKind, LockMode, Work},
};

/// Kinds of objects that other objects are named by, the longer names first.
const KINDS: [&str; 36] = [
    "MATERIALIZED VIEW",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "EVENT TRIGGER",
    "TEXT SEARCH",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "ACCESS METHOD",
    "USER MAPPING",
    "DEFAULT PRIVILEGES",
    "LARGE OBJECT",
    "OWNED BY",
    "SEQUENCE",
    "DATABASE",
    "TABLESPACE",
    "EXTENSION",
    "COLLATION",
    "CONVERSION",
    "AGGREGATE",
    "FUNCTION",
    "PROCEDURE",
    "ROUTINE",
    "OPERATOR",
    "SCHEMA",
    "DOMAIN",
    "TYPE",
    "VIEW",
    "INDEX",
    "TRIGGER",
    "POLICY",
    "RULE",
    "ROLE",
    "USER",
    "GROUP",
    "SERVER",
    "LANGUAGE",
];

/// More of them, which would make the array above too wide to read.
const OTHER_KINDS: [&str; 9] = [
    "PUBLICATION",
    "SUBSCRIPTION",
    "STATISTICS",
    "TRANSFORM",
    "CAST",
    "TABLE",
    "COLUMN",
    "CONSTRAINT",
    "SYSTEM",
];

fn eat_kind(cursor: &mut Cursor<'_>) -> Option<&'static str> {
    KINDS.iter().chain(&OTHER_KINDS).find(|kind| cursor.eat(kind)).copied()
}

/// Reads what follows `CREATE`, where it is no table and no index.
pub(super) fn create(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let kind = eat_kind(&mut cursor)?;
    let mut reading = Reading::new(format!("CREATE {kind}"));
    cursor.skip_if_exists();
    match kind {
        "VIEW" => {
            // A view holds no rows, and replacing it is over at once: it counts as new either way.
            if let Some(view) = cursor.name() {
                reading.lock(&view, LockMode::AccessExclusive);
                reading.fact(Fact::Creates(view));
            }
            for source in sources(cursor.rest(), EngineKind::Postgres, &[]) {
                reading.lock(&source, LockMode::AccessShare);
            }
        }
        "MATERIALIZED VIEW" => {
            let view = cursor.name()?;
            reading.lock(&view, LockMode::AccessExclusive);
            reading.fact(Fact::Creates(view.clone()));
            if let Some(query) = cursor.after("AS") {
                reading = table::create_as(query, &view, reading, context);
            }
        }
        "TRIGGER" => {
            if let Some(table) = cursor.after("ON").and_then(|mut cursor| cursor.name()) {
                reading.lock(&table, LockMode::ShareRowExclusive);
            }
        }
        "RULE" => {
            if let Some(table) = cursor.after("TO").and_then(|mut cursor| cursor.name()) {
                reading.lock(&table, LockMode::AccessExclusive);
            }
        }
        "POLICY" => {
            if let Some(table) = cursor.after("ON").and_then(|mut cursor| cursor.name()) {
                reading.lock(&table, LockMode::AccessExclusive);
            }
        }
        "STATISTICS" => {
            if let Some(table) = cursor.after("FROM").and_then(|mut cursor| cursor.name()) {
                reading.lock(&table, LockMode::ShareUpdateExclusive);
            }
        }
        "PUBLICATION" => {
            if let Some(mut tables) = cursor.after("FOR TABLE") {
                for table in tables.names() {
                    reading.lock(&table, LockMode::ShareUpdateExclusive);
                }
            }
        }
        "DATABASE" | "TABLESPACE" => reading.fact(Fact::NoTransaction),
        "EXTENSION" => reading.fact(Fact::Opaque("an extension's script may do anything".to_owned())),
        "SCHEMA"
            if ["CREATE TABLE", "CREATE VIEW", "CREATE INDEX", "GRANT"]
                .iter()
                .any(|words| cursor.has(words)) =>
        {
            reading.fact(Fact::Opaque("it creates objects within the statement".to_owned()));
        }
        _ => {}
    }
    Some(reading)
}

/// Reads what follows `ALTER`, where it is no table.
pub(super) fn alter(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let kind = eat_kind(&mut cursor)?;
    let mut reading = Reading::new(format!("ALTER {kind}"));
    cursor.skip_if_exists();
    match kind {
        "VIEW" | "MATERIALIZED VIEW" => {
            let view = cursor.name()?;
            let weak = cursor.at("SET STATISTICS") || cursor.at("CLUSTER") || cursor.at("SET WITHOUT CLUSTER");
            reading.lock(
                &view,
                if weak {
                    LockMode::ShareUpdateExclusive
                } else {
                    LockMode::AccessExclusive
                },
            );
        }
        "INDEX" => {
            let index = cursor.name()?;
            if cursor.eat("SET TABLESPACE") {
                // Only the index is locked, not its table; but who reads the table plans with all of its indexes.
                match context.table_of_index(&index) {
                    Some(table) => reading.rewrite(&table.clone(), "an index of it is copied to another tablespace"),
                    None => {
                        reading.work = Work::Rewrite;
                        reading.fact(Fact::Opaque(format!("it does not name the table of {index}")));
                    }
                }
            }
        }
        "TRIGGER" | "POLICY" | "RULE" => {
            if let Some(table) = cursor.after("ON").and_then(|mut cursor| cursor.name()) {
                let weak = kind == "TRIGGER" && cursor.has("DEPENDS ON EXTENSION");
                reading.lock(
                    &table,
                    if weak {
                        LockMode::AccessShare
                    } else {
                        LockMode::AccessExclusive
                    },
                );
            }
        }
        "DOMAIN" => {
            let adds = cursor.has("ADD") && !cursor.has("NOT VALID");
            if adds || cursor.has("VALIDATE") || cursor.has("SET NOT NULL") {
                reading.work = Work::Scan;
                reading.fact(Fact::Opaque(
                    "it scans and locks every table with a column of the domain".to_owned(),
                ));
            }
        }
        "TYPE" if cursor.has("DROP ATTRIBUTE") || cursor.has("ALTER ATTRIBUTE") => {
            let shown = cursor.name().map(|name| name.to_string()).unwrap_or_default();
            reading.loses(format!("an attribute of type {shown}"), None);
        }
        "PUBLICATION" => {
            for words in ["ADD TABLE", "SET TABLE", "DROP TABLE"] {
                for table in cursor.after(words).map(|mut tables| tables.names()).unwrap_or_default() {
                    reading.lock(&table, LockMode::ShareUpdateExclusive);
                }
            }
        }
        "SYSTEM" => reading.fact(Fact::NoTransaction),
        "EXTENSION" if cursor.has("UPDATE") => reading.fact(Fact::Opaque("an extension's script may do anything".to_owned())),
        _ => {}
    }
    Some(reading)
}

/// Reads what follows `DROP`.
pub(super) fn drop(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let kind = if cursor.eat("OWNED") {
        "OWNED"
    } else {
        eat_kind(&mut cursor)?
    };
    let mut reading = Reading::new(format!("DROP {kind}"));
    let concurrently = cursor.eat("CONCURRENTLY");
    cursor.skip_if_exists();
    let cascade = cursor.has("CASCADE");
    match kind {
        "TABLE" | "FOREIGN TABLE" => drop_tables(&cursor.names(), cascade, kind == "TABLE", context, &mut reading),
        "VIEW" | "MATERIALIZED VIEW" => {
            for view in cursor.names() {
                reading.lock(&view, LockMode::AccessExclusive);
            }
        }
        "INDEX" => {
            let mode = if concurrently {
                LockMode::ShareUpdateExclusive
            } else {
                LockMode::AccessExclusive
            };
            for index in cursor.names() {
                if let Some(table) = context.table_of_index(&index) {
                    reading.lock(&table.clone(), mode);
                }
            }
            if concurrently {
                reading.fact(Fact::NoTransaction);
            }
        }
        "TRIGGER" | "RULE" | "POLICY" => {
            if let Some(table) = cursor.after("ON").and_then(|mut cursor| cursor.name()) {
                reading.lock(&table, LockMode::AccessExclusive);
            }
        }
        "SCHEMA" => {
            for schema in cursor.names() {
                let what = if cascade {
                    "every table in it"
                } else {
                    "what is in it, though without CASCADE it fails unless it is empty"
                };
                reading.loses(format!("schema {schema} with {what}"), None);
            }
        }
        // Without CASCADE none of these goes while a column uses it.
        "TYPE" | "DOMAIN" | "EXTENSION" | "COLLATION" | "FUNCTION" | "SEQUENCE" | "SERVER" | "ROUTINE" if cascade => {
            let names = cursor.names().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let lost = match kind {
                "FUNCTION" | "ROUTINE" | "SEQUENCE" | "COLLATION" => "defaults, triggers, indexes and generated columns",
                _ => "every column and table",
            };
            reading.loses(format!("{names} and {lost} that depends on it"), None);
        }
        "SEQUENCE" => {
            let names = cursor.names().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            reading.loses(format!("where sequence {names} stands"), None);
        }
        "DATABASE" | "TABLESPACE" | "SUBSCRIPTION" => {
            reading.fact(Fact::NoTransaction);
            if kind == "DATABASE" {
                let name = cursor.name().map(|name| name.to_string()).unwrap_or_default();
                reading.loses(format!("database {name}"), None);
            }
        }
        "OWNED" => reading.loses("everything that the role owns", None),
        _ => {}
    }
    Some(reading)
}

fn drop_tables(tables: &[Name], cascade: bool, own: bool, context: &Context, reading: &mut Reading) {
    for table in tables {
        reading.lock(table, LockMode::AccessExclusive);
        // The triggers of a foreign key are dropped on both sides, so that both are locked.
        for key in context.keys_of(table) {
            reading.lock(&key.parent, LockMode::AccessExclusive);
        }
        if cascade {
            for key in context.keys_to(table) {
                reading.lock(&key.child, LockMode::AccessExclusive);
            }
        }
        if own {
            reading.loses(format!("table {table}"), Some(table));
        }
    }
}

/// Reads what follows `COMMENT`.
pub(super) fn comment(mut cursor: Cursor<'_>) -> Option<Reading> {
    let mut reading = Reading::new("COMMENT");
    if !cursor.eat("ON") {
        return None;
    }
    let kind = eat_kind(&mut cursor).unwrap_or_default();
    match kind {
        "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" => {
            let table = cursor.name()?;
            reading.lock(&table, LockMode::ShareUpdateExclusive);
        }
        "COLUMN" => {
            let column = cursor.name_before_column()?;
            reading.lock(&column, LockMode::ShareUpdateExclusive);
        }
        "CONSTRAINT" | "TRIGGER" | "RULE" | "POLICY" => {
            let on_table = cursor.after("ON").filter(|cursor| !cursor.at("DOMAIN"));
            if let Some(table) = on_table.and_then(|mut cursor| cursor.name()) {
                reading.lock(&table, LockMode::AccessShare);
            }
        }
        _ => {}
    }
    Some(reading)
}
