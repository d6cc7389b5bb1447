use super::*;
use crate::decisions::DECIDED_MAX;
use crate::{GraphSpec, IndexSpec, Metric, placement::place};

fn register(store: u128, port: u16) -> Command {
    Command::RegisterNode {
        store: StoreId(store),
        name: format!("node-{store}"),
        address: format!("http://127.0.0.1:{port}"),
        zone: String::new(),
        replaces: None,
    }
}

fn create(map: &ClusterMap, operation: u128, name: &str, shards: u32) -> Command {
    let index = IndexSpec { dim: 4, metric: Metric::Cosine, embedding: String::new(), graph: GraphSpec::DEFAULT };
    Command::CreateCollection {
        operation: OperationId(operation),
        spec: CollectionSpec { name: name.into(), shards, replicas: 1, witness: false, index },
        placement: place(map, shards, 1).expect("there are nodes"),
    }
}

/// As a leader proposes it that sees `map`.
fn drop_of(map: &ClusterMap, operation: u128, name: &str) -> Command {
    let collection = map.collection(name).map(|collection| collection.id);
    Command::DropCollection { operation: OperationId(operation), name: name.into(), collection }
}

fn three_nodes() -> ClusterMap {
    let mut map = ClusterMap::default();
    map.apply(Command::NameCluster { cluster: ClusterId(7) });
    for i in 1..=3 {
        map.apply(register(i, 1000));
    }
    map
}

#[test]
fn a_command_applied_twice_changes_nothing_the_second_time() {
    let mut map = three_nodes();
    let commands = [
        register(9, 1),
        create(&map, 1, "a", 4),
        Command::NameCluster { cluster: ClusterId(8) },
        drop_of(&map, 2, "nobody"),
    ];
    for command in commands {
        let first = map.apply(command.clone());
        let after_first = map.clone();
        let second = map.apply(command.clone());
        assert_eq!(second.reply, first.reply, "{command:?}");
        assert_eq!(second.changes, vec![], "{command:?}");
        assert_eq!(map, after_first, "{command:?}");
    }
    assert_eq!(map.cluster, ClusterId(7), "the first name stays");
}

#[test]
fn refused_commands_change_nothing() {
    let mut map = three_nodes();
    map.apply(create(&map.clone(), 1, "a", 4));
    let before = map.clone();
    let taken = map.apply(create(&before, 2, "a", 4));
    assert_eq!(taken.reply, Err(MapError::CollectionExists { name: "a".into() }));
    assert_eq!(taken.changes, vec![]);
    let before = map.clone();
    let Command::CreateCollection { operation, spec, mut placement } = create(&before, 3, "b", 2) else {
        unreachable!("create makes a creation")
    };
    placement[1] = vec![NodeId(77)];
    let stale = map.apply(Command::CreateCollection { operation, spec, placement });
    assert_eq!(stale.reply, Err(MapError::StalePlacement));
    assert_eq!(map, before);
}

/// What a change of a collection comes to, as a leader proposes it that sees `map`: `+a` creates, `-a` drops.
fn change(map: &mut ClusterMap, operation: u128, wish: &str) -> (Result<Reply, MapError>, Vec<Change>) {
    let command = match wish.split_at(1) {
        ("+", name) => create(map, operation, name, 1),
        (_, name) => drop_of(map, operation, name),
    };
    let Outcome { reply, changes } = map.apply(command);
    (reply, changes)
}

#[test]
fn a_repeated_change_of_a_collection_is_answered_as_the_first_and_changes_nothing() {
    for (name, wishes, repeated, left) in [
        ("another drop does not hit another collection", &[(1, "+a"), (2, "-a"), (3, "+a")][..], (2, "-a"), 1),
        ("a late creation brings nothing back", &[(1, "+a"), (2, "-a")], (1, "+a"), 0),
        ("what was not there is not dropped later", &[(2, "-a"), (3, "+a")], (2, "-a"), 1),
        ("what was refused is not created later", &[(1, "+a"), (4, "+a"), (2, "-a")], (4, "+a"), 0),
    ] {
        let mut map = three_nodes();
        let replies: Vec<_> =
            wishes.iter().map(|(operation, wish)| (*operation, change(&mut map, *operation, wish).0)).collect();
        let first = replies.iter().find(|(operation, _)| *operation == repeated.0).expect("it was asked before");
        let before = map.clone();
        assert_eq!(change(&mut map, repeated.0, repeated.1), (first.1.clone(), vec![]), "{name}");
        assert_eq!(map, before, "{name}");
        assert_eq!(map.collections.len(), left, "{name}");
    }
}

