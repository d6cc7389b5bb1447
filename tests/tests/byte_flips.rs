//! Bytes of one replica's files change under reads: in every part of segment files, in tables, in the log. No answer is wrong,
//! and everything is found and mended without anybody's help.
//!
//! `SHOAL_FLIPS=10` makes ten times as many flips, `SHOAL_SEED=7` others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use shoal_client::{Client, Consistency, GraphOptions, NewCollection, ReadOptions, SearchOptions, Standing};
use shoal_model::{Condition, Filter, Metric, Payload, Point, PointId, Predicate, Quantization, Scalar, Value};
use shoal_tests::{Cluster, Role, Shape};
use tokio::runtime::Runtime;

const SETTINGS: &str =
    "delta_points_max = 400\nquiet_after_ms = 200\nscrub_every_ms = 100\nscrub_bytes_per_second = 268435456\n";
/// One whose segments have vectors in their blocks, and one whose segments have them beside.
const COLLECTIONS: [(&str, Quantization); 2] = [("plain", Quantization::None), ("coded", Quantization::Binary)];
const ROWS: u64 = 900;
/// What is written behind: too little to become a segment.
const LATE_ROWS: u64 = 20;
const KINDS: u64 = 7;
/// How long it may take until damage is found and mended.
const MENDED_WITHIN: Duration = Duration::from_secs(30);
/// Tables that are tried.
const TABLES_MAX: usize = 10;

fn vector(row: u64) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(row);
    (0..16).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn point(row: u64) -> Point {
    let fields = [("row", row), ("kind", row % KINDS)];
    let payload: Payload = fields.map(|(name, value)| (name.to_owned(), Value::Integer(value.cast_signed()))).into();
    Point { id: PointId::Number(row), vector: vector(row), payload }
}

