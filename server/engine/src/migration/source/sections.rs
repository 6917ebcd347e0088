//! Files that hold both directions, told apart by marks in comments. Shared by dbmate and goose.

use super::{SourceError, folder::form};

/// A line of a file that is a mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark<'a> {
    /// What stands after the mark's first word.
    pub(super) text: &'a str,
    /// Line, from 1.
    pub(super) line: u32,
    /// Where the line begins, bytes.
    pub(super) start: usize,
    /// Where the next line begins, bytes.
    pub(super) end: usize,
}

/// The lines `-- opening..`, in order; the text is what stands after `--`.
pub(super) fn marks<'a>(text: &'a str, opening: &str) -> Vec<Mark<'a>> {
    let (mut found, mut start, mut line) = (Vec::new(), 0, 0_u32);
    for content in text.split_inclusive('\n') {
        line = line.saturating_add(1);
        let end = start + content.len();
        if let Some(mark) = content.strip_prefix("--").map(str::trim)
            && mark
                .get(..opening.len())
                .is_some_and(|begins| begins.eq_ignore_ascii_case(opening))
        {
            found.push(Mark {
                text: mark,
                line,
                start,
                end,
            });
        }
        start = end;
    }
    found
}

/// Whether a line is `-- opening..`.
pub(super) fn has_mark(bytes: &[u8], opening: &str) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.split(|byte| *byte == b'\n').any(|line| {
        line.strip_prefix(b"--")
            .map(<[u8]>::trim_ascii_start)
            .and_then(|mark| mark.get(..opening.len()))
            .is_some_and(|begins| begins.eq_ignore_ascii_case(opening.as_bytes()))
    })
}

/// The mark of the up script and perhaps that of the down script, which have to be there once, in this order.
pub(super) fn directions<'a>(
    file: &str,
    marks: &[Mark<'a>],
    is_up: impl Fn(&str) -> bool,
    is_down: impl Fn(&str) -> bool,
    names: (&str, &str),
) -> Result<(Mark<'a>, Option<Mark<'a>>), SourceError> {
    let (mut up, mut down) = (None, None);
    for mark in marks {
        let problem = match () {
            () if is_up(mark.text) && down.is_some() => format!("`-- {}` after `-- {}`: expected it before", names.0, names.1),
            () if is_up(mark.text) && up.is_some() => format!("a second `-- {}`: expected one", names.0),
            () if is_down(mark.text) && down.is_some() => format!("a second `-- {}`: expected one", names.1),
            () if is_up(mark.text) => {
                up = Some(*mark);
                continue;
            }
            () if is_down(mark.text) => {
                down = Some(*mark);
                continue;
            }
            () => continue,
        };
        return Err(form(file, mark.line, &problem));
    }
    match up {
        Some(up) => Ok((up, down)),
        None => Err(form(
            file,
            1,
            &format!("no `-- {}`: expected it before the first statement", names.0),
        )),
    }
}
