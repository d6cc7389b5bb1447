//! Replicas of a shard on real processes, one of which was killed, and one made anew from the others: at one position they
//! answer approximate searches alike, byte for byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_client::{Client, NewCollection, Shard, Standing};
use shoal_model::{Metric, Payload, Point, PointId};
use shoal_proto::convert;
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_client::ShardServiceClient;
use shoal_tests::{Cluster, Role, Shape};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const WITHIN: Duration = Duration::from_secs(90);

/// Components of a vector: so many that points are about equally far, and codes miss some of the nearest.
const DIM: usize = 64;

/// One segment, and a delta of the rest: it is not sealed for being left alone.
const SETTINGS: &str = "delta_points_max = 4000\nquiet_after_ms = 600000\n";

/// Points of the segment, and behind it.
const BUILT: u64 = 4_000;
const FRESH: u64 = 3_000;

const QUERIES: usize = 60;

fn vector(rng: &mut StdRng) -> Vec<f32> {
    (0..DIM).map(|_| rng.random_range(-1.0..1.2)).collect()
}

fn points(rng: &mut StdRng, rows: impl Iterator<Item = u64>) -> Vec<Point> {
    rows.map(|row| Point { id: PointId::Number(row), vector: vector(rng), payload: Payload::new() }).collect()
}

/// Writes so many at a time, several batches at once.
async fn upsert(client: &Client, points: Vec<Point>) {
    let mut writes = JoinSet::new();
    for batch in points.chunks(100) {
        let (client, batch) = (client.clone(), batch.to_vec());
        writes.spawn(async move { client.upsert("rows", batch).await.map(drop).expect("written") });
    }
    writes.join_all().await;
}

/// A segment; then new points, of which some replace those of the segment and some each other, and some are removed.
async fn fill(client: &Client, rng: &mut StdRng) {
    upsert(client, points(rng, 0..BUILT)).await;
    wait_for(async || built(&shard(client).await)).await;
    upsert(client, points(rng, BUILT..BUILT + FRESH)).await;
    upsert(client, points(rng, (0..BUILT + FRESH).step_by(7))).await;
    upsert(client, points(rng, (BUILT..BUILT + FRESH).step_by(2))).await;
    let removed: Vec<PointId> = (0..BUILT + FRESH).step_by(11).map(PointId::Number).collect();
    client.delete("rows", &removed).await.expect("removed");
}

async fn shard(client: &Client) -> Shard {
    client.describe_collection("rows").await.expect("it is there").shards.remove(0)
}

/// Whether all three replicas are members, have a segment that is there, and nothing that waits to become one.
fn built(shard: &Shard) -> Option<()> {
    let reports = shard.replicas.iter().filter(|replica| replica.standing == Standing::Member);
    let built = reports.filter_map(|replica| replica.report.as_ref()).filter(|report| {
        report.segments == 1 && report.waiting_points == 0 && report.missing_segments == 0 && report.jobs.is_empty()
    });
    (built.count() == 3 && shard.replicas.len() == 3).then_some(())
}

async fn wait_for(mut ask: impl AsyncFnMut() -> Option<()>) {
    let deadline = Instant::now() + WITHIN;
    while ask().await.is_none() {
        assert!(Instant::now() < deadline, "what is waited for does not come");
        tokio::time::sleep(Duration::from_millis(50)).await; // polling for an end; nothing is synchronised by it
    }
}

/// What is asked of each replica. Some want as many as lie within a limit.
fn searches(rng: &mut StdRng) -> Vec<wire::SearchRequest> {
    let search = |number| {
        let (recall_target, ef_search) =
            [(None, None), (Some(0.9), None), (Some(0.9995), None), (None, Some(300))][number % 4];
        wire::SearchRequest {
            vector: Some(convert::vector_to_wire(&vector(rng))),
            k: [10, 100, 300][number % 3],
            score_limit: (number % 5 == 0).then_some(6.2),
            with_vectors: true,
            recall_target,
            ef_search,
            ..wire::SearchRequest::default()
        }
    };
    (0..QUERIES).map(search).collect()
}

