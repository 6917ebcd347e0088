-- Three tables for benchmarks, on PostgreSQL: one kind of orphan, one kind of expired row, few columns and the fewest keys, so
-- that a figure says something about the engine and not about the schema. Sections and encodings of time are those of
-- postgres.sql.

-- section: tables

CREATE TABLE users (
    id    text NOT NULL,
    email text NOT NULL
);

CREATE TABLE user_progress (
    id         text NOT NULL,
    user_id    text,
    lesson_id  text,
    status     text NOT NULL,
    updated_at timestamptz
);

CREATE TABLE api_logs (
    id         bigint NOT NULL,
    created_at timestamptz,
    level      text NOT NULL,
    path       text NOT NULL,
    payload    text
);

-- section: keys

ALTER TABLE users ADD PRIMARY KEY (id);
ALTER TABLE user_progress ADD PRIMARY KEY (id);
ALTER TABLE api_logs ADD PRIMARY KEY (id);

CREATE INDEX user_progress_user ON user_progress (user_id);
CREATE INDEX api_logs_created ON api_logs (created_at);
