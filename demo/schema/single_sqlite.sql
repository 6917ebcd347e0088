-- Three tables for benchmarks, on SQLite: one kind of orphan, one kind of expired row, few columns and the fewest keys, so
-- that a figure says something about the engine and not about the schema. Sections and encodings of time are those of
-- sqlite.sql.

-- section: tables

CREATE TABLE users (
    id    TEXT PRIMARY KEY NOT NULL,
    email TEXT NOT NULL
);

CREATE TABLE user_progress (
    id         TEXT PRIMARY KEY NOT NULL,
    user_id    TEXT,
    lesson_id  TEXT,
    status     TEXT NOT NULL,
    updated_at TEXT
);

CREATE TABLE api_logs (
    id         INTEGER PRIMARY KEY,
    created_at INTEGER,
    level      TEXT NOT NULL,
    path       TEXT NOT NULL,
    payload    TEXT
);

-- section: keys

CREATE INDEX user_progress_user ON user_progress (user_id);
CREATE INDEX api_logs_created ON api_logs (created_at);
