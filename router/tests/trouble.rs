//! What clients get from a router while something is wrong: as little of it as possible, and the truth about the rest.

mod fakes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use fakes::{
    FakeCoordinator, FakeNode, PATIENCE, Rig, Trouble, channel, id, map, place, refusal, search, start_router, touch,
    upsert,
};
use shoal_model::{ClusterId, ClusterMap, ErrorKind, NodeId};
use shoal_proto::internal::v1::ShardFailureKind as Kind;
use shoal_proto::recipient::Recipient;
use shoal_proto::v1;
use shoal_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Where nothing listens.
const DEAD: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn a_stale_epoch_is_invisible_to_the_client() {
    let rig = Rig::start(2, 4).await;
    rig.fill(20).await;
    let mut newer = rig.coordinator.shown.borrow().clone();
    touch(&mut newer);
    rig.nodes.iter().for_each(|node| node.follow(&newer));
    let before = rig.nodes[0].calls().len();
    let searching = tokio::spawn({
        let mut searches = rig.searches();
        async move { searches.search(search(&[1.0, 0.0], 5)).await }
    });
    until(|| rig.nodes[0].calls().len() > before).await;
    rig.coordinator.shown.send_replace(newer.clone());
    let found = timeout(PATIENCE, searching).await.expect("in time").expect("no panic").expect("served").into_inner();
    assert_eq!(found.hits.len(), 5);
    let info = found.info.expect("always there");
    assert_eq!((info.coverage.map(|c| c.shards_answered), info.epoch), (Some(4), newer.epoch.0));
    assert!(rig.metrics().contains(r#"shard_retries_total{reason="stale_epoch"}"#), "{}", rig.metrics());
    rig.fill(20).await;
}

#[tokio::test]
async fn passing_failures_are_invisible_to_the_client() {
    for trouble in [
        Trouble::Shards(Kind::NotReady),
        Trouble::Shards(Kind::StaleEpoch),
        Trouble::Call(ErrorKind::Unavailable),
        Trouble::Call(ErrorKind::NotLeader),
    ] {
        let rig = Rig::start(2, 2).await;
        rig.fill(10).await;
        rig.nodes[0].next(trouble);
        rig.nodes[0].next(trouble);
        let found = rig.searches().search(search(&[1.0, 0.0], 10)).await;
        assert_eq!(found.unwrap_or_else(|status| panic!("{trouble:?}: {status}")).into_inner().hits.len(), 10);
        rig.nodes[0].next(trouble);
        rig.fill(10).await;
    }
}

#[tokio::test]
async fn a_node_may_be_down_and_come_back_within_the_deadline() {
    let (up, down) = (FakeNode::start().await, FakeNode::down());
    let map = map(&[up.address.clone(), down.address.clone()], 2);
    up.follow(&map);
    down.follow(&map);
    let coordinator = FakeCoordinator::start(map).await;
    let (router, registry) = start_router(vec![coordinator.address.clone()], |_| {}).await;
    let rig = Rig { coordinator, nodes: vec![up, down], router, registry };
    let writing = tokio::spawn({
        let mut points = rig.points();
        async move { points.upsert(upsert((0..10).map(|n| fakes::point(n, &[1.0, 1.0])).collect())).await }
    });
    until(|| rig.metrics().contains(r#"node_calls_total{result="unreachable"}"#)).await;
    rig.nodes[1].come_back();
    timeout(PATIENCE, writing).await.expect("in time").expect("no panic").expect("the write waits for the node");
    let count = v1::CountRequest { collection: "c".into(), ..Default::default() };
    assert_eq!(rig.points().count(count).await.expect("served").into_inner().count, 10);
}

#[tokio::test]
async fn a_stopped_node_holds_nobody_up_for_long() {
    let (up, stopped) = (FakeNode::start().await, FakeNode::stopped().await);
    let mut map = map(&[stopped.address.clone(), up.address.clone()], 1);
    let replicas: Vec<_> = map.nodes.keys().copied().collect();
    place(&mut map, "two", vec![replicas; 2]);
    up.follow(&map);
    stopped.follow(&map);
    let coordinator = FakeCoordinator::start(map).await;
    let (router, registry) = start_router(vec![coordinator.address.clone()], |_| {}).await;
    let rig = Rig { coordinator, nodes: vec![stopped, up], router, registry };
    let search = || v1::SearchRequest { collection: "two".into(), timeout_ms: 5_000, ..search(&[1.0, 0.0], 10) };
    let mut write = upsert((0..10).map(|n| fakes::point(n, &[1.0, 1.0])).collect());
    write.collection = "two".into();
    write.timeout_ms = 5_000;
    rig.points().upsert(write).await.expect("the replica that is taken for the leader is stopped, the other is not");
    assert!(rig.metrics().contains(r#"shard_retries_total{reason="silent"}"#), "{}", rig.metrics());
    let began = Instant::now();
    for _ in 0..50 {
        let found = rig.searches().search(search()).await.expect("one replica is there").into_inner();
        assert_eq!(found.hits.len(), 10);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "50 searches took {:?}; who is silent is known", began.elapsed());
    rig.nodes[0].go_on();
    let asked = async {
        while rig.nodes[0].calls().is_empty() {
            rig.searches().search(search()).await.expect("both are there");
        }
    };
    timeout(PATIENCE, asked).await.expect("a node that goes on is asked again");
}

#[tokio::test]
async fn a_new_node_at_the_address_of_a_lost_one_is_not_taken_for_it() {
    for knows_itself in [true, false] {
        let me = Recipient { cluster: ClusterId(7), node: NodeId(3) };
        let other = FakeNode::start().await;
        let new = if knows_itself { FakeNode::start_as(me).await } else { FakeNode::start().await };
        // Node 1, which is lost, was where node 3 is now.
        let mut map = map(&[new.address.clone(), other.address.clone(), new.address.clone()], 1);
        place(&mut map, "two", vec![vec![NodeId(1), NodeId(2)]; 2]);
        other.follow(&map);
        let coordinator = FakeCoordinator::start(map).await;
        let (router, registry) = start_router(vec![coordinator.address.clone()], |_| {}).await;
        let rig = Rig { coordinator, nodes: vec![new, other], router, registry };
        let mut write = upsert((0..10).map(|n| fakes::point(n, &[1.0, 1.0])).collect());
        write.collection = "two".into();
        let began = Instant::now();
        rig.points().upsert(write).await.expect("node 2 is there");
        for _ in 0..20 {
            assert_eq!(linearizable_count(&rig, "two").await.expect("node 2 is there"), 10);
        }
        assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
        assert_eq!(rig.nodes[0].calls().is_empty(), knows_itself, "a node that knows itself takes no call for another");
    }
}

#[tokio::test]
async fn nodes_that_have_exchanged_their_addresses_do_not_answer_for_each_other() {
    let me = |node| Recipient { cluster: ClusterId(7), node: NodeId(node) };
    let (first, second) = (FakeNode::start_as(me(1)).await, FakeNode::start_as(me(2)).await);
    let before = map(&[second.address.clone(), first.address.clone()], 1);
    let after = ClusterMap { epoch: before.epoch.next(), ..map(&[first.address.clone(), second.address.clone()], 1) };
    // Both know the shard, as replicas do: a call that goes astray would be answered.
    first.follow(&before);
    second.follow(&before);
    let coordinator = FakeCoordinator::start(before).await;
    let (router, registry) = start_router(vec![coordinator.address.clone()], |_| {}).await;
    let rig = Rig { coordinator, nodes: vec![first, second], router, registry };
    let status = linearizable_count(&rig, "c").await.expect_err("node 1 is not where the map says");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("node 1: at this address is node 2"), "{status}");
    assert!(rig.nodes.iter().all(|node| node.calls().is_empty()), "nobody has taken a call for the other");
    rig.coordinator.shown.send_replace(after);
    let counted = async { while linearizable_count(&rig, "c").await.is_err() {} };
    timeout(PATIENCE, counted).await.expect("it is called where it is now");
    assert!(!rig.nodes[0].calls().is_empty());
}

#[tokio::test]
async fn a_session_waits_once_for_a_replica_that_lags() {
    let nodes = vec![FakeNode::start().await, FakeNode::start().await];
    let mut map = map(&[nodes[0].address.clone(), nodes[1].address.clone()], 1);
    place(&mut map, "two", vec![vec![NodeId(1), NodeId(2)]; 2]);
    nodes.iter().for_each(|node| node.follow(&map));
    let coordinator = FakeCoordinator::start(map).await;
    let (router, registry) = start_router(vec![coordinator.address.clone()], |_| {}).await;
    let rig = Rig { coordinator, nodes, router, registry };
    rig.nodes[0].always(Trouble::Shards(Kind::NotReady));
    let mut write = upsert((0..10).map(|n| fakes::point(n, &[1.0, 1.0])).collect());
    write.collection = "two".into();
    let token = rig.points().upsert(write).await.expect("node 2 is there").into_inner().token;
    let before = rig.nodes[0].calls().len();
    for _ in 0..50 {
        let consistency = Some(v1::Consistency { tokens: vec![token.clone()], ..Default::default() });
        let count = v1::CountRequest { collection: "two".into(), consistency, ..Default::default() };
        assert_eq!(rig.points().count(count).await.expect("node 2 is there").into_inner().count, 10);
    }
    assert_eq!(rig.nodes[0].calls().len() - before, 1, "that it lags is known then");
}

async fn linearizable_count(rig: &Rig, collection: &str) -> Result<u64, tonic::Status> {
    let level = v1::ConsistencyLevel::Linearizable.into();
    let consistency = Some(v1::Consistency { level, ..Default::default() });
    let count = v1::CountRequest { collection: collection.into(), consistency, ..Default::default() };
    Ok(rig.points().count(count).await?.into_inner().count)
}

#[tokio::test]
async fn coverage_decides_between_a_partial_answer_and_an_error() {
    for (trouble, code) in [
        (Trouble::Call(ErrorKind::Unavailable), Code::Unavailable),
        (Trouble::Shards(Kind::NotReady), Code::Unavailable),
        (Trouble::Shards(Kind::Overloaded), Code::ResourceExhausted),
        (Trouble::Shards(Kind::DiskFull), Code::ResourceExhausted),
        (Trouble::Shards(Kind::Internal), Code::Internal),
        (Trouble::Silence, Code::DeadlineExceeded),
    ] {
        let rig = Rig::start(2, 4).await;
        rig.fill(20).await;
        rig.nodes[1].always(trouble);
        let request = |min_coverage| v1::SearchRequest { min_coverage, timeout_ms: 400, ..search(&[1.0, 0.0], 20) };
        for strict in [None, Some(1.0), Some(0.51)] {
            let status = rig.searches().search(request(strict)).await.expect_err("half of the shards are silent");
            assert_eq!(status.code(), code, "{trouble:?} {strict:?}: {status}");
            assert!(status.message().contains("of 4 shards answered"), "{status}");
        }
        let found = rig.searches().search(request(Some(0.5))).await;
        let found = found.unwrap_or_else(|status| panic!("{trouble:?}: {status}")).into_inner();
        let coverage = found.info.and_then(|info| info.coverage).expect("always there");
        assert_eq!((coverage.shards_asked, coverage.shards_answered, coverage.gaps.len()), (4, 2, 2), "{trouble:?}");
        assert!(coverage.gaps.iter().all(|gap| !gap.reason.is_empty()), "gaps have reasons: {coverage:?}");
        assert!(!found.hits.is_empty());
        assert!(rig.metrics().contains("shoal_router_partial_answers_total 1"));
    }
}

#[tokio::test]
async fn a_node_that_finds_fault_with_a_request_ends_it() {
    let rig = Rig::start(2, 2).await;
    rig.nodes[0].always(Trouble::Shards(Kind::Invalid));
    let status = rig.searches().search(search(&[1.0, 0.0], 1)).await.expect_err("refused");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "on purpose"));
    let status = rig.points().upsert(upsert((0..10).map(|n| fakes::point(n, &[1.0, 1.0])).collect())).await;
    assert_eq!(status.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_write_that_fails_on_one_shard_is_an_error_that_says_so() {
    let rig = Rig::start(2, 2).await;
    rig.nodes[0].always(Trouble::Shards(Kind::Overloaded));
    let points = (0..20).map(|n| fakes::point(n, &[1.0, 1.0])).collect();
    let status = rig.points().upsert(upsert(points)).await.expect_err("one shard pushes back");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("repeating the whole batch is safe"), "{status}");
}

#[tokio::test]
async fn calls_for_coordinators_go_to_one_that_lives() {
    let node = FakeNode::start().await;
    let alive = FakeCoordinator::start(map(std::slice::from_ref(&node.address), 1)).await;
    let (router, _registry) = start_router(vec![DEAD.into(), alive.address.clone()], |_| {}).await;
    let status = ClusterServiceClient::new(channel(&router)).get_status(v1::GetStatusRequest {}).await;
    assert_eq!(status.expect("served").into_inner().epoch, alive.shown.borrow().epoch.0);
}

#[tokio::test]
async fn without_any_coordinator_calls_fail_in_time() {
    let (router, _registry) = start_router(vec![DEAD.into()], |config| config.limits.timeout_ms_default = 300).await;
    let mut cluster = ClusterServiceClient::new(channel(&router));
    let status = timeout(PATIENCE, cluster.get_status(v1::GetStatusRequest {})).await.expect("in time");
    let status = status.expect_err("nobody to ask");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&format!("{DEAD} was asked last: ")), "it says who cannot be reached: {status}");
    let mut searches = v1::search_service_client::SearchServiceClient::new(channel(&router));
    let status = timeout(PATIENCE, searches.search(search(&[1.0, 0.0], 1))).await.expect("in time");
    let status = status.expect_err("no map");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(DEAD), "it says who should have it: {status}");
}

#[tokio::test]
async fn a_caller_sees_the_collections_it_has_just_made_and_removed() {
    let rig = Rig::start(2, 2).await;
    let graph =
        v1::GraphParams { ef_construction: 64, quantization: v1::Quantization::Int8.into(), ..Default::default() };
    let index = Some(v1::IndexSpec { dim: 2, graph: Some(graph), ..Default::default() });
    let create = v1::CreateCollectionRequest { name: "new".into(), index: index.clone(), ..Default::default() };
    let created = rig.collections().create_collection(create).await.expect("served").into_inner().collection;
    assert_eq!(created.and_then(|collection| collection.index), index, "the coordinator is told all of it");
    rig.nodes.iter().for_each(|node| node.follow(&rig.coordinator.shown.borrow()));
    let count = v1::CountRequest { collection: "new".into(), ..Default::default() };
    rig.points().count(count.clone()).await.expect("the map shows it");
    assert_eq!(rig.coordinator.lookups.load(Ordering::Relaxed), 0, "the coordinators need not be asked");
    rig.collections()
        .delete_collection(v1::DeleteCollectionRequest { name: "new".into(), ..Default::default() })
        .await
        .expect("served");
    assert_eq!(refusal(rig.points().count(count).await), (Code::NotFound, "collection".into()));
}

#[tokio::test]
async fn a_collection_that_the_map_does_not_show_yet_is_waited_for() {
    let rig = Rig::start(1, 1).await;
    rig.fill(1).await;
    let mut newer = rig.coordinator.shown.borrow().clone();
    fakes::create(&mut newer, "new", 1);
    newer.recent.clear();
    rig.nodes[0].follow(&newer);
    rig.coordinator.known.send_replace(Some(newer.clone()));
    let counting = tokio::spawn({
        let mut points = rig.points();
        async move { points.count(v1::CountRequest { collection: "new".into(), ..Default::default() }).await }
    });
    until(|| rig.coordinator.lookups.load(Ordering::Relaxed) > 0).await;
    rig.coordinator.shown.send_replace(newer);
    timeout(PATIENCE, counting).await.expect("in time").expect("no panic").expect("found");
}

#[tokio::test]
async fn a_flood_of_unknown_names_spares_the_coordinators() {
    let rig = Rig::start(1, 1).await;
    rig.fill(1).await;
    let began = std::time::Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..200 {
        let mut points = rig.points();
        flood.spawn(async move {
            points.count(v1::CountRequest { collection: format!("x{n}"), ..Default::default() }).await
        });
    }
    let mut refused = 0;
    while let Some(result) = flood.join_next().await {
        let code = result.expect("no panic").expect_err("there is no such collection").code();
        assert!(matches!(code, Code::NotFound | Code::ResourceExhausted), "{code:?}");
        refused += usize::from(code == Code::ResourceExhausted);
    }
    let asked = rig.coordinator.lookups.load(Ordering::Relaxed);
    assert_eq!(asked + refused, 200, "who is not refused is looked up");
    let most = began.elapsed().as_millis() / 10 + 1;
    assert!(asked as u128 <= most, "the coordinators were asked {asked} times, {most} are allowed by now");
}

#[tokio::test]
async fn one_request_too_many_is_pushed_back() {
    let rig = Rig::with(1, 1, |config| config.in_flight_max = 1).await;
    rig.fill(1).await;
    rig.nodes[0].always(Trouble::Silence);
    let before = rig.nodes[0].calls().len();
    let hanging = tokio::spawn({
        let mut searches = rig.searches();
        async move { searches.search(search(&[1.0, 0.0], 1)).await }
    });
    until(|| rig.nodes[0].calls().len() > before).await;
    let status =
        rig.points().get(v1::GetRequest { collection: "c".into(), ids: vec![id(1)], ..Default::default() }).await;
    assert_eq!(status.expect_err("one is under way").code(), Code::ResourceExhausted);
    hanging.abort();
    assert!(hanging.await.is_err_and(|error| error.is_cancelled()));
    until(|| rig.metrics().contains("shoal_router_in_flight 0")).await;
    assert!(rig.metrics().contains(r#"requests_total{method="search",result="CANCELLED"} 1"#), "{}", rig.metrics());
}

#[tokio::test]
async fn it_is_healthy_once_it_has_a_map_and_ends_in_order() {
    let coordinator = FakeCoordinator::start(shoal_model::ClusterMap::default()).await;
    let (router, _registry) = start_router(vec![coordinator.address.clone()], |_| {}).await;
    for name in ["", "shoal.router"] {
        let mut health = HealthClient::new(channel(&router));
        let request = HealthCheckRequest { service: name.into() };
        let mut told = health.watch(request).await.expect("served").into_inner();
        let mut status = async || {
            let next = timeout(PATIENCE, told.message()).await.expect("in time").expect("no error");
            next.map(|message| message.status())
        };
        let mut first = status().await;
        if name.is_empty() {
            assert_eq!(first, Some(ServingStatus::NotServing), "no map, no service");
            coordinator.shown.send_replace(map(&[FakeNode::start().await.address], 1));
            first = status().await;
        }
        assert_eq!(first, Some(ServingStatus::Serving), "{name:?}");
    }
    timeout(PATIENCE, router.shut_down()).await.expect("in time").expect("in order");
}

/// Waits until something that must happen has happened.
async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it happens in time");
}
