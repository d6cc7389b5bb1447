//! What clients get from a router while nothing is wrong.

mod fakes;

use std::time::Duration;

use fakes::{Rig, id, numbers, point, refusal, search, upsert};
use shoal_model::{LogIndex, ShardId, Token};
use shoal_proto::v1;
use tonic::{Code, Request};

#[tokio::test]
async fn written_points_are_read_back_on_every_path() {
    let rig = Rig::start(2, 4).await;
    rig.fill(50).await;
    let calls: usize = rig.nodes.iter().map(|node| node.calls().len()).sum();
    assert_eq!(calls, 4, "a batch is one write to each shard");

    let found = rig.searches().search(search(&[1.0, 0.0], 3)).await.expect("served").into_inner();
    assert_eq!(numbers(found.hits.iter().map(|hit| &hit.id)), [49, 48, 47], "the nearest of all shards");
    assert!(found.hits.iter().all(|hit| hit.payload.is_some() && hit.vector.is_none()));
    assert_eq!((found.work.map(|work| work.distances), found.metric()), (Some(50), v1::Metric::Dot));
    let searches = rig.nodes.iter().map(|node| node.calls().last().map_or(0, Vec::len));
    assert_eq!(searches.collect::<Vec<_>>(), [2, 2], "one call to a node for all its shards");

    let get = v1::GetRequest { collection: "c".into(), ids: [7, 99, 3].map(id).into(), ..Default::default() };
    let got = rig.points().get(get).await.expect("served").into_inner();
    assert_eq!(numbers(got.points.iter().map(|point| &point.id)), [7, 3], "what exists, in the order asked for");

    let count = v1::CountRequest { collection: "c".into(), ..Default::default() };
    assert_eq!(rig.points().count(count).await.expect("served").into_inner().count, 50);

    let remove = v1::DeleteRequest { collection: "c".into(), ids: (0..45).map(id).collect(), ..Default::default() };
    rig.points().delete(remove).await.expect("served");
    let found = rig.searches().search(search(&[1.0, 0.0], 10)).await.expect("served").into_inner();
    assert_eq!(found.hits.len(), 5, "removed points are gone");
}

