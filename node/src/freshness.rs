//! How long ago a replica was known to lack nothing that had been acknowledged.
//!
//! Only the replica's own clock is used, and only to measure time that has passed: the moment at which it *asked* for a
//! read index, once it has applied up to the answer. So messages that were late, or a process that stood still, make it
//! look older and never younger.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The last moment at which nothing was missing.
#[derive(Debug, Default)]
pub(crate) struct Freshness(Mutex<Option<Instant>>);

impl Freshness {
    /// Whatever was acknowledged before `asked_at` is applied here.
    pub(crate) fn note(&self, asked_at: Instant) {
        // One value, written whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = known.max(Some(asked_at));
    }

    /// How old the content may be at most; `None` if that was never found out.
    pub(crate) fn age(&self) -> Option<Duration> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|known| known.elapsed())
    }
}
