//! Putting a router together, and taking it down in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use shoal_proto::map_watch::MapWatch;
use shoal_proto::server;
use shoal_proto::v1::cluster_service_server::ClusterServiceServer;
use shoal_proto::v1::collections_service_server::CollectionsServiceServer;
use shoal_proto::v1::points_service_server::PointsServiceServer;
use shoal_proto::v1::search_service_server::SearchServiceServer;
use shoal_runtime::Tasks;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::call::Shared;
use crate::coordinators::Coordinators;
use crate::flight::Airspace;
use crate::forward::{Cluster, Collections};
use crate::hearing::Hearing;
use crate::laggards::Laggards;
use crate::leaders::Leaders;
use crate::lookup::Pacer;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::outages::Outages;
use crate::points::Points;
use crate::search::Search;
use crate::{RouterConfig, RouterError};

/// How long open calls may take to finish when the router stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);

/// A running router.
#[derive(Debug)]
pub struct Router {
    address: SocketAddr,
    tasks: Tasks,
}

impl Router {
    /// Starts a router on `listener`. It serves as soon as it has heard a coordinator; until then, requests wait
    /// within their deadlines.
    pub async fn start(
        config: RouterConfig,
        listener: TcpListener,
        registry: &mut Registry,
    ) -> Result<Self, RouterError> {
        config.validate()?;
        let address = listener
            .local_addr()
            .map_err(|source| server::ServerError::Listen { address: "the given socket".to_owned(), source })?;
        let mut tasks = Tasks::new();
        let stop = tasks.stop_signal();
        let (watch, watching) = MapWatch::start(config.coordinators.clone(), stop.clone());
        let shared = Arc::new(Shared {
            coordinators: Coordinators::new(&config.coordinators)?,
            air: Airspace {
                watch,
                nodes: Nodes::default(),
                metrics: Metrics::register(registry),
                leaders: Leaders::default(),
                laggards: Laggards::default(),
                hearing: Hearing::default(),
                outages: Outages::default(),
            },
            lookups: Pacer::default(),
            admission: Semaphore::new(config.in_flight_max as usize),
            config,
        });
        let (routes, health) = server::common_routes()?;
        report(&health, ServingStatus::NotServing).await;
        let routes = services(routes, &shared);
        tasks.spawn("map watch", watching);
        tasks.spawn("map duties", follow(shared.clone(), health, stop.clone()));
        tasks.spawn("signs of life", listen(shared, stop.clone()));
        tasks.spawn("server", async move {
            if let Err(error) = server::serve(listener, routes, stop).await {
                tracing::error!(%error, "the router's server failed");
            }
        });
        tracing::info!(%address, "router serves");
        Ok(Self { address, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Completes only if the router cannot go on; says why. The process must end then.
    pub async fn failed(&mut self) -> String {
        match self.tasks.next_ended().await {
            Some(Ok(task)) => format!("the router's task {task:?} has ended"),
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }

    /// Refuses new calls and lets open ones finish.
    pub async fn shut_down(self) -> Result<(), RouterError> {
        Ok(self.tasks.shut_down(DRAIN_WITHIN).await?)
    }
}

fn services(routes: Routes, shared: &Arc<Shared>) -> Routes {
    let size = shared.config.limits.message_bytes_max as usize;
    routes
        .add_service(PointsServiceServer::new(Points(shared.clone())).max_decoding_message_size(size))
        .add_service(SearchServiceServer::new(Search(shared.clone())).max_decoding_message_size(size))
        .add_service(CollectionsServiceServer::new(Collections(shared.clone())).max_decoding_message_size(size))
        .add_service(ClusterServiceServer::new(Cluster(shared.clone())).max_decoding_message_size(size))
}

/// What each new map means for the router as a whole.
async fn follow(shared: Arc<Shared>, health: HealthReporter, stop: CancellationToken) {
    let mut maps = shared.air.watch.subscribe();
    loop {
        let map = maps.borrow_and_update().clone();
        shared.air.metrics.map(map.epoch);
        shared.air.nodes.retain(&map);
        shared.air.leaders.retain(&map);
        let ready = map.epoch.0 > 0;
        report(&health, if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        tokio::select! {
            () = stop.cancelled() => return report(&health, ServingStatus::NotServing).await,
            // Fails only without a sender, and `shared` holds one.
            _ = maps.changed() => {}
        }
    }
}

async fn listen(shared: Arc<Shared>, stop: CancellationToken) {
    let Airspace { hearing, nodes, watch, .. } = &shared.air;
    hearing.listen(nodes, watch, stop).await;
}

async fn report(health: &HealthReporter, status: ServingStatus) {
    for name in ["", "shoal.router"] {
        health.set_service_status(name, status).await;
    }
}
