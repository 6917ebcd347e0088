-- Who fired a slot by hand. The twin in migrations/sqlite has the same column.

ALTER TABLE schedule_slots ADD COLUMN fired_by TEXT NOT NULL DEFAULT '';
