//! The network: which messages arrive, and when.
//!
//! Endpoints are processes and clients, by number. A link is one-way. Raft messages are lost, late and out of order, never
//! doubled, as the transport promises; calls may be doubled as well.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;

use crate::queue::{MS, Ns};

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Endpoint {
    Process(usize),
    Client(usize),
}

/// The network.
#[derive(Default)]
pub(crate) struct Network {
    /// Links that carry nothing.
    pub(crate) cut: BTreeSet<(Endpoint, Endpoint)>,
    /// Links on which everything may be late, and how late at most.
    pub(crate) slow: BTreeMap<(Endpoint, Endpoint), Ns>,
    /// Share of messages that are lost.
    pub(crate) loss: f64,
    /// Share of messages that are late, and how late at most.
    pub(crate) late: f64,
    pub(crate) late_ms: u64,
    /// Share of calls that arrive twice.
    pub(crate) doubled: f64,
}

impl Network {
    /// When a message arrives, from now; `None` if never.
    pub(crate) fn delay(&self, from: Endpoint, to: Endpoint, rng: &mut SmallRng) -> Option<Ns> {
        if self.cut.contains(&(from, to)) || rng.random_bool(self.loss) {
            return None;
        }
        let is_late = self.late_ms > 0 && rng.random_bool(self.late);
        let usual = if is_late { self.late_ms * MS } else { 2 * MS };
        let most = self.slow.get(&(from, to)).copied().unwrap_or(0).max(usual);
        Some(rng.random_range(MS / 10..most))
    }

    /// Cuts all links between two sides, or only those from the first to the second.
    pub(crate) fn part(&mut self, one: &[Endpoint], other: &[Endpoint], both_ways: bool) {
        for (&a, &b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
            self.cut.insert((a, b));
            if both_ways {
                self.cut.insert((b, a));
            }
        }
    }
}
