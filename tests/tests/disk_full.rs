//! Disks that fill up under real processes: writes are refused before a disk is full, reads go on, and everything resumes
//! by itself once there is room. No process ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_client::{Client, ClientError, Consistency, NewCollection, SearchOptions};
use shoal_model::{Classify as _, ErrorKind, Filter, Metric, Payload, Point, PointId, Value};
use shoal_tests::{Cluster, DataFolder, LossyDisk, Role, Setup, Shape};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const SHAPE: Shape = Shape { coordinators: 3, nodes: 3, routers: 1 };
const NODES: [Role; 3] = [Role::Node(0), Role::Node(1), Role::Node(2)];
/// What nodes are to leave free.
const SETTINGS: &str = "disk_reserve_bytes = 67108864\n";
/// Less than half of it, and less than all of it.
const ALL_BUT_NOTHING: &str = "room 1000000";
const LITTLE: &str = "room 50000000";
/// How long it may take until something is noticed, and acted upon.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster whose nodes have lossy disks; `None`, said aloud, where there is no FUSE.
struct Rig {
    // Ends before its disks go.
    cluster: Cluster,
    runtime: Runtime,
    client: Client,
    written: u64,
    _folders: TempDir,
}

fn point(row: u64) -> Point {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let vector = (0..8).map(|i| ((row * 37 + i * 11) % 101) as f32 - 50.0).collect();
    let payload = Payload::from([("row".to_owned(), Value::Integer(row.cast_signed()))]);
    Point { id: PointId::Number(row), vector, payload }
}

impl Rig {
    fn start() -> Option<Self> {
        let folders = tempfile::tempdir().expect("a temporary folder");
        let mut disks = BTreeMap::new();
        for role in NODES {
            let folder = folders.path().join(role.name());
            std::fs::create_dir(&folder).expect("a folder");
            match LossyDisk::mount(&folder) {
                Ok(disk) => drop(disks.insert(role, DataFolder::Lossy(disk))),
                Err(reason) => {
                    println!("skipped, no lossy disk here: {reason}");
                    return None;
                }
            }
        }
        let setup = Setup { folders: disks, node_settings: SETTINGS.to_owned(), ..Setup::new(SHAPE) };
        let cluster = Cluster::start_as(setup);
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = cluster.address(Role::Router(0));
        let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
        let client = client.with_timeout(Duration::from_secs(10));
        let new = NewCollection { shards: 4, replicas: 3, ..NewCollection::new("rows", 8, Metric::Euclidean) };
        runtime.block_on(client.create_collection(new)).expect("three nodes");
        let mut rig = Self { cluster, runtime, client, written: 0, _folders: folders };
        for _ in 0..10 {
            rig.until_written();
        }
        Some(rig)
    }

    fn tell(&self, node: Role, command: &str) {
        let disk = self.cluster.setup().folders.get(&node).and_then(DataFolder::lossy_disk).expect("it has one");
        disk.tell(command).expect("it answers");
    }

    /// Writes the next hundred points, which touch every shard.
    fn write(&mut self) -> Result<(), ClientError> {
        let points = (self.written..self.written + 100).map(point).collect();
        self.runtime.block_on(self.client.upsert("rows", points))?;
        self.written += 100;
        Ok(())
    }

    /// Writes once it is taken.
    fn until_written(&mut self) {
        let began = Instant::now();
        while let Err(error) = self.write() {
            assert!(began.elapsed() < PATIENCE, "writes are not taken: {error}");
        }
    }

    /// Writes until that is refused for want of room; returns the refusal.
    fn until_refused(&mut self) -> ClientError {
        let began = Instant::now();
        loop {
            match self.write() {
                Err(error) if error.kind() == ErrorKind::DiskFull => return error,
                _ => assert!(began.elapsed() < PATIENCE, "writes go on without room"),
            }
        }
    }

    /// How many points there are, as every acknowledged write demands.
    fn count(&self) -> u64 {
        let all = Filter::default();
        let counted = self.client.count("rows", &all, &Consistency::Linearizable);
        self.runtime.block_on(counted).expect("reads go on")
    }

    /// A metric of a node, without labels.
    fn metric(&self, node: Role, name: &str) -> i64 {
        let text = self.cluster.scrape(node);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is told: {text}"))
    }

    fn status(&self) -> String {
        let shown = self.cluster.shoal(&["status"], Duration::from_secs(30));
        // 8: for a moment, while the lead moves to a process with room, a shard may be told as unavailable.
        assert!([0, 8].contains(&shown.code), "{}", shown.stderr);
        shown.stdout
    }

