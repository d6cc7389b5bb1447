//! The machine against a plain map: replay, crashes, jobs, and files that are not what they should be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_index::packed;
use shoal_index::segment::Scratch;
use shoal_index::set::{Found, Look, SetQuery};
use shoal_model::{GraphSpec, HashRange, Limits, Metric, Payload, Value};
use shoal_proto::v1;
use shoal_runtime::MemoryStore;
use tempfile::TempDir;

use super::*;
use crate::builder::parameters;

const SHARD: ShardId = ShardId(7);
const POLICY: Policy = Policy { delta_points_max: 40, delta_bytes_max: 1 << 30, segment_points_max: 1_000 };
const DIM: usize = 2;

type Points = BTreeMap<u64, (Vec<f32>, i64)>;

fn spec() -> IndexSpec {
    IndexSpec { dim: DIM as u32, metric: Metric::Euclidean, embedding: String::new(), graph: GraphSpec::DEFAULT }
}

fn open(store: &dyn Store, shard: ShardId, root: Option<&Path>) -> (ShardMachine, u64) {
    ShardMachine::open(store, shard, &spec(), POLICY, root).expect("opens")
}

/// A write of points with a vector each, which their payload tells as well, and removals.
fn entry(upserts: &[(u64, f32)], deletes: &[u64]) -> Bytes {
    static OPERATIONS: AtomicU64 = AtomicU64::new(1);
    let operation = u128::from(OPERATIONS.fetch_add(1, Ordering::Relaxed));
    entry_of(operation, upserts, deletes)
}

fn entry_of(operation: u128, upserts: &[(u64, f32)], deletes: &[u64]) -> Bytes {
    let id = |number: u64| v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) };
    let point = |&(number, x): &(u64, f32)| v1::Point {
        id: Some(id(number)),
        vector: Some(convert::vector_to_wire(&[x, number as f32])),
        payload: Some(convert::payload_to_wire(payload(x))),
        ..Default::default()
    };
    let upserts = upserts.iter().map(point).collect();
    let deletes = deletes.iter().copied().map(id).collect();
    let operation = operation.to_be_bytes();
    command::encode(&operation, upserts, deletes, &spec(), HashRange::FULL, &Limits::default()).expect("a good command")
}

fn payload(x: f32) -> Payload {
    [("x".to_owned(), Value::Integer(x as i64))].into()
}

fn number_of(id: &PointId) -> u64 {
    match id {
        PointId::Number(number) => *number,
        other => panic!("never stored {other}"),
    }
}

/// Applies the entries after the machine's position, each in a batch of its own; tells what they left.
fn apply(machine: &mut ShardMachine, store: &dyn Store, log: &[Bytes]) -> Vec<Target> {
    let mut left = Vec::new();
    for (i, entry) in (1..).zip(log).skip(machine.applied().0 as usize) {
        let mut batch = Batch::default();
        left.extend(machine.apply(LogIndex(i), entry, &mut batch).expect("applies").replaced.files);
        machine.seal(&mut batch);
        store.write(batch).expect("memory does not fail");
    }
    left
}

/// Has the log seal what is due, and do the next job of a lane, if there is one; removes what it replaced if `is_synced`.
fn work(machine: &mut ShardMachine, store: &dyn Store, log: &mut Vec<Bytes>, lane: Lane, is_synced: bool) -> bool {
    if let Some(seal) = machine.wants_seal(true) {
        log.push(seal);
        apply(machine, store, log);
    }
    let missing = machine.lacks().map(|(name, _)| vec![name]);
    let planned = || machine.plan(lane, false);
    let Some(names) = missing.or_else(planned) else { return false };
    let (begun, mut left) = machine.begin(&names).expect("its parts are there");
    let product = begun.input.execute(&parameters(&spec()), &begun.target, &|| false).expect("made");
    let (replaced, manifest) = machine.hold(product, begun.number).expect("it runs");
    log.push(command::encode_install(&replaced, manifest));
    left.files.extend(apply(machine, store, log));
    if is_synced {
        store.sync().expect("memory does not fail");
        left.files.iter().for_each(segment_files::remove);
    }
    true
}

fn work_all(machine: &mut ShardMachine, store: &dyn Store, log: &mut Vec<Bytes>) {
    while Lane::ALL.into_iter().any(|lane| work(machine, store, log, lane, true)) {}
}

