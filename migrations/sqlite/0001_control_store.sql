-- dbkeep's control store. The twin in migrations/postgres has the same tables and columns.
-- Times are milliseconds since 1970-01-01T00:00:00Z, ids are UUIDs as text, structured values are JSON.

-- Immutable plans.
CREATE TABLE plans (
    id              TEXT NOT NULL PRIMARY KEY,
    target          TEXT NOT NULL,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER NOT NULL,
    body            TEXT NOT NULL
) STRICT;

-- Runs. The ids are UUIDs of version 7: their order is the order of creation.
CREATE TABLE runs (
    id              TEXT NOT NULL PRIMARY KEY,
    -- The request that made the run, and what it asked for.
    request_id      TEXT NOT NULL UNIQUE,
    request_digest  TEXT NOT NULL,
    kind            TEXT NOT NULL,
    target          TEXT NOT NULL,
    state           TEXT NOT NULL,
    state_reason    TEXT NOT NULL,
    operations      TEXT NOT NULL,
    plan_id         TEXT NOT NULL,
    source_id       TEXT,
    undone_by       TEXT,
    options         TEXT NOT NULL,
    -- Number of attempts so far, which is also the fence of the newest.
    attempts        INTEGER NOT NULL,
    report          TEXT NOT NULL,
    -- Kept in step with the report, to find backups.
    captured_rows   INTEGER NOT NULL,
    -- The oldest event that is kept, and the newest.
    first_sequence  INTEGER NOT NULL,
    last_sequence   INTEGER NOT NULL,
    cancel_reason   TEXT,
    created_ms      INTEGER NOT NULL,
    started_ms      INTEGER,
    ended_ms        INTEGER,
    verification    TEXT NOT NULL,
    verified_ms     INTEGER,
    -- The server that works on it, and until when it may, by the clock of this database.
    holder          TEXT,
    lease_until_ms  INTEGER
) STRICT;

-- What a claim looks through, however many runs have ended.
CREATE INDEX runs_living ON runs (id) WHERE state IN ('queued', 'running', 'cancelling', 'interrupted');
CREATE INDEX runs_of_target ON runs (target, id);
CREATE INDEX runs_with_backup ON runs (id) WHERE captured_rows > 0;

-- The operations of a run once more, one row each, to find runs by.
CREATE TABLE run_operations (
    operation       TEXT NOT NULL,
    run_id          TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (operation, run_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_operations_of_run ON run_operations (run_id);

-- Tables that a run which has not ended has for itself.
CREATE TABLE table_holds (
    target          TEXT NOT NULL,
    table_name      TEXT NOT NULL,
    run_id          TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (target, table_name)
) STRICT, WITHOUT ROWID;
CREATE INDEX table_holds_of_run ON table_holds (run_id);

-- The event logs, numbered from 1 without gaps.
CREATE TABLE run_events (
    run_id          TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    sequence        INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    body            TEXT NOT NULL,
    PRIMARY KEY (run_id, sequence)
) STRICT, WITHOUT ROWID;