/// Scores and rows of the nearest of a row's vector, by euclidean distance in `f64`.
fn truth(own: u64, rows: u64, kind: Option<u64>, k: usize) -> Vec<u64> {
    let query = vector(own);
    let distance = |row: u64| -> f64 {
        let pairs = query.iter().zip(vector(row));
        pairs.map(|(a, b)| (f64::from(*a) - f64::from(b)).powi(2)).sum()
    };
    let passing = (0..rows).filter(|row| kind.is_none_or(|kind| row % KINDS == kind));
    let mut all: Vec<(f64, u64)> = passing.map(|row| (distance(row), row)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(k).map(|(_, row)| row).collect()
}

/// Reads that go on, and what they found.
#[derive(Default)]
struct Reads {
    stop: AtomicBool,
    right: AtomicU64,
    trouble: std::sync::Mutex<Vec<String>>,
}

/// Asks everything that can be asked until told to stop.
async fn read_on(client: Client, reads: Arc<Reads>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !reads.stop.load(Ordering::Relaxed) {
        let (name, _) = *COLLECTIONS.choose(&mut random).expect("there are some");
        let row = random.random_range(0..ROWS + LATE_ROWS);
        match read_once(&client, name, row, random.random_range(0..6)).await {
            Ok(()) => drop(reads.right.fetch_add(1, Ordering::Relaxed)),
            Err(trouble) => reads.trouble.lock().expect("no panic").push(format!("{name}, row {row}: {trouble}")),
        }
    }
}

async fn read_once(client: &Client, name: &str, row: u64, what: u32) -> Result<(), String> {
    let rows = ROWS + LATE_ROWS;
    let kind = (what % 2 == 1).then_some(row % KINDS);
    let failed = |error: shoal_client::ClientError| format!("failed: {error}");
    match what {
        0..=3 => {
            let exact = what < 2;
            let filter = filter(kind);
            let options = SearchOptions { k: 10, exact, with_vectors: true, filter, ..SearchOptions::default() };
            let found = client.search(name, &vector(row), &options).await.map_err(failed)?;
            let found_rows: Vec<u64> = found.hits.iter().map(|hit| number(&hit.id)).collect();
            if exact && found_rows != truth(row, rows, kind, 10) {
                return Err(format!("WRONG: an exact search found {found_rows:?}"));
            }
            for hit in &found.hits {
                let right = point(number(&hit.id));
                let distance = f64::from(hit.score);
                let true_distance: f64 = (vector(row).iter().zip(&right.vector))
                    .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                    .sum::<f64>()
                    .sqrt();
                let passes = kind.is_none_or(|kind| number(&hit.id) % KINDS == kind);
                let is_whole = hit.vector.as_ref() == Some(&right.vector) && hit.payload == right.payload;
                if !is_whole || !passes || (distance - true_distance).abs() > 1e-4 {
                    return Err(format!("WRONG: a hit {hit:?}"));
                }
            }
            Ok(())
        }
        4 => {
            let count =
                client.count(name, &filter(Some(row % KINDS)), &Consistency::default()).await.map_err(failed)?;
            let right = (0..rows).filter(|other| other % KINDS == row % KINDS).count() as u64;
            if count == right { Ok(()) } else { Err(format!("WRONG: counted {count} of {right}")) }
        }
        _ => {
            let options = ReadOptions { with_vectors: true, ..ReadOptions::default() };
            let found = client.get(name, &[PointId::Number(row)], &options).await.map_err(failed)?;
            let right = point(row);
            let is_right = found.first().is_some_and(|found| {
                found.id == right.id && found.vector.as_ref() == Some(&right.vector) && found.payload == right.payload
            });
            if is_right { Ok(()) } else { Err(format!("WRONG: read {found:?}")) }
        }
    }
}

fn filter(kind: Option<u64>) -> Filter {
    let is_kind = |kind: u64| Condition::Field {
        key: "kind".to_owned(),
        predicate: Predicate::Match(Scalar::Integer(kind.cast_signed())),
    };
    Filter { must: kind.map(is_kind).into_iter().collect(), ..Filter::default() }
}

fn number(id: &PointId) -> u64 {
    match id {
        PointId::Number(number) => *number,
        id => panic!("no id is {id}"),
    }
}

/// What became of flips, by what they hit.
#[derive(Default)]
struct Outcomes(BTreeMap<String, (u64, Duration)>);

impl Outcomes {
    /// Notes flips of which nothing is left, and how long that took; what is left is waited for, in vain at last.
    fn note(&mut self, what: &str, flips: u64, took: Duration) {
        let (all, longest) = self.0.entry(what.to_owned()).or_default();
        *all += flips;
        *longest = took.max(*longest);
    }

    fn print(&self) {
        for (what, (flips, longest)) in &self.0 {
            println!("{what:>24}: {flips} flips, nothing is left of them after {:.1} s", longest.as_secs_f64());
        }
    }
}

/// The cluster under its reads.
struct Rig {
    cluster: Cluster,
    /// Whose files change.
    hurt: Role,
    runtime: Runtime,
    client: Client,
    random: StdRng,
    outcomes: Outcomes,
}

impl Rig {
    fn start(seed: u64) -> Self {
        let cluster = Cluster::start_configured(Shape { coordinators: 1, nodes: 3, routers: 1 }, &[], SETTINGS);
        Self::of(cluster, seed, Role::Node(1))
    }

    fn of(cluster: Cluster, seed: u64, hurt: Role) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = cluster.address(Role::Router(0));
        let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
        let client = client.with_timeout(Duration::from_secs(30));
        let random = StdRng::seed_from_u64(seed);
        Self { cluster, hurt, runtime, client, random, outcomes: Outcomes::default() }
    }

    /// Writes what is read, in time for all but the last of it to become segments on each replica.
    fn fill(&self) {
        for (name, quantization) in COLLECTIONS {
            let new = NewCollection {
                shards: 1,
                replicas: 3,
                graph: GraphOptions { quantization: Some(quantization), ..GraphOptions::default() },
                ..NewCollection::new(name, 16, Metric::Euclidean)
            };
            self.runtime.block_on(self.client.create_collection(new)).expect("three nodes");
            self.upsert(name, 0..ROWS);
        }
        wait_for("segments everywhere", || self.is_whole());
        COLLECTIONS.iter().for_each(|(name, _)| self.upsert(name, ROWS..ROWS + LATE_ROWS));
    }

    fn upsert(&self, name: &str, rows: Range<u64>) {
        let rows: Vec<u64> = rows.collect();
        for some in rows.chunks(100) {
            let points = some.iter().copied().map(point).collect();
            self.runtime.block_on(self.client.upsert(name, points)).expect("written");
        }
    }

    /// Whether every replica is a member, serves, and has all but few of its points in segments that are there.
    fn is_whole(&self) -> bool {
        COLLECTIONS.iter().all(|(name, _)| {
            let Ok(collection) = self.runtime.block_on(self.client.describe_collection(name)) else { return false };
            let mut replicas = collection.shards.iter().flat_map(|shard| &shard.replicas);
            replicas.all(|replica| {
                let whole = |report: &shoal_client::ReplicaReport| {
                    report.points >= ROWS
                        && report.segments == 1
                        && report.missing_segments == 0
                        && report.waiting_points == 0
                };
                replica.standing == Standing::Member && replica.report.as_ref().is_some_and(whole)
            })
        })
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.cluster.scrape(self.hurt);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// How many segments were found bad, and how many were fetched and found sound.
    fn segments_mended(&self) -> (u64, u64) {
        (self.metric("shoal_node_bad_segments_total"), self.metric("shoal_node_fetched_segments_total"))
    }

    /// Segment files of the node that is hurt, those aside that were set aside.
    fn segment_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for shard in fs::read_dir(self.cluster.data(self.hurt).join("segments")).into_iter().flatten().flatten() {
            files.extend(fs::read_dir(shard.path()).into_iter().flatten().flatten().map(|file| file.path()));
        }
        files.retain(|file| file.extension().is_some_and(|extension| extension == "graph" || extension == "stored"));
        files.sort();
        files
    }

    /// Changes a byte of a part of every segment, the files in turn, and waits until all are what they were.
    fn flip_segments(&mut self) {
        let kinds: BTreeSet<String> = self.segment_files().iter().flat_map(|file| parts_of(file).into_keys()).collect();
        for part in kinds {
            let whole: Vec<Vec<u8>> = self.segment_files().iter().map(|file| fs::read(file).expect("read")).collect();
            let before = self.segments_mended();
            let mut flipped = 0;
            for file in self.segment_files() {
                if let Some(range) = parts_of(&file).get(&part).filter(|range| !range.is_empty()) {
                    let at = self.random.random_range(range.clone());
                    self.flip(&file, at);
                    flipped += 1;
                }
            }
            let began = Instant::now();
            wait_for(&part, || {
                let (bad, fetched) = self.segments_mended();
                bad >= before.0 + flipped && fetched >= before.1 + flipped
            });
            let is_again = |bytes: &Vec<u8>| {
                self.segment_files().iter().any(|file| fs::read(file).is_ok_and(|found| found == *bytes))
            };
            wait_for(&part, || whole.iter().all(is_again));
            self.outcomes.note(&part, flipped, began.elapsed());
        }
    }

    /// Changes a byte of the write-ahead log, where entries of Raft logs and records of points lie together.
    fn flip_log(&mut self) {
        // What was written last may be in tables already.
        COLLECTIONS.iter().for_each(|(name, _)| self.upsert(name, ROWS..ROWS + LATE_ROWS));
        let logs = files_with(&self.cluster.data(self.hurt), "log");
        let Some(log) = logs.into_iter().max_by_key(|log| length(log)) else { return };
        let (before, bytes) = (self.metric("shoal_node_scrub_damage_total{place=\"log\"}"), length(&log));
        if bytes == 0 {
            return;
        }
        let at = self.random.random_range(0..bytes);
        self.flip(&log, at);
        let began = Instant::now();
        // A log that goes before anybody looks has done its work: all that it held is in tables.
        wait_for("the log", || self.metric("shoal_node_scrub_damage_total{place=\"log\"}") > before || !log.exists());
        wait_for("a new log", || !log.exists());
        let found = self.metric("shoal_node_scrub_damage_total{place=\"log\"}") > before;
        self.outcomes.note(if found { "log" } else { "log (superseded)" }, 1, began.elapsed());
    }

    /// Changes a byte of a table of the store; the node ends, and is started again as its supervisor would. A compaction may
    /// take the file away before anybody looks; then it is another's turn.
    fn flip_table(&mut self, table: &str) {
        for _ in 0..TABLES_MAX {
            let path = self.a_table_of(table);
            let at = self.random.random_range(0..length(&path));
            self.flip(&path, at);
            let began = Instant::now();
            let mut has_ended = false;
            wait_for(&format!("byte {at} of {}", path.display()), || {
                has_ended = self.cluster.reap().iter().any(|(role, _)| *role == self.hurt);
                has_ended || !path.exists()
            });
            if has_ended {
                self.cluster.launch(self.hurt);
                self.cluster.wait_ready(self.hurt);
                assert!(self.cluster.data(self.hurt).join("damaged").is_dir(), "the damaged store is kept");
                wait_for("the node is made anew", || self.is_whole());
                self.outcomes.note(&format!("table, {table}"), 1, began.elapsed());
                return;
            }
            self.outcomes.note("table (superseded)", 1, began.elapsed());
        }
        panic!("{TABLES_MAX} tables of {table} went before anybody looked");
    }

    /// A table file that holds a table of ours, and that the scrub has seen sound: of a new one it does not know what those
    /// bytes should be that RocksDB can do without.
    fn a_table_of(&self, table: &str) -> PathBuf {
        let of = format!("name{table}");
        loop {
            let tables = files_with(&self.cluster.data(self.hurt), "sst");
            let passes = self.metric("shoal_node_scrub_passes_total");
            wait_for("two passes", || self.metric("shoal_node_scrub_passes_total") >= passes + 2);
            let is_of = |path: &&PathBuf| {
                fs::read(path).is_ok_and(|bytes| bytes.windows(of.len()).any(|window| window == of.as_bytes()))
            };
            if let Some(path) = tables.iter().filter(is_of).max_by_key(|path| length(path)) {
                return path.clone();
            }
        }
    }

    fn flip(&mut self, path: &Path, at: usize) {
        let file = File::options().read(true).write(true).open(path).expect("it is there");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).expect("read");
        byte[0] ^= 1 << self.random.random_range(0..8);
        file.write_all_at(&byte, at as u64).expect("written");
    }
}

