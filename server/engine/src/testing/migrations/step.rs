//! What each generated migration does and how it is taken back, as statements of the database; files know nothing of it yet.

use super::Spoil;
use crate::model::EngineKind;

/// One migration.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) up: Vec<String>,
    pub(super) down: Vec<String>,
    /// Positions of migrations that it needs.
    pub(super) needs: Vec<usize>,
    /// Whether its one statement cannot be in a transaction.
    pub(super) alone: bool,
}

/// A table as the migrations so far made it.
#[derive(Debug, Clone)]
struct Table {
    name: String,
    /// Columns that were added, which are integers.
    added: Vec<String>,
    indexes: Vec<String>,
    /// Whether views or triggers hang on it, or columns came to it: then it is not built anew.
    settled: bool,
    /// How its rows are checked, a part of its definition.
    checked: bool,
    /// Ids of rows that are never deleted by a later up script.
    rows: Vec<u64>,
    /// Position of the last migration that touched it.
    touched: usize,
}

/// Makes one migration after the other.
#[derive(Debug)]
pub(super) struct Maker {
    engine: EngineKind,
    state: u64,
    tables: Vec<Table>,
}

/// The table that spoiled down scripts destroy, and that no good migration changes after the first two.
const ANCHOR: &str = "anchor";

impl Maker {
    pub(super) fn new(engine: EngineKind, seed: u64) -> Self {
        Self {
            engine,
            state: seed ^ 0x9e37_79b9_7f4a_7c15,
            tables: Vec::new(),
        }
    }

