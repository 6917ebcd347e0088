//! In-memory adapters for tests. They pass the same conformance suites as the real ones.

mod archive;

pub use archive::MemoryArchive;
