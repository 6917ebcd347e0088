//! Places beside a target's own tables: a file beside the target's for whole tables, prefixed tables for captured rows. Each carries the
//! run that made it, so that a later attempt tells what is its own from what is anybody else's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use dbkeep_engine::{
    failpoint,
    model::{RunId, TableCount, TableName, fence},
    port::{Claim, LoadOrder, Loaded, MaintenanceError, TableLayout, Target, TargetError, Watch},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection};

use super::{
    SqliteTarget,
    dump::{check, copy_tables, count, open_file, or_stopped, stoppable},
    error::statement,
    render,
};

/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;
/// What SQLite may leave beside a file, and would read with the next one of that name.
const LOGS: [&str; 2] = ["-journal", "-wal"];
/// What it may leave as well, and makes anew from the log.
const INDEX: &str = "-shm";
/// Table of a scratch file that says which run made it.
const MARK: &str = "_dbkeep_scratch";

pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> MaintenanceError + '_ {
    move |source| MaintenanceError::Io {
        path: path.display().to_string(),
        source,
    }
}

fn taken(place: impl Into<String>) -> MaintenanceError {
    MaintenanceError::Place {
        place: place.into(),
        problem: "is there already and was not made by this restore; expected another name".to_owned(),
    }
}

/// Whether a scratch file is that of this attempt or one before it. An attempt that lost its lease and wakes up late must not take the
/// place of its successor.
async fn is_mine(path: &Path, claim: Claim) -> bool {
    let maker = match maker(path, true).await {
        // Whoever was killed while it wrote may have left a file that can be read only once SQLite has taken that back.
        Err(_) => maker(path, false).await,
        asked => asked,
    };
    // Whatever cannot be asked is not ours.
    let Ok(Some((run, attempt))) = maker else { return false };
    run == claim.run.to_string() && u64::try_from(attempt).is_ok_and(|attempt| attempt <= claim.fence)
}

/// Run and fence of whoever made a scratch file.
async fn maker(path: &Path, read_only: bool) -> Result<Option<(String, i64)>, TargetError> {
    let mut connection = open_file(path, read_only).await?;
    sqlx::query_as(AssertSqlSafe(format!("SELECT run_id, attempt FROM {MARK}")))
        .fetch_optional(&mut connection)
        .await
        .map_err(statement)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(ending);
    file.into()
}

/// Removes the logs that SQLite may have left beside a file.
fn remove_logs(path: &Path) -> Result<(), MaintenanceError> {
    LOGS.iter().try_for_each(|log| remove_if_there(&beside(path, log)))
}

fn remove_if_there(path: &Path) -> Result<(), MaintenanceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(path)(error)),
        _ => Ok(()),
    }
}

/// Copies a file, with a look at `watch` now and then.
fn copy(from: &Path, to: &Path, watch: &Watch) -> Result<(), MaintenanceError> {
    let mut reading = File::open(from).map_err(io(from))?;
    let total = reading.metadata().map_err(io(from))?.len();
    let mut writing = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(io(to))?;
    let mut buffer = vec![0_u8; BUFFER];
    let mut done = 0_u64;
    loop {
        if watch.stop.is_cancelled() {
            return Err(MaintenanceError::Stopped);
        }
        let read = reading.read(&mut buffer).map_err(io(from))?;
        if read == 0 {
            return Ok(());
        }
        writing.write_all(&buffer[..read]).map_err(io(to))?;
        done += read as u64;
        watch.say("copying", "", done, total, "bytes");
    }
}

impl SqliteTarget {
    /// Where a scratch file of this name is: beside the target's own file.
    pub(super) fn file_aside(&self, name: &str) -> PathBuf {
        self.options.get_filename().with_file_name(format!("{name}.db"))
    }

    pub(super) async fn drop_file(&self, claim: Claim, name: &str) -> Result<(), MaintenanceError> {
        let path = self.file_aside(name);
        remove_unfinished(&path, claim)?;
        if fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        if is_mine(&path, claim).await {
            // Until all of it is gone it has a name that says whose it is: what is left beside would be taken for that of the next file.
            let going = unfinished(&path, claim);
            fs::rename(&path, &going).map_err(io(&path))?;
            failpoint!("scratch-going");
            remove_logs(&path)?;
            remove_if_there(&going)?;
            return remove_if_there(&beside(&path, INDEX));
        }
        Err(taken(path.display().to_string()))
    }

    pub(super) async fn open_file_aside(&self, name: &str) -> Result<Arc<dyn Target>, MaintenanceError> {
        let path = self.file_aside(name);
        if fs::symlink_metadata(&path).is_err() {
            return Err(MaintenanceError::Place {
                place: path.display().to_string(),
                problem: "is not there; expected a file that a restore made".to_owned(),
            });
        }
        Ok(Arc::new(Self {
            options: self.options.clone().filename(path),
            idle: Arc::default(),
            limit: self.limit,
        }))
    }

    pub(super) async fn load_file(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        let result = self.fill_file(order, name, watch).await;
        or_stopped(result, watch)
    }