/// Everything that a reader may see.
fn contents(machine: &mut ShardMachine) -> Points {
    let View { points, .. } = machine.publish();
    let all = points.scroll(None, usize::MAX, None, &|| false).expect("nothing stops it");
    let point = |(id, row): &(PointId, set::Row)| {
        let payload: Payload = packed::decode(points.payload(*row).expect("sound")).expect("packed");
        let Some(Value::Integer(x)) = payload.get("x") else { panic!("payload of {id} is {payload:?}") };
        (number_of(id), (points.vector(*row).expect("sound"), *x))
    };
    all.iter().map(point).collect()
}

fn nearest(machine: &mut ShardMachine, look: Look) -> Vec<(u64, f32)> {
    let query = SetQuery { vector: &[9.5, 50.0], k: 10, look, filter: None, score_limit: None, stop: &|| false };
    let (found, _) = machine.publish().points.search(&mut Scratch::default(), &query).expect("nothing stops it");
    found.iter().map(|Found { id, score, .. }| (number_of(id), *score)).collect()
}

fn segments(machine: &ShardMachine) -> Vec<Part> {
    machine.points.parts().into_iter().filter(|part| part.kind == PartKind::Segment).collect()
}

fn file_names(root: &Path, shard: ShardId) -> Vec<String> {
    let entries = fs::read_dir(segment_files::folder_of(root, shard)).expect("the shard's folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().display().to_string();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

fn file(root: &Path, shard: ShardId, name: &str) -> PathBuf {
    segment_files::folder_of(root, shard).join(name)
}

/// A shard of three segments and a delta, of which some points were removed; closed, with its files on disk.
struct Shelf {
    store: MemoryStore,
    root: TempDir,
    log: Vec<Bytes>,
    contents: Points,
    nearest: Vec<(u64, f32)>,
}

impl Shelf {
    fn new(shard: ShardId) -> Self {
        let (store, root) = (MemoryStore::new(), tempfile::tempdir().expect("a temporary folder"));
        let mut machine = open(&store, shard, Some(root.path())).0;
        let points: Vec<(u64, f32)> = (0..130).map(|number| (number, ((number * 31) % 100) as f32)).collect();
        let mut log = Vec::new();
        for points in points[..120].chunks(40) {
            log.push(entry(points, &[]));
            apply(&mut machine, &store, &log);
            work_all(&mut machine, &store, &mut log);
        }
        log.push(entry(&points[120..], &[]));
        log.push(entry(&[(3, 77.0)], &[5, 50, 120]));
        apply(&mut machine, &store, &log);
        assert_eq!(segments(&machine).len(), 3, "three times forty points");
        let (contents, nearest) = (contents(&mut machine), nearest(&mut machine, Look::Exact));
        assert_eq!((contents.len(), nearest.len()), (127, 10));
        Self { store, root, log, contents, nearest }
    }

    fn open(&self, shard: ShardId) -> (ShardMachine, u64) {
        open(&self.store, shard, Some(self.root.path()))
    }

    /// Checks that all is there, before and after what is missing was built again, and after one more start.
    fn check(&self, shard: ShardId, want_bad: u64, name: &str) {
        let (mut machine, bad) = self.open(shard);
        assert_eq!(bad, want_bad, "{name}");
        let mut log = self.log.clone();
        for _ in 0..2 {
            assert!(contents(&mut machine) == self.contents, "{name}: other points");
            assert_eq!(nearest(&mut machine, Look::Exact), self.nearest, "{name}");
            work_all(&mut machine, &self.store, &mut log);
        }
        let (mut machine, bad) = self.open(shard);
        assert_eq!(bad, 0, "{name}: mended");
        assert!(contents(&mut machine) == self.contents, "{name}: other points after one more start");
    }
}

#[test]
fn a_crash_between_apply_and_sync_is_mended_by_replay() {
    let log = [entry(&[(1, 1.0), (2, 2.0)], &[]), entry(&[(3, 3.0)], &[1]), Bytes::new(), entry(&[(1, 9.0)], &[2])];
    for crash_after in 0..=log.len() {
        for kept in 0..=crash_after {
            let store = MemoryStore::new();
            let mut machine = open(&store, SHARD, None).0;
            apply(&mut machine, &store, &log[..crash_after]);
            store.crash(kept);
            let mut machine = open(&store, SHARD, None).0;
            assert_eq!(machine.applied(), LogIndex(kept as u64), "the position is that of the points");
            for (i, entry) in (1..).zip(&log) {
                machine.apply(LogIndex(i), entry, &mut Batch::default()).expect("applies");
            }
            let ids: Vec<u64> = contents(&mut machine).into_keys().collect();
            assert_eq!(ids, [1, 3], "crash after {crash_after}, {kept} batches kept");
        }
    }
}

#[test]
fn an_entry_no_node_would_propose_stops_the_replica() {
    let store = MemoryStore::new();
    let mut machine = open(&store, SHARD, None).0;
    let error = machine.apply(LogIndex(1), &Bytes::from_static(b"\xff\xff"), &mut Batch::default());
    assert!(matches!(error, Err(NodeError::Malformed { what: "log entry", .. })));
}

#[test]
fn a_segment_whose_install_does_not_come_frees_its_parts() {
    let (store, root) = (MemoryStore::new(), tempfile::tempdir().expect("a temporary folder"));
    let mut machine = open(&store, SHARD, Some(root.path())).0;
    let mut log = vec![entry(&(0..50).map(|number| (number, 1.0)).collect::<Vec<_>>(), &[])];
    apply(&mut machine, &store, &log);
    log.push(machine.wants_seal(true).expect("it is worth a segment"));
    apply(&mut machine, &store, &log);
    let plan = |machine: &ShardMachine| machine.plan(Lane::Build, false);
    let names = plan(&machine).expect("a sealed delta");
    let (begun, _) = machine.begin(&names).expect("its parts are there");
    let job = begun.input.id();
    let product = begun.input.execute(&parameters(&spec()), &begun.target, &|| false).expect("made");
    machine.hold(product, begun.number).expect("it runs");
    assert_eq!(plan(&machine), None, "it waits for its install");
    let left = machine.forget_overdue(job);
    assert_eq!(left.files.len(), 1, "its files go");
    assert_eq!(plan(&machine), Some(names), "another may be made");
    assert!(machine.forget_overdue(job).files.is_empty(), "once");
    work_all(&mut machine, &store, &mut log);
    assert_eq!(segments(&machine).len(), 1);
}

#[test]
fn erasing_leaves_the_neighbours() {
    let (store, root) = (MemoryStore::new(), tempfile::tempdir().expect("a temporary folder"));
    let points: Vec<(u64, f32)> = (0..50).map(|number| (number, 1.0)).collect();
    let mut applied = 0;
    for shard in [ShardId(6), SHARD, ShardId(8)] {
        let mut machine = open(&store, shard, Some(root.path())).0;
        let mut log = vec![entry(&points, &[])];
        apply(&mut machine, &store, &log);
        work_all(&mut machine, &store, &mut log);
        applied = log.len() as u64;
    }
    erase(&store, SHARD, Some(root.path())).expect("erased");
    assert!(!segment_files::folder_of(root.path(), SHARD).exists(), "its files are gone");
    erase(&store, SHARD, Some(root.path())).expect("erased again");
    for (shard, want) in [(ShardId(6), 50), (SHARD, 0), (ShardId(8), 50)] {
        let (machine, bad) = open(&store, shard, Some(root.path()));
        assert_eq!(
            (machine.points.len(), machine.applied().0, bad),
            (want, want.min(1) as u64 * applied, 0),
            "shard {shard}"
        );
        assert_eq!(segments(&machine).len(), want.min(1), "shard {shard}");
    }
}

#[test]
fn a_restart_reads_nothing_again_that_segments_have() {
    let shelf = Shelf::new(SHARD);
    let (machine, bad) = shelf.open(SHARD);
    let in_segments: usize = segments(&machine).iter().map(|part| part.live).sum();
    assert_eq!((bad, machine.points.len() - in_segments), (0, 10), "what was written last is in the delta");
    drop(machine);
    // Of the points that segments have, payload is not even looked for.
    let mut batch = Batch::default();
    for number in (0..120).filter(|number| *number != 3) {
        batch.delete(Table::Payload, keys::point(SHARD, &PointId::Number(number)));
    }
    shelf.store.write(batch).expect("memory does not fail");
    let (mut machine, _) = shelf.open(SHARD);
    assert!(contents(&mut machine) == shelf.contents, "payload comes from segments");
}

#[test]
fn files_that_are_not_what_was_written_are_built_again() {
    type Damage = fn(&Path);
    let cut = |path: &Path| {
        let bytes = fs::read(path).expect("it is there");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    let remove: Damage = |path| fs::remove_file(path).expect("it is there");
    let foreign: Damage = |path| fs::write(path, b"not a segment").expect("written");
    let damages: [(&str, Damage, bool); 4] = [
        ("missing", remove, false),
        ("truncated", cut, true),
        ("a flipped byte", flip, true),
        ("foreign", foreign, true),
    ];
    for (damage, inflict, stays) in damages {
        for name in ["00000002.graph", "00000002.stored"] {
            let shelf = Shelf::new(SHARD);
            inflict(&file(shelf.root.path(), SHARD, name));
            shelf.check(SHARD, 1, &format!("{name} is {damage}"));
            let names = file_names(shelf.root.path(), SHARD);
            assert_eq!(names.contains(&format!("{name}.bad")), stays, "{name} {damage}: {names:?}");
            assert!(!names.contains(&name.to_owned()), "{name} {damage}: {names:?}");
        }
    }
}

#[test]
fn files_of_another_shard_or_segment_are_not_taken_for_ours() {
    let (shelf, other) = (Shelf::new(SHARD), Shelf::new(ShardId(8)));
    // The same ids in the same versions, in a shard where the vectors might be others.
    for ending in ["graph", "stored"] {
        let name = format!("00000001.{ending}");
        fs::copy(file(other.root.path(), ShardId(8), &name), file(shelf.root.path(), SHARD, "00000009.graph"))
            .expect("copied");
        fs::copy(file(shelf.root.path(), SHARD, &format!("00000002.{ending}")), file(shelf.root.path(), SHARD, &name))
            .expect("copied");
    }
    fs::write(file(shelf.root.path(), SHARD, "00000010.graph.tmp"), b"half").expect("written");
    fs::write(file(shelf.root.path(), SHARD, "notes.txt"), b"mine").expect("written");
    shelf.check(SHARD, 1, "segment 1 is a copy of 2");
    let names = file_names(shelf.root.path(), SHARD);
    assert!(names.iter().all(|name| !name.contains("tmp") && !name.contains("notes")), "{names:?}");
    assert!(!names.contains(&"00000009.graph".to_owned()), "{names:?}");
}

#[test]
fn a_folder_that_is_removed_meanwhile_is_made_again() {
    let (store, root) = (MemoryStore::new(), tempfile::tempdir().expect("a temporary folder"));
    let mut machine = open(&store, SHARD, Some(root.path())).0;
    let points: Vec<(u64, f32)> = (0..400).map(|number| (number, number as f32)).collect();
    fs::remove_dir_all(segment_files::folder_of(root.path(), SHARD)).expect("removed");
    let mut log = vec![entry(&points, &[])];
    apply(&mut machine, &store, &log);
    work_all(&mut machine, &store, &mut log);
    assert!(!segments(&machine).is_empty(), "segments are built");
    assert_eq!(open(&store, SHARD, Some(root.path())).1, 0, "and found by the next start");
}

#[test]
fn a_name_with_the_last_of_all_numbers_takes_none_from_segments() {
    let shelf = Shelf::new(SHARD);
    let next = || {
        let listed = parts::load(&shelf.store, SHARD).expect("listed");
        let opened = SegmentFiles::open(Some(shelf.root.path()), &shelf.store, SHARD, &spec(), &listed);
        let opened = opened.expect("opened");
        { opened.files }.reserve()
    };
    let before = next();
    fs::create_dir(file(shelf.root.path(), SHARD, &format!("{}.graph", u64::MAX))).expect("created");
    assert_eq!(next(), before);
}

#[test]
fn only_what_was_set_aside_last_is_kept() {
    let shelf = Shelf::new(SHARD);
    for number in 1..=2 {
        let name = format!("{number:08}.graph");
        fs::write(file(shelf.root.path(), SHARD, &name), b"not a segment").expect("written");
        let (mut machine, bad) = shelf.open(SHARD);
        assert_eq!(bad, 1);
        assert!(contents(&mut machine) == shelf.contents);
        drop(shelf.open(SHARD)); // nothing is wrong any more
        let names = file_names(shelf.root.path(), SHARD);
        let bad: Vec<&String> = names.iter().filter(|name| name.ends_with(".bad")).collect();
        assert_eq!(bad, [&format!("{number:08}.graph.bad"), &format!("{number:08}.stored.bad")], "{names:?}");
    }
}

#[test]
fn what_is_walked_and_what_is_scanned_is_the_same_before_and_after_a_build() {
    let store = MemoryStore::new();
    let mut machine = open(&store, SHARD, None).0;
    let points: Vec<(u64, f32)> = (0..400).map(|number| (number, ((number * 17) % 100) as f32)).collect();
    let mut log = vec![entry(&points, &[])];
    apply(&mut machine, &store, &log);
    let before = nearest(&mut machine, Look::Exact);
    work_all(&mut machine, &store, &mut log);
    assert_eq!(machine.plan(Lane::Build, false), None, "all is built");
    assert!(!segments(&machine).is_empty());
    assert_eq!(nearest(&mut machine, Look::Exact), before);
}

/// Writes, jobs, restarts and power cuts in any order, on a leader and a follower of one log.
#[test]
fn nothing_is_lost_and_replicas_stay_the_same_whatever_comes_in_between() {
    let mut completed = 0;
    for seed in 0..30 {
        println!("seed {seed}");
        completed += Pair::new(seed).run();
    }
    assert!(completed > 20, "segments that were missing were fetched {completed} times");
}

/// A replica on a disk of its own.
struct Member {
    store: MemoryStore,
    root: TempDir,
    machine: ShardMachine,
}

impl Member {
    fn new() -> Self {
        let (store, root) = (MemoryStore::new(), tempfile::tempdir().expect("a temporary folder"));
        let machine = open(&store, SHARD, Some(root.path())).0;
        Self { store, root, machine }
    }

    fn reopen(&mut self) {
        let (machine, bad) = open(&self.store, SHARD, Some(self.root.path()));
        assert_eq!(bad, 0, "what is listed is there");
        self.machine = machine;
    }

    fn lose_power(&mut self, rng: &mut StdRng) {
        self.store.crash(rng.random_range(0..=self.store.unsynced_batches()));
        self.reopen();
    }

    fn apply(&mut self, log: &[Bytes]) {
        apply(&mut self.machine, &self.store, log);
    }

    /// Takes over a segment that another has made of the same parts, by its files; tells whether it had all it takes.
    fn fetch(&mut self, from: &ShardMachine, names: &[Name], manifest: Manifest) -> Option<(Product, u64)> {
        let theirs = from.segments().find(|segment| Manifest::of(segment) == manifest)?;
        if !self.machine.has(names) {
            return None;
        }
        let (begun, _) = self.machine.begin(names).expect("its parts are there");
        let [graph, stored] = [theirs.graph_image(), theirs.stored_image()].map(|image| image.bytes().to_vec());
        for (path, bytes) in begun.target.files().iter().zip([graph, stored]) {
            fs::write(path, bytes).expect("written");
        }
        let segment = Segment::open(&begun.target).expect("it is whole");
        Some((begun.input.adopt(segment).expect("it has every living point"), begun.number))
    }
}

struct Pair {
    rng: StdRng,
    leader: Member,
    follower: Member,
    log: Vec<Bytes>,
    points: Points,
    /// State by position, as the first replica came to it.
    digests: BTreeMap<LogIndex, u128>,
    completed: usize,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let (log, points, digests, completed) = Default::default();
        Self { rng, leader: Member::new(), follower: Member::new(), log, points, digests, completed }
    }

    fn run(mut self) -> usize {
        for _ in 0..80 {
            match self.rng.random_range(0..16) {
                0..5 => self.write(),
                5..9 => self.build(),
                9..12 => self.follower.apply(&self.log),
                12 => drop(self.mend()),
                13 => self.leader.reopen(),
                14 => {
                    self.leader.lose_power(&mut self.rng);
                    self.leader.apply(&self.log);
                }
                _ => self.follower.lose_power(&mut self.rng),
            }
            assert!(contents(&mut self.leader.machine) == self.points, "other points");
            self.check_digests();
        }
        self.follower.apply(&self.log);
        while self.mend() {}
        self.check_digests();
        assert!(contents(&mut self.follower.machine) == self.points, "the follower has other points");
        let answers = [&mut self.leader, &mut self.follower].map(|member| nearest(&mut member.machine, Look::Exact));
        assert_eq!(answers[0], answers[1], "the same answers");
        self.completed
    }

    fn write(&mut self) {
        let rng = &mut self.rng;
        let mut point = |_| (rng.random_range(0..200), rng.random_range(0..100) as f32);
        let upserts: BTreeMap<u64, f32> = (0..20).map(&mut point).collect();
        let mut deletes: Vec<u64> = (0..5).map(|_| rng.random_range(200..260)).collect();
        deletes.extend((0..5).map(|_| rng.random_range(0..200)));
        deletes.retain(|id| !upserts.contains_key(id));
        deletes.sort_unstable();
        deletes.dedup();
        deletes.iter().for_each(|id| drop(self.points.remove(id)));
        self.points.extend(upserts.iter().map(|(id, x)| (*id, (vec![*x, *id as f32], *x as i64))));
        self.log.push(entry(&upserts.into_iter().collect::<Vec<_>>(), &deletes));
        if self.rng.random_bool(0.2) {
            // A sender that got no answer sends it again.
            self.log.extend(self.log.last().cloned());
        }
        self.leader.apply(&self.log);
    }

    /// The leader makes a segment; the follower fetches it in time, or not.
    fn build(&mut self) {
        let lane = Lane::ALL[self.rng.random_range(0..2)];
        if let Some(seal) = self.leader.machine.wants_seal(false) {
            self.log.push(seal);
            self.leader.apply(&self.log);
        }
        let machine = &mut self.leader.machine;
        let missing = machine.lacks().map(|(name, _)| vec![name]);
        let Some(names) = missing.or_else(|| machine.plan(lane, false)) else { return };
        let (begun, _) = machine.begin(&names).expect("its parts are there");
        let product = begun.input.execute(&parameters(&spec()), &begun.target, &|| false).expect("made");
        let (replaced, manifest) = machine.hold(product, begun.number).expect("it runs");
        if self.rng.random_bool(0.3) {
            self.write();
        }
        if self.rng.random_bool(0.5) {
            self.follower.apply(&self.log);
            let fetched = manifest.and_then(|manifest| self.follower.fetch(&self.leader.machine, &replaced, manifest));
            if let Some((product, number)) = fetched {
                self.follower.machine.hold(product, number).expect("it runs");
            }
        }
        self.log.push(command::encode_install(&replaced, manifest));
        self.leader.apply(&self.log);
    }

    /// The follower fetches a segment that it lacks.
    fn mend(&mut self) -> bool {
        let Some((name, manifest)) = self.follower.machine.lacks() else { return false };
        let Some((product, number)) = self.follower.fetch(&self.leader.machine, &[name], manifest) else {
            return false;
        };
        self.follower.machine.complete(name, product, number, &self.follower.store).expect("listed");
        self.completed += 1;
        true
    }

    fn check_digests(&mut self) {
        for member in [&self.leader, &self.follower] {
            let (at, digest) = (member.machine.applied(), member.machine.digest());
            let first = *self.digests.entry(at).or_insert(digest);
            assert_eq!(digest, first, "content and parts at {at}");
        }
    }
}

#[test]
fn a_repeated_write_changes_nothing_and_a_reused_identity_is_told() {
    let store = MemoryStore::new();
    let mut machine = open(&store, SHARD, None).0;
    let first = entry_of(5, &[(1, 1.0)], &[]);
    let log = [first.clone(), entry_of(6, &[(1, 2.0)], &[]), first, entry_of(6, &[(9, 9.0)], &[])];
    let mut batch = Batch::default();
    let mut applied = Vec::new();
    for (i, entry) in (1..).zip(&log) {
        applied.extend(machine.apply(LogIndex(i), entry, &mut batch).expect("applies").applied);
    }
    use Applied::{At, Reused};
    assert_eq!(applied, [At(LogIndex(1)), At(LogIndex(2)), At(LogIndex(1)), Reused]);
    assert_eq!(contents(&mut machine), Points::from([(1, (vec![2.0, 1.0], 2))]), "another's write stands");
    machine.seal(&mut batch);
    store.write(batch).expect("memory does not fail");
    let mut machine = open(&store, SHARD, None).0;
    let again = machine.apply(LogIndex(5), &log[0], &mut Batch::default()).expect("applies").applied;
    assert_eq!(again, Some(At(LogIndex(1))), "also after a restart");
}

#[test]
fn a_snapshot_is_restored_whole_or_not_at_all() {
    let shelf = Shelf::new(SHARD);
    let (machine, _) = shelf.open(SHARD);
    let snapshot = snapshot_of(&shelf.store, SHARD).expect("read");
    let mut records = Vec::new();
    scan_records(&shelf.store, SHARD, None, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    })
    .expect("read");
    let after = records[9].key.clone();
    let mut rest = 0;
    scan_records(&shelf.store, SHARD, Some(&after), &mut |_| {
        rest += 1;
        ControlFlow::Continue(())
    })
    .expect("read");
    assert_eq!(rest, records.len() - 10, "a scan goes on after a key");

    let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
    apply(&mut open(&*store, SHARD, None).0, &*store, &[entry(&[(999, 9.0)], &[])]);
    let mut half = Restoring::begin(store.clone(), SHARD, snapshot.clone()).expect("begun");
    half.write(records[..50].to_vec()).expect("written");
    assert!(half.finish(&BTreeMap::new()).is_err(), "points are missing");
    let (empty, _) = open(&*store, SHARD, Some(root.path()));
    assert_eq!((empty.applied(), empty.points.len()), (LogIndex(0), 0), "half a snapshot is none");

    let mut whole = Restoring::begin(store.clone(), SHARD, snapshot).expect("begun");
    records.chunks(40).for_each(|lot| whole.write(lot.to_vec()).expect("written"));
    whole.finish(&BTreeMap::new()).expect("all is there");
    let (mut restored, bad) = open(&*store, SHARD, Some(root.path()));
    assert_eq!((bad, restored.digest()), (0, machine.digest()), "the same content and parts");
    assert!(contents(&mut restored) == shelf.contents);
    assert_eq!(restored.publish().lacking, 3, "its segments are still to be fetched");
    let mut torn =
        Restoring::begin(store.clone(), SHARD, snapshot_of(&shelf.store, SHARD).expect("read")).expect("begun");
    let mut bent = records[0].clone();
    bent.vector = bent.vector.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into();
    assert!(torn.write(vec![bent]).is_err(), "a record that is not what was written");
}

#[test]
fn what_codes_are_made_around_comes_from_the_log_and_survives_restarts_and_snapshots() {
    let store = MemoryStore::new();
    let mut machine = open(&store, SHARD, None).0;
    let mut log = Vec::new();
    let fill = |machine: &mut ShardMachine, log: &mut Vec<Bytes>, first: u64| {
        for from in (first..first + 1_200).step_by(300) {
            let points: Vec<(u64, f32)> = (from..from + 300).map(|number| (number, (number % 97) as f32)).collect();
            log.push(entry(&points, &[]));
        }
        apply(machine, &store, log);
        log.push(machine.wants_seal(false).expect("the delta is full"));
        apply(machine, &store, log);
    };
    let centers = |machine: &ShardMachine| {
        let sealed: Vec<Option<Center>> = machine.parts.values().map(|part| part.center.clone()).collect();
        (sealed, machine.center.clone())
    };
    fill(&mut machine, &mut log, 0);
    let (sealed, first) = centers(&machine);
    assert!(sealed == [None] && first.is_some(), "the first delta had nothing to go by");
    // Some of these replace points of the first.
    fill(&mut machine, &mut log, 600);
    log.push(entry(&[(1, 5.0), (5_000, 6.0)], &[7]));
    apply(&mut machine, &store, &log);
    let want = centers(&machine);
    assert_eq!(want.0, [None, first]);
    assert_ne!(want.1, want.0[1], "each has its own");

    let walk = Look::Walk(shoal_index::segment::Effort::Recall(0.9));
    let answers = |machine: &mut ShardMachine| nearest(machine, walk);
    let mut reopened = open(&store, SHARD, None).0;
    assert_eq!(centers(&reopened), want, "as it was stored");
    assert_eq!(answers(&mut reopened), answers(&mut machine));

    let other = Arc::new(MemoryStore::new());
    let snapshot = snapshot_of(&store, SHARD).expect("read");
    let mut restoring = Restoring::begin(other.clone(), SHARD, snapshot).expect("begun");
    let mut records = Vec::new();
    scan_records(&store, SHARD, None, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    })
    .expect("read");
    restoring.write(records).expect("written");
    restoring.finish(&BTreeMap::new()).expect("all is there");
    let mut restored = open(&*other, SHARD, None).0;
    assert_eq!((centers(&restored), restored.digest()), (want, machine.digest()), "as in the snapshot");
    assert_eq!(answers(&mut restored), answers(&mut machine));

    erase(&*other, SHARD, None).expect("erased");
    assert_eq!(centers(&open(&*other, SHARD, None).0), (vec![], None), "and it goes with the rest");
}
