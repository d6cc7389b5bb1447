//! The cluster map and its state machine: `apply(command) -> outcome`.
//!
//! Owned by the coordinators, who agree on the order of commands; watched by routers and nodes, who follow the
//! published changes. Deterministic: no clock, no randomness; a command brings its own ids. A command that
//! changes nothing leaves the epoch as it was; one that does raises it by one. Applying a command twice is the
//! same as once.
//!
//! Invariants: names of collections are unique; the ranges of a collection's shards partition the hash space;
//! ids are never reused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    Classify, ClusterId, Collection, CollectionId, CollectionSpec, Epoch, ErrorKind, HashRange, IndexVersion, NodeId,
    OperationId, ReplicaId, ShardId, StoreId, partitions_exactly,
};

/// A node as the map holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Number, given when its store first registered.
    pub id: NodeId,
    /// Identity of its data folder.
    pub store: StoreId,
    /// Name for people, such as a host name.
    pub name: String,
    /// URI of its gRPC endpoint.
    pub address: String,
    /// Failure domain; replicas of a shard avoid sharing one. May be empty.
    pub zone: String,
}

/// A shard as the map holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number, also that of its Raft group.
    pub id: ShardId,
    /// Collection it belongs to.
    pub collection: CollectionId,
    /// Part of the hash space it holds.
    pub range: HashRange,
    /// Its copies, the first leader first.
    pub replicas: Vec<ShardReplica>,
    /// Map version at which this entry last changed; requests carry it.
    pub epoch: Epoch,
}

/// One copy of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardReplica {
    /// Member number in the shard's Raft group.
    pub id: ReplicaId,
    /// Where it lives.
    pub node: NodeId,
}

/// The published table of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// Which cluster this is; zero until the first leader has drawn it.
    pub cluster: ClusterId,
    /// Version of the map.
    pub epoch: Epoch,
    /// Every node that ever registered and was not removed.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Every collection.
    pub collections: BTreeMap<CollectionId, Collection>,
    /// Every shard.
    pub shards: BTreeMap<ShardId, Shard>,
    /// The last number handed out to a node, collection, shard or replica.
    pub last_id: u64,
    /// The newest changes, for watchers that missed only those: the epoch each change led to.
    pub recent: VecDeque<(Epoch, Vec<Change>)>,
}

/// How many epochs of changes are kept for watchers; one that is further behind gets the whole map.
const RECENT_MAX: usize = 512;

/// What coordinators agree on. Sent by their leader, never by clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Names the cluster; only the first one counts.
    NameCluster {
        /// Random identity.
        cluster: ClusterId,
    },
    /// Makes a store known, or tells where it is now.
    RegisterNode {
        /// Identity of its data folder.
        store: StoreId,
        /// Name for people.
        name: String,
        /// URI of its gRPC endpoint.
        address: String,
        /// Failure domain.
        zone: String,
    },
    /// Creates a collection with its shards.
    CreateCollection {
        /// The caller's intent; a retry with the same one gets the same answer.
        operation: OperationId,
        /// What is wanted; already checked.
        spec: CollectionSpec,
        /// The nodes of each shard, as [`crate::placement::place`] chose them.
        placement: Vec<Vec<NodeId>>,
    },
    /// Removes a collection and its shards. Removing one that is gone changes nothing.
    DropCollection {
        /// Which.
        collection: CollectionId,
    },
}

/// One change of the map, as watchers receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The cluster got its identity.
    Named(ClusterId),
    /// A node is new or changed.
    Node(Node),
    /// A collection is new or changed.
    Collection(Collection),
    /// A shard is new or changed.
    Shard(Shard),
    /// A collection is gone, and its shards with it.
    CollectionDropped(CollectionId),
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer for whoever sent the command.
    pub reply: Result<Reply, MapError>,
    /// What changed, to be published; empty when nothing did.
    pub changes: Vec<Change>,
}

/// The answer to a command that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// The node's number.
    Node(NodeId),
    /// The collection's number.
    Collection(CollectionId),
}

/// Why a command was refused; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The name is taken.
    #[error("collection {name:?} already exists")]
    CollectionExists {
        /// The name.
        name: String,
    },
    /// The plan names a node that the map does not hold, or does not fit the specification: plan again.
    #[error("placement does not fit the cluster map any more; plan again")]
    StalePlacement,
}