#[tokio::test]
async fn a_scroll_passes_every_point_once_in_order() {
    let rig = Rig::start(2, 4).await;
    rig.fill(25).await;
    let mut request = v1::ScrollRequest { collection: "c".into(), limit: 10, ..Default::default() };
    let mut seen = Vec::new();
    for (page, want) in [(1, 10), (2, 10), (3, 5)] {
        let got = rig.points().scroll(request.clone()).await.expect("served").into_inner();
        assert_eq!(got.points.len(), want, "page {page}");
        assert_eq!(got.next_after.is_some(), page < 3, "page {page} says whether there are more");
        seen.extend(numbers(got.points.iter().map(|point| &point.id)));
        request.after = got.next_after;
    }
    assert_eq!(seen, (0..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_answer_says_what_it_rests_on() {
    let rig = Rig::start(2, 4).await;
    let written = rig.fill(8).await;
    let mut request = search(&[1.0, 0.0], 3);
    let mut seen = Token::decode(&written.token).expect("a token");
    seen.raise(ShardId(1_000), LogIndex(5));
    request.consistency = Some(v1::Consistency { tokens: vec![seen.encode().into()], ..Default::default() });
    let info = rig.searches().search(request).await.expect("served").into_inner().info.expect("always there");

    let coverage = info.coverage.expect("always there");
    assert_eq!((coverage.shards_asked, coverage.shards_answered, coverage.gaps.len()), (4, 4, 0));
    assert_eq!((info.index_version, info.epoch), (1, rig.coordinator.shown.borrow().epoch.0));
    let token = Token::decode(&info.token).expect("a token");
    assert_eq!(token.clone().merge(&seen), token, "the answer's token covers the caller's");

    let t = info.timings.expect("always there");
    let stages = t.queue_us + t.route_us + t.wait_us + t.search_us + t.refine_us + t.merge_us;
    assert_eq!(stages, t.total_us, "stages sum to the total, whatever a node's clock says: {t:?}");

    for node in &rig.nodes {
        for target in node.calls().last().expect("it was searched") {
            assert_eq!(target.applied_index_min, seen.index_of(ShardId(target.shard_id)).0, "nodes wait for the token");
        }
    }
}

#[tokio::test]
async fn wanted_effort_reaches_the_nodes_and_their_work_is_summed() {
    let rig = Rig::start(2, 4).await;
    rig.fill(8).await;
    let plain = search(&[1.0, 0.0], 3);
    for (name, request, hops) in [
        ("default", plain.clone(), 20),
        ("a beam", v1::SearchRequest { ef_search: Some(16), ..plain.clone() }, 32),
        ("exact", v1::SearchRequest { exact: true, ef_search: Some(16), ..plain }, 0),
    ] {
        let found = rig.searches().search(request).await.expect("served").into_inner();
        let work = found.work.expect("always there");
        assert_eq!((work.hops, work.distances), (hops, 8), "{name}: over two nodes");
    }
}

#[tokio::test]
async fn deadlines_travel_and_shrink() {
    let rig = Rig::start(1, 1).await;
    rig.fill(1).await;
    for (name, timeout_ms, header) in
        [("named", 9_000, None), ("of gRPC", 0, Some(9_000)), ("the shorter", 20_000, Some(9_000))]
    {
        let mut request = Request::new(v1::SearchRequest { timeout_ms, ..search(&[1.0, 0.0], 1) });
        if let Some(header) = header {
            request.set_timeout(Duration::from_millis(header));
        }
        rig.searches().search(request).await.expect("served");
        let told = rig.nodes[0].timeouts().pop().expect("it was searched");
        let micros: u64 = told.trim_end_matches('u').parse().unwrap_or_else(|_| panic!("{name}: {told}"));
        assert!(micros < 9_000_000, "{name}: the node has less than the router had, got {told}");
    }
}

#[tokio::test]
async fn what_is_not_served_yet_says_so() {
    let rig = Rig::start(1, 1).await;
    let vectors = [(2, v1::Vector::default())].into();
    let candidate = v1::Point { version_vectors: vectors, ..point(1, &[1.0, 1.0]) };
    let by_filter = v1::DeleteRequest {
        collection: "c".into(),
        filter: Some(v1::Filter::default()),
        ..v1::DeleteRequest::default()
    };
    let urgent = v1::SearchRequest { priority: v1::Priority::Batch.into(), ..search(&[1.0, 1.0], 1) };
    for (name, status) in [
        ("points[0].version_vectors", rig.points().upsert(upsert(vec![candidate])).await.err()),
        ("filter", rig.points().delete(by_filter).await.err()),
        ("priority", rig.searches().search(urgent).await.err()),
        ("SetPayload", rig.points().set_payload(v1::SetPayloadRequest::default()).await.err()),
        (
            "CreateIndexVersion",
            rig.collections().create_index_version(v1::CreateIndexVersionRequest::default()).await.err(),
        ),
    ] {
        let status = status.unwrap_or_else(|| panic!("{name} was served"));
        assert_eq!(status.code(), Code::Unimplemented, "{name}: {status}");
        assert!(status.message().starts_with(name), "{name}: {status}");
    }
    assert!(rig.nodes[0].calls().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn every_request_is_counted() {
    let rig = Rig::start(1, 1).await;
    rig.fill(1).await;
    assert_eq!(refusal(rig.searches().search(search(&[1.0], 1)).await).0, Code::InvalidArgument);
    let metrics = rig.metrics();
    for line in [
        r#"shoal_router_requests_total{method="upsert",result="ok"} 1"#,
        r#"shoal_router_requests_total{method="search",result="INVALID"} 1"#,
        r#"shoal_router_node_calls_total{result="ok"} 1"#,
        "shoal_router_in_flight 0",
        "shoal_router_map_epoch 3",
    ] {
        assert!(metrics.contains(line), "{line} is missing from:\n{metrics}");
    }
}
