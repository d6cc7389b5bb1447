//! Which shards are open on this node, following the cluster map.
//!
//! One task ([`Replicas::follow`]) opens, closes and erases; calls look replicas up. The newest map is kept on
//! disk, so that a node that restarts while no coordinator answers still serves what it holds. A map that is
//! older than the one in force is ignored, so a shard is never erased by old news.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use prost::Message as _;
use shoal_consensus::Consensus;
use shoal_index::IndexError;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{Classify as _, ClusterMap, Epoch, ErrorKind, NodeId, Shard, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::map::{map_from_wire, map_to_wire};
use shoal_runtime::{Batch, Store, StoreError, Table};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::NodeError;
use crate::replica::{Indexing, Replica, group_of, witnesses_of};
use crate::shard::keys;
use crate::shard::machine::{self, Applied};
use crate::witness::Witness;

/// How long a call waits for a shard that its router already knows of.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// Replicas that are opened at once: each reads its records and files.
const OPEN_AT_ONCE: usize = 4;

/// Ends with the group of an open replica.
type ReplicaTask = JoinHandle<Result<(), NodeError>>;

/// The apply tasks of open replicas.
type Applying = JoinSet<(ShardId, Result<(), NodeError>)>;

/// What is open of a shard.
#[derive(Clone)]
enum Open {
    Replica(Arc<Replica>),
    Witness(Witness),
}

/// The open replicas of a node.
pub(crate) struct Replicas {
    node: NodeId,
    store: Arc<dyn Store>,
    consensus: Consensus<Applied>,
    indexing: Indexing,
    open: RwLock<BTreeMap<ShardId, Open>>,
    /// The map version that `open` reflects.
    followed: watch::Sender<Epoch>,
}

/// Every shard of which something is stored.
pub fn stored_shards(store: &dyn Store) -> Result<BTreeSet<ShardId>, NodeError> {
    let (from, to) = keys::ALL_STATES;
    let mut shards = BTreeSet::new();
    store.scan(Table::Meta, from, to, &mut |key, _| {
        shards.extend(keys::shard_of_state(key));
        ControlFlow::Continue(())
    })?;
    Ok(shards)
}

/// Reads the map that was in force when the node last ran.
pub fn saved_map(store: &dyn Store) -> Result<ClusterMap, NodeError> {
    let malformed = || NodeError::Malformed { shard: ShardId::default(), what: "cluster map" };
    match store.get(Table::Meta, keys::MAP)? {
        None => Ok(ClusterMap::default()),
        Some(bytes) => {
            let map = wire::ClusterMap::decode(bytes).map_err(|_| malformed())?;
            map_from_wire(map).map_err(|_| malformed())
        }
    }
}

/// Keeps a map for the next start.
pub fn save_map(map: &ClusterMap, store: &dyn Store) -> Result<(), NodeError> {
    // Changes are for watchers; the node asks again from this epoch.
    meet(Failpoint::NodeMapSave)?;
    let mut map = map_to_wire(map);
    map.recent.clear();
    let mut batch = Batch::default();
    batch.put(Table::Meta, keys::MAP, map.encode_to_vec());
    // Synced with the next write; until then the coordinator can send it again.
    Ok(store.write(batch)?)
}

/// Gives back the room of shards that were erased; their numbers are never given again. A drop that is not durable could come
/// back without its records, so that is seen to first. Errors: those of the sync.
fn give_back(shards: &[ShardId], store: &dyn Store) -> Result<(), StoreError> {
    store.sync()?;
    for shard in shards {
        let (from, to) = keys::points(*shard);
        for table in [Table::Vectors, Table::Payload] {
            if let Err(error) = store.give_back(table, &from, &to) {
                tracing::warn!(%error, shard = shard.0, "the room of a dropped replica goes back in the course of other writes");
            }
        }
    }
    Ok(())
}

impl Replicas {
    /// Nothing is open yet.
    pub(crate) fn new(node: NodeId, store: Arc<dyn Store>, consensus: Consensus<Applied>, indexing: Indexing) -> Self {
        let (followed, _) = watch::channel(Epoch::default());
        Self { node, store, consensus, indexing, open: RwLock::default(), followed }
    }

    /// Follows `maps` until `stop`; returns an error when a replica cannot go on.
    pub(crate) async fn follow(
        &self,
        mut maps: watch::Receiver<Arc<ClusterMap>>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), NodeError> {
        let (mut tasks, mut emptying) = (JoinSet::new(), JoinSet::new());
        let mut stop = std::pin::pin!(stop);
        loop {
            let map = maps.borrow_and_update().clone();
            if map.epoch > *self.followed.borrow() {
                save_map(&map, &*self.store)?;
                let dropped = self.reconcile(&map, &mut tasks).await?;
                if !dropped.is_empty() {
                    let store = self.store.clone();
                    emptying.spawn_blocking(move || give_back(&dropped, &*store));
                }
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(ended) = tasks.join_next() => self.reraise(ended)?,
                Some(ended) = emptying.join_next() => ended.map_err(|error| NodeError::Task(error.to_string()))??,
                changed = maps.changed() => if changed.is_err() { stop.await; break },
            }
        }
        self.close_all(&mut tasks).await?;
        while let Some(ended) = emptying.join_next().await {
            ended.map_err(|error| NodeError::Task(error.to_string()))??;
        }
        Ok(())
    }

    /// Opens what the map wants of this node, and drops what it does not; tells what was dropped.
    async fn reconcile(&self, map: &ClusterMap, tasks: &mut Applying) -> Result<Vec<ShardId>, NodeError> {
        let wanted: BTreeMap<ShardId, &Shard> = map.shards_on(self.node).map(|shard| (shard.id, shard)).collect();
        // What is stored and not open is what a crash left of a drop that was under way.
        let mut gone = stored_shards(&*self.store)?;
        gone.extend(self.ids());
        gone.retain(|id| !wanted.contains_key(id));
        for shard in &gone {
            self.drop_replica(*shard, tasks).await?;
        }
        let mut opens: Vec<BoxFuture<'_, Result<(ShardId, ReplicaTask), NodeError>>> = Vec::new();
        for shard in wanted.into_values() {
            if !self.is_open(shard.id) {
                opens.push(self.open_one(map, shard).boxed());
                continue;
            }
            if let Some(replica) = self.get(shard.id) {
                replica.set_epoch(shard.epoch);
            }
            self.consensus.set_witnesses(group_of(shard.id), witnesses_of(shard)).await?;
        }
        let mut opening = stream::iter(opens).buffer_unordered(OPEN_AT_ONCE);
        while let Some(opened) = opening.next().await {
            let (shard, task) = opened?;
            let ended = async move { task.await.unwrap_or_else(|error| Err(NodeError::Task(error.to_string()))) };
            tasks.spawn(async move { (shard, ended.await) });
        }
        drop(opening);
        self.followed.send_replace(map.epoch);
        Ok(gone.into_iter().collect())
    }

    /// Opens what this node holds of a shard.
    async fn open_one(&self, map: &ClusterMap, shard: &Shard) -> Result<(ShardId, ReplicaTask), NodeError> {
        let own = shard.replica_on(self.node).ok_or(NodeError::NotReady { shard: shard.id })?;
        if own.witness {
            let (witness, task) = Witness::open(shard, own.id, &self.consensus, &*self.store).await?;
            tracing::info!(shard = shard.id.0, "witness open");
            self.write_open().insert(shard.id, Open::Witness(witness));
            return Ok((shard.id, task));
        }
        Ok((shard.id, self.open_replica(map, shard).await?))
    }

    async fn open_replica(&self, map: &ClusterMap, shard: &Shard) -> Result<ReplicaTask, NodeError> {
        let Some(collection) = map.collections.get(&shard.collection) else {
            return Err(NodeError::Malformed { shard: shard.id, what: "cluster map" });
        };
        let (replica, task) =
            Replica::open(shard, &collection.index, self.node, &self.consensus, &self.store, &self.indexing).await?;
        let view = replica.view();
        tracing::info!(shard = shard.id.0, collection = collection.name, points = view.points.len(), "replica open");
        self.write_open().insert(shard.id, Open::Replica(replica));
        Ok(task)
    }

    async fn drop_replica(&self, shard: ShardId, tasks: &mut Applying) -> Result<(), NodeError> {
        let was_open = self.forget(shard);
        self.consensus.close_group(group_of(shard), true).await?;
        // What is still in its mailbox is applied, and must be before the erasure, or it would come after.
        while was_open && let Some(ended) = tasks.join_next().await {
            let id = ended.as_ref().ok().map(|(id, _)| *id);
            self.reraise(ended)?;
            if id == Some(shard) {
                break;
            }
        }
        tracing::info!(shard = shard.0, "replica dropped");
        machine::erase(&*self.store, shard, self.indexing.folder.as_deref())
    }

    async fn close_all(&self, tasks: &mut Applying) -> Result<(), NodeError> {
        for shard in self.ids() {
            self.forget(shard);
            self.consensus.close_group(group_of(shard), false).await?;
        }
        while let Some(ended) = tasks.join_next().await {
            self.reraise(ended)?;
        }
        Ok(())
    }

    /// An apply task may end only after its replica was dropped or closed.
    fn reraise(&self, ended: Result<(ShardId, Result<(), NodeError>), JoinError>) -> Result<(), NodeError> {
        let (shard, result) = ended.map_err(|error| NodeError::Task(error.to_string()))?;
        match result {
            // What is wrong with the store concerns the whole node.
            Err(error) if error.is_store_damage() => Err(error),
            Err(error) => Err(NodeError::ReplicaStopped { shard, reason: error.to_string() }),
            Ok(()) if self.is_open(shard) => Err(match self.consensus.take_failure(group_of(shard)) {
                Some(error) if error.kind() == ErrorKind::Corruption => error.into(),
                Some(error) => NodeError::ReplicaStopped { shard, reason: error.to_string() },
                None => NodeError::ReplicaStopped { shard, reason: "its Raft group was closed".to_owned() },
            }),
            Ok(()) => Ok(()),
        }
    }

    /// The replica of `shard`, if a router that believes in `epoch` may use it.
    ///
    /// A router that is ahead of this node waits a little; one that is behind is told so.
    pub(crate) async fn at_epoch(
        &self,
        shard: ShardId,
        epoch: Epoch,
        deadline: Instant,
    ) -> Result<Arc<Replica>, NodeError> {
        if let Some(replica) = self.get(shard).filter(|replica| replica.epoch() >= epoch) {
            return if replica.epoch() == epoch { Ok(replica) } else { Err(NodeError::StaleEpoch { shard }) };
        }
        let mut followed = self.followed.subscribe();
        let until = deadline.min(Instant::now() + READY_WITHIN);
        let caught_up = tokio::time::timeout_at(until.into(), followed.wait_for(|at| *at >= epoch)).await;
        match (caught_up, self.get(shard)) {
            (Ok(Ok(_)), Some(replica)) if replica.epoch() == epoch => Ok(replica),
            (Ok(Ok(_)), _) => Err(NodeError::StaleEpoch { shard }),
            _ => Err(NodeError::NotReady { shard }),
        }
    }

    /// The replica of `shard`, if it is open.
    pub(crate) fn get(&self, shard: ShardId) -> Option<Arc<Replica>> {
        match self.read_open().get(&shard)? {
            Open::Replica(replica) => Some(replica.clone()),
            Open::Witness(_) => None,
        }
    }

    /// Has the damage mended that an error tells of, if it does.
    pub(crate) fn note_damage(&self, error: &NodeError) {
        let damage = &self.indexing.damage;
        let replica = match error {
            NodeError::Index(IndexError::Damaged { segment }) => {
                self.all().into_iter().find(|replica| replica.segment(*segment).is_some())
            }
            NodeError::Malformed { shard, .. } => self.get(*shard),
            error => {
                let has_peers = self.all().iter().all(|replica| replica.has_peers());
                return damage.note_store(error, has_peers);
            }
        };
        if let Some(replica) = replica {
            damage.note(error, &replica);
        }
    }

    /// All open replicas.
    pub(crate) fn all(&self) -> Vec<Arc<Replica>> {
        let replica = |open: &Open| match open {
            Open::Replica(replica) => Some(replica.clone()),
            Open::Witness(_) => None,
        };
        self.read_open().values().filter_map(replica).collect()
    }

    /// The map version that the open replicas reflect.
    pub(crate) fn followed(&self) -> watch::Receiver<Epoch> {
        self.followed.subscribe()
    }

    /// All open witnesses.
    pub(crate) fn witnesses(&self) -> Vec<Witness> {
        let witness = |open: &Open| match open {
            Open::Replica(_) => None,
            Open::Witness(witness) => Some(witness.clone()),
        };
        self.read_open().values().filter_map(witness).collect()
    }

    fn ids(&self) -> Vec<ShardId> {
        self.read_open().keys().copied().collect()
    }

    fn is_open(&self, shard: ShardId) -> bool {
        self.read_open().contains_key(&shard)
    }

    /// Nobody finds what is open of a shard any more; tells whether anything was.
    fn forget(&self, shard: ShardId) -> bool {
        self.write_open().remove(&shard).is_some()
    }

    // Every change is one call on the map, so a poisoned one is whole.
    fn read_open(&self) -> RwLockReadGuard<'_, BTreeMap<ShardId, Open>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_open(&self) -> RwLockWriteGuard<'_, BTreeMap<ShardId, Open>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}
