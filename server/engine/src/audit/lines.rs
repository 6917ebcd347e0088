//! Anchors as lines of JSON, as they are kept in files: which bytes are added, and what is read back. Owns no file. Called by whoever writes or
//! reads one: the server, and `dbkeep audit anchor`.
//!
//! A crash, or a full disk, may leave the beginning of a line behind: an anchor that never counted. Readers leave it out, and the next anchor
//! begins a line of its own behind it. Nothing is cut off: such a file may be one to which can only be added, and several servers may add to it.

use super::Anchor;

/// A line that is no anchor, and no beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnchor {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// What is to be added to a file for an anchor; `last` is the file's last byte, if it has any.
///
/// # Errors
/// Where the anchor cannot be written down.
pub fn added(last: Option<u8>, anchor: &Anchor) -> Result<String, serde_json::Error> {
    let lead = if last.is_none_or(|byte| byte == b'\n') { "" } else { "\n" };
    Ok(format!("{lead}{}\n", serde_json::to_string(anchor)?))
}

/// The anchors of a file.
///
/// # Errors
/// The first line that is neither an anchor nor the beginning of one.
pub fn read(bytes: &[u8]) -> Result<Vec<Anchor>, NoAnchor> {
    let mut anchors = Vec::new();
    for (position, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        // A file system may have made the file longer before the bytes were there.
        let end = line.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match serde_json::from_slice(&line[..end]) {
            Ok(anchor) => anchors.push(anchor),
            Err(error) if error.is_eof() => {}
            Err(error) => {
                return Err(NoAnchor {
                    line: position + 1,
                    problem: error.to_string(),
                });
            }
        }
    }
    Ok(anchors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Digest;

    fn anchor(number: u8) -> Anchor {
        Anchor {
            number: number.into(),
            hash: Digest([number; 32]),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_line_that_was_cut_short_anywhere_stops_nobody() {
        let whole = added(None, &anchor(1)).expect("a line");
        let torn = added(Some(b'\n'), &anchor(2)).expect("a line");
        for cut in 0..torn.len() {
            for rest in ["", "\0\0\0"] {
                let mut bytes = format!("{whole}{}{rest}", &torn[..cut]).into_bytes();
                // Only its line break is missing: it is all there.
                let seen = if cut + 1 == torn.len() {
                    vec![anchor(1), anchor(2)]
                } else {
                    vec![anchor(1)]
                };
                assert_eq!(read(&bytes), Ok(seen.clone()), "{cut}");
                for number in [3, 4] {
                    let line = added(bytes.last().copied(), &anchor(number)).expect("a line");
                    bytes.extend(line.into_bytes());
                }
                let seen = [seen, vec![anchor(3), anchor(4)]].concat();
                assert_eq!(read(&bytes), Ok(seen), "{cut}");
            }
        }
    }

    #[test]
    fn what_was_never_an_anchor_is_named() {
        let whole = added(None, &anchor(1)).expect("a line");
        for other in ["{\"number\":2}", "nonsense", "{\"number\":2,}", "[]"] {
            let error = read(format!("{whole}{other}\n{whole}").as_bytes()).expect_err(other);
            assert_eq!(error.line, 2, "{other}");
        }
        assert_eq!(read(b""), Ok(Vec::new()));
    }
}
