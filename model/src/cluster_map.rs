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
    Classify, ClusterId, Collection, CollectionId, CollectionSpec, Decisions, Epoch, ErrorKind, HashRange,
    IndexVersion, NodeId, OperationId, ReplicaId, Shard, ShardId, ShardReplica, Standing, StoreId, Verdict, Wish,
    partitions_exactly,
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
    /// Its store is lost and another has taken its place: it goes once its replicas have.
    pub replaced: bool,
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
    /// The newest changes of collections that were decided, the oldest first. Coordinators alone have them: what they are
    /// asked again they answer alike, and nothing more comes of it.
    pub decided: Decisions,
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
        /// The store whose place it takes, as that is lost, if any. Its replicas are made anew on this one.
        replaces: Option<StoreId>,
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
        /// The caller's intent; a retry with the same one gets the same answer, and removes nothing else. Zero, as in logs of
        /// earlier versions, is none.
        operation: OperationId,
        /// The name it was asked for by.
        name: String,
        /// Which one had that name; `None` if none had.
        collection: Option<CollectionId>,
    },
    /// Removes a node that holds no replica. Removing one that is gone changes nothing.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// Takes note of who has a vote in a shard's group: replicas that joined are members, and those that left are gone.
    SettleShard {
        /// Which.
        shard: ShardId,
        /// The group's voters, as its leader reports them once no change is under way.
        voters: Vec<ReplicaId>,
    },
}

/// One change of the map, as watchers receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The cluster got its identity.
    Named(ClusterId),
    /// A node is new or changed.
    Node(Node),
    /// A node is gone.
    NodeRemoved(NodeId),
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
    /// There is no such collection.
    #[error("collection {name:?} does not exist; list them with `shoal collection ls`")]
    UnknownCollection {
        /// The name.
        name: String,
    },
    /// An operation id that named another change.
    #[error("operation_id: it named another change of a collection before; draw one for each change")]
    OperationReused,
    /// The plan names a node that the map does not hold, or does not fit the specification: plan again.
    #[error("placement does not fit the cluster map any more; plan again")]
    StalePlacement,
    /// A store cannot be given up: it has the only copy of a shard.
    #[error("shard {shard} has no other replica with points; bring the old data folder back, or remove its collection")]
    LastCopy {
        /// The shard.
        shard: ShardId,
    },
    /// A store cannot be given up now: without it, a shard could agree on nothing any more, its new members included.
    #[error(
        "shard {shard} would have no majority left; try again once its other replicas are members, or bring the old data \
         folder back"
    )]
    NoMajority {
        /// The shard.
        shard: ShardId,
    },
    /// A node cannot be removed: it holds replicas.
    #[error(
        "node {node} holds replicas of {}; to give it up, start a node on an empty data folder with `--replaces {node}`, \
         which takes its place",
        shards_named(shards)
    )]
    HoldsReplicas {
        /// The node.
        node: NodeId,
        /// Of which shards.
        shards: Vec<ShardId>,
    },
}

/// Shards that an error names.
const NAMED_MAX: usize = 8;

/// How many, and which: `2 shards (7, 8)`.
fn shards_named(shards: &[ShardId]) -> String {
    let named: Vec<String> = shards.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if shards.len() > NAMED_MAX { ", ..." } else { "" };
    let word = if shards.len() == 1 { "shard" } else { "shards" };
    format!("{} {word} ({}{more})", shards.len(), named.join(", "))
}

impl Classify for MapError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::CollectionExists { .. } => ErrorKind::AlreadyExists,
            Self::UnknownCollection { .. } => ErrorKind::NotFound,
            Self::OperationReused => ErrorKind::Invalid,
            Self::StalePlacement => ErrorKind::StaleEpoch,
            Self::LastCopy { .. } | Self::NoMajority { .. } | Self::HoldsReplicas { .. } => ErrorKind::Precondition,
        }
    }
}

