//! A look at a file's health: its header, its schema, the statistics of ANALYZE; on request what has to read all of it. What cannot be
//! read is a gap; the rest goes on.
//!
//! | part | what |
//! |---|---|
//! | [`session`] | the connection: time limits and gaps |
//! | [`schema`] | tables, indexes and declared keys |
//! | [`definition`] | what only the text of an index says |
//! | [`exact`] | what has to read tables |

mod definition;
mod exact;
mod schema;
mod session;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use dbkeep_engine::{
    model::monitor::{Depth, Gap, Snapshot, Vitals},
    port::{Observer, TargetError},
};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use self::session::Look;
use super::{
    SqliteTarget,
    error::{opening, refused, statement},
};

/// Longest wait for a writer that keeps all others out.
const PATIENCE: Duration = Duration::from_millis(500);

#[async_trait]
impl Observer for SqliteTarget {
    async fn observe(&self, depth: Depth, limit: Duration) -> Result<Snapshot, TargetError> {
        let began = Instant::now();
        let options = self.options.clone().busy_timeout(PATIENCE.min(limit));
        let mut connection = match options.connect().await.map_err(opening) {
            Err(error) if exact::is_damage(&error) => return Ok(damaged(error, depth, began)),
            connected => connected?,
        };
        let mut look = Look::new(&mut connection, began, limit);
        let first = "SELECT sqlite_version(), CAST(unixepoch('subsec') * 1000 AS INTEGER)";
        let row = match look.rows(first).await {
            Err(error) if exact::is_damage(&error) => return Ok(damaged(error, depth, began)),
            rows => rows?
                .pop()
                .ok_or_else(|| refused("no answer to the first question".to_owned()))?,
        };
        let millis: i64 = row.try_get_unchecked(1).map_err(statement)?;
        let at = jiff::Timestamp::from_millisecond(millis).map_err(|error| refused(error.to_string()))?;
        let mut database = Vitals {
            version: row.try_get(0).map_err(statement)?,
            ..Vitals::default()
        };
        let journal = self.header(&mut look, &mut database).await;
        let schema = schema::read(&mut look).await;
        let mut snapshot = Snapshot {
            at,
            took_ms: 0,
            depth,
            database,
            tables: schema.tables,
            indexes: schema.indexes,
            unindexed_keys: schema.unindexed_keys,
            queries: Vec::new(),
            sessions: None,
            replicas: Vec::new(),
            slots: Vec::new(),
            gaps: Vec::new(),
        };
        if depth == Depth::Exact {
            exact::measure(&mut look, &mut snapshot, journal.as_deref() == Some("wal")).await;
        }
        snapshot.gaps = look.end();
        // What it has read stands, whatever is said when it ends.
        let _closed = connection.close().await;
        snapshot.took_ms = millis_since(began);
        Ok(snapshot)
    }
}

fn millis_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Of a file whose schema cannot be read nothing is known but that; its clock is this machine's.
fn damaged(error: TargetError, depth: Depth, began: Instant) -> Snapshot {
    let gap = Gap {
        what: "tables".to_owned(),
        why: error.message.clone(),
        allow: String::new(),
    };
    Snapshot {
        at: jiff::Timestamp::now(),
        took_ms: millis_since(began),
        depth,
        database: Vitals {
            integrity_problems: Some(vec![error.message]),
            ..Vitals::default()
        },
        tables: Vec::new(),
        indexes: Vec::new(),
        unindexed_keys: Vec::new(),
        queries: Vec::new(),
        sessions: None,
        replicas: Vec::new(),
        slots: Vec::new(),
        gaps: vec![gap],
    }
}

impl SqliteTarget {
    /// What the file's header says; returns the journal mode.
    async fn header(&self, look: &mut Look<'_>, database: &mut Vitals) -> Option<String> {
        let sql = "SELECT p.page_count, s.page_size, f.freelist_count, v.auto_vacuum, j.journal_mode FROM pragma_page_count AS p, \
                   pragma_page_size AS s, pragma_freelist_count AS f, pragma_auto_vacuum AS v, pragma_journal_mode AS j";
        let rows = look.rows(sql).await;
        let row = look.or_gap("database", rows)?.pop()?;
        let number = |column: usize| {
            let number: Option<i64> = row.try_get_unchecked(column).ok();
            number.and_then(|number| u64::try_from(number).ok())
        };
        let (pages, page, free) = (number(0), number(1), number(2));
        database.size_bytes = pages.zip(page).map(|(pages, page)| pages * page);
        (database.pages, database.page_bytes, database.free_pages) = (pages, page, free);
        database.auto_vacuum = match number(3) {
            Some(0) => "none".to_owned(),
            Some(1) => "full".to_owned(),
            Some(2) => "incremental".to_owned(),
            _ => String::new(),
        };
        let journal: Option<String> = row.try_get_unchecked(4).ok();
        if journal.as_deref() == Some("wal") {
            let mut log = self.options.get_filename().as_os_str().to_owned();
            log.push("-wal");
            // No file, no log; only a file that cannot be looked at is not known.
            match std::fs::metadata(log) {
                Ok(file) => database.wal_size_bytes = Some(file.len()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => database.wal_size_bytes = Some(0),
                Err(error) => look.gap("wal_size", error.to_string(), ""),
            }
        }
        journal
    }
}
