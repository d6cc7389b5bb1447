//! What needs attention, and what to do about it: pure, from the map and what was heard.

use std::cmp::Reverse;

use shoal_model::{ClusterMap, Node, NodeId, ShardId};
use shoal_proto::disk::{disk_from_wire, disk_to_wire};
use shoal_proto::v1;
use shoal_proto::v1::ShardHealth;
use shoal_runtime::Room;

use crate::health::health_of;
use crate::heard::{Hearing, Heartbeat, Liveness};
use crate::lacking::{nodes_by_name, shards_by_name};
use crate::quorum;

/// How one node is.
pub(crate) fn node_status(map: &ClusterMap, node: &Node, hearing: &Hearing) -> v1::NodeStatus {
    let (liveness, heartbeat) = (hearing.liveness(node.id), hearing.heartbeats.get(&node.id));
    v1::NodeStatus {
        id: node.id.0,
        name: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
        alive: liveness == Liveness::Alive,
        awaited: liveness == Liveness::Awaited,
        silent_ms: hearing.silence(node.id).map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
        replicas: u32::try_from(map.shards_on(node.id).count()).unwrap_or(u32::MAX),
        disk_bytes: heartbeat.map(|heartbeat| heartbeat.disk_bytes),
        disk: heartbeat.and_then(|heartbeat| disk_to_wire(&heartbeat.disk)),
    }
}

/// Warnings, the most urgent first: no leader (`stale`), nodes that are silent, the most shards lost first, shards without
/// a leader, members that are gone, disks without room, what else is `lacking`, then what replicas could not build.
pub(crate) fn warnings(
    map: &ClusterMap,
    nodes: &[v1::NodeStatus],
    hearing: &Hearing,
    coordinators: &[v1::CoordinatorStatus],
    lacking: Vec<v1::Warning>,
    stale: bool,
) -> Vec<v1::Warning> {
    let stand = quorum::stand(coordinators);
    let mut warnings: Vec<v1::Warning> = quorum::no_leader(coordinators, stand, stale).into_iter().collect();
    warnings.extend(awaited(map, nodes));
    warnings.extend(silent(map, nodes, hearing));
    warnings.extend(without_leader(map, hearing));
    warnings.extend(quorum::members(coordinators, stand, stale));
    let heard = |node: &v1::NodeStatus| hearing.lately(NodeId(node.id));
    warnings.extend(nodes.iter().filter_map(|node| damaged(node, heard(node)?)));
    warnings.extend(coordinators.iter().filter_map(coordinator_without_room));
    warnings.extend(nodes.iter().filter(|node| node.alive).filter_map(without_room));
    warnings.extend(lacking);
    warnings.extend(nodes.iter().filter_map(|node| failed_jobs(map, node, heard(node)?)));
    warnings
}

/// The nodes of which nobody can say yet whether they live.
fn awaited(map: &ClusterMap, nodes: &[v1::NodeStatus]) -> Option<v1::Warning> {
    let awaited: Vec<NodeId> = nodes.iter().filter(|node| node.awaited).map(|node| NodeId(node.id)).collect();
    let names = nodes_by_name(map, &awaited);
    let text = format!("not heard of yet, by a coordinator that began to lead a moment ago: {names}");
    let next_step = "ask again in some seconds: then it is known whether they live";
    (!awaited.is_empty()).then(|| v1::Warning { text, next_step: next_step.to_owned() })
}

/// What to do about a node that is silent.
fn bring_back(node: &v1::NodeStatus, is_replaced: bool) -> String {
    let (id, address) = (node.id, &node.address);
    match node.replicas {
        _ if is_replaced => "wait: another node takes its place, and it goes once that has its replicas".to_owned(),
        0 => {
            format!("start it again on its data folder (it listened on {address}), or remove it: `shoal node rm {id}`")
        }
        _ => format!(
            "start it again on its data folder (it listened on {address}); if that is lost, start a node on an empty one with \
             `--replaces {id}`"
        ),
    }
}

