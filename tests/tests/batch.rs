//! Several searches in one call, through real processes.

use std::time::Duration;

use shoal_client::{BatchSearch, Client, NewCollection, SearchOptions};
use shoal_model::{Classify as _, ErrorKind, Metric, Point, PointId};
use shoal_tests::{Cluster, Role, Shape};

/// A point on a spiral: no two are equally near to anything.
fn point(number: u32) -> Point {
    let turn = number as f32 * 0.7;
    Point {
        id: PointId::Number(number.into()),
        vector: vec![turn.cos() * (1.0 + number as f32), turn.sin() * (1.0 + number as f32)],
        payload: [].into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_answered_as_its_searches_are() {
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 2, routers: 1 });
    let client = Client::connect(&[cluster.address(Role::Router(0))]).expect("an endpoint");
    for (name, metric) in [("a", Metric::Euclidean), ("b", Metric::Dot)] {
        let new = NewCollection { shards: 3, ..NewCollection::new(name, 2, metric) };
        client.create_collection(new).await.expect("created");
        client.upsert(name, (0..200).map(point).collect()).await.expect("written");
    }
    let vectors: Vec<Vec<f32>> = (0..100).map(|number| point(number).vector).collect();
    let options = [3, 7].map(|k| SearchOptions { k, with_vectors: true, ..SearchOptions::default() });
    let searches: Vec<BatchSearch<'_>> = vectors
        .iter()
        .enumerate()
        .map(|(i, vector)| BatchSearch { collection: ["a", "b"][i % 2], vector, options: &options[i / 2 % 2] })
        .collect();
    let answers = client.search_batch(&searches).await.expect("served");
    assert_eq!(answers.len(), searches.len());
    for (search, answer) in searches.iter().zip(answers) {
        let answer = answer.unwrap_or_else(|error| panic!("{search:?}: {error}"));
        let alone = client.search(search.collection, search.vector, search.options).await.expect("served");
        assert_eq!(answer.hits, alone.hits, "{search:?}");
        assert!(answer.info.coverage.is_full() && answer.info.timings.total_us > 0, "{search:?}: {:?}", answer.info);
    }

    let bad = BatchSearch { collection: "nowhere", ..searches[0] };
    let answers = client.search_batch(&[searches[0], bad, searches[1]]).await.expect("served");
    let told: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map(|_| ()).map_err(|e| (e.kind(), e.field()))).collect();
    assert_eq!(told, [Ok(()), Err((ErrorKind::NotFound, "collection")), Ok(())]);
    cluster.stop();
}

#[test]
fn eval_asks_in_batches_and_with_several_efforts() {
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 1, routers: 1 });
    let Some(folder) = shoal_tests::data_set("sift-5k") else { return cluster.stop() };
    let file = |name: &str| folder.join(name).display().to_string();
    let within = Duration::from_secs(120);
    let base = file("base.npy");
    let done = cluster.shoal(&["import", "sift", &base, "--create", "--metric", "euclidean", "--seed", "7"], within);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (queries, truth, distances) = (file("queries.npy"), file("truth_ids.npy"), file("truth_dist.npy"));
    let eval = ["eval", "sift", "--queries", &queries, "--truth", &truth, "--truth-dist", &distances];
    let efforts = ["-o", "json", "--batch", "16", "--recall-target", "0.9", "--ef-search", "16,64", "--exact"];
    let done = cluster.shoal(&[&eval[..], &efforts[..]].concat(), within);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON on standard output");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 4, "a row for each effort: {report}");
    assert_eq!((&rows[0]["recall_target"], &rows[2]["ef_search"]), (&0.9.into(), &64.into()), "{report}");
    assert!(rows.iter().all(|row| row["qps"].as_f64() > Some(0.0)), "{report}");
    assert_eq!(
        (&rows[3]["exact"], &rows[3]["recall"]),
        (&true.into(), &1.0.into()),
        "exact search misses none: {report}"
    );
    let described = cluster.shoal(&["collection", "describe", "sift", "-o", "json"], within);
    let described: serde_json::Value = serde_json::from_str(&described.stdout).expect("JSON on standard output");
    assert_eq!(described["graph"]["seed"], 7, "{described}");
    cluster.stop();
}
