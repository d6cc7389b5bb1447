//! Jobs of a replica without others.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use prometheus_client::registry::Registry;
use shoal_index::set::Policy;
use shoal_model::{GraphSpec, HashRange, IndexSpec, Limits, LogIndex, Metric};
use shoal_proto::map_watch::MapWatch;
use shoal_proto::{convert, v1};
use shoal_runtime::{Batch, MemoryStore};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::builder::parameters;
use crate::damage::Damage;
use crate::disks::tests::boundless;
use crate::shard::command;

const SHARD: ShardId = ShardId(7);
const POLICY: Policy = Policy { delta_points_max: 500, delta_bytes_max: 1 << 30, segment_points_max: 10_000 };

fn spec() -> IndexSpec {
    IndexSpec { dim: 8, metric: Metric::Euclidean, embedding: String::new(), graph: GraphSpec::DEFAULT }
}

/// A machine and the log that it has applied.
struct Shard {
    machine: ShardMachine,
    applied: u64,
}

/// Writes `points` of them.
fn filled(points: u64, store: &dyn Store, root: Option<&Path>) -> Shard {
    let (machine, _) = ShardMachine::open(store, SHARD, &spec(), POLICY, root).expect("opens");
    let mut shard = Shard { machine, applied: 0 };
    shard.write(0..points);
    shard
}

impl Shard {
    fn apply(&mut self, entry: &bytes::Bytes) -> Replaced {
        self.applied += 1;
        let applied = self.machine.apply(LogIndex(self.applied), entry, &mut Batch::default());
        applied.expect("applies").replaced
    }

    fn write(&mut self, points: Range<u64>) {
        let vector = |number: u64| (0..8).map(|i| ((number * 31 + i * 7) % 1_009) as f32).collect::<Vec<f32>>();
        let point = |number| v1::Point {
            id: Some(v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) }),
            vector: Some(convert::vector_to_wire(&vector(number))),
            ..Default::default()
        };
        for first in points.step_by(100) {
            let upserts = (first..first + 100).map(point).collect();
            let operation = u128::from(first + 1).to_be_bytes();
            let entry = command::encode(&operation, upserts, vec![], &spec(), HashRange::FULL, &Limits::default());
            self.apply(&entry.expect("a good command"));
            if let Some(seal) = self.machine.wants_seal(false) {
                self.apply(&seal);
            }
        }
    }

    /// Takes an event, and has the log install what was made.
    async fn handle(mut self, jobs: &mut Jobs, event: Event) -> Self {
        let (machine, made) = jobs.handle(event, self.machine).await.expect("borne");
        self.machine = machine;
        if let Some(Made { replaced, manifest }) = made {
            let left = self.apply(&command::encode_install(&replaced, manifest));
            jobs.discard(left);
        }
        self
    }

    fn begin(&mut self, jobs: &mut Jobs) {
        while let Some(damaged) = jobs.take_damaged() {
            let store = jobs.store.clone();
            let left = self.machine.set_aside(damaged, &*store).expect("listed");
            jobs.discard(left.expect("it is a part"));
        }
        jobs.begin(&mut self.machine, true, false).expect("planned");
    }
}

/// Does what there is to do, until nothing is left.
async fn finish(jobs: &mut Jobs, mut shard: Shard) -> Shard {
    loop {
        shard.begin(jobs);
        if jobs.status().running.is_empty() {
            return shard;
        }
        let event = jobs.next().await.expect("no task fails");
        shard = shard.handle(jobs, event).await;
    }
}

fn jobs(store: &Arc<dyn Store>) -> Jobs {
    let (maps, _) = MapWatch::start(Vec::new(), CancellationToken::new());
    let indexing = Indexing {
        builder: Arc::new(Builder::start(1).expect("a thread")),
        policy: POLICY,
        deltas_waiting_max: 16,
        quiet_after: Duration::from_secs(1),
        folder: None,
        metrics: Metrics::register(&mut Registry::default()),
        peers: Arc::new(Peers::new(NodeId(1), maps, 1 << 20)),
        exports: Arc::default(),
        disks: boundless(NodeId(1)),
        damage: Damage::new(shoal_runtime::Failure::default()),
    };
    Jobs::new(SHARD, &indexing, parameters(&spec()), store.clone())
}

#[test]
fn pauses_grow_and_stay_bounded() {
    let seconds = [1, 2, 3, 6, 7, 100, u32::MAX].map(|failures| pause_after(failures).as_secs());
    assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
}

#[tokio::test]
async fn jobs_go_on_until_nothing_is_left_to_do() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut jobs = jobs(&store);
    let mut shard = finish(&mut jobs, filled(4_000, &*store, None)).await;
    let view = shard.machine.publish();
    assert_eq!((view.points.len(), view.sealed), (4_000, 0));
    assert_eq!(view.points.points_scanned(shoal_index::set::Look::Walk(shoal_index::segment::Effort::Beam(1))), 0);
    assert_eq!(jobs.status(), JobsStatus::default());
    jobs.stop().await;
}

