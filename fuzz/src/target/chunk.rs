//! Chunks: files of captured rows, as somebody may have damaged them. The first byte of an input says what the rest is: 0 a file; otherwise
//! 8 bytes with the number of rows and the content before its end, which is sealed with the right checksum and compressed, so that damage
//! reaches the decoder of rows.
//!
//! Whatever is accepted has to be what another reader of the documented format finds.

use dbkeep_engine::backup::read_alone;
use sha2::{Digest as _, Sha256};

use super::{Check, Target, broken, no_seeds};

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
    seeds: no_seeds,
    open,
};

fn sealed(content: &[u8], rows: u64) -> Vec<u8> {
    let mut whole = content.to_vec();
    whole.push(0);
    whole.extend_from_slice(&rows.to_le_bytes());
    whole.extend_from_slice(&Sha256::digest(content));
    zstd::encode_all(&whole[..], 1).unwrap_or_default()
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
