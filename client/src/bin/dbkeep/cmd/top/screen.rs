//! A picture on a terminal that is drawn again and again, and the keys that end it.
//!
//! Owns the terminal while it lives: the other screen, the cursor, and the mode in which keys come at once. Gives all of it back when it is
//! dropped, also by a panic.

use std::{
    io::{self, Write as _},
    thread,
};

use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// What somebody did at the terminal.
enum Key {
    /// Wants to leave.
    Leave,
    /// The picture does not fit any more.
    Resized,
}

/// A terminal that shows one picture at a time.
pub(super) struct Screen {
    keys: mpsc::Receiver<Key>,
    shown: String,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let (told, keys) = mpsc::channel(16);
        // From here on dropping it gives everything back.
        let screen = Self {
            keys,
            shown: String::new(),
        };
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        // Reading keys blocks a thread; it ends with the process, or when nobody listens any more.
        thread::spawn(move || {
            while let Ok(event) = event::read() {
                if let Some(key) = key_of(&event)
                    && told.blocking_send(key).is_err()
                {
                    return;
                }
            }
        });
        Ok(screen)
    }

    /// Shows a picture in place of the one before.
    pub(super) fn draw(&mut self, picture: &str) -> io::Result<()> {
        picture.clone_into(&mut self.shown);
        self.redraw()
    }

    fn redraw(&self) -> io::Result<()> {
        let (_, rows) = terminal::size()?;
        let mut stdout = io::stdout().lock();
        queue!(stdout, cursor::MoveTo(0, 0))?;
        for line in fitting(&self.shown, usize::from(rows)) {
            // Only what is behind the line is cleared: clearing it all first would flicker.
            queue!(stdout, Print(line), Clear(ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
        }
        queue!(stdout, Clear(ClearType::FromCursorDown))?;
        stdout.flush()
    }

    /// Waits until then; false where somebody wants to leave.
    pub(super) async fn wait(&mut self, next: Instant) -> io::Result<bool> {
        loop {
            tokio::select! {
                () = sleep_until(next) => return Ok(true),
                // In this mode Ctrl-C is a key; from elsewhere it may still be a signal.
                ended = tokio::signal::ctrl_c() => return ended.map(|()| false),
                key = self.keys.recv() => match key {
                    Some(Key::Leave) => return Ok(false),
                    Some(Key::Resized) => self.redraw()?,
                    // Keys cannot be read; signals still can.
                    None => {
                        sleep_until(next).await;
                        return Ok(true);
                    }
                },
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell of a terminal that is gone.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn key_of(event: &Event) -> Option<Key> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Leave),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Leave),
            _ => None,
        },
        Event::Resize(..) => Some(Key::Resized),
        _ => None,
    }
}

/// The lines that a terminal of so many rows has room for; the last one says how many there are beyond.
fn fitting(picture: &str, rows: usize) -> Vec<String> {
    let lines: Vec<&str> = picture.lines().collect();
    // The cursor stands in the row behind the last line.
    let room = rows.saturating_sub(1).max(1);
    if lines.len() <= room {
        return lines.into_iter().map(str::to_owned).collect();
    }
    let kept = room - 1;
    let more = lines.len() - kept;
    let mut shown: Vec<String> = lines.into_iter().take(kept).map(str::to_owned).collect();
    shown.push(format!("{more} more lines: a higher window shows them"));
    shown
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn a_picture_never_scrolls() {
        assert_eq!(fitting("a\nb\nc", 4), ["a", "b", "c"]);
        assert_eq!(
            fitting("a\nb\nc\nd", 4),
            ["a", "b", "2 more lines: a higher window shows them"]
        );
        assert_eq!(fitting("a\nb", 0).len(), 1);
    }

    #[test]
    fn q_escape_and_control_c_leave() {
        let pressed = |code, modifiers| key_of(&Event::Key(KeyEvent::new(code, modifiers)));
        for (code, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert!(matches!(pressed(code, modifiers), Some(Key::Leave)));
        }
        assert!(pressed(KeyCode::Char('c'), KeyModifiers::NONE).is_none());
        assert!(matches!(key_of(&Event::Resize(80, 24)), Some(Key::Resized)));
    }
}
