//! Backups of captured rows: the chunk format. Where chunks lie is the archive port's business, which of them count is
//! the journal's. And what keeps a backup, of whatever kind, from being removed.

pub mod chunk;
pub mod keep;

pub use chunk::{ChunkError, ChunkHeader, ChunkWriter, Section, read_alone, read_chunk};
