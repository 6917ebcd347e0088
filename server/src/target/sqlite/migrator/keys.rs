//! Rows that violate foreign keys, counted by key: what a group made worse is told apart from what was wrong before.

use std::collections::BTreeMap;

use dbkeep_engine::port::TargetError;
use sqlx::SqliteConnection;

use super::super::error::statement;

/// A key: child table, its columns, parent table.
type Key = (String, String, String);

/// Violated keys with the number of rows, and tables whose keys cannot be looked at.
#[derive(Debug, Default)]
pub(super) struct Violations {
    keys: BTreeMap<Key, i64>,
    unreadable: BTreeMap<String, String>,
}

impl Violations {
    /// Looks at every table. A parent without a suitable key makes the look itself fail, so each table is looked at alone.
    pub(super) async fn find(connection: &mut SqliteConnection) -> Result<Self, TargetError> {
        let with_keys = "SELECT DISTINCT t.name FROM pragma_table_list AS t JOIN pragma_foreign_key_list(t.name) AS f \
                         WHERE t.schema = 'main' AND t.type = 'table' ORDER BY t.name";
        let tables: Vec<String> = sqlx::query_scalar(with_keys)
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        let sql = "SELECT v.parent, coalesce((SELECT group_concat(f.\"from\", ', ') FROM pragma_foreign_key_list(?1) AS f WHERE f.id = v.fkid), ''), count(*) \
                   FROM pragma_foreign_key_check(?1) AS v GROUP BY v.parent, v.fkid";
        let mut found = Self::default();
        for table in tables {
            let keys: Result<Vec<(String, String, i64)>, _> = sqlx::query_as(sql)
                .persistent(false)
                .bind(&table)
                .fetch_all(&mut *connection)
                .await;
            match keys {
                Ok(keys) => {
                    for (parent, columns, rows) in keys {
                        let key = (table.to_lowercase(), columns.to_lowercase(), parent.to_lowercase());
                        *found.keys.entry(key).or_default() += rows;
                    }
                }
                Err(error) => {
                    let error = statement(error);
                    // Whoever was stopped has looked at nothing.
                    if error.code.as_deref() == Some("9") {
                        return Err(error);
                    }
                    found.unreadable.insert(table.to_lowercase(), error.message);
                }
            }
        }
        Ok(found)
    }

    /// Every violation, readable.
    pub(super) fn told(&self) -> Vec<String> {
        self.beyond(&Self::default())
    }

    /// What there is more than before, readable.
    pub(super) fn beyond(&self, before: &Self) -> Vec<String> {
        let mut told = Vec::new();
        for (key, rows) in &self.keys {
            let more = rows - before.keys.get(key).copied().unwrap_or(0);
            if more > 0 {
                let (table, columns, parent) = key;
                let noun = if more == 1 { "row names" } else { "rows name" };
                told.push(format!(
                    "{table}: {more} {noun} a row of {parent} by ({columns}) that is not there"
                ));
            }
        }
        for (table, problem) in &self.unreadable {
            if !before.unreadable.contains_key(table) {
                told.push(format!("{table}: {problem}"));
            }
        }
        told
    }
}
