//! A cluster of processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::clock::Clocks;
use crate::data_folder::DataFolder;
use crate::network::Network;
use crate::process::{Finished, Launch, Process, free_port, run};

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
    /// Its name in configuration, folders and logs.
    #[must_use]
    pub fn name(self) -> String {
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

impl Shape {
    /// All processes, in the order in which they start.
    #[must_use]
    pub fn roles(self) -> Vec<Role> {
        let coordinators = (0..self.coordinators).map(Role::Coordinator);
        let nodes = (0..self.nodes).map(Role::Node);
        let routers = (0..self.routers).map(Role::Router);
        coordinators.chain(nodes).chain(routers).collect()
    }
}

/// What a cluster is made of; [`Setup::new`] gives one on the loopback address, in plain folders.
#[derive(Debug)]
pub struct Setup {
    /// How many processes.
    pub shape: Shape,
    /// More environment variables of all processes.
    pub environment: Vec<(String, String)>,
    /// More lines for the `[node]` section of every node's file.
    pub node_settings: String,
    /// Namespaces in which the processes run, if not in our own.
    pub network: Option<Network>,
    /// Where data folders are that are nothing but folders within the cluster's own.
    pub folders: BTreeMap<Role, DataFolder>,
    /// Clocks of the processes, if they can be set.
    pub clocks: Option<Clocks>,
    /// Folder of the processes' logs; without one they go to our own standard error.
    pub logs: Option<PathBuf>,
}

impl Setup {
    /// Nothing special.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            environment: Vec::new(),
            node_settings: String::new(),
            network: None,
            folders: BTreeMap::new(),
            clocks: None,
            logs: None,
        }
    }
}

#[derive(Clone, Debug)]
struct Address {
    grpc: String,
    metrics: String,
}

