//! Replicas that nodes are to have and do not serve: which, for how long, and what to do. Such a shard answers all the same;
//! it has fewer copies than were asked for, and one failure more may stop it.
//!
//! What comes and goes with a restart or a new collection is not told: only what has lasted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_model::{ClusterMap, NodeId, Shard, ShardId, Standing};
use shoal_proto::v1;

use crate::heard::Heartbeat;

/// How long something must last before it is told.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// Entries that a replica may lag behind: as many as logs keep for it. With more it needs a snapshot.
const BEHIND_MAX: u64 = 4_096;
/// Shards or nodes that a warning names.
const NAMED_MAX: usize = 8;

/// Why a replica is not what it should be, on a node that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    /// Its node does not tell of it.
    Unopened,
    /// Its content is fetched from another.
    Restoring,
    /// It takes the place of one that leaves, and has no vote yet.
    Joining,
    /// It lags far behind the others.
    Behind,
}

/// The replicas that are lacking, and since when.
#[derive(Debug, Default)]
pub(crate) struct Lacking(Mutex<BTreeMap<(NodeId, Lack, ShardId), Instant>>);

impl Lacking {
    /// Takes note of what is lacking at `now`.
    pub(crate) fn note(&self, map: &ClusterMap, heard: &BTreeMap<NodeId, Heartbeat>, now: Instant) {
        let mut lacking = self.lock();
        let mut found = BTreeMap::new();
        for shard in map.shards.values() {
            for (node, lack) in lacks_of(shard, heard) {
                let key = (node, lack, shard.id);
                found.insert(key, lacking.get(&key).copied().unwrap_or(now));
            }
        }
        *lacking = found;
    }

