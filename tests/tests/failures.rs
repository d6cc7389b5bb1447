//! What clients may rely on while processes are killed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_client::{Client, Consistency, NewCollection, ScrollOptions, SearchOptions};
use shoal_model::{Filter, Metric, Payload, Point, PointId, Value};
use shoal_tests::{Cluster, Process, Role, Shape};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const ROWS: u64 = 60_000;
const DIM: usize = 8;
const KILLS: u32 = 20;
/// Rows that are written between two kills, so that these fall into all of the import.
const ROWS_BETWEEN: u64 = 2_000;

fn vector_of(row: u64) -> Vec<f32> {
    #[allow(clippy::cast_precision_loss, reason = "any number derived from the row will do")]
    (0..DIM as u64).map(|i| ((row * 31 + i * 7) % 1009) as f32).collect()
}

fn payload_of(row: u64) -> Payload {
    let text = Value::Text(format!("row {row} of {ROWS}"));
    [("text".to_owned(), text), ("even".to_owned(), Value::Bool(row.is_multiple_of(2)))].into()
}

fn write_rows(path: &Path) {
    let mut text = String::new();
    for row in 0..ROWS {
        let vector: Vec<String> = vector_of(row).iter().map(ToString::to_string).collect();
        let (vector, even) = (vector.join(","), row % 2 == 0);
        writeln!(text, r#"{{"id":{row},"vector":[{vector}],"text":"row {row} of {ROWS}","even":{even}}}"#)
            .expect("text can be written to");
    }
    std::fs::write(path, text).expect("the temporary folder is writable");
}

async fn count(client: &Client) -> u64 {
    client.count("rows", &Filter::default(), &Consistency::default()).await.expect("the cluster counts")
}

/// Reads every point back and compares it with what was sent.
async fn check_rows(client: &Client) {
    let mut missing: BTreeSet<u64> = (0..ROWS).collect();
    let mut options = ScrollOptions { limit: 2_000, ..ScrollOptions::default() };
    options.read.with_vectors = true;
    loop {
        let page = client.scroll("rows", &options).await.expect("the cluster reads");
        for record in page.records {
            let PointId::Number(row) = record.id else { panic!("{} was never sent", record.id) };
            assert!(missing.remove(&row), "row {row} came twice, or was never sent");
            assert_eq!(record.vector, Some(vector_of(row)), "row {row} has its vector");
            assert_eq!(record.payload, payload_of(row), "row {row} has its payload");
        }
        match page.next_after {
            Some(after) => options.after = Some(after),
            None => break,
        }
    }
    assert!(missing.is_empty(), "{} acknowledged rows are lost, such as {:?}", missing.len(), missing.first());
}

#[test]
fn no_acknowledged_row_is_lost_when_processes_are_killed() {
    let seed: u64 = std::env::var("SHOAL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}; replay with SHOAL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 3, nodes: 3, routers: 1 });
    let file = cluster.folder().join("rows.jsonl");
    write_rows(&file);

    let endpoint = cluster.address(Role::Router(0));
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    let client = client.with_timeout(Duration::from_secs(50));
    let new = NewCollection { shards: 6, ..NewCollection::new("rows", 8, Metric::Euclidean) };
    runtime.block_on(client.create_collection(new)).expect("created");

    // Small batches, one at a time, so that the import outlasts the kills.
    let file = file.display().to_string();
    let state = cluster.folder().join("state").display().to_string();
    let arguments =
        ["--endpoint", &endpoint, "import", "rows", &file, "--batch", "8", "--concurrency", "1", "--state", &state];
    let mut importer = Process::start("importer", &arguments, &[]);

    let victims = [0, 1, 2].map(Role::Coordinator).into_iter().chain([0, 1, 2].map(Role::Node)).collect::<Vec<_>>();
    let mut before = 0;
    for kill in 1..=KILLS {
        let victim = victims[random.random_range(0..victims.len())];
        cluster.kill(victim);
        cluster.launch(victim);
        cluster.wait_ready(victim);
        // Every shard answers and the importer has gone on, unhelped: then the next.
        let now = loop {
            let now = runtime.block_on(count(&client));
            if now >= before + ROWS_BETWEEN || now == ROWS {
                break now;
            }
        };
        println!("kill {kill}: {victim:?}, then {now} rows");
        assert!(now < ROWS || kill == KILLS, "the import ended before the kills did: make it longer");
        before = now;
    }
    let status = importer.wait(Duration::from_secs(300));
    assert!(status.success(), "the importer needed a hand: {status}");
    runtime.block_on(check_rows(&client));
    cluster.stop();
}

#[test]
fn searches_do_not_notice_that_the_coordinators_lose_their_leader() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 3, nodes: 1, routers: 1 });
    let endpoint = cluster.address(Role::Router(0));
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    runtime.block_on(async {
        client.create_collection(NewCollection::new("rows", 8, Metric::Euclidean)).await.expect("created");
        let point = |row| Point { id: PointId::Number(row), vector: vector_of(row), payload: payload_of(row) };
        client.upsert("rows", (0..500).map(point).collect()).await.expect("written");
    });
    let leader = leader_of(&runtime, &client);

    let asked = Arc::new(AtomicU64::new(0));
    let searching = runtime.spawn(search_for(Duration::from_secs(8), client.clone(), asked.clone()));
    wait_until(&asked, 200);
    cluster.kill(leader);
    // Changes go on too: the call waits for the next leader.
    let created = runtime.block_on(client.create_collection(NewCollection::new("more", 8, Metric::Dot)));
    assert!(created.is_ok(), "a collection is created while the leader is gone: {created:?}");
    assert_ne!(leader_of(&runtime, &client), leader, "another coordinator leads");
    cluster.launch(leader);
    cluster.wait_ready(leader);

    let failures = runtime.block_on(searching).expect("the searches ran");
    let asked = asked.load(Ordering::Relaxed);
    println!("{asked} searches, {} failed", failures.len());
    assert!(asked >= 700, "about 100 searches a second for 8 seconds, got {asked}");
    assert_eq!(failures, Vec::<String>::new());
    cluster.stop();
}

