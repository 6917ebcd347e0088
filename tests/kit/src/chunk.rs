//! Reads captured rows by the documented chunk format alone (`docs/CHUNK_FORMAT.md`). A second, independent reader: it shows that
//! a backup can be used without dbkeep, and it judges what dbkeep wrote.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// The rows of one table in a chunk, as text (SQL NULL as `None`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name of the table, without its schema.
    pub table: String,
    /// What was done to the rows: "deleted", "archived" or "changed".
    pub effect: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Columns whose new values stand behind the old ones.
    pub changed: Vec<String>,
    /// Rows; integers and reals in decimal, blobs in hexadecimal.
    pub rows: Vec<Vec<Option<String>>>,
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its tables in the order of the work.
    pub sections: Vec<Section>,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        ensure!(self.0.len() >= length, "the chunk ends early");
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    fn eight(&mut self) -> Result<[u8; 8]> {
        Ok(self.take(8)?.try_into()?)
    }

    fn framed(&mut self) -> Result<&'a [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into()?);
        self.take(usize::try_from(length)?)
    }
}

fn section(header: &serde_json::Value) -> Result<Section> {
    let name = |name: &serde_json::Value| Ok(name.as_str().context("a name")?.to_owned());
    let columns = header["columns"].as_array().context("columns")?;
    let changed = header["changed"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Section {
        table: name(&header["table"]["name"])?,
        effect: name(&header["effect"])?,
        columns: columns.iter().map(|column| name(&column[0])).collect::<Result<_>>()?,
        changed: changed.iter().map(name).collect::<Result<_>>()?,
        rows: Vec::new(),
    })
}

/// Reads one chunk file.
///
/// # Errors
/// Where the file differs from the format in any way.
pub fn read(path: &Path) -> Result<Chunk> {
    decode(&fs::read(path).with_context(|| path.display().to_string())?)
}

/// Reads the bytes of one chunk file.
///
/// # Errors
/// Where they differ from the format in any way.
pub fn decode(file: &[u8]) -> Result<Chunk> {
    let content = zstd::decode_all(file)?;
    let mut bytes = Bytes(&content);
    ensure!(bytes.take(8)? == b"DBKEEPCH", "no chunk");
    let header: serde_json::Value = serde_json::from_slice(bytes.framed()?)?;
    ensure!(header["version"] == 2, "format version {}", header["version"]);
    let sections = header["sections"].as_array().context("sections")?;
    let mut sections = sections.iter().map(section).collect::<Result<Vec<_>>>()?;
    let mut count = 0_u64;
    loop {
        let body = content.len() - bytes.0.len();
        match bytes.take(1)?[0] {
            1 => {
                let number = usize::from(u16::from_le_bytes(bytes.take(2)?.try_into()?));
                let section = sections.get_mut(number).with_context(|| format!("section {number}"))?;
                let width = section.columns.len() + section.changed.len();
                let mut row = Vec::with_capacity(width);
                for _ in 0..width {
                    row.push(match bytes.take(1)?[0] {
                        b'n' => None,
                        b'i' => Some(i64::from_le_bytes(bytes.eight()?).to_string()),
                        b'r' => Some(f64::from_bits(u64::from_le_bytes(bytes.eight()?)).to_string()),
                        b't' => Some(String::from_utf8_lossy(bytes.framed()?).into_owned()),
                        b'b' => Some(hex::encode(bytes.framed()?)),
                        other => bail!("value tag {other}"),
                    });
                }
                section.rows.push(row);
                count += 1;
            }
            0 => {
                ensure!(u64::from_le_bytes(bytes.eight()?) == count, "row count");
                ensure!(bytes.take(32)? == &Sha256::digest(&content[..body])[..], "content checksum");
                ensure!(bytes.0.is_empty(), "bytes after the end");
                break;
            }
            other => bail!("record {other}"),
        }
    }
    Ok(Chunk {
        sections,
        sha256: hex::encode(Sha256::digest(file)),
    })
}

/// Reads every chunk of a run's folder, by file name. A folder that is not there holds none.
///
/// # Errors
/// Where a file cannot be read as a chunk.
pub fn read_folder(folder: &Path) -> Result<BTreeMap<String, Chunk>> {
    let mut chunks = BTreeMap::new();
    if !folder.exists() {
        return Ok(chunks);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        chunks.insert(entry.file_name().to_string_lossy().into_owned(), read(&entry.path())?);
    }
    Ok(chunks)
}
