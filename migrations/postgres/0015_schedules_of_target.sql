-- Schedules of one target, by name, without a look at those of the others. The twin in migrations/sqlite has the same index.

CREATE INDEX schedules_of_target ON schedules (target, name);
