//! Whole tables back into the target's file, in one immediate transaction: other writers wait for it, readers see all of it or nothing.

use dbkeep_engine::{
    failpoint,
    model::{JournalEntry, TableCount, TableName},
    port::{LoadOrder, Loaded, MaintenanceError, Watch},
};
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::{
    SqliteTarget,
    dump::{copy_rows, count, definitions, or_stopped, stoppable, stored_columns, tables},
    error::{self, refused, statement},
    journal, render,
};

pub(super) const BACKUP: &str = "dbkeep_backup";

fn unsuitable(table: &TableName, problem: impl Into<String>) -> MaintenanceError {
    MaintenanceError::Table {
        table: table.clone(),
        problem: problem.into(),
    }
}

/// Whether a table is there; an error where something else of that name is.
async fn is_there(connection: &mut SqliteConnection, table: &TableName) -> Result<bool, MaintenanceError> {
    let kind: Option<String> =
        sqlx::query_scalar("SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE")
            .bind(&table.name)
            .fetch_optional(connection)
            .await
            .map_err(statement)?;
    match kind.as_deref() {
        None => Ok(false),
        Some("table") => Ok(true),
        Some(_) => Err(unsuitable(table, "is no ordinary table now; expected one, or none")),
    }
}

async fn is_filled(connection: &mut SqliteConnection, table: &TableName) -> Result<bool, MaintenanceError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", render::table(table));
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(statement)?)
}

impl SqliteTarget {
    pub(super) async fn check_load(&self, tables: &[TableName], replace: bool) -> Result<(), MaintenanceError> {
        let mut connection = self.connection().await?;
        let mut filled = Vec::new();
        for table in tables {
            if is_there(&mut connection, table).await? && is_filled(&mut connection, table).await? {
                filled.push(table.to_string());
            }
        }
        self.idle.put(connection);
        if filled.is_empty() || replace {
            return Ok(());
        }
        Err(MaintenanceError::NotEmpty { tables: filled })
    }

    pub(super) async fn load_tables(&self, order: &LoadOrder, replace: bool, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        let result = self.load_in_one(order, replace, watch).await;
        or_stopped(result, watch)
    }

