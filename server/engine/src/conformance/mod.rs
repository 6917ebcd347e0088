//! One suite per port, run against every adapter and every fake.

pub mod archive;
pub mod migrator;
pub mod store;
pub mod target;
pub mod values;
