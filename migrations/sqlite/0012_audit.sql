-- The audit log: records in a chain of hashes, seals over ranges of it, its head, and what was anchored of it. To records is only added; they
-- go only with the range that a seal stands for. docs/AUDIT.md. The twin in migrations/postgres has the same tables and columns.

-- Hashes are SHA-256, 64 hexadecimal digits. `counts` is a JSON array of pairs of name and number. Times are microseconds.
CREATE TABLE audit_records (
    number          INTEGER NOT NULL PRIMARY KEY,
    call_id         TEXT NOT NULL,
    at_us           INTEGER NOT NULL,
    phase           TEXT NOT NULL,
    principal       TEXT NOT NULL,
    peer            TEXT NOT NULL,
    method          TEXT NOT NULL,
    target          TEXT NOT NULL,
    request         TEXT NOT NULL,
    code            TEXT NOT NULL,
    detail          TEXT NOT NULL,
    counts          TEXT NOT NULL,
    previous        TEXT NOT NULL,
    hash            TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_principal ON audit_records (principal, number);
CREATE INDEX audit_by_method ON audit_records (method, number);
CREATE INDEX audit_by_target ON audit_records (target, number);
CREATE INDEX audit_by_time ON audit_records (at_us, number);

-- The newest record. Whoever appends holds this row.
CREATE TABLE audit_head (
    one             INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    number          INTEGER NOT NULL,
    hash            TEXT NOT NULL
) STRICT;
INSERT INTO audit_head (one, number, hash) VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- Closed ranges; `at_us` is the time of the last record, `pruned` is 1 where the records are gone.
CREATE TABLE audit_seals (
    first_number    INTEGER NOT NULL PRIMARY KEY,
    last_number     INTEGER NOT NULL,
    previous        TEXT NOT NULL,
    head            TEXT NOT NULL,
    at_us           INTEGER NOT NULL,
    pruned          INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE audit_anchors (
    number          INTEGER NOT NULL PRIMARY KEY,
    hash            TEXT NOT NULL,
    at_us           INTEGER NOT NULL
) STRICT;

-- Which server seals, removes and anchors, and until when.
CREATE TABLE audit_turn (
    one             INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    holder          TEXT,
    lease_until_ms  INTEGER
) STRICT;
INSERT INTO audit_turn (one) VALUES (1);

-- Against mistakes: whoever can write the file can drop the triggers, and is found by the hashes.
CREATE TRIGGER audit_records_update BEFORE UPDATE ON audit_records BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: UPDATE of audit_records is refused');
END;
CREATE TRIGGER audit_records_delete BEFORE DELETE ON audit_records
    WHEN NOT EXISTS (SELECT 1 FROM audit_seals WHERE pruned = 1 AND OLD.number BETWEEN first_number AND last_number) BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: the record is kept');
END;
CREATE TRIGGER audit_seals_update BEFORE UPDATE ON audit_seals
    WHEN OLD.pruned = 1 OR NEW.pruned <> 1 OR NEW.first_number <> OLD.first_number OR NEW.last_number <> OLD.last_number
        OR NEW.previous <> OLD.previous OR NEW.head <> OLD.head OR NEW.at_us <> OLD.at_us BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: a seal stays as it is');
END;
CREATE TRIGGER audit_seals_delete BEFORE DELETE ON audit_seals BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: DELETE of audit_seals is refused');
END;
CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head WHEN NEW.number <= OLD.number BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: its head does not go back');
END;
CREATE TRIGGER audit_head_delete BEFORE DELETE ON audit_head BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: DELETE of audit_head is refused');
END;
CREATE TRIGGER audit_anchors_update BEFORE UPDATE ON audit_anchors BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: UPDATE of audit_anchors is refused');
END;
CREATE TRIGGER audit_anchors_delete BEFORE DELETE ON audit_anchors BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to: DELETE of audit_anchors is refused');
END;
