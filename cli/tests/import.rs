//! What `shoal import` promises, against a router in memory: bad rows are named and those before them kept, a run
//! that was cut short continues, an outage is waited out, and exit codes tell what happened.

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use shoal_model::{Metric, PointId, Value};
use shoal_proto::v1;
use support::{FakeRouter, Run, shoal};

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("written");
        path.display().to_string()
    }

    fn state(&self) -> String {
        self.path("state.json").display().to_string()
    }
}

/// Lines of points with ids from 0 and vectors `[id + 1, 1]`; `bad` replaces the line of one row.
fn lines(count: u64, bad: Option<(u64, &str)>) -> String {
    let mut text = String::new();
    for row in 0..count {
        match bad.filter(|(number, _)| *number == row) {
            Some((_, line)) => writeln!(text, "{line}").expect("memory"),
            None => {
                writeln!(text, "{{\"id\":{row},\"vector\":[{},1],\"n\":{row}}}", row + 1).expect("memory");
            }
        }
    }
    text
}

fn numbers(ids: impl IntoIterator<Item = u64>) -> Vec<PointId> {
    ids.into_iter().map(PointId::Number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rows_arrive_with_their_payload() {
    let (files, router) = (Files::new(), FakeRouter::default());
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(1_000, None));
    let arguments =
        ["import", "c", &file, "--create", "--metric", "dot", "--batch", "64", "--state", &files.state(), "-o", "json"];
    let graph = ["--ef-construction", "64", "--quantization", "binary", "--seed", "7"];
    let (code, out, err) = shoal(&endpoint, &[&arguments[..], &graph[..]].concat()).await;
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("stdout is one JSON value");
    assert_eq!((&report["rows"], &report["rows_before"]), (&1_000.into(), &0.into()));
    let state = router.lock();
    let index = state.collection.as_ref().and_then(|collection| collection.index.clone()).expect("it was created");
    let quantization = v1::Quantization::Binary.into();
    let want = v1::GraphParams { m: 0, ef_construction: 64, quantization, seed: 7 };
    assert_eq!((index.dim, index.graph), (2, Some(want)));
    assert_eq!(state.points.len(), 1_000);
    assert_eq!(state.points[&PointId::Number(999)].payload["n"], Value::Integer(999));
    assert!(!Path::new(&files.state()).exists(), "a finished run leaves no state");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_is_named_and_the_mended_file_continues_there() {
    for (name, bad) in [
        ("not JSON", "{ torn"),
        ("too short", r#"{"id":613,"vector":[1]}"#),
        ("zero under cosine", r#"{"id":613,"vector":[0,0]}"#),
        ("infinite", r#"{"id":613,"vector":[1e39,0]}"#),
    ] {
        let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Cosine));
        let endpoint = router.start().await;
        let file = files.write("a.jsonl", lines(1_000, Some((613, bad))));
        let state = files.state();
        let arguments = ["import", "c", &file, "--batch", "50", "--state", &state];
        let (code, out, err) = shoal(&endpoint, &arguments).await;
        assert_eq!((code, out.as_str()), (1, ""), "{name}: {err}");
        assert!(err.contains("a.jsonl, row 613"), "{name}: {err}");
        assert_eq!(router.lock().points.len(), 613, "{name}: the rows before it are kept, those after are not sent");

        router.lock().sent.clear();
        files.write("a.jsonl", lines(1_000, None));
        let (code, _, err) = shoal(&endpoint, &arguments).await;
        assert_eq!(code, 0, "{name}: {err}");
        let mut sent = router.lock().sent.clone();
        sent.sort();
        assert_eq!(sent, numbers(613..1_000), "{name}: nothing is sent twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_cluster_refuses_is_named_as_well() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Dot));
    router.lock().refused = Some(PointId::Number(130));
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(300, None));
    let state = files.state();
    let arguments = ["import", "c", &file, "--batch", "100", "--concurrency", "1", "--state", &state];
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("row 130") && err.contains("payload: has 9 bytes"), "{err}");
    assert_eq!(router.lock().sent, numbers(0..130), "its batch is kept up to it");

    {
        let mut state = router.lock();
        state.refused = None;
        state.sent.clear();
    }
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(router.lock().sent, numbers(130..300), "the next run continues at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_ends_a_long_import() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Dot));
    router.lock().refused = Some(PointId::Number(15));
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(5_000, None)); // 500 batches; 2 wait and 4 are under way
    let (code, _, err) = shoal(&endpoint, &["import", "c", &file, "--batch", "10", "--state", &files.state()]).await;
    assert_eq!(code, 1, "the reader must not wait for ever for a place in the channel: {err}");
    assert!(
        err.contains("row 15") && err.contains("payload: has 9 bytes") && err.contains("at least the first 15 rows"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_long_import_which_then_continues() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Dot));
    let (endpoint, state) = (router.start().await, files.state());
    let file = files.write("a.jsonl", lines(5_000, None));
    let arguments = ["import", "c", &file, "--batch", "10", "--state", &state];
    router.lock().hang_at = Some(200);
    let run = Run::start(&endpoint, &arguments);
    router.hangs().await;
    run.signal("INT");
    router.lock().hang_at = None;
    let (code, _, err) = run.end().await;
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("interrupted") && err.contains("repeat the command"), "{err}");
    let before = router.lock().points.len();
    assert!((200..5_000).contains(&before), "{before} points: it stopped in between");

    let (code, out, err) = shoal(&endpoint, &[&arguments[..], &["--limit", "100"]].concat()).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("nothing to import") && Path::new(&state).exists(), "the mark is kept: {out}");
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("continuing behind"), "{err}");
    assert_eq!(router.lock().points.len(), 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Dot));
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(1_000, None));
    router.lock().hang_at = Some(0);
    let state = files.state();
    let arguments = ["--timeout", "1h", "import", "c", &file, "--batch", "10", "--state", &state];
    let run = Run::start(&endpoint, &arguments);
    router.hangs().await;
    // Signals that arrive together count as one: the second is sent until it has arrived.
    let (code, _, err) = run.end_signalled("INT").await;
    assert_eq!(code, 130, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Dot));
    router.lock().unavailable = 12;
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(100, None));
    let state = files.state();
    let arguments = ["--timeout", "100ms", "import", "c", &file, "--state", &state, "--give-up-after", "1m"];
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("waiting for the cluster") && err.contains("answers again"), "{err}");
    assert_eq!(router.lock().points.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_leaves_a_state_that_only_fits_what_was_sent() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(2, Metric::Dot));
    router.lock().full_at = Some(200);
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(400, None));
    let state = files.state();
    let arguments = ["import", "c", &file, "--batch", "100", "--concurrency", "1", "--state", &state];
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("disk is full") && err.contains("first 200 rows"), "{err}");

    let forget = || {
        let mut state = router.lock();
        state.full_at = None;
        state.sent.clear();
    };
    forget();
    let first_row_changed = lines(400, Some((0, r#"{"id":0,"vector":[5,5]}"#)));
    files.write("a.jsonl", first_row_changed);
    let kept = std::fs::read(&state).expect("a state");
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(router.lock().sent.len(), 400, "rows that changed are sent again, from the first one on: {err}");

    forget();
    files.write("a.jsonl", lines(400, None));
    std::fs::write(&state, &kept).expect("written");
    let (code, _, err) = shoal(&endpoint, &[&arguments[..], &["--restart"]].concat()).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(router.lock().sent.len(), 400, "--restart begins anew");

    forget();
    std::fs::write(&state, &kept).expect("written");
    if let Some(collection) = &mut router.lock().collection {
        collection.id += 1;
    }
    let (code, _, err) = shoal(&endpoint, &arguments).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(router.lock().sent.len(), 400, "a new collection of the same name holds none of the rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_floats_travel_as_such() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(4, Metric::Dot));
    let endpoint = router.start().await;
    let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 4), }";
    let header = format!("{header:<117}\n");
    let array = [b"\x93NUMPY\x01\x00", &118_u16.to_le_bytes()[..], header.as_bytes(), &[0x3c; 16]].concat();
    let file = files.write("a.npy", array);
    let docs = files.write("docs.jsonl", "{\"id\":0,\"t\":\"a\"}\n{\"id\":1,\"t\":\"b\"}\n");
    let (code, out, err) =
        shoal(&endpoint, &["import", "c", &file, "--payload", &docs, "--state", &files.state()]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("imported 2 rows into c in"), "{out}");
    let state = router.lock();
    assert!(state.halves, "16-bit vectors are sent in 2 bytes a component");
    assert_eq!(state.points[&PointId::Number(1)].payload["t"], Value::Text("b".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_happened() {
    let (files, router) = (Files::new(), FakeRouter::with_collection(3, Metric::Dot));
    let endpoint = router.start().await;
    let file = files.write("a.jsonl", lines(3, None));
    let same = files.write("same.jsonl", "{\"id\":1,\"vector\":[1,2,3]}\n");
    let config = files.write("node.toml", "listen = 7");
    let qrels = files.write("qrels.tsv", "query_id\tdoc_id\tgain\n0\t1\t1\n");
    let state = files.state();
    for (name, endpoint, arguments, want, said) in [
        ("other dimension", endpoint.as_str(), vec!["import", "c", &file, "--state", &state], 1, "takes 3"),
        ("other metric", &endpoint, vec!["import", "c", &same, "--create", "--metric", "cosine"], 1, "--metric: "),
        ("other tier", &endpoint, vec!["import", "c", &same, "--quantization", "int8"], 1, "--quantization: "),
        ("no such file", &endpoint, vec!["import", "c", "/nowhere.npy", "--state", &state], 1, "/nowhere.npy"),
        ("unknown flag", &endpoint, vec!["import", "c", &file, "--fast"], 2, "--fast"),
        ("bad endpoint", "no scheme at all", vec!["status"], 2, "error: endpoint: "),
        ("bad endpoint, not asked", "no scheme at all", vec!["completion", "bash"], 0, ""),
        ("bad endpoint, not asked", "no scheme at all", vec!["serve", "node", "--config", &config], 2, &config),
        ("filter is no JSON", &endpoint, vec!["count", "c", "--filter", "{torn"], 2, "not JSON"),
        ("vector is no JSON", &endpoint, vec!["search", "c", "--vector", "[torn"], 2, "not JSON"),
        ("searches nobody serves", &endpoint, vec!["search", "c", "--vector", "[1]"], 1, "is not a Shoal router"),
        ("eval of another dimension", &endpoint, vec!["eval", "c", "--queries", &file, "--qrels", &qrels], 1, "has 3"),
        ("nobody there", "http://127.0.0.1:1", vec!["--timeout", "200ms", "status"], 6, "shoal up"),
        ("missing point", &endpoint, vec!["get", "c", "99"], 1, "no point 99"),
        ("rm without a terminal", &endpoint, vec!["collection", "rm", "c"], 2, "--yes"),
        ("rm", &endpoint, vec!["collection", "rm", "c", "--yes"], 0, ""),
        ("gone", &endpoint, vec!["collection", "describe", "c"], 1, "shoal collection ls"),
        ("missing collection", &endpoint, vec!["import", "c", &file, "--state", &state], 1, "--create"),
    ] {
        let (code, _, err) = shoal(endpoint, &arguments).await;
        assert_eq!(code, want, "{name}: {err}");
        assert!(err.contains(said), "{name}: {err}");
    }
}
