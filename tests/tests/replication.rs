//! Shards with three replicas, on real processes: nodes are killed, come back empty-handed or with what they had, and every
//! replica holds the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_client::{Client, Consistency, NewCollection, SearchOptions, Standing};
use shoal_model::{Filter, Metric, Payload, Point, PointId, Value};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::replica_service_client::ReplicaServiceClient;
use shoal_tests::{Cluster, Role, Shape, wait_for};
use tokio::runtime::Runtime;

/// How long replicas may take to come to the same position once nothing is written.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

fn point(row: u64) -> Point {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let vector = (0..8).map(|i| ((row * 37 + i * 11) % 101) as f32 - 50.0).collect();
    let payload = Payload::from([("row".to_owned(), Value::Integer(row.cast_signed()))]);
    Point { id: PointId::Number(row), vector, payload }
}

fn connect(runtime: &Runtime, cluster: &Cluster) -> Client {
    let endpoint = cluster.address(Role::Router(0));
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    client.with_timeout(Duration::from_secs(30))
}

async fn create(client: &Client, shards: u32) {
    let new = NewCollection { shards, replicas: 3, ..NewCollection::new("rows", 8, Metric::Euclidean) };
    client.create_collection(new).await.expect("three nodes");
}

/// The process of the node that leads a shard, as the coordinators have heard last.
async fn leader_of(client: &Client, shard: usize) -> Option<Role> {
    node_of(client, shard, |replica| replica.report.as_ref().is_some_and(|report| report.leader)).await
}

/// The process of the node with the first replica of a shard for which something holds.
async fn node_of(client: &Client, shard: usize, holds: impl Fn(&shoal_client::Replica) -> bool) -> Option<Role> {
    let collection = client.describe_collection("rows").await.expect("it is there");
    let node = collection.shards[shard].replicas.iter().find(|replica| holds(replica))?.node_id;
    let status = client.status().await.expect("a status");
    let name = status.nodes.into_iter().find(|known| known.id == node)?.name;
    let number: u16 = name.strip_prefix("node-")?.parse().ok()?;
    Some(Role::Node(number - 1))
}

/// Digests of one shard's replicas by position and node.
type Digests = BTreeMap<u64, BTreeMap<u64, Vec<u8>>>;

async fn digests(client: &Client, shard: u64, nodes: &BTreeSet<u64>) -> Digests {
    let status = client.status().await.expect("a status");
    let mut all = Digests::new();
    for node in status.nodes.iter().filter(|node| nodes.contains(&node.id)) {
        let Ok(mut replica) = ReplicaServiceClient::connect(node.address.clone()).await else { continue };
        let Ok(answer) = replica.get_digests(wire::GetDigestsRequest { shard_id: shard }).await else { continue };
        for digest in answer.into_inner().digests {
            all.entry(digest.applied_index).or_default().insert(node.id, digest.digest.to_vec());
        }
    }
    all
}

/// Waits until all replicas of all shards are at the same position, and checks that they hold the same there and, as far as
/// they remember, at every position before.
async fn check_same(client: &Client) {
    let deadline = Instant::now() + SETTLES_WITHIN;
    let collection = client.describe_collection("rows").await.expect("it is there");
    for shard in &collection.shards {
        let nodes: BTreeSet<u64> = shard.replicas.iter().map(|replica| replica.node_id).collect();
        let mut compared = 0;
        loop {
            let all = digests(client, shard.id, &nodes).await;
            for (index, by_node) in &all {
                let distinct: BTreeSet<&Vec<u8>> = by_node.values().collect();
                assert!(distinct.len() <= 1, "shard {} differs at position {index}: {by_node:?}", shard.id);
                compared += by_node.len();
            }
            if all.last_key_value().is_some_and(|(_, newest)| newest.len() == nodes.len()) {
                break;
            }
            assert!(Instant::now() < deadline, "shard {}: replicas do not come to one position", shard.id);
            tokio::time::sleep(Duration::from_millis(100)).await; // polling for an end; nothing is synchronised by it
        }
        assert!(compared >= nodes.len(), "something was compared");
    }
}

async fn count(client: &Client) -> u64 {
    client.count("rows", &Filter::default(), &Consistency::Linearizable).await.expect("counted")
}

