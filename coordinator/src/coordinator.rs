//! Putting a coordinator together, and taking it down in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use shoal_consensus::{Apply, Consensus, ConsensusError, GroupSpec, RaftConfig, StateMachine};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ClusterId, ClusterMap, Command, LogIndex, NodeId, ReplicaId, ShardId, ShardReplica, Standing};
use shoal_proto::disk::disk_from_wire;
use shoal_proto::internal::v1::coordinator_service_server::CoordinatorServiceServer;
use shoal_proto::raft_lanes::{RaftInbox, RaftLanes};
use shoal_proto::server;
use shoal_proto::v1::cluster_service_server::ClusterServiceServer;
use shoal_proto::v1::collections_service_server::CollectionsServiceServer;
use shoal_runtime::{DiskState, DiskWatch, Failure, PatientStore, Room, Store, TaskError, Tasks, Told};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::beginning::{self, Beginning, check_own, coordinator_of, find_out, founder, newcomer};
use crate::cluster::Cluster;
use crate::collections::Collections;
use crate::heard::{Heard, Heartbeat};
use crate::internal::Internal;
use crate::joining::{self, Wishes};
use crate::lacking::Lacking;
use crate::leadership::{Office, Shared, connect_peers};
use crate::machine::{Applied, GROUP, MapMachine, Published, apply_all};
use crate::metrics::Metrics;
use crate::{CoordinatorConfig, CoordinatorError};

/// How long open calls may take to finish when the coordinator stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);
/// How often gauges take stock and a leader looks whether the cluster has its name.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long naming the cluster may take before it is tried again.
const NAME_WITHIN: Duration = Duration::from_secs(5);

/// A running coordinator.
pub struct Coordinator {
    address: SocketAddr,
    /// What takes calls; ends first, so that open calls find everything they need.
    front: Tasks,
    /// What answers them.
    back: Tasks,
    consensus: Consensus<Applied>,
    /// Ends with the thread that runs the group.
    raft: JoinHandle<Result<(), ConsensusError>>,
    failure: Failure,
    /// Writes wait for room as long as it is there: until the coordinator stops, or its start fails.
    patience: DropGuard,
}

