//! The chunk: one sealed file with the captured rows of one batch.
//!
//! # Format, version 2
//!
//! The file is one zstd frame. Decompressed:
//!
//! ```text
//! magic      8 bytes  "DBKEEPCH"
//! header     u32 length, then that many bytes of JSON (ChunkHeader)
//! row *      0x01, u16 section, then one value for each column of that section of the header, and one for each changed column
//! end        0x00, u64 number of rows, 32 bytes SHA-256 over everything before the 0x00
//! ```
//!
//! A section is one table and what was done to its rows: deleted, archived, or changed. Sections stand in the order in which the
//! batch worked, children before what they name, so that rows go back from the last section to the first. Rows of different
//! sections may alternate.
//!
//! Integers are little-endian. A value is a tag byte and its data: `n` NULL; `i` i64; `r` the bits of an f64; `t` and `b`
//! u32 length and bytes (text, blob). PostgreSQL values are all `t` or `n`: the text of the type's output function under
//! pinned settings, the form that `pg_dump` writes. The journal in the target keeps the SHA-256 of the whole file, so that
//! a chunk that was truncated, altered or swapped is found before a row of it is used.

use std::io::{self, BufReader, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    model::{ChunkRef, Row, RunId, Value, fence},
    port::{Archive, ArchiveError, ChunkFile, RowSink, SinkError, TableLayout},
};

const MAGIC: &[u8; 8] = b"DBKEEPCH";
const VERSION: u32 = 2;
/// The fastest of zstd's usual levels, since a batch waits for its chunk. Other levels were not compared.
const COMPRESSION_LEVEL: i32 = 1;
/// Content that is held back before it is compressed. Most chunks of a run that others do not feel are smaller: the compressor is told
/// their size, and takes a few pages of memory instead of a megabyte that has to be cleared for each.
const HELD_BACK: usize = 128 << 10;
const ROW: u8 = 1;
const END: u8 = 0;
/// Longest header, value or row count that a reader believes; anything above is damage.
const MAX_LENGTH: u32 = 1 << 30;

/// What a chunk says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHeader {
    /// Always `dbkeep-chunk`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Run that captured the rows.
    pub run: RunId,
    /// Step of its plan.
    pub step: u32,
    /// Batch of that step.
    pub batch: u64,
    /// Tables and what was done to their rows, in the order of the work.
    pub sections: Vec<TableLayout>,
}

/// The captured rows of one table of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The table, and what was done to the rows.
    pub layout: TableLayout,
    /// The rows in the order of the work.
    pub rows: Vec<Row>,
}

/// A chunk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// It is missing, truncated, altered or swapped.
    #[error("{problem}")]
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// The folder cannot be read.
    #[error(transparent)]
    Archive(ArchiveError),
}

/// Counts and hashes what reaches the file.
struct Counted {
    file: Box<dyn ChunkFile>,
    sha256: Sha256,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.sha256.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes one chunk while its batch runs. Dropped unsealed, it leaves nothing that counts.
pub struct ChunkWriter {
    encoder: zstd::Encoder<'static, Counted>,
    content: Sha256,
    /// Content that is not compressed yet.
    held: Vec<u8>,
    /// Whether something is.
    flowing: bool,
    rows: u64,
    sections: u16,
    name: String,
}

impl ChunkWriter {
    /// Begins the chunk of a batch. The name carries the fence, so that an attempt that lost its lease can never write
    /// over a file of its successor.
    ///
    /// # Errors
    /// Where the archive cannot take it.
    pub fn create(
        archive: &dyn Archive,
        run: RunId,
        fence: u64,
        step: u32,
        batch: u64,
        sections: Vec<TableLayout>,
    ) -> Result<Self, SinkError> {
        let count = u16::try_from(sections.len()).map_err(|_| io::Error::other("a batch reaches over 65,535 tables"))?;
        let name = format!("step{step:03}-batch{batch:08}-attempt{}.chunk", fence::name(fence));
        let file = archive.create(run, &name).map_err(io::Error::other)?;
        let encoder = zstd::Encoder::new(
            Counted {
                file,
                sha256: Sha256::new(),
                bytes: 0,
            },
            COMPRESSION_LEVEL,
        )?;
        let mut writer = Self {
            encoder,
            content: Sha256::new(),
            held: Vec::new(),
            flowing: false,
            rows: 0,
            sections: count,
            name,
        };
        let header = ChunkHeader {
            format: "dbkeep-chunk".to_owned(),
            version: VERSION,
            run,
            step,
            batch,
            sections,
        };
        let json = serde_json::to_vec(&header).map_err(io::Error::other)?;
        writer.held.extend_from_slice(MAGIC);
        put_bytes(&mut writer.held, &json)?;
        Ok(writer)
    }

