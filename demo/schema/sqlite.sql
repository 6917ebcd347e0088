-- The learning platform's schema for SQLite 3.35 and later.
--
-- The generator runs this file in sections, each opened by a line `-- section: NAME`:
--   tables  before the rows are inserted. SQLite takes foreign keys only inside CREATE TABLE, so those that exist only with
--           `--declared-keys` stand in comments of the form /*declared .. declared*/, from which the generator frees them.
--   keys    after the rows: indexes, since building an index once beats feeding it row by row
--
-- Time is encoded in two ways on this side, as in many real schemas:
--   TEXT     'YYYY-MM-DD HH:MM:SS' in UTC, everywhere except in the next line. Nothing in the text says that it is UTC;
--            only the catalog does.
--   INTEGER  seconds since 1970-01-01 UTC, in api_logs.created_at.
--
-- Columns that name another table are nullable: a NULL key names nothing and is never an orphan. So are the times that
-- operations look at: a NULL time never expires.

-- section: tables

CREATE TABLE users (
    id            TEXT PRIMARY KEY NOT NULL,
    email         TEXT NOT NULL,
    name          TEXT NOT NULL,
    role          TEXT NOT NULL,
    status        TEXT NOT NULL,
    avatar        TEXT,
    created_at    TEXT NOT NULL,
    updated_at    TEXT NOT NULL,
    last_login_at TEXT,
    suspended_at  TEXT,
    CONSTRAINT users_status CHECK (status IN ('ACTIVE', 'INACTIVE', 'SUSPENDED', 'DELETED'))
);

CREATE TABLE courses (
    id         TEXT PRIMARY KEY NOT NULL,
    title      TEXT NOT NULL,
    thumbnail  TEXT,
    created_at TEXT NOT NULL
);

-- The only key that the platform declares; no operation deletes courses.
CREATE TABLE lessons (
    id         TEXT PRIMARY KEY NOT NULL,
    course_id  TEXT NOT NULL REFERENCES courses (id) ON DELETE RESTRICT,
    title      TEXT NOT NULL,
    content    TEXT NOT NULL,
    attachment TEXT,
    created_at TEXT NOT NULL
);

-- Both columns name lessons: lesson_id may be taken after prerequisite_id. WITHOUT ROWID, as join tables often are.
CREATE TABLE lesson_prerequisites (
    lesson_id       TEXT NOT NULL,
    prerequisite_id TEXT NOT NULL,
    PRIMARY KEY (lesson_id, prerequisite_id)
) WITHOUT ROWID;

CREATE TABLE achievements (
    id        TEXT PRIMARY KEY NOT NULL,
    title     TEXT NOT NULL,
    course_id TEXT
);

CREATE TABLE user_achievements (
    id             TEXT PRIMARY KEY NOT NULL,
    user_id        TEXT,
    achievement_id TEXT /*declared REFERENCES achievements (id) ON DELETE CASCADE declared*/,
    title          TEXT NOT NULL,
    earned_at      TEXT
);

CREATE TABLE user_progress (
    id         TEXT PRIMARY KEY NOT NULL,
    user_id    TEXT,
    lesson_id  TEXT,
    course_id  TEXT,
    status     TEXT NOT NULL,
    score      INTEGER,
    updated_at TEXT
);

CREATE TABLE leaderboard_entries (
    id         TEXT PRIMARY KEY NOT NULL,
    user_id    TEXT,
    category   TEXT NOT NULL,
    score      REAL NOT NULL,
    updated_at TEXT
);

CREATE TABLE refresh_tokens (
    id         TEXT PRIMARY KEY NOT NULL,
    user_id    TEXT /*declared REFERENCES users (id) ON DELETE CASCADE declared*/,
    expires_at TEXT
);

CREATE TABLE user_sessions (
    id         TEXT PRIMARY KEY NOT NULL,
    user_id    TEXT /*declared REFERENCES users (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED declared*/,
    expires_at TEXT
);

CREATE TABLE password_reset_tokens (
    id         TEXT PRIMARY KEY NOT NULL,
    email      TEXT NOT NULL,
    expires_at TEXT
);

-- created_at counts seconds since 1970-01-01 UTC.
CREATE TABLE api_logs (
    id         INTEGER PRIMARY KEY,
    created_at INTEGER,
    level      TEXT NOT NULL,
    path       TEXT NOT NULL,
    payload    TEXT
);

-- session_id says in which session the error was met, where there was one.
CREATE TABLE error_logs (
    id         INTEGER PRIMARY KEY,
    created_at TEXT,
    error_type TEXT NOT NULL,
    session_id TEXT /*declared REFERENCES user_sessions (id) ON DELETE SET NULL declared*/,
    payload    TEXT
);

CREATE TABLE audit_logs (
    id         INTEGER PRIMARY KEY,
    created_at TEXT,
    action     TEXT NOT NULL,
    payload    TEXT
);

CREATE TABLE cache_entries (
    cache_key  TEXT PRIMARY KEY NOT NULL,
    value      TEXT NOT NULL,
    expires_at TEXT
);

CREATE TABLE archived_users (
    id            TEXT PRIMARY KEY NOT NULL,
    email         TEXT NOT NULL,
    name          TEXT NOT NULL,
    role          TEXT NOT NULL,
    status        TEXT NOT NULL,
    avatar        TEXT,
    created_at    TEXT NOT NULL,
    updated_at    TEXT NOT NULL,
    last_login_at TEXT,
    suspended_at  TEXT,
    archived_at   TEXT NOT NULL
);

-- section: keys

CREATE UNIQUE INDEX users_email ON users (email);
CREATE INDEX lessons_course ON lessons (course_id);
CREATE INDEX lesson_prerequisites_prerequisite ON lesson_prerequisites (prerequisite_id);
CREATE INDEX achievements_course ON achievements (course_id);
CREATE INDEX user_achievements_user ON user_achievements (user_id);
CREATE INDEX user_achievements_achievement ON user_achievements (achievement_id);
CREATE INDEX user_progress_user ON user_progress (user_id);
CREATE INDEX user_progress_lesson ON user_progress (lesson_id);
CREATE INDEX user_progress_course ON user_progress (course_id);
CREATE INDEX leaderboard_entries_user_category ON leaderboard_entries (user_id, category);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);
CREATE INDEX user_sessions_user ON user_sessions (user_id);
CREATE INDEX user_sessions_expires ON user_sessions (expires_at);
CREATE INDEX password_reset_tokens_email ON password_reset_tokens (email);
CREATE INDEX password_reset_tokens_expires ON password_reset_tokens (expires_at);
CREATE INDEX api_logs_created ON api_logs (created_at);
CREATE INDEX error_logs_created ON error_logs (created_at);
CREATE INDEX error_logs_session ON error_logs (session_id);
CREATE INDEX audit_logs_created ON audit_logs (created_at);
CREATE INDEX cache_entries_expires ON cache_entries (expires_at);
-- Without them the question whether a file is still named reads the whole table.
CREATE INDEX users_avatar ON users (avatar);
CREATE INDEX courses_thumbnail ON courses (thumbnail);
CREATE INDEX lessons_attachment ON lessons (attachment);
