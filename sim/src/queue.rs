//! Simulated time: events by the moment at which they happen, those of one moment in the order in which they were put.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Nanoseconds since the run began.
pub(crate) type Ns = u64;

/// A millisecond.
pub(crate) const MS: Ns = 1_000_000;
/// A second.
pub(crate) const SEC: Ns = 1_000 * MS;

/// What will happen.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    count: u64,
}

struct Entry<E> {
    at: Ns,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), count: 0 }
    }

    pub(crate) fn put(&mut self, at: Ns, event: E) {
        self.count += 1;
        self.heap.push(Entry { at, number: self.count, event });
    }

    pub(crate) fn take(&mut self) -> Option<(Ns, E)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
