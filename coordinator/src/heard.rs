//! What a coordinator has heard of nodes. Kept in memory alone: it is news, not an agreement. The leader hears
//! everything, a new one within one heartbeat; the others hear what passes through them, for the time without one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_model::{NodeId, ReplicaId, ShardId};
use shoal_proto::v1::ReplicaReport;
use shoal_runtime::DiskState;

/// The last heartbeat of a node.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) at: Instant,
    pub(crate) shards: BTreeMap<ShardId, ReplicaReport>,
    /// Who has a vote in the groups that it leads and that are not about to change.
    pub(crate) voters: BTreeMap<ShardId, Vec<ReplicaId>>,
    pub(crate) disk_bytes: u64,
    pub(crate) disk: DiskState,
    /// What is damaged there and nowhere else; empty if nothing is.
    pub(crate) damage: String,
}

impl Heartbeat {
    /// One that tells of nothing.
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            at,
            shards: BTreeMap::new(),
            voters: BTreeMap::new(),
            disk_bytes: 0,
            disk: DiskState::default(),
            damage: String::new(),
        }
    }
}

/// The last heartbeat of every node.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<BTreeMap<NodeId, Heartbeat>>);

impl Heard {
    /// Takes note of a heartbeat.
    pub(crate) fn note(&self, node: NodeId, heartbeat: Heartbeat) {
        self.lock().insert(node, heartbeat);
    }

    /// All last heartbeats of this moment.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, Heartbeat> {
        self.lock().clone()
    }

    /// The last heartbeats of nodes heard of within `timeout` before `now`: what a silent node said is no news.
    pub(crate) fn lately(&self, now: Instant, timeout: Duration) -> BTreeMap<NodeId, Heartbeat> {
        let mut all = self.all();
        all.retain(|_, heartbeat| now.saturating_duration_since(heartbeat.at) <= timeout);
        all
    }

    /// The disks of nodes heard of within `timeout` before `now`.
    pub(crate) fn disks(&self, now: Instant, timeout: Duration) -> Vec<(NodeId, DiskState)> {
        let lately = |heartbeat: &Heartbeat| now.saturating_duration_since(heartbeat.at) <= timeout;
        let all = self.lock();
        let disks = all.iter().filter(|(_, heartbeat)| lately(heartbeat));
        disks.map(|(node, heartbeat)| (*node, heartbeat.disk.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heartbeat>> {
        // One insert is one change, so a poisoned map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