/// The nodes that are silent, and which shards that costs; those that cost most first.
fn silent(map: &ClusterMap, nodes: &[v1::NodeStatus], hearing: &Hearing) -> Vec<v1::Warning> {
    let mut silent: Vec<(usize, v1::Warning)> = Vec::new();
    for node in nodes.iter().filter(|node| !node.alive && !node.awaited) {
        let those = |health: ShardHealth| {
            let shards = map.shards_on(NodeId(node.id)).filter(move |shard| health_of(shard, hearing) == health);
            shards.map(|shard| shard.id).collect::<Vec<ShardId>>()
        };
        let (unavailable, fewer) = (those(ShardHealth::Unavailable), those(ShardHealth::Degraded));
        let for_how_long = match node.silent_ms {
            Some(ms) => format!("for {} s", ms / 1_000),
            None => "since the leader changed".to_owned(),
        };
        let mut text = format!("node {} ({}) was not heard of {for_how_long}", node.id, node.name);
        for (what, shards) in [("unavailable", &unavailable), ("with one copy less", &fewer)] {
            if !shards.is_empty() {
                text += &format!("; {what}: {}", shards_by_name(map, shards));
            }
        }
        if node.replicas == 0 {
            text += "; it has no replicas";
        }
        let next_step = bring_back(node, map.nodes.get(&NodeId(node.id)).is_some_and(|node| node.replaced));
        silent.push((unavailable.len(), v1::Warning { text, next_step }));
    }
    silent.sort_by_key(|(unavailable, _)| Reverse(*unavailable));
    silent.into_iter().map(|(_, warning)| warning).collect()
}