/// Answers of one replica, and the position at which it gave all of them; `None` if it was not at one.
async fn answers(
    address: &str,
    shard: &Shard,
    searches: &[wire::SearchRequest],
) -> Option<(u64, Vec<Vec<wire::NodeHit>>)> {
    let mut node = ShardServiceClient::connect(address.to_owned()).await.ok()?;
    let (mut position, mut all) = (None, Vec::new());
    for search in searches {
        let target = wire::ShardTarget { shard_id: shard.id, epoch: shard.epoch, ..wire::ShardTarget::default() };
        let request = wire::SearchRequest { targets: vec![target], ..search.clone() };
        let answer = node.search(request).await.ok()?.into_inner();
        let applied = answer.answered.first()?.applied_index;
        if *position.get_or_insert(applied) != applied {
            return None;
        }
        all.push(answer.hits);
    }
    Some((position?, all))
}

/// Asks all replicas, until all are at one position, and compares; tells what they answered.
async fn check_same(client: &Client, searches: &[wire::SearchRequest]) -> Vec<Vec<wire::NodeHit>> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let shard = shard(client).await;
        let status = client.status().await.expect("a status");
        let mut by_node = BTreeMap::new();
        for node in status.nodes.iter().filter(|node| shard.replicas.iter().any(|replica| replica.node_id == node.id)) {
            by_node.extend(answers(&node.address, &shard, searches).await.map(|answers| (node.id, answers)));
        }
        let mut positions = by_node.values().map(|(position, _)| position);
        let first = positions.next();
        if by_node.len() == 3 && positions.all(|position| Some(position) == first) {
            let mut lists = by_node.into_iter().map(|(node, (_, hits))| (node, hits));
            let (first, want) = lists.next().expect("three");
            for (node, got) in lists {
                for (number, (want, got)) in want.iter().zip(&got).enumerate() {
                    assert!(want == got, "query {number}: node {first} found {want:?}, node {node} {got:?}");
                }
            }
            return want;
        }
        assert!(Instant::now() < deadline, "replicas do not come to one position");
        tokio::time::sleep(Duration::from_millis(100)).await; // polling for an end; nothing is synchronised by it
    }
}

/// Flips a bit in the middle of every file of a node's log, for which its store is not taken up again.
fn damage(folder: &Path) {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    for file in files.filter(|path| path.extension().is_some_and(|found| found == "log")) {
        let mut bytes = std::fs::read(&file).expect("read");
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x40;
            std::fs::write(&file, bytes).expect("written");
        }
    }
}

async fn id_of(client: &Client, name: &str) -> u64 {
    let status = client.status().await.expect("a status");
    status.nodes.iter().find(|node| node.name == name).expect("it is known").id
}

#[test]
fn replicas_at_one_position_answer_approximate_searches_alike() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start_configured(Shape { coordinators: 1, nodes: 3, routers: 1 }, &[], SETTINGS);
    let endpoint = cluster.address(Role::Router(0));
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    let client = client.with_timeout(Duration::from_secs(30));
    let mut rng = StdRng::seed_from_u64(17);
    let searches = searches(&mut rng);
    runtime.block_on(async {
        let new = NewCollection { shards: 1, replicas: 3, ..NewCollection::new("rows", DIM as u32, Metric::Euclidean) };
        client.create_collection(new).await.expect("three nodes");
        fill(&client, &mut rng).await;
    });
    let before = runtime.block_on(check_same(&client, &searches));

    // Fills its delta from its store, in the order of ids.
    cluster.kill(Role::Node(2));
    cluster.launch(Role::Node(2));
    cluster.wait_ready(Role::Node(2));
    assert!(runtime.block_on(check_same(&client, &searches)) == before, "and as before");

    // Fetches all from another.
    let (hurt, lost) = (Role::Node(1), runtime.block_on(id_of(&client, "node-2")));
    cluster.kill(hurt);
    damage(&cluster.data(hurt));
    cluster.launch(hurt);
    cluster.wait_ready(hurt);
    runtime.block_on(async {
        wait_for(async || (id_of(&client, "node-2").await != lost).then_some(())).await;
        wait_for(async || built(&shard(&client).await)).await;
        assert!(check_same(&client, &searches).await == before, "and as before");
        // What is written from now on lies behind all else on two, and in between on none.
        upsert(&client, points(&mut rng, (0..BUILT + FRESH).step_by(23))).await;
        check_same(&client, &searches).await;
    });
    cluster.stop();
}
