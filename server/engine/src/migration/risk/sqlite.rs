//! Reads SQLite's statements. Whatever writes takes the write lock of the whole database, which is [`DATABASE`] here; what only reads
//! takes none that anybody notices.
//!
//! SQLite changes most of a table by rebuilding it: the copy is made under another name and takes the old table's place. No single
//! statement of these tells, so that [`rebuilds`] looks for them before any is read.

use super::{
    column::{self, ConstraintKind, Definition},
    context::Context,
    reading::{Fact, Reading},
    rows,
    token::{Cursor, Name, Token, TokenKind},
};
use crate::model::{EngineKind, LockMode, Work};

/// Stands for the whole database among the names of tables.
pub(super) const DATABASE: &str = "*";

/// A table that a script rebuilds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rebuild {
    /// Position of the statement that copies the rows.
    copies: usize,
    /// Position of the statement that drops the old table.
    drops: usize,
    /// The table by the name that it has before and after.
    table: Name,
    /// Whether the old table was renamed, instead of the new one in the end.
    renamed_first: bool,
    /// Whether every row is copied.
    whole: bool,
}

impl Rebuild {
    /// Whether a statement is one of it that means something else than it would alone.
    pub(super) fn concerns(&self, at: usize) -> bool {
        at == self.copies || at == self.drops
    }
}

/// What a statement does to a table, as far as a rebuild consists of it.
#[derive(Debug)]
enum Event {
    Creates(Name),
    Copies {
        from: Vec<Name>,
        to: Name,
        whole: bool,
        creates: bool,
    },
    Drops(Name),
    Renames {
        from: Name,
        to: Name,
    },
}

/// The tables that a script rebuilds.
pub(super) fn rebuilds(statements: &[Vec<Token>]) -> Vec<Rebuild> {
    let numbered = statements.iter().enumerate();
    let events: Vec<(usize, Event)> = numbered.filter_map(|(at, tokens)| Some((at, event(tokens)?))).collect();
    let dropped = events.iter().filter_map(|(at, event)| match event {
        Event::Drops(table) => Some((*at, table)),
        _ => None,
    });
    dropped.filter_map(|(at, table)| rebuild(&events, at, table)).collect()
}

fn rebuild(events: &[(usize, Event)], drops: usize, dropped: &Name) -> Option<Rebuild> {
    let before = events.iter().take_while(|(at, _)| *at < drops);
    let (copies, to, whole) = before.clone().find_map(|(at, event)| match event {
        Event::Copies { from, to, whole, .. } if from.iter().any(|name| name.same(dropped)) => Some((*at, to, *whole)),
        _ => None,
    })?;
    let created = before.clone().filter(|(at, _)| *at <= copies).any(|(_, event)| match event {
        Event::Creates(table) => table.same(to),
        Event::Copies { to: table, creates, .. } => *creates && table.same(to),
        _ => false,
    });
    let renamed = |from: &Name, to: &Name, after: bool| {
        events.iter().any(|(at, event)| match event {
            Event::Renames { from: old, to: new } => (*at > drops) == after && old.same(from) && new.same(to),
            _ => false,
        })
    };
    let new_takes_place = renamed(to, dropped, true);
    let renamed_first = !new_takes_place && renamed(to, dropped, false);
    (created && (new_takes_place || renamed_first)).then(|| Rebuild {
        copies,
        drops,
        table: if renamed_first { to.clone() } else { dropped.clone() },
        renamed_first,
        whole,
    })
}

fn event(tokens: &[Token]) -> Option<Event> {
    let mut cursor = Cursor::new(tokens, EngineKind::Sqlite);
    if cursor.eat("CREATE TABLE") {
        cursor.skip_if_exists();
        let to = cursor.name()?;
        return Some(if cursor.at("AS") {
            copying(&cursor, to, true)
        } else {
            Event::Creates(to)
        });
    }
    if cursor.eat("DROP TABLE") {
        cursor.skip_if_exists();
        return cursor.name().map(Event::Drops);
    }
    if cursor.eat("ALTER TABLE") {
        let from = cursor.name()?;
        if !cursor.eat("RENAME TO") {
            return None;
        }
        let to = cursor.name()?.beside(&from);
        return Some(Event::Renames { from, to });
    }
    if cursor.eat("INSERT") || cursor.eat("REPLACE") {
        if cursor.eat("OR") {
            cursor.skip(1);
        }
        cursor.eat("INTO");
        let to = cursor.name()?;
        return Some(copying(&cursor, to, false));
    }
    None
}

