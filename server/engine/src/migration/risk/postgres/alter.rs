//! `ALTER TABLE`. It takes the strongest lock that one of its actions needs, and works through the table once for all of them.

use super::column::{self, Constraint, ConstraintKind, Definition};
use crate::{
    migration::risk::{
        context::Context,
        reading::{Fact, Reading},
        token::{Cursor, Name},
    },
    model::{EngineKind, LockMode, Work},
};

/// Reads what follows `ALTER TABLE`.
pub(super) fn read(mut cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut reading = Reading::new("ALTER TABLE");
    if cursor.at("ALL IN TABLESPACE") {
        reading.work = Work::Rewrite;
        reading.fact(Fact::Opaque("it does not name the tables that it writes anew".to_owned()));
        return Some(reading);
    }
    cursor.eat("IF EXISTS");
    cursor.eat("ONLY");
    let table = cursor.name()?;
    cursor.eat_symbol("*");
    for action in cursor.split_commas() {
        read_action(action, &table, context, &mut reading);
    }
    Some(reading)
}

fn read_action(mut action: Cursor<'_>, table: &Name, context: &Context, reading: &mut Reading) {
    let verb = action.peek().map(|token| token.text.to_uppercase()).unwrap_or_default();
    action.skip(1);
    let exclusive = LockMode::AccessExclusive;
    match verb.as_str() {
        "ADD" => add(action, table, reading),
        "DROP" => drop(action, table, context, reading),
        "ALTER" => alter(action, table, context, reading),
        "VALIDATE" => validate(action, table, context, reading),
        "RENAME" => rename(action, table, reading),
        "ENABLE" | "DISABLE" => {
            while ["ALWAYS", "REPLICA"].iter().any(|word| action.eat(word)) {}
            reading.lock(
                table,
                if action.at("TRIGGER") {
                    LockMode::ShareRowExclusive
                } else {
                    exclusive
                },
            );
        }
        "CLUSTER" => reading.lock(table, LockMode::ShareUpdateExclusive),
        "SET" => set(action, table, reading),
        "RESET" => reading.lock(table, parameters_lock(&mut action)),
        "ATTACH" => attach(action, table, reading),
        "DETACH" => detach(action, table, reading),
        "INHERIT" => {
            reading.lock(table, exclusive);
            if let Some(parent) = action.name() {
                reading.lock(&parent, LockMode::ShareUpdateExclusive);
            }
        }
        "NO" => {
            reading.lock(table, exclusive);
            // `NO FORCE ROW LEVEL SECURITY` begins with NO too, and names no table.
            if action.eat("INHERIT")
                && let Some(parent) = action.name()
            {
                reading.lock(&parent, LockMode::AccessShare);
            }
        }
        "FORCE" | "OWNER" | "REPLICA" | "OF" | "NOT" => reading.lock(table, exclusive),
        _ => {
            reading.lock(table, exclusive);
            reading.fact(Fact::Opaque(format!("the action {verb} of ALTER TABLE is not known here")));
        }
    }
}

fn add(mut action: Cursor<'_>, table: &Name, reading: &mut Reading) {
    if let Some(constraint) = column::table_constraint(action) {
        add_constraint(constraint, table, reading);
        return;
    }
    action.eat("COLUMN");
    action.eat("IF NOT EXISTS");
    reading.lock(table, LockMode::AccessExclusive);
    let Some(definition) = Definition::read(action) else { return };
    add_column(definition, table, reading);
}

fn add_column(definition: Definition, table: &Name, reading: &mut Reading) {
    let column = definition.column.clone();
    let has_value = definition.default.is_some() || definition.numbered || definition.stored || definition.computed;
    if definition.numbered {
        reading.rewrite(table, format!("every row gets a number in {column}"));
    } else if definition.stored {
        reading.rewrite(table, format!("the value of {column} is computed and stored in every row"));
    } else if definition.volatile {
        reading.work(Work::Rewrite, table);
        let default = definition.default.clone().unwrap_or_default();
        reading.fact(Fact::VolatileDefault {
            table: table.clone(),
            column: column.clone(),
            default,
        });
    }
    if definition.not_null && !has_value {
        reading.fact(Fact::RequiredColumn {
            table: table.clone(),
            column: column.clone(),
        });
    }
    if definition.unique {
        reading.work(Work::Build, table);
        reading.fact(Fact::Indexes {
            index: None,
            table: table.clone(),
            columns: vec![column.clone()],
            concurrently: false,
            built: true,
        });
    }
    if definition.check {
        reading.scan(table, format!("the check on {column} is tested for every row"));
    }
    if let Some(parent) = definition.references {
        reading.lock(&parent, LockMode::ShareRowExclusive);
        // A column full of nulls refers to nothing, so that PostgreSQL does not look.
        if has_value {
            reading.scan(table, format!("every {column} is looked up in {parent}"));
        }
        reading.fact(Fact::ForeignKey {
            child: table.clone(),
            columns: vec![column],
            parent,
            constraint: None,
        });
    }
}

