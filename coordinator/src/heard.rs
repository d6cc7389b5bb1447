//! What the leader has heard of nodes. Kept in memory alone: it is news, not an agreement, and a new leader
//! hears it all again within one heartbeat.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_model::{NodeId, ShardId};
use shoal_proto::v1::ReplicaReport;

/// The last heartbeat of a node.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) at: Instant,
    pub(crate) shards: BTreeMap<ShardId, ReplicaReport>,
    pub(crate) disk_bytes: u64,
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

    /// Nodes heard of within `timeout` before `now`.
    pub(crate) fn alive(&self, now: Instant, timeout: Duration) -> usize {
        self.lock().values().filter(|heartbeat| now.saturating_duration_since(heartbeat.at) <= timeout).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heartbeat>> {
        // One insert is one change, so a poisoned map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
