-- Who fired a slot by hand; and what SQLite's REPLACE would put over the audit log: it removes rows without asking the triggers of a removal.
-- The twin in migrations/postgres has the same columns; there a conflict that is resolved is an UPDATE, which its triggers refuse.

ALTER TABLE schedule_slots ADD COLUMN fired_by TEXT NOT NULL DEFAULT '';

CREATE TRIGGER audit_records_insert BEFORE INSERT ON audit_records
    WHEN EXISTS (SELECT 1 FROM audit_records WHERE number = NEW.number) BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: the record is kept');
END;
CREATE TRIGGER audit_seals_insert BEFORE INSERT ON audit_seals
    WHEN EXISTS (SELECT 1 FROM audit_seals WHERE first_number = NEW.first_number) BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: a seal stays as it is');
END;
CREATE TRIGGER audit_head_insert BEFORE INSERT ON audit_head WHEN EXISTS (SELECT 1 FROM audit_head WHERE one = NEW.one) BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: its head does not go back');
END;
-- The same head may be anchored twice: the first stays.
CREATE TRIGGER audit_anchors_insert BEFORE INSERT ON audit_anchors
    WHEN EXISTS (SELECT 1 FROM audit_anchors WHERE number = NEW.number) BEGIN
    SELECT RAISE(IGNORE);
END;