    /// Rows taken so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compresses what is held, where that is enough.
    fn pass_on(&mut self) -> io::Result<()> {
        if self.held.len() < HELD_BACK {
            return Ok(());
        }
        self.flowing = true;
        self.content.update(&self.held);
        self.encoder.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }

    /// Ends the chunk and makes it durable. Blocks on the disk.
    ///
    /// # Errors
    /// Where the disk refuses; the chunk must then be given up, not sealed again.
    pub fn seal(mut self) -> Result<ChunkRef, SinkError> {
        self.content.update(&self.held);
        self.held.push(END);
        self.held.extend_from_slice(&self.rows.to_le_bytes());
        self.held.extend_from_slice(&self.content.finalize());
        if !self.flowing {
            self.encoder.set_pledged_src_size(Some(self.held.len() as u64))?;
        }
        self.encoder.write_all(&self.held)?;
        let counted = self.encoder.finish()?;
        counted.file.seal().map_err(|error| match error {
            ArchiveError::Io { source, .. } => SinkError(source),
            missing @ ArchiveError::Missing { .. } => SinkError(io::Error::other(missing)),
        })?;
        Ok(ChunkRef {
            file: self.name,
            rows: self.rows,
            bytes: counted.bytes,
            sha256: hex::encode(counted.sha256.finalize()),
        })
    }
}

impl RowSink for ChunkWriter {
    /// Takes a row of the first section.
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        self.write(0, values)
    }
}

impl ChunkWriter {
    /// Takes a row of a section.
    ///
    /// # Errors
    /// Where the section does not exist or the disk refuses; the chunk must then be given up.
    pub fn write(&mut self, section: usize, values: &[Value]) -> Result<(), SinkError> {
        let number = u16::try_from(section).ok().filter(|number| *number < self.sections);
        let number = number.ok_or_else(|| io::Error::other(format!("the chunk has no section {section}")))?;
        self.held.push(ROW);
        self.held.extend_from_slice(&number.to_le_bytes());
        for value in values {
            match value {
                Value::Null => self.held.push(b'n'),
                Value::Integer(number) => {
                    self.held.push(b'i');
                    self.held.extend_from_slice(&number.to_le_bytes());
                }
                Value::Real(number) => {
                    self.held.push(b'r');
                    self.held.extend_from_slice(&number.to_bits().to_le_bytes());
                }
                Value::Text(bytes) => {
                    self.held.push(b't');
                    put_bytes(&mut self.held, bytes)?;
                }
                Value::Blob(bytes) => {
                    self.held.push(b'b');
                    put_bytes(&mut self.held, bytes)?;
                }
            }
        }
        self.rows += 1;
        Ok(self.pass_on()?)
    }
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_LENGTH);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a value of over 1 GiB cannot be captured"))?;
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(bytes);
    Ok(())
}

/// Hashes what is read from a file.
struct Hashed<R> {
    inner: R,
    sha256: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

fn damaged(problem: impl Into<String>) -> ChunkError {
    ChunkError::Damaged { problem: problem.into() }
}

fn unreadable(error: &io::Error) -> ChunkError {
    damaged(format!("cannot be decoded: {error}"))
}

/// Reads a whole chunk and checks it against what the journal says of it: file checksum, size, content checksum, row count
/// and place. A chunk holds one batch, so that memory is bounded by the batch size. Blocks on the disk.
///
/// # Errors
/// [`ChunkError::Damaged`] with what is wrong, before any row is handed out.
pub fn read_chunk(
    archive: &dyn Archive,
    run: RunId,
    step: u32,
    batch: u64,
    chunk: &ChunkRef,
) -> Result<Vec<Section>, ChunkError> {
    let file = archive.open(run, &chunk.file).map_err(|error| match error {
        ArchiveError::Missing { .. } => damaged("the file is missing"),
        other @ ArchiveError::Io { .. } => ChunkError::Archive(other),
    })?;
    let mut file = Hashed {
        inner: file,
        sha256: Sha256::new(),
        bytes: 0,
    };
    let decoded = decode(&mut file);
    // What follows the frame belongs to the file too, and must be nothing.
    let mut rest = [0_u8; 8192];
    loop {
        match file.read(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(source) => {
                return Err(ChunkError::Archive(ArchiveError::Io {
                    path: chunk.file.clone(),
                    source,
                }));
            }
        }
    }
    if file.bytes != chunk.bytes {
        return Err(damaged(format!("has {} bytes, the journal says {}", file.bytes, chunk.bytes)));
    }
    if hex::encode(file.sha256.finalize()) != chunk.sha256 {
        return Err(damaged("its SHA-256 differs from the journal's"));
    }
    let (header, rows) = decoded?;
    let count = rows.iter().map(Vec::len).sum::<usize>() as u64;
    if (header.run, header.step, header.batch) != (run, step, batch) {
        return Err(damaged("it belongs to another batch"));
    }
    if count != chunk.rows {
        return Err(damaged(format!("has {count} rows, the journal says {}", chunk.rows)));
    }
    let sections = header.sections.into_iter().zip(rows);
    Ok(sections.map(|(layout, rows)| Section { layout, rows }).collect())
}

/// Reads a chunk without what the journal says of it, for when the target is not there to be asked: content checksum and row count are
/// checked, and that nothing follows; whether its batch was committed cannot be told. Blocks on the disk.
///
/// # Errors
/// [`ChunkError::Damaged`] with what is wrong, before any row is handed out.
pub fn read_alone(mut file: impl Read) -> Result<(ChunkHeader, Vec<Section>), ChunkError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    // The decoder reads ahead and would not tell what it left over.
    match zstd::zstd_safe::find_frame_compressed_size(&bytes) {
        Ok(length) if length == bytes.len() => {
            let (header, rows) = decode(&bytes[..])?;
            let sections = header.sections.iter().cloned().zip(rows);
            let sections = sections.map(|(layout, rows)| Section { layout, rows }).collect();
            Ok((header, sections))
        }
        Ok(_) => Err(damaged("something follows its end")),
        Err(code) => Err(damaged(format!(
            "cannot be decoded: {}",
            zstd::zstd_safe::get_error_name(code)
        ))),
    }
}

