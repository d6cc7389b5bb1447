//! What a coordinator tells about itself; `docs/metrics.md` lists the same names.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use std::time::Instant;

use crate::leadership::Shared;

/// The metrics of one coordinator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    leader: Gauge,
    member: Gauge,
    term: Gauge,
    applied_index: Gauge,
    map_epoch: Gauge,
    nodes: Gauge,
    nodes_alive: Gauge,
    collections: Gauge,
    shards: Gauge,
    disk_free_bytes: Gauge,
    disk_reserve_bytes: Gauge,
}

impl Metrics {
    /// Makes them known to `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("shoal_coordinator");
        registry.register("leader", "1 on the coordinator that leads, 0 on the others", metrics.leader.clone());
        registry.register("member", "1 on a coordinator that has a vote, 0 on one that joins", metrics.member.clone());
        registry.register("term", "Raft term", metrics.term.clone());
        registry.register("applied_index", "Log position that the map reflects", metrics.applied_index.clone());
        registry.register("map_epoch", "Version of the cluster map", metrics.map_epoch.clone());
        registry.register("nodes", "Nodes registered", metrics.nodes.clone());
        registry.register("nodes_alive", "Nodes heard of lately; only the leader knows", metrics.nodes_alive.clone());
        registry.register("collections", "Collections", metrics.collections.clone());
        registry.register("shards", "Shards of all collections", metrics.shards.clone());
        registry.register(
            "disk_free_bytes",
            "Bytes that can still be written to the disk of the data folder",
            metrics.disk_free_bytes.clone(),
        );
        registry.register(
            "disk_reserve_bytes",
            "Bytes of it that are to stay free",
            metrics.disk_reserve_bytes.clone(),
        );
        metrics
    }

    /// Takes stock.
    pub(crate) fn observe(&self, shared: &Shared) {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.leader, u64::from(shared.leads()));
        set(&self.member, u64::from(shared.is_member()));
        set(&self.term, shared.group().map_or(0, |status| status.term));
        let map = shared.maps.borrow().clone();
        let timeout = shared.heartbeat_timeout();
        set(&self.applied_index, shared.applied.borrow().0);
        set(&self.map_epoch, map.epoch.0);
        set(&self.nodes, map.nodes.len() as u64);
        set(&self.nodes_alive, shared.heard.lately(Instant::now(), timeout).len() as u64);
        set(&self.collections, map.collections.len() as u64);
        set(&self.shards, map.shards.len() as u64);
        let disk = shared.disk.state();
        set(&self.disk_free_bytes, disk.space.free_bytes);
        set(&self.disk_reserve_bytes, disk.reserve_bytes);
    }
}
