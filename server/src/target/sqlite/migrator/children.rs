//! Rows that vanish although nobody deletes them: a table that is rebuilt may be copied in part, and dropping the old one deletes its
//! children where foreign keys are on, without any violation to be seen; or it empties the keys of its children. Rows, and keys that
//! are not null, are counted before and after instead.

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_engine::{
    model::{EngineKind, RowsLost, Statement},
    port::{MigratorError, TargetError},
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::super::{error::statement, render};
use crate::target::words::{Word, after_if_exists, are, name_at, words};

/// What a statement does to whole tables; names in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Act {
    dropped: Option<String>,
    renamed: Option<(String, String)>,
    deletes_from: BTreeSet<String>,
}

fn last_at(words: &[Word], at: usize) -> Option<(String, usize)> {
    let (parts, next) = name_at(words, at)?;
    // As SQLite compares names.
    Some((parts.last()?.text.to_ascii_lowercase(), next))
}

impl Act {
    /// Reads a statement.
    pub(super) fn of(sql: &str) -> Self {
        let words = words(sql, EngineKind::Sqlite);
        let mut act = Self::default();
        if are(&words, 0, &["DROP", "TABLE"]) {
            act.dropped = last_at(&words, after_if_exists(&words, 2)).map(|(name, _)| name);
        } else if are(&words, 0, &["ALTER", "TABLE"]) {
            act.renamed = last_at(&words, 2)
                .filter(|(_, next)| are(&words, *next, &["RENAME", "TO"]))
                .and_then(|(from, next)| Some((from, last_at(&words, next + 2)?.0)));
        } else if !are(&words, 0, &["CREATE"]) {
            for at in 0..words.len() {
                let after = [&["DELETE", "FROM"][..], &["REPLACE", "INTO"], &["UPDATE", "OR", "REPLACE"]]
                    .into_iter()
                    .find(|keywords| are(&words, at, keywords))
                    .map(|keywords| at + keywords.len());
                act.deletes_from
                    .extend(after.and_then(|at| last_at(&words, at)).map(|(name, _)| name));
            }
        }
        act
    }
}

/// Tables by their names in lower case, with their rows.
type Counts = BTreeMap<String, (String, u64)>;

/// A key that references a table which is dropped.
#[derive(Debug)]
struct Key {
    child: String,
    columns: Vec<String>,
    /// What becomes of it when the row that it references goes.
    on_delete: String,
    /// Rows in which no column of it is null.
    filled: u64,
}

impl Key {
    /// As a person knows it.
    fn told(&self) -> String {
        format!("{}({})", self.child, self.columns.join(", "))
    }

    async fn count(&self, connection: &mut SqliteConnection) -> Result<u64, TargetError> {
        let filled: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} IS NOT NULL", render::identifier(column)))
            .collect();
        let sql = format!(
            "SELECT count(*) FROM main.{} WHERE {}",
            render::identifier(&self.child),
            filled.join(" AND ")
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(statement)?;
        Ok(u64::try_from(rows).unwrap_or(0))
    }
}

/// What dropping a table could take along.
#[derive(Debug, Default)]
pub(super) struct AtStake {
    rows: Counts,
    keys: Vec<Key>,
}

/// Keeps an eye on the rows of tables that a group rebuilds, and of those that name them.
#[derive(Debug)]
pub(super) struct Children {
    acts: Vec<Act>,
    foreign_keys: bool,
    /// Which tables each table names.
    parents: BTreeMap<String, BTreeSet<String>>,
    before: Counts,
}

impl Children {
    /// Counts, where the group drops or renames a table.
    pub(super) async fn begin(
        connection: &mut SqliteConnection,
        statements: &[Statement],
        foreign_keys: bool,
    ) -> Result<Self, TargetError> {
        let mut children = Self {
            acts: statements.iter().map(|one| Act::of(&one.sql)).collect(),
            foreign_keys,
            parents: BTreeMap::new(),
            before: Counts::new(),
        };
        let mut rebuilt = BTreeSet::new();
        for act in &children.acts {
            rebuilt.extend(act.dropped.clone());
            if let Some((from, to)) = &act.renamed {
                rebuilt.extend([from.clone(), to.clone()]);
            }
        }
        if !rebuilt.is_empty() {
            children.parents = parents(connection).await?;
            let mut watched = rebuilt.clone();
            for table in &rebuilt {
                watched.extend(children.dependants(table));
            }
            children.before = count(connection, &watched).await?;
        }
        Ok(children)
    }