fn copying(cursor: &Cursor<'_>, to: Name, creates: bool) -> Event {
    let from = rows::sources(cursor.rest(), EngineKind::Sqlite, &[]);
    let whole = !["WHERE", "LIMIT", "DISTINCT", "JOIN", "GROUP BY", "EXCEPT", "INTERSECT"]
        .iter()
        .any(|words| cursor.has(words));
    Event::Copies {
        from,
        to,
        whole,
        creates,
    }
}

/// Reads one statement; `rebuild` is what it is a part of.
pub(super) fn read(tokens: &[Token], context: &Context, rebuild: Option<&Rebuild>, at: usize) -> Reading {
    let cursor = Cursor::new(tokens, EngineKind::Sqlite);
    let mut reading = match rows::read(cursor, context) {
        Some(reading) => of_rows(reading),
        None => statement(cursor, context)
            .unwrap_or_else(|| writing(Reading::opaque(kind_of(tokens), "the statement is not known here"))),
    };
    match rebuild {
        Some(rebuild) if rebuild.copies == at => {
            let from = if rebuild.renamed_first {
                reading.tables.first().cloned()
            } else {
                Some(rebuild.table.clone())
            };
            if let Some(from) = from {
                reading.rewrite(&from, "its rows are copied to a new table that takes its place");
            }
        }
        Some(rebuild) => {
            reading.facts.clear();
            let table = reading.named.iter().find(|name| name.to_string() != DATABASE).cloned();
            if !rebuild.whole {
                reading.loses(format!("what was not copied of {}", rebuild.table), table.as_ref());
            }
            let table = table.unwrap_or_else(|| rebuild.table.clone());
            reading.fact(Fact::DropsRebuilt {
                table,
                renamed_first: rebuild.renamed_first,
            });
        }
        None => {}
    }
    reading
}

fn kind_of(tokens: &[Token]) -> String {
    let words: Vec<String> = tokens
        .iter()
        .take(2)
        .take_while(|token| token.is_name())
        .map(|token| token.text.to_uppercase())
        .collect();
    words.join(" ")
}

/// With the write lock instead of the locks that it has.
fn writing(mut reading: Reading) -> Reading {
    let database = Name::parse(DATABASE, EngineKind::Sqlite);
    reading.locks = vec![(database, LockMode::AccessExclusive)];
    reading
}

fn of_rows(mut reading: Reading) -> Reading {
    if !reading.changes_rows {
        reading.locks.clear();
        return reading;
    }
    let written = reading.locks.iter().filter(|(_, mode)| *mode >= LockMode::RowExclusive);
    let catalogs = ["sqlite_master", "sqlite_schema", "main.sqlite_master", "main.sqlite_schema"];
    let writes_catalog = written
        .clone()
        .any(|(table, _)| catalogs.contains(&table.to_string().to_lowercase().as_str()));
    if writes_catalog {
        reading.fact(Fact::WritesCatalog);
    }
    writing(reading)
}

fn statement(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let verb = cursor.peek()?.text.to_uppercase();
    cursor.skip(1);
    Some(match verb.as_str() {
        "CREATE" => create(cursor, context)?,
        "ALTER" => writing(alter(cursor)?),
        "DROP" => writing(drop(cursor)?),
        "PRAGMA" => pragma(cursor)?,
        "VACUUM" => vacuum(&cursor),
        "REINDEX" => reindex(cursor),
        "ANALYZE" => {
            let mut reading = writing(Reading::new("ANALYZE"));
            reading.work = Work::Scan;
            if let Some(table) = cursor.name() {
                reading.work(Work::Scan, &table);
            }
            reading
        }
        "EXPLAIN" | "ATTACH" | "DETACH" | "BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => Reading::new(verb),
        _ => return None,
    })
}

