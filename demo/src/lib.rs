//! The learning platform as a database to try dbkeep on.
//!
//! This library owns the platform's schema for PostgreSQL and SQLite ([`schema`]), a generator that fills it with a known
//! number of orphaned and expired rows ([`generate`], [`single_table`]), what the generator knows about them
//! ([`GroundTruth`]), and fingerprints of whole tables that show whether an undo brought everything back
//! ([`table_hashes`]). The demonstration, the end-to-end tests and the benchmarks call it.
//!
//! But for [`playground`], which serves such a database for examples, it deliberately imports nothing of dbkeep: the truth that
//! dbkeep is measured by must not come out of dbkeep.

mod database;
mod generate;
mod hashes;
mod playground;
pub mod schema;
mod truth;

pub use generate::{GenerateOptions, drop_tables, generate, generate_files, single_table};
pub use hashes::{folder_hash, table_hashes, trashed};
pub use playground::{Playground, playground};
pub use truth::{GroundTruth, OperationTruth, RuleTruth, SingleTableTruth};

/// The catalog of the learning platform's operations, as TOML; the rule names in a [`GroundTruth`] are those in it.
pub const CATALOG: &str = include_str!("../../catalogs/learning-platform.toml");
