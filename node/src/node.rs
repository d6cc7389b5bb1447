//! Putting a node together, and taking it down in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use shoal_consensus::{BEACON_GROUP, Consensus, ConsensusError, ProcessId, RaftConfig};
use shoal_model::{ClusterId, ClusterMap, GroupId, NodeId, ReplicaId, ShardId, StoreId};
use shoal_proto::internal::v1::replica_service_server::ReplicaServiceServer;
use shoal_proto::internal::v1::shard_service_server::ShardServiceServer;
use shoal_proto::map_watch::MapWatch;
use shoal_proto::raft_lanes::{RaftInbox, RaftLanes};
use shoal_proto::recipient::Recipient;
use shoal_proto::server;
use shoal_runtime::{DiskWatch, Failure, PatientStore, Store, Tasks, Told};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic_health::ServingStatus;

use crate::builder::Builder;
use crate::compare;
use crate::cpu_pool::CpuPool;
use crate::damage::Damage;
use crate::disks::{self, Disks};
use crate::identity::Identity;
use crate::members;
use crate::membership::{Coordinators, Replaced, Reported, heartbeats, register};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::reads::Reads;
use crate::replica::Indexing;
use crate::replicas::{Replicas, saved_map};
use crate::scrub::Scrub;
use crate::service::ShardCalls;
use crate::shard::machine::Applied;
use crate::timed_store::TimedStore;
use crate::transfer::{Exports, ReplicaCalls};
use crate::{NodeConfig, NodeError};

/// How long open calls may take to finish when the node stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);
/// How often the gauges take stock.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// A running node.
pub struct Node {
    address: SocketAddr,
    /// What takes calls; ends first, so that open calls find everything they need.
    front: Tasks,
    /// What answers them.
    back: Tasks,
    consensus: Consensus<Applied>,
    /// Ends with the thread that runs the groups.
    raft: JoinHandle<Result<(), ConsensusError>>,
    failure: Failure,
    identity: Identity,
    /// Writes wait for room as long as it is there: until the node stops, or its start fails.
    patience: DropGuard,
}