fn length(path: &Path) -> usize {
    fs::metadata(path).map_or(0, |about| usize::try_from(about.len()).expect("small"))
}

/// Parts of a segment's file by name: header, sections, checksums. As `shoal_index::file` tells.
fn parts_of(path: &Path) -> BTreeMap<String, Range<usize>> {
    let Ok(bytes) = fs::read(path) else { return BTreeMap::new() };
    let kind = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let number =
        |at: usize| usize::try_from(u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))).expect("small");
    let mut parts = BTreeMap::from([(format!("{kind} header"), 0..4_096)]);
    let mut end: usize = 4_096;
    for at in (32..416).step_by(24) {
        let (start, length) = (number(at + 8), number(at + 16));
        if start > 0 {
            let name = String::from_utf8_lossy(&bytes[at..at + 8]).trim().to_owned();
            parts.insert(format!("{kind} {name}"), start..start + length);
            end = end.max((start + length).next_multiple_of(4_096));
        }
    }
    parts.insert(format!("{kind} checksums"), end..bytes.len());
    parts
}

fn files_with(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == ending)).collect()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + MENDED_WITHIN;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {MENDED_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(10)); // polling for an end; nothing is synchronised by it
    }
}

fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn flipped_bytes_of_one_replica_spoil_no_answer_and_are_mended() {
    let (seed, times) = (number_from("SHOAL_SEED", 1), number_from("SHOAL_FLIPS", 1));
    println!("seed {seed}");
    let mut rig = Rig::start(seed);
    rig.fill();
    let reads = Arc::new(Reads::default());
    let readers: Vec<_> =
        (0..3).map(|i| rig.runtime.spawn(read_on(rig.client.clone(), reads.clone(), seed + i))).collect();
    for _ in 0..times {
        rig.flip_segments();
        (0..4).for_each(|_| rig.flip_log());
    }
    // What was flipped in the log is in tables by now: it survives the loss of all that is in memory.
    rig.cluster.kill(rig.hurt);
    rig.cluster.launch(rig.hurt);
    rig.cluster.wait_ready(rig.hurt);
    wait_for("the node is back", || rig.is_whole());
    assert!(!rig.cluster.data(rig.hurt).join("damaged").exists(), "nothing was lost, so nothing had to be made anew");
    for _ in 0..times {
        ["vectors", "log"].into_iter().for_each(|table| rig.flip_table(table));
    }
    reads.stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| rig.runtime.block_on(reader).expect("it ran"));
    let trouble = reads.trouble.lock().expect("no panic").clone();
    rig.outcomes.print();
    println!("{} reads, all right but {}", reads.right.load(Ordering::Relaxed), trouble.len());
    trouble.iter().take(20).for_each(|trouble| println!("{trouble}"));
    assert!(!trouble.iter().any(|trouble| trouble.contains("WRONG")), "an answer is wrong");
    assert_eq!(trouble.len(), 0, "every read is answered");
    for (name, _) in COLLECTIONS {
        let row = rig.runtime.block_on(read_once(&rig.client, name, 5, 0));
        assert_eq!(row, Ok(()));
    }
    rig.cluster.stop();
}

