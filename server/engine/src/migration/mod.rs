//! Migrations before anything is executed: what a folder holds, in which order, and what it will do. Pure; executed by [`crate::run`].
//!
//! ```text
//! port::MigrationFolder -> source (layout, scripts) -> graph (order) -> standing (ledger) -> plan (impact, risk) -> run
//! ```

pub mod draft;
pub mod graph;
pub mod metadata;
pub mod plan;
pub mod risk;
pub mod source;
pub mod standing;
pub mod statement;
pub mod version;
