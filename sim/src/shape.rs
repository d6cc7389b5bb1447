//! What one seed's cluster is like: sizes, limits, how slow things are, which trouble it meets and how often. Drawn anew for
//! each seed, so that many seeds meet many combinations (Groce et al., Swarm testing, ISSTA 2012).

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use shoal_model::Metric;

use crate::faults::FaultKind;
use crate::queue::{MS, Ns, SEC};

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How long trouble lasts, simulated.
    pub trouble_ns: u64,
    /// Processes that hold shards.
    pub nodes: usize,
    /// Processes that hold the map.
    pub coordinators: usize,
    /// Clients that ask, one thing after another.
    pub clients: usize,
    /// Shards of the collection that is checked.
    pub shards: u32,
    /// Two full replicas and a witness, rather than three full ones.
    pub witness: bool,
    /// Groups fall asleep that nobody uses.
    pub(crate) sleeps: bool,
    /// Different ids that are written.
    pub ids: u64,
    pub(crate) metric: Metric,
    pub(crate) dim: u32,
    /// Most time between two calls of a client.
    pub(crate) think_ns: Ns,
    pub(crate) call_deadline_ns: Ns,
    pub(crate) delta_points_max: usize,
    pub(crate) segment_points_max: usize,
    pub(crate) quiet_after_ns: Ns,
    pub(crate) deltas_waiting_max: usize,
    /// Segments are files, rather than in memory.
    pub(crate) files: bool,
    pub(crate) log_keep_entries: usize,
    /// Bytes of a log that waits for nobody.
    pub(crate) log_bytes_max: usize,
    pub(crate) append_bytes_max: usize,
    pub(crate) appends_in_flight_max: usize,
    pub(crate) snapshot_retry_ticks: u64,
    pub(crate) promotion_lag_max: u64,
    /// Most that a sync, applying, and a job take.
    pub(crate) sync_ns: Ns,
    pub(crate) apply_ns: Ns,
    pub(crate) job_ns: Ns,
    /// Records of a snapshot that travel together.
    pub(crate) lot: usize,
    pub(crate) loss: f64,
    pub(crate) late: f64,
    pub(crate) late_ms: u64,
    pub(crate) doubled: f64,
    /// Clocks of processes are fast or slow by this share at most.
    pub(crate) drift: f64,
    /// The bound of eventual reads.
    pub(crate) staleness_ms: u32,
    /// Trouble that may come, and the time between two of a kind on average.
    pub(crate) faults: BTreeSet<FaultKind>,
    pub(crate) fault_every_ns: Ns,
}

impl Shape {
    /// Draws one.
    pub(crate) fn draw(rng: &mut SmallRng) -> Self {
        let metrics = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
        let share = rng.random_range(0.3..1.0);
        let faults = FaultKind::ALL.into_iter().filter(|_| rng.random_bool(share)).collect();
        let calm_network = rng.random_bool(0.3);
        Self {
            trouble_ns: 360 * SEC,
            nodes: 5,
            coordinators: 3,
            clients: rng.random_range(2..=5),
            shards: rng.random_range(1..=3),
            witness: rng.random_bool(0.25),
            sleeps: rng.random_bool(0.6),
            ids: rng.random_range(20..=120),
            metric: *metrics.choose(rng).unwrap_or(&Metric::Cosine),
            dim: rng.random_range(2..=6),
            think_ns: rng.random_range(20..400) * MS,
            call_deadline_ns: rng.random_range(2..8) * SEC,
            delta_points_max: rng.random_range(8..=40),
            segment_points_max: rng.random_range(40..=400),
            quiet_after_ns: rng.random_range(1..10) * SEC,
            deltas_waiting_max: rng.random_range(4..=12),
            files: rng.random_bool(0.25),
            log_keep_entries: *[2, 20, 60, 300].choose(rng).unwrap_or(&60),
            append_bytes_max: *[400, 2_000, 100_000].choose(rng).unwrap_or(&2_000),
            appends_in_flight_max: rng.random_range(2..=16),
            snapshot_retry_ticks: rng.random_range(20..=100),
            promotion_lag_max: rng.random_range(5..=100),
            sync_ns: rng.random_range(1..30) * MS,
            apply_ns: rng.random_range(1..40) * MS,
            job_ns: rng.random_range(50..4_000) * MS,
            lot: rng.random_range(3..=40),
            loss: if calm_network { 0.0 } else { rng.random_range(0.0..0.04) },
            late: if calm_network { 0.0 } else { rng.random_range(0.0..0.05) },
            late_ms: rng.random_range(50..1_500),
            doubled: if rng.random_bool(0.5) { rng.random_range(0.0..0.1) } else { 0.0 },
            drift: if rng.random_bool(0.5) { rng.random_range(0.0..0.1) } else { 0.0 },
            staleness_ms: rng.random_range(500..6_000),
            faults,
            fault_every_ns: rng.random_range(3..25) * SEC,
            log_bytes_max: *[5_000, 40_000, 4 << 20].choose(rng).unwrap_or(&40_000),
        }
    }
}
