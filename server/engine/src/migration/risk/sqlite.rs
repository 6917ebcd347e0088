//! Reads SQLite's statements. Every write takes the one write lock of the whole database, so that only the work and what is lost
//! differ. What `ALTER TABLE` cannot do is done by a rebuild, which is recognised over several statements.

use super::{
    context::Context,
    reading::{Fact, Reading},
    rows,
    rules::DATABASE,
    token::{Cursor, Name, Token, TokenKind},
};
use crate::model::{EngineKind, LockMode, Work};

/// A table that is replaced by a copy of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rebuild {
    /// The table as everybody names it, before and after.
    table: Name,
    /// Position of the statement that copies the rows, and where it reads them.
    copy: usize,
    source: Name,
    /// Position of the statement that drops the old one.
    drop: usize,
    /// Whether the old table was renamed away, rather than the new one renamed into its place.
    renamed_first: bool,
}

/// What matters of a statement for a rebuild.
enum Step {
    Create(Name),
    Copy { from: Name, to: Name },
    Drop(Name),
    Rename { from: Name, to: Name },
    Other,
}

/// Finds the tables that a script rebuilds.
pub(super) fn rebuilds(statements: &[Vec<Token>]) -> Vec<Rebuild> {
    let steps: Vec<Step> = statements.iter().map(|tokens| step_of(tokens)).collect();
    let mut found = Vec::new();
    for (copy, step) in steps.iter().enumerate() {
        let Step::Copy { from: source, to } = step else { continue };
        let (before, after) = (&steps[..copy], &steps[copy + 1..]);
        let created = before
            .iter()
            .any(|step| matches!(step, Step::Create(table) if table.same(to)));
        let dropped = after
            .iter()
            .position(|step| matches!(step, Step::Drop(table) if table.same(source)));
        let (true, Some(dropped)) = (created, dropped) else { continue };
        let drop = copy + 1 + dropped;
        let renamed_after = steps[drop + 1..]
            .iter()
            .any(|step| matches!(step, Step::Rename { from, to: name } if from.same(to) && name.same(source)));
        let renamed_first = before
            .iter()
            .any(|step| matches!(step, Step::Rename { from, to: name } if from.same(to) && name.same(source)));
        if renamed_after || renamed_first {
            let table = if renamed_after { source.clone() } else { to.clone() };
            found.push(Rebuild {
                table,
                copy,
                source: source.clone(),
                drop,
                renamed_first,
            });
        }
    }
    found
}

fn step_of(tokens: &[Token]) -> Step {
    let mut cursor = Cursor::new(tokens, EngineKind::Sqlite);
    let step = if cursor.eat("CREATE TABLE") || cursor.eat("CREATE TEMP TABLE") || cursor.eat("CREATE TEMPORARY TABLE") {
        cursor.skip_if_exists();
        cursor.name().map(Step::Create)
    } else if cursor.eat("INSERT") || cursor.eat("REPLACE") {
        if cursor.eat("OR") {
            cursor.skip(1);
        }
        cursor.eat("INTO");
        let to = cursor.name();
        let from = rows::sources(cursor.rest(), EngineKind::Sqlite, &[]).into_iter().next();
        from.zip(to).map(|(from, to)| Step::Copy { from, to })
    } else if cursor.eat("DROP TABLE") {
        cursor.skip_if_exists();
        cursor.name().map(Step::Drop)
    } else if cursor.eat("ALTER TABLE") {
        let from = cursor.name();
        let to = if cursor.eat("RENAME TO") { cursor.name() } else { None };
        from.zip(to).map(|(from, to)| Step::Rename {
            to: to.beside(&from),
            from,
        })
    } else {
        None
    };
    step.unwrap_or(Step::Other)
}

