//! What is configured on a coordinator.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shoal_model::{InputError, Limits, ReplicaId};
use shoal_runtime::Reserve;

use crate::beginning::{COORDINATOR_MAX, coordinator_of, founder};

/// Configuration of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorConfig {
    /// Its number among `peers`, from 1 to 65,535.
    pub id: u64,
    /// All coordinators, this one included; the same list on each of them.
    pub peers: Vec<PeerConfig>,
    /// Caps on requests.
    #[serde(default)]
    pub limits: Limits,
    /// Silence after which a node counts as gone.
    #[serde(default = "default_heartbeat_timeout_ms")]
    pub heartbeat_timeout_ms: u32,
    /// Bytes of its disk that it leaves free: with less, it hands the lead to one that has room, or refuses new collections.
    #[serde(default = "default_disk_reserve_bytes")]
    pub disk_reserve_bytes: u64,
    /// The same in percent of the disk; the smaller of the two counts.
    #[serde(default = "default_disk_reserve_percent")]
    pub disk_reserve_percent: u32,
}

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its number.
    pub id: u64,
    /// URI of its gRPC endpoint.
    pub address: String,
}

fn default_heartbeat_timeout_ms() -> u32 {
    3_000
}

/// A thousand times the map of a large cluster.
fn default_disk_reserve_bytes() -> u64 {
    256 << 20
}

/// For disks so small that the above would be most of them.
fn default_disk_reserve_percent() -> u32 {
    5
}

impl CoordinatorConfig {
    /// Refuses what could not work, naming the field.
    pub fn validate(&self) -> Result<(), InputError> {
        let ids: BTreeSet<u64> = self.peers.iter().map(|peer| peer.id).collect();
        if ids.len() != self.peers.len() || ids.contains(&0) {
            return Err(InputError::new("coordinator.peers", "ids must differ and be at least 1"));
        }
        if ids.last().is_some_and(|id| *id > COORDINATOR_MAX) {
            return Err(InputError::new("coordinator.peers", format!("ids must be at most {COORDINATOR_MAX}")));
        }
        if !ids.contains(&self.id) {
            return Err(InputError::new("coordinator.id", format!("{} is not among coordinator.peers", self.id)));
        }
        if self.peers.len().is_multiple_of(2) {
            let problem = format!("has {} members; an odd number survives more failures", self.peers.len());
            return Err(InputError::new("coordinator.peers", problem));
        }
        for (i, peer) in self.peers.iter().enumerate() {
            let within = |e: InputError| e.within(&format!("coordinator.peers[{i}].address"));
            shoal_proto::server::check_address(&peer.address).map_err(within)?;
        }
        if self.heartbeat_timeout_ms == 0 {
            return Err(InputError::new("coordinator.heartbeat_timeout_ms", "must be at least 1"));
        }
        if self.disk_reserve_percent > 90 {
            return Err(InputError::new("coordinator.disk_reserve_percent", "must be at most 90"));
        }
        self.limits.validate().map_err(|e| e.within("coordinator"))
    }

    /// What is kept free of its disk.
    pub(crate) fn disk_reserve(&self) -> Reserve {
        Reserve { bytes: self.disk_reserve_bytes, percent: self.disk_reserve_percent }
    }

    /// The first members of the coordinators' group.
    pub(crate) fn founders(&self) -> Vec<ReplicaId> {
        self.peers.iter().map(|peer| founder(peer.id)).collect()
    }

    /// Where a member is: where its coordinator is.
    pub(crate) fn address_of(&self, member: ReplicaId) -> Option<&str> {
        self.peers.iter().find(|peer| peer.id == coordinator_of(member)).map(|peer| peer.address.as_str())
    }
}
