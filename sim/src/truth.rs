//! What must hold at every moment of a run, whoever looks: kept by the simulation, which sees all processes at once.
//!
//! - One entry for each place of a log; one leader for each term of a group.
//! - One digest for each position of a shard, on every replica and at every time.
//! - One map for each position of the coordinators' log, and its invariants hold.
//! - No process ends by itself, no group gives up.
//! - A call is served under the epoch that it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_checker::digest::Observation;
use shoal_consensus::{GroupStatus, Role};
use shoal_model::{ClusterMap, Epoch, GroupId, LogIndex, ReplicaId, ShardId};
use xxhash_rust::xxh3::xxh3_64;

/// Groups of coordinators and of shards are numbered apart.
type Group = (bool, GroupId);

/// What is known of a run from outside.
#[derive(Default)]
pub(crate) struct Truth {
    chosen: BTreeMap<(Group, LogIndex), u64>,
    leaders: BTreeMap<(Group, u64), ReplicaId>,
    digests: BTreeMap<(ShardId, LogIndex), (u128, ReplicaId)>,
    maps: BTreeMap<LogIndex, u64>,
    /// The newest map that any coordinator has applied.
    pub(crate) newest: Arc<ClusterMap>,
    pub(crate) observations: Vec<Observation>,
    /// What was broken, in the order in which it was noticed.
    pub(crate) broken: Vec<String>,
}

impl Truth {
    /// Something that must hold does not.
    pub(crate) fn breaks(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }

    /// A replica was handed an entry as committed.
    pub(crate) fn chose(&mut self, is_map: bool, group: GroupId, index: LogIndex, data: &[u8]) {
        let hash = xxh3_64(data);
        if *self.chosen.entry(((is_map, group), index)).or_insert(hash) != hash {
            self.breaks(format!("group {group}: two entries are committed at {index}"));
        }
    }

    pub(crate) fn leads(&mut self, is_map: bool, status: &GroupStatus) {
        if status.role != Role::Leader {
            return;
        }
        let known = *self.leaders.entry(((is_map, status.group), status.term)).or_insert(status.me);
        if known != status.me {
            let (group, term, me) = (status.group, status.term, status.me);
            self.breaks(format!("group {group}: replicas {known} and {me} both lead in term {term}"));
        }
    }

    pub(crate) fn leader_terms(&self) -> usize {
        self.leaders.len()
    }

    pub(crate) fn digest(&mut self, shard: ShardId, applied: LogIndex, replica: ReplicaId, digest: u128) {
        self.observations.push(Observation { shard, applied, replica, digest: digest.to_be_bytes().to_vec() });
        let (known, by) = *self.digests.entry((shard, applied)).or_insert((digest, replica));
        if known != digest {
            self.breaks(format!("shard {shard}: replicas {by} and {replica} differ at {applied}"));
        }
    }

    pub(crate) fn map(&mut self, applied: LogIndex, map: &Arc<ClusterMap>, encoded: &[u8]) {
        let hash = xxh3_64(encoded);
        if *self.maps.entry(applied).or_insert(hash) != hash {
            self.breaks(format!("coordinators hold different maps at {applied}"));
        }
        if map.epoch > self.newest.epoch {
            self.newest = map.clone();
            if let Some(problem) = map.broken_invariant() {
                self.breaks(format!("map at epoch {}: {problem}", map.epoch));
            }
        }
    }

    /// A replica serves a call that names an epoch of its shard.
    pub(crate) fn serves(&mut self, shard: ShardId, named: Epoch, own: Epoch) {
        if named != own {
            self.breaks(format!("shard {shard}: a call under epoch {named} is served under {own}"));
        }
    }
}
