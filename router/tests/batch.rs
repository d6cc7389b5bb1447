//! Several searches in one call: each is answered as if it had come alone.

mod fakes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use fakes::{PATIENCE, Rig, Trouble, numbers, refusal, search, touch};
use shoal_model::{ErrorKind, Limits};
use shoal_proto::internal::v1::ShardFailureKind as Kind;
use shoal_proto::v1;
use shoal_proto::v1::search_batch_item::Result as Found;
use tokio::time::timeout;
use tonic::{Code, Request};

fn batch(searches: Vec<v1::SearchRequest>) -> v1::SearchBatchRequest {
    v1::SearchBatchRequest { searches }
}

/// The items of a batch that is served, each an answer or the code and the field of its failure.
async fn served(rig: &Rig, searches: Vec<v1::SearchRequest>) -> Vec<Result<v1::SearchResponse, (Code, String)>> {
    let answer = timeout(PATIENCE, rig.searches().search_batch(batch(searches))).await.expect("in time");
    let item = |item: v1::SearchBatchItem| match item.result.expect("every item has a result") {
        Found::Answer(answer) => Ok(answer),
        Found::Failure(failure) => {
            assert!(!failure.message.is_empty(), "failures have reasons");
            Err((Code::from_i32(failure.code.cast_signed()), failure.field))
        }
    };
    answer.expect("the batch is served").into_inner().items.into_iter().map(item).collect()
}

fn ids(answer: &v1::SearchResponse) -> Vec<u64> {
    numbers(answer.hits.iter().map(|hit| &hit.id))
}

#[tokio::test]
async fn answers_come_in_order_and_nodes_are_called_once() {
    let rig = Rig::start(2, 4).await;
    rig.fill(50).await;
    // More than the calls that the runtime lets a task make at a time.
    let searches: Vec<_> = (0..300).map(|i| search(&[if i % 2 == 0 { 1.0 } else { -1.0 }, 0.0], 1 + i % 7)).collect();
    let items = served(&rig, searches.clone()).await;
    assert_eq!(items.len(), 300);
    for (i, (item, request)) in items.into_iter().zip(searches).enumerate() {
        let want: Vec<u64> = (0..u64::from(request.k)).map(|n| if i % 2 == 0 { 49 - n } else { n }).collect();
        let answer = item.unwrap_or_else(|failure| panic!("search {i}: {failure:?}"));
        assert_eq!(ids(&answer), want, "search {i}");
        let info = answer.info.expect("always there");
        assert_eq!(info.coverage.map(|coverage| coverage.shards_answered), Some(4), "search {i}");
        let t = info.timings.expect("always there");
        let stages = t.queue_us + t.route_us + t.wait_us + t.search_us + t.refine_us + t.merge_us;
        assert_eq!(stages, t.total_us, "search {i}: {t:?}");
    }
    for node in &rig.nodes {
        assert_eq!(node.batches(), [300], "what goes to one node travels in one call");
    }
    let metrics = rig.metrics();
    for line in [
        r#"shoal_router_requests_total{method="search_batch",result="ok"} 1"#,
        r#"shoal_router_batched_searches_total{result="ok"} 300"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing from:\n{metrics}");
    }
}

