//! In-memory adapters for tests, which pass the same conformance suites as the real ones, and folders of migrations.

mod archive;
pub mod migrations;

pub use archive::MemoryArchive;
