-- Notifications on their way. The twin in migrations/sqlite has the same tables and columns.

-- One row for each notice, channel and set of recipients (a JSON array in order): the same event seen twice is told once. The ids are
-- UUIDs of version 7: their order is the order in time. `attempts` counts every try, `tries` those since `since_ms`.
CREATE TABLE deliveries (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    notice_id       TEXT COLLATE "C" NOT NULL,
    channel         TEXT COLLATE "C" NOT NULL,
    recipients      TEXT COLLATE "C" NOT NULL,
    notice          TEXT NOT NULL,
    run_id          TEXT COLLATE "C",
    state           TEXT NOT NULL,
    attempts        BIGINT NOT NULL,
    tries           BIGINT NOT NULL,
    last_error      TEXT NOT NULL,
    created_ms      BIGINT NOT NULL,
    since_ms        BIGINT NOT NULL,
    due_ms          BIGINT NOT NULL,
    holder          TEXT,
    lease_until_ms  BIGINT,
    ended_ms        BIGINT,
    UNIQUE (notice_id, channel, recipients)
);
CREATE INDEX deliveries_due ON deliveries (channel, due_ms) WHERE state = 'due';
CREATE INDEX deliveries_by_state ON deliveries (state, id);
CREATE INDEX deliveries_of_run ON deliveries (run_id, id) WHERE run_id IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (state, ended_ms) WHERE ended_ms IS NOT NULL;
