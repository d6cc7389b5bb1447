//! Which node's replica leads each shard, as far as this router has learnt from answers.
//!
//! A hint: a replica that does not lead says who does, and is asked no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_model::{ClusterMap, NodeId, ShardId};

use crate::fanout::Event;

/// Leaders by shard.
#[derive(Debug, Default)]
pub(crate) struct Leaders(Mutex<BTreeMap<ShardId, NodeId>>);

impl Leaders {
    /// Those of some shards.
    pub(crate) fn of(&self, shards: &BTreeSet<ShardId>) -> BTreeMap<ShardId, NodeId> {
        let known = self.lock();
        shards.iter().filter_map(|shard| Some((*shard, *known.get(shard)?))).collect()
    }

    /// What a node that was asked as a leader has said.
    pub(crate) fn hear(&self, node: NodeId, event: &Event) {
        let Event::Answered { answered, failed, .. } = event else { return };
        let mut known = self.lock();
        known.extend(answered.iter().map(|shard| (*shard, node)));
        known.extend(failed.iter().filter_map(|(shard, failure)| Some((*shard, failure.leader?))));
    }

    /// Forgets shards that are gone.
    pub(crate) fn retain(&self, map: &ClusterMap) {
        self.lock().retain(|shard, _| map.shards.contains_key(shard));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, NodeId>> {
        // Every change is one call, so a poisoned table is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
