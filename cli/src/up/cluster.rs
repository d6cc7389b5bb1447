//! A whole cluster in this process: three coordinators, nodes and a router, each with its own sockets and folder.

use std::net::SocketAddr;
use std::path::PathBuf;

use futures::future::{join_all, select_all, try_join_all};
use serde_json::json;
use shoal_coordinator::{CoordinatorConfig, PeerConfig};
use shoal_node::NodeConfig;
use shoal_router::RouterConfig;

use super::home::Home;
use super::supervise::{Supervised, look_after};
use crate::failure::Failure;
use crate::process::{Process, Sockets};
use crate::progress::say;
use crate::serve::bind;

const COORDINATORS: u64 = 3;

/// The processes of a cluster, in the order in which they start.
#[derive(Default)]
pub(crate) struct Cluster {
    coordinators: Vec<Member>,
    nodes: Vec<Member>,
    routers: Vec<Member>,
}

/// A process, and what it takes to start it again.
struct Member {
    recipe: Recipe,
    running: Option<Process>,
}

/// How a process is started.
struct Recipe {
    name: String,
    role: Role,
    /// Where it takes calls, and where it shows its metrics.
    addresses: (SocketAddr, SocketAddr),
    folder: PathBuf,
}

enum Role {
    Coordinator(CoordinatorConfig),
    Node(Box<NodeConfig>),
    Router(RouterConfig),
}

/// Sockets of every process. All are bound before any process starts, so that addresses are known and nobody can take
/// a port in between.
struct AllSockets {
    coordinators: Vec<(String, Sockets)>,
    nodes: Vec<(String, Sockets)>,
    router: Sockets,
}

impl Recipe {
    fn new(name: &str, role: Role, sockets: &Sockets, folder: PathBuf) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("{name}: {error}"));
        let addresses = (sockets.calls.local_addr().map_err(failed)?, sockets.metrics.local_addr().map_err(failed)?);
        Ok(Self { name: name.to_owned(), role, addresses, folder })
    }

    async fn start(&self, sockets: Sockets) -> Result<Process, Failure> {
        let name = self.name.clone();
        match &self.role {
            Role::Coordinator(config) => Process::coordinator(name, config.clone(), sockets, &self.folder).await,
            Role::Node(config) => Process::node(name, (**config).clone(), sockets, &self.folder, None).await,
            Role::Router(config) => Process::router(name, config.clone(), sockets).await,
        }
    }

    /// On the addresses and the folder that it had.
    async fn start_again(&self) -> Result<Process, Failure> {
        let (calls, metrics) = self.addresses;
        let calls = bind(&self.name, &calls.to_string()).await?;
        let metrics = bind(&self.name, &metrics.to_string()).await?;
        self.start(Sockets { calls, metrics }).await
    }
}

impl Member {
    async fn start(recipe: Recipe, sockets: Sockets) -> Result<Self, Failure> {
        let running = Some(recipe.start(sockets).await?);
        Ok(Self { recipe, running })
    }

    /// Completes only if the process is given up and nothing works without it. A node or coordinator is one of several:
    /// without it the rest goes on.
    async fn look_after(&mut self) -> Failure {
        let Self { recipe, running } = self;
        let failure = look_after(&recipe.name, running, async || recipe.start_again().await).await;
        if matches!(recipe.role, Role::Router(_)) {
            return failure;
        }
        say(&format!("{failure}; it is given up, and the rest of the cluster goes on"));
        say("     next: mend what that names, and start the cluster again");
        std::future::pending().await
    }

    async fn stop(self) -> Result<(), Failure> {
        let Some(process) = self.running else { return Ok(()) };
        process.shut_down().await?;
        say(&format!("{} has stopped", self.recipe.name));
        Ok(())
    }
}

impl Supervised for Process {
    async fn failed(&mut self) -> Failure {
        Self::failed(self).await
    }

    async fn shut_down(self) -> Result<(), Failure> {
        Self::shut_down(self).await
    }
}

impl Cluster {
    /// Starts every process, each role after the one it needs. If one fails, those before it are shut down.
    pub(crate) async fn start(home: &mut Home, listen: SocketAddr) -> Result<Self, Failure> {
        let sockets = AllSockets::bind(home, listen).await?;
        home.save()?;
        let mut cluster = Self::default();
        match cluster.start_all(home, sockets).await {
            Ok(()) => Ok(cluster),
            Err(failure) => {
                let _ = cluster.shut_down().await; // the failure that began it says more
                Err(failure)
            }
        }
    }