#[tokio::test]
async fn a_bad_search_fails_alone() {
    let rig = Rig::start(1, 2).await;
    rig.fill(5).await;
    let good = search(&[1.0, 0.0], 2);
    let unknown = v1::SearchRequest { collection: "other".into(), ..good.clone() };
    let items = served(
        &rig,
        vec![
            good.clone(),
            search(&[1.0], 2),
            unknown,
            search(&[1.0, 0.0], 0),
            v1::SearchRequest { timeout_ms: 1 << 30, ..good.clone() },
            v1::SearchRequest { ef_search: Some(1), ..good.clone() },
            v1::SearchRequest { priority: v1::Priority::Batch.into(), ..good.clone() },
            good,
        ],
    )
    .await;
    let told: Vec<_> =
        items.iter().map(|item| item.as_ref().map(ids).map_err(|(code, field)| (*code, &**field))).collect();
    let invalid = |field| Err((Code::InvalidArgument, field));
    let want = [
        Ok(vec![4, 3]),
        invalid("vector"),
        Err((Code::NotFound, "collection")),
        invalid("k"),
        invalid("timeout_ms"),
        invalid("ef_search"),
        Err((Code::Unimplemented, "")),
        Ok(vec![4, 3]),
    ];
    assert_eq!(told, want);
    assert_eq!(rig.nodes[0].batches(), [2], "bad searches are sent nowhere");
    assert!(rig.metrics().contains(r#"batched_searches_total{result="INVALID"} 4"#), "{}", rig.metrics());
}

#[tokio::test]
async fn a_batch_has_one_search_at_least_and_a_cap() {
    let rig = Rig::with(1, 1, |config| config.limits.batch_queries_max = 4).await;
    rig.fill(1).await;
    for count in [0, 5] {
        let searches = vec![search(&[1.0, 0.0], 1); count];
        let refused = refusal(rig.searches().search_batch(batch(searches)).await);
        assert_eq!(refused, (Code::InvalidArgument, "searches".into()), "{count} searches");
    }
    assert_eq!(served(&rig, vec![search(&[1.0, 0.0], 1); 4]).await.len(), 4);
}

#[tokio::test]
async fn a_failing_node_fails_the_searches_that_need_it() {
    for trouble in [Trouble::Shards(Kind::Overloaded), Trouble::Call(ErrorKind::Overloaded)] {
        let rig = Rig::start(2, 4).await;
        rig.fill(20).await;
        rig.nodes[1].always(trouble);
        let half = v1::SearchRequest { min_coverage: Some(0.5), ..search(&[1.0, 0.0], 20) };
        let items = served(&rig, vec![search(&[1.0, 0.0], 20), half]).await;
        let refused = items[0].as_ref().err().map(|(code, _)| *code);
        assert_eq!(refused, Some(Code::ResourceExhausted), "{trouble:?}");
        let partial = items[1].as_ref().unwrap_or_else(|failure| panic!("{trouble:?}: {failure:?}"));
        let coverage = partial.info.as_ref().and_then(|info| info.coverage.clone()).expect("always there");
        assert_eq!((coverage.shards_answered, coverage.gaps.len()), (2, 2), "{trouble:?}");
    }
}

#[tokio::test]
async fn passing_failures_are_invisible() {
    for trouble in
        [Trouble::Shards(Kind::NotReady), Trouble::Shards(Kind::StaleEpoch), Trouble::Call(ErrorKind::Unavailable)]
    {
        let rig = Rig::start(2, 2).await;
        rig.fill(10).await;
        rig.nodes[0].next(trouble);
        for (i, item) in served(&rig, vec![search(&[1.0, 0.0], 10); 3]).await.into_iter().enumerate() {
            let answer = item.unwrap_or_else(|failure| panic!("{trouble:?}, search {i}: {failure:?}"));
            assert_eq!(answer.hits.len(), 10, "{trouble:?}, search {i}");
        }
    }
}

#[tokio::test]
async fn a_newer_map_is_taken_up_by_the_whole_batch() {
    let rig = Rig::start(2, 4).await;
    rig.fill(20).await;
    let mut newer = rig.coordinator.shown.borrow().clone();
    touch(&mut newer);
    rig.nodes.iter().for_each(|node| node.follow(&newer));
    let searching = tokio::spawn({
        let mut searches = rig.searches();
        async move { searches.search_batch(batch(vec![search(&[1.0, 0.0], 5); 8])).await }
    });
    let refused = async {
        while rig.nodes.iter().any(|node| node.batches().is_empty()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("both nodes are asked");
    rig.coordinator.shown.send_replace(newer);
    let items = timeout(PATIENCE, searching).await.expect("in time").expect("no panic").expect("served").into_inner();
    let whole =
        |item: &v1::SearchBatchItem| matches!(&item.result, Some(Found::Answer(answer)) if answer.hits.len() == 5);
    assert!(items.items.len() == 8 && items.items.iter().all(whole), "{items:?}");
}

#[tokio::test]
async fn each_search_has_its_own_deadline() {
    let rig = Rig::start(1, 1).await;
    rig.fill(3).await;
    rig.nodes[0].next(Trouble::Silence);
    let hasty = v1::SearchRequest { timeout_ms: 300, ..search(&[1.0, 0.0], 3) };
    let patient = v1::SearchRequest { timeout_ms: 9_000, ..search(&[1.0, 0.0], 3) };
    let mut request = Request::new(batch(vec![hasty, patient, search(&[1.0, 0.0], 3)]));
    request.set_timeout(Duration::from_secs(15));
    let answer = timeout(PATIENCE, rig.searches().search_batch(request)).await.expect("in time").expect("served");
    let codes = answer.into_inner().items.into_iter().map(|item| match item.result.expect("always there") {
        Found::Answer(answer) => Ok(answer.hits.len()),
        Found::Failure(failure) => Err(Code::from_i32(failure.code.cast_signed())),
    });
    assert_eq!(codes.collect::<Vec<_>>(), [Err(Code::DeadlineExceeded), Ok(3), Ok(3)], "the node answers two of three");
    let told: Vec<u64> = rig.nodes[0].timeouts()[1..]
        .iter()
        .map(|told| told.trim_end_matches('u').parse().unwrap_or_else(|_| panic!("{told}")))
        .collect();
    let want = [0..300_000, 300_000..9_000_000, 9_000_000..15_000_000];
    assert!(told.len() == 3 && told.iter().zip(want).all(|(told, want)| want.contains(told)), "{told:?}");
}

#[tokio::test]
async fn an_unknown_collection_is_looked_up_once() {
    let rig = Rig::start(1, 1).await;
    rig.fill(1).await;
    let unknown = v1::SearchRequest { collection: "other".into(), ..search(&[1.0, 0.0], 1) };
    for (i, item) in served(&rig, vec![unknown; 200]).await.into_iter().enumerate() {
        assert_eq!(item.expect_err("there is none"), (Code::NotFound, "collection".into()), "search {i}");
    }
    assert_eq!(rig.coordinator.lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn answers_beyond_what_a_message_holds_are_refused() {
    let limits = Limits { message_bytes_max: 1 << 16, ..Limits::default() };
    let rig = Rig::with(1, 1, |config| config.limits = limits).await;
    rig.fill(50).await;
    let request = v1::SearchRequest { with_vectors: true, ..search(&[1.0, 0.0], 50) };
    let items = served(&rig, vec![request; 100]).await;
    let (whole, refused): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
    assert!(whole.len() > 1 && refused.len() > 1, "{} are answered, {} refused", whole.len(), refused.len());
    for item in refused {
        assert_eq!(item.expect_err("partitioned"), (Code::InvalidArgument, "k".into()));
    }
}