/// A cluster of `shoal serve` processes in a temporary folder. All are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // First, so that processes end before what they run on goes.
    running: BTreeMap<Role, Process>,
    addresses: BTreeMap<Role, Address>,
    setup: Setup,
    folder: TempDir,
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
        Self::start_as(Setup {
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            node_settings: node_settings.to_owned(),
            ..Setup::new(shape)
        })
    }

    /// Starts all processes as `setup` says, and waits until each serves.
    ///
    /// # Panics
    /// If a process does not serve in time.
    #[must_use]
    pub fn start_as(setup: Setup) -> Self {
        let roles = setup.shape.roles();
        let mut cluster = Self {
            running: BTreeMap::new(),
            addresses: roles.iter().map(|role| (*role, address_in(setup.network.as_ref(), *role))).collect(),
            setup,
            folder: tempfile::tempdir().expect("a temporary folder"),
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
        self.addresses.keys().copied().collect()
    }

    /// URI of a process's gRPC endpoint.
    #[must_use]
    pub fn address(&self, role: Role) -> String {
        format!("http://{}", self.addresses[&role].grpc)
    }

    /// What a process tells at its metrics endpoint.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn scrape(&self, role: Role) -> String {
        let address = &self.addresses[&role].metrics;
        let mut stream = TcpStream::connect(address).expect("the metrics port is open");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text
    }

    /// Tells a process what happens at failpoints. Errors: it does not run, or does not take it.
    pub fn arm(&self, role: Role, actions: &str) -> Result<(), String> {
        let address = &self.addresses[&role].metrics;
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(address).map_err(failed)?;
        let length = actions.len();
        let head = format!("PUT /failpoints HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{actions}").map_err(failed)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(failed)?;
        if text.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(text) }
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
        self.launch_with(role, &[]);
    }

    /// The same with more environment variables, this time only.
    pub fn launch_with(&mut self, role: Role, more: &[(String, String)]) {
        self.launch_saying(role, &[], more);
    }

    /// The same with more arguments as well.
    pub fn launch_saying(&mut self, role: Role, arguments: &[&str], more: &[(String, String)]) {
        let config = self.config_path(role).display().to_string();
        let arguments = [&["serve", role.command(), "--config", &config], arguments].concat();
        let name = role.name();
        let mut environment = [&self.setup.environment[..], more].concat();
        environment.extend(self.setup.clocks.as_ref().map(|clocks| clocks.environment(&name)).unwrap_or_default());
        let (through, log) = (self.setup.network.as_ref().map(|network| network.enter(&name)), self.log(role));
        let launch = Launch {
            name: &name,
            arguments: &arguments,
            environment: &environment,
            through: &through.unwrap_or_default(),
            log: log.as_deref(),
        };
        self.running.insert(role, Process::launch(&launch));
    }

    /// Whether a process was launched, and not killed or reaped since.
    #[must_use]
    pub fn is_running(&self, role: Role) -> bool {
        self.running.contains_key(&role)
    }

    /// Number of a process that runs.
    #[must_use]
    pub fn process_id(&self, role: Role) -> Option<u32> {
        self.running.get(&role).map(Process::id)
    }

    /// Stops a process that runs as it stands.
    pub fn pause(&self, role: Role) {
        if let Some(process) = self.running.get(&role) {
            process.pause();
        }
    }

    /// Lets a process go on.
    pub fn resume(&self, role: Role) {
        if let Some(process) = self.running.get(&role) {
            process.resume();
        }
    }

    /// Takes away the processes that have ended by themselves.
    pub fn reap(&mut self) -> Vec<(Role, ExitStatus)> {
        let ended: Vec<_> = self.running.iter_mut().filter_map(|(r, process)| Some((*r, process.ended()?))).collect();
        for (role, _) in &ended {
            self.running.remove(role);
        }
        ended
    }

    /// What it runs on.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Where a process logs, if not to our own standard error.
    #[must_use]
    pub fn log(&self, role: Role) -> Option<PathBuf> {
        self.setup.logs.as_ref().map(|folder| folder.join(format!("{}.log", role.name())))
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
        let mut environment = self.setup.environment.clone();
        environment.push(("SHOAL_ENDPOINT".to_owned(), endpoint));
        environment.push(("XDG_STATE_HOME".to_owned(), state));
        run(arguments, &environment, within)
    }

    /// Data folder of a coordinator or node.
    #[must_use]
    pub fn data(&self, role: Role) -> PathBuf {
        let own = || self.folder().join(role.name());
        self.setup.folders.get(&role).map_or_else(own, DataFolder::path)
    }

    fn config_path(&self, role: Role) -> PathBuf {
        self.folder().join(format!("{}.toml", role.name()))
    }

    fn write_config(&self, role: Role) {
        let Address { grpc, metrics } = &self.addresses[&role];
        let mut text = format!("listen = {grpc:?}\nmetrics_listen = {metrics:?}\n");
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
                self.setup.node_settings
            ),
            Role::Router(_) => format!("[router]\ncoordinators = {:?}\n", self.coordinators()),
        };
        fs::write(self.config_path(role), text).expect("the temporary folder is writable");
    }

    fn coordinators(&self) -> Vec<String> {
        let coordinators = self.addresses.keys().filter(|role| matches!(role, Role::Coordinator(_)));
        coordinators.map(|role| self.address(*role)).collect()
    }

    fn peers(&self) -> String {
        let peer = |(i, address): (usize, String)| format!("  {{ id = {}, address = {address:?} }},\n", i + 1);
        self.coordinators().into_iter().enumerate().map(peer).collect()
    }
}

/// Free ports of the loopback address, kept for the life of the cluster; in a namespace of its own a process has them all.
fn address_in(network: Option<&Network>, role: Role) -> Address {
    match network.map(|network| network.address(&role.name())) {
        Some(host) => Address { grpc: format!("{host}:7000"), metrics: format!("{host}:7001") },
        None => {
            let free = || format!("127.0.0.1:{}", free_port());
            Address { grpc: free(), metrics: free() }
        }
    }
}