    /// Tables that name a table, or name one that does.
    fn dependants(&self, table: &str) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut left = vec![table.to_owned()];
        while let Some(parent) = left.pop() {
            for (child, parents) in &self.parents {
                if parents.contains(&parent) && found.insert(child.clone()) {
                    left.push(child.clone());
                }
            }
        }
        found.remove(table);
        found
    }

    /// Counts what dropping a table could take along; nothing where the statement drops none, or takes nothing.
    ///
    /// # Errors
    /// `Statement` where it would set keys to their default: what they were could not be told from what they are.
    pub(super) async fn before(&mut self, connection: &mut SqliteConnection, index: usize) -> Result<AtStake, MigratorError> {
        let Some(dropped) = self.acts.get(index).and_then(|act| act.dropped.clone()) else {
            return Ok(AtStake::default());
        };
        if !self.foreign_keys {
            return Ok(AtStake::default());
        }
        // The script may have made tables since.
        self.parents = parents(connection).await?;
        let rows = count(connection, &self.dependants(&dropped)).await?;
        let keys = keys(connection, &dropped).await?;
        let defaulted = |key: &&Key| key.on_delete.eq_ignore_ascii_case("SET DEFAULT") && key.filled > 0;
        if let Some(key) = keys.iter().find(defaulted)
            && has_rows(connection, &dropped).await?
        {
            return Err(MigratorError::Statement {
                index,
                offset: None,
                code: String::new(),
                message: format!(
                    "dropping {dropped} would set {} to its default (ON DELETE SET DEFAULT), which {} rows reference it by; \
                     expected foreign keys that are off meanwhile, or rows that no longer reference it",
                    key.told(),
                    key.filled
                ),
                retryable: false,
                blockers: Vec::new(),
            });
        }
        Ok(AtStake { rows, keys })
    }

    /// What a statement took along.
    pub(super) async fn after(&self, connection: &mut SqliteConnection, before: &AtStake) -> Result<Vec<RowsLost>, TargetError> {
        if before.rows.is_empty() {
            return Ok(Vec::new());
        }
        let now = count(connection, &before.rows.keys().cloned().collect()).await?;
        let mut lost: Vec<RowsLost> = fewer(&before.rows, &now).map(|(_, lost)| lost).collect();
        for key in &before.keys {
            // Keys of rows that are gone are told with their rows.
            if lost.iter().any(|lost| lost.table == key.child) {
                continue;
            }
            let after = key.count(connection).await?;
            if after < key.filled {
                lost.push(RowsLost {
                    table: key.told(),
                    before: key.filled,
                    after,
                });
            }
        }
        Ok(lost)
    }

    /// What the whole group lost.
    pub(super) async fn end(&self, connection: &mut SqliteConnection) -> Result<Vec<RowsLost>, TargetError> {
        if self.before.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted: BTreeSet<String> = self.before.keys().cloned().collect();
        wanted.extend(
            self.acts
                .iter()
                .filter_map(|act| act.renamed.as_ref())
                .map(|(_, to)| to.clone()),
        );
        let now = count(connection, &wanted).await?;
        let mut emptied = BTreeSet::new();
        for table in self.acts.iter().flat_map(|act| &act.deletes_from) {
            emptied.insert(table.clone());
            if self.foreign_keys {
                emptied.extend(self.dependants(table));
            }
        }
        let lost = fewer(&self.before, &now).filter(|(name, lost)| {
            // Rows that went on living under another name are not lost.
            let moved = self.acts.iter().filter_map(|act| act.renamed.as_ref()).any(|(from, to)| {
                from == name
                    && to != name
                    && now.get(to).is_some_and(|(_, rows)| *rows >= lost.before)
                    && !self.before.contains_key(to)
            });
            !moved && !emptied.contains(name)
        });
        Ok(lost.map(|(_, lost)| lost).collect())
    }
}

