-- Schedules, what became of their slots, and the servers that work with this store. The twin in migrations/sqlite has the same tables
-- and columns.

CREATE TABLE schedules (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE,
    target          TEXT NOT NULL,
    etag            BIGINT NOT NULL,
    -- Goes up with every write of spec or state.
    version         BIGINT NOT NULL,
    spec            TEXT NOT NULL,
    state           TEXT NOT NULL,
    -- When its next slot begins; NULL while it does not fire. Kept in step with the state.
    next_fire_ms    BIGINT,
    created_ms      BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    updated_ms      BIGINT NOT NULL,
    updated_by      TEXT NOT NULL,
    request_id      TEXT COLLATE "C" UNIQUE,
    request_digest  TEXT
);
-- What a look for due slots goes through, however many schedules there are.
CREATE INDEX schedules_due ON schedules (next_fire_ms) WHERE next_fire_ms IS NOT NULL;

-- Schedules that a target's catalog declares and that were created once: one that was deleted does not come back.
CREATE TABLE seeded_schedules (
    target          TEXT NOT NULL,
    name            TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (target, name)
);

-- A slot has one row in its schedule: that is why it fires once.
CREATE TABLE schedule_slots (
    schedule_id     TEXT COLLATE "C" NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    slot_ms         BIGINT NOT NULL,
    outcome         TEXT NOT NULL,
    reason          TEXT NOT NULL,
    run_id          TEXT COLLATE "C",
    slot_count      BIGINT NOT NULL,
    first_slot_ms   BIGINT NOT NULL,
    decided_ms      BIGINT NOT NULL,
    manual          BIGINT NOT NULL,
    -- The server that fires it, until when it may by the clock of this database, and the number of claims so far, which is also the
    -- fence of the newest.
    holder          TEXT,
    lease_until_ms  BIGINT,
    claims          BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (schedule_id, slot_ms)
);
CREATE INDEX slots_open ON schedule_slots (outcome, slot_ms) WHERE outcome IN ('pending', 'waiting', 'fired');
CREATE INDEX slots_open_of ON schedule_slots (schedule_id, slot_ms) WHERE outcome IN ('pending', 'waiting', 'fired');
CREATE INDEX slots_by_time ON schedule_slots (slot_ms, schedule_id);

-- One row, once somebody touched the switch.
CREATE TABLE scheduler_switch (
    id              BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    running         BIGINT NOT NULL,
    note            TEXT NOT NULL,
    changed_by      TEXT NOT NULL,
    changed_ms      BIGINT NOT NULL
);

CREATE TABLE servers (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    address         TEXT NOT NULL,
    host            TEXT NOT NULL,
    version         TEXT NOT NULL,
    started_ms      BIGINT NOT NULL,
    seen_ms         BIGINT NOT NULL
);
