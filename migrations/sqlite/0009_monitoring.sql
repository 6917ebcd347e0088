-- Monitoring: who collects what, the newest snapshot of each target, the history of metrics, and alerts. The twin in migrations/postgres has
-- the same tables and columns.

-- One row for each target that is collected; `server` is empty there, and the id of a server for its own numbers, whose target is empty.
CREATE TABLE collections (
    target          TEXT NOT NULL,
    server          TEXT NOT NULL,
    -- Who collects, until when it may by the clock of this database, and the fence of the newest claim, which no other claim has.
    holder          TEXT,
    lease_until_ms  INTEGER,
    fence           INTEGER NOT NULL,
    -- The newest collection: when, whether the target was reached, and its place among all changes.
    collected_ms    INTEGER,
    up              INTEGER NOT NULL DEFAULT 0,
    revision        INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, server)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    target          TEXT NOT NULL PRIMARY KEY,
    at_ms           INTEGER NOT NULL,
    snapshot        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A series is a metric of an object; its points are in the tables below. The newest value stands here as well, so that it is found without
-- them.
CREATE TABLE metric_series (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    target          TEXT NOT NULL,
    metric          TEXT NOT NULL,
    object          TEXT NOT NULL,
    newest_ms       INTEGER NOT NULL,
    newest_value    REAL NOT NULL,
    UNIQUE (target, metric, object)
) STRICT;

CREATE TABLE samples_raw (
    series          INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    value           REAL NOT NULL,
    PRIMARY KEY (series, at_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX samples_raw_by_time ON samples_raw (at_ms);

-- Intervals that begin at `at_ms`.
CREATE TABLE samples_5m (
    series          INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    samples         INTEGER NOT NULL,
    min             REAL NOT NULL,
    max             REAL NOT NULL,
    sum             REAL NOT NULL,
    last            REAL NOT NULL,
    PRIMARY KEY (series, at_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX samples_5m_by_time ON samples_5m (at_ms);

CREATE TABLE samples_1h (
    series          INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    samples         INTEGER NOT NULL,
    min             REAL NOT NULL,
    max             REAL NOT NULL,
    sum             REAL NOT NULL,
    last            REAL NOT NULL,
    PRIMARY KEY (series, at_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX samples_1h_by_time ON samples_1h (at_ms);

-- How far each step is made from the finer one, how many points it has, and when some were removed before their time for want of room.
CREATE TABLE metric_steps (
    step            TEXT NOT NULL PRIMARY KEY,
    until_ms        INTEGER NOT NULL,
    points          INTEGER NOT NULL,
    trimmed_ms      INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO metric_steps (step, until_ms, points) VALUES ('raw', 0, 0), ('5m', 0, 0), ('1h', 0, 0);

-- `fence` numbers claims, `revision` numbers changes of collections and alerts in the order of their commits.
CREATE TABLE monitor_counters (
    name            TEXT NOT NULL PRIMARY KEY,
    value           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO monitor_counters (name, value) VALUES ('fence', 0), ('revision', 0);

CREATE TABLE alerts (
    id              TEXT NOT NULL PRIMARY KEY,
    -- rule/target/object
    key             TEXT NOT NULL,
    target          TEXT NOT NULL,
    state           TEXT NOT NULL,
    alert           TEXT NOT NULL,
    resolved_ms     INTEGER,
    revision        INTEGER NOT NULL,
    acknowledged_by TEXT,
    acknowledged_ms INTEGER,
    note            TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE state <> 'resolved';
CREATE INDEX alerts_by_state ON alerts (state, id);
CREATE INDEX alerts_by_target ON alerts (target, id);
CREATE INDEX alerts_by_revision ON alerts (revision);
