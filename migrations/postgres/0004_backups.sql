-- Removal of backups: when it was decided, from when on nobody may use the backup, and whether all of it is gone.
ALTER TABLE runs ADD COLUMN pruned_ms BIGINT;
ALTER TABLE runs ADD COLUMN prune_complete BIGINT NOT NULL DEFAULT 0;

-- Backups of whole tables stand beside captured rows.
DROP INDEX runs_with_backup;
CREATE INDEX runs_with_backup ON runs (id) WHERE captured_rows > 0 OR (kind = 'backup' AND state = 'succeeded');
-- The runs about a backup, asked for before it goes.
CREATE INDEX runs_about ON runs (source_id) WHERE source_id IS NOT NULL;
