//! Reads PostgreSQL's statements. The locks are those of its documentation ("Explicit Locking", `ALTER TABLE`) and, where it is
//! silent, of `AlterTableGetLockLevel` and `DefineRelation` in its source. Tables: [`table`], [`alter`]; columns: [`mod@column`];
//! everything else that has a name: [`object`]; rows: [`super::rows`].

mod alter;
mod column;
mod object;
mod table;

use super::{
    context::Context,
    reading::{Fact, Reading},
    rows,
    token::{Cursor, Token},
};
use crate::model::{EngineKind, LockMode, Work};

/// Reads one statement.
pub(super) fn read(tokens: &[Token], context: &Context) -> Reading {
    let cursor = Cursor::new(tokens, EngineKind::Postgres);
    if let Some(reading) = rows::read(cursor, context) {
        return reading;
    }
    statement(cursor, context).unwrap_or_else(|| Reading::opaque(kind_of(tokens), "the statement is not known here"))
}

/// The first two words in capitals.
fn kind_of(tokens: &[Token]) -> String {
    let words: Vec<String> = tokens
        .iter()
        .take(2)
        .take_while(|token| token.is_name())
        .map(|token| token.text.to_uppercase())
        .collect();
    words.join(" ")
}

fn statement(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let tokens = cursor.rest();
    let verb = cursor.peek()?.text.to_uppercase();
    cursor.skip(1);
    Some(match verb.as_str() {
        "CREATE" => create(cursor, context)?,
        "ALTER" => alter_statement(cursor, context)?,
        "DROP" => object::drop(cursor, context)?,
        "TRUNCATE" => truncate(cursor, context),
        "COPY" => copy(cursor, context)?,
        "LOCK" => lock(cursor)?,
        "VACUUM" => vacuum(cursor),
        "ANALYZE" | "ANALYSE" => analyze(cursor),
        "CLUSTER" => cluster(cursor),
        "REINDEX" => reindex(cursor, context)?,
        "REFRESH" => refresh(cursor)?,
        "COMMENT" => object::comment(cursor)?,
        "REASSIGN" => Reading::new("REASSIGN OWNED"),
        "DO" => Reading::opaque("DO", "it is a block of code"),
        "CALL" => Reading::opaque("CALL", "a procedure may do anything"),
        "EXECUTE" => Reading::opaque("EXECUTE", "the statement was prepared elsewhere"),
        "EXPLAIN" => explain(cursor, context),
        "PREPARE" | "DEALLOCATE" | "DECLARE" | "FETCH" | "CLOSE" | "SHOW" | "RESET" | "DISCARD" | "NOTIFY" | "LISTEN"
        | "UNLISTEN" | "GRANT" | "REVOKE" | "CHECKPOINT" | "LOAD" | "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE"
        | "START" | "END" | "ABORT" => Reading::new(verb),
        "SET" => Reading::new("SET"),
        "SECURITY" => Reading::new("SECURITY LABEL"),
        "IMPORT" => Reading::new("IMPORT FOREIGN SCHEMA"),
        _ => return Some(Reading::opaque(kind_of(tokens), "the statement is not known here")),
    })
}

fn create(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    cursor.eat("OR REPLACE");
    while [
        "GLOBAL",
        "LOCAL",
        "TEMPORARY",
        "TEMP",
        "UNLOGGED",
        "RECURSIVE",
        "TRUSTED",
        "PROCEDURAL",
        "CONSTRAINT",
    ]
    .iter()
    .any(|word| cursor.eat(word))
    {}
    if cursor.eat("TABLE") {
        return table::create(cursor, context);
    }
    if cursor.eat("FOREIGN TABLE") {
        let mut reading = table::create(cursor, context)?;
        "CREATE FOREIGN TABLE".clone_into(&mut reading.kind);
        return Some(reading);
    }
    if cursor.at("INDEX") || cursor.at("UNIQUE INDEX") {
        cursor.eat("UNIQUE");
        cursor.skip(1);
        return create_index(cursor, context);
    }
    object::create(cursor, context)
}

