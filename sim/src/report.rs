//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;

use crate::faults::FaultKind;

/// What a run met, so that a test can ask whether it met enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Simulated time.
    pub simulated_ns: u64,
    /// Things that happened.
    pub events: u64,
    /// Trouble by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Calls that arrived twice.
    pub doubled_calls: u64,
    /// Unsynced batches that power cuts took away.
    pub lost_batches: u64,
    /// Snapshots that were restored.
    pub restores: u64,
    /// Segments that were built or merged, and fetched.
    pub jobs: u64,
    /// Segments that were fetched from another replica.
    pub fetches: u64,
    /// Fetches of segments and snapshots that failed midway.
    pub broken_fetches: u64,
    /// Replicas whose content was found to be damaged at a start.
    pub found_damaged: u64,
    /// Changes of membership that were finished.
    pub member_changes: u64,
    /// Changes of the coordinators' membership that were finished.
    pub coordinator_changes: u64,
    /// Writes that were known already when they were applied again.
    pub repeated_writes: u64,
    /// Witnesses that were opened.
    pub witnesses: u64,
    /// Groups that were asleep, summed over looks at each process every half second.
    pub asleep: u64,
    /// Terms that had a leader.
    pub leaders: u64,
}

/// A run from its beginning to its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What it met.
    pub tally: Tally,
    /// Operations of clients that were checked.
    pub operations: u64,
    /// What is wrong, if anything: the first line of each.
    pub findings: Vec<String>,
    /// The checkers' table.
    pub verdict: String,
    /// Hash of everything that happened.
    pub trace: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Tally {
    /// Adds what another run met.
    pub fn add(&mut self, other: &Self) {
        self.simulated_ns += other.simulated_ns;
        self.events += other.events;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (mine, theirs) in [
            (&mut self.doubled_calls, other.doubled_calls),
            (&mut self.lost_batches, other.lost_batches),
            (&mut self.restores, other.restores),
            (&mut self.jobs, other.jobs),
            (&mut self.fetches, other.fetches),
            (&mut self.broken_fetches, other.broken_fetches),
            (&mut self.found_damaged, other.found_damaged),
            (&mut self.member_changes, other.member_changes),
            (&mut self.coordinator_changes, other.coordinator_changes),
            (&mut self.repeated_writes, other.repeated_writes),
            (&mut self.witnesses, other.witnesses),
            (&mut self.asleep, other.asleep),
            (&mut self.leaders, other.leaders),
        ] {
            *mine += theirs;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} operations, trace {:016x}", self.seed, self.operations, self.trace)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        writeln!(f, "{}", self.verdict)?;
        write!(f, "{:?}", self.tally)
    }
}
