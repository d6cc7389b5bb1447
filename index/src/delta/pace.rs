//! Asking the caller every now and then whether the answer is still wanted.

use crate::IndexError;

/// Work between two questions, in bytes looked at: at most about 100 µs.
const BYTES: usize = 128 << 10;

/// What looking at one row costs beyond its bytes.
pub(super) const ROW_BYTES: usize = 64;

/// Counts work and asks.
pub(super) struct Pace<'a> {
    stop: &'a (dyn Fn() -> bool + Sync),
    done_bytes: usize,
}

impl<'a> Pace<'a> {
    /// Asks with the first work already: a search may have waited longer than its caller.
    pub(super) fn new(stop: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { stop, done_bytes: BYTES }
    }

    /// Accounts for work that is about to be done. Errors: `Cancelled`.
    #[inline]
    pub(super) fn work(&mut self, bytes: usize) -> Result<(), IndexError> {
        self.done_bytes = self.done_bytes.saturating_add(bytes);
        if self.done_bytes < BYTES {
            return Ok(());
        }
        self.done_bytes = 0;
        if (self.stop)() { Err(IndexError::Cancelled) } else { Ok(()) }
    }
}