fn create(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let temporary = cursor.eat("TEMP") || cursor.eat("TEMPORARY");
    let reading = if cursor.eat("TABLE") {
        create_table(cursor, context)?
    } else if cursor.at("INDEX") || cursor.at("UNIQUE INDEX") {
        cursor.eat("UNIQUE");
        cursor.skip(1);
        create_index(cursor, context)?
    } else if cursor.eat("VIRTUAL TABLE") {
        cursor.skip_if_exists();
        let mut reading = Reading::new("CREATE VIRTUAL TABLE");
        reading.fact(Fact::Creates(cursor.name()?));
        reading
    } else if cursor.eat("VIEW") {
        Reading::new("CREATE VIEW")
    } else if cursor.eat("TRIGGER") {
        let mut reading = Reading::new("CREATE TRIGGER");
        if let Some(table) = cursor.after("ON").and_then(|mut cursor| cursor.name()) {
            reading.name(&table);
        }
        reading
    } else {
        return None;
    };
    // Temporary tables are in a database of their own.
    if temporary {
        let mut reading = reading;
        reading.locks.clear();
        return Some(reading);
    }
    Some(writing(reading))
}

fn create_table(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut reading = Reading::new("CREATE TABLE");
    cursor.skip_if_exists();
    let table = cursor.name()?;
    reading.fact(Fact::Creates(table.clone()));
    if cursor.eat("AS") {
        if let Some(mut inner) = rows::read(cursor, context) {
            if !inner.tables.is_empty() {
                inner.work = inner.work.max(Work::Scan);
            }
            reading.absorb(inner);
        }
        reading.fact(Fact::Fills(table));
        return Some(reading);
    }
    for item in cursor.parens().map(|inside| inside.split_commas()).unwrap_or_default() {
        item_of_table(item, &table, &mut reading);
    }
    Some(reading)
}

fn item_of_table(item: Cursor<'_>, table: &Name, reading: &mut Reading) {
    let index = |columns| Fact::Indexes {
        index: None,
        table: table.clone(),
        columns,
        concurrently: false,
        built: false,
    };
    let key = |columns, parent| Fact::ForeignKey {
        child: table.clone(),
        columns,
        parent,
        constraint: None,
    };
    if let Some(constraint) = column::table_constraint(item) {
        match constraint.kind {
            ConstraintKind::ForeignKey { columns, parent } => reading.fact(key(columns, parent)),
            ConstraintKind::Unique { columns, .. } => reading.fact(index(columns)),
            _ => {}
        }
        return;
    }
    let Some(definition) = Definition::read(item) else { return };
    if definition.unique {
        reading.fact(index(vec![definition.column.clone()]));
    }
    if let Some(parent) = definition.references {
        reading.fact(key(vec![definition.column], parent));
    }
}

fn create_index(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut reading = Reading::new("CREATE INDEX");
    cursor.skip_if_exists();
    let index = cursor.name()?;
    if !cursor.eat("ON") {
        return None;
    }
    let table = cursor.name()?;
    let columns = cursor.parens().map(|inside| inside.columns()).unwrap_or_default();
    // An index of some of the rows does not find the others.
    let columns = if cursor.has("WHERE") { Vec::new() } else { columns };
    reading.work(Work::Build, &table);
    let built = !context.is_new(&table);
    reading.fact(Fact::Indexes {
        index: Some(index),
        table,
        columns,
        concurrently: false,
        built,
    });
    Some(reading)
}

fn alter(mut cursor: Cursor<'_>) -> Option<Reading> {
    if !cursor.eat("TABLE") {
        return None;
    }
    let mut reading = Reading::new("ALTER TABLE");
    let table = cursor.name()?;
    reading.name(&table);
    if cursor.eat("RENAME TO") {
        let to = cursor.name()?.beside(&table);
        reading.fact(Fact::Renames { from: table, to });
    } else if cursor.eat("RENAME") {
        cursor.eat("COLUMN");
        let column = cursor.identifier()?;
        reading.fact(Fact::RenamesColumn { table, column });
    } else if cursor.eat("DROP") {
        cursor.eat("COLUMN");
        let column = cursor.identifier()?;
        reading.rewrite(&table, format!("{column} is taken out of every row"));
        reading.loses(format!("column {column} of {table}"), Some(&table));
    } else if cursor.eat("ADD") {
        cursor.eat("COLUMN");
        add_column(cursor, &table, &mut reading)?;
    } else {
        return None;
    }
    Some(reading)
}

