//! One role of a cluster, with its socket, its store and its metrics: what `serve` runs once and `up` several times.

use std::path::Path;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use shoal_coordinator::{Coordinator, CoordinatorConfig};
use shoal_model::Classify;
use shoal_node::{Node, NodeConfig, NodeError};
use shoal_router::{Router, RouterConfig};
use shoal_runtime::{Store, Told};
use tokio::net::TcpListener;

use crate::failure::{Exit, Failure};
use crate::metrics_server::MetricsServer;
use crate::store_home::StoreHome;

/// The sockets of a process.
pub(crate) struct Sockets {
    /// Takes calls.
    pub(crate) calls: TcpListener,
    /// Shows metrics.
    pub(crate) metrics: TcpListener,
}

enum Service {
    Coordinator(Box<Coordinator>, StoreHome),
    Node(Box<Node>, StoreHome),
    Router(Router),
}

/// A role that runs.
pub(crate) struct Process {
    name: String,
    service: Service,
    metrics: MetricsServer,
}

impl Process {
    /// Runs a coordinator over the store in `data`.
    pub(crate) async fn coordinator(
        name: String,
        config: CoordinatorConfig,
        sockets: Sockets,
        data: &Path,
    ) -> Result<Self, Failure> {
        let (folder, is_alone) = (data.to_owned(), config.peers.len() == 1);
        let (mut home, store) = open(&name, move || StoreHome::of_coordinator(&folder, is_alone)).await?;
        home.name_store()?;
        let mut registry = Registry::default();
        let coordinator = match Coordinator::start(config, sockets.calls, store, &mut registry).await {
            Ok(coordinator) => coordinator,
            Err(error) => {
                if error.is_store_damage() {
                    home.note_damage()?;
                }
                return Err(failure(&name, &error));
            }
        };
        let service = Service::Coordinator(Box::new(coordinator), home);
        Ok(Self { name, service, metrics: MetricsServer::start(sockets.metrics, registry)? })
    }

    /// Runs a node over the store in `data`; its segment files are in a folder therein. `replaces`: number or name of the
    /// node whose place it takes if the folder is empty.
    pub(crate) async fn node(
        name: String,
        config: NodeConfig,
        sockets: Sockets,
        data: &Path,
        replaces: Option<&str>,
    ) -> Result<Self, Failure> {
        let (folder, replaces) = (data.to_owned(), replaces.map(str::to_owned));
        let home = move || {
            let mut home = StoreHome::of_node(&folder)?;
            if let Some(called) = replaces {
                home.take_place_of(called)?;
            }
            Ok(home)
        };
        let (mut home, store) = open(&name, home).await?;
        let mut registry = Registry::default();
        let (segments, replaces) = (Some(home.segments()), home.replaces());
        let started = Node::start(config, sockets.calls, store, segments, replaces, &mut registry).await;
        let node = match started {
            Ok(node) => node,
            Err(error @ NodeError::Refused(_)) => {
                let refusal = failure(&name, &error);
                return Err(home.refused().err().map_or(refusal.clone(), |also| refusal.and(&also)));
            }
            Err(error) => {
                if error.is_store_damage() {
                    home.note_damage()?;
                }
                return Err(failure(&name, &error));
            }
        };
        home.registered(node.store())?;
        let service = Service::Node(Box::new(node), home);
        Ok(Self { name, service, metrics: MetricsServer::start(sockets.metrics, registry)? })
    }

    /// Runs a router.
    pub(crate) async fn router(name: String, config: RouterConfig, sockets: Sockets) -> Result<Self, Failure> {
        let mut registry = Registry::default();
        let started = Router::start(config, sockets.calls, &mut registry).await;
        let service = Service::Router(started.map_err(|error| failure(&name, &error))?);
        Ok(Self { name, service, metrics: MetricsServer::start(sockets.metrics, registry)? })
    }

    /// What to call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it takes calls.
    pub(crate) fn url(&self) -> String {
        let address = match &self.service {
            Service::Coordinator(coordinator, _) => coordinator.address(),
            Service::Node(node, _) => node.address(),
            Service::Router(router) => router.address(),
        };
        format!("http://{address}")
    }

    /// Where it shows its metrics.
    pub(crate) fn metrics_url(&self) -> String {
        self.metrics.url()
    }

    /// Completes only if it cannot go on. A store that is damaged is replaced at the next start.
    pub(crate) async fn failed(&mut self) -> Failure {
        let (told, home) = match &mut self.service {
            Service::Coordinator(coordinator, home) => (coordinator.failed().await, Some(home)),
            Service::Node(node, home) => (node.failed().await, Some(home)),
            Service::Router(router) => (Told { reason: router.failed().await, is_damage: false }, None),
        };
        let Told { reason, is_damage } = told;
        let failure = Failure::new(format!("{} cannot go on: {reason}", self.name));
        let Some(home) = home.filter(|home| is_damage && home.has_copies()) else { return failure };
        match home.note_damage() {
            Ok(()) => {
                failure.next("start it again: it sets its store aside, and fetches what that held from the others")
            }
            Err(failure) => failure,
        }
    }

    /// Refuses new calls, finishes open ones, syncs its log, and stops.
    pub(crate) async fn shut_down(self) -> Result<(), Failure> {
        let name = self.name;
        let stopped = match self.service {
            Service::Coordinator(coordinator, _) => {
                coordinator.shut_down().await.map_err(|error| failure(&name, &error))
            }
            Service::Node(node, _) => node.shut_down().await.map_err(|error| failure(&name, &error)),
            Service::Router(router) => router.shut_down().await.map_err(|error| failure(&name, &error)),
        };
        self.metrics.shut_down().await;
        stopped
    }
}

fn failure(name: &str, error: &impl Classify) -> Failure {
    let failure = Failure::new(format!("{name}: {error}"));
    if error.field().is_empty() { failure } else { failure.exit(Exit::Usage) }
}

/// Opens a folder, and the store in it.
async fn open(
    name: &str,
    home: impl FnOnce() -> Result<StoreHome, Failure> + Send + 'static,
) -> Result<(StoreHome, Arc<dyn Store>), Failure> {
    let opened = tokio::task::spawn_blocking(move || {
        let mut home = home()?;
        let store = home.open_store()?;
        Ok((home, store))
    });
    opened.await.map_err(|error| Failure::new(format!("{name}: {error}")))?
}
