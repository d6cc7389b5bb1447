//! What the simulation of a cluster shares with a real coordinator: the map behind its log, how one begins and joins, and
//! what a leader does about reports of nodes. Nothing else may use it.

use std::collections::BTreeMap;
use std::time::Instant;

use shoal_model::{ClusterMap, NodeId, ReplicaId, ShardId};

pub use crate::beginning::{Beginning, coordinator_of, decide, founder, has_begun, newcomer, note, stored};
use crate::coordinator;
use crate::heard::Heartbeat;
pub use crate::joining::{Step, is_settled, next_step};
pub use crate::machine::{Applied, GROUP, MapMachine};

/// Who has a vote in the groups that a node leads, as it reported last.
pub type Voters = BTreeMap<ShardId, Vec<ReplicaId>>;

/// The shards with replicas that come or go, and who has a vote in them by the report of their leader.
#[must_use]
pub fn settled(map: &ClusterMap, heard: &BTreeMap<NodeId, Voters>) -> Vec<(ShardId, Vec<ReplicaId>)> {
    let heartbeat = |voters: &Voters| Heartbeat { voters: voters.clone(), ..Heartbeat::new(Instant::now()) };
    coordinator::settled(map, &heard.iter().map(|(node, voters)| (*node, heartbeat(voters))).collect())
}
