//! Where answers go and how they are dressed.
//!
//! Owns the choice of table or JSON, the choice of colours, and the writing to stdout and stderr. Does not know what is
//! written: `table.rs` and `json/` do. A reader that goes away (`dbkeep runs list | head -1`) is an `io::Error` that `main.rs`
//! takes for a good end.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// What answers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: one JSON object per line.
    Json,
}

/// What a piece of text means; colours are chosen by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Done, proven.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong, or in the way.
    Bad,
    /// Beside the point.
    Dim,
    /// The point.
    Strong,
}

/// Stdout and stderr, with their dress.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: Format,
    stdout_colours: bool,
    stderr_colours: bool,
}

impl Output {
    /// Colours appear only on a terminal, and neither with `--no-color` nor with a `NO_COLOR` that is not empty.
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            format,
            stdout_colours: wanted && io::stdout().is_terminal(),
            stderr_colours: wanted && io::stderr().is_terminal(),
        }
    }

    /// Without colours, as for a file.
    #[cfg(test)]
    pub(crate) fn plain(format: Format) -> Self {
        Self {
            format,
            stdout_colours: false,
            stderr_colours: false,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes one line to stdout.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// Writes one JSON object as one line to stdout.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        // Written and flushed as a whole: the reader of a stream acts on each line as it comes.
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()?;
        Ok(())
    }

    /// Writes one line to stderr; a stderr that is gone is nobody's error.
    pub(crate) fn note(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// An empty table for stdout.
    pub(crate) fn table<const N: usize>(&self, header: [&str; N]) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(header.map(|name| self.cell(Tone::Strong, name)));
        table
    }

    /// A cell of a table for stdout.
    pub(crate) fn cell(&self, tone: Tone, text: impl Display) -> Cell {
        let cell = Cell::new(printable(&text.to_string()));
        if !self.stdout_colours {
            return cell;
        }
        match tone {
            Tone::Good => cell.fg(Color::Green),
            Tone::Warn => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Dim => cell.fg(Color::DarkGrey),
            Tone::Strong => cell.add_attribute(comfy_table::Attribute::Bold),
        }
    }

    /// A cell of a table for stdout, for a number or a quantity: aligned to the right.
    pub(crate) fn number(&self, tone: Tone, text: impl Display) -> Cell {
        self.cell(tone, text).set_alignment(CellAlignment::Right)
    }

    /// Text for stdout.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        painted(self.stdout_colours, tone, text)
    }

    /// Text for stderr.
    pub(crate) fn paint_note(&self, tone: Tone, text: &str) -> String {
        painted(self.stderr_colours, tone, text)
    }
}

fn painted(colours: bool, tone: Tone, text: &str) -> String {
    let text = printable(text);
    if !colours {
        return text.into_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Dim => "90",
        Tone::Strong => "1",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Text that may hold a database's values, made safe for a terminal: a stored escape sequence must show, not act.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| c.is_control() && c != '\n') {
        Cow::Owned(
            text.chars()
                .flat_map(|c| {
                    if c.is_control() && c != '\n' {
                        Escape::Control(c.escape_default())
                    } else {
                        Escape::Plain(Some(c))
                    }
                })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// One character on its way to the terminal.
enum Escape {
    Plain(Option<char>),
    Control(std::char::EscapeDefault),
}

impl Iterator for Escape {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        match self {
            Self::Plain(c) => c.take(),
            Self::Control(escape) => escape.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_escape_sequence_shows_and_does_not_act() {
        assert_eq!(printable("a\u{1b}[31mb\tc\nd"), "a\\u{1b}[31mb\\tc\nd");
        assert_eq!(painted(false, Tone::Bad, "x\u{7}"), "x\\u{7}");
        assert_eq!(painted(true, Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn a_table_without_colours_holds_no_escape_sequence() {
        let output = Output::plain(Format::Table);
        let mut table = output.table(["a", "b"]);
        table.add_row([output.cell(Tone::Good, 1), output.cell(Tone::Bad, "two")]);
        let text = table.to_string();
        assert!(text.contains("two") && !text.contains('\u{1b}'), "{text}");
    }
}
