//! `dbkeep backups extract`: the rows of chunk files, with no server and no database.
//!
//! Owns the three forms in which rows are written (CSV, JSON lines, SQL) and the telling of damage. The format of a chunk is the
//! engine library's (`dbkeep_engine::backup`); nothing here decodes a byte of it. Without the journal it cannot be told whether a chunk
//! counts: a file that belongs to a batch which never committed looks like any other. Called by `cmd/backups.rs`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use dbkeep_engine::{
    backup::{ChunkError, read_alone},
    model::{Row, TableName, Value},
};
use serde_json::json;

use crate::{
    exit::Exit,
    output::{Output, Tone},
};

/// Arguments of `backups extract`.
#[derive(Debug, Args)]
pub(crate) struct Extract {
    /// A chunk file, or the folder of a run in the backup folder.
    path: PathBuf,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = Form::Jsonl)]
    format: Form,
    /// Only rows of this table, with its schema where several have that name.
    #[arg(long)]
    table: Option<String>,
    /// Write one file for each table into this folder, which is made where it is missing; files that are there are not replaced.
    /// Without it, rows go to standard output.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Comma-separated with a header: NULL is nothing, every other value stands in quotes, bytes are \x and hex.
    Csv,
    /// One JSON object a row: {"table", "step", "batch", "row": {..}}; bytes are {"$hex": ".."}.
    Jsonl,
    /// One INSERT a row.
    Sql,
}

impl Form {
    fn ending(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Sql => "sql",
        }
    }
}

/// Rows of one table from one chunk.
struct Part {
    table: TableName,
    step: u32,
    batch: u64,
    columns: Vec<String>,
    rows: Vec<Row>,
}

/// What could not be read.
struct Damage {
    file: String,
    problem: String,
}

impl Extract {
    /// Extracts what can be read. Damage is told by file and by the exit code: 3 where other chunks were read, 1 where none was.
    pub(crate) fn run(self, output: &Output) -> anyhow::Result<Exit> {
        let files = chunk_files(&self.path)?;
        let mut sink = match &self.out {
            Some(folder) => Sink::folder(folder, self.format)?,
            None => Sink::stdout(self.format),
        };
        let (mut read, mut rows) = (0_u64, 0_u64);
        let mut damaged = Vec::new();
        for path in &files {
            let parts = match parts(path) {
                Ok(parts) => parts,
                Err(problem) => {
                    let file = path.display().to_string();
                    if !output.is_json() {
                        output.note(output.paint_note(Tone::Bad, &format!("{file}: {problem}")));
                    }
                    damaged.push(Damage { file, problem });
                    continue;
                }
            };
            read += 1;
            for part in parts.iter().filter(|part| self.wants(&part.table)) {
                sink.write(part)?;
                rows += part.rows.len() as u64;
            }
        }
        sink.finish()?;
        if output.is_json() {
            let damaged: Vec<_> = damaged
                .iter()
                .map(|damage| json!({ "file": damage.file, "problem": damage.problem }))
                .collect();
            output.note(json!({ "extracted": { "chunks": read, "rows": rows, "damaged": damaged } }));
        } else {
            output.note(format_args!("{rows} rows from {read} chunks; {} damaged", damaged.len()));
        }
        Ok(match (damaged.is_empty(), read) {
            (true, _) => Exit::Success,
            (false, 0) => Exit::Failure,
            (false, _) => Exit::Partial,
        })
    }

    fn wants(&self, table: &TableName) -> bool {
        self.table
            .as_ref()
            .is_none_or(|wanted| *wanted == table.name || *wanted == table.to_string())
    }
}

/// The chunk itself, or the chunks of a folder in the order in which they were written.
fn chunk_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let named = |error: io::Error| anyhow::anyhow!("{}: {error}", path.display());
    if fs::metadata(path).map_err(named)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(named)? {
        let file = entry.map_err(named)?.path();
        if file.extension().is_some_and(|ending| ending == "chunk") {
            files.push(file);
        }
    }
    if files.is_empty() {
        anyhow::bail!(
            "{}: holds no chunk; expected a chunk file, or a folder with *.chunk files",
            path.display()
        );
    }
    files.sort_unstable();
    Ok(files)
}

/// What a chunk holds, once all of it was found whole.
fn parts(path: &Path) -> Result<Vec<Part>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let (header, rows) = read_alone(file).map_err(|error| match error {
        ChunkError::Damaged { problem } => problem,
        ChunkError::Archive(error) => error.to_string(),
    })?;
    Ok(vec![Part {
        table: header.table,
        step: header.step,
        batch: header.batch,
        columns: header.columns.into_iter().map(|(name, _)| name).collect(),
        rows,
    }])
}

/// Where rows go: one stream, or one for each table.
struct Sink {
    form: Form,
    folder: Option<PathBuf>,
    streams: BTreeMap<TableName, Stream>,
}

struct Stream {
    writer: Box<dyn Write>,
    /// Columns of the header that was written; a schema may have changed between two steps.
    columns: Vec<String>,
}

