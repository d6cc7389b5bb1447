//! Bad input gets a typed error that names the field, changes nothing, and never reaches a log.

use shoal_client::{Client, Consistency, NewCollection, SearchOptions};
use shoal_model::{Classify as _, ErrorKind, Metric, Point, PointId};
use shoal_proto::status::from_status;
use shoal_proto::v1;
use shoal_proto::v1::collections_service_client::CollectionsServiceClient;
use shoal_proto::v1::points_service_client::PointsServiceClient;
use shoal_proto::v1::search_service_client::SearchServiceClient;
use shoal_tests::{Cluster, Role, Shape};
use tonic::Status;
use tonic::transport::Channel;

const COLLECTION: &str = "careful";

fn vector(components: &[f32]) -> Option<v1::Vector> {
    let floats = v1::FloatVector { components: components.to_vec() };
    Some(v1::Vector { encoding: Some(v1::vector::Encoding::Floats(floats)) })
}

fn id(number: u64) -> Option<v1::PointId> {
    Some(v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) })
}

fn point(number: u64, components: &[f32]) -> v1::Point {
    v1::Point { id: id(number), vector: vector(components), ..Default::default() }
}

fn upsert(points: Vec<v1::Point>) -> v1::UpsertRequest {
    v1::UpsertRequest { collection: COLLECTION.into(), points, timeout_ms: 0, operation_id: String::new() }
}

fn search() -> v1::SearchRequest {
    v1::SearchRequest { collection: COLLECTION.into(), vector: vector(&[1.0, 0.0]), k: 3, ..Default::default() }
}

fn nested(depth: usize) -> v1::Filter {
    let inner = v1::Filter::default();
    (0..depth).fold(inner, |filter, _| v1::Filter {
        must: vec![v1::Condition { kind: Some(v1::condition::Kind::Filter(filter)) }],
        ..Default::default()
    })
}

fn wide(conditions: usize) -> v1::Filter {
    let one = v1::HasIdCondition { ids: vec![id(1).unwrap_or_default()] };
    let condition = v1::Condition { kind: Some(v1::condition::Kind::HasId(one)) };
    v1::Filter { should: vec![condition; conditions], ..Default::default() }
}

/// What every refusal must show: its kind, and the field it names.
fn check(name: &str, got: Result<(), Status>, kind: ErrorKind, field: &str) {
    let Err(status) = got else { panic!("{name} was accepted") };
    let error = from_status(&status);
    assert_eq!((error.kind, error.field.as_str()), (kind, field), "{name}: {status:?}");
}

async fn check_writes(channel: &Channel) {
    let mut client = PointsServiceClient::new(channel.clone());
    let text = |bytes: usize| v1::Value { kind: Some(v1::value::Kind::Text("x".repeat(bytes))) };
    let payload = |value| Some(v1::Payload { fields: [("f".to_owned(), value)].into() });
    let good = || point(1, &[1.0, 0.0]);
    let nan = v1::Value { kind: Some(v1::value::Kind::Number(f64::NAN)) };
    let long_id = v1::PointId { kind: Some(v1::point_id::Kind::Text("x".repeat(129))) };
    for (name, points, field) in [
        ("no points", vec![], "points"),
        ("a short vector", vec![good(), point(2, &[1.0])], "points[1].vector"),
        ("NaN", vec![point(1, &[f32::NAN, 0.0])], "points[0].vector[0]"),
        ("infinity", vec![point(1, &[0.0, f32::INFINITY])], "points[0].vector[1]"),
        ("1e30", vec![point(1, &[1e30, 0.0])], "points[0].vector[0]"),
        ("zero under cosine", vec![point(1, &[0.0, 0.0])], "points[0].vector"),
        ("no vector", vec![v1::Point { vector: None, ..good() }], "points[0].vector"),
        ("no id", vec![v1::Point { id: None, ..good() }], "points[0].id"),
        ("a long id", vec![v1::Point { id: Some(long_id), ..good() }], "points[0].id.text"),
        ("an id twice", vec![good(), point(2, &[1.0, 1.0]), good()], "points[2].id"),
        ("a huge payload", vec![v1::Point { payload: payload(text(1 << 21)), ..good() }], "points[0].payload"),
        ("NaN in payload", vec![v1::Point { payload: payload(nan), ..good() }], "points[0].payload.f"),
        (
            "one bad of many",
            (1..=50).map(|n| point(n, if n == 50 { &[] } else { &[1.0, 0.0] })).collect(),
            "points[49].vector",
        ),
    ] {
        let got = client.upsert(upsert(points)).await.map(drop);
        check(name, got, ErrorKind::Invalid, field);
    }
    let unknown = v1::UpsertRequest { collection: "nowhere".into(), ..upsert(vec![good()]) };
    check("an unknown collection", client.upsert(unknown).await.map(drop), ErrorKind::NotFound, "collection");
}