#[test]
fn writes_and_reads_go_on_when_leaders_are_killed() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 3, routers: 1 });
    let client = connect(&runtime, &cluster);
    runtime.block_on(async {
        create(&client, 2).await;
        client.upsert("rows", (0..100).map(point).collect()).await.expect("written");
    });
    let (stop, written, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(100)), Arc::default());
    let writer = runtime.spawn(write_on(client.clone(), stop.clone(), written.clone()));
    let reader = runtime.spawn(read_on(client.clone(), stop.clone(), Arc::clone(&reads)));
    let mut outages = Vec::new();
    for round in 0..4 {
        let leader = wait_for(|| runtime.block_on(leader_of(&client, round % 2)));
        cluster.kill(leader);
        let (killed, before) = (Instant::now(), written.load(Ordering::Relaxed));
        // The one that was under way may have been acknowledged; two more prove that another leads.
        wait_for(|| (written.load(Ordering::Relaxed) >= before + 3).then_some(()));
        outages.push(killed.elapsed());
        cluster.launch(leader);
        cluster.wait_ready(leader);
        let before = written.load(Ordering::Relaxed);
        wait_for(|| (written.load(Ordering::Relaxed) >= before + 20).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(writer).expect("every write was acknowledged");
    let failed: Vec<String> = runtime.block_on(reader).expect("the reader ran");
    println!("writes were back after {outages:?}; {} reads, failed: {failed:?}", reads.load(Ordering::Relaxed));
    assert_eq!(failed, Vec::<String>::new(), "reads do not notice");
    assert!(outages.iter().all(|outage| *outage < Duration::from_secs(6)), "{outages:?}");
    runtime.block_on(async {
        assert_eq!(count(&client).await, written.load(Ordering::Relaxed), "every acknowledged row is there");
        check_same(&client).await;
    });
    cluster.stop();
}

#[test]
fn a_leader_that_is_emptied_and_comes_back_to_its_address_holds_nobody_up() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 3, nodes: 3, routers: 1 });
    let client = connect(&runtime, &cluster);
    // Each write and read goes to the leaders, so that the router knows them.
    runtime.block_on(async {
        create(&client, 3).await;
        upsert(&client, 0..300).await;
        assert_eq!(count(&client).await, 300);
    });
    let leader = wait_for(|| runtime.block_on(leader_of(&client, 0)));
    cluster.kill(leader);
    std::fs::remove_dir_all(cluster.data(leader)).expect("nobody uses it any more");
    cluster.launch(leader);
    cluster.wait_ready(leader);
    check_served_soon(&runtime, &client, 300);
    assert_eq!(runtime.block_on(client.status()).expect("a status").nodes.len(), 4, "an emptied folder is a new node");
    cluster.stop();
}

#[test]
fn nodes_that_exchange_their_addresses_are_found_again() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 3, nodes: 3, routers: 1 });
    let client = connect(&runtime, &cluster);
    runtime.block_on(async {
        create(&client, 3).await;
        upsert(&client, 0..300).await;
    });
    let pair = [Role::Node(0), Role::Node(1)];
    pair.into_iter().for_each(|node| cluster.kill(node));
    let [first, second] = pair.map(|node| cluster.folder().join(format!("{}.toml", node.name())));
    exchange_first_lines(&first, &second);
    pair.into_iter().for_each(|node| cluster.launch(node));
    pair.into_iter().for_each(|node| cluster.wait_ready(node));
    check_served_soon(&runtime, &client, 300);
    runtime.block_on(check_same(&client));
    cluster.stop();
}

/// The first line of a node's file says where it listens.
fn exchange_first_lines(a: &std::path::Path, b: &std::path::Path) {
    let parts = [a, b].map(|path| {
        let text = std::fs::read_to_string(path).expect("the file is there");
        let (first, rest) = text.split_once('\n').expect("lines");
        assert!(first.starts_with("listen = "), "{first}");
        (first.to_owned(), rest.to_owned())
    });
    let [(first_a, rest_a), (first_b, rest_b)] = parts;
    std::fs::write(a, format!("{first_b}\n{rest_a}")).expect("written");
    std::fs::write(b, format!("{first_a}\n{rest_b}")).expect("written");
}

/// Checks that writes and linearizable reads of all shards are served once new leaders are there, and from then on, though no
/// process is started again. `rows` are there before.
fn check_served_soon(runtime: &Runtime, client: &Client, rows: u64) {
    let began = Instant::now();
    for round in 0..20 {
        let first = rows + round * 30;
        runtime.block_on(upsert(client, first..first + 30));
        assert_eq!(runtime.block_on(count(client)), first + 30);
        assert!(began.elapsed() < Duration::from_secs(15), "round {round}, after {:?}", began.elapsed());
    }
    println!("20 rounds of writes and reads took {:?}", began.elapsed());
}

