-- Of which database a proof is: a target's name may come to mean another one. A proof of which nobody knows that counts for none.
ALTER TABLE migration_proofs ADD COLUMN database_id TEXT NOT NULL DEFAULT '';
-- Where that database lies, as its server knows it; empty where it is a file.
ALTER TABLE migration_proofs ADD COLUMN database_place TEXT NOT NULL DEFAULT '';
