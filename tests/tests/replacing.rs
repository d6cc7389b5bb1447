//! Nodes whose disks are lost: replaced, removed, and refused where that would do harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_client::{Client, Consistency, NewCollection, NodeStatus, Standing};
use shoal_model::{Filter, Metric, Payload, Point, PointId};
use shoal_tests::{Cluster, Finished, Role, Setup, Shape, wait_for};
use tokio::runtime::Runtime;

const POINTS: u64 = 2_000;

fn point(row: u64) -> Point {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let vector = (0..8).map(|i| ((row * 37 + i * 11) % 101) as f32 - 50.0).collect();
    Point { id: PointId::Number(row), vector, payload: Payload::default() }
}

/// A cluster of four nodes, of which three hold the replicas of a shard.
struct Rig {
    cluster: Cluster,
    runtime: Runtime,
    client: Client,
}

impl Rig {
    fn start(logs: &tempfile::TempDir) -> Self {
        let shape = Shape { coordinators: 3, nodes: 4, routers: 1 };
        let cluster = Cluster::start_as(Setup { logs: Some(logs.path().to_owned()), ..Setup::new(shape) });
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = cluster.address(Role::Router(0));
        let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
        let client = client.with_timeout(Duration::from_secs(30));
        runtime.block_on(async {
            let new = NewCollection { shards: 1, replicas: 3, ..NewCollection::new("rows", 8, Metric::Euclidean) };
            client.create_collection(new).await.expect("enough nodes");
            for first in (0..POINTS).step_by(500) {
                client.upsert("rows", (first..first + 500).map(point).collect()).await.expect("written");
            }
        });
        Self { cluster, runtime, client }
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        self.runtime.block_on(self.client.status()).expect("a status").nodes
    }

    /// A node with a replica, or one without.
    fn node(&self, holds: bool) -> NodeStatus {
        let found = self.nodes().into_iter().find(|node| (node.replicas > 0) == holds);
        found.expect("three nodes have one, the fourth has none")
    }

    fn wait_until_silent(&self, node: &NodeStatus) {
        wait_for(|| self.nodes().into_iter().find(|known| known.id == node.id && !known.alive));
    }

    fn shoal(&self, arguments: &[&str]) -> Finished {
        self.cluster.shoal(arguments, Duration::from_secs(30))
    }

    /// Starts a node, which is to end by itself; returns why it does.
    fn refused(&mut self, role: Role, arguments: &[&str]) -> String {
        self.cluster.launch_saying(role, arguments, &[]);
        self.end_of(role)
    }

    /// Waits until a node ends by itself; returns what it logged last.
    fn end_of(&mut self, role: Role) -> String {
        wait_for(|| self.cluster.reap().into_iter().find(|(ended, _)| *ended == role));
        let log = fs::read_to_string(self.cluster.log(role).expect("it logs to a file")).expect("read");
        log.lines().rev().find(|line| line.starts_with("error: ")).expect("it says why it ends").to_owned()
    }

    /// Empties the folder of a node; what was in it is elsewhere then.
    fn empty(&self, role: Role) -> PathBuf {
        let aside = self.cluster.folder().join(format!("{}-before", role.name()));
        fs::rename(self.cluster.data(role), &aside).expect("moved");
        aside
    }

    /// Waits until the shard has three members that are heard of, and counts its points.
    fn check_whole(&self) {
        wait_for(|| {
            let collection = self.runtime.block_on(self.client.describe_collection("rows")).expect("it is there");
            let replicas = &collection.shards[0].replicas;
            let is_well = |replica: &shoal_client::Replica| {
                replica.standing == Standing::Member && replica.report.as_ref().is_some_and(|of| of.points == POINTS)
            };
            (replicas.len() == 3 && replicas.iter().all(is_well)).then_some(())
        });
        let count =
            async || self.client.count("rows", &Filter::default(), &Consistency::Linearizable).await.expect("counted");
        assert_eq!(self.runtime.block_on(count()), POINTS);
    }
}

fn role_of(node: &NodeStatus) -> Role {
    let number: u16 = node.name.strip_prefix("node-").and_then(|number| number.parse().ok()).expect("a name of ours");
    Role::Node(number - 1)
}

