-- The fence of a run's newest claim: the number of the attempt, and below it one drawn by lot, which tells two claims of one number apart where a
-- failover has forgotten one of them. 0 until the first claim by a version that draws lots. The twin in migrations/postgres has the same column.

ALTER TABLE runs ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