fn add_constraint(constraint: Constraint, table: &Name, reading: &mut Reading) {
    let Constraint { name, kind, not_valid } = constraint;
    let shown = name.clone().unwrap_or_else(|| "the constraint".to_owned());
    let strong = if matches!(kind, ConstraintKind::ForeignKey { .. }) {
        LockMode::ShareRowExclusive
    } else {
        LockMode::AccessExclusive
    };
    reading.lock(table, strong);
    match kind {
        ConstraintKind::Check(column) => {
            if !not_valid {
                reading.scan(table, format!("{shown} is tested for every row"));
            }
            if let (Some(constraint), Some(column)) = (name, column) {
                reading.fact(Fact::NotNullCheck {
                    constraint,
                    table: table.clone(),
                    column,
                    valid: !not_valid,
                });
            }
        }
        ConstraintKind::NotNull(column) => {
            if !not_valid {
                reading.scan(table, format!("every row is searched for a null in {column}"));
            }
            if let Some(constraint) = name {
                reading.fact(Fact::NotNullCheck {
                    constraint,
                    table: table.clone(),
                    column,
                    valid: !not_valid,
                });
            }
        }
        ConstraintKind::Unique {
            using_index: true,
            primary,
            ..
        } => {
            if primary {
                reading.scan(
                    table,
                    "a primary key's columns are searched for nulls unless they are NOT NULL already",
                );
            }
        }
        ConstraintKind::Unique { columns, .. } => {
            reading.work(Work::Build, table);
            let index =
                name.map(|name| Name::parse(&format!("\"{}\"", name.replace('"', "\"\"")), EngineKind::Postgres).beside(table));
            reading.fact(Fact::Indexes {
                index,
                table: table.clone(),
                columns,
                concurrently: false,
                built: true,
            });
        }
        ConstraintKind::Exclude => {
            reading.work(Work::Build, table);
            reading.fact(Fact::Indexes {
                index: None,
                table: table.clone(),
                columns: Vec::new(),
                concurrently: false,
                built: true,
            });
        }
        ConstraintKind::ForeignKey { columns, parent } => {
            reading.lock(&parent, LockMode::ShareRowExclusive);
            if !not_valid {
                reading.scan(table, format!("every row is looked up in {parent}"));
            }
            reading.fact(Fact::ForeignKey {
                child: table.clone(),
                columns,
                parent,
                constraint: name,
            });
        }
    }
}

fn drop(mut action: Cursor<'_>, table: &Name, context: &Context, reading: &mut Reading) {
    reading.lock(table, LockMode::AccessExclusive);
    if action.eat("CONSTRAINT") {
        action.eat("IF EXISTS");
        let Some(name) = action.identifier() else { return };
        // The triggers of a foreign key are dropped on both sides.
        for key in context.keys_of(table).filter(|key| key.is_named(&name)) {
            reading.lock(&key.parent, LockMode::AccessExclusive);
        }
        if action.eat("CASCADE") {
            for key in context.keys_to(table) {
                reading.lock(&key.child, LockMode::AccessExclusive);
            }
        }
        return;
    }
    action.eat("COLUMN");
    action.eat("IF EXISTS");
    let Some(column) = action.identifier() else { return };
    for key in context.keys_of(table).filter(|key| key.columns.contains(&column)) {
        reading.lock(&key.parent, LockMode::AccessExclusive);
    }
    reading.loses(format!("column {column} of {table}"), Some(table));
}

