//! Putting a coordinator together, and taking it down in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use shoal_consensus::{Consensus, ConsensusError, ConsensusThread, GroupSpec, RaftConfig, StateMachine};
use shoal_model::{ClusterId, Command, LogIndex};
use shoal_proto::internal::v1::coordinator_service_server::CoordinatorServiceServer;
use shoal_proto::raft_lanes::{RaftInbox, RaftLanes};
use shoal_proto::server;
use shoal_proto::v1::cluster_service_server::ClusterServiceServer;
use shoal_proto::v1::collections_service_server::CollectionsServiceServer;
use shoal_runtime::{Store, Tasks};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::cluster::Cluster;
use crate::collections::Collections;
use crate::heard::Heard;
use crate::internal::Internal;
use crate::leadership::{Shared, connect_peers};
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
    tasks: Tasks,
    consensus: Consensus<Applied>,
    /// Ends with the thread that runs the group.
    raft: JoinHandle<Result<(), ConsensusError>>,
    /// Why the coordinator cannot go on, once it cannot.
    failure: watch::Receiver<Option<String>>,
}

impl Coordinator {
    /// Starts a coordinator on `listener` over `store`. It serves as soon as most of its peers do.
    pub async fn start(
        config: CoordinatorConfig,
        listener: TcpListener,
        store: Arc<dyn Store>,
        registry: &mut Registry,
    ) -> Result<Self, CoordinatorError> {
        config.validate()?;
        let bound = listener
            .local_addr()
            .map_err(|source| server::ServerError::Listen { address: "the given socket".to_owned(), source })?;
        let lanes = {
            let config = config.clone();
            RaftLanes::new(Box::new(move |_, member| config.address_of(member).map(str::to_owned)))
        };
        let (failed, failure) = watch::channel(None);
        let (consensus, thread) =
            Consensus::<Applied>::start(store.clone(), lanes, RaftConfig::new(uuid::Uuid::new_v4().as_u64_pair().0))?;
        let raft = tokio::spawn(watch_thread(thread, failed.clone()));
        let machine = MapMachine::open(&*store)?;
        let (maps_sender, maps) = watch::channel(machine.map());
        let (applied_sender, applied) = watch::channel::<LogIndex>(machine.applied());
        let group = GroupSpec {
            group: GROUP,
            me: shoal_model::ReplicaId(config.id),
            voters: config.voters(),
            applied: machine.applied(),
            state_machine: StateMachine::Stored,
        };
        let inbox = consensus.open_group(group).await?;
        let shared = Arc::new(Shared {
            peers: connect_peers(&config)?,
            config,
            consensus: consensus.clone(),
            maps,
            applied,
            heard: Heard::default(),
        });

        let mut tasks = Tasks::new();
        let stop = tasks.stop_signal();
        let published = Published { maps: maps_sender, applied: applied_sender };
        let apply = apply_all(machine, inbox, store, consensus.clone(), published);
        let closing = (consensus.clone(), stop.clone());
        tasks.spawn("apply", async move {
            let close = async {
                closing.1.cancelled().await;
                // Ends the inbox, and with it the apply task. Fails only if Raft has stopped, which ends it too.
                let _ = closing.0.close_group(GROUP, false).await;
                std::future::pending::<()>().await;
            };
            let reason = tokio::select! {
                result = apply => result.err().map(|error| error.to_string()),
                () = close => None,
            };
            let stopping = closing.1.is_cancelled();
            if let Some(reason) = reason.or((!stopping).then(|| "the coordinators' group was closed".to_owned())) {
                tracing::error!(reason, "the map cannot be applied");
                failed.send_replace(Some(reason));
            }
        });
        let metrics = Metrics::register(registry);
        tasks.spawn("duties", duties(shared.clone(), metrics, stop.clone()));
        serve(&mut tasks, listener, &shared)?;
        tracing::info!(id = shared.config.id, address = %bound, "coordinator serves");
        Ok(Self { address: bound, tasks, consensus, raft, failure })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Completes only if the coordinator cannot go on; says why. The process must end then.
    pub async fn failed(&mut self) -> String {
        match self.failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Everything that could fail has ended well.
            Err(_) => std::future::pending().await,
        }
    }

    /// Refuses new calls, lets open ones finish, and syncs the log.
    pub async fn shut_down(self) -> Result<(), CoordinatorError> {
        self.tasks.shut_down(DRAIN_WITHIN).await?;
        self.consensus.shut_down().await;
        Ok(self.raft.await.map_err(|error| CoordinatorError::Task(error.to_string()))??)
    }
}

/// Tells why the thread that runs the group could not go on.
async fn watch_thread(thread: ConsensusThread, failed: watch::Sender<Option<String>>) -> Result<(), ConsensusError> {
    let result = thread.ended().await;
    if let Err(error) = &result {
        failed.send_replace(Some(error.to_string()));
    }
    result
}

fn serve(tasks: &mut Tasks, listener: TcpListener, shared: &Arc<Shared>) -> Result<(), CoordinatorError> {
    let stop = tasks.stop_signal();
    let (routes, health) = server::common_routes()?;
    let raft = shared.consensus.clone();
    let routes = routes
        .add_service(CollectionsServiceServer::new(Collections(shared.clone())))
        .add_service(ClusterServiceServer::new(Cluster(shared.clone())))
        .add_service(CoordinatorServiceServer::new(Internal { shared: shared.clone(), stop: stop.clone() }))
        .add_service(RaftInbox::service(stop.clone(), move |envelope| raft.receive(envelope)));
    tasks.spawn("server", {
        let stop = stop.clone();
        async move {
            if let Err(error) = server::serve(listener, routes, stop).await {
                tracing::error!(%error, "the coordinator's server failed");
            }
        }
    });
    tasks.spawn("health", report_health(shared.clone(), health, stop));
    Ok(())
}

/// Serving while a leader is known.
async fn report_health(shared: Arc<Shared>, health: HealthReporter, stop: CancellationToken) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        let serving = shared.leader().is_some() && !stop.is_cancelled();
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

/// What a coordinator does unasked: taking stock, and naming a new cluster when it leads.
async fn duties(shared: Arc<Shared>, metrics: Metrics, stop: CancellationToken) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        metrics.observe(&shared);
        let unnamed = shared.maps.borrow().cluster == ClusterId::default();
        if unnamed && shared.leader() == Some(shared.me()) {
            let cluster = ClusterId(uuid::Uuid::new_v4().as_u128());
            if let Err(error) = shared.execute(&Command::NameCluster { cluster }, Instant::now() + NAME_WITHIN).await {
                tracing::debug!(%error, "naming the cluster failed; trying again");
            }
        }
    }
}
