//! Committed entries that a state machine has been handed and has not applied.

use std::collections::VecDeque;

/// Their sizes.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Index and size of each, oldest first.
    open: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Backlog {
    pub(crate) fn push(&mut self, index: u64, bytes: usize) {
        self.open.push_back((index, bytes));
        self.bytes += bytes;
    }

    pub(crate) fn applied(&mut self, index: u64) {
        while let Some((_, bytes)) = self.open.pop_front_if(|(at, _)| *at <= index) {
            self.bytes -= bytes;
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