    async fn fill_file(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        let claim = order.claim;
        self.drop_file(claim, name).await?;
        let path = self.file_aside(name);
        let unfinished = unfinished(&path, claim);
        let mut source = open_file(&order.path, true).await?;
        let _stop = stoppable(&mut source, watch).await?;
        let held = super::dump::tables(&mut source, "main").await?;
        if let Some(missing) = order.tables.iter().find(|table| !held.contains(&table.table)) {
            return Err(MaintenanceError::Damaged {
                problem: format!("it does not hold {}", missing.table),
            });
        }
        if held.len() == order.tables.len() {
            source.close().await.map_err(statement)?;
            let (from, to, watching) = (order.path.clone(), unfinished.clone(), watch.clone());
            let copying = tokio::task::spawn_blocking(move || copy(&from, &to, &watching));
            copying.await.map_err(|error| io(&unfinished)(io::Error::other(error)))??;
        } else {
            let tables: Vec<TableName> = order.tables.iter().map(|table| table.table.clone()).collect();
            // Rights first: SQLite keeps those of a file that is there.
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)
                .map_err(io(&unfinished))?;
            drop(source);
            // Read-only would forbid the file that is attached to be written.
            let mut source = open_file(&order.path, false).await?;
            let _stop = stoppable(&mut source, watch).await?;
            copy_tables(&mut source, &tables, &unfinished, watch).await?;
        }
        let mut made = open_file(&unfinished, false).await?;
        let _stop = stoppable(&mut made, watch).await?;
        watch.say("checking", "", 0, 0, "pages");
        check(&mut made).await?;
        let mut tables = Vec::with_capacity(order.tables.len());
        for table in &order.tables {
            tables.push(TableCount {
                table: table.table.clone(),
                rows: count(&mut made, "main", &table.table).await?,
            });
        }
        // As on PostgreSQL, where dumps leave dbkeep's own tables out: nobody has migrated this place, and nobody holds it.
        for table in ["_dbkeep_migration", "_dbkeep_migration_lease", "_dbkeep_identity"] {
            let drop = format!("DROP TABLE IF EXISTS main.{table}");
            made.execute(AssertSqlSafe(drop)).await.map_err(statement)?;
        }
        mark(&mut made, claim).await?;
        made.close().await.map_err(statement)?;
        failpoint!("scratch-made");
        publish(&unfinished, &path)?;
        Ok(Loaded {
            place: format!("file {}", path.display()),
            tables,
            warnings: Vec::new(),
        })
    }

    pub(super) async fn table_aside(&self, run: RunId, name: &str, layout: &TableLayout) -> Result<TableName, MaintenanceError> {
        let mut connection = self.connection().await?;
        let table = TableName {
            schema: None,
            name: format!("{name}__{}", layout.table.name),
        };
        let mark = format!("/* made by dbkeep, restore {run} */");
        let sql: Option<String> = sqlx::query_scalar("SELECT sql FROM main.sqlite_schema WHERE name = ? COLLATE NOCASE")
            .bind(&table.name)
            .fetch_optional(&mut connection)
            .await
            .map_err(statement)?;
        match sql {
            Some(sql) if sql.contains(&mark) => {}
            Some(_) => return Err(taken(format!("table {}", table.name))),
            None => {
                let columns = layout
                    .columns
                    .iter()
                    .map(|(column, type_name)| format!("{} {}", render::identifier(column), affinity(type_name)))
                    .collect::<Vec<_>>()
                    .join(", ");
                let create = format!("CREATE TABLE {} ({mark} {columns})", render::table(&table));
                connection.execute(AssertSqlSafe(create)).await.map_err(statement)?;
            }
        }
        self.idle.put(connection);
        Ok(table)
    }
}

/// BLOB leaves every value as it is; a declared type would change some on their way in. The type is kept where it is a plain word that
/// means the same.
fn affinity(type_name: &str) -> &'static str {
    match type_name.to_ascii_uppercase().as_str() {
        "INTEGER" | "INT" => "INTEGER",
        "TEXT" => "TEXT",
        _ => "BLOB",
    }
}

/// Makes a file durable and gives it its name.
pub(super) fn publish(unfinished: &Path, path: &Path) -> Result<(), MaintenanceError> {
    File::open(unfinished)
        .and_then(|file| file.sync_all())
        .map_err(io(unfinished))?;
    // A file that has come meanwhile is somebody else's, and must not be written over.
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        unfinished,
        rustix::fs::CWD,
        path,
        rustix::fs::RenameFlags::NOREPLACE,
    )
    .map_err(|errno| match errno {
        rustix::io::Errno::EXIST => taken(path.display().to_string()),
        other => io(path)(other.into()),
    })?;
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder).and_then(|file| file.sync_all()).map_err(io(folder))?;
    Ok(())
}

pub(super) fn unfinished(path: &Path, claim: Claim) -> PathBuf {
    path.with_extension(format!("dbkeep-{}-{}", claim.run, fence::name(claim.fence)))
}

/// Removes what this attempt and those before it were writing or removing, with what SQLite may have left beside.
fn remove_unfinished(path: &Path, claim: Claim) -> Result<(), MaintenanceError> {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
        return Ok(());
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let beginning = format!("{stem}.dbkeep-{}-", claim.run);
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(&beginning))
            .and_then(fence::named);
        if maker.is_some_and(|maker| maker <= claim.fence) {
            // Where it was on its way out, what was beside it may be there still.
            if fs::symlink_metadata(path).is_err() {
                remove_logs(path)?;
                if let Err(error) = remove_if_there(&beside(path, INDEX)) {
                    tracing::warn!(%error, "a file beside a scratch file stays; SQLite makes it anew");
                }
            }
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

pub(super) async fn mark(connection: &mut SqliteConnection, claim: Claim) -> Result<(), MaintenanceError> {
    connection
        .execute(AssertSqlSafe(format!(
            "CREATE TABLE {MARK} (run_id TEXT NOT NULL, attempt INTEGER NOT NULL)"
        )))
        .await
        .map_err(statement)?;
    sqlx::query(AssertSqlSafe(format!("INSERT INTO {MARK} (run_id, attempt) VALUES (?, ?)")))
        .bind(claim.run.to_string())
        .bind(i64::try_from(claim.fence).unwrap_or(i64::MAX))
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}