    /// What has lasted until `now`, a warning for each node and reason.
    pub(crate) fn warnings(&self, map: &ClusterMap, now: Instant) -> Vec<v1::Warning> {
        let mut groups: BTreeMap<(NodeId, Lack), (Duration, Vec<ShardId>)> = BTreeMap::new();
        // What was dropped since it was noted lacks nothing.
        let lacking = self.lock();
        for ((node, lack, shard), since) in lacking.iter().filter(|((_, _, shard), _)| map.shards.contains_key(shard)) {
            let lasts = now.saturating_duration_since(*since);
            if lasts >= TOLD_AFTER {
                let (longest, shards) = groups.entry((*node, *lack)).or_default();
                *longest = lasts.max(*longest);
                shards.push(*shard);
            }
        }
        drop(lacking);
        groups.iter().map(|((node, lack), (lasts, shards))| warning(map, *node, *lack, *lasts, shards)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Lack, ShardId), Instant>> {
        // Replaced as a whole, so a poisoned map is one of before or after.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The replicas of a shard that are lacking on nodes that live. While no node has told of it, the shard has just been made.
fn lacks_of(shard: &Shard, heard: &BTreeMap<NodeId, Heartbeat>) -> Vec<(NodeId, Lack)> {
    let reports = || shard.replicas.iter().filter_map(|replica| heard.get(&replica.node)?.shards.get(&shard.id));
    let Some(committed) = reports().map(|report| report.commit_index).max() else { return Vec::new() };
    let stays = shard.replicas.iter().filter(|replica| replica.standing != Standing::Leaving);
    let lack = |replica: &shoal_model::ShardReplica| {
        let report = heard.get(&replica.node)?.shards.get(&shard.id);
        let lack = match report {
            None => Lack::Unopened,
            Some(report) if report.restoring => Lack::Restoring,
            Some(_) if replica.standing == Standing::Joining => Lack::Joining,
            Some(report) if report.applied_index.saturating_add(BEHIND_MAX) < committed => Lack::Behind,
            Some(_) => return None,
        };
        Some((replica.node, lack))
    };
    stays.filter_map(lack).collect()
}

fn warning(map: &ClusterMap, node: NodeId, lack: Lack, lasts: Duration, shards: &[ShardId]) -> v1::Warning {
    let name = map.nodes.get(&node).map_or("", |node| node.name.as_str());
    let (why, next_step) = match lack {
        Lack::Unopened => (
            "it has not opened its",
            "look at its log, which says what it waits for; start it again if it says nothing",
        ),
        Lack::Restoring => (
            "it fetches from another node the content of its",
            "wait: it serves them again by itself; its log says what holds it up, and so does a disk without room",
        ),
        Lack::Joining => (
            "it has no vote yet in the groups of its",
            "wait: it gets one once it has caught up; a majority of the other replicas must run for that",
        ),
        Lack::Behind => (
            "it lags far behind the others with its",
            "see whether its disk or its network is slow, or its disk has no room; it catches up by itself",
        ),
    };
    let (seconds, shards) = (lasts.as_secs(), shards_by_name(map, shards));
    let text = format!("node {} ({name}): for {seconds} s {why} replicas of {shards}: they have one copy less", node.0);
    v1::Warning { text, next_step: next_step.to_owned() }
}

/// Which, by their names: `node 2 (east), node 3 (west)`.
pub(crate) fn nodes_by_name(map: &ClusterMap, nodes: &[NodeId]) -> String {
    let name = |id: &NodeId| match map.nodes.get(id) {
        Some(node) => format!("node {} ({})", id.0, node.name),
        None => format!("node {}", id.0),
    };
    let mut named: Vec<String> = nodes.iter().take(NAMED_MAX).map(name).collect();
    if let Some(more) = nodes.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    named.join(", ")
}

/// How many, and which, by the names of their collections: `2 shards (docs: 7, 8)`.
pub(crate) fn shards_by_name(map: &ClusterMap, shards: &[ShardId]) -> String {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for id in shards.iter().take(NAMED_MAX) {
        let collection = map.shards.get(id).and_then(|shard| map.collections.get(&shard.collection));
        by_name.entry(collection.map_or("", |collection| &collection.name)).or_default().push(id.0.to_string());
    }
    let named = by_name.into_iter().map(|(name, ids)| format!("{name}: {}", ids.join(", ")));
    let mut named: Vec<String> = named.collect();
    if let Some(more) = shards.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    let shards = match shards.len() {
        1 => "1 shard".to_owned(),
        count => format!("{count} shards"),
    };
    format!("{shards} ({})", named.join("; "))
}

#[cfg(test)]
mod tests {
    use shoal_model::{CollectionSpec, Command, GraphSpec, IndexSpec, Metric, OperationId, StoreId, placement::place};
    use shoal_proto::v1::ReplicaReport;

    use super::*;

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        for i in 1..=3_u128 {
            let (address, name) = (format!("http://127.0.0.1:{i}"), format!("node-{i}"));
            map.apply(Command::RegisterNode { store: StoreId(i), name, address, zone: String::new(), replaces: None });
        }
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: "docs".into(), shards: 2, replicas: 3, witness: false, index };
        let placement = place(&map, 2, 3).expect("three nodes");
        map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
        map
    }

    /// What all nodes tell if all is well.
    fn heard(map: &ClusterMap, now: Instant) -> BTreeMap<NodeId, Heartbeat> {
        let report = ReplicaReport { applied_index: 10_000, commit_index: 10_000, ..ReplicaReport::default() };
        let heartbeat = |node: &NodeId| Heartbeat {
            shards: map.shards_on(*node).map(|shard| (shard.id, report.clone())).collect(),
            ..Heartbeat::new(now)
        };
        map.nodes.keys().map(|node| (*node, heartbeat(node))).collect()
    }

    #[test]
    fn what_lasts_is_told_by_node_and_reason() {
        let map = map();
        let began = Instant::now();
        let (first, second) = {
            let mut ids = map.shards.keys();
            (*ids.next().expect("two"), *ids.next().expect("two"))
        };
        let mut heard = heard(&map, began);
        let lacking = Lacking::default();
        lacking.note(&map, &heard, began);
        assert_eq!(lacking.warnings(&map, began + TOLD_AFTER), [], "all is well");

        let node = heard.get_mut(&NodeId(2)).expect("it lives");
        node.shards.get_mut(&first).expect("it has it").applied_index = 3;
        node.shards.remove(&second);
        heard.get_mut(&NodeId(3)).expect("it lives").shards.get_mut(&first).expect("it has it").restoring = true;
        lacking.note(&map, &heard, began);
        assert_eq!(lacking.warnings(&map, began + TOLD_AFTER / 2), [], "that may be a restart");
        let later = began + Duration::from_secs(12);
        lacking.note(&map, &heard, later);
        let texts: Vec<String> = lacking.warnings(&map, later).into_iter().map(|warning| warning.text).collect();
        let want = [
            format!(
                "node 2 (node-2): for 12 s it has not opened its replicas of 1 shard (docs: {second}): they have one copy less"
            ),
            format!(
                "node 2 (node-2): for 12 s it lags far behind the others with its replicas of 1 shard (docs: {first}): they have one copy less"
            ),
            format!(
                "node 3 (node-3): for 12 s it fetches from another node the content of its replicas of 1 shard (docs: {first}): they have one copy less"
            ),
        ];
        assert_eq!(texts, want);

        let node = heard.get_mut(&NodeId(2)).expect("it lives");
        node.shards.insert(second, ReplicaReport { applied_index: 10_000, ..ReplicaReport::default() });
        lacking.note(&map, &heard, later);
        assert_eq!(lacking.warnings(&map, later).len(), 2, "what is well again is told no more");
    }

    #[test]
    fn what_was_dropped_is_not_told_of() {
        let map = map();
        let began = Instant::now();
        let mut heard = heard(&map, began);
        heard.get_mut(&NodeId(2)).expect("it lives").shards.clear();
        let lacking = Lacking::default();
        lacking.note(&map, &heard, began);
        assert_eq!(lacking.warnings(&map, began + TOLD_AFTER).len(), 1);
        let mut without = map.clone();
        let (name, collection) = ("docs".to_owned(), map.collection("docs").map(|docs| docs.id));
        without.apply(Command::DropCollection { operation: OperationId(2), name, collection });
        assert_eq!(lacking.warnings(&without, began + TOLD_AFTER), []);
    }

    #[test]
    fn a_new_shard_and_a_silent_node_are_not_lacking_here() {
        let map = map();
        let now = Instant::now();
        let mut heard = heard(&map, now);
        heard.remove(&NodeId(2));
        let shard = map.shards.values().next().expect("two");
        assert_eq!(lacks_of(shard, &heard), [], "whoever is silent is told of as such");
        heard.values_mut().for_each(|heartbeat| heartbeat.shards.clear());
        assert_eq!(lacks_of(shard, &heard), [], "nobody has told of it yet");
    }

    #[test]
    fn many_shards_are_not_all_named() {
        let map = map();
        let ids: Vec<ShardId> = map.shards.keys().copied().collect();
        assert_eq!(shards_by_name(&map, &ids), format!("2 shards (docs: {}, {})", ids[0], ids[1]));
        let many: Vec<ShardId> = std::iter::repeat_n(ids[0], NAMED_MAX + 3).collect();
        assert!(shards_by_name(&map, &many).ends_with("; 3 more)"), "{}", shards_by_name(&map, &many));
    }
}