#[test]
fn each_node_leads_a_shard_and_has_its_lead_back_once_it_is_back() {
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 3, routers: 1 });
    let runtime = Runtime::new().expect("a runtime");
    let client = connect(&runtime, &cluster);
    runtime.block_on(create(&client, 3));
    let nodes = [0, 1, 2].map(Role::Node);
    let leaders = || -> Option<Vec<Role>> { (0..3).map(|shard| runtime.block_on(leader_of(&client, shard))).collect() };
    // Elections may lead to any; then the first of each shard gets the lead.
    let firsts = (0..3).map(|shard| runtime.block_on(node_of(&client, shard, |_| true)).expect("it has replicas"));
    let spread: Vec<Role> = firsts.collect();
    assert!(nodes.iter().all(|node| spread.contains(node)), "each node is the first of one: {spread:?}");
    let is_spread = || leaders().filter(|leaders| *leaders == spread);
    wait_for(is_spread);
    let away = Role::Node(0);
    cluster.kill(away);
    wait_for(|| leaders().filter(|leaders| !leaders.contains(&away)));
    cluster.launch(away);
    cluster.wait_ready(away);
    wait_for(is_spread);
    cluster.stop();
}

async fn write_on(client: Client, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let row = written.load(Ordering::Relaxed);
        client.upsert("rows", vec![point(row)]).await.expect("acknowledged within its patience");
        written.fetch_add(1, Ordering::Relaxed);
    }
}

async fn read_on(client: Client, stop: Arc<AtomicBool>, reads: Arc<AtomicU64>) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let row = reads.fetch_add(1, Ordering::Relaxed) % 100;
        let options = SearchOptions { k: 1, ..SearchOptions::default() };
        match client.search("rows", &point(row).vector, &options).await {
            Ok(answer) if answer.hits.first().is_some_and(|hit| hit.score == 0.0) => {}
            Ok(answer) => failed.push(format!("row {row}: {:?}", answer.hits)),
            Err(error) => failed.push(format!("row {row}: {error}")),
        }
    }
    failed
}

#[test]
fn a_replica_that_was_away_for_long_catches_up_and_followers_fetch_what_leaders_build() {
    let runtime = Runtime::new().expect("a runtime");
    let settings = "delta_points_max = 2000\nquiet_after_ms = 300\n";
    let mut cluster = Cluster::start_configured(Shape { coordinators: 1, nodes: 3, routers: 1 }, &[], settings);
    let client = connect(&runtime, &cluster);
    runtime.block_on(async {
        create(&client, 1).await;
        upsert(&client, 0..4_000).await;
    });
    cluster.kill(Role::Node(2));
    // More entries than are kept for a follower that is silent, so that it needs a snapshot.
    runtime.block_on(upsert(&client, 4_000..60_000));
    cluster.launch(Role::Node(2));
    cluster.wait_ready(Role::Node(2));
    wait_for(|| runtime.block_on(built_everywhere(&client)));
    runtime.block_on(async {
        check_same(&client).await;
        assert_eq!(count(&client).await, 60_000);
    });
    assert!(metric(&cluster, Role::Node(2), "shoal_node_restored_replicas_total") > 0.0, "it was given a snapshot");
    let builders = [0, 1, 2]
        .map(Role::Node)
        .into_iter()
        .filter(|node| metric(&cluster, *node, "shoal_node_index_jobs_total{kind=\"build\",result=\"done\"}") > 0.0);
    assert!(builders.count() < 3, "segments are built once and fetched");
    cluster.stop();
}

/// Writes rows ten at a time, eight batches at once.
async fn upsert(client: &Client, rows: std::ops::Range<u64>) {
    let mut writes = tokio::task::JoinSet::new();
    for first in rows.step_by(10) {
        let client = client.clone();
        while writes.len() >= 8 {
            writes.join_next().await.expect("some run").expect("written");
        }
        writes.spawn(async move {
            client.upsert("rows", (first..first + 10).map(point).collect()).await.expect("written");
        });
    }
    writes.join_all().await;
}

fn metric(cluster: &Cluster, role: Role, name: &str) -> f64 {
    let all = cluster.scrape(role);
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("{role:?} tells no {name}"))
}

