//! Conversions of the cluster map, its changes and its commands: what coordinators keep in their log and
//! snapshots, and what watchers receive.

use bytes::Bytes;
use prost::Message as _;
use shoal_model::{
    Change, Classify, ClusterId, ClusterMap, Collection, CollectionId, CollectionSpec, Command, Decided, Epoch,
    ErrorKind, GraphSpec, HashRange, IndexSpec, IndexVersion, Node, NodeId, OperationId, ReplicaId, Shard, ShardId,
    ShardReplica, Standing, StoreId, Verdict,
};

use crate::convert;
use crate::internal::v1 as wire;

/// Bytes that are not what a process of this cluster would have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct MapDecodeError {
    /// Which part.
    pub what: &'static str,
}

impl Classify for MapDecodeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corruption
    }
}

fn malformed(what: &'static str) -> MapDecodeError {
    MapDecodeError { what }
}

/// 128 bits as 16 bytes.
#[must_use]
pub fn id_to_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// 128 bits from 16 bytes; none at all is zero.
pub fn id_from_bytes(what: &'static str, bytes: &[u8]) -> Result<u128, MapDecodeError> {
    if bytes.is_empty() {
        return Ok(0);
    }
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| malformed(what))
}

/// The store whose place another takes; `None` for none at all.
pub fn replaced_store(bytes: &[u8]) -> Result<Option<StoreId>, MapDecodeError> {
    let id = id_from_bytes("replaced store id", bytes)?;
    Ok(Some(StoreId(id)).filter(|store| *store != StoreId(0)))
}

/// A command as an entry of the coordinators' log.
#[must_use]
pub fn encode_command(command: &Command) -> Bytes {
    use wire::map_command::Kind;
    let kind = match command {
        Command::NameCluster { cluster } => Kind::NameCluster(wire::NameCluster { cluster: id_to_bytes(cluster.0) }),
        Command::RegisterNode { store, name, address, zone, replaces } => Kind::RegisterNode(wire::RegisterNode {
            store: id_to_bytes(store.0),
            name: name.clone(),
            address: address.clone(),
            zone: zone.clone(),
            replaces: replaces.map(|store| id_to_bytes(store.0)).unwrap_or_default(),
        }),
        Command::CreateCollection { operation, spec, placement } => Kind::CreateCollection(wire::CreateCollection {
            operation: id_to_bytes(operation.0),
            name: spec.name.clone(),
            shards: spec.shards,
            replicas: spec.replicas,
            witness: spec.witness,
            index: Some(index_to_wire(&spec.index)),
            placement: placement
                .iter()
                .map(|nodes| wire::ShardPlacement { nodes: nodes.iter().map(|node| node.0).collect() })
                .collect(),
        }),
        Command::DropCollection { operation, name, collection } => Kind::DropCollection(wire::DropCollection {
            collection: collection.unwrap_or_default().0,
            operation: id_to_bytes(operation.0),
            name: name.clone(),
        }),
        Command::SettleShard { shard, voters } => {
            Kind::SettleShard(wire::SettleShard { shard: shard.0, voters: voters.iter().map(|id| id.0).collect() })
        }
        Command::RemoveNode { node } => Kind::RemoveNode(wire::RemoveNode { node: node.0 }),
    };
    wire::MapCommand { kind: Some(kind) }.encode_to_vec().into()
}

/// Reads back [`encode_command`].
pub fn decode_command(bytes: Bytes) -> Result<Command, MapDecodeError> {
    use wire::map_command::Kind;
    let command = wire::MapCommand::decode(bytes).map_err(|_| malformed("command"))?;
    Ok(match command.kind.ok_or(malformed("command"))? {
        Kind::NameCluster(c) => Command::NameCluster { cluster: ClusterId(id_from_bytes("cluster id", &c.cluster)?) },
        Kind::RegisterNode(c) => Command::RegisterNode {
            store: StoreId(id_from_bytes("store id", &c.store)?),
            name: c.name,
            address: c.address,
            zone: c.zone,
            replaces: replaced_store(&c.replaces)?,
        },
        Kind::CreateCollection(c) => Command::CreateCollection {
            operation: OperationId(id_from_bytes("operation id", &c.operation)?),
            spec: CollectionSpec {
                name: c.name,
                shards: c.shards,
                replicas: c.replicas,
                witness: c.witness,
                index: index_from_wire(c.index)?,
            },
            placement: c.placement.into_iter().map(|p| p.nodes.into_iter().map(NodeId).collect()).collect(),
        },
        Kind::DropCollection(c) => Command::DropCollection {
            operation: OperationId(id_from_bytes("operation id", &c.operation)?),
            name: c.name,
            collection: Some(CollectionId(c.collection)).filter(|id| *id != CollectionId::default()),
        },
        Kind::SettleShard(c) => {
            Command::SettleShard { shard: ShardId(c.shard), voters: c.voters.into_iter().map(ReplicaId).collect() }
        }
        Kind::RemoveNode(c) => Command::RemoveNode { node: NodeId(c.node) },
    })
}