impl Node {
    /// Starts a node on `listener` over `store`, and returns once the coordinators know it.
    ///
    /// `segments` is the folder of its segment files, which it makes; without one, segments are in memory.
    /// `replaces`: whose store is lost, so that this one takes its place; says nothing once this one is registered.
    /// A node that was registered before serves what it holds at once, and registers in the background.
    pub async fn start(
        config: NodeConfig,
        listener: TcpListener,
        store: Arc<dyn Store>,
        segments: Option<PathBuf>,
        replaces: Option<Replaced>,
        registry: &mut Registry,
    ) -> Result<Self, NodeError> {
        config.validate()?;
        let patience = CancellationToken::new();
        let store: Arc<dyn Store> = Arc::new(PatientStore::new(store, patience.clone()));
        let patience = patience.drop_guard();
        let disk = Arc::new(DiskWatch::new(store.clone(), config.disk_reserve())?);
        let bound = listener
            .local_addr()
            .map_err(|source| server::ServerError::Listen { address: "the given socket".to_owned(), source })?;
        let address = config.address_where(bound)?;
        let mut identity = Identity::load(&*store)?;
        let mut coordinators = Coordinators::new(&config.coordinators)?;
        let member = match identity.member {
            Some(member) => {
                if let Some(Replaced::Node(called)) = &replaces {
                    tracing::info!(
                        node = member.1.0,
                        replaces = called,
                        "this store is a node's already, and stays it"
                    );
                }
                member
            }
            None => register(&mut coordinators, &config, &address, identity, replaces.as_ref()).await?,
        };
        if identity.member.is_none() {
            identity.member = Some(member);
            identity.save(&*store)?;
        }
        let (mut front, mut back) = (Tasks::new(), Tasks::new());
        let failure = Failure::default();
        let stop = back.stop_signal();
        let (map_watch, watching) =
            MapWatch::start_from(known_map(&*store, member.0)?, config.coordinators.clone(), stop.clone());
        back.spawn("map watch", watching);

        let lanes = RaftLanes::new(Box::new(resolver(map_watch.clone())));
        let metrics = Metrics::register(registry);
        let log: Arc<dyn Store> = Arc::new(TimedStore::new(store.clone(), metrics.clone()));
        let (consensus, thread) = Consensus::<Applied>::start(log, lanes, raft_config(&config, member.1))?;
        let raft = tokio::spawn(thread.ended_or_tell(failure.clone()));
        let peers = Arc::new(Peers::new(member.1, map_watch.clone(), config.transfer_bytes_per_second));
        let exports = Arc::new(Exports::default());
        let disks = Arc::new(Disks::new(member.1, disk.clone()));
        let moving = (peers.clone(), exports.clone());
        let damage = Damage::new(failure.clone());
        let indexing = indexing(&config, segments, &metrics, moving, disks.clone(), damage.clone())?;
        let builder = indexing.builder.clone();
        let replicas = Arc::new(Replicas::new(member.1, store.clone(), consensus.clone(), indexing));
        let pool = Arc::new(CpuPool::new(config.search_threads(), config.search_queue_max));
        let reads =
            Arc::new(Reads { replicas: replicas.clone(), store: store.clone(), pool, limits: config.limits.clone() });
        let calls = ShardCalls { reads, metrics: metrics.clone() };
        let transfers = ReplicaCalls { replicas: replicas.clone(), peers, exports: exports.clone() };

        let maps = map_watch.subscribe();
        back.spawn("replicas", follow(replicas.clone(), maps, stop.clone(), failure.clone()));
        if config.scrub_bytes_per_second > 0 {
            let (replicas, store, metrics) = (replicas.clone(), store.clone(), metrics.clone());
            let (bytes_per_second, every) = (config.scrub_bytes_per_second, config.scrub_every());
            let scrub = Scrub { replicas, store, metrics, bytes_per_second, every };
            back.spawn("scrub", until(stop.clone(), scrub.run()));
        }
        let life = Life { coordinators, config: config.clone(), address: address.clone(), identity };
        let reported = Reported { replicas: replicas.clone(), store, disks: disks.clone(), damage };
        back.spawn("membership", until(stop.clone(), live(life, reported, failure.clone())));
        let comparing = compare::compare_all(replicas.clone(), transfers.peers.clone(), metrics.clone());
        back.spawn("comparison", until(stop.clone(), comparing));
        let maps = map_watch.clone();
        let members = members::follow(replicas.clone(), consensus.clone(), disks.clone(), move || maps.current());
        back.spawn("members", until(stop.clone(), members));
        back.spawn("disk", until(stop.clone(), disks::follow(disk, consensus.clone())));
        let observing = observe(metrics, replicas.clone(), builder, disks.clone(), exports);
        back.spawn("gauges", until(stop.clone(), observing));
        serve(
            &mut front,
            listener,
            Calls { me: Recipient { cluster: member.0, node: member.1 }, shards: calls, transfers },
            &consensus,
            &config,
            replicas,
            failure.clone(),
        )?;
        tracing::info!(node = member.1.0, cluster = %member.0, address, "node serves");
        Ok(Self { address: bound, front, back, consensus, raft, failure, identity, patience })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Identity of its store.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.identity.store
    }

    /// Completes only if the node cannot go on; says why. The process must end then.
    pub async fn failed(&mut self) -> Told {
        let ended = tokio::select! {
            told = self.failure.told() => return told,
            ended = self.front.failed() => ended,
            ended = self.back.failed() => ended,
        };
        Told { reason: ended.to_string(), is_damage: false }
    }

    /// Refuses new calls, lets open ones finish, closes the replicas and syncs the log.
    pub async fn shut_down(self) -> Result<(), NodeError> {
        self.front.shut_down(DRAIN_WITHIN).await?;
        drop(self.patience);
        self.back.shut_down(DRAIN_WITHIN).await?;
        self.consensus.shut_down().await;
        Ok(self.raft.await.map_err(|error| NodeError::Task(error.to_string()))??)
    }
}

/// The map this node last followed, which is of the cluster it belongs to, even if it holds nothing else.
fn known_map(store: &dyn Store, cluster: ClusterId) -> Result<ClusterMap, NodeError> {
    let mut known = saved_map(store)?;
    if known.cluster == ClusterId::default() {
        known.cluster = cluster;
    }
    if known.cluster != cluster {
        return Err(NodeError::Malformed { shard: ShardId::default(), what: "cluster map (it is another cluster's)" });
    }
    Ok(known)
}

fn indexing(
    config: &NodeConfig,
    folder: Option<PathBuf>,
    metrics: &Metrics,
    (peers, exports): (Arc<Peers>, Arc<Exports>),
    disks: Arc<Disks>,
    damage: Damage,
) -> Result<Indexing, NodeError> {
    let builder = Arc::new(Builder::start(config.build_threads())?);
    let deltas_waiting_max = config.deltas_waiting_max as usize;
    let quiet_after = config.quiet_after();
    let policy = config.policy();
    let metrics = metrics.clone();
    Ok(Indexing { builder, policy, deltas_waiting_max, quiet_after, folder, metrics, peers, exports, disks, damage })
}