impl Coordinator {
    /// Starts a coordinator on `listener` over `store`. It serves as soon as most of its peers do; on an empty store, once
    /// it knows whether the cluster exists and, if so, has joined it.
    pub async fn start(
        config: CoordinatorConfig,
        listener: TcpListener,
        store: Arc<dyn Store>,
        registry: &mut Registry,
    ) -> Result<Self, CoordinatorError> {
        config.validate()?;
        let patience = CancellationToken::new();
        let store: Arc<dyn Store> = Arc::new(PatientStore::new(store, patience.clone()));
        let patience = patience.drop_guard();
        let disk = Arc::new(DiskWatch::new(store.clone(), config.disk_reserve())?);
        let bound = listener
            .local_addr()
            .map_err(|source| server::ServerError::Listen { address: "the given socket".to_owned(), source })?;
        let lanes = {
            let config = config.clone();
            RaftLanes::new(Box::new(move |_, member| config.address_of(member).map(str::to_owned)))
        };
        let failure = Failure::default();
        let (consensus, thread) =
            Consensus::<Applied>::start(store.clone(), lanes, RaftConfig::new(uuid::Uuid::new_v4().as_u64_pair().0))?;
        let raft = tokio::spawn(thread.ended_or_tell(failure.clone()));
        let machine = MapMachine::open(&*store)?;
        let (maps_sender, maps) = watch::channel(machine.map());
        let (applied_sender, applied) = watch::channel::<LogIndex>(machine.applied());
        let shared = Arc::new(Shared {
            peers: connect_peers(&config)?,
            config,
            replica: OnceLock::new(),
            waits_for: Default::default(),
            wishes: Wishes::default(),
            consensus: consensus.clone(),
            maps,
            applied,
            heard: Heard::default(),
            office: Office::default(),
            lacking: Lacking::default(),
            disk: disk.clone(),
        });

        // Before anybody is answered: what this coordinator has promised it must not deny.
        let known = beginning::stored(&*store)?.or_else(|| shared.peers.is_empty().then(|| founder(shared.config.id)));
        let inbox = match known {
            Some(replica) => Some(open(&shared, replica).await?),
            None => None,
        };
        let (mut front, mut back) = (Tasks::new(), Tasks::new());
        let stop = back.stop_signal();
        let published = Published { maps: maps_sender, applied: applied_sender };
        let apply = begin_and_apply(shared.clone(), inbox, machine, store, published);
        back.spawn("apply", apply_until(stop.clone(), apply, failure.clone()));
        back.spawn("joining", join(shared.clone(), failure.clone(), stop.clone()));
        let metrics = Metrics::register(registry);
        back.spawn("disk", follow_disk(disk, consensus.clone(), stop.clone()));
        back.spawn("duties", duties(shared.clone(), metrics, stop));
        serve(&mut front, listener, &shared, failure.clone())?;
        tracing::info!(id = shared.config.id, address = %bound, "coordinator serves");
        Ok(Self { address: bound, front, back, consensus, raft, failure, patience })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Completes only if the coordinator cannot go on; says why. The process must end then.
    pub async fn failed(&mut self) -> Told {
        let panicked = |ended: TaskError| Told { reason: ended.to_string(), is_damage: false };
        tokio::select! {
            told = self.failure.told() => told,
            ended = self.front.failed() => panicked(ended),
            ended = self.back.failed() => panicked(ended),
        }
    }

    /// Refuses new calls, lets open ones finish, and syncs the log.
    pub async fn shut_down(self) -> Result<(), CoordinatorError> {
        self.front.shut_down(DRAIN_WITHIN).await?;
        drop(self.patience);
        self.back.shut_down(DRAIN_WITHIN).await?;
        self.consensus.shut_down().await;
        Ok(self.raft.await.map_err(|error| CoordinatorError::Task(error.to_string()))??)
    }
}

/// Opens the group as `replica`. Only then it is said who this coordinator is, so that nobody takes it for one that knows
/// of a cluster before it does.
async fn open(shared: &Shared, replica: ReplicaId) -> Result<mpsc::Receiver<Apply<Applied>>, CoordinatorError> {
    check_own(&shared.config, replica)?;
    let is_founder = replica == founder(shared.config.id);
    let group = GroupSpec {
        group: GROUP,
        me: replica,
        voters: if is_founder { shared.config.founders() } else { Vec::new() },
        witnesses: Vec::new(),
        applied: *shared.applied.borrow(),
        state_machine: StateMachine::Stored,
        state_lost: false,
    };
    let inbox = shared.consensus.open_group(group).await?;
    // It is opened once.
    let _ = shared.replica.set(replica);
    Ok(inbox)
}

/// Finds out on an empty store who this coordinator is, and opens the group.
async fn begin(shared: &Shared, store: &Arc<dyn Store>) -> Result<mpsc::Receiver<Apply<Applied>>, CoordinatorError> {
    let id = shared.config.id;
    if find_out(shared).await == Beginning::Found {
        tracing::info!(id, "no coordinator knows of a cluster: this one is among the first");
        return open(shared, founder(id)).await;
    }
    let replica = newcomer(id, uuid::Uuid::new_v4().as_u64_pair().1);
    shared.wait_for(joining::NEEDS_LEADER.to_owned());
    tracing::warn!(
        id,
        replica = replica.0,
        "the cluster exists, and the store was empty: this coordinator joins as new"
    );
    let store = store.clone();
    let noted = tokio::task::spawn_blocking(move || beginning::note(&*store, replica)).await;
    noted.map_err(|error| CoordinatorError::Task(error.to_string()))??;
    open(shared, replica).await
}

async fn begin_and_apply(
    shared: Arc<Shared>,
    inbox: Option<mpsc::Receiver<Apply<Applied>>>,
    machine: MapMachine,
    store: Arc<dyn Store>,
    published: Published,
) -> Result<(), CoordinatorError> {
    let inbox = match inbox {
        Some(inbox) => inbox,
        None => begin(&shared, &store).await?,
    };
    apply_all(machine, inbox, store, shared.consensus.clone(), published).await
}

async fn join(shared: Arc<Shared>, failure: Failure, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = joining::follow(&shared, &failure) => {}
    }
}

/// Applies until `stop`. The group never closes by itself: if it does, or applying fails, the coordinator cannot
/// go on.
async fn apply_until(
    stop: CancellationToken,
    apply: impl Future<Output = Result<(), CoordinatorError>>,
    failure: Failure,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        result = apply => match result {
            Err(error) if error.is_store_damage() => failure.tell_damage(error),
            Err(error) => failure.tell(error),
            Ok(()) => failure.tell("the coordinators' Raft group was closed"),
        },
    }
}

fn serve(
    front: &mut Tasks,
    listener: TcpListener,
    shared: &Arc<Shared>,
    failure: Failure,
) -> Result<(), CoordinatorError> {
    let stop = front.stop_signal();
    let (routes, health) = server::common_routes()?;
    let raft = shared.consensus.clone();
    let routes = routes
        .add_service(CollectionsServiceServer::new(Collections(shared.clone())))
        .add_service(ClusterServiceServer::new(Cluster(shared.clone())))
        .add_service(CoordinatorServiceServer::new(Internal { shared: shared.clone(), stop: stop.clone() }))
        .add_service(RaftInbox::service(stop.clone(), move |envelope| raft.receive(envelope)));
    let serving = server::serve(listener, routes, stop.clone());
    front.spawn("server", async move {
        if let Err(error) = serving.await {
            failure.tell(error);
        }
    });
    front.spawn("health", report_health(shared.clone(), health, stop));
    Ok(())
}

