-- Runs that are paused, that wait in line for tables, and whose limits change while they work.

-- Why somebody asked to pause the run; and the limits in effect, which are those of the options where this is NULL.
ALTER TABLE runs ADD COLUMN pause_reason TEXT;
ALTER TABLE runs ADD COLUMN limits TEXT;

DROP INDEX runs_living;
CREATE INDEX runs_living ON runs (id) WHERE state IN ('queued', 'running', 'pausing', 'cancelling', 'interrupted');

-- Tables that a queued run waits for, in the order of the runs' ids. A run that waits for one table holds none.
CREATE TABLE table_waits (
    target          TEXT NOT NULL,
    table_name      TEXT NOT NULL,
    run_id          TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (target, table_name, run_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX table_waits_of_run ON table_waits (run_id);

-- Requests that steered a run, and what they asked for.
CREATE TABLE run_requests (
    request_id      TEXT NOT NULL PRIMARY KEY,
    request_digest  TEXT NOT NULL,
    run_id          TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX run_requests_of_run ON run_requests (run_id);