fn add_column(cursor: Cursor<'_>, table: &Name, reading: &mut Reading) -> Option<()> {
    let computed_default = cursor.after("DEFAULT").is_some_and(|default| {
        let first = default.peek();
        first.is_some_and(|token| {
            token.is_symbol("(")
                || ["CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"]
                    .iter()
                    .any(|word| token.is_word(word))
        })
    });
    let definition = Definition::read(cursor)?;
    let column = &definition.column;
    let mut impossible = |always, why: String| {
        reading.fact(Fact::Impossible {
            table: table.clone(),
            always,
            why,
        })
    };
    if definition.unique {
        impossible(
            true,
            format!("{column} cannot be added as UNIQUE or PRIMARY KEY: SQLite adds no such column"),
        );
    }
    if definition.stored {
        impossible(
            true,
            format!("{column} cannot be added as STORED: SQLite adds only VIRTUAL ones"),
        );
    }
    if computed_default {
        impossible(
            false,
            format!("{column} has a default that is not constant, so that adding it fails where {table} has rows"),
        );
    }
    if definition.not_null && definition.default.is_none() && !definition.computed {
        reading.fact(Fact::RequiredColumn {
            table: table.clone(),
            column: column.clone(),
        });
    }
    if definition.check || (definition.not_null && definition.computed) {
        reading.scan(table, format!("what {column} must be is tested for every row"));
    }
    if let Some(parent) = definition.references {
        reading.fact(Fact::ForeignKey {
            child: table.clone(),
            columns: vec![definition.column],
            parent,
            constraint: None,
        });
    }
    Some(())
}

fn drop(mut cursor: Cursor<'_>) -> Option<Reading> {
    let kind = ["TABLE", "INDEX", "VIEW", "TRIGGER"]
        .into_iter()
        .find(|kind| cursor.eat(kind))?;
    cursor.skip_if_exists();
    let mut reading = Reading::new(format!("DROP {kind}"));
    if kind == "TABLE" {
        let table = cursor.name()?;
        reading.name(&table);
        reading.loses(format!("table {table}"), Some(&table));
    }
    Some(reading)
}

/// Pragmas that read all that there is.
const READING_PRAGMAS: [&str; 3] = ["integrity_check", "quick_check", "foreign_key_check"];

fn pragma(mut cursor: Cursor<'_>) -> Option<Reading> {
    let mut name = cursor.identifier()?;
    if cursor.eat_symbol(".") {
        name = cursor.identifier()?;
    }
    let mut reading = Reading::new(format!("PRAGMA {}", name.to_uppercase()));
    let value = if cursor.eat_symbol("=") {
        cursor.peek()
    } else {
        cursor.parens().and_then(|inside| inside.peek())
    };
    if READING_PRAGMAS.contains(&name.as_str()) {
        reading.work = Work::Scan;
    } else if name == "writable_schema" {
        let value = value
            .map(|token| token.text.trim_matches('\'').to_lowercase())
            .unwrap_or_default();
        if matches!(value.as_str(), "on" | "1" | "true" | "yes") {
            reading.fact(Fact::WritesCatalog);
        }
    } else if value.is_some_and(|token| token.kind != TokenKind::Symbol)
        && ["user_version", "application_id"].contains(&name.as_str())
    {
        return Some(writing(reading));
    }
    Some(reading)
}

fn vacuum(cursor: &Cursor<'_>) -> Reading {
    let mut reading = Reading::new("VACUUM");
    if cursor.has("INTO") {
        reading.work = Work::Scan;
        return reading;
    }
    reading.rewrite(
        &Name::parse(DATABASE, EngineKind::Sqlite),
        "VACUUM copies the whole database twice",
    );
    writing(reading)
}

fn reindex(mut cursor: Cursor<'_>) -> Reading {
    let mut reading = Reading::new("REINDEX");
    reading.work = Work::Build;
    // The name may be that of a table, of an index or of a collation.
    if let Some(name) = cursor.name() {
        reading.work(Work::Build, &name);
    }
    writing(reading)
}