    /// A number below `bound` (splitmix64).
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from((mixed ^ (mixed >> 31)) % bound).unwrap_or_default()
    }

    pub(super) fn step(&mut self, position: usize, spoiled: Option<Spoil>) -> Step {
        if let Some(kind) = spoiled {
            return self.spoiled(position, kind);
        }
        match position {
            0 => return self.anchor(),
            1 => return anchor_rows(),
            _ => {}
        }
        if self.tables.len() < 2 {
            return self.create_table(position);
        }
        let chosen = self.below(self.tables.len());
        let kind = self.below(100);
        let Some(mut table) = self.tables.get(chosen).cloned() else {
            return self.create_table(position);
        };
        let before = table.touched;
        let made = match kind {
            0..14 => None,
            14..32 => Some(self.add_column(position, &mut table)),
            32..46 => Some(self.create_index(position, &mut table)),
            46..64 => Some(self.insert_rows(position, &mut table)),
            64..72 => Some(create_view(position, &mut table)),
            72..80 => count_up(position, &mut table),
            80..86 => rename_column(position, &mut table),
            86..91 => self.rebuild(position, &mut table),
            91..96 => Some(self.trigger(position, &mut table)),
            _ => self.child(position, &mut table),
        };
        let Some(mut step) = made else {
            return self.create_table(position);
        };
        step.needs = vec![before];
        table.touched = position;
        if let Some(place) = self.tables.get_mut(chosen) {
            *place = table;
        }
        step
    }

    fn types(&self) -> (&'static str, &'static str) {
        match self.engine {
            EngineKind::Postgres => ("bigint", "text"),
            EngineKind::Sqlite => ("INTEGER", "TEXT"),
        }
    }

    fn anchor(&self) -> Step {
        let (integer, text) = self.types();
        step(
            "create_anchor",
            vec![
                format!("CREATE TABLE \"{ANCHOR}\" (id {integer} PRIMARY KEY, name {text} NOT NULL, note {text})"),
                format!("CREATE INDEX anchor_name ON {ANCHOR} (name)"),
            ],
            vec![format!("DROP TABLE {ANCHOR}")],
        )
    }

    fn create_table(&mut self, position: usize) -> Step {
        let table = Table {
            name: format!("t{position}"),
            added: Vec::new(),
            indexes: Vec::new(),
            settled: false,
            checked: false,
            rows: Vec::new(),
            touched: position,
        };
        let made = step(
            &format!("create_t{position}"),
            vec![self.definition(&table.name, false)],
            vec![format!("DROP TABLE t{position}")],
        );
        self.tables.push(table);
        made
    }

    /// The names are quoted because SQLite quotes them when it renames a table, and the text is to be the same after that.
    fn definition(&self, name: &str, checked: bool) -> String {
        let (integer, text) = self.types();
        let check = if checked { " CHECK (length(name) > 0)" } else { "" };
        format!(
            "CREATE TABLE \"{name}\" (id {integer} PRIMARY KEY, name {text} NOT NULL{check}, note {text} DEFAULT 'none; yet')"
        )
    }

    fn add_column(&mut self, position: usize, table: &mut Table) -> Step {
        let column = format!("c{position}");
        let kind = if self.below(2) == 0 {
            "integer"
        } else {
            "integer NOT NULL DEFAULT 7"
        };
        table.added.push(column.clone());
        table.settled = true;
        let name = &table.name;
        step(
            &format!("add_{column}_to_{name}"),
            vec![format!("ALTER TABLE {name} ADD COLUMN {column} {kind}")],
            vec![format!("ALTER TABLE {name} DROP COLUMN {column}")],
        )
    }

    fn create_index(&mut self, position: usize, table: &mut Table) -> Step {
        let name = &table.name;
        // Columns that were added may be renamed later, which would change the text of the index on SQLite.
        let column = if self.below(2) == 0 { "name" } else { "note" };
        let alone = self.engine == EngineKind::Postgres && self.below(5) == 0;
        let concurrently = if alone { "CONCURRENTLY " } else { "" };
        let mut made = step(
            &format!("index_{column}_of_{name}"),
            vec![format!("CREATE INDEX {concurrently}i{position} ON {name} ({column})")],
            vec![format!("DROP INDEX {concurrently}i{position}")],
        );
        made.alone = alone;
        table.indexes.push(format!("CREATE INDEX i{position} ON {name} ({column})"));
        made
    }

    fn insert_rows(&mut self, position: usize, table: &mut Table) -> Step {
        let name = table.name.clone();
        let count = 1 + self.below(4);
        let first = u64::try_from(position).unwrap_or_default() * 10;
        let ids: Vec<u64> = (first..).take(count).collect();
        let values: Vec<String> = ids
            .iter()
            .map(|id| format!("({id}, 'it''s {id}; -- no comment', '/* ''row'' {id} */')"))
            .collect();
        let last = ids.last().copied().unwrap_or(first);
        table.rows.extend(ids);
        step(
            &format!("rows_for_{name}"),
            vec![format!(
                "INSERT INTO {name} (id, name, note) VALUES\n  {}",
                values.join(",\n  ")
            )],
            vec![format!("DELETE FROM {name} WHERE id BETWEEN {first} AND {last}")],
        )
    }

    /// SQLite builds a table anew to change a constraint, PostgreSQL has a statement for it.
    fn rebuild(&self, position: usize, table: &mut Table) -> Option<Step> {
        if table.settled || table.checked {
            return None;
        }
        let name = table.name.clone();
        table.checked = true;
        let title = format!("check_{name}");
        if self.engine == EngineKind::Postgres {
            return Some(step(
                &title,
                vec![format!(
                    "ALTER TABLE {name} ADD CONSTRAINT k{position} CHECK (length(name) > 0)"
                )],
                vec![format!("ALTER TABLE {name} DROP CONSTRAINT k{position}")],
            ));
        }
        let anew = |checked: bool| {
            let mut statements = vec![
                "PRAGMA foreign_keys = OFF".to_owned(),
                self.definition(&format!("new_{name}"), checked),
                format!("INSERT INTO new_{name} (id, name, note) SELECT id, name, note FROM {name}"),
                format!("DROP TABLE {name}"),
                format!("ALTER TABLE new_{name} RENAME TO {name}"),
            ];
            statements.extend(table.indexes.iter().cloned());
            statements.push("PRAGMA foreign_keys = ON".to_owned());
            statements
        };
        Some(step(&title, anew(true), anew(false)))
    }

    /// A trigger that changes nothing, so that rows are the same with and without it.
    fn trigger(&self, position: usize, table: &mut Table) -> Step {
        let name = table.name.clone();
        table.settled = true;
        let title = format!("trigger_on_{name}");
        if self.engine == EngineKind::Sqlite {
            return step(
                &title,
                vec![format!(
                    "CREATE TRIGGER g{position} AFTER UPDATE OF note ON {name} WHEN NEW.id < 0 BEGIN\n  \
                     SELECT CASE WHEN NEW.note = ';' THEN RAISE(ABORT, 'no; never') END;\n  SELECT 1; -- END;\nEND"
                )],
                vec![format!("DROP TRIGGER g{position}")],
            );
        }
        step(
            &title,
            vec![
                format!(
                    "CREATE FUNCTION f{position}() RETURNS trigger AS $body$\nBEGIN\n  -- it's only passed on;\n  \
                     RETURN NEW;\nEND;\n$body$ LANGUAGE plpgsql"
                ),
                format!("CREATE TRIGGER g{position} BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION f{position}()"),
            ],
            vec![
                format!("DROP TRIGGER g{position} ON {name}"),
                format!("DROP FUNCTION f{position}()"),
            ],
        )
    }

    /// A table of rows that belong to rows of another.
    fn child(&self, position: usize, table: &mut Table) -> Option<Step> {
        let first = *table.rows.first()?;
        let (integer, _) = self.types();
        let name = table.name.clone();
        Some(step(
            &format!("parts_of_{name}"),
            vec![
                format!(
                    "CREATE TABLE \"p{position}\" (id {integer} PRIMARY KEY, owner {integer} NOT NULL REFERENCES {name} (id))"
                ),
                format!("INSERT INTO p{position} (id, owner) VALUES (1, {first}), (2, {first})"),
            ],
            vec![format!("DROP TABLE p{position}")],
        ))
    }

    fn spoiled(&self, position: usize, kind: Spoil) -> Step {
        let (integer, text) = self.types();
        let mut made = match kind {
            Spoil::Empty => step(
                &format!("empty_{position}"),
                vec![format!("CREATE TABLE \"e{position}\" (id {integer} PRIMARY KEY)")],
                Vec::new(),
            ),
            Spoil::Lossy => step(
                &format!("lossy_{position}"),
                vec![format!("CREATE INDEX l{position} ON {ANCHOR} (name)")],
                vec![
                    format!("DROP INDEX l{position}"),
                    format!("ALTER TABLE {ANCHOR} DROP COLUMN note"),
                    format!("ALTER TABLE {ANCHOR} ADD COLUMN note {text}"),
                ],
            ),
            Spoil::Wrong => step(
                &format!("wrong_{position}"),
                vec![format!("CREATE TABLE \"w{position}\" (id {integer} PRIMARY KEY)")],
                vec!["DROP INDEX IF EXISTS anchor_name".to_owned()],
            ),
        };
        made.needs = vec![1];
        made
    }
}