impl Classify for MapError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::CollectionExists { .. } => ErrorKind::AlreadyExists,
            Self::StalePlacement => ErrorKind::StaleEpoch,
        }
    }
}

impl ClusterMap {
    /// Applies a command: the one way in which a coordinator's map changes.
    pub fn apply(&mut self, command: Command) -> Outcome {
        let (reply, changes) = match command {
            Command::NameCluster { cluster } => self.name_cluster(cluster),
            Command::RegisterNode { store, name, address, zone } => self.register_node(store, name, address, zone),
            Command::CreateCollection { operation, spec, placement } => {
                self.create_collection(operation, spec, &placement)
            }
            Command::DropCollection { collection } => self.drop_collection(collection),
        };
        if !changes.is_empty() {
            self.publish(self.epoch.next(), changes.clone());
        }
        Outcome { reply, changes }
    }

    /// Follows one published epoch: the one way in which a watcher's map changes.
    pub fn publish(&mut self, epoch: Epoch, changes: Vec<Change>) {
        for change in &changes {
            self.install(change.clone());
        }
        self.epoch = epoch;
        self.recent.push_back((epoch, changes));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    fn install(&mut self, change: Change) {
        match change {
            Change::Named(cluster) => self.cluster = cluster,
            Change::Node(node) => drop(self.nodes.insert(node.id, node)),
            Change::Collection(collection) => drop(self.collections.insert(collection.id, collection)),
            Change::Shard(shard) => drop(self.shards.insert(shard.id, shard)),
            Change::CollectionDropped(id) => {
                self.collections.remove(&id);
                self.shards.retain(|_, shard| shard.collection != id);
            }
        }
    }

    /// The changes after `epoch`, one item an epoch; `None` if they are no longer kept.
    #[must_use]
    pub fn changes_since(&self, epoch: Epoch) -> Option<Vec<(Epoch, Vec<Change>)>> {
        if epoch == self.epoch {
            return Some(Vec::new());
        }
        let oldest = self.recent.front()?.0;
        let kept = epoch.next() >= oldest && epoch < self.epoch;
        kept.then(|| self.recent.iter().filter(|(at, _)| *at > epoch).cloned().collect())
    }

    /// The collection of that name.
    #[must_use]
    pub fn collection(&self, name: &str) -> Option<&Collection> {
        self.collections.values().find(|collection| collection.name == name)
    }

    /// The shards of a collection in order of their ranges.
    pub fn shards_of<'a>(&'a self, collection: &'a Collection) -> impl Iterator<Item = &'a Shard> + 'a {
        collection.shards.iter().filter_map(|id| self.shards.get(id))
    }

    /// The shards of which `node` holds a replica.
    pub fn shards_on(&self, node: NodeId) -> impl Iterator<Item = &Shard> {
        self.shards.values().filter(move |shard| shard.replicas.iter().any(|replica| replica.node == node))
    }

    /// The failure domain of a node.
    #[must_use]
    pub fn zone(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("", |node| &node.zone)
    }

    /// Names the first invariant that does not hold, if any.
    #[must_use]
    pub fn broken_invariant(&self) -> Option<String> {
        let names: BTreeSet<_> = self.collections.values().map(|collection| &collection.name).collect();
        if names.len() != self.collections.len() {
            return Some("two collections share a name".to_owned());
        }
        for collection in self.collections.values() {
            let ranges: Vec<HashRange> = self.shards_of(collection).map(|shard| shard.range).collect();
            if !partitions_exactly(&ranges) {
                return Some(format!("ranges of collection {} do not partition the hash space", collection.name));
            }
        }
        let homeless = self.shards.values().find(|shard| !self.collections.contains_key(&shard.collection));
        homeless.map(|shard| format!("shard {} belongs to no collection", shard.id))
    }

    fn name_cluster(&self, cluster: ClusterId) -> (Result<Reply, MapError>, Vec<Change>) {
        let unnamed = self.cluster == ClusterId::default();
        (Ok(Reply::Done), if unnamed { vec![Change::Named(cluster)] } else { vec![] })
    }

    fn register_node(
        &mut self,
        store: StoreId,
        name: String,
        address: String,
        zone: String,
    ) -> (Result<Reply, MapError>, Vec<Change>) {
        let known = self.nodes.values().find(|node| node.store == store);
        let id = known.map_or(NodeId(self.last_id + 1), |node| node.id);
        let node = Node { id, store, name, address, zone };
        if known == Some(&node) {
            return (Ok(Reply::Node(id)), vec![]);
        }
        self.last_id = self.last_id.max(id.0);
        (Ok(Reply::Node(id)), vec![Change::Node(node)])
    }