/// The header, and the rows of each of its sections.
fn decode(file: impl Read) -> Result<(ChunkHeader, Vec<Vec<Row>>), ChunkError> {
    let decoder = zstd::Decoder::new(file).map_err(|error| unreadable(&error))?;
    let mut content = Hashed {
        inner: BufReader::with_capacity(64 * 1024, decoder),
        sha256: Sha256::new(),
        bytes: 0,
    };
    let mut magic = [0_u8; 8];
    content.read_exact(&mut magic).map_err(|error| unreadable(&error))?;
    if &magic != MAGIC {
        return Err(damaged("it does not begin as a chunk does"));
    }
    let json = get_bytes(&mut content).map_err(|error| unreadable(&error))?;
    let header: ChunkHeader =
        serde_json::from_slice(&json).map_err(|error| damaged(format!("its header cannot be read: {error}")))?;
    if header.version != VERSION {
        return Err(damaged(format!(
            "has format version {}, this version reads {VERSION}",
            header.version
        )));
    }
    let widths: Vec<usize> = header.sections.iter().map(TableLayout::width).collect();
    let mut rows = vec![Vec::new(); widths.len()];
    let mut count = 0_u64;
    loop {
        let expected = content.sha256.clone();
        let mut tag = [0_u8; 1];
        content.read_exact(&mut tag).map_err(|error| unreadable(&error))?;
        match tag[0] {
            ROW => {
                let mut section = [0_u8; 2];
                content.read_exact(&mut section).map_err(|error| unreadable(&error))?;
                let section = usize::from(u16::from_le_bytes(section));
                let Some(width) = widths.get(section) else {
                    return Err(damaged(format!(
                        "has a row of section {section}, which its header does not know"
                    )));
                };
                let row = (0..*width).map(|_| get_value(&mut content)).collect::<io::Result<Row>>();
                rows[section].push(row.map_err(|error| unreadable(&error))?);
                count += 1;
            }
            END => {
                let (mut counted, mut sha256) = ([0_u8; 8], [0_u8; 32]);
                content
                    .read_exact(&mut counted)
                    .and_then(|()| content.read_exact(&mut sha256))
                    .map_err(|error| unreadable(&error))?;
                if u64::from_le_bytes(counted) != count || sha256[..] != expected.finalize()[..] {
                    return Err(damaged("its content differs from its own checksum"));
                }
                if content.read(&mut tag).map_err(|error| unreadable(&error))? > 0 {
                    return Err(damaged("something follows its end"));
                }
                return Ok((header, rows));
            }
            other => return Err(damaged(format!("has an unknown record {other}"))),
        }
    }
}

fn get_value(content: &mut impl Read) -> io::Result<Value> {
    let mut tag = [0_u8; 1];
    content.read_exact(&mut tag)?;
    let mut eight = [0_u8; 8];
    Ok(match tag[0] {
        b'n' => Value::Null,
        b'i' => {
            content.read_exact(&mut eight)?;
            Value::Integer(i64::from_le_bytes(eight))
        }
        b'r' => {
            content.read_exact(&mut eight)?;
            Value::Real(f64::from_bits(u64::from_le_bytes(eight)))
        }
        b't' => Value::Text(get_bytes(content)?),
        b'b' => Value::Blob(get_bytes(content)?),
        other => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unknown value tag {other}"),
            ));
        }
    })
}

