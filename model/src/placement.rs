//! Which nodes hold the replicas of new shards.
//!
//! A pure function of the map. Its result travels inside the command, so that coordinators of different
//! versions still apply the same thing.

use std::collections::BTreeMap;

use crate::{ClusterMap, NodeId};

/// There are fewer nodes than replicas of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewNodes {
    /// Nodes that could hold a replica.
    pub nodes: usize,
}

/// Chooses `replicas` different nodes for each of `shards` new shards, the leading replica first.
///
/// Greedy: each replica goes to the node that holds the fewest, preferring a zone that the shard does not use
/// yet; of these the one leads that leads the fewest; ties by node id. So the counts of nodes in equal zones differ by at
/// most one after any number of calls, and where all nodes hold a replica of every shard, so do those of their leads.
pub fn place(map: &ClusterMap, shards: u32, replicas: u32) -> Result<Vec<Vec<NodeId>>, TooFewNodes> {
    let usable = map.nodes.values().filter(|node| !node.replaced);
    let mut load: BTreeMap<NodeId, usize> = usable.map(|node| (node.id, 0)).collect();
    if load.len() < replicas as usize || load.is_empty() {
        return Err(TooFewNodes { nodes: load.len() });
    }
    let mut leads = load.clone();
    for shard in map.shards.values() {
        shard.replicas.iter().for_each(|replica| count(&mut load, replica.node));
        shard.full_replicas().take(1).for_each(|first| count(&mut leads, first.node));
    }
    let place_next = |_| {
        let mut nodes = place_shard(map, &mut load, replicas);
        lead_evenly(&mut leads, &mut nodes);
        nodes
    };
    Ok((0..shards).map(place_next).collect())
}

/// One more for a node that is counted.
fn count(counts: &mut BTreeMap<NodeId, usize>, node: NodeId) {
    counts.entry(node).and_modify(|count| *count += 1);
}

/// Moves the node that leads the fewest shards to the front.
fn lead_evenly(leads: &mut BTreeMap<NodeId, usize>, nodes: &mut [NodeId]) {
    let led = |node: &NodeId| leads.get(node).copied().unwrap_or(0);
    let fewest = nodes.iter().enumerate().min_by_key(|(_, node)| (led(node), **node)).map(|(at, _)| at);
    if let Some(at) = fewest {
        nodes[..=at].rotate_right(1);
        count(leads, nodes[0]);
    }
}

fn place_shard(map: &ClusterMap, load: &mut BTreeMap<NodeId, usize>, replicas: u32) -> Vec<NodeId> {
    let mut chosen: Vec<NodeId> = Vec::new();
    for _ in 0..replicas {
        let zone_uses = |node: NodeId| chosen.iter().filter(|c| map.zone(**c) == map.zone(node)).count();
        let best = load
            .keys()
            .filter(|node| !chosen.contains(node))
            .min_by_key(|node| (zone_uses(**node), load.get(node).copied().unwrap_or(0), **node));
        let Some(best) = best.copied() else { break };
        *load.entry(best).or_default() += 1;
        chosen.push(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CollectionSpec, Command, GraphSpec, IndexSpec, Metric, OperationId, StoreId};

    fn map(zones: &[&str]) -> ClusterMap {
        let mut map = ClusterMap::default();
        for (i, zone) in (1_u32..).zip(zones) {
            let outcome = map.apply(Command::RegisterNode {
                store: StoreId(i.into()),
                name: format!("node-{i}"),
                address: format!("http://127.0.0.1:{i}"),
                zone: (*zone).to_owned(),
                replaces: None,
            });
            assert!(outcome.reply.is_ok());
        }
        map
    }

    #[test]
    fn replicas_are_spread_evenly_over_nodes_and_zones() {
        for (zones, shards, replicas) in [
            (&["", "", ""][..], 9, 1),
            (&["", "", ""], 7, 2),
            (&["a", "a", "b", "b", "c", "c"], 12, 3),
            (&["a", "b"], 5, 2),
        ] {
            let map = map(zones);
            let placed = place(&map, shards, replicas).expect("enough nodes");
            assert_eq!(placed.len(), shards as usize);
            let mut load: BTreeMap<NodeId, usize> = map.nodes.keys().map(|n| (*n, 0)).collect();
            for nodes in &placed {
                let mut distinct = nodes.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), replicas as usize, "no node twice in {nodes:?}");
                nodes.iter().for_each(|n| *load.entry(*n).or_default() += 1);
                if zones[0] == "a" {
                    let mut used: Vec<_> = nodes.iter().map(|n| map.zone(*n)).collect();
                    used.sort_unstable();
                    used.dedup();
                    assert_eq!(used.len(), replicas as usize, "no zone twice in {nodes:?}");
                }
            }
            let (min, max) = (load.values().min(), load.values().max());
            assert!(max.zip(min).is_some_and(|(max, min)| max - min <= 1), "{zones:?}: {load:?}");
        }
    }

    #[test]
    fn leads_are_spread_over_nodes_that_hold_every_shard() {
        let mut map = map(&["", "", ""]);
        for (operation, shards) in [(1, 3), (2, 1), (3, 2), (4, 7)] {
            let placement = place(&map, shards, 3).expect("enough nodes");
            let spec = CollectionSpec { name: format!("docs-{operation}"), shards, replicas: 3, ..spec() };
            map.apply(Command::CreateCollection { operation: OperationId(operation), spec, placement });
            let mut leads: BTreeMap<NodeId, usize> = map.nodes.keys().map(|node| (*node, 0)).collect();
            map.shards.values().for_each(|shard| *leads.entry(shard.replicas[0].node).or_default() += 1);
            let (min, max) = (leads.values().min(), leads.values().max());
            assert!(max.zip(min).is_some_and(|(max, min)| max - min <= 1), "{leads:?}");
        }
    }

    fn spec() -> CollectionSpec {
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        CollectionSpec { name: "docs".to_owned(), shards: 1, replicas: 1, witness: false, index }
    }

    #[test]
    fn too_few_nodes_are_refused() {
        assert_eq!(place(&map(&[]), 1, 1), Err(TooFewNodes { nodes: 0 }));
        assert_eq!(place(&map(&["", ""]), 1, 3), Err(TooFewNodes { nodes: 2 }));
    }
}
