//! Whether anybody still waits for a result. A search can take long, on a thread that nobody can end from outside, so that everything
//! in it that loops asks here now and then. Called by [`super::feedback`] and what it calls.

/// Steps between two questions: together they take a few milliseconds at most.
const INTERVAL: usize = 1 << 14;

/// Nobody waits any more; there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Asks after every so many steps.
pub(super) struct Patience<'a> {
    is_over: &'a dyn Fn() -> bool,
    left: usize,
}

impl<'a> Patience<'a> {
    pub(super) fn new(is_over: &'a dyn Fn() -> bool) -> Self {
        Self { is_over, left: 0 }
    }

    /// Counts steps that were taken, or are about to be.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Stopped> {
        if let Some(left) = self.left.checked_sub(steps) {
            self.left = left;
            return Ok(());
        }
        self.left = INTERVAL;
        if (self.is_over)() { Err(Stopped) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_asks_at_once_and_then_now_and_then() {
        let asked = Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let mut patience = Patience::new(&ask);
        let mut steps = 0;
        while patience.spend(1).is_ok() {
            steps += 1;
        }
        assert_eq!((asked.get(), steps), (3, 2 * (INTERVAL + 1)));
    }
}
