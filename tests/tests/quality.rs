//! Answers against ground truth, through the whole cluster: import and evaluate real data sets.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Cluster, Shape, data_set};

const WITHIN: Duration = Duration::from_secs(120);

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).display().to_string()
}

fn import(cluster: &Cluster, collection: &str, folder: &Path, metric: &str, more: &[&str]) {
    let base = path(folder, "base.npy");
    let mut command = vec!["import", collection, &base, "--create", "--metric", metric, "--shards", "4"];
    command.extend(more);
    let done = cluster.shoal(&command, WITHIN);
    assert_eq!(done.code, 0, "import {collection}\n{}\n{}", done.stdout, done.stderr);
}

/// Runs `shoal eval` and returns the figures of its first row.
fn evaluate(cluster: &Cluster, collection: &str, folder: &Path, more: &[&str]) -> Value {
    let (queries, truth, distances) =
        (path(folder, "queries.npy"), path(folder, "truth_ids.npy"), path(folder, "truth_dist.npy"));
    let mut command = vec!["eval", collection, "--queries", &queries, "--truth", &truth, "--truth-dist", &distances];
    command.extend(["--k", "10", "-o", "json"]);
    command.extend(more);
    let done = cluster.shoal(&command, WITHIN);
    assert_eq!(done.code, 0, "eval {collection}\n{}\n{}", done.stdout, done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).expect("JSON on standard output");
    println!("{collection}: {report}");
    report["rows"][0].clone()
}

fn figure(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("no figure {name} in {row}"))
}

#[test]
fn sift_5k_is_searched_exactly() {
    let Some(folder) = data_set("sift-5k") else { return };
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 2, routers: 1 });
    import(&cluster, "sift", &folder, "euclidean", &[]);
    let row = evaluate(&cluster, "sift", &folder, &[]);
    assert!((figure(&row, "recall") - 1.0).abs() < 1e-9, "exact search misses a neighbour: {row}");
    cluster.stop();
}

#[test]
fn scifact_is_ranked_as_published() {
    let Some(folder) = data_set("scifact") else { return };
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 2, routers: 1 });
    let docs = path(&folder, "docs.jsonl.gz");
    import(&cluster, "scifact", &folder, "cosine", &["--payload", &docs]);
    let (qrels, ids) = (path(&folder, "qrels.tsv"), format!("{}:query_id", path(&folder, "queries.jsonl.gz")));
    let row = evaluate(&cluster, "scifact", &folder, &["--qrels", &qrels, "--query-ids", &ids, "--doc-key", "doc_id"]);
    assert!(figure(&row, "recall") >= 0.9999, "exact search misses a neighbour: {row}");
    assert!((figure(&row, "ndcg") - 0.646).abs() <= 0.001, "nDCG@10 should be 0.646: {row}");
    cluster.stop();
}