/// The whole map for the wire.
#[must_use]
pub fn map_to_wire(map: &ClusterMap) -> wire::ClusterMap {
    wire::ClusterMap {
        cluster: id_to_bytes(map.cluster.0),
        epoch: map.epoch.0,
        nodes: map.nodes.values().map(node_to_wire).collect(),
        collections: map.collections.values().map(collection_to_wire).collect(),
        shards: map.shards.values().map(shard_to_wire).collect(),
        last_id: map.last_id,
        recent: map.recent.iter().map(|(epoch, changes)| changes_to_wire(*epoch, changes)).collect(),
        decided: map.decided.iter().map(decided_to_wire).collect(),
    }
}

/// The whole map from the wire.
pub fn map_from_wire(map: wire::ClusterMap) -> Result<ClusterMap, MapDecodeError> {
    let nodes = map.nodes.into_iter().map(node_from_wire).map(|n| n.map(|n| (n.id, n))).collect::<Result<_, _>>()?;
    let collections = map.collections.into_iter().map(collection_from_wire);
    let shards = map.shards.into_iter().map(shard_from_wire);
    Ok(ClusterMap {
        cluster: ClusterId(id_from_bytes("cluster id", &map.cluster)?),
        epoch: Epoch(map.epoch),
        nodes,
        collections: collections.map(|c| c.map(|c| (c.id, c))).collect::<Result<_, _>>()?,
        shards: shards.map(|s| s.map(|s| (s.id, s))).collect::<Result<_, _>>()?,
        last_id: map.last_id,
        recent: map.recent.into_iter().map(changes_from_wire).collect::<Result<_, _>>()?,
        decided: map.decided.into_iter().map(decided_from_wire).collect::<Result<_, _>>()?,
    })
}

/// The changes that led to `epoch`, for the wire.
#[must_use]
pub fn changes_to_wire(epoch: Epoch, changes: &[Change]) -> wire::EpochChanges {
    use wire::map_change::Kind;
    let convert = |change: &Change| {
        let kind = match change {
            Change::Named(cluster) => Kind::Named(id_to_bytes(cluster.0)),
            Change::Node(node) => Kind::Node(node_to_wire(node)),
            Change::NodeRemoved(node) => Kind::NodeRemoved(node.0),
            Change::Collection(collection) => Kind::Collection(collection_to_wire(collection)),
            Change::Shard(shard) => Kind::Shard(shard_to_wire(shard)),
            Change::CollectionDropped(id) => Kind::CollectionDropped(id.0),
        };
        wire::MapChange { kind: Some(kind) }
    };
    wire::EpochChanges { epoch: epoch.0, changes: changes.iter().map(convert).collect() }
}

/// The changes that led to an epoch, from the wire.
pub fn changes_from_wire(changes: wire::EpochChanges) -> Result<(Epoch, Vec<Change>), MapDecodeError> {
    use wire::map_change::Kind;
    let convert = |change: wire::MapChange| {
        Ok(match change.kind.ok_or(malformed("change"))? {
            Kind::Named(cluster) => Change::Named(ClusterId(id_from_bytes("cluster id", &cluster)?)),
            Kind::Node(node) => Change::Node(node_from_wire(node)?),
            Kind::NodeRemoved(node) => Change::NodeRemoved(NodeId(node)),
            Kind::Collection(collection) => Change::Collection(collection_from_wire(collection)?),
            Kind::Shard(shard) => Change::Shard(shard_from_wire(shard)?),
            Kind::CollectionDropped(id) => Change::CollectionDropped(CollectionId(id)),
        })
    };
    Ok((Epoch(changes.epoch), changes.changes.into_iter().map(convert).collect::<Result<_, MapDecodeError>>()?))
}