    async fn start_all(&mut self, home: &Home, sockets: AllSockets) -> Result<(), Failure> {
        let peers = sockets.peers()?;
        let addresses: Vec<String> = peers.iter().map(|peer| peer.address.clone()).collect();
        let coordinators = sockets.coordinators.into_iter().zip(&peers).map(|((name, sockets), peer)| {
            let config = config(json!({ "id": peer.id, "peers": peers }));
            async move {
                let recipe = Recipe::new(&name, Role::Coordinator(config?), &sockets, home.folder_of(&name))?;
                Member::start(recipe, sockets).await
            }
        });
        self.coordinators = try_join_all(coordinators).await?;
        // One after another, so that the coordinators number them in the order of their names.
        for (name, sockets) in sockets.nodes {
            let config: NodeConfig = config(json!({ "name": name, "coordinators": addresses }))?;
            let recipe = Recipe::new(&name, Role::Node(Box::new(config)), &sockets, home.folder_of(&name))?;
            self.nodes.push(Member::start(recipe, sockets).await?);
        }
        let role = Role::Router(config(json!({ "coordinators": addresses }))?);
        let recipe = Recipe::new("router", role, &sockets.router, PathBuf::new())?;
        self.routers.push(Member::start(recipe, sockets.router).await?);
        Ok(())
    }

    /// Every process, the router first.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        let members = self.routers.iter().chain(&self.nodes).chain(&self.coordinators);
        members.filter_map(|member| member.running.as_ref())
    }

    /// Starts again what ends by itself, until dropped; completes only if nothing works any more.
    pub(crate) async fn look_after(&mut self) -> Failure {
        let all = self.routers.iter_mut().chain(&mut self.nodes).chain(&mut self.coordinators);
        select_all(all.map(|member| Box::pin(member.look_after()))).await.0
    }

    /// Completes only if a process cannot go on.
    pub(crate) async fn failed(&mut self) -> Failure {
        let all = self.routers.iter_mut().chain(&mut self.nodes).chain(&mut self.coordinators);
        let running = all.filter_map(|member| member.running.as_mut());
        select_all(running.map(|process| Box::pin(process.failed()))).await.0
    }

    /// Shuts down in order: the router takes no more calls, then nodes sync their logs, then coordinators. Processes of
    /// one role stop together.
    pub(crate) async fn shut_down(self) -> Result<(), Failure> {
        let mut result = Ok(());
        for role in [self.routers, self.nodes, self.coordinators] {
            for stopped in join_all(role.into_iter().map(Member::stop)).await {
                result = result.and(stopped);
            }
        }
        result
    }
}

/// A role's configuration with its own defaults for everything but `given`.
fn config<T: serde::de::DeserializeOwned>(given: serde_json::Value) -> Result<T, Failure> {
    serde_json::from_value(given).map_err(|error| Failure::new(format!("configure: {error}")))
}

impl AllSockets {
    async fn bind(home: &mut Home, listen: SocketAddr) -> Result<Self, Failure> {
        let taken =
            |failure: Failure| failure.next("is another `shoal up` running? --listen 127.0.0.1:0 picks a free port");
        let calls = match listen.port() {
            0 => home.listen_anew("router", listen.ip()).await?,
            _ => bind("router", &listen.to_string()).await.map_err(taken)?,
        };
        let router = Sockets { calls, metrics: home.listen("router-metrics").await? };
        let coordinators = bind_each(home, "coordinator", COORDINATORS).await?;
        let nodes = bind_each(home, "node", home.nodes().into()).await?;
        Ok(Self { coordinators, nodes, router })
    }

    fn peers(&self) -> Result<Vec<PeerConfig>, Failure> {
        let peer = |(id, (name, sockets)): (u64, &(String, Sockets))| {
            let address = sockets.calls.local_addr().map_err(|error| Failure::new(format!("{name}: {error}")))?;
            Ok(PeerConfig { id, address: format!("http://{address}") })
        };
        (1..).zip(&self.coordinators).map(peer).collect()
    }
}

async fn bind_each(home: &mut Home, role: &str, count: u64) -> Result<Vec<(String, Sockets)>, Failure> {
    let mut all = Vec::new();
    for number in 1..=count {
        let name = format!("{role}-{number}");
        let calls = home.listen(&name).await?;
        let metrics = home.listen(&format!("{name}-metrics")).await?;
        all.push((name, Sockets { calls, metrics }));
    }
    Ok(all)
}
