-- A role that sees all that dbkeep shows of a PostgreSQL database's health, and reads no row of any table.
-- Run it as a superuser, in each database that is looked at. Give the role a password, or a line in pg_hba.conf, as you do for others.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'dbkeep_monitor') THEN
    CREATE ROLE dbkeep_monitor LOGIN CONNECTION LIMIT 4;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO dbkeep_monitor', current_database());
END
$$;

-- What sessions do, replicas, files of the write-ahead log, statements of others, pgstattuple.
GRANT pg_monitor TO dbkeep_monitor;

-- How wide columns are on average, for the estimates of free space: five columns of the table behind pg_stats, of which none holds a
-- value. (pg_stats itself shows a role only the columns of tables that it may read.)
GRANT SELECT (starelid, staattnum, stainherit, stanullfrac, stawidth) ON pg_catalog.pg_statistic TO dbkeep_monitor;

-- For the statements that take the most time, and for measured free space:
--   CREATE EXTENSION IF NOT EXISTS pg_stat_statements;   -- and put it into shared_preload_libraries, which takes a restart
--   CREATE EXTENSION IF NOT EXISTS pgstattuple;
-- Only an exact count of rows reads tables:
--   GRANT SELECT ON ALL TABLES IN SCHEMA public TO dbkeep_monitor;