fn get_bytes(content: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0_u8; 4];
    content.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a length is out of bounds"));
    }
    // Grown while it is read, so that a damaged length cannot take a gigabyte of memory.
    let mut bytes = Vec::new();
    if content.take(u64::from(length)).read_to_end(&mut bytes)? as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{model::TableName, port::Captured, testing::MemoryArchive};

    fn layout(columns: usize) -> TableLayout {
        TableLayout {
            captured: Captured::Deleted,
            table: TableName::parse("app.t"),
            columns: (0..columns)
                .map(|position| (format!("c{position}"), "text".to_owned()))
                .collect(),
            row_key: vec!["c0".to_owned()],
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits & !(0x7ff << 52)))),
            any::<Vec<u8>>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ]
    }

    fn write(archive: &MemoryArchive, run: RunId, columns: usize, rows: &[Row]) -> ChunkRef {
        let mut writer = ChunkWriter::create(archive, run, 1, 0, 1, vec![layout(columns)]).expect("a chunk");
        for row in rows {
            writer.row(row).expect("a row");
        }
        writer.seal().expect("sealed")
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_went(rows in proptest::collection::vec(proptest::collection::vec(any_value(), 3), 0..40)) {
            let archive = MemoryArchive::default();
            let run = RunId::new();
            let chunk = write(&archive, run, 3, &rows);
            let read = read_chunk(&archive, run, 0, 1, &chunk).expect("readable");
            prop_assert_eq!(read, vec![Section { layout: layout(3), rows }]);
        }

        #[test]
        fn every_flipped_bit_and_every_truncation_is_found(position in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let archive = MemoryArchive::default();
            let run = RunId::new();
            let rows = vec![vec![Value::Text(b"x".repeat(40)), Value::Integer(7)]; 20];
            let chunk = write(&archive, run, 2, &rows);
            let whole = archive.contents(run, &chunk.file).expect("contents");
            let position = position.index(whole.len());
            let mut flipped = whole.clone();
            flipped[position] ^= 1 << bit;
            for altered in [flipped, whole[..position].to_vec()] {
                archive.replace(run, &chunk.file, altered);
                let result = read_chunk(&archive, run, 0, 1, &chunk);
                prop_assert!(matches!(result, Err(ChunkError::Damaged { .. })), "{:?}", result);
            }
        }
    }

    #[test]
    fn a_chunk_that_is_not_held_back_whole_comes_back() {
        let archive = MemoryArchive::default();
        let run = RunId::new();
        let rows: Vec<Row> = (0..40_i64)
            .map(|number| {
                vec![
                    Value::Blob(number.to_le_bytes().repeat(HELD_BACK / 64)),
                    Value::Integer(number),
                ]
            })
            .collect();
        let chunk = write(&archive, run, 2, &rows);
        let read = read_chunk(&archive, run, 0, 1, &chunk).expect("readable");
        assert_eq!(read[0].rows, rows);
        let whole = archive.contents(run, &chunk.file).expect("contents");
        assert_eq!(read_alone(&whole[..]).expect("readable").1[0].rows, rows);
    }

    #[test]
    fn a_chunk_can_be_read_alone_and_damage_is_found() {
        let archive = MemoryArchive::default();
        let run = RunId::new();
        let rows = vec![vec![Value::Text(b"x".repeat(40)), Value::Integer(7)]; 20];
        let chunk = write(&archive, run, 2, &rows);
        let whole = archive.contents(run, &chunk.file).expect("contents");
        let (header, read) = read_alone(&whole[..]).expect("readable");
        assert_eq!((header.run, header.batch, read[0].rows.as_slice()), (run, 1, rows.as_slice()));
        for length in 0..whole.len() {
            assert!(
                matches!(read_alone(&whole[..length]), Err(ChunkError::Damaged { .. })),
                "cut at {length}"
            );
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(matches!(read_alone(&longer[..]), Err(ChunkError::Damaged { problem }) if problem.contains("follows")));
    }

    #[test]
    fn a_swapped_or_missing_chunk_is_found() {
        let archive = MemoryArchive::default();
        let run = RunId::new();
        let chunk = write(&archive, run, 1, &[vec![Value::Integer(1)]]);
        assert!(
            matches!(read_chunk(&archive, run, 0, 2, &chunk), Err(ChunkError::Damaged { problem }) if problem.contains("another batch"))
        );
        archive.remove(run, &chunk.file).expect("removed");
        assert!(
            matches!(read_chunk(&archive, run, 0, 1, &chunk), Err(ChunkError::Damaged { problem }) if problem.contains("missing"))
        );
    }
}
