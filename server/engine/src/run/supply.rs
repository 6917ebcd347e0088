//! Listed rows on their way from the scan to batches. Windows come as the scan found them; batches are as large as the throttle
//! wants them now, so that a window may feed several batches, and a batch several windows.
//!
//! The journal keeps with each batch the position after which a later attempt lists again. A batch that takes only a part of a
//! window carries the position *before* that window: listing it again finds what is left of it, since what was taken is gone.

use std::{collections::VecDeque, mem};

use crate::{model::RowKey, port::Window};

/// Where a window ends.
#[derive(Debug, Clone)]
struct End {
    /// Number of pending keys up to its end.
    keys: usize,
    cursor: String,
    examined: u64,
    fraction: f64,
}

/// The pending rows of a pass.
#[derive(Debug, Default)]
pub(super) struct Supply {
    /// Position before the first pending key that is not in the middle of a window.
    cursor: String,
    /// Position after everything that was listed.
    listed_to: String,
    fraction: f64,
    keys: Vec<RowKey>,
    ends: VecDeque<End>,
    /// The supply before the newest batch was taken, without its keys, to put that back.
    before: Option<(String, f64, Vec<End>)>,
}

impl Supply {
    /// A pass that begins after this position; empty for the table's begin.
    pub(super) fn after(cursor: &str) -> Self {
        Self {
            cursor: cursor.to_owned(),
            listed_to: cursor.to_owned(),
            ..Self::default()
        }
    }

    /// Number of pending rows.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Rows that were looked at on the way to the pending rows, and in windows that held none.
    pub(super) fn examined(&self) -> u64 {
        self.ends.iter().map(|end| end.examined).sum()
    }

    /// Position after everything that was listed, for a scan that goes on from there.
    pub(super) fn listed_to(&self) -> Option<&str> {
        (!self.listed_to.is_empty()).then_some(self.listed_to.as_str())
    }

    /// Adds what the scan found.
    pub(super) fn add(&mut self, window: Window) {
        self.listed_to.clone_from(&window.cursor);
        self.keys.extend(window.keys);
        self.ends.push_back(End {
            keys: self.keys.len(),
            cursor: window.cursor,
            examined: window.examined,
            fraction: window.fraction,
        });
    }

    /// Takes the next rows, at most so many.
    pub(super) fn take(&mut self, rows: u32) -> Window {
        let count = usize::try_from(rows).unwrap_or(usize::MAX).min(self.keys.len());
        let rest = self.keys.split_off(count);
        let keys = mem::replace(&mut self.keys, rest);
        let before = (self.cursor.clone(), self.fraction);
        let mut done = Vec::new();
        // A window without keys that ends where this batch ends belongs to it: nothing of it is left.
        while self.ends.front().is_some_and(|end| end.keys <= count) {
            done.extend(self.ends.pop_front());
        }
        for end in &mut self.ends {
            end.keys -= count;
        }
        if let Some(last) = done.last() {
            self.cursor.clone_from(&last.cursor);
            self.fraction = last.fraction;
        }
        let examined = done.iter().map(|end| end.examined).sum();
        self.before = Some((before.0, before.1, done));
        Window {
            keys,
            cursor: self.cursor.clone(),
            examined,
            fraction: self.fraction,
        }
    }

    /// Puts the newest batch back, none of whose rows was taken, and takes at most so many of its rows.
    pub(super) fn take_less(&mut self, window: Window, rows: u32) -> Window {
        let count = window.keys.len();
        if let Some((cursor, fraction, done)) = self.before.take() {
            (self.cursor, self.fraction) = (cursor, fraction);
            for end in &mut self.ends {
                end.keys += count;
            }
            for end in done.into_iter().rev() {
                self.ends.push_front(end);
            }
        }
        let rest = mem::replace(&mut self.keys, window.keys);
        self.keys.extend(rest);
        self.take(rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Value;

    fn window(keys: std::ops::Range<i64>, cursor: &str, examined: u64) -> Window {
        Window {
            keys: keys.map(|key| vec![Value::Integer(key)]).collect(),
            cursor: cursor.to_owned(),
            examined,
            fraction: 0.5,
        }
    }

    fn taken(window: &Window) -> (usize, &str, u64) {
        (window.keys.len(), window.cursor.as_str(), window.examined)
    }

    #[test]
    fn a_part_of_a_window_keeps_the_position_before_it() {
        let mut supply = Supply::after("a");
        supply.add(window(0..10, "b", 7));
        assert_eq!(taken(&supply.take(4)), (4, "a", 0));
        assert_eq!(supply.listed_to(), Some("b"));
        assert_eq!(taken(&supply.take(6)), (6, "b", 7));
        supply.add(window(10..12, "c", 1));
        supply.add(window(12..12, "d", 2));
        supply.add(window(12..15, "e", 4));
        // Through windows with and without keys, into the middle of the last.
        assert_eq!(taken(&supply.take(4)), (4, "d", 3));
        assert_eq!(taken(&supply.take(100)), (1, "e", 4));
        assert_eq!(supply.len(), 0);
    }

    #[test]
    fn a_pass_from_the_begin_has_no_position_before_its_first_window_is_done() {
        let mut supply = Supply::after("");
        assert_eq!(supply.listed_to(), None);
        supply.add(window(0..3, "b", 0));
        assert_eq!(taken(&supply.take(2)), (2, "", 0));
    }

    #[test]
    fn less_of_a_batch_can_be_taken() {
        let mut supply = Supply::after("a");
        supply.add(window(0..4, "b", 4));
        supply.add(window(4..8, "c", 4));
        let batch = supply.take(6);
        assert_eq!(taken(&batch), (6, "b", 4));
        let batch = supply.take_less(batch, 3);
        assert_eq!(taken(&batch), (3, "a", 0));
        let batch = supply.take_less(batch, 1);
        assert_eq!(taken(&batch), (1, "a", 0));
        assert_eq!(batch.keys, [[Value::Integer(0)]]);
        assert_eq!(taken(&supply.take(100)), (7, "c", 8));
    }

    proptest! {
        /// Whatever the sizes, each row comes once and in order, each window's position comes with the batch that ends it, and no
        /// examined row is counted twice.
        #[test]
        fn nothing_is_lost_or_doubled(sizes in prop::collection::vec(0_i64..20, 1..20), takes in prop::collection::vec((1_u32..30, 0_u32..30), 1..60)) {
            let mut supply = Supply::after("");
            let mut next = 0;
            let mut ends = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                supply.add(window(next..next + size, &number.to_string(), 1));
                next += size;
                ends.push(next);
            }
            let (mut keys, mut examined) = (Vec::new(), 0);
            let mut takes = takes.into_iter().cycle();
            while supply.len() > 0 {
                let (rows, less) = takes.next().expect("it cycles");
                let mut batch = supply.take(rows);
                if less > 0 && less < rows {
                    batch = supply.take_less(batch, less);
                }
                examined += batch.examined;
                keys.extend(batch.keys.into_iter().flatten());
                let complete = ends.iter().take_while(|end| usize::try_from(**end).unwrap_or(0) <= keys.len()).count();
                let expected = if complete == 0 { String::new() } else { (complete - 1).to_string() };
                prop_assert_eq!(batch.cursor, expected);
            }
            prop_assert_eq!(keys, (0..next).map(Value::Integer).collect::<Vec<_>>());
            prop_assert_eq!(examined + supply.examined(), u64::try_from(sizes.len()).unwrap_or(0));
        }
    }
}
