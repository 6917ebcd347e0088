//! Mutated input for everything that reads what others wrote: catalogs, cron expressions, migrations, chunks, the audit log, and names in
//! SQL. Owns the targets (`target/`), the mutations (`mutate`), and the loop that runs them from a seed (`hunt`). Called by `cargo fuzz-db`.
//! Why it is neither libFuzzer nor AFL: docs/adr/0020-fuzzing-without-coverage.md.

pub mod hunt;
pub mod mutate;
pub mod target;