    async fn load_in_one(&self, order: &LoadOrder, replace: bool, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        let path = order
            .path
            .to_str()
            .ok_or_else(|| refused("the backup folder's path is no UTF-8".to_owned()))?;
        // Without foreign keys: emptying a table must not reach its children, and rows come in any order.
        let mut connection = self.apart().await?;
        let stop = stoppable(&mut connection, watch).await?;
        sqlx::query("ATTACH DATABASE ? AS dbkeep_backup")
            .bind(path)
            .execute(&mut connection)
            .await
            .map_err(statement)?;
        let held = tables(&mut connection, BACKUP).await?;
        connection.execute("BEGIN IMMEDIATE").await.map_err(statement)?;
        journal::check_fence(&mut connection, order.claim).await?;
        // Triggers did their work when the rows first came. SQLite cannot switch them off, only drop and make them again.
        let mut afterwards: Vec<String> = Vec::new();
        let mut filled = Vec::new();
        for table in &order.tables {
            if !held.contains(&table.table) {
                return Err(MaintenanceError::Damaged {
                    problem: format!("it does not hold {}", table.table),
                });
            }
            if is_there(&mut connection, &table.table).await? {
                let mut here = stored_columns(&mut connection, "main", &table.table).await?;
                let mut there = stored_columns(&mut connection, BACKUP, &table.table).await?;
                here.sort_unstable();
                there.sort_unstable();
                if here != there {
                    return Err(unsuitable(
                        &table.table,
                        "has other columns than in the backup; expected the same, or a scratch place",
                    ));
                }
                for (kind, name, sql) in definitions(&mut connection, "main", &table.table).await? {
                    if kind == "trigger" {
                        let drop = format!("DROP TRIGGER main.{}", render::identifier(&name));
                        connection.execute(AssertSqlSafe(drop)).await.map_err(statement)?;
                        afterwards.push(sql);
                    }
                }
                if is_filled(&mut connection, &table.table).await? {
                    filled.push(table.table.to_string());
                    if replace {
                        let delete = format!("DELETE FROM {}", render::table(&table.table));
                        connection.execute(AssertSqlSafe(delete)).await.map_err(statement)?;
                    }
                }
            } else {
                for (kind, _, sql) in definitions(&mut connection, BACKUP, &table.table).await? {
                    if kind == "table" {
                        // Without a schema in the statement the table is made in main.
                        connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
                    } else {
                        afterwards.push(sql);
                    }
                }
            }
        }
        if !filled.is_empty() && !replace {
            return Err(MaintenanceError::NotEmpty { tables: filled });
        }
        let total: u64 = order.tables.iter().map(|table| table.rows).sum();
        let mut done = 0;
        let mut loaded = Vec::with_capacity(order.tables.len());
        for table in &order.tables {
            watch.say("restoring", &table.table.name, done, total, "rows");
            copy_rows(&mut connection, BACKUP, "main", &table.table).await?;
            let rows = count(&mut connection, "main", &table.table).await?;
            if rows != table.rows {
                return Err(MaintenanceError::Damaged {
                    problem: format!("{} has {rows} rows after the load, {} were saved", table.table, table.rows),
                });
            }
            move_sequence(&mut connection, &table.table).await?;
            done += rows;
            loaded.push(TableCount { rows, ..table.clone() });
        }
        failpoint!("load-copied");
        for sql in afterwards {
            connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
        }
        let mut warnings = Vec::new();
        for table in &order.tables {
            let missing: i64 = sqlx::query_scalar("SELECT count(*) FROM pragma_foreign_key_check(?)")
                .bind(&table.table.name)
                .fetch_one(&mut connection)
                .await
                .map_err(statement)?;
            if missing > 0 {
                // They may have been there when the backup was made; dbkeep exists because of such rows.
                warnings.push(format!("{missing} keys of {} name rows that are not there", table.table));
            }
        }
        let entry = JournalEntry {
            run: order.claim.run,
            step: 0,
            batch: 1,
            pass: 1,
            fence: order.claim.fence,
            cursor: String::new(),
            examined: 0,
            matched: total,
            affected: total,
            along: Vec::new(),
            conflicting: 0,
            chunk: None,
        };
        journal::record(&mut connection, &entry).await?;
        failpoint!("load-recorded");
        // From here on a stop would come too late to be told from a commit.
        super::dump::unstoppable(&mut connection).await?;
        drop(stop);
        connection.execute("COMMIT").await.map_err(error::commit)?;
        Ok(Loaded {
            place: "their own place".to_owned(),
            tables: loaded,
            warnings,
        })
    }
}

/// The next key of an AUTOINCREMENT table moves forward to where it stood in the backup, never back.
async fn move_sequence(connection: &mut SqliteConnection, table: &TableName) -> Result<(), MaintenanceError> {
    let known = "SELECT (SELECT count(*) FROM dbkeep_backup.sqlite_schema WHERE name = 'sqlite_sequence') \
                 + (SELECT count(*) FROM main.sqlite_schema WHERE name = 'sqlite_sequence')";
    let both: i64 = sqlx::query_scalar(known)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    if both < 2 {
        return Ok(());
    }
    for sql in [
        "INSERT INTO main.sqlite_sequence (name, seq) SELECT b.name, b.seq FROM dbkeep_backup.sqlite_sequence AS b WHERE b.name = ?1 \
         AND NOT EXISTS (SELECT 1 FROM main.sqlite_sequence AS m WHERE m.name = b.name)",
        "UPDATE main.sqlite_sequence SET seq = max(seq, coalesce((SELECT b.seq FROM dbkeep_backup.sqlite_sequence AS b WHERE b.name = ?1), 0)) \
         WHERE name = ?1",
    ] {
        sqlx::query(sql)
            .bind(&table.name)
            .execute(&mut *connection)
            .await
            .map_err(statement)?;
    }
    Ok(())
}
