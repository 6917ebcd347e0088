-- When the run of a slot has to end, so that the overdue ones are found however many work; what a person's call was named, so that it fires
-- once; and how far a server's clock is from the store's. The twin in migrations/postgres has the same columns.

ALTER TABLE schedule_slots ADD COLUMN deadline_ms INTEGER;
ALTER TABLE schedule_slots ADD COLUMN request_id TEXT;
UPDATE schedule_slots SET deadline_ms = slot_ms
    + 1000 * (SELECT json_extract(s.spec, '$.deadline_seconds') FROM schedules AS s WHERE s.id = schedule_slots.schedule_id)
    WHERE manual = 0 AND outcome IN ('pending', 'waiting', 'fired') AND EXISTS (SELECT 1 FROM schedules AS s
    WHERE s.id = schedule_slots.schedule_id AND json_extract(s.spec, '$.deadline_seconds') > 0);
CREATE INDEX slots_deadline ON schedule_slots (deadline_ms) WHERE outcome = 'fired' AND deadline_ms IS NOT NULL;
CREATE UNIQUE INDEX slots_request ON schedule_slots (request_id) WHERE request_id IS NOT NULL;

-- The server's clock less the store's, at the last sign of life.
ALTER TABLE servers ADD COLUMN clock_ahead_ms INTEGER NOT NULL DEFAULT 0;
