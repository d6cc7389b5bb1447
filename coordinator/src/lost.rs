//! Which node an operator means whose disk is lost, and whether it may be given up or removed: only one that is silent. Two
//! processes that both take themselves for the same replicas would contradict each other.

use shoal_model::{ClusterMap, Node, NodeId};

use crate::CoordinatorError;
use crate::heard::{Hearing, Liveness};
use crate::lacking::nodes_by_name;

/// The node of that number or, if there is none, of that name. One that another replaces already has no place to take.
pub(crate) fn node_called<'a>(map: &'a ClusterMap, called: &str) -> Result<&'a Node, CoordinatorError> {
    let number = called.parse().ok().and_then(|number| map.nodes.get(&NodeId(number)));
    let by_name = || map.nodes.values().filter(|node| node.name == called);
    let found: Vec<&Node> = match number {
        Some(node) => vec![node],
        None if by_name().any(|node| !node.replaced) => by_name().filter(|node| !node.replaced).collect(),
        None => by_name().collect(),
    };
    match found[..] {
        [] => Err(CoordinatorError::NobodyCalled { called: called.to_owned() }),
        [node] if node.replaced => Err(CoordinatorError::AlreadyReplaced { node: node.id }),
        [node] => Ok(node),
        _ => Err(CoordinatorError::SeveralCalled {
            called: called.to_owned(),
            nodes: found.iter().map(|node| node.id.to_string()).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Refuses what may only be done to a node that is silent.
pub(crate) fn check_silent(map: &ClusterMap, node: &Node, hearing: &Hearing) -> Result<(), CoordinatorError> {
    match hearing.liveness(node.id) {
        Liveness::Alive => Err(CoordinatorError::NodeAlive { node: node.id, name: node.name.clone() }),
        Liveness::Awaited => Err(CoordinatorError::NotHeardYet { nodes: nodes_by_name(map, &[node.id]) }),
        Liveness::Silent => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use shoal_model::{CollectionSpec, Command, GraphSpec, IndexSpec, Metric, OperationId, StoreId, placement::place};

    use super::*;
    use crate::heard::Heartbeat;
    use crate::heard::tests::hearing;

    fn register(map: &mut ClusterMap, store: u128, name: &str, replaces: Option<StoreId>) {
        let (name, address) = (name.to_owned(), format!("http://127.0.0.1:{store}"));
        let registered =
            map.apply(Command::RegisterNode { store: StoreId(store), name, address, zone: String::new(), replaces });
        registered.reply.expect("registered");
    }

    /// Nodes 1 to 5, of which one was replaced and still holds a replica.
    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        for (store, name) in [(1, "node-1"), (2, "node-2"), (3, "3"), (4, "twin"), (5, "twin")] {
            register(&mut map, store, name, None);
        }
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: "docs".into(), shards: 1, replicas: 5, witness: false, index };
        let placement = place(&map, 1, 5).expect("five nodes");
        map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
        map
    }

    #[test]
    fn a_lost_node_is_found_by_number_or_name() {
        let mut map = map();
        let called = |map: &ClusterMap, text: &str| match node_called(map, text) {
            Ok(node) => node.id.to_string(),
            Err(error) => error.to_string(),
        };
        for (text, want) in [
            ("2", "2"),
            ("node-2", "2"),
            ("3", "3"),
            ("77", "no node has the number or name \"77\"; list them with `shoal node ls`"),
            ("", "no node has the number or name \"\"; list them with `shoal node ls`"),
            ("twin", "several nodes have the name \"twin\"; give the number of the one that is meant: 4, 5"),
        ] {
            assert_eq!(called(&map, text), want);
        }
        register(&mut map, 6, "node-2", Some(StoreId(2)));
        let successor = map.nodes.values().find(|node| node.store == StoreId(6)).expect("registered").id.to_string();
        assert_eq!(called(&map, "node-2"), successor, "the name has passed on");
        assert!(called(&map, "2").starts_with("another node has taken the place of node 2 already"));
    }

    #[test]
    fn only_a_silent_node_is_given_up() {
        let (map, now) = (map(), Instant::now() + Duration::from_secs(3_600));
        let heard = hearing(now, [(NodeId(1), Heartbeat::new(now))]);
        let begun = Hearing { since: Some(now), ..heard.clone() };
        let check = |node, hearing| check_silent(&map, &map.nodes[&NodeId(node)], hearing);
        for hearing in [&heard, &begun] {
            assert!(matches!(check(1, hearing), Err(CoordinatorError::NodeAlive { node: NodeId(1), .. })));
        }
        assert!(check(2, &heard).is_ok());
        assert!(matches!(check(2, &begun), Err(CoordinatorError::NotHeardYet { .. })), "it may just not have told yet");
    }
}