fn step(name: &str, up: Vec<String>, down: Vec<String>) -> Step {
    Step {
        name: name.to_owned(),
        up,
        down,
        needs: Vec::new(),
        alone: false,
    }
}

fn anchor_rows() -> Step {
    let values: Vec<String> = (1..=20).map(|id| format!("({id}, 'name {id}', 'note {id}')")).collect();
    let mut made = step(
        "rows_for_anchor",
        vec![format!("INSERT INTO {ANCHOR} (id, name, note) VALUES {}", values.join(", "))],
        vec![format!("DELETE FROM {ANCHOR} WHERE id BETWEEN 1 AND 20")],
    );
    made.needs = vec![0];
    made
}

fn create_view(position: usize, table: &mut Table) -> Step {
    let name = table.name.clone();
    table.settled = true;
    step(
        &format!("view_of_{name}"),
        vec![format!(
            "CREATE VIEW v{position} AS SELECT id, name FROM {name} WHERE name <> ';'"
        )],
        vec![format!("DROP VIEW v{position}")],
    )
}

fn count_up(position: usize, table: &mut Table) -> Option<Step> {
    let column = table.added.last()?;
    let name = &table.name;
    Some(step(
        &format!("count_up_{name}_{position}"),
        vec![format!("UPDATE {name} SET {column} = {column} + {position}")],
        vec![format!("UPDATE {name} SET {column} = {column} - {position}")],
    ))
}

fn rename_column(position: usize, table: &mut Table) -> Option<Step> {
    let name = table.name.clone();
    let column = table.added.last_mut()?;
    let renamed = format!("r{position}");
    let old = std::mem::replace(column, renamed.clone());
    Some(step(
        &format!("rename_{old}_of_{name}"),
        vec![format!("ALTER TABLE {name} RENAME COLUMN {old} TO {renamed}")],
        vec![format!("ALTER TABLE {name} RENAME COLUMN {renamed} TO {old}")],
    ))
}
