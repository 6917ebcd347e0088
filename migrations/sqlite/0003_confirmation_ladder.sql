-- Consent and its record. The twin in migrations/postgres has the same tables and columns.

-- Who started a run, who approved it (JSON), how many have to, and until when they may while it waits for them. A run that waits
-- is queued, belongs to nobody, and holds no table.
ALTER TABLE runs ADD COLUMN started_by TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN approvals TEXT NOT NULL DEFAULT '[]';
ALTER TABLE runs ADD COLUMN approvals_required INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN approve_until_ms INTEGER;
CREATE INDEX runs_waiting ON runs (approve_until_ms) WHERE state = 'queued' AND approve_until_ms IS NOT NULL;

-- The run that a plan has started: a plan starts one.
CREATE TABLE plan_uses (
    plan_id         TEXT NOT NULL PRIMARY KEY,
    run_id          TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- Plans of earlier versions, which did not count: the first run stands for them.
INSERT INTO plan_uses (plan_id, run_id)
SELECT plan_id, MIN(id) FROM runs WHERE kind = 'cleanup' AND options LIKE '%"dry_run":false%' GROUP BY plan_id;

-- What was asked for, and what became of it. The ids are UUIDs of version 7: their order is the order in time.
CREATE TABLE decisions (
    id              TEXT NOT NULL PRIMARY KEY,
    at_ms           INTEGER NOT NULL,
    principal       TEXT NOT NULL,
    peer            TEXT NOT NULL,
    act             TEXT NOT NULL,
    target          TEXT NOT NULL,
    run_id          TEXT,
    plan_id         TEXT,
    outcome         TEXT NOT NULL,
    reason          TEXT NOT NULL,
    detail          TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX decisions_of_run ON decisions (run_id, id);
CREATE INDEX decisions_of_plan ON decisions (plan_id, id);
