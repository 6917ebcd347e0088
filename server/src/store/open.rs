//! Opens the control store: checks the connection string, brings the tables up to date, and sets up the pool.

use std::{os::unix::fs::OpenOptionsExt, str::FromStr, sync::Arc, time::Duration};

use dbkeep_engine::port::StoreError;
use futures::future::BoxFuture;
use sqlx::{
    AnyConnection, AnyPool, ConnectOptions, Connection,
    any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers},
    migrate::{MigrateError, Migrator},
    sqlite::SqliteConnectOptions,
};
use tokio::{sync::Semaphore, time::timeout};

use super::{ControlStore, Dialect, KEPT_EVENTS, KEPT_POINTS, KEPT_SERIES, failover::Failover, failure::store_error};
use crate::hosts::Hosts;

static POSTGRES: Migrator = sqlx::migrate!("../migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("../migrations/sqlite");

/// Longest wait for a connection, which is how soon an absent database is reported.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Longest time for the migrations, those of other servers that start at the same time included.
const MIGRATE: Duration = Duration::from_secs(60);
/// How often the migrations of SQLite are tried, which has no lock that another process would wait for.
const SQLITE_TRIES: u32 = 5;

/// Connections to PostgreSQL: a few for attempts, a few for watchers.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Connections to SQLite: one writes at a time, the others read.
const SQLITE_CONNECTIONS: u32 = 4;

/// Every connection to PostgreSQL. The limits free the rows that a stopped process has locked, for the other servers.
const POSTGRES_SESSION: &str = "SET search_path = dbkeep_control; SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
     SET idle_in_transaction_session_timeout = '10s'; SET synchronous_commit = on";
/// Before the migrations. The lock is taken before the schema is looked for, since two servers may start on an empty database;
/// it ends with the connection. The number is `dbkeepmi` in ASCII.
const POSTGRES_MIGRATION_SESSION: &str =
    "SET client_min_messages = warning; SET lock_timeout = '50s'; SELECT pg_advisory_lock(7233462034748173673)";
/// Every connection to SQLite. FULL: a commit is on the disk when it returns, also in WAL mode.
const SQLITE_SESSION: &str = "PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";
/// Before the migrations; the mode is kept in the file.
const SQLITE_MIGRATION_SESSION: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";

impl ControlStore {
    /// Opens `sqlite:///path/control.db`, which is made where it is missing, or `postgres://..`, whose schema `dbkeep_control`
    /// is made where it is missing. Brings the tables up to date first; several servers may do that at the same time. A URL may name
    /// several servers of PostgreSQL, of which one takes writes.
    ///
    /// # Errors
    /// `Unavailable` where the database cannot be reached or does not let this user in, or the string is not understood;
    /// `Corrupt` where it was written by another version. No message holds the connection string.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        install_default_drivers();
        let Understood { dialect, servers, hosts } = understand(url)?;
        let found = match &hosts {
            Some(hosts) => Some(hosts.find(ACQUIRE).await.map_err(|error| store_error(&error))?),
            None => None,
        };
        let current = found.map_or(0, |found| found.index);
        migrate(dialect, &servers[current]).await?;
        let (session, connections, writers) = match dialect {
            Dialect::Postgres => (POSTGRES_SESSION, POSTGRES_CONNECTIONS, Semaphore::MAX_PERMITS),
            Dialect::Sqlite => (SQLITE_SESSION, SQLITE_CONNECTIONS, 1),
        };
        let options = servers[current].clone();
        let failover = hosts.zip(found).map(|(hosts, found)| Failover::new(hosts, servers, found));
        let connecting = failover.clone();
        let mut pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE)
            .after_connect(move |connection, _| {
                let failover = connecting.clone();
                Box::pin(async move {
                    if let Some(failover) = &failover {
                        failover.after_connect(connection).await?;
                    }
                    sqlx::raw_sql(session).execute(connection).await.map(drop)
                })
            });
        if let Some(failover) = &failover {
            let failover = Arc::clone(failover);
            pool = pool.test_before_acquire(false).before_acquire(move |connection, _| {
                let failover = Arc::clone(&failover);
                Box::pin(async move { failover.before_acquire(connection).await })
            });
        }
        let pool: AnyPool = pool.connect_lazy_with(options);
        Ok(Self {
            pool,
            failover,
            dialect,
            turns: Arc::new(Semaphore::new(writers)),
            kept_events: KEPT_EVENTS,
            kept_points: KEPT_POINTS,
            kept_series: KEPT_SERIES,
            routing: Arc::default(),
            mail: Arc::default(),
        })
    }
}

/// What a connection string says.
struct Understood {
    dialect: Dialect,
    /// How each of its servers is connected to; the only one, or the file, for most.
    servers: Vec<AnyConnectOptions>,
    /// Where only a server that takes writes will do.
    hosts: Option<Hosts>,
}

