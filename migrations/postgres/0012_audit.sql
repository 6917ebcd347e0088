-- The audit log: records in a chain of hashes, seals over ranges of it, its head, and what was anchored of it. To records is only added; they
-- go only with the range that a seal stands for. docs/AUDIT.md. The twin in migrations/sqlite has the same tables and columns.

-- Hashes are SHA-256, 64 hexadecimal digits. `counts` is a JSON array of pairs of name and number. Times are microseconds.
CREATE TABLE audit_records (
    number          BIGINT NOT NULL PRIMARY KEY,
    call_id         TEXT NOT NULL,
    at_us           BIGINT NOT NULL,
    phase           TEXT NOT NULL,
    principal       TEXT COLLATE "C" NOT NULL,
    peer            TEXT NOT NULL,
    method          TEXT COLLATE "C" NOT NULL,
    target          TEXT COLLATE "C" NOT NULL,
    request         TEXT NOT NULL,
    code            TEXT NOT NULL,
    detail          TEXT NOT NULL,
    counts          TEXT NOT NULL,
    previous        TEXT NOT NULL,
    hash            TEXT NOT NULL
);
CREATE INDEX audit_by_principal ON audit_records (principal, number);
CREATE INDEX audit_by_method ON audit_records (method, number);
CREATE INDEX audit_by_target ON audit_records (target, number);
CREATE INDEX audit_by_time ON audit_records (at_us, number);

-- The newest record. Whoever appends holds this row.
CREATE TABLE audit_head (
    one             BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    number          BIGINT NOT NULL,
    hash            TEXT NOT NULL
);
INSERT INTO audit_head (one, number, hash) VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- Closed ranges; `at_us` is the time of the last record, `pruned` is 1 where the records are gone.
CREATE TABLE audit_seals (
    first_number    BIGINT NOT NULL PRIMARY KEY,
    last_number     BIGINT NOT NULL,
    previous        TEXT NOT NULL,
    head            TEXT NOT NULL,
    at_us           BIGINT NOT NULL,
    pruned          BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE audit_anchors (
    number          BIGINT NOT NULL PRIMARY KEY,
    hash            TEXT NOT NULL,
    at_us           BIGINT NOT NULL
);

-- Which server seals, removes and anchors, and until when.
CREATE TABLE audit_turn (
    one             BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    holder          TEXT,
    lease_until_ms  BIGINT
);
INSERT INTO audit_turn (one) VALUES (1);

-- Against mistakes: whoever owns the tables can drop the triggers, and is found by the hashes.
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to: % of % is refused', TG_OP, TG_TABLE_NAME;
END $$;
CREATE FUNCTION audit_refuse_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = dbkeep_control AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM audit_seals WHERE pruned = 1 AND OLD.number BETWEEN first_number AND last_number) THEN
        RAISE EXCEPTION 'the audit log is only added to: record % is kept', OLD.number;
    END IF;
    RETURN OLD;
END $$;
CREATE FUNCTION audit_refuse_unsealing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.pruned = 1 OR NEW.pruned <> 1 OR ROW (NEW.first_number, NEW.last_number, NEW.previous, NEW.head, NEW.at_us)
        IS DISTINCT FROM ROW (OLD.first_number, OLD.last_number, OLD.previous, OLD.head, OLD.at_us) THEN
        RAISE EXCEPTION 'the audit log is only added to: a seal stays as it is';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION audit_refuse_going_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number <= OLD.number THEN
        RAISE EXCEPTION 'the audit log is only added to: its head does not go back';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_records_update BEFORE UPDATE OR TRUNCATE ON audit_records FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_records_delete BEFORE DELETE ON audit_records FOR EACH ROW EXECUTE FUNCTION audit_refuse_kept();
CREATE TRIGGER audit_seals_update BEFORE UPDATE ON audit_seals FOR EACH ROW EXECUTE FUNCTION audit_refuse_unsealing();
CREATE TRIGGER audit_seals_delete BEFORE DELETE OR TRUNCATE ON audit_seals FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head FOR EACH ROW EXECUTE FUNCTION audit_refuse_going_back();
CREATE TRIGGER audit_head_delete BEFORE DELETE OR TRUNCATE ON audit_head FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_anchors_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_anchors FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
