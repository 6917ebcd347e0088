-- dbkeep: depends-on = 3, 4_users
-- dbkeep: estimated-duration = 2m
-- dbkeep: lock-timeout = 5s
-- dbkeep: check-before = SELECT 1
CREATE TABLE t (id int, "we;ird" text DEFAULT 'a''b;c');
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END $body$;
CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END;
/* a /* nested */ one; */ INSERT INTO t VALUES (1, E'\'');
