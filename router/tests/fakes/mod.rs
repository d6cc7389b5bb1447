//! A coordinator and nodes that do as a test says, behind real sockets, and a router before them.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "shared by test binaries, each of which uses a part"
)]

mod coordinator;
mod node;

use std::time::Duration;

use prometheus_client::registry::Registry;
use shoal_model::{
    ClusterId, ClusterMap, CollectionSpec, Command, GraphSpec, IndexSpec, Metric, NodeId, OperationId, StoreId,
};
use shoal_proto::status::from_status;
use shoal_proto::v1::collections_service_client::CollectionsServiceClient;
use shoal_proto::v1::points_service_client::PointsServiceClient;
use shoal_proto::v1::search_service_client::SearchServiceClient;
use shoal_proto::{convert, server, v1};
use shoal_router::{Router, RouterConfig};
use tonic::transport::Channel;
use tonic::{Code, Status};

pub use coordinator::FakeCoordinator;
pub use node::{FakeNode, Trouble};

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster of one fake coordinator, some fake nodes and a real router.
pub struct Rig {
    pub coordinator: FakeCoordinator,
    pub nodes: Vec<FakeNode>,
    pub router: Router,
    pub registry: Registry,
}

impl Rig {
    /// `nodes` nodes and the collection `c` of dimension 2 (dot) in `shards` shards.
    pub async fn start(nodes: usize, shards: u32) -> Self {
        Self::with(nodes, shards, |_| {}).await
    }

    /// The same, with the router configured otherwise.
    pub async fn with(nodes: usize, shards: u32, configure: impl FnOnce(&mut RouterConfig)) -> Self {
        let mut started = Vec::new();
        for _ in 0..nodes {
            started.push(FakeNode::start().await);
        }
        let addresses: Vec<String> = started.iter().map(|node| node.address.clone()).collect();
        let map = map(&addresses, shards);
        for node in &started {
            node.follow(&map);
        }
        let coordinator = FakeCoordinator::start(map).await;
        let (router, registry) = start_router(vec![coordinator.address.clone()], configure).await;
        Self { coordinator, nodes: started, router, registry }
    }

    pub fn channel(&self) -> Channel {
        channel(&self.router)
    }

    pub fn points(&self) -> PointsServiceClient<Channel> {
        PointsServiceClient::new(self.channel())
    }

    pub fn searches(&self) -> SearchServiceClient<Channel> {
        SearchServiceClient::new(self.channel())
    }

    pub fn collections(&self) -> CollectionsServiceClient<Channel> {
        CollectionsServiceClient::new(self.channel())
    }

    /// Writes points 0 to `count`, whose vector is `[id, 1]`.
    pub async fn fill(&self, count: u64) -> v1::UpsertResponse {
        let request = upsert((0..count).map(|number| point(number, &[number as f32, 1.0])).collect());
        self.points().upsert(request).await.expect("the write is served").into_inner()
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text takes everything");
        text
    }
}

pub fn channel(router: &Router) -> Channel {
    server::channel(&format!("http://{}", router.address())).expect("well-formed")
}

pub async fn start_router(coordinators: Vec<String>, configure: impl FnOnce(&mut RouterConfig)) -> (Router, Registry) {
    let (listener, _) = server::listen("127.0.0.1:0").await.expect("a free port");
    let mut registry = Registry::default();
    let mut config = RouterConfig::new(coordinators);
    configure(&mut config);
    (Router::start(config, listener, &mut registry).await.expect("the router starts"), registry)
}

/// A map with a node at each address, and the collection `c` spread over them in turn.
pub fn map(addresses: &[String], shards: u32) -> ClusterMap {
    let mut map = ClusterMap::default();
    map.apply(Command::NameCluster { cluster: ClusterId(7) });
    for (store, address) in (1_u128..).zip(addresses) {
        let address = address.clone();
        map.apply(Command::RegisterNode {
            store: StoreId(store),
            name: "n".into(),
            address,
            zone: String::new(),
            replaces: None,
        });
    }
    create(&mut map, "c", shards);
    map
}

pub fn create(map: &mut ClusterMap, name: &str, shards: u32) {
    let nodes: Vec<NodeId> = map.nodes.keys().copied().collect();
    place(map, name, (0..shards as usize).map(|shard| vec![nodes[shard % nodes.len()]]).collect());
}

/// Creates a collection whose shard `i` has its replicas on the nodes of `placement[i]`.
pub fn place(map: &mut ClusterMap, name: &str, placement: Vec<Vec<NodeId>>) {
    let count = |items: usize| u32::try_from(items).expect("few");
    let created = map.apply(Command::CreateCollection {
        operation: OperationId(map.epoch.0.into()),
        spec: CollectionSpec {
            name: name.into(),
            shards: count(placement.len()),
            replicas: count(placement[0].len()),
            witness: false,
            index: IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT },
        },
        placement,
    });
    assert!(created.reply.is_ok(), "{created:?}");
}

/// Raises the epoch of every shard.
pub fn touch(map: &mut ClusterMap) {
    map.epoch = map.epoch.next();
    map.shards.values_mut().for_each(|shard| shard.epoch = map.epoch);
    map.recent.clear();
}

pub fn id(number: u64) -> v1::PointId {
    v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) }
}

pub fn point(number: u64, vector: &[f32]) -> v1::Point {
    let payload = [("n".to_owned(), v1::Value { kind: Some(v1::value::Kind::Integer(number.cast_signed())) })];
    v1::Point {
        id: Some(id(number)),
        vector: Some(convert::vector_to_wire(vector)),
        payload: Some(v1::Payload { fields: payload.into() }),
        version_vectors: Default::default(),
    }
}

pub fn upsert(points: Vec<v1::Point>) -> v1::UpsertRequest {
    v1::UpsertRequest { collection: "c".into(), points, timeout_ms: 0, operation_id: String::new() }
}

pub fn search(vector: &[f32], k: u32) -> v1::SearchRequest {
    v1::SearchRequest {
        collection: "c".into(),
        vector: Some(convert::vector_to_wire(vector)),
        k,
        ..v1::SearchRequest::default()
    }
}

pub fn numbers<'a>(ids: impl IntoIterator<Item = &'a Option<v1::PointId>>) -> Vec<u64> {
    let number = |id: &Option<v1::PointId>| match id.as_ref().and_then(|id| id.kind.as_ref()) {
        Some(v1::point_id::Kind::Number(number)) => *number,
        other => panic!("wanted a number, got {other:?}"),
    };
    ids.into_iter().map(number).collect()
}

/// The code and the field that a refusal names.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("it is refused");
    (status.code(), from_status(&status).field)
}