fn alter(mut action: Cursor<'_>, table: &Name, context: &Context, reading: &mut Reading) {
    reading.lock(table, LockMode::AccessShare);
    if action.eat("CONSTRAINT") {
        reading.lock(table, LockMode::AccessExclusive);
        return;
    }
    action.eat("COLUMN");
    let Some(column) = action.identifier() else { return };
    if action.at("SET STATISTICS") || action.eat("RESET") {
        reading.lock(table, LockMode::ShareUpdateExclusive);
        return;
    }
    // `SET (n_distinct = ..)`, as opposed to everything else that begins with SET.
    let mut options = action;
    if options.eat("SET") && options.peek().is_some_and(|token| token.is_symbol("(")) {
        reading.lock(table, LockMode::ShareUpdateExclusive);
        return;
    }
    reading.lock(table, LockMode::AccessExclusive);
    if action.eat("SET NOT NULL") {
        // A check that holds says the same, so that PostgreSQL does not look again.
        if !context.is_checked_not_null(table, &column) {
            reading.scan(table, format!("every row is searched for a null in {column}"));
        }
    } else if action.eat("SET EXPRESSION") {
        reading.rewrite(table, format!("{column} is computed anew in every row"));
    } else if action.eat("SET DATA TYPE") || action.eat("TYPE") {
        let (to, after) = column::type_of(action);
        let from = context.column_type(table, &column).map(column::normal);
        let change = column::type_change(from.as_deref(), &to, after.has("USING"));
        if change.rewrites {
            reading.work(Work::Rewrite, table);
        }
        if change.narrows {
            reading.loses(
                format!("what does not fit into {to} of column {column} of {table}"),
                Some(table),
            );
        }
        reading.fact(Fact::ChangesType {
            table: table.clone(),
            column,
            to,
            rewrites: change.rewrites,
        });
    }
}

fn validate(mut action: Cursor<'_>, table: &Name, context: &Context, reading: &mut Reading) {
    reading.lock(table, LockMode::ShareUpdateExclusive);
    action.eat("CONSTRAINT");
    let Some(constraint) = action.identifier() else { return };
    for key in context.keys_of(table).filter(|key| key.is_named(&constraint)) {
        reading.lock(&key.parent, LockMode::RowShare);
    }
    reading.scan(table, format!("{constraint} is tested for every row"));
    reading.fact(Fact::Validates {
        table: table.clone(),
        constraint,
    });
}

fn rename(mut action: Cursor<'_>, table: &Name, reading: &mut Reading) {
    reading.lock(table, LockMode::AccessExclusive);
    if action.eat("TO")
        && let Some(to) = action.name()
    {
        reading.fact(Fact::Renames {
            from: table.clone(),
            to: to.beside(table),
        });
    }
}

fn set(mut action: Cursor<'_>, table: &Name, reading: &mut Reading) {
    let exclusive = LockMode::AccessExclusive;
    if action.eat("WITHOUT CLUSTER") {
        reading.lock(table, LockMode::ShareUpdateExclusive);
    } else if action.peek().is_some_and(|token| token.is_symbol("(")) {
        reading.lock(table, parameters_lock(&mut action));
    } else if action.eat("TABLESPACE") {
        reading.lock(table, exclusive);
        reading.rewrite(table, "it is copied to another tablespace");
    } else if action.eat("LOGGED") || action.eat("UNLOGGED") {
        reading.lock(table, exclusive);
        reading.rewrite(table, "it is written anew when logging is switched");
    } else if action.eat("ACCESS METHOD") {
        reading.lock(table, exclusive);
        reading.rewrite(table, "it is written anew for another access method");
    } else {
        reading.lock(table, exclusive);
        if action.eat("SCHEMA")
            && let Some(schema) = action.name()
        {
            let bare = table.to_string();
            let bare = bare.rsplit_once('.').map_or(bare.as_str(), |(_, table)| table);
            let to = Name::parse(&format!("{schema}.{bare}"), EngineKind::Postgres);
            reading.fact(Fact::Renames { from: table.clone(), to });
        }
    }
}

/// Storage parameters take the weaker lock, except those that change what other sessions may do with the rows.
fn parameters_lock(action: &mut Cursor<'_>) -> LockMode {
    let parameters = action.parens().map(|inside| inside.split_commas()).unwrap_or_default();
    if parameters.iter().any(|parameter| parameter.at("USER_CATALOG_TABLE")) {
        LockMode::AccessExclusive
    } else {
        LockMode::ShareUpdateExclusive
    }
}

fn attach(mut action: Cursor<'_>, table: &Name, reading: &mut Reading) {
    action.eat("PARTITION");
    reading.lock(table, LockMode::ShareUpdateExclusive);
    if let Some(partition) = action.name() {
        reading.lock(&partition, LockMode::AccessExclusive);
        reading.scan(
            &partition,
            "every row is tested against the bounds, unless a check says the same",
        );
    }
}

fn detach(mut action: Cursor<'_>, table: &Name, reading: &mut Reading) {
    action.eat("PARTITION");
    let partition = action.name();
    let concurrently = action.has("CONCURRENTLY");
    let mode = if concurrently || action.has("FINALIZE") {
        LockMode::ShareUpdateExclusive
    } else {
        LockMode::AccessExclusive
    };
    if concurrently {
        reading.fact(Fact::NoTransaction);
    }
    reading.lock(table, mode);
    if let Some(partition) = partition {
        reading.lock(&partition, mode);
    }
}