    fn create_collection(
        &mut self,
        operation: OperationId,
        spec: CollectionSpec,
        placement: &[Vec<NodeId>],
    ) -> (Result<Reply, MapError>, Vec<Change>) {
        if let Some(existing) = self.collection(&spec.name) {
            let same = existing.created_by == operation;
            let reply = if same {
                Ok(Reply::Collection(existing.id))
            } else {
                Err(MapError::CollectionExists { name: spec.name })
            };
            return (reply, vec![]);
        }
        if !self.fits(&spec, placement) {
            return (Err(MapError::StalePlacement), vec![]);
        }
        let id = CollectionId(self.take_id());
        let shards = self.new_shards(id, placement);
        let collection = Collection {
            id,
            name: spec.name,
            replicas: spec.replicas,
            active: IndexVersion(1),
            index: spec.index,
            shards: shards.iter().map(|shard| shard.id).collect(),
            created_by: operation,
        };
        let changes = std::iter::once(Change::Collection(collection)).chain(shards.into_iter().map(Change::Shard));
        (Ok(Reply::Collection(id)), changes.collect())
    }

    fn fits(&self, spec: &CollectionSpec, placement: &[Vec<NodeId>]) -> bool {
        let shard_fits = |nodes: &Vec<NodeId>| {
            let distinct: BTreeSet<_> = nodes.iter().collect();
            distinct.len() == spec.replicas as usize
                && distinct.len() == nodes.len()
                && nodes.iter().all(|node| self.nodes.contains_key(node))
        };
        spec.shards > 0 && placement.len() == spec.shards as usize && placement.iter().all(shard_fits)
    }

    fn new_shards(&mut self, collection: CollectionId, placement: &[Vec<NodeId>]) -> Vec<Shard> {
        let epoch = self.epoch.next();
        let count = u32::try_from(placement.len()).unwrap_or(u32::MAX);
        let ranges = HashRange::divide(count);
        let mut shards = Vec::with_capacity(placement.len());
        for (range, nodes) in ranges.into_iter().zip(placement) {
            let id = ShardId(self.take_id());
            let replicas =
                nodes.iter().map(|node| ShardReplica { id: ReplicaId(self.take_id()), node: *node }).collect();
            shards.push(Shard { id, collection, range, replicas, epoch });
        }
        shards
    }

    fn drop_collection(&self, collection: CollectionId) -> (Result<Reply, MapError>, Vec<Change>) {
        let known = self.collections.contains_key(&collection);
        (Ok(Reply::Done), if known { vec![Change::CollectionDropped(collection)] } else { vec![] })
    }

    fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GraphSpec, IndexSpec, Metric, placement::place};

    fn register(store: u128, port: u16) -> Command {
        Command::RegisterNode {
            store: StoreId(store),
            name: format!("node-{store}"),
            address: format!("http://127.0.0.1:{port}"),
            zone: String::new(),
        }
    }

    fn create(map: &ClusterMap, operation: u128, name: &str, shards: u32) -> Command {
        let index = IndexSpec { dim: 4, metric: Metric::Cosine, embedding: String::new(), graph: GraphSpec::DEFAULT };
        Command::CreateCollection {
            operation: OperationId(operation),
            spec: CollectionSpec { name: name.into(), shards, replicas: 1, index },
            placement: place(map, shards, 1).expect("there are nodes"),
        }
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
            Command::DropCollection { collection: CollectionId(99) },
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
        let Command::CreateCollection { operation, spec, mut placement } = create(&before, 3, "b", 2) else {
            unreachable!("create makes a creation")
        };
        placement[1] = vec![NodeId(77)];
        let stale = map.apply(Command::CreateCollection { operation, spec, placement });
        assert_eq!(stale.reply, Err(MapError::StalePlacement));
        assert_eq!(map, before);
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

    #[test]
    fn watchers_that_follow_changes_hold_the_same_map() {
        let mut map = three_nodes();
        let mut watcher = map.clone();
        for i in 0..1200_u32 {
            if i % 3 == 2 {
                let oldest = map.collections.keys().next().copied().expect("two were just made");
                map.apply(Command::DropCollection { collection: oldest });
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
}
