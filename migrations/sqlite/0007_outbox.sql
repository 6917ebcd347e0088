-- Notifications on their way. The twin in migrations/postgres has the same tables and columns.

-- One row for each notice, channel and set of recipients (a JSON array in order): the same event seen twice is told once. The ids are
-- UUIDs of version 7: their order is the order in time. `attempts` counts every try, `tries` those since `since_ms`.
CREATE TABLE deliveries (
    id              TEXT NOT NULL PRIMARY KEY,
    notice_id       TEXT NOT NULL,
    channel         TEXT NOT NULL,
    recipients      TEXT NOT NULL,
    notice          TEXT NOT NULL,
    run_id          TEXT,
    state           TEXT NOT NULL,
    attempts        INTEGER NOT NULL,
    tries           INTEGER NOT NULL,
    last_error      TEXT NOT NULL,
    created_ms      INTEGER NOT NULL,
    since_ms        INTEGER NOT NULL,
    due_ms          INTEGER NOT NULL,
    holder          TEXT,
    lease_until_ms  INTEGER,
    ended_ms        INTEGER,
    UNIQUE (notice_id, channel, recipients)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (channel, due_ms) WHERE state = 'due';
CREATE INDEX deliveries_by_state ON deliveries (state, id);
CREATE INDEX deliveries_of_run ON deliveries (run_id, id) WHERE run_id IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (state, ended_ms) WHERE ended_ms IS NOT NULL;
