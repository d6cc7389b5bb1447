//! Whether a node's store may be given up for a new one: by what nodes say of the content of their replicas, and by who says
//! anything. The map knows who is a member; a member whose content was lost is one still, and has nothing until it has fetched
//! it anew, and one whose node is silent has a vote still, and does not use it.

use shoal_model::{ClusterMap, NodeId, Shard, ShardId, ShardReplica, Standing, StoreId};

use crate::heard::{Hearing, Liveness};

/// A shard whose members on other nodes all wait for their content, so that the `lost` store may have the only copy of it.
/// What a node said last counts, however long ago: one that is silent has what it had.
pub(crate) fn waiting_for(map: &ClusterMap, lost: StoreId, hearing: &Hearing) -> Option<ShardId> {
    let node = map.nodes.values().find(|node| node.store == lost)?.id;
    let waits = |shard: &Shard, replica: &ShardReplica| {
        let said = hearing.heartbeats.get(&replica.node).and_then(|heard| heard.shards.get(&shard.id));
        said.is_some_and(|report| report.restoring)
    };
    let elsewhere = |replica: &&ShardReplica| replica.node != node && replica.standing == Standing::Member;
    let has_points = |shard: &&Shard| shard.replica_on(node).is_some_and(|replica| !replica.witness);
    let only = |shard: &&Shard| shard.full_replicas().filter(elsewhere).all(|replica| waits(shard, replica));
    map.shards_on(node).filter(has_points).find(only).map(|shard| shard.id)
}

/// A shard whose voters that are heard of are no majority without the `lost` store, and the members to start so that they are
/// one: until then its new member could not join, and what it was to hold might be lost with it. A shard that would have no
/// majority whoever is heard of is for the map to refuse.
pub(crate) fn silent_without(map: &ClusterMap, lost: StoreId, hearing: &Hearing) -> Option<(ShardId, Vec<NodeId>)> {
    let node = map.nodes.values().find(|node| node.store == lost)?.id;
    map.shards_on(node).find_map(|shard| {
        let voters = shard.replicas.iter().filter(|replica| replica.standing != Standing::Joining).count();
        let stays =
            shard.replicas.iter().filter(|replica| replica.node != node && replica.standing == Standing::Member);
        let (well, silent): (Vec<NodeId>, Vec<NodeId>) =
            stays.map(|replica| replica.node).partition(|node| hearing.liveness(*node) == Liveness::Alive);
        let is_majority = |count| 2 * count > voters;
        (is_majority(well.len() + silent.len()) && !is_majority(well.len())).then_some((shard.id, silent))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use shoal_model::{CollectionSpec, Command, GraphSpec, IndexSpec, Metric, OperationId, placement::place};
    use shoal_proto::v1::ReplicaReport;

    use super::*;
    use crate::heard::Heartbeat;
    use crate::heard::tests::hearing;

    fn map(replicas: u32, witness: bool) -> ClusterMap {
        let mut map = ClusterMap::default();
        for i in 1..=3_u128 {
            let (address, name) = (format!("http://127.0.0.1:{i}"), format!("node-{i}"));
            map.apply(Command::RegisterNode { store: StoreId(i), name, address, zone: String::new(), replaces: None });
        }
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: "docs".into(), shards: 1, replicas, witness, index };
        let placement = place(&map, 1, spec.copies()).expect("three nodes");
        map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
        map
    }

    /// What nodes say, of which some wait for their content.
    fn heard(map: &ClusterMap, waiting: &[NodeId]) -> Hearing {
        let now = Instant::now() + Duration::from_secs(3_600);
        let report = |node: &NodeId| ReplicaReport { restoring: waiting.contains(node), ..ReplicaReport::default() };
        let heartbeat = |node: &NodeId| Heartbeat {
            shards: map.shards_on(*node).map(|shard| (shard.id, report(node))).collect(),
            ..Heartbeat::new(now)
        };
        hearing(now, map.nodes.keys().map(|node| (*node, heartbeat(node))))
    }

    fn nobody() -> Hearing {
        hearing(Instant::now(), [])
    }

    #[test]
    fn the_only_member_with_content_is_not_given_up() {
        for (name, replicas, witness, waiting, kept) in [
            ("all have it", 3, false, 0, false),
            ("another has it", 3, false, 1, false),
            ("nobody else has it", 3, false, 2, true),
            ("a witness has none", 2, true, 1, true),
            ("the other has it", 2, true, 0, false),
        ] {
            let map = map(replicas, witness);
            let shard = map.shards.values().next().expect("created");
            let nodes: Vec<NodeId> = shard.full_replicas().map(|replica| replica.node).collect();
            let lost = map.nodes[&nodes[0]].store;
            let heard = heard(&map, &nodes[1..=waiting]);
            assert_eq!(waiting_for(&map, lost, &heard).is_some(), kept, "{name}");
            assert_eq!(waiting_for(&map, lost, &nobody()), None, "{name}: who is silent has what it had");
            assert_eq!(waiting_for(&map, StoreId(77), &heard), None, "{name}: nobody knows that store");
        }
        let map = map(2, true);
        let shard = map.shards.values().next().expect("created");
        let witness = shard.replicas.iter().find(|replica| replica.witness).expect("one of three").node;
        let nodes: Vec<NodeId> = shard.full_replicas().map(|replica| replica.node).collect();
        let heard = heard(&map, &nodes);
        assert_eq!(waiting_for(&map, map.nodes[&witness].store, &heard), None, "a witness has no points to lose");
    }

    #[test]
    fn a_store_is_not_given_up_while_a_majority_would_be_silent() {
        for (name, replicas, witness, silent, replaced, want) in [
            ("all are heard of", 3, false, vec![], None, None),
            ("one of the other two is silent", 3, false, vec![1], None, Some(vec![1])),
            ("both are", 3, false, vec![1, 2], None, Some(vec![1, 2])),
            ("the witness is silent", 2, true, vec![2], None, Some(vec![2])),
            ("the store itself is silent", 3, false, vec![0], None, None),
            ("one that joins has no vote yet", 3, false, vec![], Some(1), None),
            ("two are never a majority without one", 2, false, vec![1], None, None),
            ("the only copy", 1, false, vec![], None, None),
        ] {
            let mut map = map(replicas, witness);
            let shard = map.shards.values().next().expect("created").clone();
            let nodes: Vec<NodeId> = shard.replicas.iter().map(|replica| replica.node).collect();
            if let Some(gone) = replaced {
                let (lost, address) = (map.nodes[&nodes[gone]].store, "http://127.0.0.1:9".to_owned());
                let name = "node-9".to_owned();
                let command = Command::RegisterNode {
                    store: StoreId(9),
                    name,
                    address,
                    zone: String::new(),
                    replaces: Some(lost),
                };
                map.apply(command).reply.expect("two of three are left");
            }
            let mut heard = heard(&map, &[]);
            silent.iter().for_each(|at| drop(heard.heartbeats.remove(&nodes[*at])));
            let found = silent_without(&map, map.nodes[&nodes[0]].store, &heard);
            let want: Option<Vec<NodeId>> = want.map(|at: Vec<usize>| at.into_iter().map(|at| nodes[at]).collect());
            assert_eq!(found.map(|(_, silent)| silent), want, "{name}");
        }
        assert_eq!(silent_without(&map(3, false), StoreId(77), &nobody()), None, "nobody knows that store");
    }
}