    /// Waits until the status holds `text`.
    fn until_told(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let status = self.status();
            if status.contains(text) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{text:?} is not told: {status}");
        }
    }
}

/// Reads without a pause until it is told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
    reading: JoinHandle<()>,
    reads: Arc<AtomicU64>,
}

impl Reader {
    fn start(rig: &Rig, consistency: Consistency) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (client, stopped, counted) = (rig.client.clone(), stop.clone(), reads.clone());
        let reading = rig.runtime.spawn(async move {
            for row in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let consistency = consistency.clone();
                let options = SearchOptions { k: 3, exact: true, consistency, ..SearchOptions::default() };
                let wanted = point(row % 1_000);
                let found = client.search("rows", &wanted.vector, &options).await;
                let found = found.unwrap_or_else(|error| panic!("a search failed: {error}"));
                assert_eq!((found.hits.len(), found.hits[0].score), (3, 0.0), "row {row} is found");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, reading, reads }
    }

    /// Ends the reads; panics if one has failed.
    fn end(self, rig: &Rig) {
        self.stop.store(true, Ordering::Relaxed);
        rig.runtime.block_on(self.reading).expect("every read was answered");
        println!("{} reads, each answered", self.reads.load(Ordering::Relaxed));
    }
}

#[test]
fn writes_are_refused_before_disks_are_full_and_resume_by_themselves() {
    let Some(mut rig) = Rig::start() else { return };
    let reader = Reader::start(&rig, Consistency::Linearizable);

    // One disk of three: its leads go elsewhere, it takes nothing more, and nobody else notices.
    rig.tell(NODES[0], ALL_BUT_NOTHING);
    let status = rig.until_told("the disk of node");
    assert!(status.contains("alive, disk full"), "{status}");
    assert!(status.contains("make room on that disk"), "{status}");
    let began = Instant::now();
    while rig.metric(NODES[0], "shoal_node_leaders") > 0 {
        assert!(began.elapsed() < PATIENCE, "a leader without room hands over");
    }
    for _ in 0..20 {
        rig.until_written();
    }
    assert_eq!(rig.metric(NODES[0], "shoal_node_disk_room"), 0);
    assert_eq!(rig.count(), rig.written, "every acknowledged write is there");

    // A majority: writes are refused in words, by nodes that have room themselves or not.
    rig.tell(NODES[1], LITTLE);
    let refusal = rig.until_refused();
    let text = refusal.to_string();
    assert!(text.contains("has no room for writes") && text.contains("64.0 MiB are to stay free"), "{text}");
    let refused_at = Instant::now();
    assert_eq!(rig.write().expect_err("still").kind(), ErrorKind::DiskFull);
    assert!(refused_at.elapsed() < Duration::from_secs(2), "at once: {:?}", refused_at.elapsed());
    rig.tell(NODES[2], ALL_BUT_NOTHING);
    rig.until_refused();
    // A batch spans shards, and those that had room have taken their part of the one that was refused.
    let counted = rig.count();
    let range = rig.written..=rig.written + 100;
    assert!(
        range.contains(&counted),
        "{counted} of {range:?}: what was acknowledged is there, and no more than was sent"
    );
    let refused: i64 = NODES.iter().map(|node| rig.metric(*node, "shoal_node_writes_refused_for_disk_total")).sum();
    assert!(refused >= 3, "{refused} refusals are counted");

    // Room again.
    for node in NODES {
        rig.tell(node, "room all");
    }
    rig.until_written();
    rig.until_told("nothing needs attention");
    assert_eq!(rig.count(), rig.written);
    reader.end(&rig);
    assert_eq!(rig.cluster.reap(), [], "no process has ended");
    rig.cluster.stop();
}

#[test]
fn disks_that_are_full_in_the_middle_of_a_write_end_no_process() {
    let Some(mut rig) = Rig::start() else { return };
    // Reads of what is known to be written ask for no agreement, which there is none while writes wait.
    let token = rig.runtime.block_on(rig.client.upsert("rows", vec![point(0)])).expect("written");
    let reader = Reader::start(&rig, Consistency::Session(token));
    for round in 0..2 {
        // Without a warning: whatever is under way finds no room.
        for node in NODES {
            rig.tell(node, "full on");
        }
        rig.until_refused();
        assert_eq!(rig.cluster.reap(), [], "round {round}: no process has ended");
        for node in NODES {
            rig.tell(node, "full off");
        }
        rig.until_written();
        assert_eq!(rig.count(), rig.written, "round {round}");
    }
    reader.end(&rig);
    assert_eq!(rig.cluster.reap(), [], "no process has ended");
    rig.cluster.stop();
}
