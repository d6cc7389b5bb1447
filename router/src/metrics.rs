//! What a router tells about itself; `docs/metrics.md` lists the same names.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use shoal_model::{Classify as _, Epoch};
use shoal_proto::status::kind_name;

use crate::RouterError;
use crate::fanout::{Cause, Fanout};

/// A request and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    method: &'static str,
    result: &'static str,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// How a search of a batch ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Batched {
    result: &'static str,
}

/// How a call to a node ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeCall {
    result: &'static str,
}

/// Why a shard was asked again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The metrics of one router.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<Ended, Counter>,
    seconds: Family<Method, Histogram>,
    batched: Family<Batched, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
    node_calls: Family<NodeCall, Counter>,
    retries: Family<Reason, Counter>,
    partial: Counter<u64, AtomicU64>,
    map_epoch: Gauge<i64, AtomicI64>,
    lookups: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Makes them known to `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            // 100 µs to 52 s.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(100e-6, 2.0, 20))),
            batched: Family::default(),
            in_flight: Gauge::default(),
            node_calls: Family::default(),
            retries: Family::default(),
            partial: Counter::default(),
            map_epoch: Gauge::default(),
            lookups: Counter::default(),
        };
        // Present from the start, so that a rate over them is 0 and not unknown until the first retry.
        for cause in [Cause::StaleEpoch, Cause::NotReady, Cause::NotLeader, Cause::Unreachable, Cause::Silent] {
            drop(metrics.retries.get_or_create(&Reason { reason: cause.name() }));
        }
        drop(metrics.batched.get_or_create(&Batched { result: "ok" }));
        let registry = registry.sub_registry_with_prefix("shoal_router");
        registry.register("requests", "Requests by method and result", metrics.requests.clone());
        registry.register("request_seconds", "Time that requests took", metrics.seconds.clone());
        registry.register("batched_searches", "Searches of batches by result", metrics.batched.clone());
        registry.register("in_flight", "Requests under way", metrics.in_flight.clone());
        registry.register("node_calls", "Calls to nodes by result", metrics.node_calls.clone());
        registry.register("shard_retries", "Shards asked again, by the failure before", metrics.retries.clone());
        registry.register("partial_answers", "Answers that lack a shard", metrics.partial.clone());
        registry.register("map_epoch", "Version of the cluster map in force", metrics.map_epoch.clone());
        let help = "Times a coordinator was asked for a collection that the map lacks";
        registry.register("collection_lookups", help, metrics.lookups.clone());
        metrics
    }

    /// A request has come. It counts as cancelled unless its guard hears otherwise.
    pub(crate) fn request(&self, method: &'static str) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight { metrics: self, method, started: Instant::now(), result: "CANCELLED" }
    }

    /// A search of a batch has ended.
    pub(crate) fn batched<A>(&self, answer: &Result<A, RouterError>) {
        self.batched.get_or_create(&Batched { result: result_name(answer) }).inc();
    }

    /// A call to a node has ended.
    pub(crate) fn node_call(&self, failed: Option<Cause>) {
        self.node_calls.get_or_create(&NodeCall { result: failed.map_or("ok", Cause::name) }).inc();
    }

    /// A fan-out has ended.
    pub(crate) fn fanned_out(&self, fanout: &Fanout, partial: bool) {
        for (cause, count) in fanout.retries() {
            self.retries.get_or_create(&Reason { reason: cause.name() }).inc_by(*count);
        }
        if partial {
            self.partial.inc();
        }
    }

    /// Another map is in force.
    pub(crate) fn map(&self, epoch: Epoch) {
        self.map_epoch.set(i64::try_from(epoch.0).unwrap_or(i64::MAX));
    }

    /// A coordinator is asked for a collection.
    pub(crate) fn lookup(&self) {
        self.lookups.inc();
    }
}

fn result_name<A>(answer: &Result<A, RouterError>) -> &'static str {
    answer.as_ref().err().map_or("ok", |error| kind_name(error.kind()))
}

/// A request under way; counts it when it ends, also when its caller goes away.
pub(crate) struct InFlight<'a> {
    metrics: &'a Metrics,
    method: &'static str,
    started: Instant,
    result: &'static str,
}

impl InFlight<'_> {
    /// The request has an answer.
    pub(crate) fn ended<A>(&mut self, answer: &Result<A, RouterError>) {
        self.result = result_name(answer);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics.requests.get_or_create(&Ended { method: self.method, result: self.result }).inc();
        self.metrics
            .seconds
            .get_or_create(&Method { method: self.method })
            .observe(self.started.elapsed().as_secs_f64());
    }
}