fn decided_to_wire(decided: &Decided) -> wire::MapDecided {
    let (verdict, collection) = match decided.verdict {
        Verdict::Created(id) => (wire::MapVerdict::Created, id.0),
        Verdict::Taken => (wire::MapVerdict::Taken, 0),
        Verdict::Dropped => (wire::MapVerdict::Dropped, 0),
        Verdict::Unknown => (wire::MapVerdict::Unknown, 0),
    };
    let (operation, name) = (id_to_bytes(decided.operation.0), decided.name.clone());
    wire::MapDecided { operation, name, verdict: verdict.into(), collection }
}

fn decided_from_wire(decided: wire::MapDecided) -> Result<Decided, MapDecodeError> {
    let verdict = match decided.verdict() {
        wire::MapVerdict::Created => Verdict::Created(CollectionId(decided.collection)),
        wire::MapVerdict::Taken => Verdict::Taken,
        wire::MapVerdict::Dropped => Verdict::Dropped,
        wire::MapVerdict::Unknown => Verdict::Unknown,
        wire::MapVerdict::Unspecified => return Err(malformed("decided change")),
    };
    let operation = OperationId(id_from_bytes("operation id", &decided.operation)?);
    Ok(Decided { operation, name: decided.name, verdict })
}

fn node_to_wire(node: &Node) -> wire::MapNode {
    wire::MapNode {
        id: node.id.0,
        store: id_to_bytes(node.store.0),
        name: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
        replaced: node.replaced,
    }
}

fn node_from_wire(node: wire::MapNode) -> Result<Node, MapDecodeError> {
    Ok(Node {
        id: NodeId(node.id),
        store: StoreId(id_from_bytes("store id", &node.store)?),
        name: node.name,
        address: node.address,
        zone: node.zone,
        replaced: node.replaced,
    })
}

fn collection_to_wire(collection: &Collection) -> wire::MapCollection {
    wire::MapCollection {
        id: collection.id.0,
        name: collection.name.clone(),
        replicas: collection.replicas,
        witness: collection.witness,
        active: collection.active.0,
        index: Some(index_to_wire(&collection.index)),
        shards: collection.shards.iter().map(|shard| shard.0).collect(),
        created_by: id_to_bytes(collection.created_by.0),
    }
}

fn collection_from_wire(collection: wire::MapCollection) -> Result<Collection, MapDecodeError> {
    Ok(Collection {
        id: CollectionId(collection.id),
        name: collection.name,
        replicas: collection.replicas,
        witness: collection.witness,
        active: IndexVersion(collection.active),
        index: index_from_wire(collection.index)?,
        shards: collection.shards.into_iter().map(ShardId).collect(),
        created_by: OperationId(id_from_bytes("operation id", &collection.created_by)?),
    })
}

fn index_to_wire(index: &IndexSpec) -> wire::MapIndexSpec {
    wire::MapIndexSpec {
        dim: index.dim,
        metric: convert::metric_to_wire(index.metric).into(),
        embedding: index.embedding.clone(),
        ef_construction: index.graph.ef_construction,
        quantization: convert::quantization_to_wire(index.graph.quantization).into(),
        seed: index.graph.seed,
    }
}

fn index_from_wire(index: Option<wire::MapIndexSpec>) -> Result<IndexSpec, MapDecodeError> {
    let index = index.ok_or(malformed("index specification"))?;
    let metric = convert::metric(index.metric).map_err(|_| malformed("metric"))?;
    let quantization = convert::quantization(index.quantization).map_err(|_| malformed("quantization"))?;
    let graph = GraphSpec { ef_construction: index.ef_construction, quantization, seed: index.seed };
    Ok(IndexSpec { dim: index.dim, metric, embedding: index.embedding, graph })
}

fn shard_to_wire(shard: &Shard) -> wire::MapShard {
    let replica = |replica: &ShardReplica| wire::MapReplica {
        id: replica.id.0,
        node: replica.node.0,
        witness: replica.witness,
        standing: standing_to_wire(replica.standing).into(),
    };
    wire::MapShard {
        id: shard.id.0,
        collection: shard.collection.0,
        range_first: shard.range.first,
        range_last: shard.range.last,
        replicas: shard.replicas.iter().map(replica).collect(),
        founders: shard.founders.iter().map(|id| id.0).collect(),
        epoch: shard.epoch.0,
    }
}