#[test]
fn a_lost_disk_is_replaced_and_nothing_that_lives_is() {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let mut rig = Rig::start(&logs);
    let (hurt, idle) = (rig.node(true), rig.node(false));
    let (hurt_role, idle_role) = (role_of(&hurt), role_of(&idle));

    // Nothing is removed that holds replicas or lives.
    for (node, why) in [(&hurt, "holds replicas of 1 shard"), (&idle, "lives")] {
        let refused = rig.shoal(&["node", "rm", &node.name]);
        assert!(refused.code == 1 && refused.stderr.contains(why), "{refused:?}");
    }
    rig.cluster.pause(idle_role);
    rig.wait_until_silent(&idle);
    let removed = rig.shoal(&["node", "rm", &idle.id.to_string()]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(rig.nodes().len(), 3);
    let again = rig.shoal(&["node", "rm", &idle.id.to_string()]);
    assert!(again.code == 1 && again.stderr.contains("no node"), "{again:?}");

    // What was removed does not come back, nor as another node: neither while it runs, nor when it is started again.
    rig.cluster.resume(idle_role);
    let why = rig.end_of(idle_role);
    assert!(why.contains("given this store up"), "{why}");
    let why = rig.refused(idle_role, &[]);
    assert!(why.contains("given this store up"), "{why}");
    rig.empty(idle_role);
    let why = rig.refused(idle_role, &["--replaces", &hurt.name]);
    assert!(why.contains("lives"), "two disks would fight: {why}");

    // The disk of a node is lost.
    rig.cluster.kill(hurt_role);
    rig.wait_until_silent(&hurt);
    let before = rig.empty(hurt_role);
    let why = rig.refused(hurt_role, &["--replaces", "nobody"]);
    assert!(why.contains("no node has the number or name"), "{why}");
    rig.cluster.launch_saying(hurt_role, &["--replaces", &hurt.id.to_string()], &[]);
    rig.cluster.wait_ready(hurt_role);
    rig.check_whole();
    assert!(rig.nodes().iter().all(|node| node.id != hurt.id), "the lost one is gone");

    // Said again it changes nothing, so that it may be said at every start.
    let nodes: Vec<u64> = rig.nodes().iter().map(|node| node.id).collect();
    rig.cluster.kill(hurt_role);
    rig.cluster.launch_saying(hurt_role, &["--replaces", &hurt.id.to_string()], &[]);
    rig.cluster.wait_ready(hurt_role);
    rig.check_whole();
    assert_eq!(rig.nodes().iter().map(|node| node.id).collect::<Vec<_>>(), nodes);

    // The disk is found again, and started by mistake.
    fs::remove_dir_all(rig.cluster.data(idle_role)).expect("removed");
    fs::rename(before, rig.cluster.data(idle_role)).expect("moved");
    let why = rig.refused(idle_role, &[]);
    assert!(why.contains("given this store up"), "{why}");
    assert_eq!(rig.nodes().len(), 3, "it is no ghost");
    rig.cluster.stop();
}

#[test]
fn a_node_with_a_damaged_store_begins_anew_while_others_are_silent() {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let mut rig = Rig::start(&logs);
    let holders: Vec<NodeStatus> = rig.nodes().into_iter().filter(|node| node.replicas > 0).collect();
    let [dead, hurt, _] = &holders[..] else { panic!("three replicas on as many nodes, not {}", holders.len()) };
    rig.cluster.kill(role_of(dead));
    rig.wait_until_silent(dead);
    rig.cluster.kill(role_of(hurt));
    let data = rig.cluster.data(role_of(hurt));
    damage_log(&data);
    // Whoever is silent may be hurt as well, and neither may wait for the other.
    rig.cluster.launch(role_of(hurt));
    rig.cluster.wait_ready(role_of(hurt));
    rig.cluster.launch(role_of(dead));
    rig.check_whole();
    assert!(rig.nodes().iter().all(|node| node.id != hurt.id), "another node has taken its place");
    rig.cluster.stop();
}

/// Flips a bit in the middle of each file of a store's log.
fn damage_log(folder: &Path) {
    let mut flipped = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let mut bytes =
            if path.extension().is_some_and(|of| of == "log") { fs::read(&path).expect("read") } else { vec![] };
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x40;
            flipped += 1;
            fs::write(&path, bytes).expect("written");
        }
    }
    assert!(flipped > 0, "no log in {}", folder.display());
}