fn create_index(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut reading = Reading::new("CREATE INDEX");
    let concurrently = cursor.eat("CONCURRENTLY");
    cursor.skip_if_exists();
    let index = if cursor.at("ON") { None } else { cursor.name() };
    if !cursor.eat("ON") {
        return None;
    }
    cursor.eat("ONLY");
    let table = cursor.name()?;
    if cursor.eat("USING") {
        cursor.skip(1);
    }
    let columns = cursor.parens().map(|inside| inside.columns()).unwrap_or_default();
    // An index of some of the rows does not find the others.
    let columns = if cursor.has("WHERE") { Vec::new() } else { columns };
    reading.lock(
        &table,
        if concurrently {
            LockMode::ShareUpdateExclusive
        } else {
            LockMode::Share
        },
    );
    reading.work(Work::Build, &table);
    if concurrently {
        reading.fact(Fact::NoTransaction);
    }
    // The index stands in the schema of its table.
    let index = index.map(|index| index.beside(&table));
    let built = !context.is_new(&table);
    reading.fact(Fact::Indexes {
        index,
        table,
        columns,
        concurrently,
        built,
    });
    Some(reading)
}

fn alter_statement(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    cursor.eat("FOREIGN");
    if cursor.eat("TABLE") {
        return alter::read(cursor, context);
    }
    object::alter(cursor, context)
}

fn truncate(mut cursor: Cursor<'_>, context: &Context) -> Reading {
    let mut reading = Reading::new("TRUNCATE");
    cursor.eat("TABLE");
    let mut tables = cursor.names();
    let named = tables.len();
    if cursor.has("CASCADE") {
        let mut at = 0;
        while let Some(table) = tables.get(at).cloned() {
            for key in context.keys_to(&table) {
                if !tables.contains(&key.child) {
                    tables.push(key.child.clone());
                }
            }
            at += 1;
        }
    }
    for (at, table) in tables.iter().enumerate() {
        reading.lock(table, LockMode::AccessExclusive);
        let how = if at < named {
            ""
        } else {
            ", which refers to a table that is emptied"
        };
        reading.loses(format!("all rows of {table}{how}"), Some(table));
    }
    reading
}

fn copy(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut reading = Reading::new("COPY");
    if let Some(inside) = cursor.parens() {
        if let Some(inner) = rows::read(inside, context) {
            reading.absorb(inner);
        }
        return Some(reading);
    }
    let table = cursor.name()?;
    cursor.parens();
    if cursor.eat("FROM") {
        reading.lock(&table, LockMode::RowExclusive);
        for key in context.keys_of(&table) {
            reading.lock(&key.parent, LockMode::RowShare);
        }
        reading.work = Work::Rows;
        reading.changes_rows = true;
        reading.fact(Fact::Fills(table));
    } else {
        reading.lock(&table, LockMode::AccessShare);
        reading.work(Work::Scan, &table);
    }
    Some(reading)
}

fn lock(mut cursor: Cursor<'_>) -> Option<Reading> {
    cursor.eat("TABLE");
    let tables = cursor.names();
    let mode = if cursor.eat("IN") {
        // The longer names come before those that they begin with.
        let modes = [
            ("ACCESS SHARE", LockMode::AccessShare),
            ("ROW SHARE", LockMode::RowShare),
            ("ROW EXCLUSIVE", LockMode::RowExclusive),
            ("SHARE UPDATE EXCLUSIVE", LockMode::ShareUpdateExclusive),
            ("SHARE ROW EXCLUSIVE", LockMode::ShareRowExclusive),
            ("SHARE", LockMode::Share),
            ("EXCLUSIVE", LockMode::Exclusive),
            ("ACCESS EXCLUSIVE", LockMode::AccessExclusive),
        ];
        modes.into_iter().find(|(words, _)| cursor.at(words)).map(|(_, mode)| mode)?
    } else {
        LockMode::AccessExclusive
    };
    let mut reading = Reading::new("LOCK TABLE");
    for table in tables {
        reading.lock(&table, mode);
        if mode >= LockMode::Share {
            reading.fact(Fact::LocksExplicitly(table));
        }
    }
    Some(reading)
}

fn vacuum(mut cursor: Cursor<'_>) -> Reading {
    let mut options = cursor.parens().map(|inside| inside.split_commas()).unwrap_or_default();
    let mut full = options
        .iter_mut()
        .any(|option| option.eat("FULL") && !option.at("FALSE") && !option.at("OFF"));
    while ["FULL", "FREEZE", "VERBOSE", "ANALYZE"].iter().any(|word| {
        let found = cursor.eat(word);
        full |= found && *word == "FULL";
        found
    }) {}
    let mut reading = Reading::new(if full { "VACUUM FULL" } else { "VACUUM" });
    reading.fact(Fact::NoTransaction);
    let tables = tables_with_columns(&mut cursor);
    if tables.is_empty() {
        reading.fact(Fact::Opaque("it works through every table of the database".to_owned()));
    }
    reading.work = if full { Work::Rewrite } else { Work::Scan };
    for table in tables {
        if full {
            reading.lock(&table, LockMode::AccessExclusive);
            reading.rewrite(&table, "VACUUM FULL writes it anew");
        } else {
            reading.lock(&table, LockMode::ShareUpdateExclusive);
            reading.work(Work::Scan, &table);
        }
    }
    reading
}

