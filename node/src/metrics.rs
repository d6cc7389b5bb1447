//! What a node tells about itself; `docs/metrics.md` lists the same names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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

/// The metrics of one node.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    calls: Family<Call, Counter>,
    seconds: Family<Method, Histogram>,
    scanned: Counter,
    written: Counter,
    replicas: Gauge,
    leaders: Gauge,
    points: Gauge,
    memory_bytes: Gauge,
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
            written: Counter::default(),
            replicas: Gauge::default(),
            leaders: Gauge::default(),
            points: Gauge::default(),
            memory_bytes: Gauge::default(),
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
        registry.register("index_memory_bytes", "Memory of vectors and payload", metrics.memory_bytes.clone());
        registry.register("map_epoch", "Version of the cluster map in force", metrics.map_epoch.clone());
        metrics
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

    /// Takes stock of the open replicas.
    pub(crate) fn observe(&self, replicas: &Replicas) {
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
        self.map_epoch.set(i64::try_from(replicas.followed().borrow().0).unwrap_or(i64::MAX));
    }
}
