//! What differs between the two databases. Everything else is the same SQL, with `$1` placeholders, which both understand.

use dbkeep_engine::port::LONGEST_LEASE;

/// The database that holds the control store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Several servers may share it.
    Postgres,
    /// A file of one server.
    Sqlite,
}

impl Dialect {
    /// Begins a transaction that writes.
    pub(super) fn begin(self) -> &'static str {
        match self {
            // Whatever the database's default is: each statement has to see what was committed before it, for instance by the
            // holder of a lock that it waited for.
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
            // A deferred transaction fails at its first write, whatever the busy timeout, when another one wrote meanwhile.
            Self::Sqlite => "BEGIN IMMEDIATE",
        }
    }

    /// The database's own clock, so that servers whose clocks differ agree on when a lease lapses; milliseconds.
    pub(super) fn now_ms(self) -> &'static str {
        match self {
            Self::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        }
    }

    /// The same in microseconds, as exact as the database has it.
    pub(super) fn now_us(self) -> &'static str {
        match self {
            Self::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000",
        }
    }

    /// Whether a lease has lapsed: it is over, or it was given before the clock went back.
    pub(super) fn lapsed(self) -> String {
        let (now, longest) = (self.now_ms(), LONGEST_LEASE.as_millis());
        format!("(lease_until_ms <= {now} OR lease_until_ms > {now} + {longest})")
    }

    /// Locks the selected row of the table `runs` until the end of the transaction. An immediate transaction has the whole of SQLite locked.
    pub(super) fn lock_row(self) -> &'static str {
        match self {
            Self::Postgres => "FOR UPDATE OF runs",
            Self::Sqlite => "",
        }
    }

    /// Locks the first row of the table `runs` that nobody has locked.
    pub(super) fn lock_free_row(self) -> &'static str {
        match self {
            Self::Postgres => "FOR UPDATE OF runs SKIP LOCKED",
            Self::Sqlite => "",
        }
    }

    /// Locks the selected rows of the only table until the end of the transaction.
    pub(super) fn lock_rows(self) -> &'static str {
        match self {
            Self::Postgres => "FOR UPDATE",
            Self::Sqlite => "",
        }
    }

    /// Locks the selected rows of the only table, passing over those that somebody has locked.
    pub(super) fn lock_free_rows(self) -> &'static str {
        match self {
            Self::Postgres => "FOR UPDATE SKIP LOCKED",
            Self::Sqlite => "",
        }
    }

    /// Makes transactions that accept runs wait for each other, where they do not anyhow. They look at several rows that may
    /// not be there yet, which no row lock covers. The number is `dbkeepcr` in ASCII.
    pub(super) fn lock_acceptance(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some("SELECT pg_advisory_xact_lock(7233462034748171122)"),
            Self::Sqlite => None,
        }
    }
}
