//! Coordinators that lose their disks: they come back as other members, and nothing that was agreed on is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_client::{Client, ClusterStatus, CoordinatorStanding, NewCollection};
use shoal_model::Metric;
use shoal_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use shoal_proto::internal::v1::{PingRequest, PingResponse};
use shoal_proto::v1;
use shoal_tests::{Cluster, Role, Shape};
use tokio::runtime::Runtime;

/// How long anything may take that coordinators do by themselves.
const WITHIN: Duration = Duration::from_secs(60);
/// How long it is watched that something does not happen: many elections.
const NEVER_WITHIN: Duration = Duration::from_secs(8);

const ALL: [Role; 3] = [Role::Coordinator(0), Role::Coordinator(1), Role::Coordinator(2)];

fn start() -> (Runtime, Cluster, Client) {
    let runtime = Runtime::new().expect("a runtime");
    let cluster = Cluster::start(Shape { coordinators: 3, nodes: 1, routers: 1 });
    let endpoint = cluster.address(Role::Router(0));
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    (runtime, cluster, client.with_timeout(Duration::from_secs(30)))
}

fn create(runtime: &Runtime, client: &Client, name: &str) {
    let new = NewCollection::new(name, 8, Metric::Dot);
    runtime.block_on(client.create_collection(new)).unwrap_or_else(|error| panic!("{name} is created: {error}"));
}

fn names(runtime: &Runtime, client: &Client) -> BTreeSet<String> {
    let all = runtime.block_on(client.list_collections()).expect("listed");
    all.into_iter().map(|collection| collection.name).collect()
}

/// Kills a coordinator and empties its folder.
fn wipe(cluster: &mut Cluster, role: Role) {
    cluster.kill(role);
    let folder = cluster.data(role);
    fs::remove_dir_all(&folder).expect("removed");
    fs::create_dir(&folder).expect("made");
}

/// Waits until a coordinator says so of itself.
fn wait_until(runtime: &Runtime, cluster: &Cluster, role: Role, what: &str, is: impl Fn(&PingResponse) -> bool) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let pong = runtime.block_on(ping(cluster, role));
        if pong.as_ref().is_some_and(&is) {
            return;
        }
        assert!(Instant::now() < deadline, "{role:?} is not {what}: {pong:?}");
        std::thread::sleep(Duration::from_millis(50)); // polling for an end; nothing is synchronised by it
    }
}