async fn check_searches(channel: &Channel) {
    let mut client = SearchServiceClient::new(channel.clone());
    for (name, request, field) in [
        ("k of 0", v1::SearchRequest { k: 0, ..search() }, "k"),
        ("k beyond the cap", v1::SearchRequest { k: u32::MAX, ..search() }, "k"),
        ("a long vector", v1::SearchRequest { vector: vector(&[1.0; 3]), ..search() }, "vector"),
        ("NaN", v1::SearchRequest { vector: vector(&[f32::NAN, 1.0]), ..search() }, "vector[0]"),
        ("zero", v1::SearchRequest { vector: vector(&[0.0, 0.0]), ..search() }, "vector"),
        ("a deep filter", v1::SearchRequest { filter: Some(nested(17)), ..search() }, "filter"),
        ("a wide filter", v1::SearchRequest { filter: Some(wide(1_025)), ..search() }, "filter"),
        ("a narrow beam", v1::SearchRequest { ef_search: Some(2), ..search() }, "ef_search"),
        ("a beam beyond the cap", v1::SearchRequest { ef_search: Some(u32::MAX), ..search() }, "ef_search"),
        ("recall 0", v1::SearchRequest { recall_target: Some(0.0), ..search() }, "recall_target"),
        ("coverage over 1", v1::SearchRequest { min_coverage: Some(1.5), ..search() }, "min_coverage"),
        ("coverage NaN", v1::SearchRequest { min_coverage: Some(f64::NAN), ..search() }, "min_coverage"),
        ("limit NaN", v1::SearchRequest { score_limit: Some(f32::NAN), ..search() }, "score_limit"),
    ] {
        check(name, client.search(request).await.map(drop), ErrorKind::Invalid, field);
    }
    let batch = v1::SearchBatchRequest { searches: vec![search(); 1_025] };
    check("a large batch", client.search_batch(batch).await.map(drop), ErrorKind::Invalid, "searches");
    let urgent = v1::SearchRequest { priority: v1::Priority::Batch.into(), ..search() };
    let status = client.search(urgent).await.expect_err("priorities are not served yet");
    assert_eq!(from_status(&status).kind, ErrorKind::Unimplemented);
}

async fn check_collections(channel: &Channel) {
    let mut client = CollectionsServiceClient::new(channel.clone());
    let index = |dim, metric: v1::Metric| Some(v1::IndexSpec { dim, metric: metric.into(), ..Default::default() });
    let with_graph = |graph| index(2, v1::Metric::Dot).map(|index| v1::IndexSpec { graph: Some(graph), ..index });
    let good =
        || v1::CreateCollectionRequest { name: "fresh".into(), index: index(2, v1::Metric::Dot), ..Default::default() };
    for (name, request, kind, field) in [
        ("no name", v1::CreateCollectionRequest { name: String::new(), ..good() }, ErrorKind::Invalid, "name"),
        ("a path", v1::CreateCollectionRequest { name: "../etc".into(), ..good() }, ErrorKind::Invalid, "name"),
        (
            "dim 0",
            v1::CreateCollectionRequest { index: index(0, v1::Metric::Dot), ..good() },
            ErrorKind::Invalid,
            "index.dim",
        ),
        (
            "no metric",
            v1::CreateCollectionRequest { index: index(2, v1::Metric::Unspecified), ..good() },
            ErrorKind::Invalid,
            "index.metric",
        ),
        (
            "another degree",
            v1::CreateCollectionRequest { index: with_graph(v1::GraphParams { m: 8, ..Default::default() }), ..good() },
            ErrorKind::Invalid,
            "index.graph.m",
        ),
        (
            "a wide beam",
            v1::CreateCollectionRequest {
                index: with_graph(v1::GraphParams { ef_construction: 1 << 20, ..Default::default() }),
                ..good()
            },
            ErrorKind::Invalid,
            "index.graph.ef_construction",
        ),
        ("many shards", v1::CreateCollectionRequest { shards: 99_999, ..good() }, ErrorKind::Invalid, "shards"),
        (
            "a taken name",
            v1::CreateCollectionRequest { name: COLLECTION.into(), ..good() },
            ErrorKind::AlreadyExists,
            "",
        ),
    ] {
        check(name, client.create_collection(request).await.map(drop), kind, field);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_names_its_field_and_changes_nothing() {
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 1, routers: 1 });
    let endpoint = cluster.address(Role::Router(0));
    let client = Client::connect(&[&endpoint]).expect("an endpoint");
    client.create_collection(NewCollection::new(COLLECTION, 2, Metric::Cosine)).await.expect("created");
    let known = Point { id: PointId::Number(1), vector: vec![0.0, 1.0], payload: [].into() };
    client.upsert(COLLECTION, vec![known]).await.expect("written");
    let options = SearchOptions { consistency: Consistency::Linearizable, ..SearchOptions::default() };
    let before = client.search(COLLECTION, &[1.0, 1.0], &options).await.expect("answered");

    let channel = Channel::from_shared(endpoint).expect("an address").connect().await.expect("the router listens");
    check_writes(&channel).await;
    check_searches(&channel).await;
    check_collections(&channel).await;

    let after = client.search(COLLECTION, &[1.0, 1.0], &options).await.expect("answered");
    assert_eq!(after.hits, before.hits, "nothing was written");
    assert_eq!(after.info.token, before.info.token, "the log has not moved");
    assert_eq!(after.info.epoch, before.info.epoch, "the map has not moved");
    let missing = client.search("nowhere", &[1.0], &options).await.expect_err("there is no such collection");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    cluster.stop();
}
