//! Backups of captured rows: the chunk format. Where chunks lie is the archive port's business, which of them count is
//! the journal's.

pub mod chunk;

pub use chunk::{ChunkError, ChunkHeader, ChunkWriter, Section, read_alone, read_chunk};
