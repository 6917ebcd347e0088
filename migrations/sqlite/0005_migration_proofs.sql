-- What rehearsals found out about down scripts. The checksums say which scripts it was: a changed file has no proof.
CREATE TABLE migration_proofs (
  target TEXT NOT NULL,
  migration_id TEXT NOT NULL,
  up_sha256 TEXT NOT NULL,
  down_sha256 TEXT NOT NULL,
  restored INTEGER NOT NULL,
  up_ms INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  PRIMARY KEY (target, migration_id, up_sha256, down_sha256)
);