/// Tables that are still there and hold fewer rows.
fn fewer<'a>(before: &'a Counts, now: &'a Counts) -> impl Iterator<Item = (String, RowsLost)> + 'a {
    before.iter().filter_map(|(key, (table, rows))| {
        let (_, after) = now.get(key)?;
        (after < rows).then(|| {
            let lost = RowsLost {
                table: table.clone(),
                before: *rows,
                after: *after,
            };
            (key.clone(), lost)
        })
    })
}

async fn parents(connection: &mut SqliteConnection) -> Result<BTreeMap<String, BTreeSet<String>>, TargetError> {
    let sql = "SELECT DISTINCT lower(t.name), lower(f.\"table\") FROM pragma_table_list AS t JOIN pragma_foreign_key_list(t.name) AS f \
               WHERE t.schema = 'main' AND t.type = 'table'";
    let pairs: Vec<(String, String)> = sqlx::query_as(sql)
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    let mut parents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (child, parent) in pairs {
        parents.entry(child).or_default().insert(parent);
    }
    Ok(parents)
}

/// Keys of other tables that reference a table.
async fn keys(connection: &mut SqliteConnection, parent: &str) -> Result<Vec<Key>, TargetError> {
    let sql = "SELECT t.name, f.id, f.\"from\", f.on_delete FROM pragma_table_list AS t JOIN pragma_foreign_key_list(t.name) AS f \
               WHERE t.schema = 'main' AND t.type = 'table' AND lower(f.\"table\") = ?1 AND lower(t.name) <> ?1 ORDER BY t.name, f.id, f.seq";
    let rows: Vec<(String, i64, String, String)> = sqlx::query_as(sql)
        .persistent(false)
        .bind(parent)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let mut keys: Vec<Key> = Vec::new();
    let mut last = None;
    for (child, id, column, on_delete) in rows {
        let this = Some((child.clone(), id));
        match keys.last_mut() {
            Some(key) if last == this => key.columns.push(column),
            _ => keys.push(Key {
                child,
                columns: vec![column],
                on_delete,
                filled: 0,
            }),
        }
        last = this;
    }
    for key in &mut keys {
        key.filled = key.count(connection).await?;
    }
    Ok(keys)
}

/// Whether a table is there and has rows.
async fn has_rows(connection: &mut SqliteConnection, table: &str) -> Result<bool, TargetError> {
    let counts = count(connection, &BTreeSet::from([table.to_owned()])).await?;
    Ok(counts.values().any(|(_, rows)| *rows > 0))
}

/// Rows of those tables that are there.
async fn count(connection: &mut SqliteConnection, tables: &BTreeSet<String>) -> Result<Counts, TargetError> {
    let mut counts = Counts::new();
    for key in tables {
        let name: Option<String> = sqlx::query_scalar(
            "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE AND sql NOT LIKE 'CREATE VIRTUAL%'",
        )
        .persistent(false)
        .bind(key)
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
        let Some(name) = name else { continue };
        let sql = format!("SELECT count(*) FROM main.{}", render::identifier(&name));
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        counts.insert(key.clone(), (name, u64::try_from(rows).unwrap_or(0)));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_read_from_statements() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            Act::of("drop table if exists main.\"Old T\"").dropped.as_deref(),
            Some("old t")
        );
        let renamed = Act::of("ALTER TABLE `a` RENAME TO b").renamed;
        assert_eq!(renamed, Some(("a".to_owned(), "b".to_owned())));
        assert_eq!(Act::of("ALTER TABLE a RENAME COLUMN x TO y"), Act::default());
        assert_eq!(
            Act::of("WITH x AS (SELECT 1) DELETE FROM T WHERE id IN (SELECT * FROM x)").deletes_from,
            names(&["t"])
        );
        assert_eq!(Act::of("INSERT OR REPLACE INTO t VALUES (1)").deletes_from, names(&["t"]));
        assert_eq!(
            Act::of("CREATE TRIGGER x AFTER INSERT ON a BEGIN DELETE FROM b; END"),
            Act::default()
        );
        assert_eq!(Act::of("CREATE TABLE a (b REFERENCES c ON DELETE CASCADE)"), Act::default());
    }
}
