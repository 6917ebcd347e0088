//! Chunks: files of captured rows, as somebody may have damaged them. The first byte of an input says what the rest is: 0 a file; otherwise
//! 8 bytes with the number of rows and the content before its end, which is sealed with the right checksum and compressed, so that damage
//! reaches the decoder of rows.
//!
//! Whatever is accepted has to be what another reader of the documented format finds.

use dbkeep_engine::backup::read_alone;
use sha2::{Digest as _, Sha256};

use super::{Check, Target, broken};

pub(super) const TARGET: Target = Target {
    name: "chunk",
    about: "the decoder of chunks",
    words: &[
        "\u{0}",
        "\u{1}",
        "DBKEEPCH",
        "t",
        "b",
        "n",
        "i",
        "r",
        "\"sections\":[",
        "\"columns\":[[\"a\",\"text\"]]",
        "\"effect\":\"changed\"",
    ],
    seeds,
    open,
};

/// One table of two columns, and two tables.
const HEADERS: [&str; 2] = [
    r#"{"format":"dbkeep-chunk","version":2,"run":"01890000-0000-7000-8000-000000000000","step":0,"batch":1,"sections":[{"table":{"schema":null,"name":"t"},"columns":[["a","integer"],["b","text"]],"row_key":["a"],"effect":"deleted"}]}"#,
    r#"{"format":"dbkeep-chunk","version":2,"run":"01890000-0000-7000-8000-000000000000","step":1,"batch":2,"sections":[{"table":{"schema":"s","name":"c"},"columns":[["a","text"]],"row_key":["a"],"effect":"changed","changed":["a"]},{"table":{"schema":null,"name":"t"},"columns":[["a","text"]],"row_key":["a"],"effect":"archived","into":{"schema":null,"name":"x"},"stamp_column":"at","stamp":"now"}]}"#,
];

fn content(header: &str, rows: &[&[u8]]) -> Vec<u8> {
    let mut content = b"DBKEEPCH".to_vec();
    content.extend_from_slice(&u32::try_from(header.len()).unwrap_or(0).to_le_bytes());
    content.extend_from_slice(header.as_bytes());
    rows.iter().for_each(|row| content.extend_from_slice(row));
    content
}

fn sealed(content: &[u8], rows: u64) -> Vec<u8> {
    let mut whole = content.to_vec();
    whole.push(0);
    whole.extend_from_slice(&rows.to_le_bytes());
    whole.extend_from_slice(&Sha256::digest(content));
    zstd::encode_all(&whole[..], 1).unwrap_or_default()
}

fn seeds() -> Vec<Vec<u8>> {
    let one = content(
        HEADERS[0],
        &[
            b"\x01\0\0i\x07\0\0\0\0\0\0\0t\x02\0\0\0hi",
            b"\x01\0\0nb\0\0\0\0",
            b"\x01\0\0r\0\0\0\0\0\0\xf0\x7fn",
        ],
    );
    let two = content(HEADERS[1], &[b"\x01\0\0t\x01\0\0\0xt\x01\0\0\0y", b"\x01\x01\0t\x01\0\0\0z"]);
    let none = content(HEADERS[0], &[]);
    let mut seeds = Vec::new();
    for (content, rows) in [(one, 3_u64), (two, 2), (none, 0)] {
        seeds.push([&[0], &sealed(&content, rows)[..]].concat());
        seeds.push([&[1], &rows.to_le_bytes()[..], &content[..]].concat());
    }
    seeds
}

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

fn check(input: &[u8]) -> Result<String, String> {
    let file = match input {
        [] => Vec::new(),
        [0, rest @ ..] => rest.to_vec(),
        [_, rest @ ..] => match rest.split_first_chunk::<8>() {
            Some((rows, content)) => sealed(content, u64::from_le_bytes(*rows)),
            None => Vec::new(),
        },
    };
    match read_alone(&file[..]) {
        Err(error) => {
            let said = error.to_string();
            if said.is_empty() {
                return broken("a chunk is refused without a word");
            }
            Ok(said)
        }
        Ok((header, sections)) => {
            for section in &sections {
                if section.rows.iter().any(|row| row.len() != section.layout.width()) {
                    return broken("a row has another width than its section");
                }
            }
            let read: usize = sections.iter().map(|section| section.rows.len()).sum();
            let other =
                dbkeep_testkit::chunk::decode(&file).map_err(|error| format!("the other reader refuses it: {error:#}"))?;
            let theirs: usize = other.sections.iter().map(|section| section.rows.len()).sum();
            if theirs != read {
                return broken(format!("{read} rows are read, by the other reader {theirs}"));
            }
            Ok(format!(
                "accepted, {} sections, {} rows",
                header.sections.len().min(3),
                read.min(4)
            ))
        }
    }
}