/// Reads a connection string.
fn understand(url: &str) -> Result<Understood, StoreError> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let hosts = Hosts::parse(url).map_err(|problem| StoreError::Unavailable(problem.to_string()))?;
        let servers = hosts
            .urls()
            .map(|url| AnyConnectOptions::from_str(url).map_err(|error| store_error(&error)));
        return Ok(Understood {
            dialect: Dialect::Postgres,
            servers: servers.collect::<Result<_, _>>()?,
            hosts: Some(hosts).filter(Hosts::is_writable),
        });
    }
    if !url.starts_with("sqlite:") {
        return Err(StoreError::Unavailable(
            "expected sqlite:///path/to/file or postgres://host/database".to_owned(),
        ));
    }
    let file = SqliteConnectOptions::from_str(url)
        .map_err(|error| store_error(&error))?
        .create_if_missing(true);
    let path = file.get_filename();
    if path.as_os_str().is_empty() || url.contains(":memory:") || url.contains("mode=memory") {
        return Err(StoreError::Unavailable(
            "expected a file; runs in memory would be lost with the process".to_owned(),
        ));
    }
    // Plans hold samples of rows: nobody but the server's user reads them. The files beside it get the same mode from SQLite.
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    made.map_err(|error| StoreError::Unavailable(format!("its file: {error}")))?;
    let options = AnyConnectOptions::from_url(&file.to_url_lossy()).map_err(|error| store_error(&error))?;
    Ok(Understood {
        dialect: Dialect::Sqlite,
        servers: vec![options],
        hosts: None,
    })
}

/// Brings the tables up to date, on a connection of its own: after a failure the migrator leaves its lock behind, which ends
/// with the connection.
async fn migrate(dialect: Dialect, options: &AnyConnectOptions) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        let mut connection = timeout(ACQUIRE, options.connect())
            .await
            .map_err(|_| StoreError::Unavailable(format!("no connection within {} s", ACQUIRE.as_secs())))?
            .map_err(|error| store_error(&error))?;
        let migrated = timeout(MIGRATE, migrate_on(dialect, &mut connection)).await;
        drop(timeout(ACQUIRE, connection.close()).await);
        match migrated {
            Ok(Ok(())) => return Ok(()),
            // Another process was at the same migration; what it has done is found the next time.
            Ok(Err(_)) if dialect == Dialect::Sqlite && tries < SQLITE_TRIES => {
                tokio::time::sleep(Duration::from_millis(50) * tries).await;
                tries += 1;
            }
            Ok(Err(error)) => return Err(migration_error(error)),
            Err(_) => {
                return Err(StoreError::Unavailable(format!(
                    "its migrations took more than {} s",
                    MIGRATE.as_secs()
                )));
            }
        }
    }
}

async fn migrate_on(dialect: Dialect, connection: &mut AnyConnection) -> Result<(), MigrateError> {
    match dialect {
        Dialect::Postgres => {
            sqlx::raw_sql(POSTGRES_MIGRATION_SESSION).execute(&mut *connection).await?;
            // IF NOT EXISTS asks for the right to make schemas even where there is nothing to make.
            let schema = sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = 'dbkeep_control'")
                .fetch_optional(&mut *connection)
                .await?;
            if schema.is_none() {
                sqlx::raw_sql("CREATE SCHEMA dbkeep_control")
                    .execute(&mut *connection)
                    .await?;
            }
            sqlx::raw_sql("SET search_path = dbkeep_control")
                .execute(&mut *connection)
                .await?;
            up(&POSTGRES, connection).await
        }
        Dialect::Sqlite => {
            sqlx::raw_sql(SQLITE_MIGRATION_SESSION).execute(&mut *connection).await?;
            up(&SQLITE, connection).await
        }
    }
}

/// As a boxed future: the compiler does not see that the plain one may be sent between threads.
fn up<'c>(migrator: &'static Migrator, connection: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), MigrateError>> {
    Box::pin(migrator.run_direct(None, connection, false))
}

fn migration_error(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => store_error(&error),
        MigrateError::VersionMissing(version) => StoreError::Corrupt(format!(
            "migration {version} is unknown here; a newer dbkeep has written to it"
        )),
        MigrateError::VersionMismatch(version) => {
            StoreError::Corrupt(format!("migration {version} was another one when it was applied"))
        }
        MigrateError::Dirty(version) => StoreError::Corrupt(format!("migration {version} was applied in part")),
        _ => StoreError::Corrupt("its migrations cannot be applied".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of the version before go on working with a store that is brought up to date. Those of before that were promised nothing.
    #[test]
    fn migrations_from_the_fifteenth_on_only_add() {
        for migration in POSTGRES
            .iter()
            .chain(SQLITE.iter())
            .filter(|migration| migration.version >= 15)
        {
            let sql = migration.sql.as_str().to_uppercase();
            for taken in ["DROP ", "RENAME ", "ALTER COLUMN"] {
                assert!(!sql.contains(taken), "migration {} has {taken}", migration.version);
            }
        }
    }

    #[test]
    fn strings_that_are_no_store_are_refused_without_being_repeated() {
        for url in [
            "mysql://dbkeep:hunter2@host/db",
            "sqlite::memory:",
            "sqlite:",
            "sqlite://?mode=memory",
            "hunter2",
            "postgres://dbkeep:hunter2@[::1/db",
            "postgres://dbkeep:hunter2@one,,two/db",
        ] {
            let Err(error) = understand(url) else { panic!("{url}") };
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
