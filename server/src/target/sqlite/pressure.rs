//! How strained the file is: how long a writer waits for its turn, and how far the write-ahead log has grown. There are no replicas
//! that SQLite would know of, and it does not tell who waits.

use std::time::{Duration, Instant};

use dbkeep_engine::port::{Pressure, TargetError, TargetErrorClass};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

use super::error::{opening, statement};

/// Longest wait for the turn. Whoever waits longer has been told enough.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn measure(options: &SqliteConnectOptions) -> Result<Pressure, TargetError> {
    let mut connection = options.clone().busy_timeout(PATIENCE).connect().await.map_err(opening)?;
    let began = Instant::now();
    // A turn at writing, without writing.
    let probe = match connection.execute("BEGIN IMMEDIATE").await.map_err(statement) {
        Ok(_) => {
            let probe = began.elapsed();
            connection.execute("ROLLBACK").await.map_err(statement)?;
            probe
        }
        Err(error) if error.class == TargetErrorClass::LockTimeout => began.elapsed(),
        Err(error) => return Err(error),
    };
    connection.close().await.map_err(statement)?;
    let mut log = options.get_filename().as_os_str().to_owned();
    log.push("-wal");
    // Without that file the database is not in WAL mode, or nobody has it open.
    let wal_bytes = std::fs::metadata(log).ok().map(|file| file.len());
    Ok(Pressure {
        replicas: None,
        lock_waiters: None,
        probe: Some(probe),
        wal_bytes,
    })
}