/// A proposal may be as large as the request that it comes from.
fn raft_config(config: &NodeConfig, node: NodeId) -> RaftConfig {
    let usual = RaftConfig::new(uuid::Uuid::new_v4().as_u64_pair().0);
    let proposal_bytes_max = config.limits.message_bytes_max as usize;
    let uncommitted_bytes_max = usual.uncommitted_bytes_max.max(proposal_bytes_max);
    let inbox_bytes_max = usual.inbox_bytes_max.max(2 * proposal_bytes_max);
    let process = Some(ProcessId(node.0));
    RaftConfig { process, proposal_bytes_max, uncommitted_bytes_max, inbox_bytes_max, ..usual }
}

async fn follow(
    replicas: Arc<Replicas>,
    maps: watch::Receiver<Arc<ClusterMap>>,
    stop: CancellationToken,
    failure: Failure,
) {
    if let Err(error) = replicas.follow(maps, stop.cancelled()).await {
        tracing::error!(%error, "a replica cannot go on");
        if error.is_store_damage() {
            failure.tell_damage(error);
        } else {
            failure.tell(error);
        }
        stop.cancelled().await;
    }
}

/// What a node needs to tell the coordinators about itself.
struct Life {
    coordinators: Coordinators,
    config: NodeConfig,
    address: String,
    identity: Identity,
}

impl Life {
    /// Registers again as the node that it is.
    async fn register(&mut self) -> Result<(ClusterId, NodeId), NodeError> {
        let member = register(&mut self.coordinators, &self.config, &self.address, self.identity, None).await?;
        self.identity.check_same(member.1)?;
        Ok(member)
    }
}

/// Tells the coordinators where this node is now, then that it lives. A refusal ends the node.
async fn live(mut life: Life, reported: Reported, failure: Failure) {
    let every = Duration::from_millis(life.config.heartbeat_ms.into());
    loop {
        match life.register().await {
            Ok(member) => heartbeats(&mut life.coordinators, member, every, &reported).await,
            Err(error) => {
                tracing::error!(%error, "the coordinators refuse this node");
                return failure.tell(error);
            }
        }
        tokio::time::sleep(every).await;
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn observe(
    metrics: Metrics,
    replicas: Arc<Replicas>,
    builder: Arc<Builder>,
    disks: Arc<Disks>,
    exports: Arc<Exports>,
) {
    let mut interval = tokio::time::interval(OBSERVE_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        metrics.observe(&replicas, builder.core_time());
        metrics.observe_disk(&disks.own());
        exports.tidy();
    }
}

/// Where a member of a shard's group is, as the newest map says.
fn resolver(maps: MapWatch) -> impl Fn(GroupId, ReplicaId) -> Option<String> + Send + Sync {
    move |group, member| {
        let map = maps.current();
        // What processes tell each other on behalf of groups that sleep names them by their node.
        let node = match group {
            BEACON_GROUP => NodeId(member.0),
            _ => map.shards.get(&ShardId(group.0))?.replica(member)?.node,
        };
        Some(map.nodes.get(&node)?.address.clone())
    }
}

/// What routers and other nodes may call.
struct Calls {
    /// Whom they have to be for.
    me: Recipient,
    shards: ShardCalls,
    transfers: ReplicaCalls,
}

fn serve(
    front: &mut Tasks,
    listener: TcpListener,
    calls: Calls,
    consensus: &Consensus<Applied>,
    config: &NodeConfig,
    replicas: Arc<Replicas>,
    failure: Failure,
) -> Result<(), NodeError> {
    let stop = front.stop_signal();
    let (routes, health) = server::common_routes()?;
    let raft = consensus.clone();
    let size = config.limits.message_bytes_max as usize;
    let shards = ShardServiceServer::new(calls.shards).max_decoding_message_size(size).max_encoding_message_size(size);
    let routes = routes
        .add_service(shards)
        .add_service(ReplicaServiceServer::new(calls.transfers).max_encoding_message_size(usize::MAX))
        .add_service(RaftInbox::service(stop.clone(), move |envelope| raft.receive(envelope)));
    let routes = calls.me.guard(routes);
    front.spawn("server", async move {
        if let Err(error) = server::serve(listener, routes, stop).await {
            failure.tell(error);
        }
    });
    let stop = front.stop_signal();
    front.spawn("health", async move {
        for name in ["", "shoal.node"] {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
        let mut followed = replicas.followed();
        tokio::select! {
            () = stop.cancelled() => return,
            known = followed.wait_for(|epoch| epoch.0 > 0) => if known.is_err() { return },
        }
        for name in ["", "shoal.node"] {
            health.set_service_status(name, ServingStatus::Serving).await;
        }
        stop.cancelled().await;
        for name in ["", "shoal.node"] {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
    });
    Ok(())
}