/// Reads the statement at a position of the script.
pub(super) fn read(tokens: &[Token], at: usize, rebuilds: &[Rebuild], context: &Context) -> Reading {
    let cursor = Cursor::new(tokens, EngineKind::Sqlite);
    let mut reading = match rows::read(cursor, context) {
        Some(reading) => reading,
        None => statement(cursor).unwrap_or_else(|| opaque(tokens)),
    };
    let named = std::mem::take(&mut reading.locks);
    let writes = reading.changes_rows
        || !matches!(
            reading.kind.as_str(),
            "SELECT" | "VALUES" | "PRAGMA" | "EXPLAIN" | "ATTACH" | "DETACH" | "SAVEPOINT" | "RELEASE"
        );
    let is_opaque = reading.facts.iter().any(|fact| matches!(fact, Fact::Opaque(_)));
    if (writes && !is_opaque) || named.iter().any(|(name, _)| name.to_string() == DATABASE) {
        reading.lock(&Name::whole_database(), LockMode::AccessExclusive);
    }
    for rebuild in rebuilds {
        if rebuild.copy == at {
            copy_of_rebuild(tokens, rebuild, context, &mut reading);
        }
        if rebuild.drop == at {
            reading.loses_data = false;
            reading.facts.retain(|fact| !matches!(fact, Fact::Loses { .. }));
            reading.work(Work::Rewrite, &rebuild.source);
            reading.fact(Fact::DropsRebuilt {
                table: rebuild.table.clone(),
                renamed_first: rebuild.renamed_first,
            });
        }
    }
    reading
}

/// The copy of a rebuild: every row is written anew, and what is not copied is lost.
fn copy_of_rebuild(tokens: &[Token], rebuild: &Rebuild, context: &Context, reading: &mut Reading) {
    reading.work(Work::Rewrite, &rebuild.source);
    let cursor = Cursor::new(tokens, EngineKind::Sqlite);
    let Some(query) = cursor.after("SELECT") else { return };
    if ["WHERE", "LIMIT", "DISTINCT", "GROUP BY", "JOIN"]
        .iter()
        .any(|words| query.has(words))
        || cursor.has("OR IGNORE")
    {
        reading.loses(
            format!("what the copy of {} leaves out", rebuild.table),
            Some(&rebuild.source),
        );
    }
    let mut list = query.split_commas();
    let copies_all = list.first_mut().is_some_and(|first| {
        first.eat_symbol("*") || (first.identifier().is_some() && first.eat_symbol(".") && first.eat_symbol("*"))
    });
    let mentioned = |column: &str| {
        query
            .rest()
            .iter()
            .any(|token| token.is_name() && token.text.eq_ignore_ascii_case(column))
    };
    let missing: Vec<&str> = context
        .columns_of(&rebuild.table)
        .into_iter()
        .filter(|column| !copies_all && !mentioned(column))
        .collect();
    if !missing.is_empty() {
        reading.loses(
            format!("column {} of {}, which is not copied,", missing.join(", "), rebuild.table),
            Some(&rebuild.source),
        );
    }
}

fn opaque(tokens: &[Token]) -> Reading {
    let kind = tokens.first().map(|token| token.text.to_uppercase()).unwrap_or_default();
    Reading::opaque(kind, "the statement is not known here")
}

fn statement(mut cursor: Cursor<'_>) -> Option<Reading> {
    let verb = cursor.peek()?.text.to_uppercase();
    cursor.skip(1);
    match verb.as_str() {
        "CREATE" => create(cursor),
        "ALTER" => alter(cursor),
        "DROP" => drop(cursor),
        "PRAGMA" => pragma(cursor),
        "VACUUM" => {
            let mut reading = Reading::new("VACUUM");
            if cursor.has("INTO") {
                reading.work = Work::Scan;
            } else {
                reading.work(Work::Rewrite, &Name::whole_database());
                reading.fact(Fact::Rewrites {
                    table: Name::whole_database(),
                    why: "VACUUM copies the whole database".to_owned(),
                });
                reading.fact(Fact::NoTransaction);
            }
            Some(reading)
        }
        "REINDEX" => {
            let mut reading = Reading::new("REINDEX");
            reading.work(Work::Build, &cursor.name().unwrap_or_else(Name::whole_database));
            Some(reading)
        }
        "ANALYZE" => {
            let mut reading = Reading::new("ANALYZE");
            reading.work(Work::Scan, &cursor.name().unwrap_or_else(Name::whole_database));
            Some(reading)
        }
        "ATTACH" => Some(Reading::opaque("ATTACH", "another database file comes into play")),
        "DETACH" | "EXPLAIN" | "SAVEPOINT" | "RELEASE" | "BEGIN" | "COMMIT" | "ROLLBACK" | "END" => Some(Reading::new(verb)),
        _ => None,
    }
}