async fn ping(cluster: &Cluster, role: Role) -> Option<PingResponse> {
    let mut coordinator = CoordinatorServiceClient::connect(cluster.address(role)).await.ok()?;
    let answer = tokio::time::timeout(Duration::from_secs(1), coordinator.ping(PingRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner())
}

fn is_member(pong: &PingResponse) -> bool {
    pong.standing() == v1::CoordinatorStanding::Member
}

fn wait_for_members(runtime: &Runtime, cluster: &Cluster, roles: &[Role]) {
    for role in roles {
        wait_until(runtime, cluster, *role, "a member", is_member);
    }
}

/// Watches that nobody of these comes to lead.
fn nobody_leads(runtime: &Runtime, cluster: &Cluster, roles: &[Role]) {
    let until = Instant::now() + NEVER_WITHIN;
    while Instant::now() < until {
        for role in roles {
            let pong = runtime.block_on(ping(cluster, *role));
            assert!(!pong.is_some_and(|pong| pong.leader), "{role:?} leads without what was agreed on");
        }
        std::thread::sleep(Duration::from_millis(50)); // watching for what must not come
    }
}

fn leader(runtime: &Runtime, cluster: &Cluster) -> Role {
    let deadline = Instant::now() + WITHIN;
    loop {
        let leads = |role: &&Role| runtime.block_on(ping(cluster, **role)).is_some_and(|pong| pong.leader);
        if let Some(leader) = ALL.iter().find(leads) {
            return *leader;
        }
        assert!(Instant::now() < deadline, "nobody leads");
    }
}

fn status(runtime: &Runtime, client: &Client) -> ClusterStatus {
    runtime.block_on(client.status()).expect("a status")
}

#[test]
fn an_emptied_coordinator_joins_as_another_and_counts_again() {
    let (runtime, mut cluster, client) = start();
    let mut want = BTreeSet::new();
    // Each in turn, the one that leads included, and one of them twice.
    for (round, role) in [ALL[0], ALL[1], ALL[2], ALL[1]].into_iter().enumerate() {
        wait_for_members(&runtime, &cluster, &ALL);
        let before = format!("before-{round}");
        create(&runtime, &client, &before);
        wipe(&mut cluster, role);
        let during = format!("during-{round}");
        create(&runtime, &client, &during);
        cluster.launch(role);
        cluster.wait_ready(role);
        wait_for_members(&runtime, &cluster, &ALL);
        want.extend([before, during]);
        assert_eq!(names(&runtime, &client), want);
    }
    let seen = status(&runtime, &client);
    assert!(
        seen.coordinators.iter().all(|coordinator| coordinator.standing == CoordinatorStanding::Member),
        "{seen:?}"
    );

    // It counts: with it, another may go, and changes go on.
    cluster.kill(ALL[0]);
    create(&runtime, &client, "with-two");
    want.insert("with-two".to_owned());
    assert_eq!(names(&runtime, &client), want);
    cluster.launch(ALL[0]);
    cluster.wait_ready(ALL[0]);
    wait_for_members(&runtime, &cluster, &ALL);
    cluster.stop();
}

#[test]
fn a_change_is_not_lost_with_the_disk_of_one_that_agreed_to_it() {
    let (runtime, mut cluster, client) = start();
    create(&runtime, &client, "first");
    wait_for_members(&runtime, &cluster, &ALL);
    let [lags, stays, wiped] = match leader(&runtime, &cluster) {
        Role::Coordinator(0) => [ALL[1], ALL[0], ALL[2]],
        _ => [ALL[0], ALL[1], ALL[2]],
    };
    cluster.kill(lags);
    create(&runtime, &client, "second");
    cluster.kill(stays);
    wipe(&mut cluster, wiped);
    cluster.launch(lags);
    cluster.launch(wiped);
    let joins = |pong: &PingResponse| pong.standing() == v1::CoordinatorStanding::Joining;
    wait_until(&runtime, &cluster, wiped, "joining", joins);
    nobody_leads(&runtime, &cluster, &[lags, wiped]);
    let said = runtime.block_on(ping(&cluster, wiped)).expect("it answers").waits_for;
    assert!(said.contains("most of those that have a vote must run"), "{said}");

    cluster.launch(stays);
    wait_for_members(&runtime, &cluster, &ALL);
    create(&runtime, &client, "third");
    let want = ["first", "second", "third"].map(str::to_owned);
    assert_eq!(names(&runtime, &client), want.into());
    cluster.stop();
}

#[test]
fn two_emptied_coordinators_of_three_begin_no_cluster_of_their_own() {
    let (runtime, mut cluster, client) = start();
    create(&runtime, &client, "first");
    let saved = cluster.folder().join("saved");
    cluster.kill(ALL[2]);
    fs::rename(cluster.data(ALL[2]), &saved).expect("moved");
    fs::create_dir(cluster.data(ALL[2])).expect("made");
    wipe(&mut cluster, ALL[1]);
    cluster.kill(ALL[0]);

    // Nobody is there who knows, so nobody may say that there is no cluster.
    cluster.launch(ALL[1]);
    cluster.launch(ALL[2]);
    let asks = |pong: &PingResponse| pong.standing() == v1::CoordinatorStanding::Asking && !pong.waits_for.is_empty();
    wait_until(&runtime, &cluster, ALL[1], "asking", asks);
    nobody_leads(&runtime, &cluster, &ALL[1..]);
    wait_until(&runtime, &cluster, ALL[1], "asking still", asks);
    // One that knows, and has no majority.
    cluster.launch(ALL[0]);
    let joins = |pong: &PingResponse| pong.standing() == v1::CoordinatorStanding::Joining;
    wait_until(&runtime, &cluster, ALL[2], "joining", joins);
    nobody_leads(&runtime, &cluster, &ALL);

    // With one store brought back there is a majority, which takes the third in.
    cluster.kill(ALL[2]);
    fs::remove_dir_all(cluster.data(ALL[2])).expect("removed");
    fs::rename(&saved, cluster.data(ALL[2])).expect("moved");
    cluster.launch(ALL[2]);
    wait_for_members(&runtime, &cluster, &ALL);
    create(&runtime, &client, "second");
    assert_eq!(names(&runtime, &client), ["first", "second"].map(str::to_owned).into());
    cluster.stop();
}

#[test]
fn a_store_that_was_given_up_is_not_taken_back() {
    let (runtime, mut cluster, client) = start();
    wait_for_members(&runtime, &cluster, &ALL);
    let saved = cluster.folder().join("saved");
    cluster.kill(ALL[2]);
    fs::rename(cluster.data(ALL[2]), &saved).expect("moved");
    fs::create_dir(cluster.data(ALL[2])).expect("made");
    cluster.launch(ALL[2]);
    wait_for_members(&runtime, &cluster, &ALL);
    create(&runtime, &client, "first");

    cluster.kill(ALL[2]);
    fs::remove_dir_all(cluster.data(ALL[2])).expect("removed");
    fs::rename(&saved, cluster.data(ALL[2])).expect("moved");
    cluster.launch(ALL[2]);
    let deadline = Instant::now() + WITHIN;
    while cluster.reap().is_empty() {
        assert!(Instant::now() < deadline, "it goes on with a store that others have given up");
        std::thread::sleep(Duration::from_millis(50)); // polling for an end; nothing is synchronised by it
    }
    create(&runtime, &client, "second");
    wipe(&mut cluster, ALL[2]);
    cluster.launch(ALL[2]);
    wait_for_members(&runtime, &cluster, &ALL);
    assert_eq!(names(&runtime, &client), ["first", "second"].map(str::to_owned).into());
    cluster.stop();
}

#[test]
fn a_coordinator_whose_store_is_damaged_is_made_anew_from_the_others() {
    let (runtime, mut cluster, client) = start();
    wait_for_members(&runtime, &cluster, &ALL);
    create(&runtime, &client, "first");
    cluster.kill(ALL[1]);
    flip_a_byte_of_each(&cluster.data(ALL[1]), "log");
    cluster.launch(ALL[1]);
    cluster.wait_ready(ALL[1]);
    wait_for_members(&runtime, &cluster, &ALL);
    assert!(cluster.data(ALL[1]).join("damaged").is_dir(), "what was damaged is kept");
    cluster.kill(ALL[0]);
    create(&runtime, &client, "second");
    assert_eq!(names(&runtime, &client), ["first", "second"].map(str::to_owned).into());
    cluster.stop();
}

#[test]
fn the_only_coordinators_damaged_store_is_kept() {
    let runtime = Runtime::new().expect("a runtime");
    let mut cluster = Cluster::start(Shape { coordinators: 1, nodes: 0, routers: 0 });
    // Its first term has begun, and the cluster has a name.
    wait_until(&runtime, &cluster, ALL[0], "a leader", |pong| pong.leader && pong.applied_index >= 3);
    cluster.kill(ALL[0]);
    flip_a_byte_of_each(&cluster.data(ALL[0]), "log");
    cluster.launch(ALL[0]);
    let deadline = Instant::now() + WITHIN;
    while cluster.reap().is_empty() {
        assert!(Instant::now() < deadline, "it serves what is damaged");
        std::thread::sleep(Duration::from_millis(50)); // polling for an end; nothing is synchronised by it
    }
    assert!(!cluster.data(ALL[0]).join("damaged").exists(), "nobody has what it held, so it stays");
}

#[test]
fn a_first_start_comes_about_in_any_order() {
    let (runtime, mut cluster, _) = start();
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        for role in ALL {
            wipe(&mut cluster, role);
        }
        for i in order {
            cluster.launch(ALL[i]);
            // The first two wait for the third, and say so.
            if i != order[2] {
                let asks = |pong: &PingResponse| !is_member(pong) && !pong.waits_for.is_empty();
                wait_until(&runtime, &cluster, ALL[i], "asking", asks);
            }
        }
        wait_for_members(&runtime, &cluster, &ALL);
        leader(&runtime, &cluster);
    }
    // Killed before anything was agreed on, and emptied.
    for role in ALL {
        wipe(&mut cluster, role);
    }
    ALL.into_iter().for_each(|role| cluster.launch(role));
    wipe(&mut cluster, ALL[1]);
    cluster.launch(ALL[1]);
    wait_for_members(&runtime, &cluster, &ALL);
    leader(&runtime, &cluster);
}

/// Flips a bit in the first record of every file of a store that ends so: one that was synced long ago.
fn flip_a_byte_of_each(folder: &Path, extension: &str) {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut flipped = 0;
    for file in files.filter(|path| path.extension().is_some_and(|found| found == extension)) {
        let mut bytes = fs::read(&file).expect("read");
        if let Some(byte) = bytes.get_mut(20) {
            *byte ^= 0x40;
            flipped += 1;
            fs::write(&file, bytes).expect("written");
        }
    }
    assert!(flipped > 0, "no .{extension} file in {}", folder.display());
}
