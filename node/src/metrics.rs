//! What a node tells about itself; `docs/metrics.md` lists the same names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use shoal_index::set::{Part, PartKind};
use shoal_runtime::{DiskState, Room};

use crate::replicas::Replicas;

/// A call and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Call {
    /// Name of the call.
    pub(crate) method: &'static str,
    /// `ok` or the kind of failure.
    pub(crate) result: &'static str,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Method {
    /// Name of the call.
    pub(crate) method: &'static str,
}

/// A kind of job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    /// `build`, `merge` or `rewrite`.
    pub(crate) kind: &'static str,
}

/// A job and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Job {
    /// `build`, `merge` or `rewrite`.
    pub(crate) kind: &'static str,
    /// `done`, `failed` or `cancelled`.
    pub(crate) result: &'static str,
}

/// Where damage is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Place {
    /// `segment`, `table` or `log`.
    pub(crate) place: &'static str,
}

/// The metrics of one node.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    calls: Family<Call, Counter>,
    seconds: Family<Method, Histogram>,
    scanned: Counter,
    refused_for_disk: Counter,
    disk_free_bytes: Gauge,
    disk_size_bytes: Gauge,
    disk_reserve_bytes: Gauge,
    disk_room: Gauge,
    written: Counter,
    replicas: Gauge,
    leaders: Gauge,
    points: Gauge,
    memory_bytes: Gauge,
    segments: Gauge,
    segment_bytes: Gauge,
    delta_points: Gauge,
    sealed_deltas: Gauge,
    jobs: Family<Job, Counter>,
    job_seconds: Family<Kind, Histogram>,
    build_cpu_seconds: Counter<f64, AtomicU64>,
    sync_seconds: Histogram,
    jobs_under_way: Gauge,
    bad_segments: Counter,
    fetched_segments: Counter,
    restored: Counter,
    damaged: Counter,
    scrubbed_bytes: Counter,
    scrub_passes: Counter,
    scrub_passed_at: Gauge,
    scrub_damage: Family<Place, Counter>,
    digests_compared: Counter,
    digest_differences: Counter,
    map_epoch: Gauge,
}