fn tables_with_columns(cursor: &mut Cursor<'_>) -> Vec<super::token::Name> {
    let mut tables = Vec::new();
    while let Some(table) = cursor.name() {
        tables.push(table);
        cursor.parens();
        if !cursor.eat_symbol(",") {
            break;
        }
    }
    tables
}

fn analyze(mut cursor: Cursor<'_>) -> Reading {
    let mut reading = Reading::new("ANALYZE");
    cursor.parens();
    cursor.eat("VERBOSE");
    // It reads a sample of fixed size, so that no table's size decides.
    for table in tables_with_columns(&mut cursor) {
        reading.lock(&table, LockMode::ShareUpdateExclusive);
    }
    reading
}

fn cluster(mut cursor: Cursor<'_>) -> Reading {
    let mut reading = Reading::new("CLUSTER");
    cursor.parens();
    cursor.eat("VERBOSE");
    reading.work = Work::Rewrite;
    let first = cursor.name();
    // `CLUSTER index ON table` is the old spelling.
    let table = if cursor.eat("ON") { cursor.name() } else { first };
    match table {
        Some(table) => {
            reading.lock(&table, LockMode::AccessExclusive);
            reading.rewrite(&table, "CLUSTER writes it anew");
        }
        None => reading.fact(Fact::Opaque(
            "it works through every table that was clustered before".to_owned(),
        )),
    }
    reading
}

fn reindex(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let options = cursor.parens();
    let what = cursor.peek()?.text.to_uppercase();
    cursor.skip(1);
    let concurrently = cursor.eat("CONCURRENTLY") || options.is_some_and(|inside| inside.has("CONCURRENTLY"));
    let mut reading = Reading::new(format!("REINDEX {what}"));
    reading.work = Work::Build;
    if concurrently || what == "DATABASE" || what == "SYSTEM" || what == "SCHEMA" {
        reading.fact(Fact::NoTransaction);
    }
    let name = cursor.name();
    let table = match what.as_str() {
        "TABLE" => name,
        "INDEX" => name.and_then(|index| context.table_of_index(&index).cloned()),
        _ => None,
    };
    match table {
        Some(table) => {
            reading.lock(
                &table,
                if concurrently {
                    LockMode::ShareUpdateExclusive
                } else {
                    LockMode::Share
                },
            );
            reading.work(Work::Build, &table);
            reading.fact(Fact::Indexes {
                index: None,
                table,
                columns: Vec::new(),
                concurrently,
                built: true,
            });
        }
        None => reading.fact(Fact::Opaque("it does not name the tables whose indexes are built".to_owned())),
    }
    Some(reading)
}

fn refresh(mut cursor: Cursor<'_>) -> Option<Reading> {
    if !cursor.eat("MATERIALIZED VIEW") {
        return None;
    }
    let concurrently = cursor.eat("CONCURRENTLY");
    let view = cursor.name()?;
    let mut reading = Reading::new("REFRESH MATERIALIZED VIEW");
    if concurrently {
        reading.lock(&view, LockMode::Exclusive);
        reading.work(Work::Scan, &view);
    } else {
        reading.lock(&view, LockMode::AccessExclusive);
        if cursor.has("WITH NO DATA") {
            return Some(reading);
        }
        reading.rewrite(&view, "the view's rows are computed and written anew");
    }
    Some(reading)
}

fn explain(mut cursor: Cursor<'_>, context: &Context) -> Reading {
    let options = cursor.parens();
    let mut executes = options.is_some_and(|inside| {
        inside
            .split_commas()
            .iter_mut()
            .any(|option| option.eat("ANALYZE") && !option.at("FALSE") && !option.at("OFF"))
    });
    executes |= cursor.eat("ANALYZE");
    cursor.eat("VERBOSE");
    let mut reading = Reading::new("EXPLAIN");
    if let Some(inner) = rows::read(cursor, context) {
        if executes {
            reading.absorb(inner);
        } else {
            reading.locks = inner.locks;
        }
    }
    reading
}