#[test]
fn a_restarted_node_serves_what_it_holds_while_no_coordinator_lives() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 1, routers: 1 });
    let endpoint = cluster.address(Role::Router(0));
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    let point = |row| Point { id: PointId::Number(row), vector: vector_of(row), payload: payload_of(row) };
    runtime.block_on(async {
        client.create_collection(NewCollection::new("rows", 8, Metric::Euclidean)).await.expect("created");
        client.upsert("rows", (0..100).map(point).collect()).await.expect("written");
    });
    cluster.kill(Role::Coordinator(0));
    cluster.kill(Role::Node(0));
    cluster.launch(Role::Node(0));
    cluster.wait_ready(Role::Node(0));
    runtime.block_on(async {
        assert_eq!(count(&client).await, 100, "what was written is there");
        client.upsert("rows", vec![point(100)]).await.expect("and writes go on");
        assert_eq!(count(&client).await, 101);
    });
}

fn leader_of(runtime: &Runtime, client: &Client) -> Role {
    let status = runtime.block_on(client.status()).expect("a status");
    let leader = status.coordinators.iter().find(|coordinator| coordinator.leader).expect("a leader");
    Role::Coordinator(u16::try_from(leader.id - 1).expect("three coordinators"))
}

fn wait_until(counter: &AtomicU64, at_least: u64) {
    while counter.load(Ordering::Relaxed) < at_least {
        std::thread::yield_now();
    }
}

/// Searches a hundred times a second for `long`, none waiting for another; returns the failures.
async fn search_for(long: Duration, client: Client, asked: Arc<AtomicU64>) -> Vec<String> {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut searches = JoinSet::new();
    let end = tokio::time::Instant::now() + long;
    while tokio::time::Instant::now() < end {
        pace.tick().await;
        let (client, row) = (client.clone(), asked.fetch_add(1, Ordering::Relaxed) % 500);
        searches.spawn(async move {
            let options = SearchOptions { k: 1, ..SearchOptions::default() };
            let answer = client.search("rows", &vector_of(row), &options).await.map_err(|e| e.to_string())?;
            match answer.hits.first() {
                Some(hit) if hit.score == 0.0 => Ok(()),
                other => Err(format!("row {row} is not its own nearest point: {other:?}")),
            }
        });
    }
    let results: Vec<Result<(), String>> = searches.join_all().await;
    results.into_iter().filter_map(Result::err).collect()
}