#[test]
fn an_operation_names_one_change() {
    let mut map = three_nodes();
    change(&mut map, 1, "+a").0.expect("created");
    let before = map.clone();
    for wish in ["+b", "-a", "-b"] {
        assert_eq!(change(&mut map, 1, wish), (Err(MapError::OperationReused), vec![]), "{wish}");
    }
    assert_eq!(map, before);
    let Command::CreateCollection { operation, spec, placement } = create(&map, 5, "b", 1) else {
        unreachable!("create makes a creation")
    };
    let stale = Command::CreateCollection { operation, spec: spec.clone(), placement: vec![vec![NodeId(77)]] };
    assert_eq!(map.apply(stale).reply, Err(MapError::StalePlacement));
    let planned_again = Command::CreateCollection { operation, spec, placement };
    map.apply(planned_again).reply.expect("a plan that did not fit decides nothing");
}

#[test]
fn decided_changes_are_forgotten_at_last() {
    let mut map = three_nodes();
    change(&mut map, 1, "+a").0.expect("created");
    for operation in (2..).take(DECIDED_MAX) {
        change(&mut map, operation, "-b").0.expect_err("there is none");
    }
    assert_eq!(map.decided.iter().count(), DECIDED_MAX);
    assert_eq!(map.decided.before(OperationId(1), Wish::Create, "a"), None);
    let (reply, changes) = change(&mut map, 1, "+a");
    assert!(reply.is_ok() && changes.is_empty(), "the collection still knows who has created it");
}

/// Whatever is repeated, and however late: each change is answered alike, and made once at most.
#[test]
fn any_history_with_repeats_comes_to_what_it_comes_to_without() {
    for seed in 0..50_u64 {
        let (mut map, mut plain, mut asked) = (three_nodes(), three_nodes(), Vec::new());
        let mut state = seed;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for operation in 1..=60_u128 {
            let wish = format!(
                "{}{}",
                ["+", "-"][usize::from(draw(2) == 0)],
                ["a", "b", "c"][usize::try_from(draw(3)).expect("few")]
            );
            let reply = change(&mut map, operation, &wish).0;
            assert_eq!(change(&mut plain, operation, &wish).0, reply, "seed {seed}, {operation} {wish}");
            asked.push((operation, wish, reply));
            for _ in 0..draw(3) {
                let (operation, wish, first) = &asked[usize::try_from(draw(asked.len() as u64)).expect("few")];
                assert_eq!(&change(&mut map, *operation, wish), &(first.clone(), vec![]), "seed {seed}, {operation}");
            }
        }
        assert_eq!(map, plain, "seed {seed}");
        assert_eq!(map.broken_invariant(), None);
    }
}

#[test]
fn a_moved_node_keeps_its_number_and_a_new_store_gets_one() {
    let mut map = three_nodes();
    let epoch = map.epoch;
    assert_eq!(map.apply(register(2, 2000)).reply, Ok(Reply::Node(NodeId(2))));
    assert_eq!(map.epoch, epoch.next());
    assert_eq!(map.nodes[&NodeId(2)].address, "http://127.0.0.1:2000");
    assert_eq!(map.apply(register(50, 2000)).reply, Ok(Reply::Node(NodeId(4))));
}

fn replacing(store: u128, replaces: u128) -> Command {
    let Command::RegisterNode { store, name, address, zone, .. } = register(store, 3000) else {
        unreachable!("register makes a registration")
    };
    Command::RegisterNode { store, name, address, zone, replaces: Some(StoreId(replaces)) }
}

#[test]
fn a_lost_store_is_replaced_replica_by_replica() {
    let mut map = three_nodes();
    let index = IndexSpec { dim: 4, metric: Metric::Cosine, embedding: String::new(), graph: GraphSpec::DEFAULT };
    let spec = CollectionSpec { name: "a".into(), shards: 2, replicas: 2, witness: true, index };
    let placement = place(&map, 2, spec.copies()).expect("three nodes");
    map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
    assert!(map.shards.values().all(|shard| shard.full_replicas().count() == 2 && shard.replicas.len() == 3));

    let command = replacing(9, 2);
    let Ok(Reply::Node(new)) = map.apply(command.clone()).reply else { panic!("it is accepted") };
    assert_eq!(map.apply(command).changes, vec![], "a repeat changes nothing");
    assert!(map.nodes[&NodeId(2)].replaced);
    let shards: Vec<ShardId> = map.shards_on(new).map(|shard| shard.id).collect();
    assert_eq!(shards.len(), 2);
    let firsts = |map: &ClusterMap| map.shards.values().map(|shard| shard.replicas[0].node).collect::<Vec<_>>();
    assert_eq!(firsts(&map), [NodeId(1), NodeId(2)], "each leads one");
    for shard in shards {
        let entry = map.shards[&shard].clone();
        let (old, joined) = (entry.replica_on(NodeId(2)).expect("still there"), entry.replica_on(new).expect("new"));
        assert_eq!((old.standing, joined.standing), (Standing::Leaving, Standing::Joining));
        assert_eq!(old.witness, joined.witness);
        assert!(!entry.founders.contains(&joined.id), "it starts from nothing but what it is sent");
        let voters: Vec<ReplicaId> = entry.replicas.iter().map(|replica| replica.id).collect();
        let unfinished = map.apply(Command::SettleShard { shard, voters: entry.founders.clone() });
        assert_eq!(unfinished.changes, vec![], "nobody has joined or left yet");
        let voters: Vec<ReplicaId> = voters.into_iter().filter(|id| *id != old.id).collect();
        map.apply(Command::SettleShard { shard, voters });
        assert_eq!(map.shards[&shard].replica_on(new).map(|replica| replica.standing), Some(Standing::Member));
        assert_eq!(map.shards[&shard].replica_on(NodeId(2)), None);
    }
    assert!(!map.nodes.contains_key(&NodeId(2)), "it holds nothing any more");
    assert_eq!(firsts(&map), [NodeId(1), new], "it leads what the lost one led");
}

