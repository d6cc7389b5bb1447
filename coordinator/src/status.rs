//! What needs attention, and what to do about it: pure, from the map and what was heard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_model::{ClusterMap, Node, NodeId, ShardId};
use shoal_proto::disk::{disk_from_wire, disk_to_wire};
use shoal_proto::v1;
use shoal_runtime::Room;

use crate::heard::Heartbeat;
use crate::lacking::shards_by_name;

/// How one node is.
pub(crate) fn node_status(
    map: &ClusterMap,
    node: &Node,
    heartbeat: Option<&Heartbeat>,
    now: Instant,
    timeout: Duration,
) -> v1::NodeStatus {
    let silence = heartbeat.map(|heartbeat| now.saturating_duration_since(heartbeat.at));
    v1::NodeStatus {
        id: node.id.0,
        name: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
        alive: silence.is_some_and(|silence| silence <= timeout),
        silent_ms: silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
        replicas: u32::try_from(map.shards_on(node.id).count()).unwrap_or(u32::MAX),
        disk_bytes: heartbeat.map_or(0, |heartbeat| heartbeat.disk_bytes),
        disk: heartbeat.and_then(|heartbeat| disk_to_wire(&heartbeat.disk)),
    }
}

/// Warnings, the most urgent first: no leader (`stale`), shards without a living replica, members that are gone, disks
/// without room, what else is `lacking`, then what replicas could not build, as far as it was `heard` lately.
pub(crate) fn warnings(
    map: &ClusterMap,
    nodes: &[v1::NodeStatus],
    heard: &BTreeMap<NodeId, Heartbeat>,
    coordinators: &[v1::CoordinatorStatus],
    lacking: Vec<v1::Warning>,
    stale: bool,
) -> Vec<v1::Warning> {
    let alive: BTreeMap<NodeId, &v1::NodeStatus> =
        nodes.iter().filter(|node| node.alive).map(|node| (NodeId(node.id), node)).collect();
    let mut warnings = Vec::new();
    for node in nodes.iter().filter(|node| !node.alive) {
        let served = |shard: &&shoal_model::Shard| shard.replicas.iter().any(|r| alive.contains_key(&r.node));
        let (unserved, served): (Vec<_>, Vec<_>) = map.shards_on(NodeId(node.id)).partition(|shard| !served(shard));
        let unavailable = unserved.len();
        let silence =
            node.silent_ms.map_or("since this leader took office".to_owned(), |ms| format!("for {} s", ms / 1000));
        let fewer: Vec<ShardId> = served.into_iter().map(|shard| shard.id).collect();
        let fewer = if fewer.is_empty() {
            String::new()
        } else {
            format!("; with one copy less: {}", shards_by_name(map, &fewer))
        };
        let (id, name) = (node.id, &node.name);
        let text = format!("node {id} ({name}) was not heard of {silence}; unavailable shards: {unavailable}{fewer}");
        let next_step = bring_back(node, map.nodes.get(&NodeId(id)).is_some_and(|node| node.replaced));
        warnings.push((unavailable, v1::Warning { text, next_step }));
    }
    warnings.sort_by_key(|(unavailable, _)| std::cmp::Reverse(*unavailable));
    let no_leader = stale.then(|| v1::Warning {
        text: "no coordinator leads: changes of the cluster wait, searches and writes go on".to_owned(),
        next_step: "start the coordinators that are out of reach; most of them must run".to_owned(),
    });
    let mut warnings: Vec<v1::Warning> =
        no_leader.into_iter().chain(warnings.into_iter().map(|(_, warning)| warning)).collect();
    let is_voter = |c: &&v1::CoordinatorStatus| c.reachable && !has_no_vote(c);
    let spare = coordinators.iter().filter(is_voter).count().saturating_sub(coordinators.len() / 2 + 1);
    warnings.extend(coordinators.iter().filter(|coordinator| has_no_vote(coordinator)).map(|c| without_vote(c, spare)));
    for coordinator in coordinators.iter().filter(|coordinator| !coordinator.reachable) {
        let text = format!("coordinator {} is out of reach; {spare} more may fail before changes stop", coordinator.id);
        let next_step = format!("start it again on its data folder; it listened on {}", coordinator.address);
        warnings.push(v1::Warning { text, next_step });
    }
    warnings.extend(nodes.iter().filter_map(|node| damaged(node, heard.get(&NodeId(node.id))?)));
    warnings.extend(coordinators.iter().filter_map(coordinator_without_room));
    warnings.extend(nodes.iter().filter(|node| node.alive).filter_map(without_room));
    warnings.extend(lacking);
    warnings.extend(nodes.iter().filter_map(|node| failed_jobs(node, heard.get(&NodeId(node.id))?)));
    warnings
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

/// Whether a coordinator says that it has no vote.
fn has_no_vote(coordinator: &v1::CoordinatorStatus) -> bool {
    use v1::CoordinatorStanding::{Asking, Joining};
    matches!(coordinator.standing(), Joining | Asking)
}

/// A coordinator that runs and has no vote yet.
fn without_vote(coordinator: &v1::CoordinatorStatus, spare: usize) -> v1::Warning {
    let (id, waits_for) = (coordinator.id, &coordinator.waits_for);
    let reason = if waits_for.is_empty() { String::new() } else { format!(": it waits for {waits_for}") };
    let text = format!("coordinator {id} has no vote yet{reason}; {spare} of the others may fail before changes stop");
    let next_step = "it joins by itself, in seconds, once most of those that have a vote run and see it";
    v1::Warning { text, next_step: next_step.to_owned() }
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

/// What a node's replicas could not build or merge.
fn failed_jobs(node: &v1::NodeStatus, heartbeat: &Heartbeat) -> Option<v1::Warning> {
    let failed: Vec<(&ShardId, &String)> =
        heartbeat.shards.iter().filter_map(|(shard, report)| Some((shard, report.job_failures.first()?))).collect();
    let (shard, failure) = failed.first()?;
    let (id, name, count) = (node.id, &node.name, failed.len());
    let text = format!("node {id} ({name}) cannot build or merge segments of {count} shards; shard {shard}: {failure}");
    let next_step = "mend what it names; writes are kept and searches go on meanwhile, slower the more is written";
    Some(v1::Warning { text, next_step: next_step.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn the_node_that_costs_most_comes_first() {
        let map = map();
        let now = Instant::now() + Duration::from_secs(60);
        let timeout = Duration::from_secs(3);
        let heard = |ago: u64| Heartbeat::new(now - Duration::from_secs(ago));
        let status = |id: u64, heartbeat: Option<Heartbeat>| {
            node_status(&map, &map.nodes[&NodeId(id)], heartbeat.as_ref(), now, timeout)
        };
        let all_well = [status(1, Some(heard(1))), status(2, Some(heard(2))), status(3, Some(heard(3)))];
        let none = BTreeMap::new();
        assert_eq!(warnings(&map, &all_well, &none, &[], vec![], false), vec![]);

        // Node 3 holds nothing, node 2 holds a shard.
        let two_gone = [status(1, Some(heard(0))), status(2, Some(heard(9))), status(3, None)];
        let texts: Vec<_> = warnings(&map, &two_gone, &none, &[], vec![], false).into_iter().map(|w| w.text).collect();
        assert_eq!(
            texts,
            [
                "node 2 (node-2) was not heard of for 9 s; unavailable shards: 1",
                "node 3 (node-3) was not heard of since this leader took office; unavailable shards: 0",
            ]
        );
        let next_steps: Vec<_> =
            warnings(&map, &two_gone, &none, &[], vec![], false).into_iter().map(|w| w.next_step).collect();
        assert_eq!(
            next_steps,
            [
                "start it again on its data folder (it listened on http://127.0.0.1:2); if that is lost, start a node on an \
                 empty one with `--replaces 2`",
                "start it again on its data folder (it listened on http://127.0.0.1:3), or remove it: `shoal node rm 3`",
            ]
        );
        let mut replaced = map.clone();
        replaced.nodes.get_mut(&NodeId(2)).expect("registered").replaced = true;
        let told = warnings(&replaced, &two_gone, &none, &[], vec![], false);
        assert!(told[0].next_step.starts_with("wait: another node takes its place"), "{told:?}");
        // Of three copies, one is gone with its node.
        let mut more = map.clone();
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: "docs".into(), shards: 1, replicas: 3, witness: false, index };
        let placement = place(&more, 1, 3).expect("three nodes");
        more.apply(Command::CreateCollection { operation: OperationId(2), spec, placement });
        let docs = more.collection("docs").expect("created").shards[0];
        let texts = warnings(&more, &two_gone[..2], &none, &[], vec![], false);
        let want =
            "node 2 (node-2) was not heard of for 9 s; unavailable shards: 1; with one copy less: 1 shard (docs: ";
        assert_eq!(texts[0].text, format!("{want}{docs})"));

        let coordinator = |id, reachable| v1::CoordinatorStatus { id, reachable, ..Default::default() };
        let joins = v1::CoordinatorStatus {
            standing: v1::CoordinatorStanding::Joining.into(),
            waits_for: "a map".to_owned(),
            ..coordinator(3, true)
        };
        let texts: Vec<_> =
            warnings(&map, &all_well, &none, &[coordinator(1, true), coordinator(2, true), joins], vec![], false)
                .into_iter()
                .map(|w| w.text)
                .collect();
        let want = "coordinator 3 has no vote yet: it waits for a map; 0 of the others may fail before changes stop";
        assert_eq!(texts, [want]);
        let one_gone = [coordinator(1, true), coordinator(2, true), coordinator(3, false)];
        let texts: Vec<_> =
            warnings(&map, &all_well, &none, &one_gone, vec![], false).into_iter().map(|w| w.text).collect();
        assert_eq!(texts, ["coordinator 3 is out of reach; 0 more may fail before changes stop"]);
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
        let nodes = map
            .nodes
            .values()
            .zip(rooms)
            .map(|(node, room)| node_status(&map, node, Some(&heartbeat(room)), now, Duration::from_secs(3)));
        let disk = disk_to_wire(&heartbeat(Room::Low).disk);
        let coordinator = v1::CoordinatorStatus { id: 3, reachable: true, disk, ..Default::default() };
        let told = warnings(&map, &nodes.collect::<Vec<_>>(), &BTreeMap::new(), &[coordinator], vec![], false);
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
        let shards = [(7, report(&["merging 2: no room", "building: no room"])), (8, report(&[])), (9, report(&["x"]))];
        let shards = shards.into_iter().map(|(shard, report)| (ShardId(shard), report)).collect();
        let heard = BTreeMap::from([(NodeId(1), Heartbeat { shards, ..Heartbeat::new(now) })]);
        let nodes: Vec<v1::NodeStatus> = map
            .nodes
            .values()
            .map(|node| node_status(&map, node, Some(&Heartbeat::new(now)), now, Duration::from_secs(3)))
            .collect();
        let told = warnings(&map, &nodes, &heard, &[], vec![], false);
        let texts: Vec<&str> = told.iter().map(|warning| warning.text.as_str()).collect();
        assert_eq!(texts, ["node 1 (node-1) cannot build or merge segments of 2 shards; shard 7: merging 2: no room"]);
    }

    #[test]
    fn damage_that_nobody_can_mend_is_told() {
        let map = map();
        let now = Instant::now();
        let damage = "corruption in 000012.sst: block checksum mismatch".to_owned();
        let heard = BTreeMap::from([(NodeId(2), Heartbeat { damage, ..Heartbeat::new(now) })]);
        let status = |node| node_status(&map, node, Some(&Heartbeat::new(now)), now, Duration::from_secs(3));
        let nodes: Vec<v1::NodeStatus> = map.nodes.values().map(status).collect();
        let told = warnings(&map, &nodes, &heard, &[], vec![], false);
        let [v1::Warning { text, .. }] = &told[..] else { panic!("{told:?}") };
        assert!(text.contains("node 2 (node-2)") && text.contains("000012.sst"), "{text}");
    }
}