fn create(mut cursor: Cursor<'_>) -> Option<Reading> {
    if !cursor.eat("TEMP") {
        cursor.eat("TEMPORARY");
    }
    if cursor.eat("TABLE") {
        return create_table(cursor);
    }
    if cursor.eat("VIRTUAL TABLE") {
        let mut reading = Reading::new("CREATE VIRTUAL TABLE");
        cursor.skip_if_exists();
        reading.fact(Fact::Creates(cursor.name()?));
        return Some(reading);
    }
    if cursor.eat("INDEX") || cursor.eat("UNIQUE INDEX") {
        let mut reading = Reading::new("CREATE INDEX");
        cursor.skip_if_exists();
        let index = cursor.name();
        if !cursor.eat("ON") {
            return None;
        }
        let table = cursor.name()?;
        let columns = cursor.parens().map(|inside| inside.columns()).unwrap_or_default();
        let columns = if cursor.has("WHERE") { Vec::new() } else { columns };
        reading.work(Work::Build, &table);
        reading.fact(Fact::Indexes {
            index,
            table,
            columns,
            concurrently: false,
            built: true,
        });
        return Some(reading);
    }
    let kind = ["TRIGGER", "VIEW"].into_iter().find(|kind| cursor.eat(kind))?;
    Some(Reading::new(format!("CREATE {kind}")))
}

fn create_table(mut cursor: Cursor<'_>) -> Option<Reading> {
    let mut reading = Reading::new("CREATE TABLE");
    cursor.skip_if_exists();
    let table = cursor.name()?;
    reading.fact(Fact::Creates(table.clone()));
    if cursor.eat("AS") {
        reading.work = Work::Scan;
        reading.tables = rows::sources(cursor.rest(), EngineKind::Sqlite, &[]);
        reading.fact(Fact::Fills(table));
        return Some(reading);
    }
    for item in cursor.parens()?.split_commas() {
        read_item(item, &table, &mut reading);
    }
    Some(reading)
}

/// A column or a constraint of a new table: which keys and indexes it brings.
fn read_item(mut item: Cursor<'_>, table: &Name, reading: &mut Reading) {
    if item.eat("CONSTRAINT") {
        item.skip(1);
    }
    let index = |columns: Vec<String>| Fact::Indexes {
        index: None,
        table: table.clone(),
        columns,
        concurrently: false,
        built: false,
    };
    if item.eat("FOREIGN KEY") {
        let columns = item.parens().map(|inside| inside.columns()).unwrap_or_default();
        if item.eat("REFERENCES")
            && let Some(parent) = item.name()
        {
            reading.fact(Fact::ForeignKey {
                child: table.clone(),
                columns,
                parent,
                constraint: None,
            });
        }
        return;
    }
    let unique_list = item.eat("PRIMARY KEY")
        || (item.at("UNIQUE") && item.rest().get(1).is_some_and(|token| token.is_symbol("(")) && item.eat("UNIQUE"));
    if unique_list {
        reading.fact(index(item.parens().map(|inside| inside.columns()).unwrap_or_default()));
        return;
    }
    if item.eat("CHECK") {
        return;
    }
    let Some(column) = item.identifier() else { return };
    if item.has("PRIMARY KEY") || item.has("UNIQUE") {
        reading.fact(index(vec![column.clone()]));
    }
    if let Some(parent) = item.after("REFERENCES").and_then(|mut after| after.name()) {
        reading.fact(Fact::ForeignKey {
            child: table.clone(),
            columns: vec![column],
            parent,
            constraint: None,
        });
    }
}

fn alter(mut cursor: Cursor<'_>) -> Option<Reading> {
    if !cursor.eat("TABLE") {
        return None;
    }
    let mut reading = Reading::new("ALTER TABLE");
    let table = cursor.name()?;
    if cursor.eat("ADD CONSTRAINT") || cursor.eat("ADD CHECK") {
        reading.scan(&table, "the constraint is tested for every row");
    } else if cursor.eat("ADD") {
        cursor.eat("COLUMN");
        add_column(cursor, &table, &mut reading);
    } else if cursor.at("DROP CONSTRAINT") {
        reading.work = Work::Catalog;
    } else if cursor.eat("DROP") {
        cursor.eat("COLUMN");
        let column = cursor.identifier()?;
        reading.rewrite(&table, format!("column {column} is taken out of every row"));
        reading.loses(format!("column {column} of {table}"), Some(&table));
    } else if cursor.eat("RENAME TO") {
        let to = cursor.name()?.beside(&table);
        reading.fact(Fact::Renames { from: table, to });
    } else if cursor.eat("RENAME") {
        // Renaming a column changes nothing but the text of the schema.
        reading.work = Work::Catalog;
    } else if cursor.eat("ALTER") {
        if cursor.has("SET NOT NULL") {
            reading.scan(&table, "every row is searched for a null");
        }
    } else {
        return None;
    }
    Some(reading)
}

