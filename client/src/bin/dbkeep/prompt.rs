//! The question before something is changed.
//!
//! Owns the asking. A script that forgot `--yes` must be refused, not left to hang or taken to agree. Called by `cmd/run.rs`,
//! `cmd/runs.rs`, `cmd/migrations/` and `cmd/schedules/`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::{
    exit::Exit,
    output::{Output, Tone},
};

/// Asks on stderr and reads one line from stdin. `Ok(())` means yes; the error is how the command ends otherwise.
pub(crate) async fn confirm(question: &str, output: &Output) -> io::Result<Result<(), Exit>> {
    if !io::stdin().is_terminal() {
        output.note(format_args!(
            "{question} needs an answer, and stdin is no terminal: give --yes where nobody can be asked. Nothing was changed.",
        ));
        return Ok(Err(Exit::Usage));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{} [y/N] ", output.paint_note(Tone::Strong, question))?;
    stderr.flush()?;
    drop(stderr);
    if is_yes(&read_line().await?) {
        return Ok(Ok(()));
    }
    output.note("Nothing was changed.");
    Ok(Err(Exit::Cancelled))
}

/// Asks for the phrase that a plan states, and returns what was typed: whether it is the phrase is for the server to say, and to
/// record. The error is how the command ends otherwise.
pub(crate) async fn phrase(expected: &str, output: &Output) -> io::Result<Result<String, Exit>> {
    if !io::stdin().is_terminal() {
        output.note("This plan needs its confirmation phrase, and stdin is no terminal: give --phrase. Nothing was changed.");
        return Ok(Err(Exit::Usage));
    }
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "To go on, type: {}", output.paint_note(Tone::Strong, expected))?;
    write!(stderr, "> ")?;
    stderr.flush()?;
    drop(stderr);
    let typed = read_line().await?;
    let typed = typed.trim_end_matches(['\r', '\n']);
    if typed.is_empty() {
        output.note("Nothing was changed.");
        return Ok(Err(Exit::Cancelled));
    }
    Ok(Ok(typed.to_owned()))
}

/// Reading blocks; keepalive of the connection must not.
async fn read_line() -> io::Result<String> {
    tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    })
    .await
    .map_err(io::Error::other)?
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for answer in ["y", "Y\n", " yes\r\n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n", "yep", "ye s"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
