//! Which nodes hold the replicas of new shards.
//!
//! A pure function of the map and of which nodes live. Its result travels inside the command, so that coordinators of different
//! versions still apply the same thing.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ClusterMap, NodeId};

/// There are fewer nodes than replicas of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewNodes {
    /// Nodes that could hold a replica.
    pub nodes: usize,
}

/// The nodes that may be given replicas: all but those whose stores are lost.
#[must_use]
pub fn candidates(map: &ClusterMap) -> BTreeSet<NodeId> {
    map.nodes.values().filter(|node| !node.replaced).map(|node| node.id).collect()
}

/// [`place_on`] all candidates, whether they live or not.
pub fn place(map: &ClusterMap, shards: u32, replicas: u32) -> Result<Vec<Vec<NodeId>>, TooFewNodes> {
    place_on(&candidates(map), map, shards, replicas)
}

/// Chooses `replicas` different nodes for each of `shards` new shards among those of `nodes` that are candidates, the
/// leading replica first.
///
/// Greedy: each replica goes to the node that holds the fewest, preferring a zone that the shard does not use
/// yet; of these the one leads that leads the fewest; ties by node id. So the counts of nodes in equal zones differ by at
/// most one after any number of calls, and where all nodes hold a replica of every shard, so do those of their leads.
pub fn place_on(
    nodes: &BTreeSet<NodeId>,
    map: &ClusterMap,
    shards: u32,
    replicas: u32,
) -> Result<Vec<Vec<NodeId>>, TooFewNodes> {
    let mut load: BTreeMap<NodeId, usize> = candidates(map).intersection(nodes).map(|node| (*node, 0)).collect();
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

    #[test]
    fn only_nodes_that_are_offered_get_replicas() {
        let mut map = map(&["", "", "", ""]);
        map.nodes.get_mut(&NodeId(4)).expect("four nodes").replaced = true;
        for (name, offered, replicas, want) in [
            ("one is silent", &[1, 3][..], 2, Ok(2)),
            ("too few live", &[1, 3], 3, Err(TooFewNodes { nodes: 2 })),
            ("a lost store lives on in no list", &[1, 2, 3, 4], 4, Err(TooFewNodes { nodes: 3 })),
            ("nor one that nobody knows", &[1, 9], 2, Err(TooFewNodes { nodes: 1 })),
            ("none lives", &[], 1, Err(TooFewNodes { nodes: 0 })),
        ] {
            let offered: BTreeSet<NodeId> = offered.iter().copied().map(NodeId).collect();
            let placed = place_on(&offered, &map, 5, replicas);
            assert!(placed.iter().flatten().flatten().all(|node| offered.contains(node)), "{name}: {placed:?}");
            assert_eq!(placed.map(|shards| shards[0].len()), want, "{name}");
        }
    }
}
