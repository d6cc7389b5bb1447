//! A cluster of processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Finished, Process, free_port, run};

/// How long a process may take from its start until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a process may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// How many processes of each role.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Coordinators.
    pub coordinators: u16,
    /// Nodes.
    pub nodes: u16,
    /// Routers.
    pub routers: u16,
}

/// One process of a cluster, counted from 0 within its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A coordinator.
    Coordinator(u16),
    /// A node.
    Node(u16),
    /// A router.
    Router(u16),
}

impl Role {
    fn name(self) -> String {
        match self {
            Self::Coordinator(i) => format!("coordinator-{}", i + 1),
            Self::Node(i) => format!("node-{}", i + 1),
            Self::Router(i) => format!("router-{}", i + 1),
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Coordinator(_) => "coordinator",
            Self::Node(_) => "node",
            Self::Router(_) => "router",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    grpc: u16,
    metrics: u16,
}

/// A cluster of `shoal serve` processes in a temporary folder. All are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    ports: BTreeMap<Role, Ports>,
    running: BTreeMap<Role, Process>,
    environment: Vec<(String, String)>,
    /// More lines of the section of every node.
    node_settings: String,
}

impl Cluster {
    /// Starts all processes and waits until each serves.
    ///
    /// # Panics
    /// If one does not.
    #[must_use]
    pub fn start(shape: Shape) -> Self {
        Self::start_with(shape, &[])
    }

    /// The same with more environment variables.
    ///
    /// # Panics
    /// If a process does not serve in time.
    #[must_use]
    pub fn start_with(shape: Shape, environment: &[(&str, &str)]) -> Self {
        Self::start_configured(shape, environment, "")
    }

    /// The same with more lines for the `[node]` section of every node's file.
    ///
    /// # Panics
    /// If a process does not serve in time.
    #[must_use]
    pub fn start_configured(shape: Shape, environment: &[(&str, &str)], node_settings: &str) -> Self {
        let coordinators = (0..shape.coordinators).map(Role::Coordinator);
        let nodes = (0..shape.nodes).map(Role::Node);
        let routers = (0..shape.routers).map(Role::Router);
        let roles: Vec<Role> = coordinators.chain(nodes).chain(routers).collect();
        let ports = |role: &Role| (*role, Ports { grpc: free_port(), metrics: free_port() });
        let mut cluster = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            ports: roles.iter().map(ports).collect(),
            running: BTreeMap::new(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            node_settings: node_settings.to_owned(),
        };
        for role in &roles {
            cluster.write_config(*role);
            cluster.launch(*role);
        }
        for role in &roles {
            cluster.wait_ready(*role);
        }
        cluster
    }

    /// All processes there should be.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        self.ports.keys().copied().collect()
    }

    /// URI of a process's gRPC endpoint.
    #[must_use]
    pub fn address(&self, role: Role) -> String {
        format!("http://127.0.0.1:{}", self.ports[&role].grpc)
    }

    /// What a process tells at its metrics endpoint.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn scrape(&self, role: Role) -> String {
        let address = format!("127.0.0.1:{}", self.ports[&role].metrics);
        let mut stream = TcpStream::connect(&address).expect("the metrics port is open");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text
    }

    /// The temporary folder; the cluster's own files are in sub-folders named by role.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills a process at once.
    pub fn kill(&mut self, role: Role) {
        if let Some(process) = self.running.remove(&role) {
            process.kill();
        }
    }

    /// Starts a process that does not run, on its old folder and ports; does not wait until it serves.
    pub fn launch(&mut self, role: Role) {
        let config = self.config_path(role).display().to_string();
        let arguments = ["serve", role.command(), "--config", &config];
        self.running.insert(role, Process::start(&role.name(), &arguments, &self.environment));
    }

    /// Waits until a process says that it serves.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn wait_ready(&mut self, role: Role) {
        if let Some(process) = self.running.get_mut(&role) {
            process.wait_for_line("ready", READY_WITHIN);
        }
    }

    /// Asks all processes to stop, routers first and coordinators last, and checks that they do so in order.
    ///
    /// # Panics
    /// If one does not, or exits with an error.
    pub fn stop(&mut self) {
        while let Some((role, process)) = self.running.pop_last() {
            let status = process.terminate(STOP_WITHIN);
            assert!(status.success(), "{} stopped with {status}", role.name());
        }
    }

    /// Runs an admin command against the first router.
    ///
    /// # Panics
    /// If it does not end within `within`.
    #[must_use]
    pub fn shoal(&self, arguments: &[&str], within: Duration) -> Finished {
        let endpoint = self.address(Role::Router(0));
        let state = self.folder().join("state").display().to_string();
        let mut environment = self.environment.clone();
        environment.push(("SHOAL_ENDPOINT".to_owned(), endpoint));
        environment.push(("XDG_STATE_HOME".to_owned(), state));
        run(arguments, &environment, within)
    }

    /// Data folder of a coordinator or node.
    #[must_use]
    pub fn data(&self, role: Role) -> PathBuf {
        self.folder().join(role.name())
    }

    fn config_path(&self, role: Role) -> PathBuf {
        self.folder().join(format!("{}.toml", role.name()))
    }

    fn write_config(&self, role: Role) {
        let ports = self.ports[&role];
        let mut text =
            format!("listen = \"127.0.0.1:{}\"\nmetrics_listen = \"127.0.0.1:{}\"\n", ports.grpc, ports.metrics);
        if !matches!(role, Role::Router(_)) {
            let data = self.data(role);
            text += &format!("data = {:?}\n", data.display().to_string());
        }
        text += &match role {
            Role::Coordinator(i) => format!("[coordinator]\nid = {}\npeers = [\n{}]\n", i + 1, self.peers()),
            Role::Node(_) => format!(
                "[node]\nname = {:?}\ncoordinators = {:?}\n{}\n",
                role.name(),
                self.coordinators(),
                self.node_settings
            ),
            Role::Router(_) => format!("[router]\ncoordinators = {:?}\n", self.coordinators()),
        };
        fs::write(self.config_path(role), text).expect("the temporary folder is writable");
    }

    fn coordinators(&self) -> Vec<String> {
        let coordinators = self.ports.keys().filter(|role| matches!(role, Role::Coordinator(_)));
        coordinators.map(|role| self.address(*role)).collect()
    }

    fn peers(&self) -> String {
        let peer = |(i, address): (usize, String)| format!("  {{ id = {}, address = {address:?} }},\n", i + 1);
        self.coordinators().into_iter().enumerate().map(peer).collect()
    }
}