/// A node that nobody can replace goes on, and the operator hears of it.
#[test]
fn damage_to_the_only_copy_is_told_and_sound_points_are_read() {
    let cluster = Cluster::start_configured(Shape { coordinators: 1, nodes: 1, routers: 1 }, &[], SETTINGS);
    let mut rig = Rig::of(cluster, number_from("SHOAL_SEED", 1), Role::Node(0));
    let new = NewCollection { shards: 1, replicas: 1, ..NewCollection::new("plain", 16, Metric::Euclidean) };
    rig.runtime.block_on(rig.client.create_collection(new)).expect("a node");
    rig.upsert("plain", 0..LATE_ROWS);
    // What was in memory is in a table afterwards.
    rig.cluster.kill(rig.hurt);
    rig.cluster.launch(rig.hurt);
    rig.cluster.wait_ready(rig.hurt);
    let table = rig.a_table_of("vectors");
    let at = rig.random.random_range(0..length(&table));
    rig.flip(&table, at);
    wait_for("a warning", || {
        let status = rig.runtime.block_on(rig.client.status()).expect("it answers");
        let told = |warning: &shoal_client::Warning| warning.text.contains("the only copy");
        status.warnings.iter().any(told)
    });
    assert_eq!(rig.cluster.reap(), [], "the node goes on");
    let options = SearchOptions { k: 1, exact: true, ..SearchOptions::default() };
    let found = rig.runtime.block_on(rig.client.search("plain", &vector(3), &options)).expect("points are in memory");
    assert_eq!(found.hits.first().map(|hit| number(&hit.id)), Some(3));
}