impl Sink {
    fn folder(folder: &Path, form: Form) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?;
        Ok(Self {
            form,
            folder: Some(folder.to_owned()),
            streams: BTreeMap::new(),
        })
    }

    fn stdout(form: Form) -> Self {
        Self {
            form,
            folder: None,
            streams: BTreeMap::new(),
        }
    }

    fn stream(&mut self, part: &Part) -> anyhow::Result<&mut Stream> {
        if !self.streams.contains_key(&part.table) {
            let writer: Box<dyn Write> = match &self.folder {
                Some(folder) => {
                    // A name may hold what a path must not.
                    let plain = part.table.to_string().replace(['/', '\0'], "_");
                    let path = folder.join(format!("{plain}.{}", self.form.ending()));
                    let made = OpenOptions::new().write(true).create_new(true).open(&path);
                    Box::new(BufWriter::new(
                        made.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?,
                    ))
                }
                // Rows of a second table under the header of the first would be read as rows of the first.
                None if self.form == Form::Csv && !self.streams.is_empty() => {
                    anyhow::bail!("the chunks hold rows of several tables; expected --table, or --out for a file each");
                }
                None => Box::new(BufWriter::new(io::stdout())),
            };
            let mut stream = Stream {
                writer,
                columns: part.columns.clone(),
            };
            if self.form == Form::Csv {
                let names: Vec<_> = part.columns.iter().map(|name| quoted(name.as_bytes())).collect();
                stream.writer.write_all(&names.join(&b','))?;
                stream.writer.write_all(b"\n")?;
            }
            self.streams.insert(part.table.clone(), stream);
        }
        self.streams
            .get_mut(&part.table)
            .ok_or_else(|| anyhow::anyhow!("no stream for {}", part.table))
    }

    fn write(&mut self, part: &Part) -> anyhow::Result<()> {
        let form = self.form;
        let stream = self.stream(part)?;
        if form == Form::Csv && stream.columns != part.columns {
            anyhow::bail!(
                "{} changed its columns on the way; expected --format jsonl or sql",
                part.table
            );
        }
        let insert = insert(part);
        for row in &part.rows {
            match form {
                Form::Csv => {
                    let values: Vec<_> = row.iter().map(csv_value).collect();
                    stream.writer.write_all(&values.join(&b','))?;
                }
                Form::Jsonl => {
                    let fields: serde_json::Map<_, _> = part.columns.iter().cloned().zip(row.iter().map(json_value)).collect();
                    let line = json!({ "table": part.table.to_string(), "step": part.step, "batch": part.batch, "row": fields });
                    stream.writer.write_all(line.to_string().as_bytes())?;
                }
                Form::Sql => {
                    let values: Vec<_> = row.iter().map(sql_value).collect();
                    write!(stream.writer, "{insert} ({});", values.join(", "))?;
                }
            }
            stream.writer.write_all(b"\n")?;
        }
        // Streams of one standard output must not mix their lines.
        stream.writer.flush()?;
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        for mut stream in self.streams.into_values() {
            stream.writer.flush()?;
        }
        Ok(())
    }
}

fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in bytes {
        if *byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}

fn csv_value(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => Vec::new(),
        Value::Integer(number) => quoted(number.to_string().as_bytes()),
        Value::Real(number) => quoted(number.to_string().as_bytes()),
        Value::Text(bytes) => quoted(bytes),
        Value::Blob(bytes) => quoted(format!("\\x{}", hex::encode(bytes)).as_bytes()),
    }
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => json!(number),
        Value::Real(number) if number.is_finite() => json!(number),
        // JSON has no such number.
        Value::Real(number) => json!(number.to_string()),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({ "$hex": hex::encode(bytes) }),
        },
        Value::Blob(bytes) => json!({ "$hex": hex::encode(bytes) }),
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `INSERT INTO .. VALUES` up to the values. PostgreSQL names a schema, and its identity columns take values only when told to.
fn insert(part: &Part) -> String {
    let columns = part
        .columns
        .iter()
        .map(|name| identifier(name))
        .collect::<Vec<_>>()
        .join(", ");
    match &part.table.schema {
        Some(schema) => format!(
            "INSERT INTO {}.{} ({columns}) OVERRIDING SYSTEM VALUE VALUES",
            identifier(schema),
            identifier(&part.table.name)
        ),
        None => format!("INSERT INTO {} ({columns}) VALUES", identifier(&part.table.name)),
    }
}

fn sql_value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) if number.is_nan() => "NULL".to_owned(),
        // What SQLite reads as infinity.
        Value::Real(number) if number.is_infinite() => if *number > 0.0 { "9e999" } else { "-9e999" }.to_owned(),
        // With an exponent or a point it stays a real.
        Value::Real(number) => format!("{number:e}"),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => format!("'{}'", text.replace('\'', "''")),
            _ => format!("CAST(x'{}' AS TEXT)", hex::encode(bytes)),
        },
        Value::Blob(bytes) => format!("x'{}'", hex::encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Integer(-7),
            Value::Real(0.5),
            Value::Text(b"it's \"x\"".to_vec()),
            Value::Text(vec![0xff]),
            Value::Blob(vec![1, 2]),
            Value::Text(Vec::new()),
        ]
    }

    #[test]
    fn values_keep_what_they_are_in_every_form() {
        let csv: Vec<_> = values().iter().map(csv_value).collect();
        assert_eq!(csv[0], b"");
        assert_eq!(csv[3], b"\"it's \"\"x\"\"\"");
        assert_eq!(csv[5], b"\"\\x0102\"");
        assert_eq!(csv[6], b"\"\"", "empty is not NULL");
        let json: Vec<_> = values().iter().map(|value| json_value(value).to_string()).collect();
        assert_eq!(
            json,
            [
                "null",
                "-7",
                "0.5",
                r#""it's \"x\"""#,
                r#"{"$hex":"ff"}"#,
                r#"{"$hex":"0102"}"#,
                r#""""#
            ]
        );
        let sql: Vec<_> = values().iter().map(sql_value).collect();
        assert_eq!(
            sql,
            ["NULL", "-7", "5e-1", "'it''s \"x\"'", "CAST(x'ff' AS TEXT)", "x'0102'", "''"]
        );
    }
}