#[tokio::test]
async fn builds_press_while_many_deltas_wait_and_a_late_one_begins_again() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut jobs = jobs(&store);
    let mut shard = filled(11 * 500, &*store, None);
    let busy = jobs.builder.clone();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go_on, until) = std::sync::mpsc::channel::<()>();
    let hog = tokio::spawn(async move {
        let work = move || {
            let _ = begun.send(());
            let _ = until.recv();
        };
        busy.run((Lane::Build, Urgency::Spare), &Cancel::default(), work).await
    });
    tokio::task::spawn_blocking(move || has_begun.recv()).await.expect("no panic").expect("it runs");
    shard.begin(&mut jobs);
    assert_eq!(jobs.urgency, Urgency::Spare, "11 wait");
    shard.write(11 * 500..12 * 500);
    shard.begin(&mut jobs);
    assert_eq!(jobs.urgency, Urgency::Pressing, "12 wait");
    while shard.machine.deltas_waiting() > 6 {
        let event = jobs.next().await.expect("no task fails");
        shard = shard.handle(&mut jobs, event).await;
        assert!(shard.machine.deltas_waiting() <= 6 || jobs.urgency == Urgency::Pressing);
        shard.begin(&mut jobs);
    }
    assert_eq!(jobs.urgency, Urgency::Spare, "6 wait");
    go_on.send(()).expect("the hog waits");
    hog.await.expect("no panic").expect("it ends");
    let shard = finish(&mut jobs, shard).await;
    assert_eq!(shard.machine.deltas_waiting(), 0);
    jobs.stop().await;
}

#[tokio::test]
async fn a_damaged_segment_is_set_aside_and_keeps_no_other_from_merging() {
    let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
    let store: Arc<dyn Store> = store;
    let mut jobs = jobs(&store);
    let mut shard = finish(&mut jobs, filled(2_000, &*store, Some(root.path()))).await;
    for file in std::fs::read_dir(segment_files::folder_of(root.path(), SHARD)).expect("the folder is there") {
        let path = file.expect("it can be read").path();
        let at = std::fs::metadata(&path).expect("the file is there").len() / 2;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("the file is there");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1], at).expect("written in place");
    }
    shard.write(2_000..10_000);
    let mut shard = finish(&mut jobs, shard).await;
    assert!(jobs.take_beyond_mending(), "nobody else has what is damaged");
    assert!(shard.machine.has_damage() && shard.machine.lacks().is_some());
    let view = shard.machine.publish();
    assert_eq!((view.points.len(), view.sealed), (10_000, 0), "all are searched as before");
    let parts = view.points.parts().len();
    assert!(parts <= 12, "{parts} parts, of 18: what is not damaged is merged");
    jobs.stop().await;
}

#[tokio::test]
async fn a_stop_cancels_what_runs_and_what_waits() {
    let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
    let store: Arc<dyn Store> = store;
    let mut shard = filled(5_000, &*store, Some(root.path()));
    let (mut first, mut second) = (jobs(&store), jobs(&store));
    second.builder = first.builder.clone();
    shard.begin(&mut first);
    let mut other = filled(5_000, &*store, None);
    other.begin(&mut second);
    assert_eq!(second.status().running, ["building a segment of 500 points"]);
    // Were it not cancelled it would wait for ever: nobody takes the first job's end.
    second.stop().await;
    first.stop().await;
    let folder = segment_files::folder_of(root.path(), SHARD);
    assert_eq!(std::fs::read_dir(folder).expect("the shard's folder").count(), 0, "no file is left");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_is_told_and_tried_again() {
    let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
    let store: Arc<dyn Store> = store;
    let mut shard = filled(500, &*store, Some(root.path()));
    let mut jobs = jobs(&store);
    let folder = segment_files::folder_of(root.path(), SHARD);
    std::fs::remove_dir_all(&folder).expect("removed");
    std::fs::write(&folder, b"in the way").expect("written");
    for failures in 1..=3 {
        shard.begin(&mut jobs);
        assert_eq!(jobs.status().running.len(), 1);
        let event = jobs.next().await.expect("no task fails");
        shard = shard.handle(&mut jobs, event).await;
        let status = jobs.status();
        assert!(status.cannot_build && status.failures.len() == 1, "{status:?}");
        assert!(status.failures[0].contains("building a segment of 500 points"), "{status:?}");
        shard.begin(&mut jobs);
        assert!(jobs.status().running.is_empty(), "it rests");
        let began = Instant::now();
        let event = jobs.next().await.expect("no task fails");
        assert!(matches!(event, Event::Rested));
        assert_eq!(began.elapsed().as_secs(), pause_after(failures).as_secs(), "failure {failures}");
        shard = shard.handle(&mut jobs, event).await;
        assert_eq!(shard.machine.publish().points.len(), 500, "points are searched as they were");
    }
    std::fs::remove_file(&folder).expect("removed");
    shard.begin(&mut jobs);
    let event = jobs.next().await.expect("no task fails");
    shard = shard.handle(&mut jobs, event).await;
    assert_eq!((shard.machine.publish().sealed, jobs.status().cannot_build), (0, false));
    jobs.stop().await;
}

#[tokio::test]
async fn what_could_not_be_fetched_is_told_for_as_long_as_it_is_missing() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut jobs = jobs(&store);
    let mut shard = finish(&mut jobs, filled(500, &*store, None)).await;
    let fetch = || "fetching segment 260: node 1: it is not here".to_owned();
    let segment = shard.machine.segments().next().expect("built").graph_image().checksum();
    let left = shard.machine.set_aside(segment, &*store).expect("listed").expect("it is a part");
    jobs.discard(left);
    jobs.mending.fail(fetch());
    jobs.mend(&mut shard.machine, Instant::now()).expect("planned");
    assert_eq!(jobs.status().failures, [fetch()], "it rests, and the segment is missing");

    let mut whole = finish(&mut jobs, filled(500, &*store, None)).await;
    jobs.mending.fail(fetch());
    whole.begin(&mut jobs);
    assert_eq!(jobs.status().failures, [""; 0], "nothing is missing any more");
    jobs.stop().await;
}
