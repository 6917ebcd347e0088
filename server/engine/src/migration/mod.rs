//! Migrations before anything is executed: what a folder holds, in which order, and what it will do. Pure; executed by [`crate::run`].
//!
//! ```text
//! port::MigrationFolder -> source (layout, scripts) -> graph (order) -> standing (ledger) -> plan (impact, risk) -> run
//! ```
