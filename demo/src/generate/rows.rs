//! The way of rows from the thread that makes them to the task that stores them.
//!
//! Making rows is computing, storing them is waiting, so they run beside each other with a short channel between them: at
//! most [`CHANNEL_BATCHES`] batches exist at a time, whatever the number of rows.

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Batches under way between the two sides.
const CHANNEL_BATCHES: usize = 4;

/// Microseconds since 1970-01-01 UTC.
pub(super) type Micros = i64;

/// A batch of rows in the form that one database takes. Values are added in the order of the table's columns.
pub(super) trait RowWriter: Default + Send + 'static {
    /// Adds NULL.
    fn null(&mut self);
    /// Adds text, which must not hold a NUL character.
    fn text(&mut self, value: &str);
    /// Adds a whole number.
    fn integer(&mut self, value: i64);
    /// Adds a finite floating-point number.
    fn real(&mut self, value: f64);
    /// Adds an instant to a column of the database's usual time type.
    fn time(&mut self, value: Micros);
    /// Adds an instant to a column that counts seconds where the database's schema has such columns.
    fn epoch_time(&mut self, value: Micros);
    /// Completes the row.
    fn end_row(&mut self);
    /// Whether the batch should be sent now. Asked after each row.
    fn is_full(&self) -> bool;
    /// Whether the batch has no rows.
    fn is_empty(&self) -> bool;

    /// Adds a key as text in lower case.
    fn key(&mut self, value: Uuid) {
        let mut buffer = Uuid::encode_buffer();
        self.text(value.hyphenated().encode_lower(&mut buffer));
    }

    /// Adds a key, or NULL.
    fn key_or_null(&mut self, value: Option<Uuid>) {
        match value {
            Some(value) => self.key(value),
            None => self.null(),
        }
    }

    /// Adds text, or NULL.
    fn text_or_null(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }

    /// Adds an instant, or NULL.
    fn time_or_null(&mut self, value: Option<Micros>) {
        match value {
            Some(value) => self.time(value),
            None => self.null(),
        }
    }
}

/// What arrives at the storing side.
pub(super) enum Delivery<W> {
    /// The rows that follow belong to this table. Each table is announced once, also one without rows.
    Table(&'static str),
    /// Complete rows.
    Batch(W),
}

/// The making side of the channel.
pub(super) struct Rows<W> {
    sender: Sender<Delivery<W>>,
    batch: W,
}

/// The storing side has gone, and with it any use of further rows.
#[derive(Debug)]
pub(super) struct Closed;

impl<W: RowWriter> Rows<W> {
    /// Announces the table of the rows that follow.
    pub(super) fn table(&mut self, name: &'static str) -> Result<(), Closed> {
        self.flush()?;
        self.sender.blocking_send(Delivery::Table(name)).map_err(|_| Closed)
    }

    /// The row in the making.
    pub(super) fn row(&mut self) -> &mut W {
        &mut self.batch
    }

    /// Completes the row, and waits while the storing side is behind.
    pub(super) fn end_row(&mut self) -> Result<(), Closed> {
        self.batch.end_row();
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Closed> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.sender
            .blocking_send(Delivery::Batch(std::mem::take(&mut self.batch)))
            .map_err(|_| Closed)
    }
}

/// A running maker of rows.
pub(super) struct Production<W, T> {
    /// Where the rows arrive. Its end does not mean that all is well: the maker may have failed. Ask [`Production::outcome`].
    pub(super) deliveries: Receiver<Delivery<W>>,
    maker: JoinHandle<Result<T, Closed>>,
}

impl<W, T> Production<W, T> {
    /// What the maker knows about the rows, once they have all arrived. A failure means that rows are missing.
    pub(super) async fn outcome(self) -> Result<T> {
        drop(self.deliveries);
        let outcome = self.maker.await.context("the generator failed")?;
        outcome.map_err(|Closed| anyhow::anyhow!("the generator stopped before the last row"))
    }
}

/// Starts `make` on a thread of its own.
pub(super) fn produce<W, T, F>(make: F) -> Production<W, T>
where
    W: RowWriter,
    T: Send + 'static,
    F: FnOnce(&mut Rows<W>) -> Result<T, Closed> + Send + 'static,
{
    let (sender, deliveries) = channel(CHANNEL_BATCHES);
    let maker = tokio::task::spawn_blocking(move || {
        let mut rows = Rows {
            sender,
            batch: W::default(),
        };
        let knowledge = make(&mut rows)?;
        rows.flush()?;
        Ok(knowledge)
    });
    Production { deliveries, maker }
}

/// Appends `YYYY-MM-DD HH:MM:SS` in UTC, and `.ffffff` if `with_fraction`. By hand, because a generic formatter takes as
/// long as the rest of the row.
pub(super) fn push_time(out: &mut String, value: Micros, with_fraction: bool) {
    // The generator reckons from a `Timestamp` and stays within a few years of it.
    let instant = Timestamp::from_microsecond(value).expect("generated times are within the range of a timestamp");
    let time = TimeZone::UTC.to_datetime(instant);
    push_digits(out, i64::from(time.year()), 1000);
    for (separator, part) in [
        ('-', time.month()),
        ('-', time.day()),
        (' ', time.hour()),
        (':', time.minute()),
        (':', time.second()),
    ] {
        out.push(separator);
        push_digits(out, i64::from(part), 10);
    }
    if with_fraction {
        out.push('.');
        push_digits(out, i64::from(time.subsec_nanosecond() / 1000), 100_000);
    }
}

/// Appends `value` with the digit worth `highest` first and zeros where it has none.
fn push_digits(out: &mut String, value: i64, highest: i64) {
    let mut worth = highest;
    while worth > 0 {
        let digit = u8::try_from(value / worth % 10).expect("a decimal digit of a number that is not negative");
        out.push(char::from(b'0' + digit));
        worth /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_full() {
        let instant: Timestamp = "2024-02-09T03:04:05.000607Z".parse().unwrap();
        let mut text = String::new();
        push_time(&mut text, instant.as_microsecond(), true);
        text.push('|');
        push_time(&mut text, instant.as_microsecond(), false);
        assert_eq!(text, "2024-02-09 03:04:05.000607|2024-02-09 03:04:05");
    }
}