impl ClusterMap {
    /// Applies a command: the one way in which a coordinator's map changes.
    pub fn apply(&mut self, command: Command) -> Outcome {
        let (reply, changes) = match command {
            Command::NameCluster { cluster } => self.name_cluster(cluster),
            Command::RegisterNode { store, name, address, zone, replaces } => {
                self.register_node(Node { id: NodeId(0), store, name, address, zone, replaced: false }, replaces)
            }
            Command::CreateCollection { operation, spec, placement } => {
                self.create_collection(operation, spec, &placement)
            }
            Command::DropCollection { operation, name, collection } => {
                self.drop_collection(operation, name, collection)
            }
            Command::RemoveNode { node } => self.remove_node(node),
            Command::SettleShard { shard, voters } => self.settle_shard(shard, &voters),
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
            Change::NodeRemoved(node) => drop(self.nodes.remove(&node)),
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
        self.shards.values().filter(move |shard| shard.replica_on(node).is_some())
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

    fn register_node(&mut self, node: Node, replaces: Option<StoreId>) -> (Result<Reply, MapError>, Vec<Change>) {
        if let Some(known) = self.nodes.values().find(|known| known.store == node.store) {
            let node = Node { id: known.id, replaced: known.replaced, ..node };
            let changes = if *known == node { vec![] } else { vec![Change::Node(node)] };
            return (Ok(Reply::Node(known.id)), changes);
        }
        let lost = self.nodes.values().find(|known| Some(known.store) == replaces).cloned();
        if let Some(shard) = lost.as_ref().and_then(|lost| self.only_copy_on(lost.id)) {
            return (Err(MapError::LastCopy { shard }), vec![]);
        }
        if let Some(shard) = lost.as_ref().and_then(|lost| self.stuck_without(lost.id)) {
            return (Err(MapError::NoMajority { shard }), vec![]);
        }
        let id = NodeId(self.take_id());
        let mut changes = vec![Change::Node(Node { id, ..node })];
        if let Some(lost) = lost {
            let moved = self.replaced_replicas(lost.id, id);
            let gone = moved.is_empty();
            changes.extend(moved.into_iter().map(Change::Shard));
            let emptied =
                if gone { Change::NodeRemoved(lost.id) } else { Change::Node(Node { replaced: true, ..lost }) };
            changes.push(emptied);
        }
        (Ok(Reply::Node(id)), changes)
    }

    /// A shard of which no other node has a copy with points that is a member.
    fn only_copy_on(&self, node: NodeId) -> Option<ShardId> {
        let elsewhere = |replica: &ShardReplica| replica.node != node && replica.standing == Standing::Member;
        let holds = |shard: &&Shard| shard.replica_on(node).is_some_and(|replica| !replica.witness);
        let only = |shard: &&Shard| !shard.full_replicas().any(elsewhere);
        self.shards_on(node).filter(holds).find(only).map(|shard| shard.id)
    }

    /// A shard whose voters are no majority any more without `node` and those that were given up before.
    fn stuck_without(&self, node: NodeId) -> Option<ShardId> {
        let is_stuck = |shard: &&Shard| {
            let voters = shard.replicas.iter().filter(|replica| replica.standing != Standing::Joining);
            let well = |replica: &&ShardReplica| replica.standing == Standing::Member && replica.node != node;
            2 * voters.clone().filter(well).count() <= voters.count()
        };
        self.shards_on(node).find(is_stuck).map(|shard| shard.id)
    }

    /// The shards that have a replica on `lost`, each with a new one on `node` to take its place.
    fn replaced_replicas(&mut self, lost: NodeId, node: NodeId) -> Vec<Shard> {
        let epoch = self.epoch.next();
        let mut shards: Vec<Shard> = self.shards_on(lost).cloned().collect();
        for shard in &mut shards {
            shard.epoch = epoch;
            let id = ReplicaId(self.take_id());
            if let Some(at) = shard.replicas.iter().position(|replica| replica.node == lost) {
                let left = &mut shard.replicas[at];
                left.standing = Standing::Leaving;
                let joins = ShardReplica { id, node, witness: left.witness, standing: Standing::Joining };
                // In the same place, so that it leads what the lost one led.
                shard.replicas.insert(at + 1, joins);
            }
        }
        shards
    }

    fn remove_node(&self, node: NodeId) -> (Result<Reply, MapError>, Vec<Change>) {
        let shards: Vec<ShardId> = self.shards_on(node).map(|shard| shard.id).collect();
        if !shards.is_empty() {
            return (Err(MapError::HoldsReplicas { node, shards }), vec![]);
        }
        let known = self.nodes.contains_key(&node);
        (Ok(Reply::Done), if known { vec![Change::NodeRemoved(node)] } else { vec![] })
    }

    fn settle_shard(&self, shard: ShardId, voters: &[ReplicaId]) -> (Result<Reply, MapError>, Vec<Change>) {
        let Some(before) = self.shards.get(&shard) else { return (Ok(Reply::Done), vec![]) };
        let mut after = before.clone();
        after.replicas.retain(|replica| replica.standing != Standing::Leaving || voters.contains(&replica.id));
        for replica in after.replicas.iter_mut().filter(|replica| replica.standing == Standing::Joining) {
            if voters.contains(&replica.id) {
                replica.standing = Standing::Member;
            }
        }
        if after == *before {
            return (Ok(Reply::Done), vec![]);
        }
        after.epoch = self.epoch.next();
        let left = before.replicas.iter().filter(|replica| after.replica(replica.id).is_none());
        let emptied = left.filter(|replica| {
            self.nodes.get(&replica.node).is_some_and(|node| node.replaced) && self.shards_on(replica.node).count() == 1
        });
        let removed: Vec<Change> = emptied.map(|replica| Change::NodeRemoved(replica.node)).collect();
        (Ok(Reply::Done), std::iter::once(Change::Shard(after)).chain(removed).collect())
    }

    fn create_collection(
        &mut self,
        operation: OperationId,
        spec: CollectionSpec,
        placement: &[Vec<NodeId>],
    ) -> (Result<Reply, MapError>, Vec<Change>) {
        if let Some(reply) = self.decided.before(operation, Wish::Create, &spec.name) {
            return (reply, vec![]);
        }
        if let Some(existing) = self.collection(&spec.name) {
            if existing.created_by == operation {
                // Decided so long ago that only the collection itself remembers.
                return (Ok(Reply::Collection(existing.id)), vec![]);
            }
            return (self.decided.decide(operation, spec.name, Verdict::Taken), vec![]);
        }
        if !self.fits(&spec, placement) {
            return (Err(MapError::StalePlacement), vec![]);
        }
        let id = CollectionId(self.take_id());
        let reply = self.decided.decide(operation, spec.name.clone(), Verdict::Created(id));
        let shards = self.new_shards(id, spec.replicas, placement);
        let collection = Collection {
            id,
            name: spec.name,
            replicas: spec.replicas,
            witness: spec.witness,
            active: IndexVersion(1),
            index: spec.index,
            shards: shards.iter().map(|shard| shard.id).collect(),
            created_by: operation,
        };
        let changes = std::iter::once(Change::Collection(collection)).chain(shards.into_iter().map(Change::Shard));
        (reply, changes.collect())
    }

    fn fits(&self, spec: &CollectionSpec, placement: &[Vec<NodeId>]) -> bool {
        let shard_fits = |nodes: &Vec<NodeId>| {
            let distinct: BTreeSet<_> = nodes.iter().collect();
            distinct.len() == spec.copies() as usize
                && distinct.len() == nodes.len()
                && nodes.iter().all(|node| self.nodes.get(node).is_some_and(|node| !node.replaced))
        };
        spec.shards > 0 && placement.len() == spec.shards as usize && placement.iter().all(shard_fits)
    }

    /// The first `full` nodes of each placement hold points; one more is a witness.
    fn new_shards(&mut self, collection: CollectionId, full: u32, placement: &[Vec<NodeId>]) -> Vec<Shard> {
        let epoch = self.epoch.next();
        let count = u32::try_from(placement.len()).unwrap_or(u32::MAX);
        let ranges = HashRange::divide(count);
        let mut shards = Vec::with_capacity(placement.len());
        for (range, nodes) in ranges.into_iter().zip(placement) {
            let id = ShardId(self.take_id());
            let replica = |(number, node): (u32, &NodeId)| ShardReplica {
                id: ReplicaId(self.take_id()),
                node: *node,
                witness: number >= full,
                standing: Standing::Member,
            };
            let replicas: Vec<ShardReplica> = (0..).zip(nodes).map(replica).collect();
            let founders = replicas.iter().map(|replica| replica.id).collect();
            shards.push(Shard { id, collection, range, replicas, founders, epoch });
        }
        shards
    }

    fn drop_collection(
        &mut self,
        operation: OperationId,
        name: String,
        collection: Option<CollectionId>,
    ) -> (Result<Reply, MapError>, Vec<Change>) {
        if let Some(reply) = self.decided.before(operation, Wish::Drop, &name) {
            return (reply, vec![]);
        }
        match collection.filter(|id| self.collections.contains_key(id)) {
            Some(id) => (self.decided.decide(operation, name, Verdict::Dropped), vec![Change::CollectionDropped(id)]),
            None => (self.decided.decide(operation, name, Verdict::Unknown), vec![]),
        }
    }

    fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

#[cfg(test)]
mod tests;
