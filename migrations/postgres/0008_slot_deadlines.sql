-- When the run of a slot has to end, so that the overdue ones are found however many work; what a person's call was named, so that it fires
-- once; and how far a server's clock is from the store's. The twin in migrations/sqlite has the same columns.

ALTER TABLE schedule_slots ADD COLUMN deadline_ms BIGINT;
ALTER TABLE schedule_slots ADD COLUMN request_id TEXT COLLATE "C";
UPDATE schedule_slots SET deadline_ms = schedule_slots.slot_ms + 1000 * (s.spec::jsonb ->> 'deadline_seconds')::bigint
    FROM schedules AS s WHERE s.id = schedule_slots.schedule_id AND schedule_slots.manual = 0
    AND schedule_slots.outcome IN ('pending', 'waiting', 'fired') AND (s.spec::jsonb ->> 'deadline_seconds')::bigint > 0;
CREATE INDEX slots_deadline ON schedule_slots (deadline_ms) WHERE outcome = 'fired' AND deadline_ms IS NOT NULL;
CREATE UNIQUE INDEX slots_request ON schedule_slots (request_id) WHERE request_id IS NOT NULL;

-- The server's clock less the store's, at the last sign of life.
ALTER TABLE servers ADD COLUMN clock_ahead_ms BIGINT NOT NULL DEFAULT 0;