#[test]
fn a_witness_keeps_a_shard_of_two_writing_when_one_is_lost() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 3, routers: 1 });
    let client = connect(&runtime, &cluster);
    runtime.block_on(async {
        let new =
            NewCollection { shards: 1, replicas: 2, witness: true, ..NewCollection::new("rows", 8, Metric::Euclidean) };
        let created = client.create_collection(new).await.expect("three nodes");
        assert_eq!(created.shards[0].replicas.iter().filter(|replica| replica.witness).count(), 1);
        upsert(&client, 0..1_000).await;
    });
    for round in 1..=2 {
        let leader = wait_for(|| runtime.block_on(leader_of(&client, 0)));
        cluster.kill(leader);
        runtime.block_on(upsert(&client, round * 1_000..(round + 1) * 1_000));
        assert_eq!(runtime.block_on(count(&client)), (round + 1) * 1_000);
        cluster.launch(leader);
        cluster.wait_ready(leader);
    }
    let (full, witness) = runtime.block_on(async {
        let collection = client.describe_collection("rows").await.expect("it is there");
        collection.shards[0].replicas.iter().map(|r| r.node_id).partition::<BTreeSet<u64>, _>(|node| {
            collection.shards[0].replicas.iter().any(|replica| replica.node_id == *node && !replica.witness)
        })
    });
    assert_eq!((full.len(), witness.len()), (2, 1));
    cluster.stop();
}

#[test]
fn a_node_whose_store_is_damaged_is_made_anew_from_the_others() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 3, routers: 1 });
    let client = connect(&runtime, &cluster);
    runtime.block_on(async {
        create(&client, 2).await;
        upsert(&client, 0..2_000).await;
    });
    let (hurt, id) = (Role::Node(1), runtime.block_on(node_id(&client, "node-2")));
    cluster.kill(hurt);
    flip_a_byte_of_each(&cluster.data(hurt), "log");
    cluster.launch(hurt);
    cluster.wait_ready(hurt);
    runtime.block_on(upsert(&client, 2_000..3_000));
    wait_for(|| (runtime.block_on(node_id(&client, "node-2")) != id).then_some(()));
    wait_for(|| runtime.block_on(all_live(&client)));
    runtime.block_on(async {
        assert_eq!(count(&client).await, 3_000);
        check_same(&client).await;
    });
    assert!(cluster.data(hurt).join("damaged").is_dir(), "what was damaged is kept");
    // The one that was made anew counts: another may go.
    cluster.kill(Role::Node(2));
    runtime.block_on(async {
        upsert(&client, 3_000..3_100).await;
        assert_eq!(count(&client).await, 3_100);
    });
    cluster.stop();
}

/// Flips a bit in the middle of every file of a store that ends so.
fn flip_a_byte_of_each(folder: &std::path::Path, extension: &str) {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut flipped = 0;
    for file in files.filter(|path| path.extension().is_some_and(|found| found == extension)) {
        let mut bytes = std::fs::read(&file).expect("read");
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x40;
            flipped += 1;
            std::fs::write(&file, bytes).expect("written");
        }
    }
    assert!(flipped > 0, "no .{extension} file in {}", folder.display());
}

async fn node_id(client: &Client, name: &str) -> u64 {
    let status = client.status().await.expect("a status");
    status.nodes.iter().find(|node| node.name == name).expect("it is known").id
}

/// Whether all replicas are members of their groups on nodes that tell of them.
async fn all_live(client: &Client) -> Option<()> {
    let collection = client.describe_collection("rows").await.expect("it is there");
    let mut replicas = collection.shards.iter().flat_map(|shard| &shard.replicas);
    replicas.all(|replica| replica.standing == Standing::Member && replica.report.is_some()).then_some(())
}

/// Whether all replicas have their points in segments that are all there.
async fn built_everywhere(client: &Client) -> Option<()> {
    let collection = client.describe_collection("rows").await.expect("it is there");
    let reports: Vec<_> =
        collection.shards.iter().flat_map(|shard| &shard.replicas).map(|r| r.report.as_ref()).collect();
    let built = |report: &Option<&shoal_client::ReplicaReport>| {
        report.is_some_and(|report| {
            report.points == 60_000 && report.waiting_points == 0 && report.segments > 0 && report.missing_segments == 0
        })
    };
    reports.iter().all(built).then_some(())
}