#[test]
fn a_store_that_a_majority_needs_is_not_given_up() {
    let mut map = three_nodes();
    let index = IndexSpec { dim: 4, metric: Metric::Cosine, embedding: String::new(), graph: GraphSpec::DEFAULT };
    let spec = CollectionSpec { name: "a".into(), shards: 1, replicas: 3, witness: false, index };
    let placement = place(&map, 1, 3).expect("three nodes");
    map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
    map.apply(replacing(9, 2)).reply.expect("two of three are left");
    let before = map.clone();
    assert!(matches!(map.apply(replacing(10, 3)).reply, Err(MapError::NoMajority { .. })));
    assert_eq!(map, before);

    let shard = map.shards.values().next().expect("created").clone();
    let member = |replica: &&ShardReplica| replica.standing != Standing::Leaving;
    let voters = shard.replicas.iter().filter(member).map(|replica| replica.id).collect();
    map.apply(Command::SettleShard { shard: shard.id, voters });
    map.apply(replacing(10, 3)).reply.expect("the first replacement is a member by now");
}

#[test]
fn the_only_copy_of_a_shard_is_not_given_up() {
    let mut map = three_nodes();
    map.apply(create(&map.clone(), 1, "a", 3));
    let before = map.clone();
    assert!(matches!(map.apply(replacing(9, 2)).reply, Err(MapError::LastCopy { .. })));
    assert_eq!(map, before);
    assert!(map.apply(replacing(9, 77)).reply.is_ok(), "a store that nobody knows has nothing to lose");
}

#[test]
fn a_node_is_removed_once_it_holds_nothing() {
    let mut map = three_nodes();
    map.apply(create(&map.clone(), 1, "a", 2));
    let shards: Vec<ShardId> = map.shards_on(NodeId(2)).map(|shard| shard.id).collect();
    for (name, node, want, left) in [
        ("it holds a replica", 2, Err(MapError::HoldsReplicas { node: NodeId(2), shards }), 3),
        ("it holds nothing", 3, Ok(Reply::Done), 2),
        ("a repeat", 3, Ok(Reply::Done), 2),
        ("one that never was", 77, Ok(Reply::Done), 2),
    ] {
        assert_eq!(map.apply(Command::RemoveNode { node: NodeId(node) }).reply, want, "{name}");
        assert_eq!(map.nodes.len(), left, "{name}");
    }
    let again = map.apply(register(3, 1000)).reply;
    assert!(again.is_ok_and(|reply| reply != Reply::Node(NodeId(3))), "numbers are not handed out twice");
}

#[test]
fn many_shards_are_not_all_named() {
    for (count, want) in [(1, "1 shard (1)"), (3, "3 shards (1, 2, 3)"), (9, "9 shards (1, 2, 3, 4, 5, 6, 7, 8, ...)")]
    {
        let shards: Vec<ShardId> = (1..=count).map(ShardId).collect();
        assert_eq!(shards_named(&shards), want);
    }
}

#[test]
fn watchers_that_follow_changes_hold_the_same_map() {
    let mut map = three_nodes();
    let mut watcher = map.clone();
    for i in 0..1200_u32 {
        if i % 3 == 2 {
            let oldest = map.collections.keys().next().copied().expect("two were just made");
            let (operation, name) = (OperationId(i.into()), map.collections[&oldest].name.clone());
            map.apply(Command::DropCollection { operation, name, collection: Some(oldest) });
        } else {
            map.apply(create(&map.clone(), i.into(), &format!("c{i}"), 1 + i % 5));
        }
        assert_eq!(map.broken_invariant(), None);
        if i % 100 == 0 {
            for (epoch, changes) in map.changes_since(watcher.epoch).expect("still kept") {
                watcher.publish(epoch, changes);
            }
            assert_eq!((&watcher.shards, &watcher.collections), (&map.shards, &map.collections));
            assert_eq!(watcher.epoch, map.epoch);
        }
    }
    assert_eq!(map.changes_since(Epoch(1)), None, "too far behind: takes the whole map");
    assert_eq!(map.changes_since(map.epoch.next()), None, "ahead of us: not for us to say");
}
