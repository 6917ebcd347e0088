//! What has to read the whole file: counted rows, pages by `dbstat`, and a quick check of integrity.

use std::{collections::BTreeMap, time::Duration};

use dbkeep_engine::{
    model::monitor::{Precision, RowCount, Snapshot},
    port::{TargetError, TargetErrorClass},
};
use sqlx::Row as _;

use super::{
    super::{error::statement, render},
    session::Look,
};

/// Outside of WAL mode a reader keeps writers waiting; so long at most, which is less than applications usually wait.
const UNDISTURBED: Duration = Duration::from_secs(2);

const SPACE: &str = "SELECT s.name, s.pgsize, s.unused FROM dbstat('main') AS s WHERE s.aggregate = TRUE";

/// Replaces what is not known, or estimated, by what is measured.
pub(super) async fn measure(look: &mut Look<'_>, snapshot: &mut Snapshot, wal: bool) {
    let longest = if wal { Duration::MAX } else { UNDISTURBED };
    // It says why, where reading took too long.
    let allow = if wal {
        ""
    } else {
        "PRAGMA journal_mode = WAL; -- so that reading does not keep writers waiting"
    };
    let problems = integrity(look, longest).await;
    match problems {
        Ok(problems) => snapshot.database.integrity_problems = Some(problems),
        Err(error) => look.gap("integrity", said(&error), allow),
    }
    let mut left = 0_u64;
    let mut why = String::new();
    for table in &mut snapshot.tables {
        let sql = format!("SELECT count(*) FROM {}", render::table(&table.table));
        match count(look, &sql, longest).await {
            Ok(rows) => {
                table.rows = Some(RowCount {
                    rows,
                    precision: Precision::Exact,
                });
            }
            // Dropped meanwhile.
            Err(error) if error.class == TargetErrorClass::SchemaChanged => {}
            Err(error) => {
                left += 1;
                why = said(&error);
            }
        }
    }
    if left > 0 {
        look.gap("exact_rows", format!("{left} tables were not counted: {why}"), allow);
    }
    match space(look, longest).await {
        Ok(trees) => place(snapshot, &trees),
        Err(error) if error.class == TargetErrorClass::SchemaChanged => {
            look.gap("table_sizes", "this SQLite has no table dbstat", "");
        }
        Err(error) => look.gap("table_sizes", said(&error), allow),
    }
}

fn said(error: &TargetError) -> String {
    if error.class == TargetErrorClass::Timeout {
        return "reading it would take longer than it may".to_owned();
    }
    error.message.clone()
}

async fn count(look: &mut Look<'_>, sql: &str, longest: Duration) -> Result<u64, TargetError> {
    let rows = look.rows_within(sql, longest).await?;
    let count = rows.first().map(|row| row.try_get_unchecked::<i64, _>(0)).transpose();
    Ok(u64::try_from(count.map_err(statement)?.unwrap_or(0)).unwrap_or(0))
}

/// What the check finds. A file that is too damaged to be checked has a problem too.
async fn integrity(look: &mut Look<'_>, longest: Duration) -> Result<Vec<String>, TargetError> {
    let rows = match look.rows_within("PRAGMA main.quick_check(100)", longest).await {
        Ok(rows) => rows,
        Err(error) if is_damage(&error) => return Ok(vec![error.message]),
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    for row in &rows {
        let text: String = row.try_get_unchecked(0).map_err(statement)?;
        let lines = text.lines().map(str::trim);
        let told = lines.filter(|line| !line.is_empty() && *line != "ok" && !line.starts_with("*** in database"));
        problems.extend(told.map(str::to_owned));
    }
    Ok(problems)
}

/// Whether the file is damaged, or is none of SQLite's. The low byte of a result code says what kind it is.
pub(super) fn is_damage(error: &TargetError) -> bool {
    let code = error.code.as_deref().and_then(|code| code.parse::<u32>().ok());
    matches!(code.map(|code| code & 0xff), Some(11 | 26))
}

/// Bytes of each tree, and those of them that nothing uses.
async fn space(look: &mut Look<'_>, longest: Duration) -> Result<BTreeMap<String, (u64, u64)>, TargetError> {
    let mut trees = BTreeMap::new();
    for row in look.rows_within(SPACE, longest).await? {
        let name: String = row.try_get_unchecked(0).map_err(statement)?;
        let number = |column: usize| {
            row.try_get_unchecked::<i64, _>(column)
                .map(|number| u64::try_from(number).unwrap_or(0))
                .map_err(statement)
        };
        trees.insert(name, (number(1)?, number(2)?));
    }
    Ok(trees)
}

fn place(snapshot: &mut Snapshot, trees: &BTreeMap<String, (u64, u64)>) {
    for index in &mut snapshot.indexes {
        // The primary key of a table WITHOUT ROWID is the table itself, and has no tree of its own.
        let Some((bytes, unused)) = trees.get(&index.name).copied() else {
            continue;
        };
        index.bytes = Some(bytes);
        #[expect(clippy::cast_precision_loss, reason = "a part of a whole")]
        let fraction = unused as f64 / bytes.max(1) as f64;
        index.bloat_fraction = Some(fraction);
        index.bloat_precision = Some(Precision::Exact);
    }
    for table in &mut snapshot.tables {
        let Some((bytes, unused)) = trees.get(&table.table.name).copied() else {
            continue;
        };
        let indexes = snapshot.indexes.iter().filter(|index| index.table == table.table);
        table.heap_bytes = Some(bytes);
        table.index_bytes = Some(indexes.filter_map(|index| index.bytes).sum());
        table.free_bytes = Some(unused);
        table.free_precision = Some(Precision::Exact);
    }
    let own = snapshot.tables.iter().filter(|table| table.own);
    snapshot.database.own_bytes = Some(own.filter_map(|table| table.total_bytes()).sum());
    snapshot
        .tables
        .sort_by_cached_key(|table| (std::cmp::Reverse(table.total_bytes()), table.table.name.clone()));
}