fn shard_from_wire(shard: wire::MapShard) -> Result<Shard, MapDecodeError> {
    if shard.range_first > shard.range_last {
        return Err(malformed("hash range"));
    }
    let replica = |replica: wire::MapReplica| {
        Ok(ShardReplica {
            standing: standing_from_wire(replica.standing())?,
            id: ReplicaId(replica.id),
            node: NodeId(replica.node),
            witness: replica.witness,
        })
    };
    Ok(Shard {
        id: ShardId(shard.id),
        collection: CollectionId(shard.collection),
        range: HashRange { first: shard.range_first, last: shard.range_last },
        replicas: shard.replicas.into_iter().map(replica).collect::<Result<_, MapDecodeError>>()?,
        founders: shard.founders.into_iter().map(ReplicaId).collect(),
        epoch: Epoch(shard.epoch),
    })
}

fn standing_to_wire(standing: Standing) -> wire::MapStanding {
    match standing {
        Standing::Member => wire::MapStanding::Member,
        Standing::Joining => wire::MapStanding::Joining,
        Standing::Leaving => wire::MapStanding::Leaving,
    }
}

fn standing_from_wire(standing: wire::MapStanding) -> Result<Standing, MapDecodeError> {
    match standing {
        wire::MapStanding::Member => Ok(Standing::Member),
        wire::MapStanding::Joining => Ok(Standing::Joining),
        wire::MapStanding::Leaving => Ok(Standing::Leaving),
        wire::MapStanding::Unspecified => Err(malformed("standing of a replica")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{Metric, Quantization, placement::place};

    fn commands() -> Vec<Command> {
        let graph = GraphSpec { ef_construction: 64, quantization: Quantization::Int8, seed: 7 };
        let index = IndexSpec { dim: 384, metric: Metric::Cosine, embedding: "minilm".into(), graph };
        let taken = index.clone();
        let register = |store: u128| Command::RegisterNode {
            store: StoreId(store),
            name: format!("node-{store}"),
            address: "http://127.0.0.1:1".into(),
            zone: "a".into(),
            replaces: (store == 3).then_some(StoreId(2)),
        };
        let mut commands = vec![Command::NameCluster { cluster: ClusterId(u128::MAX) }, register(1), register(2)];
        let mut map = ClusterMap::default();
        commands.iter().for_each(|command| drop(map.apply(command.clone())));
        commands.push(Command::CreateCollection {
            operation: OperationId(9),
            spec: CollectionSpec { name: "c".into(), shards: 3, replicas: 2, witness: false, index },
            placement: place(&map, 3, 2).expect("two nodes"),
        });
        commands.push(register(3));
        commands.push(Command::SettleShard { shard: ShardId(4), voters: vec![ReplicaId(5), ReplicaId(6)] });
        commands.push(Command::RemoveNode { node: NodeId(2) });
        let drop = |operation, name: &str, collection: Option<u64>| Command::DropCollection {
            operation: OperationId(operation),
            name: name.into(),
            collection: collection.map(CollectionId),
        };
        commands.extend([drop(10, "nobody", None), drop(11, "gone", Some(77)), drop(0, "", Some(78))]);
        let create = |operation, name: &str| Command::CreateCollection {
            operation: OperationId(operation),
            spec: CollectionSpec { name: name.into(), shards: 1, replicas: 1, witness: false, index: taken.clone() },
            placement: vec![vec![NodeId(1)]],
        };
        commands.extend([create(12, "c"), drop(13, "c", Some(3)), create(14, "d")]);
        commands
    }

    #[test]
    fn commands_survive_the_log() {
        for command in commands() {
            assert_eq!(decode_command(encode_command(&command)), Ok(command));
        }
    }

    #[test]
    fn the_map_survives_a_snapshot_and_changes_the_wire() {
        let mut map = ClusterMap::default();
        for command in commands() {
            map.apply(command);
        }
        let verdicts: Vec<Verdict> = map.decided.iter().map(|decided| decided.verdict).collect();
        let created = Verdict::Created(CollectionId(3));
        assert_eq!(map.collections.len(), 1);
        assert_eq!(verdicts[..5], [created, Verdict::Unknown, Verdict::Unknown, Verdict::Taken, Verdict::Dropped]);
        assert_eq!(map_from_wire(map_to_wire(&map)), Ok(map.clone()));
        for (epoch, changes) in &map.recent {
            assert_eq!(changes_from_wire(changes_to_wire(*epoch, changes)), Ok((*epoch, changes.clone())));
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"hello", &[0xff; 40]] {
            assert!(decode_command(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
