//! Segments in a cluster: built while it serves, found after a kill, built again when their files are damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_client::{Client, Hit, SearchOptions};
use shoal_tests::{Cluster, Role, Shape, data_set};
use tokio::runtime::Runtime;

const WITHIN: Duration = Duration::from_secs(120);
const POINTS: u64 = 4_800;
const NODE: Role = Role::Node(0);
/// Small ones, so that 4,800 points become several segments, and merges of them.
const SMALL_PARTS: &str = "delta_points_max = 300\nsegment_points_max = 2000\nquiet_after_ms = 600000";
/// Larger than a shard's points, and a writer's pause that ends in the test.
const QUIET: &str = "delta_points_max = 300\nsegment_points_max = 100000\nquiet_after_ms = 300";

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).display().to_string()
}

struct Rig {
    cluster: Cluster,
    data: PathBuf,
    runtime: Runtime,
    client: Client,
}

impl Rig {
    fn start(data: PathBuf, node: &str) -> Self {
        let cluster = Cluster::start_configured(Shape { coordinators: 1, nodes: 1, routers: 1 }, &[], node);
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = cluster.address(Role::Router(0));
        let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
        Self { cluster, data, runtime, client: client.with_timeout(Duration::from_secs(50)) }
    }

    fn import(&self) {
        let base = path(&self.data, "base.npy");
        let command = ["import", "sift", &base, "--create", "--metric", "euclidean", "--shards", "2"];
        let done = self.cluster.shoal(&command, WITHIN);
        assert_eq!(done.code, 0, "import\n{}\n{}", done.stdout, done.stderr);
    }

    fn recall(&self, more: &[&str]) -> f64 {
        let [queries, truth, distances] =
            ["queries.npy", "truth_ids.npy", "truth_dist.npy"].map(|file| path(&self.data, file));
        let mut command = vec!["eval", "sift", "--queries", &queries, "--truth", &truth, "--truth-dist", &distances];
        command.extend(["--k", "10", "-o", "json"]);
        command.extend(more);
        let done = self.cluster.shoal(&command, WITHIN);
        assert_eq!(done.code, 0, "eval\n{}\n{}", done.stdout, done.stderr);
        let report: Value = serde_json::from_str(&done.stdout).expect("JSON on standard output");
        report["rows"][0]["recall"].as_f64().unwrap_or_else(|| panic!("no recall in {report}"))
    }

    /// What the node has counted since it was started; all its gauges are of one moment.
    fn metric(text: &str, name: &str) -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Waits until nothing is left to build or merge; tells how many segments there are.
    fn wait_built(&self) -> u64 {
        let started = Instant::now();
        loop {
            let text = self.cluster.scrape(NODE);
            let of = |name| Self::metric(&text, name);
            let points = of("shoal_node_points");
            if points == POINTS && of("shoal_node_sealed_deltas") + of("shoal_node_index_jobs_under_way") == 0 {
                return of("shoal_node_segments");
            }
            assert!(started.elapsed() < WITHIN, "{text}");
            std::thread::sleep(Duration::from_millis(20)); // gauges are set once a second
        }
    }

    fn exact_answers(&self) -> Vec<Vec<Hit>> {
        let exact = SearchOptions { exact: true, k: 20, ..SearchOptions::default() };
        let query = |number: u16| (0..128_u16).map(|i| f32::from((number * 37 + i * 11) % 128)).collect::<Vec<f32>>();
        let search = |number| {
            let vector = query(number);
            self.runtime.block_on(self.client.search("sift", &vector, &exact)).expect("an answer").hits
        };
        (0..20).map(search).collect()
    }

    fn restart(&mut self) {
        self.cluster.launch(NODE);
        self.cluster.wait_ready(NODE);
    }

    /// Graphs and what is stored with them, of all shards.
    fn segment_files(&self) -> Vec<PathBuf> {
        let list = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
        };
        let shards = list(&self.cluster.data(NODE).join("segments"));
        let mut files: Vec<PathBuf> = shards.iter().flat_map(|shard| list(shard)).collect();
        files.sort();
        files
    }
}

fn files_with<'a>(files: &'a [PathBuf], ending: &'a str) -> impl Iterator<Item = &'a PathBuf> {
    files.iter().filter(move |file| file.extension().is_some_and(|extension| extension == ending))
}

#[test]
fn segments_come_and_answers_stay() {
    let Some(data) = data_set("sift-5k") else { return };
    let mut rig = Rig::start(data, SMALL_PARTS);
    rig.import();
    // Whatever is built by now, and whatever is being built.
    let answers = rig.exact_answers();
    rig.cluster.kill(NODE);
    rig.restart();
    assert_eq!(rig.exact_answers(), answers, "killed while it builds");

    let segments = rig.wait_built();
    assert!(segments >= 4, "{segments} segments of 4,800 points");
    assert_eq!(rig.exact_answers(), answers, "built");
    let (recall, exact) = (rig.recall(&[]), rig.recall(&["--exact"]));
    println!("{segments} segments, recall@10 {recall}, exact {exact}");
    assert!(recall >= 0.97, "recall@10 {recall} at defaults");
    assert!((exact - 1.0).abs() < 1e-9, "exact search misses a neighbour: {exact}");

    rig.cluster.kill(NODE);
    let files = rig.segment_files();
    let missing = files_with(&files, "graph").next().expect("a graph");
    fs::remove_file(missing).expect("removed");
    let damaged = files_with(&files, "graph").last().expect("another graph");
    assert_ne!(missing, damaged);
    let mut bytes = fs::read(damaged).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(damaged, bytes).expect("written");
    rig.restart();
    assert_eq!(rig.exact_answers(), answers, "a segment is missing, another is damaged");
    assert_eq!(Rig::metric(&rig.cluster.scrape(NODE), "shoal_node_bad_segments_total"), 2);
    rig.wait_built();
    assert_eq!(rig.exact_answers(), answers, "built again");
    assert!(rig.recall(&[]) >= 0.97);
    let files = rig.segment_files();
    assert!(files_with(&files, "bad").next().is_some(), "what is damaged was set aside: {files:?}");
    rig.cluster.stop();
}

#[test]
fn a_shard_that_nobody_writes_to_comes_to_rest() {
    let Some(data) = data_set("sift-5k") else { return };
    let mut rig = Rig::start(data, QUIET);
    rig.import();
    let answers = rig.exact_answers();
    let started = Instant::now();
    loop {
        let text = rig.cluster.scrape(NODE);
        if Rig::metric(&text, "shoal_node_segments") == 2 && rig.wait_built() == 2 {
            break;
        }
        assert!(started.elapsed() < WITHIN, "two shards do not come to one segment each: {text}");
        std::thread::sleep(Duration::from_millis(20)); // gauges are set once a second
    }
    assert_eq!(rig.exact_answers(), answers, "at rest");
    assert!(rig.recall(&[]) >= 0.97);
    rig.cluster.stop();
}