/// Serving while it has a vote, and a leader is known.
async fn report_health(shared: Arc<Shared>, health: HealthReporter, stop: CancellationToken) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        let serving = shared.is_member() && shared.leader().is_some() && !stop.is_cancelled();
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", "shoal.coordinator"] {
            health.set_service_status(name, status).await;
        }
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = interval.tick() => {}
        }
    }
}

/// What a coordinator does unasked: taking stock, and when it leads, naming a new cluster and following members.
async fn duties(shared: Arc<Shared>, metrics: Metrics, stop: CancellationToken) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        metrics.observe(&shared);
        shared.note_office();
        shared.lacking.note(&shared.maps.borrow(), &shared.heard_lately(), Instant::now());
        let unnamed = shared.maps.borrow().cluster == ClusterId::default();
        if unnamed && shared.leads() {
            let cluster = ClusterId(uuid::Uuid::new_v4().as_u128());
            if let Err(error) = shared.execute(&Command::NameCluster { cluster }, Instant::now() + NAME_WITHIN).await {
                tracing::debug!(%error, "naming the cluster failed; trying again");
            }
        }
        if shared.leads() {
            joining::admit(&shared).await;
            settle(&shared).await;
            yield_lead(&shared).await;
        }
    }
}

/// Measures the disk until `stop`, and has the group take what it has room for.
async fn follow_disk(disk: Arc<DiskWatch>, consensus: Consensus<Applied>, stop: CancellationToken) {
    let tell = |disk: &DiskState| {
        consensus.set_room(disk.room < Room::Exhausted);
        match disk.room {
            Room::Enough => tracing::info!(%disk, "the disk has room again"),
            Room::Low | Room::Exhausted => {
                tracing::error!(%disk, "the disk has no room: collections cannot be created while this coordinator leads");
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = disk.follow(tell) => {}
    }
}

/// Hands the lead to a coordinator that has room and is up to date, if this one has none.
async fn yield_lead(shared: &Shared) {
    if shared.disk.room() == Room::Enough {
        return;
    }
    let Some(status) = shared.group() else { return };
    for pong in shared.ping_peers().await {
        let has_room = pong.disk.is_none_or(|disk| disk_from_wire(disk).room == Room::Enough);
        let is_well = |member: &&ReplicaId| {
            status.progress.iter().any(|of| of.member == **member && of.active && !of.gets_snapshot)
        };
        let mut voters = status.members.voters.iter().filter(|member| coordinator_of(**member) == pong.id);
        if let Some(heir) = voters.find(is_well).filter(|_| has_room) {
            let by = tokio::time::Instant::now() + NAME_WITHIN;
            if let Err(error) = shared.consensus.transfer_leader(GROUP, *heir, by).await {
                tracing::debug!(%error, "the lead could not be handed to a coordinator with room; trying again");
            }
            return;
        }
    }
}

/// Takes note in the map of replicas that have joined their group or left it.
async fn settle(shared: &Shared) {
    let map = shared.maps.borrow().clone();
    for (shard, voters) in settled(&map, &shared.heard_lately()) {
        let command = Command::SettleShard { shard, voters };
        let settled = match meet(Failpoint::CoordinatorSettle) {
            Ok(()) => shared.execute(&command, Instant::now() + NAME_WITHIN).await.map(drop),
            Err(injected) => Err(injected.into()),
        };
        if let Err(error) = settled {
            tracing::debug!(shard = shard.0, %error, "settling a shard failed; trying again");
            return;
        }
    }
}

/// The shards with replicas that come or go, and who has a vote in them by the report of their leader.
pub(crate) fn settled(map: &ClusterMap, heard: &BTreeMap<NodeId, Heartbeat>) -> Vec<(ShardId, Vec<ReplicaId>)> {
    let mut settled = Vec::new();
    for shard in map.shards.values() {
        let moves = |replica: &ShardReplica, voters: &[ReplicaId]| match replica.standing {
            Standing::Member => false,
            Standing::Joining => voters.contains(&replica.id),
            Standing::Leaving => !voters.contains(&replica.id),
        };
        let told = shard.replicas.iter().filter_map(|replica| heard.get(&replica.node)?.voters.get(&shard.id));
        let news = told.filter(|voters| shard.replicas.iter().any(|replica| moves(replica, voters)));
        // Two may claim to lead for a moment; the next report tells who does.
        settled.extend(news.max().map(|voters| (shard.id, voters.clone())));
    }
    settled
}