fn add_column(mut cursor: Cursor<'_>, table: &Name, reading: &mut Reading) {
    let Some(column) = cursor.identifier() else { return };
    let impossible = |why: String| Fact::Impossible {
        table: table.clone(),
        why,
    };
    let generated = cursor.has("AS");
    let default = cursor.after("DEFAULT");
    let has_default = default.is_some_and(|cursor| !cursor.at("NULL"));
    if let Some(default) = default {
        let current = ["CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"]
            .iter()
            .any(|word| default.at(word));
        let mut inside = default;
        let computed = inside
            .parens()
            .is_some_and(|inside| inside.rest().iter().any(|token| token.kind == TokenKind::Word));
        if current || computed {
            reading.fact(impossible(format!("the default of {column} is not constant")));
        }
    }
    if cursor.has("PRIMARY KEY") || cursor.has("UNIQUE") {
        reading.fact(impossible(format!("column {column} cannot be unique when it is added")));
    }
    if cursor.has("STORED") && generated {
        reading.fact(impossible(format!("a stored column such as {column} cannot be added")));
    }
    if cursor.has("NOT NULL") && !has_default && !generated {
        reading.fact(Fact::RequiredColumn {
            table: table.clone(),
            column: column.clone(),
        });
    }
    if cursor.has("CHECK") || (generated && cursor.has("NOT NULL")) {
        reading.scan(table, format!("the condition of {column} is tested for every row"));
    }
    if let Some(parent) = cursor.after("REFERENCES").and_then(|mut after| after.name()) {
        if has_default {
            reading.fact(impossible(format!(
                "column {column} refers to {parent} and has a default, which fails with foreign keys on"
            )));
        }
        reading.fact(Fact::ForeignKey {
            child: table.clone(),
            columns: vec![column],
            parent,
            constraint: None,
        });
    }
}

fn drop(mut cursor: Cursor<'_>) -> Option<Reading> {
    let kind = ["TABLE", "INDEX", "VIEW", "TRIGGER"]
        .into_iter()
        .find(|kind| cursor.eat(kind))?;
    cursor.skip_if_exists();
    let name = cursor.name()?;
    let mut reading = Reading::new(format!("DROP {kind}"));
    if kind == "TABLE" {
        reading.loses(format!("table {name}"), Some(&name));
    }
    Some(reading)
}

fn pragma(mut cursor: Cursor<'_>) -> Option<Reading> {
    let name = cursor.name()?.to_string().to_lowercase();
    let name = name.rsplit('.').next().unwrap_or_default().to_owned();
    let mut reading = Reading::new("PRAGMA");
    let value = if cursor.eat_symbol("=") {
        cursor.peek().map(|token| token.text.to_lowercase())
    } else {
        cursor
            .parens()
            .and_then(|inside| inside.peek().map(|token| token.text.to_lowercase()))
    };
    let on = value
        .as_deref()
        .is_some_and(|value| !matches!(value.trim_matches('\''), "0" | "off" | "false" | "no"));
    match name.as_str() {
        "writable_schema" if on => reading.fact(Fact::WritesCatalog),
        "integrity_check" | "quick_check" | "foreign_key_check" => reading.work(Work::Scan, &Name::whole_database()),
        "incremental_vacuum" => {
            reading.work(Work::Rewrite, &Name::whole_database());
            reading.lock(&Name::whole_database(), LockMode::AccessExclusive);
        }
        "user_version" | "application_id" | "journal_mode" | "auto_vacuum" if value.is_some() => {
            reading.lock(&Name::whole_database(), LockMode::AccessExclusive);
        }
        _ => {}
    }
    Some(reading)
}
