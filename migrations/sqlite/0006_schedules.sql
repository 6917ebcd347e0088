-- Schedules, what became of their slots, and the servers that work with this store. The twin in migrations/postgres has the same tables
-- and columns.

CREATE TABLE schedules (
    id              TEXT NOT NULL PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    target          TEXT NOT NULL,
    etag            INTEGER NOT NULL,
    -- Goes up with every write of spec or state.
    version         INTEGER NOT NULL,
    spec            TEXT NOT NULL,
    state           TEXT NOT NULL,
    -- When its next slot begins; NULL while it does not fire. Kept in step with the state.
    next_fire_ms    INTEGER,
    created_ms      INTEGER NOT NULL,
    created_by      TEXT NOT NULL,
    updated_ms      INTEGER NOT NULL,
    updated_by      TEXT NOT NULL,
    request_id      TEXT UNIQUE,
    request_digest  TEXT
) STRICT, WITHOUT ROWID;
-- What a look for due slots goes through, however many schedules there are.
CREATE INDEX schedules_due ON schedules (next_fire_ms) WHERE next_fire_ms IS NOT NULL;

-- Schedules that a target's catalog declares and that were created once: one that was deleted does not come back.
CREATE TABLE seeded_schedules (
    target          TEXT NOT NULL,
    name            TEXT NOT NULL,
    PRIMARY KEY (target, name)
) STRICT, WITHOUT ROWID;

-- A slot has one row in its schedule: that is why it fires once.
CREATE TABLE schedule_slots (
    schedule_id     TEXT NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    slot_ms         INTEGER NOT NULL,
    outcome         TEXT NOT NULL,
    reason          TEXT NOT NULL,
    run_id          TEXT,
    slot_count      INTEGER NOT NULL,
    first_slot_ms   INTEGER NOT NULL,
    decided_ms      INTEGER NOT NULL,
    manual          INTEGER NOT NULL,
    -- The server that fires it, until when it may by the clock of this database, and the number of claims so far, which is also the
    -- fence of the newest.
    holder          TEXT,
    lease_until_ms  INTEGER,
    claims          INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (schedule_id, slot_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX slots_open ON schedule_slots (outcome, slot_ms) WHERE outcome IN ('pending', 'waiting', 'fired');
CREATE INDEX slots_open_of ON schedule_slots (schedule_id, slot_ms) WHERE outcome IN ('pending', 'waiting', 'fired');
CREATE INDEX slots_by_time ON schedule_slots (slot_ms, schedule_id);

-- One row, once somebody touched the switch.
CREATE TABLE scheduler_switch (
    id              INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    running         INTEGER NOT NULL,
    note            TEXT NOT NULL,
    changed_by      TEXT NOT NULL,
    changed_ms      INTEGER NOT NULL
) STRICT;

CREATE TABLE servers (
    id              TEXT NOT NULL PRIMARY KEY,
    address         TEXT NOT NULL,
    host            TEXT NOT NULL,
    version         TEXT NOT NULL,
    started_ms      INTEGER NOT NULL,
    seen_ms         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
