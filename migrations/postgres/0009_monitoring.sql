-- Monitoring: who collects what, the newest snapshot of each target, the history of metrics, and alerts. The twin in migrations/sqlite has
-- the same tables and columns.

-- One row for each target that is collected; `server` is empty there, and the id of a server for its own numbers, whose target is empty.
CREATE TABLE collections (
    target          TEXT COLLATE "C" NOT NULL,
    server          TEXT COLLATE "C" NOT NULL,
    -- Who collects, until when it may by the clock of this database, and the fence of the newest claim, which no other claim has.
    holder          TEXT,
    lease_until_ms  BIGINT,
    fence           BIGINT NOT NULL,
    -- The newest collection: when, whether the target was reached, and its place among all changes.
    collected_ms    BIGINT,
    up              BIGINT NOT NULL DEFAULT 0,
    revision        BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (target, server)
);

CREATE TABLE snapshots (
    target          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    at_ms           BIGINT NOT NULL,
    snapshot        TEXT NOT NULL
);

-- A series is a metric of an object; its points are in the tables below. The newest value stands here as well, so that it is found without
-- them.
CREATE TABLE metric_series (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target          TEXT COLLATE "C" NOT NULL,
    metric          TEXT COLLATE "C" NOT NULL,
    object          TEXT COLLATE "C" NOT NULL,
    newest_ms       BIGINT NOT NULL,
    newest_value    DOUBLE PRECISION NOT NULL,
    UNIQUE (target, metric, object)
);

CREATE TABLE samples_raw (
    series          BIGINT NOT NULL,
    at_ms           BIGINT NOT NULL,
    value           DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (series, at_ms)
);
CREATE INDEX samples_raw_by_time ON samples_raw (at_ms);

-- Intervals that begin at `at_ms`.
CREATE TABLE samples_5m (
    series          BIGINT NOT NULL,
    at_ms           BIGINT NOT NULL,
    samples         BIGINT NOT NULL,
    min             DOUBLE PRECISION NOT NULL,
    max             DOUBLE PRECISION NOT NULL,
    sum             DOUBLE PRECISION NOT NULL,
    last            DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (series, at_ms)
);
CREATE INDEX samples_5m_by_time ON samples_5m (at_ms);

CREATE TABLE samples_1h (
    series          BIGINT NOT NULL,
    at_ms           BIGINT NOT NULL,
    samples         BIGINT NOT NULL,
    min             DOUBLE PRECISION NOT NULL,
    max             DOUBLE PRECISION NOT NULL,
    sum             DOUBLE PRECISION NOT NULL,
    last            DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (series, at_ms)
);
CREATE INDEX samples_1h_by_time ON samples_1h (at_ms);

-- How far each step is made from the finer one, how many points it has, and when some were removed before their time for want of room.
CREATE TABLE metric_steps (
    step            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    until_ms        BIGINT NOT NULL,
    points          BIGINT NOT NULL,
    trimmed_ms      BIGINT
);
INSERT INTO metric_steps (step, until_ms, points) VALUES ('raw', 0, 0), ('5m', 0, 0), ('1h', 0, 0);

-- `fence` numbers claims, `revision` numbers changes of collections and alerts in the order of their commits.
CREATE TABLE monitor_counters (
    name            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value           BIGINT NOT NULL
);
INSERT INTO monitor_counters (name, value) VALUES ('fence', 0), ('revision', 0);

CREATE TABLE alerts (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- rule/target/object
    key             TEXT COLLATE "C" NOT NULL,
    target          TEXT COLLATE "C" NOT NULL,
    state           TEXT NOT NULL,
    alert           TEXT NOT NULL,
    resolved_ms     BIGINT,
    revision        BIGINT NOT NULL,
    acknowledged_by TEXT,
    acknowledged_ms BIGINT,
    note            TEXT
);
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE state <> 'resolved';
CREATE INDEX alerts_by_state ON alerts (state, id);
CREATE INDEX alerts_by_target ON alerts (target, id);
CREATE INDEX alerts_by_revision ON alerts (revision);
