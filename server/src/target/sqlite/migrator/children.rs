//! Rows that vanish although nobody deletes them: a table that is rebuilt may be copied in part, and dropping the old one deletes its
//! children where foreign keys are on, without any violation to be seen. Rows are counted before and after instead.

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_engine::{
    model::{RowsLost, Statement},
    port::TargetError,
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
    Some((parts.last()?.text.to_lowercase(), next))
}

impl Act {
    /// Reads a statement.
    pub(super) fn of(sql: &str) -> Self {
        let words = words(sql);
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
    pub(super) async fn before(&mut self, connection: &mut SqliteConnection, index: usize) -> Result<Counts, TargetError> {
        let Some(dropped) = self.acts.get(index).and_then(|act| act.dropped.clone()) else {
            return Ok(Counts::new());
        };
        if !self.foreign_keys {
            return Ok(Counts::new());
        }
        // The script may have made tables since.
        self.parents = parents(connection).await?;
        count(connection, &self.dependants(&dropped)).await
    }

    /// What a statement took along.
    pub(super) async fn after(&self, connection: &mut SqliteConnection, before: &Counts) -> Result<Vec<RowsLost>, TargetError> {
        if before.is_empty() {
            return Ok(Vec::new());
        }
        let now = count(connection, &before.keys().cloned().collect()).await?;
        Ok(fewer(before, &now).map(|(_, lost)| lost).collect())
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
