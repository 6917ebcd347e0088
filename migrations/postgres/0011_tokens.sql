-- Bearer tokens: what is kept of each. The secret itself is nowhere; sha256 is that of id and secret. Those that were revoked stay, so that
-- records which name them keep their meaning. The twin in migrations/sqlite has the same columns.

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    role TEXT NOT NULL,
    -- A JSON list of targets; NULL for all of them.
    targets TEXT,
    created_by TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT
);

-- A name is one principal: nobody else gets it while its token is not revoked.
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at_ms IS NULL;