impl Metrics {
    /// Makes them known to `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            calls: Family::default(),
            // 50 µs to 26 s.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(50e-6, 2.0, 20))),
            scanned: Counter::default(),
            refused_for_disk: Counter::default(),
            disk_free_bytes: Gauge::default(),
            disk_size_bytes: Gauge::default(),
            disk_reserve_bytes: Gauge::default(),
            disk_room: Gauge::default(),
            written: Counter::default(),
            replicas: Gauge::default(),
            leaders: Gauge::default(),
            points: Gauge::default(),
            memory_bytes: Gauge::default(),
            segments: Gauge::default(),
            segment_bytes: Gauge::default(),
            delta_points: Gauge::default(),
            sealed_deltas: Gauge::default(),
            jobs: Family::default(),
            // 10 ms to 1.5 hours.
            job_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(10e-3, 2.0, 20))),
            build_cpu_seconds: Counter::default(),
            // 50 µs to 1.6 s.
            sync_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 16)),
            jobs_under_way: Gauge::default(),
            bad_segments: Counter::default(),
            fetched_segments: Counter::default(),
            restored: Counter::default(),
            damaged: Counter::default(),
            scrubbed_bytes: Counter::default(),
            scrub_passes: Counter::default(),
            scrub_passed_at: Gauge::default(),
            scrub_damage: Family::default(),
            digests_compared: Counter::default(),
            digest_differences: Counter::default(),
            map_epoch: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("shoal_node");
        registry.register("calls", "Calls of routers by method and result", metrics.calls.clone());
        registry.register("call_seconds", "Time that calls of routers took", metrics.seconds.clone());
        registry.register("scanned_vectors", "Vectors compared by searches", metrics.scanned.clone());
        registry.register("written_points", "Points written or removed, and acknowledged", metrics.written.clone());
        registry.register("replicas", "Shard replicas open", metrics.replicas.clone());
        registry.register("leaders", "Shard replicas that lead their group", metrics.leaders.clone());
        registry.register("points", "Live points in open replicas", metrics.points.clone());
        registry.register("index_memory_bytes", "Memory of indexes, mapped files aside", metrics.memory_bytes.clone());
        registry.register("segments", "Segments of open replicas", metrics.segments.clone());
        registry.register("segment_bytes", "Bytes of segments, in files or memory", metrics.segment_bytes.clone());
        registry.register("delta_points", "Points that are in no segment yet", metrics.delta_points.clone());
        registry.register("sealed_deltas", "Deltas that wait to be built", metrics.sealed_deltas.clone());
        registry.register("index_jobs", "Builds and merges that ended, by kind and result", metrics.jobs.clone());
        registry.register(
            "index_job_seconds",
            "Time that builds and merges ran that were done",
            metrics.job_seconds.clone(),
        );
        registry.register(
            "bad_segments",
            "Segments that were missing or damaged, at a start or while they were served",
            metrics.bad_segments.clone(),
        );
        registry.register(
            "build_cpu_seconds",
            "Time on cores of the threads that build and merge",
            metrics.build_cpu_seconds.clone(),
        );
        registry.register("sync_seconds", "Time that syncs of the log took", metrics.sync_seconds.clone());
        metrics.register_replication(registry);
        metrics.register_disk(registry);
        metrics.register_scrub(registry);
        registry.register(
            "index_jobs_under_way",
            "Jobs that run or wait for their turn",
            metrics.jobs_under_way.clone(),
        );
        registry.register("map_epoch", "Version of the cluster map in force", metrics.map_epoch.clone());
        metrics.begin_jobs_at_zero();
        metrics
    }

    fn register_disk(&self, registry: &mut Registry) {
        registry.register(
            "writes_refused_for_disk",
            "Writes that were refused as this node's disk, or those of too many others, have no room",
            self.refused_for_disk.clone(),
        );
        for (name, help, gauge) in [
            (
                "disk_free_bytes",
                "Bytes that can still be written to the disk of the data folder",
                &self.disk_free_bytes,
            ),
            ("disk_size_bytes", "Size of that disk", &self.disk_size_bytes),
            ("disk_reserve_bytes", "Bytes of it that are to stay free", &self.disk_reserve_bytes),
            (
                "disk_room",
                "2: there is room; 1: writes are refused, and nothing is built; 0: nothing is taken from other replicas either",
                &self.disk_room,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    fn register_replication(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("fetched_segments", "Segments that were fetched from other replicas", &self.fetched_segments),
            ("restored_replicas", "Times that a replica took over another's content", &self.restored),
            ("damaged_replicas", "Times that a replica's content was not as it was written", &self.damaged),
            ("digests_compared", "Digests of replicas that were compared with the leader's", &self.digests_compared),
            ("digest_differences", "Digests of replicas that differed from the leader's", &self.digest_differences),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn register_scrub(&self, registry: &mut Registry) {
        registry.register(
            "scrubbed_bytes",
            "Bytes that were read to see whether they are sound",
            self.scrubbed_bytes.clone(),
        );
        registry.register("scrub_passes", "Times that everything was looked through", self.scrub_passes.clone());
        let help = "Unix time at which everything was last looked through";
        registry.register("scrub_passed_at_seconds", help, self.scrub_passed_at.clone());
        registry.register("scrub_damage", "Damage that was found so, by place", self.scrub_damage.clone());
        for place in ["segment", "table", "log"] {
            drop(self.scrub_damage.get_or_create(&Place { place }));
        }
    }

    /// What has not happened yet is told, too, so that a rate of failures starts at nothing and not at one.
    fn begin_jobs_at_zero(&self) {
        for kind in ["build", "merge", "rewrite"] {
            drop(self.job_seconds.get_or_create(&Kind { kind }));
            for result in ["done", "failed", "cancelled"] {
                drop(self.jobs.get_or_create(&Job { kind, result }));
            }
        }
    }

    /// Counts a call.
    pub(crate) fn called(&self, method: &'static str, result: &'static str, took: Duration) {
        self.calls.get_or_create(&Call { method, result }).inc();
        self.seconds.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// Counts vectors compared.
    pub(crate) fn scanned(&self, vectors: u64) {
        self.scanned.inc_by(vectors);
    }

    /// Counts points written or removed.
    pub(crate) fn written(&self, points: usize) {
        self.written.inc_by(points as u64);
    }

    /// Counts a job that was done.
    pub(crate) fn job_done(&self, kind: &'static str, took: Duration) {
        self.jobs.get_or_create(&Job { kind, result: "done" }).inc();
        self.job_seconds.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    /// Counts a job that failed.
    pub(crate) fn job_failed(&self, kind: &'static str) {
        self.jobs.get_or_create(&Job { kind, result: "failed" }).inc();
    }

    /// Counts a job whose replica was closed.
    pub(crate) fn job_cancelled(&self, kind: &'static str) {
        self.jobs.get_or_create(&Job { kind, result: "cancelled" }).inc();
    }

    /// Counts segments that were missing or bad.
    pub(crate) fn bad_segments(&self, segments: u64) {
        self.bad_segments.inc_by(segments);
    }

    /// Counts a segment that came from another replica.
    pub(crate) fn fetched_segment(&self) {
        self.fetched_segments.inc();
    }

    /// Counts a replica that took over another's content.
    pub(crate) fn restored(&self) {
        self.restored.inc();
    }

    /// Counts a replica whose content was not as it was written.
    pub(crate) fn damaged(&self) {
        self.damaged.inc();
    }

    /// Counts bytes that were looked through.
    pub(crate) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.inc_by(bytes);
    }

    /// Counts a pass over everything.
    pub(crate) fn scrub_passed(&self) {
        self.scrub_passes.inc();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.scrub_passed_at.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    /// Counts damage that was found by looking for it: `segment`, `table` or `log`.
    pub(crate) fn scrub_found(&self, place: &'static str) {
        self.scrub_damage.get_or_create(&Place { place }).inc();
    }

    /// Counts digests that were compared, and those that differed.
    pub(crate) fn compared(&self, digests: usize, differences: usize) {
        self.digests_compared.inc_by(digests as u64);
        self.digest_differences.inc_by(differences as u64);
    }

    /// Counts a sync of the log.
    pub(crate) fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// Counts a write that was refused as a disk has no room.
    pub(crate) fn refused_for_disk(&self) {
        self.refused_for_disk.inc();
    }

    /// Takes note of how the disk stands.
    pub(crate) fn observe_disk(&self, disk: &DiskState) {
        let set = |gauge: &Gauge, bytes: u64| gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        set(&self.disk_free_bytes, disk.space.free_bytes);
        set(&self.disk_size_bytes, disk.space.size_bytes);
        set(&self.disk_reserve_bytes, disk.reserve_bytes);
        self.disk_room.set(match disk.room {
            Room::Enough => 2,
            Room::Low => 1,
            Room::Exhausted => 0,
        });
    }

    /// Takes stock of the open replicas, and of the time on cores of what builds their segments.
    pub(crate) fn observe(&self, replicas: &Replicas, building: Duration) {
        let before = self.build_cpu_seconds.get();
        self.build_cpu_seconds.inc_by((building.as_secs_f64() - before).max(0.0));
        let all = replicas.all();
        let total = |count: &dyn Fn(&crate::replica::Replica) -> usize| -> i64 {
            let sum: usize = all.iter().map(|replica| count(replica)).sum();
            i64::try_from(sum).unwrap_or(i64::MAX)
        };
        let leads = |replica: &crate::replica::Replica| {
            usize::from(replica.group_status().is_some_and(|group| group.role == shoal_consensus::Role::Leader))
        };
        self.replicas.set(total(&|_| 1));
        self.leaders.set(total(&leads));
        self.points.set(total(&|replica| replica.view().points.len()));
        self.memory_bytes.set(total(&|replica| replica.view().points.memory_bytes()));
        // Jobs first: a job that ends in between is then told together with what it made.
        self.jobs_under_way.set(total(&|replica| replica.jobs().running.len()));
        self.observe_parts(&all.iter().flat_map(|replica| replica.view().points.parts()).collect::<Vec<_>>());
        self.map_epoch.set(i64::try_from(replicas.followed().borrow().0).unwrap_or(i64::MAX));
    }

    fn observe_parts(&self, parts: &[Part]) {
        let sum = |of: &dyn Fn(&Part) -> usize| i64::try_from(parts.iter().map(of).sum::<usize>()).unwrap_or(i64::MAX);
        let segment = |part: &Part| part.kind == PartKind::Segment;
        self.segments.set(sum(&|part| usize::from(segment(part))));
        self.segment_bytes.set(sum(&|part| if segment(part) { part.bytes } else { 0 }));
        self.delta_points.set(sum(&|part| if segment(part) { 0 } else { part.live }));
        self.sealed_deltas.set(sum(&|part| usize::from(part.kind == PartKind::Sealed)));
    }
}
