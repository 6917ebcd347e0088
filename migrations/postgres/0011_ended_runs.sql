-- How many runs have ended, by target, kind and state, is counted for /metrics at every scrape. The twin in migrations/sqlite has the same index.

CREATE INDEX runs_ended ON runs (target, kind, state) WHERE state IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled');