/// The shards that nobody serves although none of their nodes is silent.
fn without_leader(map: &ClusterMap, hearing: &Hearing) -> Option<v1::Warning> {
    let is_silent = |node| hearing.liveness(node) == Liveness::Silent;
    let shards: Vec<&shoal_model::Shard> = map
        .shards
        .values()
        .filter(|shard| !shard.replicas.iter().any(|replica| is_silent(replica.node)))
        .filter(|shard| health_of(shard, hearing) == ShardHealth::Unavailable)
        .collect();
    let mut nodes: Vec<NodeId> = shards.iter().flat_map(|shard| &shard.replicas).map(|replica| replica.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
    let text = format!("without a leader, and so unavailable, though their nodes live: {}", shards_by_name(map, &ids));
    let next_step = format!("look at the logs of {}, which say what they wait for", nodes_by_name(map, &nodes));
    (!ids.is_empty()).then_some(v1::Warning { text, next_step })
}

/// A node whose disk has no room for writes.
fn without_room(node: &v1::NodeStatus) -> Option<v1::Warning> {
    let disk = disk_from_wire(node.disk.clone()?);
    let refuses = match disk.room {
        Room::Enough => return None,
        Room::Low => "it takes no writes as a leader, and builds nothing",
        Room::Exhausted => "it takes no writes, also not from leaders on other nodes, and builds nothing",
    };
    let text = format!("the disk of node {} ({}) has no room: {disk}; {refuses}", node.id, node.name);
    let next_step = "make room on that disk, or give it more; reads go on, and writes are taken again by themselves";
    Some(v1::Warning { text, next_step: next_step.to_owned() })
}

/// A node that has damage which nobody can mend.
fn damaged(node: &v1::NodeStatus, heartbeat: &Heartbeat) -> Option<v1::Warning> {
    let (id, name, damage) = (node.id, &node.name, &heartbeat.damage);
    let text = format!("node {id} ({name}) is damaged, and has the only copy of a shard: {damage}");
    let next_step = "read what can still be read, write it to another collection, and replace the node's disk";
    (!damage.is_empty()).then(|| v1::Warning { text, next_step: next_step.to_owned() })
}

/// A coordinator whose disk has no room for changes.
fn coordinator_without_room(coordinator: &v1::CoordinatorStatus) -> Option<v1::Warning> {
    let disk = disk_from_wire(coordinator.disk.clone()?);
    let text = format!("the disk of coordinator {} has no room: {disk}", coordinator.id);
    let next_step = "make room on that disk; while it leads, no collections can be created";
    (disk.room > Room::Enough).then(|| v1::Warning { text, next_step: next_step.to_owned() })
}

/// What a node's replicas could not build, merge or fetch.
fn failed_jobs(map: &ClusterMap, node: &v1::NodeStatus, heartbeat: &Heartbeat) -> Option<v1::Warning> {
    // A shard that was dropped is of no concern.
    let there = heartbeat.shards.iter().filter(|(shard, _)| map.shards.contains_key(shard));
    let failed: Vec<(ShardId, &String)> =
        there.filter_map(|(shard, report)| Some((*shard, report.job_failures.first()?))).collect();
    let (shard, failure) = failed.first()?;
    let (id, name) = (node.id, &node.name);
    let shards = shards_by_name(map, &failed.iter().map(|(shard, _)| *shard).collect::<Vec<_>>());
    let text = format!(
        "node {id} ({name}) cannot build, merge or fetch segments of {shards} for the moment; shard {shard}: {failure}"
    );
    let next_step = "wait: it is tried again by itself, at least once a minute; if it lasts, mend what it names. Writes are \
                     kept and searches go on meanwhile, slower the more is written";
    Some(v1::Warning { text, next_step: next_step.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::heard::tests::hearing;
    use shoal_model::{CollectionSpec, Command, GraphSpec, IndexSpec, Metric, OperationId, StoreId, placement::place};
    use shoal_runtime::{DiskState, Space};

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        for i in 1..=3_u128 {
            let address = format!("http://127.0.0.1:{i}");
            let name = format!("node-{i}");
            map.apply(Command::RegisterNode { store: StoreId(i), name, address, zone: String::new(), replaces: None });
        }
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: "c".into(), shards: 2, replicas: 1, witness: false, index };
        let placement = place(&map, 2, 1).expect("three nodes");
        map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
        map
    }

    fn collection(map: &mut ClusterMap, name: &str, replicas: u32) -> ShardId {
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: name.into(), shards: 1, replicas, witness: false, index };
        let placement = place(map, 1, replicas).expect("three nodes");
        map.apply(Command::CreateCollection { operation: OperationId(u128::from(map.epoch.0)), spec, placement });
        map.collection(name).expect("created").shards[0]
    }

    /// What nodes told so many seconds before `now`, each leading what it has first.
    fn told(map: &ClusterMap, now: Instant, ago: &[(u64, u64)]) -> Hearing {
        let heartbeat = |(node, seconds): &(u64, u64)| {
            let leads = |shard: &shoal_model::Shard| shard.replicas[0].node.0 == *node;
            let report = |shard| v1::ReplicaReport { leader: leads(shard), commit_index: 9, ..Default::default() };
            let shards = map.shards_on(NodeId(*node)).map(|shard| (shard.id, report(shard))).collect();
            (NodeId(*node), Heartbeat { shards, ..Heartbeat::new(now - Duration::from_secs(*seconds)) })
        };
        hearing(now, ago.iter().map(heartbeat))
    }

    fn texts(map: &ClusterMap, hearing: &Hearing) -> Vec<String> {
        let nodes: Vec<_> = map.nodes.values().map(|node| node_status(map, node, hearing)).collect();
        warnings(map, &nodes, hearing, &[], vec![], false).into_iter().map(|warning| warning.text).collect()
    }

    #[test]
    fn the_node_that_costs_most_comes_first() {
        let mut map = map();
        let now = Instant::now() + Duration::from_secs(3_600);
        assert_eq!(texts(&map, &told(&map, now, &[(1, 1), (2, 2), (3, 3)])), [""; 0]);

        // Node 3 holds nothing, node 2 holds a shard.
        let shard = map.shards_on(NodeId(2)).next().expect("one of two").id;
        let two_gone = format!("node 2 (node-2) was not heard of for 9 s; unavailable: 1 shard (c: {shard})");
        assert_eq!(
            texts(&map, &told(&map, now, &[(1, 0), (2, 9)])),
            [two_gone.as_str(), "node 3 (node-3) was not heard of since the leader changed; it has no replicas"]
        );
        let next_steps = |map: &ClusterMap| {
            let hearing = told(map, now, &[(1, 0), (2, 9)]);
            let nodes: Vec<_> = map.nodes.values().map(|node| node_status(map, node, &hearing)).collect();
            let warnings = warnings(map, &nodes, &hearing, &[], vec![], false);
            warnings.into_iter().map(|warning| warning.next_step).collect::<Vec<_>>()
        };
        assert_eq!(
            next_steps(&map),
            [
                "start it again on its data folder (it listened on http://127.0.0.1:2); if that is lost, start a node on an \
                 empty one with `--replaces 2`",
                "start it again on its data folder (it listened on http://127.0.0.1:3), or remove it: `shoal node rm 3`",
            ]
        );
        let mut replaced = map.clone();
        replaced.nodes.get_mut(&NodeId(2)).expect("registered").replaced = true;
        let next = next_steps(&replaced);
        assert!(next[0].starts_with("wait: another node takes its place"), "{next:?}");
        // Of three copies, one is gone with its node.
        let docs = collection(&mut map, "docs", 3);
        assert_eq!(
            texts(&map, &told(&map, now, &[(1, 0), (2, 9), (3, 0)])),
            [format!("{two_gone}; with one copy less: 1 shard (docs: {docs})")]
        );
        // Of what nobody can know yet nothing is said.
        let begun = Hearing { since: Some(now - Duration::from_secs(1)), ..told(&map, now, &[(1, 0)]) };
        assert_eq!(
            texts(&map, &begun),
            ["not heard of yet, by a coordinator that began to lead a moment ago: node 2 (node-2), node 3 (node-3)"]
        );
    }

    #[test]
    fn what_the_counts_call_unavailable_is_named() {
        let mut map = map();
        let docs = collection(&mut map, "docs", 3);
        let now = Instant::now() + Duration::from_secs(3_600);
        let mut all = told(&map, now, &[(1, 0), (2, 0), (3, 0)]);
        let leader = map.shards[&docs].replicas[0].node;
        let reports = &mut all.heartbeats.get_mut(&leader).expect("it lives").shards;
        reports.get_mut(&docs).expect("it has it").leader = false;
        assert_eq!(texts(&map, &all), [""; 0], "it may be about to elect one");
        all.leaderless.insert(docs, now - Duration::from_secs(60));
        let want = format!("without a leader, and so unavailable, though their nodes live: 1 shard (docs: {docs})");
        assert_eq!(texts(&map, &all), [want]);
        // The same shard is unavailable in both, whoever is silent.
        for silent in 1..=3 {
            let ago: Vec<_> = (1..=3).map(|node| (node, if node == silent { 0 } else { 9 })).collect();
            let hearing = told(&map, now, &ago);
            let gone = map.shards.values().filter(|shard| health_of(shard, &hearing) == ShardHealth::Unavailable);
            let told = texts(&map, &hearing).join("\n");
            for shard in gone {
                assert!(told.contains(&shard.id.to_string()), "{silent}: {} in {told}", shard.id);
            }
        }
    }

    #[test]
    fn disks_without_room_are_told_with_what_to_do() {
        let map = map();
        let now = Instant::now();
        let heartbeat = |room| {
            let space = Space { path: "/data".into(), free_bytes: 10 << 20, size_bytes: 1 << 30 };
            let disk = DiskState { space, reserve_bytes: 51 << 20, room };
            Heartbeat { disk, ..Heartbeat::new(now) }
        };
        let rooms = [Room::Enough, Room::Low, Room::Exhausted];
        let heard = hearing(now, map.nodes.keys().copied().zip(rooms.map(heartbeat)));
        let nodes: Vec<_> = map.nodes.values().map(|node| node_status(&map, node, &heard)).collect();
        let disk = disk_to_wire(&heartbeat(Room::Low).disk);
        let coordinator = v1::CoordinatorStatus { id: 3, reachable: true, disk, ..Default::default() };
        let told = warnings(&map, &nodes, &heard, &[coordinator], vec![], false);
        let state = "has no room: 10.0 MiB of 1.0 GiB are free at /data, and 51.0 MiB are to stay free";
        let texts: Vec<&str> = told.iter().map(|warning| warning.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                format!("the disk of coordinator 3 {state}"),
                format!("the disk of node 2 (node-2) {state}; it takes no writes as a leader, and builds nothing"),
                format!(
                    "the disk of node 3 (node-3) {state}; it takes no writes, also not from leaders on other nodes, and builds nothing"
                ),
            ]
        );
        assert!(told.iter().all(|warning| warning.next_step.starts_with("make room on that disk")));
    }

    #[test]
    fn what_cannot_be_built_is_told_once_for_each_node() {
        let map = map();
        let now = Instant::now();
        let report = |failures: &[&str]| v1::ReplicaReport {
            job_failures: failures.iter().map(|failure| (*failure).to_owned()).collect(),
            ..Default::default()
        };
        // The last was dropped meanwhile.
        let [first, second] = [0, 1].map(|at| map.collection("c").expect("created").shards[at]);
        let reports = [(first, report(&["merging 2: no room", "building: no room"])), (second, report(&["x"]))];
        let shards = reports.into_iter().chain([(ShardId(99), report(&["y"]))]).collect();
        let silent = map.nodes.keys().map(|node| (*node, Heartbeat::new(now))).collect::<BTreeMap<_, _>>();
        let mut heard = hearing(now, silent);
        heard.heartbeats.insert(NodeId(1), Heartbeat { shards, ..Heartbeat::new(now) });
        let told = texts(&map, &heard);
        let want = format!(
            "node 1 (node-1) cannot build, merge or fetch segments of 2 shards (c: {first}, {second}) for the moment; \
             shard {first}: merging 2: no room"
        );
        assert_eq!(told, [want]);
    }

    #[test]
    fn damage_that_nobody_can_mend_is_told() {
        let map = map();
        let now = Instant::now();
        let damage = "corruption in 000012.sst: block checksum mismatch".to_owned();
        let mut heard = hearing(now, map.nodes.keys().map(|node| (*node, Heartbeat::new(now))));
        heard.heartbeats.insert(NodeId(2), Heartbeat { damage, ..Heartbeat::new(now) });
        let told = texts(&map, &heard);
        let [text] = &told[..] else { panic!("{told:?}") };
        assert!(text.contains("node 2 (node-2)") && text.contains("000012.sst"), "{text}");
    }
}
